package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// engine is the embedded NATS server. It listens on no port; InProcessConn is the only way in. A write that has failed,
// say on a full disk, leaves a stream of it unable to write until it is started again; that is done as soon as the disk
// takes bytes again.
type engine struct {
	dir  *directory
	sync bool
	gate *gate
	log  *slog.Logger

	mu     sync.Mutex
	server *server.Server // nil: down

	suspected chan struct{} // the server has logged an error
	stop      chan struct{}
	kept      sync.WaitGroup
	stopped   sync.Once
}

// startPatience is how long the server may take to read what it has. A million messages take some seconds.
const startPatience = time.Minute

// maxMemory bounds what the server would keep in memory instead of files: nothing of ours.
const maxMemory = 16 << 20

// maxStore is no limit: the disk is the limit, and Room looks at it. The server's own default would be a part of what
// was free when it started.
const maxStore = 1 << 60

func openEngine(cfg Config, g *gate, log *slog.Logger) (*engine, error) {
	d, err := openDirectory(cfg.Dir)
	if err != nil {
		return nil, err
	}
	e := &engine{dir: d, sync: !cfg.unsynced, gate: g, log: log, suspected: make(chan struct{}, 1), stop: make(chan struct{})}
	if err := e.start(); err != nil {
		d.close()
		return nil, err
	}
	return e, nil
}

// start starts a server on the directory.
func (e *engine) start() error {
	s, err := server.NewServer(&server.Options{
		ServerName: "sluice", DontListen: true, NoSigs: true,
		JetStream: true, StoreDir: e.dir.path, DisableJetStreamBanner: true,
		JetStreamMaxMemory: maxMemory, JetStreamMaxStore: maxStore,
		SyncAlways: e.sync, // what is accepted is on disk; BenchmarkWrite says what it costs
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	said := &serverLog{log: e.log, suspected: e.suspected}
	s.SetLoggerV2(said, false, false, false)
	s.Start()
	ready := s.ReadyForConnections(startPatience)
	if err := examine(s); err != nil || !ready {
		s.Shutdown()
		s.WaitForShutdown()
		if fatal := said.fatal(); fatal != "" {
			err = errors.New(fatal)
		}
		return fmt.Errorf("%w: store.dir: %s: %w", class(err), e.dir.path, err)
	}
	e.mu.Lock()
	e.server = s
	e.mu.Unlock()
	return nil
}

// InProcessConn is for the NATS client, which also comes here to connect again.
func (e *engine) InProcessConn() (net.Conn, error) {
	e.mu.Lock()
	s := e.server
	e.mu.Unlock()
	if s == nil {
		return nil, ErrUnavailable
	}
	return s.InProcessConn()
}

// asks is how often the server is asked how it is before its answer is believed: on a busy machine it may say of itself
// that it is not ready, since it gives its own answer a millisecond.
const asks = 10

// examine asks the server whether it can write.
func examine(s *server.Server) (err error) {
	for range asks {
		if !s.JetStreamEnabled() {
			return errors.New("the engine has stopped")
		}
		h := s.Healthz(nil)
		if h.Status == "ok" {
			return nil
		}
		err = errors.New(h.Error)
	}
	return err
}

// class is what an engine's error is to callers.
func class(err error) error {
	if err != nil && spaceless(err.Error()) {
		return ErrFull
	}
	return ErrUnavailable
}

// restartWait is between attempts to start a failed engine again, or to write: short for somebody who has just made room.
const restartWait = time.Second

// keep watches the engine from now on, and starts it again when it has failed. connected is the client's word.
func (e *engine) keep(connected func() bool) {
	e.kept.Go(func() {
		for {
			select {
			case <-e.suspected:
			case <-e.stop:
				return
			}
			if err := examine(e.server); err != nil && !e.recover(err, connected) {
				return
			}
		}
	})
}

// recover starts the server again after a failure, for reads at once, and for writes as soon as the disk takes bytes
// again. It is false if the store is closed meanwhile.
func (e *engine) recover(failure error, connected func() bool) bool {
	e.log.Error("the store can't write, and takes nothing on until it can", "error", failure)
	begun := time.Now()
	against := fmt.Errorf("%w: %w", class(failure), failure)
	for {
		e.gate.drop(against)
		e.shutdown()
		for {
			err := e.start()
			if err == nil {
				break
			}
			e.log.Debug("the store can't be opened again", "error", err)
			if !e.wait(restartWait) {
				return false
			}
		}
		for !connected() {
			if !e.wait(reconnectWait) {
				return false
			}
		}
		e.gate.lift(against)
		for {
			if !e.wait(restartWait) {
				return false
			}
			if examine(e.server) != nil { // something of its own needed the disk
				break
			}
			if err := e.dir.probe(); err != nil {
				e.log.Debug("the store still can't write", "error", err)
				continue
			}
			e.gate.lift(nil)
			e.log.Info("the store can write again", "after", time.Since(begun).Round(time.Millisecond))
			return true
		}
	}
}

func (e *engine) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-e.stop:
		return false
	}
}

func (e *engine) shutdown() {
	e.mu.Lock()
	s := e.server
	e.server = nil
	e.mu.Unlock()
	if s != nil {
		s.Shutdown()
		s.WaitForShutdown()
	}
}

// stopKeeping ends keep.
func (e *engine) stopKeeping() {
	e.stopped.Do(func() { close(e.stop) })
	e.kept.Wait()
}

func (e *engine) close() {
	e.shutdown()
	e.dir.close()
}

// room is Store.Room.
func (e *engine) room(n int64) error {
	free, size, ok := e.dir.space()
	if headroom := min(maxHeadroom, size/20); ok && free < n+headroom {
		return fmt.Errorf("%w: %d MB are free at %s", ErrFull, free>>20, e.dir.path)
	}
	return nil
}

// maxHeadroom is what stays free for finishing what was taken on: results of some thousand usual answers of 20 kB, or of
// the two largest. On a small disk it is a twentieth of that.
const maxHeadroom = 64 << 20

// serverLog writes what the server says to our log, and notices that it has trouble. It may be called while the server
// holds its locks, and so must not ask it anything.
type serverLog struct {
	log       *slog.Logger
	suspected chan<- struct{}

	mu   sync.Mutex
	last string // fatal words
}

func (l *serverLog) say(level slog.Level, format string, v []any) {
	l.log.Log(context.Background(), level, "store engine: "+fmt.Sprintf(format, v...))
}

// Noticef is of no interest to operators: each start says a dozen lines.
func (l *serverLog) Noticef(format string, v ...any) { l.say(slog.LevelDebug, format, v) }
func (l *serverLog) Debugf(format string, v ...any)  {}
func (l *serverLog) Tracef(format string, v ...any)  {}
func (l *serverLog) Warnf(format string, v ...any)   { l.say(slog.LevelWarn, format, v); l.suspect() }
func (l *serverLog) Errorf(format string, v ...any)  { l.say(slog.LevelError, format, v); l.suspect() }

// Fatalf must not end the process, as the server's own logger would.
func (l *serverLog) Fatalf(format string, v ...any) {
	l.mu.Lock()
	l.last = fmt.Sprintf(format, v...)
	l.mu.Unlock()
	l.suspect()
}

func (l *serverLog) fatal() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

func (l *serverLog) suspect() {
	select {
	case l.suspected <- struct{}{}:
	default: // it will be looked at anyway
	}
}
