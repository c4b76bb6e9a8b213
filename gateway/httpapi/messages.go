package httpapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"sluice/gateway/auth"
	"sluice/gateway/background"
	"sluice/gateway/claude"
	"sluice/gateway/limits"
	"sluice/gateway/relay"
)

// maxRetries is how often a stream's request is repeated before its first event, as often as the official SDKs do.
const maxRetries = 2

// maxIdempotencyKey is the length of an Idempotency-Key, in bytes.
const maxIdempotencyKey = 255

// postMessages is Anthropic's own route: a stream written into this response, or a whole answer.
func (a *API) postMessages(c echo.Context) error {
	id, err := a.identify(c)
	if err != nil {
		return err
	}
	b, err := a.readJSON(c)
	if err != nil {
		return err
	}
	params, err := claude.ParseParams(b.bytes)
	callback, async := "", prefersAsync(c.Request().Header)
	if err == nil {
		callback, err = a.callback(c.Request(), id)
	}
	if err == nil && callback != "" && !async {
		err = refuse(http.StatusBadRequest, claude.InvalidRequest, "Sluice-Callback-Url needs Prefer: respond-async here: without it this very answer tells the end.")
	}
	if err != nil {
		b.release()
		return err
	}
	if async {
		return a.queueStream(c, id, b, params, callback, "/v1/messages", upward(c.Request().Header))
	}
	if !params.Stream {
		defer b.release()
		return a.wholeMessage(c, b.bytes, relay.Whole{Account: id.Account, Plan: id.Plan, Route: "/v1/messages", Ask: relay.Ask(params, b.bytes), Created: time.Now()})
	}
	s, v, err := a.startStream(c, true, relay.Params{
		Owner: id.Owner, Account: id.Account, Plan: id.Plan, Route: "/v1/messages", AbandonAfter: a.cfg.AbandonAfter.Messages,
		Request: claude.Request{Path: "/v1/messages" + query(c.Request()), Header: upward(c.Request().Header), Body: b.bytes},
		Ask:     relay.Ask(params, b.bytes),
		Retry:   claude.Retry{Max: maxRetries},
	})
	if err != nil {
		return err
	}
	h := c.Response().Header()
	h.Set("Sluice-Stream-Id", s.ID)
	a.windowAndID(c, s)
	return a.stream(c, v, false, nil)
}

// postStreams is the browser's route: the answer is the stream object, and the events are read by its URL.
func (a *API) postStreams(c echo.Context) error {
	id, err := a.identify(c)
	if err != nil {
		return err
	}
	b, err := a.readJSON(c)
	if err != nil {
		return err
	}
	params, err := claude.ParseParams(b.bytes)
	callback := ""
	if err == nil {
		callback, err = a.callback(c.Request(), id)
	}
	if err != nil {
		b.release()
		return err
	}
	header := upward(c.Request().Header)
	if header.Get("Anthropic-Version") == "" { // a browser's fetch has no SDK to add it
		header.Set("Anthropic-Version", "2023-06-01")
	}
	if prefersAsync(c.Request().Header) {
		return a.queueStream(c, id, b, params, callback, "/v1/streams", header)
	}
	request := claude.Streaming(b.bytes)
	if err := b.resize(len(request)); err != nil {
		b.release()
		return err
	}
	s, _, err := a.startStream(c, false, relay.Params{
		Owner: id.Owner, Account: id.Account, Plan: id.Plan, Route: "/v1/streams", AbandonAfter: a.cfg.AbandonAfter.Streams,
		Request: claude.Request{Path: "/v1/messages" + query(c.Request()), Header: header, Body: request},
		Ask:     relay.Ask(params, request), Callback: callback,
		Retry: claude.Retry{Max: maxRetries, Statuses: claude.SafeStatus},
	})
	if err != nil {
		return err
	}
	a.windowAndID(c, s)
	c.Response().Header().Set("Location", a.baseURL(c.Request())+"/v1/streams/"+s.ID)
	writeJSON(c, http.StatusCreated, a.object(c, id, s.Snapshot(true)))
	return nil
}

