// What the tests of client.js share: a gateway that answers as told, and events to tell.
import { afterEach, beforeEach, mock } from "node:test";
import Sluice from "./client.js";

const utf8 = new TextEncoder();

/** An event stream that sends these chunks (text or bytes) and then "close"s, "break"s, or "hang"s until it is left. */
export function events(chunks, then = "close", headers = {}) {
  return (signal) => {
    const waiting = [].concat(chunks);
    const body = new ReadableStream({
      start: (stream) => signal?.addEventListener("abort", () => {
        try {
          stream.error(signal.reason);
        } catch { /* it is over */ }
      }),
      pull(stream) {
        if (waiting.length) {
          const chunk = waiting.shift();
          stream.enqueue(typeof chunk === "string" ? utf8.encode(chunk) : chunk);
        } else if (then === "close") {
          stream.close();
        } else if (then === "break") {
          stream.error(new TypeError("terminated"));
        } else {
          return new Promise(() => {});
        }
      },
    }, { highWaterMark: 0 });
    return new Response(body, { headers: { "content-type": "text/event-stream; charset=utf-8", "request-id": "req_1", ...headers } });
  };
}

export const json = (status, object, headers = {}) => () =>
  new Response(JSON.stringify(object), { status, headers: { "content-type": "application/json", "request-id": "req_1", ...headers } });

export const refusal = (status, type, headers) => json(status, { type: "error", error: { type, message: `a ${type}` }, request_id: "req_2" }, headers);

export const nothing = () => new Response(null, { status: 204 });

/** No answer at all, until the caller leaves. */
export const silence = (signal) => new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));

export const unreachable = () => Promise.reject(new TypeError("fetch failed"));

/** A client whose requests get these answers, one after the other; the last one is given again and again. */
export function scripted(answers, options) {
  const requests = [];
  const fetch = async (url, init) => {
    init.signal?.throwIfAborted();
    requests.push({ url, method: init.method ?? "GET", headers: Object.fromEntries(new Headers(init.headers)), body: init.body, init });
    return answers[Math.min(requests.length, answers.length) - 1](init.signal);
  };
  return { client: new Sluice({ baseURL: "http://gateway.test", fetch, ...options }), requests };
}

export const eventsURL = "http://gateway.test/v1/streams/strm_1/events?ticket=t";

export const frame = (data, id) => `${id ? `id: ${id}\n` : ""}event: ${data.type}\ndata: ${JSON.stringify(data)}\n\n`;

/** The events of an answer with these text deltas, numbered from 1. */
export function answer(...texts) {
  const all = [
    { type: "message_start", message: { id: "msg_1", type: "message", role: "assistant", model: "claude-x", content: [], stop_reason: null, stop_sequence: null, usage: { input_tokens: 3, output_tokens: 1 } } },
    { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } },
    ...texts.map((text) => ({ type: "content_block_delta", index: 0, delta: { type: "text_delta", text } })),
    { type: "content_block_stop", index: 0 },
    { type: "message_delta", delta: { stop_reason: "end_turn", stop_sequence: null }, usage: { output_tokens: 9 } },
    { type: "message_stop" },
  ];
  return all.map((data, i) => frame(data, i + 1));
}

export const ping = 'event: ping\ndata: {"type": "ping"}\n\n';

export const ask = (content, more) => ({ model: "claude-sonnet-4-6", max_tokens: 4096, messages: [{ role: "user", content }], ...more });

/** Gives everything that waits its turn. */
export async function settle() {
  for (let i = 0; i < 20; i++) await new Promise(setImmediate);
}

/** The error that a promise must be rejected with. */
export const failure = (promise) => promise.then((value) => Promise.reject(new Error(`should have failed, not given ${JSON.stringify(value)}`)), (error) => error);

/** Makes time stand still in each test of a file, until pass lets it go on; and lets nothing be left to chance. */
export function tellTime() {
  beforeEach(() => {
    mock.timers.enable({ apis: ["setTimeout"] });
    mock.method(Math, "random", () => 0);
  });
  afterEach(() => mock.reset());
  afterEach(() => mock.timers.reset());
}

/** Lets a time pass, in steps in which what is due can happen. */
export async function pass(ms) {
  for (let left = ms; left > 0; left -= 250) {
    await settle();
    mock.timers.tick(Math.min(250, left));
  }
  await settle();
}
