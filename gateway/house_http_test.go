package gateway_test

import (
	"bufio"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/gateway"
	"sluice/gateway/simulator"
)

// TestOldHTTPReadsStreamsToo: HTTP/1.0 has no chunks; there the connection's end is the end.
func TestOldHTTPReadsStreamsToo(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(5))
	o := h.start(request("short"))
	h.reaches(o.ID, "completed")
	path := strings.TrimPrefix(o.EventsURL, h.url)
	a := h.raw(t, "GET "+path+"&exact=1 HTTP/1.0\r\n\r\n").status(200)
	events := relayed(parseWire(a.body))
	same(t, events, relayed(parseWire(string(message(5)))))
	h.becomes(`sluice_viewers_ended_total{reason="completed"}`, 1)
}

// TestOldHTTPStalledReaderIsEnded: there, too, who takes nothing is let go.
func TestOldHTTPStalledReaderIsEnded(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}), func(c *gateway.Config) { c.Relay.StallTimeout = 200 * time.Millisecond })
	o := h.start(request("short fault:giant=8000000"))
	h.reaches(o.ID, "completed")
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	fmt.Fprintf(conn, "GET %s HTTP/1.0\r\n\r\n", strings.TrimPrefix(o.EventsURL, h.url))
	h.becomes(`sluice_viewers_ended_total{reason="stalled"}`, 1)
}

// TestRequestBehindAStreamIsNotAnswered: the stream has the connection to itself, and says so. What comes behind its
// request, at once or later, is nobody's.
func TestRequestBehindAStreamIsNotAnswered(t *testing.T) {
	t.Parallel()
	body := ask("short")
	head := "POST /v1/messages HTTP/1.1\r\nHost: sluice\r\nX-Api-Key: " + aliceKey + "\r\nContent-Type: application/json\r\n"
	for name, one := range map[string]string{
		"a length":            fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head, len(body), body),
		"chunks":              fmt.Sprintf("%sTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", head, len(body), body),
		"a length and chunks": fmt.Sprintf("%sContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", head, len(body), body),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFaucet()
			h := openHouse(t, f)
			conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			io.WriteString(conn, one+one)
			up := f.next(t)
			up.send(start)
			in := bufio.NewReader(conn)
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if !resp.Close {
				t.Error("the response does not say that the connection closes")
			}
			io.WriteString(conn, one)
			up.finish()
			endsWith(t, newReading(t, resp).rest(), "message_stop")
			if more, err := io.ReadAll(in); len(more) > 0 {
				t.Errorf("more came: %q, %v", more, err)
			}
			if n := len(h.upstream.requests()); n != 1 {
				t.Errorf("%d requests at the upstream", n)
			}
		})
	}
}

// TestConnectionIsReusedAfterWholeAnswers: what is no stream leaves the connection as it was.
func TestConnectionIsReusedAfterWholeAnswers(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}))
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	in := bufio.NewReader(conn)
	body := request("short")
	for i, c := range []struct {
		request string
		status  int
	}{
		{"GET /v1/models HTTP/1.1\r\nHost: sluice\r\nAnthropic-Version: 2023-06-01\r\nX-Api-Key: " + aliceKey + "\r\n\r\n", 200},
		{"GET /nothing HTTP/1.1\r\nHost: sluice\r\n\r\n", 404},
		{fmt.Sprintf("POST /v1/messages HTTP/1.1\r\nHost: sluice\r\nAnthropic-Version: 2023-06-01\r\nX-Api-Key: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", aliceKey, len(body), body), 200},
		{fmt.Sprintf("POST /v1/streams HTTP/1.1\r\nHost: sluice\r\nX-Api-Key: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", aliceKey, len(body), body), 201},
		{"GET /v1/streams HTTP/1.1\r\nHost: sluice\r\n\r\n", 401},
	} {
		io.WriteString(conn, c.request)
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != c.status || resp.Close {
			t.Errorf("request %d: status %d, closes: %v", i, resp.StatusCode, resp.Close)
		}
	}
}

// TestManyReadersOfManyStreamsKeepApart reads several streams at once, each by several readers.
func TestManyReadersOfManyStreamsKeepApart(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}))
	done := make(chan string, 60)
	for i := range 20 {
		word := fmt.Sprintf("number%dx", i)
		o := h.start(request("short " + word))
		for range 3 {
			go func() {
				text := textOf(t, h.watchURL("GET", o.EventsURL, "", "x-api-key", "").rest())
				if !strings.HasPrefix(text, "In short: about “short "+word+" "+marker) {
					t.Errorf("%s read %q", word, text)
				}
				done <- word
			}()
		}
	}
	for range 60 {
		receive(t, done, "a reader")
	}
}

// overTLS puts the upstream behind TLS under a private authority, so that it is reached over HTTP/2.
func overTLS(t testing.TB, claude http.Handler) func(*gateway.Config) {
	t.Helper()
	server := httptest.NewUnstartedServer(claude)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close) // after the house's end
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(c *gateway.Config) { c.Upstream.BaseURL, c.Upstream.CAFile = server.URL, ca }
}

