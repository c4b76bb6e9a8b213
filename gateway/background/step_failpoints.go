//go:build failpoints

package background

import (
	"fmt"
	"os"
)

// step stays where it is called, for ever, if the environment says so. Only builds with the tag failpoints, which are
// made to be killed, have this.
func step(name string) {
	if os.Getenv("SLUICE_STOP_AT") == name {
		fmt.Fprintln(os.Stderr, "stopped at", name)
		select {}
	}
}
