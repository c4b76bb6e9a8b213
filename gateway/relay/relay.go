package relay

import (
	"container/list"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"sluice/gateway/claude"
	"sluice/gateway/limits"
	"sluice/gateway/metrics"
)

// Config bounds what the relay keeps.
type Config struct {
	Retention time.Duration // how long an ended stream can be read
	Memory    int64         // all logs and held request bodies, in bytes
}

// Relay is all streams of this process.
type Relay struct {
	cfg     Config
	client  *claude.Client
	limits  *limits.Limits
	queue   *limits.Queue
	metrics *metrics.Metrics
	log     *slog.Logger

	stopping context.Context // over when there is no more time to wait in the queue
	stopNow  context.CancelFunc

	mu       sync.Mutex
	streams  map[string]*Stream
	evicted  map[string]struct{}   // ended streams that gave way to others before their time
	owners   map[string]*list.List // of *Stream, oldest first
	keys     map[idempotencyKey]*Stream
	ended    list.List // of *Stream, by the time of their end
	memory   int64
	active   int
	viewers  int
	draining bool
	quiet    chan struct{} // closed when the last stream has ended or the last viewer left, and replaced
}

type idempotencyKey struct{ owner, key string }

// New makes an empty relay.
func New(cfg Config, client *claude.Client, l *limits.Limits, q *limits.Queue, m *metrics.Metrics, log *slog.Logger) *Relay {
	m.WatchUpstreamQueue(q.Waiting)
	stopping, stopNow := context.WithCancel(context.Background())
	return &Relay{cfg: cfg, client: client, limits: l, queue: q, metrics: m, log: log, stopping: stopping, stopNow: stopNow,
		streams: make(map[string]*Stream), evicted: make(map[string]struct{}), owners: make(map[string]*list.List),
		keys: make(map[idempotencyKey]*Stream), quiet: make(chan struct{})}
}

// What Start and Reserve refuse with, beside what limits.Admit does.
var (
	ErrDraining  = errors.New("the gateway is about to stop")
	ErrMemory    = errors.New("the memory for streams is full")
	ErrKeyReused = errors.New("the idempotency key was used with another request")
	ErrNotFound  = errors.New("no such stream")
)

// errStopped ends the streams that a drain did not see the end of.
var errStopped = &claude.Error{Type: claude.APIError, Status: http.StatusServiceUnavailable, Message: "The gateway was stopped before the message was complete."}

// streamOverhead is what a stream takes beside its log: its indexes, channels and timers.
const streamOverhead = 2 << 10

// Params is a request to start a stream.
type Params struct {
	Owner          string // who may find, list and cancel it; empty: nobody, and no idempotency key counts
	Account        string // whose limits and bill it is; empty: the owner's
	Plan           string
	IdempotencyKey string // empty: none
	Route          string // where it was posted: the same key on another route is another request
	Request        claude.Request
	Ask            limits.Request // what Request is let in with
	Retry          claude.Retry
	Callback       string        // where its end is told, by somebody else; empty: nowhere
	QueueWait      time.Duration // for a place at the upstream, within Retry.Until; negative: without end
	AbandonAfter   time.Duration // without a viewer; negative: never
}

// Start admits a request and begins its stream, or joins the stream that the same idempotency key has begun. The request
// body's bytes must have been reserved with Reserve; Start takes the reservation over, also when it fails. Where it
// returns a stream, Answered must follow.
func (r *Relay) Start(p Params) (s *Stream, joined bool, err error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	if s, joined, err = r.start(p, cancel); err != nil || joined {
		cancel(errEnded)
		return s, joined, err
	}
	s.open(ctx, p.Request, p.Retry, p.QueueWait)
	return s, false, nil
}

