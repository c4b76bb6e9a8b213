// Package batches forwards Message Batches and watches them until they end.
//
// Anthropic scopes batches to the account, which here is everybody's; so each batch is remembered with who made it, and
// nobody else sees it. Anthropic tells nobody that a batch has ended; so each unfinished one is asked about, rarely enough
// that ten thousand cost next to nothing. At its end the results are read once, line by line, for what they used and what
// went wrong, and the callback that was asked for is taken on. All that is in the store: a restart goes on where it was.
package batches

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"sluice/gateway/callbacks"
	"sluice/gateway/claude"
	"sluice/gateway/failpoint"
	"sluice/gateway/limits"
	"sluice/gateway/metrics"
	"sluice/gateway/store"
)

// ErrNotFound is returned for a batch that does not exist, or that somebody else made.
var ErrNotFound = errors.New("no such batch")

// Batch is a batch as it was last seen.
type Batch struct {
	ID       string    `json:"id"`
	Owner    string    `json:"owner"`
	Plan     string    `json:"plan"`
	Status   string    `json:"status"` // in_progress, canceling, ended
	Object   []byte    `json:"object"` // the upstream's, byte for byte
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires"`
	Version  []string  `json:"version,omitempty"` // headers of its creation, for asking about it
	Beta     []string  `json:"beta,omitempty"`
	Callback string    `json:"callback,omitempty"` // the URL that asked for one; empty: none
	Kept     string    `json:"kept,omitempty"`     // the object with its requests, for a resubmission of those that expire
	Over     bool      `json:"over,omitempty"`     // ended, and all has been done that is to be done then
	Lost     bool      `json:"lost,omitempty"`     // the upstream does not have it any more
	Summary  *Summary  `json:"summary,omitempty"`  // of the results, once they have been read

	Resubmission string `json:"resubmission,omitempty"` // of what has expired: asked, done, refused, unknown
	Successor    string `json:"successor,omitempty"`    // the batch that was made of it
	Predecessor  string `json:"predecessor,omitempty"`  // the batch whose expired requests these are
}

// Summary is what the results of a batch come to.
type Summary struct {
	Usage  Usage         `json:"usage"`
	Errors []ErrorsOfOne `json:"errors"` // by type and message, the most frequent first
}

// Usage are the tokens of all succeeded requests of a batch.
type Usage struct {
	Input      int64 `json:"input_tokens"`
	Output     int64 `json:"output_tokens"`
	CacheRead  int64 `json:"cache_read_input_tokens"`
	CacheWrite int64 `json:"cache_creation_input_tokens"`
}

// ErrorsOfOne are the requests that failed in one way.
type ErrorsOfOne struct {
	Type    string `json:"type"`
	Message string `json:"message"`
	Count   int    `json:"count"`
}

// path is the upstream's route.
const path = "/v1/messages/batches"

// retention is how long a batch is remembered after it was last seen to change: results are kept for 29 days after the
// creation, so that nothing is forgotten that can still be read.
const retention = 30 * 24 * time.Hour

// Batches is all batches of everybody. All methods may be called at once from any goroutine.
type Batches struct {
	client  *claude.Client
	limits  *limits.Limits
	calls   *callbacks.Callbacks
	store   *store.Store
	records *store.Records
	bodies  *store.Objects
	metrics *metrics.Metrics
	log     *slog.Logger

	mu      sync.Mutex
	watched map[string]*watched // the unfinished ones, by id
	due     dueHeap
	paused  time.Time     // nothing is asked before: the upstream wants to be left alone
	nudge   chan struct{} // something is due earlier than before
	phase   time.Duration // when its beat falls, so that not all gateways of the world ask at once
}

// New opens the batches of a store. Nothing is watched before Run.
func New(ctx context.Context, client *claude.Client, l *limits.Limits, calls *callbacks.Callbacks, s *store.Store, m *metrics.Metrics, log *slog.Logger) (*Batches, error) {
	b := &Batches{client: client, limits: l, calls: calls, store: s, metrics: m, log: log, watched: make(map[string]*watched), nudge: make(chan struct{}, 1), phase: rand.N(beat)}
	var err error
	if b.records, err = s.Records(ctx, "batches", retention); err != nil {
		return nil, err
	}
	b.bodies, err = s.Objects(ctx, "batches", bodyRetention)
	return b, err
}

// Params is a request to make a batch.
type Params struct {
	Owner, Plan string
	Query       string        // of the request, with its question mark
	Header      http.Header   // what may go up
	Body        io.ReadCloser // closed if the upstream answers before it is read to its end
	Check       func(claude.BatchItem) error
	Length      int64  // of Body; below 0: not known
	Callback    string // a URL that callbacks.Check has passed; empty: none
	Resubmit    bool   // what expires is submitted again, once
}

