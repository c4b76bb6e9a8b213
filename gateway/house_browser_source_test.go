package gateway_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/gateway"
	"sluice/gateway/limits"
)

const eventsRoute = `sluice_http_requests_total{code="%d",method="GET",route="/v1/streams/:id/events"}`

// nowhere is a page of the gateway's origin that does nothing by itself.
func (h *house) nowhere() string { return h.url + "/nowhere" }

// TestEventSourceReadsToTheEndAndStops has a page that never closes its EventSource. The browser comes back after the end,
// is told that this was all, and does not come again.
func TestEventSourceReadsToTheEndAndStops(t *testing.T) {
	t.Parallel()
	const deltas = 20
	h := openHouse(t, saying(deltas))
	p := browse(t, h.nowhere())
	o := h.start(request("short"))
	p.listen(o.EventsURL + "&exact=1")
	p.until(`over()`)
	events := p.events(0)
	numbered(t, events, 0)
	same(t, events, relayed(parseWire(string(message(deltas)))))
	if n := value[int](p, `sources[0].opened`); n != 1 {
		t.Errorf("it was opened %d times", n)
	}
	series := h.scrape()
	for code, want := range map[int]float64{200: 1, 204: 1} {
		if got := series[fmt.Sprintf(eventsRoute, code)]; got != want {
			t.Errorf("%v answers with %d, want %v", got, code, want)
		}
	}
	if got := series[`sluice_resumes_total{kind="done"}`]; got != 1 {
		t.Errorf("it came back %v times", got)
	}
}

// TestEventSourceResumesAfterACutAtAnyEvent cuts one connection after each event of a stream: between two events by a
// reset, and within the next one by an end in order.
func TestEventSourceResumesAfterACutAtAnyEvent(t *testing.T) {
	t.Parallel()
	pieces := append([]string{start, block, delta("one "), delta("two ")}, tail...)
	want := relayed(parseWire(strings.Join(pieces, "")))
	for _, c := range []struct {
		name, query string
		torn        bool
	}{
		{"between events", "&exact=1", false},
		{"within an event", "&exact=1", true},
		{"merged", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFaucet()
			h := openHouse(t, f)
			r := build(t, h.url)
			p := browse(t, r.url)
			// A browser has six connections to one host, and there are six places to cut.
			var ups []*tap
			var addresses []string
			for k := 1; k < len(pieces); k++ {
				w := h.watching(t, f)
				w.r.leave()
				w.up.send(pieces[1:k]...)
				ups = append(ups, w.up)
				addresses = append(addresses, w.o.address()+c.query)
			}
			p.listen(addresses...)
			p.until(`sources.every((s, i) => s.events.at(-1)?.id == i + 1)`)
			for i, address := range addresses {
				if c.torn {
					r.tear(address)
				} else {
					r.cut(address)
				}
				ups[i].send(pieces[i+1:]...)
				ups[i].end()
			}
			p.until(`over()`)
			for i, address := range addresses {
				events := p.events(i)
				if c.query != "" {
					numbered(t, events, 0)
					same(t, events, want)
				}
				endsWith(t, events, "message_stop")
				if text := textOf(t, events); text != "one two " {
					t.Errorf("cut after event %d: %q", i+1, text)
				}
				if got, want := r.cursors(address), []string{"", fmt.Sprint(i + 1), fmt.Sprint(len(pieces))}; !slices.Equal(got, want) {
					t.Errorf("cut after event %d: the cursors are %q, want %q", i+1, got, want)
				}
			}
		})
	}
}

