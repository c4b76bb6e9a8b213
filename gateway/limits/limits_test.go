package limits

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pass lets time go by inside a bubble.
func pass(d time.Duration) { <-time.After(d) }

func admit(t *testing.T, l *Limits, owner, plan string) *Grant {
	t.Helper()
	g, err := l.Admit(owner, plan)
	if err != nil {
		t.Fatalf("Admit(%q, %q): %v", owner, plan, err)
	}
	return g
}

func refuse(t *testing.T, l *Limits, owner, plan, limit string) *Exceeded {
	t.Helper()
	g, err := l.Admit(owner, plan)
	var exceeded *Exceeded
	if !errors.As(err, &exceeded) || g != nil {
		t.Fatalf("Admit(%q, %q) = %v, %v; want it over %s", owner, plan, g, err, limit)
	}
	if exceeded.Limit != limit || exceeded.Plan != plan || exceeded.RetryAfter <= 0 {
		t.Fatalf("refused with %+v, want %s of %s", exceeded, limit, plan)
	}
	return exceeded
}

// crowd calls Admit from 64 goroutines and returns what they were granted.
func crowd(t *testing.T, l *Limits, plan, limit string) []*Grant {
	t.Helper()
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		grants []*Grant
	)
	for range 64 {
		wg.Go(func() {
			g, err := l.Admit("key:alice", plan)
			var exceeded *Exceeded
			switch {
			case err == nil:
				mu.Lock()
				defer mu.Unlock()
				grants = append(grants, g)
			case !errors.As(err, &exceeded) || exceeded.Limit != limit:
				t.Errorf("Admit: %v, want it over %s", err, limit)
			}
		})
	}
	wg.Wait()
	return grants
}

func TestACrowdHitsEachLimitExactly(t *testing.T) {
	for _, test := range []struct {
		name, limit string
		plan        Plan
		want        int
	}{
		{"streams", ConcurrentStreams, Plan{ConcurrentStreams: 23}, 23},
		{"rate", RequestsPerMinute, Plan{RequestsPerMinute: 17}, 17},
		{"burst", RequestsPerMinute, Plan{RequestsPerMinute: 600, Burst: 5}, 5},
		{"burst above the rate", RequestsPerMinute, Plan{RequestsPerMinute: 3, Burst: 40}, 40},
		{"streams before rate", ConcurrentStreams, Plan{RequestsPerMinute: 50, ConcurrentStreams: 9}, 9},
		{"rate before streams", RequestsPerMinute, Plan{RequestsPerMinute: 9, ConcurrentStreams: 50}, 9},
		{"no limit", "", Plan{}, 64},
		{"below zero is no limit", "", Plan{RequestsPerMinute: -1, Burst: -1, ConcurrentStreams: -1}, 64},
		{"burst alone is no limit", "", Plan{Burst: 2}, 64},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := New(map[string]Plan{"p": test.plan})
				if got := crowd(t, l, "p", test.limit); len(got) != test.want || l.Open() != test.want {
					t.Errorf("%d admitted, %d open; want %d", len(got), l.Open(), test.want)
				}
			})
		})
	}
}

func TestARefusedRequestCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(map[string]Plan{"p": {RequestsPerMinute: 5, ConcurrentStreams: 1}})
		g := admit(t, l, "key:alice", "p")
		for range 100 { // no token is taken for want of a slot
			if e := refuse(t, l, "key:alice", "p", ConcurrentStreams); e.Window.Remaining != 4 {
				t.Fatalf("refusal took a token: %+v", e.Window)
			}
		}
		for range 4 {
			g.Release()
			g = admit(t, l, "key:alice", "p")
		}
		g.Release()
		for range 100 { // no slot is taken for want of a token
			refuse(t, l, "key:alice", "p", RequestsPerMinute)
		}
		if l.Open() != 0 {
			t.Errorf("%d slots in use after refusals", l.Open())
		}
		pass(12 * time.Second)
		admit(t, l, "key:alice", "p").Release()
	})
}

func TestReleaseReturnsTheSlotExactlyOnce(t *testing.T) {
	l := New(map[string]Plan{"p": {ConcurrentStreams: 8}})
	grants := crowd(t, l, "p", ConcurrentStreams)
	refuse(t, l, "key:alice", "p", ConcurrentStreams)

	var wg sync.WaitGroup
	for range 64 {
		wg.Go(grants[0].Release)
		wg.Go(grants[1].Release)
	}
	wg.Wait()
	if l.Open() != 6 {
		t.Fatalf("%d slots in use, want 6", l.Open())
	}
	admit(t, l, "key:alice", "p")
	admit(t, l, "key:alice", "p")
	refuse(t, l, "key:alice", "p", ConcurrentStreams)
	grants[0].Release() // a late second call does not free what others hold
	refuse(t, l, "key:alice", "p", ConcurrentStreams)
}

func TestANilGrantIsHarmless(t *testing.T) {
	var g *Grant
	g.Release()
	if g.Window() != (Window{}) {
		t.Errorf("Window = %+v", g.Window())
	}
}

