package claude

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"
)

// FuzzDecoder holds the decoder, whatever the bytes and however they come, to the reference.
func FuzzDecoder(f *testing.F) {
	for _, c := range conformance {
		f.Add([]byte(c.body), uint64(len(c.body)))
	}
	for _, x := range fixtures(f) {
		if len(x.wire) < 1000 {
			f.Add(x.wire, uint64(1))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 0))
		pieces := &reads{pieces: chunked(random, body, 1+random.IntN(len(body)+1)), joined: seed%2 == 0}
		got, err := decode(pieces)
		if bytes.HasPrefix(body, []byte{0x1f, 0x8b}) {
			return // whatever comes out, it has an end
		}
		if err != nil {
			t.Fatal(err)
		}
		if want := reference(body); !slices.Equal(got, want) {
			t.Fatalf("%q\ngot  %q\nwant %q", body, got, want)
		}
	})
}

// FuzzStream holds a stream and its Message to what they promise of any bytes.
func FuzzStream(f *testing.F) {
	for _, x := range fixtures(f) {
		if len(x.plain) < 2000 {
			f.Add(x.plain)
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		s := streamOf(bytes.NewReader(body))
		var m Message
		var o Output
		var last, starts int
		for i := 1; ; i++ {
			e, err := s.Next()
			if err != nil {
				if _, again := s.Next(); again != err {
					t.Fatalf("after %v: %v", err, again)
				}
				break
			}
			if last > 0 || e.Kind == Ping || e.Kind == vertex {
				t.Fatalf("event %d is %s, the end was %d", i, e.Name, last)
			}
			switch e.Kind {
			case MessageStart:
				starts++
			case MessageStop:
				last = i
			case Failure:
				last = i
				if _, _, ok := ParseError(e.Data); !ok {
					t.Fatalf("error %q", e.Data)
				}
			}
			m.Add(e.Kind, e.Data)
			if !json.Valid(m.JSON()) {
				t.Fatalf("after %q: %q", e.Data, m.JSON())
			}
			if u := m.Usage(); u.Input < 0 || u.Output < 0 || u.CacheRead < 0 || u.CacheWrite < 0 {
				t.Fatalf("%+v", u)
			}
			m.Model()
			before := o.Tokens()
			if o.Add(e.Kind, e.Data); o.Tokens() < before {
				t.Fatalf("%q made %d tokens %d", e.Data, before, o.Tokens())
			}
		}
		if starts > 1 {
			t.Fatalf("%d starts", starts)
		}
	})
}
