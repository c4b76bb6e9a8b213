package relay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sluice/gateway/claude"
)

// cursor reads a log without any lock, at random: the model of a viewer.
type cursor struct {
	next   int
	exact  bool
	got    []frame // since from
	from   int
	before []frame // what it has seen of the log from its first event on, if it began there; nil otherwise
	whole  bool

	scratch []byte // where its merged frames are built
}

// kept is a piece that was handed out, and what it said then.
type kept struct{ piece, said []byte }

// logTest runs one random history of one log.
type logTest struct {
	t       *testing.T
	rng     *rand.Rand
	log     eventLog
	events  []event
	cursors []*cursor
	pieces  []kept
}

func (lt *logTest) attach(id string, exact bool, from int) *cursor {
	lt.t.Helper()
	c := &cursor{from: from, exact: exact, whole: from == 0}
	if id != "" {
		attempt := 1
		if lt.log.prefix != "" {
			attempt = 2
		}
		next, reason := lt.log.locate(id, attempt)
		if next != from || reason != "" {
			lt.t.Fatalf("id %q is at %d (%s), want %d", id, next, reason, from)
		}
		c.next = next
	}
	return c
}

func (lt *logTest) id(n int) string { return lt.log.prefix + strconv.Itoa(n) }

// take reads some of what is past the cursor, as frames as they came or merged.
func (lt *logTest) take(c *cursor) {
	lt.t.Helper()
	v := lt.log.view()
	if c.next == len(v.entries) {
		return
	}
	var pieces [][]byte
	var events int
	if c.exact || lt.rng.IntN(3) == 0 {
		var frames []byte
		frames, events = v.run(c.next)
		pieces = [][]byte{frames}
		if len(frames) > longText && events > 1 {
			lt.t.Fatalf("%d events of %d bytes at once", events, len(frames))
		}
	} else {
		var coalesced int
		pieces, c.scratch, events, coalesced = v.merged(c.next, nil, c.scratch[:0])
		if coalesced > events || coalesced == 1 {
			lt.t.Fatalf("%d of %d events were merged", coalesced, events)
		}
	}
	if events < 1 || c.next+events > len(v.entries) {
		lt.t.Fatalf("%d events from %d of %d", events, c.next, len(v.entries))
	}
	if lt.rng.IntN(2) == 0 { // what was handed out is looked at again at the end
		c.scratch = nil
		for _, piece := range pieces {
			lt.pieces = append(lt.pieces, kept{piece, bytes.Clone(piece)})
		}
	}
	frames := parse(lt.t, bytes.Join(pieces, nil))
	if last := frames[len(frames)-1].id; last != lt.id(c.next+events) {
		lt.t.Fatalf("took %d events after %d, but the last id is %q", events, c.next, last)
	}
	c.got = append(c.got, frames...)
	c.next += events
}

// check compares what a cursor got since it attached with what there was to get.
func (lt *logTest) check(c *cursor) {
	lt.t.Helper()
	checkDelivery(lt.t, lt.events, lt.log.prefix, c.got, c.from, c.next, c.exact)
}

func (lt *logTest) step() {
	switch n := lt.rng.IntN(10); {
	case n < 4 && len(lt.cursors) < 8: // somebody comes, with any cursor or none
		from, id := lt.rng.IntN(len(lt.log.entries)+1), ""
		if from > 0 {
			id = lt.id(from)
		}
		lt.cursors = append(lt.cursors, lt.attach(id, lt.rng.IntN(3) == 0, from))
	case len(lt.cursors) == 0:
	case n < 8:
		lt.take(lt.cursors[lt.rng.IntN(len(lt.cursors))])
	default: // a connection drops and comes back after the last id that it has seen, merged or not
		i := lt.rng.IntN(len(lt.cursors))
		old := lt.cursors[i]
		lt.check(old)
		id := ""
		if old.next > 0 {
			id = lt.id(old.next)
		}
		c := lt.attach(id, old.exact, old.next)
		c.whole, c.before = old.whole, append(old.before, old.got...)
		lt.cursors[i] = c
	}
}

func (lt *logTest) run(events []event) {
	t := lt.t
	lt.events = events
	lt.cursors = []*cursor{{exact: true, whole: true}, {whole: true}}
	for _, e := range events {
		name, data := []byte(e.name), []byte(e.data)
		g, err := lt.log.append(e.kind(), name, data, time.Unix(0, 0))
		if err != nil || g < 0 {
			t.Fatalf("append: %d, %v", g, err)
		}
		for _, b := range [][]byte{name, data} { // they were the decoder's, which uses them again
			for i := range b {
				b[i] = '!'
			}
		}
		for range lt.rng.IntN(4) {
			lt.step()
		}
	}
	for _, c := range lt.cursors {
		for c.next < len(events) {
			lt.take(c)
		}
		lt.check(c)
	}
	var want string
	for _, c := range lt.cursors {
		if !c.whole {
			continue
		}
		got := message(t, append(c.before, c.got...))
		if want == "" {
			want = got
		}
		if got != want {
			t.Errorf("accumulated (exact: %v) %s", c.exact, differ(got, want))
		}
	}
	for _, k := range lt.pieces {
		if !bytes.Equal(k.piece, k.said) {
			t.Fatalf("what was handed out has changed from %.200q to %.200q", k.said, k.piece)
		}
	}
	v := lt.log.view()
	for i, e := range events {
		if string(v.data(i)) != e.data {
			t.Fatalf("event %d is kept as %.200q, was %.200q", i+1, v.data(i), e.data)
		}
	}
}

