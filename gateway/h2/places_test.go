package h2

import (
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// slow is a connection whose closing takes its time, as one does whose peer takes no bytes.
type slow struct {
	net.Conn
	closing chan struct{}
	free    chan struct{}
}

func (s slow) Close() error {
	select {
	case s.closing <- struct{}{}:
	default:
	}
	<-s.free
	return s.Conn.Close()
}

func TestClosingKeepsNobody(t *testing.T) {
	for name, end := range map[string]func(*conn, *opposite){
		"the server goes away": func(_ *conn, o *opposite) { o.framer.WriteSettings(); o.framer.WriteGoAway(0, http2.ErrCodeNo, nil) },
		"the server is silent": func(c *conn, _ *opposite) {
			c.mu.Lock()
			c.pinged = true
			c.mu.Unlock()
			c.heard.Store(false)
			go c.ask()
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, o := face(t)
			s := slow{Conn: c.nc, closing: make(chan struct{}, 1), free: make(chan struct{})}
			c.nc = s
			read := make(chan struct{})
			go func() { defer close(read); c.read() }()
			end(c, o)
			<-s.closing
			looked := make(chan struct{})
			go func() { defer close(looked); c.reserve() }() // as each request does that looks for a connection
			select {
			case <-looked:
			case <-time.After(patience):
				t.Error("requests are kept")
			}
			close(s.free)
			<-looked
			o.nc.Close()
			<-read
		})
	}
}
