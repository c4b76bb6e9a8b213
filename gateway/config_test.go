package gateway

import (
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"sluice/gateway/limits"
)

// fakeEnv returns a getenv that knows only these NAME=value pairs.
func fakeEnv(pairs ...string) func(string) (string, bool) {
	values := map[string]string{}
	for _, p := range pairs {
		name, value, _ := strings.Cut(p, "=")
		values[name] = value
	}
	return func(name string) (string, bool) { v, ok := values[name]; return v, ok }
}

var keyInEnv = fakeEnv("ANTHROPIC_API_KEY=x")

func mustParse(t *testing.T, text string, getenv func(string) (string, bool)) (Config, []Warning) {
	t.Helper()
	c, warnings, err := ParseConfig("c.yaml", []byte(text), getenv)
	if err != nil {
		t.Fatal(err)
	}
	return c, warnings
}

func shippedFile(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("../config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestShippedFileIsTheDefaults(t *testing.T) {
	want := Defaults()
	want.Upstream.APIKey = "x"
	for name, text := range map[string]string{"config.yaml": shippedFile(t), "empty": "", "comment": "# nothing\n", "document": "---\n", "sections": "server:\nrelay:\n  abandon_after:\nplans:\nauth:\n  keys:\n"} {
		got, _ := mustParse(t, text, keyInEnv)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, want)
		}
	}
}

// Every field of Config has a key, every key a field, and the shipped file shows
// them all, those of lists and plans in its comments.
func TestShippedFileShowsEveryKey(t *testing.T) {
	fields := map[string]bool{}
	fieldPaths("", reflect.TypeFor[Config](), fields)
	d := newDecoder("c.yaml", keyInEnv, nil)
	rulePaths("", d.rules, fields, func(path string) { t.Errorf("the key %s has no field", path) })

	d.document([]byte(shippedFile(t)))
	for path := range fields {
		if _, ok := d.places[path]; ok {
			continue
		}
		leaf := path[strings.LastIndexByte(path, '.')+1:]
		if !regexp.MustCompile(`(?m)^ *(#.*|\w.*)\b` + leaf + `:`).MatchString(shippedFile(t)) {
			t.Errorf("config.yaml does not show %s", path)
		}
		if !strings.Contains(path, "[]") && !strings.HasPrefix(path, "plans") {
			t.Errorf("the decoder did not meet %s", path)
		}
	}
}

// The plan that stands in the shipped file as an example is one, with every limit that there is.
func TestShippedExampleOfAPlanIsTaken(t *testing.T) {
	text := shippedFile(t)
	_, example, ok := strings.Cut(text, "  # A plan with every limit that there is:\n")
	example, _, ok2 := strings.Cut(example, "\n\n")
	if !ok || !ok2 {
		t.Fatal("there is no example")
	}
	c, _ := mustParse(t, "plans:\n  default: {}\n"+regexp.MustCompile(`(?m)^  # `).ReplaceAllString(example, "  "), keyInEnv)
	for limit := range reflect.TypeFor[limits.Plan]().Fields() {
		if reflect.ValueOf(c.Plans["small"]).FieldByIndex(limit.Index).IsZero() {
			t.Errorf("it has no %s", limit.Name)
		}
	}
}

var wordStart = regexp.MustCompile(`([a-z])([A-Z])|([A-Z])([A-Z][a-z])|(JWKS)(URL)`)

func fieldPaths(prefix string, typ reflect.Type, paths map[string]bool) {
	for f := range typ.Fields() {
		name := wordStart.ReplaceAllString(f.Name, "${1}${3}${5}_${2}${4}${6}")
		path := strings.TrimPrefix(prefix+"."+strings.ToLower(name), ".")
		switch {
		case f.Type.Kind() == reflect.Struct:
			fieldPaths(path, f.Type, paths)
		case f.Type.Kind() == reflect.Slice && f.Type.Elem() == reflect.TypeFor[Key]():
			fieldPaths(path+"[]", f.Type.Elem(), paths)
		case f.Type.Kind() == reflect.Map:
			fieldPaths(path+".default", f.Type.Elem(), paths)
		default:
			paths[path] = true
		}
	}
}

func rulePaths(prefix string, keys rules, fields map[string]bool, stranger func(string)) {
	for name, r := range keys {
		path := strings.TrimPrefix(prefix+"."+name, ".")
		known := fields[path] || path == "auth.keys" || path == "plans" // their keys are met, or seen in comments
		if r.keys != nil {
			rulePaths(path, r.keys, fields, stranger)
		} else if !known {
			stranger(path)
		}
	}
}

