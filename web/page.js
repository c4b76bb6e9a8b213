// The page: a console for streams. Here its parts are made and wired; each has a module of its own.

import Sluice from "./client.js";
import { Background } from "./background.js";
import { $, button, count, element, enable, enabled, number, say } from "./dom.js";
import { Connections, Line, MOST } from "./connections.js";
import { Conversation, sampleTool } from "./conversation.js";
import { Run } from "./run.js";
import { Streams } from "./streams.js";
import { age, short } from "./table.js";
import { Timeline } from "./timeline.js";
import { Viewers } from "./viewers.js";
import { Wire } from "./wire.js";
import { recall, remember } from "./memory.js";

const RECENT = 60_000; // ms in which a request that a reload has cut off is asked for again; later it would surprise

let run = null; // what is on the page now, also when it is over

const connections = new Connections();
const line = new Line(connections);
const clientOver = (way) => new Sluice({ apiKey: $("key")?.value.trim() || undefined, fetch: way.fetch, maxRetries: 0 });
const client = () => clientOver(line);

const timeline = new Timeline((entry) => {
  tab("wire");
  wire.reveal(entry);
});
const wire = new Wire();
const conversation = new Conversation({ retry, readOn });
const viewers = new Viewers({ client: clientOver, connections, timeline });
const streams = new Streams({ client, connections, open, current: () => run?.turn.id, heard });
const background = new Background({ client, clientOver, connections, streams, params: (prompt) => paramsFor([{ role: "user", content: prompt }]) });

// ---- One turn after the other

function send() {
  const prompt = $("prompt").value.trim();
  if (!prompt) return $("prompt").focus();
  begin(prompt, conversation.ask(prompt));
  $("prompt").value = "";
}

function retry(turn) {
  if (run && !run.over) return;
  conversation.remove(turn);
  begin(turn.prompt, conversation.ask(turn.prompt));
}

// readOn is for a stream that this page could not reach for a while.
function readOn(turn) {
  if (run && !run.over) return;
  Object.assign(turn, { state: "connecting", problem: undefined });
  goOn(turn);
}

function begin(prompt, content) {
  const params = paramsFor(conversation.messages(content));
  if ($("tool").checked || conversation.usesTools()) params.tools = [sampleTool];
  const turn = { prompt, content, params, headers: headers(), queued: $("background").checked, key: randomKey(), asked: Date.now(), state: "connecting" };
  read(turn).start(params);
  keep();
}

function paramsFor(messages) {
  const params = { model: $("model").value.trim(), max_tokens: Number($("max-tokens").value), messages };
  if ($("thinking").checked) params.thinking = { type: "adaptive", display: "summarized" };
  return params;
}

// headers ask for a background stream, where one is wanted.
function headers() {
  if (!$("background").checked) return {};
  const callback = $("callback").value.trim();
  return { prefer: "respond-async", ...(callback && { "sluice-callback-url": callback }) };
}

// read puts a turn on the page and gives what will read it.
function read(turn) {
  conversation.add(turn);
  return attend(turn);
}

function attend(turn) {
  run = new Run({
    turn, line, connections, client: client(),
    changed: () => turn === run?.turn && changed(),
    fresh: () => conversation.restart(turn),
    ended: () => ended(turn),
  });
  conversation.runs.set(turn, run);
  timeline.show(run.record);
  wire.show(run.record);
  viewers.watch(run);
  changed();
  return run;
}

function ended(turn) {
  const over = conversation.runs.get(turn), { state, message, problem } = over;
  Object.assign(turn, { state, message, problem, params: undefined, headers: undefined });
  keep();
  over.compare(conversation.contents(turn));
  streams.soon();
}

// open reads a stream of the list.
function open(stream) {
  const known = conversation.turns.find((turn) => turn.id === stream.id);
  if (known) return conversation.views.get(known).root.scrollIntoView({ block: "start" });
  start();
  read({ prompt: null, id: stream.id, eventsUrl: stream.events_url, queued: stream.status === "queued", state: "connecting" }).resume(stream.events_url);
  keep();
  streams.paint();
}

