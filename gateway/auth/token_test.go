package auth

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	jwtSecret = "a secret for tests, of 32 characters"
	login     = "https://login.example.com/"
)

// signedIn is a house that takes tokens signed with a secret.
func signedIn() Config {
	cfg := house()
	cfg.JWT = JWT{Secret: jwtSecret, Issuer: login, Audience: "sluice", UserClaim: "sub", PlanClaim: "plan", Cookie: "session"}
	return cfg
}

// claims are those of a good token, changed; a nil takes one away.
func claims(changes jwt.MapClaims) jwt.MapClaims {
	c := jwt.MapClaims{"iss": login, "aud": "sluice", "sub": "carol", "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

func sign(t testing.TB, method jwt.SigningMethod, key any, c jwt.MapClaims, header ...string) string {
	t.Helper()
	token := jwt.NewWithClaims(method, c)
	for i := 0; i < len(header); i += 2 {
		token.Header[header[i]] = header[i+1]
	}
	signed, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func hs256(t testing.TB, changes jwt.MapClaims) string {
	t.Helper()
	return sign(t, jwt.SigningMethodHS256, []byte(jwtSecret), claims(changes))
}

func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

func TestATokenSaysWhoCallsAndOnWhichPlan(t *testing.T) {
	for _, test := range []struct {
		name        string
		claims      jwt.MapClaims
		change      func(*Config)
		owner, plan string
	}{
		{"plain", nil, nil, "jwt:" + login + "|carol", "default"},
		{"with a plan", jwt.MapClaims{"plan": "large"}, nil, "jwt:" + login + "|carol", "large"},
		{"plan null", jwt.MapClaims{"plan": nil}, nil, "jwt:" + login + "|carol", "default"},
		{"a plan of nothing is not the default", jwt.MapClaims{"plan": ""}, nil, "jwt:" + login + "|carol", ""},
		{"tokens don't choose a plan", jwt.MapClaims{"plan": "large", "": "large"}, func(c *Config) { c.JWT.PlanClaim = "" }, "jwt:" + login + "|carol", "default"},
		{"other claims", jwt.MapClaims{"email": "c@example.com", "https://x.example/plan": "small"},
			func(c *Config) { c.JWT.UserClaim, c.JWT.PlanClaim = "email", "https://x.example/plan" }, "jwt:" + login + "|c@example.com", "small"},
		{"a number", jwt.MapClaims{"uid": 9007199254740991}, func(c *Config) { c.JWT.UserClaim = "uid" }, "jwt:" + login + "|9007199254740991", "default"},
		{"zero", jwt.MapClaims{"uid": 0}, func(c *Config) { c.JWT.UserClaim = "uid" }, "jwt:" + login + "|0", "default"},
		{"sub with a bar", jwt.MapClaims{"sub": "auth0|5f7c"}, nil, "jwt:" + login + "|auth0|5f7c", "default"},
		{"sub in any script", jwt.MapClaims{"sub": "Åse 李"}, nil, "jwt:" + login + "|Åse 李", "default"},
		{"a bar first is no other issuer", jwt.MapClaims{"sub": "|carol"}, nil, "jwt:" + login + "||carol", "default"},
		{"any issuer", jwt.MapClaims{"iss": "elsewhere"}, func(c *Config) { c.JWT.Issuer = "" }, "jwt:elsewhere|carol", "default"},
		{"no issuer", jwt.MapClaims{"iss": nil}, func(c *Config) { c.JWT.Issuer = "" }, "jwt:|carol", "default"},
		{"any audience", jwt.MapClaims{"aud": nil}, func(c *Config) { c.JWT.Audience = "" }, "jwt:" + login + "|carol", "default"},
		{"audience in a list", jwt.MapClaims{"aud": []string{"other", "sluice"}}, nil, "jwt:" + login + "|carol", "default"},
		{"just expired", jwt.MapClaims{"exp": time.Now().Add(-leeway / 2).Unix()}, nil, "jwt:" + login + "|carol", "default"},
		{"almost valid", jwt.MapClaims{"nbf": time.Now().Add(leeway / 2).Unix()}, nil, "jwt:" + login + "|carol", "default"},
		{"names are exact", jwt.MapClaims{"SUB": "mallory", "Sub": "mallory", "PLAN": "large"}, nil, "jwt:" + login + "|carol", "default"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := signedIn()
			if test.change != nil {
				test.change(&cfg)
			}
			a, token := open(t, cfg), hs256(t, test.claims)
			for _, h := range []http.Header{bearer(token), {"X-Api-Key": {token}}, {"X-Api-Key": {token}, "Authorization": {"bearer " + token}}} {
				id := identify(t, a, h)
				if id.Owner != test.owner || id.Account != test.owner || id.Plan != test.plan || id.Ambient {
					t.Errorf("Identify = %+v, want %s on %s", id, test.owner, test.plan)
				}
			}
		})
	}
}

func TestATokenThatIsNotGoodIsRefused(t *testing.T) {
	segment := func(json string) string { return base64.RawURLEncoding.EncodeToString([]byte(json)) }
	good := hs256(t, nil)
	head, rest, _ := strings.Cut(good, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	unsigned := sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, claims(nil))
	long := time.Now().Add(-time.Hour).Unix()
	for _, test := range []struct {
		name, token string
		want        error
		says        string
	}{
		{"alg none", unsigned, ErrWrongCredentials, "not signed"},
		{"alg None", segment(`{"alg":"None","typ":"JWT"}`) + "." + payload + ".", ErrWrongCredentials, "not signed"},
		{"alg none, signed", segment(`{"alg":"none"}`) + "." + payload + "." + signature, ErrWrongCredentials, "not signed"},
		{"no alg", segment(`{"typ":"JWT"}`) + "." + payload + "." + signature, ErrWrongCredentials, "not signed"},
		{"alg twice", segment(`{"alg":"HS256","alg":"none"}`) + "." + payload + ".", ErrWrongCredentials, "not signed"},
		{"alg a list", segment(`{"alg":["HS256"]}`) + "." + payload + "." + signature, ErrWrongCredentials, "not signed"},
		{"without signature", head + "." + payload + ".", ErrWrongCredentials, "not signed"},
		{"signature cut", good[:len(good)-4], ErrWrongCredentials, "not signed"},
		{"another secret", sign(t, jwt.SigningMethodHS256, []byte("another"), claims(nil)), ErrWrongCredentials, "not signed"},
		{"an empty secret", sign(t, jwt.SigningMethodHS256, []byte(""), claims(nil)), ErrWrongCredentials, "not signed"},
		{"HS512", sign(t, jwt.SigningMethodHS512, []byte(jwtSecret), claims(nil)), ErrWrongCredentials, "not signed"},
		{"RS256", sign(t, jwt.SigningMethodRS256, rsaKey(), claims(nil)), ErrWrongCredentials, "not signed"},
		{"claims changed", head + "." + segment(`{"sub":"alice","exp":99999999999}`) + "." + signature, ErrWrongCredentials, "not signed"},
		{"header changed", segment(`{"alg":"HS256","kid":"x"}`) + "." + payload + "." + signature, ErrWrongCredentials, "not signed"},
		{"critical extensions", sign(t, jwt.SigningMethodHS256, []byte(jwtSecret), claims(nil), "crit", "b64"), ErrWrongCredentials, "not signed"},
		{"two parts", head + "." + payload, ErrWrongCredentials, "neither"},
		{"five parts", "a.b.c.d.e", ErrWrongCredentials, "neither"},
		{"dots", "..", ErrWrongCredentials, "not signed"},
		{"not base64", "!." + payload + "." + signature, ErrWrongCredentials, "not signed"},
		{"not JSON", segment("x") + "." + payload + "." + signature, ErrWrongCredentials, "not signed"},
		{"deep", segment(strings.Repeat("[", 5000)) + "." + payload + "." + signature, ErrWrongCredentials, "not signed"},
		{"deep claims", head + "." + segment(`{"sub":`+strings.Repeat("[", 2500)+strings.Repeat("]", 2500)+"}") + "." + signature, ErrWrongCredentials, "not signed"},
		{"too long", head + "." + strings.Repeat("A", maxCredential) + "." + signature, ErrWrongCredentials, "longer than"},

		{"expired", hs256(t, jwt.MapClaims{"exp": long}), ErrTokenRefused, "expired"},
		{"expired and more", hs256(t, jwt.MapClaims{"exp": long, "iss": "x"}), ErrTokenRefused, "expired"},
		{"no exp", hs256(t, jwt.MapClaims{"exp": nil}), ErrTokenRefused, "missing or malformed"},
		{"exp a word", hs256(t, jwt.MapClaims{"exp": "never"}), ErrTokenRefused, "missing or malformed"},
		{"exp beyond numbers", hs256(t, jwt.MapClaims{"exp": -1e300}), ErrTokenRefused, "expired"},
		{"not yet", hs256(t, jwt.MapClaims{"nbf": time.Now().Add(time.Hour).Unix()}), ErrTokenRefused, "not valid yet"},
		{"another issuer", hs256(t, jwt.MapClaims{"iss": login + "x"}), ErrTokenRefused, "another issuer"},
		{"no issuer", hs256(t, jwt.MapClaims{"iss": nil}), ErrTokenRefused, "missing or malformed"},
		{"another audience", hs256(t, jwt.MapClaims{"aud": "other"}), ErrTokenRefused, "another audience"},
		{"other audiences", hs256(t, jwt.MapClaims{"aud": []string{"a", "sluice2"}}), ErrTokenRefused, "another audience"},
		{"no audience", hs256(t, jwt.MapClaims{"aud": nil}), ErrTokenRefused, "missing or malformed"},
		{"audience of mixed kinds", hs256(t, jwt.MapClaims{"aud": []any{"sluice", 1}}), ErrTokenRefused, "missing or malformed"},
		{"no user", hs256(t, jwt.MapClaims{"sub": nil}), ErrTokenRefused, `"sub"`},
		{"user of nothing", hs256(t, jwt.MapClaims{"sub": ""}), ErrTokenRefused, `"sub"`},
		{"user a list", hs256(t, jwt.MapClaims{"sub": []string{"carol"}}), ErrTokenRefused, `"sub"`},
		{"user a fraction", hs256(t, jwt.MapClaims{"sub": 1.5}), ErrTokenRefused, `"sub"`},
		{"user below zero", hs256(t, jwt.MapClaims{"sub": -1}), ErrTokenRefused, `"sub"`},
		{"user a number that is none of its own", hs256(t, jwt.MapClaims{"sub": 9007199254740993}), ErrTokenRefused, `"sub"`},
		{"user with a line break", hs256(t, jwt.MapClaims{"sub": "carol\nowner=alice"}), ErrTokenRefused, `"sub"`},
		{"user with a zero", hs256(t, jwt.MapClaims{"sub": "carol\x00"}), ErrTokenRefused, `"sub"`},
		{"user with an escape", hs256(t, jwt.MapClaims{"sub": "\x1b[31mcarol"}), ErrTokenRefused, `"sub"`},
		{"user written backwards", hs256(t, jwt.MapClaims{"sub": "\u202ecarol"}), ErrTokenRefused, `"sub"`},
		{"user with something unseen", hs256(t, jwt.MapClaims{"sub": "car\u200bol"}), ErrTokenRefused, `"sub"`},
		{"user with a space after", hs256(t, jwt.MapClaims{"sub": "carol "}), ErrTokenRefused, `"sub"`},
		{"user not in UTF-8", hs256(t, jwt.MapClaims{"sub": "carol\xff"}), ErrTokenRefused, `"sub"`},
		{"user too long", hs256(t, jwt.MapClaims{"sub": strings.Repeat("c", maxName+1)}), ErrTokenRefused, `"sub"`},
		{"plan a number", hs256(t, jwt.MapClaims{"plan": 1}), ErrTokenRefused, `"plan"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, ambient := range []*Identity{nil, {Owner: "user:demo"}} {
				cfg := signedIn()
				cfg.Ambient, cfg.AnonymousPlan = ambient, "default"
				for _, h := range []http.Header{bearer(test.token), {"Cookie": {"session=" + test.token}}} {
					if h.Get("Cookie") != "" && strings.ContainsAny(test.token, "!") || h.Get("Cookie") != "" && test.says == "neither" {
						continue
					}
					id, err := open(t, cfg).Identify(request(h))
					if !errors.Is(err, test.want) || id != (Identity{}) || !strings.Contains(err.Error(), test.says) {
						t.Fatalf("Identify = %+v, %v; want %v, saying %q", id, err, test.want, test.says)
					}
					if strings.Contains(err.Error(), "carol") || strings.Contains(err.Error(), "eyJ") {
						t.Errorf("the error shows what was sent: %v", err)
					}
				}
			}
		})
	}
}

func TestAnIssuerCannotSpeakForAnother(t *testing.T) {
	cfg := signedIn()
	cfg.JWT.Issuer = ""
	a := open(t, cfg)
	owners := make(map[string]bool)
	for _, c := range []jwt.MapClaims{{"iss": "a", "sub": "b|c"}, {"iss": "a|b", "sub": "c"}, {"iss": "a", "sub": "b"}, {"iss": "a|", "sub": "b"}, {"iss": nil, "sub": "a|b"}, {"iss": "", "sub": "a||b"}, {"iss": "|a", "sub": "b"}, {"iss": "a\n", "sub": "b"}, {"iss": 1, "sub": "d"}} {
		id, err := a.Identify(request(bearer(hs256(t, c))))
		if err != nil {
			continue
		}
		if owners[id.Owner] {
			t.Errorf("two are %s", id.Owner)
		}
		owners[id.Owner] = true
	}
	if len(owners) != 4 {
		t.Errorf("owners are %v", owners)
	}
}

func TestAConfiguredKeyThatLooksLikeATokenIsAKey(t *testing.T) {
	cfg := signedIn()
	token := hs256(t, jwt.MapClaims{"exp": 1})
	cfg.Keys = append(cfg.Keys, Key{ID: "machine", Key: hashed(token)})
	if id := identify(t, open(t, cfg), bearer(token)); id.Owner != "key:machine" {
		t.Errorf("Identify = %+v", id)
	}
}

func TestWithoutAConfigurationNoTokenIsTaken(t *testing.T) {
	a := open(t, house())
	for _, h := range []http.Header{bearer(hs256(t, nil)), bearer(sign(t, jwt.SigningMethodHS256, []byte(""), claims(nil)))} {
		if id, err := a.Identify(request(h)); !errors.Is(err, ErrWrongCredentials) {
			t.Errorf("Identify = %+v, %v", id, err)
		}
	}
	if id, err := a.Identify(request(http.Header{"Cookie": {"session=" + hs256(t, nil) + "; =" + hs256(t, nil)}})); !errors.Is(err, ErrNoCredentials) {
		t.Errorf("a cookie: Identify = %+v, %v", id, err)
	}
}

func TestATokenInACookieIsAmbient(t *testing.T) {
	a := open(t, signedIn())
	carol, dave := hs256(t, nil), hs256(t, jwt.MapClaims{"sub": "dave"})
	for _, h := range []http.Header{
		{"Cookie": {"session=" + carol}}, {"Cookie": {"a=b; session=" + carol + "; c=d"}}, {"Cookie": {"a=b", "session=" + carol}},
		{"Cookie": {`session="` + carol + `"`}}, {"Cookie": {"session=; session=" + carol}}, {"Cookie": {"session=" + carol + "; session=" + carol}},
	} {
		if id := identify(t, a, h); id.Owner != "jwt:"+login+"|carol" || !id.Ambient {
			t.Errorf("Identify(%.40s…) = %+v", h, id)
		}
	}
	// What the request's author sends on purpose goes before, even if it is wrong; the cookie is not looked at.
	explicit := http.Header{"Cookie": {"session=" + carol}, "Authorization": {"Bearer " + dave}}
	if id := identify(t, a, explicit); id.Owner != "jwt:"+login+"|dave" || id.Ambient {
		t.Errorf("Identify = %+v", id)
	}
	for _, h := range []http.Header{{"Cookie": {"session=" + carol}, "X-Api-Key": {bobKey}}, {"Cookie": {"session=garbage"}, "X-Api-Key": {bobKey}}} {
		if id := identify(t, a, h); id.Owner != "key:bob" || id.Ambient {
			t.Errorf("Identify = %+v", id)
		}
	}
	for name, test := range map[string]struct {
		header http.Header
		want   error
	}{
		"wrong key beside it":    {http.Header{"Cookie": {"session=" + carol}, "X-Api-Key": {"wrong"}}, ErrWrongCredentials},
		"two that differ":        {http.Header{"Cookie": {"session=" + carol + "; session=" + dave}}, ErrConflictingCredentials},
		"two that differ, apart": {http.Header{"Cookie": {"session=" + carol, "session=x"}}, ErrConflictingCredentials},
		"another name":           {http.Header{"Cookie": {"Session=" + carol}}, ErrNoCredentials},
		"none":                   {http.Header{"Cookie": {"session="}}, ErrNoCredentials},
		"an API key":             {http.Header{"Cookie": {"session=" + bobKey}}, ErrWrongCredentials},
		"too long":               {http.Header{"Cookie": {"session=" + strings.Repeat("a", maxCredential+1)}}, ErrWrongCredentials},
	} {
		if id, err := a.Identify(request(test.header)); !errors.Is(err, test.want) || id != (Identity{}) {
			t.Errorf("%s: Identify = %+v, %v", name, id, err)
		}
	}
	cfg := signedIn()
	cfg.JWT.Cookie = ""
	if _, err := open(t, cfg).Identify(request(http.Header{"Cookie": {"session=" + carol}})); !errors.Is(err, ErrNoCredentials) {
		t.Errorf("a cookie that nobody configured: %v", err)
	}
}

func TestWhoSendsNothingIsToldWhatToSend(t *testing.T) {
	for want, cfg := range map[string]Config{"API key in": house(), "or a token": signedIn()} {
		if _, err := open(t, cfg).Identify(request(nil)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}

func FuzzToken(f *testing.F) {
	a := open(f, signedIn())
	good := hs256(f, jwt.MapClaims{"exp": 4_000_000_000}) // the same in each of the fuzzer's processes
	f.Add(good)
	f.Add(sign(f, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, claims(nil)))
	f.Add(hs256(f, jwt.MapClaims{"exp": 1}))
	f.Add("e30.e30.")
	f.Fuzz(func(t *testing.T, token string) {
		tokens := a.callers.Load().tokens
		id, err := tokens.identify(t.Context(), token)
		if err == nil && !strings.HasPrefix(token, good[:strings.LastIndexByte(good, '.')]) {
			t.Errorf("%q is taken for %+v", token, id)
		}
		if err != nil && (id != (Identity{}) || strings.ContainsAny(fmt.Sprint(err), "\r\n")) {
			t.Errorf("Identify = %+v, %v", id, err)
		}
	})
}
