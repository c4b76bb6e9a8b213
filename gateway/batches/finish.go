package batches

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"time"

	"sluice/gateway/callbacks"
	"sluice/gateway/claude"
	"sluice/gateway/failpoint"
	"sluice/gateway/limits"
	"sluice/gateway/store"
)

const (
	// maxErrors is how many kinds of failures a summary names, and maxMessage how long each is told: enough to see what
	// went wrong, where everything else is in the results.
	maxErrors  = 20
	maxMessage = 500
	// maxModels bounds what is counted by model; a batch has one or two.
	maxModels = 50
)

// finish does, once, what is to be done at the end of a batch: its results are read for what they used and what went
// wrong; what has expired is submitted again, where that was asked for; the callback is taken on; and then the batch is
// over. Each step is in the store before the next, and a crash repeats only the one that it broke off.
func (b *Batches) finish(ctx context.Context, one Batch, revision uint64) error {
	failpoint.At("ended")
	if one.Summary == nil {
		summary, used, err := b.summarize(ctx, one)
		if err != nil {
			return err
		}
		one.Summary = summary
		if revision, err = b.records.Update(ctx, one.key(), one.encode(), revision); err != nil {
			return err
		}
		b.account(one, used) // after it is written: a crash loses a count, and never counts twice
		b.update(one, revision)
		failpoint.At("summed")
	}
	if one.Kept != "" && (one.Resubmission == "" || one.Resubmission == resubmitAsked) {
		var err error
		if one, revision, err = b.resubmit(ctx, one, revision); err != nil {
			return err
		}
	}
	if one.Callback != "" {
		if err := b.calls.Enqueue(ctx, b.event(one)); err != nil {
			return err
		}
	}
	one.Over = true
	revision, err := b.records.Update(ctx, one.key(), one.encode(), revision)
	if err == nil {
		b.update(one, revision)
		failpoint.At("over")
	}
	return err
}

// settle sees to it that a batch that has ended is counted now.
func (b *Batches) settle(ctx context.Context, one Batch) error {
	if one.Summary != nil {
		return nil
	}
	if err := b.poll(ctx, one); err != nil {
		return err
	}
	for {
		now, revision, err := b.find(ctx, one.Owner, one.ID)
		if err != nil || now.Status != claude.BatchEnded || now.Summary != nil {
			return err
		}
		if err := b.finish(ctx, now, revision); !errors.Is(err, store.ErrConflict) { // else the watcher is at it, too
			return err
		}
	}
}

// used is what the succeeded requests of a batch have used.
type used struct {
	answers int64
	models  map[string]claude.Usage
}

// summarize reads the results. Where there are none any more, the summary is empty.
func (b *Batches) summarize(ctx context.Context, one Batch) (*Summary, used, error) {
	summary, models, answers := &Summary{Errors: []ErrorsOfOne{}}, map[string]claude.Usage{}, int64(0)
	if one.Lost {
		return summary, used{}, nil
	}
	resp, err := b.results(ctx, one)
	var refused *claude.Error
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		return summary, used{}, nil // archived, or deleted meanwhile
	}
	if err != nil {
		return nil, used{}, err
	}
	defer resp.Body.Close()
	failures := map[[2]string]int{}
	for line, err := range claude.Lines(resp.Body) {
		if err != nil {
			return nil, used{}, err
		}
		r, ok := claude.ParseResult(line)
		if !ok {
			continue // the caller, who gets the line as it is, may know what it is
		}
		switch r.Type {
		case "succeeded":
			answers++
			if _, known := models[r.Model]; !known && len(models) >= maxModels {
				r.Model = ""
			}
			u := models[r.Model]
			u.Input, u.Output, u.CacheRead, u.CacheWrite = u.Input+r.Usage.Input, u.Output+r.Usage.Output, u.CacheRead+r.Usage.CacheRead, u.CacheWrite+r.Usage.CacheWrite
			models[r.Model] = u
		case "errored":
			kind := [2]string{cut(r.ErrorType), cut(r.ErrorMessage)}
			if _, known := failures[kind]; !known && len(failures) >= maxErrors {
				kind = [2]string{"other", ""}
			}
			failures[kind]++
		}
	}
	for _, u := range models {
		s := &summary.Usage
		s.Input, s.Output, s.CacheRead, s.CacheWrite = s.Input+u.Input, s.Output+u.Output, s.CacheRead+u.CacheRead, s.CacheWrite+u.CacheWrite
	}
	for kind, n := range failures {
		summary.Errors = append(summary.Errors, ErrorsOfOne{Type: kind[0], Message: kind[1], Count: n})
	}
	slices.SortFunc(summary.Errors, func(a, b ErrorsOfOne) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Type, b.Type), cmp.Compare(a.Message, b.Message))
	})
	return summary, used{answers, models}, nil
}

