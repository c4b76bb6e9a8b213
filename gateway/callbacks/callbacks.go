// Package callbacks tells who asked for it that a stream or a batch has ended: a POST in the form of Standard Webhooks,
// signed with a secret that only its owner is shown, repeated until the receiver takes it or a day is over, and fenced, so
// that nobody reaches through the gateway what only the gateway can reach.
//
// A callback is delivered at least once, and every attempt carries the same webhook-id. What is promised survives a
// crash: a callback is in the store before Enqueue returns, and leaves the queue only after its end is in the store.
// An object ends once and so has one callback; there is none that another could overtake.
package callbacks

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"sluice/gateway/failpoint"
	"sluice/gateway/metrics"
	"sluice/gateway/store"
)

// Config says who signs and what may be reached.
type Config struct {
	Secrets      []string // masters of the owners' secrets, the one that signs first; none: one that the store keeps
	AllowHosts   []string // "host" or "host:port", which may also be http, at another port, or at a private address
	AllowPrivate bool     // private addresses may be reached under any name
	Version      string   // for User-Agent
}

// Statuses of a callback.
const (
	Pending   = "pending"
	Delivered = "delivered"
	Failed    = "failed" // given up; Redeliver begins anew
)

// ErrNotFound is returned for a callback that does not exist, or that somebody else owns.
var ErrNotFound = errors.New("no such callback")

// Callback is what became of one.
type Callback struct {
	ID         string    `json:"id"` // the webhook-id, cb_…
	Owner      string    `json:"owner"`
	Object     string    `json:"object"` // id of the stream or batch
	Type       string    `json:"type"`   // stream.completed, batch.ended, …
	URL        string    `json:"url"`
	Status     string    `json:"status"`
	Attempts   int       `json:"attempts"`
	LastStatus int       `json:"last_status,omitempty"` // of the newest answer; 0: none came
	LastError  string    `json:"last_error,omitempty"`  // why the newest attempt failed
	Created    time.Time `json:"created"`
	Begun      time.Time `json:"begun"` // when it was first due, at creation or redelivery
	Next       time.Time `json:"next"`  // when it is due, while it is pending
	Ended      time.Time `json:"ended"` // zero while it is pending
}

// record is a callback as the store has it.
type record struct {
	Callback
	Round int             `json:"round,omitempty"` // how often its owner has had it begun anew
	Body  json.RawMessage `json:"body"`
}

// task is what an item of the queue asks for: to deliver a callback. Each round has an item of its own, since that of the
// one before may wait for hours, or be in somebody's hands; what is left of earlier rounds is dropped when it comes.
type task struct {
	Owner string `json:"owner"`
	ID    string `json:"id"`
	Round int    `json:"round"`
}

// Event is the end of a stream or a batch.
type Event struct {
	Owner  string
	Object string
	Type   string
	URL    string // one that Check has passed
	At     time.Time
	Data   json.RawMessage // ids and a summary; up to 256 kB
}

// retention is how long it is known what became of a callback, counted from its last change: a little longer than a
// batch's results are kept.
const retention = 30 * 24 * time.Hour

// Callbacks delivers. All methods may be called at once from any goroutine.
type Callbacks struct {
	fence   *fence
	masters masters
	sender  *sender
	records *store.Records
	queue   *store.Queue
	metrics *metrics.Metrics
	log     *slog.Logger
	busy    busy
}

// New opens the callbacks of a store. Nothing is sent before Run.
func New(ctx context.Context, cfg Config, s *store.Store, m *metrics.Metrics, log *slog.Logger) (*Callbacks, error) {
	return open(ctx, cfg, s, m, log, nil)
}

func open(ctx context.Context, cfg Config, s *store.Store, m *metrics.Metrics, log *slog.Logger, roots *tls.Config) (*Callbacks, error) {
	c := &Callbacks{fence: newFence(cfg.AllowHosts, cfg.AllowPrivate), masters: cfg.Secrets, metrics: m, log: log}
	if len(c.masters) == 0 {
		secret, err := s.Secret(ctx, "callbacks")
		if err != nil {
			return nil, err
		}
		c.masters = masters{secret}
	}
	c.sender = newSender(c.fence, c.masters, "Sluice/"+cfg.Version, roots)
	var err error
	if c.records, err = s.Records(ctx, "callbacks", retention); err != nil {
		return nil, err
	}
	c.queue, err = s.Queue(ctx, "callbacks")
	return c, err
}

// Check returns nil if url may be called back, or an *InvalidURLError. Where its name leads is not looked up: that is
// decided anew for each attempt.
func (c *Callbacks) Check(url string) error { return c.fence.check(url) }

// Secrets are an owner's signing secrets, whsec_…; the first one signs now. While the operator changes the master there
// are several, and a receiver that tries them all misses nothing.
func (c *Callbacks) Secrets(owner string) []string { return c.masters.secrets(owner) }

// idOf is the id of an object's callback. It follows from the object, so that whoever tells of an end twice, after a
// crash, makes one callback.
func idOf(object string) string {
	sum := sha256.Sum256([]byte("sluice callback\x00" + object))
	return "cb_" + hex.EncodeToString(sum[:16])
}

