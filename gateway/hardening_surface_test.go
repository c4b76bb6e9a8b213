package gateway_test

import (
	"strings"
	"testing"

	"sluice/gateway"
)

// What the gateway shows of itself, and where it can be made to go.

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
