// Package auth says who calls: by an API key, by a token that an issuer has signed, by the word of a trusted proxy, or
// as nobody in particular. It makes the tickets that open one stream to whoever holds its URL, knows which forwarding
// headers of a proxy may be believed, and slows down whoever guesses. What a caller may do is decided elsewhere.
package auth

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// What Identify refuses with, beside *Throttled. The texts are for the caller to read; none holds anything of what was
// sent.
var (
	ErrNoCredentials = errors.New("no credentials")

	ErrWrongCredentials = errors.New("wrong credentials")

	ErrConflictingCredentials = errors.New("conflicting credentials: the request holds several that differ; send one")

	// ErrUserRefused is the answer to what a trusted proxy says of its caller, if that is not one plain name.
	ErrUserRefused = errors.New("the proxy in front of the gateway sends no user that can be accepted")

	// ErrTokenRefused is the answer to a token that is genuine but of no use here: expired, say, or for somebody else.
	ErrTokenRefused = errors.New("the token is not accepted")

	// ErrKeysUnavailable is the answer to a token as long as its issuer's keys could never be fetched.
	ErrKeysUnavailable = errors.New("the keys of the tokens' issuer cannot be fetched at the moment; try again")
)

// maxCredential bounds what is hashed for a caller that nobody knows yet. Keys that GenerateKey makes have 53 bytes,
// and what else travels in these headers, tokens with many claims, stays below the 8 KiB that proxies allow one header.
const maxCredential = 8 << 10

// Config is what New needs.
type Config struct {
	Keys           []Key
	JWT            JWT
	UserHeader     string         // the header in which a trusted proxy names the user; "": none does
	TrustedProxies []netip.Prefix // the peers whose X-Forwarded-* and UserHeader are believed
	DefaultPlan    string         // of whoever has no other
	AnonymousPlan  string         // of callers without any credential; "": they are refused
	TicketSecret   string         // the same one in every process that takes the others' tickets; "": random, for this process alone
	Ambient        *Identity      // who a caller without any credential is, by Owner and Plan, before AnonymousPlan; nil: nobody
}

// Identity is who calls. Only Identify makes one that gets good tickets. It can be compared with ==.
type Identity struct {
	// Owner owns what the caller makes: "key:<id>", "jwt:<issuer>|<user>", "user:<name>", or as Config.Ambient has it.
	// Anonymous callers have none, since the next one at the same address may be somebody else.
	Owner string

	// Account is whose limits and bills the caller's are: the Owner, and for the anonymous "anonymous:<address>", IPv6
	// by its /64.
	Account string

	Plan string // that of a token is whatever the token says

	// Ambient says that nothing in the request proves that its author meant it: any web page can make a browser send
	// the same. Methods that change something then need a look at Origin.
	Ambient bool

	tag tag // of the credential
}

// Auth knows the callers. All methods may be called at once from any goroutine.
type Auth struct {
	callers atomic.Pointer[callers] // replaced as a whole, never changed
	boot    boot
	guesses *throttle
	log     *slog.Logger

	mu     sync.Mutex // of Reload, Start and Close
	begun  bool
	closed bool
}

// New checks cfg and makes an Auth of it. Its errors name a key by its id, and never show a key. Nothing is fetched and
// nothing runs before Start or the first token.
func New(cfg Config, log *slog.Logger) (*Auth, error) {
	a := &Auth{guesses: newThrottle(), log: log}
	rand.Read(a.boot[:]) // never fails
	secret, err := newTicketSecret(cfg.TicketSecret)
	if err != nil {
		return nil, err
	}
	c, err := newCallers(cfg, secret, log)
	if err != nil {
		return nil, err
	}
	a.callers.Store(c)
	return a, nil
}

// Start fetches the keys of the tokens' issuer, if there is one, without waiting for them, and from then on keeps them
// fresh until Close.
func (a *Auth) Start() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.begun = true
	a.callers.Load().keepFresh()
}

