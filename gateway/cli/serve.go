package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"time"

	"sluice/gateway"
	"sluice/gateway/auth"
	"sluice/gateway/limits"
	"sluice/gateway/simulator"
)

const defaultConfig = "config.yaml"

func serve(env Environment, args []string) int {
	fs := flags(env, "serve")
	path := fs.String("config", defaultConfig, "the configuration `file`")
	if _, code, ok := parse(env, fs, args, 0); !ok {
		return code
	}
	hangups := make(chan os.Signal, 1) // from here on none ends the process; several at once are one
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	cfg, ok := load(env, *path)
	if !ok {
		return exitUsage
	}
	log := logger(env, cfg.Log)
	g, err := gateway.New(cfg, gateway.Options{Version: Version(), Log: log})
	if err != nil {
		fmt.Fprintln(env.Stderr, "sluice:", err)
		return exitUsage
	}
	tuneGC(env)
	defer onSignal(hangups, func() { g.ReloadFile(*path, env.Getenv) })()
	if err := g.Run(env.Context); err != nil {
		fmt.Fprintln(env.Stderr, "sluice:", err)
		return exitFailed
	}
	return exitOK
}

// onSignal does something at each signal, one after the other, until it is stopped.
func onSignal(signals <-chan os.Signal, do func()) (stop func()) {
	over := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		for {
			select {
			case <-signals:
				do()
			case <-over:
				return
			}
		}
	})
	return func() {
		close(over)
		done.Wait()
	}
}

func check(env Environment, args []string) int {
	fs := flags(env, "check")
	path := fs.String("config", defaultConfig, "the configuration `file`")
	if _, code, ok := parse(env, fs, args, 0); !ok {
		return code
	}
	cfg, ok := load(env, *path)
	if !ok {
		return exitUsage
	}
	fmt.Fprintf(env.Stdout, "%s is good.\n\n%s", *path, cfg.Describe())
	return exitOK
}

// keyID is what the configuration takes as a key's id.
var keyID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

func key(env Environment, args []string) int {
	fs := flags(env, "key")
	id := fs.String("id", "alice", "the caller's `name` in the configuration, in logs and in metrics of use")
	if _, code, ok := parse(env, fs, args, 0); !ok {
		return code
	}
	if !keyID.MatchString(*id) {
		fmt.Fprintf(env.Stderr, "sluice: -id %q: should be 1 to 64 of A-Z, a-z, 0-9, dot, dash and underscore\n", *id)
		return exitUsage
	}
	plain, hashed := auth.GenerateKey()
	fmt.Fprintf(env.Stdout, "The key, for its owner; it is shown only now:\n\n  %s\n\nThe line for auth.keys in the configuration:\n\n  - {id: %s, key: %q}\n", plain, *id, hashed)
	return exitOK
}

// demoKey is for SDKs that insist on a key. The page needs none.
const demoKey = "sluice-demo"

// demoBatchTime lets a Message Batch be seen while it is processed, and end while somebody still looks.
const demoBatchTime = 20 * time.Second

// portsTried is how many ports after the wanted one the demo looks at.
const portsTried = 50

