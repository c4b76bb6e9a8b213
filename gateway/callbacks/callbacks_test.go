package callbacks

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestCallbackIsRepeatedForADayUnderOneIDAndThenGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		c := started(t, t.TempDir(), r, Config{Secrets: []string{testMaster}, Version: "1.2.3"})
		begun := time.Now()
		c.ended("key:alice", "strm_1")
		var first delivery
		attempts := 0
		for c.see("key:alice", "strm_1").Status == Pending {
			d := <-r.got
			if attempts++; attempts == 1 {
				first = d
			}
			if d.header.Get("webhook-id") != first.header.Get("webhook-id") || string(d.body) != string(first.body) {
				t.Errorf("attempt %d is another: %v %s", attempts, d.header, d.body)
			}
			if err := verifier(t, c.Secrets("key:alice")[0]).Verify(d.body, d.header); err != nil { // its tolerance is five minutes
				t.Errorf("attempt %d: %v", attempts, err)
			}
			d.answer(503)
		}
		if attempts < 20 || attempts > 30 || time.Since(begun) < 22*time.Hour || time.Since(begun) > 24*time.Hour {
			t.Errorf("%d attempts in %v", attempts, time.Since(begun))
		}
		if want := `{"type":"stream.completed","timestamp":"2000-01-01T00:00:00Z","data":{"id":"strm_1","status":"completed","usage":{"output_tokens":7},"error":null}}`; string(first.body) != want {
			t.Errorf("body %s", first.body)
		}
		if h := first.header; h.Get("Content-Type") != "application/json" || h.Get("User-Agent") != "Sluice/1.2.3" || !strings.HasPrefix(h.Get("webhook-id"), "cb_") || h.Get("webhook-timestamp") != "946684800" || len(h) != 7 {
			t.Errorf("headers %v", h)
		}
		got := c.see("key:alice", "strm_1")
		if got.Status != Failed || got.Attempts != attempts || got.LastStatus != 503 || got.LastError != reasonStatus || got.Ended.IsZero() || got.ID != first.header.Get("webhook-id") {
			t.Errorf("%+v", got)
		}
		r.quiet(t, 3*time.Hour)

		if again, err := c.Redeliver(t.Context(), "key:alice", got.ID); err != nil || again.Status != Pending {
			t.Fatalf("%+v, %v", again, err)
		}
		d := <-r.got
		d.answer(204)
		if d.header.Get("webhook-id") != got.ID || string(d.body) != string(first.body) {
			t.Errorf("redelivered as another: %v %s", d.header, d.body)
		}
		if got = c.see("key:alice", "strm_1"); got.Status != Delivered || got.Attempts != attempts+1 || got.LastStatus != 204 || got.LastError != "" {
			t.Errorf("%+v", got)
		}
	})
}

func TestDeliveredCallbackIsNotSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		c := started(t, t.TempDir(), r, Config{})
		c.ended("key:alice", "strm_1")
		(<-r.got).answer(200)
		if got := c.see("key:alice", "strm_1"); got.Status != Delivered || got.Attempts != 1 || got.LastStatus != 200 {
			t.Errorf("%+v", got)
		}
		c.ended("key:alice", "strm_1") // told twice, as after a crash
		r.quiet(t, time.Hour)
	})
}

