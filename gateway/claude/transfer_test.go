package claude

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// transferred makes a Transfer against a handler in a bubble of fake time.
func transferred(t *testing.T, h http.HandlerFunc, req Request, use func(t *testing.T, resp *http.Response, err error, begun time.Time)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c, end := inMemory(t, Config{Silence: patience, Timeout: time.Minute}, h)
		defer end()
		begun := time.Now()
		resp, err := c.Transfer(t.Context(), req)
		use(t, resp, err, begun)
		if err == nil {
			resp.Body.Close()
		}
	})
}

// slowReader feeds an upload at the pace of a slow caller.
type slowReader struct {
	left int
	wait time.Duration
	last error
}

func (r *slowReader) Read(p []byte) (int, error) {
	time.Sleep(r.wait)
	if r.left--; r.left < 0 {
		return 0, r.last
	}
	return copy(p, "x"), nil
}

func (r *slowReader) Close() error { return nil }

func TestTransferTakesAsLongAsItMoves(t *testing.T) {
	t.Run("down", func(t *testing.T) {
		h := func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/x-jsonl")
			for range 20 {
				io.WriteString(w, "{}\n")
				w.(http.Flusher).Flush()
				time.Sleep(patience - time.Second)
			}
		}
		transferred(t, h, Request{Method: "GET"}, func(t *testing.T, resp *http.Response, err error, begun time.Time) {
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil || len(body) != 60 || time.Since(begun) < time.Hour-20*time.Second-patience {
				t.Errorf("%d bytes in %v: %v", len(body), time.Since(begun), err)
			}
		})
	})
	t.Run("up, at the caller's pace", func(t *testing.T) {
		h := func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil || len(body) != 5 || r.ContentLength != -1 {
				t.Errorf("%d bytes (length %d): %v", len(body), r.ContentLength, err)
			}
			io.WriteString(w, "{}")
		}
		transferred(t, h, Request{Upload: &slowReader{5, 2 * patience, io.EOF}}, func(t *testing.T, resp *http.Response, err error, begun time.Time) {
			if err != nil || time.Since(begun) != 12*patience {
				t.Errorf("%v after %v", err, time.Since(begun))
			}
		})
	})
	t.Run("down, at the caller's pace", func(t *testing.T) {
		h := func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, strings.Repeat("x", 100_000)) }
		transferred(t, h, Request{Method: "GET"}, func(t *testing.T, resp *http.Response, err error, begun time.Time) {
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * patience)
			if body, err := io.ReadAll(resp.Body); err != nil || len(body) != 100_000 {
				t.Errorf("%d bytes: %v", len(body), err)
			}
		})
	})
}

func TestTransferThatDoesNotMoveIsGivenUp(t *testing.T) {
	hang := func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	t.Run("before the answer", func(t *testing.T) {
		h := func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body); hang(w, r) }
		transferred(t, h, Request{Method: "GET"}, func(t *testing.T, _ *http.Response, err error, begun time.Time) { wantSilent(t, err, begun, patience) })
		transferred(t, h, Request{Upload: &slowReader{2, time.Hour, io.EOF}}, func(t *testing.T, _ *http.Response, err error, begun time.Time) {
			wantSilent(t, err, begun, 3*time.Hour+patience)
		})
	})
	t.Run("in the answer", func(t *testing.T) {
		h := func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "half")
			w.(http.Flusher).Flush()
			hang(w, r)
		}
		transferred(t, h, Request{Method: "GET"}, func(t *testing.T, resp *http.Response, err error, begun time.Time) {
			if err != nil {
				t.Fatal(err)
			}
			_, err = io.ReadAll(resp.Body)
			wantSilent(t, err, begun, patience)
		})
	})
}

func TestUploadThatBreaksOffMakesNoWholeRequest(t *testing.T) {
	broken := errors.New("broken")
	whole := false
	h := func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		whole = err == nil
	}
	transferred(t, h, Request{Upload: &slowReader{3, time.Second, broken}}, func(t *testing.T, _ *http.Response, err error, _ time.Time) {
		if err == nil {
			t.Error("it is no error")
		}
	})
	if whole {
		t.Error("the upstream saw a whole request")
	}
}
