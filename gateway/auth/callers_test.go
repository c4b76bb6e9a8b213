package auth

import (
	"crypto/ed25519"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// proxied is a house whose proxies name users.
func proxied() Config {
	cfg := house()
	cfg.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	cfg.UserHeader = "x-forwarded-user"
	return cfg
}

func TestATrustedProxySaysWhoCalls(t *testing.T) {
	a := open(t, proxied())
	for _, peer := range []string{"10.0.0.1", "::ffff:10.0.0.1", "fd00::1"} {
		for header, owner := range map[string]string{"carol": "user:carol", " carol ": "user:carol", "carol@example.com": "user:carol@example.com", "Åse": "user:Åse"} {
			id, err := a.Identify(from(peer, http.Header{"X-Forwarded-User": {header}}))
			if err != nil || id.Owner != owner || id.Account != owner || id.Plan != "default" || !id.Ambient {
				t.Errorf("%s: Identify = %+v, %v", peer, id, err)
			}
		}
	}
	// What the caller sends on purpose goes before.
	h := http.Header{"X-Forwarded-User": {"carol"}, "X-Api-Key": {bobKey}}
	if id, err := a.Identify(from("10.0.0.1", h)); err != nil || id.Owner != "key:bob" || id.Ambient {
		t.Errorf("Identify = %+v, %v", id, err)
	}
	h.Set("X-Api-Key", "wrong")
	if id, err := a.Identify(from("10.0.0.1", h)); !errors.Is(err, ErrWrongCredentials) {
		t.Errorf("a wrong key: Identify = %+v, %v", id, err)
	}
	if id, err := a.Identify(from("10.0.0.1", http.Header{"X-Forwarded-User": {""}})); !errors.Is(err, ErrNoCredentials) {
		t.Errorf("nobody: Identify = %+v, %v", id, err)
	}
}

func TestFromAnyoneElseTheUserHeaderIsWorthNothing(t *testing.T) {
	cfg := proxied()
	for _, anonymous := range []string{"", "free"} {
		cfg.AnonymousPlan = anonymous
		a := open(t, cfg)
		for _, peer := range []string{"203.0.113.9", "127.0.0.1", "11.0.0.1", "2001:db8::1", "::ffff:203.0.113.9"} {
			for _, h := range []http.Header{
				{"X-Forwarded-User": {"carol"}}, {"X-Forwarded-User": {"carol"}, "X-Forwarded-For": {"10.0.0.1"}},
				{"X-Forwarded-User": {"carol", "dave"}}, {"X-Forwarded-User": {"car\nol"}},
			} {
				id, err := a.Identify(from(peer, h))
				if anonymous == "" && !errors.Is(err, ErrNoCredentials) || id.Owner != "" {
					t.Errorf("%s, %v: Identify = %+v, %v", peer, h, id, err)
				}
			}
		}
		// Other spellings of its name are other headers.
		if id, _ := a.Identify(from("10.0.0.1", http.Header{"X_Forwarded_User": {"carol"}, "X-Forwarded-User-Id": {"carol"}})); id.Owner != "" {
			t.Errorf("Identify = %+v", id)
		}
	}
	cfg.UserHeader, cfg.AnonymousPlan = "", ""
	if id, err := open(t, cfg).Identify(from("10.0.0.1", http.Header{"X-Forwarded-User": {"carol"}, "": {"carol"}})); !errors.Is(err, ErrNoCredentials) {
		t.Errorf("a header that nobody configured: Identify = %+v, %v", id, err)
	}
}

func TestAUserThatIsNoPlainNameIsRefused(t *testing.T) {
	cfg := proxied()
	cfg.AnonymousPlan = "free"
	a := open(t, cfg)
	for name, values := range map[string][]string{
		"several": {"carol", "dave"}, "twice the same": {"carol", "carol"}, "empty and one": {"", "carol"},
		"joined": {"carol, dave"}, "a line break": {"carol\r\nX-Evil: 1"}, "an escape": {"\x1b[2Jcarol"}, "a zero": {"carol\x00"},
		"backwards": {"\u202ecarol"}, "not UTF-8": {"carol\xff"}, "a tab": {"ca\trol"}, "long": {strings.Repeat("c", maxName+1)},
	} {
		id, err := a.Identify(from("10.0.0.1", http.Header{"X-Forwarded-User": values}))
		if !errors.Is(err, ErrUserRefused) || id != (Identity{}) || strings.Contains(err.Error(), "carol") {
			t.Errorf("%s: Identify = %+v, %v", name, id, err)
		}
	}
}

func TestProxyAndCookieAreNotMixed(t *testing.T) {
	cfg := proxied()
	cfg.JWT = signedIn().JWT
	a := open(t, cfg)
	h := http.Header{"X-Forwarded-User": {"dave"}, "Cookie": {"session=" + hs256(t, nil)}}
	if id, err := a.Identify(from("10.0.0.1", h)); err != nil || id.Owner != "user:dave" {
		t.Errorf("behind the proxy: Identify = %+v, %v", id, err)
	}
	if id, err := a.Identify(from("203.0.113.9", h)); err != nil || id.Owner != "jwt:"+login+"|carol" {
		t.Errorf("elsewhere: Identify = %+v, %v", id, err)
	}
}

func TestAnonymousCallersOwnNothingAndPayByAddress(t *testing.T) {
	cfg := house()
	cfg.AnonymousPlan = "free"
	cfg.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	a := open(t, cfg)
	for _, c := range []struct{ peer, forwarded, account string }{
		{"203.0.113.9", "", "anonymous:203.0.113.9"},
		{"::ffff:203.0.113.9", "", "anonymous:203.0.113.9"},
		{"2001:db8:1:2:3:4:5:6", "", "anonymous:2001:db8:1:2::/64"},
		{"203.0.113.9", "198.51.100.1", "anonymous:203.0.113.9"},
		{"10.0.0.1", "198.51.100.1", "anonymous:198.51.100.1"},
	} {
		h := http.Header{}
		if c.forwarded != "" {
			h.Set("X-Forwarded-For", c.forwarded)
		}
		id, err := a.Identify(from(c.peer, h))
		if err != nil || id.Owner != "" || id.Account != c.account || id.Plan != "free" || !id.Ambient {
			t.Errorf("%s: Identify = %+v, %v", c.peer, id, err)
		}
		if ours, err := a.CheckTicket(somebody, a.IssueTicket(stream, id), stream); err != nil || !ours {
			t.Errorf("its ticket: %v, %v", ours, err)
		}
	}
	// A credential is never less than none.
	if id := identify(t, a, http.Header{"X-Api-Key": {aliceKey}}); id.Owner != "key:alice" || id.Ambient {
		t.Errorf("Identify = %+v", id)
	}
	if id, err := a.Identify(request(wrongKey)); !errors.Is(err, ErrWrongCredentials) {
		t.Errorf("Identify = %+v, %v", id, err)
	}
	cfg.Ambient = &Identity{Owner: "user:demo"}
	if id := identify(t, open(t, cfg), nil); id.Owner != "user:demo" {
		t.Errorf("Identify = %+v, want the ambient identity", id)
	}
}

func TestATicketDiesWithWhatVouchesForItsOwner(t *testing.T) {
	all := proxied()
	all.JWT, all.AnonymousPlan = signedIn().JWT, "free"
	a := open(t, all)
	ticket := func(h http.Header) string {
		id, err := a.Identify(from("10.0.0.1", h))
		if err != nil {
			t.Fatal(err)
		}
		return a.IssueTicket(stream, id)
	}
	tickets := map[string]string{"token": ticket(bearer(hs256(t, nil))), "cookie": ticket(http.Header{"Cookie": {"session=" + hs256(t, nil)}}),
		"proxy": ticket(http.Header{"X-Forwarded-User": {"carol"}}), "anonymous": ticket(nil), "key": ticket(http.Header{"X-Api-Key": {aliceKey}})}
	for name, c := range map[string]struct {
		change func(*Config)
		dead   []string
	}{
		"nothing":           {func(c *Config) {}, nil},
		"no tokens":         {func(c *Config) { c.JWT = JWT{} }, []string{"token", "cookie"}},
		"another secret":    {func(c *Config) { c.JWT.Secret += "." }, []string{"token", "cookie"}},
		"another issuer":    {func(c *Config) { c.JWT.Issuer += "." }, []string{"token", "cookie"}},
		"another audience":  {func(c *Config) { c.JWT.Audience += "." }, []string{"token", "cookie"}},
		"keys for a secret": {func(c *Config) { c.JWT.Secret, c.JWT.JWKSURL = "", keysURL }, []string{"token", "cookie"}},
		"no cookie":         {func(c *Config) { c.JWT.Cookie = "" }, nil},
		"no proxy users":    {func(c *Config) { c.UserHeader = "" }, []string{"proxy"}},
		"another header":    {func(c *Config) { c.UserHeader = "X-User" }, []string{"proxy"}},
		"nobody anonymous":  {func(c *Config) { c.AnonymousPlan = "" }, []string{"anonymous"}},
		"another plan":      {func(c *Config) { c.AnonymousPlan = "other" }, nil},
		"no keys":           {func(c *Config) { c.Keys = nil }, []string{"key"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := all
			c.change(&cfg)
			after := open(t, cfg)
			for owner, ticket := range tickets {
				want := error(nil)
				for _, dead := range c.dead {
					if dead == owner {
						want = ErrTicketDead
					}
				}
				if _, err := after.CheckTicket(somebody, ticket, stream); !errors.Is(err, want) {
					t.Errorf("the ticket of %s: %v, want %v", owner, err, want)
				}
			}
		})
	}
}

func TestTagsOfDifferentThingsDiffer(t *testing.T) {
	s, err := newTicketSecret("x")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[tag]bool)
	for _, parts := range [][]string{{"a"}, {"a", ""}, {"a", "", ""}, {"", "a"}, {"a", "b"}, {"ab"}, {"a\x00b"}, {"a", "b", "c"}, {"a", "bc"}, {"ab", "c"}} {
		if got := s.tag(parts[0], parts[1:]...); seen[got] {
			t.Errorf("%q has the tag of another", parts)
		} else {
			seen[got] = true
		}
	}
}

