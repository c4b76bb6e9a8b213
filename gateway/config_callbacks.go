package gateway

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Callbacks is how the ends of streams and batches are told to those who asked.
type Callbacks struct {
	Secrets      []string // masters of the owners' secrets, the one that signs first; empty: one that the store keeps
	AllowHosts   []string // lower-case "host" or "host:port", exempt from https, port 443 and public addresses
	AllowPrivate bool     // private addresses may be called under any name
}

// minCallbackSecret is 128 bits of hex: every receiver holds what was derived from it, and can try others against that.
const minCallbackSecret = 32

func (d *decoder) callbackSecrets(v value) {
	d.config.Callbacks.Secrets = nil
	d.items(v, `["${SLUICE_CALLBACK_SECRET}"]`, func(item value) {
		s, ok := d.needed(item, "what `openssl rand -hex 32` prints, or a variable that holds it")
		switch {
		case !ok:
			return
		case slices.Contains(d.config.Callbacks.Secrets, s.text):
			d.fail(item, "is given twice")
			return
		case len(s.text) < minCallbackSecret:
			d.warn(item, fmt.Sprintf("is shorter than %d characters and may be guessed; write what `openssl rand -hex 32` prints", minCallbackSecret))
		}
		d.config.Callbacks.Secrets = append(d.config.Callbacks.Secrets, s.text)
	})
}

func (d *decoder) allowHosts(v value) {
	const example = "receiver.internal or receiver.internal:8443"
	d.config.Callbacks.AllowHosts = nil
	d.items(v, "[receiver.internal]", func(item value) {
		s, ok := d.needed(item, "a host such as "+example)
		if !ok {
			return
		}
		entry, ok := hostAndPort(s.text)
		if !ok {
			s.fail("is no host; write it as in %s", example)
			return
		}
		d.config.Callbacks.AllowHosts = append(d.config.Callbacks.AllowHosts, entry)
	})
}

func (d *decoder) allowPrivate(v value) {
	d.word(func(w string) { d.config.Callbacks.AllowPrivate = w == "true" }, "true", "false").set(v)
	if d.config.Callbacks.AllowPrivate {
		d.warn(v, "lets everybody who may call send requests into your private network; allow_hosts names single hosts")
	}
}

// hostAndPort returns a name or address, with a port or without, as URLs are compared with it.
func hostAndPort(text string) (entry string, ok bool) {
	text = strings.ToLower(text)
	if ip, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return ip.String(), ip.Zone() == ""
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port = text, ""
	} else if !validPort(port) {
		return "", false
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.String()
		ok = ip.Zone() == ""
	} else {
		ok = hostName.MatchString(host)
	}
	if port != "" {
		return net.JoinHostPort(host, port), ok
	}
	return host, ok
}
