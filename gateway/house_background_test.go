package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/gateway"
	"sluice/gateway/limits"
	"sluice/gateway/simulator"
)

// async asks for a background stream.
const async = "respond-async"

// queue asks for a background stream, which must be accepted.
func (h *house) queue(body string, headers ...string) (o object) {
	h.t.Helper()
	h.do("POST", "/v1/streams", body, append([]string{"prefer", async}, headers...)...).status(202).into(&o)
	return o
}

// on opens a gateway on the same store as another one, which has been stopped.
func keptIn(dir string) func(*gateway.Config) { return func(c *gateway.Config) { c.Store.Dir = dir } }

// restart stops a gateway and opens another one on its store.
func (h *house) restart(claude http.Handler, dir string, changes ...func(*gateway.Config)) *house {
	h.t.Helper()
	h.stop()
	h.waitStopped()
	return openHouse(h.t, claude, append([]func(*gateway.Config){keptIn(dir)}, changes...)...)
}

// follows reads an events URL by its ticket alone.
func (h *house) follows(eventsURL string, headers ...string) *reading {
	h.t.Helper()
	u, err := url.Parse(eventsURL)
	if err != nil {
		h.t.Fatal(err)
	}
	return h.watch("GET", u.RequestURI(), "", append([]string{"x-api-key", ""}, headers...)...)
}

func TestBackgroundStreamRunsWithoutABrowserAndSurvivesARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h := openHouse(t, saying(25), keptIn(dir))
	want := relayed(parseWire(string(message(25))))
	var made []object
	for _, route := range []string{"/v1/messages", "/v1/streams"} {
		for _, body := range []string{request("short"), ask("short")} {
			a := h.do("POST", route, body, "prefer", `foo; bar="a,b", Respond-Async, wait=10`).status(202)
			var o object
			a.into(&o)
			if a.header.Get("Preference-Applied") != async || a.header.Get("Location") != h.url+"/v1/streams/"+o.ID {
				t.Errorf("headers %v", a.header)
			}
			if o.Type != "stream" || o.Status != "queued" || o.Attempt != 1 || o.Model != nil || string(o.Message) != "null" ||
				o.EndedAt != nil || o.ExpiresAt != nil || o.Error != nil || !strings.HasPrefix(o.EventsURL, h.url) {
				t.Errorf("%+v", o)
			}
			made = append(made, o)
		}
	}
	check := func(h *house) {
		t.Helper()
		for _, o := range made {
			now := h.reaches(o.ID, "completed")
			var m struct{ Content []struct{ Text string } }
			if err := json.Unmarshal(now.Message, &m); err != nil || len(m.Content) != 1 || !strings.HasSuffix(m.Content[0].Text, "word 24 ") {
				t.Errorf("%s: %v", now.Message, err)
			}
			if now.Attempt != 1 || now.UsageSource != "reported" || !strings.Contains(string(now.Usage), `"output_tokens":42`) || *now.CreatedAt != *o.CreatedAt || now.ExpiresAt == nil {
				t.Errorf("%+v", now)
			}
			events := h.follows(o.EventsURL + "&exact=1").rest()
			numbered(t, events, 0)
			same(t, events, want)
			h.fetch("GET", h.url+"/v1/streams/"+o.ID+"/events", "", "last-event-id", fmt.Sprint(len(want))).status(204)
			events = h.follows(o.EventsURL+"&exact=1", "last-event-id", "7").rest()
			numbered(t, events, 7)
			same(t, events, want[7:])
		}
		h.do("GET", "/v1/streams/"+made[0].ID, "", "x-api-key", bobKey).refused(404, "not_found_error")
		h.do("GET", "/v1/streams/"+made[0].ID+"/events", "", "x-api-key", bobKey).refused(404, "not_found_error")
		h.do("DELETE", "/v1/streams/"+made[0].ID, "", "x-api-key", bobKey).refused(404, "not_found_error")
		h.do("POST", "/v1/streams/"+made[0].ID+"/cancel", "", "x-api-key", bobKey).refused(404, "not_found_error")
	}
	check(h)
	h.becomes(`sluice_background_attempts_total{outcome="completed"}`, 4)
	ended := h.get(made[0].ID)
	h = h.restart(saying(1), dir)
	check(h)
	if now := h.get(made[0].ID); *now.EndedAt != *ended.EndedAt || *now.ExpiresAt != *ended.ExpiresAt {
		t.Errorf("%+v was %+v", now, ended)
	}
	if n := len(h.upstream.requests()); n != 0 {
		t.Errorf("the upstream was asked %d times for what had ended", n)
	}
}

