package h2

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// answering is a server that begins with these settings, and answers each request by f; n counts from 0.
func answering(t *testing.T, f func(framer *http2.Framer, id uint32, n int), settings ...http2.Setting) *server {
	return serve(t, nil, func(s *httptest.Server) {
		s.Config.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){"h2": func(_ *http.Server, nc *tls.Conn, _ http.Handler) {
			io.CopyN(io.Discard, nc, int64(len(http2.ClientPreface)))
			framer := http2.NewFramer(nc, nc)
			framer.WriteSettings(settings...)
			for n := 0; ; {
				frame, err := framer.ReadFrame()
				if err != nil {
					return
				}
				if frame.Header().Type == http2.FrameHeaders {
					f(framer, frame.Header().StreamID, n)
					n++
				}
			}
		}}
	})
}

// done is an answer without a body.
func done(framer *http2.Framer, id uint32) {
	framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, EndStream: true, BlockFragment: []byte{0x88}})
}

// ready makes the server's connection.
func (s *server) ready(t *testing.T) {
	t.Helper()
	resp, err := s.transport.RoundTrip(s.request(t, t.Context(), "first"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

func (s *server) request(t *testing.T, ctx context.Context, body string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func TestBegunRequestThatTheServerHasNotLookedAtIsSentAgain(t *testing.T) {
	s := answering(t, func(framer *http2.Framer, id uint32, n int) {
		if n == 1 {
			framer.WriteRSTStream(id, http2.ErrCodeRefusedStream)
		} else {
			done(framer, id)
		}
	})
	s.ready(t)
	got := make(chan error, 1)
	if !s.transport.Begin(s.request(t, t.Context(), "again"), func(resp *http.Response, err error) {
		if err == nil {
			resp.Body.Close()
		}
		got <- err
	}) {
		t.Fatal("not begun")
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// TestBeginDoesNotWaitForTheServersWindows: what does not fit into them follows.
func TestBeginDoesNotWaitForTheServersWindows(t *testing.T) {
	more := make(chan struct{})
	s := answering(t, func(framer *http2.Framer, id uint32, n int) {
		if n == 1 {
			<-more // Begin has returned
		}
		framer.WriteWindowUpdate(id, 1000)
		for frame, err := framer.ReadFrame(); err == nil; frame, err = framer.ReadFrame() {
			if d, ok := frame.(*http2.DataFrame); ok && d.StreamEnded() {
				break
			}
		}
		done(framer, id)
	}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 2})
	s.ready(t)
	got := make(chan error, 1)
	if !s.transport.Begin(s.request(t, t.Context(), "a long question"), func(_ *http.Response, err error) { got <- err }) {
		t.Fatal("not begun")
	}
	close(more)
	if err := <-got; err != nil {
		t.Error(err)
	}
}

func TestBegunRequestEndsWithItsContext(t *testing.T) {
	s := answering(t, func(framer *http2.Framer, id uint32, n int) {
		if n == 0 {
			done(framer, id)
		}
	})
	s.ready(t)
	gone := errors.New("the reader is gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	got := make(chan error, 1)
	if !s.transport.Begin(s.request(t, ctx, "never answered"), func(_ *http.Response, err error) { got <- err }) {
		t.Fatal("not begun")
	}
	cancel(gone)
	if err := <-got; !errors.Is(err, gone) {
		t.Error(err)
	}
	if s.transport.Begin(s.request(t, ctx, "gone"), func(*http.Response, error) {}) {
		t.Error("begun for a caller who is gone")
	}
}
