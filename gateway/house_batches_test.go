package gateway_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"

	"sluice/gateway"
	"sluice/gateway/limits"
	"sluice/gateway/simulator"
)

// batchOf is the body of a batch with one item a prompt, whose ids are a, b, c, …
func batchOf(prompts ...string) string {
	items := make([]string, len(prompts))
	for i, prompt := range prompts {
		items[i] = fmt.Sprintf(`{"custom_id":"%c","params":{"model":"claude-sonnet-4-6","max_tokens":4096,"messages":[{"role":"user","content":%q}]}}`, 'a'+i, prompt+" "+marker)
	}
	return `{"requests":[` + strings.Join(items, ",") + `]}`
}

type batchObject struct {
	ID         string
	Type       string
	Status     string                                                          `json:"processing_status"`
	ResultsURL string                                                          `json:"results_url"`
	Counts     struct{ Processing, Succeeded, Errored, Canceled, Expired int } `json:"request_counts"`
	Sluice     *struct {
		Successor   string `json:"successor_id"`
		Predecessor string `json:"predecessor_id"`
		Usage       struct {
			Input  int `json:"input_tokens"`
			Output int `json:"output_tokens"`
		}
		Errors []struct {
			Type, Message string
			Count         int
		}
		Callback *struct {
			ID, URL, Status string
			Attempts        int
		}
	}
}

func (h *house) batch(body string, headers ...string) (b batchObject) {
	h.t.Helper()
	headers = append([]string{"content-type", "application/json", "anthropic-version", "2023-06-01"}, headers...)
	h.do("POST", "/v1/messages/batches", body, headers...).status(200).into(&b)
	return b
}

func (h *house) lookAt(id string, headers ...string) (b batchObject) {
	h.t.Helper()
	h.do("GET", "/v1/messages/batches/"+id, "", append([]string{"anthropic-version", "2023-06-01"}, headers...)...).status(200).into(&b)
	return b
}

// settled waits until the results of an ended batch have been counted.
func (h *house) settled(id string) (b batchObject) {
	h.t.Helper()
	eventually(h.t, func() string { return fmt.Sprintf("%+v is not settled", b) }, func() bool {
		b = h.lookAt(id)
		return b.Status == "ended" && b.Sluice != nil
	})
	h.becomes(`sluice_batches{status="ended"}`, 0) // what it has used is written before it is counted, lest a crash count it twice
	return b
}

