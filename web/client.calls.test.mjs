// client.js: asking, listening, and what its caller gets to hear. The gateway is scripted, and time is what the test says.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { promisify } from "node:util";
import Sluice, { APIConnectionError, APIError, APIUserAbortError, MessageStream } from "./client.js";
import { answer, ask, events, eventsURL, failure, json, nothing, pass, refusal, scripted, silence, tellTime, unreachable } from "./client.testing.mjs";

tellTime();

const created = json(201, { id: "strm_1", type: "stream", events_url: "https://elsewhere.test/v1/streams/strm_1/events?ticket=t" });

test("a stream is created once, however often that has to be asked for", async () => {
  const { client, requests } = scripted([unreachable, refusal(529, "overloaded_error", { "retry-after": "1" }), created, events(answer("a"))]);
  const creating = client.stream(ask("x"), { headers: { "anthropic-beta": "b" } });
  await pass(500 + 1000);
  const stream = await creating;
  assert.equal(await stream.finalText(), "a");
  assert.deepEqual(requests.map((r) => `${r.method} ${r.url}`), [
    ...Array(3).fill("POST http://gateway.test/v1/streams"), "GET http://gateway.test/v1/streams/strm_1/events?ticket=t",
  ]);
  const keys = new Set(requests.slice(0, 3).map((r) => r.headers["idempotency-key"]));
  assert.equal(keys.size, 1);
  assert.match([...keys][0], /^\d+(-\d+){3}$/);
  assert.deepEqual(JSON.parse(requests[2].body), ask("x"));
  assert.equal(requests[2].headers["anthropic-beta"], "b");
  assert.equal(requests[2].headers["content-type"], "application/json");
  assert.deepEqual([stream.id, stream.eventsUrl, stream.request_id], ["strm_1", "http://gateway.test/v1/streams/strm_1/events?ticket=t", "req_1"]);
});

test("requests are repeated as the SDKs do it, and then fail with the last error", async () => {
  for (const [of, count] of [
    [refusal(429, "rate_limit_error"), 3],
    [refusal(500, "api_error"), 3],
    [unreachable, 3],
    [() => new Response("<html>"), 3],
    [refusal(400, "invalid_request_error"), 1],
    [refusal(422, "invalid_request_error"), 1],
    [refusal(503, "api_error", { "x-should-retry": "false" }), 1],
    [refusal(429, "rate_limit_error", { "retry-after": "3600" }), 1],
  ]) {
    const { client, requests } = scripted([of]);
    const failed = failure(client.stream(ask("x")));
    await pass(500 + 1000);
    assert.ok(await failed instanceof APIError);
    assert.equal(requests.length, count);
  }
  const { client, requests } = scripted([unreachable], { maxRetries: 0 });
  assert.equal((await failure(client.stream(ask("x"), { idempotencyKey: "mine" }))).type, "connection_error");
  assert.deepEqual(requests.map((r) => r.headers["idempotency-key"]), ["mine"]);
});

test("a request without an answer is given up in the end", async () => {
  const { client } = scripted([silence], { maxRetries: 0 });
  const failed = failure(client.stream(ask("x")));
  await pass(600_000);
  assert.equal((await failed).type, "connection_error");
});

test("cancel tells the gateway, and the stream then ends with canceled_error", async () => {
  let stop;
  const canceled = 'id: 4\nevent: error\ndata: {"type":"error","error":{"type":"canceled_error","message":"The stream was canceled."}}\n\n';
  const { client, requests } = scripted([
    (signal) => {
      const from = events(answer("a").slice(0, 3), "hang")(signal);
      const [one, two] = [from.body.getReader(), new TransformStream()];
      const writer = two.writable.getWriter();
      (async () => {
        for (let i = 0; i < 3; i++) await writer.write((await one.read()).value);
      })();
      stop = () => writer.write(new TextEncoder().encode(canceled));
      return new Response(two.readable, { headers: from.headers });
    },
    () => {
      stop();
      return json(200, { id: "strm_1", status: "canceled" })();
    },
  ], { apiKey: "sk-1" });
  const stream = client.resume(eventsURL);
  await stream.emitted("text");
  const failed = failure(stream.finalMessage());
  assert.equal((await stream.cancel()).status, "canceled");
  const error = await failed;
  assert.equal(error.type, "canceled_error");
  assert.ok(!(error instanceof APIUserAbortError));
  assert.equal(stream.aborted, false);
  assert.equal(stream.currentMessage.content[0].text, "a");
  assert.deepEqual([requests[1].method, requests[1].url, requests[1].headers["x-api-key"], requests[1].body], ["POST", "http://gateway.test/v1/streams/strm_1/cancel", "sk-1", undefined]);
});

