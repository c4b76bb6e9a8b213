package claude

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// Handler gets the events of one answer as they arrive: Begin once, Event for each, Flush after some, End once, one call
// at a time and in this order. The calls come on the connection's own goroutine, which many streams may share: none may block.
type Handler interface {
	// Begin gets the header of the upstream's answer. The first Event follows at once.
	Begin(header http.Header)

	// Event gets the next event that is relayed: pings of the upstream are counted as life and left out, as are
	// Vertex's own. It is valid during the call. An error event is the last; its data is always an object of Anthropic's
	// shape. Where Event returns false nothing but a Flush follows, not even End.
	Event(Event) bool

	// Flush says that the next Event may be long in coming: what has arrived is handed on.
	Flush()

	// End is nil after message_stop or error, once the connection is free again, which is soon. Else it is why there
	// was neither: an *Error, or the cause of the caller's context as it is.
	End(err error)
}

// stream is one answer on its way to its handler.
//
// The documented grammar (message_start, blocks, message_delta, message_stop) is kept tolerantly: blocks may be empty,
// open, interleaved or unknown. What is not accepted is a second message_start, an end without message_stop or error,
// an event over MaxEvent, and silence.
type stream struct {
	header  http.Header
	handler Handler
	ctx     context.Context
	cancel  context.CancelCauseFunc
	watch   *watch
	log     *slog.Logger

	opened   func(error)    // is told when the handler has its first event, or why it gets none
	err      error          // that
	head     []byte         // the first bytes, until they tell whether they are compressed
	sniffed  bool           // they have
	zip      *io.PipeWriter // to the goroutine that decompresses; nil: nothing is compressed
	events   decoder
	emit     func(name, data []byte) bool // is event, made once
	arrived  time.Time                    // when the first bytes since the last Flush did; zero: none have
	read     time.Time                    // when the bytes at hand arrived
	isOpen   bool                         // opened was called
	began    bool                         // a message_start was seen
	complete bool                         // the last event is with the handler, which still waits for the body's end
	over     bool                         // nothing more is relayed
}

func newStream(ctx context.Context, cancel context.CancelCauseFunc, w *watch, log *slog.Logger, header http.Header, h Handler, opened func(error)) *stream {
	s := &stream{header: header, handler: h, ctx: ctx, cancel: cancel, watch: w, log: log, opened: opened}
	s.emit = s.event
	return s
}

// Data gets the bytes of the body as they arrive.
func (s *stream) Data(chunk []byte) {
	defer s.failOnPanic()
	if s.arrived.IsZero() { // what one reading of the connection brings has arrived together
		s.arrived = s.watch.alive()
	}
	if !s.sniffed {
		if s.head != nil || len(chunk) < len(gzipMagic) {
			s.head = append(s.head, chunk...)
			chunk = s.head
		}
		if len(chunk) < len(gzipMagic) {
			return
		}
		s.sniff(chunk)
	}
	if s.zip != nil {
		s.zip.Write(chunk)
		return
	}
	s.read = s.arrived
	s.feed(chunk)
}

// End says that the body is over: whole, or broken by err.
func (s *stream) End(err error) {
	defer s.failOnPanic()
	if !s.sniffed {
		s.feed(s.head) // too short for anything
	}
	if s.zip != nil {
		s.zip.CloseWithError(err) // nil is io.EOF
		return
	}
	s.flush()
	s.finish(err)
}

const gzipMagic = "\x1f\x8b"

// sniff looks at the first bytes. Gzip without its header has been reported of intermediaries (CLIProxyAPI#1834); no
// event stream begins with 1f 8b. It is decompressed by a goroutine of its own.
func (s *stream) sniff(head []byte) {
	s.head, s.sniffed = nil, true
	if bytes.HasPrefix(head, []byte(gzipMagic)) {
		var r *io.PipeReader
		r, s.zip = io.Pipe()
		go s.inflate(r)
	}
}

func (s *stream) inflate(r *io.PipeReader) {
	defer s.failOnPanic()
	defer r.CloseWithError(errEnded)
	z, err := gzip.NewReader(r)
	b := make([]byte, 4<<10)
	for err == nil && !s.over {
		var n int
		n, err = z.Read(b)
		s.read = time.Now()
		s.feed(b[:n])
		s.flush()
	}
	if err == io.EOF {
		err = nil
	}
	if s.over {
		io.Copy(io.Discard, r) // so that the connection can be used again
	}
	s.finish(err)
}

// feed decodes bytes and hands on the events that they complete.
func (s *stream) feed(chunk []byte) {
	if s.over {
		return
	}
	if err := s.events.feed(chunk, s.emit); err != nil {
		s.fail(err)
	}
}

// Flush says that what has arrived has been handed on.
func (s *stream) Flush() {
	defer s.failOnPanic()
	s.arrived = time.Time{}
	if s.zip == nil { // else that is not known here
		s.flush()
	}
}

func (s *stream) flush() {
	if s.isOpen {
		s.handler.Flush()
	}
}

