package claude

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"sluice/gateway/simulator"
)

const patience = 180 * time.Second

// opened opens a stream at this handler in a bubble of fake time, and calls use with it.
func opened(t *testing.T, h http.Handler, use func(t *testing.T, s *pulled, err error, begun time.Time)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c, end := inMemory(t, Config{Silence: patience, Timeout: 10 * time.Minute}, h)
		defer end()
		begun := time.Now()
		s, err := openWith(t.Context(), c, message, Retry{Max: 3, Statuses: SafeStatus})
		use(t, s, err, begun)
		if err == nil {
			s.Close()
		}
	})
}

func wantSilent(t *testing.T, err error, begun time.Time, want time.Duration) {
	t.Helper()
	asError(t, err, Timeout, 504)
	if took := time.Since(begun); took != want {
		t.Errorf("given up after %v, want %v", took, want)
	}
}

// slowly answers the request after a silence.
func slowly(d time.Duration, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		select {
		case <-time.After(d):
			h.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	})
}

func TestSilenceIsGivenUp(t *testing.T) {
	stalled := func(body string) simulator.Script {
		return simulator.Script{Body: []byte(body), Chunks: simulator.PerEvent, Gap: 10 * time.Second, Ending: simulator.EndStall}
	}
	t.Run("before the headers", func(t *testing.T) {
		a := answers(slowly(time.Hour, good))
		opened(t, a, func(t *testing.T, s *pulled, err error, begun time.Time) {
			wantSilent(t, err, begun, patience)
			if a.count() != 1 {
				t.Errorf("%d requests", a.count())
			}
		})
	})
	t.Run("before the first event", func(t *testing.T) {
		opened(t, stalled(""), func(t *testing.T, s *pulled, err error, begun time.Time) { wantSilent(t, err, begun, patience) })
	})
	t.Run("after pings", func(t *testing.T) {
		opened(t, stalled(ping+ping+ping), func(t *testing.T, s *pulled, err error, begun time.Time) {
			wantSilent(t, err, begun, 20*time.Second+patience)
		})
	})
	t.Run("in a refusal", func(t *testing.T) {
		refusal := simulator.Script{Status: 400, Body: []byte(shaped(InvalidRequest)[:20]), Ending: simulator.EndStall}
		opened(t, refusal, func(t *testing.T, s *pulled, err error, begun time.Time) {
			if err == nil || time.Since(begun) > patience {
				t.Errorf("%v after %v", err, time.Since(begun))
			}
		})
	})
	for _, c := range []struct {
		name   string
		script simulator.Script
		last   time.Duration // when the last byte comes
	}{
		{"in the middle", stalled(start + opening + ping), 20 * time.Second},
		{"in the middle of gzip", simulator.Script{Body: []byte(start + opening + ping), Chunks: simulator.PerEvent, Gap: 10 * time.Second, Gzip: true, Ending: simulator.EndStall}, 20 * time.Second},
		{"in an event", stalled(start + opening + "event: message_st"), 20 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			opened(t, c.script, func(t *testing.T, s *pulled, err error, begun time.Time) {
				if err != nil {
					t.Fatal(err)
				}
				events, err := follow(s)
				if len(events) != 2 {
					t.Errorf("%d events", len(events))
				}
				wantSilent(t, err, begun, c.last+patience)
			})
		})
	}
}

func TestPingsKeepAStreamAlive(t *testing.T) {
	body := start
	for range 50 {
		body += ping
	}
	script := simulator.Script{Body: []byte(body + stop), Chunks: simulator.PerEvent, Gap: patience - time.Second}
	opened(t, script, func(t *testing.T, s *pulled, err error, begun time.Time) {
		if err != nil {
			t.Fatal(err)
		}
		if events, err := follow(s); err != nil || len(events) != 2 || time.Since(begun) != 51*(patience-time.Second) {
			t.Errorf("%d events in %v: %v", len(events), time.Since(begun), err)
		}
	})
	opened(t, slowly(patience-time.Second, script), func(t *testing.T, s *pulled, err error, begun time.Time) {
		if err != nil {
			t.Fatalf("slow headers: %v", err)
		}
	})
}

