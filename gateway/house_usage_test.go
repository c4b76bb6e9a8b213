package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"

	"sluice/gateway"
	"sluice/gateway/limits"
	"sluice/gateway/simulator"
)

// usageSum, ownersUsage and usageWindow are what the two routes say, as far as their documentation does.
type usageSum struct {
	Answers     int64 `json:"answers"`
	Estimated   int64 `json:"estimated_answers"`
	Input       int64 `json:"input_tokens"`
	Output      int64 `json:"output_tokens"`
	CacheRead   int64 `json:"cache_read_input_tokens"`
	CacheCreate int64 `json:"cache_creation_input_tokens"`
}

type ownersUsage struct {
	Owner        string
	Plan         string
	Open         int   `json:"open_streams"`
	Reserved     int64 `json:"reserved_tokens"`
	Today, Total usageSum
}

type usageWindow struct {
	Limit                  string
	Value, Used, Remaining int64
	ResetsAt               *time.Time `json:"resets_at"`
}

// awayFromMidnight waits until a test that counts on one day cannot meet its end.
func awayFromMidnight() {
	if left := time.Until(midnight()); left < 2*patience {
		<-time.After(left)
	}
}

// midnight is the next one, UTC.
func midnight() time.Time { return time.Now().UTC().Truncate(24 * time.Hour).Add(24 * time.Hour) }

// used is what operators see.
func (h *house) used() (r struct {
	Type   string
	Since  time.Time
	Day    string
	Data   []ownersUsage
	Others usageSum
}) {
	h.t.Helper()
	h.fetch("GET", h.admin+"/usage", "").status(200).into(&r)
	return r
}

// nothingIsReserved waits until no owner has a stream open, or tokens set aside.
func (h *house) nothingIsReserved() {
	h.t.Helper()
	eventually(h.t, func() string { return "something is still reserved: " + h.fetch("GET", h.admin+"/usage", "").body }, func() bool {
		held := int64(0)
		for _, u := range h.used().Data {
			held += int64(u.Open) + u.Reserved
		}
		return held == 0
	})
}

// windows are what alice sees of hers.
func (h *house) windows() map[string]usageWindow {
	h.t.Helper()
	var o struct{ Windows []usageWindow }
	h.do("GET", "/v1/usage", "").status(200).into(&o)
	all := make(map[string]usageWindow)
	for _, w := range o.Windows {
		all[w.Limit] = w
	}
	return all
}

