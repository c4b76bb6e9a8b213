package cli

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	cdp "github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// browser starts Chromium on an empty profile and collects what pages complain about on their console.
func browser(t *testing.T) (tab context.Context, complaints func() []string) {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("SLUICE_FORBID_SKIP") != "" {
			t.Fatal("this test needs chromium")
		}
		t.Skip("this test needs chromium")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.WindowSize(1280, 860))
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(stop)
	ctx, cancel := context.WithTimeout(allocator, time.Minute)
	t.Cleanup(cancel)
	tab, closeTab := chromedp.NewContext(ctx)
	t.Cleanup(closeTab)
	t.Cleanup(func() { chromedp.Cancel(tab) })
	var mu sync.Mutex
	var said []string
	err = chromedp.Listen(tab, func(event any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := event.(type) {
		case *cdp.EventExceptionThrown:
			said = append(said, e.ExceptionDetails.Text)
		case *cdp.EventConsoleAPICalled:
			if e.Type == "error" {
				said = append(said, string(e.Args[0].Value))
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return tab, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return said
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
		chromedp.SendKeys("#prompt", "Say something about rivers"),
		chromedp.Click("#send"),
		chromedp.WaitVisible(`#state[data-state="streaming"]`),
		chromedp.Poll[chromedp.Void](`document.querySelector("#answer").textContent.length > 200`),
		chromedp.Click("#drop"),
		chromedp.WaitVisible(`#state[data-state="completed"]`),
		chromedp.Poll[chromedp.Void](`document.querySelector("#verdict").textContent.includes("repeated")`),
	)
	if err != nil {
		t.Fatal(err)
	}
	banner, err := chromedp.Run(tab, chromedp.Text("#demo"))
	if err != nil {
		t.Fatal(err)
	}
	verdict, err := chromedp.Run(tab, chromedp.Text("#verdict"))
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
		chromedp.Navigate(startDemo(t)),
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
