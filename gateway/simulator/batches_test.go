package simulator

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// batchOf is the body of a batch with one item a prompt, whose ids are a, b, c, …
func batchOf(prompts ...string) string {
	items := make([]string, len(prompts))
	for i, prompt := range prompts {
		items[i] = fmt.Sprintf(`{"custom_id":"%c","params":%s}`, 'a'+i, ask(prompt, map[string]string{"stream": ""}))
	}
	return `{"requests":[` + strings.Join(items, ",") + `]}`
}

func readBatch(t *testing.T, w *httptest.ResponseRecorder) messageBatch {
	t.Helper()
	var b messageBatch
	if err := json.Unmarshal(w.Body.Bytes(), &b); err != nil || w.Code != 200 || b.Type != "message_batch" {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return b
}

func create(t *testing.T, s *Simulator, prompts ...string) messageBatch {
	t.Helper()
	return readBatch(t, serve(t, s, "POST", "/v1/messages/batches", batchOf(prompts...)))
}

func look(t *testing.T, s *Simulator, id string) messageBatch {
	t.Helper()
	return readBatch(t, serve(t, s, "GET", "/v1/messages/batches/"+id, ""))
}

type resultLine struct {
	CustomID string `json:"custom_id"`
	Result   struct {
		Type    string
		Message struct {
			ID, Model string
			Content   []struct{ Type, Text string }
			Usage     struct {
				Output int    `json:"output_tokens"`
				Tier   string `json:"service_tier"`
			}
		}
		Error json.RawMessage
	}
}

// results reads a batch's results as strictly as the strictest SDK, sorted by custom_id.
func results(t *testing.T, s *Simulator, id string) []resultLine {
	t.Helper()
	w := serve(t, s, "GET", "/v1/messages/batches/"+id+"/results", "")
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/x-jsonl" {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	var all []resultLine
	for _, line := range strings.Split(strings.TrimSuffix(w.Body.String(), "\n"), "\n") {
		var one resultLine
		if err := json.Unmarshal([]byte(line), &one); err != nil || strings.Contains(line, "\r") {
			t.Fatalf("%v in %q", err, line)
		}
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b resultLine) int { return strings.Compare(a.CustomID, b.CustomID) })
	return all
}

func outcomes(t *testing.T, s *Simulator, id string) string {
	t.Helper()
	var all []string
	for _, one := range results(t, s, id) {
		all = append(all, one.CustomID+":"+one.Result.Type)
	}
	return strings.Join(all, " ")
}

func TestBatchGoesFromInProgressToEndedByTheClockAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{BatchTime: 10 * time.Minute})
		b := create(t, s, "hello", "fault:529", "fault:expire")
		if !strings.HasPrefix(b.ID, "msgbatch_01") || b.CreatedAt != "2000-01-01T00:00:00.000000Z" || b.ExpiresAt != "2000-01-02T00:00:00.000000Z" {
			t.Errorf("%+v", b)
		}
		time.Sleep(10*time.Minute - 1)
		for _, b := range []messageBatch{b, look(t, s, b.ID)} {
			if b.ProcessingStatus != "in_progress" || b.RequestCounts != (requestCounts{Processing: 3}) || b.EndedAt != nil || b.ResultsURL != nil {
				t.Errorf("before the end: %+v", b)
			}
		}
		if message := refused(t, serve(t, s, "GET", "/v1/messages/batches/"+b.ID+"/results", ""), 400, "invalid_request_error"); !strings.Contains(message, b.ID) {
			t.Error(message)
		}
		time.Sleep(time.Nanosecond)
		b = look(t, s, b.ID)
		if b.ProcessingStatus != "ended" || b.RequestCounts != (requestCounts{Succeeded: 1, Errored: 1, Expired: 1}) || *b.EndedAt != "2000-01-01T00:10:00.000000Z" ||
			!strings.HasSuffix(*b.ResultsURL, "/v1/messages/batches/"+b.ID+"/results") {
			t.Errorf("at the end: %+v", b)
		}
		if got := outcomes(t, s, b.ID); got != "a:succeeded b:errored c:expired" {
			t.Error(got)
		}
		time.Sleep(29 * 24 * time.Hour)
		if b = look(t, s, b.ID); b.ArchivedAt == nil || *b.ArchivedAt != "2000-01-30T00:00:00.000000Z" || b.ResultsURL != nil {
			t.Errorf("archived: %+v", b)
		}
		refused(t, serve(t, s, "GET", "/v1/messages/batches/"+b.ID+"/results", ""), 404, "not_found_error")
	})
}

