package h1

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
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

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// server is a real HTTP server and a client of this package for it.
type server struct {
	*httptest.Server
	client *http.Client
	dials  atomic.Int32
}

func serve(t testing.TB, handler http.HandlerFunc) *server {
	t.Helper()
	s := &server{Server: httptest.NewUnstartedServer(handler)}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	t.Cleanup(s.Close)
	s.client = client(t, func() { s.dials.Add(1) })
	return s
}

func client(t testing.TB, dialed func()) *http.Client {
	pollers := poll.New()
	t.Cleanup(pollers.Stop)
	c := &http.Client{Transport: &eitherWay{Transport: &Transport{Pollers: pollers, Other: refuse{}, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		dialed()
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}}}}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// eitherWay begins every other request where it can.
type eitherWay struct {
	*Transport
	requests atomic.Int32
}

func (w *eitherWay) RoundTrip(req *http.Request) (*http.Response, error) {
	if w.requests.Add(1)%2 == 0 {
		return w.Transport.RoundTrip(req)
	}
	if b := begin(w.Transport, req); b != nil {
		a := <-b
		return a.resp, a.err
	}
	return w.Transport.RoundTrip(req)
}

type answered struct {
	resp *http.Response
	err  error
}

// begin is nil where Begin has not sent the request.
func begin(t *Transport, req *http.Request) <-chan answered {
	got := make(chan answered, 1)
	if !t.Begin(req, func(resp *http.Response, err error) { got <- answered{resp, err} }) {
		return nil
	}
	return got
}

// refuse is the other transport, where none should be needed.
type refuse struct{}

func (refuse) RoundTrip(*http.Request) (*http.Response, error) { return nil, errors.ErrUnsupported }

func post(t testing.TB, ctx context.Context, c *http.Client, url string, body io.Reader) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// collector is a sink that keeps everything.
type collector struct {
	data  bytes.Buffer
	begun chan struct{}
	over  chan struct{}
	err   error
}

func collect(resp *http.Response) *collector {
	c := &collector{begun: make(chan struct{}), over: make(chan struct{})}
	resp.Body.(*Body).Push(c)
	return c
}

func (c *collector) Flush() {}

func (c *collector) Data(p []byte) {
	if c.data.Len() == 0 {
		close(c.begun)
	}
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

// noise are n bytes, the same for the same seed.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func TestAnswersKeepApartAndConnectionsAreUsedAgain(t *testing.T) {
	const at = 40
	var arrived sync.WaitGroup
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
	for range 3 {
		arrived.Add(at)
		var readers sync.WaitGroup
		for i := range at {
			readers.Go(func() {
				name := fmt.Sprintf("answer %d", i)
				resp := post(t, t.Context(), s.client, s.URL, strings.NewReader(name))
				if resp.StatusCode != http.StatusAccepted || resp.Header.Get("X-Said") != name {
					t.Errorf("%d, %q", resp.StatusCode, resp.Header)
				}
				var text string
				var err error
				if i%2 == 0 {
					text, err = collect(resp).wait(t)
				} else {
					var b []byte
					b, err = io.ReadAll(resp.Body)
					resp.Body.Close()
					text = string(b)
				}
				if err != nil || strings.Count(text, name+" ") != 20 || strings.Count(text, "\n") != 20 {
					t.Errorf("%s reads %q, %v", name, text, err)
				}
			})
		}
		readers.Wait()
	}
	if n := s.dials.Load(); n != at {
		t.Errorf("%d connections, for %d answers at once", n, at)
	}
}

func TestLargeBodiesPassBothWays(t *testing.T) {
	const size = 3 << 20
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		io.Copy(sum, r.Body)
		w.Header().Set("X-Sum", fmt.Sprintf("%x", sum.Sum(nil)))
		if r.URL.Path == "/long" {
			w.Header().Set("Content-Length", strconv.Itoa(size))
		}
		if r.URL.Path == "/close" {
			w.Header().Set("Connection", "close")
		}
		w.Write(noise(2, size))
	})
	up, down := noise(1, size), sha256.Sum256(noise(2, size))
	for _, path := range []string{"/long", "/chunked", "/close"} {
		for how, read := range map[string]func(*http.Response) ([]byte, error){
			"read":   func(r *http.Response) ([]byte, error) { return io.ReadAll(r.Body) },
			"pushed": func(r *http.Response) ([]byte, error) { s, err := collect(r).wait(t); return []byte(s), err },
		} {
			resp := post(t, t.Context(), s.client, s.URL+path, bytes.NewReader(up))
			if want := fmt.Sprintf("%x", sha256.Sum256(up)); resp.Header.Get("X-Sum") != want {
				t.Errorf("%s: the server has read something else", path)
			}
			if b, err := read(resp); err != nil || sha256.Sum256(b) != down {
				t.Errorf("%s: %s %d bytes, %v", path, how, len(b), err)
			}
		}
	}
}

