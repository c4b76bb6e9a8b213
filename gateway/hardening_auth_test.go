package gateway_test

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"sluice/gateway"
	"sluice/gateway/limits"
)

// One test per attack on who may call. Each house also looks that no key, token, ticket or prompt was logged.

// shut looks that a credential opens nothing, at no route, and that nothing reaches the upstream.
func (h *house) shut(t testing.TB, name string, headers ...string) {
	t.Helper()
	before := len(h.upstream.requests())
	for _, c := range [][3]string{{"GET", "/v1/streams", ""}, {"GET", "/v1/models", ""}, {"POST", "/v1/messages", ask("short")}, {"POST", "/v1/streams", request("short")}} {
		a := h.in(t).do(c[0], c[1], c[2], append([]string{"x-api-key", ""}, headers...)...)
		if a.code == 429 { // so many were wrong
			a.refused(429, "rate_limit_error")
			continue
		}
		if a.code != 401 {
			t.Errorf("%s: %s %s is answered with %d %.200s", name, c[0], c[1], a.code, a.body)
			continue
		}
		a.refused(401, "authentication_error")
	}
	if n := len(h.upstream.requests()); n != before {
		t.Errorf("%s: %d requests reached the upstream", name, n-before)
	}
}

func segment(json string) string { return base64.RawURLEncoding.EncodeToString([]byte(json)) }

func TestUnsignedTokensOpenNothing(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	for _, login := range []func(*gateway.Config){secretLogin, p.login} {
		h := openHouse(t, saying(1), login)
		unsigned := signed(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, claims(nil), nil)
		_, payload, _ := strings.Cut(strings.TrimSuffix(unsigned, "."), ".")
		for _, header := range []string{`{"alg":"none"}`, `{"alg":"None"}`, `{"alg":"NONE","kid":"main"}`, `{"alg":""}`, `{}`, `{"alg":null}`, `{"alg":"HS256"}`, `{"alg":"RS256","kid":"main"}`} {
			for _, signature := range []string{"", "AA", "e30"} {
				for _, where := range [][]string{{"authorization", "Bearer "}, {"cookie", "session="}, {"x-api-key", ""}} {
					h.shut(t, header, where[0], where[1]+segment(header)+"."+payload+"."+signature)
				}
			}
		}
	}
}

func TestAPublicKeyIsNoSecret(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	h := openHouse(t, saying(1), p.login)
	der, err := x509.MarshalPKIXPublicKey(p.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	for name, secret := range map[string][]byte{"PEM": block, "PEM without its last line break": bytes.TrimSpace(block), "DER": der, "the modulus": p.key.N.Bytes(), "nothing": {}} {
		for _, method := range []jwt.SigningMethod{jwt.SigningMethodHS256, jwt.SigningMethodHS384, jwt.SigningMethodHS512} {
			for _, header := range []map[string]any{nil, {"kid": "main"}, {"alg": "RS256", "kid": "main"}} {
				h.shut(t, name, "authorization", "Bearer "+signed(t, method, secret, claims(nil), header))
			}
		}
	}
	h.do("GET", "/v1/streams", "", "x-api-key", "", "authorization", "Bearer "+p.token(t, nil)).status(200)
}

func TestTokensForOthersOrOtherTimesOpenNothing(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1), secretLogin)
	for name, c := range map[string]jwt.MapClaims{
		"expired": {"exp": time.Now().Add(-time.Minute).Unix()}, "without end": {"exp": nil}, "not yet": {"nbf": time.Now().Add(time.Minute).Unix()},
		"another audience": {"aud": "other"}, "no audience": {"aud": nil}, "audiences": {"aud": []string{"a", "b"}}, "another issuer": {"iss": issuer + "evil"}, "no issuer": {"iss": nil}, "nobody": {"sub": nil},
	} {
		h.shut(t, name, "authorization", "Bearer "+hs256(t, c))
		h.shut(t, name, "cookie", "session="+hs256(t, c))
	}
	if h.scrape()[`sluice_auth_failures_total{kind="throttled"}`] != 0 {
		t.Error("genuine tokens count as guesses")
	}
}

