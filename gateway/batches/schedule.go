package batches

import (
	"container/heap"
	"math/rand/v2"
	"time"

	"sluice/gateway/claude"
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
	// beat is what due times are rounded up to. A process that is woken for each single question pays ten times as much for
	// waking up as for asking (measured: 0.85 ms against 0.1 ms of CPU).
	beat = time.Second
	// spread is the part of a wait that jitter takes away, so that batches made together are not asked about together.
	spread = 0.2
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

// planLocked puts a batch on the heap, at its time or, if that is later, after least.
func (b *Batches) planLocked(w *watched, least time.Duration) {
	b.pushLocked(w, max(b.waitLocked(w), least))
}

// waitLocked is the wait before a batch is due.
func (b *Batches) waitLocked(w *watched) time.Duration {
	if w.batch.Status == claude.BatchEnded && w.failures == 0 {
		return 0 // there is something to be done, not to be waited for
	}
	return interval(time.Since(w.batch.Created), len(b.watched), w.viewers > 0, w.failures, rand.Float64())
}

func (b *Batches) pushLocked(w *watched, wait time.Duration) {
	w.at = b.after(wait)
	heap.Push(&b.due, w)
	b.wakeLocked(w)
}

// after is the time at which something is due after a wait.
func (b *Batches) after(wait time.Duration) time.Time {
	at := time.Now().Add(wait)
	if wait <= 0 {
		return at
	}
	return at.Add(beat - time.Duration(at.Add(b.phase).UnixNano())%beat)
}

// wakeLocked has Run look again, if nothing else is due before.
func (b *Batches) wakeLocked(w *watched) {
	if w.place != 0 {
		return
	}
	select {
	case b.nudge <- struct{}{}:
	default:
	}
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
