package httpapi

import (
	"errors"
	"math"
	"runtime/debug"
	"sync/atomic"
	"time"

	"sluice/gateway/metrics"
	"sluice/gateway/relay"
)

// follower writes a viewer's events as they come, a ping where there are none, and the end. Its methods want the turn to
// write.
type follower struct {
	v *relay.Viewer
	w sink
	delivery
}

// start writes what comes before the events.
func (f *follower) start(first []byte) error {
	f.done(relay.Batch{})
	// The header leaves with the first bytes; where there are none yet, now.
	switch {
	case first != nil:
		return f.w.write(first)
	case !f.v.Pending():
		return f.w.flush()
	}
	return nil
}

// turn writes what there is. Where that is not the end, the turn is over: it comes back with a wake or Claim, and only
// then.
func (f *follower) turn() (over bool, reason relay.EndReason) {
	for {
		b, ended := f.v.Take()
		switch {
		case b.Events > 0:
			if err := f.w.write(b.Pieces...); err != nil {
				return true, reasonOf(err)
			}
			f.done(b)
		case ended && f.v.Parted():
			return true, relay.EndGone // the connection breaks, and its reader comes again
		case ended:
			f.w.end()
			return true, relay.EndCompleted
		default:
			return false, ""
		}
	}
}

// woken goes on after a wake.
func (f *follower) woken() (over bool, reason relay.EndReason) {
	if err := f.w.flush(); err != nil {
		return true, reasonOf(err)
	}
	f.flushed()
	return f.turn()
}

// ping says that the connection lives, and goes on.
func (f *follower) ping() (over bool, reason relay.EndReason) {
	if err := f.w.write(pingFrame); err != nil {
		return true, reasonOf(err)
	}
	f.metrics.Ping()
	f.done(relay.Batch{})
	return f.turn()
}

func reasonOf(err error) relay.EndReason {
	if errors.Is(err, errStalled) {
		return relay.EndStalled
	}
	return relay.EndGone
}

// follow is the whole life of a viewer that waits on the handler's goroutine.
func (f *follower) follow(w *response, first []byte, pingInterval time.Duration) (reason relay.EndReason) {
	reason = relay.EndGone
	defer func() {
		f.v.Detach(reason)
		w.close()
	}()
	if err := f.start(first); err != nil {
		return reasonOf(err)
	}
	over, why := f.turn()
	for !over {
		switch w.wait(f.v.Wake(), f.last().Add(pingInterval)) {
		case woken:
			over, why = f.woken()
		case late:
			if f.v.Claim() {
				over, why = f.ping()
			} else {
				<-f.v.Wake() // which is on its way
				over, why = f.woken()
			}
		case gone:
			return relay.EndGone
		}
	}
	return why
}

// pushed is a follower on a connection in our own hands. It has a goroutine only while it has its turn and there is
// something to write that the stream's reader does not write.
type pushed struct {
	follower
	api  *API
	conn *rawConn

	timer *time.Timer // of the next ping
	left  atomic.Bool // the reader has
	over  atomic.Bool
}

func (f *pushed) begin(first []byte) {
	defer f.failOnPanic()
	if err := f.start(first); err != nil {
		f.finish(reasonOf(err))
		return
	}
	f.v.OnWake(f.wake)
	f.v.Push(func(b relay.Batch) bool {
		if !f.conn.push(b.Pieces) {
			f.unfinished = b
			return false
		}
		f.done(b)
		return true
	})
	f.timer = time.AfterFunc(math.MaxInt64, f.late)
	f.timer.Reset(f.api.cfg.PingInterval) // now that late can see it
	f.conn.conn.Push(f)
	f.went(f.turn())
}

// went ends the viewer where that is what its turn has come to.
func (f *pushed) went(over bool, reason relay.EndReason) {
	if over {
		f.finish(reason)
	}
}

func (f *pushed) wake() {
	defer f.failOnPanic()
	if f.left.Load() {
		f.finish(relay.EndGone)
		return
	}
	f.went(f.woken())
}

// late is called when a ping may be due. Pushes don't move the timer.
func (f *pushed) late() {
	defer f.failOnPanic()
	wait := time.Until(f.last().Add(f.api.cfg.PingInterval))
	if wait <= 0 {
		wait = f.api.cfg.PingInterval
		if f.v.Claim() {
			f.went(f.ping())
		}
	}
	if f.over.Load() {
		return
	}
	f.timer.Reset(wait)
	if f.over.Load() { // meanwhile
		f.timer.Stop()
	}
}

// Data is what the reader still sends: whatever was pipelined behind the request would not be answered on this connection
// anyway.
func (f *pushed) Data([]byte) {}

// End is the reader's end.
func (f *pushed) End(error) {
	f.left.Store(true)
	f.v.Interrupt()
}

// finish is the viewer's end, once.
func (f *pushed) finish(reason relay.EndReason) {
	if f.over.Swap(true) {
		return
	}
	if f.timer != nil {
		f.timer.Stop()
	}
	f.v.Detach(reason)
	f.conn.close()
	f.api.letGo(f.conn)
}

// failOnPanic ends the viewer if its goroutine panics: one viewer's failure is not the process's.
func (f *pushed) failOnPanic() {
	if p := recover(); p != nil {
		f.api.log.Error("viewer failed by a defect", "panic", p, "stack", string(debug.Stack()))
		f.finish(relay.EndGone)
	}
}

// delivery counts what a viewer was sent, by whoever's turn it was.
type delivery struct {
	metrics    *metrics.Metrics
	written    atomic.Int64 // when bytes were last written, in Unix nanoseconds
	unfinished relay.Batch  // what a push has left
}

// flushed counts what a push had left, now that it is written.
func (d *delivery) flushed() {
	if d.unfinished.Events > 0 {
		d.done(d.unfinished)
		d.unfinished = relay.Batch{}
	}
}

func (d *delivery) done(b relay.Batch) {
	now := time.Now()
	d.written.Store(now.UnixNano())
	if b.Events > 0 {
		d.metrics.Delivered(b.Events, b.Coalesced)
	}
	if b.Live && b.Events > 0 {
		d.metrics.RelayDelay(now.Sub(b.Read))
	}
}

func (d *delivery) last() time.Time { return time.Unix(0, d.written.Load()) }