func TestGoSDKsBatchHelpersWorkThroughTheGateway(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{Key: upstreamKey, BatchTime: 200 * time.Millisecond}))
	alice, bob := h.sdk(aliceKey), h.sdk(bobKey)
	request := func(id, text string) anthropic.MessageBatchNewParamsRequest {
		p := prompt(text)
		return anthropic.MessageBatchNewParamsRequest{CustomID: id, Params: anthropic.MessageBatchNewParamsRequestParams{Model: p.Model, MaxTokens: p.MaxTokens, Messages: p.Messages}}
	}
	ctx := bounds(t)
	made, err := alice.Messages.Batches.New(ctx, anthropic.MessageBatchNewParams{Requests: []anthropic.MessageBatchNewParamsRequest{
		request("good", "hello"), request("large", "fault:giant=300000"), request("bad", "fault:529"), request("late", "fault:expire"),
	}})
	if err != nil || made.RequestCounts.Processing != 4 {
		t.Fatalf("%v %+v", err, made)
	}
	var ended *anthropic.MessageBatch
	eventually(t, func() string { return fmt.Sprintf("%v %+v has not ended", err, ended) }, func() bool {
		ended, err = alice.Messages.Batches.Get(ctx, made.ID, anthropic.MessageBatchGetParams{})
		return err != nil || ended.ProcessingStatus == anthropic.MessageBatchProcessingStatusEnded
	})
	if err != nil || ended.ResultsURL != h.url+"/v1/messages/batches/"+made.ID+"/results" {
		t.Fatalf("%v %+v", err, ended)
	}
	got := map[string]string{}
	stream := alice.Messages.Batches.ResultsStreaming(ctx, made.ID, anthropic.MessageBatchResultsParams{})
	for stream.Next() {
		got[stream.Current().CustomID] = stream.Current().Result.Type
	}
	stream.Close()
	if err := stream.Err(); err != nil || fmt.Sprint(got) != "map[bad:errored good:succeeded large:succeeded late:expired]" {
		t.Errorf("%v %v", err, got)
	}
	// The other SDKs dial results_url as it is, with the caller's key.
	h.fetch("GET", ended.ResultsURL, "", "accept", "application/binary", "anthropic-version", "2023-06-01").status(200)

	long, err := alice.Messages.Batches.New(ctx, anthropic.MessageBatchNewParams{Requests: []anthropic.MessageBatchNewParamsRequest{request("long", "fault:batch-time")}})
	if err != nil {
		t.Fatal(err)
	}
	if canceled, err := alice.Messages.Batches.Cancel(ctx, long.ID, anthropic.MessageBatchCancelParams{}); err != nil || canceled.ProcessingStatus != anthropic.MessageBatchProcessingStatusCanceling {
		t.Fatalf("%v %+v", err, canceled)
	}
	list := func(client anthropic.Client) (ids []string) {
		t.Helper()
		pages := client.Messages.Batches.ListAutoPaging(ctx, anthropic.MessageBatchListParams{Limit: anthropic.Int(1)})
		for pages.Next() {
			ids = append(ids, pages.Current().ID)
		}
		if err := pages.Err(); err != nil {
			t.Error(err)
		}
		return ids
	}
	his, err := bob.Messages.Batches.New(ctx, anthropic.MessageBatchNewParams{Requests: []anthropic.MessageBatchNewParamsRequest{request("his", "hello")}})
	if err != nil {
		t.Fatal(err)
	}
	if mine, other := list(alice), list(bob); !slices.Equal(mine, []string{long.ID, made.ID}) || !slices.Equal(other, []string{his.ID}) {
		t.Errorf("alice sees %v, bob %v", mine, other)
	}
	results := bob.Messages.Batches.ResultsStreaming(ctx, made.ID, anthropic.MessageBatchResultsParams{})
	if results.Next() {
		t.Errorf("bob reads %+v", results.Current())
	}
	_, got404 := bob.Messages.Batches.Get(ctx, made.ID, anthropic.MessageBatchGetParams{})
	_, cancel404 := bob.Messages.Batches.Cancel(ctx, long.ID, anthropic.MessageBatchCancelParams{})
	_, delete404 := bob.Messages.Batches.Delete(ctx, made.ID, anthropic.MessageBatchDeleteParams{})
	for call, err := range map[string]error{"results": results.Err(), "get": got404, "cancel": cancel404, "delete": delete404} {
		var refused *anthropic.Error
		if !errors.As(err, &refused) || refused.StatusCode != 404 {
			t.Errorf("bob's %s: %v", call, err)
		}
	}
	if deleted, err := alice.Messages.Batches.Delete(ctx, made.ID, anthropic.MessageBatchDeleteParams{}); err != nil || deleted.ID != made.ID {
		t.Errorf("%v %+v", err, deleted)
	}
	if mine := list(alice); !slices.Equal(mine, []string{long.ID}) {
		t.Errorf("afterwards alice sees %v", mine)
	}
	h.do("GET", "/v1/messages/batches/"+made.ID, "", "anthropic-version", "2023-06-01").refused(404, "not_found_error")
}

