package store

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestRecordsAreReplacedOnlyByWhoHasSeenThem(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		r := must[*Records](t)(s.Records(ctx, "words", 0))
		key := Key{"k"}
		_, err := r.Get(ctx, key)
		is(t, err, ErrNotFound)
		_, err = r.Update(ctx, key, []byte("x"), 7)
		is(t, err, ErrConflict)
		first := must[uint64](t)(r.Create(ctx, key, []byte("1")))
		_, err = r.Create(ctx, key, []byte("x"))
		is(t, err, ErrExists)
		second := must[uint64](t)(r.Update(ctx, key, []byte("2"), first))
		_, err = r.Update(ctx, key, []byte("x"), first)
		is(t, err, ErrConflict)
		got := must[Record](t)(r.Get(ctx, key))
		if string(got.Value) != "2" || got.Revision != second || got.Written.IsZero() || !slices.Equal(got.Key, key) {
			t.Errorf("%+v", got)
		}
		third := must[uint64](t)(r.Put(ctx, key, nil))
		if third <= second {
			t.Errorf("revision %d after %d", third, second)
		}
		for range 2 {
			if err := r.Delete(ctx, key); err != nil {
				t.Fatal(err)
			}
			_, err = r.Get(ctx, key)
			is(t, err, ErrNotFound)
		}
		_, err = r.Update(ctx, key, []byte("x"), third)
		is(t, err, ErrConflict)
		must[uint64](t)(r.Create(ctx, key, []byte("new")))
		_, err = r.Put(ctx, key, make([]byte, MaxRecord+1))
		is(t, err, ErrTooLarge)
		must[uint64](t)(r.Put(ctx, key, make([]byte, MaxRecord)))
		_, err = r.Put(ctx, Key{strings.Repeat("é", maxName/6+1)}, nil)
		is(t, err, ErrTooLarge)
		must[uint64](t)(r.Put(ctx, Key{strings.Repeat("é", maxName/6)}, nil))
	})
}

func TestOneOfManyCreatesARecord(t *testing.T) {
	t.Parallel()
	s := open(t, Config{Dir: t.TempDir()})
	r := must[*Records](t)(s.Records(t.Context(), "words", 0))
	var made, racing atomic.Int64
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			switch _, err := r.Create(t.Context(), Key{"k"}, fmt.Append(nil, i)); {
			case err == nil:
				made.Add(1)
			case err == ErrExists:
				racing.Add(1)
			}
		})
	}
	all.Wait()
	if made.Load() != 1 || racing.Load() != 19 {
		t.Errorf("made %d times, refused %d times", made.Load(), racing.Load())
	}
}

// oddParts are what owners' names may be made of.
var oddParts = []string{"", "a", "a.b", "a*", ">", " ", "jwt:https://issuer.example/|sub ject", "=41", "A", "é\x00\xff", "a/b"}

func TestKeysHoldAnything(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		r := must[*Records](t)(s.Records(ctx, "words", 0))
		for i, part := range oddParts {
			must[uint64](t)(r.Create(ctx, Key{part}, fmt.Append(nil, i)))
			must[uint64](t)(r.Create(ctx, Key{part, "of"}, fmt.Append(nil, i, "of")))
			must[uint64](t)(r.Create(ctx, Key{part, "of", "of"}, nil))
		}
		for i, part := range oddParts {
			if got := must[Record](t)(r.Get(ctx, Key{part})); string(got.Value) != fmt.Sprint(i) {
				t.Errorf("%q: %s", part, got.Value)
			}
			var below []string
			for rec, err := range r.List(ctx, Key{part}) {
				if err != nil {
					t.Fatal(err)
				}
				below = append(below, fmt.Sprintf("%q", rec.Key))
			}
			if want := []string{fmt.Sprintf("%q", Key{part, "of"}), fmt.Sprintf("%q", Key{part, "of", "of"})}; !slices.Equal(below, want) {
				t.Errorf("below %q: %v", part, below)
			}
		}
	})
}

