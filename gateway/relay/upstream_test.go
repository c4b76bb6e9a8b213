package relay

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sluice/gateway/claude"
	"sluice/gateway/limits"
	"sluice/gateway/metrics"
)

// memoryNet is a network without an operating system: what waits for it waits durably in a synctest bubble.
type memoryNet struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newMemoryNet() *memoryNet {
	return &memoryNet{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (n *memoryNet) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case n.conns <- server:
		return client, nil
	case <-n.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (n *memoryNet) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

func (n *memoryNet) Close() error   { n.once.Do(func() { close(n.closed) }); return nil }
func (n *memoryNet) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "unix"} }

// call is one request at the upstream, and the test's hand in its answer.
type call struct {
	t     testing.TB
	body  string
	left  <-chan struct{} // closed when the relay has closed the connection
	steps chan func(http.ResponseWriter)
	done  chan struct{}
}

func (c *call) do(step func(http.ResponseWriter)) {
	select {
	case c.steps <- step:
	case <-c.done:
	}
}

// send writes events, in one piece. It returns when they are on their way, or nobody is there any more.
func (c *call) send(events ...event) { c.write(wire(events...)) }

func (c *call) write(s string) {
	c.do(func(w http.ResponseWriter) {
		io.WriteString(w, s)
		http.NewResponseController(w).Flush()
	})
}

// finish ends the body as HTTP ends one, cut breaks the connection.
func (c *call) finish() { c.do(nil) }
func (c *call) cut()    { c.do(func(http.ResponseWriter) { panic(http.ErrAbortHandler) }) }

// house is a relay, and an upstream that a test plays.
type house struct {
	*Relay
	t       testing.TB
	limits  *limits.Limits
	queue   *limits.Queue
	metrics *metrics.Metrics
	net     *memoryNet
	calls   chan *call
	handler atomic.Pointer[http.Handler] // nil: calls are handed to the test
}

const plan = "small"

// setup is what a test may want otherwise.
type setup struct {
	Config
	silence    time.Duration
	plan       limits.Plan
	concurrent int // at the upstream; 0: no limit
	transport  func(http.RoundTripper) http.RoundTripper
	log        slog.Handler
}