// TestUpstreamIsReachedOverHTTP2 has the upstream break streams off.
func TestUpstreamIsReachedOverHTTP2(t *testing.T) {
	t.Parallel()
	protocols := make(chan string, 10)
	claude := simulator.New(simulator.Options{Key: upstreamKey})
	secure := overTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		protocols <- r.Proto
		claude.ServeHTTP(w, r)
	}))
	h := openHouse(t, saying(1), secure)
	for prompt, end := range map[string]string{"short": "message_stop", "fault:cut=3": "api_error", "fault:no-stop=3": "api_error", "fault:error=3": "overloaded_error"} {
		endsWith(t, h.watch("POST", "/v1/messages", ask(prompt)).rest(), end)
		if got := receive(t, protocols, "the protocol"); got != "HTTP/2.0" {
			t.Errorf("over %s", got)
		}
	}
	strict := openHouse(t, saying(1), secure, func(c *gateway.Config) { c.Upstream.CAFile = "" })
	strict.do("POST", "/v1/messages", ask("short")).refused(502, "api_error")
}

// TestCompressedAnswersAreRead: nobody asked for gzip, and it came all the same.
func TestCompressedAnswersAreRead(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}))
	for _, fault := range []string{"gzip", "gzip-silent"} {
		r := h.watch("POST", "/v1/messages", ask("short fault:"+fault))
		if encoding := r.resp.Header.Get("Content-Encoding"); encoding != "" {
			t.Errorf("passed on as %s", encoding)
		}
		events := r.rest()
		endsWith(t, events, "message_stop")
		numbered(t, events, 0)
		a := h.do("POST", "/v1/messages", request("short fault:"+fault)).status(200)
		if !strings.Contains(a.body, "In short") || a.header.Get("Content-Encoding") != "" {
			t.Errorf("%v %.100q", a.header, a.body)
		}
	}
	for _, r := range h.upstream.requests() {
		if got := r.header.Get("Accept-Encoding"); got != "identity" {
			t.Errorf("asked for %q", got)
		}
	}
}

// TestForwardedPathsAreTheListedOnes: what the operator has named is passed on, whatever it is, and nothing beside it.
func TestForwardedPathsAreTheListedOnes(t *testing.T) {
	t.Parallel()
	h := openHouse(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Request-Id", "req_files")
		io.WriteString(w, "\x00\xff bytes")
	}), func(c *gateway.Config) { c.Upstream.ForwardPaths = []string{"/v1/files"} })
	for _, path := range []string{"/v1/files", "/v1/files/file_1/content?beta=true"} {
		a := h.do("GET", path, "").status(200)
		if a.body != "\x00\xff bytes" || a.header.Get("Content-Type") != "application/octet-stream" || a.header.Get("Request-Id") != "req_files" || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %v %q", path, a.header, a.body)
		}
	}
	h.do("GET", "/v1/files", "", "x-api-key", "").refused(401, "authentication_error")
	for _, path := range []string{"/v1/files/../models", "/v1/files/%2e%2e/x", "/v1/files/a%2fb", "/v1/files//a", "/v1/filesystem", "/v1/skills"} {
		h.raw(t, "GET "+path+" HTTP/1.1\r\nHost: sluice\r\nX-Api-Key: "+aliceKey+"\r\nConnection: close\r\n\r\n").refused(404, "not_found_error")
	}
	if seen := h.upstream.requests(); len(seen) != 2 || seen[1].uri != "/v1/files/file_1/content?beta=true" {
		t.Errorf("the upstream saw %d requests", len(seen))
	}
}

func TestHeadOfForwardedRoutesWorks(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}))
	for _, path := range []string{"/v1/models", "/v1/models/claude-opus-4-6"} {
		if a := h.do("HEAD", path, "").status(200); a.body != "" || a.header.Get("Content-Type") != "application/json" {
			t.Errorf("HEAD %s: %v", path, a.header)
		}
	}
}

// TestStreamsDoNotRepeatWhatCannotSucceed: what the upstream really sent decides. A 401, a redirect and a 200 that is no
// stream are answered with 502, and would be the same again.
func TestStreamsDoNotRepeatWhatCannotSucceed(t *testing.T) {
	t.Parallel()
	for _, fault := range []string{"401", "redirect", "html-200", "json-200"} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			h := openHouse(t, simulator.New(simulator.Options{}))
			h.do("POST", "/v1/streams", ask("fault:"+fault)).status(502)
			if n := len(h.upstream.requests()); n != 1 {
				t.Errorf("%d requests, want 1", n)
			}
		})
	}
}

// TestOnlyOneSegmentNamesAModel: what is below a model is no route, though a router's last parameter may match slashes.
func TestOnlyOneSegmentNamesAModel(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1))
	for _, path := range []string{"/v1/models/a/", "/v1/models/a/b", "/v1/models/a/b/c?x=y"} {
		h.do("GET", path, "").refused(404, "not_found_error")
	}
	if seen := h.upstream.requests(); len(seen) != 0 {
		t.Errorf("the upstream saw %s", seen[0].uri)
	}
}
