package gateway

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"sluice/gateway/limits"
)

// Describe says in a dozen lines what a gateway with this configuration does.
// It has no secret in it.
func (c Config) Describe() string {
	var b strings.Builder
	line := func(topic, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s %s\n", topic, fmt.Sprintf(format, args...))
	}
	line("callers", "at %s; %s", c.Server.Listen, c.describeURLs())
	line("protocols", "%s", c.Server.describeProtocols())
	if origins := c.Server.CORSOrigins; len(origins) > 0 {
		line("pages", "of %s may call from there", sentence(origins))
	}
	line("operators", "at %s: metrics, health, usage", c.Server.AdminListen)
	line("claude", "at %s; %s", c.Upstream.BaseURL, describeTrust(c.Upstream.CAFile))
	line("patience", "a stream is given up after %s without a byte, an answer without streaming after %s",
		shortDuration(c.Upstream.StallTimeout), shortDuration(c.Upstream.Timeout))
	line("queue", "%s", describeQueue(c.Upstream))
	if paths := c.Upstream.ForwardPaths; len(paths) > 0 {
		line("forwarded", "%s, shared by all callers", sentence(paths))
	}
	line("keys", "%s", c.describeKeys())
	if tokens := c.Auth.JWT.describe(); tokens != "" {
		line("tokens", "%s", tokens)
	}
	if c.Auth.UserHeader != "" {
		line("users", "are whom a trusted proxy names in %s, on plan %s", c.Auth.UserHeader, c.Auth.DefaultPlan)
	}
	if c.Auth.AnonymousPlan != "" {
		line("anonymous", "callers without credentials are on plan %s, each address by itself", c.Auth.AnonymousPlan)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Plans)) {
		line("plan", "%s: %s", name, describePlan(c.Plans[name]))
	}
	line("tickets", "%s", describeTickets(c.Auth.TicketSecret))
	if proxies := c.Auth.TrustedProxies; len(proxies) > 0 {
		words := make([]string, len(proxies))
		for i, p := range proxies {
			words[i] = p.String()
		}
		line("proxies", "what %s forward about a caller is believed", sentence(words))
	}
	line("status", "waits up to %s for Claude's first event; then a ping after each %s of silence",
		shortDuration(c.Relay.Hold), shortDuration(c.Relay.PingInterval))
	line("readers", "end after %s without progress; a stream without any is %s (/v1/messages) or %s (/v1/streams)",
		shortDuration(c.Relay.StallTimeout), describeAbandon(c.Relay.AbandonAfter.Messages), describeAbandon(c.Relay.AbandonAfter.Streams))
	line("memory", "%s for all streams; an ended one is kept for %s", describeSize(c.Relay.Memory), shortDuration(c.Relay.Retention))
	line("store", "%s", c.describeStore())
	line("background", "%d streams at once; an ended one is kept for %s", c.Background.Concurrency, shortDuration(c.Background.Retention))
	line("callbacks", "%s", describeCallbacks(c.Callbacks))
	line("shutdown", "waits up to %s for open streams", shortDuration(c.Server.Drain))
	line("log", "%s, from %s", c.Log.Format, describeLevel(c.Log.Level))
	return b.String()
}

func (c Config) describeURLs() string {
	if c.Server.PublicURL == "" {
		return "URLs are made from each request's Host"
	}
	return "URLs begin with " + c.Server.PublicURL
}

func (s Server) describeProtocols() string {
	switch {
	case s.TLS != TLS{}:
		return "HTTP/2 and HTTP/1.1 over TLS, with the certificate in " + s.TLS.CertFile
	case s.H2C:
		return "HTTP/1.1, and HTTP/2 without TLS for a proxy that speaks it"
	}
	return "HTTP/1.1 without TLS, over which a browser opens six connections"
}

func describeTrust(caFile string) string {
	if caFile == "" {
		return "certificates are checked against the system's authorities"
	}
	return "certificates are checked against " + caFile
}

func describeQueue(u Upstream) string {
	then := "are refused"
	if u.QueueWait > 0 {
		then = "wait up to " + shortDuration(u.QueueWait)
	}
	if u.MaxConcurrent == 0 {
		return "any number of requests are at Claude at once; while it asks for a pause they " + then
	}
	return fmt.Sprintf("%d requests are at Claude at once; others, and all while it asks for a pause, %s", u.MaxConcurrent, then)
}

