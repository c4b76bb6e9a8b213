// client.js: what it makes of bytes. Compared with the specification of server-sent events, and with the official SDK.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import Anthropic from "../gateway/testdata/node/node_modules/@anthropic-ai/sdk/index.mjs";
import Sluice, * as module from "./client.js";
import { answer, ask, events, eventsURL, frame, scripted } from "./client.testing.mjs";

const { APIError, MessageStream } = module;

const recordings = ["recorded", "synthetic"].flatMap((folder) => {
  const at = new URL(`../gateway/testdata/${folder}/`, import.meta.url);
  return readdirSync(at).filter((name) => name.endsWith(".sse")).map((name) => ({ name, bytes: readFileSync(new URL(name, at)) }));
});

const pieces = (bytes, size) => Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) => bytes.subarray(i * size, (i + 1) * size));

/** WHATWG HTML 9.2.6 by the letter, over a whole body, up to what ends a stream of Claude's. */
function framesOf(bytes) {
  const lines = new TextDecoder().decode(bytes).replaceAll("\r\n", "\n").replaceAll("\r", "\n").split("\n");
  lines.pop(); // what has no line end is no line
  const found = [];
  let event = "", id, data = "";
  for (const line of lines) {
    if (line === "") {
      if (data) found.push({ id, event: event || JSON.parse(data).type, data: data.slice(0, -1) });
      if (["message_stop", "error"].includes(found.at(-1)?.event)) return found;
      [event, id, data] = ["", undefined, ""];
      continue;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    if (field === "event") event = value;
    if (field === "data") data += value + "\n";
    if (field === "id" && !value.includes("\0")) id = value;
  }
  return found;
}

/** All that a stream of these chunks tells: its frames, its events by listener, and its end. */
async function read(chunks, names = []) {
  const { client } = scripted([events(chunks)], { maxReconnects: 0 });
  const stream = client.resume(eventsURL);
  const frames = [], told = [];
  stream.on("sse", (frame) => frames.push(frame));
  for (const name of names) stream.on(name, (...args) => told.push(JSON.stringify([name, ...args.slice(0, ARGUMENTS[name])])));
  let block, input;
  stream.on("contentBlock", (content) => ({ input } = block = content));
  const message = await stream.finalMessage().catch((error) => error);
  return { frames, told, message, stream, block, input };
}

test("every recorded stream, cut at any byte, gives the frames that the specification says", async () => {
  for (const { name, bytes } of recordings) {
    const want = framesOf(bytes);
    const ways = [[bytes], pieces(bytes, bytes.length < 2000 ? 1 : 61)];
    const step = Math.ceil(bytes.length / 24);
    for (let at = 1; at < bytes.length; at += step) ways.push([bytes.subarray(0, at), bytes.subarray(at)]);
    for (const chunks of ways) {
      const { frames, message } = await read(chunks);
      if (message instanceof APIError && message.cause) continue; // it makes no sense, and stops there
      assert.deepEqual(frames, want, `${name}, ${chunks.length} chunks, the first of ${chunks[0].length} bytes`);
    }
  }
});

test("lines are read as the specification says", async () => {
  for (const [wire, ...want] of [
    ["data: a\n\ndata\n\ndata:\ndata\n\n", ["a"], [""], ["\n"]],
    [": comment\n:\ndata:x\n\n", ["x"]],
    ["data:  two\n\n", [" two"]],
    ["data: a:b: c\n\n", ["a:b: c"]],
    ["DATA: a\n data: b\n\n"],
    ["data: not ended\n"],
    ["data: not ended"],
    ["\ufeffdata: a\n\n", ["a"]],
    ["data: a\ufeff\n\n", ["a\ufeff"]],
    ["id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n", ["a", "1"], ["b"], ["c", ""]],
    ["id: 1\0\ndata: a\n\n", ["a"]],
    ["data: a\r\rdata: b\r\n\r\ndata: c\n\r", ["a"], ["b"], ["c"]],
    ["data: a\r\ndata: b\r\n\r\ndata: c\rdata: d\r\r", ["a\nb"], ["c\nd"]],
    ["data: a\u2028b\u0085c\u000bd\fe\n\n", ["a\u2028b\u0085c\u000bd\fe"]],
    ["unknown: x\ndata: a\nunknown\n\n", ["a"]],
    [`data: ${"long ".repeat(300_000)}\n\n`, ["long ".repeat(300_000)]],
  ]) {
    const bytes = new TextEncoder().encode(wire);
    for (const chunks of [[bytes], pieces(bytes, bytes.length < 1000 ? 1 : 4096)]) {
      const { frames } = await read(chunks);
      assert.deepEqual(frames.map(({ data, id }) => (id === undefined ? [data] : [data, id])), want, JSON.stringify(wire.slice(0, 60)));
    }
  }
});

test("an id counts with its frame, with or without data, and one without an id keeps it", async () => {
  const { stream } = await read(["id: 7\n\n", 'event: ping\ndata: {}\n\n', "id: 8\nid: 9\0\n\n", "id: 10\n"]);
  assert.equal(stream.lastEventId, "8");
});

const ARGUMENTS = { text: 2, thinking: 2, inputJson: 2, citation: 2, signature: 1, contentBlock: 1 };
const LISTENED = Object.keys(ARGUMENTS);

/** What the official SDK makes of the same bytes. */
async function bySDK(bytes, beta) {
  const fetch = async () => new Response(bytes, { headers: { "content-type": "text/event-stream" } });
  const client = new Anthropic({ apiKey: "none", baseURL: "http://gateway.test", maxRetries: 0, fetch, logLevel: "off" });
  const stream = (beta ? client.beta : client).messages.stream(ask("recorded"));
  let message;
  const told = [];
  stream.on("streamEvent", (event, snapshot) => event.type === "message_stop" && (message = snapshot));
  for (const name of LISTENED) stream.on(name, (...args) => told.push(JSON.stringify([name, ...args])));
  const error = await stream.finalMessage().then(() => undefined, (e) => e);
  return { message, told, error };
}

// Where the SDK goes another way, and why.
const DIFFERENT = {
  "doc_thinking_no_usage.sse": "it fails on a message without usage, which the documentation shows",
  "data_only_events.sse": "it skips events without a name; the gateway gives them one",
  "interleaved_blocks.sse": "it tells every delta of the newest block, whatever block it is for",
};

test("every recorded stream becomes the Message that the official SDK makes of it, and tells the same", async () => {
  const seen = { same: 0, failed: 0, different: [] };
  for (const { name, bytes } of recordings) {
    const ours = await read([bytes], LISTENED);
    const theirs = await bySDK(bytes, true);
    try {
      if (theirs.message) {
        assert.deepStrictEqual(ours.message, theirs.message, name);
        assert.equal(JSON.stringify(ours.message), JSON.stringify(theirs.message), name);
        assert.deepEqual(ours.told, theirs.told, name);
        seen.same++;
      } else {
        assert.ok(ours.message instanceof APIError, `${name}: the SDK fails with ${theirs.error}`);
        seen.failed++;
      }
    } catch (error) {
      if (!(name in DIFFERENT)) throw error;
      seen.different.push(name);
    }
  }
  assert.deepEqual(seen.different.sort(), Object.keys(DIFFERENT).sort());
  assert.ok(seen.same >= 32, `compared ${JSON.stringify(seen)}`);
});

// What only the SDK's beta knows.
const BETA = [
  "compaction_null_content.sse",
  "pydantic-ai__anthropic_compaction_usage_with_cache_streaming.sse",
  "pydantic-ai__anthropic_mcp_servers_stream.sse",
  "rare_blocks.sse",
];

test("and so it is to the SDK's other accumulator, but for what only its beta knows", async () => {
  const different = [];
  for (const { name, bytes } of recordings) {
    const ours = await read([bytes]);
    const { message } = await bySDK(bytes, false);
    if (message && JSON.stringify(message) !== JSON.stringify(ours.message)) different.push(name);
  }
  assert.deepEqual(different.sort(), BETA);
});

/** The events of a tool call whose input comes in these pieces, with the block's end or without. */
function toolCall(pieces, stopped = true) {
  return [
    answer()[0],
    frame({ type: "content_block_start", index: 0, content_block: { type: "tool_use", id: "toolu_1", name: "f", input: {}, caller: { type: "direct" } } }),
    ...pieces.map((json) => frame({ type: "content_block_delta", index: 0, delta: { type: "input_json_delta", partial_json: json } })),
    ...(stopped ? [frame({ type: "content_block_stop", index: 0 })] : []),
    ...answer().slice(-2),
  ].join("");
}

test("a tool's input is at each character what the official SDK says that it is so far", async () => {
  for (const input of [
    { city: "Reykjavík", days: 3 },
    { a: [1, -2.5e-7, 1e21, true, false, null, "", "x", [], {}, [[{ b: { c: [0] } }]]], "": { "k\"ey": 'q"\\\n\u0007{[,:' } },
    { e: "👋\ud83d", spaces: { "  ": " } " } },
  ]) {
    for (const json of [JSON.stringify(input), JSON.stringify(input, null, 2)]) {
      const wire = toolCall(json.split(""));
      const ours = await read([wire], LISTENED);
      const theirs = await bySDK(wire, true);
      assert.deepEqual(ours.told, theirs.told, json);
      assert.deepStrictEqual(ours.message, theirs.message, json);
      assert.deepStrictEqual(ours.message.content[0].input, input);
      assert.equal(ours.message.content[0], ours.block);
      assert.equal(ours.message.content[0].input, ours.input); // not parsed again
    }
  }
});

test("a tool's input that was cut short is what there is of it; one that is no JSON fails the stream", async () => {
  for (const stopped of [true, false]) {
    for (const [json, want] of [
      ["", {}],
      ['{"a":1,"b', { a: 1 }],
      ['{"a":"tru', {}],
      ['{"a":[1,{"b":"x"},12', { a: [1, { b: "x" }] }],
      ['{"a":tr', {}],
      ['{"a":-', {}],
    ]) {
      const { message } = await read([toolCall([json], stopped)]);
      assert.deepEqual(message.content[0].input, want, json);
    }
    for (const json of ['{"a":1]', "{a:1}", '{"a" "b"}x', "nonsense", '{"a":1}}']) {
      const { message } = await read([toolCall([json], stopped)]);
      assert.ok(message instanceof APIError, `${json} became ${JSON.stringify(message)}`);
      assert.equal(message.type, "api_error");
    }
  }
});

test("what cannot be understood fails the stream, and is not left out of a Message", async () => {
  const [start, block, text] = answer("a");
  for (const nonsense of [
    "event: content_block_delta\ndata: {\"type\":\n\n",
    'event: content_block_delta\ndata: {"type":"content_block_delta","index":0}\n\n',
    'event: content_block_delta\ndata: {"type":"content_block_delta","index":4,"delta":{"type":"text_delta","text":"x"}}\n\n',
    'event: content_block_start\ndata: {"type":"content_block_start","index":1}\n\n',
    "event: message_delta\ndata: null\n\n",
    start,
  ]) {
    const { message, stream } = await read([start, block, text, nonsense, ...answer().slice(-3)]);
    assert.ok(message instanceof APIError, `${nonsense} became ${JSON.stringify(message)}`);
    assert.equal(message.type, "api_error");
    assert.equal(stream.currentMessage.content[0].text, "a");
  }
});

test("events and snapshots are the caller's own: what he does to them does no harm", async () => {
  const { client } = scripted([events(answer("a", "b"))]);
  const stream = client.resume(eventsURL);
  stream.on("streamEvent", (event) => {
    if (event.type === "message_start") event.message.content.push("rubbish");
    if (event.type === "content_block_start") event.content_block.text = "rubbish";
  });
  assert.equal(await stream.finalText(), "ab");
});

test("what the types declare is there, and what is there is declared", () => {
  const types = readFileSync(new URL("client.d.ts", import.meta.url), "utf8");
  const names = (text, pattern) => [...new Set(Array.from(text.matchAll(pattern), (match) => match[1]))].sort();
  assert.deepEqual(Object.keys(module).sort(), names(types, /^export (?:class )?(default|\w+) (?:class|extends|implements)/gm));
  const members = (name) => names(types.match(new RegExp(`^export (?:default )?class ${name}\\b[^]*?^}`, "m"))[0], /^  (?:readonly )?(\w+)[<(?:]/gm);
  const { client } = scripted([events([])]);
  const stream = client.resume(eventsURL);
  stream.abort();
  for (const [declared, prototype, object] of [
    [members("MessageStream"), MessageStream.prototype, stream],
    [members("Sluice"), Sluice.prototype, client],
    [members("APIError"), APIError.prototype, new APIError("x")],
  ]) {
    const missing = declared.filter((name) => !(name in object) && !["currentMessage", "request_id"].includes(name));
    assert.deepEqual(missing, []);
    assert.deepEqual(Object.getOwnPropertyNames(prototype).filter((name) => name !== "constructor" && !declared.includes(name)), []);
  }
});