func TestEveryValueIsTaken(t *testing.T) {
	got, warnings := mustParse(t, `
server: {listen: "127.0.0.1:0", admin_listen: "[::1]:9", public_url: "https://s.example:8443/", drain: 0,
  tls: {cert_file: c.pem, key_file: k.pem}, h2c: true, cors_origins: ["https://App.example:443", "http://localhost:5173/"]}
upstream:
  base_url: http://127.0.0.1:9/claude/
  api_key: $$a-${ANTHROPIC_API_KEY}-$b
  max_concurrent: 40
  queue_wait: 9s
  stall_timeout: 1m
  timeout: 1h30m
  forward_paths: [/v1/files, /v1/skills]
auth:
  keys:
  - {id: alice, key: "sha256:`+strings.ToUpper(hashOfSecret)+`", plan: pro}
  - {id: 007, key: "${KEY}"}
  default_plan: free
  jwt: {jwks_url: "https://login.example.com/keys?p=a", issuer: "https://login.example.com/", audience: sluice, user_claim: "https://x.example/id", plan_claim: "", cookie: __Host-session}
  trusted_proxies: [10.0.0.0/8, "2001:db8::1", "::ffff:192.0.2.1"]
  user_header: x-user
  ticket_secret: 0123456789abcdef0123456789abcdef
  anonymous_plan: pro
plans: {free: &none {}, pro: {requests_per_minute: "${RPM}", burst: 3, concurrent_streams: 4, viewers_per_stream: 5,
  input_tokens_per_minute: 6, output_tokens_per_minute: 7, tokens_per_day: 8, max_tokens: 9, models: ["*", "claude-haiku-?", "${RPM}"]}, other: *none}
store: {dir: kept, nats_url: "nats://a:b@10.0.0.1:4222, tls://c"}
relay:
  hold: 59s
  ping_interval: 1s
  stall_timeout: 2s
  abandon_after: {messages: never, streams: 3s}
  retention: 4h
  memory: 1 GiB
background: {concurrency: 3, retention: 100h}
log: {level: debug, format: json}
`, fakeEnv("ANTHROPIC_API_KEY=x", "KEY=plain", "RPM=2"))
	want := Config{
		Server: Server{Listen: "127.0.0.1:0", AdminListen: "[::1]:9", PublicURL: "https://s.example:8443",
			TLS: TLS{"c.pem", "k.pem"}, H2C: true, CORSOrigins: []string{"https://app.example", "http://localhost:5173"}},
		Upstream: Upstream{BaseURL: "http://127.0.0.1:9/claude", APIKey: "$a-x-$b", MaxConcurrent: 40, QueueWait: 9 * time.Second, StallTimeout: time.Minute, Timeout: 90 * time.Minute,
			ForwardPaths: []string{"/v1/files", "/v1/skills"}},
		Auth: Auth{
			Keys: []Key{{ID: "alice", Key: "sha256:" + hashOfSecret, Plan: "pro"}, {ID: "007", Key: "plain", Plan: "free"}},
			JWT: JWT{JWKSURL: "https://login.example.com/keys?p=a", Issuer: "https://login.example.com/", Audience: "sluice",
				UserClaim: "https://x.example/id", Cookie: "__Host-session"},
			DefaultPlan: "free",
			UserHeader:  "x-user", AnonymousPlan: "pro",
			TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::1/128"),
				netip.MustParsePrefix("192.0.2.1/32")},
			TicketSecret: "0123456789abcdef0123456789abcdef",
		},
		Plans: map[string]limits.Plan{"free": {}, "other": {},
			"pro": {RequestsPerMinute: 2, Burst: 3, ConcurrentStreams: 4, ViewersPerStream: 5, InputTokensPerMinute: 6, OutputTokensPerMinute: 7,
				TokensPerDay: 8, MaxTokens: 9, Models: []string{"*", "claude-haiku-?", "2"}}},
		Relay: Relay{Hold: 59 * time.Second, PingInterval: time.Second, StallTimeout: 2 * time.Second,
			AbandonAfter: AbandonAfter{Messages: Never, Streams: 3 * time.Second}, Retention: 4 * time.Hour, Memory: 1 << 30},
		Store:      Store{Dir: "kept", NatsURL: "nats://a:b@10.0.0.1:4222, tls://c"},
		Background: Background{Concurrency: 3, Retention: 100 * time.Hour},
		Log:        Log{Level: slog.LevelDebug, Format: "json"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("\n got %+v\nwant %+v", got, want)
	}
	if len(warnings) > 0 {
		t.Errorf("warnings: %v", warnings)
	}
}

