package simulator

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// faultChecks has a check for every fault of the table.
var faultChecks = map[string]func(t *testing.T){
	"slow": func(t *testing.T) {
		if took := duration(t, ask("short fault:slow=500", nil)); took < 5*time.Second {
			t.Errorf("took %v", took)
		}
	},
	"slow-start": func(t *testing.T) {
		if took := duration(t, ask("fault:slow-start=700", nil)); took != 700*time.Millisecond {
			t.Errorf("took %v", took)
		}
	},
	"stall": func(t *testing.T) {
		events, _ := untilLeaving(t, ask("fault:stall=4", nil))
		if n := deltas(events); n != 4 || events[len(events)-1].name != "content_block_delta" {
			t.Errorf("%d deltas, then %s", n, events[len(events)-1].name)
		}
	},
	"stall-pings": func(t *testing.T) {
		events, flushes := untilLeaving(t, ask("fault:stall-pings=30000", nil))
		last := events[len(events)-3:]
		if names(last) != "ping" || flushes[len(flushes)-1] != 90*time.Second {
			t.Errorf("%s, the last after %v", names(last), flushes[len(flushes)-1])
		}
	},
	"429": func(t *testing.T) {
		w := serve(t, New(Options{}), "POST", "/v1/messages", ask("fault:429", nil))
		refused(t, w, 429, "rate_limit_error")
		if after, left := w.Header().Get("retry-after"), w.Header().Get("anthropic-ratelimit-tokens-remaining"); after != "2" || left != "0" {
			t.Errorf("retry-after %q, remaining %q", after, left)
		}
		w = serve(t, New(Options{}), "POST", "/v1/messages", ask("fault:429=61", nil))
		if after := w.Header().Get("retry-after"); after != "61" {
			t.Errorf("retry-after %q", after)
		}
	},
	"529": func(t *testing.T) {
		w := serve(t, New(Options{}), "POST", "/v1/messages", ask("fault:529", nil))
		refused(t, w, 529, "overloaded_error")
		if after, ok := w.Header()["Retry-After"]; ok {
			t.Errorf("retry-after %q", after)
		}
	},
	"529-once": func(t *testing.T) {
		s := New(Options{})
		for i, want := range []int{529, 529, 200, 200} {
			if w := serve(t, s, "POST", "/v1/messages", ask("fault:529-once=2", nil)); w.Code != want {
				t.Errorf("request %d: %d, want %d", i+1, w.Code, want)
			}
		}
		if w := serve(t, s, "POST", "/v1/messages", ask("another fault:529-once", nil)); w.Code != 529 {
			t.Errorf("another prompt: %d", w.Code)
		}
	},
	"overloaded-first": func(t *testing.T) {
		isOverloaded(t, stream(t, New(Options{}), ask("fault:overloaded-first", nil)), 1)
		w := serve(t, New(Options{}), "POST", "/v1/messages", ask("fault:overloaded-first", map[string]string{"stream": "false"}))
		refused(t, w, 529, "overloaded_error")
	},
	"overloaded-first-once": func(t *testing.T) {
		s := New(Options{})
		isOverloaded(t, stream(t, s, ask("fault:overloaded-first-once", nil)), 1)
		if events := stream(t, s, ask("fault:overloaded-first-once", nil)); events[len(events)-1].name != "message_stop" {
			t.Error("the second request is not answered")
		}
	},
	"error": func(t *testing.T) {
		response, body, err := fetch(t, New(Options{}), ask("fault:error=3", nil))
		if err != nil || !response.Close {
			t.Errorf("%v, connection closed: %v", err, response.Close)
		}
		events := parse(t, body)
		isOverloaded(t, events, 7)
		if deltas(events) != 3 || events[6].json.RequestID != response.Header.Get("request-id") {
			t.Errorf("%d deltas, %s", deltas(events), events[6].data)
		}
	},
	"cut": func(t *testing.T) {
		for _, version := range []int{1, 2} {
			body, err := cutOver(t, version)
			events := parse(t, body)
			if err == nil || deltas(events) != 3 {
				t.Errorf("HTTP/%d: %d deltas, %v", version, deltas(events), err)
			}
			if version == 1 && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("HTTP/1: %v", err)
			}
		}
	},
	"no-stop": func(t *testing.T) {
		_, body, err := fetch(t, New(Options{}), ask("fault:no-stop", nil))
		if events := parse(t, body); err != nil || events[len(events)-1].name != "message_delta" {
			t.Errorf("%v, last %s", err, events[len(events)-1].name)
		}
		_, body, err = fetch(t, New(Options{}), ask("fault:no-stop=6", nil))
		if events := parse(t, body); err != nil || deltas(events) != 6 || events[len(events)-1].name != "content_block_delta" {
			t.Errorf("%v, %s", err, names(events))
		}
	},
	"giant": func(t *testing.T) {
		for prompt, want := range map[string]int{"fault:giant": 1_000_000, "fault:giant=70000": 70_000} {
			longest := 0
			for _, e := range stream(t, New(Options{}), ask(prompt, nil)) {
				longest = max(longest, len(e.json.Delta.Text))
			}
			if longest != want {
				t.Errorf("%s: %d", prompt, longest)
			}
		}
	},
	"gzip":        func(t *testing.T) { isCompressed(t, "fault:gzip", "gzip") },
	"gzip-silent": func(t *testing.T) { isCompressed(t, "fault:gzip-silent", "") },
	"html":        func(t *testing.T) { isPage(t, "fault:html", 502, "text/html; charset=UTF-8", "<html>") },
	"html-200":    func(t *testing.T) { isPage(t, "fault:html-200", 200, "text/html; charset=UTF-8", "<!doctype html>") },
	"redirect": func(t *testing.T) {
		if response := isPage(t, "fault:redirect", 302, "text/plain; charset=utf-8", ""); response.Header.Get("Location") == "" {
			t.Error("no Location")
		}
	},
	"empty": func(t *testing.T) {
		if response := isPage(t, "fault:empty", 200, "text/event-stream; charset=utf-8", ""); response.ContentLength != -1 {
			t.Errorf("the length %d gives it away", response.ContentLength)
		}
	},
	"refusal": func(t *testing.T) {
		events := stream(t, New(Options{}), ask("fault:refusal", nil))
		if got := names(events); got != "message_start message_delta message_stop" {
			t.Fatal(got)
		}
		if end := events[1].json.Delta; end.StopReason != "refusal" || end.StopDetails["type"] != "refusal" {
			t.Errorf("%s", events[1].data)
		}
	},
	"500": func(t *testing.T) {
		refused(t, serve(t, New(Options{}), "POST", "/v1/messages", ask("fault:500", nil)), 500, "api_error")
	},
	"401": func(t *testing.T) {
		refused(t, serve(t, New(Options{}), "POST", "/v1/messages", ask("fault:401", nil)), 401, "authentication_error")
	},
	"json-200": func(t *testing.T) { isPage(t, "fault:json-200", 200, "application/json", `{"model":`) },
	"expire": func(t *testing.T) {
		s := New(Options{})
		for range 2 {
			if got := outcomes(t, s, create(t, s, "hello", "fault:expire").ID); got != "a:succeeded b:expired" {
				t.Error(got)
			}
		}
	},
	"expire-once": func(t *testing.T) {
		s := New(Options{})
		for _, want := range []string{"a:expired", "a:succeeded"} {
			if got := outcomes(t, s, create(t, s, "fault:expire-once").ID); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
	},
	"batch-time": func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := New(Options{BatchTime: time.Hour})
			b := create(t, s, "fault:batch-time=9000", "hello", "fault:batch-time=1500")
			time.Sleep(8999 * time.Millisecond)
			if got := look(t, s, b.ID).ProcessingStatus; got != "in_progress" {
				t.Errorf("%s before its time", got)
			}
			time.Sleep(time.Millisecond)
			if got := look(t, s, b.ID).ProcessingStatus; got != "ended" {
				t.Errorf("%s when its time is over", got)
			}
		})
	},
}

