//go:build !unix

package main

import (
	"errors"
	"syscall"
)

func narrow(_, _ string, _ syscall.RawConn) error {
	return errors.New("slow readers need a Unix system")
}
