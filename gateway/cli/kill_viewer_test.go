package cli_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// killViewer reads a stream as an EventSource does: it comes back with the last id that it has seen, until it is told
// that there is no more.
type killViewer struct {
	k     *killing
	mu    sync.Mutex
	seen  int // events since the last resync
	grown chan struct{}
	text  chan string // of the whole, once
}

func (k *killing) watch(ctx context.Context, o killedObject) *killViewer {
	v := &killViewer{k: k, grown: make(chan struct{}, 1), text: make(chan string, 1)}
	go v.read(ctx, o.EventsURL)
	return v
}

func (v *killViewer) read(ctx context.Context, url string) {
	var text strings.Builder
	last, ends := "", 0
	for ctx.Err() == nil {
		code, err := v.once(ctx, url, &last, &text, &ends)
		if code == http.StatusNoContent {
			break
		}
		if err == nil && code != http.StatusOK {
			v.k.t.Errorf("a viewer is answered %d", code)
			break
		}
		wait := time.NewTimer(20 * time.Millisecond)
		select {
		case <-wait.C:
		case <-ctx.Done():
		}
	}
	if ends != 1 {
		v.k.t.Errorf("a viewer saw %d ends", ends)
	}
	v.text <- text.String()
}

// once reads one connection to whatever end it has.
func (v *killViewer) once(ctx context.Context, url string, last *string, text *strings.Builder, ends *int) (int, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Last-Event-ID", *last)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var id, name, data string
	for in := bufio.NewReader(resp.Body); ; {
		line, err := in.ReadString('\n')
		if err != nil {
			if err == io.EOF {
				err = nil
			}
			return resp.StatusCode, err
		}
		line = strings.TrimSuffix(line, "\n")
		field, value, _ := strings.Cut(line, ": ")
		switch field {
		case "id":
			id = value
		case "event":
			name = value
		case "data":
			data = value
		case "":
			v.event(id, name, data, last, text, ends)
			id, name, data = "", "", ""
		}
	}
}

func (v *killViewer) event(id, name, data string, last *string, text *strings.Builder, ends *int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if id != "" {
		*last = id
	}
	switch name {
	case "resync":
		text.Reset()
		v.seen = 0
		return
	case "message_stop", "error":
		*ends++
	case "content_block_delta":
		var d struct{ Delta struct{ Text string } }
		if err := json.Unmarshal([]byte(data), &d); err != nil {
			v.k.t.Error(err)
		}
		text.WriteString(d.Delta.Text)
		v.seen += strings.Count(d.Delta.Text, "/") / 2 // merged ones are as many
	case "", "ping":
		return
	}
	if name != "content_block_delta" {
		v.seen++
	}
	select {
	case v.grown <- struct{}{}:
	default:
	}
}

// sees waits until so many events were seen.
func (v *killViewer) sees(ctx context.Context, events int) {
	v.k.t.Helper()
	for {
		v.mu.Lock()
		seen := v.seen
		v.mu.Unlock()
		if seen >= events {
			return
		}
		select {
		case <-v.grown:
		case <-ctx.Done():
			v.k.t.Fatalf("a viewer has seen %d events of %d", seen, events)
		}
	}
}

func (v *killViewer) toEnd(ctx context.Context) string {
	v.k.t.Helper()
	select {
	case text := <-v.text:
		return text
	case <-ctx.Done():
		v.k.t.Fatal("a viewer does not come to the end")
	}
	return ""
}
