package claude

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"strings"
	"testing"
)

func TestParamsAreRead(t *testing.T) {
	for body, want := range map[string]Params{
		`{"model":"claude-x","stream":true,"max_tokens":5}`: {Model: "claude-x", Stream: true, MaxTokens: 5},
		`{}`: {MaxTokens: -1},
		" \r\n\t{ \"max_tokens\" : 0 , \"stream\" : false , \"model\" : \"a\\u0062\\\"\" } \n":                        {Model: `ab"`},
		`{"messages":[{"model":"x","stream":true}],"model":"y","tools":[{"stream":{"stream":true}}],"system":"\"}{"}`: {Model: "y", MaxTokens: -1},
		`{"Model":"x","STREAM":true,"max_tokens ":5}`:                                                                 {MaxTokens: -1},
		`{"metadata":1,"metadata":2,"model":""}`:                                                                      {MaxTokens: -1},
		`{"max_tokens":9223372036854775807}`:                                                                          {MaxTokens: 9223372036854775807},
		`{"x":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `,"model":"deep"}`:                          {Model: "deep", MaxTokens: -1},
	} {
		want.Models = []string{want.Model}
		if got, err := ParseParams([]byte(body)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%.100s: %+v %v, want %+v", body, got, err, want)
		}
	}
}

func TestAllModelsThatARequestNamesAreRead(t *testing.T) {
	for rest, want := range map[string]Params{
		`"fallbacks":[{"model":"b"},{"model":"c","max_tokens":50}]`:                       {Models: []string{"b", "c"}, MaxTokens: 50},
		`"fallbacks": [ {"thinking":{"model":"no"},"model" : "b" , "max_tokens":null} ] `: {Models: []string{"b"}, MaxTokens: 10},
		`"fallbacks":[{"model":"b","max_tokens":3}]`:                                      {Models: []string{"b"}, MaxTokens: 10},
		`"fallbacks":"default"`:                    {Models: []string{"default"}, MaxTokens: 10},
		`"fallbacks":null`:                         {MaxTokens: 10},
		`"fallbacks":[]`:                           {MaxTokens: 10},
		`"fallbacks":[7,"b",null,[{"model":"x"}]]`: {MaxTokens: 10}, // the upstream's to refuse
		`"tools":[{"name":"f","input_schema":{"model":"x"}},{"type":"advisor_20260301","model":"b"}]`:   {Models: []string{"b"}, MaxTokens: 10},
		`"tools":[{"type":"advisor_20260301","model":"b","max_tokens":99}],"fallbacks":[{"model":"c"}]`: {Models: []string{"c", "b"}, MaxTokens: 99},
		`"tools":[{"name":"f","max_tokens":99}]`:                                                        {MaxTokens: 10},
		`"messages":[{"fallbacks":[{"model":"x"}]}]`:                                                    {MaxTokens: 10},
	} {
		want.Model, want.Models = "a", append([]string{"a"}, want.Models...)
		got, err := ParseParams([]byte(`{"model":"a","max_tokens":10,` + rest + `}`))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v %v, want %+v", rest, got, err, want)
		}
	}
}

func TestRequestsThatCouldMeanTwoThingsAreRefused(t *testing.T) {
	for _, body := range []string{
		"", " ", "{", "}", "[]", "null", "true", "5", `"x"`, "garbage", "{}{}", "{} x", `{"a":1,}`, `{'a':1}`, "\xef\xbb\xbf{}", "{\"a\":\"\n\"}", `{"a":01}`, `{"model"}`,
		`{"model":null}`, `{"model":5}`, `{"model":["x"]}`, `{"model":{}}`,
		`{"stream":null}`, `{"stream":"true"}`, `{"stream":1}`, `{"stream":[true]}`, `{"stream":{}}`,
		`{"max_tokens":null}`, `{"max_tokens":-1}`, `{"max_tokens":1.0}`, `{"max_tokens":1e3}`, `{"max_tokens":"5"}`, `{"max_tokens":9223372036854775808}`, `{"max_tokens":[5]}`,
		`{"model":"a","model":"a"}`, `{"model":"a","model":"b"}`, `{"stream":true,"x":1,"stream":true}`, `{"stream":false,"stream":true}`, `{"max_tokens":1,"max_tokens":2}`,
		`{"str\u0065am":true}`, `{"stream":false,"str\u0065am":true}`, `{"mod\u0065l":"a"}`, `{"\u006d":1}`, `{"a\/b":1,"model":"x"}`,
		`{"fallbacks":[],"fallbacks":[{"model":"b"}]}`, `{"tools":[],"tools":[]}`, `{"fallb\u0061cks":[{"model":"b"}]}`,
		`{"fallbacks":[{"model":"a","model":"b"}]}`, `{"fallbacks":[{"mod\u0065l":"b"}]}`, `{"fallbacks":[{"model":5}]}`, `{"fallbacks":[{"model":null}]}`, `{"fallbacks":[{"model":"b"},{"model":"c","max_tokens":"5"}]}`,
		`{"fallbacks":[{"model":"b","max_tokens":1,"max_tokens":2}]}`, `{"tools":[{"name":"f"},{"model":"a","model":"b"}]}`, `{"tools":[{"\u006dodel":"b"}]}`,
		strings.Repeat("[", 20_000), `{"x":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + "}",
	} {
		_, err := ParseParams([]byte(body))
		if err == nil {
			t.Errorf("%.100s is accepted", body)
			continue
		}
		if e := asError(t, err, InvalidRequest, 400); e.Message == "" || len(e.Message) > 300 {
			t.Errorf("%.100s: %s", body, e.Message)
		}
	}
}

