package gateway_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"sluice/gateway"
	"sluice/gateway/limits"
)

// reload changes the configuration of the start while the house serves.
func (h *house) reload(changes ...func(*gateway.Config)) error {
	cfg := h.cfg
	cfg.Plans = maps.Clone(cfg.Plans)
	for _, change := range changes {
		change(&cfg)
	}
	return h.gateway.Reload(cfg)
}

// mustReload is reload that has to succeed.
func (h *house) mustReload(changes ...func(*gateway.Config)) {
	h.t.Helper()
	if err := h.reload(changes...); err != nil {
		h.t.Fatal(err)
	}
}

// rewrite has the house read a file: the configuration of its start, with these plans.
func (h *house) rewrite(plans string) error {
	h.t.Helper()
	path := filepath.Join(h.t.TempDir(), "config.yaml")
	text := fmt.Sprintf(`server: {listen: "127.0.0.1:0", admin_listen: "127.0.0.1:0", drain: 5s}
upstream: {base_url: %q, api_key: %q, ca_file: %q}
auth: {keys: [{id: alice, key: %q}, {id: bob, key: %q}]}
plans: %s
log: {level: info, format: text}
`, h.cfg.Upstream.BaseURL, upstreamKey, h.cfg.Upstream.CAFile, aliceKey, bobKey, plans)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return h.gateway.ReloadFile(path, func(string) (string, bool) { return "", false })
}

// holding is an upstream that says the beginning of a message, and the rest when it is let.
type holding struct{ goOn chan struct{} }

func (u holding) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	io.WriteString(w, start)
	http.NewResponseController(w).Flush()
	select {
	case <-u.goOn:
		w.Write(message(1)[len(start):])
	case <-r.Context().Done():
	}
}

// open has readers of so many streams of alice's, each of which has begun.
func (h *house) open(streams int) []*reading {
	h.t.Helper()
	readings := make([]*reading, streams)
	var openers sync.WaitGroup
	for part := range 16 {
		openers.Go(func() {
			for i := part; i < streams; i += 16 {
				readings[i] = h.watch("POST", "/v1/messages", ask("long"))
				if e := readings[i].next(); e.name != "message_start" {
					h.t.Errorf("stream %d begins with %+v", i, e)
				}
			}
		})
	}
	openers.Wait()
	h.becomes("sluice_streams_active", float64(streams))
	return readings
}

const (
	applied = `sluice_config_reloads_total{outcome="applied"}`
	refused = `sluice_config_reloads_total{outcome="refused"}`
	good    = "sluice_config_last_reload_successful"
	goodAt  = "sluice_config_last_reload_success_timestamp_seconds"
)

func TestReloadUnderAThousandStreamsDropsNone(t *testing.T) {
	t.Parallel()
	const streams = 1000
	claude := holding{make(chan struct{})}
	h := openHouse(t, saying(1), overTLS(t, claude), func(c *gateway.Config) {
		c.Plans["default"] = limits.Plan{ConcurrentStreams: streams + 1}
	})
	readings := h.open(streams)
	begun := h.scrape()
	if begun[applied] != 0 || begun[refused] != 0 || begun[good] != 1 || begun[goodAt] == 0 {
		t.Errorf("before any reload: %v %v %v %v", begun[applied], begun[refused], begun[good], begun[goodAt])
	}

	// A file with mistakes: the limits of before, and everybody is told what is wrong and where.
	err := h.rewrite("{default: {concurent_streams: 1, burst: many}}")
	if err == nil {
		t.Fatal("a file with mistakes was taken")
	}
	for problem := range strings.Lines(err.Error()) {
		problem = strings.TrimSuffix(problem, "\n")
		logged, _ := json.Marshal(problem)
		if !strings.Contains(problem, "config.yaml:4:") || !strings.Contains(h.log.String(), string(logged)) {
			t.Errorf("the log does not say %q:\n%s", problem, h.log.String())
		}
	}
	if !strings.Contains(h.log.String(), "nothing has changed") {
		t.Errorf("the log does not say that nothing has changed:\n%s", h.log.String())
	}
	h.counted(map[string]float64{applied: 0, refused: 1, good: 0, goodAt: begun[goodAt], "sluice_streams_active": streams})
	last := h.watch("POST", "/v1/messages", ask("long"))
	last.next()
	h.do("POST", "/v1/messages", ask("long")).refused(429, "rate_limit_error")

	// A good one: what is open counts, and goes on, though it is more than the new limit.
	if err := h.rewrite("{default: {concurrent_streams: 7}}"); err != nil {
		t.Fatal(err)
	}
	h.counted(map[string]float64{applied: 1, refused: 1, good: 1, "sluice_streams_active": streams + 1})
	if h.scrape()[goodAt] <= begun[goodAt] {
		t.Error("the time of the last good reload is that of the start")
	}
	a := h.do("POST", "/v1/messages", ask("long")).refused(429, "rate_limit_error")
	if !strings.Contains(a.body, "is 7 (concurrent_streams)") {
		t.Errorf("refused with %s", a.body)
	}
	close(claude.goOn)
	for _, r := range append(readings, last) {
		events := r.rest()
		endsWith(t, events, "message_stop")
		numbered(t, events, 1)
	}
	h.watch("POST", "/v1/messages", ask("long")).rest()
}