func TestCallersSeeWhatTheyHaveUsedAndHaveLeft(t *testing.T) {
	t.Parallel()
	awayFromMidnight()
	f := newFaucet()
	h := openHouse(t, f, func(c *gateway.Config) {
		c.Plans["default"] = limits.Plan{RequestsPerMinute: 60, Burst: 10, ConcurrentStreams: 4, ViewersPerStream: 9, InputTokensPerMinute: 50_000, OutputTokensPerMinute: 9000,
			TokensPerDay: 100_000, MaxTokens: 5000, Models: []string{"claude-sonnet-*"}}
		c.Plans["free"] = limits.Plan{}
		c.Auth.Keys[1].Plan = "free"
	})
	if w := h.windows(); w["tokens_per_day"].Remaining != 100_000 || w["concurrent_streams"].Remaining != 4 || w["requests_per_minute"].Remaining != 10 {
		t.Errorf("whoever has used nothing sees %+v", w)
	}
	for range 2 { // one ends, one stays
		w := h.watching(t, f)
		defer w.r.leave()
	}
	streams := struct{ Data []object }{}
	h.do("GET", "/v1/streams", "").into(&streams)
	h.do("POST", "/v1/streams/"+streams.Data[1].ID+"/cancel", "").status(200)
	var o struct {
		Type, Owner, Plan string
		Windows           []usageWindow
		Today             usageSum
		MaxTokens         int `json:"max_tokens"`
		Models            []string
	}
	a := h.do("GET", "/v1/usage", "").status(200)
	a.into(&o)
	if o.Type != "usage" || o.Owner != "key:alice" || o.Plan != "default" || o.MaxTokens != 5000 || len(o.Models) != 1 || o.Today != (usageSum{Answers: 1, Estimated: 1, Input: 11, Output: 1, CacheRead: 7, CacheCreate: 5}) {
		t.Errorf("%s", a.body)
	}
	for i, c := range []struct {
		limit          string
		value, atLeast int64
		atMost         int64 // used
	}{
		{"requests_per_minute", 60, 0, 2}, {"concurrent_streams", 4, 1, 1}, // those of the minute return meanwhile
		{"input_tokens_per_minute", 50_000, 0, 32}, {"output_tokens_per_minute", 9000, 1, 4097},
		{"tokens_per_day", 100_000, 16 + 1 + 16 + 1000, 16 + 1 + 16 + 1000},
	} {
		w := o.Windows[i]
		if w.Limit != c.limit || w.Value != c.value || w.Used < c.atLeast || w.Used > c.atMost || c.limit != "requests_per_minute" && w.Remaining != w.Value-w.Used {
			t.Errorf("%+v, want of %+v", w, c)
		}
		switch {
		case c.limit == "concurrent_streams":
			if w.ResetsAt != nil {
				t.Errorf("%+v", w)
			}
		case w.ResetsAt == nil || w.ResetsAt.Before(time.Now().Add(-patience)) || c.limit == "tokens_per_day" && !w.ResetsAt.Equal(midnight()):
			t.Errorf("%+v", w)
		}
	}
	if len(o.Windows) != 5 || strings.Contains(a.body, "viewers") || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s", a.body)
	}
	// Another sees nothing of it, and a plan without limits has no windows.
	bob := h.do("GET", "/v1/usage", "", "x-api-key", bobKey).status(200).body
	if !strings.Contains(bob, `"windows":[]`) || !strings.Contains(bob, `"max_tokens":null,"models":null`) || !strings.Contains(bob, `"answers":0`) {
		t.Errorf("%s", bob)
	}
	h.do("GET", "/v1/usage", "", "x-api-key", "").refused(401, "authentication_error")
	h.do("POST", "/v1/usage", "{}").refused(405, "invalid_request_error")
	if a := h.do("HEAD", "/v1/usage", "").status(200); a.body != "" || a.header.Get("Content-Length") == "" {
		t.Errorf("%v", a.header)
	}
}

func TestOperatorsSeeWhatEachOwnerHasUsed(t *testing.T) {
	t.Parallel()
	awayFromMidnight()
	h := openHouse(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("User-Agent") == "whole" {
			simulator.Script{Body: []byte(`{"type":"message","model":"claude-opus-4-6","content":[],"usage":{"input_tokens":1000,"output_tokens":2000}}`), Header: http.Header{"Content-Type": {"application/json"}}}.ServeHTTP(w, r)
			return
		}
		saying(3).ServeHTTP(w, r)
	}))
	empty := h.used()
	if since := time.Since(empty.Since); empty.Type != "usage" || since < -time.Second || since > time.Hour || empty.Day != time.Now().UTC().Format(time.DateOnly) || len(empty.Data) != 0 {
		t.Errorf("%+v", empty)
	}
	if body := h.fetch("GET", h.admin+"/usage", "").body; !strings.Contains(body, `"data":[]`) {
		t.Errorf("%s", body)
	}
	h.do("POST", "/v1/messages", request("short"), "x-api-key", bobKey, "user-agent", "whole").status(200)
	for range 2 {
		h.do("POST", "/v1/messages", ask("short")).status(200)
	}
	alice, bob := usageSum{Answers: 2, Input: 22, Output: 84, CacheRead: 14, CacheCreate: 10}, usageSum{Answers: 1, Input: 1000, Output: 2000}
	got, _ := json.Marshal(h.used().Data)
	want, _ := json.Marshal([]ownersUsage{{Owner: "key:alice", Plan: "default", Today: alice, Total: alice}, {Owner: "key:bob", Plan: "default", Today: bob, Total: bob}})
	if string(got) != string(want) {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	h.do("GET", "/usage", "").refused(404, "not_found_error") // never on the public listener
}

