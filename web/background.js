// Work without a browser: streams from the gateway's queue, Message Batches, and the callbacks that tell of their ends.

import { $, number, say } from "./dom.js";
import { Batches } from "./batches.js";
import { Callbacks } from "./callbacks.js";
import { Line } from "./connections.js";
import { VERSION } from "./events.js";
import { act, acts, ages, cell, fill, row, short, since, state } from "./table.js";

const BUSY = 2000, CALM = 15_000; // ms between two looks, while something is to come and while nothing is
const PATIENCE = 8000;            // ms that a look may take

// Background is the panel. It asks for nothing while nobody looks at it.
export class Background {
  timer = 0;
  refused = {}; // why what was done, or asked last, did not work

  // streams are the caller's; params(prompt) is a request of a batch.
  constructor({ client, clientOver, connections, streams, params }) {
    Object.assign(this, { client, connections, streams });
    this.callbacks = new Callbacks({ ask: this.ask });
    this.batches = new Batches({ ask: this.ask, client: () => clientOver(new Line(connections)), params, told: () => this.soon() });
    document.addEventListener("visibilitychange", () => this.look());
    setInterval(() => this.shown && this.ages(), 1000);
  }

  get shown() { return !$("panel-background").hidden && !document.hidden; }
  get mine() { return this.streams.list.filter((s) => s.background); }

  // ask is a request to the gateway. What it refuses is said in the panel, until the like of it works, and gives null.
  ask = async (method, path, body, headers) => {
    const kind = method === "GET" ? "looking" : "acting";
    try {
      const answer = await this.client().request({ method, path, body, headers: { ...VERSION, ...headers }, signal: AbortSignal.timeout(PATIENCE) });
      this.refused[kind] = "";
      return answer;
    } catch (e) {
      this.refused[kind] = e.status === 401 ? "The gateway asks for a key." : e.message;
      return null;
    } finally {
      say($("background-state"), Object.values(this.refused).filter(Boolean).join(" "));
    }
  };

  async look() {
    clearTimeout(this.timer);
    if (!this.shown) return;
    if (!this.connections.full) await Promise.all([this.batches.look(), this.callbacks.look()]);
    this.paint();
    clearTimeout(this.timer);
    const more = this.batches.unfinished || this.callbacks.pending || this.streams.running.length > 0;
    this.timer = setTimeout(() => this.look(), more ? BUSY : CALM);
  }

  soon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.look(), 300);
  }

  // heard: there is a new list of streams. One that has ended may have been told of meanwhile.
  heard() {
    const ends = this.mine.filter((s) => s.ended_at).length;
    if (ends !== this.ends) this.soon();
    this.ends = ends;
    this.paint();
  }

  paint() {
    fill($("background-rows"), this.mine.map((s) => this.row(s)));
    $("background-empty").hidden = this.mine.length > 0;
    const open = this.mine.filter((s) => !s.ended_at).length;
    $("background-count").hidden = !open;
    say($("background-count"), number(open));
  }

  row(s) {
    const live = !s.ended_at, name = `background stream ${short(s.id)}`;
    return row(s.id,
      cell("", state(s.status, s.error && `${s.error.type}: ${s.error.message}`)),
      cell("id", short(s.id), s.id),
      cell("right", number(s.attempt)),
      since("right", s.created_at, s.ended_at),
      cell("optional", s.callback?.status ?? "–", s.callback?.url),
      acts(act("Open", name, () => this.streams.openNow(s.id)),
        live && act("Cancel", name, () => this.streams.act("POST", `/v1/streams/${s.id}/cancel`))));
  }

  ages() {
    this.batches.tell();
    ages($("panel-background"));
  }
}
