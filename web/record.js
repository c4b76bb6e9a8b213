// What came over one connection after another while a stream was read, and what it amounts to. Nothing here touches the
// page.

import { byteLength, count, cut, duration, number } from "./dom.js";

const KEPT = 20_000;     // entries; the oldest go first
const DATA = 64 * 1024;  // characters of one event's data that are kept
const PREVIEW = 300;     // of them in a row

const MERGED = new Set(["text_delta", "thinking_delta", "input_json_delta"]);
const KINDS = new Map([["text_delta", "text"], ["thinking_delta", "thinking"], ["signature_delta", "thinking"], ["input_json_delta", "tool"]]);

// Record keeps every event and what happened to the connection, in order, with the time since it began.
export class Record {
  started = performance.now();
  entries = [];
  forgotten = 0;      // entries that are no longer kept
  ended = 0;          // when; 0: not yet
  last = { attempt: "", n: 0 };
  highest = 0;        // position in the log; what is drawn upwards
  aways = [];         // times without a connection: {from, to, n, byHand}; to is 0 while it lasts
  events = 0;         // numbered ones
  pings = 0;
  merged = 0;         // events that came inside of others
  bytes = 0;
  first = 0;          // when the first numbered event came
  gaps = [];          // between numbered events on one connection, in ms
  before = 0;         // when anything came last

  now() {
    return performance.now() - this.started;
  }

  // event takes one event as it came: its name, its id ("" for a ping) and its data as text. It returns the entry.
  event({ name, id, data: text }) {
    const t = this.now();
    let data = {};
    let mark = "";
    try {
      data = JSON.parse(text) ?? {};
    } catch {
      mark = "not JSON";
    }
    const size = byteLength(text);
    const entry = { t, gap: this.before ? t - this.before : null, name, id: id ?? "", n: 0, size, mark, merged: 0, kind: kindOf(name, data), title: titleOf(name, data), gist: gist(name, data, text), data: cut(text, DATA) };
    this.bytes += size;
    if (name === "ping") this.pings++;
    else if (entry.id) this.number(entry, data);
    if (name === "resync") this.restart();
    this.before = t;
    return this.keep(entry);
  }

  // number finds out what an event's id says: where in the log it is, and how many events are in it.
  number(entry, data) {
    const dot = entry.id.lastIndexOf(".");
    const attempt = entry.id.slice(0, Math.max(dot, 0)), n = Number(entry.id.slice(dot + 1));
    if (Number.isNaN(n)) return; // "lost"
    if (attempt !== this.last.attempt) this.last = { attempt, n: 0 };
    const step = n - this.last.n;
    if (step < 1) entry.mark = "repeated";
    else if (step > 1 && MERGED.has(data.delta?.type)) entry.merged = step;
    else if (step > 1) entry.mark = `${number(step - 1)} missing`;
    entry.n = n;
    this.last.n = n;
    this.highest = Math.max(this.highest, n);
    this.events++;
    this.merged += entry.merged;
    if (!this.first) this.first = entry.t;
    else if (this.before && this.gaps.length < KEPT) this.gaps.push(entry.gap);
  }

  // restart: the gateway doesn't know our place, and the log comes from its beginning.
  restart() {
    this.last = { attempt: "", n: 0 };
  }

  note(name, text = "", tone = "") {
    return this.keep({ t: this.now(), gap: null, name, title: name, id: "", n: 0, size: 0, mark: "", merged: 0, note: true, kind: "note", tone, gist: text, data: text });
  }

  // leave and back: the connection is gone, and there again.
  leave(byHand) {
    if (this.away) return;
    this.aways.push({ from: this.now(), to: 0, n: this.last.n, byHand });
    this.before = 0; // time without a connection is no gap between events
  }

  back() {
    const away = this.away;
    if (away) away.to = this.now();
    return away;
  }

  get away() {
    const last = this.aways.at(-1);
    return last && !last.to ? last : null;
  }

  end() {
    if (this.ended) return;
    this.ended = this.now();
    this.back();
  }

  keep(entry) {
    entry.at = this.forgotten + this.entries.length;
    this.entries.push(entry);
    if (this.entries.length > KEPT + KEPT / 10) this.forgotten += this.entries.splice(0, this.entries.length - KEPT).length;
    return entry;
  }

  // figures are the numbers that say how it went.
  figures() {
    const gaps = Float64Array.from(this.gaps).sort();
    return {
      first: this.first,
      median: gaps[gaps.length >> 1], // undefined where there is no gap
      longest: gaps.at(-1),
      frames: this.events,
      inLog: this.highest,
      merged: this.merged,
      pings: this.pings,
      reconnects: this.aways.filter((a) => a.to).length,
      bytes: this.bytes,
    };
  }

  // sentence is the picture in words.
  sentence() {
    const f = this.figures();
    if (!f.frames) return this.ended ? "No event came." : "No event has come yet.";
    const said = [`The first event came after ${duration(f.first)}`];
    if (f.median !== undefined) said.push(`half of the gaps are below ${duration(f.median)}, the longest is ${duration(f.longest)}`);
    said.push(f.merged ? `${count(f.frames, "event")} brought the log’s ${number(f.inLog)}, ${number(f.merged)} of them merged` : `${count(f.frames, "event")} came, none merged`);
    if (f.pings) said.push(count(f.pings, "ping"));
    said.push(this.aways.length ? `${count(this.aways.length, "time")} without a connection` : "the connection held");
    return `${said.join("; ")}.`;
  }
}

function kindOf(name, data) {
  switch (name) {
    case "content_block_delta": return KINDS.get(data.delta?.type) ?? "mile";
    case "ping": return "ping";
    case "error": return "bad";
    case "resync": return "warn";
  }
  return "mile";
}

// titleOf is an event's name, or the kind of a delta, which says more.
function titleOf(name, { delta }) {
  return name === "content_block_delta" && typeof delta?.type === "string" ? delta.type : name;
}

// gist is a delta's value, or an event's data without the type that is its name.
function gist(name, data, text) {
  const delta = data.delta;
  if (name === "content_block_delta" && delta) {
    const [, value] = Object.entries(delta).find(([key]) => key !== "type") ?? [];
    return cut(typeof value === "string" ? JSON.stringify(value.slice(0, PREVIEW)) : JSON.stringify(value) ?? "", PREVIEW);
  }
  const { type, ...rest } = data;
  return type === name ? cut(Object.keys(rest).length ? JSON.stringify(rest).slice(1, -1) : "", PREVIEW) : cut(text, PREVIEW);
}