func (c Config) describeKeys() string {
	switch a := c.Auth; {
	case len(a.Keys) > 0:
	case a.JWT.describe() != "" || a.UserHeader != "" || a.AnonymousPlan != "":
		return "none"
	default:
		return "none, so nobody can call"
	}
	perPlan := map[string]int{}
	for _, k := range c.Auth.Keys {
		perPlan[k.Plan]++
	}
	var words []string
	for _, plan := range slices.Sorted(maps.Keys(perPlan)) {
		words = append(words, fmt.Sprintf("%d on plan %s", perPlan[plan], plan))
	}
	return sentence(words)
}

// describe says which tokens are taken; empty if none.
func (j JWT) describe() string {
	var words []string
	switch {
	case j.Secret != "":
		words = append(words, "signed with the configured secret (HS256)")
	case j.JWKSURL != "":
		at, _, _ := strings.Cut(j.JWKSURL, "?")
		words = append(words, "signed with a key of "+at)
	default:
		return ""
	}
	if j.Issuer != "" {
		words = append(words, "issued by "+j.Issuer)
	}
	if j.Audience != "" {
		words = append(words, "for "+j.Audience)
	}
	words = append(words, "the user is "+j.UserClaim)
	if j.PlanClaim != "" {
		words = append(words, "the plan "+j.PlanClaim)
	}
	if j.Cookie != "" {
		words = append(words, "also in the cookie "+j.Cookie)
	}
	return strings.Join(words, ", ")
}

func describePlan(p limits.Plan) string {
	var words []string
	if p.RequestsPerMinute > 0 {
		burst := p.Burst
		if burst == 0 {
			burst = p.RequestsPerMinute
		}
		words = append(words, fmt.Sprintf("%d requests a minute, %d at once", p.RequestsPerMinute, burst))
	}
	if p.ConcurrentStreams > 0 {
		words = append(words, fmt.Sprintf("%d open streams", p.ConcurrentStreams))
	}
	if p.ViewersPerStream > 0 {
		words = append(words, fmt.Sprintf("%d viewers a stream", p.ViewersPerStream))
	}
	if p.InputTokensPerMinute > 0 {
		words = append(words, fmt.Sprintf("%d input tokens a minute", p.InputTokensPerMinute))
	}
	if p.OutputTokensPerMinute > 0 {
		words = append(words, fmt.Sprintf("%d output tokens a minute", p.OutputTokensPerMinute))
	}
	if p.TokensPerDay > 0 {
		words = append(words, fmt.Sprintf("%d tokens a day", p.TokensPerDay))
	}
	if p.MaxTokens > 0 {
		words = append(words, fmt.Sprintf("max_tokens up to %d", p.MaxTokens))
	}
	if len(p.Models) > 0 {
		words = append(words, "only "+sentence(p.Models))
	}
	if len(words) == 0 {
		return "no limits"
	}
	return strings.Join(words, ", ")
}

func describeTickets(secret string) string {
	if secret == "" {
		return "signed with a secret that is made once and kept in the store"
	}
	return "signed with the configured secret"
}

func describeCallbacks(c Callbacks) string {
	secret := "signed with a secret that the store keeps"
	if n := len(c.Secrets); n == 1 {
		secret = "signed with the configured secret"
	} else if n > 1 {
		secret = fmt.Sprintf("signed with the first of %d configured secrets", n)
	}
	reach := "only to public addresses, over https"
	if c.AllowPrivate {
		reach = "also to private addresses, over https"
	}
	if len(c.AllowHosts) > 0 {
		reach += ", and to " + sentence(c.AllowHosts)
	}
	return secret + "; " + reach
}

func describeAbandon(after time.Duration) string {
	if after == Never {
		return "read to its end"
	}
	return "given up after " + shortDuration(after)
}

func describeLevel(l slog.Level) string { return strings.ToLower(l.String()) }

// describeSize is n in the largest unit that divides it.
func describeSize(n int64) string {
	best := "B"
	for _, unit := range sizeUnitNames {
		if n%sizeUnits[unit] == 0 && sizeUnits[unit] > sizeUnits[best] {
			best = unit
		}
	}
	return fmt.Sprintf("%d %s", n/sizeUnits[best], best)
}

// shortDuration is d without the zeros that time.Duration prints: 10m, not 10m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
