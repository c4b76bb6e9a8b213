package cli

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/chromedp"
)

// The page as its readers have it, in Chromium.

// console is the page in a tab. At the end of its test nothing may be on the browser's console, and the page's policy may
// have had nothing to forbid.
type console struct {
	t   *testing.T
	tab context.Context
	url string
}

func openConsole(t *testing.T, url string) *console {
	t.Helper()
	tab, complaints := browser(t)
	t.Cleanup(func() {
		if said := complaints(); len(said) > 0 {
			t.Errorf("on the console: %q", said)
		}
	})
	p := &console{t, tab, url}
	p.do(chromedp.Navigate(url))
	return p
}

// stepPatience is less than a tab has, so that a page that is stuck can be asked what it says.
const stepPatience = 25 * time.Second

func (p *console) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.tab, stepPatience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		said, _ := chromedp.Run(p.tab, chromedp.Evaluate[string](`document.querySelector("main").innerText`))
		p.t.Fatalf("%v; the page says:\n%s", err, said)
	}
}

// until waits until an expression is true. It asks anew each time, since chromedp.Poll does not find a page that came
// back out of the back/forward cache.
func (p *console) until(js string) {
	p.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for {
		found, err := chromedp.Run(p.tab, chromedp.Evaluate[bool](`Boolean(`+js+`)`))
		if err == nil && found {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			said, _ := chromedp.Run(p.tab, chromedp.Evaluate[string](`document.body?.innerText ?? ""`))
			p.t.Fatalf("%s: %v; the page says:\n%s", js, err, said)
		}
	}
}

// value evaluates an expression.
func value[T any](p *console, js string) T {
	p.t.Helper()
	v, err := chromedp.Run(p.tab, chromedp.Evaluate[T](js))
	if err != nil {
		p.t.Fatalf("%v in %s", err, js)
	}
	return v
}

func (p *console) send(prompt string) {
	p.t.Helper()
	p.do(chromedp.SendKeys("#prompt", prompt), chromedp.Click("#send"))
}

// untilText waits until a part of an answer is there, untilMid moreover for a stream that goes on.
func (p *console) untilText() {
	p.t.Helper()
	p.until(`document.querySelector(".turn:last-of-type .blocks")?.textContent.length > 150`)
}

func (p *console) untilMid() {
	p.t.Helper()
	p.untilText()
	p.until(`document.querySelector("#state").dataset.state === "streaming"`)
}

func (p *console) untilEnd(state string) {
	p.t.Helper()
	p.until(`document.querySelector("#state").dataset.state === "` + state + `" && document.querySelector(".turn:last-of-type .verdict .good, .turn:last-of-type .problem")`)
}

// text is what stands on the page of the last answer; its stream's id is beside it.
func (p *console) text() (text, id string) {
	p.t.Helper()
	return value[string](p, `[...document.querySelectorAll(".turn:last-of-type .text")].map((e) => e.textContent).join("")`),
		value[string](p, `document.querySelector(".turn:last-of-type .facts").title`)
}

// get asks the gateway itself.
func (p *console) get(path string, into any) {
	p.t.Helper()
	resp, err := http.Get(p.url + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(body, into)
	}
	if err != nil || resp.StatusCode != http.StatusOK {
		p.t.Fatalf("GET %s: %s %v\n%s", path, resp.Status, err, body)
	}
}

