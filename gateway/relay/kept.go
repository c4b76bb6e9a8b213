package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime/debug"
	"strconv"
	"time"

	"sluice/gateway/claude"
	"sluice/gateway/limits"
)

// Kept describes a stream that outlives the process: somebody else remembers its request, lets it begin, and keeps its
// end. In the relay it is announced, so that it can be read before it begins; it begins, once or, where it was refused,
// again; and it ends, or is parted with, and then goes on in another process.
type Kept struct {
	ID, Owner, Plan string // the owner's account pays
	Route           string // where it was posted
	Callback        string // where its end is told, by somebody else
	Created         time.Time
	Status          Status            // Queued, or InProgress where an attempt is known to have begun
	Attempt         int               // whose events it will have
	Retention       time.Duration     // how long it can be read after its end
	Keep            func(Ending) bool // see Ending
}

// Ending is how a kept stream is about to end. Nobody sees the end until Keep has returned true: it is kept. With false
// there is no end, and the stream is parted with. Keep may block; it is called once.
type Ending struct {
	Status  Status
	Attempt int
	Failure *claude.Error
	Model   string
	Usage   []byte // JSON, or nil
	Source  string
	At      time.Time
	Log     func() io.Reader // all frames, for Restore; may be called again
}

// Announce makes a kept stream that has not begun, or finds the one that is there already, in whatever state.
func (r *Relay) Announce(k Kept) (*Stream, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.streams[k.ID]; s != nil {
		return s, nil
	}
	if r.draining {
		return nil, ErrDraining
	}
	return r.announceLocked(k)
}

func (r *Relay) announceLocked(k Kept) (*Stream, error) {
	if !r.fitLocked(streamOverhead) {
		return nil, ErrMemory
	}
	plan, _ := r.limits.Plan(k.Plan)
	s := &Stream{ID: k.ID, Owner: k.Owner, Account: k.Owner, Plan: k.Plan, Route: k.Route, Callback: k.Callback, Created: k.Created, relay: r, abandonIn: -1, maxViewers: plan.ViewersPerStream,
		keep: k.Keep, keepFor: k.Retention, cancel: func(error) {}, opened: make(chan struct{}), done: make(chan struct{}),
		status: k.Status, waiting: true, charged: streamOverhead}
	s.attemptLocked(k.Attempt)
	r.enterLocked(s)
	return s, nil
}

// attemptLocked says whose events will come; there are none yet.
func (s *Stream) attemptLocked(attempt int) {
	s.attempt, s.log.prefix, s.output = attempt, "", meter{}
	if attempt > 1 {
		s.log.prefix = strconv.Itoa(attempt) + "."
	}
}

// waitingLocked is the kept streams that have not begun.
func (r *Relay) waitingLocked() (waiting []*Stream) {
	for _, s := range r.streams {
		s.mu.Lock()
		if s.waiting {
			waiting = append(waiting, s)
		}
		s.mu.Unlock()
	}
	return waiting
}

// Beginning is what a kept stream begins with.
type Beginning struct {
	Attempt int
	Grant   *limits.Grant // which the stream takes over
	Request claude.Request
	Retry   claude.Retry
}

// ErrOver is a kept stream that can't begin: it goes on, or its end is being kept, or it has ended.
var ErrOver = errors.New("the stream is over")

// Begin opens the upstream of an announced stream, and returns when the first event is in the log, or the stream has
// ended otherwise. The error is the upstream's refusal, ErrOver or ErrDraining; then it waits on, and may begin again.
// The request's bytes must have been reserved with Reserve; Begin takes them over.
func (s *Stream) Begin(b Beginning) error {
	r, body := s.relay, int64(len(b.Request.Body))
	ctx, cancel := context.WithCancelCause(context.Background())
	if err := s.enter(b, cancel, body); err != nil {
		cancel(errEnded)
		b.Grant.Release()
		return err
	}
	defer s.failOnPanic(nil)
	b.Request.Place = &place{relay: r, account: s.Account, wait: -1}
	opened := make(chan error, 1)
	r.client.Open(ctx, b.Request, b.Retry, upstream{s}, func(err error) { opened <- err })
	err := <-opened
	r.charge(s, -body)
	if err == nil {
		return nil
	}
	s.mu.Lock()
	if s.ended || s.ending {
		s.mu.Unlock()
		return nil
	}
	s.waiting, s.status, s.grant = true, Queued, nil
	s.mu.Unlock()
	cancel(errEnded)
	b.Grant.Release()
	r.metrics.StreamParted()
	r.mu.Lock()
	r.active--
	r.quietLocked()
	draining := r.draining
	r.mu.Unlock()
	if draining {
		s.part()
	}
	return err
}

