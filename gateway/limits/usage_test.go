package limits

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// answer is one answer of the owner's, with these tokens.
func answer(t *testing.T, l *Limits, owner string, used Tokens, estimated bool) {
	t.Helper()
	admit(t, l, owner, "p").Settle(used, estimated)
}

func TestSumsAreKeptByOwnerTodayAndInAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(map[string]Plan{"p": {}})
		begun := time.Now()
		answer(t, l, "key:bob", Tokens{Input: 1, Output: 2, CacheRead: 3, CacheWrite: 4}, false)
		answer(t, l, "key:alice", Tokens{Output: 10}, true)
		pass(25 * time.Hour)
		answer(t, l, "key:bob", Tokens{Input: 10, Output: 20, CacheRead: 30, CacheWrite: 40}, true)
		open := admit(t, l, "key:carol", "p")
		admit(t, l, "key:refused", "p").Release() // nothing was answered
		r := l.Report()
		want := []Usage{
			{Owner: "key:alice", Plan: "p", Total: Tally{Answers: 1, Estimated: 1, Tokens: Tokens{Output: 10}}},
			{Owner: "key:bob", Plan: "p", Today: Tally{1, 1, Tokens{10, 20, 30, 40}}, Total: Tally{2, 1, Tokens{11, 22, 33, 44}}},
			{Owner: "key:carol", Plan: "p", Open: 1},
		}
		if !slices.Equal(r.Owners, want) || r.Others != (Tally{}) || !r.Since.Equal(begun) || !r.Day.Equal(time.Date(2000, 1, 2, 0, 0, 0, 0, time.UTC)) {
			t.Errorf("%+v", r)
		}
		open.Release()
		if used, _, err := l.Look("key:bob", "p"); err != nil || used != want[1] {
			t.Errorf("%+v, %v", used, err)
		}
		if used, _, err := l.Look("key:nobody", "p"); err != nil || used != (Usage{Owner: "key:nobody", Plan: "p"}) || l.owners["key:nobody"] != nil {
			t.Errorf("%+v, %v", used, err)
		}
		if _, _, err := l.Look("key:bob", "no such"); err != ErrUnknownPlan {
			t.Errorf("%v", err)
		}
	})
}

func TestNonsenseDoesNotBreakTheSums(t *testing.T) {
	l := New(map[string]Plan{"p": {TokensPerDay: 1e9}})
	for range 3 {
		answer(t, l, "key:alice", Tokens{Input: math.MaxInt64, Output: math.MinInt64, CacheRead: 5}, false)
	}
	used, w, _ := l.Look("key:alice", "p")
	if used.Total.Tokens != (Tokens{Input: math.MaxInt64, CacheRead: 15}) || w.Day.Used != 3*maxCounted {
		t.Errorf("%+v, %+v", used, w.Day)
	}
}

// TestOwnersOfOtherDaysBecomeOthers has more owners than are kept, on two days.
func TestOwnersOfOtherDaysBecomeOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const today = 500
		l := New(map[string]Plan{"p": {}})
		for i := range keptOwners + 1000 {
			answer(t, l, fmt.Sprintf("user:%05d", i), Tokens{Output: 1}, false)
		}
		if r := l.Report(); len(r.Owners) != keptOwners+1000 || r.Others.Answers != 0 { // their day is not over
			t.Fatalf("%d owners, %d others", len(r.Owners), r.Others.Answers)
		}
		pass(24 * time.Hour)
		for range 20 { // who comes again is looked at by the sweep, and the others with them
			for i := range today {
				answer(t, l, fmt.Sprintf("user:%05d", i), Tokens{Output: 1}, false)
			}
		}
		r := l.Report()
		sum, listed := r.Others, 0
		for _, u := range r.Owners {
			sum.add(u.Total)
			if u.Today.Answers > 0 {
				listed++
			}
		}
		if len(r.Owners) != keptOwners || listed != today || len(l.owners) != keptOwners || l.queue.Len() != keptOwners {
			t.Errorf("%d owners, %d of today, %d known", len(r.Owners), listed, len(l.owners))
		}
		if want := int64(keptOwners + 1000 + 20*today); sum.Answers != want || sum.Tokens.Output != want {
			t.Errorf("%+v in all, want %d", sum, want)
		}
	})
}

func TestPlansAreReplacedAtOnceAndWhatWasUsedStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(map[string]Plan{"p": {ConcurrentStreams: 3, OutputTokensPerMinute: 600, TokensPerDay: 10_000}})
		ask := Request{Input: 100, MaxTokens: 200}
		open := admit(t, l, "key:alice", "p", ask)
		admit(t, l, "key:alice", "p", ask).Settle(Tokens{Input: 100, Output: 100}, false)
		plans := map[string]Plan{"p": {ConcurrentStreams: 1, OutputTokensPerMinute: 1200, TokensPerDay: 800, MaxTokens: 300}, "q": {}}
		l.SetPlans(plans)
		plans["p"] = Plan{}
		refuse(t, l, "key:alice", "p", ConcurrentStreams, ask)
		w := look(t, l, "key:alice", "p")
		if w.Day.Limit != 800 || w.Day.Used != 500 || w.Output.Limit != 1200 || w.Output.Remaining != 300 {
			t.Errorf("%+v", w)
		}
		if got := open.Draw(500); got != 1500 { // by its own plan
			t.Errorf("%d", got)
		}
		open.Settle(Tokens{Input: 100, Output: 150}, false)
		if w := look(t, l, "key:alice", "p"); w.Day.Used != 450 || w.Day.Remaining != 350 {
			t.Errorf("%+v", w)
		}
		admit(t, l, "key:alice", "q").Release()
		if p, ok := l.Plan("p"); !ok || p.MaxTokens != 300 {
			t.Errorf("%+v", p)
		}
		l.SetPlans(nil)
		if _, err := l.Admit("key:alice", "p", ask); err != ErrUnknownPlan {
			t.Errorf("%v", err)
		}
	})
}

func TestPlansMayBeReplacedAtAnyTime(t *testing.T) {
	small, large := map[string]Plan{"p": {ConcurrentStreams: 2, TokensPerDay: 10_000}}, map[string]Plan{"p": {ConcurrentStreams: 50, OutputTokensPerMinute: 1e9}}
	l := New(small)
	over := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 2000 {
				if g, err := l.Admit("key:alice", "p", Request{Input: 1, MaxTokens: 5}); err == nil {
					g.Draw(1)
					g.Settle(Tokens{Output: 1}, false)
				}
				l.Look("key:alice", "p")
				l.Report()
			}
		})
	}
	go func() {
		wg.Wait()
		close(over)
	}()
	for i := 0; ; i++ {
		select {
		case <-over:
			l.SetPlans(small)
			if used, w, _ := l.Look("key:alice", "p"); used.Open != 0 || used.Reserved != 0 || w.Day.Used != used.Total.Tokens.Output || used.Total.Answers == 0 {
				t.Errorf("%+v, %+v", used, w.Day)
			}
			return
		default:
			l.SetPlans([]map[string]Plan{small, large}[i%2])
			runtime.Gosched()
		}
	}
}
