package simulator

import (
	"encoding/json"
	"strings"
)

// toolToCall decides whether a tool is called, and which: tool_choice may force or forbid it, else the prompt has to
// speak of tools or name one. After a tool's result there is nothing left to ask, unless it is forced.
func (q *request) toolToCall(words map[string]bool) (tool, bool) {
	if len(q.tools) == 0 || q.toolChoice.Type == "none" {
		return tool{}, false
	}
	prompt := strings.ToLower(q.prompt)
	for _, t := range q.tools {
		if q.toolChoice.Type == "tool" && t.Name == q.toolChoice.Name {
			return t, true
		}
	}
	forced := q.toolChoice.Type == "any"
	if q.toolResult != "" && !forced {
		return tool{}, false
	}
	for _, t := range q.tools {
		if t.Name != "" && strings.Contains(prompt, strings.ToLower(t.Name)) {
			return t, true
		}
	}
	return q.tools[0], forced || words["tool"] || words["tools"]
}

// schema is what we read of a JSON schema. Parts that are not as expected (a schema may be just true) count as absent.
type schema struct {
	Type       any                        `json:"type"` // a name, or a list of them
	Properties map[string]json.RawMessage `json:"properties"`
	Items      json.RawMessage            `json:"items"`
	Enum       []any                      `json:"enum"`
	Const      any                        `json:"const"`
	Default    any                        `json:"default"`
	Format     string                     `json:"format"`
}

func newSchema(raw json.RawMessage) *schema {
	var s schema
	_ = json.Unmarshal(raw, &s) // keeps what fits
	return &s
}

// inputFor makes an input with a value for every property of the schema; nil for a tool without any. prompt is what
// the free texts say.
func inputFor(raw json.RawMessage, prompt string) []byte {
	s := newSchema(raw)
	if len(s.Properties) == 0 {
		return nil
	}
	return encode(s.value("", prompt, 0))
}

// maxSchemaDepth ends schemas that nest without need.
const maxSchemaDepth = 8

func (s *schema) value(name, prompt string, depth int) any {
	switch {
	case s.Const != nil:
		return s.Const
	case len(s.Enum) > 0:
		return s.Enum[0]
	case s.Default != nil:
		return s.Default
	}
	kind, _ := s.Type.(string)
	if kinds, ok := s.Type.([]any); ok && len(kinds) > 0 {
		kind, _ = kinds[0].(string)
	}
	switch {
	case kind == "object" || len(s.Properties) > 0:
		object := make(map[string]any)
		if depth < maxSchemaDepth {
			for key, property := range s.Properties {
				object[key] = newSchema(property).value(key, prompt, depth+1)
			}
		}
		return object
	case kind == "array":
		if s.Items == nil || depth >= maxSchemaDepth {
			return []any{}
		}
		return []any{newSchema(s.Items).value(name, prompt, depth+1)}
	case kind == "integer" || kind == "number":
		return 3
	case kind == "boolean":
		return true
	case kind == "null":
		return nil
	}
	return s.text(name, prompt)
}

func (s *schema) text(name, prompt string) string {
	switch s.Format {
	case "date":
		return "2026-06-21"
	case "date-time":
		return "2026-06-21T12:00:00Z"
	case "uri", "url":
		return "https://example.com/"
	case "email":
		return "somebody@example.com"
	}
	switch strings.ToLower(name) {
	case "city", "location", "place":
		return "Reykjavík"
	case "country":
		return "Ísland"
	case "name":
		return "Zoë"
	case "timezone":
		return "Atlantic/Reykjavik"
	}
	return prompt
}

// fragments splits a tool's input as the API does: an empty fragment first, then a few letters each.
func fragments(input []byte) []string {
	const letters = 9
	parts := []string{""}
	runes := []rune(string(input))
	for len(runes) > 0 {
		n := min(letters, len(runes))
		parts = append(parts, string(runes[:n]))
		runes = runes[n:]
	}
	return parts
}
