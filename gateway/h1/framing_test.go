package h1

import (
	"bytes"
	"io"
	"net/http/httputil"
	"strings"
	"testing"
)

// pieces gives a framing its bytes in pieces of a size and collects the body and what follows it.
func pieces(f framing, wire []byte, size int) (body, rest []byte, over bool, err error) {
	for len(wire) > 0 && !f.done() {
		p := wire[:min(size, len(wire))]
		wire = wire[len(p):]
		for len(p) > 0 && !f.done() {
			var data []byte
			if data, p, err = f.next(p); err != nil {
				return body, nil, false, err
			}
			body = append(body, data...)
		}
		rest = p
	}
	return body, append(bytes.Clone(rest), wire...), f.done(), nil
}

func TestBodiesEndWhereTheirFramingSays(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		f                framing
		wire, body, rest string
		over             bool
	}{
		"a length":                    {framing{left: 5}, "hello, world", "hello", ", world", true},
		"a length, cut":               {framing{left: 5}, "hell", "hell", "", false},
		"nothing":                     {framing{}, "x", "", "x", true},
		"to the end":                  {framing{toEOF: true}, "0\r\n\r\n", "0\r\n\r\n", "", false},
		"chunks":                      {framing{chunked: true}, "5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\nrest", "hello, world", "rest", true},
		"chunks, in hex":              {framing{chunked: true}, "0A\r\n0123456789\r\n00a\r\n0123456789\r\n000\r\n\r\n", strings.Repeat("0123456789", 2), "", true},
		"extensions and blanks":       {framing{chunked: true}, "2;a=\"b\"\r\nhi\r\n2 \t\r\nho\r\n0;x\r\n\r\n", "hiho", "", true},
		"a trailer":                   {framing{chunked: true}, "2\r\nhi\r\n0\r\nA: b\r\nC: d\r\n\r\nHTTP", "hi", "HTTP", true},
		"chunks, cut in data":         {framing{chunked: true}, "5\r\nhel", "hel", "", false},
		"chunks, cut before the last": {framing{chunked: true}, "2\r\nhi\r\n", "hi", "", false},
		"chunks, cut in the trailer":  {framing{chunked: true}, "2\r\nhi\r\n0\r\n", "hi", "", false},
	} {
		for size := 1; size <= len(c.wire); size++ {
			body, rest, over, err := pieces(c.f, []byte(c.wire), size)
			if string(body) != c.body || string(rest) != c.rest || over != c.over || err != nil {
				t.Errorf("%s, in pieces of %d: %q then %q, over %v, %v", name, size, body, rest, over, err)
			}
		}
	}
}

func TestMalformedChunksAreErrors(t *testing.T) {
	t.Parallel()
	for name, wire := range map[string]string{
		"no size": "\r\nhi\r\n", "not hex": "g\r\n", "negative": "-1\r\n", "a prefix": "0x2\r\nhi\r\n", "only an extension": ";a\r\n",
		"too many digits": "1111111111111111\r\n", "bare LF": "2\nhi\r\n", "bare CR": "2;a\r\rb\r\nhi\r\n", "longer than it said": "2\r\nhiho\r\n", "no CRLF behind it": "2\r\nhi3\r\n",
		"an endless line": "2;" + strings.Repeat("a", maxLine), "an endless trailer": "0\r\n" + strings.Repeat("a: b\r\n", maxTrailer),
	} {
		for _, size := range []int{1, 7, len(wire)} {
			if body, _, over, err := pieces(framing{chunked: true}, []byte(wire), size); err == nil || over {
				t.Errorf("%s, in pieces of %d: %q, over %v", name, size, body, over)
			}
		}
	}
}

// FuzzChunks: what this framing takes, the standard library's reader takes too, as the same body; and how the bytes come
// changes nothing.
func FuzzChunks(f *testing.F) {
	f.Add([]byte("5\r\nhello\r\n7;a=b\r\n, world\r\n0\r\nA: b\r\n\r\n"))
	f.Add([]byte("0\r\n\r\n"))
	f.Add([]byte("2\r\nhi\r\n0\r\n"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		body, rest, over, err := pieces(framing{chunked: true}, wire, max(1, len(wire)))
		for _, size := range []int{1, 3} {
			body1, rest1, over1, err1 := pieces(framing{chunked: true}, wire, size)
			if !bytes.Equal(body, body1) && err == nil || !bytes.Equal(rest, rest1) && err == nil || over != over1 || err != err1 {
				t.Fatalf("in pieces of %d: %q then %q, over %v, %v; whole: %q then %q, over %v, %v", size, body1, rest1, over1, err1, body, rest, over, err)
			}
		}
		if err != nil || !over {
			return
		}
		if theirs, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(wire))); err != nil || !bytes.Equal(theirs, body) {
			t.Fatalf("ours %q, theirs %q, %v", body, theirs, err)
		}
	})
}