func TestKeyIDsOpenNoFilesAndNoURLs(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	h := openHouse(t, saying(1), p.login)
	mallory := newProvider(t) // who must not be asked for keys
	mallory.server.Config.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a token made us call its URL") })
	for _, kid := range []any{"../../../../dev/null", "/dev/null", "file:///etc/passwd", mallory.server.URL, "main' OR 1=1 --", "main\x00", "main\n", "MAIN", []string{"main"}, map[string]any{"main": 1}, 1, true, strings.Repeat("k", 4000)} {
		h.shut(t, fmt.Sprint(kid), "authorization", "Bearer "+signed(t, jwt.SigningMethodRS256, p.key, claims(nil), map[string]any{"kid": kid, "jku": mallory.server.URL, "x5u": mallory.server.URL}))
		h.shut(t, fmt.Sprint(kid), "authorization", "Bearer "+signed(t, jwt.SigningMethodHS256, []byte{}, claims(nil), map[string]any{"kid": kid}))
	}
	if strings.Contains(h.log.String(), "passwd") {
		t.Errorf("what a token says is in the log:\n%s", h.log.String())
	}
}

func TestHugeAndDeepTokensAreRefusedCheaply(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1), secretLogin)
	huge := segment(`{"alg":"HS256","x":"`+strings.Repeat("x", 75_000)+`"}`) + "." + segment("{}") + ".AA"
	for _, where := range []string{"Authorization: Bearer ", "X-Api-Key: ", "Cookie: session="} {
		a := h.raw(t, "GET /v1/streams HTTP/1.1\r\nHost: sluice\r\nConnection: close\r\n"+where+huge+"\r\n\r\n")
		if a.code != 431 {
			t.Errorf("%s: a token of %d bytes is answered with %d", where, len(huge), a.code)
		}
	}
	for name, token := range map[string]string{
		"large":         segment(`{"alg":"HS256","x":"`+strings.Repeat("x", 30_000)+`"}`) + "." + segment("{}") + ".AA",
		"deep header":   segment(strings.Repeat(`{"a":`, 1100)) + "." + segment("{}") + ".AA",
		"deep claims":   segment(`{"alg":"HS256"}`) + "." + segment(strings.Repeat("[", 6000)) + ".AA",
		"a large dot":   strings.Repeat(".", 30_000),
		"a huge number": segment(`{"alg":"HS256"}`) + "." + segment(`{"exp":1`+strings.Repeat("0", 5000)+`}`) + ".AA",
	} {
		h.shut(t, name, "authorization", "Bearer "+token)
		h.shut(t, name, "cookie", "session="+token)
	}
	// A genuine token may be as deep as it likes: what is in it is not followed.
	var deep any = "x"
	for range 500 {
		deep = []any{deep}
	}
	h.do("GET", "/v1/streams", "", "x-api-key", "", "authorization", "Bearer "+hs256(t, jwt.MapClaims{"extra": deep})).status(200)
}

func TestSeveralCredentialsThatDifferAreRefused(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1), secretLogin)
	carol, dave := hs256(t, nil), hs256(t, jwt.MapClaims{"sub": "dave"})
	for name, headers := range map[string]string{
		"two tokens":              "Authorization: Bearer " + carol + "\r\nAuthorization: Bearer " + dave,
		"a token and a key":       "Authorization: Bearer " + carol + "\r\nX-Api-Key: " + aliceKey,
		"a key and a wrong one":   "X-Api-Key: " + aliceKey + "\r\nX-Api-Key: wrong",
		"a key and Basic":         "X-Api-Key: " + aliceKey + "\r\nAuthorization: Basic YTpi",
		"two in one":              "Authorization: Bearer " + carol + ", Bearer " + dave,
		"two cookies":             "Cookie: session=" + carol + "; session=" + dave,
		"two lines of cookies":    "Cookie: session=" + carol + "\r\nCookie: session=" + dave,
		"folded":                  "Authorization: Bearer " + carol + "\r\n Bearer " + dave,
		"a space before the name": "X-A: b\r\n X-Api-Key: " + aliceKey,
		"a space after the name":  "X-Api-Key : " + aliceKey,
	} {
		a := h.raw(t, "GET /v1/streams HTTP/1.1\r\nHost: sluice\r\nConnection: close\r\n"+headers+"\r\n\r\n")
		if a.code != 401 && a.code != 400 {
			t.Errorf("%s: %d %s", name, a.code, a.body)
		}
	}
	for _, headers := range []string{"Authorization: Bearer " + carol + "\r\nAuthorization: Bearer " + carol, "Authorization: Bearer " + dave + "\r\nCookie: session=" + carol} {
		if a := h.raw(t, "GET /v1/streams HTTP/1.1\r\nHost: sluice\r\nConnection: close\r\n"+headers+"\r\n\r\n"); a.code != 200 {
			t.Errorf("%d %s", a.code, a.body)
		}
	}
}

