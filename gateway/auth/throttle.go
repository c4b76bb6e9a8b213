package auth

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// An address may guess guessBurst times at once, and once more after each guessEvery. Keys and tickets cannot be guessed
// at any speed; this is for keys that people have thought out, for logs, and for metrics. It leaves room for a team
// behind one address whose deployment has the wrong key.
const (
	guessBurst = 20
	guessEvery = 3 * time.Second
)

// The throttle remembers guessSets × guessWays = 65,536 addresses in 1 MiB, whatever comes: an address finds its place
// by a hash that nobody outside can compute, and takes that of the one among eight that has been quiet for longest.
// Whoever has more addresses than that to guess from could guess more often anyhow.
const (
	guessSets = 1 << 13
	guessWays = 8
)

// throttle counts the failed attempts of each address.
type throttle struct {
	seed  maphash.Seed
	begun time.Time

	mu   sync.Mutex
	sets [guessSets][guessWays]guesser
}

// guesser is an address and its debt: each guess moves even on by guessEvery, and time catches up with it. (This is a
// bucket of tokens, told by the moment at which it will be full again.)
type guesser struct {
	address uint64        // its hash
	even    time.Duration // since the throttle's beginning
}

func newThrottle() *throttle { return &throttle{seed: maphash.MakeSeed(), begun: time.Now()} }

// take counts a guess. It returns 0, or how long the address must wait before it may make this one, which then is not
// counted.
func (t *throttle) take(from netip.Addr) time.Duration {
	address := maphash.String(t.seed, network(from))
	set := &t.sets[address%guessSets]
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Since(t.begun)
	g := &set[0]
	for i := range set {
		if set[i].address == address {
			g = &set[i]
			break
		}
		if set[i].even < g.even {
			g = &set[i]
		}
	}
	if g.address != address {
		*g = guesser{address: address}
	}
	even := max(g.even, now)
	if wait := even - now - (guessBurst-1)*guessEvery; wait > 0 {
		return wait
	}
	g.even = even + guessEvery
	return 0
}
