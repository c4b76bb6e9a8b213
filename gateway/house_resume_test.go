package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"sluice/gateway"
	"sluice/gateway/limits"
	"sluice/gateway/simulator"
)

// TestReaderThatDropsAnywhereMissesAndRepeatsNothing drops after each event of a stream, ended and live, and resumes.
func TestReaderThatDropsAnywhereMissesAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	const deltas = 25
	h := openHouse(t, saying(deltas))
	want := relayed(parseWire(string(message(deltas))))
	o := h.start(request("short"))
	for k := range want {
		r := h.watchURL("GET", o.EventsURL+"&exact=1", "", "x-api-key", "")
		var got []event
		for range k {
			got = append(got, r.next())
		}
		r.leave()
		cursor := []string{"x-api-key", ""}
		if k > 0 {
			cursor = append(cursor, "last-event-id", got[k-1].id)
		}
		got = append(got, h.watchURL("GET", o.EventsURL+"&exact=1", "", cursor...).rest()...)
		numbered(t, got, 0)
		same(t, got, want)
	}
}

func TestReaderThatDropsAllTheTimeSeesTheWholeLiveStream(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f)
	w := h.watching(t, f)
	var sent []string
	for i := range 40 {
		sent = append(sent, fmt.Sprintf("word %d, ", i))
	}
	go func() {
		w.up.send(block)
		for _, text := range sent {
			w.up.send(delta(text))
		}
		w.up.finish()
	}()
	var got []event
	last := "1"
	for {
		r := h.watchURL("GET", w.o.EventsURL, "", "last-event-id", last)
		many := rand.IntN(4)
		for range many {
			e, err := r.block()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if e.id != "" {
				got, last = append(got, e), e.id
			}
		}
		r.leave()
		if n := len(got); n > 0 && got[n-1].name == "message_stop" {
			break
		}
	}
	if text := textOf(t, got); text != strings.Join(sent, "") {
		t.Errorf("read %q", text)
	}
	h.fetch("GET", w.o.EventsURL, "", "last-event-id", last).status(204)
	w.r.rest()
}

// TestEachEventArrivesBeforeTheNextIsSent is the buffering detector: the upstream sends an event when the reader has
// seen the one before.
func TestEachEventArrivesBeforeTheNextIsSent(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f)
	answered := make(chan *reading, 1)
	go func() { answered <- h.watch("POST", "/v1/messages", ask("long")) }()
	up := f.next(t)
	up.send(start)
	direct := receive(t, answered, "the answer, which the first event lets go")
	id := direct.resp.Header.Get("Sluice-Stream-Id")
	browser := h.watch("GET", "/v1/streams/"+id+"/events", "")
	for i, chunk := range append([]string{start, block, delta("a"), delta("b"), delta("c")}, tail...) {
		if i > 0 {
			up.send(chunk)
		}
		want := relayed(parseWire(chunk))[0]
		want.id = fmt.Sprint(i + 1)
		if e := direct.next(); e != want {
			t.Errorf("on /v1/messages: %+v", e)
		}
		if e := browser.next(); e != want {
			t.Errorf("on /events: %+v", e)
		}
	}
	up.end()
	if len(direct.rest())+len(browser.rest()) != 0 {
		t.Error("something came after the end")
	}
}

// TestSeveralEventsInOneReadAllArrive shows that nothing waits for the next read of the upstream.
func TestSeveralEventsInOneReadAllArrive(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f)
	w := h.watching(t, f)
	w.up.send(block + delta("a") + delta("b") + "event: content_block_delta\ndata: {\"ty")
	for i := range 3 {
		if e := w.r.next(); e.id != fmt.Sprint(i+2) {
			t.Fatalf("%+v", e)
		}
	}
	w.up.send("pe\":\"later\"}\n", "\n")
	if e := w.r.next(); e.data != `{"type":"later"}` {
		t.Errorf("%+v", e)
	}
	w.up.finish()
	endsWith(t, w.r.rest(), "message_stop")
}

// TestLostStreamIsSaidToBeLost restarts the gateway under a reader.
func TestLostStreamIsSaidToBeLost(t *testing.T) {
	t.Parallel()
	keep := func(c *gateway.Config) { c.Auth.TicketSecret = strings.Repeat("0f", 32) }
	before := openHouse(t, saying(3), keep)
	u, err := url.Parse(before.start(request("short")).EventsURL)
	if err != nil {
		t.Fatal(err)
	}
	h := openHouse(t, saying(3), keep)
	for _, cursor := range []string{"", "4", "garbage"} {
		events := h.watch("GET", u.RequestURI(), "", "x-api-key", "", "last-event-id", cursor).rest()
		if len(events) != 1 || events[0].id != "lost" || errorType(events[0]) != "api_error" {
			t.Errorf("%+v", events)
		}
	}
	h.do("GET", u.RequestURI(), "", "x-api-key", "", "last-event-id", "lost").status(204)
	h.do("GET", u.RequestURI()+"&last_event_id=lost", "", "x-api-key", "").status(204)
	h.do("GET", u.Path, "", "last-event-id", "4").refused(404, "not_found_error")
	h.do("GET", u.Path+"?ticket=garbage", "", "x-api-key", "").refused(401, "authentication_error")
	h.becomes(`sluice_resumes_total{kind="lost"}`, 5)
	// It dies with its owner's key; with another secret it is worth nothing.
	revoked := openHouse(t, saying(3), keep, func(c *gateway.Config) { c.Auth.Keys[0].Key, c.Auth.Keys[1].Key = bobKey, aliceKey })
	revoked.do("GET", u.RequestURI(), "", "x-api-key", "").refused(401, "authentication_error")
	revoked.becomes(`sluice_auth_failures_total{kind="ticket"}`, 1)
	other := openHouse(t, saying(3))
	other.do("GET", u.RequestURI(), "", "x-api-key", "").refused(401, "authentication_error")
}

