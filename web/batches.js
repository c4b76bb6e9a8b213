// Message Batches: made from a few prompts, watched until they end, and their results.

import { $, count, cut, element, number, say } from "./dom.js";
import { events } from "./events.js";
import { act, acts, cell, fill, lasted, left, row, short, since, state, within } from "./table.js";

const SHOWN = 100; // results on the page; the rest is counted
const LONG = 300;  // characters of one

export class Batches {
  list = [];
  watched = null; // {batch, results, tail, stop}: the one whose events are read

  // ask(method, path, body, headers) is a request to the gateway, null where that fails, which is told; client() is one
  // with a connection of its own, params(prompt) a request of the batch; told() is called when something may be told.
  constructor({ ask, client, params, told }) {
    Object.assign(this, { ask, client, params, told });
    $("batch").addEventListener("submit", (e) => {
      e.preventDefault();
      this.make();
    });
    $("batch-close").addEventListener("click", () => this.close());
  }

  get unfinished() { return this.list.some((b) => b.processing_status !== "ended"); }

  async look() {
    this.list = (await this.ask("GET", "/v1/messages/batches?limit=20"))?.data ?? this.list;
    this.paint();
  }

  async make() {
    const prompts = $("batch-prompts").value.split("\n").map((line) => line.trim()).filter(Boolean);
    if (!prompts.length) return $("batch-prompts").focus();
    const callback = $("batch-callback").value.trim();
    const batch = await this.ask("POST", "/v1/messages/batches", {
      requests: prompts.map((prompt, i) => ({ custom_id: `prompt-${i + 1}`, params: this.params(prompt) })),
    }, { ...(callback && { "sluice-callback-url": callback }), ...($("batch-again").checked && { "sluice-resubmit-expired": "1" }) });
    if (!batch) return;
    $("batch-prompts").value = "";
    this.watch(batch);
    this.look();
  }

  // ---- The list

  paint() {
    fill($("batches-rows"), this.list.map((b) => this.row(b)));
    $("batches-empty").hidden = this.list.length > 0;
  }

  row(b) {
    const ended = b.processing_status === "ended", path = `/v1/messages/batches/${b.id}`, name = `batch ${short(b.id)}`;
    const told = b.sluice?.callback;
    const does = async (method, path) => {
      const done = await this.ask(method, path);
      if (done && method === "DELETE" && this.watched?.batch.id === b.id) this.close();
      this.look();
    };
    return row(b.id,
      cell("", state(b.processing_status, b.sluice?.errors?.map((e) => `${number(e.count)} × ${e.type}: ${e.message}`).join("\n"))),
      cell("id", short(b.id), b.id),
      cell("wraps", element("span", "", counts(b.request_counts), ...relatives(b).map(([text, id]) => Object.assign(element("span", "again", text), { title: id })))),
      since("right", b.created_at, b.ended_at),
      ended ? cell("right optional", "–") : within("right optional", b.expires_at),
      cell("optional", told?.status ?? "–", told?.last_error),
      acts(act("Open", name, () => this.watch(b)), ended && act("Delete", name, () => does("DELETE", path)),
        b.processing_status === "in_progress" && act("Cancel", name, () => does("POST", `${path}/cancel`))));
  }

  // ---- The one that is watched

  // watch reads a batch's events. They take a connection, so it is one batch at a time.
  async watch(batch) {
    this.close();
    const stop = new AbortController(), mine = { batch, results: 0, stop };
    this.watched = mine;
    $("batch-results").replaceChildren();
    $("batch-watched").hidden = false;
    this.tell();
    try {
      for await (const { event, data } of events(this.client(), `/v1/messages/batches/${batch.id}/events?results=1`, "batch_ended", stop.signal)) {
        if (event === "batch_result") this.result(mine, data);
        if (event === "resync") this.again(mine);
        if (event === "batch_status" || event === "batch_ended") this.hear(mine, data);
      }
    } catch (e) {
      say($("batch-state"), e.message);
    }
  }

  hear(mine, batch) {
    mine.batch = batch;
    this.list = this.list.map((b) => (b.id === batch.id ? batch : b));
    this.paint();
    this.tell();
    this.told();
  }

  again(mine) {
    mine.results = 0;
    $("batch-results").replaceChildren();
  }

  result(mine, { custom_id: id, result }) {
    if (++mine.results <= SHOWN) {
      const text = result.message?.content?.find((block) => block.type === "text")?.text ?? result.error?.error?.message ?? "";
      $("batch-results").append(element("li", "", element("span", "result-head", element("code", "", id), state(result.type)), cut(text, LONG)));
    }
    this.tell();
  }

  // tell says where the watched batch stands. While it is processed there is nothing to know but the time: its counts
  // move only at its end.
  tell() {
    if (!this.watched) return;
    const { batch: b, results } = this.watched, ended = b.processing_status === "ended";
    const parts = [b.processing_status.replace("_", " "), `${ended ? "took" : "for"} ${lasted(b.created_at, b.ended_at)}`, counts(b.request_counts)];
    if (!ended) parts.push(`expires in ${left(b.expires_at)}`);
    parts.push(...relatives(b).map(([text]) => text));
    if (results) parts.push(count(results, "result") + (results > SHOWN ? `, the first ${number(SHOWN)} here` : ""));
    const usage = b.sluice?.usage;
    if (usage) parts.push(`${number(usage.input_tokens)} tokens in, ${number(usage.output_tokens)} out`);
    say($("batch-title"), `Batch ${short(b.id)}`);
    say($("batch-state"), parts.join(" · "));
  }

  close() {
    this.watched?.stop.abort();
    this.watched = null;
    $("batch-watched").hidden = true;
  }
}

// relatives say what became of requests that expired: [text, id of the other batch].
function relatives({ sluice }) {
  const { successor_id: to, predecessor_id: from } = sluice ?? {};
  return [to && [`what expired: again in ${short(to)}`, to], from && [`what expired in ${short(from)}, again`, from]].filter(Boolean);
}

// counts are those that are not zero.
function counts(all) {
  return Object.entries(all ?? {}).filter(([, n]) => n > 0).map(([name, n]) => `${number(n)} ${name}`).join(", ") || "–";
}
