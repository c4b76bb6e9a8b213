package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sluice/gateway/claude"
	"sluice/gateway/limits"
)

// keeper is where a test keeps ends.
type keeper struct {
	ends   chan Ending
	answer chan bool
}

func newKeeper() *keeper { return &keeper{make(chan Ending), make(chan bool)} }

func (k *keeper) keep(e Ending) bool {
	k.ends <- e
	return <-k.answer
}

// keeps lets the next end be kept, and returns it.
func (k *keeper) keeps() Ending {
	e := <-k.ends
	k.answer <- true
	return e
}

func announced(k *keeper, change ...func(*Kept)) Kept {
	kept := Kept{ID: newID(), Owner: "key:alice", Plan: plan, Created: time.Now(), Status: Queued, Attempt: 1, Retention: 72 * time.Hour, Keep: k.keep}
	for _, f := range change {
		f(&kept)
	}
	return kept
}

func (h *house) announce(k Kept) *Stream {
	h.t.Helper()
	s, err := h.Announce(k)
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

// begins lets a stream begin as a worker does, and returns the upstream's side. Only in a bubble.
func (h *house) begins(s *Stream, attempt int) (c *call, begun <-chan error) {
	h.t.Helper()
	grant, err := h.limits.Enter(s.Owner, s.Plan, limits.Request{})
	if err != nil {
		h.t.Fatal(err)
	}
	request := params().Request
	if err := h.Reserve(int64(len(request.Body))); err != nil {
		h.t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() { result <- s.Begin(Beginning{Attempt: attempt, Grant: grant, Request: request}) }()
	return <-h.calls, result
}

func log(t testing.TB, e Ending) []byte {
	t.Helper()
	b, err := io.ReadAll(e.Log())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestKeptStreamIsWatchedFromBeforeItsBeginningToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, k := newHouse(t), newKeeper()
		kept := announced(k)
		s := h.announce(kept)
		if h.announce(kept) != s {
			t.Error("a stream is announced twice")
		}
		v := attach(t, s, "", true)
		if n := s.Snapshot(true); n.Status != Queued || n.Attempt != 1 || n.Viewers != 1 || string(n.Message) != "null" || !n.ExpiresAt.IsZero() {
			t.Errorf("%+v", n)
		}
		c, begun := h.begins(s, 1)
		c.send(opening("Hello")...)
		if err := <-begun; err != nil {
			t.Fatal(err)
		}
		if n := s.Snapshot(false); n.Status != InProgress {
			t.Errorf("%+v", n)
		}
		c.send(closing()...)
		e := <-k.ends
		// As long as the end is not kept, nobody sees it.
		pass(time.Hour)
		frames, ended := taken(t, v)
		if len(frames) != 5 || ended || closed(s.Done()) || s.Snapshot(false).Status != InProgress {
			t.Errorf("%d events, ended %v, %+v", len(frames), ended, s.Snapshot(false))
		}
		s.Cancel()
		k.answer <- true
		<-s.Done()
		frames = append(frames, follow(t, v)...)
		checkDelivery(t, answer("Hello"), "", frames, 0, 6, true)
		if got := log(t, e); !bytes.Equal(got, bytes.Join(pieces(s), nil)) {
			t.Errorf("kept %q", got)
		}
		if e.Status != Completed || e.Attempt != 1 || e.Model != model || e.Source != Reported || !strings.Contains(string(e.Usage), `"output_tokens":42`) || e.Failure != nil {
			t.Errorf("%+v", e)
		}
		if n := s.Snapshot(true); n.Status != Completed || n.EndedAt != e.At || n.ExpiresAt != e.At.Add(72*time.Hour) {
			t.Errorf("%+v", n)
		}
		h.want(map[string]float64{outcome(Completed): 1})
		pass(time.Hour)
		h.quiet()
	})
}

// pieces is a stream's log as it lies there.
func pieces(s *Stream) (frames [][]byte) {
	v := s.log.view()
	for i := range v.entries {
		frames = append(frames, v.frame(i))
	}
	return frames
}

