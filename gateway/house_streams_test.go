package gateway_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"sluice/gateway"
	"sluice/gateway/simulator"
)

func TestStreamIsCreatedWithAbsoluteURLs(t *testing.T) {
	t.Parallel()
	trusted := func(c *gateway.Config) {
		c.Auth.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	}
	for name, c := range map[string]struct {
		change  func(*gateway.Config)
		headers []string
		want    string // the base; empty: as the request came
	}{
		"the request's host":              {func(*gateway.Config) {}, nil, ""},
		"a stranger's X-Forwarded-Proto":  {func(*gateway.Config) {}, []string{"x-forwarded-proto", "https"}, ""},
		"a proxy's X-Forwarded-Proto":     {trusted, []string{"x-forwarded-proto", "https"}, "https"},
		"public_url, whatever the header": {func(c *gateway.Config) { c.Server.PublicURL = "https://sluice.example" }, []string{"x-forwarded-proto", "http"}, "https://sluice.example"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := openHouse(t, saying(3), c.change)
			a := h.do("POST", "/v1/streams", request("short"), c.headers...).status(201)
			var o object
			a.into(&o)
			base := c.want
			switch base {
			case "":
				base = h.url
			case "https":
				base = strings.Replace(h.url, "http:", "https:", 1)
			}
			if want := base + "/v1/streams/" + o.ID; a.header.Get("Location") != want {
				t.Errorf("location %q, want %q", a.header.Get("Location"), want)
			}
			if !strings.HasPrefix(o.EventsURL, base+"/v1/streams/"+o.ID+"/events?ticket=") {
				t.Errorf("events_url %q", o.EventsURL)
			}
			if !strings.HasPrefix(o.ID, "strm_") || len(o.ID) != len("strm_")+32 || o.Type != "stream" || o.Attempt != 1 || o.CreatedAt == nil {
				t.Errorf("not a stream object: %s", a.body)
			}
			if a.header.Get("Request-Id") != "req_011CScriptScriptScript01" || a.header.Get("Cache-Control") != "no-store" || a.header.Get("Content-Type") != "application/json" {
				t.Errorf("headers %v", a.header)
			}
			done := h.reaches(o.ID, "completed")
			if done.UsageSource != "reported" || *done.Model != "claude-sonnet-4-6" || done.EndedAt == nil || done.ExpiresAt == nil || done.Error != nil {
				t.Errorf("an ended stream is %+v", done)
			}
			equalJSON(t, done.Usage, []byte(`{"input_tokens":11,"cache_creation_input_tokens":5,"cache_read_input_tokens":7,"output_tokens":42}`))
		})
	}
}

func TestReaderGetsRetryThenNumberedEventsThen204(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(3))
	o := h.start(request("short"))
	h.reaches(o.ID, "completed")
	r := h.watchURL("GET", o.EventsURL+"&exact=1", "", "x-api-key", "")
	if e, err := r.block(); err != nil || e != (event{retry: "1500"}) {
		t.Errorf("the first block is %+v, %v", e, err)
	}
	events := r.rest()
	numbered(t, events, 0)
	if len(events) != 8 {
		t.Errorf("%d events", len(events))
	}
	if id := r.resp.Header.Get("Request-Id"); id != "req_011CScriptScriptScript01" {
		t.Errorf("request-id %q", id)
	}
	for _, a := range []*answer{
		h.fetch("GET", o.EventsURL, "", "last-event-id", "8", "x-api-key", ""),
		h.fetch("GET", o.EventsURL+"&last_event_id=8", "", "x-api-key", ""),
		h.do("GET", "/v1/streams/"+o.ID+"/events", "", "last-event-id", "8"),
		h.fetch("GET", o.EventsURL+"&last_event_id=3", "", "last-event-id", "8"), // the header wins
	} {
		if a.status(http.StatusNoContent); a.body != "" {
			t.Errorf("204 with %q", a.body)
		}
	}
	late := h.watchURL("GET", o.EventsURL+"&last_event_id=6&exact=1", "", "x-api-key", "").rest()
	numbered(t, late, 6)
	same(t, late, events[6:])
	// Deltas that wait are merged under the last one's id; the start events are the original ones.
	merged := h.watchURL("GET", o.EventsURL, "", "x-api-key", "").rest()
	if len(merged) != 6 || merged[2].id != "5" {
		t.Fatalf("merged: %+v", merged)
	}
	same(t, merged[:2], events[:2])
	if want := `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"word 0 word 1 word 2 "}}`; merged[2].data != want {
		t.Errorf("merged into %s", merged[2].data)
	}
}

