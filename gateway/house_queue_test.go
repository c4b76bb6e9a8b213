package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go/option"

	"sluice/gateway"
	"sluice/gateway/simulator"
)

const queueDepth = "sluice_upstream_queue_depth"

// places lets so many requests be at the upstream at once; the others wait as long as a test does.
func places(n int) func(*gateway.Config) {
	return func(c *gateway.Config) {
		c.Upstream.MaxConcurrent, c.Upstream.QueueWait, c.Relay.Hold = n, patience, 2*patience
	}
}

// begin sends a request that joins the queue, and returns when so many are in it. The answer is nil if the client left.
func (h *house) begin(ctx context.Context, depth int, path, body string, headers ...string) <-chan *answer {
	h.t.Helper()
	done := make(chan *answer, 1)
	go func() {
		var a *answer
		defer func() { done <- a }()
		resp, err := h.tryWith(ctx, "POST", h.url+path, body, headers...)
		if err != nil {
			return
		}
		defer resp.Body.Close()
		if text, err := io.ReadAll(resp.Body); err == nil {
			a = &answer{h.t, resp.StatusCode, resp.Header, string(text)}
		}
	}()
	h.becomes(queueDepth, float64(depth))
	return done
}

// working is an upstream that counts for how many it works.
type working struct {
	mu              sync.Mutex
	now, most, seen int
}

func (u *working) begin() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.now++
	u.seen++
	u.most = max(u.most, u.now)
}

func (u *working) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.now--
}

func (u *working) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.begin()
	body, _ := io.ReadAll(r.Body)
	if !strings.Contains(string(body), `"stream"`) {
		u.end() // with the answer, its work is done
		simulator.Script{Body: []byte(`{"type":"message","model":"claude-sonnet-4-6"}`), Header: http.Header{"Content-Type": {"application/json"}}}.ServeHTTP(w, r)
		return
	}
	text := message(5)
	last := len(text) - len(tail[2])
	simulator.Script{Body: text, Chunks: simulator.SplitAt(500, last), Gap: time.Millisecond, Between: func(_ context.Context, chunk int) {
		if chunk == 2 {
			u.end() // with message_stop, too
		}
	}}.ServeHTTP(w, r)
}

func TestNeverMoreThanMaxConcurrentAreAtTheUpstream(t *testing.T) {
	t.Parallel()
	claude := &working{}
	h := openHouse(t, claude, places(4))
	var callers sync.WaitGroup
	for i := range 64 {
		callers.Go(func() {
			key := [2]string{aliceKey, bobKey}[i%2]
			switch i % 3 {
			case 0:
				h.do("POST", "/v1/streams", request("short"), "x-api-key", key).status(201)
			case 1:
				endsWith(t, h.watch("POST", "/v1/messages", ask("short"), "x-api-key", key).rest(), "message_stop")
			case 2:
				h.do("POST", "/v1/messages", request("short"), "x-api-key", key).status(200)
			}
		})
	}
	callers.Wait()
	h.becomes(`sluice_streams_total{model="claude-sonnet-4-6",outcome="completed"}`, 43)
	if claude.seen != 64 || claude.most != 4 || claude.now != 0 {
		t.Errorf("%d requests, at most %d at once, %d now", claude.seen, claude.most, claude.now)
	}
	h.counted(map[string]float64{queueDepth: 0, "sluice_upstream_queue_wait_seconds_count": 64})
}

func TestOwnersTakeTurnsAtTheUpstream(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f, places(1))
	w := h.watching(t, f)
	var answers []<-chan *answer
	for i, name := range []string{"alice 1", "alice 2", "alice 3", "alice 4", "bob 1", "alice 5", "bob 2"} {
		key := aliceKey
		if strings.HasPrefix(name, "bob") {
			key = bobKey
		}
		answers = append(answers, h.begin(t.Context(), i+1, "/v1/messages", ask("short"), "x-api-key", key, "user-agent", name))
	}
	w.up.finish()
	for range answers {
		up := f.next(t)
		up.send(start)
		up.finish()
	}
	for _, a := range answers {
		receive(t, a, "an answer").status(200)
	}
	var order []string
	for _, r := range h.upstream.requests()[1:] {
		order = append(order, r.header.Get("User-Agent"))
	}
	if got, want := strings.Join(order, ", "), "alice 1, bob 1, alice 2, bob 2, alice 3, alice 4, alice 5"; got != want {
		t.Errorf("served: %s\nwant:   %s", got, want)
	}
}

