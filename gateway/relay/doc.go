// Package relay holds the streams: each is one answer of Claude on its way to any number of viewers.
//
// A stream's events are kept in its log, numbered 1, 2, 3 …; a viewer is a cursor into the log, and takes what is past
// it. Nothing is pushed: there is no buffer per viewer, no seam between replay and live, and a viewer that doesn't read
// costs nobody anything. A viewer that is behind is given neighbouring deltas merged into one.
//
// A stream lives on a context of its own. It has exactly one end: message_stop, or one error event. It ends when the
// upstream ends or fails, when its owner cancels it, when nobody has watched it for a while, or when the process stops.
//
// What a stream takes of its owner's plan is reserved before it starts, and settled once, at its end, with what the
// upstream has reported, or an estimate of what it has sent. In between only a stream whose owner has a limit for the
// day is metered.
//
// Three functions carry the room: Relay.Start (a request becomes a stream, or joins one), Stream.Attach (a cursor
// becomes a viewer) and Viewer.Take (what is past the cursor).
//
// All types are safe for use by many goroutines, except that a Viewer belongs to the one that attached it.
package relay
