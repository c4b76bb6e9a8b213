package httpapi

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"sluice/gateway/auth"
	"sluice/gateway/batches"
	"sluice/gateway/callbacks"
	"sluice/gateway/claude"
	"sluice/gateway/limits"
	"sluice/gateway/relay"
	"sluice/gateway/store"
)

// statusGone is what a request whose client has left is counted as; nobody receives it.
const statusGone = 499

// retrySoon is the retry-after of a refusal that has no known end: long enough to matter under overload, short enough
// for somebody who waits.
const retrySoon = 5 * time.Second

// stay is the wait above which clients are told not to wait: official SDKs sleep as told, for hours.
const stay = time.Minute

// failure is an error as it is answered.
type failure struct {
	status  int
	kind    string
	message string
	body    []byte // the upstream's own object; nil: made from kind and message
	header  http.Header
	limit   string // for the metric, where a limit of a plan refused, or the queue before the upstream
	auth    string // likewise, where credentials did
}

// refuse makes an error of the edge's own.
func refuse(status int, kind, format string, args ...any) error {
	return &claude.Error{Type: kind, Status: status, Message: fmt.Sprintf(format, args...)}
}

// describe is the table from the rooms' errors to statuses and Anthropic's types.
func describe(err error) failure {
	var (
		upstream *claude.Error
		exceeded *limits.Exceeded
		busy     *limits.Busy
		guessing *auth.Throttled
		outside  *limits.Outside
		routing  *echo.HTTPError
		tooLarge *http.MaxBytesError
		noURL    *callbacks.InvalidURLError
	)
	switch {
	case errors.As(err, &upstream):
		f := failure{status: upstream.Status, kind: upstream.Type, message: upstream.Message, body: upstream.Body, header: http.Header{}}
		if f.status == 0 {
			f.status = http.StatusInternalServerError
		}
		for _, name := range []string{"Request-Id", "Retry-After", "Retry-After-Ms", "X-Should-Retry"} {
			if v := upstream.Header.Get(name); v != "" {
				f.header.Set(name, v)
			}
		}
		return f
	case errors.As(err, &exceeded):
		f := failure{status: http.StatusTooManyRequests, kind: claude.RateLimit, message: exceeded.Error(), header: http.Header{}, limit: exceeded.Limit}
		setWindows(f.header, exceeded.Windows)
		return f.after(exceeded.RetryAfter)
	case errors.As(err, &busy):
		return failure{status: 529, kind: claude.Overloaded, message: busy.Error(), limit: busy.At}.after(busy.RetryAfter)
	case errors.As(err, &outside):
		f := failure{status: http.StatusBadRequest, kind: claude.InvalidRequest, message: outside.Error(), limit: outside.Limit}
		if outside.Limit == limits.Models {
			f.status, f.kind = http.StatusForbidden, claude.Permission
		}
		return f
	case errors.As(err, &tooLarge):
		return failure{status: http.StatusRequestEntityTooLarge, kind: claude.TooLarge, message: fmt.Sprintf("The request is larger than %d MB.", tooLarge.Limit/1_000_000)}
	case errors.Is(err, auth.ErrNoCredentials):
		return failure{status: http.StatusUnauthorized, kind: claude.Authentication, message: err.Error(), auth: "missing"}
	case errors.Is(err, auth.ErrConflictingCredentials):
		return failure{status: http.StatusUnauthorized, kind: claude.Authentication, message: err.Error(), auth: "conflicting"}
	case errors.Is(err, auth.ErrWrongCredentials):
		return failure{status: http.StatusUnauthorized, kind: claude.Authentication, message: err.Error(), auth: "wrong"}
	case errors.Is(err, auth.ErrTokenRefused):
		return failure{status: http.StatusUnauthorized, kind: claude.Authentication, message: err.Error(), auth: "token"}
	case errors.Is(err, auth.ErrUserRefused):
		return failure{status: http.StatusUnauthorized, kind: claude.Authentication, message: err.Error(), auth: "user_header"}
	case errors.As(err, &guessing):
		return failure{status: http.StatusTooManyRequests, kind: claude.RateLimit, message: err.Error(), auth: "throttled"}.after(guessing.RetryAfter)
	case errors.Is(err, auth.ErrKeysUnavailable):
		return failure{status: http.StatusServiceUnavailable, kind: claude.APIError, message: err.Error()}.after(retrySoon)
	case errors.Is(err, limits.ErrUnknownPlan):
		return failure{status: http.StatusForbidden, kind: claude.Permission, message: "The plan that your token names does not exist at this gateway."}
	case errors.Is(err, auth.ErrWrongTicket), errors.Is(err, auth.ErrTicketDead), errors.Is(err, errTicketExpired):
		return failure{status: http.StatusUnauthorized, kind: claude.Authentication, message: err.Error(), auth: "ticket"}
	case errors.Is(err, relay.ErrNotFound):
		return failure{status: http.StatusNotFound, kind: claude.NotFound, message: "There is no such stream."}
	case errors.Is(err, batches.ErrNotFound):
		return failure{status: http.StatusNotFound, kind: claude.NotFound, message: "There is no such batch."}
	case errors.Is(err, callbacks.ErrNotFound):
		return failure{status: http.StatusNotFound, kind: claude.NotFound, message: "There is no such callback."}
	case errors.As(err, &noURL):
		return failure{status: http.StatusBadRequest, kind: claude.InvalidRequest, message: noURL.Error()}
	case errors.Is(err, relay.ErrKeyReused):
		return failure{status: http.StatusUnprocessableEntity, kind: claude.InvalidRequest, message: "This Idempotency-Key was used with another request."}
	case errors.Is(err, relay.ErrDraining):
		return failure{status: 529, kind: claude.Overloaded, message: "The gateway is about to restart; try again shortly."}.after(retrySoon)
	case errors.Is(err, relay.ErrMemory):
		return failure{status: 529, kind: claude.Overloaded, message: "The gateway holds as many streams as its memory allows; try again shortly."}.after(retrySoon)
	case errors.Is(err, relay.ErrTooManyViewers):
		return failure{status: http.StatusTooManyRequests, kind: claude.RateLimit, message: err.Error(), limit: "viewers_per_stream"}.after(retrySoon)
	case errors.Is(err, store.ErrFull):
		return failure{status: http.StatusServiceUnavailable, kind: claude.APIError, message: "The gateway's store is full; nothing can be taken on until its operator makes room."}.after(retrySoon)
	case errors.Is(err, store.ErrUnavailable):
		return failure{status: http.StatusServiceUnavailable, kind: claude.APIError, message: "The gateway's store can't be used at the moment; try again shortly."}.after(retrySoon)
	case errors.Is(err, context.Canceled):
		return failure{status: statusGone, kind: claude.Canceled, message: "The client has left."}
	case errors.As(err, &routing):
		switch routing.Code {
		case http.StatusNotFound:
			return failure{status: routing.Code, kind: claude.NotFound, message: "There is no such route."}
		case http.StatusMethodNotAllowed:
			return failure{status: routing.Code, kind: claude.InvalidRequest, message: "This route does not have that method."}
		}
	}
	return failure{status: http.StatusInternalServerError, kind: claude.APIError, message: "The gateway failed."}
}