// TestEventSourceIsToldTheTruthAfterARestart starts the gateway anew under a page that reads a stream.
func TestEventSourceIsToldTheTruthAfterARestart(t *testing.T) {
	t.Parallel()
	keep := func(c *gateway.Config) { c.Auth.TicketSecret = strings.Repeat("0f", 32) }
	said := func(t *testing.T, events []event, names ...string) {
		t.Helper()
		var got []string
		for _, e := range events {
			got = append(got, e.id+" "+cmp.Or(errorType(e), e.name))
		}
		if !slices.Equal(got, names) {
			t.Errorf("the page was told %q, want %q", got, names)
		}
	}
	t.Run("that was in order", func(t *testing.T) {
		t.Parallel()
		f := newFaucet()
		before := openHouse(t, f, keep, func(c *gateway.Config) { c.Server.Drain = 50 * time.Millisecond })
		p := browse(t, before.nowhere())
		w := before.watching(t, f)
		p.listen(w.o.EventsURL)
		p.until(`sources[0].events.length == 1`)
		before.stop()
		before.waitStopped()
		after := openHouse(t, saying(1), keep, func(c *gateway.Config) { c.Server.Listen = strings.TrimPrefix(before.url, "http://") })
		p.until(`over()`)
		said(t, p.events(0), "1 message_start", "2 api_error", "lost api_error")
		after.becomes(`sluice_resumes_total{kind="lost"}`, 2)
	})
	t.Run("that was a crash", func(t *testing.T) {
		t.Parallel()
		f := newFaucet()
		before := openHouse(t, f, keep)
		r := build(t, before.url)
		p := browse(t, r.url)
		w := before.watching(t, f)
		p.listen(w.o.address())
		p.until(`sources[0].events.length == 1`)
		r.leadTo("")
		r.cut(w.o.address())
		p.until(`sources[0].broken > 1`) // it has come back before the gateway did
		after := openHouse(t, saying(1), keep)
		r.leadTo(after.url)
		p.until(`over()`)
		said(t, p.events(0), "1 message_start", "lost api_error")
		after.becomes(`sluice_resumes_total{kind="lost"}`, 2)
		w.up.finish()
	})
}

// TestEventSourceSurvivesATemporaryRefusal: any status but 200 would have made the browser give up.
func TestEventSourceSurvivesATemporaryRefusal(t *testing.T) {
	t.Parallel()
	t.Run("of one viewer too many", func(t *testing.T) {
		t.Parallel()
		f := newFaucet()
		h := openHouse(t, f, func(c *gateway.Config) { c.Plans["default"] = limits.Plan{ViewersPerStream: 1} })
		w := h.watching(t, f)
		p := browse(t, h.nowhere())
		p.listen(w.o.EventsURL)
		p.until(`sources[0].broken > 0`)
		if h.scrape()[`sluice_rate_limited_total{limit="viewers_per_stream"}`] == 0 || value[int](p, `sources[0].events.length`) != 0 {
			t.Error("it was let in")
		}
		w.r.leave()
		p.until(`sources[0].events.length == 1`)
		w.up.finish()
		p.until(`ended()`)
		endsWith(t, p.events(0), "message_stop")
	})
	t.Run("while the gateway drains", func(t *testing.T) {
		t.Parallel()
		f := newFaucet()
		h := openHouse(t, f, func(c *gateway.Config) { c.Server.Drain = patience })
		r := build(t, h.url)
		p := browse(t, r.url)
		w := h.watching(t, f)
		w.r.leave()
		p.listen(w.o.address())
		p.until(`sources[0].events.length == 1`)
		h.drains()
		r.cut(w.o.address())
		p.until(`sources[0].broken > 0`)
		p.listen(w.o.address())
		p.until(`sources[0].opened == 2 && sources[1].events.length == 1`)
		w.up.send(block, delta("still served"))
		w.up.finish()
		p.until(`ended()`)
		for i := range 2 {
			events := p.events(i)
			endsWith(t, events, "message_stop")
			if text := textOf(t, events); text != "still served" {
				t.Errorf("source %d reads %q", i, text)
			}
		}
		h.waitStopped()
	})
}

// TestEventSourceStopsWhereThereIsNothingToRead: a refusal that will stay one is not asked for again.
func TestEventSourceStopsWhereThereIsNothingToRead(t *testing.T) {
	t.Parallel()
	h := openHouseWith(t, gateway.Options{Demo: true}, saying(1))
	p := browse(t, h.nowhere())
	deleted := h.start(request("short"))
	h.do("DELETE", "/v1/streams/"+deleted.ID, "").status(200)
	p.listen(h.url+"/v1/streams/strm_unknown/events", deleted.EventsURL)
	p.until(`over()`)
	if !value[bool](p, `sources.every((s) => s.opened == 0 && s.broken == 1 && s.events.length == 0)`) {
		t.Error("something was opened")
	}
	series := h.scrape()
	for _, code := range []int{401, 404} {
		if got := series[fmt.Sprintf(eventsRoute, code)]; got != 1 {
			t.Errorf("%v answers with %d, want 1", got, code)
		}
	}
}
