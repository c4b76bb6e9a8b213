package gateway_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"sluice/gateway/simulator"
)

// script runs what has Sluice, and client where the page's own gateway takes alice's key, and reads what it returns.
func (p *tab) script(script string, into any) {
	p.t.Helper()
	text := value[string](p, fmt.Sprintf(`(async () => {
		const { default: Sluice } = await import("/client.js");
		const client = new Sluice({ apiKey: %q, maxRetries: 0 });
		const ask = (content) => ({ model: "claude-sonnet-4-6", max_tokens: 4096, messages: [{ role: "user", content }] });
		const returned = await (async () => { %s })();
		return JSON.stringify(returned ?? null);
	})()`, aliceKey, script))
	if into != nil {
		decode(p.t, []byte(text), into)
	}
}

func TestClientInChromiumEndsEveryFaultInAMessageOrATypedError(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}), quickly)
	want := everyFault(t)
	faults, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]string
	browse(t, h.url).script(`
		const got = {};
		const outcome = async (fault) => {
			try {
				const stream = await client.stream(ask("short fault:" + fault));
				if (fault.startsWith("stall-pings")) stream.once("text", () => stream.cancel());
				got[fault] = (await stream.finalMessage()).stop_reason;
			} catch (error) {
				got[fault] = error.status + " " + error.type;
			}
		};
		const faults = Object.keys(`+string(faults)+`);
		while (faults.length) await Promise.all(faults.splice(0, 3).map(outcome)); // within the six connections of HTTP/1.1
		return got;`, &got)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

// kept is what the scripts below keep in the page: what was told, and which events it had.
const kept = `
	const keep = (stream) => {
		const seen = globalThis.seen = { text: "", jumps: 0, disconnects: [], ids: 0, over: "" };
		stream.on("text", (delta) => {
			seen.text += delta;
			sessionStorage.text = (sessionStorage.text ?? "") + delta;
			sessionStorage.cursor = stream.lastEventId;
			sessionStorage.url = stream.eventsUrl;
		});
		stream.on("disconnect", ({ reason }) => seen.disconnects.push(reason));
		stream.on("end", () => (seen.over = stream.errored ? "failed" : "whole"));
		stream.on("error", (error) => seen.disconnects.push(error.message));
		return stream;
	};
`

// saysWhole looks that what was read is what the gateway has of the stream.
func (p *tab) saysWhole(h *house, id string) {
	p.t.Helper()
	var read struct {
		Text, Kept, Over string
		Disconnects      []string
	}
	p.until(`globalThis.seen.over !== ""`)
	p.script(`return { ...seen, kept: sessionStorage.text };`, &read)
	var m struct{ Content []struct{ Text string } }
	decode(p.t, h.get(id).Message, &m)
	if read.Over != "whole" || len(m.Content) != 1 || read.Kept != m.Content[0].Text {
		p.t.Errorf("%s after %q: read %d characters\n%q\nof %q", read.Over, read.Disconnects, len(read.Kept), read.Kept, m.Content)
	}
}

func TestClientInChromiumGoesOnAfterAReloadWithoutALostOrRepeatedCharacter(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}), quickly)
	b := browse(t, h.url)
	var id string
	b.script(kept+`return keep(await client.stream(ask("fault:slow=8"))).id;`, &id)
	for range 2 {
		b.run(`globalThis.had = sessionStorage.text?.length ?? 0`)
		b.until(`(sessionStorage.text?.length ?? 0) > globalThis.had + 40`)
		b.reload()
		b.script(kept+`keep(client.resume(sessionStorage.url, { lastEventId: sessionStorage.cursor }));`, nil)
	}
	b.saysWhole(h, id)
	var whole, kept string
	b.script(`return await client.resume(sessionStorage.url).finalText();`, &whole)
	b.script(`return sessionStorage.text;`, &kept)
	if whole != kept {
		t.Errorf("all that came again is %q, not %q", whole, kept)
	}
}

func TestClientInChromiumGoesOnAfterItsConnectionIsCut(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}), quickly)
	c := lay(t, h.url)
	b := browse(t, c.url)
	var id string
	b.script(kept+`return keep(await client.stream(ask("fault:slow=20"))).id;`, &id)
	for n := range 3 {
		b.run(`globalThis.had = seen.text.length`)
		b.until(`seen.text.length > globalThis.had + 20 || seen.over !== ""`)
		c.cut()
		b.until(fmt.Sprintf(`seen.disconnects.length > %d || seen.over !== ""`, n))
		b.run(`dispatchEvent(new Event("online"))`) // the waits are tested where time can be told
	}
	b.saysWhole(h, id)
}

func TestClientInChromiumGoesOnWhenItIsOnlineAgain(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}), quickly)
	c := lay(t, h.url)
	b := browse(t, c.url)
	online := func(is bool) {
		t.Helper()
		c.plug(is)
		if _, err := chromedp.Call(b.ctx, network.OverrideNetworkState, network.OverrideNetworkStateParams{Offline: !is, DownloadThroughput: -1, UploadThroughput: -1}); err != nil {
			t.Fatal(err)
		}
	}
	var id string
	b.script(kept+`return keep(await client.stream(ask("fault:slow=10"))).id;`, &id)
	b.until(`seen.text.length > 40`)
	online(false)
	b.until(`seen.disconnects.length >= 2 && !navigator.onLine`) // it has tried in vain
	online(true)
	b.saysWhole(h, id)
}

// TestClientIsImportedAcrossOrigins: the module works where a page of another origin loads it, and knows where it came
// from. Whether that origin may call is the gateway's to say.
func TestClientIsImportedAcrossOrigins(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}))
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Cross-Origin-Embedder-Policy", "require-corp")
		io.WriteString(w, `<!doctype html><title>of another origin</title>`)
	}))
	t.Cleanup(page.Close)
	b := browse(t, page.URL)
	base := value[string](b, fmt.Sprintf(`import("%s/client.js").then(({ default: Sluice }) => new Sluice().baseURL.href)`, h.url))
	if base != h.url+"/" {
		t.Errorf("the module came from %q", base)
	}
}
