package store

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// Key names a record: its parts are any strings, owners' names for example, and a shorter key is the prefix of those that
// begin with the same parts.
type Key []string

// maxName bounds an encoded key: the server takes lines of 4 kB, which also hold what goes around it.
const maxName = 2 << 10

// encode makes one token of a subject: letters, digits, - and _ as they are, every other byte as =XX.
func encode(b *strings.Builder, part string) {
	const hexDigits = "0123456789ABCDEF"
	if part == "" {
		b.WriteByte('=')
	}
	for i := range len(part) {
		switch c := part[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
			b.WriteByte(c)
		default:
			b.WriteByte('=')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
		}
	}
}

// decode is its inverse; only what encode has made comes here.
func decode(token string) string {
	b := make([]byte, 0, len(token))
	for i := 0; i < len(token); i++ {
		if token[i] != '=' {
			b = append(b, token[i])
		} else if i+2 < len(token) {
			b, _ = hex.AppendDecode(b, []byte(token[i+1:i+3]))
			i += 2
		}
	}
	return string(b)
}

// subject is the subject of the parts below a prefix, which ends in a dot.
func subject(prefix string, parts ...string) (string, error) {
	var b strings.Builder
	b.WriteString(prefix)
	for i, part := range parts {
		if i > 0 {
			b.WriteByte('.')
		}
		encode(&b, part)
	}
	if b.Len()-len(prefix) > maxName {
		return "", fmt.Errorf("%w: a name of %d bytes", ErrTooLarge, b.Len())
	}
	return b.String(), nil
}

// parts are what subject was made of.
func parts(prefix, subject string) []string {
	tokens := strings.Split(strings.TrimPrefix(subject, prefix), ".")
	for i, t := range tokens {
		tokens[i] = decode(t)
	}
	return tokens
}