func TestEveryFaultDoesWhatTheTableSays(t *testing.T) {
	for _, fault := range Faults() {
		check := faultChecks[fault.Name]
		if check == nil || fault.Does == "" {
			t.Errorf("%s: not described, or not checked", fault.Name)
			continue
		}
		t.Run(fault.Name, check)
	}
}

func TestFaultThatComesTooLateComesAtTheEnd(t *testing.T) {
	for _, fault := range []string{"error", "no-stop"} {
		events := stream(t, New(Options{}), ask("short fault:"+fault+"=100000", nil))
		if got := names(events); strings.Contains(got, "content_block_stop") || strings.Contains(got, "message_delta") {
			t.Errorf("%s: %s", fault, got)
		}
	}
}

func TestFaultIsReadFromTheLastUserMessageAndTheHeader(t *testing.T) {
	history := `[{"role":"user","content":"fault:500"},{"role":"assistant","content":"fault:429"},{"role":"user","content":[{"type":"text","text":"and Fault:529."}]}]`
	if w := serve(t, New(Options{}), "POST", "/v1/messages", ask("", map[string]string{"messages": history})); w.Code != 529 {
		t.Errorf("from the message: %d", w.Code)
	}
	r := newRequestTo(t, "POST", "/v1/messages", ask("hello", nil))
	r.Header.Set("Simulate", "429=9")
	w := httptest.NewRecorder()
	New(Options{}).ServeHTTP(w, r)
	if w.Code != 429 || w.Header().Get("retry-after") != "9" {
		t.Errorf("from the header: %d, retry-after %q", w.Code, w.Header().Get("retry-after"))
	}
}