// TestRateLimitHeadersAreAnthropics: on answers and refusals alike, of the limits that there are.
func TestRateLimitHeadersAreAnthropics(t *testing.T) {
	t.Parallel()
	awayFromMidnight()
	plan := limits.Plan{RequestsPerMinute: 600, InputTokensPerMinute: 600_000, OutputTokensPerMinute: 240, TokensPerDay: 5000} // 240: what is used stays so for a while
	h := openHouse(t, saying(3), func(c *gateway.Config) {
		c.Plans["default"] = plan
		c.Plans["free"] = limits.Plan{ConcurrentStreams: 3}
		c.Auth.Keys[1].Plan = "free"
	})
	check := func(a *answer, least map[string][2]int) {
		t.Helper()
		for name, c := range least {
			head := "Anthropic-Ratelimit-" + name
			limit, _ := strconv.Atoi(a.header.Get(head + "-Limit"))
			left, err := strconv.Atoi(a.header.Get(head + "-Remaining"))
			reset, wrong := time.Parse(time.RFC3339, a.header.Get(head+"-Reset"))
			if limit != c[0] || err != nil || left < c[1] || left > c[1]+100 || wrong != nil || reset.Before(time.Now().Add(-patience)) {
				t.Errorf("%s: %d of %d until %v, want %v", name, left, limit, reset, c)
			}
		}
	}
	for _, path := range []string{"/v1/messages", "/v1/streams"} {
		a := h.do("POST", path, ask("short", `"max_tokens":40`))
		if a.code > 201 {
			t.Fatal(a.body)
		}
		check(a, map[string][2]int{"Requests": {600, 598}, "Input-Tokens": {600_000, 599_900}, "Output-Tokens": {240, 150}, "Tokens": {240, 150}})
	}
	h.becomes("sluice_streams_active", 0) // and settled
	h.do("POST", "/v1/messages", ask("short", `"max_tokens":240`)).refused(429, "rate_limit_error")
	a := h.do("POST", "/v1/messages", ask("short", `"system":"`+strings.Repeat("word ", 4000)+`"`, `"max_tokens":10`)).refused(429, "rate_limit_error")
	check(a, map[string][2]int{"Tokens": {240, 150}, "Requests": {600, 597}})
	seconds, err := strconv.Atoi(a.header.Get("Retry-After"))
	if left := time.Until(midnight()).Seconds(); err != nil || float64(seconds) < left-1 || float64(seconds) > left+30 || !strings.Contains(a.body, "tokens_per_day") || a.header.Get("X-Should-Retry") != "false" {
		t.Errorf("%v %s", a.header, a.body)
	}
	free := h.do("POST", "/v1/messages", ask("short"), "x-api-key", bobKey).status(200)
	for name := range free.header {
		if strings.HasPrefix(name, "Anthropic-Ratelimit") {
			t.Errorf("%s of a plan without such a limit", name)
		}
	}
	if series := h.scrape(); series[`sluice_rate_limited_total{limit="output_tokens_per_minute"}`] != 1 || series[`sluice_rate_limited_total{limit="tokens_per_day"}`] != 1 {
		t.Error("the refusals are not counted")
	}
}

