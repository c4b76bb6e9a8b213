package claude

import (
	"bytes"
	"strconv"
)

// The tokens of what has no reported figures are estimated from bytes. The constants come from recordings of the API
// (Claude 3 to 5, 290 answers and their requests), whose reported figures the estimates meet as follows.
//
//   - Output of at least 20 tokens: half of the answers between 0.8 and 1.1 of what was reported, nine in ten between
//     0.7 and 1.25, all between 0.5 and 1.9; together 0.96.
//   - Input that is text, with or without tools of the caller's own: nine in ten between 0.75 and 1.4, all between 0.5
//     and 1.7. Images are up to six times too high, since small ones take less than the most. What tools of the API
//     bring in, such as the results of a search, is not in the request and not in the estimate.
//
// So an estimate is within a factor of two, for English and code and of what has arrived. Thinking that is not shown, and
// whose signature has not come yet, is not in it.
const (
	// In quarters of a token: a byte of text, as it stands in JSON; a byte of a tool's input, of which names, braces and
	// digits are often tokens by themselves; what a block takes beside its text, and what the use of a tool does.
	textQuarters  = 1
	inputQuarters = 2
	blockQuarters = 20
	toolQuarters  = 120
	wholeToken    = 4

	sealOverhead = 180 // bytes that a signature has beside the thinking that it seals

	imageTokens = 1600    // the largest image that is not scaled down (Anthropic's documentation, "Vision")
	pageTokens  = 1500    // a page of a PDF, at the least (the same, "PDF support")
	pdfBytes    = 40      // of a PDF, for each further token
	pdfTokens   = 200_000 // the most of one PDF: a hundred full pages
	toolsTokens = 400     // what a request takes for having tools, beside their descriptions
)

// Output estimates an answer's tokens from its events, as they come. It is not safe for use by several goroutines.
type Output struct {
	quarters int64
	thought  int64 // of the thinking at hand, what was counted
}

// Tokens is the estimate so far, rounded up.
func (o *Output) Tokens() int64 { return (o.quarters + wholeToken - 1) / wholeToken }

// Add takes the next event. It does not check that data is well formed.
func (o *Output) Add(kind Kind, data []byte) {
	switch kind {
	case BlockStart:
		o.block(member(data, "content_block"))
	case BlockDelta:
		if n, key := plainDelta(data); key != "" {
			o.made(key, int64(n))
		} else {
			o.delta(member(data, "delta"))
		}
	}
}

// plainDelta reads a delta as the API writes it, from both its ends: how many bytes its string has, and its key. key is
// empty for whatever looks otherwise. It takes a tenth of the time of a whole look: streams are metered by it.
func plainDelta(data []byte) (n int, key string) {
	const head = `{"type":"content_block_delta","index":`
	if !bytes.HasPrefix(data, []byte(head)) {
		return 0, ""
	}
	i := len(head)
	for i < len(data) && data[i] >= '0' && data[i] <= '9' {
		i++
	}
	rest := data[i:]
	end := len(rest)
	for range 2 { // the braces of delta and event, each with padding before it
		for end > 0 && rest[end-1] == ' ' {
			end--
		}
		if end == 0 || rest[end-1] != '}' {
			return 0, ""
		}
		end--
	}
	if end == 0 || rest[end-1] != '"' {
		return 0, ""
	}
	const (
		text     = `,"delta":{"type":"text_delta","text":"`
		thinking = `,"delta":{"type":"thinking_delta","thinking":"`
		input    = `,"delta":{"type":"input_json_delta","partial_json":"`
	)
	switch n := end - 1; {
	case n >= len(text) && string(rest[:len(text)]) == text:
		return n - len(text), "text"
	case n >= len(thinking) && string(rest[:len(thinking)]) == thinking:
		return n - len(thinking), "thinking"
	case n >= len(input) && string(rest[:len(input)]) == input:
		return n - len(input), "partial_json"
	}
	return 0, ""
}

// delta looks at a delta of any other form.
func (o *Output) delta(delta []byte) {
	size := func(key string) int64 {
		if v := member(delta, key); len(v) > 2 && v[0] == '"' {
			return int64(len(v) - 2)
		}
		return 0
	}
	switch string(member(delta, "type")) {
	case `"text_delta"`:
		o.made("text", size("text"))
	case `"input_json_delta"`:
		o.made("partial_json", size("partial_json"))
	case `"compaction_delta"`:
		o.made("text", size("content"))
	case `"thinking_delta"`:
		// Where thinking is not shown, its tokens may be told, by steps (beta thinking-token-count-2026-05-13).
		steps, err := strconv.ParseInt(string(member(delta, "estimated_tokens")), 10, 32)
		if err != nil {
			steps = 0
		}
		o.made("thinking", max(size("thinking"), steps*wholeToken))
	case `"signature_delta"`:
		// It seals the whole thinking, of which less may have been shown.
		o.made("thinking", max(0, sealed(size("signature"))-o.thought))
	}
}

// sealed is how many bytes of thinking the base64 of a signature or of redacted thinking holds.
func sealed(size int64) int64 { return max(0, size*3/4-sealOverhead) }

