package httpapi

import (
	"crypto/tls"
	"net"

	"golang.org/x/sys/unix"
)

// maxUnsent is how much the kernel takes for a reader beyond what is on its way. Without it, it would swallow megabytes,
// and a reader that has stopped would look like one in pace.
const maxUnsent = 16 << 10

// limitUnsent bounds what the kernel buffers for this connection: by TCP_NOTSENT_LOWAT, or where the kernel hasn't it by
// the send buffer. A connection that is not TCP stays as it is.
func limitUnsent(conn net.Conn) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxUnsent)
	})
	if err != nil {
		tcp.SetWriteBuffer(2 * maxUnsent)
	}
}
