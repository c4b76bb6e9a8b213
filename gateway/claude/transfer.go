package claude

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"
)

// Transfer makes a call that moves more than fits into memory, up or down. It has no bound in all, but ends when the
// upstream neither takes nor brings a byte for Config.Silence; the time in which the caller has the turn, who feeds
// Upload and reads the body, is not counted. The body is decoded as it is read and must be closed. Answers other than
// 2xx are an *Error. Nothing is tried again.
func (c *Client) Transfer(ctx context.Context, req Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	turn := &turn{limit: c.cfg.Silence, cancel: cancel}
	stop := func() {
		turn.ours()
		cancel(errEnded)
	}
	if req.Upload != nil {
		req.Upload = &turnReader{req.Upload, turn, true}
	} else {
		turn.theirs()
	}
	resp, err := c.send(ctx, req)
	if err == nil {
		turn.ours()
		err = decoded(ctx, resp, stop)
	}
	if err != nil {
		stop()
		return nil, err
	}
	resp.Body = &turnReader{resp.Body, turn, false}
	return resp, nil
}

// turn is the upstream's time to move: it runs while the turn is theirs.
type turn struct {
	limit  time.Duration
	cancel context.CancelCauseFunc

	mu    sync.Mutex
	timer *time.Timer
}

func (t *turn) theirs() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer == nil {
		t.timer = time.AfterFunc(t.limit, func() { t.cancel(errSilent) })
	} else {
		t.timer.Reset(t.limit)
	}
}

func (t *turn) ours() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer != nil {
		t.timer.Stop()
	}
}

// turnReader gives the turn to whoever has to move: while an upload is read, to the caller who feeds it; while an answer
// is read, to the upstream.
type turnReader struct {
	io.ReadCloser
	turn   *turn
	upload bool
}

func (r *turnReader) Read(p []byte) (int, error) {
	if r.upload {
		r.turn.ours()
		defer r.turn.theirs()
	} else {
		r.turn.theirs()
		defer r.turn.ours()
	}
	return r.ReadCloser.Read(p)
}
