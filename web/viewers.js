// Other readers of the stream that is on the page, side by side, each over a connection of its own.

import { $, button, count, element, enable, frames, number, say } from "./dom.js";
import { Line } from "./connections.js";
import { Record } from "./record.js";

const MOST = 6;        // as many as can be told apart
const AWAKE = 200;     // ms that a slow viewer reads, and
const ASLEEP = 2500;   // ms that it is away. Reading slowly would not do: a browser takes in megabytes ahead of a script
const TAIL = 400;      // characters of text on a card

export class Viewers {
  all = [];
  run = null;   // what they read with the page
  named = 0;

  // client(line) makes a client whose requests go over that line.
  constructor({ client, connections, timeline }) {
    Object.assign(this, { client, connections, timeline });
    this.draw = frames(() => this.paint());
    $("add-viewer").addEventListener("click", () => this.add(false));
    $("add-slow").addEventListener("click", () => this.add(true));
    $("remove-viewers").addEventListener("click", () => this.clear());
    setInterval(() => this.all.some((v) => !v.over) && this.draw(), 500);
    this.paint();
  }

  // watch makes all viewers read the stream of another run, once it has begun.
  watch(run) {
    this.run = run;
    for (const v of this.all) v.rest();
    this.draw();
  }

  // changed in the run: maybe its stream has begun.
  follow() {
    if (this.run?.stream) for (const v of this.all) if (!v.stream) v.read(this.run.stream.eventsUrl);
    this.draw();
  }

  add(slow) {
    if (this.all.length >= MOST) return;
    const tone = [1, 2, 3, 4, 5, 6].find((t) => !this.all.some((v) => v.tone === t));
    const viewer = new Viewer({ name: `${slow ? "Slow" : "Viewer"} ${++this.named}`, slow, tone, line: new Line(this.connections), client: this.client, changed: this.draw, remove: (v) => this.remove(v) });
    this.all.push(viewer);
    $("viewers").append(viewer.root);
    this.follow();
  }

  remove(viewer) {
    viewer.rest();
    viewer.root.remove();
    this.all = this.all.filter((v) => v !== viewer);
    if (!this.all.length) this.named = 0;
    $("add-viewer").focus({ preventScroll: true });
    this.draw();
  }

  clear() {
    for (const v of [...this.all]) this.remove(v);
  }

  paint() {
    const main = this.run?.message, waiting = this.connections.waiting > 0;
    for (const v of this.all) v.paint(main, this.run, waiting);
    $("viewers-empty").hidden = this.all.length > 0;
    $("viewers-count").hidden = !this.all.length;
    say($("viewers-count"), String(this.all.length));
    enable($("remove-viewers"), this.all.length > 0);
    enable($("add-viewer"), this.all.length < MOST);
    enable($("add-slow"), this.all.length < MOST);
    this.timeline.viewers = this.all.filter((v) => v.record);
    this.timeline.changed();
  }
}

class Viewer {
  stream = null;
  record = null;
  over = true;

  constructor(parts) {
    Object.assign(this, parts);
    this.title = element("h3", "", this.name);
    this.state = element("p", "badge", element("span", "", "ready"));
    this.remover = button("×", "plain", () => this.remove(this));
    this.remover.setAttribute("aria-label", `Remove ${this.name}`);
    this.tail = element("p", "tail");
    this.progress = element("progress");
    this.progress.max = 1;
    this.progress.setAttribute("aria-label", `${this.name}: how much of the text it has`);
    this.counts = element("p", "count");
    this.same = element("p", "same");
    this.root = element("article", `card tone-${this.tone}`, element("header", "", this.title, this.state, this.remover), this.tail, this.progress, this.counts, this.same);
    this.root.setAttribute("aria-label", this.name);
  }

  read(eventsUrl) {
    this.over = false;
    this.record = new Record();
    const { record } = this;
    this.stream = this.client(this.line).resume(eventsUrl);
    this.stream
      .on("connect", () => {
        record.back();
        if (this.slow) setTimeout(() => this.sleep(record), AWAKE);
        this.changed();
      })
      .on("sse", ({ event, id, data }) => {
        record.event({ name: event, id, data });
        this.changed();
      })
      .on("disconnect", () => {
        record.leave(false);
        this.changed();
      })
      .on("error", (e) => (this.error = e))
      .on("end", () => {
        if (record !== this.record) return;
        this.over = true;
        record.end();
        this.changed();
      });
  }

  sleep(record) {
    if (this.over || record !== this.record) return;
    record.leave(false);
    this.line.cut(ASLEEP);
  }

  // rest stops reading; another stream can be read then.
  rest() {
    this.stream?.abort();
    this.line.until = 0;
    Object.assign(this, { stream: null, record: null, over: true, error: null });
  }

  get label() {
    if (!this.record) return "ready";
    if (this.over) return this.error && this.error.type !== "canceled_error" ? "failed" : this.error ? "canceled" : "completed";
    if (this.record.away) return "away";
    return this.record.entries.length ? "reading" : "connecting";
  }

  paint(main, run, waiting) {
    const label = waiting && this.label === "connecting" ? "waiting" : this.label;
    this.state.dataset.state = label;
    say(this.state.firstElementChild, label);
    const ours = textOf(this.stream?.currentMessage), theirs = textOf(main);
    say(this.tail, ours.slice(-TAIL));
    this.progress.value = theirs.length ? Math.min(1, ours.length / theirs.length) : 0;
    const r = this.record;
    say(this.counts, r ? `${r.highest > r.events ? `${number(r.events)} for ${number(r.highest)} events` : count(r.events, "event")}${r.aways.length ? `, ${number(r.aways.length)}× away` : ""}` : "");
    this.compare(ours, theirs, run);
  }

  compare(ours, theirs, run) {
    const settled = this.over && this.record && run?.over;
    const equal = ours === theirs;
    this.same.className = `same ${settled ? (equal ? "good" : "bad") : ""}`;
    if (this.state.dataset.state === "waiting") say(this.same, "Waits for a connection");
    else if (!this.record) say(this.same, "Reads along with the next stream");
    else if (settled) say(this.same, equal ? `Same text: ${count(ours.length, "character")}` : "Not the same text");
    else if (theirs.startsWith(ours)) say(this.same, ours.length < theirs.length ? `${count(theirs.length - ours.length, "character")} behind` : "level with this page");
    else say(this.same, ours.startsWith(theirs) ? "ahead of this page" : "Not the same text");
  }
}

function textOf(message) {
  return (message?.content ?? []).map((block) => block?.text ?? block?.thinking ?? (block?.input === undefined ? "" : JSON.stringify(block.input))).join("");
}
