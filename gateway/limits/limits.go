// Package limits says whether an owner may start one more stream now: how many requests and tokens it takes in a minute
// and in a day, and how many streams it has open. A Grant is the permission; it travels with the stream, holds what is
// reserved for it, and is settled at its end, once, with what it has used. The room keeps the sums: what owners may
// still use, and what they have used. What has been granted may have to wait for its turn at the upstream: Queue says how
// long, and a Permit is the place.
//
// Nothing runs in the background but a timer while somebody waits, and the only clock is time.Now. Limits are per process:
// two replicas allow twice as much.
package limits

import (
	"container/list"
	"errors"
	"maps"
	"sync"
	"time"
)

const (
	// slotWait is the RetryAfter of an owner whose slots are all taken, or who has the rest of its day reserved. Nobody
	// knows when a stream will end; an answer takes some seconds to some minutes, so 5 s rarely comes much too late and
	// costs a waiting client little.
	slotWait = 5 * time.Second

	// sweepStep is how many owners each admission looks at to forget the idle ones: one more than it can add, so
	// that forgetting outruns growth.
	sweepStep = 2

	// keptOwners is how many owners are remembered for the sake of their sums. With more, those who are idle and have
	// used nothing today are added up as others. An owner takes about 500 bytes: 5 MB.
	keptOwners = 10_000
)

// ErrUnknownPlan is the answer to a plan that does not exist. Nobody is let in unlimited because of a misspelt name.
var ErrUnknownPlan = errors.New("the caller's plan does not exist")

// Limits keeps the plans and what each owner has used of its own. All methods may be called at once from any goroutine.
type Limits struct {
	since time.Time

	// mu guards all below and every owner. One lock for all owners is enough: it is taken a few times in the life of a
	// stream, for less than a microsecond.
	mu     sync.Mutex
	plans  map[string]Plan // replaced, never written
	owners map[string]*owner
	queue  list.List // of *owner, in the order in which the sweep will look at them
	open   int
	others Tally // of owners that were forgotten
}

// owner is what is known of one owner. It is forgotten when forgetting cannot be told from remembering: no stream or
// batch is open, the buckets are full and the day is untouched; and its sums are not missed.
type owner struct {
	name   string
	plan   string // as it was admitted last
	place  *list.Element
	open   int
	total  Tally
	day    day
	input  bucket
	output bucket

	requests bucket
	batched  bucket // requests of batches
	batches  int    // that are not over
}

// day is what an owner has used today and what its open streams have reserved. Reservations outlive midnight.
type day struct {
	date     time.Time // its first moment
	used     Tally
	counted  int64 // what of it counts for tokens_per_day
	reserved int64
}

// New makes Limits of the named plans. The map is copied. A number below 0 in a plan counts as 0: no limit.
func New(plans map[string]Plan) *Limits {
	return &Limits{since: time.Now(), plans: maps.Clone(plans), owners: make(map[string]*owner)}
}

// SetPlans replaces all plans at once. Streams that are open go by the plan that they were admitted with; owners keep
// what they have used.
func (l *Limits) SetPlans(plans map[string]Plan) {
	plans = maps.Clone(plans)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.plans = plans
}

// Plan is the plan of that name, and whether there is one.
func (l *Limits) Plan(name string) (Plan, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.plans[name]
	return p, ok
}

// Admit takes from what the plan allows the owner: one request, one open stream, and the tokens that the request may
// need; or nothing at all: a refused request costs nothing. Reserved are, of the minute's tokens, the input and
// max_tokens, but never more than the minute has, so that any request can pass at last; of the day's, the input and a
// first piece of the output (see Grant.Draw). The error is an *Exceeded, an *Outside or ErrUnknownPlan. Whoever gets a
// Grant must see to its Settle or Release.
//
// An owner whose plan changes keeps its open streams, what is left of its windows, and what it owes.
func (l *Limits) Admit(name, plan string, r Request) (*Grant, error) {
	return l.admit(name, plan, r, 1)
}

