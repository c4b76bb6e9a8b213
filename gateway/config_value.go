package gateway

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// scalar is a value's text, its variables expanded. Messages show raw, what the
// file says, never text: a variable may hold a secret.
type scalar struct {
	d *decoder
	value
	raw, text string
	unset     []string
}

// needed reads a scalar that must have a text; want says which, by an example.
func (d *decoder) needed(v value, want string) (scalar, bool) {
	s, ok := d.optional(v, want)
	switch {
	case !ok:
		return s, false
	case len(s.unset) > 0:
		d.fail(v, "%s is not set in the environment, and this needs a value", sentence(s.unset))
		return s, false
	case s.text == "" && s.expanded():
		d.fail(v, "%s is set to nothing, and this needs a value", s.raw)
		return s, false
	case s.text == "":
		d.fail(v, "is empty; write %s", want)
		return s, false
	}
	return s, true
}

// optional reads a scalar whose text may be empty.
func (d *decoder) optional(v value, want string) (scalar, bool) {
	s := scalar{d: d, value: v, raw: v.node.Value}
	switch {
	case v.node.Kind != yaml.ScalarNode:
		d.fail(v, "must be %s, not %s", want, v.kind())
		return s, false
	case v.null():
		d.fail(v, "has no value; write %s, or remove the line", want)
		return s, false
	case v.node.Style&yaml.TaggedStyle != 0:
		d.fail(v, "has a YAML tag (!); write the value without")
		return s, false
	}
	var mistake string
	if s.text, s.unset, mistake = expand(s.raw, d.getenv); mistake != "" {
		d.fail(v, "%s", mistake)
		return s, false
	}
	return s, true
}

func (s scalar) expanded() bool { return s.text != s.raw }

// fail reports what is wrong with the text. The message follows the text that
// it is about, as in: "180" has no unit.
func (s scalar) fail(format string, args ...any) {
	subject := strconv.Quote(s.raw)
	if looksSecret(s.raw) {
		subject = "the value"
	} else if s.expanded() {
		subject = "the value of " + subject
	}
	message := subject + " " + fmt.Sprintf(format, args...)
	if len(s.unset) > 0 {
		message += " (" + sentence(s.unset) + " is not set)"
	}
	s.d.fail(s.value, "%s", message)
}

// looksSecret tells what must not be shown though it stands in a public place:
// a pasted key, a URL with credentials or a query, anything long.
func looksSecret(text string) bool {
	return len(text) > 80 || strings.Contains(text, "sk-") || strings.ContainsAny(text, "@?#=")
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// expand replaces ${NAME} by the variable and $$ by a dollar; any other dollar
// is itself, so that most passwords need no care. It works on decoded text: what
// a variable holds can never become another key.
func expand(raw string, getenv func(string) (string, bool)) (text string, unset []string, mistake string) {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(raw, "$")
		b.WriteString(before)
		switch {
		case !found:
			return b.String(), unset, ""
		case strings.HasPrefix(after, "$"):
			b.WriteByte('$')
			raw = after[1:]
		case strings.HasPrefix(after, "{"):
			name, rest, closed := strings.Cut(after[1:], "}")
			if !closed {
				return "", nil, "has a ${ without its }; write $${ for the characters themselves"
			}
			if !variableName.MatchString(name) {
				return "", nil, "has a ${…} that names no variable; write ${NAME}, or $${ for the characters themselves"
			}
			value, ok := getenv(name)
			if !ok && !slices.Contains(unset, "${"+name+"}") {
				unset = append(unset, "${"+name+"}")
			}
			b.WriteString(value)
			raw = rest
		default:
			b.WriteByte('$')
			raw = after
		}
	}
}

// maxDuration is far above all that makes sense and far below overflow.
const maxDuration = 30 * 24 * time.Hour

var (
	bareNumber    = regexp.MustCompile(`^[0-9]+(\.[0-9]+)?$`)
	numberOfUnit  = regexp.MustCompile(`^([0-9]{1,9}) *([A-Za-z]+)$`)
	durationUnits = map[string]string{
		"s": "s", "sec": "s", "secs": "s", "second": "s", "seconds": "s",
		"m": "m", "min": "m", "mins": "m", "minute": "m", "minutes": "m",
		"h": "h", "hr": "h", "hrs": "h", "hour": "h", "hours": "h", "d": "d", "day": "d", "days": "d",
		"ms": "ms", "msec": "ms", "millisecond": "ms", "milliseconds": "ms",
	}
)

