package claude

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// told is a message to which these events were added.
func told(events ...string) *Message {
	m := new(Message)
	for _, data := range events {
		m.Add(names[string(typeField([]byte(data)))], []byte(data))
	}
	return m
}

const (
	begin   = `{"type":"message_start","message":{"id":"msg_1","model":"claude-x","content":[],"stop_reason":null,"usage":{"input_tokens":25,"cache_read_input_tokens":7,"output_tokens":1}}}`
	textBeg = `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`
	toolBeg = `{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"toolu_1","name":"f","input":{}}}`
	blockEn = `{"type":"content_block_stop","index":0}`
)

func delta(index int, inner string) string {
	return fmt.Sprintf(`{"type":"content_block_delta","index":%d,"delta":%s}`, index, inner)
}

func input(fragment string) string {
	text, _ := json.Marshal(fragment)
	return delta(0, `{"type":"input_json_delta","partial_json":`+string(text)+`}`)
}

// wantContent compares a message's content, byte for byte.
func wantContent(t *testing.T, m *Message, want string) {
	t.Helper()
	got := member(m.JSON(), "content")
	if !json.Valid(m.JSON()) || string(got) != want {
		t.Errorf("content\ngot  %s\nwant %s", got, want)
	}
}

func TestNothingIsNull(t *testing.T) {
	for _, m := range []*Message{told(), told(textBeg, blockEn), told(`{"type":"message_start","message":null}`), told(`{"type":"message_start"}`)} {
		if got := string(m.JSON()); got != "null" {
			t.Errorf("got %s", got)
		}
		if m.Model() != "" || m.Usage().Input != 0 || string(m.Usage().Raw) != "null" {
			t.Errorf("model %q, usage %+v", m.Model(), m.Usage())
		}
	}
}

func TestToolInputIsParsedWhenTheBlockStops(t *testing.T) {
	const open = `[{"type":"tool_use","id":"toolu_1","name":"f","input":{}}]`
	m := told(begin, toolBeg)
	for _, fragment := range []string{"", `{"city":"Ber`, `lin","n":12345678901234567890,`, `"f":1.0,"e":1E400,"z":-0}`} {
		m.Add(BlockDelta, []byte(input(fragment)))
		wantContent(t, m, open)
	}
	m.Add(BlockStop, []byte(blockEn))
	wantContent(t, m, `[{"type":"tool_use","id":"toolu_1","name":"f","input":{"city":"Berlin","n":12345678901234567890,"f":1.0,"e":1E400,"z":-0}}]`)

	wantContent(t, told(begin, toolBeg, input(""), blockEn), open)
	wantContent(t, told(begin, toolBeg, input(`{"a":`), blockEn), open) // cut by max_tokens
	wantContent(t, told(begin, toolBeg, blockEn), open)
	wantContent(t, told(begin, strings.Replace(toolBeg, "{}", `{"a":1}`, 1), blockEn), strings.Replace(open, "{}", `{"a":1}`, 1))
}

func TestContentOfTheFirstEventIsKept(t *testing.T) {
	m := told(`{"type":"message_start","message":{"content":[{"type":"tool_use","input":{"player":"player2"}}],"stop_reason":"tool_use"}}`, `{"type":"message_stop"}`)
	if got, want := string(m.JSON()), `{"content":[{"type":"tool_use","input":{"player":"player2"}}],"stop_reason":"tool_use"}`; got != want {
		t.Errorf("got %s", got)
	}
	m.Add(BlockStart, []byte(`{"type":"content_block_start","index":1,"content_block":{"type":"text","text":"a"}}`))
	m.Add(BlockDelta, []byte(delta(1, `{"type":"text_delta","text":"b"}`)))
	wantContent(t, m, `[{"type":"tool_use","input":{"player":"player2"}},{"type":"text","text":"ab"}]`)
}

func TestStringsGrowWithoutBeingDecoded(t *testing.T) {
	m := told(begin, textBeg,
		delta(0, `{"type":"text_delta","text":"\ud83d"}`), delta(0, `{"type":"text_delta","text":"\udc4b \u0000\/\n"}`),
		delta(0, "{\"type\":\"text_delta\",\"text\":\"\xf0\x9f\"}"), delta(0, "{\"type\":\"text_delta\",\"text\":\"\x91\x8b\"}"), delta(0, `{"type":"text_delta","text":""}`))
	wantContent(t, m, "[{\"type\":\"text\",\"text\":\"\\ud83d\\udc4b \\u0000\\/\\n\xf0\x9f\x91\x8b\"}]")
}

