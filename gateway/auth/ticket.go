package auth

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// What CheckTicket refuses with.
var (
	ErrWrongTicket = errors.New("wrong ticket: it does not belong to this stream")

	ErrTicketDead = errors.New("dead ticket: the credential behind it is no longer valid")
)

// A ticket is, in base64url,
//
//	version (1) | boot (8) | tag (8) | MAC (16)
//
// and the MAC is over the three and the stream's id. 33 bytes are 44 characters without a spare bit, so that a ticket
// has one spelling. A MAC cut to half of HMAC-SHA-256 is what RFC 2104 §5 allows; 128 bits cannot be guessed online.
const (
	ticketVersion = 1
	macSize       = 16
	signedSize    = 1 + len(boot{}) + len(tag{})
	ticketSize    = signedSize + macSize
)

// boot is random for each Auth, and so for each run of the process.
type boot [8]byte

// tag stands in tickets for a credential, an API key say, or for what vouches for many: the issuer of tokens, the proxies
// that name users. That two of a million share one has a probability below 10⁻⁷.
type tag [8]byte

// IssueTicket makes a ticket for reading the stream, and nothing else: any caller that has it is let in as if it were
// id, who must be the one that owns the stream or has just made it. It does not expire by itself; it dies with the
// stream, with the secret, and with id's credential: when an API key is removed or replaced, and when tokens, or users
// whom proxies name, or anonymous callers are no longer taken in the same way. (A single token's end is not its
// tickets': an answer may take longer than a token is good for.) It needs no escaping in a URL, and must not be logged.
// The stream's id may be any string.
func (a *Auth) IssueTicket(streamID string, id Identity) string {
	t := make([]byte, 0, ticketSize)
	t = append(t, ticketVersion)
	t = append(t, a.boot[:]...)
	t = append(t, id.tag[:]...)
	t = append(t, a.callers.Load().secret.mac(t, streamID)...)
	return base64.RawURLEncoding.EncodeToString(t)
}

// CheckTicket returns nil if the ticket, presented by somebody at this address, opens the stream. Since a ticket is made
// for one stream only, whose id is never used again, the stream's owner needs no further look. ThisProcess says whether
// this Auth issued it: if so, a stream that is not there has expired; if not, it may have been lost in a restart, or be
// another replica's.
//
// The error is ErrTicketDead if the ticket is genuine, but its owner's credential is gone, and ErrWrongTicket, or a
// *Throttled in its place, for everything else: what is forged, cut short, too long, another stream's, or of a version
// or a secret that is not ours.
func (a *Auth) CheckTicket(from netip.Addr, ticket, streamID string) (thisProcess bool, err error) {
	thisProcess, err = a.checkTicket(ticket, streamID)
	if err != nil {
		return false, a.failed(from, err)
	}
	return thisProcess, nil
}

func (a *Auth) checkTicket(ticket, streamID string) (thisProcess bool, err error) {
	var buffer [ticketSize]byte
	if len(ticket) != base64.RawURLEncoding.EncodedLen(ticketSize) {
		return false, ErrWrongTicket
	}
	// The decoder skips line breaks, hence the look at how much it found.
	if n, err := base64.RawURLEncoding.Strict().Decode(buffer[:], []byte(ticket)); err != nil || n != ticketSize {
		return false, ErrWrongTicket
	}
	c := a.callers.Load()
	signed, mac := buffer[:signedSize], buffer[signedSize:]
	if !hmac.Equal(mac, c.secret.mac(signed, streamID)) { // before anything of it is believed
		return false, ErrWrongTicket
	}
	if signed[0] != ticketVersion {
		return false, ErrWrongTicket
	}
	if !c.live[tag(signed[1+len(boot{}):])] {
		return false, ErrTicketDead
	}
	return boot(signed[1:1+len(boot{})]) == a.boot, nil
}

// ticketSecret holds the keys that are derived from the configured secret, one for each use.
type ticketSecret struct {
	macKey, tagKey []byte
}

// newTicketSecret takes any string; an empty one is replaced by 32 random bytes.
func newTicketSecret(configured string) (s ticketSecret, err error) {
	secret := []byte(configured)
	if len(secret) == 0 {
		secret = make([]byte, 32)
		rand.Read(secret) // never fails
	}
	if s.macKey, err = hkdf.Key(sha256.New, secret, nil, "sluice ticket mac", sha256.Size); err != nil {
		return s, fmt.Errorf("ticket secret: %w", err)
	}
	if s.tagKey, err = hkdf.Key(sha256.New, secret, nil, "sluice ticket tag", sha256.Size); err != nil {
		return s, fmt.Errorf("ticket secret: %w", err)
	}
	return s, nil
}

func (s ticketSecret) mac(signed []byte, streamID string) []byte {
	h := hmac.New(sha256.New, s.macKey)
	h.Write(signed) // of a fixed size, so it cannot be moved into the id
	h.Write([]byte(streamID))
	return h.Sum(nil)[:macSize]
}

// tag is keyed, so that a ticket in a leaked URL does not help to guess the credential that the parts may be.
func (s ticketSecret) tag(kind string, parts ...string) (t tag) {
	h := hmac.New(sha256.New, s.tagKey)
	for _, part := range append([]string{kind}, parts...) {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part)))) // so that no two lists of parts look the same
		h.Write([]byte(part))
	}
	copy(t[:], h.Sum(nil))
	return t
}
