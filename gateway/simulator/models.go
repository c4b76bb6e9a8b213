package simulator

import (
	"net/http"
	"slices"
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

// models answers GET /v1/models.
func (x *exchange) models() error {
	id := func(m modelInfo) string { return m.ID }
	models, more, err := pageOf(x.r.URL.Query(), catalogue, id)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, newListing(models, more, id))
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
