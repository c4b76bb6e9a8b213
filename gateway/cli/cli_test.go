package cli_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/gateway"
	"sluice/gateway/cli"
	"sluice/gateway/simulator"
)

func TestMain(m *testing.M) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP) // which comes when a command has just ended, too
	code := m.Run()
	cli.CloseBrowser()
	http.DefaultClient.CloseIdleConnections()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

const patience = 30 * time.Second

// variables is an environment.
type variables map[string]string

func (v variables) get(name string) (string, bool) {
	value, ok := v[name]
	return value, ok
}

// result is what a command left behind.
type result struct {
	code           int
	stdout, stderr string
}

// run runs a command to its end.
func run(t testing.TB, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out, errs bytes.Buffer
	code := cli.Main(args, cli.Environment{Stdout: &out, Stderr: &errs, Getenv: variables{"ANTHROPIC_API_KEY": "sk-up"}.get, Context: ctx})
	if ctx.Err() != nil {
		t.Fatalf("%q does not end:\n%s%s", args, &out, &errs)
	}
	return result{code, out.String(), errs.String()}
}

// running is a command that goes on.
type running struct {
	t     testing.TB
	stop  context.CancelFunc
	code  chan int
	lines chan string // what it prints; closed at its end
}

// begin runs a command until the test, or stop, ends it. Its two outputs come as one.
func begin(t testing.TB, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	read, write := io.Pipe()
	r := &running{t, cancel, make(chan int, 1), make(chan string, 1000)}
	go func() {
		r.code <- cli.Main(args, cli.Environment{Stdout: write, Stderr: write, Getenv: variables{"ANTHROPIC_API_KEY": "sk-up"}.get, Context: ctx})
		write.Close()
	}()
	go func() {
		defer close(r.lines)
		for in := bufio.NewScanner(read); in.Scan(); {
			select {
			case r.lines <- in.Text():
			default: // more than any test looks at
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		for range r.lines {
		}
	})
	return r
}

// finds reads lines until one matches, and returns the groups.
func (r *running) finds(pattern string) []string {
	r.t.Helper()
	want := regexp.MustCompile(pattern)
	var seen strings.Builder
	for line := range r.lines {
		seen.WriteString(line + "\n")
		if m := want.FindStringSubmatch(line); m != nil {
			return m
		}
	}
	r.t.Fatalf("no line matches %s in\n%s", pattern, &seen)
	return nil
}

// ends stops the command and looks at its exit code.
func (r *running) ends(want int) {
	r.t.Helper()
	r.stop()
	select {
	case code := <-r.code:
		if code != want {
			r.t.Errorf("exit code %d, want %d", code, want)
		}
	case <-time.After(patience):
		r.t.Fatal("the command does not stop")
	}
}

// file writes a configuration, whose store is the test's own.
func file(t testing.TB, text string) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "config.yaml")
	text += fmt.Sprintf("\nstore: {dir: %q}\n", filepath.Join(dir, "data"))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// foreign is a configuration whose store is among its own files.