func TestBatchesAreTheirMakersAlone(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{Key: upstreamKey}))
	b := h.batch(batchOf("hello"))
	path := "/v1/messages/batches/" + b.ID
	before := len(h.upstream.requests())
	for _, c := range []struct{ method, path string }{
		{"GET", path}, {"GET", path + "/results"}, {"POST", path + "/cancel"}, {"DELETE", path}, {"GET", path + "/events"},
		{"GET", "/v1/messages/batches?after_id=" + b.ID}, {"GET", "/v1/messages/batches?before_id=" + b.ID},
	} {
		h.do(c.method, c.path, "", "x-api-key", bobKey, "anthropic-version", "2023-06-01").refused(404, "not_found_error")
		h.do(c.method, c.path, "", "x-api-key", "", "anthropic-version", "2023-06-01").refused(401, "authentication_error")
	}
	for _, path := range []string{"/v1/messages/batches/x%2Fy", "/v1/messages/batches/..%2Fmodels", "/v1/messages/batches/" + strings.Repeat("x", 3000)} {
		h.do("GET", path, "", "anthropic-version", "2023-06-01").refused(404, "not_found_error")
	}
	if after := len(h.upstream.requests()); after != before {
		t.Errorf("%d of these reached the upstream", after-before)
	}
	h.do("GET", "/v1/messages/batches?after_id=a&before_id=b", "").refused(400, "invalid_request_error")
	h.do("GET", "/v1/messages/batches?limit=1001", "").refused(400, "invalid_request_error")
}

func TestBatchesArePagedBothWays(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{Key: upstreamKey}))
	var made []string
	for range 5 {
		made = append(made, h.batch(batchOf("hello")).ID)
		h.batch(batchOf("hello"), "x-api-key", bobKey)
	}
	slices.Reverse(made)
	for query, want := range map[string]struct {
		ids  []string
		more bool
	}{
		"?limit=2":                         {made[:2], true},
		"?limit=2&after_id=" + made[1]:     {made[2:4], true},
		"?limit=2&after_id=" + made[3]:     {made[4:], false},
		"?limit=2&after_id=" + made[4]:     {nil, false},
		"?limit=2&before_id=" + made[4]:    {made[2:4], true},
		"?limit=2&before_id=" + made[2]:    {made[:2], false},
		"?beta=true":                       {made, false},
		"?limit=1000&before_id=" + made[0]: {nil, false},
	} {
		var page struct {
			Data    []batchObject
			HasMore bool    `json:"has_more"`
			FirstID *string `json:"first_id"`
			LastID  *string `json:"last_id"`
		}
		h.do("GET", "/v1/messages/batches"+query, "").status(200).into(&page)
		var ids []string
		for _, b := range page.Data {
			ids = append(ids, b.ID)
		}
		if !slices.Equal(ids, want.ids) || page.HasMore != want.more || (page.FirstID == nil) != (len(ids) == 0) || len(ids) > 0 && *page.LastID != ids[len(ids)-1] {
			t.Errorf("%s: %v, more %v; want %v, %v", query, ids, page.HasMore, want.ids, want.more)
		}
	}
}

func TestEndOfABatchIsCountedAndCalledBack(t *testing.T) {
	t.Parallel()
	bodies := make(chan []byte, 4)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies <- body
	}))
	defer receiver.Close()
	h := openHouse(t, simulator.New(simulator.Options{Key: upstreamKey}), func(c *gateway.Config) {
		c.Callbacks.AllowHosts = []string{receiver.Listener.Addr().String()}
	})
	for _, url := range []string{"http://10.0.0.1/", "https://127.1/", "nonsense"} {
		h.do("POST", "/v1/messages/batches", batchOf("hello"), "content-type", "application/json", "sluice-callback-url", url).refused(400, "invalid_request_error")
	}
	b := h.batch(batchOf("short", "short", "fault:429", "fault:429", "fault:529"), "sluice-callback-url", receiver.URL)
	if b.Sluice == nil || b.Sluice.Callback == nil || b.Sluice.Callback.Status != "pending" || b.Sluice.Callback.URL != receiver.URL {
		t.Errorf("%+v", b.Sluice)
	}
	h.lookAt(b.ID)
	var told struct {
		Type      string
		Timestamp time.Time
		Data      struct {
			ID, Status string
			Error      any
			Usage      struct {
				Output int `json:"output_tokens"`
			}
			Counts struct{ Succeeded, Errored int } `json:"request_counts"`
			Errors []struct {
				Type  string
				Count int
			}
		}
	}
	if err := json.Unmarshal(receive(t, bodies, "the callback"), &told); err != nil {
		t.Fatal(err)
	}
	d := told.Data
	if told.Type != "batch.ended" || d.ID != b.ID || d.Status != "ended" || d.Error != nil || d.Usage.Output == 0 || d.Counts.Succeeded != 2 || d.Counts.Errored != 3 ||
		len(d.Errors) != 2 || d.Errors[0].Type != "rate_limit_error" || d.Errors[0].Count != 2 {
		t.Errorf("%+v", told)
	}
	b = h.settled(b.ID)
	if b.Sluice.Usage.Output != d.Usage.Output || len(b.Sluice.Errors) != 2 || b.Sluice.Errors[1].Message != "Overloaded" {
		t.Errorf("%+v", b.Sluice)
	}
	h.becomes(`sluice_tokens_total{kind="output",model="claude-sonnet-4-6",source="reported"}`, float64(d.Usage.Output))
	h.becomes(`sluice_callbacks_total{outcome="delivered"}`, 1)
	h.becomes(`sluice_batches{status="ended"}`, 0)
	h.lookAt(b.ID)
	h.becomes(`sluice_tokens_total{kind="output",model="claude-sonnet-4-6",source="reported"}`, float64(d.Usage.Output))
	if got := h.lookAt(b.ID).Sluice.Callback; got.Status != "delivered" || got.Attempts != 1 || !strings.HasPrefix(got.ID, "cb_") {
		t.Errorf("%+v", got)
	}
	if strings.Count(h.log.String(), `"msg":"batch ended"`) != 1 {
		t.Error("the end is not in the log once")
	}
}

