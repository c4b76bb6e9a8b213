package gateway_test

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"sluice/gateway"
	"sluice/gateway/simulator"
)

// ready is what /readyz says.
func (h *house) ready() int {
	h.t.Helper()
	return h.fetch("GET", h.admin+"/readyz", "").code
}

// drains sends the signal and waits until the gateway says that it is not ready.
func (h *house) drains() {
	h.t.Helper()
	if code := h.ready(); code != 200 {
		h.t.Errorf("readyz before: %d", code)
	}
	h.stop()
	eventually(h.t, func() string { return "readyz does not become 503" }, func() bool { return h.ready() == 503 })
}

// closed looks that nobody listens any more.
func (h *house) closed() {
	h.t.Helper()
	for _, url := range []string{h.url, h.admin} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err == nil {
			conn.Close()
			h.t.Errorf("%s is still open", url)
		}
	}
}

func TestDrainServesReadersAndEndsWithTheLastStream(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f, func(c *gateway.Config) { c.Server.Drain = patience })
	w := h.watching(t, f, "idempotency-key", "k")
	h.drains()
	for _, path := range []string{"/v1/streams", "/v1/messages"} {
		a := h.do("POST", path, ask("short")).refused(529, "overloaded_error")
		if a.header.Get("Retry-After") == "" {
			t.Error("529 without retry-after")
		}
	}
	h.do("POST", "/v1/messages", request("short")).refused(529, "overloaded_error")
	if code := h.fetch("GET", h.admin+"/healthz", "").code; code != 200 {
		t.Errorf("healthz while draining: %d", code)
	}
	if o := h.get(w.o.ID); o.Status != "in_progress" {
		t.Errorf("the stream is %s", o.Status)
	}
	joined := h.start(request("long"), "idempotency-key", "k")
	if joined.ID != w.o.ID {
		t.Error("a repeated request did not join its stream")
	}
	w.up.send(block)
	if e := w.r.next(); e.id != "2" {
		t.Errorf("%+v", e)
	}
	w.r.leave()
	resumed := h.watchURL("GET", w.o.EventsURL, "", "last-event-id", "1")
	attached := h.watchURL("GET", w.o.EventsURL, "")
	w.up.finish()
	endsWith(t, resumed.rest(), "message_stop")
	endsWith(t, attached.rest(), "message_stop")
	h.waitStopped()
	h.closed()
}

func TestDrainThatIsOverEndsTheRestWithOneError(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f, func(c *gateway.Config) { c.Server.Drain = 100 * time.Millisecond })
	w := h.watching(t, f)
	direct := make(chan *reading, 1)
	go func() { direct <- h.watch("POST", "/v1/messages", ask("long")) }()
	up := f.next(t)
	up.send(start)
	r := receive(t, direct, "the answer")
	begun := time.Now()
	h.stop()
	for _, r := range []*reading{w.r, r} {
		events := r.rest()
		endsWith(t, events, "api_error")
	}
	if took := time.Since(begun); took < 100*time.Millisecond {
		t.Errorf("the drain took %s", took)
	}
	w.up.left()
	up.left()
	h.waitStopped()
	h.closed()
}

// TestDrainWaitsForReadersOfAnEndedStream: who is still reading the end gets it.
func TestDrainWaitsForReadersOfAnEndedStream(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}), func(c *gateway.Config) { c.Server.Drain = patience })
	o := h.start(request("short fault:giant=1500000"))
	h.reaches(o.ID, "completed")
	conn := h.slowly(t, o.EventsURL)
	h.becomes("sluice_viewers_active", 1)
	h.drains()
	endsWith(t, newReading(t, awake(t, conn)).rest(), "message_stop")
	h.waitStopped()
}

// TestReaderThatTakesNothingDoesNotHoldUpTheEnd: the last words have a bound.
func TestReaderThatTakesNothingDoesNotHoldUpTheEnd(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}), func(c *gateway.Config) { c.Server.Drain = 50 * time.Millisecond })
	o := h.start(request("short fault:giant=1500000"))
	h.reaches(o.ID, "completed")
	h.slowly(t, o.EventsURL)
	h.becomes("sluice_viewers_active", 1)
	h.stop()
	h.waitStopped()
}

func TestWholeAnswersInFlightFinish(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f, func(c *gateway.Config) { c.Server.Drain = patience })
	answered := make(chan *answer, 1)
	go func() { answered <- h.do("POST", "/v1/messages", request("short")) }()
	up := f.next(t)
	h.stop()
	up.send(`{"type":"message",`, `"model":"claude-sonnet-4-6","content":[]}`)
	up.end()
	receive(t, answered, "the answer").status(200)
	h.waitStopped()
	h.closed()
}

func TestWholeAnswersThatTakeTooLongAreCut(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f, func(c *gateway.Config) { c.Server.Drain = 50 * time.Millisecond })
	cut := make(chan error, 1)
	go func() { cut <- h.post(context.Background(), "/v1/messages", request("short")) }()
	up := f.next(t)
	h.stop()
	up.left()
	if err := receive(t, cut, "the request's end"); err == nil {
		t.Error("there was an answer")
	}
	h.waitStopped()
}

func TestDrainWithNothingToDoIsQuick(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(3), func(c *gateway.Config) { c.Server.Drain = time.Hour })
	o := h.start(request("short")) // an ended stream is nothing to wait for
	h.watchURL("GET", o.EventsURL, "").rest()
	idle, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://")) // nor is a connection that says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	begun := time.Now()
	h.stop()
	h.waitStopped()
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("took %s", took)
	}
	if _, err := idle.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the idle connection: %v", err)
	}
}

// TestListenerThatIsTakenIsAnError: Run says why it ends.
func TestListenerThatIsTakenIsAnError(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg := gateway.Defaults()
	cfg.Server.Listen, cfg.Server.AdminListen = "127.0.0.1:0", taken.Addr().String()
	cfg.Store.Dir = t.TempDir()
	g, err := gateway.New(cfg, gateway.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "server.admin_listen") {
		t.Errorf("Run: %v", err)
	}
}
