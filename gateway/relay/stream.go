package relay

import (
	"bytes"
	"container/list"
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"sluice/gateway/claude"
	"sluice/gateway/limits"
	"sluice/gateway/metrics"
)

// Status is where a stream is in its life.
type Status string

// The states. All but Queued and InProgress are ends.
const (
	Queued     Status = "queued" // of kept streams only
	InProgress Status = "in_progress"
	Completed  Status = "completed"
	Failed     Status = "failed"
	Canceled   Status = "canceled"
	Abandoned  Status = "abandoned"
)

// errEnded is why a stream's context is canceled.
var errEnded = errors.New("the stream has ended")

// Stream is one answer on its way: a request, a log, an end.
type Stream struct {
	ID       string
	Owner    string // empty: nobody
	Account  string
	Plan     string
	Route    string
	Callback string // where its end is told, by somebody else; empty: nowhere
	Created  time.Time

	relay      *Relay
	abandonIn  time.Duration     // negative: never
	maxViewers int               // 0: no limit
	keep       func(Ending) bool // what its end goes through before anybody sees it; nil: it is not kept
	keepFor    time.Duration     // how long it can be read after its end; 0: as long as the relay has it
	grant      *limits.Grant
	cancel     context.CancelCauseFunc
	opened     chan struct{} // closed when the first event, the refusal or the end is there
	done       chan struct{} // closed when it has ended and is accounted
	element    *list.Element // its place among its owner's streams, nil if it has none; guarded by the relay's lock
	endedPlace *list.Element // and among the ended ones
	key        idempotencyKey
	digest     [32]byte
	expiry     *time.Timer
	forgotten  bool  // no longer in any index; guarded by the relay's lock, as are the next three
	settled    bool  // it has ended and is accounted
	dropped    bool  // its memory has been given back
	charged    int64 // its share of the relay's memory

	mu        sync.Mutex
	log       eventLog
	attempt   int
	waiting   bool // it is announced, and has not begun
	ending    bool // its end is being kept
	parted    bool // it is let go without an end, which ended then does not mean
	viewers   []*Viewer
	begun     time.Time // what its first events are timed from
	lastRead  time.Time
	requestID string // the upstream's
	committed bool   // an answer of 2xx was sent: a refusal becomes an error event
	refusal   error
	ended     bool
	accounted bool // it has ended, and done is closed
	status    Status
	failure   *claude.Error
	endedAt   time.Time
	usage     claude.Usage
	source    string
	model     string
	held      int  // callers whose answers wait for the stream
	queued    bool // it waits for its place at the upstream
	abandon   *time.Timer
	abandonAt time.Time
	hadDelta  bool
	output    meter

	pushing  []*Viewer // the reader's own, as are the next two: the viewers whose turn it has taken
	pacing   bool      // one of them may get merged events
	unpushed int       // bytes that it has not yet pushed to them
}

// Opened is closed once the stream has its first event, was refused or has ended.
func (s *Stream) Opened() <-chan struct{} { return s.opened }

// Commit says that the caller is about to answer with success. It returns the refusal if there already was one; from
// then on a refusal is an error event of the stream.
func (s *Stream) Commit() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refusal == nil {
		s.committed = true
	}
	return s.refusal
}

// Refused reports whether the refusal was an answer of its own, so that for its owner there never was a stream.
func (s *Stream) Refused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refusal != nil
}

// RequestID is the upstream's name for the request; empty before its answer has come.
func (s *Stream) RequestID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requestID
}

// Grant is what the stream was admitted with.
func (s *Stream) Grant() *limits.Grant { return s.grant }

// open opens the upstream, which from the first event on calls the stream's handler. It owns the request.
func (s *Stream) open(ctx context.Context, req claude.Request, retry claude.Retry, queueWait time.Duration) {
	size := int64(len(req.Body))
	req.Place = &place{relay: s.relay, account: s.Account, wait: queueWait, until: retry.Until, stream: s}
	s.relay.client.Open(ctx, req, retry, upstream{s}, func(err error) {
		defer s.failOnPanic(nil)
		s.relay.charge(s, -size)
		if err != nil {
			s.refuse(err)
		}
	})
}

// upstream is the stream as the claude room sees it: it appends what comes until the end. Its calls come on a goroutine
// that other streams may share.
type upstream struct{ stream *Stream }

func (u upstream) Begin(header http.Header) {
	u.stream.mu.Lock()
	u.stream.requestID = header.Get("Request-Id")
	u.stream.mu.Unlock()
}

