package gateway_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/gateway"
)

// The hot path through the whole house, on the loopback, between a Claude and readers that allocate nothing themselves once
// their streams flow: what is allocated is the gateway's. Times hold a system call or two of theirs for each event.

// protocols are those that a Claude may speak.
var protocols = []string{"plain HTTP/1.1", "HTTP/2 over TLS"}

// openBenchHouse starts a gateway before a spring, as it would run: its log is written, and few streams are kept.
func openBenchHouse(t testing.TB, s *spring) *house {
	t.Helper()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	return openHouseWith(t, gateway.Options{Log: log}, saying(0), func(c *gateway.Config) {
		c.Upstream.BaseURL, c.Upstream.CAFile = s.url, s.ca
		c.Relay.Retention = time.Millisecond
		c.Relay.PingInterval = time.Hour
	})
}

// A relayed event allocates nothing in steady state: from Claude's bytes to the reader's, with its check, its number, its
// place in the log and what is counted. (The log grows by pieces that hold many events; what it allocates less than once an
// event is not seen here.) crypto/tls allocates once, 24 bytes, each time that it reads from the network; with the race
// detector also, twice an event, in place of buffers that it takes out of their pools.
func TestRelayedEventAllocatesNothing(t *testing.T) { // alone: it counts all that is allocated
	tls := 1.0
	if underRace() {
		tls = 3
	}
	for protocol, theirs := range map[string]float64{"plain HTTP/1.1": 0, "HTTP/2 over TLS": tls} {
		t.Run(protocol, func(t *testing.T) {
			f := openFlow(t, protocol)
			for range 500 { // buffers find their size
				f.relay()
			}
			if n := testing.AllocsPerRun(3000, f.relay); n > theirs {
				t.Errorf("%v allocations an event, want %v", n, theirs)
			}
			f.end()
		})
	}
}

func underRace() bool {
	info, _ := debug.ReadBuildInfo()
	return info != nil && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// One event from Claude's write to its reader's read, alone on its way.
func BenchmarkRelayOneEventThroughTheHouse(b *testing.B) {
	for _, protocol := range protocols {
		b.Run(protocol, func(b *testing.B) {
			f := openFlow(b, protocol)
			b.ReportAllocs()
			for i := 1; b.Loop(); i++ {
				if f.relay(); i%50_000 == 0 { // a log has its bound
					f.again()
				}
			}
			f.end()
		})
	}
}

// flow is a stream that is open, with its reader.
type flow struct {
	house  *house
	spring *spring
	reader *rawReader
	stream outlet
	event  []byte
}

func openFlow(t testing.TB, protocol string) *flow {
	s := newSpring(t, protocol, nil)
	f := &flow{house: openBenchHouse(t, s), spring: s, event: []byte(delta("a word "))}
	f.begin()
	return f
}

func (f *flow) begin() {
	f.reader = f.house.dial(f.house.t)
	f.reader.ask("/v1/messages", ask("long"))
	f.stream = receive(f.reader.t, f.spring.streams, "a request at the upstream")
	for _, event := range []string{start, block} {
		f.stream.send([]byte(event))
		f.reader.until(endOfEvent)
	}
}

// relay sends one event and reads it.
func (f *flow) relay() {
	f.stream.send(f.event)
	f.reader.until(endOfEvent)
}

func (f *flow) end() {
	f.stream.send([]byte(strings.Join(tail, "")))
	f.stream.finish()
	f.reader.until(endOfBody)
	f.reader.conn.Close()
}

func (f *flow) again() {
	f.end()
	f.begin()
}

// One event to each of 100 viewers that are in pace; the time is also told for each of them.
func BenchmarkDeliverOneEventTo100Viewers(b *testing.B) {
	const viewers = 100
	f := newFaucet()
	h := openHouseWith(b, gateway.Options{Log: slog.New(slog.NewTextHandler(io.Discard, nil))}, f, func(c *gateway.Config) { c.Relay.PingInterval = time.Hour })
	w := h.watching(b, f)
	readers := make([]*rawReader, viewers)
	for i := range readers {
		readers[i] = h.dial(b)
		readers[i].get(strings.TrimPrefix(w.o.EventsURL, h.url) + "&exact=1")
		readers[i].until(endOfEvent)
	}
	event := delta("a word ")
	deliver := func(event string) {
		w.up.send(event)
		for _, r := range readers {
			r.until(endOfEvent)
		}
	}
	deliver(block)
	b.ReportAllocs()
	for b.Loop() {
		deliver(event)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*viewers), "ns/delivery")
	w.up.finish()
	for _, r := range readers {
		r.until(endOfBody)
		r.conn.Close()
	}
	w.r.rest()
}

// One stream of 20 deltas that come at once: asked for on a connection of its own, opened at Claude, relayed, accounted and
// forgotten.
func BenchmarkOpenAndCloseOneStream(b *testing.B) {
	for _, protocol := range protocols {
		b.Run(protocol, func(b *testing.B) {
			s := newSpring(b, protocol, message(20))
			h := openBenchHouse(b, s)
			body := ask("short")
			b.ReportAllocs()
			for b.Loop() {
				r := h.dial(b)
				r.ask("/v1/messages", body)
				r.until(endOfBody)
				r.conn.Close()
			}
		})
	}
}

// What chunks of a response end in.
const (
	endOfEvent = "\n\n\r\n"
	endOfBody  = "\r\n0\r\n\r\n"
)

// rawReader is a caller's connection, of which only the end of what comes is kept.
type rawReader struct {
	t    testing.TB
	conn net.Conn
	host string
	buf  []byte
}

func (h *house) dial(t testing.TB) *rawReader {
	t.Helper()
	host := strings.TrimPrefix(h.url, "http://")
	conn, err := net.Dial("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(20 * patience))
	return &rawReader{t, conn, host, make([]byte, 1024)}
}

func (r *rawReader) ask(path, body string) {
	r.write(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nX-Api-Key: %s\r\nAnthropic-Version: 2023-06-01\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, r.host, aliceKey, len(body), body))
}

func (r *rawReader) get(path string) {
	r.write(fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nX-Api-Key: %s\r\n\r\n", path, r.host, aliceKey))
}

func (r *rawReader) write(request string) {
	r.t.Helper()
	if _, err := io.WriteString(r.conn, request); err != nil {
		r.t.Fatal(err)
	}
}

// until reads until what has come ends so.
func (r *rawReader) until(suffix string) {
	for n := 0; ; {
		if n == len(r.buf) { // what matters is the end
			n = copy(r.buf, r.buf[n-len(suffix):])
		}
		m, err := r.conn.Read(r.buf[n:])
		n += m
		if n >= len(suffix) && string(r.buf[n-len(suffix):n]) == suffix {
			return
		}
		if err != nil {
			r.t.Fatalf("%v after %q", err, r.buf[:n])
		}
		if bytes.HasPrefix(r.buf[:n], []byte("HTTP/1.1 ")) && !bytes.HasPrefix(r.buf[9:n], []byte("200")) {
			r.t.Fatalf("%s", r.buf[:n])
		}
	}
}
