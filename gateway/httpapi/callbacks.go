package httpapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"sluice/gateway/callbacks"
	"sluice/gateway/claude"
	"sluice/gateway/relay"
)

// callbackObject is a callback as its owner sees it, in a list or as a part of what it tells of.
type callbackObject struct {
	ID            string     `json:"id,omitempty"` // from when it is taken on
	Type          string     `json:"type"`
	ObjectID      string     `json:"object_id"`
	Event         string     `json:"event"`
	URL           string     `json:"url"`
	Status        string     `json:"status"`
	Attempts      int        `json:"attempts"`
	LastStatus    *int       `json:"last_status"`
	LastError     *string    `json:"last_error"`
	CreatedAt     *time.Time `json:"created_at"`
	NextAttemptAt *time.Time `json:"next_attempt_at"`
	EndedAt       *time.Time `json:"ended_at"`
}

func objectOfCallback(k callbacks.Callback) callbackObject {
	o := callbackObject{ID: k.ID, Type: "callback", ObjectID: k.Object, Event: k.Type, URL: k.URL, Status: k.Status, Attempts: k.Attempts,
		CreatedAt: instant(k.Created)}
	if k.LastStatus != 0 {
		o.LastStatus = &k.LastStatus
	}
	if k.LastError != "" {
		o.LastError = &k.LastError
	}
	if k.Status == callbacks.Pending {
		o.NextAttemptAt = instant(k.Next)
	} else {
		o.EndedAt = instant(k.Ended)
	}
	return o
}

// callbackOf is the state of a stream's callback. Before the stream has ended there is none yet.
func (a *API) callbackOf(c echo.Context, owner string, n relay.Snapshot) *callbackObject {
	k, err := a.calls.Get(c.Request().Context(), owner, n.ID)
	if err != nil {
		if !errors.Is(err, callbacks.ErrNotFound) {
			a.log.Warn("a callback can't be looked at", "stream", n.ID, "error", err)
		}
		k = callbacks.Callback{Object: n.ID, URL: n.Callback, Status: callbacks.Pending}
	}
	o := objectOfCallback(k)
	return &o
}

// instant is a time as answers have it; nil for none.
func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Millisecond)
	return &t
}

func (a *API) listCallbacks(c echo.Context) error {
	id, err := a.identifyOwner(c)
	if err != nil {
		return err
	}
	limit, err := limitOf(c)
	if err != nil {
		return err
	}
	status := c.QueryParam("status")
	switch status {
	case "", callbacks.Pending, callbacks.Delivered, callbacks.Failed:
	default:
		return refuse(http.StatusBadRequest, claude.InvalidRequest, "status: Input should be pending, delivered or failed.")
	}
	list, more, err := a.calls.List(c.Request().Context(), id.Owner, status, c.QueryParam("after_id"), limit)
	if err != nil {
		return err
	}
	objects := make([]json.RawMessage, len(list))
	for i, k := range list {
		objects[i] = marshal(objectOfCallback(k))
	}
	writeList(c, objects, more, func(i int) string { return list[i].ID })
	return nil
}

// callbackSecret shows the caller's signing secrets. Only reading them needs no look at Origin: a page of another origin
// cannot see the answer.
func (a *API) callbackSecret(c echo.Context) error {
	id, err := a.identifyOwner(c)
	if err != nil {
		return err
	}
	secrets := a.calls.Secrets(id.Owner)
	writeJSON(c, http.StatusOK, marshal(struct {
		Type     string   `json:"type"`
		Secret   string   `json:"secret"`
		Previous []string `json:"other_secrets"`
	}{"callback_secret", secrets[0], secrets[1:]}))
	return nil
}

func (a *API) redeliver(c echo.Context) error {
	id, err := a.identifyOwner(c)
	if err != nil {
		return err
	}
	k, err := a.calls.Redeliver(c.Request().Context(), id.Owner, c.Param("id"))
	if err != nil {
		return err
	}
	writeJSON(c, http.StatusOK, marshal(objectOfCallback(k)))
	return nil
}
