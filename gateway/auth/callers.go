package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"
)

// callers is everybody who is known at a time, and how. It is never changed.
type callers struct {
	keys          []knownKey
	tokens        *tokens // nil: none is taken
	userHeader    string  // canonical; "": no proxy names users
	proxies       []netip.Prefix
	defaultPlan   string
	anonymousPlan string // "": nobody is let in without a name
	ambient       *Identity
	secret        ticketSecret
	live          map[tag]bool // the credentials, and sources of credentials, whose tickets are good
	missing       error        // what a caller with nothing is told
}

func newCallers(cfg Config, secret ticketSecret, log *slog.Logger) (*callers, error) {
	c := &callers{userHeader: http.CanonicalHeaderKey(cfg.UserHeader), defaultPlan: cfg.DefaultPlan, anonymousPlan: cfg.AnonymousPlan,
		secret: secret, live: make(map[tag]bool)}
	for _, p := range cfg.TrustedProxies {
		if !p.IsValid() {
			return nil, errors.New("trusted proxies: an address range is not valid")
		}
		c.proxies = append(c.proxies, unmapped(p))
	}
	if c.userHeader != "" && len(c.proxies) == 0 {
		return nil, errors.New("the user header needs trusted proxies that set it")
	}
	var err error
	if c.keys, err = knownKeys(cfg, secret); err != nil {
		return nil, err
	}
	if c.tokens, err = newTokens(cfg, secret, log); err != nil {
		return nil, err
	}
	if c.ambient, err = ambient(cfg, secret); err != nil {
		return nil, err
	}
	for _, k := range c.keys {
		c.live[k.identity.tag] = true
	}
	if c.tokens != nil {
		c.live[c.tokens.tag] = true
	}
	if c.userHeader != "" {
		c.live[secret.tag("user", c.userHeader)] = true
	}
	if c.anonymousPlan != "" {
		c.live[secret.tag("anonymous")] = true
	}
	if c.ambient != nil {
		c.live[c.ambient.tag] = true
	}
	c.missing = fmt.Errorf("%w: send an API key in the x-api-key header, or as Authorization: Bearer", ErrNoCredentials)
	if c.tokens != nil {
		c.missing = fmt.Errorf("%w: send an API key or a token, in the x-api-key header or as Authorization: Bearer%s", ErrNoCredentials, c.tokens.orCookie())
	}
	return c, nil
}

func ambient(cfg Config, secret ticketSecret) (*Identity, error) {
	if cfg.Ambient == nil {
		return nil, nil
	}
	id := Identity{Owner: cfg.Ambient.Owner, Account: cfg.Ambient.Owner, Plan: cfg.Ambient.Plan, Ambient: true, tag: secret.tag("ambient", cfg.Ambient.Owner)}
	if id.Owner == "" {
		return nil, errors.New("the ambient identity has no owner")
	}
	if strings.HasPrefix(id.Owner, "key:") {
		return nil, fmt.Errorf("the ambient identity cannot be %q: that is the owner of an API key", id.Owner)
	}
	if id.Plan == "" {
		id.Plan = cfg.DefaultPlan
	}
	return &id, nil
}

// identify is Identify without the throttle.
func (c *callers) identify(r *http.Request) (Identity, error) {
	presented, err := credential(r.Header)
	switch {
	case err != nil:
		return Identity{}, err
	case presented != "":
		return c.explicit(r.Context(), presented)
	}
	name, err := c.proxyUser(r)
	switch {
	case err != nil:
		return Identity{}, err
	case name != "":
		owner := "user:" + name
		return Identity{Owner: owner, Account: owner, Plan: c.defaultPlan, Ambient: true, tag: c.secret.tag("user", c.userHeader)}, nil
	}
	token, err := c.cookie(r)
	switch {
	case err != nil:
		return Identity{}, err
	case token != "":
		id, err := c.tokens.identify(r.Context(), token)
		id.Ambient = err == nil
		return id, err
	case c.ambient != nil:
		return *c.ambient, nil
	case c.anonymousPlan != "":
		return Identity{Account: "anonymous:" + network(c.clientAddr(r)), Plan: c.anonymousPlan, Ambient: true, tag: c.secret.tag("anonymous")}, nil
	}
	return Identity{}, c.missing
}

// explicit says whose API key or token was presented. The keys are looked at first, and all of them, so that what else a
// caller sends has no part in how long that takes.
func (c *callers) explicit(ctx context.Context, presented string) (Identity, error) {
	if id, ok := find(c.keys, sha256.Sum256([]byte(presented))); ok {
		return id, nil
	}
	if c.tokens == nil {
		return Identity{}, fmt.Errorf("%w: this is not a valid API key", ErrWrongCredentials)
	}
	if strings.Count(presented, ".") != 2 { // RFC 7515 §7.1
		return Identity{}, fmt.Errorf("%w: this is neither a valid API key nor a token (JWT)", ErrWrongCredentials)
	}
	return c.tokens.identify(ctx, presented)
}

// cookie is the token in the request's cookie, "" if none.
func (c *callers) cookie(r *http.Request) (string, error) {
	if c.tokens == nil || c.tokens.cfg.Cookie == "" {
		return "", nil
	}
	found := ""
	for _, cookie := range r.CookiesNamed(c.tokens.cfg.Cookie) {
		switch {
		case cookie.Value == "": // how some sign out
		case found != "" && cookie.Value != found: // another host of the domain has set one, and only the browser knows which
			return "", ErrConflictingCredentials
		case len(cookie.Value) > maxCredential:
			return "", fmt.Errorf("%w: longer than %d bytes", ErrWrongCredentials, maxCredential)
		default:
			found = cookie.Value
		}
	}
	return found, nil
}

// keepFresh fetches the issuer's keys and goes on doing so.
func (c *callers) keepFresh() {
	if c.tokens != nil && c.tokens.keys != nil {
		c.tokens.keys.refresh()
	}
}

// inherit takes over the keys of an issuer that is still asked at the same URL.
func (c *callers) inherit(old *callers) {
	if c.tokens != nil && old.tokens != nil && c.tokens.keys != nil && old.tokens.keys != nil && c.tokens.keys.url == old.tokens.keys.url {
		c.tokens.keys = old.tokens.keys
	}
}

// close stops fetching keys, unless next goes on with them.
func (c *callers) close(next *callers) {
	if c.tokens == nil || c.tokens.keys == nil || next != nil && next.tokens != nil && next.tokens.keys == c.tokens.keys {
		return
	}
	c.tokens.keys.close()
}

// maxName bounds what others call a user: OpenID Connect allows a sub of 255 characters.
const maxName = 255

// plain tells whether a name from outside can be an owner's: whoever reads it in a log or a bill sees all of it, on one
// line, and can tell it from any other.
func plain(name string) bool {
	return name != "" && len(name) <= maxName && strings.TrimSpace(name) == name &&
		!strings.ContainsFunc(name, func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) })
}
