//go:build linux && !386

package poll

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// pair is a connection that was taken, and its other end.
func pair(t testing.TB, ps *Pollers) (*Conn, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	far, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c, ok := ps.Take(near)
	if !ok {
		t.Fatal("the connection was not taken")
	}
	t.Cleanup(func() { c.Close(); far.Close() })
	return c, far.(*net.TCPConn)
}

func start(t testing.TB) *Pollers {
	ps := New()
	t.Cleanup(ps.Stop) // after the connections of its test
	return ps
}

// collector is a sink that keeps everything, and sees to it that its calls come one at a time.
type collector struct {
	busy atomic.Bool
	data bytes.Buffer
	some chan struct{} // gets a value with each Data
	over chan struct{}
	err  error
}

func collect() *collector {
	return &collector{some: make(chan struct{}, 1), over: make(chan struct{})}
}

func (c *collector) Data(p []byte) {
	if c.busy.Swap(true) {
		panic("two calls at once")
	}
	c.data.Write(p)
	c.busy.Store(false)
	select {
	case c.some <- struct{}{}:
	default:
	}
}

func (c *collector) End(err error) {
	if c.busy.Swap(true) {
		panic("a call beside the end, or a second end")
	}
	c.err = err
	close(c.over)
}

func (c *collector) wait(t testing.TB) (string, error) {
	t.Helper()
	select {
	case <-c.over:
	case <-time.After(patience):
		t.Fatal("no end comes")
	}
	return c.data.String(), c.err
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}

func TestWhatArrivesIsPushedInOrderAndThenTheEnd(t *testing.T) {
	ps := start(t)
	var all sync.WaitGroup
	for range 20 {
		c, far := pair(t, ps)
		s, sent := collect(), noise(300<<10)
		c.Push(s)
		all.Go(func() {
			for rest := sent; len(rest) > 0; {
				n := min(len(rest), 1+rand.IntN(20<<10))
				far.Write(rest[:n])
				rest = rest[n:]
			}
			far.Close()
			if got, err := s.wait(t); got != string(sent) || err != io.EOF {
				t.Errorf("%d of %d bytes, %v", len(got), len(sent), err)
			}
		})
	}
	all.Wait()
}

// What came before there was a sink is not lost, nor is the end, in whatever order they came and however much was read.
func TestWhatCameBeforeIsPushedToo(t *testing.T) {
	for name, read := range map[string]int{"nothing was read": 0, "some was read": 3, "all was read": 5} {
		for _, closed := range []bool{false, true} {
			c, far := pair(t, start(t))
			far.Write([]byte("hello"))
			if closed {
				far.Close()
			}
			if read > 0 {
				if _, err := io.ReadFull(c, make([]byte, read)); err != nil {
					t.Fatal(err)
				}
			}
			s := collect()
			c.Push(s)
			if !closed {
				far.Close()
			}
			if got, err := s.wait(t); got != "hello"[read:] || err != io.EOF {
				t.Errorf("%s, closed %v: %q, %v", name, closed, got, err)
			}
		}
	}
}

func TestSinkMayLeaveTheRestToAReader(t *testing.T) {
	c, far := pair(t, start(t))
	s := &leaver{conn: c, left: make(chan struct{})}
	c.Push(s)
	far.Write([]byte("one"))
	<-s.left
	far.Write([]byte("another"))
	got := make([]byte, 7)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "another" {
		t.Errorf("%q, %v", got, err)
	}
	if !c.Quiet() {
		t.Error("there is something more")
	}
	far.Close()
	for end := time.Now().Add(patience); c.Quiet(); {
		if time.Now().After(end) {
			t.Fatal("the other side's end goes unnoticed")
		}
	}
}

type leaver struct {
	conn *Conn
	left chan struct{}
}

func (l *leaver) Data([]byte) {
	l.conn.Push(nil)
	close(l.left)
}

func (l *leaver) End(error) {}

// A connection that this side closes ends its sink once, whoever closes it, and ends who waits.
func TestCloseEndsEverything(t *testing.T) {
	ps := start(t)
	c, _ := pair(t, ps)
	s := collect()
	c.Push(s)
	c.Close()
	if got, err := s.wait(t); got != "" || !errors.Is(err, net.ErrClosed) {
		t.Errorf("the sink: %q, %v", got, err)
	}
	late := collect()
	c.Push(late)
	if _, err := late.wait(t); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a late sink: %v", err)
	}

	c, far := pair(t, ps)
	closer := &closer{conn: c, over: make(chan error, 2)}
	c.Push(closer)
	far.Write([]byte("x"))
	if err := <-closer.over; !errors.Is(err, net.ErrClosed) {
		t.Errorf("the sink that closes: %v", err)
	}

	c, _ = pair(t, ps)
	waits := make(chan error, 2)
	go func() { _, err := c.Read(make([]byte, 1)); waits <- err }()
	go func() {
		for {
			if _, err := c.Write(make([]byte, 1<<20)); err != nil {
				waits <- err
				return
			}
		}
	}()
	for c.TryWrite([]byte("x")) > 0 { // until the other side's window is full, so that the writer waits, or is about to
	}
	c.Close()
	for range 2 {
		if err := <-waits; !errors.Is(err, net.ErrClosed) {
			t.Errorf("who waits: %v", err)
		}
	}
	if c.TryWrite([]byte("x")) != 0 || c.Quiet() || c.Writable() {
		t.Error("a closed connection does something")
	}
	if err := c.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed again: %v", err)
	}
}

