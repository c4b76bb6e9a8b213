package background

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"time"

	"sluice/gateway/claude"
	"sluice/gateway/failpoint"
	"sluice/gateway/limits"
	"sluice/gateway/relay"
	"sluice/gateway/store"
)

// Params is a request for a background stream.
type Params struct {
	Owner, Plan    string
	IdempotencyKey string // empty: none
	Route          string // where it was posted: the same key on another route is another request
	Request        claude.Request
	Ask            limits.Request // what Request is let in with
	Callback       string         // where its end is told; empty: nowhere
}

// Accepted is a stream that has been accepted.
type Accepted struct {
	Snapshot relay.Snapshot
	Windows  limits.Windows // zero where an earlier request has been joined
}

// overhead is what a stream takes in the store beside its request and its log, some kilobytes.
const overhead = 16 << 10

// Accept queues a stream, or joins the one that the same idempotency key has queued. Once it returns without an error
// the stream is on disk and will end, whatever happens to this process; with one it may nevertheless be run, if the
// store failed in the middle, and the same request with the same key finds that out. It is refused with
// *limits.Exceeded, *limits.Outside, relay.ErrDraining, relay.ErrKeyReused, or the store's errors.
func (b *Background) Accept(ctx context.Context, p Params) (Accepted, error) {
	ctx = context.WithoutCancel(ctx) // who leaves in the middle is no reason to leave half of it behind
	r := &record{ID: newID(), Owner: p.Owner, Plan: p.Plan, Route: p.Route, Ask: p.Ask, Callback: p.Callback, Path: p.Request.Path, Header: p.Request.Header, Size: int64(len(p.Request.Body)),
		Created: time.Now(), Status: relay.Queued}
	if p.IdempotencyKey == "" {
		return b.accept(ctx, r, p.Request.Body, func() error { return nil })
	}
	hash := sha256.Sum256([]byte(p.IdempotencyKey))
	r.Key = hex.EncodeToString(hash[:])
	for {
		a, err := b.acceptOnce(ctx, r, p)
		if !errors.Is(err, errRaced) {
			return a, err
		}
	}
}

// errRaced is another request with the same key, which was quicker.
var errRaced = errors.New("the key was taken meanwhile")

// claim is what an idempotency key stands for.
type claim struct {
	id     string
	digest [sha256.Size]byte // of route and body
}

func (c claim) encode() []byte { return append(c.digest[:], c.id...) }

func digestOf(p Params) [sha256.Size]byte {
	h := sha256.New()
	h.Write([]byte(p.Route))
	h.Write([]byte{0})
	h.Write(p.Request.Body)
	return [sha256.Size]byte(h.Sum(nil))
}

// acceptOnce is accept for a request with a key. All steps of accept can be repeated, so where a key is claimed and its
// stream is not there, a request or a process that died in the middle is simply finished.
func (b *Background) acceptOnce(ctx context.Context, r *record, p Params) (Accepted, error) {
	key, ours := store.Key{r.Owner, r.Key}, claim{r.ID, digestOf(p)}
	raced := func(err error) error {
		if errors.Is(err, store.ErrExists) || errors.Is(err, store.ErrConflict) {
			return errRaced
		}
		return err
	}
	found, err := b.keys.Get(ctx, key)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return b.accept(ctx, r, p.Request.Body, func() error {
			_, err := b.keys.Create(ctx, key, ours.encode())
			return raced(err)
		})
	case err != nil:
		return Accepted{}, err
	}
	theirs := claim{id: string(found.Value[sha256.Size:]), digest: [sha256.Size]byte(found.Value)}
	there, err := b.read(ctx, store.Key{r.Owner, theirs.id})
	switch {
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return Accepted{}, err
	case err == nil && b.gone(there): // and the key with it
		return b.accept(ctx, r, p.Request.Body, func() error {
			_, err := b.keys.Update(ctx, key, ours.encode(), found.Revision)
			return raced(err)
		})
	case theirs.digest != ours.digest:
		return Accepted{}, relay.ErrKeyReused
	case err == nil:
		return Accepted{Snapshot: b.snapshot(there)}, nil
	}
	r.ID = theirs.id
	return b.accept(ctx, r, p.Request.Body, func() error { return nil })
}

// accept admits a stream and writes what belongs to it. The item comes before the record: it is what makes the stream
// accepted, and its worker makes the record where that is missing.
func (b *Background) accept(ctx context.Context, r *record, body []byte, claim func() error) (Accepted, error) {
	if b.take.Err() != nil {
		return Accepted{}, relay.ErrDraining
	}
	if err := b.store.Room(r.Size + overhead); err != nil {
		return Accepted{}, err
	}
	windows, err := b.limits.Enqueue(r.Owner, r.Plan, r.Ask)
	if err != nil {
		return Accepted{}, err
	}
	if err := claim(); err != nil {
		return Accepted{}, err
	}
	err = b.requests.Put(ctx, r.ID, bytes.NewReader(body))
	if err == nil {
		_, err = b.owners.Put(ctx, store.Key{r.ID}, []byte(r.Owner))
	}
	if err == nil {
		err = b.queue.Push(ctx, r.ID, r.encode())
	}
	if err != nil && !errors.Is(err, store.ErrExists) {
		b.withdraw(ctx, r)
		return Accepted{}, err
	}
	failpoint.At("pushed")
	if _, err := b.records.Create(ctx, r.key(), r.encode()); err != nil && !errors.Is(err, store.ErrExists) {
		return Accepted{}, err
	}
	b.log.Info("stream queued", "stream", r.ID, "owner", r.Owner, "plan", r.Plan)
	return Accepted{b.snapshot(r), windows}, nil
}

// withdraw takes back what could be written of a stream that can't be accepted, as far as the store lets it.
func (b *Background) withdraw(ctx context.Context, r *record) {
	err := b.clean(ctx, r.ID)
	if err == nil && r.Key != "" {
		err = b.keys.Delete(ctx, store.Key{r.Owner, r.Key})
	}
	if err != nil {
		b.log.Warn("a stream that could not be accepted has left something in the store", "stream", r.ID, "error", err)
	}
}

// clean removes what is of no use once a stream has ended.
func (b *Background) clean(ctx context.Context, id string) error {
	return errors.Join(b.queue.Remove(ctx, id), b.requests.Delete(ctx, id))
}

func newID() string {
	var b [16]byte
	rand.Read(b[:])
	return "strm_" + hex.EncodeToString(b[:])
}

// Request headers and body as they go up again, long after their caller has left.
func (r *record) request(body []byte) claude.Request {
	header := r.Header
	if header == nil {
		header = http.Header{}
	}
	return claude.Request{Path: r.Path, Header: header, Body: body}
}
