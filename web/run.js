// One stream as this page reads it: from the request, over lost connections, to its end, and a look at whether what was
// read is what the gateway has.

import { APIConnectionError } from "./client.js";
import { contentOf, difference } from "./answer.js";
import { count, duration, number } from "./dom.js";
import { Record } from "./record.js";

const AWAY = 1000; // ms between a drop by hand and the return, at least; long enough to be seen
const TRIES = 3;   // of a request that gets no answer

// Run reads the stream of a turn and keeps in the turn what has to survive a reload. It calls back:
//
//	changed()     something is new
//	fresh()       what was read is void, and begins again
//	ended()       it is over, whichever way
export class Run {
  record = new Record();
  state = "connecting";
  over = false;
  stopping = false;
  queued = false;    // it waits in the gateway's queue, as far as is known
  quiet = true;      // no event has come over this connection
  stream = null;
  drops = [];        // sentences on the times without a connection that are over
  returning = null;  // such a time, until the first event after it
  verdict = null;    // {tone, text}
  partial = "";      // JSON of the input of a tool that is being called
  last = null;       // the gateway's own Message, where the end was not read

  constructor({ turn, client, line, connections, changed, fresh, ended }) {
    Object.assign(this, { turn, client, line, connections, changed, fresh, ended });
    this.queued = Boolean(turn.queued); // maybe not any more
  }

  get message() { return this.last ?? this.stream?.currentMessage ?? this.turn.message; }

  // start asks for an answer. The same request with the same key joins the stream that it has begun, so one whose
  // connection broke off is made again. A reload breaks connections off too, just before the page is gone.
  async start(params) {
    for (let tries = 1; ; tries++) {
      this.record.note("POST", "/v1/streams");
      this.changed();
      try {
        const stream = await this.client.stream(params, { idempotencyKey: this.turn.key, headers: this.turn.headers });
        if (this.over) return this.giveUp(stream);
        this.record.note(this.turn.headers?.prefer ? "202" : "201", stream.id);
        return this.follow(stream);
      } catch (e) {
        if (this.over) return;
        if (!(e instanceof APIConnectionError) || tries === TRIES) return this.fail(e);
        this.record.note("no answer", `again in ${duration(AWAY)}`, "warn");
        this.changed();
        await new Promise((resolve) => setTimeout(resolve, AWAY));
        if (this.over) return;
      }
    }
  }

  // giveUp is for a stream that begins after it was stopped, or left.
  async giveUp(stream) {
    stream.on("error", () => {}); // it is what we ask for
    if (this.stopping) await stream.cancel().catch(() => {});
    stream.abort();
  }

  // resume reads a stream that is there already, from its beginning: what was shown before a reload may be less than what
  // had come, and is never needed.
  resume(eventsUrl) {
    this.record.note("resumed", "from the beginning");
    this.follow(this.client.resume(eventsUrl));
  }

  follow(stream) {
    this.stream = stream;
    Object.assign(this.turn, { eventsUrl: stream.eventsUrl, id: stream.id });
    stream
      .on("connect", () => this.connected())
      .on("sse", (frame) => this.take(frame))
      .on("streamEvent", (event) => this.hear(event))
      .on("disconnect", (info) => this.disconnected(info))
      .on("resync", () => this.resync())
      .on("error", (e) => this.fail(e))
      .on("end", () => this.over || this.end("completed"));
    this.changed();
  }

  connected() {
    const away = this.record.back();
    this.returning ??= away ?? null;
    this.record.note("connected", away ? `after ${duration(away.to - away.from)}` : "", away ? "good" : "");
    this.quiet = true;
    this.enter(this.queued ? "queued" : "streaming");
  }

  // heard is what the gateway's list says of the stream. Events know better, and the list may be older than they.
  heard(status) {
    if (!this.quiet) return;
    this.queued = status === "queued";
    if (this.state === "queued" || this.state === "streaming") this.enter(this.queued ? "queued" : "streaming");
  }

  disconnected({ reason, retryIn }) {
    if (!this.record.away) { // by hand, it is noted already
      this.record.leave(false);
      this.record.note("connection lost", `${at(this.stream.lastEventId)}: ${reason}; the next one in ${duration(retryIn)}`, "warn");
    }
    this.enter("reconnecting");
  }

  take(frame) {
    const entry = this.record.event({ name: frame.event, id: frame.id, data: frame.data });
    if (entry.id === "lost") this.lost = true;
    if (entry.n) this.begins();
    if (this.returning && entry.n) {
      const { n, from, to, byHand } = this.returning;
      const ids = entry.merged > 1 ? `ids ${number(entry.n - entry.merged + 1)}–${number(entry.n)}, in one event` : `id ${entry.id}`;
      this.drops.push(`${byHand ? "Dropped" : "Connection lost"} ${n ? `at id ${number(n)}` : "before the first event"} → resumed at ${ids}, after ${duration(to - from)}.`);
      this.returning = null;
    }
    this.changed();
  }

