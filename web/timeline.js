// The picture: how far the log has come (upwards) over time (to the right), for this page's connection and for every
// viewer, with the times without a connection, what came merged, and below it each arrival by its kind and size.

import { $, bytes, count, drawn, duration, element, number, say } from "./dom.js";

const HEIGHT = 178;
const LEFT = 48, RIGHT = 14, TOP = 14, RUG = 26, AXIS = 18;
const FLOOR = HEIGHT - AXIS - RUG - 6; // where the log's position is 0
const PACE = 80;      // ms between two paintings, and one more for each
const SHARE = 40;     // entries: each painting looks at all of them
const LABELS = 6;     // of merged arrivals, the largest
const LEAST = 1000;   // ms; what is shown at least, so that the beginning doesn't race
const STEPS = [100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 30_000, 60_000, 120_000, 300_000, 600_000, 1_800_000, 3_600_000];
const RUG_KINDS = ["text", "thinking", "tool", "ping", "mile", "warn", "bad"];

export class Timeline {
  record = null;
  viewers = [];      // {name, tone, record}
  cursor = -1;       // index into the record's entries; -1: none
  width = 0;
  painted = 0;
  waiting = 0;

  // chosen(entry) is called when somebody picks an event of the picture.
  constructor(chosen) {
    this.chosen = chosen;
    this.box = $("picture");
    this.svg = drawn("svg", { "aria-hidden": "true", focusable: "false", height: HEIGHT });
    this.tip = element("div", "tip");
    this.tip.hidden = true;
    this.box.append(this.svg, this.tip);
    new ResizeObserver(([entry]) => {
      this.width = Math.floor(entry.contentRect.width);
      this.svg.setAttribute("width", this.width);
      this.paint();
    }).observe(this.box);
    this.box.addEventListener("pointermove", (e) => this.point(this.nearest(e)));
    this.box.addEventListener("pointerleave", () => this.point(-1));
    this.box.addEventListener("click", (e) => this.pick(this.nearest(e)));
    this.box.addEventListener("keydown", (e) => this.key(e));
    this.box.addEventListener("blur", () => this.point(-1));
    this.box.addEventListener("focus", () => this.cursor < 0 && this.point(this.last()));
  }

  // show takes another record, or none.
  show(record) {
    this.record = record;
    this.cursor = -1;
    if (!record) {
      this.legendNow = "";
      $("legend").replaceChildren();
      for (const figure of document.querySelectorAll(".figures dd")) say(figure, "–");
      say($("summary"), "");
    }
    this.paint();
  }

  // changed asks for a painting, soon.
  changed() {
    if (this.waiting) return;
    const pace = PACE + (this.record?.entries.length ?? 0) / SHARE;
    const wait = Math.max(0, this.painted + pace - performance.now());
    this.waiting = setTimeout(() => {
      requestAnimationFrame(() => {
        this.waiting = 0;
        this.paint();
      });
    }, wait);
  }

  paint() {
    this.painted = performance.now();
    const r = this.record;
    $("picture-hint").hidden = Boolean(r);
    this.svg.toggleAttribute("hidden", !r);
    if (!r || this.width < 120) return;
    const others = this.viewers.filter((v) => v.record);
    this.until = Math.max(LEAST, r.ended || r.now(), ...others.map((v) => (v.record.ended || v.record.now()) + this.offset(v)));
    this.most = 1.08 * Math.max(10, r.highest, ...others.map((v) => v.record.highest));
    this.svg.replaceChildren(
      ...this.grid(),
      ...this.waits(),
      ...others.map((v) => drawn("path", { class: `line viewer tone-${v.tone}`, d: this.climb(v.record, this.offset(v)) })),
      ...this.level(),
      ...this.jumps(),
      ...this.rug(),
      ...this.end(),
      ...this.hair(),
    );
    this.figures();
    this.legend(others);
    this.tell();
  }

  offset(v) { return v.record.started - this.record.started; }
  x(t) { return LEFT + (t / this.until) * (this.width - LEFT - RIGHT); }
  y(n) { return FLOOR - (n / this.most) * (FLOOR - TOP); }

