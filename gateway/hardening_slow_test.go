package gateway

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"sluice/gateway/auth"
	"sluice/gateway/claude"
	"sluice/gateway/httpapi"
	"sluice/gateway/limits"
	"sluice/gateway/metrics"
	"sluice/gateway/relay"
)

// Senders that are slow on purpose, each of which costs a connection and a goroutine: they are closed in bounded time, and
// stop nobody. The gateway and its callers are in a bubble here, where time passes at once, with pipes for connections.

// pipes is a listener whose connections are pipes.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

func (p *pipes) dial(t testing.TB) net.Conn {
	t.Helper()
	here, there := net.Pipe()
	select {
	case p.conns <- there:
	case <-time.After(time.Minute):
		t.Fatal("nobody accepts connections")
	}
	return here
}

// pass lets time go by inside a bubble.
func pass(d time.Duration) { <-time.After(d) }

// slowHouse is the gateway's public server in a bubble. It has no store, which reads and writes files; nobody gets so far.
type slowHouse struct {
	t      testing.TB
	api    *httpapi.API
	public *pipes
}

const slowKey = "sk-slow"

// inBubble opens one, changes it before it serves, and closes it after the visit.
func inBubble(t *testing.T, change func(*Gateway), visit func(h *slowHouse)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m, log := metrics.New("test"), slog.New(slog.DiscardHandler)
		client, err := claude.New(claude.Config{BaseURL: "http://192.0.2.1"}, m, log)
		if err != nil {
			t.Fatal(err)
		}
		who, err := auth.New(auth.Config{Keys: []auth.Key{{ID: "alice", Key: slowKey, Plan: "default"}}}, log)
		if err != nil {
			t.Fatal(err)
		}
		origins, err := httpapi.NewOrigins(nil)
		if err != nil {
			t.Fatal(err)
		}
		r := Defaults().Relay
		streams := relay.New(relay.Config{Retention: r.Retention, Memory: r.Memory}, client, limits.New(map[string]limits.Plan{"default": {}}), limits.NewQueue(0), m, log)
		api := httpapi.New(httpapi.Config{Hold: r.Hold, PingInterval: r.PingInterval, StallTimeout: r.StallTimeout, Origins: origins}, who, streams, nil, nil, nil, client, m, log)
		g := &Gateway{cfg: Defaults(), log: log, api: api}
		change(g)
		h := &slowHouse{t, api, newPipes()}
		server := g.publicServer()
		stopped := make(chan error, 1)
		go func() { stopped <- server.Serve(g.secure(h.public)) }()
		visit(h)
		server.Close()
		if err := <-stopped; err != http.ErrServerClosed {
			t.Error(err)
		}
	})
}

// attacker is a connection that says something at once, and then a little from time to time, as long as it can.
type attacker struct {
	answer strings.Builder
	ended  time.Duration // when it was closed
	over   chan struct{}
}

func (h *slowHouse) attack(first, drop string, every time.Duration) *attacker {
	conn := h.public.dial(h.t)
	a := &attacker{over: make(chan struct{})}
	begun := time.Now()
	go func() {
		defer close(a.over)
		io.Copy(&a.answer, conn)
		a.ended = time.Since(begun)
		conn.Close()
	}()
	go func() {
		if _, err := io.WriteString(conn, first); err != nil || every == 0 {
			return
		}
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				io.WriteString(conn, drop)
			case <-a.over:
				return
			}
		}
	}()
	return a
}

// ends looks when the connection is closed, and what has been said before.
func (a *attacker) ends(t testing.TB, name string, least, most time.Duration, status int) {
	t.Helper()
	<-a.over
	if a.ended < least || a.ended > most {
		t.Errorf("%s: closed after %s, want %s to %s", name, a.ended, least, most)
	}
	got := 0
	fmt.Sscanf(a.answer.String(), "HTTP/1.1 %d", &got)
	if got != status {
		t.Errorf("%s: answered with %q, want %d", name, a.answer.String(), status)
	}
}

// serves looks that a caller like any other is answered at once.
func (h *slowHouse) serves() {
	h.t.Helper()
	begun := time.Now()
	conn := h.public.dial(h.t)
	defer conn.Close()
	go io.WriteString(conn, "GET /v1/usage HTTP/1.1\r\nHost: sluice\r\nX-Api-Key: "+slowKey+"\r\nConnection: close\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusOK || time.Since(begun) > 0 {
		h.t.Errorf("somebody else is answered with %v, %v after %s", resp, err, time.Since(begun))
		return
	}
	io.Copy(io.Discard, resp.Body)
}