// event checks one event and hands it on.
func (s *stream) event(name, data []byte) (more bool) {
	if len(name) == 0 {
		name = typeField(data)
	}
	e := Event{Kind: KindOf(name), Name: name, Data: data, Read: s.read}
	last := false
	switch e.Kind {
	case Ping, vertex:
		return true
	case MessageStart:
		if s.began {
			s.fail(errSpliced)
			return false
		}
		s.began = true
	case MessageStop:
		last = true
	case Failure:
		last = true
		if _, _, ok := ParseError(e.Data); !ok {
			e.Data = ErrorObject(APIError, "The upstream reported an error that is not in the Claude API's shape.", s.header.Get("Request-Id"))
		}
		if !s.isOpen {
			s.err = firstEventError(bytes.Clone(e.Data), s.header)
			s.stop()
			return false
		}
	}
	first := !s.isOpen
	if first {
		s.handler.Begin(s.header)
	}
	wanted := s.handler.Event(e)
	switch {
	case last:
		s.complete = wanted
		s.stop()
	case !wanted:
		s.over = true
		s.cancel(errEnded)
	}
	if first {
		s.open()
	}
	return wanted && !last
}

func (s *stream) open() {
	s.isOpen = true
	s.opened(s.err)
}

// stop is the end of what is relayed. The body has finishTime for its own.
func (s *stream) stop() {
	s.over = true
	s.watch.finish()
}

// finish is the end of the body.
func (s *stream) finish(err error) {
	switch {
	case s.complete:
		s.handler.End(nil)
	case !s.over && err == nil:
		s.fail(errTruncated)
	case !s.over:
		s.fail(err)
	}
	s.watch.stop()
	s.cancel(errEnded)
	if !s.isOpen {
		s.open()
	}
}

// fail ends what is not complete.
func (s *stream) fail(err error) {
	s.over = true
	failure := s.failure(err)
	defer s.cancel(errEnded)
	if s.isOpen {
		s.handler.End(failure)
		return
	}
	s.err = failure
	var e *Error
	if errors.As(failure, &e) && context.Cause(s.ctx) == nil && e.Status == http.StatusBadGateway && !errors.Is(err, errTooLarge) {
		e.Message = "The upstream answered with an empty stream."
		e.Cause = fmt.Errorf("%w: %w", errConnection, e.Cause)
	}
	s.open()
}

// failOnPanic ends the stream if its goroutine panics: one stream's failure is neither the connection's nor the process's.
func (s *stream) failOnPanic() {
	p := recover()
	if p == nil {
		return
	}
	s.log.Error("stream failed by a defect", "panic", p, "stack", string(debug.Stack()))
	if !s.over {
		s.fail(&Error{Type: APIError, Status: http.StatusInternalServerError, Message: "The gateway failed.", Cause: fmt.Errorf("panic: %v", p)})
	}
}

// failure says why no further event comes.
func (s *stream) failure(err error) error {
	if cause := context.Cause(s.ctx); cause != nil {
		if cause == errSilent {
			return broken(errSilent)
		}
		return cause
	}
	if e := (*Error)(nil); errors.As(err, &e) {
		return e
	}
	return broken(err)
}

// typeField is data.type, for a block without an event: line. Nil where there is none.
func typeField(data []byte) []byte {
	v := member(data, "type")
	if len(v) < 2 || v[0] != '"' {
		return nil
	}
	if v = v[1 : len(v)-1]; bytes.ContainsAny(v, "\\") {
		return nil
	}
	return v
}

// finishTime is how long a body whose message is complete has to end, so that the connection can be used again. Its end
// arrives with the last event, or right after.
const finishTime = 100 * time.Millisecond

// watch cancels with errSilent when no byte has arrived for limit. The hot path only stores a time; the timer looks at
// it when it fires.
type watch struct {
	begun  time.Time
	last   atomic.Int64 // when bytes last arrived, in nanoseconds after begun
	limit  time.Duration
	cancel context.CancelCauseFunc

	mu        sync.Mutex
	timer     *time.Timer
	finishing bool // the message is complete, only the body isn't
	over      bool
}

func startWatch(limit time.Duration, cancel context.CancelCauseFunc) *watch {
	w := &watch{begun: time.Now(), limit: limit, cancel: cancel}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(limit, w.look)
	return w
}

// alive notes that bytes have arrived, and returns when.
func (w *watch) alive() time.Time {
	now := time.Now()
	w.last.Store(int64(now.Sub(w.begun)))
	return now
}

func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	if w.finishing {
		w.cancel(errEnded)
		return
	}
	if left := w.limit - time.Since(w.begun.Add(time.Duration(w.last.Load()))); left > 0 {
		w.timer.Reset(left)
		return
	}
	w.cancel(errSilent)
}

func (w *watch) finish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		w.finishing = true
		w.timer.Reset(finishTime)
	}
}

func (w *watch) stop() {
	w.mu.Lock()
	w.over = true
	w.timer.Stop()
	w.mu.Unlock()
}
