package gateway_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"sluice/gateway"
	"sluice/gateway/simulator"
)

// What the gateway shows of itself, and where it can be made to go.

// trap is an address that nobody may be led to.
func trap(t testing.TB) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	visits := make(chan string, 1)
	go func() {
		defer close(visits)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			select {
			case visits <- conn.RemoteAddr().String():
			default:
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		for range visits {
			t.Error("a caller has led the gateway to an address of its own")
		}
	})
	return l.Addr().String()
}

// TestNoCallerChoosesWhereRequestsGo names an address in everything that a caller writes.
func TestNoCallerChoosesWhereRequestsGo(t *testing.T) {
	t.Parallel()
	evil := trap(t)
	hosts := make(chan string, 100)
	h := openHouse(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hosts <- r.Host
		simulator.New(simulator.Options{}).ServeHTTP(w, r)
	}), func(c *gateway.Config) { c.Upstream.ForwardPaths = []string{"/v1/files"} })
	own := strings.TrimPrefix(h.upstream.server.URL, "http://")
	key := "X-Api-Key: " + aliceKey + "\r\nConnection: close\r\n"
	for _, sent := range []string{
		"GET /v1/models HTTP/1.1\r\nHost: " + evil + "\r\n",
		"GET http://" + evil + "/v1/models HTTP/1.1\r\nHost: sluice\r\n",
		"GET http://x:y@" + evil + "/v1/models HTTP/1.1\r\nHost: sluice\r\n",
		"GET https://" + evil + "/v1/models HTTP/1.1\r\nHost: " + evil + "\r\n",
		"GET ftp://" + evil + "/v1/models HTTP/1.1\r\nHost: sluice\r\n",
		"GET http://" + evil + "/v1/files/f HTTP/1.1\r\nHost: sluice\r\n",
		"GET /v1/files/http://" + evil + "/ HTTP/1.1\r\nHost: sluice\r\n",
		"GET /v1/files/@" + evil + " HTTP/1.1\r\nHost: sluice\r\n",
		"GET /v1/models/@" + evil + " HTTP/1.1\r\nHost: sluice\r\n",
		"GET /v1/models?base_url=http://" + evil + "&@" + evil + " HTTP/1.1\r\nHost: sluice\r\n",
		"GET //" + evil + "/v1/models HTTP/1.1\r\nHost: sluice\r\n",
		"GET @" + evil + "/v1/models HTTP/1.1\r\nHost: sluice\r\n",
		"CONNECT " + evil + " HTTP/1.1\r\nHost: " + evil + "\r\n",
	} {
		h.wire(t, sent+key+"\r\n")
	}
	for _, header := range []string{"x-forwarded-host", "x-forwarded-server", "x-original-url", "x-rewrite-url", "x-http-host-override", "forwarded", "via", "referer", "origin", "proxy", "anthropic-base-url", "x-stainless-base-url"} {
		h.do("GET", "/v1/models", "", header, "http://"+evil+"/").status(200)
	}
	h.do("POST", "/v1/messages", request("short", `"metadata":{"user_id":"http://`+evil+`/"}`, `"base_url":"http://`+evil+`/"`)).status(200)
	h.do("POST", "/v1/messages", `{"model":"claude-sonnet-4-6","max_tokens":9,"messages":[{"role":"user","content":[{"type":"image","source":{"type":"url","url":"http://`+evil+`/"}},{"type":"text","text":"short"}]}],"mcp_servers":[{"type":"url","url":"http://`+evil+`/","name":"x"}]}`).status(200)
	for _, path := range []string{"/v1/messages", "/v1/streams"} {
		for _, prefer := range []string{"", async} {
			h.do("POST", path, ask("short"), "prefer", prefer, "sluice-callback-url", "http://"+evil+"/").refused(400, "invalid_request_error")
			h.do("POST", path, ask("short"), "prefer", prefer, "sluice-callback-url", "https://"+evil+"/").refused(400, "invalid_request_error")
		}
	}
	if len(hosts) < 15 {
		t.Errorf("only %d requests reached the upstream", len(hosts))
	}
	for len(hosts) > 0 {
		if host := <-hosts; host != own {
			t.Errorf("the upstream was called %q", host)
		}
	}
}

