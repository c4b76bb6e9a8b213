package store

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Records is a bucket of small values by key.
type Records struct {
	store  *Store
	stream jetstream.Stream
	prefix string
}

// Record is one value. Revision grows with each write of the bucket, so that who has read a value can replace just that.
type Record struct {
	Key      Key
	Value    []byte
	Revision uint64
	Written  time.Time
}

// MaxRecord bounds a value. Whatever may be larger is an object.
const MaxRecord = 512 << 10

// Records opens a bucket; name is lower-case letters. A record that was not written for ttl is gone; 0: they stay.
func (s *Store) Records(ctx context.Context, name string, ttl time.Duration) (*Records, error) {
	r := &Records{store: s, prefix: "sluice.records." + name + "."}
	var err error
	r.stream, err = s.stream(ctx, jetstream.StreamConfig{Name: "sluice_records_" + name, Subjects: []string{r.prefix + ">"},
		MaxMsgsPerSubject: 1, MaxAge: ttl, Discard: jetstream.DiscardNew})
	return r, err
}

// Get reads a record, or fails with ErrNotFound.
func (r *Records) Get(ctx context.Context, key Key) (Record, error) {
	at, err := subject(r.prefix, key...)
	if err != nil {
		return Record{}, err
	}
	var m *jetstream.RawStreamMsg
	if err := r.store.read(ctx, func(ctx context.Context) (err error) {
		m, err = r.stream.GetLastMsgForSubject(ctx, at)
		return err
	}); err != nil {
		return Record{}, err
	}
	return Record{Key: key, Value: m.Data, Revision: m.Sequence, Written: m.Time}, nil
}

// Create writes a record that is not there yet, or fails with ErrExists. It returns the record's revision.
func (r *Records) Create(ctx context.Context, key Key, value []byte) (revision uint64, err error) {
	revision, err = r.write(ctx, key, value, jetstream.WithExpectLastSequencePerSubject(0))
	if errors.Is(err, ErrConflict) {
		err = ErrExists
	}
	return revision, err
}

// Update replaces the record of that revision. It fails with ErrConflict if that is not the record's revision any more.
func (r *Records) Update(ctx context.Context, key Key, value []byte, revision uint64) (uint64, error) {
	return r.write(ctx, key, value, jetstream.WithExpectLastSequencePerSubject(revision))
}

// Put writes a record, whether it is there or not.
func (r *Records) Put(ctx context.Context, key Key, value []byte) (revision uint64, err error) {
	return r.write(ctx, key, value)
}

// write may fail with ErrUnavailable and yet have written, if the answer was lost.
func (r *Records) write(ctx context.Context, key Key, value []byte, o ...jetstream.PublishOpt) (revision uint64, err error) {
	if len(value) > MaxRecord {
		return 0, ErrTooLarge
	}
	at, err := subject(r.prefix, key...)
	if err != nil {
		return 0, err
	}
	err = r.store.write(ctx, func(ctx context.Context) error {
		ack, err := r.store.js.PublishMsg(ctx, &nats.Msg{Subject: at, Data: value}, o...)
		if err == nil {
			revision = ack.Sequence
		}
		return err
	})
	return revision, err
}

// Delete removes a record, if it is there.
func (r *Records) Delete(ctx context.Context, key Key) error {
	at, err := subject(r.prefix, key...)
	if err != nil {
		return err
	}
	return r.store.write(ctx, func(ctx context.Context) error {
		return r.stream.Purge(ctx, jetstream.WithPurgeSubject(at))
	})
}

const (
	// listIdle is how long what the server keeps for a list stays when it is not heard of again.
	listIdle = time.Minute
	// listQuiet is for how long a list waits for what the server says is to come, before it looks for it.
	listQuiet = time.Second
)

// List yields the records whose keys begin with prefix and are longer, each once, as it was at some moment after the
// call, in the order in which they were written, the oldest first. An error is the last thing that it yields.
func (r *Records) List(ctx context.Context, prefix Key) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		at, err := subject(r.prefix, prefix...)
		if err == nil {
			if len(prefix) > 0 {
				at += "."
			}
			err = r.each(ctx, at+">", func(rec Record) bool { return yield(rec, nil) })
		}
		if err != nil {
			yield(Record{}, err)
		}
	}
}

