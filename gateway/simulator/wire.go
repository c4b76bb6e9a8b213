package simulator

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
)

// The payloads, their keys in the order in which the API writes them.
type (
	message struct {
		Model        string       `json:"model"`
		ID           string       `json:"id"`
		Type         string       `json:"type"`
		Role         string       `json:"role"`
		Content      []any        `json:"content"`
		StopReason   *string      `json:"stop_reason"`
		StopSequence *string      `json:"stop_sequence"`
		StopDetails  *stopDetails `json:"stop_details"`
		Usage        usage        `json:"usage"`
	}
	stopDetails struct {
		Type        string  `json:"type"`
		Category    *string `json:"category"`
		Explanation *string `json:"explanation"`
	}
	// usage is whole in a Message; message_delta leaves out what cannot have changed.
	usage struct {
		InputTokens              int            `json:"input_tokens"`
		CacheCreationInputTokens int            `json:"cache_creation_input_tokens"`
		CacheReadInputTokens     int            `json:"cache_read_input_tokens"`
		CacheCreation            *cacheCreation `json:"cache_creation,omitempty"`
		OutputTokens             int            `json:"output_tokens"`
		OutputTokensDetails      *outputDetails `json:"output_tokens_details,omitempty"`
		ServiceTier              string         `json:"service_tier,omitempty"`
		InferenceGeo             string         `json:"inference_geo,omitempty"`
	}
	cacheCreation struct {
		FiveMinutes int `json:"ephemeral_5m_input_tokens"`
		OneHour     int `json:"ephemeral_1h_input_tokens"`
	}
	outputDetails struct {
		ThinkingTokens int `json:"thinking_tokens"`
	}

	textBlock struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	thinkingBlock struct {
		Type      string `json:"type"`
		Thinking  string `json:"thinking"`
		Signature string `json:"signature"`
	}
	toolUseBlock struct {
		Type   string          `json:"type"`
		ID     string          `json:"id"`
		Name   string          `json:"name"`
		Input  json.RawMessage `json:"input"`
		Caller caller          `json:"caller"`
	}
	caller struct {
		Type string `json:"type"`
	}

	messageStart struct {
		Type    string  `json:"type"`
		Message message `json:"message"`
	}
	blockStart struct {
		Type         string `json:"type"`
		Index        int    `json:"index"`
		ContentBlock any    `json:"content_block"`
	}
	blockDelta struct {
		Type  string `json:"type"`
		Index int    `json:"index"`
		Delta any    `json:"delta"`
	}
	blockStop struct {
		Type  string `json:"type"`
		Index int    `json:"index"`
	}
	messageDelta struct {
		Type  string   `json:"type"`
		Delta endDelta `json:"delta"`
		Usage usage    `json:"usage"`
	}
	endDelta struct {
		StopReason   *string      `json:"stop_reason"`
		StopSequence *string      `json:"stop_sequence"`
		StopDetails  *stopDetails `json:"stop_details"`
	}
	messageStop struct {
		Type string `json:"type"`
	}

	textDelta struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	thinkingDelta struct {
		Type     string `json:"type"`
		Thinking string `json:"thinking"`
	}
	signatureDelta struct {
		Type      string `json:"type"`
		Signature string `json:"signature"`
	}
	inputDelta struct {
		Type        string `json:"type"`
		PartialJSON string `json:"partial_json"`
	}

	// errorEnvelope is the same over HTTP and as an event, except that only the event shows details (as null).
	errorEnvelope struct {
		Type      string `json:"type"`
		Error     any    `json:"error"`
		RequestID string `json:"request_id"`
	}
	httpError struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	}
	eventError struct {
		Details *struct{} `json:"details"`
		Type    string    `json:"type"`
		Message string    `json:"message"`
	}
)

func errorBody(kind, message, requestID string) errorEnvelope {
	return errorEnvelope{Type: "error", Error: httpError{Type: kind, Message: message}, RequestID: requestID}
}

// eventWriter writes events of one stream, each sent before the next is made.
type eventWriter struct {
	x      *exchange
	out    io.Writer
	zip    *gzip.Writer // nil where the body is not compressed
	buffer bytes.Buffer
}

func newEventWriter(x *exchange, compressed bool) *eventWriter {
	e := &eventWriter{x: x, out: x.w}
	if compressed {
		e.zip = gzip.NewWriter(x.w)
		e.out = e.zip
	}
	return e
}

// maxPadding: the API writes up to 15 spaces before the last brace of every payload but a ping's, and so do we: who
// re-serialises what should pass untouched is found out.
const maxPadding = 15

func (e *eventWriter) event(name string, payload any) error {
	data := encode(payload)
	padding := e.x.random.IntN(maxPadding + 1)
	e.buffer.Reset()
	e.buffer.WriteString("event: " + name + "\ndata: ")
	e.buffer.Write(data[:len(data)-1])
	e.buffer.WriteString("               "[:padding])
	e.buffer.WriteString("}\n\n")
	return e.send()
}

// ping is the one event with a space after its colon and without padding.
func (e *eventWriter) ping() error {
	e.buffer.Reset()
	e.buffer.WriteString("event: ping\ndata: {\"type\": \"ping\"}\n\n")
	return e.send()
}

func (e *eventWriter) overloaded() error {
	return e.event("error", errorEnvelope{
		Type:      "error",
		Error:     eventError{Type: "overloaded_error", Message: "Overloaded"},
		RequestID: e.x.requestID,
	})
}

func (e *eventWriter) send() error {
	if err := e.x.wait(0); err != nil {
		return err
	}
	if _, err := e.out.Write(e.buffer.Bytes()); err != nil {
		return errGone
	}
	if e.zip != nil {
		if err := e.zip.Flush(); err != nil {
			return errGone
		}
	}
	return e.x.flush()
}

// close ends the body as a body ends; without it a compressed one has no trailer.
func (e *eventWriter) close() error {
	if e.zip == nil {
		return nil
	}
	if err := e.zip.Close(); err != nil {
		return errGone
	}
	return nil
}
