// The official TypeScript SDK through the gateway at SLUICE_URL, unmodified but for its base URL and key. It exits with 1
// and says what is wrong, or prints how many promises it has seen kept.
import assert from "node:assert/strict";
import { setTimeout } from "node:timers/promises";
import Anthropic from "@anthropic-ai/sdk";

const baseURL = process.env.SLUICE_URL;
const client = new Anthropic({ baseURL, apiKey: process.env.SLUICE_KEY });
const once = new Anthropic({ baseURL, apiKey: process.env.SLUICE_KEY, maxRetries: 0 });
const slow = new Anthropic({ baseURL, apiKey: process.env.SLUICE_SLOW_KEY });
const other = new Anthropic({ baseURL, apiKey: process.env.SLUICE_SLOW_KEY, maxRetries: 0 });

const tools = [
  { name: "get_weather", input_schema: { type: "object", properties: { city: { type: "string" }, days: { type: "integer" } } } },
];
const ask = (content) => ({ model: "claude-sonnet-4-6", max_tokens: 4096, messages: [{ role: "user", content }] });
const whole = (of, content) => of.messages.stream(ask(content)).finalMessage();

// end polls a batch until it has ended.
async function end(id) {
  for (;;) {
    const batch = await client.messages.batches.retrieve(id);
    if (batch.processing_status === "ended") return batch;
    await setTimeout(50);
  }
}

async function rejects(promise, status, type) {
  const error = await promise.then(
    () => assert.fail(`should have been refused with ${status} ${type}`),
    (e) => e,
  );
  assert.ok(error instanceof Anthropic.APIError, `${error.constructor.name}: ${error.message}`);
  assert.equal(error.status, status);
  assert.equal(error.type, type);
  assert.ok(error.requestID, "without a request id");
  return error;
}

