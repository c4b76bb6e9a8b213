package store

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// skip leaves a test out for want of something, unless that is forbidden.
func skip(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("SLUICE_FORBID_SKIP") != "" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// mount mounts a small file system, with mount's options, until the test ends.
func mount(t testing.TB, options string) string {
	t.Helper()
	dir := t.TempDir()
	if text, err := exec.Command("mount", "-t", "tmpfs", "-o", options, "tmpfs", dir).CombinedOutput(); err != nil {
		skip(t, fmt.Sprintf("no file system can be mounted here: %v: %s", err, text))
	}
	t.Cleanup(func() {
		if text, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, text)
		}
	})
	return dir
}

func readOnly(t testing.TB) string { return mount(t, "ro") }

const fullDisk = 48 << 20

// fill takes all room of a disk.
func fill(t testing.TB, dir string) (filler string) {
	t.Helper()
	filler = filepath.Join(dir, "filler")
	f := must[*os.File](t)(os.Create(filler))
	defer f.Close()
	b := make([]byte, 64<<10)
	for len(b) > 0 {
		if _, err := f.Write(b); err != nil {
			b = b[:len(b)/2] // to the last byte
		}
	}
	return filler
}

func TestRoomIsKeptForWhatWasTakenOn(t *testing.T) {
	t.Parallel()
	dir := mount(t, fmt.Sprintf("size=%d", fullDisk))
	s := open(t, Config{Dir: filepath.Join(dir, "data")})
	if err := s.Room(1 << 20); err != nil {
		t.Fatal(err)
	}
	is(t, s.Room(fullDisk), ErrFull)
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, fullDisk-fullDisk/20), 0o600); err != nil {
		t.Fatal(err)
	}
	is(t, s.Room(0), ErrFull)
	records := must[*Records](t)(s.Records(t.Context(), "words", 0))
	must[uint64](t)(records.Put(t.Context(), Key{"k"}, make([]byte, 100<<10))) // what is taken on can be finished
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := s.Room(1 << 20); err != nil {
		t.Error(err)
	}
}

// TestFullDiskLosesNothingAndIsRecoveredFrom fills the disk to its last byte under the engine's feet.
func TestFullDiskLosesNothingAndIsRecoveredFrom(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	dir := mount(t, fmt.Sprintf("size=%d", fullDisk))
	s := open(t, Config{Dir: filepath.Join(dir, "data")})
	records := must[*Records](t)(s.Records(ctx, "words", 0))
	queue := must[*Queue](t)(s.Queue(ctx, "work"))
	objects := must[*Objects](t)(s.Objects(ctx, "files", 0))
	written := map[int]bool{}
	n := 0
	write := func() (err error) {
		n++
		if _, err = records.Create(ctx, Key{fmt.Sprint(n)}, make([]byte, 10_000)); err == nil {
			written[n] = true
		}
		return err
	}
	for range 10 {
		if err := write(); err != nil {
			t.Fatal(err)
		}
	}
	if err := objects.Put(ctx, "kept", strings.NewReader("kept")); err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		if err := queue.Push(ctx, fmt.Sprint("item ", round), nil); err != nil {
			t.Fatal(err)
		}
		held := must[*Item](t)(queue.Next(ctx))
		filler := fill(t, dir)
		is(t, s.Room(0), ErrFull)
		var err error
		for err == nil {
			err = write()
		}
		is(t, err, ErrFull)
		is(t, write(), ErrFull) // at once: it is known
		is(t, queue.Push(ctx, "refused", nil), ErrFull)
		is(t, objects.Put(ctx, "refused", failingReader), ErrFull)
		eventually(t, func() bool { // what is there can be read
			_, err := records.Get(ctx, Key{"1"})
			return err == nil
		})
		if text := read(t, objects, "kept"); text != "kept" {
			t.Errorf("%q", text)
		}
		listed := 0
		for _, err := range records.List(ctx, nil) {
			if err != nil {
				t.Fatal(err)
			}
			listed++
		}
		if depth, err := queue.Depth(ctx); depth != 1 || err != nil || listed != len(written) {
			t.Errorf("depth %d, %v; %d records of %d", depth, err, listed, len(written))
		}
		is(t, write(), ErrFull)
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool { return write() == nil })
		if err := held.Done(ctx); err != nil { // that it was handed out could not be written either: it comes again
			is(t, err, ErrUnavailable)
			again := must[*Item](t)(queue.Next(ctx))
			if err := again.Done(ctx); err != nil || again.ID != held.ID {
				t.Fatalf("%s, %v", again.ID, err)
			}
		}
		if n := must[int](t)(queue.Depth(ctx)); n != 0 {
			t.Errorf("%d items are left", n)
		}
	}
	for i := 1; i <= n; i++ {
		r, err := records.Get(ctx, Key{fmt.Sprint(i)})
		if written[i] && (err != nil || len(r.Value) != 10_000) || !written[i] && !errors.Is(err, ErrNotFound) {
			t.Errorf("record %d, written: %v; now %v", i, written[i], err)
		}
	}
}

func TestFullDiskIsSaidAtTheStart(t *testing.T) {
	t.Parallel()
	dir := mount(t, "size=1m")
	fill(t, dir)
	_, err := openDirectory(filepath.Join(dir, "data"))
	is(t, err, ErrFull)
}