func TestCitationsArePushed(t *testing.T) {
	citation := func(n int) string {
		return delta(0, fmt.Sprintf(`{"type":"citations_delta","citation":{"type":"char_location","n":%d}}`, n))
	}
	for start, want := range map[string]string{
		`"text":""`:                       `[{"type":"text","text":"","citations":[{"type":"char_location","n":1},{"type":"char_location","n":2}]}]`,
		`"text":"","citations":[]`:        `[{"type":"text","text":"","citations":[{"type":"char_location","n":1},{"type":"char_location","n":2}]}]`,
		`"text":"","citations":null`:      `[{"type":"text","text":"","citations":[{"type":"char_location","n":1},{"type":"char_location","n":2}]}]`,
		`"text":"","citations":[ ]`:       `[{"type":"text","text":"","citations":[{"type":"char_location","n":1},{"type":"char_location","n":2}]}]`,
		`"text":"","citations":[{"n":0}]`: `[{"type":"text","text":"","citations":[{"n":0},{"type":"char_location","n":1},{"type":"char_location","n":2}]}]`,
	} {
		m := told(begin, strings.Replace(textBeg, `"text":""`, start, 1), citation(1), citation(2), delta(0, `{"type":"citations_delta"}`))
		wantContent(t, m, want)
	}
}

func TestSignatureAndCompactionAreAssigned(t *testing.T) {
	m := told(begin, `{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"a","signature":""}}`,
		delta(0, `{"type":"thinking_delta","thinking":"b","estimated_tokens":3}`), delta(0, `{"type":"signature_delta","signature":"S+/="}`), blockEn,
		`{"type":"content_block_start","index":1,"content_block":{"type":"compaction","content":null}}`,
		delta(1, `{"type":"compaction_delta","content":"all of it","encrypted_content":"x"}`))
	wantContent(t, m, `[{"type":"thinking","thinking":"ab","signature":"S+/="},{"type":"compaction","content":"all of it","encrypted_content":"x"}]`)
}

func TestInterleavedBlocksGrowByTheirIndex(t *testing.T) {
	m := told(begin, textBeg, `{"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}`,
		delta(0, `{"type":"text_delta","text":"a"}`), delta(1, `{"type":"text_delta","text":"b"}`), delta(0, `{"type":"text_delta","text":"a"}`),
		delta(2, `{"type":"text_delta","text":"lost"}`), delta(-1, `{"type":"text_delta","text":"lost"}`), blockEn)
	wantContent(t, m, `[{"type":"text","text":"aa"},{"type":"text","text":"b"}]`)
}

func TestUsageIsReplacedNeverAdded(t *testing.T) {
	m := told(begin,
		`{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":10}}`,
		`{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":15,"input_tokens":2509,"cache_creation_input_tokens":3,"iterations":[{"n":1.0}]}}`)
	if u := m.Usage(); u.Input != 2509 || u.Output != 15 || u.CacheRead != 7 || u.CacheWrite != 3 {
		t.Errorf("%+v", u)
	}
	want := `{"input_tokens":2509,"cache_read_input_tokens":7,"output_tokens":15,"cache_creation_input_tokens":3,"iterations":[{"n":1.0}]}`
	if got := string(m.Usage().Raw); got != want || string(member(m.JSON(), "usage")) != want {
		t.Errorf("%s", got)
	}
}

// The SDKs take over a field of message_delta only where it says something.
func TestNullInAMessageDeltaErasesNothing(t *testing.T) {
	m := told(strings.Replace(begin, `"stop_reason"`, `"container":{"id":"c"},"stop_reason"`, 1),
		`{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null,"container":null},"usage":{"output_tokens":15,"input_tokens":null,"cache_read_input_tokens":null}}`)
	if u := m.Usage(); u.Input != 25 || u.Output != 15 || u.CacheRead != 7 {
		t.Errorf("%+v", u)
	}
	if got := string(member(m.JSON(), "container")); got != `{"id":"c"}` {
		t.Errorf("container %s", got)
	}
	if got := string(member(m.JSON(), "stop_sequence")); got != "null" {
		t.Errorf("stop_sequence %q", got)
	}
}

func TestUsageWithoutNumbersCountsNothing(t *testing.T) {
	for _, usage := range []string{`null`, `{}`, `[]`, `7`, `{"output_tokens":-5}`, `{"output_tokens":"5"}`, `{"output_tokens":null}`, `{"output_tokens":99999999999999999999}`} {
		m := told(`{"type":"message_start","message":{"usage":`+usage+`}}`, `{"type":"message_delta","usage":`+usage+`}`, `{"type":"message_delta"}`)
		if u := m.Usage(); u.Input != 0 || u.Output != 0 {
			t.Errorf("%s: %+v", usage, u)
		}
		if !json.Valid(m.JSON()) {
			t.Errorf("%s: %s", usage, m.JSON())
		}
	}
}

