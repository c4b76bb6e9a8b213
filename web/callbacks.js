// Callbacks: what the gateway tells to whom, how that went, and in a demo what its receiver got.

import { $, element } from "./dom.js";
import { act, acts, age, cell, fill, row, short, since, state } from "./table.js";

export class Callbacks {
  list = [];
  got = [];  // what the demo's receiver got

  // ask(method, path) is a request to the gateway; null where that fails, which is told.
  constructor({ ask }) {
    this.ask = ask;
    this.receiver = $("callback").dataset.receiver;
  }

  get pending() { return this.list.some((k) => k.status === "pending"); }

  async look() {
    this.list = (await this.ask("GET", "/v1/callbacks?limit=50"))?.data ?? this.list;
    if (this.receiver) this.got = (await this.ask("GET", "/demo/callbacks"))?.data ?? this.got;
    this.paint();
  }

  paint() {
    fill($("callbacks-rows"), this.list.map((k) => this.row(k)));
    $("callbacks-empty").hidden = this.list.length > 0;
  }

  row(k) {
    const last = k.last_status ?? (k.last_error ? "no answer" : "–");
    const next = k.next_attempt_at && Date.parse(k.next_attempt_at) - Date.now();
    return row(k.id,
      cell("", state(k.status, k.status === "delivered" ? null : k.last_error)),
      cell("", k.event),
      cell("id", short(k.object_id), k.object_id),
      cell("right", String(k.attempts)),
      cell("right", String(last), k.last_error),
      this.receiver ? cell("", this.receipt(k)) : cell("optional url", k.url, k.url),
      next > 0 ? cell("right optional", `again in ${age(next)}`) : since("right optional", k.created_at),
      acts(act("Redeliver", `the callback of ${short(k.object_id)}`, async () => {
        await this.ask("POST", `/v1/callbacks/${k.id}/redeliver`);
        this.look();
      })));
  }

  // receipt is what the demo's receiver says of it.
  receipt(k) {
    if (k.url !== this.receiver) return element("span", "quiet", "another’s");
    const got = this.got.filter((one) => one.id === k.id);
    if (!got.length) return element("span", "quiet", "not yet");
    const bad = got.some((one) => !one.good), times = got.reduce((sum, one) => sum + one.times, 0);
    return element("span", bad ? "bad" : "good", `signature ${bad ? "bad" : "good"}${times > 1 ? `, ${times} ×` : ""}`);
  }
}