func TestAnEventIsReadWhenItArrives(t *testing.T) {
	script := simulator.Script{Body: []byte(start + opening + stop), Chunks: simulator.PerEvent, Gap: 3 * time.Second}
	for _, script.Gzip = range []bool{false, true} {
		opened(t, script, func(t *testing.T, s *pulled, err error, begun time.Time) {
			if err != nil {
				t.Fatal(err)
			}
			var at []time.Duration
			for {
				e, err := s.Next()
				if err != nil {
					break
				}
				at = append(at, e.Read.Sub(begun), time.Since(begun))
			}
			if want := []time.Duration{0, 0, 3 * time.Second, 3 * time.Second, 6 * time.Second, 6 * time.Second}; !slices.Equal(at, want) {
				t.Errorf("gzip %v: %v", script.Gzip, at)
			}
		})
	}
}

func TestCancelingEndsAtOnceWithTheCause(t *testing.T) {
	own := &Error{Type: Canceled, Status: 500, Message: "The stream was canceled."}
	for name, h := range map[string]http.Handler{
		"before the headers":     slowly(time.Hour, good),
		"before the first event": simulator.Script{Body: []byte(ping), Ending: simulator.EndStall},
		"in the middle":          simulator.Script{Body: []byte(start + opening), Ending: simulator.EndStall},
	} {
		for _, cause := range []error{errors.New("everybody left"), own, context.Canceled} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, end := inMemory(t, Config{Silence: patience}, h)
					defer end()
					ctx, cancel := context.WithCancelCause(t.Context())
					begun := time.Now()
					time.AfterFunc(5*time.Second, func() { cancel(cause) })
					s, err := openWith(ctx, c, message, Retry{Max: 3, Statuses: SafeStatus})
					if err == nil {
						_, err = follow(s)
						s.Close()
					}
					if err != cause || time.Since(begun) != 5*time.Second {
						t.Errorf("%v after %v, want %v", err, time.Since(begun), cause)
					}
				})
				if own.Message != "The stream was canceled." || own.Cause != nil {
					t.Errorf("the caller's own error was changed: %v", own)
				}
			})
		}
	}
}

func TestAClosedStreamLeavesTheUpstream(t *testing.T) {
	left := make(chan time.Duration, 1)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		simulator.Script{Body: []byte(start), Ending: simulator.EndStall}.ServeHTTP(w, r)
		left <- time.Since(begun)
	})
	opened(t, h, func(t *testing.T, s *pulled, err error, begun time.Time) {
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		if took := <-left; took != 0 {
			t.Errorf("left after %v", took)
		}
		if _, err := s.Next(); err != nil {
			t.Errorf("the first event was lost: %v", err)
		}
		if _, err := s.Next(); err == nil || err == io.EOF {
			t.Errorf("a closed stream ended with %v", err)
		}
	})
}

// The end of the body usually comes with message_stop; an upstream that keeps it open must not hold the slot.
func TestCloseDoesNotWaitForABodyThatStaysOpen(t *testing.T) {
	for _, last := range []string{stop, overload} {
		script := simulator.Script{Body: []byte(start + last), Ending: simulator.EndStall}
		opened(t, script, func(t *testing.T, s *pulled, err error, begun time.Time) {
			if err != nil {
				t.Fatal(err)
			}
			if _, err := follow(s); err != nil {
				t.Fatal(err)
			}
			s.Close()
			if took := time.Since(begun); took != finishTime {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestAnAnswerThatIsNoStreamHasATimeout(t *testing.T) {
	whole := simulator.Script{Body: []byte(`{"a":1}`), Header: http.Header{"Content-Type": {"application/json"}}}
	stalled := whole
	stalled.Ending = simulator.EndStall
	for name, h := range map[string]http.Handler{"before the headers": slowly(time.Hour, whole), "in the body": stalled} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, end := inMemory(t, Config{Silence: time.Second, Timeout: 10 * time.Minute}, h)
				defer end()
				begun := time.Now()
				resp, err := c.Do(t.Context(), message)
				if err == nil {
					_, err = io.ReadAll(resp.Body)
					resp.Body.Close()
				}
				wantSilent(t, err, begun, 10*time.Minute)
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		c, end := inMemory(t, Config{Silence: time.Second, Timeout: 10 * time.Minute}, slowly(9*time.Minute, whole))
		defer end()
		resp, err := c.Do(t.Context(), message)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); string(body) != `{"a":1}` || err != nil {
			t.Errorf("%q %v", body, err)
		}
		resp.Body.Close()
	})
}
