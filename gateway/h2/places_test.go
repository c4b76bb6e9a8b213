package h2

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// slow is a connection whose closing takes its time, as one does whose peer takes no bytes.
type slow struct {
	net.Conn
	closing chan struct{}
	free    chan struct{}
}

func (s slow) Close() error {
	select {
	case s.closing <- struct{}{}:
	default:
	}
	<-s.free
	return s.Conn.Close()
}

func TestClosingKeepsNobody(t *testing.T) {
	for name, end := range map[string]func(*conn, *opposite){
		"the server goes away": func(_ *conn, o *opposite) { o.framer.WriteSettings(); o.framer.WriteGoAway(0, http2.ErrCodeNo, nil) },
		"the server is silent": func(c *conn, _ *opposite) {
			c.mu.Lock()
			c.pinged = true
			c.mu.Unlock()
			c.heard.Store(false)
			go c.ask()
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, o := face(t)
			s := slow{Conn: c.nc, closing: make(chan struct{}, 1), free: make(chan struct{})}
			c.nc = s
			read := make(chan struct{})
			go func() { defer close(read); c.read() }()
			end(c, o)
			<-s.closing
			looked := make(chan struct{})
			go func() { defer close(looked); c.reserve() }() // as each request does that looks for a connection
			select {
			case <-looked:
			case <-time.After(patience):
				t.Error("requests are kept")
			}
			close(s.free)
			<-looked
			o.nc.Close()
			<-read
		})
	}
}

func TestBurstIsServedByAServerOfFewAnswers(t *testing.T) {
	var open sync.WaitGroup
	open.Add(40)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		open.Done()
		open.Wait() // no answer makes room for another
		io.WriteString(w, "well")
	}, func(s *httptest.Server) {
		s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 2}
	})
	var callers sync.WaitGroup
	for range 40 {
		callers.Go(func() {
			resp, err := s.client.Post(s.URL, "", strings.NewReader("question"))
			if err != nil {
				t.Error(err)
				open.Done()
				return
			}
			defer resp.Body.Close()
			if text, err := io.ReadAll(resp.Body); string(text) != "well" || err != nil {
				t.Errorf("%q, %v", text, err)
			}
		})
	}
	callers.Wait()
	if n := s.dials.Load(); n > 40 {
		t.Errorf("%d connections", n)
	}
}

// play begins each connection as said, and refuses what comes.
func play(t testing.TB, said func(*http2.Framer)) *server {
	return serve(t, nil, func(s *httptest.Server) {
		s.Config.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){"h2": func(_ *http.Server, nc *tls.Conn, _ http.Handler) {
			io.CopyN(io.Discard, nc, int64(len(http2.ClientPreface)))
			framer := http2.NewFramer(nc, nc)
			said(framer)
			for {
				f, err := framer.ReadFrame()
				if err != nil {
					return
				}
				if f.Header().Type == http2.FrameHeaders {
					framer.WriteRSTStream(f.Header().StreamID, http2.ErrCodeRefusedStream)
				}
			}
		}}
	})
}

func TestServerThatTakesNoRequestIsAnError(t *testing.T) {
	for name, said := range map[string]func(*http2.Framer){
		"it says so":   func(f *http2.Framer) { f.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 0}) },
		"it goes away": func(f *http2.Framer) { f.WriteSettings(); f.WriteGoAway(0, http2.ErrCodeNo, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			s := play(t, said)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			var callers sync.WaitGroup
			for range 20 {
				callers.Go(func() {
					req, _ := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
					if resp, err := s.client.Do(req); err == nil {
						resp.Body.Close()
						t.Error("answered")
					} else if errors.Is(err, context.DeadlineExceeded) {
						t.Error("it waits for ever")
					}
				})
			}
			callers.Wait()
			if n := s.dials.Load(); n > 20*attempts {
				t.Errorf("%d connections", n)
			}
		})
	}
}

func TestServerThatDoesNotBeginIsGivenUp(t *testing.T) {
	certified := httptest.NewTLSServer(nil)
	certified.Close()
	synctest.Test(t, func(t *testing.T) {
		tr := transport(certified.Certificate(), nil)
		tr.TLS.ServerName = "example.com"
		var dials atomic.Int32
		tr.Dial = func(context.Context, string, string) (net.Conn, error) {
			dials.Add(1)
			near, far := net.Pipe()
			go io.Copy(io.Discard, tls.Server(far, &tls.Config{Certificates: certified.TLS.Certificates, NextProtos: []string{"h2"}}))
			return near, nil
		}
		begun := time.Now()
		var callers sync.WaitGroup
		for range 3 {
			callers.Go(func() {
				if _, err := tr.RoundTrip(get(t)); err == nil {
					t.Error("answered")
				}
			})
		}
		callers.Wait()
		if waited := time.Since(begun); waited > handshakeTime {
			t.Errorf("after %v", waited)
		}
		if n := dials.Load(); n != 1 {
			t.Errorf("%d connections", n)
		}
	})
}

// However answers end, nothing of them is left on a connection.
func TestEveryAnswerLeavesItsPlace(t *testing.T) {
	var conns sync.Map
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/early":
			w.WriteHeader(http.StatusForbidden)
			return
		case "/abort":
			panic(http.ErrAbortHandler)
		case "/mute":
			<-r.Context().Done()
			return
		case "/cut":
			if c, ok := conns.Load(r.RemoteAddr); ok {
				c.(*tls.Conn).NetConn().Close()
			}
			return
		}
		io.Copy(io.Discard, r.Body)
		w.Write(make([]byte, 300<<10))
	}, func(s *httptest.Server) {
		s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 7}
		s.Config.ConnState = func(c net.Conn, _ http.ConnState) { conns.Store(c.RemoteAddr().String(), c) }
	})
	paths := []string{"/", "/", "/", "/early", "/abort", "/mute", "/left", "/closed", "/pushed", "/cut"}
	var callers sync.WaitGroup
	for i := range 10 {
		callers.Go(func() {
			for j := range 2 * len(paths) {
				path := paths[(i+j)%len(paths)]
				ctx, cancel := context.WithCancel(t.Context())
				if path == "/mute" || path == "/left" {
					time.AfterFunc(time.Duration(i*j)*time.Microsecond, cancel)
				}
				req, _ := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+path, strings.NewReader(strings.Repeat("x", j<<10)))
				if resp, err := s.client.Do(req); err == nil {
					switch path {
					case "/pushed":
						collect(t, resp).wait(t)
					case "/closed":
					default:
						io.Copy(io.Discard, resp.Body)
					}
					resp.Body.Close()
				} else if path == "/early" && !errors.Is(err, errLost) {
					t.Error(err)
				}
				cancel()
			}
		})
	}
	callers.Wait()
	s.transport.mu.Lock()
	defer s.transport.mu.Unlock()
	for _, h := range s.transport.hosts {
		if h.waiting > 0 {
			t.Errorf("%d requests wait", h.waiting)
		}
		for _, c := range h.conns {
			c.mu.Lock()
			for end := time.Now().Add(patience); c.places > 0 && time.Now().Before(end); { // until the last resets are written
				c.mu.Unlock()
				runtime.Gosched()
				c.mu.Lock()
			}
			if c.places > 0 || len(c.answers) > 0 {
				t.Errorf("%d places are taken, %d answers are left", c.places, len(c.answers))
			}
			c.mu.Unlock()
		}
	}
}
