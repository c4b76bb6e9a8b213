package claude

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

// outcome is how a stream ends for its readers.
type outcome string

const (
	complete  outcome = "complete"
	failed    outcome = "error event"
	truncated outcome = "truncated"
	spliced   outcome = "spliced"
)

// outcomes is every fixture's, with the number of events that are relayed.
var outcomes = map[string]struct {
	how    outcome
	events int
}{
	"llm-anthropic__prompt.sse":                                        {complete, 9},
	"llm-anthropic__tools__0.sse":                                      {complete, 9},
	"llm-anthropic__tools__0.sse.gz":                                   {complete, 9},
	"openllmetry__anthropic_3_completion_streaming.eventstream":        {truncated, 0},
	"pydantic-ai__anthropic_code_execution_tool_stream.sse":            {complete, 34},
	"pydantic-ai__anthropic_compaction_usage_with_cache_streaming.sse": {complete, 11},
	"pydantic-ai__anthropic_mcp_servers_stream.sse":                    {complete, 61},
	"pydantic-ai__anthropic_model_thinking_part_redacted_stream.sse":   {complete, 24},
	"pydantic-ai__anthropic_model_thinking_part_stream.sse":            {complete, 117},
	"pydantic-ai__anthropic_web_search_tool_stream.sse":                {complete, 119},
	"sdk-python__incomplete_partial_json_response.sse":                 {truncated, 14},
	"vercel-ai__issue-10819-web-fetch-error.1.sse":                     {complete, 25},
	"vercel-ai__model-stream-error-exception.eventstream":              {truncated, 0},
	"vercel-ai__programmatic-tool-calling.1__msg1.sse":                 {complete, 2},
	"vercel-ai__spliced-message-start.sse":                             {spliced, 7},
	"citations_all_locations.sse":                                      {complete, 12},
	"compaction_null_content.sse":                                      {complete, 6},
	"context_window_exceeded_zero_blocks.sse":                          {complete, 3},
	"data_only_events.sse":                                             {complete, 7},
	"doc_thinking_no_usage.sse":                                        {complete, 10},
	"edge_big_numbers.sse":                                             {complete, 6},
	"edge_bom.sse":                                                     {complete, 7},
	"edge_comments.sse":                                                {complete, 7},
	"edge_cr.sse":                                                      {complete, 7},
	"edge_crlf.sse":                                                    {complete, 7},
	"edge_event_name_type_mismatch.sse":                                {complete, 2},
	"edge_extra_blank_lines.sse":                                       {complete, 7},
	"edge_gzip_full.sse.gz":                                            {complete, 7},
	"edge_id_nul.sse":                                                  {complete, 7},
	"edge_id_retry.sse":                                                {complete, 7},
	"edge_invalid_utf8.sse":                                            {complete, 3},
	"edge_known_event_empty_data.sse":                                  {truncated, 1},
	"edge_lone_surrogate_escape.sse":                                   {complete, 7},
	"edge_mixed_eol.sse":                                               {complete, 7},
	"edge_multiline_data.sse":                                          {complete, 7},
	"edge_no_space_colon.sse":                                          {complete, 7},
	"edge_no_trailing_blank.sse":                                       {truncated, 6},
	"edge_no_trailing_newline.sse":                                     {truncated, 6},
	"edge_unicode_separators.sse":                                      {complete, 7},
	"eof_after_message_delta.sse":                                      {truncated, 6},
	"error_first_event.sse":                                            {failed, 1},
	"error_not_json.sse":                                               {failed, 2},
	"interleaved_blocks.sse":                                           {complete, 15},
	"mid_stream_overloaded.sse":                                        {failed, 4},
	"mid_stream_overloaded_doc_shape.sse":                              {failed, 4},
	"open_block_at_max_tokens.sse":                                     {complete, 5},
	"ping_everywhere.sse":                                              {complete, 6},
	"rare_blocks.sse":                                                  {complete, 25},
	"stop_sequence.sse":                                                {complete, 7},
	"thinking_display_omitted.sse":                                     {complete, 9},
	"thinking_token_count_beta.sse":                                    {complete, 11},
	"truncated_mid_event.sse":                                          {truncated, 4},
	"truncated_no_message_stop.sse":                                    {truncated, 7},
	"two_message_deltas.sse":                                           {complete, 8},
	"unknown_event_block_delta.sse":                                    {complete, 10},
	"vertex_event.sse":                                                 {complete, 7},
}

