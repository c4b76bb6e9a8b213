package web

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func request(t *testing.T, o Options, method, path string, header http.Header) *http.Response {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	for name, values := range header {
		r.Header[name] = values
	}
	w := httptest.NewRecorder()
	Handler(o).ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func page(t *testing.T, o Options) string {
	t.Helper()
	return body(t, request(t, o, http.MethodGet, "/", nil))
}

func TestEveryPathIsServed(t *testing.T) {
	types := map[string]string{
		"/":     "text/html; charset=utf-8",
		".js":   "text/javascript; charset=utf-8",
		".css":  "text/css; charset=utf-8",
		".d.ts": "text/plain; charset=utf-8",
	}
	for _, path := range Paths {
		resp := request(t, Options{}, http.MethodGet, path, nil)
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: status %d", path, resp.StatusCode)
		}
		_, kind, _ := strings.Cut(path, ".")
		want := types["."+kind]
		if kind == "" {
			want = types[path]
		}
		if got := resp.Header.Get("Content-Type"); got != want || got == "" {
			t.Errorf("%s: Content-Type %q, want %q", path, got, want)
		}
		if body(t, resp) == "" {
			t.Errorf("%s: empty", path)
		}
	}
	for _, path := range []string{"/", "/page.js", "/page.css", "/client.js", "/client.d.ts"} {
		if !slices.Contains(Paths, path) {
			t.Errorf("%s is not served", path)
		}
	}
	for _, path := range []string{"/index.html", "/web.go", "/console.png", "/page.js/", "/nothing"} {
		if resp := request(t, Options{}, http.MethodGet, path, nil); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: status %d, want 404", path, resp.StatusCode)
		}
	}
}

// modules are the page's scripts, by path.
func modules(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, path := range Paths {
		if strings.HasSuffix(path, ".js") {
			all[path] = body(t, request(t, Options{}, http.MethodGet, path, nil))
		}
	}
	if len(all) < 2 {
		t.Fatalf("found %d modules", len(all))
	}
	return all
}

func TestEveryModuleThatIsImportedIsServed(t *testing.T) {
	imported := regexp.MustCompile(`(?m)^(?:import|export) (?:.* from )?"([^"]+)";$`)
	found := 0
	for path, script := range modules(t) {
		for _, m := range imported.FindAllStringSubmatch(script, -1) {
			found++
			if name, ours := strings.CutPrefix(m[1], "./"); !ours || !slices.Contains(Paths, "/"+name) {
				t.Errorf("%s imports %q, which is not served", path, m[1])
			}
		}
	}
	if found == 0 {
		t.Fatal("found no import; is the pattern still right?")
	}
}

func TestHeadSaysWhatGetSays(t *testing.T) {
	for _, path := range Paths {
		get, head := request(t, Options{}, http.MethodGet, path, nil), request(t, Options{}, http.MethodHead, path, nil)
		if head.StatusCode != http.StatusOK || body(t, head) != "" {
			t.Errorf("%s: HEAD has status %d or a body", path, head.StatusCode)
		}
		for name := range get.Header {
			if get.Header.Get(name) != head.Header.Get(name) {
				t.Errorf("%s: %s is %q to GET and %q to HEAD", path, name, get.Header.Get(name), head.Header.Get(name))
			}
		}
	}
}

func TestWhatHasNotChangedIsNotSentAgain(t *testing.T) {
	for _, path := range Paths {
		first := request(t, Options{}, http.MethodGet, path, nil)
		if got := first.Header.Get("Cache-Control"); got != "no-cache" {
			t.Errorf("%s: Cache-Control %q, want no-cache", path, got)
		}
		again := request(t, Options{}, http.MethodGet, path, http.Header{"If-None-Match": {first.Header.Get("ETag")}})
		if again.StatusCode != http.StatusNotModified {
			t.Errorf("%s: status %d to its own ETag, want 304", path, again.StatusCode)
		}
	}
	demo := request(t, Options{Demo: true}, http.MethodGet, "/", nil).Header.Get("ETag")
	if demo == request(t, Options{}, http.MethodGet, "/", nil).Header.Get("ETag") {
		t.Error("the demo's page has the ETag of the other one")
	}
}

func TestClientIsAtMost5kBOnTheWire(t *testing.T) {
	var wire bytes.Buffer
	z, err := gzip.NewWriterLevel(&wire, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	z.Write([]byte(body(t, request(t, Options{}, http.MethodGet, "/client.js", nil))))
	z.Close()
	if wire.Len() > 5000 {
		t.Errorf("client.js has %d bytes as a proxy compresses it", wire.Len())
	}
}

// TestClientIsForPagesOfAnyOrigin: a module is fetched with CORS, and isolated pages load only what allows it.
func TestClientIsForPagesOfAnyOrigin(t *testing.T) {
	for _, path := range Paths {
		h := request(t, Options{}, http.MethodGet, path, http.Header{"Origin": {"https://app.example"}}).Header
		open := h.Get("Access-Control-Allow-Origin") == "*" && h.Get("Cross-Origin-Resource-Policy") == "cross-origin"
		if open != strings.HasPrefix(path, "/client.") {
			t.Errorf("%s: open to other origins is %t", path, open)
		}
		if h.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s: with credentials", path)
		}
	}
}

func TestPolicyIsStrictOnEveryPath(t *testing.T) {
	for _, path := range Paths {
		h := request(t, Options{}, http.MethodGet, path, nil).Header
		csp := h.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: the policy lacks %s", path, want)
			}
		}
		if strings.Contains(csp, "unsafe") || strings.Contains(csp, "*") {
			t.Errorf("%s: the policy is not strict: %s", path, csp)
		}
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: X-Content-Type-Options or Referrer-Policy is missing", path)
		}
	}
}

