// Answers of Claude through Sluice, for browsers and Node. client.d.ts says what each part does.

export class APIError extends Error {
  constructor(message, { status, headers, error, cause, type = error?.error?.type ?? "api_error" } = {}) {
    super(message ?? error?.error?.message ?? `Status ${status}.`, { cause });
    const requestId = error?.request_id ?? headers?.get("request-id");
    Object.assign(this, { name: new.target.name, type, status, headers, error, requestId, requestID: requestId });
  }
}
export class APIConnectionError extends APIError {}
export class APIUserAbortError extends APIError {}

const lost = (message, cause) => new APIConnectionError(message, { type: "connection_error", cause });

const parse = (json) => {
  try {
    return JSON.parse(json);
  } catch {}
};

// Makes one request and hands the response to use, which calls alive at each sign of life: without one for patience ms
// it is over. The key goes to the gateway's own origin alone; an events URL may have come from anywhere.
async function attempt(client, url, init, signal, patience, use) {
  const silence = new AbortController();
  let timer;
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(), patience);
  };
  try {
    alive();
    const response = await client.fetch(url.href, {
      ...init,
      headers: { ...(url.origin === client.baseURL.origin && client.headers), ...init.headers },
      credentials: client.credentials,
      cache: "no-store", // else a browser lets a second reader of the URL wait for the first
      signal: AbortSignal.any([silence.signal, signal]),
    });
    if (response.ok) return await use(response, alive);
    const { status, headers } = response, text = await response.text();
    throw new APIError(undefined, { status, headers, error: parse(text) ?? text });
  } catch (error) {
    if (signal.aborted) throw new APIUserAbortError("The caller left.", { type: "abort_error" });
    if (error instanceof APIError) throw error;
    throw lost(silence.signal.aborted ? `Nothing came for ${patience} ms.` : `The connection failed: ${error.message}`, error);
  } finally {
    clearTimeout(timer);
    silence.abort(); // the rest of the body
  }
}

// Runs until it succeeds, fails for good, or has failed more than limit times without progress.
async function persist(run, limit, delay, signal, told) {
  for (let failures = 0; ; ) {
    try {
      return await run(() => (failures = 0));
    } catch (error) {
      const { status, headers } = error, after = headers?.get("retry-after"), should = headers?.get("x-should-retry");
      const asked = (isNaN(after) ? Date.parse(after) - Date.now() : after * 1000) || 0;
      const again = should ? should === "true" : status >= 500 || [408, 409, 429].includes(status);
      if (!(again || error instanceof APIConnectionError) || asked > 60_000 || ++failures > limit) throw error;
      const wait = Math.max(asked, delay(failures)), over = new AbortController();
      let timer;
      const pause = new Promise((go) => {
        timer = setTimeout(go, wait);
        globalThis.addEventListener?.("online", go, over);
        signal.addEventListener("abort", go, over);
      });
      told?.(error, wait);
      await pause;
      clearTimeout(timer);
      over.abort();
    }
  }
}

// Server-sent events (WHATWG HTML, 9.2.6). A frame without data is no event, but its id counts.
async function* frames(body, alive) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", cr = false, frame = {};
  for (;;) {
    let { done, value: text } = await reader.read();
    if (done) return;
    alive();
    if (cr && text[0] === "\n") text = text.slice(1); // the line end's second half
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
      if (field === "data") frame.data = "data" in frame ? frame.data + "\n" + value : value;
      if (field === "event") frame.event = value;
      if (field === "id" && !value.includes("\0")) frame.id = value;
      if (field === "retry" && /^\d+$/.test(value)) yield { retry: +value };
    }
  }
}

const TOKEN = /\s*("[^"\\]*(?:\\[^][^"\\]*)*"|[[{\]},:]|true|false|null|-?\d[\d.eE+-]*(?=[\s,\]}]))/gy;

// Parses JSON that may be cut short: what is unfinished is dropped, what is open is closed.
function complete(json) {
  let open = "", at = 0, ends = []; // as of each of the last tokens; {"a":1,"b": needs four
  for (const [text, token] of json.matchAll(TOKEN)) {
    at += text.length;
    const close = { "{": "}", "[": "]" }[token];
    open = close ? close + open : token === open[0] ? open.slice(1) : open;
    ends = [json.slice(0, at) + open, ...ends.slice(0, 3)];
  }
  const rest = json.slice(at).trim(), cut = /^"|^[-+.\deE]*$/.test(rest) || " true false null".includes(" " + rest);
  return (cut && ends.map(parse).find((value) => value !== undefined)) || JSON.parse(json || "{}");
}

const inputs = new WeakMap(); // the JSON of a tool's input so far, by block