func TestCredentialsAreTakenFromHeadersOnly(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1), secretLogin)
	for _, query := range []string{"access_token=" + hs256(t, nil), "token=" + hs256(t, nil), "api_key=" + aliceKey, "x-api-key=" + aliceKey, "session=" + hs256(t, nil), "ticket=" + aliceKey} {
		h.do("GET", "/v1/streams?"+query, "", "x-api-key", "").refused(401, "authentication_error")
	}
	h.shut(t, "another cookie", "cookie", "jwt="+hs256(t, nil)+"; x-api-key="+aliceKey)
	h.shut(t, "another header", "x-auth-token", hs256(t, nil), "proxy-authorization", "Bearer "+hs256(t, nil))
}

func TestOnlyTheProxyNamesUsers(t *testing.T) {
	t.Parallel()
	elsewhere := func(c *gateway.Config) {
		proxyLogin(c)
		c.Auth.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	}
	h := openHouse(t, saying(1), elsewhere)
	for name, headers := range map[string][]string{
		"the header":             {"x-forwarded-user", "alice"},
		"a forged way":           {"x-forwarded-user", "alice", "x-forwarded-for", "10.0.0.1"},
		"a forged way of before": {"x-forwarded-user", "alice", "forwarded", "for=10.0.0.1", "x-real-ip", "10.0.0.1", "via", "1.1 10.0.0.1"},
		"another spelling":       {"x_forwarded_user", "alice", "X-FORWARDED-USER", "alice"},
	} {
		h.shut(t, name, headers...)
	}
	// It is not passed on either.
	h.do("GET", "/v1/models", "", "x-forwarded-user", "mallory")
	for _, r := range h.upstream.requests() {
		if r.header.Get("X-Forwarded-User") != "" {
			t.Errorf("the upstream saw %v", r.header)
		}
	}
}

func TestAProxysUserIsOneNameOrNobody(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1), proxyLogin, anybody)
	get := func(headers string) *answer {
		return h.raw(t, "GET /v1/streams HTTP/1.1\r\nHost: sluice\r\nConnection: close\r\n"+headers+"\r\n\r\n")
	}
	for name, headers := range map[string]string{
		"two headers": "X-Forwarded-User: carol\r\nX-Forwarded-User: alice", "two spellings": "X-Forwarded-User: carol\r\nx-forwarded-user: alice", "an empty one first": "X-Forwarded-User:\r\nX-Forwarded-User: alice",
		"joined": "X-Forwarded-User: carol,alice", "folded": "X-Forwarded-User: carol\r\n alice, x", "an escape": "X-Forwarded-User: \x1b[31mcarol", "a tab": "X-Forwarded-User: car\tol",
		"latin-1": "X-Forwarded-User: \xe5se", "unseen": "X-Forwarded-User: car\u200bol", "backwards": "X-Forwarded-User: \u202elorac", "long": "X-Forwarded-User: " + strings.Repeat("c", 300),
		"a zero": "X-Forwarded-User: carol\x00", "a bare carriage return": "X-Forwarded-User: carol\rX-Api-Key: " + aliceKey,
	} {
		if a := get(headers); a.code != 401 && a.code != 400 {
			t.Errorf("%s: %d %s", name, a.code, a.body)
		}
	}
	if a := get("X-Forwarded-User: Åse Øst"); a.code != 200 {
		t.Errorf("%d %s", a.code, a.body)
	}
	if strings.Contains(h.log.String(), "lorac") {
		t.Errorf("what was refused is in the log:\n%s", h.log.String())
	}
}

