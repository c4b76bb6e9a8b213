package claude

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestEveryFixtureDecodesAsTheStandardSays(t *testing.T) {
	for _, f := range fixtures(t) {
		t.Run(f.name, func(t *testing.T) {
			got, err := decode(bytes.NewReader(f.wire))
			if err != nil {
				t.Fatal(err)
			}
			wantFrames(t, got, reference(f.plain))
		})
	}
}

func TestAnySplitAtAnyByteGivesTheSameEvents(t *testing.T) {
	const small = 5000
	for _, f := range fixtures(t) {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			want := reference(f.plain)
			try := func(how string, r io.Reader) {
				t.Helper()
				got, err := decode(r)
				if err != nil || !slices.Equal(got, want) {
					wantFrames(t, got, want)
					t.Fatalf("%s: %v", how, err)
				}
			}
			if len(f.wire) < small {
				for at := range len(f.wire) {
					try(fmt.Sprintf("split at %d", at), &reads{pieces: [][]byte{f.wire[:at], f.wire[at:]}, joined: at%2 == 0})
				}
			}
			random := rand.New(rand.NewPCG(1, uint64(len(f.wire))))
			for seed := range 20 {
				try(fmt.Sprintf("chunking %d", seed), &reads{pieces: chunked(random, f.wire, 1+random.IntN(700)), joined: seed%2 == 0})
			}
			try("byte by byte", &reads{pieces: chunked(random, f.wire, 1)})
		})
	}
}

// chunked cuts b into pieces of 1 to most bytes.
func chunked(random *rand.Rand, b []byte, most int) (pieces [][]byte) {
	for len(b) > 0 {
		n := min(1+random.IntN(most), len(b))
		pieces, b = append(pieces, b[:n]), b[n:]
	}
	return pieces
}

