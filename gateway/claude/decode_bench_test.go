package claude

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
)

// again is an endless body: the same events over and over, one a Read, as a network brings them.
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

// BenchmarkDecodeOneEvent is what each token costs from the body's bytes to the checked event. In steady state it
// allocates nothing.
func BenchmarkDecodeOneEvent(b *testing.B) {
	event := "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"I'll follow\"}          }\n\n"
	for name, body := range map[string]*again{
		"one a read":  {event: []byte(event)},
		"many a read": {event: []byte(strings.Repeat(event, 1000))},
	} {
		b.Run(name, func(b *testing.B) {
			s := streamOf(body)
			s.ctx = context.Background()
			b.SetBytes(int64(len(event)))
			b.ReportAllocs()
			for b.Loop() {
				if e, err := s.Next(); err != nil || e.Kind != BlockDelta {
					b.Fatal(e.Kind, err)
				}
			}
		})
	}
}

// BenchmarkLargeEvent is one event of the largest size, as it comes: in reads of a TLS record, each of which makes the
// library look through all that it has, and in one read as large as its buffer.
func BenchmarkLargeEvent(b *testing.B) {
	body := []byte(bigEvent(MaxEvent))
	for name, size := range map[string]int{"reads of 16 KiB": 16 << 10, "reads of 1 MiB": 1 << 20, "whole": len(body)} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				d := newDecoder(&upTo{bytes.NewReader(body), size})
				if _, data, err := d.next(); err != nil || len(data) != MaxEvent {
					b.Fatal(len(data), err)
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
