package limits

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Tokens are an answer's tokens. The kinds don't overlap: input is without what was read from or written to a cache.
type Tokens struct{ Input, Output, CacheRead, CacheWrite int64 }

// maxCounted bounds what one answer takes from a window. It is the largest context many times over; an upstream that
// reports nonsense must not lock an owner out for ever.
const maxCounted = 50_000_000

// input is what counts of the input: what was read from a cache does not.
func (t Tokens) input() int64 {
	return min(max(t.Input, 0), maxCounted) + min(max(t.CacheWrite, 0), maxCounted)
}

func (t Tokens) output() int64 { return min(max(t.Output, 0), maxCounted) }

// Tally is a sum over answers.
type Tally struct {
	Answers   int64 // streams that have ended, and answers that were no streams
	Estimated int64 // how many of them had their tokens estimated
	Tokens    Tokens
}

func (t *Tally) add(u Tally) {
	for _, sum := range []struct {
		to *int64
		n  int64
	}{
		{&t.Answers, u.Answers}, {&t.Estimated, u.Estimated}, {&t.Tokens.Input, u.Tokens.Input}, {&t.Tokens.Output, u.Tokens.Output},
		{&t.Tokens.CacheRead, u.Tokens.CacheRead}, {&t.Tokens.CacheWrite, u.Tokens.CacheWrite},
	} {
		*sum.to += min(max(sum.n, 0), math.MaxInt64-*sum.to) // nonsense adds up to the largest number, not to a negative one
	}
}

// Usage is what one owner has used.
type Usage struct {
	Owner    string
	Plan     string // with which it was admitted last
	Open     int    // its streams that are open
	Reserved int64  // what they have reserved of its tokens_per_day
	Today    Tally  // of the answers that ended since 00:00 UTC
	Total    Tally  // of those since Report.Since
}

// Report is what all owners have used.
type Report struct {
	Since  time.Time // when the process began to count
	Day    time.Time // the first moment of today, UTC
	Owners []Usage   // by name: those who have used anything or have a stream or a batch open
	Others Tally     // of owners who are no longer listed, in all; none of it is today's
}

// Report sums up what was used. Whoever has used anything today is listed, and those of the days before as long as not
// more than 10,000 owners are known.
func (l *Limits) Report() Report {
	l.mu.Lock()
	now := time.Now()
	r := Report{Since: l.since, Day: dayOf(now), Others: l.others, Owners: make([]Usage, 0, len(l.owners))}
	for _, o := range l.owners {
		o.turn(now)
		if o.open+o.batches > 0 || o.total.Answers > 0 {
			r.Owners = append(r.Owners, o.usage())
		}
	}
	l.mu.Unlock()
	slices.SortFunc(r.Owners, func(a, b Usage) int { return cmp.Compare(a.Owner, b.Owner) })
	return r
}

// Look is what an owner with that plan has used and has left now. Nobody is remembered for having looked. The error is
// ErrUnknownPlan.
func (l *Limits) Look(name, plan string) (Usage, Windows, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.plans[plan]
	if !ok {
		return Usage{}, Windows{}, ErrUnknownPlan
	}
	o := l.owners[name]
	if o == nil {
		o = &owner{name: name} // as whoever has used nothing
	}
	now := time.Now()
	o.follow(plan, p, now)
	return o.usage(), o.windows(p, now), nil
}

func (o *owner) usage() Usage {
	return Usage{Owner: o.name, Plan: o.plan, Open: o.open, Reserved: o.day.reserved, Today: o.day.used, Total: o.total}
}
