// Package claude knows the Claude API: how a stream is opened, decoded and checked, when a request may be repeated, how
// a Message accumulates from its events, and what each error means.
//
// It knows nothing of streams with viewers, callers or plans. Every failure that it returns is an *Error in Anthropic's
// words, or the cause of the caller's own context.
//
// Three functions carry the room: Client.Open (a request becomes a stream whose events arrive, or a refusal),
// stream.event (one event is checked and handed on), and Message.Add (an event becomes a part of the Message).
package claude
