// events.js: a batch's events, over lost connections.
import assert from "node:assert/strict";
import { test } from "node:test";
import { nothing, pass, refusal, scripted, events as sse, tellTime } from "./client.testing.mjs";
import { events } from "./events.js";

tellTime();

const status = 'retry: 1500\n\nid: in_progress\nevent: batch_status\ndata: {"id":"b"}\n\n';
const result = (n, text = "") => `id: r.${n}\nevent: batch_result\ndata: {"n":${n},"text":"a: ${text}"}\n\n`;
const end = 'id: end\nevent: batch_ended\ndata: {"id":"b"}\n\n';

async function read(answers) {
  const { client, requests } = scripted(answers);
  const got = [];
  const reading = (async () => {
    for await (const { id, data } of events(client, "/v1/messages/batches/b/events", "batch_ended", AbortSignal.any([]))) got.push([id, data.text]);
  })();
  reading.catch(() => {}); // it is awaited below
  await pass(3500); // two waits
  await reading;
  return { got, cursors: requests.map((r) => r.headers["last-event-id"]) };
}

test("a batch's events come once each over lost connections, whatever is in them", async () => {
  const whole = result(2, "\u2028b");
  const { got, cursors } = await read([sse([status, result(1), whole.slice(0, 40)], "break"), sse([whole.slice(0, 30), whole.slice(30)]), sse(end, "hang")]);
  assert.deepEqual(got, [["in_progress", undefined], ["r.1", "a: "], ["r.2", "a: \u2028b"], ["end", undefined]]);
  assert.deepEqual(cursors, [undefined, "r.1", "r.2"]);
});

test("what has been read to its end is not asked for again, and a refusal is told", async () => {
  assert.deepEqual((await read([sse(status), nothing])).got, [["in_progress", undefined]]);
  await assert.rejects(read([refusal(404, "not_found_error")]), { status: 404, type: "not_found_error" });
});
