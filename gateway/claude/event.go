package claude

import (
	"bytes"
	"time"
	"unicode/utf8"
)

// Kind is what an event is to the relay. Whatever Anthropic adds later is Other: it passes untouched.
type Kind uint8

// The events of Anthropic's streaming documentation.
const (
	Other Kind = iota
	MessageStart
	BlockStart
	BlockDelta
	BlockStop
	MessageDelta
	MessageStop
	Failure // "error"
	Ping
	vertex // Vertex's own accounting, which breaks clients that know Anthropic's events only
)

var names = map[string]Kind{
	"message_start":       MessageStart,
	"content_block_start": BlockStart,
	"content_block_delta": BlockDelta,
	"content_block_stop":  BlockStop,
	"message_delta":       MessageDelta,
	"message_stop":        MessageStop,
	"error":               Failure,
	"ping":                Ping,
	"vertex_event":        vertex,
}

// KindOf is what an event of this name is.
func KindOf(name []byte) Kind { return names[string(name)] }

// Event is one event of a stream. Name and Data are valid until the next one is read.
type Event struct {
	Kind Kind
	Name []byte // the event: field, or data.type where it is missing; may be empty
	Data []byte // the data: lines, joined by LF; otherwise exactly as received
	Read time.Time
}

// Delta is a content_block_delta that may be merged with its neighbours: it has exactly the known keys, so that nothing
// is lost when only the string is kept.
type Delta struct {
	Type  string // text_delta, thinking_delta or input_json_delta
	Index []byte // the block, as written
	Value []byte // the raw bytes between the quotes, escapes and all
}

// mergeable are the deltas whose strings every accumulator appends (as the official SDKs do), with the key of the string.
// A signature_delta is assigned by some SDKs and appended by others, a citations_delta is pushed: never those.
var mergeable = map[string]string{
	"text_delta":       "text",
	"thinking_delta":   "thinking",
	"input_json_delta": "partial_json",
}

// ParseDelta reads the data of a content_block_delta. ok is false for whatever may not be merged: other deltas, unknown
// or repeated keys, malformed JSON, and bytes that are not UTF-8 (merged, two halves of a character would decode to
// something else than apart).
func ParseDelta(data []byte) (d Delta, ok bool) {
	var kind, delta []byte
	keys := 0
	whole := members(data, func(key, value []byte) bool {
		keys++
		switch string(key) {
		case "type":
			kind = value
		case "index":
			d.Index = value
		case "delta":
			delta = value
		}
		return true
	})
	if !whole || keys != 3 || string(kind) != `"content_block_delta"` || delta == nil || !digits(d.Index) {
		return Delta{}, false
	}
	keys = 0
	var name, value []byte
	kind = nil
	whole = members(delta, func(k, v []byte) bool {
		keys++
		if string(k) == "type" {
			kind = v
		} else {
			name, value = k, v
		}
		return true
	})
	if !whole || keys != 2 || len(kind) < 2 || kind[0] != '"' || len(value) < 2 || value[0] != '"' {
		return Delta{}, false
	}
	want, known := mergeable[string(kind[1:len(kind)-1])]
	if !known || want != string(name) || !utf8.Valid(value) {
		return Delta{}, false
	}
	d.Type = typeOf(want)
	d.Value = value[1 : len(value)-1]
	return d, true
}

// typeOf returns the delta type whose string has this key, as a constant.
func typeOf(key string) string {
	switch key {
	case "text":
		return "text_delta"
	case "thinking":
		return "thinking_delta"
	}
	return "input_json_delta"
}

// Merges reports whether e continues d: the same kind of delta in the same block.
func (d Delta) Merges(e Delta) bool {
	return d.Type == e.Type && bytes.Equal(d.Index, e.Index)
}

// Open appends the data of a merged delta up to its string; the strings follow, then Close.
func (d Delta) Open(b []byte) []byte {
	b = append(b, `{"type":"content_block_delta","index":`...)
	b = append(b, d.Index...)
	b = append(b, `,"delta":{"type":"`...)
	b = append(b, d.Type...)
	b = append(b, `","`...)
	b = append(b, mergeable[d.Type]...)
	return append(b, `":"`...)
}

// Close is what follows the strings of a merged delta.
const Close = `"}}`

func digits(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(b) > 0 && len(b) < 10 && (b[0] != '0' || len(b) == 1)
}
