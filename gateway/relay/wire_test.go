package relay

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"sluice/gateway/claude"
)

// frame is one event as a reader of the wire sees it. This file knows event streams by itself: it shares nothing with
// what renders them.
type frame struct {
	id, name, data string
}

// end reports whether the frame ends its stream.
func (f frame) end() bool { return f.name == "message_stop" || f.name == "error" }

// parse reads whole events, strictly: an id line, perhaps an event line, at least one data line, a blank line, nothing
// else, each line ended by one line feed.
func parse(t testing.TB, wire []byte) (frames []frame) {
	t.Helper()
	for len(wire) > 0 {
		block, rest, whole := bytes.Cut(wire, []byte("\n\n"))
		if !whole {
			t.Fatalf("an event without its blank line: %.200q", wire)
		}
		if bytes.IndexByte(block, '\r') >= 0 {
			t.Fatalf("an event with a carriage return: %.200q", block)
		}
		var f frame
		var data []string
		for i, line := range strings.Split(string(block), "\n") {
			field, value, _ := strings.Cut(line, ": ")
			switch {
			case i == 0 && field == "id" && value != "":
				f.id = value
			case i == 1 && field == "event" && value != "":
				f.name = value
			case i > 0 && field == "data":
				data = append(data, value)
			default:
				t.Fatalf("line %d has no place in an event: %.200q", i, block)
			}
		}
		if data == nil {
			t.Fatalf("an event without data: %.200q", block)
		}
		f.data = strings.Join(data, "\n")
		frames = append(frames, f)
		wire = rest
	}
	return frames
}

// number reads an id of the first attempt.
func (f frame) number(t testing.TB) int {
	t.Helper()
	n, err := strconv.Atoi(f.id)
	if err != nil || strconv.Itoa(n) != f.id {
		t.Fatalf("%q is no id of a first attempt", f.id)
	}
	return n
}

var kinds = map[string]claude.Kind{
	"message_start": claude.MessageStart, "content_block_start": claude.BlockStart, "content_block_delta": claude.BlockDelta,
	"content_block_stop": claude.BlockStop, "message_delta": claude.MessageDelta, "message_stop": claude.MessageStop,
	"error": claude.Failure,
}

// message accumulates frames as an SDK does, and writes the Message so that two can be compared: by fields, in the order
// of their names, each with its raw bytes.
func message(t testing.TB, frames []frame) string {
	t.Helper()
	var m claude.Message
	for _, f := range frames {
		m.Add(kinds[f.name], []byte(f.data))
	}
	var fields map[string]json.RawMessage
	var blocks []map[string]json.RawMessage
	if err := json.Unmarshal(m.JSON(), &fields); err != nil {
		t.Fatalf("the Message is no JSON: %v", err)
	}
	if err := json.Unmarshal(fields["content"], &blocks); err != nil && fields != nil {
		t.Fatalf("the Message has no content: %v", err)
	}
	delete(fields, "content")
	return fmt.Sprintf("%s %s", fields, blocks)
}

// differ says where two long texts part.
func differ(got, want string) string {
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	from := max(0, i-50)
	return fmt.Sprintf("%.200q, want %.200q (from byte %d)", got[from:], want[from:], from)
}

// checkDelivery fails the test unless the frames are the events after number from, in order, each once, up to number
// to: byte for byte, or, where the viewer may get merged frames, neighbours of one block and type joined.
func checkDelivery(t testing.TB, events []event, prefix string, frames []frame, from, to int, exact bool) {
	t.Helper()
	last := from
	for _, f := range frames {
		f.id = strings.TrimPrefix(f.id, prefix)
		n := f.number(t)
		switch {
		case n <= last || n > len(events):
			t.Fatalf("event %d of %d came after %d", n, len(events), last)
		case n == last+1:
			if e := events[last]; f.name != e.name || f.data != e.data {
				t.Fatalf("event %d came as %q %.200q, was %q %.200q", n, f.name, f.data, e.name, e.data)
			}
		case exact:
			t.Fatalf("an exact viewer got %d after %d", n, last)
		default:
			if want, ok := join(events[last:n]); !ok || f.name != "content_block_delta" || f.data != want {
				t.Fatalf("events %d to %d came as %q %.300q, want %.300q", last+1, n, f.name, f.data, want)
			}
		}
		last = n
	}
	if last != to {
		t.Fatalf("delivered up to %d, want %d", last, to)
	}
}

// join is the one event that neighbouring deltas may be merged into, written out by hand.
func join(run []event) (string, bool) {
	var text strings.Builder
	for _, e := range run {
		if e.mergeKey == "" || e.mergeKey != run[0].mergeKey {
			return "", false
		}
		text.WriteString(e.text)
	}
	return run[0].open + text.String() + `"}}`, true
}
