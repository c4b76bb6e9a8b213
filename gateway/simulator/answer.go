package simulator

import (
	"encoding/base64"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// answer is what the simulated model says, before it is put on the wire whole or in pieces.
type answer struct {
	model        string
	id           string
	blocks       []block
	stopReason   string
	stopSequence *string
	stopDetails  *stopDetails
	usage        usage // all of it, as at the end
	firstTokens  int   // what message_start claims to have been produced
}

// block is one content block. Each piece is one delta, and, unless it is empty, one token.
type block struct {
	kind      string // text, thinking or tool_use
	pieces    []string
	unseen    int    // tokens of thinking that are not shown
	signature string // of a thinking block
	id, name  string // of a tool_use block
}

func (b *block) start() any {
	switch b.kind {
	case "thinking":
		return thinkingBlock{Type: b.kind}
	case "tool_use":
		return toolUseBlock{b.kind, b.id, b.name, json.RawMessage("{}"), caller{"direct"}}
	}
	return textBlock{Type: b.kind}
}

func (b *block) delta(piece string) any {
	switch b.kind {
	case "thinking":
		return thinkingDelta{"thinking_delta", piece}
	case "tool_use":
		return inputDelta{"input_json_delta", piece}
	}
	return textDelta{"text_delta", piece}
}

func (b *block) whole() any {
	content := strings.Join(b.pieces, "")
	switch b.kind {
	case "thinking":
		return thinkingBlock{b.kind, content, b.signature}
	case "tool_use":
		if !json.Valid([]byte(content)) {
			content = "{}" // no argument, or cut short by max_tokens
		}
		return toolUseBlock{b.kind, b.id, b.name, json.RawMessage(content), caller{"direct"}}
	}
	return textBlock{b.kind, content}
}

func (b *block) tokens() int {
	n := b.unseen
	for _, piece := range b.pieces {
		if piece != "" {
			n++
		}
	}
	return n
}

// newAnswer makes up an answer to q. Everything it needs of chance it takes from x.
func (x *exchange) newAnswer(q *request, p plan) *answer {
	a := &answer{model: q.model, id: x.id("msg_01"), stopReason: "end_turn"}
	a.usage = usage{
		InputTokens:   q.inTokens,
		CacheCreation: &cacheCreation{},
		ServiceTier:   "standard",
		InferenceGeo:  "not_available",
	}
	if q.cached != "" {
		a.usage.InputTokens -= q.cachedSize
		if x.count("cache\n"+q.cached) == 1 {
			a.usage.CacheCreationInputTokens = q.cachedSize
			a.usage.CacheCreation.FiveMinutes = q.cachedSize
		} else {
			a.usage.CacheReadInputTokens = q.cachedSize
		}
	}
	if p.declined {
		category, explanation := "cyber", "A simulated refusal, because it was asked for."
		a.stopReason = "refusal"
		a.stopDetails = &stopDetails{"refusal", &category, &explanation}
		return a
	}
	x.addBlocks(a, q)
	a.cutAt(q.maxTokens)
	for _, b := range a.blocks {
		a.usage.OutputTokens += b.tokens()
		if b.kind == "thinking" {
			a.usage.OutputTokensDetails = &outputDetails{b.tokens()}
		}
	}
	a.firstTokens = min(a.usage.OutputTokens, 1+x.random.IntN(4))
	a.swell(p.giant)
	return a
}

func (x *exchange) addBlocks(a *answer, q *request) {
	words := wordsOf(q.prompt)
	wanted := q.thinking.Type == "enabled" || q.thinking.Type == "adaptive"
	asked := words["think"] || words["thinking"]
	if wanted || asked && q.thinking.Type != "disabled" {
		thought := block{kind: "thinking", pieces: pieces(thoughtAbout(q.prompt)), signature: x.signature()}
		if q.thinking.Display == "omitted" {
			thought.unseen, thought.pieces = len(thought.pieces), nil
		}
		a.blocks = append(a.blocks, thought)
	}
	tool, callsTool := q.toolToCall(words)
	text := x.compose(q, words)
	if callsTool {
		text = "Let me ask `" + tool.Name + "` about that."
	}
	if sequence, at := firstOf(text, q.stopSequences); at >= 0 {
		text, callsTool = text[:at], false
		a.stopReason, a.stopSequence = "stop_sequence", &sequence
	}
	a.blocks = append(a.blocks, block{kind: "text", pieces: pieces(text)})
	if callsTool {
		a.stopReason = "tool_use"
		a.blocks = append(a.blocks, block{
			kind: "tool_use", id: x.id("toolu_01"), name: tool.Name,
			pieces: fragments(inputFor(tool.InputSchema, echo(q.prompt))),
		})
	}
}

// cutAt keeps what fits into max_tokens. A tool's input may break off in the middle, as it does under fine-grained
// streaming: whoever parses it has to expect that.
func (a *answer) cutAt(maxTokens int) {
	left := maxTokens
	for i := range a.blocks {
		b := &a.blocks[i]
		if n := b.tokens(); n <= left {
			left -= n
			continue
		}
		a.stopReason, a.stopSequence = "max_tokens", nil
		if left == 0 {
			a.blocks = a.blocks[:i]
			return
		}
		keep := left
		if b.unseen > 0 {
			b.unseen = left
		} else if b.pieces[0] == "" {
			keep++
		}
		b.pieces = b.pieces[:min(keep, len(b.pieces))]
		a.blocks = a.blocks[:i+1]
		return
	}
}

// swell puts one very large piece into the text.
func (a *answer) swell(size int) {
	if size == 0 {
		return
	}
	const flood = "The river runs wide here, and all of it arrives at once. "
	piece := strings.Repeat(flood, size/len(flood)+1)[:size]
	for i := range a.blocks {
		if b := &a.blocks[i]; b.kind == "text" {
			b.pieces = slices.Insert(b.pieces, min(1, len(b.pieces)), piece)
			a.usage.OutputTokens += size / 4
			return
		}
	}
}

func (a *answer) deltas() int {
	n := 0
	for _, b := range a.blocks {
		n += len(b.pieces)
	}
	return n
}

// start is the message of message_start.
func (a *answer) start() message {
	m := message{Model: a.model, ID: a.id, Type: "message", Role: "assistant", Content: []any{}, Usage: a.usage}
	m.Usage.OutputTokens, m.Usage.OutputTokensDetails = a.firstTokens, nil
	return m
}

// whole is the Message of an answer that is not streamed.
func (a *answer) whole() message {
	m := a.start()
	m.Usage = a.usage
	m.StopReason, m.StopSequence, m.StopDetails = &a.stopReason, a.stopSequence, a.stopDetails
	for i := range a.blocks {
		m.Content = append(m.Content, a.blocks[i].whole())
	}
	return m
}

// finalUsage is the usage of message_delta: cumulative, and only what can have changed.
func (a *answer) finalUsage() usage {
	u := a.usage
	u.CacheCreation, u.ServiceTier, u.InferenceGeo = nil, "", ""
	return u
}

// signature looks like the proof that a thinking block carries.
func (x *exchange) signature() string {
	random := make([]byte, 210)
	for i := range random {
		random[i] = byte(x.random.UintN(256))
	}
	return base64.StdEncoding.EncodeToString(random)
}

var tokenLike = regexp.MustCompile(`\s*\S{1,8}|\s+`)

// pieces splits text into what is about a token each; joined they are the text again.
func pieces(text string) []string { return tokenLike.FindAllString(text, -1) }

// wordsOf is the set of words of a text, in small letters.
func wordsOf(text string) map[string]bool {
	words := make(map[string]bool)
	for _, word := range strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return !unicode.IsLetter(r) }) {
		words[word] = true
	}
	return words
}

// firstOf finds the stop sequence that comes first; -1 when none does.
func firstOf(text string, sequences []string) (sequence string, at int) {
	at = -1
	for _, s := range sequences {
		if i := strings.Index(text, s); s != "" && i >= 0 && (at < 0 || i < at) {
			sequence, at = s, i
		}
	}
	return sequence, at
}