func TestOwnersAreIndependent(t *testing.T) {
	l := New(map[string]Plan{"p": {RequestsPerMinute: 1, ConcurrentStreams: 1}})
	admit(t, l, "key:alice", "p")
	refuse(t, l, "key:alice", "p", ConcurrentStreams)
	admit(t, l, "key:bob", "p")
	admit(t, l, "user:alice", "p")
}

func TestAfterRetryAfterARequestPassesAndNotBefore(t *testing.T) {
	for _, p := range []Plan{
		{RequestsPerMinute: 1}, {RequestsPerMinute: 7, Burst: 3}, {RequestsPerMinute: 60, Burst: 10},
		{RequestsPerMinute: 61, Burst: 1}, {RequestsPerMinute: 997}, {RequestsPerMinute: 100_003, Burst: 2},
	} {
		t.Run(fmt.Sprintf("%+v", p), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := New(map[string]Plan{"p": p})
				for range burst(p) {
					admit(t, l, "key:alice", "p").Release()
				}
				for range 50 {
					e := refuse(t, l, "key:alice", "p", RequestsPerMinute)
					early := e.RetryAfter / 100
					pass(e.RetryAfter - early)
					refuse(t, l, "key:alice", "p", RequestsPerMinute)
					pass(early)
					admit(t, l, "key:alice", "p").Release()
				}
			})
		})
	}
}

func TestAWaitForASlotIsNotShorterThanTheWaitForARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(map[string]Plan{"quick": {ConcurrentStreams: 1}, "slow": {RequestsPerMinute: 1, ConcurrentStreams: 1}})
		admit(t, l, "key:alice", "quick")
		if e := refuse(t, l, "key:alice", "quick", ConcurrentStreams); e.RetryAfter != 5*time.Second {
			t.Errorf("RetryAfter = %v, want 5s", e.RetryAfter)
		}
		admit(t, l, "key:bob", "slow")
		if e := refuse(t, l, "key:bob", "slow", ConcurrentStreams); e.RetryAfter != time.Minute {
			t.Errorf("RetryAfter = %v, want 1m", e.RetryAfter)
		}
	})
}

func TestTheWindowSaysWhatIsLeftAndWhenItIsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(map[string]Plan{"p": {RequestsPerMinute: 60, Burst: 3}, "free": {ConcurrentStreams: 2}})
		for left := 2; left >= 0; left-- {
			g := admit(t, l, "key:alice", "p")
			want := Window{Limit: 60, Remaining: left, Reset: time.Now().Add(time.Duration(3-left) * time.Second)}
			if got := g.Window(); got != want {
				t.Errorf("Window = %+v, want %+v", got, want)
			}
		}
		e := refuse(t, l, "key:alice", "p", RequestsPerMinute)
		if want := (Window{Limit: 60, Reset: time.Now().Add(3 * time.Second)}); e.Window != want {
			t.Errorf("Window = %+v, want %+v", e.Window, want)
		}
		if w := admit(t, l, "key:bob", "free").Window(); w != (Window{}) {
			t.Errorf("Window of a plan without a rate = %+v", w)
		}
	})
}

func TestIdleOwnersAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(map[string]Plan{"p": {RequestsPerMinute: 60, Burst: 10}, "free": {}})
		for i := range 1000 {
			admit(t, l, fmt.Sprint("user:", i), "p").Release()
		}
		if len(l.owners) != 1000 {
			t.Fatalf("%d owners known while their buckets fill, want 1000", len(l.owners))
		}
		kept := admit(t, l, "key:kept", "p")
		pass(time.Second)
		for range 1000 {
			admit(t, l, "key:free", "free").Release()
		}
		if len(l.owners) != 1 || l.owners["key:kept"] == nil || l.queue.Len() != 1 {
			t.Errorf("%d owners known, %d queued; want only the one with an open stream", len(l.owners), l.queue.Len())
		}
		kept.Release()
		if len(l.owners) != 0 || l.queue.Len() != 0 || l.Open() != 0 {
			t.Errorf("%d owners known, %d queued, %d open at the end", len(l.owners), l.queue.Len(), l.Open())
		}
	})
}

func TestForgettingKeepsUpWithEverNewOwners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(map[string]Plan{"p": {RequestsPerMinute: 60}})
		most := 0
		for i := range 20_000 { // each is idle after a second, so about 100 at a time are not
			admit(t, l, fmt.Sprint("user:", i), "p").Release()
			pass(10 * time.Millisecond)
			most = max(most, len(l.owners))
		}
		if most > 250 {
			t.Errorf("%d owners were known at a time, of whom 100 were not idle", most)
		}
	})
}

func TestAnOwnerIsNotForgottenWhileItStillOwesTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(map[string]Plan{"p": {RequestsPerMinute: 2}, "free": {}})
		admit(t, l, "key:alice", "p").Release()
		admit(t, l, "key:alice", "p").Release()
		for range 100 {
			admit(t, l, "key:bob", "free").Release()
		}
		refuse(t, l, "key:alice", "p", RequestsPerMinute)
	})
}

