package callbacks

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func TestFenceKnowsEveryAddressForWhatItIs(t *testing.T) {
	for want, addresses := range map[kind]string{
		public: "1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1 172.15.255.255 172.32.0.0 192.167.255.255 " +
			"192.169.0.0 223.255.255.255 2606:4700:4700::1111 2a00:1450::1 ::ffff:1.1.1.1 64:ff9b::1.1.1.1 2002:0101:0101::1",
		private: "10.0.0.0 10.255.255.255 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 100.127.255.255 127.0.0.1 127.255.255.255 " +
			"::1 fc00::1 fdff:ffff::1 ::ffff:127.0.0.1 ::ffff:10.1.2.3 ::ffff:c0a8:0101 64:ff9b::127.0.0.1 64:ff9b::a00:1 2002:7f00:0001::1 2002:0a01:0203:: 2002:c0a8:0101::5",
		never: "0.0.0.0 0.1.2.3 169.254.169.254 169.254.0.1 100.100.100.200 168.63.129.16 192.0.0.192 192.0.2.1 198.51.100.1 203.0.113.1 192.88.99.1 198.18.0.1 " +
			"224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 :: ::127.0.0.1 ::1.1.1.1 ::ffff:0:127.0.0.1 fe80::1 fe80::1%eth0 fec0::1 ff02::1 fd00:ec2::254 " +
			"2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:db8::1 3fff::1 4000::1 100::1 5f00::1 ::ffff:169.254.169.254 ::ffff:0.0.0.0 64:ff9b::169.254.169.254 " +
			"64:ff9b::0.0.0.0 64:ff9b:1::1.1.1.1 2002:a9fe:a9fe::1 2002:0000:0000::1 2002:e000:0001::1",
	} {
		for _, address := range strings.Fields(addresses) {
			if got := kindOf(netip.MustParseAddr(address)); got != want {
				t.Errorf("%s: %d, want %d", address, got, want)
			}
		}
	}
}

