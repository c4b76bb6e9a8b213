package background

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"time"

	"sluice/gateway/backoff"
	"sluice/gateway/claude"
	"sluice/gateway/failpoint"
	"sluice/gateway/limits"
	"sluice/gateway/relay"
	"sluice/gateway/store"
)

const (
	// maxLost is after how many deaths of the process during a stream it is taken to be their cause. Machines that are
	// lost are rarely lost so often within an answer's minutes.
	maxLost = 5

	// maxRefused is how often the upstream may refuse for now. With refusedWait that takes two hours, which few of its
	// outages did.
	maxRefused = 20

	// quickRetries and quickTime are for what passes within seconds, without going back to the queue.
	quickRetries = 2
	quickTime    = 10 * time.Second
)

// Waits before another attempt.
const (
	lostWait     = 10 * time.Second // after the second death, and twice as long after each further one: the first may be a deploy
	refusedWait  = 5 * time.Second  // after the first refusal, and twice as long after each further one
	longestWait  = 10 * time.Minute
	busyWait     = 5 * time.Second        // while memory or the store are not to be had, or the same item is in another worker's hands
	slotWait     = 100 * time.Millisecond // for each stream that waits for one of its owner's to end: ten are looked at in a second
	shortestSlot = time.Second
	longestSlot  = time.Minute
)

// Outcomes of an attempt, as sluice_background_attempts_total has them, beside the statuses that are ends.
const (
	outcomeRefused     = "refused"     // by the upstream, for now
	outcomeInterrupted = "interrupted" // the process stops
	outcomeLost        = "lost"        // the process died; counted by the next one
)

// verdict is what becomes of an item.
type verdict struct {
	outcome string        // of the attempt; empty: there was none
	done    bool          // the item has no further use
	wait    time.Duration // before the next attempt, if not
}

// work has one item in hand until its stream has ended or is to wait.
func (b *Background) work(item *store.Item) {
	r, err := decode(item.Data)
	if err != nil { // a bug, or another program
		b.log.Error("an item of the queue can't be read", "item", item.ID, "error", err)
		b.finish(item, verdict{done: true})
		return
	}
	if !b.hold(r.ID) {
		b.finish(item, verdict{wait: busyWait})
		return
	}
	defer b.letGo(r.ID)
	stopWorking := working(item)
	v := b.try(r)
	stopWorking()
	if v.outcome != "" {
		b.metrics.BackgroundAttempt(v.outcome)
	}
	b.finish(item, v)
}

// finish says what has become of an item. Where the store fails it comes again, and is found to have ended.
func (b *Background) finish(item *store.Item, v verdict) {
	var err error
	if v.done {
		if err = item.Done(context.Background()); err == nil {
			failpoint.At("done")
			err = b.requests.Delete(context.Background(), item.ID)
		}
	} else {
		err = item.Later(v.wait)
	}
	if err != nil {
		b.log.Warn("a background stream's item is left to come again", "stream", item.ID, "error", err)
	}
}

// working keeps an item until it is stopped.
func working(item *store.Item) (stop func()) {
	stopped, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(store.Hold / 3)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_ = item.Working() // if the store fails for so long that the item comes again, held says that we have it
			case <-stopped:
				return
			}
		}
	}()
	return func() {
		close(stopped)
		<-done
	}
}

