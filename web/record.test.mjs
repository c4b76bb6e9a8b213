// record.js: what it makes of events and of lost connections. And answer.js: how it counts what is lost or repeated.
import assert from "node:assert/strict";
import { test } from "node:test";
import { contentOf, difference } from "./answer.js";
import { Record } from "./record.js";

const delta = (id, type, part, value) => ({ name: "content_block_delta", id, data: JSON.stringify({ type: "content_block_delta", index: 0, delta: { type, [part]: value } }) });
const text = (id, value = "word") => delta(id, "text_delta", "text", value);
const start = (id) => ({ name: "message_start", id, data: '{"type":"message_start","message":{}}' });
const ping = { name: "ping", id: undefined, data: '{"type": "ping"}' };

function recordOf(...frames) {
  const record = new Record();
  for (const frame of frames) record.event(frame);
  return record;
}

test("ids that jump over deltas of one kind were merged, and are counted", () => {
  const record = recordOf(start("1"), text("2"), text("40"), text("41"));
  assert.deepEqual(record.entries.map((e) => e.merged), [0, 0, 38, 0]);
  const { frames, inLog, merged } = record.figures();
  assert.deepEqual({ frames, inLog, merged }, { frames: 4, inLog: 41, merged: 38 });
});

test("an event that comes twice is marked, and so is one that is missing", () => {
  const record = recordOf(start("1"), text("2"), text("2"), delta("5", "signature_delta", "signature", "x"));
  assert.deepEqual(record.entries.map((e) => e.mark), ["", "", "repeated", "2 missing"]);
});

test("another attempt begins to count anew, and so does a resync", () => {
  const record = recordOf(start("1"), text("2"), start("2.1"), text("2.2"));
  assert.deepEqual(record.entries.map((e) => e.mark), ["", "", "", ""]);
  record.event({ name: "resync", id: undefined, data: '{"type":"resync","reason":"unknown_cursor"}' });
  record.event(start("1"));
  assert.equal(record.entries.at(-1).mark, "");
});

test("pings have no id, and are no events of the log", () => {
  const { frames, pings } = recordOf(start("1"), ping, text("2"), ping).figures();
  assert.deepEqual({ frames, pings }, { frames: 2, pings: 2 });
});

test("the time without a connection is no gap between two events", () => {
  const record = recordOf(start("1"), text("2"));
  record.leave(true);
  assert.ok(record.away.byHand && record.away.n === 2);
  record.leave(false); // it is away already
  assert.equal(record.aways.length, 1);
  record.back();
  assert.equal(record.away, null);
  record.event(text("9"));
  assert.equal(record.entries.at(-1).gap, null);
  assert.equal(record.figures().reconnects, 1);
});

test("the end of a stream ends the time without a connection", () => {
  const record = recordOf(start("1"));
  record.leave(false);
  record.end();
  assert.equal(record.away, null);
  assert.ok(record.ended > 0);
});

test("of a long stream only the newest entries are kept, and all are counted", () => {
  const record = recordOf(start("1"));
  for (let n = 2; n <= 30_000; n++) record.event(text(String(n)));
  assert.ok(record.entries.length <= 22_000, `${record.entries.length} entries are kept`);
  assert.equal(record.forgotten + record.entries.length, 30_000);
  assert.equal(record.entries[0].at, record.forgotten);
  assert.equal(record.entries.at(-1).id, "30000");
  assert.equal(record.figures().frames, 30_000);
});

test("of a giant event the beginning is kept, and its size is the whole", () => {
  const [entry] = recordOf(text("1", "ö".repeat(1_000_000))).entries;
  assert.ok(entry.size > 2_000_000 && entry.data.length < 70_000 && entry.gist.length < 400);
});

test("data that is no JSON is shown as it came", () => {
  const [entry] = recordOf({ name: "message", id: "1", data: "<html>" }).entries;
  assert.deepEqual([entry.mark, entry.gist], ["not JSON", "<html>"]);
});

test("a character that is lost or repeated is counted", () => {
  assert.deepEqual(difference("a river", "a river"), [0, 0]);
  assert.deepEqual(difference("a rver", "a river"), [1, 0]);
  assert.deepEqual(difference("a rivriver", "a river"), [0, 3]);
  assert.deepEqual(difference("", "a river"), [7, 0]);
  assert.deepEqual(difference("a lake", "a river"), [5, 4]);
});

test("a block is compared by all that is shown of it, and by nothing else", () => {
  assert.equal(contentOf({ type: "text", text: "x", citations: [] }), "x");
  assert.equal(contentOf({ type: "thinking", thinking: "y", signature: "s" }), "y");
  assert.equal(contentOf({ type: "tool_use", name: "n", input: { a: 1 } }), '{\n  "a": 1\n}');
  assert.equal(contentOf({ type: "web_search_tool_result", content: [] }), null);
});