func TestURLIsRefusedWithItsReason(t *testing.T) {
	const (
		forbidden = "has an address that may not be called"
		digits    = "has a host that is a number"
		noName    = "has a host that is no name"
		port      = "has a port other than 443"
		scheme    = "does not begin with https://"
		character = "has a character in it that no URL has"
		noURL     = "is not a URL"
	)
	f := newFence([]string{"Inside.example", "receiver.example:8443", "[::1]:9000", "127.0.0.1:9000", "169.254.169.254"}, false)
	for raw, want := range map[string]string{
		"https://example.com":                                "",
		"https://example.com:443/hook?a=b":                   "",
		"https://EXAMPLE.com./":                              "",
		"https://my_host.example.com/":                       "",
		"https://xn--bcher-kva.example/":                     "",
		"https://1.1.1.1/":                                   "",
		"https://[2606:4700:4700::1111]/":                    "",
		"https://3com.com/":                                  "",
		"http://inside.example/":                             "",
		"http://inside.example.:81/":                         "",
		"https://receiver.example:8443/":                     "",
		"http://127.0.0.1:9000/":                             "",
		"http://[0:0::0:1]:9000/":                            "",
		"http://[::1]:9000/":                                 "",
		"":                                                   scheme,
		"example.com":                                        scheme,
		"//example.com/":                                     scheme,
		"http://example.com/":                                scheme,
		"HTTP://example.com/":                                scheme,
		"ftp://example.com/":                                 scheme,
		"file:///etc/passwd":                                 scheme,
		"gopher://127.0.0.1:6379/":                           scheme,
		"https:":                                             "names no host",
		"https:example.com":                                  "names no host",
		"https:///hook":                                      "names no host",
		"https://:443/":                                      "names no host",
		"https://user@example.com/":                          "has a user name",
		"https://user:pass@example.com/":                     "has a user name",
		"https://@example.com/":                              "has a user name",
		"https://example.com@127.0.0.1/":                     "has a user name",
		"https://example.com/#a":                             "has a fragment",
		"https://example.com/#":                              "has a fragment",
		"https://example.com:/":                              "has no port",
		"https://example.com:444/":                           port,
		"https://example.com:80/":                            port,
		"https://example.com:0443/":                          port,
		"https://example.com:99999/":                         port,
		"https://receiver.example:8444/":                     port,
		"https://example.com:x/":                             noURL,
		"https://exa mple.com/":                              character,
		"https://example.com/\n":                             character,
		"https://example.com/\x00":                           character,
		"https://example.com\\@127.0.0.1/":                   character,
		"https://bücher.example/":                            character,
		"https://１２７.0.0.1/":                                 character,
		"https://example.com/%zz":                            noURL,
		"https://%31%32%37.0.0.1/":                           noURL,
		"https://127.0.0.1/":                                 forbidden,
		"https://127.0.0.1:9000/x":                           "",
		"https://127.0.0.2/":                                 forbidden,
		"https://169.254.169.254/latest":                     forbidden, // though the operator named it
		"https://10.0.0.1/":                                  forbidden,
		"https://0.0.0.0/":                                   forbidden,
		"https://[::1]/":                                     forbidden,
		"https://[::]/":                                      forbidden,
		"https://[::ffff:127.0.0.1]/":                        forbidden,
		"https://[::ffff:7f00:1]/":                           forbidden,
		"https://[64:ff9b::7f00:1]/":                         forbidden,
		"https://[2002:7f00:1::]/":                           forbidden,
		"https://[2001:0:4136:e378:8000::1]/":                forbidden,
		"https://[fe80::1%25eth0]/":                          "has a zone",
		"https://localhost/":                                 forbidden,
		"https://LOCALHOST./":                                forbidden,
		"https://a.localhost/":                               forbidden,
		"https://2130706433/":                                digits, // 127.0.0.1 in decimal
		"https://017700000001/":                              digits, // in octal
		"https://0x7f000001/":                                digits, // in hexadecimal
		"https://0177.0.0.1/":                                digits,
		"https://0x7f.1/":                                    digits,
		"https://127.1/":                                     digits,
		"https://127.0.0.1./":                                digits,
		"https://127.0.0.0x1/":                               digits,
		"https://0x.0x/":                                     digits,
		"https://1.2.3.4.5/":                                 digits,
		"https://example.0/":                                 digits,
		"https://127.0.0.01/":                                digits,
		"https://example..com/":                              noName,
		"https://-example.com/":                              noName,
		"https://exa!mple.com/":                              noName,
		"https://" + strings.Repeat("a.", 127) + "com/":      noName,
		"https://example.com/" + strings.Repeat("a", maxURL): "is longer than 2048 bytes",
	} {
		err := f.check(raw)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), "The callback URL "+want)) {
			t.Errorf("%.80q: %v, want %q", raw, err, want)
		}
		var invalid *InvalidURLError
		if err != nil && !errors.As(err, &invalid) {
			t.Errorf("%.80q: a %T", raw, err)
		}
	}
}

func TestPrivateAddressesOpenOnlyWhereAllowed(t *testing.T) {
	open := newFence(nil, true)
	for raw, want := range map[string]bool{
		"https://10.0.0.1/": true, "https://localhost/": true, "https://[::1]/": true,
		"http://10.0.0.1/": false, "https://10.0.0.1:8443/": false, "https://169.254.169.254/": false, "https://[fd00:ec2::254]/": false, "https://0.0.0.0/": false,
	} {
		if err := open.check(raw); (err == nil) != want {
			t.Errorf("%s: %v", raw, err)
		}
	}
}

// trap is a listener on this machine that nobody may reach.
func trap(t *testing.T) (port string, reached func() bool) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var visits atomic.Int32
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			visits.Add(1)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port), func() bool { l.Close(); <-done; return visits.Load() > 0 }
}

// names resolves every name to the addresses that answer returns for the nth question, without any network.
func names(t *testing.T, answer func(n int) []string) (*net.Resolver, *atomic.Int32) {
	t.Helper()
	var asked atomic.Int32
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			var size [2]byte
			if _, err := io.ReadFull(server, size[:]); err != nil {
				return
			}
			question := make([]byte, binary.BigEndian.Uint16(size[:]))
			if _, err := io.ReadFull(server, question); err != nil {
				return
			}
			var m dnsmessage.Message
			if err := m.Unpack(question); err != nil {
				return
			}
			m.Response = true
			m.Additionals = nil
			if m.Questions[0].Type == dnsmessage.TypeA {
				for _, address := range answer(int(asked.Add(1))) {
					header := dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 0}
					m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: netip.MustParseAddr(address).As4()}})
				}
			}
			packed, err := m.Pack()
			if err != nil {
				return
			}
			server.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(packed))), packed...))
		}()
		return client, nil
	}}, &asked
}

