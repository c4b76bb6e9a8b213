package auth

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
)

const (
	aliceKey = "sk-sluice-alice"
	bobKey   = "sk-sluice-bob"
)

var somebody = netip.MustParseAddr("203.0.113.9")

// hashed writes a key as the configuration does.
func hashed(key string) string {
	sum := sha256.Sum256([]byte(key))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// house is a configuration with two keys, one hashed and one plain.
func house() Config {
	return Config{
		Keys:         []Key{{ID: "alice", Key: hashed(aliceKey), Plan: "large"}, {ID: "bob", Key: bobKey}},
		DefaultPlan:  "default",
		TicketSecret: "a secret for tests",
	}
}

func demo() Config {
	cfg := house()
	cfg.Ambient = &Identity{Owner: "user:demo"}
	return cfg
}

func open(t testing.TB, cfg Config) *Auth {
	t.Helper()
	a, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func request(h http.Header) *http.Request {
	r := httptest.NewRequest("POST", "/v1/messages", nil)
	r.Header = h
	return r
}

func identify(t testing.TB, a *Auth, h http.Header) Identity {
	t.Helper()
	id, err := a.Identify(request(h))
	if err != nil {
		t.Fatalf("Identify: %v", err)
	}
	return id
}

func TestAKeyInEitherHeaderSaysWhoCalls(t *testing.T) {
	a := open(t, house())
	for _, test := range []struct {
		name        string
		header      http.Header
		owner, plan string
	}{
		{"x-api-key", http.Header{"X-Api-Key": {aliceKey}}, "key:alice", "large"},
		{"bearer", http.Header{"Authorization": {"Bearer " + aliceKey}}, "key:alice", "large"},
		{"default plan", http.Header{"X-Api-Key": {bobKey}}, "key:bob", "default"},
		{"scheme in any case", http.Header{"Authorization": {"bEARER " + bobKey}}, "key:bob", "default"},
		{"more spaces", http.Header{"Authorization": {"  Bearer   " + bobKey + " \t"}}, "key:bob", "default"},
		{"spaces around", http.Header{"X-Api-Key": {" " + bobKey + " "}}, "key:bob", "default"},
		{"both, equal", http.Header{"X-Api-Key": {bobKey}, "Authorization": {"Bearer " + bobKey}}, "key:bob", "default"},
		{"twice, equal", http.Header{"X-Api-Key": {bobKey, bobKey}}, "key:bob", "default"},
		{"empty x-api-key", http.Header{"X-Api-Key": {""}, "Authorization": {"Bearer " + bobKey}}, "key:bob", "default"},
		{"empty bearer", http.Header{"X-Api-Key": {bobKey}, "Authorization": {"Bearer "}}, "key:bob", "default"},
		{"empty first", http.Header{"X-Api-Key": {" ", bobKey}}, "key:bob", "default"},
	} {
		t.Run(test.name, func(t *testing.T) {
			id := identify(t, a, test.header)
			if id.Owner != test.owner || id.Account != test.owner || id.Plan != test.plan || id.Ambient {
				t.Errorf("Identify = %+v, want %s on %s", id, test.owner, test.plan)
			}
		})
	}
}

func TestWhatIsNotOneRightKeyIsRefusedEvenWhereAnyoneMayCall(t *testing.T) {
	for _, test := range []struct {
		name   string
		header http.Header
		want   error
	}{
		{"wrong", http.Header{"X-Api-Key": {"sk-sluice-mallory"}}, ErrWrongCredentials},
		{"wrong bearer", http.Header{"Authorization": {"Bearer sk-sluice-mallory"}}, ErrWrongCredentials},
		{"other case", http.Header{"X-Api-Key": {strings.ToUpper(bobKey)}}, ErrWrongCredentials},
		{"prefix", http.Header{"X-Api-Key": {bobKey[:len(bobKey)-1]}}, ErrWrongCredentials},
		{"the hash itself", http.Header{"X-Api-Key": {hashed(aliceKey)}}, ErrWrongCredentials},
		{"white space within", http.Header{"Authorization": {"Bearer " + bobKey + " x"}}, ErrWrongCredentials},
		{"joined by a proxy", http.Header{"X-Api-Key": {bobKey + ", " + bobKey}}, ErrWrongCredentials},
		{"no scheme", http.Header{"Authorization": {bobKey}}, ErrWrongCredentials},
		{"other scheme", http.Header{"Authorization": {"Basic " + bobKey}}, ErrWrongCredentials},
		{"other scheme, nothing else", http.Header{"Authorization": {"Negotiate"}}, ErrWrongCredentials},
		{"too long", http.Header{"X-Api-Key": {strings.Repeat("k", maxCredential+1)}}, ErrWrongCredentials},
		{"two that differ", http.Header{"X-Api-Key": {aliceKey}, "Authorization": {"Bearer " + bobKey}}, ErrConflictingCredentials},
		{"right and wrong", http.Header{"X-Api-Key": {aliceKey}, "Authorization": {"Bearer x"}}, ErrConflictingCredentials},
		{"right and another scheme", http.Header{"X-Api-Key": {aliceKey}, "Authorization": {"Basic eDp5"}}, ErrConflictingCredentials},
		{"duplicates that differ", http.Header{"X-Api-Key": {aliceKey, bobKey}}, ErrConflictingCredentials},
		{"bearers that differ", http.Header{"Authorization": {"Bearer " + aliceKey, "Bearer " + bobKey}}, ErrConflictingCredentials},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, cfg := range []Config{house(), demo()} {
				id, err := open(t, cfg).Identify(request(test.header))
				if !errors.Is(err, test.want) || id != (Identity{}) {
					t.Fatalf("Identify = %+v, %v; want %v", id, err, test.want)
				}
				for _, secret := range []string{aliceKey, bobKey, "mallory", "eDp5", "kkk"} {
					if strings.Contains(err.Error(), secret) {
						t.Errorf("the error shows what was sent: %v", err)
					}
				}
			}
		})
	}
}

