package gateway_test

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"sluice/gateway"
	"sluice/gateway/limits"
	"sluice/gateway/simulator"
)

// nodeWith is the path of Node. The tests that need it also need what `npm ci` installs in testdata/node.
func nodeWith(t *testing.T, library string) string {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		skip(t, "there is no node")
	}
	if _, err := os.Stat("testdata/node/node_modules/" + library); err != nil {
		skip(t, library+" is not installed: npm ci --prefix gateway/testdata/node")
	}
	return node
}

// runNode runs a script of testdata/node, which must succeed, and returns what it prints.
func runNode(t *testing.T, node, script, stdin string, env ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, script)
	cmd.Dir = "testdata/node"
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestTypeScriptSDKWorksUnchanged runs testdata/node/sdk.mjs.
func TestTypeScriptSDKWorksUnchanged(t *testing.T) {
	t.Parallel()
	node := nodeWith(t, "@anthropic-ai/sdk")
	h := openHouse(t, simulator.New(simulator.Options{}), func(c *gateway.Config) {
		c.Plans["slow"] = limits.Plan{RequestsPerMinute: 30, Burst: 1, Models: []string{"claude-sonnet-*"}}
		c.Auth.Keys[1].Plan = "slow"
		c.Relay.AbandonAfter.Messages = 50 * time.Millisecond
	})
	out := runNode(t, node, "sdk.mjs", "", "SLUICE_URL="+h.url, "SLUICE_KEY="+aliceKey, "SLUICE_SLOW_KEY="+bobKey, "ANTHROPIC_AUTH_TOKEN=", "ANTHROPIC_LOG=off")
	if out != "9" {
		t.Fatal(out)
	}
	h.becomes(`sluice_streams_total{model="claude-sonnet-4-6",outcome="abandoned"}`, 1)
	for _, r := range h.upstream.requests() {
		watching := r.method == "GET" && strings.HasPrefix(r.uri, "/v1/messages/batches/") // by the gateway itself, too
		if r.header.Get("X-Stainless-Lang") != "js" && !watching {
			t.Errorf("%s %s without x-stainless-lang: %v", r.method, r.uri, r.header)
		}
	}
}

// TestStandardWebhooksLibraryForJavaScriptTakesOurCallbacks runs testdata/node/webhooks.mjs on a callback as it was received.
func TestStandardWebhooksLibraryForJavaScriptTakesOurCallbacks(t *testing.T) {
	t.Parallel()
	node, k := nodeWith(t, "standardwebhooks"), newHook(t)
	h := openHouse(t, saying(1), k.allowed)
	h.do("POST", "/v1/streams", request("short"), "prefer", async, "sluice-callback-url", k.url).status(202)
	p := receive(t, k.posts, "the callback")
	headers := map[string]string{}
	for name := range p.header {
		headers[strings.ToLower(name)] = p.header.Get(name)
	}
	in, err := json.Marshal(map[string]any{"secret": h.secret(aliceKey), "foreign": h.secret(bobKey), "body": p.body, "headers": headers})
	if err != nil {
		t.Fatal(err)
	}
	if out := runNode(t, node, "webhooks.mjs", string(in)); out != "10" {
		t.Error(out)
	}
	p.answer <- http.StatusOK
	h.becomes(`sluice_callbacks_total{outcome="delivered"}`, 1)
}
