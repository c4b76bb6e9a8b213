// Package web holds what a browser gets from the gateway, embedded in the binary: the page, and the client module with
// its types.
package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"html/template"
	"net/http"
	"path"
	"strings"
	"time"
)

// What is embedded is what is served: index.html as "/", all else under its name.
//
//go:embed index.html page.css instruments.css page.js
//go:embed answer.js background.js batches.js callbacks.js connections.js conversation.js dom.js events.js memory.js record.js run.js
//go:embed streams.js table.js timeline.js viewers.js wire.js
//go:embed client.js client.d.ts
var files embed.FS

// Paths are what Handler serves.
var Paths = paths()

func paths() (all []string) {
	entries, err := files.ReadDir(".")
	if err != nil {
		panic(err) // it is embedded
	}
	for _, e := range entries {
		all = append(all, "/"+strings.TrimSuffix(e.Name(), "index.html"))
	}
	return all
}

// Options are what the page says.
type Options struct {
	Demo     bool // answers are simulated
	Version  string
	Receiver string // the URL of a receiver of callbacks that the page can be asked about; empty: there is none
}

// policy allows the page its own script, style and connections, and nothing else; nor may its script turn text into
// markup, since most of the text that it shows was written by somebody else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// asset is one file as it is sent. Its tag follows from its bytes, so that a browser asks each time and fetches once.
type asset struct {
	contentType string
	tag         string
	body        []byte
	shared      bool // with pages of other origins
}

func newAsset(contentType string, body []byte) asset {
	sum := sha256.Sum256(body)
	return asset{contentType: contentType, tag: `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`, body: body}
}

func (a asset) share() asset {
	a.shared = true
	return a
}

// Handler serves the page. It is public: there is no secret in it. It may serve many requests at once.
func Handler(o Options) http.Handler {
	var index bytes.Buffer
	if err := template.Must(template.ParseFS(files, "index.html")).Execute(&index, o); err != nil {
		panic(err) // the template is part of the program
	}
	assets := map[string]asset{}
	for _, name := range Paths {
		switch path.Ext(name) {
		case ".js":
			assets[name] = newAsset("text/javascript; charset=utf-8", read(name[1:]))
		case ".css":
			assets[name] = newAsset("text/css; charset=utf-8", read(name[1:]))
		case ".ts":
			assets[name] = newAsset("text/plain; charset=utf-8", read(name[1:]))
		default:
			assets[name] = newAsset("text/html; charset=utf-8", index.Bytes())
		}
	}
	for _, name := range []string{"/client.js", "/client.d.ts"} { // an application on another origin imports these two
		assets[name] = assets[name].share()
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, ok := assets[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache")
		h.Set("Content-Type", a.contentType)
		h.Set("ETag", a.tag)
		if a.shared {
			h.Set("Access-Control-Allow-Origin", "*")
			h.Set("Cross-Origin-Resource-Policy", "cross-origin")
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.body))
	})
}

func read(name string) []byte {
	body, err := files.ReadFile(name)
	if err != nil {
		panic(err) // it is embedded by name
	}
	return body
}
