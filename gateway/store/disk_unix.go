//go:build darwin || dragonfly || freebsd || linux

package store

import (
	"os"
	"syscall"
)

// lock fails with EWOULDBLOCK where another process holds it. It ends with the file, and so with the process, however
// that ends.
func lock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }

// space is what this user may still write to the disk, and its whole size, in bytes.
func (d *directory) space() (free, size int64, ok bool) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(d.path, &s); err != nil {
		return 0, 0, false
	}
	return int64(s.Bavail) * int64(s.Bsize), int64(s.Blocks) * int64(s.Bsize), true
}