const setInput = (block, property) => {
  delete block.input; // it moves to the end, as in the SDK
  Object.defineProperty(block, "input", { ...property, enumerable: true, configurable: true });
};

const copy = (from, to, keys = Object.keys(from)) => {
  for (const key of keys) if (from[key] != null) to[key] = from[key];
};

// By kind of delta: the event that it is, what of it is told, and where its block has all so far.
const DELTAS = {
  text_delta: ["text", "text", "text"],
  thinking_delta: ["thinking", "thinking", "thinking"],
  signature_delta: ["signature", "signature", "signature"],
  citations_delta: ["citation", "citation", "citations"],
  input_json_delta: ["inputJson", "partial_json", "input"],
};

// Adds an event to a message as the official SDK does, in its beta form, which knows more.
function accumulate(message, event) {
  const { delta, usage, content_block } = event, block = message.content.at(event.index);
  switch (event.type) {
    case "message_delta":
      for (const key of ["stop_reason", "stop_sequence", "stop_details"]) message[key] = delta[key];
      copy(delta, message);
      copy(event, message, ["context_management", "input_transformations"]);
      copy(usage ?? {}, (message.usage ??= {})); // cumulative
      break;
    case "content_block_start":
      message.content.push(structuredClone(content_block));
      if (content_block.type === "fallback") message.model = content_block.to.model;
      break;
    case "content_block_stop":
      if (inputs.has(block)) setInput(block, { value: complete(inputs.get(block)), writable: true });
      break;
    case "content_block_delta": {
      const [, part, all] = DELTAS[delta.type] ?? [], more = delta[part], was = block[all];
      if (all === "input") {
        const json = (inputs.get(block) ?? "") + more;
        inputs.set(block, json);
        setInput(block, { get: () => complete(json) });
      } else if (all) {
        block[all] = all === "citations" ? [...(was ?? []), more] : all === "signature" ? more : (was ?? "") + more;
      } else if (delta.type === "compaction_delta") {
        Object.assign(block, delta, { type: block.type });
      }
    }
  }
}

export class MessageStream {
  ended = false;
  errored = false;
  aborted = false;
  #client;
  #listeners = {};
  #left = new AbortController();
  #signal;
  #retry = 1000; // ms, until the gateway says another
  #again; // the log is read once more, for the Message alone
  #awaited;
  #loops = 0;
  #waiting = []; // loops that wait for an event
  #last = {}; // event, to which the next is linked: what a loop has not read yet, it alone holds
  #settle;
  #end = new Promise((...settle) => (this.#settle = settle));
  #error;

