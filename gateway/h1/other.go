//go:build !linux

package h1

import (
	"context"
	"net"
	"net/http"
	"net/url"
)

// Transport leaves everything to Other.
type Transport struct {
	Dial  func(ctx context.Context, network, address string) (net.Conn, error)
	Proxy func(*http.Request) (*url.URL, error)
	Other http.RoundTripper
}

// RoundTrip is http.RoundTripper's.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	return t.Other.RoundTrip(req)
}

// CloseIdleConnections closes the connections that carry nothing.
func (t *Transport) CloseIdleConnections() {
	if other, ok := t.Other.(interface{ CloseIdleConnections() }); ok {
		other.CloseIdleConnections()
	}
}
