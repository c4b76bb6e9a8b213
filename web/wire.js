// The wire: every event as it came, with its id, kind, size and gap. Only the rows that can be seen are on the page, so
// that ten thousand events cost what forty do.

import { $, bytes, copying, count, duration, element, frames, number, say } from "./dom.js";
import { Record } from "./record.js";
import { describe } from "./timeline.js";

const BEYOND = 8;        // rows above and below what can be seen
const GAP_SCALE = 2000;  // ms; a gap of that length fills its cell, a quarter of it half

const GROUPS = {
  all: () => true,
  deltas: (e) => !e.note && e.name === "content_block_delta",
  milestones: (e) => !e.note && e.name !== "content_block_delta" && e.name !== "ping",
  merged: (e) => e.merged > 1,
  pings: (e) => e.name === "ping",
  connection: (e) => e.note || e.name === "resync" || e.name === "error",
};

export class Wire {
  record = new Record();
  shown = [];         // the entries that pass the filter
  looked = 0;         // how many entries the filter has seen, counted from the record's first
  rows = [];          // elements in use again and again
  height = 22;        // of a row
  following = true;
  top = 0;
  chosen = null;      // the entry whose frame is open

  constructor() {
    this.pane = $("wire");
    this.list = $("rows");
    this.draw = frames(() => this.paint());
    this.pane.addEventListener("scroll", () => this.scrolled(), { passive: true });
    this.pane.addEventListener("keydown", (e) => this.key(e));
    this.list.addEventListener("click", (e) => this.choose(e.target.closest(".row")?.entry));
    new ResizeObserver(this.draw).observe(this.pane);
    $("wire-newest").addEventListener("click", () => {
      this.pane.focus({ preventScroll: true });
      this.follow();
    });
    $("filter").addEventListener("input", () => this.refilter());
    $("kinds").addEventListener("change", () => this.refilter());
    $("raw").addEventListener("change", () => {
      for (const row of this.rows) row.entry = null;
      this.draw();
    });
    $("frame-copy").replaceWith(copying("Copy", "small", () => frameOf(this.chosen)));
    $("frame-close").addEventListener("click", () => {
      this.choose(null);
      this.pane.focus({ preventScroll: true });
    });
  }

  // show takes another record, or none.
  show(record) {
    this.record = record ?? new Record();
    this.choose(null);
    this.refilter();
    this.follow();
  }

  changed() { this.draw(); }

  follow() {
    this.following = true;
    this.draw();
  }

  refilter() {
    this.shown = [];
    this.looked = 0;
    this.draw();
  }

  // sift takes what is new through the filter.
  sift() {
    const { entries, forgotten } = this.record;
    if (this.looked < forgotten) {
      const first = entries[0]?.at ?? 0;
      const gone = this.shown.findIndex((e) => e.at >= first);
      this.shown.splice(0, gone < 0 ? this.shown.length : gone);
      this.looked = Math.max(this.looked, forgotten);
    }
    const passes = GROUPS[$("kinds").value] ?? GROUPS.all;
    const wanted = $("filter").value.trim().toLowerCase();
    for (let i = this.looked - forgotten; i < entries.length; i++) {
      const e = entries[i];
      if (passes(e) && (!wanted || e.title.includes(wanted) || e.name.includes(wanted) || e.id === wanted || e.data.toLowerCase().includes(wanted))) this.shown.push(e);
    }
    this.looked = forgotten + entries.length;
  }

  paint() {
    this.sift();
    const all = this.shown.length;
    this.list.style.height = `${all * this.height}px`;
    $("wire-hint").hidden = this.record.entries.length > 0;
    this.pane.setAttribute("aria-rowcount", all + 1);
    if (this.following) this.pane.scrollTop = this.pane.scrollHeight;
    const room = this.pane.clientHeight;
    const from = Math.max(0, Math.floor(this.pane.scrollTop / this.height) - BEYOND);
    const to = Math.min(all, Math.ceil((this.pane.scrollTop + room) / this.height) + BEYOND);
    while (this.rows.length < to - from) {
      const row = makeRow();
      this.rows.push(row);
      this.list.append(row);
    }
    this.rows.forEach((row, i) => {
      const entry = this.shown[from + i];
      row.hidden = from + i >= to;
      if (row.hidden) return;
      row.style.transform = `translateY(${(from + i) * this.height}px)`;
      row.setAttribute("aria-rowindex", from + i + 2);
      if (row.entry !== entry) fill(row, entry, $("raw").checked);
      row.setAttribute("aria-selected", String(entry === this.chosen));
      row.id = entry === this.chosen ? "chosen" : "";
      if (!row.id) row.removeAttribute("id");
    });
    const height = this.rows[0]?.offsetHeight; // narrow rows have two lines
    if (height && height !== this.height) {
      this.height = height;
      this.draw();
    }
    this.pane.toggleAttribute("aria-activedescendant", false);
    if (this.list.querySelector("#chosen:not([hidden])")) this.pane.setAttribute("aria-activedescendant", "chosen");
    say($("wire-count"), this.words());
  }

