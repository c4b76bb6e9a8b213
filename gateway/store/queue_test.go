package store

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/iotest"
	"time"
)

func TestItemIsHandedOutUntilItIsDone(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		q := must[*Queue](t)(s.Queue(ctx, "work"))
		if err := q.Push(ctx, "key:alice strm_1", []byte("data")); err != nil {
			t.Fatal(err)
		}
		is(t, q.Push(ctx, "key:alice strm_1", []byte("other")), ErrExists)
		for range 3 {
			i := must[*Item](t)(q.Next(ctx))
			if i.ID != "key:alice strm_1" || string(i.Data) != "data" || time.Since(i.Pushed) > time.Minute {
				t.Fatalf("%+v", i)
			}
			is(t, q.Push(ctx, i.ID, nil), ErrExists) // also while somebody works on it
			if err := i.Working(); err != nil {
				t.Fatal(err)
			}
			if err := i.Later(time.Millisecond); err != nil {
				t.Fatal(err)
			}
		}
		i := must[*Item](t)(q.Next(ctx))
		if n := must[int](t)(q.Depth(ctx)); n != 1 {
			t.Errorf("depth %d", n)
		}
		if err := i.Done(ctx); err != nil {
			t.Fatal(err)
		}
		if n := must[int](t)(q.Depth(ctx)); n != 0 {
			t.Errorf("depth %d", n)
		}
		if err := q.Push(ctx, i.ID, []byte("new")); err != nil {
			t.Fatal(err)
		}
		if i := must[*Item](t)(q.Next(ctx)); string(i.Data) != "new" {
			t.Errorf("%s", i.Data)
		}
	})
}

func TestItemThatWasRemovedDoesNotCome(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		q := must[*Queue](t)(s.Queue(ctx, "work"))
		for _, id := range []string{"waiting", "given back", "done", "other"} {
			if err := q.Push(ctx, id, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := q.Remove(ctx, "waiting"); err != nil {
			t.Fatal(err)
		}
		for _, finish := range []func(*Item) error{func(i *Item) error { return i.Later(0) }, func(i *Item) error { return i.Done(ctx) }} {
			held := must[*Item](t)(q.Next(ctx))
			if err := q.Remove(ctx, held.ID); err != nil {
				t.Fatal(err)
			}
			if err := finish(held); err != nil {
				t.Fatal(err)
			}
		}
		if i := must[*Item](t)(q.Next(ctx)); i.ID != "other" {
			t.Errorf("%s came", i.ID)
		}
		is(t, func() error {
			ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			defer cancel()
			_, err := q.Next(ctx)
			return err
		}(), context.DeadlineExceeded)
	})
}

// TestWaitingItemsStopNoOthers: receivers that are away leave as many as they please.
func TestWaitingItemsStopNoOthers(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		q := must[*Queue](t)(s.Queue(ctx, "work"))
		if bound := q.consumer.CachedInfo().Config.MaxAckPending; bound != -1 {
			t.Errorf("%d items that wait stop the queue", bound)
		}
		const waiting = 1200 // above the engine's default bound
		for i := range waiting {
			if err := q.Push(ctx, fmt.Sprint(i), nil); err != nil {
				t.Fatal(err)
			}
			if err := must[*Item](t)(q.Next(ctx)).Later(time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		if err := q.Push(ctx, "last", nil); err != nil {
			t.Fatal(err)
		}
		if i := must[*Item](t)(q.Next(ctx)); i.ID != "last" {
			t.Errorf("%s came", i.ID)
		}
	})
}

func TestEachItemHasOneWorker(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, s *Store) {
		q := must[*Queue](t)(s.Queue(t.Context(), "work"))
		const items, workers = 60, 8
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var mu sync.Mutex
		seen := map[string]int{}
		var all sync.WaitGroup
		for range workers {
			all.Go(func() {
				for {
					i, err := q.Next(ctx)
					if err != nil {
						return
					}
					if err := i.Done(context.Background()); err != nil {
						t.Error(err)
					}
					mu.Lock()
					if seen[i.ID]++; len(seen) == items {
						cancel()
					}
					mu.Unlock()
				}
			})
		}
		for i := range items {
			if err := q.Push(t.Context(), fmt.Sprint(i), nil); err != nil {
				t.Fatal(err)
			}
		}
		all.Wait()
		for id, n := range seen {
			if n != 1 {
				t.Errorf("%s was handed out %d times", id, n)
			}
		}
	})
}

var errReader = fmt.Errorf("the reader failed")

var failingReader = iotest.ErrReader(errReader)
