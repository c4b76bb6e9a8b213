package auth

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
)

// Scheme is the scheme that the caller used, "http" or "https": https on a TLS connection of our own, else what a
// trusted proxy's X-Forwarded-Proto says (its first value, if it is one of the two), else http.
func (a *Auth) Scheme(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	if a.callers.Load().trusted(peer(r)) {
		first, _, _ := strings.Cut(r.Header.Get("X-Forwarded-Proto"), ",")
		if strings.EqualFold(trim(first), "https") {
			return "https"
		}
	}
	return "http"
}

// ClientAddr is the address that the caller used: that of the connection, or, if a trusted proxy made it, the
// right-most of X-Forwarded-For that is not itself a trusted proxy, since what is left of it anyone can write. If all
// are trusted, it is the left-most; if one that counts is not an address, the connection's. It has no zone, an
// IPv4 address is never mapped into IPv6, and it is not valid only if the connection has no IP address.
func (a *Auth) ClientAddr(r *http.Request) netip.Addr { return a.callers.Load().clientAddr(r) }

func (c *callers) clientAddr(r *http.Request) netip.Addr {
	connection := peer(r)
	if !c.trusted(connection) {
		return connection
	}
	client := connection
	rest := strings.Join(r.Header["X-Forwarded-For"], ",") // several lines are one list: RFC 9110 §5.3
	for rest != "" {
		comma := strings.LastIndexByte(rest, ',')
		entry := trim(rest[comma+1:])
		rest = rest[:max(comma, 0)]
		if entry == "" { // RFC 9110 §5.6.1.2
			continue
		}
		addr, ok := forwarded(entry)
		if !ok {
			return connection
		}
		client = addr
		if !c.trusted(addr) {
			break
		}
	}
	return client
}

// proxyUser is the name that a trusted proxy gives the caller, "" if none does. From anyone else the header is worth
// nothing, and is not looked at.
func (c *callers) proxyUser(r *http.Request) (string, error) {
	if c.userHeader == "" || !c.trusted(peer(r)) {
		return "", nil
	}
	values := r.Header[c.userHeader]
	if len(values) > 1 { // a proxy that adds its own header lets the caller's through, too
		return "", fmt.Errorf("%w: it sends several", ErrUserRefused)
	}
	if len(values) == 0 || trim(values[0]) == "" {
		return "", nil
	}
	name := trim(values[0])
	if !plain(name) || strings.Contains(name, ",") { // some proxies join several headers by commas
		return "", fmt.Errorf("%w: it is not one name of 1 to %d printable characters", ErrUserRefused, maxName)
	}
	return name, nil
}

func (c *callers) trusted(addr netip.Addr) bool {
	for _, p := range c.proxies {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// peer is the other end of the connection; not valid for a Unix socket.
func peer(r *http.Request) netip.Addr {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap().WithZone("")
}

// forwarded reads an address as proxies write it: bare, in brackets, or with a port.
func forwarded(entry string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(entry)
	if err != nil {
		at, errPort := netip.ParseAddrPort(entry)
		addr, err = at.Addr(), errPort
	}
	if inner, ok := strings.CutPrefix(entry, "["); err != nil && ok {
		if inner, ok = strings.CutSuffix(inner, "]"); ok {
			addr, err = netip.ParseAddr(inner)
		}
	}
	return addr.Unmap().WithZone(""), err == nil
}

// unmapped is p as a range of IPv4 if it was written as IPv4 in IPv6, since addresses are compared unmapped.
func unmapped(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

// perUser is how much of an IPv6 address tells users apart: a household or a server has a /64 to itself, and may use any
// address in it.
const perUser = 64

// network is the part of an address that is taken for one user.
func network(addr netip.Addr) string {
	if addr.Is6() {
		p, _ := addr.Prefix(perUser) // fails above 128 bits only
		return p.String()
	}
	return addr.String()
}
