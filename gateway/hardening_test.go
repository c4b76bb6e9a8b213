package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/gateway"
	"sluice/gateway/simulator"
)

// One test per attack on the way in. Beside this file: hardening_auth_test.go (who may call: guessed, forged, replayed
// and expired credentials and tickets, other sites), hardening_body_test.go, hardening_http2_test.go,
// hardening_log_test.go and hardening_slow_test.go (half requests, slow senders).

// wire sends bytes as they are and returns with which statuses they are answered, until the connection is closed.
func (h *house) wire(t testing.TB, sent string) (statuses []int) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	io.WriteString(conn, sent)
	in := bufio.NewReader(conn)
	method, _, _ := strings.Cut(sent, " ")
	for {
		resp, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			return statuses
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		statuses = append(statuses, resp.StatusCode)
		method = "GET"
	}
}

// whole is an upstream that answers everything with a message that is no stream.
var whole = simulator.Script{Body: []byte(`{"type":"message","model":"claude-sonnet-4-6","content":[]}`), Header: http.Header{"Content-Type": {"application/json"}}}

// TestNothingIsSmuggledBehindARequest sends a request whose end two parsers may see in different places, with another one
// behind it. What is not refused ends its connection, so that the one behind belongs to nobody.
func TestNothingIsSmuggledBehindARequest(t *testing.T) {
	t.Parallel()
	h := openHouse(t, whole)
	body := request("short")
	key := "X-Api-Key: " + aliceKey + "\r\n"
	post := "POST /v1/messages HTTP/1.1\r\nHost: sluice\r\nContent-Type: application/json\r\n" + key
	behind := "GET /v1/models?smuggled HTTP/1.1\r\nHost: sluice\r\nConnection: close\r\n" + key + "\r\n"
	length := fmt.Sprintf("Content-Length: %d\r\n", len(body))
	const chunked, last = "Transfer-Encoding: chunked\r\n", "0\r\n\r\n"
	chunk := fmt.Sprintf("%x\r\n%s\r\n", len(body), body)
	for name, c := range map[string]struct {
		sent   string
		status int
	}{
		"a length and chunks":               {post + "Content-Length: 5\r\n" + chunked + "\r\n" + chunk + last, 200},
		"chunks and a length":               {post + chunked + length + "\r\n" + chunk + last, 200},
		"chunks that end before the length": {post + fmt.Sprintf("Content-Length: %d\r\n", len(last+behind)) + chunked + "\r\n" + last, 400},
		"a tab before chunked":              {post + "Transfer-Encoding:\tchunked\r\n" + length + "\r\n" + chunk + last, 200},
		"chunks that say more":              {post + chunked + "\r\n" + strings.Replace(chunk, "\r\n", ";a=b\r\n", 1) + last, 200},
		"chunks with a trailer":             {post + chunked + "Trailer: X-Stainless-Evil\r\n\r\n" + chunk + "0\r\nX-Stainless-Evil: 1\r\nX-Api-Key: other\r\n\r\n", 200},
		"chunked twice":                     {post + chunked + chunked + "\r\n" + chunk + last, 501},
		"chunked, and then not":             {post + "Transfer-Encoding: chunked, identity\r\n" + length + "\r\n" + body, 501},
		"a coding that is none":             {post + "Transfer-Encoding: xchunked\r\n" + length + "\r\n" + body, 501},
		"identity":                          {post + "Transfer-Encoding: identity\r\n" + length + "\r\n" + body, 501},
		"a folded coding":                   {post + "Transfer-Encoding:\r\n chunked\r\n" + length + "\r\n" + body, 400},
		"a control byte before chunked":     {post + "Transfer-Encoding: \x0bchunked\r\n" + length + "\r\n" + body, 400},
		"a space before the colon":          {post + "Transfer-Encoding : chunked\r\n" + length + "\r\n" + body, 400},
		"a length with a space before":      {post + strings.Replace(length, ":", " :", 1) + "\r\n" + body, 400},
		"two lengths":                       {post + length + "Content-Length: 5\r\n\r\n" + body, 400},
		"a list of lengths":                 {post + strings.Replace(length, ": ", ": 5, ", 1) + "\r\n" + body, 400},
		"a length with a sign":              {post + strings.Replace(length, ": ", ": +", 1) + "\r\n" + body, 400},
		"a length below zero":               {post + "Content-Length: -1\r\n\r\n" + body, 400},
		"a length in hex":                   {post + "Content-Length: 0x10\r\n\r\n" + body, 400},
		"a length that is empty":            {post + "Content-Length:\r\n\r\n" + body, 400},
		"a chunk that ends in a line feed":  {post + chunked + "\r\n" + strings.Replace(chunk, "\r\n", "\n", 1) + last, 400},
		"a line feed in what a chunk says":  {post + chunked + "\r\n" + strings.Replace(chunk, "\r\n", ";a\nb\r\n", 1) + last, 400},
		"a chunk's size as in C":            {post + chunked + "\r\n0x" + chunk + last, 400},
		"a chunk's size below zero":         {post + chunked + "\r\n-" + chunk + last, 400},
		"a chunk's size beyond 64 bits":     {post + chunked + "\r\nfffffffffffffffff\r\n" + body, 400},
		"a space before a chunk's size":     {post + chunked + "\r\n " + chunk + last, 400},
		"a chunk longer than its size":      {post + chunked + "\r\n" + strings.TrimSuffix(chunk, "\r\n") + "XX" + last, 400},
		"a body without length":             {post + "\r\n" + body, 400},
		"chunks in HTTP/1.0":                {strings.Replace(post, "HTTP/1.1", "HTTP/1.0", 1) + "Connection: keep-alive\r\n" + chunked + length + "\r\n" + chunk + last, 400},
	} {
		before := len(h.upstream.requests())
		statuses := h.wire(t, c.sent+behind)
		if len(statuses) == 0 || statuses[0] != c.status || c.status == 200 && len(statuses) > 1 {
			t.Errorf("%s: answered with %d, want %d", name, statuses, c.status)
		}
		for _, r := range h.upstream.requests()[before:] {
			if r.uri != "/v1/messages" || r.body != body || r.header.Get("X-Stainless-Evil") != "" || r.header.Get("Transfer-Encoding") != "" {
				t.Errorf("%s: the upstream saw %s %s %v %q", name, r.method, r.uri, r.header, r.body)
			}
		}
		if n := len(h.upstream.requests()) - before; n > 1 || n == 1 && c.status != 200 {
			t.Errorf("%s: %d requests reached the upstream", name, n)
		}
	}
	// What has but one end is no attack: the connection goes on.
	if statuses := h.wire(t, post+length+length+"\r\n"+body+behind); !slices.Equal(statuses, []int{200, 200}) {
		t.Errorf("one request after the other: %d", statuses)
	}
	if n := len(h.upstream.requests()); n < 2 || h.upstream.requests()[n-1].uri != "/v1/models?smuggled" {
		t.Error("a request behind another is never seen, so this test proves nothing")
	}
}

