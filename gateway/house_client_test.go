package gateway_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"sluice/gateway"
	"sluice/gateway/limits"
	"sluice/gateway/simulator"
)

// outcomes is what a caller of client.js gets of each of the simulator's faults: a stop_reason, or an error's status and
// type, where an error event has no status. Waits are cut short by an argument, and by quickly.
var outcomes = map[string]string{
	"slow=5":                "end_turn",
	"slow-start=50":         "end_turn",
	"stall":                 "undefined timeout_error",
	"stall-pings=50":        "undefined canceled_error", // by the caller: it is the one fault that never ends
	"429=0":                 "429 rate_limit_error",
	"529":                   "529 overloaded_error",
	"529-once":              "end_turn",
	"overloaded-first":      "529 overloaded_error",
	"overloaded-first-once": "end_turn",
	"error":                 "undefined overloaded_error",
	"cut":                   "undefined api_error",
	"no-stop":               "undefined api_error",
	"giant":                 "end_turn",
	"gzip":                  "end_turn",
	"gzip-silent":           "end_turn",
	"html":                  "502 api_error",
	"html-200":              "502 api_error",
	"redirect":              "502 api_error",
	"empty":                 "502 api_error",
	"refusal":               "refusal",
	"500":                   "500 api_error",
	"401":                   "502 api_error",
	"json-200":              "502 api_error",
	"expire":                "end_turn", // these three are of batches
	"expire-once":           "end_turn",
	"batch-time=50":         "end_turn",
}

// quickly shortens what a test would wait for: the death of an upstream that says nothing. A machine that is busy can be
// silent for seconds, too.
func quickly(c *gateway.Config) { c.Upstream.StallTimeout = 5 * time.Second }

// everyFault is outcomes, once it is sure that it has every fault.
func everyFault(t testing.TB) map[string]string {
	t.Helper()
	expected := map[string]bool{}
	for fault := range outcomes {
		name, _, _ := strings.Cut(fault, "=")
		expected[name] = true
	}
	for _, f := range simulator.Faults() {
		if !expected[f.Name] {
			t.Errorf("nobody says what becomes of fault:%s", f.Name)
		}
	}
	return outcomes
}

// TestClientLosesNothingAndNeverFailsInSilence runs web/*.test.mjs, some of which need a gateway.
func TestClientLosesNothingAndNeverFailsInSilence(t *testing.T) {
	t.Parallel()
	node := needsNode(t)
	narrow := func(c *gateway.Config) {
		c.Plans["narrow"], c.Plans["slow"] = limits.Plan{ViewersPerStream: 1}, limits.Plan{RequestsPerMinute: 30, Burst: 1}
		c.Auth.Keys[1].Plan = "narrow"
		c.Auth.Keys = append(c.Auth.Keys, gateway.Key{ID: "carol", Key: "sk-carol-51c2", Plan: "slow"})
		c.Auth.TicketSecret = strings.Repeat("0f", 32)
	}
	h := openHouse(t, simulator.New(simulator.Options{}), quickly, narrow)
	other := openHouse(t, simulator.New(simulator.Options{}), narrow)
	faults, err := json.Marshal(everyFault(t))
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../web/*.test.mjs")
	if err != nil || len(files) < 4 {
		t.Fatalf("%q: %v", files, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, append([]string{"--expose-gc", "--test", "--test-concurrency=3"}, files...)...)
	cmd.Env = append(os.Environ(), "SLUICE_URL="+h.url, "SLUICE_OTHER_URL="+other.url, "SLUICE_KEY="+aliceKey,
		"SLUICE_NARROW_KEY="+bobKey, "SLUICE_SLOW_KEY=sk-carol-51c2", "SLUICE_FAULTS="+string(faults))
	out, err := cmd.CombinedOutput()
	count := regexp.MustCompile(`(?m)^# (pass|fail|skipped) (\d+)$`).FindAllStringSubmatch(string(out), -1)
	if err != nil || len(count) != 3 || count[1][2] != "0" || count[2][2] != "0" {
		t.Fatalf("%v\n%s", err, out)
	}
	h.forgetAll("sk-carol-51c2")
}

// TestClientsTypesAreThoseOfTheModule compiles testdata/node/usage.ts, strictly.
func TestClientsTypesAreThoseOfTheModule(t *testing.T) {
	t.Parallel()
	node := needsNode(t)
	out, err := exec.CommandContext(t.Context(), node, "testdata/node/node_modules/typescript/bin/tsc", "--project", "testdata/node").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// needsNode finds Node, and what `npm ci` installs.
func needsNode(t testing.TB) string {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		skip(t, "there is no node")
	}
	if _, err := os.Stat("testdata/node/node_modules/typescript"); err != nil {
		skip(t, "the SDK is not installed: npm ci --prefix gateway/testdata/node")
	}
	return node
}
