package h2

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// begin sends a request in a place that was reserved; got gets its answer. With now, wmu is the caller's: it is given back, and
// what the server's windows allow is written before begin returns. Else all goes out beside it: a server that takes no bytes
// doesn't keep a caller whose context has ended, and one that answers early gets the rest all the same.
func (c *conn) begin(req *http.Request, now bool, got func(*http.Response, error)) {
	fields, err := requestFields(req)
	if err != nil {
		if now {
			c.wmu.Unlock()
		}
		c.leave()
		closeBody(req)
		got(nil, err)
		return
	}
	a := &answer{conn: c, req: req, head: req.Method == http.MethodHead, got: got}
	a.ready.L = &a.mu
	a.bind(req.Context()) // from here the answer ends with the request's context, whenever that is
	if now {
		if rest := c.send(a, req, fields, func() {}); rest != nil {
			go rest()
		}
		return
	}
	go func() {
		if rest := c.send(a, req, fields, c.wmu.Lock); rest != nil {
			rest()
		}
	}()
}

// roundTrip is begin for a caller who waits.
func (c *conn) roundTrip(req *http.Request) (*http.Response, error) {
	type answered struct {
		resp *http.Response
		err  error
	}
	got := make(chan answered, 1)
	c.begin(req, false, func(resp *http.Response, err error) { got <- answered{resp, err} })
	a := <-got
	return a.resp, a.err
}

// send writes a request, for which lock takes wmu once what is written is at hand, and returns what has to wait for the
// server's windows; nil where that is nothing.
func (c *conn) send(a *answer, req *http.Request, fields []hpack.HeaderField, lock func()) (rest func()) {
	small, err := smallBody(req)
	lock()
	if err != nil {
		c.wmu.Unlock()
		a.cancel(err)
		c.leave() // the place of which nothing was made
		closeBody(req)
		return nil
	}
	sent, err := c.sendHeaderLocked(a, fields, hasBody(req), small)
	c.wmu.Unlock()
	if err != nil {
		a.cancel(err)
	}
	if err != nil || sent {
		closeBody(req)
		return nil
	}
	return func() {
		defer closeBody(req)
		body, size := io.Reader(req.Body), atOnce
		if small != nil {
			body, size = bytes.NewReader(small), len(small)
		}
		if err := c.sendBody(a, body, size); err != nil {
			a.cancel(err)
		}
	}
}

// atOnce is how much of a request's body is sent at once. One that is not larger leaves with the header, where the
// server's windows allow it.
const atOnce = 16 << 10

// smallBody reads a body that is no larger than that; nil is one that may be.
func smallBody(req *http.Request) ([]byte, error) {
	if !hasBody(req) || req.ContentLength <= 0 || req.ContentLength > atOnce {
		return nil, nil
	}
	body := make([]byte, req.ContentLength)
	if _, err := io.ReadFull(req.Body, body); err != nil {
		return nil, fmt.Errorf("the request's body: %w", err)
	}
	return body, nil
}

func hasBody(req *http.Request) bool { return req.Body != nil && req.Body != http.NoBody }

// perConnection are fields that HTTP/2 does not have (RFC 9113 §8.2.2), or has under other names.
var perConnection = map[string]bool{"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Transfer-Encoding": true, "Upgrade": true, "Host": true, "Content-Length": true}

func requestFields(req *http.Request) ([]hpack.HeaderField, error) {
	authority := req.Host
	if authority == "" {
		authority = req.URL.Host
	}
	fields := []hpack.HeaderField{{Name: ":authority", Value: authority}, {Name: ":method", Value: cmp.Or(req.Method, http.MethodGet)}, {Name: ":path", Value: req.URL.RequestURI()}, {Name: ":scheme", Value: "https"}}
	for name, values := range req.Header {
		if perConnection[name] {
			continue
		}
		if !httpguts.ValidHeaderFieldName(name) {
			return nil, fmt.Errorf("the request has a header field with the name %q", name)
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) {
				return nil, fmt.Errorf("the request's header field %s has a value that is none", name)
			}
			// What is secret stays out of the compression's table (RFC 7541 §7.1.3).
			fields = append(fields, hpack.HeaderField{Name: strings.ToLower(name), Value: v, Sensitive: name == "X-Api-Key" || name == "Authorization"})
		}
	}
	switch {
	case hasBody(req):
		if req.ContentLength > 0 {
			fields = append(fields, hpack.HeaderField{Name: "content-length", Value: strconv.FormatInt(req.ContentLength, 10)})
		}
	case req.Method == http.MethodPost || req.Method == http.MethodPut || req.Method == http.MethodPatch:
		fields = append(fields, hpack.HeaderField{Name: "content-length", Value: "0"}) // else some servers refuse it (RFC 9110 §8.6)
	}
	return fields, nil
}