// errAnswered ends an upload whose answer is there.
var errAnswered = errors.New("the upstream has answered")

// Create sends a batch up as it comes in. Each item is checked before it goes on, and all together are admitted before
// the end does; what Check or limits.AdmitBatch refuses is the error, and then there is no batch. The header is that of
// the upstream's answer.
func (b *Batches) Create(ctx context.Context, p Params) (made Batch, header http.Header, err error) {
	if err := ctx.Err(); err != nil {
		return Batch{}, nil, err
	}
	size := int64(maxObject)
	if p.Resubmit {
		if size += p.Length; p.Length < 0 {
			size += claude.MaxBatch
		}
	}
	if err := b.store.Room(size); err != nil {
		return Batch{}, nil, err
	}
	up, down := io.Pipe()
	var to io.Writer = down
	kept, stored := "", func(bool) error { return nil }
	if p.Resubmit {
		var body io.Writer
		kept, body, stored = b.keep(context.WithoutCancel(ctx))
		defer func() {
			if err != nil {
				b.bodies.Delete(context.WithoutCancel(ctx), kept) // where that fails, its time runs out
			}
		}()
		to = io.MultiWriter(body, down)
	}
	var grant *limits.BatchGrant
	defer func() {
		if err != nil {
			grant.Release()
		}
	}()
	copied := make(chan error, 1)
	go func() {
		var asked limits.Batch
		err := claude.CopyBatch(to, p.Body, func(item claude.BatchItem) error {
			input, _ := claude.EstimateInput(item.Params)
			asked.Add(limits.Request{Input: input, MaxTokens: item.MaxTokens})
			return p.Check(item)
		}, func() (err error) {
			grant, err = b.limits.AdmitBatch(p.Owner, p.Plan, asked)
			return err
		})
		if e := stored(err == nil); err == nil {
			err = e // before the upstream has the end
		}
		copied <- err
		down.CloseWithError(err) // nil is the end
	}()
	// Once all has been sent there may be a batch, whether or not the caller waits for the answer.
	resp, err := b.client.Transfer(context.WithoutCancel(ctx), claude.Request{Path: path + p.Query, Header: p.Header, Upload: up})
	up.CloseWithError(errAnswered)
	var refused error
	select {
	case refused = <-copied:
	default:
		p.Body.Close()
		refused = <-copied
	}
	if refused != nil && !errors.Is(refused, errAnswered) && !errors.Is(refused, io.ErrClosedPipe) { // the transport closes what it does not want
		if err == nil {
			resp.Body.Close()
		}
		if err == nil || !answered(err) {
			return Batch{}, nil, refused
		}
	}
	if err != nil {
		return Batch{}, nil, err
	}
	seen, err := read(resp)
	if err != nil {
		return Batch{}, nil, err
	}
	one := Batch{ID: seen.ID, Owner: p.Owner, Plan: p.Plan, Status: seen.Status, Object: seen.Raw, Created: seen.Created, Expires: seen.Expires,
		Version: p.Header["Anthropic-Version"], Beta: p.Header["Anthropic-Beta"], Callback: p.Callback, Kept: kept}
	// Whoever made it has it from here on, also if the caller has left meanwhile.
	revision, err := b.records.Create(context.WithoutCancel(ctx), one.key(), one.encode())
	if err != nil {
		b.log.Error("a batch was made that can't be remembered, so it is canceled", "batch", one.ID, "owner", one.Owner, "error", err)
		b.abandon(one)
		return Batch{}, nil, err
	}
	failpoint.At("made")
	b.watch(one, revision, grant)
	return one, resp.Header, nil
}

// answered reports whether the upstream has refused by itself.
func answered(err error) bool {
	var e *claude.Error
	return errors.As(err, &e) && e.Header != nil
}

// abandon cancels a batch that nobody will ever see.
func (b *Batches) abandon(one Batch) {
	ctx, cancel := context.WithTimeout(context.Background(), pollTimeout)
	defer cancel()
	if resp, err := b.client.Do(ctx, claude.Request{Path: path + "/" + one.ID + "/cancel", Header: one.header()}); err == nil {
		resp.Body.Close()
	}
}

// maxObject bounds a MessageBatch; one has about 600 bytes.
const maxObject = 64 << 10

// read reads an answer that is a MessageBatch.
func read(resp *http.Response) (claude.Batch, error) {
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxObject+1))
	if err != nil {
		return claude.Batch{}, err
	}
	if err := claude.CheckAnswer(resp, body, maxObject); err != nil {
		return claude.Batch{}, err
	}
	made, ok := claude.ParseBatch(body)
	if !ok {
		return claude.Batch{}, &claude.Error{Type: claude.APIError, Status: http.StatusBadGateway, Message: "The upstream did not answer with a Message Batch.", Header: resp.Header}
	}
	return made, nil
}