// startStream starts or joins a stream and holds the answer: it returns once the first event is there, the hold is over,
// or the upstream has refused, which is its error. From then on a refusal is an event. Where the answer is to be the
// stream itself, its viewer is attached from the beginning.
func (a *API) startStream(c echo.Context, watch bool, p relay.Params) (*relay.Stream, *relay.Viewer, error) {
	r := c.Request()
	begun := time.Now()
	p.Retry.Until, p.QueueWait = begun.Add(a.cfg.Hold), a.cfg.QueueWait
	key, err := idempotencyKey(r)
	if err != nil {
		a.relay.Release(int64(len(p.Request.Body)))
		return nil, nil, err
	}
	p.IdempotencyKey = key
	var s *relay.Stream
	err = a.onPlan(c, p.Plan, func(plan string) (err error) {
		if plan != p.Plan { // the attempt before has given the body's memory back
			if err := a.relay.Reserve(int64(len(p.Request.Body))); err != nil {
				return err
			}
			p.Plan = plan
		}
		joined := false
		if s, joined, err = a.relay.Start(p); err == nil && !joined && p.Callback != "" {
			a.tellEnd(s)
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	defer s.Answered()
	var v *relay.Viewer
	if watch {
		if v, _, _, err = s.Attach("", true); err != nil {
			return nil, nil, err
		}
	}
	hold := time.NewTimer(a.cfg.Hold)
	defer hold.Stop()
	select {
	case <-s.Opened():
	case <-hold.C:
	case <-r.Context().Done():
		err = r.Context().Err()
	}
	if err == nil {
		err = s.Commit()
	}
	if err != nil && v != nil {
		v.Detach(relay.EndGone)
	}
	return s, v, err
}

// onPlan admits the caller, which may take its request's body minutes to send. If meanwhile a reload has removed its plan,
// it is looked at again and has the plan of now.
func (a *API) onPlan(c echo.Context, plan string, admit func(plan string) error) error {
	err := admit(plan)
	for errors.Is(err, limits.ErrUnknownPlan) {
		now, refusal := a.identify(c)
		if refusal != nil {
			return refusal
		}
		if now.Plan == plan {
			return err
		}
		plan = now.Plan
		err = admit(plan)
	}
	return err
}

func idempotencyKey(r *http.Request) (string, error) {
	key := r.Header.Get("Idempotency-Key")
	if len(key) > maxIdempotencyKey {
		return "", refuse(http.StatusBadRequest, claude.InvalidRequest, "The Idempotency-Key is longer than %d bytes.", maxIdempotencyKey)
	}
	return key, nil
}

// windowAndID sets what an admitted answer says of its owner's limits, and the upstream's request id.
func (a *API) windowAndID(c echo.Context, s *relay.Stream) {
	h := c.Response().Header()
	setWindows(h, s.Grant().Windows())
	if id := s.RequestID(); id != "" {
		h.Set("Request-Id", id)
	}
}

// wholeMessage forwards a request whose answer is no stream. It takes a slot and reserves tokens like a stream does.
func (a *API) wholeMessage(c echo.Context, request []byte, w relay.Whole) error {
	var grant *limits.Grant
	err := a.onPlan(c, w.Plan, func(plan string) (err error) {
		w.Plan = plan
		grant, err = a.relay.Admit(w)
		return err
	})
	if err != nil {
		return err
	}
	defer grant.Release() // of whoever has left, or was refused
	setWindows(c.Response().Header(), grant.Windows())
	answer, err := a.call(c, claude.Request{Path: "/v1/messages" + query(c.Request()), Header: upward(c.Request().Header), Body: request,
		Place: a.relay.Place(w.Account, a.cfg.QueueWait)})
	if err != nil {
		return err
	}
	a.relay.Settle(grant, w, requestID(c), answer) // before the caller can ask for the next
	writeJSON(c, http.StatusOK, answer)
	return nil
}

// maxAnswer bounds an answer that is not a stream, as a log is bounded.
const maxAnswer = relay.MaxLog

// call forwards a request whose answer is JSON and sets the answer's headers. The whole answer is read before a byte of
// it is sent, so that one that is cut off is an error and not half an object.
func (a *API) call(c echo.Context, req claude.Request) ([]byte, error) {
	resp, err := a.client.Do(c.Request().Context(), req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer := &body{api: a}
	defer answer.release()
	if err := answer.readAll(io.LimitReader(resp.Body, maxAnswer+1), 4<<10); err != nil {
		return nil, err
	}
	if err := claude.CheckAnswer(resp, answer.bytes, maxAnswer); err != nil {
		return nil, err
	}
	if id := resp.Header.Get("Request-Id"); id != "" {
		c.Response().Header().Set("Request-Id", id)
	}
	return answer.bytes, nil
}

// forwarded are the request headers that go up. Credentials, cookies and origins never do.
var forwarded = []string{"Anthropic-Version", "Anthropic-Beta", "Content-Type", "User-Agent"}

func upward(h http.Header) http.Header {
	up := make(http.Header, 8)
	for _, name := range forwarded {
		if v := h[name]; len(v) > 0 {
			up[name] = v
		}
	}
	for name, v := range h {
		if strings.HasPrefix(name, "X-Stainless-") {
			up[name] = v
		}
	}
	return up
}

func query(r *http.Request) string {
	if r.URL.RawQuery == "" {
		return ""
	}
	return "?" + r.URL.RawQuery
}

// callback is the address at which the caller wants to be told of the end; empty: nowhere.
func (a *API) callback(r *http.Request, id auth.Identity) (string, error) {
	url := r.Header.Get("Sluice-Callback-Url")
	switch {
	case url == "":
		return "", nil
	case id.Owner == "":
		return "", auth.ErrNoCredentials // the anonymous have no secret that a receiver could check
	}
	return url, a.calls.Check(url)
}

// tellEnd waits for a stream's end and has it told, unless the stream's owner has a refusal instead of a stream. What is
// not in the background is lost with the process, and so is the telling.
func (a *API) tellEnd(s *relay.Stream) {
	a.telling.Go(func() {
		<-s.Done()
		if s.Refused() {
			return
		}
		if err := a.calls.Enqueue(context.Background(), background.EndOf(s.Owner, s.Callback, s.Snapshot(false))); err != nil {
			a.log.Error("a stream's end can't be told", "stream", s.ID, "error", err)
		}
	})
}
