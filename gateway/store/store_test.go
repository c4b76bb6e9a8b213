package store

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(helperDir); dir != "" {
		writeUntilKilled(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// open opens a store and closes it with the test.
func open(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, err := Open(context.Background(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// everywhere runs a test on each kind of store.
func everywhere(t *testing.T, f func(t *testing.T, s *Store)) {
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		f(t, open(t, Config{Dir: t.TempDir()}))
	})
	t.Run("elsewhere", func(t *testing.T) {
		t.Parallel()
		f(t, open(t, Config{URL: serve(t, server.Options{JetStream: true, StoreDir: t.TempDir()}).ClientURL()}))
	})
}

// serve runs a NATS server as an operator would.
func serve(t testing.TB, o server.Options) *server.Server {
	t.Helper()
	o.Host, o.NoSigs, o.NoLog = "127.0.0.1", true, true
	if o.Port == 0 {
		o.Port = server.RANDOM_PORT
	}
	s, err := server.NewServer(&o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(startPatience) {
		t.Fatal("the server does not start")
	}
	return s
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// is looks at what an operation has failed with.
func is(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("failed with %v, want %v", err, want)
	}
}

func TestStoreOpensAtOnce(t *testing.T) {
	dir := t.TempDir()
	for range 2 { // new, and again
		begun := time.Now()
		s := must[*Store](t)(Open(t.Context(), Config{Dir: dir}, slog.New(slog.DiscardHandler)))
		if took := time.Since(begun); took > time.Second {
			t.Errorf("took %s", took)
		}
		must[*Records](t)(s.Records(t.Context(), "words", 0))
		s.Close()
	}
}

func TestEverythingSurvivesARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx := t.Context()
	s := open(t, Config{Dir: dir})
	records := must[*Records](t)(s.Records(ctx, "words", 0))
	queue := must[*Queue](t)(s.Queue(ctx, "work"))
	objects := must[*Objects](t)(s.Objects(ctx, "files", 0))
	revision := must[uint64](t)(records.Create(ctx, Key{"a", "b"}, []byte("value")))
	for _, id := range []string{"held", "waiting", "done"} {
		if err := queue.Push(ctx, id, []byte(id)); err != nil {
			t.Fatal(err)
		}
	}
	held := must[*Item](t)(queue.Next(ctx))
	if err := objects.Put(ctx, "file", strings.NewReader("text")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		i := must[*Item](t)(queue.Next(ctx))
		if i.ID == "done" {
			if err := i.Done(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	secret := must[string](t)(s.Secret(ctx, "tickets"))
	s.Close()

	s = open(t, Config{Dir: dir})
	records = must[*Records](t)(s.Records(ctx, "words", 0))
	r := must[Record](t)(records.Get(ctx, Key{"a", "b"}))
	if string(r.Value) != "value" || r.Revision != revision {
		t.Errorf("%+v", r)
	}
	must[uint64](t)(records.Update(ctx, Key{"a", "b"}, []byte("next"), revision))
	queue = must[*Queue](t)(s.Queue(ctx, "work"))
	seen := map[string]bool{}
	for range 2 { // at once: whoever held one died with the process
		i := must[*Item](t)(queue.Next(ctx))
		seen[i.ID] = true
	}
	if !seen[held.ID] || !seen["waiting"] || seen["done"] {
		t.Errorf("the queue holds %v", seen)
	}
	is(t, queue.Push(ctx, "waiting", nil), ErrExists)
	objects = must[*Objects](t)(s.Objects(ctx, "files", 0))
	if text := read(t, objects, "file"); text != "text" {
		t.Errorf("%q", text)
	}
	if again := must[string](t)(s.Secret(ctx, "tickets")); again != secret || len(secret) != 64 {
		t.Errorf("the secret was %q, is %q", secret, again)
	}
}

func TestServerThatIsNotThereIsSaid(t *testing.T) {
	t.Parallel()
	gone := serve(t, server.Options{})
	url := gone.ClientURL()
	gone.Shutdown()
	gone.WaitForShutdown()
	plain := serve(t, server.Options{})
	guarded := serve(t, server.Options{JetStream: true, StoreDir: t.TempDir(), Username: "u", Password: "right"})
	for _, c := range []struct{ url, says string }{
		{url, "no server can be reached"},
		{"nats://u:hunter2@" + strings.TrimPrefix(guarded.ClientURL(), "nats://"), "Authorization"},
		{plain.ClientURL(), "no JetStream"},
		{"nats://u:hunter2@[::1", "store.nats_url"},
	} {
		_, err := Open(t.Context(), Config{URL: c.url}, slog.New(slog.DiscardHandler))
		is(t, err, ErrUnavailable)
		if !strings.Contains(err.Error(), "store.nats_url") || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", c.url, err)
		}
	}
}

// TestServerThatComesBackIsUsedAgain: while it is away everything fails at once, and nobody has to open the store again.
func TestServerThatComesBackIsUsedAgain(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	o := server.Options{JetStream: true, StoreDir: t.TempDir()}
	elsewhere := serve(t, o)
	s := open(t, Config{URL: elsewhere.ClientURL()})
	records := must[*Records](t)(s.Records(ctx, "words", 0))
	queue := must[*Queue](t)(s.Queue(ctx, "work"))
	must[uint64](t)(records.Create(ctx, Key{"k"}, []byte("v")))
	got := make(chan *Item)
	go func() {
		i, _ := queue.Next(ctx)
		got <- i
	}()
	o.Port = elsewhere.Addr().(*net.TCPAddr).Port
	elsewhere.Shutdown()
	elsewhere.WaitForShutdown()
	_, err := records.Get(ctx, Key{"k"})
	is(t, err, ErrUnavailable)
	serve(t, o)
	eventually(t, func() bool {
		r, err := records.Get(ctx, Key{"k"})
		return err == nil && string(r.Value) == "v"
	})
	if err := queue.Push(ctx, "id", nil); err != nil {
		t.Fatal(err)
	}
	if i := <-got; i == nil || i.ID != "id" {
		t.Errorf("%+v", i)
	}
}

// eventually looks until ok is true.
func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it does not come to that")
		}
	}
}

func TestClosedStoreSaysSo(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, s *Store) {
		records := must[*Records](t)(s.Records(t.Context(), "words", 0))
		queue := must[*Queue](t)(s.Queue(t.Context(), "work"))
		waiting := make(chan error)
		go func() {
			_, err := queue.Next(t.Context())
			waiting <- err
		}()
		s.Close()
		_, err := records.Put(t.Context(), Key{"k"}, nil)
		is(t, err, ErrUnavailable)
		is(t, <-waiting, ErrUnavailable)
		s.Close() // once more does nothing
	})
}

