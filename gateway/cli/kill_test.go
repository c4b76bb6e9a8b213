package cli_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"sync"
	"testing"
)

var killRounds = flag.Int("kill.rounds", 2, "how often the gateway is killed at each step of a background stream")

// killSteps are where the gateway is killed: at the steps that a build with failpoints stops at, and at those that the
// upstream or the receiver of callbacks decides.
var killSteps = []string{
	"pushed",    // the item is in the queue, the caller has no answer yet
	"taken",     // accepted; a worker has it in hand
	"begins",    // the attempt is on record, the upstream not asked
	"asked",     // the upstream has the request, and says nothing
	"midstream", // viewers have seen a part
	"finished",  // the upstream is done, nothing is kept
	"logged",    // the log is kept, but not that the stream has ended
	"kept",      // the end is kept, its callback not on record, the item not out of the queue, no viewer has seen the end
	"noted",     // the callback is on record, not in its queue
	"enqueued",  // the callback is in its queue, and may be sent meanwhile; the stream's item is in the other one
	"done",      // all is done but for tidying up, and the callback, which may be anywhere
	"due",       // the callback is in hand, not sent
	"called",    // the receiver has it, and says nothing
	"answered",  // the receiver has taken it, which is not kept
	"settled",   // that it was taken is kept, its item not out of the queue
	"told",      // it is out of the queue
	"postponed", // the receiver has refused it for now; it waits for the next attempt
	"renewed",   // it was delivered, and is to be again, as its owner has asked
}

// Where a callback may come twice: what its receiver has said is not kept yet, or it is meant to come again.
var mayComeAgain = map[string]bool{"enqueued": true, "done": true, "called": true, "answered": true, "postponed": true, "renewed": true}

// TestKilledGatewayEndsEachAcceptedStreamOnce kills the real binary (kill -9) at each step, starts it again, and looks
// that each stream ends exactly once, that what it is, is one attempt's, that a viewer who comes back sees no splice, and
// that whoever asked is told, under one id, until nothing is left to tell.
func TestKilledGatewayEndsEachAcceptedStreamOnce(t *testing.T) {
	t.Parallel()
	binary := buildWithFailpoints(t)
	var mu sync.Mutex
	kills, attempts, callbacks := 0, map[int]int{}, map[int]int{}
	t.Cleanup(func() {
		if !t.Failed() {
			t.Logf("%d kills: each stream ended once, no viewer saw a splice, each end was told; attempts needed: %v; callbacks came so many times: %v", kills, attempts, callbacks)
		}
	})
	for _, step := range killSteps {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			k := newKilling(t, binary, step)
			for round := range *killRounds {
				n := k.round(round)
				mu.Lock()
				kills++
				attempts[n]++
				mu.Unlock()
			}
			k.isStable()
			_, times := k.receiver.counts()
			mu.Lock()
			defer mu.Unlock()
			for n, count := range times {
				callbacks[n] += count
				if n > 1 && !mayComeAgain[step] {
					t.Errorf("%d callbacks came %d times", count, n)
				}
			}
		})
	}
}

type killedObject struct {
	ID        string
	Status    string
	Attempt   int
	EventsURL string `json:"events_url"`
	Message   struct{ Content []struct{ Text string } }
}

// post asks for a stream. While the gateway is away, or stays at a step, there is an error.
func (k *killing) post(ctx context.Context, prompt string) (o killedObject, err error) {
	body := fmt.Sprintf(`{"model":"claude-x","max_tokens":99,"messages":[{"role":"user","content":%q}]}`, prompt)
	err = k.ask(ctx, "/v1/messages", body, &o, "Prefer", "respond-async", "Idempotency-Key", prompt, "Sluice-Callback-Url", k.callbacks+prompt)
	return o, err
}

