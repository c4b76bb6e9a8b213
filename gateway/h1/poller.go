//go:build linux

package h1

import (
	"os"
	"runtime"
	"sync"
	"syscall"
)

// pollers are the goroutines that wait for sockets, one a core: each event is handled where it is read, up to the write
// to a viewer. They start with the first socket. Once they have been told to stop they end when they have none, and start
// again where one comes all the same.
type pollers struct {
	mu    sync.Mutex
	all   []*poller
	next  int
	ended bool // from now on, they end as soon as they have nothing
}

// add lets the next poller call body.ready when there is something to read on its socket.
func (ps *pollers) add(fd int, b *Body) (*poller, error) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if len(ps.all) < runtime.GOMAXPROCS(0) {
		p, err := newPoller(ps)
		if err != nil {
			return nil, err
		}
		ps.all = append(ps.all, p)
	}
	ps.next++
	p := ps.all[ps.next%len(ps.all)]
	return p, p.add(fd, b)
}

func (ps *pollers) stop() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.ended = true
	ps.sweepLocked()
}

func (ps *pollers) sweepLocked() {
	if !ps.ended {
		return
	}
	for _, p := range ps.all {
		if !p.empty() {
			return
		}
	}
	for _, p := range ps.all {
		go p.file.Close() // which waits for its goroutine, and that may be this one
	}
	ps.all = nil
}

// poller waits for many sockets on one goroutine, which itself waits as all goroutines do: an epoll instance can be
// polled, too.
type poller struct {
	owner *pollers
	fd    int
	file  *os.File

	mu     sync.Mutex
	bodies map[int]*Body
}

func newPoller(owner *pollers) (*poller, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := syscall.SetNonblock(fd, true); err != nil { // or os would not poll it
		syscall.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	p := &poller{owner: owner, fd: fd, file: os.NewFile(uintptr(fd), "epoll"), bodies: make(map[int]*Body)}
	raw, err := p.file.SyscallConn()
	if err != nil {
		p.file.Close()
		return nil, err
	}
	go p.run(raw)
	return p, nil
}

// Edges are enough: a socket is read until it is known to be empty.
const (
	edge   = 1 << 31 // EPOLLET, which package syscall has as a negative number
	wanted = syscall.EPOLLIN | syscall.EPOLLRDHUP | edge
	hungUp = syscall.EPOLLRDHUP | syscall.EPOLLHUP | syscall.EPOLLERR
)

func (p *poller) add(fd int, b *Body) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bodies[fd] = b
	err := syscall.EpollCtl(p.fd, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: wanted, Fd: int32(fd)})
	if err != nil {
		delete(p.bodies, fd)
	}
	return os.NewSyscallError("epoll_ctl", err)
}

// remove forgets a socket, which must still be open.
func (p *poller) remove(fd int) {
	p.mu.Lock()
	delete(p.bodies, fd)
	syscall.EpollCtl(p.fd, syscall.EPOLL_CTL_DEL, fd, nil)
	last := len(p.bodies) == 0
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
	return len(p.bodies) == 0
}

// readSize is as much as one answer may bring before the next one's turn: some hundred events of text.
const readSize = 64 << 10

// run reads what arrives. The one Read call lasts as long as the poller: between two calls an edge could be lost.
func (p *poller) run(raw syscall.RawConn) {
	events, buffer := make([]syscall.EpollEvent, 128), make([]byte, readSize)
	raw.Read(func(fd uintptr) bool {
		for {
			n, err := syscall.EpollWait(int(fd), events, 0)
			if err == syscall.EINTR {
				continue
			}
			for _, e := range events[:max(n, 0)] {
				p.mu.Lock()
				b := p.bodies[int(e.Fd)]
				p.mu.Unlock()
				if b != nil {
					b.ready(buffer, e.Events&hungUp != 0)
				}
			}
			if n < len(events) {
				return false // wait for the next
			}
		}
	})
}