func TestHostIsOneAndNamesOnlyItsSendersURLs(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1))
	for _, host := range []string{"a b", "a/b", "a?b", "a#b", "u@a", "a,b", `a"b`, "a<b>", "a;b", "a'b", "a\\b", "a:b", "a:1:2", "[::1", "::1", "[a]x", ":80", "a%0d%0ab", "a%20b", "b\xfccher.example", "", "{a}", "$a", "a|b"} {
		statuses := h.wire(t, "GET /v1/models HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\nX-Api-Key: "+aliceKey+"\r\n\r\n")
		if !slices.Equal(statuses, []int{400}) {
			t.Errorf("Host %q is answered with %d", host, statuses)
		}
	}
	if n := len(h.upstream.requests()); n != 0 {
		t.Fatalf("%d requests reached the upstream", n)
	}
	mine := h.start(request("short"), "x-forwarded-host", "evil.example", "x-forwarded-proto", "https", "forwarded", "host=evil.example", "x-host", "evil.example")
	if !strings.HasPrefix(mine.EventsURL, h.url+"/v1/streams/") {
		t.Errorf("events_url %q", mine.EventsURL)
	}
	body := request("short")
	for _, host := range []string{"evil.example", "EVIL.example:8080", "127.0.0.1:1", "[::1]:80", "my_service", "xn--bcher-kva.example"} {
		a := h.raw(t, fmt.Sprintf("POST /v1/streams HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Type: application/json\r\nX-Api-Key: %s\r\nContent-Length: %d\r\n\r\n%s", host, aliceKey, len(body), body)).status(201)
		var o object
		if a.into(&o); !strings.HasPrefix(o.EventsURL, "http://"+host+"/v1/streams/") || !strings.HasPrefix(a.header.Get("Location"), "http://"+host+"/v1/streams/") {
			t.Errorf("Host %s: %s, %s", host, o.EventsURL, a.header.Get("Location"))
		}
		if a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("Host %s: may be kept for others: %v", host, a.header)
		}
	}
	if o := h.get(mine.ID); !strings.HasPrefix(o.EventsURL, h.url+"/v1/streams/") {
		t.Errorf("another caller's Host is in events_url %q", o.EventsURL)
	}
	a := h.raw(t, fmt.Sprintf("POST /v1/streams HTTP/1.0\r\nContent-Type: application/json\r\nX-Api-Key: %s\r\nContent-Length: %d\r\n\r\n%s", aliceKey, len(body), body)).status(201)
	var o object
	if a.into(&o); !strings.HasPrefix(o.EventsURL, h.url+"/v1/streams/") {
		t.Errorf("without a Host: %s", o.EventsURL)
	}

	public := openHouse(t, saying(1), func(c *gateway.Config) { c.Server.PublicURL = "https://sluice.example" })
	a = public.raw(t, fmt.Sprintf("POST /v1/streams HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\nContent-Type: application/json\r\nX-Api-Key: %s\r\nContent-Length: %d\r\n\r\n%s", aliceKey, len(body), body)).status(201)
	if strings.Contains(a.body+a.header.Get("Location"), "evil") {
		t.Errorf("the Host of a request is in %s", a.body)
	}
}

func TestOddMethodsDoNothing(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1), func(c *gateway.Config) { c.Upstream.ForwardPaths = []string{"/v1/files"} })
	for _, c := range []struct {
		line   string
		status int
	}{
		{"TRACE /v1/models", 405}, {"TRACE /", 405}, {"TRACE /v1/files", 405}, {"CONNECT evil.example:443", 404}, {"CONNECT /v1/models", 405}, {"CONNECT /v1/files", 405}, {"OPTIONS *", 404}, {"PRI *", 404},
		{"get /v1/models", 405}, {"G=T /v1/models", 400}, {"PROPFIND /v1/models", 405}, {"DEBUG /v1/messages", 405}, {"PUT /v1/messages", 405}, {"PATCH /v1/streams/strm_x", 405}, {"TRACK /v1/messages", 405},
		{"X-HTTP-METHOD /v1/files", 405}, {"PURGE /v1/files", 405}, {"OPTIONS /v1/models", 204}, {"OPTIONS /v1/messages", 204},
	} {
		a := h.raw(t, c.line+" HTTP/1.1\r\nHost: evil.example:443\r\nX-Secret: echo-me\r\nX-Http-Method-Override: DELETE\r\nConnection: close\r\nX-Api-Key: "+aliceKey+"\r\n\r\n")
		if a.code != c.status || strings.Contains(a.body, "echo-me") {
			t.Errorf("%s: %d %s", c.line, a.code, a.body)
		}
	}
	if n := len(h.upstream.requests()); n != 0 {
		t.Errorf("%d requests reached the upstream: %+v", n, h.upstream.requests()[0])
	}
	a := h.raw(t, "TRACE /v1/models HTTP/1.1\r\nHost: sluice\r\nConnection: close\r\n\r\n")
	a.refused(405, "invalid_request_error")
}

func TestNoConnectionIsHandedToAnotherProtocol(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1))
	o := h.start(request("short"))
	for _, upgrade := range []string{
		"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\nSec-WebSocket-Version: 13\r\n",
		"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
		"Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n",
	} {
		for path, want := range map[string]int{"/v1/streams": 200, strings.TrimPrefix(o.EventsURL, h.url): 200, "/v1/streams/" + o.ID: 200, "/nothing": 404} {
			a := h.raw(t, "GET "+path+" HTTP/1.1\r\nHost: sluice\r\nX-Api-Key: "+aliceKey+"\r\n"+strings.Replace(upgrade, "Connection: ", "Connection: close, ", 1)+"\r\n")
			if a.code != want || a.header.Get("Upgrade") != "" {
				t.Errorf("%s: %q: %d %v", path, upgrade, a.code, a.header)
			}
		}
	}
}

