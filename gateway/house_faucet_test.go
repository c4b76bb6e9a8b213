package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"sluice/gateway/simulator"
)

// faucet is a Claude that sends what a test hands it, when the test does.
type faucet struct{ taps chan *tap }

func newFaucet() *faucet { return &faucet{make(chan *tap)} }

// tap is one request at a faucet.
type tap struct {
	t      testing.TB
	ctx    context.Context // done when the gateway has left
	chunks chan string
	done   chan struct{} // closed when the handler has returned
}

func (f *faucet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := &tap{ctx: r.Context(), chunks: make(chan string), done: make(chan struct{})}
	defer close(p.done)
	select {
	case f.taps <- p:
	case <-r.Context().Done():
		return
	}
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("Request-Id", "req_faucet")
	for {
		select {
		case chunk, more := <-p.chunks:
			if !more {
				return
			}
			io.WriteString(w, chunk)
			if http.NewResponseController(w).Flush() != nil {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

// next waits for a request.
func (f *faucet) next(t testing.TB) *tap {
	t.Helper()
	p := receive(t, f.taps, "a request at the upstream")
	p.t = t
	return p
}

// send hands over bytes; the first time, headers go before them, also before none.
func (p *tap) send(chunks ...string) {
	p.t.Helper()
	for _, chunk := range chunks {
		select {
		case p.chunks <- chunk:
		case <-p.done:
			p.t.Fatal("the gateway has left the upstream")
		case <-time.After(patience):
			p.t.Fatal("the upstream can't write")
		}
	}
}

// end ends the body cleanly.
func (p *tap) end() { close(p.chunks) }

// finish sends what is missing to a whole message.
func (p *tap) finish() {
	p.send(tail...)
	p.end()
}

// left waits until the gateway has left.
func (p *tap) left() {
	p.t.Helper()
	receive(p.t, p.ctx.Done(), "the gateway to leave the upstream")
}

// A message in pieces.
const (
	start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-sonnet-4-6\",\"id\":\"msg_01\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":11,\"cache_creation_input_tokens\":5,\"cache_read_input_tokens\":7,\"output_tokens\":1}}   }\n\n"
	block = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}      }\n\n"
	ping  = "event: ping\ndata: {\"type\": \"ping\"}\n\n"
)

var tail = []string{
	"event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0   }\n\n",
	"event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":42} }\n\n",
	"event: message_stop\ndata: {\"type\":\"message_stop\"          }\n\n",
}

func delta(text string) string {
	return fmt.Sprintf("event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":%q}     }\n\n", text)
}

// message is a whole stream with so many deltas; it has two events before them and three after.
func message(deltas int) (body []byte) {
	body = append(body, start+block...)
	for i := range deltas {
		body = append(body, delta(fmt.Sprintf("word %d ", i))...)
	}
	for _, e := range tail {
		body = append(body, e...)
	}
	return body
}

// post sends a request as alice and only tells whether it was answered.
func (h *house) post(ctx context.Context, path, body string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Api-Key", aliceKey)
	resp, err := h.client.Do(req)
	if err == nil {
		resp.Body.Close()
	}
	return err
}

// saying is an upstream that always answers with so many deltas, at once.
func saying(deltas int) http.Handler { return simulator.Script{Body: message(deltas)} }
