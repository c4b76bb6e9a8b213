package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/gateway"
	"sluice/gateway/limits"
)

// The whole-house tests: the real gateway on the loopback, before a simulated or scripted Claude, read as a browser, an
// SDK or an attacker would.

func TestMain(m *testing.M) { goleak.VerifyTestMain(suite{m}) }

// suite closes what its tests share.
type suite struct{ *testing.M }

func (s suite) Run() int {
	code := s.M.Run()
	if chromium.close != nil {
		chromium.close()
	}
	return code
}

// What no log line may ever hold.
const (
	aliceKey    = "sk-alice-4f1d0c7e"
	bobKey      = "sk-bob-9a3b2e61"
	upstreamKey = "sk-upstream-77c0ffee"
	marker      = "heliotrope-7391" // in every prompt
	tokenStart  = "eyJ"             // of every JWT: {" in base64
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// house is a running gateway with its upstream. When its test ends it must be empty, and it must not have told secrets.
type house struct {
	t        testing.TB
	gateway  *gateway.Gateway
	cfg      gateway.Config // of its start
	url      string         // where callers reach it
	admin    string         // where operators do
	upstream *upstream
	log      *journal
	client   *http.Client
	stop     context.CancelFunc // as SIGTERM
	stopped  chan error         // Run's answer
	over     bool               // stopped has been read
}

// openHouse starts a gateway before the given Claude. Its plan limits nothing; the changes come last.
func openHouse(t testing.TB, claude http.Handler, changes ...func(*gateway.Config)) *house {
	t.Helper()
	return openHouseWith(t, gateway.Options{}, claude, changes...)
}

func openHouseWith(t testing.TB, o gateway.Options, claude http.Handler, changes ...func(*gateway.Config)) *house {
	t.Helper()
	h := &house{t: t, upstream: listen(claude), log: &journal{}, stopped: make(chan error, 1)}
	cfg := gateway.Defaults()
	cfg.Server.Listen, cfg.Server.AdminListen = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Server.Drain = 5 * time.Second
	cfg.Upstream.BaseURL, cfg.Upstream.APIKey = h.upstream.server.URL, upstreamKey
	cfg.Auth.Keys = []gateway.Key{{ID: "alice", Key: aliceKey, Plan: "default"}, {ID: "bob", Key: bobKey, Plan: "default"}}
	cfg.Plans = map[string]limits.Plan{"default": {}}
	dir, err := os.MkdirTemp("", "sluice-house-") // not t.TempDir: the log tells the name, and a test's name may look like a secret
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cfg.Store.Dir = dir
	for _, change := range changes {
		change(&cfg)
	}
	o.Version = "test"
	if o.Log == nil {
		o.Log = slog.New(slog.NewJSONHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	g, err := gateway.New(cfg, o)
	if err == nil {
		if err = g.Listen(); err != nil {
			g.Close()
		}
	}
	if err != nil {
		h.upstream.server.Close()
		t.Fatal(err)
	}
	h.gateway, h.cfg = g, cfg
	h.url, h.admin = "http://"+g.Addr().String(), "http://"+g.AdminAddr().String()
	h.client = &http.Client{
		Transport:     &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.stop = cancel
	go func() { h.stopped <- g.Run(ctx) }()
	t.Cleanup(h.close)
	return h
}

// in is the house as a subtest uses it.
func (h *house) in(t testing.TB) *house {
	sub := *h
	sub.t = t
	return &sub
}

// close empties the house as its owners could, looks that nothing is left, and stops it.
func (h *house) close() {
	if !h.over && !h.t.Failed() {
		h.forgetAll(aliceKey)
		h.forgetAll(bobKey)
		h.isEmpty()
	}
	h.stop()
	if !h.over {
		h.waitStopped()
	}
	h.client.CloseIdleConnections()
	h.upstream.server.Close()
	for _, secret := range []string{aliceKey, bobKey, upstreamKey, marker, "ticket=", tokenStart} {
		if at := strings.Index(h.log.String(), secret); at >= 0 {
			h.t.Errorf("the log tells %q: %.300s", secret, h.log.String()[max(0, at-150):])
		}
	}
	if strings.Contains(h.log.String(), "by a defect") {
		h.t.Errorf("something panicked:\n%s", h.log.String())
	}
}

// isEmpty waits until no stream, viewer, reserved token or byte of a log is left, and nobody in the queue.
func (h *house) isEmpty() {
	h.t.Helper()
	h.becomes("sluice_streams_active", 0)
	h.becomes("sluice_viewers_active", 0)
	h.becomes("sluice_upstream_queue_depth", 0)
	h.becomes("sluice_logs", 0)
	h.becomes("sluice_log_bytes", 0)
	h.nothingIsReserved()
}

func (h *house) forgetAll(key string) {
	h.t.Helper()
	for {
		var page struct{ Data []struct{ ID string } }
		h.do("GET", "/v1/streams?limit=100", "", "x-api-key", key).status(200).into(&page)
		if len(page.Data) == 0 {
			return
		}
		for _, s := range page.Data {
			a := h.do("DELETE", "/v1/streams/"+s.ID, "", "x-api-key", key)
			if a.code == 404 && h.cfg.Relay.Retention < time.Second { // which is over meanwhile
				continue
			}
			a.status(200)
		}
	}
}

// waitStopped waits until Run has returned, which must be without an error.
func (h *house) waitStopped() {
	h.t.Helper()
	select {
	case err := <-h.stopped:
		h.over = true
		if err != nil {
			h.t.Errorf("Run: %v", err)
		}
	case <-time.After(patience):
		h.t.Fatal("the gateway does not stop")
	}
}

// becomes waits until a series has a value.
func (h *house) becomes(series string, want float64) {
	h.t.Helper()
	var got float64
	eventually(h.t, func() string { return fmt.Sprintf("%s is %v, want %v", series, got, want) }, func() bool {
		got = h.scrape()[series]
		return got == want
	})
}

// scrape reads all series, by name and labels as they are written.
func (h *house) scrape() map[string]float64 {
	h.t.Helper()
	a := h.fetch("GET", h.admin+"/metrics", "")
	series := make(map[string]float64)
	for line := range strings.Lines(a.body) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		var value float64
		if _, err := fmt.Sscan(line[at+1:], &value); err != nil {
			h.t.Fatalf("metrics: %q: %v", line, err)
		}
		series[line[:at]] = value
	}
	return series
}

// eventually looks until ok is true.
func eventually(t testing.TB, not func() string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(3 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal(not())
		}
	}
}

// receive takes what must come on a channel.
func receive[T any](t testing.TB, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("waited for %s", what)
	}
	return v
}

// answer is a response that has been read to its end.
type answer struct {
	t      testing.TB
	code   int
	header http.Header
	body   string
}

// do calls the gateway as alice, unless the headers (name, value, …) say otherwise, and reads the answer.
func (h *house) do(method, path, body string, headers ...string) *answer {
	h.t.Helper()
	return h.fetch(method, h.url+path, body, headers...)
}

func (h *house) fetch(method, url, body string, headers ...string) *answer {
	h.t.Helper()
	resp := h.request(method, url, body, headers...)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatalf("%s %s: %v after %.200q", method, url, err, text)
	}
	return &answer{h.t, resp.StatusCode, resp.Header, string(text)}
}