func TestPreferencesOfOthersChangeNothing(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1))
	for _, prefer := range []string{"", "wait=10", "return=respond-async", `foo="respond-async"`, `foo=", respond-async,"`, "x-respond-async"} {
		h.do("POST", "/v1/streams", request("short"), "prefer", prefer).status(201)
	}
	h.do("POST", "/v1/streams", `{"model":`, "prefer", async).refused(400, "invalid_request_error")
	h.do("POST", "/v1/streams", request("short"), "prefer", async, "idempotency-key", strings.Repeat("k", 256)).refused(400, "invalid_request_error")
}

func TestQueuedStreamIsWatchedFromBeforeItsBeginning(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f, func(c *gateway.Config) {
		c.Background.Concurrency = 1
		c.Relay.PingInterval = 20 * time.Millisecond
	})
	h.queue(request("first"))
	first := f.next(t)
	first.send(start)
	o := h.queue(request("second"))
	r := h.follows(o.EventsURL)
	if e := r.next(); e.name != "ping" || e.id != "" {
		t.Errorf("%+v", e)
	}
	if now := h.get(o.ID); now.Status != "queued" || now.Viewers != 1 {
		t.Errorf("%+v", now)
	}
	first.finish()
	second := f.next(t)
	second.send(start)
	if e := r.nextBut(); e.name != "message_start" || e.id != "1" {
		t.Errorf("%+v", e)
	}
	if now := h.get(o.ID); now.Status != "in_progress" {
		t.Errorf("%+v", now)
	}
	second.send(block)
	late := h.follows(o.EventsURL, "last-event-id", "1")
	for _, r := range []*reading{r, late} {
		if e := r.nextBut(); e.name != "content_block_start" || e.id != "2" {
			t.Errorf("%+v", e)
		}
	}
	second.finish()
	endsWith(t, r.rest(), "message_stop")
	endsWith(t, late.rest(), "message_stop")
}

func TestNobodyWatchingIsNoReasonToStopABackgroundStream(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f, func(c *gateway.Config) {
		c.Relay.AbandonAfter = gateway.AbandonAfter{Messages: time.Millisecond, Streams: time.Millisecond}
	})
	o := h.queue(request("long"))
	up := f.next(t)
	up.send(start)
	r := h.follows(o.EventsURL)
	r.next()
	r.leave()
	h.becomes("sluice_viewers_active", 0)
	wait(t, 30*time.Millisecond)
	up.send(block)
	up.finish()
	h.reaches(o.ID, "completed")
}

// TestCancelAndDeleteWorkInEveryState cancels, or deletes, before the beginning, in the middle, and after a restart.
func TestCancelAndDeleteWorkInEveryState(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"cancel", "delete"} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			f := newFaucet()
			h := openHouse(t, f, keptIn(dir), func(c *gateway.Config) { c.Background.Concurrency = 1 })
			do := func(h *house, id string) {
				t.Helper()
				if verb == "delete" {
					h.do("DELETE", "/v1/streams/"+id, "").status(200)
					h.do("GET", "/v1/streams/"+id, "").refused(404, "not_found_error")
					h.do("DELETE", "/v1/streams/"+id, "").refused(404, "not_found_error")
					return
				}
				for range 2 {
					var o object
					h.do("POST", "/v1/streams/"+id+"/cancel", "").status(200).into(&o)
					if o.Status != "canceled" || o.Error == nil || o.Error.Type != "canceled_error" {
						t.Errorf("%+v", o)
					}
				}
			}
			running := h.queue(request("runs"))
			up := f.next(t)
			up.send(start, block)
			waiting := h.queue(request("waits"))
			watched := h.queue(request("waits, watched"))
			r := h.follows(watched.EventsURL)
			later := h.queue(request("never begins"))
			done := h.queue(request("ends"))
			do(h, waiting.ID)
			do(h, watched.ID)
			endsWith(t, r.rest(), "canceled_error")
			reader := h.follows(running.EventsURL)
			do(h, running.ID)
			up.left()
			endsWith(t, reader.rest(), "canceled_error")
			up = f.next(t) // the next in the queue, whichever that is
			up.send(start)
			second := later
			if h.get(done.ID).Status == "in_progress" {
				second, done = done, later
			}
			do(h, second.ID)
			up = f.next(t)
			up.send(start, block)
			up.finish()
			h.reaches(done.ID, "completed")
			h.becomes("sluice_streams_active", 0)

			h = h.restart(f, dir)
			for _, o := range []object{running, waiting, watched, second} {
				if verb == "delete" {
					h.do("GET", "/v1/streams/"+o.ID, "").refused(404, "not_found_error")
				} else {
					endsWith(t, h.follows(o.EventsURL).rest(), "canceled_error")
					do(h, o.ID)
				}
			}
			if verb == "delete" {
				do(h, done.ID)
			} else if o := h.do("POST", "/v1/streams/"+done.ID+"/cancel", "").status(200); !strings.Contains(o.body, `"status":"completed"`) {
				t.Errorf("%s", o.body)
			}
			var page struct{ Data []object }
			h.do("GET", "/v1/streams", "").status(200).into(&page)
			if want := map[string]int{"delete": 0, "cancel": 5}[verb]; len(page.Data) != want {
				t.Errorf("%d streams are listed, want %d", len(page.Data), want)
			}
			select {
			case <-f.taps:
				t.Error("a stream that had ended was run")
			default:
			}
		})
	}
}

