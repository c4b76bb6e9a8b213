package background

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"

	"sluice/gateway/callbacks"
	"sluice/gateway/claude"
	"sluice/gateway/limits"
	"sluice/gateway/metrics"
	"sluice/gateway/relay"
	"sluice/gateway/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// room is the room with what is below it, and an upstream that a test plays.
type room struct {
	*Background
	t      testing.TB
	asked  atomic.Int64
	answer atomic.Pointer[http.HandlerFunc]
}

const owner = "key:alice"

// open makes a room whose workers don't work: tests call try with what a worker would have in hand.
func open(t testing.TB, where store.Config, change ...func(*Config, *relay.Config)) *room {
	t.Helper()
	cfg, streams := Config{Concurrency: 2, Retention: 72 * time.Hour}, relay.Config{Retention: time.Minute, Memory: 100_000_000}
	for _, f := range change {
		f(&cfg, &streams)
	}
	r := &room{t: t}
	r.says(http.StatusOK, message)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.asked.Add(1)
		io.Copy(io.Discard, q.Body)
		(*r.answer.Load())(w, q)
	}))
	log, m := slog.New(slog.DiscardHandler), metrics.New("test")
	s, err := store.Open(t.Context(), where, log)
	if err != nil {
		t.Fatal(err)
	}
	client, err := claude.New(claude.Config{BaseURL: upstream.URL, APIKey: "k", Silence: time.Minute, Timeout: time.Minute}, m, log)
	if err != nil {
		t.Fatal(err)
	}
	plans := limits.New(map[string]limits.Plan{"default": {ConcurrentStreams: 2}})
	calls, err := callbacks.New(t.Context(), callbacks.Config{}, s, m, log)
	if err != nil {
		t.Fatal(err)
	}
	if r.Background, err = New(t.Context(), cfg, s, relay.New(streams, client, plans, limits.NewQueue(0), m, log), plans, calls, m, log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		over, cancel := context.WithCancel(context.Background())
		cancel()
		r.Drain()
		r.relay.Drain(over)
		r.Stop()
		r.relay.Stop(over)
		r.Wait(context.Background())
		s.Close()
		client.CloseIdle()
		upstream.Close()
	})
	return r
}

const message = `event: message_start
data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-x","content":[],"usage":{"input_tokens":1,"output_tokens":1}}}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":9}}

event: message_stop
data: {"type":"message_stop"}

`

// says lets the upstream answer all requests from now on so; headers are name, value, ….
func (r *room) says(status int, body string, headers ...string) {
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if status == http.StatusOK {
			w.Header().Set("Content-Type", "text/event-stream")
		}
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	})
	r.answer.Store(&answer)
}

func refuses(kind string) string {
	return fmt.Sprintf(`{"type":"error","error":{"type":%q,"message":"No."}}`, kind)
}

func request(key string) Params {
	return Params{Owner: owner, Plan: "default", IdempotencyKey: key, Route: "/v1/messages",
		Request: claude.Request{Path: "/v1/messages?beta=true", Header: http.Header{"Anthropic-Version": {"2023-06-01"}}, Body: []byte(`{"stream":true}`)}}
}

// accept queues a stream, changes its record, and takes its item as a worker does.
func (r *room) accept(change ...func(*record)) *record {
	r.t.Helper()
	a, err := r.Accept(r.t.Context(), request(""))
	if err != nil {
		r.t.Fatal(err)
	}
	return r.changed(a.Snapshot.ID, change...)
}

