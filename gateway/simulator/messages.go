package simulator

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"time"
)

const eventStream = "text/event-stream; charset=utf-8"

// countTokens answers POST /v1/messages/count_tokens.
func (x *exchange) countTokens() error {
	body, err := x.body(bodyLimit)
	if err != nil {
		return err
	}
	q, err := newRequest(body, true)
	if err != nil {
		return err
	}
	x.rateLimits(time.Second, false)
	return x.json(http.StatusOK, struct {
		InputTokens int `json:"input_tokens"`
	}{q.inTokens})
}

// messages answers POST /v1/messages.
func (x *exchange) messages() error {
	body, err := x.body(bodyLimit)
	if err != nil {
		return err
	}
	q, err := newRequest(body, false)
	if err != nil {
		return err
	}
	p, err := newPlan(x.r.Header.Get("Simulate"), q.prompt, x.count)
	if err != nil {
		return err
	}
	if p.pace != nil {
		x.pace = *p.pace
	}
	x.rateLimits(time.Second, false)
	if err := x.wait(p.silence); err != nil {
		return err
	}
	switch {
	case p.page != nil:
		return x.page(p.page)
	case p.refusal != nil:
		return p.refusal
	}
	a := x.newAnswer(q, p)
	if q.stream && !p.notStreamed {
		return x.stream(a, p)
	}
	return x.message(a, p)
}

func (x *exchange) page(page *page) error {
	if page.status == http.StatusFound {
		x.w.Header().Set("Location", "/v1/elsewhere")
	}
	if err := x.whole(page.status, page.contentType, []byte(page.body)); err != nil {
		return err
	}
	return x.flush() // so that an empty stream has no Content-Length that gives it away
}

// stream writes the events one by one, at the pace of the exchange.
func (x *exchange) stream(a *answer, p plan) error {
	if err := x.wait(x.pace.FirstToken / 2); err != nil {
		return err
	}
	header := x.w.Header()
	header.Set("Content-Type", eventStream)
	header.Set("Cache-Control", "no-cache")
	if p.gzipHeader {
		header.Set("Content-Encoding", "gzip")
	}
	if p.ending == endError && x.r.ProtoMajor == 1 {
		header.Set("Connection", "close")
	}
	x.w.WriteHeader(http.StatusOK)
	if err := x.flush(); err != nil {
		return err
	}
	events := newEventWriter(x, p.gzip)
	if p.errorFirst {
		if err := events.overloaded(); err != nil {
			return err
		}
		return events.close()
	}
	if err := events.event("message_start", messageStart{"message_start", a.start()}); err != nil {
		return err
	}
	done, err := x.streamBlocks(events, a, p)
	if err != nil {
		return err
	}
	if !done {
		return x.misend(events, p)
	}
	end := messageDelta{"message_delta", endDelta{&a.stopReason, a.stopSequence, a.stopDetails}, a.finalUsage()}
	if err := events.event("message_delta", end); err != nil {
		return err
	}
	if p.ending != endWhole {
		return x.misend(events, p)
	}
	if err := events.event("message_stop", messageStop{"message_stop"}); err != nil {
		return err
	}
	return events.close()
}

// streamBlocks is done when it wrote all blocks; it is not when the plan wants the stream to end among them. An answer
// with fewer deltas than the plan counts on ends after the last one: a fault that was asked for always comes.
func (x *exchange) streamBlocks(events *eventWriter, a *answer, p plan) (done bool, err error) {
	sent := 0
	for index, block := range a.blocks {
		if err := events.event("content_block_start", blockStart{"content_block_start", index, block.start()}); err != nil {
			return false, err
		}
		if index == 0 {
			if err := events.ping(); err != nil {
				return false, err
			}
			if err := x.wait(x.pace.FirstToken - x.pace.FirstToken/2); err != nil {
				return false, err
			}
		}
		for _, piece := range block.pieces {
			if sent == p.after {
				return false, nil
			}
			if sent > 0 {
				if err := x.wait(x.nextDelta()); err != nil {
					return false, err
				}
			}
			if err := events.event("content_block_delta", blockDelta{"content_block_delta", index, block.delta(piece)}); err != nil {
				return false, err
			}
			sent++
		}
		if block.signature != "" {
			signed := signatureDelta{"signature_delta", block.signature}
			if err := events.event("content_block_delta", blockDelta{"content_block_delta", index, signed}); err != nil {
				return false, err
			}
		}
		if index == len(a.blocks)-1 && p.after != never {
			return false, nil
		}
		if err := events.event("content_block_stop", blockStop{"content_block_stop", index}); err != nil {
			return false, err
		}
	}
	return true, nil
}

// misend ends a stream as it should not end.
func (x *exchange) misend(events *eventWriter, p plan) error {
	switch p.ending {
	case endError:
		if err := events.overloaded(); err != nil {
			return err
		}
	case endCut:
		return errCut
	case endStalled:
		if p.pingEvery == 0 {
			return x.waitForLeaving()
		}
		for {
			if err := x.wait(p.pingEvery); err != nil {
				return err
			}
			if err := events.ping(); err != nil {
				return err
			}
		}
	}
	return events.close()
}

// message writes the whole answer at once, after the time that streaming it would have taken. Faults that end a
// stream in the middle end this body in the middle; an error event becomes a status.
func (x *exchange) message(a *answer, p plan) error {
	if p.errorFirst || p.ending == endError {
		overloaded(&p, 0)
		return p.refusal
	}
	if err := x.wait(x.pace.FirstToken + time.Duration(a.deltas())*x.pace.Delta); err != nil {
		return err
	}
	body := encode(a.whole())
	if p.ending != endWhole {
		body = body[:len(body)/2]
	}
	if p.gzip {
		var compressed bytes.Buffer
		zip := gzip.NewWriter(&compressed)
		_, _ = zip.Write(body) // into memory
		_ = zip.Close()
		body = compressed.Bytes()
	}
	if p.gzipHeader {
		x.w.Header().Set("Content-Encoding", "gzip")
	}
	if err := x.whole(http.StatusOK, "application/json", body); err != nil || p.ending == endWhole {
		return err
	}
	if err := x.flush(); err != nil {
		return err
	}
	switch p.ending {
	case endStalled:
		return x.waitForLeaving()
	case endCut:
		return errCut
	}
	return nil
}