func outcomeOf(events []frame, err error) outcome {
	switch {
	case errors.Is(err, errTruncated):
		return truncated
	case errors.Is(err, errSpliced):
		return spliced
	case err != nil || len(events) == 0:
		return outcome("?")
	case events[len(events)-1].name == "error":
		return failed
	}
	return complete
}

func TestEveryFixtureEndsAsItShould(t *testing.T) {
	for _, f := range fixtures(t) {
		want, known := outcomes[f.name]
		if !known {
			t.Errorf("%s has no expected outcome", f.name)
		}
		events, err := follow(streamOf(bytes.NewReader(f.wire)))
		if got := outcomeOf(events, err); got != want.how || len(events) != want.events {
			t.Errorf("%s: %s after %d events (%v), want %s after %d", f.name, got, len(events), err, want.how, want.events)
		}
		if err != nil {
			asError(t, err, APIError, 502)
		}
	}
}

func TestDataPassesByteForByte(t *testing.T) {
	for _, f := range fixtures(t) {
		if outcomes[f.name].how != complete {
			continue
		}
		var want []frame
		for _, e := range reference(f.plain) {
			if e.name != "ping" && e.name != "vertex_event" && len(want) < outcomes[f.name].events {
				want = append(want, e)
			}
		}
		got, err := follow(streamOf(bytes.NewReader(f.wire)))
		if err != nil {
			t.Fatalf("%s: %v", f.name, err)
		}
		for i := range got {
			if i < len(want) && want[i].name == "" {
				got[i].name = ""
			}
		}
		wantFrames(t, got, want)
	}
}

const (
	start    = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{}}\n\n"
	opening  = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{}}\n\n"
	stop     = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"
	ping     = "event: ping\ndata: {\"type\": \"ping\"}\n\n"
	overload = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n"
)

func TestGrammar(t *testing.T) {
	for _, c := range []struct {
		name, body string
		how        outcome
		events     string
	}{
		{"shortest", start + stop, complete, "message_start message_stop"},
		{"pings around everything", ping + start + ping + ping + stop + ping, complete, "message_start message_stop"},
		{"pings without a name", "data: {\"type\":\"ping\"}\n\n" + start + stop, complete, "message_start message_stop"},
		{"ten thousand pings", start + strings.Repeat(ping, 10_000) + stop, complete, "message_start message_stop"},
		{"Vertex's own event", start + "data: {\"type\":\"vertex_event\"}\n\nevent: vertex_event\ndata: x\n\n" + stop, complete, "message_start message_stop"},
		{"unknown events", "event: x\ndata: 1\n\n" + start + "event: message_pause\ndata: {}\n\n" + stop, complete, "x message_start message_pause message_stop"},
		{"no name at all", start + "data: 1\n\ndata: {\"type\":7}\n\ndata: {\"type\":\"a\\u0062\"}\n\n" + stop, complete, "message_start    message_stop"},
		{"name from the data", "data: { \"a\":[\"}\"], \"type\" : \"message_start\"}\n\n" + stop, complete, "message_start message_stop"},
		{"name from the last type", "data: {\"type\":\"x\",\"type\":\"message_start\"}\n\n" + stop, complete, "message_start message_stop"},
		{"the event line governs", "event: message_start\ndata: {\"type\":\"message_stop\"}\n\n" + stop, complete, "message_start message_stop"},
		{"blocks before the start", opening + start + stop, complete, "content_block_start message_start message_stop"},
		{"events after the stop", start + stop + opening + start + overload, complete, "message_start message_stop"},
		{"second stop", start + stop + stop, complete, "message_start message_stop"},
		{"events after an error", start + overload + opening + stop, failed, "message_start error"},
		{"error first", overload + start + stop, failed, "error"},
		{"second start, same id", start + opening + start + stop, spliced, "message_start content_block_start"},
		{"second start without a name", start + "data: {\"type\":\"message_start\"}\n\n" + stop, spliced, "message_start"},
		{"nothing", "", truncated, ""},
		{"pings only", ping + ping, truncated, ""},
		{"comments only", ": x\n\n:\n\n", truncated, ""},
		{"start only", start, truncated, "message_start"},
		{"stop without its blank line", start + strings.TrimSuffix(stop, "\n"), truncated, "message_start"},
		{"stop without data", start + "event: message_stop\n\n", truncated, "message_start"},
		{"stop alone", stop, complete, "message_stop"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := streamOf(strings.NewReader(c.body))
			events, err := follow(s)
			var names []string
			for _, e := range events {
				names = append(names, e.name)
			}
			if got := strings.Join(names, " "); outcomeOf(events, err) != c.how && c.how != complete || got != c.events {
				t.Errorf("%s (%v): %q, want %s: %q", outcomeOf(events, err), err, got, c.how, c.events)
			}
		})
	}
}

