package auth

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

const keysURL = "https://login.example.com/keys?app=hush"

var (
	rsaKey   = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	p256Key  = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	p384Key  = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) })
	p521Key  = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)) })
	newEdKey = func() ed25519.PrivateKey { _, key, err := ed25519.GenerateKey(rand.Reader); return must(key, err) }
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// jwk writes the public half of a key as a JWK Set has it.
func jwk(kid string, key crypto.Signer, alg jwkset.ALG) string {
	k, err := jwkset.NewJWKFromKey(key.Public(), jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: kid, ALG: alg, USE: jwkset.UseSig}})
	return string(must(json.Marshal(must(k, err).Marshal())))
}

func keySet(keys ...string) string { return `{"keys":[` + strings.Join(keys, ",") + `]}` }

// issuer is a JWKS server without a network. Its answer may be changed at any time.
type issuer struct {
	asked  atomic.Int64
	answer atomic.Pointer[func(*http.Request) (*http.Response, error)]
}

func (i *issuer) RoundTrip(r *http.Request) (*http.Response, error) {
	i.asked.Add(1)
	return (*i.answer.Load())(r)
}

func (i *issuer) does(f func(*http.Request) (*http.Response, error)) { i.answer.Store(&f) }

func (i *issuer) says(status int, body string) {
	i.does(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: status, Header: http.Header{"Location": {"http://127.0.0.1:1/"}}, Body: io.NopCloser(strings.NewReader(body))}, nil
	})
}

func (i *issuer) publishes(keys ...string) { i.says(200, keySet(keys...)) }

