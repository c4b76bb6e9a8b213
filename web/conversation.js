// The conversation: what was asked and what was answered, turn by turn, on the page and as the next request needs it.

import { $, Follower, copying, button, count, element, frames, number, say } from "./dom.js";
import { Answer, problem } from "./answer.js";

export const sampleTool = {
  name: "get_weather",
  description: "Get the weather at a place.",
  input_schema: {
    type: "object",
    properties: { city: { type: "string", description: "The place" }, unit: { type: "string", enum: ["celsius", "fahrenheit"] } },
    required: ["city"],
  },
};

// A turn is what survives a reload:
//
//	prompt     what was asked, as text; null where this page doesn't know it
//	content    the same as the request has it
//	key        the request's Idempotency-Key; params and headers, the request itself, until it is answered
//	id, eventsUrl, state, message, problem     its stream, as far as it has come
export class Conversation {
  turns = [];
  views = new Map(); // by turn
  runs = new Map();  // by turn: what reads it, or has read it since this page was loaded

  // retry(turn) asks once more, readOn(turn) reads its stream once more.
  constructor({ retry, readOn }) {
    Object.assign(this, { retry, readOn });
    this.pane = $("conversation");
    this.follower = new Follower(this.pane, $("newest"));
    this.changed = frames(() => this.paint());
  }

  get last() { return this.turns.at(-1); }

  add(turn) {
    $("empty").hidden = true;
    const view = new TurnView(turn, this);
    this.turns.push(turn);
    this.views.set(turn, view);
    this.pane.append(view.root);
    this.follower.reset();
    this.changed();
    return view;
  }

  remove(turn) {
    this.views.get(turn)?.root.remove();
    this.views.delete(turn);
    this.runs.delete(turn);
    this.turns = this.turns.filter((t) => t !== turn);
    $("empty").hidden = this.turns.length > 0;
  }

  clear() {
    for (const turn of [...this.turns]) this.remove(turn);
  }

  restart(turn) {
    this.views.get(turn)?.answer.restart();
  }

  contents(turn) {
    this.paint();
    return this.views.get(turn)?.answer.contents() ?? [];
  }

  paint() {
    for (const turn of this.turns) this.views.get(turn).paint(this.runs.get(turn), turn === this.last);
    this.follower.keep();
  }

  // ---- As the next request needs it

  // answered are the turns that a request can build on, each with what of its answer may be sent back.
  answered() {
    return this.turns.filter((turn) => turn.prompt !== null).map((turn) => [turn, sendable(turn)]).filter(([, content]) => content.length > 0);
  }

  // pending are the tools that the last answer has called and that wait for a result.
  pending() {
    const [turn, content] = this.answered().at(-1) ?? [];
    return turn?.message?.stop_reason === "tool_use" ? content.filter((block) => block.type === "tool_use") : [];
  }

  // ask makes a prompt the content of the next turn: the result of a tool where one waits for it.
  ask(prompt) {
    const tools = this.pending();
    return tools.length ? tools.map(({ id }) => ({ type: "tool_result", tool_use_id: id, content: prompt })) : prompt;
  }

  messages(content) {
    return [...this.answered().flatMap(([turn, answer]) => [{ role: "user", content: turn.content }, { role: "assistant", content: answer }]), { role: "user", content }];
  }

  usesTools() {
    return this.answered().some(([, content]) => content.some((block) => block.type === "tool_use"));
  }
}

// sendable is an answer's content as a request may repeat it. What was cut short has thoughts without their signature and
// calls without their result, which Claude refuses; its text is kept.
function sendable(turn) {
  const content = turn.message?.content ?? [];
  if (turn.state === "completed") return content;
  return content.filter((block) => block?.type === "text" && block.text).map(({ text }) => ({ type: "text", text }));
}

class TurnView {
  answer = new Answer();
  problem = null;

  constructor(turn, { retry, readOn }) {
    this.turn = turn;
    this.root = element("article", "turn");
    if (turn.prompt !== null) this.root.append(element("div", "asked", element("span", "label", Array.isArray(turn.content) ? "Result of the tool" : "You"), turn.prompt));
    this.waits = element("p", "waits", "…");
    this.waits.setAttribute("aria-hidden", "true");
    this.place = element("div", "blocks problem-place");
    this.verdict = element("div", "verdict");
    this.verdict.setAttribute("role", "status");
    this.facts = element("span", "facts");
    this.copy = copying("Copy", "plain", () => this.text());
    this.curl = copying("Copy curl", "plain", () => `curl -N '${new URL(turn.eventsUrl, location.href)}'`);
    this.curl.title = "A command that reads this stream’s events; it holds a ticket for this one stream";
    this.readOn = button("Read on", "plain", () => readOn(turn));
    this.retry = button("Retry", "plain", () => retry(turn));
    this.after = element("footer", "after", this.facts, element("span", "actions", this.copy, this.curl, this.readOn, this.retry));
    this.root.append(this.waits, this.answer.root, this.place, this.verdict, this.after);
  }

  text() {
    const content = this.turn.message?.content ?? [];
    return content.filter((block) => block?.type === "text").map((block) => block.text).join("\n\n");
  }

  paint(run, isLast) {
    const { turn } = this, live = Boolean(run) && !run.over;
    const message = run?.message ?? turn.message;
    const trouble = run?.problem ?? turn.problem;
    this.answer.paint(message, !live, run?.partial);
    this.root.dataset.state = live ? run.state : turn.state;
    this.root.setAttribute("aria-busy", String(live));
    this.root.setAttribute("aria-label", `Turn: ${turn.prompt ?? "a stream opened from the list"}`.slice(0, 120));
    this.waits.hidden = !live || this.answer.views.length > 0;
    if (trouble !== this.problem) {
      this.problem = trouble;
      this.place.replaceChildren(...(trouble ? [problem(trouble)] : []));
    }
    this.tell(run);
    this.describe(message, live);
    this.copy.hidden = !this.text() || live;
    this.curl.hidden = !turn.eventsUrl;
    this.readOn.hidden = !isLast || live || !turn.eventsUrl || trouble?.type !== "connection_error";
    this.retry.hidden = !isLast || live || turn.prompt === null;
  }

  // tell says what became of lost connections, and whether anything was lost with them.
  tell(run) {
    const lines = [];
    if (run?.drops.length) {
      const more = run.drops.length > 1 ? ` The ${number(run.drops.length)} times are on the wire.` : "";
      lines.push(["gap", run.drops.at(-1) + more]);
    }
    if (run?.verdict) lines.push([run.verdict.tone, run.verdict.text]);
    while (this.verdict.childElementCount > lines.length) this.verdict.lastElementChild.remove();
    lines.forEach(([className, text], i) => {
      const line = this.verdict.children[i] ?? this.verdict.appendChild(element("p"));
      line.className = className;
      say(line, text);
    });
  }

  describe(message, live) {
    const parts = [];
    if (message?.model) parts.push(message.model);
    if (message?.usage?.input_tokens !== undefined) {
      const { input_tokens: tokensIn, output_tokens: tokensOut = 0 } = message.usage;
      parts.push(`${count(tokensIn, "token")} in${message.stop_reason ? `, ${number(tokensOut)} out` : ""}`);
    }
    if (message?.stop_reason) parts.push(message.stop_reason);
    say(this.facts, parts.join(" · "));
    if (this.turn.id) this.facts.title = this.turn.id;
    this.after.hidden = live && parts.length === 0;
  }
}