func (o *Output) made(key string, n int64) {
	switch key {
	case "partial_json":
		n *= inputQuarters
	case "thinking":
		o.thought += n
	}
	o.quarters += n * textQuarters
}

// block takes a content block with what it has from the beginning, often nothing, sometimes all.
func (o *Output) block(b []byte) {
	o.thought = 0
	size := func(key string) int64 { // of a string or an object, without its quotes or braces
		if v := member(b, key); len(v) >= 2 && (v[0] == '"' || v[0] == '{') {
			return int64(len(v) - 2)
		}
		return 0
	}
	switch string(member(b, "type")) {
	case `"text"`:
		o.quarters += blockQuarters
		o.made("text", size("text"))
	case `"thinking"`:
		o.quarters += blockQuarters
		o.made("thinking", max(size("thinking"), sealed(size("signature"))))
	case `"redacted_thinking"`:
		o.quarters += blockQuarters
		o.made("text", sealed(size("data")))
	case `"compaction"`:
		o.made("text", size("content"))
	case `"tool_use"`, `"server_tool_use"`, `"mcp_tool_use"`:
		o.quarters += toolQuarters
		o.made("partial_json", size("input"))
	}
	// Others are results, which Claude has read and not made, or marks.
}

// EstimateInput estimates the input tokens of a Messages request that ParseParams has accepted, in one pass: text by its
// bytes, images and PDFs by their kind and size, and not as the text that their base64 is. What is only named (by URL or
// file id) counts as one image, one page. cached reports that the request asks for caching, so that a part of the
// input may be read from a cache, which no limit counts. What seals earlier thinking is left out, as the API does.
func EstimateInput(body []byte) (tokens int64, cached bool) {
	var e inputEstimate
	e.value(body, space(body, 0), nil)
	tokens = (e.text+wholeToken-1)/wholeToken + e.media
	if e.tools {
		tokens += toolsTokens
	}
	return tokens, e.cached
}

type inputEstimate struct {
	text, media   int64
	tools, cached bool
}

// value takes the value that begins at i, the member key of its object, and returns the index after it; -1 where there
// is none.
func (e *inputEstimate) value(data []byte, i int, key []byte) int {
	if i >= len(data) {
		return -1
	}
	start := i
	switch data[i] {
	case '{':
		return e.object(data, i, string(key) == "source")
	case '[':
		e.text += 2
		i = space(data, i+1)
		if string(key) == "tools" && i < len(data) && data[i] == '{' {
			e.tools = true
		}
		for i < len(data) && data[i] != ']' {
			if i = e.value(data, i, nil); i < 0 {
				return -1
			}
			if i = space(data, i); i < len(data) && data[i] == ',' {
				e.text++
				i = space(data, i+1)
			}
		}
		if i >= len(data) {
			return -1
		}
		return i + 1
	case '"':
		i = endOfString(data, i)
	default:
		i = skipValue(data, i)
	}
	e.text += int64(i - start)
	return i
}

// object takes an object. That of a source is media, unless it is text or made of blocks.
func (e *inputEstimate) object(data []byte, i int, source bool) int {
	var kind, media, content []byte
	before := e.text
	e.text += 2
	for i = space(data, i+1); i < len(data) && data[i] == '"'; {
		end := endOfString(data, i)
		if end < 0 {
			return -1
		}
		key := data[i+1 : end-1]
		colon := space(data, end)
		at := space(data, colon+1)
		if string(key) == "cache_control" && at < len(data) && data[at] == '{' {
			e.cached = true
		}
		e.text += int64(end-i) + 2 // with colon and comma
		text := e.text
		end = e.value(data, at, key)
		if end < 0 {
			return -1
		}
		switch string(key) {
		case "signature": // of earlier thinking, which it only seals
			e.text = text
		case "type":
			kind = data[at:end]
		case "media_type":
			media = data[at:end]
		case "data":
			content = data[at:end]
		}
		if i = space(data, end); i < len(data) && data[i] == ',' {
			i = space(data, i+1)
		}
	}
	switch {
	case i >= len(data):
		return -1
	case string(kind) == `"redacted_thinking"`:
		e.text = before
		return i + 1
	case !source:
		return i + 1
	}
	switch string(kind) {
	case `"base64"`:
		e.text = before
		if bytes.HasPrefix(media, []byte(`"image/`)) {
			e.media += imageTokens
		} else {
			e.media += min(pageTokens+int64(len(content))*3/4/pdfBytes, pdfTokens)
		}
	case `"url"`, `"file"`:
		e.text = before
		e.media += imageTokens
	}
	return i + 1
}

// endOfString returns the index after the string that begins at i, or -1. Unlike skipString it does not look at each
// byte: a body may be 32 MB of base64.
func endOfString(data []byte, i int) int {
	for i++; ; i++ {
		n := bytes.IndexByte(data[min(i, len(data)):], '"')
		if n < 0 {
			return -1
		}
		i += n
		escapes := i
		for data[escapes-1] == '\\' {
			escapes--
		}
		if (i-escapes)%2 == 0 {
			return i + 1
		}
	}
}
