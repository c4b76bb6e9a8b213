// One answer on the page: its blocks as they grow. What is shown is always the beginning of what has come, so a reader
// of this page can compare it letter by letter.

import { copying, element, say } from "./dom.js";

const LONG_LINE = 20_000; // characters; a longer one is laid out in parts, at a space

let thinkingOpen = true;  // as its reader last left it

// Answer shows a Message that is accumulated elsewhere.
export class Answer {
  views = [];

  constructor() {
    this.root = element("div", "blocks");
  }

  // paint shows what has been added since the last time. settled: no more comes; else partial is the JSON so far of the
  // input that the last block may have.
  paint(message, settled = false, partial = "") {
    const content = Array.isArray(message?.content) ? message.content : [];
    content.forEach((block, i) => {
      if (!block) return;
      if (!this.views[i]) this.root.append((this.views[i] = viewOf(block)).root);
      const open = !settled && i === content.length - 1;
      this.views[i].show(block, open, open ? partial : "");
    });
  }

  // restart takes all of it back: the stream begins again.
  restart() {
    this.views = [];
    this.root.replaceChildren();
  }

  // contents are the blocks' texts as they stand on the page, to be compared with a Message's.
  contents() {
    return this.views.map((view) => view.content());
  }
}

// contentOf is what contents() has for a block, if nothing is lost or repeated; null where this page shows a part only.
export function contentOf(block) {
  switch (block?.type) {
    case undefined: return "";
    case "text": return block.text ?? "";
    case "thinking": return block.thinking ?? "";
  }
  return block.input === undefined ? null : JSON.stringify(block.input, null, 2);
}

function viewOf(block) {
  switch (block.type) {
    case "text": return new Text(element("div", "text"));
    case "thinking": return new Thought();
  }
  return new Tool(block);
}

class Text {
  shown = 0;

  constructor(root) {
    this.root = root;
    this.write = prose(root);
  }

  show({ text = "" }) {
    if (text.length <= this.shown) return;
    this.write(text.slice(this.shown));
    this.shown = text.length;
  }

  content() { return this.root.textContent; }
}

class Thought {
  constructor() {
    this.root = element("details", "thinking");
    this.root.open = thinkingOpen;
    this.root.addEventListener("toggle", () => (thinkingOpen = this.root.open));
    this.summary = element("summary", "", "Thinking …");
    this.text = new Text(element("div", "thought"));
    this.root.append(this.summary, this.text.root);
  }

  show({ thinking = "" }, open) {
    this.text.show({ text: thinking });
    if (!open) say(this.summary, thinking ? "Thought" : "Thought, not shown");
  }

  content() { return this.text.content(); }
}

class Tool {
  constructor(block) {
    const title = element("p", "tool-title", element("span", "tool-type", String(block.type)));
    if (typeof block.name === "string") title.append(" ", element("strong", "", block.name));
    this.body = element("pre");
    this.root = element("div", "tool", title, this.body);
    this.called = block.input !== undefined;
    this.shown = null;
  }

  // show shows the input's JSON as it comes, and laid out once it is whole. Other kinds of blocks are shown as they are.
  show(block, open, partial) {
    const now = open ? partial : this.called ? block.input : block;
    if (this.shown === now) return;
    this.shown = now;
    say(this.body, open && partial ? partial : JSON.stringify(this.called ? block.input : block, null, 2) ?? "");
  }

  content() { return this.called ? this.body.textContent : null; }
}

// prose appends text to an element, a box a line: the browser then lays out only the last one again. Nothing is taken
// away from the text: its Markdown stays to be seen, and only tells how a line looks.
function prose(root) {
  let box = null, node = null, code = false;
  const write = (s) => {
    if (!box) {
      node = document.createTextNode("");
      box = element("div", code ? "code" : "");
      box.append(node);
      root.append(box);
    }
    node.appendData(s);
    if (node.length - s.length < 4) look();
  };
  const look = () => {
    const start = node.data.slice(0, 8);
    if (start.startsWith("```")) box.className = code ? "code ends" : "code begins";
    else if (code) box.className = "code";
    else if (/^#{1,6} /.test(start)) box.className = "title";
    else if (/^([-*]|\d+\.) /.test(start)) box.className = "item";
    else box.className = start === "\n" ? "blank" : "";
  };
  const close = () => {
    if (box.classList.contains("begins")) code = true;
    else if (box.classList.contains("ends")) code = false;
    box = null;
  };
  return (text) => {
    for (const line of text.split(/(?<=\n)/)) {
      for (let from = 0; from < line.length;) {
        let to = line.length;
        if (to - from > LONG_LINE) to = line.lastIndexOf(" ", from + LONG_LINE) + 1 || from + LONG_LINE;
        if (to <= from) to = Math.min(line.length, from + LONG_LINE);
        write(line.slice(from, to));
        if (to < line.length) box = null;
        from = to;
      }
      if (line.endsWith("\n")) close();
    }
  };
}

// problem shows why there is no answer, or no more of it: in Anthropic's words, with what helps to find it in a log.
export function problem({ type, message, status, requestId, retryAfter, stream }) {
  const facts = [["status", status], ["request id", requestId], ["retry after", retryAfter && `${retryAfter} s`], ["stream", stream]].filter(([, value]) => value);
  const text = [type, message, ...facts.map(([name, value]) => `${name}: ${value}`)].filter(Boolean).join("\n");
  const box = element("div", type === "canceled_error" ? "problem wanted" : "problem",
    element("div", "problem-head", element("p", "problem-type", type || "error"), copying("Copy", "plain", () => text)),
    element("p", "problem-message", message));
  box.setAttribute("role", "alert");
  if (facts.length) box.append(element("dl", "", ...facts.flatMap(([name, value]) => [element("dt", "", name), element("dd", "", String(value))])));
  return box;
}

// difference says how many characters of theirs are missing in ours, and how many ours has beyond them. What lies
// between the equal beginning and the equal end counts whole, so that it may be too much and is never too little.
export function difference(ours, theirs) {
  if (ours === theirs) return [0, 0];
  const least = Math.min(ours.length, theirs.length);
  let head = 0, tail = 0;
  while (head < least && ours[head] === theirs[head]) head++;
  while (tail < least - head && ours.at(-1 - tail) === theirs.at(-1 - tail)) tail++;
  return [theirs.length - head - tail, ours.length - head - tail];
}