func TestAChangeOfPlanKeepsWhatWasUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(map[string]Plan{"small": {RequestsPerMinute: 6, ConcurrentStreams: 2}, "large": {RequestsPerMinute: 60, ConcurrentStreams: 9}})
		for range 2 {
			admit(t, l, "key:alice", "small")
		}
		for range 4 { // no fresh burst comes with the larger plan, only its rate
			admit(t, l, "key:alice", "large")
		}
		refuse(t, l, "key:alice", "small", ConcurrentStreams)
		refuse(t, l, "key:alice", "large", RequestsPerMinute)
		pass(time.Second)
		admit(t, l, "key:alice", "large")
	})
}

func TestAnUnknownPlanLetsNobodyIn(t *testing.T) {
	l := New(map[string]Plan{"p": {}})
	for _, name := range []string{"", "P", "q"} {
		if g, err := l.Admit("key:alice", name); !errors.Is(err, ErrUnknownPlan) || g != nil {
			t.Errorf("Admit to plan %q = %v, %v", name, g, err)
		}
		if _, ok := l.Plan(name); ok {
			t.Errorf("there is a plan %q", name)
		}
	}
	if l.Open() != 0 || len(l.owners) != 0 {
		t.Errorf("%d open, %d owners", l.Open(), len(l.owners))
	}
}

func TestPlansAreCopied(t *testing.T) {
	plans := map[string]Plan{"p": {ConcurrentStreams: 3, ViewersPerStream: 4}}
	l := New(plans)
	delete(plans, "p")
	if p, ok := l.Plan("p"); !ok || p.ConcurrentStreams != 3 || p.ViewersPerStream != 4 {
		t.Errorf("Plan = %+v, %v", p, ok)
	}
}

func TestARefusalSaysWhichLimitAndWhenToComeBack(t *testing.T) {
	for _, test := range []struct {
		e    Exceeded
		want []string
	}{
		{Exceeded{Limit: RequestsPerMinute, Value: 60, Burst: 10, Plan: "default", RetryAfter: 900 * time.Millisecond},
			[]string{"requests_per_minute", "60 per minute", "10 at once", `"default"`, "in 1 s"}},
		{Exceeded{Limit: RequestsPerMinute, Value: 60, Burst: 60, Plan: "default", RetryAfter: 2 * time.Second},
			[]string{"60 per minute (requests_per_minute)", "in 2 s"}},
		{Exceeded{Limit: ConcurrentStreams, Value: 8, Plan: "default", RetryAfter: 5 * time.Second},
			[]string{"concurrent_streams", "8", `"default"`, "in 5 s"}},
	} {
		for _, want := range test.want {
			if got := test.e.Error(); !strings.Contains(got, want) {
				t.Errorf("%q does not say %q", got, want)
			}
		}
	}
}

func BenchmarkAdmitAndReleaseAmong1000Owners(b *testing.B) {
	l := New(map[string]Plan{"p": {RequestsPerMinute: 1 << 40, ConcurrentStreams: 8}})
	names := make([]string, 1000)
	for i := range names {
		names[i] = fmt.Sprint("key:", i)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		g, err := l.Admit(names[i%len(names)], "p")
		if err != nil {
			b.Fatal(err)
		}
		g.Release()
		i++
	}
}

// TestQueuedStreamCostsItsRequestAtOnceAndItsSlotLater: what waits in a queue is a request now, and open only when it
// begins.
func TestQueuedStreamCostsItsRequestAtOnceAndItsSlotLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(map[string]Plan{"p": {RequestsPerMinute: 60, Burst: 2, ConcurrentStreams: 1}})
		open, err := l.Enter("o", "p")
		if err != nil {
			t.Fatal(err)
		}
		for left := range 2 {
			w, err := l.Enqueue("o", "p")
			if err != nil || w.Remaining != 1-left || w.Limit != 60 {
				t.Errorf("%+v, %v", w, err)
			}
		}
		var exceeded *Exceeded
		if _, err := l.Enqueue("o", "p"); !errors.As(err, &exceeded) || exceeded.Limit != RequestsPerMinute || exceeded.RetryAfter != time.Second {
			t.Errorf("%v", err)
		}
		if _, err := l.Enter("o", "p"); !errors.As(err, &exceeded) || exceeded.Limit != ConcurrentStreams {
			t.Errorf("%v", err)
		}
		if _, err := l.Enter("other", "p"); err != nil {
			t.Errorf("another owner: %v", err)
		}
		open.Release()
		open.Release()
		next, err := l.Enter("o", "p") // although it has no request left
		if err != nil {
			t.Error(err)
		}
		if n := l.Open(); n != 2 {
			t.Errorf("%d are open", n)
		}
		next.Release()
		if _, err := l.Enter("o", "gone"); err != ErrUnknownPlan {
			t.Errorf("%v", err)
		}
		if _, err := l.Enqueue("o", "gone"); err != ErrUnknownPlan {
			t.Errorf("%v", err)
		}
	})
}
