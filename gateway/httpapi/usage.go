package httpapi

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"sluice/gateway/limits"
)

// tallyObject is a sum over answers that have ended, with Anthropic's names.
type tallyObject struct {
	Answers     int64 `json:"answers"`           // streams, and answers that were no streams
	Estimated   int64 `json:"estimated_answers"` // how many of them broke off, so that their output is estimated
	Input       int64 `json:"input_tokens"`      // without those of the cache
	Output      int64 `json:"output_tokens"`
	CacheRead   int64 `json:"cache_read_input_tokens"`
	CacheCreate int64 `json:"cache_creation_input_tokens"`
}

func tallyOf(t limits.Tally) tallyObject {
	return tallyObject{t.Answers, t.Estimated, t.Tokens.Input, t.Tokens.Output, t.Tokens.CacheRead, t.Tokens.CacheWrite}
}

// windowObject is one limit of the caller's plan.
type windowObject struct {
	Limit     string     `json:"limit"`     // as in the configuration
	Value     int64      `json:"value"`     // what the plan allows
	Used      int64      `json:"used"`      // what is taken now, open streams' reservations included
	Remaining int64      `json:"remaining"` // what may come at once now; of requests at most the plan's burst
	ResetsAt  *time.Time `json:"resets_at"` // when Remaining is whole again if nothing comes; null: when streams end
}

// getUsage is GET /v1/usage: what the caller has used and has left, as
//
//	{"type":"usage","owner":"key:alice","plan":"default",
//	 "windows":[{"limit":"requests_per_minute","value":60,"used":2,"remaining":8,"resets_at":"2026-11-22T10:00:02Z"}, …],
//	 "today":{"answers":3,"estimated_answers":0,"input_tokens":…,"output_tokens":…,"cache_read_input_tokens":…,"cache_creation_input_tokens":…},
//	 "max_tokens":4096,"models":["claude-haiku-*"]}
//
// windows has the limits that the plan has, in the order of the configuration; today is UTC's. max_tokens and models are
// null where the plan does not limit them.
func (a *API) getUsage(c echo.Context) error {
	id, err := a.identify(c)
	if err != nil {
		return err
	}
	l := a.relay.Limits()
	used, left, err := l.Look(id.Account, id.Plan)
	if err != nil {
		return err
	}
	plan, _ := l.Plan(id.Plan)
	o := struct {
		Type      string         `json:"type"`
		Owner     string         `json:"owner"`
		Plan      string         `json:"plan"`
		Windows   []windowObject `json:"windows"`
		Today     tallyObject    `json:"today"`
		MaxTokens *int           `json:"max_tokens"`
		Models    []string       `json:"models"`
	}{Type: "usage", Owner: used.Owner, Plan: used.Plan, Windows: []windowObject{}, Today: tallyOf(used.Today), Models: plan.Models}
	if plan.MaxTokens > 0 {
		o.MaxTokens = &plan.MaxTokens
	}
	for _, of := range []struct {
		limit  string
		window limits.Window
	}{
		{limits.RequestsPerMinute, left.Requests},
		{limits.ConcurrentStreams, limits.Window{Limit: int64(plan.ConcurrentStreams), Used: int64(used.Open), Remaining: int64(max(0, plan.ConcurrentStreams-used.Open))}},
		{limits.InputTokensPerMinute, left.Input}, {limits.OutputTokensPerMinute, left.Output}, {limits.TokensPerDay, left.Day},
	} {
		if of.window.Limit <= 0 {
			continue
		}
		w := windowObject{Limit: of.limit, Value: of.window.Limit, Used: of.window.Used, Remaining: of.window.Remaining}
		if !of.window.Reset.IsZero() {
			reset := wholeSeconds(of.window.Reset)
			w.ResetsAt = &reset
		}
		o.Windows = append(o.Windows, w)
	}
	writeJSON(c, http.StatusOK, marshal(o))
	return nil
}

// ownerObject is one owner in the operator's list.
type ownerObject struct {
	Owner    string      `json:"owner"`
	Plan     string      `json:"plan"` // with which it was admitted last
	Open     int         `json:"open_streams"`
	Reserved int64       `json:"reserved_tokens"` // what they have reserved of its tokens_per_day
	Today    tallyObject `json:"today"`
	Total    tallyObject `json:"total"`
}

// usage is GET /usage for operators: what each owner has used today (UTC) and since the process began, as
//
//	{"type":"usage","since":"2026-11-22T08:00:00Z","day":"2026-11-22",
//	 "data":[{"owner":"key:alice","plan":"default","open_streams":1,"reserved_tokens":1000,"today":{…},"total":{…}}, …],
//	 "others":{…}}
//
// data is sorted by owner; today, total and others are as today in GET /v1/usage. Whoever has used anything today is
// listed; of more than 10,000 owners, those who have not are added up as others. What a restart must not lose is in the
// log: a record for each answer.
func (a *API) usage(w http.ResponseWriter, _ *http.Request) {
	r := a.relay.Limits().Report()
	o := struct {
		Type   string        `json:"type"`
		Since  time.Time     `json:"since"`
		Day    string        `json:"day"`
		Data   []ownerObject `json:"data"`
		Others tallyObject   `json:"others"`
	}{Type: "usage", Since: r.Since.UTC().Truncate(time.Second), Day: r.Day.Format(time.DateOnly), Data: make([]ownerObject, 0, len(r.Owners)), Others: tallyOf(r.Others)}
	for _, u := range r.Owners {
		o.Data = append(o.Data, ownerObject{u.Owner, u.Plan, u.Open, u.Reserved, tallyOf(u.Today), tallyOf(u.Total)})
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	json.NewEncoder(w).Encode(o)
}
