package simulator

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

const recorded = "event: ping\ndata: {\"type\": \"ping\"}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"   }\n\n"

// chunkRecorder keeps what came between two flushes.
type chunkRecorder struct {
	*httptest.ResponseRecorder
	chunks []string
}

func (w *chunkRecorder) Flush() {
	w.chunks = append(w.chunks, w.Body.String())
	w.Body.Reset()
}

func TestEveryOffsetCanBeASplit(t *testing.T) {
	for offset := 1; offset < len(recorded); offset++ {
		w := &chunkRecorder{ResponseRecorder: httptest.NewRecorder()}
		Script{Body: []byte(recorded), Chunks: SplitAt(offset)}.ServeHTTP(w, newRequestTo(t, "POST", "/", ""))
		if want := []string{"", recorded[:offset], recorded[offset:]}; !slices.Equal(w.chunks, want) {
			t.Fatalf("offset %d: %q", offset, w.chunks)
		}
	}
}

func TestChunksAreTheBodyAgain(t *testing.T) {
	for name, c := range map[string]struct {
		cut   func([]byte) [][]byte
		count int
	}{
		"SplitAt outside": {SplitAt(-1, 0, 5, 5, 4, 1000), 2},
		"SplitAt nothing": {SplitAt(), 1},
		"EveryBytes":      {EveryBytes(1), len(recorded)},
		"EveryBytes(0)":   {EveryBytes(0), len(recorded)},
		"PerEvent":        {PerEvent, 2},
	} {
		chunks := c.cut([]byte(recorded))
		if got := string(bytes.Join(chunks, nil)); got != recorded || len(chunks) != c.count {
			t.Errorf("%s: %d chunks, %q", name, len(chunks), got)
		}
	}
}

func TestReaderSeesEachChunkAloneWhenTheScriptWaitsForIt(t *testing.T) {
	read := make(chan struct{})
	script := Script{Body: []byte(recorded), Chunks: EveryBytes(7), Between: func(ctx context.Context, _ int) {
		select {
		case <-read:
		case <-ctx.Done():
		}
	}}
	server := httptest.NewServer(script)
	defer server.Close()
	response, err := server.Client().Do(newRequestTo(t, "POST", server.URL, "{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	buffer := make([]byte, 100)
	for from := 0; from < len(recorded); from += 7 {
		want := recorded[from:min(from+7, len(recorded))]
		n, err := response.Body.Read(buffer)
		if string(buffer[:n]) != want || err != nil && err != io.EOF {
			t.Fatalf("at %d: %q, %v; want %q", from, buffer[:n], err, want)
		}
		if from+7 < len(recorded) {
			read <- struct{}{}
		}
	}
}

func TestScriptSetsStatusAndHeaders(t *testing.T) {
	w := serve(t, Script{Body: []byte("x"), Status: 203, Header: http.Header{"content-type": {"text/plain"}, "Retry-After": {"20"}}}, "POST", "/", "")
	if w.Code != 203 || w.Header().Get("Content-Type") != "text/plain" || w.Header().Get("Retry-After") != "20" || w.Header().Get("request-id") == "" || w.Body.String() != "x" {
		t.Errorf("%d %v %q", w.Code, w.Header(), w.Body)
	}
}

func TestScriptCompressesChunkByChunk(t *testing.T) {
	script := Script{Body: []byte(recorded), Chunks: EveryBytes(10), Gzip: true}
	response, body, err := fetch(t, script, "")
	if err != nil || response.Header.Get("Content-Encoding") != "gzip" {
		t.Fatalf("%v %v", err, response.Header)
	}
	if got := gunzip(t, body); string(got) != recorded {
		t.Errorf("%q", got)
	}
	script.Ending = EndCut
	_, body, err = fetch(t, script, "")
	if err == nil {
		t.Error("a cut body was read to its end")
	}
	reader, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(reader); string(got) != recorded || err == nil {
		t.Errorf("every chunk should arrive, and no trailer: %q, %v", got, err)
	}
}

func TestScriptEndsAsItIsTold(t *testing.T) {
	for ending, broken := range map[Ending]bool{EndClean: false, EndCut: true} {
		_, body, err := fetch(t, Script{Body: []byte(recorded), Ending: ending}, "")
		if string(body) != recorded || (err != nil) != broken {
			t.Errorf("ending %d: %q, %v", ending, body, err)
		}
	}
}

func TestScriptIsPacedAndStopsWhenTheClientLeaves(t *testing.T) {
	for _, c := range []struct {
		leave  time.Duration
		ending Ending
		want   int
		took   time.Duration
	}{
		{time.Hour, EndClean, len(recorded), time.Duration(len(recorded)-1) * time.Second},
		{10*time.Second + 1, EndClean, 11, 10*time.Second + 1},
		{time.Hour, EndStall, len(recorded), time.Hour},
	} {
		t.Run(fmt.Sprint(c.leave, c.ending), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, leave := context.WithTimeout(t.Context(), c.leave)
				defer leave()
				begun, w := time.Now(), httptest.NewRecorder()
				script := Script{Body: []byte(recorded), Chunks: EveryBytes(1), Gap: time.Second, Ending: c.ending}
				script.ServeHTTP(w, newRequestTo(t, "POST", "/", "").WithContext(ctx))
				if took := time.Since(begun); took != c.took || w.Body.Len() != c.want {
					t.Errorf("%d bytes in %v, want %d in %v", w.Body.Len(), took, c.want, c.took)
				}
			})
		})
	}
}