// held is the memory that is reserved for requests' bodies.
func (h *slowHouse) held() (bytes float64) {
	h.t.Helper()
	w := httptest.NewRecorder()
	h.api.Admin().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	_, after, _ := strings.Cut(w.Body.String(), "\nsluice_log_bytes ")
	if _, err := fmt.Sscan(after, &bytes); err != nil {
		h.t.Fatal(err)
	}
	return bytes
}

func TestSlowHeadersAreCutOffAndStopNobody(t *testing.T) {
	const get = "GET /v1/usage HTTP/1.1\r\nHost: sluice\r\n"
	inBubble(t, func(*Gateway) {}, func(h *slowHouse) {
		attackers := map[string]*attacker{
			"silence":               h.attack("", "", 0),
			"half a line":           h.attack("GET /v1/str", "", 0),
			"half a header":         h.attack(get+"X-A: b\r\n", "", 0),
			"a byte now and then":   h.attack(get+"X-A: ", "b", 3*time.Second),
			"a header now and then": h.attack(get, "X-A: b\r\n", 9*time.Second),
		}
		for i := range 1000 {
			attackers[fmt.Sprint("one of many ", i)] = h.attack(get, "X-A: b\r\n", time.Second)
		}
		synctest.Wait()
		h.serves()
		pass(headerPatience / 2)
		h.serves()
		for name, a := range attackers {
			status := 0
			if name == "half a line" { // is taken for a whole one when the time is over
				status = 400
			}
			a.ends(t, name, headerPatience, headerPatience, status)
		}
		// Behind an answer it is the same, and who says nothing more has a while longer.
		authorized := get + "X-Api-Key: " + slowKey + "\r\n\r\n"
		h.attack(authorized+get, "X-A: b\r\n", time.Second).ends(t, "a second header", headerPatience, headerPatience, 200)
		h.attack(authorized, "", 0).ends(t, "no second header", idlePatience, idlePatience, 200)
		h.attack(authorized, "\r\n", 50*time.Second).ends(t, "line ends", headerPatience, idlePatience+headerPatience, 200)
	})
}

func TestSlowBodiesAreCutOffAndStopNobody(t *testing.T) {
	post := func(key, more string) string {
		return "POST /v1/messages HTTP/1.1\r\nHost: sluice\r\nContent-Type: application/json\r\nX-Api-Key: " + key + "\r\n" + more
	}
	const length, chunks = "Content-Length: 1000000\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"
	// What httpapi gives a body: 30 s for each byte, 5 min for all.
	const silent, whole = 30 * time.Second, 5 * time.Minute
	inBubble(t, func(*Gateway) {}, func(h *slowHouse) {
		attackers := map[string]struct {
			*attacker
			least, most time.Duration
			status      int
		}{
			"silence":                 {h.attack(post(slowKey, length), "", 0), silent, silent + time.Second, 408},
			"a byte now and then":     {h.attack(post(slowKey, length), " ", 20*time.Second), whole, whole + time.Second, 408},
			"chunks now and then":     {h.attack(post(slowKey, chunks), "1\r\n \r\n", 20*time.Second), whole, whole + time.Second, 408},
			"half a chunk":            {h.attack(post(slowKey, chunks+"fff"), "", 0), silent, silent + time.Second, 408},
			"a nobody":                {h.attack(post("wrong", length), " ", time.Millisecond), 0, 2 * time.Second, 401},
			"a nobody who is silent":  {h.attack(post("wrong", length), "", 0), 0, 2 * time.Second, 401},
			"nothing but the promise": {h.attack(post(slowKey, "Content-Length: 32000000\r\n\r\n"), "", 0), silent, silent + time.Second, 408},
			"to no route":             {h.attack(strings.Replace(post(slowKey, length), "/v1/messages", "/nothing", 1), " ", 100*time.Millisecond), 0, 2 * time.Second, 404},
		}
		var many []*attacker
		for range 1000 {
			many = append(many, h.attack(post(slowKey, "Content-Length: 31000000\r\n\r\n{"), "", 0))
		}
		synctest.Wait()
		h.serves()
		if n := h.held(); n > 1010*8<<10 {
			t.Errorf("%v bytes are held for what has not come", n)
		}
		for _, a := range many {
			a.ends(t, "one of many", silent, silent+time.Second, 408)
		}
		h.serves()
		for name, a := range attackers {
			a.ends(t, name, a.least, a.most, a.status)
		}
		if n := h.held(); n != 0 {
			t.Errorf("%v bytes are held at the end", n)
		}
	})
}