func TestWhoWaitsForThePlaceInVainGetsA529(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f, func(c *gateway.Config) { c.Upstream.MaxConcurrent, c.Upstream.QueueWait = 1, 50*time.Millisecond })
	w := h.watching(t, f)
	for _, c := range [][2]string{{"/v1/messages", ask("short")}, {"/v1/messages", request("short")}, {"/v1/streams", request("short")}} {
		begun := time.Now()
		a := h.do("POST", c[0], c[1], "x-api-key", bobKey, "idempotency-key", "k").refused(529, "overloaded_error")
		if took := time.Since(begun); took < 50*time.Millisecond || a.header.Get("Retry-After") != "5" || a.header.Get("X-Should-Retry") != "" {
			t.Errorf("%s after %s: %v", c[0], took, a.header)
		}
	}
	_, err := streamWhole(t, h.sdk(bobKey), prompt("short"), option.WithMaxRetries(0))
	isTyped(t, err, 529, "overloaded_error")
	h.counted(map[string]float64{`sluice_rate_limited_total{limit="queue"}`: 4, queueDepth: 0, "sluice_upstream_queue_wait_seconds_count": 1})
	if a := h.do("GET", "/v1/streams", "", "x-api-key", bobKey); !strings.Contains(a.body, `"data":[]`) {
		t.Errorf("refused streams are listed: %s", a.body)
	}
	// What makes nothing generate needs no place.
	counted := make(chan *answer, 1)
	go func() { counted <- h.do("POST", "/v1/messages/count_tokens", request("short")) }()
	up := f.next(t)
	up.send(`{"input_tokens":9}`)
	up.end()
	receive(t, counted, "the count").status(200)
	w.up.finish()
	endsWith(t, w.r.rest(), "message_stop")
}

func TestClientThatLeavesTheQueueFreesItsPlace(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f, places(1))
	w := h.watching(t, f)
	for _, c := range [][2]string{{"/v1/messages", ask("short")}, {"/v1/messages", request("short")}, {"/v1/streams", request("short")}} {
		ctx, leave := context.WithCancel(t.Context())
		done := h.begin(ctx, 1, c[0], c[1], "idempotency-key", "k")
		leave()
		receive(t, done, "the request's end")
		h.becomes(queueDepth, 0) // long before it would be abandoned
		h.becomes("sluice_streams_active", 1)
	}
	// Who joined a stream keeps it when the first leaves.
	ctx, leave := context.WithCancel(t.Context())
	first := h.begin(ctx, 1, "/v1/messages", ask("short"), "idempotency-key", "k")
	second := h.begin(t.Context(), 1, "/v1/messages", ask("short"), "idempotency-key", "k")
	h.becomes("sluice_viewers_active", 3)
	leave()
	receive(t, first, "the request's end")
	h.becomes("sluice_viewers_active", 2)
	w.up.finish()
	up := f.next(t)
	up.send(start)
	up.finish()
	receive(t, second, "an answer").status(200)
	if n := len(h.upstream.requests()); n != 2 {
		t.Errorf("%d requests reached the upstream", n)
	}
}

func TestNoPlaceIsLostWhenCallersLeave(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	claude := &working{}
	var asFaucet sync.Map // by user-agent
	h := openHouse(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := asFaucet.Load(r.Header.Get("User-Agent")); ok {
			f.ServeHTTP(w, r)
		} else {
			claude.ServeHTTP(w, r)
		}
	}), places(3), func(c *gateway.Config) { c.Relay.AbandonAfter = gateway.AbandonAfter{} })
	var callers sync.WaitGroup
	for i := range 64 {
		callers.Go(func() {
			ctx, leave := context.WithTimeout(t.Context(), time.Duration(i)*time.Millisecond)
			defer leave()
			c := [][2]string{{"/v1/messages", ask("short")}, {"/v1/messages", request("short")}, {"/v1/streams", request("short")}}[i%3]
			h.post(ctx, c[0], c[1])
		})
	}
	callers.Wait()
	h.becomes(queueDepth, 0)
	h.becomes("sluice_streams_active", 0)
	asFaucet.Store("after", true)
	for range 3 { // all places are there
		go h.do("POST", "/v1/messages", ask("short"), "user-agent", "after")
	}
	var open []*tap
	for range 3 {
		open = append(open, f.next(t))
	}
	fourth := h.begin(t.Context(), 1, "/v1/messages", ask("short"), "user-agent", "after") // and not one more
	for range 4 {
		if len(open) == 0 {
			open = append(open, f.next(t))
		}
		open[0].send(start)
		open[0].finish()
		open = open[1:]
	}
	receive(t, fourth, "an answer").status(200)
	h.becomes("sluice_streams_active", 0)
	h.client.CloseIdleConnections() // for one that was never used, net/http's shutdown waits five seconds
}

