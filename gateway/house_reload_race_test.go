package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"sluice/gateway"
	"sluice/gateway/limits"
)

// on is a configuration with alice and bob on a plan that no other has.
func on(plan string) func(*gateway.Config) {
	return func(c *gateway.Config) {
		c.Plans, c.Auth.DefaultPlan = map[string]limits.Plan{plan: {ConcurrentStreams: 100}}, plan
		c.Auth.Keys = []gateway.Key{{ID: "alice", Key: aliceKey, Plan: plan}, {ID: "bob", Key: bobKey, Plan: plan}}
	}
}

// TestRequestThatIsUnderWayFollowsARenamedPlan reloads between a request's header and the end of its body.
func TestRequestThatIsUnderWayFollowsARenamedPlan(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		path, prefer, body string
		status             int
	}{
		"a stream":            {"/v1/messages", "", ask("short"), 200},
		"a whole answer":      {"/v1/messages", "", request("short"), 502}, // that upstream says nothing but streams
		"a browser's stream":  {"/v1/streams", "", request("short"), 201},
		"a background stream": {"/v1/streams", async, request("short"), 202},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := openHouse(t, saying(3), on("silver"))
			conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: sluice\r\nX-Api-Key: %s\r\nPrefer: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", c.path, aliceKey, c.prefer, len(c.body), c.body[:20])
			eventually(t, func() string { return "the request does not arrive" }, func() bool { return h.scrape()["sluice_log_bytes"] > 0 })
			h.mustReload(on("gold"))
			io.WriteString(conn, c.body[20:])
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if text, err := io.ReadAll(resp.Body); resp.StatusCode != c.status || err != nil {
				t.Errorf("%d %s, %v", resp.StatusCode, text, err)
			}
			eventually(t, func() string { return "the upstream was not asked" }, func() bool { return len(h.upstream.requests()) == 1 })
		})
	}
}

// TestRequestsAndReloadsRace has callers whose plan is renamed all the time. None may be without one.
func TestRequestsAndReloadsRace(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(3), on("plan 0"))
	var calls [4]atomic.Int64
	var over atomic.Bool
	var callers sync.WaitGroup
	for i := range calls {
		key := []string{aliceKey, bobKey}[i%2]
		callers.Go(func() {
			for !over.Load() && !t.Failed() {
				if a := h.do("POST", "/v1/messages", ask("short"), "x-api-key", key); a.code != 200 {
					t.Errorf("%d %s", a.code, a.body)
				}
				calls[i].Add(1)
			}
		})
	}
	defer callers.Wait()
	defer over.Store(true)
	for n := range 20 {
		h.mustReload(on(fmt.Sprint("plan ", n+1)))
		for i := range calls { // a request meets one reload at most, as long as they are not a matter of microseconds
			before := calls[i].Load()
			eventually(t, func() string { return "a caller waits" }, func() bool { return calls[i].Load() > before || t.Failed() })
		}
	}
}