func TestACallerWithNothingIsNobodyUnlessThereIsAnAmbientIdentity(t *testing.T) {
	for _, h := range []http.Header{
		{}, {"X-Api-Key": {""}}, {"Authorization": {""}}, {"Authorization": {"Bearer"}}, {"Authorization": {"bearer  "}},
		{"X-Api-Key": {" "}, "Authorization": {"Bearer "}},
	} {
		if id, err := open(t, house()).Identify(request(h)); !errors.Is(err, ErrNoCredentials) || id != (Identity{}) {
			t.Errorf("Identify(%v) = %+v, %v", h, id, err)
		}
		id := identify(t, open(t, demo()), h)
		if id.Owner != "user:demo" || id.Account != id.Owner || id.Plan != "default" || !id.Ambient {
			t.Errorf("Identify(%v) = %+v, want the ambient identity", h, id)
		}
	}
}

func TestAKeyIsNotAmbientWhereAnyoneMayCall(t *testing.T) {
	if id := identify(t, open(t, demo()), http.Header{"X-Api-Key": {bobKey}}); id.Owner != "key:bob" || id.Ambient {
		t.Errorf("Identify = %+v", id)
	}
}

func TestTheCallersConfigurationIsNotShared(t *testing.T) {
	cfg := demo()
	a := open(t, cfg)
	cfg.Ambient.Owner, cfg.Keys[1].ID = "user:mallory", "mallory"
	if id := identify(t, a, nil); id.Owner != "user:demo" {
		t.Errorf("Identify = %+v", id)
	}
	if cfg.Ambient.Ambient {
		t.Error("New wrote to its configuration")
	}
}

