package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"

	"sluice/gateway"
	"sluice/gateway/limits"
	"sluice/gateway/simulator"
)

// sdk is the official client, with nothing changed but its base URL and key (and a pool of connections that ends with
// the test).
func (h *house) sdk(key string) anthropic.Client {
	return anthropic.NewClient(option.WithoutEnvironmentDefaults(), option.WithHTTPClient(h.client), option.WithBaseURL(h.url), option.WithAPIKey(key))
}

func prompt(text string) anthropic.MessageNewParams {
	return anthropic.MessageNewParams{
		Model: "claude-sonnet-4-6", MaxTokens: 4096,
		Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(text + " " + marker))},
	}
}

func weatherTool() anthropic.ToolUnionParam {
	return anthropic.ToolUnionParam{OfTool: &anthropic.ToolParam{Name: "get_weather", InputSchema: anthropic.ToolInputSchemaParam{
		Properties: map[string]any{"city": map[string]any{"type": "string"}, "days": map[string]any{"type": "integer"}},
	}}}
}

// bounds is a context that ends with the test's patience.
func bounds(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// streamWhole streams and accumulates.
func streamWhole(t testing.TB, client anthropic.Client, p anthropic.MessageNewParams, o ...option.RequestOption) (anthropic.Message, error) {
	t.Helper()
	stream := client.Messages.NewStreaming(bounds(t), p, o...)
	defer stream.Close()
	var m anthropic.Message
	for stream.Next() {
		if err := m.Accumulate(stream.Current()); err != nil {
			t.Fatal(err)
		}
	}
	return m, stream.Err()
}

func TestGoSDKStreamsTextThinkingAndToolUse(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{Key: upstreamKey}))
	client := h.sdk(aliceKey)
	p := prompt("Think about the get_weather tool.")
	p.Tools = []anthropic.ToolUnionParam{weatherTool()}
	m, err := streamWhole(t, client, p)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, b := range m.Content {
		kinds = append(kinds, b.Type)
		switch b := b.AsAny().(type) {
		case anthropic.ThinkingBlock:
			if b.Thinking == "" || b.Signature == "" {
				t.Errorf("thinking %q, signature %q", b.Thinking, b.Signature)
			}
		case anthropic.TextBlock:
			if !strings.Contains(b.Text, "get_weather") {
				t.Errorf("text %q", b.Text)
			}
		case anthropic.ToolUseBlock:
			var input struct {
				City string
				Days int
			}
			if err := json.Unmarshal(b.Input, &input); err != nil || input.City != "Reykjavík" || input.Days != 3 || b.Name != "get_weather" {
				t.Errorf("%s with the input %s: %v", b.Name, b.Input, err)
			}
		}
	}
	if got := strings.Join(kinds, " "); got != "thinking text tool_use" || m.StopReason != "tool_use" || m.Usage.OutputTokens == 0 {
		t.Errorf("blocks %q, stop_reason %q, usage %s", got, m.StopReason, m.Usage.RawJSON())
	}
	seen := h.upstream.requests()[0]
	if got := seen.header.Get("X-Stainless-Lang"); got != "go" {
		t.Errorf("x-stainless-lang %q did not reach the upstream", got)
	}
	if agent := seen.header.Get("User-Agent"); !strings.HasPrefix(agent, "Anthropic/Go") {
		t.Errorf("user-agent %q", agent)
	}
}

