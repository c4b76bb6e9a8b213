package gateway_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"sluice/gateway"
	"sluice/gateway/limits"
	"sluice/gateway/simulator"
)

const overloaded = `{"type":"error","error":{"details":null,"type":"overloaded_error","message":"Overloaded"},"request_id":"req_up"}`

// TestRefusalKeepsItsStatusBodyAndHeaders looks at refusals that come before the hold is over.
func TestRefusalKeepsItsStatusBodyAndHeaders(t *testing.T) {
	t.Parallel()
	asJSON := func(status int, body string, more ...string) simulator.Script {
		s := simulator.Script{Status: status, Body: []byte(body), Header: http.Header{"Content-Type": {"application/json"}, "Request-Id": {"req_up"}, "X-Should-Retry": {"false"}}}
		for i := 0; i < len(more); i += 2 {
			s.Header.Set(more[i], more[i+1])
		}
		return s
	}
	object := func(kind string) string {
		return ` {"error":{"message":"No.","type":"` + kind + `","details":{"a":1.50}},"type":"error","request_id":"req_up"} `
	}
	for name, c := range map[string]struct {
		claude simulator.Script
		status int
		body   string // empty: ours
		kind   string
	}{
		"400":                        {asJSON(400, object("invalid_request_error")), 400, object("invalid_request_error"), ""},
		"403":                        {asJSON(403, object("permission_error")), 403, object("permission_error"), ""},
		"404":                        {asJSON(404, object("not_found_error")), 404, object("not_found_error"), ""},
		"413 of a proxy":             {asJSON(413, "too big"), 413, "", "request_too_large"},
		"429 with retry-after":       {asJSON(429, object("rate_limit_error"), "Retry-After", "7"), 429, object("rate_limit_error"), ""},
		"500":                        {asJSON(500, object("api_error")), 500, object("api_error"), ""},
		"503 in HTML":                {asJSON(503, "<html>", "Content-Type", "text/html"), 502, "", "api_error"},
		"529":                        {asJSON(529, object("overloaded_error")), 529, object("overloaded_error"), ""},
		"529 as first event":         {simulator.Script{Body: []byte("event: error\ndata: " + overloaded + "\n\n"), Header: http.Header{"Request-Id": {"req_up"}, "X-Should-Retry": {"false"}, "Retry-After": {"3"}}}, 529, overloaded, ""},
		"an unknown type at first":   {simulator.Script{Body: []byte("event: error\ndata: " + strings.Replace(overloaded, "overloaded", "new", 1) + "\n\n"), Header: http.Header{"Request-Id": {"req_up"}}}, 500, strings.Replace(overloaded, "overloaded", "new", 1), ""},
		"a first event not in shape": {simulator.Script{Body: []byte("event: error\ndata: oops\n\n"), Header: http.Header{"Request-Id": {"req_up"}}}, 500, "", "api_error"},
		"our key refused":            {asJSON(401, object("authentication_error")), 502, "", "api_error"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, path := range []string{"/v1/messages", "/v1/streams"} {
				h := openHouse(t, c.claude) // each its own: after a retry-after the next would wait
				a := h.do("POST", path, ask("short")).status(c.status)
				if c.body == "" {
					a.refused(c.status, c.kind)
				} else if a.body != c.body {
					t.Errorf("%s: the body became %s", path, a.body)
				}
				if got := a.header.Get("Request-Id"); got != "req_up" {
					t.Errorf("%s: request-id %q", path, got)
				}
				for _, name := range []string{"Retry-After", "X-Should-Retry"} {
					if got, want := a.header.Get(name), c.claude.Header.Get(name); got != want {
						t.Errorf("%s: %s is %q, want %q", path, name, got, want)
					}
				}
				if a.header.Get("Sluice-Stream-Id") != "" || a.header.Get("Location") != "" {
					t.Errorf("%s: a refused stream has a name: %v", path, a.header)
				}
				if told := strings.Contains(h.log.String(), "upstream.api_key"); told != (name == "our key refused") {
					t.Errorf("the log says that our key is refused: %v", told)
				}
				if a := h.do("GET", "/v1/streams", ""); !strings.Contains(a.body, `"data":[]`) {
					t.Errorf("refused streams are listed: %s", a.body)
				}
			}
		})
	}
}

