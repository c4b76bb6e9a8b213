package limits

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// whole fails the test unless nothing of the owner's tokens is taken or reserved.
func whole(t *testing.T, l *Limits, owner, plan string) {
	t.Helper()
	used, left, err := l.Look(owner, plan)
	if err != nil || used.Open != 0 {
		t.Fatalf("%d streams are open, %v", used.Open, err)
	}
	for _, w := range []Window{left.Input, left.Output, left.Day} {
		if w.Used != 0 || w.Remaining != w.Limit {
			t.Errorf("%+v; %+v: not whole", used, left)
		}
	}
}

// look is what an owner has left of its plan.
func look(t *testing.T, l *Limits, owner, plan string) Windows {
	t.Helper()
	_, w, err := l.Look(owner, plan)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestReservationsAreReplacedByWhatWasUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(map[string]Plan{"p": {InputTokensPerMinute: 1000, OutputTokensPerMinute: 2000, TokensPerDay: 100_000}})
		ask := Request{Input: 100, MaxTokens: 500}
		g := admit(t, l, "key:alice", "p", ask)
		want := Windows{
			Input:  Window{Limit: 1000, Used: 100, Remaining: 900, Reset: time.Now().Add(6 * time.Second)},
			Output: Window{Limit: 2000, Used: 500, Remaining: 1500, Reset: time.Now().Add(15 * time.Second)},
			Day:    Window{Limit: 100_000, Used: 600, Remaining: 99_400, Reset: time.Date(2000, 1, 2, 0, 0, 0, 0, time.UTC)},
		}
		if g.Windows() != want || look(t, l, "key:alice", "p") != want {
			t.Errorf("reserved: %+v, want %+v", g.Windows(), want)
		}
		// Input and what is written to a cache count; what is read from one does not.
		for range 3 { // once
			g.Settle(Tokens{Input: 40, Output: 20, CacheRead: 10_000, CacheWrite: 5}, false)
			g.Release()
		}
		w := look(t, l, "key:alice", "p")
		if w.Input.Used != 45 || w.Output.Used != 20 || w.Day.Used != 65 || l.Open() != 0 {
			t.Errorf("settled: %+v", w)
		}
		g = admit(t, l, "key:alice", "p", ask)
		g.Release()
		if again := look(t, l, "key:alice", "p"); again != w {
			t.Errorf("released: %+v, want %+v", again, w)
		}
		pass(time.Minute)
		if w := look(t, l, "key:alice", "p"); w.Input.Used != 0 || w.Output.Used != 0 || w.Day.Used != 65 {
			t.Errorf("a minute later: %+v", w)
		}
	})
}

func TestWhatWasUsedBeyondTheReservationIsOwed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(map[string]Plan{"p": {InputTokensPerMinute: 600, OutputTokensPerMinute: 600}})
		admit(t, l, "key:alice", "p", Request{Input: 10, MaxTokens: 64_000}).Settle(Tokens{Input: 10, Output: 3000}, false)
		e := refuse(t, l, "key:alice", "p", OutputTokensPerMinute, Request{Input: 10, MaxTokens: 100})
		if e.RetryAfter != 250*time.Second || e.Windows.Output.Used != 3000 || e.Windows.Output.Remaining != 0 || e.Windows.Tokens() != e.Windows.Output {
			t.Errorf("%v, %+v", e.RetryAfter, e.Windows)
		}
		pass(e.RetryAfter - time.Second)
		refuse(t, l, "key:alice", "p", OutputTokensPerMinute, Request{Input: 10, MaxTokens: 100})
		pass(time.Second)
		admit(t, l, "key:alice", "p", Request{Input: 10, MaxTokens: 100}).Settle(Tokens{Input: 1e18, Output: -5}, false)
		// Nonsense does not lock an owner out for ever.
		if e := refuse(t, l, "key:alice", "p", InputTokensPerMinute); e.RetryAfter > 100*24*time.Hour {
			t.Errorf("to be paid back in %v", e.RetryAfter)
		}
	})
}

