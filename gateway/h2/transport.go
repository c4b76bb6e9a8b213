package h2

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"sluice/gateway/poll"
)

// Transport is an http.RoundTripper. It is safe for use by many goroutines. The fields must not change after the first
// call.
type Transport struct {
	Dial  func(ctx context.Context, network, address string) (net.Conn, error)
	TLS   *tls.Config // NextProtos is set by the transport
	Proxy func(*http.Request) (*url.URL, error)
	Other http.RoundTripper // for http URLs, for what goes through a proxy, and for servers that do not speak HTTP/2

	Pollers *poll.Pollers // what waits for the connections; nil: each has a goroutine

	mu    sync.Mutex
	hosts map[string]*host
}

const (
	// handshakeTime bounds a connection's making, beside what Dial takes.
	handshakeTime = 10 * time.Second

	// idleTime is how long a connection without answers is kept.
	idleTime = 90 * time.Second

	// otherTime is how long a server that did not choose HTTP/2 is not asked again.
	otherTime = 10 * time.Minute

	// attempts is how often a request is sent that the server says it has not looked at (RFC 9113 §8.7).
	attempts = 3

	// assumedStreams is how many answers a connection carries whose server does not say.
	assumedStreams = 100
)

// host is what is known of one server.
type host struct {
	conns   []*conn
	dials   int           // under way, until the server has said how many answers it takes
	streams int           // how many that was, the last time
	waiting int           // requests that wait for a connection
	changed chan struct{} // closed when any of this has, and replaced
	err     error         // why the last dial failed
	failed  int           // how many have
	other   time.Time     // until when it is known not to speak HTTP/2
}

var (
	errOther     = errors.New("the server does not speak HTTP/2")
	errUntouched = errors.New("the server has not looked at the request")
)

// RoundTrip sends a request and returns once the answer's header is there. The answer's body is a *Body if it came over
// HTTP/2. A request that the server has not looked at is sent again, if its body can be had again.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if !t.carries(req) {
		return t.Other.RoundTrip(req)
	}
	for attempt := 1; ; attempt++ {
		if req.Context().Err() != nil {
			closeBody(req)
			return nil, context.Cause(req.Context())
		}
		c, err := t.conn(req.Context(), address(req.URL))
		if err == errOther {
			return t.Other.RoundTrip(req)
		}
		if err != nil {
			closeBody(req)
			return nil, err
		}
		resp, err := c.roundTrip(req)
		if err == nil || !errors.Is(err, errUntouched) || attempt == attempts {
			return resp, err
		}
		again, ok := repeated(req)
		if !ok {
			return nil, err
		}
		req = again
	}
}

// Begin sends a request on a connection that is at hand, if there is one and it takes the request at once, and reports
// whether it has: else nothing was sent. The request's body must be at hand. Then got is called, once, with what RoundTrip would
// return. It comes on the goroutine that reads the connection, which many answers share, and must not block: the answer's
// body is pushed from there, or read by another.
func (t *Transport) Begin(req *http.Request, got func(*http.Response, error)) bool {
	if req.URL.Scheme != "https" {
		other, ok := t.Other.(interface {
			Begin(*http.Request, func(*http.Response, error)) bool
		})
		return ok && other.Begin(req, got)
	}
	if !t.carries(req) || req.Context().Err() != nil {
		return false
	}
	c := t.ready(address(req.URL))
	if c == nil {
		return false
	}
	if !c.tryLock() {
		c.leave()
		return false
	}
	c.begin(req, true, func(resp *http.Response, err error) {
		again, ok := (*http.Request)(nil), false
		if errors.Is(err, errUntouched) {
			again, ok = repeated(req)
		}
		if !ok {
			got(resp, err)
			return
		}
		go func() { got(t.RoundTrip(again)) }()
	})
	return true
}

// carries reports whether a request is for connections of the transport's own, where the server speaks HTTP/2.
func (t *Transport) carries(req *http.Request) bool {
	if req.URL.Scheme != "https" {
		return false
	}
	if t.Proxy == nil {
		return true
	}
	via, err := t.Proxy(req)
	return err == nil && via == nil // else Other asks again, and says what is wrong
}

