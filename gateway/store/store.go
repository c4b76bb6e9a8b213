// Package store keeps what must survive a crash: records, queues of work, and large objects. It is the only room that
// knows the engine underneath, NATS JetStream: embedded in this process and keeping its files in a directory, or a NATS
// server or cluster elsewhere. After Open both are the same.
//
// What a write has returned without an error is on disk: the embedded engine syncs each write, so neither a crash of the
// process nor a power cut takes it. What a power cut may take is the knowledge that an item of a queue is done, which is
// not synced: then the item comes again. (Of a server elsewhere its own configuration decides, sync_interval.)
//
// The relay's way from the upstream to the viewers never comes here: a write waits for the disk.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	neturl "net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Config says where things are kept.
type Config struct {
	Dir string // the embedded engine's directory, made where it is absent; no other process may use it meanwhile
	URL string // of a NATS server or cluster with JetStream instead (several, separated by commas); empty: embedded

	unsynced bool // for the benchmark that says what syncing costs
}

// What the operations fail with, as errors.Is sees it, beside the context's errors.
var (
	ErrNotFound    = errors.New("the store has no such thing")
	ErrExists      = errors.New("it is in the store already")
	ErrConflict    = errors.New("it was changed meanwhile")
	ErrTooLarge    = errors.New("it is too large for the store")
	ErrFull        = errors.New("the store's disk is full")
	ErrUnavailable = errors.New("the store can't be used")
)

// Store is an open store. All its methods, and those of what it gives, may be called at once from any goroutine.
type Store struct {
	log    *slog.Logger
	engine *engine // nil: elsewhere
	gate   *gate
	conn   *nats.Conn
	js     jetstream.JetStream
}

// patience bounds one operation whose context has no earlier deadline. A sync takes milliseconds; a disk that needs
// longer than this is not one to wait for, with a caller on the other side.
const patience = 10 * time.Second

// Open opens the store. Its errors say what is wrong with the directory or the address.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Store, error) {
	s := &Store{log: log, gate: newGate()}
	options := []nats.Option{
		nats.Name("sluice"), nats.MaxReconnects(-1), nats.ReconnectWait(reconnectWait), nats.ReconnectJitter(reconnectWait, reconnectWait),
		nats.ReconnectBufSize(-1), // what can't be sent now is an error now
	}
	if cfg.URL != "" {
		options = append(options, nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil { // not our own Close
				log.Error("the store's server is gone", "error", err)
				s.gate.drop(fmt.Errorf("%w: its server is gone", ErrUnavailable))
			}
		}), nats.ReconnectHandler(func(*nats.Conn) {
			log.Info("the store's server is back")
			s.gate.lift(nil)
		}))
	} else {
		var err error
		if s.engine, err = openEngine(cfg, s.gate, log); err != nil {
			return nil, err
		}
		options = append(options, nats.InProcessServer(s.engine))
	}
	err := s.connect(ctx, cfg.URL, options)
	if err != nil {
		s.Close()
		return nil, err
	}
	if s.engine != nil {
		s.engine.keep(s.conn.IsConnected)
	}
	return s, nil
}

// reconnectWait is short: the embedded engine is back in milliseconds, and one elsewhere is asked by few clients.
const reconnectWait = 50 * time.Millisecond

func (s *Store) connect(ctx context.Context, url string, options []nats.Option) (err error) {
	if s.conn, err = nats.Connect(url, options...); err != nil {
		var parse *neturl.Error
		if errors.As(err, &parse) {
			err = parse.Err // without the address, which may hold a password
		}
		return fmt.Errorf("%w: store.nats_url: no server can be reached there: %w", ErrUnavailable, err)
	}
	if s.js, err = jetstream.New(s.conn); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err = s.js.AccountInfo(ctx); err != nil && s.engine == nil {
		err = fmt.Errorf("%w: store.nats_url: that server has no JetStream for this user: %w", ErrUnavailable, err)
	}
	return err
}

