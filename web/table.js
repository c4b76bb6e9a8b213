// Tables of what the gateway keeps: a row for each object, with what can be done with it.

import { button, element } from "./dom.js";

// row makes a table's row; its cells are made by cell, age and acts.
export function row(id, ...cells) {
  const r = element("tr", "", ...cells);
  r.dataset.id = id;
  return r;
}

export function cell(className, content, title) {
  const c = element("td", className, content);
  if (title) c.title = title;
  return c;
}

export const acts = (...buttons) => element("td", "acts", ...buttons);

// state is a status in its color; title says more about it.
export function state(status, title) {
  const s = element("p", "badge", element("span", "", status.replace("_", " ")));
  s.dataset.state = status;
  if (title) s.title = title;
  return s;
}

// act makes a button of a row. label says which one it belongs to.
export function act(name, label, click) {
  const b = button(name, "plain", click);
  b.dataset.act = name;
  b.setAttribute("aria-label", `${name} ${label}`);
  return b;
}

// fill puts rows in the place of those that are there. Who was on a button stays on it.
export function fill(body, rows) {
  const focused = body.contains(document.activeElement) ? document.activeElement : null;
  const id = focused?.closest("tr").dataset.id;
  body.replaceChildren(...rows);
  body.closest("table").hidden = rows.length === 0;
  if (id) body.querySelector(`tr[data-id="${CSS.escape(id)}"] [data-act="${CSS.escape(focused.dataset.act ?? "")}"]`)?.focus({ preventScroll: true });
}

// short is enough of an id to tell objects of a kind apart.
export const short = (id) => id.replace(/^(?:strm|msgbatch|cb)_/, "").slice(0, 8);

export function age(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  return s < 3600 ? `${Math.floor(s / 60)} min` : `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

// since is how long something has gone on, or took until it ended.
export const since = (from, to) => age((to ? Date.parse(to) : Date.now()) - Date.parse(from));
