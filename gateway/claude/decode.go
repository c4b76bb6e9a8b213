package claude

import (
	"bytes"
	"strings"
)

// MaxEvent bounds one event. Results of code execution, web fetches and PDFs come as one event of megabytes
// (the longest on record: 43.7 kB); the Go SDK stops at 32 MiB a line. What is held of an unfinished event grows up to
// this, per stream.
const MaxEvent = 16_000_000

// eventOverhead is room for an event's name and line ends beside its data.
const eventOverhead = 1024

// keptRest is what a decoder keeps for the next unfinished event: the beginning of one of text. Most come whole, and a
// stream that waits should hold nothing.
const keptRest = 1 << 10

// byteOrderMark may stand before the first event.
const byteOrderMark = "\xef\xbb\xbf"

// decoder turns bytes, as they arrive, into the events of WHATWG HTML §9.2.6. An event that lies whole in what has
// arrived is not copied; only the beginning of an unfinished one is kept. No byte is looked at more than twice, in
// whatever pieces it comes. What the body's end cuts off is no event, and is never emitted.
type decoder struct {
	rest   []byte // the beginning of a block whose end has not arrived
	line   int    // where in rest the line at hand begins
	seen   int    // up to where rest has no further end of a line
	lf     bool   // the last block ended in a CR: an LF right behind it belongs to it
	began  bool   // a possible byte order mark is behind us
	joined []byte // data that came in several lines
}

// feed emits the events that chunk completes, until emit returns false; then what is left of chunk is dropped. What emit
// is given is valid during its call. errTooLarge means that an event is over its bound.
func (d *decoder) feed(chunk []byte, emit func(name, data []byte) bool) error {
	if !d.began {
		if len(d.rest)+len(chunk) < len(byteOrderMark) || len(d.rest) > 0 {
			d.rest = append(d.rest, chunk...)
			if len(d.rest) < len(byteOrderMark) && strings.HasPrefix(byteOrderMark, string(d.rest)) {
				return nil
			}
			chunk, d.rest = d.rest, nil
		}
		d.began = true
		chunk = bytes.TrimPrefix(chunk, []byte(byteOrderMark))
	}
	if d.lf && len(chunk) > 0 {
		d.lf = false
		if chunk[0] == '\n' {
			chunk = chunk[1:]
		}
	}
	b, kept := chunk, len(d.rest) > 0
	if kept {
		d.rest = append(d.rest, chunk...)
		b = d.rest
	}
	for {
		end, whole := d.blockEnd(b)
		if end > MaxEvent+eventOverhead {
			return errTooLarge
		}
		if !whole {
			if !kept {
				d.keep(b)
			}
			return nil
		}
		block := b[:end]
		b, kept, d.line, d.seen = b[end:], false, 0, 0
		if name, data, ok := d.fields(block); ok && !emit(name, data) {
			return nil
		}
	}
}

// keep remembers b, which is unfinished and may lie in rest itself.
func (d *decoder) keep(b []byte) {
	switch {
	case len(b) == 0 && cap(d.rest) > keptRest:
		d.rest = nil
	case cap(d.rest) > 64*keptRest && len(b) < cap(d.rest)/4: // what one large event took is not kept
		d.rest = bytes.Clone(b)
	default:
		d.rest = append(d.rest[:0], b...)
	}
}

// blockEnd is behind the first blank line of b. Where there is none yet it returns the length of b and false, and
// remembers how far it has looked.
func (d *decoder) blockEnd(b []byte) (end int, whole bool) {
	for {
		at := d.seen + lineEnd(b[d.seen:])
		if at == len(b) {
			d.seen = at
			return at, false
		}
		next := at + 1
		if b[at] == '\r' {
			if next < len(b) && b[next] == '\n' {
				next++
			} else if next == len(b) && at > d.line { // an LF may follow: then it is the same line's end
				d.seen = at
				return next, false
			}
		}
		if at == d.line {
			d.lf = b[at] == '\r' && next == len(b)
			return next, true
		}
		d.line, d.seen = next, next
	}
}

// fields reads a block's lines. ok is false where they make no event: no data line.
func (d *decoder) fields(block []byte) (name, data []byte, ok bool) {
	lines := 0
	for len(block) > 0 {
		var line []byte
		line, block = cutLine(block)
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "event":
			name = value
		case "data":
			switch lines {
			case 0:
				data = value
			case 1:
				d.joined = append(append(append(d.joined[:0], data...), '\n'), value...)
				data = d.joined
			default:
				d.joined = append(append(d.joined, '\n'), value...)
				data = d.joined
			}
			lines++
		}
	}
	return name, data, lines > 0
}

// cutLine splits at the first CRLF, LF or CR.
func cutLine(b []byte) (line, rest []byte) {
	i := lineEnd(b)
	if i+1 < len(b) && b[i] == '\r' && b[i+1] == '\n' {
		return b[:i], b[i+2:]
	}
	return b[:i], b[min(i+1, len(b)):]
}

// lineEnd is where the first LF or CR is, or the length. It looks through growing windows, each first for the one and
// then for the other: all of a block at once, a block of a million CRs would be looked through a million times.
func lineEnd(b []byte) int {
	for from, size := 0, 1024; from < len(b); from, size = from+size, 2*size {
		window := b[from:min(from+size, len(b))]
		i := bytes.IndexByte(window, '\n')
		if i < 0 {
			i = len(window)
		}
		if j := bytes.IndexByte(window[:i], '\r'); j >= 0 {
			return from + j
		}
		if i < len(window) {
			return from + i
		}
	}
	return len(b)
}
