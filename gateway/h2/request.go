package h2

import (
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

// roundTrip sends a request in a place that was reserved. It goes out beside it: a server that takes no bytes doesn't
// keep a caller whose context has ended, and one that answers early gets the rest all the same.
func (c *conn) roundTrip(req *http.Request) (*http.Response, error) {
	fields, err := requestFields(req)
	if err != nil {
		c.leave()
		closeBody(req)
		return nil, err
	}
	a := &answer{conn: c, head: req.Method == http.MethodHead, got: make(chan struct{})}
	a.ready.L = &a.mu
	a.bind(req.Context()) // from here the answer ends with the request's context, whenever that is
	go c.send(a, req, fields)
	resp, err := a.wait()
	if err != nil {
		return nil, err
	}
	resp.Request = req
	return resp, nil
}

func (c *conn) send(a *answer, req *http.Request, fields []hpack.HeaderField) {
	defer closeBody(req)
	err := c.sendHeader(a, fields, hasBody(req))
	if err == nil {
		err = c.sendBody(a, req)
	}
	if err != nil {
		a.cancel(err)
	}
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

// sendHeader gives the answer its id, and sends the request's header.
func (c *conn) sendHeader(a *answer, fields []hpack.HeaderField, body bool) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	frame, err := c.begin(a, body)
	if err != nil {
		return err
	}
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
		return err
	})
	return nil
}

// begin puts an answer into its reserved place, or leaves that. wmu must be held: ids go out in their order.
func (c *conn) begin(a *answer, unsent bool) (frame int, err error) {
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

// sendBody sends the request's body as the server's windows allow. It stops where the answer has ended or is a refusal:
// the server has not waited for it.
func (c *conn) sendBody(a *answer, req *http.Request) error {
	if !hasBody(req) {
		return nil
	}
	buffer := make([]byte, min(16<<10, max(1<<10, req.ContentLength+1)))
	for {
		n, err := req.Body.Read(buffer)
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
