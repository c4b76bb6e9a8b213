package httpapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"sluice/gateway/poll"
)

// errStalled is a reader that has taken no byte for relay.stall_timeout.
var errStalled = errors.New("the reader takes no bytes")

// sink is where a viewer's bytes go: a connection that net/http has handed over, or its ResponseWriter.
type sink interface {
	// write sends the pieces in order, at once. It takes as long as the reader takes bytes.
	write(pieces ...[]byte) error
	// flush writes what is left: the header, as long as nothing followed it, or the rest of a push that did not go through.
	flush() error
	// end says that the response is complete.
	end() error
	// close frees what the sink holds. An end that was not said is a broken response, and is seen as one.
	close()
}

// rawConn is an HTTP/1.1 connection in our own hands. Beside an open stream net/http would keep two buffers of 4 kB, the
// request, a goroutine with a deep stack, and flush through three layers.
type rawConn struct {
	conn  *poll.Conn
	stall time.Duration
	rest  []byte // what is to be written before anything else: the header, or what push could not write
}

var crlf = []byte("\r\n")

// takeOver begins a chunked response on the request's connection and takes the connection from net/http. The header goes
// out with the first bytes that follow, or by flush. It returns nil where that is not possible: HTTP/2, HTTP/1.0, TLS, and
// connections that can't be polled.
func takeOver(c echo.Context, pollers *poll.Pollers, stall time.Duration, events bool) (*rawConn, error) {
	r := c.Request()
	if pollers == nil || r.ProtoMajor != 1 || r.ProtoMinor != 1 || r.TLS != nil {
		return nil, nil
	}
	w := c.Response()
	conn, _, err := http.NewResponseController(w.Writer).Hijack()
	if errors.Is(err, http.ErrNotSupported) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	w.Committed, w.Status = true, http.StatusOK
	if events {
		limitUnsent(conn)
	}
	polled, ok := pollers.Take(conn)
	if !ok {
		conn.Close()
		return nil, errors.New("the connection can't be polled")
	}
	h := w.Header()
	h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	h.Set("Transfer-Encoding", "chunked")
	// The reader is at the end of this connection's use: the gateway doesn't parse requests on it any more.
	h.Set("Connection", "close")
	head := make([]byte, 0, 512)
	head = append(head, "HTTP/1.1 200 OK\r\n"...)
	for name, values := range h {
		for _, value := range values {
			head = appendHeaderValue(append(append(head, name...), ": "...), value)
			head = append(head, crlf...)
		}
	}
	return &rawConn{conn: polled, stall: stall, rest: append(head, crlf...)}, nil
}

// appendHeaderValue keeps a value, some of which come from the upstream, on its line.
func appendHeaderValue(b []byte, v string) []byte {
	for i := range len(v) {
		if c := v[i]; c < ' ' && c != '\t' || c == 0x7f {
			b = append(b, ' ')
		} else {
			b = append(b, c)
		}
	}
	return b
}

// buffers hold chunks on their way, for one write.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

const (
	// maxChunk bounds what a writer holds while its reader takes no bytes. Most chunks are one event of some hundred bytes.
	maxChunk = 16 << 10

	// maxKept is what is kept for the next chunk.
	maxKept = 64 << 10
)

func giveBack(buffer *[]byte) {
	if cap(*buffer) <= maxKept {
		buffers.Put(buffer)
	}
}

func (s *rawConn) write(pieces ...[]byte) error {
	buffer := buffers.Get().(*[]byte)
	defer giveBack(buffer)
	*buffer = append((*buffer)[:0], s.rest...)
	s.rest = nil
	send := func(size int, pieces ...[]byte) error {
		*buffer = appendChunk(*buffer, size, pieces...)
		err := s.send(*buffer)
		*buffer = (*buffer)[:0]
		return err
	}
	for len(pieces) > 0 {
		for large := pieces[0]; len(large) > maxChunk; large = pieces[0] {
			pieces = append([][]byte{large[maxChunk:]}, pieces[1:]...) // a copy: the slice is the caller's
			if err := send(maxChunk, large[:maxChunk]); err != nil {
				return err
			}
		}
		size, n := 0, 0
		for n < len(pieces) && size+len(pieces[n]) <= maxChunk {
			size += len(pieces[n])
			n++
		}
		if err := send(size, pieces[:n]...); err != nil {
			return err
		}
		pieces = pieces[n:]
	}
	return nil
}

