package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// conn is a connection on which a request was answered.
type conn struct {
	*http.Response
	tcp    net.Conn
	forget func() bool // the context it ends with
}

func (c *conn) close() {
	c.forget()
	c.tcp.Close()
}

// ask sends a request on a connection of its own, as a browser's EventSource has it, without net/http's client: thousands of
// them must cost little beside what is measured. The connection ends with the context.
func (d *driver) ask(ctx context.Context, method, path, body, lastID string, slow bool) (*conn, error) {
	dialer := net.Dialer{Timeout: 10 * time.Second}
	if slow { // or the kernel would swallow megabytes and the reader never be behind
		dialer.Control = narrow
	}
	tcp, err := dialer.DialContext(ctx, "tcp", d.base.Host)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	c := &conn{tcp: tcp, forget: context.AfterFunc(ctx, func() { tcp.Close() })}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n%s", method, path, d.base.Host, d.headers)
	if d.key != "" {
		fmt.Fprintf(&b, "x-api-key: %s\r\nAuthorization: Bearer %s\r\n", d.key, d.key)
	}
	if method == http.MethodPost {
		fmt.Fprintf(&b, "Content-Type: application/json\r\nanthropic-version: 2023-06-01\r\nContent-Length: %d\r\n", len(body))
	} else {
		b.WriteString("Accept: text/event-stream\r\nCache-Control: no-cache\r\n")
	}
	if lastID != "" {
		fmt.Fprintf(&b, "Last-Event-ID: %s\r\n", lastID)
	}
	b.WriteString("\r\n")
	b.WriteString(body)
	if _, err = tcp.Write(b.Bytes()); err == nil {
		c.Response, err = http.ReadResponse(bufio.NewReader(tcp), &http.Request{Method: method})
	}
	if err != nil {
		c.close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	return c, nil
}

// params is the request for a stream of the shape.
func (d *driver) params() string {
	return fmt.Sprintf(`{"model":%q,"max_tokens":1024,"stream":true,"messages":[{"role":"user","content":"hello"}]}`, d.model)
}

// create opens a stream with POST /v1/streams and returns the path of its events_url.
func (d *driver) create(ctx context.Context) (string, error) {
	c, err := d.ask(ctx, http.MethodPost, "/v1/streams", d.params(), "", false)
	if err != nil {
		return "", err
	}
	defer c.close()
	text, err := io.ReadAll(c.Body)
	if err != nil {
		return "", err
	}
	if c.StatusCode/100 != 2 {
		return "", fmt.Errorf("POST /v1/streams: %s: %s", c.Status, text)
	}
	var stream struct {
		EventsURL string `json:"events_url"`
	}
	if err := json.Unmarshal(text, &stream); err != nil || stream.EventsURL == "" {
		return "", fmt.Errorf("POST /v1/streams: no events_url in %s", text)
	}
	u, err := url.Parse(stream.EventsURL)
	if err != nil {
		return "", err
	}
	return u.RequestURI(), nil
}