type closer struct {
	conn *Conn
	over chan error
}

func (c *closer) Data([]byte)   { c.conn.Close() }
func (c *closer) End(err error) { c.over <- err }

func TestLargeWritesWaitForTheReader(t *testing.T) {
	c, far := pair(t, start(t))
	sent := noise(20 << 20)
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write(sent)
		wrote <- err
		c.Close()
	}()
	got, err := io.ReadAll(far)
	if err := <-wrote; err != nil {
		t.Errorf("written: %v", err)
	}
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes, %v", len(got), len(sent), err)
	}
}

// A deadline ends who waits already, says how much went through, and ends nothing for good.
func TestConnectionIsWritableUntilItIsFull(t *testing.T) {
	c, far := pair(t, start(t))
	if !c.Writable() {
		t.Error("a new connection is not writable")
	}
	piece := make([]byte, 64<<10)
	sent := 0
	for n := c.TryWrite(piece); n > 0; n = c.TryWrite(piece) {
		sent += n
	}
	if c.Writable() {
		t.Error("a full connection is writable")
	}
	if _, err := io.ReadFull(far, make([]byte, sent)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("x")); err != nil || !c.Writable() { // which waits for the other side's word that it has read
		t.Errorf("read empty it is not writable again, %v", err)
	}
}

func TestDeadlinesEndWaiting(t *testing.T) {
	c, far := pair(t, start(t))
	waits := make(chan error, 1)
	go func() { _, err := c.Read(make([]byte, 1)); waits <- err }()
	c.SetReadDeadline(time.Now())
	if err := <-waits; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("reading: %v", err)
	}
	c.SetReadDeadline(time.Time{})
	far.Write([]byte("x"))
	if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("reading again: %d, %v", n, err)
	}

	sent := noise(32 << 20)
	c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	n, err := c.Write(sent)
	if n == 0 || n == len(sent) || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("writing: %d, %v", n, err)
	}
	c.SetWriteDeadline(time.Time{})
	go func() { c.Write(sent[n:]); c.Close() }()
	if got, _ := io.ReadAll(far); !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes came", len(got), len(sent))
	}
}

func TestWhatCannotBePolledIsLeftAsItIs(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	if _, ok := start(t).Take(near); ok {
		t.Error("a pipe was taken")
	}
	var none *Pollers
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tcp, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	if _, ok := none.Take(tcp); ok {
		t.Error("nobody has taken a connection")
	}
	if _, err := tcp.Write([]byte("x")); err != nil {
		t.Errorf("it is not as it was: %v", err)
	}
	none.Stop()
}

// Stopped pollers serve the connections that they have, and end with them; they start again where one comes.
func TestStoppedPollersEndWithTheirLastConnection(t *testing.T) {
	ps := New()
	for range 2 {
		c, far := pair(t, ps)
		s := collect()
		c.Push(s)
		ps.Stop()
		far.Write([]byte("late"))
		far.Close()
		if got, _ := s.wait(t); got != "late" {
			t.Errorf("%q", got)
		}
		c.Close()
		if err := goleak.Find(); err != nil {
			t.Error(err)
		}
	}
}

// BenchmarkPushedEvents: one read and one write for each of many connections' events, as a stream relayed is.
func BenchmarkPushedEvents(b *testing.B) {
	ps := start(b)
	event := noise(200)
	const conns = 100
	var fars []*net.TCPConn
	var arrived sync.WaitGroup
	for range conns {
		c, far := pair(b, ps)
		c.Push(&echo{conn: c, arrived: &arrived})
		fars = append(fars, far)
	}
	b.ReportAllocs()
	for b.Loop() {
		arrived.Add(conns)
		for _, far := range fars {
			far.Write(event)
		}
		arrived.Wait()
		back := make([]byte, len(event))
		for _, far := range fars {
			io.ReadFull(far, back)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*conns), "ns/event")
}

type echo struct {
	conn    *Conn
	arrived *sync.WaitGroup
}

func (e *echo) Data(p []byte) { e.conn.TryWrite(p); e.arrived.Done() }
func (e *echo) End(error)     {}
