package httpapi

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"

	"sluice/gateway/auth"
	"sluice/gateway/background"
	"sluice/gateway/batches"
	"sluice/gateway/callbacks"
	"sluice/gateway/claude"
	"sluice/gateway/metrics"
	"sluice/gateway/poll"
	"sluice/gateway/relay"
)

// Config is what the edge is told beside its rooms.
type Config struct {
	PublicURL    string        // scheme and host of the URLs in answers; empty: as the request came
	Hold         time.Duration // how long a streaming answer's status waits for the upstream's first event
	QueueWait    time.Duration // how long a request waits for a place at the upstream; less than Hold
	PingInterval time.Duration // a viewer that got no byte for so long gets a ping
	StallTimeout time.Duration // a viewer that takes no byte for so long is ended
	AbandonAfter AbandonAfter
	Origins      *Origins      // the pages of elsewhere that may call
	ForwardPaths []string      // further paths below /v1/ that are forwarded, with all that is below them
	Page         http.Handler  // GET / and what it loads; nil: there is no page
	PagePaths    []string      // the paths that Page serves
	Pollers      *poll.Pollers // what waits for the connections that are taken from net/http; nil: none is
}

// AbandonAfter is how long a stream without a viewer goes on, by the route that made it; negative: to its end.
type AbandonAfter struct{ Messages, Streams time.Duration }

// API is the edge. Its handlers are safe for use by many goroutines, as http.Handlers are.
type API struct {
	cfg        Config
	auth       *auth.Auth
	relay      *relay.Relay
	background *background.Background
	calls      *callbacks.Callbacks
	batches    *batches.Batches
	client     *claude.Client
	metrics    *metrics.Metrics
	log        *slog.Logger
	echo       *echo.Echo
	origins    atomic.Pointer[Origins]
	draining   atomic.Bool
	drain      chan struct{}  // closed by Drain
	telling    sync.WaitGroup // of streams whose end is to be told

	mu     sync.Mutex
	taken  map[*rawConn]struct{} // connections that were taken from net/http, with a viewer on each
	closed bool

	empty   chan struct{} // closed when taken is empty after Close
	emptied sync.Once
}

// New builds the routes.
func New(cfg Config, a *auth.Auth, r *relay.Relay, bg *background.Background, calls *callbacks.Callbacks, b *batches.Batches, client *claude.Client, m *metrics.Metrics, log *slog.Logger) *API {
	api := &API{cfg: cfg, auth: a, relay: r, background: bg, calls: calls, batches: b, drain: make(chan struct{}), client: client, metrics: m, log: log, echo: echo.New(), taken: make(map[*rawConn]struct{}), empty: make(chan struct{})}
	api.SetOrigins(cfg.Origins)
	e := api.echo
	e.HideBanner, e.HidePort = true, true
	e.HTTPErrorHandler = api.fail
	e.Use(api.around, api.cors)

	get := func(path string, h echo.HandlerFunc) { e.Match([]string{http.MethodGet, http.MethodHead}, path, h) }
	e.POST("/v1/messages", api.postMessages)
	e.POST("/v1/streams", api.postStreams)
	get("/v1/streams", api.listStreams)
	get("/v1/streams/:id", api.getStream)
	e.DELETE("/v1/streams/:id", api.deleteStream)
	e.POST("/v1/streams/:id/cancel", api.cancelStream)
	get("/v1/streams/:id/events", api.getEvents)
	get("/v1/usage", api.getUsage)
	e.POST("/v1/messages/count_tokens", api.forwardJSON)
	get("/v1/models", api.forwardJSON)
	get("/v1/models/:id", api.forwardJSON)
	e.POST("/v1/messages/batches", api.postBatches)
	get("/v1/messages/batches", api.listBatches)
	get("/v1/messages/batches/:id", api.getBatch)
	e.DELETE("/v1/messages/batches/:id", api.deleteBatch)
	get("/v1/messages/batches/:id/results", api.batchResults)
	e.POST("/v1/messages/batches/:id/cancel", api.cancelBatch)
	get("/v1/messages/batches/:id/events", api.batchEvents)
	get("/v1/callbacks", api.listCallbacks)
	get("/v1/callbacks/secret", api.callbackSecret)
	e.POST("/v1/callbacks/:id/redeliver", api.redeliver)
	for _, path := range cfg.ForwardPaths {
		e.Match(forwardedMethods, path, api.forwardAny)
		e.Match(forwardedMethods, path+"/*", api.forwardAny)
	}
	for _, path := range cfg.PagePaths {
		get(path, echo.WrapHandler(cfg.Page))
	}
	return api
}

// Handler serves the public listener.
func (a *API) Handler() http.Handler { return a.echo }

type connKey struct{}