func (i *issuer) isDown() {
	i.does(func(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") })
}

// isSilent answers nothing until the request is given up.
func (i *issuer) isSilent() {
	i.does(func(r *http.Request) (*http.Response, error) { <-r.Context().Done(); return nil, r.Context().Err() })
}

// journal is a log that a test may read, and begin anew, while a fetch may still write to it.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func (j *journal) Reset() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.text.Reset()
}

// federated is a house that takes the issuer's tokens, and its log.
func federated(t testing.TB, i *issuer) (*Auth, *journal) {
	t.Helper()
	log := &journal{}
	cfg := house()
	cfg.JWT = JWT{JWKSURL: keysURL, Issuer: login, Audience: "sluice", UserClaim: "sub"}
	a, err := New(cfg, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	a.callers.Load().tokens.keys.client.Transport = i
	return a, log
}

func eddsa(t testing.TB, key ed25519.PrivateKey, header ...string) http.Header {
	t.Helper()
	return bearer(sign(t, jwt.SigningMethodEdDSA, key, claims(nil), header...))
}

func TestTokensOfEveryAlgorithmOfAKeySetAreTaken(t *testing.T) {
	i, ed := &issuer{}, newEdKey()
	i.publishes(jwk("rsa", rsaKey(), ""), jwk("ps", rsaKey(), jwkset.AlgPS256), jwk("p256", p256Key(), ""), jwk("p384", p384Key(), ""), jwk("p521", p521Key(), ""), jwk("ed", ed, ""))
	a, _ := federated(t, i)
	defer a.Close()
	for kid, c := range map[string]struct {
		key     crypto.Signer
		methods []jwt.SigningMethod
	}{
		"rsa":  {rsaKey(), []jwt.SigningMethod{jwt.SigningMethodRS256, jwt.SigningMethodRS384, jwt.SigningMethodRS512, jwt.SigningMethodPS256, jwt.SigningMethodPS384, jwt.SigningMethodPS512}},
		"ps":   {rsaKey(), []jwt.SigningMethod{jwt.SigningMethodPS256}},
		"p256": {p256Key(), []jwt.SigningMethod{jwt.SigningMethodES256}},
		"p384": {p384Key(), []jwt.SigningMethod{jwt.SigningMethodES384}},
		"p521": {p521Key(), []jwt.SigningMethod{jwt.SigningMethodES512}},
		"ed":   {ed, []jwt.SigningMethod{jwt.SigningMethodEdDSA}},
	} {
		for _, method := range c.methods {
			for _, header := range [][]string{{"kid", kid}, nil} { // the kid is a help, not a must
				id, err := a.Identify(request(bearer(sign(t, method, c.key, claims(nil), header...))))
				if err != nil || id.Owner != "jwt:"+login+"|carol" {
					t.Errorf("%s, %s: Identify = %+v, %v", method.Alg(), header, id, err)
				}
			}
		}
	}
	// A key that is for one algorithm is for no other.
	if _, err := a.Identify(request(bearer(sign(t, jwt.SigningMethodRS256, rsaKey(), claims(nil), "kid", "ps")))); !errors.Is(err, ErrWrongCredentials) {
		t.Errorf("RS256 with a key for PS256: %v", err)
	}
	if n := i.asked.Load(); n != 1 {
		t.Errorf("the issuer was asked %d times", n)
	}
}

// TestAPublicKeyIsNoSecret signs with HS256 what everybody can know of an RSA key.
func TestAPublicKeyIsNoSecret(t *testing.T) {
	i := &issuer{}
	i.publishes(jwk("rsa", rsaKey(), ""), `{"kty":"oct","kid":"oct","k":"c2VjcmV0"}`)
	a, _ := federated(t, i)
	defer a.Close()
	der := must(x509.MarshalPKIXPublicKey(rsaKey().Public()))
	block := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	for name, secret := range map[string][]byte{
		"PEM": block, "PEM, trimmed": bytes.TrimSpace(block), "DER": der, "PKCS #1": x509.MarshalPKCS1PublicKey(&rsaKey().PublicKey),
		"the modulus": rsaKey().N.Bytes(), "the JWK": []byte(jwk("rsa", rsaKey(), "")), "nothing": {}, "a secret among the keys": []byte("secret"),
	} {
		for _, method := range []jwt.SigningMethod{jwt.SigningMethodHS256, jwt.SigningMethodHS384, jwt.SigningMethodHS512} {
			for _, kid := range []string{"rsa", "oct", "none"} {
				for _, header := range [][]string{{"kid", kid}, nil} {
					if id, err := a.Identify(request(bearer(sign(t, method, secret, claims(nil), header...)))); !errors.Is(err, ErrWrongCredentials) && !isThrottled(err) {
						t.Errorf("%s, %s: Identify = %+v, %v", name, method.Alg(), id, err)
					}
				}
			}
		}
	}
	if n := i.asked.Load(); n != 0 {
		t.Errorf("tokens with an algorithm that none has made us ask the issuer %d times", n)
	}
}

func isThrottled(err error) bool {
	var throttled *Throttled
	return errors.As(err, &throttled)
}

func TestKeyIDsAreNamesAndNothingElse(t *testing.T) {
	i, ed := &issuer{}, newEdKey()
	i.publishes(jwk("ed", ed, ""))
	a, log := federated(t, i)
	defer a.Close()
	identify(t, a, eddsa(t, ed, "kid", "ed"))
	other := newEdKey()
	for _, kid := range []string{"../../dev/null", "/dev/null", "ed' OR '1'='1", "https://mallory.example/keys", "ed\x00", "", "ED", strings.Repeat("k", 4000), "\n" + `level=ERROR msg="forged"`} {
		for _, key := range []ed25519.PrivateKey{ed, other} {
			h := eddsa(t, key, "kid", kid, "jku", "https://mallory.example/keys", "x5u", "https://mallory.example/cert", "jwk", jwk("mallory", other, ""))
			if id, err := a.Identify(request(h)); !errors.Is(err, ErrWrongCredentials) || strings.Contains(err.Error(), "mallory") {
				t.Errorf("kid %.40q: Identify = %+v, %v", kid, id, err)
			}
		}
	}
	if n := i.asked.Load(); n > 2 {
		t.Errorf("the issuer was asked %d times", n)
	}
	if log.String() != "" {
		t.Errorf("logged: %s", log)
	}
}

func TestAnUnreachableIssuerHoldsNothingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, ed := &issuer{}, newEdKey()
		i.isDown()
		a, log := federated(t, i)
		begun := time.Now()
		a.Start()
		synctest.Wait()
		if _, err := a.Identify(request(eddsa(t, ed, "kid", "ed"))); !errors.Is(err, ErrKeysUnavailable) {
			t.Errorf("Identify: %v", err)
		}
		identify(t, a, http.Header{"X-Api-Key": {aliceKey}})
		if time.Since(begun) != 0 {
			t.Errorf("took %s", time.Since(begun))
		}
		if !strings.Contains(log.String(), "connection refused") || !strings.Contains(log.String(), "host=login.example.com") || strings.Contains(log.String(), "hush") {
			t.Errorf("logged: %s", log)
		}
		i.publishes(jwk("ed", ed, ""))
		pass(fetchRetry) // bubble time: the next fetch is due, whether anyone calls or not
		synctest.Wait()
		if n := i.asked.Load(); n != 2 {
			t.Errorf("asked %d times", n)
		}
		identify(t, a, eddsa(t, ed, "kid", "ed"))
		a.Close()
	})
}

