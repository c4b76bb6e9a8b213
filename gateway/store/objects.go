package store

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Objects is a bucket of values of any size by name.
//
// An object is kept in chunks. The last one, its head, is written last and under a subject of its own, so that an object is there
// whole or not at all; one chunk is enough for most.
type Objects struct {
	store  *Store
	stream jetstream.Stream
	prefix string
}

// chunkSize is below the 1 MB that a server takes by default, and so large that 32 MB need few syncs.
const chunkSize = 512 << 10

// Header fields of a head.
const (
	headUpload = "Sluice-Upload" // names the chunks before it
	headSize   = "Sluice-Size"   // of the whole object, in bytes
)

// Objects opens a bucket; name is lower-case letters. An object is gone ttl after it was written; 0: they stay.
func (s *Store) Objects(ctx context.Context, name string, ttl time.Duration) (*Objects, error) {
	o := &Objects{store: s, prefix: "sluice.objects." + name + "."}
	var err error
	o.stream, err = s.stream(ctx, jetstream.StreamConfig{Name: "sluice_objects_" + name, Subjects: []string{o.prefix + ">"},
		MaxAge: ttl, Discard: jetstream.DiscardNew, AllowRollup: true})
	return o, err
}

// Put writes an object from r to its end. It replaces the one of that name; until it has returned, that one is there.
func (o *Objects) Put(ctx context.Context, name string, r io.Reader) error {
	at, err := subject(o.prefix, name)
	if err != nil {
		return err
	}
	upload := rand.Text()
	old, err := o.head(ctx, at)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	size, err := o.upload(ctx, at, upload, r)
	if err != nil {
		if size > 0 {
			_ = o.purge(context.WithoutCancel(ctx), at+"."+upload) // what stays goes with the ttl
		}
		return err
	}
	if old != nil {
		return o.purge(ctx, at+"."+old.Header.Get(headUpload))
	}
	return nil
}

func (o *Objects) upload(ctx context.Context, at, upload string, r io.Reader) (size int64, err error) {
	b, n := make([]byte, chunkSize+1), 0 // a byte more tells whether there is more
	for {
		read, err := io.ReadFull(r, b[n:])
		n += read
		switch err {
		case nil:
			err = o.publish(ctx, &nats.Msg{Subject: at + "." + upload, Data: b[:chunkSize]})
			if size += chunkSize; err != nil {
				return size, err
			}
			b[0], n = b[chunkSize], 1
		case io.EOF, io.ErrUnexpectedEOF:
			return size, o.publish(ctx, &nats.Msg{Subject: at + ".head", Data: b[:n], Header: nats.Header{headUpload: {upload},
				headSize: {strconv.FormatInt(size+int64(n), 10)}, jetstream.MsgRollup: {jetstream.MsgRollupSubject}}})
		default:
			return size, err
		}
	}
}

func (o *Objects) publish(ctx context.Context, m *nats.Msg) error {
	return o.store.write(ctx, func(ctx context.Context) error {
		_, err := o.store.js.PublishMsg(ctx, m)
		return err
	})
}

func (o *Objects) head(ctx context.Context, at string) (m *jetstream.RawStreamMsg, err error) {
	err = o.store.read(ctx, func(ctx context.Context) (err error) {
		m, err = o.stream.GetLastMsgForSubject(ctx, at+".head")
		return err
	})
	return m, err
}

func (o *Objects) purge(ctx context.Context, filter string) error {
	return o.store.write(ctx, func(ctx context.Context) error {
		return o.stream.Purge(ctx, jetstream.WithPurgeSubject(filter))
	})
}

// Object is a stored object, read as an io.Reader by one goroutine. It needs no closing. A read fails with ErrNotFound
// if the object is deleted meanwhile.
type Object struct {
	Size int64

	ctx    context.Context
	bucket *Objects
	chunks string // the subject of those before the head
	after  uint64 // the chunk that was read last
	left   int64  // bytes in the chunks before the head
	chunk  []byte // what is not yet handed out of the one at hand
	head   []byte
}

// Open finds an object, or fails with ErrNotFound. The context is for its reads, too.
func (o *Objects) Open(ctx context.Context, name string) (*Object, error) {
	at, err := subject(o.prefix, name)
	if err != nil {
		return nil, err
	}
	m, err := o.head(ctx, at)
	if err != nil {
		return nil, err
	}
	size, err := strconv.ParseInt(m.Header.Get(headSize), 10, 64)
	if err != nil || size < int64(len(m.Data)) {
		return nil, errors.Join(ErrUnavailable, errors.New("an object's head is not ours"))
	}
	return &Object{Size: size, ctx: ctx, bucket: o, chunks: at + "." + m.Header.Get(headUpload), left: size - int64(len(m.Data)), head: m.Data}, nil
}

func (r *Object) Read(p []byte) (int, error) {
	for len(r.chunk) == 0 {
		if r.left == 0 && r.head == nil {
			return 0, io.EOF
		}
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.chunk)
	r.chunk = r.chunk[n:]
	return n, nil
}

// next takes the chunk that follows.
func (r *Object) next() error {
	if r.left == 0 {
		r.chunk, r.head = r.head, nil
		return nil
	}
	var m *jetstream.RawStreamMsg
	err := r.bucket.store.read(r.ctx, func(ctx context.Context) (err error) {
		m, err = r.bucket.stream.GetMsg(ctx, r.after+1, jetstream.WithGetMsgSubject(r.chunks))
		return err
	})
	if err != nil {
		return err
	}
	r.chunk, r.after, r.left = m.Data, m.Sequence, r.left-int64(len(m.Data))
	return nil
}

// Delete removes an object, if it is there.
func (o *Objects) Delete(ctx context.Context, name string) error {
	at, err := subject(o.prefix, name)
	if err != nil {
		return err
	}
	return o.purge(ctx, at+".>")
}
