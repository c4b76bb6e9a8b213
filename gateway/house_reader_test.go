package gateway_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// event is one block of an event stream: an event where it has data, else a comment or a retry.
type event struct {
	id, name, data string
	retry, comment string
}

// reading is an open event stream.
type reading struct {
	t    testing.TB
	resp *http.Response
	in   *bufio.Reader
}

// watch opens an event stream, which must answer 200.
func (h *house) watch(method, path, body string, headers ...string) *reading {
	h.t.Helper()
	return h.watchURL(method, h.url+path, body, headers...)
}

func (h *house) watchURL(method, url, body string, headers ...string) *reading {
	h.t.Helper()
	resp := h.request(method, url, body, headers...)
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		h.t.Fatalf("%s %s: status %d: %.500s", method, url, resp.StatusCode, text)
	}
	if kind := resp.Header.Get("Content-Type"); kind != "text/event-stream; charset=utf-8" {
		h.t.Errorf("content-type %q", kind)
	}
	for name, want := range map[string]string{"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"} {
		if got := resp.Header.Get(name); got != want {
			h.t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	r := newReading(h.t, resp)
	h.t.Cleanup(r.leave)
	return r
}

func newReading(t testing.TB, resp *http.Response) *reading {
	return &reading{t: t, resp: resp, in: bufio.NewReaderSize(resp.Body, 64<<10)}
}

// leave closes the connection.
func (r *reading) leave() { r.resp.Body.Close() }

// block reads one block, strictly as Sluice writes them: line feeds only, known fields only. The error is io.EOF at a
// clean end, and errCut where the response or a block broke off.
func (r *reading) block() (e event, err error) {
	var data []string
	begun := false
	for {
		line, err := r.in.ReadString('\n')
		switch {
		case err == io.EOF && line == "" && !begun:
			return e, io.EOF
		case err != nil:
			return e, fmt.Errorf("%w: %w after %.80q", errCut, err, line)
		}
		line = strings.TrimSuffix(line, "\n")
		if strings.Contains(line, "\r") {
			r.t.Errorf("a carriage return in %.200q", line)
		}
		if line == "" {
			e.data = strings.Join(data, "\n")
			return e, nil
		}
		begun = true
		field, value, colon := strings.Cut(line, ": ")
		switch {
		case colon && field == "id":
			e.id = value
		case colon && field == "event":
			e.name = value
		case colon && field == "data":
			data = append(data, value)
		case colon && field == "retry":
			e.retry = value
		case colon && field == "":
			e.comment = value
		default:
			r.t.Fatalf("not a line that Sluice writes: %.200q", line)
		}
	}
}

// next reads the next event, pings and all; there must be one.
func (r *reading) next() event {
	r.t.Helper()
	for {
		e, err := r.block()
		if err != nil {
			r.t.Fatalf("waiting for an event: %v", err)
		}
		if e.name != "" {
			return e
		}
	}
}

// nextBut reads the next event that is not a ping.
func (r *reading) nextBut() event {
	r.t.Helper()
	for {
		if e := r.next(); e.name != "ping" {
			return e
		}
	}
}

// rest reads to the clean end and returns the events but for pings.
func (r *reading) rest() []event {
	r.t.Helper()
	events, err := r.toEnd()
	if err != io.EOF {
		r.t.Fatalf("%v after %d events", err, len(events))
	}
	return events
}

// toEnd reads to whatever end there is.
func (r *reading) toEnd() (events []event, err error) {
	for {
		e, err := r.block()
		if err != nil {
			r.leave()
			return events, err
		}
		if e.name == "ping" && e.id != "" {
			r.t.Errorf("a ping has the id %q", e.id)
		}
		if e.name != "" && e.name != "ping" {
			events = append(events, e)
		}
	}
}

// endsWith looks that events end once, with message_stop or an error of a type.
func endsWith(t testing.TB, events []event, want string) {
	t.Helper()
	if len(events) == 0 {
		t.Fatal("no event")
	}
	for i, e := range events {
		if last := i == len(events)-1; last != (e.name == "message_stop" || e.name == "error") {
			t.Fatalf("event %d of %d is %s: %.200s", i+1, len(events), e.name, e.data)
		}
	}
	last := events[len(events)-1]
	if got := errorType(last); last.name != want && got != want {
		t.Fatalf("the end is %s %.300s, want %s", last.name, last.data, want)
	}
}

// errorType is the type of an error event; empty for others and for what has not Anthropic's shape.
func errorType(e event) string {
	var object envelope
	if e.name != "error" || json.Unmarshal([]byte(e.data), &object) != nil || object.Type != "error" {
		return ""
	}
	return object.Error.Type
}

// numbered looks that the ids are from+1, from+2, … without a gap.
func numbered(t testing.TB, events []event, from int) {
	t.Helper()
	for i, e := range events {
		if want := fmt.Sprint(from + i + 1); e.id != want {
			t.Fatalf("event %d (%s) has the id %q, want %s", i, e.name, e.id, want)
		}
	}
}

// same looks that two lists of events are equal in name and data.
func same(t testing.TB, got, want []event) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if got[i].name != want[i].name || got[i].data != want[i].data {
			t.Fatalf("event %d is\n%s %.600q\nwant\n%s %.600q", i+1, got[i].name, got[i].data, want[i].name, want[i].data)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d events, want %d", len(got), len(want))
	}
}

