package gateway_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
	"github.com/golang-jwt/jwt/v5"

	"sluice/gateway"
	"sluice/gateway/limits"
	"sluice/gateway/simulator"
)

const (
	jwtSecret = "a-secret-of-the-login-9d41b07c55e2"
	issuer    = "https://login.example.com/"
)

// secretLogin has tokens signed with a secret, in a header or in the cookie "session".
func secretLogin(c *gateway.Config) {
	c.Auth.JWT = gateway.JWT{Secret: jwtSecret, Issuer: issuer, Audience: "sluice", UserClaim: "sub", PlanClaim: "plan", Cookie: "session"}
}

// proxyLogin trusts the loopback to name users, and where callers come from.
func proxyLogin(c *gateway.Config) {
	c.Auth.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	c.Auth.UserHeader = "X-Forwarded-User"
}

// anybody lets callers in without credentials. Streams of theirs that have ended are soon forgotten: nobody can delete them.
func anybody(c *gateway.Config) {
	c.Auth.AnonymousPlan = "free"
	c.Plans["free"] = limits.Plan{}
	c.Relay.Retention = 300 * time.Millisecond
}

// claims are a good token's, changed; a nil takes one away.
func claims(changes jwt.MapClaims) jwt.MapClaims {
	c := jwt.MapClaims{"iss": issuer, "aud": "sluice", "sub": "carol", "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

// hs256 signs claims as the login with the secret does.
func hs256(t testing.TB, changes jwt.MapClaims) string {
	t.Helper()
	return signed(t, jwt.SigningMethodHS256, []byte(jwtSecret), claims(changes), nil)
}

func signed(t testing.TB, method jwt.SigningMethod, key any, c jwt.Claims, header map[string]any) string {
	t.Helper()
	token := jwt.NewWithClaims(method, c)
	maps.Copy(token.Header, header)
	s, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// provider is an issuer that publishes its key.
type provider struct {
	key    *rsa.PrivateKey
	server *httptest.Server
}

var providersKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func newProvider(t testing.TB) *provider {
	t.Helper()
	key, err := providersKey()
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{key: key}
	number := func(n *big.Int) string { return base64.RawURLEncoding.EncodeToString(n.Bytes()) }
	set, err := json.Marshal(map[string]any{"keys": []map[string]string{{"kty": "RSA", "kid": "main", "use": "sig", "n": number(key.N), "e": number(big.NewInt(int64(key.E)))}}})
	if err != nil {
		t.Fatal(err)
	}
	p.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write(set) }))
	t.Cleanup(p.server.Close)
	return p
}

func (p *provider) login(c *gateway.Config) {
	secretLogin(c)
	c.Auth.JWT.Secret, c.Auth.JWT.JWKSURL = "", p.server.URL+"/keys"
}

func (p *provider) token(t testing.TB, changes jwt.MapClaims) string {
	t.Helper()
	return signed(t, jwt.SigningMethodRS256, p.key, claims(changes), map[string]any{"kid": "main"})
}

// TestEveryWayOfSigningInOwnsItsStreams goes all routes of a stream as one user, as a neighbour, and with the ticket.
func TestEveryWayOfSigningInOwnsItsStreams(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	for name, way := range map[string]struct {
		login   func(*gateway.Config)
		headers func(user string) []string
		owner   string
	}{
		"a token": {secretLogin, func(user string) []string {
			return []string{"authorization", "Bearer " + hs256(t, jwt.MapClaims{"sub": user})}
		}, "jwt:" + issuer + "|carol"},
		"a provider's token": {p.login, func(user string) []string {
			return []string{"authorization", "Bearer " + p.token(t, jwt.MapClaims{"sub": user})}
		}, "jwt:" + issuer + "|carol"},
		"a token in a cookie": {secretLogin, func(user string) []string {
			return []string{"cookie", "theme=dark; session=" + hs256(t, jwt.MapClaims{"sub": user})}
		}, "jwt:" + issuer + "|carol"},
		"a proxy's word": {proxyLogin, func(user string) []string {
			return []string{"x-forwarded-user", user}
		}, "user:carol"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := openHouse(t, saying(3), way.login)
			carol, dave := append(way.headers("carol"), "x-api-key", ""), append(way.headers("dave"), "x-api-key", "")
			o := h.start(request("short"), append(carol, "idempotency-key", "k")...)
			if again := h.start(request("short"), append(carol, "idempotency-key", "k")...); again.ID != o.ID {
				t.Error("the same request with the same key made another stream")
			}
			other := h.start(request("short"), append(dave, "idempotency-key", "k")...)
			if other.ID == o.ID {
				t.Error("dave joined carol's stream")
			}
			endsWith(t, h.watch("POST", "/v1/messages", ask("short"), carol...).rest(), "message_stop")
			events := h.watchURL("GET", o.EventsURL, "", "x-api-key", "").rest()
			endsWith(t, events, "message_stop")
			same(t, h.watch("GET", "/v1/streams/"+o.ID+"/events", "", carol...).rest(), events)
			path := "/v1/streams/" + o.ID
			for _, stranger := range [][]string{dave, {"x-api-key", bobKey}} {
				for _, c := range [][2]string{{"GET", ""}, {"GET", "/events"}, {"POST", "/cancel"}, {"DELETE", ""}} {
					h.do(c[0], path+c[1], "", stranger...).refused(404, "not_found_error")
				}
			}
			var page struct{ Data []object }
			h.do("GET", "/v1/streams", "", carol...).status(200).into(&page)
			if len(page.Data) != 2 || page.Data[1].ID != o.ID {
				t.Errorf("carol's list is %+v", page)
			}
			h.do("POST", path+"/cancel", "", carol...).status(200)
			if !strings.Contains(h.log.String(), `"owner":"`+way.owner+`"`) {
				t.Errorf("%s is not in the record:\n%s", way.owner, h.log.String())
			}
			for _, who := range [][]string{carol, dave} {
				h.do("GET", "/v1/streams", "", who...).status(200).into(&page)
				for _, s := range page.Data {
					h.do("DELETE", "/v1/streams/"+s.ID, "", who...).status(200)
				}
			}
			h.fetch("GET", o.EventsURL, "", "x-api-key", "").refused(401, "authentication_error") // it has died with its stream
		})
	}
}

