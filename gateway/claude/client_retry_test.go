package claude

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"sluice/gateway/simulator"
)

// tried opens a stream at a server that answers in turn, inside a bubble of fake time. It returns the requests that the
// server met and how long all took.
func tried(t *testing.T, retry Retry, handlers ...http.Handler) (asked int, took time.Duration, err error) {
	synctest.Test(t, func(t *testing.T) {
		a := answers(handlers...)
		c, end := inMemory(t, Config{Silence: time.Minute}, a)
		defer end()
		begun := time.Now()
		if !retry.Until.IsZero() {
			retry.Until = begun.Add(retry.Until.Sub(bound))
		}
		var s *pulled
		if s, err = openWith(t.Context(), c, message, retry); err == nil {
			s.Close()
		}
		asked, took = a.count(), time.Since(begun)
	})
	return asked, took, err
}

// bound is the zero of Retry.Until in calls of tried, whose time is not ours.
var bound = time.Unix(1_000_000, 0)

var (
	cut        = simulator.Script{Ending: simulator.EndCut}
	empty      = simulator.Script{}
	pinged     = simulator.Script{Body: []byte(ping + ping)}
	halfGzip   = simulator.Script{Body: []byte("\x1f\x8b\x08\x00"), Header: http.Header{"Content-Encoding": {"gzip"}}}
	overloaded = simulator.Script{Body: []byte(ping + overload)}
)

func TestWhatIsTriedAgainBeforeTheFirstEvent(t *testing.T) {
	const (
		never   = iota
		streams // only with the statuses of /v1/streams
		always
	)
	for _, c := range []struct {
		name    string
		answer  http.Handler
		retried int
	}{
		{"connection cut before the headers", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), always},
		{"connection cut before the first event", cut, always},
		{"empty stream", empty, always},
		{"pings only", pinged, always},
		{"gzip cut before the first event", halfGzip, always},
		{"overloaded as first event", overloaded, always},
		{"408", refuse(408, "{}"), streams},
		{"409", refuse(409, shaped("conflict_error")), streams},
		{"429", refuse(429, shaped("rate_limit_error")), streams},
		{"500", refuse(500, shaped("api_error")), streams},
		{"502 in HTML", refuse(502, "<html>", "Content-Type", "text/html"), streams},
		{"520 in HTML", refuse(520, "<html>", "Content-Type", "text/html"), streams},
		{"504", refuse(504, shaped("timeout_error")), streams},
		{"529", refuse(529, shaped("overloaded_error")), streams},
		{"400", refuse(400, shaped("invalid_request_error")), never},
		{"401", refuse(401, shaped("authentication_error")), never},
		{"403", refuse(403, shaped("permission_error")), never},
		{"404", refuse(404, shaped("not_found_error")), never},
		{"413", refuse(413, "too large"), never},
		{"another error as first event", simulator.Script{Body: []byte("event: error\ndata: " + shaped("invalid_request_error") + "\n\n")}, never},
		{"a refused key as first event", simulator.Script{Body: []byte("event: error\ndata: " + shaped("authentication_error") + "\n\n")}, never},
		{"redirect", refuse(302, "", "Location", "/elsewhere"), never},
		{"a whole message, that was paid for", refuse(200, `{"type":"message"}`), never},
		{"200 in HTML", refuse(200, "<html>", "Content-Type", "text/html"), never},
		{"a compression that nobody asked for", simulator.Script{Body: []byte(start), Header: http.Header{"Content-Encoding": {"br"}}}, never},
		{"an event too large", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for chunk := make([]byte, 1<<20); ; {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}), never},
		{"x-should-retry: false", refuse(529, shaped("overloaded_error"), "X-Should-Retry", "false"), never},
		{"x-should-retry: false of a stream", simulator.Script{Body: []byte(overload), Header: http.Header{"X-Should-Retry": {"false"}}}, never},
	} {
		for _, retry := range []Retry{{Max: 2}, {Max: 2, Statuses: SafeStatus}} {
			want := 1
			if c.retried == always || c.retried == streams && retry.Statuses != nil {
				want = 3
			}
			t.Run(fmt.Sprintf("%s, statuses %v", c.name, retry.Statuses != nil), func(t *testing.T) {
				asked, _, err := tried(t, retry, c.answer)
				if asked != want {
					t.Errorf("%d requests, want %d: %v", asked, want, err)
				}
				var e *Error
				if !errors.As(err, &e) {
					t.Errorf("%v is no *Error", err)
				}
				if want == 1 {
					return
				}
				if asked, _, err := tried(t, retry, c.answer, good); asked != 2 || err != nil {
					t.Errorf("then a stream: %d requests, %v", asked, err)
				}
				if asked, _, err := tried(t, Retry{Statuses: retry.Statuses}, c.answer, good); asked != 1 || err == nil {
					t.Errorf("without retries: %d requests, %v", asked, err)
				}
			})
		}
	}
}

func TestNothingIsSplicedAfterTheFirstEvent(t *testing.T) {
	for name, script := range map[string]simulator.Script{
		"cut":        {Body: []byte(start + opening), Ending: simulator.EndCut},
		"truncated":  {Body: []byte(start + opening)},
		"overloaded": {Body: []byte(start + overload)},
	} {
		a := answers(script, good)
		_, c := upstream(t, a)
		s, err := open(t, c, Retry{Max: 5, Statuses: SafeStatus})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		events, err := follow(s)
		if a.count() != 1 || len(events) == 0 || events[len(events)-1].name == "message_stop" {
			t.Errorf("%s: %d requests, %q, %v", name, a.count(), events, err)
		}
	}
}

