// A console for one stream: it sends a prompt, reads the answer with a native EventSource, and shows what came.
// Whatever was written by somebody else reaches the page as text nodes only.

const $ = (id) => document.getElementById(id);

function element(tag, className, text) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (text !== undefined) e.textContent = text;
  return e;
}

const number = new Intl.NumberFormat("en");
const count = (n, one, many = one + "s") => `${number.format(n)} ${n === 1 ? one : many}`;
const utf8 = new TextEncoder();

function bytes(n) {
  if (n < 10_000) return `${number.format(n)} B`;
  return n < 10_000_000 ? `${(n / 1000).toFixed(1)} kB` : `${(n / 1e6).toFixed(1)} MB`;
}

// ---- The answer, as its events tell it -----------------------------------------------------------------------------

// Answer accumulates a Message from its events. It is told every event in order and never looks at the page.
class Answer {
  blocks = [];
  usage = {};
  model = "";
  stopReason = "";

  take(name, data) {
    switch (name) {
      case "message_start": {
        const message = data.message ?? {};
        this.model = message.model ?? "";
        Object.assign(this.usage, message.usage);
        (Array.isArray(message.content) ? message.content : []).forEach((b, i) => this.open(i, b).closed = true);
        break;
      }
      case "content_block_start":
        this.open(data.index, data.content_block ?? {});
        break;
      case "content_block_delta":
        this.blocks[data.index]?.add(data.delta ?? {});
        break;
      case "content_block_stop": {
        const block = this.blocks[data.index];
        if (block) block.closed = true;
        break;
      }
      case "message_delta":
        this.stopReason = data.delta?.stop_reason ?? this.stopReason;
        Object.assign(this.usage, data.usage);
        break;
    }
  }

  open(index, content) {
    return (this.blocks[index] = new Block(content));
  }
}

class Block {
  text = "";      // what has come: text, thinking, or the raw JSON of an input
  shown = 0;      // how much of text is on the page
  signature = "";
  others = 0;     // deltas of kinds that are counted, not shown
  closed = false;
  view = null;

  constructor(content) {
    this.content = content;
    this.type = typeof content.type === "string" ? content.type : "unknown";
    if (this.type === "text") this.text = content.text ?? "";
    if (this.type === "thinking") {
      this.text = content.thinking ?? "";
      this.signature = content.signature ?? "";
    }
    this.isInput = content.input !== undefined;
  }

  add(delta) {
    switch (delta.type) {
      case "text_delta": this.text += delta.text ?? ""; break;
      case "thinking_delta": this.text += delta.thinking ?? ""; break;
      case "input_json_delta": this.text += delta.partial_json ?? ""; break;
      case "signature_delta": this.signature = delta.signature ?? ""; break;
      default: this.others++;
    }
  }

  // input is a tool's input as the gateway reports it: what the block began with until its JSON is whole.
  input() {
    if (this.closed && this.text) {
      try {
        return JSON.parse(this.text);
      } catch { /* cut short; it stays what it was */ }
    }
    return this.content.input;
  }

  // comparable is the block's content as one text; null where this page doesn't keep all of it.
  comparable() {
    if (this.type === "text") return this.text;
    if (this.type === "thinking") return this.text + this.signature;
    if (this.isInput) return JSON.stringify(this.input());
    return null;
  }
}

function comparableOf(block) {
  switch (block?.type) {
    case undefined: return "";
    case "text": return block.text ?? "";
    case "thinking": return (block.thinking ?? "") + (block.signature ?? "");
  }
  return block.input === undefined ? null : JSON.stringify(block.input);
}

// difference says how many characters of theirs are missing in ours, and how many ours has beyond them. What lies
// between the equal beginning and the equal end counts whole, so that it may be too much and is never too little.
function difference(ours, theirs) {
  if (ours === theirs) return [0, 0];
  const least = Math.min(ours.length, theirs.length);
  let head = 0, tail = 0;
  while (head < least && ours[head] === theirs[head]) head++;
  while (tail < least - head && ours.at(-1 - tail) === theirs.at(-1 - tail)) tail++;
  return [theirs.length - head - tail, ours.length - head - tail];
}

