package gateway_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/gateway/simulator"
)

// fixtures says what becomes of each file: how many events a reader gets, and the last one: message_stop, or an error of
// this type. Where the end is an error of ours it is counted, and replaces nothing of what came before.
var fixtures = map[string]struct {
	events int
	end    string
}{
	"recorded/llm-anthropic__prompt.sse":                                        {9, "message_stop"},
	"recorded/llm-anthropic__tools__0.sse":                                      {9, "message_stop"},
	"recorded/llm-anthropic__tools__0.sse.gz":                                   {9, "message_stop"},
	"recorded/pydantic-ai__anthropic_code_execution_tool_stream.sse":            {34, "message_stop"},
	"recorded/pydantic-ai__anthropic_compaction_usage_with_cache_streaming.sse": {11, "message_stop"},
	"recorded/pydantic-ai__anthropic_mcp_servers_stream.sse":                    {61, "message_stop"},
	"recorded/pydantic-ai__anthropic_model_thinking_part_redacted_stream.sse":   {24, "message_stop"},
	"recorded/pydantic-ai__anthropic_model_thinking_part_stream.sse":            {117, "message_stop"},
	"recorded/pydantic-ai__anthropic_web_search_tool_stream.sse":                {119, "message_stop"},
	"recorded/sdk-python__incomplete_partial_json_response.sse":                 {15, "api_error"}, // no blank line at the end
	"recorded/vercel-ai__issue-10819-web-fetch-error.1.sse":                     {25, "message_stop"},
	"recorded/vercel-ai__programmatic-tool-calling.1__msg1.sse":                 {2, "message_stop"},
	"recorded/vercel-ai__spliced-message-start.sse":                             {8, "api_error"}, // two answers in one
	"synthetic/citations_all_locations.sse":                                     {12, "message_stop"},
	"synthetic/compaction_null_content.sse":                                     {6, "message_stop"},
	"synthetic/context_window_exceeded_zero_blocks.sse":                         {3, "message_stop"},
	"synthetic/data_only_events.sse":                                            {7, "message_stop"},
	"synthetic/doc_thinking_no_usage.sse":                                       {10, "message_stop"},
	"synthetic/edge_big_numbers.sse":                                            {6, "message_stop"},
	"synthetic/edge_bom.sse":                                                    {7, "message_stop"},
	"synthetic/edge_comments.sse":                                               {7, "message_stop"},
	"synthetic/edge_cr.sse":                                                     {7, "message_stop"},
	"synthetic/edge_crlf.sse":                                                   {7, "message_stop"},
	"synthetic/edge_event_name_type_mismatch.sse":                               {2, "message_stop"}, // the name governs
	"synthetic/edge_extra_blank_lines.sse":                                      {7, "message_stop"},
	"synthetic/edge_gzip_full.sse.gz":                                           {7, "message_stop"},
	"synthetic/edge_id_nul.sse":                                                 {7, "message_stop"},
	"synthetic/edge_id_retry.sse":                                               {7, "message_stop"},
	"synthetic/edge_invalid_utf8.sse":                                           {3, "message_stop"},
	"synthetic/edge_known_event_empty_data.sse":                                 {2, "api_error"}, // no data, no event
	"synthetic/edge_lone_surrogate_escape.sse":                                  {7, "message_stop"},
	"synthetic/edge_mixed_eol.sse":                                              {7, "message_stop"},
	"synthetic/edge_multiline_data.sse":                                         {7, "message_stop"},
	"synthetic/edge_no_space_colon.sse":                                         {7, "message_stop"},
	"synthetic/edge_no_trailing_blank.sse":                                      {7, "api_error"}, // an unfinished block is no event
	"synthetic/edge_no_trailing_newline.sse":                                    {7, "api_error"},
	"synthetic/edge_unicode_separators.sse":                                     {7, "message_stop"},
	"synthetic/eof_after_message_delta.sse":                                     {7, "api_error"},
	"synthetic/error_first_event.sse":                                           {1, "overloaded_error"},
	"synthetic/error_not_json.sse":                                              {2, "api_error"},
	"synthetic/interleaved_blocks.sse":                                          {15, "message_stop"},
	"synthetic/mid_stream_overloaded.sse":                                       {4, "overloaded_error"},
	"synthetic/mid_stream_overloaded_doc_shape.sse":                             {4, "overloaded_error"},
	"synthetic/open_block_at_max_tokens.sse":                                    {5, "message_stop"},
	"synthetic/ping_everywhere.sse":                                             {6, "message_stop"},
	"synthetic/rare_blocks.sse":                                                 {25, "message_stop"},
	"synthetic/stop_sequence.sse":                                               {7, "message_stop"},
	"synthetic/thinking_display_omitted.sse":                                    {9, "message_stop"},
	"synthetic/thinking_token_count_beta.sse":                                   {11, "message_stop"},
	"synthetic/truncated_mid_event.sse":                                         {5, "api_error"},
	"synthetic/truncated_no_message_stop.sse":                                   {8, "api_error"},
	"synthetic/two_message_deltas.sse":                                          {8, "message_stop"},
	"synthetic/unknown_event_block_delta.sse":                                   {10, "message_stop"},
	"synthetic/vertex_event.sse":                                                {7, "message_stop"},
}