func TestNamesCannotForgeOwnersOrLogLines(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1), secretLogin, proxyLogin, func(c *gateway.Config) { c.Auth.JWT.Issuer = "" })
	mine := h.start(request("short")) // alice's
	for name, headers := range map[string][]string{
		"a token that says key:alice":     {"authorization", "Bearer " + hs256(t, jwt.MapClaims{"sub": "key:alice", "iss": nil})},
		"an issuer that says key:alice":   {"authorization", "Bearer " + hs256(t, jwt.MapClaims{"sub": "x", "iss": "key:alice"})},
		"a proxy that says key:alice":     {"x-forwarded-user", "key:alice"},
		"a proxy that says jwt:…|carol":   {"x-forwarded-user", "jwt:" + issuer + "|carol"},
		"a token that says user:carol":    {"authorization", "Bearer " + hs256(t, jwt.MapClaims{"sub": "user:carol"})},
		"a token that says anonymous:…":   {"authorization", "Bearer " + hs256(t, jwt.MapClaims{"sub": "anonymous:127.0.0.1"})},
		"a proxy that says a query":       {"x-forwarded-user", `carol" owner="key:alice`},
		"a token with braces and escapes": {"authorization", "Bearer " + hs256(t, jwt.MapClaims{"sub": `carol","owner":"key:alice","x":"\u000a`})},
	} {
		headers = append(headers, "x-api-key", "")
		h.do("GET", "/v1/streams/"+mine.ID, "", headers...).refused(404, "not_found_error")
		if a := h.do("GET", "/v1/streams", "", headers...).status(200); !strings.HasPrefix(a.body, `{"data":[],`) {
			t.Errorf("%s sees %s", name, a.body)
		}
		o := h.start(request("short"), headers...)
		eventually(t, func() string { return name + " has no record" }, func() bool { return strings.Contains(h.log.String(), `"stream":"`+o.ID+`"`) })
		h.do("DELETE", "/v1/streams/"+o.ID, "", headers...).status(200)
	}
	for line := range strings.Lines(h.log.String()) {
		if strings.Contains(line, "stream ended") && !strings.Contains(line, mine.ID) && strings.Contains(line, `"owner":"key:alice"`) {
			t.Errorf("a bill of alice's that somebody else made: %s", line)
		}
	}
	h.shut(t, "a line break", "authorization", "Bearer "+hs256(t, jwt.MapClaims{"sub": "carol\n{\"level\":\"ERROR\"}"}))
}

