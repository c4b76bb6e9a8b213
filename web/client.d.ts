// Types of client.js. Names follow the official TypeScript SDK's MessageStream where it has a word for it.
//
//   import Sluice from "/client.js";
//   const client = new Sluice();
//   const stream = await client.stream({ model: "claude-sonnet-4-6", max_tokens: 300, messages: [{ role: "user", content: "Hello" }] });
//   stream.on("text", (delta) => document.body.append(delta));
//   stream.on("resync", () => document.body.replaceChildren());
//   const message = await stream.finalMessage();

export interface ClientOptions {
  /** Where Sluice is; a path in front of its routes is kept. Default: the origin that the module came from. */
  baseURL?: string | URL;
  /** Sent as `x-api-key`. Where a cookie or a proxy says who calls, there is none. */
  apiKey?: string;
  /** Sent with every request to baseURL's origin, and to no other. */
  headers?: Record<string, string>;
  /** As in fetch; "include" sends cookies to another origin. */
  credentials?: RequestCredentials;
  /** Used instead of the global fetch. */
  fetch?: (url: string, init: RequestInit) => Promise<Response>;
  /**
   * How often a request is repeated after 408, 409, 429, 5xx or a failed connection. `x-should-retry` is obeyed, and so
   * is `retry-after` (in seconds) up to a minute; a longer one is not waited for. Default 2.
   */
  maxRetries?: number;
  /** How many milliseconds a request may take that is not the reading of events. Default 600,000, as in the SDK. */
  timeout?: number;
  /**
   * How often in a row a stream reconnects in vain before it fails with the last error. Any event, a ping too, ends the
   * row. Default 10, which with the waits in between takes about four minutes.
   */
  maxReconnects?: number;
  /**
   * After how many milliseconds without a byte a stream's connection counts as dead and is made anew. Default 45,000:
   * three of Sluice's pings (relay.ping_interval).
   */
  silence?: number;
}

export interface RequestOptions {
  signal?: AbortSignal;
  headers?: Record<string, string>;
}

export interface StreamOptions extends RequestOptions {
  /** Default: a random one, so that a repeated request joins the stream that the lost one had begun. */
  idempotencyKey?: string;
}

export interface ResumeOptions {
  /** The last event that you have. Without it everything comes again, what has waited in few frames. */
  lastEventId?: string;
  signal?: AbortSignal;
  /** The stream's id; default: as eventsUrl has it. */
  id?: string;
}

/** The parts of a Messages request that every one has; all others are sent as they are. */
export interface MessageParams {
  model: string;
  max_tokens: number;
  messages: readonly object[];
}

/** Sluice's stream object. */
export interface StreamObject {
  id: string;
  type: "stream";
  status: "queued" | "in_progress" | "completed" | "failed" | "canceled" | "abandoned";
  model: string | null;
  attempt: number;
  events_url: string;
  viewers: number;
  message: Message | null;
  usage: Usage | null;
  usage_source: "reported" | "estimated";
  error: { type: string; message: string } | null;
  created_at: string;
  ended_at: string | null;
  expires_at: string | null;
  background: boolean;
}

export default class Sluice {
  constructor(options?: ClientOptions);
  readonly baseURL: URL;

  /**
   * Starts a stream and reads it. The promise is kept once the first event is there (or `relay.hold` is over), and
   * rejects with an APIError if the request is refused. Abort the signal to leave, also later.
   */
  stream<P extends MessageParams>(params: P, options?: StreamOptions): Promise<MessageStream>;

  /**
   * Reads a stream that exists, by its eventsUrl. After a reload, do so without lastEventId: everything comes again, and
   * all text so far is one delta. With it only what follows comes; then snapshots and currentMessage are undefined
   * until the end, for which the log is read once more, so that finalMessage() is whole all the same.
   */
  resume(eventsUrl: string | URL, options?: ResumeOptions): MessageStream;

  /** Calls another route ("/v1/models"), with the same key, retries and errors. Gives the answer's JSON. */
  request<T = any>(options: RequestOptions & { method: string; path: string; body?: unknown }): Promise<T>;
}

