package cli

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// What goes on without the page.

// receipts is what the demo's receiver got, as the page is told.
func (p *console) receipts() (got []received) {
	p.t.Helper()
	var list struct{ Data []received }
	p.get("demo/callbacks", &list)
	return list.Data
}

func TestBackgroundStreamOutlivesItsTabAndIsToldToTheReceiver(t *testing.T) {
	url := startDemo(t)
	closed, _ := browser(t)
	first := &console{t, closed, url}
	first.do(chromedp.Navigate(url), chromedp.Click("#background"))
	first.send("Say something about queues, in short. fault:slow=20")
	first.until(`document.querySelector(".turn .facts")?.title`)
	id := value[string](first, `document.querySelector(".turn .facts").title`)
	if err := chromedp.Cancel(closed); err != nil {
		t.Fatal(err)
	}

	p := openConsole(t, url)
	p.do(chromedp.Click("#tab-background"))
	p.until(`document.querySelector("#callbacks-rows .good")?.textContent === "signature good"`)
	p.hasNames(25)
	got := p.receipts()
	if len(got) != 1 || got[0].Object != id || got[0].Type != "stream.completed" || !got[0].Good {
		t.Errorf("the receiver got %+v of %s", got, id)
	}
	p.do(chromedp.Click(`#callbacks-rows [data-act="Redeliver"]`))
	p.until(`document.querySelector("#callbacks-rows .good")?.textContent === "signature good, 2 ×"`)
	p.do(chromedp.Click(`#background-rows [data-act="Open"]`))
	p.untilEnd("completed")
	p.isWhole()
}

// TestPageSaysThatAStreamIsQueued fills the gateway's workers, so that one more has to wait, and lets one end.
func TestPageSaysThatAStreamIsQueued(t *testing.T) {
	p := openConsole(t, startDemo(t))
	const workers = 16 // background.concurrency
	var first streamObject
	for range workers {
		first = p.accept("Say something about rivers. fault:stall")
	}
	p.do(chromedp.Click("#background"))
	p.send("Say something about queues, in short.")
	p.until(`document.querySelector("#state").dataset.state === "queued" && document.title.startsWith("queued · ")`)
	p.do(chromedp.Click("#drop")) // a connection that only waits can be lost as any other
	p.until(`document.querySelector("#state").dataset.state === "reconnecting"`)
	p.until(`document.querySelector("#state").dataset.state === "queued"`)
	p.do(chromedp.Reload())
	p.until(`document.querySelector("#state").dataset.state === "queued"`)
	if says := value[string](p, `document.querySelector("#state").textContent.trim()`); says != "queued" {
		t.Errorf("the page says %q", says)
	}
	p.post("v1/streams/"+first.ID+"/cancel", "", http.StatusOK, nil)
	p.untilEnd("completed")
	p.isWhole()
}

// accept has the gateway accept a background stream.
func (p *console) accept(prompt string) (s streamObject) {
	p.t.Helper()
	p.post("v1/streams", `{"model":"claude-sonnet-4-6","max_tokens":100,"messages":[{"role":"user","content":"`+prompt+`"}]}`, http.StatusAccepted, &s, "Prefer", "respond-async")
	return s
}

func TestBatchMadeOnThePageEndsAndShowsItsResults(t *testing.T) {
	p := openConsole(t, startDemo(t))
	p.do(chromedp.Click("#tab-background"),
		chromedp.SetValue("#batch-prompts", "Rivers, in short. fault:batch-time=100\n\nFish, in short. fault:error"), chromedp.Click("#batch-make"))
	p.until(`document.querySelectorAll("#batch-results li").length === 2`)
	says := value[string](p, `document.querySelector("#batch-results").textContent`)
	if !strings.Contains(says, "“Rivers, in short.") || !strings.Contains(says, "prompt-2errored") {
		t.Errorf("the results read %q", says)
	}
	p.until(`document.querySelector("#batches-rows")?.textContent.includes("1 succeeded, 1 errored") && document.querySelector("#callbacks-rows .good")`)
	p.hasNames(25)
	if got := p.receipts(); len(got) != 1 || got[0].Type != "batch.ended" || !got[0].Good {
		t.Errorf("the receiver got %+v", got)
	}
	// What is pressed while the lists are looked at stays in its place.
	p.do(chromedp.Evaluate[chromedp.Void](`globalThis.looks = () => performance.getEntriesByName(location.origin + "/demo/callbacks").length; globalThis.pressed = document.querySelector('#batches-rows [data-act="Delete"]')`))
	for range 2 { // by the second the first is on the page
		p.do(chromedp.Evaluate[chromedp.Void](`globalThis.before = looks(); document.dispatchEvent(new Event("visibilitychange"))`))
		p.until(`looks() > before`)
	}
	if !value[bool](p, `pressed.isConnected`) {
		t.Error("a look at the lists has replaced a row that says the same as before")
	}
	p.do(chromedp.Click(`#batches-rows [data-act="Delete"]`))
	p.do(chromedp.WaitVisible("#batches-empty"))
}

