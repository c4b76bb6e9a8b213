package limits

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"time"
)

// The queue is bounded, since each request in it holds memory and a connection. Every owner has a first place of its
// own; the further ones are shared. So who has nothing in the queue gets in, however many others have, and one owner
// alone can't take all that is shared.
const (
	firstPlaces   = 4000 // as many owners
	furtherPlaces = 4000
	ownerPlaces   = 1000 // of one owner, its first among them
)

// What a request has waited for in vain, as Busy names it. They are a closed set.
const (
	AtQueue = "queue" // a place at the upstream, or in the queue
	AtGate  = "gate"  // the end of the pause that the upstream has asked for, or its turn after it
)

// Busy is the refusal of a request that can't go to the upstream for now.
type Busy struct {
	At         string        // AtQueue or AtGate
	RetryAfter time.Duration // above 0; while the gate is shut, what is left of that
}

// Error is for the caller to read.
func (e *Busy) Error() string {
	seconds := (e.RetryAfter + time.Second - 1) / time.Second
	if e.At == AtGate {
		return fmt.Sprintf("the upstream has asked for a pause; try again in %d s", seconds)
	}
	return fmt.Sprintf("too many requests are waiting for the upstream; try again in %d s", seconds)
}

// Queue says when a request may go to the upstream: at most so many are there at once, and none goes while the upstream
// has asked for a pause. Requests that can't go at once wait in line, one line for each owner, and the owners take turns:
// where n owners wait, each gets every nth place that becomes free. All methods may be called at once from any goroutine,
// and take no longer where more are waiting.
type Queue struct {
	mu      sync.Mutex
	limit   int // requests at the upstream at once; 0: no limit
	inUse   int
	gate    gate
	lines   map[string]*line // of the owners that wait
	turns   list.List        // of *line, the next to be served in front
	waiting int
	timer   *time.Timer // looks again when the gate changes
}

// line is what one owner has in the queue, which is something.
type line struct {
	owner   string
	place   *list.Element
	waiters list.List // of *waiter
}

type waiter struct {
	line  *line
	place *list.Element // nil once it has left the queue
	turn  chan struct{} // closed when it may go
}

// NewQueue lets so many requests be at the upstream at once; 0: any number.
func NewQueue(limit int) *Queue {
	return &Queue{limit: limit, lines: make(map[string]*line)}
}

// Permit is a request's place at the upstream. Its method may be called at once from any goroutine.
type Permit struct {
	queue    *Queue
	released bool // guarded by queue.mu
}

// Release gives the place back, once; every later call does nothing.
func (p *Permit) Release() {
	q := p.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if p.released {
		return
	}
	p.released = true
	q.inUse--
	q.serve(time.Now())
}

// Enter waits until a request of the owner may go to the upstream, at most for so long; a negative wait has no end. The
// error is a *Busy, at once where to wait would be of no use, or the cause of the context's end, with which the place in
// the queue is free at once. Whoever gets a Permit must see to its Release.
func (q *Queue) Enter(ctx context.Context, owner string, wait time.Duration) (*Permit, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	w, err := q.join(owner, wait)
	switch {
	case err != nil:
		return nil, err
	case w == nil:
		return &Permit{queue: q}, nil
	}
	var late <-chan time.Time
	if wait >= 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		late = t.C
	}
	select {
	case <-w.turn:
		return &Permit{queue: q}, nil
	case <-late:
		if err := q.leave(w); err != nil {
			return nil, err
		}
		return &Permit{queue: q}, nil
	case <-ctx.Done():
		if q.leave(w) == nil {
			(&Permit{queue: q}).Release()
		}
		return nil, context.Cause(ctx)
	}
}

// join puts a request into the queue, or lets it go at once: then there is no waiter.
func (q *Queue) join(owner string, wait time.Duration) (*waiter, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	q.serve(now) // the timer may be late
	if q.free(now) {
		q.admit()
		return nil, nil
	}
	l := q.lines[owner]
	full := l == nil && len(q.lines) >= firstPlaces ||
		l != nil && (l.waiters.Len() >= ownerPlaces || q.waiting-len(q.lines) >= furtherPlaces)
	if full || wait == 0 || wait > 0 && q.gate.left(now) > wait {
		return nil, q.busy(now)
	}
	if l == nil {
		l = &line{owner: owner}
		l.place = q.turns.PushBack(l)
		q.lines[owner] = l
	}
	w := &waiter{line: l, turn: make(chan struct{})}
	w.place = l.waiters.PushBack(w)
	q.waiting++
	q.serve(now) // which can only set the timer
	return w, nil
}

// leave takes a waiter out of the queue and says why it was not served. It is nil if it was: then it has a place.
func (q *Queue) leave(w *waiter) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	q.serve(now) // as in join
	if w.place == nil {
		return nil
	}
	q.remove(w)
	return q.busy(now)
}

func (q *Queue) remove(w *waiter) {
	w.line.waiters.Remove(w.place)
	w.place = nil
	q.waiting--
	if w.line.waiters.Len() == 0 {
		q.turns.Remove(w.line.place)
		delete(q.lines, w.line.owner)
	}
}

// serve lets go who may now, in turn: after it, nobody waits or nothing is free. It must be called whenever something may
// have become free.
func (q *Queue) serve(now time.Time) {
	for q.waiting > 0 && q.free(now) {
		l := q.turns.Front().Value.(*line)
		q.turns.MoveToBack(l.place)
		w := l.waiters.Front().Value.(*waiter)
		q.remove(w)
		q.admit()
		close(w.turn)
	}
	if q.waiting == 0 || q.gate.free(now) {
		return // what comes next is a Release
	}
	if wait := q.gate.change(now); q.timer == nil {
		q.timer = time.AfterFunc(wait, q.look)
	} else {
		q.timer.Reset(wait)
	}
}

func (q *Queue) look() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.serve(time.Now())
}

// free reports whether one more may go now.
func (q *Queue) free(now time.Time) bool {
	return (q.limit <= 0 || q.inUse < q.limit) && q.gate.free(now)
}

// admit takes what is free.
func (q *Queue) admit() {
	q.inUse++
	q.gate.pass()
}

func (q *Queue) busy(now time.Time) *Busy {
	if left := q.gate.left(now); left > 0 {
		return &Busy{At: AtGate, RetryAfter: left}
	}
	if !q.gate.free(now) {
		return &Busy{At: AtGate, RetryAfter: slotWait}
	}
	return &Busy{At: AtQueue, RetryAfter: slotWait}
}

// Shut lets nobody go to the upstream for as long as it has asked for, at most a minute; then one, and from second to
// second twice as many as before, until after 8 s there is no such bound. Who is there already is not disturbed. It
// returns how long the gate is shut now, and 0 if it already was: a pause is never shortened, but may become longer.
func (q *Queue) Shut(pause time.Duration) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	if !q.gate.shut(pause, now) {
		return 0
	}
	return q.gate.left(now)
}

// SetLimit changes how many may be at the upstream at once; 0: any number. Those that are there stay.
func (q *Queue) SetLimit(limit int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.limit = limit
	q.serve(time.Now())
}

// Waiting is how many requests are in the queue now.
func (q *Queue) Waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting
}

// InUse is how many requests are at the upstream now.
func (q *Queue) InUse() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.inUse
}
