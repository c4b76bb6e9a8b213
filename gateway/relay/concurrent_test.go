package relay

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"

	"sluice/gateway/simulator"
)

// browser is one reader that comes and goes as it likes until it has seen the stream's end.
type browser struct {
	stream *Stream
	rng    *rand.Rand
	exact  bool
	push   bool   // it lets the stream's reader write to it while it waits
	last   int    // the last id that it has seen
	seen   []byte // all that it has seen, over all its connections
}

// connect attaches after the last id and reads until the end or, now and then, until it drops. It reports the end.
func (b *browser) connect() (ended bool, err error) {
	cursor := ""
	if b.last > 0 {
		cursor = strconv.Itoa(b.last)
	}
	v, resume, reason, err := b.stream.Attach(cursor, b.exact)
	switch {
	case err != nil || reason != "":
		return false, fmt.Errorf("Attach(%q): %q, %q, %w", cursor, resume, reason, err)
	case resume == ResumeDone:
		return true, nil
	}
	defer func() {
		if ended {
			v.Detach(EndCompleted)
		} else {
			v.Detach(EndGone)
		}
	}()
	patience := b.rng.IntN(6)
	if b.push {
		// Whose turn it is owns all of the browser: the race detector sees it if two have it.
		v.Push(func(batch Batch) bool { b.take(batch); return b.rng.IntN(4) > 0 })
	}
	for {
		batch, ended := v.Take()
		if ended {
			return true, nil
		}
		if batch.Events == 0 {
			if patience == 0 && v.Claim() {
				return false, nil
			}
			<-v.Wake()
			continue
		}
		if patience--; patience < 0 {
			return false, nil // the batch was taken and never arrived: it will be asked for again
		}
		b.take(batch)
	}
}

func (b *browser) take(batch Batch) {
	b.seen = append(b.seen, bytes.Join(batch.Pieces, nil)...) // parsed later: here it would only slow the race down
	b.last += batch.Events
}

func (b *browser) check(t *testing.T, events []event) []frame {
	t.Helper()
	frames := parse(t, b.seen)
	checkDelivery(t, events, "", frames, 0, len(events), b.exact)
	return frames
}

func TestBrowsersThatComeAndGoSeeEachEventOnceWhileItGrows(t *testing.T) {
	t.Parallel()
	for seed := range uint64(9) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 2))
			events := randomAnswer(rng, 200)
			h := newHouse(t)
			var script http.Handler = simulator.Script{Body: []byte(wire(events...)), Chunks: func(body []byte) [][]byte {
				var offsets []int // cut anywhere, also within events
				for at := rng.IntN(2000); at < len(body); at += 1 + rng.IntN(2000) {
					offsets = append(offsets, at)
				}
				return simulator.SplitAt(offsets...)(body)
			}}
			h.answers(script)
			s := h.start()
			browsers := make([]*browser, []int{2, 5, 12}[seed%3]) // to few the stream's reader writes itself
			var wg sync.WaitGroup
			for i := range browsers {
				b := &browser{stream: s, rng: rand.New(rand.NewPCG(seed, uint64(i))), exact: i%3 == 0, push: i%2 == 0}
				browsers[i] = b
				wg.Go(func() {
					for {
						ended, err := b.connect()
						if err != nil {
							t.Error(err)
						}
						if ended || err != nil {
							return
						}
					}
				})
			}
			wg.Wait()
			if t.Failed() {
				return
			}
			want := ""
			for i, b := range browsers {
				got := message(t, b.check(t, events))
				if i == 0 {
					want = got
				}
				if got != want {
					t.Errorf("viewer %d accumulated %s", i, differ(got, want))
				}
			}
			h.want(map[string]float64{"sluice_viewers_active": 0, "sluice_resumes_total{kind=\"resync\"}": 0})
			if err := h.Delete(s.Owner, s.ID); err != nil {
				t.Error(err)
			}
			h.quiet()
		})
	}
}