// TestOtherSitesCannotUseWhatTheBrowserAdds sends what a page of another origin makes a browser send.
func TestOtherSitesCannotUseWhatTheBrowserAdds(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1), secretLogin, proxyLogin, anybody)
	ours, err := url.Parse(h.url)
	if err != nil {
		t.Fatal(err)
	}
	for name, ambient := range map[string][]string{
		"cookie": {"cookie", "session=" + hs256(t, nil)}, "proxy": {"x-forwarded-user", "carol"}, "anonymous": {},
	} {
		ambient = append(ambient, "x-api-key", "")
		for site, headers := range map[string][]string{
			"another site": {"sec-fetch-site", "cross-site", "origin", "https://mallory.example"}, "a sibling": {"sec-fetch-site", "same-site", "origin", "https://other." + ours.Host},
			"an old browser": {"origin", "https://mallory.example"}, "a sandbox": {"origin", "null"}, "a port beside": {"origin", "http://" + ours.Hostname() + ":1"},
		} {
			for _, c := range [][3]string{{"POST", "/v1/streams", request("short")}, {"POST", "/v1/messages", ask("short")}, {"POST", "/v1/messages", request("short")}, {"POST", "/v1/messages/count_tokens", request("short")}, {"POST", "/v1/streams/strm_x/cancel", ""}, {"DELETE", "/v1/streams/strm_x", ""}} {
				a := h.do(c[0], c[1], c[2], append(headers, ambient...)...)
				if a.code != 403 {
					t.Errorf("%s, %s: %s %s is answered with %d", name, site, c[0], c[1], a.code)
					continue
				}
				a.refused(403, "permission_error")
			}
			// What the caller has sent on purpose is no page's doing.
			if a := h.do("POST", "/v1/messages/count_tokens", request("short"), append(headers, "cookie", "session="+hs256(t, nil))...); a.code == 403 {
				t.Errorf("%s: a key beside the cookie: %s", site, a.body)
			}
		}
		o := h.start(request("short"), append([]string{"origin", h.url, "sec-fetch-site", "same-origin"}, ambient...)...)
		if name != "anonymous" {
			h.do("DELETE", "/v1/streams/"+o.ID, "", ambient...).status(200)
		}
	}
	for _, r := range h.upstream.requests() {
		if r.header.Get("Cookie") != "" || r.header.Get("Origin") != "" {
			t.Errorf("the upstream saw %v", r.header)
		}
	}
	// A form has no JSON to send.
	h.do("POST", "/v1/streams", request("short"), "x-api-key", "", "cookie", "session="+hs256(t, nil), "content-type", "text/plain").refused(415, "invalid_request_error")
}

func TestForgedAddressesDoNotHelpAGuesser(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1), secretLogin) // which trusts no proxy
	throttled := 0
	for n := range 60 {
		if a := h.do("GET", "/v1/streams", "", "x-api-key", fmt.Sprintf("guess-%d", n), "x-forwarded-for", fmt.Sprintf("203.0.113.%d", n), "forwarded", fmt.Sprintf("for=203.0.113.%d", n), "x-real-ip", fmt.Sprintf("203.0.113.%d", n)); a.code == 429 {
			a.refused(429, "rate_limit_error")
			if a.header.Get("Retry-After") == "" || a.header.Get("X-Should-Retry") != "" {
				t.Errorf("%v", a.header)
			}
			throttled++
		}
	}
	if throttled < 35 {
		t.Errorf("%d of 60 guesses were throttled", throttled)
	}
	h.do("GET", "/v1/streams", "").status(200)
	h.do("GET", "/v1/streams", "", "x-api-key", "", "authorization", "Bearer "+hs256(t, nil)).status(200)
	h.do("GET", "/v1/streams", "", "x-api-key", "", "authorization", "Bearer "+hs256(t, jwt.MapClaims{"exp": 1})).refused(401, "authentication_error")
}

func TestForgedAddressesDoNotHelpTheAnonymous(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1), anybody, func(c *gateway.Config) { c.Plans["free"] = limits.Plan{RequestsPerMinute: 1, Burst: 2} })
	var codes []int
	for n := range 4 {
		codes = append(codes, h.do("POST", "/v1/streams", request("short"), "x-api-key", "", "x-forwarded-for", fmt.Sprintf("203.0.113.%d", n)).code)
	}
	if fmt.Sprint(codes) != "[201 201 429 429]" {
		t.Errorf("answered with %v", codes)
	}
}

// TestAFloodOfAddressesLocksNobodyOut comes through a proxy; what it takes of memory is measured in the auth room.
func TestAFloodOfAddressesLocksNobodyOut(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1), secretLogin, proxyLogin)
	for n := range 3000 {
		if a := h.do("GET", "/v1/streams", "", "x-api-key", "wrong", "x-forwarded-for", fmt.Sprintf("198.18.%d.%d", n>>8, n&0xff)); a.code != 401 {
			t.Fatalf("address %d: %d at its first attempt", n, a.code)
		}
		if n%100 == 0 {
			h.do("GET", "/v1/streams", "", "x-forwarded-for", "203.0.113.9").status(200)
			h.do("GET", "/v1/streams", "", "x-api-key", "", "x-forwarded-user", "carol", "x-forwarded-for", "203.0.113.9").status(200)
		}
	}
	h.do("GET", "/v1/streams", "", "x-api-key", "a slip", "x-forwarded-for", "203.0.113.9").refused(401, "authentication_error")
}

