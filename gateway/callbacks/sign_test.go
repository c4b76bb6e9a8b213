package callbacks

import (
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const testMaster = "a master secret of more than 32 characters"

// verifier is the reference library with an owner's secret, as a receiver sets it up.
func verifier(t *testing.T, secret string) *standardwebhooks.Webhook {
	t.Helper()
	v, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestReferenceLibraryTakesOurSignaturesAndNoOthers(t *testing.T) {
	m := masters{testMaster}
	body := []byte(`{"type":"stream.completed","data":{"id":"strm_1"}}`)
	mine := verifier(t, m.secrets("key:alice")[0])
	signed := func(at time.Time) http.Header {
		h := http.Header{}
		m.sign(h, "key:alice", "cb_1", at, body)
		return h
	}
	with := func(name, value string) http.Header {
		h := signed(time.Now())
		h.Set(name, value)
		return h
	}
	now := signed(time.Now())
	if err := mine.Verify(body, now); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		by   *standardwebhooks.Webhook
		body string
		h    http.Header
		want error
	}{
		"another body":                {mine, string(body) + " ", now, standardwebhooks.ErrNoMatchingSignature},
		"another id":                  {mine, string(body), with("webhook-id", "cb_2"), standardwebhooks.ErrNoMatchingSignature},
		"another time":                {mine, string(body), with("webhook-timestamp", "1"), standardwebhooks.ErrMessageTooOld},
		"another second":              {mine, string(body), with("webhook-timestamp", signed(time.Now().Add(time.Minute)).Get("webhook-timestamp")), standardwebhooks.ErrNoMatchingSignature},
		"another signature":           {mine, string(body), with("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(make([]byte, 32))), standardwebhooks.ErrNoMatchingSignature},
		"replayed later":              {mine, string(body), signed(time.Now().Add(-6 * time.Minute)), standardwebhooks.ErrMessageTooOld},
		"another owner's":             {verifier(t, m.secrets("key:bob")[0]), string(body), now, standardwebhooks.ErrNoMatchingSignature},
		"another master's":            {verifier(t, masters{testMaster + "!"}.secrets("key:alice")[0]), string(body), now, standardwebhooks.ErrNoMatchingSignature},
		"an owner with a longer name": {verifier(t, m.secrets("key:alice2")[0]), string(body), now, standardwebhooks.ErrNoMatchingSignature},
	} {
		if err := c.by.Verify([]byte(c.body), c.h); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestFirstSecretSignsAndTheOthersStillVerify(t *testing.T) {
	before, during := masters{"old"}, masters{"new", "old"}
	body := []byte("{}")
	receiver := during.secrets("key:alice") // what a receiver was shown while both are in the configuration
	for name, sender := range map[string]masters{"the old one alone": before, "both": during, "the new one alone": {"new"}} {
		h := http.Header{}
		sender.sign(h, "key:alice", "cb_1", time.Now(), body)
		verified := 0
		for _, secret := range receiver {
			if verifier(t, secret).Verify(body, h) == nil {
				verified++
			}
		}
		if verified != 1 {
			t.Errorf("signed with %s: %d of the receiver's secrets verify it", name, verified)
		}
	}
	h := http.Header{}
	during.sign(h, "key:alice", "cb_1", time.Now(), body)
	if err := verifier(t, receiver[0]).Verify(body, h); err != nil {
		t.Errorf("the first does not sign: %v", err)
	}
}

// The figure is computed as RFC 5869 says, by hand: if it changes, every receiver's secret does.
func TestOwnersSecretStaysTheSameFromVersionToVersion(t *testing.T) {
	got := masters{"master"}.secrets("key:alice")
	if want := "whsec_o6gFbvIhDLtbZL2aa0xKbnecLO/rVaSMMkFbAVPHDKk="; len(got) != 1 || got[0] != want {
		t.Errorf("%q, want %q", got, want)
	}
	if raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(got[0], "whsec_")); err != nil || len(raw) != 32 {
		t.Errorf("%v, %d bytes", err, len(raw))
	}
}
