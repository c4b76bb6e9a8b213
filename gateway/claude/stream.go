package claude

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"sync"
	"time"
)

// Stream is one answer as it arrives. Next and Close belong to one goroutine; canceling the context it was opened with
// ends it from any other.
type Stream struct {
	Header http.Header // of the upstream's answer
	events *decoder
	body   io.Closer
	ctx    context.Context
	stop   func() // ends the silence watch and frees the context
	first  *Event // read while opening, not yet returned

	began  bool  // a message_start was seen
	ended  bool  // message_stop or error was seen
	failed error // why nothing more comes, where it was neither
}

// Next returns the next event that is relayed: pings of the upstream are counted as life and left out, as are Vertex's
// own. An error event ends the stream; its data is always an object of Anthropic's shape. After message_stop or error
// Next returns io.EOF.
//
// The documented grammar (message_start, blocks, message_delta, message_stop) is kept tolerantly: blocks may be empty, open, interleaved or unknown. What is not
// accepted, and returned as *Error, is a second message_start, an end without message_stop or error, an event over
// MaxEvent and silence. If the context was canceled, its cause is returned as it is. After an error the same error comes
// again: what follows a splice or an event too large belongs to no message.
func (s *Stream) Next() (Event, error) {
	if s.first != nil {
		e := *s.first
		s.first = nil
		return e, nil
	}
	if s.ended {
		return Event{}, io.EOF
	}
	if s.failed != nil {
		return Event{}, s.failed
	}
	for {
		name, data, err := s.events.next()
		if err != nil {
			s.failed = s.failure(err)
			return Event{}, s.failed
		}
		if len(name) == 0 {
			name = typeField(data)
		}
		e := Event{Kind: names[string(name)], Name: name, Data: data, Read: s.events.source.lastRead()}
		switch e.Kind {
		case Ping, vertex:
			continue
		case MessageStart:
			if s.began {
				s.failed = broken(errSpliced)
				return Event{}, s.failed
			}
			s.began = true
		case MessageStop:
			s.ended = true
		case Failure:
			s.ended = true
			if _, _, ok := ParseError(e.Data); !ok {
				e.Data = ErrorObject(APIError, "The upstream reported an error that is not in the Claude API's shape.", s.Header.Get("Request-Id"))
			}
		}
		return e, nil
	}
}

// failure says why no further event comes.
func (s *Stream) failure(err error) error {
	if cause := context.Cause(s.ctx); cause != nil {
		if cause == errSilent {
			return broken(errSilent)
		}
		return cause
	}
	if err == io.EOF {
		err = errTruncated
	}
	return broken(err)
}

// finishTime is how long Close waits for the end of a body whose message is complete, so that the connection can be used
// again. It arrives with the last event, or right after.
const finishTime = 100 * time.Millisecond

// Close frees the stream. It may be called more than once.
func (s *Stream) Close() {
	if s.ended && s.ctx.Err() == nil {
		t := time.AfterFunc(finishTime, s.stop)
		io.CopyN(io.Discard, s.events.source, MaxEvent)
		t.Stop()
	}
	s.stop()
	s.body.Close()
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

// watch cancels with errSilent when no byte has arrived for limit. The hot path only stores a time; the timer looks at
// it when it fires.
type watch struct {
	mu     sync.Mutex
	timer  *time.Timer
	source *source // nil until the answer's headers have come
	begun  time.Time
	limit  time.Duration
	cancel context.CancelCauseFunc
	over   bool
}

func startWatch(limit time.Duration, cancel context.CancelCauseFunc) *watch {
	w := &watch{begun: time.Now(), limit: limit, cancel: cancel}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(limit, w.look)
	return w
}

func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := w.begun
	if w.source != nil {
		last = w.source.lastRead()
	}
	if w.over {
		return
	}
	if left := w.limit - time.Since(last); left > 0 {
		w.timer.Reset(left)
		return
	}
	w.cancel(errSilent)
}

func (w *watch) follow(s *source) {
	w.mu.Lock()
	w.source = s
	w.mu.Unlock()
}

func (w *watch) stop() {
	w.mu.Lock()
	w.over = true
	w.timer.Stop()
	w.mu.Unlock()
}
