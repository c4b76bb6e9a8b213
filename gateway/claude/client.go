package claude

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"sluice/gateway/backoff"
	"sluice/gateway/metrics"
)

// Config says where the API is and how long it may take.
type Config struct {
	BaseURL string        // https://api.anthropic.com, or a prefix that /v1/… is appended to
	APIKey  string        // sent as x-api-key
	CAFile  string        // PEM file of further certificate authorities; empty: the system's
	Silence time.Duration // a stream without a byte for so long is given up
	Timeout time.Duration // for a whole answer that is not a stream
}

// Client calls the API. It is safe for use by many goroutines.
type Client struct {
	cfg     Config
	base    *url.URL
	http    *http.Client
	metrics *metrics.Metrics
	log     *slog.Logger
}

// New prepares a client with its own pool of connections; it dials nothing yet.
func New(cfg Config, m *metrics.Metrics, log *slog.Logger) (*Client, error) {
	base, err := url.Parse(strings.TrimSuffix(cfg.BaseURL, "/"))
	if err != nil {
		return nil, err
	}
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{
			Timeout: 10 * time.Second, KeepAlive: 30 * time.Second,
		}).DialContext,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: 10 * time.Second,
		ForceAttemptHTTP2:   true,
		// Compression would hold events back in the encoder and cost CPU on both sides; we ask for identity instead.
		DisableCompression: true,
		// As many as were open at once may wait for the next burst; each is closed after IdleConnTimeout.
		MaxIdleConns: 0, MaxIdleConnsPerHost: 1024, IdleConnTimeout: 90 * time.Second,
		// What a request's headers and a token's frame need: over HTTP/1.1 each open stream holds both buffers.
		WriteBufferSize: 1 << 10, ReadBufferSize: 2 << 10,
		MaxResponseHeaderBytes: 64 << 10,
		// A dead HTTP/2 connection carries a hundred streams: ask it before the silence limit of any of them.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}
	if cfg.CAFile != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, err
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no PEM certificate", cfg.CAFile)
		}
		t.TLSClientConfig.RootCAs = pool
	}
	return &Client{cfg: cfg, base: base, metrics: m, log: log, http: &http.Client{
		Transport: t,
		// A redirect would carry the key to an address that nobody configured.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// CloseIdle closes the connections that wait for a request.
func (c *Client) CloseIdle() { c.http.CloseIdleConnections() }

// Request is a call as a caller made it: Path with its query below the base URL, Header what may be forwarded, Body to
// be sent as it is. The client adds the credentials.
type Request struct {
	Method string // empty: POST
	Path   string
	Header http.Header
	Body   []byte
}

// Retry says which failures are tried again before the first event, how often, and until when.
type Retry struct {
	Statuses func(status int) bool // beside connection errors and a first event overloaded_error, which always are; nil: none
	Max      int                   // further attempts
	Until    time.Time             // a wait that ends later is not begun; zero: no bound
}

// SafeStatus reports whether the official SDKs repeat a request that met this status (all three: 408, 409, 429 and from 500 on).
func SafeStatus(status int) bool {
	return status == 408 || status == 409 || status == 429 || status >= 500
}

// Open sends the request and returns its stream once the first event, other than a ping, has arrived. A refusal, also
// one that comes as a first event error, is an *Error. It is repeated only here: nothing has been relayed yet.
func (c *Client) Open(ctx context.Context, req Request, retry Retry) (*Stream, error) {
	begun := time.Now()
	for attempt := 0; ; attempt++ {
		s, err := c.open(ctx, req, begun)
		if err == nil {
			return s, nil
		}
		if attempt < retry.Max && c.again(ctx, err, attempt, retry) {
			continue
		}
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, err
	}
}

// again waits before the next attempt, and reports whether there is to be one.
func (c *Client) again(ctx context.Context, err error, attempt int, retry Retry) bool {
	reason := ""
	var e *Error
	switch {
	case errors.Is(err, errSilent):
		return false // it has cost the whole patience already
	case errors.Is(err, errConnection):
		reason = "connection"
	case errors.As(err, &e) && errors.Is(err, errFirstEvent) && e.Type == Overloaded:
		reason = "overloaded_first"
	case e != nil && e.answered != 0 && retry.Statuses != nil && retry.Statuses(e.answered):
		reason = strconv.Itoa(e.Status)
	default:
		return false
	}
	wait := backoff.Delay(attempt, rand.Float64())
	if e != nil {
		if e.Header.Get("X-Should-Retry") == "false" {
			return false
		}
		if d, ok := backoff.RetryAfter(e.Header, time.Now()); ok {
			wait = d
		}
	}
	if !retry.Until.IsZero() && time.Now().Add(wait).After(retry.Until) {
		return false
	}
	c.log.Info("upstream request is repeated", "attempt", attempt+2, "wait", wait.Round(time.Millisecond), "reason", err)
	c.metrics.UpstreamRetry(reason)
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// What again must tell apart; causes inside an *Error.
var (
	errConnection = errors.New("the connection failed")
	errFirstEvent = errors.New("an error as first event")
)

func (c *Client) open(parent context.Context, req Request, begun time.Time) (*Stream, error) {
	ctx, cancel := context.WithCancelCause(parent)
	w := startWatch(c.cfg.Silence, cancel)
	stop := func() { w.stop(); cancel(context.Canceled) }
	resp, err := c.send(ctx, req)
	if err != nil {
		stop()
		return nil, err
	}
	c.metrics.FirstEvent(metrics.StageHeaders, time.Since(begun))
	if err := checkStream(resp); err != nil {
		stop()
		resp.Body.Close()
		return nil, err
	}
	d := newDecoder(resp.Body)
	w.follow(d.source)
	s := &Stream{Header: resp.Header, events: d, body: resp.Body, ctx: ctx, stop: stop}
	first, err := s.Next()
	if err != nil {
		s.Close()
		var e *Error
		if context.Cause(parent) == nil && errors.As(err, &e) && !errors.Is(err, errSilent) && !errors.Is(err, errTooLarge) {
			e.Message = "The upstream answered with an empty stream."
			e.Cause = fmt.Errorf("%w: %w", errConnection, e.Cause)
		}
		return nil, err
	}
	if first.Kind == Failure {
		e := firstEventError(bytes.Clone(first.Data), resp.Header)
		e.Cause = errors.Join(errFirstEvent, e.Cause)
		s.Close()
		return nil, e
	}
	s.first = &first
	return s, nil
}

// checkStream refuses a 200 that is not an event stream we can read.
func checkStream(resp *http.Response) error {
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if resp.StatusCode != http.StatusOK || kind != "text/event-stream" {
		return nonsense("The upstream did not answer with an event stream.", resp.Header,
			fmt.Errorf("status %d, content-type %.100q", resp.StatusCode, resp.Header.Get("Content-Type")))
	}
	return checkEncoding(resp)
}

func checkEncoding(resp *http.Response) error {
	switch encoding := strings.ToLower(strings.TrimSpace(resp.Header.Get("Content-Encoding"))); encoding {
	case "", "identity", "gzip", "x-gzip":
		return nil
	default:
		return nonsense("The upstream used a compression that it was not asked for.", resp.Header, fmt.Errorf("content-encoding %.40q", encoding))
	}
}

// Do makes a call whose answer is not a stream, within Config.Timeout. The body is decoded as it is read and must be
// closed. Answers other than 2xx are an *Error. A failed connection is tried once more.
func (c *Client) Do(ctx context.Context, req Request) (*http.Response, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.Timeout, errSilent)
	for attempt := 0; ; attempt++ {
		resp, err := c.send(ctx, req)
		if err == nil {
			if err = checkEncoding(resp); err != nil {
				resp.Body.Close()
			} else {
				s := &source{body: resp.Body, start: time.Now()}
				if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind == "application/json" || resp.Header.Get("Content-Encoding") != "" {
					resp.Header.Del("Content-Encoding")
					resp.Header.Del("Content-Length") // of what it says, not of what was sent, only the end will tell
					resp.ContentLength = -1
				} else {
					s.began = true // a file that was asked for may be gzip itself
				}
				resp.Body = &answer{source: s, body: resp.Body, ctx: ctx, cancel: cancel}
				return resp, nil
			}
		}
		if attempt >= 1 || !c.again(ctx, err, attempt, Retry{Max: 1}) {
			cancel()
			return nil, err
		}
	}
}

// answer is the body of a call that is not a stream: decompressed, and bound to the call's timeout.
type answer struct {
	source *source
	body   io.Closer
	ctx    context.Context
	cancel context.CancelFunc
}

func (a *answer) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := a.source.Read(p)
	if a.source.added { // the byte that marks the end of an event stream is none of a body
		n, err = 0, a.source.err
	}
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
	method := req.Method
	if method == "" {
		method = http.MethodPost
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base.String()+req.Path, nil)
	if err != nil {
		return nil, nonsense("The request could not be made.", nil, err)
	}
	up := &upload{bytes: req.Body}
	defer up.forget()
	if len(req.Body) > 0 {
		r.Body, r.GetBody, r.ContentLength = up.reader(), func() (io.ReadCloser, error) { return up.reader(), nil }, int64(len(req.Body))
	}
	for name, values := range req.Header {
		r.Header[http.CanonicalHeaderKey(name)] = values
	}
	if r.Header.Get("User-Agent") == "" {
		r.Header.Set("User-Agent", "sluice")
	}
	r.Header.Set("X-Api-Key", c.cfg.APIKey)
	r.Header.Set("Accept-Encoding", "identity")
	resp, err := c.http.Do(r)
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
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		return resp, nil
	case resp.StatusCode < 400:
		resp.Body.Close()
		return nil, nonsense("The upstream answered with a redirect, which is not followed.", resp.Header, fmt.Errorf("status %d", resp.StatusCode))
	}
	s := &source{body: resp.Body, start: time.Now()}
	text, _ := io.ReadAll(io.LimitReader(&answer{source: s, ctx: ctx}, maxErrorBody)) // a megabyte of gzip can be a gigabyte
	resp.Body.Close()
	return nil, refusal(resp.StatusCode, resp.Header, text)
}