// ---- Asking the gateway --------------------------------------------------------------------------------------------

// Refusal is an answer of the gateway that is an error.
class Refusal extends Error {
  constructor(response, text) {
    let body = {};
    try {
      body = JSON.parse(text);
    } catch { /* not from the gateway, then */ }
    super(body?.error?.message ?? (text.slice(0, 300) || "The answer has no body."));
    this.type = body?.error?.type ?? "";
    this.status = response.status;
    this.requestID = response.headers.get("request-id") ?? body?.request_id ?? "";
    this.retryAfter = response.headers.get("retry-after") ?? "";
  }
}

async function ask(method, path, body) {
  const headers = { "anthropic-version": "2023-06-01" };
  if (body !== undefined) headers["content-type"] = "application/json";
  const key = $("key")?.value.trim();
  if (key) headers["x-api-key"] = key;
  const response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const text = await response.text();
  if (!response.ok) throw new Refusal(response, text);
  return { status: response.status, object: JSON.parse(text) };
}

// ---- One run: a prompt, its stream, and everything that happens to it ----------------------------------------------

const NAMES = ["message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "message_stop", "ping", "message"];
const MERGED = new Set(["text_delta", "thinking_delta", "input_json_delta"]);
const AWAY = 1000;         // ms between a drop and the return; long enough to be seen
const GIVEN_UP = 5;        // refusals in a row after which this page stops coming back
const STOP_PATIENCE = 3000; // ms that the end of a canceled stream may take to arrive

class Run {
  started = performance.now();
  answer = new Answer();
  state = "connecting";
  over = false;
  stopping = false;
  gone = false;        // the gateway hasn't the stream any more
  stream = null;       // the gateway's stream object
  source = null;
  lastID = "";         // the last event's
  away = null;         // {id, at, byHand} while there is no connection
  gaps = [];           // those that are over, as sentences
  refused = 0;
  tally = { events: 0, bytes: 0, pings: 0, merged: 0, first: 0 };

  async begin(body) {
    wire.note(this, "POST", "/v1/streams");
    try {
      const { status, object } = await ask("POST", "v1/streams", body);
      if (this.over) { // stopped before it began: a stream without a reader would be paid for until it is abandoned
        await ask("POST", `v1/streams/${object.id}/cancel`);
        return;
      }
      this.stream = object;
      wire.note(this, String(status), object.id);
      this.attach();
    } catch (e) {
      if (this.over) return;
      if (e instanceof Refusal) wire.note(this, String(e.status), e.type, "bad");
      this.fail(e);
    }
  }

  // eventsURL is the stream's, on this page's own origin: the page may not talk to others, even if the gateway calls
  // itself by another name than the browser does.
  eventsURL() {
    const url = new URL(this.stream.events_url, location.href);
    if (url.origin === location.origin) return url;
    return new URL(url.pathname + url.search, location.origin);
  }

  // attach opens an EventSource after the last event seen. A new EventSource can't be told a Last-Event-ID, so the
  // cursor is in the URL; when it reconnects by itself it sends the header too, and the header wins.
  attach() {
    const url = this.eventsURL();
    if (this.lastID) url.searchParams.set("last_event_id", this.lastID);
    const source = new EventSource(url);
    this.source = source;
    for (const name of NAMES) source.addEventListener(name, (e) => source === this.source && this.take(name, e));
    source.addEventListener("resync", (e) => source === this.source && this.resync(e));
    source.addEventListener("open", () => {
      if (source !== this.source) return;
      this.refused = 0;
      wire.note(this, "attached", this.lastID && `after id ${this.lastID}`);
      this.enter("streaming");
    });
    source.addEventListener("error", (e) => {
      if (source !== this.source) return;
      if (e instanceof MessageEvent) this.take("error", e);
      else this.lost(source);
    });
  }

  // lost: the connection ended, and not by an event. Unless it was refused, the browser comes back by itself.
  lost(source) {
    if (!this.away) this.away = { id: this.lastID, at: performance.now(), byHand: false };
    if (source.readyState === EventSource.CONNECTING) {
      wire.note(this, "connection lost", `${at(this.lastID)}; the browser reconnects`, "warn");
      this.enter("reconnecting");
      return;
    }
    this.detach();
    this.settle();
  }

  // settle asks what became of a stream whose events are refused (a 204 is such a refusal: there is nothing more).
  async settle() {
    this.enter("reconnecting");
    try {
      const { object } = await ask("GET", `v1/streams/${this.stream.id}`);
      if (this.over) return;
      if (object.status !== "in_progress" && object.status !== "queued") {
        wire.note(this, "nothing more", `the stream is ${object.status}`);
        if (object.error) view.problem(object.error.message, { type: object.error.type });
        this.end(object.status === "abandoned" ? "canceled" : object.status);
        return;
      }
    } catch (e) {
      if (this.over) return;
      if (e instanceof Refusal && e.status < 500) return this.fail(e);
    }
    if (++this.refused >= GIVEN_UP) return this.fail(new Error("The gateway refuses to continue this stream."));
    setTimeout(() => this.over || this.attach(), AWAY * this.refused);
  }

  take(name, e) {
    const row = { name, time: performance.now() - this.started, size: byteLength(e.data), data: e.data, id: "", mark: "" };
    let data = {};
    try {
      data = JSON.parse(e.data) ?? {};
    } catch {
      row.mark = "not JSON";
    }
    this.tally.events++;
    this.tally.bytes += row.size;
    if (name === "ping") this.tally.pings++;
    else if (!this.tally.first) this.tally.first = row.time;
    if (name !== "ping" && e.lastEventId) this.number(row, e.lastEventId, name, data);
    row.gist = gist(name, data, e.data);
    if (this.away && row.id) this.back(row);
    this.answer.take(name, data);
    wire.event(row);
    view.changed();
    if (name === "message_stop") {
      this.detach();
      this.end("completed");
    } else if (name === "error") {
      this.detach();
      const error = data.error ?? {};
      view.problem(error.message ?? e.data, { type: error.type, requestID: data.request_id });
      this.end(error.type === "canceled_error" ? "canceled" : "failed");
    }
  }

  // number looks at how far an event's id is from the one before it.
  number(row, id, name, data) {
    row.id = id;
    const [attempt, n] = place(id);
    if (Number.isNaN(n)) { // "lost": the gateway hasn't this stream any more
      this.gone = true;
      return;
    }
    const [before, m] = place(this.lastID);
    const gap = n - (attempt === before ? m : 0);
    if (gap < 1) {
      row.mark = "repeated";
    } else if (gap > 1) {
      row.from = n - gap + 1;
      if (name === "content_block_delta" && MERGED.has(data.delta?.type)) {
        row.mark = `${gap} merged`;
        row.merged = gap;
        this.tally.merged += gap;
      } else {
        row.mark = `${gap - 1} not shown`; // an EventSource hands out only names that were asked for
      }
    }
    this.lastID = id;
  }

  // back: the first event after a gap.
  back(row) {
    if (this.gone) return this.closeGap("not resumed: the stream is gone");
    const to = row.from ? `ids ${row.from}–${row.id}, in one event` : `id ${row.id}`;
    const seconds = ((performance.now() - this.away.at) / 1000).toFixed(1);
    wire.note(this, "resumed", `at ${to}`, "good", row.time);
    this.closeGap(`resumed at ${to}, after ${seconds} s`);
  }

  closeGap(how) {
    this.gaps.push(`${this.away.byHand ? "Dropped" : "Connection lost"} ${at(this.away.id)} → ${how}.`);
    this.away = null;
    view.changed();
  }

  // resync: the gateway doesn't know our place; all that we have is void, and the log comes from its beginning.
  resync(e) {
    this.tally.events++;
    this.tally.bytes += byteLength(e.data);
    wire.event({ name: "resync", time: performance.now() - this.started, size: byteLength(e.data), data: e.data, id: "", mark: "all before is void" });
    if (this.away) this.closeGap("the gateway doesn’t know this place, and begins again");
    this.answer = new Answer();
    this.lastID = "";
    view.clearAnswer();
    view.changed();
  }

  drop() {
    this.detach();
    this.away = { id: this.lastID, at: performance.now(), byHand: true };
    wire.note(this, "dropped", at(this.lastID), "warn");
    this.enter("reconnecting");
    view.changed();
    setTimeout(() => this.over || this.attach(), AWAY);
  }

  async stop() {
    this.stopping = true;
    view.changed();
    if (!this.stream) {
      wire.note(this, "given up", "before it began", "warn");
      this.end("canceled");
      return;
    }
    wire.note(this, "POST", `/v1/streams/${this.stream.id}/cancel`);
    try {
      const { object } = await ask("POST", `v1/streams/${this.stream.id}/cancel`);
      // Its last event is on the way to us, and ends the run. If it can't come, the object's word has to do.
      setTimeout(() => {
        if (this.over) return;
        this.detach();
        this.end(object.status === "in_progress" ? "canceled" : object.status);
      }, STOP_PATIENCE);
    } catch (e) {
      if (!this.over) this.fail(e);
    }
  }

  fail(e) {
    this.detach();
    if (e instanceof Refusal && e.status === 404) {
      this.gone = true;
      if (this.away) this.closeGap("not resumed: the stream is gone");
    }
    if (e instanceof Refusal) view.problem(e.message, e);
    else view.problem(e instanceof TypeError ? "The gateway can’t be reached." : e.message);
    this.end("failed");
  }

  detach() {
    this.source?.close();
    this.source = null;
  }

  enter(state) {
    if (this.over) return;
    this.state = state;
    view.state(state);
  }

  end(state) {
    this.enter(state);
    this.over = true;
    view.changed();
    if (this.stream && !this.gone) this.compare();
  }

  // compare lays what was read beside what the gateway has accumulated by itself.
  async compare() {
    let text, good = false;
    try {
      const { object } = await ask("GET", `v1/streams/${this.stream.id}`);
      const theirs = object.message?.content ?? [];
      const ours = this.answer.blocks;
      let lost = 0, repeated = 0, all = 0, skipped = 0;
      for (let i = 0; i < Math.max(ours.length, theirs.length); i++) {
        const a = ours[i] ? ours[i].comparable() : "";
        const b = comparableOf(theirs[i]);
        if (a === null || b === null) {
          skipped++;
          continue;
        }
        const [missing, extra] = difference(a, b);
        lost += missing;
        repeated += extra;
        all += b.length;
      }
      good = lost === 0 && repeated === 0;
      text = `${count(lost, "character")} lost, ${number.format(repeated)} repeated: compared with the gateway’s own copy of ${number.format(all)}`;
      if (skipped) text += `, without ${count(skipped, "block")} of other kinds`;
      text += ".";
    } catch {
      text = "The gateway’s own copy could not be fetched, so nothing is known about lost or repeated characters.";
    }
    if (run === this) view.verdict(text, good);
  }
}

// place splits an id: the attempt, and the number in it; no id is before the first one.
function place(id) {
  const dot = id.lastIndexOf(".");
  return [id.slice(0, Math.max(dot, 0)), Number(id.slice(dot + 1))];
}

const at = (id) => (id ? `at id ${id}` : "before the first event");

function byteLength(s) {
  return utf8.encode(s).length;
}

// ---- The page --------------------------------------------------------------------------------------------------------

// Follower keeps a scrolling pane at its end until its reader scrolls up.
class Follower {
  following = true;
  top = 0;

  constructor(pane, button) {
    this.pane = pane;
    this.button = button;
    pane.addEventListener("scroll", () => {
      if (pane.scrollHeight - pane.scrollTop - pane.clientHeight < 24) this.following = true;
      else if (pane.scrollTop < this.top) this.following = false; // upwards; content that grew isn't that
      this.top = pane.scrollTop;
      button.hidden = this.following;
    }, { passive: true });
    button.addEventListener("click", () => {
      pane.focus({ preventScroll: true });
      this.reset();
    });
  }

  reset() {
    this.following = true;
    this.button.hidden = true;
    this.keep();
  }

  keep() {
    if (this.following) this.pane.scrollTop = this.pane.scrollHeight;
  }
}

// frames runs a function before the next frame, however often it is asked to.
function frames(paint) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      paint();
    });
  };
}

