package auth

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

const stream = "strm_0123456789abcdef0123456789abcdef"

func ticketOf(t testing.TB, a *Auth, key string) string {
	t.Helper()
	return a.IssueTicket(stream, identify(t, a, http.Header{"X-Api-Key": {key}}))
}

func TestATicketOpensItsStream(t *testing.T) {
	a := open(t, demo())
	for _, h := range []http.Header{{"X-Api-Key": {aliceKey}}, {"X-Api-Key": {bobKey}}, {}} {
		for _, id := range []string{stream, "", "strm_/?&="} {
			ticket := a.IssueTicket(id, identify(t, a, h))
			if ours, err := a.CheckTicket(somebody, ticket, id); err != nil || !ours {
				t.Errorf("CheckTicket = %v, %v", ours, err)
			}
			if len(ticket) != 44 || url.QueryEscape(ticket) != ticket {
				t.Errorf("%q does not fit into a URL as it is", ticket)
			}
		}
	}
}

func TestATicketOutlivesTheProcessThatIssuedItIfTheSecretDoes(t *testing.T) {
	before, after := open(t, demo()), open(t, demo())
	for _, ticket := range []string{ticketOf(t, before, aliceKey), before.IssueTicket(stream, identify(t, before, nil))} {
		if ours, err := after.CheckTicket(somebody, ticket, stream); err != nil || ours {
			t.Errorf("CheckTicket = %v, %v; want it good, of another process", ours, err)
		}
	}
}

func TestWithoutASecretTicketsAreOfOneProcess(t *testing.T) {
	cfg := house()
	cfg.TicketSecret = ""
	a := open(t, cfg)
	ticket := ticketOf(t, a, aliceKey)
	if _, err := a.CheckTicket(somebody, ticket, stream); err != nil {
		t.Errorf("CheckTicket: %v", err)
	}
	if _, err := open(t, cfg).CheckTicket(somebody, ticket, stream); !errors.Is(err, ErrWrongTicket) {
		t.Errorf("CheckTicket by another process: %v", err)
	}
}

func TestATicketDiesWithItsOwnersCredential(t *testing.T) {
	before := open(t, demo())
	alice, nobody := ticketOf(t, before, aliceKey), before.IssueTicket(stream, identify(t, before, nil))

	replaced := demo()
	replaced.Keys[0].Key = hashed("sk-sluice-alice-2")
	removed := demo()
	removed.Keys = removed.Keys[1:]
	renamed := demo()
	renamed.Keys[0].ID = "alison"
	for _, cfg := range []Config{replaced, removed, renamed} {
		after := open(t, cfg)
		if ours, err := after.CheckTicket(somebody, alice, stream); !errors.Is(err, ErrTicketDead) || ours {
			t.Errorf("CheckTicket = %v, %v; want it dead", ours, err)
		}
		if _, err := after.CheckTicket(somebody, nobody, stream); err != nil {
			t.Errorf("CheckTicket of another credential's: %v", err)
		}
	}
	if _, err := open(t, house()).CheckTicket(somebody, nobody, stream); !errors.Is(err, ErrTicketDead) {
		t.Errorf("CheckTicket without an ambient identity: %v", err)
	}
	if _, err := before.CheckTicket(somebody, before.IssueTicket(stream, Identity{Owner: "key:alice"}), stream); !errors.Is(err, ErrTicketDead) {
		t.Errorf("CheckTicket of an identity that nobody proved: %v", err)
	}
}

func TestAPlainKeyAndItsHashAreTheSameCredential(t *testing.T) {
	plain, hash := house(), house()
	plain.Keys[0].Key, hash.Keys[0].Key = aliceKey, hashed(aliceKey)
	if _, err := open(t, hash).CheckTicket(somebody, ticketOf(t, open(t, plain), aliceKey), stream); err != nil {
		t.Errorf("CheckTicket: %v", err)
	}
}

func TestAWrongTicketOpensNothing(t *testing.T) {
	a := open(t, house())
	good := ticketOf(t, a, aliceKey)
	cfg := house()
	cfg.TicketSecret += "."
	foreign := ticketOf(t, open(t, cfg), aliceKey)
	id := identify(t, a, http.Header{"X-Api-Key": {aliceKey}})

	next := append([]byte{ticketVersion + 1}, a.boot[:]...) // genuine, of a version that is not ours
	next = append(next, id.tag[:]...)
	next = append(next, a.callers.Load().secret.mac(next, stream)...)

	for name, ticket := range map[string]string{
		"empty":             "",
		"garbage":           strings.Repeat("?", 44),
		"truncated":         good[:43],
		"half":              good[:20],
		"too long":          good + "A",
		"far too long":      strings.Repeat(good, 1000),
		"padded":            good + "=",
		"line break":        good[:22] + "\n" + good[22:],
		"line breaks in it": good[:42] + "\r\n",
		"another stream's":  a.IssueTicket(stream[:len(stream)-1]+"0", id),
		"a longer stream's": a.IssueTicket(stream+"0", id),
		"another secret's":  foreign,
		"another version's": base64.RawURLEncoding.EncodeToString(next),
	} {
		if ours, err := a.checkTicket(ticket, stream); !errors.Is(err, ErrWrongTicket) || ours {
			t.Errorf("%s: checkTicket = %v, %v", name, ours, err)
		}
	}
}

func TestAnyFlippedBitMakesATicketWrong(t *testing.T) {
	a := open(t, house())
	raw, err := base64.RawURLEncoding.DecodeString(ticketOf(t, a, aliceKey))
	if err != nil {
		t.Fatal(err)
	}
	for bit := range 8 * len(raw) {
		raw[bit/8] ^= 1 << (bit % 8)
		if _, err := a.checkTicket(base64.RawURLEncoding.EncodeToString(raw), stream); !errors.Is(err, ErrWrongTicket) {
			t.Errorf("bit %d flipped: %v", bit, err)
		}
		raw[bit/8] ^= 1 << (bit % 8)
	}
}

func FuzzTicket(f *testing.F) {
	a := open(f, house())
	a.boot = boot{} // the fuzzer's processes share their seeds, and so must agree on the good ticket
	good := ticketOf(f, a, aliceKey)
	f.Add(good, stream, uint8(0), uint8(1))
	f.Add(good[:43], stream+"0", uint8(43), uint8('\n'))
	f.Add("", "", uint8(7), uint8(0x80))
	f.Fuzz(func(t *testing.T, ticket, id string, at, flip uint8) {
		mutated := []byte(good)
		mutated[int(at)%len(mutated)] ^= flip
		for _, try := range []struct{ ticket, id string }{{ticket, id}, {ticket, stream}, {good, id}, {string(mutated), stream}} {
			_, err := a.checkTicket(try.ticket, try.id)
			if genuine := try.ticket == good && try.id == stream; genuine != (err == nil) {
				t.Errorf("checkTicket(%q, %q): %v", try.ticket, try.id, err)
			}
		}
	})
}