func TestDescribeSaysHowTheQueueIs(t *testing.T) {
	for text, want := range map[string]string{
		"upstream: {max_concurrent: 40}":                           "40 requests are at Claude at once; others, and all while it asks for a pause, wait up to 8s",
		"upstream: {max_concurrent: 40, queue_wait: 0}":            "40 requests are at Claude at once; others, and all while it asks for a pause, are refused",
		"relay: {hold: 5s}":                                        "any number of requests are at Claude at once; while it asks for a pause they wait up to 4s",
		"relay: {hold: 0}":                                         "any number of requests are at Claude at once; while it asks for a pause they are refused",
		"upstream: {queue_wait: 0}\nrelay: {hold: 0}":              "any number of requests are at Claude at once; while it asks for a pause they are refused",
		"upstream: {queue_wait: 1m30s}\nrelay: {hold: 1m30s001ms}": "any number of requests are at Claude at once; while it asks for a pause they wait up to 1m30s",
	} {
		c, _ := mustParse(t, text, keyInEnv)
		if got := c.Describe(); !strings.Contains(got, "\nqueue      "+want+"\n") {
			t.Errorf("%s:\n%s", text, got)
		}
	}
}

func TestVariablesCannotInjectStructure(t *testing.T) {
	injected := "info, format: json}\nrelay: {hold: 1s"
	_, _, err := ParseConfig("c.yaml", []byte(`log: {level: "${LEVEL}"}`), fakeEnv("ANTHROPIC_API_KEY=x", "LEVEL="+injected))
	want := `c.yaml:1:7: log.level: the value of "${LEVEL}" is not one of debug, info, warn and error`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestWarnings(t *testing.T) {
	_, warnings := mustParse(t, `
upstream:
  base_url: http://claude.internal
auth:
  keys:
    - id: alice
      key: hunter2
    - {id: bob, key: "${BOB}"}
  trusted_proxies: [0.0.0.0/0]
server: {cors_origins: ["*"]}
`, fakeEnv("ANTHROPIC_API_KEY=x", "BOB=b"))
	checkWarnings(t, warnings,
		"c.yaml:3:3: upstream.base_url: sends the API key and all content unencrypted; write https unless the network is your own",
		"c.yaml:7:7: auth.keys[0].key: is not hashed, so whoever reads this file can use it; write its sha256:, as `sluice key` prints it",
		"c.yaml:9:21: auth.trusted_proxies[0]: trusts everybody: any caller can claim any address",
		"c.yaml:10:25: server.cors_origins[0]: lets every page on the web call, with whatever key its visitor has; cookies and other ambient credentials stay refused")

	_, warnings = mustParse(t, "", keyInEnv)
	checkWarnings(t, warnings, "c.yaml: auth.keys: is empty, so nobody can call; `sluice key` makes a key and its entry")

	_, warnings = mustParse(t, "auth:\n  jwt: {secret: hunter2}\n  anonymous_plan: free\nplans: {default: {}, free: {}}", keyInEnv)
	checkWarnings(t, warnings,
		"c.yaml:2:9: auth.jwt.secret: is shorter than 32 characters and may be guessed by anyone who has a token; who guesses it can be any user",
		"c.yaml:3:3: auth.anonymous_plan: is a plan without requests_per_minute: anyone may call without end")

	_, warnings = mustParse(t, "auth:\n  jwt:\n    jwks_url: https://login.example.com/keys", keyInEnv)
	checkWarnings(t, warnings,
		"c.yaml:3:5: auth.jwt.issuer: is empty, so tokens of other tenants of the same provider are taken, too, if they are signed with the same keys",
		"c.yaml:3:5: auth.jwt.audience: is empty, so tokens that were made for other applications are taken, too, if they are signed with the same keys")

	_, warnings = mustParse(t, "auth: {user_header: X-User, trusted_proxies: [10.0.0.1]}", keyInEnv)
	checkWarnings(t, warnings)
}

func checkWarnings(t *testing.T, got []Warning, want ...string) {
	t.Helper()
	var lines []string
	for _, w := range got {
		lines = append(lines, w.String())
	}
	if !reflect.DeepEqual(lines, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}

func TestLoadConfigReadsTheFilesThatAreNamed(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	path := write("c.yaml", "upstream:\n  ca_file: "+write("ca.pem", "not PEM")+"\n")
	_, _, err := LoadConfig(path, keyInEnv)
	if err == nil || !strings.Contains(err.Error(), "c.yaml:2:3: upstream.ca_file: ") || !strings.Contains(err.Error(), "holds no certificate") {
		t.Errorf("a CA file without certificates: %v", err)
	}
	_, _, err = LoadConfig(write("d.yaml", "upstream:\n  ca_file: ${SECRET}\n"), fakeEnv("ANTHROPIC_API_KEY=x", "SECRET=hunter2"))
	if err == nil || !strings.HasSuffix(err.Error(), `d.yaml:2:3: upstream.ca_file: the value of "${SECRET}" cannot be read: no such file or directory`) {
		t.Errorf("an absent CA file: %v", err)
	}
	if _, _, err = LoadConfig(filepath.Join(dir, "absent.yaml"), keyInEnv); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an absent file: %v", err)
	}
	if c, _, err := LoadConfig(write("empty.yaml", ""), keyInEnv); err != nil || c.Server.Listen != ":8080" {
		t.Errorf("an empty file: %+v, %v", c, err)
	}
}

func TestDescribeSaysWhatItWouldDo(t *testing.T) {
	c, _ := mustParse(t, `auth: {keys: [{id: a, key: hunter2}]}
plans: {default: {requests_per_minute: 60, burst: 10, concurrent_streams: 8}, free: {}, small: {viewers_per_stream: 2,
  input_tokens_per_minute: 50000, output_tokens_per_minute: 8000, tokens_per_day: 100000, max_tokens: 4096, models: [claude-haiku-*, claude-sonnet-5]}}`, fakeEnv("ANTHROPIC_API_KEY=sk-secret", "SLUICE_TICKET_SECRET=0123456789abcdef0123456789abcdef"))
	want := `callers    at :8080; URLs are made from each request's Host
protocols  HTTP/1.1 without TLS, over which a browser opens six connections
operators  at 127.0.0.1:8081: metrics, health, usage
claude     at https://api.anthropic.com; certificates are checked against the system's authorities
patience   a stream is given up after 3m without a byte, an answer without streaming after 10m
queue      any number of requests are at Claude at once; while it asks for a pause they wait up to 8s
keys       1 on plan default
plan       default: 60 requests a minute, 10 at once, 8 open streams
plan       free: no limits
plan       small: 2 viewers a stream, 50000 input tokens a minute, 8000 output tokens a minute, 100000 tokens a day, max_tokens up to 4096, only claude-haiku-* and claude-sonnet-5
tickets    signed with the configured secret
status     waits up to 10s for Claude's first event; then a ping after each 15s of silence
readers    end after 30s without progress; a stream without any is given up after 15s (/v1/messages) or given up after 2m (/v1/streams)
memory     512 MB for all streams; an ended one is kept for 10m
store      in the directory data
background 16 streams at once; an ended one is kept for 72h
callbacks  signed with a secret that the store keeps; only to public addresses, over https
shutdown   waits up to 1m for open streams
log        text, from info
`
	if got := c.Describe(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	c, _ = mustParse(t, "store: {nats_url: 'nats://u:hunter2@a:4222,tls://b'}", keyInEnv)
	if got := c.Describe(); !strings.Contains(got, "store      at NATS, a:4222 and b\n") || strings.Contains(got, "hunter2") {
		t.Errorf("got\n%s", got)
	}
}

func TestDescribeSaysWhoMayCall(t *testing.T) {
	const proxy = "trusted_proxies: [10.0.0.1], user_header: X-User"
	for text, want := range map[string]string{
		"":                        "keys       none, so nobody can call\n",
		"anonymous_plan: default": "keys       none\nanonymous  callers without credentials are on plan default, each address by itself\n",
		proxy:                     "keys       none\nusers      are whom a trusted proxy names in X-User, on plan default\n",
		"jwt: {secret: hunter2}":  "keys       none\ntokens     signed with the configured secret (HS256), the user is sub, the plan plan\n",
		`jwt: {jwks_url: "https://a.example/keys?hunter2", issuer: i, audience: a, plan_claim: "", cookie: c}`: "tokens     signed with a key of https://a.example/keys, issued by i, for a, the user is sub, also in the cookie c\n",
	} {
		c, _ := mustParse(t, "auth: {"+text+"}", keyInEnv)
		if got := c.Describe(); !strings.Contains(got, want) || strings.Contains(got, "hunter2") {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
}