func TestATokensPlanIsItsUsersLimit(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}), secretLogin, func(c *gateway.Config) {
		c.Plans["small"] = limits.Plan{RequestsPerMinute: 1, Burst: 1}
	})
	small := []string{"x-api-key", "", "authorization", "Bearer " + hs256(t, jwt.MapClaims{"plan": "small"})}
	h.do("POST", "/v1/messages", request("short"), small...).status(200)
	h.do("POST", "/v1/messages", request("short"), small...).refused(429, "rate_limit_error")
	dave := []string{"x-api-key", "", "authorization", "Bearer " + hs256(t, jwt.MapClaims{"plan": "small", "sub": "dave"})}
	h.do("POST", "/v1/messages", request("short"), dave...).status(200)
	for _, plan := range []any{"gold", "", "default\nowner=key:alice"} {
		for _, path := range []string{"/v1/messages", "/v1/streams"} {
			h.do("POST", path, request("short"), "x-api-key", "", "authorization", "Bearer "+hs256(t, jwt.MapClaims{"plan": plan})).refused(403, "permission_error")
		}
	}
	h.do("POST", "/v1/messages", request("short"), "x-api-key", "", "authorization", "Bearer "+hs256(t, nil)).status(200)
}

func TestAnonymousCallersReadByTicketOnly(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(3), anybody)
	anonymous := []string{"x-api-key", "", "idempotency-key", "k"}
	o, other := h.start(request("short"), anonymous...), h.start(request("short"), anonymous...)
	if o.ID == other.ID {
		t.Error("a second caller without a name joined the first one's stream")
	}
	endsWith(t, h.watchURL("GET", o.EventsURL, "", "x-api-key", "").rest(), "message_stop")
	for _, c := range [][2]string{{"GET", ""}, {"GET", "/events"}, {"POST", "/cancel"}, {"DELETE", ""}} {
		for _, key := range []string{"", aliceKey} {
			h.do(c[0], "/v1/streams/"+o.ID+c[1], "", "x-api-key", key).refused(404, "not_found_error")
		}
	}
	ticket := o.EventsURL[strings.Index(o.EventsURL, "?"):]
	h.do("GET", "/v1/streams/"+other.ID+"/events"+ticket, "", "x-api-key", "").refused(401, "authentication_error")
	if a := h.do("GET", "/v1/streams", "", "x-api-key", "").status(200); a.body != `{"data":[],"has_more":false,"first_id":null,"last_id":null}` {
		t.Errorf("nobody's list is %s", a.body)
	}
	h.do("GET", "/v1/streams?after_id="+o.ID, "", "x-api-key", "").refused(404, "not_found_error")
	endsWith(t, h.watch("POST", "/v1/messages", ask("short"), "x-api-key", "").rest(), "message_stop")
	if !strings.Contains(h.log.String(), `"owner":"anonymous:127.0.0.1"`) {
		t.Errorf("no record of whose bill it is:\n%s", h.log.String())
	}
	// Whoever presents something is that, or nobody.
	h.do("POST", "/v1/streams", request("short"), "x-api-key", "sk-nobody").refused(401, "authentication_error")
}

