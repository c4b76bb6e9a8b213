package httpapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/labstack/echo/v4"

	"sluice/gateway/relay"
)

// errStalled is a reader that has taken no byte for relay.stall_timeout.
var errStalled = errors.New("the reader takes no bytes")

// sink is where a viewer's bytes go: a connection that net/http has handed over, or its ResponseWriter.
type sink interface {
	// write sends the pieces in order, at once. It takes as long as the reader takes bytes.
	write(pieces ...[]byte) error
	// flush writes what is left: the header, as long as nothing followed it, or the rest of a push that did not go through.
	flush() error
	// attend lets wait know of the viewer's wakes. It comes before the viewer's first Take.
	attend(v *relay.Viewer)
	// wait returns when the viewer was woken, its reader has left, or it is so late; after a wake that may come once for
	// nothing.
	wait(until time.Time) event
	// end says that the response is complete.
	end() error
	// close frees what the sink holds. An end that was not said is a broken response, and is seen as one.
	close()
}

// event is what a viewer has waited for.
type event uint8

const (
	woken event = iota
	gone
	late
)

// rawConn is an HTTP/1.1 connection in our own hands. Beside an open stream net/http would keep two buffers of 4 kB, the
// request and a deep stack, and flush through three layers.
type rawConn struct {
	conn     net.Conn
	stall    time.Duration
	deadline time.Time // of the connection's writes; zero: none
	woken    atomic.Bool
	ignored  [32]byte // where what the reader still sends is read to
	vector   net.Buffers
	parts    [][]byte // what vector is cut from
	head     [18]byte // the chunk's size, CRLF

	raw  syscall.RawConn // nil where push can't be had
	try  func(fd uintptr) bool
	out  []byte // what try is to write
	sent int    // and how much it has
	rest []byte // what is to be written before anything else: the header, or what push could not write
}

var crlf = []byte("\r\n")

// takeOver begins a chunked response on the request's connection and takes the connection from net/http. The header goes
// out with the first bytes that follow, or by flush. It returns nil where that is not possible: HTTP/2, HTTP/1.0, TLS.
func takeOver(c echo.Context, stall time.Duration, events bool) (*rawConn, error) {
	r := c.Request()
	if r.ProtoMajor != 1 || r.ProtoMinor != 1 || r.TLS != nil {
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
	s := &rawConn{conn: conn, stall: stall}
	if tcp, ok := conn.(*net.TCPConn); ok {
		if s.raw, err = tcp.SyscallConn(); err == nil {
			s.try = s.tryWrite
		}
	}
	if events {
		limitUnsent(conn)
	}
	h := w.Header()
	h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	h.Set("Transfer-Encoding", "chunked")
	// The reader is at the end of this connection's use: the gateway doesn't parse requests on it any more.
	h.Set("Connection", "close")
	head := []byte("HTTP/1.1 200 OK\r\n")
	for name, values := range h {
		for _, value := range values {
			head = fmt.Appendf(head, "%s: %s\r\n", name, headerValue(value))
		}
	}
	s.rest = append(head, "\r\n"...)
	return s, nil
}

// headerValue keeps a value, some of which come from the upstream, on its line.
func headerValue(v string) []byte {
	b := []byte(v)
	for i, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			b[i] = ' '
		}
	}
	return b
}

func (s *rawConn) attend(v *relay.Viewer) { v.OnWake(s.wake) }

// past is a deadline that is over.
var past = time.Unix(1, 0)

// wake ends wait. A goroutine that reads, to notice that the reader has left, can wait for nothing but a deadline; a
// second one for each viewer would cost some kilobytes.
func (s *rawConn) wake() {
	s.woken.Store(true)
	s.conn.SetReadDeadline(past)
}

