package claude

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
)

// Error types of the API (Anthropic's documentation, "Errors"); their list grows.
const (
	InvalidRequest = "invalid_request_error"
	Authentication = "authentication_error"
	Billing        = "billing_error"
	Permission     = "permission_error"
	NotFound       = "not_found_error"
	Conflict       = "conflict_error"
	TooLarge       = "request_too_large"
	RateLimit      = "rate_limit_error"
	APIError       = "api_error"
	Timeout        = "timeout_error"
	Overloaded     = "overloaded_error"
	Canceled       = "canceled_error" // ours: a stream that its owner ended
)

var statusOfType = map[string]int{
	InvalidRequest: 400, Authentication: 401, Billing: 402, Permission: 403, NotFound: 404, Conflict: 409,
	TooLarge: 413, RateLimit: 429, APIError: 500, Timeout: 504, Overloaded: 529,
}

// Why a stream broke off. They are the causes inside an *Error.
var (
	errTooLarge  = fmt.Errorf("an event is larger than %d bytes", MaxEvent)
	errSpliced   = errors.New("a second message_start")
	errTruncated = errors.New("the body ended before message_stop")
	errSilent    = errors.New("no byte from the upstream for too long")
	errEnded     = errors.New("the stream has ended") // nothing more of it is wanted
)

// ErrOwnKey is the cause of a refusal that is about upstream.api_key and not about the request.
var ErrOwnKey = errors.New("the upstream refuses upstream.api_key with status 401")

// Error is a failure in Anthropic's words: the upstream's refusal, or what we say where it failed to answer properly.
type Error struct {
	Type    string
	Message string
	Status  int         // to answer with, as long as nothing has been sent
	Header  http.Header // the upstream's answer; nil where there was none
	Body    []byte      // the upstream's own error object, byte for byte; nil: made from the other fields
	Cause   error       // for the log, never shown

	answered int // the status of the upstream's refusal; 0: it was none, or is about us, and the same would come again
}

// Error is for the log. It has no words of the upstream's, which may quote a prompt.
func (e *Error) Error() string {
	if e.Body != nil {
		return fmt.Sprintf("%s (in the upstream's words)", e.Type)
	}
	if e.Cause != nil {
		return e.Type + ": " + e.Message + ": " + e.Cause.Error()
	}
	return e.Type + ": " + e.Message
}

func (e *Error) Unwrap() error { return e.Cause }

// Event is Object on one line, as the data of an error event.
func (e *Error) Event(requestID string) []byte {
	object := e.Object(requestID)
	if !bytes.ContainsAny(object, "\r\n") {
		return object
	}
	var line bytes.Buffer
	if json.Compact(&line, object) != nil {
		return ErrorObject(e.Type, e.Message, requestID)
	}
	return line.Bytes()
}

// Object is the error as a JSON object of Anthropic's shape: the upstream's own, or made with this request id.
func (e *Error) Object(requestID string) []byte {
	if e.Body != nil {
		return e.Body
	}
	return ErrorObject(e.Type, e.Message, requestID)
}

// ErrorObject is {"type":"error","error":{"type":…,"message":…},"request_id":…}. The id is left out where it is empty.
func ErrorObject(kind, message, requestID string) []byte {
	type inner struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	}
	b, err := json.Marshal(struct {
		Type      string `json:"type"`
		Error     inner  `json:"error"`
		RequestID string `json:"request_id,omitempty"`
	}{"error", inner{kind, message}, requestID})
	if err != nil {
		panic(err) // three strings always marshal
	}
	return b
}

// ParseError reads an error object; ok is false where data has not Anthropic's shape, to the letter of its keys.
func ParseError(data []byte) (kind, message string, ok bool) {
	if !json.Valid(data) {
		return "", "", false
	}
	inner := member(data, "error")
	kind, _ = text(member(inner, "type"))
	if t, _ := text(member(data, "type")); t != "error" || kind == "" {
		return "", "", false
	}
	if raw := member(inner, "message"); raw != nil {
		if message, ok = text(raw); !ok {
			return "", "", false
		}
	}
	return kind, message, true
}