func (u upstream) Event(e claude.Event) (more bool) {
	defer u.stream.failOnPanic(&u.stream.pushing)
	return u.stream.append(e)
}

func (u upstream) Flush() {
	defer u.stream.failOnPanic(&u.stream.pushing)
	u.stream.push()
}

func (u upstream) End(err error) {
	defer u.stream.failOnPanic(&u.stream.pushing)
	u.stream.push() // what a defect may have left
	if err != nil {
		u.stream.end(Failed, asError(err))
	}
}

// failOnPanic ends the stream if a goroutine of its own panics: one stream's failure is not the process's, and its slot
// must come back. pushing are the viewers whose turns the goroutine has.
func (s *Stream) failOnPanic(pushing *[]*Viewer) {
	p := recover()
	if p == nil {
		return
	}
	s.relay.log.Error("stream failed by a defect", "stream", s.ID, "panic", p, "stack", string(debug.Stack()))
	if pushing != nil {
		s.mu.Lock()
		for _, v := range *pushing {
			v.returnTurnLocked()
			if s.accounted {
				s.wakeLocked(v)
			}
		}
		s.mu.Unlock()
		*pushing = nil
	}
	s.end(Failed, &claude.Error{Type: claude.APIError, Status: http.StatusInternalServerError, Message: "The gateway failed.", Cause: fmt.Errorf("panic: %v", p)})
}

func asError(err error) *claude.Error {
	var e *claude.Error
	if errors.As(err, &e) {
		return e
	}
	var busy *limits.Busy
	if errors.As(err, &busy) {
		return &claude.Error{Type: claude.Overloaded, Status: 529, Message: busy.Error(), Cause: err}
	}
	return &claude.Error{Type: claude.APIError, Status: http.StatusBadGateway, Message: "The stream was broken off.", Cause: err}
}

// append adds one event of the upstream and wakes who waits. It reports whether further ones are wanted.
func (s *Stream) append(e claude.Event) bool {
	if s.unpushed > 0 && s.unpushed+len(e.Name)+len(e.Data) > s.pushSize() {
		s.push()
	}
	a, err := s.appendLocked(e)
	if err != nil {
		s.end(Failed, &claude.Error{Type: claude.APIError, Message: fmt.Sprintf("The answer is larger than %d MB.", MaxLog/1_000_000), Cause: err})
		return false
	}
	if !a.added {
		return false
	}
	s.unpushed += a.size
	m := s.relay.metrics
	if a.first {
		close(s.opened)
	} else {
		m.EventGap(a.gap)
	}
	if a.firstDelta {
		m.FirstEvent(metrics.StageFirstDelta, e.Read.Sub(s.begun))
	}
	if e.Kind == claude.MessageStart {
		m.FirstEvent(metrics.StageMessageStart, e.Read.Sub(s.begun))
	}
	if a.grown > 0 {
		s.relay.charge(s, a.grown)
	}
	if a.ended {
		go s.account(true)
	}
	return !a.ended
}

// appended is what an event was to its stream.
type appended struct {
	added, first, firstDelta, ended bool
	gap                             time.Duration
	grown                           int64
	size                            int
}

func (s *Stream) appendLocked(e claude.Event) (a appended, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.ending {
		return a, nil
	}
	if s.keep != nil && (e.Kind == claude.MessageStop || e.Kind == claude.Failure) {
		s.concludeLocked(lastEvent(e))
		return a, nil
	}
	a.first = len(s.log.entries) == 0
	before := s.log.frames
	if a.grown, err = s.log.append(e.Kind, e.Name, e.Data, e.Read); err != nil {
		return a, err
	}
	a.added = true
	a.size = int(s.log.frames - before)
	a.gap = e.Read.Sub(s.lastRead)
	s.lastRead = e.Read
	a.firstDelta = e.Kind == claude.BlockDelta && !s.hadDelta
	s.hadDelta = s.hadDelta || a.firstDelta
	switch e.Kind {
	case claude.MessageStop:
		s.readyLocked()
		s.endLocked(Completed)
	case claude.Failure:
		kind, message, _ := claude.ParseError(e.Data)
		s.failure = &claude.Error{Type: kind, Message: message, Body: bytes.Clone(e.Data)}
		s.readyLocked()
		s.endLocked(Failed)
	default:
		if e.Kind == claude.MessageStart {
			s.correctInputLocked(e.Data)
		}
		switch {
		case s.log.frames <= s.output.allowed || s.meterLocked():
			s.readyLocked()
		case s.keep != nil:
			s.concludeLocked(s.outranLocked(e.Read))
			s.readyLocked()
		default:
			l := s.outranLocked(e.Read)
			s.failure = l.failure
			grown, _ := s.log.append(claude.Failure, l.name, l.data, l.at)
			a.grown += grown
			s.readyLocked()
			s.endLocked(l.status)
		}
	}
	a.ended = s.ended
	return a, nil
}

