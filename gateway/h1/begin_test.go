package h1

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// ready is a transport with an idle connection to a server, whose answers after the first are f's.
func ready(t *testing.T, f func(c *net.TCPConn, n int)) (*Transport, string) {
	t.Helper()
	url := wire(t, func(c *net.TCPConn, n int) {
		if n == 0 {
			io.WriteString(c, ok+"0\r\n\r\n")
			return
		}
		f(c, n)
	})
	c := client(t, func() {})
	if _, err := collect(post(t, t.Context(), c, url, nil)).wait(t); err != nil {
		t.Fatal(err)
	}
	return c.Transport.(*eitherWay).Transport, url
}

func request(t *testing.T, ctx context.Context, url string, body string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func TestRequestIsBegunOnlyWhereAConnectionIsAtHand(t *testing.T) {
	transport, url := ready(t, func(c *net.TCPConn, _ int) { io.WriteString(c, ok+"2\r\nhi\r\n0\r\n\r\n") })
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for name, req := range map[string]*http.Request{
		"another server":  request(t, t.Context(), "http://127.0.0.1:1/", "x"),
		"a large request": request(t, t.Context(), url, strings.Repeat("x", atOnce+1)),
		"a caller gone":   request(t, gone, url, "x"),
	} {
		if begin(transport, req) != nil {
			t.Errorf("%s: begun", name)
		}
	}
	first := begin(transport, request(t, t.Context(), url, "x"))
	if first == nil {
		t.Fatal("not begun")
	}
	if begin(transport, request(t, t.Context(), url, "x")) != nil {
		t.Error("begun on a connection that carries another answer")
	}
	a := <-first
	if text, err := collect(a.resp).wait(t); text != "hi" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
}

func TestWhatIsBegunEndsWithItsConnectionOrItsContext(t *testing.T) {
	gone := errors.New("the reader is gone")
	for name, c := range map[string]struct {
		answer string // before the connection's end; empty: it stays open
		want   error
	}{
		"no answer":     {"", gone},
		"cut in header": {"HTTP/1.1 200 OK\r\nA: b", io.ErrUnexpectedEOF},
	} {
		transport, url := ready(t, func(nc *net.TCPConn, _ int) {
			if c.answer != "" {
				io.WriteString(nc, c.answer)
				nc.Close()
			}
		})
		ctx, cancel := context.WithCancelCause(t.Context())
		got := begin(transport, request(t, ctx, url, "x"))
		if c.answer == "" {
			cancel(gone)
		}
		if a := <-got; a.resp != nil || !errors.Is(a.err, c.want) {
			t.Errorf("%s: %v, want %v", name, a.err, c.want)
		}
		cancel(nil)
	}
}

// TestBodyIsPushedFromWhereItsHeaderComes: as streams do.
func TestBodyIsPushedFromWhereItsHeaderComes(t *testing.T) {
	large := noise(1, 100<<10)
	transport, url := ready(t, func(c *net.TCPConn, _ int) {
		var b bytes.Buffer
		b.WriteString("HTTP/1.1 200 OK\r\nContent-Length: 102400\r\n\r\n")
		b.Write(large)
		c.Write(b.Bytes())
	})
	for range 3 {
		pushed := make(chan *collector, 1)
		if !transport.Begin(request(t, t.Context(), url, "x"), func(resp *http.Response, err error) {
			if err != nil {
				t.Error(err)
			}
			pushed <- collect(resp)
		}) {
			t.Fatal("not begun")
		}
		if text, err := (<-pushed).wait(t); text != string(large) || err != nil {
			t.Errorf("%d bytes, %v", len(text), err)
		}
	}
}