  // begins: an event has come.
  begins() {
    this.quiet = this.queued = false;
    if (this.state === "queued") this.enter("streaming");
  }

  // hear keeps a tool's input as it comes; in the Message it is only once it is whole. What was read before a reload is
  // void once all of it comes again, and not before: the stream may be lost.
  hear({ type, delta }) {
    if (type === "message_start" && this.turn.message) {
      this.turn.message = undefined;
      this.fresh();
    }
    if (type === "content_block_start") this.partial = "";
    if (delta?.type === "input_json_delta") this.partial += delta.partial_json;
    this.changed();
  }

  resync() {
    this.returning = null;
    this.drops.push("The gateway doesn’t know this place, and begins again.");
    this.fresh();
    this.changed();
  }

  // drop cuts the connection by hand. The client comes back as it does after any other loss.
  drop() {
    this.record.leave(true);
    this.record.note("dropped", `${at(this.stream.lastEventId)}, by hand`, "warn");
    this.enter("reconnecting");
    this.line.cut(AWAY);
  }

  // stop cancels the stream. Where the browser has no connection left for that, this page's own has to give way.
  async stop() {
    this.stopping = true;
    if (!this.stream) {
      this.problem = { type: "canceled_error", message: "Stopped before the answer began." };
      return this.end("canceled");
    }
    this.record.note("POST", "/v1/streams/…/cancel");
    this.changed();
    const gaveWay = this.connections.full;
    if (gaveWay) this.drop();
    try {
      const object = await this.stream.cancel();
      if (gaveWay && !this.over) this.settle(object); // the way back may take long; the answer says all that would come
    } catch (e) {
      this.stopping = false;
      if (!this.over) this.problem = said(e);
      this.changed();
    }
  }

  // settle ends the run with what the gateway says of the stream.
  settle({ status, message, error }) {
    this.last = message;
    if (error) this.problem = { ...error, stream: this.turn.id };
    this.end(status === "abandoned" ? "canceled" : status);
    this.stream.abort();
  }

  // leave stops reading; the answer goes on without this page.
  leave() {
    if (this.over) return;
    this.over = true;
    this.record.end();
    this.stream?.abort();
  }

  fail(e) {
    this.problem = said(e, this.turn.id);
    if (!this.stream) this.record.note(String(e.status ?? "no answer"), e.type ?? "", "bad");
    this.end(this.lost ? "lost" : e.type === "canceled_error" ? "canceled" : "failed");
  }

  enter(state) {
    if (this.over) return;
    this.state = state;
    this.changed();
  }

  end(state) {
    if (this.over) return;
    this.over = true;
    this.state = state;
    this.record.outcome = state;
    this.record.end();
    this.ended();
    this.changed();
  }

  // compare lays what stands on the page beside what the gateway has accumulated by itself.
  async compare(contents) {
    if (!this.turn.id || this.lost) return;
    let theirs;
    try {
      theirs = (await this.client.request({ method: "GET", path: `/v1/streams/${this.turn.id}` })).message?.content ?? [];
    } catch (e) {
      // A page that is left meanwhile loses the request, and may come back out of the back/forward cache.
      if (!e.status) addEventListener("pageshow", () => this.compare(contents), { once: true });
      const why = e.status === 401 ? "is shown to its owner’s key only" : "could not be fetched";
      this.verdict = { tone: "quiet", text: `The gateway’s own copy ${why}, so nothing is said here of lost or repeated characters.` };
      return this.changed();
    }
    let lost = 0, repeated = 0, all = 0, skipped = 0;
    for (let i = 0; i < Math.max(contents.length, theirs.length); i++) {
      const theirContent = contentOf(theirs[i]), ours = contents[i] ?? "";
      const open = this.state !== "completed" && theirs[i]?.input !== undefined; // cut short, each shows it in its own way
      if (ours === null || theirContent === null || open) {
        skipped++;
        continue;
      }
      const [missing, extra] = difference(ours, theirContent);
      lost += missing;
      repeated += extra;
      all += theirContent.length;
    }
    const without = skipped ? `, without ${count(skipped, "block")} of other kinds` : "";
    this.verdict = {
      tone: lost === 0 && repeated === 0 ? "good" : "bad",
      text: `${count(lost, "character")} lost, ${number(repeated)} repeated: compared with the gateway’s own copy of ${number(all)}${without}.`,
    };
    this.changed();
  }
}

const at = (id) => (id ? `at id ${id}` : "before the first event");

// said is an error as it is shown and kept.
export function said(e, stream) {
  const offline = e instanceof APIConnectionError;
  return {
    type: e.type ?? "error",
    message: e.error?.error?.message ?? (offline ? "The gateway can’t be reached, or the connection broke off too often." : e.message),
    status: e.status,
    requestId: e.requestId,
    retryAfter: e.headers?.get("retry-after") ?? undefined,
    stream,
  };
}
