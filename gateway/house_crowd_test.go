//go:build unix

package gateway_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sluice/gateway"
)

// crowd is how many viewers one stream has at once.
const crowd = 8000

// BenchmarkEightThousandViewers has that many connections read one stream, from its first event to its end. Each must see
// all of it.
func BenchmarkEightThousandViewers(b *testing.B) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < 2*crowd+200 {
		b.Skipf("needs %d descriptors; the limit is %d", 2*crowd+200, limit.Cur)
	}
	f := newFaucet()
	h := openHouse(b, f, func(c *gateway.Config) { c.Relay.PingInterval = time.Hour })
	const deltas = 20
	want := 0
	for b.Loop() {
		b.StopTimer()
		w := h.watching(b, f)
		viewers := h.gather(b, w.o.EventsURL+"&exact=1")
		h.becomes("sluice_viewers_active", crowd+1)
		var readers sync.WaitGroup
		seen := make([][]byte, crowd)
		for i, conn := range viewers {
			readers.Go(func() {
				defer conn.Close()
				seen[i], _ = io.ReadAll(conn)
			})
		}
		b.StartTimer()
		w.up.send(block)
		for i := range deltas {
			w.up.send(delta(fmt.Sprintf("word %d ", i)))
		}
		w.up.finish()
		readers.Wait()
		b.StopTimer()
		events := w.r.rest()
		want += (crowd + 1) * (len(events) + 1)
		for i, body := range seen {
			if n := bytes.Count(body, []byte("\nid: ")); n != len(events)+1 || !bytes.HasSuffix(body, []byte("0\r\n\r\n")) {
				b.Fatalf("viewer %d saw %d events, want %d: %.200q", i, n, len(events)+1, body[max(0, len(body)-200):])
			}
		}
		b.StartTimer()
	}
	h.becomes("sluice_viewer_events_total", float64(want))
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(want), "ns/event")
}

// gather opens the crowd's connections, some at a time.
func (h *house) gather(t testing.TB, url string) []net.Conn {
	t.Helper()
	host := strings.TrimPrefix(h.url, "http://")
	line := "GET " + strings.TrimPrefix(url, h.url) + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n"
	conns := make([]net.Conn, crowd)
	var dialers sync.WaitGroup
	for part := range 32 {
		dialers.Go(func() {
			for i := part; i < crowd; i += 32 {
				conn, err := net.Dial("tcp", host)
				if err != nil {
					t.Error(err)
					return
				}
				conn.SetDeadline(time.Now().Add(4 * patience))
				io.WriteString(conn, line)
				conns[i] = conn
			}
		})
	}
	dialers.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return conns
}
