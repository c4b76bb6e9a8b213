package h1

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// Begin sends a request on a connection that is at hand, if there is one and it takes the request at once, and reports
// whether it has: else nothing was sent. Then got is called, once, with what RoundTrip would return. It comes on the
// goroutine that reads for many connections, or before Begin returns, and must not block: the body is pushed from there, or
// left to another goroutine.
func (t *Transport) Begin(req *http.Request, got func(*http.Response, error)) bool {
	small := req.ContentLength > 0 && req.ContentLength <= atOnce || req.Body == nil
	if !small || !t.carries(req) || req.Context().Err() != nil {
		return false
	}
	c := t.ready(address(req.URL))
	if c == nil {
		return false
	}
	x := &promise{conn: c, req: req, got: got}
	sent, whole, err := c.sendNow(req)
	if err != nil || sent == 0 {
		c.nc.Close()
		return false
	}
	x.whole = whole
	x.mu.Lock()
	x.unbind = context.AfterFunc(req.Context(), func() { x.fail(context.Cause(req.Context())) })
	x.mu.Unlock()
	c.nc.Push(x)
	return true
}

// sendNow writes a request without waiting. What a full connection has not taken is written beside the caller: whole is
// false then.
func (c *conn) sendNow(req *http.Request) (sent int, whole bool, err error) {
	b := requests.Get().(*bytes.Buffer)
	defer requests.Put(b)
	b.Reset()
	w := writers.Get().(*bufio.Writer)
	w.Reset(b)
	err = req.Write(together{w})
	w.Flush() // to memory
	w.Reset(nil)
	writers.Put(w)
	if err != nil {
		return 0, false, err
	}
	sent = c.nc.TryWrite(b.Bytes())
	if whole = sent == b.Len(); !whole && sent > 0 {
		rest := bytes.Clone(b.Bytes()[sent:])
		go c.nc.Write(rest) // its failure is seen by who reads
	}
	return sent, whole, nil
}

// requests are what Begin sends, in one write each.
var requests = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// promise is a request whose answer somebody will be given: the connection's sink, first for the header and then for the
// body.
type promise struct {
	conn  *conn
	req   *http.Request
	got   func(*http.Response, error)
	whole bool // the request is sent

	mu     sync.Mutex
	unbind func() bool // from the request's context
	header []byte      // what has arrived of it, while it is not complete
	looked int         // bytes of it without the empty line that ends it
	body   *Body
	over   bool // got was called with an error, or is about to be
}

// Data gets what has arrived.
func (x *promise) Data(p []byte) {
	x.mu.Lock()
	if x.over || x.body != nil {
		body := x.body
		x.mu.Unlock()
		if body != nil {
			(*arrival)(body).Data(p)
		}
		return
	}
	if len(x.header) > 0 {
		x.header = append(x.header, p...)
		p = x.header
	}
	resp, rest, err := x.parse(p)
	if err == nil && resp == nil { // its end is still to come
		if len(rest) != len(x.header) {
			x.header = bytes.Clone(rest)
		}
		x.mu.Unlock()
		return
	}
	x.header = nil
	x.mu.Unlock()
	if err != nil {
		x.fail(err)
		return
	}
	x.answer(resp, rest)
}

// parse reads an answer's header; interim ones are left out. Without an error and an answer, rest is what has arrived of
// one that is not complete.
func (x *promise) parse(p []byte) (resp *http.Response, rest []byte, err error) {
	for {
		n := headerEnd(p, x.looked)
		if n > maxHeader || n == 0 && len(p) > maxHeader {
			return nil, nil, fmt.Errorf("the answer's header is larger than %d bytes", maxHeader)
		}
		if n == 0 {
			x.looked = max(0, len(p)-2) // its end may have come in part
			return nil, p, nil
		}
		x.looked = 0
		r := readers.Get().(*bufio.Reader)
		r.Reset(bytes.NewReader(p[:n]))
		resp, err = http.ReadResponse(r, x.req)
		if p = p[n:]; err == nil && (resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols) {
			resp.Body = newBody(x.conn, r, resp)
			return resp, p, nil
		}
		r.Reset(nil)
		readers.Put(r)
		if err != nil {
			return nil, nil, err
		}
	}
}

// headerEnd is the length of the header that p begins with, with the empty line that ends it; 0 if that is not there. It
// looks from so many bytes on. A line may end without a carriage return, as net/textproto takes it.
func headerEnd(p []byte, at int) int {
	for {
		i := bytes.IndexByte(p[at:], '\n')
		if i < 0 {
			return 0
		}
		at += i + 1
		switch rest := p[at:]; {
		case len(rest) > 0 && rest[0] == '\n':
			return at + 1
		case len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n':
			return at + 2
		}
	}
}

// answer hands on an answer with what has arrived of its body.
func (x *promise) answer(resp *http.Response, rest []byte) {
	b := resp.Body.(*Body)
	b.early, b.arriving = &early{rest, x.conn.nc}, true
	b.reader.Reset(b.early)
	b.reuse = b.reuse && x.whole
	b.handing.Lock()
	defer b.handing.Unlock()
	x.mu.Lock()
	if x.over { // canceled meanwhile
		x.mu.Unlock()
		return
	}
	b.unbind = x.unbind
	x.body = b
	x.mu.Unlock()
	x.got(resp, nil)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sink == nil { // it is for another goroutine
		x.conn.nc.Push(nil)
		b.early.rest, b.arriving = bytes.Clone(rest), false
	}
}

// fail ends what has not been answered, or the answer's body.
func (x *promise) fail(err error) {
	x.mu.Lock()
	body, over := x.body, x.over
	x.over = body == nil
	x.mu.Unlock()
	switch {
	case over:
	case body != nil:
		body.end(err, false)
	default:
		if x.unbind(); context.Cause(x.req.Context()) != nil {
			err = context.Cause(x.req.Context())
		}
		x.conn.nc.Close()
		x.got(nil, err)
	}
}

// End is the connection's end.
func (x *promise) End(err error) {
	x.mu.Lock()
	body := x.body
	x.mu.Unlock()
	switch {
	case body != nil:
		(*arrival)(body).End(err)
	case err == io.EOF:
		x.fail(io.ErrUnexpectedEOF)
	default:
		x.fail(err)
	}
}
