// Package auth says who calls. It knows API keys, the tickets that open one stream to whoever holds its URL, and which
// forwarding headers of a proxy may be believed. What a caller may do is decided elsewhere.
package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
)

// What Identify refuses with. The texts are for the caller to read; none holds anything of what was sent.
var (
	ErrNoCredentials = errors.New("no credentials: send an API key in the x-api-key header, or as Authorization: Bearer")

	ErrWrongCredentials = errors.New("wrong credentials: this is not a valid API key")

	ErrConflictingCredentials = errors.New("conflicting credentials: the request holds several that differ; send one API key, in x-api-key or as Authorization: Bearer")
)

// maxCredential bounds what is hashed for a caller that nobody knows yet. Keys that GenerateKey makes have 53 bytes,
// and what else travels in these headers, tokens with many claims, stays below the 8 KiB that proxies allow one header.
const maxCredential = 8 << 10

// Config is what New needs.
type Config struct {
	Keys           []Key
	DefaultPlan    string         // of keys and of Ambient, where they name none
	TrustedProxies []netip.Prefix // the peers whose X-Forwarded-* headers are believed
	TicketSecret   string         // the same one in every process that takes the others' tickets; "": random, for this process alone
	Ambient        *Identity      // who a caller without any credential is, by Owner and Plan; nil: nobody
}

// Identity is who calls. Only Identify makes one that gets good tickets. It can be compared with ==.
type Identity struct {
	Owner string // "key:<id>", or as Config.Ambient has it
	Plan  string

	// Ambient says that nothing in the request proves that its author meant it: any web page can make a browser send
	// the same. Methods that change something then need a look at Origin.
	Ambient bool

	tag tag // of the credential
}

// Auth knows the callers. All methods may be called at once from any goroutine.
type Auth struct {
	known   atomic.Pointer[keySet] // replaced as a whole, never changed
	secret  ticketSecret
	boot    boot
	proxies []netip.Prefix
}

// New checks cfg and makes an Auth of it. Its errors name a key by its id, and never show a key.
func New(cfg Config) (*Auth, error) {
	a := &Auth{}
	rand.Read(a.boot[:]) // never fails
	var err error
	if a.secret, err = newTicketSecret(cfg.TicketSecret); err != nil {
		return nil, err
	}
	for _, p := range cfg.TrustedProxies {
		if !p.IsValid() {
			return nil, errors.New("trusted proxies: an address range is not valid")
		}
		a.proxies = append(a.proxies, unmapped(p))
	}
	known, err := newKeySet(cfg, a.secret)
	if err != nil {
		return nil, err
	}
	a.known.Store(known)
	return a, nil
}

// Identify says who sent r, by the API key in x-api-key or Authorization: Bearer.
//
// The error is ErrConflictingCredentials if r holds two that differ, ErrNoCredentials if it holds none and there is no
// ambient identity, and else ErrWrongCredentials, as errors.Is sees them. An empty header is as if absent. Whoever
// presents something never becomes the ambient identity.
func (a *Auth) Identify(r *http.Request) (Identity, error) {
	presented, err := credential(r.Header)
	if err != nil {
		return Identity{}, err
	}
	known := a.known.Load()
	if presented == "" {
		if known.ambient == nil {
			return Identity{}, ErrNoCredentials
		}
		return *known.ambient, nil
	}
	id, ok := known.find(sha256.Sum256([]byte(presented)))
	if !ok {
		return Identity{}, ErrWrongCredentials
	}
	return id, nil
}

// credential is the one API key that h presents, "" if none.
func credential(h http.Header) (string, error) {
	found := ""
	var wrong error
	present := func(key string) error {
		if found != "" && key != found {
			return ErrConflictingCredentials
		}
		if len(key) > maxCredential {
			wrong = fmt.Errorf("%w (it is longer than %d bytes)", ErrWrongCredentials, maxCredential)
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
			wrong = fmt.Errorf("%w (Authorization must have the scheme Bearer)", ErrWrongCredentials)
		}
	}
	if wrong != nil {
		return "", wrong
	}
	return found, nil
}

// trim takes away the white space that a header value may have around it.
func trim(s string) string { return strings.Trim(s, " \t") }