// endLocked marks the end; the event that says so is in the log. account must follow, without the lock.
func (s *Stream) endLocked(status Status) {
	s.ended = true
	s.status = status
	s.endedAt = time.Now()
	s.settleLocked()
	if s.abandon != nil {
		s.abandon.Stop()
	}
	for _, v := range s.viewers {
		s.wakeLocked(v)
	}
}

// end ends the stream with an error event, unless it has ended already.
func (s *Stream) end(status Status, e *claude.Error) { s.endIf(func() bool { return true }, status, e) }

// endIf is end if the condition holds under the lock.
func (s *Stream) endIf(holds func() bool, status Status, e *claude.Error) {
	s.mu.Lock()
	if s.ended || s.ending || !holds() {
		s.mu.Unlock()
		return
	}
	if s.keep != nil {
		s.concludeLocked(last{status, e, []byte("error"), e.Event(s.requestID), time.Now()})
		s.mu.Unlock()
		s.cancel(errEnded)
		return
	}
	first := len(s.log.entries) == 0
	s.failure = e
	grown, _ := s.log.append(claude.Failure, []byte("error"), e.Event(s.requestID), time.Now())
	s.endLocked(status)
	s.mu.Unlock()
	if first {
		close(s.opened)
	}
	s.cancel(errEnded)
	s.relay.charge(s, grown)
	go s.account(true)
}

// refuse ends a stream whose upstream never sent an event. As long as nobody was answered it never was: who waits gets
// the refusal, and the relay forgets it.
func (s *Stream) refuse(err error) { s.refuseIf(func() bool { return true }, Failed, err) }

// refuseIf is refuse if the condition holds under the lock.
func (s *Stream) refuseIf(holds func() bool, status Status, err error) {
	s.mu.Lock()
	if s.ended || !holds() {
		s.mu.Unlock()
		return
	}
	if s.committed {
		s.mu.Unlock()
		s.end(status, asError(err))
		return
	}
	s.refusal = err
	s.failure = asError(err)
	// For those who have found it in the owner's list and read it while its caller was still waiting.
	grown, _ := s.log.append(claude.Failure, []byte("error"), s.failure.Event(s.requestID), time.Now())
	s.endLocked(status)
	s.mu.Unlock()
	s.relay.charge(s, grown)
	s.relay.forget(s)
	s.cancel(errEnded)
	s.account(false)
	close(s.opened)
}

// Cancel stops the stream at its owner's wish. Once it has ended this does nothing.
func (s *Stream) Cancel() {
	s.end(Canceled, &claude.Error{Type: claude.Canceled, Message: "The stream was canceled."})
}

// Done is closed when the stream has ended and is accounted.
func (s *Stream) Done() <-chan struct{} { return s.done }

// unwatchedLocked starts the wait for a viewer where there is none.
func (s *Stream) unwatchedLocked() {
	if s.ended || s.watchedLocked() || s.abandonIn < 0 {
		return
	}
	s.abandonAt = time.Now().Add(s.abandonIn)
	if s.abandon == nil {
		s.abandon = time.AfterFunc(s.abandonIn, s.giveUp)
	} else {
		s.abandon.Reset(s.abandonIn)
	}
}

// watchedLocked reports whether anybody reads the stream or waits for its answer.
func (s *Stream) watchedLocked() bool { return len(s.viewers) > 0 || s.held > 0 }

func (s *Stream) giveUp() {
	// A viewer may have come, or come and gone, since the timer fired.
	unwatched := func() bool { return !s.watchedLocked() && !time.Now().Before(s.abandonAt) }
	s.endIf(unwatched, Abandoned, &claude.Error{Type: claude.Canceled, Message: "Nobody was reading the stream any more."})
}

// Answered says that a caller of Start has been answered, or has left. Until then it counts as somebody who waits for
// the stream; it must be called once for each Start.
func (s *Stream) Answered() {
	s.mu.Lock()
	s.held--
	s.unwatchedLocked()
	s.mu.Unlock()
	s.leaveQueue()
}
