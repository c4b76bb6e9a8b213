package claude

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// frame is an event as the standard dispatches it.
type frame struct{ name, data string }

// reference reads a whole body by the letter of WHATWG HTML §9.2.6. It is slow and simple, and shares nothing with the
// decoder.
func reference(body []byte) (frames []frame) {
	text := strings.TrimPrefix(string(body), "\ufeff")
	var name, data string
	for {
		end := strings.IndexAny(text, "\r\n")
		if end < 0 {
			return frames // what has no end of line is no line, and what has no blank line no event
		}
		line := text[:end]
		if strings.HasPrefix(text[end:], "\r\n") {
			end++
		}
		text = text[end+1:]
		if line == "" {
			if data != "" {
				frames = append(frames, frame{name, strings.TrimSuffix(data, "\n")})
			}
			name, data = "", ""
			continue
		}
		field, value, found := strings.Cut(line, ":")
		if found && field == "" {
			continue
		}
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			name = value
		case "data":
			data += value + "\n"
		}
	}
}

// decode runs the decoder to the end of r and returns what ended it, nil for a clean end.
func decode(r io.Reader) (got []frame, err error) {
	d := newDecoding(nil)
	d.pump(r)
	<-d.done
	return d.got, d.err
}

// decoding is a stream without a grammar: every event that its bytes make is taken.
type decoding struct {
	*stream
	got  []frame
	more func(frame)
	err  error
	done chan struct{}
}

func newDecoding(more func(frame)) *decoding {
	ctx, cancel := context.WithCancelCause(context.Background())
	d := &decoding{more: more, done: make(chan struct{})}
	d.stream = newStream(ctx, func(err error) {
		select {
		case <-d.done:
		default:
			close(d.done)
		}
		cancel(err)
	}, startWatch(time.Hour, cancel), quiet, nil, d, func(error) {})
	d.isOpen = true
	d.emit = func(name, data []byte) bool {
		f := frame{string(name), string(data)}
		d.got = append(d.got, f)
		if d.more != nil {
			d.more(f)
		}
		return true
	}
	return d
}

func (d *decoding) Begin(http.Header) {}
func (d *decoding) Event(Event) bool  { return true }
func (d *decoding) Flush()            {}
func (d *decoding) End(err error) {
	if e := (*Error)(nil); errors.As(err, &e) && e.Cause != errTruncated {
		d.err = e.Cause
	}
}

// pump gives a body to a stream, as a connection does.
func (s *stream) pump(r io.Reader) {
	push(io.NopCloser(&within{s.ctx, r}), streamInPlace{s, func() {}})
}

// within is a body that breaks when its context is canceled.
type within struct {
	ctx context.Context
	io.Reader
}

func (w *within) Read(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.Reader.Read(p)
}

func wantFrames(t *testing.T, got, want []frame) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("event %d: got %.300q, want %.300q", i+1, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d events, want %d\ngot %.600q\nwant %.600q", len(got), len(want), got, want)
	}
}

// reads is a body that comes in these pieces, one a Read, and then ends with err, nil meaning io.EOF.
type reads struct {
	pieces [][]byte
	err    error
	joined bool // the end comes together with the last bytes, as net/http's bodies do it
}

func (r *reads) Read(p []byte) (int, error) {
	for len(r.pieces) > 0 && len(r.pieces[0]) == 0 {
		r.pieces = r.pieces[1:]
	}
	if len(r.pieces) == 0 {
		return 0, r.end()
	}
	n := copy(p, r.pieces[0])
	r.pieces[0] = r.pieces[0][n:]
	if r.joined && len(r.pieces) == 1 && len(r.pieces[0]) == 0 {
		return n, r.end()
	}
	return n, nil
}

func (r *reads) end() error {
	if r.err != nil {
		return r.err
	}
	return io.EOF
}

// fixture is one file of testdata as a body: what came over the wire, and what it says without compression.
type fixture struct {
	name  string
	wire  []byte
	plain []byte
}

func fixtures(t testing.TB) (all []fixture) {
	t.Helper()
	for _, pattern := range []string{"recorded/*", "synthetic/*"} {
		paths, err := filepath.Glob(filepath.Join("..", "testdata", filepath.FromSlash(pattern)))
		if err != nil || len(paths) < 10 {
			t.Fatalf("%s: %d files, %v", pattern, len(paths), err)
		}
		for _, path := range paths {
			wire, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			f := fixture{name: filepath.Base(path), wire: wire, plain: wire}
			if strings.HasSuffix(path, ".gz") {
				z, err := gzip.NewReader(bytes.NewReader(wire))
				if err != nil {
					t.Fatal(err)
				}
				if f.plain, err = io.ReadAll(z); err != nil {
					t.Fatal(err)
				}
			}
			all = append(all, f)
		}
	}
	return all
}

