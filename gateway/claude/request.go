package claude

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
)

// Params is what the gateway reads of a Messages request. Everything else is the upstream's to judge.
type Params struct {
	Model     string
	Models    []string // all that may take part in the answer: Model, then those of fallbacks and of tools
	Stream    bool
	MaxTokens int64 // the largest that the request names, for Model or for another of them; -1: none is given
}

// ParseParams reads a Messages request. It is as exact as the upstream, which knows keys by their bytes: a key that
// stands twice, or is spelled with escapes, could mean one thing here and another there, and is refused. Errors are
// *Error of type invalid_request_error.
func ParseParams(body []byte) (p Params, err error) {
	if err := validObject(body); err != nil {
		return p, err
	}
	p.MaxTokens = -1
	var fallbacks, tools []byte
	seen := make(map[string]bool, 5)
	whole := members(body, func(key, value []byte) bool {
		name := string(key)
		switch name {
		case "model", "stream", "max_tokens", "fallbacks", "tools":
		default:
			return true
		}
		if seen[name] {
			err = invalid("%s: stands twice in the request.", name)
			return false
		}
		seen[name] = true
		switch name {
		case "model":
			p.Model, err = modelName(name, value)
		case "stream":
			if p.Stream = string(value) == "true"; !p.Stream && string(value) != "false" {
				err = invalid("stream: Input should be true or false.")
			}
		case "max_tokens":
			err = p.atMost(name, value)
		case "fallbacks":
			fallbacks = value
		case "tools":
			tools = value
		}
		return err == nil
	})
	if err == nil && !whole {
		err = invalid("The request has a key that is written with escapes.")
	}
	if err != nil {
		return p, err
	}
	p.Models = []string{p.Model}
	if string(fallbacks) == `"default"` { // those that Anthropic chooses: a plan that names models has to name this too
		p.Models = append(p.Models, "default")
	}
	if err = p.others("fallbacks", fallbacks); err == nil {
		err = p.others("tools", tools) // an advisor is a model
	}
	return p, err
}

// others reads what a list of objects says of further models.
func (p *Params) others(list string, data []byte) (err error) {
	i := 0
	elements(data, func(object []byte) bool {
		var model, most []byte
		twice := false
		whole := object[0] != '{' || members(object, func(key, value []byte) bool {
			switch string(key) {
			case "model":
				twice = twice || model != nil
				model = value
			case "max_tokens":
				twice = twice || most != nil
				most = value
			}
			return true
		})
		name := fmt.Sprintf("%s.%d", list, i)
		i++
		switch {
		case !whole:
			err = invalid("%s: has a key that is written with escapes.", name)
		case twice:
			err = invalid("%s: has a key twice.", name)
		case model != nil:
			var other string
			if other, err = modelName(name+".model", model); err == nil {
				p.Models = append(p.Models, other)
			}
			if err == nil && most != nil && string(most) != "null" {
				err = p.atMost(name+".max_tokens", most)
			}
		}
		return err == nil
	})
	return err
}

func modelName(key string, value []byte) (name string, err error) {
	if json.Unmarshal(value, &name) != nil || value[0] != '"' {
		return "", invalid("%s: Input should be a string.", key)
	}
	return name, nil
}

func (p *Params) atMost(key string, value []byte) error {
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil || n < 0 {
		return invalid("%s: Input should be a whole number.", key)
	}
	p.MaxTokens = max(p.MaxTokens, n)
	return nil
}

func validObject(body []byte) error {
	if !json.Valid(body) {
		var v any
		err := json.Unmarshal(body, &v) // for its word on where and what
		return invalid("The request body is not valid JSON: %v.", err)
	}
	if i := space(body, 0); body[i] != '{' {
		return invalid("The request body should be a JSON object.")
	}
	return nil
}

func invalid(format string, args ...any) error {
	return &Error{Type: InvalidRequest, Status: http.StatusBadRequest, Message: fmt.Sprintf(format, args...)}
}

// Streaming returns the request with "stream": true, all else byte for byte. ParseParams must have accepted it.
func Streaming(body []byte) []byte {
	value := member(body, "stream")
	switch {
	case string(value) == "true":
		return body
	case value != nil:
		at := cap(body) - cap(value) // where value begins, being a part of body
		return append(append(append(make([]byte, 0, len(body)), body[:at]...), "true"...), body[at+len(value):]...)
	}
	open := space(body, 0) + 1
	more := `"stream":true`
	if i := space(body, open); body[i] != '}' {
		more += ","
	}
	return append(append(append(make([]byte, 0, len(body)+len(more)), body[:open]...), more...), body[open:]...)
}
