package claude

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

const twoItems = ` { "note" : {"requests":[1]} ,"requests" : [ {"custom_id":"a","params":{"model":"claude-a","max_tokens":5,"system":"\"]}, {\\"}},
	{"params":{"model":"claude-b","fallbacks":[{"model":"claude-c"}],"messages":[[[]]]},"custom_id":"b"}
	] , "n":-1.5e3 } ` + "\n"

func passed() error { return nil }

func TestBatchIsCopiedUntouchedAtAnySplit(t *testing.T) {
	for name, r := range map[string]io.Reader{
		"whole":        strings.NewReader(twoItems),
		"byte by byte": iotest.OneByteReader(strings.NewReader(twoItems)),
		"end and data": iotest.DataErrReader(strings.NewReader(twoItems)),
	} {
		var out bytes.Buffer
		var items []string
		err := CopyBatch(&out, r, func(i BatchItem) error {
			items = append(items, fmt.Sprint(i.CustomID, i.Models, i.MaxTokens, len(i.Raw)))
			if !json.Valid(i.Params) || !bytes.Contains(i.Raw, i.Params) {
				t.Errorf("%s: params %q", name, i.Params)
			}
			return nil
		}, func() error {
			items = append(items, "whole")
			return nil
		})
		if err != nil || out.String() != twoItems {
			t.Errorf("%s: %v\n%s", name, err, out.String())
		}
		if want := []string{"a[claude-a] 5 83", "b[claude-b claude-c] 0 100", "whole"}; !slices.Equal(items, want) {
			t.Errorf("%s: %q", name, items)
		}
	}
}

func TestItemGoesOnOnlyAfterItsCheck(t *testing.T) {
	var out bytes.Buffer
	refusal := errors.New("not in the plan")
	seen := 0
	err := CopyBatch(&out, strings.NewReader(twoItems), func(i BatchItem) error {
		if bytes.Contains(out.Bytes(), i.Raw[:20]) {
			t.Errorf("%s was handed on before it was checked", i.CustomID)
		}
		if seen++; seen == 2 {
			if !strings.Contains(out.String(), `"custom_id":"a"`) {
				t.Error("the first item is held though it was checked")
			}
			return refusal
		}
		return nil
	}, passed)
	if err != refusal || json.Valid(out.Bytes()) || strings.Contains(out.String(), "claude-b") {
		t.Errorf("%v; handed on: %s", err, out.String())
	}
}

func TestBodyThatIsNoBatchIsRefused(t *testing.T) {
	item := func(params string) string { return `{"requests":[{"custom_id":"a","params":` + params + `}]}` }
	for body, want := range map[string]string{
		"":                                "not valid JSON",
		"[]":                              "not valid JSON",
		`{"requests":[{]}`:                "not valid JSON",
		`{"requests":[nope]}`:             "not valid JSON",
		`{"requests":[]`:                  "not valid JSON",
		`{"requests":[]]`:                 "not valid JSON",
		`{"requests":[],}`:                "not valid JSON",
		`{"requests":[]}{}`:               "not valid JSON",
		`{"a":nope,"requests":[]}`:        "not valid JSON",
		`{"a":[}],"requests":[]}`:         "not valid JSON",
		"\ufeff" + item(`{"model":"a"}`):  "not valid JSON",
		item(`1`):                         "requests.0.params: Input should be an object with plain keys",
		item(`{"model":"a","model":"b"}`): "requests.0.params.model: is given twice",
		item(`{"m\u006fdel":"a"}`):        "requests.0.params: Input should be an object with plain keys",
		item(`{"max_tokens":"7"}`):        "requests.0.params.max_tokens: Input should be a valid integer",
		item(`{"max_tokens":1e99}`):       "requests.0.params.max_tokens: Input should be a valid integer",
		`{"requests":[{"params":{},"params":{}}]}`:    "requests.0.params: is given twice",
		`{"requests":[{"params":{}},{}]}`:             "requests.1.params: Input should be an object with plain keys",
		`{"requests":[{"params":{}}],"requests":[7]}`: "requests.1: Input should be an object with plain keys",
	} {
		var out bytes.Buffer
		e := asError(t, CopyBatch(&out, strings.NewReader(body), func(BatchItem) error { return nil }, passed), InvalidRequest, 400)
		if !strings.Contains(e.Message, want) {
			t.Errorf("%s: %q, want %q", body, e.Message, want)
		}
		if out.Len() > 0 && json.Valid(out.Bytes()) {
			t.Errorf("%s: handed on whole", body)
		}
	}
}