// try makes one attempt at a stream, if it is time for one.
func (b *Background) try(r *record) (v verdict) {
	defer func() {
		if p := recover(); p != nil { // it is looked at again, and fails after maxLost times
			b.log.Error("background stream failed by a defect", "stream", r.ID, "panic", p, "stack", string(debug.Stack()))
			v = verdict{wait: busyWait}
		}
	}()
	failpoint.At("taken")
	b.waitsNoMore(r.Owner, r.ID)
	ctx := context.Background()
	r, err := b.current(ctx, r)
	switch {
	case err != nil:
		return b.hindered(r, err)
	case r.over():
		if err := b.tell(ctx, r); err != nil {
			return b.hindered(r, err)
		}
		return verdict{done: true}
	}
	if wait := time.Until(r.NotBefore); wait > 0 {
		return verdict{wait: wait}
	}
	if r.Status == relay.InProgress { // and not in this process
		if r, err = b.lost(ctx, r); err != nil {
			return b.hindered(r, err)
		}
		b.metrics.BackgroundAttempt(outcomeLost)
		if wait := time.Until(r.NotBefore); wait > 0 && r.Lost < maxLost {
			return verdict{wait: wait}
		}
	}
	s, err := b.relay.Announce(b.kept(r))
	if err != nil {
		return b.hindered(r, err)
	}
	switch {
	case r.Lost >= maxLost:
		return b.fail(s, &claude.Error{Type: claude.APIError, Message: fmt.Sprintf("The gateway died %d times while it ran this stream, and does not try again.", r.Lost)})
	case time.Since(r.Created) > b.cfg.Retention:
		return b.fail(s, &claude.Error{Type: claude.Timeout, Message: fmt.Sprintf("The stream could not be run within %s.", b.cfg.Retention)})
	}
	return b.run(ctx, r, s)
}

// current reads the record of an item's stream, or makes it, if who accepted the stream died before.
func (b *Background) current(ctx context.Context, first *record) (*record, error) {
	if _, err := b.records.Create(ctx, first.key(), first.encode()); err == nil || !errors.Is(err, store.ErrExists) {
		return first, err
	}
	return b.change(ctx, first.key(), func(*record) error { return nil })
}

// lost notes that the process which ran a stream has died.
func (b *Background) lost(ctx context.Context, r *record) (*record, error) {
	return b.change(ctx, r.key(), func(r *record) error {
		if r.over() {
			return errOver
		}
		r.Status = relay.Queued
		if r.Lost++; r.Lost > 1 {
			r.NotBefore = time.Now().Add(grown(lostWait, r.Lost-2))
		}
		return nil
	})
}

// grown doubles a wait so many times, and takes up to a quarter off, so that what failed together comes apart.
func grown(wait time.Duration, times int) time.Duration {
	for range times {
		wait = min(2*wait, longestWait)
	}
	return wait - time.Duration(rand.Int64N(int64(wait/4)))
}

// hindered is the verdict where something of ours is in the way.
func (b *Background) hindered(r *record, err error) verdict {
	switch {
	case errors.Is(err, errOver):
		return verdict{done: true}
	case errors.Is(err, relay.ErrDraining):
		return verdict{}
	}
	level := slog.LevelWarn
	if errors.Is(err, relay.ErrMemory) { // it is busy, and that may go on
		level = slog.LevelDebug
	}
	b.log.Log(context.Background(), level, "a background stream has to wait", "stream", r.ID, "error", err)
	return verdict{wait: busyWait}
}

// fail ends a stream that is not tried any more.
func (b *Background) fail(s *relay.Stream, e *claude.Error) verdict {
	s.Fail(e)
	return b.ended(s)
}

// ended waits for a stream's end.
func (b *Background) ended(s *relay.Stream) verdict {
	<-s.Done()
	if s.Parted() {
		return verdict{outcome: outcomeInterrupted}
	}
	return verdict{outcome: string(s.Snapshot(false).Status), done: true}
}

