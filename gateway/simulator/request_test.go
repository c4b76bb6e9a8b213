package simulator

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestBadRequestsAreRefusedAsTheAPIRefusesThem(t *testing.T) {
	for _, c := range []struct {
		name, body string
		status     int
		kind       string
		message    string
	}{
		{"syntax", `{"model":`, 400, "invalid_request_error", "The request body is not valid JSON: "},
		{"empty", ``, 400, "invalid_request_error", "The request body is not valid JSON: "},
		{"not an object", `[]`, 400, "invalid_request_error", "Input should be an object"},
		{"no model", ask("x", map[string]string{"model": ""}), 400, "invalid_request_error", "model: Field required"},
		{"no messages", ask("x", map[string]string{"messages": ""}), 400, "invalid_request_error", "messages: Field required"},
		{"no max_tokens", ask("x", map[string]string{"max_tokens": ""}), 400, "invalid_request_error", "max_tokens: Field required"},
		{"model null", ask("x", map[string]string{"model": "null"}), 400, "invalid_request_error", "model: Input should be a valid string"},
		{"max_tokens text", ask("x", map[string]string{"max_tokens": `"9"`}), 400, "invalid_request_error", "max_tokens: Input should be a valid integer"},
		{"max_tokens below zero", ask("x", map[string]string{"max_tokens": `-1`}), 400, "invalid_request_error", "max_tokens: must be"},
		{"stream text", ask("x", map[string]string{"stream": `"yes"`}), 400, "invalid_request_error", "stream: Input should be a valid boolean"},
		{"messages empty", ask("x", map[string]string{"messages": `[]`}), 400, "invalid_request_error", "messages: at least one message is required"},
		{"role", ask("x", map[string]string{"messages": `[{"role":"robot","content":"x"}]`}), 400, "invalid_request_error", "messages.0.role: "},
		{"content missing", ask("x", map[string]string{"messages": `[{"role":"user"}]`}), 400, "invalid_request_error", "messages.0.content: Field required"},
		{"content number", ask("x", map[string]string{"messages": `[{"role":"user","content":5}]`}), 400, "invalid_request_error", "messages.0.content: "},
		{"content empty", ask("", nil), 400, "invalid_request_error", "messages.0: all messages must have non-empty content"},
		{"prefill", ask("x", map[string]string{"model": `"claude-opus-4-6"`, "messages": `[{"role":"user","content":"x"},{"role":"assistant","content":"y"}]`}), 400, "invalid_request_error", "This model does not support assistant message prefill."},
		{"budget", ask("x", map[string]string{"max_tokens": "1024", "thinking": `{"type":"enabled","budget_tokens":1024}`}), 400, "invalid_request_error", "`max_tokens` must be greater"},
		{"tool_choice", ask("x", map[string]string{"tool_choice": `{"type":"tool","name":"t"}`}), 400, "invalid_request_error", "Tool 't' not found"},
		{"fault", ask("fault:nonsense", nil), 400, "invalid_request_error", "simulated faults: there is no `nonsense`"},
		{"argument", ask("fault:slow=99999999999999999999", nil), 400, "invalid_request_error", "simulated faults: slow: "},
		{"unknown model", ask("x", map[string]string{"model": `"claude-does-not-exist"`}), 404, "not_found_error", "model: claude-does-not-exist"},
		{"foreign model", ask("x", map[string]string{"model": `"gpt-1"`}), 404, "not_found_error", "model: gpt-1"},
		{"too large", strings.Repeat(" ", bodyLimit) + ask("x", nil), 413, "request_too_large", "Request exceeds the maximum size"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := serve(t, New(Options{}), "POST", "/v1/messages?beta=true", c.body)
			if got := refused(t, w, c.status, c.kind); !strings.HasPrefix(got, c.message) {
				t.Errorf("message %q, want %q…", got, c.message)
			}
		})
	}
}

func TestPrefillIsTakenByOlderModels(t *testing.T) {
	for _, model := range []string{`"claude-haiku-4-5-20251001"`, `"claude-opus-4-5"`} {
		stream(t, New(Options{}), ask("", map[string]string{"model": model, "messages": `[{"role":"user","content":"x"},{"role":"assistant","content":"y"}]`}))
	}
}

func TestUnknownRoutesAndMethodsAreRefused(t *testing.T) {
	for _, c := range []struct {
		method, path string
		status       int
		kind         string
	}{
		{"GET", "/", 404, "not_found_error"},
		{"POST", "/v1/messages/", 404, "not_found_error"},
		{"POST", "/v1/messages/batches/", 404, "not_found_error"},
		{"GET", "/v1/messages/batches/msgbatch_1/other", 404, "not_found_error"},
		{"GET", "/v1/messages/batches/msgbatch_1", 404, "not_found_error"},
		{"PUT", "/v1/messages/batches", 405, "invalid_request_error"},
		{"GET", "/v1/messages/batches/msgbatch_1/cancel", 405, "invalid_request_error"},
		{"GET", "/v1/models/", 404, "not_found_error"},
		{"GET", "/v1/models/claude-x/y", 404, "not_found_error"},
		{"GET", "/v1/models/gpt-1", 404, "not_found_error"},
		{"GET", "/v1/messages", 405, "invalid_request_error"},
		{"POST", "/v1/models", 405, "invalid_request_error"},
		{"DELETE", "/v1/messages/count_tokens", 405, "invalid_request_error"},
	} {
		w := serve(t, New(Options{}), c.method, c.path, "")
		refused(t, w, c.status, c.kind)
		if (w.Header().Get("Allow") != "") != (c.status == 405) {
			t.Errorf("%s %s: Allow %q", c.method, c.path, w.Header().Get("Allow"))
		}
	}
}

