package relay

import (
	"testing"
	"testing/synctest"
	"time"
)

// abandonedAfter waits for the stream's end, which must come after exactly so long.
func abandonedAfter(t *testing.T, s *Stream, after time.Duration) {
	t.Helper()
	begun := time.Now()
	<-s.Done()
	n := s.Snapshot(false)
	if n.Status != Abandoned || n.EndedAt.Sub(begun) != after {
		t.Errorf("%s after %v, want abandoned after %v", n.Status, n.EndedAt.Sub(begun), after)
	}
}

func TestAStreamThatNobodyEverWatchesIsAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s, c := h.open(func(p *Params) { p.AbandonAfter = 2 * time.Minute })
		abandonedAfter(t, s, 2*time.Minute)
		synctest.Wait()
		if !closed(c.left) || h.limits.Open() != 0 {
			t.Error("nobody is there, and it is still paid for")
		}
	})
}

func TestAStreamIsNotAbandonedWhileItIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s, _ := h.open(func(p *Params) { p.AbandonAfter = time.Minute })
		pass(time.Minute - 1)
		a := attach(t, s, "", false)
		pass(time.Hour)
		b := attach(t, s, "", true)
		a.Detach(EndGone)
		pass(time.Hour)
		if closed(s.Done()) {
			t.Fatal("abandoned while it was watched")
		}
		b.Detach(EndStalled)
		abandonedAfter(t, s, time.Minute)
	})
}

func TestAViewerThatComesBackInTimeKeepsItsStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s, c := h.open(func(p *Params) { p.AbandonAfter = 15 * time.Second })
		for range 5 {
			v := attach(t, s, "3", false)
			v.Detach(EndGone)
			pass(15*time.Second - 1)
		}
		v := attach(t, s, "3", false)
		pass(time.Hour)
		c.send(closing()...)
		if frames := follow(t, v); len(frames) != 3 {
			t.Errorf("%q", frames)
		}
		if n := s.Snapshot(false); n.Status != Completed {
			t.Error(n.Status)
		}
	})
}

func TestWhoWaitsForAnAnswerWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		keyed := params(func(p *Params) { p.AbandonAfter = time.Second; p.IdempotencyKey = "k" })
		for range 3 { // one who starts it, two who join
			h.Reserve(int64(len(keyed.Request.Body)))
			if _, _, err := h.Start(keyed); err != nil {
				t.Fatal(err)
			}
		}
		streams, _, _ := h.List(keyed.Owner, "", 1)
		s := streams[0]
		<-h.calls
		s.Answered()
		pass(time.Hour)
		s.Answered()
		pass(time.Hour)
		attach(t, s, "", true).Detach(EndGone)
		pass(time.Hour)
		if closed(s.Done()) {
			t.Fatal("abandoned while its answer was waited for")
		}
		s.Answered()
		abandonedAfter(t, s, time.Second)
	})
}

func TestAStreamThatIsNeverAbandonedDrainsToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, func(s *setup) { s.silence = 1000 * time.Hour })
		s, c := h.open()
		attach(t, s, "", false).Detach(EndGone)
		pass(500 * time.Hour)
		c.send(closing()...)
		<-s.Done()
		if n := s.Snapshot(false); n.Status != Completed {
			t.Error(n.Status)
		}
	})
}

func TestAStreamIsAbandonedAlsoBeforeItsFirstEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.start(func(p *Params) { p.AbandonAfter = time.Minute })
		c := <-h.calls
		abandonedAfter(t, s, time.Minute)
		synctest.Wait()
		if !closed(c.left) || !closed(s.Opened()) {
			t.Error("the upstream was not left, or who waits not told")
		}
		if frames := read(t, s); len(frames) != 1 || !frames[0].end() {
			t.Errorf("%q", frames)
		}
	})
}

func TestAnEndedStreamIsNotAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.completed(func(p *Params) { p.AbandonAfter = time.Minute })
		v := attach(t, s, "", false)
		v.Detach(EndGone)
		pass(2 * time.Minute)
		if n := s.Snapshot(false); n.Status != Completed {
			t.Error(n.Status)
		}
		h.want(map[string]float64{outcome(Abandoned): 0, outcome(Completed): 1})
	})
}

// One that came and went at that moment was there: the wait begins anew.
func TestAViewerAtTheLastMomentThatLeavesAgainBeginsTheWaitAnew(t *testing.T) {
	for range 30 {
		synctest.Test(t, func(t *testing.T) {
			h := newHouse(t)
			s, _ := h.open(func(p *Params) { p.AbandonAfter = time.Minute })
			pass(time.Minute)
			v := attach(t, s, "", true)
			frames, _ := taken(t, v)
			v.Detach(EndGone)
			if !frames[len(frames)-1].end() {
				abandonedAfter(t, s, time.Minute)
			}
		})
	}
}

// A viewer that comes at the moment at which the stream is given up either keeps it or finds its end, never both.
func TestAViewerAtTheLastMomentGetsAStreamOrItsEnd(t *testing.T) {
	for range 30 {
		synctest.Test(t, func(t *testing.T) {
			h := newHouse(t)
			s, c := h.open(func(p *Params) { p.AbandonAfter = time.Minute })
			pass(time.Minute)
			v := attach(t, s, "", true)
			synctest.Wait()
			if closed(s.Done()) {
				if frames := follow(t, v); len(frames) != 4 || frames[3].name != "error" {
					t.Errorf("%q", frames)
				}
				return
			}
			pass(time.Hour)
			c.send(closing()...)
			if frames := follow(t, v); len(frames) != 6 {
				t.Errorf("%q", frames)
			}
		})
	}
}
