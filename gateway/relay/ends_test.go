package relay

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sluice/gateway/claude"
)

// ending is a way for a stream to end, after it has begun.
type ending struct {
	setup  func(*setup)
	params func(*Params)
	do     func(h *house, s *Stream, c *call)
	status Status
	data   string // a part of the last event's data
	failed string // the error's type; empty: message_stop
}

// panicky is a body that fails by a defect.
type panicky struct {
	http.RoundTripper
	armed chan struct{}
}

type panickyBody struct {
	io.ReadCloser
	armed chan struct{}
}

func (p panicky) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := p.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = panickyBody{resp.Body, p.armed}
	}
	return resp, err
}

func (b panickyBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if closed(b.armed) {
		panic("a defect")
	}
	return n, err
}

func stop(h *house) {
	over, cancel := context.WithCancel(context.Background())
	cancel()
	h.Drain(over)
	h.Stop(over)
}

func endings() map[string]ending {
	armed := make(chan struct{})
	return map[string]ending{
		"message_stop": {do: func(_ *house, _ *Stream, c *call) { c.send(closing()...) }, status: Completed, data: messageStop().data},
		"message_stop at once with the end of the body": {do: func(_ *house, _ *Stream, c *call) { c.send(closing()...); c.finish() },
			status: Completed, data: messageStop().data},
		"an error of the upstream": {do: func(_ *house, _ *Stream, c *call) { c.send(overloaded()) },
			status: Failed, failed: claude.Overloaded, data: overloaded().data},
		"an error that is no JSON": {do: func(_ *house, _ *Stream, c *call) { c.send(event{name: "error", data: "upstream connect error"}) },
			status: Failed, failed: claude.APIError, data: `"request_id":"req_upstream"`},
		"the end of the body": {do: func(_ *house, _ *Stream, c *call) { c.finish() },
			status: Failed, failed: claude.APIError, data: "before the message was complete"},
		"the end of the body within message_stop": {do: func(_ *house, _ *Stream, c *call) {
			c.write(strings.TrimSuffix(messageStop().wire(), "\n"))
			c.finish()
		}, status: Failed, failed: claude.APIError, data: "before the message was complete"},
		"a broken connection": {do: func(_ *house, _ *Stream, c *call) { c.cut() },
			status: Failed, failed: claude.APIError, data: "before the message was complete"},
		"a second message_start": {do: func(_ *house, _ *Stream, c *call) { c.send(messageStart()) },
			status: Failed, failed: claude.APIError, data: "a second message"},
		"silence": {setup: func(s *setup) { s.silence = 3 * time.Minute },
			do:     func(*house, *Stream, *call) { pass(3 * time.Minute) },
			status: Failed, failed: claude.Timeout, data: "fell silent"},
		"cancel": {do: func(_ *house, s *Stream, _ *call) { s.Cancel() },
			status: Canceled, failed: claude.Canceled, data: "was canceled"},
		"nobody left": {params: func(p *Params) { p.AbandonAfter = time.Minute },
			do:     func(*house, *Stream, *call) { pass(time.Minute) },
			status: Abandoned, failed: claude.Canceled, data: "Nobody was reading"},
		"the process's end": {do: func(h *house, _ *Stream, _ *call) { stop(h) },
			status: Failed, failed: claude.APIError, data: "The gateway was stopped"},
		"a full log": {do: func(_ *house, _ *Stream, c *call) {
			text := strings.Repeat("x", 50_000)
			for range 2 + MaxLog/len(text) {
				c.send(textDelta(text))
			}
		}, status: Failed, failed: claude.APIError, data: "larger than 32 MB"},
		"a panic": {setup: func(s *setup) {
			s.transport = func(t http.RoundTripper) http.RoundTripper { return panicky{t, armed} }
		}, do: func(_ *house, _ *Stream, c *call) { close(armed); c.send(textDelta("never read")) },
			status: Failed, failed: claude.APIError, data: "The gateway failed."},
	}
}

func TestAStreamHasExactlyOneEndWhicheverWayItEnds(t *testing.T) {
	for name, e := range endings() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				if e.setup == nil {
					e.setup = func(*setup) {}
				}
				if e.params == nil {
					e.params = func(*Params) {}
				}
				h := newHouse(t, e.setup)
				s, c := h.open(e.params)
				var live *Viewer
				if e.status != Abandoned {
					live = attach(t, s, "", true)
				}
				e.do(h, s, c)
				synctest.Wait()
				if !closed(s.Done()) || h.limits.Open() != 0 {
					t.Fatalf("not over, or the slot not given back: %d open", h.limits.Open())
				}
				pass(time.Second) // an upstream whose message is complete is given a moment to end its body
				synctest.Wait()
				if !closed(c.done) {
					t.Error("the upstream is still connected")
				}
				checkEnd(t, s, live, e)
				h.want(map[string]float64{outcome(e.status): 1, "sluice_streams_active": 0, "sluice_viewers_active": 0})
				if err := h.Delete(s.Owner, s.ID); err != nil {
					t.Error(err)
				}
				h.quiet()
			})
		})
	}
}