// TestHoldEndsWithPings looks at a stream whose first event comes late: 200 and pings once the hold is over.
func TestHoldEndsWithPings(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f, func(c *gateway.Config) {
		c.Relay.Hold, c.Relay.PingInterval = 60*time.Millisecond, 30*time.Millisecond
	})
	begun := time.Now()
	answered := make(chan *reading, 1)
	go func() { answered <- h.watch("POST", "/v1/messages", ask("long")) }()
	up := f.next(t)
	r := receive(t, answered, "the end of the hold")
	if took := time.Since(begun); took < 60*time.Millisecond {
		t.Errorf("held for %s", took)
	}
	if id := r.resp.Header.Get("Request-Id"); !strings.HasPrefix(id, "req_") {
		t.Errorf("request-id %q", id)
	}
	for range 4 {
		e, err := r.block()
		if err != nil || e != (event{name: "ping", data: `{"type": "ping"}`}) {
			t.Fatalf("%+v, %v", e, err)
		}
	}
	if took := time.Since(begun); took < (60+3*30)*time.Millisecond {
		t.Errorf("four pings after %s", took)
	}
	// The upstream's own pings are not passed on, but ours go on beside them.
	up.send(ping+ping+ping, start)
	if e := r.nextBut(); e.name != "message_start" || e.id != "1" {
		t.Errorf("%+v", e)
	}
	up.finish()
	endsWith(t, r.rest(), "message_stop")
	if n := h.scrape()["sluice_pings_total"]; n < 4 {
		t.Errorf("%v pings counted", n)
	}
}

// TestRefusalAfterTheHoldIsAnErrorEvent looks at what is refused when 200 has been said.
func TestRefusalAfterTheHoldIsAnErrorEvent(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		claude simulator.Script
		kind   string
		data   string // empty: ours
	}{
		"429":           {simulator.Script{Status: 429, Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte(strings.Replace(overloaded, "overloaded", "rate_limit", 1))}, "rate_limit_error", strings.Replace(overloaded, "overloaded", "rate_limit", 1)},
		"a first event": {simulator.Script{Header: http.Header{"X-Should-Retry": {"false"}}, Body: []byte("event: error\ndata: " + overloaded + "\n\n")}, "overloaded_error", overloaded},
		"HTML":          {simulator.Script{Status: 502, Header: http.Header{"Content-Type": {"text/html"}}, Body: []byte("<html>")}, "api_error", ""},
		"our key":       {simulator.Script{Status: 401, Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte(overloaded)}, "api_error", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			release := make(chan struct{})
			h := openHouse(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				select {
				case <-release:
					c.claude.ServeHTTP(w, r)
				case <-r.Context().Done():
				}
			}), func(c *gateway.Config) { c.Relay.Hold = 30 * time.Millisecond })
			r := h.watch("POST", "/v1/messages", ask("short"))
			o := h.start(ask("short"))
			close(release)
			for _, r := range []*reading{r, h.watchURL("GET", o.EventsURL, "")} {
				events := r.rest()
				if len(events) != 1 || events[0].id != "1" || errorType(events[0]) != c.kind || c.data != "" && events[0].data != c.data {
					t.Errorf("%+v", events)
				}
			}
			if o = h.reaches(o.ID, "failed"); o.Error == nil || o.Error.Type != c.kind || string(o.Message) != "null" {
				t.Errorf("%+v", o)
			}
		})
	}
}