func TestGoSDKGetsWholeAnswersCountsAndModels(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{Key: upstreamKey}))
	client, ctx := h.sdk(aliceKey), bounds(t)
	m, err := client.Messages.New(ctx, prompt("short"))
	if err != nil || !strings.HasPrefix(m.Content[0].Text, "In short: about") || m.Usage.OutputTokens == 0 {
		t.Errorf("%+v: %v", m, err)
	}
	count, err := client.Messages.CountTokens(ctx, anthropic.MessageCountTokensParams{Model: "claude-sonnet-4-6", Messages: prompt("count me").Messages})
	if err != nil || count.InputTokens < 5 {
		t.Errorf("%+v: %v", count, err)
	}
	var models []string
	pages := client.Models.ListAutoPaging(ctx, anthropic.ModelListParams{Limit: anthropic.Int(2)})
	for pages.Next() {
		models = append(models, pages.Current().ID)
	}
	if pages.Err() != nil || len(models) != 5 || models[0] != "claude-sonnet-4-6" {
		t.Errorf("models %q: %v", models, pages.Err())
	}
	if model, err := client.Models.Get(ctx, "claude-opus-4-6", anthropic.ModelGetParams{}); err != nil || model.DisplayName != "Claude Opus 4.6" {
		t.Errorf("%+v: %v", model, err)
	}
}

func TestGoSDKsBetaPathKeepsItsQueryAndBetas(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}))
	client, ctx := h.sdk(aliceKey), bounds(t)
	stream := client.Beta.Messages.NewStreaming(ctx, anthropic.BetaMessageNewParams{
		Model: "claude-sonnet-4-6", MaxTokens: 500, Betas: []anthropic.AnthropicBeta{"context-1m-2025-08-07", "not-invented-yet"},
		Messages: []anthropic.BetaMessageParam{anthropic.NewBetaUserMessage(anthropic.NewBetaTextBlock("short"))},
	})
	defer stream.Close()
	var m anthropic.BetaMessage
	for stream.Next() {
		if err := m.Accumulate(stream.Current()); err != nil {
			t.Fatal(err)
		}
	}
	if stream.Err() != nil || m.StopReason != "end_turn" {
		t.Fatalf("%s: %v", m.StopReason, stream.Err())
	}
	if _, err := client.Beta.Messages.CountTokens(ctx, anthropic.BetaMessageCountTokensParams{Model: "claude-sonnet-4-6",
		Messages: []anthropic.BetaMessageParam{anthropic.NewBetaUserMessage(anthropic.NewBetaTextBlock("short"))}}); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"/v1/messages?beta=true", "/v1/messages/count_tokens?beta=true"} {
		if got := h.upstream.requests()[i].uri; got != want {
			t.Errorf("the upstream saw %s, want %s", got, want)
		}
	}
	if betas := strings.Join(h.upstream.requests()[0].header["Anthropic-Beta"], ","); betas != "context-1m-2025-08-07,not-invented-yet" {
		t.Errorf("the upstream saw the betas %q", betas)
	}
}

func TestGoSDKGetsTypedErrors(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}))
	bad := prompt("short")
	bad.Model = "claude-does-not-exist"
	empty := prompt("short")
	empty.Messages = nil
	for name, c := range map[string]struct {
		key    string
		params anthropic.MessageNewParams
		status int
		kind   string
	}{
		"our 401":             {"sk-nobody", prompt("short"), 401, "authentication_error"},
		"the upstream's 404":  {aliceKey, bad, 404, "not_found_error"},
		"the upstream's 400":  {aliceKey, empty, 400, "invalid_request_error"},
		"its refusal of us":   {aliceKey, prompt("fault:401"), 502, "api_error"},
		"its limit":           {aliceKey, prompt("fault:429=0"), 429, "rate_limit_error"},
		"its overload":        {aliceKey, prompt("fault:529"), 529, "overloaded_error"},
		"its failure":         {aliceKey, prompt("fault:500"), 500, "api_error"},
		"a proxy's page":      {aliceKey, prompt("fault:html"), 502, "api_error"},
		"overload in a 200":   {aliceKey, prompt("fault:overloaded-first"), 529, "overloaded_error"},
		"a page in a 200":     {aliceKey, prompt("fault:html-200"), 502, "api_error"},
		"JSON for a stream":   {aliceKey, prompt("fault:json-200"), 502, "api_error"},
		"an empty stream":     {aliceKey, prompt("fault:empty"), 502, "api_error"},
		"a redirect":          {aliceKey, prompt("fault:redirect"), 502, "api_error"},
		"silence by the rule": {aliceKey, prompt("fault:no-such-fault"), 400, "invalid_request_error"},
		"more than we take":   {aliceKey, prompt(strings.Repeat("x", 32_000_001)), 413, "request_too_large"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := h.in(t).sdk(c.key)
			_, err := streamWhole(t, client, c.params, option.WithMaxRetries(0))
			isTyped(t, err, c.status, c.kind)
			if name == "JSON for a stream" || name == "an empty stream" {
				return // which are none to a call that wants no stream
			}
			_, err = client.Messages.New(bounds(t), c.params, option.WithMaxRetries(0))
			isTyped(t, err, c.status, c.kind)
		})
	}
}

