package h1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"sluice/gateway/poll"
)

// Transport is an http.RoundTripper. It is safe for use by many goroutines. The fields must not change after the first
// call.
type Transport struct {
	Dial  func(ctx context.Context, network, address string) (net.Conn, error)
	Proxy func(*http.Request) (*url.URL, error)
	Other http.RoundTripper // for https URLs, what goes through a proxy, and connections that can't be polled

	Pollers *poll.Pollers // nil: everything is left to Other

	mu      sync.Mutex
	idle    map[string][]*conn // by address; the last that became idle is taken first
	idling  int
	sweeper *time.Timer
}

const (
	// idleTime is how long a connection without an answer is kept, and maxIdle how many: as many as were open at once
	// may wait for the next burst.
	idleTime = 90 * time.Second
	maxIdle  = 1024

	// maxHeader bounds an answer's header.
	maxHeader = 64 << 10
)

// RoundTrip sends a request and returns once the answer's header is there. The answer's body is a *Body. A request is
// never sent twice.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if !t.carries(req) {
		return t.Other.RoundTrip(req)
	}
	ctx := req.Context()
	c, err := t.conn(ctx, address(req.URL))
	if err == errNotPolled {
		return t.Other.RoundTrip(req)
	}
	if err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, err
	}
	unbind := context.AfterFunc(ctx, func() { c.nc.Close() }) // which ends whatever is waited for
	resp, err := c.exchange(req)
	if !unbind() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		c.nc.Close()
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, err
	}
	resp.Body.(*Body).bind(ctx)
	return resp, nil
}

// carries reports whether a request is for connections of the transport's own.
func (t *Transport) carries(req *http.Request) bool {
	if t.Pollers == nil || req.URL.Scheme != "http" || req.Method == http.MethodConnect {
		return false
	}
	if t.Proxy == nil {
		return true
	}
	via, err := t.Proxy(req)
	return err == nil && via == nil // else Other asks again, and says what is wrong
}

func address(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "80"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

var errNotPolled = errors.New("the connection can't be polled")

// conn takes an idle connection, or dials.
func (t *Transport) conn(ctx context.Context, address string) (*conn, error) {
	if c := t.ready(address); c != nil {
		return c, nil
	}
	nc, err := t.Dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	polled, ok := t.Pollers.Take(nc)
	if !ok {
		nc.Close()
		return nil, errNotPolled
	}
	return &conn{transport: t, address: address, nc: polled}, nil
}

// ready takes an idle connection that can be used.
func (t *Transport) ready(address string) *conn {
	for {
		c := t.take(address)
		if c == nil || c.nc.Quiet() { // the server has neither closed it nor said something unasked
			return c
		}
		c.nc.Close()
	}
}

func (t *Transport) take(address string) *conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	conns := t.idle[address]
	if len(conns) == 0 {
		return nil
	}
	c := conns[len(conns)-1]
	conns[len(conns)-1] = nil
	if t.idle[address] = conns[:len(conns)-1]; len(conns) == 1 {
		delete(t.idle, address)
	}
	t.idling--
	return c
}

// keep makes a connection idle.
func (t *Transport) keep(c *conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.idling >= maxIdle || t.Pollers.Stopped() {
		c.nc.Close()
		return
	}
	if t.idle == nil {
		t.idle = make(map[string][]*conn)
	}
	c.since = time.Now()
	t.idle[c.address] = append(t.idle[c.address], c)
	if t.idling++; t.idling == 1 {
		if t.sweeper == nil {
			t.sweeper = time.AfterFunc(idleTime, t.sweep)
		} else {
			t.sweeper.Reset(idleTime)
		}
	}
}

// sweep closes what has been idle for too long.
func (t *Transport) sweep() { t.closeIdle(time.Now().Add(-idleTime)) }

func (t *Transport) closeIdle(before time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for address, conns := range t.idle {
		n := 0
		for n < len(conns) && !conns[n].since.After(before) { // in the order in which they became idle
			conns[n].nc.Close()
			n++
		}
		t.idling -= n
		if t.idle[address] = conns[n:]; n == len(conns) {
			delete(t.idle, address)
		}
	}
	if t.sweeper != nil {
		t.sweeper.Stop()
		if t.idling > 0 {
			t.sweeper.Reset(idleTime / 4)
		}
	}
}

// CloseIdleConnections closes the connections that carry nothing. http.Client passes its own call on.
func (t *Transport) CloseIdleConnections() {
	t.closeIdle(time.Now())
	if other, ok := t.Other.(interface{ CloseIdleConnections() }); ok {
		other.CloseIdleConnections()
	}
}

// conn is one connection. It carries one answer at a time, or none.
type conn struct {
	transport *Transport
	address   string
	nc        *poll.Conn
	since     time.Time // it is idle; guarded by the transport's lock
}

// Buffers are held while a request is sent and its answer's header read, not while an answer is waited for.
var (
	readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4<<10) }}
	writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 4<<10) }}
)

const (
	// atOnce is how much of a request is sent before the answer is looked at; what is larger is sent beside, since a
	// server may refuse it before it has read it all.
	atOnce = 16 << 10

	// refusalTime is how long the answer of a server may take that has stopped reading.
	refusalTime = time.Second
)

// exchange sends a request and reads the answer's header.
func (c *conn) exchange(req *http.Request) (*http.Response, error) {
	sent := make(chan error, 1)
	var mu sync.Mutex
	answered := false
	send := func() {
		err := c.send(req)
		mu.Lock()
		defer mu.Unlock()
		if err != nil && !answered { // it may have said why
			c.nc.SetReadDeadline(time.Now().Add(refusalTime))
		}
		sent <- err
	}
	if req.Body == nil || req.ContentLength >= 0 && req.ContentLength <= atOnce {
		send()
	} else {
		go send()
	}
	resp, err := c.receive(req)
	mu.Lock()
	defer mu.Unlock()
	answered = true
	whole := false // closing the connection ends the sending
	select {
	case cut := <-sent:
		if whole = cut == nil; !whole {
			c.nc.SetReadDeadline(time.Time{})
			if err != nil {
				err = cut
			}
		}
	default:
	}
	if err == nil && !whole {
		resp.Body.(*Body).reuse = false
	}
	return resp, err
}

// together is a writer that net/http does not know as one it could flush between the header and the body: most requests
// fit in one write.
type together struct{ *bufio.Writer }

func (c *conn) send(req *http.Request) error {
	w := writers.Get().(*bufio.Writer)
	w.Reset(c.nc)
	err := req.Write(together{w})
	if err == nil {
		err = w.Flush()
	}
	w.Reset(nil)
	writers.Put(w)
	return err
}

func (c *conn) receive(req *http.Request) (*http.Response, error) {
	header := &io.LimitedReader{R: c.nc, N: maxHeader}
	r := readers.Get().(*bufio.Reader)
	r.Reset(header)
	for {
		resp, err := http.ReadResponse(r, req)
		if err != nil && header.N <= 0 {
			err = fmt.Errorf("the answer's header is larger than %d bytes", maxHeader)
		}
		if err != nil {
			r.Reset(nil)
			readers.Put(r)
			return nil, err
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			header.N = 1 << 62 // the body has other bounds
			resp.Body = newBody(c, r, resp)
			return resp, nil
		}
	}
}
