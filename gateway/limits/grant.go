package limits

import (
	"math"
	"time"
)

// dayPiece is by how many tokens an open stream's share of the day grows. Reserving all of max_tokens would keep an
// owner's other streams from tokens that most answers never take; a piece is some ten seconds of output, and so often a
// stream takes the lock.
const dayPiece = 1000

// Unlimited is what Draw returns where nothing limits the output.
const Unlimited = math.MaxInt64

// Grant is the permission for one stream, and what is reserved for it. It belongs to the stream, which settles it at its
// end, whichever way that comes. All methods may be called at once from any goroutine, and on a nil Grant.
type Grant struct {
	limits    *Limits
	owner     *owner
	windows   Windows
	perDay    int64 // of the plan that it was admitted with; 0: no limit
	maxOutput int64 // 0: no bound is known

	// Reserved, or since CorrectInput taken; guarded by limits.mu, as is over.
	input, output       int64 // of the minutes
	dayInput, dayOutput int64 // of the day
	over                bool
}

// Windows is what the owner had left when this Grant was given.
func (g *Grant) Windows() Windows {
	if g == nil {
		return Windows{}
	}
	return g.windows
}

// Draw enlarges the stream's share of its owner's day, once it has made so many output tokens, by a piece or what is
// left. It returns how many tokens the stream may make in all before it must ask again; where that is not more than it
// has made, the day is used up. Shares never add up to more than the day, however many streams draw at once.
//
// What the stream has made is an estimate, and the upstream sees to max_tokens: a stream that has all of these in its
// share is not ended before its estimate is twice as high.
func (g *Grant) Draw(output int64) int64 {
	if g == nil || g.perDay <= 0 {
		return Unlimited
	}
	g.limits.mu.Lock()
	defer g.limits.mu.Unlock()
	if g.over {
		return Unlimited
	}
	g.owner.turn(time.Now())
	want := output + dayPiece
	if output < errorFactor*g.maxOutput {
		want = min(want, g.maxOutput)
	}
	if more := min(want-g.dayOutput, g.owner.left(g.perDay)); more > 0 {
		g.dayOutput += more
		g.owner.day.reserved += more
	}
	if g.maxOutput > 0 && g.dayOutput >= g.maxOutput {
		return max(g.dayOutput, errorFactor*g.maxOutput)
	}
	return g.dayOutput
}

// CorrectInput replaces the estimate of the input by what the upstream says that it was, while the stream is open: what
// came from a cache is free for others at once.
func (g *Grant) CorrectInput(t Tokens) {
	if g == nil {
		return
	}
	g.limits.mu.Lock()
	defer g.limits.mu.Unlock()
	if g.over {
		return
	}
	n := t.input()
	g.owner.input.take(n-g.input, time.Now())
	g.input = n
	if g.perDay > 0 {
		g.owner.day.reserved += n - g.dayInput
		g.dayInput = n
	}
}

// Settle ends the grant with what the answer has used: the slot is free, reservations are replaced by the figures, and
// these are added to the owner's sums. Only the first Settle or Release does anything.
func (g *Grant) Settle(t Tokens, estimated bool) {
	g.end(t, func(o *owner) {
		used := Tally{Answers: 1, Tokens: t}
		if estimated {
			used.Estimated = 1
		}
		o.book(used)
	})
}

// Release ends the grant of a request that was never answered: all is given back but the request itself, which stays
// counted. After Settle it does nothing.
func (g *Grant) Release() { g.end(Tokens{}, func(*owner) {}) }

func (g *Grant) end(t Tokens, book func(*owner)) {
	if g == nil {
		return
	}
	g.limits.mu.Lock()
	defer g.limits.mu.Unlock()
	if g.over {
		return
	}
	g.over = true
	now, o := time.Now(), g.owner
	o.turn(now)
	o.input.take(t.input()-g.input, now)
	o.output.take(t.output()-g.output, now)
	o.day.reserved -= g.dayInput + g.dayOutput
	book(o)
	o.open--
	g.limits.open--
	g.limits.forgetIdle(o, now)
}
