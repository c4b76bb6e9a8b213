package relay

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// paceWindow is how much may wait for a viewer that still counts as in pace. It covers what one read of the upstream
// brings; more than that piles up only while the viewer's socket is not taking it.
const paceWindow = 4 << 10

// EndReason is why a viewer ended, as sluice_viewers_ended_total has it.
type EndReason string

// The reasons.
const (
	EndCompleted EndReason = "completed" // it has seen the stream's end
	EndGone      EndReason = "gone"      // its connection was closed
	EndStalled   EndReason = "stalled"   // it took no byte for too long
)

// Viewer is one connection reading a stream. Its methods belong to one goroutine at a time.
//
// Whose turn it is to write is one of three: while the viewer waits, having taken all there was, the stream's reader may
// take the turn and push what comes; it gives it back as soon as a push does not go through. Otherwise the turn is the
// viewer's own goroutine's.
type Viewer struct {
	stream *Stream
	next   int // index of the first event not yet taken
	exact  bool
	late   bool // it attached behind the tip, and has not reached it
	wake   chan struct{}
	slot   int // its place among the stream's viewers
	pieces [][]byte
	merged []byte           // where merged frames are built
	push   func(Batch) bool // nil: the viewer is always woken
	onWake func()           // nil: wake gets a value

	turn        turn // guarded by the stream's lock, as are the next two
	gone        bool // it is detached
	interrupted bool // it is to be woken although there may be nothing
}

// turn is who may write to a viewer.
type turn uint8

const (
	turnOwn     turn = iota // its goroutine
	turnWaiting             // nobody: it has taken all there was
	turnReader              // the stream's reader
)

// Batch is what a viewer is to be sent next.
type Batch struct {
	Pieces    [][]byte // to be written in order; valid until the next Take, not to be changed
	Events    int      // events of the log that they carry
	Coalesced int      // how many of these are parts of merged frames
	Live      bool     // the viewer was not catching up after its attach
	Read      time.Time
}

// Push lets the stream's reader write to the viewer while it waits, which saves waking its goroutine for each event.
// write must not block; it returns false if it could not write everything: then the viewer is woken, and its goroutine
// has to write the rest. Push must be called before the first Take.
func (v *Viewer) Push(write func(Batch) bool) { v.push = write }

// OnWake lets f be called where Wake would get a value, on a goroutine of its own. OnWake must be called before the first
// Take.
func (v *Viewer) OnWake(f func()) { v.onWake, v.wake = f, nil }

// Take returns what is past the viewer's cursor and moves the cursor. An empty batch means that there is nothing: then
// either ended is true, and the viewer has seen all there will ever be, or a value will come on Wake when it is its turn
// again.
func (v *Viewer) Take() (b Batch, ended bool) {
	s := v.stream
	s.mu.Lock()
	log := s.log.view()
	if v.next == len(log.entries) {
		v.late = false
		if !s.ended {
			v.turn = turnWaiting
			if v.interrupted {
				s.wakeLocked(v)
			}
		}
		ended = s.ended
		s.mu.Unlock()
		if ended {
			<-s.done // who has seen the end finds it in the accounts
		}
		return Batch{}, ended
	}
	s.mu.Unlock()
	return v.batch(log), false
}

// Parted reports that the stream was let go without an end: what Take has called the end is none, and the connection
// should break, so that its reader comes again.
func (v *Viewer) Parted() bool {
	v.stream.mu.Lock()
	defer v.stream.mu.Unlock()
	return v.stream.parted
}

// Pending reports whether the next Take will find something.
func (v *Viewer) Pending() bool {
	v.stream.mu.Lock()
	defer v.stream.mu.Unlock()
	return v.next < len(v.stream.log.entries)
}

// batch takes what is past the cursor in log, which is something.
func (v *Viewer) batch(log view) Batch {
	b := Batch{Live: !v.late, Read: time.Unix(0, log.entries[v.next].at)}
	if !v.exact && (v.late || log.pending(v.next, paceWindow) >= paceWindow) {
		if cap(v.merged) > maxRun {
			v.merged = nil // a viewer that was far behind once does not keep what that took
		}
		v.pieces, v.merged, b.Events, b.Coalesced = log.merged(v.next, v.pieces[:0], v.merged[:0])
	} else {
		frames, n := log.run(v.next)
		v.pieces = append(v.pieces[:0], frames)
		b.Events = n
	}
	b.Pieces = v.pieces
	v.next += b.Events
	return b
}

