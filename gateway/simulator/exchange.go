package simulator

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The API's bounds for a body: of a Message Batch, and of everything else.
const (
	bodyLimit      = 32_000_000
	batchBodyLimit = 256_000_000
)

var (
	// errGone: nobody is there any more to be answered.
	errGone = errors.New("simulator: the client is gone")
	// errCut: the answer breaks off here, on purpose.
	errCut = errors.New("simulator: cut on purpose")
)

// apiError is a refusal in Anthropic's shape.
type apiError struct {
	status  int
	kind    string
	message string
	// retryAfter is the header's value in seconds; below zero there is none.
	retryAfter int
}

func (e *apiError) Error() string { return e.message }

func newAPIError(status int, kind, format string, args ...any) *apiError {
	return &apiError{status: status, kind: kind, message: fmt.Sprintf(format, args...), retryAfter: -1}
}

func invalid(format string, args ...any) *apiError {
	return newAPIError(http.StatusBadRequest, "invalid_request_error", format, args...)
}

// exchange is one request and its answer. It belongs to one goroutine.
type exchange struct {
	simulator *Simulator
	w         http.ResponseWriter
	r         *http.Request
	control   *http.ResponseController
	number    uint64
	random    *rand.Rand
	requestID string
	pace      Pace
	count     func(key string) int // how often key has come up, this time included
}

func newExchange(s *Simulator, w http.ResponseWriter, r *http.Request, number uint64) *exchange {
	x := &exchange{
		simulator: s, w: w, r: r,
		control: http.NewResponseController(w),
		number:  number,
		random:  rand.New(rand.NewPCG(s.options.Seed, number)),
		pace:    s.options.Pace,
		count:   s.count,
	}
	x.requestID = x.id("req_011C")
	return x
}

// id makes an id of the API's length: prefix, then random letters, then the request's number.
func (x *exchange) id(prefix string) string {
	const letters = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
	random := make([]byte, 12)
	for i := range random {
		random[i] = letters[x.random.IntN(len(letters))]
	}
	return fmt.Sprintf("%s%s%08d", prefix, random, x.number)
}

// route asks the questions in the API's order: does it exist, may it be asked so, by whom, in which version.
func (x *exchange) route() error {
	header := x.w.Header()
	header.Set("Request-Id", x.requestID)
	header.Set("Anthropic-Organization-Id", "00000000-0000-4000-8000-51a51a51a51a")

	methods := x.methods(x.r.URL.Path)
	if methods == nil {
		return newAPIError(http.StatusNotFound, "not_found_error", "Not found")
	}
	method := x.r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	answer := methods[method]
	if answer == nil {
		header.Set("Allow", strings.Join(slices.Sorted(maps.Keys(methods)), ", "))
		return newAPIError(http.StatusMethodNotAllowed, "invalid_request_error", "Method Not Allowed")
	}
	if err := x.authenticate(); err != nil {
		return err
	}
	if x.r.Header.Get("Anthropic-Version") == "" {
		return invalid("anthropic-version: header is required")
	}
	return answer()
}

// methods says who answers which method at a path; nil where there is nothing.
func (x *exchange) methods(path string) map[string]func() error {
	switch path {
	case "/v1/messages":
		return map[string]func() error{http.MethodPost: x.messages}
	case "/v1/messages/count_tokens":
		return map[string]func() error{http.MethodPost: x.countTokens}
	case "/v1/messages/batches":
		return map[string]func() error{http.MethodPost: x.createBatch, http.MethodGet: x.listBatches}
	case "/v1/models":
		return map[string]func() error{http.MethodGet: x.models}
	}
	if id, ok := strings.CutPrefix(path, "/v1/models/"); ok && id != "" && !strings.Contains(id, "/") {
		return map[string]func() error{http.MethodGet: func() error { return x.model(id) }}
	}
	if rest, ok := strings.CutPrefix(path, "/v1/messages/batches/"); ok {
		return x.batchMethods(rest)
	}
	return nil
}

