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
			k := &killing{t: b, binary: binary, url: "http://" + quietPort(b)}
			k.config = file(b, fmt.Sprintf("server: {listen: %q, admin_listen: \"127.0.0.1:0\"}\nupstream: {base_url: %q, ca_file: %q}\nauth: {keys: [{id: a, key: %s}]}\nplans: {default: {}}\n",
				strings.TrimPrefix(k.url, "http://"), upstream.URL, ca, killKey))
			b.Cleanup(k.kill)
			k.start("")
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
