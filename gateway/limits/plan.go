package limits

import (
	"fmt"
	"slices"
	"strings"
)

// Plan is a named set of limits. Each caller belongs to one; its name is the
// key under which the configuration holds it. A limit of 0 does not limit.
//
// Input counts what Claude read anew: input_tokens and
// cache_creation_input_tokens. What it read from a cache counts nowhere, as in
// Anthropic's own limits. A day, which is UTC's, counts input and output
// together; an answer belongs to the day on which it ended.
//
// The limits per minute are looked at when a request comes: what an answer took
// beyond its reservation is owed, and paid back before the next may come. A
// day's tokens are looked at while they are made. A day is passed by no more
// than what estimates miss (the input until the upstream has said what it was,
// the output by a factor of two) and, for each open stream, the one event that
// took it there; and by what requests of batches make beyond their first piece,
// which nobody sees before the batch has ended.
type Plan struct {
	RequestsPerMinute     int      // requests that make Claude generate, those of batches apart; reads and reconnects are free
	Burst                 int      // how many of them may come at once; 0: as many as RequestsPerMinute
	ConcurrentStreams     int      // streams of one owner that are open at the same time
	ViewersPerStream      int      // connections that read one stream at the same time
	InputTokensPerMinute  int      // may also come at once
	OutputTokensPerMinute int      // likewise
	TokensPerDay          int      // input and output
	MaxTokens             int      // what max_tokens of a request may be
	Models                []string // patterns of the models that may answer, see Match; empty: all
}

// maxModel bounds the name of a model, as Anthropic does: a pattern is never
// tried on more.
const maxModel = 256

// Match reports whether a model's name, the whole of it, is of a pattern: * is
// any number of characters, also none, ? is one, all else is itself.
func Match(pattern, name string) bool {
	if len(name) > maxModel {
		return false
	}
	p, n := 0, 0
	star, resume := -1, 0 // the last * met, and where it ends at the earliest
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, resume = p, n
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == name[n]):
			p++
			n++
		case star >= 0: // the * takes one more
			resume++
			p, n = star+1, resume
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// Request is what an owner wants to be let in with.
type Request struct {
	Models    []string // all that may answer it
	Input     int64    // its input tokens, estimated
	Cached    bool     // a part of the input may come from a cache and not count
	MaxTokens int64    // the most that it lets the answer have; 0: no such bound is known
}

// errorFactor is by how much an estimate may be too high.
const errorFactor = 2

// Check says what in a request the plan, which has this name, never lets
// through: an *Outside, or nil.
func (p Plan) Check(name string, r Request) error {
	if len(p.Models) > 0 {
		for _, model := range r.Models {
			if !slices.ContainsFunc(p.Models, func(pattern string) bool { return Match(pattern, model) }) {
				return &Outside{Limit: Models, Plan: name, Model: model, Patterns: p.Models}
			}
		}
	}
	if p.MaxTokens > 0 && (r.MaxTokens == 0 || r.MaxTokens > int64(p.MaxTokens)) {
		return &Outside{Limit: MaxTokens, Plan: name, Value: p.MaxTokens, Asked: r.MaxTokens}
	}
	if r.Cached {
		return nil // nobody knows how much of it will count
	}
	for _, l := range []struct {
		name  string
		value int
	}{{InputTokensPerMinute, p.InputTokensPerMinute}, {TokensPerDay, p.TokensPerDay}} {
		if l.value > 0 && r.Input > errorFactor*int64(l.value) {
			return &Outside{Limit: l.name, Plan: name, Value: l.value, Asked: r.Input}
		}
	}
	return nil
}

// Outside is the refusal of a request that its plan never lets through, however
// long it waits.
type Outside struct {
	Limit    string   // Models, MaxTokens, InputTokensPerMinute or TokensPerDay; of a batch, TokensPerDay or RequestsPerMinute
	Plan     string   // the plan's name
	Model    string   // with Models, the one that is not among them
	Patterns []string // with Models, those that are
	Value    int      // with the others, what the plan allows
	Asked    int64    // and what the request has; of MaxTokens, 0: nothing
	Batch    bool     // refused is a batch, for all its requests together
}

// Error is for the caller to read: it says what of the request is outside of
// the plan, and what would be inside.
func (o *Outside) Error() string {
	switch {
	case o.Batch && o.Limit == RequestsPerMinute:
		return fmt.Sprintf("the batch has %d requests; the plan %q allows at most %d at once, which is a day of its %s", o.Asked, o.Plan, o.Value, o.Limit)
	case o.Batch:
		return fmt.Sprintf("the batch needs about %d tokens, more than the plan %q allows at all: %s is %d", o.Asked, o.Plan, o.Limit, o.Value)
	case o.Limit == Models:
		return fmt.Sprintf("model: the plan %q does not have %.100q; it has %s", o.Plan, o.Model, strings.Join(o.Patterns, ", "))
	case o.Limit == MaxTokens && o.Asked == 0:
		return fmt.Sprintf("max_tokens: Field required; the plan %q allows at most %d", o.Plan, o.Value)
	case o.Limit == MaxTokens:
		return fmt.Sprintf("max_tokens: %d is more than %d, which is what the plan %q allows", o.Asked, o.Value, o.Plan)
	}
	return fmt.Sprintf("the request has about %d input tokens, more than the plan %q allows at all: %s is %d",
		o.Asked, o.Plan, o.Limit, o.Value)
}
