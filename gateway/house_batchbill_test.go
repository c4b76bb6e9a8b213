package gateway_test

import (
	"fmt"
	"strings"
	"testing"

	"sluice/gateway"
	"sluice/gateway/limits"
	"sluice/gateway/simulator"
)

// manyOf is the body of a batch of n requests.
func manyOf(n int) string {
	items := make([]string, n)
	for i := range items {
		items[i] = fmt.Sprintf(`{"custom_id":"r%d","params":{"model":"claude-sonnet-4-6","max_tokens":100,"messages":[{"role":"user","content":"short"}]}}`, i)
	}
	return `{"requests":[` + strings.Join(items, ",") + `]}`
}

// billed is what an owner has used today, as operators see it.
func (h *house) billed(owner string) (u ownersUsage) {
	h.t.Helper()
	for _, u = range h.used().Data {
		if u.Owner == owner {
			return u
		}
	}
	return ownersUsage{}
}

func TestBatchIsOnItsOwnersBillOnce(t *testing.T) {
	t.Parallel()
	awayFromMidnight()
	dir, sim := t.TempDir(), simulator.New(simulator.Options{Key: upstreamKey})
	plan := func(c *gateway.Config) {
		c.Plans["default"] = limits.Plan{RequestsPerMinute: 60, InputTokensPerMinute: 100_000, OutputTokensPerMinute: 100_000, TokensPerDay: 1_000_000}
	}
	h := openHouse(t, sim, keptIn(dir), plan)
	b := h.batch(batchOf("short", "short", "fault:529", "short fault:batch-time=700"))
	held := h.billed("key:alice")
	if held.Reserved < 4000 || held.Open != 0 || held.Today != (usageSum{}) {
		t.Errorf("while it runs: %+v", held)
	}
	if w := h.windows(); w["tokens_per_day"].Used != held.Reserved || w["input_tokens_per_minute"].Used != 0 || w["output_tokens_per_minute"].Used != 0 {
		t.Errorf("while it runs: %+v", w)
	}
	check := func(h *house, b batchObject, before usageSum) usageSum {
		t.Helper()
		got := h.billed("key:alice")
		if got.Today.Answers != before.Answers+3 || got.Today.Output != before.Output+int64(b.Sluice.Usage.Output) || got.Today.Input != before.Input+int64(b.Sluice.Usage.Input) ||
			got.Today.Output == before.Output || got.Reserved != 0 || got.Today != got.Total {
			t.Errorf("%+v before, %+v after %+v", before, got, b.Sluice.Usage)
		}
		if w := h.windows()["tokens_per_day"]; w.Used != got.Today.Input+got.Today.Output+got.Today.CacheCreate {
			t.Errorf("%+v with %+v", w, got)
		}
		return got.Today
	}
	b = h.settled(b.ID)
	once := check(h, b, usageSum{})
	h.becomes(`sluice_batches{status="ended"}`, 0)
	h.lookAt(b.ID)
	check(h, b, usageSum{})

	// What is deleted as soon as it has ended is counted all the same.
	second := h.batch(batchOf("short", "short", "short"))
	h.do("DELETE", "/v1/messages/batches/"+second.ID, "").status(200)
	got := h.billed("key:alice")
	if got.Today.Answers != once.Answers+3 || got.Today.Output <= once.Output || got.Reserved != 0 {
		t.Errorf("deleted: %+v after %+v", got, once)
	}
	h.do("GET", "/v1/messages/batches/"+second.ID, "").refused(404, "not_found_error")

	// What an earlier process has admitted is counted by the one that sees its end.
	third := h.batch(batchOf("short", "short", "short fault:batch-time=1000"))
	h = h.restart(sim, dir, plan)
	check(h, h.settled(third.ID), usageSum{})
	if other := h.billed("key:bob"); other != (ownersUsage{}) {
		t.Errorf("bob has used %+v", other)
	}
	h.becomes(`sluice_batches{status="ended"}`, 0)
}

func TestRequestsOfBatchesAreLimitedApart(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{Key: upstreamKey}), func(c *gateway.Config) {
		c.Plans["default"] = limits.Plan{RequestsPerMinute: 1, Burst: 50}
	})
	post := func(body string, headers ...string) *answer {
		t.Helper()
		return h.do("POST", "/v1/messages/batches", body, headers...)
	}
	if a := post(manyOf(1441)).refused(400, "invalid_request_error"); !strings.Contains(a.body, "at most 1440 at once") {
		t.Errorf("%s", a.body)
	}
	twice := strings.Replace(manyOf(1440), `"r1"`, `"r0"`, 1)
	post(twice).refused(400, "invalid_request_error") // by the upstream, so it costs nothing
	h.batch(manyOf(1400))
	a := post(manyOf(41)).refused(429, "rate_limit_error")
	if after := a.header.Get("Retry-After"); after != "60" && after != "59" || !strings.Contains(a.body, "this batch has 41") {
		t.Errorf("%q %s", after, a.body)
	}
	h.batch(manyOf(40))
	a = post(manyOf(40)).refused(429, "rate_limit_error")
	if a.header.Get("X-Should-Retry") != "false" {
		t.Errorf("%v", a.header)
	}
	h.batch(manyOf(1440), "x-api-key", bobKey)
	h.do("POST", "/v1/messages", ask("short")).status(200) // streams and messages go on
	var page struct{ Data []batchObject }
	if h.do("GET", "/v1/messages/batches", "").status(200).into(&page); len(page.Data) != 2 {
		t.Errorf("alice has %d batches", len(page.Data))
	}
	if h.fetch("GET", h.upstream.server.URL+"/v1/messages/batches", "", "x-api-key", upstreamKey).status(200).into(&page); len(page.Data) != 3 {
		t.Errorf("the upstream has %d batches", len(page.Data))
	}
}

func TestBatchBeyondTheDayIsRefused(t *testing.T) {
	t.Parallel()
	awayFromMidnight()
	h := openHouse(t, simulator.New(simulator.Options{Key: upstreamKey}), func(c *gateway.Config) {
		c.Plans["default"] = limits.Plan{TokensPerDay: 10_000}
	})
	running := h.batch(strings.Replace(manyOf(70), `"short"`, `"short fault:batch-time=3600000"`, 1))
	h.do("POST", "/v1/messages/batches", manyOf(70)).refused(429, "rate_limit_error") // it is held
	h.do("POST", "/v1/messages/batches", manyOf(400)).refused(400, "invalid_request_error")
	h.do("POST", "/v1/messages/batches/"+running.ID+"/cancel", "").status(200)
	if held := h.billed("key:alice").Reserved; held < 7000 {
		t.Errorf("%d tokens are held", held)
	}
	h.settled(running.ID)
	h.batch(manyOf(70))
}
