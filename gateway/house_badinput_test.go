package gateway_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"sluice/gateway"
	"sluice/gateway/simulator"
)

func TestMalformedRequestsAreRefusedBeforeTheUpstream(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1))
	const missing = "(none)"
	for name, c := range map[string]struct {
		body, contentType string
		status            int
	}{
		"no body":                {"", "application/json", 400},
		"half an object":         {`{"model":`, "application/json", 400},
		"an array":               {`[]`, "application/json", 400},
		"a string":               {`"hello"`, "application/json", 400},
		"null":                   {`null`, "application/json", 400},
		"two objects":            {`{}{}`, "application/json", 400},
		"a model that is none":   {`{"model":5,"stream":true}`, "application/json", 400},
		"stream as a word":       {`{"model":"m","stream":"true"}`, "application/json", 400},
		"stream as a number":     {`{"model":"m","stream":1}`, "application/json", 400},
		"max_tokens as a word":   {`{"model":"m","max_tokens":"5"}`, "application/json", 400},
		"max_tokens below zero":  {`{"model":"m","max_tokens":-5}`, "application/json", 400},
		"stream twice":           {`{"stream":false,"model":"m","stream":true}`, "application/json", 400},
		"a key in disguise":      {`{"model":"m","str\u0065am":true}`, "application/json", 400},
		"bytes that are no text": {"{\"model\":\"m\",\"stream\":true}\x00\xff", "application/json", 400},
		"nested too deep":        {strings.Repeat(`{"a":`, 100_000) + "1" + strings.Repeat("}", 100_000), "application/json", 400},
		"a form":                 {`{}`, "application/x-www-form-urlencoded", 415},
		"text":                   {`{}`, "text/plain", 415},
		"no content-type":        {`{}`, missing, 415},
		"a broken content-type":  {`{}`, "application/json; charset", 415},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := h.in(t)
			contentType := c.contentType
			if contentType == missing {
				contentType = ""
			}
			for _, path := range []string{"/v1/messages", "/v1/streams", "/v1/messages/count_tokens"} {
				if path == "/v1/messages/count_tokens" && c.status == 400 {
					continue // is the upstream's to judge
				}
				h.do("POST", path, c.body, "content-type", contentType).refused(c.status, "invalid_request_error")
			}
		})
	}
	t.Run("a charset is welcome", func(t *testing.T) {
		h.in(t).do("POST", "/v1/messages", ask("short"), "content-type", "application/json; charset=utf-8").status(200)
	})
	t.Cleanup(func() {
		if n := len(h.upstream.requests()); n != 1 {
			t.Errorf("%d requests reached the upstream", n)
		}
	})
}

func TestUnknownRoutesAndMethodsAreAnsweredInShape(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1))
	for _, path := range []string{"/v1", "/v1/", "/nothing", "/v1/messages/batches/", "/v1/messages/batches/b/nothing", "/v1/files", "/v1/complete", "/v1/organizations/users", "/v1/messages/", "/v1/streams/a/b", "/metrics", "/healthz", "/debug/pprof/", "/favicon.ico"} {
		h.do("GET", path, "").refused(404, "not_found_error")
		h.do("POST", path, "{}").refused(404, "not_found_error")
	}
	for _, c := range [][2]string{{"GET", "/v1/messages"}, {"PUT", "/v1/messages"}, {"DELETE", "/v1/streams"}, {"PUT", "/v1/streams/strm_1"}, {"GET", "/v1/streams/strm_1/cancel"}, {"POST", "/v1/streams/strm_1/events"}, {"POST", "/v1/models"}, {"TRACE", "/v1/models"}} {
		h.do(c[0], c[1], "").refused(405, "invalid_request_error")
	}
	if n := len(h.upstream.requests()); n != 0 {
		t.Errorf("%d requests reached the upstream", n)
	}
}

// raw sends bytes as they are and reads the answer.
func (h *house) raw(t testing.TB, request string) *answer {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	io.WriteString(conn, request)
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%.200q: %v", request, err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return &answer{t, resp.StatusCode, resp.Header, string(body)}
}

