//go:build unix

package main

import (
	"errors"
	"syscall"
)

// narrow bounds what the kernel takes in for a socket that nobody reads.
func narrow(_, _ string, raw syscall.RawConn) error {
	var refused error
	err := raw.Control(func(fd uintptr) {
		refused = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096)
	})
	return errors.Join(err, refused)
}