func TestUnknownCursorsAreResynced(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(3))
	o := h.start(request("short"))
	h.reaches(o.ID, "completed")
	whole := h.watchURL("GET", o.EventsURL, "").rest()
	for _, cursor := range []string{"9", "0", "-1", "+3", "03", "1.5", "2.3", "1.", "lost", "garbage", "999999999999999999999999999999", "3 ", "3\x00", "é", strings.Repeat("9", 4000)} {
		events := h.watchURL("GET", o.EventsURL+"&last_event_id="+url.QueryEscape(cursor), "", "x-api-key", "").rest()
		if len(events) == 0 || events[0] != (event{name: "resync", data: `{"type":"resync","reason":"unknown_cursor"}`}) {
			t.Fatalf("cursor %.20q: begins with %+v", cursor, events[:min(1, len(events))])
		}
		same(t, events[1:], whole)
	}
	// An empty one is none.
	same(t, h.watchURL("GET", o.EventsURL+"&last_event_id=", "").rest(), whole)
	r := h.request("GET", o.EventsURL, "", "last-event-id", "garbage")
	defer r.Body.Close()
	raw := make([]byte, 100)
	n, _ := r.Body.Read(raw)
	if want := "event: resync\ndata: {\"type\":\"resync\",\"reason\":\"unknown_cursor\"}\n\n"; !strings.Contains("retry: 1500\n\n"+want, string(raw[:min(n, len(want))])) {
		t.Errorf("a resync is %q", raw[:n])
	}
}

func TestTicketsOpenOneStreamForReadingOnly(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(3))
	mine, other := h.start(request("short")), h.start(request("short"))
	var bobs object
	h.do("POST", "/v1/streams", request("short"), "x-api-key", bobKey).status(201).into(&bobs)
	ticket := func(o object) string { return o.EventsURL[strings.Index(o.EventsURL, "?ticket=")+len("?ticket="):] }
	events := "/v1/streams/" + mine.ID + "/events"
	h.do("GET", events+"?ticket="+ticket(mine), "", "x-api-key", "").status(200)
	flipped := []byte(ticket(mine))
	flipped[20] ^= 1
	for name, wrong := range map[string]string{
		"none": "", "another's stream": ticket(bobs), "another stream's": ticket(other), "garbage": "garbage", "a flipped bit": string(flipped),
		"cut": ticket(mine)[:40], "longer": ticket(mine) + "A", "a line break": ticket(mine) + "%0a", "padding": ticket(mine) + "=", "huge": strings.Repeat("A", 60_000),
	} {
		t.Run(name, func(t *testing.T) {
			h.in(t).do("GET", events+"?ticket="+wrong, "", "x-api-key", "").refused(401, "authentication_error")
		})
	}
	// A wrong ticket is wrong, whatever else is sent with it; a stream that never was is not found without one.
	h.do("GET", events+"?ticket=garbage", "").refused(401, "authentication_error")
	h.do("GET", "/v1/streams/strm_00000000000000000000000000000000/events", "").refused(404, "not_found_error")
	h.do("GET", "/v1/streams/strm_00000000000000000000000000000000/events?ticket="+ticket(mine), "", "x-api-key", "").refused(401, "authentication_error")
	// It opens nothing else.
	for _, c := range [][2]string{{"GET", "/v1/streams/" + mine.ID}, {"GET", "/v1/streams"}, {"POST", "/v1/streams/" + mine.ID + "/cancel"}, {"DELETE", "/v1/streams/" + mine.ID}} {
		h.do(c[0], c[1]+"?ticket="+ticket(mine), "", "x-api-key", "").refused(401, "authentication_error")
	}
	h.do("POST", "/v1/streams?ticket="+ticket(mine), request("short"), "x-api-key", "").refused(401, "authentication_error")
}