func TestAGeneratedKeyLetsItsOwnerIn(t *testing.T) {
	plain, hash := GenerateKey()
	other, _ := GenerateKey()
	if plain == other || !strings.HasPrefix(plain, "sk-sluice-") || len(plain) != 53 || hash != hashed(plain) {
		t.Fatalf("GenerateKey = %q, %q, then %q", plain, hash, other)
	}
	for _, written := range []string{hash, plain, "sha256:" + strings.ToUpper(strings.TrimPrefix(hash, "sha256:"))} {
		a := open(t, Config{Keys: []Key{{ID: "carol", Key: written}}})
		if id := identify(t, a, http.Header{"X-Api-Key": {plain}}); id.Owner != "key:carol" {
			t.Errorf("Identify = %+v", id)
		}
	}
}

func TestABadConfigurationIsRefusedByNameWithoutItsKeys(t *testing.T) {
	for _, test := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"no id", Config{Keys: []Key{{Key: bobKey}}}, "API key 1"},
		{"no key", Config{Keys: []Key{{ID: "bob"}}}, `"bob" is empty`},
		{"same id", Config{Keys: []Key{{ID: "bob", Key: aliceKey}, {ID: "bob", Key: bobKey}}}, `"bob"`},
		{"same key", Config{Keys: []Key{{ID: "alice", Key: bobKey}, {ID: "bob", Key: hashed(bobKey)}}}, `"alice" and "bob"`},
		{"hash cut short", Config{Keys: []Key{{ID: "bob", Key: hashed(bobKey)[:40]}}}, "64 hexadecimal digits"},
		{"hash of something else", Config{Keys: []Key{{ID: "bob", Key: "sha256:" + bobKey}}}, "64 hexadecimal digits"},
		{"key that no header carries", Config{Keys: []Key{{ID: "bob", Key: bobKey + " \n"}}}, "white space"},
		{"key too long", Config{Keys: []Key{{ID: "bob", Key: strings.Repeat(bobKey, 1000)}}}, "longer than"},
		{"ambient nobody", Config{Ambient: &Identity{Plan: "p"}}, "no owner"},
		{"ambient key", Config{Ambient: &Identity{Owner: "key:bob"}}, `"key:bob"`},
		{"invalid proxy", Config{TrustedProxies: []netip.Prefix{{}}}, "trusted proxies"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, err := New(test.cfg, slog.New(slog.DiscardHandler))
			if err == nil || a != nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("New = %v, %v; want %q in the error", a, err, test.want)
			}
			if strings.Contains(err.Error(), bobKey) || strings.Contains(err.Error(), hashed(bobKey)[7:20]) {
				t.Errorf("the error shows a key: %v", err)
			}
		})
	}
}

func TestManyCallAtOnce(t *testing.T) {
	a := open(t, demo())
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			id, err := a.Identify(request(http.Header{"X-Api-Key": {aliceKey}}))
			if err != nil {
				t.Error(err)
			}
			if ours, err := a.CheckTicket(somebody, a.IssueTicket("strm_1", id), "strm_1"); err != nil || !ours {
				t.Errorf("CheckTicket = %v, %v", ours, err)
			}
		})
	}
	wg.Wait()
}

func FuzzAuthorization(f *testing.F) {
	a := open(f, demo())
	f.Add(aliceKey, "Bearer "+aliceKey)
	f.Add("", "bearer  "+bobKey)
	f.Add("", "Basic eDp5")
	f.Add(" ", "Bearer \t")
	f.Add("x", "")
	f.Fuzz(func(t *testing.T, apiKey, authorization string) {
		id, err := a.Identify(request(http.Header{"X-Api-Key": {apiKey}, "Authorization": {authorization}}))
		both := apiKey + " " + authorization
		switch {
		case err != nil:
			if id != (Identity{}) {
				t.Errorf("an identity besides an error: %+v", id)
			}
		case id.Ambient:
			if rest := strings.Trim(both, " \t"); rest != "" && !strings.EqualFold(rest, "Bearer") {
				t.Errorf("ambient in spite of %q, %q", apiKey, authorization)
			}
		case id.Owner == "key:alice" && !strings.Contains(both, aliceKey), id.Owner == "key:bob" && !strings.Contains(both, bobKey):
			t.Errorf("%q, %q are taken for %s", apiKey, authorization, id.Owner)
		}
	})
}