func (f failure) after(wait time.Duration) failure {
	if f.header == nil {
		f.header = http.Header{}
	}
	f.header.Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
	if wait > stay {
		f.header.Set("X-Should-Retry", "false")
	}
	return f
}

// setWindows says what is left in Anthropic's headers. A limit that the plan does not have has none.
func setWindows(h http.Header, w limits.Windows) {
	for _, of := range []struct {
		name   string
		window limits.Window
	}{{"Requests", w.Requests}, {"Input-Tokens", w.Input}, {"Output-Tokens", w.Output}, {"Tokens", w.Tokens()}} {
		if of.window.Limit > 0 {
			name := "Anthropic-Ratelimit-" + of.name
			h.Set(name+"-Limit", strconv.FormatInt(of.window.Limit, 10))
			h.Set(name+"-Remaining", strconv.FormatInt(of.window.Remaining, 10))
			h.Set(name+"-Reset", wholeSeconds(of.window.Reset).Format(time.RFC3339))
		}
	}
}

// wholeSeconds rounds up: before the time that is told nothing has come back yet.
func wholeSeconds(t time.Time) time.Time { return t.UTC().Add(time.Second - 1).Truncate(time.Second) }

// unreadPatience is how long an error waits for the rest of a request's body, so that the connection can be used again.
const unreadPatience = time.Second

// fail answers with an error. It is echo's HTTPErrorHandler.
func (a *API) fail(err error, c echo.Context) {
	f := describe(err)
	if f.limit != "" {
		a.metrics.RateLimited(f.limit)
	}
	if f.auth != "" {
		a.metrics.AuthFailed(f.auth)
	}
	r := c.Response()
	if !r.Committed {
		for name, values := range f.header {
			r.Header()[name] = values
		}
	}
	if f.status >= 500 {
		a.log.Warn("request failed", "route", route(c), "status", f.status, "request_id", requestID(c), "error", err)
	} else {
		a.log.Debug("request refused", "route", route(c), "status", f.status, "request_id", requestID(c), "error", err)
	}
	if r.Committed {
		return
	}
	if f.status == statusGone {
		r.Status = statusGone
		return
	}
	if c.Request().ContentLength != 0 { // a body that is not read yet is not waited for
		http.NewResponseController(r.Writer).SetReadDeadline(time.Now().Add(unreadPatience))
	}
	body := f.body
	if body == nil {
		body = claude.ErrorObject(f.kind, f.message, requestID(c))
	}
	writeJSON(c, f.status, body)
}

// answerPatience is how long a reader may take for an answer that is not a stream: the largest, 32 MB, at 270 kB/s.
const answerPatience = 2 * time.Minute

// writeJSON answers with a JSON object.
func writeJSON(c echo.Context, status int, body []byte) {
	h := c.Response().Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	http.NewResponseController(c.Response().Writer).SetWriteDeadline(time.Now().Add(answerPatience))
	c.Response().WriteHeader(status)
	if c.Request().Method != http.MethodHead {
		c.Response().Write(body)
	}
}
