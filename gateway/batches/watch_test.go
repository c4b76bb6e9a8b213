package batches

import (
	"container/heap"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sluice/gateway/claude"
	"sluice/gateway/limits"
)

const minute = time.Minute

func TestQuestionsGetRarerWithAgeAndNumber(t *testing.T) {
	for name, c := range map[string]struct {
		age      time.Duration
		n        int
		seen     bool
		failures int
		jitter   float64
		want     time.Duration
	}{
		"new":                          {0, 1, false, 0, 0, 5 * time.Second},
		"not yet created by its clock": {-time.Hour, 1, false, 0, 0, 5 * time.Second},
		"ten minutes":                  {10 * time.Minute, 1, false, 0, 0, time.Minute},
		"an hour":                      {time.Hour, 1, false, 0, 0, 5 * time.Minute},
		"a day":                        {24 * time.Hour, 1, false, 0, 0, 5 * time.Minute},
		"jittered":                     {time.Hour, 1, false, 0, 1, 4 * time.Minute},
		"an hour, looked at":           {time.Hour, 1, true, 0, 0, 15 * time.Second},
		"one of 10,000":                {0, 10_000, false, 0, 0, 1000 * time.Second},
		"one of 10,000, looked at":     {time.Hour, 10_000, true, 0, 0, 15 * time.Second},
		"failed once":                  {0, 1, false, 1, 0, 10 * time.Second},
		"failed four times":            {0, 1, false, 4, 0, 80 * time.Second},
		"failed for ever":              {time.Hour, 1, false, 1 << 30, 0, 10 * time.Minute},
		"one of 10,000, failed":        {0, 10_000, false, 3, 0, 1000 * time.Second},
		"looked at, failed for ever":   {time.Hour, 1, true, 100, 0, 10 * time.Minute},
	} {
		if got := interval(c.age, c.n, c.seen, c.failures, c.jitter); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestTenThousandBatchesAreAskedAboutTenTimesASecond runs the real schedule for three hours of fake time, without the questions.
func TestTenThousandBatchesAreAskedAboutTenTimesASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Batches{watched: make(map[string]*watched), nudge: make(chan struct{}, 1)}
		const n = 10_000
		for i := range n {
			b.watch(Batch{ID: fmt.Sprint(i), Status: "in_progress", Created: time.Now()}, 1, nil)
		}
		last := make(map[string]time.Time, n)
		begun, asked, longest := time.Now(), 0, time.Duration(0)
		for time.Since(begun) < 3*time.Hour {
			w, wait := b.next()
			if w == nil {
				time.Sleep(wait)
				continue
			}
			asked++
			if at, ok := last[w.batch.ID]; ok {
				longest = max(longest, time.Since(at))
			}
			last[w.batch.ID] = time.Now()
			b.mu.Lock()
			b.planLocked(w, 0)
			b.mu.Unlock()
		}
		if rate := float64(asked) / time.Since(begun).Seconds(); rate < 9 || rate > 12.5 || len(last) != n || longest > 1000*time.Second+beat {
			t.Errorf("%.1f questions a second about %d batches, %v apart at most", rate, len(last), longest)
		}
	})
}

// TestRestartAsksNoFasterThanBefore: all are half a day old, and so each would wait as long as the others.
func TestRestartAsksNoFasterThanBefore(t *testing.T) {
	for _, n := range []int{1, 300, 3000, 10_000} {
		synctest.Test(t, func(t *testing.T) {
			b := &Batches{watched: make(map[string]*watched), nudge: make(chan struct{}, 1)}
			var found []*watched
			for i := range n {
				found = append(found, b.addLocked(Batch{ID: fmt.Sprint(i), Status: "in_progress", Created: time.Now().Add(-12 * time.Hour)}, 1, nil))
			}
			b.resumeLocked(found)
			const window = 30 * time.Second
			asked, seen := make(map[int]int), make(map[string]bool)
			for begun := time.Now(); time.Since(begun) < 1000*time.Second; {
				w, wait := b.next()
				if w == nil {
					time.Sleep(wait)
					continue
				}
				asked[int(time.Since(begun)/window)]++
				seen[w.batch.ID] = true
				b.planLocked(w, 0)
			}
			for at, times := range asked {
				if most := 2 * 10 * window.Seconds(); float64(times) > most { // chance, and what jitter adds, are far from that
					t.Errorf("%d batches: %d questions in the %d. half minute", n, times, at)
				}
			}
			if len(seen) != n {
				t.Errorf("%d batches of %d were asked about", len(seen), n)
			}
		})
	}
}

