package callbacks

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"sluice/gateway/failpoint"
	"sluice/gateway/store"
)

const (
	// atOnce bounds the attempts that are under way: each has a connection, and may take attemptTimeout.
	atOnce = 64
	// ownersShare bounds those of one owner, so that one whose receivers are slow does not keep the others waiting.
	ownersShare = 8
	// An item that finds its owner's share taken comes back after crowded at the earliest, and the owner's next one step
	// later: so a long line of one owner costs 80 looks a second, however long it is.
	crowded = 100 * time.Millisecond
	step    = crowded / ownersShare
	// lastWords is how long attempts under way may go on when Run is told to stop. What is not done then is done again
	// after the next start.
	lastWords = 5 * time.Second
)

// busy knows who has how many attempts under way.
type busy struct {
	mu     sync.Mutex
	owners map[string]*share
}

type share struct {
	taken int
	line  time.Time // when the last one that was sent away comes back
}

// enter takes a place of the owner's share, or says how long to stay away.
func (b *busy) enter(owner string, now time.Time) (wait time.Duration, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.owners == nil {
		b.owners = make(map[string]*share)
	}
	s := b.owners[owner]
	if s == nil {
		s = new(share)
		b.owners[owner] = s
	}
	if s.taken < ownersShare {
		s.taken++
		return 0, true
	}
	if s.line = s.line.Add(step); s.line.Before(now.Add(crowded)) {
		s.line = now.Add(crowded)
	}
	return s.line.Sub(now), false
}

func (b *busy) leave(owner string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.owners[owner]; s.taken > 1 {
		s.taken--
	} else {
		delete(b.owners, owner)
	}
}

// Run delivers until the context is over, and returns when the last attempt has. Any number of processes that share a
// store may run.
func (c *Callbacks) Run(ctx context.Context) {
	attempts, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	var running sync.WaitGroup
	defer func() {
		defer time.AfterFunc(lastWords, abort).Stop()
		running.Wait()
	}()
	places := make(chan struct{}, atOnce)
	for {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return
		}
		item, err := c.queue.Next(ctx)
		if err != nil {
			if ctx.Err() == nil {
				c.log.Error("callbacks have stopped", "error", err)
			}
			return
		}
		running.Go(func() {
			defer func() { <-places }()
			c.handle(attempts, item)
		})
	}
}

// handle makes one attempt at what an item asks for, if it is time.
func (c *Callbacks) handle(ctx context.Context, item *store.Item) {
	var t task
	if err := json.Unmarshal(item.Data, &t); err != nil { // a bug, or another program
		c.log.Error("an item of the queue can't be read", "item", item.ID, "error", err)
		c.done(ctx, item)
		return
	}
	if wait, ok := c.busy.enter(t.Owner, time.Now()); !ok {
		c.later(item, wait)
		return
	}
	defer c.busy.leave(t.Owner)
	r, revision, err := c.read(ctx, t.Owner, t.ID)
	if err == nil && t.Round > r.Round { // whoever asked for it has not come to it yet, and may have died
		r.renew(time.Now())
		revision, err = c.records.Update(ctx, r.key(), r.encode(), revision)
	}
	switch {
	case errors.Is(err, ErrNotFound), err == nil && (r.Status != Pending || t.Round < r.Round):
		c.done(ctx, item)
		return
	case errors.Is(err, store.ErrConflict):
		c.later(item, 0)
		return
	case err != nil:
		c.log.Error("a callback can't be read", "callback", t.ID, "error", err)
		c.later(item, firstWait)
		return
	}
	if wait := time.Until(r.Next); wait > 0 { // the queue forgets over a restart how long an item should wait
		c.later(item, wait)
		return
	}
	failpoint.At("due")
	got := c.sender.send(ctx, r.URL, r.Owner, r.ID, r.Body)
	if ctx.Err() != nil { // it was broken off: nothing is known about the receiver
		return
	}
	failpoint.At("answered")
	r.take(got, time.Now(), rand.Float64())
	if _, err := c.records.Update(ctx, r.key(), r.encode(), revision); err != nil {
		if !errors.Is(err, store.ErrConflict) {
			c.log.Error("the outcome of a callback can't be stored, so it is sent again", "callback", r.ID, "error", err)
		}
		c.later(item, firstWait) // by then the record says what is to be done
		return
	}
	switch r.Status {
	case Pending:
		c.metrics.CallbackRetried()
		c.log.Debug("callback not taken yet", "callback", r.ID, "object", r.Object, "attempts", r.Attempts, "reason", r.LastError, "status", r.LastStatus)
		c.later(item, time.Until(r.Next))
		failpoint.At("postponed")
		return
	case Failed:
		c.log.Warn("callback given up", "callback", r.ID, "object", r.Object, "owner", r.Owner, "attempts", r.Attempts, "reason", r.LastError, "status", r.LastStatus)
	}
	c.metrics.CallbackEnded(r.Status, r.Attempts)
	failpoint.At("settled")
	c.done(ctx, item)
	failpoint.At("told")
}

// take notes what came of an attempt that ended at now.
func (r *record) take(got attempt, now time.Time, jitter float64) {
	r.Attempts++
	r.LastStatus, r.LastError = got.status, got.reason
	at, ok := next(r.Attempts, r.Begun, now, got.after, jitter)
	switch {
	case got.reason == "":
		r.Status, r.Ended = Delivered, now
	case got.reason == reasonGone || !ok:
		r.Status, r.Ended = Failed, now
	default:
		r.Next = at
	}
}

// later and done leave an item to the store where they fail: it comes again, and the record says what is to be done.
func (c *Callbacks) later(item *store.Item, wait time.Duration) {
	if err := item.Later(max(wait, time.Millisecond)); err != nil {
		c.log.Debug("a callback can't be put back, and comes again by itself", "callback", item.ID, "error", err)
	}
}

func (c *Callbacks) done(ctx context.Context, item *store.Item) {
	if err := item.Done(ctx); err != nil {
		c.log.Debug("a callback can't be taken out of the queue, and comes again", "callback", item.ID, "error", err)
	}
}
