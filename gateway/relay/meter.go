package relay

import (
	"fmt"
	"math"
	"net/http"
	"time"

	"sluice/gateway/claude"
	"sluice/gateway/limits"
)

// meter follows what a stream makes, as far as its owner's day wants to know, and no further: the stream's own lock is
// held, each event costs one comparison of the log's length with allowed, and only past that is the log read on.
type meter struct {
	claude.Output
	next    int   // the first event that is not in Output
	drawn   int64 // up to how many tokens the owner's day has been drawn on
	allowed int64 // up to how many bytes the log may grow before it is time to look again
}

// read takes the events that have come since it was last called.
func (m *meter) read(log view) {
	for ; m.next < len(log.entries); m.next++ {
		switch kind := log.entries[m.next].kind; kind {
		case claude.BlockStart, claude.BlockDelta:
			m.Add(kind, log.data(m.next))
		}
	}
}

// meterLocked looks at what the stream has made, and draws on its owner's day where it needs more. It reports whether the
// stream may go on.
func (s *Stream) meterLocked() bool {
	m := &s.output
	if m.drawn < limits.Unlimited {
		m.read(s.log.view())
		if m.Tokens() >= m.drawn {
			m.drawn = s.grant.Draw(m.Tokens())
		}
	}
	left := m.drawn - m.Tokens()
	// An estimated token takes a byte or more of the log. (Thinking that is only told by steps takes fewer: there a
	// stream is looked at some events late.)
	m.allowed = s.log.frames + min(left, math.MaxInt64-s.log.frames)
	return left > 0
}

// outranLocked is the end of a stream that has made all that was left of its owner's day.
func (s *Stream) outranLocked(at time.Time) last {
	e := &claude.Error{Type: claude.RateLimit, Status: http.StatusTooManyRequests,
		Message: fmt.Sprintf("The stream was ended: what the plan %q allows for a day (%s) is used up. It returns at 00:00 UTC.", s.Plan, limits.TokensPerDay)}
	s.relay.metrics.RateLimited(limits.TokensPerDay)
	return last{Failed, e, []byte("error"), e.Event(s.requestID), at}
}
