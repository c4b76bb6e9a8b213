package claude

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// quarters is what one event makes.
func quarters(kind Kind, data string) int64 {
	var o Output
	o.Add(kind, []byte(data))
	return o.quarters
}

func TestOutputIsEstimatedByWhatItIs(t *testing.T) {
	start := func(block string) string {
		return `{"type":"content_block_start","index":0,"content_block":` + block + `}`
	}
	seal := strings.Repeat("A", 400) // 300 bytes, of which 120 are thinking
	for _, c := range []struct {
		kind Kind
		data string
		want int64
	}{
		{BlockDelta, delta(0, `{"type":"text_delta","text":"abc"}`), 3},
		{BlockDelta, delta(12, `{"type":"text_delta","text":"a\"\n\u00e9"}`), 11}, // as it stands
		{BlockDelta, delta(0, `{"type":"text_delta","text":""}`), 0},
		{BlockDelta, delta(0, `{"type":"thinking_delta","thinking":"abcd"}`), 4},
		{BlockDelta, delta(0, `{"type":"thinking_delta","thinking":"abcd","estimated_tokens":3}`), 12},
		{BlockDelta, delta(0, `{"type":"thinking_delta","thinking":"","estimated_tokens":120}`), 480},
		{BlockDelta, delta(0, `{"type":"thinking_delta","thinking":"abcd","estimated_tokens":null}`), 4},
		{BlockDelta, delta(0, `{"type":"thinking_delta","thinking":"abcd","estimated_tokens":-9}`), 4},
		{BlockDelta, delta(0, `{"type":"thinking_delta","thinking":"abcd","estimated_tokens":1e9}`), 4},
		{BlockDelta, delta(0, `{"type":"input_json_delta","partial_json":"{\"a\""}`), 12},
		{BlockDelta, delta(0, `{"type":"signature_delta","signature":"abc"}`), 0},
		{BlockDelta, delta(0, `{"type":"signature_delta","signature":"`+seal+`"}`), 120},
		{BlockDelta, delta(0, `{"type":"citations_delta","citation":{"cited_text":"no output"}}`), 0},
		{BlockDelta, delta(0, `{"type":"compaction_delta","content":"abcde","encrypted_content":"xyz"}`), 5},
		{BlockDelta, delta(0, `{"type":"new_delta","text":"abc"}`), 0},
		{BlockDelta, `null`, 0}, {BlockDelta, ``, 0}, {BlockDelta, delta(0, `7`), 0},
		{BlockStart, start(`{"type":"text","text":""}`), 20},
		{BlockStart, start(`{"type":"text","text":"abc"}`), 23},
		{BlockStart, start(`{"type":"thinking","thinking":"","signature":""}`), 20},
		{BlockStart, start(`{"type":"thinking","thinking":"abc","signature":"` + seal + `"}`), 140},
		{BlockStart, start(`{"type":"redacted_thinking","data":"` + seal + `"}`), 140},
		{BlockStart, start(`{"type":"tool_use","id":"t","name":"f","input":{}}`), 120},
		{BlockStart, start(`{"type":"server_tool_use","id":"t","name":"f","input":{"a":1}}`), 130},
		{BlockStart, start(`{"type":"web_search_tool_result","content":[{"title":"read, not made"}]}`), 0},
		{BlockStart, start(`{"type":"fallback","from":{"model":"a"},"to":{"model":"b"}}`), 0},
		{BlockStart, start(`{"type":"compaction","content":null}`), 0},
		{BlockStart, start(`{"type":"compaction","content":"all of it"}`), 9},
		{BlockStart, start(`null`), 0}, {BlockStart, ``, 0},
		{MessageStart, begin, 0}, {BlockStop, blockEn, 0}, {MessageDelta, `{"usage":{"output_tokens":5}}`, 0}, {Other, delta(0, `{"type":"text_delta","text":"abc"}`), 0},
	} {
		if got := quarters(c.kind, c.data); got != c.want {
			t.Errorf("%s: %d, want %d", c.data, got, c.want)
		}
	}
	var o Output
	for i, want := range []int64{0, 1, 1, 1, 1, 2} {
		if o.Tokens() != want {
			t.Errorf("%d quarters are %d tokens", i, o.Tokens())
		}
		o.Add(BlockDelta, []byte(delta(0, `{"type":"text_delta","text":"a"}`)))
	}
}

// A signature has in it what was thought; only what was not shown counts by it.
func TestThinkingIsCountedOnceByItsTextOrItsSeal(t *testing.T) {
	seal := delta(0, `{"type":"signature_delta","signature":"`+strings.Repeat("A", 1200)+`"}`) // 720 bytes of thinking
	thought := func(events ...string) int64 {
		var o Output
		for _, e := range events {
			o.Add(names[string(typeField([]byte(e)))], []byte(e))
		}
		return o.quarters - blockQuarters
	}
	open := `{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}`
	for shown, want := range map[int]int64{0: 720, 300: 720, 720: 720, 900: 900} {
		if got := thought(open, delta(0, `{"type":"thinking_delta","thinking":"`+strings.Repeat("x", shown)+`"}`), seal); got != want {
			t.Errorf("%d bytes shown: %d, want %d", shown, got, want)
		}
	}
	if got := thought(open, delta(0, `{"type":"thinking_delta","thinking":"","estimated_tokens":170}`), seal); got != 720 {
		t.Errorf("told by steps: %d", got)
	}
	if got := thought(open, delta(0, `{"type":"thinking_delta","thinking":"`+strings.Repeat("x", 720)+`"}`), open, seal); got != 720+blockQuarters+720 {
		t.Errorf("two blocks: %d", got)
	}
}