func TestDirectoryThatCantBeUsedIsSaid(t *testing.T) {
	t.Parallel()
	filled := func(name, text string) string {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	used := t.TempDir()
	open(t, Config{Dir: used})
	for _, c := range []struct{ dir, says string }{
		{filled("letters.txt", ""), `it holds "letters.txt"`},
		{filled(markerName, "format 99"), "another version"},
		{filepath.Join(filled("file", ""), "file"), "not a directory"},
		{used, "in use by another process"},
		{readOnly(t), "read-only"},
	} {
		_, err := Open(t.Context(), Config{Dir: c.dir}, slog.New(slog.DiscardHandler))
		is(t, err, ErrUnavailable)
		if !strings.Contains(err.Error(), "store.dir") || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.dir) {
			t.Errorf("%s: %v", c.dir, err)
		}
	}
}

// TestForeignDirectoryIsLeftAlone: a wrong setting must not put files among somebody's own.
func TestForeignDirectoryIsLeftAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "letters.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), Config{Dir: dir}, slog.New(slog.DiscardHandler))
	is(t, err, ErrUnavailable)
	if entries := must[[]os.DirEntry](t)(os.ReadDir(dir)); len(entries) != 1 {
		t.Errorf("%v", entries)
	}
}

func TestDirectoryThatIsAlmostEmptyIsTaken(t *testing.T) {
	t.Parallel()
	volume := t.TempDir() // the root of a file system
	if err := os.Mkdir(filepath.Join(volume, lostAndFound), 0o700); err != nil {
		t.Fatal(err)
	}
	crashed := t.TempDir() // in the middle of its first start
	if err := os.WriteFile(filepath.Join(crashed, markerName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{volume, crashed, filepath.Join(t.TempDir(), "new", "data")} {
		open(t, Config{Dir: dir})
	}
}
