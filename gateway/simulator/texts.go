package simulator

import (
	"fmt"
	"slices"
	"strings"
)

// echoLimit keeps a pasted document out of the answer's first line.
const echoLimit = 160

// echo is the prompt as it can be quoted in a sentence: one line, not too long, without the words that ask for faults.
func echo(prompt string) string {
	quote := []rune(strings.Join(strings.Fields(faultWord.ReplaceAllString(prompt, "")), " "))
	if len(quote) > echoLimit {
		return strings.TrimSpace(string(quote[:echoLimit])) + "…"
	}
	return string(quote)
}

func thoughtAbout(prompt string) string {
	quote := echo(prompt)
	if quote == "" {
		quote = "(nothing in particular)"
	}
	return fmt.Sprintf("The user writes: “%s”. Let me see what would help. I am a simulation, so I cannot know much about it, "+
		"but I can say something true about how an answer travels. First a word on what was asked, then an explanation, "+
		"a short list, and an example to try. That should be clear, and not too long – naïve readers and experts alike.", quote)
}

// longAnswer is how many deltas "long" brings, give or take a paragraph.
const longAnswer = 2000

// compose writes the text of an answer.
func (x *exchange) compose(q *request, words map[string]bool) string {
	quote := echo(q.prompt)
	if words["short"] && !words["long"] {
		return fmt.Sprintf("In short: %sthe answer comes in small pieces, each handed on the moment it exists 🌊.", about(quote))
	}
	var text strings.Builder
	if q.toolResult != "" {
		fmt.Fprintf(&text, "The tool says: “%s”. Thank you, that is all I needed. ✅\n\n", echo(q.toolResult))
	}
	if quote != "" {
		fmt.Fprintf(&text, "You wrote: “%s”. ", quote)
	}
	text.WriteString("I am a simulated Claude: I live inside the gateway, need no key, and make no calls – but I stream like the real one. ")
	first := x.topic(words)
	if !words["long"] {
		text.WriteString(topics[first].text())
		text.WriteString(closing)
		return text.String()
	}
	text.WriteString("Since you would like it long, make yourself comfortable. ☕\n\n")
	for chapter, n := 0, len(pieces(text.String())); n < longAnswer; chapter++ {
		topic := topics[(first+chapter)%len(topics)]
		section := fmt.Sprintf("## %d. %s\n\n%s", chapter+1, topic.title, topic.text())
		n += len(pieces(section))
		text.WriteString(section)
	}
	text.WriteString(closing)
	return text.String()
}

func about(quote string) string {
	if quote == "" {
		return ""
	}
	return fmt.Sprintf("about “%s”, ", quote)
}

// topic picks what the prompt is about; where it is about nothing of ours, chance does.
func (x *exchange) topic(words map[string]bool) int {
	for i, topic := range topics {
		if slices.ContainsFunc(topic.words, func(word string) bool { return words[word] }) {
			return i
		}
	}
	return x.random.IntN(len(topics))
}

const closing = "That is the whole of it. Ask me something else – or write `fault:cut` into your next message and watch what happens to the stream. 🙂"

type topic struct {
	title      string
	words      []string
	paragraphs []string
	list       []string
	code       string // with its language on the first line
}

func (t topic) text() string {
	var text strings.Builder
	for _, paragraph := range t.paragraphs {
		text.WriteString(paragraph + "\n\n")
	}
	for _, item := range t.list {
		text.WriteString("- " + item + "\n")
	}
	text.WriteString("\n```" + t.code + "\n```\n\n")
	return text.String()
}