func foreign(t testing.TB) string {
	t.Helper()
	path := file(t, "auth: {keys: [{id: alice, key: sk-alice}]}")
	if err := os.MkdirAll(filepath.Join(filepath.Dir(path), "data", "letters"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func get(t testing.TB, url string, headers ...string) (int, string) {
	t.Helper()
	return call(t, "GET", url, "", headers...)
}

func call(t testing.TB, method, url, body string, headers ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestEveryEndHasItsExitCodeAndWords(t *testing.T) {
	t.Parallel()
	good := file(t, "auth: {keys: [{id: alice, key: sk-alice}]}")
	bad := file(t, "server:\n  lisen: \":8080\"\n")
	noUpstream := file(t, "upstream: {ca_file: /nowhere.pem}")
	absent := filepath.Join(t.TempDir(), "config.yaml")
	for name, c := range map[string]struct {
		args           []string
		code           int
		stdout, stderr string // each a part of it
	}{
		"no configuration":         {[]string{"-config", absent}, 2, "", "sluice demo"},
		"the word serve":           {[]string{"serve", "-config", absent}, 2, "", "no such file"},
		"check without one":        {[]string{"check", "-config", absent}, 2, "", absent},
		"a bad one":                {[]string{"-config", bad}, 2, "", bad + ":2"},
		"what would be right":      {[]string{"check", "-config", bad}, 2, "", "listen"},
		"a file it names":          {[]string{"-config", noUpstream}, 2, "", "/nowhere.pem"},
		"a good one":               {[]string{"check", "-config", good}, 0, good + " is good.", ""},
		"what it would do":         {[]string{"check", "-config", good}, 0, "api.anthropic.com", "warning: "},
		"an unknown command":       {[]string{"sevre"}, 2, "", `there is no command "sevre"`},
		"the commands are listed":  {[]string{"sevre"}, 2, "", "sluice demo"},
		"an unknown flag":          {[]string{"-nope"}, 2, "", "-nope"},
		"too many arguments":       {[]string{"check", "a", "b"}, 2, "", "takes 0 arguments, not 2"},
		"tail without a URL":       {[]string{"tail"}, 2, "", "takes 1 arguments, not 0"},
		"help":                     {[]string{"help"}, 0, "Usage:", ""},
		"-h":                       {[]string{"-h"}, 0, "Usage:", ""},
		"help of a command":        {[]string{"demo", "-h"}, 0, "", "-listen"},
		"version":                  {[]string{"version"}, 0, "sluice " + cli.Version() + "\n", ""},
		"version takes nothing":    {[]string{"version", "x"}, 2, "", "takes 0"},
		"an id that is none":       {[]string{"key", "-id", "a b"}, 2, "", "-id"},
		"health where nobody is":   {[]string{"health", "-config", file(t, "server: {admin_listen: \"127.0.0.1:1\"}\nauth: {keys: [{id: a, key: k}]}")}, 1, "", "refused"},
		"a store's directory":      {[]string{"-config", foreign(t)}, 2, "", "is not empty and not a store of Sluice"},
		"a demo's address":         {[]string{"demo", "-listen", "nonsense"}, 1, "", "nonsense"},
		"a demo's port":            {[]string{"demo", "-listen", "127.0.0.1:http"}, 1, "", "should be a number"},
		"nobody at the tailed URL": {[]string{"tail", "not a url"}, 1, "", "sluice:"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "nobody at the tailed URL" {
				r := begin(t, c.args...) // it may come up: tail tries again
				r.finds("trying again")
				r.ends(1)
				return
			}
			got := run(t, c.args...)
			if got.code != c.code || !strings.Contains(got.stdout, c.stdout) || !strings.Contains(got.stderr, c.stderr) {
				t.Errorf("exit code %d, want %d\nstdout: %s\nstderr: %s", got.code, c.code, got.stdout, got.stderr)
			}
			if c.stdout == "" && got.stdout != "" || strings.Contains(got.stdout+got.stderr, "sk-") {
				t.Errorf("stdout: %s\nstderr: %s", got.stdout, got.stderr)
			}
		})
	}
}

func TestKeyPrintsALineThatTheConfigurationTakes(t *testing.T) {
	t.Parallel()
	got := run(t, "key", "-id", "build.bot-1")
	line := regexp.MustCompile(`(?m)^ +(- \{.*\})$`).FindStringSubmatch(got.stdout)
	plain := regexp.MustCompile(`(?m)^  (\S+)$`).FindStringSubmatch(got.stdout)
	if got.code != 0 || line == nil || plain == nil {
		t.Fatalf("%d %s%s", got.code, got.stdout, got.stderr)
	}
	cfg, warnings, err := gateway.ParseConfig("config.yaml", []byte("auth:\n  keys:\n    "+line[1]+"\n"), variables{"ANTHROPIC_API_KEY": "sk"}.get)
	if err != nil || len(warnings) != 0 || len(cfg.Auth.Keys) != 1 || cfg.Auth.Keys[0].ID != "build.bot-1" {
		t.Fatalf("%+v, %v, %v", cfg.Auth.Keys, warnings, err)
	}
	if strings.Contains(line[1], plain[1]) || run(t, "key").stdout == got.stdout {
		t.Error("the line holds the key, or each key is the same")
	}
	// And with the key one gets in.
	path := file(t, "server: {listen: \"127.0.0.1:0\", admin_listen: \"127.0.0.1:0\"}\nauth:\n  keys:\n    "+line[1]+"\n")
	r := begin(t, "serve", "-config", path)
	at := r.finds(`callers=(\S+)`)[1]
	if code, body := get(t, "http://"+at+"/v1/streams", "x-api-key", plain[1]); code != 200 {
		t.Errorf("%d %s", code, body)
	}
	if code, _ := get(t, "http://"+at+"/v1/streams", "x-api-key", "other"); code != 401 {
		t.Errorf("another key: %d", code)
	}
	r.ends(0)
}

func TestHealthAsksTheConfiguredAddress(t *testing.T) {
	t.Parallel()
	keys := "auth: {keys: [{id: alice, key: sk-alice}]}\n"
	r := begin(t, "-config", file(t, keys+"server: {listen: \"127.0.0.1:0\", admin_listen: \"127.0.0.1:0\"}\n"))
	operators := r.finds(`operators=(\S+)`)[1]
	_, port, _ := net.SplitHostPort(operators)
	for _, address := range []string{operators, ":" + port, "0.0.0.0:" + port} {
		got := run(t, "health", "-config", file(t, keys+"server: {admin_listen: \""+address+"\"}\n"))
		if got.code != 0 || got.stdout != "ok\n" {
			t.Errorf("%s: %+v", address, got)
		}
	}
	r.ends(0)
	if got := run(t, "health", "-config", file(t, keys+"server: {admin_listen: \""+operators+"\"}\n")); got.code != 1 {
		t.Errorf("after its end: %+v", got)
	}
}

func TestDemoNeedsNothingAndSaysThatItIsOne(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	begun := time.Now()
	r := begin(t, "demo", "-listen", taken.Addr().String())
	first := r.finds(`http://\S+`)[0] // the first URL that is printed
	_, wanted, _ := net.SplitHostPort(taken.Addr().String())
	_, got, _ := net.SplitHostPort(strings.TrimSuffix(strings.TrimPrefix(first, "http://"), "/"))
	w, _ := strconv.Atoi(wanted)
	if g, err := strconv.Atoi(got); err != nil || g <= w || g > w+20 {
		t.Errorf("the page is at %s, and %s was taken", first, wanted)
	}
	if took := time.Since(begun); took > time.Second {
		t.Errorf("it takes %s to start", took)
	}
	r.finds(`(?i)simulated|SDKs`)
	code, page := get(t, first)
	if code != 200 || !strings.Contains(page, "<html") || !regexp.MustCompile(`(?i)simulated`).MatchString(page) {
		t.Errorf("the page is %d %.300s", code, page)
	}
	const ask = `{"model":"claude-sonnet-4-6","max_tokens":100,"messages":[{"role":"user","content":"short"}]}`
	for _, key := range []string{"", "sluice-demo"} {
		if code, body := call(t, "POST", first+"v1/messages", ask, "x-api-key", key, "anthropic-version", "2023-06-01"); code != 200 || !strings.Contains(body, "In short") {
			t.Errorf("with the key %q: %d %s", key, code, body)
		}
	}
	if code, _ := call(t, "POST", first+"v1/messages", ask, "x-api-key", "wrong"); code != 401 {
		t.Errorf("with a wrong key: %d", code)
	}
	// No page of another origin gets its hands on it.
	if code, _ := call(t, "POST", first+"v1/messages", ask, "origin", "https://evil.example", "sec-fetch-site", "cross-site"); code != 403 {
		t.Errorf("from another origin: %d", code)
	}
	if code, body := call(t, "POST", first+"v1/streams", ask, "prefer", "respond-async"); code != 202 {
		t.Errorf("without a browser: %d %s", code, body)
	}
	r.ends(0)
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("it leaves %v behind, %v", left, err)
	}
}

// hangUp sends this process, and so each command that runs in it, a SIGHUP. Tests that do so are not parallel.
func hangUp(t testing.TB) {
	t.Helper()
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = self.Signal(syscall.SIGHUP)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestHangupReadsTheConfigurationAgain(t *testing.T) {
	goOn := make(chan struct{})
	upstream := httptest.NewServer(simulator.Script{
		Body:   []byte("event: message_start\ndata: {\"type\":\"message_start\",\"message\":{}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"),
		Chunks: simulator.PerEvent,
		Between: func(ctx context.Context, _ int) {
			select {
			case <-goOn:
			case <-ctx.Done():
			}
		}})
	defer upstream.Close()
	at := "server: {listen: \"127.0.0.1:0\", admin_listen: \"127.0.0.1:0\"}\nupstream: {base_url: \"" + upstream.URL + "\"}\n"
	path := file(t, at+"auth: {keys: [{id: alice, key: sk-alice}]}\n")
	r := begin(t, "-config", path)
	m := r.finds(`callers=(\S+) operators=(\S+)`)
	url, metrics := "http://"+m[1], "http://"+m[2]+"/metrics"
	rewrite := func(text string) {
		if err := os.WriteFile(path, []byte(at+text), 0o600); err != nil {
			t.Fatal(err)
		}
		hangUp(t)
	}
	stream := make(chan string, 1)
	go func() {
		_, body := call(t, "POST", url+"/v1/messages", `{"model":"claude-sonnet-4-6","max_tokens":9,"stream":true,"messages":[]}`, "x-api-key", "sk-alice")
		stream <- body
	}()
	for series := ""; !strings.Contains(series, "sluice_viewers_active 1\n"); {
		_, series = get(t, metrics)
	}
	rewrite("auth:\n  keys: [{id: bob, key: sk-bob}]\n")
	r.finds(`level=INFO msg="the configuration was reloaded" keys=1`)
	rewrite("auth:\n  keys: [{id: carol, key: sk-carol, plan: gold}]\n")
	r.finds(`level=ERROR .* problem=".*config\.yaml:4:37: auth\.keys\[0\]\.plan: names a plan that does not exist`)
	r.finds(`level=ERROR .*nothing has changed`)
	for key, want := range map[string]int{"sk-alice": 401, "sk-bob": 200, "sk-carol": 401} {
		if code, body := get(t, url+"/v1/streams", "x-api-key", key); code != want {
			t.Errorf("%s: %d %s", key, code, body)
		}
	}
	if _, series := get(t, metrics); !strings.Contains(series, "sluice_config_last_reload_successful 0\n") {
		t.Error("the metrics do not say that the configuration was refused")
	}
	close(goOn)
	if body := <-stream; !strings.Contains(body, "message_stop") {
		t.Errorf("the stream was dropped: %q", body)
	}
	r.ends(0)
}

func TestHangupChangesNothingInADemo(t *testing.T) {
	r := begin(t, "demo", "-listen", "127.0.0.1:0")
	page := r.finds(`http://\S+`)[0]
	r.finds("listening")
	hangUp(t)
	r.finds("SIGHUP changes nothing")
	if code, _ := get(t, page); code != 200 {
		t.Errorf("after it the page is %d", code)
	}
	r.ends(0)
}

// gone is a terminal that was closed.
type gone struct{}

func (gone) Write([]byte) (int, error) { return 0, syscall.EIO }

func TestDemoEndsWithItsTerminal(t *testing.T) {
	read, write := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- cli.Main([]string{"demo", "-listen", "127.0.0.1:0"}, cli.Environment{Stdout: write, Stderr: gone{}, Context: t.Context()})
		write.Close()
	}()
	in := bufio.NewScanner(read)
	for in.Scan() && !strings.Contains(in.Text(), "Ctrl-C") {
	}
	go io.Copy(io.Discard, read)
	hangUp(t)
	select {
	case got := <-code:
		if got != 0 {
			t.Errorf("exit code %d", got)
		}
	case <-time.After(patience):
		t.Fatal("the demo goes on")
	}
}
