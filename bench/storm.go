package main

import (
	"context"
	"sync"
	"time"
)

// storm drops all viewers at once when each has had a delta, keeps them away for a while, lets them all back at once, and
// measures until the last has caught up: has what was sent before the relay answered it again. A nil storm does nothing.
type storm struct {
	away time.Duration

	here    sync.WaitGroup     // viewers that have not had a delta yet
	behind  sync.WaitGroup     // those that are not known to have caught up
	dropped context.Context    // done when all are dropped; what they hold until then ends with it
	drop    context.CancelFunc // drops them
	back    chan struct{}      // closed when they may come back

	mu   sync.Mutex
	last time.Time // when the last so far had caught up

	seconds float64 // from when they could come back
	cpu     float64 // of the target, in seconds, from the drop on
}

func newStorm(ctx context.Context, viewers int, away time.Duration) *storm {
	s := &storm{away: away, back: make(chan struct{})}
	s.dropped, s.drop = context.WithCancel(ctx)
	s.here.Add(viewers)
	s.behind.Add(viewers)
	return s
}

// run is over when all have caught up, or failed.
func (s *storm) run(ctx context.Context, pid int) {
	s.here.Wait()
	cpu := cpuSeconds(pid)
	s.drop()
	pause(ctx, s.away)
	began := time.Now()
	close(s.back)
	s.behind.Wait()
	s.cpu = cpuSeconds(pid) - cpu
	s.seconds = max(0, s.last.Sub(began).Seconds())
}

// survivor is one viewer's part in a storm.
type survivor struct {
	storm          *storm
	here, caughtUp bool
	returned       time.Time // when it was answered again; zero before
	latest         time.Time // when it had what was sent before that
}

// context is what the viewer's next connection ends with.
func (v *survivor) context(ctx context.Context) context.Context {
	if v.storm == nil || v.storm.dropped.Err() != nil {
		return ctx
	}
	return v.storm.dropped
}

// wait keeps one that was dropped away.
func (v *survivor) wait(ctx context.Context) {
	if v.storm == nil || v.storm.dropped.Err() == nil {
		return
	}
	select {
	case <-v.storm.back:
	case <-ctx.Done():
	}
}

// answered notes the first answer after the drop.
func (v *survivor) answered() {
	if v.storm != nil && v.returned.IsZero() && v.storm.dropped.Err() != nil {
		v.returned = time.Now()
		v.latest = v.returned
	}
}

// took notes a delta.
func (v *survivor) took(sent int64, now time.Time) {
	switch {
	case v.storm == nil || v.caughtUp:
	case !v.here:
		v.here = true
		v.storm.here.Done()
	case v.returned.IsZero():
	case sent < v.returned.UnixNano():
		v.latest = now
	default:
		v.done()
	}
}

// done says that there is nothing left to catch up with.
func (v *survivor) done() {
	if v.storm == nil || v.caughtUp {
		return
	}
	v.caughtUp = true
	if !v.here {
		v.here = true
		v.storm.here.Done()
	}
	v.storm.mu.Lock()
	if v.latest.After(v.storm.last) {
		v.storm.last = v.latest
	}
	v.storm.mu.Unlock()
	v.storm.behind.Done()
}
