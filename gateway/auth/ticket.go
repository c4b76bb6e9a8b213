package auth

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
)

// What CheckTicket refuses with.
var (
	ErrWrongTicket = errors.New("wrong ticket: it does not belong to this stream")
	ErrTicketDead  = errors.New("dead ticket: the credential behind it is no longer valid")
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

// tag stands for a credential in its tickets. That two of a million keys share one has a probability below 10⁻⁷.
type tag [8]byte

// Ticket is what a good ticket says.
type Ticket struct {
	Owner string // who owns the stream that it opens

	// ThisProcess says whether this Auth issued it. If so, a stream that is not there has expired; if not, it may
	// have been lost in a restart, or be another replica's.
	ThisProcess bool
}

// IssueTicket makes a ticket for reading the stream, and nothing else: any caller that has it is let in as if it were
// id. It does not expire by itself; it dies with the stream, with id's credential, and with the secret. It needs no
// escaping in a URL, and must not be logged. The stream's id may be any string.
func (a *Auth) IssueTicket(streamID string, id Identity) string {
	t := make([]byte, 0, ticketSize)
	t = append(t, ticketVersion)
	t = append(t, a.boot[:]...)
	t = append(t, id.tag[:]...)
	t = append(t, a.secret.mac(t, streamID)...)
	return base64.RawURLEncoding.EncodeToString(t)
}

// CheckTicket says whose stream the ticket opens. The error is ErrTicketDead if the ticket is genuine, but its owner's
// credential is gone, and ErrWrongTicket for everything else: what is forged, cut short, too long, another stream's, or
// of a version or a secret that is not ours.
func (a *Auth) CheckTicket(ticket, streamID string) (Ticket, error) {
	var buffer [ticketSize]byte
	if len(ticket) != base64.RawURLEncoding.EncodedLen(ticketSize) {
		return Ticket{}, ErrWrongTicket
	}
	// The decoder skips line breaks, hence the look at how much it found.
	if n, err := base64.RawURLEncoding.Strict().Decode(buffer[:], []byte(ticket)); err != nil || n != ticketSize {
		return Ticket{}, ErrWrongTicket
	}
	signed, mac := buffer[:signedSize], buffer[signedSize:]
	if !hmac.Equal(mac, a.secret.mac(signed, streamID)) { // before anything of it is believed
		return Ticket{}, ErrWrongTicket
	}
	if signed[0] != ticketVersion {
		return Ticket{}, ErrWrongTicket
	}
	owner, ok := a.known.Load().owners[tag(signed[1+len(boot{}):])]
	if !ok {
		return Ticket{}, ErrTicketDead
	}
	return Ticket{Owner: owner, ThisProcess: boot(signed[1:1+len(boot{})]) == a.boot}, nil
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

// keyTag is keyed, so that a ticket in a leaked URL does not help to guess the API key.
func (s ticketSecret) keyTag(hash [sha256.Size]byte, id string) tag {
	return s.tag("key", hash[:], []byte(id))
}

func (s ticketSecret) ambientTag(owner string) tag {
	return s.tag("ambient", []byte(owner))
}

func (s ticketSecret) tag(kind string, parts ...[]byte) (t tag) {
	h := hmac.New(sha256.New, s.tagKey)
	h.Write([]byte(kind + "\x00"))
	for _, part := range parts { // only the last one may be of any size
		h.Write(part)
	}
	copy(t[:], h.Sum(nil))
	return t
}
