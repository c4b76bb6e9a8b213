package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// browser reads one stream to its end, over as many connections as it takes, and looks that it gets everything once, in
// order, and that the end is one.
type browser struct {
	*driver
	slow               bool
	method, path, body string
	survivor           survivor

	began   time.Time
	attempt int            // connections before this one
	next    int            // the delta that must come
	lastID  string         // of the last whole event
	seen    map[string]int // events that must come once
	first   time.Duration  // until the first delta
	delays  []int64
}

// once are the events of which a message has one.
var once = []string{"message_start", "message_delta", "message_stop"}

// maxReconnects ends a browser that gets nowhere.
const maxReconnects = 1000

func (b *browser) run(ctx context.Context, i int) error {
	defer b.survivor.done()
	b.began = time.Now()
	b.seen = make(map[string]int, len(once))
	b.delays = make([]int64, 0, b.shape.events)
	switch b.mode {
	case "post":
		b.method, b.path, b.body = http.MethodPost, b.driver.path, b.params()
	case "stream":
		path, err := b.create(ctx)
		if err != nil {
			return err
		}
		b.method, b.path = http.MethodGet, path
	case "viewers", "subscribe":
		b.method, b.path = http.MethodGet, b.paths[i%len(b.paths)]
	}
	for {
		ended, err := b.follow(ctx)
		if err != nil {
			return err
		}
		if ended {
			return b.finish(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case b.mode == "post":
			return fmt.Errorf("the stream ended after %d of %d deltas", b.next, b.shape.events)
		case b.attempt == maxReconnects:
			return fmt.Errorf("gave up after %d reconnects", b.attempt)
		}
		b.attempt++
		b.reconnects.Add(1)
		b.survivor.wait(ctx)
	}
}

// follow reads one connection: to the stream's end, or until the connection is lost or dropped.
func (b *browser) follow(ctx context.Context) (ended bool, err error) {
	c, err := b.ask(b.survivor.context(ctx), b.method, b.path, b.body, b.lastID, b.slow)
	if err != nil {
		return false, err
	}
	defer c.close()
	b.survivor.answered()
	if c.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(c.Body, 300))
		return false, fmt.Errorf("%s: %s: %s", b.method, c.Status, text)
	}
	if kind := c.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/event-stream") {
		return false, fmt.Errorf("%s: content type %q", b.method, kind)
	}
	body := io.Reader(c.Body)
	if b.slow {
		body = &slowly{body, b.driver.slow, b.calm}
	}
	events := newEventReader(body)
	for deltas := 0; b.drop == 0 || deltas < b.drop; {
		e, err := events.next()
		if err != nil {
			return false, nil // a lost connection is no failure, what is lost with it may be
		}
		n, err := b.take(e)
		if err != nil {
			return false, err
		}
		deltas += n
		if string(e.name) == "message_stop" {
			if b.mode == "subscribe" { // nchan knows no end
				return true, nil
			}
			return true, b.nothingFollows(c, events)
		}
	}
	return false, nil
}

// take checks one event and counts the deltas in it.
func (b *browser) take(e *event) (deltas int, err error) {
	if string(e.name) == "error" {
		return 0, fmt.Errorf("error event: %s", e.data)
	}
	if len(e.id) > 0 {
		if (b.mode == "stream" || b.mode == "viewers") && idNumber(e.id) <= idNumber([]byte(b.lastID)) {
			return 0, fmt.Errorf("id %q after %q", e.id, b.lastID)
		}
		b.lastID = string(e.id)
	}
	if slices.Contains(once, string(e.name)) {
		b.seen[string(e.name)]++
	}
	for rest := e.data; ; {
		number, sent, after, ok := nextMarker(rest)
		if !ok {
			return deltas, nil
		}
		rest = after
		if number < b.next {
			b.repeated.Add(1)
			continue
		}
		b.lost.Add(int64(number - b.next))
		b.next = number + 1
		deltas++
		b.got.Add(1)
		now := time.Now()
		b.survivor.took(sent, now)
		if b.first == 0 {
			b.first = now.Sub(b.began)
		}
		if b.attempt == 0 && !b.slow {
			b.delays = append(b.delays, now.UnixNano()-sent)
		}
	}
}

// nothingFollows looks that the relay says nothing more after the end, and ends the response itself.
func (b *browser) nothingFollows(c *conn, events *eventReader) error {
	c.tcp.SetReadDeadline(time.Now().Add(5 * time.Second))
	rest, err := events.rest(100)
	if err != nil && !b.slow {
		return errors.New("the response stays open after the end")
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return fmt.Errorf("after the end: %q", rest)
	}
	return nil
}

// finish looks at the whole.
func (b *browser) finish(ctx context.Context) error {
	for _, name := range once {
		if b.seen[name] != 1 {
			return fmt.Errorf("%s came %d times", name, b.seen[name])
		}
	}
	if b.mode == "stream" { // a reader that has it all is told so
		c, err := b.ask(ctx, b.method, b.path, "", b.lastID, false)
		if err != nil {
			return err
		}
		c.close()
		if c.StatusCode != http.StatusNoContent {
			return fmt.Errorf("GET after the end: %s, not 204", c.Status)
		}
	}
	b.lost.Add(int64(max(0, b.shape.events-b.next)))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.driver.delays = append(b.driver.delays, b.delays...)
	if !b.slow {
		b.firsts = append(b.firsts, b.first.Nanoseconds())
	}
	return nil
}

// idNumber is the place of an id n or a.n in its stream; 0 for none.
func idNumber(id []byte) int {
	n, _ := strconv.Atoi(string(id[bytes.LastIndexByte(id, '.')+1:]))
	return n
}

// slowly reads so many bytes a second until all is calm.
type slowly struct {
	r    io.Reader
	rate int
	calm <-chan struct{}
}

func (s *slowly) Read(p []byte) (int, error) {
	select {
	case <-s.calm:
	case <-time.After(100 * time.Millisecond):
		p = p[:min(len(p), s.rate/10+1)]
	}
	return s.r.Read(p)
}
