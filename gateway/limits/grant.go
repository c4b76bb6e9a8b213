package limits

import (
	"fmt"
	"time"
)

// The limits that an Exceeded names. They are the words of the configuration, and a closed set.
const (
	RequestsPerMinute = "requests_per_minute"
	ConcurrentStreams = "concurrent_streams"
)

// Grant is the permission for one stream. It belongs to the stream, which releases it at its end, whichever way that
// comes. All methods may be called at once from any goroutine, and on a nil Grant.
type Grant struct {
	limits   *Limits
	owner    *owner
	window   Window
	released bool // guarded by limits.mu
}

// Release gives the stream's slot back, once; every later call does nothing. The request stays counted.
func (g *Grant) Release() {
	if g == nil {
		return
	}
	g.limits.mu.Lock()
	defer g.limits.mu.Unlock()
	if g.released {
		return
	}
	g.released = true
	g.owner.open--
	g.limits.open--
	g.limits.forgetIdle(g.owner, time.Now())
}

// Window is what the owner had left of its requests when this Grant was given: zero if its plan does not limit them.
func (g *Grant) Window() Window {
	if g == nil {
		return Window{}
	}
	return g.window
}

// Window is what the headers anthropic-ratelimit-requests-limit, -remaining and -reset say. The zero Window means that
// there is no limit, and so no such header.
type Window struct {
	Limit     int       // requests per minute
	Remaining int       // requests that may come at once now: at most the burst, which may be less than Limit
	Reset     time.Time // when Remaining will be whole again if none comes
}

// Exceeded is the refusal of one more stream.
type Exceeded struct {
	Limit string // RequestsPerMinute or ConcurrentStreams
	Value int    // what the plan allows of it
	Burst int    // with RequestsPerMinute, how many of them may come at once
	Plan  string // the plan's name

	// RetryAfter is above 0. Of RequestsPerMinute it is exact: after it, one request passes. Of ConcurrentStreams it
	// is when asking again makes sense: at least 5 s, and not before the next request may come.
	RetryAfter time.Duration
	Window     Window
}

// Error is for the caller to read: it says which limit of which plan, its value, and when to come back.
func (e *Exceeded) Error() string {
	seconds := (e.RetryAfter + time.Second - 1) / time.Second
	if e.Limit == ConcurrentStreams {
		return fmt.Sprintf("too many streams at once: the limit of the plan %q is %d (%s); try again when one has ended, or in %d s",
			e.Plan, e.Value, e.Limit, seconds)
	}
	burst := ""
	if e.Burst != e.Value {
		burst = fmt.Sprintf(", %d at once", e.Burst)
	}
	return fmt.Sprintf("too many requests: the limit of the plan %q is %d per minute%s (%s); try again in %d s",
		e.Plan, e.Value, burst, e.Limit, seconds)
}
