package cli_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"
)

// words is how many deltas an answer has.
const words = 8

// killUpstream answers each prompt; what it says tells which attempt at which prompt it is.
type killUpstream struct {
	k     *killing
	mu    sync.Mutex
	asked map[string]int // requests, by prompt
}

func (u *killUpstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, batchesPath) {
		u.batch(w, r)
		return
	}
	var request struct{ Messages []struct{ Content string } }
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		u.k.t.Error(err)
		return
	}
	prompt := request.Messages[0].Content
	u.mu.Lock()
	u.asked[prompt]++
	attempt := u.asked[prompt]
	u.mu.Unlock()
	first := attempt == 1 && !isNew(prompt)
	if first && u.k.step == "asked" {
		u.k.stay(r, "asked")
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	send := func(name, data string) {
		fmt.Fprintf(w, "event: %s\ndata: %s\n\n", name, data)
		http.NewResponseController(w).Flush()
	}
	send("message_start", `{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-x","content":[],"stop_reason":null,"usage":{"input_tokens":1,"output_tokens":1}}}`)
	send("content_block_start", `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`)
	for i := range words {
		if first && u.k.step == "midstream" && i == words/2 {
			u.k.stay(r, "midstream")
			return
		}
		send("content_block_delta", fmt.Sprintf(`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%s/%d/%d "}}`, prompt, attempt, i))
	}
	send("content_block_stop", `{"type":"content_block_stop","index":0}`)
	send("message_delta", `{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":9}}`)
	send("message_stop", `{"type":"message_stop"}`)
}

const batchesPath = "/v1/messages/batches"

// batch makes batches that are called after their first request, and have ended when they are asked about.
func (u *killUpstream) batch(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	name, results := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, batchesPath+"/"), "/results")
	switch {
	case results:
		fmt.Fprintf(w, `{"custom_id":"a","result":{"type":"succeeded","message":{"model":"claude-x","usage":{"input_tokens":3,"output_tokens":5}}}}`+"\n")
	case r.Method == http.MethodGet:
		fmt.Fprint(w, messageBatch(name, "ended", time.Now()))
	default:
		var body struct {
			Requests []struct {
				CustomID string `json:"custom_id"`
			}
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			u.k.t.Error(err)
			return
		}
		fmt.Fprint(w, messageBatch(body.Requests[0].CustomID, "in_progress", time.Now()))
	}
}

// messageBatch is a batch of one request, as the upstream describes it.
func messageBatch(id, status string, created time.Time) string {
	processing, succeeded, ended, results := 1, 0, "null", "null"
	if status == "ended" {
		processing, succeeded, ended, results = 0, 1, `"2026-01-01T00:00:00Z"`, `"https://api.example/results"`
	}
	return fmt.Sprintf(`{"id":%q,"type":"message_batch","processing_status":%q,"request_counts":{"processing":%d,"succeeded":%d,"errored":0,"canceled":0,"expired":0},`+
		`"created_at":%q,"expires_at":%q,"ended_at":%s,"cancel_initiated_at":null,"archived_at":null,"results_url":%s}`,
		id, status, processing, succeeded, created.UTC().Format(time.RFC3339), created.Add(24*time.Hour).UTC().Format(time.RFC3339), ended, results)
}

// times is how often the upstream was asked for a prompt.
func (u *killUpstream) times(prompt string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.asked[prompt]
}

// all is how often it was asked for each prompt that something was to happen to.
func (u *killUpstream) all() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	asked := maps.Clone(u.asked)
	maps.DeleteFunc(asked, func(prompt string, _ int) bool { return isNew(prompt) })
	return fmt.Sprint(asked)
}

// said is the text of one attempt.
func said(prompt string, attempt int) string {
	var b strings.Builder
	for i := range words {
		fmt.Fprintf(&b, "%s/%d/%d ", prompt, attempt, i)
	}
	return b.String()
}