export interface MessageStreamEvents {
  /** The events are being read: at first, and after each reconnection. */
  connect: () => void;
  /** Each event of Anthropic's, also of kinds that are not known here. */
  streamEvent: (event: MessageStreamEvent, snapshot: Message | undefined) => void;
  text: (textDelta: string, textSnapshot: string | undefined) => void;
  thinking: (thinkingDelta: string, thinkingSnapshot: string | undefined) => void;
  /** The snapshot is what the JSON so far says. */
  inputJson: (partialJson: string, jsonSnapshot: unknown) => void;
  citation: (citation: TextCitation, citationsSnapshot: TextCitation[] | undefined) => void;
  signature: (signature: string) => void;
  contentBlock: (content: ContentBlock) => void;
  message: (message: Message) => void;
  finalMessage: (message: Message) => void;
  /** The stream has failed. It comes once, unless you left. */
  error: (error: APIError) => void;
  /** You left: abort(), the signal, or the end of the last loop before the stream's. */
  abort: (error: APIUserAbortError) => void;
  /** The last event of all, however it ended. */
  end: () => void;

  /** Every frame as received, pings and errors too, before it is understood. An id that jumps: deltas came as one. */
  sse: (frame: ServerSentEvent) => void;
  ping: () => void;
  /** The connection ended before the stream did; the next one is made after retryIn ms, or at once when back online. */
  disconnect: (info: { reason: string; error: APIError; retryIn: number }) => void;
  /** All that you have of this stream is void: it begins again. */
  resync: (info: { reason: string }) => void;
}

export interface ServerSentEvent {
  /** Absent where the frame has none, as pings do. */
  id: string | undefined;
  event: string;
  data: string;
}

type First<P extends unknown[]> = P extends [infer One, ...unknown[]] ? One : void;

/**
 * One answer on its way. It reads by itself and reconnects by itself, until message_stop, an error, or abort().
 *
 * A connection that ends early is made anew after the last event: at first when the gateway's `retry:` says, then after
 * twice as long each time, up to 30 s and half as much again at random; at once when the browser is back online.
 *
 * A listener that throws ends in an unhandled rejection of its own and changes nothing here. A failure that nobody asks
 * for (no error listener, no promise, no loop) is an unhandled rejection too, as in the SDK.
 */
export class MessageStream implements AsyncIterable<MessageStreamEvent | ResyncEvent> {
  private constructor();
  readonly id: string | undefined;
  /** What resume() takes. It holds a ticket: whoever has it may read this stream, and nothing else. */
  readonly eventsUrl: string;
  /** The id of the last event received, "" before it. A listener sees its own event's; a loop may be behind it. */
  readonly lastEventId: string;
  /** What has come so far; it stays after the end, whatever the end was. A tool's input is `{}` until its block stops. */
  readonly currentMessage: Message | undefined;
  readonly request_id: string | null | undefined;
  readonly ended: boolean;
  readonly errored: boolean;
  readonly aborted: boolean;

  on<E extends keyof MessageStreamEvents>(event: E, listener: MessageStreamEvents[E]): this;
  once<E extends keyof MessageStreamEvents>(event: E, listener: MessageStreamEvents[E]): this;
  off<E extends keyof MessageStreamEvents>(event: E, listener: MessageStreamEvents[E]): this;
  /** What the next event of that name says first; rejects if the stream fails or ends before it. */
  emitted<E extends keyof MessageStreamEvents>(event: E): Promise<First<Parameters<MessageStreamEvents[E]>>>;

  /**
   * The events from here on; rejects as finalMessage() does. Loops are independent. They share what they have not read
   * yet, which is at most one stream's log, and hold it no longer than they are there. Leaving the last one early is
   * abort(), as in the SDK. A resync is among the events, since it voids those before.
   */
  [Symbol.asyncIterator](): AsyncIterator<MessageStreamEvent | ResyncEvent>;

  done(): Promise<void>;
  /**
   * The whole Message, accumulated as the SDK does. Rejects with an APIError: of Claude's or Sluice's type if the stream
   * ended with an error (also by cancel(): `canceled_error`), an APIConnectionError if it could not be read to its end,
   * an APIUserAbortError after abort().
   */
  finalMessage(): Promise<Message>;
  /** The text of its text blocks, joined by spaces as in the SDK. */
  finalText(): Promise<string>;