func TestPauseThatTheUpstreamAsksForHoldsForAll(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}), func(c *gateway.Config) { c.Upstream.QueueWait = 1500 * time.Millisecond })
	h.do("POST", "/v1/messages", ask("fault:429=1")).refused(429, "rate_limit_error")
	begun := time.Now()
	// What can wait so long does, whoever asks.
	waiting := h.begin(t.Context(), 1, "/v1/messages", ask("short"), "x-api-key", bobKey)
	h.do("POST", "/v1/messages/count_tokens", request("short")).status(200)
	h.do("GET", "/v1/models", "").status(200)
	receive(t, waiting, "an answer").status(200)
	if took := time.Since(begun); took < 900*time.Millisecond {
		t.Errorf("answered after %s", took)
	}
	// What can't is told at once when to come back.
	h.becomes(queueDepth, 0)
	eventually(t, func() string { return "the gate does not open" }, func() bool {
		return h.do("POST", "/v1/messages", request("fault:429=40")).code == 429
	})
	begun = time.Now()
	for _, c := range [][2]string{{"/v1/messages", ask("short")}, {"/v1/messages", request("short")}, {"/v1/streams", request("short")}} {
		a := h.do("POST", c[0], c[1], "x-api-key", bobKey).refused(529, "overloaded_error")
		if seconds, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || seconds < 35 || seconds > 40 {
			t.Errorf("%s: retry-after %q", c[0], a.header.Get("Retry-After"))
		}
	}
	if took := time.Since(begun); took > time.Second {
		t.Errorf("told after %s", took)
	}
	h.counted(map[string]float64{`sluice_rate_limited_total{limit="gate"}`: 3, `sluice_upstream_requests_total{code="429"}`: 2})
	if n := strings.Count(h.log.String(), "asks for a pause"); n != 2 {
		t.Errorf("%d lines in the log for two pauses", n)
	}
}

func TestDrainServesTheQueueAndThenRefusesIt(t *testing.T) {
	t.Parallel()
	for _, enough := range []bool{true, false} {
		t.Run(fmt.Sprint("there is time: ", enough), func(t *testing.T) {
			t.Parallel()
			f := newFaucet()
			h := openHouse(t, f, places(1), func(c *gateway.Config) {
				if c.Server.Drain = patience; !enough {
					c.Server.Drain = 100 * time.Millisecond
				}
			})
			w := h.watching(t, f)
			streamed := h.begin(t.Context(), 1, "/v1/messages", ask("short"))
			whole := h.begin(t.Context(), 2, "/v1/messages", request("short"), "x-api-key", bobKey)
			h.stop()
			if enough {
				w.up.finish()
				up := f.next(t)
				up.send(start)
				up.finish()
				h.becomes("sluice_streams_active", 0) // which is all that the relay waits for
				up = f.next(t)
				up.send(`{"type":"message","model":"claude-sonnet-4-6","content":[]}`)
				up.end()
				receive(t, whole, "the whole answer").status(200)
				if a := receive(t, streamed, "the stream").status(200); !strings.Contains(a.body, "message_stop") {
					t.Errorf("it ends with %q", a.body)
				}
			} else {
				receive(t, streamed, "a refusal").refused(529, "overloaded_error")
				receive(t, whole, "a refusal").refused(529, "overloaded_error")
			}
			w.r.rest()
			h.waitStopped()
		})
	}
}
