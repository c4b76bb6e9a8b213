package batches

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"time"

	"sluice/gateway/claude"
	"sluice/gateway/store"
)

// How a resubmission stands. What is not sure to have been refused is never sent again: it might be paid twice.
const (
	resubmitAsked   = "asked"   // it is being sent, or the process ended meanwhile
	resubmitDone    = "done"    // the successor is there, or nothing had expired
	resubmitRefused = "refused" // the upstream did not want it
	resubmitUnknown = "unknown" // nobody can tell whether there is a successor
)

// bodyRetention is for how long the requests of a batch are kept for a resubmission: a batch ends within its day.
const bodyRetention = 48 * time.Hour

// keep stores what is written to it, the body of a batch, under a name of its own, until done is called; then the error
// of the storing is there. With whole false nothing stays.
func (b *Batches) keep(ctx context.Context) (name string, w io.Writer, done func(whole bool) error) {
	var random [16]byte
	rand.Read(random[:])
	name = hex.EncodeToString(random[:])
	r, pipe := io.Pipe()
	stored := make(chan error, 1)
	go func() {
		err := b.bodies.Put(ctx, name, r)
		r.CloseWithError(cmp.Or(err, io.ErrClosedPipe))
		stored <- err
	}()
	return name, pipe, func(whole bool) error {
		if !whole {
			pipe.CloseWithError(errAnswered)
			<-stored
			return nil
		}
		pipe.Close()
		return <-stored
	}
}

// resubmit makes a successor of the requests that have expired, once. A successor's own are not submitted again.
func (b *Batches) resubmit(ctx context.Context, one Batch, revision uint64) (Batch, uint64, error) {
	note := func(state string) (err error) {
		one.Resubmission = state
		if revision, err = b.records.Update(ctx, one.key(), one.encode(), revision); err == nil {
			b.update(one, revision)
		}
		return err
	}
	if one.Resubmission == resubmitAsked { // the process ended in the middle of it
		found, err := b.successor(ctx, one)
		if err != nil {
			return one, revision, err
		}
		one.Successor = found
		if found == "" {
			b.log.Error("the gateway ended while it submitted expired requests again; they are not sent twice", "batch", one.ID, "owner", one.Owner)
			return one, revision, note(resubmitUnknown)
		}
		return one, revision, note(resubmitDone)
	}
	expired, err := b.expired(ctx, one)
	if err != nil {
		return one, revision, err
	}
	if len(expired) == 0 {
		err := note(resubmitDone)
		return one, revision, errors.Join(err, b.bodies.Delete(ctx, one.Kept))
	}
	body, err := b.bodies.Open(ctx, one.Kept)
	if errors.Is(err, store.ErrNotFound) {
		return one, revision, note(resubmitUnknown)
	}
	if err != nil {
		return one, revision, err
	}
	if err := note(resubmitAsked); err != nil {
		return one, revision, err
	}
	made, err := b.sendAgain(ctx, one, body, expired)
	var refused *claude.Error
	switch {
	case err == nil:
		one.Successor = made.ID
		err = note(resubmitDone)
		return one, revision, errors.Join(err, b.bodies.Delete(ctx, one.Kept))
	case errors.As(err, &refused) && refused.Header != nil && claude.SafeStatus(refused.Status):
		return one, revision, errors.Join(err, note("")) // the upstream has refused it for now
	case refused != nil && refused.Header != nil:
		b.log.Warn("expired requests can't be submitted again", "batch", one.ID, "owner", one.Owner, "error", err)
		return one, revision, note(resubmitRefused)
	}
	b.log.Error("it is not known whether expired requests were submitted again; they are not sent twice", "batch", one.ID, "owner", one.Owner, "error", err)
	return one, revision, note(resubmitUnknown)
}

// expired are the custom_ids of the requests that have expired.
func (b *Batches) expired(ctx context.Context, one Batch) (map[string]bool, error) {
	expired := map[string]bool{}
	if one.Lost || parsed(one).Counts.Expired == 0 {
		return expired, nil
	}
	resp, err := b.results(ctx, one)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	for line, err := range claude.Lines(resp.Body) {
		if err != nil {
			return nil, err
		}
		if r, ok := claude.ParseResult(line); ok && r.Type == "expired" {
			expired[r.CustomID] = true
		}
	}
	return expired, nil
}

// sendAgain makes the successor and remembers it.
func (b *Batches) sendAgain(ctx context.Context, one Batch, body io.Reader, expired map[string]bool) (Batch, error) {
	up, down := io.Pipe()
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		down.CloseWithError(chosen(down, body, expired))
	}()
	resp, err := b.client.Transfer(ctx, claude.Request{Path: path, Header: one.creation(), Upload: up})
	up.CloseWithError(errAnswered)
	<-copied
	if err != nil {
		return Batch{}, err
	}
	made, err := read(resp)
	if err != nil {
		return Batch{}, err
	}
	next := Batch{ID: made.ID, Owner: one.Owner, Plan: one.Plan, Status: made.Status, Object: made.Raw, Created: made.Created, Expires: made.Expires,
		Version: one.Version, Beta: one.Beta, Callback: one.Callback, Predecessor: one.ID}
	revision, err := b.records.Create(ctx, next.key(), next.encode())
	if err == nil {
		b.watch(next, revision, nil) // its requests have been counted
	}
	return next, err
}

// chosen writes a batch of those items of a body whose ids are wanted.
func chosen(w io.Writer, body io.Reader, wanted map[string]bool) error {
	between := []byte(`{"requests":[`)
	err := claude.CopyBatch(io.Discard, body, func(item claude.BatchItem) error {
		if !wanted[item.CustomID] {
			return nil
		}
		_, err := w.Write(append(bytes.Clone(between), item.Raw...))
		between = []byte(",")
		return err
	}, func() error { return nil })
	if err == nil {
		_, err = io.WriteString(w, "]}")
	}
	return err
}

// successor looks for a batch that was made of this one's expired requests.
func (b *Batches) successor(ctx context.Context, one Batch) (string, error) {
	for entry, err := range b.records.List(ctx, store.Key{one.Owner}) {
		if err != nil {
			return "", err
		}
		if other, err := parse(entry.Value); err == nil && other.Predecessor == one.ID {
			return other.ID, nil
		}
	}
	return "", nil
}