func TestAnswersThatAreNot2xx(t *testing.T) {
	for name, c := range map[string]struct {
		status  int
		header  []string
		reason  string
		ends    bool
		soonest time.Duration
	}{
		"gone":            {status: 410, reason: reasonGone, ends: true},
		"not found":       {status: 404, reason: reasonStatus},
		"redirect":        {status: 307, header: []string{"Location", "http://receiver.example/elsewhere"}, reason: reasonRedirect},
		"asks to wait":    {status: 429, header: []string{"Retry-After", "600"}, reason: reasonStatus, soonest: 600 * time.Second},
		"asks for a week": {status: 503, header: []string{"Retry-After", "604800"}, reason: reasonStatus, soonest: 2 * time.Hour},
		"not for clients": {status: 599, reason: reasonStatus},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newReceiver(t)
				room := started(t, t.TempDir(), r, Config{})
				room.ended("key:alice", "strm_1")
				first := <-r.got
				first.answer(c.status, c.header...)
				got := room.see("key:alice", "strm_1")
				if (got.Status == Failed) != c.ends || got.LastStatus != c.status || got.LastError != c.reason {
					t.Errorf("%+v", got)
				}
				if c.ends {
					r.quiet(t, time.Hour)
					return
				}
				second := <-r.got
				second.answer(200)
				if wait := second.at.Sub(first.at); second.path != "/strm_1" || wait < max(c.soonest, 3750*time.Millisecond) || wait > max(c.soonest, 5*time.Second)+time.Second {
					t.Errorf("again at %s after %v", second.path, wait)
				}
			})
		})
	}
}

func TestSilentReceiverIsLeftAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		c := started(t, t.TempDir(), r, Config{})
		c.ended("key:alice", "strm_1")
		first := <-r.got
		time.Sleep(attemptTimeout)
		if got := c.see("key:alice", "strm_1"); got.LastStatus != 0 || got.LastError != reasonTimeout || got.Status != Pending {
			t.Errorf("%+v", got)
		}
		second := <-r.got
		second.answer(200)
		if wait := second.at.Sub(first.at); wait < attemptTimeout || wait > attemptTimeout+6*time.Second {
			t.Errorf("again after %v", wait)
		}
	})
}

func TestRestartKeepsCallbacksAndTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, dir := newReceiver(t), t.TempDir()
		c := started(t, dir, r, Config{})
		c.ended("key:alice", "strm_1")
		first := <-r.got
		first.answer(503, "Retry-After", "3600")
		c.see("key:alice", "strm_1")
		secrets := c.Secrets("key:alice")
		c.halt()

		c = started(t, dir, r, Config{})
		if got := c.Secrets("key:alice"); !slices.Equal(got, secrets) {
			t.Errorf("the secret was %v and is %v", secrets, got)
		}
		second := <-r.got
		second.answer(200)
		if wait := second.at.Sub(first.at); wait < time.Hour || wait > time.Hour+time.Minute || second.header.Get("webhook-id") != first.header.Get("webhook-id") {
			t.Errorf("again after %v: %v", wait, second.header)
		}
		if got := c.see("key:alice", "strm_1"); got.Status != Delivered || got.Attempts != 2 {
			t.Errorf("%+v", got)
		}
	})
}

func TestCallbackWhoseOutcomeWasLostIsSentAgainUnderItsID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, dir := newReceiver(t), t.TempDir()
		c := started(t, dir, r, Config{})
		c.ended("key:alice", "strm_1")
		first := <-r.got // sent, and the process ends before the answer comes
		begun := time.Now()
		c.halt()
		if took := time.Since(begun); took < lastWords || took > lastWords+time.Second {
			t.Errorf("stopped after %v", took)
		}
		c = started(t, dir, r, Config{})
		second := <-r.got
		second.answer(200)
		if first.header.Get("webhook-id") != second.header.Get("webhook-id") || string(first.body) != string(second.body) {
			t.Errorf("%v\n%v", first.header, second.header)
		}
		if got := c.see("key:alice", "strm_1"); got.Status != Delivered || got.Attempts != 1 {
			t.Errorf("%+v", got)
		}
	})
}

func TestStopWaitsForAnswersUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, dir := newReceiver(t), t.TempDir()
		c := started(t, dir, r, Config{})
		c.ended("key:alice", "strm_1")
		d := <-r.got
		time.AfterFunc(lastWords/2, func() { d.answer(200) })
		c.halt()
		c = started(t, dir, r, Config{})
		if got := c.see("key:alice", "strm_1"); got.Status != Delivered {
			t.Errorf("%+v", got)
		}
		r.quiet(t, time.Hour)
	})
}