const ROWS = 2000;    // on the page at once: more make it slow, and nobody reads them
const PREVIEW = 400;  // characters of data in a row

// wire is the list of events. Rows wait until the next frame, and no more of them than fit.
const wire = {
  waiting: [],
  dropped: 0,
  raw: false,
  follower: new Follower($("wire"), $("wire-newest")),

  event(row) { this.push(row); },
  note(of, name, data, kind = "", time = performance.now() - of.started) { this.push({ note: true, name, data, kind, time }); },

  push(row) {
    row.data = cut(row.data);
    this.waiting.push(row);
    if (this.waiting.length > 2 * ROWS) this.dropped += this.waiting.splice(0, ROWS).length;
    this.draw();
  },

  clear() {
    this.waiting = [];
    this.dropped = 0;
    $("rows").replaceChildren();
    $("earlier").hidden = true;
    $("wire-hint").hidden = true;
    this.follower.reset();
  },

  draw: frames(() => wire.paint()),

  paint() {
    const rows = $("rows");
    const fresh = document.createDocumentFragment();
    for (const row of this.waiting.splice(0)) fresh.append(makeRow(row));
    rows.append(fresh);
    for (let extra = rows.childElementCount - ROWS; extra > 0; extra--) {
      rows.firstElementChild.remove();
      this.dropped++;
    }
    if (this.dropped) {
      $("earlier").hidden = false;
      $("earlier").textContent = `${count(this.dropped, "earlier row")} no longer shown`;
    }
    this.follower.keep();
  },
};

