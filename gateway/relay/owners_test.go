package relay

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sluice/gateway/limits"
)

func TestNobodyElseReadsListsOrDeletesAStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s, _ := h.open()
		for _, owner := range []string{"key:bob", "user:alice", "KEY:ALICE", ""} {
			if got, err := h.Get(owner, s.ID); got != nil || err != ErrNotFound {
				t.Errorf("Get as %q: %v, %v", owner, got, err)
			}
			if err := h.Delete(owner, s.ID); err != ErrNotFound {
				t.Errorf("Delete as %q: %v", owner, err)
			}
			if streams, more, err := h.List(owner, "", 10); len(streams) != 0 || more || err != nil {
				t.Errorf("List as %q: %v, %v, %v", owner, streams, more, err)
			}
			if _, _, err := h.List(owner, s.ID, 10); err != ErrNotFound {
				t.Errorf("List as %q after another's stream: %v", owner, err)
			}
		}
		if got, err := h.Get("key:alice", s.ID); got != s || err != nil || closed(s.Done()) {
			t.Errorf("Get as its owner: %v, %v", got, err)
		}
	})
}

func TestIdsCannotBeGuessed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		seen := make(map[string]bool)
		for range 100 {
			id := h.start().ID
			if rest, ok := strings.CutPrefix(id, "strm_"); !ok || len(rest) != 32 || seen[id] {
				t.Fatalf("%q", id) // 128 bits
			}
			seen[id] = true
		}
		stop(h)
	})
}

func TestAListIsInPagesNewestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		if streams, more, err := h.List("key:alice", "", 10); len(streams) != 0 || more || err != nil {
			t.Fatalf("of nothing: %v, %v, %v", streams, more, err)
		}
		var all []*Stream
		for i := range 7 {
			s := h.completed()
			if i%2 == 0 { // another's between them
				h.completed(func(p *Params) { p.Owner = "key:bob" })
			}
			all = append(all, s)
		}
		slices.Reverse(all)
		for _, limit := range []int{1, 2, 3, 6, 7, 8, 100} {
			var got []*Stream
			after := ""
			for {
				page, more, err := h.List("key:alice", after, limit)
				if err != nil || len(page) > limit || more != (len(got)+len(page) < len(all)) {
					t.Fatalf("%d a page, after %d: %d, more %v, %v", limit, len(got), len(page), more, err)
				}
				got = append(got, page...)
				if !more {
					break
				}
				after = page[len(page)-1].ID
			}
			if !slices.Equal(got, all) {
				t.Errorf("%d a page: %d streams, or not in order", limit, len(got))
			}
		}
		h.Delete("key:alice", all[3].ID)
		if page, more, err := h.List("key:alice", all[2].ID, 2); !slices.Equal(page, all[4:6]) || !more || err != nil {
			t.Errorf("past one that was deleted: %v, %v, %v", page, more, err)
		}
		if _, _, err := h.List("key:alice", all[3].ID, 2); err != ErrNotFound {
			t.Errorf("after one that was deleted: %v", err)
		}
	})
}

func TestWhatWasDeletedDidNotGiveWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, func(s *setup) { s.Memory = 20_000 })
		s, c := h.open()
		c.send(textDelta(strings.Repeat("x", 30_000))) // more than there is: it gives way as soon as it ends
		synctest.Wait()
		h.Delete(s.Owner, s.ID)
		if h.Evicted(s.ID) {
			t.Error("it is said to have given way to others")
		}
		h.quiet()
	})
}

func TestDeleteCancelsAndForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s, c := h.open()
		v := attach(t, s, "", true)
		if err := h.Delete(s.Owner, s.ID); err != nil {
			t.Fatal(err)
		}
		if n := s.Snapshot(false); n.Status != Canceled {
			t.Error(n.Status)
		}
		<-c.done
		if err := h.Delete(s.Owner, s.ID); err != ErrNotFound {
			t.Errorf("again: %v", err)
		}
		if frames := follow(t, v); len(frames) != 4 || frames[3].name != "error" {
			t.Errorf("who was reading it got %q", frames)
		}
		h.quiet()
		if h.Evicted(s.ID) {
			t.Error("it is said to have given way to others")
		}
		pass(time.Hour) // its retention would be over now
		h.quiet()
	})
}

func TestAStreamThatNobodyOwnsIsFoundByItsIdAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, func(s *setup) { s.plan.ConcurrentStreams = 2 })
		nobodys := func(p *Params) { p.Owner, p.Account, p.IdempotencyKey = "", "anonymous:203.0.113.9", "key" }
		s, c := h.open(nobodys)
		other, d := h.open(nobodys) // the same key and body, by whoever that is
		if s == other {
			t.Error("one caller without a name has joined another's stream")
		}
		var exceeded *limits.Exceeded
		h.Reserve(int64(len(params().Request.Body)))
		if _, _, err := h.Start(params(nobodys)); !errors.As(err, &exceeded) { // but their account is one
			t.Errorf("over the account's limit: %v", err)
		}
		_, e := h.open(func(p *Params) { p.Owner, p.Account, p.IdempotencyKey = "", "anonymous:203.0.113.10", "key" })
		for _, owner := range []string{"", "anonymous:203.0.113.9", "key:alice"} {
			if got, err := h.Get(owner, s.ID); got != nil || err != ErrNotFound {
				t.Errorf("Get as %q: %v, %v", owner, got, err)
			}
			if err := h.Delete(owner, s.ID); err != ErrNotFound {
				t.Errorf("Delete as %q: %v", owner, err)
			}
			if streams, more, err := h.List(owner, "", 10); len(streams) != 0 || more || err != nil {
				t.Errorf("List as %q: %v, %v, %v", owner, streams, more, err)
			}
			if _, _, err := h.List(owner, s.ID, 10); err != ErrNotFound {
				t.Errorf("List as %q after it: %v", owner, err)
			}
		}
		if got, err := h.Find(s.ID); got != s || err != nil {
			t.Errorf("Find: %v, %v", got, err)
		}
		if _, err := h.Find("strm_none"); err != ErrNotFound {
			t.Errorf("Find what is not there: %v", err)
		}
		for _, c := range []*call{c, d, e} {
			c.send(closing()...)
		}
		pass(time.Hour) // nobody can delete them, but their retention ends
		stop(h)
		h.quiet()
	})
}
