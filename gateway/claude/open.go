package claude

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"sluice/gateway/backoff"
	"sluice/gateway/h2"
	"sluice/gateway/metrics"
)

// Retry says which failures are tried again before the first event, how often, and until when.
type Retry struct {
	Statuses func(status int) bool // beside connection errors and a first event overloaded_error, which always are; nil: none
	Max      int                   // further attempts
	Until    time.Time             // a wait that ends later is not begun; zero: no bound
}

// SafeStatus reports whether the official SDKs repeat a request that met this status (all three: 408, 409, 429 and from 500 on).
func SafeStatus(status int) bool {
	return status == 408 || status == 409 || status == 429 || status >= 500
}

// again waits before the next attempt and takes its place. It is nil if there is to be none.
func (c *Client) again(ctx context.Context, req Request, err error, attempt int, retry Retry) (release func()) {
	reason := ""
	var e *Error
	switch {
	case attempt >= retry.Max:
		return nil
	case errors.Is(err, errSilent):
		return nil // it has cost the whole patience already
	case errors.Is(err, errConnection):
		reason = "connection"
	case errors.As(err, &e) && errors.Is(err, errFirstEvent) && e.Type == Overloaded:
		reason = "overloaded_first"
	case e != nil && e.answered != 0 && retry.Statuses != nil && retry.Statuses(e.answered):
		reason = strconv.Itoa(e.Status)
	default:
		return nil
	}
	wait := backoff.Delay(attempt, rand.Float64())
	if e != nil {
		if e.Header.Get("X-Should-Retry") == "false" {
			return nil
		}
		if d, ok := backoff.RetryAfter(e.Header, time.Now()); ok {
			wait = d
		}
	}
	if !retry.Until.IsZero() && time.Now().Add(wait).After(retry.Until) {
		return nil
	}
	c.log.Info("upstream request is repeated", "attempt", attempt+2, "wait", wait.Round(time.Millisecond), "reason", err)
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return nil
	}
	if release, err = req.take(ctx); err != nil {
		return nil
	}
	c.metrics.UpstreamRetry(reason)
	return release
}

// Open begins a stream: the handler gets its events as they come. done is called once: with nil when the first event,
// other than a ping, is with the handler; else with why none came, a refusal or an error as first event being an *Error,
// and then the handler was not called. The request is repeated only here: nothing has been relayed yet. Canceling the
// context ends the stream at any time.
//
// Where there is a place, a connection that takes the request, and an answer that is a stream, nobody waits for it: Open
// returns with the request sent, and done comes on the connection's own goroutine, which must not be kept. Where done gets
// an error it may take its time.
func (c *Client) Open(ctx context.Context, req Request, retry Retry, h Handler, done func(error)) {
	x := &call{client: c, ctx: ctx, req: req, retry: retry, handler: h, done: done, begun: time.Now()}
	defer x.failOnPanic()
	release, ok := req.tryTake()
	if ok && x.begin(release) {
		return
	}
	go func() {
		defer x.failOnPanic()
		if !ok {
			var err error
			if release, err = req.take(ctx); err != nil {
				done(err)
				return
			}
		}
		x.ask(release)
	}()
}

// call is a stream before its first event.
type call struct {
	client  *Client
	ctx     context.Context
	req     Request
	retry   Retry
	handler Handler
	done    func(error)
	begun   time.Time
	attempt int
	release func() // gives back the place that it has
}

// attempt is one request of a call, which has its place.
type attempt struct {
	*call
	ctx    context.Context
	cancel context.CancelCauseFunc
	watch  *watch
}

func (x *call) try(release func()) *attempt {
	x.release = release
	a := &attempt{call: x}
	a.ctx, a.cancel = context.WithCancelCause(x.ctx)
	a.watch = startWatch(x.client.cfg.Silence, a.cancel)
	return a
}

// begin makes the first attempt, if it can be sent at once.
func (x *call) begin(release func()) bool {
	c, a := x.client, x.try(release)
	r, up, err := c.request(a.ctx, x.req)
	if err == nil && c.streams.Begin(r, func(resp *http.Response, err error) {
		up.forget()
		if err == nil && resp.StatusCode == http.StatusOK {
			a.answered(resp, nil)
		} else {
			go a.answered(resp, err) // it is read to its end, and perhaps asked for again
		}
	}) {
		return true
	}
	a.watch.stop()
	a.cancel(errEnded)
	return false
}

// ask makes an attempt, and waits for its answer.
func (x *call) ask(release func()) {
	a := x.try(release)
	r, up, err := x.client.request(a.ctx, x.req)
	if err != nil {
		a.drop(err)
		return
	}
	resp, err := x.client.http.Do(r)
	up.forget()
	a.answered(resp, err)
}

// answered goes on with an answer's header, or with what came instead.
func (a *attempt) answered(resp *http.Response, err error) {
	defer a.failOnPanic()
	c := a.client
	if resp, err = c.judge(a.ctx, a.req, resp, err); err == nil {
		c.metrics.FirstEvent(metrics.StageHeaders, time.Since(a.begun))
		if err = checkStream(resp); err != nil {
			resp.Body.Close()
		}
	}
	if err != nil {
		a.drop(err)
		return
	}
	s := newStream(a.ctx, a.cancel, a.watch, c.log, resp.Header, a.handler, a.opened)
	if body, ok := resp.Body.(interface{ Push(h2.Sink) }); ok {
		body.Push(streamInPlace{s, a.release})
	} else {
		go push(resp.Body, streamInPlace{s, a.release})
	}
}

// drop ends an attempt that has no answer.
func (a *attempt) drop(err error) {
	a.watch.stop()
	a.cancel(errEnded)
	a.release()
	a.failed(err)
}

// opened is told when the handler has the first event, or why it gets none.
func (x *call) opened(err error) {
	if err == nil {
		x.done(nil)
	} else {
		go func() {
			defer x.failOnPanic()
			x.failed(err)
		}()
	}
}

// failed makes the next attempt after one that has failed, or gives up.
func (x *call) failed(err error) {
	if release := x.client.again(x.ctx, x.req, err, x.attempt, x.retry); release != nil {
		x.attempt++
		x.ask(release)
		return
	}
	if cause := context.Cause(x.ctx); cause != nil {
		err = cause
	}
	x.done(err)
}

// failOnPanic ends what its goroutine has failed to open.
func (x *call) failOnPanic() {
	if p := recover(); p != nil {
		x.client.log.Error("stream failed by a defect", "panic", p, "stack", string(debug.Stack()))
		if x.release != nil {
			x.release()
		}
		x.done(&Error{Type: APIError, Status: http.StatusInternalServerError, Message: "The gateway failed.", Cause: fmt.Errorf("panic: %v", p)})
	}
}

// What again must tell apart; causes inside an *Error.
var (
	errConnection = errors.New("the connection failed")
	errFirstEvent = errors.New("an error as first event")
)

// streamInPlace is a stream whose place at the upstream is free when its body is over.
type streamInPlace struct {
	*stream
	release func()
}

func (p streamInPlace) End(err error) {
	defer p.release()
	p.stream.End(err)
}

// push reads a body for a stream whose transport does not push.
func push(body io.ReadCloser, s streamInPlace) {
	defer s.release() // also where reading panics
	defer s.failOnPanic()
	defer body.Close()
	b := make([]byte, 4<<10)
	for {
		n, err := body.Read(b)
		if n > 0 {
			s.Data(b[:n])
			s.Flush()
		}
		switch err {
		case nil:
			continue
		case io.EOF:
			err = nil
		}
		s.End(err)
		return
	}
}