func TestServerMayAnswerBeforeItHasReadTheRequest(t *testing.T) {
	for _, name := range []string{"and close", "and read no more"} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			refused, stop := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stop)
				nc, err := l.Accept()
				if err != nil {
					return
				}
				defer nc.Close()
				if _, err := http.ReadRequest(bufio.NewReader(nc)); err != nil {
					return
				}
				io.WriteString(nc, "HTTP/1.1 413 Request Entity Too Large\r\nContent-Length: 9\r\n\r\ntoo large")
				if name == "and close" {
					return
				}
				<-refused
			}()
			resp := post(t, t.Context(), client(t, func() {}), "http://"+l.Addr().String(), bytes.NewReader(noise(1, 32<<20)))
			if b, err := io.ReadAll(resp.Body); resp.StatusCode != 413 || string(b) != "too large" || err != nil {
				t.Errorf("%d, %q, %v", resp.StatusCode, b, err)
			}
			resp.Body.Close()
			close(refused)
			<-stop
		})
	}
}

func TestCanceledAnswerEndsAtTheServer(t *testing.T) {
	left := make(chan struct{}, 4)
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
		resp := post(t, ctx, s.client, s.URL, nil)
		c := collect(resp)
		<-c.begun
		leave(cancel, resp)
		if text, err := c.wait(t); text != "begun" || !errors.Is(err, gone) && !errors.Is(err, errClosed) {
			t.Errorf("%s: %q, %v", name, text, err)
		}
		<-left
		cancel(nil)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	resp := post(t, ctx, s.client, s.URL, nil)
	resp.Body.Read(make([]byte, 5))
	time.AfterFunc(time.Millisecond, func() { cancel(gone) })
	if _, err := io.ReadAll(resp.Body); !errors.Is(err, gone) {
		t.Errorf("while it is read: %v", err)
	}
	<-left
	ctx, cancel = context.WithCancelCause(t.Context())
	cancel(gone)
	early, _ := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
	if _, err := s.client.Do(early); !errors.Is(err, gone) {
		t.Errorf("before the request: %v", err)
	}
	ctx, cancel = context.WithCancelCause(t.Context())
	time.AfterFunc(time.Millisecond, func() { cancel(gone) })
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/mute", nil)
	if _, err := s.client.Do(req); !errors.Is(err, gone) {
		t.Errorf("before the header: %v", err)
	}
	cancel(nil)
}

// wire is a server that says what a test wants, byte by byte, to each request.
func wire(t testing.TB, say func(c *net.TCPConn, n int)) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer nc.Close()
				r := bufio.NewReader(nc)
				for n := 0; ; n++ {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					io.Copy(io.Discard, req.Body)
					say(nc.(*net.TCPConn), n)
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); serving.Wait() })
	return "http://" + l.Addr().String()
}

const ok = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