func TestANewKeyIsFoundAndAWithdrawnOneForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, first, second := &issuer{}, newEdKey(), newEdKey()
		i.publishes(jwk("1", first, ""))
		a, _ := federated(t, i)
		a.Start()
		synctest.Wait()
		identify(t, a, eddsa(t, first, "kid", "1"))
		pass(time.Minute)
		i.publishes(jwk("1", first, ""), jwk("2", second, ""))
		identify(t, a, eddsa(t, second, "kid", "2")) // at once
		identify(t, a, eddsa(t, first, "kid", "1"))
		i.publishes(jwk("2", second, ""))
		pass(freshFor)
		synctest.Wait()
		identify(t, a, eddsa(t, second, "kid", "2"))
		if _, err := a.Identify(request(eddsa(t, first, "kid", "1"))); !errors.Is(err, ErrWrongCredentials) {
			t.Errorf("a withdrawn key is still good: %v", err)
		}
		a.Close()
	})
}

func TestInventedKeyIDsDoNotMakeUsHammerTheIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, ed := &issuer{}, newEdKey()
		i.publishes(jwk("ed", ed, ""))
		a, _ := federated(t, i)
		a.Start()
		synctest.Wait()
		const minutes = 2
		for n := range minutes * 600 {
			a.Identify(request(eddsa(t, ed, "kid", fmt.Sprint(n))))
			pass(100 * time.Millisecond)
		}
		if n := i.asked.Load(); n > minutes*6+1 || n < 2 {
			t.Errorf("asked %d times in %d minutes", n, minutes)
		}
		identify(t, a, eddsa(t, ed, "kid", "ed"))
		a.Close()
	})
}

func TestAnOutageOfTheIssuerChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, ed := &issuer{}, newEdKey()
		i.publishes(jwk("ed", ed, ""))
		a, log := federated(t, i)
		a.Start()
		synctest.Wait()
		for name, fail := range map[string]func(){
			"down": i.isDown, "silent": i.isSilent,
			"500":                 func() { i.says(500, keySet()) },
			"a redirect":          func() { i.says(302, keySet(jwk("mallory", newEdKey(), ""))) },
			"no content":          func() { i.says(204, "") },
			"a page":              func() { i.says(200, "<html>maintenance</html>") },
			"an empty object":     func() { i.says(200, "{}") },
			"no keys":             func() { i.says(200, keySet()) },
			"only secrets":        func() { i.publishes(`{"kty":"oct","kid":"ed","k":"c2VjcmV0"}`) },
			"only for encryption": func() { i.publishes(strings.Replace(jwk("ed", newEdKey(), ""), `"sig"`, `"enc"`, 1)) },
			"a cut answer":        func() { i.says(200, keySet(jwk("ed", ed, ""))[:40]) },
			"a flood":             func() { i.says(200, keySet(jwk("ed", ed, ""))+strings.Repeat(" ", maxKeySet)) },
			"a flood of keys": func() {
				i.publishes(strings.Split(strings.Repeat(jwk("x", newEdKey(), "")+"\n", maxKeys+1), "\n")[:maxKeys+1]...)
			},
			"a body that never comes":     func() { i.does(func(r *http.Request) (*http.Response, error) { return silentBody(r), nil }) },
			"an answer of the wrong kind": func() { i.says(200, `{"keys":{"kid":"ed"}}`) },
		} {
			fail()
			asked := i.asked.Load()
			pass(freshFor + fetchTimeout)
			synctest.Wait()
			if i.asked.Load() == asked {
				t.Errorf("%s: the issuer was not asked", name)
			}
			begun := time.Now()
			if id, err := a.Identify(request(eddsa(t, ed, "kid", "ed"))); err != nil || time.Since(begun) != 0 {
				t.Errorf("%s: Identify = %+v, %v, after %s", name, id, err, time.Since(begun))
			}
			if !strings.Contains(log.String(), "keys_of_before=true") {
				t.Errorf("%s: logged: %s", name, log)
			}
			log.Reset()
		}
		a.Close()
	})
}

func silentBody(r *http.Request) *http.Response {
	body, w := io.Pipe()
	context.AfterFunc(r.Context(), func() { w.CloseWithError(r.Context().Err()) })
	return &http.Response{StatusCode: 200, Body: body}
}

// endless is an answer without end. It ends all the same for who would read on.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	if e.read += len(p); e.read > 16*maxKeySet {
		return 0, io.EOF
	}
	return copy(p, bytes.Repeat([]byte(" "), len(p))), nil
}