var topics = []topic{
	{
		title: "How an answer becomes a stream",
		words: []string{"stream", "streams", "streaming", "sse", "event", "events", "protocol"},
		paragraphs: []string{
			"A language model writes one token after the other, so there is no reason to wait for the last one before showing the first. " +
				"**Server-sent events** carry them over plain HTTP: a response that does not end yet, in which every event is a few lines of text and a blank line.",
			"The order never changes. A `message_start` opens the message, each content block is started, filled by deltas and stopped, " +
				"and a `message_delta` tells why the model stopped and what it all amounted to. Pings may come at any time; they mean “still here”, and nothing else.",
			"What makes this format so pleasant is its humility: no frames to mask, no handshake to upgrade, nothing that a proxy, a log file or a tired human " +
				"at three in the morning could not read. Its one trap is the blank line: an event without it has not happened.",
		},
		list: []string{
			"`event:` names what happened",
			"`data:` carries the JSON, on one line",
			"`id:` is the bookmark for coming back",
		},
		code: "js\nconst source = new EventSource(stream.events_url);\nsource.addEventListener(\"content_block_delta\", (e) => {\n  const { delta } = JSON.parse(e.data);\n  if (delta.type === \"text_delta\") show(delta.text);\n});",
	},
	{
		title: "Coming back after the tunnel",
		words: []string{"resume", "resumes", "reconnect", "reconnecting", "lost", "drop", "dropped", "connection", "network", "offline", "train"},
		paragraphs: []string{
			"Connections end: a train enters a tunnel, a laptop is closed in the café, a load balancer loses its patience. The answer that was on its way has been paid for all the same, " +
				"so it should not depend on the wire that happened to carry it.",
			"The trick is to number what was said and to keep it for a while. A reader that returns names the last number it saw, gets everything after it, and is then simply up to date again. " +
				"There is no seam between the replay and the live part, because both are the same walk along the same log.",
			"Two promises matter here: *no gap* and *no repeat*. A missing word changes the meaning of a sentence, and a repeated one makes people doubt the rest. " +
				"And when a log is truly gone, saying so at once is kinder than a spinner that turns for ever.",
		},
		list: []string{
			"remember the last `id:` you have seen",
			"ask for what comes after it",
			"trust the log, not the socket",
		},
		code: "sh\ncurl -N \"$EVENTS_URL\" -H \"Last-Event-ID: 42\"\n# → id: 43, id: 44, … as if nothing had happened",
	},
	{
		title: "Readers fast and slow",
		words: []string{"slow", "fast", "speed", "latency", "performance", "memory", "buffer", "backpressure", "relay", "proxy", "gateway"},
		paragraphs: []string{
			"A relay stands between one writer and many readers, and the readers are never equally quick. If it pushes, somebody has to keep what the slow one has not taken yet; " +
				"if it waits, one phone in a lift holds up everybody else. Neither is fair.",
			"So the readers pull. Each has a place in the log and takes what lies after it whenever it has room. The one in pace receives every piece as it comes; " +
				"the one that fell behind gets several pieces in one go – fewer frames, the same text, not one letter lost.",
			"It is an old idea, older than computers: a river does not ask the mill how fast its wheel can turn. The sluice beside the wheel decides how much water comes through, " +
				"and the rest flows on to whoever is waiting downstream.",
		},
		list: []string{
			"one log per answer, shared by all",
			"one cursor per reader, and nothing more",
			"a deadline for each write, moved on by progress",
		},
		code: "go\nfor event := range log.After(cursor) {\n\tif err := write(event); err != nil {\n\t\treturn err // the log stays; the reader may come back\n\t}\n}",
	},
	{
		title: "What it costs, and who says stop",
		words: []string{"cost", "costs", "price", "token", "tokens", "limit", "limits", "rate", "budget", "quota", "usage", "money"},
		paragraphs: []string{
			"Every answer is paid by the token, those that go in and those that come out. The numbers arrive in two places: an estimate when the message starts, " +
				"and the final, cumulative count in `message_delta`. The second replaces the first; adding them up is a classic, and expensive, mistake.",
			"A good limit acts before the money is spent. The request says how much it may produce at most, that much is set aside, and when the answer is complete the difference is given back. " +
				"Whoever is over the limit is told how long to wait – in seconds, not in prose.",
			"And if a stream breaks off half way? What was produced was produced, so it is counted, and marked as an estimate where nobody reported a number. " +
				"An honest “about 1 200” beats a precise zero. The month-end report – 数字は正直 – will thank you.",
		},
		list: []string{
			"reserve on admission",
			"settle with the real usage",
			"say `retry-after`, and mean it",
		},
		code: "json\n{\"type\":\"message_delta\",\n \"delta\":{\"stop_reason\":\"end_turn\"},\n \"usage\":{\"input_tokens\":25,\"output_tokens\":142}}",
	},
	{
		title: "When things go wrong",
		words: []string{"error", "errors", "fault", "faults", "fail", "fails", "failure", "retry", "overloaded", "wrong", "test", "break"},
		paragraphs: []string{
			"There are two kinds of failure. The polite kind comes before the first word, as a status code with a reason, and the client may try again without anybody noticing. " +
				"The other kind comes in the middle of a sentence, and then no status code can help, because “200 OK” has left the house long ago.",
			"For the second kind there is exactly one honest answer: an `error` event, and then the end. Starting over under the same roof would splice two different answers into one; " +
				"pretending that the model simply finished would be worse, for it would be believed.",
			"I can show you most of these on request, which is rather the point of me. Ask for a stall, a flood, a page of HTML where JSON should be, or a stream that ends without saying goodbye: " +
				"déjà vu for anyone who has run a proxy in production, and a calm place to practise for everyone else.",
		},
		list: []string{
			"before the first event: retry, gently",
			"after it: report, never repeat",
			"silence is not an answer",
		},
		code: "py\nwith client.messages.stream(model=model, max_tokens=1024, messages=messages) as stream:\n    for text in stream.text_stream:\n        print(text, end=\"\", flush=True)",
	},
}
