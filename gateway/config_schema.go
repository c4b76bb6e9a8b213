package gateway

import (
	"crypto/x509"
	"errors"
	"regexp"
	"slices"
	"strings"
	"time"
)

// laterSections are those that a later version will have.
var laterSections []string

// schema is every key there is, with what becomes of its value.
func (d *decoder) schema() rules {
	c := &d.config
	return rules{
		"server": d.section(rules{
			"listen":       d.address(&c.Server.Listen, ":8080"),
			"admin_listen": d.address(&c.Server.AdminListen, "127.0.0.1:8081"),
			"public_url":   {set: d.publicURL},
			"tls": d.section(rules{
				"cert_file": d.text(&c.Server.TLS.CertFile, "/etc/sluice/tls.crt"),
				"key_file":  d.text(&c.Server.TLS.KeyFile, "/etc/sluice/tls.key"),
			}),
			"h2c":          d.word(func(w string) { c.Server.H2C = w == "true" }, "true", "false"),
			"cors_origins": {set: d.corsOrigins},
			"drain":        d.duration(&c.Server.Drain, 0),
		}),
		"upstream": d.section(rules{
			"base_url":       {set: d.baseURL},
			"api_key":        {set: d.apiKey},
			"ca_file":        {set: d.caFile},
			"max_concurrent": d.count(&c.Upstream.MaxConcurrent),
			"queue_wait":     d.duration(&c.Upstream.QueueWait, 0),
			"stall_timeout":  d.duration(&c.Upstream.StallTimeout, time.Millisecond),
			"timeout":        d.duration(&c.Upstream.Timeout, time.Millisecond),
			"forward_paths":  {set: d.forwardPaths},
		}),
		"auth": d.section(rules{
			"keys":            {set: d.keys},
			"jwt":             d.jwt(),
			"default_plan":    {set: d.defaultPlan},
			"trusted_proxies": {set: d.trustedProxies},
			"user_header":     {set: d.userHeader},
			"ticket_secret":   {set: d.ticketSecret},
			"anonymous_plan":  {set: d.anonymousPlan},
		}),
		"plans": {set: d.plans},
		"relay": d.section(rules{
			"hold":          d.duration(&c.Relay.Hold, 0),
			"ping_interval": d.duration(&c.Relay.PingInterval, time.Millisecond),
			"stall_timeout": d.duration(&c.Relay.StallTimeout, time.Millisecond),
			"abandon_after": d.section(rules{
				"messages": d.durationOrNever(&c.Relay.AbandonAfter.Messages),
				"streams":  d.durationOrNever(&c.Relay.AbandonAfter.Streams),
			}),
			"retention": d.duration(&c.Relay.Retention, time.Millisecond),
			"memory":    d.size(&c.Relay.Memory),
		}),
		"store": d.section(rules{
			"dir":      {set: d.storeDir},
			"nats_url": {set: d.natsURL},
		}),
		"background": d.section(rules{
			"concurrency": {set: d.concurrency},
			"retention":   d.duration(&c.Background.Retention, time.Minute),
		}),
		"callbacks": d.section(rules{
			"secrets":       {set: d.callbackSecrets},
			"allow_hosts":   {set: d.allowHosts},
			"allow_private": {set: d.allowPrivate},
		}),
		"log": d.section(rules{
			// UnmarshalText cannot fail: word lets only these through.
			"level":  d.word(func(w string) { _ = c.Log.Level.UnmarshalText([]byte(w)) }, "debug", "info", "warn", "error"),
			"format": d.word(func(w string) { c.Log.Format = w }, "text", "json"),
		}),
	}
}

func (d *decoder) publicURL(v value) {
	const example = "https://sluice.example.com"
	s, ok := d.optional(v, example)
	if !ok || s.text == "" {
		d.config.Server.PublicURL = ""
		return
	}
	u, ok := s.webURL(example)
	if ok && u.Path != "" {
		s.fail("has a path; write only scheme and host, as in %s", example)
	} else if ok {
		d.config.Server.PublicURL = u.String()
	}
}

func (d *decoder) baseURL(v value) {
	const example = "https://api.anthropic.com"
	s, ok := d.needed(v, example)
	if !ok {
		return
	}
	u, ok := s.webURL(example)
	if !ok {
		return
	}
	if strings.HasSuffix(u.Path, "/v1") {
		s.fail("ends in /v1, which each request's path begins with; write it without")
		return
	}
	if u.Scheme == "http" && !loopback(u.Hostname()) {
		d.warn(v, "sends the API key and all content unencrypted; write https unless the network is your own")
	}
	d.config.Upstream.BaseURL = u.String()
}

// headerValue: a line break here, often a file's last one, would break the header.
var headerValue = regexp.MustCompile(`^[\x21-\x7e]+$`)

func (d *decoder) apiKey(v value) {
	s, ok := d.needed(v, `"`+defaultAPIKey+`" and set that variable`)
	if ok && !headerValue.MatchString(s.text) {
		d.fail(v, "has a space, a line break or a character that is not ASCII; no key has")
	} else if ok {
		d.config.Upstream.APIKey = s.text
	}
}

func (d *decoder) caFile(v value) {
	s, ok := d.optional(v, "the name of a PEM file")
	if !ok {
		return
	}
	if s.text != "" && d.readFile != nil {
		pem, err := d.readFile(s.text)
		if err != nil {
			// Without the path: a variable may have put a secret there.
			if inner := errors.Unwrap(err); inner != nil {
				err = inner
			}
			s.fail("cannot be read: %v", err)
			return
		}
		if !x509.NewCertPool().AppendCertsFromPEM(pem) {
			s.fail("holds no certificate; write the name of a PEM file")
			return
		}
	}
	d.config.Upstream.CAFile = s.text
}

// ownRoutes are the paths below which nothing is forwarded as it is.
var ownRoutes = []string{"/v1/callbacks", "/v1/messages", "/v1/models", "/v1/streams", "/v1/usage"}

func ownRoute(path string) bool {
	for _, own := range ownRoutes {
		if path == own || strings.HasPrefix(path, own+"/") || strings.HasPrefix(own, strings.TrimSuffix(path, "/")+"/") {
			return true
		}
	}
	return false
}

func (d *decoder) forwardPaths(v value) {
	const example = "[/v1/files]"
	d.config.Upstream.ForwardPaths = nil
	d.items(v, example, func(item value) {
		s, ok := d.needed(item, "a path such as /v1/files")
		switch {
		case !ok:
		case !strings.HasPrefix(s.text, "/v1/"):
			s.fail("does not begin with /v1/; write it as in /v1/files")
		case !cleanPath(s.text):
			s.fail("is not a plain path; write it as in /v1/files")
		case ownRoute(s.text):
			s.fail("holds or lies below a route of the gateway's own (%s), which checks its callers and counts their use", sentence(ownRoutes))
		case slices.Contains(d.config.Upstream.ForwardPaths, s.text):
			s.fail("is given twice")
		default:
			d.config.Upstream.ForwardPaths = append(d.config.Upstream.ForwardPaths, s.text)
		}
	})
}
