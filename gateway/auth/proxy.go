package auth

import (
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
	if a.trusted(peer(r)) {
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
func (a *Auth) ClientAddr(r *http.Request) netip.Addr {
	connection := peer(r)
	if !a.trusted(connection) {
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
		if !a.trusted(addr) {
			break
		}
	}
	return client
}

func (a *Auth) trusted(addr netip.Addr) bool {
	for _, p := range a.proxies {
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
