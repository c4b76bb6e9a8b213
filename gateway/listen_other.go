//go:build !linux

package gateway

import "net"

// callersListener listens for callers.
func callersListener() net.ListenConfig { return net.ListenConfig{} }