func TestTicketsCannotBeGuessedReplayedOrKept(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(3), secretLogin, func(c *gateway.Config) { c.Relay.Retention = time.Second })
	carol := []string{"x-api-key", "", "authorization", "Bearer " + hs256(t, nil)}
	dave := []string{"x-api-key", "", "authorization", "Bearer " + hs256(t, jwt.MapClaims{"sub": "dave"})}
	mine, other, daves := h.start(request("short"), carol...), h.start(request("short"), carol...), h.start(request("short"), dave...)
	ticket := func(o object) string { return o.EventsURL[strings.Index(o.EventsURL, "?ticket=")+len("?ticket="):] }
	events := func(o object, ticket string) string { return "/v1/streams/" + o.ID + "/events?ticket=" + ticket }
	h.do("GET", events(mine, ticket(mine)), "", "x-api-key", "").status(200)
	for name, path := range map[string]string{
		"one's own other stream": events(mine, ticket(other)), "a neighbour's stream": events(daves, ticket(mine)), "a neighbour's ticket": events(mine, ticket(daves)),
		"a token for a ticket": events(mine, hs256(t, nil)), "a key for a ticket": events(mine, aliceKey),
	} {
		h.do("GET", path, "", "x-api-key", "").refused(401, "authentication_error")
		h.do("GET", path, "", dave...).refused(401, "authentication_error") // nor with a credential beside it
		if strings.Contains(h.log.String(), ticket(mine)) {
			t.Fatalf("%s: a ticket is in the log", name)
		}
	}
	for _, c := range [][2]string{{"POST", "/cancel"}, {"DELETE", ""}, {"GET", ""}} {
		h.do(c[0], "/v1/streams/"+mine.ID+c[1]+"?ticket="+ticket(mine), "", "x-api-key", "").refused(401, "authentication_error")
	}
	h.isEmpty() // their retention is over
	h.do("GET", events(mine, ticket(mine)), "", "x-api-key", "").refused(401, "authentication_error")
	guess := []byte(ticket(mine))
	throttled := false
	for n := range 40 {
		guess[10] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[n]
		throttled = h.do("GET", events(mine, string(guess)), "", "x-api-key", "").code == 429
	}
	if !throttled {
		t.Error("wrong tickets are not throttled")
	}
}

func TestATicketDiesWithTheLoginThatVouchedForIt(t *testing.T) {
	t.Parallel()
	keep := func(c *gateway.Config) { c.Auth.TicketSecret = strings.Repeat("0f", 32) }
	before := openHouse(t, saying(3), secretLogin, keep)
	carol := "Bearer " + hs256(t, nil)
	u, err := url.Parse(before.start(request("short"), "x-api-key", "", "authorization", carol).EventsURL)
	if err != nil {
		t.Fatal(err)
	}
	before.watch("GET", u.RequestURI(), "", "x-api-key", "").rest()
	before.forgetAs(carol)
	for name, c := range map[string]struct {
		change func(*gateway.Config)
		status int // of a stream that the other process has had
	}{
		"as before":      {func(c *gateway.Config) {}, 200},
		"another secret": {func(c *gateway.Config) { c.Auth.JWT.Secret += "x" }, 401},
		"another issuer": {func(c *gateway.Config) { c.Auth.JWT.Issuer = "https://other.example/" }, 401},
		"no tokens":      {func(c *gateway.Config) { c.Auth.JWT = gateway.JWT{} }, 401},
	} {
		h := openHouse(t, saying(3), secretLogin, keep, c.change)
		if a := h.do("GET", u.RequestURI(), "", "x-api-key", ""); a.code != c.status {
			t.Errorf("%s: %d %s", name, a.code, a.body)
		}
	}
}
