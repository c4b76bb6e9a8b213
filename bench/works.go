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

// The works. Each bounds its own time by its streams' shapes.
var works = []work{
	// The hot path: 20,000 events a second.
	{"relay", []task{{"relay", []string{"nginx", "proxy", "sluice"}, []string{"-n", "1000", "-model", "bench-e100-i50-b24", "-ramp", "1s"}}}},
	// Streams that wait: what each costs in memory.
	{"hold", []task{{"hold", []string{"nginx", "proxy", "sluice"}, []string{"-n", "8000", "-model", "bench-e3-i5000-b24", "-ramp", "4s"}}}},
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