func TestBatchEventsTellStatesResultsAndTheEnd(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{Key: upstreamKey}))
	b := h.batch(batchOf("short", "fault:529", "short fault:batch-time=1500"))
	path := "/v1/messages/batches/" + b.ID + "/events"
	w := newReading(t, h.request("GET", h.url+path+"?results=1", ""))
	if e := w.next(); e.name != "batch_status" || e.id != "in_progress" || !strings.Contains(e.data, `"processing_status":"in_progress"`) {
		t.Errorf("%+v", e)
	}
	var told []string
	for _, e := range w.rest() {
		told = append(told, e.name+" "+e.id)
		if e.name == "batch_status" && !strings.Contains(e.data, h.url+"/v1/messages/batches/"+b.ID+"/results") {
			t.Errorf("%s", e.data)
		}
		if e.name == "batch_result" && !strings.HasPrefix(e.data, `{"custom_id":"`) || e.name == "batch_ended" && !strings.Contains(e.data, `"sluice":{"usage":`) {
			t.Errorf("%+v", e)
		}
	}
	want := []string{"batch_status ended", "batch_result r.1", "batch_result r.2", "batch_result r.3", "batch_ended end"}
	if !slices.Equal(told, want) {
		t.Errorf("%v\nwant %v", told, want)
	}
	for cursor, want := range map[string]string{
		"":            "batch_status batch_result batch_result batch_result batch_ended",
		"in_progress": "batch_status batch_result batch_result batch_result batch_ended",
		"ended":       "batch_result batch_result batch_result batch_ended",
		"r.2":         "batch_result batch_ended",
		"r.3":         "batch_ended",
		"r.0":         "resync batch_status batch_result batch_result batch_result batch_ended",
		"7":           "resync batch_status batch_result batch_result batch_result batch_ended",
	} {
		var names []string
		for _, e := range newReading(t, h.request("GET", h.url+path+"?results=1", "", "last-event-id", cursor)).rest() {
			names = append(names, e.name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("after %q: %s, want %s", cursor, got, want)
		}
	}
	var names []string
	for _, e := range newReading(t, h.request("GET", h.url+path+"?last_event_id=in_progress", "")).rest() {
		names = append(names, e.name)
	}
	if got := strings.Join(names, " "); got != "batch_status batch_ended" {
		t.Errorf("without results: %s", got)
	}
	h.do("GET", path, "", "last-event-id", "end").status(204)
}

