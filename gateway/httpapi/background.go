package httpapi

import (
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"sluice/gateway/auth"
	"sluice/gateway/background"
	"sluice/gateway/claude"
	"sluice/gateway/relay"
)

const respondAsync = "respond-async"

// queueStream accepts a background stream: the answer comes once it is durably queued. It releases the body.
func (a *API) queueStream(c echo.Context, id auth.Identity, b *body, params claude.Params, callback, route string, header http.Header) error {
	defer b.release()
	if id.Owner == "" {
		return auth.ErrNoCredentials // the anonymous own nothing, and nobody else would read it
	}
	request := claude.Streaming(b.bytes)
	if err := b.resize(len(request)); err != nil {
		return err
	}
	key, err := idempotencyKey(c.Request())
	if err != nil {
		return err
	}
	var accepted background.Accepted
	err = a.onPlan(c, id.Plan, func(plan string) (err error) {
		accepted, err = a.background.Accept(c.Request().Context(), background.Params{
			Owner: id.Owner, Plan: plan, IdempotencyKey: key, Route: route, Ask: relay.Ask(params, request), Callback: callback,
			Request: claude.Request{Path: "/v1/messages" + query(c.Request()), Header: header, Body: request},
		})
		return err
	})
	if err != nil {
		return err
	}
	h := c.Response().Header()
	setWindows(h, accepted.Windows)
	h.Set("Preference-Applied", respondAsync)
	h.Set("Location", a.baseURL(c.Request())+"/v1/streams/"+accepted.Snapshot.ID)
	writeJSON(c, http.StatusAccepted, a.object(c, id, accepted.Snapshot))
	return nil
}

// prefersAsync reports whether a request has the preference respond-async (RFC 7240), alone or among others. One that is
// not understood is ignored, as the RFC wants it.
func prefersAsync(h http.Header) bool {
	for _, value := range h["Prefer"] {
		for preference := range preferences(value) {
			name, _, _ := strings.Cut(preference, ";") // its parameters
			name, _, _ = strings.Cut(name, "=")
			if strings.EqualFold(strings.Trim(name, " \t"), respondAsync) {
				return true
			}
		}
	}
	return false
}

// preferences yields the members of a comma-separated list, in which quoted strings may hold commas.
func preferences(value string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		start, quoted := 0, false
		for i := 0; i < len(value); i++ {
			switch c := value[i]; {
			case quoted && c == '\\':
				i++ // what follows is itself
			case c == '"':
				quoted = !quoted
			case c == ',' && !quoted:
				if !yield(value[start:i]) {
					return
				}
				start = i + 1
			}
		}
		yield(value[start:])
	}
}
