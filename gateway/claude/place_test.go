package claude

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sluice/gateway/simulator"
)

// places counts the places that are taken, and gives one after a wait, unless it refuses.
type places struct {
	wait   time.Duration
	refuse func(take int) error // take counts from 1

	mu     sync.Mutex
	takes  int
	held   int
	most   int
	pauses []string
}

func (p *places) TryTake() (func(), bool) {
	if p.wait > 0 {
		return nil, false
	}
	release, err := p.Take(context.Background())
	return release, err == nil
}

func (p *places) Take(ctx context.Context) (func(), error) {
	select {
	case <-time.After(p.wait):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.takes++
	if p.refuse != nil {
		if err := p.refuse(p.takes); err != nil {
			return nil, err
		}
	}
	p.held++
	p.most = max(p.most, p.held)
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.held--
	}), nil
}

func (p *places) Refused(status int, pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pauses = append(p.pauses, fmt.Sprint(status, " ", pause))
}

func (p *places) isHeld() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held
}

// placed is a call that needs a place.
func placed(p *places) Request {
	r := message
	r.Place = p
	return r
}

func TestAPlaceIsHeldAsLongAsTheAnswerLasts(t *testing.T) {
	second := simulator.PerEvent
	for name, h := range map[string]http.Handler{
		"a whole stream":               simulator.Script{Body: []byte(start + opening + stop), Chunks: second, Gap: time.Second},
		"a stream that is cut":         simulator.Script{Body: []byte(start + opening), Chunks: second, Gap: time.Second, Ending: simulator.EndCut},
		"a stream that falls silent":   simulator.Script{Body: []byte(start + opening), Chunks: second, Gap: time.Second, Ending: simulator.EndStall},
		"a stream that stays open":     simulator.Script{Body: []byte(start + stop), Chunks: second, Gap: time.Second, Ending: simulator.EndStall},
		"a stream in gzip":             simulator.Script{Body: []byte(start + opening + stop), Chunks: second, Gap: time.Second, Gzip: true},
		"a second message":             simulator.Script{Body: []byte(start + opening + start), Chunks: second, Gap: time.Second},
		"an error as first event":      simulator.Script{Body: []byte(overload), Header: http.Header{"X-Should-Retry": {"false"}}},
		"an empty stream":              empty,
		"a refusal":                    refuse(400, shaped(InvalidRequest)),
		"a redirect":                   refuse(302, "", "Location", "/elsewhere"),
		"a page":                       refuse(200, "<html>", "Content-Type", "text/html"),
		"silence":                      slowly(time.Hour, good),
		"a connection that is closed":  http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }),
		"an encoding we did not allow": simulator.Script{Body: []byte(start), Header: http.Header{"Content-Encoding": {"br"}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &places{}
				c, end := inMemory(t, Config{Silence: time.Minute}, h)
				defer end()
				s, err := openWith(t.Context(), c, placed(p), Retry{Max: 1})
				if err == nil {
					if _, err := s.Next(); err != nil || p.isHeld() != 1 {
						t.Errorf("%d places are held after the first event, %v", p.isHeld(), err)
					}
					follow(s)
				}
				<-time.After(finishTime)
				synctest.Wait()
				if p.held != 0 || p.most != 1 {
					t.Errorf("%d places are held, %d were at most", p.held, p.most)
				}
			})
		})
	}
}

// faulty is a handler with a defect.
type faulty struct{ *pulled }

func (faulty) Event(Event) bool { panic("a defect") }
func (faulty) Flush()           {}

func TestAPlaceComesBackFromADefect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &places{}
		c, end := inMemory(t, Config{Silence: time.Minute}, good)
		defer end()
		openTo(t.Context(), c, placed(p), Retry{}, faulty{newPulled()})
		synctest.Wait()
		c.streams.Other = panicking{}
		if err := openTo(t.Context(), c, placed(p), Retry{}, newPulled()); err == nil || !strings.Contains(err.Error(), "The gateway failed.") {
			t.Errorf("opening a stream at once: %v", err)
		}
		c.streams.Other = nil
		c.http.Transport = panicking{}
		if err := openTo(t.Context(), c, placed(p), Retry{}, newPulled()); err == nil || !strings.Contains(err.Error(), "The gateway failed.") {
			t.Errorf("opening a stream: %v", err)
		}
		func() {
			defer func() { recover() }()
			c.Do(t.Context(), placed(p))
			t.Error("no panic")
		}()
		if p.takes != 4 || p.held != 0 {
			t.Errorf("%d places were taken, %d are held", p.takes, p.held)
		}
	})
}

type panicking struct{}

func (panicking) RoundTrip(*http.Request) (*http.Response, error)               { panic("a defect") }
func (panicking) Begin(*http.Request, func(*http.Response, error)) (begun bool) { panic("a defect") }

