package cli_test

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var killRounds = flag.Int("kill.rounds", 2, "how often the gateway is killed at each step of a background stream")

// killSteps are where the gateway is killed: at the steps that a build with failpoints stops at, and at two that the
// upstream decides.
var killSteps = []string{
	"pushed",    // the item is in the queue, the caller has no answer yet
	"taken",     // accepted; a worker has it in hand
	"begins",    // the attempt is on record, the upstream not asked
	"asked",     // the upstream has the request, and says nothing
	"midstream", // viewers have seen a part
	"finished",  // the upstream is done, nothing is kept
	"logged",    // the log is kept, but not that the stream has ended
	"kept",      // the end is kept, the item not out of the queue, no viewer has seen the end
	"done",      // all is done, but for tidying up
}

// TestKilledGatewayEndsEachAcceptedStreamOnce kills the real binary (kill -9) at each step, starts it again, and looks
// that each stream ends exactly once, that what it is, is one attempt's, and that a viewer who comes back sees no splice.
func TestKilledGatewayEndsEachAcceptedStreamOnce(t *testing.T) {
	t.Parallel()
	binary := buildWithFailpoints(t)
	var mu sync.Mutex
	attempts := map[int]int{}
	t.Cleanup(func() {
		if !t.Failed() {
			t.Logf("%d kills at %d steps: each stream ended once, no viewer saw a splice; attempts needed: %v", *killRounds*len(killSteps), len(killSteps), attempts)
		}
	})
	for _, step := range killSteps {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			k := newKilling(t, binary, step)
			for round := range *killRounds {
				n := k.round(round)
				mu.Lock()
				attempts[n]++
				mu.Unlock()
			}
			k.isStable()
		})
	}
}

// buildWithFailpoints builds the command, which can then be told to stop at a step.
func buildWithFailpoints(t *testing.T) string {
	t.Helper()
	compiler, err := exec.LookPath("go")
	if err != nil {
		if os.Getenv("SLUICE_FORBID_SKIP") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	binary := filepath.Join(t.TempDir(), "sluice")
	if text, err := exec.Command(compiler, "build", "-tags", "failpoints", "-o", binary, "sluice").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return binary
}

// killing is a gateway that is killed and started again, on one store and one port, before a scripted upstream.
type killing struct {
	t            *testing.T
	binary, step string
	config, url  string
	reached      chan string // steps that the upstream or the gateway has come to
	closing      chan struct{}
	cmd          *exec.Cmd
	streams      map[string]string // the texts, by id

	mu    sync.Mutex
	asked map[string]int // requests at the upstream, by prompt
}

const killKey = "sk-killed"

func newKilling(t *testing.T, binary, step string) *killing {
	k := &killing{t: t, binary: binary, step: step, reached: make(chan string, 10), asked: map[string]int{}, streams: map[string]string{}, closing: make(chan struct{})}
	upstream := httptest.NewServer(k)
	t.Cleanup(func() {
		close(k.closing)
		upstream.Close()
	})
	address := quietPort(t)
	k.url = "http://" + address
	k.config = file(t, fmt.Sprintf("server: {listen: %q, admin_listen: \"127.0.0.1:0\"}\nupstream: {base_url: %q}\nauth: {keys: [{id: a, key: %s}]}\nplans: {default: {}}\n", address, upstream.URL, killKey))
	t.Cleanup(k.kill)
	return k
}

// quietPort is a free port that no outgoing connection will be given meanwhile, as those from 32768 on are.
func quietPort(t *testing.T) string {
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(12_000))
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
}

// start starts the gateway, which stops at the step named, if any.
func (k *killing) start(stopAt string) {
	k.t.Helper()
	k.cmd = exec.Command(k.binary, "-config", k.config)
	k.cmd.Env = append(os.Environ(), "ANTHROPIC_API_KEY=sk-up", "SLUICE_STOP_AT="+stopAt)
	stderr, err := k.cmd.StderrPipe()
	if err == nil {
		err = k.cmd.Start()
	}
	if err != nil {
		k.t.Fatal(err)
	}
	listening, over := make(chan struct{}), make(chan string, 1)
	go func() {
		var said strings.Builder
		defer func() { over <- said.String() }()
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			said.WriteString(lines.Text() + "\n")
			if strings.Contains(lines.Text(), "msg=listening") {
				close(listening)
			}
			if at, ok := strings.CutPrefix(lines.Text(), "stopped at "); ok {
				k.reached <- at
			}
			if strings.Contains(lines.Text(), "defect") || strings.Contains(lines.Text(), "level=ERROR") {
				k.t.Error(lines.Text())
			}
		}
	}()
	select {
	case <-listening:
	case said := <-over:
		k.t.Fatalf("the gateway does not start: %s", said)
	}
}

