package claude

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/gateway/h1"
	"sluice/gateway/h2"
	"sluice/gateway/simulator"
)

// client is a Client of this server, without waiting connections at the end of the test.
func client(t *testing.T, url string) *Client {
	t.Helper()
	c, err := New(Config{BaseURL: url, APIKey: "sk-ours", Silence: time.Minute, Timeout: time.Minute}, nil, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdle)
	return c
}

// upstream is a server with a client of it.
func upstream(t *testing.T, h http.Handler) (*httptest.Server, *Client) {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server, client(t, server.URL)
}

// inMemory is a server on pipes with a client of it, for tests inside a synctest bubble. The result ends both.
func inMemory(t *testing.T, cfg Config, h http.Handler) (c *Client, end func()) {
	t.Helper()
	l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	server := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(l) }()
	cfg.BaseURL, cfg.APIKey = "http://upstream.test", "sk-ours"
	c, err := New(cfg, nil, quiet)
	if err != nil {
		t.Fatal(err)
	}
	transport := c.http.Transport.(*h2.Transport).Other.(*h1.Transport).Other.(*http.Transport)
	transport.Proxy, transport.DialContext = nil, l.dial
	c.http.Transport = transport // pipes are no sockets
	return c, func() { c.CloseIdle(); server.Close(); <-done }
}

// pipes is a listener whose connections are net.Pipes.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-p.closed:
	case <-ctx.Done():
	}
	return nil, net.ErrClosed
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// inTurn answers the first request with the first handler and so on; the last one answers the rest. It counts.
type inTurn struct {
	mu       sync.Mutex
	handlers []http.Handler
	asked    int
	at       []time.Time
}

func answers(handlers ...http.Handler) *inTurn { return &inTurn{handlers: handlers} }

func (a *inTurn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	h := a.handlers[min(a.asked, len(a.handlers)-1)]
	a.asked++
	a.at = append(a.at, time.Now())
	a.mu.Unlock()
	h.ServeHTTP(w, r)
}

func (a *inTurn) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked
}

// refuse is an answer that is no stream.
func refuse(status int, body string, header ...string) http.Handler {
	h := http.Header{"Content-Type": {"application/json"}}
	for i := 0; i+1 < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return simulator.Script{Status: status, Body: []byte(body), Header: h}
}

func shaped(kind string) string {
	return `{"type":"error","error":{"details":null,"type":"` + kind + `","message":"The ` + kind + `."},"request_id":"req_5"}`
}

var good = simulator.Script{Body: []byte(start + ping + stop)}

var message = Request{Path: "/v1/messages", Header: http.Header{"Anthropic-Version": {"2023-06-01"}, "Content-Type": {"application/json"}}, Body: []byte(`{"stream":true}`)}

// open opens a stream and closes it at the end of the test.
func open(t *testing.T, c *Client, retry Retry) (*pulled, error) {
	t.Helper()
	s, err := openWith(t.Context(), c, message, retry)
	if err == nil {
		t.Cleanup(s.Close)
	}
	return s, err
}

func TestEveryFixtureArrivesOverHTTP(t *testing.T) {
	for _, f := range fixtures(t) {
		want := outcomes[f.name]
		script := simulator.Script{Body: f.wire, Chunks: simulator.EveryBytes(700)}
		if strings.HasSuffix(f.name, ".gz") {
			script.Header = http.Header{"Content-Encoding": {"gzip"}}
		}
		_, c := upstream(t, script)
		s, err := open(t, c, Retry{})
		if err != nil {
			if want.events > 1 {
				t.Errorf("%s: %v", f.name, err)
			}
			continue
		}
		events, err := follow(s)
		if got := outcomeOf(events, err); got != want.how || len(events) != want.events {
			t.Errorf("%s: %s after %d events (%v)", f.name, got, len(events), err)
		}
		if s.Header.Get("Request-Id") == "" {
			t.Errorf("%s: without the upstream's headers", f.name)
		}
	}
}

func TestTheSimulatedClaudeIsUnderstood(t *testing.T) {
	_, c := upstream(t, simulator.New(simulator.Options{Key: "sk-ours", Seed: 1}))
	for prompt, want := range map[string]outcome{
		"think, then use a tool": complete, "short": complete, "short fault:gzip": complete, "short fault:gzip-silent": complete, "fault:giant": complete,
		"fault:refusal": complete, "fault:error": failed, "fault:no-stop": truncated,
	} {
		req := message
		req.Body, _ = json.Marshal(map[string]any{"model": "claude-opus-5", "max_tokens": 4000, "stream": true, "messages": []any{map[string]any{"role": "user", "content": prompt}}})
		s, err := openWith(t.Context(), c, req, Retry{})
		if err != nil {
			t.Errorf("%s: %v", prompt, err)
			continue
		}
		if events, err := follow(s); outcomeOf(events, err) != want {
			t.Errorf("%s: %s after %d events: %v", prompt, outcomeOf(events, err), len(events), err)
		}
		s.Close()
	}
}