// sendHeaderLocked gives the answer its id, and sends the request's header, and small with it if that is possible: then the
// request is sent, as it is where it has no body.
func (c *conn) sendHeaderLocked(a *answer, fields []hpack.HeaderField, body bool, small []byte) (sent bool, err error) {
	frame, err := c.enter(a, body)
	if err != nil {
		return false, err
	}
	sent = !body
	c.block.Reset()
	for _, f := range fields {
		c.fields.WriteField(f) // to memory
	}
	// A failure has closed the connection, and ends the answer from there.
	c.writeLocked(func() error {
		rest := c.block.Bytes()
		part := rest[:min(len(rest), frame)]
		rest = rest[len(part):]
		err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: a.id, BlockFragment: part, EndStream: !body, EndHeaders: len(rest) == 0})
		for err == nil && len(rest) > 0 {
			part = rest[:min(len(rest), frame)]
			rest = rest[len(part):]
			err = c.framer.WriteContinuation(a.id, len(rest) == 0, part)
		}
		if err == nil && small != nil && c.takeAll(a, len(small)) {
			sent = true
			err = c.framer.WriteData(a.id, true, small)
		}
		return err
	})
	return sent, nil
}

// enter puts an answer into its reserved place, or leaves that. wmu must be held: ids go out in their order.
func (c *conn) enter(a *answer, unsent bool) (frame int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing || a.gone {
		c.places--
		c.emptyLocked()
		return 0, errUntouched
	}
	a.id, a.window, a.unsent = c.next, c.initial, unsent
	c.answers[a.id] = a
	if c.next += 2; c.next >= 1<<31-1 {
		c.closing = true
		go c.removed(c)
	}
	return c.frame, nil
}

// sendBody sends the request's body as the server's windows allow, at most size bytes at once. It stops where the answer has ended or is a refusal:
// the server has not waited for it.
func (c *conn) sendBody(a *answer, body io.Reader, size int) error {
	buffer := make([]byte, size)
	for {
		n, err := body.Read(buffer)
		over := err == io.EOF
		if err != nil && !over {
			return fmt.Errorf("the request's body: %w", err)
		}
		for part := buffer[:n]; len(part) > 0 || over; {
			room, last, ok := c.take(a, len(part), over)
			if !ok {
				return nil
			}
			if c.write(func() error { return c.framer.WriteData(a.id, last, part[:room]) }) != nil {
				return nil // it has closed the connection, and ends the answer from there
			}
			if part = part[room:]; last {
				return nil
			}
		}
	}
}

// takeAll takes the whole of a request's body from the windows, if it fits into them and into one frame.
func (c *conn) takeAll(a *answer, size int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a.gone || int64(size) > min(int64(c.frame), c.window, a.window) {
		return false
	}
	c.window -= int64(size)
	a.window -= int64(size)
	a.unsent = false
	return true
}

// take waits until something of want fits into the windows, and takes it; the last of it where the body is over. It is
// not ok where no more is to be sent.
func (c *conn) take(a *answer, want int, over bool) (room int, last, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if a.gone || a.refused {
			return 0, false, false
		}
		// A server may take back what it has allowed (RFC 9113 §6.9.2): then a window is below nothing.
		if room = int(max(0, min(int64(want), int64(c.frame), c.window, a.window))); room > 0 || want == 0 {
			c.window -= int64(room)
			a.window -= int64(room)
			last = over && room == want
			a.unsent = !last
			return room, last, true
		}
		c.moved.Wait()
	}
}
