package relay

import (
	"bytes"
	"testing"
	"testing/synctest"
)

// pushedTo is a viewer that the stream's reader writes to. What it was sent is in frames.
type pushedTo struct {
	*Viewer
	frames []frame
	full   bool // it takes no more without waiting
}

func pushTo(t *testing.T, s *Stream, exact bool) *pushedTo {
	t.Helper()
	p := &pushedTo{Viewer: attach(t, s, "", exact)}
	p.Push(func(b Batch) bool {
		p.frames = append(p.frames, parse(t, bytes.Join(b.Pieces, nil))...)
		if b.Events == 0 {
			t.Error("nothing was pushed")
		}
		return !p.full
	})
	first, ended := taken(t, p.Viewer)
	if ended {
		t.Fatal("ended before it began")
	}
	p.frames = append(p.frames, first...)
	return p
}

func woken(v *Viewer) bool {
	select {
	case <-v.Wake():
		return true
	default:
		return false
	}
}

func TestAWaitingViewerIsWrittenToWithoutBeingWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s, c := h.open()
		p, other := pushTo(t, s, true), attach(t, s, "3", true)
		taken(t, other)
		for range 10 {
			c.send(textDelta("word"))
			synctest.Wait()
		}
		if len(p.frames) != 13 || woken(p.Viewer) {
			t.Errorf("%d events were pushed", len(p.frames))
		}
		if !woken(other) {
			t.Error("who has no push was not woken")
		}
		p.full = true // this event still goes out in part; the rest is the viewer's
		c.send(textDelta("word"))
		synctest.Wait()
		if len(p.frames) != 14 || !woken(p.Viewer) {
			t.Errorf("%d events, and who is full was not woken", len(p.frames))
		}
		c.send(textDelta("word"))
		synctest.Wait()
		if len(p.frames) != 14 {
			t.Error("somebody else's turn was taken")
		}
		p.full = false
		more, ended := taken(t, p.Viewer)
		if len(more) != 1 || ended {
			t.Errorf("%d events more, ended %v", len(more), ended)
		}
		p.frames = append(p.frames, more...)
		c.send(closing()...)
		synctest.Wait()
		if !woken(p.Viewer) {
			t.Fatal("the end wakes nobody")
		}
		p.frames = append(p.frames, follow(t, p.Viewer)...)
		for i, f := range p.frames {
			if f.number(t) != i+1 {
				t.Fatalf("event %d: %q", i+1, f)
			}
		}
		if len(p.frames) != 18 {
			t.Errorf("%d events", len(p.frames))
		}
		follow(t, other)
	})
}

func TestAClaimedTurnIsNotTakenUntilTheNextTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s, c := h.open()
		p := pushTo(t, s, true)
		if !p.Claim() || p.Claim() {
			t.Fatal("a turn is claimed once, while the viewer waits")
		}
		c.send(textDelta("word"))
		synctest.Wait()
		if len(p.frames) != 3 || woken(p.Viewer) {
			t.Error("the claimed turn was taken")
		}
		if more, _ := taken(t, p.Viewer); len(more) != 1 {
			t.Errorf("%d events meanwhile", len(more))
		}
		s.Cancel()
		if p.Claim() {
			t.Error("a turn could be claimed past the end")
		}
		follow(t, p.Viewer)
	})
}

func TestManyViewersAreWrittenToByOthersThanTheReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s, c := h.open()
		var all []*pushedTo
		for range 32 {
			all = append(all, pushTo(t, s, true))
		}
		blocked := make(chan struct{})
		slow := attach(t, s, "", true)
		slow.Push(func(Batch) bool { <-blocked; return true })
		taken(t, slow)
		for range 3 {
			c.send(textDelta("word"))
			synctest.Wait()
		}
		if n := s.Snapshot(false); len(s.log.entries) != 6 {
			t.Errorf("the reader waits for a viewer: %+v", n)
		}
		close(blocked)
		synctest.Wait()
		for i, p := range all {
			if woken(p.Viewer) {
				more, _ := taken(t, p.Viewer)
				p.frames = append(p.frames, more...)
			}
			if len(p.frames) != 6 {
				t.Errorf("%d events for viewer %d", len(p.frames), i)
			}
			for i, f := range p.frames {
				if f.number(t) != i+1 {
					t.Fatalf("event %d: %q", i+1, f)
				}
			}
		}
	})
}

func TestAPanicInAPushStrandsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s, c := h.open()
		bad := attach(t, s, "", true)
		bad.Push(func(Batch) bool { panic("a defect") })
		taken(t, bad)
		other := pushTo(t, s, true)
		c.send(textDelta("word"))
		<-s.Done()
		synctest.Wait()
		if !woken(other.Viewer) {
			t.Errorf("the stream is %s, and its other viewer was never woken", s.Snapshot(false).Status)
		}
		if !woken(bad) {
			t.Errorf("nor was the one that failed")
		}
	})
}

func TestNobodyIsPushedToWhoWasDetachedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s, c := h.open()
		a, b := attach(t, s, "", true), attach(t, s, "", true)
		left := false
		a.Push(func(Batch) bool { b.Detach(EndGone); left = true; return true }) // its reader leaves meanwhile
		b.Push(func(Batch) bool {
			if left {
				t.Error("pushed to after Detach had returned")
			}
			return true
		})
		taken(t, a)
		taken(t, b)
		c.send(textDelta("word"))
		synctest.Wait()
		a.push = func(Batch) bool { return true }
	})
}
