package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// at drives a relay and returns the figures.
func at(t *testing.T, relay http.Handler, o options) *figures {
	t.Helper()
	server := httptest.NewServer(relay)
	defer server.Close()
	var err error
	if o.base, err = url.Parse(server.URL); err != nil {
		t.Fatal(err)
	}
	if o.n == 0 {
		o.n = 1
	}
	if o.mode == "" {
		o.mode, o.path = "post", "/v1/messages"
	}
	if o.streams == 0 {
		o.streams = 1
	}
	if o.limit == 0 {
		o.limit = time.Minute
	}
	return drive(context.Background(), o)
}

// says is a relay that answers with events, one a line: name, and for a delta its number.
func says(script string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		tell(w, script, 1)
	})
}

// tell writes events, numbered from the first id on.
func tell(w io.Writer, script string, id int) {
	for line := range strings.SplitSeq(script, "\n") {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		data := "{}"
		if name == "delta" {
			name, data = "content_block_delta", ""
			for number := range strings.FieldsSeq(rest) {
				data += "#" + number + "@1700000000000000000;xx"
			}
		}
		fmt.Fprintf(w, "event: %s\nid: %d\ndata: %s\n\n", name, id, data)
		id++
	}
}

func TestDriverNoticesWhatARelayDoesWrong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script         string
		lost, repeated int64
		failure        string // contained in it
	}{
		"nothing":          {"message_start\ndelta 0\ndelta 1\ndelta 2\nmessage_delta\nmessage_stop", 0, 0, ""},
		"merged deltas":    {"message_start\ndelta 0 1\ndelta 2\nmessage_delta\nmessage_stop", 0, 0, ""},
		"a lost event":     {"message_start\ndelta 0\ndelta 2\nmessage_delta\nmessage_stop", 1, 0, ""},
		"a lost tail":      {"message_start\ndelta 0\nmessage_delta\nmessage_stop", 2, 0, ""},
		"lost in a merged": {"message_start\ndelta 0 2\nmessage_delta\nmessage_stop", 1, 0, ""},
		"a repeated event": {"message_start\ndelta 0\ndelta 1\ndelta 1\ndelta 2\nmessage_delta\nmessage_stop", 0, 1, ""},
		"two answers":      {"message_start\ndelta 0\ndelta 1\nmessage_start\ndelta 0\ndelta 1\ndelta 2\nmessage_delta\nmessage_stop", 0, 2, "message_start came 2 times"},
		"two ends":         {"message_start\ndelta 0\ndelta 1\ndelta 2\nmessage_delta\nmessage_delta\nmessage_stop", 0, 0, "message_delta came 2 times"},
		"more after it":    {"message_start\ndelta 0\ndelta 1\ndelta 2\nmessage_delta\nmessage_stop\nping", 0, 0, "after the end"},
		"silence":          {"message_start\ndelta 0\ndelta 1\ndelta 2", 0, 0, "ended after 3 of 3"},
		"an error":         {"message_start\ndelta 0\nerror", 0, 0, "error event"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := at(t, says(c.script), options{model: "bench-e3"})
			if f.Lost != c.lost || f.Duplicated != c.repeated {
				t.Errorf("%d lost and %d repeated, want %d and %d", f.Lost, f.Duplicated, c.lost, c.repeated)
			}
			if !strings.Contains(f.FirstFailure, c.failure) || (f.Failed > 0) != (c.failure != "") {
				t.Errorf("%d failed: %q, want %q", f.Failed, f.FirstFailure, c.failure)
			}
			if bad := f.verdict() != nil; bad != (c.lost+c.repeated > 0 || c.failure != "") {
				t.Errorf("the verdict is %v", f.verdict())
			}
		})
	}
}

func TestDriverResumesWhereItDropped(t *testing.T) {
	t.Parallel()
	const whole = "message_start\ndelta 0\ndelta 1\ndelta 2\ndelta 3\ndelta 4\nmessage_delta\nmessage_stop"
	relay := func(after func(id int) int) http.Handler {
		mux := http.NewServeMux()
		mux.HandleFunc("POST /v1/streams", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusCreated)
			io.WriteString(w, `{"events_url":"http://elsewhere/events?ticket=x"}`)
		})
		mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
			var last int
			fmt.Sscan(r.Header.Get("Last-Event-ID"), &last)
			if last == 8 {
				w.WriteHeader(http.StatusNoContent)
				return
			}
			w.Header().Set("Content-Type", "text/event-stream")
			from := after(last)
			tell(w, strings.Join(strings.Split(whole, "\n")[from:], "\n"), from+1)
		})
		return mux
	}
	f := at(t, relay(func(id int) int { return id }), options{model: "bench-e5", mode: "stream", drop: 2})
	if f.verdict() != nil || f.Events != 5 || f.Reconnects != 2 {
		t.Errorf("%d events, %d reconnects; %v", f.Events, f.Reconnects, f.verdict())
	}
	f = at(t, relay(func(id int) int { return max(0, id-1) }), options{model: "bench-e5", mode: "stream", drop: 2})
	if !strings.Contains(f.FirstFailure, `id "3" after "3"`) {
		t.Errorf("an event that comes again after a resume is not noticed: %q", f.FirstFailure)
	}
	f = at(t, relay(func(id int) int { return id + min(id, 1) }), options{model: "bench-e5", mode: "stream", drop: 2})
	if f.Lost != 1 {
		t.Errorf("%d lost, want the 1 that a resume has skipped", f.Lost)
	}
}

func TestDriverEndsByItself(t *testing.T) {
	t.Parallel()
	silent := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		tell(w, "message_start\ndelta 0", 1)
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	f := at(t, silent, options{model: "bench-e3", n: 3, ramp: time.Millisecond, limit: 100 * time.Millisecond})
	if f.Failed != 3 || f.FirstFailure != "not over after 100ms" {
		t.Errorf("%d failed: %q", f.Failed, f.FirstFailure)
	}
}

// The driver and its upstream, without a relay between them.
func TestUpstreamPlaysItsShape(t *testing.T) {
	t.Parallel()
	f := at(t, new(upstream).routes(), options{model: "bench-e50-i0-b10", n: 4, ramp: time.Millisecond})
	if f.verdict() != nil || f.Events != 200 || f.Completed != 4 {
		t.Errorf("%d events, %d completed; %v", f.Events, f.Completed, f.verdict())
	}
	f = at(t, new(upstream).routes(), options{model: "bench-e50-i0-x7"})
	if !strings.Contains(f.FirstFailure, "ended after 7 of 50") {
		t.Errorf("a cut stream: %q", f.FirstFailure)
	}
	f = at(t, new(upstream).routes(), options{model: "bench-e2-i0-o1", n: 2, ramp: time.Millisecond})
	if f.Failed != 1 || !strings.Contains(f.FirstFailure, "529") {
		t.Errorf("an overloaded upstream: %d failed: %q", f.Failed, f.FirstFailure)
	}
}

func TestDriverMeasuresWhatTheRelayAdds(t *testing.T) {
	t.Parallel()
	slow := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		tell(w, "message_start\ndelta 0\ndelta 1\nmessage_delta\nmessage_stop", 1)
	})
	f := at(t, slow, options{model: "bench-e2"})
	// Its markers say that the events were sent in 2023.
	if year := 365 * 24 * time.Hour; f.DelayP50us < float64(year.Microseconds()) {
		t.Errorf("a delay of years is reported as %v µs", f.DelayP50us)
	}
}
