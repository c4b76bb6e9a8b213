package background

import (
	"cmp"
	"context"
	"errors"
	"io"
	"math"
	"slices"
	"time"

	"sluice/gateway/relay"
	"sluice/gateway/store"
)

// Stream finds an owner's stream for reading: the one that runs in this process, or one that waits for its beginning
// here, or, with all its events, one that has ended. It fails with relay.ErrNotFound, relay.ErrMemory, relay.ErrDraining
// if the stream will not begin here any more, or the store's errors.
func (b *Background) Stream(ctx context.Context, owner, id string) (*relay.Stream, error) {
	r, s, err := b.look(ctx, owner, id)
	switch {
	case s != nil || err != nil:
		return s, err
	case !r.over():
		return b.relay.Announce(b.kept(r))
	}
	o, err := b.results.Open(ctx, r.log())
	if errors.Is(err, store.ErrNotFound) { // its time was over just now
		return nil, relay.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	if err := b.relay.Reserve(o.Size); err != nil {
		return nil, err
	}
	log := make([]byte, o.Size)
	_, err = io.ReadFull(o, log)
	b.relay.Release(o.Size) // Restore takes it
	if err != nil {
		return nil, err
	}
	return b.relay.Restore(b.kept(r), relay.Ended{Status: r.Status, Failure: r.failed(), At: r.Ended, Log: log})
}

// Find is Stream for a reader who may read it whoever owns it.
func (b *Background) Find(ctx context.Context, id string) (*relay.Stream, error) {
	s, err := b.relay.Find(id)
	if err == nil && !s.Waiting() {
		return s, nil
	}
	owner, err := b.owners.Get(ctx, store.Key{id})
	if errors.Is(err, store.ErrNotFound) {
		return nil, relay.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return b.Stream(ctx, string(owner.Value), id)
}

// look finds a stream in the relay, or else its record. One that waits in the relay may have ended in another process.
func (b *Background) look(ctx context.Context, owner, id string) (*record, *relay.Stream, error) {
	if owner == "" {
		return nil, nil, relay.ErrNotFound
	}
	s, err := b.relay.Get(owner, id)
	if err == nil && !s.Waiting() {
		return nil, s, nil
	}
	r, err := b.find(ctx, store.Key{owner, id})
	if err != nil || r.over() {
		s = nil
	}
	return r, s, err
}

// lookElsewhere learns what other processes have done with the streams that this one's relay has: who waits here for one
// that has ended gets it, and one that was canceled or deleted stops.
func (b *Background) lookElsewhere(ctx context.Context) {
	for _, s := range b.relay.KeptStreams() {
		r, err := b.find(ctx, store.Key{s.Owner, s.ID})
		switch {
		case errors.Is(err, relay.ErrNotFound), err == nil && r.over() && !s.Waiting():
			s.Cancel()
		case err == nil && r.over():
			_, err = b.Stream(ctx, s.Owner, s.ID)
		}
		if err != nil && !errors.Is(err, relay.ErrNotFound) {
			b.log.Debug("a background stream can't be looked at", "stream", s.ID, "error", err)
		}
	}
}

// Snapshot describes an owner's stream, with or without its message.
func (b *Background) Snapshot(ctx context.Context, owner, id string, message bool) (relay.Snapshot, error) {
	r, s, err := b.look(ctx, owner, id)
	if err == nil && s == nil && r.over() && message {
		s, err = b.Stream(ctx, owner, id)
	}
	switch {
	case err != nil:
		return relay.Snapshot{}, err
	case s != nil:
		return s.Snapshot(message), nil
	}
	return b.snapshot(r), nil
}

// List returns up to limit of an owner's streams, those of the relay included, newest first, older than the one named
// after, and whether there are more.
func (b *Background) List(ctx context.Context, owner, after string, limit int) (list []relay.Snapshot, more bool, err error) {
	type entry struct {
		id       string
		created  time.Time
		snapshot func() relay.Snapshot
	}
	var all []entry
	streams, _, err := b.relay.List(owner, "", math.MaxInt)
	if err != nil {
		return nil, false, err
	}
	seen := make(map[string]bool, len(streams))
	for _, s := range streams {
		seen[s.ID] = true
		all = append(all, entry{s.ID, s.Created, func() relay.Snapshot { return s.Snapshot(false) }})
	}
	for found, err := range b.records.List(ctx, store.Key{owner}) {
		if err != nil {
			return nil, false, err
		}
		r, err := decode(found.Value)
		if err != nil {
			return nil, false, err
		}
		if seen[r.ID] || b.gone(r) {
			continue
		}
		all = append(all, entry{r.ID, r.Created, func() relay.Snapshot { return b.snapshot(r) }})
	}
	slices.SortFunc(all, func(x, y entry) int { return cmp.Or(y.created.Compare(x.created), cmp.Compare(y.id, x.id)) })
	if after != "" {
		at := slices.IndexFunc(all, func(e entry) bool { return e.id == after })
		if at < 0 {
			return nil, false, relay.ErrNotFound
		}
		all = all[at+1:]
	}
	for _, e := range all[:min(limit, len(all))] {
		list = append(list, e.snapshot())
	}
	return list, len(all) > limit, nil
}
