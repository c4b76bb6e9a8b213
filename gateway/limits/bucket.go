package limits

import (
	"math"
	"time"

	"golang.org/x/time/rate"
)

// sliver is the part of a token that arithmetic may lose. It is far below what a request costs, and above the rounding
// of a bucket of a billion tokens, the largest that a configuration can have.
const sliver = 1e-5

// longest is the longest wait: a century.
const longest = float64(100 * 365 * 24 * time.Hour)

// bucket is a limit per minute: what it holds may be taken at once, and comes back evenly. It may owe: what is taken
// beyond what it holds has to come back first. The zero bucket does not limit.
type bucket struct {
	limiter *rate.Limiter
}

// follow fits the bucket to a limit. What it holds or owes stays; a larger size fills up at the limit's rate.
func (b *bucket) follow(perMinute, size int, now time.Time) {
	perSecond := rate.Limit(float64(perMinute) / 60)
	switch {
	case perMinute <= 0:
		b.limiter = nil
	case b.limiter == nil:
		b.limiter = rate.NewLimiter(perSecond, size)
	case b.limiter.Limit() != perSecond || b.limiter.Burst() != size:
		b.limiter.SetLimitAt(now, perSecond)
		b.limiter.SetBurstAt(now, size)
	}
}

// until is how long it takes until the bucket holds so many tokens: 0 if it does. It is rounded up, so that after it
// they are there.
func (b bucket) until(tokens int64, now time.Time) time.Duration {
	if b.limiter == nil {
		return 0
	}
	missing := float64(tokens) - b.limiter.TokensAt(now)
	if missing < sliver {
		return 0
	}
	return time.Duration(min(math.Ceil(missing/float64(b.limiter.Limit())*float64(time.Second)), longest))
}

// room is the most that a request may take: n, or all that the bucket ever holds.
func (b bucket) room(n int64) int64 {
	if b.limiter == nil {
		return 0
	}
	return min(n, int64(b.limiter.Burst()))
}

// take takes tokens, also more than there are; fewer than 0 are given back.
func (b bucket) take(n int64, now time.Time) {
	if b.limiter == nil || n == 0 {
		return
	}
	size := b.limiter.Burst()
	if int(n) > size { // more than this the limiter does not lend
		b.limiter.SetBurstAt(now, int(n))
		defer b.limiter.SetBurstAt(now, size)
	}
	b.limiter.ReserveN(now, int(n)) // unlike AllowN, takes a token that is short of a sliver, and owes the sliver
}

// full reports whether the bucket cannot be told from a new one.
func (b bucket) full(now time.Time) bool {
	return b.limiter == nil || b.limiter.TokensAt(now) >= float64(b.limiter.Burst())
}

func (b bucket) window(limit int, now time.Time) Window {
	if b.limiter == nil {
		return Window{}
	}
	size := b.limiter.Burst()
	held := b.limiter.TokensAt(now) + sliver
	return Window{
		Limit:     int64(limit),
		Used:      int64(size) - int64(math.Floor(held)),
		Remaining: max(0, int64(held)),
		Reset:     now.Add(b.until(int64(size), now)),
	}
}