func TestUnfinishedBatchIsWatchedAcrossARestart(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{}, 1)
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { ended <- struct{}{} }))
	defer receiver.Close()
	sim, dir := simulator.New(simulator.Options{Key: upstreamKey}), t.TempDir()
	settings := func(c *gateway.Config) {
		c.Store.Dir = dir
		c.Callbacks.AllowHosts = []string{receiver.Listener.Addr().String()}
	}
	h := openHouse(t, sim, settings)
	b := h.batch(batchOf("short", "fault:batch-time=1000"), "sluice-callback-url", receiver.URL)
	h.stop()
	h.waitStopped()

	h = openHouse(t, sim, settings)
	receive(t, ended, "the callback after the restart")
	if b = h.settled(b.ID); b.Counts.Succeeded != 2 {
		t.Errorf("%+v", b)
	}
	h.becomes(`sluice_batch_polls_total{outcome="changed"}`, 1)
}

func TestBadBatchesMakeNothing(t *testing.T) {
	t.Parallel()
	sim := simulator.New(simulator.Options{Key: upstreamKey})
	h := openHouse(t, sim)
	good := `{"custom_id":"a","params":{"model":"claude-sonnet-4-6","max_tokens":5,"messages":[{"role":"user","content":"x"}]}}`
	for name, body := range map[string]string{
		"nothing": "", "no object": "[]", "cut": `{"requests":[` + good, "cut in an item": `{"requests":[` + good[:50], "text": "hello",
		"no list": `{"requests":{}}`, "no requests": `{}`, "no items": `{"requests":[]}`, "item": `{"requests":[1]}`, "params": `{"requests":[{"custom_id":"a","params":1}]}`,
		"two models":     `{"requests":[` + good + `,{"custom_id":"b","params":{"model":"claude-a","model":"claude-b","max_tokens":5,"messages":[]}}]}`,
		"hidden model":   `{"requests":[` + good + `,{"custom_id":"b","params":{"mod\u0065l":"claude-a","max_tokens":5,"messages":[]}}]}`,
		"two params":     `{"requests":[` + good + `,{"custom_id":"b","params":{},"params":{}}]}`,
		"more behind":    `{"requests":[` + good + `]} {}`,
		"trailing comma": `{"requests":[` + good + `,]}`,
	} {
		a := h.do("POST", "/v1/messages/batches", body, "content-type", "application/json", "anthropic-version", "2023-06-01")
		if a.code != 400 {
			t.Errorf("%s: %d %s", name, a.code, a.body)
			continue
		}
		a.refused(400, "invalid_request_error")
	}
	h.do("POST", "/v1/messages/batches", batchOf("x"), "content-type", "text/plain").refused(415, "invalid_request_error")
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "/v1/messages/batches", nil)
	r.Header.Set("x-api-key", upstreamKey)
	r.Header.Set("anthropic-version", "2023-06-01")
	sim.ServeHTTP(w, r)
	if !strings.HasPrefix(w.Body.String(), `{"data":[],`) {
		t.Errorf("something was made: %s", w.Body)
	}
}

// TestBatchThatIsRefusedBeforeItIsReadIsAnswered has the upstream refuse by what it sees first, while the gateway still
// has, or has not, what is to be sent.
func TestBatchThatIsRefusedBeforeItIsReadIsAnswered(t *testing.T) {
	t.Parallel()
	secure := overTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Request-Id", "req_up")
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusTooManyRequests)
		fmt.Fprint(w, `{"type":"error","error":{"type":"rate_limit_error","message":"Not now."},"request_id":"req_up"}`)
	}))
	h := openHouse(t, saying(1), secure)
	for _, size := range []int{10, 3 << 20} {
		body := batchOf(strings.Repeat("x", size))
		for range 20 {
			a := h.do("POST", "/v1/messages/batches", body, "content-type", "application/json", "anthropic-version", "2023-06-01", "sluice-resubmit-expired", "1")
			a.refused(429, "rate_limit_error")
			if got := a.header.Get("Retry-After"); got != "7" {
				t.Errorf("retry-after %q", got)
			}
		}
	}
}