func TestAfterRetryAfterTheTokensAreThereAndNotBefore(t *testing.T) {
	for _, p := range []Plan{
		{InputTokensPerMinute: 1000, OutputTokensPerMinute: 1e9}, {InputTokensPerMinute: 7, OutputTokensPerMinute: 3000},
		{InputTokensPerMinute: 1e9, OutputTokensPerMinute: 100_003}, {InputTokensPerMinute: 999_999_937, OutputTokensPerMinute: 1e9},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := New(map[string]Plan{"p": p})
			ask := Request{Input: 2*int64(p.InputTokensPerMinute)/3 + 1, MaxTokens: 2*int64(p.OutputTokensPerMinute)/3 + 1}
			admit(t, l, "key:alice", "p", ask)
			for range 20 {
				_, err := l.Admit("key:alice", "p", ask)
				var e *Exceeded
				if !errors.As(err, &e) {
					t.Fatalf("%+v: %v", p, err)
				}
				early := e.RetryAfter / 100
				pass(e.RetryAfter - early)
				if _, err := l.Admit("key:alice", "p", ask); err == nil {
					t.Fatalf("%+v: admitted too early", p)
				}
				pass(early)
				admit(t, l, "key:alice", "p", ask)
			}
		})
	}
}

func TestTheLongestWaitIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := Plan{RequestsPerMinute: 60, Burst: 1, ConcurrentStreams: 2, InputTokensPerMinute: 600, OutputTokensPerMinute: 600, TokensPerDay: 5000}
		l := New(map[string]Plan{"p": p})
		ask := Request{Input: 600, MaxTokens: 300}
		admit(t, l, "key:alice", "p", ask)
		if e := refuse(t, l, "key:alice", "p", InputTokensPerMinute, ask); e.RetryAfter != time.Minute || e.Asked != 600 || e.Value != 600 {
			t.Errorf("%+v", e)
		}
		if e := refuse(t, l, "key:alice", "p", RequestsPerMinute, Request{MaxTokens: 1}); e.RetryAfter != time.Second || e.Burst != 1 {
			t.Errorf("%+v", e)
		}
		pass(time.Minute)
		admit(t, l, "key:alice", "p", ask)
		if e := refuse(t, l, "key:alice", "p", ConcurrentStreams, ask); e.RetryAfter != time.Minute {
			t.Errorf("%+v", e)
		}
	})
}

func TestTheDayEndsAtMidnightUTC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // it begins at 2000-01-01 00:00 UTC
		l := New(map[string]Plan{"p": {TokensPerDay: 1000}})
		ask := Request{Input: 100, MaxTokens: 100}
		pass(23 * time.Hour)
		admit(t, l, "key:alice", "p", ask).Settle(Tokens{Input: 100, Output: 800}, false)
		e := refuse(t, l, "key:alice", "p", TokensPerDay, ask)
		if e.RetryAfter != time.Hour || e.Windows.Day.Remaining != 100 || !e.Windows.Day.Reset.Equal(time.Date(2000, 1, 2, 0, 0, 0, 0, time.UTC)) {
			t.Errorf("%+v", e)
		}
		over := admit(t, l, "key:alice", "p", Request{Input: 10, MaxTokens: 90}) // it lasts beyond midnight
		// What is only reserved may come back sooner.
		if e := refuse(t, l, "key:alice", "p", TokensPerDay, Request{Input: 10, MaxTokens: 10}); e.RetryAfter != 5*time.Second {
			t.Errorf("%+v", e)
		}
		pass(time.Hour)
		if w := look(t, l, "key:alice", "p"); w.Day.Used != 100 {
			t.Errorf("on the next day: %+v", w.Day)
		}
		over.Settle(Tokens{Input: 10, Output: 60}, false)
		used, w, _ := l.Look("key:alice", "p")
		if w.Day.Used != 70 || used.Today.Answers != 1 || used.Total.Answers != 2 || used.Total.Tokens.Output != 860 {
			t.Errorf("%+v, %+v", w.Day, used)
		}
	})
}