func TestAPlaceIsHeldAsLongAsAWholeAnswerIsRead(t *testing.T) {
	whole := simulator.Script{Body: []byte(`{"type":"message"}`), Header: http.Header{"Content-Type": {"application/json"}}}
	for name, h := range map[string]http.Handler{
		"an answer": whole, "a refusal": refuse(529, shaped(Overloaded)), "an encoding": simulator.Script{Header: http.Header{"Content-Encoding": {"br"}}},
		"one that is repeated": answers(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), whole),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &places{}
				c, end := inMemory(t, Config{Timeout: time.Minute}, h)
				defer end()
				resp, err := c.Do(t.Context(), placed(p))
				if err == nil {
					if p.isHeld() != 1 {
						t.Errorf("%d places are held before the answer is read", p.held)
					}
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					resp.Body.Close()
				}
				if p.held != 0 || p.most != 1 {
					t.Errorf("%d places are held, %d were at most", p.held, p.most)
				}
			})
		})
	}
}

func TestEachAttemptTakesAPlaceAndHoldsNoneBetween(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &places{}
		c, end := inMemory(t, Config{Silence: time.Minute}, answers(refuse(529, shaped(Overloaded), "Retry-After", "10"), overloaded, good))
		defer end()
		time.AfterFunc(5*time.Second, func() {
			if p.isHeld() != 0 {
				t.Error("a place is held while nothing is asked for")
			}
		})
		s, err := openWith(t.Context(), c, placed(p), Retry{Max: 2, Statuses: SafeStatus})
		if err != nil {
			t.Fatal(err)
		}
		follow(s)
		synctest.Wait()
		if p.takes != 3 || p.held != 0 || p.most != 1 {
			t.Errorf("%d places were taken, %d are held, %d were at most", p.takes, p.held, p.most)
		}
	})
}

func TestWithoutAPlaceNothingIsAsked(t *testing.T) {
	full := errors.New("full")
	for take, want := range map[int]struct {
		asked int
		err   func(error) bool
	}{
		1: {0, func(err error) bool { return err == full }},
		2: {1, func(err error) bool { return strings.Contains(err.Error(), Overloaded) }}, // the upstream's word stands
	} {
		synctest.Test(t, func(t *testing.T) {
			p := &places{refuse: func(n int) error {
				if n >= take {
					return full
				}
				return nil
			}}
			a := answers(refuse(529, shaped(Overloaded)))
			c, end := inMemory(t, Config{Silence: time.Minute}, a)
			defer end()
			if _, err := openWith(t.Context(), c, placed(p), Retry{Max: 3, Statuses: SafeStatus}); err == nil || !want.err(err) || a.count() != want.asked || p.held != 0 {
				t.Errorf("%d requests, %d places held: %v", a.count(), p.held, err)
			}
		})
	}
	p := &places{refuse: func(int) error { return full }}
	a := answers(good)
	_, c := upstream(t, a)
	if _, err := c.Do(t.Context(), placed(p)); err != full || a.count() != 0 {
		t.Errorf("%d requests: %v", a.count(), err)
	}
}

func TestTheWaitForAPlaceIsNotTheUpstreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &places{wait: time.Hour}
		c, end := inMemory(t, Config{Silence: time.Minute, Timeout: time.Minute}, slowly(59*time.Second, good))
		defer end()
		s, err := openWith(t.Context(), c, placed(p), Retry{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := follow(s); err != nil {
			t.Error(err)
		}
		resp, err := c.Do(t.Context(), placed(p))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()

		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		begun := time.Now()
		time.AfterFunc(time.Minute, func() { cancel(gone) })
		if _, err := openWith(ctx, c, placed(p), Retry{}); err != gone || time.Since(begun) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
	})
}

func TestAPauseIsWhatA429Or529AsksFor(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer http.Handler
		want   []string
	}{
		{"429", refuse(429, shaped(RateLimit), "Retry-After", "7"), []string{"429 7s"}},
		{"529", refuse(529, "<html>", "Retry-After-Ms", "1500", "Retry-After", "7"), []string{"529 1.5s"}},
		{"529 without a wait", refuse(529, shaped(Overloaded)), nil},
		{"429 with a wait of nothing", refuse(429, shaped(RateLimit), "Retry-After", "0"), nil},
		{"429 with a wait that is none", refuse(429, shaped(RateLimit), "Retry-After", "soon"), nil},
		{"500", refuse(500, shaped(APIError), "Retry-After", "7"), nil},
		{"503", refuse(503, "", "Retry-After", "7"), nil},
		{"a stream", simulator.Script{Body: []byte(start + stop), Header: http.Header{"Retry-After": {"24"}}}, nil}, // it is on record that these say so
		{"an error as first event", simulator.Script{Body: []byte(overload), Header: http.Header{"Retry-After": {"24"}}}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, client := upstream(t, c.answer)
			for _, call := range []func(Request){
				func(r Request) {
					if s, err := openWith(t.Context(), client, r, Retry{}); err == nil {
						follow(s)
					}
				},
				func(r Request) {
					if resp, err := client.Do(t.Context(), r); err == nil {
						resp.Body.Close()
					}
				},
			} {
				p := &places{}
				call(placed(p))
				if !slices.Equal(p.pauses, c.want) {
					t.Errorf("asked for %q, want %q", p.pauses, c.want)
				}
				call(message) // one that needs no place speaks for nobody else
			}
		})
	}
}
