package gateway

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// jwt is the section auth.jwt. What its values are to each other is looked at by checkJWT.
func (d *decoder) jwt() rule {
	j := &d.config.Auth.JWT
	return d.section(rules{
		"secret":     {set: d.jwtSecret},
		"jwks_url":   {set: d.jwksURL},
		"issuer":     d.text(&j.Issuer, "https://login.example.com/"),
		"audience":   d.text(&j.Audience, "sluice"),
		"user_claim": {set: d.userClaim},
		"plan_claim": d.text(&j.PlanClaim, "plan"),
		"cookie":     {set: d.cookie},
	})
}

// maxText bounds names of files, and those that are compared with what tokens say.
const maxText = 1000

// text takes a text of one line, or nothing.
func (d *decoder) text(into *string, example string) rule {
	return rule{set: func(v value) {
		s, ok := d.optional(v, example)
		if !ok {
			return
		}
		if len(s.text) > maxText || strings.TrimSpace(s.text) != s.text || strings.ContainsFunc(s.text, unicode.IsControl) {
			s.fail("has spaces around it, a line break, or more than %d bytes; write it as in %s", maxText, example)
			return
		}
		*into = s.text
	}}
}

// minJWTSecret is what RFC 7518 §3.2 demands for HS256: whoever has one token can try secrets against it as fast as they
// like.
const minJWTSecret = 32

func (d *decoder) jwtSecret(v value) {
	s, ok := d.optional(v, "what the issuer of the tokens signs them with")
	if !ok {
		return
	}
	if strings.ContainsFunc(s.text, unicode.IsControl) {
		d.fail(v, "has a line break or another control character, which hardly belongs to it")
		return
	}
	if s.text != "" && len(s.text) < minJWTSecret {
		d.warn(v, fmt.Sprintf("is shorter than %d characters and may be guessed by anyone who has a token; who guesses it can be any user", minJWTSecret))
	}
	d.config.Auth.JWT.Secret = s.text
}

func (d *decoder) jwksURL(v value) {
	const example = "https://login.example.com/.well-known/jwks.json"
	s, ok := d.optional(v, example)
	if !ok || s.text == "" {
		d.config.Auth.JWT.JWKSURL = ""
		return
	}
	u, err := url.Parse(s.text)
	switch {
	case err == nil && u.User != nil:
		s.fail("has credentials in it; write it as in %s", example)
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || strings.Contains(s.text, "#"):
		s.fail("is not an https URL; write it as in %s", example)
	case u.Scheme == "http" && !loopback(u.Hostname()):
		s.fail("is not https; whoever changes the keys on their way could be any user")
	default:
		d.config.Auth.JWT.JWKSURL = s.text
	}
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

func (d *decoder) userClaim(v value) {
	if _, ok := d.needed(v, "sub"); ok {
		d.text(&d.config.Auth.JWT.UserClaim, "sub").set(v)
	}
}

// token is RFC 9110's: what the names of headers and cookies are made of.
var token = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,255}$")

func (d *decoder) cookie(v value) {
	s, ok := d.optional(v, "session")
	if ok && s.text != "" && !token.MatchString(s.text) {
		s.fail("is not the name of a cookie; write it as in session")
	} else if ok {
		d.config.Auth.JWT.Cookie = s.text
	}
}

// takenHeaders have a meaning of their own: a proxy that passes them on says nothing about the user.
var takenHeaders = []string{"Authorization", "X-Api-Key", "Cookie", "Host", "Origin", "Referer", "User-Agent", "Content-Type", "Content-Length",
	"Idempotency-Key", "Last-Event-Id", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}

func (d *decoder) userHeader(v value) {
	s, ok := d.optional(v, "X-Forwarded-User")
	switch {
	case !ok:
	case s.text != "" && !token.MatchString(s.text):
		s.fail("is not the name of a header; write it as in X-Forwarded-User")
	case slices.Contains(takenHeaders, http.CanonicalHeaderKey(s.text)):
		s.fail("is what callers send for another purpose; write a header that only the proxy sets, as in X-Forwarded-User")
	default:
		d.config.Auth.UserHeader = s.text
	}
}

func (d *decoder) anonymousPlan(v value) {
	if s, ok := d.optional(v, "the name of a plan"); ok {
		d.config.Auth.AnonymousPlan = s.text
	}
}

// checkIdentity looks at what auth's ways in are together.
func (d *decoder) checkIdentity() {
	d.checkJWT()
	a := &d.config.Auth
	if a.UserHeader != "" {
		if len(a.TrustedProxies) == 0 {
			d.failNear("is set, but auth.trusted_proxies is empty: nobody is believed who sends it; write the proxy's address there", "auth.user_header")
		}
		for i, p := range a.TrustedProxies {
			if p.Bits() == 0 {
				d.failNear("trusts everybody, and auth.user_header is set: anyone could be any user; write the proxies' addresses", indexed("auth.trusted_proxies", i))
			}
		}
	}
	if p, ok := d.config.Plans[a.AnonymousPlan]; ok && p.RequestsPerMinute == 0 {
		d.warn(d.near("auth.anonymous_plan"), "is a plan without requests_per_minute: anyone may call without end")
	}
	if len(a.Keys) == 0 && a.JWT == Defaults().Auth.JWT && a.UserHeader == "" && a.AnonymousPlan == "" {
		d.warn(d.near("auth.keys", "auth"), "is empty, so nobody can call; `sluice key` makes a key and its entry")
	}
}

func (d *decoder) checkJWT() {
	j := d.config.Auth.JWT
	switch {
	case j.Secret != "" && j.JWKSURL != "":
		d.failNear("is set, and auth.jwt.secret too; tokens are signed with one or the other, so remove one", "auth.jwt.jwks_url")
	case j.Secret != "":
	case j.JWKSURL != "":
		for _, c := range []struct{ value, key, whose string }{{j.Issuer, "auth.jwt.issuer", "of other tenants of the same provider"}, {j.Audience, "auth.jwt.audience", "that were made for other applications"}} {
			if c.value == "" {
				d.warn(d.near(c.key, "auth.jwt.jwks_url"), "is empty, so tokens "+c.whose+" are taken, too, if they are signed with the same keys")
			}
		}
	default:
		unsigned := Defaults().Auth.JWT
		for _, c := range []struct{ value, unset, key string }{{j.Issuer, unsigned.Issuer, "issuer"}, {j.Audience, unsigned.Audience, "audience"},
			{j.UserClaim, unsigned.UserClaim, "user_claim"}, {j.PlanClaim, unsigned.PlanClaim, "plan_claim"}, {j.Cookie, unsigned.Cookie, "cookie"}} {
			if c.value != c.unset {
				d.failNear("is set, but neither auth.jwt.secret nor auth.jwt.jwks_url, so no token is taken; set one of them", "auth.jwt."+c.key)
			}
		}
	}
}