// post sends the gateway something by itself, and reads its answer into into, if that is not nil.
func (p *console) post(path, body string, status int, into any, headers ...string) {
	p.t.Helper()
	req, err := http.NewRequest("POST", p.url+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && into != nil {
		err = json.Unmarshal(answer, into)
	}
	if err != nil || resp.StatusCode != status {
		p.t.Fatalf("POST %s: %s %v\n%s", path, resp.Status, err, answer)
	}
}

type streamObject struct {
	ID, Status string
	Message    struct {
		Content []struct{ Type, Text string }
	}
}

// list is the gateway's list of streams.
func (p *console) list() (streams []streamObject) {
	p.t.Helper()
	var list struct{ Data []streamObject }
	p.get("v1/streams", &list)
	return list.Data
}

// isWhole compares what stands on the page with what the gateway has of the same stream.
func (p *console) isWhole() {
	p.t.Helper()
	shown, id := p.text()
	var s streamObject
	p.get("v1/streams/"+id, &s)
	var whole strings.Builder
	for _, block := range s.Message.Content {
		whole.WriteString(block.Text)
	}
	if shown != whole.String() || shown == "" || s.Status != "completed" {
		p.t.Errorf("the page shows %q of a stream that is %s and has %q", shown, s.Status, whole.String())
	}
	if verdict := value[string](p, `document.querySelector(".turn:last-of-type .verdict").textContent`); !strings.Contains(verdict, "0 characters lost, 0 repeated") {
		p.t.Errorf("the page says %q", verdict)
	}
}

func TestViewersSideBySideEndWithTheSameText(t *testing.T) {
	p := openConsole(t, startDemo(t))
	p.do(chromedp.Click("#tab-viewers"), chromedp.Click("#add-viewer"), chromedp.Click("#add-viewer"), chromedp.Click("#add-slow"))
	p.send("Please think about fairness. fault:slow=10")
	p.untilEnd("completed")
	p.until(`document.querySelectorAll(".card .same.good").length === 3`)
	p.isWhole()
	counts := value[[]string](p, `[...document.querySelectorAll(".card .count")].map((e) => e.textContent)`)
	slow := regexp.MustCompile(`^(\d+) for (\d+) events, \d+× away$`).FindStringSubmatch(counts[2])
	if slow == nil {
		t.Fatalf("the slow viewer's count is %q", counts[2])
	}
	got, all := number(t, slow[1]), number(t, slow[2])
	if got*2 > all {
		t.Errorf("the slow viewer got %d events for %d; nothing was merged for it", got, all)
	}
	if s := p.list()[0]; s.Status != "completed" {
		t.Errorf("the stream is %s", s.Status)
	}
}

func number(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The page itself and six viewers are seven.
func TestPageSaysWhyTheSeventhStreamWaits(t *testing.T) {
	p := openConsole(t, startDemo(t))
	p.do(chromedp.Click("#tab-viewers"))
	for range 6 {
		p.do(chromedp.Click("#add-viewer"))
	}
	p.send("Write something long about rivers")
	p.do(chromedp.WaitVisible("#notice"))
	if says := value[string](p, `document.querySelector("#notice-text").textContent`); !strings.Contains(says, "HTTP/1.1") || !strings.Contains(says, "1 request") {
		t.Errorf("the notice is %q", says)
	}
	p.until(`document.querySelectorAll('.card [data-state="waiting"]').length === 1`) // the cards are drawn with the next frame
	p.do(chromedp.Click("#stop"))                                                     // for which there is no connection either, but its own
	p.untilEnd("canceled")
	p.do(chromedp.WaitNotVisible("#notice"))
	if s := p.list()[0]; s.Status != "canceled" {
		t.Errorf("the stream is %s", s.Status)
	}
}

func TestWireKeepsFewRowsOfALongStreamOnThePage(t *testing.T) {
	p := openConsole(t, startDemo(t))
	p.send("Write something long about events. fault:slow=1")
	p.untilEnd("completed")
	p.isWhole()
	rows := func() int {
		n, _, _ := strings.Cut(value[string](p, `document.querySelector("#wire-count").textContent`), " ")
		return number(t, strings.ReplaceAll(n, ",", ""))
	}
	p.until(`document.querySelector("#rows .row:not([hidden])")`)
	if all := rows(); all < 1000 {
		t.Errorf("the wire has %d rows; the stream is too short for this test", all)
	}
	if n := value[int](p, `document.querySelectorAll("#rows .row").length`); n > 100 {
		t.Errorf("%d rows are on the page", n)
	}
	p.do(chromedp.SendKeys("#filter", "message_stop"))
	p.until(`document.querySelector("#wire-count").textContent.startsWith("1 of ")`)
	p.do(chromedp.Click("#rows .row:not([hidden])"))
	if frame := value[string](p, `document.querySelector("#frame-text").textContent`); !regexp.MustCompile(`(?s)^id: \d+\nevent: message_stop\ndata: \{`).MatchString(frame) {
		t.Errorf("the frame reads %q", frame)
	}
}

func TestFaultEndsInATypedErrorWithItsRequestID(t *testing.T) {
	p := openConsole(t, startDemo(t))
	p.do(chromedp.Click("#faults summary"), chromedp.Click(`[data-prompt$="fault:cut=20"]`))
	p.untilEnd("failed")
	says := value[string](p, `document.querySelector(".problem").textContent`)
	if !strings.HasPrefix(says, "api_error") || !strings.Contains(says, "request idreq_") || !strings.Contains(says, "streamstrm_") {
		t.Errorf("the page says %q", says)
	}
	p.do(chromedp.Click("#faults summary"), chromedp.Click(`[data-prompt$="fault:429=30"]`))
	p.until(`document.querySelector(".turn:last-of-type .problem")`)
	says = value[string](p, `document.querySelector(".turn:last-of-type .problem").textContent`)
	if !strings.HasPrefix(says, "rate_limit_error") || !strings.Contains(says, "status429") || !strings.Contains(says, "retry after30 s") {
		t.Errorf("the page says %q", says)
	}
}

func TestStopCancelsTheStream(t *testing.T) {
	p := openConsole(t, startDemo(t))
	p.send("Write something long")
	p.untilMid()
	p.do(chromedp.Click("#stop"))
	p.untilEnd("canceled")
	if s := p.list()[0]; s.Status != "canceled" {
		t.Errorf("the stream is %s", s.Status)
	}
}

func TestNextMessageAfterAToolCallIsItsResult(t *testing.T) {
	p := openConsole(t, startDemo(t))
	p.do(chromedp.Click("[data-tool]"))
	p.untilEnd("completed")
	p.until(`document.querySelector("#prompt-label").textContent === "Result of get_weather"`)
	p.send("Seven degrees and rain")
	p.until(`document.querySelectorAll(".turn").length === 2 && document.querySelector(".turn:last-of-type .text")?.textContent.startsWith("The tool says: “Seven degrees and rain”.")`)
}

// named are the roles of what can be used or has a state.
var named = []string{"button", "checkbox", "combobox", "grid", "link", "progressbar", "searchbox", "slider", "spinbutton", "tab", "tabpanel", "textbox", "DisclosureTriangle"}

func TestEveryControlHasAName(t *testing.T) {
	demo := openConsole(t, startDemo(t))
	demo.do(chromedp.Click("#tab-viewers"), chromedp.Click("#add-viewer"), chromedp.Click("#add-slow"))
	demo.send("Please think, use a tool, in short. fault:slow=2")
	demo.untilEnd("completed")
	demo.do(chromedp.Click("#faults summary"))
	demo.hasNames(25)
	demo.do(chromedp.Click("#tab-wire"), chromedp.Click("#rows .row:not([hidden])"))
	demo.hasNames(25)
	demo.do(chromedp.Click("#tab-streams"), chromedp.WaitVisible(".streams tbody tr"))
	demo.hasNames(25)

	url, _ := startGateway(t, "127.0.0.1:0")
	real := openConsole(t, url)
	real.do(chromedp.WaitVisible("#key"))
	real.hasNames(10)
}

func (p *console) hasNames(atLeast int) {
	p.t.Helper()
	tree, err := chromedp.Run(p.tab, func(ctx context.Context, t *chromedp.Target) ([]*accessibility.Node, error) {
		r, err := cdp.Call(ctx, t, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{})
		return r.Nodes, err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	controls := 0
	for _, node := range tree {
		var role, name string
		if node.Ignored || node.Role == nil || json.Unmarshal(node.Role.Value, &role) != nil || !slices.Contains(named, role) {
			continue
		}
		controls++
		if node.Name == nil || json.Unmarshal(node.Name.Value, &name) != nil || strings.TrimSpace(name) == "" {
			p.t.Errorf("a %s has no name (node %d of the document)", role, node.BackendDOMNodeID)
		}
	}
	if controls < atLeast {
		p.t.Errorf("found %d controls, which can't be all", controls)
	}
}
