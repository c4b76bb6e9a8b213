// Tables of what the gateway keeps: a row for each object, with what can be done with it.

import { button, element, say } from "./dom.js";

// row makes a table's row; its cells are made by cell, since, within and acts.
export function row(id, ...cells) {
  const r = element("tr", "", ...cells);
  r.dataset.id = id;
  return r;
}

export function cell(className, content, title) {
  const c = element("td", className, content ?? "");
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

// since is a cell that says how long something has gone on, or took until it ended.
export function since(className, from, to) {
  const c = cell(className);
  c.dataset.since = from;
  if (to) c.dataset.until = to;
  tick(c);
  return c;
}

// within is a cell that says how long there is until something happens.
export function within(className, at) {
  const c = cell(className, "", new Date(at).toLocaleString());
  c.dataset.at = at;
  tick(c);
  return c;
}

// ages brings the times below e up to date.
export function ages(e) {
  for (const c of e.querySelectorAll("[data-since], [data-at]")) tick(c);
}

const tick = (c) => say(c, c.dataset.at ? `in ${left(c.dataset.at)}` : lasted(c.dataset.since, c.dataset.until));

// fill makes rows the content of a table. A row that says the same as before stays, so that it can be pressed at any
// moment, and who was on a button stays on it.
export function fill(body, rows) {
  ages(body); // so that time alone is no difference
  const focused = body.contains(document.activeElement) ? document.activeElement : null;
  const id = focused?.closest("tr").dataset.id;
  const old = new Map([...body.children].map((r) => [r.dataset.id, r]));
  const next = rows.map((r) => {
    const was = old.get(r.dataset.id);
    old.delete(r.dataset.id);
    if (was?.isEqualNode(r)) return was;
    was?.replaceWith(r);
    return r;
  });
  for (const gone of old.values()) gone.remove();
  next.forEach((r, i) => body.children[i] === r || body.insertBefore(r, body.children[i] ?? null));
  body.closest("table").hidden = rows.length === 0;
  if (id && !focused.isConnected) body.querySelector(`tr[data-id="${CSS.escape(id)}"] [data-act="${CSS.escape(focused.dataset.act)}"]`)?.focus({ preventScroll: true });
}

// short is enough of an id to tell objects of a kind apart.
export const short = (id) => id.replace(/^(?:strm|msgbatch|cb)_/, "").slice(0, 8);

export function age(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  return s < 3600 ? `${Math.floor(s / 60)} min` : `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

// left is how long there is until then.
export const left = (at) => age(Date.parse(at) - Date.now());

// lasted is how long something has gone on, or took until it ended.
export const lasted = (from, to) => age((to ? Date.parse(to) : Date.now()) - Date.parse(from));