func TestWhatWasUsedStaysCountedAcrossAReload(t *testing.T) {
	t.Parallel()
	perMinute := func(n, burst int) func(*gateway.Config) {
		return func(c *gateway.Config) { c.Plans["default"] = limits.Plan{RequestsPerMinute: n, Burst: burst} }
	}
	h := openHouse(t, saying(1), perMinute(1, 3))
	for range 2 {
		h.do("POST", "/v1/messages", ask("short")).status(200)
	}
	h.mustReload(perMinute(1, 3))
	h.do("POST", "/v1/messages", ask("short")).status(200)
	h.do("POST", "/v1/messages", ask("short")).status(429)
	h.mustReload(perMinute(1, 9)) // a larger burst fills up, and is no gift
	h.do("POST", "/v1/messages", ask("short")).status(429)
	h.do("POST", "/v1/messages", ask("short"), "x-api-key", bobKey).status(200)
	h.counted(map[string]float64{`sluice_streams_total{model="claude-sonnet-4-6",outcome="completed"}`: 4, `sluice_rate_limited_total{limit="requests_per_minute"}`: 2})
}

func TestKeyThatIsRemovedOpensNothingAndItsStreamsGoOn(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f)
	w := h.watching(t, f)
	bobs := func(c *gateway.Config) {
		c.Auth.Keys = []gateway.Key{{ID: "bob", Key: bobKey, Plan: "default"}, {ID: "carol", Key: "sk-carol", Plan: "default"}}
	}
	h.do("GET", "/v1/streams", "", "x-api-key", "sk-carol").refused(401, "authentication_error")
	h.mustReload(bobs)
	h.do("GET", "/v1/streams", "").refused(401, "authentication_error")
	h.do("POST", "/v1/messages", ask("short")).refused(401, "authentication_error")
	h.fetch("GET", w.o.EventsURL, "", "x-api-key", "").refused(401, "authentication_error")
	h.do("GET", "/v1/streams", "", "x-api-key", "sk-carol").status(200)
	h.do("GET", "/v1/streams/"+w.o.ID, "", "x-api-key", "sk-carol").refused(404, "not_found_error")
	w.up.send(block, delta("still here"))
	w.up.finish()
	events := w.r.rest()
	endsWith(t, events, "message_stop")
	if text := textOf(t, events); text != "still here" {
		t.Errorf("the reader saw %q", text)
	}
	h.mustReload() // the key is back, and so are its tickets
	endsWith(t, h.watchURL("GET", w.o.EventsURL, "", "x-api-key", "").rest(), "message_stop")
	h.do("GET", "/v1/streams", "", "x-api-key", "sk-carol").refused(401, "authentication_error")
}

func TestOriginsChangeWithAReload(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1), proxyLogin)
	page := []string{"x-api-key", "", "x-forwarded-user", "carol", "origin", app, "sec-fetch-site", "cross-site"}
	allowed := func(want string, status int) {
		t.Helper()
		a := h.do("POST", "/v1/streams", request("short"), page...).status(status)
		if got := a.header.Get("Access-Control-Allow-Origin"); got != want {
			t.Errorf("allowed to %q, want %q", got, want)
		}
		a = h.do("OPTIONS", "/v1/streams", "", "origin", app, "access-control-request-method", "POST")
		if got := a.header.Get("Access-Control-Allow-Origin"); got != want {
			t.Errorf("a preflight allows %q, want %q", got, want)
		}
	}
	allowed("", 403)
	h.mustReload(allowing(app))
	allowed(app, 201)
	h.mustReload(allowing("https://other.example"))
	allowed("", 403)
	h.mustReload()
	allowed("", 403)
	h.forgetUser("carol")
}

// forgetUser deletes the streams of a user whom the proxy names.
func (h *house) forgetUser(name string) {
	h.t.Helper()
	var page struct{ Data []struct{ ID string } }
	h.do("GET", "/v1/streams?limit=100", "", "x-api-key", "", "x-forwarded-user", name).status(200).into(&page)
	for _, s := range page.Data {
		h.do("DELETE", "/v1/streams/"+s.ID, "", "x-api-key", "", "x-forwarded-user", name).status(200)
	}
}

func TestPlacesAtTheUpstreamChangeWithAReload(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openHouse(t, f, places(1))
	w := h.watching(t, f)
	second := h.begin(t.Context(), 1, "/v1/messages", ask("short"))
	third := h.begin(t.Context(), 2, "/v1/messages", ask("short"))
	h.mustReload(places(2))
	up := f.next(t)
	h.becomes(queueDepth, 1)
	h.mustReload(places(0))
	more := f.next(t)
	for _, up := range []*tap{up, more} {
		up.send(start)
		up.finish()
	}
	receive(t, second, "an answer").status(200)
	receive(t, third, "an answer").status(200)
	w.up.finish()
	endsWith(t, w.r.rest(), "message_stop")
}

