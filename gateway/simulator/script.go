package simulator

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"time"
)

// Script is a handler that answers every request with given bytes, cut where a test wants them cut. Each chunk is
// one write and one flush. Copies of a Script may serve any number of requests at once; none of its fields is changed.
//
// A network may join what was flushed apart, and Go's HTTP client joins what has already arrived. Where the reader
// must see each chunk alone, give it the time with Gap or wait for it in Between.
type Script struct {
	// Body goes out as it is: framing, padding, broken bytes and all.
	Body []byte
	// Chunks cuts Body. Nil: one chunk.
	Chunks func(body []byte) [][]byte
	// Status is 200 when zero.
	Status int
	// Header is added to, and wins over, an event stream's own: Content-Type, Cache-Control and a request-id. Bytes
	// that are compressed already get their Content-Encoding here.
	Header http.Header
	// Gzip compresses the chunks, a flush per chunk, and says so in Content-Encoding.
	Gzip bool
	// Gap is the silence between two chunks.
	Gap time.Duration
	// Between, when set, is called before every chunk but the first, with that chunk's index from 1. It may block;
	// it must return when ctx is done.
	Between func(ctx context.Context, chunk int)
	// Ending is how the body ends after the last chunk.
	Ending Ending
}

// Ending is how a scripted body ends.
type Ending int

const (
	// EndClean ends the body as HTTP ends one; what it says may be unfinished all the same.
	EndClean Ending = iota
	// EndCut breaks the connection (HTTP/2: the stream), so that the client sees an unexpected end.
	EndCut
	// EndStall says nothing more until the client leaves.
	EndStall
)

var _ http.Handler = Script{}

// ServeHTTP reads the request to its end and replays the script, until its end or until the client leaves.
func (s Script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // else the server would not notice that the client leaves
	header := w.Header()
	header.Set("Content-Type", eventStream)
	header.Set("Cache-Control", "no-cache")
	header.Set("Request-Id", "req_011CScriptScriptScript01")
	if s.Gzip {
		header.Set("Content-Encoding", "gzip")
	}
	for name, values := range s.Header {
		header[http.CanonicalHeaderKey(name)] = slices.Clone(values)
	}
	status := s.Status
	if status == 0 {
		status = http.StatusOK
	}
	w.WriteHeader(status)
	if s.replay(w, r) != nil {
		return
	}
	switch s.Ending {
	case EndCut:
		panic(http.ErrAbortHandler)
	case EndStall:
		<-r.Context().Done()
	}
}

func (s Script) replay(w http.ResponseWriter, r *http.Request) error {
	control := http.NewResponseController(w)
	flush := func() error {
		if err := control.Flush(); !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		return nil
	}
	if err := flush(); err != nil {
		return err
	}
	var out io.Writer = w
	var zip *gzip.Writer
	if s.Gzip {
		zip = gzip.NewWriter(w)
		out = zip
	}
	for i, chunk := range s.chunks() {
		if i > 0 {
			if err := sleep(r.Context(), s.Gap); err != nil {
				return err
			}
			if s.Between != nil {
				s.Between(r.Context(), i)
			}
		}
		if err := sleep(r.Context(), 0); err != nil {
			return err
		}
		if _, err := out.Write(chunk); err != nil {
			return err
		}
		if zip != nil {
			if err := zip.Flush(); err != nil {
				return err
			}
		}
		if err := flush(); err != nil {
			return err
		}
	}
	if zip != nil && s.Ending == EndClean {
		return zip.Close()
	}
	return nil
}

func (s Script) chunks() [][]byte {
	if s.Chunks == nil {
		return [][]byte{s.Body}
	}
	return s.Chunks(s.Body)
}

// SplitAt cuts a body at the given offsets, which are ascending; those outside of it are ignored.
func SplitAt(offsets ...int) func(body []byte) [][]byte {
	return func(body []byte) [][]byte {
		var chunks [][]byte
		from := 0
		for _, offset := range offsets {
			if offset > from && offset < len(body) {
				chunks = append(chunks, body[from:offset])
				from = offset
			}
		}
		return append(chunks, body[from:])
	}
}

// EveryBytes cuts a body into chunks of n bytes (at least one).
func EveryBytes(n int) func(body []byte) [][]byte {
	return func(body []byte) [][]byte {
		return slices.Collect(slices.Chunk(body, max(n, 1)))
	}
}

// PerEvent cuts a body after every blank line (two line feeds), as the API writes it.
func PerEvent(body []byte) [][]byte {
	chunks := bytes.SplitAfter(body, []byte("\n\n"))
	return slices.DeleteFunc(chunks, func(chunk []byte) bool { return len(chunk) == 0 })
}
