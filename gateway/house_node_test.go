package gateway_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"sluice/gateway"
	"sluice/gateway/limits"
	"sluice/gateway/simulator"
)

// TestTypeScriptSDKWorksUnchanged runs testdata/node/sdk.mjs. It needs Node and what `npm ci` installs there.
func TestTypeScriptSDKWorksUnchanged(t *testing.T) {
	t.Parallel()
	node, err := exec.LookPath("node")
	if err != nil {
		skip(t, "there is no node")
	}
	if _, err := os.Stat("testdata/node/node_modules/@anthropic-ai/sdk"); err != nil {
		skip(t, "the SDK is not installed: npm ci --prefix gateway/testdata/node")
	}
	h := openHouse(t, simulator.New(simulator.Options{}), func(c *gateway.Config) {
		c.Plans["slow"] = limits.Plan{RequestsPerMinute: 30, Burst: 1}
		c.Auth.Keys[1].Plan = "slow"
		c.Relay.AbandonAfter.Messages = 50 * time.Millisecond
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, "sdk.mjs")
	cmd.Dir = "testdata/node"
	cmd.Env = append(os.Environ(), "SLUICE_URL="+h.url, "SLUICE_KEY="+aliceKey, "SLUICE_SLOW_KEY="+bobKey,
		"ANTHROPIC_AUTH_TOKEN=", "ANTHROPIC_LOG=off")
	out, err := cmd.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "9" {
		t.Fatalf("%v\n%s", err, out)
	}
	h.becomes(`sluice_streams_total{model="claude-sonnet-4-6",outcome="abandoned"}`, 1)
	for _, r := range h.upstream.requests() {
		watching := r.method == "GET" && strings.HasPrefix(r.uri, "/v1/messages/batches/") // by the gateway itself, too
		if r.header.Get("X-Stainless-Lang") != "js" && !watching {
			t.Errorf("%s %s without x-stainless-lang: %v", r.method, r.uri, r.header)
		}
	}
}
