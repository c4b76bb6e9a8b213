package h2

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/gateway/poll"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(polled{m}) }

// polled are the tests, and what waits for their connections.
type polled struct{ *testing.M }

func (p polled) Run() int {
	defer pollers.Stop()
	return p.M.Run()
}

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// server is a real HTTP/2 server and a client of this package for it.
type server struct {
	*httptest.Server
	client    *http.Client
	transport *Transport
	dials     atomic.Int32
}

func serve(t testing.TB, handler http.HandlerFunc, change ...func(*httptest.Server)) *server {
	t.Helper()
	s := &server{Server: httptest.NewUnstartedServer(handler)}
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	for _, c := range change {
		c(s.Server)
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	s.transport = transport(s.Certificate(), func() { s.dials.Add(1) })
	s.client = &http.Client{Transport: &eitherWay{Transport: s.transport}}
	t.Cleanup(s.client.CloseIdleConnections)
	return s
}

// eitherWay begins every other request where it can.
type eitherWay struct {
	*Transport
	requests atomic.Int32
}

func (w *eitherWay) RoundTrip(req *http.Request) (*http.Response, error) {
	type answered struct {
		resp *http.Response
		err  error
	}
	got := make(chan answered, 1)
	if w.requests.Add(1)%2 == 0 || !w.Begin(req, func(resp *http.Response, err error) { got <- answered{resp, err} }) {
		return w.Transport.RoundTrip(req)
	}
	a := <-got
	return a.resp, a.err
}

// pollers wait for the connections of all tests.
var pollers = poll.New()

func transport(trusted *x509.Certificate, dialed func()) *Transport {
	pool := x509.NewCertPool()
	pool.AddCert(trusted)
	cfg := &tls.Config{RootCAs: pool}
	return &Transport{TLS: cfg, Pollers: pollers, Other: &http.Transport{TLSClientConfig: cfg.Clone()}, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		dialed()
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}}
}

func (s *server) post(t testing.TB, ctx context.Context, path string, body io.Reader) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// collector is a sink that keeps everything.
type collector struct {
	mu   sync.Mutex
	data bytes.Buffer
	over chan struct{}
	err  error
}

func collect(t testing.TB, resp *http.Response) *collector {
	t.Helper()
	c := &collector{over: make(chan struct{})}
	body, ok := resp.Body.(*Body)
	if !ok {
		t.Fatalf("the answer came over %s", resp.Proto)
	}
	body.Push(c)
	return c
}

func (c *collector) Flush() {}

func (c *collector) Data(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.data.Write(p)
}

func (c *collector) End(err error) {
	c.err = err
	close(c.over)
}

func (c *collector) wait(t testing.TB) (string, error) {
	t.Helper()
	select {
	case <-c.over:
	case <-time.After(patience):
		t.Fatal("the answer does not end")
	}
	return c.data.String(), c.err
}

// noise are n bytes that no compression shortens, the same for the same seed.
func noise(seed uint64, n int) []byte {
	var key [32]byte
	key[0] = byte(seed)
	b := make([]byte, n)
	rand.NewChaCha8(key).Read(b)
	return b
}

