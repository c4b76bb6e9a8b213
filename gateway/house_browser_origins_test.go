package gateway_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"sluice/gateway"
	"sluice/gateway/limits"
)

// quoted is a string in JavaScript.
func quoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// call has a page call the gateway. The answer is null where the browser doesn't let the page have it.
func (p *tab) call(url, options, body string) *pageAnswer {
	p.t.Helper()
	return value[*pageAnswer](p, fmt.Sprintf(`fetch(%s, {...%s, body: %s}).then(async (r) => ({
		status: r.status, type: r.type, header: Object.fromEntries(r.headers), body: await r.text(),
	}), () => null)`, quoted(url), options, quoted(body)))
}

// pageAnswer is what a page sees of an answer.
type pageAnswer struct {
	Status int
	Type   string
	Header map[string]string
	Body   string
}

func withKey(key string) string {
	return `{method: "POST", headers: {"content-type": "application/json", "anthropic-version": "2023-06-01", "x-api-key": ` + quoted(key) + `}}`
}

func TestPageOfAnAllowedOriginStreams(t *testing.T) {
	t.Parallel()
	const deltas = 3
	elsewhere := build(t, "")
	h := openHouse(t, saying(deltas), allowing(elsewhere.url), func(c *gateway.Config) {
		c.Plans["default"] = limits.Plan{RequestsPerMinute: 1, Burst: 2}
	})
	p := browse(t, elsewhere.url)
	created := p.call(h.url+"/v1/streams", withKey(aliceKey), request("short"))
	if created == nil || created.Status != 201 {
		t.Fatalf("%+v", created)
	}
	var o object
	if err := json.Unmarshal([]byte(created.Body), &o); err != nil {
		t.Fatal(err)
	}
	direct := p.call(h.url+"/v1/messages", withKey(aliceKey), ask("short"))
	refused := p.call(h.url+"/v1/messages", withKey(aliceKey), ask("short"))
	if direct == nil || direct.Status != 200 || refused == nil || refused.Status != 429 {
		t.Fatalf("%+v\n%+v", direct, refused)
	}
	for _, c := range []struct {
		answer *pageAnswer
		header string
	}{
		{created, "request-id"}, {created, "location"}, {created, "anthropic-ratelimit-requests-remaining"},
		{direct, "request-id"}, {direct, "sluice-stream-id"}, {refused, "retry-after"}, {refused, "request-id"},
	} {
		if c.answer.Header[c.header] == "" {
			t.Errorf("the page can't read %s of an answer with %d", c.header, c.answer.Status)
		}
	}
	p.listen(o.EventsURL)
	p.run(`listen(` + quoted(o.EventsURL) + `, {withCredentials: true})`)
	p.until(`over()`)
	for i := range 2 {
		events := p.events(i)
		endsWith(t, events, "message_stop")
		if got, want := textOf(t, events), textOf(t, relayed(parseWire(string(message(deltas))))); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestPageOfAnotherOriginReadsNothing(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(3), allowing(app))
	elsewhere := build(t, "")
	p := browse(t, elsewhere.url)
	o := h.start(request("short"))
	if a := p.call(h.url+"/v1/streams", withKey(aliceKey), request("short")); a != nil {
		t.Errorf("the page has %+v", a)
	}
	if n := len(h.upstream.requests()); n != 1 {
		t.Errorf("%d requests at the upstream, one was ours", n)
	}
	p.listen(o.EventsURL) // a ticket opens it for everybody but the pages of others
	p.run(`listen(` + quoted(o.EventsURL) + `, {withCredentials: true})`)
	p.until(`over()`)
	if !value[bool](p, `sources.every((s) => s.opened == 0 && s.events.length == 0)`) {
		t.Error("the page reads the stream")
	}
}

// TestPageOfAnotherOriginSpendsNothing: where the browser says by itself who calls, as with a cookie, other pages may not
// make it call. What needs no preflight is refused by the gateway; the rest the browser doesn't even send.
func TestPageOfAnotherOriginSpendsNothing(t *testing.T) {
	t.Parallel()
	friend, foe := build(t, ""), build(t, "")
	f := newFaucet()
	h := openHouseWith(t, gateway.Options{Demo: true}, f, allowing(friend.url))
	t.Cleanup(func() { h.forgetAll("") })
	p := browse(t, friend.url)
	answered := make(chan *pageAnswer, 1)
	asks := `{method: "POST", credentials: "include", headers: {"content-type": "application/json"}}`
	go func() { answered <- p.call(h.url+"/v1/streams", asks, request("short")) }()
	up := f.next(t)
	up.send(start)
	created := receive(t, answered, "the friend's stream")
	if created == nil || created.Status != 201 {
		t.Fatalf("the allowed page has %+v", created)
	}
	var o object
	if err := json.Unmarshal([]byte(created.Body), &o); err != nil {
		t.Fatal(err)
	}

	p = browse(t, foe.url)
	if a := p.call(h.url+"/v1/streams", asks, request("short")); a != nil {
		t.Errorf("the other page has %+v", a)
	}
	blind := `{method: "POST", mode: "no-cors", credentials: "include", headers: {"content-type": "text/plain"}}`
	for _, path := range []string{"/v1/streams", "/v1/messages", "/v1/messages/count_tokens", "/v1/streams/" + o.ID + "/cancel"} {
		if a := p.call(h.url+path, blind, request("short")); a == nil || a.Type != "opaque" {
			t.Errorf("%s: %+v", path, a)
		}
		series := fmt.Sprintf(`sluice_http_requests_total{code="403",method="POST",route=%q}`, strings.Replace(path, o.ID, ":id", 1))
		if got := h.scrape()[series]; got != 1 {
			t.Errorf("%s was refused %v times", path, got)
		}
	}
	p.run(`{
		const form = document.createElement("form");
		Object.assign(form, {method: "POST", enctype: "text/plain", action: ` + quoted(h.url+"/v1/streams") + `});
		document.body.append(form);
		setTimeout(() => form.submit());
	}`)
	h.becomes(`sluice_http_requests_total{code="403",method="POST",route="/v1/streams"}`, 2)
	if n := len(h.upstream.requests()); n != 1 {
		t.Errorf("%d requests at the upstream, one was the friend's", n)
	}
	if got := h.do("GET", "/v1/streams/"+o.ID, "", "x-api-key", "").status(200); !strings.Contains(got.body, `"in_progress"`) {
		t.Errorf("the friend's stream was cancelled: %s", got.body)
	}
	up.finish()
}
