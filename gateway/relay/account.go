package relay

import (
	"bytes"
	"encoding/json"
	"runtime/debug"
	"time"

	"sluice/gateway/claude"
	"sluice/gateway/limits"
)

// settleLocked ends the stream's grant, before anybody can see the end and ask for the next stream: with what it has used,
// or, where the upstream has sent no message, with nothing.
func (s *Stream) settleLocked() {
	defer func() {
		if p := recover(); p != nil { // a stream that cannot be measured must end all the same
			s.grant.Release()
			s.relay.log.Error("stream not accounted by a defect", "stream", s.ID, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	var started bool
	if s.model, s.usage, s.source, started = s.measureLocked(s.status); started {
		s.grant.Settle(tokensOf(s.usage), s.source == Estimated)
	} else {
		s.grant.Release()
	}
}

// correctInputLocked takes what message_start says of the input for what was estimated.
func (s *Stream) correctInputLocked(data []byte) {
	var m claude.Message
	m.Add(claude.MessageStart, data)
	if t := tokensOf(m.Usage()); t.Input+t.CacheRead+t.CacheWrite > 0 {
		s.grant.CorrectInput(t)
	}
}

// account reports an ended stream, once, and wakes the viewers that have waited for that. On a goroutine of its own, own,
// the only viewer goes on itself.
func (s *Stream) account(own bool) {
	s.report()
	s.mu.Lock()
	s.accounted = true
	var goOn func()
	for _, v := range s.viewers {
		if own && len(s.viewers) == 1 && v.turn == turnWaiting && v.onWake != nil {
			v.turn, goOn = turnOwn, v.onWake
		} else {
			s.wakeLocked(v)
		}
	}
	s.mu.Unlock()
	if goOn != nil {
		goOn()
	}
}

// report makes an ended stream's metrics and record. It may wait for the log's writer, which nobody who reads a connection
// for many streams should.
func (s *Stream) report() {
	defer s.failOnPanic(nil)
	defer close(s.done)
	defer s.relay.streamEnded(s)
	s.mu.Lock()
	waiting, parted := s.waiting, s.parted
	e := bill{Stream: s.ID, RequestID: s.requestID, Account: s.Account, Plan: s.Plan, Route: s.Route, Model: s.model, Outcome: s.status,
		Usage: s.usage, Source: s.source, Created: s.Created, Ended: s.endedAt}
	events, failure := len(s.log.entries), s.failure
	s.mu.Unlock()
	switch {
	case waiting && parted:
		return // of which nothing is to be told
	case waiting: // it has ended before it began
		s.relay.metrics.StreamStarted()
	case parted:
		e.Outcome = interrupted
		s.relay.metrics.StreamParted()
	}
	if !parted {
		s.relay.metrics.StreamEnded(e.Model, string(e.Outcome))
	}
	more := []any{"events", events}
	if failure != nil {
		more = append(more, "error", failure.Error())
	}
	s.relay.record("stream ended", e, more...)
}

// interrupted is the outcome of an attempt that was let go without an end. What it has used was used.
const interrupted Status = "interrupted"

// bill is what there is to say of an answer that has ended.
type bill struct {
	Stream, RequestID, Account, Plan, Route, Model string
	Outcome                                        Status
	Usage                                          claude.Usage
	Source                                         string
	Created, Ended                                 time.Time
}

// maxUsage bounds the usage object in a record. The largest on record has 900 bytes.
const maxUsage = 8 << 10

// record counts an answer's tokens and logs its end.
func (r *Relay) record(message string, e bill, more ...any) {
	for kind, n := range map[string]int64{"input": e.Usage.Input, "output": e.Usage.Output, "cache_read": e.Usage.CacheRead, "cache_write": e.Usage.CacheWrite} {
		r.metrics.Tokens(e.Model, kind, e.Source, n)
	}
	fields := []any{"stream", e.Stream, "request_id", e.RequestID, "route", e.Route, "owner", e.Account, "plan", e.Plan, "model", e.Model, "outcome", e.Outcome,
		"created_at", e.Created.UTC(), "ended_at", e.Ended.UTC(), "duration", e.Ended.Sub(e.Created).Round(time.Millisecond),
		"input_tokens", e.Usage.Input, "output_tokens", e.Usage.Output, "cache_read_tokens", e.Usage.CacheRead, "cache_write_tokens", e.Usage.CacheWrite,
		"usage_source", e.Source}
	if raw := e.Usage.Raw; len(raw) <= maxUsage { // prices differ by more than the four kinds: tiers, searches, models of iterations
		fields = append(fields, "usage", json.RawMessage(raw))
	}
	r.log.Info(message, append(fields, more...)...)
}

// Sources of a usage figure.
const (
	Reported  = "reported"
	Estimated = "estimated"
)

// measureLocked reads an answer's model and tokens off its log. What the upstream reported at the end counts; where it
// did not come to that, output is estimated from what was delivered, and at least what was reported before. started is
// false where no message has begun.
func (s *Stream) measureLocked(status Status) (model string, u claude.Usage, source string, started bool) {
	var m claude.Message
	log, final := s.log.view(), false
	for i, e := range log.entries {
		switch e.kind {
		case claude.BlockStart:
			if !bytes.Contains(log.data(i), []byte(`"fallback"`)) { // such a block names the model that answers
				continue
			}
			m.Add(e.kind, log.data(i))
		case claude.MessageStart, claude.MessageDelta:
			m.Add(e.kind, log.data(i))
			final = final || claude.ReportsOutput(e.kind, log.data(i))
		case claude.Failure:
			continue
		}
		started = true
	}
	u = m.Usage()
	if !final {
		s.output.read(log)
		final = status == Completed && s.output.Tokens() == 0
	}
	if final {
		return m.Model(), u, Reported, started
	}
	return m.Model(), u.WithOutput(max(u.Output, s.output.Tokens())), Estimated, started
}

func tokensOf(u claude.Usage) limits.Tokens {
	return limits.Tokens{Input: u.Input, Output: u.Output, CacheRead: u.CacheRead, CacheWrite: u.CacheWrite}
}

// Snapshot is a stream at one moment.
type Snapshot struct {
	ID        string
	Status    Status
	Model     string
	Attempt   int
	Viewers   int
	Message   []byte // JSON, null before message_start; nil unless asked for
	Usage     []byte // JSON of the usage object, or null
	Source    string
	Failure   *claude.Error
	Created   time.Time
	EndedAt   time.Time // zero while it runs
	ExpiresAt time.Time // zero while it runs
	Callback  string    // where its end is told; empty: nowhere
	Kept      bool      // its end outlives this process
}

// Snapshot describes the stream. With message, the Message so far is accumulated from the log, which costs time in
// proportion to it. Of a stream that has ended it waits until that is accounted, which is soon: an end that is seen has
// its final usage, and stands in the accounts.
func (s *Stream) Snapshot(message bool) Snapshot {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		<-s.done
		s.mu.Lock()
	}
	log := s.log.view()
	n := Snapshot{ID: s.ID, Status: s.status, Model: s.model, Attempt: s.attempt, Viewers: len(s.viewers), Usage: s.usage.Raw,
		Source: s.source, Created: s.Created, EndedAt: s.endedAt, Callback: s.Callback, Kept: s.Kept()}
	if s.ended && !s.parted {
		n.Failure = s.failure
		n.ExpiresAt = s.endedAt.Add(max(s.keepFor, s.relay.cfg.Retention))
	}
	s.mu.Unlock()
	if n.Source == "" {
		n.Source = Reported
	}
	if !message && n.Usage != nil {
		return n
	}
	var m claude.Message
	for i, e := range log.entries {
		if message || e.kind == claude.MessageStart || e.kind == claude.BlockStart || e.kind == claude.MessageDelta {
			m.Add(e.kind, log.data(i))
		}
	}
	n.Model = m.Model()
	if n.Usage == nil {
		n.Usage = m.Usage().Raw
	}
	if message {
		n.Message = m.JSON()
	}
	return n
}

// Ask is what a request is let in with.
func Ask(p claude.Params, body []byte) limits.Request {
	r := limits.Request{Models: p.Models}
	r.Input, r.Cached = claude.EstimateInput(body)
	if p.MaxTokens >= 0 {
		r.MaxTokens = max(p.MaxTokens, 1) // 0 would say that it is not given
	}
	return r
}

// Whole is a request whose answer is no stream.
type Whole struct {
	Account, Plan string
	Route         string
	Ask           limits.Request
	Created       time.Time
}

// Admit lets in a request whose answer is no stream: it is counted and reserves like one, until Settle or the grant's
// Release.
func (r *Relay) Admit(w Whole) (*limits.Grant, error) {
	r.mu.Lock()
	draining := r.draining
	r.mu.Unlock()
	if draining {
		return nil, ErrDraining
	}
	return r.limits.Admit(w.Account, w.Plan, w.Ask)
}

// Settle accounts a Message that was answered whole, and ends its grant.
func (r *Relay) Settle(g *limits.Grant, w Whole, requestID string, message []byte) {
	e := bill{RequestID: requestID, Account: w.Account, Plan: w.Plan, Route: w.Route, Outcome: Completed, Source: Reported, Created: w.Created, Ended: time.Now()}
	var reported bool
	if e.Model, e.Usage, reported = claude.UsageOf(message); !reported {
		e.Source = Estimated
	}
	g.Settle(tokensOf(e.Usage), !reported)
	r.record("message answered", e)
}

// Limits are what the owners of streams may use and have used.
func (r *Relay) Limits() *limits.Limits { return r.limits }
