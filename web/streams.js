// The caller's streams, as the gateway lists them.

import { APIUserAbortError } from "./client.js";
import { $, count, number, say } from "./dom.js";
import { act, acts, ages, cell, fill, row, short, since, state } from "./table.js";

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
    setInterval(() => document.hidden || ages($("streams-rows")), 1000);
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
    fill($("streams-rows"), this.list.map((s) => this.row(s, s.id === current)));
    $("streams-empty").hidden = this.list.length > 0;
    $("streams-count").hidden = !this.running.length;
    say($("streams-count"), String(this.running.length));
    say($("streams-state"), this.words());
  }

  words() {
    if (this.refused?.status === 401) return "The gateway asks for a key before it lists streams.";
    if (this.refused) return this.refused instanceof APIUserAbortError ? "The gateway doesn’t answer." : this.refused.message;
    return this.list.length ? `${count(this.list.length, "stream")}, ${number(this.running.length)} in progress` : "No streams.";
  }

  row(s, isCurrent) {
    const live = s.status === "in_progress" || s.status === "queued";
    const all = row(s.id,
      cell("", state(s.status, s.error && `${s.error.type}: ${s.error.message}`)), cell("id", short(s.id), s.id),
      cell("model-name", s.model ?? "–"), since("right", s.created_at), cell("right", tokens(s)), cell("right optional", number(s.viewers)),
      acts(act("Open", short(s.id), () => this.openNow(s.id)),
        live ? act("Cancel", short(s.id), () => this.act("POST", `/v1/streams/${s.id}/cancel`)) : act("Delete", short(s.id), () => this.act("DELETE", `/v1/streams/${s.id}`))));
    all.classList.toggle("current", isCurrent);
    return all;
  }

  // openNow opens what the newest list says: an older URL's ticket may be over.
  openNow(id) {
    this.open(this.list.find((s) => s.id === id));
  }

  async act(method, path) {
    try {
      await this.client().request({ method, path });
      this.look();
    } catch (e) {
      say($("streams-state"), e.message);
    }
  }
}

function tokens({ usage, usage_source: source }) {
  if (!usage) return "–";
  const about = source === "estimated" ? "≈ " : "";
  return `${number(usage.input_tokens ?? 0)} · ${about}${number(usage.output_tokens ?? 0)}`;
}