func TestAnswersOfOneConnectionKeepApart(t *testing.T) {
	var arrived sync.WaitGroup
	arrived.Add(50)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Said", string(body))
		w.WriteHeader(http.StatusAccepted)
		http.NewResponseController(w).Flush()
		arrived.Done()
		arrived.Wait() // all are open at once
		for i := range 20 {
			fmt.Fprintf(w, "%s %d\n", body, i)
			http.NewResponseController(w).Flush()
		}
	})
	var readers sync.WaitGroup
	for i := range 50 {
		readers.Go(func() {
			name := fmt.Sprintf("answer %d", i)
			resp := s.post(t, t.Context(), "/", strings.NewReader(name))
			if resp.StatusCode != http.StatusAccepted || resp.Header.Get("X-Said") != name || resp.ProtoMajor != 2 {
				t.Errorf("%d over %s, %q", resp.StatusCode, resp.Proto, resp.Header)
			}
			var text string
			var err error
			if i%2 == 0 {
				text, err = collect(t, resp).wait(t)
			} else {
				var b []byte
				b, err = io.ReadAll(resp.Body)
				text = string(b)
			}
			if err != nil || strings.Count(text, name+" ") != 20 || strings.Count(text, "\n") != 20 {
				t.Errorf("%s reads %q, %v", name, text, err)
			}
		})
	}
	readers.Wait()
	if n := s.dials.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestLargeBodiesPassBothWays(t *testing.T) {
	const size = 3 << 20 // many times every window
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		io.Copy(sum, r.Body)
		w.Header().Set("X-Sum", fmt.Sprintf("%x", sum.Sum(nil)))
		if r.URL.Path == "/long" {
			w.Header().Set("Content-Length", strconv.Itoa(size))
		}
		w.Write(noise(2, size))
	})
	up, down := noise(1, size), sha256.Sum256(noise(2, size))
	for _, path := range []string{"/long", "/unknown"} {
		resp := s.post(t, t.Context(), path, bytes.NewReader(up))
		if want := fmt.Sprintf("%x", sha256.Sum256(up)); resp.Header.Get("X-Sum") != want {
			t.Errorf("%s: the server has read something else", path)
		}
		sum := sha256.New()
		if n, err := io.Copy(sum, resp.Body); n != size || err != nil || [32]byte(sum.Sum(nil)) != down {
			t.Errorf("%s: read %d bytes, %v", path, n, err)
		}
		resp = s.post(t, t.Context(), path, bytes.NewReader(up))
		text, err := collect(t, resp).wait(t)
		if err != nil || sha256.Sum256([]byte(text)) != down {
			t.Errorf("%s: pushed %d bytes, %v", path, len(text), err)
		}
	}
}

func TestAnswerThatNobodyReadsStopsNoOther(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/endless" {
			for {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}
		io.WriteString(w, "well")
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	unread := s.post(t, ctx, "/endless", nil)
	for range 3 {
		if text, err := collect(t, s.post(t, t.Context(), "/", nil)).wait(t); text != "well" || err != nil {
			t.Errorf("%q, %v", text, err)
		}
	}
	body := unread.Body.(*Body)
	body.answer.mu.Lock()
	held := len(body.answer.buffer)
	body.answer.mu.Unlock()
	if held > answerWindow {
		t.Errorf("%d bytes are held of what nobody reads", held)
	}
	unread.Body.Close()
	if n := s.dials.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestCanceledAnswerEndsAtTheServer(t *testing.T) {
	left := make(chan struct{}, 3)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/mute" {
			io.WriteString(w, "begun")
			http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
		left <- struct{}{}
	})
	gone := errors.New("the reader is gone")
	for name, leave := range map[string]func(cancel context.CancelCauseFunc, resp *http.Response){
		"by its context": func(cancel context.CancelCauseFunc, _ *http.Response) { cancel(gone) },
		"by its body":    func(_ context.CancelCauseFunc, resp *http.Response) { resp.Body.Close() },
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		resp := s.post(t, ctx, "/", nil)
		c := collect(t, resp)
		leave(cancel, resp)
		if text, err := c.wait(t); text != "begun" && text != "" || !errors.Is(err, gone) && !errors.Is(err, errClosed) {
			t.Errorf("%s: %q, %v", name, text, err)
		}
		<-left
		cancel(nil)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(time.Millisecond, func() { cancel(gone) })
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/mute", nil)
	if _, err := s.client.Do(req); !errors.Is(err, gone) {
		t.Errorf("before the header: %v", err)
	}
	cancel(nil)
}

func TestCutAnswerIsNoWholeOne(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/short":
			w.Header().Set("Content-Length", "100")
		case "/abort":
			io.WriteString(w, "half")
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		io.WriteString(w, "half")
	})
	for _, path := range []string{"/short", "/abort"} {
		if text, err := collect(t, s.post(t, t.Context(), path, nil)).wait(t); text != "half" || err == nil {
			t.Errorf("%s is pushed as %q, %v", path, text, err)
		}
		resp := s.post(t, t.Context(), path, nil)
		if text, err := io.ReadAll(resp.Body); string(text) != "half" || err == nil {
			t.Errorf("%s is read as %q, %v", path, text, err)
		}
	}
}

