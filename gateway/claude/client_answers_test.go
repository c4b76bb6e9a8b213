package claude

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"sluice/gateway/h2"
	"sluice/gateway/simulator"
)

func TestRefusalsKeepTheirStatusAndBody(t *testing.T) {
	for status, kind := range map[int]string{400: InvalidRequest, 402: Billing, 403: Permission, 404: NotFound, 413: TooLarge, 422: InvalidRequest, 429: RateLimit, 500: APIError, 529: Overloaded} {
		_, c := upstream(t, refuse(status, shaped(kind)+" ", "Retry-After", "5"))
		_, err := open(t, c, Retry{})
		e := asError(t, err, kind, status)
		if string(e.Body) != shaped(kind)+" " || string(e.Object("x")) != string(e.Body) || e.Header.Get("Retry-After") != "5" || e.Message != "The "+kind+"." {
			t.Errorf("%d: %+v", status, e)
		}
	}
}

func TestRefusalsInOtherWordsBecomeAnthropics(t *testing.T) {
	html := "<html><body>secret-host.internal</body></html>"
	for _, c := range []struct {
		status int
		body   string
		kind   string
		want   int
	}{
		{400, html, InvalidRequest, 400}, {404, "", NotFound, 404}, {413, html, TooLarge, 413}, {418, "{}", InvalidRequest, 418}, {429, html, RateLimit, 429},
		{429, `{"error":{"code":429,"message":"Quota","status":"RESOURCE_EXHAUSTED"}}`, RateLimit, 429}, {500, html, APIError, 502}, {502, html, APIError, 502}, {503, "", APIError, 502}, {504, html, Timeout, 504}, {520, html, APIError, 502}, {529, html, Overloaded, 529},
		{500, `{"type":"error","error":{"type":"api_error"`, APIError, 502},
	} {
		_, client := upstream(t, refuse(c.status, c.body, "Content-Type", "text/html"))
		_, err := open(t, client, Retry{})
		e := asError(t, err, c.kind, c.want)
		kind, message, ok := ParseError(e.Object("req_1"))
		if e.Body != nil || !ok || kind != c.kind || message == "" || strings.Contains(message, "secret") || !strings.Contains(string(e.Object("req_1")), `"request_id":"req_1"`) {
			t.Errorf("%d %.30s: %s", c.status, c.body, e.Object("req_1"))
		}
		if e.Cause == nil {
			t.Errorf("%d: nothing for the log", c.status)
		}
	}
}

func TestARefusalOfOurKeyIsNotTheCallers(t *testing.T) {
	for _, h := range []http.Handler{refuse(401, shaped(Authentication)), refuse(401, "<html>"), simulator.Script{Body: []byte("event: error\ndata: " + shaped(Authentication) + "\n\n")}} {
		_, c := upstream(t, h)
		_, err := open(t, c, Retry{})
		e := asError(t, err, APIError, 502)
		if object := string(e.Object("")); strings.Contains(object, "authentication_error") || e.Body != nil || !strings.Contains(e.Error(), "upstream.api_key") {
			t.Errorf("%s, %v", object, err)
		}
	}
}

func TestWhatIsNoEventStreamIsRefused(t *testing.T) {
	for name, h := range map[string]http.Handler{
		"JSON": refuse(200, `{"type":"message"}`), "HTML": refuse(200, "<html>", "Content-Type", "text/html"), "no type": refuse(200, start, "Content-Type", ""),
		"201": simulator.Script{Status: 201, Body: []byte(start)}, "204": simulator.Script{Status: 204},
		"br": simulator.Script{Body: []byte(start), Header: http.Header{"Content-Encoding": {"br"}}}, "zstd": simulator.Script{Body: []byte(start), Header: http.Header{"Content-Encoding": {"zstd"}}},
		"deflate": simulator.Script{Body: []byte(start), Header: http.Header{"Content-Encoding": {"deflate"}}}, "two": simulator.Script{Body: []byte(start), Header: http.Header{"Content-Encoding": {"gzip, br"}}},
		"empty": empty, "pings": pinged, "comments": simulator.Script{Body: []byte(":\n\n")},
	} {
		_, c := upstream(t, h)
		_, err := open(t, c, Retry{})
		if e := asError(t, err, APIError, 502); e.Message == "" || e.Body != nil {
			t.Errorf("%s: %+v", name, e)
		}
	}
	for _, header := range []http.Header{{"Content-Encoding": {"identity"}}, {"Content-Encoding": {" GZIP "}}, {"Content-Encoding": {"x-gzip"}}, {"Content-Type": {"Text/Event-Stream"}}, {"Content-Type": {"text/event-stream; charset=utf-8"}}, {"Retry-After": {"20"}}} {
		script := simulator.Script{Body: []byte(start + stop), Header: header}
		if strings.Contains(strings.ToLower(header.Get("Content-Encoding")), "gzip") {
			script.Body = gzipped(t, start, stop)
		}
		_, c := upstream(t, script)
		s, err := open(t, c, Retry{})
		if err != nil {
			t.Errorf("%v: %v", header, err)
			continue
		}
		if events, err := follow(s); len(events) != 2 || err != nil {
			t.Errorf("%v: %d events, %v", header, len(events), err)
		}
	}
}

