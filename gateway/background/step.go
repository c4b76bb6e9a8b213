//go:build !failpoints

package background

// step marks a place where the test that kills the process can have it stop: see step_failpoints.go.
func step(string) {}
