package limits

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const forever time.Duration = -1

// enter gets a place that must be free.
func enter(t testing.TB, q *Queue, owner string) *Permit {
	t.Helper()
	p, err := q.Enter(t.Context(), owner, 0)
	if err != nil {
		t.Fatalf("Enter(%q): %v", owner, err)
	}
	return p
}

// turnedAway enters where there must be no place within the wait.
func turnedAway(t testing.TB, q *Queue, owner string, wait time.Duration, at string) *Busy {
	t.Helper()
	p, err := q.Enter(t.Context(), owner, wait)
	var busy *Busy
	if !errors.As(err, &busy) || p != nil || busy.At != at || busy.RetryAfter <= 0 {
		t.Fatalf("Enter(%q) = %v, %#v; want it busy at %s", owner, p, err, at)
	}
	return busy
}

// arrivals are requests in a queue, in the order in which they are served.
type arrivals struct {
	mu     sync.Mutex
	served []string
	places []*Permit
	errs   []error
	all    sync.WaitGroup
}

// wait lets a request join the queue. It is there, or served, when wait returns; only in a bubble.
func (a *arrivals) wait(ctx context.Context, q *Queue, owner string, wait time.Duration) {
	a.join(ctx, q, owner, wait)
	synctest.Wait()
}

func (a *arrivals) join(ctx context.Context, q *Queue, owner string, wait time.Duration) {
	a.all.Go(func() {
		p, err := q.Enter(ctx, owner, wait)
		a.mu.Lock()
		defer a.mu.Unlock()
		if err != nil {
			a.errs = append(a.errs, err)
			return
		}
		a.served = append(a.served, owner)
		a.places = append(a.places, p)
	})
}

// release gives the place of the nth that was served back, and lets follow what comes of it.
func (a *arrivals) release(n int) {
	a.mu.Lock()
	p := a.places[n]
	a.mu.Unlock()
	p.Release()
	synctest.Wait()
}

// empty fails the test unless nobody waits, nobody is in, and nothing is remembered of anybody.
func empty(t testing.TB, q *Queue) {
	t.Helper()
	if q.Waiting() != 0 || q.InUse() != 0 || len(q.lines) != 0 || q.turns.Len() != 0 {
		t.Errorf("%d wait, %d are in, %d lines, %d turns", q.Waiting(), q.InUse(), len(q.lines), q.turns.Len())
	}
}

func TestOneHeavyOwnerDelaysNobodyByMoreThanATurn(t *testing.T) {
	for _, limit := range []int{1, 4} {
		t.Run(fmt.Sprint("limit ", limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q, a := NewQueue(limit), arrivals{}
				for range limit + 500 { // so many go at once, and 500 wait
					a.wait(t.Context(), q, "heavy", forever)
				}
				for i := range 10 {
					a.wait(t.Context(), q, fmt.Sprint("light ", i), forever)
				}
				if q.InUse() != limit || q.Waiting() != 510 {
					t.Fatalf("%d are in, %d wait", q.InUse(), q.Waiting())
				}
				for n := range limit + 510 {
					a.release(n)
				}
				a.all.Wait()
				empty(t, q)
				var positions []int
				for i, owner := range a.served[limit:] {
					if owner != "heavy" {
						positions = append(positions, i+1)
					}
				}
				t.Logf("of 510 that waited, 500 of them one owner's, the ten others were served as number %v", positions)
				if want := []int{2, 3, 4, 5, 6, 7, 8, 9, 10, 11}; !slices.Equal(positions, want) {
					t.Errorf("want %v", want)
				}
			})
		})
	}
}

func TestOwnersTakeTurnsAndEachIsServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(1)
		held := enter(t, q, "other")
		var served []string
		var all sync.WaitGroup
		for _, name := range []string{"a1", "a2", "a3", "b1", "c1", "c2", "b2", "a4"} {
			all.Go(func() {
				p, err := q.Enter(t.Context(), name[:1], forever)
				if err != nil {
					t.Error(err)
					return
				}
				served = append(served, name)
				p.Release()
			})
			synctest.Wait()
		}
		held.Release()
		all.Wait()
		if want := []string{"a1", "b1", "c1", "a2", "b2", "c2", "a3", "a4"}; !slices.Equal(served, want) {
			t.Errorf("served %v, want %v", served, want)
		}
		empty(t, q)
	})
}

func TestANewcomerDoesNotOvertakeWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, a := NewQueue(0), arrivals{}
		q.Shut(time.Second)
		a.wait(t.Context(), q, "early", forever)
		pass(time.Second) // the gate opens at this very moment, for one
		p, err := q.Enter(t.Context(), "late", 0)
		if err == nil {
			t.Error("the newcomer was let in")
			p.Release()
		}
		a.all.Wait()
		if !slices.Equal(a.served, []string{"early"}) {
			t.Errorf("served: %v", a.served)
		}
		a.release(0)
		empty(t, q)
	})
}

func TestAWaitIsBoundedUnlessItIsNegative(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, a := NewQueue(1), arrivals{}
		held := enter(t, q, "key:alice")
		a.wait(t.Context(), q, "key:carol", forever)
		for _, wait := range []time.Duration{0, 1, 8 * time.Second} {
			begun := time.Now()
			busy := turnedAway(t, q, "key:bob", wait, AtQueue)
			if took := time.Since(begun); took != wait || busy.RetryAfter != 5*time.Second {
				t.Errorf("after %v, want %v: %+v", took, wait, busy)
			}
			if q.Waiting() != 1 {
				t.Errorf("%d wait", q.Waiting())
			}
		}
		pass(1000 * time.Hour)
		held.Release()
		a.all.Wait()
		if len(a.served) != 1 {
			t.Fatalf("%v", a.errs)
		}
		a.release(0)
		empty(t, q)
	})
}

func TestWhoLeavesFreesItsPlaceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, left, stays := NewQueue(1), arrivals{}, arrivals{}
		held := enter(t, q, "key:alice")
		cause := errors.New("gone")
		ctx, leave := context.WithCancelCause(t.Context())
		for range ownerPlaces - 1 {
			left.join(ctx, q, "key:bob", forever)
		}
		synctest.Wait()
		stays.wait(t.Context(), q, "key:bob", time.Hour)
		turnedAway(t, q, "key:bob", time.Hour, AtQueue) // no place is left in its line
		leave(cause)
		left.all.Wait()
		if len(left.errs) != ownerPlaces-1 || left.errs[0] != cause {
			t.Errorf("%d left with %v", len(left.errs), left.errs[0])
		}
		if q.Waiting() != 1 {
			t.Fatalf("%d wait", q.Waiting())
		}
		if _, err := q.Enter(ctx, "key:bob", forever); err != cause {
			t.Errorf("who has left already: %v", err)
		}
		held.Release()
		stays.all.Wait()
		stays.release(0)
		empty(t, q)
	})
}

func TestOneOwnerCannotFillTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, a := NewQueue(1), arrivals{}
		held := enter(t, q, "other")
		ctx, leave := context.WithCancel(t.Context())
		for range ownerPlaces {
			a.join(ctx, q, "heavy", forever)
		}
		synctest.Wait()
		turnedAway(t, q, "heavy", forever, AtQueue) // at once, though it would have waited
		a.wait(ctx, q, "light", forever)
		a.wait(ctx, q, "light", forever)
		if q.Waiting() != ownerPlaces+2 {
			t.Errorf("%d wait", q.Waiting())
		}
		leave()
		a.all.Wait()
		held.Release()
		empty(t, q)
	})
}

func TestAFullQueueHasAPlaceForWhoHasNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, a := NewQueue(1), arrivals{}
		held := enter(t, q, "other")
		ctx, leave := context.WithCancel(t.Context())
		const owners = 5
		for i := range owners {
			for range 1 + furtherPlaces/owners {
				a.join(ctx, q, fmt.Sprint("heavy ", i), forever)
			}
		}
		synctest.Wait()
		for i := range owners {
			turnedAway(t, q, fmt.Sprint("heavy ", i), forever, AtQueue)
		}
		for i := range firstPlaces - owners {
			owner := fmt.Sprint("light ", i)
			a.join(ctx, q, owner, forever)
			if i == 0 {
				synctest.Wait()
				turnedAway(t, q, owner, forever, AtQueue) // a second one
			}
		}
		synctest.Wait()
		if q.Waiting() != firstPlaces+furtherPlaces {
			t.Errorf("%d wait", q.Waiting())
		}
		turnedAway(t, q, "one more", forever, AtQueue) // the bound of all
		leave()
		a.all.Wait()
		held.Release()
		empty(t, q)
	})
}