func TestListsHoldStreamsOfBothKindsNewestFirst(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h := openHouse(t, saying(1), keptIn(dir))
	var want []string
	for i := range 6 {
		if i%2 == 0 {
			want = append(want, h.start(request("short")).ID)
		} else {
			o := h.queue(request("short"))
			h.reaches(o.ID, "completed")
			want = append(want, o.ID)
		}
	}
	slices.Reverse(want)
	listed := func(h *house) (ids []string) {
		t.Helper()
		after := ""
		for {
			var page struct {
				Data    []object
				HasMore bool   `json:"has_more"`
				LastID  string `json:"last_id"`
			}
			h.do("GET", "/v1/streams?limit=2"+after, "").status(200).into(&page)
			for _, o := range page.Data {
				if o.Status != "completed" || *o.Model != "claude-sonnet-4-6" || len(o.Usage) < 10 {
					t.Errorf("%+v", o)
				}
				ids = append(ids, o.ID)
			}
			if !page.HasMore {
				return ids
			}
			after = "&after_id=" + page.LastID
		}
	}
	if got := listed(h); !slices.Equal(got, want) {
		t.Errorf("listed %v, want %v", got, want)
	}
	h = h.restart(saying(1), dir)
	want = []string{want[0], want[2], want[4]} // the others were this process's
	if got := listed(h); !slices.Equal(got, want) {
		t.Errorf("listed %v after the restart, want %v", got, want)
	}
	var page struct{ Data []object }
	h.do("GET", "/v1/streams", "", "x-api-key", bobKey).status(200).into(&page)
	if len(page.Data) != 0 {
		t.Errorf("bob sees %+v", page.Data)
	}
}

func TestIdempotencyKeysHoldAcrossRestarts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := newFaucet()
	h := openHouse(t, f, keptIn(dir), func(c *gateway.Config) {
		c.Plans = map[string]limits.Plan{"default": {RequestsPerMinute: 2}}
		c.Server.Drain = 0
	})
	key := []string{"idempotency-key", "a key"}
	o := h.queue(request("long"), key...)
	again := func(h *house) {
		t.Helper()
		if joined := h.queue(request("long"), key...); joined.ID != o.ID {
			t.Errorf("a repeated request made %s beside %s", joined.ID, o.ID)
		}
		h.do("POST", "/v1/streams", request("other"), append([]string{"prefer", async}, key...)...).refused(422, "invalid_request_error")
		h.do("POST", "/v1/messages", request("long"), append([]string{"prefer", async}, key...)...).refused(422, "invalid_request_error")
	}
	again(h)
	f.next(t)
	again(h)
	h = h.restart(f, dir)
	again(h)
	up := f.next(t)
	up.send(start, block)
	up.finish()
	h.reaches(o.ID, "completed")
	again(h)
	h = h.restart(f, dir)
	again(h)
	if other := h.queue(request("long"), append([]string{"x-api-key", bobKey}, key...)...); other.ID == o.ID {
		t.Error("bob got alice's stream")
	}
	h.do("DELETE", "/v1/streams/"+o.ID, "").status(200)
	if next := h.queue(request("other"), key...); next.ID == o.ID {
		t.Error("a deleted stream is joined")
	}
	for range 2 {
		up = f.next(t)
		up.send(start, block)
		up.finish()
	}
}

