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

func admit(t *testing.T, l *Limits, owner, plan string, r ...Request) *Grant {
	t.Helper()
	g, err := l.Admit(owner, plan, one(r))
	if err != nil {
		t.Fatalf("Admit(%q, %q): %v", owner, plan, err)
	}
	return g
}

// one is the request given, or one that asks for nothing.
func one(r []Request) Request {
	if len(r) == 0 {
		return Request{}
	}
	return r[0]
}

func refuse(t *testing.T, l *Limits, owner, plan, limit string, r ...Request) *Exceeded {
	t.Helper()
	g, err := l.Admit(owner, plan, one(r))
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
func crowd(t *testing.T, l *Limits, plan, limit string, r ...Request) []*Grant {
	t.Helper()
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		grants []*Grant
	)
	for range 64 {
		wg.Go(func() {
			g, err := l.Admit("key:alice", plan, one(r))
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
		request     Request
	}{
		{"streams", ConcurrentStreams, Plan{ConcurrentStreams: 23}, 23, Request{}},
		{"rate", RequestsPerMinute, Plan{RequestsPerMinute: 17}, 17, Request{}},
		{"burst", RequestsPerMinute, Plan{RequestsPerMinute: 600, Burst: 5}, 5, Request{}},
		{"burst above the rate", RequestsPerMinute, Plan{RequestsPerMinute: 3, Burst: 40}, 40, Request{}},
		{"streams before rate", ConcurrentStreams, Plan{RequestsPerMinute: 50, ConcurrentStreams: 9}, 9, Request{}},
		{"rate before streams", RequestsPerMinute, Plan{RequestsPerMinute: 9, ConcurrentStreams: 50}, 9, Request{}},
		{"no limit", "", Plan{}, 64, Request{}},
		{"below zero is no limit", "", Plan{RequestsPerMinute: -1, Burst: -1, ConcurrentStreams: -1}, 64, Request{}},
		{"burst alone is no limit", "", Plan{Burst: 2}, 64, Request{}},
		{"input", InputTokensPerMinute, Plan{InputTokensPerMinute: 1000}, 20, Request{Input: 50}},
		{"input that does not fit evenly", InputTokensPerMinute, Plan{InputTokensPerMinute: 1000}, 14, Request{Input: 70}},
		{"output", OutputTokensPerMinute, Plan{OutputTokensPerMinute: 1000}, 10, Request{MaxTokens: 100}},
		{"max_tokens above the minute's", OutputTokensPerMinute, Plan{OutputTokensPerMinute: 1000}, 1, Request{MaxTokens: 64_000}},
		{"max_tokens not given", OutputTokensPerMinute, Plan{OutputTokensPerMinute: 1000}, 1, Request{}},
		{"input that may come from a cache", InputTokensPerMinute, Plan{InputTokensPerMinute: 1000}, 1, Request{Input: 64_000, Cached: true}},
		{"day", TokensPerDay, Plan{TokensPerDay: 1000}, 12, Request{Input: 30, MaxTokens: 50}},
		{"day, a large max_tokens", TokensPerDay, Plan{TokensPerDay: 10_000}, 9, Request{Input: 100, MaxTokens: 64_000}},
		{"a day that is smaller than a piece", TokensPerDay, Plan{TokensPerDay: 100}, 1, Request{}},
		{"day, input that may come from a cache", TokensPerDay, Plan{TokensPerDay: 1000}, 1, Request{Input: 64_000, MaxTokens: 50, Cached: true}},
		{"input before output", InputTokensPerMinute, Plan{InputTokensPerMinute: 1000, OutputTokensPerMinute: 10_000}, 20, Request{Input: 50, MaxTokens: 100}},
		{"output before the day", OutputTokensPerMinute, Plan{OutputTokensPerMinute: 1000, TokensPerDay: 10_000}, 10, Request{Input: 50, MaxTokens: 100}},
		{"the largest numbers", TokensPerDay, Plan{RequestsPerMinute: 1e9, InputTokensPerMinute: 1e9, OutputTokensPerMinute: 1e9, TokensPerDay: 1e9}, 7, Request{Input: 130_000_000, MaxTokens: 100_000}},
		{"tokens below zero are no limit", "", Plan{InputTokensPerMinute: -1, OutputTokensPerMinute: -1, TokensPerDay: -1, MaxTokens: -1}, 64, Request{Input: 1e9, MaxTokens: 1e9}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := New(map[string]Plan{"p": test.plan})
				got := crowd(t, l, "p", test.limit, test.request)
				if len(got) != test.want || l.Open() != test.want {
					t.Fatalf("%d admitted, %d open; want %d", len(got), l.Open(), test.want)
				}
				// Nothing is left behind: as many pass again once these were given back, but for requests, which stay counted.
				for _, g := range got {
					g.Release()
				}
				whole(t, l, "key:alice", "p")
				if test.plan.RequestsPerMinute <= 0 {
					if again := crowd(t, l, "p", test.limit, test.request); len(again) != test.want {
						t.Errorf("%d admitted afterwards, want %d", len(again), test.want)
					}
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
			if e := refuse(t, l, "key:alice", "p", ConcurrentStreams); e.Windows.Requests.Remaining != 4 {
				t.Fatalf("refusal took a token: %+v", e.Windows)
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
	g.Settle(Tokens{Output: 1}, true)
	g.CorrectInput(Tokens{Input: 1})
	if g.Windows() != (Windows{}) || g.Draw(5) != Unlimited {
		t.Errorf("Windows = %+v, Draw = %d", g.Windows(), g.Draw(5))
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
			want := Window{Limit: 60, Used: int64(3 - left), Remaining: int64(left), Reset: time.Now().Add(time.Duration(3-left) * time.Second)}
			if got := g.Windows().Requests; got != want {
				t.Errorf("Window = %+v, want %+v", got, want)
			}
		}
		e := refuse(t, l, "key:alice", "p", RequestsPerMinute)
		if want := (Window{Limit: 60, Used: 3, Reset: time.Now().Add(3 * time.Second)}); e.Windows.Requests != want {
			t.Errorf("Window = %+v, want %+v", e.Windows.Requests, want)
		}
		if w := admit(t, l, "key:bob", "free").Windows(); w != (Windows{}) {
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
		if g, err := l.Admit("key:alice", name, Request{}); !errors.Is(err, ErrUnknownPlan) || g != nil {
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
		{Exceeded{Limit: InputTokensPerMinute, Value: 50_000, Asked: 1200, Plan: "small", RetryAfter: 2 * time.Second},
			[]string{"input_tokens_per_minute", "50000 per minute", "about 1200", `"small"`, "in 2 s"}},
		{Exceeded{Limit: OutputTokensPerMinute, Value: 8000, Asked: 4096, Plan: "small", RetryAfter: 2 * time.Second},
			[]string{"output_tokens_per_minute", "8000 per minute", "max_tokens needs 4096", `"small"`, "in 2 s"}},
		{Exceeded{Limit: TokensPerDay, Value: 1000, Asked: 300, Plan: "small", RetryAfter: time.Hour, Windows: Windows{Day: Window{Used: 900}}},
			[]string{"tokens_per_day", "1000 per day", "900 are used or reserved", "about 300", `"small"`, "in 3600 s"}},
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
		g, err := l.Admit(names[i%len(names)], "p", Request{Input: 100, MaxTokens: 1000})
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
		open, err := l.Enter("o", "p", Request{})
		if err != nil {
			t.Fatal(err)
		}
		for left := range 2 {
			w, err := l.Enqueue("o", "p", Request{})
			if err != nil || w.Requests.Remaining != int64(1-left) || w.Requests.Limit != 60 {
				t.Errorf("%+v, %v", w, err)
			}
		}
		var exceeded *Exceeded
		if _, err := l.Enqueue("o", "p", Request{}); !errors.As(err, &exceeded) || exceeded.Limit != RequestsPerMinute || exceeded.RetryAfter != time.Second {
			t.Errorf("%v", err)
		}
		if _, err := l.Enter("o", "p", Request{}); !errors.As(err, &exceeded) || exceeded.Limit != ConcurrentStreams {
			t.Errorf("%v", err)
		}
		if _, err := l.Enter("other", "p", Request{}); err != nil {
			t.Errorf("another owner: %v", err)
		}
		open.Release()
		open.Release()
		next, err := l.Enter("o", "p", Request{}) // although it has no request left
		if err != nil {
			t.Error(err)
		}
		if n := l.Open(); n != 2 {
			t.Errorf("%d are open", n)
		}
		next.Release()
		if _, err := l.Enter("o", "gone", Request{}); err != ErrUnknownPlan {
			t.Errorf("%v", err)
		}
		if _, err := l.Enqueue("o", "gone", Request{}); err != ErrUnknownPlan {
			t.Errorf("%v", err)
		}
	})
}