func TestCertificateIsReadAgain(t *testing.T) {
	t.Parallel()
	f := newFaucet()
	h := openTLSHouse(t, f)
	w := h.watching(t, f)
	serial := func() string {
		t.Helper()
		conn, err := tls.Dial("tcp", strings.TrimPrefix(h.url, "https://"), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	files := h.cfg.Server.TLS
	first := serial()
	certify(t, files)
	if serial() != first {
		t.Fatal("a new certificate is used before it is asked for")
	}
	h.mustReload()
	second := serial()
	if second == first {
		t.Error("the certificate is still the old one")
	}
	// Files that are no good, or are in the midst of being written: all is as it was.
	if err := os.WriteFile(files.KeyFile, []byte("-----BEGIN"), 0o600); err != nil {
		t.Fatal(err)
	}
	none := func(c *gateway.Config) {
		c.Plans = map[string]limits.Plan{"default": {RequestsPerMinute: 1}}
		c.Auth.Keys = nil
	}
	if err := h.reload(none); err == nil || !strings.HasPrefix(err.Error(), "server.tls: ") {
		t.Errorf("a broken key is taken: %v", err)
	}
	if serial() != second {
		t.Error("the certificate has changed")
	}
	h.do("GET", "/v1/streams", "").status(200)
	// Others are taken, too.
	other := gateway.TLS{CertFile: files.CertFile + ".new", KeyFile: files.KeyFile + ".new"}
	certify(t, other)
	h.mustReload(func(c *gateway.Config) { c.Server.TLS = other })
	if got := serial(); got == second || got == first {
		t.Error("the certificate in other files is not used")
	}
	w.up.finish()
	endsWith(t, w.r.rest(), "message_stop") // over the connection of the first
}

func TestRefusedReloadChangesNothing(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1), secretLogin, func(c *gateway.Config) { c.Plans["default"] = limits.Plan{RequestsPerMinute: 60, Burst: 20} })
	other := func(c *gateway.Config) {
		c.Plans = map[string]limits.Plan{"default": {RequestsPerMinute: 1}, "gold": {}}
		c.Server.CORSOrigins = []string{app}
		c.Upstream.MaxConcurrent = 1
	}
	for name, wrong := range map[string]func(*gateway.Config){
		"two keys of one id": func(c *gateway.Config) { c.Auth.Keys = append(c.Auth.Keys, c.Auth.Keys[0]) },
		"no origin":          func(c *gateway.Config) { c.Server.CORSOrigins = []string{"app.example"} },
		"both kinds of keys": func(c *gateway.Config) { c.Auth.JWT = gateway.JWT{Secret: "x", JWKSURL: "https://x", UserClaim: "sub"} },
	} {
		if err := h.reload(other, wrong); err == nil {
			t.Errorf("%s: taken", name)
		}
		for range 3 {
			a := h.do("POST", "/v1/messages", ask("short"), "origin", app).status(200)
			if a.header.Get("Anthropic-Ratelimit-Requests-Limit") != "60" || a.header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s: %v", name, a.header)
			}
		}
		h.do("POST", "/v1/messages", ask("short"), "x-api-key", "", "authorization", "Bearer "+hs256(t, jwt.MapClaims{"plan": "gold"})).refused(403, "permission_error")
	}
	if err := h.gateway.ReloadFile("/nowhere/config.yaml", os.LookupEnv); err == nil || !strings.Contains(h.log.String(), err.Error()) {
		t.Errorf("a file that is not there: %v", err)
	}
	h.counted(map[string]float64{applied: 0, refused: 4, good: 0})
}

func TestKeysThatNeedARestartAreNamed(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(1))
	h.mustReload()
	if strings.Contains(h.log.String(), "restart") {
		t.Errorf("nothing differs:\n%s", h.log.String())
	}
	h.mustReload(func(c *gateway.Config) {
		c.Server.Listen, c.Relay.Memory, c.Upstream.APIKey = "127.0.0.1:1", 1<<20, "sk-other"
		c.Plans["default"] = limits.Plan{RequestsPerMinute: 5}
	})
	if !strings.Contains(h.log.String(), `"keys":"server.listen, upstream.api_key, relay.memory"`) || strings.Contains(h.log.String(), "sk-other") {
		t.Errorf("the log names others:\n%s", h.log.String())
	}
	a := h.do("POST", "/v1/messages", ask("short")).status(200) // the rest is in force
	if a.header.Get("Anthropic-Ratelimit-Requests-Limit") != "5" {
		t.Errorf("%v", a.header)
	}
	if up := h.upstream.requests()[0]; up.header.Get("X-Api-Key") != upstreamKey {
		t.Error("the upstream's key has changed")
	}
}