// fixture is a file with the events that must come of it.
type fixture struct {
	name   string
	wire   []byte // as the upstream sends it
	gzip   bool
	end    string
	events []event // without the error of ours, where that is the end
	ours   bool    // the end is an error of ours
}

func loadFixtures(t *testing.T) []fixture {
	t.Helper()
	paths, err := filepath.Glob("testdata/*/*.sse*")
	if err != nil || len(paths) != len(fixtures) {
		t.Fatalf("%d files (%v), %d expectations", len(paths), err, len(fixtures))
	}
	var all []fixture
	for _, path := range paths {
		name := strings.TrimPrefix(filepath.ToSlash(path), "testdata/")
		want, ok := fixtures[name]
		if !ok {
			t.Fatalf("%s has no expectation", name)
		}
		f := fixture{name: name, end: want.end, gzip: strings.HasSuffix(name, ".gz")}
		if f.wire, err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
		plain := f.wire
		if f.gzip {
			plain = gunzip(t, plain)
		}
		f.events = relayed(parseWire(string(plain)))
		got := len(f.events)
		if last := f.events[got-1].name; last != "message_stop" && last != "error" {
			f.ours = true
			got++
		}
		if got != want.events {
			t.Errorf("%s: the test's own parser finds %d events, the table says %d", name, got, want.events)
		}
		all = append(all, f)
	}
	return all
}

