package claude

import (
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
	"time"

	"sluice/gateway/backoff"
	"sluice/gateway/h1"
	"sluice/gateway/h2"
	"sluice/gateway/metrics"
	"sluice/gateway/poll"
)

// Config says where the API is and how long it may take.
type Config struct {
	BaseURL string        // https://api.anthropic.com, or a prefix that /v1/… is appended to
	APIKey  string        // sent as x-api-key
	CAFile  string        // PEM file of further certificate authorities; empty: the system's
	Silence time.Duration // a stream without a byte for so long is given up
	Timeout time.Duration // for a whole answer that is not a stream
	Pollers *poll.Pollers // what waits for its connections; nil: each waits for itself
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
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         dialer.DialContext,
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
		Transport: &h2.Transport{Dial: dialer.DialContext, TLS: t.TLSClientConfig.Clone(), Proxy: t.Proxy, Pollers: cfg.Pollers,
			Other: &h1.Transport{Dial: dialer.DialContext, Proxy: t.Proxy, Pollers: cfg.Pollers, Other: t}},
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
	Place  Place         // nil: it needs none
	Upload io.ReadCloser // instead of Body, for Transfer: read once, to its end; its error breaks the request off
}

// Place is a request's place at the upstream: each attempt needs one, as long as its answer lasts.
type Place interface {
	// Take waits for the place. release gives it back, and may be called more than once, also after the next Take. An
	// error of the first Take is that of the call; where a further attempt gets none, the upstream's last word stands.
	Take(ctx context.Context) (release func(), err error)

	// Refused says that the upstream has answered with 429 or 529 and has asked for a pause.
	Refused(status int, pause time.Duration)
}

func (r Request) take(ctx context.Context) (release func(), err error) {
	if r.Place == nil {
		return func() {}, nil
	}
	return r.Place.Take(ctx)
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

// Open sends the request and returns once its first event, other than a ping, is with the handler, which gets the others
// as they come. A refusal, also one that comes as a first event error, is an *Error; then the handler was not called. It
// is repeated only here: nothing has been relayed yet. Canceling the context ends the stream at any time.
func (c *Client) Open(ctx context.Context, req Request, retry Retry, h Handler) error {
	begun := time.Now()
	release, err := req.take(ctx)
	if err != nil {
		return err
	}
	for attempt := 0; ; attempt++ {
		err := c.open(ctx, req, begun, release, h)
		if err == nil {
			return nil
		}
		if release = c.again(ctx, req, err, attempt, retry); release != nil {
			continue
		}
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
}

// again waits before the next attempt and takes its place. It is nil if there is to be none.
func (c *Client) again(ctx context.Context, req Request, err error, attempt int, retry Retry) (release func()) {
	reason := ""
	var e *Error
	switch {
	case attempt >= retry.Max:
		return nil
	case errors.Is(err, errSilent):
		return nil // it has cost the whole patience already
	case errors.Is(err, errConnection):
		reason = "connection"
	case errors.As(err, &e) && errors.Is(err, errFirstEvent) && e.Type == Overloaded:
		reason = "overloaded_first"
	case e != nil && e.answered != 0 && retry.Statuses != nil && retry.Statuses(e.answered):
		reason = strconv.Itoa(e.Status)
	default:
		return nil
	}
	wait := backoff.Delay(attempt, rand.Float64())
	if e != nil {
		if e.Header.Get("X-Should-Retry") == "false" {
			return nil
		}
		if d, ok := backoff.RetryAfter(e.Header, time.Now()); ok {
			wait = d
		}
	}
	if !retry.Until.IsZero() && time.Now().Add(wait).After(retry.Until) {
		return nil
	}
	c.log.Info("upstream request is repeated", "attempt", attempt+2, "wait", wait.Round(time.Millisecond), "reason", err)
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return nil
	}
	if release, err = req.take(ctx); err != nil {
		return nil
	}
	c.metrics.UpstreamRetry(reason)
	return release
}

// What again must tell apart; causes inside an *Error.
var (
	errConnection = errors.New("the connection failed")
	errFirstEvent = errors.New("an error as first event")
)

// open makes one attempt, which has its place already.
func (c *Client) open(parent context.Context, req Request, begun time.Time, release func(), h Handler) error {
	reading := false
	defer func() {
		if !reading {
			release()
		}
	}()
	ctx, cancel := context.WithCancelCause(parent)
	w := startWatch(c.cfg.Silence, cancel)
	resp, err := c.send(ctx, req)
	if err == nil {
		c.metrics.FirstEvent(metrics.StageHeaders, time.Since(begun))
		if err = checkStream(resp); err != nil {
			resp.Body.Close()
		}
	}
	if err != nil {
		w.stop()
		cancel(errEnded)
		return err
	}
	s := newStream(ctx, cancel, w, c.log, resp.Header, h)
	reading = true
	if body, ok := resp.Body.(interface{ Push(h2.Sink) }); ok {
		body.Push(streamInPlace{s, release})
	} else {
		go push(resp.Body, streamInPlace{s, release})
	}
	<-s.opened
	return s.err
}

// streamInPlace is a stream whose place at the upstream is free when its body is over.
type streamInPlace struct {
	*stream
	release func()
}

func (p streamInPlace) End(err error) {
	defer p.release()
	p.stream.End(err)
}

// push reads a body for a stream whose transport does not push.
func push(body io.ReadCloser, s streamInPlace) {
	defer s.release() // also where reading panics
	defer s.failOnPanic()
	defer body.Close()
	b := make([]byte, 4<<10)
	for {
		n, err := body.Read(b)
		if n > 0 {
			s.Data(b[:n])
			s.Flush()
		}
		switch err {
		case nil:
			continue
		case io.EOF:
			err = nil
		}
		s.End(err)
		return
	}
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
