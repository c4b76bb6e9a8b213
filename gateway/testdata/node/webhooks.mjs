// What a gateway has sent as a callback, verified by Standard Webhooks' own library. It reads
// {"secret","foreign","body","headers"} from standard input, exits with 1 and says what is wrong, or prints how many it
// has refused.
import assert from "node:assert/strict";
import { text } from "node:stream/consumers";
import { Webhook, WebhookVerificationError } from "standardwebhooks";

const { secret, foreign, body, headers } = JSON.parse(await text(process.stdin));
const mine = new Webhook(secret);
const now = Date.now;
const at = (minutes) => () => now() + minutes * 60_000;

assert.deepEqual(mine.verify(body, headers), JSON.parse(body));
assert.deepEqual(mine.verify(Buffer.from(body), headers), JSON.parse(body));
Date.now = at(4);
mine.verify(body, headers);
Date.now = now;

const signature = headers["webhook-signature"];
const refused = {
  "another body": () => mine.verify(body.replace("completed", "failed"), headers),
  "a body with a space more": () => mine.verify(body + " ", headers),
  "another id": () => mine.verify(body, { ...headers, "webhook-id": headers["webhook-id"] + "x" }),
  "another second": () => mine.verify(body, { ...headers, "webhook-timestamp": String(Number(headers["webhook-timestamp"]) + 1) }),
  "another signature": () => mine.verify(body, { ...headers, "webhook-signature": signature.replace(/^v1,./, (c) => (c === "v1,A" ? "v1,B" : "v1,A")) }),
  "another version": () => mine.verify(body, { ...headers, "webhook-signature": signature.replace("v1,", "v2,") }),
  "no signature": () => mine.verify(body, { "webhook-id": headers["webhook-id"], "webhook-timestamp": headers["webhook-timestamp"] }),
  "another owner's secret": () => new Webhook(foreign).verify(body, headers),
  "a replay after six minutes": () => {
    Date.now = at(6);
    mine.verify(body, headers);
  },
  "a time to come": () => {
    Date.now = at(-6);
    mine.verify(body, headers);
  },
};
for (const [name, verify] of Object.entries(refused)) {
  try {
    assert.throws(verify, WebhookVerificationError, name);
  } finally {
    Date.now = now;
  }
}
console.log(Object.keys(refused).length);