func (k *killing) kill() {
	if k.cmd != nil {
		k.cmd.Process.Kill()
		k.cmd.Wait()
		k.cmd = nil
	}
}

// words is how many deltas an answer has.
const words = 8

// ServeHTTP is the upstream. What it says tells which attempt at which prompt it is.
func (k *killing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var request struct{ Messages []struct{ Content string } }
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		k.t.Error(err)
		return
	}
	prompt := request.Messages[0].Content
	k.mu.Lock()
	k.asked[prompt]++
	attempt := k.asked[prompt]
	k.mu.Unlock()
	stay := func(step string) {
		k.reached <- step
		select {
		case <-r.Context().Done():
		case <-k.closing:
		}
	}
	first := attempt == 1 && !strings.HasSuffix(prompt, "-new")
	if first && k.step == "asked" {
		stay("asked")
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
		if first && k.step == "midstream" && i == words/2 {
			stay("midstream")
			return
		}
		send("content_block_delta", fmt.Sprintf(`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%s/%d/%d "}}`, prompt, attempt, i))
	}
	send("content_block_stop", `{"type":"content_block_stop","index":0}`)
	send("message_delta", `{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":9}}`)
	send("message_stop", `{"type":"message_stop"}`)
}

// said is the text of one attempt.
func said(prompt string, attempt int) string {
	var b strings.Builder
	for i := range words {
		fmt.Fprintf(&b, "%s/%d/%d ", prompt, attempt, i)
	}
	return b.String()
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
	req, err := http.NewRequestWithContext(ctx, "POST", k.url+"/v1/messages", strings.NewReader(body))
	if err != nil {
		return o, err
	}
	for name, value := range map[string]string{"Content-Type": "application/json", "X-Api-Key": killKey, "Prefer": "respond-async", "Idempotency-Key": prompt} {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return o, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		return o, fmt.Errorf("status %s", resp.Status)
	}
	return o, json.NewDecoder(resp.Body).Decode(&o)
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
	code, body := get(t, k.url+"/v1/streams/"+o.ID, "x-api-key", killKey)
	var now killedObject
	if err := json.Unmarshal([]byte(body), &now); err != nil || code != 200 || now.Status != "completed" || len(now.Message.Content) != 1 {
		t.Fatalf("%d %s", code, body)
	}
	if now.Message.Content[0].Text != text {
		t.Errorf("a viewer saw %q, the stream is %q", text, now.Message.Content[0].Text)
	}
	k.mu.Lock()
	asked := k.asked[prompt]
	k.mu.Unlock()
	whole := false
	for attempt := 1; attempt <= asked; attempt++ {
		whole = whole || text == said(prompt, attempt)
	}
	if !whole {
		t.Errorf("%q is not what one attempt of %d said", text, asked)
	}
	k.streams[o.ID] = text
	k.kill()
	return asked
}

func (k *killing) reaches(ctx context.Context) {
	k.t.Helper()
	select {
	case at := <-k.reached:
		if at != k.step {
			k.t.Fatalf("came to %s, not %s", at, k.step)
		}
	case <-ctx.Done():
		k.t.Fatalf("the gateway does not come to %s", k.step)
	}
}

