// Package h1 is an HTTP/1.1 client over plain TCP for answers that arrive in many small pieces over a long time. As in h2,
// an answer that is pushed has no goroutine and no buffer: what arrives goes straight from the connection's poller to
// whoever waits for it.
//
// net/http's client has two goroutines and two buffers a connection, and the reader of its body is a third; with 8,000
// waiting streams those were half of a stream's memory. Where connections can't be polled, and for everything but plain
// http URLs without a proxy, net/http's client is used.
package h1