  grid() {
    const parts = [];
    const step = STEPS.find((s) => this.until / s <= Math.max(3, this.width / 80)) ?? STEPS.at(-1);
    for (let t = 0; t <= this.until; t += step) {
      const x = this.x(t);
      parts.push(drawn("line", { class: "grid", x1: x, x2: x, y1: TOP - 6, y2: HEIGHT - AXIS }));
      if (x < this.width - 28 || t === 0) parts.push(text(x, HEIGHT - 4, tick(t), t === 0 ? "axis" : "axis middle"));
    }
    const rise = nice(this.most / 3);
    for (let n = rise; n <= this.most; n += rise) {
      parts.push(drawn("line", { class: "grid", x1: LEFT, x2: this.width - RIGHT, y1: this.y(n), y2: this.y(n) }), text(LEFT - 6, this.y(n) + 3.5, number(n), "axis end"));
    }
    parts.push(drawn("line", { class: "floor", x1: LEFT, x2: this.width - RIGHT, y1: FLOOR, y2: FLOOR }), text(LEFT - 6, FLOOR + 3.5, "0", "axis end"));
    return parts;
  }

  // waits are the time to the first event, and the times without a connection.
  waits() {
    const r = this.record, parts = [];
    const band = (from, to, className, words) => {
      const x = this.x(from), width = Math.max(1, this.x(to) - x);
      parts.push(drawn("rect", { class: className, x, y: TOP - 6, width, height: FLOOR - TOP + 6 }));
      if (width > words.length * 5.6 + 8) parts.push(text(x + width / 2, TOP + 5, words, `middle ${className}-words`));
    };
    const first = r.first || r.ended || r.now();
    if (!r.events || r.first) band(0, first, "first", r.first ? `first event ${duration(first)}` : `waiting ${duration(first)}`);
    for (const a of r.aways) {
      const to = a.to || r.ended || r.now();
      band(a.from, to, "away", `away ${duration(to - a.from)}`);
    }
    return parts;
  }

  // climb is a record's way up as a path: on until something comes, then up by what it was.
  climb(record, offset = 0) {
    let d = `M${this.x(offset).toFixed(1)} ${FLOOR}`;
    let column = -1, n = 0;
    const put = () => (d += `H${column}V${this.y(n).toFixed(1)}`);
    for (const e of record.entries) {
      if (!e.n && e.name !== "resync") continue;
      const x = Math.round(this.x(e.t + offset));
      if (x !== column && column >= 0) put();
      column = x;
      n = e.n;
    }
    if (column >= 0) put();
    return `${d}H${this.x((record.ended || record.now()) + offset).toFixed(1)}`;
  }

  level() {
    const d = this.climb(this.record);
    return [drawn("path", { class: "area", d: `${d}V${FLOOR}Z` }), drawn("path", { class: "line main", d })];
  }

  jumps() {
    const parts = [];
    const merged = this.record.entries.filter((e) => e.merged > 1).sort((a, b) => b.merged - a.merged);
    merged.slice(0, 200).forEach((e, i) => {
      const x = this.x(e.t), y = this.y(e.n);
      parts.push(drawn("circle", { class: "jump", cx: x, cy: y, r: 3 }));
      if (i >= LABELS) return;
      const left = x > this.width - 60;
      parts.push(text(x + (left ? -6 : 6), y + 4, `×${number(e.merged)}`, left ? "jump-words end" : "jump-words"));
    });
    return parts;
  }

  // rug is one stroke an arrival, by kind, higher where it is larger. Where several fall on one pixel the highest is
  // drawn, so that ten thousand arrivals are no more strokes than there are pixels.
  rug() {
    const base = HEIGHT - AXIS - 1, columns = new Map(RUG_KINDS.map((kind) => [kind, new Map()]));
    for (const e of this.record.entries) {
      const column = columns.get(e.kind);
      if (!column || e.note) continue;
      const x = Math.round(this.x(e.t)), high = Math.min(RUG, 6 + 4 * Math.log2(1 + e.size / 40));
      if (!(column.get(x) >= high)) column.set(x, high);
    }
    return [...columns].filter(([, column]) => column.size).map(([kind, column]) =>
      drawn("path", { class: `rug kind-${kind}`, d: [...column].map(([x, high]) => `M${x} ${base}v${-high.toFixed(1)}`).join("") }));
  }

  end() {
    const r = this.record;
    if (!r.ended) return [];
    const x = this.x(r.ended);
    return [drawn("line", { class: `ending ${r.outcome ?? ""}`, x1: x, x2: x, y1: TOP - 6, y2: HEIGHT - AXIS })];
  }

  hair() {
    const e = this.record.entries[this.cursor];
    if (!e) return [];
    const x = this.x(e.t);
    const parts = [drawn("line", { class: "hair", x1: x, x2: x, y1: TOP - 6, y2: HEIGHT - AXIS })];
    if (e.n) parts.push(drawn("circle", { class: "spot", cx: x, cy: this.y(e.n), r: 4 }));
    return parts;
  }

