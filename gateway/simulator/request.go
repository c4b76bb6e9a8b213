package simulator

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// request is what the simulator reads of a Messages request.
type request struct {
	model         string
	maxTokens     int
	stream        bool
	stopSequences []string
	tools         []tool // those that the client runs
	toolChoice    toolChoice
	thinking      thinkingOption

	prompt     string // the text of the last user message
	toolResult string // what a tool answered in it
	inTokens   int    // all input, cached or not
	cached     string // the part of it that is marked for the cache; empty: none
	cachedSize int    // its tokens
}

type tool struct {
	Name        string          `json:"name"`
	Type        string          `json:"type"`
	InputSchema json.RawMessage `json:"input_schema"`
}

type toolChoice struct {
	Type string `json:"type"`
	Name string `json:"name"`
}

type thinkingOption struct {
	Type         string `json:"type"`
	BudgetTokens int    `json:"budget_tokens"`
	Display      string `json:"display"`
}

type turn struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

// noPrefill are the models that refuse an assistant message at the end: 4.6 and later.
var noPrefill = regexp.MustCompile(`^claude-[a-z]+-(4-[6-9]|[5-9])(-|$)`)

// newRequest decodes and checks a body as the API does. Counting needs no max_tokens.
func newRequest(body []byte, counting bool) (*request, error) {
	var syntax any
	if err := json.Unmarshal(body, &syntax); err != nil {
		return nil, invalid("The request body is not valid JSON: %v", err)
	}
	if _, ok := syntax.(map[string]any); !ok {
		return nil, invalid("Input should be an object")
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return nil, invalid("The request body is not valid JSON: %v", err)
	}
	var q request
	var turns []turn
	for _, field := range []struct {
		name     string
		into     any
		want     string
		required bool
	}{
		{"model", &q.model, "a valid string", true},
		{"messages", &turns, "a valid list", true},
		{"max_tokens", &q.maxTokens, "a valid integer", !counting},
		{"stream", &q.stream, "a valid boolean", false},
		{"stop_sequences", &q.stopSequences, "a valid list", false},
		{"tools", &q.tools, "a valid list", false},
		{"tool_choice", &q.toolChoice, "an object", false},
		{"thinking", &q.thinking, "an object", false},
	} {
		raw, present := fields[field.name]
		if field.required && !present {
			return nil, invalid("%s: Field required", field.name)
		}
		isNull := string(raw) == "null"
		if !present || isNull && !field.required {
			continue
		}
		if isNull || json.Unmarshal(raw, field.into) != nil {
			return nil, invalid("%s: Input should be %s", field.name, field.want)
		}
	}
	if err := q.readTurns(turns); err != nil {
		return nil, err
	}
	if err := q.check(counting); err != nil {
		return nil, err
	}
	q.measure(fields)
	return &q, nil
}

func (q *request) check(counting bool) error {
	if q.maxTokens < 0 {
		return invalid("max_tokens: must be greater than or equal to 0")
	}
	if !knownModel(q.model) {
		return newAPIError(404, "not_found_error", "model: %s", q.model)
	}
	if q.thinking.Type == "enabled" && !counting && q.maxTokens <= q.thinking.BudgetTokens {
		return invalid("`max_tokens` must be greater than `thinking.budget_tokens`.")
	}
	name := q.toolChoice.Name
	if q.toolChoice.Type == "tool" && !slices.ContainsFunc(q.tools, func(t tool) bool { return t.Name == name }) {
		return invalid("Tool '%s' not found in provided tools", name)
	}
	// Tools with a type of their own are run by the API.
	q.tools = slices.DeleteFunc(q.tools, func(t tool) bool { return t.Type != "" && t.Type != "custom" })
	return nil
}

func (q *request) readTurns(turns []turn) error {
	if len(turns) == 0 {
		return invalid("messages: at least one message is required")
	}
	for i, turn := range turns {
		last := i == len(turns)-1
		if !slices.Contains([]string{"user", "assistant", "system"}, turn.Role) {
			return invalid("messages.%d.role: Input should be 'user' or 'assistant'", i)
		}
		if len(turn.Content) == 0 {
			return invalid("messages.%d.content: Field required", i)
		}
		text, result, ok := readContent(turn.Content)
		if !ok {
			return invalid("messages.%d.content: Input should be a valid string or list", i)
		}
		if c := string(bytes.TrimSpace(turn.Content)); (c == `""` || c == `[]`) && !(last && turn.Role == "assistant") {
			return invalid("messages.%d: all messages must have non-empty content except for the optional final assistant message", i)
		}
		if last && turn.Role == "assistant" && noPrefill.MatchString(q.model) {
			return invalid("This model does not support assistant message prefill. The conversation must end with a user message.")
		}
		if turn.Role == "user" {
			q.prompt, q.toolResult = text, result
		}
	}
	return nil
}

// readContent takes the text, and the text of tool results, out of a string or a list of blocks.
func readContent(raw json.RawMessage) (text, toolResult string, ok bool) {
	if json.Unmarshal(raw, &text) == nil && string(raw) != "null" {
		return text, "", true
	}
	var blocks []struct {
		Type    string          `json:"type"`
		Text    string          `json:"text"`
		Content json.RawMessage `json:"content"`
	}
	if string(raw) == "null" || json.Unmarshal(raw, &blocks) != nil {
		return "", "", false
	}
	var texts, results []string
	for _, block := range blocks {
		switch block.Type {
		case "text":
			texts = append(texts, block.Text)
		case "tool_result":
			result, _, _ := readContent(block.Content)
			results = append(results, result)
		}
	}
	return strings.Join(texts, "\n"), strings.Join(results, "\n"), true
}

// measure estimates the input's tokens, and finds what is marked for the prompt cache: tools and system, and the
// messages too where one of them is marked.
func (q *request) measure(fields map[string]json.RawMessage) {
	q.inTokens = 3
	var marked, prefix string
	var prefixTokens int
	for _, name := range []string{"tools", "system", "messages"} {
		var value any
		raw := fields[name]
		_ = json.Unmarshal(raw, &value) // it was decoded before; absent is nil
		n := tokens(value)
		q.inTokens += n
		prefix, prefixTokens = prefix+string(raw), prefixTokens+n
		if bytes.Contains(raw, []byte(`"cache_control"`)) {
			marked, q.cachedSize = prefix, prefixTokens
		}
	}
	if marked != "" {
		q.cached = fmt.Sprintf("%s\n%s", q.model, marked)
	}
}

// tokens estimates: four letters a token, as is usual for English; a picture or a document is about 1,500.
func tokens(value any) int {
	n := 0
	switch v := value.(type) {
	case string:
		n = (utf8.RuneCountInString(v) + 3) / 4
	case []any:
		for _, item := range v {
			n += tokens(item)
		}
	case map[string]any:
		for key, item := range v {
			if _, isString := item.(string); isString && key == "data" {
				n += 1500
				continue
			}
			n += 1 + tokens(item)
		}
	case nil:
	default:
		n = 1
	}
	return n
}

// knownModel: the catalogue is open, so that a test may name the model of the day.
func knownModel(id string) bool {
	return strings.HasPrefix(id, "claude-") && !strings.Contains(id, "does-not-exist")
}
