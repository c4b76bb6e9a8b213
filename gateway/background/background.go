// Package background runs streams without a browser: it queues them durably, lets them begin when there is room, keeps
// their ends, and knows them after a restart.
//
//	            Accept
//	              │
//	              ▼      refused for now, or the process stops: back, later again
//	┌────────▶ queued ──────────────┐
//	│             │ begins           │ Cancel, or it can't be run
//	│             ▼                  ▼
//	└──────── in_progress ─────▶ completed, failed, canceled ──▶ forgotten, after the retention or Delete
//
// A stream is accepted once its item is in the queue. What is known of it is its record; its request and its log are
// objects. An end is kept before any viewer sees it, and the item leaves the queue after that, so that each accepted
// stream ends exactly once: what a crash interrupts is run again, as another attempt, whose events have other ids.
//
// How often that may go on: an upstream that refuses for now is asked maxRefused times; a stream during which the
// process died maxLost times is not tried again; none waits for longer than the retention. Then it fails, and says why.
package background

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"sluice/gateway/callbacks"
	"sluice/gateway/limits"
	"sluice/gateway/metrics"
	"sluice/gateway/relay"
	"sluice/gateway/store"
)

// Config bounds the work.
type Config struct {
	Concurrency int           // streams that run at once
	Retention   time.Duration // how long an ended stream can be read, and one may wait before it begins
}

// Background is all background streams. What finds, lists, cancels and deletes an owner's streams also does so with
// those that only the relay has. Its methods may be called at once from any goroutine.
type Background struct {
	cfg     Config
	relay   *relay.Relay
	limits  *limits.Limits
	calls   *callbacks.Callbacks
	metrics *metrics.Metrics
	log     *slog.Logger

	store    *store.Store
	records  *store.Records // of streams, by owner and id
	owners   *store.Records // by id, for readers who have a ticket only
	keys     *store.Records // idempotency keys, by owner and hash
	queue    *store.Queue   // of streams that have not ended
	requests *store.Objects // bodies, by id
	results  *store.Objects // logs of ended streams, by id

	take    context.Context // ends when nothing more is begun
	drain   context.CancelFunc
	keeping context.Context // ends when no more ends are kept
	stop    context.CancelFunc
	workers sync.WaitGroup

	mu      sync.Mutex
	held    map[string]bool            // streams in the hands of a worker of this process
	waiting map[string]map[string]bool // by owner, those that wait for one of its concurrent streams to end
}

// slack is how much longer than they are needed things stay in the store: clocks differ, and nothing is looked at to the
// second.
const slack = time.Hour

// New opens what the room has in the store. It starts nothing.
func New(ctx context.Context, cfg Config, s *store.Store, r *relay.Relay, l *limits.Limits, calls *callbacks.Callbacks, m *metrics.Metrics, log *slog.Logger) (b *Background, err error) {
	b = &Background{cfg: cfg, relay: r, limits: l, calls: calls, metrics: m, log: log, store: s,
		held: make(map[string]bool), waiting: make(map[string]map[string]bool)}
	b.take, b.drain = context.WithCancel(context.Background())
	b.keeping, b.stop = context.WithCancel(context.Background())
	// A stream may wait for one retention, and is kept for another.
	if b.records, err = s.Records(ctx, "streams", 2*cfg.Retention+slack); err != nil {
		return nil, err
	}
	if b.owners, err = s.Records(ctx, "owners", 2*cfg.Retention+slack); err != nil {
		return nil, err
	}
	if b.keys, err = s.Records(ctx, "keys", 2*cfg.Retention+slack); err != nil {
		return nil, err
	}
	if b.queue, err = s.Queue(ctx, "streams"); err != nil {
		return nil, err
	}
	if b.requests, err = s.Objects(ctx, "requests", cfg.Retention+slack); err != nil {
		return nil, err
	}
	if b.results, err = s.Objects(ctx, "results", cfg.Retention+slack); err != nil {
		return nil, err
	}
	return b, nil
}

// lookInterval is how often the depth of the queue is looked at, and what other processes have done.
const lookInterval = 5 * time.Second

// Start starts the workers.
func (b *Background) Start() {
	for range b.cfg.Concurrency {
		b.workers.Go(func() {
			for {
				item, err := b.queue.Next(b.take)
				if err != nil {
					return
				}
				b.work(item)
			}
		})
	}
	b.workers.Go(func() {
		tick := time.NewTicker(lookInterval)
		defer tick.Stop()
		for {
			if n, err := b.queue.Depth(b.take); err == nil {
				b.metrics.BackgroundDepth(n)
			}
			if b.store.Shared() {
				b.lookElsewhere(b.take)
			}
			select {
			case <-tick.C:
			case <-b.take.Done():
				return
			}
		}
	})
}

// Drain lets nothing more begin. What runs goes on; what waits stays in the queue.
func (b *Background) Drain() { b.drain() }

// Stop gives up keeping ends that can't be kept. What ends later is run again after the restart. Drain must have been
// called.
func (b *Background) Stop() { b.stop() }

// Wait returns when all streams are out of the workers' hands, or the context is over. The relay must have stopped.
func (b *Background) Wait(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		b.workers.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// hold takes a stream into a worker's hands. It is false where it is in another's: an item may come twice.
func (b *Background) hold(id string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held[id] {
		return false
	}
	b.held[id] = true
	return true
}

func (b *Background) letGo(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.held, id)
}

// waits notes that a stream waits for one of its owner's to end, and returns how many do.
func (b *Background) waits(owner, id string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting[owner] == nil {
		b.waiting[owner] = make(map[string]bool)
	}
	b.waiting[owner][id] = true
	return len(b.waiting[owner])
}

func (b *Background) waitsNoMore(owner, id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.waiting[owner], id)
	if len(b.waiting[owner]) == 0 {
		delete(b.waiting, owner)
	}
}