// Enqueue takes on a callback. Once it has returned nil the callback will be delivered or given up, whatever happens to
// this process; doing it again for the same object changes nothing.
func (c *Callbacks) Enqueue(ctx context.Context, e Event) error {
	body, err := json.Marshal(struct {
		Type      string          `json:"type"`
		Timestamp time.Time       `json:"timestamp"`
		Data      json.RawMessage `json:"data"`
	}{e.Type, e.At.UTC().Truncate(time.Millisecond), e.Data})
	if err != nil {
		return fmt.Errorf("callback for %s: %w", e.Object, err)
	}
	now := time.Now()
	r := record{Callback: Callback{ID: idOf(e.Object), Owner: e.Owner, Object: e.Object, Type: e.Type, URL: e.URL, Status: Pending, Created: now, Begun: now, Next: now}, Body: body}
	_, err = c.records.Create(ctx, r.key(), r.encode())
	if errors.Is(err, store.ErrExists) {
		if r, _, err = c.read(ctx, e.Owner, r.ID); err == nil && r.Status != Pending {
			return nil
		}
	}
	if err != nil {
		return err
	}
	failpoint.At("noted")
	err = c.push(ctx, &r)
	failpoint.At("enqueued")
	return err
}

// push puts a pending callback into the queue, if it is not there.
func (c *Callbacks) push(ctx context.Context, r *record) error {
	data, err := json.Marshal(task{r.Owner, r.ID, r.Round})
	if err == nil {
		err = c.queue.Push(ctx, fmt.Sprintf("%s-%d", r.ID, r.Round), data)
	}
	if errors.Is(err, store.ErrExists) {
		return nil
	}
	return err
}

// Get returns the callback of an object, or ErrNotFound while none was taken on.
func (c *Callbacks) Get(ctx context.Context, owner, object string) (Callback, error) {
	r, _, err := c.read(ctx, owner, idOf(object))
	return r.Callback, err
}

// List returns up to limit of an owner's callbacks, the newest first, older than the one named after, and whether there
// are more. status is one of the three, or empty for all. An after that the owner does not have is ErrNotFound.
func (c *Callbacks) List(ctx context.Context, owner, status, after string, limit int) (list []Callback, more bool, err error) {
	last := Callback{}
	if after != "" {
		r, _, err := c.read(ctx, owner, after)
		if err != nil {
			return nil, false, err
		}
		last = r.Callback
	}
	for entry, err := range c.records.List(ctx, store.Key{owner}) {
		if err != nil {
			return nil, false, err
		}
		var one Callback
		if err := json.Unmarshal(entry.Value, &one); err != nil {
			return nil, false, err
		}
		if (status == "" || one.Status == status) && (after == "" || newer(last, one) < 0) {
			list = append(list, one)
		}
	}
	slices.SortFunc(list, newer)
	more = len(list) > limit
	return list[:min(limit, len(list))], more, nil
}

// newer orders callbacks, the newest first. Ids decide where times are the same, so that pages never overlap.
func newer(a, b Callback) int {
	return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(b.ID, a.ID))
}

// Redeliver sends a callback again now, whatever has become of it, and tries for another day. The webhook-id stays. With
// an error it may nevertheless be sent, if the store failed in the middle.
func (c *Callbacks) Redeliver(ctx context.Context, owner, id string) (Callback, error) {
	for round := 0; ; {
		r, revision, err := c.read(ctx, owner, id)
		if err != nil {
			return Callback{}, err
		}
		if round > 0 && r.Round >= round { // who has the item was quicker, or somebody else who asked
			return r.Callback, nil
		}
		r.renew(time.Now())
		round = r.Round
		// The item comes first: after a crash whoever gets it begins the round. A record without an item would stay pending.
		if err := c.push(ctx, &r); err != nil {
			return Callback{}, err
		}
		failpoint.At("renewed")
		if _, err = c.records.Update(ctx, r.key(), r.encode(), revision); !errors.Is(err, store.ErrConflict) {
			return r.Callback, err
		}
	}
}

// renew begins another round.
func (r *record) renew(now time.Time) {
	r.Round++
	r.Status, r.Begun, r.Next, r.Ended = Pending, now, now, time.Time{}
}

// Forget drops the callback of an object, delivered or not. Whoever gets its item finds nothing to do.
func (c *Callbacks) Forget(ctx context.Context, owner, object string) error {
	return c.records.Delete(ctx, store.Key{owner, idOf(object)})
}

func (c *Callbacks) read(ctx context.Context, owner, id string) (r record, revision uint64, err error) {
	entry, err := c.records.Get(ctx, store.Key{owner, id})
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrTooLarge) { // too large an id for anything to have it
		err = ErrNotFound
	}
	if err != nil {
		return record{}, 0, err
	}
	err = json.Unmarshal(entry.Value, &r)
	return r, entry.Revision, err
}

func (r *record) key() store.Key { return store.Key{r.Owner, r.ID} }

func (r *record) encode() []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // the body has been encoded before
	}
	return b
}
