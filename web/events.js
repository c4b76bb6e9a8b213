// Reading an event stream that is not a Message: over lost connections, to its end.

import { APIError } from "./client.js";

// VERSION is the header that Anthropic's own routes ask for.
export const VERSION = { "anthropic-version": "2023-06-01" };

const AGAIN = 1500; // ms before the next connection, as the gateway's own streams have it

// events yields the frames {id, event, data} of a path of the gateway, data as JSON, until one of them is named last. It
// comes back to where it was after a lost connection, and throws an APIError where the gateway refuses.
export async function* events(client, path, last, signal) {
  for (let cursor = ""; ;) {
    try {
      const response = await client.fetch(path, { headers: { ...client.headers, ...VERSION, ...(cursor && { "last-event-id": cursor }) }, cache: "no-store", signal });
      if (response.status === 204) return;
      if (!response.ok) throw new APIError(undefined, { status: response.status, headers: response.headers, error: await response.json().catch(() => undefined) });
      for await (const frame of frames(response.body)) {
        cursor = frame.id ?? cursor;
        yield { ...frame, data: JSON.parse(frame.data) };
        if (frame.event === last) return;
      }
    } catch (e) {
      if (signal.aborted) return;
      if (e instanceof APIError && e.status < 500) throw e;
    }
    await new Promise((go) => setTimeout(go, AGAIN));
    if (signal.aborted) return;
  }
}

// frames reads them as the gateway writes them: lines end with \n, and data is one line.
async function* frames(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let rest = ""; ;) {
      const { value, done } = await reader.read();
      if (done) return;
      const whole = (rest + value).split("\n\n");
      rest = whole.pop();
      for (const text of whole) {
        const frame = Object.fromEntries(text.split("\n").map((line) => line.split(/: ([^]*)/, 2)));
        if (frame.data) yield frame;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
