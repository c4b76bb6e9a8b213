package main

import "slices"

// work is what relays are compared by. Its tasks and their relays take turns in each round, and run from its beginning to its
// end.
type work struct {
	name  string // as -work has it
	tasks []task
}

// task is what drive does with one relay.
type task struct {
	name   string // its own, in the results
	relays []string
	args   []string // of drive
}

var (
	proxies = []string{"nginx", "proxy", "sluice"}
	fanOuts = []string{"nchan", "sluice"}
	pair    = []string{"nginx", "sluice"}
	alone   = []string{"sluice"}
)

// The works. Each bounds its own time by its streams' shapes.
var works = []work{
	// The hot path: 20,000 events a second.
	{"relay", []task{{"relay", proxies, []string{"-n", "1000", "-model", "bench-e100-i50-b24"}}}},
	// Streams that wait: what each costs in memory.
	{"hold", []task{{"hold", proxies, []string{"-n", "8000", "-model", "bench-e3-i5000-b24", "-ramp", "4s"}}}},
	// As fast as the relay reads.
	{"flat", []task{{"flat", proxies, []string{"-n", "100", "-model", "bench-e5000-i0-b24", "-ramp", "0"}}}},
	// Short streams: what it costs to open and close one, at a steady 1,000 a second and one after another.
	{"open", []task{
		{"open-1000/s", proxies, []string{"-n", "4000", "-model", "bench-e20-i0-b24", "-ramp", "4s"}},
		{"open", proxies, []string{"-n", "8000", "-at-once", "100", "-model", "bench-e20-i0-b24", "-ramp", "0"}},
	}},
	// One stream and many who read it.
	{"viewers", []task{{"viewers", fanOuts, []string{"-mode", "viewers", "-n", "1000", "-model", "bench-e100-i50-b24-g3000"}}}},
	// Every reader drops its connection every ten deltas, and misses nothing.
	{"resume", []task{{"resume", alone, []string{"-mode", "stream", "-n", "200", "-model", "bench-e100-i20-b24", "-drop", "10"}}}},
	// A tenth of the viewers reads 1,000 bytes a second of a stream of 6,500, so that what they miss doesn't fit into
	// the kernel's buffers and the relay has to care.
	{"slow", []task{
		{"slow-0", alone, []string{"-mode", "viewers", "-n", "1000", "-model", "bench-e200-i50-b200-g3000"}},
		{"slow-10", alone, []string{"-mode", "viewers", "-n", "1000", "-model", "bench-e200-i50-b200-g3000", "-slow", "1000"}},
	}},
	// A network that fails for a second, or a proxy that restarts: everybody comes back at the same moment.
	{"storm", []task{
		{"storm-1", alone, []string{"-mode", "viewers", "-n", "5000", "-model", "bench-e16-i500-b24-g4000", "-ramp", "3s", "-storm", "1s"}},
		{"storm-50", alone, []string{"-mode", "viewers", "-n", "5000", "-streams", "50", "-model", "bench-e16-i500-b24-g4000", "-ramp", "3s", "-storm", "1s"}},
	}},
	// The cost as work grows. All streams have 100 events, so that opening them has the same part in the CPU per event;
	// from 1,000 streams or viewers on all together get 20,000 events a second, which two cores can carry with the
	// driver's part.
	{"growth", []task{{"growth-100", pair, []string{"-n", "100", "-model", "bench-e100-i50-b24"}}}},
	{"growth", []task{{"growth-1000", pair, []string{"-n", "1000", "-model", "bench-e100-i50-b24"}}}},
	{"growth", []task{{"growth-4000", pair, []string{"-n", "4000", "-model", "bench-e100-i200-b24", "-ramp", "4s"}}}},
	{"growth", []task{{"growth-8000", pair, []string{"-n", "8000", "-model", "bench-e100-i400-b24", "-ramp", "8s"}}}},
	{"fanout", []task{{"fanout-10", fanOuts, []string{"-mode", "viewers", "-n", "10", "-model", "bench-e100-i50-b24-g1000", "-ramp", "500ms"}}}},
	{"fanout", []task{{"fanout-100", fanOuts, []string{"-mode", "viewers", "-n", "100", "-model", "bench-e100-i50-b24-g1000", "-ramp", "500ms"}}}},
	{"fanout", []task{{"fanout-1000", fanOuts, []string{"-mode", "viewers", "-n", "1000", "-model", "bench-e100-i50-b24-g3000"}}}},
	{"fanout", []task{{"fanout-5000", fanOuts, []string{"-mode", "viewers", "-n", "5000", "-model", "bench-e100-i250-b24-g4000", "-ramp", "3s"}}}},
}

// workNames are those that -work takes.
func workNames() (names []string) {
	for _, w := range works {
		if !slices.Contains(names, w.name) {
			names = append(names, w.name)
		}
	}
	return names
}

// relays are those that take part in a work.
func (w *work) relays() (names []string) {
	for _, t := range w.tasks {
		for _, name := range t.relays {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}
