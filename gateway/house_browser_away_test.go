package gateway_test

import (
	"net/url"
	"slices"
	"testing"
)

// reader is a page that shows the text of the stream in its query. It keeps the text with the cursor that belongs to it
// for as long as the tab lives, and goes on from there.
const reader = `<pre id="text"></pre><script>
const text = document.querySelector("#text");
text.textContent = sessionStorage.text ?? "";
const url = new URL(new URLSearchParams(location.search).get("url"), location);
if (sessionStorage.cursor) url.searchParams.set("last_event_id", sessionStorage.cursor);
const source = new EventSource(url);
let broken = 0;
const keep = (e) => { sessionStorage.text = text.textContent; sessionStorage.cursor = e.lastEventId; };
for (const type of ["message_start", "content_block_start", "content_block_stop", "message_delta"]) source.addEventListener(type, keep);
source.addEventListener("content_block_delta", (e) => { text.append(JSON.parse(e.data).delta.text); keep(e); });
source.addEventListener("resync", () => text.replaceChildren());
source.addEventListener("message_stop", (e) => { keep(e); source.close(); });
source.addEventListener("error", (e) => { if (e.data) { text.append(e.data); source.close(); } else broken++; });
const over = () => source.readyState === EventSource.CLOSED;
addEventListener("pageshow", (e) => { globalThis.restored = e.persisted; });
</script>`

// TestPageThatComesBackHasLostAndRepeatedNothing has a page go away in the middle of an answer, which goes on meanwhile.
func TestPageThatComesBackHasLostAndRepeatedNothing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		leave   func(p *tab, cut func())
		back    func(p *tab)
		cursors []string // that the stream was asked for with
	}{
		{"after a reload", func(*tab, func()) {}, func(p *tab) { p.until(`text.textContent.includes("four")`); p.reload() }, []string{"", "6"}},
		// Its connection has waited with it.
		{"out of the cache", func(p *tab, _ func()) { p.goAway() }, (*tab).goBack, []string{""}},
		{"out of the cache without its connection", func(p *tab, cut func()) { p.goAway(); cut() }, (*tab).goBack, []string{"", "4"}},
		{"online again", func(p *tab, cut func()) {
			p.network(offline)
			cut()
			p.until(`broken >= 2`) // a try was in vain, too
		}, func(p *tab) { p.network(online) }, []string{"", "4"}},
		{"in a new tab", func(p *tab, _ func()) { p.close() }, nil, []string{"", ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFaucet()
			h := openHouse(t, f)
			r := build(t, h.url)
			r.pages["/reader"] = reader
			w := h.watching(t, f)
			w.r.leave()
			browser := browse(t, r.url)
			page := r.url + "/reader?url=" + url.QueryEscape(w.o.address())
			p := browser.another(page)
			w.up.send(block, delta("one "), delta("two "))
			p.until(`text.textContent == "one two "`)
			c.leave(p, func() { r.cut(w.o.address()) })
			w.up.send(delta("three "), delta("four "))
			if c.back == nil {
				p = browser.another(page)
			} else {
				c.back(p)
			}
			w.up.send(delta("five "))
			p.until(`text.textContent.includes("five")`)
			w.up.send(delta("six"))
			w.up.finish()
			p.until(`over()`)
			if text := value[string](p, `text.textContent`); text != "one two three four five six" {
				t.Errorf("the page shows %q", text)
			}
			if got := r.cursors(w.o.address()); !slices.Equal(got, c.cursors) {
				t.Errorf("the cursors are %q, want %q", got, c.cursors)
			}
			p.close()
		})
	}
}
