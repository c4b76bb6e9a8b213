package relay

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestDrainWaitsForStreamsAndTheirViewersAndTakesNoNewOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		keyed := func(p *Params) { p.IdempotencyKey = "k" }
		s, c := h.open(keyed)
		v := attach(t, s, "", true)
		drained := make(chan struct{})
		go func() { defer close(drained); h.Drain(t.Context()) }()
		synctest.Wait()
		h.refused(ErrDraining)
		if _, err := h.Admit(Whole{Account: "key:alice", Plan: plan}); err != ErrDraining {
			t.Errorf("Admit: %v", err)
		}
		// What is there is still served: attached, resumed, joined.
		late := attach(t, s, "2", false)
		p := params(keyed)
		h.Reserve(int64(len(p.Request.Body)))
		if got, joined, err := h.Start(p); got != s || !joined || err != nil {
			t.Errorf("joining: %v, %v, %v", got, joined, err)
		}
		s.Answered()
		pass(time.Hour)
		if closed(drained) {
			t.Fatal("drained with a stream that runs")
		}
		c.send(closing()...)
		<-s.Done()
		synctest.Wait()
		if closed(drained) {
			t.Fatal("drained before the viewers have seen the end")
		}
		follow(t, v)
		synctest.Wait()
		if closed(drained) {
			t.Fatal("drained before the last viewer has seen the end")
		}
		follow(t, late)
		<-drained
	})
}

func TestDrainOfNothingIsOverAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.completed()
		h.Drain(t.Context())
		h.Drain(t.Context())
		h.Stop(t.Context())
	})
}

func TestDrainIsOverWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s, _ := h.open()
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		h.Drain(ctx)
		if took := time.Since(begun); took != time.Minute || closed(s.Done()) {
			t.Errorf("after %v; the stream has ended: %v", took, closed(s.Done()))
		}
	})
}

func TestStopEndsTheRestWithAnErrorThatViewersSee(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s, c := h.open()
		unopened := h.start()
		<-h.calls
		var got []frame
		v := attach(t, s, "", true)
		seen := make(chan struct{})
		go func() { defer close(seen); got = follow(t, v) }()
		stalled := attach(t, s, "", true)
		over, cancel := context.WithCancel(t.Context())
		cancel()
		h.Drain(over)
		begun := time.Now()
		last, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		h.Stop(last)
		if took := time.Since(begun); took != 5*time.Second {
			t.Errorf("waited %v for a viewer that doesn't read", took)
		}
		<-seen
		if len(got) != 4 || got[3].name != "error" {
			t.Errorf("%q", got)
		}
		if !closed(c.left) || !closed(unopened.Opened()) || unopened.Commit() != nil || h.limits.Open() != 0 {
			t.Error("something still runs")
		}
		stalled.Detach(EndStalled)
		h.want(map[string]float64{"sluice_streams_active": 0, "sluice_viewers_active": 0, outcome(Failed): 1})
	})
}

func TestStopReturnsWhenTheLastViewerHasSeenTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s, _ := h.open()
		v := attach(t, s, "", true)
		over, cancel := context.WithCancel(t.Context())
		cancel()
		h.Drain(over)
		stopped := make(chan struct{})
		go func() { defer close(stopped); h.Stop(t.Context()) }()
		synctest.Wait()
		if closed(stopped) {
			t.Fatal("stopped before its viewer has seen the end")
		}
		follow(t, v)
		<-stopped
	})
}