// wait reads meanwhile. Whatever the reader still sends is dropped: a request that was pipelined behind this one would
// not be answered on this connection anyway.
func (s *rawConn) wait(until time.Time) event {
	s.conn.SetReadDeadline(until)
	if s.woken.Swap(false) { // before the deadline was set, which would have hidden it
		return woken
	}
	for {
		_, err := s.conn.Read(s.ignored[:])
		switch {
		case err == nil:
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return gone
		case s.woken.Swap(false):
			return woken
		default:
			return late
		}
	}
}

func (s *rawConn) write(pieces ...[]byte) error {
	size := 0
	for _, p := range pieces {
		size += len(p)
	}
	s.parts = s.parts[:0]
	if len(s.rest) > 0 {
		s.parts, s.rest = append(s.parts, s.rest), nil
	}
	head := append(strconv.AppendInt(s.head[:0], int64(size), 16), '\r', '\n')
	s.parts = append(append(append(s.parts, head), pieces...), crlf)
	return s.send(s.parts...)
}

// pushBuffers hold a frame on its way: the chunk's framing and the pieces in one write.
var pushBuffers = sync.Pool{New: func() any { return new([]byte) }}

// maxPushBuffer is what is kept for the next push: a frame of text is some hundred bytes.
const maxPushBuffer = 64 << 10

// push writes the pieces without waiting, and reports whether the connection took them all. What it did not take, flush
// will write.
func (s *rawConn) push(pieces [][]byte) bool {
	if !s.deadline.IsZero() {
		s.deadline = time.Time{}
		s.conn.SetWriteDeadline(s.deadline)
	}
	buffer := pushBuffers.Get().(*[]byte)
	defer func() {
		if cap(*buffer) <= maxPushBuffer {
			pushBuffers.Put(buffer)
		}
	}()
	size := 0
	for _, p := range pieces {
		size += len(p)
	}
	b := append(strconv.AppendInt((*buffer)[:0], int64(size), 16), '\r', '\n')
	for _, p := range pieces {
		b = append(b, p...)
	}
	b = append(b, crlf...)
	*buffer = b
	s.out, s.sent = b, 0
	s.raw.Write(s.try) // its errors come again when flush writes
	if s.sent == len(b) {
		return true
	}
	s.rest = bytes.Clone(b[s.sent:])
	return false
}

func (s *rawConn) tryWrite(fd uintptr) bool {
	s.sent = max(writeNow(fd, s.out), 0)
	return true
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
	if err := s.flush(); err != nil {
		return err
	}
	return s.send([]byte("0\r\n\r\n"))
}

func (s *rawConn) close() { s.conn.Close() }

// send writes until all is written or no byte was taken for the stall timeout. The deadline is looked at in quarters of
// that, and moved only when a quarter of it is used up: a write that doesn't wait rarely touches it.
func (s *rawConn) send(parts ...[]byte) error {
	quarter := s.stall / 4
	begun := time.Now()
	if s.deadline.Sub(begun) < quarter {
		s.deadline = begun.Add(2 * quarter)
		s.conn.SetWriteDeadline(s.deadline)
	}
	s.vector = parts
	progress := begun
	for {
		n, err := s.vector.WriteTo(s.conn)
		if err == nil {
			return nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		now := time.Now()
		if n > 0 {
			progress = now
		} else if now.Sub(progress) >= s.stall {
			return errStalled
		}
		s.deadline = now.Add(quarter)
		s.conn.SetWriteDeadline(s.deadline)
	}
}

// response writes through net/http: HTTP/2, HTTP/1.0, and whatever can't be taken over.
type response struct {
	w     io.Writer
	rc    *http.ResponseController
	ctx   context.Context
	stall time.Duration
	wake  <-chan struct{}
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

func (s *response) attend(v *relay.Viewer) { s.wake = v.Wake() }

func (s *response) wait(until time.Time) event {
	if s.timer == nil {
		s.timer = time.NewTimer(time.Until(until))
	} else {
		s.timer.Reset(time.Until(until))
	}
	select {
	case <-s.wake:
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
