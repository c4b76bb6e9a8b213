package simulator

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"regexp"
	"time"
)

// batch is a Message Batch. Only canceled ever changes, under the shelf's lock; where the batch stands follows from
// that and the clock, so nothing has to run while it is being processed.
type batch struct {
	id          string
	number      uint64 // of the request that made it
	items       []item
	size        int
	created     time.Time
	takes       time.Duration
	cancelTakes time.Duration
	canceled    time.Time // when that was asked for; zero: never
}

const (
	statusInProgress = "in_progress"
	statusCanceling  = "canceling"
	statusEnded      = "ended"

	batchItemLimit = 100_000
	batchLife      = 24 * time.Hour      // what is not done then has expired
	batchArchived  = 29 * 24 * time.Hour // from creation on
)

// item is one request of a batch, read and judged when the batch was made; the answer is made when it is fetched.
type item struct {
	customID string
	request  *request
	plan     plan
	refusal  *apiError // what is wrong with it, or what its prompt asked for
}

// messageBatch is the object, and itemResult a line of the results.
type (
	messageBatch struct {
		ID                string        `json:"id"`
		Type              string        `json:"type"`
		ProcessingStatus  string        `json:"processing_status"`
		RequestCounts     requestCounts `json:"request_counts"`
		CreatedAt         string        `json:"created_at"`
		ExpiresAt         string        `json:"expires_at"`
		EndedAt           *string       `json:"ended_at"`
		CancelInitiatedAt *string       `json:"cancel_initiated_at"`
		ArchivedAt        *string       `json:"archived_at"`
		ResultsURL        *string       `json:"results_url"`
	}
	requestCounts struct {
		Processing int `json:"processing"`
		Succeeded  int `json:"succeeded"`
		Errored    int `json:"errored"`
		Canceled   int `json:"canceled"`
		Expired    int `json:"expired"`
	}
	itemResult struct {
		CustomID string  `json:"custom_id"`
		Result   outcome `json:"result"`
	}
	outcome struct {
		Type    string     `json:"type"`
		Message *message   `json:"message,omitempty"`
		Error   *itemError `json:"error,omitempty"`
	}
	itemError struct {
		Type      string    `json:"type"`
		Error     httpError `json:"error"`
		RequestID *string   `json:"request_id"`
	}
)

// newBatch reads the body of a creation. What is wrong with the list is refused now, and what is wrong with an item's
// params becomes that item's result, as at the API.
func (x *exchange) newBatch(body []byte) (*batch, error) {
	b := &batch{
		id: x.id("msgbatch_01"), number: x.number, size: len(body) + 1000, // and the bookkeeping
		created: time.Now(), takes: never, cancelTakes: x.simulator.options.BatchTime / 10,
	}
	var err error
	if b.items, err = x.readItems(body); err != nil {
		return nil, err
	}
	for _, item := range b.items {
		b.takes = max(b.takes, item.plan.batchTime)
	}
	if b.takes == never {
		b.takes = x.simulator.options.BatchTime
	}
	b.takes = min(b.takes, batchLife)
	return b, nil
}

// readItems goes through the list item by item, so that a body of the full size is not copied whole.
func (x *exchange) readItems(body []byte) ([]item, error) {
	if !json.Valid(body) {
		return nil, invalid("The request body is not valid JSON")
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	if start, _ := decoder.Token(); start != json.Delim('{') {
		return nil, invalid("Input should be an object")
	}
	var items []item
	listed := false
	for decoder.More() {
		name, _ := decoder.Token()
		if name != "requests" {
			return nil, invalid("%s: Extra inputs are not permitted", name)
		}
		if start, _ := decoder.Token(); listed || start != json.Delim('[') {
			return nil, invalid("requests: Input should be a valid list")
		}
		listed = true
		seen := make(map[string]bool)
		for decoder.More() {
			if len(items) == batchItemLimit {
				return nil, invalid("requests: List should have at most %d items", batchItemLimit)
			}
			var raw json.RawMessage
			if err := decoder.Decode(&raw); err != nil {
				return nil, invalid("The request body is not valid JSON: %v", err)
			}
			one, err := x.readItem(raw, len(items))
			if err != nil {
				return nil, err
			}
			if seen[one.customID] {
				return nil, invalid("requests.%d.custom_id: `%s` is not unique within the batch", len(items), one.customID)
			}
			seen[one.customID] = true
			items = append(items, one)
		}
		_, _ = decoder.Token() // the bracket: the body is valid
	}
	if !listed {
		return nil, invalid("requests: Field required")
	}
	if len(items) == 0 {
		return nil, invalid("requests: List should have at least 1 item")
	}
	return items, nil
}

var customIDForm = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)

func (x *exchange) readItem(raw json.RawMessage, at int) (item, error) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil || fields == nil {
		return item{}, invalid("requests.%d: Input should be an object", at)
	}
	for name := range fields {
		if name != "custom_id" && name != "params" {
			return item{}, invalid("requests.%d.%s: Extra inputs are not permitted", at, name)
		}
	}
	var one item
	id, present := fields["custom_id"]
	switch {
	case !present:
		return item{}, invalid("requests.%d.custom_id: Field required", at)
	case json.Unmarshal(id, &one.customID) != nil || !customIDForm.MatchString(one.customID):
		return item{}, invalid("requests.%d.custom_id: String should match pattern '%s'", at, customIDForm)
	}
	var params map[string]json.RawMessage
	raw, present = fields["params"]
	switch {
	case !present:
		return item{}, invalid("requests.%d.params: Field required", at)
	case json.Unmarshal(raw, &params) != nil || params == nil:
		return item{}, invalid("requests.%d.params: Input should be an object", at)
	}
	one.judge(raw, params, x.count)
	return one, nil
}

