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
	buffer := make([]byte, 16<<10)
	for {
		n, err := c.nc.Read(buffer)
		if n > 0 {
			if failed := c.frames(buffer[:n]); failed != nil {
				err = failed
			}
			c.flush()
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}

// frames hands on the frames that p completes, and keeps the beginning of the next.
func (c *conn) frames(p []byte) error {
	if !c.heard.Load() {
		c.heard.Store(true)
	}
	if len(c.rest) > 0 {
		c.rest = append(c.rest, p...)
		p = c.rest
	}
	for {
		n, err := whole(p)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		if err := c.one(p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	if len(p) == 0 && cap(c.rest) > keptRest {
		c.rest = nil
	} else {
		c.rest = append(c.rest[:0], p...) // which may lie in it
	}
	return nil
}

// keptRest is what is kept of the room for the beginning of a frame: enough for one with text.
const keptRest = 1 << 10

// maxBlock bounds a header with all its parts: what is decoded of it has its own bound, maxHeader.
const maxBlock = 4 * maxHeader

// whole is how long the first frame of p is, a header with all its parts (RFC 9113 §6.10); 0 if its end is not there.
func whole(p []byte) (n int, err error) {
	for first := true; len(p) >= n+frameHeader; first = false {
		h := p[n : n+frameHeader]
		length, kind, flags := int(h[0])<<16|int(h[1])<<8|int(h[2]), http2.FrameType(h[3]), http2.Flags(h[4])
		if length > maxFrame {
			return 0, http2.ErrFrameTooLarge
		}
		if n += frameHeader + length; n > maxBlock {
			return 0, http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
		}
		if len(p) < n {
			return 0, nil
		}
		// What is no part where one must follow, the framer refuses.
		if first && kind != http2.FrameHeaders || !first && kind != http2.FrameContinuation || flags.Has(http2.FlagHeadersEndHeaders) {
			return n, nil
		}
	}
	return 0, nil
}

// one hands on one frame.
func (c *conn) one(p []byte) error {
	c.in.Reset(p)
	f, err := c.framer.ReadFrame()
	if err != nil {
		var wrong http2.StreamError // here, since it is on the heap
		if !errors.As(err, &wrong) {
			return err
		}
		c.refuse(wrong.StreamID, wrong.Code, err)
		return nil
	}
	if !c.begins {
		c.begins = true
		if _, settings := f.(*http2.SettingsFrame); !settings {
			return http2.ConnectionError(http2.ErrCodeProtocol) // RFC 9113 §3.4
		}
	}
	return c.handle(f)
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
			c.say(func() error { return c.framer.WritePing(true, data) })
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
		c.say(func() error { return c.framer.WriteWindowUpdate(0, back) })
	}
	a := c.find(f.StreamID)
	if a == nil {
		return nil // it was canceled, and the server does not know yet
	}
	if err := a.data(f.Data(), size); err != nil {
		c.refuse(a.id, http2.ErrCodeFlowControl, err)
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
		c.say(func() error { return c.framer.WriteRSTStream(id, http2.ErrCodeCancel) })
	}
	if c.speaking() {
		c.then(c.leave)
	} else {
		c.leave()
	}
}

// refuse ends an answer in which the server has made a mistake.
func (c *conn) refuse(id uint32, code http2.ErrCode, err error) {
	c.say(func() error { return c.framer.WriteRSTStream(id, code) })
	c.ended(id, err)
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
			c.refuse(a.id, http2.ErrCodeProtocol, err)
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
		c.refuse(a.id, http2.ErrCodeProtocol, errors.New("the answer has a second header"))
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
	size, sized := f.Value(http2.SettingHeaderTableSize)
	c.say(func() error {
		if sized {
			c.fields.SetMaxDynamicTableSize(min(size, 4096))
		}
		return c.framer.WriteSettingsAck()
	})
	return nil
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
