package relay

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sluice/gateway/claude"
	"sluice/gateway/limits"
	"sluice/gateway/simulator"
)

// onePlace has a place for one request at the upstream.
func onePlace(s *setup) { s.concurrent = 1 }

// hold is how long callers of the tests wait for their answers' status, and wait how long in the queue.
const hold, wait = 10 * time.Second, 8 * time.Second

func patient(p *Params) {
	p.QueueWait, p.AbandonAfter = wait, 15*time.Second
	p.Retry = claude.Retry{Max: 2, Statuses: claude.SafeStatus, Until: time.Now().Add(hold)}
}

// waiting begins a stream that joins the queue. Its caller waits: Answered must follow.
func (h *house) waiting(change ...func(*Params)) *Stream {
	h.t.Helper()
	synctest.Wait() // until who has just left is out of it
	before := h.queue.Waiting()
	p := params(change...)
	if err := h.Reserve(int64(len(p.Request.Body))); err != nil {
		h.t.Fatal(err)
	}
	s, joined, err := h.Start(p)
	if err != nil || joined {
		h.t.Fatalf("Start: joined %v, %v", joined, err)
	}
	synctest.Wait()
	if h.queue.Waiting() != before+1 {
		h.t.Fatalf("%d wait", h.queue.Waiting())
	}
	return s
}

// isBusy fails the test unless err is the queue's refusal.
func isBusy(t testing.TB, err error, at string) {
	t.Helper()
	var busy *limits.Busy
	if !errors.As(err, &busy) || busy.At != at {
		t.Errorf("%v, want it busy at the %s", err, at)
	}
}

func TestAStreamWaitsForItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, onePlace, func(s *setup) { s.silence = 5 * time.Second })
		first, c := h.open()
		second := h.waiting(patient)
		h.want(map[string]float64{"sluice_upstream_queue_depth": 1, "sluice_upstream_queue_wait_seconds_count": 1})
		pass(4 * time.Second)
		c.send(closing()...)
		<-first.Done()
		c.finish()
		c = <-h.calls
		h.want(map[string]float64{"sluice_upstream_queue_depth": 0, "sluice_upstream_queue_wait_seconds_count": 2, "sluice_upstream_queue_wait_seconds_sum": 4})
		pass(4 * time.Second) // what it waited for is not the upstream's silence
		c.send(answer("Hello")...)
		c.finish()
		<-second.Opened()
		if err := second.Commit(); err != nil {
			t.Fatal(err)
		}
		second.Answered()
		if frames := read(t, second); len(frames) != 6 {
			t.Errorf("%q", frames)
		}
		h.Delete(first.Owner, first.ID)
		h.Delete(second.Owner, second.ID)
		h.quiet()
	})
}

func TestWhoWaitsInVainIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, onePlace)
		_, c := h.open()
		begun := time.Now()
		s := h.waiting(patient, func(p *Params) { p.IdempotencyKey = "k" })
		<-s.Opened()
		isBusy(t, s.Commit(), limits.AtQueue)
		if took := time.Since(begun); took != wait {
			t.Errorf("after %v", took)
		}
		s.Answered()
		<-s.Done()
		if streams, _, _ := h.List(s.Owner, "", 10); len(streams) != 1 {
			t.Errorf("%d streams are listed", len(streams))
		}
		// Whoever was promised a stream is told by an event.
		promised := h.waiting(patient)
		if err := promised.Commit(); err != nil {
			t.Fatal(err)
		}
		promised.Answered()
		frames := read(t, promised)
		kind, message, _ := claude.ParseError([]byte(frames[0].data))
		if len(frames) != 1 || kind != claude.Overloaded || !strings.Contains(message, "too many requests are waiting") {
			t.Errorf("%q", frames)
		}
		// One that waits without end gets its turn.
		background := h.waiting(func(p *Params) { p.IdempotencyKey = "k" }) // which is free again
		background.Answered()
		pass(20 * time.Hour)
		c.finish()
		(<-h.calls).send(answer("at last")...)
		<-background.Done()
		if n := background.Snapshot(false); n.Status != Completed {
			t.Error(n.Status)
		}
		h.want(map[string]float64{"sluice_upstream_queue_depth": 0})
	})
}

