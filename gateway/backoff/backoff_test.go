package backoff

import (
	"math"
	"net/http"
	"testing"
	"time"
)

func TestDelayDoublesUpToEightSecondsLessAQuarter(t *testing.T) {
	for _, test := range []struct {
		name    string
		attempt int
		jitter  float64
		want    time.Duration
	}{
		{"first", 0, 0, 500 * time.Millisecond},
		{"second", 1, 0, time.Second},
		{"third", 2, 0, 2 * time.Second},
		{"fourth", 3, 0, 4 * time.Second},
		{"fifth", 4, 0, 8 * time.Second},
		{"capped", 5, 0, 8 * time.Second},
		{"far", 1000, 0, 8 * time.Second},
		{"farthest", math.MaxInt, 0, 8 * time.Second},
		{"below zero", -1, 0, 500 * time.Millisecond},
		{"lowest", math.MinInt, 0, 500 * time.Millisecond},
		{"half the jitter", 1, 0.5, 875 * time.Millisecond},
		{"all the jitter", 1, 1, 750 * time.Millisecond},
		{"all the jitter at the cap", 9, 1, 6 * time.Second},
		{"too much jitter", 1, 7, 750 * time.Millisecond},
		{"infinite jitter", 1, math.Inf(1), 750 * time.Millisecond},
		{"negative jitter", 1, -1, time.Second},
		{"no number", 1, math.NaN(), time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := Delay(test.attempt, test.jitter); got != test.want {
				t.Errorf("Delay(%d, %v) = %v, want %v", test.attempt, test.jitter, got, test.want)
			}
		})
	}
}

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func TestRetryAfterIsWhatTheHeadersAskForOrNothing(t *testing.T) {
	in := func(d time.Duration) string { return noon.Add(d).Format(http.TimeFormat) }
	for _, test := range []struct {
		name         string
		ms, seconds  string
		want         time.Duration
		nothingAsked bool
	}{
		{name: "nothing", nothingAsked: true},
		{name: "milliseconds", ms: "1500", want: 1500 * time.Millisecond},
		{name: "fraction of a millisecond", ms: "0.5", want: 500 * time.Microsecond},
		{name: "milliseconds win", ms: "20", seconds: "20", want: 20 * time.Millisecond},
		{name: "seconds", seconds: "31", want: 31 * time.Second},
		{name: "fraction of a second", seconds: "1.25", want: 1250 * time.Millisecond},
		{name: "spaces around", seconds: " 3 ", want: 3 * time.Second},
		{name: "date", seconds: in(90 * time.Second), want: 90 * time.Second},
		{name: "date of RFC 850", seconds: noon.Add(time.Minute).Format("Monday, 02-Jan-06 15:04:05 GMT"), want: time.Minute},
		{name: "date of asctime", seconds: noon.Add(time.Minute).Format(time.ANSIC), want: time.Minute},
		{name: "an hour is not capped", seconds: "3600", want: time.Hour},
		{name: "garbage before seconds", ms: "soon", seconds: "2", want: 2 * time.Second},
		{name: "negative before seconds", ms: "-5", seconds: "2", want: 2 * time.Second},
		{name: "zero before seconds", ms: "0", seconds: "2", want: 2 * time.Second},
		{name: "milliseconds before garbage", ms: "7", seconds: "soon", want: 7 * time.Millisecond},
		{name: "zero", seconds: "0", nothingAsked: true},
		{name: "less than a nanosecond", ms: "1e-9", nothingAsked: true},
		{name: "negative", seconds: "-1", nothingAsked: true},
		{name: "NaN", ms: "NaN", seconds: "nan", nothingAsked: true},
		{name: "infinity", ms: "Inf", seconds: "+Infinity", nothingAsked: true},
		{name: "negative infinity", seconds: "-Inf", nothingAsked: true},
		{name: "beyond a float", seconds: "1e999", nothingAsked: true},
		{name: "garbage", seconds: "in a while", nothingAsked: true},
		{name: "two numbers", seconds: "1, 2", nothingAsked: true},
		{name: "date of now", seconds: in(0), nothingAsked: true},
		{name: "date of the past", seconds: in(-time.Hour), nothingAsked: true},
		{name: "huge seconds", seconds: "99999999999999999999", want: Farthest},
		{name: "huge milliseconds", ms: "1e300", want: Farthest},
		{name: "huge negative", seconds: "-1e300", nothingAsked: true},
		{name: "date far ahead", seconds: "Fri, 31 Dec 9999 23:59:59 GMT", want: Farthest},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := http.Header{}
			if test.ms != "" {
				h.Set("retry-after-ms", test.ms)
			}
			if test.seconds != "" {
				h.Set("retry-after", test.seconds)
			}
			got, ok := RetryAfter(h, noon)
			if got != test.want || ok == test.nothingAsked {
				t.Errorf("RetryAfter = %v, %v; want %v, %v", got, ok, test.want, !test.nothingAsked)
			}
		})
	}
}

func TestRetryAfterOfNoHeaderIsNothing(t *testing.T) {
	if d, ok := RetryAfter(nil, noon); d != 0 || ok {
		t.Errorf("RetryAfter(nil) = %v, %v", d, ok)
	}
}

func FuzzRetryAfterIsNeverNegativeNorEndless(f *testing.F) {
	f.Add("1500", "2")
	f.Add("-1", "Sun, 22 Nov 2026 12:01:00 GMT")
	f.Add("1e400", "0x1p70")
	f.Fuzz(func(t *testing.T, ms, seconds string) {
		d, ok := RetryAfter(http.Header{"Retry-After-Ms": {ms}, "Retry-After": {seconds}}, noon)
		if d < 0 || d > Farthest || ok != (d > 0) {
			t.Errorf("RetryAfter(%q, %q) = %v, %v", ms, seconds, d, ok)
		}
	})
}
