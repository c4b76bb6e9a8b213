package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// What a process and its descendants use is read from /proc. No process, or no /proc: 0.

// cpuSeconds is the CPU time of all threads that are there, to the nanosecond.
func cpuSeconds(pid int) float64 {
	var ns float64
	for _, p := range family(pid) {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p))
		for _, t := range tasks {
			text, err := os.ReadFile(t)
			if err != nil {
				continue
			}
			first, _, _ := strings.Cut(string(text), " ")
			v, _ := strconv.ParseFloat(first, 64)
			ns += v
		}
	}
	return ns / 1e9
}

// rssMB is resident memory, in MiB.
func rssMB(pid int) float64 {
	var kb float64
	for _, p := range family(pid) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				v, _ := strconv.ParseFloat(strings.Fields(value)[0], 64)
				kb += v
			}
		}
	}
	return kb / 1024
}

// family is the process and its descendants.
func family(pid int) []int {
	if pid == 0 {
		return nil
	}
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // the name before may hold anything
		child, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		parent, _ := strconv.Atoi(fields[1])
		children[parent] = append(children[parent], child)
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// memoryWatch looks at a process's memory several times a second.
type memoryWatch struct {
	stop chan struct{}
	most chan float64
}

func watchMemory(pid int) *memoryWatch {
	w := &memoryWatch{make(chan struct{}), make(chan float64, 1)}
	go func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		most := rssMB(pid)
		for {
			select {
			case <-tick.C:
				most = max(most, rssMB(pid))
			case <-w.stop:
				w.most <- most
				return
			}
		}
	}()
	return w
}

// peak ends the watch and returns the most that was seen, in MiB.
func (w *memoryWatch) peak() float64 {
	close(w.stop)
	return <-w.most
}
