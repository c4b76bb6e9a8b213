package gateway

import (
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"sluice/gateway/limits"
)

// Config is everything an operator can choose. It mirrors config.yaml, one
// section a field; that file says what each value is for. A Config that
// ParseConfig or LoadConfig returned is complete and within its bounds.
//
// It holds secrets (the upstream's key, callers' keys, those of tokens and tickets): show
// people Describe, never the value itself.
type Config struct {
	Server     Server
	Upstream   Upstream
	Auth       Auth
	Plans      map[string]limits.Plan // by name; Auth.DefaultPlan is among them if anybody may be on it
	Relay      Relay
	Store      Store
	Background Background
	Callbacks  Callbacks
	Log        Log
}

// Server is where Sluice is reached.
type Server struct {
	Listen      string        // host:port for callers
	AdminListen string        // host:port for metrics and health
	PublicURL   string        // scheme://host[:port] without a final slash; empty: taken from each request
	TLS         TLS           // of Listen; the zero value: none
	H2C         bool          // HTTP/2 without TLS too, as a proxy in front may speak it
	CORSOrigins []string      // scheme://host[:port] of the pages that may call from elsewhere; "*" alone: any, without cookies
	Drain       time.Duration // how long open streams may go on after SIGTERM; 0: not at all
}

// TLS names the PEM files of a certificate, with its chain, and of its key: both or neither.
type TLS struct{ CertFile, KeyFile string }

// Upstream is where Claude is reached.
type Upstream struct {
	BaseURL       string // http or https, without query, credentials or a final slash
	APIKey        string
	CAFile        string        // PEM; empty: the system's authorities
	MaxConcurrent int           // requests that generate, at once; 0: no limit
	QueueWait     time.Duration // how long further ones wait; 0: not at all; else less than Relay.Hold
	StallTimeout  time.Duration // a stream without a byte for this long has died
	Timeout       time.Duration // for a whole answer that is not streamed
	ForwardPaths  []string      // clean paths below /v1/
}

// Auth is who may call.
type Auth struct {
	Keys           []Key // ids and keys are each unique
	JWT            JWT
	DefaultPlan    string
	TrustedProxies []netip.Prefix // masked; never empty with UserHeader
	UserHeader     string         // in which they name the user; empty: they don't
	TicketSecret   string         // empty: one is made and kept in the store
	AnonymousPlan  string         // empty: nobody calls without credentials
}

// JWT is which tokens are taken: those signed with Secret, or with the keys at
// JWKSURL; without both, none. Fields that may be empty then say nothing.
type JWT struct {
	Secret    string
	JWKSURL   string
	Issuer    string // may be empty
	Audience  string // may be empty
	UserClaim string
	PlanClaim string // may be empty
	Cookie    string // may be empty
}

// Key is one caller's API key.
type Key struct {
	ID   string // the owner's name in logs and usage: key:<id>
	Key  string // "sha256:" and 64 lower-case hex digits, or the key itself
	Plan string // never empty: DefaultPlan where the file names none
}

// Relay is how streams are kept and served.
type Relay struct {
	Hold         time.Duration // how long a status line waits for the upstream's first event
	PingInterval time.Duration
	StallTimeout time.Duration // a write without progress for this long ends its viewer
	AbandonAfter AbandonAfter
	Retention    time.Duration // how long an ended stream can still be read
	Memory       int64         // bytes, for all event logs and held request bodies
}

// AbandonAfter is how long a stream goes on without a viewer before the
// upstream is canceled; Never reads the answer to its end.
type AbandonAfter struct {
	Messages time.Duration // opened at /v1/messages
	Streams  time.Duration // opened at /v1/streams
}

// Never is the duration written "never". It is negative, so that it cannot be
// mistaken for a short one: compare with it before arming a timer.
const Never time.Duration = -1

// Store is where things are kept that survive a restart.
type Store struct {
	Dir     string // of the embedded engine
	NatsURL string // of a NATS server or cluster instead, several separated by commas; empty: embedded
}

// Background is the streams that run without a browser.
type Background struct {
	Concurrency int           // how many run at once; 1 or more
	Retention   time.Duration // how long an ended one can be read, and one may wait to be run
}

// Log is what is written to standard error.
type Log struct {
	Level  slog.Level
	Format string // "text" or "json"
}

// What an absent secret stands for. They are not part of Defaults, which has no
// environment to look them up in.
const (
	defaultAPIKey       = "${ANTHROPIC_API_KEY}"
	defaultTicketSecret = "${SLUICE_TICKET_SECRET}"
)

// Defaults returns the configuration of an empty file in an empty environment:
// complete but for Upstream.APIKey, which has no default.
func Defaults() Config {
	return Config{
		Server: Server{
			Listen:      ":8080",
			AdminListen: "127.0.0.1:8081",
			Drain:       60 * time.Second,
		},
		Upstream: Upstream{
			BaseURL:      "https://api.anthropic.com",
			QueueWait:    8 * time.Second,
			StallTimeout: 180 * time.Second,
			Timeout:      10 * time.Minute,
		},
		Auth: Auth{JWT: JWT{UserClaim: "sub", PlanClaim: "plan"}, DefaultPlan: "default"},
		Plans: map[string]limits.Plan{
			"default": {RequestsPerMinute: 60, Burst: 10, ConcurrentStreams: 8},
		},
		Relay: Relay{
			Hold:         10 * time.Second,
			PingInterval: 15 * time.Second,
			StallTimeout: 30 * time.Second,
			AbandonAfter: AbandonAfter{Messages: 15 * time.Second, Streams: 2 * time.Minute},
			Retention:    10 * time.Minute,
			Memory:       512_000_000,
		},
		Store:      Store{Dir: "data"},
		Background: Background{Concurrency: 16, Retention: 72 * time.Hour},
		Log:        Log{Level: slog.LevelInfo, Format: "text"},
	}
}

// maxConfigBytes bounds the file, so that a wrong path (a device, a log) is an
// error and not a full memory. Ten thousand callers fit.
const maxConfigBytes = 2 << 20

// LoadConfig reads the file at path and, beyond what ParseConfig checks, the
// files that it names. An error is a *ConfigError, or says why the file could
// not be read.
func LoadConfig(path string, getenv func(string) (string, bool)) (Config, []Warning, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, nil, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err != nil {
		return Config{}, nil, fmt.Errorf("configuration: %w", err)
	}
	return parseConfig(path, data, getenv, os.ReadFile)
}

// ParseConfig decodes and checks data, the text of the file called name; getenv
// (os.LookupEnv) resolves its ${VAR}s. What the text leaves out is as in
// Defaults. It touches no file, reports all it finds in one *ConfigError, and
// prints no secret, neither in it nor in a warning.
func ParseConfig(name string, data []byte, getenv func(string) (string, bool)) (Config, []Warning, error) {
	return parseConfig(name, data, getenv, nil)
}

func parseConfig(name string, data []byte, getenv func(string) (string, bool), readFile func(string) ([]byte, error)) (Config, []Warning, error) {
	d := newDecoder(name, getenv, readFile)
	d.document(data)
	if err := d.err(); err != nil {
		return Config{}, nil, err
	}
	return d.config, d.warnings, nil
}
