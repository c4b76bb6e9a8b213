package claude

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

func bigEvent(data int) string {
	return "event: content_block_delta\ndata: " + strings.Repeat("x", data) + "\n\n"
}

func TestLargeEventsPassWhole(t *testing.T) {
	for _, size := range []int{4096, 65_535, 65_536, 65_537, 1 << 20, MaxEvent} {
		got, err := decode(strings.NewReader(bigEvent(size) + "data: 1\n\n"))
		if err != nil || len(got) != 2 || len(got[0].data) != size || got[1].data != "1" {
			t.Errorf("%d bytes: %d events, %v", size, len(got), err)
		}
	}
}

func TestAnEventOverItsBoundIsACleanError(t *testing.T) {
	for name, body := range map[string]io.Reader{
		"just over":     strings.NewReader(bigEvent(MaxEvent + eventOverhead)),
		"17 MB":         strings.NewReader("event: message_start\ndata: {}\n\n" + bigEvent(17_000_000) + "event: message_stop\ndata: {}\n\n"),
		"many lines":    strings.NewReader(strings.Repeat("data: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n", 450_000) + "\n"),
		"no line end":   io.MultiReader(strings.NewReader("data: "), endless('x')),
		"endless lines": io.MultiReader(strings.NewReader("data: 1\n:"), endless('\t')),
	} {
		t.Run(name, func(t *testing.T) {
			s := streamOf(body)
			_, err := follow(s)
			if e := asError(t, err, APIError, 502); !errors.Is(err, errTooLarge) || !strings.Contains(e.Message, "16 MB") {
				t.Errorf("%v", err)
			}
			if e, err := s.Next(); err == nil || err == io.EOF {
				t.Errorf("after the error: %v, %d bytes of data", err, len(e.Data))
			}
		})
	}
}

// endless is a body of one byte, for ever.
type endless byte

func (e endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(e)
	}
	return len(p), nil
}

func TestGzipIsUndoneWhateverTheHeaderSays(t *testing.T) {
	for _, f := range fixtures(t) {
		want := reference(f.plain)
		events := strings.SplitAfter(string(f.plain), "\n\n")
		half := len(f.plain) / 2
		for name, body := range map[string][]byte{
			"whole":         gzipped(t, string(f.plain)),
			"sync-flush":    gzipped(t, events...),
			"multi-member":  append(gzipped(t, string(f.plain[:half])), gzipped(t, string(f.plain[half:]))...),
			"empty members": append(append(gzipped(t), gzipped(t, string(f.plain))...), gzipped(t)...),
		} {
			for _, size := range []int{1, 3, 1 << 20} {
				got, err := decode(&reads{pieces: slices.Collect(slices.Chunk(body, size)), joined: size == 3})
				if err != nil {
					t.Fatalf("%s, %s: %v", f.name, name, err)
				}
				wantFrames(t, got, want)
			}
		}
	}
}

func TestTruncatedGzipIsNoCleanEnd(t *testing.T) {
	body := gzipped(t, "data: 1\n\n", "data: 2\n\n")
	for at := 2; at < len(body); at++ {
		got, err := decode(bytes.NewReader(body[:at]))
		if err == nil || len(got) > 2 {
			t.Errorf("cut at %d of %d: %v, %v", at, len(body), got, err)
		}
	}
	for name, broken := range map[string][]byte{
		"checksum": append(bytes.Clone(body[:len(body)-1]), body[len(body)-1]^1),
		"garbage":  append(bytes.Clone(body), "garbage"...),
		"header":   {0x1f, 0x8b, 99, 0, 0, 0, 0, 0, 0, 0, 0},
		"magic":    {0x1f, 0x8b},
	} {
		if _, err := decode(bytes.NewReader(broken)); err == nil {
			t.Errorf("%s: taken for a clean end", name)
		}
	}
}

// Bytes wait on the pipe until they are read: if an event were held back until the next one, this would never end.
func TestAnEventIsDeliveredBeforeTheNextArrives(t *testing.T) {
	for name, pieces := range map[string][]string{
		"LF":    {"event: a\ndata: 1\n\n", "event: b\ndata: 2\n\n", "data: 3\n\n"},
		"CRLF":  {"event: a\r\ndata: 1\r\n\r\n", "event: b\r\ndata: 2\r\n\r\n", "data: 3\r\n\r\n"},
		"CR":    {"event: a\rdata: 1\r\r", "event: b\rdata: 2\r\r", "data: 3\r\r"},
		"mixed": {"event: a\r\ndata: 1\r\n\n", "event: b\ndata: 2\n\r\n", "data: 3\n\n"},
	} {
		for _, zipped := range []bool{false, true} {
			r, w := io.Pipe()
			wanted := make(chan string)
			go func() {
				var out io.Writer = w
				flush := func() error { return nil }
				if zipped {
					z := newGzip(w)
					out, flush = z, z.Flush
				}
				for piece := range wanted {
					io.WriteString(out, piece)
					flush()
				}
				w.Close()
			}()
			came := make(chan frame)
			d := newDecoding(func(f frame) { came <- f })
			go d.pump(r)
			for i, piece := range pieces {
				wanted <- piece
				if f := <-came; f.data != string(rune('1'+i)) {
					t.Fatalf("%s, gzip %v: event %d: %q", name, zipped, i, f.data)
				}
			}
			close(wanted)
			if <-d.done; zipped == (d.err == nil) {
				t.Errorf("%s, gzip %v: ended with %v", name, zipped, d.err) // the gzip stream was not closed
			}
		}
	}
}