// request sends a request; its context lives as long as patience does.
func (h *house) request(method, url, body string, headers ...string) *http.Response {
	h.t.Helper()
	resp, err := h.try(method, url, body, headers...)
	if err != nil {
		h.t.Fatal(err)
	}
	return resp
}

func (h *house) try(method, url, body string, headers ...string) (*http.Response, error) {
	return h.tryWith(context.Background(), method, url, body, headers...)
}

func (h *house) tryWith(ctx context.Context, method, url, body string, headers ...string) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, reader)
	if err != nil {
		cancel()
		return nil, err
	}
	req.Header.Set("X-Api-Key", aliceKey)
	req.Header.Set("Anthropic-Version", "2023-06-01")
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		if req.Header.Set(headers[i], headers[i+1]); headers[i+1] == "" {
			req.Header.Del(headers[i])
		}
	}
	resp, err := h.client.Do(req)
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &bounded{resp.Body, cancel}
	return resp, nil
}

// bounded ends its request's context with the body.
type bounded struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *bounded) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}

func (a *answer) status(want int) *answer {
	a.t.Helper()
	if a.code != want {
		a.t.Fatalf("status %d, want %d: %.500s", a.code, want, a.body)
	}
	return a
}

func (a *answer) into(v any) {
	a.t.Helper()
	if err := json.Unmarshal([]byte(a.body), v); err != nil {
		a.t.Fatalf("%v in %.500q", err, a.body)
	}
}

// refused looks that the answer is an error in Anthropic's shape, with a request id that header and body share.
func (a *answer) refused(status int, kind string) *answer {
	a.t.Helper()
	a.status(status)
	var e envelope
	a.into(&e)
	if e.Type != "error" || e.Error.Type != kind || e.Error.Message == "" {
		a.t.Errorf("want a %s, got %.500s", kind, a.body)
	}
	if id := a.header.Get("Request-Id"); id == "" || e.RequestID != id {
		a.t.Errorf("request-id %q in the header, %q in the body", id, e.RequestID)
	}
	if got := a.header.Get("Content-Type"); got != "application/json" {
		a.t.Errorf("an error has the content-type %q", got)
	}
	if got := a.header.Get("Cache-Control"); got != "no-store" {
		a.t.Errorf("an error has cache-control %q", got)
	}
	return a
}

// envelope is Anthropic's error object.
type envelope struct {
	Type  string `json:"type"`
	Error struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	} `json:"error"`
	RequestID string `json:"request_id"`
}

// upstream is Claude's place: it notes what arrives there.
type upstream struct {
	server *httptest.Server
	mu     sync.Mutex
	seen   []sighting
}

// sighting is a request as the upstream saw it.
type sighting struct {
	method, uri string
	header      http.Header
	body        string
	ctx         context.Context // done once the gateway has left
}

func listen(claude http.Handler) *upstream {
	u := &upstream{}
	u.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		u.mu.Lock()
		u.seen = append(u.seen, sighting{r.Method, r.RequestURI, r.Header.Clone(), string(body), r.Context()})
		u.mu.Unlock()
		claude.ServeHTTP(w, r)
	}))
	u.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	u.server.Start()
	return u
}

func (u *upstream) requests() []sighting {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.seen[:len(u.seen):len(u.seen)]
}

// journal keeps what is logged.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// skip leaves a test out for want of something, unless that is forbidden.
func skip(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("SLUICE_FORBID_SKIP") != "" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

var errCut = errors.New("the response broke off")
