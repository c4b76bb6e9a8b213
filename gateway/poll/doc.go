// Package poll has TCP connections that one thread waits for, all of them together.
//
// The runtime's own poller wakes a goroutine for each socket that has something to read, and with it, where events come one
// by one, threads: at 20,000 events a second over 1,000 sockets they slept and woke 19,000 times in two seconds, and the
// runtime's watcher, which runs whenever a thread has just been woken, 2,600 times a second. A thread of ours that sleeps
// in epoll_wait and then reads each socket itself costs neither: the same work took a fifth less CPU.
//
// A connection is taken from the runtime's poller. It is a net.Conn as before, for who waits; and it can hand what arrives
// to a Sink, on the thread that has read it, so that a connection nobody waits for has no goroutine and no buffer. Only
// Linux has this: elsewhere Take says no.
package poll

// Sink takes what arrives on a connection.
//
// Data gets the next bytes. They are valid during the call, which must not block: it comes on a goroutine that reads for
// many connections. End comes once, after the last Data: it is io.EOF where the other side has closed, net.ErrClosed where
// this one has, else why the connection is lost. Both may close the connection.
type Sink = interface {
	Data(p []byte)
	End(err error)
}