func TestErrorBodiesAreBounded(t *testing.T) {
	long := `{"type":"error","error":{"type":"api_error","message":"` + strings.Repeat("x", 4<<20) + `"}}`
	for name, h := range map[string]http.Handler{
		"plain": refuse(500, long),
		"gzip":  simulator.Script{Status: 500, Body: gzipped(t, long), Header: http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}},
	} {
		_, c := upstream(t, h)
		_, err := open(t, c, Retry{})
		if e := asError(t, err, APIError, 502); len(e.Object("")) > maxErrorBody || len(err.Error()) > 2000 {
			t.Errorf("%s: %d bytes", name, len(e.Object("")))
		}
	}
	_, c := upstream(t, simulator.Script{Status: 529, Body: gzipped(t, shaped(Overloaded)), Header: http.Header{"Content-Encoding": {"gzip"}}})
	_, err := open(t, c, Retry{})
	if e := asError(t, err, Overloaded, 529); string(e.Body) != shaped(Overloaded) {
		t.Errorf("%s", e.Body)
	}
}

// raw answers every connection with these bytes, and then closes or resets it.
func raw(t *testing.T, answer string, reset bool) *Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.ReadAtLeast(c, make([]byte, 4096), 100) // the request is small and comes in one piece
			io.WriteString(c, answer)
			if reset {
				c.(*net.TCPConn).SetLinger(0)
			}
			c.Close()
		}
	}()
	return client(t, "http://"+l.Addr().String())
}

