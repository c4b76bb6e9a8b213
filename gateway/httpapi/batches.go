package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"sluice/gateway/batches"
	"sluice/gateway/callbacks"
	"sluice/gateway/claude"
	"sluice/gateway/limits"
	"sluice/gateway/relay"
)

// batchTime is how long the body of a batch may take in all: 256 MB at 107 kB/s, as for other bodies.
const batchTime = 40 * time.Minute

// Batch lists are paged as Anthropic's are.
const maxBatches = 1000

func (a *API) postBatches(c echo.Context) error {
	id, err := a.identifyOwner(c)
	if err != nil {
		return err
	}
	r := c.Request()
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return refuse(http.StatusUnsupportedMediaType, claude.InvalidRequest, "The request's content-type must be application/json.")
	}
	if err := unencoded(r); err != nil {
		return err
	}
	if r.ContentLength > claude.MaxBatch {
		return &http.MaxBytesError{Limit: claude.MaxBatch}
	}
	callback := r.Header.Get("Sluice-Callback-Url")
	if callback != "" {
		if err := a.calls.Check(callback); err != nil {
			return err
		}
	}
	resubmit := false
	switch r.Header.Get("Sluice-Resubmit-Expired") {
	case "", "0":
	case "1":
		resubmit = true
	default:
		return refuse(http.StatusBadRequest, claude.InvalidRequest, "Sluice-Resubmit-Expired should be 1, or absent.")
	}
	if a.draining.Load() {
		return relay.ErrDraining
	}
	plan, ok := a.relay.Limits().Plan(id.Plan)
	if !ok {
		return limits.ErrUnknownPlan
	}
	// One request of the minute's; what its items may is checked one by one, and what they use is known at the end.
	grant, err := a.relay.Admit(relay.Whole{Account: id.Account, Plan: id.Plan, Route: route(c), Ask: limits.Request{MaxTokens: 1}, Created: time.Now()})
	if err != nil {
		return err
	}
	defer grant.Release()
	patient := newPatientReader(c, claude.MaxBatch, batchTime)
	made, header, err := a.batches.Create(r.Context(), batches.Params{
		Owner: id.Owner, Plan: id.Plan, Query: query(r), Header: upward(r.Header), Body: batchBody{patient, c}, Length: r.ContentLength, Callback: callback, Resubmit: resubmit,
		Check: func(item claude.BatchItem) error {
			return plan.Check(id.Plan, limits.Request{Models: item.Models, MaxTokens: item.MaxTokens})
		},
	})
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil || errors.As(err, &tooLarge) || !patient.failed:
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = refuse(http.StatusRequestTimeout, claude.InvalidRequest, "The request's body did not arrive in time.")
	case r.Context().Err() == nil:
		err = refuse(http.StatusBadRequest, claude.InvalidRequest, "The request's body broke off.")
	}
	if err != nil {
		return err
	}
	return a.answerBatch(c, made, header)
}

// past is a deadline that is over.
var past = time.Unix(1, 0)

// batchBody is a request's body that can be given up while it is read.
type batchBody struct {
	*patientReader
	c echo.Context
}

func (b batchBody) Close() error {
	if b.c.Request().ProtoMajor == 1 {
		b.c.Response().Header().Set("Connection", "close") // what follows on it could not be read
	}
	b.giveUp()
	return nil
}

func (a *API) getBatch(c echo.Context) error {
	id, err := a.identifyOwner(c)
	if err != nil {
		return err
	}
	r := c.Request()
	one, header, err := a.batches.Get(r.Context(), id.Owner, c.Param("id"), query(r), upward(r.Header))
	if err != nil {
		return err
	}
	return a.answerBatch(c, one, header)
}

func (a *API) cancelBatch(c echo.Context) error {
	id, err := a.identifyOwner(c)
	if err != nil {
		return err
	}
	r := c.Request()
	one, header, err := a.batches.Cancel(r.Context(), id.Owner, c.Param("id"), query(r), upward(r.Header))
	if err != nil {
		return err
	}
	return a.answerBatch(c, one, header)
}

