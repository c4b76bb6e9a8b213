package batches

import (
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
	// A batch is asked about after a tenth of its age: a short one is seen to end soon, and a long one costs little. Most
	// end within the hour.
	soonest = 5 * time.Second
	latest  = 5 * time.Minute
	// Somebody who looks at it wants to see it end.
	latestSeen = 15 * time.Second
	// spacing keeps all questions together to ten a second, whatever the number of batches: 600 a minute of the 1,000 to
	// 4,000 that an account has, and well below 1 % of a core.
	spacing = 100 * time.Millisecond
	// spread is the part of a wait that jitter takes away, so that batches made together are not asked about together.
	spread = 0.2

	// asking bounds the questions that are under way, and readings of results.
	asking = 8
	// pollTimeout is for one question, whose answer has 600 bytes.
	pollTimeout = 30 * time.Second
	// longestFailing is between two questions about a batch when the upstream fails again and again.
	longestFailing = 10 * time.Minute
)

// interval is the wait before the next question about a batch of that age, of which n are watched. seen: somebody is
// looking; failures: how many questions in a row have failed; jitter is a random number in [0, 1).
func interval(age time.Duration, n int, seen bool, failures int, jitter float64) time.Duration {
	wait := min(max(age/10, soonest), latest)
	if seen {
		wait = min(wait, latestSeen)
	} else {
		wait = max(wait, time.Duration(n)*spacing)
	}
	if failures > 0 {
		wait = max(wait, min(wait<<min(failures, 10), longestFailing))
	}
	return wait - time.Duration(float64(wait)*spread*jitter)
}

// watched is a batch that is not over.
type watched struct {
	batch    Batch
	revision uint64
	at       time.Time          // when it is due
	place    int                // in the heap; -1: it is being asked about
	grant    *limits.BatchGrant // nil: an earlier process has admitted it
	failures int
	viewers  int
	changed  chan struct{} // closed when the batch has changed, and replaced
}

// dueHeap has what is due first at its front.
type dueHeap []*watched

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i]; h[i].place, h[j].place = i, j }
func (h *dueHeap) Push(x any)        { w := x.(*watched); w.place = len(*h); *h = append(*h, w) }
func (h *dueHeap) Pop() any {
	old := *h
	w := old[len(old)-1]
	old[len(old)-1] = nil
	*h, w.place = old[:len(old)-1], -1
	return w
}

// watch begins to watch a batch that is not over.
func (b *Batches) watch(one Batch, revision uint64, grant *limits.BatchGrant) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if w := b.watched[one.ID]; w != nil { // load and its maker both have found it
		if grant != nil {
			w.grant = grant
		}
		return
	}
	w := &watched{batch: one, revision: revision, grant: grant, changed: make(chan struct{})}
	b.watched[one.ID] = w
	b.metrics.Batches(one.Status, +1)
	b.planLocked(w, 0)
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

// planLocked puts a batch on the heap, at its time or, if that is later, after least.
func (b *Batches) planLocked(w *watched, least time.Duration) {
	now := time.Now()
	wait := interval(now.Sub(w.batch.Created), len(b.watched), w.viewers > 0, w.failures, rand.Float64())
	if w.batch.Status == claude.BatchEnded && w.failures == 0 {
		wait = 0 // there is something to be done, not to be waited for
	}
	w.at = now.Add(max(wait, least))
	heap.Push(&b.due, w)
	b.wakeLocked()
}

func (b *Batches) wakeLocked() {
	select {
	case b.nudge <- struct{}{}:
	default:
	}
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

// load reads what was not over when the process ended.
func (b *Batches) load(ctx context.Context) error {
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
			b.watch(one, entry.Revision, nil)
		}
	}
	return nil
}

// next takes what is due from the heap, or says how long nothing will be.
func (b *Batches) next() (*watched, time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.due) == 0 {
		return nil, time.Hour
	}
	now := time.Now()
	at := b.due[0].at
	if at.Before(b.paused) {
		at = b.paused
	}
	if wait := at.Sub(now); wait > 0 {
		return nil, wait
	}
	return heap.Pop(&b.due).(*watched), 0
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
		w.at = time.Now()
		heap.Fix(&b.due, w.place)
		b.wakeLocked()
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
			if at := time.Now().Add(interval(time.Since(w.batch.Created), len(b.watched), true, w.failures, rand.Float64())); at.Before(w.at) {
				w.at = at
				heap.Fix(&b.due, w.place)
				b.wakeLocked()
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
