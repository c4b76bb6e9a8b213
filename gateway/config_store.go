package gateway

import "strings"

// Store is where what must survive a restart is kept.
type Store struct {
	Dir     string // of the embedded store; relative to the working directory
	NatsURL string // of NATS servers with JetStream instead, separated by commas; it may hold a password
}

func (d *decoder) natsURL(v value) {
	const example = "nats://10.0.0.1:4222"
	s, ok := d.optional(v, example)
	if !ok {
		return
	}
	for server := range strings.SplitSeq(s.text, ",") {
		scheme, rest, _ := strings.Cut(strings.TrimSpace(server), "://")
		if s.text != "" && (scheme != "nats" && scheme != "tls" || rest == "") {
			s.fail("is no NATS address; write it as in %s", example)
			return
		}
	}
	d.config.Store.NatsURL = s.text
}

func (d *decoder) storeDir(v value) {
	if s, ok := d.needed(v, "the name of a directory, such as data"); ok {
		d.config.Store.Dir = s.text
	}
}

// describeStore names a server without what may be its password.
func describeStore(s Store) string {
	if s.NatsURL == "" {
		return "in " + s.Dir + ", embedded"
	}
	var hosts []string
	for server := range strings.SplitSeq(s.NatsURL, ",") {
		_, host, _ := strings.Cut(strings.TrimSpace(server), "://")
		if _, after, ok := strings.Cut(host, "@"); ok {
			host = after
		}
		hosts = append(hosts, host)
	}
	return "at NATS, " + sentence(hosts)
}