// The quick way through a delta is the long one.
func TestDeltasAreMeteredAlikeHoweverTheyAreWritten(t *testing.T) {
	for _, inner := range []string{`"type":"text_delta","text":"%"`, `"type":"thinking_delta","thinking":"%"`, `"type":"input_json_delta","partial_json":"%"`} {
		for _, value := range []string{"", "a", `\"`, `\\`, `}}`, `\"}}`, `{\"a\":\"b\"}}`, strings.Repeat("word ", 1000)} {
			inner := strings.ReplaceAll(inner, "%", value)
			plain := `{"type":"content_block_delta","index":0,"delta":{` + inner + `}}`
			if _, key := plainDelta([]byte(plain)); key == "" {
				t.Errorf("%.100s is not taken the quick way", plain)
			}
			want := quarters(BlockDelta, ` `+plain) // which is
			for _, data := range []string{plain, `{"type":"content_block_delta","index":123,"delta":{` + inner + `}          }`, `{"type":"content_block_delta","index":0,"delta":{` + inner + `  } }  `,
				`{"index":0,"type":"content_block_delta","delta":{` + inner + `}}`, `{"type":"content_block_delta", "index":0,"delta":{` + inner + `}}`} {
				if got := quarters(BlockDelta, data); got != want || want == 0 && value != "" {
					t.Errorf("%.100s: %d, want %d", data, got, want)
				}
			}
		}
	}
}

// TestEstimatesOfOutputAreWithinTheirBound holds them to what was reported of each recorded answer, all of which was
// delivered.
func TestEstimatesOfOutputAreWithinTheirBound(t *testing.T) {
	tried := 0
	for _, x := range fixtures(t) {
		if !strings.Contains(x.name, "__") { // not recorded
			continue
		}
		var m Message
		var o Output
		final := false
		s := streamOf(strings.NewReader(string(x.plain)))
		for e, err := s.Next(); err == nil; e, err = s.Next() {
			m.Add(e.Kind, e.Data)
			o.Add(e.Kind, e.Data)
			final = final || e.Kind == MessageDelta
		}
		if !final {
			continue
		}
		tried++
		reported, got := m.Usage().Output, o.Tokens()
		t.Logf("%s: %d, reported %d (%.2f)", x.name, got, reported, float64(got)/float64(reported))
		if got < reported/2 || got > 2*reported {
			t.Errorf("%s: estimated %d, reported %d", x.name, got, reported)
		}
	}
	if tried < 9 {
		t.Errorf("%d recordings", tried)
	}
}

// TestEstimatesOfInputAreWithinTheirBound holds them to recorded requests, each with the input tokens that its answer
// reported.
func TestEstimatesOfInputAreWithinTheirBound(t *testing.T) {
	paths, _ := filepath.Glob("testdata/requests/*.json")
	if len(paths) < 7 {
		t.Fatalf("%d requests", len(paths))
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var x struct {
			Reported int64 `json:"input_tokens"`
			Request  json.RawMessage
		}
		if err := json.Unmarshal(text, &x); err != nil {
			t.Fatal(path, err)
		}
		got, cached := EstimateInput(x.Request)
		t.Logf("%s: %d, reported %d (%.2f)", path, got, x.Reported, float64(got)/float64(x.Reported))
		if got < x.Reported/2 || got > 2*x.Reported {
			t.Errorf("%s: estimated %d, reported %d", path, got, x.Reported)
		}
		if want := strings.Contains(path, "cache"); cached != want {
			t.Errorf("%s: cached is %v", path, cached)
		}
	}
}