func TestRefusedBeginningLeavesAKeptStreamWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, k := newHouse(t), newKeeper()
		s := h.announce(announced(k))
		v := attach(t, s, "", false)
		for range 3 {
			c, begun := h.begins(s, 1)
			c.send(overloaded())
			var refused *claude.Error
			if err := <-begun; !errors.As(err, &refused) || refused.Type != claude.Overloaded {
				t.Fatalf("Begin: %v", err)
			}
			if frames, ended := taken(t, v); len(frames) > 0 || ended || s.Snapshot(false).Status != Queued {
				t.Errorf("%v, %v, %+v", frames, ended, s.Snapshot(false))
			}
		}
		h.want(map[string]float64{"sluice_streams_active": 0})
		c, begun := h.begins(s, 3) // two others were begun by other processes meanwhile
		c.send(answer("Hello")...)
		if e := k.keeps(); e.Attempt != 3 {
			t.Errorf("%+v", e)
		}
		if err := <-begun; err != nil {
			t.Error(err)
		}
		checkDelivery(t, answer("Hello"), "3.", follow(t, v), 0, 6, false)
		late, resume, reason, err := s.Attach("2.1", false)
		if err != nil || resume != ResumeResync || reason != NewAttempt {
			t.Fatalf("%v, %v, %v", resume, reason, err)
		}
		late.Detach(EndGone)
		h.want(map[string]float64{outcome(Completed): 1, outcome(Failed): 0})
		pass(time.Hour)
		h.quiet()
	})
}

// TestKeptStreamEndsOnceAndHoldsNothing ends it in each way, before and after its beginning.
func TestKeptStreamEndsOnceAndHoldsNothing(t *testing.T) {
	for name, c := range map[string]struct {
		begin  bool
		do     func(h *house, s *Stream, c *call)
		status Status
		last   string
	}{
		"canceled before":     {false, func(_ *house, s *Stream, _ *call) { s.Cancel() }, Canceled, claude.Canceled},
		"failed before":       {false, func(_ *house, s *Stream, _ *call) { s.Fail(&claude.Error{Type: claude.Timeout}) }, Failed, claude.Timeout},
		"canceled":            {true, func(_ *house, s *Stream, _ *call) { s.Cancel() }, Canceled, claude.Canceled},
		"canceled and failed": {true, func(_ *house, s *Stream, c *call) { s.Cancel(); c.cut(); s.Cancel() }, Canceled, claude.Canceled},
		"cut":                 {true, func(_ *house, s *Stream, c *call) { c.cut() }, Failed, claude.APIError},
		"an error":            {true, func(_ *house, s *Stream, c *call) { c.send(overloaded()) }, Failed, claude.Overloaded},
		"completed":           {true, func(_ *house, s *Stream, c *call) { c.send(closing()...); c.finish() }, Completed, "message_stop"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, k := newHouse(t), newKeeper()
				s := h.announce(announced(k))
				v := attach(t, s, "", false)
				var up *call
				if c.begin {
					var begun <-chan error
					up, begun = h.begins(s, 1)
					up.send(opening("Hello")...)
					<-begun
				}
				c.do(h, s, up)
				e := k.keeps()
				frames := follow(t, v)
				last := frames[len(frames)-1]
				if kind, _, _ := claude.ParseError([]byte(last.data)); last.name != c.last && kind != c.last {
					t.Errorf("the end is %+v", last)
				}
				for _, f := range frames[:len(frames)-1] {
					if f.end() {
						t.Errorf("%+v is not the last", f)
					}
				}
				if n := s.Snapshot(false); n.Status != c.status || e.Status != c.status || (n.Failure == nil) != (c.status == Completed) {
					t.Errorf("%+v, kept %+v", n, e)
				}
				if err := s.Begin(Beginning{Attempt: 2}); err != ErrOver {
					t.Errorf("Begin after the end: %v", err)
				}
				if restored, err := readLog(log(t, e)); err != nil || len(restored.entries) != len(pieces(s)) {
					t.Errorf("kept %q, %v", log(t, e), err)
				}
				pass(time.Hour)
				h.quiet()
			})
		})
	}
}

