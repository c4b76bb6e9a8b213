package relay

import (
	"bytes"
	"errors"
	"slices"
	"strconv"
	"time"

	"sluice/gateway/claude"
)

// MaxLog bounds one stream's frames. The longest answers (128,000 tokens) are below 1 MB of text; results of tools can
// be many times that (web searches of 40 kB have been recorded). It is also what one stream can take from all others' memory.
const MaxLog = 32_000_000

var errLogFull = errors.New("the event log is full")

// A segment is allocated once and never moved, so that what a viewer was given stays valid while the log grows. The
// first fits a short answer, the following double up to the last size, at which waste is a fifth of a percent of
// MaxLog.
const (
	firstSegment = 2 << 10
	lastSegment  = 64 << 10
)

// eventLog is a stream's events as the frames that viewers are sent. It is a pure structure: the stream's lock guards
// appending and taking a view; a view is read without any.
type eventLog struct {
	prefix   string // of ids: empty in a stream's first attempt, "a." in attempt a
	entries  []entry
	segments [][]byte
	used     int   // bytes of the last segment
	frames   int64 // bytes of all frames
	memory   int64 // bytes allocated
}

// entry is where one frame lies.
type entry struct {
	segment, offset, size uint32
	data                  uint32 // where the data begins in the frame
	kind                  claude.Kind
	folded                bool  // the data has line feeds, and so several data: lines
	at                    int64 // when it was read, in Unix nanoseconds
}

const entrySize = 32

// append renders the next event and returns by how much the log's memory has grown. An error event always finds room,
// also beyond MaxLog: each log must have its end.
func (l *eventLog) append(kind claude.Kind, name, data []byte, at time.Time) (grown int64, err error) {
	id := len(l.entries) + 1
	size := len("id: \nevent: \ndata: \n\n") + len(l.prefix) + digits(id) + len(name) + len(data)
	if len(name) == 0 {
		size -= len("event: \n")
	}
	folds := bytes.Count(data, []byte("\n"))
	size += folds * len("data: ")
	if l.frames+int64(size) > MaxLog && kind != claude.Failure {
		return 0, errLogFull
	}
	before := l.memory
	b, start := appendFrame(l.room(size), l.prefix, id, name, data, folds > 0)
	if n := len(l.entries); n == cap(l.entries) {
		l.entries = slices.Grow(l.entries, max(n, 8))
		l.memory += int64(cap(l.entries)-n) * entrySize
	}
	l.entries = append(l.entries, entry{
		segment: uint32(len(l.segments) - 1), offset: uint32(l.used), size: uint32(len(b)), data: uint32(start),
		kind: kind, folded: folds > 0, at: at.UnixNano(),
	})
	l.used += len(b)
	l.frames += int64(len(b))
	return l.memory - before, nil
}

// appendFrame appends an event as viewers are sent it, and returns where in it the data begins.
func appendFrame(b []byte, prefix string, id int, name, data []byte, folded bool) (_ []byte, start int) {
	b = append(append(b, "id: "...), prefix...)
	b = strconv.AppendInt(b, int64(id), 10)
	if len(name) > 0 {
		b = append(append(b, "\nevent: "...), name...)
	}
	b = append(b, "\ndata: "...)
	start = len(b)
	if folded {
		data = bytes.ReplaceAll(data, []byte("\n"), []byte("\ndata: "))
	}
	return append(append(b, data...), "\n\n"...), start
}

// room returns an empty slice with room for size bytes at the end of the last segment, or of a new one.
func (l *eventLog) room(size int) []byte {
	n := len(l.segments)
	if n == 0 || l.used+size > len(l.segments[n-1]) {
		next := firstSegment
		if n > 0 {
			next = min(2*len(l.segments[n-1]), lastSegment)
		}
		l.segments = append(l.segments, make([]byte, max(next, size)))
		l.memory += int64(max(next, size))
		l.used = 0
		n++
	}
	return l.segments[n-1][l.used : l.used : l.used+size]
}