func TestAReloadReplacesAllCallersAtOnce(t *testing.T) {
	a := open(t, house())
	mine := ticketOf(t, a, aliceKey)
	next := signedIn()
	next.Keys[0].Plan = "small"
	next.Keys = next.Keys[:1]
	next.TicketSecret = "" // the one of before stays
	next.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	if err := a.Reload(next); err != nil {
		t.Fatal(err)
	}
	if id := identify(t, a, http.Header{"X-Api-Key": {aliceKey}}); id.Plan != "small" {
		t.Errorf("Identify = %+v", id)
	}
	if _, err := a.Identify(request(http.Header{"X-Api-Key": {bobKey}})); !errors.Is(err, ErrWrongCredentials) {
		t.Errorf("a removed key: %v", err)
	}
	identify(t, a, bearer(hs256(t, nil)))
	r := request(http.Header{"X-Forwarded-For": {"198.51.100.1"}})
	if got := a.ClientAddr(r).String(); got != "198.51.100.1" { // httptest's peer is 192.0.2.1
		t.Errorf("ClientAddr = %s", got)
	}
	if ours, err := a.CheckTicket(somebody, mine, stream); err != nil || !ours {
		t.Errorf("a ticket of before: %v, %v", ours, err)
	}
	next.TicketSecret = "another secret"
	if err := a.Reload(next); err != nil {
		t.Fatal(err)
	}
	if _, err := a.CheckTicket(somebody, mine, stream); !errors.Is(err, ErrWrongTicket) {
		t.Errorf("after the secret was changed: %v", err)
	}
}