const promises = {
  async "streams text, thinking and tool use"() {
    const seen = { text: "", thinking: "", input: "" };
    const stream = client.messages.stream({ ...ask("Think about the get_weather tool."), tools });
    stream.on("text", (t) => (seen.text += t));
    stream.on("thinking", (t) => (seen.thinking += t));
    stream.on("inputJson", (t) => (seen.input += t));
    const m = await stream.finalMessage();
    assert.deepEqual(m.content.map((b) => b.type), ["thinking", "text", "tool_use"]);
    assert.equal(m.content[0].thinking, seen.thinking);
    assert.ok(m.content[0].signature);
    assert.equal(m.content[1].text, seen.text);
    assert.deepEqual(m.content[2].input, { city: "Reykjavík", days: 3 });
    assert.equal(m.stop_reason, "tool_use");
    assert.ok(m.usage.output_tokens > 0);
  },
  async "iterates over the events of a long answer"() {
    let events = 0;
    let last;
    for await (const e of await client.messages.create({ ...ask("long"), stream: true })) {
      events++;
      last = e.type;
    }
    assert.equal(last, "message_stop");
    assert.ok(events > 500, `${events} events`);
  },
  async "gets whole answers, counts and models"() {
    const m = await client.messages.create(ask("short"));
    assert.match(m.content[0].text, /^In short/);
    assert.ok(m._request_id);
    const { max_tokens, ...counted } = ask("count me");
    assert.ok((await client.messages.countTokens(counted)).input_tokens > 0);
    const models = [];
    for await (const model of client.models.list({ limit: 2 })) models.push(model.id);
    assert.equal(models.length, 5);
    assert.equal((await client.models.retrieve("claude-opus-4-6")).display_name, "Claude Opus 4.6");
  },
  async "keeps the beta path"() {
    const m = await client.beta.messages.stream({ ...ask("short"), betas: ["not-invented-yet"] }).finalMessage();
    assert.equal(m.stop_reason, "end_turn");
  },
  async "gets typed errors"() {
    const nobody = new Anthropic({ baseURL, apiKey: "sk-nobody", maxRetries: 0 });
    await rejects(whole(nobody, "short"), 401, "authentication_error");
    await rejects(once.messages.create({ ...ask("short"), model: "claude-does-not-exist", stream: true }), 404, "not_found_error");
    await rejects(slow.messages.create({ ...ask("short"), model: "claude-opus-4-6" }, { maxRetries: 0 }), 403, "permission_error");
    await rejects(whole(once, "x".repeat(32_000_001)), 413, "request_too_large");
    await rejects(whole(once, "fault:401"), 502, "api_error");
    await rejects(whole(once, "fault:html"), 502, "api_error");
    const limited = await rejects(whole(once, "fault:429=1"), 429, "rate_limit_error");
    assert.equal(limited.headers.get("retry-after"), "1");
    await rejects(whole(once, "fault:529"), 529, "overloaded_error");
    await rejects(whole(once, "fault:overloaded-first=1"), 529, "overloaded_error");
  },
  async "retries what is refused for now"() {
    assert.equal((await whole(client, "ts short fault:529-once")).stop_reason, "end_turn");
    assert.equal((await whole(client, "ts short fault:overloaded-first-once")).stop_reason, "end_turn");
    await whole(slow, "short");
    const begun = Date.now();
    await whole(slow, "short");
    assert.ok(Date.now() - begun > 500, "did not wait for the limit");
  },
  async "sees an error in the middle"() {
    for (const [fault, type] of [["error", "overloaded_error"], ["cut", "api_error"], ["no-stop", "api_error"]]) {
      let text = "";
      const stream = client.messages.stream(ask(`fault:${fault}`));
      stream.on("text", (t) => (text += t));
      const error = await stream.finalMessage().then(() => assert.fail(fault), (e) => e);
      assert.ok(error instanceof Anthropic.APIError, `${fault}: ${error}`);
      assert.equal(error.type, type);
      assert.ok(text.length > 0);
    }
  },
  async "makes, polls, reads, lists, cancels and deletes batches"() {
    const item = (custom_id, content) => ({ custom_id, params: ask(content) });
    const made = await client.messages.batches.create({
      requests: [item("good", "short fault:batch-time=300"), item("large", "fault:giant=300000"), item("bad", "fault:529"), item("late", "fault:expire")],
    });
    assert.equal(made.processing_status, "in_progress");
    assert.equal(made.results_url, null);
    const ended = await end(made.id);
    assert.deepEqual(ended.request_counts, { processing: 0, succeeded: 2, errored: 1, canceled: 0, expired: 1 });
    const results = {};
    for await (const r of await client.messages.batches.results(made.id)) results[r.custom_id] = r.result;
    assert.deepEqual(Object.keys(results).sort(), ["bad", "good", "large", "late"]);
    assert.match(results.good.message.content[0].text, /^In short/);
    assert.ok(results.large.message.content[0].text.length >= 300000);
    assert.equal(results.bad.error.error.type, "overloaded_error");
    assert.equal(results.late.type, "expired");

    const long = await client.messages.batches.create({ requests: [item("long", "fault:batch-time=3600000")] });
    assert.equal((await client.messages.batches.cancel(long.id)).processing_status, "canceling");
    const list = async (of) => {
      const ids = [];
      for await (const b of of.messages.batches.list({ limit: 1 })) ids.push(b.id);
      return ids;
    };
    assert.deepEqual(await list(client), [long.id, made.id]);
    assert.deepEqual(await list(other), []);
    for (const call of ["retrieve", "results", "cancel", "delete"]) {
      await rejects(other.messages.batches[call](made.id), 404, "not_found_error");
    }
    assert.equal((await end(long.id)).request_counts.canceled, 1);
    for (const id of [long.id, made.id]) {
      assert.deepEqual(await client.messages.batches.delete(id), { id, type: "message_batch_deleted" });
    }
    assert.deepEqual(await list(client), []);
    await rejects(client.messages.batches.retrieve(made.id), 404, "not_found_error");
  },
  async "stops when it is told to"() {
    const stream = client.messages.stream(ask("long fault:slow=20"));
    stream.on("text", () => stream.abort());
    await assert.rejects(stream.finalMessage(), Anthropic.APIUserAbortError);
  },
};

const failures = [];
await Promise.all(Object.entries(promises).map(([name, run]) => run().catch((e) => failures.push(`${name}: ${e.stack ?? e}`))));
if (failures.length > 0) {
  console.error(failures.join("\n\n"));
  process.exit(1);
}
console.log(Object.keys(promises).length);