func TestRedeliverDoesNotWaitForTheNextAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		c := started(t, t.TempDir(), r, Config{})
		c.ended("key:alice", "strm_1")
		(<-r.got).answer(503, "Retry-After", "7200")
		got := c.see("key:alice", "strm_1")
		asked := time.Now()
		if _, err := c.Redeliver(t.Context(), "key:alice", got.ID); err != nil {
			t.Fatal(err)
		}
		d := <-r.got
		d.answer(200)
		if wait := d.at.Sub(asked); wait > time.Second {
			t.Errorf("after %v", wait)
		}
		r.quiet(t, time.Hour)
	})
}

func TestRedeliverDuringAnAttemptIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		c := started(t, t.TempDir(), r, Config{})
		c.ended("key:alice", "strm_1")
		first := <-r.got
		if _, err := c.Redeliver(t.Context(), "key:alice", first.header.Get("webhook-id")); err != nil {
			t.Fatal(err)
		}
		second := <-r.got
		first.answer(500)
		if got := c.see("key:alice", "strm_1"); got.Status != Pending {
			t.Errorf("%+v", got)
		}
		second.answer(200)
		if got := c.see("key:alice", "strm_1"); got.Status != Delivered {
			t.Errorf("%+v", got)
		}
		r.quiet(t, time.Hour)
	})
}

func TestRedeliveryThatACrashBrokeOffIsMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		c := started(t, t.TempDir(), r, Config{})
		c.ended("key:alice", "strm_1")
		first := <-r.got
		first.answer(410)
		given := c.see("key:alice", "strm_1")
		one, _, err := c.read(t.Context(), "key:alice", given.ID)
		if err != nil {
			t.Fatal(err)
		}
		one.renew(time.Now())
		if err := c.push(t.Context(), &one); err != nil { // and there it dies
			t.Fatal(err)
		}
		second := <-r.got
		second.answer(200)
		if first.header.Get("webhook-id") != second.header.Get("webhook-id") || string(first.body) != string(second.body) {
			t.Errorf("%v\n%v", first.header, second.header)
		}
		if got := c.see("key:alice", "strm_1"); got.Status != Delivered || got.Attempts != 2 {
			t.Errorf("%+v", got)
		}
		r.quiet(t, time.Hour)
	})
}

func TestRedeliveriesAskedForAtOnceAreAtMostAsMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		c := started(t, t.TempDir(), r, Config{})
		c.ended("key:alice", "strm_1")
		(<-r.got).answer(200)
		id := c.see("key:alice", "strm_1").ID
		const asked = 5
		var asking sync.WaitGroup
		for range asked {
			asking.Go(func() {
				if _, err := c.Redeliver(t.Context(), "key:alice", id); err != nil {
					t.Error(err)
				}
			})
		}
		sent := 0
		for sent < asked {
			select {
			case d := <-r.got:
				d.answer(200)
				sent++
				continue
			case <-time.After(time.Hour):
			}
			break
		}
		asking.Wait()
		if got := c.see("key:alice", "strm_1"); got.Status != Delivered || sent == 0 {
			t.Errorf("sent %d times: %+v", sent, got)
		}
		r.quiet(t, 3*time.Hour)
	})
}

func TestForgottenCallbackIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		c := started(t, t.TempDir(), r, Config{})
		c.ended("key:alice", "strm_1")
		(<-r.got).answer(500)
		c.see("key:alice", "strm_1")
		if err := c.Forget(t.Context(), "key:alice", "strm_1"); err != nil {
			t.Fatal(err)
		}
		r.quiet(t, time.Hour)
		if _, err := c.Get(t.Context(), "key:alice", "strm_1"); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
	})
}

func TestOwnersSeeAndRedeliverOnlyTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		c := started(t, t.TempDir(), r, Config{})
		c.ended("key:alice", "strm_1")
		(<-r.got).answer(410)
		id := c.see("key:alice", "strm_1").ID
		for _, other := range []string{"key:bob", "key:alice2", "key", "", "key:alice\x00", strings.Repeat("x", 5000)} {
			if _, err := c.Get(t.Context(), other, "strm_1"); !errors.Is(err, ErrNotFound) {
				t.Errorf("%.20q: Get: %v", other, err)
			}
			if _, err := c.Redeliver(t.Context(), other, id); !errors.Is(err, ErrNotFound) {
				t.Errorf("%.20q: Redeliver: %v", other, err)
			}
			if _, _, err := c.List(t.Context(), other, "", id, 10); !errors.Is(err, ErrNotFound) {
				t.Errorf("%.20q: List after: %v", other, err)
			}
		}
		if list, more, err := c.List(t.Context(), "key:bob", "", "", 10); err != nil || len(list) != 0 || more {
			t.Errorf("%v %v %v", list, more, err)
		}
		for _, id := range []string{"", "cb_0", strings.Repeat("x", 5000), "*", ">", "a.b"} {
			if _, err := c.Redeliver(t.Context(), "key:alice", id); !errors.Is(err, ErrNotFound) {
				t.Errorf("%.20q: %v", id, err)
			}
		}
	})
}

func TestListIsPagedNewestFirstByStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		c := started(t, t.TempDir(), r, Config{})
		var failed []string
		for i := range 7 {
			object := "strm_" + string(rune('a'+i))
			c.ended("key:alice", object)
			status := 200
			if i%2 == 0 {
				status = http.StatusGone
				failed = append(failed, object)
			}
			(<-r.got).answer(status)
			c.see("key:alice", object)
		}
		slices.Reverse(failed)
		var got []string
		after, pages := "", 0
		for more := true; more; pages++ {
			var list []Callback
			var err error
			if list, more, err = c.List(t.Context(), "key:alice", Failed, after, 3); err != nil || len(list) == 0 {
				t.Fatal(list, err)
			}
			for _, one := range list {
				got = append(got, one.Object)
			}
			after = list[len(list)-1].ID
		}
		if !slices.Equal(got, failed) || pages != 2 {
			t.Errorf("%v in %d pages, want %v", got, pages, failed)
		}
		if all, more, err := c.List(t.Context(), "key:alice", "", "", 100); err != nil || len(all) != 7 || more || all[0].Object != "strm_g" || all[6].Object != "strm_a" {
			t.Errorf("%v %v %v", all, more, err)
		}
	})
}

func TestSlowReceiversOfOneOwnerDelayNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		c := started(t, t.TempDir(), r, Config{})
		for i := range 20 {
			c.ended("key:alice", "strm_"+string(rune('a'+i)))
		}
		var held []delivery
		for range ownersShare {
			held = append(held, <-r.got)
		}
		r.quiet(t, time.Second)
		asked := time.Now()
		c.ended("key:bob", "strm_bob")
		d := <-r.got
		d.answer(200)
		if d.path != "/strm_bob" || d.at.Sub(asked) > 100*time.Millisecond {
			t.Errorf("%s after %v", d.path, d.at.Sub(asked))
		}
		for _, d := range held {
			d.answer(200)
		}
		for range 20 - ownersShare {
			(<-r.got).answer(200)
		}
		r.quiet(t, time.Hour)
	})
}

func TestLongLineOfOneOwnerIsLookedAtEightyTimesASecond(t *testing.T) {
	var b busy
	now := time.Unix(0, 0)
	for range ownersShare {
		if _, ok := b.enter("a", now); !ok {
			t.Fatal("the share is not all given")
		}
	}
	for i := range 1000 {
		if wait, ok := b.enter("a", now); ok || wait != crowded+time.Duration(i)*step {
			t.Fatalf("number %d: %v, %v", i, wait, ok)
		}
	}
	if _, ok := b.enter("b", now); !ok {
		t.Error("another owner waits")
	}
	b.leave("b")
	b.leave("a")
	if _, ok := b.enter("a", now); !ok {
		t.Error("a place that was left is not given again")
	}
	for range ownersShare {
		b.leave("a")
	}
	if len(b.owners) != 0 {
		t.Errorf("%d owners are remembered", len(b.owners))
	}
}
