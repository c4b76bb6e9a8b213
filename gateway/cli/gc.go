package cli

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// Memory is collected when it has grown by heapGrowth percent, but not before it has grown by heapHeadroom bytes.
//
// A stream allocates when it opens and hardly after, so what an earlier crowd of streams left would wait for a long time
// at the default of 100 %: with 8,000 open streams thrice in a row, memory per stream was 56, 60 and 69 kB at 100, and
// 52, 56 and 56 kB at 40. A small heap, though, would be collected many times a second while streams come and go: with
// the headroom, 8,000 streams of 20 events opened and ended within seconds took 5 to 20 % less CPU in alternating rounds.
const (
	heapGrowth   = 40
	heapHeadroom = 32 << 20
)

// tuneGC sets that, unless the operator has chosen.
func tuneGC(env Environment) {
	if _, chosen := env.Getenv("GOGC"); !chosen {
		(&collection{}).over()
	}
}

// collection is found dead by each collection, and waits for the next.
type collection struct{ percent int }

func (c *collection) over() {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}
	metrics.Read(samples)
	live := uint64(1 << 20) // before the first collection nothing is known
	for _, s := range samples {
		live += s.Value.Uint64()
	}
	percent := max(heapGrowth, int(heapHeadroom*100/live))
	if 10*percent < 9*c.percent || 10*percent > 11*c.percent { // setting it stops the world for some microseconds
		c.percent = percent
		debug.SetGCPercent(percent)
	}
	runtime.SetFinalizer(c, (*collection).over)
}