// The policy would stop these, and the page would not work; here it shows before a browser does.
func TestPageHasNothingInline(t *testing.T) {
	for _, demo := range []bool{false, true} {
		html := page(t, Options{Demo: demo})
		for what, pattern := range map[string]string{
			"an inline script":  `<script(?:\s[^>]*)?>[^<]`,
			"a script tag bare": `<script>`,
			"an inline style":   `<style|\sstyle\s*=`,
			"an inline handler": `\son[a-z]+\s*=`,
			"a script URL":      `javascript:`,
		} {
			if found := regexp.MustCompile(`(?i)` + pattern).FindString(html); found != "" {
				t.Errorf("demo %t: %s: %q", demo, what, found)
			}
		}
	}
}

func TestNothingComesFromElsewhere(t *testing.T) {
	const svg = "http://www.w3.org/2000/svg" // a name, not an address
	external := regexp.MustCompile(`(?:[a-zA-Z]+:)?//[a-zA-Z0-9-]+\.[a-zA-Z0-9.-]+|@import|url\(`)
	for _, path := range Paths {
		for _, demo := range []bool{false, true} {
			text := strings.ReplaceAll(body(t, request(t, Options{Demo: demo}, http.MethodGet, path, nil)), svg, "")
			if found := external.FindAllString(text, -1); found != nil {
				t.Errorf("%s: %q", path, found)
			}
		}
	}
	loaded := regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllStringSubmatch(page(t, Options{}), -1)
	for _, m := range loaded {
		ours := slices.Contains(Paths, "/"+m[1]) || strings.HasPrefix(m[1], "#") || strings.HasPrefix(m[1], "data:image/svg+xml,")
		if !ours {
			t.Errorf("the page loads %q", m[1])
		}
	}
	if len(loaded) < 3 {
		t.Errorf("found %d references in the page; is the pattern still right?", len(loaded))
	}
}

// Most of the text on the page was written by a model or its user.
func TestScriptNeverTurnsTextIntoMarkup(t *testing.T) {
	for path, script := range modules(t) {
		for _, word := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser", "eval(", "Function(", "setAttribute(\"on", "setAttribute(\"style", "createContextualFragment", "setHTML"} {
			if strings.Contains(script, word) {
				t.Errorf("%s uses %s", path, word)
			}
		}
	}
}

// Browsers write what is stored to their disk. One module stores, and it never sees the key; that the key is not in what
// it stores is shown in a browser.
func TestKeyIsNeverStored(t *testing.T) {
	for path, script := range modules(t) {
		for _, word := range []string{"localStorage", "indexedDB", "document.cookie", "history.", "caches.", "serviceWorker"} {
			if strings.Contains(script, word) {
				t.Errorf("%s uses %s", path, word)
			}
		}
		if strings.Contains(script, "sessionStorage") != (path == "/memory.js") {
			t.Errorf("%s uses sessionStorage, or memory.js doesn't", path)
		}
	}
	if script := modules(t)["/memory.js"]; strings.Contains(script, "$(") || strings.Contains(script, "import") {
		t.Error("memory.js looks at the page")
	}
}

func TestDemoSaysThatAnswersAreSimulated(t *testing.T) {
	const says = "Answers are simulated. Nothing leaves this machine."
	if !strings.Contains(page(t, Options{Demo: true}), says) {
		t.Error("the demo doesn't say that answers are simulated")
	}
	html := page(t, Options{})
	if strings.Contains(html, "simulated") || strings.Contains(html, "fault:") {
		t.Error("a page that is not the demo's speaks of simulation")
	}
}

func TestOnlyTheDemoNeedsNoKey(t *testing.T) {
	const field = `id="key" type="password" autocomplete="off"`
	if !strings.Contains(page(t, Options{}), field) {
		t.Error("the page has no field for the key")
	}
	if strings.Contains(page(t, Options{Demo: true}), `type="password"`) {
		t.Error("the demo asks for a key")
	}
}

func TestVersionIsText(t *testing.T) {
	html := page(t, Options{Version: `v1.2.3<script>alert(1)</script>`})
	if !strings.Contains(html, "v1.2.3&lt;script&gt;") {
		t.Error("the version is not on the page, or not as text")
	}
}

func TestEveryElementThatTheScriptsAskForIsThere(t *testing.T) {
	both := page(t, Options{}) + page(t, Options{Demo: true})
	found := 0
	for path, script := range modules(t) {
		for _, m := range regexp.MustCompile(`(?:\$|\bput)\("([a-z-]+)"`).FindAllStringSubmatch(script, -1) {
			found++
			if !strings.Contains(both, `id="`+m[1]+`"`) {
				t.Errorf("%s asks for an element %q, which is not there", path, m[1])
			}
		}
	}
	if found == 0 {
		t.Fatal("found none; is the pattern still right?")
	}
}

func TestEveryFieldHasALabel(t *testing.T) {
	for _, demo := range []bool{false, true} {
		html := page(t, Options{Demo: demo})
		fields := regexp.MustCompile(`(<label class="check"[^>]*>)?<(?:input|textarea|select) id="([a-z-]+)"`).FindAllStringSubmatch(html, -1)
		if len(fields) == 0 {
			t.Fatal("found none; is the pattern still right?")
		}
		for _, field := range fields {
			labelled := regexp.MustCompile(`<label[^>]* for="` + field[2] + `"`).MatchString(html)
			if field[1] == "" && !labelled {
				t.Errorf("demo %t: the field %q has no label", demo, field[2])
			}
		}
	}
}
