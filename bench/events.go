package main

import (
	"bufio"
	"bytes"
	"io"
)

// event is one as an EventSource dispatches it. It is good until the next is read.
type event struct{ id, name, data []byte }

// eventReader reads events from a body. An event without its blank line is none: a connection may break anywhere.
type eventReader struct {
	lines *bufio.Reader
	event event
	long  []byte // a line that is larger than the reader's buffer
}

func newEventReader(body io.Reader) *eventReader {
	return &eventReader{lines: bufio.NewReaderSize(body, 2048)} // a few events: thousands of readers wait with one each
}

func (r *eventReader) next() (*event, error) {
	e := &r.event
	e.id, e.name, e.data = e.id[:0], e.name[:0], e.data[:0]
	for any := false; ; {
		line, err := r.line()
		if err != nil {
			return nil, err
		}
		line = bytes.TrimRight(line, "\r\n")
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "id":
			e.id, any = append(e.id[:0], value...), true
		case "event":
			e.name, any = append(e.name[:0], value...), true
		case "data":
			e.data, any = append(append(e.data, value...), '\n'), true
		}
		if len(line) == 0 && any {
			return e, nil
		}
	}
}

// line reads one of any length.
func (r *eventReader) line() ([]byte, error) {
	line, err := r.lines.ReadSlice('\n')
	if err != bufio.ErrBufferFull {
		return line, err
	}
	r.long = r.long[:0]
	for err == bufio.ErrBufferFull {
		r.long = append(r.long, line...)
		line, err = r.lines.ReadSlice('\n')
	}
	r.long = append(r.long, line...)
	return r.long, err
}

// rest reads what else comes, up to so many bytes.
func (r *eventReader) rest(most int64) ([]byte, error) {
	return io.ReadAll(io.LimitReader(r.lines, most))
}