func TestHalfAHandshakeIsCutOff(t *testing.T) {
	inBubble(t, func(g *Gateway) { g.cert = &certificate{} }, func(h *slowHouse) {
		for name, first := range map[string]string{"silence": "", "half a record": "\x16\x03\x01\x02\x00\x01"} {
			h.attack(first, "", 0).ends(t, name, headerPatience, headerPatience, 0)
		}
		h.attack("\x16\x03\x01\x02\x00\x01", "\x00", time.Second).ends(t, "a byte now and then", headerPatience, headerPatience, 0)
	})
}

// slowFrames is an HTTP/2 connection that reads, and answers pings if it wants to.
func (h *slowHouse) slowFrames(answersPings bool) (f *http2.Framer, status chan string, ended chan time.Duration) {
	conn := h.public.dial(h.t)
	f = http2.NewFramer(conn, conn)
	f.AllowIllegalWrites = true
	begun := time.Now()
	status, ended = make(chan string, 10), make(chan time.Duration, 1)
	pongs := make(chan [8]byte, 10)
	go func() { // apart from reading, which the pipe's other end may wait for; a frame is one write
		answers := http2.NewFramer(conn, nil)
		for data := range pongs {
			answers.WritePing(true, data)
		}
	}()
	go func() {
		defer func() {
			close(pongs)
			conn.Close()
			ended <- time.Since(begun)
		}()
		decoder := hpack.NewDecoder(4096, func(field hpack.HeaderField) {
			if field.Name == ":status" {
				status <- field.Value
			}
		})
		for {
			frame, err := f.ReadFrame()
			switch frame := frame.(type) {
			case *http2.PingFrame:
				if answersPings && !frame.IsAck() {
					pongs <- frame.Data
				}
			case *http2.HeadersFrame:
				decoder.Write(frame.HeaderBlockFragment())
			}
			if err != nil && !errors.As(err, new(http2.StreamError)) {
				return
			}
		}
	}()
	io.WriteString(conn, http2.ClientPreface)
	f.WriteSettings()
	f.WriteSettingsAck()
	return f, status, ended
}

func block(fields ...string) []byte {
	var b strings.Builder
	encoder := hpack.NewEncoder(&b)
	for i := 0; i < len(fields); i += 2 {
		encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return []byte(b.String())
}

func TestSlowSendersOverHTTP2AreCutOffAndStopNobody(t *testing.T) {
	get := block(":method", "GET", ":scheme", "http", ":authority", "sluice", ":path", "/v1/usage", "x-api-key", slowKey)
	post := block(":method", "POST", ":scheme", "http", ":authority", "sluice", ":path", "/v1/messages", "x-api-key", slowKey, "content-type", "application/json")
	inBubble(t, func(g *Gateway) { g.cfg.Server.H2C = true }, func(h *slowHouse) {
		h.attack(http2.ClientPreface[:10], "", 0).ends(t, "half a preface", headerPatience, headerPatience, 400)
		h.attack(http2.ClientPreface, "", 0).ends(t, "a preface alone", 0, headerPatience, 0)

		// Header blocks that do not end: who is asked, and doesn't answer, is closed; who answers, when it is idle for long.
		f, _, ended := h.slowFrames(false)
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: get[:3]})
		if took := <-ended; took > deadAfter+answerWithin+time.Second {
			t.Errorf("half a header of somebody dead: closed after %s", took)
		}
		f, _, ended = h.slowFrames(true)
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: get[:3]})
		if took := <-ended; took > idlePatience+time.Second {
			t.Errorf("half a header: closed after %s", took)
		}

		// Bodies that do not end. The connection's other requests are answered meanwhile.
		f, status, ended := h.slowFrames(true)
		for id := uint32(1); id < 200; id += 2 {
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: post, EndHeaders: true})
			f.WriteData(id, false, []byte("{"))
		}
		synctest.Wait()
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: 201, BlockFragment: get, EndHeaders: true, EndStream: true})
		begun := time.Now()
		if got := <-status; got != "200" || time.Since(begun) > 0 {
			t.Errorf("another request is answered with %s after %s", got, time.Since(begun))
		}
		h.serves()
		for range 100 {
			if got := <-status; got != "408" {
				t.Fatalf("half a body is answered with %s", got)
			}
		}
		if took := time.Since(begun); took > 31*time.Second {
			t.Errorf("half a body is answered after %s", took)
		}
		if n := h.held(); n != 0 {
			t.Errorf("%v bytes are held at the end", n)
		}
		if took := <-ended; took > 30*time.Second+idlePatience+time.Second {
			t.Errorf("closed after %s", took)
		}
	})
}
