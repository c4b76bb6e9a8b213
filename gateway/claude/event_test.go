package claude

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func TestKnownDeltasMayBeMerged(t *testing.T) {
	for _, c := range []struct{ data, kind, index, value string }{
		{`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hel"}}`, "text_delta", "0", "Hel"},
		{`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":""}            }`, "text_delta", "0", ""},
		{`{"type":"content_block_delta","index":12,"delta":{"type":"thinking_delta","thinking":"\u00e9\n\"\\"}}`, "thinking_delta", "12", `\u00e9\n\"\\`},
		{`{"type":"content_block_delta","index":999999999,"delta":{"type":"input_json_delta","partial_json":"{\"a\":"}}`, "input_json_delta", "999999999", `{\"a\":`},
		{"{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"\xf0\x9f\x91\x8b\u2028\x7f}]\"}}", "text_delta", "0", "\xf0\x9f\x91\x8b\u2028\x7f}]"},
		{`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\ud83d"}}`, "text_delta", "0", `\ud83d`},
		{" { \"delta\" : {\t\"text\" : \"a\" ,\r\n \"type\" : \"text_delta\" } , \"index\" : 3 , \"type\" : \"content_block_delta\" } \n", "text_delta", "3", "a"},
	} {
		d, ok := ParseDelta([]byte(c.data))
		if !ok || d.Type != c.kind || string(d.Index) != c.index || string(d.Value) != c.value {
			t.Errorf("%s: %v %s %s %q", c.data, ok, d.Type, d.Index, d.Value)
		}
	}
}

func TestWhatWouldLoseSomethingMayNotBeMerged(t *testing.T) {
	text := func(inner string) string { return `{"type":"content_block_delta","index":0,"delta":` + inner + `}` }
	index := func(i string) string {
		return `{"type":"content_block_delta","index":` + i + `,"delta":{"type":"text_delta","text":"a"}}`
	}
	bad := []string{
		"", "null", "[]", "{}", `"text_delta"`, index("0") + "x", index("0") + index("0"), index("0")[1:], strings.TrimSuffix(index("0"), "}"), "\xef\xbb\xbf" + index("0"),
		// Other deltas.
		text(`{"type":"signature_delta","signature":"a"}`), text(`{"type":"citations_delta","citation":{}}`), text(`{"type":"compaction_delta","content":"a"}`),
		text(`{"type":"new_delta","text":"a"}`), text(`{"type":"text_delta","thinking":"a"}`), text(`{"type":"thinking_delta","text":"a"}`),
		text(`{"type":"input_json_delta","text":"a"}`), text(`{"type":"Text_delta","text":"a"}`),
		// Other, missing, repeated or escaped keys.
		text(`{"type":"thinking_delta","thinking":"a","estimated_tokens":null}`), text(`{"type":"text_delta"}`), text(`{"text":"a"}`), text(`{}`), text(`null`), text(`"a"`), text(`[]`),
		text(`{"type":"text_delta","text":"a","text":"b"}`), text(`{"type":"text_delta","type":"text_delta","text":"a"}`), text(`{"type":"text_delta","type":"text_delta"}`), text(`{"text":"a","text":"b"}`),
		text(`{"type":"text_delta","Text":"a"}`), text(`{"type":"text_delta","te\u0078t":"a"}`), text(`{"type":"text\u005fdelta","text":"a"}`),
		`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"},"parent":"x"}`, `{"type":"content_block_delta","delta":{"type":"text_delta","text":"a"}}`,
		`{"type":"content_block_delta","index":0,"index":0,"delta":{"type":"text_delta","text":"a"}}`, `{"type":"content_block_delta","index":0,"index":1}`, `{"type":"content_block_delta","index":0,"delta":{},"delta":{"type":"text_delta","text":"a"}}`,
		`{"type":"content_block_start","index":0,"delta":{"type":"text_delta","text":"a"}}`, `{"type":"content\u005fblock_delta","index":0,"delta":{"type":"text_delta","text":"a"}}`,
		// Values that are no strings, or no JSON at all.
		text(`{"type":"text_delta","text":null}`), text(`{"type":"text_delta","text":1}`), text(`{"type":"text_delta","text":["a"]}`), text(`{"type":["text_delta"],"text":"a"}`),
		text(`{"type":[text_delta],"text":"a"}`), text(`{"type":{text_delta},"text":"a"}`), text(`{"type":xtext_deltax,"text":"a"}`), text(`{"type":'text_delta',"text":"a"}`),
		text(`{"type":"text_delta","text":'a'}`), text(`{"type":"text_delta","text":"a",}`), text(`{"type":"text_delta" "text":"a"}`), text(`{"type":"text_delta","text":"a"`), text(`{"type":"text_delta","text":"a"]`),
		// Strings that are none.
		text(`{"type":"text_delta","text":"\x41"}`), text(`{"type":"text_delta","text":"\u12"}`), text(`{"type":"text_delta","text":"\u12g4"}`), text(`{"type":"text_delta","text":"\"}`),
		text("{\"type\":\"text_delta\",\"text\":\"a\nb\"}"), text("{\"type\":\"text_delta\",\"text\":\"a\tb\"}"), text("{\"type\":\"text_delta\",\"text\":\"a\x00b\"}"),
		text("{\"type\":\"text_delta\",\"text\":\"\xf0\x9f\"}"), text("{\"type\":\"text_delta\",\"text\":\"\xff\"}"), text("{\"type\":\"text_delta\",\"text\":\"\xc0\xaf\"}"), text("{\"type\":\"text_delta\",\"text\":\"\xed\xa0\xbd\"}"),
	}
	for _, i := range []string{"01", "00", "1.0", "1e0", "-1", "-0", "+1", "0x1", `"0"`, "null", "true", "[0]", "{}", "", "9999999999", "1 2"} {
		bad = append(bad, index(i))
	}
	for _, data := range bad {
		if d, ok := ParseDelta([]byte(data)); ok {
			t.Errorf("%s may not be merged, and is %s %q", data, d.Type, d.Value)
		}
	}
}

