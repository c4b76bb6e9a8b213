package background

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"sluice/gateway/claude"
	"sluice/gateway/limits"
	"sluice/gateway/relay"
	"sluice/gateway/store"
)

// record is what is known of a stream. An item of the queue carries the first one.
type record struct {
	ID      string
	Owner   string
	Plan    string
	Route   string      // where it was posted
	Path    string      // of the request, with its query
	Header  http.Header // of the request; it holds no credentials
	Size    int64       // of the request's body
	Key     string      `json:",omitempty"` // the hash of its idempotency key
	Created time.Time

	Ask      limits.Request // what its request is let in with
	Callback string         `json:",omitempty"` // where its end is told

	Status    relay.Status
	Attempt   int       // the last one that has begun; 0: none
	Lost      int       `json:",omitempty"` // attempts during which the process died
	Refused   int       `json:",omitempty"` // how often the upstream has refused for now
	NotBefore time.Time `json:",omitzero"`  // when it may begin

	Failure *failure        `json:",omitempty"`
	Model   string          `json:",omitempty"`
	Usage   json.RawMessage `json:",omitempty"`
	Source  string          `json:",omitempty"`
	Ended   time.Time       `json:",omitzero"`
	Deleted bool            `json:",omitempty"` // its owner has; the record only says so to whoever still has it in hand
}

type failure struct{ Type, Message string }

func (r *record) key() store.Key { return store.Key{r.Owner, r.ID} }

// log is the name of its log. Should two processes ever run a stream at once, each writes its own attempt's.
func (r *record) log() string { return r.ID + "." + strconv.Itoa(r.Attempt) }

// over reports whether the stream has ended.
func (r *record) over() bool { return !r.Ended.IsZero() }

func (r *record) encode() []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings, numbers, times, and JSON that was checked when it was accumulated
	}
	return b
}

func decode(b []byte) (*record, error) {
	r := &record{}
	err := json.Unmarshal(b, r)
	return r, err
}

// gone reports whether a stream is deleted, or was kept for its time.
func (b *Background) gone(r *record) bool {
	return r.Deleted || r.over() && time.Since(r.Ended) > b.cfg.Retention
}

// read reads a stream's record, gone or not.
func (b *Background) read(ctx context.Context, key store.Key) (*record, error) {
	found, err := b.records.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	return decode(found.Value)
}

// find reads the record of a stream that is there.
func (b *Background) find(ctx context.Context, key store.Key) (*record, error) {
	r, err := b.read(ctx, key)
	if errors.Is(err, store.ErrNotFound) || err == nil && b.gone(r) {
		return nil, relay.ErrNotFound
	}
	return r, err
}

// change applies f to a stream's record, until nobody else has written meanwhile. Where f fails nothing is written.
func (b *Background) change(ctx context.Context, key store.Key, f func(*record) error) (*record, error) {
	for {
		found, err := b.records.Get(ctx, key)
		if err != nil {
			return nil, err
		}
		r, err := decode(found.Value)
		if err == nil {
			err = f(r)
		}
		if err != nil {
			return r, err
		}
		if _, err = b.records.Update(ctx, key, r.encode(), found.Revision); !errors.Is(err, store.ErrConflict) {
			return r, err
		}
	}
}

// errOver stops a change: the stream has ended.
var errOver = errors.New("the stream has ended")

// kept is the stream as the relay knows it. One that has not ended will go on with the next attempt.
func (b *Background) kept(r *record) relay.Kept {
	k := relay.Kept{ID: r.ID, Owner: r.Owner, Plan: r.Plan, Route: r.Route, Callback: r.Callback, Created: r.Created, Status: r.Status, Attempt: r.Attempt,
		Retention: b.cfg.Retention, Keep: b.keep(r.key())}
	if !r.over() {
		k.Attempt++
	}
	return k
}

// snapshot describes a stream without its message.
func (b *Background) snapshot(r *record) relay.Snapshot {
	k := b.kept(r)
	n := relay.Snapshot{ID: r.ID, Status: r.Status, Model: r.Model, Attempt: k.Attempt, Usage: r.Usage, Source: r.Source, Created: r.Created, Callback: r.Callback, Kept: true}
	if n.Source == "" {
		n.Source = relay.Reported
	}
	if r.over() {
		n.Failure, n.EndedAt, n.ExpiresAt = r.failed(), r.Ended, r.Ended.Add(b.cfg.Retention)
	}
	return n
}

func (r *record) failed() *claude.Error {
	if r.Failure == nil {
		return nil
	}
	return &claude.Error{Type: r.Failure.Type, Message: r.Failure.Message}
}
