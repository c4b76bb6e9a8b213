package callbacks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"syscall"
)

// maxURL bounds what is stored, shown and logged for each callback. Longer ones are refused by many servers, too.
const maxURL = 2048

// InvalidURLError says why a URL cannot be called back. Its text is for the caller to read.
type InvalidURLError struct{ Reason string }

func (e *InvalidURLError) Error() string { return "The callback URL " + e.Reason + "." }

// errForbidden is why a dial was refused: the name led to an address behind the fence.
var errForbidden = errors.New("the address is not one that callers may reach through the gateway")

// fence keeps callers from reaching, through the gateway, what only the gateway can reach. What a URL says is checked
// when it is given; where it leads is checked when it is dialed, on the address that is about to be connected to: what a
// name meant at any other time proves nothing.
type fence struct {
	hosts    map[string]bool // exempt from all but never: "host", at any port, or "host:port"
	private  bool            // private addresses are open to everybody
	resolver *net.Resolver   // nil: the system's
}

func newFence(hosts []string, private bool) *fence {
	f := &fence{hosts: make(map[string]bool), private: private}
	for _, host := range hosts {
		f.hosts[strings.ToLower(host)] = true
	}
	return f
}

// allowed reports whether the operator has named the host, or the host with this port.
func (f *fence) allowed(host, port string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.String() // an IPv6 address can be written in many ways
	}
	return f.hosts[host] || f.hosts[net.JoinHostPort(host, port)]
}

var (
	// hostName: labels of letters, digits, dashes and underscores. International names come in their ASCII form: what
	// they would turn into is for the caller to say, not for us to guess.
	hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?$`)
	// number is a last label that makes a host an IPv4 address in the eyes of browsers and of some resolvers: decimal,
	// octal or hexadecimal, with any number of parts.
	number = regexp.MustCompile(`(^|\.)([0-9]+|0[xX][0-9A-Fa-f]*)\.?$`)
)

// check returns nil for a URL that may be called back, as far as can be told without asking where its name leads, and
// otherwise an *InvalidURLError.
func (f *fence) check(raw string) error {
	refuse := func(format string, args ...any) error { return &InvalidURLError{fmt.Sprintf(format, args...)} }
	if len(raw) > maxURL {
		return refuse("is longer than %d bytes", maxURL)
	}
	for _, b := range []byte(raw) {
		if b <= ' ' || b >= 0x7f || b == '\\' {
			return refuse("has a character in it that no URL has; write it percent-encoded")
		}
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return refuse("is not a URL")
	case u.Scheme != "https" && u.Scheme != "http":
		return refuse("does not begin with https://")
	case u.User != nil:
		return refuse("has a user name or a password in it; what it must prove, the signature proves")
	case u.Opaque != "" || u.Hostname() == "":
		return refuse("names no host")
	case strings.Contains(raw, "#"):
		return refuse("has a fragment, which is never sent")
	case strings.HasSuffix(u.Host, ":"):
		return refuse("has no port after its colon")
	}
	host, port := u.Hostname(), portOf(u)
	allowed := f.allowed(host, port)
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.Zone() != "" {
			return refuse("has a zone in its address")
		}
		if !f.mayDial(ip, allowed) {
			return refuse("has an address that may not be called")
		}
	} else if number.MatchString(host) {
		return refuse("has a host that is a number, but not an address in the usual form")
	} else if len(host) > 253 || !hostName.MatchString(host) {
		return refuse("has a host that is no name; write an international one in its ASCII form (xn--…)")
	} else if local := strings.ToLower(strings.TrimSuffix(host, ".")); !f.private && !allowed && (local == "localhost" || strings.HasSuffix(local, ".localhost")) {
		return refuse("has an address that may not be called")
	}
	switch {
	case allowed:
	case u.Scheme != "https":
		return refuse("does not begin with https://")
	case port != "443":
		return refuse("has a port other than 443")
	}
	return nil
}

func portOf(u *url.URL) string {
	if port := u.Port(); port != "" {
		return port
	}
	if u.Scheme == "http" {
		return "80"
	}
	return "443"
}

// dial connects to addr, a host and a port as a URL has them, if the fence is open for the address that is found.
func (f *fence) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	allowed := f.allowed(host, port)
	d := net.Dialer{
		Resolver: f.resolver,
		// Control sees the address that the socket will connect to, after every look-up and for each of several.
		Control: func(_, address string, _ syscall.RawConn) error {
			found, err := netip.ParseAddrPort(address)
			if err != nil || !f.mayDial(found.Addr(), allowed) {
				return errForbidden
			}
			return nil
		},
	}
	return d.DialContext(ctx, network, addr)
}

// mayDial reports whether the fence is open for an address: public ones always, private ones where that is allowed.
func (f *fence) mayDial(ip netip.Addr, allowed bool) bool {
	switch kindOf(ip) {
	case public:
		return true
	case private:
		return allowed || f.private
	}
	return false
}

// kind is what an address is to the fence.
type kind int

const (
	never   kind = iota // leads nowhere that a callback could want to go
	private             // in somebody's own network; or this machine
	public
)

// never also holds the addresses at which clouds hand credentials to whoever asks from inside. They lie in link-local
// space, or in ranges that count as private or even public otherwise.
var (
	neverRanges = prefixes(
		"169.254.0.0/16",                                    // link-local; 169.254.169.254 is the metadata service of most clouds
		"100.100.100.200/32",                                // metadata, Alibaba
		"168.63.129.16/32",                                  // metadata, Azure: a public address that leads to the host
		"fd00:ec2::/32",                                     // metadata, Amazon
		"0.0.0.0/8",                                         // "this network": 0.0.0.0 is the machine itself on Linux
		"192.0.0.0/24",                                      // IETF protocol assignments; 192.0.0.192 is metadata, Oracle
		"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", // documentation
		"192.88.99.0/24", // 6to4 relays
		"198.18.0.0/15",  // benchmarks
		"224.0.0.0/4",    // multicast
		"240.0.0.0/4",    // reserved, and broadcast
		"2001::/23",      // IETF protocol assignments, Teredo among them
		"2001:db8::/32",  // documentation
		"3fff::/20",      // documentation
	)
	privateRanges = prefixes(
		"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16",
		"100.64.0.0/10", // between a provider and its customers
		"127.0.0.0/8", "::1/128",
		"fc00::/7",
	)
	publicIPv6 = netip.MustParsePrefix("2000::/3") // all that is assigned for the open Internet
	nat64      = netip.MustParsePrefix("64:ff9b::/96")
	sixToFour  = netip.MustParsePrefix("2002::/16")
)

func prefixes(texts ...string) []netip.Prefix {
	all := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		all[i] = netip.MustParsePrefix(text)
	}
	return all
}

// kindOf looks through the forms in which an IPv6 address carries an IPv4 one. Behind NAT64 every IPv4 host has such an
// address, so they are not refused for their form.
func kindOf(ip netip.Addr) kind {
	ip = ip.Unmap().WithZone("")
	bytes := ip.As16()
	switch {
	case nat64.Contains(ip):
		return kindOf(netip.AddrFrom4([4]byte(bytes[12:])))
	case sixToFour.Contains(ip):
		return kindOf(netip.AddrFrom4([4]byte(bytes[2:6])))
	case contains(neverRanges, ip):
		return never
	case contains(privateRanges, ip):
		return private
	case ip.Is4(), publicIPv6.Contains(ip):
		return public
	}
	return never
}

func contains(ranges []netip.Prefix, ip netip.Addr) bool {
	for _, r := range ranges {
		if r.Contains(ip) {
			return true
		}
	}
	return false
}
