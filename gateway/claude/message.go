package claude

import (
	"bytes"
	"encoding/json"
	"strconv"
)

// Message accumulates a Message from its events as the official SDKs do, from raw JSON to raw JSON: numbers, escapes and
// keys that it doesn't know stay as they were. The zero value is a message of which nothing has come. It is not safe for
// use by several goroutines.
type Message struct {
	fields object
	blocks []*block
	usage  object
}

// block is one content block: the fields of its start event, and what its deltas appended.
type block struct {
	fields object
	grown  object // raw string contents by key: text, thinking
	input  []byte // raw partial_json
	cites  [][]byte
	closed bool
}

// Add takes the next event. What is not valid JSON, or not about something that began, changes nothing.
func (m *Message) Add(kind Kind, data []byte) {
	switch kind {
	case MessageStart, BlockStart, BlockDelta, BlockStop, MessageDelta:
	default:
		return
	}
	if !json.Valid(data) {
		return
	}
	switch kind {
	case MessageStart:
		m.start(member(data, "message"))
	case BlockStart:
		// A start always addresses the slot after the previous block (anthropic-sdk-go, messageutil.go).
		b := &block{}
		b.fields.merge(member(data, "content_block"))
		m.blocks = append(m.blocks, b)
		// The last fallback block names the model that answers; an answer that is no stream says so in model.
		if kind, _ := text(b.fields.get("type")); kind == "fallback" && m.fields != nil {
			if v := member(b.fields.get("to"), "model"); len(v) > 0 && v[0] == '"' {
				m.fields.set("model", bytes.Clone(v))
			}
		}
	case BlockDelta:
		if b := m.at(data); b != nil {
			b.add(data)
		}
	case BlockStop:
		if b := m.at(data); b != nil {
			b.closed = true
		}
	case MessageDelta:
		m.fields.merge(member(data, "delta"))
		if v := member(data, "context_management"); v != nil {
			m.fields.set("context_management", v)
		}
		m.usage.merge(member(data, "usage"))
	}
}

func (m *Message) start(message []byte) {
	m.fields.merge(message)
	m.usage.merge(m.fields.get("usage"))
	// The whole answer can sit in message_start (programmatic tool calling, on record).
	var content []json.RawMessage
	if json.Unmarshal(m.fields.get("content"), &content) == nil {
		for _, raw := range content {
			b := &block{closed: true}
			b.fields.merge(raw)
			m.blocks = append(m.blocks, b)
		}
	}
}

func (m *Message) at(data []byte) *block {
	i, err := strconv.Atoi(string(member(data, "index")))
	if err != nil || i < 0 || i >= len(m.blocks) {
		return nil
	}
	return m.blocks[i]
}

func (b *block) add(data []byte) {
	delta := member(data, "delta")
	switch kind, _ := text(member(delta, "type")); kind {
	case "text_delta", "thinking_delta":
		key := mergeable[kind]
		if raw := member(delta, key); len(raw) >= 2 && raw[0] == '"' {
			b.grow(key, raw[1:len(raw)-1])
		}
	case "input_json_delta":
		if raw := member(delta, "partial_json"); len(raw) >= 2 && raw[0] == '"' {
			b.input = append(b.input, raw[1:len(raw)-1]...)
		}
	case "citations_delta":
		if raw := member(delta, "citation"); raw != nil {
			b.cites = append(b.cites, bytes.Clone(raw))
		}
	case "signature_delta":
		b.fields.copy("signature", delta)
	case "compaction_delta":
		b.fields.copy("content", delta)
		b.fields.copy("encrypted_content", delta)
	}
}

// grow appends to a string field, without decoding it.
func (b *block) grow(key string, raw []byte) {
	for i, f := range b.grown {
		if f.key == key {
			b.grown[i].value = append(f.value, raw...)
			return
		}
	}
	var whole []byte
	if v := b.fields.get(key); len(v) >= 2 && v[0] == '"' {
		whole = append(whole, v[1:len(v)-1]...)
	}
	b.grown = append(b.grown, field{key, append(whole, raw...)})
}

// JSON is the message so far, null before message_start. The input of a tool use is what its block began with until the
// block stops, since a fragment of JSON is not JSON; input that never becomes JSON stays so too.
func (m *Message) JSON() []byte {
	if m.fields == nil {
		return []byte("null")
	}
	var content bytes.Buffer
	content.WriteByte('[')
	for i, b := range m.blocks {
		if i > 0 {
			content.WriteByte(',')
		}
		content.Write(b.json())
	}
	content.WriteByte(']')
	whole := append(object{}, m.fields...)
	whole.set("content", content.Bytes())
	if m.usage != nil {
		whole.set("usage", m.usage.json())
	}
	return whole.json()
}

