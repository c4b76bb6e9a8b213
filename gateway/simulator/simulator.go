// Package simulator is a Claude API that needs no key and no network, and that can misbehave on request.
//
// It knows the wire by itself and shares no code with the rest of the house, so that a decoder tested against it is
// never tested against its own encoder. It answers
//
//	POST /v1/messages               a Message, or its event stream when the body says "stream": true
//	POST /v1/messages/count_tokens  {"input_tokens": N}
//	GET  /v1/models, /v1/models/X   a small catalogue
//	     /v1/messages/batches…      Message Batches: create, get, list, results, cancel, delete
//
// and everything else with Anthropic's 404. What it says depends on the last user message: "short" and "long" set
// the length, "think" brings a thinking block, "tool" (or a tool's name) a tool call, and "fault:NAME" or
// "fault:NAME=N" one of the misbehaviours of [Faults].
//
// [Simulator] serves both the demo and the tests; [Script] replays recorded bytes where a test needs those.
package simulator

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net/http"
	"sync"
	"time"
)

// Options says how a Simulator behaves. The zero value answers anybody, at once, with ids that differ from run to run.
type Options struct {
	// Key is the only credential that is accepted, as x-api-key or as bearer. Empty: any that is not empty.
	Key string
	// Pace is how quickly an answer comes. The zero value is without any wait; Human is pleasant to read.
	Pace Pace
	// Seed makes a run repeatable: the bytes of request number n follow from Seed, n, and the request alone,
	// whatever runs beside it (only the reset times of the rate limits follow the clock). Zero: a random seed.
	Seed uint64
	// FirstRequest is the number of the first request (0 and 1 are the same). Every request-id and message id ends
	// in its request's number, so they never repeat within one Simulator; a test that restarts its upstream goes on
	// counting here.
	FirstRequest uint64
	// BatchTime is how long a Message Batch takes, unless a prompt in it says otherwise (fault "batch-time"). Zero: it
	// has ended when somebody asks. Nothing runs meanwhile: what a batch has come to is worked out when it is asked for.
	BatchTime time.Duration
}

// Pace is the speed of an answer.
type Pace struct {
	// FirstToken is the time from the request to the first delta. The headers and message_start come half way.
	FirstToken time.Duration
	// Delta is the mean time from one delta to the next.
	Delta time.Duration
	// Jitter is how far a single wait may be from the mean, as a fraction of it: 0.3 is ±30 %.
	Jitter float64
}

// Human is the pace of a hosted model: about 35 deltas a second after 400 ms.
var Human = Pace{FirstToken: 400 * time.Millisecond, Delta: 28 * time.Millisecond, Jitter: 0.3}

// Simulator is the simulated API. Any number of goroutines may use it at once.
type Simulator struct {
	options Options
	batches shelf

	mu    sync.Mutex
	last  uint64 // number of the newest request
	stats Stats
	seen  tally
}

// Stats counts requests. Every request is in exactly one of the three.
type Stats struct {
	Served  int // answered to the end, also where that end was a refusal or a fault
	Live    int // being answered now
	Aborted int // the client, or the server's own Close, went away before the end
}

var _ http.Handler = (*Simulator)(nil)

// New returns a simulated API. It starts no goroutine and needs no closing.
func New(options Options) *Simulator {
	if options.Seed == 0 {
		var random [8]byte
		rand.Read(random[:]) // never fails
		options.Seed = binary.LittleEndian.Uint64(random[:])
	}
	s := &Simulator{options: options}
	if options.FirstRequest > 0 {
		s.last = options.FirstRequest - 1
	}
	return s
}

// Stats returns the counters as they were at one moment.
func (s *Simulator) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// ServeHTTP answers one request. It returns as soon as the request's context is done, whatever it is waiting for.
func (s *Simulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := s.begin(w, r)
	err := x.route()
	if refusal, ok := errors.AsType[*apiError](err); ok {
		err = x.refuse(refusal)
	}
	s.end(err)
	if errors.Is(err, errCut) {
		panic(http.ErrAbortHandler) // the one way to break a body off so that the client can tell
	}
}

func (s *Simulator) begin(w http.ResponseWriter, r *http.Request) *exchange {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	s.stats.Live++
	return newExchange(s, w, r, s.last)
}

func (s *Simulator) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Live--
	if errors.Is(err, errGone) {
		s.stats.Aborted++
	} else {
		s.stats.Served++
	}
}

// count says how often key has come up until now, this time included.
func (s *Simulator) count(key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen.add(key)
}
