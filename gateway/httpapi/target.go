package httpapi

import (
	"net/http"
	"net/url"
	"strings"

	"sluice/gateway/claude"
)

// checkTarget refuses a query or a host that no URL can have. Both are written on, the query into the request to the
// upstream and the host into the URLs of answers, and net/http looks closely only where they come in HTTP/1.1's lines: in
// the fields of HTTP/2 a space passes, which in a line for the upstream would end the target.
func checkTarget(r *http.Request) error {
	if strings.ContainsFunc(r.URL.RawQuery, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '#' }) {
		return refuse(http.StatusBadRequest, claude.InvalidRequest, "The URL's query has characters that must be escaped.")
	}
	if !validHost(r) {
		return refuse(http.StatusBadRequest, claude.InvalidRequest, "The Host is not one.")
	}
	return nil
}

// validHost reports whether the request names a host, with or without a port. HTTP/1.0 need not.
func validHost(r *http.Request) bool {
	if r.Host == "" {
		return !r.ProtoAtLeast(1, 1)
	}
	odd := func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune(".-_:[]", c))
	}
	if strings.ContainsFunc(r.Host, odd) {
		return false
	}
	u, err := url.Parse("http://" + r.Host)
	return err == nil && u.Host == r.Host && u.Hostname() != ""
}