func isTyped(t testing.TB, err error, status int, kind string) {
	t.Helper()
	var e *anthropic.Error
	if !errors.As(err, &e) {
		t.Fatalf("%T: %v", err, err)
	}
	if e.StatusCode != status || string(e.Type()) != kind || e.RequestID == "" || strings.Contains(e.RawJSON(), "<html") {
		t.Errorf("%d %s (%s): %s", e.StatusCode, e.Type(), e.RequestID, e.RawJSON())
	}
}

// TestGoSDKRetriesWhatIsRefusedForNow shows that a refusal keeps the status and the wait that the SDK
// goes by.
func TestGoSDKRetriesWhatIsRefusedForNow(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}), func(c *gateway.Config) {
		c.Plans["slow"] = limits.Plan{RequestsPerMinute: 30, Burst: 1}
		c.Auth.Keys[1].Plan = "slow"
	})
	for name, text := range map[string]string{
		"529 once":              "short fault:529-once",
		"overload in a 200":     "short fault:overloaded-first-once",
		"429 with retry-after":  "short",
		"overload, not retried": "short fault:529-once=2",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key := aliceKey
			if name == "429 with retry-after" {
				key = bobKey
				if _, err := streamWhole(t, h.sdk(key), prompt("short")); err != nil {
					t.Fatal(err)
				}
			}
			begun := time.Now()
			m, err := streamWhole(t, h.sdk(key), prompt(text))
			if err != nil || m.StopReason != "end_turn" {
				t.Fatalf("%s: %v", m.StopReason, err)
			}
			if took := time.Since(begun); name == "429 with retry-after" && took < 500*time.Millisecond {
				t.Errorf("the SDK came back after %s", took)
			}
		})
	}
}

func TestGoSDKSeesAnErrorInTheMiddle(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}))
	for text, kind := range map[string]string{"fault:error": "overloaded_error", "fault:cut": "api_error", "fault:no-stop": "api_error"} {
		m, err := streamWhole(t, h.sdk(aliceKey), prompt(text))
		isTyped(t, err, http.StatusOK, kind)
		if len(m.Content) == 0 || m.Content[0].Text == "" {
			t.Errorf("%s: what came before is lost", text)
		}
	}
}

// TestMergedEventsAccumulateInTheSDK reads a stream back as a browser does, and gives the events to the SDK.
func TestMergedEventsAccumulateInTheSDK(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}))
	o := h.start(ask("think and use a tool", `"tools":[{"name":"get_weather","input_schema":{"type":"object","properties":{"city":{"type":"string"}}}}]`))
	h.reaches(o.ID, "completed")
	read := func(query string) (m anthropic.Message) {
		for _, e := range h.watchURL("GET", o.EventsURL+query, "", "x-api-key", "").rest() {
			var u anthropic.MessageStreamEventUnion
			decode(t, []byte(e.data), &u)
			if err := m.Accumulate(u); err != nil {
				t.Fatalf("%s: %v", e.data, err)
			}
		}
		return m
	}
	exact, merged := read("&exact=1"), read("")
	equalJSON(t, encode(t, merged), encode(t, exact))
	if len(merged.Content) != 3 {
		t.Errorf("%d blocks", len(merged.Content))
	}
}
