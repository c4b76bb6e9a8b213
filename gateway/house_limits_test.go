package gateway_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"sluice/gateway"
	"sluice/gateway/limits"
	"sluice/gateway/simulator"
)

func TestRequestsOverTheLimitAreToldWhenToComeBack(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}), func(c *gateway.Config) {
		c.Plans["default"] = limits.Plan{RequestsPerMinute: 6, Burst: 3}
	})
	for i, c := range [][2]string{{"/v1/messages", ask("short")}, {"/v1/messages", request("short")}, {"/v1/streams", request("short")}} {
		a := h.do("POST", c[0], c[1])
		if a.code >= 300 {
			t.Fatalf("%s: %d %s", c[0], a.code, a.body)
		}
		if a.header.Get("Anthropic-Ratelimit-Requests-Limit") != "6" || a.header.Get("Anthropic-Ratelimit-Requests-Remaining") != strconv.Itoa(2-i) {
			t.Errorf("%s: %v", c[0], a.header)
		}
		if reset, err := time.Parse(time.RFC3339, a.header.Get("Anthropic-Ratelimit-Requests-Reset")); err != nil || reset.After(time.Now().Add(time.Minute)) {
			t.Errorf("%s: reset %v, %v", c[0], reset, err)
		}
	}
	for _, c := range [][2]string{{"/v1/messages", ask("short")}, {"/v1/messages", request("short")}, {"/v1/streams", request("short")}} {
		a := h.do("POST", c[0], c[1]).refused(429, "rate_limit_error")
		seconds, err := strconv.Atoi(a.header.Get("Retry-After"))
		if err != nil || seconds < 1 || seconds > 10 || a.header.Get("Anthropic-Ratelimit-Requests-Remaining") != "0" || !strings.Contains(a.body, "requests_per_minute") || a.header.Get("X-Should-Retry") != "" {
			t.Errorf("%v %s", a.header, a.body)
		}
	}
	// Reading, counting and the others' work cost nothing.
	h.do("GET", "/v1/streams", "").status(200)
	h.do("GET", "/v1/models", "").status(200)
	h.do("POST", "/v1/messages/count_tokens", request("short")).status(200)
	h.do("POST", "/v1/messages", ask("short"), "x-api-key", bobKey).status(200)
	if got := h.scrape()[`sluice_rate_limited_total{limit="requests_per_minute"}`]; got != 3 {
		t.Errorf("%v refusals were counted", got)
	}
}

// TestSlotComesBackAfterEveryEnd has one slot, and shows that it is taken while a stream is open and free afterwards.
func TestSlotComesBackAfterEveryEnd(t *testing.T) {
	t.Parallel()
	one := func(c *gateway.Config) {
		c.Plans["default"] = limits.Plan{ConcurrentStreams: 1}
		c.Relay.AbandonAfter = gateway.AbandonAfter{Messages: 20 * time.Millisecond, Streams: time.Hour}
	}
	free := func(h *house, f *faucet) {
		h.t.Helper()
		h.becomes("sluice_streams_active", 0)
		failed := make(chan error, 1)
		go func() { failed <- h.post(bounds(h.t), "/v1/messages", ask("short")) }()
		up := f.next(h.t)
		up.send(start)
		up.finish()
		if err := receive(h.t, failed, "an answer"); err != nil {
			h.t.Error(err)
		}
		h.becomes("sluice_streams_active", 0)
	}
	for name, end := range map[string]func(*house, *faucet, watched){
		"completed": func(h *house, f *faucet, w watched) { w.up.finish(); w.r.rest() },
		"completed, and the reader stays a while": func(h *house, f *faucet, w watched) { w.up.finish() },
		"canceled": func(h *house, f *faucet, w watched) { h.do("POST", "/v1/streams/"+w.o.ID+"/cancel", "").status(200) },
		"deleted":  func(h *house, f *faucet, w watched) { h.do("DELETE", "/v1/streams/"+w.o.ID, "").status(200) },
		"cut":      func(h *house, f *faucet, w watched) { w.up.end() },
		"an error": func(h *house, f *faucet, w watched) { w.up.send("event: error\ndata: " + overloaded + "\n\n") },
		"spliced":  func(h *house, f *faucet, w watched) { w.up.send(start) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFaucet()
			h := openHouse(t, f, one)
			w := h.watching(t, f)
			a := h.do("POST", "/v1/messages", ask("short")).refused(429, "rate_limit_error")
			if a.header.Get("Retry-After") == "" || !strings.Contains(a.body, "concurrent_streams") {
				t.Errorf("%v %s", a.header, a.body)
			}
			h.do("POST", "/v1/messages", request("short")).refused(429, "rate_limit_error")
			end(h, f, w)
			free(h, f)
		})
	}
	for name, body := range map[string]string{"stream": ask("long"), "whole": request("long")} {
		t.Run("left: "+name, func(t *testing.T) {
			t.Parallel()
			f := newFaucet()
			h := openHouse(t, f, one)
			for range 3 {
				ctx, leave := context.WithCancel(t.Context())
				failed := make(chan error, 1)
				go func() { failed <- h.post(ctx, "/v1/messages", body) }()
				up := f.next(t)
				leave()
				receive(t, failed, "the request's end")
				up.left()
				eventually(t, func() string { return "the slot does not come back" }, func() bool {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					status := make(chan int, 1)
					go func() { status <- h.in(t).status(ctx, body) }()
					select {
					case up := <-f.taps:
						cancel()
						<-up.done
						<-status
						return true
					case code := <-status:
						return code != 429
					}
				})
				h.becomes("sluice_streams_active", 0)
				h.nothingIsReserved() // also of the last try
			}
		})
	}
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		h := openHouse(t, simulator.New(simulator.Options{}), one)
		for _, fault := range []string{"429=0", "500", "401", "html", "html-200", "529"} {
			for _, body := range []string{ask("fault:" + fault), request("fault:" + fault)} {
				if a := h.do("POST", "/v1/messages", body); strings.Contains(a.body, "concurrent_streams") {
					t.Fatalf("before %s: %s", fault, a.body)
				}
			}
		}
		h.do("POST", "/v1/messages", `{"model":"m","stream":true}`).status(400)
		h.do("POST", "/v1/messages", ask("short")).status(200)
		h.do("POST", "/v1/messages", ask("short"), "idempotency-key", strings.Repeat("k", 256)).status(400)
		h.do("POST", "/v1/messages", ask("short")).status(200)
	})
}