func TestPageSaysWhenABatchExpiresAndWhatBecameOfWhatHas(t *testing.T) {
	p := openConsole(t, startDemo(t))
	p.do(chromedp.Click("#tab-background"), chromedp.Click("#batch-again"),
		chromedp.SetValue("#batch-prompts", "Rivers, in short. fault:expire-once fault:batch-time=100\nFish, in short."), chromedp.Click("#batch-make"))
	// The first is told of in the list and where it is watched, the second says whose it is.
	p.until(`document.querySelectorAll("#batches-rows tr").length === 2 && document.querySelectorAll("#batches-rows .again").length === 2`)
	rows := value[[]string](p, `[...document.querySelectorAll("#batches-rows tr")].map((r) => r.dataset.id + "|" + r.querySelector(".again").textContent + "|" + r.querySelector(".again").title)`)
	next, old := strings.Split(rows[0], "|"), strings.Split(rows[1], "|")
	short := func(id string) string { return strings.TrimPrefix(id, "msgbatch_")[:8] }
	if next[2] != old[0] || old[2] != next[0] || next[1] != "what expired in "+short(old[0])+", again" || old[1] != "what expired: again in "+short(next[0]) {
		t.Errorf("%q", rows)
	}
	p.until(`document.querySelector("#batch-state").textContent.includes("what expired: again in ")`)

	p.do(chromedp.Click("#batch-again"), chromedp.SetValue("#batch-prompts", "Birds, in short. fault:batch-time"), chromedp.Click("#batch-make"))
	p.until(`document.querySelector("#batches-rows tr")?.textContent.includes("in 23 h 59 min")`)
	p.until(`document.querySelector("#batch-state").textContent.includes("expires in 23 h 59 min")`)
	p.hasNames(25)
}

func TestReceiverBelievesNobodyElse(t *testing.T) {
	p := openConsole(t, startDemo(t))
	to := value[string](p, `document.querySelector("#callback").value`)
	resp, err := http.Post(to, "application/json", strings.NewReader(`{"type":"stream.completed","data":{"id":"strm_forged"}}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := p.receipts(); resp.StatusCode != http.StatusUnauthorized || len(got) != 1 || got[0].Good || got[0].Object != "" {
		t.Errorf("a forged callback is answered %s, and kept as %+v", resp.Status, got)
	}
}

// The secret, the callback and its signature are those of the Standard Webhooks' own tests.
func TestReceiverTakesWhatIsSignedAShortWhileAgo(t *testing.T) {
	secret, _ := base64.StdEncoding.DecodeString("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	const signature, body = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", `{"test": 2432232314}`
	at := time.Unix(1614265330, 0)
	for name, c := range map[string]struct {
		signature, body string
		now             time.Time
		want            bool
	}{
		"signed":             {signature, body, at, true},
		"one of several":     {"v1a,abc v1,AAAA " + signature, body, at.Add(receivedOld), true},
		"tampered":           {signature, body + " ", at, false},
		"old":                {signature, body, at.Add(receivedOld + time.Second), false},
		"from the future":    {signature, body, at.Add(-receivedOld - time.Second), false},
		"of another version": {"v2" + signature[2:], body, at, false},
		"not signed":         {"", body, at, false},
	} {
		h := http.Header{"Webhook-Id": {"msg_p5jXN8AQM9LWM0D4loKWxJek"}, "Webhook-Timestamp": {"1614265330"}, "Webhook-Signature": {c.signature}}
		if got := signed(h, []byte(c.body), [][]byte{[]byte("another"), secret}, c.now); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
