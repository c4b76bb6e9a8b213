package h2

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

func TestRequestsThatCannotBeSentTakeNoPlace(t *testing.T) {
	s := serve(t, func(http.ResponseWriter, *http.Request) {}, func(s *httptest.Server) { s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 4} })
	s.post(t, t.Context(), "/", nil).Body.Close()
	for range 10 {
		req, _ := http.NewRequest(http.MethodGet, s.URL, nil)
		req.Header["X-Split"] = []string{"a\r\nb: c"}
		if _, err := s.client.Do(req); err == nil {
			t.Fatal("sent")
		}
		req, _ = http.NewRequest(http.MethodPost, s.URL, iotest.ErrReader(errTorn))
		req.ContentLength = 10
		if _, err := s.client.Do(req); !errors.Is(err, errTorn) {
			t.Fatalf("%v", err)
		}
	}
	s.post(t, t.Context(), "/", nil).Body.Close()
	if n := s.dials.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

var errTorn = errors.New("torn")

func TestSmallRequestWaitsForItsWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, o := face(t)
		go c.read()
		o.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 2})
		synctest.Wait()
		req, _ := http.NewRequest(http.MethodPost, "https://claude.test/", strings.NewReader("small"))
		answered := ask(t, c, req)
		o.hears(http2.FrameHeaders)
		o.hears(http2.FrameData)
		synctest.Wait()
		if len(o.heard) > 0 {
			t.Error("more than the window allows")
		}
		o.framer.WriteWindowUpdate(1, 100)
		o.hears(http2.FrameData)
		o.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, EndStream: true, BlockFragment: []byte{0x88}})
		if err := <-answered; err != nil {
			t.Error(err)
		}
		o.nc.Close()
		synctest.Wait()
	})
}

// It has no bytes, and goes out also where the server has taken back what it had allowed.
func TestEndOfARequestNeedsNoWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, o := face(t)
		go c.read()
		o.framer.WriteSettings()
		more, body := io.Pipe()
		req, _ := http.NewRequest(http.MethodPost, "https://claude.test/", more)
		answered := ask(t, c, req)
		io.WriteString(body, "some of it")
		o.hears(http2.FrameData)
		o.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		synctest.Wait()
		body.Close()
		o.hears(http2.FrameData)
		o.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, EndStream: true, BlockFragment: []byte{0x88}})
		if err := <-answered; err != nil {
			t.Error(err)
		}
		o.nc.Close()
		synctest.Wait()
	})
}

func TestAnswerThatBeginsBeforeTheRequestEndsGetsAllOfIt(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		http.NewResponseController(w).Flush()
		sum := sha256.New()
		io.Copy(sum, r.Body)
		fmt.Fprintf(w, "%x", sum.Sum(nil))
	})
	up := string(noise(1, 3<<20))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	resp := s.post(t, ctx, "/", strings.NewReader(up))
	if text, err := collect(t, resp).wait(t); err != nil || text != fmt.Sprintf("%x", sha256.Sum256([]byte(up))) {
		t.Errorf("%q, %v", text, err)
	}
}

func TestRefusedRequestIsNotSentToItsEnd(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		io.WriteString(w, "too large")
	})
	for range 3 {
		resp := s.post(t, t.Context(), "/", strings.NewReader(string(noise(1, 3<<20))))
		if text, err := io.ReadAll(resp.Body); string(text) != "too large" || err != nil {
			t.Errorf("%q, %v", text, err)
		}
	}
	if n := s.dials.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestCallerLeavesAServerThatTakesNothing(t *testing.T) {
	near, far := net.Pipe() // which holds nothing
	begun := make(chan struct{})
	go func() {
		defer close(begun)
		io.CopyN(io.Discard, far, int64(len(http2.ClientPreface)))
		server := http2.NewFramer(far, far)
		server.ReadFrame()
		server.ReadFrame()
		server.WriteSettings()
		server.ReadFrame() // the last that it reads
	}()
	c, err := newConn(near, func(*conn) {})
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() { defer close(over); c.read() }()
	defer func() { far.Close(); <-over }()
	<-begun
	gone := errors.New("gone")
	for _, body := range []io.Reader{strings.NewReader("what no server reads"), nil} { // the second waits for the first
		if !c.reserve() {
			t.Fatal("there is no room")
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "https://claude.test/", body)
		answered := make(chan error, 1)
		go func() {
			_, err := c.roundTrip(req)
			answered <- err
		}()
		cancel(gone)
		select {
		case err := <-answered:
			if !errors.Is(err, gone) {
				t.Errorf("ended with %v", err)
			}
		case <-time.After(patience):
			t.Error("the caller is kept")
		}
	}
}

func TestRequestOfACallerWhoHasLeftIsNotSent(t *testing.T) {
	s := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/left" {
			t.Error("it was sent")
		}
	})
	s.post(t, t.Context(), "/", nil).Body.Close()
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	for range 20 {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/left", nil)
		if _, err := s.client.Do(req); !errors.Is(err, gone) {
			t.Errorf("ended with %v", err)
		}
	}
	s.post(t, t.Context(), "/", nil).Body.Close()
}

// Servers and what stands before them refuse a POST that doesn't say how long it is (RFC 9110 §8.6).
func TestRequestSaysThatItHasNoBody(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Length", strings.Join(r.Header["Content-Length"], ",")+strconv.FormatInt(r.ContentLength, 10))
		w.Header().Set("X-Method", r.Method)
	})
	for method, sent := range map[string]bool{"POST": true, "PUT": true, "PATCH": true, "GET": false, "": false, "DELETE": false} {
		req, _ := http.NewRequest(method, s.URL, nil)
		req.Method = method
		resp, err := s.client.Do(req)
		if err != nil {
			t.Errorf("%s: %v", method, err)
			continue
		}
		resp.Body.Close()
		said := resp.Header.Get("X-Length")
		if want := map[bool]string{true: "00", false: "0"}[sent]; said != want {
			t.Errorf("%s: the server hears of the length %q", method, said)
		}
	}
}
