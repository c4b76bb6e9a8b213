package claude

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"sync"
	"time"

	"sluice/gateway/backoff"
)

// Do makes a call whose answer is not a stream, within Config.Timeout once it has its place. The body is decoded as it is
// read and must be closed. Answers other than 2xx are an *Error. A failed connection is tried once more.
func (c *Client) Do(ctx context.Context, req Request) (*http.Response, error) {
	release, err := req.take(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.Timeout, errSilent)
	answered := false
	defer func() {
		if !answered {
			cancel()
			release()
		}
	}()
	for attempt := 0; ; attempt++ {
		resp, err := c.send(ctx, req)
		if err == nil {
			if err = decoded(ctx, resp, func() { cancel(); release() }); err == nil {
				answered = true
				return resp, nil
			}
		}
		release()
		next := c.again(ctx, req, err, attempt, Retry{Max: 1})
		if next == nil {
			return nil, err
		}
		release = next
	}
}

// decoded makes the answer's body one that is decompressed and bound to ctx; closing it calls cancel. Where it fails the
// body is closed.
func decoded(ctx context.Context, resp *http.Response, cancel func()) error {
	if err := checkEncoding(resp); err != nil {
		resp.Body.Close()
		return err
	}
	s := &source{body: resp.Body}
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind == "application/json" || resp.Header.Get("Content-Encoding") != "" {
		resp.Header.Del("Content-Encoding")
		resp.Header.Del("Content-Length") // of what it says, not of what was sent, only the end will tell
		resp.ContentLength = -1
	} else {
		s.sniffed = true // a file that was asked for may be gzip itself
	}
	resp.Body = &answer{source: s, body: resp.Body, ctx: ctx, cancel: cancel}
	return nil
}

// answer is the body of a call that is not a stream: decompressed, and bound to the call's timeout and place.
type answer struct {
	source *source
	body   io.Closer
	ctx    context.Context
	cancel func() // gives back both
}

func (a *answer) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := a.source.Read(p)
	if err == nil || err == io.EOF {
		return n, err
	}
	switch cause := context.Cause(a.ctx); cause {
	case nil:
		return n, broken(err)
	case errSilent:
		return n, broken(errSilent)
	default: // the caller has left
		return n, cause
	}
}

func (a *answer) Close() error {
	defer a.cancel()
	return a.body.Close()
}

// upload is a request's body. The transport keeps a request as long as its answer's body is read, and would keep these
// bytes with it, for the whole life of a stream.
type upload struct {
	mu    sync.Mutex
	bytes []byte
}

func (u *upload) reader() io.ReadCloser {
	u.mu.Lock()
	defer u.mu.Unlock()
	return &uploadReader{left: u.bytes}
}

func (u *upload) forget() {
	u.mu.Lock()
	u.bytes = nil
	u.mu.Unlock()
}

type uploadReader struct{ left []byte }

func (r *uploadReader) Read(p []byte) (int, error) {
	n := copy(p, r.left)
	if r.left = r.left[n:]; len(r.left) == 0 {
		r.left = nil
		return n, io.EOF
	}
	return n, nil
}

func (r *uploadReader) Close() error { return nil }

// maxErrorBody bounds what is read of a refusal. Anthropic's are below 1 kB; validation errors quote their input.
const maxErrorBody = 1 << 20

// send makes one attempt and returns a 2xx answer or an *Error.
func (c *Client) send(ctx context.Context, req Request) (*http.Response, error) {
	r, up, err := c.request(ctx, req)
	if err != nil {
		return nil, err
	}
	defer up.forget()
	resp, err := c.http.Do(r)
	return c.judge(ctx, req, resp, err)
}

// request is what is sent. Once it is, the upload is to be forgotten.
func (c *Client) request(ctx context.Context, req Request) (*http.Request, *upload, error) {
	method := req.Method
	if method == "" {
		method = http.MethodPost
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base.String()+req.Path, nil)
	if err != nil {
		return nil, nil, nonsense("The request could not be made.", nil, err)
	}
	up := &upload{bytes: req.Body}
	if len(req.Body) > 0 {
		r.Body, r.GetBody, r.ContentLength = up.reader(), func() (io.ReadCloser, error) { return up.reader(), nil }, int64(len(req.Body))
	}
	if req.Upload != nil {
		r.Body, r.ContentLength = req.Upload, -1
	}
	for name, values := range req.Header {
		r.Header[http.CanonicalHeaderKey(name)] = values
	}
	if r.Header.Get("User-Agent") == "" {
		r.Header.Set("User-Agent", "sluice")
	}
	r.Header.Set("X-Api-Key", c.cfg.APIKey)
	r.Header.Set("Accept-Encoding", "identity")
	return r, up, nil
}

// judge returns a 2xx answer, or makes what else came of a request an *Error. It reads a refusal.
func (c *Client) judge(ctx context.Context, req Request, resp *http.Response, err error) (*http.Response, error) {
	if err != nil {
		c.metrics.UpstreamRequest(0)
		if cause := context.Cause(ctx); cause != nil {
			if cause == errSilent {
				return nil, broken(errSilent)
			}
			return nil, cause
		}
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the address, which the operator knows and nobody else need
		}
		return nil, &Error{Type: APIError, Status: http.StatusBadGateway, Message: "The upstream can't be reached.", Cause: fmt.Errorf("%w: %w", errConnection, err)}
	}
	c.metrics.UpstreamRequest(resp.StatusCode)
	if req.Place != nil && (resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == 529) {
		if pause, ok := backoff.RetryAfter(resp.Header, time.Now()); ok {
			req.Place.Refused(resp.StatusCode, pause)
		}
	}
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		return resp, nil
	case resp.StatusCode < 400:
		resp.Body.Close()
		return nil, nonsense("The upstream answered with a redirect, which is not followed.", resp.Header, fmt.Errorf("status %d", resp.StatusCode))
	}
	s := &source{body: resp.Body}
	text, _ := io.ReadAll(io.LimitReader(&answer{source: s, ctx: ctx}, maxErrorBody)) // a megabyte of gzip can be a gigabyte
	resp.Body.Close()
	return nil, refusal(resp.StatusCode, resp.Header, text)
}

// source is a body of a call that is not a stream. It undoes a compression that nobody asked for, announced or not.
type source struct {
	body    io.Reader
	sniffed bool
	err     error
}

func (s *source) Read(p []byte) (int, error) {
	if !s.sniffed {
		s.sniffed = true
		s.sniff()
	}
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.body.Read(p)
	if err != nil {
		s.err = err
	}
	return n, err
}

func (s *source) sniff() {
	head := make([]byte, len(gzipMagic))
	n, err := io.ReadFull(s.body, head)
	head = head[:n]
	if n == 0 {
		s.err = err
		return
	}
	s.body = io.MultiReader(bytes.NewReader(head), s.body) // which tells again what has ended it
	if string(head) == gzipMagic {
		if s.body, err = gzip.NewReader(s.body); err != nil {
			s.err = err
		}
	}
}
