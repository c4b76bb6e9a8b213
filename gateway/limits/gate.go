package limits

import "time"

const (
	// longestPause bounds what one answer of the upstream can bring about: an absurd retry-after would shut the gateway
	// for days. Its limits are those of a minute; if it is not done by then, the one request that passes first finds out.
	longestPause = time.Minute

	// The gate reopens in steps, each of which lets twice as many pass as the one before: 1, 2, 4 … 128. A refusal takes
	// less than a step to come back, so few have followed before the gate is shut again. After the last step, and 255
	// requests, there is no bound. The steps take as long as upstream.queue_wait is by default: who waits for the gate
	// to open has all of them before it.
	reopenStep  = time.Second
	reopenSteps = 8
)

// gate lets requests pass, none while the upstream has asked for a pause, and then more from step to step. The zero gate
// is open. It reads no clock.
type gate struct {
	opens  time.Time // when it opens, or has opened; zero: long ago
	step   int       // of the reopening
	passed int       // in this step
}

// shut lets nobody pass for a while, and reports whether anybody could before. A pause that has begun is never shortened.
func (g *gate) shut(pause time.Duration, now time.Time) (first bool) {
	first = !now.Before(g.opens)
	if opens := now.Add(min(pause, longestPause)); opens.After(g.opens) {
		*g = gate{opens: opens}
	}
	return first
}

// free reports whether one more may pass now.
func (g *gate) free(now time.Time) bool {
	if g.opens.IsZero() {
		return true
	}
	since := now.Sub(g.opens)
	step := int(since / reopenStep)
	switch {
	case since < 0:
		return false
	case step >= reopenSteps:
		*g = gate{}
		return true
	case step != g.step:
		g.step, g.passed = step, 0
	}
	return g.passed < 1<<step
}

// pass counts one that passes.
func (g *gate) pass() { g.passed++ }

// left is how long nobody can pass: 0 or less if the gate has opened.
func (g *gate) left(now time.Time) time.Duration {
	if g.opens.IsZero() {
		return 0
	}
	return g.opens.Sub(now)
}

// change is how long it takes, where none is free now, until one is.
func (g *gate) change(now time.Time) time.Duration {
	left := g.left(now)
	if left <= 0 {
		left = reopenStep - -left%reopenStep
	}
	return left
}
