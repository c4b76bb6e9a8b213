package httpapi

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"sluice/gateway/auth"
	"sluice/gateway/claude"
	"sluice/gateway/relay"
)

// streamObject is a stream as its owner sees it.
type streamObject struct {
	ID          string          `json:"id"`
	Type        string          `json:"type"`
	Status      relay.Status    `json:"status"`
	Model       *string         `json:"model"`
	Attempt     int             `json:"attempt"`
	EventsURL   string          `json:"events_url"`
	Viewers     int             `json:"viewers"`
	Message     json.RawMessage `json:"message"`
	Usage       json.RawMessage `json:"usage"`
	UsageSource string          `json:"usage_source"`
	Error       *errorObject    `json:"error"`
	CreatedAt   time.Time       `json:"created_at"`
	EndedAt     *time.Time      `json:"ended_at"`
	ExpiresAt   *time.Time      `json:"expires_at"`
	Background  bool            `json:"background"`
	Callback    *callbackObject `json:"callback"`
}

type errorObject struct {
	Type    string `json:"type"`
	Message string `json:"message"`
}

// object is the JSON of a stream. In lists the message is left out (null): it may be megabytes.
func (a *API) object(c echo.Context, id auth.Identity, n relay.Snapshot) []byte {
	o := streamObject{ID: n.ID, Type: "stream", Status: n.Status, Attempt: n.Attempt, Viewers: n.Viewers, Background: n.Kept,
		EventsURL: a.baseURL(c.Request()) + "/v1/streams/" + n.ID + "/events?ticket=" + a.auth.IssueTicket(n.ID, id),
		Message:   n.Message, Usage: n.Usage, UsageSource: n.Source, CreatedAt: n.Created.UTC().Truncate(time.Millisecond)}
	if n.Model != "" {
		o.Model = &n.Model
	}
	if n.Failure != nil {
		o.Error = &errorObject{n.Failure.Type, n.Failure.Message}
	}
	if !n.EndedAt.IsZero() {
		ended, expires := n.EndedAt.UTC().Truncate(time.Millisecond), n.ExpiresAt.UTC().Truncate(time.Millisecond)
		o.EndedAt, o.ExpiresAt = &ended, &expires
	}
	if n.Callback != "" {
		o.Callback = a.callbackOf(c, id.Owner, n)
	}
	return marshal(o)
}

func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // raw messages are checked when they are accumulated
	}
	return b
}

func (a *API) getStream(c echo.Context) error {
	id, err := a.identify(c)
	if err != nil {
		return err
	}
	n, err := a.background.Snapshot(c.Request().Context(), id.Owner, c.Param("id"), c.Request().Method != http.MethodHead)
	if err != nil {
		return err
	}
	writeJSON(c, http.StatusOK, a.object(c, id, n))
	return nil
}

func (a *API) cancelStream(c echo.Context) error {
	id, err := a.identify(c)
	if err != nil {
		return err
	}
	s, err := a.background.Cancel(c.Request().Context(), id.Owner, c.Param("id"))
	if err != nil {
		return err
	}
	writeJSON(c, http.StatusOK, a.object(c, id, s.Snapshot(true)))
	return nil
}

func (a *API) deleteStream(c echo.Context) error {
	id, err := a.identify(c)
	if err != nil {
		return err
	}
	if err := a.background.Delete(c.Request().Context(), id.Owner, c.Param("id")); err != nil {
		return err
	}
	writeJSON(c, http.StatusOK, marshal(map[string]string{"id": c.Param("id"), "type": "stream_deleted"}))
	return nil
}

// List sizes, as Anthropic's lists have them by default.
const (
	defaultLimit = 20
	maxLimit     = 100
)

func (a *API) listStreams(c echo.Context) error {
	id, err := a.identify(c)
	if err != nil {
		return err
	}
	limit, err := limitOf(c)
	if err != nil {
		return err
	}
	streams, more, err := a.background.List(c.Request().Context(), id.Owner, c.QueryParam("after_id"), limit)
	if err != nil {
		return err
	}
	objects := make([]json.RawMessage, len(streams))
	for i, s := range streams {
		objects[i] = a.object(c, id, s)
	}
	writeList(c, objects, more, func(i int) string { return streams[i].ID })
	return nil
}

func limitOf(c echo.Context) (int, error) {
	v := c.QueryParam("limit")
	if v == "" {
		return defaultLimit, nil
	}
	limit, err := strconv.Atoi(v)
	if err != nil || limit < 1 || limit > maxLimit {
		return 0, refuse(http.StatusBadRequest, claude.InvalidRequest, "limit: Input should be a whole number from 1 to %d.", maxLimit)
	}
	return limit, nil
}

// writeList answers with one page of a list; id is that of its ith object.
func writeList(c echo.Context, objects []json.RawMessage, more bool, id func(i int) string) {
	page := struct {
		Data    []json.RawMessage `json:"data"`
		HasMore bool              `json:"has_more"`
		FirstID *string           `json:"first_id"`
		LastID  *string           `json:"last_id"`
	}{Data: append([]json.RawMessage{}, objects...), HasMore: more} // [] where there is none, never null
	if n := len(objects); n > 0 {
		first, last := id(0), id(n-1)
		page.FirstID, page.LastID = &first, &last
	}
	writeJSON(c, http.StatusOK, marshal(page))
}
