package gateway

import (
	"crypto/tls"
	"errors"
	"net/url"
	"slices"
	"strings"
)

// corsOrigins reads server.cors_origins. Browsers send an origin as scheme, host and a port that is not the scheme's
// own, all in lower case, and it is compared as it is; so whatever is written otherwise would never be met.
func (d *decoder) corsOrigins(v value) {
	const example = "https://app.example.com"
	d.config.Server.CORSOrigins = nil
	d.items(v, "["+example+"]", func(item value) {
		s, ok := d.needed(item, "an origin such as "+example)
		if !ok {
			return
		}
		origin := s.text
		if origin == "*" {
			d.warn(item, "lets every page on the web call, with whatever key its visitor has; cookies and other ambient credentials stay refused")
		} else {
			u, ok := s.webURL(example)
			if !ok {
				return
			}
			if u.Path != "" {
				s.fail("has a path; an origin is scheme and host, as in %s", example)
				return
			}
			origin = originOf(u)
		}
		if slices.Contains(d.config.Server.CORSOrigins, origin) {
			s.fail("is given twice")
			return
		}
		d.config.Server.CORSOrigins = append(d.config.Server.CORSOrigins, origin)
	})
	if slices.Contains(d.config.Server.CORSOrigins, "*") && len(d.config.Server.CORSOrigins) > 1 {
		d.fail(v, `has "*" beside others; it stands for all, so write it alone or not at all`)
	}
}

// originOf is a URL's origin as browsers write it.
func originOf(u *url.URL) string {
	host := strings.ToLower(u.Host)
	if p := u.Port(); u.Scheme == "https" && p == "443" || u.Scheme == "http" && p == "80" {
		host = strings.TrimSuffix(host, ":"+p)
	}
	return u.Scheme + "://" + host
}

// checkTLS looks at the certificate and its key, which only together say whether they are good.
func (d *decoder) checkTLS() {
	c := d.config.Server.TLS
	switch {
	case c == TLS{}:
		return
	case c.CertFile == "":
		d.failNear("is missing; server.tls.key_file needs it", "server.tls.cert_file", "server.tls.key_file")
		return
	case c.KeyFile == "":
		d.failNear("is missing; server.tls.cert_file needs it", "server.tls.key_file", "server.tls.cert_file")
		return
	case d.readFile == nil:
		return
	}
	read := func(key, name string) []byte {
		pem, err := d.readFile(name)
		if err != nil {
			if inner := errors.Unwrap(err); inner != nil { // without the path: a variable may have put a secret there
				err = inner
			}
			d.failNear("names a file that cannot be read: "+err.Error(), key)
		}
		return pem
	}
	cert, key := read("server.tls.cert_file", c.CertFile), read("server.tls.key_file", c.KeyFile)
	if cert == nil || key == nil {
		return
	}
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		d.failNear("and server.tls.key_file are no pair of a certificate and its key in PEM: "+strings.TrimPrefix(err.Error(), "tls: "), "server.tls.cert_file")
	}
}
