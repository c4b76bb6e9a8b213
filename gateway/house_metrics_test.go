package gateway_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"sluice/gateway"
	"sluice/gateway/simulator"
)

// counted looks that series have exactly these values.
func (h *house) counted(want map[string]float64) {
	h.t.Helper()
	for series, value := range want {
		h.becomes(series, value)
	}
}

// TestMetricsTellTheTruth does known work and compares.
func TestMetricsTellTheTruth(t *testing.T) {
	t.Parallel()
	h := openHouse(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch body := r.Header.Get("User-Agent"); body {
		case "broken":
			simulator.Script{Body: []byte(start + block + delta("12345678"))}.ServeHTTP(w, r)
		case "refused":
			simulator.Script{Status: 400, Body: []byte(overloaded), Header: http.Header{"Content-Type": {"application/json"}}}.ServeHTTP(w, r)
		case "whole":
			simulator.Script{Body: []byte(`{"type":"message","model":"claude-opus-4-6","usage":{"input_tokens":1000,"output_tokens":2000}}`), Header: http.Header{"Content-Type": {"application/json"}}}.ServeHTTP(w, r)
		default:
			saying(10).ServeHTTP(w, r)
		}
	}))
	for range 2 {
		if n := len(h.watch("POST", "/v1/messages", ask("short")).rest()); n != 15 {
			t.Fatalf("%d events", n)
		}
	}
	endsWith(t, h.watch("POST", "/v1/messages", ask("short"), "user-agent", "broken").rest(), "api_error")
	h.do("POST", "/v1/messages", ask("short"), "user-agent", "refused").status(400)
	h.do("POST", "/v1/messages", request("short"), "user-agent", "whole").status(200)
	o := h.start(request("short"))
	h.reaches(o.ID, "completed")
	read := func(cursor string) *answer {
		return h.fetch("GET", o.EventsURL+"&exact=1", "", "last-event-id", cursor, "x-api-key", "")
	}
	read("").status(200)
	read("5").status(200)
	read("99").status(200)
	read("15").status(204)
	h.fetch("GET", o.EventsURL, "", "x-api-key", "").status(200) // merged
	h.do("GET", "/v1/streams/strm_none", "").status(404)
	h.do("GET", "/nothing", "").status(404)
	h.do("GET", "/v1/streams", "", "x-api-key", "").status(401)
	h.do("GET", "/v1/streams", "", "x-api-key", "wrong").status(401)
	h.do("GET", "/v1/streams", "", "authorization", "Bearer other").status(401)
	h.fetch("GET", o.EventsURL+"x", "", "x-api-key", "").status(401)
	h.do("BREW", "/v1/streams", "").status(405)

	const model = `model="claude-sonnet-4-6"`
	delivered := float64(2*15 + 4 + 15 + 10 + 15 + 15)
	h.counted(map[string]float64{
		`sluice_streams_total{` + model + `,outcome="completed"}`:                            3,
		`sluice_streams_total{` + model + `,outcome="failed"}`:                               1,
		`sluice_streams_total{model="",outcome="failed"}`:                                    1,
		`sluice_viewer_events_total`:                                                         delivered,
		`sluice_viewer_coalesced_events_total`:                                               10,
		`sluice_viewers_ended_total{reason="completed"}`:                                     7,
		`sluice_resumes_total{kind="exact"}`:                                                 1,
		`sluice_resumes_total{kind="resync"}`:                                                1,
		`sluice_resumes_total{kind="done"}`:                                                  1,
		`sluice_pings_total`:                                                                 0,
		`sluice_tokens_total{kind="input",` + model + `,source="reported"}`:                  3 * 11,
		`sluice_tokens_total{kind="output",` + model + `,source="reported"}`:                 3 * 42,
		`sluice_tokens_total{kind="cache_read",` + model + `,source="reported"}`:             3 * 7,
		`sluice_tokens_total{kind="cache_write",` + model + `,source="reported"}`:            3 * 5,
		`sluice_tokens_total{kind="input",` + model + `,source="estimated"}`:                 11,
		`sluice_tokens_total{kind="output",` + model + `,source="estimated"}`:                7,
		`sluice_tokens_total{kind="input",model="claude-opus-4-6",source="reported"}`:        1000,
		`sluice_tokens_total{kind="output",model="claude-opus-4-6",source="reported"}`:       2000,
		`sluice_upstream_requests_total{code="200"}`:                                         5,
		`sluice_upstream_requests_total{code="400"}`:                                         1,
		`sluice_http_requests_total{code="200",method="POST",route="/v1/messages"}`:          4,
		`sluice_http_requests_total{code="400",method="POST",route="/v1/messages"}`:          1,
		`sluice_http_requests_total{code="201",method="POST",route="/v1/streams"}`:           1,
		`sluice_http_requests_total{code="200",method="GET",route="/v1/streams/:id/events"}`: 4,
		`sluice_http_requests_total{code="204",method="GET",route="/v1/streams/:id/events"}`: 1,
		`sluice_http_requests_total{code="404",method="GET",route="/v1/streams/:id"}`:        1,
		`sluice_auth_failures_total{kind="missing"}`:                                         1,
		`sluice_auth_failures_total{kind="wrong"}`:                                           1,
		`sluice_auth_failures_total{kind="conflicting"}`:                                     1,
		`sluice_auth_failures_total{kind="ticket"}`:                                          1,
		`sluice_build_info{version="test"}`:                                                  1,
		`sluice_logs`:                                                                        4,
		`sluice_time_to_first_event_seconds_count{stage="headers"}`:                          4,
		`sluice_time_to_first_event_seconds_count{stage="message_start"}`:                    4,
		`sluice_time_to_first_event_seconds_count{stage="first_delta"}`:                      4,
		`sluice_event_gap_seconds_count`:                                                     3*14 + 2,
	})
	for series := range h.scrape() {
		if strings.Contains(series, "alice") || strings.Contains(series, "strm_") || strings.Contains(series, "BREW") || strings.Contains(series, "nothing") {
			t.Errorf("a label from outside: %s", series)
		}
	}
	h.forgetAll(aliceKey)
	h.isEmpty()
}