function cut(text) {
  return text.length <= PREVIEW ? text : `${text.slice(0, PREVIEW)}…`;
}

function makeRow(row) {
  const e = element("div", `row ${kindOf(row)}`);
  e.setAttribute("role", "row");
  e.append(
    cell("id", row.note ? "" : row.id || "–"),
    cell("name", row.name),
    cell("time", number.format(Math.round(row.time))),
    cell("size", row.note ? "" : number.format(row.size)),
    cell("data", ""),
  );
  e.row = row;
  fillData(e);
  return e;
}

function cell(className, text) {
  const e = element("span", className, text);
  e.setAttribute("role", "cell");
  return e;
}

// fillData shows a row's data: whole, or only what its event's name doesn't say already.
function fillData(e) {
  const { row } = e, data = e.lastElementChild;
  data.textContent = wire.raw ? row.data : row.gist ?? row.data;
  if (row.mark) data.prepend(element("em", row.mark === "repeated" ? "tag bad" : "tag", row.mark), " ");
}

// gist is a delta's kind and value, or an event's data without the type that is its name.
function gist(name, data, text) {
  const delta = data.delta;
  if (name === "content_block_delta" && delta) {
    const [, value] = Object.entries(delta).find(([key]) => key !== "type") ?? [];
    return cut(`${delta.type} ${typeof value === "string" ? JSON.stringify(value.slice(0, PREVIEW)) : JSON.stringify(value)}`);
  }
  const { type, ...rest } = data;
  return type === name ? cut(Object.keys(rest).length ? JSON.stringify(rest).slice(1, -1) : "") : cut(text);
}