// checkEnd fails the test unless the stream's last event is its one end, for who was there and for who comes later.
func checkEnd(t *testing.T, s *Stream, live *Viewer, e ending) {
	t.Helper()
	frames := read(t, s)
	if live != nil {
		if got := follow(t, live); len(got) != len(frames) || got[len(got)-1] != frames[len(frames)-1] {
			t.Errorf("who was there got %d events, who came later %d", len(got), len(frames))
		}
	}
	for i, f := range frames {
		if f.number(t) != i+1 || f.end() != (i == len(frames)-1) {
			t.Fatalf("event %d of %d: %.200q", i+1, len(frames), f)
		}
	}
	last := frames[len(frames)-1]
	n := s.Snapshot(false)
	if n.Status != e.status || n.EndedAt.IsZero() || !strings.Contains(last.data, e.data) {
		t.Errorf("ended as %s at %v with %.300q", n.Status, n.EndedAt, last)
	}
	if e.failed == "" {
		if last.name != "message_stop" || n.Failure != nil {
			t.Errorf("ended with %q, %v", last, n.Failure)
		}
	} else {
		kind, text, ok := claude.ParseError([]byte(last.data))
		if last.name != "error" || !ok || kind != e.failed || n.Failure == nil || n.Failure.Type != kind || n.Failure.Message != text {
			t.Errorf("ended with %q, %v", last, n.Failure)
		}
	}
	if v, resume, _, err := s.Attach(last.id, false); v != nil || resume != ResumeDone || err != nil {
		t.Errorf("after the end: %v, %q, %v", v, resume, err)
	}
}

func TestOfTwoEndsAtOnceOneHappens(t *testing.T) {
	const when = time.Minute
	at := func(do func(*house, *Stream, *call)) func(*house, *Stream, *call) {
		return func(h *house, s *Stream, c *call) { pass(when); do(h, s, c) }
	}
	all := endings()
	type way struct {
		name string
		ending
	}
	ways := []way{
		{"delete", ending{do: at(func(h *house, s *Stream, _ *call) { h.Delete(s.Owner, s.ID) })}},
		{"silence", ending{setup: func(s *setup) { s.silence = when }, do: func(*house, *Stream, *call) {}}},
		{"abandon", ending{params: func(p *Params) { p.AbandonAfter = when }, do: func(*house, *Stream, *call) {}}},
	}
	for _, name := range []string{"message_stop", "an error of the upstream", "the end of the body", "a broken connection", "cancel", "the process's end"} {
		ways = append(ways, way{name, ending{do: at(all[name].do)}})
	}
	for i, a := range ways {
		for _, b := range ways[i:] {
			t.Run(a.name+" and "+b.name, func(t *testing.T) {
				t.Parallel()
				for range 3 {
					synctest.Test(t, func(t *testing.T) { race(t, a.ending, b.ending) })
				}
			})
		}
	}
}

func race(t *testing.T, ways ...ending) {
	t.Helper()
	h := newHouse(t, func(s *setup) {
		for _, w := range ways {
			if w.setup != nil {
				w.setup(s)
			}
		}
	})
	s, c := h.open(func(p *Params) {
		for _, w := range ways {
			if w.params != nil {
				w.params(p)
			}
		}
	})
	for _, w := range ways {
		go w.do(h, s, c)
	}
	<-s.Done()
	pass(time.Second)
	synctest.Wait()
	frames := read(t, s)
	for i, f := range frames {
		if f.number(t) != i+1 || f.end() != (i == len(frames)-1) {
			t.Fatalf("event %d of %d: %.200q", i+1, len(frames), f)
		}
	}
	n := s.Snapshot(false)
	outcomes := map[string]float64{outcome(Completed): 0, outcome(Failed): 0, outcome(Canceled): 0, outcome(Abandoned): 0}
	outcomes[outcome(n.Status)] = 1
	h.want(outcomes)
	if (n.Status == Completed) != (frames[len(frames)-1].name == "message_stop") {
		t.Errorf("%s with %q", n.Status, frames[len(frames)-1])
	}
	if err := h.Delete(s.Owner, s.ID); err != nil && !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	h.quiet()
}

func TestCancelIsAVerbApartFromLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s, c := h.open()
		v := attach(t, s, "", false)
		taken(t, v)
		v.Detach(EndGone)
		pass(time.Hour)
		if closed(s.Done()) || closed(c.left) {
			t.Fatal("a closed tab stopped the stream")
		}
		c.send(textDelta(" again"))
		s.Cancel()
		before := read(t, s)
		s.Cancel()
		s.Cancel()
		if after := read(t, s); len(after) != len(before) {
			t.Errorf("%d events, then %d", len(before), len(after))
		}
		h.want(map[string]float64{outcome(Canceled): 1})
	})
}

func TestCancelAfterTheEndChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.completed()
		before := read(t, s)
		s.Cancel()
		n := s.Snapshot(false)
		if after := read(t, s); n.Status != Completed || n.Failure != nil || len(after) != len(before) {
			t.Errorf("%s, %v, %d events after %d", n.Status, n.Failure, len(after), len(before))
		}
		h.want(map[string]float64{outcome(Canceled): 0, outcome(Completed): 1})
	})
}

func TestCancelBeforeTheFirstEventStopsTheUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.start()
		c := <-h.calls
		s.Cancel()
		<-s.Opened()
		synctest.Wait()
		if err := s.Commit(); err != nil || !closed(c.left) {
			t.Errorf("refused with %v; upstream left: %v", err, closed(c.left))
		}
		frames := read(t, s)
		if len(frames) != 1 || frames[0].id != "1" || frames[0].name != "error" {
			t.Errorf("%q", frames)
		}
		if err := h.Delete(s.Owner, s.ID); err != nil {
			t.Error(err)
		}
		h.quiet()
	})
}
