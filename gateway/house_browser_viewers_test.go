package gateway_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"sluice/gateway"
)

// TestStalledPageCatchesUpInFewFrames has two pages read one stream, of which one gets next to nothing for a while. What
// matters is how much is sent meanwhile: more than the kernel and the browser hold for it, or nobody would notice. So the
// stall lasts as long as 1.2 MB of text take: ten times what they hold, and more than a real answer says in an hour.
func TestStalledPageCatchesUpInFewFrames(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		patience time.Duration // of the gateway, with a reader that takes nothing
		opened   int
	}{
		{"on its connection", time.Minute, 1},
		{"on another, when the gateway has lost patience", time.Second, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			const deltas, burst = 1000, 20
			f := newFaucet()
			h := openHouse(t, f, func(cfg *gateway.Config) { cfg.Relay.StallTimeout = c.patience })
			w := h.watching(t, f)
			quick, stalled := browse(t, h.nowhere()), browse(t, h.nowhere())
			stalled.network(crawl)
			for _, p := range []*tab{quick, stalled} {
				p.listen(w.o.EventsURL)
				p.until(`sources[0].events.length == 1`)
			}
			w.up.send(block)
			w.r.next()
			text := strings.Repeat("slowly does it ", 80)
			for range deltas / burst { // the next burst is sent when a reader in pace has the last one
				w.up.send(strings.Repeat(delta(text), burst))
				for range burst {
					w.r.next()
				}
			}
			w.up.finish()
			endsWith(t, w.r.rest(), "message_stop")
			quick.until(`ended()`)
			if c.opened > 1 {
				eventually(t, func() string { return "nobody was ended for stalling" }, func() bool { return h.scrape()[`sluice_viewers_ended_total{reason="stalled"}`] > 0 })
			}
			if n := len(stalled.events(0)); n > deltas/4 {
				t.Errorf("it has got %d events, and was to be stalled", n)
			}
			stalled.network(online)
			stalled.until(`ended()`)
			slow := stalled.events(0)
			endsWith(t, slow, "message_stop")
			if len(slow) > deltas/4 {
				t.Errorf("it caught up in %d events", len(slow))
			}
			if n := value[int](stalled, `sources[0].opened`); n != c.opened {
				t.Errorf("it took %d connections, want %d", n, c.opened)
			}
			message := h.get(w.o.ID).Message
			equalJSON(t, accumulate(t, slow), message)
			equalJSON(t, accumulate(t, quick.events(0)), message)
			if got := textOf(t, slow); got != strings.Repeat(text, deltas) {
				t.Errorf("%d bytes of text, want %d", len(got), deltas*len(text))
			}
		})
	}
}

// TestOneBrowserReadsTwentyStreamsAtOnceOverHTTP2, of which each gets text when all are open, and more when the one
// connection that carried them was cut.
func TestOneBrowserReadsTwentyStreamsAtOnceOverHTTP2(t *testing.T) {
	t.Parallel()
	const streams = 20
	f := newFaucet()
	h := openTLSHouse(t, f)
	c := lay(t, h.url)
	ups, urls := h.flowing(t, f, streams)
	p := browse(t, c.url+"/nowhere")
	if got := value[string](p, `performance.getEntriesByType("navigation")[0].nextHopProtocol`); got != "h2" {
		t.Fatalf("the browser speaks %s", got)
	}
	for i := range urls {
		urls[i] = strings.Replace(urls[i], h.url, c.url, 1) + "&exact=1"
	}
	p.listen(urls...)
	p.until(`sources.every((s) => s.events.length == 1)`)
	for i, up := range ups {
		up.send(block, delta(fmt.Sprintf("%d and", i)))
	}
	p.until(`sources.every((s) => s.events.length == 3)`)
	c.cut()
	for i, up := range ups {
		up.send(delta(fmt.Sprintf(" only %d", i)))
		up.finish()
	}
	p.until(`ended()`)
	for i := range ups {
		events := p.events(i)
		numbered(t, events, 0)
		endsWith(t, events, "message_stop")
		if text := textOf(t, events); text != fmt.Sprintf("%d and only %d", i, i) {
			t.Errorf("stream %d says %q", i, text)
		}
	}
}

// TestSeventhStreamWaitsOverHTTP1 is why there is HTTP/2: the browser's own bound, without an error or any other sign.
func TestSeventhStreamWaitsOverHTTP1(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f)
	ups, urls := h.flowing(t, f, 7)
	p := browse(t, h.nowhere())
	p.listen(urls...)
	p.until(`sources.filter((s) => s.events.length == 1).length == 6`)
	h.becomes("sluice_viewers_active", 6)
	if !value[bool](p, `sources.every((s) => s.broken == 0) && sources.filter((s) => s.source.readyState === EventSource.CONNECTING).length == 1`) {
		t.Error("the seventh does not wait")
	}
	p.run(`sources.find((s) => s.opened).source.close()`)
	p.until(`sources.every((s) => s.opened == 1)`)
	for _, up := range ups {
		up.finish()
	}
	p.until(`sources.filter((s) => s.events.at(-1)?.name == "message_stop").length == 6`)
}

// flowing opens streams that have begun.
func (h *house) flowing(t testing.TB, f *faucet, streams int) (ups []*tap, urls []string) {
	t.Helper()
	for range streams {
		w := h.watching(t, f)
		w.r.leave()
		ups, urls = append(ups, w.up), append(urls, w.o.EventsURL)
	}
	h.becomes("sluice_viewers_active", 0)
	return ups, urls
}
