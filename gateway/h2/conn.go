package h2

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"sluice/gateway/poll"
)

const (
	// answerWindow is how much of an answer may arrive that nobody has taken. It bounds what a body holds that is read
	// slowly; one that is pushed holds nothing.
	answerWindow = 256 << 10

	// connWindow is the same for a whole connection. Answers have their own bound, and one that is read slowly must not
	// stop the others.
	connWindow = 1 << 30

	// maxHeader bounds an answer's header.
	maxHeader = 64 << 10

	// A frame's own header, and what a server may send in one that was told nothing else (RFC 9113 §4.1, §4.2).
	frameHeader = 9
	maxFrame    = 16 << 10

	// A connection whose server has said nothing for silence is asked with a ping. One that doesn't answer within
	// pingTime is dead, and so are up to some hundred answers on it.
	silence  = 30 * time.Second
	pingTime = 15 * time.Second

	// writeTime is how long a server may refuse to take bytes.
	writeTime = 30 * time.Second
)

// conn is one connection. What arrives on it is read by its poller, or by the one goroutine that it has: the reader.
type conn struct {
	nc      net.Conn
	removed func(*conn) // called once, when no further request is taken
	pollers *poll.Pollers

	// wmu guards writing. Ids go out in order, so they are given under it.
	wmu    sync.Mutex
	out    *bufio.Writer
	framer *http2.Framer // which whoever reads reads frames with
	fields *hpack.Encoder
	block  bytes.Buffer

	mu      sync.Mutex
	moved   sync.Cond // a window has moved, or something has ended
	answers map[uint32]*answer
	next    uint32
	places  int           // taken: by answers, by requests on their way, and by what the server still counts
	most    int           // which it allows at once; one, before it has said so
	window  int64         // how much of requests' bodies it takes, of all together
	initial int64         // of each
	frame   int           // bytes of its largest frame
	closing bool          // takes no further request
	err     error         // why it is over
	told    chan struct{} // closed when the server has sent its settings, or the connection is over
	settled bool          // it is; the reader's alone, as are the next five
	taken   int64         // what arrived since the window was last moved
	in      bytes.Reader  // what the framer reads from
	rest    []byte        // the beginning of a frame whose end has not arrived
	begins  bool          // the first frame has
	touched []*answer     // whose sinks are to be flushed
	heard   atomic.Bool   // something has arrived since the last look
	pinged  bool          // nothing had, so the server was asked; the look's alone
	look    *time.Timer
	idle    *time.Timer

	saying sync.Mutex
	said   []func() // what the reader has to write, or to do after that, in its order; guarded by saying, as is the next
	speaks bool     // a goroutine does it
}

func newConn(nc net.Conn, removed func(*conn)) (*conn, error) {
	c := &conn{nc: nc, removed: removed, out: bufio.NewWriterSize(nc, 4<<10), answers: make(map[uint32]*answer), next: 1,
		told: make(chan struct{}), most: 1, window: 65535, initial: 65535, frame: 16 << 10} // RFC 9113 §6.5.2, §6.9.2
	c.moved.L = &c.mu
	c.framer = http2.NewFramer(c.out, &c.in)
	c.framer.SetReuseFrames()
	c.framer.SetMaxReadFrameSize(maxFrame)
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.framer.MaxHeaderListSize = maxHeader
	c.fields = hpack.NewEncoder(&c.block)
	c.look = time.AfterFunc(silence, c.ask)
	c.idle = time.AfterFunc(idleTime, c.closeIdle)
	err := c.write(func() error {
		c.out.WriteString(http2.ClientPreface)
		if err := c.framer.WriteSettings(
			http2.Setting{ID: http2.SettingEnablePush, Val: 0},
			http2.Setting{ID: http2.SettingInitialWindowSize, Val: answerWindow},
			http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: maxHeader},
		); err != nil {
			return err
		}
		return c.framer.WriteWindowUpdate(0, connWindow-65535)
	})
	if err != nil {
		c.fail(err)
	}
	return c, err
}

// write lets do write frames, alone, and sends them.
func (c *conn) write(do func() error) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	return c.writeLocked(do)
}

func (c *conn) writeLocked(do func() error) error {
	c.nc.SetWriteDeadline(time.Now().Add(writeTime))
	err := do()
	if err == nil {
		err = c.out.Flush()
	}
	if err != nil {
		c.nc.Close() // the reader sees it, and ends everything
	}
	return err
}

// tryLock takes wmu if a request can be written now: nobody else writes, and the server takes bytes.
func (c *conn) tryLock() bool {
	if !c.wmu.TryLock() {
		return false
	}
	if s, polled := socketOf(c.nc); polled && s.polled.Writable() {
		return true
	}
	c.wmu.Unlock()
	return false
}

