package gateway

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"sluice/gateway/httpapi"
)

// ReloadFile is Reload with the file at path, which is read as LoadConfig does. A file that is no good changes nothing.
func (g *Gateway) ReloadFile(path string, getenv func(string) (string, bool)) error {
	return g.reload(func() (Config, error) {
		cfg, warnings, err := LoadConfig(path, getenv)
		for _, w := range warnings {
			g.log.Warn("the configuration has a weakness", "warning", w.String())
		}
		return cfg, err
	})
}

// Reload replaces what may change while the gateway serves: who may call, the plans, upstream.max_concurrent, the origins
// of pages, and the certificate, whose files are read again. It is done as a whole, or an error changes nothing; the log
// and the metrics tell which. What else differs needs a restart, and the log names it.
//
// No stream notices. One that runs goes on by the plan that it was admitted with, also if its owner's credential is gone;
// what owners have used stays counted. It may be called from any goroutine, also before Run.
func (g *Gateway) Reload(cfg Config) error {
	return g.reload(func() (Config, error) { return cfg, nil })
}

func (g *Gateway) reload(load func() (Config, error)) error {
	g.reloading.Lock()
	defer g.reloading.Unlock()
	cfg, err := load()
	if err == nil {
		err = g.apply(cfg)
	}
	g.metrics.ConfigReloaded(err == nil)
	if err != nil {
		for problem := range strings.SplitSeq(err.Error(), "\n") { // a line each, as at the start
			g.log.Error("the configuration is not good", "problem", problem)
		}
		g.log.Error("the configuration was not reloaded: nothing has changed")
		return err
	}
	g.log.Info("the configuration was reloaded", "keys", len(cfg.Auth.Keys), "plans", len(cfg.Plans))
	if keys := needRestart(g.cfg, cfg); len(keys) > 0 {
		g.log.Warn("some keys are read at the start only: restart for their new values", "keys", strings.Join(keys, ", "))
	}
	return nil
}

// apply makes everything new before it puts anything in force.
func (g *Gateway) apply(cfg Config) error {
	origins, err := httpapi.NewOrigins(cfg.Server.CORSOrigins)
	if err != nil {
		return fmt.Errorf("server.cors_origins: %w", err)
	}
	pair := g.cert.get()
	if pair != nil && cfg.Server.TLS != (TLS{}) {
		if pair, err = cfg.Server.TLS.load(); err != nil {
			return fmt.Errorf("server.tls: %w", err)
		}
	}
	// Callers change in one moment and plans in another. Until both have, all plans are there, so that nobody has none.
	both := maps.Clone(cfg.Plans)
	maps.Copy(both, g.plans)
	g.limits.SetPlans(both)
	if err := g.auth.Reload(callers(cfg.Auth, g.demo)); err != nil {
		g.limits.SetPlans(g.plans)
		return fmt.Errorf("auth: %w", err)
	}
	g.limits.SetPlans(cfg.Plans)
	g.plans = maps.Clone(cfg.Plans)
	g.queue.SetLimit(cfg.Upstream.MaxConcurrent)
	g.api.SetOrigins(origins)
	g.cert.set(pair)
	return nil
}

// needRestart names the keys that differ and that Reload leaves as they are.
func needRestart(running, cfg Config) (keys []string) {
	s, u, r := running.Server, running.Upstream, running.Relay
	for _, k := range []struct {
		key     string
		differs bool
	}{
		{"server.listen", s.Listen != cfg.Server.Listen},
		{"server.admin_listen", s.AdminListen != cfg.Server.AdminListen},
		{"server.public_url", s.PublicURL != cfg.Server.PublicURL},
		{"server.tls", (s.TLS == TLS{}) != (cfg.Server.TLS == TLS{})}, // other files are no matter
		{"server.h2c", s.H2C != cfg.Server.H2C},
		{"server.drain", s.Drain != cfg.Server.Drain},
		{"upstream.base_url", u.BaseURL != cfg.Upstream.BaseURL},
		{"upstream.api_key", u.APIKey != cfg.Upstream.APIKey},
		{"upstream.ca_file", u.CAFile != cfg.Upstream.CAFile},
		{"upstream.queue_wait", u.QueueWait != cfg.Upstream.QueueWait},
		{"upstream.stall_timeout", u.StallTimeout != cfg.Upstream.StallTimeout},
		{"upstream.timeout", u.Timeout != cfg.Upstream.Timeout},
		{"upstream.forward_paths", !slices.Equal(u.ForwardPaths, cfg.Upstream.ForwardPaths)},
		{"relay.hold", r.Hold != cfg.Relay.Hold},
		{"relay.ping_interval", r.PingInterval != cfg.Relay.PingInterval},
		{"relay.stall_timeout", r.StallTimeout != cfg.Relay.StallTimeout},
		{"relay.abandon_after", r.AbandonAfter != cfg.Relay.AbandonAfter},
		{"relay.retention", r.Retention != cfg.Relay.Retention},
		{"relay.memory", r.Memory != cfg.Relay.Memory},
		{"store.dir", running.Store.Dir != cfg.Store.Dir},
		{"store.nats_url", running.Store.NatsURL != cfg.Store.NatsURL},
		{"background", running.Background != cfg.Background},
		{"callbacks.secrets", !slices.Equal(running.Callbacks.Secrets, cfg.Callbacks.Secrets)},
		{"callbacks.allow_hosts", !slices.Equal(running.Callbacks.AllowHosts, cfg.Callbacks.AllowHosts)},
		{"callbacks.allow_private", running.Callbacks.AllowPrivate != cfg.Callbacks.AllowPrivate},
		{"log", running.Log != cfg.Log},
	} {
		if k.differs {
			keys = append(keys, k.key)
		}
	}
	return keys
}