function kindOf(row) {
  if (row.note) return `note ${row.kind}`;
  switch (row.name) {
    case "content_block_delta": return row.merged ? "delta merged" : "delta";
    case "ping": return "ping";
    case "error": return "bad";
    case "resync": return "warn";
  }
  return "mile";
}

// view is the answer's side of the page.
const view = {
  follower: new Follower($("answer"), $("answer-newest")),
  thinkingOpen: true,

  changed: frames(() => view.paint()),

  state(state) {
    $("state").dataset.state = state;
    if ($("state-text").textContent !== state) $("state-text").textContent = state;
    this.changed();
  },

  clear() {
    this.clearAnswer();
    $("verdict").replaceChildren();
    $("facts").textContent = "";
    this.follower.reset();
  },

  clearAnswer() {
    $("answer").replaceChildren();
  },

  // problem shows why there is no answer, or no more of it.
  problem(message, { type, status, requestID, retryAfter } = {}) {
    const box = element("div", type === "canceled_error" ? "problem wanted" : "problem");
    box.setAttribute("role", "alert");
    box.append(element("p", "problem-type", type || "error"), element("p", "problem-message", message));
    const list = element("dl");
    for (const [name, value] of [["status", status], ["request id", requestID], ["retry after", retryAfter && `${retryAfter} s`]]) {
      if (value) list.append(element("dt", "", name), element("dd", "", String(value)));
    }
    if (list.childElementCount) box.append(list);
    this.paint();
    $("answer").append(box);
    this.follower.keep();
  },

  verdict(text, good) {
    this.say(good ? "good" : "bad", text);
    this.follower.keep();
  },

  // say puts a sentence below the answer, in the place of an earlier one of its kind.
  say(kind, text) {
    let line = $("verdict").querySelector(`.${kind}`);
    if (!line) $("verdict").append((line = element("p", kind)));
    if (line.textContent !== text) line.textContent = text;
  },

  paint() {
    if (!run) return;
    for (const block of run.answer.blocks) if (block) paintBlock(block);
    const gaps = run.gaps.length;
    if (gaps) this.say("gap", run.gaps[gaps - 1] + (gaps > 1 ? ` The ${number.format(gaps)} gaps are on the wire.` : ""));
    facts();
    const running = !run.over;
    enable($("drop"), running && run.source && (run.state === "streaming"));
    enable($("stop"), running && !run.stopping);
    enable($("send"), !running);
    for (const chip of document.querySelectorAll(".chip")) enable(chip, !running);
    $("answer").setAttribute("aria-busy", String(running));
    this.follower.keep();
  },
};