// TestEveryAnswerSaysHowBrowsersShouldTakeIt looks at one answer of each kind.
func TestEveryAnswerSaysHowBrowsersShouldTakeIt(t *testing.T) {
	t.Parallel()
	h := openHouse(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/files/page" {
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, "<script>alert(document.cookie)</script>")
			return
		}
		simulator.New(simulator.Options{}).ServeHTTP(w, r)
	}), func(c *gateway.Config) { c.Upstream.ForwardPaths = []string{"/v1/files"} })
	o := h.start(request("short"))
	h.reaches(o.ID, "completed")
	for _, c := range []struct {
		method, path, body string
		headers            []string
		status             int
	}{
		{"GET", "/", "", nil, 200}, {"GET", "/client.js", "", nil, 200}, {"GET", "/page.css", "", nil, 200}, {"HEAD", "/page.js", "", nil, 200},
		{"POST", "/v1/messages", request("short"), nil, 200}, {"POST", "/v1/messages", ask("short"), nil, 200}, {"POST", "/v1/messages/count_tokens", request("short"), nil, 200}, {"GET", "/v1/models", "", nil, 200},
		{"GET", "/v1/streams", "", nil, 200}, {"HEAD", "/v1/streams/" + o.ID, "", nil, 200}, {"GET", "/v1/streams/" + o.ID, "", nil, 200}, {"GET", "/v1/streams/" + o.ID + "/events", "", nil, 200}, {"GET", "/v1/streams/" + o.ID + "/events", "", []string{"last-event-id", "999"}, 200},
		{"GET", "/v1/files/page", "", nil, 200}, {"OPTIONS", "/v1/models", "", nil, 204}, {"GET", "/nothing", "", nil, 404}, {"PUT", "/v1/messages", "", nil, 405}, {"POST", "/v1/messages", "{", nil, 400}, {"POST", "/v1/messages", "{}", []string{"content-type", "text/html"}, 415},
		{"GET", "/v1/streams", "", []string{"x-api-key", "<script>"}, 401}, {"POST", "/v1/messages", ask("fault:html"), nil, 502},
	} {
		a := h.do(c.method, c.path, c.body, c.headers...).status(c.status)
		policy := a.header.Get("Content-Security-Policy")
		if a.header.Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(policy, "frame-ancestors 'none'") {
			t.Errorf("%s %s: %v", c.method, c.path, a.header)
		}
		page := c.path == "/"
		if strings.Contains(a.header.Get("Content-Type"), "html") && !page && (!strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, "sandbox")) {
			t.Errorf("%s %s may run as a page: %v", c.method, c.path, a.header)
		}
		if kind := a.header.Get("Content-Type"); strings.Contains(kind, "html") && !page && c.path != "/v1/files/page" {
			t.Errorf("%s %s is %s", c.method, c.path, kind)
		}
		for _, name := range []string{"Server", "X-Powered-By", "Set-Cookie", "Via"} {
			if a.header.Get(name) != "" {
				t.Errorf("%s %s: %s: %s", c.method, c.path, name, a.header.Get(name))
			}
		}
	}
	for _, path := range []string{"/metrics", "/healthz", "/readyz", "/debug/pprof/", "/nothing"} {
		if a := h.fetch("GET", h.admin+path, ""); a.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s of the operators: %v", path, a.header)
		}
	}
}

func TestOperatorsRoutesAreNotForCallers(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1), func(c *gateway.Config) { c.Upstream.ForwardPaths = []string{"/v1/files"} })
	for path, there := range map[string]bool{"/metrics": true, "/healthz": true, "/readyz": true, "/debug/pprof/": true, "/debug/pprof/cmdline": true, "/debug/pprof/symbol": true, "/debug/pprof/heap": true, "/debug/pprof/goroutine?debug=2": true,
		"/debug/pprof/profile": false, "/debug/pprof/trace": false, "/usage": true, "/debug": false, "/debug/vars": false} {
		if there {
			h.fetch("GET", h.admin+path, "").status(200)
		}
		for _, spelled := range []string{path, "/" + path, "/v1/.." + path, "/v1/files/../.." + path, "/." + path, strings.ToUpper(path), strings.Replace(path, "/", "/%2e/", 1)} {
			for _, method := range []string{"GET", "POST"} {
				a := h.raw(t, method+" "+spelled+" HTTP/1.1\r\nHost: "+strings.TrimPrefix(h.admin, "http://")+"\r\nX-Forwarded-For: 127.0.0.1\r\nX-Api-Key: "+aliceKey+"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				if a.code != 404 {
					t.Errorf("%s %s is answered with %d", method, spelled, a.code)
				}
			}
		}
	}
	for _, path := range []string{"/", "/v1/messages", "/v1/streams", "/v1/models", "/client.js"} {
		h.fetch("GET", h.admin+path, "").status(404)
	}
	if n := len(h.upstream.requests()); n != 0 {
		t.Errorf("%d requests reached the upstream", n)
	}
}
