package httpapi

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/labstack/echo/v4"
)

// oneConn is a server's end of a connection.
type oneConn struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l oneConn) Close() error   { close(l.closed); return nil }
func (l oneConn) Addr() net.Addr { return &net.UnixAddr{} }

// connected is a connection to a server with that handler.
func connected(t *testing.T, handler echo.HandlerFunc) net.Conn {
	ours, theirs := net.Pipe()
	l := oneConn{make(chan net.Conn, 1), make(chan struct{})}
	l.conns <- theirs
	e := echo.New()
	e.POST("/", handler)
	server := &http.Server{Handler: e}
	var served sync.WaitGroup
	served.Go(func() { server.Serve(l) })
	t.Cleanup(func() {
		ours.Close()
		server.Close()
		served.Wait()
	})
	return ours
}

// post sends a request, of which only the beginning may come, and reads the answer.
func post(t *testing.T, c net.Conn, in *bufio.Reader, length int, body string) string {
	t.Helper()
	if _, err := fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", length, body); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(in, httptest.NewRequest("POST", "/", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

func TestGivingUpARequestThatWasReadLeavesItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := connected(t, func(c echo.Context) error {
			p := newPatientReader(c, 100, time.Minute)
			body, err := io.ReadAll(p)
			if err != nil {
				return err
			}
			p.giveUp()
			synctest.Wait()
			if c.Request().Context().Err() != nil {
				body = []byte("the client is taken for gone")
			}
			return c.String(http.StatusOK, string(body))
		})
		in := bufio.NewReader(c)
		for range 2 {
			if got := post(t, c, in, 5, "hello"); got != "hello" {
				t.Error(got)
			}
		}
	})
}

func TestReaderThatWaitsIsGivenUpAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := connected(t, func(c echo.Context) error {
			begun := time.Now()
			p := newPatientReader(c, 100, time.Minute)
			time.AfterFunc(time.Second, p.giveUp)
			_, err := io.ReadAll(p)
			return c.String(http.StatusOK, fmt.Sprintf("%v: %v", time.Since(begun), err))
		})
		if got := post(t, c, bufio.NewReader(c), 5, "hel"); !strings.HasPrefix(got, "1s: ") || !strings.Contains(got, "timeout") {
			t.Error(got)
		}
	})
}