func TestListsAreWholeAndInTheOrderOfWriting(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		r := must[*Records](t)(s.Records(ctx, "words", 0))
		for _, err := range r.List(ctx, nil) {
			t.Fatalf("an empty bucket has a record, or %v", err)
		}
		const many = 1200 // more than one batch of the client's
		for i := range many {
			must[uint64](t)(r.Put(ctx, Key{"a", fmt.Sprint(i)}, fmt.Append(nil, i)))
		}
		must[uint64](t)(r.Put(ctx, Key{"b", "x"}, nil))
		must[uint64](t)(r.Put(ctx, Key{"a", "0"}, []byte("again")))
		if err := r.Delete(ctx, Key{"a", "1"}); err != nil {
			t.Fatal(err)
		}
		var values []string
		for rec, err := range r.List(ctx, Key{"a"}) {
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, string(rec.Value))
		}
		if len(values) != many-1 || values[0] != "2" || values[many-3] != fmt.Sprint(many-1) || values[many-2] != "again" {
			t.Errorf("%d values: %v", len(values), values)
		}
		n := 0
		for range r.List(ctx, nil) {
			if n++; n == 3 {
				break // which leaves nothing behind
			}
		}
		if names := must[int](t)(consumers(t, r)); names != 0 {
			t.Errorf("%d lists are left at the server", names)
		}
	})
}

// TestListsAreWholeWhileTheyAreWritten: a record that is written again while a list is made is in it, once.
func TestListsAreWholeWhileTheyAreWritten(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		r := must[*Records](t)(s.Records(ctx, "words", 0))
		const many = 20
		for i := range many {
			must[uint64](t)(r.Put(ctx, Key{"a", fmt.Sprint(i)}, nil))
		}
		written, writing := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(written)
			for i := 0; ; i++ {
				select {
				case <-writing:
					return
				default:
				}
				if _, err := r.Put(ctx, Key{"a", fmt.Sprint(i * 7 % many)}, nil); err != nil {
					t.Error(err)
					return
				}
			}
		}()
		for range 200 {
			times := map[string]int{}
			for rec, err := range r.List(ctx, Key{"a"}) {
				if err != nil {
					t.Fatal(err)
				}
				times[rec.Key[1]]++
			}
			for i := range many {
				if n := times[fmt.Sprint(i)]; n != 1 {
					t.Errorf("record %d is in a list %d times", i, n)
				}
			}
		}
		close(writing)
		<-written
	})
}

// TestNothingStaysLongerThanItsTime also opens the buckets again with another time.
func TestNothingStaysLongerThanItsTime(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		must[*Records](t)(s.Records(ctx, "words", time.Hour))
		must[*Objects](t)(s.Objects(ctx, "files", time.Hour))
		r := must[*Records](t)(s.Records(ctx, "words", 200*time.Millisecond))
		o := must[*Objects](t)(s.Objects(ctx, "files", 200*time.Millisecond))
		must[uint64](t)(r.Create(ctx, Key{"k"}, nil))
		if err := o.Put(ctx, "f", strings.NewReader("text")); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool {
			_, err := r.Get(ctx, Key{"k"})
			return err == ErrNotFound
		})
		eventually(t, func() bool {
			_, err := o.Open(ctx, "f")
			return err == ErrNotFound
		})
		must[uint64](t)(r.Create(ctx, Key{"k"}, nil))
	})
}

func consumers(t *testing.T, r *Records) (int, error) {
	info, err := r.stream.Info(t.Context())
	if err != nil {
		return 0, err
	}
	return info.State.Consumers, nil
}

func FuzzKeysComeBackAsTheyWere(f *testing.F) {
	for _, part := range oddParts {
		f.Add(part, "x")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		s, err := subject("p.", a, b)
		if err != nil {
			return
		}
		if strings.ContainsAny(s, " *>\t\r\n") || strings.Count(s, ".") != 2 || strings.Contains(s, "..") || strings.HasSuffix(s, ".") {
			t.Fatalf("%q is no subject", s)
		}
		if got := parts("p.", s); got[0] != a || got[1] != b {
			t.Fatalf("%q became %q", Key{a, b}, got)
		}
	})
}
