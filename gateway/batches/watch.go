package batches

import (
	"bytes"
	"container/heap"
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"sluice/gateway/backoff"
	"sluice/gateway/claude"
	"sluice/gateway/limits"
	"sluice/gateway/store"
)

const (
	// asking bounds the questions that are under way, and readings of results.
	asking = 8
	// pollTimeout is for one question, whose answer has 600 bytes.
	pollTimeout = 30 * time.Second
)

// watched is a batch that is not over.
type watched struct {
	batch    Batch
	revision uint64
	at       time.Time          // when it is due
	place    int                // in the heap; -1: it is not there, since it is being asked about
	grant    *limits.BatchGrant // nil: an earlier process has admitted it
	failures int
	viewers  int
	changed  chan struct{} // closed when the batch has changed, and replaced
}

// watch begins to watch a batch that is not over.
func (b *Batches) watch(one Batch, revision uint64, grant *limits.BatchGrant) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if w := b.addLocked(one, revision, grant); w != nil {
		b.planLocked(w, 0)
	}
}

// addLocked takes a batch among the watched ones. It is nil for one that is there already: load and its maker both have
// found it.
func (b *Batches) addLocked(one Batch, revision uint64, grant *limits.BatchGrant) *watched {
	if w := b.watched[one.ID]; w != nil {
		if grant != nil {
			w.grant = grant
		}
		return nil
	}
	w := &watched{batch: one, revision: revision, place: -1, grant: grant, changed: make(chan struct{})}
	b.watched[one.ID] = w
	b.metrics.Batches(one.Status, +1)
	return w
}

// unwatch stops to watch one, if it was.
func (b *Batches) unwatch(one Batch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if w := b.watched[one.ID]; w != nil {
		b.dropLocked(w)
	}
}

func (b *Batches) dropLocked(w *watched) {
	delete(b.watched, w.batch.ID)
	w.grant.Settle(limits.Tally{}) // where it has not been: nobody will read what it has used
	if w.place >= 0 && w.place < len(b.due) && b.due[w.place] == w {
		heap.Remove(&b.due, w.place)
	}
	b.metrics.Batches(w.batch.Status, -1)
	close(w.changed)
	w.changed = nil
}

// Run watches until the context is over, and returns when the last question has its answer.
func (b *Batches) Run(ctx context.Context) {
	if err := b.load(ctx); err != nil {
		if ctx.Err() == nil {
			b.log.Error("unfinished batches can't be read from the store", "error", err)
		}
		return
	}
	var running sync.WaitGroup
	defer running.Wait()
	places := make(chan struct{}, asking)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		w, wait := b.next()
		if w == nil {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-b.nudge:
			case <-ctx.Done():
				return
			}
			continue
		}
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return
		}
		running.Go(func() {
			defer func() { <-places }()
			b.step(ctx, w)
		})
	}
}

