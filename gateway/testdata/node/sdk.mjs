// The official TypeScript SDK through the gateway at SLUICE_URL, unmodified but for its base URL and key. It exits with 1
// and says what is wrong, or prints how many promises it has seen kept.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";

const baseURL = process.env.SLUICE_URL;
const client = new Anthropic({ baseURL, apiKey: process.env.SLUICE_KEY });
const once = new Anthropic({ baseURL, apiKey: process.env.SLUICE_KEY, maxRetries: 0 });
const slow = new Anthropic({ baseURL, apiKey: process.env.SLUICE_SLOW_KEY });

const tools = [
  { name: "get_weather", input_schema: { type: "object", properties: { city: { type: "string" }, days: { type: "integer" } } } },
];
const ask = (content) => ({ model: "claude-sonnet-4-6", max_tokens: 4096, messages: [{ role: "user", content }] });
const whole = (of, content) => of.messages.stream(ask(content)).finalMessage();

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