func (x *exchange) authenticate() error {
	key := x.r.Header.Get("X-Api-Key")
	message := "invalid x-api-key"
	if key == "" {
		scheme, token, _ := strings.Cut(x.r.Header.Get("Authorization"), " ")
		if strings.EqualFold(scheme, "bearer") {
			key, message = strings.TrimSpace(token), "Invalid bearer token"
		}
	}
	if key == "" {
		return newAPIError(http.StatusUnauthorized, "authentication_error", "x-api-key header is required")
	}
	want := x.simulator.options.Key
	if want != "" && subtle.ConstantTimeCompare([]byte(key), []byte(want)) != 1 {
		return newAPIError(http.StatusUnauthorized, "authentication_error", "%s", message)
	}
	return nil
}

// body reads the request to its end, without which the server would not notice that the client leaves.
func (x *exchange) body(limit int64) ([]byte, error) {
	tooLarge := newAPIError(http.StatusRequestEntityTooLarge, "request_too_large", "Request exceeds the maximum size")
	if x.r.ContentLength > limit {
		return nil, tooLarge
	}
	body, err := io.ReadAll(http.MaxBytesReader(x.w, x.r.Body, limit))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, tooLarge
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || x.r.Context().Err() != nil {
		return nil, errGone
	}
	if err != nil {
		return nil, invalid("The request body could not be read: %v", err)
	}
	return body, nil
}

// rateLimits sets the account's limits, as the API does on every answer that counts against them.
func (x *exchange) rateLimits(reset time.Duration, exhausted bool) {
	at := time.Now().Add(reset).UTC().Format(time.RFC3339)
	for name, limit := range map[string]int{"Requests": 4_000, "Input-Tokens": 2_000_000, "Output-Tokens": 400_000, "Tokens": 2_400_000} {
		remaining := limit
		switch {
		case exhausted:
			remaining = 0
		case name == "Requests":
			remaining--
		}
		prefix := "Anthropic-Ratelimit-" + name
		x.w.Header().Set(prefix+"-Limit", strconv.Itoa(limit))
		x.w.Header().Set(prefix+"-Remaining", strconv.Itoa(remaining))
		x.w.Header().Set(prefix+"-Reset", at)
	}
}

// refuse writes an error as the API does.
func (x *exchange) refuse(e *apiError) error {
	if e.retryAfter >= 0 {
		x.w.Header().Set("Retry-After", strconv.Itoa(e.retryAfter))
	}
	if e.status == http.StatusTooManyRequests {
		x.rateLimits(time.Duration(max(e.retryAfter, 0))*time.Second, true)
	}
	return x.json(e.status, errorBody(e.kind, e.message, x.requestID))
}

// json writes a whole JSON answer.
func (x *exchange) json(status int, payload any) error {
	return x.whole(status, "application/json", encode(payload))
}

func (x *exchange) whole(status int, contentType string, body []byte) error {
	x.w.Header().Set("Content-Type", contentType)
	x.w.WriteHeader(status)
	if x.r.Method == http.MethodHead {
		return nil
	}
	if _, err := x.w.Write(body); err != nil {
		return errGone
	}
	return nil
}

// flush sends what has been written. A writer that cannot flush sends it later: that is no error.
func (x *exchange) flush() error {
	if err := x.control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return errGone
	}
	return nil
}

// wait returns after d, or with errGone as soon as the client leaves.
func (x *exchange) wait(d time.Duration) error {
	return sleep(x.r.Context(), d)
}

// waitForLeaving returns errGone when the client leaves, and not before.
func (x *exchange) waitForLeaving() error {
	<-x.r.Context().Done()
	return errGone
}

func sleep(ctx context.Context, d time.Duration) error {
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		return errGone
	}
	return nil
}

// nextDelta is the wait before a delta that is not the first.
func (x *exchange) nextDelta() time.Duration {
	jitter := x.pace.Jitter * (2*x.random.Float64() - 1)
	return time.Duration(float64(x.pace.Delta) * (1 + jitter))
}

// encode is compact JSON with raw UTF-8, as the API writes it.
func encode(payload any) []byte {
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(payload); err != nil {
		panic(err) // only our own types come here
	}
	return bytes.TrimSuffix(buffer.Bytes(), []byte("\n"))
}
