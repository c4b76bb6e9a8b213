package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"sluice/gateway"
	"sluice/gateway/limits"
)

// The attacks that HTTP/2 makes possible. They come over h2c, which the same server speaks as over TLS.

func overH2C(c *gateway.Config) { c.Server.H2C = true }

// frames is an HTTP/2 connection whose peer sends whatever it likes.
type frames struct {
	t      testing.TB
	conn   net.Conn
	framer *http2.Framer
	next   uint32 // the id of the next request
}

func (h *house) frames(t testing.TB) *frames {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	f := &frames{t, conn, http2.NewFramer(conn, conn), 1}
	f.framer.AllowIllegalWrites = true
	f.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	io.WriteString(conn, http2.ClientPreface)
	f.framer.WriteSettings()
	return f
}

// fields encodes a request's header: name, value, …; those that are not there come from a usual one.
func fields(header ...string) []byte {
	usual := []string{":method", "GET", ":scheme", "http", ":authority", "sluice", ":path", "/v1/models", "x-api-key", aliceKey}
	for name := range slices.Chunk(header, 2) {
		if at := slices.Index(usual, name[0]); at >= 0 {
			usual = slices.Delete(usual, at, at+2)
		}
	}
	var b bytes.Buffer
	encoder := hpack.NewEncoder(&b)
	for _, pseudo := range []bool{true, false} { // which go first
		for field := range slices.Chunk(append(usual, header...), 2) {
			if strings.HasPrefix(field[0], ":") == pseudo {
				encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
			}
		}
	}
	return b.Bytes()
}

// ask sends a request and returns its id.
func (f *frames) ask(body string, header ...string) uint32 {
	id := f.next
	f.next += 2
	f.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: fields(header...), EndHeaders: true, EndStream: body == ""})
	if body != "" {
		f.framer.WriteData(id, true, []byte(body))
	}
	return id
}

// answer reads what a request is answered with: the status, or what the stream or the connection was ended with.
func (f *frames) answer(id uint32) string {
	f.t.Helper()
	for {
		frame, err := f.framer.ReadFrame()
		if err != nil {
			return "closed"
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			if frame.StreamID == id {
				return frame.PseudoValue("status")
			}
		case *http2.RSTStreamFrame:
			if frame.StreamID == id {
				return frame.ErrCode.String()
			}
		case *http2.GoAwayFrame:
			return frame.ErrCode.String()
		}
	}
}

// TestFieldsOfHTTP2AreNoLines has what could end a line, where another one's protocol has lines.
func TestFieldsOfHTTP2AreNoLines(t *testing.T) {
	t.Parallel()
	h := openHouse(t, whole, overH2C, func(c *gateway.Config) { c.Upstream.ForwardPaths = []string{"/v1/files"} })
	const broken = "PROTOCOL_ERROR"
	for _, c := range []struct {
		want   string
		header []string
	}{
		{"200", nil}, {"200", []string{":path", "/v1/models?a=%20b;c"}}, {"200", []string{":path", "http://evil.example/v1/models"}}, {"200", []string{"host", "evil.example"}},
		{"400", []string{":path", "/v1/models?a b HTTP/1.1"}}, {"400", []string{":path", "/v1/models? HTTP/1.0"}}, {"400", []string{":path", "/v1/files?a b"}}, {"400", []string{":path", "/v1/models?\xff"}}, {"400", []string{":path", "/v1/models?a#b"}},
		{"404", []string{":path", "/v1/models/a HTTP/1.1"}}, {"404", []string{":path", "/v1/files/a b"}}, {"404", []string{":path", "//evil.example/v1/models"}}, {"404", []string{":path", "*"}},
		{broken, []string{":path", "/v1/models?a\r\nX-Evil: 1"}}, {broken, []string{":path", "/v1/models?a\x00"}}, {broken, []string{":path", "v1/models"}}, {broken, []string{":path", ""}},
		{"400", []string{":authority", "a b"}}, {"400", []string{":authority", "a/b?c"}}, {"400", []string{":authority", `"<x>`}}, {"400", []string{":authority", ""}}, {broken, []string{":authority", "a\r\nX-Evil: 1"}}, {broken, []string{":authority", "u@a"}},
		{broken, []string{"anthropic-beta", "a\r\nx-evil: 1"}}, {broken, []string{"anthropic-beta", "a\nx-evil: 1"}}, {broken, []string{"anthropic-beta", "a\x00"}}, {broken, []string{"anthropic-beta\r\nx-evil", "a"}}, {broken, []string{"x-stainless-\x00", "a"}},
		{broken, []string{"x-stainless-a b", "a"}}, {broken, []string{"x-stainless-a: b\r\nx-evil", "a"}}, {broken, []string{"X-Stainless-Upper", "a"}}, {broken, []string{":method", "GET /v1/models HTTP/1.1\r\n"}}, {broken, []string{":scheme", "javascript"}}, {broken, []string{":status", "200"}},
		{"405", []string{":method", "G ET"}}, {"405", []string{":method", "TRACE", ":path", "/v1/files"}}, {broken, []string{":method", "CONNECT"}}, {broken, []string{":method", "CONNECT", ":protocol", "websocket"}},
		{"400", []string{"transfer-encoding", "chunked"}}, {"400", []string{"connection", "close"}}, {"400", []string{"upgrade", "h2c"}},
	} {
		before := len(h.upstream.requests())
		f := h.frames(t)
		if got := f.answer(f.ask("", c.header...)); got != c.want {
			t.Errorf("%q is answered with %s, want %s", c.header, got, c.want)
		}
		f.conn.Close()
		seen := h.upstream.requests()[before:]
		if len(seen) > 0 != (c.want == "200") {
			t.Errorf("%q: %d requests reached the upstream", c.header, len(seen))
		}
		for _, r := range seen {
			if !strings.HasPrefix(r.uri, "/v1/models") || r.header.Get("X-Evil") != "" || r.header.Get("Host") != "" {
				t.Errorf("%q: the upstream saw %s %v", c.header, r.uri, r.header)
			}
		}
	}
}

