package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
)

const (
	// freshFor is how long a key may still count that its issuer has withdrawn, and how often an issuer is asked.
	freshFor = 15 * time.Minute

	// fetchRetry is the wait after a fetch that failed. The keys of before stay good meanwhile.
	fetchRetry = 30 * time.Second

	// fetchGap is the least time from one fetch to the next. A token signed with an unknown key causes a fetch, since the
	// issuer may have changed its keys; whoever invents key ids makes us ask it six times a minute, and not more.
	fetchGap = 10 * time.Second

	// fetchTimeout is also the longest that a caller with an unknown key waits.
	fetchTimeout = 5 * time.Second

	maxKeySet = 1 << 20 // bytes; sets have some kB
	maxKeys   = 100     // each may be tried for a token that names none
)

// keySource keeps the keys of an issuer as its URL gives them (RFC 7517). It has no goroutine of its own: each fetch sets
// the timer for the next.
type keySource struct {
	url    string
	client *http.Client
	log    *slog.Logger
	keys   atomic.Pointer[keyfunc.Keyfunc] // nil as long as no fetch has succeeded
	ctx    context.Context                 // of the fetches
	cancel context.CancelFunc

	mu       sync.Mutex
	running  chan struct{} // closed when the fetch under way is over; nil if none is
	earliest time.Time     // when the next may begin
	timer    *time.Timer   // begins it; nil before the first
	fetches  sync.WaitGroup
}

func newKeySource(url string, log *slog.Logger) *keySource {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableKeepAlives = true // the next request comes after minutes
	client := &http.Client{Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }} // it may lead to where anyone can listen
	s := &keySource{url: url, client: client, log: log}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// find returns the key or keys that a token may be signed with. It waits for a fetch where the token's is not there.
func (s *keySource) find(ctx context.Context, token *jwt.Token) (any, error) {
	key, err := s.known(token)
	if !errors.Is(err, jwkset.ErrKeyNotFound) && !errors.Is(err, ErrKeysUnavailable) {
		return key, err
	}
	fetched := s.refresh()
	if fetched == nil {
		return nil, err
	}
	select {
	case <-fetched:
		return s.known(token)
	case <-ctx.Done():
		return nil, err
	}
}

func (s *keySource) known(token *jwt.Token) (any, error) {
	keys := s.keys.Load()
	if keys == nil {
		return nil, ErrKeysUnavailable
	}
	return (*keys).Keyfunc(token)
}

// refresh begins a fetch, or joins the one under way. The channel is closed when it is over; it is nil if the last one
// was too short a time ago.
func (s *keySource) refresh() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running != nil {
		return s.running
	}
	now := time.Now()
	if now.Before(s.earliest) || s.ctx.Err() != nil {
		return nil
	}
	s.earliest = now.Add(fetchGap)
	s.running = make(chan struct{})
	s.fetches.Go(s.fetch)
	return s.running
}

// fetch replaces the keys, if the issuer has some to give, and sees to it that it is asked again.
func (s *keySource) fetch() {
	next := freshFor
	keys, skipped, err := s.get()
	switch {
	case s.ctx.Err() != nil:
	case err != nil:
		next = fetchRetry
		s.log.Warn("the keys of the tokens' issuer could not be fetched", "host", s.host(), "error", err, "keys_of_before", s.keys.Load() != nil)
	default:
		s.keys.Store(&keys)
		s.log.Debug("the keys of the tokens' issuer were fetched", "host", s.host(), "keys_of_no_use", skipped)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.running)
	s.running = nil
	switch {
	case s.ctx.Err() != nil:
	case s.timer == nil:
		s.timer = time.AfterFunc(next, func() { s.refresh() })
	default:
		s.timer.Reset(next)
	}
}

func (s *keySource) get() (keys keyfunc.Keyfunc, skipped int, err error) {
	ctx, cancel := context.WithTimeout(s.ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok { // its text has the URL, whose query may be secret
			err = wrapped.Err
		}
		return nil, 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, 0, fmt.Errorf("the answer has status %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxKeySet+1))
	if err != nil {
		return nil, 0, err
	}
	if len(body) > maxKeySet {
		return nil, 0, fmt.Errorf("the answer is longer than %d bytes", maxKeySet)
	}
	return parseKeys(s.ctx, body)
}

// parseKeys reads a JWK Set. What is for encryption, of an unknown kind or malformed is skipped; a secret among public
// keys is a mistake, and is skipped, too. An answer without any key is not taken for the wish to have none.
func parseKeys(ctx context.Context, body []byte) (keys keyfunc.Keyfunc, skipped int, err error) {
	var set jwkset.JWKSMarshal
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, 0, errors.New("the answer is not a JWK Set")
	}
	storage := jwkset.NewMemoryStorage()
	taken := 0
	for _, marshaled := range set.Keys {
		key, err := jwkset.NewJWKFromMarshal(marshaled, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
		if err != nil || marshaled.USE == jwkset.UseEnc {
			skipped++
			continue
		}
		if taken++; taken > maxKeys {
			return nil, 0, fmt.Errorf("the answer has more than %d keys", maxKeys)
		}
		if err := storage.KeyWrite(ctx, key); err != nil {
			return nil, 0, err
		}
	}
	if taken == 0 {
		return nil, 0, errors.New("the answer has no key that tokens can be verified with")
	}
	keys, err = keyfunc.New(keyfunc.Options{Ctx: ctx, Storage: storage})
	return keys, skipped, err
}

// host is where the keys come from, as far as it may be logged.
func (s *keySource) host() string {
	u, err := url.Parse(s.url)
	if err != nil {
		return ""
	}
	return u.Host
}

// close ends the fetch under way and makes no more.
func (s *keySource) close() {
	s.mu.Lock()
	s.cancel()
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock()
	s.fetches.Wait()
}