func TestWhatIsOutsideThePlanIsRefusedBeforeItCostsAnything(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(3), func(c *gateway.Config) {
		c.Plans["default"] = limits.Plan{RequestsPerMinute: 60, InputTokensPerMinute: 1000, MaxTokens: 4096, Models: []string{"claude-sonnet-4-?", "claude-haiku-*"}}
	})
	for name, c := range map[string]struct {
		body   string
		status int
		kind   string
		word   string
	}{
		"another model":   {strings.Replace(request("short"), "claude-sonnet-4-6", "claude-opus-4-6", 1), 403, "permission_error", "claude-opus-4-6"},
		"a longer name":   {strings.Replace(request("short"), "claude-sonnet-4-6", "claude-sonnet-4-66", 1), 403, "permission_error", "claude-sonnet-4-66"},
		"no model":        {`{"max_tokens":5,"messages":[]}`, 403, "permission_error", "model"},
		"a fallback":      {request("short", `"fallbacks":[{"model":"claude-haiku-4-5"},{"model":"claude-opus-4-6"}]`), 403, "permission_error", "claude-opus-4-6"},
		"any fallback":    {request("short", `"fallbacks":"default"`), 403, "permission_error", "default"},
		"an advisor":      {request("short", `"tools":[{"type":"advisor_20260301","name":"advisor","model":"claude-opus-4-6"}]`), 403, "permission_error", "claude-opus-4-6"},
		"max_tokens":      {request("short", `"max_tokens":4097`), 400, "invalid_request_error", "4097 is more than 4096"},
		"a fallback's":    {request("short", `"fallbacks":[{"model":"claude-haiku-4-5","max_tokens":4097}]`), 400, "invalid_request_error", "4097 is more than 4096"},
		"no max_tokens":   {`{"model":"claude-haiku-4-5","messages":[]}`, 400, "invalid_request_error", "max_tokens: Field required"},
		"too much input":  {request(strings.Repeat("word ", 4000)), 400, "invalid_request_error", "input_tokens_per_minute"},
		"two meanings":    {request("short", `"fallbacks":[{"model":"claude-haiku-4-5","model":"claude-opus-4-6"}]`), 400, "invalid_request_error", "twice"},
		"hidden by a \\u": {request("short", `"fallb\u0061cks":[{"model":"claude-opus-4-6"}]`), 400, "invalid_request_error", "escapes"},
	} {
		t.Run(name, func(t *testing.T) {
			h := h.in(t)
			for _, to := range [][2]string{{"/v1/messages", c.body}, {"/v1/messages", `{"stream":true,` + c.body[1:]}, {"/v1/streams", c.body}} {
				a := h.do("POST", to[0], to[1]).refused(c.status, c.kind)
				if !strings.Contains(a.body, c.word) || a.header.Get("Retry-After") != "" {
					t.Errorf("%s: %v %s", to[0], a.header, a.body)
				}
			}
		})
	}
	if n := len(h.upstream.requests()); n != 0 || h.windows()["requests_per_minute"].Used != 0 {
		t.Errorf("%d requests at the upstream, %+v", n, h.windows())
	}
	h.do("POST", "/v1/messages", ask("short", `"fallbacks":[{"model":"claude-haiku-4-5"}]`)).status(200)
	series := h.scrape()
	for limit, want := range map[string]float64{"models": 18, "max_tokens": 9, "input_tokens_per_minute": 3} {
		if got := series[`sluice_rate_limited_total{limit="`+limit+`"}`]; got != want {
			t.Errorf("%v refusals for %s, want %v", got, limit, want)
		}
	}
}

// TestWhoLeavesGetsItsReservationBack: of an answer that is no stream, too, whoever ends it.
func TestWhoLeavesGetsItsReservationBack(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f, func(c *gateway.Config) {
		c.Plans["default"] = limits.Plan{RequestsPerMinute: 1, Burst: 10, ConcurrentStreams: 1, TokensPerDay: 100_000}
	})
	for i, end := range []func(up *tap, leave func()){
		func(up *tap, leave func()) { leave() },
		func(up *tap, leave func()) { up.end() }, // a stream is no whole answer
	} {
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		go func() { failed <- h.post(ctx, "/v1/messages", request("short")) }()
		up := f.next(t)
		if w := h.windows(); w["tokens_per_day"].Used < 1000 || w["concurrent_streams"].Used != 1 {
			t.Errorf("while it is asked: %+v", w)
		}
		end(up, cancel)
		receive(t, failed, "the request's end")
		eventually(t, func() string { return "the reservation does not come back" }, func() bool {
			w := h.windows()
			return w["tokens_per_day"].Used == 0 && w["concurrent_streams"].Used == 0
		})
		if got := h.windows()["requests_per_minute"].Used; got == 0 || got > int64(i+1) {
			t.Errorf("%d requests are counted", got)
		}
		cancel()
	}
}