// TestNothingIsSmuggledToTheUpstream looks at the bytes that arrive there: requests that were meant, one after the other.
func TestNothingIsSmuggledToTheUpstream(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	arrived := make(chan *http.Request, 100)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for in := bufio.NewReader(conn); ; {
					r, err := http.ReadRequest(in)
					if err != nil {
						if err != io.EOF {
							t.Errorf("not a request: %v", err)
						}
						return
					}
					body, _ := io.ReadAll(r.Body)
					if r.Body = io.NopCloser(strings.NewReader(string(body))); in.Buffered() > 0 {
						t.Errorf("%d bytes are behind the end of %s %s", in.Buffered(), r.Method, r.RequestURI)
					}
					arrived <- r
					fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(whole.Body), whole.Body)
				}
			}()
		}
	}()
	h := openHouse(t, whole, func(c *gateway.Config) {
		c.Upstream.BaseURL, c.Upstream.ForwardPaths = "http://"+listener.Addr().String(), []string{"/v1/files"}
	})
	inside := "\r\n\r\nGET /v1/smuggled HTTP/1.1\r\nHost: evil\r\n\r\n"
	head := "HTTP/1.1\r\nHost: sluice\r\nConnection: close, x-api-key, content-length\r\nContent-Type: application/json\r\nX-Api-Key: " + aliceKey + "\r\n"
	framed := func(body string) string { return fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body) }
	for i, c := range []struct{ sent, method, uri, body string }{
		{"POST /v1/messages " + head + framed(request("short")+inside[:4]), "POST", "/v1/messages", request("short") + inside[:4]},
		{"POST /v1/files " + head + framed(inside), "POST", "/v1/files", inside},
		{"POST /v1/files " + head + fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(inside), inside), "POST", "/v1/files", inside},
		{"DELETE /v1/files/f " + head + framed(inside), "DELETE", "/v1/files/f", inside},
		{"GET /v1/models " + head + framed(inside), "GET", "/v1/models", ""},
		{"HEAD /v1/models " + head + framed(inside), "GET", "/v1/models", ""},
		{"POST /v1/files " + head + "Expect: 100-continue\r\n" + framed(inside), "POST", "/v1/files", inside},
	} {
		h.wire(t, c.sent)
		r := receive(t, arrived, "the request at the upstream")
		body, _ := io.ReadAll(r.Body)
		if r.Method != c.method || r.RequestURI != c.uri || string(body) != c.body || len(r.TransferEncoding) > 0 || r.Header.Get("X-Api-Key") != upstreamKey {
			t.Errorf("request %d arrived as %s %s %v %q", i, r.Method, r.RequestURI, r.Header, body)
		}
	}
	if len(arrived) != 0 {
		t.Errorf("%d more requests arrived", len(arrived))
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

// TestUpstreamsHeadersCannotBreakAnswers has the upstream send a request-id that no header may hold.
func TestUpstreamsHeadersCannotBreakAnswers(t *testing.T) {
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
}

// TestHeadersCannotBeInjected puts line breaks into all that a caller writes and the gateway writes on.
func TestHeadersCannotBeInjected(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1), allowing(app))
	body := ask("short")
	post := func(name, value string) *answer {
		return h.raw(t, fmt.Sprintf("POST /v1/messages HTTP/1.1\r\nHost: sluice\r\nConnection: close\r\nX-Api-Key: %s\r\nContent-Type: application/json\r\n%s: %s\r\nContent-Length: %d\r\n\r\n%s", aliceKey, name, value, len(body), body))
	}
	for _, name := range []string{"Anthropic-Version", "Anthropic-Beta", "User-Agent", "X-Stainless-Lang", "Idempotency-Key", "Content-Language", "Origin", "Access-Control-Request-Headers", "X-Forwarded-Proto", "Request-Id"} {
		for _, evil := range []string{"a\rX-Evil: 1", "a\x00X-Evil: 1", "a\x0bX-Evil: 1", "a\x7fb", "a\r\n\r\nHTTP/1.1 200 OK"} {
			if a := post(name, evil); a.code != 400 {
				t.Errorf("%s: %q: %d %v", name, evil, a.code, a.header)
			}
		}
	}
	if n := len(h.upstream.requests()); n != 0 {
		t.Errorf("%d requests reached the upstream", n)
	}
	// A folded line is one line (RFC 9112 §5.2).
	if a := post("Anthropic-Beta", "a,\r\n\tX-Evil: 1").status(200); a.header.Get("X-Evil") != "" {
		t.Errorf("%v", a.header)
	}
	if up := h.upstream.requests()[0].header; up.Get("Anthropic-Beta") != "a, X-Evil: 1" || up.Get("X-Evil") != "" {
		t.Errorf("the upstream saw %v", up)
	}
	for _, evil := range []string{"%0d%0aX-Evil:%201", "%0aX-Evil:%201", "%00", "%1b%5b31m", "%e2%80%a8"} {
		for _, path := range []string{"/v1/streams/strm_" + evil, "/v1/streams/strm_" + evil + "/events", "/v1/streams/x/events?ticket=" + evil, "/v1/streams?after_id=" + evil, "/v1/streams?limit=" + evil, "/" + evil} {
			a := h.do("GET", path, "", "origin", app)
			if a.code < 400 || a.header.Get("X-Evil") != "" || strings.ContainsAny(a.body, "\r\n\x00\x1b") || strings.Contains(a.body, "Evil") {
				t.Errorf("%s: %d %v %q", path, a.code, a.header, a.body)
			}
		}
	}
	o := h.start(request("short"))
	events := h.watchURL("GET", o.EventsURL+"&last_event_id="+"9%0d%0a%0d%0aevent:%20evil", "", "x-api-key", "").rest() // which reads the events strictly
	if events[0].name != "resync" || strings.Contains(events[0].data, "evil") {
		t.Errorf("a cursor came through: %+v", events[0])
	}
	if n := len(h.upstream.requests()); n != 2 {
		t.Errorf("%d requests reached the upstream", n)
	}
}

