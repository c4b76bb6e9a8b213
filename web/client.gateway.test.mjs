// client.js before a real gateway and a simulated Claude. gateway/house_client_test.go starts them and says where they are.
import assert from "node:assert/strict";
import { connect, createServer } from "node:net";
import { after, test } from "node:test";
import Sluice, { APIError } from "./client.js";
import { ask, failure } from "./client.testing.mjs";

const { SLUICE_URL: baseURL, SLUICE_OTHER_URL: otherURL, SLUICE_KEY: apiKey, SLUICE_NARROW_KEY: narrowKey, SLUICE_SLOW_KEY: slowKey, SLUICE_FAULTS } = process.env;
const skip = !baseURL && "needs a gateway";
const client = new Sluice({ baseURL, apiKey });

// Waits between connections are the other tests' matter: here the browser comes back online at once.
globalThis.addEventListener = (name, go) => name === "online" && setTimeout(go, 5);
after(() => delete globalThis.addEventListener);

test("every fault of Claude's ends in a message or a typed error", { skip, concurrency: true }, async (t) => {
  await Promise.all(Object.entries(JSON.parse(SLUICE_FAULTS)).map(([fault, want]) => {
    return t.test(`fault:${fault}`, async () => {
      const got = await new Sluice({ baseURL, apiKey, maxRetries: 0 }).stream(ask(`short fault:${fault}`)).then(async (stream) => {
        if (fault.startsWith("stall-pings")) stream.once("text", () => stream.cancel()); // the one that never ends
        return (await stream.finalMessage()).stop_reason;
      }).catch((error) => {
        assert.ok(error instanceof APIError, error);
        assert.ok(error.requestId);
        return `${error.status} ${error.type}`;
      });
      assert.equal(got, want);
    });
  }));
});

test("what Claude refuses for now is asked again", { skip }, async () => {
  assert.equal((await (await client.stream(ask("short client fault:529-once=4"))).finalMessage()).stop_reason, "end_turn");
  const slow = new Sluice({ baseURL, apiKey: slowKey });
  for (let i = 0; i < 2; i++) assert.equal((await (await slow.stream(ask("short"))).finalMessage()).stop_reason, "end_turn");
});

/** A network before the gateway that breaks every connection which has brought so many chunks, until it is healed. */
async function network() {
  const net = { broken: 0, chunks: Infinity, away: undefined }; // away: nobody gets through until it is settled
  const server = createServer(async (near) => {
    near.on("error", () => {}); // also while it waits
    await net.away;
    const far = connect(new URL(baseURL).port, new URL(baseURL).hostname);
    let chunks = 0;
    far.on("data", (data) => {
      near.write(data);
      if (++chunks > net.chunks) {
        net.broken++;
        near.resetAndDestroy();
        far.destroy();
      }
    });
    near.pipe(far);
    for (const end of [near, far]) end.on("error", () => {}).on("close", () => (near.destroy(), far.destroy()));
  }).listen(0, "127.0.0.1");
  await new Promise((ready) => server.once("listening", ready));
  after(() => server.close());
  return Object.assign(net, { url: `http://127.0.0.1:${server.address().port}` });
}

test("on a network that breaks all the time the text comes without a gap or a repetition", { skip }, async () => {
  const net = await network();
  const far = new Sluice({ baseURL: net.url, apiKey });
  const stream = await far.stream(ask("think and use a tool, fault:slow=8", { tools: [{ name: "get_weather", input_schema: { type: "object", properties: { city: { type: "string" } } } }] }));
  let text = "", thinking = "", json = "", jumps = 0, last = 0;
  stream.on("text", (delta) => (text += delta)).on("thinking", (delta) => (thinking += delta)).on("inputJson", (delta) => (json += delta));
  stream.on("sse", ({ id }) => {
    if (id) {
      assert.ok(+id > last, `${id} after ${last}`);
      jumps += +id > last + 1;
      last = +id;
    }
  });
  let broken = 0;
  const size = async () => JSON.stringify((await client.request({ method: "GET", path: `/v1/streams/${stream.id}` })).message).length;
  const grown = async () => {
    for (const before = await size(); (await size()) < before + 100; ); // by many deltas, which then come as one
  };
  stream.on("disconnect", () => {
    net.chunks = ++broken % 7;
    if (broken === 3) net.away = grown();
  });
  net.chunks = 2;
  const message = await stream.finalMessage();
  net.chunks = Infinity;
  assert.ok(broken >= 5, `broken ${broken} times`);
  assert.ok(jumps > 0, "nothing had to be caught up with");
  const { message: theirs } = await client.request({ method: "GET", path: `/v1/streams/${stream.id}` });
  assert.deepEqual(message, theirs);
  assert.equal(text, message.content.find((block) => block.type === "text").text);
  assert.equal(thinking, message.content.find((block) => block.type === "thinking").thinking);
  assert.deepEqual(JSON.parse(json), message.content.find((block) => block.type === "tool_use").input);
  assert.equal(await client.resume(stream.eventsUrl).finalText(), text);
});

