package gateway_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"sluice/gateway"
	"sluice/gateway/simulator"
)

// hook is a receiver of callbacks, which waits with its answer until the test gives one.
type hook struct {
	url   string
	host  string
	posts chan hookPost
}

type hookPost struct {
	header http.Header
	body   string
	answer chan int
}

func newHook(t *testing.T) *hook {
	t.Helper()
	k := &hook{posts: make(chan hookPost)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		p := hookPost{r.Header, string(body), make(chan int, 1)}
		select {
		case k.posts <- p:
		case <-r.Context().Done():
			return
		}
		select {
		case status := <-p.answer:
			w.WriteHeader(status)
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(server.Close)
	k.url, k.host = server.URL+"/"+marker, server.Listener.Addr().String()
	return k
}

// allowed lets the gateway call the hook.
func (k *hook) allowed(c *gateway.Config) { c.Callbacks.AllowHosts = []string{k.host} }

// toldEnd is what a callback says of a stream.
type toldEnd struct {
	Type      string
	Timestamp time.Time
	Data      struct {
		ID, Status string
		Usage      *struct {
			Output int `json:"output_tokens"`
		}
		Error *struct{ Type, Message string }
	}
}

// secret is what the owner of a key is shown as his.
func (h *house) secret(key string) string {
	h.t.Helper()
	var shown struct{ Secret string }
	h.do("GET", "/v1/callbacks/secret", "", "x-api-key", key).status(200).into(&shown)
	return shown.Secret
}

// verifier is the reference library, as the owner of a key sets it up.
func (h *house) verifier(key string) *standardwebhooks.Webhook {
	h.t.Helper()
	v, err := standardwebhooks.NewWebhook(h.secret(key))
	if err != nil {
		h.t.Fatal(err)
	}
	return v
}

// told takes the callback of alice's stream, which must be signed, and looks that its state is shown: pending until it is
// answered, then delivered.
func (h *house) told(k *hook, id string) (end toldEnd, o object) {
	h.t.Helper()
	p := receive(h.t, k.posts, "the callback")
	if err := h.verifier(aliceKey).Verify([]byte(p.body), p.header); err != nil {
		h.t.Errorf("%v: %v", err, p.header)
	}
	if h.verifier(bobKey).Verify([]byte(p.body), p.header) == nil {
		h.t.Error("bob's secret verifies what is alice's")
	}
	var all struct{ Data map[string]json.RawMessage }
	for _, v := range []any{&end, &all} {
		if err := json.Unmarshal([]byte(p.body), v); err != nil {
			h.t.Fatalf("%v: %s", err, p.body)
		}
	}
	if end.Data.ID != id || len(all.Data) != 4 || strings.Contains(p.body, "never told") || p.header.Get("Content-Type") != "application/json" {
		h.t.Errorf("%v %s", p.header, p.body)
	}
	o = h.get(id)
	if c := o.Callback; c == nil || c.Status != "pending" || c.ID != p.header.Get("Webhook-Id") || c.Event != end.Type || c.URL != k.url {
		h.t.Errorf("before the answer: %+v", c)
	}
	if ended, err := time.Parse(time.RFC3339Nano, *o.EndedAt); err != nil || !end.Timestamp.Truncate(time.Millisecond).Equal(ended) {
		h.t.Errorf("it ended at %s, and the callback says %v", *o.EndedAt, end.Timestamp)
	}
	p.answer <- http.StatusNoContent
	eventually(h.t, func() string { return "the callback is not delivered: " + h.do("GET", "/v1/streams/"+id, "").body }, func() bool {
		o = h.get(id)
		return o.Callback.Status == "delivered" && o.Callback.Attempts == 1
	})
	return end, o
}

func TestEndOfABackgroundStreamIsTold(t *testing.T) {
	t.Parallel()
	f, k := newFaucet(), newHook(t)
	h := openHouse(t, f, k.allowed)
	for _, route := range []string{"/v1/streams", "/v1/messages"} {
		for _, c := range []struct {
			status, failure string
			end             func(up *tap, id string)
		}{
			{"completed", "", func(up *tap, _ string) { up.finish() }},
			{"failed", "api_error", func(up *tap, _ string) { up.end() }},
			{"canceled", "canceled_error", func(up *tap, id string) {
				h.do("POST", "/v1/streams/"+id+"/cancel", "").status(200)
				up.left()
			}},
		} {
			var o object
			h.do("POST", route, request("short"), "prefer", async, "sluice-callback-url", k.url).status(202).into(&o)
			if o.Callback == nil || o.Callback.Status != "pending" || o.Callback.URL != k.url || o.Callback.Attempts != 0 || o.Callback.ID != "" {
				t.Errorf("%s: accepted with %+v", route, o.Callback)
			}
			up := f.next(t)
			up.send(start, block, delta("never told"))
			eventually(t, func() string { return "the delta does not arrive" }, func() bool { return strings.Contains(string(h.get(o.ID).Message), "never told") })
			if running := h.get(o.ID); running.Callback == nil || running.Callback.Status != "pending" {
				t.Errorf("%s: while it runs: %+v", route, running.Callback)
			}
			c.end(up, o.ID)
			end, now := h.told(k, o.ID)
			if end.Type != "stream."+c.status || end.Data.Status != c.status || now.Status != c.status || end.Data.Usage == nil || end.Data.Usage.Output == 0 {
				t.Errorf("%s: %+v", c.status, end)
			}
			if e := end.Data.Error; (e != nil) != (c.failure != "") || e != nil && (e.Type != c.failure || e.Message == "") {
				t.Errorf("%s: error %+v", c.status, e)
			}
		}
	}
	h.becomes(`sluice_callbacks_total{outcome="delivered"}`, 6)
	if o := h.queue(request("short")); o.Callback != nil {
		t.Errorf("nobody asked for %+v", o.Callback)
	}
	up := f.next(t)
	up.send(start, block)
	up.finish()
}

// TestEndOfAStreamOfThisProcessIsTold: also of a browser's, which is not in the background, and of one that nobody reads.
func TestEndOfAStreamOfThisProcessIsTold(t *testing.T) {
	t.Parallel()
	k := newHook(t)
	h := openHouse(t, simulator.New(simulator.Options{Key: upstreamKey}), k.allowed, func(c *gateway.Config) {
		c.Relay.AbandonAfter.Streams = 50 * time.Millisecond
	})
	for prompt, want := range map[string]string{
		"short": "stream.completed completed", "short fault:cut=3": "stream.failed failed", "long fault:slow=20": "stream.failed abandoned",
	} {
		o := h.start(request(prompt), "sluice-callback-url", k.url)
		if o.Callback == nil || o.Callback.Status != "pending" {
			t.Errorf("%s: %+v", prompt, o.Callback)
		}
		end, now := h.told(k, o.ID)
		if got := end.Type + " " + end.Data.Status; got != want || now.Status != end.Data.Status || (end.Data.Error == nil) != (prompt == "short") {
			t.Errorf("%s: %+v", prompt, end)
		}
	}
	// A refusal is the answer itself, and makes no stream whose end could be told.
	h.do("POST", "/v1/streams", request("fault:unknown"), "sluice-callback-url", k.url).refused(400, "invalid_request_error")
	var page callbackPage
	h.do("GET", "/v1/callbacks", "").status(200).into(&page)
	events := []string{}
	for _, c := range page.Data {
		events = append(events, c.Event)
	}
	slices.Sort(events)
	if got := strings.Join(events, " "); got != "stream.completed stream.failed stream.failed" {
		t.Errorf("callbacks: %s", got)
	}
}

func TestCallbackThatCannotBeIsRefusedBeforeAnythingRuns(t *testing.T) {
	t.Parallel()
	k := newHook(t)
	h := openHouse(t, simulator.New(simulator.Options{}), k.allowed, anybody)
	for _, url := range []string{
		"nonsense", "/hook", "ftp://example.com/", "http://example.com/", "https://example.com:8443/", "https://user:pass@example.com/", "https://example.com/#x",
		"https://127.0.0.1/", "https://10.0.0.1/", "https://169.254.169.254/latest/meta-data", "https://[::1]/", "https://[fe80::1]/", "https://[::ffff:10.0.0.1]/",
		"https://[64:ff9b::a00:1]/", "https://2130706433/", "https://0x7f000001/", "https://0177.0.0.1/", "https://127.1/", "https://localhost/", "https://a.localhost./",
		"https://" + strings.Repeat("a.", 1200) + "example/",
	} {
		for _, route := range []string{"/v1/streams", "/v1/messages"} {
			for _, prefer := range []string{"", async} {
				h.do("POST", route, request("short"), "prefer", prefer, "sluice-callback-url", url).refused(400, "invalid_request_error")
			}
		}
	}
	for _, body := range []string{request("short"), ask("short")} {
		if a := h.do("POST", "/v1/messages", body, "sluice-callback-url", k.url).refused(400, "invalid_request_error"); !strings.Contains(a.body, "respond-async") {
			t.Errorf("%s", a.body)
		}
	}
	for _, c := range [][2]string{{"/v1/streams", ""}, {"/v1/streams", async}, {"/v1/messages", async}} {
		h.do("POST", c[0], request("short"), "x-api-key", "", "prefer", c[1], "sluice-callback-url", k.url).refused(401, "authentication_error")
	}
	if n := len(h.upstream.requests()); n != 0 {
		t.Errorf("%d requests reached the upstream", n)
	}
}
