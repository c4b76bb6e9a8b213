package httpapi

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"sluice/gateway/claude"
)

// maxBody is Anthropic's own limit for a request (its documentation, "Errors").
const maxBody = 32_000_000

// How long a request's body may bring no byte, and how long it may take in all: 32 MB at 107 kB/s. What is read of it
// is reserved memory, which a slow sender would keep from others.
const (
	bodyPatience = 30 * time.Second
	bodyTime     = 5 * time.Minute
)

// body is what is read of a request or an answer, with the memory that it takes. It must be released, unless a stream
// takes it over.
type body struct {
	bytes    []byte
	reserved int64
	api      *API
}

func (b *body) release() {
	b.api.relay.Release(b.reserved)
	b.reserved = 0
}

// resize moves the reservation to n bytes.
func (b *body) resize(n int) error {
	more := int64(n) - b.reserved
	if more > 0 {
		if err := b.api.relay.Reserve(more); err != nil {
			return err
		}
	} else {
		b.api.relay.Release(-more)
	}
	b.reserved = int64(n)
	return nil
}

// readAll reads to the end, reserving memory as it comes: a length that is only announced takes nothing. first is what
// is made room for at the start.
func (b *body) readAll(r io.Reader, first int) error {
	for {
		if len(b.bytes) == cap(b.bytes) {
			size := max(first, 2*cap(b.bytes))
			if err := b.resize(size); err != nil {
				return err
			}
			b.bytes = append(make([]byte, 0, size), b.bytes...)
		}
		n, err := r.Read(b.bytes[len(b.bytes):cap(b.bytes)])
		b.bytes = b.bytes[:len(b.bytes)+n]
		if err == io.EOF {
			if cap(b.bytes)-len(b.bytes) > len(b.bytes)/4 {
				b.bytes = bytes.Clone(b.bytes) // a stream may hold it for long
			}
			return b.resize(len(b.bytes))
		}
		if err != nil {
			return err
		}
	}
}

// readBody reads a request's body.
func (a *API) readBody(c echo.Context) (*body, error) {
	r := c.Request()
	if err := unencoded(r); err != nil {
		return nil, err
	}
	if r.ContentLength > maxBody {
		return nil, &http.MaxBytesError{Limit: maxBody}
	}
	b := &body{api: a}
	first := 4 << 10
	if n := r.ContentLength; n >= 0 && n < 64<<10 {
		first = int(n) + 1 // room to see the end without growing
	}
	patient := newPatientReader(c, maxBody, bodyTime)
	err := b.readAll(patient, first)
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		return b, nil
	case errors.As(err, &tooLarge), !patient.failed:
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = refuse(http.StatusRequestTimeout, claude.InvalidRequest, "The request's body did not arrive in time.")
	default:
		err = refuse(http.StatusBadRequest, claude.InvalidRequest, "The request's body broke off.")
	}
	b.release()
	return nil, err
}

// unencoded refuses a body in any Content-Encoding: a few bytes of one can be gigabytes.
func unencoded(r *http.Request) error {
	for _, encoding := range r.Header["Content-Encoding"] {
		if encoding != "" && !strings.EqualFold(encoding, "identity") {
			return refuse(http.StatusUnsupportedMediaType, claude.InvalidRequest, "Requests are taken without Content-Encoding only.")
		}
	}
	return nil
}

// patientReader gives each read of a request's body its deadline. From the end on it leaves the connection alone: the
// server reads on by itself, to see whether the client leaves, and what ends that read ends this request and all that
// follow it.
type patientReader struct {
	r       io.Reader
	control *http.ResponseController
	until   time.Time
	failed  bool // an error was the connection's

	mu   sync.Mutex
	over bool // read to its end, or given up
}

// newPatientReader reads the body of a request, which may have so many bytes and take so long in all.
func newPatientReader(c echo.Context, bytes int64, all time.Duration) *patientReader {
	w := c.Response().Writer
	return &patientReader{r: http.MaxBytesReader(w, c.Request().Body, bytes), control: http.NewResponseController(w), until: time.Now().Add(all)}
}

func (p *patientReader) Read(b []byte) (int, error) {
	deadline := time.Now().Add(bodyPatience)
	if deadline.After(p.until) {
		deadline = p.until
	}
	p.expect(deadline, false)
	n, err := p.r.Read(b)
	if err == io.EOF {
		p.expect(time.Time{}, true)
	}
	p.failed = err != nil && err != io.EOF
	return n, err
}

// giveUp ends a read that waits, and fails all further ones, from any goroutine.
func (p *patientReader) giveUp() { p.expect(past, true) }

// expect sets the connection's deadline, which stays after the last one.
func (p *patientReader) expect(deadline time.Time, last bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over {
		p.over = last
		p.control.SetReadDeadline(deadline)
	}
}

// readJSON is readBody for routes that take JSON.
func (a *API) readJSON(c echo.Context) (*body, error) {
	kind, _, err := mime.ParseMediaType(c.Request().Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return nil, refuse(http.StatusUnsupportedMediaType, claude.InvalidRequest, "The request's content-type must be application/json.")
	}
	return a.readBody(c)
}
