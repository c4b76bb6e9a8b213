package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
)

// results are what comparisons have written.
type results struct {
	settings []setting
	lines    []result
}

func readResults(r io.Reader) (*results, error) {
	all := new(results)
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		var line struct {
			Task string `json:"task"`
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		var err error
		if line.Task == "" {
			all.settings = append(all.settings, setting{})
			err = json.Unmarshal(lines.Bytes(), &all.settings[len(all.settings)-1])
		} else {
			all.lines = append(all.lines, result{})
			err = json.Unmarshal(lines.Bytes(), &all.lines[len(all.lines)-1])
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	return all, lines.Err()
}

// series are the rounds of one task with one relay.
type series struct {
	task  string
	tls   bool
	relay string
}

func (s series) of(r *result) bool { return r.Task == s.task && r.TLS == s.tls && r.Label == s.relay }

// with is the same task of another relay.
func (s series) with(relay string) series {
	s.relay = relay
	return s
}

// measure reads one figure.
type measure func(*result) float64

// median of all rounds; false where there is none.
func (all *results) median(s series, m measure) (float64, bool) {
	var values []float64
	for i := range all.lines {
		if r := &all.lines[i]; s.of(r) {
			values = append(values, m(r))
		}
	}
	return median(values)
}

// ratio is the median of s by other, each round by itself: what disturbs a round disturbs both.
func (all *results) ratio(s, other series, m measure) (float64, bool) {
	var values []float64
	for i := range all.lines {
		r := &all.lines[i]
		if !s.of(r) {
			continue
		}
		for j := range all.lines {
			o := &all.lines[j]
			if other.of(o) && o.Comparison == r.Comparison && o.Round == r.Round && m(o) != 0 {
				values = append(values, m(r)/m(o))
			}
		}
	}
	return median(values)
}

// count sums a figure over all rounds.
func (all *results) count(s series, m measure) (sum float64) {
	for i := range all.lines {
		if s.of(&all.lines[i]) {
			sum += m(&all.lines[i])
		}
	}
	return sum
}

func median(values []float64) (float64, bool) {
	if len(values) == 0 {
		return 0, false
	}
	slices.Sort(values)
	half := len(values) / 2
	if len(values)%2 == 1 {
		return values[half], true
	}
	return (values[half-1] + values[half]) / 2, true
}

// The figures that are published.
var (
	cpuPerEvent  measure = func(r *result) float64 { return r.CPUPerEvent }
	cpuPerStream measure = func(r *result) float64 { return r.CPUPerStream() }
	perCPUSecond measure = func(r *result) float64 { return float64(r.Events) / r.CPUs }
	delayP50     measure = func(r *result) float64 { return r.DelayP50us / 1e3 } // in milliseconds
	delayP99     measure = func(r *result) float64 { return r.DelayP99us / 1e3 }
	memory       measure = func(r *result) float64 { return r.RSSPeakMB }
	memoryEach   measure = func(r *result) float64 { return r.RSSPerStream() }
	streamsPerS  measure = func(r *result) float64 { return r.StreamsPerS() }
	mergedEvents measure = func(r *result) float64 { return r.Merged }
	stormSeconds measure = func(r *result) float64 { return r.StormS }
	stormCPU     measure = func(r *result) float64 { return r.StormCPUs }
	streams      measure = func(r *result) float64 { return float64(r.Streams) }
	failures     measure = func(r *result) float64 { return float64(r.Failed) }
	lostRepeated measure = func(r *result) float64 { return float64(r.Lost + r.Duplicated) }
	reconnects   measure = func(r *result) float64 { return float64(r.Reconnects) }
)