// duration takes what has a unit and is not shorter than least.
func (d *decoder) duration(into *time.Duration, least time.Duration) rule {
	return rule{set: func(v value) {
		s, ok := d.needed(v, "a duration such as 90s")
		if !ok {
			return
		}
		if parsed, ok := s.duration(least, ""); ok {
			*into = parsed
		}
	}}
}

// durationOrNever also takes the word never.
func (d *decoder) durationOrNever(into *time.Duration) rule {
	return rule{set: func(v value) {
		s, ok := d.needed(v, "a duration such as 90s, or never")
		if !ok {
			return
		}
		if s.text == "never" {
			*into = Never
		} else if parsed, ok := s.duration(time.Millisecond, ", or never"); ok {
			*into = parsed
		}
	}}
}

func (s scalar) duration(least time.Duration, or string) (time.Duration, bool) {
	parsed, err := time.ParseDuration(s.text)
	switch m := numberOfUnit.FindStringSubmatch(s.text); {
	case err == nil && parsed >= least && parsed <= maxDuration:
		return parsed, true
	case err == nil && !bareNumber.MatchString(s.text):
		s.fail("is out of bounds; write a duration from %s to %s%s", shortDuration(least), shortDuration(maxDuration), or)
	case s.expanded():
		s.fail("is not a duration; write it as in 90s, 10m or 1h30m%s", or)
	case bareNumber.MatchString(s.text):
		s.fail("has no unit; write %ss%s", s.text, or)
	case m != nil && durationUnits[strings.ToLower(m[2])] == "d":
		days, _ := strconv.Atoi(m[1])
		s.fail("has a unit that does not exist; write %dh", 24*days)
	case m != nil && durationUnits[strings.ToLower(m[2])] != "":
		s.fail("has a unit that does not exist; write %s%s", m[1], durationUnits[strings.ToLower(m[2])])
	default:
		s.fail("is not a duration; write it as in 90s, 10m or 1h30m%s", or)
	}
	return 0, false
}

var (
	sizeUnits = map[string]int64{
		"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30,
	}
	sizeUnitNames = []string{"B", "kB", "KiB", "MB", "MiB", "GB", "GiB"}
	numberAndRest = regexp.MustCompile(`^([0-9]{1,15}) ?(.*)$`)
)

const (
	minSize = 1_000_000 // less holds not even one answer
	maxSize = 1 << 50
)

// size takes what has a unit.
func (d *decoder) size(into *int64) rule {
	return rule{set: func(v value) {
		s, ok := d.needed(v, "a size such as 512MB")
		if !ok {
			return
		}
		m := numberAndRest.FindStringSubmatch(s.text)
		if m == nil {
			s.fail("is not a size; write a whole number with a unit, as in 512MB")
			return
		}
		n, _ := strconv.ParseInt(m[1], 10, 64)
		unit, known := sizeUnits[m[2]]
		switch {
		case m[2] == "" && s.expanded():
			s.fail("has no unit; write it as in 512MB")
		case m[2] == "" && n < minSize:
			s.fail("has no unit; write %dMB", n)
		case m[2] == "":
			s.fail("has no unit; write %dB", n)
		case !known && s.expanded():
			s.fail("has a unit that does not exist; the units are %s", sentence(sizeUnitNames))
		case !known:
			s.fail("has a unit that does not exist; the units are %s%s", sentence(sizeUnitNames), didYouMean(m[2], sizeUnitNames))
		case n > math.MaxInt64/unit || n*unit < minSize || n*unit > maxSize:
			s.fail("is out of bounds; write a size from 1MB to %dGiB", int64(maxSize>>30))
		default:
			*into = n * unit
		}
	}}
}

// maxCount is no limit that anyone would notice, and safe in any arithmetic.
const maxCount = 1_000_000_000