func TestAnAnswerWithoutEndIsNotReadToItsEnd(t *testing.T) {
	i, body := &issuer{}, &endless{}
	i.does(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: io.NopCloser(body)}, nil
	})
	a, log := federated(t, i)
	defer a.Close()
	if _, err := a.Identify(request(eddsa(t, newEdKey(), "kid", "ed"))); !errors.Is(err, ErrKeysUnavailable) {
		t.Error(err)
	}
	if body.read > 2*maxKeySet || !strings.Contains(log.String(), "longer than") {
		t.Errorf("%d bytes were read; logged: %s", body.read, log)
	}
}

func TestACallerWithAnUnknownKeyWaitsForTheIssuerWithinBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, ed := &issuer{}, newEdKey()
		i.publishes(jwk("ed", ed, ""))
		a, _ := federated(t, i)
		a.Start()
		pass(time.Minute)
		i.isSilent()
		begun := time.Now()
		var callers sync.WaitGroup
		for n := range 50 {
			callers.Go(func() {
				if _, err := a.Identify(request(eddsa(t, ed, "kid", fmt.Sprint(n)))); !errors.Is(err, ErrWrongCredentials) && !isThrottled(err) {
					t.Error(err)
				}
			})
		}
		callers.Wait()
		if took, asked := time.Since(begun), i.asked.Load(); took != fetchTimeout || asked != 2 {
			t.Errorf("50 callers waited %s for %d fetches", took, asked-1)
		}
		pass(fetchGap)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun = time.Now()
		a.Identify(request(eddsa(t, ed, "kid", "x")).WithContext(ctx))
		if took := time.Since(begun); took != time.Second {
			t.Errorf("a caller that left after 1 s was waited for during %s", took)
		}
		begun = time.Now()
		a.Close() // in the middle of a fetch
		if took := time.Since(begun); took != 0 {
			t.Errorf("Close took %s", took)
		}
		identify(t, a, eddsa(t, ed, "kid", "ed"))
	})
}

func TestASetIsReadAsFarAsItCanBe(t *testing.T) {
	ed := newEdKey()
	keys, skipped, err := parseKeys(t.Context(), []byte(keySet(`{"kty":"rot13","kid":"a"}`, `{"kty":"RSA","kid":"b","n":"!","e":"AQAB"}`, `{"kty":"EC","crv":"P-256","kid":"c","x":"AA","y":"AA"}`,
		`{"kty":"oct","kid":"d","k":"c2VjcmV0"}`, `{"kty":"OKP","crv":"Ed448","kid":"e","x":"AA"}`, `{}`, jwk("ed", ed, ""))))
	if err != nil || skipped != 6 {
		t.Fatalf("%d skipped, %v", skipped, err)
	}
	token := must(jwt.NewParser().Parse(sign(t, jwt.SigningMethodEdDSA, ed, claims(nil), "kid", "ed"), keys.Keyfunc))
	if !token.Valid {
		t.Error("the good key among them is not there")
	}
}

func FuzzKeySet(f *testing.F) {
	f.Add([]byte(keySet(jwk("ed", newEdKey(), ""), jwk("rsa", rsaKey(), ""), jwk("p256", p256Key(), ""))))
	f.Add([]byte(keySet(`{"kty":"RSA","n":"","e":"AQAB"}`, `{"kty":"EC","crv":"P-521","x":"AA","y":"AA"}`, `{"kty":"OKP","crv":"X25519","x":"AA"}`)))
	f.Fuzz(func(t *testing.T, body []byte) {
		keys, _, err := parseKeys(t.Context(), body)
		if err != nil {
			return
		}
		for _, token := range []*jwt.Token{{Header: map[string]any{"alg": "RS256"}}, {Header: map[string]any{"alg": "RS256", "kid": "rsa"}}} {
			if key, err := keys.Keyfunc(token); err == nil && key == nil {
				t.Error("a key that is none")
			}
		}
	})
}

// TestKeysComeOverTheNetwork has the real client, which must leave no connection behind.
func TestKeysComeOverTheNetwork(t *testing.T) {
	ed := newEdKey()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept") != "application/json" || r.Method != "GET" {
			t.Errorf("%s with %v", r.Method, r.Header)
		}
		io.WriteString(w, keySet(jwk("ed", ed, "")))
	}))
	defer server.Close()
	cfg := house()
	cfg.JWT = JWT{JWKSURL: server.URL, UserClaim: "sub"}
	a := open(t, cfg)
	defer a.Close()
	identify(t, a, eddsa(t, ed, "kid", "ed"))
}