func TestOnlyWhatMayBeForwardedIsSent(t *testing.T) {
	var got *http.Request
	var body []byte
	_, c := upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, body = r, nil
		body, _ = io.ReadAll(r.Body)
		good.ServeHTTP(w, r)
	}))
	req := Request{Path: "/v1/messages?beta=true", Body: []byte(`{"stream":true, "a":1.0}`), Header: http.Header{
		"Anthropic-Version": {"2023-06-01"}, "Anthropic-Beta": {"a,b", "c"}, "User-Agent": {"sdk/1"}, "Accept-Encoding": {"gzip, br"}, "X-Api-Key": {"sk-callers"}, "x-api-key": {"sk-raw"},
	}}
	before := fmt.Sprint(req.Header)
	s, err := openWith(t.Context(), c, req, Retry{})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if fmt.Sprint(req.Header) != before {
		t.Errorf("the request's headers were changed: %v", req.Header)
	}
	want := http.Header{
		"Anthropic-Version": {"2023-06-01"}, "Anthropic-Beta": {"a,b", "c"}, "User-Agent": {"sdk/1"}, "Accept-Encoding": {"identity"}, "X-Api-Key": {"sk-ours"}, "Content-Length": {"24"},
	}
	if fmt.Sprint(got.Header) != fmt.Sprint(want) {
		t.Errorf("headers\ngot  %v\nwant %v", got.Header, want)
	}
	if got.Method != "POST" || got.RequestURI != "/v1/messages?beta=true" || string(body) != `{"stream":true, "a":1.0}` {
		t.Errorf("%s %s %s", got.Method, got.RequestURI, body)
	}
	if _, err := c.Do(t.Context(), Request{Method: "GET", Path: "/v1/models"}); err != nil || got.Method != "GET" || got.Header.Get("User-Agent") != "sluice" || got.ContentLength != 0 {
		t.Errorf("%v: %s %v", err, got.Method, got.Header)
	}
}

func TestTheBaseURLMayHaveAPath(t *testing.T) {
	for _, suffix := range []string{"", "/", "/anthropic", "/anthropic/"} {
		var path string
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { path = r.URL.Path; good.ServeHTTP(w, r) }))
		t.Cleanup(server.Close)
		if _, err := open(t, client(t, server.URL+suffix), Retry{}); err != nil || path != strings.TrimSuffix(suffix, "/")+"/v1/messages" {
			t.Errorf("%s: %s %v", suffix, path, err)
		}
	}
}

func TestConnectionsAreReusedAfterACompleteStream(t *testing.T) {
	for name, script := range map[string]http.Handler{
		"complete":  simulator.Script{Body: []byte(start + stop), Chunks: simulator.PerEvent},
		"error":     simulator.Script{Body: []byte(start + overload), Chunks: simulator.PerEvent},
		"first":     simulator.Script{Body: []byte(overload)},
		"gzip":      simulator.Script{Body: []byte(start + stop), Gzip: true, Chunks: simulator.PerEvent},
		"refusal":   refuse(529, shaped("overloaded_error")),
		"late ping": simulator.Script{Body: []byte(start + stop + ping), Chunks: simulator.PerEvent},
	} {
		var mu sync.Mutex
		connections := map[string]bool{}
		server := httptest.NewUnstartedServer(script)
		server.Config.ConnState = func(c net.Conn, s http.ConnState) {
			mu.Lock()
			defer mu.Unlock()
			if s == http.StateActive {
				connections[c.RemoteAddr().String()] = true
			}
		}
		server.Start()
		c := client(t, server.URL)
		for range 10 {
			if s, err := openWith(t.Context(), c, message, Retry{}); err == nil {
				follow(s)
				s.Close()
			}
		}
		mu.Lock()
		if len(connections) != 1 {
			t.Errorf("%s: %d connections for 10 streams", name, len(connections))
		}
		mu.Unlock()
		c.CloseIdle()
		server.Close()
	}
}

func TestHTTP2WithAPrivateAuthority(t *testing.T) {
	var proto string
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proto = r.Proto
		simulator.Script{Body: []byte(start + ping + stop), Chunks: simulator.PerEvent}.ServeHTTP(w, r)
	}))
	server.Config.ErrorLog = slogNothing
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "ca.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(file, certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{BaseURL: server.URL, APIKey: "k", CAFile: file, Silence: time.Minute}, nil, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdle)
	s, err := open(t, c, Retry{})
	if err != nil {
		t.Fatal(err)
	}
	if events, err := follow(s); err != nil || len(events) != 2 || proto != "HTTP/2.0" {
		t.Errorf("%d events over %s: %v", len(events), proto, err)
	}
	_, err = open(t, client(t, server.URL), Retry{})
	if e := asError(t, err, APIError, 502); strings.Contains(e.Message, "127.0.0.1") {
		t.Errorf("the address is shown: %s", e.Message)
	}
}

func TestABadConfigurationIsRefused(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, cfg := range []Config{{BaseURL: "http://[::1"}, {BaseURL: "http://x", CAFile: empty}, {BaseURL: "http://x", CAFile: filepath.Join(t.TempDir(), "none")}} {
		if _, err := New(cfg, nil, quiet); err == nil {
			t.Errorf("%+v is accepted", cfg)
		}
	}
}