func TestAnonymousCallersAreLimitedByAddress(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}), anybody, proxyLogin, func(c *gateway.Config) {
		c.Plans["free"] = limits.Plan{RequestsPerMinute: 1, Burst: 1}
	})
	for i, c := range []struct {
		address string
		status  int
	}{
		{"203.0.113.9", 200}, {"203.0.113.9", 429}, {"203.0.113.10", 200}, {"203.0.113.10", 429},
		{"2001:db8:1:2::1", 200}, {"2001:db8:1:2:ffff::1", 429}, {"2001:db8:1:3::1", 200},
		{"198.51.100.1, 203.0.113.9", 429}, {"203.0.113.9, 198.51.100.1", 200},
	} {
		if a := h.do("POST", "/v1/messages", request("short"), "x-api-key", "", "x-forwarded-for", c.address); a.code != c.status {
			t.Errorf("%d: %s: %d %s", i, c.address, a.code, a.body)
		}
	}
	h.do("POST", "/v1/messages", request("short"), "x-api-key", "", "x-forwarded-for", "203.0.113.9", "x-forwarded-user", "carol").status(200)
}

func TestTokensNeedTheirIssuerAndNothingElseDoes(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	p.server.Close()
	h := openHouse(t, saying(1), p.login)
	a := h.do("GET", "/v1/streams", "", "x-api-key", "", "authorization", "Bearer "+p.token(t, nil)).refused(503, "api_error")
	if a.header.Get("Retry-After") == "" {
		t.Errorf("not told when to come back: %v", a.header)
	}
	h.do("GET", "/v1/streams", "").status(200)
	eventually(t, func() string { return "nothing in the log: " + h.log.String() }, func() bool {
		return strings.Contains(h.log.String(), "keys of the tokens' issuer could not be fetched")
	})
}

func TestGoSDKSignsInAndGetsTypedErrors(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}), secretLogin)
	sdk := func(token string) *anthropic.Client {
		client := anthropic.NewClient(option.WithoutEnvironmentDefaults(), option.WithHTTPClient(h.client), option.WithBaseURL(h.url), option.WithAuthToken(token), option.WithMaxRetries(0))
		return &client
	}
	m, err := streamWhole(t, *sdk(hs256(t, nil)), prompt("short"))
	if err != nil || m.StopReason != "end_turn" {
		t.Fatalf("%s: %v", m.StopReason, err)
	}
	h.forgetAs("Bearer " + hs256(t, nil))
	for _, c := range []struct {
		token  string
		status int
		kind   string
	}{
		{hs256(t, jwt.MapClaims{"exp": 1}), 401, "authentication_error"},
		{hs256(t, jwt.MapClaims{"aud": "other"}), 401, "authentication_error"},
		{hs256(t, nil) + "x", 401, "authentication_error"},
		{hs256(t, jwt.MapClaims{"plan": "gold"}), 403, "permission_error"},
	} {
		_, err := streamWhole(t, *sdk(c.token), prompt("short"))
		isTyped(t, err, c.status, c.kind)
		_, err = sdk(c.token).Messages.New(bounds(t), prompt("short"))
		isTyped(t, err, c.status, c.kind)
	}
	for range 30 {
		_, err = sdk("sk-wrong").Messages.New(bounds(t), prompt("short"))
	}
	isTyped(t, err, 429, "rate_limit_error")
	if _, err := sdk(hs256(t, nil)).Messages.New(bounds(t), prompt("short")); err != nil {
		t.Errorf("somebody with the right token at the same address: %v", err)
	}
}

// forgetAs deletes the streams of whoever has this Authorization.
func (h *house) forgetAs(authorization string) {
	h.t.Helper()
	var page struct{ Data []object }
	h.do("GET", "/v1/streams?limit=100", "", "x-api-key", "", "authorization", authorization).status(200).into(&page)
	for _, s := range page.Data {
		h.do("DELETE", "/v1/streams/"+s.ID, "", "x-api-key", "", "authorization", authorization).status(200)
	}
}

func TestRefusedCredentialsAreCountedByKind(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1), secretLogin, proxyLogin)
	get := func(headers ...string) {
		h.do("GET", "/v1/streams", "", append([]string{"x-api-key", ""}, headers...)...)
	}
	get()
	get("authorization", "Bearer wrong")
	get("authorization", "Bearer wrong", "x-api-key", aliceKey)
	get("authorization", "Bearer "+hs256(t, jwt.MapClaims{"exp": 1}))
	get("x-forwarded-user", "carol, dave")
	h.do("GET", "/v1/streams/strm_x/events?ticket=wrong", "", "x-api-key", "")
	for range 25 {
		get("authorization", "Bearer wrong")
	}
	h.counted(map[string]float64{
		`sluice_auth_failures_total{kind="missing"}`: 1, `sluice_auth_failures_total{kind="conflicting"}`: 1, `sluice_auth_failures_total{kind="token"}`: 1,
		`sluice_auth_failures_total{kind="user_header"}`: 1, `sluice_auth_failures_total{kind="ticket"}`: 1,
		`sluice_auth_failures_total{kind="wrong"}`: 19, `sluice_auth_failures_total{kind="throttled"}`: 7,
	})
}