func (r *room) changed(id string, change ...func(*record)) *record {
	r.t.Helper()
	rec, err := r.change(r.t.Context(), store.Key{owner, id}, func(rec *record) error {
		for _, f := range change {
			f(rec)
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return rec
}

func (r *room) now(id string) *record { r.t.Helper(); return r.changed(id) }

// failed looks that a stream has ended so, and that its viewers are told.
func (r *room) failed(id, kind, says string) {
	r.t.Helper()
	rec := r.now(id)
	if rec.Status != relay.Failed || rec.Failure == nil || rec.Failure.Type != kind || !strings.Contains(rec.Failure.Message, says) {
		r.t.Errorf("%+v %+v", rec, rec.Failure)
	}
	s, err := r.Stream(r.t.Context(), owner, id)
	if err != nil {
		r.t.Fatal(err)
	}
	v, _, _, err := s.Attach("", true)
	if err != nil {
		r.t.Fatal(err)
	}
	defer v.Detach(relay.EndCompleted)
	if b, _ := v.Take(); b.Events != 1 || !strings.Contains(string(b.Pieces[0]), "event: error\n") || !strings.Contains(string(b.Pieces[0]), kind) {
		r.t.Errorf("a viewer gets %q", b.Pieces)
	}
}

// within looks that a wait is so long, less up to a quarter.
func within(t testing.TB, got, want time.Duration) {
	t.Helper()
	if got > want || got < want*3/4 {
		t.Errorf("waits %s, want %s or up to a quarter less", got, want)
	}
}

func TestDeathsAreWaitedForLongerEachTimeAndThenTheStreamFails(t *testing.T) {
	t.Parallel()
	r := open(t, store.Config{Dir: t.TempDir()})
	rec := r.accept()
	died := func(rec *record) { rec.Status, rec.NotBefore = relay.InProgress, time.Time{}; rec.Attempt++ }
	r.changed(rec.ID, func(rec *record) { rec.Lost = 1 })
	for lost := 2; lost < maxLost; lost++ { // after the first death, perhaps a deploy, it is run at once: see below
		r.changed(rec.ID, died)
		v := r.try(rec)
		if v.done || v.outcome != "" {
			t.Fatalf("after %d deaths: %+v", lost, v)
		}
		within(t, v.wait, lostWait<<(lost-2))
		if now := r.now(rec.ID); now.Status != relay.Queued || now.Lost != lost {
			t.Errorf("%+v", now)
		}
	}
	r.changed(rec.ID, died)
	if v := r.try(rec); !v.done || v.outcome != string(relay.Failed) {
		t.Errorf("%+v", v)
	}
	r.failed(rec.ID, claude.APIError, fmt.Sprint("died ", maxLost, " times"))
	if n := r.asked.Load(); n != 0 {
		t.Errorf("the upstream was asked %d times", n)
	}

	rec = r.accept(died)
	if v := r.try(rec); !v.done || v.outcome != string(relay.Completed) {
		t.Errorf("after one death: %+v", v)
	}
	if now := r.now(rec.ID); now.Attempt != 2 || now.Lost != 1 {
		t.Errorf("%+v", now)
	}
}

func TestRefusalsForNowAreWaitedForLongerEachTimeAndThenTheStreamFails(t *testing.T) {
	t.Parallel()
	r := open(t, store.Config{Dir: t.TempDir()})
	const never = "x-should-retry"
	rec := r.accept()
	r.says(503, refuses(claude.Overloaded), "retry-after", "300") // over what is waited for on the spot; a 529 would hold back the next try, too
	for refused := 1; refused <= 3; refused++ {
		v := r.try(rec)
		if v.done || v.outcome != outcomeRefused || v.wait != 300*time.Second {
			t.Fatalf("%+v", v)
		}
		now := r.now(rec.ID)
		if now.Refused != refused || now.Attempt != 0 || now.Status != relay.Queued || time.Until(now.NotBefore) < 290*time.Second {
			t.Errorf("%+v", now)
		}
		if v := r.try(rec); v.done || v.outcome != "" || v.wait < 290*time.Second { // too early, say after a restart
			t.Errorf("%+v", v)
		}
		r.changed(rec.ID, func(rec *record) { rec.NotBefore = time.Time{} })
	}
	r.changed(rec.ID, func(rec *record) { rec.Refused = maxRefused })
	if v := r.try(rec); !v.done || v.outcome != string(relay.Failed) {
		t.Errorf("%+v", v)
	}
	r.failed(rec.ID, claude.Overloaded, "No.")

	for refused := range maxRefused {
		wait, ok := passes(errors.New("unknown"), refused)
		if !ok {
			t.Error("an unknown failure is final")
		}
		within(t, wait, min(refusedWait<<refused, longestWait))
	}

	rec = r.accept()
	r.says(529, refuses(claude.Overloaded), never, "false")
	if v := r.try(rec); !v.done || v.outcome != string(relay.Failed) {
		t.Errorf("%+v", v)
	}
	rec = r.accept()
	r.says(401, refuses(claude.Authentication), never, "false") // our own key
	if v := r.try(rec); v.done || v.outcome != outcomeRefused {
		t.Errorf("%+v", v)
	}
	rec = r.accept()
	r.says(400, refuses(claude.InvalidRequest))
	if v := r.try(rec); !v.done || v.outcome != string(relay.Failed) {
		t.Errorf("%+v", v)
	}
	r.failed(rec.ID, claude.InvalidRequest, "No.")
}

func TestNothingWaitsForLongerThanTheRetention(t *testing.T) {
	t.Parallel()
	r := open(t, store.Config{Dir: t.TempDir()})
	rec := r.accept(func(rec *record) { rec.Created = time.Now().Add(-72*time.Hour + 10*time.Second) })
	r.says(529, refuses(claude.Overloaded), "retry-after", "3600")
	if v := r.try(rec); v.outcome != outcomeRefused || v.wait > 10*time.Second {
		t.Errorf("%+v", v)
	}
	r.changed(rec.ID, func(rec *record) { rec.Created, rec.NotBefore = rec.Created.Add(-time.Minute), time.Time{} })
	if v := r.try(rec); !v.done || v.outcome != string(relay.Failed) {
		t.Errorf("%+v", v)
	}
	r.failed(rec.ID, claude.Timeout, "72h")
	r.relay.Delete(owner, rec.ID)
	r.changed(rec.ID, func(rec *record) { rec.Ended = time.Now().Add(-73 * time.Hour) })
	if _, err := r.Snapshot(t.Context(), owner, rec.ID, true); err != relay.ErrNotFound {
		t.Errorf("after its retention: %v", err)
	}
	if list, _, err := r.List(t.Context(), owner, "", 10); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

// TestStepsThatACrashHasLeftOutAreMadeUpFor leaves a stream's traces as a process leaves them that dies in Accept.
func TestStepsThatACrashHasLeftOutAreMadeUpFor(t *testing.T) {
	t.Parallel()
	r := open(t, store.Config{Dir: t.TempDir()})
	ctx := t.Context()
	for name, forget := range map[string]func(rec *record) error{
		"the record": func(rec *record) error { return r.records.Delete(ctx, rec.key()) },
		"the record and the item": func(rec *record) error {
			return errors.Join(r.records.Delete(ctx, rec.key()), r.queue.Remove(ctx, rec.ID))
		},
		"all but the key": func(rec *record) error {
			return errors.Join(r.records.Delete(ctx, rec.key()), r.queue.Remove(ctx, rec.ID), r.requests.Delete(ctx, rec.ID))
		},
	} {
		a, err := r.Accept(ctx, request(name))
		if err != nil {
			t.Fatal(err)
		}
		rec := r.now(a.Snapshot.ID)
		if err := forget(rec); err != nil {
			t.Fatal(err)
		}
		other := request(name)
		other.Request.Body = []byte(`{"stream":true,"other":1}`)
		if _, err := r.Accept(ctx, other); err != relay.ErrKeyReused {
			t.Errorf("%s: another request: %v", name, err)
		}
		again, err := r.Accept(ctx, request(name))
		if err != nil || again.Snapshot.ID != a.Snapshot.ID || again.Snapshot.Status != relay.Queued {
			t.Errorf("%s: %+v, %v", name, again, err)
		}
		item, err := r.queue.Next(ctx)
		if err != nil || item.ID != a.Snapshot.ID {
			t.Fatalf("%s: %+v, %v", name, item, err)
		}
		r.work(item)
		if now := r.now(rec.ID); now.Status != relay.Completed {
			t.Errorf("%s: %+v", name, now)
		}
	}
	// And without anybody asking again.
	rec := r.accept()
	item, _ := r.queue.Next(ctx)
	if err := r.records.Delete(ctx, rec.key()); err != nil {
		t.Fatal(err)
	}
	r.work(item)
	if now := r.now(rec.ID); now.Status != relay.Completed {
		t.Errorf("%+v", now)
	}
	if n, err := r.queue.Depth(ctx); n != 0 || err != nil {
		t.Errorf("%d items are left, %v", n, err)
	}
	if n := r.asked.Load(); n != 4 {
		t.Errorf("4 streams were run %d times", n)
	}
}

func TestItemThatComesTwiceIsRunOnce(t *testing.T) {
	t.Parallel()
	r := open(t, store.Config{Dir: t.TempDir()})
	rec := r.accept()
	item, err := r.queue.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.hold(rec.ID) // by another worker
	r.work(item)
	if n := r.asked.Load(); n != 0 {
		t.Fatal("it was run beside another worker")
	}
	r.letGo(rec.ID)
	for range 2 {
		if v := r.try(rec); !v.done {
			t.Errorf("%+v", v)
		}
	}
	if n := r.asked.Load(); n != 1 {
		t.Errorf("it was run %d times", n)
	}
}

func TestStreamThatIsDeletedWhileInHandIsNotRun(t *testing.T) {
	t.Parallel()
	r := open(t, store.Config{Dir: t.TempDir()})
	rec := r.accept()
	if err := r.Delete(t.Context(), owner, rec.ID); err != nil {
		t.Fatal(err)
	}
	if v := r.try(rec); !v.done || v.outcome != "" {
		t.Errorf("%+v", v)
	}
	if n := r.asked.Load(); n != 0 {
		t.Error("it was run")
	}
	if _, err := r.requests.Open(t.Context(), rec.ID); err != store.ErrNotFound {
		t.Errorf("its request: %v", err)
	}
}

func TestItemThatIsNotOursDoesNotStopTheQueue(t *testing.T) {
	t.Parallel()
	r := open(t, store.Config{Dir: t.TempDir()})
	if err := r.queue.Push(t.Context(), "garbage", []byte("{")); err != nil {
		t.Fatal(err)
	}
	item, err := r.queue.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.work(item)
	if n, err := r.queue.Depth(t.Context()); n != 0 || err != nil {
		t.Errorf("%d items are left, %v", n, err)
	}
}

func TestWhatIsScarceIsWaitedFor(t *testing.T) {
	t.Parallel()
	r := open(t, store.Config{Dir: t.TempDir()}, func(_ *Config, c *relay.Config) { c.Memory = 10_000 })
	rec := r.accept()
	if err := r.relay.Reserve(9_999); err != nil {
		t.Fatal(err)
	}
	if v := r.try(rec); v.done || v.wait != busyWait {
		t.Errorf("without memory: %+v", v)
	}
	r.relay.Release(9_999)
	first, _ := r.limits.Enter(owner, "default", limits.Request{})
	second, _ := r.limits.Enter(owner, "default", limits.Request{})
	for range 3 {
		if v := r.try(rec); v.done || v.outcome != "" {
			t.Errorf("without a slot: %+v", v)
		} else {
			within(t, v.wait, shortestSlot)
		}
	}
	for n := range 100 {
		r.waits(owner, fmt.Sprint(n))
	}
	v := r.try(rec)
	within(t, v.wait, 101*slotWait) // many that wait are looked at in turn
	first.Release()
	second.Release()
	if v := r.try(rec); !v.done || v.outcome != string(relay.Completed) {
		t.Errorf("%+v", v)
	}
	if now := r.now(rec.ID); now.Attempt != 1 {
		t.Errorf("%+v", now)
	}
	rec = r.accept(func(rec *record) { rec.Plan = "gone" })
	if v := r.try(rec); !v.done {
		t.Errorf("%+v", v)
	}
	r.failed(rec.ID, claude.Permission, "plan")
	rec = r.accept()
	if err := r.requests.Delete(t.Context(), rec.ID); err != nil {
		t.Fatal(err)
	}
	if v := r.try(rec); !v.done {
		t.Errorf("%+v", v)
	}
	r.failed(rec.ID, claude.APIError, "request")
}

// TestProcessesThatShareAStoreSeeEachOthersEnds has two gateways on one NATS server.
func TestProcessesThatShareAStoreSeeEachOthersEnds(t *testing.T) {
	t.Parallel()
	nats, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	nats.Start()
	t.Cleanup(func() { nats.Shutdown(); nats.WaitForShutdown() })
	if !nats.ReadyForConnections(30 * time.Second) {
		t.Fatal("the server does not start")
	}
	ctx := t.Context()
	there, here := open(t, store.Config{URL: nats.ClientURL()}), open(t, store.Config{URL: nats.ClientURL()})
	rec := there.accept()
	s, err := here.Stream(ctx, owner, rec.ID)
	if err != nil {
		t.Fatal(err)
	}
	v, _, _, err := s.Attach("", true)
	if err != nil {
		t.Fatal(err)
	}
	if b, ended := v.Take(); b.Events > 0 || ended {
		t.Error("something of a stream that has not begun")
	}
	if v := there.try(rec); !v.done {
		t.Fatalf("%+v", v)
	}
	here.lookElsewhere(ctx)
	<-v.Wake()
	if b, _ := v.Take(); b.Events != 3 || strings.Count(string(b.Pieces[0]), "id: ") != 3 {
		t.Errorf("%d events", b.Events)
	}
	v.Detach(relay.EndCompleted)
	if n, err := here.Snapshot(ctx, owner, rec.ID, true); err != nil || n.Status != relay.Completed {
		t.Errorf("%+v, %v", n, err)
	}

	// One that runs there is canceled here.
	arrived := make(chan struct{})
	hold := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, message[:strings.Index(message, "\n\n")+2])
		http.NewResponseController(w).Flush()
		close(arrived)
		<-q.Context().Done()
	})
	there.answer.Store(&hold)
	rec = there.accept()
	tried := make(chan verdict)
	go func() { tried <- there.try(rec) }()
	<-arrived
	if _, err := here.Cancel(ctx, owner, rec.ID); err != nil {
		t.Fatal(err)
	}
	there.lookElsewhere(ctx)
	if v := <-tried; !v.done || v.outcome != string(relay.Canceled) {
		t.Errorf("%+v", v)
	}
}
