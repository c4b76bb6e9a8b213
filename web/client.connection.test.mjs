// client.js: what it does about connections. The gateway is scripted, and time is what the test says it is.
import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { APIConnectionError, APIError, APIUserAbortError } from "./client.js";
import { answer, ask, events, eventsURL, failure, json, nothing, pass, ping, refusal, scripted, settle, silence, tellTime, unreachable } from "./client.testing.mjs";

tellTime();

/** Everything that a stream tells, by name. */
function listen(stream) {
  const told = [];
  for (const name of ["connect", "text", "disconnect", "resync", "ping", "message", "finalMessage", "error", "abort", "end"]) {
    stream.on(name, (...args) => told.push([name, ...args]));
  }
  return told;
}
const named = (told, name) => told.filter((event) => event[0] === name).map((event) => event[1]);

const lost = 'id: lost\nevent: error\ndata: {"type":"error","error":{"type":"api_error","message":"The stream was lost."},"request_id":"req_9"}\n\n';

test("a stream that is cut after any event goes on after it, without a gap or a repetition", async () => {
  const wire = answer("one ", "two ", "three");
  for (const how of ["close", "break"]) {
    for (let at = 0; at < wire.length; at++) {
      const { client, requests } = scripted([events(["retry: 500\n\n", ...wire.slice(0, at), "id: 99\nda"], how), events(wire.slice(at))]);
      const stream = client.resume(eventsURL);
      const told = listen(stream);
      const seen = [];
      stream.on("streamEvent", (event) => seen.push(event));
      await pass(600);
      assert.equal(await stream.finalText(), "one two three");
      assert.deepEqual(seen.map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`), wire.map((text) => text.replace(/^id.*\n/, "")));
      assert.deepEqual(requests.map((r) => r.headers["last-event-id"]), [undefined, at ? String(at) : undefined]);
      assert.deepEqual(told.map(([name]) => name).filter((name) => name !== "text"), ["connect", "disconnect", "connect", "message", "finalMessage", "end"]);
      assert.equal(stream.lastEventId, String(wire.length));
      assert.equal(requests[1].init.cache, "no-store");
    }
  }
});

test("it waits as long as the gateway says, twice as long each time, and gives up with a typed error", async () => {
  const { client, requests } = scripted([events(["retry: 2000\n\nretry: 7s\nretry:\nretry: 0\nretry: -5\nretry: 1e1\n\n: try again\n\n"]), unreachable]);
  const stream = client.resume(eventsURL);
  const told = listen(stream);
  const failed = failure(stream.finalMessage());
  const waits = [2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000, 30_000, 30_000, 30_000];
  for (const [i, wait] of waits.entries()) {
    await pass(wait - 1);
    assert.equal(requests.length, i + 1);
    await pass(1);
    assert.equal(requests.length, i + 2);
  }
  const error = await failed;
  assert.ok(error instanceof APIConnectionError && error instanceof APIError);
  assert.deepEqual([error.type, error.status, error.message, error.cause.message], ["connection_error", undefined, "fetch failed", "fetch failed"]);
  assert.deepEqual(named(told, "disconnect").map((d) => d.retryIn), waits);
  assert.match(named(told, "disconnect")[0].reason, /closed/);
  assert.ok(named(told, "disconnect")[1].error instanceof APIConnectionError);
  assert.deepEqual([stream.ended, stream.errored, stream.aborted], [true, true, false]);
  await pass(60_000);
  assert.equal(requests.length, 11);
});

test("waits are spread, upwards by half", async () => {
  mock.method(Math, "random", () => 1);
  const { client } = scripted([unreachable]);
  const told = listen(client.resume(eventsURL));
  await pass(1);
  assert.deepEqual(named(told, "disconnect").map((d) => d.retryIn), [1500]);
  mock.timers.reset();
});

test("every event ends the row of failures, a ping too", async () => {
  const [start, block, ...rest] = answer("a");
  const { client, requests } = scripted([events(start), events(ping), unreachable, unreachable, events(block), unreachable, unreachable, events(rest)], { maxReconnects: 3 });
  const stream = client.resume(eventsURL);
  const told = listen(stream);
  await pass(20_000);
  assert.equal(await stream.finalText(), "a");
  assert.equal(requests.length, 8);
  assert.deepEqual(named(told, "disconnect").map((d) => d.retryIn), [1000, 1000, 2000, 4000, 1000, 2000, 4000]);
});

test("a refusal for good is a typed error at once", async () => {
  for (const [status, type] of [[400, "invalid_request_error"], [401, "authentication_error"], [403, "permission_error"], [404, "not_found_error"]]) {
    const { client, requests } = scripted([refusal(status, type)]);
    const error = await failure(client.resume(eventsURL).finalMessage());
    assert.ok(error instanceof APIError);
    assert.deepEqual([error.name, error.status, error.type, error.message, error.requestId, error.requestID], ["APIError", status, type, `a ${type}`, "req_2", "req_2"]);
    assert.equal(error.error.error.type, type);
    assert.equal(error.headers.get("request-id"), "req_1");
    assert.equal(requests.length, 1);
  }
});

test("what is no event stream is a typed error, and so is a page of a proxy", async () => {
  const page = (status) => () => new Response("<html>", { status, headers: { "content-type": "text/html" } });
  for (const [of, status] of [[page(200), 200], [page(404), 404], [json(200, {}), 200]]) {
    const { client } = scripted([of]);
    const error = await failure(client.resume(eventsURL).finalMessage());
    assert.ok(error instanceof APIError);
    assert.deepEqual([error.status, error.type], [status, "api_error"]);
  }
});

test("a refusal for now is asked again, when it says; never when it says no, or in more than a minute", async () => {
  for (const [of, wait] of [
    [refusal(503, "api_error"), 1000],
    [refusal(529, "overloaded_error", { "retry-after": "5" }), 5000],
    [refusal(429, "rate_limit_error", { "retry-after": "60" }), 60_000],
    [refusal(429, "rate_limit_error", { "retry-after": "61" })],
    [refusal(429, "rate_limit_error", { "retry-after": "5", "x-should-retry": "false" })],
    [refusal(418, "teapot_error", { "x-should-retry": "true" }), 1000],
    [refusal(408, "timeout_error", { "retry-after": "nonsense" }), 1000],
  ]) {
    const { client, requests } = scripted([of, events(answer("a"))]);
    const stream = client.resume(eventsURL);
    if (wait === undefined) {
      assert.ok(await failure(stream.finalMessage()) instanceof APIError);
      assert.equal(requests.length, 1);
      continue;
    }
    await pass(wait - 1);
    assert.equal(requests.length, 1);
    await pass(1);
    assert.equal(await stream.finalText(), "a");
  }
});

test("a connection that says nothing is made anew; pings keep it", async () => {
  const wire = answer("a");
  const { client, requests } = scripted([silence, events(wire.slice(0, 2), "hang"), events(wire.slice(2))]);
  const stream = client.resume(eventsURL);
  const told = listen(stream);
  await pass(45_000);
  assert.match(named(told, "disconnect")[0].reason, /45000 ms/);
  await pass(1000 + 44_000);
  assert.equal(requests.length, 2);
  await pass(1000 + 1000);
  assert.equal(requests.length, 3);
  assert.equal(requests[2].headers["last-event-id"], "2");
  assert.equal(await stream.finalText(), "a");

  let say;
  const pinging = scripted([() => new Response(new ReadableStream({ start: (s) => (say = (text) => s.enqueue(new TextEncoder().encode(text))) }), { headers: { "content-type": "text/event-stream" } })]);
  const long = pinging.client.resume(eventsURL);
  const heard = listen(long);
  for (let i = 0; i < 10; i++) {
    await pass(40_000);
    say(ping);
  }
  await pass(40_000);
  assert.equal(pinging.requests.length, 1);
  assert.equal(named(heard, "ping").length, 10);
  long.abort();
});

test("it goes on at once when the browser is back online", async () => {
  const browser = new EventTarget();
  for (const name of ["addEventListener", "removeEventListener"]) globalThis[name] = browser[name].bind(browser);
  try {
    const { client, requests } = scripted([unreachable, unreachable, events(answer("a"))]);
    const stream = client.resume(eventsURL);
    for (let i = 1; i <= 2; i++) {
      await settle();
      assert.equal(requests.length, i);
      browser.dispatchEvent(new Event("online"));
    }
    await settle();
    assert.equal(await stream.finalText(), "a");

    const told = scripted([refusal(529, "overloaded_error", { "retry-after": "5" }), events(answer("b"))]); // that wait is not its own
    const patient = told.client.resume(eventsURL);
    await settle();
    browser.dispatchEvent(new Event("online"));
    await settle();
    assert.equal(told.requests.length, 1);
    await pass(5000);
    assert.equal(await patient.finalText(), "b");
  } finally {
    delete globalThis.addEventListener;
    delete globalThis.removeEventListener;
  }
});

test("a resync voids what came before, for listeners and for loops", async () => {
  const old = answer("old ", "text");
  const resync = 'event: resync\ndata: {"type":"resync","reason":"new_attempt"}\n\n';
  const fresh = answer("new").map((text) => text.replace("id: ", "id: 2."));
  const { client, requests } = scripted([events(old.slice(0, 4)), events([resync, ...fresh.slice(0, 2)]), events(fresh.slice(2))]);
  const stream = client.resume(eventsURL);
  const told = listen(stream);
  const loop = (async () => {
    const types = [];
    for await (const event of stream) types.push(event.type);
    return types;
  })();
  await pass(3000);
  assert.equal(await stream.finalText(), "new");
  assert.deepEqual(named(told, "resync").map((r) => r.reason), ["new_attempt"]);
  assert.deepEqual(told.filter(([name]) => name === "text").map(([, ...args]) => args), [["old ", "old "], ["text", "old text"], ["new", "new"]]);
  assert.deepEqual((await loop).slice(3, 7), ["content_block_delta", "resync", "message_start", "content_block_start"]);
  assert.deepEqual(requests.map((r) => r.headers["last-event-id"]), [undefined, "4", "2.2"]);
});

test("a stream that was lost says so, and is not asked for again", async () => {
  const { client, requests } = scripted([events(answer("a").slice(0, 3)), events(lost)]);
  const stream = client.resume(eventsURL);
  const failed = failure(stream.finalMessage());
  await pass(1000);
  const error = await failed;
  assert.deepEqual([error.type, error.status, error.requestId, stream.lastEventId], ["api_error", undefined, "req_9", "lost"]);
  assert.equal(stream.currentMessage.content[0].text, "a");
  await pass(60_000);
  assert.equal(requests.length, 2);
});

test("a connection is let go at the stream's end, and with every failure", async () => {
  const wire = answer("a");
  const { client, requests } = scripted([events(wire.slice(0, 2), "break"), silence, refusal(503, "api_error"), events(wire.slice(2), "hang")]);
  const stream = client.resume(eventsURL);
  await pass(1000 + 45_000 + 2000 + 4000);
  assert.equal(await stream.finalText(), "a");
  assert.deepEqual(requests.map((r) => r.init.signal.aborted), [true, true, true, true]);
});

test("an error event is Anthropic's error, and what came before it stays", async () => {
  const { client } = scripted([events([...answer("a").slice(0, 3), 'event: error\ndata: {"type":"error","error":{"details":null,"type":"overloaded_error","message":"Overloaded"}}\n\n'])]);
  const stream = client.resume(eventsURL);
  const told = listen(stream);
  const error = await failure(stream.finalMessage());
  assert.deepEqual([error.type, error.message, error.requestId, stream.request_id], ["overloaded_error", "Overloaded", "req_1", "req_1"]);
  assert.equal(stream.currentMessage.content[0].text, "a");
  assert.deepEqual(told.slice(2).map(([name]) => name), ["error", "end"]);
  assert.equal(named(told, "error")[0], error);
});

test("with a cursor only what follows is told, and the final message is whole all the same", async () => {
  const wire = answer("one ", "two");
  for (const cursor of [3, 4, wire.length]) {
    const rest = wire.slice(cursor);
    const { client, requests } = scripted([rest.length ? events(rest) : nothing, events(wire.slice(0, 3)), events(wire.slice(3))]);
    const stream = client.resume(eventsURL, { lastEventId: String(cursor) });
    const told = listen(stream);
    const frames = [];
    stream.on("sse", (frame) => frames.push(frame.id));
    await pass(1000);
    assert.equal((await stream.finalMessage()).content[0].text, "one two");
    assert.deepEqual(named(told, "text"), cursor === 3 ? ["two"] : []);
    assert.deepEqual(frames, rest.map((_, i) => String(cursor + i + 1)));
    assert.deepEqual(named(told, "finalMessage").length, 1);
    assert.deepEqual(requests.map((r) => r.headers["last-event-id"]), [String(cursor), undefined, "3"]);
    assert.equal(stream.lastEventId, String(wire.length));
  }
  const { client } = scripted([nothing, events(lost)]);
  assert.equal((await failure(client.resume(eventsURL, { lastEventId: "lost" }).finalMessage())).message, "The stream was lost.");
  const empty = scripted([nothing]);
  assert.ok(await failure(empty.client.resume(eventsURL, { lastEventId: "7" }).finalMessage()) instanceof APIError);
  assert.equal(empty.requests.length, 2);
});

test("abort leaves at once, in the middle and between connections", async () => {
  const wire = answer("a", "b");
  for (const [answers, when] of [
    [[silence], (stream) => stream.abort()],
    [[events(wire.slice(0, 3), "hang")], (stream) => stream.abort()],
    [[unreachable], (stream) => stream.abort()],
    [[events(wire.join(""))], (stream) => stream.on("text", () => stream.abort())],
    [[unreachable], (stream) => stream.on("disconnect", () => stream.abort())],
  ]) {
    const { client, requests } = scripted(answers);
    const stream = client.resume(eventsURL);
    const told = listen(stream);
    const loop = failure((async () => {
      for await (const event of stream) void event;
    })());
    const meanwhile = when.length && String(when).includes("on(") ? when(stream) : undefined;
    await settle();
    if (!meanwhile) when(stream);
    const error = await failure(stream.finalMessage());
    assert.ok(error instanceof APIUserAbortError);
    assert.equal(error.type, "abort_error");
    assert.equal(await loop, error);
    assert.deepEqual([stream.ended, stream.errored, stream.aborted], [true, true, true]);
    assert.deepEqual(told.slice(-2).map(([name]) => name), ["abort", "end"]);
    assert.ok(named(told, "text").length <= 1);
    await pass(60_000);
    assert.equal(requests.length, 1);
    assert.equal(requests[0].init.signal.aborted, true);
  }
});

test("a signal leaves too, before the stream and later, and is not held", async () => {
  const left = new AbortController();
  const { client, requests } = scripted([json(201, { id: "strm_1", type: "stream", events_url: eventsURL }), events([], "hang")]);
  const stream = await client.stream(ask("x"), { signal: left.signal });
  await settle();
  left.abort();
  assert.ok(await failure(stream.done()) instanceof APIUserAbortError);
  assert.equal(requests.length, 2);
  assert.ok(await failure(client.stream(ask("x"), { signal: left.signal })) instanceof APIUserAbortError);
  const late = client.resume(eventsURL, { signal: left.signal });
  const told = listen(late);
  assert.ok(await failure(late.done()) instanceof APIUserAbortError);
  assert.deepEqual(told.map(([name]) => name), ["abort", "end"]);
});

test("leaving the last of the loops is leaving; leaving another is not", async () => {
  const wire = answer("a", "b");
  const { client } = scripted([events(wire)]);
  const stream = client.resume(eventsURL);
  const whole = (async () => {
    let count = 0;
    for await (const event of stream) count += Boolean(event);
    return count;
  })();
  for await (const event of stream) if (event.type === "content_block_start") break;
  assert.equal(await whole, wire.length);
  assert.equal(await stream.finalText(), "ab");

  const other = scripted([events(wire.slice(0, 4), "hang")]).client.resume(eventsURL);
  for await (const event of other) if (event.type === "content_block_delta") break;
  assert.ok(await failure(other.done()) instanceof APIUserAbortError);
  for await (const event of stream) assert.fail(`after the end: ${event}`);
  assert.ok(await failure((async () => {
    for await (const event of other) void event;
  })()) instanceof APIUserAbortError);
});

test("a loop that is slow misses nothing, and what nobody reads is not kept", { skip: !globalThis.gc && "needs --expose-gc" }, async () => {
  const texts = Array.from({ length: 500 }, (_, i) => `${i} `);
  const { client } = scripted([events(answer(...texts))]);
  const stream = client.resume(eventsURL);
  const kept = [];
  stream.on("streamEvent", (event) => kept.push(new WeakRef(event)));
  const alive = async () => {
    await settle();
    globalThis.gc();
    return kept.filter((ref) => ref.deref()).length;
  };
  const loop = stream[Symbol.asyncIterator]();
  assert.equal((await loop.next()).value.type, "message_start");
  await stream.finalMessage();
  assert.ok(await alive() > 500);
  let text = "";
  for (let step; !(step = await loop.next()).done;) text += step.value.delta?.text ?? "";
  assert.equal(text, texts.join(""));
  assert.ok(await alive() < 5);
});