func TestStreamsAreTheirOwnersOnly(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(3))
	o := h.start(request("short"))
	for _, c := range [][2]string{{"GET", ""}, {"GET", "/events"}, {"HEAD", ""}, {"POST", "/cancel"}, {"DELETE", ""}} {
		a := h.do(c[0], "/v1/streams/"+o.ID+c[1], "", "x-api-key", bobKey).status(404)
		if c[0] != "HEAD" {
			a.refused(404, "not_found_error")
		}
	}
	if a := h.do("GET", "/v1/streams", "", "x-api-key", bobKey).status(200); a.body != `{"data":[],"has_more":false,"first_id":null,"last_id":null}` {
		t.Errorf("bob's list is %s", a.body)
	}
	h.do("GET", "/v1/streams?after_id="+o.ID, "", "x-api-key", bobKey).refused(404, "not_found_error")
	// Nor does the same key join another's stream.
	first := h.start(request("short"), "idempotency-key", "k")
	if second := h.start(request("short"), "idempotency-key", "k", "x-api-key", bobKey); second.ID == first.ID {
		t.Error("bob joined alice's stream")
	}
	h.get(o.ID)
}

func TestListIsPagedNewestFirst(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1))
	var ids []string
	for range 5 {
		ids = append([]string{h.start(request("short")).ID}, ids...)
	}
	type list struct {
		Data    []object
		HasMore bool    `json:"has_more"`
		FirstID *string `json:"first_id"`
		LastID  *string `json:"last_id"`
	}
	var got []string
	after := ""
	for more := true; more; {
		var page list
		h.do("GET", "/v1/streams?limit=2"+after, "").status(200).into(&page)
		for _, o := range page.Data {
			got = append(got, o.ID)
			if o.Message != nil && string(o.Message) != "null" {
				t.Errorf("a list with messages: %s", o.Message)
			}
		}
		if *page.FirstID != page.Data[0].ID || *page.LastID != got[len(got)-1] || len(page.Data) > 2 {
			t.Errorf("page %+v", page)
		}
		more, after = page.HasMore, "&after_id="+*page.LastID
	}
	if fmt.Sprint(got) != fmt.Sprint(ids) {
		t.Errorf("listed %v, want %v", got, ids)
	}
	for limit, status := range map[string]int{"1": 200, "100": 200, "": 200, "0": 400, "101": 400, "-1": 400, "2.0": 400, "x": 400, "1e1": 400, "99999999999999999999": 400} {
		a := h.do("GET", "/v1/streams?limit="+limit, "").status(status)
		if status == 400 {
			a.refused(400, "invalid_request_error")
		}
	}
	h.do("GET", "/v1/streams?after_id=strm_none", "").refused(404, "not_found_error")
}

func TestCancelIsAVerb(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f)
	var o object
	created := make(chan *answer, 1)
	go func() { created <- h.do("POST", "/v1/streams", request("long")) }()
	up := f.next(t)
	up.send(start, block, delta("some words"))
	receive(t, created, "the stream").status(201).into(&o)
	r := h.watchURL("GET", o.EventsURL, "", "x-api-key", "")
	for range 3 {
		r.next()
	}
	// A closed tab stops nothing.
	tab := h.watchURL("GET", o.EventsURL, "")
	tab.next()
	tab.leave()
	up.send(delta("more"))
	if e := r.next(); !strings.Contains(e.data, "more") {
		t.Errorf("%+v", e)
	}
	for range 2 {
		var canceled object
		h.do("POST", "/v1/streams/"+o.ID+"/cancel", "").status(200).into(&canceled)
		if canceled.Status != "canceled" || canceled.Error.Type != "canceled_error" || canceled.UsageSource != "estimated" || !strings.Contains(string(canceled.Message), "some wordsmore") {
			t.Errorf("canceled: %+v %s", canceled, canceled.Message)
		}
	}
	up.left()
	rest := r.rest()
	endsWith(t, rest, "canceled_error")
	numbered(t, rest, 4)
	h.becomes(`sluice_streams_total{model="claude-sonnet-4-6",outcome="canceled"}`, 1)
	if a := h.do("DELETE", "/v1/streams/"+o.ID, "").status(200); a.body != `{"id":"`+o.ID+`","type":"stream_deleted"}` {
		t.Errorf("deleted: %s", a.body)
	}
	for _, c := range [][2]string{{"DELETE", ""}, {"GET", ""}, {"POST", "/cancel"}, {"GET", "/events"}} {
		h.do(c[0], "/v1/streams/"+o.ID+c[1], "").refused(404, "not_found_error")
	}
}