// Close ends the store. Operations that are under way, and later ones, fail with ErrUnavailable.
func (s *Store) Close() {
	if s.engine != nil {
		s.engine.stopKeeping()
	}
	s.gate.drop(fmt.Errorf("%w: it is closed", ErrUnavailable))
	if s.conn != nil {
		s.conn.Close()
	}
	if s.engine != nil {
		s.engine.close()
	}
}

// Shared reports whether other processes may use the same store.
func (s *Store) Shared() bool { return s.engine == nil }

// Room reports whether the store may take on n bytes of new work: nil, or ErrFull while less than the headroom would be
// left on the embedded engine's disk. What was taken on before can then still be finished. Of a server elsewhere nothing
// is known, and the answer is nil.
func (s *Store) Room(n int64) error {
	if s.engine == nil {
		return nil
	}
	if _, err := s.gate.pass(true); err != nil {
		return err
	}
	return s.engine.room(n)
}

// read makes a call of the engine that writes nothing, and write one that does. While the disk is full, the one works and
// the other fails at once.
func (s *Store) read(ctx context.Context, call func(context.Context) error) error {
	return s.do(ctx, false, call)
}

func (s *Store) write(ctx context.Context, call func(context.Context) error) error {
	return s.do(ctx, true, call)
}

// do makes one call. It is bounded in time, and given up at once when the engine fails.
func (s *Store) do(ctx context.Context, write bool, call func(context.Context) error) error {
	up, err := s.gate.pass(write)
	if err != nil {
		return err
	}
	inner, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	defer context.AfterFunc(up, cancel)()
	err = call(inner)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case up.Err() != nil:
		return context.Cause(up)
	}
	return explain(err)
}

// What the server's errors mean; the codes are part of its protocol.
const (
	codeMaxPerSubject      = 10077 // also for other limits, which no stream of ours has
	codeInsufficientStore  = 10047
	codeInsufficientMemory = 10028
)

func explain(err error) error {
	var api *jetstream.APIError
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return ErrNotFound
	case errors.Is(err, nats.ErrMaxPayload), errors.Is(err, jetstream.ErrStreamMessageExceedsMaximum):
		return ErrTooLarge
	case errors.As(err, &api):
		switch api.ErrorCode {
		case jetstream.JSErrCodeStreamWrongLastSequence, jetstream.JSErrCodeStreamWrongLastSequenceConstant:
			return ErrConflict
		case codeMaxPerSubject:
			return ErrExists
		case codeInsufficientStore, codeInsufficientMemory:
			return fmt.Errorf("%w: %w", ErrFull, err)
		}
		if spaceless(api.Description) {
			return fmt.Errorf("%w: %w", ErrFull, err)
		}
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// spaceless reports whether the text of an error says that there is no room: ENOSPC or EDQUOT. The engine hands its
// files' errors on as text only.
func spaceless(text string) bool {
	return strings.Contains(text, "no space left") || strings.Contains(text, "quota exceeded")
}

// stream finds or makes the stream behind a bucket or a queue. Where the server is one of a cluster, it is kept on three
// of them.
func (s *Store) stream(ctx context.Context, want jetstream.StreamConfig) (stream jetstream.Stream, err error) {
	want.AllowDirect = true
	want.Replicas = 1
	if s.conn.ConnectedClusterName() != "" {
		want.Replicas = 3
		want.AllowDirect = false // a direct read may be answered by a replica that is behind
	}
	err = s.write(ctx, func(ctx context.Context) error {
		// Changing nothing would still cost a sync.
		if stream, err = s.js.Stream(ctx, want.Name); err == nil {
			have := stream.CachedInfo().Config
			if have.MaxAge == want.MaxAge && have.Replicas == want.Replicas && have.AllowDirect == want.AllowDirect {
				return nil
			}
		}
		stream, err = s.js.CreateOrUpdateStream(ctx, want)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", want.Name, err)
	}
	return stream, nil
}
