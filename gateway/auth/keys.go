package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

const (
	keyPrefix  = "sk-sluice-" // lets people and secret scanners see what it is
	hashPrefix = "sha256:"
)

// Key is an API key in the configuration.
type Key struct {
	ID   string // the owner is "key:<id>"; no two keys have the same
	Key  string // "sha256:<hex>" of the key, or the key itself
	Plan string // "": the default plan
}

// GenerateKey makes a new API key of 32 random bytes: plain is for the caller to send, and hashed, "sha256:<hex>", for
// the configuration, which then holds nothing worth stealing.
func GenerateKey() (plain, hashed string) {
	var random [32]byte
	rand.Read(random[:]) // never fails
	plain = keyPrefix + base64.RawURLEncoding.EncodeToString(random[:])
	hash := sha256.Sum256([]byte(plain))
	return plain, hashPrefix + hex.EncodeToString(hash[:])
}

// hash is the SHA-256 of the key, however it is written. SHA-256 without salt or cost is enough for a random key;
// a key that people can remember is not one.
func (k Key) hash() (hash [sha256.Size]byte, err error) {
	written, hashed := strings.CutPrefix(k.Key, hashPrefix)
	switch {
	case k.Key == "":
		return hash, errors.New("is empty")
	case hashed:
		sum, err := hex.DecodeString(written)
		if err != nil || len(sum) != len(hash) {
			return hash, errors.New("must have 64 hexadecimal digits after the prefix sha256")
		}
		return [sha256.Size]byte(sum), nil
	case len(k.Key) > maxCredential:
		return hash, fmt.Errorf("is longer than %d bytes", maxCredential)
	case strings.ContainsFunc(k.Key, func(r rune) bool { return r <= ' ' || r > '~' }):
		return hash, errors.New("holds white space or other characters that a header cannot carry; use letters, digits and punctuation of ASCII")
	}
	return sha256.Sum256([]byte(k.Key)), nil
}

type knownKey struct {
	hash     [sha256.Size]byte
	identity Identity
}

func knownKeys(cfg Config, secret ticketSecret) ([]knownKey, error) {
	var keys []knownKey
	ids := make(map[string]bool)
	hashes := make(map[[sha256.Size]byte]string)
	for i, k := range cfg.Keys {
		if k.ID == "" {
			return nil, fmt.Errorf("API key %d has no id", i+1)
		}
		if ids[k.ID] {
			return nil, fmt.Errorf("two API keys have the id %q; each would read the other's streams", k.ID)
		}
		ids[k.ID] = true
		hash, err := k.hash()
		if err != nil {
			return nil, fmt.Errorf("the API key of %q %w", k.ID, err)
		}
		if other, ok := hashes[hash]; ok {
			return nil, fmt.Errorf("%q and %q have the same API key", other, k.ID)
		}
		hashes[hash] = k.ID
		owner := "key:" + k.ID
		id := Identity{Owner: owner, Account: owner, Plan: k.Plan, tag: secret.tag("key", string(hash[:]), k.ID)}
		if id.Plan == "" {
			id.Plan = cfg.DefaultPlan
		}
		keys = append(keys, knownKey{hash, id})
	}
	return keys, nil
}

// find looks a key up by its hash. It compares all of them to the end, so that its time says nothing about which one
// was near.
func find(keys []knownKey, hash [sha256.Size]byte) (Identity, bool) {
	found := -1
	for i := range keys {
		equal := subtle.ConstantTimeCompare(hash[:], keys[i].hash[:])
		found = subtle.ConstantTimeSelect(equal, i, found)
	}
	if found < 0 {
		return Identity{}, false
	}
	return keys[found].identity, true
}