// start begins a new conversation. What is being read goes on without this page, and stays in the list.
function start() {
  run?.leave();
  run = null;
  conversation.clear();
  timeline.show(null);
  wire.show(null);
  viewers.watch(null);
  keep();
  changed();
  heard();
}

// ---- What the page says

const PACE = 30; // ms; a stream may bring a thousand events a second, and nobody reads a state as often

let known = "";  // the id of the stream that the list was last asked about
let asked = 0;

// changed asks for show, soon. It doesn't wait for a frame: a tab that nobody looks at has none, but has a title.
function changed() {
  asked ||= setTimeout(show, PACE);
}

function show() {
  asked = 0;
  const live = Boolean(run) && !run.over;
  const state = run?.state ?? "ready";
  const waits = live && state === "connecting" && connections.waiting > 0;
  $("state").dataset.state = waits ? "waiting" : state;
  say($("state-text"), waits ? "waiting for a connection" : live && run.stopping ? "stopping" : state);
  document.title = document.title.replace(/^(?:[a-z]+ · )?/, live ? `${state} · ` : "");
  enable($("drop"), live && (state === "streaming" || state === "queued"));
  enable($("stop"), live && !run.stopping);
  enable($("send"), !live);
  enable($("new"), conversation.turns.length > 0);
  for (const chip of document.querySelectorAll("[data-prompt]")) enable(chip, !live);
  const tools = live ? [] : conversation.pending();
  const result = tools.length ? `Result of ${[...new Set(tools.map((t) => t.name))].join(", ")}` : "";
  say($("prompt-label"), result || "Prompt");
  $("prompt").placeholder = result ? `${result}: what did it find?` : conversation.turns.length ? "Ask on" : "Ask something";
  conversation.changed();
  timeline.changed();
  wire.changed();
  viewers.follow();
  if (run?.turn.id && run.turn.id !== known) {
    known = run.turn.id;
    keep();
    streams.soon();
  }
}

// connected says how many connections there are, and why something waits.
function connected() {
  const { limited, used, waiting, others, protocol } = connections;
  const name = { h2: "HTTP/2", h3: "HTTP/3" }[protocol] ?? protocol.toUpperCase();
  say($("connections"), limited ? `${name} · ${Math.min(used, MOST)} of ${MOST} connections` : name);
  $("connections").classList.toggle("full", limited && used >= MOST);
  const mine = connections.flights.size - waiting;
  if (waiting) {
    say($("notice-text"), `${count(waiting, "request")} of this page ${waiting === 1 ? "waits" : "wait"} for a connection. Over HTTP/1.1 a browser opens ${MOST} to one server, for all its tabs together, and all are in use: ${number(mine)} here${others ? `, ${number(others)} in other tabs` : ""}. ${waiting === 1 ? "It goes" : "They go"} on when a stream ends or is closed. Over HTTP/2 (TLS) there is no such limit.`);
  }
  $("notice").hidden = !waiting;
  $("notice-close").hidden = !viewers.all.length;
  viewers.draw();
  changed();
}

// heard: the list of streams has been fetched, or refused.
function heard() {
  if (streams.refused?.status === 401) $("signin")?.removeAttribute("hidden");
  const running = conversation.turns.length ? [] : streams.running;
  background.heard();
  const mine = streams.list.find((s) => s.id === run?.turn.id);
  if (mine) run.heard(mine.status);
  $("running").hidden = !running.length;
  $("running").replaceChildren(...(running.length ? [element("p", "", "Still being written:")] : []), ...running.slice(0, 4).map((s) =>
    button(`Open ${short(s.id)} · ${s.model ?? ""} · ${age(Date.now() - Date.parse(s.created_at))} old`, "small", () => open(s))));
}

// ---- What survives a reload

function keep() {
  const turns = conversation.turns.map((turn) => ({ ...turn, message: conversation.runs.get(turn)?.message ?? turn.message }));
  remember({ turns, form: { model: $("model").value, tokens: $("max-tokens").value, thinking: $("thinking").checked, tool: $("tool").checked, background: $("background").checked } });
}

