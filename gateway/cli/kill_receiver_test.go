package cli_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path"
	"sync"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// killReceiver is told of the ends: a callback's path ends in the prompt, or the name, of what it tells of. It looks that
// each is signed, and that what comes again is the same.
type killReceiver struct {
	k       *killing
	mu      sync.Mutex
	webhook *standardwebhooks.Webhook // verifies; nil until the gateway has shown its secret
	got     map[string]*killCallback  // by prompt
	grown   chan struct{}             // closed when there is more, and replaced
}

type killCallback struct {
	times        int // it came
	id, body     string
	object, kind string
}

func newKillReceiver(k *killing) *killReceiver {
	return &killReceiver{k: k, got: map[string]*killCallback{}, grown: make(chan struct{})}
}

// trusts has the receiver believe whom the secret belongs to.
func (r *killReceiver) trusts(secret string) {
	webhook, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		r.k.t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.webhook = webhook
}

func (r *killReceiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the gateway died meanwhile
	}
	prompt := path.Base(req.URL.Path)
	first := r.takes(prompt, req.Header, string(body)) == 1 && !isNew(prompt)
	switch {
	case first && r.k.step == "called":
		r.k.stay(req, "called")
	case first && r.k.step == "postponed":
		w.WriteHeader(http.StatusServiceUnavailable)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

// takes looks at a callback, and returns how often it has come.
func (r *killReceiver) takes(prompt string, header http.Header, body string) int {
	t := r.k.t
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.webhook.Verify([]byte(body), header); err != nil {
		t.Errorf("the callback for %s: %v", prompt, err)
	}
	var told struct {
		Type string
		Data struct{ ID string }
	}
	if err := json.Unmarshal([]byte(body), &told); err != nil {
		t.Error(err)
	}
	c, id := r.got[prompt], header.Get("webhook-id")
	if c == nil {
		c = &killCallback{id: id, body: body, object: told.Data.ID, kind: told.Type}
		r.got[prompt] = c
	}
	if id == "" || id != c.id || body != c.body {
		t.Errorf("the callback for %s was %s %s and is %s %s", prompt, c.id, c.body, id, body)
	}
	c.times++
	close(r.grown)
	r.grown = make(chan struct{})
	return c.times
}

// isTold waits until the callback for a prompt has come so many times.
func (r *killReceiver) isTold(ctx context.Context, prompt string, times int) killCallback {
	r.k.t.Helper()
	for {
		r.mu.Lock()
		grown := r.grown
		var c killCallback
		if known := r.got[prompt]; known != nil {
			c = *known
		}
		r.mu.Unlock()
		if c.times >= times {
			return c
		}
		select {
		case <-grown:
		case <-ctx.Done():
			r.k.t.Fatalf("the callback for %s came %d times, not %d", prompt, c.times, times)
		}
	}
}

// counts is how often each callback has come, and how many have come so often.
func (r *killReceiver) counts() (all string, times map[int]int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	each, times := map[string]int{}, map[int]int{}
	for prompt, c := range r.got {
		if !isNew(prompt) {
			each[prompt] = c.times
			times[c.times]++
		}
	}
	return fmt.Sprint(each), times
}