func demo(env Environment, args []string) int {
	fs := flags(env, "demo")
	listen := fs.String("listen", "127.0.0.1:8080", "the page's `address`; where it is taken, the next port")
	if _, code, ok := parse(env, fs, args, 0); !ok {
		return code
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	claude, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(env.Stderr, "sluice:", err)
		return exitFailed
	}
	upstream := &http.Server{Handler: simulator.New(simulator.Options{Pace: simulator.Human, BatchTime: demoBatchTime}), ReadHeaderTimeout: 10 * time.Second}
	go upstream.Serve(claude)
	defer upstream.Close()

	received, err := newReceiver()
	if err != nil {
		fmt.Fprintln(env.Stderr, "sluice:", err)
		return exitFailed
	}
	defer received.Close()

	kept, err := os.MkdirTemp("", "sluice-demo-")
	if err != nil {
		fmt.Fprintln(env.Stderr, "sluice:", err)
		return exitFailed
	}
	defer os.RemoveAll(kept)

	cfg := gateway.Defaults()
	cfg.Store.Dir = kept // a demo leaves nothing behind
	cfg.Upstream.BaseURL = "http://" + claude.Addr().String()
	cfg.Upstream.APIKey = "simulated"
	cfg.Plans = map[string]limits.Plan{"default": {ConcurrentStreams: 1000}}
	cfg.Auth.Keys = []gateway.Key{{ID: "demo", Key: demoKey, Plan: "default"}}
	cfg.Callbacks.AllowHosts = []string{received.address()}
	cfg.Server.Drain = 2 * time.Second // nobody waits for a demo
	g, err := demoGateway(env, cfg, *listen, received)
	if err != nil {
		fmt.Fprintln(env.Stderr, "sluice:", err)
		return exitFailed
	}
	received.serve("http://" + g.Addr().String())
	welcome(env.Stdout, g, received)
	ctx, stop := context.WithCancel(env.Context)
	defer stop()
	defer onSignal(hangups, func() {
		// A terminal that closes says the same, and takes no word any more: then the demo is over.
		if _, err := fmt.Fprintln(env.Stderr, "SIGHUP changes nothing: a demo has no configuration. Ctrl-C ends it."); err != nil {
			stop()
		}
	})()
	if err := g.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(env.Stderr, "sluice:", err)
		return exitFailed
	}
	return exitOK
}

// demoGateway listens on the wanted port, or the first free one after it; the operator's port is the first free one after
// that.
func demoGateway(env Environment, cfg gateway.Config, listen string, received *receiver) (g *gateway.Gateway, err error) {
	host, service, err := net.SplitHostPort(listen)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(service)
	if err != nil {
		return nil, fmt.Errorf("%q: the port should be a number", listen)
	}
	if cfg.Server.Listen, port, err = freePort(host, port); err != nil {
		return nil, err
	}
	if cfg.Server.AdminListen, _, err = freePort("127.0.0.1", port+1); err != nil {
		return nil, err
	}
	options := gateway.Options{Version: Version(), Log: logger(env, cfg.Log), Demo: true, Receiver: received.url(), Received: received.list()}
	if g, err = gateway.New(cfg, options); err != nil {
		return nil, err
	}
	if err = g.Listen(); err != nil {
		g.Close()
	}
	return g, err
}

// freePort is the first address from port on that nobody listens on. Port 0 is any.
func freePort(host string, port int) (address string, free int, err error) {
	for p := port; ; p++ {
		address = net.JoinHostPort(host, strconv.Itoa(p))
		l, err := net.Listen("tcp", address)
		if err == nil {
			free = l.Addr().(*net.TCPAddr).Port
			l.Close()
			return net.JoinHostPort(host, strconv.Itoa(free)), free, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) || p >= port+portsTried {
			return "", 0, err
		}
	}
}

func welcome(w io.Writer, g *gateway.Gateway, r *receiver) {
	fmt.Fprintf(w, `Sluice demo. Answers are simulated; nothing leaves this machine.

  Page      http://%[1]s/
  SDKs      base URL http://%[1]s, API key %[2]s
  Metrics   http://%[3]s/metrics
  Callbacks %[4]s takes those of the demo and checks their signatures

Ctrl-C ends it.

`, g.Addr(), demoKey, g.AdminAddr(), r.url())
}

func health(env Environment, args []string) int {
	fs := flags(env, "health")
	path := fs.String("config", defaultConfig, "the configuration `file` that says where the gateway listens; where there is none, the default")
	if _, code, ok := parse(env, fs, args, 0); !ok {
		return code
	}
	address := gateway.Defaults().Server.AdminListen
	if cfg, _, err := gateway.LoadConfig(*path, env.Getenv); err == nil {
		address = cfg.Server.AdminListen
	}
	if host, port, err := net.SplitHostPort(address); err == nil && (host == "" || net.ParseIP(host).IsUnspecified()) {
		address = net.JoinHostPort("127.0.0.1", port)
	}
	ctx, cancel := context.WithTimeout(env.Context, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/healthz", nil)
	if err == nil {
		var resp *http.Response
		if resp, err = http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				fmt.Fprintln(env.Stdout, "ok")
				return exitOK
			}
			err = fmt.Errorf("%s answered %s", address, resp.Status)
		}
	}
	fmt.Fprintln(env.Stderr, "sluice:", err)
	return exitFailed
}
