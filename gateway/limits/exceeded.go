package limits

import (
	"fmt"
	"time"
)

// The limits that an Exceeded or an Outside names. They are the words of the configuration, and a closed set.
const (
	RequestsPerMinute     = "requests_per_minute"
	ConcurrentStreams     = "concurrent_streams"
	InputTokensPerMinute  = "input_tokens_per_minute"
	OutputTokensPerMinute = "output_tokens_per_minute"
	TokensPerDay          = "tokens_per_day"
	MaxTokens             = "max_tokens"
	Models                = "models"
)

// Windows are what an owner had left at one moment, of each limit that its plan has.
type Windows struct{ Requests, Input, Output, Day Window }

// Window is one limit. The zero Window means that there is none.
type Window struct {
	Limit     int64     // what the plan allows
	Used      int64     // what is taken now, reservations included; it can be more than Limit
	Remaining int64     // what may come at once now, from 0; of requests at most the burst, which may be less than Limit
	Reset     time.Time // when Remaining will be whole again if nothing comes
}

// Tokens is the window of tokens that is the closest to its end: what Anthropic's headers call the most restrictive.
func (w Windows) Tokens() Window {
	var closest Window
	for _, w := range []Window{w.Input, w.Output, w.Day} {
		if w.Limit > 0 && (closest.Limit == 0 || w.Remaining <= closest.Remaining) {
			closest = w
		}
	}
	return closest
}

// Exceeded is the refusal of one more request for now.
type Exceeded struct {
	Limit string // RequestsPerMinute, ConcurrentStreams, InputTokensPerMinute, OutputTokensPerMinute or TokensPerDay
	Value int    // what the plan allows of it
	Burst int    // how many requests may come at once
	Asked int64  // what the request needs of it
	Plan  string // the plan's name
	Batch bool   // refused is a batch, for its requests

	// RetryAfter is above 0. Of the limits per minute it is exact: after it the request passes, unless others come
	// before it. Of ConcurrentStreams, and of tokens of the day that open streams or batches have reserved, it is when asking
	// again makes sense: at least 5 s, and not before the other limits let the request pass. Of TokensPerDay it is the
	// time to midnight.
	RetryAfter time.Duration
	Windows    Windows
}

// Error is for the caller to read: it says which limit of which plan, its value, and when to come back.
func (e *Exceeded) Error() string {
	seconds := (e.RetryAfter + time.Second - 1) / time.Second
	switch {
	case e.Batch && e.Limit == RequestsPerMinute:
		return fmt.Sprintf("too many requests in batches: the limit of the plan %q is %d per minute, %d at once (%s), and this batch has %d; try again in %d s",
			e.Plan, e.Value, e.Burst, e.Limit, e.Asked, seconds)
	case e.Batch:
		return fmt.Sprintf("too many tokens today: the limit of the plan %q is %d per day (%s), of which %d are used or reserved, and this batch needs about %d; try again in %d s",
			e.Plan, e.Value, e.Limit, e.Windows.Day.Used, e.Asked, seconds)
	}
	switch e.Limit {
	case ConcurrentStreams:
		return fmt.Sprintf("too many streams at once: the limit of the plan %q is %d (%s); try again when one has ended, or in %d s",
			e.Plan, e.Value, e.Limit, seconds)
	case InputTokensPerMinute:
		return fmt.Sprintf("too many input tokens: the limit of the plan %q is %d per minute (%s), and this request has about %d; try again in %d s",
			e.Plan, e.Value, e.Limit, e.Asked, seconds)
	case OutputTokensPerMinute:
		return fmt.Sprintf("too many output tokens: the limit of the plan %q is %d per minute (%s), and this request's max_tokens needs %d of them; try again in %d s",
			e.Plan, e.Value, e.Limit, e.Asked, seconds)
	case TokensPerDay:
		return fmt.Sprintf("too many tokens today: the limit of the plan %q is %d per day (%s), of which %d are used or reserved by open streams, and this request needs about %d; try again in %d s",
			e.Plan, e.Value, e.Limit, e.Windows.Day.Used, e.Asked, seconds)
	}
	burst := ""
	if e.Burst != e.Value {
		burst = fmt.Sprintf(", %d at once", e.Burst)
	}
	return fmt.Sprintf("too many requests: the limit of the plan %q is %d per minute%s (%s); try again in %d s",
		e.Plan, e.Value, burst, e.Limit, seconds)
}
