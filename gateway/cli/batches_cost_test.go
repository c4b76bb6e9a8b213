package cli_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	batchesWatched = flag.Int("batches.watched", 1000, "how many unfinished batches the gateway watches while its CPU time is measured")
	batchesFor     = flag.Duration("batches.for", 3*time.Second, "for how long")
	batchResults   = flag.Int64("batches.results", 10_000_000, "bytes of a batch's results that are read through the gateway")
)

// BenchmarkWatchingBatches measures the real binary, restarted on a store with many unfinished batches, with the real
// schedule, against an upstream over TLS whose batches do not end: those that were just made, about which a gateway with
// few would ask every few seconds, and those that are half a day old. Watching goes on all day beside what the gateway is
// there for; 10,000 (-batches.watched 10000 -batches.for 2m) took 0.7 % of a core.
func BenchmarkWatchingBatches(b *testing.B) {
	binary := build(b)
	for _, c := range []struct {
		name string
		age  time.Duration
	}{{"just made", 0}, {"half a day old", 12 * time.Hour}} {
		b.Run(c.name, func(b *testing.B) {
			u := &endlessBatches{age: c.age}
			upstream := httptest.NewUnstartedServer(u)
			upstream.EnableHTTP2 = true
			upstream.StartTLS()
			defer upstream.Close()
			ca := filepath.Join(b.TempDir(), "ca.pem")
			if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: upstream.Certificate().Raw}), 0o600); err != nil {
				b.Fatal(err)
			}
			k := startBefore(b, binary, upstream.URL, ca)
			k.makeBatches(*batchesWatched)
			k.kill()
			k.start("")
			u.asked.Store(0)
			begun, before := time.Now(), k.cpuTime()
			for b.Loop() {
				<-time.After(*batchesFor)
			}
			took := time.Since(begun)
			b.ReportMetric(100*(k.cpuTime()-before).Seconds()/took.Seconds(), "%core")
			b.ReportMetric(float64(u.asked.Load())/took.Seconds(), "questions/s")
			b.ReportMetric(float64(k.resident()>>20), "MB")
		})
	}
}

// BenchmarkBatchResults reads a batch's results through the real binary: as the API gives them, and as events. It reports
// the gateway's largest memory, which does not grow with them: with 1 GB (-batches.results 1000000000) it was 45 MB.
func BenchmarkBatchResults(b *testing.B) {
	binary := build(b)
	for _, c := range []struct{ name, path string }{{"as they are", "/results"}, {"as events", "/events?results=1"}} {
		b.Run(c.name, func(b *testing.B) {
			upstream := httptest.NewServer(manyResults(*batchResults))
			defer upstream.Close()
			k := startBefore(b, binary, upstream.URL, "")
			k.makeBatches(1)
			b.SetBytes(*batchResults)
			for b.Loop() {
				req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, k.url+batchesPath+"/msgbatch_1"+c.path, nil)
				if err != nil {
					b.Fatal(err)
				}
				req.Header.Set("X-Api-Key", killKey)
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					b.Fatal(err)
				}
				n, err := io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusOK || n < *batchResults {
					b.Fatalf("%s, %d bytes, %v", resp.Status, n, err)
				}
			}
			b.ReportMetric(float64(k.peak()>>20), "MB")
		})
	}
}

// startBefore starts the gateway before an upstream, whose certificate is in the file ca, if it has one.
func startBefore(b *testing.B, binary, upstream, ca string) *killing {
	b.Helper()
	k := &killing{t: b, binary: binary, url: "http://" + quietPort(b)}
	k.config = file(b, fmt.Sprintf("server: {listen: %q, admin_listen: \"127.0.0.1:0\"}\nupstream: {base_url: %q, ca_file: %q}\nauth: {keys: [{id: a, key: %s}]}\nplans: {default: {}}\n",
		strings.TrimPrefix(k.url, "http://"), upstream, ca, killKey))
	b.Cleanup(k.kill)
	k.start("")
	return k
}

// manyResults is an upstream whose batches have ended, with about as many bytes of results.
type manyResults int64

func (size manyResults) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/results") {
		text := strings.Repeat("word ", 400)
		for n := 0; n < int(size); {
			line, err := fmt.Fprintf(w, `{"custom_id":"a-%d","result":{"type":"succeeded","message":{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":%q}],"stop_reason":"end_turn","usage":{"input_tokens":3,"output_tokens":5}}}}`+"\n", n, text)
			if err != nil {
				return
			}
			n += line
		}
		return
	}
	io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprint(w, messageBatch("msgbatch_1", "ended", time.Now()))
}

// endlessBatches is an upstream whose batches do not end.
type endlessBatches struct {
	age         time.Duration // of a batch when it is made
	made, asked atomic.Int64
	created     sync.Map // times, by id
}

func (u *endlessBatches) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id, created := strings.TrimPrefix(r.URL.Path, batchesPath+"/"), time.Now().Add(-u.age)
	if r.Method == http.MethodPost {
		io.Copy(io.Discard, r.Body) // as an upstream does that makes a batch of it
		id = fmt.Sprintf("msgbatch_%d", u.made.Add(1))
		u.created.Store(id, created)
	} else {
		u.asked.Add(1)
		if at, ok := u.created.Load(id); ok {
			created = at.(time.Time)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprint(w, messageBatch(id, "in_progress", created))
}

// makeBatches makes many at once.
func (k *killing) makeBatches(n int) {
	k.t.Helper()
	const atOnce = 16
	ctx, cancel := context.WithTimeout(k.t.Context(), 2*time.Minute)
	defer cancel()
	var left atomic.Int64
	left.Store(int64(n))
	var makers sync.WaitGroup
	for range atOnce {
		makers.Go(func() {
			for left.Add(-1) >= 0 {
				var made batchObject
				if err := k.ask(ctx, batchesPath, batchOf("a"), &made); err != nil {
					k.t.Error(err)
					return
				}
			}
		})
	}
	makers.Wait()
	if k.t.Failed() {
		k.t.FailNow()
	}
}

// cpuTime is what the gateway has used.
func (k *killing) cpuTime() time.Duration {
	k.t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", k.cmd.Process.Pid))
	if err != nil {
		k.t.Skip(err) // no Linux
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // from the third on; proc(5)
	const tick = time.Second / 100                                            // USER_HZ, the same on all machines that Go knows
	var sum time.Duration
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			k.t.Fatal(err)
		}
		sum += time.Duration(n) * tick
	}
	return sum
}

// peak is the largest memory that the gateway has had, in bytes.
func (k *killing) peak() int64 {
	k.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", k.cmd.Process.Pid))
	if err != nil {
		k.t.Skip(err) // no Linux
	}
	for line := range strings.Lines(string(status)) {
		var kB int64
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kB); err == nil {
			return kB << 10
		}
	}
	k.t.Fatal("the system does not say")
	return 0
}

// resident is the gateway's memory, in bytes.
func (k *killing) resident() int64 {
	k.t.Helper()
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", k.cmd.Process.Pid))
	if err != nil {
		k.t.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(statm))[1], 10, 64)
	if err != nil {
		k.t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}