func TestBatchResultsAreMessagesOfTheSimulatedModel(t *testing.T) {
	s := New(Options{Seed: 4})
	b := create(t, s, "short, please", "think", "fault:refusal")
	first := results(t, s, b.ID)
	a := first[0].Result.Message
	if !strings.HasPrefix(a.ID, "msg_01") || a.Model != "claude-sonnet-4-5" || a.Usage.Output < 3 || a.Usage.Tier != "batch" || a.Content[0].Text == "" {
		t.Errorf("%+v", a)
	}
	if thought := first[1].Result.Message.Content; thought[0].Type != "thinking" || first[1].Result.Message.ID == a.ID {
		t.Errorf("%+v", thought)
	}
	if n := len(first[2].Result.Message.Content); n != 0 {
		t.Errorf("a refusal with %d blocks", n)
	}
	again := serve(t, s, "GET", "/v1/messages/batches/"+b.ID+"/results", "").Body.String()
	if once := serve(t, s, "GET", "/v1/messages/batches/"+b.ID+"/results?beta=true", "").Body.String(); once != again {
		t.Error("the results differ from one reading to the next")
	}
}

func TestBatchResultsComeInAnOrderOfTheirOwn(t *testing.T) {
	s := New(Options{Seed: 2})
	b := create(t, s, slices.Repeat([]string{"short"}, 20)...)
	w := serve(t, s, "GET", "/v1/messages/batches/"+b.ID+"/results", "")
	var ids string
	for line := range strings.Lines(w.Body.String()) {
		ids += line[len(`{"custom_id":"`):][:1]
	}
	if len(ids) != 20 || ids == "abcdefghijklmnopqrst" {
		t.Errorf("order %q", ids)
	}
}

func TestBatchItemsThatTheAPIWouldNotTakeAreErrored(t *testing.T) {
	s := New(Options{})
	for params, want := range map[string]string{
		ask("x", nil): `{"type":"invalid_request_error","message":"stream: true is not supported in Message Batches"}`,
		ask("x", map[string]string{"stream": "", "speed": `"fast"`}):                  `{"type":"invalid_request_error","message":"speed: not supported in Message Batches"}`,
		ask("x", map[string]string{"stream": "", "fallbacks": `[]`}):                  `{"type":"invalid_request_error","message":"fallbacks: not supported in Message Batches"}`,
		ask("x", map[string]string{"stream": "", "max_tokens": `0`}):                  `{"type":"invalid_request_error","message":"max_tokens: 0 is not supported in Message Batches"}`,
		ask("x", map[string]string{"stream": "", "max_tokens": ``}):                   `{"type":"invalid_request_error","message":"max_tokens: Field required"}`,
		ask("x", map[string]string{"stream": "", "model": `"claude-does-not-exist"`}): `{"type":"not_found_error","message":"model: claude-does-not-exist"}`,
		ask("fault:429", map[string]string{"stream": ""}):                             `{"type":"rate_limit_error","message":"This request would exceed your account's rate limit. Please try again later."}`,
		ask("fault:error", map[string]string{"stream": "false"}):                      `{"type":"overloaded_error","message":"Overloaded"}`,
		ask("fault:cut", map[string]string{"stream": ""}):                             `{"type":"api_error","message":"Internal server error"}`,
	} {
		b := readBatch(t, serve(t, s, "POST", "/v1/messages/batches?beta=true", `{"requests":[{"params":`+params+`,"custom_id":"x"}]}`))
		got := results(t, s, b.ID)[0].Result
		if want := `{"type":"error","error":` + want + `,"request_id":null}`; got.Type != "errored" || string(got.Error) != want {
			t.Errorf("%s:\n%s %s\nwant %s", params, got.Type, got.Error, want)
		}
	}
}

