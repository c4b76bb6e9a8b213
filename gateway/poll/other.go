//go:build !linux || 386

package poll

import "net"

// Pollers take nothing here.
type Pollers struct{}

// New is nil: there are none.
func New() *Pollers { return nil }

// Take says that it is not ok.
func (*Pollers) Take(net.Conn) (*Conn, bool) { return nil, false }

// Stop does nothing.
func (*Pollers) Stop() {}

// Stopped is false.
func (*Pollers) Stopped() bool { return false }

// Conn is a connection that was taken: there is none.
type Conn struct{ net.Conn }

// Push is never called.
func (*Conn) Push(Sink) {}

// TryWrite is never called.
func (*Conn) TryWrite([]byte) int { return 0 }

// Quiet is never called.
func (*Conn) Quiet() bool { return false }

// Writable is never called.
func (*Conn) Writable() bool { return false }