func TestMediaIsNotCountedAsTheTextThatItIsWrittenAs(t *testing.T) {
	ask := func(content string) string {
		return `{"model":"m","max_tokens":5,"messages":[{"role":"user","content":` + content + `}]}`
	}
	base, _ := EstimateInput([]byte(ask(`[]`)))
	blob := strings.Repeat("iVBORw0KGgo+/A==", 1<<16) // 1 MB
	source := func(kind, media, data string) string {
		return `{"type":"` + kind + `","media_type":"` + media + `","data":"` + data + `"}`
	}
	for name, c := range map[string]struct {
		content string
		more    int64 // beside the tokens of what is around it
	}{
		"text":                        {`"` + strings.Repeat("word ", 800) + `"`, 1000},
		"an image":                    {`[{"type":"image","source":` + source("base64", "image/png", blob) + `}]`, imageTokens},
		"its keys in another order":   {`[{"source":{"data":"` + blob + `","media_type":"image/png","type":"base64"},"type":"image"}]`, imageTokens},
		"two images":                  {`[{"type":"image","source":` + source("base64", "image/png", blob) + `},{"type":"image","source":` + source("base64", "image/jpeg", blob) + `}]`, 2 * imageTokens},
		"one in a tool's result":      {`[{"type":"tool_result","content":[{"type":"image","source":` + source("base64", "image/webp", blob) + `}]}]`, imageTokens},
		"a PDF":                       {`[{"type":"document","source":` + source("base64", "application/pdf", blob) + `}]`, pageTokens + 786_432/pdfBytes},
		"a small PDF":                 {`[{"type":"document","source":` + source("base64", "application/pdf", "JVBERi0=") + `}]`, pageTokens},
		"a huge PDF":                  {`[{"type":"document","source":` + source("base64", "application/pdf", strings.Repeat(blob, 20)) + `}]`, pdfTokens},
		"a text document":             {`[{"type":"document","source":` + source("text", "text/plain", strings.Repeat("word ", 800)) + `}]`, 1000},
		"a document made of blocks":   {`[{"type":"document","source":{"type":"content","content":[{"type":"image","source":` + source("base64", "image/png", blob) + `}]}}]`, imageTokens},
		"earlier thinking":            {`[{"type":"thinking","thinking":"` + strings.Repeat("word ", 80) + `","signature":"` + strings.Repeat("A", 4000) + `"}]`, 100},
		"redacted thinking":           {`[{"type":"redacted_thinking","data":"` + strings.Repeat("A", 4000) + `"}]`, 0},
		"a URL":                       {`[{"type":"image","source":{"type":"url","url":"https://a.example/x.png"}}]`, imageTokens},
		"a file":                      {`[{"type":"document","source":{"type":"file","file_id":"file_1"}}]`, imageTokens},
		"text that looks like one":    {`"{\"source\":{\"type\":\"base64\",\"data\":\"` + strings.Repeat("A", 4000) + `\"}}"`, 1000},
		"base64 that is not a source": {`[{"type":"tool_use","input":{"type":"base64","data":"` + strings.Repeat("A", 4000) + `"}}]`, 1000},
		"white space":                 {"[" + strings.Repeat(" \n\t\r", 1<<16) + "]", 0},
	} {
		got, cached := EstimateInput([]byte(ask(c.content)))
		if around := got - base - c.more; around < 0 || around > 60 || cached {
			t.Errorf("%s: %d tokens, want %d and a little; cached %v", name, got-base, c.more, cached)
		}
	}
	for body, want := range map[string]bool{
		ask(`[{"type":"text","text":"x","cache_control":{"type":"ephemeral"}}]`): true, ask(`[{"type":"text","text":"x","cache_control":null}]`): false,
		`{"cache_control":{"type":"ephemeral"}}`: true, ask(`"\"cache_control\":{"`): false, `{"tools":[{"name":"f","cache_control":{"type":"ephemeral"}}]}`: true,
	} {
		if _, cached := EstimateInput([]byte(body)); cached != want {
			t.Errorf("%s: cached is %v", body, cached)
		}
	}
	with, _ := EstimateInput([]byte(`{"tools":[{"name":"f"}]}`))
	without, _ := EstimateInput([]byte(`{"tools":[]}`))
	if with-without < toolsTokens {
		t.Errorf("%d with a tool, %d without", with, without)
	}
}

// FuzzEstimateInput gives it what ParseParams would have refused, too.
func FuzzEstimateInput(f *testing.F) {
	for _, body := range []string{``, `{`, `{"a`, `{"a"`, `{"a":`, `{"a":[`, `{"a":"\\`, `{"source":{"type":"base64","data":"x"}}`, `{"a":[1,{"b":"\""}],"tools":[{}]}`, `{"source":{`, `[[[[`, `{"a":1 ,`, `{"":-}`} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		tokens, _ := EstimateInput(body)
		if p, err := ParseParams(body); err == nil && (tokens <= 0 || len(p.Models) == 0) {
			t.Fatalf("%q: %d tokens", body, tokens)
		}
	})
}

// What a request costs before it is let in, of the largest size.
func BenchmarkEstimateInputOf32MB(b *testing.B) {
	for name, content := range map[string]string{
		"an image":    `[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"` + strings.Repeat("A", 32_000_000) + `"}}]`,
		"text":        `"` + strings.Repeat(`a line of text, \"quoted\"\n`, 32_000_000/27) + `"`,
		"many blocks": `[` + strings.Repeat(`{"type":"text","text":"a word"},`, 1_000_000) + `{}]`,
	} {
		body := []byte(`{"messages":[{"role":"user","content":` + content + `}]}`)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if n, _ := EstimateInput(body); n == 0 {
					b.Fatal(n)
				}
			}
		})
	}
}

// A delta is looked at while it is relayed, where the owner has a limit for the day.
func BenchmarkMeterOneDelta(b *testing.B) {
	for name, space := range map[string]string{"as the API writes it": "", "otherwise": " "} {
		data := []byte(`{"type":"content_block_delta",` + space + `"index":0,"delta":{"type":"text_delta","text":"a word "}}`)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var o Output
			for b.Loop() {
				o.Add(BlockDelta, data)
			}
		})
	}
}
