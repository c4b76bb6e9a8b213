package relay

import (
	"bytes"
	"time"

	"sluice/gateway/claude"
	"sluice/gateway/limits"
	"sluice/gateway/metrics"
)

// account settles an ended stream, once: tokens, metrics, the record that bills are made of. It may wait for the log's
// writer, which nobody who reads a connection for many streams should.
func (s *Stream) account() {
	defer s.failOnPanic(nil)
	defer close(s.done)
	defer s.relay.streamEnded(s)
	s.mu.Lock()
	log, status, failure := s.log.view(), s.status, s.failure
	waiting, parted := s.waiting, s.parted
	s.mu.Unlock()
	model, usage, source := measure(log, status)
	s.mu.Lock()
	s.model, s.usage, s.source = model, usage, source
	s.mu.Unlock()

	outcome := string(status)
	switch {
	case waiting && parted:
		return // of which nothing is to be told
	case waiting: // it has ended before it began
		s.relay.metrics.StreamStarted()
	case parted:
		outcome = "interrupted"
		s.relay.metrics.StreamParted()
	}
	if !parted {
		s.relay.metrics.StreamEnded(model, outcome)
	}
	countTokens(s.relay.metrics, model, source, usage)
	record := append([]any{"stream", s.ID, "request_id", s.RequestID(), "owner", s.Owner, "plan", s.Plan, "model", model, "outcome", outcome,
		"events", len(log.entries), "duration", time.Since(s.Created).Round(time.Millisecond)}, tokenFields(usage, source)...)
	if failure != nil {
		record = append(record, "error", failure.Error())
	}
	s.relay.log.Info("stream ended", record...)
}

// Sources of a usage figure.
const (
	Reported  = "reported"
	Estimated = "estimated"
)

// measure reads an answer's model and tokens off its log. What the upstream reported at the end counts; where it did not
// come to that, output is estimated from what was delivered, and at least what was reported before.
func measure(log view, status Status) (model string, u claude.Usage, source string) {
	var m claude.Message
	var delivered int64
	final := false
	for i, e := range log.entries {
		switch e.kind {
		case claude.BlockStart:
			if !bytes.Contains(log.data(i), []byte(`"fallback"`)) { // such a block names the model that answers
				continue
			}
			m.Add(e.kind, log.data(i))
		case claude.MessageStart, claude.MessageDelta:
			m.Add(e.kind, log.data(i))
			final = final || e.kind == claude.MessageDelta && claude.ReportsOutput(log.data(i))
		}
	}
	u = m.Usage()
	if final {
		return m.Model(), u, Reported
	}
	for i, e := range log.entries {
		if e.kind == claude.BlockDelta {
			delivered += int64(claude.DeltaBytes(log.data(i)))
		}
	}
	if status == Completed && delivered == 0 { // the whole answer came in message_start, with its usage
		return m.Model(), u, Reported
	}
	return m.Model(), u.WithOutput(max(u.Output, claude.EstimateOutput(delivered))), Estimated
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
		Source: s.source, Created: s.Created, EndedAt: s.endedAt}
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

// Admit lets in a request whose answer is no stream: it is counted and takes a slot like one, until the grant is
// released.
func (r *Relay) Admit(owner, plan string) (*limits.Grant, error) {
	r.mu.Lock()
	draining := r.draining
	r.mu.Unlock()
	if draining {
		return nil, ErrDraining
	}
	return r.limits.Admit(owner, plan)
}

// Settle accounts a Message that was answered whole.
func (r *Relay) Settle(owner, plan string, message []byte) {
	model, usage := claude.UsageOf(message)
	countTokens(r.metrics, model, Reported, usage)
	r.log.Info("message answered", append([]any{"owner", owner, "plan", plan, "model", model, "outcome", Completed}, tokenFields(usage, Reported)...)...)
}

func countTokens(m *metrics.Metrics, model, source string, u claude.Usage) {
	m.Tokens(model, "input", source, u.Input)
	m.Tokens(model, "output", source, u.Output)
	m.Tokens(model, "cache_read", source, u.CacheRead)
	m.Tokens(model, "cache_write", source, u.CacheWrite)
}

func tokenFields(u claude.Usage, source string) []any {
	return []any{"input_tokens", u.Input, "output_tokens", u.Output, "cache_read_tokens", u.CacheRead,
		"cache_write_tokens", u.CacheWrite, "usage_source", source}
}
