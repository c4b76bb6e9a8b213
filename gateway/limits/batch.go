package limits

import "time"

// batchMinutes is how many minutes of requests_per_minute the requests of batches may take at once: a batch has a day to
// run. They are counted apart from other requests, so that the largest batch keeps nobody from his streams; and they come
// back at the same rate, so that batches are no way around the limit.
const batchMinutes = 24 * 60

// maxBatchRequests bounds them where the plan's rate is large: beyond it a bucket loses more than slivers.
const maxBatchRequests = 1_000_000_000

// batchRequests is the size of the bucket of the requests of batches.
func batchRequests(p Plan) int {
	return int(min(max(int64(p.RequestsPerMinute), 0), maxBatchRequests/batchMinutes) * batchMinutes)
}

// Batch is what a Message Batch asks for, all its requests together.
type Batch struct {
	Requests int64
	Input    int64 // tokens, estimated, as if nothing came from a cache: in batches that is a matter of luck
	Output   int64 // of each request, a first piece
}

// Add adds a request.
func (b *Batch) Add(r Request) {
	b.Requests++
	b.Input += r.Input
	if r.MaxTokens > 0 {
		b.Output += min(r.MaxTokens, dayPiece)
	} else {
		b.Output += dayPiece
	}
}

// BatchGrant is the permission for a batch, and what is reserved for it. Its methods may be called at once from any
// goroutine, and on a nil BatchGrant; only the first call does anything.
type BatchGrant struct {
	limits *Limits
	owner  *owner

	// Guarded by limits.mu.
	requests, tokens int64
	over             bool
}

// AdmitBatch takes what the plan allows the owner of batches: its requests, of as many as a day of requests_per_minute
// holds; and of the day's tokens its input and, for each request, a first piece of the output, as of a stream. Nothing
// can stop a batch that needs more: that is counted at its end, and what comes after it that day is refused. A batch takes no
// slot, and nothing of the tokens of a minute: nobody knows in which one it runs. The error is an *Exceeded, an *Outside
// or ErrUnknownPlan. Whoever gets a BatchGrant must see to its Release or Settle.
func (l *Limits) AdmitBatch(name, plan string, b Batch) (*BatchGrant, error) {
	p, ok := l.Plan(plan)
	if !ok {
		return nil, ErrUnknownPlan
	}
	need, perDay := b.Input+b.Output, int64(max(0, p.TokensPerDay))
	if most := batchRequests(p); most > 0 && b.Requests > int64(most) {
		return nil, &Outside{Limit: RequestsPerMinute, Plan: plan, Value: most, Asked: b.Requests, Batch: true}
	}
	if perDay > 0 && need > errorFactor*perDay {
		return nil, &Outside{Limit: TokensPerDay, Plan: plan, Value: p.TokensPerDay, Asked: need, Batch: true}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	o := l.follow(name, plan, p, now)
	day := &Grant{perDay: perDay, dayInput: min(need, perDay)}
	requests, tokens := o.batched.until(b.Requests, now), o.dayWait(day, now)
	switch {
	case tokens > requests:
		return nil, &Exceeded{Limit: TokensPerDay, Value: p.TokensPerDay, Asked: need, Plan: plan, Batch: true, RetryAfter: tokens, Windows: o.windows(p, now)}
	case requests > 0:
		return nil, &Exceeded{Limit: RequestsPerMinute, Value: p.RequestsPerMinute, Burst: batchRequests(p), Asked: b.Requests, Plan: plan, Batch: true,
			RetryAfter: requests, Windows: o.windows(p, now)}
	}
	o.batched.take(b.Requests, now)
	o.day.reserved += day.dayInput
	o.batches++
	return &BatchGrant{limits: l, owner: o, requests: b.Requests, tokens: day.dayInput}, nil
}

// Release gives back all that was taken for a batch that was not made.
func (g *BatchGrant) Release() {
	g.end(func(o *owner, now time.Time) { o.batched.take(-g.requests, now) })
}

// Settle ends the grant of a batch with what its results have used.
func (g *BatchGrant) Settle(used Tally) {
	g.end(func(o *owner, _ time.Time) { o.book(used) })
}

func (g *BatchGrant) end(do func(o *owner, now time.Time)) {
	if g == nil {
		return
	}
	g.limits.mu.Lock()
	defer g.limits.mu.Unlock()
	if g.over {
		return
	}
	g.over = true
	now, o := time.Now(), g.owner
	o.turn(now)
	o.day.reserved -= g.tokens
	o.batches--
	do(o, now)
	g.limits.forgetIdle(o, now)
}

// Book adds to an owner's day and sums what was used without a grant: by a batch that an earlier process has admitted.
// A plan that does not exist any more is no reason not to count.
func (l *Limits) Book(name, plan string, used Tally) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.sweep(now)
	o := l.owner(name)
	if o.plan == "" {
		o.plan = plan
	}
	o.turn(now)
	o.book(used)
	l.forgetIdle(o, now)
}

// book adds what was used to the day, which must be today, and to the sums.
func (o *owner) book(used Tally) {
	o.day.used.add(used)
	o.total.add(used)
	most := max(used.Answers, 0) * maxCounted
	for _, n := range [...]int64{used.Tokens.Input, used.Tokens.CacheWrite, used.Tokens.Output} {
		o.day.counted += min(max(n, 0), most)
	}
}