// round kills the gateway once, and returns how many attempts the stream needed.
func (k *killing) round(round int) int {
	t := k.t
	prompt := fmt.Sprintf("%s-%d", k.step, round)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	k.start(k.step)
	var o killedObject
	var viewer *killViewer
	if k.step == "pushed" {
		asking, leave := context.WithCancel(ctx)
		go k.post(asking, prompt)
		k.reaches(ctx)
		leave()
	} else {
		var err error
		if o, err = k.post(ctx, prompt); err != nil {
			t.Fatal(err)
		}
		viewer = k.watch(ctx, o)
		if k.step == "renewed" {
			told := k.receiver.isTold(ctx, prompt, 1)
			k.isSettled(ctx)
			asking, leave := context.WithCancel(ctx)
			defer leave()
			go k.ask(asking, "/v1/callbacks/"+told.id+"/redeliver", "", nil)
		}
		k.reaches(ctx)
		if k.step == "midstream" {
			viewer.sees(ctx, 2+words/2)
		}
	}
	k.kill()
	k.start("")
	again, err := k.post(ctx, prompt) // as a client does that has no answer
	if err != nil {
		t.Fatal(err)
	}
	if viewer == nil {
		o = again
		viewer = k.watch(ctx, o)
	} else if again.ID != o.ID {
		t.Errorf("a repeated request made %s beside %s", again.ID, o.ID)
	}
	text := viewer.toEnd(ctx)
	code, body := k.get("/v1/streams/" + o.ID)
	var now killedObject
	if err := json.Unmarshal([]byte(body), &now); err != nil || code != 200 || now.Status != "completed" || len(now.Message.Content) != 1 {
		t.Fatalf("%d %s", code, body)
	}
	if now.Message.Content[0].Text != text {
		t.Errorf("a viewer saw %q, the stream is %q", text, now.Message.Content[0].Text)
	}
	asked, whole := k.upstream.times(prompt), false
	for attempt := 1; attempt <= asked; attempt++ {
		whole = whole || text == said(prompt, attempt)
	}
	if !whole {
		t.Errorf("%q is not what one attempt of %d said", text, asked)
	}
	k.streams[o.ID] = text
	if k.step != "postponed" { // which has seconds to wait, and does so while the next ones are killed
		times := 1
		if k.step == "renewed" {
			times = 2
		}
		told := k.receiver.isTold(ctx, prompt, times)
		k.isSettled(ctx)
		if told.object != o.ID || told.kind != "stream.completed" {
			t.Errorf("told of %s: %s", o.ID, told.body)
		}
	}
	k.kill()
	return asked
}

// isStable lets everything settle, starts the gateway once more, and looks that nothing is run or told again.
func (k *killing) isStable() {
	t := k.t
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	k.start("")
	k.isSettled(ctx)
	k.kill()
	asked := k.upstream.all()
	told, _ := k.receiver.counts()
	k.start("")
	// What would be run or told again stands in the queue before a new one.
	prompt := k.step + "-new"
	o, err := k.post(ctx, prompt)
	if err != nil {
		t.Fatal(err)
	}
	k.streams[o.ID] = k.watch(ctx, o).toEnd(ctx)
	k.receiver.isTold(ctx, prompt, 1)
	k.isSettled(ctx)
	for id, text := range k.streams {
		var now killedObject
		_, body := k.get("/v1/streams/" + id)
		if err := json.Unmarshal([]byte(body), &now); err != nil || now.Status != "completed" || now.Message.Content[0].Text != text {
			t.Errorf("after another start: %s", body)
		}
	}
	for _, list := range []string{"/v1/streams?limit=100", "/v1/callbacks?limit=100&status=delivered"} {
		var page struct{ Data []killedObject }
		if _, body := k.get(list); json.Unmarshal([]byte(body), &page) != nil || len(page.Data) != len(k.streams) {
			t.Errorf("%s has %d, and %d streams were accepted", list, len(page.Data), len(k.streams))
		}
	}
	if now := k.upstream.all(); now != asked {
		t.Errorf("the upstream was asked %s, and after another start %s", asked, now)
	}
	if now, _ := k.receiver.counts(); now != told {
		t.Errorf("the receiver was told %s, and after another start %s", told, now)
	}
}
