package gateway

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// Listen opens both ports. Run does it where it has not been done.
func (g *Gateway) Listen() (err error) {
	defer func() {
		if err != nil {
			g.store.Close()
		}
	}()
	if g.public, err = net.Listen("tcp", g.cfg.Server.Listen); err != nil {
		return fmt.Errorf("server.listen: %w", err)
	}
	if g.admin, err = net.Listen("tcp", g.cfg.Server.AdminListen); err != nil {
		g.public.Close()
		g.public = nil
		return fmt.Errorf("server.admin_listen: %w", err)
	}
	g.public = g.secure(g.public)
	return nil
}

// secure speaks TLS on what the listener accepts, where there is a certificate.
func (g *Gateway) secure(l net.Listener) net.Listener {
	if g.cert == nil {
		return l
	}
	return tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return g.cert.get(), nil }})
}

// Addr is where callers reach the gateway once it listens, AdminAddr where operators do.
func (g *Gateway) Addr() net.Addr      { return g.public.Addr() }
func (g *Gateway) AdminAddr() net.Addr { return g.admin.Addr() }

// What a connection may take before it has said what it wants: slow clients are many, and each costs a goroutine.
const (
	headerPatience = 10 * time.Second
	idlePatience   = 2 * time.Minute
	maxHeader      = 64 << 10
)

func (g *Gateway) server(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: headerPatience, IdleTimeout: idlePatience, MaxHeaderBytes: maxHeader,
		DisableGeneralOptionsHandler: true, // OPTIONS * is answered, counted and logged as any other request
		ErrorLog:                     slog.NewLogLogger(g.log.Handler(), slog.LevelDebug)}
}

// An HTTP/2 connection carries all streams of a browser. One whose peer has gone without a word is asked once it has
// been silent for deadAfter, and closed if it doesn't answer within answerWithin; over HTTP/1.1 the next ping that isn't
// taken tells. A browser opens at most a hundred streams on one connection unless it is allowed more.
const (
	deadAfter    = 30 * time.Second
	answerWithin = 15 * time.Second
	maxStreams   = 250
)

func (g *Gateway) publicServer() *http.Server {
	s := g.server(g.api.Handler())
	s.ConnContext = g.api.ConnContext
	s.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: maxStreams, SendPingTimeout: deadAfter, PingTimeout: answerWithin}
	s.Protocols = new(http.Protocols)
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(g.cert != nil)
	s.Protocols.SetUnencryptedHTTP2(g.cfg.Server.H2C)
	return s
}

// certificate is the gateway's own, which changes while it serves: they last for weeks, streams are not to end for that.
// A nil one is none.
type certificate struct {
	current atomic.Pointer[tls.Certificate]
}

func newCertificate(files TLS) (*certificate, error) {
	pair, err := files.load()
	if err != nil {
		return nil, err
	}
	c := &certificate{}
	c.set(pair)
	return c, nil
}

// load reads the files.
func (t TLS) load() (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	return &pair, err
}

func (c *certificate) get() *tls.Certificate {
	if c == nil {
		return nil
	}
	return c.current.Load()
}

func (c *certificate) set(pair *tls.Certificate) {
	if c != nil {
		c.current.Store(pair)
	}
}
