// The caller's streams, as the gateway lists them.

import { APIUserAbortError } from "./client.js";
import { $, button, count, element, number, say } from "./dom.js";

const BUSY = 3000, CALM = 20_000; // ms between two looks, while a stream is in progress and while none is
const PATIENCE = 8000;            // ms that a look may take

export class Streams {
  list = [];
  timer = 0;
  refused = null;  // why there is no newer list

  // open(object) reads a stream; current() is the id of the one that is on the page; heard() is called after each look.
  constructor({ client, connections, open, current, heard }) {
    Object.assign(this, { client, connections, open, current, heard });
    $("refresh").addEventListener("click", () => this.look());
    document.addEventListener("visibilitychange", () => document.hidden || this.look());
    setInterval(() => document.hidden || this.ages(), 1000);
  }

  // look asks for the list now, and again after a while. It takes no connection that a stream might wait for.
  async look() {
    clearTimeout(this.timer);
    this.timer = 0;
    if (!document.hidden && !this.connections.full) {
      try {
        const { data } = await this.client().request({ method: "GET", path: "/v1/streams?limit=50", signal: AbortSignal.timeout(PATIENCE) });
        this.list = data;
        this.refused = null;
      } catch (e) {
        this.refused = e;
        if (e.status === 401) this.list = [];
      }
      this.paint();
      this.heard();
    }
    if (this.refused?.status === 401) return; // until there is a key
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.look(), this.running.length ? BUSY : CALM);
  }

  get running() { return this.list.filter((s) => s.status === "in_progress" || s.status === "queued"); }

  // soon looks again after something has been done that changes the list.
  soon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.look(), 300);
  }

  paint() {
    const current = this.current();
    const focused = document.activeElement?.closest("tr")?.dataset.id, act = document.activeElement?.dataset.act;
    $("streams-rows").replaceChildren(...this.list.map((s) => this.row(s, s.id === current)));
    if (focused) $("streams-rows").querySelector(`tr[data-id="${CSS.escape(focused)}"] [data-act="${CSS.escape(act ?? "")}"]`)?.focus({ preventScroll: true });
    $("streams-table").hidden = !this.list.length;
    $("streams-empty").hidden = this.list.length > 0;
    $("streams-count").hidden = !this.running.length;
    say($("streams-count"), String(this.running.length));
    say($("streams-state"), this.words());
    this.ages();
  }

  words() {
    if (this.refused?.status === 401) return "The gateway asks for a key before it lists streams.";
    if (this.refused) return this.refused instanceof APIUserAbortError ? "The gateway doesn’t answer." : this.refused.message;
    return this.list.length ? `${count(this.list.length, "stream")}, ${number(this.running.length)} in progress` : "No streams.";
  }

  row(s, isCurrent) {
    const state = element("p", "badge", element("span", "", s.status.replace("_", " ")));
    state.dataset.state = s.status;
    if (s.error) state.title = `${s.error.type}: ${s.error.message}`;
    const live = s.status === "in_progress" || s.status === "queued";
    const act = (name, label, click) => {
      const b = button(name, "plain", click);
      b.dataset.act = name;
      b.setAttribute("aria-label", `${name} ${label}`);
      return b;
    };
    const id = element("td", "id", short(s.id));
    id.title = s.id;
    const age = element("td", "right age");
    age.dataset.since = s.created_at;
    const row = element("tr", isCurrent ? "current" : "",
      element("td", "", state), id, element("td", "model-name", s.model ?? "–"), age,
      element("td", "right", tokens(s)), element("td", "right optional", number(s.viewers)),
      element("td", "acts", act("Open", short(s.id), () => this.open(s)),
        live ? act("Cancel", short(s.id), () => this.act("POST", `/v1/streams/${s.id}/cancel`)) : act("Delete", short(s.id), () => this.act("DELETE", `/v1/streams/${s.id}`))));
    row.dataset.id = s.id;
    return row;
  }

  async act(method, path) {
    try {
      await this.client().request({ method, path });
      this.look();
    } catch (e) {
      say($("streams-state"), e.message);
    }
  }

  ages() {
    for (const cell of $("streams-rows").querySelectorAll(".age")) say(cell, age(Date.now() - Date.parse(cell.dataset.since)));
  }
}

// short is enough of an id to tell streams apart.
export const short = (id) => id.replace("strm_", "").slice(0, 8);

function tokens({ usage, usage_source: source }) {
  if (!usage) return "–";
  const about = source === "estimated" ? "≈ " : "";
  return `${number(usage.input_tokens ?? 0)} · ${about}${number(usage.output_tokens ?? 0)}`;
}

export function age(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  return s < 3600 ? `${Math.floor(s / 60)} min` : `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}