func TestOneOfManyRacingRequestsWithAKeyIsRun(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(2))
	made := make(chan string)
	for range 12 {
		go func() {
			a, err := h.try("POST", h.url+"/v1/streams", request("short"), "prefer", async, "idempotency-key", "k")
			if err != nil {
				made <- err.Error()
				return
			}
			defer a.Body.Close()
			var o object
			if err := json.NewDecoder(a.Body).Decode(&o); err != nil || a.StatusCode != 202 {
				made <- fmt.Sprint(a.StatusCode, " ", err)
				return
			}
			made <- o.ID
		}()
	}
	id := receive(t, made, "a stream")
	for range 11 {
		if other := receive(t, made, "the same stream"); other != id {
			t.Errorf("%s beside %s", other, id)
		}
	}
	if !strings.HasPrefix(id, "strm_") {
		t.Fatal(id)
	}
	h.reaches(id, "completed")
	if n := len(h.upstream.requests()); n != 1 {
		t.Errorf("the upstream was asked %d times", n)
	}
}

// TestInterruptedStreamRunsAgainAsAnotherAttempt stops the gateway in the middle of an answer.
func TestInterruptedStreamRunsAgainAsAnotherAttempt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := newFaucet()
	h := openHouse(t, f, keptIn(dir), func(c *gateway.Config) { c.Server.Drain = 50 * time.Millisecond; c.Background.Concurrency = 1 })
	o := h.queue(request("long"))
	up := f.next(t)
	up.send(start, block, delta("never seen again"))
	r := h.follows(o.EventsURL)
	for range 3 {
		r.next()
	}
	waiting := h.queue(request("waits"))
	w := h.follows(waiting.EventsURL)
	h.drains()
	if _, err := w.toEnd(); !cut(err) { // at once: it will not begin here
		t.Errorf("who waits for a stream that will not begin here sees %v", err)
	}
	if e := h.watch("GET", "/v1/streams/"+waiting.ID+"/events", ""); true {
		if b, err := e.block(); err != nil || b.retry == "" { // come again
			t.Errorf("%+v, %v", b, err)
		}
	}
	h.do("POST", "/v1/streams", request("new"), "prefer", async).refused(529, "overloaded_error")
	if events, err := r.toEnd(); !cut(err) || len(events) > 0 {
		t.Errorf("the end of the process is an end of the stream: %+v, %v", events, err)
	}
	up.left()
	h.waitStopped()

	h = openHouse(t, f, keptIn(dir), func(c *gateway.Config) { c.Background.Concurrency = 1 })
	up = f.next(t)
	up.send(start, block, delta("second "))
	for h.get(o.ID).Attempt != 2 { // the other one is in the queue, too, and in no strict order
		o, waiting = waiting, o
	}
	for cursor, reason := range map[string]string{"3": "new_attempt", "2.77": "unknown_cursor", "": ""} {
		r := h.follows(o.EventsURL+"&exact=1", "last-event-id", cursor)
		if reason != "" {
			if e := r.next(); e.name != "resync" || e.id != "" || !strings.Contains(e.data, reason) {
				t.Errorf("%q: %+v", cursor, e)
			}
		}
		for n := range 3 {
			if e := r.next(); e.id != fmt.Sprintf("2.%d", n+1) || strings.Contains(e.data, "never seen") {
				t.Errorf("%q: %+v", cursor, e)
			}
		}
		r.leave()
	}
	exact := h.follows(o.EventsURL, "last-event-id", "2.2")
	if e := exact.next(); e.id != "2.3" {
		t.Errorf("%+v", e)
	}
	up.finish()
	endsWith(t, exact.rest(), "message_stop")
	if now := h.reaches(o.ID, "completed"); now.Attempt != 2 || strings.Contains(string(now.Message), "never seen") {
		t.Errorf("%+v", now)
	}
	up = f.next(t)
	up.send(start, block)
	up.finish()
	h.reaches(waiting.ID, "completed")

	h = h.restart(f, dir)
	events := h.follows(o.EventsURL, "last-event-id", "3").rest()
	if events[0].name != "resync" || events[1].id != "2.1" {
		t.Errorf("%+v", events)
	}
	endsWith(t, events, "message_stop")
	if now := h.get(o.ID); now.Attempt != 2 {
		t.Errorf("%+v", now)
	}
}

func TestDrainLetsRunningBackgroundStreamsFinish(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := newFaucet()
	h := openHouse(t, f, keptIn(dir), func(c *gateway.Config) { c.Server.Drain = patience })
	o := h.queue(request("long"))
	up := f.next(t)
	up.send(start, block)
	h.drains()
	r := h.follows(o.EventsURL)
	up.finish()
	endsWith(t, r.rest(), "message_stop")
	h.waitStopped()
	h = openHouse(t, f, keptIn(dir))
	if now := h.get(o.ID); now.Status != "completed" || now.Attempt != 1 {
		t.Errorf("%+v", now)
	}
}