// isStable starts the gateway once more, and looks that nothing is run again.
func (k *killing) isStable() {
	t := k.t
	k.mu.Lock()
	before := fmt.Sprint(k.asked)
	k.mu.Unlock()
	k.start("")
	// What would be run again stands in the queue before a new one.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	prompt := k.step + "-new"
	o, err := k.post(ctx, prompt)
	if err != nil {
		t.Fatal(err)
	}
	k.streams[o.ID] = k.watch(ctx, o).toEnd(ctx)
	for id, text := range k.streams {
		var now killedObject
		_, body := get(t, k.url+"/v1/streams/"+id, "x-api-key", killKey)
		if err := json.Unmarshal([]byte(body), &now); err != nil || now.Status != "completed" || now.Message.Content[0].Text != text {
			t.Errorf("after another start: %s", body)
		}
	}
	var page struct{ Data []killedObject }
	if _, body := get(t, k.url+"/v1/streams?limit=100", "x-api-key", killKey); json.Unmarshal([]byte(body), &page) != nil || len(page.Data) != len(k.streams) {
		t.Errorf("%d streams are listed, %d were accepted", len(page.Data), len(k.streams))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.asked, prompt)
	if now := fmt.Sprint(k.asked); now != before {
		t.Errorf("the upstream was asked %s, and after another start %s", before, now)
	}
}

// killViewer reads a stream as an EventSource does: it comes back with the last id that it has seen, until it is told
// that there is no more.
type killViewer struct {
	k     *killing
	mu    sync.Mutex
	seen  int // events since the last resync
	grown chan struct{}
	text  chan string // of the whole, once
}

func (k *killing) watch(ctx context.Context, o killedObject) *killViewer {
	v := &killViewer{k: k, grown: make(chan struct{}, 1), text: make(chan string, 1)}
	go v.read(ctx, o.EventsURL)
	return v
}

func (v *killViewer) read(ctx context.Context, url string) {
	var text strings.Builder
	last, ends := "", 0
	for ctx.Err() == nil {
		code, err := v.once(ctx, url, &last, &text, &ends)
		if code == http.StatusNoContent {
			break
		}
		if err == nil && code != http.StatusOK {
			v.k.t.Errorf("a viewer is answered %d", code)
			break
		}
		wait := time.NewTimer(20 * time.Millisecond)
		select {
		case <-wait.C:
		case <-ctx.Done():
		}
	}
	if ends != 1 {
		v.k.t.Errorf("a viewer saw %d ends", ends)
	}
	v.text <- text.String()
}

// once reads one connection to whatever end it has.
func (v *killViewer) once(ctx context.Context, url string, last *string, text *strings.Builder, ends *int) (int, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Last-Event-ID", *last)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var id, name, data string
	for in := bufio.NewReader(resp.Body); ; {
		line, err := in.ReadString('\n')
		if err != nil {
			if err == io.EOF {
				err = nil
			}
			return resp.StatusCode, err
		}
		line = strings.TrimSuffix(line, "\n")
		field, value, _ := strings.Cut(line, ": ")
		switch field {
		case "id":
			id = value
		case "event":
			name = value
		case "data":
			data = value
		case "":
			v.event(id, name, data, last, text, ends)
			id, name, data = "", "", ""
		}
	}
}

func (v *killViewer) event(id, name, data string, last *string, text *strings.Builder, ends *int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if id != "" {
		*last = id
	}
	switch name {
	case "resync":
		text.Reset()
		v.seen = 0
		return
	case "message_stop", "error":
		*ends++
	case "content_block_delta":
		var d struct{ Delta struct{ Text string } }
		if err := json.Unmarshal([]byte(data), &d); err != nil {
			v.k.t.Error(err)
		}
		text.WriteString(d.Delta.Text)
		v.seen += strings.Count(d.Delta.Text, "/") / 2 // merged ones are as many
	case "", "ping":
		return
	}
	if name != "content_block_delta" {
		v.seen++
	}
	select {
	case v.grown <- struct{}{}:
	default:
	}
}

// sees waits until so many events were seen.
func (v *killViewer) sees(ctx context.Context, events int) {
	v.k.t.Helper()
	for {
		v.mu.Lock()
		seen := v.seen
		v.mu.Unlock()
		if seen >= events {
			return
		}
		select {
		case <-v.grown:
		case <-ctx.Done():
			v.k.t.Fatalf("a viewer has seen %d events of %d", seen, events)
		}
	}
}

func (v *killViewer) toEnd(ctx context.Context) string {
	v.k.t.Helper()
	select {
	case text := <-v.text:
		return text
	case <-ctx.Done():
		v.k.t.Fatal("a viewer does not come to the end")
	}
	return ""
}
