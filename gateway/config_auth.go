package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"sluice/gateway/limits"
)

func (d *decoder) trustedProxies(v value) {
	d.config.Auth.TrustedProxies = nil
	d.items(v, "[10.0.0.0/8]", func(item value) {
		s, ok := d.needed(item, "a network such as 10.0.0.0/8")
		if !ok {
			return
		}
		p, ok := s.prefix()
		if !ok {
			return
		}
		if p.Bits() == 0 {
			d.warn(item, "trusts everybody: any caller can claim any address")
		}
		d.config.Auth.TrustedProxies = append(d.config.Auth.TrustedProxies, p)
	})
}

// minTicketSecret is 128 bits of hex: whoever has one ticket can try secrets
// against it as fast as they like.
const minTicketSecret = 32

func (d *decoder) ticketSecret(v value) {
	s, ok := d.optional(v, `"`+defaultTicketSecret+`"`)
	if !ok {
		return
	}
	if s.text != "" && len(s.text) < minTicketSecret {
		d.warn(v, fmt.Sprintf("is shorter than %d characters and may be guessed; write what `openssl rand -hex 32` prints", minTicketSecret))
	}
	d.config.Auth.TicketSecret = s.text
}

func (d *decoder) defaultPlan(v value) {
	if s, ok := d.needed(v, "the name of a plan"); ok {
		d.config.Auth.DefaultPlan = s.text
	}
}

var plainName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// keys reads auth.keys. Its messages show nothing of what the file says: a key
// may stand in any of the places.
func (d *decoder) keys(v value) {
	d.config.Auth.Keys = nil
	ids, digests := map[string]int{}, map[[sha256.Size]byte]int{}
	d.items(v, "[{id: alice, key: …}]", func(item value) {
		var k Key
		fields := map[string]func(value){
			"id":   func(v value) { k.ID = d.keyID(v, ids) },
			"key":  func(v value) { k.Key = d.key(v, digests) },
			"plan": func(v value) { k.Plan = d.keyPlan(v) },
		}
		if item.node.Kind != yaml.MappingNode {
			d.fail(item, "must be a map such as {id: alice, key: …}, not %s", item.kind())
			return
		}
		show := func(name string) string {
			if _, known := fields[name]; known {
				return name
			}
			return "?"
		}
		d.pairs(item, show, func(name string, child value) {
			set, known := fields[name]
			if !known {
				d.fail(child, "unknown key; known here: id, key and plan")
				return
			}
			d.places[child.key] = child.at
			set(child)
		})
		for _, name := range []string{"id", "key"} {
			if _, ok := d.places[item.key+"."+name]; !ok {
				d.fail(item, "has no %s; `sluice key` prints a whole entry", name)
			}
		}
		d.config.Auth.Keys = append(d.config.Auth.Keys, k)
	})
}

func (d *decoder) keyID(v value, ids map[string]int) string {
	s, ok := d.needed(v, "a name such as alice")
	if !ok {
		return ""
	}
	if !plainName.MatchString(s.text) {
		d.fail(v, "must be 1 to 64 of A-Z, a-z, 0-9, dot, dash and underscore")
		return ""
	}
	if line, taken := ids[s.text]; taken {
		d.fail(v, "is the id of the key on line %d too; each needs its own", line)
	} else {
		ids[s.text] = v.at.line
	}
	return s.text
}

func (d *decoder) key(v value, digests map[[sha256.Size]byte]int) string {
	s, ok := d.needed(v, "what `sluice key` prints")
	if !ok {
		return ""
	}
	const scheme = "sha256:"
	text, digest := s.text, sha256.Sum256([]byte(s.text))
	switch {
	case len(text) >= len(scheme) && strings.EqualFold(text[:len(scheme)], scheme):
		text = strings.ToLower(text)
		sum, err := hex.DecodeString(text[len(scheme):])
		if err != nil || len(sum) != sha256.Size {
			d.fail(v, "has no 64 hex digits after sha256:; write what `sluice key` prints")
			return ""
		}
		digest = [sha256.Size]byte(sum)
	case !headerValue.MatchString(text):
		d.fail(v, "has a space, a line break or a character that is not ASCII; no header can carry it")
		return ""
	case !s.expanded(): // a key in a variable is not in the file
		d.warn(v, "is not hashed, so whoever reads this file can use it; write its sha256:, as `sluice key` prints it")
	}
	if line, taken := digests[digest]; taken {
		d.fail(v, "is the same key as on line %d; each caller needs its own", line)
	} else {
		digests[digest] = v.at.line
	}
	return text
}

// keyPlan reads a plan's name; check looks for the plan.
func (d *decoder) keyPlan(v value) string {
	s, _ := d.optional(v, "the name of a plan")
	return s.text
}

func (d *decoder) plans(v value) {
	if v.null() {
		return
	}
	d.config.Plans = map[string]limits.Plan{}
	d.pairs(v, shownKey, func(plan string, child value) {
		if !plainName.MatchString(plan) {
			d.fail(child, "a plan's name must be 1 to 64 of A-Z, a-z, 0-9, dot, dash and underscore")
			return
		}
		var p limits.Plan
		if child.null() {
			d.fail(child, "has no value; write {} for a plan without limits")
		} else {
			d.mapping(child, rules{
				"requests_per_minute":      d.count(&p.RequestsPerMinute),
				"burst":                    d.count(&p.Burst),
				"concurrent_streams":       d.count(&p.ConcurrentStreams),
				"viewers_per_stream":       d.count(&p.ViewersPerStream),
				"input_tokens_per_minute":  d.count(&p.InputTokensPerMinute),
				"output_tokens_per_minute": d.count(&p.OutputTokensPerMinute),
				"tokens_per_day":           d.count(&p.TokensPerDay),
				"max_tokens":               d.count(&p.MaxTokens),
				"models":                   {set: func(v value) { p.Models = d.models(v) }},
			}, nil)
		}
		if p.Burst > 0 && p.RequestsPerMinute == 0 {
			d.fail(child, "has a burst but no requests_per_minute that it belongs to")
		}
		d.config.Plans[plan] = p
	})
}

// modelPattern has no brackets, braces or commas: to other matchers they are special, to this one they are not.
var modelPattern = regexp.MustCompile(`^[A-Za-z0-9*?._:/@-]{1,128}$`)

// models reads the patterns of a plan's models. A list of none would let nobody ask for anything.
func (d *decoder) models(v value) []string {
	const example = `[claude-haiku-*, claude-sonnet-5]`
	var patterns []string
	items := 0
	d.items(v, example, func(item value) {
		items++
		s, ok := d.needed(item, "a model such as claude-haiku-*")
		switch {
		case !ok:
		case !modelPattern.MatchString(s.text):
			s.fail("is no model; write its name, with * for any characters and ? for one, as in claude-haiku-*")
		case slices.Contains(patterns, s.text):
			s.fail("is given twice")
		default:
			patterns = append(patterns, s.text)
		}
	})
	if items == 0 && (v.null() || v.node.Kind == yaml.SequenceNode) {
		d.fail(v, "is empty, and would allow no model; write them as in %s, or remove the line to allow all", example)
	}
	return patterns
}
