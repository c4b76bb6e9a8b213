package gateway_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"testing"
	"unicode/utf8"
)

// accumulate builds the Message of a stream as an SDK would, from the raw bytes of its strings, so that what no decoder
// can represent (half a surrogate, half a character) is compared too. Errors and unknown events change nothing.
func accumulate(t testing.TB, events []event) []byte {
	t.Helper()
	type fields = map[string]json.RawMessage
	var message, usage fields
	var blocks []fields
	grown := map[int]map[string][]byte{}
	var cites [][]json.RawMessage
	closed := map[int]bool{}
	begin := func(raw json.RawMessage) {
		var b fields
		decode(t, raw, &b)
		blocks, cites = append(blocks, b), append(cites, nil)
	}
	for _, e := range events {
		var d struct {
			Index        int
			Message      json.RawMessage
			ContentBlock json.RawMessage `json:"content_block"`
			Delta        fields
			Usage        fields
			Management   json.RawMessage `json:"context_management"`
		}
		switch e.name {
		case "message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta":
			decode(t, []byte(e.data), &d)
		}
		switch e.name {
		case "message_start":
			decode(t, d.Message, &message)
			if message["usage"] != nil {
				decode(t, message["usage"], &usage)
			}
			var content []json.RawMessage
			decode(t, message["content"], &content)
			for i, raw := range content {
				begin(raw)
				closed[i] = true
			}
		case "content_block_start":
			begin(d.ContentBlock)
			var fallback struct {
				To struct{ Model json.RawMessage }
			}
			if decode(t, d.ContentBlock, &fallback); fallback.To.Model != nil {
				message["model"] = fallback.To.Model // another model serves from here on
			}
		case "content_block_delta":
			if d.Index >= len(blocks) {
				continue
			}
			switch string(d.Delta["type"]) {
			case `"text_delta"`, `"thinking_delta"`, `"input_json_delta"`:
				for _, key := range []string{"text", "thinking", "partial_json"} {
					if raw := d.Delta[key]; raw != nil {
						if grown[d.Index] == nil {
							grown[d.Index] = map[string][]byte{}
						}
						grown[d.Index][key] = append(grown[d.Index][key], raw[1:len(raw)-1]...)
					}
				}
			case `"citations_delta"`:
				cites[d.Index] = append(cites[d.Index], d.Delta["citation"])
			case `"signature_delta"`:
				blocks[d.Index]["signature"] = d.Delta["signature"]
			case `"compaction_delta"`:
				for _, key := range []string{"content", "encrypted_content"} {
					if d.Delta[key] != nil {
						blocks[d.Index][key] = d.Delta[key]
					}
				}
			}
		case "content_block_stop":
			closed[d.Index] = true
		case "message_delta":
			for key, v := range d.Delta {
				message[key] = v
			}
			if d.Management != nil {
				message["context_management"] = d.Management
			}
			for key, v := range d.Usage {
				if usage == nil {
					usage = fields{}
				}
				usage[key] = v
			}
		}
	}
	if message == nil {
		return []byte("null")
	}
	for i, b := range blocks {
		for key, raw := range grown[i] {
			if key == "partial_json" {
				var text string
				quoted := slices.Concat([]byte{'"'}, raw, []byte{'"'})
				if closed[i] && json.Unmarshal(quoted, &text) == nil && json.Valid([]byte(text)) {
					b["input"] = json.RawMessage(text)
				}
				continue
			}
			first := b[key]
			if len(first) < 2 {
				first = json.RawMessage(`""`)
			}
			b[key] = slices.Concat(first[:len(first)-1], raw, []byte{'"'})
		}
		if cites[i] != nil {
			b["citations"] = encode(t, cites[i])
		}
	}
	if blocks == nil {
		blocks = []fields{}
	}
	message["content"] = encode(t, blocks)
	if usage != nil {
		message["usage"] = encode(t, usage)
	}
	return encode(t, message)
}

func decode(t testing.TB, raw []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(raw, v); err != nil {
		t.Fatalf("%v in %.300q", err, raw)
	}
}

func encode(t testing.TB, v any) json.RawMessage {
	t.Helper()
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// equalJSON compares two JSON texts by value; numbers as they are written.
func equalJSON(t testing.TB, got, want []byte) {
	t.Helper()
	value := func(raw []byte) (v any) {
		if !utf8.Valid(raw) {
			return string(bytes.TrimSpace(raw)) // no decoder keeps such bytes
		}
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			t.Fatalf("%v in %.300q", err, raw)
		}
		return v
	}
	if g, w := value(got), value(want); !reflect.DeepEqual(g, w) {
		t.Errorf("got\n%s\nwant\n%s", encode(t, g), encode(t, w))
	}
}