func TestExpiredRequestsAreSubmittedAgainOnce(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{Key: upstreamKey}))
	b := h.batch(batchOf("short", "fault:expire-once", "fault:529", "fault:expire"), "sluice-resubmit-expired", "1")
	b = h.settled(b.ID)
	eventually(t, func() string { return "no successor" }, func() bool { b = h.lookAt(b.ID); return b.Sluice.Successor != "" })
	if b.Counts.Expired != 2 {
		t.Errorf("%+v", b)
	}
	h.lookAt(b.Sluice.Successor)
	next := h.settled(b.Sluice.Successor)
	if next.Sluice.Predecessor != b.ID || next.Counts.Succeeded != 1 || next.Counts.Expired != 1 || next.Counts.Errored != 0 {
		t.Errorf("%+v %+v", next, next.Sluice)
	}
	results := h.do("GET", "/v1/messages/batches/"+next.ID+"/results", "", "anthropic-version", "2023-06-01").status(200).body
	if strings.Count(results, "\n") != 2 || !strings.Contains(results, `"custom_id":"b","result":{"type":"succeeded"`) || !strings.Contains(results, `"custom_id":"d","result":{"type":"expired"`) {
		t.Errorf("%s", results)
	}
	h.becomes(`sluice_batches{status="ended"}`, 0)
	if next = h.lookAt(next.ID); next.Sluice.Successor != "" {
		t.Errorf("submitted a second time: %+v", next.Sluice)
	}
	h.do("GET", "/v1/messages/batches/"+next.ID, "", "x-api-key", bobKey, "anthropic-version", "2023-06-01").refused(404, "not_found_error")
	h.do("POST", "/v1/messages/batches", batchOf("x"), "content-type", "application/json", "sluice-resubmit-expired", "yes").refused(400, "invalid_request_error")
}

func TestAnonymousOwnNoBatchesAndNoCallbacks(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{Key: upstreamKey}), anybody)
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/v1/messages/batches", batchOf("x")}, {"GET", "/v1/messages/batches", ""}, {"GET", "/v1/messages/batches/msgbatch_1", ""},
		{"GET", "/v1/messages/batches/msgbatch_1/results", ""}, {"GET", "/v1/messages/batches/msgbatch_1/events", ""},
		{"POST", "/v1/messages/batches/msgbatch_1/cancel", ""}, {"DELETE", "/v1/messages/batches/msgbatch_1", ""},
		{"GET", "/v1/callbacks", ""}, {"GET", "/v1/callbacks/secret", ""}, {"POST", "/v1/callbacks/cb_1/redeliver", ""},
	} {
		h.do(c.method, c.path, c.body, "x-api-key", "", "content-type", "application/json").refused(401, "authentication_error")
	}
	if n := len(h.upstream.requests()); n != 0 {
		t.Errorf("%d requests reached the upstream", n)
	}
}

func TestEachItemOfABatchMustPassThePlan(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{Key: upstreamKey}), func(c *gateway.Config) {
		c.Plans["default"] = limits.Plan{Models: []string{"claude-haiku-*"}, MaxTokens: 100}
	})
	item := func(id, model string, maxTokens int, more string) string {
		return fmt.Sprintf(`{"custom_id":%q,"params":{"model":%q,"max_tokens":%d,"messages":[{"role":"user","content":"short"}]%s}}`, id, model, maxTokens, more)
	}
	inside := item("a", "claude-haiku-4-5", 100, "")
	for name, c := range map[string]struct {
		item, kind string
		status     int
	}{
		"another model": {item("b", "claude-opus-4-6", 100, ""), "permission_error", 403},
		"a fallback":    {item("b", "claude-haiku-4-5", 100, `,"fallbacks":[{"model":"claude-opus-4-6"}]`), "permission_error", 403},
		"too much":      {item("b", "claude-haiku-4-5", 101, ""), "invalid_request_error", 400},
	} {
		t.Run(name, func(t *testing.T) {
			h.in(t).do("POST", "/v1/messages/batches", `{"requests":[`+inside+","+c.item+`]}`, "content-type", "application/json", "anthropic-version", "2023-06-01").refused(c.status, c.kind)
		})
	}
	var page struct{ Data []batchObject }
	if h.do("GET", "/v1/messages/batches", "").status(200).into(&page); len(page.Data) != 0 {
		t.Errorf("%+v", page)
	}
	if b := h.batch(`{"requests":[` + inside + `]}`); b.Counts.Processing != 1 {
		t.Errorf("%+v", b)
	}
}