// Reload replaces all callers at once; requests see the old ones or the new ones, never a mixture. An error changes
// nothing. Where the configuration has no TicketSecret the one of before stays, and the keys of an issuer whose URL is
// still the same stay too.
func (a *Auth) Reload(cfg Config) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	old := a.callers.Load()
	secret := old.secret
	if cfg.TicketSecret != "" {
		var err error
		if secret, err = newTicketSecret(cfg.TicketSecret); err != nil {
			return err
		}
	}
	c, err := newCallers(cfg, secret, a.log)
	if err != nil {
		return err
	}
	c.inherit(old)
	if a.begun && !a.closed {
		c.keepFresh()
	}
	a.callers.Store(c)
	old.close(c)
	if a.closed {
		c.close(nil)
	}
	return nil
}

// Close ends what Start began, and waits for it. Callers are identified as before, with the keys that are there.
func (a *Auth) Close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	a.callers.Load().close(nil)
}

// Identify says who sent r: by the API key or the token in x-api-key or Authorization: Bearer; without these, by a
// trusted proxy's word, then by the token in the cookie; without any of them the caller is the ambient identity or
// anonymous, where the configuration has such.
//
// The error is ErrConflictingCredentials if r holds several that differ, ErrNoCredentials if it holds none and nobody is
// let in without, ErrTokenRefused or ErrKeysUnavailable for some tokens, ErrUserRefused for a proxy's word, and else
// ErrWrongCredentials, as errors.Is sees them, or a *Throttled in its place. An empty header is as if absent. Whoever presents something never becomes the
// ambient identity or anonymous. A token signed with an unknown key may wait for some seconds until its issuer was asked.
func (a *Auth) Identify(r *http.Request) (Identity, error) {
	c := a.callers.Load()
	id, err := c.identify(r)
	if err != nil {
		return Identity{}, a.failed(c.clientAddr(r), err)
	}
	return id, nil
}

// Throttled is the refusal of a guess from an address that has made too many. A good credential never meets it.
type Throttled struct {
	RetryAfter time.Duration // above 0; after it, one guess is answered as such
}

// Error is for the caller to read.
func (*Throttled) Error() string {
	return "too many failed attempts from this address; try again later, with credentials that are valid"
}

// failed counts err against the address if it was a guess. Genuine credentials that no longer are good, or not here, are
// none: an office whose tokens have expired is to hear that, and not to wait.
func (a *Auth) failed(from netip.Addr, err error) error {
	if !errors.Is(err, ErrWrongCredentials) && !errors.Is(err, ErrWrongTicket) {
		return err
	}
	if wait := a.guesses.take(from); wait > 0 {
		return &Throttled{RetryAfter: wait}
	}
	return err
}

// credential is the one API key or token that h presents, "" if none.
func credential(h http.Header) (string, error) {
	found := ""
	var wrong error
	present := func(key string) error {
		if found != "" && key != found {
			return ErrConflictingCredentials
		}
		if len(key) > maxCredential {
			wrong = fmt.Errorf("%w: longer than %d bytes", ErrWrongCredentials, maxCredential)
		}
		found = key
		return nil
	}
	for _, value := range h["X-Api-Key"] {
		if key := trim(value); key != "" {
			if err := present(key); err != nil {
				return "", err
			}
		}
	}
	for _, value := range h["Authorization"] {
		value = trim(value)
		scheme, key, _ := strings.Cut(value, " ") // RFC 9110 §11.4
		key = trim(key)
		bearer := strings.EqualFold(scheme, "Bearer") // RFC 9110 §11.1
		if !bearer {
			key = value // something is presented, though nothing that could be right
		}
		if key == "" {
			continue
		}
		if err := present(key); err != nil {
			return "", err
		}
		if !bearer {
			wrong = fmt.Errorf("%w: Authorization must have the scheme Bearer", ErrWrongCredentials)
		}
	}
	if wrong != nil {
		return "", wrong
	}
	return found, nil
}

// trim takes away the white space that a header value may have around it.
func trim(s string) string { return strings.Trim(s, " \t") }