  words() {
    const { entries, forgotten } = this.record;
    if (!entries.length) return "";
    const filtered = this.shown.length < entries.length ? `${number(this.shown.length)} of ` : "";
    return `${filtered}${count(entries.length, "row")}${forgotten ? `, ${number(forgotten)} older ones no longer kept` : ""}`;
  }

  scrolled() {
    const { pane } = this;
    if (pane.scrollHeight - pane.scrollTop - pane.clientHeight < this.height) this.following = true;
    else if (pane.scrollTop < this.top) this.following = false;
    this.top = pane.scrollTop;
    $("wire-newest").hidden = this.following;
    this.draw();
  }

  key(e) {
    if (!this.shown.length || e.target !== this.pane) return;
    const at = this.shown.indexOf(this.chosen), page = Math.max(1, Math.floor(this.pane.clientHeight / this.height) - 2);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (e.key === "Escape") return this.choose(null);
    if (!(e.key in moves)) return;
    e.preventDefault();
    const from = at < 0 ? (moves[e.key] < 0 ? this.shown.length : -1) : at;
    this.reveal(this.shown[Math.min(this.shown.length - 1, Math.max(0, from + moves[e.key]))]);
  }

  // reveal opens an entry's frame and scrolls to its row, through the filter if need be.
  reveal(entry) {
    if (!this.shown.includes(entry)) {
      $("filter").value = "";
      $("kinds").value = "all";
      this.refilter();
      this.sift();
    }
    this.choose(entry);
    const top = this.shown.indexOf(entry) * this.height, room = this.pane.clientHeight - 2 * this.height;
    if (top < this.pane.scrollTop || top > this.pane.scrollTop + room) this.pane.scrollTop = Math.max(0, top - room / 2);
    this.following = false;
    $("wire-newest").hidden = false;
    this.draw();
  }

  choose(entry) {
    this.chosen = entry ?? null;
    $("frame").hidden = !entry;
    if (entry) {
      say($("frame-title"), describe(entry).join(" · "));
      say($("frame-text"), frameOf(entry));
      this.following = false;
    }
    this.draw();
  }
}

// frameOf is an event as it was written on the wire.
export function frameOf(e) {
  if (!e) return "";
  if (e.note) return [e.name, e.data].filter(Boolean).join(" ");
  const lines = e.id ? [`id: ${e.id}`] : [];
  return [...lines, `event: ${e.name}`, ...e.data.split("\n").map((line) => `data: ${line}`)].join("\n");
}

function makeRow() {
  const row = element("div", "row", ...["id", "name", "gap", "size", "data"].map((className) => {
    const cell = element("span", className);
    cell.setAttribute("role", "gridcell");
    return cell;
  }));
  row.setAttribute("role", "row");
  return row;
}

function fill(row, e, raw) {
  row.entry = e;
  row.className = `row kind-${e.kind}${e.note ? ` note ${e.tone}` : ""}${e.merged > 1 ? " merged" : ""}`;
  const [id, name, gap, size, data] = row.children;
  say(id, e.note ? "" : e.id || "–");
  say(name, e.title);
  say(gap, e.gap === null ? "" : `+${duration(e.gap)}`);
  gap.style.setProperty("--part", e.gap ? Math.min(1, Math.sqrt(e.gap / GAP_SCALE)).toFixed(3) : 0);
  say(size, e.note ? "" : bytes(e.size));
  data.replaceChildren(raw ? e.data : e.gist);
  if (e.mark) data.prepend(element("em", "tag bad", e.mark), " ");
  if (e.merged > 1) data.prepend(element("em", "tag", `×${number(e.merged)}`), " ");
}