func TestItemThatIsTooLargeIsRefused(t *testing.T) {
	body := io.MultiReader(strings.NewReader(`{"requests":[{"custom_id":"`), strings.NewReader(strings.Repeat("a", maxItem+1)))
	asError(t, CopyBatch(io.Discard, body, func(BatchItem) error { return nil }, passed), TooLarge, 413)
}

func TestReadersAndWritersErrorsAreTold(t *testing.T) {
	broken := errors.New("broken")
	if err := CopyBatch(io.Discard, io.MultiReader(strings.NewReader(twoItems[:80]), iotest.ErrReader(broken)), func(BatchItem) error { return nil }, passed); err != broken {
		t.Errorf("reader: %v", err)
	}
	r, w := io.Pipe()
	r.CloseWithError(broken)
	if err := CopyBatch(w, strings.NewReader(twoItems), func(BatchItem) error { return nil }, passed); err != broken {
		t.Errorf("writer: %v", err)
	}
}

func TestEndOfABatchGoesOnOnlyAfterAllHavePassed(t *testing.T) {
	var out bytes.Buffer
	refusal := errors.New("too many")
	seen := 0
	err := CopyBatch(&out, strings.NewReader(twoItems), func(BatchItem) error { seen++; return nil }, func() error {
		if seen != 2 {
			t.Errorf("asked after %d items", seen)
		}
		return refusal
	})
	if err != refusal || json.Valid(out.Bytes()) || strings.Contains(out.String(), "claude-b") {
		t.Errorf("%v; handed on: %s", err, out.String())
	}
	for _, body := range []string{twoItems[:len(twoItems)-5], twoItems + "x"} {
		if err := CopyBatch(io.Discard, strings.NewReader(body), func(BatchItem) error { return nil }, func() error { return refusal }); err == nil || err == refusal {
			t.Errorf("%v: asked of what is no batch", err)
		}
	}
}

// FuzzWhatIsHandedOnWasChecked: nothing that a decoder finds in the body has passed the check by.
func FuzzWhatIsHandedOnWasChecked(f *testing.F) {
	f.Add(twoItems)
	f.Add(`{"requests":[{"custom_id":"a","params":{"model":"m","max_tokens":1}}]}`)
	f.Add(`{"requests":[{"params":{"Model":"x"}}],"\u0072equests":[{"params":{"model":"y"}}]}`)
	f.Fuzz(func(t *testing.T, body string) {
		var out bytes.Buffer
		checked := map[string]bool{}
		err := CopyBatch(&out, strings.NewReader(body), func(i BatchItem) error {
			for _, m := range i.Models {
				checked[m] = true
			}
			EstimateInput(i.Params) // whatever it is
			return nil
		}, passed)
		if err != nil {
			if out.Len() > 0 && json.Valid(out.Bytes()) {
				t.Errorf("refused (%v), but handed on whole: %q", err, out.String())
			}
			return
		}
		if out.String() != body || !json.Valid(out.Bytes()) {
			t.Fatalf("%q became %q", body, out.String())
		}
		var top map[string]json.RawMessage
		var items []map[string]json.RawMessage
		if json.Unmarshal(out.Bytes(), &top) != nil || json.Unmarshal(top["requests"], &items) != nil {
			return // the upstream's to refuse
		}
		for _, item := range items {
			var params map[string]json.RawMessage
			var model string
			if json.Unmarshal(item["params"], &params) == nil && params["model"] != nil && json.Unmarshal(params["model"], &model) == nil && !checked[model] {
				t.Errorf("%q was not checked", model)
			}
		}
	})
}

