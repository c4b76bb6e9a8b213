// Sluice's client; client.d.ts says what it promises.

export class APIError extends Error {
  constructor(message, { status, headers, error, cause, type = error?.error?.type ?? "api_error" } = {}) {
    super(message ?? error?.error?.message ?? `Status ${status}.`, { cause });
    const requestId = error?.request_id ?? headers?.get("request-id");
    Object.assign(this, { name: new.target.name, type, status, headers, error, requestId, requestID: requestId });
  }
}
export class APIConnectionError extends APIError {}
export class APIUserAbortError extends APIError {}

const parse = (json) => {
  try {
    return JSON.parse(json);
  } catch {}
};

// Tries until use succeeds, or fails for good or too often. Without alive() for pace.patience ms a try fails.
async function ask(client, path, pace, signal, use) {
  for (;;) {
    const url = new URL(path, client.baseURL), { headers, ...init } = pace.init();
    let over = new AbortController(), timer, failure;
    const alive = () => {
      clearTimeout(timer);
      timer = setTimeout(() => over.abort(), pace.patience);
    };
    alive();
    try {
      const response = await client.fetch.call(undefined, url.href, {
        ...init,
        // An events URL may come from anywhere.
        headers: { ...(url.origin === client.baseURL.origin && client.headers), ...headers },
        credentials: client.credentials,
        redirect: "manual",
        cache: "no-store", // else a second reader waits for the first
        signal: AbortSignal.any([over.signal, signal]),
      });
      if (response.ok) return await use(response, alive);
      const text = await response.text();
      throw new APIError(undefined, { status: response.status, headers: response.headers, error: parse(text) ?? text });
    } catch (cause) {
      if (signal.aborted) throw new APIUserAbortError("The caller left.", { type: "abort_error" });
      const why = over.signal.aborted ? `No byte for ${pace.patience} ms.` : cause.message;
      failure = cause instanceof APIError ? cause : new APIConnectionError(why, { type: "connection_error", cause });
    } finally {
      clearTimeout(timer);
      over.abort(); // the rest of the body
    }
    const { status, headers: said } = failure, asked = said?.get("retry-after") * 1e3 || 0, should = said?.get("x-should-retry");
    const may = should ? should === "true" : status >= 500 || [408, 409, 429].includes(status) || failure instanceof APIConnectionError;
    if (!may || asked > 6e4 || pace.failures++ >= pace.limit) throw failure;
    // Spread, lest all come at once.
    const wait = Math.max(asked, Math.min(pace.base * 2 ** (pace.failures - 1), 3e4)) * (1 + Math.random() / 2);
    over = new AbortController();
    const rest = new Promise((go) => {
      timer = setTimeout(go, wait);
      asked || globalThis.addEventListener?.("online", go, over);
      signal.addEventListener("abort", go, over);
    });
    pace.told?.(failure, wait);
    await rest;
    clearTimeout(timer);
    over.abort();
  }
}

// WHATWG HTML, 9.2.6. The id of a frame without data counts too.
async function* frames(body, alive) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", cr = false, frame = {};
  for (;;) {
    let { done, value: text } = await reader.read();
    if (done) throw Error("The connection was closed early.");
    alive();
    if (cr && text[0] === "\n") text = text.slice(1); // half a line end
    cr = text.endsWith("\r");
    const lines = text.split(/\r\n|\r|\n/);
    lines[0] = rest + lines[0];
    rest = lines.pop();
    for (const line of lines) {
      const [, field, value] = /^([^:]*):? ?([^]*)/.exec(line);
      if (!line) {
        yield frame;
        frame = {};
      }
      if (field === "data") frame.data = frame.data?.concat("\n", value) ?? value;
      if (field === "event") frame.event = value;
      if (field === "id" && !value.includes("\0")) frame.id = value;
      if (field === "retry" && /^\d+$/.test(value)) yield { retry: +value };
    }
  }
}