func TestStreamIsSetAndNothingElseTouched(t *testing.T) {
	for body, want := range map[string]string{
		`{}`:                                 `{"stream":true}`,
		" { } ":                              ` {"stream":true } `,
		`{"model":"x"}`:                      `{"stream":true,"model":"x"}`,
		"\n{\n  \"model\": \"x\"\n}\n":       "\n{\"stream\":true,\n  \"model\": \"x\"\n}\n",
		`{"stream":true}`:                    `{"stream":true}`,
		`{"stream":false}`:                   `{"stream":true}`,
		`{"a":1, "stream" : false ,"b":2.0}`: `{"a":1, "stream" : true ,"b":2.0}`,
		`{"messages":[{"stream":false}]}`:    `{"stream":true,"messages":[{"stream":false}]}`,
		`{"messages":[{"stream":false}],"stream":false}`: `{"messages":[{"stream":false}],"stream":true}`,
		`{"x":"\"stream\":false","n":1e400}`:             `{"stream":true,"x":"\"stream\":false","n":1e400}`,
	} {
		given := append(make([]byte, 0, 2*len(body)), body...) // room behind it, that nobody may use
		if got := string(Streaming(given)); got != want {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
		if string(given) != body {
			t.Errorf("%s was changed to %s", body, given)
		}
		part := append([]byte("before"), body+"after"...)[6 : 6+len(body)]
		if got := string(Streaming(part)); got != want {
			t.Errorf("%s inside a larger buffer: %s", body, got)
		}
	}
}

// checkStreaming holds a request that was accepted to what Streaming promises.
func checkStreaming(t *testing.T, body []byte) {
	t.Helper()
	before := bytes.Clone(body)
	p, err := ParseParams(body)
	if err != nil {
		if e, ok := err.(*Error); !ok || e.Status != 400 {
			t.Fatalf("%q: %v", body, err)
		}
		return
	}
	got := Streaming(body)
	if !bytes.Equal(body, before) {
		t.Fatalf("%q was changed to %q", before, body)
	}
	q, err := ParseParams(got)
	if err != nil || !q.Stream || q.Model != p.Model || q.MaxTokens != p.MaxTokens {
		t.Fatalf("%q became %q: %+v %v", body, got, q, err)
	}
	var was, is map[string]json.RawMessage
	if json.Unmarshal(body, &was) != nil || json.Unmarshal(got, &is) != nil || string(is["stream"]) != "true" {
		t.Fatalf("%q became %q", body, got)
	}
	old, had := was["stream"]
	delete(was, "stream")
	delete(is, "stream")
	if !maps.EqualFunc(was, is, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) }) {
		t.Fatalf("%q became %q", body, got)
	}
	// Byte for byte: what was cut out or put in is one piece.
	switch {
	case !had:
		if i := bytes.IndexByte(got, '{') + 1; !bytes.HasPrefix(got[i:], []byte(`"stream":true`)) || string(got[:i])+strings.TrimPrefix(string(got[i+len(`"stream":true`):]), ",") != string(body) {
			t.Fatalf("%q became %q", body, got)
		}
	case string(old) == "true":
		if !bytes.Equal(got, body) {
			t.Fatalf("%q became %q", body, got)
		}
	default:
		if i := len(commonPrefix(body, got)); string(body[:i])+"true"+string(body[i+len("false"):]) != string(got) {
			t.Fatalf("%q became %q", body, got)
		}
	}
}

func commonPrefix(a, b []byte) []byte {
	i := 0
	for i < min(len(a), len(b)) && a[i] == b[i] {
		i++
	}
	return a[:i]
}

func FuzzStreaming(f *testing.F) {
	for _, body := range []string{
		`{}`, `{"model":"x"}`, ` { "a" : [ { "stream" : false } ] , "stream" : false , "max_tokens" : 5 } `, `{"stream":true}`, `{"str\u0065am":true}`, `{"stream":false,"stream":true}`, `[]`, `{"a":"\"}"}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(checkStreaming)
}
