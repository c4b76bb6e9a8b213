package h2

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"

	"golang.org/x/net/http2"
)

// Sink takes a body as it arrives.
//
// Data gets the next bytes. They are valid during the call, which must not block, panic or call the body: it comes on the
// goroutine that reads for all answers of the connection. The same holds for Flush, which says after one or more Data that
// nothing more has arrived so far, and for End, which comes once, after the last Data: there need be no Flush before it. It
// is nil if the body is whole.
type Sink = interface {
	Data(p []byte)
	Flush()
	End(err error)
}

// answer is a request's other half: from the request's end to the end of its body.
type answer struct {
	conn *conn
	id   uint32
	head bool // no body comes
	req  *http.Request
	got  func(*http.Response, error) // gets the header, or what came instead, once; on the reader, or on whoever cancels

	window  int64 // how much of the request the server takes; guarded by the connection's lock, as are the next three
	unsent  bool  // the request is not at its end
	refused bool  // the server has answered that it wants none
	gone    bool  // from the connection

	mu       sync.Mutex
	ready    sync.Cond // something has arrived, or the end has
	sink     Sink
	touched  bool   // the sink has had something since its last Flush
	buffer   []byte // what has arrived and nobody has taken
	taken    int64  // what was taken since the window was last moved
	received int64
	length   int64 // what it says that it has; -1: it says nothing
	answered bool  // the header has been there; only the reader changes it
	over     bool
	err      error
	unbind   func() bool // from the request's context
	handled  bool        // the sink has been told of the end
}

// bind ends the answer with a context.
func (a *answer) bind(ctx context.Context) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.over {
		a.unbind = context.AfterFunc(ctx, func() { a.cancel(context.Cause(ctx)) })
	}
}

// begin is the answer's header. It is the reader's, as are data and, but for a cancel, end.
func (a *answer) begin(resp *http.Response) {
	a.mu.Lock()
	if a.over {
		a.mu.Unlock()
		return
	}
	resp.Body, resp.Request = &Body{a}, a.req
	a.length = resp.ContentLength
	if a.head || resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified {
		a.length = 0 // the length is of a body that does not come
	}
	a.answered = true
	a.req = nil
	got := a.got
	a.got = nil
	a.mu.Unlock()
	got(resp, nil)
}

var (
	errTooFast = errors.New("the server sends more than it may")
	errEarly   = errors.New("the answer's body came before its header")
)

func (a *answer) data(p []byte, size int64) error {
	if !a.answered {
		return errEarly
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over {
		return nil
	}
	a.received += int64(len(p))
	if a.length >= 0 && a.received > a.length {
		return errShort
	}
	padding := size - int64(len(p))
	if a.sink != nil {
		a.sink.Data(p)
		a.giveBack(size)
		if !a.touched {
			a.touched = true
			a.conn.touched = append(a.conn.touched, a)
		}
		return nil
	}
	if len(a.buffer)+len(p) > answerWindow {
		return errTooFast
	}
	a.buffer = append(a.buffer, p...)
	a.giveBack(padding)
	a.ready.Broadcast()
	return nil
}

// flush tells the sinks of what was read that this was all so far.
func (c *conn) flush() {
	for i, a := range c.touched {
		a.mu.Lock()
		a.touched = false
		if !a.over {
			a.sink.Flush()
		}
		a.mu.Unlock()
		c.touched[i] = nil
	}
	c.touched = c.touched[:0]
}

// giveBack lets the server send as much again. It says so seldom: most answers are smaller than half of the window.
func (a *answer) giveBack(n int64) {
	if a.taken += n; a.taken < answerWindow/2 || a.over {
		return
	}
	back := uint32(a.taken)
	a.taken = 0
	a.conn.say(func() error { return a.conn.framer.WriteWindowUpdate(a.id, back) })
}

// end is the answer's end, once; later ones change nothing.
func (a *answer) end(err error) {
	a.mu.Lock()
	if a.over {
		a.mu.Unlock()
		return
	}
	a.over = true
	if err == nil && a.answered && a.length >= 0 && a.received != a.length {
		err = errShort
	}
	a.err = err
	got := a.got
	a.got = nil
	if got != nil && a.err == nil {
		a.err = io.ErrUnexpectedEOF
	}
	err = a.err
	if a.unbind != nil {
		a.unbind()
	}
	a.ready.Broadcast()
	a.tell()
	a.mu.Unlock()
	if got != nil {
		got(nil, err)
	}
}

// tell tells the sink of the end.
func (a *answer) tell() {
	if a.over && a.sink != nil && !a.handled {
		a.handled = true
		a.sink.End(a.err)
	}
}

// cancel ends an answer that nobody wants any more, at the server too.
func (a *answer) cancel(err error) {
	if !a.conn.forget(a) {
		return
	}
	a.end(err)
	if a.id != 0 {
		a.conn.reset(a.id, http2.ErrCodeCancel)
		a.conn.leave()
	}
}

// Body is an answer's body: it is read, or it is pushed.
type Body struct{ answer *answer }

// Push hands the rest of the body to a sink: what has arrived at once, the rest as it comes, on the connection's reader.
// It must not be called twice, nor beside Read.
func (b *Body) Push(s Sink) {
	a := b.answer
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sink = s
	if len(a.buffer) > 0 {
		s.Data(a.buffer)
		s.Flush()
		a.giveBack(int64(len(a.buffer)))
		a.buffer = nil
	}
	a.tell()
}

// Read is io.Reader's.
func (b *Body) Read(p []byte) (int, error) {
	a := b.answer
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.buffer) == 0 && !a.over {
		a.ready.Wait()
	}
	if len(a.buffer) == 0 {
		if a.err != nil {
			return 0, a.err
		}
		return 0, io.EOF
	}
	n := copy(p, a.buffer)
	if a.buffer = a.buffer[n:]; len(a.buffer) == 0 {
		a.buffer = nil
	}
	a.giveBack(int64(n))
	return n, nil
}

var errClosed = errors.New("the body was closed")

// Close ends the answer where it has not ended.
func (b *Body) Close() error {
	b.answer.cancel(errClosed)
	return nil
}