func TestWaitsAreThoseThatTheUpstreamAsksFor(t *testing.T) {
	for _, c := range []struct {
		name     string
		header   []string
		min, max time.Duration
	}{
		{"retry-after", []string{"Retry-After", "7"}, 7 * time.Second, 7 * time.Second},
		{"retry-after-ms", []string{"Retry-After-Ms", "1500", "Retry-After", "7"}, 1500 * time.Millisecond, 1500 * time.Millisecond},
		{"unusable", []string{"Retry-After", "soon"}, 375 * time.Millisecond, 500 * time.Millisecond},
		{"none", nil, 375 * time.Millisecond, 500 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked, took, err := tried(t, Retry{Max: 1, Statuses: SafeStatus}, refuse(529, shaped("overloaded_error"), c.header...), good)
			if asked != 2 || err != nil || took < c.min || took > c.max {
				t.Errorf("%d requests in %v: %v", asked, took, err)
			}
		})
	}
	asked, took, err := tried(t, Retry{Max: 2}, overloaded, overloaded, good)
	if asked != 3 || err != nil || took < 1125*time.Millisecond || took > 1500*time.Millisecond {
		t.Errorf("growing waits: %d requests in %v: %v", asked, took, err)
	}
}

func TestAWaitThatEndsTooLateIsNotBegun(t *testing.T) {
	late := refuse(429, shaped("rate_limit_error"), "Retry-After", "30")
	asked, took, err := tried(t, Retry{Max: 2, Statuses: SafeStatus, Until: bound.Add(29 * time.Second)}, late, good)
	if e := asError(t, err, RateLimit, 429); asked != 1 || took != 0 || e.Header.Get("Retry-After") != "30" {
		t.Errorf("%d requests in %v", asked, took)
	}
	if asked, took, err := tried(t, Retry{Max: 2, Statuses: SafeStatus, Until: bound.Add(31 * time.Second)}, late, good); asked != 2 || took != 30*time.Second || err != nil {
		t.Errorf("%d requests in %v: %v", asked, took, err)
	}
	if asked, took, err := tried(t, Retry{Max: 9, Until: bound.Add(2 * time.Second)}, cut); asked != 3 || took > 2*time.Second || err == nil {
		t.Errorf("%d requests in %v: %v", asked, took, err)
	}
}

func TestOverloadedAsFirstEventIsPassedOnAsItIs(t *testing.T) {
	data := `{"type":"error","error":{"details":null,"type":"overloaded_error","message":"Overloaded"},"request_id":"req_7"  }`
	script := simulator.Script{Body: []byte("event: error\ndata: " + data + "\n\n"), Header: http.Header{"Retry-After": {"3"}}}
	asked, took, err := tried(t, Retry{Max: 1}, script)
	e := asError(t, err, Overloaded, 529)
	if asked != 2 || took < 3*time.Second || string(e.Body) != data || string(e.Object("x")) != data || e.Message != "Overloaded" || e.Header.Get("Retry-After") != "3" {
		t.Errorf("%d requests in %v: %+v", asked, took, e)
	}
}

func TestAFirstEventErrorHasTheStatusOfItsType(t *testing.T) {
	for kind, status := range map[string]int{InvalidRequest: 400, Billing: 402, Permission: 403, NotFound: 404, Conflict: 409, TooLarge: 413, RateLimit: 429, APIError: 500, Timeout: 504, Overloaded: 529, "new_error": 500} {
		_, c := upstream(t, simulator.Script{Body: []byte(ping + "data: " + shaped(kind) + "\n\n")})
		_, err := open(t, c, Retry{})
		if e := asError(t, err, kind, status); string(e.Body) != shaped(kind) {
			t.Errorf("%s: %s", kind, e.Body)
		}
	}
}

func TestACanceledWaitEndsWithItsCause(t *testing.T) {
	for _, cause := range []error{errors.New("the caller left"), &Error{Type: Canceled, Message: "The stream was canceled."}} {
		synctest.Test(t, func(t *testing.T) {
			c, end := inMemory(t, Config{Silence: time.Minute}, refuse(529, shaped("overloaded_error"), "Retry-After", "20"))
			defer end()
			ctx, cancel := context.WithCancelCause(t.Context())
			begun := time.Now()
			time.AfterFunc(5*time.Second, func() { cancel(cause) })
			_, err := openWith(ctx, c, message, Retry{Max: 2, Statuses: SafeStatus})
			if err != cause || time.Since(begun) != 5*time.Second {
				t.Errorf("%v after %v", err, time.Since(begun))
			}
		})
	}
}

func TestASafeStatusIsWhatTheSDKsRepeat(t *testing.T) {
	for status, want := range map[int]bool{200: false, 302: false, 400: false, 401: false, 404: false, 408: true, 409: true, 413: false, 429: true, 499: false, 500: true, 502: true, 529: true} {
		if SafeStatus(status) != want {
			t.Errorf("%d: %v", status, !want)
		}
	}
}

func TestARedirectGetsNeitherTheRequestNorTheKey(t *testing.T) {
	elsewhere := answers(good)
	other := httptest.NewServer(elsewhere)
	t.Cleanup(other.Close)
	for _, status := range []int{301, 302, 303, 304, 307, 308} {
		a := answers(refuse(status, "", "Location", other.URL+"/v1/messages"))
		_, c := upstream(t, a)
		_, err := open(t, c, Retry{Max: 3})
		asError(t, err, APIError, 502)
		_, err = c.Do(t.Context(), message)
		asError(t, err, APIError, 502)
		if a.count() != 2 || elsewhere.count() != 0 {
			t.Errorf("%d: %d requests, %d elsewhere", status, a.count(), elsewhere.count())
		}
	}
}