  constructor(client, eventsUrl, { id, lastEventId = "", signal } = {}) {
    this.#client = client;
    this.eventsUrl = new URL(eventsUrl, client.baseURL).href;
    this.id = id ?? /streams\/([^/]+)\/events/.exec(eventsUrl)?.[1];
    this.lastEventId = lastEventId;
    this.#end.catch(() => {});
    this.#signal = AbortSignal.any([this.#left.signal, ...(signal ? [signal] : [])]);
    queueMicrotask(() => this.#run()); // so that the caller can listen first
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
    this.#awaited = true;
    return new Promise((resolve, reject) => {
      const never = () => reject(this.#error ?? new APIError(`The stream has ended without ${name}.`));
      if (this.ended) never();
      else this.once(name, resolve).once("end", never);
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
    return content.filter(({ type }) => type === "text").map(({ text }) => text).join(" ");
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
        if (at.next) yield (at = at.next).event;
        else if (!this.ended) await new Promise((wake) => this.#waiting.push(wake));
        else if (this.#error) throw this.#error;
        else return;
      }
    } finally {
      if (!--this.#loops) this.abort();
    }
  }

  async #run() {
    const client = this.#client, signal = this.#signal;
    const connect = (progress) => {
      const headers = this.lastEventId && { "last-event-id": this.lastEventId };
      return attempt(client, new URL(this.eventsUrl), { headers }, signal, client.silence,
        (response, alive) => this.#read(response, alive, progress));
    };
    // As the gateway says, then twice as long each time; spread, so that not all come back at once.
    const delay = (failures) => Math.min(this.#retry * 2 ** (failures - 1), 30_000) * (1 + Math.random() / 2);
    const told = (error, retryIn) => this.#emit("disconnect", { reason: error.message, error, retryIn });
    try {
      while (!(await persist(connect, client.maxReconnects, delay, signal, told)));
      this.#emit("message", this.currentMessage);
      this.#emit("finalMessage", this.currentMessage);
    } catch (error) {
      this.#error = error;
      this.errored = true;
      this.aborted = signal.aborted;
      if (!(signal.aborted || this.#awaited || this.#loops || this.#listeners.error?.length)) Promise.reject(error);
      this.#emit(signal.aborted ? "abort" : "error", error);
    }
    this.ended = true;
    this.#settle[+this.errored](this.#error);
    this.#emit("end");
    this.#wake();
  }

  // Reads one connection. True: to the stream's end.
  async #read({ status, headers, body }, alive, progress) {
    this.request_id = headers.get("request-id");
    let end = status === 204;
    if (!end) {
      if (!/^text\/event-stream/.test(headers.get("content-type"))) throw new APIError("This is no event stream.", { status, headers });
      this.#emit("connect");
      for await (const { retry, id, event, data } of frames(body, alive)) {
        this.#signal.throwIfAborted();
        if (retry) this.#retry = retry;
        this.lastEventId = id ?? this.lastEventId;
        if (data === undefined) continue;
        progress();
        if ((end = this.#take(id, event, data, headers))) break;
      }
      if (!end) throw lost("The connection was closed before the stream's end.");
    }
    if (this.currentMessage) return true;
    if (this.#again) throw new APIError("The stream has no message.");
    this.#again = true; // who came with a cursor has the end, but not the beginning
    this.lastEventId = "";
  }

  // Takes one event. True: the last.
  #take(id, name, data, headers) {
    let event = parse(data);
    const kind = name || event?.type;
    if (!this.#again) this.#emit("sse", { id, event: kind, data });
    if (kind === "ping") return this.#emit("ping");
    if (kind === "error") throw new APIError(undefined, { error: event, headers });
    try {
      event = { ...event, type: kind };
      if (kind === "resync") this.currentMessage = undefined;
      if (kind === "message_start") this.currentMessage = structuredClone(event.message);
      else if (this.currentMessage) accumulate(this.currentMessage, event);
      if (!this.#again) this.#tell(event);
    } catch (cause) { // a Message that lacks something must not look whole
      throw new APIError(`This event makes no sense: ${data}`, { cause, headers });
    }
    return kind === "message_stop";
  }

  #tell(event) {
    const { type, index, delta } = event, block = this.currentMessage?.content.at(index);
    this.#last = this.#last.next = { event };
    this.#wake();
    if (type === "resync") return this.#emit(type, event);
    this.#emit("streamEvent", event, this.currentMessage);
    if (type === "content_block_stop") this.#emit("contentBlock", block);
    const [name, part, all] = DELTAS[delta?.type] ?? [];
    if (this.#listeners[name]) this.#emit(name, delta[part], block?.[all]);
  }

  #wake() {
    for (const wake of this.#waiting.splice(0)) wake();
  }

  #emit(name, ...args) {
    const listeners = this.#listeners[name] ?? [];
    this.#listeners[name] = listeners.filter((l) => !l.once);
    for (const { listener } of listeners) {
      try {
        listener(...args);
      } catch (error) {
        queueMicrotask(() => { throw error; }); // as any uncaught error; the stream has no part in it
      }
    }
  }
}

export default class Sluice {
  constructor({
    baseURL = "/", apiKey, headers, credentials, fetch = (...args) => globalThis.fetch(...args),
    maxRetries = 2, timeout = 600_000, maxReconnects = 10, silence = 45_000,
  } = {}) {
    baseURL = new URL(new URL(baseURL, import.meta.url).href.replace(/\/*$/, "/"));
    headers = { ...(apiKey && { "x-api-key": apiKey }), ...headers };
    Object.assign(this, { baseURL, headers, credentials, fetch, maxRetries, timeout, maxReconnects, silence });
  }

  async stream(body, { idempotencyKey = crypto.getRandomValues(new Uint32Array(4)).join("-"), headers, signal } = {}) {
    headers = { "idempotency-key": idempotencyKey, ...headers };
    const { id, events_url } = await this.request({ method: "POST", path: "/v1/streams", body, headers, signal });
    // By the way that has led here; the gateway may know itself by another name.
    const { pathname, search } = new URL(events_url, this.baseURL);
    return this.resume("." + pathname + search, { id, signal });
  }

  resume(eventsUrl, options) {
    return new MessageStream(this, eventsUrl, options);
  }

  request({ method, path, body, headers, signal = new AbortController().signal }) {
    const init = { method, headers: { ...(body && { "content-type": "application/json" }), ...headers }, body: JSON.stringify(body) };
    const run = () => attempt(this, new URL("." + path, this.baseURL), init, signal, this.timeout, (response) => response.json());
    return persist(run, this.maxRetries, (failures) => Math.min(500 * 2 ** (failures - 1), 8000) * (1 - Math.random() / 4), signal);
  }
}
