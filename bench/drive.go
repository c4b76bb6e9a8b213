package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// figures is the one line that drive prints. The target is the process whose -pid was given, with its children; delays are
// from the upstream's write to the browser's read, of readers that are not slow and on their first connection.
type figures struct {
	Label        string  `json:"relay"`
	Streams      int     `json:"streams"` // or viewers
	Completed    int64   `json:"completed"`
	Failed       int64   `json:"failed"`
	Events       int64   `json:"events"` // deltas read
	Lost         int64   `json:"lost"`
	Duplicated   int64   `json:"duplicated"`
	Reconnects   int64   `json:"reconnects"`
	WallS        float64 `json:"wall_s"`
	EventsPerS   float64 `json:"events_per_s"`
	FirstP50us   float64 `json:"first_p50_us"` // from the browser's start to its first delta
	FirstP99us   float64 `json:"first_p99_us"`
	DelayP50us   float64 `json:"delay_p50_us"`
	DelayP90us   float64 `json:"delay_p90_us"`
	DelayP99us   float64 `json:"delay_p99_us"`
	DelayP999us  float64 `json:"delay_p999_us"`
	DelayMaxus   float64 `json:"delay_max_us"`
	CPUs         float64 `json:"target_cpu_s"`
	CPUPerEvent  float64 `json:"target_cpu_us_per_event"`
	RSSBeforeMB  float64 `json:"target_rss_before_mb"`
	RSSPeakMB    float64 `json:"target_rss_peak_mb"`
	KBPerStream  float64 `json:"target_kb_per_stream"`  // what the streams added
	StormS       float64 `json:"storm_s,omitempty"`     // from when all may come back until the last has caught up
	StormCPUs    float64 `json:"storm_cpu_s,omitempty"` // the target's, from the drop on
	FirstFailure string  `json:"first_failure,omitempty"`
}

// options are drive's flags.
type options struct {
	base    *url.URL
	key     string
	headers string // further request headers, each ended by CRLF
	model   string
	n       int
	atOnce  int // 0: all
	mode    string
	path    string
	streams int
	publish string
	away    time.Duration // 0: no storm
	drop    int
	slow    int // bytes per second; 0: nobody is slow
	slowPct int
	ramp    time.Duration
	limit   time.Duration
	pid     int
	label   string
}

func driveMain(ctx context.Context, args []string) error {
	o := options{}
	flags := flag.NewFlagSet("drive", flag.ContinueOnError)
	base := flags.String("url", "http://127.0.0.1:8080", "the relay's address")
	flags.StringVar(&o.key, "key", "", "sent as x-api-key (and as a bearer token)")
	flags.StringVar(&o.model, "model", "bench-e100-i50-b24", "the stream's shape")
	flags.IntVar(&o.n, "n", 100, "streams (or viewers)")
	flags.IntVar(&o.atOnce, "at-once", 0, "how many of them are open at once, one after another; 0: all")
	flags.StringVar(&o.mode, "mode", "post", "post: POST /v1/messages · stream: POST /v1/streams, then EventSource · viewers: n EventSources on few streams · subscribe: the same at -path, on a stream that is sent to -publish")
	flags.IntVar(&o.streams, "streams", 1, "mode viewers: the streams that the viewers share")
	flags.StringVar(&o.publish, "publish", "", "mode subscribe: URL where nchan takes events; the driver plays the stream there")
	flags.DurationVar(&o.away, "storm", 0, "mode viewers: drop all when each has had a delta, keep them away so long, let all back at once")
	flags.IntVar(&o.drop, "drop", 0, "mode stream: drop the connection every so many deltas and resume with Last-Event-ID")
	flags.IntVar(&o.slow, "slow", 0, "bytes per second that slow readers read")
	flags.IntVar(&o.slowPct, "slow-pct", 10, "percent of readers that are slow, where -slow is given")
	flags.DurationVar(&o.ramp, "ramp", time.Second, "time over which the streams are opened")
	flags.DurationVar(&o.limit, "limit", 5*time.Minute, "what is not over after this time has failed")
	flags.IntVar(&o.pid, "pid", 0, "process whose CPU and memory are accounted, with its children")
	flags.StringVar(&o.path, "path", "/v1/messages", "mode post: where messages are posted; mode subscribe: where events are read")
	header := flags.String("header", "", "further request headers, 'Name: value' separated by |")
	flags.StringVar(&o.label, "label", "", "name of the relay in the output")
	if err := parse(flags, args, 0); err != nil {
		return err
	}
	var err error
	if o.base, err = url.Parse(*base); err != nil {
		return err
	}
	if o.base.Scheme != "http" || o.base.Port() == "" {
		return fmt.Errorf("-url %s: must be http://host:port", *base)
	}
	if !slices.Contains([]string{"post", "stream", "viewers", "subscribe"}, o.mode) {
		return fmt.Errorf("-mode %q is none of post, stream, viewers and subscribe", o.mode)
	}
	if o.n < 1 || o.streams < 1 || o.atOnce < 0 {
		return errors.New("-n and -streams are at least 1, -at-once at least 0")
	}
	if o.away > 0 && o.mode != "viewers" {
		return errors.New("-storm is for -mode viewers")
	}
	for h := range strings.SplitSeq(*header, "|") {
		if h != "" {
			o.headers += strings.TrimSpace(h) + "\r\n"
		}
	}
	f := drive(ctx, o)
	if err := json.NewEncoder(os.Stdout).Encode(f); err != nil {
		return err
	}
	return f.verdict()
}