func TestNameThatChangesBetweenLookUpAndDialIsRefused(t *testing.T) {
	port, reached := trap(t)
	f := newFence(nil, false)
	var asked *atomic.Int32
	f.resolver, asked = names(t, func(n int) []string {
		if n == 1 {
			return []string{"1.1.1.1"} // what a check in advance would see
		}
		return []string{"127.0.0.1"}
	})
	if err := f.check("https://rebind.example/"); err != nil || asked.Load() != 0 {
		t.Errorf("checked: %v, after %d look-ups", err, asked.Load())
	}
	if seen, err := f.resolver.LookupHost(t.Context(), "rebind.example"); err != nil || len(seen) != 1 || seen[0] != "1.1.1.1" {
		t.Fatalf("looked up: %v, %v", seen, err)
	}
	if _, err := f.dial(t.Context(), "tcp", "rebind.example:"+port); !errors.Is(err, errForbidden) {
		t.Errorf("dialed: %v", err)
	}
	if reached() {
		t.Error("it got through")
	}
}

func TestNameWithSeveralForbiddenAddressesIsRefused(t *testing.T) {
	port, reached := trap(t)
	f := newFence(nil, false)
	f.resolver, _ = names(t, func(int) []string { return []string{"169.254.169.254", "127.0.0.1", "10.0.0.1"} })
	if _, err := f.dial(t.Context(), "tcp", "many.example:"+port); !errors.Is(err, errForbidden) {
		t.Errorf("dialed: %v", err)
	}
	if reached() {
		t.Error("it got through")
	}
}

func TestDialRefusesWhatALooseResolverMakesOfAHost(t *testing.T) {
	port, reached := trap(t)
	f := newFence(nil, false)
	for _, host := range []string{"127.0.0.1", "localhost", "::ffff:127.0.0.1", "::1", "0.0.0.0", "::", "2130706433", "0x7f000001", "127.1", "0177.0.0.1"} {
		f.resolver, _ = names(t, func(int) []string { return []string{"127.0.0.1"} })
		if c, err := f.dial(t.Context(), "tcp", net.JoinHostPort(host, port)); err == nil {
			c.Close()
			t.Errorf("%s was dialed", host)
		}
	}
	if reached() {
		t.Error("one got through")
	}
}

func TestAllowedHostIsDialedAtItsPortOnly(t *testing.T) {
	port, _ := trap(t)
	other, reached := trap(t)
	f := newFence([]string{"receiver.example:" + port}, false)
	f.resolver, _ = names(t, func(int) []string { return []string{"127.0.0.1"} })
	c, err := f.dial(t.Context(), "tcp", "receiver.example:"+port)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := f.dial(t.Context(), "tcp", "receiver.example:"+other); !errors.Is(err, errForbidden) {
		t.Errorf("another port: %v", err)
	}
	if reached() {
		t.Error("another port got through")
	}
}

func FuzzURLThatPassesLeadsWhereItSays(f *testing.F) {
	for _, raw := range []string{"https://example.com/", "https://127.1/", "https://[::ffff:127.0.0.1]/", "https://a@b/", "https://0x7f.1:443/", "https://1.1.1.1/?a#b"} {
		f.Add(raw)
	}
	fence := newFence(nil, false)
	f.Fuzz(func(t *testing.T, raw string) {
		if fence.check(raw) != nil {
			return
		}
		r, err := http.NewRequest("POST", raw, nil)
		if err != nil {
			t.Fatalf("%q passed, but nothing can be sent there: %v", raw, err)
		}
		// What follows the scheme up to the first delimiter is the host, in the eyes of any reader of URLs.
		rest := raw[len("https://"):]
		if i := strings.IndexAny(rest, "/?"); i >= 0 {
			rest = rest[:i]
		}
		if r.URL.Scheme != "https" || r.URL.Host != rest || strings.TrimSuffix(r.Host, ":443") != strings.TrimSuffix(rest, ":443") {
			t.Errorf("%q passed, and leads to %q", raw, r.URL.Host)
		}
	})
}