// repeated is a request to be sent again, if its body can be had again.
func repeated(req *http.Request) (*http.Request, bool) {
	again := *req
	if !hasBody(req) {
		return &again, true
	}
	if req.GetBody == nil {
		return nil, false
	}
	body, err := req.GetBody()
	again.Body = body
	return &again, err == nil
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}

func address(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// CloseIdleConnections closes the connections that carry nothing. http.Client passes its own call on.
func (t *Transport) CloseIdleConnections() {
	t.mu.Lock()
	var conns []*conn
	for _, h := range t.hosts {
		conns = append(conns, h.conns...)
	}
	t.mu.Unlock()
	for _, c := range conns {
		c.closeIdle()
	}
	if other, ok := t.Other.(interface{ CloseIdleConnections() }); ok {
		other.CloseIdleConnections()
	}
}

// ready takes the room of one more answer of a connection that has it, if there is one.
func (t *Transport) ready(address string) *conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.hosts[address]
	if h == nil {
		return nil
	}
	return h.reserve()
}

func (h *host) reserve() *conn {
	for _, c := range h.conns {
		if c.reserve() {
			return c
		}
	}
	return nil
}

// conn finds a connection with room for one more answer, and takes that room. It dials as many as the waiting requests
// will need.
func (t *Transport) conn(ctx context.Context, address string) (*conn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hosts == nil {
		t.hosts = make(map[string]*host)
	}
	h := t.hosts[address]
	if h == nil {
		h = &host{streams: assumedStreams, changed: make(chan struct{})}
		t.hosts[address] = h
	}
	h.waiting++
	defer func() { h.waiting-- }()
	failed := h.failed
	for {
		if time.Now().Before(h.other) {
			return nil, errOther
		}
		if c := h.reserve(); c != nil {
			return c, nil
		}
		if h.failed != failed && h.dials == 0 {
			return nil, h.err
		}
		if h.dials*h.streams < h.waiting {
			h.dials++
			go t.dial(address, h)
		}
		changed := h.changed
		t.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		t.mu.Lock()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
}

func (h *host) change() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// dial makes one more connection. It is for all that wait, so no request's end is its own. The first has it at once, the
// others when the server has said how many it takes: what is too much for it, it refuses or calls an error.
func (t *Transport) dial(address string, h *host) {
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTime)
	defer cancel()
	nc, err := t.handshake(ctx, address)
	streams := 0
	if err == nil {
		streams, err = t.open(ctx, h, nc)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	h.dials--
	switch {
	case err == errOther:
		h.other = time.Now().Add(otherTime)
	case err != nil:
		h.err = err
		h.failed++
	default:
		h.streams = streams
	}
	h.change()
}

func (t *Transport) open(ctx context.Context, h *host, nc net.Conn) (streams int, err error) {
	c, err := newConn(nc, func(c *conn) { t.remove(h, c) })
	if err != nil {
		return 0, err
	}
	c.pollers = t.Pollers
	t.mu.Lock()
	h.conns = append(h.conns, c)
	h.change()
	t.mu.Unlock()
	if s, polled := socketOf(nc); polled {
		c.poll(s)
	} else {
		go c.read()
	}
	if streams, err = c.begun(ctx); err != nil {
		c.retire()
	}
	return streams, err
}

func (t *Transport) handshake(ctx context.Context, address string) (net.Conn, error) {
	raw, err := t.Dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	cfg := t.TLS.Clone()
	cfg.NextProtos = []string{"h2", "http/1.1"}
	if cfg.ServerName == "" {
		cfg.ServerName, _, _ = net.SplitHostPort(address)
	}
	under := &socket{Conn: raw}
	if polled, ok := t.Pollers.Take(raw); ok {
		under.Conn, under.polled = polled, polled
	}
	nc := tls.Client(under, cfg)
	if err := nc.HandshakeContext(ctx); err != nil {
		under.Close()
		return nil, err
	}
	if nc.ConnectionState().NegotiatedProtocol != "h2" {
		nc.Close()
		return nil, errOther
	}
	return nc, nil
}

// remove forgets a connection that takes no further request.
func (t *Transport) remove(h *host, c *conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h.conns = slices.DeleteFunc(h.conns, func(other *conn) bool { return other == c })
	h.change()
}