// enter counts an announced stream among those that go on.
func (s *Stream) enter(b Beginning, cancel context.CancelCauseFunc, body int64) error {
	r := s.relay
	r.mu.Lock()
	defer r.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.waiting || s.ended || s.ending || r.draining {
		r.releaseLocked(body)
		if r.draining {
			return ErrDraining
		}
		return ErrOver
	}
	s.waiting, s.status, s.grant, s.cancel = false, InProgress, b.Grant, cancel
	s.attemptLocked(b.Attempt)
	s.charged += body
	s.begun = time.Now()
	r.active++
	r.metrics.StreamStarted()
	return nil
}

// KeptStreams is the kept streams that have not ended.
func (r *Relay) KeptStreams() (kept []*Stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.streams {
		s.mu.Lock()
		if s.keep != nil && !s.ended {
			kept = append(kept, s)
		}
		s.mu.Unlock()
	}
	return kept
}

// Waiting reports whether the stream is announced, and has not begun in this process.
func (s *Stream) Waiting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting && !s.ended
}

// Fail ends a stream that can't begin.
func (s *Stream) Fail(e *claude.Error) { s.end(Failed, e) }

// Kept reports whether the stream is a kept one.
func (s *Stream) Kept() bool { return s.keep != nil }

// Parted reports whether the stream was let go without an end. Done is closed then, too.
func (s *Stream) Parted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parted
}

// last is an event that ends a stream, kept or outrun.
type last struct {
	status  Status
	failure *claude.Error
	name    []byte
	data    []byte
	at      time.Time
}

func lastEvent(e claude.Event) last {
	l := last{Completed, nil, bytes.Clone(e.Name), bytes.Clone(e.Data), e.Read}
	if e.Kind == claude.Failure {
		kind, message, _ := claude.ParseError(l.data)
		l.status, l.failure = Failed, &claude.Error{Type: kind, Message: message, Body: l.data}
	}
	return l
}

// concludeLocked begins the end of a kept stream. Nothing is appended meanwhile.
func (s *Stream) concludeLocked(l last) {
	s.ending = true
	e := Ending{Status: l.status, Attempt: s.attempt, Failure: l.failure, At: l.at}
	var usage claude.Usage
	e.Model, usage, e.Source, _ = s.measureLocked(l.status)
	e.Usage = usage.Raw
	go s.conclude(l, e, s.log.view())
}

// conclude has the end kept, and then lets it be seen.
func (s *Stream) conclude(l last, e Ending, log view) {
	kept := s.kept(l, e, log)
	s.mu.Lock()
	s.ending = false
	grown := int64(0)
	if kept {
		s.failure = l.failure
		grown, _ = s.log.append(claude.KindOf(l.name), l.name, l.data, l.at)
		s.endLocked(l.status)
		s.endedAt = l.at
	} else {
		s.partLocked()
	}
	s.mu.Unlock()
	s.afterLast(len(log.entries) == 0, grown)
}

// kept is Keep's word.
func (s *Stream) kept(l last, e Ending, log view) (kept bool) {
	defer func() {
		if p := recover(); p != nil {
			s.relay.log.Error("stream could not be kept, by a defect", "stream", s.ID, "panic", p, "stack", string(debug.Stack()))
			kept = false
		}
	}()
	frame, _ := appendFrame(nil, log.prefix, len(log.entries)+1, l.name, l.data, bytes.IndexByte(l.data, '\n') >= 0)
	e.Log = func() io.Reader { return log.reader(frame) }
	return s.keep(e)
}