// judge finds out what will become of an item if the batch lives long enough.
func (i *item) judge(raw []byte, params map[string]json.RawMessage, times func(string) int) {
	i.plan.batchTime = never
	if i.refusal = notInBatches(params); i.refusal != nil {
		return
	}
	var err error
	if i.request, err = newRequest(raw, false); err == nil {
		i.plan, err = newPlan("", i.request.prompt, times)
	}
	if err != nil {
		i.refusal = err.(*apiError) // both return nothing else
		return
	}
	switch p := &i.plan; {
	case p.refusal != nil:
		i.refusal = p.refusal
	case p.errorFirst || p.ending == endError:
		overloaded(p, 0)
		i.refusal = p.refusal
	case p.page != nil || p.ending != endWhole:
		i.refusal = newAPIError(500, "api_error", "Internal server error")
	}
}

// notInBatches says which of the params is for single requests only.
func notInBatches(params map[string]json.RawMessage) *apiError {
	for _, name := range []string{"speed", "store", "previous_thread_event_id", "cache_hint", "context_hint", "fallbacks"} {
		if _, ok := params[name]; ok {
			return invalid("%s: not supported in Message Batches", name)
		}
	}
	for name, value := range map[string]string{"stream": "true", "max_tokens": "0", "research_preview_2026_02": `"active"`} {
		if string(params[name]) == value {
			return invalid("%s: %s is not supported in Message Batches", name, value)
		}
	}
	return nil
}

func (b *batch) ends() time.Time {
	end := b.created.Add(b.takes)
	if b.canceled.IsZero() {
		return end
	}
	if soon := b.canceled.Add(b.cancelTakes); soon.Before(end) {
		return soon
	}
	return end
}

func (b *batch) status(now time.Time) string {
	switch {
	case !now.Before(b.ends()):
		return statusEnded
	case !b.canceled.IsZero():
		return statusCanceling
	}
	return statusInProgress
}

func (b *batch) archived(now time.Time) bool { return !now.Before(b.created.Add(batchArchived)) }

// object is the batch as the API shows it in a status. The counts do not move before the end.
func (b *batch) object(status string, now time.Time, origin string) messageBatch {
	m := messageBatch{
		ID: b.id, Type: "message_batch", ProcessingStatus: status,
		CreatedAt: *timestamp(b.created), ExpiresAt: *timestamp(b.created.Add(batchLife)),
	}
	if !b.canceled.IsZero() {
		m.CancelInitiatedAt = timestamp(b.canceled)
	}
	if status != statusEnded {
		m.RequestCounts.Processing = len(b.items)
		return m
	}
	m.EndedAt = timestamp(b.ends())
	for i := range b.items {
		switch b.outcome(i) {
		case "succeeded":
			m.RequestCounts.Succeeded++
		case "errored":
			m.RequestCounts.Errored++
		case "canceled":
			m.RequestCounts.Canceled++
		case "expired":
			m.RequestCounts.Expired++
		}
	}
	if b.archived(now) {
		m.ArchivedAt = timestamp(b.created.Add(batchArchived))
		return m
	}
	url := origin + "/v1/messages/batches/" + b.id + "/results"
	m.ResultsURL = &url
	return m
}

func timestamp(t time.Time) *string {
	s := t.UTC().Format("2006-01-02T15:04:05.000000Z")
	return &s
}

// outcome says how item i ended. The items are done one after another, the last at the batch's end; what is left when
// the batch is canceled is canceled, and what is left after a day has expired.
func (b *batch) outcome(i int) string {
	done := b.created.Add(b.takes / time.Duration(len(b.items)) * time.Duration(i+1))
	switch one := &b.items[i]; {
	case !b.canceled.IsZero() && done.After(b.canceled):
		return "canceled"
	case one.refusal != nil:
		return "errored"
	case one.plan.expires || !done.Before(b.created.Add(batchLife)):
		return "expired"
	}
	return "succeeded"
}

// results makes the lines one by one, the same ones each time.
func (b *batch) results(s *Simulator, write func(itemResult) error) error {
	var seen tally // of prompts in the cache, of this batch alone: it must not matter who asked for what before
	for _, i := range rand.New(rand.NewPCG(s.options.Seed, ^b.number)).Perm(len(b.items)) {
		one := &b.items[i]
		result := itemResult{one.customID, outcome{Type: b.outcome(i)}}
		switch result.Result.Type {
		case "succeeded":
			x := &exchange{simulator: s, number: b.number, random: rand.New(rand.NewPCG(s.options.Seed^b.number, ^uint64(i))), count: seen.add}
			m := x.newAnswer(one.request, one.plan).whole()
			m.Usage.ServiceTier = "batch"
			result.Result.Message = &m
		case "errored":
			result.Result.Error = &itemError{"error", httpError{one.refusal.kind, one.refusal.message}, nil}
		}
		if err := write(result); err != nil {
			return err
		}
	}
	return nil
}