func TestTicketExpiresWithItsStreamsRetention(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(3), func(c *gateway.Config) { c.Relay.Retention = 30 * time.Millisecond })
	o := h.start(request("short"))
	h.isEmpty() // nobody deleted it
	h.fetch("GET", o.EventsURL, "", "x-api-key", "").refused(401, "authentication_error")
	h.do("GET", "/v1/streams/"+o.ID, "").refused(404, "not_found_error")
}

func TestTemporaryRefusalKeepsEventSourcesComing(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f, func(c *gateway.Config) { c.Plans["default"] = limits.Plan{ViewersPerStream: 2} })
	w := h.watching(t, f)
	second := h.watchURL("GET", w.o.EventsURL, "", "x-api-key", "")
	second.next()
	for range 3 {
		r := h.watchURL("GET", w.o.EventsURL, "", "x-api-key", "")
		e, err := r.block()
		var ms int
		if _, bad := fmt.Sscan(e.retry, &ms); err != nil || bad != nil || ms < 1500 || ms > 20_000 || e.comment == "" || e.name != "" {
			t.Errorf("refused with %+v, %v", e, err)
		}
		if rest := r.rest(); len(rest) != 0 {
			t.Errorf("and with %+v", rest)
		}
	}
	h.becomes(`sluice_rate_limited_total{limit="viewers_per_stream"}`, 3)
	second.leave()
	h.becomes("sluice_viewers_active", 1)
	third := h.watchURL("GET", w.o.EventsURL, "", "x-api-key", "")
	third.next()
	w.up.send(block)
	w.up.finish()
	endsWith(t, third.rest(), "message_stop")
	endsWith(t, w.r.rest(), "message_stop")
}

// slowly attaches a reader that takes nothing until it is asked to, with a small receive buffer.
func (h *house) slowly(t testing.TB, rawURL string) *net.TCPConn {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", u.RequestURI(), u.Host)
	return conn.(*net.TCPConn)
}

// awake begins to read after all, as quickly as others.
func awake(t testing.TB, conn *net.TCPConn) *http.Response {
	t.Helper()
	conn.SetReadBuffer(1 << 20)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// TestSlowReaderIsMergedAndDelaysNobody has one reader stand still while another reads each event as it comes.
func TestSlowReaderIsMergedAndDelaysNobody(t *testing.T) {
	t.Parallel()
	const deltas = 4000
	f := newFaucet()
	h := openHouse(t, f)
	w := h.watching(t, f)
	conn := h.slowly(t, w.o.EventsURL)
	h.becomes("sluice_viewers_active", 2)
	w.up.send(block)
	w.r.next()
	text := strings.Repeat("slowly does it ", 12)
	for range deltas / 20 { // in pace: the next burst is sent when the last one was read
		var burst strings.Builder
		for range 20 {
			burst.WriteString(delta(text))
		}
		w.up.send(burst.String())
		for range 20 {
			if e := w.r.next(); !strings.Contains(e.data, text) {
				t.Fatalf("%+v", e)
			}
		}
	}
	w.up.finish()
	endsWith(t, w.r.rest(), "message_stop")
	resp := awake(t, conn)
	slow := newReading(t, resp).rest()
	endsWith(t, slow, "message_stop")
	if len(slow) > deltas/2 || textOf(t, slow) != strings.Repeat(text, deltas) {
		t.Errorf("the slow reader got %d events with %d bytes of text", len(slow), len(textOf(t, slow)))
	}
	if got := h.scrape()["sluice_viewer_coalesced_events_total"]; got < deltas/2 {
		t.Errorf("%v events were merged", got)
	}
}

func TestStalledReaderIsEndedAndCanResume(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}), func(c *gateway.Config) { c.Relay.StallTimeout = 500 * time.Millisecond })
	o := h.start(request("short fault:giant=2000000"))
	h.reaches(o.ID, "completed")
	conn := h.slowly(t, o.EventsURL)
	h.becomes(`sluice_viewers_ended_total{reason="stalled"}`, 1)
	h.becomes("sluice_viewers_active", 0)
	resp := awake(t, conn)
	seen, err := newReading(t, resp).toEnd()
	if !cut(err) {
		t.Errorf("a stalled response ends with %v after %d events", err, len(seen))
	}
	last := ""
	if len(seen) > 0 {
		last = seen[len(seen)-1].id
	}
	again := h.watchURL("GET", o.EventsURL, "", "last-event-id", last).rest()
	endsWith(t, again, "message_stop")
	if n := len(textOf(t, append(seen, again...))); n < 2_000_000 {
		t.Errorf("%d bytes of text", n)
	}
}
