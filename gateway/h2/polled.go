package h2

import (
	"crypto/tls"
	"math"
	"net"
	"sync"

	"sluice/gateway/poll"
)

// socket is the connection under TLS. First whoever shakes hands reads it; once its poller does, Read gives what has
// arrived, and errNothing where that is used up.
type socket struct {
	net.Conn
	polled  *poll.Conn // nil: it is read
	pushed  bool
	arrived []byte
	records recordCount
}

func (s *socket) Read(p []byte) (int, error) {
	if !s.pushed {
		n, err := s.Conn.Read(p)
		s.records.add(p[:n])
		return n, err
	}
	if len(s.arrived) == 0 {
		return 0, errNothing{}
	}
	n := copy(p, s.arrived)
	s.arrived = s.arrived[n:]
	return n, nil
}

// recordCount finds the ends of TLS records (RFC 8446 §5.1) in bytes as they arrive. To ask crypto/tls for one that is not
// whole costs an allocation.
type recordCount struct {
	header [5]byte
	known  int // bytes of the header at hand
	left   int // bytes of the record behind it
}

// add returns how many records p completes.
func (r *recordCount) add(p []byte) (whole int) {
	for len(p) > 0 {
		n := copy(r.header[r.known:], p)
		r.known += n
		p = p[n:]
		if r.known < len(r.header) {
			return whole
		}
		if n > 0 {
			r.left = int(r.header[3])<<8 | int(r.header[4])
		}
		n = min(r.left, len(p))
		r.left -= n
		p = p[n:]
		if r.left == 0 {
			r.known = 0
			whole++
		}
	}
	return whole
}

// socketOf is the socket that a connection's poller can read.
func socketOf(nc net.Conn) (s *socket, polled bool) {
	if t, ok := nc.(*tls.Conn); ok {
		if s, ok = t.NetConn().(*socket); ok {
			return s, s.polled != nil
		}
	}
	return nil, false
}

// errNothing is a failure that crypto/tls takes for one that passes: it keeps what it has, and may be asked again.
type errNothing struct{}

func (errNothing) Error() string   { return "nothing has arrived" }
func (errNothing) Timeout() bool   { return true }
func (errNothing) Temporary() bool { return true }

// arrival is a connection as its poller sees it.
type arrival struct {
	conn   *conn
	socket *socket
	over   bool
}

// poll hands what arrives on the connection to its poller.
func (c *conn) poll(s *socket) {
	a := &arrival{conn: c, socket: s}
	s.pushed = true
	a.read(math.MaxInt) // what has come with the handshake's end
	s.polled.Push(a)
}

// records hold what is decrypted: no connection needs room while nothing arrives.
var records = sync.Pool{New: func() any { return new([maxFrame]byte) }}

// Data gets what has arrived.
func (a *arrival) Data(p []byte) {
	if a.over {
		return
	}
	a.socket.arrived = p
	a.read(a.socket.records.add(p))
}

// read takes records, at least as many as are whole, and leaves nothing that has arrived with the poller.
func (a *arrival) read(whole int) {
	buffer := records.Get().(*[maxFrame]byte)
	defer records.Put(buffer)
	defer a.conn.flush()
	for ; whole > 0 || len(a.socket.arrived) > 0; whole-- {
		n, err := a.conn.nc.Read(buffer[:])
		if n > 0 {
			if failed := a.conn.frames(buffer[:n]); failed != nil {
				err = failed
			}
		}
		if err == (errNothing{}) {
			return
		}
		if err != nil {
			a.End(err)
			return
		}
	}
}

// End is the connection's end.
func (a *arrival) End(err error) {
	if !a.over {
		a.over = true
		a.conn.fail(err)
	}
}