func TestPlanLetsBackgroundStreamsWaitForASlot(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f, func(c *gateway.Config) {
		c.Plans = map[string]limits.Plan{"default": {ConcurrentStreams: 1, RequestsPerMinute: 60, Burst: 2}}
	})
	first := h.queue(request("first"))
	up := f.next(t)
	second := h.queue(request("second"))
	a := h.do("POST", "/v1/streams", request("third"), "prefer", async).refused(429, "rate_limit_error")
	if a.header.Get("Anthropic-Ratelimit-Requests-Remaining") != "0" {
		t.Errorf("%v", a.header)
	}
	other := h.queue(request("another owner's"), "x-api-key", bobKey)
	bobs := f.next(t) // while alice's second waits
	bobs.send(start, block)
	bobs.finish()
	if o := h.get(second.ID); o.Status != "queued" {
		t.Errorf("%+v", o)
	}
	up.send(start, block)
	up.finish()
	h.reaches(first.ID, "completed")
	up = f.next(t)
	up.send(start, block)
	up.finish()
	h.reaches(second.ID, "completed")
	if n := h.scrape()[`sluice_rate_limited_total{limit="concurrent_streams"}`]; n != 0 {
		t.Errorf("waiting for a slot counts as %v refusals", n)
	}
	h.do("GET", "/v1/streams/"+other.ID, "", "x-api-key", bobKey).status(200)
}

// TestBackgroundStreamFailsForGoodReasonsOnly: what is wrong with the request stays wrong, and two answers are never
// spliced; but whatever may pass is waited for.
func TestBackgroundStreamFailsForGoodReasonsOnly(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}))
	for fault, want := range map[string]string{"fault:unknown": "invalid_request_error", "short fault:cut=3": "api_error"} {
		o := h.queue(request(fault))
		if now := h.reaches(o.ID, "failed"); now.Error == nil || now.Error.Type != want || now.Attempt != 1 {
			t.Errorf("%s: %+v", fault, now)
		}
		endsWith(t, h.follows(o.EventsURL).rest(), want)
	}
	h.becomes(`sluice_background_attempts_total{outcome="failed"}`, 2)
	o := h.queue(request("fault:401")) // the gateway's own key, which may be mended
	h.becomes(`sluice_background_attempts_total{outcome="refused"}`, 1)
	if now := h.get(o.ID); now.Status != "queued" || now.Attempt != 1 || now.Error != nil {
		t.Errorf("%+v", now)
	}
}

// TestFullDiskRefusesNewWorkAndLosesNone fills the store's disk while streams are accepted, run and watched.
func TestFullDiskRefusesNewWorkAndLosesNone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if text, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", dir).CombinedOutput(); err != nil {
		skip(t, fmt.Sprintf("no file system can be mounted here: %v: %s", err, text))
	}
	t.Cleanup(func() { exec.Command("umount", dir).Run() })
	f := newFaucet()
	h := openHouse(t, f, keptIn(filepath.Join(dir, "data")), func(c *gateway.Config) { c.Background.Concurrency = 1 })
	running := h.queue(request("runs"))
	up := f.next(t)
	up.send(start, block)
	r := h.follows(running.EventsURL)
	waiting := h.queue(request("waits"))
	filler := filepath.Join(dir, "filler")
	file, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for b := make([]byte, 64<<10); len(b) > 0; {
		if _, err := file.Write(b); err != nil {
			b = b[:len(b)/2]
		}
	}
	file.Close()
	a := h.do("POST", "/v1/streams", request("refused"), "prefer", async).refused(503, "api_error")
	if a.header.Get("Retry-After") == "" || !strings.Contains(a.body, "full") {
		t.Errorf("%v %s", a.header, a.body)
	}
	up.finish()
	for range 2 + 2 { // all but the end, which can't be kept
		if e := r.nextBut(); e.name == "message_stop" {
			t.Error("an end is seen that is not kept")
		}
	}
	if o := h.start(request("short"), "x-api-key", bobKey); o.Status != "completed" { // the relay's own go on
		tap := f.next(t)
		tap.send(start, block)
		tap.finish()
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	endsWith(t, r.rest(), "message_stop")
	h.reaches(running.ID, "completed")
	up = f.next(t)
	up.send(start, block)
	up.finish()
	h.reaches(waiting.ID, "completed")
	o := h.queue(request("accepted again"))
	up = f.next(t)
	up.send(start, block)
	up.finish()
	h.reaches(o.ID, "completed")
}