func TestAStreamDrawsOnItsDayUntilItIsUsedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(map[string]Plan{"p": {TokensPerDay: 5500}, "free": {}})
		g := admit(t, l, "key:alice", "p", Request{Input: 500, MaxTokens: 64_000})
		made := int64(0)
		for _, want := range []int64{1000, 2000, 3000, 4000, 5000, 5000} {
			got := g.Draw(made)
			if got != want {
				t.Fatalf("after %d: %d, want %d", made, got, want)
			}
			made = got
		}
		refuse(t, l, "key:alice", "p", TokensPerDay)
		g.Settle(Tokens{Input: 500, Output: 4000}, true)
		if w := look(t, l, "key:alice", "p"); w.Day.Used != 4500 {
			t.Errorf("%+v", w)
		}
		if got := g.Draw(5000); got != Unlimited { // whoever asks late
			t.Errorf("after the end: %d", got)
		}
		// One that has all of its max_tokens is left alone as long as the estimate may be wrong.
		capped := admit(t, l, "key:bob", "p", Request{MaxTokens: 1500})
		for _, c := range []struct{ made, want int64 }{{0, 1000}, {1000, 3000}, {1500, 3000}, {2999, 3000}, {3000, 4000}, {4000, 5000}, {5000, 5500}, {5500, 5500}} {
			if got := capped.Draw(c.made); got != c.want {
				t.Errorf("with max_tokens of 1500, after %d: %d, want %d", c.made, got, c.want)
			}
		}
		other := admit(t, l, "key:dora", "p", Request{Input: 4500, MaxTokens: 900})
		for _, made := range []int64{0, 900, 1799} {
			if got := other.Draw(made); got != 1800 {
				t.Errorf("with max_tokens of 900, after %d: %d", made, got)
			}
		}
		if got := other.Draw(1800); got > 1800 {
			t.Errorf("twice max_tokens, and nothing left: %d", got)
		}
		for owner, g := range map[string]*Grant{"key:bob": capped, "key:dora": other} {
			g.Release()
			whole(t, l, owner, "p")
		}
		if got := admit(t, l, "key:carol", "free").Draw(1e9); got != Unlimited {
			t.Errorf("without a limit: %d", got)
		}
	})
}

func TestStreamsThatDrawTogetherNeverPassTheDay(t *testing.T) {
	const perDay = 100_000
	l := New(map[string]Plan{"p": {TokensPerDay: perDay}})
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		made  int64
		ended int
	)
	grants := crowd(t, l, "p", TokensPerDay, Request{Input: 10})
	for i, g := range grants {
		wg.Go(func() {
			mine, step := int64(0), int64(7+i)
			for may := g.Draw(0); mine < may; may = g.Draw(mine) {
				for mine < may {
					mine = min(mine+step, may)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			made += 10 + mine
			ended++
		})
	}
	wg.Wait()
	if len(grants) != 64 || ended != 64 || made != perDay {
		t.Errorf("%d streams, %d ended, with %d tokens of %d", len(grants), ended, made, perDay)
	}
	for _, g := range grants {
		g.Release()
	}
	whole(t, l, "key:alice", "p")
}

func TestAnEstimatedInputGivesWayToTheFigure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(map[string]Plan{"p": {InputTokensPerMinute: 1000, TokensPerDay: 10_000}})
		ask := Request{Input: 150_000, MaxTokens: 100, Cached: true}
		g := admit(t, l, "key:alice", "p", ask)
		if w := g.Windows(); w.Input.Used != 1000 || w.Day.Remaining != 0 {
			t.Errorf("reserved: %+v", w)
		}
		refuse(t, l, "key:alice", "p", InputTokensPerMinute, Request{Input: 100, MaxTokens: 100})
		g.CorrectInput(Tokens{Input: 20, CacheRead: 149_000, CacheWrite: 200})
		if w := look(t, l, "key:alice", "p"); w.Input.Used != 220 || w.Day.Used != 320 {
			t.Errorf("corrected: %+v", w)
		}
		other := admit(t, l, "key:alice", "p", Request{Input: 100, MaxTokens: 100})
		g.Settle(Tokens{Input: 25, CacheRead: 149_000, CacheWrite: 200, Output: 30}, false)
		g.CorrectInput(Tokens{Input: 9999})
		other.Release()
		if w := look(t, l, "key:alice", "p"); w.Input.Used != 225 || w.Day.Used != 255 {
			t.Errorf("settled: %+v", w)
		}
	})
}