func TestAViewerInPaceGetsEachEventAsItCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s, c := h.open()
		v := attach(t, s, "", false)
		taken(t, v)
		for n := 4; n < 10; n++ {
			c.send(textDelta("word"))
			<-v.Wake()
			b, ended := v.Take()
			if b.Events != 1 || b.Coalesced != 0 || !b.Live || ended || b.Read.IsZero() {
				t.Fatalf("event %d: %+v, ended %v", n, b, ended)
			}
			if frames := parse(t, b.Pieces[0]); len(frames) != 1 || frames[0].number(t) != n || frames[0].data != textDelta("word").data {
				t.Fatalf("event %d: %q", n, frames)
			}
			if b, ended := v.Take(); b.Events != 0 || ended {
				t.Fatalf("more than was sent: %+v, ended %v", b, ended)
			}
		}
		s.Cancel()
		follow(t, v)
	})
}

func TestAViewerThatIsBehindGetsItMergedUnlessExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s, c := h.open()
		pace, exact := attach(t, s, "3", false), attach(t, s, "3", true)
		taken(t, pace)
		taken(t, exact)
		for range 2000 {
			c.send(textDelta("a word "))
		}
		synctest.Wait()
		merged, _ := taken(t, pace)
		each, _ := taken(t, exact)
		if len(merged) != 1 || merged[0].id != "2003" {
			t.Errorf("%d frames for who fell behind", len(merged))
		}
		if len(each) != 2000 {
			t.Errorf("%d frames for who wants them exact", len(each))
		}
		late := attach(t, s, "", false) // without a cursor: merely behind
		frames, _ := taken(t, late)
		if len(frames) != 3 || frames[0].name != "message_start" || frames[1].name != "content_block_start" || frames[2].id != "2003" {
			t.Errorf("%d frames for who came late", len(frames))
		}
		if b, _ := late.Take(); b.Events != 0 {
			t.Errorf("%d events more", b.Events)
		}
		s.Cancel()
		for _, v := range []*Viewer{pace, exact, late} {
			follow(t, v)
		}
	})
}

func TestAViewerThatDoesNotReadDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s, c := h.open()
		stalled := attach(t, s, "", false)
		reader := attach(t, s, "", true)
		taken(t, reader)
		for n := range 500 {
			c.send(textDelta("word"))
			<-reader.Wake()
			if frames, _ := taken(t, reader); len(frames) != 1 {
				t.Fatalf("event %d: %d frames", n, len(frames))
			}
		}
		stalled.Detach(EndStalled)
		c.send(closing()...)
		follow(t, reader)
		h.want(map[string]float64{`sluice_viewers_ended_total{reason="stalled"}`: 1, outcome(Completed): 1})
	})
}

func TestACursorThatIsNotOfThisLogStartsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s, _ := h.open()
		for _, cursor := range []string{"4", "0", "-1", "lost", "2.1", "\x00"} {
			v, resume, reason, err := s.Attach(cursor, true)
			if v == nil || resume != ResumeResync || reason != UnknownCursor || err != nil {
				t.Fatalf("Attach(%q): %q, %q, %v", cursor, resume, reason, err)
			}
			if frames, _ := taken(t, v); len(frames) != 3 || frames[0].id != "1" {
				t.Errorf("after %q: %q", cursor, frames)
			}
			v.Detach(EndGone)
		}
		v := attach(t, s, "3", false)
		h.want(map[string]float64{`sluice_resumes_total{kind="resync"}`: 6, `sluice_resumes_total{kind="exact"}`: 1, "sluice_viewers_active": 1})
		s.Cancel()
		if frames := follow(t, v); len(frames) != 1 || frames[0].id != "4" {
			t.Errorf("after the last id: %q", frames)
		}
		s.Attach("4", false)
		h.want(map[string]float64{`sluice_resumes_total{kind="done"}`: 1})
	})
}

func TestAStreamHasNoMoreViewersThanThePlanAllows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, func(s *setup) { s.plan.ViewersPerStream = 2 })
		s, _ := h.open()
		a, b := attach(t, s, "", false), attach(t, s, "2", false)
		if v, _, _, err := s.Attach("", false); v != nil || err != ErrTooManyViewers {
			t.Fatalf("a third: %v, %v", v, err)
		}
		if n := s.Snapshot(false).Viewers; n != 2 {
			t.Errorf("%d viewers", n)
		}
		a.Detach(EndGone)
		c := attach(t, s, "1", false)
		b.Detach(EndGone)
		c.Detach(EndGone)
		h.want(map[string]float64{"sluice_viewers_active": 0})
	})
}
