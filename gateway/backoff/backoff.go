// Package backoff says how long to wait before the next attempt: what the other side asked for, or else a growing,
// jittered wait. It is pure: it reads no clock, draws no random number and never sleeps, so all of it may be called at
// once from any goroutine. Whether to try again at all, and whether the wait still fits, is the caller's to decide.
package backoff

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// first and longest bound a wait that nobody asked for, and spread is the part of it that jitter may take away.
	// All three are those of Anthropic's SDKs, so a retry by Sluice weighs on Claude as a client's own would.
	first   = 500 * time.Millisecond
	longest = 8 * time.Second
	spread  = 0.25

	// doublings is how often first doubles before it reaches longest; more would only risk an overflow.
	doublings = 4

	// Farthest is the longest wait that RetryAfter reports. It is no policy, since the SDKs have no cap either; it
	// keeps time.Now().Add(d) far from overflowing whatever number the header holds.
	Farthest = 365 * 24 * time.Hour
)

// Delay is the wait before the retry that follows attempt 0, 1, 2 …: 0.5 s · 2^attempt, at most 8 s, less up to 25 %.
// jitter is a random number in [0, 1): 0 takes nothing away, 1 the whole 25 %. Values outside count as the nearest
// one inside, NaN as 0, and an attempt below 0 as 0, so the result is always between 0.375 s and 8 s.
func Delay(attempt int, jitter float64) time.Duration {
	attempt = min(max(attempt, 0), doublings)
	if !(jitter > 0) { // NaN too
		jitter = 0
	}
	wait := min(first<<attempt, longest)
	return wait - time.Duration(float64(wait)*spread*min(jitter, 1))
}

// RetryAfter is the wait that a response asks for: retry-after-ms, a number of milliseconds, else retry-after, a number
// of seconds or an HTTP date, which counts from now. Both numbers may have a fraction, as in the SDKs.
//
// ok is false if no header holds a wait longer than zero: absent, garbage, NaN, Inf, negative, a date that has passed,
// and also a plain 0, which in a loop without an end would be an invitation to hammer. The caller then takes Delay. An
// unusable retry-after-ms does not hide a usable retry-after. A wait over Farthest is reported as Farthest.
func RetryAfter(h http.Header, now time.Time) (d time.Duration, ok bool) {
	if d, ok := scaled(h.Get("Retry-After-Ms"), time.Millisecond); ok {
		return d, true
	}
	value := h.Get("Retry-After")
	if d, ok := scaled(value, time.Second); ok {
		return d, true
	}
	date, err := http.ParseTime(strings.TrimSpace(value))
	if err != nil {
		return 0, false
	}
	d = date.Sub(now) // saturates, so a date centuries ahead does not wrap around
	if d <= 0 {
		return 0, false
	}
	return min(d, Farthest), true
}

// scaled reads value as a positive, finite number of units.
func scaled(value string, unit time.Duration) (time.Duration, bool) {
	number, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
	if err != nil || math.IsNaN(number) || math.IsInf(number, 0) {
		return 0, false
	}
	// Compared as a float: a number over 2^63 has no defined conversion to a Duration.
	nanoseconds := number * float64(unit)
	if nanoseconds >= float64(Farthest) {
		return Farthest, true
	}
	d := time.Duration(nanoseconds)
	return d, d > 0
}
