package relay

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
)

// What one read of the upstream brings is pushed together, to a bound, in order, and each event as it is: a viewer that
// takes everything is not behind, however much comes at once and however large one event is. The bound is larger for who
// gets each event in any case, as long as nobody else reads.
func TestWhatComesAtOnceIsPushedTogetherAndAsItIs(t *testing.T) {
	for _, c := range []struct {
		name          string
		exact, others bool
		most          int // pushes of 200 events
	}{{"in pace", false, false, 40}, {"exact", true, false, 15}, {"exact beside one in pace", true, true, 40}} {
		t.Run(c.name, func(t *testing.T) { testBurst(t, c.exact, c.others, c.most) })
	}
}

func testBurst(t *testing.T, isExact, others bool, most int) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.start()
		c := <-h.calls
		c.send(messageStart())
		<-s.Opened()
		v := attach(t, s, "", isExact)
		if others {
			o := attach(t, s, "", false)
			o.Push(func(Batch) bool { return true })
			for b, _ := o.Take(); b.Events > 0; b, _ = o.Take() {
			}
			defer o.Detach(EndGone)
		}
		var got, want bytes.Buffer
		pushes := 0
		v.Push(func(b Batch) bool {
			pushes++
			if b.Coalesced > 0 {
				t.Errorf("%d events were merged", b.Coalesced)
			}
			for _, p := range b.Pieces {
				got.Write(p)
			}
			return true
		})
		for b, _ := v.Take(); b.Events > 0; b, _ = v.Take() {
		}
		synctest.Wait()
		const events = 200
		var pieces []event
		for i := range events {
			text := fmt.Sprint("word ", i)
			if i%50 == 49 {
				text = strings.Repeat("x", 2*paceWindow)
			}
			e := textDelta(text)
			pieces = append(pieces, e)
			fmt.Fprintf(&want, "id: %d\nevent: %s\ndata: %s\n\n", i+2, e.name, e.data)
		}
		c.send(pieces...)
		synctest.Wait()
		if !bytes.Equal(got.Bytes(), want.Bytes()) {
			t.Errorf("%d bytes, not %d, or others", got.Len(), want.Len())
		}
		if pushes > most || !isExact && pushes <= 15 {
			t.Errorf("%d events in %d pushes", events, pushes)
		}
		v.Detach(EndGone)
		c.send(closing()...)
		c.finish()
		h.Delete(s.Owner, s.ID)
	})
}
