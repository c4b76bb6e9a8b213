package gateway_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"sluice/gateway"
)

// The attacks with a request's body: too much of it, or too much in it.

// TestBodiesHaveABound sends more than 32 MB: announced, and in chunks.
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
	if n := len(h.upstream.requests()); n != 0 {
		t.Errorf("%d requests reached the upstream", n)
	}
	h.becomes("sluice_log_bytes", 0)
}

// TestCompressedBodiesAreNotUnpacked has three kilobytes that would become three megabytes, under every name.
func TestCompressedBodiesAreNotUnpacked(t *testing.T) {
	t.Parallel()
	h := openHouse(t, whole, func(c *gateway.Config) { c.Upstream.ForwardPaths = []string{"/v1/files"} })
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	io.WriteString(z, request(strings.Repeat("bomb ", 600_000)))
	z.Close()
	for _, lines := range []string{"gzip", "GZIP", "x-gzip", "deflate", "br", "zstd", "compress", "gzip, gzip", "identity, gzip", "identity\r\nContent-Encoding: gzip", "\r\nContent-Encoding: gzip", "nonsense"} {
		for _, path := range []string{"/v1/messages", "/v1/streams", "/v1/messages/count_tokens", "/v1/messages/batches", "/v1/files"} {
			h.raw(t, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: sluice\r\nConnection: close\r\nX-Api-Key: %s\r\nContent-Type: application/json\r\nContent-Encoding: %s\r\nContent-Length: %d\r\n\r\n%s", path, aliceKey, lines, zipped.Len(), zipped.String())).refused(415, "invalid_request_error")
		}
	}
	h.do("POST", "/v1/messages", zipped.String()).refused(400, "invalid_request_error") // nor is it noticed
	if n := len(h.upstream.requests()); n != 0 {
		t.Errorf("%d requests reached the upstream", n)
	}
	h.do("POST", "/v1/messages", request("short"), "content-encoding", "identity").status(200)
}

// TestBodiesThatAreHardToReadAreReadAtOnce has what makes parsers recurse, count or allocate without end. Nesting is in
// TestMalformedRequestsAreRefusedBeforeTheUpstream, too.
func TestBodiesThatAreHardToReadAreReadAtOnce(t *testing.T) {
	t.Parallel()
	h := openHouse(t, whole)
	digits, million := strings.Repeat("9", 1_000_000), 1_000_000
	for name, c := range map[string]struct {
		body   string
		status int
	}{
		"an array of arrays":         {`{"model":"m","messages":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + "}", 400},
		"brackets without end":       {`{"model":"m","messages":` + strings.Repeat("[{\"a\":", million), 400},
		"max_tokens of many digits":  {`{"model":"m","max_tokens":` + digits + "}", 400},
		"max_tokens as a power":      {`{"model":"m","max_tokens":1e999999999}`, 400},
		"max_tokens as a fraction":   {`{"model":"m","max_tokens":0.` + digits + "}", 400},
		"a number of many digits":    {`{"model":"m","temperature":` + digits + "}", 200}, // is the upstream's to judge
		"a power of many digits":     {`{"model":"m","temperature":1e` + digits + "}", 200},
		"a million keys":             {`{"model":"m"` + strings.Repeat(`,"k":0`, million) + "}", 200},
		"a million escapes":          {`{"model":"m","x":"` + strings.Repeat(`\ud800`, million) + `"}`, 200},
		"a million escapes in a key": {`{"model":"m","` + strings.Repeat(`\u0061`, million) + `":1}`, 400},
		"a long model":               {`{"model":"` + strings.Repeat("m", million) + `"}`, 200},
		"spaces":                     {strings.Repeat(" ", 10*million) + `{"model":"m"}`, 200},
	} {
		a := h.do("POST", "/v1/messages", c.body) // which waits for half a minute
		if a.code != c.status {
			t.Errorf("%s: %d %.300s", name, a.code, a.body)
		}
		if len(a.body) > 1000 {
			t.Errorf("%s is repeated in an error of %d bytes", name, len(a.body))
		}
	}
	h.becomes("sluice_log_bytes", 0)
}

// TestChunksCannotBeMostlyFraming sends a byte of body in each kilobyte, and a length that nobody could send.
func TestChunksCannotBeMostlyFraming(t *testing.T) {
	t.Parallel()
	h := openHouse(t, whole)
	head := "POST /v1/messages HTTP/1.1\r\nHost: sluice\r\nConnection: close\r\nX-Api-Key: " + aliceKey + "\r\nContent-Type: application/json\r\n"
	for name, body := range map[string]string{
		"extensions":  "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1;"+strings.Repeat("x", 1000)+"\r\n \r\n", 1000),
		"a long size": "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("0", 100_000),
		"trailers":    "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" + strings.Repeat("X-A: "+strings.Repeat("x", 1000)+"\r\n", 1000),
	} {
		statuses := h.wire(t, head+body)
		if !slices.Equal(statuses, []int{400}) {
			t.Errorf("%s: answered with %d", name, statuses)
		}
	}
	for _, length := range []string{"33000000", "9223372036854775807", "9223372036854775808", "99999999999999999999999999"} {
		if statuses := h.wire(t, head+"Content-Length: "+length+"\r\n\r\n{"); len(statuses) != 1 || statuses[0] != 413 && statuses[0] != 400 {
			t.Errorf("a length of %s: answered with %d", length, statuses)
		}
	}
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
