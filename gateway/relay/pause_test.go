package relay

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sluice/gateway/claude"
	"sluice/gateway/limits"
	"sluice/gateway/simulator"
)

// What one is told holds for all, for as long as the upstream has said, and then little by little.
func TestAPauseThatTheUpstreamAsksForHoldsForAll(t *testing.T) {
	for _, limit := range []int{0, 100} {
		synctest.Test(t, func(t *testing.T) {
			var log strings.Builder
			h := newHouse(t, func(s *setup) {
				s.concurrent = limit
				s.log = slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn})
			})
			open, c := h.open()
			h.answers(simulator.Script{Status: 429, Header: map[string][]string{"Retry-After": {"6"}, "X-Should-Retry": {"false"}}})
			for i := range 3 { // the second and the third were on their way when the first came back
				s := h.start(patient, func(p *Params) { p.Owner = fmt.Sprint("key:", i) })
				if i == 0 {
					<-s.Opened()
					if err := s.Commit(); err == nil {
						t.Error("a 429 is no refusal")
					}
				} else {
					s.Cancel()
				}
			}
			h.handler.Store(nil)
			begun := time.Now()
			var waiting []*Stream
			for i := range 4 {
				waiting = append(waiting, h.waiting(patient, func(p *Params) { p.Owner = fmt.Sprint("key:", i) }))
			}
			c.send(textDelta("and goes on")) // who is there is not disturbed
			synctest.Wait()
			if n := len(open.log.entries); n != 4 {
				t.Errorf("%d events", n)
			}
			var at []time.Duration
			for range 3 {
				c := <-h.calls
				at = append(at, time.Since(begun))
				c.send(answer("Hello")...)
			}
			if at[0] != 6*time.Second || at[1] != 7*time.Second || at[2] != 7*time.Second {
				t.Errorf("asked again after %v", at)
			}
			<-h.calls
			for _, s := range waiting {
				s.Answered()
			}
			if lines := strings.Count(log.String(), "\n"); lines != 1 || !strings.Contains(log.String(), "status=429 asked_for=6s pause=6s") {
				t.Errorf("logged:\n%s", log.String())
			}
		})
	}
}

func TestWhoCannotWaitForTheGateIsToldAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.queue.Shut(30 * time.Second)
		s, _, err := h.Start(params(patient))
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		<-s.Opened()
		isBusy(t, s.Commit(), limits.AtGate)
		s.Answered()
		release, err := h.Place("key:alice", wait).Take(t.Context())
		isBusy(t, err, limits.AtGate)
		if release != nil || time.Since(begun) != 0 {
			t.Errorf("after %v", time.Since(begun))
		}
	})
}

func TestARetryWaitsForItsTurnWithinTheHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, onePlace)
		h.answers(simulator.Script{Status: 529, Header: map[string][]string{"Retry-After": {"3"}}})
		p := params(patient)
		h.Reserve(int64(len(p.Request.Body)))
		s, _, err := h.Start(p)
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		synctest.Wait()
		h.want(map[string]float64{`sluice_upstream_requests_total{code="529"}`: 1})
		h.handler.Store(nil)
		other := h.waiting(func(p *Params) { p.Owner = "key:bob" }) // is first when the gate opens
		c := <-h.calls
		<-s.Opened()
		if took := time.Since(begun); took != hold { // 3 s of pause, and then in the queue until the hold is over
			t.Errorf("refused after %v", took)
		}
		var e *claude.Error
		if err := s.Commit(); !errors.As(err, &e) || e.Status != 529 || e.Header.Get("Retry-After") != "3" {
			t.Errorf("%v is not the upstream's word", err)
		}
		s.Answered()
		h.want(map[string]float64{`sluice_upstream_retries_total{reason="529"}`: 0})
		c.send(answer("Hello")...)
		<-other.Done()
		other.Answered()
	})
}