  // figures are the numbers below the picture.
  figures() {
    const f = this.record.figures();
    const put = (id, value) => say($(id), value);
    put("f-first", f.first ? duration(f.first) : "–");
    put("f-gap", f.median === undefined ? "–" : duration(f.median));
    put("f-longest", f.longest === undefined ? "–" : duration(f.longest));
    put("f-events", f.inLog === f.frames || !f.inLog ? number(f.frames) : `${number(f.frames)} of ${number(f.inLog)}`);
    put("f-merged", number(f.merged));
    put("f-reconnects", number(f.reconnects));
    put("f-pings", number(f.pings));
    put("f-bytes", bytes(f.bytes));
    if (this.record.ended) say($("summary"), this.record.sentence());
    else say($("summary"), "");
  }

  // legend names what is drawn. Its parts come and go with it.
  legend(others) {
    const r = this.record;
    const items = [["line-key", "this page"]];
    if (others.length > 2) items.push(["viewers-key", `${others.length} viewers`]);
    else items.push(...others.map((v) => [`line-key tone-${v.tone}`, v.name]));
    if (r.aways.length) items.push(["away-key", "without a connection"]);
    if (r.merged) items.push(["jump-key", "merged"]);
    const wanted = items.join();
    if (this.legendNow === wanted) return;
    this.legendNow = wanted;
    $("legend").replaceChildren(...items.map(([className, words]) => element("li", "", element("i", className), words)));
  }

  // ---- Details of one event, by pointer or keys

  last() {
    return this.record ? this.record.entries.length - 1 : -1;
  }

  nearest(e) {
    if (!this.record?.entries.length) return -1;
    const at = e.clientX - this.box.getBoundingClientRect().left;
    const t = ((at - LEFT) / (this.width - LEFT - RIGHT)) * this.until;
    const entries = this.record.entries;
    let low = 0, high = entries.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (entries[middle].t < t) low = middle + 1;
      else high = middle;
    }
    return low > 0 && t - entries[low - 1].t < entries[low].t - t ? low - 1 : low;
  }

  key(e) {
    const moves = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10, Home: -Infinity, End: Infinity };
    if (e.key === "Enter" || e.key === " ") this.pick(this.cursor);
    else if (e.key in moves) this.point(Math.min(this.last(), Math.max(0, (this.cursor < 0 ? this.last() : this.cursor) + moves[e.key])));
    else return;
    e.preventDefault();
  }

  point(cursor) {
    if (cursor === this.cursor) return;
    this.cursor = cursor;
    this.paint();
  }

  pick(cursor) {
    const e = this.record?.entries[cursor];
    if (e) this.chosen(e);
  }

  // tell says what is at the cursor: beside it, and to those who listen.
  tell() {
    const e = this.record.entries[this.cursor];
    this.box.setAttribute("aria-valuemax", Math.max(0, this.record.entries.length));
    this.box.setAttribute("aria-valuenow", this.cursor + 1);
    this.tip.hidden = !e;
    if (!e) {
      this.box.setAttribute("aria-valuetext", this.record.entries.length ? this.record.sentence() : "no event yet");
      return;
    }
    const lines = describe(e);
    this.box.setAttribute("aria-valuetext", lines.join(", "));
    this.tip.replaceChildren(...lines.map((line, i) => element(i ? "span" : "strong", "", line)));
    const x = this.x(e.t), wide = this.tip.offsetWidth;
    this.tip.style.left = `${Math.max(0, x + 12 + wide > this.width ? x - wide - 12 : x + 12)}px`;
  }
}

// describe says what is known of an entry, in a few lines.
export function describe(e) {
  if (e.note) return [[e.name, e.gist].filter(Boolean).join(" "), `${duration(e.t)} after the start`];
  const lines = [e.id ? `id ${e.id} · ${e.title}` : e.title];
  if (e.merged) lines.push(`${count(e.merged, "event")} in one`);
  lines.push(bytes(e.size), `${duration(e.t)} after the start${e.gap === null ? "" : `, ${duration(e.gap)} after the one before`}`);
  return lines;
}

function text(x, y, words, className) {
  const e = drawn("text", { x, y, class: className });
  e.append(words);
  return e;
}

function tick(t) {
  if (t === 0) return "0";
  return t < 60_000 ? `${t / 1000} s` : `${t / 60_000} min`;
}

// nice is a round number close above n.
function nice(n) {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, n)));
  return [1, 2, 5, 10].map((f) => f * power).find((f) => f >= n);
}
