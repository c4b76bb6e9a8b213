package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Queue is durable work: an item is handed out until somebody says that it is done, in no strict order, about the oldest
// first.
//
// It may be handed out twice, and also while it is still being worked on (after a failure of the engine); whoever works
// on it must be able to tell. How often that has happened is not counted here: a restart forgets it.
type Queue struct {
	store    *Store
	stream   jetstream.Stream
	consumer jetstream.Consumer
	prefix   string
}

// Item is one piece of work, in the hands of one worker.
type Item struct {
	ID     string
	Data   []byte
	Pushed time.Time

	queue *Queue
	msg   jetstream.Msg
}

// Hold is how long an item stays with its worker without a Working. After that, or at once after a restart of the
// embedded engine, it is handed out again.
const Hold = 30 * time.Second

// maxHeld bounds the items that are being worked on or wait for their time, in all processes: not at all. With a bound, as
// many items that wait would stop all others; and workers take no more than they can work on. A waiting item takes the
// engine about 330 bytes of memory, and 1.2 kB for some seconds after it was touched: 100,000 of them 33 MB (measured).
const maxHeld = -1

// Queue opens a queue; name is lower-case letters.
func (s *Store) Queue(ctx context.Context, name string) (*Queue, error) {
	q := &Queue{store: s, prefix: "sluice.queue." + name + "."}
	var err error
	q.stream, err = s.stream(ctx, jetstream.StreamConfig{Name: "sluice_queue_" + name, Subjects: []string{q.prefix + ">"},
		Retention: jetstream.WorkQueuePolicy, MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true})
	if err != nil {
		return nil, err
	}
	err = s.write(ctx, func(ctx context.Context) error {
		name := "workers"
		if s.engine != nil { // nobody else can hold an item: what was handed out before the restart is free
			names := q.stream.ConsumerNames(ctx)
			for old := range names.Name() {
				if err := q.stream.DeleteConsumer(ctx, old); err != nil {
					return err
				}
			}
			if err := names.Err(); err != nil {
				return err
			}
			name = rand.Text() // another name: the server removes the old one's files in its own time
		}
		q.consumer, err = q.stream.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{Durable: name, AckPolicy: jetstream.AckExplicitPolicy,
			AckWait: Hold, MaxDeliver: -1, MaxAckPending: maxHeld})
		return err
	})
	return q, err
}

// Push adds an item. It fails with ErrExists while an item of that id is in the queue: pushing again after an error that
// leaves it open whether it was taken is safe. data is up to MaxRecord.
func (q *Queue) Push(ctx context.Context, id string, data []byte) error {
	if len(data) > MaxRecord {
		return ErrTooLarge
	}
	at, err := subject(q.prefix, id)
	if err != nil {
		return err
	}
	return q.store.write(ctx, func(ctx context.Context) error {
		_, err := q.store.js.PublishMsg(ctx, &nats.Msg{Subject: at, Data: data})
		return err
	})
}

// Remove takes an item out, if it is there. Whoever holds it is not told.
func (q *Queue) Remove(ctx context.Context, id string) error {
	at, err := subject(q.prefix, id)
	if err != nil {
		return err
	}
	return q.store.write(ctx, func(ctx context.Context) error {
		return q.stream.Purge(ctx, jetstream.WithPurgeSubject(at))
	})
}

// Depth is how many items are in the queue, those in somebody's hands included.
func (q *Queue) Depth(ctx context.Context) (n int, err error) {
	err = q.store.read(ctx, func(ctx context.Context) error {
		info, err := q.stream.Info(ctx)
		if err == nil {
			n = int(info.State.Msgs)
		}
		return err
	})
	return n, err
}

// nextWait is how long one request for an item waits at the server. While the engine is down, failedWait is between two.
const (
	nextWait   = 30 * time.Second
	failedWait = time.Second
)

// Next waits for an item. It outlasts failures of the engine; its only errors are the context's, and ErrUnavailable when
// the store is closed.
func (q *Queue) Next(ctx context.Context) (*Item, error) {
	for {
		item, err := q.next(ctx)
		switch {
		case item != nil:
			return item, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case q.store.conn.IsClosed():
			return nil, fmt.Errorf("%w: it is closed", ErrUnavailable)
		case err == nil:
			continue
		}
		t := time.NewTimer(failedWait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

// next asks once; there may be neither an item nor an error.
func (q *Queue) next(ctx context.Context) (*Item, error) {
	up, err := q.store.gate.pass(true)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, nextWait)
	defer cancel()
	defer context.AfterFunc(up, cancel)()
	m, err := q.consumer.Next(jetstream.FetchContext(ctx))
	if err != nil {
		if errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) {
			err = nil
		}
		return nil, err
	}
	meta, err := m.Metadata()
	if err != nil {
		return nil, err
	}
	return &Item{ID: parts(q.prefix, m.Subject())[0], Data: m.Data(), Pushed: meta.Timestamp, queue: q, msg: m}, nil
}

// Done takes the item out of the queue. Once it has returned without an error the item does not come again. After a
// failure of the engine it may have to: then Done fails, and whoever gets the item next can finish it.
func (i *Item) Done(ctx context.Context) error {
	return i.queue.store.write(ctx, i.msg.DoubleAck)
}

// Working keeps the item for another Hold.
func (i *Item) Working() error {
	return i.queue.store.write(context.Background(), func(context.Context) error { return i.msg.InProgress() })
}

// Later gives the item back, to be handed out again after the wait. A restart of the embedded engine forgets the wait.
func (i *Item) Later(wait time.Duration) error {
	return i.queue.store.write(context.Background(), func(context.Context) error { return i.msg.NakWithDelay(wait) })
}