func TestDeleteEndsALiveStream(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f)
	body := h.watching(t, f)
	up, r := body.up, body.r
	h.do("DELETE", "/v1/streams/"+body.o.ID, "").status(200)
	up.left()
	endsWith(t, r.rest(), "canceled_error")
	h.isEmpty()
}

// watched is a stream at a faucet with one reader that has seen its first event.
type watched struct {
	o  object
	up *tap
	r  *reading
}

func (h *house) watching(t testing.TB, f *faucet, headers ...string) watched {
	t.Helper()
	created := make(chan *answer, 1)
	go func() { created <- h.do("POST", "/v1/streams", request("long"), headers...) }()
	w := watched{up: f.next(t)}
	w.up.send(start)
	receive(t, created, "the stream").status(201).into(&w.o)
	w.r = h.watchURL("GET", w.o.EventsURL+"&exact=1", "", "x-api-key", "")
	if e := w.r.next(); e.name != "message_start" {
		t.Fatalf("%+v", e)
	}
	return w
}

func TestAbandonedStreamIsCanceledAndAccounted(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f, func(c *gateway.Config) {
		c.Relay.AbandonAfter = gateway.AbandonAfter{Messages: 40 * time.Millisecond, Streams: 500 * time.Millisecond}
	})
	w := h.watching(t, f)
	w.up.send(block, delta("twelve bytes"))
	for range 2 {
		w.r.next()
	}
	w.r.leave()
	w.up.left()
	o := h.reaches(w.o.ID, "abandoned")
	if o.Error.Type != "canceled_error" || o.UsageSource != "estimated" {
		t.Errorf("%+v", o)
	}
	endsWith(t, h.watchURL("GET", w.o.EventsURL, "").rest(), "canceled_error")

	r := make(chan *reading, 1)
	go func() { r <- h.watch("POST", "/v1/messages", ask("long")) }()
	up := f.next(t)
	up.send(start)
	receive(t, r, "the answer").leave()
	up.left()
	h.becomes(`sluice_streams_total{model="claude-sonnet-4-6",outcome="abandoned"}`, 2)
	h.becomes(`sluice_tokens_total{kind="output",model="claude-sonnet-4-6",source="estimated"}`, 8+1)
	h.becomes(`sluice_tokens_total{kind="input",model="claude-sonnet-4-6",source="estimated"}`, 22)
}

func TestNeverAbandonedStreamIsReadToItsEnd(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f, func(c *gateway.Config) { c.Relay.AbandonAfter.Messages = gateway.Never })
	r := make(chan *reading, 1)
	go func() { r <- h.watch("POST", "/v1/messages", ask("long")) }()
	up := f.next(t)
	up.send(start)
	answer := receive(t, r, "the answer")
	answer.leave()
	h.becomes("sluice_viewers_active", 0)
	up.send(block)
	up.finish()
	o := h.reaches(answer.resp.Header.Get("Sluice-Stream-Id"), "completed")
	if o.UsageSource != "reported" {
		t.Errorf("usage is %s", o.UsageSource)
	}
}

func TestHeadWorksWhereGetDoes(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}))
	o := h.start(request("short"))
	for _, path := range []string{"/v1/streams", "/v1/streams/" + o.ID, "/"} {
		head, get := h.do("HEAD", path, ""), h.do("GET", path, "")
		if head.status(200); head.body != "" || get.code != 200 || head.header.Get("Content-Type") != get.header.Get("Content-Type") || head.header.Get("Request-Id") == "" {
			t.Errorf("HEAD %s: %v %q; GET: %v", path, head.header, head.body, get.header)
		}
	}
	if a := h.fetch("HEAD", o.EventsURL, "", "x-api-key", "").status(200); a.body != "" || !strings.HasPrefix(a.header.Get("Content-Type"), "text/event-stream") {
		t.Errorf("HEAD of events: %v", a.header)
	}
}
