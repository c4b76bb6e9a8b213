package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// shape is what one stream does, read from its model's name.
type shape struct {
	events   int           // text deltas
	interval time.Duration // between deltas; 0: as fast as they are taken
	padding  int           // bytes per delta, beyond its marker
	first    time.Duration // before the first byte
	gap      time.Duration // between the block's start and its first delta
	cut      int           // deltas after which the connection is cut; 0: never
	overload int64         // requests answered 529 before the first success
}

var shapePart = regexp.MustCompile(`-([eibfgxo])(\d+)`)

func parseShape(model string) shape {
	s := shape{events: 100, interval: 50 * time.Millisecond, padding: 24}
	for _, m := range shapePart.FindAllStringSubmatch(model, -1) {
		n, _ := strconv.Atoi(m[2])
		switch m[1] {
		case "e":
			s.events = n
		case "i":
			s.interval = time.Duration(n) * time.Millisecond
		case "b":
			s.padding = n
		case "f":
			s.first = time.Duration(n) * time.Millisecond
		case "g":
			s.gap = time.Duration(n) * time.Millisecond
		case "x":
			s.cut = n
		case "o":
			s.overload = int64(n)
		}
	}
	return s
}

// sink is where a stream is played to.
type sink interface {
	event(name string, data []byte) error // data is the sink's during the call
	flush() error
}

var errCut = errors.New("the stream's shape has it cut here")

// play sends the stream's events at their pace: a message as Claude's, with a marker in each delta.
func (s shape) play(ctx context.Context, to sink, id, model string) error {
	start := fmt.Sprintf(`{"type":"message_start","message":{"id":"%s","type":"message","role":"assistant","model":"%s","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":25,"output_tokens":1}}}`, id, model)
	err := errors.Join(
		to.event("message_start", []byte(start)),
		to.event("content_block_start", []byte(`{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`)),
		to.flush())
	if err != nil {
		return err
	}
	if err := pause(ctx, s.gap); err != nil {
		return err
	}
	var tick *time.Ticker
	if s.interval > 0 {
		tick = time.NewTicker(s.interval)
		defer tick.Stop()
	}
	pad := strings.Repeat("x", s.padding)
	buf := make([]byte, 0, 256+s.padding)
	for i := range s.events {
		if tick != nil {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if s.cut > 0 && i == s.cut {
			return errCut
		}
		buf = append(buf[:0], `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"`...)
		buf = appendMarker(buf, i, time.Now())
		buf = append(buf, pad...)
		buf = append(buf, `"}}`...)
		if err := to.event("content_block_delta", buf); err != nil {
			return err
		}
		if err := to.flush(); err != nil {
			return err
		}
	}
	return errors.Join(
		to.event("content_block_stop", []byte(`{"type":"content_block_stop","index":0}`)),
		to.event("message_delta", fmt.Appendf(nil, `{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":%d}}`, s.events)),
		to.event("message_stop", []byte(`{"type":"message_stop"}`)),
		to.flush())
}

// pause waits so long, or until the context is done.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// appendMarker appends "#number@unixnanos;".
func appendMarker(b []byte, number int, sent time.Time) []byte {
	b = append(b, '#')
	b = strconv.AppendInt(b, int64(number), 10)
	b = append(b, '@')
	b = strconv.AppendInt(b, sent.UnixNano(), 10)
	return append(b, ';')
}

// nextMarker finds the first marker in data and returns what follows it. A delta that a relay has merged holds several.
func nextMarker(data []byte) (number int, sent int64, rest []byte, ok bool) {
	for {
		start := bytes.IndexByte(data, '#')
		if start < 0 {
			return 0, 0, nil, false
		}
		data = data[start+1:]
		end := bytes.IndexByte(data, ';')
		if end < 0 {
			return 0, 0, nil, false
		}
		n, t, both := bytes.Cut(data[:end], []byte("@"))
		number, err1 := strconv.Atoi(string(n))
		sent, err2 := strconv.ParseInt(string(t), 10, 64)
		if both && err1 == nil && err2 == nil {
			return number, sent, data[end+1:], true
		}
	}
}
