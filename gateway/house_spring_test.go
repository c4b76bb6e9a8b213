package gateway_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"sluice/gateway"
)

// spring is a Claude that allocates nothing once a stream flows. It speaks one protocol, frame by frame.
type spring struct {
	url, ca string
	canned  []byte      // the body of each answer; nil: the test sends it
	streams chan outlet // then

	listener net.Listener
	serving  sync.WaitGroup
	mu       sync.Mutex
	conns    []net.Conn
}

// outlet is one answer's body.
type outlet interface {
	send(events []byte)
	finish()
}

func newSpring(t testing.TB, protocol string, canned []byte) *spring {
	t.Helper()
	s := &spring{canned: canned, streams: make(chan outlet, 1000)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.url, s.listener = "http://"+l.Addr().String(), l
	serve := s.serve1
	if protocol != "plain HTTP/1.1" {
		dir := t.TempDir()
		files := gateway.TLS{CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key")}
		certify(t, files)
		cert, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
		if err != nil {
			t.Fatal(err)
		}
		s.url, s.ca = "https://"+l.Addr().String(), files.CertFile
		s.listener = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}})
		serve = s.serve2
	}
	s.serving.Go(func() { s.accept(serve) })
	t.Cleanup(s.close)
	return s
}

func (s *spring) accept(serve func(net.Conn)) {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns = append(s.conns, conn)
		s.mu.Unlock()
		s.serving.Go(func() { defer conn.Close(); serve(conn) })
	}
}

func (s *spring) close() {
	s.listener.Close()
	s.mu.Lock()
	for _, conn := range s.conns {
		conn.Close()
	}
	s.mu.Unlock()
	s.serving.Wait()
}

func (s *spring) answer(o outlet) {
	if s.canned == nil {
		s.streams <- o
		return
	}
	o.send(s.canned)
	o.finish()
}

// serve1 answers requests one after another. Each is a JSON object and ends with its brace, which comes nowhere else at
// the end of a packet.
func (s *spring) serve1(conn net.Conn) {
	buf := make([]byte, 16<<10)
	for {
		for n := 0; !bytes.HasSuffix(buf[:n], []byte("}")); {
			m, err := conn.Read(buf[n:])
			if err != nil {
				return
			}
			n += m
		}
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
		s.answer(&chunks{conn: conn})
	}
}

// chunks is a body of HTTP/1.1.
type chunks struct {
	conn net.Conn
	buf  []byte
}

func (c *chunks) send(events []byte) {
	c.buf = strconv.AppendInt(c.buf[:0], int64(len(events)), 16)
	c.buf = append(c.buf, "\r\n"...)
	c.buf = append(c.buf, events...)
	c.buf = append(c.buf, "\r\n"...)
	c.conn.Write(c.buf)
}

func (c *chunks) finish() { io.WriteString(c.conn, "0\r\n\r\n") }

// serve2 answers each stream of a connection. It pays no heed to windows: all that it sends is read at once.
func (s *spring) serve2(conn net.Conn) {
	if _, err := io.CopyN(io.Discard, conn, int64(len(http2.ClientPreface))); err != nil {
		return
	}
	w := &frameWriter{framer: http2.NewFramer(conn, conn)}
	w.framer.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1000})
	for {
		f, err := w.framer.ReadFrame()
		var stream http2.StreamError
		if err != nil && !errors.As(err, &stream) {
			return
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				w.write(func(framer *http2.Framer) { framer.WriteSettingsAck() })
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				w.write(func(framer *http2.Framer) { framer.WritePing(true, f.Data) })
			}
		case *http2.DataFrame:
			w.write(func(framer *http2.Framer) { framer.WriteWindowUpdate(0, max(1, f.Length)) })
			if f.StreamEnded() {
				w.head(f.StreamID)
				s.answer(&frameBody{w, f.StreamID})
			}
		}
	}
}

// frameWriter writes those of a connection's streams, one at a time.
type frameWriter struct {
	mu     sync.Mutex
	framer *http2.Framer
}

func (w *frameWriter) write(frame func(*http2.Framer)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	frame(w.framer)
}

func (w *frameWriter) head(stream uint32) {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	e.SetMaxDynamicTableSize(0) // each block stands by itself
	e.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	e.WriteField(hpack.HeaderField{Name: "content-type", Value: "text/event-stream"})
	w.write(func(framer *http2.Framer) {
		framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true})
	})
}

// frameBody is a body of HTTP/2.
type frameBody struct {
	conn   *frameWriter
	stream uint32
}

func (b *frameBody) send(events []byte) { b.data(events, false) }
func (b *frameBody) finish()            { b.data(nil, true) }

func (b *frameBody) data(p []byte, end bool) {
	b.conn.mu.Lock()
	defer b.conn.mu.Unlock()
	b.conn.framer.WriteData(b.stream, end, p)
}
