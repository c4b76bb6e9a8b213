package h2

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// opposite is a server that a test plays frame by frame.
type opposite struct {
	t      testing.TB
	nc     net.Conn
	framer *http2.Framer
	heard  chan http2.FrameType // what the client has sent
}

// face opens a connection to an opposite, which reads whatever comes.
func face(t testing.TB) (*conn, *opposite) {
	near, far := net.Pipe()
	o := &opposite{t: t, nc: far, framer: http2.NewFramer(far, far), heard: make(chan http2.FrameType, 100)}
	go func() {
		defer close(o.heard)
		if _, err := io.ReadFull(far, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		for {
			f, err := o.framer.ReadFrame()
			if err != nil {
				return
			}
			select {
			case o.heard <- f.Header().Type:
			default:
			}
		}
	}()
	c, err := newConn(near, func(*conn) {})
	if err != nil {
		t.Fatal(err)
	}
	return c, o
}

// hears waits for a frame of a kind.
func (o *opposite) hears(want http2.FrameType) {
	o.t.Helper()
	for got := range o.heard {
		if got == want {
			return
		}
	}
	o.t.Fatalf("the connection is over, and no %v came", want)
}

func get(t testing.TB) *http.Request {
	req, err := http.NewRequest(http.MethodGet, "https://claude.test/", nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// ask sends a request on a connection, beside the test.
func ask(t testing.TB, c *conn, req *http.Request) <-chan error {
	t.Helper()
	if !c.reserve() {
		t.Fatal("there is no room")
	}
	answered := make(chan error, 1)
	go func() {
		resp, err := c.roundTrip(req)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
		}
		answered <- err
	}()
	return answered
}

func TestConnectionThatSaysNothingIsAskedAndThenGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, o := face(t)
		defer o.nc.Close()
		go c.read()
		o.framer.WriteSettings()
		answered := ask(t, c, get(t))
		begun := time.Now()
		o.hears(http2.FramePing)
		if asked := time.Since(begun); asked < silence || asked > 2*silence {
			t.Errorf("asked after %v", asked)
		}
		if err := <-answered; !errors.Is(err, errLost) {
			t.Errorf("ended with %v", err)
		}
		if dead := time.Since(begun); dead > 2*silence+pingTime {
			t.Errorf("given up after %v", dead)
		}
	})
}

func TestConnectionThatAnswersPingsIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, o := face(t)
		go c.read()
		o.framer.WriteSettings()
		answered := ask(t, c, get(t))
		for range 5 {
			o.hears(http2.FramePing)
			o.framer.WritePing(true, [8]byte{})
		}
		o.nc.Close()
		if err := <-answered; !errors.Is(err, errLost) {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestIdleConnectionIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, o := face(t)
		go c.read()
		o.framer.WriteSettings()
		begun := time.Now()
		for range o.heard {
			o.framer.WritePing(true, [8]byte{})
		}
		if kept := time.Since(begun); kept != idleTime {
			t.Errorf("kept for %v", kept)
		}
	})
}

// What a server may not do ends the answer or the connection, never the process, and never in silence.
func TestServersMistakesAreErrors(t *testing.T) {
	ok := []byte{0x88} // :status: 200, of the static table
	for name, mistake := range map[string]func(*opposite){
		"data before the header": func(o *opposite) { o.framer.WriteData(1, true, []byte("x")) },
		"an end without a status": func(o *opposite) {
			o.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, EndStream: true})
		},
		"a switch of protocols": func(o *opposite) {
			o.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: append([]byte{0x48, 0x03}, "101"...)})
		},
		"a window without end": func(o *opposite) {
			o.framer.WriteWindowUpdate(0, 1<<31-1)
		},
		"a push": func(o *opposite) {
			o.framer.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true, BlockFragment: ok})
		},
		"a refusal": func(o *opposite) { o.framer.WriteRSTStream(1, http2.ErrCodeRefusedStream) },
		"no HTTP":   func(o *opposite) { io.WriteString(o.nc, strings.Repeat("HTTP/1.1 400 Bad Request\r\n\r\n", 2)) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, o := face(t)
				go c.read()
				o.framer.WriteSettings()
				answered := ask(t, c, get(t))
				o.hears(http2.FrameHeaders)
				mistake(o)
				begun := time.Now()
				if err := <-answered; err == nil || time.Since(begun) > 0 {
					t.Errorf("%v after %v", err, time.Since(begun))
				}
				o.nc.Close()
				synctest.Wait()
			})
		})
	}
}

func TestServerThatSendsMoreThanItMayIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, o := face(t)
		go c.read()
		o.framer.WriteSettings()
		if !c.reserve() {
			t.Fatal("there is no room")
		}
		go func() {
			o.hears(http2.FrameHeaders)
			o.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: []byte{0x88}})
			for range 1 + answerWindow>>14 {
				o.framer.WriteData(1, false, make([]byte, 16<<10))
			}
		}()
		resp, err := c.roundTrip(get(t))
		if err != nil {
			t.Fatal(err)
		}
		o.hears(http2.FrameRSTStream)
		if b, err := io.ReadAll(resp.Body); len(b) != answerWindow || !errors.Is(err, errTooFast) {
			t.Errorf("%d bytes, %v", len(b), err)
		}
		o.nc.Close()
		synctest.Wait()
	})
}

// FuzzServer sends a client whatever there is. It must end, and must not wait for ever.
func FuzzServer(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x01\x01\x04\x00\x00\x00\x01\x88" + "\x00\x00\x02\x00\x01\x00\x00\x00\x01hi"))
	f.Add([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00"))
	f.Add([]byte("\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x7f\xff\xff\xff" + "\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x07"))
	f.Fuzz(func(t *testing.T, said []byte) {
		c, o := face(t)
		answered := ask(t, c, get(t))
		over := make(chan struct{})
		go func() { defer close(over); c.read() }()
		o.nc.Write(said)
		o.nc.Close()
		select {
		case <-answered:
		case <-time.After(patience):
			t.Fatal("the answer does not end")
		}
		<-over
	})
}
