//go:build !linux

package httpapi

import (
	"crypto/tls"
	"net"
)

// limitUnsent bounds what the kernel buffers for a reader, so that one that has stopped is noticed.
func limitUnsent(conn net.Conn) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetWriteBuffer(32 << 10)
	}
}