func TestCallersChooseNoHeaderOfAnswers(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1))
	a := h.do("POST", "/v1/messages", ask("short"), "request-id", "callers", "x-request-id", "callers", "sluice-stream-id", "callers")
	for name, values := range a.header {
		if strings.Contains(strings.Join(values, " "), "callers") {
			t.Errorf("the caller chose %s", name)
		}
	}
}

// TestPathTricksNeverReachTheUpstream has spellings of a path that may name one thing here and another there. Those below
// a forwarded path are in TestForwardedPathsAreTheListedOnes.
func TestPathTricksNeverReachTheUpstream(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1))
	for _, path := range []string{
		"/v1/models/..", "/v1/models/../files", "/v1/models/../../admin", "/v1/models/%2e%2e", "/v1/models/%2e%2e%2ffiles", "/v1/models/..%2ffiles",
		"/v1/models/a%2fb", "/v1/models/a%2Fb", "/v1/models/a%5cb", "/v1/models/%252e%252e%252ffiles", "/v1/models/a%252fb", "/v1/models/.", "/v1/models/a%00b",
		"/v1/models/a%3fbeta=true", "/v1/models/a%23b", "/v1//models", "//v1/models/a", "/v1/./models", "/v1/models//", "/v1/Models", "/v1/models;a=b", "/v1/models/a%0d%0aX-Evil:%201",
		`/v1\models`, `/v1/models\..\files`, "/v1/models/..;/files", "/V1/MODELS", "/v1/%6dodels", "/v1%2fmodels", "/v1/models/%c0%ae%c0%ae/files",
		"/v1/messages/batches/..", "/v1/messages/batches/../../files", "/v1/messages/batches/%2e%2e/results", "/v1/messages/batches/a%2f..%2fb/results", "/v1/messages/batches/a%3fb/events",
		"http://sluice/v1/models/../files", "http://sluice//v1/models", "http://sluice/v1/models/%2e%2e/files",
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
