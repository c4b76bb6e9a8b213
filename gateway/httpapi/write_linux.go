package httpapi

import (
	"syscall"
	"unsafe"
)

// writeNow writes to a non-blocking descriptor what it takes at once.
//
// The call is made without telling the scheduler, which need not know of one that never waits. In three alternating
// rounds of 20,000 events a second this took between 3 % more and 7 % less CPU: little, and most where the machine was
// slow.
func writeNow(fd uintptr, b []byte) int {
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if errno == 0 {
			return int(n)
		}
		if errno != syscall.EINTR {
			return 0
		}
	}
}
