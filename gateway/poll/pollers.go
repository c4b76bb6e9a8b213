//go:build linux && !386

package poll

import (
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Pollers are the goroutines that wait for connections. They start with the first connection; once they have been told to
// stop they end when they have none, and start again where one comes all the same. A nil *Pollers takes nothing.
type Pollers struct {
	mu      sync.Mutex
	all     []*poller
	next    int
	stopped bool
}

// New has none running yet.
func New() *Pollers { return &Pollers{} }

// Take takes a TCP connection from the runtime's poller. nc must not be used any more, by anybody, if it is ok; else it
// is as it was. Nobody may be waiting in one of its methods.
func (ps *Pollers) Take(nc net.Conn) (c *Conn, ok bool) {
	tcp, isTCP := nc.(*net.TCPConn)
	if ps == nil || !isTCP {
		return nil, false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, false
	}
	fd := -1
	raw.Control(func(old uintptr) {
		if n, _, errno := syscall.Syscall(syscall.SYS_FCNTL, old, syscall.F_DUPFD_CLOEXEC, 0); errno == 0 {
			fd = int(n)
		}
	})
	if fd < 0 {
		return nil, false
	}
	c = &Conn{fd: fd, local: tcp.LocalAddr(), remote: tcp.RemoteAddr()}
	if err := ps.add(c); err != nil {
		syscall.Close(fd)
		return nil, false
	}
	tcp.Close() // the runtime's half; the connection lives on
	return c, true
}

func (ps *Pollers) add(c *Conn) error {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	// Half of the cores at most wait and relay, so that there is always one for everything else: a thread that has one and
	// sleeps in the kernel keeps it for some milliseconds.
	if len(ps.all) < max(1, runtime.GOMAXPROCS(0)/2) {
		p, err := newPoller(ps)
		if err != nil {
			return err
		}
		ps.all = append(ps.all, p)
	}
	ps.next++
	c.poller = ps.all[ps.next%len(ps.all)]
	return c.poller.add(c)
}

// Stop lets the goroutines end as soon as they have no connection.
func (ps *Pollers) Stop() {
	if ps == nil {
		return
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.stopped = true
	ps.sweepLocked()
}

// Stopped reports whether they have been told to stop: what is kept open for later would keep them.
func (ps *Pollers) Stopped() bool {
	if ps == nil {
		return false
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return ps.stopped
}

func (ps *Pollers) sweepLocked() {
	if !ps.stopped {
		return
	}
	for _, p := range ps.all {
		if !p.empty() {
			return
		}
	}
	for _, p := range ps.all {
		p.stop()
	}
	ps.all = nil
}

// poller is one goroutine and its epoll instance.
type poller struct {
	owner *Pollers
	fd    int
	stops int // an eventfd that ends it

	mu    sync.Mutex
	conns []*Conn // by descriptor: the kernel gives the lowest that is free
	count int
}

func newPoller(owner *Pollers) (*poller, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	stops, _, errno := syscall.Syscall(syscall.SYS_EVENTFD2, 0, syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if errno != 0 {
		syscall.Close(fd)
		return nil, os.NewSyscallError("eventfd2", errno)
	}
	p := &poller{owner: owner, fd: fd, stops: int(stops)}
	if err := syscall.EpollCtl(fd, syscall.EPOLL_CTL_ADD, p.stops, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(p.stops)}); err != nil {
		syscall.Close(p.stops)
		syscall.Close(fd)
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	go p.run()
	return p, nil
}

// Edges are enough: a socket is read, or written to, until it says that it would block.
const (
	edge    = 1 << 31 // EPOLLET, which package syscall has as a negative number
	wanted  = syscall.EPOLLIN | syscall.EPOLLRDHUP | edge
	hungUp  = syscall.EPOLLRDHUP | syscall.EPOLLHUP | syscall.EPOLLERR
	toRead  = syscall.EPOLLIN | hungUp
	toWrite = syscall.EPOLLOUT | syscall.EPOLLHUP | syscall.EPOLLERR
)

func (p *poller) add(c *Conn) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.fd >= len(p.conns) {
		p.conns = append(p.conns, make([]*Conn, c.fd+1-len(p.conns))...)
	}
	p.conns[c.fd] = c
	err := syscall.EpollCtl(p.fd, syscall.EPOLL_CTL_ADD, c.fd, &syscall.EpollEvent{Events: wanted, Fd: int32(c.fd)})
	if err != nil {
		p.conns[c.fd] = nil
		return os.NewSyscallError("epoll_ctl", err)
	}
	p.count++
	return nil
}

// arm lets the poller tell, too, when a connection can be written to: at once if it can.
func (p *poller) arm(c *Conn) {
	syscall.EpollCtl(p.fd, syscall.EPOLL_CTL_MOD, c.fd, &syscall.EpollEvent{Events: wanted | syscall.EPOLLOUT, Fd: int32(c.fd)})
}

// remove forgets a connection, whose descriptor must still be open: from then on its number may be another's.
func (p *poller) remove(c *Conn) {
	p.mu.Lock()
	p.conns[c.fd] = nil
	p.count--
	last := p.count == 0
	p.mu.Unlock()
	if last {
		p.owner.mu.Lock()
		defer p.owner.mu.Unlock()
		p.owner.sweepLocked()
	}
}

func (p *poller) empty() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count == 0
}

func (p *poller) stop() {
	one := [8]byte{1, 0, 0, 0, 0, 0, 0, 0}
	syscall.Write(p.stops, one[:])
}

const (
	// readSize is as much as one connection may bring before the next one's turn: some hundred events of text.
	readSize = 64 << 10

	// shortWait is for how long a poller waits without giving up its place in the scheduler (its P), if that is not the only
	// one. With events that come more often it is never given up: to do so takes two futex calls, and keeps the runtime's
	// monitor looking every 20 us, which was a sixth of the CPU of opening 1,000 streams a second. Busy goroutines beside
	// it get as much done as with the P given up each time.
	shortWait = time.Millisecond

	// yieldTime is after how long the goroutine lets the scheduler see that it is alive. From 10 ms on the scheduler would
	// take its core from it at the next wait, and give it another after it, each time.
	yieldTime = 5 * time.Millisecond
)

func (p *poller) run() {
	events, buffer := make([]syscall.EpollEvent, 128), make([]byte, readSize)
	yielded, only := time.Now(), runtime.GOMAXPROCS(0) == 1
	for {
		for _, e := range events[:p.wait(events, only)] {
			if int(e.Fd) == p.stops {
				syscall.Close(p.stops)
				syscall.Close(p.fd)
				return
			}
			p.mu.Lock()
			c := p.conns[e.Fd]
			p.mu.Unlock()
			if c == nil {
				continue
			}
			if e.Events&toWrite != 0 {
				c.w.signal()
			}
			if e.Events&toRead != 0 {
				c.readable(buffer, e.Events&hungUp != 0)
			}
		}
		if now := time.Now(); now.Sub(yielded) > yieldTime {
			yielded, only = now, runtime.GOMAXPROCS(0) == 1 // which may change
			runtime.Gosched()
		}
	}
}

// wait waits for events, and returns how many have come: none where a signal did, such as the runtime's, which wants the
// goroutine's P.
func (p *poller) wait(events []syscall.EpollEvent, only bool) int {
	if !only {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(p.fd), uintptr(unsafe.Pointer(unsafe.SliceData(events))),
			uintptr(len(events)), uintptr(shortWait/time.Millisecond), 0, 0)
		if errno == syscall.EINTR {
			return 0
		}
		if errno == 0 && n > 0 {
			return int(n)
		}
	}
	came, err := syscall.EpollWait(p.fd, events, -1)
	if err != nil && err != syscall.EINTR {
		panic(os.NewSyscallError("epoll_wait", err)) // no argument of the call was right
	}
	return max(came, 0)
}