func TestWhatIsOutsideThePlanIsRefusedForGood(t *testing.T) {
	l := New(map[string]Plan{
		"p":    {InputTokensPerMinute: 1000, TokensPerDay: 3000, MaxTokens: 500, Models: []string{"claude-haiku-*", "claude-sonnet-5"}},
		"free": {},
	})
	ok := Request{Models: []string{"claude-haiku-4-5"}, Input: 10, MaxTokens: 500}
	for name, c := range map[string]struct {
		change func(*Request)
		limit  string // empty: it passes
		words  string
	}{
		"inside":                         {func(r *Request) {}, "", ""},
		"a model of another's":           {func(r *Request) { r.Models[0] = "claude-opus-5" }, Models, `"claude-opus-5"`},
		"a fallback of another's":        {func(r *Request) { r.Models = append(r.Models, "claude-sonnet-5", "claude-opus-5") }, Models, "claude-haiku-*, claude-sonnet-5"},
		"both are inside":                {func(r *Request) { r.Models = append(r.Models, "claude-sonnet-5") }, "", ""},
		"no model":                       {func(r *Request) { r.Models[0] = "" }, Models, `""`},
		"a very long model":              {func(r *Request) { r.Models[0] = "claude-haiku-" + strings.Repeat("x", 1<<20) }, Models, "claude-haiku-xxx"},
		"max_tokens above":               {func(r *Request) { r.MaxTokens = 501 }, MaxTokens, "501 is more than 500"},
		"max_tokens not given":           {func(r *Request) { r.MaxTokens = 0 }, MaxTokens, "Field required"},
		"input above the minute's":       {func(r *Request) { r.Input = 2001 }, InputTokensPerMinute, "about 2001"},
		"within the estimate's error":    {func(r *Request) { r.Input = 2000 }, "", ""},
		"input that may be in the cache": {func(r *Request) { r.Input, r.Cached = 1e6, true }, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := ok
			r.Models = []string{ok.Models[0]}
			c.change(&r)
			if g, err := l.Admit("key:alice", "free", r); err != nil {
				t.Errorf("without limits: %v", err)
			} else {
				g.Release()
			}
			g, err := l.Admit("key:alice", "p", r)
			if c.limit == "" {
				if err != nil {
					t.Fatal(err)
				}
				g.Release()
				whole(t, l, "key:alice", "p")
				return
			}
			var outside *Outside
			if !errors.As(err, &outside) || g != nil || outside.Limit != c.limit || outside.Plan != "p" {
				t.Fatalf("%v, %v, want it outside of %s", g, err, c.limit)
			}
			if text := outside.Error(); !strings.Contains(text, c.words) || !strings.Contains(text, `"p"`) || len(text) > 400 {
				t.Errorf("%q does not say %q", text, c.words)
			}
			whole(t, l, "key:alice", "p")
		})
	}
	day := New(map[string]Plan{"p": {TokensPerDay: 3000}})
	var outside *Outside
	if _, err := day.Admit("key:alice", "p", Request{Input: 6001}); !errors.As(err, &outside) || outside.Limit != TokensPerDay {
		t.Errorf("input above the day's: %v", err)
	}
}

func TestModelsAreMatchedWhole(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"claude-haiku-4-5", "claude-haiku-4-5", true}, {"claude-haiku-4-5", "claude-haiku-4-5-20251001", false}, {"claude-haiku-4-5*", "claude-haiku-4-5-20251001", true},
		{"claude-haiku-4-5*", "claude-haiku-4-5", true}, {"*haiku*", "claude-haiku-4-5", true}, {"haiku", "claude-haiku-4-5", false}, {"claude-?-5", "claude-x-5", true},
		{"claude-?-5", "claude--5", false}, {"claude-?-5", "claude-xy-5", false}, {"*", "", true}, {"*", "anything", true}, {"**", "", true}, {"?", "", false}, {"", "", true}, {"", "x", false},
		{"*a*b*c", "xaxbxbxc", true}, {"*a*b*c", "xaxbxbxcx", false}, {"a*a", "a", false}, {"a*a", "aa", true}, {"a*?b", "ab", false}, {"a*?b", "axxb", true},
		{"Claude", "claude", false}, {"claude-[34]", "claude-3", false}, {"claude-[34]", "claude-[34]", true}, {"a.c", "abc", false}, {"*x", strings.Repeat("x", 256), true}, {"*x", strings.Repeat("x", 257), false},
		{strings.Repeat("*a", 40) + "b", strings.Repeat("a", 256), false}, // soon
	} {
		if got := Match(c.pattern, c.name); got != c.want {
			t.Errorf("Match(%q, %.40q) = %v", c.pattern, c.name, got)
		}
	}
}

func TestTheMostRestrictiveWindowIsTheClosestToItsEnd(t *testing.T) {
	input, output, day := Window{Limit: 10, Remaining: 5}, Window{Limit: 100, Remaining: 4}, Window{Limit: 1000, Remaining: 4}
	for want, w := range map[Window]Windows{
		{}: {Requests: Window{Limit: 1}}, input: {Input: input}, output: {Input: input, Output: output}, day: {Input: input, Output: output, Day: day},
	} {
		if got := w.Tokens(); got != want {
			t.Errorf("%+v: %+v", w, got)
		}
	}
}
