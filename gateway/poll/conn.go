//go:build linux && !386

package poll

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Conn is a TCP connection. One goroutine at a time may read, and one write; everything else is safe for use by many.
type Conn struct {
	poller        *poller
	fd            int // valid while neither side is closed
	local, remote net.Addr

	r, w side

	pushing sync.Mutex // held while the sink is called
	sink    Sink       // who gets what arrives; guarded by r.mu, as are the next two
	missed  bool       // something has arrived, or may have, that nobody has read
	hungUp  bool       // the other side has closed, or the connection is lost: there is something to read, then the end
	armed   bool       // the poller tells when it can be written to; guarded by w.mu
}

// side is one direction of a connection.
type side struct {
	mu       sync.Mutex
	closed   bool
	deadline time.Time
	wake     chan struct{} // gets a value where it may be worth another try; nil until somebody waits
}

// signal lets who waits try again.
func (s *side) signal() {
	s.mu.Lock()
	s.signalLocked()
	s.mu.Unlock()
}

func (s *side) signalLocked() {
	if s.wake == nil {
		return
	}
	select {
	case s.wake <- struct{}{}:
	default: // one is there already
	}
}

// waiterLocked is where the next signal will come. It must be got under the lock under which the try has failed.
func (s *side) waiterLocked() <-chan struct{} {
	if s.wake == nil {
		s.wake = make(chan struct{}, 1)
	}
	return s.wake
}

// wait waits for a signal or the deadline.
func wait(wake <-chan struct{}, deadline time.Time) error {
	if deadline.IsZero() {
		<-wake
		return nil
	}
	left := time.Until(deadline)
	if left <= 0 {
		return os.ErrDeadlineExceeded
	}
	t := time.NewTimer(left)
	defer t.Stop()
	select {
	case <-wake:
		return nil
	case <-t.C:
		return os.ErrDeadlineExceeded
	}
}

// Push hands what arrives to a sink from now on; with nil it stays until it is read or there is a sink again. It must
// not be called beside Read, and not with a sink by the sink that there is.
func (c *Conn) Push(s Sink) {
	c.r.mu.Lock()
	if c.r.closed {
		c.r.mu.Unlock()
		if s != nil {
			s.End(net.ErrClosed)
		}
		return
	}
	c.sink = s
	missed := c.missed && s != nil
	c.r.mu.Unlock()
	if missed {
		b := missedBuffers.Get().(*[4 << 10]byte)
		defer missedBuffers.Put(b)
		c.readable(b[:], false)
	}
}

// missedBuffers are for what arrived while nobody was there to get it.
var missedBuffers = sync.Pool{New: func() any { return new([4 << 10]byte) }}

// readable hands on what has arrived. Where the other side has closed it reads to the end; else one read that does not
// fill the buffer has emptied the socket.
func (c *Conn) readable(buffer []byte, hungUp bool) {
	c.r.mu.Lock()
	c.hungUp = c.hungUp || hungUp
	if c.sink == nil {
		c.missed = true
		c.r.signalLocked()
		c.r.mu.Unlock()
		return
	}
	c.r.mu.Unlock()
	c.pushing.Lock()
	defer c.pushing.Unlock()
	for {
		c.r.mu.Lock()
		s := c.sink
		if c.r.closed || s == nil {
			c.missed = true
			c.r.mu.Unlock()
			return
		}
		n, err := retried(syscall.Read, c.fd, buffer)
		if err == nil && n == 0 {
			err = io.EOF
		}
		if err != nil && err != syscall.EAGAIN {
			c.sink = nil // it has its end
		}
		c.missed = false
		more := c.hungUp || n == len(buffer)
		c.r.mu.Unlock()
		switch {
		case err == syscall.EAGAIN:
			return
		case err == io.EOF:
			s.End(err)
			return
		case err != nil:
			s.End(os.NewSyscallError("read", err))
			return
		default:
			s.Data(buffer[:n])
			if !more {
				return
			}
		}
	}
}

