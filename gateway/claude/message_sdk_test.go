package claude

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
)

var update = flag.Bool("update", false, "write the golden files")

// accumulate is the Message of a body's events, and those events.
func accumulate(t *testing.T, body []byte) (m Message, events []frame) {
	t.Helper()
	s := streamOf(bytes.NewReader(body))
	for {
		e, err := s.Next()
		if err != nil {
			break
		}
		m.Add(e.Kind, e.Data)
		events = append(events, frame{string(e.Name), string(e.Data)})
		if !json.Valid(m.JSON()) {
			t.Fatalf("after %s: the message is not JSON: %s", e.Name, m.JSON())
		}
	}
	return m, events
}

// bySDK is the message that the official Go SDK accumulates. Its client drops events whose name it doesn't know.
func bySDK(t *testing.T, events []frame) (message string, err error) {
	t.Helper()
	var m anthropic.BetaMessage
	for _, e := range events {
		switch names[e.name] {
		case MessageStart, BlockStart, BlockDelta, BlockStop, MessageDelta, MessageStop:
			var event anthropic.BetaRawMessageStreamEventUnion
			if err := json.Unmarshal([]byte(e.data), &event); err != nil {
				t.Fatal(err)
			}
			if err := m.Accumulate(event); err != nil {
				return "", err
			}
		}
	}
	return m.RawJSON(), nil
}

// value decodes JSON for comparing: numbers as they are written, without members that are null, which the SDK leaves
// out or takes over by kind of event.
func value(t *testing.T, raw []byte) any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%v in %s", err, raw)
	}
	return withoutNull(v)
}

func withoutNull(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, inner := range v {
			if inner == nil {
				delete(v, key)
			} else {
				v[key] = withoutNull(inner)
			}
		}
	case []any:
		for i := range v {
			v[i] = withoutNull(v[i])
		}
	}
	return v
}

// deviations are the fixtures of which the SDK makes another message, and why ours is right.
var deviations = map[string]string{
	"edge_lone_surrogate_escape.sse": "the SDK decodes each delta by itself and loses a character that two of them share",
	"edge_invalid_utf8.sse":          "the SDK refuses a delta of a block that has not begun",
}

func TestTheMessageIsWhatTheOfficialSDKAccumulates(t *testing.T) {
	for _, f := range fixtures(t) {
		if outcomes[f.name].how != complete {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			m, events := accumulate(t, f.wire)
			message, err := bySDK(t, events)
			same := err == nil && reflect.DeepEqual(value(t, m.JSON()), value(t, []byte(message)))
			if why := deviations[f.name]; same != (why == "") {
				t.Errorf("deviation %q, %v\nours  %s\nSDK's %s", why, err, m.JSON(), message)
			}
		})
	}
}

func TestTheMessageIsGolden(t *testing.T) {
	for name := range deviations {
		golden(t, name, fixtureNamed(t, name))
	}
	for _, name := range []string{
		"rare_blocks.sse", "edge_big_numbers.sse", "vercel-ai__programmatic-tool-calling.1__msg1.sse", "unknown_event_block_delta.sse",
		"truncated_no_message_stop.sse", "llm-anthropic__tools__0.sse", "compaction_null_content.sse",
	} {
		golden(t, name, fixtureNamed(t, name))
	}
}

func golden(t *testing.T, name string, body []byte) {
	t.Helper()
	m, _ := accumulate(t, body)
	path := filepath.Join("testdata", "golden", name+".json")
	got := append(m.JSON(), '\n')
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s:\ngot  %s\nwant %s", name, got, want)
	}
}
