package simulator

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

func TestEveryEventIsWrittenAsTheAPIWritesIt(t *testing.T) {
	events := stream(t, New(Options{Seed: 1}), ask("please think about <streams> & stay", nil))
	if got, want := names(events), "message_start content_block_start ping content_block_delta content_block_stop "+
		"content_block_start content_block_delta content_block_stop message_delta message_stop"; got != want {
		t.Errorf("order:\n%s\nwant:\n%s", got, want)
	}
	paddings := make(map[int]bool)
	for _, e := range events {
		if e.name == "ping" {
			if e.data != `{"type": "ping"}` {
				t.Errorf("ping is %q", e.data)
			}
			continue
		}
		bare := strings.TrimRight(strings.TrimSuffix(e.data, "}"), " ")
		padding := len(e.data) - len(bare) - 1
		if padding > 15 {
			t.Errorf("%d spaces of padding in %q", padding, e.data)
		}
		paddings[padding] = true
		var compact bytes.Buffer
		if err := json.Compact(&compact, []byte(e.data)); err != nil || compact.String() != bare+"}" {
			t.Errorf("not compact: %q", e.data)
		}
		if strings.Contains(e.data, `\u00`) {
			t.Errorf("escaped letters in %q", e.data)
		}
	}
	if len(paddings) < 12 {
		t.Errorf("only %d different paddings", len(paddings))
	}
}

func TestHeadersAreTheAPIs(t *testing.T) {
	response, _, err := fetch(t, New(Options{}), ask("hello", nil))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"Content-Type":                           "text/event-stream; charset=utf-8",
		"Cache-Control":                          "no-cache",
		"Request-Id":                             "req_01",
		"Anthropic-Organization-Id":              "0",
		"Anthropic-Ratelimit-Requests-Limit":     "4000",
		"Anthropic-Ratelimit-Tokens-Remaining":   "2",
		"Anthropic-Ratelimit-Input-Tokens-Reset": "20",
	} {
		if got := response.Header.Get(name); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %q…", name, got, want)
		}
	}
	if response.ContentLength != -1 {
		t.Errorf("a stream has the length %d", response.ContentLength)
	}
}

func TestSameSeedRepeatsEveryByte(t *testing.T) {
	body := ask("think, and use a tool", map[string]string{"tools": `[{"name":"weather","input_schema":{"type":"object","properties":{"city":{"type":"string"}}}}]`})
	first := serve(t, New(Options{Seed: 7}), "POST", "/v1/messages", body)
	same := serve(t, New(Options{Seed: 7}), "POST", "/v1/messages", body)
	other := serve(t, New(Options{Seed: 8}), "POST", "/v1/messages", body)
	if !bytes.Equal(first.Body.Bytes(), same.Body.Bytes()) {
		t.Error("the same seed gave another answer")
	}
	if bytes.Equal(first.Body.Bytes(), other.Body.Bytes()) {
		t.Error("another seed gave the same answer")
	}
}

func TestIdsEndInTheRequestsNumber(t *testing.T) {
	s := New(Options{FirstRequest: 41})
	for _, want := range []string{"00000041", "00000042"} {
		w := serve(t, s, "POST", "/v1/messages", ask("hello", nil))
		id := parse(t, w.Body.Bytes())[0].json.Message.ID
		if request := w.Header().Get("request-id"); !strings.HasSuffix(request, want) || !strings.HasSuffix(id, want) || !strings.HasPrefix(id, "msg_01") {
			t.Errorf("ids %q and %q, want them to end in %s", request, id, want)
		}
	}
}

func TestStreamAndWholeMessageSayTheSame(t *testing.T) {
	body := map[string]string{"thinking": `{"type":"adaptive"}`, "model": `"claude-of-the-day"`}
	events := stream(t, New(Options{Seed: 3}), ask("hello", body))
	body["stream"] = ""
	w := serve(t, New(Options{Seed: 3}), "POST", "/v1/messages", ask("hello", body))
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type %q", got)
	}
	var message struct {
		ID         string
		Model      string
		Content    []struct{ Type, Text, Thinking, Signature string }
		StopReason string `json:"stop_reason"`
		Usage      map[string]any
	}
	if err := json.Unmarshal(w.Body.Bytes(), &message); err != nil {
		t.Fatal(err)
	}
	var thinking, signature string
	for _, e := range events {
		thinking += e.json.Delta.Thinking
		signature += e.json.Delta.Signature
	}
	start, end := events[0].json, events[len(events)-2].json
	if len(message.Content) != 2 || message.Content[0].Thinking != thinking || message.Content[0].Signature != signature || message.Content[1].Text != textOf(events) {
		t.Errorf("content differs: %+v", message.Content)
	}
	if message.ID != start.Message.ID || message.Model != "claude-of-the-day" || start.Message.Model != message.Model || message.StopReason != end.Delta.StopReason {
		t.Errorf("%+v\ndiffers from\n%+v", message, start.Message)
	}
	for key, value := range end.Usage {
		if !reflect.DeepEqual(message.Usage[key], value) {
			t.Errorf("usage.%s: %v whole, %v streamed", key, message.Usage[key], value)
		}
	}
}

func TestHumanPaceIsPleasantToRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &timedRecorder{ResponseRecorder: httptest.NewRecorder(), start: time.Now()}
		New(Options{Pace: Human, Seed: 5}).ServeHTTP(w, newRequestTo(t, "POST", "/v1/messages", ask("hello", nil)))
		// The flushes: headers, message_start, content_block_start, ping, then the deltas.
		if at := w.flushes[0]; at != 200*time.Millisecond {
			t.Errorf("headers after %v", at)
		}
		if at := w.flushes[4]; at != 400*time.Millisecond {
			t.Errorf("first delta after %v", at)
		}
		n := deltas(parse(t, w.Body.Bytes()))
		rate := float64(n-1) / (w.flushes[len(w.flushes)-1] - w.flushes[4]).Seconds()
		if rate < 30 || rate > 40 {
			t.Errorf("%.1f deltas a second", rate)
		}
		if n < 200 || n > 500 {
			t.Errorf("an ordinary answer has %d deltas", n)
		}
	})
}

func TestEveryDeltaIsFlushedAlone(t *testing.T) {
	w := &timedRecorder{ResponseRecorder: httptest.NewRecorder(), start: time.Now()}
	New(Options{}).ServeHTTP(w, newRequestTo(t, "POST", "/v1/messages", ask("hello", nil)))
	if got, want := len(w.flushes), 1+len(parse(t, w.Body.Bytes())); got != want {
		t.Errorf("%d flushes, want one for the headers and one an event: %d", got, want)
	}
}

// timedRecorder knows when it was flushed.
type timedRecorder struct {
	*httptest.ResponseRecorder
	start   time.Time
	flushes []time.Duration
}

func (w *timedRecorder) Flush() { w.flushes = append(w.flushes, time.Since(w.start)) }

func TestLeavingClientEndsEveryWaitAtOnce(t *testing.T) {
	for name, body := range map[string]string{
		"slow start":      ask("fault:slow-start", nil),
		"slow":            ask("fault:slow", nil),
		"stall":           ask("fault:stall", nil),
		"stall and pings": ask("fault:stall-pings", nil),
		"human pace":      ask("long", nil),
		"whole answer":    ask("long", map[string]string{"stream": "false"}),
		"whole stalled":   ask("fault:stall", map[string]string{"stream": "false"}),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := New(Options{Pace: Human})
				ctx, leave := context.WithTimeout(t.Context(), 2345*time.Millisecond)
				defer leave()
				begun := time.Now()
				s.ServeHTTP(httptest.NewRecorder(), newRequestTo(t, "POST", "/v1/messages", body).WithContext(ctx))
				if took := time.Since(begun); took != 2345*time.Millisecond {
					t.Errorf("returned after %v", took)
				}
				if got, want := s.Stats(), (Stats{Aborted: 1}); got != want {
					t.Errorf("%+v, want %+v", got, want)
				}
			})
		})
	}
}

func TestClosedConnectionCountsAsAborted(t *testing.T) {
	s := New(Options{})
	server := httptest.NewServer(s)
	ctx, leave := context.WithCancel(t.Context())
	response, err := server.Client().Do(newRequestTo(t, "POST", server.URL+"/v1/messages", ask("fault:stall", nil)).WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := s.Stats(), (Stats{Live: 1}); got != want {
		t.Errorf("while it stalls: %+v, want %+v", got, want)
	}
	leave()
	response.Body.Close()
	server.Close() // waits for the handler
	if got, want := s.Stats(), (Stats{Aborted: 1}); got != want {
		t.Errorf("afterwards: %+v, want %+v", got, want)
	}
}

func TestEveryRequestIsCountedOnce(t *testing.T) {
	s := New(Options{})
	serve(t, s, "POST", "/v1/messages", ask("hello", nil))
	serve(t, s, "POST", "/v1/messages", "{")
	serve(t, s, "GET", "/nowhere", "")
	if _, _, err := fetch(t, s, ask("fault:cut", nil)); err == nil {
		t.Error("a cut body was read to its end")
	}
	if got, want := s.Stats(), (Stats{Served: 4}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestNoDeltaSplitsALetter(t *testing.T) {
	events := stream(t, New(Options{}), ask("long", nil))
	for _, e := range events {
		if !utf8.ValidString(e.data) || strings.ContainsRune(e.data, utf8.RuneError) {
			t.Fatalf("%q", e.data)
		}
	}
	if text := textOf(events); !strings.Contains(text, "🙂") || !strings.Contains(text, "数字は正直") || !strings.Contains(text, "```") || !strings.Contains(text, "\n- ") {
		t.Error("the long answer lacks an emoji, another script, a code block or a list")
	}
}

var _ http.Flusher = (*timedRecorder)(nil)
