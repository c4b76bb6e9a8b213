package claude

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

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
	streams *h2.Transport // which http uses, too
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
	streams := &h2.Transport{Dial: dialer.DialContext, TLS: t.TLSClientConfig.Clone(), Proxy: t.Proxy, Pollers: cfg.Pollers,
		Other: &h1.Transport{Dial: dialer.DialContext, Proxy: t.Proxy, Pollers: cfg.Pollers, Other: t}}
	return &Client{cfg: cfg, base: base, metrics: m, log: log, streams: streams, http: &http.Client{
		Transport: streams,
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
	// TryTake takes the place if it is free.
	TryTake() (release func(), ok bool)

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

func (r Request) tryTake() (release func(), ok bool) {
	if r.Place == nil {
		return func() {}, true
	}
	return r.Place.TryTake()
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
