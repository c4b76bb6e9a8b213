package relay

import (
	"runtime"
	"slices"
)

// readyLocked gives each viewer that waits its turn: it is woken, or left to the stream's reader, which then must call
// push.
func (s *Stream) readyLocked() {
	for _, v := range s.viewers {
		switch {
		case v.turn != turnWaiting:
		case v.push != nil:
			v.turn = turnReader
			s.pushing = append(s.pushing, v)
			s.pacing = s.pacing || !v.exact
		default:
			s.wakeLocked(v)
		}
	}
}

// pushViewers is up to how many viewers a stream's reader writes to itself: it may read for other streams, too. What
// more there are is written to by other goroutines, one a core and none for less than a few: waking each viewer's own
// took 1.4 times the CPU with a thousand viewers, and a p99 of 25 ms for 16.
const pushViewers = 4

// pushSize is how much the reader pushes at once of what one read of the upstream brings: with a write for each event,
// 100 streams that came as fast as they could took two and a half times the CPU. It is well below paceWindow: who has taken all
// there was is not behind, and gets each event as it is. Whoever gets each in any case is
// pushed more: as much as the kernel is let to keep for a reader.
const (
	pushSize      = paceWindow / 2
	exactPushSize = 16 << 10
)

func (s *Stream) pushSize() int {
	if s.pacing {
		return pushSize
	}
	return exactPushSize
}

// push writes what came to the viewers whose turn the reader has taken.
func (s *Stream) push() {
	s.unpushed, s.pacing = 0, false
	if len(s.pushing) == 0 {
		return
	}
	if len(s.pushing) <= pushViewers {
		for _, v := range s.pushing {
			v.pushed()
		}
		s.pushing = s.pushing[:0]
		return
	}
	crowd := slices.Clone(s.pushing)
	s.pushing = s.pushing[:0]
	parts := min(runtime.GOMAXPROCS(0), (len(crowd)+pushViewers-1)/pushViewers)
	for part := range slices.Chunk(crowd, (len(crowd)+parts-1)/parts) {
		go func() {
			defer s.failOnPanic(&part)
			for _, v := range part {
				v.pushed()
			}
		}()
	}
}

// wakeLocked gives a viewer that waits its turn, and tells it.
func (s *Stream) wakeLocked(v *Viewer) {
	if v.turn != turnWaiting {
		return
	}
	v.turn = turnOwn
	if v.onWake != nil {
		go v.onWake()
		return
	}
	select {
	case v.wake <- struct{}{}:
	default: // one is there already
	}
}