// TestTimeToFirstEventHasThreeStages measures against an upstream with known waits.
func TestTimeToFirstEventHasThreeStages(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f)
	answered := make(chan *reading, 1)
	go func() { answered <- h.watch("POST", "/v1/messages", ask("long")) }()
	up := f.next(t)
	waits := []time.Duration{40 * time.Millisecond, 80 * time.Millisecond, 120 * time.Millisecond}
	begun := time.Now()
	for i, chunk := range []string{": headers\n\n", start + block, delta("at last")} {
		wait(t, waits[i])
		up.send(chunk)
	}
	took := time.Since(begun)
	up.finish()
	endsWith(t, receive(t, answered, "the answer").rest(), "message_stop")
	series := h.scrape()
	least := time.Duration(0)
	for i, stage := range []string{"headers", "message_start", "first_delta"} {
		least += waits[i]
		sum := series[fmt.Sprintf("sluice_time_to_first_event_seconds_sum{stage=%q}", stage)]
		if got := time.Duration(sum * float64(time.Second)); got < least || got > took+time.Second {
			t.Errorf("%s after %s, want %s and a little", stage, got, least)
		}
	}
	if headers, delta := series[`sluice_time_to_first_event_seconds_sum{stage="headers"}`], series[`sluice_time_to_first_event_seconds_sum{stage="first_delta"}`]; delta-headers < 0.19 {
		t.Errorf("headers after %v s, the first delta after %v s", headers, delta)
	}
	if n := series["sluice_relay_delay_seconds_count"]; n == 0 || series["sluice_relay_delay_seconds_sum"]/n > 0.5 {
		t.Errorf("%v relay delays of %v s", n, series["sluice_relay_delay_seconds_sum"])
	}
}

// wait is silence of the upstream.
func wait(t testing.TB, d time.Duration) {
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// TestRepeatedRequestsAreCounted looks at what the upstream was asked for, and why again.
func TestRepeatedRequestsAreCounted(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}))
	h.start(request("short fault:529-once"))
	h.start(request("short fault:overloaded-first-once"))
	h.counted(map[string]float64{
		`sluice_upstream_requests_total{code="200"}`:               3,
		`sluice_upstream_requests_total{code="529"}`:               1,
		`sluice_upstream_retries_total{reason="529"}`:              1,
		`sluice_upstream_retries_total{reason="overloaded_first"}`: 1,
	})
}

// TestRecordOfAnEndedStreamHoldsWhatFinanceNeeds reads the record of an ended stream.
func TestRecordOfAnEndedStreamHoldsWhatFinanceNeeds(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(4))
	o := h.start(request("short"))
	h.reaches(o.ID, "completed")
	for _, want := range []string{`"msg":"stream ended"`, `"stream":"` + o.ID + `"`, `"request_id":"req_011CScriptScriptScript01"`, `"route":"/v1/streams"`, `"owner":"key:alice"`, `"plan":"default"`,
		`"model":"claude-sonnet-4-6"`, `"outcome":"completed"`, `"input_tokens":11,"output_tokens":42,"cache_read_tokens":7,"cache_write_tokens":5`, `"usage_source":"reported"`} {
		if n := strings.Count(h.log.String(), want); n != 1 {
			t.Errorf("%s stands %d times in\n%s", want, n, h.log.String())
		}
	}
}

// TestMemoryForStreamsIsBounded: the oldest ended ones go first, then new ones are refused; a live one stays.
func TestMemoryForStreamsIsBounded(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f, func(c *gateway.Config) { c.Relay.Memory = 100_000 })
	live := h.watching(t, f)
	var ended []object
	for range 20 {
		w := h.watching(t, f)
		w.up.send(block, delta(strings.Repeat("x", 9000)))
		w.up.finish()
		w.r.rest()
		ended = append(ended, w.o)
		if got := h.scrape()["sluice_log_bytes"]; got > 100_000 {
			t.Fatalf("%v bytes after %d streams", got, len(ended))
		}
	}
	h.do("GET", "/v1/streams/"+ended[0].ID, "").refused(404, "not_found_error")
	h.get(ended[19].ID)
	h.get(live.o.ID)
	// Who holds a ticket of one that had to go is told so, and then to stop.
	events := h.watchURL("GET", ended[0].EventsURL, "", "x-api-key", "").rest()
	if len(events) != 1 || events[0].id != "lost" || errorType(events[0]) != "api_error" {
		t.Errorf("%+v", events)
	}
	h.fetch("GET", ended[0].EventsURL, "", "x-api-key", "", "last-event-id", "lost").status(204)
	live.up.send(block, delta(strings.Repeat("y", 150_000)))
	for range 2 {
		live.r.next()
	}
	eventually(t, func() string { return "the log was not charged" }, func() bool { return h.scrape()["sluice_log_bytes"] > 150_000 })
	a := h.do("POST", "/v1/messages", ask("short")).refused(529, "overloaded_error")
	if a.header.Get("Retry-After") == "" {
		t.Error("529 without retry-after")
	}
	live.up.finish()
	endsWith(t, live.r.rest(), "message_stop")
}
