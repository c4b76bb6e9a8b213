// Elements, and numbers as people read them. Whatever was written by somebody else reaches the page as text nodes only.

export const $ = (id) => document.getElementById(id);

// element makes an element. Its children are nodes or texts; what is false, null or undefined among them is left out.
export function element(tag, className, ...children) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  for (const child of children) if (child || child === 0) e.append(child);
  return e;
}

export function button(text, className, click) {
  const e = element("button", className, text);
  e.type = "button";
  if (click) e.addEventListener("click", () => enabled(e) && click(e));
  return e;
}

export function drawn(tag, attributes = {}) {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  return e;
}

// say sets an element's text where it differs, so that nobody who listens to it hears the same twice.
export function say(e, text) {
  if (e.textContent !== text) e.textContent = text;
}

// enable marks a button; one that is disabled for real would lose the focus of who has just pressed it.
export function enable(b, yes) {
  b.setAttribute("aria-disabled", String(!yes));
}

export const enabled = (b) => b.getAttribute("aria-disabled") !== "true";

// frames makes a function that runs paint before the next frame, however often it is asked to. A page that nobody sees
// gets no frames; its paint waits until somebody does.
export function frames(paint) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      paint();
    });
  };
}

// Follower keeps a scrolling pane at its end until its reader scrolls up.
export class Follower {
  following = true;
  top = 0;

  constructor(pane, newest) {
    this.pane = pane;
    this.newest = newest;
    pane.addEventListener("scroll", () => {
      if (pane.scrollHeight - pane.scrollTop - pane.clientHeight < 24) this.following = true;
      else if (pane.scrollTop < this.top) this.following = false; // upwards; content that grew isn't that
      this.top = pane.scrollTop;
      newest.hidden = this.following;
    }, { passive: true });
    newest.addEventListener("click", () => {
      pane.focus({ preventScroll: true });
      this.reset();
    });
  }

  reset() {
    this.following = true;
    this.newest.hidden = true;
    this.keep();
  }

  keep() {
    if (this.following) this.pane.scrollTop = this.pane.scrollHeight;
  }
}

// copying makes a button that copies what text() says, and says so.
export function copying(label, className, text, name) {
  const b = button(label, className, async () => {
    say(b, (await toClipboard(text())) ? "Copied" : "Not allowed");
    setTimeout(() => say(b, label), 1500);
  });
  if (name) b.setAttribute("aria-label", name);
  return b;
}

async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch { /* not over plain HTTP from elsewhere; there is the old way */ }
  const area = element("textarea", "unseen");
  area.value = text;
  const before = document.activeElement;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  before?.focus({ preventScroll: true });
  return done;
}

const figures = new Intl.NumberFormat("en");
export const number = (n) => figures.format(n);
export const count = (n, one, many = one + "s") => `${number(n)} ${n === 1 ? one : many}`;

export function bytes(n) {
  if (n < 10_000) return `${number(n)} B`;
  return n < 10_000_000 ? `${(n / 1000).toFixed(1)} kB` : `${(n / 1e6).toFixed(1)} MB`;
}

export function duration(ms) {
  if (ms < 9.95) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
  return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}

const utf8 = new TextEncoder();
export const byteLength = (s) => utf8.encode(s).length;

export function cut(text, most) {
  return text.length <= most ? text : `${text.slice(0, most)}…`;
}