func digits(n int) int {
	d := 1
	for ; n >= 10; n /= 10 {
		d++
	}
	return d
}

// view is the log as it was at one moment. Its frames don't change.
type view struct {
	prefix   string
	entries  []entry
	segments [][]byte
}

func (l *eventLog) view() view {
	return view{l.prefix, l.entries[:len(l.entries):len(l.entries)], l.segments[:len(l.segments):len(l.segments)]}
}

func (v view) frame(i int) []byte {
	e := v.entries[i]
	return v.segments[e.segment][e.offset : e.offset+e.size]
}

// data is what the upstream sent between the quotes of SSE: the data lines joined again.
func (v view) data(i int) []byte {
	e := v.entries[i]
	d := v.segments[e.segment][e.offset+e.data : e.offset+e.size-2]
	if e.folded {
		d = bytes.ReplaceAll(d, []byte("\ndata: "), []byte("\n"))
	}
	return d
}

// id is the id of the i-th event, counted from 0.
func (v view) id(b []byte, i int) []byte {
	return strconv.AppendInt(append(b, v.prefix...), int64(i+1), 10)
}

// maxRun bounds what is handed out at once where nothing is merged.
const maxRun = 64 << 10

// maxMerged bounds one merged frame: what each of a thousand readers that come back at once may hold of a copy. Most
// answers fit in one.
const maxMerged = 256 << 10

// run returns the frames from i on that lie side by side, as one slice, and how many they are. There must be one.
func (v view) run(i int) (frames []byte, n int) {
	first := v.entries[i]
	size := first.size
	for n = 1; i+n < len(v.entries); n++ {
		e := v.entries[i+n]
		if e.segment != first.segment || size+e.size > maxRun {
			break
		}
		size += e.size
	}
	return v.segments[first.segment][first.offset : first.offset+size], n
}

// pending is how many bytes of frames lie past i.
func (v view) pending(i, enough int) int {
	n := 0
	for ; i < len(v.entries) && n < enough; i++ {
		n += int(v.entries[i].size)
	}
	return n
}

// merged returns the frames from i on, neighbouring deltas of one block as one frame under the last one's id, how many
// events they are, and how many of those were merged. It appends to pieces; frames that it makes are built in scratch,
// which it returns grown.
func (v view) merged(i int, pieces [][]byte, scratch []byte) (_ [][]byte, _ []byte, events, coalesced int) {
	size := 0
	d, mergeable := v.delta(i)
	for i+events < len(v.entries) && size < maxRun {
		at := i + events
		first, start := d, len(scratch)
		n := 1
		next, ok := v.delta(at + 1)
		if mergeable && ok && first.Merges(next) {
			// The frame's id is its last event's, which is known only at the end of the run.
			last := at + 1
			for length := len(first.Value) + len(next.Value); length < maxMerged; last++ {
				if next, ok = v.delta(last + 1); !ok || !first.Merges(next) {
					break
				}
				length += len(next.Value)
			}
			n = last - at + 1
			scratch = append(v.id(append(scratch, "id: "...), last), "\nevent: content_block_delta\ndata: "...)
			scratch = first.Open(scratch)
			for j := at; j <= last; j++ {
				part, _ := v.delta(j)
				scratch = append(scratch, part.Value...)
			}
			scratch = append(append(scratch, claude.Close...), "\n\n"...)
			pieces = append(pieces, scratch[start:len(scratch):len(scratch)])
			coalesced += n
			next, ok = v.delta(last + 1)
		} else {
			pieces = append(pieces, v.frame(at))
		}
		size += len(pieces[len(pieces)-1])
		events += n
		d, mergeable = next, ok
	}
	return pieces, scratch, events, coalesced
}

// delta is the i-th event, if there is one and it can be merged with its neighbours.
func (v view) delta(i int) (claude.Delta, bool) {
	if i >= len(v.entries) {
		return claude.Delta{}, false
	}
	if e := v.entries[i]; e.kind != claude.BlockDelta || e.folded {
		return claude.Delta{}, false
	}
	return claude.ParseDelta(v.data(i))
}
