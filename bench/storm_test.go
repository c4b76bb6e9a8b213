package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// hub is a relay of one stream that any number may read, from any id on. It takes events from a publisher, too.
type hub struct {
	returns chan struct{} // one for each reader that comes back; the stream's end waits for as many as it can hold

	mu     sync.Mutex
	frames []string
	more   chan struct{} // closed with the next event
	ended  bool
}

func newHub(returns int) *hub {
	return &hub{returns: make(chan struct{}, returns), more: make(chan struct{})}
}

func (h *hub) event(name string, data []byte) error {
	if name == "message_stop" {
		for range cap(h.returns) {
			<-h.returns
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.frames = append(h.frames, fmt.Sprintf("event: %s\nid: %d\ndata: %s\n\n", name, len(h.frames)+1, data))
	h.ended = name == "message_stop"
	close(h.more)
	h.more = make(chan struct{})
	return nil
}

func (h *hub) flush() error { return nil }

// ServeHTTP makes a stream of what is posted, one event, or one that is played.
func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/pub":
		data, _ := io.ReadAll(r.Body)
		h.event(r.Header.Get("X-EventSource-Event"), data)
	case r.Method == http.MethodPost:
		body, _ := io.ReadAll(r.Body)
		_, model, _ := strings.Cut(string(body), `"model":"`)
		model, _, _ = strings.Cut(model, `"`)
		go parseShape(model).play(context.Background(), h, "msg_1", model)
		io.WriteString(w, `{"events_url":"/sub"}`)
	default:
		h.follow(w, r)
	}
}

func (h *hub) follow(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	var at int
	if fmt.Sscan(r.Header.Get("Last-Event-ID"), &at); at > 0 {
		h.returns <- struct{}{}
	}
	for {
		h.mu.Lock()
		frames, more, ended := h.frames[at:], h.more, h.ended
		h.mu.Unlock()
		io.WriteString(w, strings.Join(frames, ""))
		if at += len(frames); ended {
			return
		}
		http.NewResponseController(w).Flush()
		select {
		case <-more:
		case <-r.Context().Done():
			return
		}
	}
}

func TestEverybodyIsDroppedOnceAndComesBack(t *testing.T) {
	t.Parallel()
	f := at(t, newHub(20), options{model: "bench-e40-i5-b10-g20", mode: "viewers", n: 20, ramp: time.Millisecond, away: 10 * time.Millisecond})
	if f.verdict() != nil || f.Events != 20*40 || f.Reconnects != 20 {
		t.Errorf("%d events, %d reconnects; %v", f.Events, f.Reconnects, f.verdict())
	}
}

// A viewer has caught up when it has all that was sent before it was answered again.
func TestStormLastsUntilTheLastHasCaughtUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		s := newStorm(ctx, 3, time.Second)
		var all sync.WaitGroup
		all.Go(func() { s.run(ctx, 0) })
		for i := range 3 {
			all.Go(func() {
				v := survivor{storm: s}
				defer v.done()
				old := time.Now()
				v.took(old.UnixNano(), time.Now())
				<-v.context(ctx).Done()
				if v.wait(ctx); time.Since(old) != time.Second {
					t.Errorf("back after %v, not 1s", time.Since(old))
				}
				v.answered()
				if i == 2 { // never sees anything new
					return
				}
				time.Sleep(time.Duration(i+1) * time.Second)
				v.took(old.UnixNano(), time.Now())
				time.Sleep(time.Minute)
				v.took(time.Now().UnixNano(), time.Now())
			})
		}
		all.Wait()
		if s.seconds != 2 {
			t.Errorf("all had caught up after %v s, want 2", s.seconds)
		}
	})
}

func TestOnesThatFailDoNotHoldAStormUp(t *testing.T) {
	t.Parallel()
	var first sync.Once
	h := newHub(4) // the fifth is refused
	refusing := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refused := false
		if r.Header.Get("Last-Event-ID") != "" {
			first.Do(func() { refused = true })
		}
		if refused {
			http.Error(w, "no", http.StatusBadGateway)
			return
		}
		h.ServeHTTP(w, r)
	})
	f := at(t, refusing, options{model: "bench-e40-i5-b10-g20", mode: "viewers", n: 5, ramp: time.Millisecond, away: time.Millisecond})
	if f.Failed != 1 || f.Completed != 4 || !strings.Contains(f.FirstFailure, "502") {
		t.Errorf("%d failed, %d completed: %q", f.Failed, f.Completed, f.FirstFailure)
	}
}

func TestPublishedEventsReachSubscribers(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(newHub(0)) // the publisher's, and the subscribers' by a proxy
	defer server.Close()
	relay := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { server.Config.Handler.ServeHTTP(w, r) })
	f := at(t, relay, options{model: "bench-e10-i0-b10-g20", mode: "subscribe", path: "/sub", publish: server.URL + "/pub", n: 3, ramp: time.Millisecond})
	if f.verdict() != nil || f.Events != 30 {
		t.Errorf("%d events; %v", f.Events, f.verdict())
	}
}

func TestOnlySoManyAreOpenAtOnce(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	open, most := 0, 0
	f := at(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		open++
		most = max(most, open)
		mu.Unlock()
		new(upstream).messages(w, r)
		mu.Lock()
		open--
		mu.Unlock()
	}), options{model: "bench-e3-i0", n: 40, atOnce: 3})
	if f.verdict() != nil || f.Completed != 40 || most > 3 {
		t.Errorf("%d completed, %d open at once; %v", f.Completed, most, f.verdict())
	}
}
