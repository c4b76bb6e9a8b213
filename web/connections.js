// The browser's connections to this gateway. Over HTTP/1.1 it opens six to one origin, for all tabs together; a request
// beyond them waits without a word. Here they are counted, so that the page can say so.

export const MOST = 6;

const PATIENCE = 1000; // ms that a request may be on its way before it is worth a word

export class Connections {
  flights = new Set();  // requests of this page: {since, open}; open: the answer has begun
  counts = new Map();   // of other tabs, by what they call themselves
  me = Math.random();
  protocol = "";        // as ALPN has it; "" as long as it is unknown
  changed = () => {};   // called when a number may have changed

  constructor() {
    // What came from the cache, or was found there still good, names no protocol.
    const learn = (entries) => {
      for (const { nextHopProtocol } of entries) this.protocol = nextHopProtocol || this.protocol;
      this.changed();
    };
    learn(performance.getEntriesByType("navigation"));
    new PerformanceObserver((seen) => learn(seen.getEntries())).observe({ type: "resource", buffered: true });
    this.channel = new BroadcastChannel("sluice-connections");
    this.channel.addEventListener("message", ({ data }) => this.hear(data));
    addEventListener("pagehide", () => this.channel.postMessage({ from: this.me, uses: 0 }));
    addEventListener("pageshow", () => this.tell());
    this.ask();
  }

  // fetch is the browser's, counted until the answer is read or given up. An answer that is an event stream can be cut:
  // opened(cut) is told how.
  async fetch(url, init, opened) {
    const flight = { since: performance.now(), open: false };
    const over = () => this.flights.delete(flight) && this.tell();
    this.flights.add(flight);
    init?.signal?.addEventListener("abort", over, { once: true });
    this.tell();
    setTimeout(() => this.flights.has(flight) && !flight.open && this.ask(), PATIENCE);
    let response;
    try {
      response = await fetch(url, init);
    } catch (e) {
      over();
      throw e;
    }
    flight.open = true;
    this.changed();
    if (!response.body || !response.headers.get("content-type")?.startsWith("text/event-stream")) {
      over();
      return response;
    }
    const [body, cut] = severable(response.body, over);
    opened?.(cut);
    return new Response(body, { status: response.status, statusText: response.statusText, headers: response.headers });
  }

  get limited() { return this.protocol.startsWith("http/1"); }
  get others() { return [...this.counts.values()].reduce((sum, n) => sum + n, 0); }
  get used() { return this.flights.size + this.others; }

  // full: another request would wait.
  get full() { return this.limited && this.used >= MOST; }

  // waiting is how many of this page's requests wait for a connection, and not for the gateway.
  get waiting() {
    if (!this.limited) return 0;
    const late = [...this.flights].filter((f) => !f.open && performance.now() - f.since >= PATIENCE).length;
    return Math.min(late, Math.max(0, this.used - MOST));
  }

  // ---- Other tabs: each says how many it uses when one of them asks, and when its own number has changed

  // ask begins the count anew; a tab that has died no longer answers.
  ask() {
    this.counts.clear();
    this.channel.postMessage({ ask: true });
    this.changed();
  }

  tell() {
    this.channel.postMessage({ from: this.me, uses: this.flights.size });
    this.changed();
  }

  hear(data) {
    if (data.ask) return this.channel.postMessage({ from: this.me, uses: this.flights.size });
    this.counts.set(data.from, data.uses);
    this.changed();
  }
}

// severable passes a body on, and can break it as a lost connection would.
function severable(body, over) {
  const reader = body.getReader();
  let broken = false, out;
  const passed = new ReadableStream({
    start: (controller) => void (out = controller),
    async pull() {
      try {
        const { value, done } = await reader.read();
        if (broken) return;
        if (!done) return out.enqueue(value);
        over();
        out.close();
      } catch (e) {
        over();
        if (!broken) out.error(e);
      }
    },
    cancel(reason) {
      over();
      return reader.cancel(reason);
    },
  }, { highWaterMark: 0 });
  const cut = () => {
    if (broken) return;
    broken = true;
    over();
    try {
      out.error(new TypeError("The connection was dropped by hand."));
    } catch { /* it had ended */ }
    reader.cancel().catch(() => {});
  };
  return [passed, cut];
}

// Line is one reader's way to the gateway. It can be cut, and stays cut for a while.
export class Line {
  until = 0;
  cutting = null;

  constructor(connections) {
    this.connections = connections;
  }

  fetch = async (url, init) => {
    url = here(url);
    if (url.pathname.endsWith("/events")) await this.quiet(init?.signal);
    // Where several wait for a connection, what ends a stream goes first: it is what frees one.
    const priority = init?.method === "DELETE" || url.pathname.endsWith("/cancel") ? "high" : "low";
    return this.connections.fetch(url, { ...init, priority }, (cut) => (this.cutting = cut));
  };

  // cut drops the connection; the next one is made after ms at the earliest.
  cut(ms) {
    this.until = performance.now() + ms;
    this.cutting?.();
    this.cutting = null;
  }

  async quiet(signal) {
    for (let left; (left = this.until - performance.now()) > 0;) {
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, left);
        signal?.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
      });
      signal?.throwIfAborted();
    }
  }
}

// here is the URL on this page's own origin: the page may not talk to others, even if the gateway calls itself by another
// name than the browser does.
function here(url) {
  url = new URL(url, location.href);
  return url.origin === location.origin ? url : new URL(url.pathname + url.search, location.origin);
}
