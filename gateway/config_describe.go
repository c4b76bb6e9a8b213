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
	line("operators", "at %s: metrics, health, usage", c.Server.AdminListen)
	line("claude", "at %s; %s", c.Upstream.BaseURL, describeTrust(c.Upstream.CAFile))
	line("patience", "a stream is given up after %s without a byte, an answer without streaming after %s",
		shortDuration(c.Upstream.StallTimeout), shortDuration(c.Upstream.Timeout))
	if paths := c.Upstream.ForwardPaths; len(paths) > 0 {
		line("forwarded", "%s, shared by all callers", sentence(paths))
	}
	line("keys", "%s", c.describeKeys())
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

func describeTrust(caFile string) string {
	if caFile == "" {
		return "certificates are checked against the system's authorities"
	}
	return "certificates are checked against " + caFile
}

func (c Config) describeKeys() string {
	if len(c.Auth.Keys) == 0 {
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
