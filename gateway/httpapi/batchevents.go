package httpapi

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"sluice/gateway/batches"
	"sluice/gateway/claude"
	"sluice/gateway/relay"
)

// Ids of a batch's events, which are their cursors: its status, r.N for the Nth line of its results, and the end.
const (
	resultID = "r."
	endID    = "end"
)

// batchCursor is where a reader of a batch's events was.
type batchCursor struct {
	status  string // the one that it has seen; empty: none
	results int    // lines of the results that it has seen
	end     bool
}

func parseBatchCursor(text string) (cursor batchCursor, ok bool) {
	switch text {
	case "", "in_progress", "canceling", claude.BatchEnded:
		return batchCursor{status: text}, true
	case endID:
		return batchCursor{end: true}, true
	}
	n, err := strconv.Atoi(strings.TrimPrefix(text, resultID))
	return batchCursor{status: claude.BatchEnded, results: n}, err == nil && n > 0 && strings.HasPrefix(text, resultID)
}

// batchEvents tells the states of a batch as they come, on request each of its results, and the end.
func (a *API) batchEvents(c echo.Context) error {
	id, err := a.identifyOwner(c)
	if err != nil {
		return err
	}
	r := c.Request()
	view, err := a.batches.View(r.Context(), id.Owner, c.Param("id"))
	if err != nil {
		return err
	}
	defer view.Close()
	text := r.Header.Get("Last-Event-ID")
	if text == "" {
		text = c.QueryParam("last_event_id")
	}
	cursor, known := parseBatchCursor(text)
	one, _, err := view.Batch(r.Context())
	if err != nil {
		return err
	}
	if cursor.end && one.Over {
		return done(c)
	}
	first := retryLine
	if !known || cursor.end || cursor.status == claude.BatchEnded && one.Status != claude.BatchEnded {
		cursor = batchCursor{}
		first = fmt.Appendf(first[:len(first):len(first)], "event: resync\ndata: {\"type\":\"resync\",\"reason\":\"unknown_cursor\"}\n\n")
	}
	streamHeaders(c)
	if r.Method == http.MethodHead {
		return c.NoContent(http.StatusOK)
	}
	w, err := newResponse(c, a.cfg.StallTimeout, http.StatusOK)
	if err != nil {
		return nil // nobody is there to be told
	}
	a.metrics.ViewerAttached()
	reason := relay.EndGone
	defer func() { a.metrics.ViewerEnded(string(reason)) }()
	f := &batchFollower{api: a, c: c, w: w, view: view, cursor: cursor, results: c.QueryParam("results") == "1"}
	err = w.write(first)
	if err == nil {
		err = f.follow()
	}
	switch {
	case err == nil:
		reason = relay.EndCompleted
		return nil
	case errors.Is(err, errDraining):
		return nil // a whole response, after which an EventSource comes back
	case errors.Is(err, errStalled):
		reason = relay.EndStalled
	}
	a.log.Debug("reader of a batch's events has ended", "request_id", requestID(c), "error", err)
	panic(http.ErrAbortHandler) // a response that is not complete must not look so
}

// errDraining ends readers of what would not end by itself while the gateway waits to stop.
var errDraining = errors.New("the gateway is about to stop")

// batchFollower writes one reader's events.
type batchFollower struct {
	api     *API
	c       echo.Context
	w       *response
	view    *batches.View
	cursor  batchCursor
	results bool // each result is told too
}

func (f *batchFollower) follow() error {
	ctx := f.c.Request().Context()
	ping := time.NewTimer(f.api.cfg.PingInterval)
	defer ping.Stop()
	for {
		one, changed, err := f.view.Batch(ctx)
		if err != nil {
			return err
		}
		if one.Status != f.cursor.status {
			if err := f.event(one.Status, "batch_status", one); err != nil {
				return err
			}
			f.cursor.status = one.Status
		}
		if one.Status == claude.BatchEnded && f.results {
			if err := f.tellResults(one); err != nil {
				return err
			}
			f.results = false
		}
		if one.Over {
			return f.event(endID, "batch_ended", one)
		}
		if changed == nil {
			return batches.ErrNotFound // it was deleted meanwhile
		}
		ping.Reset(f.api.cfg.PingInterval)
		for waiting := true; waiting; {
			select {
			case <-changed:
				waiting = false
			case <-ping.C:
				if err := f.w.write(pingFrame); err != nil {
					return err
				}
				f.api.metrics.Ping()
				ping.Reset(f.api.cfg.PingInterval)
			case <-f.api.drain:
				return errDraining
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

func (f *batchFollower) event(id, name string, one batches.Batch) error {
	object, err := f.api.batchObject(f.c, one)
	if err != nil {
		return err
	}
	return f.w.write(fmt.Appendf(nil, "id: %s\nevent: %s\ndata: %s\n\n", id, name, object))
}

// tellResults tells the lines of the results that the reader has not seen. It holds one of them at a time.
func (f *batchFollower) tellResults(one batches.Batch) error {
	r := f.c.Request()
	resp, err := f.api.batches.Results(r.Context(), one.Owner, one.ID, "", upward(r.Header))
	var refused *claude.Error
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		return nil // there are none any more
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n := 0
	for line, err := range claude.Lines(resp.Body) {
		if err != nil {
			return err
		}
		if n++; n <= f.cursor.results {
			continue
		}
		if err := f.w.write(fmt.Appendf(nil, "id: %s%d\nevent: batch_result\ndata: ", resultID, n), line, []byte("\n\n")); err != nil {
			return err
		}
		f.cursor.results = n
	}
	return nil
}
