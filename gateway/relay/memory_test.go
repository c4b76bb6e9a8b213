package relay

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sluice/gateway/limits"
)

func TestAnEndedStreamCanBeReadForItsRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, func(s *setup) { s.Retention = time.Hour })
		s := h.completed()
		if n := s.Snapshot(false); n.ExpiresAt.Sub(n.EndedAt) != time.Hour {
			t.Errorf("ended at %v, expires at %v", n.EndedAt, n.ExpiresAt)
		}
		pass(time.Hour - 1)
		got, err := h.Get(s.Owner, s.ID)
		if err != nil || len(read(t, got)) != 6 {
			t.Fatalf("before its time is over: %v", err)
		}
		pass(1)
		synctest.Wait()
		if _, err := h.Get(s.Owner, s.ID); err != ErrNotFound || h.Evicted(s.ID) {
			t.Errorf("after it: %v, evicted %v", err, h.Evicted(s.ID))
		}
		h.quiet()
	})
}

func TestWhoReadsAStreamPastItsRetentionReadsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.completed()
		v := attach(t, s, "", true)
		pass(time.Hour)
		synctest.Wait()
		if h.metric("sluice_log_bytes") == 0 {
			t.Error("what is being read is not counted")
		}
		if frames := follow(t, v); len(frames) != 6 {
			t.Errorf("%d events", len(frames))
		}
		h.quiet()
	})
}

// big makes a stream's log take at least so many bytes.
func big(bytes int) []event { return opening(strings.Repeat("x", bytes)) }

func TestTheOldestEndedStreamsGiveWayFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, func(s *setup) { s.Memory = 400_000 })
		live, _ := h.open()
		var ended []*Stream
		for range 4 {
			s, c := h.open()
			c.send(big(20_000)[2])
			c.send(closing()...)
			<-s.Done()
			synctest.Wait()
			ended = append(ended, s)
			pass(time.Second)
		}
		gone := func(want int) {
			t.Helper()
			for i, s := range ended {
				_, err := h.Get(s.Owner, s.ID)
				if (err != nil) != (i < want) || h.Evicted(s.ID) != (i < want) {
					t.Errorf("stream %d of %d to give way: %v, evicted %v", i, want, err, h.Evicted(s.ID))
				}
			}
		}
		gone(0)
		free := 400_000 - int64(h.metric("sluice_log_bytes"))
		if err := h.Reserve(free); err != nil {
			t.Fatal(err)
		}
		gone(0)
		if err := h.Reserve(1); err != nil {
			t.Fatal(err)
		}
		gone(1)
		next := h.start() // a stream makes room for itself too
		gone(1)
		next.Cancel()
		if err := h.Reserve(400_000); err != ErrMemory {
			t.Fatalf("more than there is: %v", err)
		}
		gone(1) // what would not help is kept
		if _, err := h.Get(live.Owner, live.ID); err != nil || len(mustTake(t, live)) != 3 {
			t.Errorf("a live stream gave way: %v", err)
		}
		pass(time.Hour)
		synctest.Wait()
		if h.Evicted(ended[0].ID) {
			t.Error("still remembered after its time")
		}
		h.Release(free + 1)
		h.Delete(live.Owner, live.ID)
		h.quiet()
	})
}

// mustTake is what there is of a stream now.
func mustTake(t *testing.T, s *Stream) []frame {
	t.Helper()
	v := attach(t, s, "", true)
	frames, _ := taken(t, v)
	v.Detach(EndGone)
	return frames
}

func TestALiveStreamNeverGivesWayAndNewOnesAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, func(s *setup) { s.Memory = 50_000 })
		ended := h.completed()
		live, c := h.open()
		for range 100 { // beyond all there is
			c.send(textDelta(strings.Repeat("x", 2_000)))
		}
		synctest.Wait()
		if _, err := h.Get(ended.Owner, ended.ID); err != ErrNotFound || !h.Evicted(ended.ID) {
			t.Errorf("an ended stream kept its log from a live one: %v", err)
		}
		if err := h.Reserve(1); err != ErrMemory {
			t.Errorf("Reserve: %v", err)
		}
		if frames := mustTake(t, live); len(frames) != 103 {
			t.Errorf("%d events", len(frames))
		}
		p := params(func(p *Params) { p.Request.Body = nil })
		if _, _, err := h.Start(p); err != ErrMemory {
			t.Errorf("Start: %v", err)
		}
		v := attach(t, live, "", true)
		c.send(closing()...)
		if frames := follow(t, v); len(frames) != 106 {
			t.Errorf("%d events", len(frames))
		}
		if err := h.Reserve(1); err != nil || !h.Evicted(live.ID) {
			t.Errorf("once it has ended and is not read it does not give way: %v", err)
		}
		h.Release(1)
		h.quiet()
	})
}

func TestAStreamThatIsReadDoesNotGiveWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, func(s *setup) { s.Memory = 100_000 })
		s, c := h.open()
		c.send(textDelta(strings.Repeat("x", 10_000)))
		c.send(closing()...)
		<-s.Done()
		synctest.Wait()
		a, b := attach(t, s, "", true), attach(t, s, "", false)
		held := h.metric("sluice_log_bytes")
		if err := h.Reserve(100_000); err != ErrMemory {
			t.Fatalf("Reserve: %v", err)
		}
		h.want(map[string]float64{"sluice_log_bytes": held})
		if len(follow(t, a)) != 7 {
			t.Error("who was reading lost events")
		}
		if err := h.Reserve(100_000); err != ErrMemory {
			t.Fatalf("Reserve: %v", err)
		}
		follow(t, b)
		if err := h.Reserve(100_000); err != nil || !h.Evicted(s.ID) {
			t.Fatalf("Reserve when nobody reads it any more: %v", err)
		}
		h.Release(100_000)
		h.quiet()
	})
}

func TestMemoryIsGivenBackWhicheverWayItWasTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, func(s *setup) { s.plan.ConcurrentStreams = 4 })
		body := func(n int) func(*Params) {
			return func(p *Params) { p.Request.Body = []byte(strings.Repeat("b", n)) }
		}
		if err := h.Reserve(1_000_000); err != nil { // read and then refused by who read it
			t.Fatal(err)
		}
		h.want(map[string]float64{"sluice_log_bytes": 1_000_000})
		h.Release(1_000_000)
		h.quiet()

		waiting := h.start(body(2_000_000)) // held until the upstream has it
		if n := h.metric("sluice_log_bytes"); n < 2_000_000 || n > 2_020_000 {
			t.Errorf("%v bytes with a body of 2,000,000", n)
		}
		c := <-h.calls
		if len(c.body) != 2_000_000 {
			t.Errorf("the upstream got %d bytes", len(c.body))
		}
		c.send(opening("x")...)
		<-waiting.Opened()
		synctest.Wait()
		if n := h.metric("sluice_log_bytes"); n < 1 || n > 20_000 {
			t.Errorf("%v bytes once the upstream has answered", n)
		}

		canceled := h.start(body(3_000_000))
		<-h.calls
		canceled.Cancel()
		gone := h.start(body(1_000_000))
		(<-h.calls).cut()
		<-gone.Opened()
		h.start(body(10)).Cancel()
		h.refused(limits.ErrUnknownPlan, body(500), func(p *Params) { p.Plan = "no such" })
		waiting.Cancel()
		synctest.Wait()
		pass(time.Hour)
		synctest.Wait()
		h.quiet()
	})
}