// Enter is Admit for a stream whose request Enqueue has taken.
func (l *Limits) Enter(name, plan string, r Request) (*Grant, error) {
	return l.admit(name, plan, r, 0)
}

func (l *Limits) admit(name, plan string, r Request, requests int64) (*Grant, error) {
	p, err := l.inPlan(plan, r)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now() // under the lock, so that no bucket sees time run backwards
	o := l.follow(name, plan, p, now)

	// Asking changes nothing, and the lock is held until all has been taken or nothing.
	g := o.reservation(p, r)
	if err := o.exceeds(p, g, requests, now); err != nil {
		return nil, err
	}
	o.requests.take(requests, now)
	o.input.take(g.input, now)
	o.output.take(g.output, now)
	o.day.reserved += g.dayInput + g.dayOutput
	o.open++
	l.open++
	g.limits, g.windows = l, o.windows(p, now)
	return g, nil
}

// Enqueue takes one request, of a stream that waits elsewhere for its time to begin, and says what is left. The error is
// as Admit's.
func (l *Limits) Enqueue(name, plan string, r Request) (Windows, error) {
	p, err := l.inPlan(plan, r)
	if err != nil {
		return Windows{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	o := l.follow(name, plan, p, now)
	if wait := o.requests.until(1, now); wait > 0 {
		return Windows{}, &Exceeded{Limit: RequestsPerMinute, Value: p.RequestsPerMinute, Burst: burst(p), Asked: 1, Plan: plan, RetryAfter: wait, Windows: o.windows(p, now)}
	}
	o.requests.take(1, now)
	return o.windows(p, now), nil
}

// inPlan finds a plan that a request is within.
func (l *Limits) inPlan(plan string, r Request) (Plan, error) {
	p, ok := l.Plan(plan)
	if !ok {
		return p, ErrUnknownPlan
	}
	return p, p.Check(plan, r)
}

// follow finds or makes the named owner, as it is now.
func (l *Limits) follow(name, plan string, p Plan, now time.Time) *owner {
	l.sweep(now)
	o := l.owner(name)
	o.follow(plan, p, now)
	return o
}

// Open is how many slots are in use now, of all owners.
func (l *Limits) Open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open
}

// owner finds or makes the named owner.
func (l *Limits) owner(name string) *owner {
	o := l.owners[name]
	if o == nil {
		o = &owner{name: name}
		o.place = l.queue.PushBack(o)
		l.owners[name] = o
	}
	return o
}

// sweep forgets the idle among the next few owners, and puts the others at the back of the queue.
func (l *Limits) sweep(now time.Time) {
	for range min(sweepStep, l.queue.Len()) {
		o := l.queue.Front().Value.(*owner)
		l.queue.MoveToBack(o.place)
		l.forgetIdle(o, now)
	}
}

func (l *Limits) forgetIdle(o *owner, now time.Time) {
	o.turn(now)
	if o.open+o.batches > 0 || o.day.used.Answers > 0 || !o.requests.full(now) || !o.batched.full(now) || !o.input.full(now) || !o.output.full(now) {
		return
	}
	if o.total.Answers > 0 {
		if len(l.owners) <= keptOwners {
			return
		}
		l.others.add(o.total)
	}
	l.queue.Remove(o.place)
	delete(l.owners, o.name)
}

// follow fits the owner to its plan and to the day.
func (o *owner) follow(name string, p Plan, now time.Time) {
	o.plan = name
	o.requests.follow(p.RequestsPerMinute, burst(p), now)
	o.batched.follow(p.RequestsPerMinute, batchRequests(p), now)
	o.input.follow(p.InputTokensPerMinute, p.InputTokensPerMinute, now)
	o.output.follow(p.OutputTokensPerMinute, p.OutputTokensPerMinute, now)
	o.turn(now)
}

// turn begins a new day if the old one is over.
func (o *owner) turn(now time.Time) {
	if today := dayOf(now); today.After(o.day.date) {
		o.day.date, o.day.used, o.day.counted = today, Tally{}, 0
	}
}

func dayOf(t time.Time) time.Time { return t.UTC().Truncate(24 * time.Hour) }

// reservation is what a request needs of each window.
func (o *owner) reservation(p Plan, r Request) *Grant {
	g := &Grant{owner: o, perDay: int64(p.TokensPerDay), maxOutput: r.MaxTokens, input: o.input.room(r.Input)}
	most := r.MaxTokens
	if most == 0 {
		most = int64(p.OutputTokensPerMinute)
	}
	g.output = o.output.room(most)
	if p.TokensPerDay > 0 {
		g.dayOutput = min(dayPiece, g.perDay)
		if r.MaxTokens > 0 {
			g.dayOutput = min(g.dayOutput, r.MaxTokens)
		}
		room := g.perDay - g.dayOutput
		if r.Cached { // it may count nothing, so let it in with what there is
			room = max(0, o.left(g.perDay)-g.dayOutput)
		}
		g.dayInput = min(r.Input, room)
	}
	return g
}

// left is what may still be taken of the day.
func (o *owner) left(perDay int64) int64 { return perDay - o.day.counted - o.day.reserved }

// exceeds says which limit the reservation would pass: that of the open streams, else the one with the longest wait.
func (o *owner) exceeds(p Plan, g *Grant, requests int64, now time.Time) error {
	var limit string
	var value int
	var asked int64
	var wait time.Duration
	for _, l := range [...]struct {
		limit string
		value int
		asked int64
		wait  time.Duration
	}{
		{RequestsPerMinute, p.RequestsPerMinute, requests, o.requests.until(requests, now)},
		{InputTokensPerMinute, p.InputTokensPerMinute, g.input, o.input.until(g.input, now)},
		{OutputTokensPerMinute, p.OutputTokensPerMinute, g.output, o.output.until(g.output, now)},
		{TokensPerDay, p.TokensPerDay, g.dayInput + g.dayOutput, o.dayWait(g, now)},
	} {
		if l.wait > wait {
			limit, value, asked, wait = l.limit, l.value, l.asked, l.wait
		}
	}
	if p.ConcurrentStreams > 0 && o.open >= p.ConcurrentStreams {
		limit, value, asked, wait = ConcurrentStreams, p.ConcurrentStreams, 1, max(wait, slotWait)
	}
	if limit == "" {
		return nil
	}
	return &Exceeded{Limit: limit, Value: value, Burst: burst(p), Asked: asked, Plan: o.plan, RetryAfter: wait, Windows: o.windows(p, now)}
}

// dayWait is how long it may take until the day has what the reservation needs of it: 0 if it does.
func (o *owner) dayWait(g *Grant, now time.Time) time.Duration {
	if g.perDay <= 0 {
		return 0
	}
	need := g.dayInput + g.dayOutput // never nothing
	if o.left(g.perDay) >= need {
		return 0
	}
	midnight := o.day.date.Add(24 * time.Hour).Sub(now)
	if g.perDay-o.day.counted >= need {
		return min(slotWait, midnight) // open streams hold it
	}
	return midnight
}

func (o *owner) windows(p Plan, now time.Time) Windows {
	w := Windows{
		Requests: o.requests.window(p.RequestsPerMinute, now),
		Input:    o.input.window(p.InputTokensPerMinute, now),
		Output:   o.output.window(p.OutputTokensPerMinute, now),
	}
	if p.TokensPerDay > 0 {
		left := o.left(int64(p.TokensPerDay))
		w.Day = Window{Limit: int64(p.TokensPerDay), Used: int64(p.TokensPerDay) - left, Remaining: max(0, left), Reset: o.day.date.Add(24 * time.Hour)}
	}
	return w
}

// burst is the size of the bucket of requests.
func burst(p Plan) int {
	if p.Burst > 0 {
		return p.Burst
	}
	return p.RequestsPerMinute
}