// each calls f for the last record of each subject that the filter matches, until f is false.
func (r *Records) each(ctx context.Context, filter string, f func(Record) bool) error {
	seen := make(map[string]bool)
	last, more, err := r.eachPending(ctx, filter, func(m jetstream.Msg, rec Record) bool {
		again := seen[m.Subject()] // it was written meanwhile
		seen[m.Subject()] = true
		return again || f(rec)
	})
	if err != nil || !more {
		return err
	}
	// What is written while the list is made moves to the end, behind what was to come; and the server, which drops the
	// old value from its count before it counts the new one, may have said that there was nothing more.
	err = r.store.read(ctx, func(ctx context.Context) error {
		_, err := r.stream.GetMsg(ctx, last+1, jetstream.WithGetMsgSubject(filter))
		return err
	})
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	return r.eachUnseen(ctx, filter, seen, f)
}

// eachPending calls f for as many records as the server counts for a new reader. It returns where it has come to, and
// whether there may be more and f wants it.
func (r *Records) eachPending(ctx context.Context, filter string, f func(jetstream.Msg, Record) bool) (last uint64, more bool, err error) {
	var consumer jetstream.Consumer
	var messages jetstream.MessagesContext
	var left uint64
	err = r.store.read(ctx, func(ctx context.Context) error {
		// Not the ordered consumer of the client, which would go on for ever: a list has an end.
		var err error
		consumer, err = r.stream.CreateConsumer(ctx, jetstream.ConsumerConfig{FilterSubject: filter, DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy,
			AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, InactiveThreshold: listIdle})
		if err != nil {
			return err
		}
		if left = consumer.CachedInfo().NumPending; left > 0 {
			messages, err = consumer.Messages()
		}
		return err
	})
	if consumer != nil {
		defer r.store.read(context.WithoutCancel(ctx), func(ctx context.Context) error { // else it goes after listIdle
			return r.stream.DeleteConsumer(ctx, consumer.CachedInfo().Name)
		})
	}
	if err != nil || left == 0 {
		return 0, false, err
	}
	defer messages.Stop()
	for counted := left; counted > 0 && left > 0; counted-- {
		var m jetstream.Msg
		err := r.store.read(ctx, func(ctx context.Context) (err error) {
			ctx, cancel := context.WithTimeout(ctx, listQuiet)
			defer cancel()
			m, err = messages.Next(jetstream.NextContext(ctx))
			return err
		})
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			break // it was dropped after it was counted
		}
		if err != nil {
			return last, false, err
		}
		meta, err := m.Metadata()
		if err != nil {
			return last, false, err
		}
		left, last = meta.NumPending, meta.Sequence.Stream
		if !f(m, Record{Key: parts(r.prefix, m.Subject()), Value: m.Data(), Revision: last, Written: meta.Timestamp}) {
			return last, false, nil
		}
	}
	return last, true, nil
}

// eachUnseen calls f for the records of all other subjects that the filter matches now.
func (r *Records) eachUnseen(ctx context.Context, filter string, seen map[string]bool, f func(Record) bool) error {
	var info *jetstream.StreamInfo
	if err := r.store.read(ctx, func(ctx context.Context) (err error) {
		info, err = r.stream.Info(ctx, jetstream.WithSubjectFilter(filter))
		return err
	}); err != nil {
		return err
	}
	var rest []Record
	for subject := range info.State.Subjects {
		if seen[subject] {
			continue
		}
		rec, err := r.Get(ctx, parts(r.prefix, subject))
		switch {
		case err == nil:
			rest = append(rest, rec)
		case !errors.Is(err, ErrNotFound): // deleted just now
			return err
		}
	}
	slices.SortFunc(rest, func(a, b Record) int { return cmp.Compare(a.Revision, b.Revision) })
	for _, rec := range rest {
		if !f(rec) {
			return nil
		}
	}
	return nil
}

// Secret returns the random secret of that name, 64 hex digits. It is made when it is first asked for and stays the same
// ever after, in all processes that share the store.
func (s *Store) Secret(ctx context.Context, name string) (string, error) {
	secrets, err := s.Records(ctx, "secrets", 0)
	if err != nil {
		return "", err
	}
	var random [32]byte
	rand.Read(random[:])
	_, err = secrets.Create(ctx, Key{name}, hex.AppendEncode(nil, random[:]))
	if err != nil && !errors.Is(err, ErrExists) {
		return "", err
	}
	r, err := secrets.Get(ctx, Key{name})
	return string(r.Value), err
}
