package callbacks

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"sluice/gateway/backoff"
)

const (
	// attemptTimeout is for one attempt, name look-up to answer. Receivers should take note and answer at once; a slow one
	// holds one of our places meanwhile.
	attemptTimeout = 15 * time.Second
	// answerLimit is how much of an answer is read. Nothing in it matters; reading spares the receiver a broken pipe.
	answerLimit = 16 << 10
	// answerHeaderLimit bounds the answer's headers, which are read before anything else is known of it.
	answerHeaderLimit = 16 << 10
)

// sender makes one attempt at a time, from any number of goroutines.
type sender struct {
	client  http.Client
	masters masters
	agent   string
}

func newSender(f *fence, m masters, agent string, roots *tls.Config) *sender {
	return &sender{masters: m, agent: agent, client: http.Client{
		Timeout: attemptTimeout,
		// A redirect would be followed with the body and its signature, and receivers that move can say so to people.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:                  nil, // a proxy would dial where the fence cannot see
			DialContext:            f.dial,
			TLSClientConfig:        roots,
			ForceAttemptHTTP2:      true,
			DisableKeepAlives:      true, // each attempt dials, and is fenced, anew; receivers are many and get few
			DisableCompression:     true,
			MaxResponseHeaderBytes: answerHeaderLimit,
		},
	}}
}

// attempt is what came of one POST.
type attempt struct {
	status int           // of the answer; 0: none came
	reason string        // why it failed, in words that are safe to show; empty: it did not
	after  time.Duration // the wait that the receiver asked for; 0: none
}

// The reasons. They are a closed set, and tell a caller nothing about what lies behind the fence.
const (
	reasonStatus    = "answered with a status other than 2xx"
	reasonRedirect  = "answered with a redirect, which is not followed"
	reasonGone      = "answered 410 Gone"
	reasonForbidden = "leads to an address that may not be called"
	reasonName      = "its name could not be resolved"
	reasonTLS       = "could not be reached over TLS"
	reasonTimeout   = "did not answer in time"
	reasonConnect   = "could not be reached"
)

// send makes one attempt. Its result says nothing when ctx ends it; the caller knows.
func (s *sender) send(ctx context.Context, url, owner, id string, body []byte) attempt {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return attempt{reason: reasonConnect}
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", s.agent)
	s.masters.sign(r.Header, owner, id, time.Now(), body)
	answer, err := s.client.Do(r)
	if err != nil {
		return attempt{reason: reasonOf(err)}
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, answerLimit) // the status has been read, and says it all
	a := attempt{status: answer.StatusCode}
	switch {
	case a.status >= 200 && a.status < 300:
		return a
	case a.status >= 300 && a.status < 400:
		a.reason = reasonRedirect
	case a.status == http.StatusGone:
		a.reason = reasonGone
	default:
		a.reason = reasonStatus
	}
	a.after, _ = backoff.RetryAfter(answer.Header, time.Now())
	return a
}

func reasonOf(err error) string {
	var (
		name        *net.DNSError
		timeout     interface{ Timeout() bool }
		certificate *tls.CertificateVerificationError
		record      tls.RecordHeaderError
		alert       tls.AlertError
	)
	switch {
	case errors.Is(err, errForbidden):
		return reasonForbidden
	case errors.As(err, &certificate), errors.As(err, &record), errors.As(err, &alert):
		return reasonTLS
	case errors.As(err, &timeout) && timeout.Timeout():
		return reasonTimeout
	case errors.As(err, &name):
		return reasonName
	}
	return reasonConnect
}
