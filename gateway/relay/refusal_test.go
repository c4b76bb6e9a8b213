package relay

import (
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"sluice/gateway/claude"
	"sluice/gateway/simulator"
)

var refusals = map[string]struct {
	script simulator.Script
	status int
	kind   string
}{
	"a status": {simulator.Script{Status: 429, Header: http.Header{"Content-Type": {"application/json"}, "Retry-After": {"7"}},
		Body: []byte(`{"type":"error","error":{"type":"rate_limit_error","message":"slower"}}`)}, 429, claude.RateLimit},
	"an error as first event":     {simulator.Script{Body: []byte(overloaded().wire())}, 529, claude.Overloaded},
	"an empty stream":             {simulator.Script{}, 502, claude.APIError},
	"a page instead of a stream":  {simulator.Script{Header: http.Header{"Content-Type": {"text/html"}}, Body: []byte("<html>")}, 502, claude.APIError},
	"a connection that is broken": {simulator.Script{Ending: simulator.EndCut}, 502, claude.APIError},
	"silence":                     {simulator.Script{Ending: simulator.EndStall}, 504, claude.Timeout},
}

func TestAStreamThatIsRefusedBeforeAnybodyWasAnsweredNeverWas(t *testing.T) {
	for name, r := range refusals {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t, func(s *setup) { s.silence = time.Minute; s.plan.ConcurrentStreams = 1 })
				h.answers(r.script)
				keyed := func(p *Params) { p.IdempotencyKey = "k" }
				s := h.start(keyed)
				<-s.Opened()
				err := s.Commit()
				var e *claude.Error
				if !errors.As(err, &e) || e.Status != r.status || e.Type != r.kind {
					t.Fatalf("refused with %#v", err)
				}
				if again := s.Commit(); again != err {
					t.Errorf("refused again with %v", again)
				}
				if name == "a status" && e.Header.Get("Retry-After") != "7" {
					t.Errorf("the header is %v", e.Header)
				}
				<-s.Done()
				if _, err := h.Get(s.Owner, s.ID); err != ErrNotFound {
					t.Errorf("Get: %v", err)
				}
				if streams, more, err := h.List(s.Owner, "", 10); len(streams) != 0 || more || err != nil {
					t.Errorf("List: %v, %v, %v", streams, more, err)
				}
				if h.Evicted(s.ID) {
					t.Error("it is said to have given way")
				}
				h.quiet()

				// Slot and key are free, also for another body.
				h.answers(simulator.Script{Body: []byte(wire(answer("x")...))})
				next := h.start(keyed, func(p *Params) { p.Request.Body = []byte("another") })
				<-next.Done()
				if n := next.Snapshot(false); next.ID == s.ID || n.Status != Completed {
					t.Errorf("the next is %s", n.Status)
				}
			})
		})
	}
}

func TestARefusalAfterTheAnswerIsAnEvent(t *testing.T) {
	for name, r := range refusals {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t, func(s *setup) { s.silence = time.Minute })
				answered := make(chan struct{})
				h.answers(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					<-answered
					r.script.ServeHTTP(w, req)
				}))
				s := h.start()
				if err := s.Commit(); err != nil {
					t.Fatal(err)
				}
				close(answered)
				frames := follow(t, attach(t, s, "", true))
				kind, _, ok := claude.ParseError([]byte(frames[0].data))
				if len(frames) != 1 || frames[0].id != "1" || frames[0].name != "error" || !ok || kind != r.kind {
					t.Errorf("%q", frames)
				}
				if name == "an error as first event" && frames[0].data != overloaded().data {
					t.Errorf("the upstream's words became %q", frames[0].data)
				}
				if got, err := h.Get(s.Owner, s.ID); got != s || err != nil {
					t.Errorf("Get: %v, %v", got, err)
				}
				n := s.Snapshot(true)
				if n.Status != Failed || string(n.Message) != "null" || n.Failure == nil || n.Failure.Type != r.kind {
					t.Errorf("%+v", n)
				}
				h.want(map[string]float64{`sluice_streams_total{model="",outcome="failed"}`: 1})
				h.Delete(s.Owner, s.ID)
				h.quiet()
			})
		})
	}
}

func TestOnceBegunAStreamIsNoLongerRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s, c := h.open()
		c.cut()
		<-s.Done()
		if err := s.Commit(); err != nil {
			t.Errorf("refused with %v", err)
		}
		if got := s.RequestID(); got != "req_upstream" {
			t.Errorf("request-id %q", got)
		}
	})
}

func TestALimitRefusesAndCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, func(s *setup) { s.plan.ConcurrentStreams = 1 })
		s, _ := h.open()
		before := h.metric("sluice_log_bytes")
		p := params()
		h.Reserve(int64(len(p.Request.Body)))
		if got, _, err := h.Start(p); err == nil {
			t.Fatalf("a second stream: %v", got)
		}
		if _, err := h.Admit(Whole{Account: "key:alice", Plan: plan}); err == nil {
			t.Error("a request without a stream takes no slot")
		}
		h.want(map[string]float64{"sluice_log_bytes": before, "sluice_logs": 1})
		s.Cancel() // the slot is free before anybody can have seen the end
		h.completed()
		grant, err := h.Admit(Whole{Account: "key:alice", Plan: plan})
		if err != nil {
			t.Fatal(err)
		}
		if h.limits.Open() != 1 {
			t.Errorf("%d slots", h.limits.Open())
		}
		grant.Release()
	})
}

func TestWhoSeesTheEndCanStartTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, func(s *setup) { s.plan.ConcurrentStreams = 1 })
		h.answers(simulator.Script{Body: []byte(wire(answer("x")...)), Chunks: simulator.PerEvent})
		for range 100 {
			follow(t, attach(t, h.start(), "", true))
		}
	})
}

func TestIdempotencyKeys(t *testing.T) {
	join := func(t *testing.T, h *house, change ...func(*Params)) (*Stream, bool, error) {
		t.Helper()
		p := params(append([]func(*Params){func(p *Params) { p.IdempotencyKey = "k" }}, change...)...)
		if err := h.Reserve(int64(len(p.Request.Body))); err != nil {
			t.Fatal(err)
		}
		s, joined, err := h.Start(p)
		if err == nil {
			s.Answered()
		}
		return s, joined, err
	}
	want := func(t *testing.T, h *house, s *Stream, change ...func(*Params)) {
		t.Helper()
		if got, joined, err := join(t, h, change...); got != s || !joined || err != nil {
			t.Fatalf("%v, joined %v, %v", got, joined, err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, func(s *setup) { s.plan.ConcurrentStreams = 1 })
		s, joined, err := join(t, h)
		if joined || err != nil {
			t.Fatal(joined, err)
		}
		held := h.metric("sluice_log_bytes")
		want(t, h, s) // while it is held
		h.want(map[string]float64{"sluice_log_bytes": held, "sluice_streams_active": 1})
		c := <-h.calls
		c.send(opening("Hello")...)
		<-s.Opened()
		want(t, h, s) // while it runs
		for name, change := range map[string]func(*Params){
			"another body":  func(p *Params) { p.Request.Body = []byte("another") },
			"another route": func(p *Params) { p.Route = "/v1/messages" },
			"a body and route that join to the same": func(p *Params) {
				p.Route, p.Request.Body = p.Route+"{", p.Request.Body[1:]
			},
		} {
			if got, _, err := join(t, h, change); got != nil || err != ErrKeyReused {
				t.Errorf("%s: %v, %v", name, got, err)
			}
		}
		synctest.Wait()
		other, joined, err := join(t, h, func(p *Params) { p.Owner = "key:bob" })
		if joined || err != nil || other == s {
			t.Fatalf("another owner: %v, %v", joined, err)
		}
		other.Cancel()
		c.send(closing()...)
		<-s.Done()
		pass(10*time.Minute - 1)
		want(t, h, s) // as long as the stream is there
		pass(1)
		synctest.Wait()
		next, joined, err := join(t, h, func(p *Params) { p.Request.Body = []byte("another") })
		if joined || err != nil || next.ID == s.ID {
			t.Fatalf("after its time: %v, %v", joined, err)
		}
		if err := h.Delete(next.Owner, next.ID); err != nil {
			t.Fatal(err)
		}
		last, joined, err := join(t, h)
		if joined || err != nil {
			t.Fatalf("after it was deleted: %v, %v", joined, err)
		}
		h.Delete(last.Owner, last.ID)
		h.Delete(other.Owner, other.ID)
		h.quiet()
	})
}

func TestAStreamKnowsWhatItsOwnerHadLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, func(s *setup) { s.plan.RequestsPerMinute = 60; s.plan.Burst = 10 })
		h.completed()
		if w := h.completed().Grant().Windows().Requests; w.Limit != 60 || w.Remaining != 8 {
			t.Errorf("%+v", w)
		}
	})
}

func TestWhoWatchesAHeldStreamSeesItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.start()
		c := <-h.calls
		v := attach(t, s, "", true) // another reader: it has been answered 200
		c.send(overloaded())
		frames := follow(t, v)
		if len(frames) != 1 || frames[0].name != "error" {
			t.Errorf("the reader's stream ended with %q", frames)
		}
	})
}

func TestARefusedStreamIsGivenBackWhenItsViewerLeavesAtOnce(t *testing.T) {
	h := newHouse(t)
	h.answers(simulator.Script{Body: []byte(overloaded().wire())})
	for i := range 3000 {
		s := h.start()
		v := attach(t, s, "", true)
		for ended := false; !ended; { // leave between the end and its accounting
			s.mu.Lock()
			ended = s.ended
			s.mu.Unlock()
		}
		v.Detach(EndGone)
		<-s.Done()
		if i%500 == 499 {
			if n := h.metric("sluice_logs"); n != 0 {
				t.Fatalf("after %d streams: %v logs, %v bytes", i, n, h.metric("sluice_log_bytes"))
			}
		}
	}
}
