package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"sluice/gateway"
)

const app = "https://app.example"

func allowing(origins ...string) func(*gateway.Config) {
	return func(c *gateway.Config) { c.Server.CORSOrigins = origins }
}

func TestPagesOfAllowedOriginsMayCall(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1), allowing("https://other.example", app))
	asked := "anthropic-version, content-type, x-api-key, x-something-new"
	a := h.do("OPTIONS", "/v1/streams", "", "x-api-key", "", "origin", app, "access-control-request-method", "POST", "access-control-request-headers", asked)
	a.status(http.StatusNoContent)
	for name, want := range map[string]string{
		"Access-Control-Allow-Origin": app, "Access-Control-Allow-Credentials": "true", "Access-Control-Allow-Headers": asked, "Access-Control-Max-Age": "7200",
	} {
		if got := a.header.Get(name); got != want {
			t.Errorf("a preflight's %s is %q, want %q", name, got, want)
		}
	}
	for _, method := range []string{"GET", "POST", "DELETE"} {
		if got := a.header.Get("Access-Control-Allow-Methods"); !strings.Contains(got, method) {
			t.Errorf("a preflight allows %q", got)
		}
	}
	var o object
	created := h.do("POST", "/v1/streams", request("short"), "origin", app).status(http.StatusCreated)
	created.into(&o)
	readable(t, "the object", created.header)
	readable(t, "the events", h.watchURL("GET", o.EventsURL, "", "x-api-key", "", "origin", app).resp.Header)
	readable(t, "a message", h.watch("POST", "/v1/messages", ask("short"), "origin", app).resp.Header)
	readable(t, "an error", h.do("GET", "/v1/streams/strm_none", "", "origin", app).refused(404, "not_found_error").header)
}

// readable looks that a page of the app may read an answer, and the headers that it needs.
func readable(t *testing.T, what string, header http.Header) {
	t.Helper()
	if got := header.Get("Access-Control-Allow-Origin"); got != app {
		t.Errorf("%s: allowed to %q", what, got)
	}
	if !strings.Contains(strings.Join(header.Values("Vary"), ","), "Origin") {
		t.Errorf("%s: varies by %q", what, header.Values("Vary"))
	}
	for _, name := range []string{"Request-Id", "Retry-After", "Retry-After-Ms", "X-Should-Retry", "Location", "Sluice-Stream-Id", "Anthropic-Ratelimit-Requests-Remaining"} {
		if !strings.Contains(header.Get("Access-Control-Expose-Headers"), name) {
			t.Errorf("%s: does not expose %s", what, name)
		}
	}
}

func TestPagesOfOtherOriginsMayNotCall(t *testing.T) {
	t.Parallel()
	for name, origins := range map[string][]string{"no list": nil, "a list": {app}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := openHouse(t, saying(1), allowing(origins...))
			for _, origin := range []string{"https://evil.example", "null", app + ".evil.example", "https://sub.app.example", "http://app.example", app + ":8443", app + "/"} {
				for _, method := range []string{"OPTIONS", "GET"} {
					a := h.do(method, "/v1/streams", "", "origin", origin, "access-control-request-method", "POST")
					for name := range a.header {
						if strings.HasPrefix(name, "Access-Control-") {
							t.Errorf("%s from %s is answered with %s: %q", method, origin, name, a.header.Get(name))
						}
					}
				}
			}
		})
	}
}

func TestAnyOriginMeansNoCookies(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1), allowing("*"))
	a := h.do("GET", "/v1/streams", "", "origin", "https://anywhere.example").status(http.StatusOK)
	if got := a.header.Get("Access-Control-Allow-Origin"); got != "*" {
		t.Errorf("allowed to %q", got)
	}
	if got := a.header.Get("Access-Control-Allow-Credentials"); got != "" {
		t.Errorf("with credentials: %q", got)
	}
}