// verdict is an error where not every reader got everything once.
func (f *figures) verdict() error {
	if f.Failed == 0 && f.Lost == 0 && f.Duplicated == 0 {
		return nil
	}
	return fmt.Errorf("%s: %d failed, %d events lost, %d repeated; first failure: %s", f.Label, f.Failed, f.Lost, f.Duplicated, f.FirstFailure)
}

// driver plays many browsers.
type driver struct {
	options
	shape  shape
	paths  []string       // modes viewers and subscribe: where the streams are read
	inPace sync.WaitGroup // readers that are not slow
	calm   chan struct{}  // closed once these are through: slow ones then read the rest at full speed
	storm  *storm

	completed, failed, got, lost, repeated, reconnects atomic.Int64

	mu             sync.Mutex
	delays, firsts []int64 // nanoseconds
	failure        string  // the first
}

// drive returns when all browsers have ended, at the latest when the limit or the context is over.
func drive(ctx context.Context, o options) *figures {
	ctx, cancel := context.WithTimeoutCause(ctx, o.limit, fmt.Errorf("not over after %v", o.limit))
	defer cancel()
	d := &driver{options: o, shape: parseShape(o.model), calm: make(chan struct{})}
	f := &figures{Label: o.label, Streams: o.n, RSSBeforeMB: rssMB(o.pid)}
	cpu := cpuSeconds(o.pid)
	memory := watchMemory(o.pid)
	start := time.Now()
	d.play(ctx)
	f.WallS = time.Since(start).Seconds()
	f.CPUs = cpuSeconds(o.pid) - cpu
	f.RSSPeakMB = memory.peak()
	d.sum(f)
	return f
}

func (d *driver) play(ctx context.Context) {
	var all sync.WaitGroup
	switch d.mode {
	case "viewers":
		for range d.streams {
			path, err := d.create(ctx)
			if err != nil {
				d.fail(err)
				return
			}
			d.paths = append(d.paths, path)
		}
	case "subscribe":
		d.paths = []string{d.path}
		all.Go(func() {
			if err := publish(ctx, d.publish, d.model); err != nil {
				d.fail(err)
			}
		})
	}
	if d.away > 0 {
		d.storm = newStorm(ctx, d.n, d.away)
		all.Go(func() { d.storm.run(ctx, d.pid) })
	}
	places := make(chan struct{}, cmp.Or(d.atOnce, d.n))
	for i := range d.n {
		b := &browser{driver: d, slow: d.slow > 0 && i%100 < d.slowPct, survivor: survivor{storm: d.storm}}
		if !b.slow {
			d.inPace.Add(1)
		}
		all.Go(func() {
			if !b.slow {
				defer d.inPace.Done()
			}
			pause(ctx, d.ramp*time.Duration(i)/time.Duration(d.n))
			places <- struct{}{}
			err := b.run(ctx, i)
			<-places
			if err != nil {
				d.fail(err)
				return
			}
			d.completed.Add(1)
		})
	}
	all.Go(func() { d.inPace.Wait(); close(d.calm) })
	all.Wait()
}

func (d *driver) fail(err error) {
	d.failed.Add(1)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failure == "" {
		d.failure = err.Error()
	}
}

func (d *driver) sum(f *figures) {
	f.Completed, f.Failed, f.Events, f.Lost, f.Duplicated, f.Reconnects = d.completed.Load(), d.failed.Load(), d.got.Load(), d.lost.Load(), d.repeated.Load(), d.reconnects.Load()
	f.EventsPerS = float64(f.Events) / f.WallS
	if f.Events > 0 {
		f.CPUPerEvent = f.CPUs * 1e6 / float64(f.Events)
	}
	if f.RSSPeakMB > 0 {
		f.KBPerStream = (f.RSSPeakMB - f.RSSBeforeMB) * 1024 / float64(d.n)
	}
	if d.storm != nil {
		f.StormS, f.StormCPUs = d.storm.seconds, d.storm.cpu
	}
	f.FirstFailure = d.failure
	slices.Sort(d.delays)
	slices.Sort(d.firsts)
	f.FirstP50us, f.FirstP99us = quantile(d.firsts, .5), quantile(d.firsts, .99)
	f.DelayP50us, f.DelayP90us, f.DelayP99us, f.DelayP999us, f.DelayMaxus = quantile(d.delays, .5), quantile(d.delays, .9), quantile(d.delays, .99), quantile(d.delays, .999), quantile(d.delays, 1)
}

// quantile returns that of sorted nanoseconds, in microseconds; 0 of none.
func quantile(sorted []int64, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[min(int(p*float64(len(sorted))), len(sorted)-1)]) / 1e3
}

// CPUPerStream is the target's CPU for a stream, in microseconds.
func (f *figures) CPUPerStream() float64 { return f.CPUs * 1e6 / float64(f.Streams) }

// RSSPerStream is all of the target's memory for a stream, in KiB.
func (f *figures) RSSPerStream() float64 { return f.RSSPeakMB * 1024 / float64(f.Streams) }

// StreamsPerS is how many were started and finished in a second.
func (f *figures) StreamsPerS() float64 { return float64(f.Completed) / f.WallS }
