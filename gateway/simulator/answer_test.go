package simulator

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestLengthFollowsTheWords(t *testing.T) {
	if n := deltas(stream(t, New(Options{}), ask("a long answer, please", nil))); n < 1900 || n > 2400 {
		t.Errorf("long: %d deltas", n)
	}
	if text := textOf(stream(t, New(Options{}), ask("keep it short", nil))); strings.Count(text, ".") != 1 || !strings.Contains(text, "keep it short") {
		t.Errorf("short: %q", text)
	}
}

func TestAnswerQuotesTheQuestion(t *testing.T) {
	text := textOf(stream(t, New(Options{}), ask("Why is\nthe sky  blue? fault:giant=10", nil)))
	if !strings.Contains(text, "“Why is the sky blue?”") {
		t.Errorf("%.200q", text)
	}
}

func TestThinkingComesFirstAndIsSignedOnce(t *testing.T) {
	for name, body := range map[string]string{
		"enabled":  ask("hello", map[string]string{"thinking": `{"type":"enabled","budget_tokens":1024}`}),
		"adaptive": ask("hello", map[string]string{"thinking": `{"type":"adaptive"}`}),
		"omitted":  ask("hello", map[string]string{"thinking": `{"type":"adaptive","display":"omitted"}`}),
		"word":     ask("Think about it.", nil),
	} {
		t.Run(name, func(t *testing.T) {
			var kinds []string
			for _, e := range stream(t, New(Options{}), body) {
				kind := e.json.Delta.Type
				if n := len(kinds); kind != "" && (n == 0 || kinds[n-1] != kind || kind == "signature_delta") {
					kinds = append(kinds, kind)
				}
			}
			want := "thinking_delta signature_delta text_delta"
			if name == "omitted" {
				want = "signature_delta text_delta"
			}
			if got := strings.Join(kinds, " "); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
	for _, e := range stream(t, New(Options{}), ask("think", map[string]string{"thinking": `{"type":"disabled"}`})) {
		if e.json.Delta.Type == "thinking_delta" {
			t.Fatal("thinks though it is disabled")
		}
	}
}

const twoTools = `[{"name":"find_train","input_schema":{"type":"object","properties":{
	"city":{"type":"string"},"seats":{"type":"integer"},"quiet":{"type":"boolean"},"class":{"enum":["second","first"]},
	"when":{"type":["string","null"],"format":"date"},"via":{"type":"array","items":{"type":"string"}},"any":true,
	"who":{"type":"object","properties":{"name":{"type":"string"}}}},"required":["city"]}},
	{"name":"no_arguments","input_schema":{"type":"object"}}]`

func TestToolInputFitsItsSchema(t *testing.T) {
	events := stream(t, New(Options{}), ask("please use the tool find_train", map[string]string{"tools": twoTools}))
	var first, input, blocks string
	for i, e := range events {
		if block := e.json.ContentBlock; block != nil {
			blocks += fmt.Sprint(block["type"], " ")
			if block["type"] == "tool_use" {
				first = events[i+1].json.Delta.PartialJSON
				if id := fmt.Sprint(block["id"]); block["name"] != "find_train" || fmt.Sprint(block["input"]) != "map[]" || !strings.HasPrefix(id, "toolu_01") {
					t.Errorf("starts with %v", block)
				}
			}
		}
		input += e.json.Delta.PartialJSON
	}
	if blocks != "text tool_use " || first != "" {
		t.Errorf("blocks %q, first fragment %q", blocks, first)
	}
	want := `{"any":"please use the tool find_train","city":"Reykjavík","class":"second","quiet":true,"seats":3,"via":["please use the tool find_train"],"when":"2026-06-21","who":{"name":"Zoë"}}`
	if input != want {
		t.Errorf("input\n%s\nwant\n%s", input, want)
	}
	if got := events[len(events)-2].json.Delta.StopReason; got != "tool_use" {
		t.Errorf("stop_reason %q", got)
	}
}

func TestToolIsCalledWhenForcedOrMentionedAndNotOtherwise(t *testing.T) {
	const result = `[{"role":"user","content":"use a tool"},{"role":"assistant","content":[{"type":"tool_use","id":"toolu_1","name":"no_arguments","input":{}}]},
		{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_1","content":[{"type":"text","text":"nine o'clock"}]}]}]`
	for _, c := range []struct{ prompt, choice, messages, want string }{
		{"hello", "", "", ""},
		{"use a tool", "", "", "find_train"},
		{"call no_arguments", "", "", "no_arguments"},
		{"use a tool", `{"type":"none"}`, "", ""},
		{"hello", `{"type":"any"}`, "", "find_train"},
		{"hello", `{"type":"tool","name":"no_arguments"}`, "", "no_arguments"},
		{"", "", result, ""},
	} {
		with := map[string]string{"tools": twoTools, "tool_choice": c.choice}
		if c.messages != "" {
			with["messages"] = c.messages
		}
		events := stream(t, New(Options{}), ask(c.prompt, with))
		called := ""
		for _, e := range events {
			if name, ok := e.json.ContentBlock["name"].(string); ok {
				called = name
			}
		}
		if called != c.want {
			t.Errorf("%q with tool_choice %q calls %q, want %q", c.prompt, c.choice, called, c.want)
		}
		if c.messages != "" && !strings.Contains(textOf(events), "nine o'clock") {
			t.Error("the tool's result is not in the answer")
		}
	}
}

func TestToolWithoutArgumentsGetsOneEmptyFragment(t *testing.T) {
	with := map[string]string{"tools": twoTools, "tool_choice": `{"type":"tool","name":"no_arguments"}`}
	fragments := 0
	for _, e := range stream(t, New(Options{}), ask("hello", with)) {
		if e.json.Delta.Type == "input_json_delta" {
			fragments++
		}
	}
	if fragments != 1 {
		t.Errorf("%d fragments", fragments)
	}
	with["stream"] = "false"
	if w := serve(t, New(Options{}), "POST", "/v1/messages", ask("hello", with)); !strings.Contains(w.Body.String(), `"input":{}`) {
		t.Errorf("%s", w.Body)
	}
}

func TestMaxTokensIsNeverExceeded(t *testing.T) {
	with := map[string]string{"tools": twoTools}
	whole := stream(t, New(Options{Seed: 1}), ask("think, then use a tool", with))
	total := int(whole[len(whole)-2].json.Usage["output_tokens"].(float64))
	for limit := range total + 2 {
		with["max_tokens"] = fmt.Sprint(limit)
		events := stream(t, New(Options{Seed: 1}), ask("think, then use a tool", with))
		end := events[len(events)-2].json
		wantTokens, wantReason := limit, "max_tokens"
		if limit >= total {
			wantTokens, wantReason = total, "tool_use"
		}
		if got := int(end.Usage["output_tokens"].(float64)); got != wantTokens || end.Delta.StopReason != wantReason {
			t.Errorf("max_tokens %d: %d tokens, %s", limit, got, end.Delta.StopReason)
		}
		if first := events[0].json.Message.Usage["output_tokens"].(float64); int(first) > wantTokens {
			t.Errorf("max_tokens %d: message_start claims %v tokens", limit, first)
		}
		with["stream"] = "false"
		if w := serve(t, New(Options{Seed: 1}), "POST", "/v1/messages", ask("think, then use a tool", with)); w.Code != 200 || !json.Valid(w.Body.Bytes()) {
			t.Errorf("max_tokens %d, whole: %d %s", limit, w.Code, w.Body)
		}
		delete(with, "stream")
	}
}

func TestStopSequenceEndsTheText(t *testing.T) {
	events := stream(t, New(Options{}), ask("hello", map[string]string{"stop_sequences": `["nowhere to be found","stream"]`}))
	if text := textOf(events); strings.Contains(text, "stream") {
		t.Errorf("%q", text)
	}
	if end := events[len(events)-2]; end.json.Delta.StopReason != "stop_sequence" || !strings.Contains(end.data, `"stop_sequence":"stream"`) {
		t.Errorf("%s", end.data)
	}
}

func TestCachedPrefixIsWrittenOnceThenRead(t *testing.T) {
	s := New(Options{})
	body := ask("hello", map[string]string{"system": `[{"type":"text","text":"You are kind.","cache_control":{"type":"ephemeral"}}]`})
	written := stream(t, s, body)[0].json.Message.Usage
	read := stream(t, s, body)[0].json.Message.Usage
	size := written["cache_creation_input_tokens"].(float64)
	if size == 0 || written["cache_read_input_tokens"].(float64) != 0 || read["cache_read_input_tokens"].(float64) != size || read["cache_creation_input_tokens"].(float64) != 0 {
		t.Errorf("first %v\nthen %v", written, read)
	}
}
