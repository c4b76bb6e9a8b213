package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"sluice/gateway/auth"
	"sluice/gateway/background"
	"sluice/gateway/claude"
	"sluice/gateway/httpapi"
	"sluice/gateway/limits"
	"sluice/gateway/metrics"
	"sluice/gateway/relay"
	"sluice/gateway/store"
	"sluice/web"
)

// Options are what a gateway is given beside its configuration.
type Options struct {
	Version string
	Log     *slog.Logger // nil: nothing is logged
	Demo    bool         // answers are simulated, and say so; a caller without credentials is the user "demo"
}

// Gateway is the house: its rooms, and the listeners that lead into it.
type Gateway struct {
	cfg        Config
	log        *slog.Logger
	store      *store.Store
	client     *claude.Client
	background *background.Background
	relay      *relay.Relay
	api        *httpapi.API
	public     net.Listener
	admin      net.Listener
	servers    [2]*http.Server
	demo       bool
}

// New opens the store and builds the rooms. It opens no port and begins no work. Run closes the store; where Run is not
// called, Close must be.
func New(cfg Config, o Options) (_ *Gateway, err error) {
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	m := metrics.New(o.Version)
	client, err := claude.New(claude.Config{BaseURL: cfg.Upstream.BaseURL, APIKey: cfg.Upstream.APIKey, CAFile: cfg.Upstream.CAFile,
		Silence: cfg.Upstream.StallTimeout, Timeout: cfg.Upstream.Timeout}, m, log)
	if err != nil {
		return nil, fmt.Errorf("upstream: %w", err)
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
	callers := auth.Config{DefaultPlan: cfg.Auth.DefaultPlan, TrustedProxies: cfg.Auth.TrustedProxies, TicketSecret: cfg.Auth.TicketSecret}
	for _, k := range cfg.Auth.Keys {
		callers.Keys = append(callers.Keys, auth.Key(k))
	}
	if o.Demo {
		callers.Ambient = &auth.Identity{Owner: "user:demo"}
	}
	who, err := auth.New(callers)
	if err != nil {
		return nil, fmt.Errorf("auth: %w", err)
	}
	plans := limits.New(cfg.Plans)
	streams := relay.New(relay.Config{Retention: cfg.Relay.Retention, Memory: cfg.Relay.Memory}, client, plans, m, log)
	queued, err := background.New(ctx, background.Config(cfg.Background), kept, streams, plans, m, log)
	if err != nil {
		return nil, err
	}
	api := httpapi.New(httpapi.Config{
		PublicURL: cfg.Server.PublicURL, Hold: cfg.Relay.Hold, PingInterval: cfg.Relay.PingInterval, StallTimeout: cfg.Relay.StallTimeout,
		AbandonAfter: httpapi.AbandonAfter(cfg.Relay.AbandonAfter), ForwardPaths: cfg.Upstream.ForwardPaths,
		Page: web.Handler(web.Options{Demo: o.Demo, Version: o.Version}), PagePaths: web.Paths,
	}, who, streams, queued, client, m, log)
	return &Gateway{cfg: cfg, log: log, store: kept, client: client, relay: streams, background: queued, api: api, demo: o.Demo}, nil
}

// Close closes what New and Listen have opened, of a gateway that is not to run.
func (g *Gateway) Close() {
	if g.public != nil {
		g.public.Close()
		g.admin.Close()
	}
	g.store.Close()
}

// Listen opens both ports. Run does it where it has not been done.
func (g *Gateway) Listen() error {
	var err error
	if g.public, err = net.Listen("tcp", g.cfg.Server.Listen); err != nil {
		return fmt.Errorf("server.listen: %w", err)
	}
	if g.admin, err = net.Listen("tcp", g.cfg.Server.AdminListen); err != nil {
		g.public.Close()
		g.public = nil
		return fmt.Errorf("server.admin_listen: %w", err)
	}
	return nil
}

// Addr is where callers reach the gateway once it listens, AdminAddr where operators do.
func (g *Gateway) Addr() net.Addr      { return g.public.Addr() }
func (g *Gateway) AdminAddr() net.Addr { return g.admin.Addr() }

// What a connection may take before it has said what it wants: slow clients are many, and each costs a goroutine.
const (
	headerPatience = 10 * time.Second
	idlePatience   = 2 * time.Minute
	maxHeader      = 64 << 10
)

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
	g.background.Start()
	failed := make(chan error, len(g.servers))
	errorLog := slog.NewLogLogger(g.log.Handler(), slog.LevelDebug)
	for i, s := range []struct {
		listener net.Listener
		handler  http.Handler
	}{{g.public, g.api.Handler()}, {g.admin, g.api.Admin()}} {
		g.servers[i] = &http.Server{Handler: s.handler, ReadHeaderTimeout: headerPatience, IdleTimeout: idlePatience, MaxHeaderBytes: maxHeader, ErrorLog: errorLog}
		go func() { failed <- g.servers[i].Serve(s.listener) }()
	}
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
	return errors.Join(err, g.stop())
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
	g.client.CloseIdle()
	g.log.Info("stopped")
	return err
}
