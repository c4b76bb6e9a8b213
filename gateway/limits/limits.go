// Package limits says whether an owner may start one more stream now: how many requests it makes in a minute, and how
// many streams it has open. A Grant is the permission; it travels with the stream and gives the slot back at its end.
//
// Nothing runs in the background, and the only clock is time.Now. Limits are per process: two replicas allow twice as
// much.
package limits

import (
	"container/list"
	"errors"
	"maps"
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// slotWait is the RetryAfter of an owner whose slots are all taken. Nobody knows when a stream will end; an answer
	// takes some seconds to some minutes, so 5 s rarely comes much too late and costs a waiting client little.
	slotWait = 5 * time.Second

	// sweepStep is how many owners each admission looks at to forget the idle ones: one more than it can add, so
	// that forgetting outruns growth.
	sweepStep = 2

	// sliver is the part of a token that arithmetic may lose. It is far below what a request costs, and far above the
	// rounding of a bucket of a million tokens.
	sliver = 1e-6
)

// ErrUnknownPlan is the answer to a plan that does not exist. Nobody is let in unlimited because of a misspelt name.
var ErrUnknownPlan = errors.New("the caller's plan does not exist")

// Limits keeps the plans and what each owner has used of its own. All methods may be called at once from any goroutine.
type Limits struct {
	plans map[string]Plan // never written after New

	// mu guards all below and every owner. One lock for all owners is enough: it is taken twice in the life of a
	// stream, for less than a microsecond.
	mu     sync.Mutex
	owners map[string]*owner
	queue  list.List // of *owner, in the order in which the sweep will look at them
	open   int
}

// owner is what is known of one owner. It is forgotten when forgetting cannot be told from remembering: no stream is
// open and the bucket is full.
type owner struct {
	name   string
	place  *list.Element
	bucket *rate.Limiter // nil while its plan has no requests_per_minute
	open   int
}

// New makes Limits of the named plans. The map is copied. A number below 0 in a plan counts as 0: no limit.
func New(plans map[string]Plan) *Limits {
	return &Limits{plans: maps.Clone(plans), owners: make(map[string]*owner)}
}

// Plan is the plan of that name, and whether there is one.
func (l *Limits) Plan(name string) (Plan, bool) {
	p, ok := l.plans[name]
	return p, ok
}

// Admit takes one request and one open stream from what the plan allows the owner, or neither: a refused request
// costs nothing. The error is an *Exceeded, or ErrUnknownPlan. Whoever gets a Grant must see to its Release.
//
// An owner whose plan changes keeps its open streams and what is left of its burst.
func (l *Limits) Admit(name, plan string) (*Grant, error) { return l.admit(name, plan, true, true) }

// Enqueue takes one request, for a stream that waits elsewhere for its time to begin, and says what is left. The error is
// as Admit's.
func (l *Limits) Enqueue(name, plan string) (Window, error) {
	g, err := l.admit(name, plan, true, false)
	return g.Window(), err
}

// Enter takes one open stream, whose request Enqueue has taken. The error is as Admit's.
func (l *Limits) Enter(name, plan string) (*Grant, error) { return l.admit(name, plan, false, true) }

func (l *Limits) admit(name, plan string, request, slot bool) (*Grant, error) {
	p, ok := l.plans[plan]
	if !ok {
		return nil, ErrUnknownPlan
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now() // under the lock, so that no bucket sees time run backwards
	l.sweep(now)
	o := l.owner(name)
	o.follow(p, now)

	// Asking changes nothing, and the lock is held until all has been taken or nothing.
	wait, slotFree := o.wait(now), !slot || p.ConcurrentStreams <= 0 || o.open < p.ConcurrentStreams
	switch {
	case !slotFree:
		return nil, &Exceeded{
			Limit: ConcurrentStreams, Value: p.ConcurrentStreams, Plan: plan,
			RetryAfter: max(wait, slotWait), Window: o.window(p, now),
		}
	case request && wait > 0:
		return nil, &Exceeded{
			Limit: RequestsPerMinute, Value: p.RequestsPerMinute, Burst: burst(p), Plan: plan,
			RetryAfter: wait, Window: o.window(p, now),
		}
	}
	if request && o.bucket != nil {
		o.bucket.ReserveN(now, 1) // unlike AllowN, takes a token that is short of a sliver, and owes the sliver
	}
	g := &Grant{limits: l, owner: o, window: o.window(p, now), released: !slot}
	if slot {
		o.open++
		l.open++
	}
	return g, nil
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
	if o.open > 0 || o.bucket != nil && o.bucket.TokensAt(now) < float64(o.bucket.Burst()) {
		return
	}
	l.queue.Remove(o.place)
	delete(l.owners, o.name)
}

// follow fits the bucket to the plan. Tokens that are there stay; a larger burst fills up at the plan's rate.
func (o *owner) follow(p Plan, now time.Time) {
	perSecond := rate.Limit(float64(p.RequestsPerMinute) / 60)
	switch {
	case p.RequestsPerMinute <= 0:
		o.bucket = nil
	case o.bucket == nil:
		o.bucket = rate.NewLimiter(perSecond, burst(p))
	case o.bucket.Limit() != perSecond || o.bucket.Burst() != burst(p):
		o.bucket.SetLimitAt(now, perSecond)
		o.bucket.SetBurstAt(now, burst(p))
	}
}

// wait is how long it takes until the bucket holds a token: 0 if it does.
func (o *owner) wait(now time.Time) time.Duration {
	if o.bucket == nil {
		return 0
	}
	return o.until(1, now)
}

// until is how long it takes until the bucket holds so many tokens. It is rounded up, so that after it they are there.
func (o *owner) until(tokens float64, now time.Time) time.Duration {
	missing := tokens - o.bucket.TokensAt(now)
	if missing < sliver {
		return 0
	}
	return time.Duration(math.Ceil(missing / float64(o.bucket.Limit()) * float64(time.Second)))
}

func (o *owner) window(p Plan, now time.Time) Window {
	if o.bucket == nil {
		return Window{}
	}
	return Window{
		Limit:     p.RequestsPerMinute,
		Remaining: max(0, int(o.bucket.TokensAt(now)+sliver)),
		Reset:     now.Add(o.until(float64(burst(p)), now)),
	}
}

// burst is the size of the plan's bucket.
func burst(p Plan) int {
	if p.Burst > 0 {
		return p.Burst
	}
	return p.RequestsPerMinute
}
