package relay

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"sluice/gateway/claude"
)

// event is one event of an upstream as a test wrote it, and what the test knows of it without decoding it.
type event struct {
	name, data string

	mergeKey string // block and type, of a delta that may be merged; empty: it may not
	open     string // how a merged frame of such deltas begins
	text     string // the raw bytes between the quotes
}

func (e event) kind() claude.Kind { return kinds[e.name] }

// wire is the event as the upstream writes it.
func (e event) wire() string {
	var b strings.Builder
	if e.name != "" {
		b.WriteString("event: " + e.name + "\n")
	}
	for line := range strings.SplitSeq(e.data, "\n") {
		b.WriteString("data: " + line + "\n")
	}
	b.WriteByte('\n')
	return b.String()
}

func wire(events ...event) string {
	var b strings.Builder
	for _, e := range events {
		b.WriteString(e.wire())
	}
	return b.String()
}

const model = "claude-test-1"

// The events of a plain answer.
func messageStart() event {
	return event{name: "message_start", data: `{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"` + model +
		`","content":[],"stop_reason":null,"usage":{"input_tokens":11,"cache_read_input_tokens":3,"cache_creation_input_tokens":5,"output_tokens":1}}}`}
}

func blockStart(index int, block string) event {
	return event{name: "content_block_start", data: fmt.Sprintf(`{"type":"content_block_start","index":%d,"content_block":%s}`, index, block)}
}

func textStart(index int) event { return blockStart(index, `{"type":"text","text":""}`) }

