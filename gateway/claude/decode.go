package claude

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/r3labs/sse/v2"
)

// MaxEvent bounds one event. Results of code execution, web fetches and PDFs come as one event of megabytes
// (the longest on record: 43.7 kB); the Go SDK stops at 32 MiB a line. The decoder's buffer grows up to this, per stream.
const MaxEvent = 16_000_000

// eventOverhead is room for an event's name and line ends beside its data.
const eventOverhead = 1024

// decoder turns bytes into the events of WHATWG HTML §9.2.6. sse.EventStreamReader finds the blank lines; the fields of
// a block are read here, because that library's own parser drops what it doesn't know. Where a block was cut by the end
// of the body the library returns it like a whole one; by the standard it is not an event, and is dropped.
type decoder struct {
	source *source
	blocks *sse.EventStreamReader
	block  []byte // what is left of the block at hand
	tail   bool   // the block at hand was cut by the end of the body
	ahead  []byte // the block after it, where the end has been seen
	ended  bool   // there is none after ahead
	began  bool   // a possible byte order mark is behind us
	joined []byte // data that came in several lines
}

func newDecoder(body io.Reader) *decoder {
	s := &source{body: body, start: time.Now()}
	return &decoder{source: s, blocks: sse.NewEventStreamReader(s, MaxEvent+eventOverhead)}
}

// next returns the next event's fields, valid until it is called again. At the end of the body it returns the error that
// ended it: io.EOF for a clean end. errTooLarge means that an event is over its bound.
func (d *decoder) next() (name, data []byte, err error) {
	d.source.window = smallestRead
	for {
		for len(d.block) > 0 {
			if name, data, ok := d.dispatch(); ok {
				return name, data, nil
			}
		}
		if err := d.read(); err != nil {
			return nil, nil, err
		}
	}
}

// read fetches the next block. Once the body has ended it looks one block ahead, to know which is the last: that is the
// one without its blank line, since source adds a byte after the end.
func (d *decoder) read() error {
	if d.tail || d.ended && d.ahead == nil {
		return d.source.err
	}
	if d.ahead != nil {
		d.block, d.ahead = d.ahead, nil
	} else {
		block, err := d.blocks.ReadEvent()
		if errors.Is(err, bufio.ErrTooLong) {
			return errTooLarge
		}
		if err != nil {
			d.ended = true
			return d.source.err
		}
		d.block = block
	}
	if d.source.err != nil && !d.ended {
		// No more bytes will come into the reader's buffer than are there, but it may still move them.
		d.block = bytes.Clone(d.block)
		next, err := d.blocks.ReadEvent()
		if err != nil {
			d.ended = true
		} else {
			d.ahead = append([]byte{}, next...)
		}
	}
	d.tail = d.ended && d.ahead == nil
	if !d.began {
		d.began = true
		d.block = bytes.TrimPrefix(d.block, []byte("\xef\xbb\xbf"))
	}
	return nil
}

// dispatch reads lines off the block up to a blank one or its end. ok is false where they make no event: no data line,
// or cut off.
func (d *decoder) dispatch() (name, data []byte, ok bool) {
	lines := 0
	for len(d.block) > 0 {
		var line []byte
		line, d.block = cutLine(d.block)
		if len(line) == 0 {
			if lines > 0 {
				return name, data, true
			}
			name = nil
			continue
		}
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
	return name, data, lines > 0 && !d.tail
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

// source is the body as the decoder reads it: it notes when bytes arrive, undoes a compression that nobody announced,
// and after the last byte adds one that belongs to no event, so that a block with its blank line is never the last.
type source struct {
	body   io.Reader
	start  time.Time
	last   atomic.Int64 // when bytes last arrived, in nanoseconds after start
	err    error        // why the body ended; set before the added byte is read
	head   [2]byte      // the first bytes, read to recognize gzip
	heads  int          // how many of them are still to be delivered
	began  bool
	added  bool
	window int // how much the next read may ask for
}

// smallestRead is what the first read after an event asks for; each further one asks for twice as much. The library
// searches all that its buffer holds for each event, so what lies behind a large one must not come in large pieces.
const smallestRead = 16 << 10

func (s *source) Read(p []byte) (int, error) {
	if s.err != nil {
		if s.added {
			return 0, io.EOF
		}
		s.added = true
		p[0] = ':'
		return 1, nil
	}
	if !s.began {
		s.began = true
		if err := s.sniff(); err != nil {
			s.end(err)
			return s.Read(p)
		}
	}
	if s.heads > 0 {
		n := copy(p, s.head[:s.heads])
		copy(s.head[:], s.head[n:s.heads])
		s.heads -= n
		return n, nil
	}
	if s.window > 0 && len(p) > s.window {
		p = p[:s.window]
		s.window *= 2
	}
	n, err := s.body.Read(p)
	if n > 0 {
		s.arrived()
	}
	if err != nil {
		s.end(err)
		if n == 0 {
			return s.Read(p)
		}
	}
	return n, nil
}

// sniff looks at the first two bytes. Gzip without its header has been reported of intermediaries (CLIProxyAPI#1834);
// no event stream begins with 1f 8b.
func (s *source) sniff() error {
	n, err := io.ReadFull(s.body, s.head[:])
	if n > 0 {
		s.arrived()
	}
	s.heads = n
	if n == len(s.head) && s.head == [2]byte{0x1f, 0x8b} {
		z, err := gzip.NewReader(io.MultiReader(bytes.NewReader([]byte{0x1f, 0x8b}), s.body))
		if err != nil {
			return err
		}
		s.body, s.heads = z, 0
		return nil
	}
	if errors.Is(err, io.ErrUnexpectedEOF) && n > 0 {
		return nil // one byte and the end: the next read says so
	}
	return err
}

func (s *source) arrived() { s.last.Store(int64(time.Since(s.start))) }

// lastRead is when bytes last arrived.
func (s *source) lastRead() time.Time { return s.start.Add(time.Duration(s.last.Load())) }

func (s *source) end(err error) {
	if s.err == nil {
		s.err = err
	}
}
