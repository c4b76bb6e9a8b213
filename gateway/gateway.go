package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"sluice/gateway/auth"
	"sluice/gateway/background"
	"sluice/gateway/batches"
	"sluice/gateway/callbacks"
	"sluice/gateway/claude"
	"sluice/gateway/httpapi"
	"sluice/gateway/limits"
	"sluice/gateway/metrics"
	"sluice/gateway/poll"
	"sluice/gateway/relay"
	"sluice/gateway/store"
	"sluice/web"
)

// Options are what a gateway is given beside its configuration.
type Options struct {
	Version string
	Log     *slog.Logger // nil: nothing is logged
	Demo    bool         // answers are simulated, and say so; a caller without credentials is the user "demo"

	Receiver string       // the URL of a receiver of callbacks that belongs to a demo, for its page; empty: there is none
	Received http.Handler // GET /demo/callbacks: what that receiver got; nil: there is none
}

// Gateway is the house: its rooms, and the listeners that lead into it.
type Gateway struct {
	cfg        Config // of the start; Reload leaves it as it is
	log        *slog.Logger
	metrics    *metrics.Metrics
	store      *store.Store
	callbacks  *callbacks.Callbacks
	batches    *batches.Batches
	client     *claude.Client
	pollers    *poll.Pollers
	auth       *auth.Auth
	limits     *limits.Limits
	queue      *limits.Queue
	relay      *relay.Relay
	background *background.Background
	api        *httpapi.API
	cert       *certificate // nil without TLS
	public     net.Listener
	admin      net.Listener
	servers    [2]*http.Server
	demo       bool

	reloading sync.Mutex
	plans     map[string]limits.Plan // in force; guarded by reloading
}

// New opens the store and builds the rooms. It opens no port and begins no work. Run closes the store; where Run is not
// called, Close must be.
func New(cfg Config, o Options) (_ *Gateway, err error) {
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	var cert *certificate
	if cfg.Server.TLS != (TLS{}) {
		var err error
		if cert, err = newCertificate(cfg.Server.TLS); err != nil {
			return nil, fmt.Errorf("server.tls: %w", err)
		}
	}
	m, pollers := metrics.New(o.Version), poll.New()
	client, err := claude.New(claude.Config{BaseURL: cfg.Upstream.BaseURL, APIKey: cfg.Upstream.APIKey, CAFile: cfg.Upstream.CAFile,
		Silence: cfg.Upstream.StallTimeout, Timeout: cfg.Upstream.Timeout, Pollers: pollers}, m, log)
	if err != nil {
		return nil, fmt.Errorf("upstream: %w", err)
	}
	origins, err := httpapi.NewOrigins(cfg.Server.CORSOrigins)
	if err != nil {
		return nil, fmt.Errorf("server.cors_origins: %w", err)
	}
	ctx := context.Background()
	kept, err := store.Open(ctx, store.Config{Dir: cfg.Store.Dir, URL: cfg.Store.NatsURL}, log)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			kept.Close()
		}
	}()
	if cfg.Auth.TicketSecret == "" {
		if cfg.Auth.TicketSecret, err = kept.Secret(ctx, "tickets"); err != nil {
			return nil, fmt.Errorf("the ticket secret: %w", err)
		}
	}
	who, err := auth.New(callers(cfg.Auth, o.Demo), log)
	if err != nil {
		return nil, fmt.Errorf("auth: %w", err)
	}
	calls, err := callbacks.New(ctx, callbacks.Config{Secrets: cfg.Callbacks.Secrets, AllowHosts: cfg.Callbacks.AllowHosts,
		AllowPrivate: cfg.Callbacks.AllowPrivate, Version: o.Version}, kept, m, log)
	if err != nil {
		return nil, fmt.Errorf("callbacks: %w", err)
	}
	allowed, queue := limits.New(cfg.Plans), limits.NewQueue(cfg.Upstream.MaxConcurrent)
	watched, err := batches.New(ctx, client, allowed, calls, kept, m, log)
	if err != nil {
		return nil, fmt.Errorf("batches: %w", err)
	}
	streams := relay.New(relay.Config{Retention: cfg.Relay.Retention, Memory: cfg.Relay.Memory}, client, allowed, queue, m, log)
	queued, err := background.New(ctx, background.Config(cfg.Background), kept, streams, allowed, calls, m, log)
	if err != nil {
		return nil, fmt.Errorf("background: %w", err)
	}
	served, paths := page(o)
	api := httpapi.New(httpapi.Config{
		PublicURL: cfg.Server.PublicURL, Hold: cfg.Relay.Hold, QueueWait: cfg.Upstream.QueueWait, PingInterval: cfg.Relay.PingInterval, StallTimeout: cfg.Relay.StallTimeout,
		AbandonAfter: httpapi.AbandonAfter(cfg.Relay.AbandonAfter), Origins: origins, ForwardPaths: cfg.Upstream.ForwardPaths,
		Page: served, PagePaths: paths, Pollers: pollers,
	}, who, streams, queued, calls, watched, client, m, log)
	return &Gateway{cfg: cfg, log: log, metrics: m, store: kept, callbacks: calls, batches: watched, client: client, pollers: pollers, auth: who, limits: allowed, queue: queue,
		relay: streams, background: queued, api: api, cert: cert, demo: o.Demo, plans: maps.Clone(cfg.Plans)}, nil
}

