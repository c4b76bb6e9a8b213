package gateway

import (
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

func FuzzConfig(f *testing.F) {
	shipped, err := os.ReadFile("../config.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(shipped)
	f.Add([]byte("relay: {hold: 0}\nserver: {drain: 0}")) // which are "not at all"
	for _, test := range badInputs {
		f.Add([]byte(test.text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, warnings, err := ParseConfig("c.yaml", data, badEnv)
		if err != nil {
			var e *ConfigError
			if !errors.As(err, &e) || len(e.Problems) == 0 || strings.Count(err.Error(), "\n") > maxProblemsShown {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		for _, w := range warnings {
			if strings.ContainsAny(w.String(), "\r\n") {
				t.Errorf("a warning of several lines: %q", w)
			}
		}
		checkBounds(t, c)
		if c.Describe() == "" {
			t.Error("nothing to say about it")
		}
	})
}

// checkBounds checks what the rest of the program takes for granted.
func checkBounds(t *testing.T, c Config) {
	t.Helper()
	for name, d := range map[string]time.Duration{
		"upstream.stall_timeout": c.Upstream.StallTimeout, "upstream.timeout": c.Upstream.Timeout, "relay.hold": c.Relay.Hold + 1,
		"relay.ping_interval": c.Relay.PingInterval, "relay.stall_timeout": c.Relay.StallTimeout, "relay.retention": c.Relay.Retention,
		"messages": c.Relay.AbandonAfter.Messages, "streams": c.Relay.AbandonAfter.Streams, "drain": c.Server.Drain + 1,
	} {
		never := d == Never && (name == "messages" || name == "streams")
		if !never && (d <= 0 || d > maxDuration+1) {
			t.Errorf("%s is %v", name, d)
		}
	}
	for name, p := range c.Plans {
		for _, n := range []int{p.RequestsPerMinute, p.Burst, p.ConcurrentStreams, p.ViewersPerStream} {
			if n < 0 || n > maxCount {
				t.Errorf("plan %s: %+v", name, p)
			}
		}
	}
	ids := map[string]bool{}
	for _, k := range c.Auth.Keys {
		if _, ok := c.Plans[k.Plan]; !ok || ids[k.ID] || k.Key == "" || !plainName.MatchString(k.ID) {
			t.Errorf("a key that nobody could use: %+v", k)
		}
		ids[k.ID] = true
	}
	for _, p := range c.Auth.TrustedProxies {
		if !p.IsValid() || p != p.Masked() {
			t.Errorf("trusted proxy %v", p)
		}
	}
	a := c.Auth
	if a.JWT.Secret != "" && a.JWT.JWKSURL != "" || a.JWT.UserClaim == "" || a.UserHeader != "" && len(a.TrustedProxies) == 0 || http.CanonicalHeaderKey(a.UserHeader) == "Authorization" {
		t.Errorf("%+v", a)
	}
	if _, ok := c.Plans[a.AnonymousPlan]; !ok && a.AnonymousPlan != "" {
		t.Errorf("the anonymous plan %q does not exist", a.AnonymousPlan)
	}
	if _, ok := c.Plans[a.DefaultPlan]; !ok && (a.JWT.describe() != "" || a.UserHeader != "") {
		t.Errorf("the default plan %q does not exist", a.DefaultPlan)
	}
	if c.Relay.Hold >= c.Upstream.StallTimeout || c.Upstream.APIKey == "" ||
		c.Relay.Memory < minSize || c.Relay.Memory > maxSize || strings.HasSuffix(c.Upstream.BaseURL, "/") {
		t.Errorf("%+v", c)
	}
}
