//go:build failpoints

// Package failpoint stops the process where the test that kills it wants it.
package failpoint

import (
	"fmt"
	"os"
)

// At stays where it is called, for ever, if the environment names this place.
func At(name string) {
	if os.Getenv("SLUICE_STOP_AT") == name {
		fmt.Fprintln(os.Stderr, "stopped at", name)
		select {}
	}
}
