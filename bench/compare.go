package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// comparison is one run of the command.
type comparison struct {
	*rig
	started string // names it in the results
	rounds  int
	limit   time.Duration
	without []string // relays that do not take part
	out     io.Writer
}

// result is a line of the results: the figures of one task with one relay.
type result struct {
	Comparison string  `json:"comparison"` // rounds of one are measured side by side
	Round      int     `json:"round"`
	Work       string  `json:"work"`
	Task       string  `json:"task"`
	TLS        bool    `json:"tls"`           // the upstream's
	Merged     float64 `json:"merged_events"` // by Sluice, for viewers that were behind
	figures
}

// setting is the first line of a comparison: what was measured where.
type setting struct {
	Comparison string `json:"comparison"`
	Sluice     string `json:"sluice"`
	Nginx      string `json:"nginx"`
	Go         string `json:"go"` // of the proxy, the driver and the upstream
	CPU        string `json:"cpu"`
	CPUs       int    `json:"cpus"`
	Kernel     string `json:"kernel"`
}

func compareMain(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("compare", flag.ContinueOnError)
	sluice := flags.String("sluice", "./sluice", "the binary to measure")
	rounds := flags.Int("rounds", 5, "how often each is measured")
	tls := flags.Bool("tls", false, "the upstream speaks TLS (HTTP/2 and 1.1), as Claude does")
	only := flags.String("work", strings.Join(workNames(), ","), "what to measure")
	without := flags.String("without", "", "relays to leave out: nginx, nchan, proxy")
	out := flags.String("out", "results.jsonl", "file to which results are appended")
	limit := flags.Duration("limit", 2*time.Minute, "what is not over after this time has failed")
	if err := parse(flags, args, 0); err != nil {
		return err
	}
	chosen := strings.Split(*only, ",")
	for _, name := range chosen {
		if !slices.Contains(workNames(), name) {
			return fmt.Errorf("-work: %q is none of %s", name, strings.Join(workNames(), ", "))
		}
	}
	file, err := os.OpenFile(*out, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	r, err := openRig(ctx, *sluice, *tls)
	if err != nil {
		return err
	}
	defer r.close()
	c := &comparison{rig: r, started: time.Now().UTC().Format(time.RFC3339), rounds: *rounds, limit: *limit, without: strings.Split(*without, ","), out: file}
	if err := c.write(c.setting(ctx)); err != nil {
		return err
	}
	failed := false
	for _, w := range works {
		if slices.Contains(chosen, w.name) {
			clean, err := c.measure(ctx, w)
			if err != nil {
				return err
			}
			failed = failed || !clean
		}
	}
	if failed {
		return errors.New("sluice has lost something, or failed; see above")
	}
	return nil
}

func (c *comparison) write(line any) error { return json.NewEncoder(c.out).Encode(line) }

// turn is one relay's at a task.
type turn struct {
	task  *task
	relay *relay
}

// measure does one work in rounds, and tells whether Sluice did it without a failure.
func (c *comparison) measure(ctx context.Context, w work) (clean bool, err error) {
	relays := map[string]*relay{}
	for _, name := range w.relays() {
		if slices.Contains(c.without, name) {
			continue
		}
		o, err := c.open(ctx, name)
		if err != nil {
			return false, fmt.Errorf("%w (-without %s compares with the others)", err, name)
		}
		defer o.end()
		relays[name] = o
	}
	var turns []turn
	for i := range w.tasks {
		for _, name := range w.tasks[i].relays {
			if relays[name] != nil {
				turns = append(turns, turn{&w.tasks[i], relays[name]})
			}
		}
	}
	clean = true
	for round := range c.rounds {
		first := round % len(turns) // each goes first in its turn
		for i, t := range slices.Concat(turns[first:], turns[:first]) {
			r, err := c.drive(ctx, t, fmt.Sprintf("r%dt%d", round, i))
			if err != nil {
				return false, err
			}
			r.Comparison, r.Round, r.Work, r.Task, r.TLS = c.started, round+1, w.name, t.task.name, c.ca != ""
			clean = clean && (r.verdict() == nil || t.relay.name != "sluice")
			fmt.Printf("%-12s %d/%d %-7s %v\n", t.task.name, round+1, c.rounds, t.relay.name, r)
			if err := c.write(r); err != nil {
				return false, err
			}
		}
	}
	return clean, nil
}

// drive has a driver of its own do a task with a relay.
func (c *comparison) drive(ctx context.Context, t turn, name string) (*result, error) {
	// It ends by itself within its limit; the further time is for its sums.
	ctx, cancel := context.WithTimeout(ctx, c.limit+30*time.Second)
	defer cancel()
	before, err := t.relay.merged(ctx)
	if err != nil {
		return nil, err
	}
	command := exec.CommandContext(ctx, c.self, slices.Concat([]string{"drive", "-limit", c.limit.String()}, t.task.args, t.relay.args(name))...)
	var said bytes.Buffer
	command.Stderr = &said
	line, failure := command.Output()
	r := new(result)
	if err := json.Unmarshal(line, r); err != nil { // where figures are there, they tell the failure
		return nil, fmt.Errorf("%s with %s: %w: %s", t.task.name, t.relay.name, errors.Join(failure, ctx.Err()), said.String())
	}
	after, err := t.relay.merged(ctx)
	r.Merged = after - before
	return r, err
}

// setting asks the machine; what it doesn't know stays empty.
func (c *comparison) setting(ctx context.Context) setting {
	s := setting{Comparison: c.started, Go: runtime.Version(), CPUs: runtime.NumCPU()}
	version, _ := exec.CommandContext(ctx, c.sluice, "version").Output()
	s.Sluice = strings.TrimSpace(string(version))
	nginx, _ := exec.CommandContext(ctx, "nginx", "-v").CombinedOutput()
	s.Nginx = strings.TrimSpace(strings.TrimPrefix(string(nginx), "nginx version: "))
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	s.Kernel = strings.TrimSpace(string(kernel))
	cpu, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(cpu)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			s.CPU = strings.TrimSpace(value)
			break
		}
	}
	return s
}

func (r *result) String() string {
	f := &r.figures
	s := fmt.Sprintf("%.1f µs/event, %.0f µs/stream, delay p50 %.2f p99 %.2f ms, %.1f MB (%.1f kB/stream), %.0f streams/s", f.CPUPerEvent, f.CPUPerStream(), f.DelayP50us/1e3, f.DelayP99us/1e3, f.RSSPeakMB, f.RSSPerStream(), f.StreamsPerS())
	if f.StormS > 0 {
		s += fmt.Sprintf(", all back in %.2f s with %.2f s of CPU", f.StormS, f.StormCPUs)
	}
	if r.Merged > 0 {
		s += fmt.Sprintf(", %.0f events merged", r.Merged)
	}
	if err := f.verdict(); err != nil {
		s += "; " + err.Error()
	}
	return s
}
