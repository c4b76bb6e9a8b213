package cli

import (
	"context"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"sluice/gateway"
	"sluice/gateway/simulator"
)

// What stays of an answer when its reader, or the gateway, goes away for a while.

func TestReloadInMidAnswerLosesAndRepeatsNothing(t *testing.T) {
	p := openConsole(t, startDemo(t))
	p.send("Please think about rivers. fault:slow=8")
	p.untilMid()
	for range 2 {
		p.do(chromedp.Reload())
		p.untilText()
	}
	p.untilEnd("completed")
	p.isWhole()
	if n := len(p.list()); n != 1 {
		t.Errorf("there are %d streams, not one", n)
	}
	p.do(chromedp.Reload())
	p.until(`document.querySelector(".turn:last-of-type .text")`)
	shown, _ := p.text()
	if want := p.list()[0].ID; !strings.Contains(shown, "rivers") || value[string](p, `document.querySelector(".facts").title`) != want {
		t.Errorf("after the end a reload shows %q", shown)
	}
}

func TestReloadBeforeTheAnswerBeginsJoinsItsStream(t *testing.T) {
	p := openConsole(t, startDemo(t))
	p.send("Hello, in short. fault:slow-start=1200 fault:slow=5")
	p.until(`document.querySelector("#state").dataset.state === "connecting" && performance.getEntriesByType("resource").length`)
	p.do(chromedp.Reload())
	p.untilEnd("completed")
	p.isWhole()
	if n := len(p.list()); n != 1 {
		t.Errorf("there are %d streams, not one", n)
	}
}

func TestClosedTabIsOpenedAgainAndReadsOn(t *testing.T) {
	url := startDemo(t)
	closed, _ := browser(t)
	first := &console{t, closed, url}
	first.do(chromedp.Navigate(url))
	first.send("Say something about networks. fault:slow=10")
	first.untilMid()
	if err := chromedp.Cancel(closed); err != nil {
		t.Fatal(err)
	}
	p := openConsole(t, url)
	p.do(chromedp.Click("#running button"))
	p.untilEnd("completed")
	p.isWhole()
}

func TestBackAndForwardLoseAndRepeatNothing(t *testing.T) {
	p := openConsole(t, startDemo(t))
	p.send("Say something about proxies. fault:slow=10")
	p.untilMid()
	p.do(chromedp.Navigate("about:blank"))
	p.travel(-1)
	p.untilText()
	p.travel(1)
	p.until(`location.href === "about:blank"`)
	p.travel(-1)
	p.untilText()
	p.untilEnd("completed")
	p.isWhole()
}

// travel goes through the tab's history, as the browser's own buttons do. It does not wait for a load, since there is none
// where the browser has kept the page.
func (p *console) travel(steps int64) {
	p.t.Helper()
	p.do(func(ctx context.Context, t *chromedp.Target) (chromedp.Void, error) {
		h, err := cdp.Call(ctx, t, page.GetNavigationHistory, cdp.Empty{})
		if err == nil {
			_, err = cdp.Call(ctx, t, page.NavigateToHistoryEntry, page.NavigateToHistoryEntryParams{EntryID: h.Entries[h.CurrentIndex+steps].ID})
		}
		return chromedp.Void{}, err
	})
}

const aliceKey = "a-key-that-is-alices"

// startGateway runs a gateway before a simulated Claude, for a caller with a key, until the test's end or stop.
func startGateway(t *testing.T, listen string) (url string, stop func()) {
	t.Helper()
	upstream := httptest.NewServer(simulator.New(simulator.Options{Pace: simulator.Human}))
	t.Cleanup(upstream.Close)
	cfg := gateway.Defaults()
	cfg.Upstream.BaseURL, cfg.Upstream.APIKey = upstream.URL, "simulated"
	cfg.Server.Listen, cfg.Server.AdminListen, cfg.Server.Drain = listen, "127.0.0.1:0", 0
	cfg.Auth.Keys = []gateway.Key{{ID: "alice", Key: aliceKey, Plan: "default"}}
	cfg.Store.Dir = t.TempDir()
	cfg.Auth.TicketSecret = strings.Repeat("5e", 32)
	g, err := gateway.New(cfg, gateway.Options{Version: "test"})
	if err == nil {
		err = g.Listen()
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		end()
		<-ended
	})
	t.Cleanup(stop)
	return "http://" + g.Addr().String() + "/", stop
}

func TestStreamThatARestartHasLostSaysSoAndKeepsWhatWasRead(t *testing.T) {
	url, stop := startGateway(t, "127.0.0.1:0")
	p := openConsole(t, url)
	p.do(chromedp.WaitVisible("#key"), chromedp.SendKeys("#key", aliceKey))
	p.send("Say something about restarts. fault:slow=20")
	p.untilMid()
	p.do(chromedp.Click("#drop")) // so that the restart is what it comes back to
	stop()
	startGateway(t, strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/"))
	p.until(`document.querySelector("#state").dataset.state === "lost"`)
	if says := value[string](p, `document.querySelector(".problem").textContent`); !strings.Contains(says, "lost in a restart") {
		t.Errorf("the page says %q", says)
	}
	if text, _ := p.text(); len(text) < 150 {
		t.Errorf("of the answer stays %q", text)
	}
}

func TestKeyStaysInThePagesMemory(t *testing.T) {
	url, _ := startGateway(t, "127.0.0.1:0")
	p := openConsole(t, url)
	p.do(chromedp.WaitVisible("#key"), chromedp.SendKeys("#key", aliceKey))
	p.send("Say something about secrets. fault:slow=10")
	p.untilMid()
	stored := value[string](p, `dispatchEvent(new Event("pagehide")), JSON.stringify([{...sessionStorage}, {...localStorage}, document.cookie, location.href, history.state])`)
	if !strings.Contains(stored, "secrets") || strings.Contains(stored, aliceKey) {
		t.Errorf("stored is %q", stored)
	}
	// Without it the ticket still reads this one stream.
	p.do(chromedp.Reload())
	p.do(chromedp.WaitVisible("#key"))
	p.until(`document.querySelector("#state").dataset.state === "completed" && document.querySelector(".verdict .quiet")`)
	if value[string](p, `document.querySelector("#key").value`) != "" {
		t.Error("the key has outlived the page")
	}
	if text, _ := p.text(); !strings.HasSuffix(text, "🙂") {
		t.Errorf("the answer reads %q", text)
	}
}
