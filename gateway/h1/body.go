package h1

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
)

// Sink takes a body as it arrives: Data gets the next bytes, Flush says after one or more that nothing more has arrived so
// far, End comes once, after the last Data: there need be no Flush before it. It is nil if the body is whole. All come on a
// goroutine that reads for many answers, and must not block.
type Sink = interface {
	Data(p []byte)
	Flush()
	End(err error)
}

// Body is an answer's body: it is read, or it is pushed.
type Body struct {
	conn    *conn
	reuse   bool      // the connection is free after it
	framing framing   // how its end is told
	inner   io.Reader // net/http's, while it is read
	reader  *bufio.Reader

	handing  sync.Mutex // held while it is not known whether the body of a promised answer will be read
	early    *early     // what came with a promised header; nil: it is in the reader
	arriving bool       // the connection's sink is the promise, which hands on what comes

	mu     sync.Mutex
	sink   Sink
	over   bool
	err    error
	unbind func() bool // from the request's context
}

func newBody(c *conn, r *bufio.Reader, resp *http.Response) *Body {
	b := &Body{conn: c, reader: r, inner: resp.Body, reuse: !resp.Close}
	switch {
	case len(resp.TransferEncoding) > 0: // chunked; ReadResponse takes nothing else
		b.framing.chunked = true
	case resp.ContentLength >= 0:
		b.framing.left = resp.ContentLength
	default:
		b.framing.toEOF = true
	}
	if resp.Request.Method == http.MethodHead || resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified {
		b.framing = framing{}
	}
	return b
}

// bind ends the body with the request's context.
func (b *Body) bind(ctx context.Context) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unbind = context.AfterFunc(ctx, func() { b.end(context.Cause(ctx), false) })
}

// Push hands the rest of the body to a sink, as it comes. It must not be called twice, nor beside Read.
func (b *Body) Push(s Sink) {
	b.mu.Lock()
	b.sink = s
	over := b.over
	if over {
		s.End(b.err)
	} else {
		rest, _ := b.reader.Peek(b.reader.Buffered()) // what came with the header
		if b.early != nil {
			rest = append(rest[:len(rest):len(rest)], b.early.rest...)
		}
		over = b.take(rest)
		b.free()
	}
	b.mu.Unlock()
	if !over && !b.arriving {
		b.conn.nc.Push((*arrival)(b)) // which may have something at once
	}
}

// early is what came with a header, and then the connection.
type early struct {
	rest []byte
	conn io.Reader
}

func (e *early) Read(p []byte) (int, error) {
	if len(e.rest) == 0 {
		return e.conn.Read(p)
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

// arrival is a body as its connection sees it.
type arrival Body

// Data gets what has arrived.
func (a *arrival) Data(p []byte) {
	b := (*Body)(a)
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.over {
		b.take(p)
	}
}

// End is the connection's end.
func (a *arrival) End(err error) {
	b := (*Body)(a)
	switch {
	case err != io.EOF:
	case b.framing.toEOF:
		err = nil
	default:
		err = io.ErrUnexpectedEOF
	}
	b.end(err, false)
}

// take hands on what has arrived, and reports whether the body is over.
func (b *Body) take(p []byte) bool {
	for len(p) > 0 || b.framing.done() {
		if b.framing.done() {
			b.endLocked(nil, b.reuse && len(p) == 0)
			return true
		}
		data, rest, err := b.framing.next(p)
		if len(data) > 0 {
			b.sink.Data(data)
			if b.over {
				return true
			}
		}
		if err != nil {
			b.endLocked(err, false)
			return true
		}
		p = rest
	}
	b.sink.Flush()
	return false
}

// end ends the body, once.
func (b *Body) end(err error, keep bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.endLocked(err, keep)
}

func (b *Body) endLocked(err error, keep bool) {
	if b.over {
		return
	}
	b.over, b.err = true, err
	if b.unbind != nil && !b.unbind() {
		keep = false // the context is over, and interrupts the connection
	}
	b.conn.nc.Push(nil)
	if keep {
		b.conn.transport.keep(b.conn)
	} else {
		b.conn.nc.Close()
	}
	if b.sink != nil {
		b.sink.End(err)
	}
}

// free gives back the buffer that the header came in.
func (b *Body) free() {
	b.reader.Reset(nil)
	readers.Put(b.reader)
	b.reader, b.inner, b.early = nil, nil, nil
}

var errClosed = errors.New("the body was closed")

// Read is io.Reader's.
func (b *Body) Read(p []byte) (int, error) {
	b.handing.Lock() // once it is known that the body is read
	inner := b.inner
	b.handing.Unlock()
	if inner == nil {
		return 0, b.failure()
	}
	n, err := inner.Read(p)
	switch err {
	case nil:
	case io.EOF:
		keep := b.reuse && !b.framing.toEOF && b.reader.Buffered() == 0
		b.free()
		b.end(nil, keep)
		return n, io.EOF
	default:
		b.end(err, false)
		err = b.failure() // what has closed the connection, where that is why
	}
	return n, err
}

func (b *Body) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		return io.EOF
	}
	return b.err
}

// Close ends the answer where it has not ended.
func (b *Body) Close() error {
	b.end(errClosed, false)
	return nil
}