// object is a stream object, as far as the tests read it.
type object struct {
	ID          string          `json:"id"`
	Type        string          `json:"type"`
	Status      string          `json:"status"`
	Model       *string         `json:"model"`
	Attempt     int             `json:"attempt"`
	EventsURL   string          `json:"events_url"`
	Viewers     int             `json:"viewers"`
	Message     json.RawMessage `json:"message"`
	Usage       json.RawMessage `json:"usage"`
	UsageSource string          `json:"usage_source"`
	Error       *struct{ Type, Message string }
	CreatedAt   *string `json:"created_at"`
	EndedAt     *string `json:"ended_at"`
	ExpiresAt   *string `json:"expires_at"`
	Callback    *struct {
		ID, Event, URL, Status string
		Attempts               int
	}
}

// start opens a stream for a browser; it must be created.
func (h *house) start(body string, headers ...string) (o object) {
	h.t.Helper()
	h.do("POST", "/v1/streams", body, headers...).status(201).into(&o)
	return o
}

// get reads a stream object.
func (h *house) get(id string) (o object) {
	h.t.Helper()
	h.do("GET", "/v1/streams/"+id, "").status(200).into(&o)
	return o
}

// reaches waits until a stream has a status.
func (h *house) reaches(id, status string) (o object) {
	h.t.Helper()
	eventually(h.t, func() string { return fmt.Sprintf("the stream is %s, want %s", o.Status, status) }, func() bool {
		o = h.get(id)
		return o.Status == status
	})
	return o
}

// ask is a streamed Messages request; the prompt is what the simulator goes by.
func ask(prompt string, more ...string) string {
	return request(prompt, append([]string{`"stream":true`}, more...)...)
}

// request is a Messages request with further members.
func request(prompt string, more ...string) string {
	text, err := json.Marshal(prompt + " " + marker)
	if err != nil {
		panic(err)
	}
	members := []string{`"model":"claude-sonnet-4-6"`, `"messages":[{"role":"user","content":` + string(text) + `}]`}
	if !slices.ContainsFunc(more, func(m string) bool { return strings.HasPrefix(m, `"max_tokens"`) }) {
		members = append(members, `"max_tokens":4096`)
	}
	return "{" + strings.Join(append(members, more...), ",") + "}"
}

// textOf concatenates the text deltas.
func textOf(t testing.TB, events []event) string {
	t.Helper()
	var b strings.Builder
	for _, e := range events {
		if e.name != "content_block_delta" {
			continue
		}
		var d struct{ Delta struct{ Text string } }
		if err := json.Unmarshal([]byte(e.data), &d); err != nil {
			t.Fatal(err)
		}
		b.WriteString(d.Delta.Text)
	}
	return b.String()
}

// cut reports whether an error is of a response that broke off.
func cut(err error) bool { return errors.Is(err, errCut) }