// conformance is what event streams can look like by WHATWG HTML §9.2, each with the events that it makes.
var conformance = []struct {
	name string
	body string
	want []frame
}{
	{"LF", "event: a\ndata: 1\n\nevent: b\ndata: 2\n\n", []frame{{"a", "1"}, {"b", "2"}}},
	{"CRLF", "event: a\r\ndata: 1\r\n\r\nevent: b\r\ndata: 2\r\n\r\n", []frame{{"a", "1"}, {"b", "2"}}},
	{"CR only", "event: a\rdata: 1\r\revent: b\rdata: 2\r\r", []frame{{"a", "1"}, {"b", "2"}}},
	{"LF line, CRLF blank", "event: a\ndata: 1\n\r\nevent: b\ndata: 2\n\r\n", []frame{{"a", "1"}, {"b", "2"}}},
	{"CRLF line, LF blank", "event: a\r\ndata: 1\r\n\nevent: b\r\ndata: 2\r\n\n", []frame{{"a", "1"}, {"b", "2"}}},
	{"LF line, CR blank", "event: a\ndata: 1\n\revent: b\ndata: 2\n\r", []frame{{"a", "1"}, {"b", "2"}}},
	{"CR line, CRLF blank", "event: a\rdata: 1\r\r\nevent: b\rdata: 2\r\r\n", []frame{{"a", "1"}, {"b", "2"}}},
	{"CRLF line, CR blank", "event: a\r\ndata: 1\r\n\revent: b\r\ndata: 2\r\n\r", []frame{{"a", "1"}, {"b", "2"}}},
	{"CRLF is one line end, not two", "event: a\r\ndata: 1\r\ndata: 2\r\n\r\n", []frame{{"a", "1\n2"}}},
	{"byte order mark", "\xef\xbb\xbfevent: a\ndata: 1\n\n", []frame{{"a", "1"}}},
	{"byte order mark before a blank line", "\xef\xbb\xbf\n\nevent: a\ndata: 1\n\n", []frame{{"a", "1"}}},
	{"only the first byte order mark goes", "\xef\xbb\xbf\xef\xbb\xbfevent: a\ndata: 1\n\n", []frame{{"", "1"}}},
	{"byte order mark later", "data: 0\n\n\xef\xbb\xbfevent: a\ndata: 1\n\n", []frame{{"", "0"}, {"", "1"}}},
	{"byte order mark in data", "data: \xef\xbb\xbf1\n\n", []frame{{"", "\xef\xbb\xbf1"}}},
	{"half a byte order mark", "\xef\xbbevent: a\ndata: 1\n\n", []frame{{"", "1"}}},
	{"data of several lines", "event: a\ndata: {\ndata: \"x\":1}\ndata: \n\n", []frame{{"a", "{\n\"x\":1}\n"}}},
	{"data without colon", "event: a\ndata\ndata: 1\n\n", []frame{{"a", "\n1"}}},
	{"data without colon alone", "event: a\ndata\n\n", []frame{{"a", ""}}},
	{"empty data", "event: a\ndata:\n\n", []frame{{"a", ""}}},
	{"empty lines in data", "data: 1\ndata:\ndata: 2\n\n", []frame{{"", "1\n\n2"}}},
	{"no space after the colon", "event:a\ndata:1\n\n", []frame{{"a", "1"}}},
	{"two spaces after the colon", "event: a\ndata:  1\n\n", []frame{{"a", " 1"}}},
	{"tab after the colon", "event:\ta\ndata:\t1\n\n", []frame{{"\ta", "\t1"}}},
	{"spaces after the data", "data: 1  \n\n", []frame{{"", "1  "}}},
	{"colon in data", "data: a: b\n\n", []frame{{"", "a: b"}}},
	{"comments anywhere", ": x\n\n:\nevent: a\n: y\ndata: 1\n:z\n\n: end\n\n", []frame{{"a", "1"}}},
	{"comments only", ": x\n\n: y\n\n:\n\n", nil},
	{"comment that looks like data", ":data: 1\n\n", nil},
	{"ids", "id: 1\nevent: a\ndata: 1\n\nid\ndata: 2\n\nid: a\x00b\ndata: 3\n\nid: 1\nid: 2\ndata: 4\n\n", []frame{{"a", "1"}, {"", "2"}, {"", "3"}, {"", "4"}}},
	{"id block without data", "id: 7\n\ndata: 1\n\n", []frame{{"", "1"}}},
	{"retry", "retry: 10\n\nretry: -1\nretry: x\nretry: 99999999999999999999\ndata: 1\n\n", []frame{{"", "1"}}},
	{"unknown fields", "foo: 1\nevent: a\nbar\ndata: 1\n\n", []frame{{"a", "1"}}},
	{"names are case-sensitive", "Event: a\nDATA: 1\n\ndata: 2\n\n", []frame{{"", "2"}}},
	{"space before a field", " data: 1\ndata: 2\n\n", []frame{{"", "2"}}},
	{"field that begins with data", "data1: 1\n\ndata: 2\n\n", []frame{{"", "2"}}},
	{"no event name", "data: 1\n\n", []frame{{"", "1"}}},
	{"the last event name wins", "event: a\nevent: b\ndata: 1\nevent: c\n\n", []frame{{"c", "1"}}},
	{"an empty event name wins too", "event: a\nevent\ndata: 1\n\n", []frame{{"", "1"}}},
	{"a name without data is forgotten", "event: a\n\ndata: 1\n\n", []frame{{"", "1"}}},
	{"a name without data is forgotten, CR blank", "event: a\n\rdata: 1\n\n", []frame{{"", "1"}}},
	{"NUL in data", "data: a\x00b\n\n", []frame{{"", "a\x00b"}}},
	{"other separators are no line ends", "data: a\u2028b\u2029c\u0085d\x0be\x0cf\n\n", []frame{{"", "a\u2028b\u2029c\u0085d\x0be\x0cf"}}},
	{"invalid UTF-8", "data: \xff\xfe\xf0\x9f\x92 \xc0\xaf\n\n", []frame{{"", "\xff\xfe\xf0\x9f\x92 \xc0\xaf"}}},
	{"surrogate escapes", "data: \"\\ud83d\"\n\ndata: \"\\udc4b\\u0000\"\n\n", []frame{{"", `"\ud83d"`}, {"", `"\udc4b\u0000"`}}},
	{"numbers, padding, repeated keys", "data: {\"a\":1e400,\"a\":-0,\"n\":12345678901234567890,\"f\":1.0   }  \n\n", []frame{{"", `{"a":1e400,"a":-0,"n":12345678901234567890,"f":1.0   }  `}}},
	{"zero bytes", "", nil},
	{"one byte", "d", nil},
	{"one line end", "\n", nil},
	{"line ends only", "\n\n\r\r\r\n\r\n\n", nil},
	{"end after a blank line", "data: 1\n\n", []frame{{"", "1"}}},
	{"end after one LF", "data: 1\n\ndata: 2\n", []frame{{"", "1"}}},
	{"end after one CR", "data: 1\n\ndata: 2\r", []frame{{"", "1"}}},
	{"end after one CRLF", "data: 1\n\ndata: 2\r\n", []frame{{"", "1"}}},
	{"end without LF", "data: 1\n\ndata: 2", []frame{{"", "1"}}},
	{"end in a line", "data: 1\n\ndata: {\"a", []frame{{"", "1"}}},
	{"end in a field name", "data: 1\n\ndata: 2\n\nda", []frame{{"", "1"}, {"", "2"}}},
	{"end in a character", "data: 1\n\ndata: \xf0\x9f", []frame{{"", "1"}}},
	{"end after LF CR", "data: 1\n\ndata: 2\n\r", []frame{{"", "1"}, {"", "2"}}},
	{"end after CRLF CR", "data: 1\r\n\r", []frame{{"", "1"}}},
	{"end in the second event after a mixed end", "data: 1\n\rdata: 2\n", []frame{{"", "1"}}},
}