func TestOnlyOneKindInOneBlockMerges(t *testing.T) {
	d := Delta{Type: "text_delta", Index: []byte("1")}
	for e, want := range map[*Delta]bool{
		{Type: "text_delta", Index: []byte("1"), Value: []byte("x")}: true,
		{Type: "text_delta", Index: []byte("2")}:                     false,
		{Type: "text_delta", Index: []byte("11")}:                    false,
		{Type: "thinking_delta", Index: []byte("1")}:                 false,
	} {
		if got := d.Merges(*e); got != want {
			t.Errorf("%+v: %v", e, got)
		}
	}
}

// merged is the data that a relay writes for a run of deltas.
func merged(d Delta, values ...[]byte) []byte {
	b := d.Open(nil)
	for _, v := range values {
		b = append(b, v...)
	}
	return append(b, Close...)
}

// checkMerge holds a delta that was accepted to what merging needs.
func checkMerge(t *testing.T, data []byte) {
	t.Helper()
	d, ok := ParseDelta(data)
	if !ok {
		return
	}
	if !json.Valid(data) {
		t.Fatalf("accepted, but no JSON: %q", data)
	}
	twice := append(bytes.Clone(d.Value), d.Value...)
	m := merged(d, d.Value, d.Value)
	again, ok := ParseDelta(m)
	if !ok || !d.Merges(again) || !bytes.Equal(again.Value, twice) || !json.Valid(m) {
		t.Fatalf("%q became %q", data, m)
	}
	var before, after struct {
		Type  string
		Index int
		Delta map[string]string
	}
	if err := json.Unmarshal(data, &before); err != nil {
		t.Fatalf("%q: %v", data, err)
	}
	if err := json.Unmarshal(merged(d, d.Value), &after); err != nil {
		t.Fatal(err)
	}
	if before.Type != after.Type || before.Index != after.Index || len(after.Delta) != 2 || len(before.Delta) != 2 {
		t.Fatalf("%q became %q", data, merged(d, d.Value))
	}
	for key, value := range before.Delta {
		if after.Delta[key] != value {
			t.Fatalf("%s was %q, is %q", key, value, after.Delta[key])
		}
	}
}

func TestRunsOfFixturesMergeToWhatTheyWere(t *testing.T) {
	for _, f := range fixtures(t) {
		var run []Delta
		flush := func() {
			if len(run) == 0 {
				return
			}
			var whole []byte
			var values [][]byte
			for _, d := range run {
				whole, values = append(whole, d.Value...), append(values, d.Value)
			}
			d, ok := ParseDelta(merged(run[0], values...))
			if !ok || !d.Merges(run[0]) || !bytes.Equal(d.Value, whole) {
				t.Errorf("%s: a run of %d became %q", f.name, len(run), d.Value)
			}
			run = nil
		}
		for _, e := range reference(f.plain) {
			checkMerge(t, []byte(e.data))
			d, ok := ParseDelta([]byte(e.data))
			if !ok || len(run) > 0 && !run[0].Merges(d) {
				flush()
			}
			if ok {
				run = append(run, d)
			}
		}
		flush()
	}
}

// A run of text deltas, merged, must be the same to an accumulator.
func TestMergedDeltasMakeTheSameMessage(t *testing.T) {
	for _, f := range fixtures(t) {
		if outcomes[f.name].how != complete {
			continue
		}
		want, events := accumulate(t, f.wire)
		var got Message
		for i := 0; i < len(events); i++ {
			data := []byte(events[i].data)
			if d, ok := ParseDelta(data); ok && names[events[i].name] == BlockDelta {
				values := [][]byte{d.Value}
				for i+1 < len(events) && names[events[i+1].name] == BlockDelta {
					next, ok := ParseDelta([]byte(events[i+1].data))
					if !ok || !d.Merges(next) {
						break
					}
					values = append(values, next.Value)
					i++
				}
				data = merged(d, values...)
			}
			got.Add(names[events[i].name], data)
		}
		if !bytes.Equal(got.JSON(), want.JSON()) {
			t.Errorf("%s:\ngot  %s\nwant %s", f.name, got.JSON(), want.JSON())
		}
	}
}

func FuzzParseDelta(f *testing.F) {
	for _, data := range []string{
		`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hel"}}`,
		`{"type":"content_block_delta","index":10,"delta":{"thinking":"\u00e9\n\"\\","type":"thinking_delta"}    }`,
		`{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{\"a\":"}}`,
		`{"type":"content_block_delta","index":0,"delta":{"type":[text_delta],"text":"a"}}`,
	} {
		f.Add([]byte(data))
	}
	f.Fuzz(checkMerge)
}
