package gateway

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// check looks at what no value shows by itself, and at what the text left out.
func (d *decoder) check() {
	d.absent("upstream.api_key", defaultAPIKey)
	d.absent("auth.ticket_secret", defaultTicketSecret)

	c := &d.config
	if _, port, _ := net.SplitHostPort(c.Server.Listen); port != "0" && c.Server.Listen == c.Server.AdminListen {
		d.failNear("is the address of server.listen too; write another port", "server.admin_listen", "server.listen")
	}
	d.checkTLS()
	if _, chosen := d.places["upstream.queue_wait"]; !chosen {
		// A shorter hold alone is no mistake.
		c.Upstream.QueueWait = min(c.Upstream.QueueWait, c.Relay.Hold*4/5)
	}
	if wait, hold := c.Upstream.QueueWait, c.Relay.Hold; wait > 0 && wait >= hold {
		d.failNear(fmt.Sprintf("is %s, and relay.hold is %s; who waits in vain is refused with a status only if the hold is longer, so write a shorter wait or a longer hold",
			shortDuration(wait), shortDuration(hold)), "upstream.queue_wait", "relay.hold")
	}
	d.checkPlans()
	d.checkIdentity()
}

// absent treats a key that the text does not have as if it said text.
func (d *decoder) absent(key, text string) {
	if _, ok := d.places[key]; ok {
		return
	}
	section, leaf, _ := strings.Cut(key, ".")
	node := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
	d.rules[section].keys[leaf].set(value{node: node, key: key, at: d.places[section]})
}

// checkPlans gives each key its plan, and looks for those that do not exist.
func (d *decoder) checkPlans() {
	c := &d.config
	plans := slices.Sorted(maps.Keys(c.Plans))
	if len(plans) > 10 { // as many as anyone reads
		plans = append(plans[:10], "more")
	}
	const missing = "names a plan that does not exist; the plans are: "
	_, ok := c.Plans[c.Auth.DefaultPlan]
	needed := c.Auth.JWT.Secret != "" || c.Auth.JWT.JWKSURL != "" || c.Auth.UserHeader != ""
	for i := range c.Auth.Keys {
		k := &c.Auth.Keys[i]
		if k.Plan == "" {
			k.Plan, needed = c.Auth.DefaultPlan, true
		} else if _, ok := c.Plans[k.Plan]; !ok {
			d.failNear(missing+sentence(plans), indexed("auth.keys", i)+".plan")
		}
	}
	if _, ok := c.Plans[c.Auth.AnonymousPlan]; !ok && c.Auth.AnonymousPlan != "" {
		d.failNear(missing+sentence(plans), "auth.anonymous_plan")
	}
	// A file that replaces the plans and never needs the default one may leave it out.
	if _, named := d.places["auth.default_plan"]; !ok && (named || needed) {
		d.failNear(missing+sentence(plans), "auth.default_plan", "plans")
	}
}

// failNear reports at the first of keys that the text has.
func (d *decoder) failNear(message string, keys ...string) { d.fail(d.near(keys...), "%s", message) }

// near is the first of keys, with the first place that any of them has.
func (d *decoder) near(keys ...string) value {
	for _, key := range keys {
		if at, ok := d.places[key]; ok {
			return value{key: keys[0], at: at}
		}
	}
	return value{key: keys[0]}
}