test("keys and headers go to the gateway's origin, and to no other", async () => {
  const { client, requests } = scripted([nothing], { apiKey: "sk-1", headers: { "x-proxy": "p" }, credentials: "include", maxReconnects: 0 });
  for (const url of [eventsURL, "/v1/streams/strm_2/events?ticket=t", "https://evil.test/v1/streams/strm_1/events", "http://gateway.test:81/v1/streams/strm_1/events"]) {
    await failure(client.resume(url, { lastEventId: "1" }).done());
  }
  for (const { url, headers, init } of requests) {
    const own = url.startsWith("http://gateway.test/");
    assert.deepEqual([headers["x-api-key"], headers["x-proxy"]], own ? ["sk-1", "p"] : [undefined, undefined], url);
    assert.equal(init.credentials, "include");
  }
  assert.equal(requests.length, 8);
});

test("a redirect is not followed: it could lead the key to another origin", async () => {
  const moved = () => Object.defineProperty(Response.error(), "type", { value: "opaqueredirect" }); // as browsers show it
  const { client, requests } = scripted([moved], { apiKey: "sk-1" });
  const error = await failure(client.resume(eventsURL).done());
  assert.ok(error instanceof APIError && !(error instanceof APIConnectionError));
  await failure(client.request({ method: "GET", path: "/v1/models" }));
  assert.deepEqual(requests.map((r) => r.init.redirect), ["manual", "manual"]);
});

test("the gateway may be below a path, and its id may be said", async () => {
  for (const baseURL of ["http://gateway.test/sluice", "http://gateway.test/sluice/", new URL("http://gateway.test/sluice")]) {
    const { client, requests } = scripted([created, nothing], { baseURL, maxRetries: 0 });
    const stream = await client.stream(ask("x"));
    await failure(stream.done());
    await failure(client.request({ method: "GET", path: "/v1/models" }));
    assert.deepEqual(requests.map((r) => r.url.replace("http://gateway.test/sluice/v1/", "")), [
      "streams", "streams/strm_1/events?ticket=t", "streams/strm_1/events?ticket=t", "models",
    ]);
    assert.equal(client.resume(stream.eventsUrl, { id: "strm_7", signal: AbortSignal.abort() }).id, "strm_7");
  }
  assert.equal(new Sluice().baseURL.protocol, "file:"); // where this module came from
});

test("listeners come and go as in the SDK, and one that throws harms nobody but itself", async () => {
  const { client } = scripted([events(answer("a", "b"))]);
  const stream = client.resume(eventsURL);
  assert.ok(stream instanceof MessageStream);
  const told = [];
  const never = () => told.push("never");
  stream.on("text", never).once("text", (text) => told.push(`once ${text}`)).on("text", (text) => told.push(text)).off("text", never).off("thinking", never);
  const first = stream.emitted("text");
  const block = stream.emitted("contentBlock");
  const thought = stream.emitted("thinking");
  thought.catch(() => {});
  await stream.done();
  assert.deepEqual(told, ["once a", "a", "b"]);
  assert.equal(await first, "a");
  assert.equal((await block).text, "ab");
  assert.match((await failure(thought)).message, /without thinking/);
  assert.match((await failure(stream.emitted("text"))).message, /without text/);
});

test("whoever listens at once hears everything, even of a fetch that throws", async () => {
  const stream = new Sluice({ baseURL: "http://gateway.test", maxReconnects: 0, fetch: () => { throw new Error("no network here"); } }).resume(eventsURL);
  const heard = [];
  stream.on("error", (error) => heard.push(error.type, error.message)).on("end", () => heard.push("end"));
  await failure(stream.done());
  assert.deepEqual(heard, ["connection_error", "no network here", "end"]);
});

test("a failure that nobody asks for is an unhandled rejection, and one that somebody gets is none", async () => {
  const module = new URL("client.testing.mjs", import.meta.url);
  const run = (use) => promisify(execFile)(process.execPath, ["--input-type=module", "-e", `
    import { answer, events, eventsURL, refusal, scripted, settle } from ${JSON.stringify(module)};
    const { client } = scripted([${use.includes("throw") ? "events(answer('a'))" : 'refusal(404, "not_found_error")'}]);
    const stream = client.resume(eventsURL);
    process.on("unhandledRejection", (error) => console.log("unhandled", error.type ?? error.message));
    ${use}
    await settle();
    console.log("over", stream.ended);`]);
  await Promise.all([
    ["", "unhandled not_found_error\nover true\n"],
    ["stream.on('text', () => {});", "unhandled not_found_error\nover true\n"],
    ["stream.on('error', () => {});", "over true\n"],
    ["try { for await (const event of stream); } catch (error) { console.log(error.type); }", "not_found_error\nover true\n"],
    ["try { await stream.finalMessage(); } catch (error) { console.log(error.type); }", "not_found_error\nover true\n"],
    ["stream.abort();", "over true\n"],
    ["stream.on('text', () => { throw new Error('mine'); }); console.log(await stream.finalText());", "a\nunhandled mine\nover true\n"],
  ].map(async ([use, want]) => {
    const { stdout, stderr } = await run(use);
    assert.equal(stdout + stderr, want, use);
  }));
});
