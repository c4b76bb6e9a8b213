package auth

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

// from is a request from an address.
func from(address string, h http.Header) *http.Request {
	r := request(h)
	r.RemoteAddr = netip.AddrPortFrom(netip.MustParseAddr(address), 5000).String()
	return r
}

var wrongKey = http.Header{"X-Api-Key": {"sk-sluice-mallory"}}

// exhaust guesses until it is told to wait.
func exhaust(t testing.TB, a *Auth, address string) *Throttled {
	t.Helper()
	for range guessBurst + 1 {
		_, err := a.Identify(from(address, wrongKey))
		var throttled *Throttled
		if errors.As(err, &throttled) {
			return throttled
		}
		if !errors.Is(err, ErrWrongCredentials) {
			t.Fatal(err)
		}
	}
	t.Fatalf("%s guessed %d times without being told to wait", address, guessBurst+1)
	return nil
}

func TestGuessesOfAnAddressAreSlowedDownExactly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := open(t, house())
		for n := range guessBurst {
			if _, err := a.Identify(from("203.0.113.9", wrongKey)); !errors.Is(err, ErrWrongCredentials) {
				t.Fatalf("guess %d: %v", n+1, err)
			}
		}
		for range 10 {
			throttled := exhaust(t, a, "203.0.113.9")
			if throttled.RetryAfter != guessEvery {
				t.Errorf("RetryAfter = %s", throttled.RetryAfter)
			}
			pass(throttled.RetryAfter - time.Nanosecond)
			if _, err := a.Identify(from("203.0.113.9", wrongKey)); !isThrottled(err) {
				t.Errorf("a moment too early: %v", err)
			}
			pass(time.Nanosecond)
			if _, err := a.Identify(from("203.0.113.9", wrongKey)); !errors.Is(err, ErrWrongCredentials) {
				t.Errorf("after the wait: %v", err)
			}
		}
		pass(guessBurst * guessEvery)
		for n := range guessBurst {
			if _, err := a.Identify(from("203.0.113.9", wrongKey)); !errors.Is(err, ErrWrongCredentials) {
				t.Fatalf("guess %d after a rest: %v", n+1, err)
			}
		}
	})
}

func TestAGoodCredentialAlwaysPasses(t *testing.T) {
	cfg := signedIn()
	cfg.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	cfg.UserHeader = "X-User"
	a := open(t, cfg)
	exhaust(t, a, "203.0.113.9")
	for _, h := range []http.Header{{"X-Api-Key": {aliceKey}}, bearer(hs256(t, nil)), {"Cookie": {"session=" + hs256(t, nil)}}} {
		id, err := a.Identify(from("203.0.113.9", h))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.CheckTicket(somebody, a.IssueTicket(stream, id), stream); err != nil {
			t.Error(err)
		}
	}
	proxied := http.Header{"X-User": {"carol"}, "X-Forwarded-For": {"203.0.113.9"}}
	if id, err := a.Identify(from("10.0.0.1", proxied)); err != nil || id.Owner != "user:carol" {
		t.Errorf("Identify = %+v, %v", id, err)
	}
}

func TestWhatIsNoGuessIsNeverThrottled(t *testing.T) {
	a := open(t, signedIn())
	exhaust(t, a, "203.0.113.9")
	expired, mine := hs256(t, claims(map[string]any{"exp": 1})), ticketOf(t, a, aliceKey)
	removed := signedIn()
	removed.Keys = removed.Keys[1:]
	if err := a.Reload(removed); err != nil {
		t.Fatal(err)
	}
	for range 2 * guessBurst {
		if _, err := a.Identify(from("203.0.113.9", bearer(expired))); !errors.Is(err, ErrTokenRefused) {
			t.Fatalf("expired: %v", err)
		}
		if _, err := a.Identify(from("203.0.113.9", nil)); !errors.Is(err, ErrNoCredentials) {
			t.Fatalf("nothing sent: %v", err)
		}
		if _, err := a.CheckTicket(somebody, mine, stream); !errors.Is(err, ErrTicketDead) {
			t.Fatalf("a ticket whose owner has gone: %v", err)
		}
	}
}

func TestWrongTicketsAreGuessesToo(t *testing.T) {
	a := open(t, house())
	for range guessBurst {
		if _, err := a.CheckTicket(somebody, "wrong", stream); !errors.Is(err, ErrWrongTicket) {
			t.Fatal(err)
		}
	}
	if _, err := a.CheckTicket(somebody, "wrong", stream); !isThrottled(err) {
		t.Error(err)
	}
	if _, err := a.Identify(from(somebody.String(), wrongKey)); !isThrottled(err) {
		t.Error(err)
	}
	if _, err := a.CheckTicket(somebody, ticketOf(t, a, aliceKey), stream); err != nil {
		t.Errorf("a good one: %v", err)
	}
}

