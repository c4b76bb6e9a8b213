package relay

import (
	"context"
	"time"

	"sluice/gateway/claude"
	"sluice/gateway/limits"
)

// place is a request's place at the upstream, as the claude room asks for it.
type place struct {
	relay   *Relay
	account string        // whose turn in the queue it takes
	wait    time.Duration // negative: without end
	until   time.Time     // it is not waited for longer; zero: no bound
	stream  *Stream       // nil: the answer is none
}

// Place is the place at the upstream of a request whose answer is no stream. It is waited for at most so long.
func (r *Relay) Place(account string, wait time.Duration) claude.Place {
	return &place{relay: r, account: account, wait: wait}
}

// TryTake takes the place where nobody has to wait for one.
func (p *place) TryTake() (release func(), ok bool) {
	permit, err := p.relay.queue.Enter(p.relay.stopping, p.account, 0)
	if err != nil {
		return nil, false
	}
	if release, err = p.taken(permit, 0); err != nil {
		return nil, false
	}
	return release, true
}

// taken is a place that the queue has given.
func (p *place) taken(permit *limits.Permit, waited time.Duration) (release func(), err error) {
	if p.relay.stopping.Err() != nil { // this place is one that the drain's end has made free
		permit.Release()
		return nil, ErrDraining
	}
	p.relay.metrics.UpstreamQueueLeft(waited)
	return permit.Release, nil
}

// Take waits in the queue. Its error is a *limits.Busy, the cause of the context's end, or ErrDraining when the time of a
// drain is over.
func (p *place) Take(ctx context.Context) (release func(), err error) {
	q, begun := p.relay.queue, time.Now()
	permit, err := q.Enter(ctx, p.account, 0)
	if err != nil && p.wait != 0 {
		wait := p.wait
		if wait > 0 && !p.until.IsZero() {
			wait = min(wait, max(0, p.until.Sub(begun)))
		}
		ctx, cancel := context.WithCancelCause(ctx)
		defer context.AfterFunc(p.relay.stopping, func() { cancel(ErrDraining) })()
		defer cancel(nil)
		p.stream.setQueued(true)
		if permit, err = q.Enter(ctx, p.account, wait); err == nil {
			p.stream.setQueued(false) // else it is as good as refused
		}
	}
	if err != nil {
		return nil, err
	}
	return p.taken(permit, time.Since(begun))
}

// Refused shuts the gate of the queue: what the upstream has said to one request holds for all.
func (p *place) Refused(status int, pause time.Duration) {
	if shut := p.relay.queue.Shut(pause); shut > 0 {
		p.relay.log.Warn("the upstream asks for a pause: new requests wait", "status", status, "asked_for", pause, "pause", shut)
	}
}

// errLeft is why a stream is refused that nobody waits for any more. Only who joins it at this very moment can see it,
// and had better begin another.
var errLeft = &claude.Error{Type: claude.Overloaded, Status: 529, Message: "The request has left the queue; try again."}

// setQueued says whether the stream is in the queue. On nil it does nothing.
func (s *Stream) setQueued(queued bool) {
	if s == nil {
		return
	}
	s.mu.Lock()
	s.queued = queued
	s.mu.Unlock()
	s.leaveQueue()
}

// leaveQueue gives up a stream that is in the queue when nobody waits for it any more: it has nothing yet that anybody
// could come back to. Not so one that is never abandoned, or that has been promised to somebody.
func (s *Stream) leaveQueue() {
	left := func() bool { return s.queued && !s.committed && s.abandonIn >= 0 && !s.watchedLocked() }
	s.refuseIf(left, Abandoned, errLeft)
}