// status posts and returns the status; 0 where there was none.
func (h *house) status(ctx context.Context, body string) int {
	h.t.Helper()
	resp, err := h.tryWith(ctx, "POST", h.url+"/v1/messages", body)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// TestRacingRequestsDoNotPassTheLimit starts many at once.
func TestRacingRequestsDoNotPassTheLimit(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f, func(c *gateway.Config) { c.Plans["default"] = limits.Plan{ConcurrentStreams: 5} })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	codes := make(chan int, 40)
	for range 40 {
		go func() { codes <- h.status(ctx, ask("long")) }()
	}
	var open []*tap
	for range 5 {
		open = append(open, f.next(t))
	}
	for range 35 {
		if code := receive(t, codes, "a refusal"); code != 429 {
			t.Errorf("status %d", code)
		}
	}
	if got := h.scrape()["sluice_streams_active"]; got != 5 {
		t.Errorf("%v streams are open", got)
	}
	for _, up := range open {
		up.t = t
		up.send(start)
		up.finish()
	}
	for range 5 {
		if code := receive(t, codes, "an answer"); code != 200 {
			t.Errorf("status %d", code)
		}
	}
}

func TestIdempotencyKeyJoinsTheStreamThatIsThere(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f)
	// While it is held …
	answers := make(chan *answer, 3)
	for range 3 {
		go func() { answers <- h.do("POST", "/v1/streams", request("long"), "idempotency-key", "k") }()
	}
	up := f.next(t)
	eventually(t, func() string { return "the requests do not arrive" }, func() bool { return h.scrape()["sluice_streams_active"] == 1 })
	up.send(start)
	ids := map[string]bool{}
	for range 3 {
		var o object
		receive(t, answers, "a stream").status(201).into(&o)
		ids[o.ID] = true
	}
	// … while it runs, and after its end.
	ids[h.start(request("long"), "idempotency-key", "k").ID] = true
	up.finish()
	for id := range ids {
		h.reaches(id, "completed")
	}
	ids[h.start(request("long"), "idempotency-key", "k").ID] = true
	if len(ids) != 1 || len(h.upstream.requests()) != 1 {
		t.Errorf("%d streams, %d requests at the upstream", len(ids), len(h.upstream.requests()))
	}
	h.do("POST", "/v1/streams", request("other"), "idempotency-key", "k").refused(422, "invalid_request_error")
	h.do("POST", "/v1/messages", ask("long"), "idempotency-key", "k").refused(422, "invalid_request_error")
	h.do("POST", "/v1/streams", request("long"), "idempotency-key", strings.Repeat("k", 256)).refused(400, "invalid_request_error")
	longest := make(chan *answer, 1)
	go func() {
		longest <- h.do("POST", "/v1/streams", request("long"), "idempotency-key", strings.Repeat("k", 255))
	}()
	up = f.next(t)
	up.send(start)
	up.finish()
	receive(t, longest, "a stream").status(201)
	// The key lives as long as the stream.
	for id := range ids {
		h.do("DELETE", "/v1/streams/"+id, "").status(200)
	}
	again := make(chan *answer, 1)
	go func() { again <- h.do("POST", "/v1/streams", request("other"), "idempotency-key", "k") }()
	up = f.next(t)
	up.send(start)
	up.finish()
	receive(t, again, "a stream").status(201)
}

func TestRefusedRequestFreesItsKey(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}))
	for i, c := range [][2]string{{"/v1/messages", ask("short fault:529-once")}, {"/v1/messages", ask("short fault:429=0")}} {
		key := fmt.Sprint("key ", i)
		if a := h.do("POST", c[0], c[1], "idempotency-key", key); a.code < 400 {
			t.Fatalf("%d %s", a.code, a.body)
		}
		h.do("POST", c[0], ask("short"), "idempotency-key", key).status(200)
	}
	// A joined /v1/messages is the same stream, from its first event.
	first := h.watch("POST", "/v1/messages", ask("short"), "idempotency-key", "same")
	second := h.watch("POST", "/v1/messages", ask("short"), "idempotency-key", "same")
	if a, b := first.resp.Header.Get("Sluice-Stream-Id"), second.resp.Header.Get("Sluice-Stream-Id"); a != b {
		t.Errorf("%s and %s", a, b)
	}
	events := first.rest()
	again := second.rest()
	same(t, again, events)
	numbered(t, again, 0)
}