// part lets go of a kept stream without an end: its upstream is left, its viewers' connections break, and who reads on
// is served by whoever runs it next. One whose end is being kept ends or is parted with soon anyway.
func (s *Stream) part() {
	s.mu.Lock()
	if s.ended || s.ending {
		s.mu.Unlock()
		return
	}
	first := len(s.log.entries) == 0
	s.partLocked()
	s.mu.Unlock()
	s.afterLast(first, 0)
}

func (s *Stream) partLocked() {
	s.parted = true
	s.endLocked(s.status)
}

func (s *Stream) afterLast(first bool, grown int64) {
	if first {
		close(s.opened)
	}
	s.cancel(errEnded)
	s.relay.charge(s, grown)
	if s.Parted() {
		s.relay.forget(s)
	}
	s.account(false)
}

// Ended is the end of a kept stream, as its Ending was.
type Ended struct {
	Status  Status
	Failure *claude.Error
	At      time.Time
	Log     []byte // what Ending.Log has yielded; the relay keeps it
}

// Restore makes a kept stream that has ended elsewhere. One that waits for its beginning here ends with it, and its
// viewers get the whole.
func (r *Relay) Restore(k Kept, e Ended) (*Stream, error) {
	log, err := readLog(e.Log)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.fitLocked(streamOverhead + log.memory) {
		return nil, ErrMemory
	}
	s := r.streams[k.ID]
	if s == nil {
		if s, err = r.announceLocked(k); err != nil {
			return nil, err
		}
	}
	if s.adopt(k.Attempt, e, log) {
		s.charged += log.memory
		r.takeLocked(log.memory)
		r.retainLocked(s)
	}
	return s, nil
}

// adopt ends a stream that waits for its beginning.
func (s *Stream) adopt(attempt int, e Ended, log eventLog) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.waiting || s.ended || s.ending {
		return false
	}
	s.attempt, s.log, s.failure = attempt, log, e.Failure
	s.endLocked(e.Status)
	s.endedAt = e.At
	s.accounted = true
	close(s.opened)
	close(s.done)
	return true
}

// reader reads all frames, and then another one.
func (v view) reader(after []byte) io.Reader {
	var runs []io.Reader
	for i := 0; i < len(v.entries); {
		frames, n := v.run(i)
		runs, i = append(runs, bytes.NewReader(frames)), i+n
	}
	return io.MultiReader(append(runs, bytes.NewReader(after))...)
}

var errNoLog = errors.New("these are not the frames of a stream")

// readLog makes a log of frames as append has rendered them, which it keeps.
func readLog(frames []byte) (l eventLog, err error) {
	l.segments, l.used, l.frames, l.memory = [][]byte{frames}, len(frames), int64(len(frames)), int64(len(frames))
	for at := 0; at < len(frames); {
		rest := frames[at:]
		size := bytes.Index(rest, []byte("\n\n")) + 2
		id, after, ok := bytes.Cut(rest[:max(size, 0)], []byte("\n"))
		id, isID := bytes.CutPrefix(id, []byte("id: "))
		if size < 2 || !ok || !isID {
			return l, errNoLog
		}
		if dot := bytes.IndexByte(id, '.'); len(l.entries) == 0 {
			l.prefix = string(id[:dot+1])
		}
		if string(id) != l.prefix+strconv.Itoa(len(l.entries)+1) {
			return l, errNoLog
		}
		var name []byte
		if value, isName := bytes.CutPrefix(after, []byte("event: ")); isName {
			if name, after, _ = bytes.Cut(value, []byte("\n")); len(name) == 0 {
				return l, errNoLog
			}
		}
		data, ok := bytes.CutPrefix(after, []byte("data: "))
		folds := bytes.Count(data, []byte("\ndata: "))
		if !ok || bytes.Count(data, []byte("\n")) != folds+2 {
			return l, errNoLog
		}
		l.entries = append(l.entries, entry{offset: uint32(at), size: uint32(size), data: uint32(size - len(data)),
			kind: claude.KindOf(name), folded: folds > 0})
		at += size
	}
	l.memory += int64(cap(l.entries)) * entrySize
	return l, nil
}
