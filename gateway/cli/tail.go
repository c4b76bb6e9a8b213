package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/r3labs/sse/v2"
)

// What ends a tail.
var (
	errDone    = errors.New("the stream has ended, and all of it was seen before")
	errRefused = errors.New("refused")
)

// maxTailEvent is above the gateway's bound of an event with its ids.
const maxTailEvent = 17_000_000

// once makes the client return after each connection: its own reconnecting never resumes after a clean end.
type once struct{}

func (once) NextBackOff() time.Duration { return -1 }
func (once) Reset()                     {}

// tail follows an events URL as a native EventSource would: it resumes after the last id until the stream's end.
func tail(env Environment, args []string) int {
	fs := flags(env, "tail")
	text := fs.Bool("text", false, "print the answer's text, instead of an event a line")
	rest, code, ok := parse(env, fs, args, 1)
	if !ok {
		return code
	}
	ctx, cancel := context.WithCancel(env.Context)
	defer cancel()
	f := &follower{out: env.Stdout, text: *text, wait: 1500 * time.Millisecond, code: -1, stop: cancel}
	client := sse.NewClient(rest[0], sse.ClientMaxBufferSize(maxTailEvent))
	client.ReconnectStrategy = once{}
	client.Connection.Transport = wholeBlocks{http.DefaultTransport}
	client.ResponseValidator = validate
	for {
		err := client.SubscribeRawWithContext(ctx, f.handle)
		switch {
		case f.code >= 0:
			if f.failure != "" {
				fmt.Fprintln(env.Stderr, "sluice:", f.failure)
			}
			return f.code
		case env.Context.Err() != nil:
			return exitFailed
		case errors.Is(err, errDone):
			return exitOK
		case errors.Is(err, errRefused):
			fmt.Fprintln(env.Stderr, "sluice:", err)
			return exitFailed
		case err != nil:
			fmt.Fprintf(env.Stderr, "sluice: %v; trying again in %s\n", err, f.wait)
		}
		select {
		case <-time.After(f.wait):
		case <-ctx.Done():
		}
	}
}

// wholeBlocks passes on an event stream up to its last blank line. The library hands out a block that was cut off like a
// whole one, and would resume after it.
type wholeBlocks struct{ next http.RoundTripper }

func (w wholeBlocks) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := w.next.RoundTrip(r)
	if err == nil && resp.StatusCode == http.StatusOK {
		resp.Body = &blockReader{ReadCloser: resp.Body}
	}
	return resp, err
}

type blockReader struct {
	io.ReadCloser
	held  []byte // read, and not yet passed on
	whole int    // how much of it ends with a blank line
}

func (b *blockReader) Read(p []byte) (int, error) {
	for b.whole == 0 {
		if len(b.held) > maxTailEvent {
			return 0, fmt.Errorf("an event is larger than %d bytes", maxTailEvent)
		}
		at := len(b.held)
		b.held = append(b.held, make([]byte, 4<<10)...)
		n, err := b.ReadCloser.Read(b.held[at:])
		b.held = b.held[:at+n]
		if i := bytes.LastIndex(b.held[max(at-1, 0):], []byte("\n\n")); i >= 0 {
			b.whole = max(at-1, 0) + i + 2
		} else if err != nil {
			return 0, err
		}
	}
	n := copy(p, b.held[:b.whole])
	b.held = append(b.held[:0], b.held[n:]...)
	b.whole -= n
	return n, nil
}

// validate tells apart what a native EventSource does: 200 is read, 204 is the end, 5xx may pass, all else is final.
func validate(_ *sse.Client, resp *http.Response) error {
	switch {
	case resp.StatusCode == http.StatusOK:
		return nil
	case resp.StatusCode == http.StatusNoContent:
		resp.Body.Close()
		return errDone
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	resp.Body.Close()
	if resp.StatusCode >= 500 {
		return fmt.Errorf("%s: %s", resp.Status, body)
	}
	return fmt.Errorf("%w: %s: %s", errRefused, resp.Status, body)
}

// follower prints events and notes the end.
type follower struct {
	out     io.Writer
	text    bool
	wait    time.Duration
	code    int // below 0: not ended
	failure string
	stop    func()
}

func (f *follower) handle(e *sse.Event) {
	if ms, err := strconv.Atoi(string(e.Retry)); err == nil && ms >= 0 && ms <= 60_000 {
		f.wait = time.Duration(ms) * time.Millisecond
	}
	if len(e.Data) == 0 || f.code >= 0 {
		return
	}
	name := string(e.Event)
	if f.text {
		var delta struct {
			Delta struct {
				Text string `json:"text"`
			} `json:"delta"`
		}
		if name == "content_block_delta" && json.Unmarshal(e.Data, &delta) == nil {
			io.WriteString(f.out, delta.Delta.Text)
		}
	} else {
		id := string(e.ID)
		if name == "ping" || name == "resync" { // the library gives them the last event's
			id = "-"
		}
		fmt.Fprintf(f.out, "%s\t%s\t%s\n", id, name, e.Data)
	}
	switch name {
	case "message_stop":
		f.code = exitOK
		if f.text {
			fmt.Fprintln(f.out)
		}
	case "error":
		f.code, f.failure = exitFailed, string(e.Data)
	default:
		return
	}
	f.stop()
}