// TestEndThatIsNotKeptIsNone: the stream is run again elsewhere, so its viewers must come again.
func TestEndThatIsNotKeptIsNone(t *testing.T) {
	for name, fails := range map[string]func(Ending) bool{
		"it can't be": func(Ending) bool { return false },
		"a defect":    func(Ending) bool { panic("a defect") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t)
				s := h.announce(announced(newKeeper(), func(k *Kept) { k.Keep = fails }))
				v := attach(t, s, "", true)
				c, begun := h.begins(s, 1)
				c.send(answer("Hello")...)
				<-begun
				<-s.Done()
				partedWith(t, h, s, v, 5)
			})
		})
	}
}

// partedWith looks that a viewer has seen so many events and no end, and that the relay knows the stream no more.
func partedWith(t *testing.T, h *house, s *Stream, v *Viewer, events int) {
	t.Helper()
	frames, ended := taken(t, v)
	if len(frames) != events || !ended || !v.Parted() || !s.Parted() {
		t.Errorf("%d events, ended %v, parted %v", len(frames), ended, v.Parted())
	}
	for _, f := range frames {
		if f.end() {
			t.Errorf("an end: %+v", f)
		}
	}
	if _, _, _, err := s.Attach("1", true); err != ErrDraining {
		t.Errorf("Attach: %v", err)
	}
	if _, err := h.Get(s.Owner, s.ID); err != ErrNotFound {
		t.Errorf("Get: %v", err)
	}
	v.Detach(EndGone)
	h.want(map[string]float64{outcome(Completed): 0, outcome(Failed): 0})
	h.quiet()
}

func TestDrainPartsWithWhatWaitsAndStopWithWhatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, k := newHouse(t), newKeeper()
		waits, runs, ends := h.announce(announced(k)), h.announce(announced(k)), h.announce(announced(k))
		w, r := attach(t, waits, "", true), attach(t, runs, "", true)
		c, begun := h.begins(runs, 1)
		c.send(opening("Hello")...)
		<-begun
		d, begun := h.begins(ends, 1)
		d.send(opening("Hello")...)
		<-begun
		over, cancel := context.WithCancel(t.Context())
		drained := make(chan struct{})
		go func() { defer close(drained); h.Drain(over) }()
		synctest.Wait()
		partedWithViewer := func(v *Viewer, s *Stream, events int) {
			t.Helper()
			if frames, ended := taken(t, v); len(frames) != events || !ended || !s.Parted() {
				t.Errorf("%d events, ended %v", len(frames), ended)
			}
			v.Detach(EndGone)
		}
		partedWithViewer(w, waits, 0)
		if _, err := h.Announce(announced(k)); err != ErrDraining {
			t.Errorf("Announce: %v", err)
		}
		h.Reserve(1)
		if err := waits.Begin(Beginning{Request: claude.Request{Body: []byte("{")}}); err != ErrDraining {
			t.Errorf("Begin: %v", err)
		}
		if closed(drained) || runs.Parted() {
			t.Error("a stream that runs is not waited for")
		}
		d.send(closing()...)
		e := <-k.ends // its end is being kept when the time is over
		cancel()
		<-drained
		stopped := make(chan struct{})
		go func() { defer close(stopped); h.Stop(t.Context()) }()
		synctest.Wait()
		partedWithViewer(r, runs, 3)
		<-c.left
		if ends.Parted() || e.Status != Completed {
			t.Error("an end that is being kept is given up")
		}
		k.answer <- true
		<-stopped
		if n := ends.Snapshot(false); n.Status != Completed {
			t.Errorf("%+v", n)
		}
		h.want(map[string]float64{outcome(Completed): 1, outcome(Failed): 0, "sluice_streams_active": 0})
	})
}

func TestRestoredStreamIsReadByteForByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(3, 7))
		h, k := newHouse(t), newKeeper()
		for attempt := 1; attempt <= 3; attempt++ {
			events := randomAnswer(rng, 150)
			var l eventLog
			if attempt > 1 {
				l.prefix = []string{"2.", "3."}[attempt-2]
			}
			for _, e := range events {
				l.append(e.kind(), []byte(e.name), []byte(e.data), time.Now())
			}
			v := l.view()
			frames, err := io.ReadAll(v.reader(nil))
			if err != nil {
				t.Fatal(err)
			}
			ended := Ended{Status: Completed, At: time.Now(), Log: frames}
			kept := announced(k, func(k *Kept) { k.Attempt = attempt })
			shell := h.announce(kept) // somebody waits for it
			waiting := attach(t, shell, "", true)
			s, err := h.Restore(kept, ended)
			if err != nil || s != shell {
				t.Fatalf("%v, %v", s, err)
			}
			checkDelivery(t, events, l.prefix, follow(t, waiting), 0, len(events), true)
			checkDelivery(t, events, l.prefix, read(t, s), 0, len(events), true)
			checkDelivery(t, events, l.prefix, follow(t, attach(t, s, l.prefix+"7", false)), 7, len(events), false)
			if got := bytes.Join(pieces(s), nil); !bytes.Equal(got, frames) {
				t.Error("the log is another")
			}
			if n := s.Snapshot(true); n.Attempt != attempt || n.Status != Completed || n.Model != model || n.EndedAt != ended.At {
				t.Errorf("%+v", n)
			}
			if _, resume, _, err := s.Attach(l.prefix+"999999", true); err != nil || resume != ResumeResync {
				t.Errorf("%v, %v", resume, err)
			}
			again, err := h.Restore(kept, ended)
			if err != nil || again != s {
				t.Errorf("restored twice: %v", err)
			}
			if err := h.Delete(s.Owner, s.ID); err != nil {
				t.Error(err)
			}
		}
		for _, garbage := range []string{"x", "id: 1\n", "id: 2\ndata: \n\n", "id: 1\ndata: a\n\nid: 1\ndata: b\n\n", "id: 1\nevent: x\n\n", "data: a\n\n", "id: 1\ndata: a\n\nid: 2\ndata: b"} {
			if _, err := h.Restore(announced(k), Ended{Log: []byte(garbage)}); err == nil {
				t.Errorf("%q is taken for a log", garbage)
			}
		}
	})
}

func TestRestoredStreamsGiveWayWhenMemoryIsScarce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, k := newHouse(t, func(s *setup) { s.Memory = 100_000 }), newKeeper()
		var l eventLog
		for range 30 {
			l.append(claude.BlockDelta, []byte("content_block_delta"), []byte(textDelta(strings.Repeat("x", 1000)).data), time.Now())
		}
		frames, _ := io.ReadAll(l.view().reader(nil))
		for range 10 { // each gives way to the next
			if _, err := h.Restore(announced(k), Ended{Status: Failed, At: time.Now(), Log: frames}); err != nil {
				t.Fatal(err)
			}
		}
		if used := h.metric("sluice_log_bytes"); used > 100_000 {
			t.Errorf("%v bytes are used", used)
		}
		if _, err := h.Restore(announced(k), Ended{Status: Failed, Log: bytes.Repeat(frames, 1)[:0]}); err != nil {
			t.Errorf("an empty log: %v", err)
		}
		if err := h.Reserve(95_000); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Restore(announced(k), Ended{Status: Failed, Log: frames}); err != ErrMemory {
			t.Errorf("Restore: %v", err)
		}
		for h.Reserve(100) == nil {
		}
		if _, err := h.Announce(announced(k)); err != ErrMemory {
			t.Errorf("Announce: %v", err)
		}
	})
}

func FuzzReadLog(f *testing.F) {
	f.Add([]byte("id: 1\nevent: message_start\ndata: {}\n\nid: 2\ndata: a\ndata: b\n\n"))
	f.Add([]byte("id: 2.1\ndata: \n\n"))
	f.Fuzz(func(t *testing.T, frames []byte) {
		l, err := readLog(frames)
		if err != nil {
			return
		}
		v := l.view()
		again := eventLog{prefix: l.prefix}
		for i := range v.entries {
			_, name, _ := bytes.Cut(v.frame(i), []byte("\n"))
			if name, _, _ = bytes.Cut(name, []byte("\n")); !bytes.HasPrefix(name, []byte("event: ")) {
				name = []byte("event: ")
			}
			again.append(v.entries[i].kind, name[len("event: "):], v.data(i), time.Now())
		}
		if got, _ := io.ReadAll(again.view().reader(nil)); !bytes.Equal(got, frames) {
			t.Fatalf("%q became %q", frames, got)
		}
	})
}