func (b *Batches) results(ctx context.Context, one Batch) (*http.Response, error) {
	return b.client.Transfer(ctx, claude.Request{Method: http.MethodGet, Path: path + "/" + one.ID + "/results", Header: one.header()})
}

// cut shortens a text, at the end of a letter.
func cut(s string) string {
	if len(s) <= maxMessage {
		return s
	}
	end := maxMessage
	for end > 0 && s[end]&0xc0 == 0x80 {
		end--
	}
	return s[:end]
}

// account counts what the batch has used, for its owner and for the operator.
func (b *Batches) account(one Batch, n used) {
	b.book(one, limits.Tally{Answers: n.answers, Tokens: limits.Tokens(one.Summary.Usage)})
	const source = "reported"
	for model, u := range n.models {
		b.metrics.Tokens(model, "input", source, u.Input)
		b.metrics.Tokens(model, "output", source, u.Output)
		b.metrics.Tokens(model, "cache_read", source, u.CacheRead)
		b.metrics.Tokens(model, "cache_write", source, u.CacheWrite)
	}
	u, object := one.Summary.Usage, parsed(one)
	b.log.Info("batch ended", "batch", one.ID, "owner", one.Owner, "plan", one.Plan, "lost", one.Lost, "succeeded", object.Counts.Succeeded, "errored", object.Counts.Errored,
		"canceled", object.Counts.Canceled, "expired", object.Counts.Expired, "input_tokens", u.Input, "output_tokens", u.Output,
		"cache_read_tokens", u.CacheRead, "cache_write_tokens", u.CacheWrite, "usage_source", source)
}

// book ends the batch's grant. There is none where an earlier process has admitted it.
func (b *Batches) book(one Batch, sum limits.Tally) {
	b.mu.Lock()
	var grant *limits.BatchGrant
	if w := b.watched[one.ID]; w != nil {
		grant, w.grant = w.grant, nil
	}
	b.mu.Unlock()
	if grant != nil {
		grant.Settle(sum)
	} else {
		b.limits.Book(one.Owner, one.Plan, sum)
	}
}

func parsed(one Batch) claude.Batch {
	object, _ := claude.ParseBatch(one.Object) // it was valid when it was stored
	return object
}

func parse(raw []byte) (one Batch, err error) {
	err = json.Unmarshal(raw, &one)
	return one, err
}

// lose notes that the upstream does not have a batch any more: somebody has deleted it beside the gateway.
func (b *Batches) lose(ctx context.Context, owner, id string) error {
	one, revision, err := b.find(ctx, owner, id)
	if err != nil {
		return err
	}
	one.Lost, one.Status = true, claude.BatchEnded
	if revision, err = b.records.Update(ctx, one.key(), one.encode(), revision); err == nil {
		b.update(one, revision)
	}
	return err
}

// EventEnded is the type of the callback that tells the end of a batch.
const EventEnded = "batch.ended"

// event is what the callback tells.
func (b *Batches) event(one Batch) callbacks.Event {
	object := parsed(one)
	type failure struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	}
	var lost *failure
	if one.Lost {
		lost = &failure{claude.NotFound, "The batch was deleted before its end was seen."}
	}
	data, err := json.Marshal(struct {
		ID     string             `json:"id"`
		Status string             `json:"status"`
		Usage  Usage              `json:"usage"`
		Error  *failure           `json:"error"`
		Counts claude.BatchCounts `json:"request_counts"`
		Errors []ErrorsOfOne      `json:"errors"`
		Next   string             `json:"successor_id,omitempty"`
	}{one.ID, one.Status, one.Summary.Usage, lost, object.Counts, one.Summary.Errors, one.Successor})
	if err != nil {
		panic(err) // numbers and strings
	}
	return callbacks.Event{Owner: one.Owner, Object: one.ID, Type: EventEnded, URL: one.Callback, At: time.Now(), Data: data}
}