// start is Start without the request.
func (r *Relay) start(p Params, cancel context.CancelCauseFunc) (s *Stream, joined bool, err error) {
	body := int64(len(p.Request.Body))
	if p.Owner == "" { // the next one with this key may be somebody else
		p.IdempotencyKey = ""
	}
	if p.Account == "" {
		p.Account = p.Owner
	}
	key := idempotencyKey{p.Owner, p.IdempotencyKey}
	var digest [32]byte
	if p.IdempotencyKey != "" {
		digest = digestOf(p)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.IdempotencyKey != "" {
		if s := r.keys[key]; s != nil {
			r.releaseLocked(body)
			if s.digest != digest {
				return nil, false, ErrKeyReused
			}
			s.mu.Lock()
			s.held++
			s.mu.Unlock()
			return s, true, nil
		}
	}
	if r.draining {
		r.releaseLocked(body)
		return nil, false, ErrDraining
	}
	if !r.fitLocked(streamOverhead) {
		r.releaseLocked(body)
		return nil, false, ErrMemory
	}
	grant, err := r.limits.Admit(p.Account, p.Plan, p.Ask)
	if err != nil {
		r.releaseLocked(body)
		return nil, false, err
	}
	plan, _ := r.limits.Plan(p.Plan)
	s = &Stream{ID: newID(), Owner: p.Owner, Account: p.Account, Plan: p.Plan, Route: p.Route, Callback: p.Callback, Created: time.Now(), relay: r, abandonIn: p.AbandonAfter,
		maxViewers: plan.ViewersPerStream, grant: grant, cancel: cancel, opened: make(chan struct{}), done: make(chan struct{}),
		status: InProgress, attempt: 1, held: 1, charged: streamOverhead + body}
	r.enterLocked(s)
	if p.IdempotencyKey != "" {
		s.key, s.digest = key, digest
		r.keys[key] = s
	}
	r.active++
	r.metrics.StreamStarted()
	return s, false, nil
}

// enterLocked puts a stream where it can be found.
func (r *Relay) enterLocked(s *Stream) {
	s.begun = s.Created
	r.takeLocked(streamOverhead)
	r.streams[s.ID] = s
	if s.Owner != "" {
		owned := r.owners[s.Owner]
		if owned == nil {
			owned = list.New()
			r.owners[s.Owner] = owned
		}
		s.element = owned.PushBack(s)
	}
	r.metrics.Logs(1)
}

func digestOf(p Params) [32]byte {
	h := sha256.New()
	h.Write([]byte(p.Route))
	h.Write([]byte{0})
	h.Write(p.Request.Body)
	return [32]byte(h.Sum(nil))
}

func newID() string {
	var b [16]byte
	rand.Read(b[:])
	return "strm_" + hex.EncodeToString(b[:])
}

// Get finds an owner's stream. Another owner's is not found, nor is nobody's.
func (r *Relay) Get(owner, id string) (*Stream, error) {
	s, err := r.Find(id)
	if err != nil || owner == "" || s.Owner != owner {
		return nil, ErrNotFound
	}
	return s, nil
}

// Find finds a stream, whoever owns it: for those whom a ticket lets in.
func (r *Relay) Find(id string) (*Stream, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.streams[id]; s != nil {
		return s, nil
	}
	return nil, ErrNotFound
}

// Evicted reports whether the stream with this id had to give way before its retention was over.
func (r *Relay) Evicted(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.evicted[id]
	return ok
}

// List returns up to limit of an owner's streams, newest first, older than the one named after, and whether there are
// more.
func (r *Relay) List(owner, after string, limit int) (streams []*Stream, more bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	owned := r.owners[owner]
	if owned == nil {
		owned = list.New()
	}
	e := owned.Back()
	if after != "" {
		s := r.streams[after]
		if s == nil || s.element == nil || s.Owner != owner {
			return nil, false, ErrNotFound
		}
		e = s.element.Prev()
	}
	for ; e != nil && len(streams) < limit; e = e.Prev() {
		streams = append(streams, e.Value.(*Stream))
	}
	return streams, e != nil, nil
}

// Delete cancels a stream and forgets it.
func (r *Relay) Delete(owner, id string) error {
	s, err := r.Get(owner, id)
	if err != nil {
		return err
	}
	s.Cancel()
	<-s.done
	r.forget(s)
	return nil
}

// viewerAttached counts a viewer that is about to attach. The relay's lock is never taken while a stream's is held.
func (r *Relay) viewerAttached() {
	r.mu.Lock()
	r.viewers++
	r.mu.Unlock()
}

func (r *Relay) viewerDetached(s *Stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.viewers--
	r.quietLocked()
	if s.forgotten && s.settled {
		r.dropLocked(s)
	}
}

// quietLocked tells who waits in Drain that nothing may be left.
func (r *Relay) quietLocked() {
	if r.draining && r.active == 0 && r.viewers == 0 {
		close(r.quiet)
		r.quiet = make(chan struct{})
	}
}

// Drain refuses new streams from now on, and waits until the last stream has ended and its viewers have seen the end, or
// the context is over. Who waits for a kept stream that has not begun is let go: it will not begin here. Requests whose
// answers are no streams may wait in the queue until then, also after it has returned.
func (r *Relay) Drain(ctx context.Context) {
	r.wait(ctx)
	if ctx.Err() != nil {
		r.stopNow() // before Stop ends streams, whose places nobody shall get
	}
	context.AfterFunc(ctx, r.stopNow)
}

// wait is what Drain does but for the queue.
func (r *Relay) wait(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.draining = true
	waiting := r.waitingLocked()
	r.mu.Unlock()
	for _, s := range waiting {
		s.part()
	}
	r.mu.Lock()
	for (r.active > 0 || r.viewers > 0) && ctx.Err() == nil {
		quiet := r.quiet
		r.mu.Unlock()
		select {
		case <-quiet:
		case <-ctx.Done():
		}
		r.mu.Lock()
	}
}

// Stop ends the streams that are left with an error event, refuses those that are in the queue, and waits until the
// viewers have seen it or the context is over. Kept streams don't end: they are let go, to be run again elsewhere. Drain
// must have been called.
func (r *Relay) Stop(ctx context.Context) {
	r.mu.Lock()
	var left []*Stream
	for _, s := range r.streams {
		left = append(left, s)
	}
	r.mu.Unlock()
	for _, s := range left {
		if s.keep != nil {
			s.part()
			continue
		}
		s.refuseIf(func() bool { return s.queued && !s.committed }, Failed, ErrDraining)
		s.end(Failed, errStopped)
	}
	r.wait(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.streams {
		if s.expiry != nil {
			s.expiry.Stop()
		}
	}
}
