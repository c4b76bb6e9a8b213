package limits

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func admitBatch(t *testing.T, l *Limits, b Batch) *BatchGrant {
	t.Helper()
	g, err := l.AdmitBatch("key:alice", "p", b)
	if err != nil {
		t.Fatalf("%+v: %v", b, err)
	}
	return g
}

func refuseBatch(t *testing.T, l *Limits, limit string, b Batch) *Exceeded {
	t.Helper()
	g, err := l.AdmitBatch("key:alice", "p", b)
	var exceeded *Exceeded
	if !errors.As(err, &exceeded) || g != nil || exceeded.Limit != limit || !exceeded.Batch || exceeded.Plan != "p" || exceeded.RetryAfter <= 0 {
		t.Fatalf("%+v: %v, want it over %s", b, err, limit)
	}
	return exceeded
}

// batchOf is a batch of requests with as much input each, and a max_tokens.
func batchOf(requests int, input, maxTokens int64) (b Batch) {
	for range requests {
		b.Add(Request{Input: input, MaxTokens: maxTokens})
	}
	return b
}

func TestBatchAsksForItsInputsAndFirstPiecesOfItsOutputs(t *testing.T) {
	var b Batch
	b.Add(Request{Input: 7, MaxTokens: 64_000})
	b.Add(Request{Input: 8, MaxTokens: 20})
	b.Add(Request{Input: 9})
	if want := (Batch{Requests: 3, Input: 24, Output: dayPiece + 20 + dayPiece}); b != want {
		t.Errorf("%+v, want %+v", b, want)
	}
}

func TestACrowdOfBatchesHitsEachLimitExactly(t *testing.T) {
	for name, test := range map[string]struct {
		limit string
		plan  Plan
		batch Batch
		want  int
	}{
		"requests":                  {RequestsPerMinute, Plan{RequestsPerMinute: 1}, batchOf(100, 0, 1), 14},
		"the burst is others'":      {RequestsPerMinute, Plan{RequestsPerMinute: 1, Burst: 1}, batchOf(32, 0, 1), 45},
		"the whole of it":           {RequestsPerMinute, Plan{RequestsPerMinute: 2}, batchOf(2880, 0, 1), 1},
		"day":                       {TokensPerDay, Plan{TokensPerDay: 100_000}, batchOf(10, 500, 400), 11},
		"day, a large max_tokens":   {TokensPerDay, Plan{TokensPerDay: 100_000}, batchOf(10, 500, 64_000), 6},
		"more than a day's, a bit":  {TokensPerDay, Plan{TokensPerDay: 100_000}, batchOf(10, 15_000, 400), 1},
		"no limit":                  {"", Plan{}, batchOf(100, 1e9, 1e9), 64},
		"below zero is no limit":    {"", Plan{RequestsPerMinute: -1, TokensPerDay: -1}, batchOf(100, 1e9, 1e9), 64},
		"the tokens of a minute":    {"", Plan{InputTokensPerMinute: 1, OutputTokensPerMinute: 1}, batchOf(100, 1000, 1000), 64},
		"slots":                     {"", Plan{ConcurrentStreams: 1}, batchOf(100, 1000, 1000), 64},
		"the largest configuration": {RequestsPerMinute, Plan{RequestsPerMinute: 1e9}, Batch{Requests: maxBatchRequests / 16}, 15},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := New(map[string]Plan{"p": test.plan})
				for range 2 {
					var (
						wg     sync.WaitGroup
						mu     sync.Mutex
						grants []*BatchGrant
					)
					for range 64 {
						wg.Go(func() {
							g, err := l.AdmitBatch("key:alice", "p", test.batch)
							var exceeded *Exceeded
							switch {
							case err == nil:
								mu.Lock()
								defer mu.Unlock()
								grants = append(grants, g)
							case !errors.As(err, &exceeded) || exceeded.Limit != test.limit:
								t.Errorf("%v, want it over %s", err, test.limit)
							}
						})
					}
					wg.Wait()
					if len(grants) != test.want || l.Open() != 0 {
						t.Fatalf("%d admitted, %d slots taken; want %d", len(grants), l.Open(), test.want)
					}
					for _, g := range grants { // what was not made costs nothing, and is given back once
						g.Release()
						g.Release()
						g.Settle(Tally{Answers: 1, Tokens: Tokens{Output: 1}})
					}
				}
				whole(t, l, "key:alice", "p")
				admit(t, l, "key:alice", "p", Request{Input: 1, MaxTokens: 1}).Release()
			})
		})
	}
}

// TestLargestBatchKeepsNobodyFromStreams takes all that batches may have: streams go on as before, and batches come back
// at the rate of the plan.
func TestLargestBatchKeepsNobodyFromStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(map[string]Plan{"p": {RequestsPerMinute: 60, Burst: 10}})
		admitBatch(t, l, batchOf(86_400, 1, 1)).Settle(Tally{})
		for range 10 {
			admit(t, l, "key:alice", "p").Release()
		}
		e := refuseBatch(t, l, RequestsPerMinute, batchOf(600, 1, 1))
		if e.RetryAfter != 10*time.Minute || e.Burst != 86_400 || e.Value != 60 || e.Asked != 600 {
			t.Errorf("%+v", e)
		}
		if want := `too many requests in batches: the limit of the plan "p" is 60 per minute, 86400 at once (requests_per_minute), and this batch has 600; try again in 600 s`; e.Error() != want {
			t.Errorf("%s", e)
		}
		pass(e.RetryAfter - time.Second)
		refuseBatch(t, l, RequestsPerMinute, batchOf(600, 1, 1))
		pass(time.Second)
		admitBatch(t, l, batchOf(600, 1, 1)).Settle(Tally{})
		refuseBatch(t, l, RequestsPerMinute, batchOf(1, 1, 1))
	})
}