func TestBatchIsNotAskedAboutWhileTheUpstreamWantsToBeLeftAlone(t *testing.T) {
	r := newRoom(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "120")
		w.WriteHeader(429)
	}))
	r.watch(Batch{ID: "msgbatch_1", Owner: "key:alice", Status: "in_progress", Created: time.Now()}, 1, nil)
	r.watch(Batch{ID: "msgbatch_2", Owner: "key:alice", Status: "in_progress", Created: time.Now()}, 1, nil)
	r.mu.Lock()
	w := heap.Pop(&r.due).(*watched)
	r.mu.Unlock()
	r.step(t.Context(), w)
	if one, wait := r.next(); one != nil || wait < 119*time.Second || wait > 120*time.Second {
		t.Errorf("the next question comes after %v", wait)
	}
	if w.failures != 1 || len(r.due) != 2 {
		t.Errorf("%d failures, %d waiting", w.failures, len(r.due))
	}
}

func TestRefusedItemMakesNoBatch(t *testing.T) {
	sim := simulated()
	r := newRoom(t, sim)
	refusal := errors.New("not in the plan")
	p := params(body("one", "two", "three"))
	seen := 0
	p.Resubmit = true
	p.Check = func(item claude.BatchItem) error {
		if seen++; item.CustomID == "c" {
			return refusal
		}
		return nil
	}
	if _, _, err := r.Create(t.Context(), p); err != refusal || seen != 3 {
		t.Errorf("%v after %d items", err, seen)
	}
	if list, more, err := r.List(t.Context(), "key:alice", "", "", 10); err != nil || len(list) != 0 || more {
		t.Errorf("%v %v", list, err)
	}
	w := httptest.NewRecorder()
	q := httptest.NewRequest("GET", "/v1/messages/batches", nil)
	q.Header = http.Header{"X-Api-Key": {"sk-test"}, "Anthropic-Version": {"2023-06-01"}}
	sim.ServeHTTP(w, q)
	if !strings.HasPrefix(w.Body.String(), `{"data":[],`) {
		t.Errorf("at the upstream: %s", w.Body)
	}
}

func TestUpstreamsRefusalEndsTheUpload(t *testing.T) {
	r := newRoom(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		w.WriteHeader(413)
		fmt.Fprint(w, `{"type":"error","error":{"type":"request_too_large","message":"Too large"}}`)
	}))
	endless, item := &endless{}, body("x")
	endless.piece = item[len(`{"requests":[`):len(item)-2] + ","
	p := params("")
	p.Body = endless
	_, _, err := r.Create(t.Context(), p)
	var refused *claude.Error
	if !errors.As(err, &refused) || refused.Status != 413 {
		t.Errorf("%v", err)
	}
}

// endless is a body that ends only when it is closed.
type endless struct {
	piece string
	begun bool
}

func (e *endless) Read(p []byte) (int, error) {
	if !e.begun {
		e.begun = true
		return copy(p, `{"requests":[`), nil
	}
	return copy(p, e.piece), nil // the reader's buffer is larger
}

func (e *endless) Close() error { return nil }

func TestBatchThatTheUpstreamLostIsOverAndSaysSo(t *testing.T) {
	sim := simulated()
	r := newRoom(t, sim)
	p := params(body("one"))
	p.Callback = "https://receiver.example/"
	one := r.create(p)
	q := httptest.NewRequest("DELETE", "/v1/messages/batches/"+one.ID, nil)
	q.Header = http.Header{"X-Api-Key": {"sk-test"}, "Anthropic-Version": {"2023-06-01"}}
	sim.ServeHTTP(httptest.NewRecorder(), q)
	if one = r.run(one.ID); !one.Over || !one.Lost || one.Status != claude.BatchEnded || one.Summary == nil {
		t.Errorf("%+v", one)
	}
	if data := string(r.event(one).Data); !strings.Contains(data, `"error":{"type":"not_found_error"`) {
		t.Errorf("%s", data)
	}
	if k, err := r.calls.Get(t.Context(), "key:alice", one.ID); err != nil || k.Type != EventEnded {
		t.Errorf("%+v, %v", k, err)
	}
	if len(r.watched) != 0 || len(r.due) != 0 {
		t.Errorf("%d are watched still", len(r.watched))
	}
}

func TestEndIsSettledOnceAndOverOnce(t *testing.T) {
	r := newRoom(t, simulated())
	one := r.create(params(body("short", "short", "fault:529")))
	one = r.run(one.ID)
	if !one.Over || one.Summary.Usage.Output == 0 || len(one.Summary.Errors) != 1 || one.Summary.Errors[0] != (ErrorsOfOne{"overloaded_error", "Overloaded", 1}) {
		t.Errorf("%+v %+v", one, one.Summary)
	}
	// What another process has settled meanwhile is not settled again.
	if err := r.finish(t.Context(), one, 1); err == nil {
		t.Error("an old state was written over a new one")
	}
}