func TestObjectsResultsURLLeadsElsewhereAndAllElseStays(t *testing.T) {
	raw := `{"id":"msgbatch_1","type":"message_batch","processing_status":"ended","request_counts":{"processing":0,"succeeded":2},"later":{"a": 1.50},"results_url":"https://api.anthropic.com/x","created_at":"2026-11-22T10:00:00.5Z"}`
	b, ok := ParseBatch([]byte(raw))
	if !ok || b.ID != "msgbatch_1" || b.Status != BatchEnded || b.Counts.Succeeded != 2 || b.Created.UnixMilli() != 1795341600500 {
		t.Errorf("%+v", b)
	}
	want := strings.Replace(raw, "https://api.anthropic.com/x", "https://s.example/y", 1)
	if got := string(b.WithResultsURL("https://s.example/y", nil)); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	want = want[:len(want)-1] + `,"sluice":{"a":1}}`
	if got := string(b.WithResultsURL("https://s.example/y", []byte(`{"a":1}`))); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	b, _ = ParseBatch([]byte(`{"id":"msgbatch_1","type":"message_batch","processing_status":"in_progress","results_url":null}`))
	if got := string(b.WithResultsURL("https://s.example/y", nil)); got != string(b.Raw) {
		t.Errorf("%s", got)
	}
	for _, raw := range []string{"", "{}", "[]", `{"id":"a","type":"message","processing_status":"ended"}`, `{"id":"a","type":"message_batch"}`, `{"type":"message_batch","processing_status":"ended"}`} {
		if _, ok := ParseBatch([]byte(raw)); ok {
			t.Errorf("%s is a batch", raw)
		}
	}
}

func TestResultsAreReadForWhatTheyUsed(t *testing.T) {
	for line, want := range map[string]BatchResult{
		`{"custom_id":"a","result":{"type":"succeeded","message":{"type":"message","model":"claude-a","usage":{"input_tokens":3,"output_tokens":5,"cache_read_input_tokens":7,"cache_creation_input_tokens":9}}}}`: {
			CustomID: "a", Type: "succeeded", Model: "claude-a", Usage: Usage{Input: 3, Output: 5, CacheRead: 7, CacheWrite: 9}},
		`{"custom_id":"b","result":{"type":"errored","error":{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":null}}}`: {
			CustomID: "b", Type: "errored", ErrorType: "overloaded_error", ErrorMessage: "Overloaded"},
		`{"custom_id":"c","result":{"type":"expired"}}`: {CustomID: "c", Type: "expired"},
	} {
		got, ok := ParseResult([]byte(line))
		got.Usage.Raw = nil
		if !ok || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %+v, %v", line, got, ok)
		}
	}
	for _, line := range []string{"", "{", "{}", `{"result":{}}`, `{"result":{"type":7}}`} {
		if _, ok := ParseResult([]byte(line)); ok {
			t.Errorf("%s is a result", line)
		}
	}
}

func TestLinesOfAnySizeAreReadOneByOne(t *testing.T) {
	long := strings.Repeat("x", 200_000)
	body := "a\n\n" + long + "\r\nb\n" + long
	for name, r := range map[string]io.Reader{"whole": strings.NewReader(body), "halves": iotest.HalfReader(strings.NewReader(body))} {
		var got []string
		for line, err := range Lines(r) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, string(line))
		}
		if !slices.Equal(got, []string{"a", long, "b", long}) {
			t.Errorf("%s: %d lines", name, len(got))
		}
	}
	broken := errors.New("broken")
	var told error
	n := 0
	for _, err := range Lines(io.MultiReader(strings.NewReader("a\nhalf a li"), iotest.ErrReader(broken))) {
		if told = err; err == nil {
			n++
		}
	}
	if told != broken || n != 1 {
		t.Errorf("%d lines, then %v", n, told)
	}
	for _, err := range Lines(strings.NewReader(strings.Repeat("x", MaxResult+100_000))) {
		asError(t, err, APIError, 502)
	}
}
