package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

func reportMain(_ context.Context, args []string) error {
	flags := flag.NewFlagSet("report", flag.ContinueOnError)
	svg := flags.String("svg", "", "file for a plot of the cost as work grows")
	if err := parse(flags, args, 1); err != nil {
		return err
	}
	file, err := os.Open(flags.Arg(0))
	if err != nil {
		return err
	}
	defer file.Close()
	all, err := readResults(file)
	if err != nil {
		return fmt.Errorf("%s: %w", file.Name(), err)
	}
	all.report(os.Stdout)
	if *svg == "" {
		return nil
	}
	return os.WriteFile(*svg, []byte(all.plot()), 0o644)
}

// relayNames are the columns, as readers know them.
var relayNames = []struct{ name, title string }{{"nginx", "nginx"}, {"proxy", "ReverseProxy"}, {"nchan", "nchan"}, {"sluice", "Sluice"}}

// figure is one that a table shows.
type figure struct {
	title  string
	of     measure
	digits int
}

// sideBySide is what the works say of each relay.
var sideBySide = []struct {
	task, title, peer string // the ratio is to the peer
	figures           []figure
}{
	{"relay", "1,000 streams × 20 events/s", "nginx", []figure{{"CPU, µs an event", cpuPerEvent, 1}, {"delay p50, ms", delayP50, 2}, {"delay p99, ms", delayP99, 1}}},
	{"hold", "8,000 open streams", "nginx", []figure{{"memory, KB a stream", memoryEach, 1}}},
	{"flat", "100 streams as fast as they go", "nginx", []figure{{"events a CPU second", perCPUSecond, 0}, {"delay p50, ms", delayP50, 1}}},
	{"open-1000/s", "1,000 short streams a second", "nginx", []figure{{"CPU, µs a stream", cpuPerStream, 0}}},
	{"open", "short streams, 100 at once", "nginx", []figure{{"CPU, µs a stream", cpuPerStream, 0}, {"streams a second", streamsPerS, 0}}},
	{"viewers", "1 stream × 1,000 viewers × 20/s", "nchan", []figure{{"CPU, µs a delivered event", cpuPerEvent, 1}, {"delay p50, ms", delayP50, 1}, {"delay p99, ms", delayP99, 1}}},
}

// report writes the tables of whatever was measured, as Markdown.
func (all *results) report(w io.Writer) {
	all.reportSideBySide(w)
	all.reportSlow(w)
	all.reportStorm(w)
	all.reportGrowth(w)
	all.reportFanOut(w)
	all.reportFailures(w)
	all.reportSetting(w)
}

func (all *results) reportSideBySide(w io.Writer) {
	t := table{head: []string{"work", "upstream", ""}}
	for _, r := range relayNames {
		t.head = append(t.head, r.title)
	}
	t.head = append(t.head, "Sluice by nginx, nchan")
	for _, row := range sideBySide {
		for _, tls := range []bool{true, false} {
			for _, f := range row.figures {
				s := series{row.task, tls, "sluice"}
				if _, measured := all.median(s, f.of); !measured {
					continue
				}
				cells := []string{row.title, upstreamName(tls), f.title}
				for _, r := range relayNames {
					cells = append(cells, number(f.digits)(all.median(s.with(r.name), f.of)))
				}
				t.add(append(cells, "**"+number(2)(all.ratio(s, s.with(row.peer), f.of))+"**")...)
			}
		}
	}
	t.write(w, "Side by side")
}

func (all *results) reportSlow(w io.Writer) {
	t := table{head: []string{"1 stream × 1,000 viewers × 20/s", "p99 of those in pace, ms", "ratio", "CPU, µs a delivered event", "events merged"}}
	none := series{"slow-0", false, "sluice"}
	for _, row := range []struct{ task, title string }{{"slow-0", "all in pace"}, {"slow-10", "100 read slowly"}} {
		s := series{row.task, false, "sluice"}
		if _, measured := all.median(s, delayP99); measured {
			t.add(row.title, number(1)(all.median(s, delayP99)), number(2)(all.ratio(s, none, delayP99)),
				number(1)(all.median(s, cpuPerEvent)), number(0)(all.median(s, mergedEvents)))
		}
	}
	t.write(w, "Slow readers")
}

func (all *results) reportStorm(w io.Writer) {
	t := table{head: []string{"5,000 viewers, dropped at once, back at once", "all have caught up, s", "CPU, s", "peak memory, MB", "failed"}}
	for _, row := range []struct{ task, title string }{{"storm-1", "of one stream"}, {"storm-50", "of 50 streams"}} {
		s := series{row.task, false, "sluice"}
		if _, measured := all.median(s, stormSeconds); measured {
			t.add(row.title, number(2)(all.median(s, stormSeconds)), number(2)(all.median(s, stormCPU)),
				number(0)(all.median(s, memory)), number(0)(all.count(s, failures), true))
		}
	}
	t.write(w, "Everybody reconnects")
}

// growth are the sizes of the work of that name, and fanOut of that.
var (
	growth = []int{100, 1000, 4000, 8000}
	fanOut = []int{10, 100, 1000, 5000}
)

