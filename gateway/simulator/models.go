package simulator

import (
	"net/http"
	"slices"
	"strconv"
)

type modelInfo struct {
	Type           string `json:"type"`
	ID             string `json:"id"`
	DisplayName    string `json:"display_name"`
	CreatedAt      string `json:"created_at"`
	MaxInputTokens int    `json:"max_input_tokens"`
	MaxTokens      int    `json:"max_tokens"`
	Lifecycle      string `json:"lifecycle"`
}

// catalogue lists a few models, newest first, as the API does.
var catalogue = []modelInfo{
	{"model", "claude-sonnet-4-6", "Claude Sonnet 4.6", "2026-02-17T00:00:00Z", 200_000, 64_000, "active"},
	{"model", "claude-opus-4-6", "Claude Opus 4.6", "2026-02-05T00:00:00Z", 200_000, 128_000, "active"},
	{"model", "claude-opus-4-5-20251101", "Claude Opus 4.5", "2025-11-24T00:00:00Z", 200_000, 64_000, "active"},
	{"model", "claude-haiku-4-5-20251001", "Claude Haiku 4.5", "2025-10-15T00:00:00Z", 200_000, 64_000, "active"},
	{"model", "claude-sonnet-4-5-20250929", "Claude Sonnet 4.5", "2025-09-29T00:00:00Z", 200_000, 64_000, "active"},
}

type modelList struct {
	Data    []modelInfo `json:"data"`
	HasMore bool        `json:"has_more"`
	FirstID *string     `json:"first_id"`
	LastID  *string     `json:"last_id"`
}

// models answers GET /v1/models. has_more speaks of the direction in which is being paged.
func (x *exchange) models() error {
	query := x.r.URL.Query()
	limit := 20
	if given := query.Get("limit"); given != "" {
		n, err := strconv.Atoi(given)
		if err != nil || n < 1 || n > 1000 {
			return invalid("limit: Input should be an integer from 1 to 1000")
		}
		limit = n
	}
	after, before := query.Get("after_id"), query.Get("before_id")
	if after != "" && before != "" {
		return invalid("after_id and before_id cannot be used together")
	}
	list, all := modelList{Data: []modelInfo{}}, catalogue
	at := slices.IndexFunc(all, func(m modelInfo) bool { return m.ID == after+before })
	switch {
	case after+before != "" && at < 0:
		return invalid("There is no model `%s` to page from", after+before)
	case before != "":
		all = all[:at]
		first := max(0, len(all)-limit)
		list.Data, list.HasMore = all[first:], first > 0
	default:
		all = all[at+1:]
		n := min(limit, len(all))
		list.Data, list.HasMore = all[:n], n < len(all)
	}
	if n := len(list.Data); n > 0 {
		list.FirstID, list.LastID = &list.Data[0].ID, &list.Data[n-1].ID
	}
	return x.json(http.StatusOK, list)
}

// model answers GET /v1/models/{id}, for every model that messages may be sent to.
func (x *exchange) model(id string) error {
	if !knownModel(id) {
		return newAPIError(http.StatusNotFound, "not_found_error", "model: %s", id)
	}
	if at := slices.IndexFunc(catalogue, func(m modelInfo) bool { return m.ID == id }); at >= 0 {
		return x.json(http.StatusOK, catalogue[at])
	}
	return x.json(http.StatusOK, modelInfo{
		Type: "model", ID: id, DisplayName: id, CreatedAt: "1970-01-01T00:00:00Z", // the API's word for an unknown date
		MaxInputTokens: 200_000, MaxTokens: 64_000, Lifecycle: "active",
	})
}
