package simulator

import (
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Fault is one way to misbehave, asked for by "fault:NAME" or "fault:NAME=N" in the last user message, or by the
// request header "Simulate: NAME" or "Simulate: NAME=N". Several may be asked for at once, the header's first; where
// two of them set the same thing the later one wins. Faults touch POST /v1/messages, and the items of a Message Batch,
// each by the words in its own prompt: there a fault that refuses or breaks an answer makes the item "errored", and one
// that only delays or garbles the wire does nothing.
type Fault struct {
	Name string `json:"name"`
	Does string `json:"does"`
	// Argument says what N is, and what it is when left out. Empty: the fault takes none.
	Argument string `json:"argument,omitempty"`

	normal  int // N when left out
	arrange func(*plan, int)
	once    bool // N bounds how often a prompt meets the fault, and arrange is not told
}

// Faults returns the table of faults, for pages and help texts. The caller may change what it gets.
func Faults() []Fault { return slices.Clone(faults) }

var faults = []Fault{
	{Name: "slow", Does: "one delta per second", Argument: "ms between deltas (1000)", normal: 1000,
		arrange: func(p *plan, ms int) { p.pace = &Pace{Delta: milliseconds(ms)} }},
	{Name: "slow-start", Does: "silence before the headers", Argument: "ms of silence (12000)", normal: 12_000,
		arrange: func(p *plan, ms int) { p.silence = milliseconds(ms) }},
	{Name: "stall", Does: "some deltas, then silence until the client leaves", Argument: "deltas before it (12)", normal: 12,
		arrange: func(p *plan, n int) { p.ending, p.after, p.pingEvery = endStalled, n, 0 }},
	{Name: "stall-pings", Does: "some deltas, then nothing but pings until the client leaves", Argument: "ms between pings (1000)", normal: 1000,
		arrange: func(p *plan, ms int) {
			p.ending, p.after, p.pingEvery = endStalled, 12, max(milliseconds(ms), time.Millisecond)
		}},
	{Name: "429", Does: "429 rate_limit_error with retry-after", Argument: "seconds of retry-after (2)", normal: 2,
		arrange: func(p *plan, seconds int) {
			p.refusal = newAPIError(http.StatusTooManyRequests, "rate_limit_error", "This request would exceed your account's rate limit. Please try again later.")
			p.refusal.retryAfter = seconds
		}},
	{Name: "529", Does: "529 overloaded_error", arrange: overloaded},
	{Name: "529-once", Does: "529 overloaded_error for the first requests with this prompt, then an answer", Argument: "requests refused (1)", normal: 1, once: true,
		arrange: overloaded},
	{Name: "overloaded-first", Does: "200, and the first event is an overloaded_error",
		arrange: func(p *plan, _ int) { p.errorFirst = true }},
	{Name: "overloaded-first-once", Does: "overloaded-first for the first requests with this prompt, then an answer", Argument: "requests refused (1)", normal: 1, once: true,
		arrange: func(p *plan, _ int) { p.errorFirst = true }},
	{Name: "error", Does: "an overloaded_error event in the middle, then the end of the connection", Argument: "deltas before it (12)", normal: 12,
		arrange: func(p *plan, n int) { p.ending, p.after = endError, n }},
	{Name: "cut", Does: "the connection breaks in the middle", Argument: "deltas before it (12)", normal: 12,
		arrange: func(p *plan, n int) { p.ending, p.after = endCut, n }},
	{Name: "no-stop", Does: "the stream ends cleanly, but without message_stop", Argument: "deltas before the end (all, and message_delta)", normal: never,
		arrange: func(p *plan, n int) { p.ending, p.after = endEarly, n }},
	{Name: "giant", Does: "one text_delta of 1 MB among the others", Argument: "bytes of text (1000000, at most 64000000)", normal: 1_000_000,
		arrange: func(p *plan, bytes int) { p.giant = min(bytes, 64_000_000) }},
	{Name: "gzip", Does: "a gzip body though nobody asked, one flush per event",
		arrange: func(p *plan, _ int) { p.gzip, p.gzipHeader = true, true }},
	{Name: "gzip-silent", Does: "a gzip body without the header that says so",
		arrange: func(p *plan, _ int) { p.gzip, p.gzipHeader = true, false }},
	{Name: "html", Does: "502 with a page of HTML, as from a proxy on the way",
		arrange: func(p *plan, _ int) { p.page = &page{http.StatusBadGateway, "text/html; charset=UTF-8", badGateway} }},
	{Name: "html-200", Does: "200 with a page of HTML, as from a captive portal",
		arrange: func(p *plan, _ int) { p.page = &page{http.StatusOK, "text/html; charset=UTF-8", captivePortal} }},
	{Name: "redirect", Does: "302 to another path, which a client with a key in its hands should not follow",
		arrange: func(p *plan, _ int) {
			p.page = &page{status: http.StatusFound, contentType: "text/plain; charset=utf-8"}
		}},
	{Name: "empty", Does: "200 text/event-stream, and not one byte",
		arrange: func(p *plan, _ int) { p.page = &page{status: http.StatusOK, contentType: eventStream} }},
	{Name: "refusal", Does: "an answer without a block, stop_reason refusal",
		arrange: func(p *plan, _ int) { p.declined = true }},
	{Name: "500", Does: "500 api_error",
		arrange: func(p *plan, _ int) {
			p.refusal = newAPIError(http.StatusInternalServerError, "api_error", "Internal server error")
		}},
	{Name: "401", Does: "401 authentication_error: the key is refused",
		arrange: func(p *plan, _ int) {
			p.refusal = newAPIError(http.StatusUnauthorized, "authentication_error", "invalid x-api-key")
		}},
	{Name: "json-200", Does: "200 with a whole Message as application/json though a stream was asked for",
		arrange: func(p *plan, _ int) { p.notStreamed = true }},
	{Name: "expire", Does: "in a batch: this item expires",
		arrange: func(p *plan, _ int) { p.expires = true }},
	{Name: "expire-once", Does: "in a batch: the first items with this prompt expire, then one is answered", Argument: "items that expire (1)", normal: 1, once: true,
		arrange: func(p *plan, _ int) { p.expires = true }},
	{Name: "batch-time", Does: "in a batch: all of it takes this long (the longest time counts)", Argument: "ms (60000)", normal: 60_000,
		arrange: func(p *plan, ms int) { p.batchTime = milliseconds(ms) }},
}

const (
	badGateway    = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>cloudflare</center>\r\n</body>\r\n</html>\r\n"
	captivePortal = "<!doctype html>\n<html><head><title>Welcome</title></head><body><p>Please accept the terms of this network.</p></body></html>\n"
)

func overloaded(p *plan, _ int) { p.refusal = newAPIError(529, "overloaded_error", "Overloaded") }

func milliseconds(n int) time.Duration { return time.Duration(n) * time.Millisecond }

// ending is how a body ends.
type ending int

const (
	endWhole   ending = iota // as it should
	endStalled               // not at all: silence, or pings
	endError                 // an error event
	endCut                   // a broken connection
	endEarly                 // a clean end of the body, too soon
)

// never is a number of deltas, or a time, that is not reached.
const never = -1

// plan is what the faults of one request add up to.
type plan struct {
	silence     time.Duration // before anything
	page        *page         // instead of an answer
	refusal     *apiError     // instead of an answer
	errorFirst  bool
	declined    bool
	notStreamed bool
	gzip        bool
	gzipHeader  bool
	giant       int
	pace        *Pace // nil: the simulator's
	ending      ending
	after       int           // deltas before the ending
	pingEvery   time.Duration // while stalled; zero is silence
	expires     bool          // of an item in a batch
	batchTime   time.Duration // of the batch it is in; never: it does not say
}

// page is a response that is not the API's.
type page struct {
	status      int
	contentType string
	body        string
}

var faultWord = regexp.MustCompile(`(?i)\bfault:([a-z0-9]+(?:-[a-z0-9]+)*)(?:=([0-9]+))?`)

// argumentLimit: no duration overflows and no wait is longer than a day.
const argumentLimit = 86_400_000

// newPlan reads which faults are asked for. A name that is not in the table is an error, so that no test passes
// because of a typing mistake. times counts how often a text came up, this time included.
func newPlan(header, prompt string, times func(text string) int) (plan, error) {
	p := plan{after: never, batchTime: never}
	words := faultWord.FindAllStringSubmatch(prompt, -1)
	if header != "" {
		name, argument, _ := strings.Cut(strings.TrimSpace(header), "=")
		words = slices.Insert(words, 0, []string{"", name, argument})
	}
	for _, word := range words {
		name := strings.ToLower(word[1])
		i := slices.IndexFunc(faults, func(f Fault) bool { return f.Name == name })
		if i < 0 {
			return p, invalid("simulated faults: there is no `%s`; there are: %s", name, faultNames())
		}
		fault, n := faults[i], faults[i].normal
		if word[2] != "" {
			given, err := strconv.Atoi(word[2])
			if err != nil || given > argumentLimit {
				return p, invalid("simulated faults: %s: `%s` is not a number from 0 to %d", name, word[2], argumentLimit)
			}
			n = given
		}
		if fault.once && times(name+"\n"+prompt) > n {
			continue
		}
		fault.arrange(&p, n)
	}
	return p, nil
}

func faultNames() string {
	names := make([]string, len(faults))
	for i, fault := range faults {
		names[i] = fault.Name
	}
	return strings.Join(names, ", ")
}