func TestBadBatchesAreRefusedWhole(t *testing.T) {
	s := New(Options{})
	params := ask("x", map[string]string{"stream": ""})
	item := func(id string) string { return `{"custom_id":` + id + `,"params":` + params + `}` }
	for body, want := range map[string]string{
		``:                                 "not valid JSON",
		`{"requests":[`:                    "not valid JSON",
		`[]`:                               "Input should be an object",
		`{}`:                               "requests: Field required",
		`{"requests":{}}`:                  "requests: Input should be a valid list",
		`{"requests":[]}`:                  "requests: List should have at least 1 item",
		`{"requests":[1]}`:                 "requests.0: Input should be an object",
		`{"requests":[{}]}`:                "requests.0.custom_id: Field required",
		`{"requests":[{"custom_id":"a"}]}`: "requests.0.params: Field required",
		`{"requests":[{"custom_id":"a","params":null}]}`:               "requests.0.params: Input should be an object",
		`{"requests":[{"custom_id":"a","params":{},"more":1}]}`:        "requests.0.more: Extra inputs are not permitted",
		`{"more":1,"requests":[` + item(`"a"`) + `]}`:                  "more: Extra inputs are not permitted",
		`{"requests":[` + item(`""`) + `]}`:                            "requests.0.custom_id: String should match pattern",
		`{"requests":[` + item(`"a b"`) + `]}`:                         "requests.0.custom_id: String should match pattern",
		`{"requests":[` + item(`"`+strings.Repeat("a", 65)+`"`) + `]}`: "requests.0.custom_id: String should match pattern",
		`{"requests":[` + item(`7`) + `]}`:                             "requests.0.custom_id: String should match pattern",
		`{"requests":[` + item(`"a"`) + "," + item(`"a"`) + `]}`:       "requests.1.custom_id: `a` is not unique",
		`{"requests":[` + item(`"a"`) + `],"requests":[]}`:             "requests: Input should be a valid list",
	} {
		if got := refused(t, serve(t, s, "POST", "/v1/messages/batches", body), 400, "invalid_request_error"); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
	if w := serve(t, s, "GET", "/v1/messages/batches", ""); w.Body.String() != `{"data":[],"has_more":false,"first_id":null,"last_id":null}` {
		t.Errorf("something was made: %s", w.Body)
	}
}

func TestBatchOfMoreThanTheAPITakesIsRefused(t *testing.T) {
	s := New(Options{})
	var list strings.Builder
	for i := range batchItemLimit + 1 {
		fmt.Fprintf(&list, `,{"custom_id":"%d","params":{}}`, i)
	}
	body := `{"requests":[` + list.String()[1:] + `]}`
	if got := refused(t, serve(t, s, "POST", "/v1/messages/batches", body), 400, "invalid_request_error"); !strings.Contains(got, "at most 100000") {
		t.Error(got)
	}
	r := newRequestTo(t, "POST", "/v1/messages/batches", "")
	r.ContentLength = batchBodyLimit + 1
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	refused(t, w, 413, "request_too_large")
}

func TestCanceledBatchKeepsWhatWasDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{BatchTime: 100 * time.Second})
		b := create(t, s, "one", "two", "three", "four")
		path := "/v1/messages/batches/" + b.ID
		time.Sleep(60 * time.Second)
		for range 2 {
			b = readBatch(t, serve(t, s, "POST", path+"/cancel", ""))
			if b.ProcessingStatus != "canceling" || *b.CancelInitiatedAt != "2000-01-01T00:01:00.000000Z" || b.RequestCounts != (requestCounts{Processing: 4}) {
				t.Errorf("%+v", b)
			}
			time.Sleep(5 * time.Second)
		}
		b = look(t, s, b.ID)
		if b.ProcessingStatus != "ended" || b.RequestCounts != (requestCounts{Succeeded: 2, Canceled: 2}) || *b.EndedAt != "2000-01-01T00:01:10.000000Z" {
			t.Errorf("%+v", b)
		}
		if got := outcomes(t, s, b.ID); got != "a:succeeded b:succeeded c:canceled d:canceled" {
			t.Error(got)
		}
		refused(t, serve(t, s, "POST", path+"/cancel", ""), 400, "invalid_request_error")
	})
}

func TestBatchThatOutlivesItsDayExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{BatchTime: 48 * time.Hour})
		b := create(t, s, "one", "two")
		time.Sleep(24*time.Hour - 1)
		if got := look(t, s, b.ID).ProcessingStatus; got != "in_progress" {
			t.Error(got)
		}
		time.Sleep(time.Nanosecond)
		if got := outcomes(t, s, b.ID); got != "a:succeeded b:expired" {
			t.Error(got)
		}
	})
}

func TestOnlyAnEndedBatchCanBeDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{BatchTime: time.Minute})
		b, other := create(t, s, "one"), create(t, s, "two")
		path := "/v1/messages/batches/" + b.ID
		refused(t, serve(t, s, "DELETE", path, ""), 400, "invalid_request_error")
		time.Sleep(time.Minute)
		if w := serve(t, s, "DELETE", path, ""); w.Code != 200 || w.Body.String() != `{"id":"`+b.ID+`","type":"message_batch_deleted"}` {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		for _, gone := range []*httptest.ResponseRecorder{
			serve(t, s, "DELETE", path, ""), serve(t, s, "GET", path, ""), serve(t, s, "GET", path+"/results", ""), serve(t, s, "POST", path+"/cancel", ""),
		} {
			refused(t, gone, 404, "not_found_error")
		}
		look(t, s, other.ID)
	})
}

func TestBatchesArePagedBothWaysNewestFirst(t *testing.T) {
	s := New(Options{})
	var made []string
	for range 7 {
		made = append(made, create(t, s, "one").ID)
	}
	slices.Reverse(made)
	page := func(query string) listing[messageBatch] {
		t.Helper()
		w := serve(t, s, "GET", "/v1/messages/batches?limit=3"+query, "")
		var l listing[messageBatch]
		if err := json.Unmarshal(w.Body.Bytes(), &l); err != nil || w.Code != 200 || len(l.Data) == 0 || *l.FirstID != l.Data[0].ID || *l.LastID != l.Data[len(l.Data)-1].ID {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		return l
	}
	var forth []string
	for l := page(""); ; l = page("&after_id=" + *l.LastID) {
		for _, b := range l.Data {
			forth = append(forth, b.ID)
		}
		if !l.HasMore {
			break
		}
	}
	if !slices.Equal(forth, made) {
		t.Errorf("%v\nwant %v", forth, made)
	}
	if l := page("&before_id=" + made[4]); !l.HasMore || *l.FirstID != made[1] || *l.LastID != made[3] {
		t.Errorf("before the fifth: %+v", l)
	}
	if l := page("&before_id=" + made[2]); l.HasMore || *l.FirstID != made[0] || *l.LastID != made[1] {
		t.Errorf("before the third: %+v", l)
	}
	refused(t, serve(t, s, "GET", "/v1/messages/batches?limit=1001", ""), 400, "invalid_request_error")
	refused(t, serve(t, s, "GET", "/v1/messages/batches?after_id=a&before_id=b", ""), 400, "invalid_request_error")
}

func TestFullShelfForgetsTheOldestThatEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s shelf
		now := time.Now()
		half := func(id string, takes time.Duration) *batch {
			return &batch{id: id, size: shelfLimit / 2, created: now, takes: takes, items: []item{{}}}
		}
		for _, b := range []*batch{half("running", time.Hour), half("ended", 0)} {
			if err := s.add(b, now); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.add(half("new", time.Hour), now); err != nil {
			t.Fatal(err)
		}
		if _, err := s.find("ended"); err == nil {
			t.Error("the ended batch is still there")
		}
		if _, err := s.find("running"); err != nil {
			t.Error("the unfinished batch is gone")
		}
		if err := s.add(half("one more", 0), now); err == nil || err.(*apiError).status != 429 {
			t.Errorf("one more: %v", err)
		}
	})
}

func FuzzAnyBatchIsTakenOrRefused(f *testing.F) {
	f.Add(batchOf("hello", "fault:expire", "think fault:giant=10"))
	f.Add(`{"requests":[{"custom_id":"a","params":{"model":"claude-x","max_tokens":1,"messages":[{"role":"user","content":"fault:batch-time=0"}]}}]}`)
	f.Add(`{"requests":[{"custom_id":"a","params":{"stream":true}}],"requests":null}`)
	f.Fuzz(func(t *testing.T, body string) {
		s := New(Options{Seed: 1})
		w := serve(t, s, "POST", "/v1/messages/batches", body)
		if w.Code != 200 {
			refused(t, w, w.Code, "invalid_request_error")
			return
		}
		b := readBatch(t, w)
		if w = serve(t, s, "GET", "/v1/messages/batches/"+b.ID+"/results", ""); w.Code == 200 && strings.Count(w.Body.String(), "\n") != b.RequestCounts.Processing {
			t.Errorf("%d results of %d", strings.Count(w.Body.String(), "\n"), b.RequestCounts.Processing)
		}
	})
}