func TestAddressesArePeople(t *testing.T) {
	cfg := house()
	cfg.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	for name, c := range map[string]struct {
		first, second string
		forwarded     [2]string
		same          bool
	}{
		"one IPv4":                    {"203.0.113.9", "203.0.113.9", [2]string{}, true},
		"two IPv4":                    {"203.0.113.9", "203.0.113.10", [2]string{}, false},
		"one in both families":        {"203.0.113.9", "::ffff:203.0.113.9", [2]string{}, true},
		"one /64":                     {"2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", [2]string{}, true},
		"two /64":                     {"2001:db8:1:2::1", "2001:db8:1:3::1", [2]string{}, false},
		"behind a proxy":              {"10.0.0.1", "10.0.0.1", [2]string{"203.0.113.9", "203.0.113.10"}, false},
		"behind two proxies":          {"10.0.0.1", "10.0.0.2", [2]string{"203.0.113.9", "203.0.113.9"}, true},
		"forged":                      {"203.0.113.9", "203.0.113.9", [2]string{"198.51.100.1", "198.51.100.2"}, true},
		"forged left of the proxy's":  {"10.0.0.1", "10.0.0.1", [2]string{"198.51.100.1, 203.0.113.9", "198.51.100.2, 203.0.113.9"}, true},
		"nonsense, so it's the proxy": {"10.0.0.1", "10.0.0.1", [2]string{"x", "y"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			a := open(t, cfg)
			guess := func(n int) error {
				h := wrongKey.Clone()
				if c.forwarded[n] != "" {
					h["X-Forwarded-For"] = []string{c.forwarded[n]}
				}
				_, err := a.Identify(from([2]string{c.first, c.second}[n], h))
				return err
			}
			for range guessBurst {
				guess(0)
			}
			if !isThrottled(guess(0)) || isThrottled(guess(1)) != c.same {
				t.Errorf("the first is told %v, the second %v", guess(0), guess(1))
			}
		})
	}
}

// TestAFloodOfAddressesTakesNoMemoryAndLocksNobodyOut fails logins from 100,000 addresses, half of each family.
func TestAFloodOfAddressesTakesNoMemoryAndLocksNobodyOut(t *testing.T) {
	const bound = 1 << 20
	if size := unsafe.Sizeof(throttle{}.sets); size != bound {
		t.Errorf("the table has %d bytes, and its comment says %d", size, bound)
	}
	a := open(t, house())
	before := heap()
	for n := range uint32(50_000) {
		var four [4]byte
		binary.BigEndian.PutUint32(four[:], 11<<24+n)
		six := [16]byte{0: 0x20, 1: 0x01}
		binary.BigEndian.PutUint32(six[4:], n)
		for _, addr := range []netip.Addr{netip.AddrFrom4(four), netip.AddrFrom16(six)} {
			r := &http.Request{Header: wrongKey, RemoteAddr: netip.AddrPortFrom(addr, 5000).String()}
			if _, err := a.Identify(r); !errors.Is(err, ErrWrongCredentials) {
				t.Fatalf("%s was told %v at its first attempt", addr, err)
			}
		}
	}
	grown := heap() - before
	t.Logf("100,000 addresses: the heap has grown by %d bytes, beside the table's %d", grown, bound)
	if grown > 64<<10 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	for range 100 {
		if id, err := a.Identify(from("203.0.113.9", http.Header{"X-Api-Key": {aliceKey}})); err != nil || id.Owner != "key:alice" {
			t.Fatalf("Identify = %+v, %v", id, err)
		}
	}
	if _, err := a.Identify(from("203.0.113.9", wrongKey)); !errors.Is(err, ErrWrongCredentials) {
		t.Errorf("somebody's first mistake: %v", err)
	}
	// The flood has not washed away who is guessing, either.
	exhaust(t, a, "203.0.113.9")
	for n := range 10_000 {
		a.guesses.take(netip.AddrFrom4([4]byte{12, 0, byte(n >> 8), byte(n)}))
	}
	if _, err := a.Identify(from("203.0.113.9", wrongKey)); !isThrottled(err) {
		t.Errorf("a guesser is forgotten after 10,000 others: %v", err)
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC() // what the first one's finalizers have freed
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestManyGuessAtOnceWithoutPassingTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := open(t, house())
		var mu sync.Mutex
		let := 0
		var guessers sync.WaitGroup
		for range 64 {
			guessers.Go(func() {
				for range 10 {
					if _, err := a.Identify(from("203.0.113.9", wrongKey)); errors.Is(err, ErrWrongCredentials) {
						mu.Lock()
						let++
						mu.Unlock()
					}
				}
			})
		}
		guessers.Wait()
		if let != guessBurst {
			t.Errorf("%d of 640 guesses were looked at, want %d", let, guessBurst)
		}
	})
}

func TestTheThrottleSaysNothingOfWhatWasSent(t *testing.T) {
	if text := fmt.Sprint(exhaust(t, open(t, house()), "203.0.113.9")); strings.Contains(text, "mallory") || !strings.Contains(text, "too many") {
		t.Error(text)
	}
}
