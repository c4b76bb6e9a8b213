package background

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"time"

	"sluice/gateway/backoff"
	"sluice/gateway/callbacks"
	"sluice/gateway/failpoint"
	"sluice/gateway/relay"
	"sluice/gateway/store"
)

// keep is how the relay has a stream's end kept, before anybody sees it: first the log, then the record that says that
// the stream has ended. It tries until it succeeds or the process stops: then the stream has not ended.
func (b *Background) keep(key store.Key) func(relay.Ending) bool {
	return func(e relay.Ending) bool {
		for try := 0; ; try++ {
			err := b.write(key, e)
			if err == nil {
				return true
			}
			b.log.Error("a background stream's end can't be kept", "stream", key[1], "error", err)
			t := time.NewTimer(backoff.Delay(try, rand.Float64()))
			select {
			case <-t.C:
			case <-b.keeping.Done():
				t.Stop()
				return false
			}
		}
	}
}

func (b *Background) write(key store.Key, e relay.Ending) error {
	failpoint.At("finished")
	ctx := context.Background()
	log := (&record{ID: key[1], Attempt: e.Attempt}).log()
	if err := b.results.Put(ctx, log, e.Log()); err != nil {
		return err
	}
	failpoint.At("logged")
	r, err := b.change(ctx, key, func(r *record) error {
		if r.over() { // an earlier try, whose answer was lost
			return errOver
		}
		r.Status, r.Attempt, r.Model, r.Usage, r.Source, r.Ended = e.Status, e.Attempt, e.Model, e.Usage, e.Source, e.At
		if e.Failure != nil {
			r.Failure = &failure{e.Failure.Type, e.Failure.Message}
		}
		return nil
	})
	failpoint.At("kept")
	switch {
	case errors.Is(err, errOver), err == nil && !r.Deleted:
		return b.tell(ctx, r)
	case err == nil, errors.Is(err, store.ErrNotFound): // nobody may read it any more
		return b.results.Delete(ctx, log)
	}
	return err
}

// tell has a stream's end told, where that was asked for. Doing it again changes nothing.
func (b *Background) tell(ctx context.Context, r *record) error {
	if r.Callback == "" || r.Deleted {
		return nil
	}
	return b.calls.Enqueue(ctx, EndOf(r.Owner, r.Callback, b.snapshot(r)))
}

// EndOf is what a callback says of a stream that has ended. Whatever was neither completed nor canceled by its owner has
// failed, as far as a receiver is concerned.
func EndOf(owner, url string, n relay.Snapshot) callbacks.Event {
	kind := "stream.failed"
	switch n.Status {
	case relay.Completed:
		kind = "stream.completed"
	case relay.Canceled:
		kind = "stream.canceled"
	}
	data := struct {
		ID     string          `json:"id"`
		Status relay.Status    `json:"status"`
		Usage  json.RawMessage `json:"usage"`
		Error  *told           `json:"error"`
	}{ID: n.ID, Status: n.Status, Usage: n.Usage}
	if n.Failure != nil {
		data.Error = &told{n.Failure.Type, n.Failure.Message}
	}
	b, err := json.Marshal(data)
	if err != nil {
		panic(err) // the usage was checked when it was accumulated
	}
	return callbacks.Event{Owner: owner, Object: n.ID, Type: kind, URL: url, At: n.EndedAt, Data: b}
}

type told struct {
	Type    string `json:"type"`
	Message string `json:"message"`
}

// Cancel stops a stream at its owner's wish, in whatever state it is, and returns it when the end is kept.
func (b *Background) Cancel(ctx context.Context, owner, id string) (*relay.Stream, error) {
	s, err := b.Stream(ctx, owner, id)
	if err != nil {
		return nil, err
	}
	s.Cancel()
	select {
	case <-s.Done():
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if !s.Kept() {
		return s, nil
	}
	if s.Parted() {
		return nil, relay.ErrDraining
	}
	b.waitsNoMore(owner, id)
	if err := b.clean(ctx, id); err != nil { // its worker would find out as well
		b.log.Warn("an ended stream's request is left in the store", "stream", id, "error", err)
	}
	return s, nil
}

// Delete cancels a stream and forgets it.
func (b *Background) Delete(ctx context.Context, owner, id string) error {
	if s, err := b.relay.Get(owner, id); err == nil && !s.Kept() {
		return b.relay.Delete(owner, id)
	}
	r, err := b.find(ctx, store.Key{owner, id})
	if err == nil && !r.over() {
		_, err = b.Cancel(ctx, owner, id)
	}
	if err != nil {
		return err
	}
	// The record stays, and says that there is nothing: an item may still be on its way to a worker.
	r, err = b.change(ctx, r.key(), func(r *record) error {
		r.Deleted, r.Failure, r.Usage, r.Header, r.Path = true, nil, nil, nil, ""
		return nil
	})
	if err != nil {
		return err
	}
	if err := errors.Join(b.results.Delete(ctx, r.log()), b.clean(ctx, id)); err != nil {
		return err
	}
	if err := b.relay.Delete(owner, id); err != nil && !errors.Is(err, relay.ErrNotFound) {
		return err
	}
	return nil
}