// TestLengthsOfHTTP2AreNotBelieved announces another length than it sends: what went on over HTTP/1.1 with that length
// would end elsewhere.
func TestLengthsOfHTTP2AreNotBelieved(t *testing.T) {
	t.Parallel()
	h := openHouse(t, whole, overH2C)
	body := request("short")
	for length, refused := range map[string]bool{"0": true, "5": true, fmt.Sprint(len(body) - 1): true, fmt.Sprint(len(body) + 1): true, "5, 6": false, "+5": false, "-1": false, "99999999999999999999": false} {
		f := h.frames(t) // what is no length at all is as none
		if got := f.answer(f.ask(body, ":method", "POST", ":path", "/v1/messages", "content-type", "application/json", "content-length", length)); refused && got == "200" {
			t.Errorf("a length of %s is answered with %s", length, got)
		}
		f.conn.Close()
	}
	for _, r := range h.upstream.requests() {
		if r.body != body {
			t.Errorf("the upstream saw %q", r.body)
		}
	}
}

// busy is an upstream that works until its callers leave, and knows for how many.
type busy struct{ now, all atomic.Int64 }

func (u *busy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.all.Add(1)
	u.now.Add(1)
	defer u.now.Add(-1)
	<-r.Context().Done()
}

// TestFloodOfResetsKeepsNothing takes requests back as soon as it has made them, which frees their places in HTTP/2's own
// bound at once: they must not go on behind it.
func TestFloodOfResetsKeepsNothing(t *testing.T) {
	t.Parallel()
	const places, requests = 10, 500
	claude := &busy{}
	h := openHouse(t, claude, overH2C, func(c *gateway.Config) {
		c.Plans["default"] = limits.Plan{ConcurrentStreams: places}
		c.Relay.AbandonAfter = gateway.AbandonAfter{Messages: time.Millisecond, Streams: time.Millisecond}
		c.Relay.Retention = time.Millisecond
	})
	bodies := [][2]string{{"/v1/messages", ask("long")}, {"/v1/messages", request("long")}, {"/v1/streams", request("long")}}
	for range 3 {
		f := h.frames(t)
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			io.Copy(io.Discard, f.conn)
		}()
		for i := range requests {
			c := bodies[i%len(bodies)]
			id := f.ask(c[1], ":method", "POST", ":path", c[0], "content-type", "application/json")
			if f.framer.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
				break // enough, said the server
			}
		}
		h.do("GET", "/v1/streams", "", "x-api-key", bobKey).status(200) // others are served
		for _, u := range h.used().Data {                               // the gauge also counts those that have ended and are not accounted yet
			if u.Open > places {
				t.Errorf("%s has %d streams open, and the plan has %d places", u.Owner, u.Open, places)
			}
		}
		f.conn.Close()
		<-gone
	}
	quiet := func() string { return fmt.Sprintf("%d requests are at the upstream", claude.now.Load()) }
	eventually(t, quiet, func() bool { return claude.now.Load() == 0 })
	if claude.all.Load() == 0 {
		t.Error("no request reached the upstream, so this test proves nothing")
	}
	// All places are there.
	ctx, leave := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	for range places {
		callers.Go(func() {
			for ctx.Err() == nil { // the flood's last may still be on their way out
				h.post(ctx, "/v1/messages", request("long"))
			}
		})
	}
	eventually(t, quiet, func() bool { return claude.now.Load() == places })
	leave()
	callers.Wait()
	h.becomes("sluice_streams_active", 0)
}

// TestHeaderWithoutEndIsNotRead goes on with a request's header in ever new frames.
func TestHeaderWithoutEndIsNotRead(t *testing.T) {
	t.Parallel()
	h := openHouse(t, whole, overH2C)
	f := h.frames(t)
	over := make(chan struct{})
	go func() {
		defer close(over)
		io.Copy(io.Discard, f.conn)
	}()
	f.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: fields(), EndStream: true})
	var more bytes.Buffer
	hpack.NewEncoder(&more).WriteField(hpack.HeaderField{Name: "x-more", Value: strings.Repeat("~", 8000)}) // 13 bits each
	sent := 0
	for f.framer.WriteContinuation(1, false, more.Bytes()) == nil {
		if sent += more.Len(); sent > 100_000_000 {
			t.Fatalf("%d bytes of a header were read", sent)
		}
	}
	receive(t, over, "the connection's end")
	h.do("GET", "/v1/models", "").status(200)
	if n := len(h.upstream.requests()); n != 1 {
		t.Errorf("%d requests reached the upstream", n)
	}
}
