package claude

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/r3labs/sse/v2"
)

// BenchmarkDecodeOneEvent is what each token costs from the body's bytes to the checked event. In steady state it
// allocates nothing. Beside it, what github.com/r3labs/sse's reader costs to find the same blocks' ends.
func BenchmarkDecodeOneEvent(b *testing.B) {
	event := []byte("event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"I'll follow\"}          }\n\n")
	for name, n := range map[string]int{"one a read": 1, "100 a read": 100} {
		chunk := bytes.Repeat(event, n)
		b.Run(name, func(b *testing.B) {
			p := &counted{}
			ctx, cancel := context.WithCancelCause(b.Context())
			s := newStream(ctx, cancel, startWatch(time.Hour, cancel), quiet, nil, p, func(error) {})
			defer s.End(nil)
			b.SetBytes(int64(len(event)))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i%n == 0 {
					s.Data(chunk)
				}
			}
			if p.events == 0 {
				b.Fatal("no event")
			}
		})
		b.Run(name+", r3labs", func(b *testing.B) {
			r := sse.NewEventStreamReader(&again{event: chunk}, MaxEvent)
			b.SetBytes(int64(len(event)))
			b.ReportAllocs()
			for b.Loop() {
				if block, err := r.ReadEvent(); err != nil || len(block) < 100 {
					b.Fatal(len(block), err)
				}
			}
		})
	}
}

// counted counts its events.
type counted struct{ events int }

func (c *counted) Begin(http.Header)  {}
func (c *counted) Event(e Event) bool { c.events++; return true }
func (c *counted) Flush()             {}
func (c *counted) End(error)          {}

// again is an endless body: the same events over and over, one piece a Read, as a network brings them.
type again struct {
	event []byte
	left  []byte
}

func (a *again) Read(p []byte) (int, error) {
	if len(a.left) == 0 {
		a.left = a.event
	}
	n := copy(p, a.left)
	a.left = a.left[n:]
	return n, nil
}

// BenchmarkLargeEvent is one event of the largest size, as it comes: in reads of a TLS record, or larger ones. Beside
// it, github.com/r3labs/sse's reader, which with each read looks through all that it has.
func BenchmarkLargeEvent(b *testing.B) {
	body := []byte(bigEvent(MaxEvent))
	for name, size := range map[string]int{"reads of 16 KiB": 16 << 10, "reads of 1 MiB": 1 << 20} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				var d decoder
				events := 0
				for chunk := range slices.Chunk(body, size) {
					d.feed(chunk, func(_, data []byte) bool { events++; return len(data) == MaxEvent })
				}
				if events != 1 {
					b.Fatal(events)
				}
			}
		})
		b.Run(name+", r3labs", func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				r := sse.NewEventStreamReader(&upTo{bytes.NewReader(body), size}, MaxEvent+eventOverhead)
				if block, err := r.ReadEvent(); err != nil || len(block) < MaxEvent {
					b.Fatal(len(block), err)
				}
			}
		})
	}
}

// upTo is a reader that gives at most n bytes at once.
type upTo struct {
	io.Reader
	n int
}

func (u *upTo) Read(p []byte) (int, error) { return u.Reader.Read(p[:min(len(p), u.n)]) }

func BenchmarkParseDelta(b *testing.B) {
	data := []byte(`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"I'll follow"}          }`)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := ParseDelta(data); !ok {
			b.Fatal("not merged")
		}
	}
}