// firstEventError is an error event that came before any other: a refusal with the status of its type.
func firstEventError(data []byte, header http.Header) *Error {
	kind, message, _ := ParseError(data)
	status := statusOfType[kind]
	if status == 0 {
		status = http.StatusInternalServerError
	}
	e := ours(&Error{Type: kind, Message: message, Status: status, Header: header, Body: data, answered: status})
	e.Cause = errors.Join(errFirstEvent, e.Cause)
	return e
}

// refusal turns an answer that is not 2xx into an *Error. Bodies that are not Anthropic's (an ingress answers in HTML)
// are replaced; statuses that clients act on are kept.
func refusal(status int, header http.Header, body []byte) *Error {
	e := &Error{Status: status, Header: header, answered: status}
	var ok bool
	if e.Type, e.Message, ok = ParseError(body); ok {
		e.Body = body
		return ours(e)
	}
	e.Cause = fmt.Errorf("status %d with a body that is not Anthropic's: %d bytes of %.100q", status, len(body), header.Get("Content-Type"))
	switch {
	case status == http.StatusRequestEntityTooLarge:
		e.Type, e.Message = TooLarge, "The upstream refused the request as too large."
	case status == http.StatusTooManyRequests:
		e.Type, e.Message = RateLimit, "The upstream is limiting requests."
	case status == 529:
		e.Type, e.Message = Overloaded, "Overloaded"
	case status == http.StatusGatewayTimeout:
		e.Type, e.Message = Timeout, "The upstream timed out."
	case status == http.StatusUnauthorized:
		e.Type, e.Message = Authentication, ""
	case status == http.StatusNotFound:
		e.Type, e.Message = NotFound, "The upstream has no such resource."
	case status >= 400 && status < 500:
		e.Type, e.Message = InvalidRequest, "The upstream refused the request with status "+strconv.Itoa(status)+"."
	default:
		e.Type, e.Status, e.Message = APIError, http.StatusBadGateway, "The upstream answered with something that is not the Claude API's (status "+strconv.Itoa(status)+")."
	}
	return ours(e)
}

// ours hides the upstream's word on our own key: the caller can neither understand nor mend it.
func ours(e *Error) *Error {
	if e.Status != http.StatusUnauthorized {
		return e
	}
	return &Error{Type: APIError, Status: http.StatusBadGateway, Header: e.Header,
		Message: "The gateway's own credentials were refused by the upstream. Its operator has to mend this.",
		Cause:   ErrOwnKey}
}

// nonsense is an upstream that doesn't speak the Claude API.
func nonsense(message string, header http.Header, cause error) *Error {
	return &Error{Type: APIError, Status: http.StatusBadGateway, Message: message, Header: header, Cause: cause}
}

// broken says what ended a stream before its end.
func broken(cause error) *Error {
	switch {
	case errors.Is(cause, errSilent):
		return &Error{Type: Timeout, Status: http.StatusGatewayTimeout, Message: "The upstream fell silent.", Cause: cause}
	case errors.Is(cause, errTooLarge):
		return &Error{Type: APIError, Status: http.StatusBadGateway, Message: fmt.Sprintf("The upstream sent an event of more than %d MB.", MaxEvent/1_000_000), Cause: cause}
	case errors.Is(cause, errSpliced):
		return &Error{Type: APIError, Status: http.StatusBadGateway, Message: "The upstream began a second message inside this one.", Cause: cause}
	}
	return &Error{Type: APIError, Status: http.StatusBadGateway, Message: "The upstream ended the stream before the message was complete.", Cause: cause}
}

// CheckAnswer refuses an answer that should have been JSON and isn't, or is over the limit.
func CheckAnswer(resp *http.Response, body []byte, limit int) error {
	switch {
	case len(body) > limit:
		return nonsense(fmt.Sprintf("The upstream's answer is larger than %d MB.", limit/1_000_000), resp.Header, nil)
	case !json.Valid(body):
		return nonsense("The upstream did not answer with JSON.", resp.Header,
			fmt.Errorf("status %d, content-type %.100q", resp.StatusCode, resp.Header.Get("Content-Type")))
	}
	return nil
}
