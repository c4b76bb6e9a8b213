package store

import (
	"bytes"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
)

// read reads an object to its end.
func read(t testing.TB, o *Objects, name string) string {
	t.Helper()
	r := must[*Object](t)(o.Open(t.Context(), name))
	text := must[[]byte](t)(io.ReadAll(r))
	if int64(len(text)) != r.Size {
		t.Errorf("%s has %d bytes, and says %d", name, len(text), r.Size)
	}
	return string(text)
}

// TestObjectsComeBackWhole writes and reads around each border of a chunk, in pieces of any size.
func TestObjectsComeBackWhole(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, s *Store) {
		o := must[*Objects](t)(s.Objects(t.Context(), "files", 0))
		random := rand.NewChaCha8([32]byte{1})
		for _, size := range []int{0, 1, chunkSize - 1, chunkSize, chunkSize + 1, 2*chunkSize - 1, 2 * chunkSize, 3*chunkSize + 7, 32_000_000} {
			b := make([]byte, size)
			random.Read(b)
			if err := o.Put(t.Context(), "a file/of *any* name", iotest.HalfReader(bytes.NewReader(b))); err != nil {
				t.Fatal(err)
			}
			if text := read(t, o, "a file/of *any* name"); text != string(b) {
				t.Errorf("%d bytes came back as other %d", size, len(text))
			}
		}
		left := must[*Objects](t)(s.Objects(t.Context(), "files", 0)).stream.CachedInfo().State
		if want := uint64((32_000_000 + chunkSize - 1) / chunkSize); left.Msgs != want {
			t.Errorf("%d chunks are there, want the last object's %d", left.Msgs, want)
		}
	})
}

func TestObjectIsReplacedWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		o := must[*Objects](t)(s.Objects(ctx, "files", 0))
		_, err := o.Open(ctx, "f")
		is(t, err, ErrNotFound)
		long := strings.Repeat("long ", chunkSize)
		if err := o.Put(ctx, "f", strings.NewReader(long)); err != nil {
			t.Fatal(err)
		}
		is(t, o.Put(ctx, "f", io.MultiReader(strings.NewReader(strings.Repeat("half", chunkSize)), failingReader)), errReader)
		if read(t, o, "f") != long {
			t.Error("a failed write has changed the object")
		}
		open := must[*Object](t)(o.Open(ctx, "f"))
		if err := o.Put(ctx, "f", strings.NewReader("short")); err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadAll(open)
		is(t, err, ErrNotFound) // and not a mixture
		if text := read(t, o, "f"); text != "short" {
			t.Errorf("%.100q", text)
		}
		for range 2 {
			if err := o.Delete(ctx, "f"); err != nil {
				t.Fatal(err)
			}
			_, err = o.Open(ctx, "f")
			is(t, err, ErrNotFound)
		}
		if n := must[*Objects](t)(s.Objects(ctx, "files", 0)).stream.CachedInfo().State.Msgs; n != 0 {
			t.Errorf("%d chunks are left", n)
		}
	})
}