func (all *results) reportGrowth(w io.Writer) {
	t := table{head: []string{"open streams", "upstream", "events a second", "CPU, µs an event: nginx", "Sluice", "p99, ms: nginx", "Sluice", "memory, MB: nginx", "Sluice"}}
	for _, tls := range []bool{true, false} {
		for _, n := range growth {
			s := series{fmt.Sprint("growth-", n), tls, "sluice"}
			if _, measured := all.median(s, cpuPerEvent); !measured {
				continue
			}
			cells := []string{thousands(float64(n), 0), upstreamName(tls), map[int]string{100: "2,000"}[n]}
			if cells[2] == "" {
				cells[2] = "20,000"
			}
			for _, f := range []figure{{"", cpuPerEvent, 1}, {"", delayP99, 1}, {"", memory, 0}} {
				cells = append(cells, number(f.digits)(all.median(s.with("nginx"), f.of)), number(f.digits)(all.median(s, f.of)))
			}
			t.add(cells...)
		}
	}
	t.write(w, "As streams grow")
}

func (all *results) reportFanOut(w io.Writer) {
	t := table{head: []string{"viewers of one stream", "events a second", "CPU, µs a delivered event: nchan", "Sluice", "p99, ms: nchan", "Sluice", "memory, MB: nchan", "Sluice"}}
	for _, n := range fanOut {
		s := series{fmt.Sprint("fanout-", n), false, "sluice"}
		if _, measured := all.median(s, cpuPerEvent); !measured {
			continue
		}
		cells := []string{thousands(float64(n), 0), thousands(min(20*float64(n), 20_000), 0)}
		for _, f := range []figure{{"", cpuPerEvent, 1}, {"", delayP99, 1}, {"", memory, 0}} {
			cells = append(cells, number(f.digits)(all.median(s.with("nchan"), f.of)), number(f.digits)(all.median(s, f.of)))
		}
		t.add(cells...)
	}
	t.write(w, "As viewers grow")
}

// reportFailures says what each relay did not bring to its end.
func (all *results) reportFailures(w io.Writer) {
	for _, relay := range relayNames {
		var failed, lost, of, came float64
		for i := range all.lines {
			if r := &all.lines[i]; r.Label == relay.name {
				failed, lost, of, came = failed+failures(r), lost+lostRepeated(r), of+streams(r), came+reconnects(r)
			}
		}
		if of > 0 {
			fmt.Fprintf(w, "%s: of %s streams and viewers %s failed; %s events were lost or repeated, over %s reconnects.\n",
				relay.title, thousands(of, 0), thousands(failed, 0), thousands(lost, 0), thousands(came, 0))
		}
	}
}

func (all *results) reportSetting(w io.Writer) {
	if len(all.settings) == 0 {
		return
	}
	s := all.settings[len(all.settings)-1]
	rounds := map[series]int{}
	fewest := 0
	for i := range all.lines {
		rounds[series{all.lines[i].Task, all.lines[i].TLS, all.lines[i].Label}]++
	}
	for _, n := range rounds {
		if fewest == 0 || n < fewest {
			fewest = n
		}
	}
	fmt.Fprintf(w, "\nMedians of %d rounds or more; %d × %s, Linux %s, %s, %s, %s; %s.\n",
		fewest, s.CPUs, s.CPU, s.Kernel, s.Nginx, s.Go, s.Sluice, s.Comparison[:min(10, len(s.Comparison))])
}

func upstreamName(tls bool) string {
	if tls {
		return "TLS"
	}
	return "plain"
}

// number writes one with so many digits after the point, or a dash where there is none.
func number(digits int) func(v float64, ok bool) string {
	return func(v float64, ok bool) string {
		if !ok {
			return "–"
		}
		return thousands(v, digits)
	}
}

// thousands writes a number with commas.
func thousands(v float64, digits int) string {
	whole, fraction, _ := strings.Cut(strconv.FormatFloat(v, 'f', digits, 64), ".")
	for i := len(whole) - 3; i > 0 && whole[i-1] != '-'; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if fraction != "" {
		whole += "." + fraction
	}
	return whole
}

// table is one in Markdown. Cells that repeat the row above, and columns without a value, are left out.
type table struct {
	head []string
	rows [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) write(w io.Writer, title string) {
	if len(t.rows) == 0 {
		return
	}
	fmt.Fprintf(w, "### %s\n\n", title)
	var columns []int
	for i := range t.head {
		if slices.ContainsFunc(t.rows, func(row []string) bool { return row[i] != "–" }) {
			columns = append(columns, i)
		}
	}
	line := func(cell func(i int) string) {
		for _, i := range columns {
			fmt.Fprintf(w, "| %s ", cell(i))
		}
		fmt.Fprintln(w, "|")
	}
	line(func(i int) string { return t.head[i] })
	line(func(i int) string {
		if _, err := strconv.ParseFloat(strings.NewReplacer(",", "", "*", "", "–", "0").Replace(t.rows[0][i]), 64); err == nil {
			return "--:"
		}
		return "---"
	})
	for n, row := range t.rows {
		line(func(i int) string {
			if n > 0 && i < 2 && row[0] == t.rows[n-1][0] && row[i] == t.rows[n-1][i] {
				return ""
			}
			return row[i]
		})
	}
	fmt.Fprintln(w)
}
