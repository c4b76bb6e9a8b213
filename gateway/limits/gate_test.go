package limits

import (
	"slices"
	"testing"
	"time"
)

// through lets as many pass as may at this moment.
func (g *gate) through(now time.Time) (n int) {
	for n < 1000 && g.free(now) {
		g.pass()
		n++
	}
	return n
}

func TestTheGateReopensGradually(t *testing.T) {
	begun := time.Now()
	for _, perStep := range []int{1, 3} { // however often it is looked at
		g := gate{}
		if n := g.through(begun); n != 1000 {
			t.Fatalf("%d pass a gate that is open", n)
		}
		if !g.shut(5*time.Second, begun) {
			t.Error("it was shut before")
		}
		var got []int
		for at := time.Duration(0); at < 15*time.Second; at += time.Second {
			n := 0
			for i := range perStep {
				n += g.through(begun.Add(at + time.Duration(i)*300*time.Millisecond))
			}
			got = append(got, n)
		}
		open := 1000 * perStep
		if want := []int{0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, open, open}; !slices.Equal(got, want) {
			t.Errorf("second by second %d pass, want %d", got, want)
		}
	}
}

func TestTheGateKnowsWhenItChanges(t *testing.T) {
	begun := time.Now()
	g := gate{}
	g.shut(1500*time.Millisecond, begun)
	var got []time.Duration
	for now := begun; ; {
		for !g.free(now) {
			wait := g.change(now)
			if g.free(now.Add(wait - 1)) {
				t.Fatalf("%v after the start it is free before it changes", now.Sub(begun)+wait)
			}
			now = now.Add(wait)
			got = append(got, now.Sub(begun))
		}
		if g.through(now) == 1000 {
			break
		}
	}
	var want []time.Duration
	for step := range time.Duration(9) {
		want = append(want, 1500*time.Millisecond+step*time.Second)
	}
	if !slices.Equal(got, want) {
		t.Errorf("it changes at %v, want %v", got, want)
	}
}

func TestAPauseIsBoundedAndNeverShortened(t *testing.T) {
	begun := time.Now()
	for _, absurd := range []time.Duration{time.Minute, time.Minute + 1, 365 * 24 * time.Hour, 1<<63 - 1} {
		g := gate{}
		g.shut(absurd, begun)
		if left := g.left(begun); left != time.Minute {
			t.Errorf("asked for %v it is shut for %v", absurd, left)
		}
	}
	g := gate{}
	for _, c := range []struct {
		at, pause, opens time.Duration
		first            bool
	}{
		{0, 10 * time.Second, 10 * time.Second, true},
		{time.Second, 2 * time.Second, 10 * time.Second, false}, // what was sent before it was shut comes back
		{2 * time.Second, 20 * time.Second, 22 * time.Second, false},
		{22 * time.Second, time.Second, 23 * time.Second, true}, // the one that passed was refused, too
		{26 * time.Second, time.Second, 27 * time.Second, true},
	} {
		now := begun.Add(c.at)
		g.through(now)
		if first := g.shut(c.pause, now); first != c.first || g.opens.Sub(begun) != c.opens {
			t.Errorf("after %v: first %v, opens after %v", c.at, first, g.opens.Sub(begun))
		}
		later := g
		if later.through(begun.Add(c.opens-1)) != 0 || later.through(begun.Add(c.opens)) != 1 {
			t.Errorf("after %v: it does not reopen with one after %v", c.at, c.opens)
		}
	}
}