func TestConformance(t *testing.T) {
	for _, c := range conformance {
		t.Run(c.name, func(t *testing.T) {
			wantFrames(t, reference([]byte(c.body)), c.want) // the reference is held to the list as well
			for at := range len(c.body) + 1 {
				for _, joined := range []bool{false, true} {
					got, err := decode(&reads{pieces: [][]byte{[]byte(c.body[:at]), []byte(c.body[at:])}, joined: joined})
					if err != nil {
						t.Fatal(err)
					}
					wantFrames(t, got, c.want)
				}
			}
			got, _ := decode(&reads{pieces: slices.Collect(slices.Chunk([]byte(c.body), 1))})
			wantFrames(t, got, c.want)
		})
	}
}

func TestABlockWithoutItsBlankLineIsNoEvent(t *testing.T) {
	for _, name := range []string{"sdk-python__incomplete_partial_json_response.sse", "edge_no_trailing_blank.sse", "edge_no_trailing_newline.sse"} {
		body := fixtureNamed(t, name)
		for _, cut := range []error{nil, io.ErrUnexpectedEOF} {
			got, err := decode(&reads{pieces: [][]byte{body}, err: cut})
			if !errors.Is(err, cut) {
				t.Errorf("%s: ended with %v, want %v", name, err, cut)
			}
			for _, f := range got {
				if f.name == "message_stop" {
					t.Errorf("%s: message_stop without its blank line was taken for an event", name)
				}
			}
			if len(got) < 5 {
				t.Errorf("%s: only %d events", name, len(got))
			}
		}
	}
}

func TestEventsBeforeABrokenEndAreDelivered(t *testing.T) {
	cut := errors.New("connection reset")
	for _, joined := range []bool{false, true} {
		for _, pieces := range [][]string{{"data: 1\n\ndata: 2\n\ndata: 3\n"}, {"data: 1\n\n", "data: 2\n\n", "data: 3"}, {"data: 1\n\nda", "ta: 2\n\n"}} {
			var bytes [][]byte
			for _, p := range pieces {
				bytes = append(bytes, []byte(p))
			}
			got, err := decode(&reads{pieces: bytes, err: cut, joined: joined})
			if err != cut {
				t.Errorf("ended with %v", err)
			}
			wantFrames(t, got, []frame{{"", "1"}, {"", "2"}})
		}
	}
	for _, text := range []string{"", "d"} {
		if got, err := decode(&reads{pieces: [][]byte{[]byte(text)}, err: cut, joined: true}); err != cut || got != nil {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

func TestFloodsAreNoEvents(t *testing.T) {
	last := "event: a\ndata: 1\n\n"
	for name, flood := range map[string]string{
		"LF":       strings.Repeat("\n", 200_000),
		"CR":       strings.Repeat("\r", 200_000),
		"CRLF":     strings.Repeat("\r\n", 100_000),
		"LF CR":    strings.Repeat("\n\r", 100_000),
		"comments": strings.Repeat(":\n\n", 50_000),
		"comment":  ":" + strings.Repeat("x", 1<<20) + "\n\n",
		"names":    strings.Repeat("event: b\n\n", 20_000),
	} {
		got, err := decode(strings.NewReader(flood + last))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		wantFrames(t, got, []frame{{"a", "1"}})
	}
	pings := strings.Repeat("event: ping\ndata: {\"type\": \"ping\"}\n\n", 10_000)
	got, err := decode(strings.NewReader(pings))
	if err != nil || len(got) != 10_000 {
		t.Fatalf("%d pings, %v", len(got), err)
	}
}

// A block of a million lines takes a few milliseconds if each is read once, and minutes if each looks through the rest.
func TestManyLinesTakeLinearTime(t *testing.T) {
	for _, end := range []string{"\r", "\n", "\r\n"} {
		body := strings.Repeat(":"+end, 1_000_000) + "data: 1" + end + end
		begun := time.Now()
		got, err := decode(&reads{pieces: [][]byte{[]byte(body)}})
		if err != nil {
			t.Fatal(err)
		}
		wantFrames(t, got, []frame{{"", "1"}})
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("line ends %q: %v", end, took)
		}
	}
}