func TestBatchThatNeverPassesIsToldSo(t *testing.T) {
	l := New(map[string]Plan{"p": {RequestsPerMinute: 1}, "day": {TokensPerDay: 10_000}})
	for _, c := range []struct {
		plan  string
		batch Batch
		want  string
	}{
		{"p", batchOf(1441, 1, 1), `the batch has 1441 requests; the plan "p" allows at most 1440 at once, which is a day of its requests_per_minute`},
		{"day", batchOf(20, 1, 1000), `the batch needs about 20020 tokens, more than the plan "day" allows at all: tokens_per_day is 10000`},
	} {
		_, err := l.AdmitBatch("key:alice", c.plan, c.batch)
		var outside *Outside
		if !errors.As(err, &outside) || err.Error() != c.want {
			t.Errorf("%v", err)
		}
	}
	if _, err := l.AdmitBatch("key:alice", "no such", Batch{}); err != ErrUnknownPlan {
		t.Errorf("%v", err)
	}
	if len(l.owners) != 0 {
		t.Error("an owner is remembered for it")
	}
}

func TestBatchHoldsItsShareOfTheDayUntilItIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(map[string]Plan{"p": {TokensPerDay: 100_000}})
		g := admitBatch(t, l, batchOf(50, 1000, 500)) // 75,000
		if w := look(t, l, "key:alice", "p"); w.Day.Used != 75_000 {
			t.Errorf("%+v", w.Day)
		}
		e := refuseBatch(t, l, TokensPerDay, batchOf(20, 1000, 500))
		if e.RetryAfter != slotWait || !strings.Contains(e.Error(), "of which 75000 are used or reserved, and this batch needs about 30000;") {
			t.Errorf("%v", e)
		}
		for range 2 { // once
			g.Settle(Tally{Answers: 49, Tokens: Tokens{Input: 40_000, Output: 50_000, CacheRead: 9, CacheWrite: 5000}})
		}
		used, w, _ := l.Look("key:alice", "p")
		if w.Day.Used != 95_000 || used.Reserved != 0 || used.Today != (Tally{Answers: 49, Tokens: Tokens{40_000, 50_000, 9, 5000}}) || used.Total != used.Today {
			t.Errorf("%+v %+v", used, w.Day)
		}
		if e := refuseBatch(t, l, TokensPerDay, batchOf(20, 1000, 500)); e.RetryAfter != 24*time.Hour {
			t.Errorf("%v", e)
		}
		refuse(t, l, "key:alice", "p", TokensPerDay, Request{Input: 5000, MaxTokens: 1})
		pass(24 * time.Hour)
		g = admitBatch(t, l, batchOf(20, 1000, 500))
		pass(24 * time.Hour)
		if w := look(t, l, "key:alice", "p"); w.Day.Used != 30_000 { // it outlives midnight
			t.Errorf("%+v", w.Day)
		}
		g.Settle(Tally{})
		whole(t, l, "key:alice", "p")
		admitBatch(t, l, batchOf(1, 1, 1)).Settle(Tally{})
	})
}

func TestBookedTokensAreTheOwnersWithoutAGrant(t *testing.T) {
	l := New(map[string]Plan{"p": {RequestsPerMinute: 1, InputTokensPerMinute: 1, TokensPerDay: 10_000}})
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			l.Book("key:alice", "p", Tally{Answers: 2, Tokens: Tokens{Input: 10, Output: 90, CacheRead: 1000, CacheWrite: 50}})
		})
	}
	wg.Wait()
	used, w, err := l.Look("key:alice", "p")
	if err != nil || used.Today != (Tally{Answers: 128, Tokens: Tokens{640, 5760, 64_000, 3200}}) || used.Total != used.Today || w.Day.Used != 9600 || w.Input.Used != 0 || w.Requests.Used != 0 {
		t.Errorf("%+v %+v", used, w)
	}
	l.Book("key:alice", "p", Tally{Answers: 1, Tokens: Tokens{Input: 1 << 62, Output: -5}}) // nonsense
	if w := look(t, l, "key:alice", "p"); w.Day.Used != 9600+maxCounted {
		t.Errorf("%+v", w.Day)
	}
	l.Book("key:bob", "gone", Tally{Answers: 1, Tokens: Tokens{Output: 1}})
	l.Book("key:carol", "p", Tally{}) // of whom there is nothing to remember
	r := l.Report()
	if len(r.Owners) != 2 || r.Owners[1].Owner != "key:bob" || r.Owners[1].Plan != "gone" || r.Owners[1].Today.Tokens.Output != 1 || len(l.owners) != 2 {
		t.Errorf("%+v", r)
	}
}

// TestOwnerOfAnUnfinishedBatchIsNotForgotten: else what the batch has used would be booked to nobody.
func TestOwnerOfAnUnfinishedBatchIsNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(map[string]Plan{"p": {}})
		g := admitBatch(t, l, batchOf(1, 1, 1))
		pass(48 * time.Hour)
		for range 10 {
			admit(t, l, "key:other", "p").Release()
		}
		g.Settle(Tally{Answers: 1, Tokens: Tokens{Output: 3}})
		if used, _, _ := l.Look("key:alice", "p"); used.Today.Tokens.Output != 3 {
			t.Errorf("%+v", used)
		}
		var none *BatchGrant
		none.Release()
		none.Settle(Tally{})
	})
}