func TestTheModelIsTheOneThatAnswers(t *testing.T) {
	fallback := func(to string) string {
		return `{"type":"content_block_start","index":0,"content_block":{"type":"fallback","from":{"model":"claude-x"},"to":` + to + `}}`
	}
	for to, want := range map[string]string{`{"model":"claude-y"}`: "claude-y", `{}`: "claude-x", `null`: "claude-x", `{"model":5}`: "claude-x"} {
		if got := told(begin, fallback(to)).Model(); got != want {
			t.Errorf("%s: %s, want %s", to, got, want)
		}
	}
}

func TestTheUsageOfAWholeMessageIsReadOrEstimated(t *testing.T) {
	model, u, reported := UsageOf([]byte(` {"model":"claude-x","content":[],"usage":{"input_tokens":3,"output_tokens":4,"cache_creation_input_tokens":5}} `))
	if model != "claude-x" || u.Input != 3 || u.Output != 4 || u.CacheWrite != 5 || !reported {
		t.Errorf("%s %+v", model, u)
	}
	model, u, reported = UsageOf([]byte(`{"model":"claude-x","content":[{"type":"text","text":"` + strings.Repeat("word ", 80) + `"},{"type":"tool_use","input":{"a":"b"}}],"usage":{"input_tokens":3}}`))
	if model != "claude-x" || u.Input != 3 || u.Output != 5+100+30+4 || reported || !bytes.Contains(u.Raw, []byte(`"output_tokens":139`)) {
		t.Errorf("%s %+v %s", model, u, u.Raw)
	}
	for _, message := range []string{`{"model":`, `[]`, `null`} {
		if model, u, reported := UsageOf([]byte(message)); model != "" || u.Output != 0 || reported {
			t.Errorf("%s: %s %+v", message, model, u)
		}
	}
}

// Anthropic's documentation, "Compaction" and "Refusals and fallback": the figures beside the iterations leave out
// compactions, and models that were left for another.
func TestIterationsAreWhatIsBilled(t *testing.T) {
	delta := func(usage string) string {
		return `{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":` + usage + `}`
	}
	for usage, want := range map[string]Usage{
		`{"output_tokens":8,"input_tokens":181,"iterations":[{"type":"compaction","input_tokens":100,"output_tokens":83,"cache_read_input_tokens":55096,"cache_creation_input_tokens":2},{"type":"message","input_tokens":181,"output_tokens":8}]}`: {Input: 281, Output: 91, CacheRead: 55096, CacheWrite: 2},
		`{"output_tokens":8,"iterations":[{"type":"fallback_message","input_tokens":30,"output_tokens":9},{"type":"message","input_tokens":25,"output_tokens":8,"cache_read_input_tokens":7}]}`:                                                     {Input: 55, Output: 17, CacheRead: 7},
		`{"output_tokens":8,"iterations":[]}`:                            {Input: 25, Output: 8, CacheRead: 7},
		`{"output_tokens":8,"iterations":null}`:                          {Input: 25, Output: 8, CacheRead: 7},
		`{"output_tokens":8,"iterations":[{"type":"message"}]}`:          {Input: 25, Output: 8, CacheRead: 7}, // says nothing
		`{"output_tokens":8,"iterations":[5,null,{"output_tokens":-1}]}`: {Input: 25, Output: 8, CacheRead: 7},
	} {
		u := told(begin, delta(usage), delta(usage)).Usage()
		u.Raw = nil
		if !reflect.DeepEqual(u, want) {
			t.Errorf("%s: %+v, want %+v", usage, u, want)
		}
	}
}

func TestWhatIsNoEventChangesNothing(t *testing.T) {
	m := told(begin, textBeg)
	before := string(m.JSON())
	for _, data := range []string{"", "{", "null", "[]", `{"index":0}`, delta(0, `{"type":"text_delta","text":5}`), delta(0, `{"type":"new_delta","text":"x"}`),
		delta(0, "null"), `{"index":"0","delta":{"type":"text_delta","text":"x"}}`, `{"index":1e0,"delta":{"type":"text_delta","text":"x"}}`} {
		m.Add(BlockDelta, []byte(data))
		m.Add(BlockStop, []byte(strings.Replace(data, `"index":0`, `"index":9`, 1)))
	}
	for _, kind := range []Kind{Other, MessageStop, Failure, Ping} {
		m.Add(kind, []byte(begin))
	}
	if got := string(m.JSON()); got != before {
		t.Errorf("%s\nbecame %s", before, got)
	}
}

func TestWholeFieldsOfAMessageDeltaAreTakenOver(t *testing.T) {
	m := told(begin, `{"type":"message_delta","delta":{"stop_reason":"refusal","stop_details":{"type":"refusal","n":1.0}},"context_management":{"applied_edits":[]},"usage":{}}`)
	for key, want := range map[string]string{"stop_reason": `"refusal"`, "stop_details": `{"type":"refusal","n":1.0}`, "context_management": `{"applied_edits":[]}`, "id": `"msg_1"`} {
		if got := string(member(m.JSON(), key)); got != want {
			t.Errorf("%s: %s, want %s", key, got, want)
		}
	}
}