// ConnContext is the public listener's http.Server.ConnContext: requests that can't take their connection over still
// want to know it.
func (a *API) ConnContext(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// Drain makes readyz say no, and ends the readers of batches, which may take a day. Refusing new streams is the relay's part.
func (a *API) Drain() {
	if !a.draining.Swap(true) {
		close(a.drain)
	}
}

// keep remembers a connection that was taken from net/http, and closes it if that came too late.
func (a *API) keep(conn *rawConn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.taken[conn] = struct{}{}
	if a.closed { // nobody waits for this one any more
		conn.conn.Close()
	}
}

func (a *API) letGo(conn *rawConn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.taken, conn)
	if a.closed && len(a.taken) == 0 {
		a.emptied.Do(func() { close(a.empty) })
	}
}

// Close closes the connections that were taken from net/http and waits until they are done with, or the context is over.
// Those of net/http are closed by its server.
func (a *API) Close(ctx context.Context) {
	a.mu.Lock()
	a.closed = true
	for conn := range a.taken {
		conn.conn.Close()
	}
	wait := len(a.taken) > 0
	a.mu.Unlock()
	if wait {
		select {
		case <-a.empty:
		case <-ctx.Done():
		}
	}
	a.telling.Wait() // all streams have ended, and the store answers within seconds
}

const idKey = "sluice-request-id"

// What a browser may make of an answer. No answer can be framed; the page says more of itself. Bytes under a type that the
// upstream chose are no page either, also where it calls them one: that would be of the gateway's own origin, with the
// visitor's cookie.
const (
	answerPolicy   = "frame-ancestors 'none'"
	upstreamPolicy = "default-src 'none'; frame-ancestors 'none'; sandbox"
)

// around gives each request its id, counts it, and turns a panic into an answer.
func (a *API) around(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		var b [12]byte
		rand.Read(b[:])
		id := "req_" + hex.EncodeToString(b[:])
		c.Set(idKey, id)
		h := c.Response().Header()
		h.Set("Request-Id", id)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", answerPolicy)
		if c.Request().ProtoMajor == 1 && len(c.Request().TransferEncoding) > 0 {
			// A body in chunks may have come with a length as well, by which a proxy in front may see another end and take
			// what follows for somebody else's request. net/http does not tell, so nothing that follows is read
			// (RFC 9112 §6.1).
			h.Set("Connection", "close")
		}
		defer func() {
			p := recover()
			if p != nil && p != http.ErrAbortHandler {
				a.log.Error("request failed by a defect", "route", route(c), "request_id", id, "panic", p, "stack", string(debug.Stack()))
				err = fmt.Errorf("panic: %v", p)
			}
			if err != nil {
				a.fail(err, c)
			}
			a.metrics.HTTPRequest(route(c), c.Request().Method, c.Response().Status)
			err = nil
			if p == http.ErrAbortHandler || c.Response().Status == statusGone {
				panic(http.ErrAbortHandler) // net/http would answer 200 for us
			}
		}()
		// net/http keeps a deadline from one request of a connection to the next, and before it sends an answer it waits
		// for what the handler has not read of the request.
		control := http.NewResponseController(c.Response().Writer)
		control.SetWriteDeadline(time.Now().Add(answerPatience))
		if c.Request().ContentLength != 0 {
			control.SetReadDeadline(time.Now().Add(bodyPatience))
		}
		if err := checkTarget(c.Request()); err != nil {
			return err
		}
		return next(c)
	}
}

// route is the pattern that matched.
func route(c echo.Context) string {
	if p := c.Path(); p != "" {
		return p
	}
	return "none"
}

// requestID is the id that this answer carries: the upstream's where there is one, else ours.
func requestID(c echo.Context) string { return c.Response().Header().Get("Request-Id") }

// identify says who calls, and refuses a page of another origin that makes a browser send what it didn't ask for.
func (a *API) identify(c echo.Context) (auth.Identity, error) {
	id, err := a.auth.Identify(c.Request())
	if err == nil && id.Ambient {
		if a.origins.Load().safe.Check(c.Request()) != nil {
			err = refuse(http.StatusForbidden, claude.Permission, "This page's origin may not call the gateway with credentials that the browser adds by itself.")
		}
	}
	return id, err
}

// identifyOwner is identify for what is kept for its owner: the anonymous own nothing.
func (a *API) identifyOwner(c echo.Context) (auth.Identity, error) {
	id, err := a.identify(c)
	if err == nil && id.Owner == "" {
		err = auth.ErrNoCredentials
	}
	return id, err
}

// baseURL is the scheme and host of URLs in answers.
func (a *API) baseURL(r *http.Request) string {
	if a.cfg.PublicURL != "" {
		return a.cfg.PublicURL
	}
	host := r.Host
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && host == "" { // HTTP/1.0 has none
		host = local.String()
	}
	return a.auth.Scheme(r) + "://" + host
}