// reserve takes the room of one answer.
func (c *conn) reserve() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing || c.places >= c.most {
		return false
	}
	c.places++
	c.idle.Stop()
	return true
}

// leave gives back what reserve has taken. The server must have been told whatever frees it there: one that allows a
// hundred answers may punish a hundred and one.
func (c *conn) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.places--
	c.emptyLocked()
}

// forget takes an answer off the connection, once. Who does must reset it if it is not over at the server, and then
// leave its place. One without an id has not begun, and never will: enter leaves its place.
func (c *conn) forget(a *answer) (was bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a.gone {
		return false
	}
	a.gone = true
	delete(c.answers, a.id)
	c.moved.Broadcast()
	return true
}

// emptyLocked looks whether the connection carries anything yet.
func (c *conn) emptyLocked() {
	switch {
	case c.places > 0:
	case c.closing, c.pollers.Stopped():
		go c.nc.Close() // which waits where the peer takes no bytes, and requests wait for the lock
	default:
		c.idle.Reset(idleTime)
	}
}

func (c *conn) reset(id uint32, code http2.ErrCode) {
	c.write(func() error { return c.framer.WriteRSTStream(id, code) })
}

// maxSaid bounds what the reader may have to say to a server that takes no bytes and asks for answers all the same.
const maxSaid = 1000

// say lets do write frames beside the reader, which must not wait.
func (c *conn) say(do func() error) { c.then(func() { c.write(do) }) }

// then lets something be done that must not come before what the reader has said so far.
func (c *conn) then(do func()) {
	c.saying.Lock()
	defer c.saying.Unlock()
	if c.said = append(c.said, do); len(c.said) > maxSaid {
		go c.nc.Close()
	}
	if !c.speaks {
		c.speaks = true
		go c.speak()
	}
}

// speaking reports whether something that the reader has said is not yet written.
func (c *conn) speaking() bool {
	c.saying.Lock()
	defer c.saying.Unlock()
	return c.speaks
}

func (c *conn) speak() {
	for {
		c.saying.Lock()
		said := c.said
		c.said = nil
		c.speaks = len(said) > 0
		c.saying.Unlock()
		if len(said) == 0 {
			return
		}
		for _, do := range said {
			do()
		}
	}
}

// begun waits until the server has said how many answers it takes.
func (c *conn) begun(ctx context.Context) (most int, err error) {
	select {
	case <-c.told:
	case <-ctx.Done():
		c.nc.Close()
		return 0, errors.New("the server does not begin to speak")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return 0, fmt.Errorf("%w: %w", errLost, c.err)
	case c.most == 0:
		return 0, errors.New("the server takes no requests")
	}
	return c.most, nil
}

// settle lets requests know that they need not wait for the server's settings any more.
func (c *conn) settle() {
	if !c.settled {
		c.settled = true
		close(c.told)
	}
}

// retire lets a connection take no further request.
func (c *conn) retire() {
	c.mu.Lock()
	was := c.closing
	c.closing = true
	c.emptyLocked()
	c.mu.Unlock()
	if !was {
		c.removed(c)
	}
}

// closeIdle closes a connection that carries nothing.
func (c *conn) closeIdle() {
	c.mu.Lock()
	idle := c.places == 0 && !c.closing
	if idle {
		c.closing = true
	}
	c.mu.Unlock()
	if idle {
		c.removed(c)
		c.nc.Close()
	}
}

// ask looks whether the server still lives.
func (c *conn) ask() {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch heard := c.heard.Swap(false); {
	case c.err != nil:
	case heard:
		c.pinged = false
		c.look.Reset(silence)
	case c.pinged:
		go c.nc.Close()
	default:
		c.pinged = true
		c.look.Reset(pingTime)
		go c.write(func() error { return c.framer.WritePing(false, [8]byte{'s', 'l', 'u', 'i', 'c', 'e'}) })
	}
}

var errLost = errors.New("the connection to the server was lost")

// fail ends the connection and all its answers.
func (c *conn) fail(err error) {
	go c.nc.Close() // which says so first, and the server may take no bytes
	c.mu.Lock()
	closing := c.closing
	c.closing, c.err = true, err
	var left []*answer
	for _, a := range c.answers {
		a.gone = true
		left = append(left, a)
	}
	clear(c.answers)
	c.look.Stop()
	c.idle.Stop()
	c.moved.Broadcast()
	c.mu.Unlock()
	c.settle()
	if !closing {
		c.removed(c)
	}
	for _, a := range left {
		a.end(fmt.Errorf("%w: %w", errLost, err))
	}
}