// Read is net.Conn's.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		c.r.mu.Lock()
		if c.r.closed {
			c.r.mu.Unlock()
			return 0, net.ErrClosed
		}
		deadline := c.r.deadline
		if !deadline.IsZero() && !time.Now().Before(deadline) {
			c.r.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		}
		n, err := retried(syscall.Read, c.fd, p)
		c.missed = c.hungUp || n == len(p)
		var wake <-chan struct{}
		if err == syscall.EAGAIN {
			wake = c.r.waiterLocked()
		}
		c.r.mu.Unlock()
		switch {
		case err == syscall.EAGAIN:
			if err := wait(wake, deadline); err != nil {
				return 0, err
			}
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// Write is net.Conn's.
func (c *Conn) Write(p []byte) (n int, err error) {
	for n < len(p) {
		c.w.mu.Lock()
		if c.w.closed {
			c.w.mu.Unlock()
			return n, net.ErrClosed
		}
		deadline := c.w.deadline
		if !deadline.IsZero() && !time.Now().Before(deadline) {
			c.w.mu.Unlock()
			return n, os.ErrDeadlineExceeded
		}
		m, err := retried(syscall.Write, c.fd, p[n:])
		var wake <-chan struct{}
		if err == syscall.EAGAIN {
			wake = c.w.waiterLocked()
			if !c.armed { // most never wait: one event less for each
				c.armed = true
				c.poller.arm(c)
			}
		}
		c.w.mu.Unlock()
		n += m
		switch {
		case err == syscall.EAGAIN:
			if err := wait(wake, deadline); err != nil {
				return n, err
			}
		case err != nil:
			return n, os.NewSyscallError("write", err)
		}
	}
	return n, nil
}

// TryWrite writes what the connection takes at once, and returns how much that was. Its errors come again with the next
// Write. It must not be called beside Write.
func (c *Conn) TryWrite(p []byte) int {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if c.w.closed {
		return 0
	}
	n, _ := retried(writeNow, c.fd, p)
	return n
}

// retried makes a call until no signal comes between.
func retried(call func(int, []byte) (int, error), fd int, p []byte) (int, error) {
	for {
		n, err := call(fd, p)
		if err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}

// Writable reports whether the connection takes bytes now.
func (c *Conn) Writable() bool {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if c.w.closed {
		return false
	}
	const out = 4 // POLLOUT
	one := struct {
		fd              int32
		events, revents int16
	}{fd: int32(c.fd), events: out}
	var now syscall.Timespec
	n, _, _ := syscall.RawSyscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&one)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
	return n == 1 && one.revents == out // not an error, nor the other side's end
}

// Quiet reports whether nothing has arrived that nobody has read: neither bytes nor the other side's end.
func (c *Conn) Quiet() bool {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	if c.r.closed {
		return false
	}
	var b [1]byte
	_, _, err := syscall.Recvfrom(c.fd, b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	return err == syscall.EAGAIN
}

// Close is net.Conn's. It ends what waits, and may be called more than once.
func (c *Conn) Close() error {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if c.r.closed {
		return net.ErrClosed
	}
	if s := c.sink; s != nil {
		go func() { // a call of it may be under way, and may be what closes
			c.pushing.Lock()
			defer c.pushing.Unlock()
			s.End(net.ErrClosed)
		}()
	}
	c.r.closed, c.w.closed, c.sink = true, true, nil
	c.poller.remove(c)
	syscall.Close(c.fd)
	c.r.signalLocked()
	c.w.signalLocked()
	return nil
}

// LocalAddr is net.Conn's.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is net.Conn's.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline is net.Conn's.
func (c *Conn) SetDeadline(t time.Time) error {
	c.r.setDeadline(t)
	c.w.setDeadline(t)
	return nil
}

// SetReadDeadline is net.Conn's.
func (c *Conn) SetReadDeadline(t time.Time) error { c.r.setDeadline(t); return nil }

// SetWriteDeadline is net.Conn's.
func (c *Conn) SetWriteDeadline(t time.Time) error { c.w.setDeadline(t); return nil }

func (s *side) setDeadline(t time.Time) {
	s.mu.Lock()
	s.deadline = t
	s.signalLocked() // who waits has another one
	s.mu.Unlock()
}
