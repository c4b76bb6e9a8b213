package relay

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"sluice/gateway/claude"
	"sluice/gateway/limits"
)

// One event's way through the log: rendered once, handed out as it lies there.
func BenchmarkAppendAndTakeOneEvent(b *testing.B) {
	e := textDelta("a word ")
	name, data := []byte(e.name), []byte(e.data)
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	l, now := new(eventLog), time.Now()
	for b.Loop() {
		if len(l.entries) == 10_000 { // a long answer; the next begins
			l = new(eventLog)
		}
		if _, err := l.append(claude.BlockDelta, name, data, now); err != nil {
			b.Fatal(err)
		}
		if frames, n := l.view().run(len(l.entries) - 1); n != 1 || len(frames) <= len(data) {
			b.Fatal("not the one event")
		}
	}
}

// One event of the upstream's through its stream to one viewer in pace, who writes it nowhere. The stream's owner has a
// day's tokens, so that the stream is metered.
func BenchmarkRelayOneEvent(b *testing.B) {
	for name, p := range map[string]limits.Plan{"without a limit": {}, "within a day's tokens": {TokensPerDay: 1_000_000_000}} {
		b.Run(name, func(b *testing.B) {
			h := newHouse(b, func(s *setup) { s.plan = p })
			e := textDelta("a word ")
			event := claude.Event{Kind: claude.BlockDelta, Name: []byte(e.name), Data: []byte(e.data)}
			b.ReportAllocs()
			var s *Stream
			var c *call
			end := func() {
				c.send(closing()...)
				c.finish()
				h.Delete(s.Owner, s.ID)
			}
			for i := 0; b.Loop(); i++ {
				if i%10_000 == 0 { // a long answer; the next begins
					if s != nil {
						end()
					}
					s = h.start()
					c = <-h.calls
					c.send(messageStart())
					<-s.Opened()
					v := attach(b, s, "", true)
					v.Push(func(Batch) bool { return true })
					for batch, _ := v.Take(); batch.Events > 0; {
						batch, _ = v.Take()
					}
				}
				event.Read = time.Now()
				upstream{s}.Event(event)
				upstream{s}.Flush()
			}
			end()
		})
	}
}

// One stream and 1,000 viewers that are in pace. The time is that of one delivered event, upstream and wake-ups
// included.
func BenchmarkFollow1000Viewers(b *testing.B) {
	const viewers, each = 1000, 50_000 // events a stream: below MaxLog
	h := newHouse(b)
	piece := textDelta("a word ")
	b.ReportAllocs()
	b.ResetTimer()
	for left := (b.N + viewers - 1) / viewers; left > 0; left -= each {
		rounds := min(left, each)
		s := h.start()
		c := <-h.calls
		c.send(messageStart())
		<-s.Opened()
		var took, over sync.WaitGroup
		took.Add(viewers) // message_start
		for range viewers {
			v := attach(b, s, "", true)
			over.Go(func() {
				defer v.Detach(EndCompleted)
				for {
					batch, ended := v.Take()
					switch {
					case ended:
						return
					case batch.Events == 0:
						<-v.Wake()
					default:
						took.Done()
					}
				}
			})
		}
		took.Wait()
		for range rounds {
			took.Add(viewers)
			c.send(piece)
			took.Wait()
		}
		took.Add(viewers)
		c.send(messageStop())
		over.Wait()
		c.finish()
		h.Delete(s.Owner, s.ID)
	}
}

// A viewer without a cursor reads a long answer.
func BenchmarkCatchUpMerged(b *testing.B) {
	for _, deltas := range []int{100, 10_000} {
		b.Run(fmt.Sprint(deltas), func(b *testing.B) {
			l := new(eventLog)
			e := textDelta("a word ")
			for range deltas {
				l.append(claude.BlockDelta, []byte(e.name), []byte(e.data), time.Time{})
			}
			v := l.view()
			var pieces [][]byte
			var scratch []byte
			b.ReportAllocs()
			b.SetBytes(int64(v.pending(0, 1<<30)))
			for b.Loop() {
				var n int
				if pieces, scratch, n, _ = v.merged(0, pieces[:0], scratch[:0]); n != deltas {
					b.Fatalf("%d of %d", n, deltas)
				}
			}
		})
	}
}