// TestSilentUpstreamEndsInATimeout looks at an upstream that sends nothing, before the first event and after.
func TestSilentUpstreamEndsInATimeout(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}), func(c *gateway.Config) { c.Upstream.StallTimeout = 400 * time.Millisecond })
	h.do("POST", "/v1/messages", ask("fault:slow-start=60000")).refused(504, "timeout_error")
	events := h.watch("POST", "/v1/messages", ask("fault:stall=3")).rest()
	endsWith(t, events, "timeout_error")
	if len(events) < 5 {
		t.Errorf("only %d events came before it", len(events))
	}
	if n := len(h.upstream.requests()); n != 2 {
		t.Errorf("%d requests: silence was repeated", n)
	}
}

// TestUpstreamsPingsAreLife: an upstream that only pings is alive, and readers hear ours.
func TestUpstreamsPingsAreLife(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}), func(c *gateway.Config) {
		c.Upstream.StallTimeout, c.Relay.PingInterval = 600*time.Millisecond, 50*time.Millisecond
	})
	r := h.watch("POST", "/v1/messages", ask("fault:stall-pings=20"))
	begun := time.Now()
	for pings := 0; pings < 3 || time.Since(begun) < 1300*time.Millisecond; {
		if e := r.next(); e.name == "ping" {
			pings++
		} else if e.name == "error" {
			t.Fatalf("%+v", e)
		}
	}
	r.leave()
}

func TestWholeAnswerTimesOut(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}), func(c *gateway.Config) { c.Upstream.Timeout = 100 * time.Millisecond })
	h.do("POST", "/v1/messages", request("fault:slow-start=60000")).refused(504, "timeout_error")
	h.do("POST", "/v1/messages", request("fault:stall")).refused(504, "timeout_error")
}

func TestWholeAnswerThatBreaksOffIsAnError(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}))
	h.do("POST", "/v1/messages", request("fault:cut")).refused(502, "api_error")
}

// TestStreamsAreRetriedBeforeTheFirstEventOnly counts what the upstream is asked.
func TestStreamsAreRetriedBeforeTheFirstEventOnly(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		path, prompt     string
		status, requests int
	}{
		"streams repeat a 529":                          {"/v1/streams", "short fault:529-once", 201, 2},
		"streams repeat a 429":                          {"/v1/streams", "fault:429=1", 429, 3},
		"messages leave that to SDKs":                   {"/v1/messages", "short fault:529-once", 529, 1},
		"messages repeat an overload as first event":    {"/v1/messages", "short fault:overloaded-first-once", 200, 2},
		"a wait that is longer than the hold is no use": {"/v1/streams", "fault:429=60", 429, 1},
		"what was relayed is never repeated":            {"/v1/streams", "fault:cut=1", 201, 1},
		"a refusal for good is not repeated":            {"/v1/streams", "fault:no-such-fault", 400, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := openHouse(t, simulator.New(simulator.Options{}))
			h.do("POST", c.path, ask(c.prompt)).status(c.status)
			if n := len(h.upstream.requests()); n != c.requests {
				t.Errorf("%d requests, want %d", n, c.requests)
			}
		})
	}
}

// TestLeavingDuringTheHoldStopsTheStream leaves before any answer.
func TestLeavingDuringTheHoldStopsTheStream(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f, func(c *gateway.Config) {
		c.Relay.AbandonAfter = gateway.AbandonAfter{Messages: 20 * time.Millisecond, Streams: 20 * time.Millisecond}
		c.Plans["default"] = limits.Plan{ConcurrentStreams: 1}
	})
	for _, path := range []string{"/v1/messages", "/v1/streams", "/v1/messages whole"} {
		path, whole := strings.CutSuffix(path, " whole")
		body := ask("long")
		if whole {
			body = request("long")
		}
		failed := make(chan error, 1)
		ctx, leave := context.WithCancel(t.Context())
		go func() { failed <- h.post(ctx, path, body) }()
		up := f.next(t)
		leave()
		if err := receive(t, failed, "the request's end"); err == nil {
			t.Error("there was an answer")
		}
		up.left()
		h.becomes("sluice_streams_active", 0)
		h.becomes("sluice_viewers_active", 0)
	}
}