func TestAShutGateLetsNobodyPassAndDisturbsNobody(t *testing.T) {
	for _, limit := range []int{0, 100} {
		synctest.Test(t, func(t *testing.T) {
			q, a := NewQueue(limit), arrivals{}
			there := enter(t, q, "key:alice")
			if shut := q.Shut(3 * time.Second); shut != 3*time.Second {
				t.Errorf("shut for %v", shut)
			}
			if shut := q.Shut(time.Second); shut != 0 {
				t.Errorf("shut again for %v", shut)
			}
			begun := time.Now()
			for i := range 20 {
				a.wait(t.Context(), q, fmt.Sprint("owner ", i), 8*time.Second)
			}
			// Whom it is too long for is told at once when to come back.
			pass(500 * time.Millisecond)
			if busy := turnedAway(t, q, "key:bob", 2*time.Second, AtGate); busy.RetryAfter != 2500*time.Millisecond {
				t.Errorf("%+v", busy)
			}
			there.Release()
			synctest.Wait()
			var got []int
			for range 8 {
				pass(time.Until(begun.Add(time.Since(begun).Truncate(time.Second) + time.Second)))
				synctest.Wait()
				got = append(got, q.InUse())
			}
			if want := []int{0, 0, 1, 3, 7, 15, 20, 20}; !slices.Equal(got, want) {
				t.Errorf("second by second %d have gone, want %d", got, want)
			}
			a.all.Wait()
			for i := range 20 {
				a.release(i)
			}
			empty(t, q)
		})
	}
}

func TestWhoseTurnDoesNotComeWhileTheGateReopensIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, a := NewQueue(0), arrivals{}
		q.Shut(6500 * time.Millisecond)
		for range 20 {
			a.join(t.Context(), q, "key:alice", 8*time.Second)
		}
		a.all.Wait()
		if len(a.served) != 3 || len(a.errs) != 17 { // one after 6.5 s, two after 7.5 s
			t.Fatalf("%d were served", len(a.served))
		}
		var busy *Busy
		if !errors.As(a.errs[0], &busy) || busy.At != AtGate || busy.RetryAfter != 5*time.Second {
			t.Errorf("%#v", a.errs[0])
		}
		for i := range a.places {
			a.release(i)
		}
		empty(t, q)
	})
}

func TestALimitThatChangesHoldsFromThenOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, a := NewQueue(2), arrivals{}
		for range 10 {
			a.wait(t.Context(), q, "key:alice", forever)
		}
		for _, c := range []struct{ limit, in int }{{5, 5}, {1, 5}, {-1, 10}, {3, 10}} {
			q.SetLimit(c.limit)
			synctest.Wait()
			if q.InUse() != c.in {
				t.Errorf("limit %d: %d are in, want %d", c.limit, q.InUse(), c.in)
			}
		}
		a.wait(t.Context(), q, "key:alice", forever)
		for i := range 7 {
			a.release(i)
			if q.Waiting() != 1 {
				t.Fatalf("%d are in, and one more went", q.InUse()-1)
			}
		}
		for i := 7; i < 11; i++ {
			a.release(i)
		}
		empty(t, q)
	})
}

func TestARefusalSaysWhenToComeBack(t *testing.T) {
	for _, c := range []struct {
		busy Busy
		want string
	}{
		{Busy{AtQueue, 5 * time.Second}, "too many requests are waiting for the upstream; try again in 5 s"},
		{Busy{AtGate, 1500 * time.Millisecond}, "the upstream has asked for a pause; try again in 2 s"},
	} {
		if got := c.busy.Error(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
