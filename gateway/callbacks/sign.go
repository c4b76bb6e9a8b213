package callbacks

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strconv"
	"time"
)

// The headers and the prefix of Standard Webhooks 1.0.
const (
	headerID        = "Webhook-Id"
	headerTimestamp = "Webhook-Timestamp"
	headerSignature = "Webhook-Signature"
	secretPrefix    = "whsec_"
)

// secretLabel separates these keys from any others that are ever derived from the same master. Changing it changes every
// owner's secret.
const secretLabel = "sluice callback secret v1\x00"

// secretBytes is the size of an owner's key: that of the hash, within the 24 to 64 bytes of Standard Webhooks.
const secretBytes = sha256.Size

// masters are the secrets of the configuration, the one that signs first.
type masters []string

// key is an owner's key under one master: HKDF-SHA256 (RFC 5869) without salt, with the label and the owner's name as
// info. Whoever receives callbacks knows a key of one owner, which says nothing about another's, nor about the master.
func key(master, owner string) []byte {
	k, err := hkdf.Key(sha256.New, []byte(master), nil, secretLabel+owner, secretBytes)
	if err != nil {
		panic(err) // only for more bytes than HKDF has
	}
	return k
}

// secrets are an owner's secrets, as receivers write them down; the first is the one that signs now.
func (m masters) secrets(owner string) []string {
	all := make([]string, len(m))
	for i, master := range m {
		all[i] = secretPrefix + base64.StdEncoding.EncodeToString(key(master, owner))
	}
	return all
}

// sign sets the headers by which the receiver knows who sent body, and when. id is the same for every attempt.
func (m masters) sign(h http.Header, owner, id string, at time.Time, body []byte) {
	timestamp := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, key(m[0], owner))
	for _, part := range [][]byte{[]byte(id), []byte("."), []byte(timestamp), []byte("."), body} {
		mac.Write(part)
	}
	h.Set(headerID, id)
	h.Set(headerTimestamp, timestamp)
	h.Set(headerSignature, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}
