package gateway

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
)

func (d *decoder) storeDir(v value) {
	if s, ok := d.needed(v, "a directory such as data"); ok {
		d.config.Store.Dir = s.text
	}
}

// natsSchemes are those that the client of the store speaks.
var natsSchemes = []string{"nats", "tls", "ws", "wss"}

func (d *decoder) natsURL(v value) {
	const example = "nats://nats.internal:4222"
	s, ok := d.optional(v, example)
	if !ok {
		return
	}
	for one := range strings.SplitSeq(s.text, ",") {
		if s.text == "" {
			break
		}
		u, err := url.Parse(strings.TrimSpace(one))
		switch {
		case err != nil || !slices.Contains(natsSchemes, u.Scheme):
			s.fail("is not a URL of NATS; write it as in %s, several separated by commas", example)
			return
		case u.Hostname() == "" || u.Port() != "" && !validPort(u.Port()):
			s.fail("names no host, or a port that is none; write it as in %s", example)
			return
		case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
			s.fail("has a path, a query or a fragment; write it as in %s", example)
			return
		}
	}
	d.config.Store.NatsURL = s.text
}

// maxConcurrency is more than one account's limits let run at once; each takes some kilobytes also while it is idle.
const maxConcurrency = 10_000

func (d *decoder) concurrency(v value) {
	s, ok := d.needed(v, "a whole number such as 16")
	if !ok {
		return
	}
	n, err := strconv.Atoi(s.text)
	if err != nil || n < 1 || n > maxConcurrency {
		s.fail("must be a whole number from 1 to %d", maxConcurrency)
		return
	}
	d.config.Background.Concurrency = n
}

// describeStore names hosts only: a URL may hold a password.
func (c Config) describeStore() string {
	if c.Store.NatsURL == "" {
		return "in the directory " + c.Store.Dir
	}
	var hosts []string
	for one := range strings.SplitSeq(c.Store.NatsURL, ",") {
		if u, err := url.Parse(strings.TrimSpace(one)); err == nil {
			hosts = append(hosts, u.Host)
		}
	}
	return "at NATS, " + sentence(hosts)
}
