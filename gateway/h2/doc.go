// Package h2 is an HTTP/2 client for answers that arrive in many small pieces over a long time. One goroutine reads each
// connection, and hands what it reads straight to whoever waits for it: an answer that is pushed has no goroutine and
// no buffer of its own.
//
// net/http's client copies each piece into a buffer of the answer and wakes a goroutine that copies it out again. With
// 1,000 streams of 20 events a second that was a quarter of the CPU that an event took, and with 8,000 waiting ones a third
// of a stream's memory. Frames and header compression are golang.org/x/net's; what is here is RFC 9113 §5 (streams and
// flow control), §6.8 (GOAWAY) and the choice of a connection.
//
// Three functions carry the room: Transport.Begin (a request finds its connection, as with RoundTrip, which waits for the
// answer), conn.read (what arrives finds its answer), and Body.Push (an answer finds its reader).
package h2
