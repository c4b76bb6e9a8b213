package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// A comparison starts this program again, for its upstream, its proxy and its drivers; the test's binary can be it, and a
// gateway, too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && commands[os.Args[1]] != nil {
		main()
	}
	if len(os.Args) > 1 && os.Args[1] == "-config" {
		passOn()
	}
	goleak.VerifyTestMain(m)
}

// passOn is a gateway as a comparison starts it: one that merges an event with each request, or doesn't start.
func passOn() {
	if os.Getenv("BENCH_TEST_BROKEN") != "" {
		fmt.Println("this one is broken")
		os.Exit(3)
	}
	to, err := url.Parse(os.Getenv("BENCH_UPSTREAM"))
	if err != nil {
		panic(err)
	}
	var merged atomic.Int64
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { merged.Add(1); r.SetURL(to) }, FlushInterval: -1}
	go http.ListenAndServe(os.Getenv("BENCH_LISTEN"), proxy)
	http.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "# TYPE sluice_viewer_coalesced_events_total counter\nsluice_viewer_coalesced_events_total %d\n", merged.Load())
	})
	panic(http.ListenAndServe(os.Getenv("BENCH_ADMIN"), nil))
}

// small is a work that takes no time.
var small = work{"small", []task{{"small", []string{"proxy", "sluice"}, []string{"-n", "3", "-ramp", "0", "-model", "bench-e5-i0-f50"}}}}

func openComparison(t *testing.T, ctx context.Context) (c *comparison, out *bytes.Buffer) {
	t.Helper()
	t.Setenv("GORACE", "atexit_sleep_ms=0") // else each process would take a second to end
	r, err := openRig(ctx, os.Args[0], false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	out = new(bytes.Buffer)
	return &comparison{rig: r, started: "now", rounds: 2, limit: time.Minute, out: out}, out
}

func TestRelaysTakeTurnsInGoingFirst(t *testing.T) {
	c, out := openComparison(t, t.Context())
	clean, err := c.measure(t.Context(), small)
	if err != nil || !clean {
		t.Fatalf("clean: %v, %v", clean, err)
	}
	all, err := readResults(out)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range all.lines {
		got = append(got, fmt.Sprintf("%s %d %s %d %v", r.Comparison, r.Round, r.Label, r.Events, r.Merged))
	}
	want := []string{"now 1 proxy 15 0", "now 1 sluice 15 3", "now 2 sluice 15 3", "now 2 proxy 15 0"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestComparisonLeavesNothingBehind(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c, _ := openComparison(t, ctx)
	o, err := c.open(ctx, "sluice")
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS == "linux" && (cpuSeconds(o.pid) == 0 || rssMB(o.pid) == 0) {
		t.Errorf("a process that runs has used %v s and %v MB", cpuSeconds(o.pid), rssMB(o.pid))
	}
	o.end()
	gone(t, o.pid)
	cancel() // as by a signal
	<-c.upstream.over
	gone(t, c.upstream.pid)
	c.close()
	if _, err := os.Stat(c.dir); !os.IsNotExist(err) {
		t.Errorf("the directory is still there: %v", err)
	}
}

func gone(t *testing.T, pid int) {
	t.Helper()
	p, err := os.FindProcess(pid)
	if err == nil {
		err = p.Signal(syscall.Signal(0))
	}
	if err == nil {
		t.Errorf("process %d is still there", pid)
	}
}

func TestRelayThatDoesNotStartSaysWhy(t *testing.T) {
	c, _ := openComparison(t, t.Context())
	t.Setenv("BENCH_TEST_BROKEN", "1")
	_, err := c.measure(t.Context(), small)
	if err == nil || !strings.Contains(err.Error(), "sluice: it has ended: this one is broken (-without sluice compares with the others)") {
		t.Errorf("%v", err)
	}
	c.without = []string{"sluice"}
	if _, err := c.measure(t.Context(), small); err != nil {
		t.Errorf("without it: %v", err)
	}
}

func TestProxyPassesEventsOn(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(new(upstream).routes())
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	free, err := freeAddresses(1)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- proxyMain(ctx, []string{"-listen", free[0], "-to", server.URL}) }()
	for !answers(free[0])(ctx) {
		runtime.Gosched()
	}
	base := &url.URL{Scheme: "http", Host: free[0]}
	f := drive(ctx, options{base: base, n: 2, mode: "post", path: "/v1/messages", model: "bench-e5-i0-f50", limit: time.Minute})
	if f.verdict() != nil || f.Events != 10 {
		t.Errorf("%d events; %v", f.Events, f.verdict())
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
