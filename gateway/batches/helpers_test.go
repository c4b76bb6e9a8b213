package batches

import (
	"container/heap"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server/ats"
	"go.uber.org/goleak"

	"sluice/gateway/callbacks"
	"sluice/gateway/claude"
	"sluice/gateway/limits"
	"sluice/gateway/simulator"
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

// room is the batches on the real store, before an upstream. Nothing runs: tests take its steps.
type room struct {
	*Batches
	t        testing.TB
	upstream *httptest.Server
}

func newRoom(t testing.TB, upstream http.Handler) *room {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	server := httptest.NewServer(upstream)
	t.Cleanup(server.Close)
	s, err := store.Open(context.Background(), store.Config{Dir: t.TempDir()}, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	client, err := claude.New(claude.Config{BaseURL: server.URL, APIKey: "sk-test", Silence: minute, Timeout: minute}, nil, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdle)
	calls, err := callbacks.New(context.Background(), callbacks.Config{}, s, nil, log)
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(context.Background(), client, limits.New(map[string]limits.Plan{"default": {}}), calls, s, nil, log)
	if err != nil {
		t.Fatal(err)
	}
	return &room{b, t, server}
}

// body is a batch with one item a prompt, whose ids are a, b, c, …
func body(prompts ...string) string {
	items := make([]string, len(prompts))
	for i, prompt := range prompts {
		items[i] = fmt.Sprintf(`{"custom_id":"%c","params":{"model":"claude-sonnet-4-6","max_tokens":100,"messages":[{"role":"user","content":%q}]}}`, 'a'+i, prompt)
	}
	return `{"requests":[` + strings.Join(items, ",") + `]}`
}

// closing notes that a body was given up.
type closing struct {
	io.Reader
	closed bool
}

func (c *closing) Close() error { c.closed = true; return nil }

func pass(claude.BatchItem) error { return nil }

func params(body string) Params {
	return Params{Owner: "key:alice", Plan: "default", Header: http.Header{"Anthropic-Version": {"2023-06-01"}, "Content-Type": {"application/json"}},
		Body: &closing{Reader: strings.NewReader(body)}, Length: int64(len(body)), Check: pass}
}

func (r *room) create(p Params) Batch {
	r.t.Helper()
	one, _, err := r.Create(r.t.Context(), p)
	if err != nil {
		r.t.Fatal(err)
	}
	return one
}

// run asks about a batch and does what there is to do, as if it were due, until it is over.
func (r *room) run(id string) Batch {
	r.t.Helper()
	for range 5 {
		r.mu.Lock()
		w := r.watched[id]
		if w != nil {
			heap.Remove(&r.due, w.place)
		}
		r.mu.Unlock()
		if w != nil {
			r.step(r.t.Context(), w)
		}
	}
	one, _, err := r.find(r.t.Context(), "key:alice", id)
	if err != nil {
		r.t.Fatal(err)
	}
	return one
}

func simulated() *simulator.Simulator { return simulator.New(simulator.Options{Key: "sk-test"}) }