// Get asks the upstream for a batch of the owner's.
func (b *Batches) Get(ctx context.Context, owner, id, query string, header http.Header) (Batch, http.Header, error) {
	return b.ask(ctx, owner, id, claude.Request{Method: http.MethodGet, Path: path + "/" + id + query, Header: header})
}

// Cancel asks it to cancel one.
func (b *Batches) Cancel(ctx context.Context, owner, id, query string, header http.Header) (Batch, http.Header, error) {
	return b.ask(ctx, owner, id, claude.Request{Path: path + "/" + id + "/cancel" + query, Header: header})
}

// ask makes a call that is answered with the batch, which is remembered.
func (b *Batches) ask(ctx context.Context, owner, id string, req claude.Request) (Batch, http.Header, error) {
	if _, _, err := b.find(ctx, owner, id); err != nil {
		return Batch{}, nil, err
	}
	resp, err := b.client.Do(ctx, req)
	if err != nil {
		return Batch{}, nil, err
	}
	seen, err := read(resp)
	if err != nil {
		return Batch{}, nil, err
	}
	one, err := b.observe(ctx, owner, id, seen)
	return one, resp.Header, err
}

// Results opens the results of a batch of the owner's. They are read from the upstream as the body is read.
func (b *Batches) Results(ctx context.Context, owner, id, query string, header http.Header) (*http.Response, error) {
	if _, _, err := b.find(ctx, owner, id); err != nil {
		return nil, err
	}
	return b.client.Transfer(ctx, claude.Request{Method: http.MethodGet, Path: path + "/" + id + "/results" + query, Header: header})
}

// Delete deletes a batch of the owner's, and forgets it. What it has used is read before it is gone, and so it may take
// as long as its results do. The answer is the upstream's.
func (b *Batches) Delete(ctx context.Context, owner, id, query string, header http.Header) ([]byte, http.Header, error) {
	one, _, err := b.find(ctx, owner, id)
	if err == nil {
		err = b.settle(ctx, one)
	}
	if err != nil {
		return nil, nil, err
	}
	resp, err := b.client.Do(ctx, claude.Request{Method: http.MethodDelete, Path: path + "/" + id + query, Header: header})
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxObject+1))
	if err == nil {
		err = claude.CheckAnswer(resp, body, maxObject)
	}
	if err != nil {
		return nil, nil, err
	}
	b.unwatch(one)
	if one.Kept != "" {
		b.bodies.Delete(context.WithoutCancel(ctx), one.Kept) // where that fails, its time runs out
	}
	return body, resp.Header, b.records.Delete(context.WithoutCancel(ctx), one.key())
}

// List returns up to limit of an owner's batches as they were last seen, newest first: those older than the one named
// after, or those newer than the one named before that are next to it; and whether there are more in that direction.
func (b *Batches) List(ctx context.Context, owner, after, before string, limit int) (list []Batch, more bool, err error) {
	for entry, err := range b.records.List(ctx, store.Key{owner}) {
		if err != nil {
			return nil, false, err
		}
		one, err := parse(entry.Value)
		if err != nil {
			return nil, false, err
		}
		list = append(list, one)
	}
	slices.SortFunc(list, func(a, b Batch) int { return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(b.ID, a.ID)) })
	at := slices.IndexFunc(list, func(one Batch) bool { return one.ID == cmp.Or(after, before) })
	switch {
	case after+before != "" && at < 0:
		return nil, false, ErrNotFound
	case before != "":
		first := max(0, at-limit)
		return list[first:at], first > 0, nil
	}
	list = list[at+1:]
	return list[:min(limit, len(list))], len(list) > limit, nil
}

// find reads the owner's record of a batch.
func (b *Batches) find(ctx context.Context, owner, id string) (one Batch, revision uint64, err error) {
	entry, err := b.records.Get(ctx, store.Key{owner, id})
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrTooLarge) { // too large an id for anything to have it
		err = ErrNotFound
	}
	if err != nil {
		return Batch{}, 0, err
	}
	one, err = parse(entry.Value)
	return one, entry.Revision, err
}

func (b *Batch) key() store.Key { return store.Key{b.Owner, b.ID} }

func (b *Batch) encode() []byte {
	raw, err := json.Marshal(b)
	if err != nil {
		panic(err) // the object was valid when it came
	}
	return raw
}

// creation is what the making of a successor carries.
func (b *Batch) creation() http.Header {
	h := b.header()
	h.Set("Content-Type", "application/json")
	return h
}

// header is what the gateway's own questions about the batch carry.
func (b *Batch) header() http.Header {
	h := http.Header{"Anthropic-Version": b.Version}
	if len(b.Version) == 0 {
		h.Set("Anthropic-Version", "2023-06-01")
	}
	if len(b.Beta) > 0 {
		h["Anthropic-Beta"] = b.Beta
	}
	return h
}