func TestFaultsAdd(t *testing.T) {
	_, body, err := fetch(t, New(Options{}), ask("fault:gzip-silent and fault:no-stop=2", nil))
	if err != nil {
		t.Fatal(err)
	}
	if events := parse(t, gunzip(t, body)); deltas(events) != 2 {
		t.Errorf("%s", names(events))
	}
}

func TestWholeMessageBreaksOffToo(t *testing.T) {
	for fault, broken := range map[string]bool{"no-stop": false, "cut": true} {
		_, body, err := fetch(t, New(Options{}), ask("fault:"+fault, map[string]string{"stream": "false"}))
		if (err != nil) != broken || len(body) == 0 || bytes.HasSuffix(body, []byte("}")) {
			t.Errorf("%s: %v, %d bytes", fault, err, len(body))
		}
	}
}

func TestFaultTableIsTheCallersToChange(t *testing.T) {
	Faults()[0].Name = "changed"
	if got := Faults()[0].Name; got == "changed" {
		t.Error("the table can be changed from outside")
	}
}

// duration is how long an answer takes in faked time.
func duration(t *testing.T, body string) (took time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		stream(t, New(Options{}), body)
		took = time.Since(begun)
	})
	return took
}

// untilLeaving gives what a client sees that leaves after 100 s, and when.
func untilLeaving(t *testing.T, body string) (events []event, flushes []time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRequestTo(t, "POST", "/v1/messages", body)
		ctx, leave := context.WithTimeout(t.Context(), 100*time.Second)
		defer leave()
		w := &timedRecorder{ResponseRecorder: httptest.NewRecorder(), start: time.Now()}
		New(Options{}).ServeHTTP(w, r.WithContext(ctx))
		events, flushes = parse(t, w.Body.Bytes()), w.flushes
	})
	return events, flushes
}

func isOverloaded(t *testing.T, events []event, count int) {
	t.Helper()
	last := events[len(events)-1]
	if len(events) != count || last.name != "error" || last.json.Error["type"] != "overloaded_error" ||
		!strings.HasPrefix(last.data, `{"type":"error","error":{"details":null,"type":"overloaded_error","message":"Overloaded"},"request_id":"req_01`) {
		t.Errorf("%d events, the last %s", len(events), last.data)
	}
}

func isPage(t *testing.T, prompt string, status int, contentType, start string) *http.Response {
	t.Helper()
	response, body, err := fetch(t, New(Options{}), ask(prompt, nil))
	if err != nil {
		t.Fatal(err)
	}
	if got := response.Header.Get("Content-Type"); response.StatusCode != status || got != contentType || !strings.HasPrefix(string(body), start) || start == "" && len(body) > 0 {
		t.Errorf("%d %s %.100q", response.StatusCode, got, body)
	}
	if response.Header.Get("request-id") == "" {
		t.Error("no request-id")
	}
	return response
}

func isCompressed(t *testing.T, prompt, encoding string) {
	t.Helper()
	response, body, err := fetch(t, New(Options{}), ask(prompt, nil))
	if err != nil {
		t.Fatal(err)
	}
	if got := response.Header.Get("Content-Encoding"); got != encoding {
		t.Errorf("Content-Encoding %q", got)
	}
	events := parse(t, gunzip(t, body))
	if events[len(events)-1].name != "message_stop" {
		t.Error("no message_stop")
	}
	// A flush leaves the mark of an empty stored block.
	if marks := bytes.Count(body, []byte{0, 0, 0xff, 0xff}); marks < len(events) {
		t.Errorf("%d flushes for %d events", marks, len(events))
	}
}

func gunzip(t *testing.T, body []byte) []byte {
	t.Helper()
	reader, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

func cutOver(t *testing.T, version int) ([]byte, error) {
	t.Helper()
	server := httptest.NewUnstartedServer(New(Options{}))
	server.EnableHTTP2 = version == 2
	server.StartTLS()
	defer server.Close()
	response, err := server.Client().Do(newRequestTo(t, "POST", server.URL+"/v1/messages", ask("fault:cut=3", nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.ProtoMajor != version {
		t.Fatalf("spoke %s", response.Proto)
	}
	return io.ReadAll(response.Body)
}