// enable marks a button; a disabled one would lose the focus of who has just pressed it.
function enable(button, yes) {
  button.setAttribute("aria-disabled", String(!yes));
}

const enabled = (button) => button.getAttribute("aria-disabled") !== "true";

function facts() {
  const { tally, answer, stream } = run;
  const parts = [];
  if (answer.model) parts.push(answer.model);
  if (answer.usage.input_tokens !== undefined) parts.push(`${number.format(answer.usage.input_tokens)} tokens in${answer.stopReason ? `, ${number.format(answer.usage.output_tokens ?? 0)} out` : ""}`);
  if (answer.stopReason) parts.push(answer.stopReason);
  const shown = parts.map((p) => element("span", "", p));
  if (stream) shown.push(element("span", "stream", stream.id));
  $("facts").replaceChildren(...shown);

  const t = [count(tally.events, "event"), bytes(tally.bytes)];
  if (tally.first) t.push(`first after ${number.format(Math.round(tally.first))} ms`);
  if (tally.pings) t.push(count(tally.pings, "ping"));
  if (tally.merged) t.push(`${number.format(tally.merged)} merged`);
  $("totals").textContent = t.join(" · ");
}

function paintBlock(block) {
  if (!block.view) {
    block.view = makeView(block);
    $("answer").append(block.view.root);
  }
  const v = block.view;
  if (block.text.length > block.shown) {
    v.append(block.text.slice(block.shown));
    block.shown = block.text.length;
  }
  if (block.closed && !v.closed) {
    v.closed = true;
    v.close?.();
  }
}

function makeView(block) {
  if (block.type === "text") {
    const root = element("div", "text");
    return { root, append: prose(root) };
  }
  if (block.type === "thinking") {
    const root = element("details", "thinking");
    root.open = view.thinkingOpen;
    root.addEventListener("toggle", () => view.thinkingOpen = root.open);
    const summary = element("summary", "", "Thinking …");
    const body = element("div", "thought");
    root.append(summary, body);
    const append = prose(body);
    return {
      root, append,
      close: () => {
        summary.textContent = block.text ? "Thought" : "Thought, not shown";
      },
    };
  }
  const root = element("div", "tool");
  const title = element("p", "tool-title");
  title.append(element("span", "tool-type", block.type));
  if (typeof block.content.name === "string") title.append(" ", element("strong", "", block.content.name));
  const body = element("pre");
  root.append(title, body);
  if (!block.isInput) {
    body.textContent = JSON.stringify(block.content, null, 2);
    return { root, append: (text) => body.append(text) };
  }
  return {
    root,
    append: (text) => body.append(text),
    close: () => {
      try {
        body.textContent = JSON.stringify(JSON.parse(block.text || JSON.stringify(block.content.input)), null, 2);
      } catch { /* cut short; the fragment stays as it is */ }
    },
  };
}