func TestGoSDKSeesTypedLimitsAndComesBackInTime(t *testing.T) {
	t.Parallel()
	awayFromMidnight()
	h := openHouse(t, saying(3), func(c *gateway.Config) {
		c.Plans["default"] = limits.Plan{OutputTokensPerMinute: 600, MaxTokens: 4096, Models: []string{"claude-sonnet-*"}}
		c.Plans["daily"] = limits.Plan{TokensPerDay: 20}
		c.Auth.Keys[1].Plan = "daily"
	})
	client := h.sdk(aliceKey)
	other, large := prompt("short"), prompt("short")
	other.Model, large.MaxTokens = "claude-opus-4-6", 8192
	_, err := streamWhole(t, client, other)
	isTyped(t, err, 403, "permission_error")
	_, err = client.Messages.New(bounds(t), other)
	isTyped(t, err, 403, "permission_error")
	_, err = streamWhole(t, client, large)
	isTyped(t, err, 400, "invalid_request_error")
	if n := len(h.upstream.requests()); n != 0 {
		t.Fatalf("%d requests at the upstream", n)
	}
	// The first takes 42 tokens of the 600 that the second wants whole: some seconds later they are back.
	for i := range 2 {
		begun := time.Now()
		m, err := streamWhole(t, client, prompt("short"))
		if err != nil || m.StopReason != "end_turn" {
			t.Fatalf("request %d: %s: %v", i, m.StopReason, err)
		}
		if took := time.Since(begun); i == 1 && took < time.Second {
			t.Errorf("the SDK came back after %s", took)
		}
	}
	if got := h.scrape()[`sluice_rate_limited_total{limit="output_tokens_per_minute"}`]; got != 1 {
		t.Errorf("%v refusals", got)
	}
	_, err = streamWhole(t, client, prompt("short"), option.WithMaxRetries(0))
	isTyped(t, err, 429, "rate_limit_error")
	// A wait until tomorrow is not begun.
	if _, err = streamWhole(t, h.sdk(bobKey), prompt("short")); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	_, err = streamWhole(t, h.sdk(bobKey), prompt("short"))
	if isTyped(t, err, 429, "rate_limit_error"); time.Since(begun) > 20*time.Second {
		t.Errorf("the SDK gave up after %s", time.Since(begun))
	}
}

// TestGoSDKSeesTheEndOfItsDay: a stream that outruns it ends with a typed error, where the day does.
func TestGoSDKSeesTheEndOfItsDay(t *testing.T) {
	t.Parallel()
	awayFromMidnight()
	h := openHouse(t, saying(2000), func(c *gateway.Config) { c.Plans["default"] = limits.Plan{TokensPerDay: 1500} })
	client := h.sdk(aliceKey)
	m, err := streamWhole(t, client, prompt("long"))
	isTyped(t, err, http.StatusOK, "rate_limit_error")
	if text := m.Content[0].Text; len(text) < 4*1400 || len(text) > 4*1500 || !strings.Contains(err.Error(), "tokens_per_day") {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	var e *anthropic.Error
	_, err = client.Messages.New(bounds(t), prompt("short"))
	isTyped(t, err, 429, "rate_limit_error")
	if !errors.As(err, &e) || e.Response.Header.Get("X-Should-Retry") != "false" {
		t.Errorf("%v", err)
	}
	if w := h.windows()["tokens_per_day"]; w.Used < 1500 || w.Used > 1510 || w.Remaining != 0 {
		t.Errorf("%+v", w)
	}
	if got := h.scrape()[`sluice_streams_total{model="claude-sonnet-4-6",outcome="failed"}`]; got != 1 {
		t.Errorf("%v streams have failed", got)
	}
}