// Parses JSON that may be cut short.
function complete(json) {
  let open = "", ends = []; // closed after the last token, or after one of those before: a comma, a key
  const token = /\s*("[^"\\]*(?:\\[^][^"\\]*)*"|[[{\]},:]|true|false|null|-?\d[\d.eE+-]*(?=[\s,\]}]))/gy;
  const rest = json.replace(token, (text, token, at) => {
    const close = { "{": "}", "[": "]" }[token];
    open = close ? close + open : token === open[0] ? open.slice(1) : open;
    ends = [json.slice(0, at + text.length) + open, ...(/[",:]/.test(token) ? ends.slice(0, 3) : [])];
    return "";
  }).trim();
  const cut = /^"|^[-+.\deE]*$/.test(rest) || " true false null".includes(" " + rest);
  return (cut && ends.map(parse).find(Boolean)) || JSON.parse(json.trim() || "{}");
}

const inputs = new WeakMap(); // JSON so far, by open block

const close = (block) => {
  if (!inputs.has(block)) return;
  delete block.input; // to the end, as in the SDK
  block.input = complete(inputs.get(block));
  inputs.delete(block);
};

const copy = (from, to) => {
  for (const key in from) if (from[key] != null) to[key] = from[key];
};

// The event, what of the delta it tells, and where the block has all so far.
const DELTAS = {
  text_delta: ["text"],
  thinking_delta: ["thinking"],
  signature_delta: ["signature"],
  citations_delta: ["citation", "citation", "citations"],
  input_json_delta: ["inputJson", "partial_json", "input"],
};

// As the official SDK does, in its beta form, which knows more.
function accumulate(message, { type, index, delta, usage, content_block, ...more }) {
  const { content } = message, block = content.at(index);
  if (type === "message_start") throw Error("two answers");
  if (type === "message_delta") {
    for (const key of ["stop_reason", "stop_sequence", "stop_details"]) message[key] = delta[key];
    copy(delta, message);
    copy(more, message); // context_management
    copy(usage, (message.usage ??= {})); // cumulative
  }
  if (type === "content_block_start") {
    content.push(structuredClone(content_block));
    if (content_block.type === "fallback") message.model = content_block.to.model;
  }
  if (type === "content_block_stop") close(block);
  if (type === "message_stop") content.forEach(close);
  if (type === "content_block_delta") {
    const [name, part = name, all = part] = DELTAS[delta.type] ?? [], was = block[all] ?? "", news = delta[part];
    if (all === "input") inputs.set(block, (inputs.get(block) ?? "") + news);
    else if (all === "citations") block[all] = [...was, news];
    else if (all) block[all] = all === "signature" ? news : was + news;
    else if (delta.type === "compaction_delta") Object.assign(block, delta, { type: block.type });
  }
}

export class MessageStream {
  ended = false;
  errored = false;
  aborted = false;
  #client;
  #signal;
  #left = new AbortController();
  #listeners = {};
  #pace;
  #again; // for the Message alone
  #awaited;
  #loops = 0;
  #last = {}; // event, linked to the next: only loops hold what they have not read
  #end;

  constructor(client, eventsUrl, { id, lastEventId = "", signal } = {}) {
    this.#client = client;
    this.#signal = AbortSignal.any([this.#left.signal, signal ?? this.#left.signal]);
    this.eventsUrl = new URL(eventsUrl, client.baseURL).href;
    this.id = id ?? /streams\/([^/]+)\/events/.exec(eventsUrl)?.[1];
    this.lastEventId = lastEventId;
    this.#end = this.#run();
  }

  on(name, listener, once) {
    (this.#listeners[name] ??= []).push({ listener, once });
    return this;
  }

  once(name, listener) {
    return this.on(name, listener, true);
  }

  off(name, listener) {
    this.#listeners[name] = this.#listeners[name]?.filter((l) => l.listener !== listener);
    return this;
  }

  emitted(name) {
    return new Promise((resolve, reject) => {
      this.once(name, resolve).done().then(() => reject(new APIError(`The stream ended without ${name}.`)), reject);
    });
  }

  done() {
    this.#awaited = true;
    return this.#end;
  }

  async finalMessage() {
    await this.done();
    return this.currentMessage;
  }

  async finalText() {
    const { content } = await this.finalMessage();
    return content.flatMap(({ type, text }) => (type === "text" ? text : [])).join(" ");
  }

  abort() {
    this.#left.abort();
  }

  cancel() {
    return this.#client.request({ method: "POST", path: `/v1/streams/${this.id}/cancel` });
  }

  [Symbol.asyncIterator]() {
    return this.#loop(this.#last);
  }

  async *#loop(at) {
    this.#loops++;
    try {
      for (;;) {
        while (at.next) yield (at = at.next).event;
        if (this.ended) return await this.#end;
        await new Promise((go) => this.once("more", go));
      }
    } finally {
      if (!--this.#loops) this.abort();
    }
  }

  async #run() {
    const client = this.#client, signal = this.#signal;
    this.#pace = {
      base: 1e3, failures: 0, limit: client.maxReconnects, patience: client.silence,
      init: () => ({ headers: this.lastEventId && { "last-event-id": this.lastEventId } }),
      told: (error, retryIn) => this.#emit("disconnect", { reason: error.message, error, retryIn }),
    };
    try {
      while (!(await ask(client, this.eventsUrl, this.#pace, signal, (...got) => this.#read(...got))));
      this.#emit("message", this.currentMessage);
      this.#emit("finalMessage", this.currentMessage);
    } catch (error) {
      this.errored = true;
      this.aborted = signal.aborted;
      const heard = signal.aborted || this.#awaited || this.#loops || this.#listeners.error?.length;
      if (heard) this.#end.catch(() => {}); // else it is an unhandled rejection
      this.#emit(signal.aborted ? "abort" : "error", error);
      throw error;
    } finally {
      this.ended = true;
      this.#emit("end");
      this.#emit("more");
    }
  }

  // True: to the end.
  async #read({ status, headers, body }, alive) {
    this.request_id = headers.get("request-id");
    if (status !== 204) {
      if (!/^text\/event-stream/.test(headers.get("content-type"))) throw new APIError("This is no event stream.", { status, headers });
      this.#emit("connect");
      for await (const { retry, id, event, data } of frames(body, alive)) {
        this.#signal.throwIfAborted();
        if (retry) this.#pace.base = retry;
        this.lastEventId = id ?? this.lastEventId;
        if (data === undefined) continue;
        this.#pace.failures = 0;
        if (this.#take(id, event, data, headers)) break;
      }
    }
    if (this.currentMessage) return true;
    if (this.#again) throw new APIError("The stream has no message.");
    this.#again = true; // a cursor leaves out the beginning
    this.lastEventId = "";
  }

  // True: the last event.
  #take(id, name, data, headers) {
    let event = parse(data);
    const kind = name || event?.type;
    if (!this.#again) this.#emit("sse", { id, event: kind, data });
    if (kind === "ping") return this.#emit("ping");
    if (kind === "error") throw new APIError(undefined, { error: event, headers });
    try {
      event = { ...event, type: kind };
      if (kind === "resync") this.currentMessage = undefined;
      if (this.currentMessage) accumulate(this.currentMessage, event);
      else if (kind === "message_start") this.currentMessage = structuredClone(event.message);
      if (!this.#again) this.#tell(event);
    } catch (cause) { // a Message with a gap must not look whole
      throw new APIError(`This event makes no sense: ${data}`, { cause, headers });
    }
    return kind === "message_stop";
  }

  #tell(event) {
    const { type, index, delta } = event, block = this.currentMessage?.content.at(index);
    this.#last = this.#last.next = { event };
    this.#emit("more");
    if (type === "resync") return this.#emit(type, event);
    this.#emit("streamEvent", event, this.currentMessage);
    if (type === "content_block_stop") this.#emit("contentBlock", block);
    const [name, part = name, all = part] = DELTAS[delta?.type] ?? [];
    if (this.#listeners[name]) this.#emit(name, delta[part], inputs.has(block) ? complete(inputs.get(block)) : block?.[all]);
  }

  #emit(name, ...args) {
    const listeners = this.#listeners[name] ?? [];
    this.#listeners[name] = listeners.filter((l) => !l.once);
    for (const { listener } of listeners) (async () => listener(...args))(); // its failure is not the stream's
  }
}

export default class Sluice {
  constructor({
    baseURL = "/", apiKey, headers, credentials, fetch = globalThis.fetch,
    maxRetries = 2, timeout = 6e5, maxReconnects = 10, silence = 45e3,
  } = {}) {
    baseURL = new URL(`${baseURL}`.replace(/\/*$/, "/"), import.meta.url);
    headers = { ...(apiKey && { "x-api-key": apiKey }), ...headers };
    Object.assign(this, { baseURL, headers, credentials, fetch, maxRetries, timeout, maxReconnects, silence });
  }

  async stream(body, { idempotencyKey = crypto.getRandomValues(new Uint32Array(4)).join("-"), headers, signal } = {}) {
    headers = { "idempotency-key": idempotencyKey, ...headers };
    const { id, events_url } = await this.request({ method: "POST", path: "/v1/streams", body, headers, signal });
    // By the way that led here: the gateway may know itself by another name.
    const { pathname, search } = new URL(events_url, this.baseURL);
    return this.resume("." + pathname + search, { id, signal });
  }

  resume(eventsUrl, options) {
    return new MessageStream(this, eventsUrl, options);
  }

  request({ method, path, body, headers, signal = AbortSignal.any([]) }) {
    headers = { ...(body && { "content-type": "application/json" }), ...headers };
    const init = () => ({ method, headers, body: JSON.stringify(body) });
    const pace = { base: 500, failures: 0, limit: this.maxRetries, patience: this.timeout, init };
    return ask(this, "." + path, pace, signal, (response) => response.json());
  }
}