func TestCutAnswerIsNoWholeOne(t *testing.T) {
	for name, say := range map[string]func(c *net.TCPConn){
		"data and the end in one":   func(c *net.TCPConn) { io.WriteString(c, ok+"4\r\nhalf\r\n"); c.Close() },
		"data, then the end":        func(c *net.TCPConn) { io.WriteString(c, ok+"4\r\nhalf\r\n"); c.CloseWrite() },
		"data and a reset":          func(c *net.TCPConn) { io.WriteString(c, ok+"4\r\nhalf\r\n"); c.SetLinger(0); c.Close() },
		"within a chunk":            func(c *net.TCPConn) { io.WriteString(c, ok+"9\r\nhalf"); c.Close() },
		"a length":                  func(c *net.TCPConn) { io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"); c.Close() },
		"a chunk that is none":      func(c *net.TCPConn) { io.WriteString(c, ok+"4\r\nhalf\r\nHTTP/1.1 200 OK\r\n\r\n") },
		"a chunk of another length": func(c *net.TCPConn) { io.WriteString(c, ok+"4\r\nhalf, and more\r\n") },
	} {
		t.Run(name, func(t *testing.T) {
			url := wire(t, func(c *net.TCPConn, _ int) { say(c) })
			c := client(t, func() {})
			for range 20 { // whichever way the bytes and the end fall into reads
				text, err := collect(post(t, t.Context(), c, url, nil)).wait(t)
				if text != "half" && !(text == "" && strings.Contains(name, "reset")) || err == nil {
					t.Fatalf("pushed %q, %v", text, err)
				}
				resp := post(t, t.Context(), c, url, nil)
				if b, err := io.ReadAll(resp.Body); err == nil {
					t.Fatalf("read %q, %v", b, err)
				}
				resp.Body.Close()
			}
		})
	}
}

func TestAnswerToTheConnectionsEndIsWholeThen(t *testing.T) {
	url := wire(t, func(c *net.TCPConn, _ int) { io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nall of it"); c.Close() })
	if text, err := collect(post(t, t.Context(), client(t, func() {}), url, nil)).wait(t); text != "all of it" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
}

func TestHeaderAndBodyComeInWhateverPieces(t *testing.T) {
	whole := "HTTP/1.1 100 Continue\r\n\r\n" + ok + "5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n"
	var cut atomic.Int32
	url := wire(t, func(c *net.TCPConn, _ int) {
		at := int(cut.Load())
		io.WriteString(c, whole[:at])
		io.WriteString(c, whole[at:])
	})
	var dials atomic.Int32
	c := client(t, func() { dials.Add(1) })
	for i := range 2 * len(whole) {
		at := i / 2
		cut.Store(int32(at))
		if text, err := collect(post(t, t.Context(), c, url, nil)).wait(t); text != "hello, world" || err != nil {
			t.Fatalf("cut at %d: %q, %v", at, text, err)
		}
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestConnectionThatIsNoLongerGoodIsNotUsedAgain(t *testing.T) {
	for name, more := range map[string]func(c *net.TCPConn){
		"closed":            func(c *net.TCPConn) { c.CloseWrite() },
		"something unasked": func(c *net.TCPConn) { io.WriteString(c, "HTTP/1.1 408 Request Timeout\r\n\r\n") },
	} {
		said := make(chan struct{}, 1)
		url := wire(t, func(c *net.TCPConn, n int) {
			io.WriteString(c, ok+"2\r\nhi\r\n0\r\n\r\n")
			if n == 0 {
				more(c)
			}
			said <- struct{}{}
		})
		var dials atomic.Int32
		c := client(t, func() { dials.Add(1) })
		for range 3 {
			text, err := collect(post(t, t.Context(), c, url, nil)).wait(t)
			if text != "hi" || err != nil {
				t.Errorf("%s: %q, %v", name, text, err)
			}
			<-said
		}
		if n := dials.Load(); n != 3 {
			t.Errorf("%s: %d connections for 3 answers", name, n)
		}
	}
}

func TestAnswersWithoutABodyAreOver(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(http.StatusNoContent)
		case "/304":
			w.WriteHeader(http.StatusNotModified)
		default:
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(http.StatusOK)
		}
	})
	for _, r := range [][2]string{{"GET", "/204"}, {"GET", "/304"}, {"HEAD", "/"}} {
		for _, push := range []bool{true, false} {
			req, _ := http.NewRequest(r[0], s.URL+r[1], nil)
			resp, err := s.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if push {
				if text, err := collect(resp).wait(t); text != "" || err != nil {
					t.Errorf("%v: %q, %v", r, text, err)
				}
			} else if b, err := io.ReadAll(resp.Body); len(b) > 0 || err != nil {
				t.Errorf("%v: %q, %v", r, b, err)
			}
		}
	}
	if n := s.dials.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestEndlessHeaderIsRefused(t *testing.T) {
	url := wire(t, func(c *net.TCPConn, _ int) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\n")
		for range 2 * maxHeader / 10 {
			if _, err := io.WriteString(c, "A: bcdef\r\n"); err != nil {
				return
			}
		}
	})
	resp, err := client(t, func() {}).Get(url)
	if err == nil {
		resp.Body.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "header is larger") {
		t.Errorf("%v", err)
	}
}

// TestLateAnswerLeavesNothingBehind: a request may still be on its way when the client is told that it will not be used
// any more.
func TestLateAnswerLeavesNothingBehind(t *testing.T) {
	waits := make(chan struct{})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		<-waits
		io.WriteString(w, "late")
	})
	s.client.CloseIdleConnections()
	s.client.Transport.(*eitherWay).Pollers.Stop()
	c := collect(post(t, t.Context(), s.client, s.URL, nil))
	close(waits)
	if text, err := c.wait(t); text != "late" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	if err := goleak.Find(goleak.IgnoreAnyFunction("net/http.(*Server).Serve"), goleak.IgnoreAnyFunction("net/http.(*conn).serve"), goleak.IgnoreAnyFunction("testing.(*T).Run")); err != nil {
		t.Error(err)
	}
}

func TestOthersAreServedByTheOther(t *testing.T) {
	c := client(t, func() { t.Error("dialed") })
	if _, err := c.Get("https://127.0.0.1:1/"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("https: %v", err)
	}
	pipes := client(t, func() {})
	pipes.Transport.(*eitherWay).Dial = func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		far.Close()
		return near, nil
	}
	if _, err := pipes.Get("http://127.0.0.1:1/"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a pipe: %v", err)
	}
}
