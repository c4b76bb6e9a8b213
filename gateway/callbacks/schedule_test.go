package callbacks

import (
	"testing"
	"time"
)

func TestWaitsGrowFromSecondsToHoursOverADay(t *testing.T) {
	begun := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	for _, jitter := range []float64{0, 0.5, 0.999} {
		now, last := begun, time.Duration(0)
		attempts := 1
		for ; ; attempts++ {
			at, ok := next(attempts, begun, now, 0, jitter)
			if !ok {
				break
			}
			wait := at.Sub(now)
			if wait < last || wait < 3750*time.Millisecond || wait > 2*time.Hour {
				t.Fatalf("jitter %v, attempt %d: %v after %v", jitter, attempts, wait, last)
			}
			now, last = at, wait
		}
		if took := now.Sub(begun); took < 22*time.Hour || took >= 24*time.Hour || attempts < 20 || attempts > 30 {
			t.Errorf("jitter %v: %d attempts in %v", jitter, attempts, took)
		}
	}
}

func TestNextAttemptIsWhenTheScheduleOrTheReceiverSays(t *testing.T) {
	begun := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		attempts   int
		now, asked time.Duration
		jitter     float64
		want       time.Duration
		ok         bool
	}{
		"first":                         {1, 0, 0, 0, 5 * time.Second, true},
		"second":                        {2, 0, 0, 0, 10 * time.Second, true},
		"second, jittered":              {2, 0, 0, 1, 7500 * time.Millisecond, true},
		"far":                           {1000, 0, 0, 0, 2 * time.Hour, true},
		"none yet":                      {0, 0, 0, 0, 5 * time.Second, true},
		"receiver asks for more":        {1, 0, time.Minute, 0, time.Minute, true},
		"receiver asks for less":        {8, 0, time.Second, 0, 640 * time.Second, true},
		"receiver asks for too much":    {1, 0, 100 * time.Hour, 0, 2 * time.Hour, true},
		"just within the day":           {30, 22*time.Hour - 1, 0, 0, 2 * time.Hour, true},
		"a day is over":                 {30, 22 * time.Hour, 0, 0, 2 * time.Hour, false},
		"a day is over by what's asked": {1, 23 * time.Hour, 100 * time.Hour, 0, 2 * time.Hour, false},
	} {
		now := begun.Add(c.now)
		at, ok := next(c.attempts, begun, now, c.asked, c.jitter)
		if got := at.Sub(now); got != c.want || ok != c.ok {
			t.Errorf("%s: %v, %v; want %v, %v", name, got, ok, c.want, c.ok)
		}
	}
}
