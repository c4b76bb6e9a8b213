package cli_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// buildWithFailpoints builds the command, which can then be told to stop at a step.
func buildWithFailpoints(t *testing.T) string { return build(t, "-tags", "failpoints") }

// build builds the command.
func build(t testing.TB, flags ...string) string {
	t.Helper()
	compiler, err := exec.LookPath("go")
	if err != nil {
		if os.Getenv("SLUICE_FORBID_SKIP") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	binary := filepath.Join(t.TempDir(), "sluice")
	if text, err := exec.Command(compiler, slices.Concat([]string{"build"}, flags, []string{"-o", binary, "sluice"})...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return binary
}

// killing is a gateway that is killed and started again, on one store and one port, between a scripted upstream and a
// receiver of callbacks.
type killing struct {
	t            testing.TB
	binary, step string
	config, url  string
	upstream     *killUpstream
	receiver     *killReceiver
	callbacks    string      // the receiver's URL
	reached      chan string // steps that the upstream, the receiver or the gateway has come to
	closing      chan struct{}
	cmd          *exec.Cmd
	streams      map[string]string // the texts, by id
}

const killKey = "sk-killed"

func newKilling(t *testing.T, binary, step string) *killing {
	k := &killing{t: t, binary: binary, step: step, reached: make(chan string, 10), streams: map[string]string{}, closing: make(chan struct{})}
	k.upstream, k.receiver = &killUpstream{k: k, asked: map[string]int{}}, newKillReceiver(k)
	upstream, receiver := httptest.NewServer(k.upstream), httptest.NewServer(k.receiver)
	k.callbacks = receiver.URL + "/"
	t.Cleanup(func() {
		close(k.closing)
		upstream.Close()
		receiver.Close()
	})
	address := quietPort(t)
	k.url = "http://" + address
	k.config = file(t, fmt.Sprintf("server: {listen: %q, admin_listen: \"127.0.0.1:0\"}\nupstream: {base_url: %q}\nauth: {keys: [{id: a, key: %s}]}\nplans: {default: {}}\ncallbacks: {allow_hosts: [%q]}\n",
		address, upstream.URL, killKey, receiver.Listener.Addr()))
	t.Cleanup(k.kill)
	k.start("")
	var shown struct{ Secret string }
	if _, body := k.get("/v1/callbacks/secret"); json.Unmarshal([]byte(body), &shown) != nil {
		t.Fatal(body)
	}
	k.receiver.trusts(shown.Secret)
	k.kill()
	return k
}

// quietPort is a free port that no outgoing connection will be given meanwhile, as those from 32768 on are.
func quietPort(t testing.TB) string {
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(12_000))
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
}

// start starts the gateway, which stops at the step named, if any.
func (k *killing) start(stopAt string) {
	k.t.Helper()
	k.cmd = exec.Command(k.binary, "-config", k.config)
	k.cmd.Env = append(os.Environ(), "ANTHROPIC_API_KEY=sk-up", "SLUICE_STOP_AT="+stopAt)
	stderr, err := k.cmd.StderrPipe()
	if err == nil {
		err = k.cmd.Start()
	}
	if err != nil {
		k.t.Fatal(err)
	}
	listening, over := make(chan struct{}), make(chan string, 1)
	go func() {
		var said strings.Builder
		defer func() { over <- said.String() }()
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			said.WriteString(lines.Text() + "\n")
			if strings.Contains(lines.Text(), "msg=listening") {
				close(listening)
			}
			if at, ok := strings.CutPrefix(lines.Text(), "stopped at "); ok {
				k.reached <- at
			}
			if strings.Contains(lines.Text(), "defect") || strings.Contains(lines.Text(), "level=ERROR") {
				k.t.Error(lines.Text())
			}
		}
	}()
	select {
	case <-listening:
	case said := <-over:
		k.t.Fatalf("the gateway does not start: %s", said)
	}
}

func (k *killing) kill() {
	if k.cmd != nil {
		k.cmd.Process.Kill()
		k.cmd.Wait()
		k.cmd = nil
	}
}

// isNew reports whether a prompt is one that nothing is to happen to.
func isNew(prompt string) bool { return strings.HasSuffix(prompt, "-new") }

// stay keeps whoever was asked from answering.
func (k *killing) stay(r *http.Request, step string) {
	k.reached <- step
	select {
	case <-r.Context().Done():
	case <-k.closing:
	}
}

func (k *killing) reaches(ctx context.Context) {
	k.t.Helper()
	select {
	case at := <-k.reached:
		if at != k.step {
			k.t.Fatalf("came to %s, not %s", at, k.step)
		}
	case <-ctx.Done():
		k.t.Fatalf("the gateway does not come to %s", k.step)
	}
}

// ask posts, and reads the answer into what is given, if there is one and it is good.
func (k *killing) ask(ctx context.Context, path, body string, into any, headers ...string) error {
	req, err := http.NewRequestWithContext(ctx, "POST", k.url+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("X-Api-Key", killKey)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode > 299 {
		return fmt.Errorf("status %s", resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

func (k *killing) get(path string) (int, string) {
	k.t.Helper()
	return get(k.t, k.url+path, "x-api-key", killKey)
}

// isSettled waits until no callback is pending.
func (k *killing) isSettled(ctx context.Context) {
	k.t.Helper()
	var page struct{ Data []struct{ Status string } }
	for {
		_, body := k.get("/v1/callbacks?status=pending")
		if err := json.Unmarshal([]byte(body), &page); err != nil {
			k.t.Fatal(body)
		}
		if len(page.Data) == 0 {
			return
		}
		wait := time.NewTimer(10 * time.Millisecond)
		select {
		case <-wait.C:
		case <-ctx.Done():
			k.t.Fatalf("callbacks that stay: %s", body)
		}
	}
}
