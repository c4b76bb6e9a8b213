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
	"slices"
	"strconv"
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
	Comparison string `json:"comparison"` // rounds of one are measured side by side
	Round      int    `json:"round"`
	Work       string `json:"work"`
	Task       string `json:"task"`
	TLS        bool   `json:"tls"` // the upstream's
	figures
}

func compareMain(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("compare", flag.ContinueOnError)
	sluice := flags.String("sluice", "./sluice", "the binary to measure")
	rounds := flags.Int("rounds", 5, "how often each is measured")
	tls := flags.Bool("tls", false, "the upstream speaks TLS (HTTP/2 and 1.1), as Claude does")
	only := flags.String("work", strings.Join(workNames(), ","), "what to measure")
	without := flags.String("without", "", "relays to leave out: nginx, proxy")
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

// measure does one work in rounds, and tells whether Sluice did it without a failure.
func (c *comparison) measure(ctx context.Context, w work) (clean bool, err error) {
	relays := map[string]*relay{}
	for _, name := range w.relays() {
		if slices.Contains(c.without, name) {
			continue
		}
		if relays[name], err = c.open(ctx, name); err != nil {
			return false, err
		}
		defer relays[name].end()
	}
	type turn struct {
		task  task
		relay *relay
	}
	var turns []turn
	for _, t := range w.tasks {
		for _, name := range t.relays {
			if relays[name] != nil {
				turns = append(turns, turn{t, relays[name]})
			}
		}
	}
	clean = true
	for round := range c.rounds {
		first := round % len(turns) // each goes first in its turn
		for _, turn := range slices.Concat(turns[first:], turns[:first]) {
			f, err := c.drive(ctx, turn.task, turn.relay)
			if err != nil {
				return false, err
			}
			clean = clean && (f.verdict() == nil || turn.relay.name != "sluice")
			fmt.Printf("%-12s %d/%d %-7s %s\n", turn.task.name, round+1, c.rounds, turn.relay.name, f)
			if err := json.NewEncoder(c.out).Encode(result{c.started, round + 1, w.name, turn.task.name, c.ca != "", *f}); err != nil {
				return false, err
			}
		}
	}
	return clean, nil
}

// drive has a driver of its own do a task with a relay.
func (c *comparison) drive(ctx context.Context, t task, o *relay) (*figures, error) {
	// It ends by itself within its limit; the further time is for its sums.
	ctx, cancel := context.WithTimeout(ctx, c.limit+30*time.Second)
	defer cancel()
	args := slices.Concat([]string{"drive", "-label", o.name, "-url", o.url, "-pid", strconv.Itoa(o.pid), "-key", key, "-limit", c.limit.String()}, t.args)
	command := exec.CommandContext(ctx, c.self, args...)
	var said bytes.Buffer
	command.Stderr = &said
	line, failure := command.Output()
	f := new(figures)
	if err := json.Unmarshal(line, f); err != nil { // where figures are there, they tell the failure
		return nil, fmt.Errorf("%s with %s: %w: %s", t.name, o.name, errors.Join(failure, ctx.Err()), said.String())
	}
	return f, nil
}

func (f *figures) String() string {
	s := fmt.Sprintf("%6.1f µs/event, delay p50 %.2f p99 %.2f ms, %.1f MB (%.1f kB/stream)", f.CPUPerEvent, f.DelayP50us/1e3, f.DelayP99us/1e3, f.RSSPeakMB, f.RSSPeakMB*1024/float64(f.Streams))
	if err := f.verdict(); err != nil {
		s += "; " + err.Error()
	}
	return s
}