// TestUpstreamNeverLearnsWhoCalls looks at what arrives there.
func TestUpstreamNeverLearnsWhoCalls(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{Key: upstreamKey}))
	secrets := []string{
		"authorization", "Bearer " + aliceKey, "cookie", "session=callers-cookie", "origin", h.url, "referer", "https://callers-page.example/", "x-forwarded-for", "203.0.113.7", "forwarded", "for=203.0.113.7",
		"idempotency-key", "callers-idempotency-key", "proxy-authorization", "Basic Y2FsbGVy", "anthropic-dangerous-direct-browser-access", "true", "x-callers-own", "callers-header", "accept-encoding", "gzip, br",
		"anthropic-version", "2023-06-01", "anthropic-beta", "a, b", "user-agent", "callers-agent/1", "x-stainless-retry-count", "2",
	}
	h.do("POST", "/v1/messages", ask("short"), secrets...).status(200)
	h.do("POST", "/v1/messages?beta=true", request("short"), secrets...).status(200)
	h.do("POST", "/v1/streams?beta=true", request("short"), append(secrets, "idempotency-key", "callers-other-key")...).status(201)
	h.do("POST", "/v1/messages/count_tokens", request("short"), secrets...).status(200)
	h.do("GET", "/v1/models?limit=1", "", secrets...).status(200)
	allowed := map[string]string{"X-Api-Key": upstreamKey, "Anthropic-Version": "2023-06-01", "Anthropic-Beta": "a, b", "User-Agent": "callers-agent/1", "X-Stainless-Retry-Count": "2", "Accept-Encoding": "identity", "Content-Type": "application/json", "Content-Length": ""}
	seen := h.upstream.requests()
	for _, r := range seen {
		for name, values := range r.header {
			want, ok := allowed[name]
			if !ok || len(values) != 1 || want != "" && values[0] != want {
				t.Errorf("%s %s: the upstream saw %s: %q", r.method, r.uri, name, values)
			}
		}
	}
	if len(seen) != 5 || seen[2].uri != "/v1/messages?beta=true" || seen[4].uri != "/v1/models?limit=1" {
		t.Errorf("%d requests: %+v", len(seen), seen)
	}
	if body := request("short"); seen[1].body != body || seen[2].body != `{"stream":true,`+body[1:] {
		t.Errorf("bodies became %s and %s", seen[1].body, seen[2].body)
	}
}

// TestAccountsOwnHeadersStayInside looks at what comes back.
func TestAccountsOwnHeadersStayInside(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}))
	for _, c := range [][3]string{{"POST", "/v1/messages", ask("short")}, {"POST", "/v1/messages", request("short")}, {"POST", "/v1/streams", request("short")}, {"POST", "/v1/messages/count_tokens", request("short")}, {"GET", "/v1/models", ""}, {"POST", "/v1/messages", ask("fault:429=0")}, {"POST", "/v1/messages", request("fault:500")}} {
		a := h.do(c[0], c[1], c[2])
		for name := range a.header {
			if strings.HasPrefix(name, "Anthropic-") || name == "Set-Cookie" || name == "Server" {
				t.Errorf("%s %s: %s came through", c[0], c[1], name)
			}
		}
		if !strings.HasPrefix(a.header.Get("Request-Id"), "req_011C") {
			t.Errorf("%s %s: request-id %q", c[0], c[1], a.header.Get("Request-Id"))
		}
	}
}

func TestUpstreamsNonsenseIsAClearError(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}))
	for _, fault := range []string{"html", "html-200", "redirect", "empty", "401", "json-200", "giant=17000000"} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			h := h.in(t)
			if strings.HasPrefix(fault, "giant") {
				events := h.watch("POST", "/v1/messages", ask("fault:"+fault)).rest()
				endsWith(t, events, "api_error")
				if !strings.Contains(events[len(events)-1].data, "16 MB") {
					t.Errorf("ends with %s", events[len(events)-1].data)
				}
				return
			}
			a := h.do("POST", "/v1/messages", ask("fault:"+fault)).refused(502, "api_error")
			if strings.Contains(a.body, "html") || strings.Contains(a.body, "elsewhere") {
				t.Errorf("the upstream's page came through: %s", a.body)
			}
		})
	}
	for _, r := range h.upstream.requests() {
		if r.uri != "/v1/messages" {
			t.Errorf("followed to %s", r.uri)
		}
	}
	for name, claude := range map[string]http.Handler{
		"a connection that is closed at once": http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }),
		"another compression":                 simulator.Script{Body: message(1), Header: http.Header{"Content-Encoding": {"br"}}},
		"gzip that is none":                   simulator.Script{Body: []byte("\x1f\x8bnonsense"), Header: http.Header{"Content-Encoding": {"gzip"}}},
		"Bedrock's frames":                    simulator.Script{Body: []byte{0, 0, 1, 0}, Header: http.Header{"Content-Type": {"application/vnd.amazon.eventstream"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := openHouse(t, claude)
			h.do("POST", "/v1/messages", ask("short")).refused(502, "api_error")
			h.do("POST", "/v1/messages", request("short")).refused(502, "api_error")
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		t.Parallel()
		gone, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		gone.Close()
		h := openHouse(t, saying(1), func(c *gateway.Config) { c.Upstream.BaseURL = "http://" + gone.Addr().String() })
		for _, body := range []string{ask("short"), request("short")} {
			if a := h.do("POST", "/v1/messages", body).refused(502, "api_error"); strings.Contains(a.body, gone.Addr().String()) {
				t.Errorf("the upstream's address is told: %s", a.body)
			}
		}
	})
}
