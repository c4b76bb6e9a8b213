package h1

import (
	"bytes"
	"errors"
)

// framing finds the end of a body (RFC 9112 §6, §7.1) in bytes as they arrive. The zero value is an empty body.
type framing struct {
	chunked bool
	toEOF   bool  // it ends with the connection
	left    int64 // bytes up to the end of the chunk, or of the body
	state   chunkState
	line    []byte // the beginning of a line whose end has not arrived
	trailer int    // bytes of it
}

type chunkState uint8

const (
	atSize chunkState = iota
	inData
	afterData
	inTrailer
	atEnd
)

const (
	maxLine    = 4 << 10  // of a chunk's size with its extensions
	maxTrailer = 16 << 10 // altogether
)

var errFraming = errors.New("the answer's chunks are malformed")

// done reports whether the body is over.
func (f *framing) done() bool {
	if f.chunked {
		return f.state == atEnd
	}
	return !f.toEOF && f.left == 0
}

// next finds the first piece of the body in p, which is not empty, and what follows it. There may be none: then all of p
// was framing. It must not be called when the body is over.
func (f *framing) next(p []byte) (data, rest []byte, err error) {
	switch {
	case f.toEOF:
		return p, nil, nil
	case !f.chunked, f.state == inData:
		n := min(f.left, int64(len(p)))
		if f.left -= n; f.chunked && f.left == 0 {
			f.state = afterData
		}
		return p[:n], p[n:], nil
	}
	end := bytes.IndexByte(p, '\n')
	whole := end >= 0
	if !whole {
		end = len(p)
	} else {
		end++
	}
	line := p[:end]
	if !whole || len(f.line) > 0 {
		if f.line = append(f.line, line...); len(f.line) > maxLine {
			return nil, nil, errFraming
		}
		if !whole {
			return nil, nil, nil
		}
		line = f.line
	}
	err = f.take(line)
	f.line = f.line[:0]
	return nil, p[end:], err
}

// take takes one whole line of the framing.
func (f *framing) take(line []byte) error {
	line, crlf := bytes.CutSuffix(line, []byte("\r\n"))
	if !crlf || bytes.IndexByte(line, '\r') >= 0 { // a bare LF or CR is where two readers can differ on what a line is
		return errFraming
	}
	switch f.state {
	case atSize:
		digits, _, _ := bytes.Cut(line, []byte(";"))
		size, ok := hex(bytes.TrimRight(digits, " \t"))
		if !ok {
			return errFraming
		}
		if f.left, f.state = size, inData; size == 0 {
			f.state = inTrailer
		}
	case afterData:
		if len(line) > 0 {
			return errFraming
		}
		f.state = atSize
	case inTrailer:
		if f.trailer += len(line); f.trailer > maxTrailer {
			return errFraming
		}
		if len(line) == 0 {
			f.state = atEnd
		}
	}
	return nil
}

func hex(digits []byte) (n int64, ok bool) {
	if len(digits) == 0 || len(digits) > 15 {
		return 0, false
	}
	for _, c := range digits {
		switch {
		case c >= '0' && c <= '9':
			n = n<<4 | int64(c-'0')
		case c >= 'a' && c <= 'f':
			n = n<<4 | int64(c-'a'+10)
		case c >= 'A' && c <= 'F':
			n = n<<4 | int64(c-'A'+10)
		default:
			return 0, false
		}
	}
	return n, true
}