func TestLostConnectionEndsAllItsAnswers(t *testing.T) {
	var conns sync.Map
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "begun")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}, func(s *httptest.Server) {
		s.Config.ConnState = func(c net.Conn, state http.ConnState) { conns.Store(c, true) }
	})
	var all []*collector
	for range 10 {
		all = append(all, collect(t, s.post(t, t.Context(), "/", nil)))
	}
	conns.Range(func(c, _ any) bool { c.(*tls.Conn).NetConn().Close(); return true })
	for _, c := range all {
		if _, err := c.wait(t); !errors.Is(err, errLost) {
			t.Errorf("ended with %v", err)
		}
	}
	resp := s.post(t, t.Context(), "/", nil)
	resp.Body.Close()
	if n := s.dials.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

func TestMoreAnswersThanAConnectionTakesGetAnother(t *testing.T) {
	release := make(chan struct{})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		<-release
	}, func(s *httptest.Server) { s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 4} })
	collect(t, s.post(t, t.Context(), "/", nil)) // so that the server's settings are known
	var open []*collector
	for range 11 {
		open = append(open, collect(t, s.post(t, t.Context(), "/", nil)))
	}
	close(release)
	for _, c := range open {
		if _, err := c.wait(t); err != nil {
			t.Error(err)
		}
	}
	if n := s.dials.Load(); n != 3 {
		t.Errorf("%d connections for 12 answers, 4 on each", n)
	}
}

func TestServerThatGoesAwayFinishesWhatItHasBegun(t *testing.T) {
	release := make(chan struct{})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "begun")
		http.NewResponseController(w).Flush()
		<-release
		io.WriteString(w, " and done")
	})
	c := collect(t, s.post(t, t.Context(), "/", nil))
	down := make(chan error, 1)
	go func() { down <- s.Config.Shutdown(t.Context()) }()
	s.transport.mu.Lock()
	var h *host
	for _, h = range s.transport.hosts {
	}
	for len(h.conns) > 0 { // until the GOAWAY has arrived
		changed := h.changed
		s.transport.mu.Unlock()
		<-changed
		s.transport.mu.Lock()
	}
	s.transport.mu.Unlock()
	close(release)
	if text, err := c.wait(t); text != "begun and done" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
}

func TestServersWithoutHTTP2AreServedByTheOther(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }, func(s *httptest.Server) { s.EnableHTTP2 = false })
	for range 2 {
		resp := s.post(t, t.Context(), "/", nil)
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(text) != "HTTP/1.1" {
			t.Errorf("%q, %v", text, err)
		}
	}
	if n := s.dials.Load(); n != 1 {
		t.Errorf("asked %d times for HTTP/2", n)
	}
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }))
	defer plain.Close()
	resp, err := s.client.Get(plain.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || string(text) != "HTTP/1.1" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestUnreachableServerIsAnErrorForAllThatWait(t *testing.T) {
	s := serve(t, func(http.ResponseWriter, *http.Request) {})
	refused := errors.New("refused")
	s.transport.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, refused }
	var callers sync.WaitGroup
	for range 150 {
		callers.Go(func() {
			if _, err := s.client.Get(s.URL); !errors.Is(err, refused) {
				t.Errorf("%v", err)
			}
		})
	}
	callers.Wait()
}

func TestHeaderThatIsNoneIsRefused(t *testing.T) {
	s := serve(t, func(http.ResponseWriter, *http.Request) {})
	for name, value := range map[string]string{"X-Split": "a\r\nb: c", "X-Nul": "a\x00b", "x y": "a"} {
		req, _ := http.NewRequest(http.MethodGet, s.URL, nil)
		req.Header[name] = []string{value}
		if resp, err := s.client.Do(req); err == nil {
			resp.Body.Close()
			t.Errorf("sent the header %q: %q", name, value)
		}
	}
}