// run lets a stream begin, and waits for its end.
func (b *Background) run(ctx context.Context, r *record, s *relay.Stream) verdict {
	grant, err := b.limits.Enter(r.Owner, r.Plan, r.Ask)
	var exceeded *limits.Exceeded
	var outside *limits.Outside
	switch {
	case errors.As(err, &exceeded) && exceeded.Limit != limits.ConcurrentStreams:
		return verdict{wait: min(exceeded.RetryAfter, longestWait)}
	case errors.As(err, &exceeded): // its turn comes; refusing was for when it was accepted
		wait := time.Duration(b.waits(r.Owner, r.ID)) * slotWait
		return verdict{wait: grown(min(max(wait, shortestSlot), longestSlot), 0)}
	case errors.As(err, &outside):
		return b.fail(s, &claude.Error{Type: claude.Permission, Message: outside.Error(), Cause: err})
	case err != nil:
		return b.fail(s, &claude.Error{Type: claude.Permission, Message: "The plan that the stream was accepted with does not exist any more.", Cause: err})
	}
	body, err := b.body(ctx, r)
	if errors.Is(err, store.ErrNotFound) {
		grant.Release()
		return b.fail(s, &claude.Error{Type: claude.APIError, Message: "The stream's request is not in the store any more.", Cause: err})
	}
	if err == nil {
		if r, err = b.begins(ctx, r); err != nil {
			b.relay.Release(int64(len(body)))
		}
	}
	if err != nil {
		grant.Release()
		return b.hindered(r, err)
	}
	failpoint.At("begins")
	err = s.Begin(relay.Beginning{Attempt: r.Attempt, Grant: grant, Request: r.request(body),
		Retry: claude.Retry{Statuses: claude.SafeStatus, Max: quickRetries, Until: time.Now().Add(quickTime)}})
	switch {
	case err == nil, errors.Is(err, relay.ErrOver):
		v := b.ended(s)
		if v.outcome == outcomeInterrupted {
			return b.back(ctx, r, v, 0, 0)
		}
		return v
	case errors.Is(err, relay.ErrDraining):
		return b.back(ctx, r, verdict{}, 1, 0)
	}
	wait, passing := passes(err, r.Refused)
	if !passing || r.Refused >= maxRefused {
		return b.fail(s, refusal(err))
	}
	wait = min(wait, time.Until(r.Created.Add(b.cfg.Retention))) // then it fails, and says so
	b.log.Info("a background stream was refused for now", "stream", r.ID, "refused", r.Refused+1, "wait", wait.Round(time.Second), "error", err)
	return b.back(ctx, r, verdict{outcome: outcomeRefused, wait: wait}, 1, 1)
}

// body reads a stream's request into memory that is reserved for it.
func (b *Background) body(ctx context.Context, r *record) ([]byte, error) {
	o, err := b.requests.Open(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	if err := b.relay.Reserve(o.Size); err != nil {
		return nil, err
	}
	body := make([]byte, o.Size)
	if _, err := io.ReadFull(o, body); err != nil {
		b.relay.Release(o.Size)
		return nil, err
	}
	return body, nil
}

// begins notes that another attempt begins. From then on a death of the process counts as its loss.
func (b *Background) begins(ctx context.Context, r *record) (*record, error) {
	return b.change(ctx, r.key(), func(r *record) error {
		if r.over() {
			return errOver
		}
		r.Status = relay.InProgress
		r.Attempt++
		return nil
	})
}

// back notes that a stream waits again. Attempts of which no event was seen are not counted.
func (b *Background) back(ctx context.Context, r *record, v verdict, unseen, refused int) verdict {
	_, err := b.change(ctx, r.key(), func(r *record) error {
		if r.over() {
			return errOver
		}
		r.Status = relay.Queued
		r.Attempt -= unseen
		r.Refused += refused
		r.NotBefore = time.Now().Add(v.wait)
		return nil
	})
	if errors.Is(err, errOver) {
		v.done = true
	}
	return v
}

// passes reports whether a refusal may pass by itself, and when to try again. What is wrong with the request itself
// stays wrong; what is wrong with our own key would fail the whole queue before anybody could mend it.
func passes(err error, refused int) (wait time.Duration, ok bool) {
	wait = grown(refusedWait, refused)
	var e *claude.Error
	if !errors.As(err, &e) {
		return wait, true
	}
	if asked, ok := backoff.RetryAfter(e.Header, time.Now()); ok {
		wait = asked
	}
	if errors.Is(err, claude.ErrOwnKey) {
		return wait, true
	}
	return wait, e.Header.Get("X-Should-Retry") != "false" && (e.Status >= http.StatusInternalServerError || claude.SafeStatus(e.Status))
}

func refusal(err error) *claude.Error {
	var e *claude.Error
	if errors.As(err, &e) {
		return e
	}
	return &claude.Error{Type: claude.APIError, Message: "The stream could not be begun.", Cause: err}
}