func (b *block) json() []byte {
	whole := append(object{}, b.fields...)
	for _, f := range b.grown {
		whole.set(f.key, append(append([]byte{'"'}, f.value...), '"'))
	}
	if b.closed && len(b.input) > 0 {
		if input, ok := text(append(append([]byte{'"'}, b.input...), '"')); ok && json.Valid([]byte(input)) {
			whole.set("input", []byte(input))
		}
	}
	if len(b.cites) > 0 {
		all := bytes.Join(b.cites, []byte(","))
		if v := b.fields.get("citations"); len(v) > 2 && v[0] == '[' {
			if first := bytes.TrimSpace(v[1 : len(v)-1]); len(first) > 0 {
				all = append(append(bytes.Clone(first), ','), all...)
			}
		}
		whole.set("citations", append(append([]byte{'['}, all...), ']'))
	}
	return whole.json()
}

// Model is the model that answers, as the upstream named it; empty before message_start.
func (m *Message) Model() string {
	s, _ := text(m.fields.get("model"))
	return s
}

// Usage is what the upstream has reported so far: message_delta's figures are cumulative and replace earlier ones. Where
// they come with iterations, these count: the figures beside them leave out compactions, and all models but the last one
// that answered.
func (m *Message) Usage() Usage {
	u := countsOf(m.usage.get)
	var all Usage
	elements(m.usage.get("iterations"), func(iteration []byte) bool {
		i := countsOf(func(key string) []byte { return member(iteration, key) })
		all.Input += i.Input
		all.Output += i.Output
		all.CacheRead += i.CacheRead
		all.CacheWrite += i.CacheWrite
		return true
	})
	return Usage{
		Input: max(u.Input, all.Input), Output: max(u.Output, all.Output),
		CacheRead: max(u.CacheRead, all.CacheRead), CacheWrite: max(u.CacheWrite, all.CacheWrite),
		Raw: m.usage.json(),
	}
}

func countsOf(get func(key string) []byte) Usage {
	n := func(key string) int64 {
		v, err := strconv.ParseInt(string(get(key)), 10, 64)
		if err != nil {
			return 0 // out of range it would be the largest number there is, and break every sum
		}
		return max(v, 0)
	}
	return Usage{
		Input: n("input_tokens"), Output: n("output_tokens"),
		CacheRead: n("cache_read_input_tokens"), CacheWrite: n("cache_creation_input_tokens"),
	}
}

// Usage counts an answer's tokens. The kinds don't overlap: input is without what was read from or written to a cache.
type Usage struct {
	Input, Output, CacheRead, CacheWrite int64

	Raw []byte // the usage object, with all that it says; null where none came
}

// ReportsOutput reports whether an event says how many tokens the answer took: a message_delta does, and a message_start
// that has the whole answer in it.
func ReportsOutput(kind Kind, data []byte) bool {
	switch kind {
	case MessageStart:
		data = member(data, "message")
		if v := member(data, "stop_reason"); len(v) == 0 || v[0] != '"' {
			return false
		}
	case MessageDelta:
	default:
		return false
	}
	return member(member(data, "usage"), "output_tokens") != nil
}

// WithOutput is the usage with another count of output tokens, everywhere.
func (u Usage) WithOutput(n int64) Usage {
	u.Output = n
	var raw object
	raw.merge(u.Raw)
	raw.set("output_tokens", strconv.AppendInt(nil, n, 10))
	u.Raw = raw.json()
	return u
}

// UsageOf reads the usage of a whole Message that didn't come as a stream. reported is false where it says nothing of
// its output, which then is estimated.
func UsageOf(message []byte) (model string, u Usage, reported bool) {
	var m Message
	if !json.Valid(message) {
		return "", m.Usage(), false
	}
	m.start(message)
	if m.usage.get("output_tokens") != nil {
		return m.Model(), m.Usage(), true
	}
	var o Output
	elements(m.fields.get("content"), func(block []byte) bool {
		o.block(block)
		return true
	})
	return m.Model(), m.Usage().WithOutput(o.Tokens()), false
}

func text(raw []byte) (string, bool) {
	var s string
	err := json.Unmarshal(raw, &s)
	return s, err == nil
}

// object is a JSON object that keeps the order of its keys and the bytes of its values.
type object []field

type field struct {
	key   string
	value []byte
}

func (o object) get(key string) []byte {
	for _, f := range o {
		if f.key == key {
			return f.value
		}
	}
	return nil
}

func (o *object) set(key string, value []byte) {
	for i, f := range *o {
		if f.key == key {
			(*o)[i].value = value
			return
		}
	}
	*o = append(*o, field{key, value})
}

// merge sets every member of the object in data. A null replaces nothing: message_delta says it of what it doesn't
// update, and the SDKs keep what they have.
func (o *object) merge(data []byte) {
	members(data, func(key, value []byte) bool {
		if string(value) == "null" && o.get(string(key)) != nil {
			return true
		}
		o.set(string(key), bytes.Clone(value))
		return true
	})
}

// copy sets one key from the object in data, if it has it.
func (o *object) copy(key string, data []byte) {
	if v := member(data, key); v != nil {
		o.set(key, bytes.Clone(v))
	}
}

func (o object) json() []byte {
	if o == nil {
		return []byte("null")
	}
	b := []byte{'{'}
	for i, f := range o {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), f.key...), `":`...)
		b = append(b, f.value...)
	}
	return append(b, '}')
}