function restore() {
  const { turns = [], form } = recall() ?? {};
  if (form) {
    $("model").value = form.model;
    $("max-tokens").value = form.tokens;
    $("thinking").checked = form.thinking;
    $("tool").checked = form.tool;
    $("background").checked = form.background;
  }
  for (const turn of turns) conversation.add(turn);
  goOn(turns.at(-1));
}

// goOn reads on what was being read when the page was left.
function goOn(turn) {
  if (turn?.state !== "connecting") return;
  if (turn.eventsUrl) attend(turn).resume(turn.eventsUrl);
  else if (turn.params && Date.now() - turn.asked < RECENT) attend(turn).start(turn.params);
  else Object.assign(turn, { state: "failed", problem: { type: "error", message: "The page was left before the gateway had answered." } });
}

// ---- What people do

function tab(name) {
  for (const t of document.querySelectorAll('[role="tab"]')) {
    const chosen = t.id === `tab-${name}`;
    t.setAttribute("aria-selected", String(chosen));
    t.tabIndex = chosen ? 0 : -1;
    $(t.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (name === "streams" || name === "background") streams.look();
  if (name === "background") background.look();
}

for (const t of document.querySelectorAll('[role="tab"]')) {
  t.addEventListener("click", () => tab(t.id.slice(4)));
  t.addEventListener("keydown", (e) => {
    const all = [...document.querySelectorAll('[role="tab"]')], step = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
    if (!step) return;
    const next = all[(all.indexOf(t) + step + all.length) % all.length];
    next.focus();
    tab(next.id.slice(4));
  });
}

$("ask").addEventListener("submit", (e) => {
  e.preventDefault();
  if (enabled($("send"))) send();
});

$("ask").addEventListener("keydown", (e) => {
  if (e.key === "Enter" && (e.ctrlKey || e.metaKey) && !e.isComposing) {
    e.preventDefault();
    if (enabled($("send"))) $("ask").requestSubmit();
  }
});

$("drop").addEventListener("click", () => enabled($("drop")) && run.drop());
$("stop").addEventListener("click", () => enabled($("stop")) && run.stop());
$("new").addEventListener("click", () => {
  if (!enabled($("new"))) return;
  start();
  $("prompt").focus();
});
$("notice-close").addEventListener("click", () => viewers.clear());

const faults = $("faults");
$("examples")?.addEventListener("click", (e) => {
  const chip = e.target.closest("[data-prompt]");
  if (!chip || !enabled(chip)) return;
  faults.open = false;
  $("tool").checked = "tool" in chip.dataset;
  $("thinking").checked = false;
  $("prompt").value = chip.dataset.prompt;
  $("ask").requestSubmit();
});
if (faults) {
  document.addEventListener("click", (e) => faults.contains(e.target) || (faults.open = false));
  faults.addEventListener("keydown", (e) => {
    if (e.key !== "Escape" || !faults.open) return;
    faults.open = false;
    faults.querySelector("summary").focus();
  });
}

$("background").addEventListener("change", telling);

// telling shows where the end of a background stream is told, once there is to be one.
function telling() {
  $("telling").hidden = !$("background").checked;
}

$("key")?.addEventListener("change", () => {
  listModels();
  streams.look();
  background.look();
});

async function listModels() {
  try {
    const { data } = await client().request({ method: "GET", path: "/v1/models?limit=100", headers: { "anthropic-version": "2023-06-01" } });
    const ids = data.map((m) => m.id).filter((id) => typeof id === "string");
    $("models").replaceChildren(...ids.map((id) => Object.assign(element("option"), { value: id })));
    if (ids.length && !ids.includes($("model").value) && $("model").value === $("model").defaultValue) $("model").value = ids[0];
  } catch { /* the field takes any name */ }
}

function randomKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
}

addEventListener("pagehide", keep);
document.addEventListener("visibilitychange", () => document.hidden && keep());
setInterval(() => {
  connected();
  if (run && !run.over) timeline.changed();
}, 500);

if (/Mac|iPhone|iPad/.test(navigator.platform)) $("modifier").textContent = "⌘";
connections.changed = connected;
restore();
telling();
changed();
streams.look().then(() => streams.refused?.status === 401 || listModels());
if (matchMedia("(pointer: fine)").matches) $("prompt").focus({ preventScroll: true }); // else a keyboard covers the page
