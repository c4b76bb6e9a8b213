package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"
)

// rig is what runs during a comparison: an upstream and the relays before it, each a process of its own on the loopback.
type rig struct {
	dir      string // of configurations, certificates and logs
	self     string // this program
	sluice   string // the binary that is measured
	upstream *process
	base     *url.URL // the upstream's
	ca       string   // its certificate's file; empty without TLS
}

// relay is one that is measured.
type relay struct {
	*process
	name  string
	url   string
	admin string // where Sluice tells its metrics
}

// key is the caller's, in sluice.yaml.
const key = "bench-key-0123456789abcdef"

// readyWithin is how long a process may take to answer.
const readyWithin = 15 * time.Second

var (
	//go:embed sluice.yaml
	sluiceConfig []byte
	//go:embed nginx.conf
	nginxConfig string
	//go:embed nchan.conf
	nchanConfig string
)

// openRig starts the upstream. What it has started ends with close, or with the context.
func openRig(ctx context.Context, sluice string, tls bool) (*rig, error) {
	r := &rig{}
	var err error
	if r.self, err = os.Executable(); err != nil {
		return nil, err
	}
	if r.sluice, err = filepath.Abs(sluice); err != nil {
		return nil, err
	}
	address, err := freeAddresses(1)
	if err != nil {
		return nil, err
	}
	if r.dir, err = os.MkdirTemp("", "sluice-bench-"); err != nil {
		return nil, err
	}
	r.base = &url.URL{Scheme: "http", Host: address[0]}
	args := []string{"upstream", "-listen", r.base.Host}
	if tls {
		r.base.Scheme, r.ca = "https", filepath.Join(r.dir, "ca.pem")
		args = append(args, "-tls", r.ca)
	}
	if r.upstream, err = r.start(ctx, "upstream", nil, answers(r.base.Host), r.self, args...); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *rig) close() {
	if r.upstream != nil {
		r.upstream.end()
	}
	os.RemoveAll(r.dir)
}

// open starts a relay before the upstream.
func (r *rig) open(ctx context.Context, name string) (*relay, error) {
	free, err := freeAddresses(2)
	if err != nil {
		return nil, err
	}
	address, admin := free[0], free[1]
	o := &relay{name: name, url: "http://" + address}
	switch name {
	case "sluice":
		o.admin = "http://" + admin
		file := filepath.Join(r.dir, "sluice.yaml")
		if err := os.WriteFile(file, sluiceConfig, 0o644); err != nil {
			return nil, err
		}
		env := []string{"BENCH_LISTEN=" + address, "BENCH_ADMIN=" + admin, "BENCH_UPSTREAM=" + r.base.String(), "BENCH_CA=" + r.ca}
		o.process, err = r.start(ctx, name, env, says200(o.admin+"/readyz"), r.sluice, "-config", file)
	case "proxy":
		o.process, err = r.start(ctx, name, nil, answers(address), r.self, "proxy", "-listen", address, "-to", r.base.String(), "-ca", r.ca)
	case "nginx":
		o.process, err = r.nginx(ctx, name, nginxConfig, address)
	case "nchan":
		o.process, err = r.nginx(ctx, name, nchanConfig, address)
	default:
		err = fmt.Errorf("no relay has the name %q", name)
	}
	if err != nil {
		return nil, err
	}
	return o, nil
}

// args are what drive needs beyond a task's own. A turn's name is its channel's.
func (o *relay) args(turn string) []string {
	args := []string{"-label", o.name, "-url", o.url, "-pid", strconv.Itoa(o.pid)}
	if o.name == "nchan" {
		return append(args, "-mode", "subscribe", "-path", "/sub/"+turn, "-publish", o.url+"/pub/"+turn)
	}
	return append(args, "-key", key)
}

// merged is how many events Sluice says that it has merged for viewers that were behind; of others, 0.
func (o *relay) merged(ctx context.Context) (float64, error) {
	if o.admin == "" {
		return 0, nil
	}
	text, err := get(ctx, o.admin+"/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, "sluice_viewer_coalesced_events_total "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, errors.New("sluice's metrics don't count merged events")
}

// nginx starts one with a configuration.
func (r *rig) nginx(ctx context.Context, name, config, address string) (*process, error) {
	t, err := template.New(name).Parse(config)
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	err = t.Execute(&text, map[string]any{"Dir": r.dir, "Listen": address, "Upstream": r.base})
	if err != nil {
		return nil, err
	}
	file := filepath.Join(r.dir, name+".conf")
	if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
		return nil, err
	}
	return r.start(ctx, name, nil, answers(address), "nginx", "-e", filepath.Join(r.dir, name+".log"), "-c", file)
}

// process is one that this program has started, and ends.
type process struct {
	pid  int
	stop context.CancelFunc
	over chan struct{} // closed when it has ended
}

// start runs a command until end, or until the context is done, and waits until it is ready. Its output goes to a file of its
// name.
func (r *rig) start(ctx context.Context, name string, env []string, ready func(context.Context) bool, command string, args ...string) (*process, error) {
	output, err := os.Create(filepath.Join(r.dir, name+".out"))
	if err != nil {
		return nil, err
	}
	defer output.Close()
	ctx, stop := context.WithCancel(ctx)
	c := exec.CommandContext(ctx, command, args...)
	c.Dir, c.Env, c.Stdout, c.Stderr = r.dir, append(os.Environ(), env...), output, output
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = 5 * time.Second // then it is killed
	if err := c.Start(); err != nil {
		stop()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	p := &process{c.Process.Pid, stop, make(chan struct{})}
	go func() { c.Wait(); close(p.over) }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(readyWithin)
	for !ready(ctx) {
		var why string
		select {
		case <-tick.C:
			continue
		case <-ctx.Done():
			why = ctx.Err().Error()
		case <-p.over:
			why = "it has ended"
		case <-late:
			why = fmt.Sprintf("not ready within %v", readyWithin)
		}
		p.end()
		said, _ := os.ReadFile(output.Name())
		return nil, fmt.Errorf("%s: %s: %s", name, why, strings.TrimSpace(string(said)))
	}
	return p, nil
}

func (p *process) end() {
	p.stop()
	<-p.over
}

// answers tells whether somebody listens there.
func answers(address string) func(context.Context) bool {
	return func(ctx context.Context) bool {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address)
		if err != nil {
			return false
		}
		c.Close()
		return true
	}
}

// says200 tells whether a GET is answered so.
func says200(url string) func(context.Context) bool {
	return func(ctx context.Context) bool {
		_, err := get(ctx, url)
		return err == nil
	}
}

// freeAddresses are some on the loopback where nobody listens.
func freeAddresses(n int) (addresses []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		addresses = append(addresses, l.Addr().String())
	}
	return addresses, nil
}

// get reads an answer of 200.
func get(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, response.Status)
	}
	return string(text), err
}
