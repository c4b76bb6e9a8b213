package store

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
)

var kills = flag.Int("kills", 3, "how often the writing process is killed")

// helperDir is the variable that makes this test binary the process that is killed.
const helperDir = "SLUICE_STORE_KILLED"

// writeUntilKilled writes all that there is to write, over and over, and says what the store has acknowledged.
func writeUntilKilled(dir string) {
	ctx := context.Background()
	fail := func(err error) {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	s, err := Open(ctx, Config{Dir: dir}, slog.New(slog.DiscardHandler))
	if err != nil {
		fail(err)
	}
	records, err := s.Records(ctx, "words", 0)
	if err != nil {
		fail(err)
	}
	queue, err := s.Queue(ctx, "work")
	if err != nil {
		fail(err)
	}
	objects, err := s.Objects(ctx, "files", 0)
	if err != nil {
		fail(err)
	}
	for n := os.Getpid() << 20; ; n++ {
		name := fmt.Sprint(n)
		if _, err := records.Create(ctx, Key{name}, []byte(name)); err != nil {
			fail(err)
		}
		fmt.Println("record", name)
		if err := queue.Push(ctx, name, []byte(name)); err != nil {
			fail(err)
		}
		fmt.Println("item", name)
		if err := objects.Put(ctx, name, strings.NewReader(objectOf(name))); err != nil {
			fail(err)
		}
		fmt.Println("object", name)
		if n%3 == 0 {
			i, err := queue.Next(ctx)
			if err == nil {
				err = i.Done(ctx)
			}
			if err != nil {
				fail(err)
			}
			fmt.Println("done", i.ID)
		}
	}
}

func objectOf(name string) string { return strings.Repeat(name+" ", 100_000) }

// TestKilledProcessLosesNothingThatWasAcknowledged kills a process in the midst of writing, several times on the same
// files, and reads what is there.
func TestKilledProcessLosesNothingThatWasAcknowledged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	said := map[string]map[string]bool{"record": {}, "item": {}, "object": {}, "done": {}}
	for round := range *kills {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), helperDir+"="+dir)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out := must[interface{ Read([]byte) (int, error) }](t)(pipe(cmd))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 1; lines.Scan(); n++ {
			kind, name, _ := strings.Cut(lines.Text(), " ")
			if said[kind] == nil {
				t.Fatalf("the process says %q, %s", lines.Text(), stderr.String())
			}
			said[kind][name] = true
			if n == 7+5*round {
				cmd.Process.Kill() // it goes on a little, and what it says is read
			}
		}
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.Exited() {
			t.Fatalf("the process was not killed: %v %s", err, stderr.String())
		}
	}
	ctx := t.Context()
	s := open(t, Config{Dir: dir})
	records := must[*Records](t)(s.Records(ctx, "words", 0))
	queue := must[*Queue](t)(s.Queue(ctx, "work"))
	objects := must[*Objects](t)(s.Objects(ctx, "files", 0))
	for name := range said["record"] {
		if r := must[Record](t)(records.Get(ctx, Key{name})); string(r.Value) != name {
			t.Errorf("record %s is %q", name, r.Value)
		}
	}
	for name := range said["object"] {
		if read(t, objects, name) != objectOf(name) {
			t.Errorf("object %s is another", name)
		}
	}
	for range must[int](t)(queue.Depth(ctx)) {
		i := must[*Item](t)(queue.Next(ctx))
		delete(said["item"], i.ID)
		if said["done"][i.ID] {
			t.Logf("%s was done and came again", i.ID) // allowed, but rare
		}
	}
	for name := range said["item"] {
		if !said["done"][name] {
			t.Errorf("item %s is lost", name)
		}
	}
	t.Logf("%d kills: %d records, %d objects, %d items done, nothing lost", *kills, len(said["record"]), len(said["object"]), len(said["done"]))
}

func pipe(cmd *exec.Cmd) (interface{ Read([]byte) (int, error) }, error) { return cmd.StdoutPipe() }