func gunzip(t testing.TB, b []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err == nil {
		b, err = io.ReadAll(z)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// parseWire is WHATWG HTML §9.2.6 by the letter, over a whole body.
func parseWire(body string) (events []event) {
	body = strings.TrimPrefix(body, "\ufeff")
	body = strings.ReplaceAll(strings.ReplaceAll(body, "\r\n", "\n"), "\r", "\n")
	lines := strings.Split(body, "\n")
	lines = lines[:len(lines)-1] // what has no line end is not a line
	var name string
	var data []string
	for _, line := range lines {
		if line == "" {
			if data != nil {
				events = append(events, event{name: name, data: strings.Join(data, "\n")})
			}
			name, data = "", nil
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimPrefix(value, " "); field {
		case "event":
			name = value
		case "data":
			data = append(data, value)
		}
	}
	return events
}

// relayed leaves out what is not relayed: pings, Vertex's own event, and what follows an end or a second beginning.
func relayed(events []event) (out []event) {
	for _, e := range events {
		if e.name == "" {
			var object struct{ Type string }
			_ = json.Unmarshal([]byte(e.data), &object)
			e.name = object.Type
		}
		if e.name == "ping" || e.name == "vertex_event" {
			continue
		}
		if e.name == "message_start" && len(out) > 0 || e.name == "error" && errorType(e) == "" {
			return out
		}
		if out = append(out, e); e.name == "message_stop" || e.name == "error" {
			return out
		}
	}
	return out
}

// shelf is an upstream that sends the fixture named in the user-agent, cut as that name says.
type shelf map[string]simulator.Script

func (s shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	script, ok := s[r.Header.Get("User-Agent")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	script.ServeHTTP(w, r)
}

// split is one way to cut a body into chunks.
type split struct {
	name   string
	chunks func([]byte) [][]byte
	gap    time.Duration
}

// splits are the ways in which a file is sent: whole, an event at a time, byte by byte, and in two at many offsets, with
// a silence that keeps the network from joining them.
func splits(size int) []split {
	all := []split{{"whole", nil, 0}, {"events", simulator.PerEvent, 0}, {"7 bytes", simulator.EveryBytes(7), 0}}
	offsets := 48
	if testing.Short() {
		offsets = 6
	}
	if size < 1100 {
		all = append(all, split{"each byte", simulator.EveryBytes(1), 0})
	}
	for at := 1; at < size; at += max(1, size/offsets) {
		all = append(all, split{fmt.Sprintf("at %d", at), simulator.SplitAt(at), time.Millisecond})
	}
	return all
}

// TestEveryRecordedStreamPassesUntouched sends each file through the house, cut in all kinds of places.
func TestEveryRecordedStreamPassesUntouched(t *testing.T) {
	t.Parallel()
	all := loadFixtures(t)
	scripts := shelf{}
	type job struct {
		fixture
		key string
	}
	var jobs []job
	for _, f := range all {
		ways := splits(len(f.wire))
		if f.end == "overloaded_error" && f.events[0].name == "error" {
			ways = ways[:1] // it is asked for again, which takes time
		}
		for _, way := range ways {
			script := simulator.Script{Body: f.wire, Chunks: way.chunks, Gap: way.gap, Header: http.Header{}}
			if f.gzip {
				script.Header.Set("Content-Encoding", "gzip")
			}
			key := f.name + " " + way.name
			scripts[key] = script
			jobs = append(jobs, job{f, key})
		}
		if f.gzip { // as an intermediary has been seen to send it: without a word
			scripts[f.name+" silently"] = simulator.Script{Body: f.wire}
			jobs = append(jobs, job{f, f.name + " silently"})
		}
	}
	h := openHouse(t, scripts)
	work := make(chan job)
	for i := range 16 {
		t.Run(fmt.Sprint("reader ", i), func(t *testing.T) {
			t.Parallel()
			h := h.in(t)
			for j := range work {
				h.passesUntouched(t, j.fixture, j.key)
			}
		})
	}
	go func() {
		defer close(work)
		for _, j := range jobs {
			select {
			case work <- j:
			case <-t.Context().Done():
				return
			}
		}
	}()
}

func (h *house) passesUntouched(t *testing.T, f fixture, key string) {
	defer func() {
		if t.Failed() {
			t.Log("in", key)
		}
	}()
	if f.events != nil && f.events[0].name == "error" {
		a := h.do("POST", "/v1/messages", ask("fixture"), "user-agent", key).status(529)
		if a.body != f.events[0].data {
			t.Errorf("%s: a refusal became %s", key, a.body)
		}
		return
	}
	r := h.watch("POST", "/v1/messages", ask("fixture"), "user-agent", key)
	events := r.rest()
	f.check(t, key, events)
	numbered(t, events, 0)
	h.do("DELETE", "/v1/streams/"+r.resp.Header.Get("Sluice-Stream-Id"), "").status(200)
}

// check looks that events are the fixture's, and its end.
func (f fixture) check(t testing.TB, key string, events []event) {
	t.Helper()
	endsWith(t, events, f.end)
	if f.ours {
		events = events[:len(events)-1]
	}
	if len(events) != len(f.events) {
		t.Fatalf("%s: %d events, want %d", key, len(events), len(f.events))
	}
	same(t, events, f.events)
}

// TestEveryRecordedStreamIsReadBackExactly reads each file as a browser does, after its end: byte for byte when asked
// to, and otherwise merged into what accumulates to the same Message.
func TestEveryRecordedStreamIsReadBackExactly(t *testing.T) {
	t.Parallel()
	all := loadFixtures(t)
	scripts := shelf{}
	for _, f := range all {
		script := simulator.Script{Body: f.wire, Header: http.Header{}}
		if f.gzip {
			script.Header.Set("Content-Encoding", "gzip")
		}
		scripts[f.name] = script
	}
	h := openHouse(t, scripts)
	for _, f := range all {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			h := h.in(t)
			if f.events[0].name == "error" {
				h.do("POST", "/v1/streams", ask("fixture"), "user-agent", f.name).status(529)
				return
			}
			o := h.start(ask("fixture"), "user-agent", f.name)
			exact := h.watchURL("GET", o.EventsURL+"&exact=1", "", "x-api-key", "").rest()
			f.check(t, "exact", exact)
			numbered(t, exact, 0)
			merged := h.watchURL("GET", o.EventsURL, "", "x-api-key", "").rest()
			endsWith(t, merged, f.end)
			if len(merged) > len(exact) {
				t.Errorf("%d events became %d", len(exact), len(merged))
			}
			for i, last := 0, 0; i < len(merged); i++ {
				var id int
				if _, err := fmt.Sscan(merged[i].id, &id); err != nil || id <= last {
					t.Fatalf("id %q after %d", merged[i].id, last)
				}
				last = id
			}
			want := accumulate(t, exact)
			equalJSON(t, accumulate(t, merged), want)
			if o = h.get(o.ID); len(want) > 0 {
				equalJSON(t, o.Message, want)
			}
		})
	}
}
