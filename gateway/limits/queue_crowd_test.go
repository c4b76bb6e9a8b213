package limits

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestAPlaceComesBackExactlyOnce(t *testing.T) {
	q := NewQueue(1)
	p := enter(t, q, "key:alice")
	var all sync.WaitGroup
	for range 64 {
		all.Go(p.Release)
	}
	all.Wait()
	next := enter(t, q, "key:bob")
	p.Release() // a late call frees nothing that others hold
	turnedAway(t, q, "key:carol", 0, AtQueue)
	next.Release()
	empty(t, q)
}

// Whatever happens at the same time, there are never too many, and in the end none is left.
func TestNoPlaceIsLostOrMadeUpInACrowd(t *testing.T) {
	for seed := range uint64(8) {
		synctest.Test(t, func(t *testing.T) {
			const limit = 3
			q := NewQueue(limit)
			var in, served, turned, left atomic.Int64
			var all sync.WaitGroup
			for worker := range uint64(64) {
				random := rand.New(rand.NewPCG(seed, worker))
				// A few whole milliseconds, so that much falls together. Never 0: timers that fire as they are made share one
				// context of the race detector, though several threads make them, which crashes it (Go 1.26, time.go).
				some := func() time.Duration { return time.Duration(1+random.IntN(4)) * time.Millisecond }
				all.Go(func() {
					for range 50 {
						ctx, leave := context.WithCancel(t.Context())
						if random.IntN(3) == 0 {
							time.AfterFunc(some(), leave)
						}
						p, err := q.Enter(ctx, fmt.Sprint(worker%7), []time.Duration{forever, 0, some(), some()}[random.IntN(4)])
						var busy *Busy
						switch {
						case err == nil:
							served.Add(1)
							if n := in.Add(1); n > limit {
								t.Errorf("%d are in", n)
							}
							pass(some())
							in.Add(-1)
							p.Release()
						case errors.As(err, &busy):
							turned.Add(1)
						case err == context.Canceled && p == nil:
							left.Add(1)
						default:
							t.Errorf("%v, %v", p, err)
						}
						leave()
						if random.IntN(500) == 0 {
							q.Shut(some())
						}
					}
				})
			}
			all.Wait()
			empty(t, q)
			if served.Load() == 0 || turned.Load() == 0 || left.Load() == 0 {
				t.Errorf("%d were served, %d turned away, %d left", served.Load(), turned.Load(), left.Load())
			}
		})
	}
}

// The same with real goroutines at once, as the race detector wants them.
func TestACrowdThatLeavesWhenItIsServed(t *testing.T) {
	q := NewQueue(2)
	var all sync.WaitGroup
	for worker := range 64 {
		all.Go(func() {
			for range 200 {
				ctx, leave := context.WithCancel(t.Context())
				all.Go(leave)
				if p, err := q.Enter(ctx, fmt.Sprint(worker%5), forever); err == nil {
					p.Release()
				}
			}
		})
	}
	all.Wait()
	empty(t, q)
}

// One request's way through a queue: where there is a place at once, and where it waits while others do, too.
func BenchmarkQueue(b *testing.B) {
	b.Run("free", func(b *testing.B) {
		q := NewQueue(1000)
		b.ReportAllocs()
		for b.Loop() {
			p, err := q.Enter(b.Context(), "key:alice", forever)
			if err != nil {
				b.Fatal(err)
			}
			p.Release()
		}
	})
	for _, waiting := range []int{10, 3000} {
		b.Run(fmt.Sprint(waiting, " wait"), func(b *testing.B) {
			q := NewQueue(1)
			p := enter(b, q, "key:alice")
			ctx, leave := context.WithCancel(b.Context())
			var all sync.WaitGroup
			for i := range waiting {
				all.Go(func() {
					if p, err := q.Enter(ctx, fmt.Sprint(i), forever); err == nil {
						p.Release()
					}
				})
			}
			for q.Waiting() < waiting {
			}
			b.ReportAllocs()
			for b.Loop() { // joins, and leaves
				w, err := q.join("key:bob", forever)
				if err != nil || q.leave(w) == nil {
					b.Fatal(err)
				}
			}
			leave()
			all.Wait()
			p.Release()
		})
	}
}
