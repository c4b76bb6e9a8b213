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
	Stream    bool
	MaxTokens int64 // 0: not given
}

// ParseParams reads a Messages request. It is as exact as the upstream, which knows keys by their bytes: a key that
// stands twice, or is spelled with escapes, could mean one thing here and another there, and is refused. Errors are
// *Error of type invalid_request_error.
func ParseParams(body []byte) (p Params, err error) {
	if err := validObject(body); err != nil {
		return p, err
	}
	seen := make(map[string]bool, 3)
	whole := members(body, func(key, value []byte) bool {
		name := string(key)
		switch name {
		case "model", "stream", "max_tokens":
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
			if json.Unmarshal(value, &p.Model) != nil || value[0] != '"' {
				err = invalid("model: Input should be a string.")
			}
		case "stream":
			if p.Stream = string(value) == "true"; !p.Stream && string(value) != "false" {
				err = invalid("stream: Input should be true or false.")
			}
		case "max_tokens":
			if p.MaxTokens, err = strconv.ParseInt(string(value), 10, 64); err != nil || p.MaxTokens < 0 {
				err = invalid("max_tokens: Input should be a whole number.")
			}
		}
		return err == nil
	})
	if err == nil && !whole {
		err = invalid("The request has a key that is written with escapes.")
	}
	return p, err
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
