package httpapi

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"

	"github.com/labstack/echo/v4"

	"sluice/gateway/claude"
	"sluice/gateway/relay"
	"sluice/gateway/store"
)

var errTicketExpired = errors.New("this ticket has expired: its stream was deleted, or has ended and its retention is over")

// lostID is the id of the event that says that a stream was lost, so that a reconnecting EventSource can be told to stop.
const lostID = "lost"

var (
	retryLine = []byte("retry: 1500\n\n")
	pingFrame = []byte("event: ping\ndata: {\"type\": \"ping\"}\n\n")
)

// getEvents attaches a viewer to a stream.
func (a *API) getEvents(c echo.Context) error {
	cursor := c.Request().Header.Get("Last-Event-ID")
	if cursor == "" {
		cursor = c.QueryParam("last_event_id")
	}
	s, lost, err := a.readable(c)
	if temporary(err) {
		return a.later(c, err)
	}
	if err != nil {
		return err
	}
	if lost {
		return a.lost(c, cursor)
	}
	if c.Request().Method == http.MethodHead {
		streamHeaders(c)
		return c.NoContent(http.StatusOK)
	}
	v, resume, reason, err := s.Attach(cursor, c.QueryParam("exact") == "1")
	switch {
	case temporary(err):
		return a.later(c, err)
	case err != nil:
		return err
	case resume == relay.ResumeDone:
		return done(c)
	}
	first := retryLine
	if resume == relay.ResumeResync {
		first = fmt.Appendf(first[:len(first):len(first)], "event: resync\ndata: {\"type\":\"resync\",\"reason\":%q}\n\n", reason)
	}
	if id := s.RequestID(); id != "" {
		c.Response().Header().Set("Request-Id", id)
	}
	return a.stream(c, v, true, first)
}

// readable finds the stream that the path names and the caller may read: by a ticket, or as its owner. lost means that
// the ticket is good, but this process hasn't the stream.
func (a *API) readable(c echo.Context) (s *relay.Stream, lost bool, err error) {
	id := c.Param("id")
	ticket := c.QueryParam("ticket")
	if ticket == "" {
		id, err := a.identify(c)
		if err == nil {
			s, err = a.background.Stream(c.Request().Context(), id.Owner, c.Param("id"))
		}
		return s, false, err
	}
	thisProcess, err := a.auth.CheckTicket(a.auth.ClientAddr(c.Request()), ticket, id)
	if err != nil {
		return nil, false, err
	}
	s, err = a.background.Find(c.Request().Context(), id)
	if !errors.Is(err, relay.ErrNotFound) {
		return s, false, err
	}
	if thisProcess && !a.relay.Evicted(id) {
		return nil, false, errTicketExpired
	}
	return nil, true, nil
}

// done tells an EventSource to stop.
func done(c echo.Context) error {
	c.Response().Header().Set("Cache-Control", "no-store")
	return c.NoContent(http.StatusNoContent)
}

// streamHeaders sets what makes an event stream pass proxies unbuffered and untouched.
func streamHeaders(c echo.Context) {
	h := c.Response().Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("Cache-Control", "no-cache, no-transform")
	h.Set("X-Accel-Buffering", "no")
}

// lost tells a reader the truth about a stream that is gone, once; when it comes again, it is told to stop.
func (a *API) lost(c echo.Context, cursor string) error {
	a.metrics.Resumed(string(relay.ResumeLost))
	if cursor == lostID {
		return done(c)
	}
	streamHeaders(c)
	object := claude.ErrorObject(claude.APIError, "The stream was lost in a restart of the gateway, or had to make room for others; it can't be resumed.", requestID(c))
	return c.Blob(http.StatusOK, "text/event-stream; charset=utf-8", fmt.Appendf(nil, "id: %s\nevent: error\ndata: %s\n\n", lostID, object))
}

// temporary reports whether a reader who is refused should come again.
func temporary(err error) bool {
	return errors.Is(err, relay.ErrTooManyViewers) || errors.Is(err, relay.ErrDraining) || errors.Is(err, relay.ErrMemory) ||
		errors.Is(err, store.ErrFull) || errors.Is(err, store.ErrUnavailable)
}

// later refuses a reader for now. A native EventSource gives up for good on any status but 200, and comes back after a
// 200 that ends; it is told to come back at a time of its own, not with all others.
func (a *API) later(c echo.Context, err error) error {
	a.log.Debug("viewer refused for now", "request_id", requestID(c), "error", err)
	if errors.Is(err, relay.ErrTooManyViewers) {
		a.metrics.RateLimited("viewers_per_stream")
	}
	streamHeaders(c)
	wait := 2000 + rand.IntN(6000)
	return c.Blob(http.StatusOK, "text/event-stream; charset=utf-8", fmt.Appendf(nil, "retry: %d\n: %v; try again\n\n", wait, err))
}

// stream answers with the viewer's events. Where the connection can be taken from net/http it goes on beside the
// handler, which then returns at once and frees what the request took.
func (a *API) stream(c echo.Context, v *relay.Viewer, events bool, first []byte) error {
	streamHeaders(c)
	raw, err := takeOver(c, a.cfg.Pollers, a.cfg.StallTimeout, events)
	if err != nil {
		v.Detach(relay.EndGone)
		return nil // nobody is there to be told
	}
	if raw != nil {
		a.keep(raw)
		f := &pushed{follower: follower{v: v, w: raw, delivery: delivery{metrics: a.metrics}}, api: a, conn: raw}
		f.begin(first)
		return nil
	}
	if conn, ok := c.Request().Context().Value(connKey{}).(net.Conn); ok && events {
		limitUnsent(conn) // for all that the connection carries; the windows of HTTP/2 come on top
	}
	w, err := newResponse(c, a.cfg.StallTimeout, http.StatusOK)
	if err != nil {
		v.Detach(relay.EndGone)
		return nil
	}
	f := follower{v: v, w: w, delivery: delivery{metrics: a.metrics}}
	if f.follow(w, first, a.cfg.PingInterval) != relay.EndCompleted {
		panic(http.ErrAbortHandler) // a response that is not complete must not look so
	}
	return nil
}
