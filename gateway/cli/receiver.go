package cli

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	receivedMost   = 50              // callbacks that are remembered; the page shows no more
	receivedBytes  = 64 << 10        // of a callback's body, which has some hundred
	receivedOld    = 5 * time.Minute // between a callback's timestamp and now: Standard Webhooks' own measure against replays
	secretPatience = 5 * time.Second
)

// receiver is the demo's receiver of callbacks: what an application would be that is told of the ends of its streams and
// batches. It believes what is signed, and remembers the last callbacks. Its handlers may run at once.
type receiver struct {
	listener net.Listener
	server   http.Server

	mu      sync.Mutex
	gateway string     // URL; set before anything is served
	secrets [][]byte   // that may have signed; nil: not asked for yet
	got     []received // the newest last
}

// received is a callback as it came. What is badly signed may come from anybody, and of it nothing but its id is kept.
type received struct {
	ID     string    `json:"id"`
	Good   bool      `json:"good"` // the signature
	Type   string    `json:"type,omitempty"`
	Object string    `json:"object_id,omitempty"`
	Status string    `json:"status,omitempty"`
	Times  int       `json:"times"` // at least once is what a gateway promises
	At     time.Time `json:"received_at"`
}

// newReceiver listens on a free port of this machine.
func newReceiver() (*receiver, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &receiver{listener: l}
	r.server = http.Server{Handler: r, ReadTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10}
	return r, nil
}

func (r *receiver) address() string { return r.listener.Addr().String() }
func (r *receiver) url() string     { return "http://" + r.address() + "/" }

// serve takes callbacks of the gateway at that URL.
func (r *receiver) serve(gateway string) {
	r.gateway = gateway
	go r.server.Serve(r.listener)
}

func (r *receiver) Close() {
	r.server.Close()
	r.listener.Close() // where it was not served
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodPost {
		http.Error(w, "Callbacks are POSTs.", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, receivedBytes))
	if err != nil {
		http.Error(w, "The body can't be read.", http.StatusBadRequest)
		return
	}
	secrets, err := r.known(req.Context())
	if err != nil {
		http.Error(w, "The secret is not known yet.", http.StatusServiceUnavailable) // it will be told again
		return
	}
	one := received{ID: req.Header.Get("Webhook-Id"), Good: signed(req.Header, body, secrets, time.Now())}
	if !one.Good {
		r.remember(one)
		http.Error(w, "The signature is not good.", http.StatusUnauthorized)
		return
	}
	var event struct {
		Type string
		Data struct{ ID, Status string }
	}
	if err := json.Unmarshal(body, &event); err != nil {
		http.Error(w, "The body is not JSON.", http.StatusBadRequest)
		return
	}
	one.Type, one.Object, one.Status = event.Type, event.Data.ID, event.Data.Status
	r.remember(one)
	w.WriteHeader(http.StatusNoContent)
}

// known are the secrets of those who may call the demo: its page, and who has its key.
func (r *receiver) known(ctx context.Context) ([][]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.secrets != nil {
		return r.secrets, nil
	}
	var all [][]byte
	for _, key := range []string{"", demoKey} {
		some, err := fetchSecrets(ctx, r.gateway, key)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	r.secrets = all
	return all, nil
}

// fetchSecrets asks the gateway for a caller's secrets.
func fetchSecrets(ctx context.Context, gateway, key string) (secrets [][]byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, secretPatience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, gateway+"/v1/callbacks/secret", nil)
	if err != nil {
		return nil, err
	}
	if key != "" {
		req.Header.Set("X-Api-Key", key)
	}
	req.Close = true // there are two of them, ever
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		Secret string   `json:"secret"`
		Other  []string `json:"other_secrets"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("the gateway answered %s", resp.Status), err)
	}
	for _, text := range append(answer.Other, answer.Secret) {
		secret, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(text, "whsec_"))
		if err != nil {
			return nil, err
		}
		secrets = append(secrets, secret)
	}
	return secrets, nil
}

// signed reports whether one of the secrets has signed a callback, a short while ago (Standard Webhooks 1.0).
func signed(h http.Header, body []byte, secrets [][]byte, now time.Time) bool {
	id, timestamp := h.Get("Webhook-Id"), h.Get("Webhook-Timestamp")
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil || now.Sub(time.Unix(seconds, 0)).Abs() > receivedOld {
		return false
	}
	content := bytes.Join([][]byte{[]byte(id), []byte(timestamp), body}, []byte("."))
	for signature := range strings.SplitSeq(h.Get("Webhook-Signature"), " ") {
		given, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(signature, "v1,"))
		if err != nil || !strings.HasPrefix(signature, "v1,") {
			continue // of another version
		}
		for _, secret := range secrets {
			mac := hmac.New(sha256.New, secret)
			mac.Write(content)
			if hmac.Equal(mac.Sum(nil), given) {
				return true
			}
		}
	}
	return false
}

func (r *receiver) remember(one received) {
	r.mu.Lock()
	defer r.mu.Unlock()
	one.At, one.Times = time.Now().UTC(), 1
	if at := slices.IndexFunc(r.got, func(old received) bool { return old.ID == one.ID && old.Good == one.Good }); at >= 0 {
		one.Times += r.got[at].Times
		r.got = slices.Delete(r.got, at, at+1)
	}
	r.got = append(r.got, one)
	r.got = r.got[max(0, len(r.got)-receivedMost):]
}

// list answers with what was received, the newest first.
func (r *receiver) list() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		r.mu.Lock()
		newest := append([]received{}, r.got...) // never null
		r.mu.Unlock()
		slices.Reverse(newest)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_ = json.NewEncoder(w).Encode(map[string]any{"data": newest}) // who has left needs none
	})
}
