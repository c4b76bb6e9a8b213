package simulator

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// event is what these tests read of a stream; they share no code with the writer but the field names.
type event struct {
	name string
	data string
	json struct {
		Type    string
		Index   int
		Message struct {
			ID      string
			Model   string
			Content []any
			Usage   map[string]any
		}
		ContentBlock map[string]any `json:"content_block"`
		Delta        struct {
			Type        string
			Text        string
			Thinking    string
			Signature   string
			PartialJSON string         `json:"partial_json"`
			StopReason  string         `json:"stop_reason"`
			StopDetails map[string]any `json:"stop_details"`
		}
		Usage     map[string]any
		Error     map[string]any
		RequestID string `json:"request_id"`
	}
}

var eventForm = regexp.MustCompile(`^event: ([a-z_]+)\ndata: ([^\n]+)\n\n`)

// parse reads a body strictly: anything that is not exactly the API's framing fails the test.
func parse(t *testing.T, body []byte) []event {
	t.Helper()
	var events []event
	for len(body) > 0 {
		match := eventForm.FindSubmatch(body)
		if match == nil {
			t.Fatalf("not framed as the API frames: %.200q", body)
		}
		e := event{name: string(match[1]), data: string(match[2])}
		if err := json.Unmarshal(match[2], &e.json); err != nil {
			t.Fatalf("%s: %v in %.200q", e.name, err, e.data)
		}
		if e.json.Type != e.name {
			t.Fatalf("event %q has type %q", e.name, e.json.Type)
		}
		events = append(events, e)
		body = body[len(match[0]):]
	}
	return events
}

func names(events []event) string {
	var all []string
	for _, e := range events {
		if n := len(all); n == 0 || all[n-1] != e.name {
			all = append(all, e.name)
		}
	}
	return strings.Join(all, " ")
}

// deltas counts text, thinking and tool input.
func deltas(events []event) int {
	n := 0
	for _, e := range events {
		if e.name == "content_block_delta" && e.json.Delta.Type != "signature_delta" {
			n++
		}
	}
	return n
}

func textOf(events []event) string {
	var text strings.Builder
	for _, e := range events {
		text.WriteString(e.json.Delta.Text)
	}
	return text.String()
}

// ask is a streamed request with the usual fields; with replaces or adds fields, as raw JSON.
func ask(prompt string, with map[string]string) string {
	quoted, err := json.Marshal(prompt)
	if err != nil {
		panic(err)
	}
	fields := map[string]string{
		"model":      `"claude-sonnet-4-5"`,
		"max_tokens": `8192`,
		"stream":     `true`,
		"messages":   fmt.Sprintf(`[{"role":"user","content":%s}]`, quoted),
	}
	maps.Copy(fields, with)
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if fields[name] != "" {
			parts = append(parts, fmt.Sprintf("%q:%s", name, fields[name]))
		}
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func newRequestTo(t *testing.T, method, url, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Api-Key", "sk-test")
	r.Header.Set("Anthropic-Version", "2023-06-01")
	return r
}

// serve answers one request in memory.
func serve(t *testing.T, s http.Handler, method, url, body string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, newRequestTo(t, method, url, body))
	return w
}

// stream answers one streamed request in memory and reads its events.
func stream(t *testing.T, s http.Handler, body string) []event {
	t.Helper()
	w := serve(t, s, "POST", "/v1/messages", body)
	if w.Code != 200 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return parse(t, w.Body.Bytes())
}

// fetch answers one request over a real connection, and reads the body to its end.
func fetch(t *testing.T, s http.Handler, body string) (*http.Response, []byte, error) {
	t.Helper()
	server := httptest.NewServer(s)
	defer server.Close()
	client := &http.Client{
		Transport:     &http.Transport{DisableCompression: true, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(newRequestTo(t, "POST", server.URL+"/v1/messages?beta=true", body))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	return response, got, err
}

// refused checks for an error in Anthropic's shape and returns its message.
func refused(t *testing.T, w *httptest.ResponseRecorder, status int, kind string) string {
	t.Helper()
	var body struct {
		Type  string
		Error struct {
			Type    string
			Message string
		}
		RequestID string `json:"request_id"`
	}
	decoder := json.NewDecoder(bytes.NewReader(w.Body.Bytes()))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&body); err != nil {
		t.Fatalf("%v in %q", err, w.Body)
	}
	id := w.Header().Get("request-id")
	if w.Code != status || body.Type != "error" || body.Error.Type != kind || body.RequestID != id || !strings.HasPrefix(id, "req_01") {
		t.Fatalf("%d %s (request-id %q), want %d %s", w.Code, w.Body, id, status, kind)
	}
	return body.Error.Message
}