  /** Leaves: stops reading here. The answer goes on for others, or for resume(), as `relay.abandon_after` says. */
  abort(): void;
  /**
   * Stops Claude, for every reader. The stream then ends with an error of type `canceled_error`, unless it had already
   * ended; what has come is in currentMessage. Needs the credentials of the stream's owner.
   */
  cancel(): Promise<StreamObject>;
}

/** An error in Anthropic's shape. */
export class APIError extends Error {
  constructor(message?: string, fields?: { type?: string; status?: number; headers?: Headers; error?: unknown; cause?: unknown });
  /** `rate_limit_error`, `overloaded_error`, `canceled_error`, …; `api_error` where the answer has none. */
  readonly type: string;
  /** The answer's status; undefined for an error event. */
  readonly status: number | undefined;
  readonly headers: Headers | undefined;
  /** The whole body: `{type: "error", error: {type, message}, request_id}`, or what came instead. */
  readonly error: any;
  readonly requestId: string | null | undefined;
  /** The same, by the SDK's name. */
  readonly requestID: string | null | undefined;
}

/** There was no answer, or it broke off: type `connection_error`. */
export class APIConnectionError extends APIError {}

/** The caller left: type `abort_error`. */
export class APIUserAbortError extends APIError {}

// ---- Anthropic's objects, as far as this module knows them. Others come through as they are. ------------------------

export interface Message {
  id: string;
  type: "message";
  role: "assistant";
  model: string;
  content: ContentBlock[];
  stop_reason: string | null;
  stop_sequence: string | null;
  stop_details?: { type: string; category?: string | null; explanation?: string | null } | null;
  container?: { id: string; expires_at: string } | null;
  context_management?: { applied_edits: object[] } | null;
  usage: Usage;
}

export interface Usage {
  input_tokens: number;
  output_tokens: number;
  cache_creation_input_tokens?: number | null;
  cache_read_input_tokens?: number | null;
  server_tool_use?: Record<string, number> | null;
  [more: string]: unknown;
}

export interface TextBlock { type: "text"; text: string; citations?: TextCitation[] | null }
export interface ThinkingBlock { type: "thinking"; thinking: string; signature: string }
export interface RedactedThinkingBlock { type: "redacted_thinking"; data: string }
export interface ToolUseBlock { type: "tool_use" | "server_tool_use" | "mcp_tool_use"; id: string; name: string; input: unknown; server_name?: string }
export interface ToolResultBlock { type: `${string}_tool_result`; tool_use_id: string; content: any }
export interface CompactionBlock { type: "compaction"; content: string | null; encrypted_content?: string | null }
export interface FallbackBlock { type: "fallback"; from: { model: string }; to: { model: string } }
export interface ContainerUploadBlock { type: "container_upload"; file_id: string }
export type ContentBlock =
  | TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock
  | CompactionBlock | FallbackBlock | ContainerUploadBlock;

export interface TextCitation { type: string; cited_text: string; [more: string]: unknown }

export type ContentBlockDelta =
  | { type: "text_delta"; text: string }
  | { type: "thinking_delta"; thinking: string }
  | { type: "input_json_delta"; partial_json: string }
  | { type: "citations_delta"; citation: TextCitation }
  | { type: "signature_delta"; signature: string }
  | { type: "compaction_delta"; content: string | null; encrypted_content?: string | null };

export type MessageStreamEvent =
  | { type: "message_start"; message: Message }
  | { type: "content_block_start"; index: number; content_block: ContentBlock }
  | { type: "content_block_delta"; index: number; delta: ContentBlockDelta }
  | { type: "content_block_stop"; index: number }
  | { type: "message_delta"; delta: Pick<Message, "stop_reason" | "stop_sequence" | "stop_details" | "container">; usage: Partial<Usage> }
  | { type: "message_stop" };

/** What a loop sees of a resync. */
export interface ResyncEvent { type: "resync"; reason: string }