func fixtureNamed(t testing.TB, name string) []byte {
	t.Helper()
	for _, f := range fixtures(t) {
		if f.name == name {
			return f.plain
		}
	}
	t.Fatalf("there is no fixture %s", name)
	return nil
}

// pulled is a stream as a test reads it: event by event, in its own time.
type pulled struct {
	Header http.Header
	cancel context.CancelCauseFunc

	mu     sync.Mutex
	came   sync.Cond
	events []Event
	end    error
}

func newPulled() *pulled {
	p := &pulled{cancel: func(error) {}}
	p.came.L = &p.mu
	return p
}

func (p *pulled) Begin(header http.Header) { p.Header = header }

func (p *pulled) Flush() {}

func (p *pulled) Event(e Event) bool {
	e.Name, e.Data = bytes.Clone(e.Name), bytes.Clone(e.Data)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = append(p.events, e)
	p.came.Broadcast()
	return true
}

func (p *pulled) End(err error) {
	if err == nil {
		err = io.EOF
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end = err
	p.came.Broadcast()
}

// Next returns the next event, or what has ended the stream: io.EOF after message_stop or error.
func (p *pulled) Next() (Event, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.events) == 0 && p.end == nil {
		p.came.Wait()
	}
	if len(p.events) == 0 {
		return Event{}, p.end
	}
	e := p.events[0]
	p.events = p.events[1:]
	return e, nil
}

func (p *pulled) Close() { p.cancel(errEnded) }

// openTo opens a stream for a handler, and waits for its first event.
func openTo(ctx context.Context, c *Client, req Request, retry Retry, h Handler) error {
	done := make(chan error, 1)
	c.Open(ctx, req, retry, h, func(err error) { done <- err })
	return <-done
}

// openWith opens a stream to be read.
func openWith(ctx context.Context, c *Client, req Request, retry Retry) (*pulled, error) {
	p := newPulled()
	ctx, p.cancel = context.WithCancelCause(ctx)
	if err := openTo(ctx, c, req, retry, p); err != nil {
		p.cancel(errEnded)
		return nil, err
	}
	return p, nil
}

// streamOf is a stream whose answer has been accepted already.
func streamOf(body io.Reader) *pulled { return streamWithin(context.Background(), body) }

func streamWithin(parent context.Context, body io.Reader) *pulled {
	p := newPulled()
	var ctx context.Context
	ctx, p.cancel = context.WithCancelCause(parent)
	opened := make(chan error, 1)
	s := newStream(ctx, p.cancel, startWatch(time.Hour, p.cancel), quiet, http.Header{"Request-Id": {"req_1"}}, p, func(err error) { opened <- err })
	go s.pump(body)
	if err := <-opened; err != nil {
		if e := (*Error)(nil); errors.As(err, &e) && errors.Is(err, errFirstEvent) {
			p.Event(Event{Kind: Failure, Name: []byte("error"), Data: e.Body})
			err = nil
		}
		p.End(err)
	}
	return p
}

// follow reads a stream to its end; err is nil where it ended with message_stop or error.
func follow(s *pulled) (events []frame, err error) {
	for {
		e, err := s.Next()
		if err == io.EOF {
			return events, nil
		}
		if err != nil {
			return events, err
		}
		events = append(events, frame{string(e.Name), string(e.Data)})
	}
}

// asError fails the test unless err is an *Error of this type and status.
func asError(t *testing.T, err error, kind string, status int) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want an *Error", err)
	}
	if e.Type != kind || e.Status != status {
		t.Fatalf("got %d %s (%v), want %d %s", e.Status, e.Type, err, status, kind)
	}
	return e
}

func gzipped(t testing.TB, parts ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := newGzip(&b)
	for _, part := range parts {
		if _, err := io.WriteString(z, part); err != nil {
			t.Fatal(err)
		}
		if err := z.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func newGzip(w io.Writer) *gzip.Writer { return gzip.NewWriter(w) }

var (
	quiet       = slog.New(slog.DiscardHandler)
	slogNothing = log.New(io.Discard, "", 0)
)