func TestEachViewerGetsEachEventOnceWhateverItDrops(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			lt := &logTest{t: t, rng: rng}
			if seed%4 == 3 {
				lt.log.prefix = "2."
			}
			lt.run(randomAnswer(rng, 20+rng.IntN(100)))
		})
		if !ok {
			return
		}
	}
}

// FuzzMergingLosesNothing takes the upstream's data from the fuzzer: three deltas of any bytes.
func FuzzMergingLosesNothing(f *testing.F) {
	for _, text := range fragments {
		d := textDelta(text).data
		f.Add(d, d, textDelta("x").data)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for range 100 {
		f.Add(stray(rng, 0).data, textDelta("x").data, stray(rng, 0).data)
	}
	f.Fuzz(func(t *testing.T, a, b, c string) {
		var l eventLog
		exact := make([]frame, 0, 5)
		events := []event{messageStart(), textStart(0)}
		for _, data := range []string{a, b, c} {
			if strings.Contains(data, "\r") || len(data) > 4<<10 {
				return // a carriage return ends a line, so the decoder never returns it; size is not the point here
			}
			events = append(events, event{name: "content_block_delta", data: data})
		}
		for i, e := range events {
			if _, err := l.append(e.kind(), []byte(e.name), []byte(e.data), time.Time{}); err != nil {
				t.Fatal(err)
			}
			exact = append(exact, frame{id: strconv.Itoa(i + 1), name: e.name, data: e.data})
		}
		v := l.view()
		pieces, _, n, _ := v.merged(0, nil, nil)
		if n != len(events) {
			t.Fatalf("%d events of %d", n, len(events))
		}
		merged := parse(t, bytes.Join(pieces, nil))
		var untouched []frame
		for i := 0; i < len(events); {
			frames, n := v.run(i)
			untouched = append(untouched, parse(t, frames)...)
			i += n
		}
		if !slices.Equal(untouched, exact) {
			t.Fatalf("as they came: %q", untouched)
		}
		if !json.Valid([]byte(a)) || !json.Valid([]byte(b)) || !json.Valid([]byte(c)) {
			return
		}
		if got, want := message(t, merged), message(t, exact); got != want {
			t.Errorf("merged %q makes %s", merged, differ(got, want))
		}
	})
}

func TestNeighboursAreMergedToOneFrameUnderTheLastId(t *testing.T) {
	var l eventLog
	for _, e := range answer("Hel", "lo, ", `\ud83d`, `\ude00`) {
		l.append(e.kind(), []byte(e.name), []byte(e.data), time.Time{})
	}
	pieces, _, events, coalesced := l.view().merged(0, nil, nil)
	frames := parse(t, bytes.Join(pieces, nil))
	want := frame{"6", "content_block_delta", `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello, \ud83d\ude00"}}`}
	if events != 9 || coalesced != 4 || len(frames) != 6 || frames[2] != want {
		t.Errorf("%d events, %d merged: %q", events, coalesced, frames)
	}
}

func TestALogStopsAtItsBoundAndTheEndStillFits(t *testing.T) {
	var l eventLog
	data := bytes.Repeat([]byte("x"), 15_000_000)
	var err error
	appended := 0
	for err == nil && appended < 5 {
		if _, err = l.append(claude.Other, []byte("future_event"), data, time.Time{}); err == nil {
			appended++
		}
	}
	if !errors.Is(err, errLogFull) || appended != 2 {
		t.Fatalf("after %d events of 15 MB: %v", appended, err)
	}
	if _, err := l.append(claude.Other, nil, []byte("small"), time.Time{}); err != nil {
		t.Errorf("what fits was refused: %v", err)
	}
	if _, err := l.append(claude.Failure, []byte("error"), data, time.Time{}); err != nil {
		t.Errorf("the end was refused: %v", err)
	}
	if n := len(l.view().entries); n != 4 {
		t.Errorf("%d events", n)
	}
}

// What the log says that it takes is what the process has lost to it, within what the allocator rounds up.
func TestMemoryIsCountedAsItIsAllocated(t *testing.T) {
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for name, data := range map[string]string{
		"short events": textDelta("a word").data, "events over a segment": strings.Repeat("x", 70_000), "empty": "",
	} {
		t.Run(name, func(t *testing.T) {
			logs := make([]eventLog, 100)
			b := []byte(data)
			before, counted := heap(), int64(0)
			for i := range logs {
				for range 1 + 200_000/(len(b)+200) {
					grown, err := logs[i].append(claude.BlockDelta, []byte("content_block_delta"), b, time.Time{})
					if err != nil {
						t.Fatal(err)
					}
					counted += grown
				}
			}
			taken := heap() - before
			if counted < taken*85/100 || counted > taken*115/100 {
				t.Errorf("counted %d, taken %d", counted, taken)
			}
			runtime.KeepAlive(logs)
		})
	}
}