// load reads what was not over when the process ended, and watches it. When each was last asked about is not known, so
// the first questions are spread over the whole wait; after a wait each, all batches of the same age would be due at once.
func (b *Batches) load(ctx context.Context) error {
	var found []*watched
	for entry, err := range b.records.List(ctx, nil) {
		if err != nil {
			return err
		}
		one, err := parse(entry.Value)
		if err != nil {
			b.log.Error("a batch in the store can't be read", "error", err)
			continue
		}
		if !one.Over {
			b.mu.Lock()
			if w := b.addLocked(one, entry.Revision, nil); w != nil {
				found = append(found, w)
			}
			b.mu.Unlock()
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.resumeLocked(found)
	return nil
}

func (b *Batches) resumeLocked(found []*watched) {
	for _, w := range found {
		if b.watched[w.batch.ID] == w { // it was not deleted meanwhile
			b.pushLocked(w, time.Duration(rand.Float64()*float64(b.waitLocked(w))))
		}
	}
}

// step does what is due for a batch: it asks the upstream, or settles the end.
func (b *Batches) step(ctx context.Context, w *watched) {
	b.mu.Lock()
	one, revision := w.batch, w.revision
	b.mu.Unlock()
	var err error
	if one.Status != claude.BatchEnded {
		err = b.poll(ctx, one)
	} else {
		err = b.finish(ctx, one, revision)
	}
	if ctx.Err() != nil {
		return
	}
	if errors.Is(err, store.ErrConflict) { // another process was faster
		if fresh, revision, again := b.find(ctx, one.Owner, one.ID); again == nil {
			b.update(fresh, revision)
			err = nil
		}
	}
	var least time.Duration
	var refused *claude.Error
	if errors.As(err, &refused) {
		least, _ = backoff.RetryAfter(refused.Header, time.Now())
		least = min(least, longestFailing)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.watched[one.ID] != w {
		return // it is over, or was deleted
	}
	switch {
	case err == nil:
		w.failures = 0
	default:
		w.failures++
		b.log.Debug("a batch can't be followed for now", "batch", one.ID, "failures", w.failures, "error", err)
		if refused != nil && (refused.Status == http.StatusTooManyRequests || refused.Status == 529) {
			b.paused = time.Now().Add(max(least, soonest))
		}
	}
	b.planLocked(w, least)
}

// poll asks the upstream once.
func (b *Batches) poll(ctx context.Context, one Batch) error {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	resp, err := b.client.Do(ctx, claude.Request{Method: http.MethodGet, Path: path + "/" + one.ID, Header: one.header()})
	var refused *claude.Error
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		b.metrics.BatchPolled("lost")
		return b.lose(ctx, one.Owner, one.ID)
	}
	var seen claude.Batch
	if err == nil {
		seen, err = read(resp)
	}
	if err != nil {
		b.metrics.BatchPolled("failed")
		return err
	}
	outcome := "unchanged"
	if seen.Status != one.Status {
		outcome = "changed"
	}
	b.metrics.BatchPolled(outcome)
	if bytes.Equal(seen.Raw, one.Object) {
		return nil // as nearly always, and then the store need not be asked either
	}
	_, err = b.observe(ctx, one.Owner, one.ID, seen)
	return err
}

// observe notes what the upstream has said about a batch. Only a change is written.
func (b *Batches) observe(ctx context.Context, owner, id string, seen claude.Batch) (Batch, error) {
	for {
		one, revision, err := b.find(ctx, owner, id)
		if err != nil {
			return Batch{}, err
		}
		if one.Status == claude.BatchEnded && seen.Status != claude.BatchEnded || seen.ID != id {
			return one, nil // an answer that was overtaken
		}
		if string(one.Object) == string(seen.Raw) {
			return one, nil
		}
		one.Object, one.Status = seen.Raw, seen.Status
		revision, err = b.records.Update(ctx, one.key(), one.encode(), revision)
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err == nil {
			b.update(one, revision)
		}
		return one, err
	}
}

// update has those who look see a batch's new state; one that has ended is due at once.
func (b *Batches) update(one Batch, revision uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.watched[one.ID]
	if w == nil {
		return
	}
	b.metrics.Batches(w.batch.Status, -1)
	b.metrics.Batches(one.Status, +1)
	w.batch, w.revision = one, revision
	if one.Over {
		b.dropLocked(w)
		return
	}
	close(w.changed)
	w.changed = make(chan struct{})
	if one.Status == claude.BatchEnded && w.place >= 0 {
		w.failures = 0
		w.at = b.after(0)
		heap.Fix(&b.due, w.place)
		b.wakeLocked(w)
	}
}

// View is somebody's look at a batch. It must be closed.
type View struct {
	batches *Batches
	owner   string
	id      string
	watched *watched // nil: the batch is over
}

// View looks at a batch of the owner's, which is then asked about more often.
func (b *Batches) View(ctx context.Context, owner, id string) (*View, error) {
	if _, _, err := b.find(ctx, owner, id); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	v := &View{batches: b, owner: owner, id: id, watched: b.watched[id]}
	if w := v.watched; w != nil {
		if w.viewers++; w.viewers == 1 && w.place >= 0 {
			if at := b.after(b.waitLocked(w)); at.Before(w.at) {
				w.at = at
				heap.Fix(&b.due, w.place)
				b.wakeLocked(w)
			}
		}
	}
	return v, nil
}

// Batch returns the batch as it was last seen, and a channel that is closed at the next change; nil if there will be none.
func (v *View) Batch(ctx context.Context) (Batch, <-chan struct{}, error) {
	v.batches.mu.Lock()
	if v.watched != nil && v.watched.changed != nil {
		defer v.batches.mu.Unlock()
		return v.watched.batch, v.watched.changed, nil
	}
	v.batches.mu.Unlock()
	one, _, err := v.batches.find(ctx, v.owner, v.id)
	return one, nil, err
}

// Close ends the look.
func (v *View) Close() {
	v.batches.mu.Lock()
	defer v.batches.mu.Unlock()
	if v.watched != nil {
		v.watched.viewers--
	}
}