func TestOnlyTheKeyOpensTheDoor(t *testing.T) {
	for _, c := range []struct {
		accepted, header, value string
		status                  int
	}{
		{"", "X-Api-Key", "anything", 200},
		{"", "Authorization", "Bearer anything", 200},
		{"", "X-Api-Key", "", 401},
		{"", "Authorization", "Basic eDp5", 401},
		{"right", "X-Api-Key", "right", 200},
		{"right", "Authorization", "bearer right", 200},
		{"right", "X-Api-Key", "wrong", 401},
		{"right", "Authorization", "Bearer wrong", 401},
	} {
		r := newRequestTo(t, "GET", "/v1/models", "")
		r.Header.Del("X-Api-Key")
		r.Header.Set(c.header, c.value)
		w := httptest.NewRecorder()
		New(Options{Key: c.accepted}).ServeHTTP(w, r)
		if w.Code != c.status {
			t.Errorf("%s: %q with key %q: %d, want %d", c.header, c.value, c.accepted, w.Code, c.status)
		}
		if c.status == 401 {
			refused(t, w, 401, "authentication_error")
		}
	}
}

func TestVersionHeaderIsRequired(t *testing.T) {
	r := newRequestTo(t, "GET", "/v1/models", "")
	r.Header.Del("Anthropic-Version")
	w := httptest.NewRecorder()
	New(Options{}).ServeHTTP(w, r)
	if got := refused(t, w, 400, "invalid_request_error"); got != "anthropic-version: header is required" {
		t.Errorf("%q", got)
	}
}

func TestTokensAreCountedAsMessagesCountsThem(t *testing.T) {
	s := New(Options{})
	w := serve(t, s, "POST", "/v1/messages/count_tokens?beta=true", ask("hello there", map[string]string{"max_tokens": ""}))
	var counted struct {
		InputTokens float64 `json:"input_tokens"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &counted); err != nil || w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	usage := stream(t, s, ask("hello there", nil))[0].json.Message.Usage
	if counted.InputTokens == 0 || usage["input_tokens"] != counted.InputTokens {
		t.Errorf("count_tokens says %v, the message %v", counted.InputTokens, usage["input_tokens"])
	}
}

func TestModelsArePagedBothWays(t *testing.T) {
	s := New(Options{})
	page := func(query string) (ids []string, more bool) {
		t.Helper()
		w := serve(t, s, "GET", "/v1/models?beta=true&limit=2"+query, "")
		var list listing[modelInfo]
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || w.Code != 200 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		for _, m := range list.Data {
			ids = append(ids, m.ID)
		}
		if len(ids) > 0 && (*list.FirstID != ids[0] || *list.LastID != ids[len(ids)-1]) || len(ids) == 0 && (list.FirstID != nil || list.LastID != nil) {
			t.Errorf("first_id and last_id do not fit: %s", w.Body)
		}
		return ids, list.HasMore
	}
	var forth []string
	for ids, more := page(""); ; ids, more = page("&after_id=" + ids[len(ids)-1]) {
		forth = append(forth, ids...)
		if !more {
			break
		}
	}
	back := forth[len(forth)-1:]
	for ids, more := page("&before_id=" + back[0]); ; ids, more = page("&before_id=" + ids[0]) {
		back = append(append([]string{}, ids...), back...)
		if !more {
			break
		}
	}
	if len(forth) != len(catalogue) || strings.Join(forth, " ") != strings.Join(back, " ") {
		t.Errorf("forth %v\nback %v", forth, back)
	}
	if ids, more := page("&after_id=" + forth[len(forth)-1]); len(ids) != 0 || more {
		t.Errorf("after the last: %v %v", ids, more)
	}
	refused(t, serve(t, s, "GET", "/v1/models?limit=0", ""), 400, "invalid_request_error")
	refused(t, serve(t, s, "GET", "/v1/models?after_id=x", ""), 400, "invalid_request_error")
	if w := serve(t, s, "GET", "/v1/models/claude-of-the-day", ""); w.Code != 200 || !strings.Contains(w.Body.String(), `"id":"claude-of-the-day"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := serve(t, s, "HEAD", "/v1/models", ""); w.Code != 200 || w.Body.Len() != 0 {
		t.Errorf("HEAD: %d %q", w.Code, w.Body)
	}
}

func FuzzAnyBodyIsAnsweredOrRefused(f *testing.F) {
	f.Add(ask("think, use a tool, fault:giant=100", map[string]string{"tools": twoTools}))
	f.Add(ask("fault:529-once=2 fault:no-stop=3", map[string]string{"stop_sequences": `["a"]`, "max_tokens": "17"}))
	f.Add(`{"model":"claude-x","max_tokens":1,"messages":[{"role":"user","content":[{"type":"tool_result"},{"type":"image","source":{"data":"AAAA"}}]}]}`)
	f.Fuzz(func(t *testing.T, body string) {
		synctest.Test(t, func(t *testing.T) {
			ctx, leave := context.WithTimeout(t.Context(), 24*time.Hour)
			defer leave()
			w := httptest.NewRecorder()
			defer func() {
				if broken := recover(); broken != nil && broken != http.ErrAbortHandler {
					panic(broken)
				}
				if w.Header().Get("request-id") == "" {
					t.Error("no request-id")
				}
			}()
			New(Options{Seed: 1, Pace: Human}).ServeHTTP(w, newRequestTo(t, "POST", "/v1/messages", body).WithContext(ctx))
		})
	})
}