func newHouse(t testing.TB, change ...func(*setup)) *house {
	t.Helper()
	s := setup{Config: Config{Retention: 10 * time.Minute, Memory: 512_000_000}, silence: 24 * time.Hour, log: slog.DiscardHandler}
	for _, f := range change {
		f(&s)
	}
	h := &house{t: t, limits: limits.New(map[string]limits.Plan{plan: s.plan}), metrics: metrics.New("test"),
		net: newMemoryNet(), calls: make(chan *call)}
	log := slog.New(s.log)
	client, err := claude.New(claude.Config{BaseURL: "http://claude.test", APIKey: "sk-test", Silence: s.silence, Timeout: time.Minute}, h.metrics, log)
	if err != nil {
		t.Fatal(err)
	}
	// The client has no setting for how it dials, and needs none but here.
	inner := reflect.ValueOf(client).Elem().FieldByName("http")
	transport := &http.Transport{DialContext: h.net.dial, DisableCompression: true, ReadBufferSize: 64 << 10}
	(*http.Client)(inner.UnsafePointer()).Transport = transport
	if s.transport != nil {
		(*http.Client)(inner.UnsafePointer()).Transport = s.transport(transport)
	}
	h.queue = limits.NewQueue(s.concurrent)
	h.Relay = New(s.Config, client, h.limits, h.queue, h.metrics, log)
	server := &http.Server{Handler: http.HandlerFunc(h.upstream), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	served := make(chan struct{})
	go func() { defer close(served); server.Serve(h.net) }()
	t.Cleanup(func() {
		over, cancel := context.WithCancel(context.Background())
		cancel()
		h.Drain(over)
		h.Stop(over)
		server.Close()
		transport.CloseIdleConnections()
		<-served
	})
	return h
}

func (h *house) upstream(w http.ResponseWriter, r *http.Request) {
	if handler := h.handler.Load(); handler != nil {
		(*handler).ServeHTTP(w, r)
		return
	}
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("Request-Id", "req_upstream")
	c := &call{t: h.t, body: string(body), left: r.Context().Done(), steps: make(chan func(http.ResponseWriter)), done: make(chan struct{})}
	defer close(c.done)
	select {
	case h.calls <- c:
	case <-c.left:
		return
	}
	for {
		select {
		case step := <-c.steps:
			if step == nil {
				return
			}
			step(w)
		case <-c.left:
			return
		}
	}
}

// answers lets every request from now on be answered by the handler.
func (h *house) answers(handler http.Handler) { h.handler.Store(&handler) }

// params are of a request whose stream nobody needs to watch.
func params(change ...func(*Params)) Params {
	p := Params{Owner: "key:alice", Plan: plan, Route: "/v1/streams", QueueWait: -1, AbandonAfter: -1,
		Request: claude.Request{Path: "/v1/messages", Body: []byte(`{"model":"` + model + `","stream":true}`)}}
	for _, f := range change {
		f(&p)
	}
	return p
}

// start begins a stream whose caller waits for nothing; its body is reserved first, as callers do.
func (h *house) start(change ...func(*Params)) *Stream {
	h.t.Helper()
	p := params(change...)
	if err := h.Reserve(int64(len(p.Request.Body))); err != nil {
		h.t.Fatal(err)
	}
	s, joined, err := h.Start(p)
	if err != nil || joined {
		h.t.Fatalf("Start: joined %v, %v", joined, err)
	}
	s.Answered()
	return s
}

// refused begins a stream that must be refused with this error.
func (h *house) refused(want error, change ...func(*Params)) {
	h.t.Helper()
	p := params(change...)
	if err := h.Reserve(int64(len(p.Request.Body))); err != nil {
		h.t.Fatal(err)
	}
	if s, _, err := h.Start(p); err != want || s != nil {
		h.t.Fatalf("Start: %v, want %v", err, want)
	}
}

// open begins a stream and its answer: three events are in its log. Only in a bubble.
func (h *house) open(change ...func(*Params)) (*Stream, *call) {
	h.t.Helper()
	s := h.start(change...)
	c := <-h.calls
	c.send(opening("Hello")...)
	<-s.Opened()
	synctest.Wait()
	return s, c
}

// completed is a stream that has ended well.
func (h *house) completed(change ...func(*Params)) *Stream {
	h.t.Helper()
	s, c := h.open(change...)
	c.send(closing()...)
	c.finish()
	<-s.Done()
	return s
}

// attach adds a viewer that must get one.
func attach(t testing.TB, s *Stream, cursor string, exact bool) *Viewer {
	t.Helper()
	v, resume, reason, err := s.Attach(cursor, exact)
	want := ResumeNone
	if cursor != "" {
		want = ResumeExact
	}
	if v == nil || err != nil || resume != want || reason != "" {
		t.Fatalf("Attach(%q): %v, %q, %q, %v", cursor, v, resume, reason, err)
	}
	return v
}

// taken is what there is for a viewer now.
func taken(t testing.TB, v *Viewer) (frames []frame, ended bool) {
	t.Helper()
	for {
		b, ended := v.Take()
		if b.Events == 0 {
			return frames, ended
		}
		frames = append(frames, parse(t, bytes.Join(b.Pieces, nil))...)
	}
}

// follow reads a viewer to the stream's end and detaches it.
func follow(t testing.TB, v *Viewer) (frames []frame) {
	t.Helper()
	for {
		more, ended := taken(t, v)
		frames = append(frames, more...)
		if ended {
			v.Detach(EndCompleted)
			return frames
		}
		<-v.Wake()
	}
}

// read is the whole of a stream up to its end, event by event.
func read(t testing.TB, s *Stream) []frame {
	t.Helper()
	return follow(t, attach(t, s, "", true))
}

// scrape reads all series, by their names and labels as the exposition has them.
func (h *house) scrape() map[string]float64 {
	h.t.Helper()
	w := httptest.NewRecorder()
	h.metrics.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	all := make(map[string]float64)
	for line := range strings.Lines(w.Body.String()) {
		if !strings.HasPrefix(line, "sluice_") {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(strings.TrimSpace(line[at:]), 64)
		if err != nil {
			h.t.Fatalf("%q: %v", line, err)
		}
		all[line[:at]] = value
	}
	return all
}

// metric reads one series, 0 where there is none yet.
func (h *house) metric(series string) float64 {
	h.t.Helper()
	return h.scrape()[series]
}

// want compares series with what they should be.
func (h *house) want(series map[string]float64) {
	h.t.Helper()
	all := h.scrape()
	for name, want := range series {
		if got := all[name]; got != want {
			h.t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

// quiet fails the test unless nothing is held any more: no slot, no place, no token, no log, no byte.
func (h *house) quiet() {
	h.t.Helper()
	if n := h.limits.Open(); n != 0 {
		h.t.Errorf("%d slots are taken", n)
	}
	for began := time.Now(); h.queue.InUse() > 0 && time.Since(began) < time.Second; { // a body may end after its stream
		pass(time.Millisecond)
	}
	if used, waiting := h.queue.InUse(), h.queue.Waiting(); used != 0 || waiting != 0 {
		h.t.Errorf("%d places are taken, %d wait for one", used, waiting)
	}
	for _, u := range h.limits.Report().Owners {
		if u.Open != 0 || u.Reserved != 0 {
			h.t.Errorf("%s has %d open, %d tokens reserved", u.Owner, u.Open, u.Reserved)
		}
	}
	h.want(map[string]float64{"sluice_log_bytes": 0, "sluice_logs": 0, "sluice_streams_active": 0, "sluice_viewers_active": 0})
}

// outcome is the series of one outcome of the test's model.
func outcome(status Status) string {
	return fmt.Sprintf(`sluice_streams_total{model=%q,outcome=%q}`, model, status)
}

// pass lets time go by in a bubble.
func pass(d time.Duration) { <-time.After(d) }

// closed reports whether a channel is.
func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