func (a *API) deleteBatch(c echo.Context) error {
	id, err := a.identifyOwner(c)
	if err != nil {
		return err
	}
	r := c.Request()
	answer, header, err := a.batches.Delete(r.Context(), id.Owner, c.Param("id"), query(r), upward(r.Header))
	if err != nil {
		return err
	}
	takeID(c, header)
	writeJSON(c, http.StatusOK, answer)
	return nil
}

func (a *API) listBatches(c echo.Context) error {
	id, err := a.identifyOwner(c)
	if err != nil {
		return err
	}
	limit := defaultLimit
	if v := c.QueryParam("limit"); v != "" {
		if limit, err = strconv.Atoi(v); err != nil || limit < 1 || limit > maxBatches {
			return refuse(http.StatusBadRequest, claude.InvalidRequest, "limit: Input should be a whole number from 1 to %d.", maxBatches)
		}
	}
	after, before := c.QueryParam("after_id"), c.QueryParam("before_id")
	if after != "" && before != "" {
		return refuse(http.StatusBadRequest, claude.InvalidRequest, "after_id and before_id cannot be used together.")
	}
	list, more, err := a.batches.List(c.Request().Context(), id.Owner, after, before, limit)
	if err != nil {
		return err
	}
	objects := make([]json.RawMessage, len(list))
	for i, one := range list {
		if objects[i], err = a.batchObject(c, one); err != nil {
			return err
		}
	}
	writeList(c, objects, more, func(i int) string { return list[i].ID })
	return nil
}

// batchResults passes the results through, line by line as they are.
func (a *API) batchResults(c echo.Context) error {
	id, err := a.identifyOwner(c)
	if err != nil {
		return err
	}
	r := c.Request()
	resp, err := a.batches.Results(r.Context(), id.Owner, c.Param("id"), query(r), upward(r.Header))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	takeID(c, resp.Header)
	h := c.Response().Header()
	h.Set("Content-Type", resp.Header.Get("Content-Type"))
	h.Set("Content-Security-Policy", upstreamPolicy)
	h.Set("Cache-Control", "no-store")
	if r.Method == http.MethodHead {
		return c.NoContent(http.StatusOK)
	}
	if err := a.copy(c, resp); err != nil {
		a.log.Warn("results broke off", "route", route(c), "request_id", requestID(c), "error", err)
		panic(http.ErrAbortHandler) // so that the caller sees it too
	}
	return nil
}

func takeID(c echo.Context, header http.Header) {
	if id := header.Get("Request-Id"); id != "" {
		c.Response().Header().Set("Request-Id", id)
	}
}

func (a *API) answerBatch(c echo.Context, one batches.Batch, header http.Header) error {
	takeID(c, header)
	object, err := a.batchObject(c, one)
	if err != nil {
		return err
	}
	writeJSON(c, http.StatusOK, object)
	return nil
}

// batchObject is the upstream's object with a results_url that leads here, and, under "sluice", what the gateway adds.
func (a *API) batchObject(c echo.Context, one batches.Batch) ([]byte, error) {
	object, ok := claude.ParseBatch(one.Object)
	if !ok {
		return nil, fmt.Errorf("batch %s: its object can't be read", one.ID)
	}
	type further struct {
		*batches.Summary
		Callback    *callbackObject `json:"callback"`
		Successor   string          `json:"successor_id,omitempty"`
		Predecessor string          `json:"predecessor_id,omitempty"`
	}
	var more []byte
	if one.Callback != "" || one.Summary != nil || one.Predecessor != "" {
		f := further{Summary: one.Summary, Successor: one.Successor, Predecessor: one.Predecessor}
		if one.Callback != "" {
			k, err := a.calls.Get(c.Request().Context(), one.Owner, one.ID)
			if errors.Is(err, callbacks.ErrNotFound) {
				k, err = callbacks.Callback{Object: one.ID, Type: batches.EventEnded, URL: one.Callback, Status: callbacks.Pending}, nil
			}
			if err != nil {
				return nil, err
			}
			state := objectOfCallback(k)
			f.Callback = &state
		}
		more = marshal(f)
	}
	return object.WithResultsURL(a.baseURL(c.Request())+"/v1/messages/batches/"+one.ID+"/results", more), nil
}
