package gateway_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
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

// TestBodiesHaveABound sends more than 32 MB: announced, in chunks, and compressed.
func TestBodiesHaveABound(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1))
	for _, path := range []string{"/v1/messages", "/v1/streams", "/v1/messages/count_tokens"} {
		for _, announced := range []bool{true, false} {
			body := io.MultiReader(strings.NewReader(`{"model":"m","stream":true,"x":"`), io.LimitReader(letters{}, 33_000_000))
			req, err := http.NewRequestWithContext(bounds(t), "POST", h.url+path, body)
			if err != nil {
				t.Fatal(err)
			}
			if announced {
				req.ContentLength = 33_000_032
			}
			req.Header.Set("X-Api-Key", aliceKey)
			req.Header.Set("Content-Type", "application/json")
			resp, err := h.client.Do(req)
			if err != nil { // it may be told while it is still sending
				if !announced {
					t.Errorf("%s in chunks: %v", path, err)
				}
				continue
			}
			text, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			(&answer{t, resp.StatusCode, resp.Header, string(text)}).refused(413, "request_too_large")
		}
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	io.WriteString(z, ask("short"))
	z.Close()
	h.do("POST", "/v1/messages", zipped.String(), "content-encoding", "gzip").refused(415, "invalid_request_error")
	if n := len(h.upstream.requests()); n != 0 {
		t.Errorf("%d requests reached the upstream", n)
	}
	h.becomes("sluice_log_bytes", 0)
}

// letters is an endless text.
type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a'
	}
	return len(p), nil
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

func TestPathTricksNeverReachTheUpstream(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1))
	for _, path := range []string{
		"/v1/models/..", "/v1/models/../files", "/v1/models/../../admin", "/v1/models/%2e%2e", "/v1/models/%2e%2e%2ffiles", "/v1/models/..%2ffiles",
		"/v1/models/a%2fb", "/v1/models/a%2Fb", "/v1/models/a%5cb", "/v1/models/%252e%252e%252ffiles", "/v1/models/a%252fb", "/v1/models/.", "/v1/models/a%00b",
		"/v1/models/a%3fbeta=true", "/v1/models/a%23b", "/v1//models", "//v1/models/a", "/v1/./models", "/v1/models//", "/v1/Models", "/v1/models;a=b", "/v1/models/a%0d%0aX-Evil:%201",
	} {
		a := h.raw(t, "GET "+path+" HTTP/1.1\r\nHost: sluice\r\nX-Api-Key: "+aliceKey+"\r\nConnection: close\r\n\r\n")
		if a.code != 404 {
			t.Errorf("%s: status %d", path, a.code)
			continue
		}
		a.refused(404, "not_found_error")
	}
	if seen := h.upstream.requests(); len(seen) != 0 {
		t.Errorf("the upstream saw %s", seen[0].uri)
	}
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

// oddUpstream answers with a request-id that no header may hold.
func oddUpstream(head string, body string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\n%s\r\n\r\n%s", head, body)
	})
}

func TestHeadersCannotBeInjected(t *testing.T) {
	t.Parallel()
	for name, id := range map[string]string{"control bytes": "req_\x01\x02\x1b[31m", "latin-1": "req_\xe9\xff", "quotes": `req_"},"x":{"`, "long": "req_" + strings.Repeat("x", 8000), "a tab": "req_\ta"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := openHouse(t, oddUpstream("Content-Type: text/event-stream\r\nRequest-Id: "+id, start)) // no end: an error with the id follows
			resp, err := h.try("POST", h.url+"/v1/messages", ask("short"))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != 200 {
				text, _ := io.ReadAll(resp.Body)
				(&answer{t, resp.StatusCode, resp.Header, string(text)}).refused(502, "api_error")
				return
			}
			for _, c := range resp.Header.Get("Request-Id") {
				if c < ' ' && c != '\t' || c == 0x7f {
					t.Errorf("request-id %q", resp.Header.Get("Request-Id"))
				}
			}
			endsWith(t, newReading(t, resp).rest(), "api_error")
		})
	}
	h := openHouse(t, saying(1))
	a := h.do("POST", "/v1/messages", ask("short"), "request-id", "callers", "x-request-id", "callers", "sluice-stream-id", "callers")
	for name, values := range a.header {
		if strings.Contains(strings.Join(values, " "), "callers") {
			t.Errorf("the caller chose %s", name)
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

// TestHalfARequestTakesNothing leaves in the middle of a body.
func TestHalfARequestTakesNothing(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1))
	for range 5 {
		conn, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", strings.TrimPrefix(h.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /v1/messages HTTP/1.1\r\nHost: sluice\r\nX-Api-Key: %s\r\nContent-Type: application/json\r\nContent-Length: 31000000\r\n\r\n%s", aliceKey, strings.Repeat(" ", 100_000))
		h.holds(t)
		conn.Close()
		h.becomes("sluice_log_bytes", 0)
	}
}

// holds waits until the house holds some memory.
func (h *house) holds(t testing.TB) {
	t.Helper()
	eventually(t, func() string { return "no memory was reserved" }, func() bool {
		n := h.scrape()["sluice_log_bytes"]
		if n > 10_000_000 {
			t.Errorf("%v bytes were reserved for what has not come", n)
		}
		return n > 0
	})
}