test("a request whose answer was lost does not begin a second stream", { skip }, async () => {
  let posts = 0;
  const forgetful = async (url, init) => {
    const response = await fetch(url, init);
    if (init.method === "POST" && ++posts < 3) throw new TypeError("the answer was lost");
    return response;
  };
  const stream = await new Sluice({ baseURL, apiKey, fetch: forgetful }).stream(ask("only one"));
  await stream.finalMessage();
  const { data } = await client.request({ method: "GET", path: "/v1/streams?limit=100" });
  assert.equal(posts, 3);
  assert.equal(data.filter((s) => s.created_at >= data.find((own) => own.id === stream.id).created_at).length, 1);
});

test("leaving is not canceling", { skip }, async () => {
  const stream = await client.stream(ask("long fault:slow=30"));
  await stream.emitted("text");
  stream.abort();
  assert.equal((await failure(stream.finalMessage())).type, "abort_error");
  const { status } = await client.request({ method: "GET", path: `/v1/streams/${stream.id}` });
  assert.equal(status, "in_progress");
  const again = client.resume(stream.eventsUrl, { lastEventId: stream.lastEventId });
  const ended = failure(again.finalMessage());
  await again.emitted("text");
  assert.equal((await again.cancel()).status, "canceled");
  assert.equal((await ended).type, "canceled_error");
  assert.equal((await again.cancel()).status, "canceled"); // once more does no harm
});

test("whoever comes back after a reload has all that he had, and the rest", { skip }, async () => {
  const before = await client.stream(ask("fault:slow=3"));
  let had = "";
  before.on("text", (delta) => (had += delta) && had.length > 200 && before.abort());
  await failure(before.done());
  const { eventsUrl, lastEventId } = before;
  const [whole, rest] = [client.resume(eventsUrl), client.resume(eventsUrl, { lastEventId })];
  let all = "", more = "";
  whole.on("text", (delta) => (all += delta));
  rest.on("text", (delta) => (more += delta));
  const text = await whole.finalText();
  assert.equal(all, text);
  assert.deepEqual(await rest.finalMessage(), await whole.finalMessage());
  assert.equal(had + more, text);
  assert.equal(await client.resume(eventsUrl, { lastEventId: rest.lastEventId }).finalText(), text);
});

test("a refusal for now of one viewer too many is waited out", { skip }, async () => {
  const narrow = new Sluice({ baseURL, apiKey: narrowKey, maxReconnects: 1000 });
  const first = await narrow.stream(ask("fault:slow=5"));
  await first.emitted("text");
  const second = narrow.resume(first.eventsUrl);
  const { reason } = await second.emitted("disconnect");
  assert.match(reason, /closed/);
  first.abort();
  assert.equal((await second.finalMessage()).stop_reason, "end_turn");
});

test("after a restart the truth is told", { skip }, async () => {
  const stream = await client.stream(ask("short"));
  await stream.done();
  const { pathname, search } = new URL(stream.eventsUrl);
  for (const lastEventId of [undefined, "3", "lost"]) {
    const after = new Sluice({ baseURL: otherURL }).resume(pathname + search, { lastEventId });
    const error = await failure(after.finalMessage());
    assert.ok(error instanceof APIError);
    assert.match(error.message, /lost/);
    assert.equal(after.lastEventId, "lost");
  }
});

test("what may not be read is refused with a type", { skip }, async () => {
  const stream = await client.stream(ask("short"));
  await stream.done();
  const { origin, pathname, search } = new URL(stream.eventsUrl);
  for (const [who, url, status, type] of [
    [client, `${origin}${pathname.replace("strm_", "strm_0")}`, 404, "not_found_error"],
    [client, `${origin}${pathname}?ticket=wrong`, 401, "authentication_error"],
    [new Sluice({ baseURL }), origin + pathname, 401, "authentication_error"],
    [new Sluice({ baseURL, apiKey: narrowKey }), origin + pathname, 404, "not_found_error"],
  ]) {
    const error = await failure(who.resume(url).done());
    assert.deepEqual([error.status, error.type], [status, type]);
  }
  assert.deepEqual(await client.resume(origin + pathname).finalMessage(), await stream.finalMessage()); // the owner needs no ticket
  assert.equal((await client.request({ method: "DELETE", path: `/v1/streams/${stream.id}` })).type, "stream_deleted");
  assert.equal((await failure(client.resume(origin + pathname + search).done())).status, 401);
  assert.equal((await failure(new Sluice({ baseURL, apiKey: "sk-nobody" }).stream(ask("short")))).type, "authentication_error");
  assert.equal((await failure(client.stream({ model: "claude-sonnet-4-6", max_tokens: 5, messages: [] }))).type, "invalid_request_error");
});

test("twenty streams at once, each with several readers, get each its own", { skip }, async () => {
  await Promise.all(Array.from({ length: 20 }, async (_, i) => {
    const stream = await client.stream(ask(`short number ${i}`));
    const texts = await Promise.all([stream, client.resume(stream.eventsUrl), client.resume(stream.eventsUrl)].map((s) => s.finalText()));
    assert.match(texts[0], new RegExp(`number ${i}\\b`));
    assert.equal(new Set(texts).size, 1);
  }));
});