func TestABadReloadChangesNothing(t *testing.T) {
	a := open(t, signedIn())
	mine := ticketOf(t, a, aliceKey)
	for name, change := range map[string]func(*Config){
		"a bad key":       func(c *Config) { c.Keys[0].Key = "" },
		"both":            func(c *Config) { c.JWT.JWKSURL = keysURL },
		"no user":         func(c *Config) { c.JWT.UserClaim = "" },
		"no proxies":      func(c *Config) { c.UserHeader = "X-User" },
		"a bad proxy":     func(c *Config) { c.TrustedProxies = []netip.Prefix{{}} },
		"a bad ambiance":  func(c *Config) { c.Ambient = &Identity{} },
		"another's owner": func(c *Config) { c.Ambient = &Identity{Owner: "key:alice"} },
	} {
		cfg := signedIn()
		cfg.TicketSecret = "another"
		change(&cfg)
		if err := a.Reload(cfg); err == nil || strings.Contains(err.Error(), jwtSecret) {
			t.Errorf("%s: Reload = %v", name, err)
		}
		if _, err := New(cfg, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%s: New takes it", name)
		}
		identify(t, a, http.Header{"X-Api-Key": {aliceKey}})
		identify(t, a, bearer(hs256(t, nil)))
		if _, err := a.CheckTicket(somebody, mine, stream); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAReloadKeepsTheKeysOfTheSameIssuer(t *testing.T) {
	var asked [2]atomic.Int64
	keys := [2]ed25519.PrivateKey{newEdKey(), newEdKey()}
	var urls [2]string
	for n := range keys {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked[n].Add(1)
			io.WriteString(w, keySet(jwk("ed", keys[n], "")))
		}))
		defer server.Close()
		urls[n] = server.URL
	}
	cfg := house()
	cfg.JWT = JWT{JWKSURL: urls[0], UserClaim: "sub"}
	a := open(t, cfg)
	a.Start()
	identify(t, a, eddsa(t, keys[0], "kid", "ed"))
	cfg.JWT.PlanClaim = "plan"
	if err := a.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	identify(t, a, eddsa(t, keys[0], "kid", "ed"))
	if n := asked[0].Load(); n != 1 {
		t.Errorf("the issuer was asked %d times", n)
	}
	old := a.callers.Load().tokens.keys
	cfg.JWT.JWKSURL = urls[1]
	if err := a.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	if old.ctx.Err() == nil || old.refresh() != nil {
		t.Error("the issuer of before is still asked")
	}
	identify(t, a, eddsa(t, keys[1], "kid", "ed"))
	if _, err := a.Identify(request(eddsa(t, keys[0], "kid", "ed"))); !errors.Is(err, ErrWrongCredentials) {
		t.Errorf("a token of the issuer of before: %v", err)
	}
	a.Close()
	cfg.JWT.JWKSURL = urls[0]
	if err := a.Reload(cfg); err != nil { // after the end nothing begins
		t.Fatal(err)
	}
	if _, err := a.Identify(request(eddsa(t, keys[0], "kid", "ed"))); !errors.Is(err, ErrKeysUnavailable) {
		t.Errorf("after Close: %v", err)
	}
	if n := asked[0].Load(); n != 1 {
		t.Errorf("the issuer was asked %d times", n)
	}
}

func TestReloadsDisturbNobodyWhoCalls(t *testing.T) {
	a := open(t, signedIn())
	token, mine := hs256(t, nil), ticketOf(t, a, aliceKey)
	var callers sync.WaitGroup
	stop := make(chan struct{})
	for range 16 {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for _, h := range []http.Header{{"X-Api-Key": {aliceKey}}, bearer(token)} {
					if _, err := a.Identify(request(h)); err != nil {
						t.Error(err)
						return
					}
				}
				if _, err := a.CheckTicket(somebody, mine, stream); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 200 {
		if err := a.Reload(signedIn()); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	callers.Wait()
}