func TestRestartReadsWhatIsNotOver(t *testing.T) {
	r := newRoom(t, simulated())
	over := r.create(params(body("one")))
	r.run(over.ID)
	open := r.create(params(body("fault:batch-time")))
	next := &room{&Batches{client: r.client, calls: r.calls, store: r.store, records: r.records, bodies: r.bodies, log: r.log,
		watched: make(map[string]*watched), nudge: make(chan struct{}, 1)}, t, r.upstream}
	if err := next.load(t.Context()); err != nil || len(next.watched) != 1 || next.watched[open.ID] == nil {
		t.Errorf("%v: %d are watched", err, len(next.watched))
	}
}

func TestInterruptedResubmissionIsNotRepeated(t *testing.T) {
	r := newRoom(t, simulated())
	p := params(body("short", "fault:expire"))
	p.Resubmit = true
	for name, c := range map[string]struct {
		made bool
		want string
	}{"no trace of a successor": {false, resubmitUnknown}, "a successor was remembered": {true, resubmitDone}} {
		p.Body = &closing{Reader: strings.NewReader(body("short", "fault:expire"))}
		one := r.create(p)
		_, revision, err := r.find(t.Context(), one.Owner, one.ID)
		if err != nil {
			t.Fatal(err)
		}
		// As the process left it when it was killed while it sent the expired requests again.
		one.Resubmission = resubmitAsked
		if revision, err = r.records.Update(t.Context(), one.key(), one.encode(), revision); err != nil {
			t.Fatal(err)
		}
		r.update(one, revision)
		successor := ""
		if c.made {
			next := one
			next.ID, next.Predecessor, next.Kept = "msgbatch_next", one.ID, ""
			if _, err := r.records.Create(t.Context(), next.key(), next.encode()); err != nil {
				t.Fatal(err)
			}
			successor = next.ID
		}
		one = r.run(one.ID)
		if !one.Over || one.Resubmission != c.want || one.Successor != successor {
			t.Errorf("%s: %+v", name, one)
		}
		if n := len(r.watched); n != 0 {
			t.Errorf("%s: %d batches are watched", name, n)
		}
	}
}

func TestViewSeesEachChangeAndTheEnd(t *testing.T) {
	r := newRoom(t, simulated())
	one := r.create(params(body("short")))
	v, err := r.View(t.Context(), "key:alice", one.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	var seen []string
	for {
		now, changed, err := v.Batch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, fmt.Sprintf("%s/%t/%t", now.Status, now.Summary != nil, now.Over))
		if now.Over {
			break
		}
		w := r.watched[one.ID]
		heap.Remove(&r.due, w.place)
		r.step(t.Context(), w)
		<-changed
	}
	if got := strings.Join(seen, " "); got != "in_progress/false/false ended/false/false ended/true/true" {
		t.Error(got)
	}
	if _, err := r.View(t.Context(), "key:bob", one.ID); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

func TestRecordKeepsTheObjectByteForByte(t *testing.T) {
	one := Batch{Object: []byte(`{ "a" : "<&>", "b":1.50 }`)}
	var back Batch
	if err := json.Unmarshal(one.encode(), &back); err != nil || string(back.Object) != string(one.Object) {
		t.Errorf("%v %s", err, back.Object)
	}
}

// BenchmarkAskAboutOneBatch is what a question costs, the simulated upstream's part included: times ten a second.
func BenchmarkAskAboutOneBatch(b *testing.B) {
	r := newRoom(b, simulated())
	p := params(body("fault:batch-time=80000000"))
	one, _, err := r.Create(context.Background(), p)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := r.poll(context.Background(), one); err != nil {
			b.Fatal(err)
		}
	}
}

// TestBatchFoundTwiceKeepsItsGrant: whoever makes one while Run reads the store is not left with tokens set aside for ever.
func TestBatchFoundTwiceKeepsItsGrant(t *testing.T) {
	b := newRoom(t, simulated())
	b.limits.SetPlans(map[string]limits.Plan{"default": {TokensPerDay: 10_000}})
	one := b.create(params(body("short")))
	for range 2 {
		if err := b.load(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if used, _, _ := b.limits.Look("key:alice", "default"); used.Reserved == 0 {
		t.Error("nothing is reserved")
	}
	b.run(one.ID)
	if used, _, _ := b.limits.Look("key:alice", "default"); used.Reserved != 0 || used.Today.Answers != 1 {
		t.Errorf("%+v", used)
	}
}