// prose appends text to an element, a box per paragraph: the browser then lays out only the last one again. Long lines
// without an end begin a new box too, at a space.
const LONG_PARAGRAPH = 20_000;

function prose(root) {
  let box = null, node = null;
  const write = (s) => {
    if (!s) return;
    if (!box) {
      box = element("div");
      node = document.createTextNode("");
      box.append(node);
      root.append(box);
    }
    node.appendData(s);
  };
  return (text) => {
    for (const part of text.split(/(?<=\n)/)) {
      for (let from = 0; from < part.length;) {
        let to = part.length;
        if (to - from > LONG_PARAGRAPH) to = part.lastIndexOf(" ", from + LONG_PARAGRAPH) + 1 || from + LONG_PARAGRAPH;
        if (to <= from) to = Math.min(part.length, from + LONG_PARAGRAPH);
        write(part.slice(from, to));
        if (to < part.length) box = null;
        from = to;
      }
      if (part.endsWith("\n")) box = null;
    }
  };
}

// ---- What people do ----------------------------------------------------------------------------------------------------

let run = null;

const sampleTool = {
  name: "get_weather",
  description: "Get the weather at a place.",
  input_schema: {
    type: "object",
    properties: { city: { type: "string", description: "The place" }, unit: { type: "string", enum: ["celsius", "fahrenheit"] } },
    required: ["city"],
  },
};

function send() {
  if (run && !run.over) return;
  const prompt = $("prompt").value.trim();
  if (!prompt) {
    $("prompt").focus();
    return;
  }
  const body = {
    model: $("model").value.trim(),
    max_tokens: Number($("max-tokens").value),
    messages: [{ role: "user", content: prompt }],
  };
  if ($("thinking").checked) body.thinking = { type: "adaptive", display: "summarized" };
  if ($("tool").checked) body.tools = [sampleTool];
  view.clear();
  wire.clear();
  run = new Run();
  view.state("connecting");
  document.querySelector(".answer").scrollIntoView({ block: "nearest" });
  run.begin(body);
}

$("ask").addEventListener("submit", (e) => {
  e.preventDefault();
  if (enabled($("send"))) send();
});

$("ask").addEventListener("keydown", (e) => {
  if (e.key === "Enter" && (e.ctrlKey || e.metaKey) && !e.isComposing) {
    e.preventDefault();
    if (enabled($("send"))) $("ask").requestSubmit();
  }
});

$("drop").addEventListener("click", () => enabled($("drop")) && run.drop());
$("stop").addEventListener("click", () => enabled($("stop")) && run.stop());
$("raw").addEventListener("change", () => {
  wire.raw = $("raw").checked;
  $("wire").classList.toggle("raw", wire.raw);
  for (const row of $("rows").children) fillData(row);
  wire.follower.keep();
});

$("examples")?.addEventListener("click", (e) => {
  const chip = e.target.closest(".chip");
  if (!chip || !enabled(chip)) return;
  $("prompt").value = chip.dataset.prompt;
  $("tool").checked = "tool" in chip.dataset;
  $("thinking").checked = false;
  $("ask").requestSubmit();
});

async function listModels() {
  try {
    const { object } = await ask("GET", "v1/models?limit=100");
    const ids = object.data.map((m) => m.id).filter((id) => typeof id === "string");
    $("models").replaceChildren(...ids.map((id) => {
      const option = element("option");
      option.value = id;
      return option;
    }));
    if (ids.length && !ids.includes($("model").value) && $("model").value === $("model").defaultValue) $("model").value = ids[0];
  } catch { /* the field takes any name */ }
}

if (/Mac|iPhone|iPad/.test(navigator.platform)) $("modifier").textContent = "⌘";
if ($("key")) $("key").addEventListener("change", () => $("key").value.trim() && listModels());
else listModels();
$("prompt").focus({ preventScroll: true });
