package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// The house as a browser sees it: pages in Chromium that read streams with what browsers have, an EventSource.

// chromium is the one browser of all tests, started by the first that wants it. Each test has a profile of its own in it.
var chromium struct {
	once  sync.Once
	ctx   context.Context
	err   error
	close func() // nil: it was not started
}

func startChromium() {
	path, err := exec.LookPath("chromium")
	if err != nil {
		chromium.err = err
		return
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.IgnoreCertErrors,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(allocator)
	chromium.ctx = ctx
	chromium.close = func() {
		chromedp.Cancel(ctx)
		cancel()
		stop()
	}
	chromium.err = chromedp.Do(ctx)
}

// tab is a page in the browser.
type tab struct {
	t   testing.TB
	ctx context.Context
}

// browse opens a page in a new profile: no cookies, storage or connections are shared with other tests.
func browse(t testing.TB, url string) *tab {
	t.Helper()
	if chromium.once.Do(startChromium); chromium.err != nil {
		if chromium.close == nil {
			skip(t, "this test needs chromium")
		}
		t.Fatal(chromium.err)
	}
	return openTab(t, chromium.ctx, url, chromedp.WithNewBrowserContext())
}

// another opens a page beside the tab, in its profile. It must be closed before the tab is.
func (p *tab) another(url string) *tab {
	p.t.Helper()
	return openTab(p.t, p.ctx, url)
}

func openTab(t testing.TB, parent context.Context, url string, options ...chromedp.ContextOption) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(parent, options...)
	t.Cleanup(cancel)
	p := &tab{t, ctx}
	err := chromedp.Listen(ctx, func(e any) {
		if thrown, ok := e.(*runtime.EventExceptionThrown); ok {
			t.Errorf("the page throws: %s", thrown.ExceptionDetails.Text)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	p.do(chromedp.Navigate(url))
	return p
}

// close closes the tab as a user does.
func (p *tab) close() {
	p.t.Helper()
	if err := chromedp.Cancel(p.ctx); err != nil {
		p.t.Fatal(err)
	}
}

// do takes steps, which together have as long as patience lasts.
func (p *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		p.t.Fatal(err)
	}
}

// value evaluates an expression, and awaits it where it is a promise.
func value[T any](p *tab, js string) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](js, chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Fatalf("%v in %.200s", err, js)
	}
	return v
}

// run evaluates what has no value.
func (p *tab) run(js string) {
	p.t.Helper()
	value[chromedp.Void](p, js)
}

// until waits until an expression is true. It looks by itself, since chromedp.Poll does not find a page that came back out
// of the back/forward cache.
func (p *tab) until(js string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	look := `new Promise((found) => { const look = () => { if (` + js + `) found(); else setTimeout(look, 10); }; look(); })`
	if _, err := chromedp.Run(ctx, chromedp.Evaluate[chromedp.Void](look, chromedp.EvalAwaitPromise)); err != nil {
		state, _ := chromedp.Run(p.ctx, chromedp.Evaluate[string](`(JSON.stringify(globalThis.sources) ?? document.body?.innerText ?? "").slice(-2000)`))
		p.t.Fatalf("%s: %v; the page has %s", js, err, state)
	}
}

// reload loads the page again.
func (p *tab) reload() {
	p.t.Helper()
	p.do(chromedp.Reload())
}

// goAway goes to another page.
func (p *tab) goAway() {
	p.t.Helper()
	p.do(chromedp.Navigate(value[string](p, `location.origin`)))
}

// goBack goes back to the page before, which must have waited in the back/forward cache.
func (p *tab) goBack() {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	back := chromedp.Evaluate[chromedp.Void](`setTimeout(() => history.back())`)
	e, err := chromedp.Run(ctx, chromedp.WaitEvent(page.FrameNavigated, nil, back))
	if err != nil {
		p.t.Fatal(err)
	}
	if e.Type != page.NavigationTypeBackForwardCacheRestore {
		p.t.Fatalf("the page was not kept: %s", e.Type)
	}
}

// Conditions of a tab's network.
var (
	offline = network.Conditions{Offline: true, DownloadThroughput: -1, UploadThroughput: -1}
	online  = network.Conditions{DownloadThroughput: -1, UploadThroughput: -1}
	crawl   = network.Conditions{DownloadThroughput: 2000, UploadThroughput: -1} // bytes a second: of 32 kB, read at once, 16 s
)

func (p *tab) network(c network.Conditions) {
	p.t.Helper()
	p.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, network.EmulateNetworkConditionsByRule, network.EmulateNetworkConditionsByRuleParams{MatchedNetworkConditions: []*network.Conditions{&c}})
		return err
	}))
}

// listening is what a page does with streams, as the README has it, but that it never closes one: it notes every event and
// what became of the connection. An error without data is no event of the stream; the connection is broken, or over.
const listening = `
globalThis.sources ??= [];
globalThis.listen = (url, options) => {
  const source = new EventSource(url, options);
  const s = {source, events: [], opened: 0, broken: 0};
  sources.push(s);
  source.onopen = () => s.opened++;
  for (const type of ["message", "message_start", "content_block_start", "content_block_delta", "content_block_stop",
      "message_delta", "message_stop", "ping", "resync", "error"])
    source.addEventListener(type, (e) => {
      if (e.data === undefined) s.broken++; else if (type !== "ping") s.events.push({id: e.lastEventId, name: type, data: e.data});
    });
};
globalThis.ended = () => sources.every((s) => s.events.at(-1)?.name === "message_stop");
globalThis.over = () => sources.every((s) => s.source.readyState === EventSource.CLOSED);
`

// listen opens EventSources.
func (p *tab) listen(urls ...string) {
	p.t.Helper()
	list, err := json.Marshal(urls)
	if err != nil {
		p.t.Fatal(err)
	}
	p.run(listening + `for (const url of ` + string(list) + `) listen(url);`)
}

// events are those that the page's nth EventSource has dispatched.
func (p *tab) events(n int) (events []event) {
	p.t.Helper()
	for _, e := range value[[]struct{ ID, Name, Data string }](p, fmt.Sprintf(`sources[%d].events`, n)) {
		events = append(events, event{id: e.ID, name: e.Name, data: e.Data})
	}
	return events
}
