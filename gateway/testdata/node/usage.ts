// How applications use web/client.js, for the compiler: it is never run.
import type Anthropic from "@anthropic-ai/sdk";
import Sluice, { APIConnectionError, APIError, APIUserAbortError, MessageStream } from "../../../web/client.js";
import type { ContentBlock, Message, StreamObject } from "../../../web/client.js";

const client = new Sluice({ baseURL: "https://sluice.example", apiKey: "sk-…", headers: { "x-team": "a" }, credentials: "include", fetch, silence: 60_000 });

export async function streams(params: Anthropic.MessageCreateParams, signal: AbortSignal): Promise<string> {
  const stream: MessageStream = await client.stream(params, { signal, idempotencyKey: "k", headers: { "anthropic-beta": "b" } });
  const literal = await client.stream({ model: "claude-sonnet-4-6", max_tokens: 300, messages: [{ role: "user", content: "Hello" }], system: "Be brief.", tools: [] });
  const resumed = client.resume(stream.eventsUrl, { lastEventId: stream.lastEventId, signal });
  // @ts-expect-error: it needs messages
  client.stream({ model: "claude-sonnet-4-6", max_tokens: 300 });

  stream
    .on("text", (delta, snapshot) => console.log(delta.length, snapshot?.length))
    .on("streamEvent", (event, message) => console.log(event.type, message?.usage.output_tokens))
    .on("disconnect", ({ reason, retryIn, error }) => console.log(reason, retryIn / 1000, error.type))
    .on("sse", ({ id, event, data }) => console.log(id, event, data.length))
    .once("error", (error) => console.log(error.status, error.type, error.requestId, error.headers?.get("retry-after")))
    .off("end", () => {});
  // @ts-expect-error: there is no such event
  stream.on("texts", () => {});

  for await (const event of literal) {
    if (event.type === "content_block_delta" && event.delta.type === "text_delta") console.log(event.delta.text);
    if (event.type === "message_delta") console.log(event.delta.stop_reason, event.usage.output_tokens);
    if (event.type === "resync") console.log(event.reason);
  }
  const text: string = await stream.finalText();
  const first: ContentBlock = await stream.emitted("contentBlock");
  const message: Message = await stream.emitted("message");
  const delta: string = await stream.emitted("text");
  const nothing: void = await stream.emitted("end");
  const object: StreamObject = await stream.cancel();
  const list = await client.request<{ data: StreamObject[] }>({ method: "GET", path: "/v1/streams" });
  resumed.abort();
  return [text, first.type, message.id, delta, nothing, object.status, list.data.length, client.baseURL.href].join();
}

export function blocks(message: Message): string {
  return message.content.map((block) => {
    switch (block.type) {
      case "text": return block.text;
      case "thinking": return block.thinking + block.signature;
      case "tool_use": return block.name + JSON.stringify(block.input);
      default: return block.type;
    }
  }).join();
}

export function failed(error: unknown): string {
  if (error instanceof APIUserAbortError) return "left";
  if (error instanceof APIConnectionError) return `unreachable: ${error.message}`;
  if (error instanceof APIError) return `${error.status ?? "in the stream"}: ${error.type}`;
  return "something else";
}

// @ts-expect-error: streams are made by a client
new MessageStream();
