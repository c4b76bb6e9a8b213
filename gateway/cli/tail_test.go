package cli_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

const (
	began = "id: 1\nevent: message_start\ndata: {\"type\":\"message_start\"}\n\n"
	word  = "id: 2\nevent: content_block_delta\ndata: {\"delta\":{\"type\":\"text_delta\",\"text\":\"wörd \"}}\n\n"
	more  = "id: 3\nevent: content_block_delta\ndata: {\"delta\":{\"type\":\"text_delta\",\"text\":\"more\"}}\n\n"
	stop  = "id: 4\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"
	retry = "retry: 10\n\n"
	pong  = "event: ping\ndata: {\"type\": \"ping\"}\n\n"
	wrong = "id: 4\nevent: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n"
)

// visit is how one connection of a tail is answered.
type visit struct {
	cursor string // which it must bring
	status int    // 0: 200
	body   string
	cut    bool // the connection breaks after the body
}

func TestTailFollowsToTheEnd(t *testing.T) {
	t.Parallel()
	lines := func(ids ...string) (out string) {
		for _, id := range ids {
			out += map[string]string{
				"1": "1\tmessage_start\t{\"type\":\"message_start\"}\n",
				"2": "2\tcontent_block_delta\t{\"delta\":{\"type\":\"text_delta\",\"text\":\"wörd \"}}\n",
				"3": "3\tcontent_block_delta\t{\"delta\":{\"type\":\"text_delta\",\"text\":\"more\"}}\n",
				"4": "4\tmessage_stop\t{\"type\":\"message_stop\"}\n",
				"e": "4\terror\t{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n",
				"-": "-\tping\t{\"type\": \"ping\"}\n",
			}[id]
		}
		return out
	}
	for name, c := range map[string]struct {
		visits         []visit
		text           bool
		code           int
		stdout, stderr string
	}{
		"in one go":                      {[]visit{{body: retry + began + word + pong + more + stop}}, false, 0, lines("1", "2", "-", "3", "4"), ""},
		"as text":                        {[]visit{{body: retry + began + word + more + stop}}, true, 0, "wörd more\n", ""},
		"to an error":                    {[]visit{{body: retry + began + wrong}}, false, 1, lines("1", "e"), "Overloaded"},
		"over a cut":                     {[]visit{{body: retry + began + word, cut: true}, {cursor: "2", body: more + stop}}, false, 0, lines("1", "2", "3", "4"), ""},
		"over a cut in an event":         {[]visit{{body: retry + began + word + more[:40], cut: true}, {cursor: "2", body: more + stop}}, false, 0, lines("1", "2", "3", "4"), ""},
		"over an end that is none":       {[]visit{{body: retry + began}, {cursor: "1", body: word}, {cursor: "2", body: more + stop}}, false, 0, lines("1", "2", "3", "4"), ""},
		"over a refusal for now":         {[]visit{{body: retry + began, cut: true}, {cursor: "1", body: "retry: 5\n: too many viewers; try again\n\n"}, {cursor: "1", body: word + more + stop}}, false, 0, lines("1", "2", "3", "4"), ""},
		"over a proxy's failure":         {[]visit{{body: retry + began, cut: true}, {cursor: "1", status: 502, body: "<html>"}, {cursor: "1", body: word + more + stop}}, false, 0, lines("1", "2", "3", "4"), "502"},
		"what was seen before":           {[]visit{{status: 204}}, false, 0, "", ""},
		"why it is refused":              {[]visit{{status: 404, body: "There is no such stream."}}, false, 1, "", "There is no such stream."},
		"what is not there":              {[]visit{{status: 404}}, false, 1, "", "404 Not Found"},
		"an event that is cut at an end": {[]visit{{body: retry + began + word + strings.TrimSuffix(more, "\n")}, {cursor: "2", body: more + stop}}, false, 0, lines("1", "2", "3", "4"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			visits := c.visits
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				if len(visits) == 0 {
					t.Error("one connection too many")
					w.WriteHeader(http.StatusNoContent)
					return
				}
				v := visits[0]
				visits = visits[1:]
				if got := r.Header.Get("Last-Event-ID"); got != v.cursor {
					t.Errorf("resumed after %q, want %q", got, v.cursor)
				}
				w.Header().Set("Content-Type", "text/event-stream")
				w.WriteHeader(max(v.status, http.StatusOK))
				io.WriteString(w, v.body)
				w.(http.Flusher).Flush()
				if v.cut {
					panic(http.ErrAbortHandler)
				}
			}))
			defer server.Close()
			server.Config.ErrorLog = nil
			args := []string{"tail", server.URL}
			if c.text {
				args = []string{"tail", "-text", server.URL}
			}
			got := run(t, args...)
			if got.code != c.code || got.stdout != c.stdout || !strings.Contains(got.stderr, c.stderr) {
				t.Errorf("exit code %d, want %d\nstdout:\n%s\nwant\n%s\nstderr:\n%s", got.code, c.code, got.stdout, c.stdout, got.stderr)
			}
			if len(visits) > 0 {
				t.Errorf("%d connections were not made", len(visits))
			}
		})
	}
}

func TestTailReadsAStreamOfTheDemo(t *testing.T) {
	t.Parallel()
	r := begin(t, "demo", "-listen", "127.0.0.1:0")
	base := strings.TrimSuffix(r.finds(`http://\S+`)[0], "/")
	create := func(prompt string) string {
		_, body := call(t, "POST", base+"/v1/streams", fmt.Sprintf(`{"model":"claude-sonnet-4-6","max_tokens":100,"messages":[{"role":"user","content":%q}]}`, prompt))
		var o struct {
			URL string `json:"events_url"`
		}
		if err := json.Unmarshal([]byte(body), &o); err != nil || o.URL == "" {
			t.Fatalf("%s: %v", body, err)
		}
		return o.URL
	}
	if got := run(t, "tail", "-text", create("short fault:slow=1")); got.code != 0 || !strings.HasPrefix(got.stdout, "In short") || !strings.HasSuffix(got.stdout, "🌊.\n") {
		t.Errorf("%+v", got)
	}
	if got := run(t, "tail", create("fault:error=2 fault:slow=1")); got.code != 1 || !strings.Contains(got.stderr, "overloaded_error") || !strings.HasPrefix(got.stdout, "1\tmessage_start\t") {
		t.Errorf("%+v", got)
	}
	r.ends(0)
}