func TestNothingFollowsTheEnd(t *testing.T) {
	for _, c := range []struct {
		name, body string
		want       error
	}{
		{"message_stop", start + stop + opening + stop, io.EOF},
		{"error", start + overload + opening + stop, io.EOF},
		{"splice", start + start + opening + stop, errSpliced},
		{"truncation", start, errTruncated},
	} {
		s := streamOf(strings.NewReader(c.body))
		follow(s)
		for range 3 {
			if e, err := s.Next(); !errors.Is(err, c.want) {
				t.Errorf("%s: then %q, %v", c.name, e.Name, err)
			}
		}
		s.Close()
		s.Close()
	}
}

func TestErrorsAlwaysHaveAnthropicsShape(t *testing.T) {
	own := []string{
		`{"type":"error","error":{"details":null,"type":"overloaded_error","message":"Overloaded"},"request_id":"req_9"}  `,
		`{"type":"error","error":{"type":"new_error"}}`,
		`{"error":{"message":"m","type":"api_error","more":1},"type":"error"}`,
	}
	for _, data := range own {
		events, err := follow(streamOf(strings.NewReader(start + "event: error\ndata: " + data + "\n\n")))
		if err != nil || len(events) != 2 || events[1] != (frame{"error", data}) {
			t.Errorf("%s: %q, %v", data, events, err)
		}
	}
	for _, data := range []string{
		"", "not valid json", "null", "[]", `"error"`, "{}", `{"type":"error"}`, `{"type":"error","error":null}`, `{"type":"error","error":"x"}`,
		`{"type":"error","error":{}}`, `{"type":"error","error":{"type":""}}`, `{"type":"error","error":{"type":5,"message":"m"}}`,
		`{"type":"x","error":{"type":"api_error","message":"m"}}`, `{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED"}}`,
		`{"TYPE":"error","ERROR":{"Type":"api_error","message":"m"}}`, `{"type":"error","error":{"Type":"api_error","message":"m"}}`,
		`{"type":"error","error":{"type":"api_error","message":"m"}} x`,
	} {
		events, err := follow(streamOf(strings.NewReader(start + "event: error\ndata: " + data + "\n\n")))
		if err != nil || len(events) != 2 {
			t.Fatalf("%s: %q, %v", data, events, err)
		}
		kind, message, ok := ParseError([]byte(events[1].data))
		if !ok || kind != APIError || message == "" || !strings.HasSuffix(events[1].data, `"request_id":"req_1"}`) {
			t.Errorf("%s: passed on as %s", data, events[1].data)
		}
	}
}

func TestKindsAreKnownByName(t *testing.T) {
	var body strings.Builder
	names := []string{"message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "new", "message_stop"}
	kinds := []Kind{MessageStart, BlockStart, BlockDelta, BlockStop, MessageDelta, Other, MessageStop}
	for _, name := range names {
		body.WriteString("event: " + name + "\ndata: {}\n\n")
	}
	s := streamOf(strings.NewReader(body.String()))
	var got []Kind
	for {
		e, err := s.Next()
		if err != nil {
			break
		}
		got = append(got, e.Kind)
	}
	if !slices.Equal(got, kinds) {
		t.Errorf("%v, want %v", got, kinds)
	}
}

func TestACanceledStreamEndsWithItsCause(t *testing.T) {
	cause := errors.New("nobody reads any more")
	ctx, cancel := context.WithCancelCause(context.Background())
	r, w := io.Pipe()
	defer w.Close()
	go io.WriteString(w, start)
	s := streamWithin(ctx, r)
	if _, err := s.Next(); err != nil {
		t.Fatal(err)
	}
	cancel(cause)
	w.CloseWithError(context.Canceled) // what a connection does then
	if _, err := s.Next(); err != cause {
		t.Errorf("got %v", err)
	}
}