// count takes a whole number from 0.
func (d *decoder) count(into *int) rule {
	return rule{set: func(v value) {
		s, ok := d.needed(v, "a whole number such as 60")
		if !ok {
			return
		}
		n, err := strconv.ParseUint(s.text, 10, 32)
		if err != nil || n > maxCount {
			s.fail("must be a whole number from 0 (no limit) to %d", maxCount)
			return
		}
		*into = int(n)
	}}
}

// word takes one of few words; take is given the one it was.
func (d *decoder) word(take func(string), words ...string) rule {
	return rule{set: func(v value) {
		s, ok := d.needed(v, sentence(words[:len(words)-1])+" or "+words[len(words)-1])
		switch {
		case !ok:
		case slices.Contains(words, s.text):
			take(s.text)
		case s.expanded():
			s.fail("is not one of %s", sentence(words))
		default:
			s.fail("is not one of %s%s", sentence(words), didYouMean(s.text, words))
		}
	}}
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9])?$`)

// address takes host:port, where the host may be empty (every interface) and
// the port 0 (any that is free).
func (d *decoder) address(into *string, example string) rule {
	return rule{set: func(v value) {
		s, ok := d.needed(v, fmt.Sprintf("an address such as %q", example))
		if !ok {
			return
		}
		host, port, err := net.SplitHostPort(s.text)
		_, portErr := strconv.ParseUint(port, 10, 16)
		_, ipErr := netip.ParseAddr(host)
		switch {
		case err != nil && bareNumber.MatchString(s.raw):
			s.fail("is no address; write %q", ":"+s.raw)
		case err != nil:
			s.fail("is no address; write it as in %q", example)
		case portErr != nil:
			s.fail("has no port from 0 to 65535; write it as in %q", example)
		case host != "" && ipErr != nil && !hostName.MatchString(host):
			s.fail("names no host; write it as in %q", example)
		default:
			*into = s.text
		}
	}}
}

// webURL returns the text as a URL without a final slash.
func (s scalar) webURL(example string) (*url.URL, bool) {
	u, err := url.Parse(s.text)
	switch {
	case err == nil && u.User != nil:
		s.fail("has credentials in it; write it as in %s", example)
	case !s.expanded() && hostName.MatchString(s.text):
		s.fail("has no scheme; write https://%s", s.text)
	case err != nil || (u.Scheme != "http" && u.Scheme != "https"):
		s.fail("is not an http or https URL; write it as in %s", example)
	case u.RawQuery != "" || u.ForceQuery || strings.Contains(s.text, "#"):
		s.fail("has a query or a fragment; write it as in %s", example)
	case u.Hostname() == "" || strings.HasSuffix(u.Host, ":"):
		s.fail("names no host; write it as in %s", example)
	case u.Port() != "" && !validPort(u.Port()):
		s.fail("has no port from 1 to 65535; write it as in %s", example)
	case !cleanPath(strings.TrimSuffix(u.EscapedPath(), "/")):
		s.fail("has a path that is not plain; write it as in %s", example)
	default:
		u.Path = strings.TrimSuffix(u.Path, "/")
		return u, true
	}
	return nil, false
}

func validPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

var pathCharacters = regexp.MustCompile(`^[A-Za-z0-9/._~:@!$&'()*+,;=-]*$`)

// cleanPath tells whether p means the same to everybody: no escapes, no empty
// segments, no dots to climb with, no final slash.
func cleanPath(p string) bool {
	return p == "" || pathCharacters.MatchString(p) && strings.HasPrefix(p, "/") && path.Clean(p) == p && p != "/"
}

// prefix returns the text as the addresses it stands for.
func (s scalar) prefix() (netip.Prefix, bool) {
	if addr, err := netip.ParseAddr(s.text); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), true
	}
	p, err := netip.ParsePrefix(s.text)
	switch {
	case err != nil:
		s.fail("is neither an address nor a network; write it as in 10.0.0.0/8 or 192.0.2.1")
	case p.Addr().Is4In6():
		s.fail("is an IPv4 network in IPv6 clothes; write it as in 10.0.0.0/8")
	case p != p.Masked() && s.expanded():
		s.fail("names a host and a network; write the network alone")
	case p != p.Masked():
		s.fail("names a host and a network; write %s or %s", p.Masked(), p.Addr())
	default:
		return p, true
	}
	return netip.Prefix{}, false
}