func TestWhoeverLeavesTheQueueFreesHisPlaceAtOnce(t *testing.T) {
	keyed := func(p *Params) { p.IdempotencyKey = "k" }
	for name, leave := range map[string]func(*house, *Stream){
		"before any answer": func(h *house, s *Stream) { s.Answered() },
		"with a viewer": func(h *house, s *Stream) {
			v := attach(h.t, s, "", true)
			s.Answered()
			synctest.Wait()
			if h.queue.Waiting() != 1 {
				h.t.Error("it left while it was watched")
			}
			v.Detach(EndGone)
		},
		"the last of three": func(h *house, s *Stream) {
			for range 2 {
				p := params(patient, keyed)
				h.Reserve(int64(len(p.Request.Body)))
				if got, joined, err := h.Start(p); got != s || !joined || err != nil {
					h.t.Fatalf("%v, %v, %v", got, joined, err)
				}
			}
			for range 2 {
				s.Answered()
				synctest.Wait()
				if h.queue.Waiting() != 1 {
					h.t.Error("it left while somebody waited for it")
				}
			}
			s.Answered()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t, onePlace)
				first, c := h.open()
				begun := time.Now()
				s := h.waiting(patient, keyed)
				leave(h, s)
				synctest.Wait()
				if h.queue.Waiting() != 0 || !closed(s.Done()) || time.Since(begun) != 0 {
					t.Fatalf("%d wait; it has ended: %v", h.queue.Waiting(), closed(s.Done()))
				}
				if _, err := h.Get(s.Owner, s.ID); err != ErrNotFound {
					t.Errorf("Get: %v", err)
				}
				h.want(map[string]float64{`sluice_streams_total{model="",outcome="abandoned"}`: 1})
				// Its key is free, and nothing was asked of the upstream for it.
				next := h.waiting(patient, keyed)
				c.finish()
				c = <-h.calls
				c.send(answer("Hello")...)
				<-next.Done()
				next.Answered()
				synctest.Wait()
				if n := h.metric(`sluice_upstream_requests_total{code="200"}`); n != 2 {
					t.Errorf("%v requests", n)
				}
				for _, s := range []*Stream{first, next} {
					h.Delete(s.Owner, s.ID)
				}
				h.quiet()
			})
		})
	}
}

func TestWhoNeedNotWatchKeepsHisPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, onePlace)
		h.open()
		never := h.waiting(patient, func(p *Params) { p.QueueWait, p.AbandonAfter = -1, -1 })
		never.Answered()
		promised := h.waiting(patient, func(p *Params) { p.QueueWait, p.AbandonAfter = -1, time.Minute })
		promised.Commit()
		promised.Answered()
		pass(time.Minute - 1)
		if h.queue.Waiting() != 2 {
			t.Fatalf("%d wait", h.queue.Waiting())
		}
		pass(1) // it is abandoned as any other, and leaves
		synctest.Wait()
		if n := promised.Snapshot(false); n.Status != Abandoned || h.queue.Waiting() != 1 {
			t.Errorf("%s, %d wait", n.Status, h.queue.Waiting())
		}
	})
}

// A caller may leave between its request and the queue, or between two attempts: then the stream never joins.
func TestAStreamThatNobodyWaitsForDoesNotJoinTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, onePlace)
		h.answers(simulator.Script{Status: 500})
		s := h.start(patient)
		synctest.Wait()
		h.want(map[string]float64{`sluice_upstream_requests_total{code="500"}`: 1})
		h.handler.Store(nil)
		other := h.start() // takes the place while the first waits for its next attempt
		c := <-h.calls
		pass(time.Second)
		synctest.Wait()
		if !closed(s.Done()) || h.queue.Waiting() != 0 {
			t.Errorf("it is over: %v, %d wait", closed(s.Done()), h.queue.Waiting())
		}
		h.want(map[string]float64{`sluice_streams_total{model="",outcome="abandoned"}`: 1, `sluice_upstream_retries_total{reason="500"}`: 0})
		c.send(answer("Hello")...)
		<-other.Done()
	})
}

func TestAQueuedStreamEndsAsAnyOther(t *testing.T) {
	for name, c := range map[string]struct {
		end    func(*house, *Stream)
		status Status
		answer error
	}{
		"canceled": {func(h *house, s *Stream) { s.Cancel() }, Canceled, nil},
		"deleted":  {func(h *house, s *Stream) { h.Delete(s.Owner, s.ID) }, Canceled, nil},
		"stopped":  {func(h *house, s *Stream) { stop(h) }, Failed, ErrDraining}, // and may be repeated elsewhere
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t, onePlace)
				h.open()
				s := h.waiting(patient)
				c.end(h, s)
				synctest.Wait()
				if n := s.Snapshot(false); n.Status != c.status || h.queue.Waiting() != 0 || !closed(s.Opened()) || s.Commit() != c.answer {
					t.Errorf("%s, %d wait, %v", n.Status, h.queue.Waiting(), s.Commit())
				}
				s.Answered()
			})
		})
	}
}

// What is no stream is not what Drain and Stop wait for, and has the time of the drain all the same.
func TestAWholeAnswerMayWaitInTheQueueAsLongAsTheDrainLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, onePlace)
		release, err := h.Place("key:alice", wait).Take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		told := make(chan error)
		for range 2 {
			go func() {
				_, err := h.Place("key:bob", wait).Take(t.Context())
				told <- err
			}()
		}
		synctest.Wait()
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		h.Drain(ctx)
		h.Stop(t.Context())
		pass(time.Second)
		release()
		if err := <-told; err != nil {
			t.Error(err)
		}
		if err := <-told; err != ErrDraining || time.Since(begun) != 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
	})
}

func TestADrainServesWhoIsInTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, onePlace)
		_, c := h.open()
		s := h.waiting(patient)
		drained := make(chan struct{})
		go func() { defer close(drained); h.Drain(t.Context()) }()
		synctest.Wait()
		h.refused(ErrDraining)
		pass(time.Second)
		c.finish()
		c = <-h.calls
		c.send(answer("Hello")...)
		<-drained
		if n := s.Snapshot(false); n.Status != Completed {
			t.Error(n.Status)
		}
		s.Answered()
	})
}
