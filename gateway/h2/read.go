package h2

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"golang.org/x/net/http2"
)

// read hands on what arrives until the connection is over.
func (c *conn) read() {
	err := c.frames()
	c.fail(err)
}

func (c *conn) frames() error {
	for first := true; ; first = false {
		f, err := c.framer.ReadFrame()
		var wrong http2.StreamError
		if errors.As(err, &wrong) {
			c.reset(wrong.StreamID, wrong.Code)
			c.ended(wrong.StreamID, err)
			continue
		}
		if err != nil {
			return err
		}
		if _, settings := f.(*http2.SettingsFrame); first && !settings {
			return http2.ConnectionError(http2.ErrCodeProtocol) // RFC 9113 §3.4
		}
		if !c.heard.Load() {
			c.heard.Store(true)
		}
		if err := c.handle(f); err != nil {
			return err
		}
	}
}

func (c *conn) handle(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.DataFrame:
		return c.data(f)
	case *http2.MetaHeadersFrame:
		return c.header(f)
	case *http2.RSTStreamFrame:
		err := error(http2.StreamError{StreamID: f.StreamID, Code: f.ErrCode})
		if f.ErrCode == http2.ErrCodeRefusedStream {
			err = fmt.Errorf("%w: %w", errUntouched, err)
		}
		c.ended(f.StreamID, err)
	case *http2.SettingsFrame:
		return c.settings(f)
	case *http2.WindowUpdateFrame:
		return c.windowUpdate(f)
	case *http2.PingFrame:
		if !f.IsAck() {
			data := f.Data
			return c.write(func() error { return c.framer.WritePing(true, data) })
		}
	case *http2.GoAwayFrame:
		c.goAway(f)
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol) // it was told not to (RFC 9113 §8.4)
	}
	return nil
}

func (c *conn) find(id uint32) *answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answers[id]
}

// data hands a piece to its answer and gives back the room that it took: the connection's at once, an answer's when it
// is taken.
func (c *conn) data(f *http2.DataFrame) error {
	size := int64(f.Header().Length) // with its padding
	if c.taken += size; c.taken >= connWindow/2 {
		back := uint32(c.taken)
		c.taken = 0
		if err := c.write(func() error { return c.framer.WriteWindowUpdate(0, back) }); err != nil {
			return err
		}
	}
	a := c.find(f.StreamID)
	if a == nil {
		return nil // it was canceled, and the server does not know yet
	}
	if err := a.data(f.Data(), size); err != nil {
		c.reset(a.id, http2.ErrCodeFlowControl)
		c.ended(a.id, err)
		return nil
	}
	if f.StreamEnded() {
		c.ended(a.id, nil)
	}
	return nil
}

// ended is the end of an answer that the server has said, or that a mistake of its has brought about.
func (c *conn) ended(id uint32, err error) {
	a := c.find(id)
	if a == nil || !c.forget(a) {
		return
	}
	a.end(err)
	c.mu.Lock()
	unsent := a.unsent
	c.mu.Unlock()
	if unsent && err == nil { // it has not waited for the request, which will not be sent to its end
		c.reset(id, http2.ErrCodeCancel)
	}
	c.leave()
}

// header is an answer's beginning, or what trails it.
func (c *conn) header(f *http2.MetaHeadersFrame) error {
	a := c.find(f.StreamID)
	if a == nil {
		return nil
	}
	if !a.answered {
		resp, err := response(f)
		if err != nil {
			c.reset(a.id, http2.ErrCodeProtocol)
			c.ended(a.id, err)
			return nil
		}
		if resp == nil { // 1xx: the answer is still to come
			return nil
		}
		if resp.StatusCode > 299 {
			c.mu.Lock()
			a.refused = true
			c.moved.Broadcast()
			c.mu.Unlock()
		}
		a.begin(resp)
	} else if !f.StreamEnded() { // what trails is last (RFC 9113 §8.1); else one answer could be made of two
		c.reset(a.id, http2.ErrCodeProtocol)
		c.ended(a.id, errors.New("the answer has a second header"))
		return nil
	}
	if f.StreamEnded() {
		c.ended(a.id, nil)
	}
	return nil
}

// response makes a response of a header; nil of an interim one.
func response(f *http2.MetaHeadersFrame) (*http.Response, error) {
	if f.Truncated {
		return nil, errors.New("the answer's header is too large")
	}
	status, err := strconv.Atoi(f.PseudoValue("status"))
	if err != nil || status < 100 || status > 999 {
		return nil, errors.New("the answer has no status")
	}
	if status < 200 {
		if status == http.StatusSwitchingProtocols || f.StreamEnded() {
			return nil, errors.New("the answer's status has no meaning in HTTP/2")
		}
		return nil, nil
	}
	resp := &http.Response{Status: strconv.Itoa(status) + " " + http.StatusText(status), StatusCode: status, Proto: "HTTP/2.0", ProtoMajor: 2,
		Header: make(http.Header, len(f.Fields)), ContentLength: -1}
	for _, field := range f.RegularFields() {
		name := http.CanonicalHeaderKey(field.Name)
		resp.Header[name] = append(resp.Header[name], field.Value)
	}
	if lengths := resp.Header["Content-Length"]; len(lengths) == 1 {
		if n, err := strconv.ParseUint(lengths[0], 10, 62); err == nil {
			resp.ContentLength = int64(n)
		}
	}
	return resp, nil
}

func (c *conn) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	c.mu.Lock()
	if !c.settled {
		c.most = assumedStreams
	}
	err := f.ForeachSetting(func(s http2.Setting) error {
		if err := s.Valid(); err != nil {
			return err
		}
		switch s.ID {
		case http2.SettingMaxConcurrentStreams:
			c.most = int(min(s.Val, 1<<20))
		case http2.SettingMaxFrameSize:
			c.frame = int(min(s.Val, 64<<10))
		case http2.SettingInitialWindowSize:
			for _, a := range c.answers { // RFC 9113 §6.9.2
				a.window += int64(s.Val) - c.initial
			}
			c.initial = int64(s.Val)
		}
		return nil
	})
	c.moved.Broadcast()
	c.mu.Unlock()
	if err != nil {
		return err
	}
	c.settle()
	return c.write(func() error {
		if size, ok := f.Value(http2.SettingHeaderTableSize); ok {
			c.fields.SetMaxDynamicTableSize(min(size, 4096))
		}
		return c.framer.WriteSettingsAck()
	})
}

func (c *conn) windowUpdate(f *http2.WindowUpdateFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	window := &c.window
	if f.StreamID != 0 {
		a := c.answers[f.StreamID]
		if a == nil {
			return nil
		}
		window = &a.window
	}
	if *window += int64(f.Increment); *window > 1<<31-1 {
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	c.moved.Broadcast()
	return nil
}

// goAway ends the answers that the server will not begin; the others go on.
func (c *conn) goAway(f *http2.GoAwayFrame) {
	err := fmt.Errorf("%w: it closes the connection (%v)", errUntouched, f.ErrCode)
	c.retire()
	c.mu.Lock()
	var untouched []*answer
	for id, a := range c.answers {
		if id > f.LastStreamID {
			untouched = append(untouched, a)
		}
	}
	c.mu.Unlock()
	for _, a := range untouched {
		if c.forget(a) {
			a.end(err)
			c.leave()
		}
	}
}

// errShort is an answer that is shorter, or longer, than it said.
var errShort = fmt.Errorf("the answer is not as long as it said: %w", io.ErrUnexpectedEOF)
