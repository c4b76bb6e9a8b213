package auth

import (
	"crypto/tls"
	"net/http"
	"net/netip"
	"testing"
)

// behind is a house that trusts two networks, one of them written as IPv4 in IPv6.
func behind(t testing.TB) *Auth {
	cfg := house()
	for _, p := range []string{"10.1.2.3/8", "::ffff:192.168.0.0/112", "fd00::/8", "fe80::/10"} {
		cfg.TrustedProxies = append(cfg.TrustedProxies, netip.MustParsePrefix(p))
	}
	return open(t, cfg)
}

func TestTheSchemeIsTheConnectionsOrATrustedProxys(t *testing.T) {
	a := behind(t)
	for _, test := range []struct {
		name, remote string
		tls          bool
		proto        []string
		want         string
	}{
		{"plain", "203.0.113.9:5000", false, nil, "http"},
		{"our TLS", "203.0.113.9:5000", true, nil, "https"},
		{"our TLS, whatever a proxy says", "10.0.0.1:5000", true, []string{"http"}, "https"},
		{"trusted", "10.0.0.1:5000", false, []string{"https"}, "https"},
		{"trusted, in IPv6", "[::ffff:10.0.0.1]:5000", false, []string{"https"}, "https"},
		{"trusted, on a link", "[fe80::1%eth0]:5000", false, []string{"https"}, "https"},
		{"trusted, in any case", "10.0.0.1:5000", false, []string{"HTTPS"}, "https"},
		{"trusted, first of a list", "10.0.0.1:5000", false, []string{" https , http"}, "https"},
		{"trusted, not the second", "10.0.0.1:5000", false, []string{"http, https"}, "http"},
		{"trusted, not the second line", "10.0.0.1:5000", false, []string{"http", "https"}, "http"},
		{"trusted, says http", "10.0.0.1:5000", false, []string{"http"}, "http"},
		{"trusted, says something else", "10.0.0.1:5000", false, []string{"javascript"}, "http"},
		{"trusted, says nothing", "10.0.0.1:5000", false, nil, "http"},
		{"anybody", "203.0.113.9:5000", false, []string{"https"}, "http"},
		{"Unix socket", "@", false, []string{"https"}, "http"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := request(http.Header{"X-Forwarded-Proto": test.proto})
			r.RemoteAddr = test.remote
			if r.TLS = nil; test.tls {
				r.TLS = &tls.ConnectionState{}
			}
			if got := a.Scheme(r); got != test.want {
				t.Errorf("Scheme = %q, want %q", got, test.want)
			}
		})
	}
}

func TestTheClientIsTheRightmostAddressThatNobodyCouldForge(t *testing.T) {
	a := behind(t)
	for _, test := range []struct {
		name, remote string
		forwarded    []string
		want         string
	}{
		{"direct", "203.0.113.9:5000", nil, "203.0.113.9"},
		{"direct, forged", "203.0.113.9:5000", []string{"198.51.100.1"}, "203.0.113.9"},
		{"direct IPv6", "[2001:db8::1]:5000", nil, "2001:db8::1"},
		{"one proxy", "10.0.0.1:5000", []string{"198.51.100.1"}, "198.51.100.1"},
		{"one proxy, forged left", "10.0.0.1:5000", []string{"127.0.0.1, 198.51.100.1"}, "198.51.100.1"},
		{"two proxies", "10.0.0.1:5000", []string{"127.0.0.1, 198.51.100.1, 192.168.0.7"}, "198.51.100.1"},
		{"two lines", "10.0.0.1:5000", []string{"127.0.0.1", "198.51.100.1, fd00::7"}, "198.51.100.1"},
		{"IPv6", "[fd00::1]:5000", []string{"2001:db8::7"}, "2001:db8::7"},
		{"with ports", "10.0.0.1:5000", []string{"198.51.100.1:8080, [fd00::7]:99"}, "198.51.100.1"},
		{"in brackets", "10.0.0.1:5000", []string{"[2001:db8::7]"}, "2001:db8::7"},
		{"IPv4 in IPv6", "10.0.0.1:5000", []string{"198.51.100.1, ::ffff:10.9.9.9"}, "198.51.100.1"},
		{"zone of the client's making", "10.0.0.1:5000", []string{"2001:db8::7%x"}, "2001:db8::7"},
		{"all trusted", "10.0.0.1:5000", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		{"empty elements", "10.0.0.1:5000", []string{" ,198.51.100.1,, "}, "198.51.100.1"},
		{"nothing forwarded", "10.0.0.1:5000", nil, "10.0.0.1"},
		{"empty", "10.0.0.1:5000", []string{""}, "10.0.0.1"},
		{"malformed", "10.0.0.1:5000", []string{"198.51.100.1, unknown"}, "10.0.0.1"},
		{"malformed behind a proxy", "10.0.0.1:5000", []string{"_hidden, 10.0.0.2"}, "10.0.0.1"},
		{"malformed left of the client", "10.0.0.1:5000", []string{"?, 198.51.100.1"}, "198.51.100.1"},
		{"Unix socket", "@", []string{"198.51.100.1"}, "invalid IP"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := request(http.Header{"X-Forwarded-For": test.forwarded})
			r.RemoteAddr = test.remote
			if got := a.ClientAddr(r).String(); got != test.want {
				t.Errorf("ClientAddr = %s, want %s", got, test.want)
			}
		})
	}
}

func TestWithoutTrustedProxiesNobodyIsBelieved(t *testing.T) {
	r := request(http.Header{"X-Forwarded-For": {"198.51.100.1"}, "X-Forwarded-Proto": {"https"}})
	r.RemoteAddr = "127.0.0.1:5000"
	a := open(t, house())
	if a.ClientAddr(r).String() != "127.0.0.1" || a.Scheme(r) != "http" {
		t.Errorf("ClientAddr = %s, Scheme = %s", a.ClientAddr(r), a.Scheme(r))
	}
}

func FuzzForwardedForGivesAPlainAddress(f *testing.F) {
	a := behind(f)
	f.Add("127.0.0.1, 198.51.100.1:1, [fd00::7]")
	f.Add("fe80::1%eth0,[,],:")
	f.Fuzz(func(t *testing.T, forwarded string) {
		r := request(http.Header{"X-Forwarded-For": {forwarded}})
		r.RemoteAddr = "10.0.0.1:5000"
		if got := a.ClientAddr(r); !got.IsValid() || got.Zone() != "" || got.Is4In6() {
			t.Errorf("ClientAddr = %v", got)
		}
	})
}
