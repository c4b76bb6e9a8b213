// Package gateway is the house: it builds the rooms, serves them and stops them in order.
//
//	cli            the commands                                        -> gateway, auth, limits, simulator
//	gateway        Config, New, Run, Reload                            -> all rooms below
//	  httpapi      the edge: routes, bodies, statuses, the event writer -> all below but h1, h2, backoff and failpoint
//	  auth         who calls: keys, tokens, tickets, trusted proxies; who guesses
//	  background   streams without a browser: queue, workers, results  -> relay, callbacks, claude, limits, store, backoff, metrics, failpoint
//	  batches      Message Batches, watched until they end             -> claude, callbacks, limits, store, backoff, metrics, failpoint
//	  callbacks    signed, retried, fenced: it is done                 -> store, backoff, metrics, failpoint
//	  relay        streams: start, log, follow, cancel, forget          -> claude, limits, metrics
//	  limits       may they, now: requests, tokens, open streams; the queue; what was used
//	  store        what survives a crash: records, queues, large objects
//	  claude       the Claude API: open, decode, check, accumulate      -> backoff, h1, h2, metrics, poll
//	  h1, h2       HTTP whose answers are pushed to whoever waits       -> poll
//	  poll         TCP connections that one thread waits for, all of them together
//	  backoff      how long to wait
//	  failpoint    where a build that is made to be killed stops
//	  metrics      every time series
//	simulator      a Claude that can misbehave; only cli and tests know it
//	web            the page
//
// Arrows go down only; imports_test.go holds them.
//
// One token's way: claude decodes a frame and checks it; relay numbers it, appends it to the stream's log and wakes who
// waits; a viewer in httpapi takes what is past its cursor and writes it. Replay and live are the same loop.
//
// What the house promises: a viewer sees each event of the log in order, once, however often it drops; a stream has
// exactly one end; two answers are never spliced; a slow reader costs nobody else anything; what was used is counted;
// what was accepted for later is done, whatever happens to the process.
package gateway