// deltaKeys has the string's key of each delta whose strings are appended.
var deltaKeys = map[string]string{"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}

// delta is one as the API writes it; text is raw, as between the quotes.
func delta(index int, kind, text, padding string) event {
	open := fmt.Sprintf(`{"type":"content_block_delta","index":%d,"delta":{"type":%q,%q:"`, index, kind, deltaKeys[kind])
	return event{name: "content_block_delta", data: open + text + `"}` + padding + `}`,
		mergeKey: fmt.Sprint(index, " ", kind), open: open, text: text}
}

func textDelta(text string) event { return delta(0, "text_delta", text, "") }

func blockStop(index int) event {
	return event{name: "content_block_stop", data: fmt.Sprintf(`{"type":"content_block_stop","index":%d}`, index)}
}

func messageDelta(output int) event {
	return event{name: "message_delta", data: fmt.Sprintf(`{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":%d}}`, output)}
}

func messageStop() event { return event{name: "message_stop", data: `{"type":"message_stop"}`} }

func overloaded() event {
	return event{name: "error", data: `{"type":"error","error":{"details":null,"type":"overloaded_error","message":"Overloaded"},"request_id":"req_x"}`}
}

// opening is an answer up to its first words, closing the rest of it.
func opening(texts ...string) []event {
	events := []event{messageStart(), textStart(0)}
	for _, text := range texts {
		events = append(events, textDelta(text))
	}
	return events
}

func closing() []event { return []event{blockStop(0), messageDelta(42), messageStop()} }

func answer(texts ...string) []event { return append(opening(texts...), closing()...) }

// fragments are strings as they stand between the quotes: escapes, halves of escaped pairs, line separators, framing.
var fragments = []string{
	"", "a", " word", "Hello, ", `\n`, `\"`, `\\`, `\\n`, `\/`, `\u0000`, `\u00e9`, `\ud83d`, `\ude00`, `\ud83d\ude00`, `\udfff`,
	"é", "中文", "😀", "\u2028", "\u0085", "\ufeff", "\u0301", "data: ", "id: 7", "event: error", `{\"type\":\"error\"}`, `\"}}`, "<script>", "\x7f",
}

// stray are events that pass as they are and must never be merged, although most look like something that is.
func stray(rng *rand.Rand, block int) event {
	raw := func(format string, args ...any) event {
		return event{name: "content_block_delta", data: fmt.Sprintf(format, args...)}
	}
	text := fragments[rng.IntN(len(fragments))]
	switch rng.IntN(18) {
	case 0:
		return raw(`{"type":"content_block_delta","index":%d,"delta":{"type":"signature_delta","signature":"c2ln%d"}}`, block, rng.IntN(100))
	case 1:
		return raw(`{"type":"content_block_delta","index":%d,"delta":{"type":"citations_delta","citation":{"type":"char_location","cited_text":"%s"}}}`, block, text)
	case 2:
		return raw(`{"type":"content_block_delta","index":%d,"delta":{"type":"compaction_delta","content":"%s"}}`, block, text)
	case 3:
		return raw(`{"type":"content_block_delta","index":%d,"delta":{"type":"future_delta","text":"%s"}}`, block, text)
	case 4:
		return raw(`{"type":"content_block_delta","index":%d,"delta":{"type":"text_delta","text":"%s","logprob":-0.50}}`, block, text)
	case 5:
		return raw(`{"type":"content_block_delta","index":%d,"delta":{"type":"thinking_delta","thinking":"%s","estimated_tokens":3}}`, block, text)
	case 6:
		return raw(`{"type":"content_block_delta","index":%d,"delta":{"type":"text_delta","text":"%s"},"trace":1}`, block, text)
	case 7:
		return raw(`{"type":"content_block_delta","index":%d,"delta":{"type":"text_delta","thinking":"%s"}}`, block, text)
	case 8:
		return raw("{\"type\":\"content_block_delta\",\"index\":%d,\"delta\":{\"type\":\"text_delta\",\"text\":\"\xff\xf0\x9f%s\"}}", block, text)
	case 9:
		return raw("{\"type\":\"content_block_delta\",\n\"index\":%d,\n\n\"delta\":\ndata: \n{\"type\":\"text_delta\",\"text\":\"%s\"}}\n", block, text)
	case 10:
		return raw("{\"type\":\"content_block_delta\",\n\"index\":%d,\"delta\":{\"type\":\"text_delta\",\"text\":\"%s\"}}", block, text)
	case 11:
		return raw(`{"type":"content_block_delta","index":%d,"delta":{"type":"text_delta","text":"%s`, block, text)
	case 12:
		return raw(`{"type":"content_block_delta","index":-%d,"delta":{"type":"text_delta","text":"%s"}}`, block+1, text)
	case 13:
		return raw(`{"type":"content_block_delta","index":%d,"delta":{"type":"text_delta","text":null}}`, block)
	case 14:
		return event{name: "future_event", data: `{"type":"future_event","float":1.50,"big":123456789012345678901234567890}`}
	case 15:
		return event{data: `{"note":"an event without a name"}`}
	case 16:
		return event{name: "future_event", data: ""}
	default:
		return event{name: "content_block_delta", data: ""}
	}
}

// Sizes at which a log begins another piece of memory, and at which a batch is full.
const (
	shortText = 2 << 10
	longText  = 64 << 10
)

// randomAnswer is a message of several blocks, interleaved now and then, with runs of deltas, strays between them, and
// texts around the sizes at which segments and batches are cut.
func randomAnswer(rng *rand.Rand, size int) []event {
	events := []event{messageStart()}
	starts := []string{`{"type":"text","text":""}`, `{"type":"thinking","thinking":"","signature":""}`, `{"type":"tool_use","id":"toolu_1","name":"f","input":{}}`}
	types := []string{"text_delta", "thinking_delta", "input_json_delta"}
	var of []string // the delta type of each block
	for len(events) < size {
		if len(of) == 0 || rng.IntN(12) == 0 {
			if len(of) > 0 && rng.IntN(3) > 0 {
				events = append(events, blockStop(len(of)-1))
			}
			kind := rng.IntN(len(starts))
			events = append(events, blockStart(len(of), starts[kind]))
			of = append(of, types[kind])
		}
		block := len(of) - 1
		if rng.IntN(8) == 0 {
			block = rng.IntN(len(of))
		}
		if rng.IntN(5) == 0 {
			events = append(events, stray(rng, block))
			continue
		}
		kind := of[block]
		if rng.IntN(15) == 0 {
			kind = types[rng.IntN(len(types))]
		}
		for range rng.IntN(12) {
			text := fragments[rng.IntN(len(fragments))]
			switch rng.IntN(500) {
			case 0:
				text = strings.Repeat("x", longText-rng.IntN(300))
			case 1:
				text = strings.Repeat("é", longText/2+rng.IntN(longText))
			case 2, 3, 4, 5, 6, 7, 8, 9:
				text = strings.Repeat("y", shortText-rng.IntN(300))
			}
			events = append(events, delta(block, kind, text, strings.Repeat(" ", rng.IntN(16))))
		}
	}
	switch rng.IntN(4) {
	case 0:
		return append(events, overloaded())
	default:
		return append(events, messageDelta(size), messageStop())
	}
}