// page is the page, and in a demo beside it what the receiver got: the page may ask its own origin only.
func page(o Options) (served http.Handler, paths []string) {
	served = web.Handler(web.Options{Demo: o.Demo, Version: o.Version, Receiver: o.Receiver})
	if o.Received == nil {
		return served, web.Paths
	}
	const received = "/demo/callbacks"
	both := http.NewServeMux()
	both.Handle("/", served)
	both.Handle(received, o.Received)
	return both, append(slices.Clone(web.Paths), received)
}

// Close closes what New and Listen have opened, of a gateway that is not to run.
func (g *Gateway) Close() {
	if g.public != nil {
		g.public.Close()
		g.admin.Close()
	}
	g.store.Close()
}

// callers is who may call, as the auth room is told.
func callers(a Auth, demo bool) auth.Config {
	c := auth.Config{JWT: auth.JWT(a.JWT), UserHeader: a.UserHeader, TrustedProxies: a.TrustedProxies,
		DefaultPlan: a.DefaultPlan, AnonymousPlan: a.AnonymousPlan, TicketSecret: a.TicketSecret}
	for _, k := range a.Keys {
		c.Keys = append(c.Keys, auth.Key(k))
	}
	if demo {
		c.Ambient = &auth.Identity{Owner: "user:demo"}
	}
	return c
}

// lastWords is how long viewers get to read the end of a stream that the process's own end cut off.
const lastWords = 5 * time.Second

// Run serves until the context is over or a listener fails, and stops in order: not ready and no new streams; open
// streams go on while server.drain lasts and are read and resumed meanwhile; then the rest end with an error event, or go
// back to the queue that they came from; then the ports close, and the store.
func (g *Gateway) Run(ctx context.Context) error {
	defer g.store.Close()
	if g.public == nil {
		if err := g.Listen(); err != nil {
			return err
		}
	}
	g.servers = [2]*http.Server{g.publicServer(), g.server(g.api.Admin())}
	g.auth.Start()
	telling, stopTelling := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { g.callbacks.Run(telling) })
	running.Go(func() { g.batches.Run(telling) })
	g.background.Start()
	failed := make(chan error, len(g.servers))
	go func() { failed <- g.servers[0].Serve(g.public) }()
	go func() { failed <- g.servers[1].Serve(g.admin) }()
	if g.demo {
		g.log.Warn("this is a demo: answers are simulated")
	}
	g.log.Info("listening", "callers", g.Addr().String(), "operators", g.AdminAddr().String(), "upstream", g.cfg.Upstream.BaseURL)
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		g.log.Error("a listener failed", "error", err)
	}
	err = errors.Join(err, g.stop())
	stopTelling() // last, so that the ends of drained streams are told now
	running.Wait()
	g.store.Close()
	g.log.Info("stopped")
	return err
}

func (g *Gateway) stop() error {
	g.log.Info("draining", "at_most", g.cfg.Server.Drain)
	drain, cancel := context.WithTimeout(context.Background(), g.cfg.Server.Drain)
	defer cancel()
	g.api.Drain()
	g.background.Drain()
	g.relay.Drain(drain)

	last, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	g.background.Stop()
	g.relay.Stop(last)
	g.background.Wait(last)
	// Answers that are not streams have the rest of the drain; after it, as long as the last words.
	rest := last
	if drain.Err() == nil {
		rest = drain
	}
	err := g.servers[0].Shutdown(rest)
	if err != nil {
		g.servers[0].Close()
		err = nil
	}
	g.api.Close(last)
	g.servers[1].Close()
	g.auth.Close()
	g.pollers.Stop() // first, so that no connection becomes idle that nobody closes
	g.client.CloseIdle()
	return err
}
