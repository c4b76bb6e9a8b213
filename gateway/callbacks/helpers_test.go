package callbacks

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server/ats"
	"go.uber.org/goleak"

	"sluice/gateway/store"
)

// TestMain starts the goroutine that all embedded engines of a process share, so that no bubble of fake time owns it.
func TestMain(m *testing.M) {
	ats.Register()
	code := m.Run()
	ats.Unregister()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// receiver is whoever asked for callbacks, at http://receiver.example/, without a network.
type receiver struct {
	conns  chan net.Conn
	got    chan delivery // each request, while it waits for its answer
	closed chan struct{}
}

type delivery struct {
	at     time.Time
	path   string
	header http.Header
	body   []byte
	answer func(status int, header ...string)
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{conns: make(chan net.Conn), got: make(chan delivery), closed: make(chan struct{})}
	server := &http.Server{Handler: r}
	var served sync.WaitGroup
	served.Go(func() { server.Serve(r) })
	t.Cleanup(func() { server.Close(); served.Wait() })
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return
	}
	answered := make(chan struct{})
	d := delivery{time.Now(), q.URL.Path, q.Header.Clone(), body, func(status int, header ...string) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		close(answered)
	}}
	select {
	case r.got <- d:
	case <-q.Context().Done():
		return
	}
	select {
	case <-answered:
	case <-q.Context().Done():
	}
}

func (r *receiver) Accept() (net.Conn, error) {
	select {
	case c := <-r.conns:
		return c, nil
	case <-r.closed:
		return nil, net.ErrClosed
	}
}

func (r *receiver) Close() error   { close(r.closed); return nil }
func (r *receiver) Addr() net.Addr { return &net.UnixAddr{} }

func (r *receiver) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case r.conns <- theirs:
		return ours, nil
	case <-r.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// quiet fails the test if a request comes within d.
func (r *receiver) quiet(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case got := <-r.got:
		t.Errorf("unexpected: %s %s", got.path, got.body)
		got.answer(200)
	case <-time.After(d):
	}
}

// room is the callbacks of one start of the process: the real room on the real, embedded store.
type room struct {
	*Callbacks
	t    *testing.T
	halt func() // stops as SIGTERM does; once
}

// started opens the room on a directory, and runs it. All of it is inside the caller's bubble.
func started(t *testing.T, dir string, r *receiver, cfg Config) *room {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{Dir: dir}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	cfg.AllowHosts = []string{"receiver.example"}
	c, err := New(t.Context(), cfg, s, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	c.sender.client.Transport.(*http.Transport).DialContext = r.dial
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { c.Run(ctx) })
	halt := sync.OnceFunc(func() {
		cancel()
		running.Wait()
		s.Close()
	})
	t.Cleanup(halt)
	return &room{c, t, halt}
}

// ended tells of the end of a stream.
func (r *room) ended(owner, object string) {
	r.t.Helper()
	err := r.Enqueue(r.t.Context(), Event{Owner: owner, Object: object, Type: "stream.completed", URL: "http://receiver.example/" + object,
		At: time.Now(), Data: json.RawMessage(`{"id":"` + object + `","status":"completed","usage":{"output_tokens":7},"error":null}`)})
	if err != nil {
		r.t.Fatal(err)
	}
}

// see returns the callback of an object once everything is at rest.
func (r *room) see(owner, object string) Callback {
	r.t.Helper()
	time.Sleep(50 * time.Millisecond) // the disk is real, and synctest does not wait for it
	synctest.Wait()
	c, err := r.Get(r.t.Context(), owner, object)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}
