//go:build unix && !linux

package httpapi

import "syscall"

// writeNow writes to a non-blocking descriptor what it takes at once.
func writeNow(fd uintptr, b []byte) int {
	for {
		n, err := syscall.Write(int(fd), b)
		if err != syscall.EINTR {
			return n
		}
	}
}
