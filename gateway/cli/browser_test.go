package cli

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	cdp "github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// chromium is the one browser of all tests, started by the first that wants it.
var chromium struct {
	once  sync.Once
	ctx   context.Context
	err   error
	close func() // nil: it was not started
}

// CloseBrowser ends the tests' browser. TestMain calls it.
func CloseBrowser() {
	if chromium.close != nil {
		chromium.close()
	}
}

func startChromium() {
	path, err := exec.LookPath("chromium")
	if err != nil {
		chromium.err = err
		return
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.WindowSize(1280, 860))
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

// browser opens a tab in a profile of its own and collects what its pages complain about: on their console, by an
// exception, or because their policy forbids something. What the network answers is no complaint.
func browser(t *testing.T) (tab context.Context, complaints func() []string) {
	t.Helper()
	if chromium.once.Do(startChromium); chromium.err != nil {
		if chromium.close != nil || os.Getenv("SLUICE_FORBID_SKIP") != "" {
			t.Fatal("this test needs chromium: ", chromium.err)
		}
		t.Skip("this test needs chromium")
	}
	return newTab(t, chromium.ctx, chromedp.WithNewBrowserContext())
}

func newTab(t *testing.T, parent context.Context, options ...chromedp.ContextOption) (tab context.Context, complaints func() []string) {
	t.Helper()
	ctx, closeTab := chromedp.NewContext(parent, options...)
	t.Cleanup(closeTab)
	tab, cancel := context.WithTimeout(ctx, time.Minute)
	t.Cleanup(cancel)
	var mu sync.Mutex
	var said []string
	err := chromedp.Listen(tab, func(event any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := event.(type) {
		case *cdp.EventExceptionThrown:
			said = append(said, e.ExceptionDetails.Text)
			if e.ExceptionDetails.Exception != nil {
				said = append(said, e.ExceptionDetails.Exception.Description)
			}
		case *cdp.EventConsoleAPICalled:
			if e.Type == "error" {
				said = append(said, string(e.Args[0].Value))
			}
		case *log.EventEntryAdded:
			if e.Entry.Level == log.EntryLevelError && e.Entry.Source != log.EntrySourceNetwork {
				said = append(said, e.Entry.Text)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return tab, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(said)
	}
}

// startDemo runs `sluice demo` and returns the first URL that it prints.
func startDemo(t *testing.T) string {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	out, in := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- Main([]string{"demo", "-listen", "127.0.0.1:0"}, Environment{Stdout: in, Stderr: io.Discard, Getenv: os.LookupEnv, Context: ctx})
		in.Close()
	}()
	t.Cleanup(func() {
		stop()
		go io.Copy(io.Discard, out)
		if code := <-ended; code != exitOK {
			t.Errorf("the demo ended with %d", code)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if url := regexp.MustCompile(`https?://\S+`).FindString(lines.Text()); url != "" {
			go io.Copy(io.Discard, out)
			return url
		}
	}
	t.Fatal("the demo prints no URL")
	return ""
}

func TestDemoPageStreamsAnAnswerAndResumesItAfterADrop(t *testing.T) {
	tab, complaints := browser(t)
	err := chromedp.Do(tab,
		chromedp.Navigate(startDemo(t)),
		chromedp.SendKeys("#prompt", "Say something about rivers. fault:slow=8"),
		chromedp.Click("#send"),
		chromedp.WaitVisible(`#state[data-state="streaming"]`),
		chromedp.Poll[chromedp.Void](`document.querySelector("#conversation").textContent.length > 200`),
		chromedp.Click("#drop"),
		chromedp.WaitVisible(`#state[data-state="completed"]`),
		chromedp.Poll[chromedp.Void](`document.querySelector(".verdict").textContent.includes("repeated")`),
	)
	if err != nil {
		t.Fatal(err)
	}
	banner, err := chromedp.Run(tab, chromedp.Text("#demo"))
	if err != nil {
		t.Fatal(err)
	}
	verdict, err := chromedp.Run(tab, chromedp.Text(".verdict"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(banner, "simulated") {
		t.Errorf("the page says %q, not that answers are simulated", banner)
	}
	if !strings.Contains(verdict, "resumed") || !strings.Contains(verdict, "0 characters lost, 0 repeated") {
		t.Errorf("after a drop: %q", verdict)
	}
	if said := complaints(); len(said) > 0 {
		t.Errorf("on the console: %q", said)
	}
}

func TestTheReadmesEventSourceReadsAnAnswerToItsEnd(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(readme), "```js\n")
	snippet, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("the README has no JavaScript")
	}
	snippet = strings.Replace(snippet, `"Hello"`, `"Hello, in short"`, 1)
	tab, complaints := browser(t)
	err = chromedp.Do(tab,
		chromedp.Navigate(startDemo(t)+"page.css"), // of this origin, and without a script of its own
		chromedp.Evaluate[chromedp.Void](`document.body.replaceChildren(); (async () => {`+snippet+`; globalThis.source = source; })()`, chromedp.EvalAwaitPromise),
		chromedp.Poll[chromedp.Void](`globalThis.source.readyState === EventSource.CLOSED`),
	)
	if err != nil {
		t.Fatal(err)
	}
	text, err := chromedp.Run(tab, chromedp.Evaluate[string](`document.body.textContent`))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(text, "In short: about “Hello, in short”") || !strings.HasSuffix(strings.TrimSpace(text), "🌊.") {
		t.Errorf("the answer reads %q", text)
	}
	if said := complaints(); len(said) > 0 {
		t.Errorf("on the console: %q", said)
	}
}
