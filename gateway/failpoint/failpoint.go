//go:build !failpoints

// Package failpoint marks the places where the test that kills the process can have it stop.
package failpoint

// At does nothing: only builds with the tag failpoints, which are made to be killed, can stop.
func At(string) {}