func TestABrokenConnectionIsNeverACleanEnd(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
	chunk := func(s string) string { return hexLength(s) + "\r\n" + s + "\r\n" }
	zipped := gzipped(t, start, opening)
	for name, answer := range map[string]string{
		"chunked, cut between chunks": head + "Transfer-Encoding: chunked\r\n\r\n" + chunk(start) + chunk(opening),
		"chunked, cut inside a chunk": head + "Transfer-Encoding: chunked\r\n\r\n" + chunk(start) + hexLength(opening) + "\r\n" + opening[:20],
		"chunked, broken length":      head + "Transfer-Encoding: chunked\r\n\r\n" + chunk(start) + "xyz\r\n",
		"with a length":               head + "Content-Length: 5000\r\n\r\n" + start + opening,
		"until the connection closes": head + "\r\n" + start + opening,
		"gzip":                        head + "Content-Encoding: gzip\r\n\r\n" + string(zipped[:len(zipped)-9]),
	} {
		for _, reset := range []bool{false, true} {
			s, err := open(t, raw(t, answer, reset), Retry{})
			if err == nil {
				_, err = follow(s)
			} else if !reset { // a reset may overtake what was sent before
				t.Errorf("%s: %v", name, err)
			}
			if e := asError(t, err, APIError, 502); e.Cause == nil || errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for name, answer := range map[string]string{"nothing": "", "half a header": "HTTP/1.1 200 OK\r\nContent-", "no HTTP": "SSH-2.0-OpenSSH\r\n"} {
		_, err := open(t, raw(t, answer, false), Retry{})
		asError(t, err, APIError, 502)
		if !errors.Is(err, errConnection) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func hexLength(s string) string {
	const digits = "0123456789abcdef"
	return string([]byte{digits[len(s)>>8&15], digits[len(s)>>4&15], digits[len(s)&15]})
}

func TestABrokenHTTP2StreamIsNeverACleanEnd(t *testing.T) {
	server := httptest.NewUnstartedServer(simulator.Script{Body: []byte(start + opening), Chunks: simulator.PerEvent, Ending: simulator.EndCut})
	server.Config.ErrorLog = slogNothing
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	c := client(t, server.URL)
	c.http.Transport.(*h2.Transport).TLS = server.Client().Transport.(*http.Transport).TLSClientConfig
	s, err := open(t, c, Retry{})
	if err == nil {
		_, err = follow(s)
	}
	asError(t, err, APIError, 502)
}

// net/http's client writes to its configuration when it is first used.
func TestTheTwoTransportsShareNoConfiguration(t *testing.T) {
	c := client(t, "https://127.0.0.1:1")
	transport := c.http.Transport.(*h2.Transport)
	dialed := make(chan struct{})
	transport.Dial = func(context.Context, string, string) (net.Conn, error) {
		c.CloseIdle() // uses the other
		close(dialed)
		near, far := net.Pipe()
		far.Close()
		return near, nil
	}
	_, err := open(t, c, Retry{})
	asError(t, err, APIError, 502)
	<-dialed
	if len(transport.TLS.NextProtos) > 0 {
		t.Errorf("what the one is given has become %q", transport.TLS.NextProtos)
	}
}

func TestAnUnreachableUpstreamIsABadGateway(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	c := client(t, "http://"+l.Addr().String())
	_, err = open(t, c, Retry{})
	if e := asError(t, err, APIError, 502); strings.Contains(e.Message, "127.0.0.1") || !errors.Is(err, errConnection) {
		t.Errorf("%v", err)
	}
}

func TestAnswersThatAreNoStreamPassWhole(t *testing.T) {
	file := gzipped(t, "a file")
	body := `{"input_tokens":14,"n":1.0 }`
	for _, c := range []struct {
		name   string
		script simulator.Script
		want   string
	}{
		{"plain", simulator.Script{Body: []byte(body), Header: http.Header{"Content-Type": {"application/json"}}}, body},
		{"empty", simulator.Script{Header: http.Header{"Content-Type": {"application/json"}, "Content-Length": {"0"}}}, ""},
		{"one byte", simulator.Script{Body: []byte("7"), Header: http.Header{"Content-Type": {"application/json"}}}, "7"},
		{"gzip", simulator.Script{Body: gzipped(t, body), Header: http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}}, body},
		{"gzip with a length", simulator.Script{Body: gzipped(t, body), Header: http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}, "Content-Length": {length(gzipped(t, body))}}}, body},
		{"gzip without header", simulator.Script{Body: gzipped(t, body), Header: http.Header{"Content-Type": {"application/json"}}}, body},
		{"a file that is gzip", simulator.Script{Body: file, Header: http.Header{"Content-Type": {"application/gzip"}, "Content-Length": {length(file)}}}, string(file)},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, client := upstream(t, c.script)
			resp, err := client.Do(t.Context(), message)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			if err != nil || string(got) != c.want {
				t.Errorf("%q %v", got, err)
			}
			if n := resp.Header.Get("Content-Length"); n != "" && n != length(got) || resp.ContentLength >= 0 && resp.ContentLength != int64(len(got)) {
				t.Errorf("the length is said to be %s, %d", n, resp.ContentLength)
			}
			if n, err := resp.Body.Read(nil); n != 0 || err != nil && err != io.EOF {
				t.Errorf("read of nothing: %d, %v", n, err)
			}
		})
	}
}

func length(b []byte) string { return strconv.Itoa(len(b)) }

func TestABrokenAnswerIsNoWholeOne(t *testing.T) {
	head := "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	for _, answer := range []string{head + "Content-Length: 500\r\n\r\n{\"a\":", head + "Transfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\n", head + "Content-Encoding: gzip\r\nContent-Length: 12\r\n\r\n" + string(gzipped(t, "{}")[:12])} {
		resp, err := raw(t, answer, false).Do(t.Context(), message)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadAll(resp.Body)
		asError(t, err, APIError, 502)
		resp.Body.Close()
	}
}

func TestAFailedConnectionIsTriedOnceMore(t *testing.T) {
	fail := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	for want, a := range map[int]*inTurn{1: answers(refuse(200, "{}")), 2: answers(fail, fail, refuse(200, "{}"))} {
		_, c := upstream(t, a)
		resp, err := c.Do(t.Context(), message)
		if a.count() != want || (err == nil) != (want == 1) {
			t.Errorf("%d requests: %v", a.count(), err)
		}
		if err == nil {
			resp.Body.Close()
		}
	}
	a := answers(refuse(529, shaped(Overloaded)))
	_, c := upstream(t, a)
	_, err := c.Do(t.Context(), message)
	if asError(t, err, Overloaded, 529); a.count() != 1 {
		t.Errorf("%d requests", a.count())
	}
}

func TestAnAnswerMustBeJSONWithinItsLimit(t *testing.T) {
	resp := &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"text/html"}}}
	if err := CheckAnswer(resp, []byte(`{"a":1}`), 7); err != nil {
		t.Error(err)
	}
	for body, limit := range map[string]int{"<html>": 100, "": 100, `{"a":1}`: 6} {
		asError(t, CheckAnswer(resp, []byte(body), limit), APIError, 502)
	}
}