func appendChunk(b []byte, size int, pieces ...[]byte) []byte {
	b = append(strconv.AppendInt(b, int64(size), 16), crlf...)
	for _, p := range pieces {
		b = append(b, p...)
	}
	return append(b, crlf...)
}

// push writes the pieces without waiting, and reports whether the connection took them all. What it did not take, flush
// will write.
func (s *rawConn) push(pieces [][]byte) bool {
	size := 0
	for _, p := range pieces {
		size += len(p)
	}
	buffer := buffers.Get().(*[]byte)
	defer giveBack(buffer)
	b := appendChunk((*buffer)[:0], size, pieces...)
	*buffer = b
	n := s.conn.TryWrite(b)
	if n == len(b) {
		return true
	}
	s.rest = bytes.Clone(b[n:])
	return false
}

// flush writes what is left.
func (s *rawConn) flush() error {
	if len(s.rest) == 0 {
		return nil
	}
	rest := s.rest
	s.rest = nil
	return s.send(rest)
}

func (s *rawConn) end() error {
	s.rest = append(s.rest, "0\r\n\r\n"...)
	return s.flush()
}

func (s *rawConn) close() {
	s.conn.Push(nil)
	s.conn.Close()
}

// send writes until all is written or no byte was taken for the stall timeout. That is looked at in quarters.
func (s *rawConn) send(b []byte) error {
	if b = b[s.conn.TryWrite(b):]; len(b) == 0 {
		return nil
	}
	progress := time.Now()
	for {
		s.conn.SetWriteDeadline(time.Now().Add(s.stall / 4))
		n, err := s.conn.Write(b)
		if err == nil {
			return nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		b = b[n:]
		now := time.Now()
		if n > 0 {
			progress = now
		} else if now.Sub(progress) >= s.stall {
			return errStalled
		}
	}
}

// response writes through net/http: HTTP/2, HTTP/1.0, and whatever can't be taken over.
type response struct {
	w     io.Writer
	rc    *http.ResponseController
	ctx   context.Context
	stall time.Duration
	timer *time.Timer
}

// slice is how much is written under one deadline: a reader that takes this much within the stall timeout makes
// progress. With the default of 30 s that is 137 bytes a second.
const slice = 4 << 10

func newResponse(c echo.Context, stall time.Duration, status int) (*response, error) {
	w := c.Response()
	s := &response{w: w, rc: http.NewResponseController(w.Writer), ctx: c.Request().Context(), stall: stall}
	w.WriteHeader(status)
	return s, s.flush()
}

// event is what a viewer has waited for.
type event uint8

const (
	woken event = iota
	gone
	late
)

// wait returns when the viewer was woken, its reader has left, or it is so late.
func (s *response) wait(wake <-chan struct{}, until time.Time) event {
	if s.timer == nil {
		s.timer = time.NewTimer(time.Until(until))
	} else {
		s.timer.Reset(time.Until(until))
	}
	select {
	case <-wake:
		return woken
	case <-s.ctx.Done():
		return gone
	case <-s.timer.C:
		return late
	}
}

func (s *response) write(pieces ...[]byte) error {
	for _, p := range pieces {
		for len(p) > 0 {
			n := min(len(p), slice)
			s.rc.SetWriteDeadline(time.Now().Add(s.stall))
			if _, err := s.w.Write(p[:n]); err != nil {
				return stalled(err)
			}
			p = p[n:]
		}
	}
	return s.flush()
}

func (s *response) flush() error {
	s.rc.SetWriteDeadline(time.Now().Add(s.stall))
	return stalled(s.rc.Flush())
}

func stalled(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errStalled
	}
	return err
}

func (s *response) end() error { return nil }

func (s *response) close() {
	if s.timer != nil {
		s.timer.Stop()
	}
}