// pushed writes what came to a viewer whose turn the stream's reader has taken, and gives the turn back: to waiting, or
// to the viewer's goroutine if there is more to do.
func (v *Viewer) pushed() {
	s := v.stream
	s.mu.Lock()
	log, gone := s.log.view(), v.gone
	s.mu.Unlock()
	if gone {
		return
	}
	ok := true
	for ok && v.next < len(log.entries) { // more than once where they don't lie side by side
		ok = v.push(v.batch(log))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v.returnTurnLocked()
	// The end is the viewer's own to write, once the stream is accounted: then it will be woken.
	if !ok || s.accounted || v.interrupted || v.next < len(s.log.entries) {
		s.wakeLocked(v)
	}
}

// returnTurnLocked ends the reader's turn, if it is.
func (v *Viewer) returnTurnLocked() {
	if v.turn == turnReader {
		v.turn = turnWaiting
	}
}

// Claim takes the turn to write, say a ping, without there being an event. It is false if the viewer is being written to
// or about to be woken; if it is true, Take must follow.
func (v *Viewer) Claim() bool {
	s := v.stream
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.turn != turnWaiting {
		return false
	}
	v.turn = turnOwn
	return true
}

// Interrupt wakes the viewer as soon as nobody writes to it, whether there is anything new or not, and each time after
// it has waited again.
func (v *Viewer) Interrupt() {
	v.stream.mu.Lock()
	defer v.stream.mu.Unlock()
	v.interrupted = true
	v.stream.wakeLocked(v)
}

// Wake receives a value when it is the viewer's turn, after Take has found nothing, unless OnWake has been told whom to
// call instead.
func (v *Viewer) Wake() <-chan struct{} { return v.wake }

// Detach ends the viewer. It must be called exactly once. A push that has begun may still be going on when it returns.
func (v *Viewer) Detach(reason EndReason) {
	v.stream.detach(v)
	v.stream.relay.metrics.ViewerEnded(string(reason))
}

// ErrTooManyViewers is the owner's viewers_per_stream.
var ErrTooManyViewers = errors.New("this stream has as many viewers as the plan allows")

// Attach adds a viewer after the cursor: an id of this log as the viewer saw it last, or empty. With exact, nothing is
// ever merged for it. If resume is ResumeDone there is no viewer. If it is ResumeResync, reason says why.
func (s *Stream) Attach(cursor string, exact bool) (v *Viewer, resume Resume, reason string, err error) {
	s.relay.viewerAttached()
	if v, resume, reason, err = s.attach(cursor, exact); v == nil {
		s.relay.viewerDetached(s)
	} else {
		s.relay.metrics.ViewerAttached()
	}
	if err == nil && resume != ResumeNone {
		s.relay.metrics.Resumed(string(resume))
	}
	return v, resume, reason, err
}

func (s *Stream) attach(cursor string, exact bool) (v *Viewer, resume Resume, reason string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.parted {
		return nil, ResumeNone, "", ErrDraining
	}
	next := 0
	if cursor != "" {
		resume = ResumeExact
		if next, reason = s.log.locate(cursor, s.attempt); reason != "" {
			resume = ResumeResync
		} else if next == len(s.log.entries) && s.ended {
			return nil, ResumeDone, "", nil
		}
	}
	if s.maxViewers > 0 && len(s.viewers) >= s.maxViewers {
		return nil, ResumeNone, "", ErrTooManyViewers
	}
	v = &Viewer{stream: s, next: next, exact: exact, late: next < len(s.log.entries), wake: make(chan struct{}, 1), slot: len(s.viewers)}
	s.viewers = append(s.viewers, v)
	if s.abandon != nil {
		s.abandon.Stop()
	}
	return v, resume, reason, nil
}

func (s *Stream) detach(v *Viewer) {
	s.mu.Lock()
	last := len(s.viewers) - 1
	s.viewers[v.slot] = s.viewers[last]
	s.viewers[v.slot].slot = v.slot
	s.viewers[last] = nil
	s.viewers = s.viewers[:last]
	v.gone = true
	s.unwatchedLocked()
	s.mu.Unlock()
	s.leaveQueue()
	s.relay.viewerDetached(s)
}

// Resume is what an attach has met.
type Resume string

// The kinds of sluice_resumes_total, and none for an attach without a cursor.
const (
	ResumeNone   Resume = ""
	ResumeExact  Resume = "exact"  // the events after the cursor follow
	ResumeResync Resume = "resync" // the cursor is not of this log: all events follow
	ResumeDone   Resume = "done"   // the cursor is at the end of a stream that has ended: nothing follows
	ResumeLost   Resume = "lost"   // this process has no such stream any more
)

// Reasons of a resync.
const (
	UnknownCursor = "unknown_cursor"
	NewAttempt    = "new_attempt"
)

// locate finds the event after a cursor: its index, or why the cursor is not one of this log. Ids are n in a stream's
// first attempt and a.n in attempt a, without leading zeros; nothing else is a cursor.
func (l *eventLog) locate(cursor string, attempt int) (next int, reason string) {
	a, n := 1, 0
	first, second, dotted := strings.Cut(cursor, ".")
	var ok bool
	if dotted {
		var okA bool
		a, okA = number(first)
		n, ok = number(second)
		ok = ok && okA && a >= 2
	} else {
		n, ok = number(first)
	}
	switch {
	case !ok:
		return 0, UnknownCursor
	case a < attempt:
		return 0, NewAttempt
	case a > attempt || n > len(l.entries):
		return 0, UnknownCursor
	}
	return n, ""
}

func number(s string) (int, bool) {
	if len(s) == 0 || len(s) > 9 || s[0] < '1' || s[0] > '9' {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil
}
