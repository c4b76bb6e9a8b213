package gateway_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// arrows are the packages of ours that each room may import. They go down only.
var arrows = map[string][]string{
	"sluice":                    {"sluice/gateway/cli"},
	"sluice/gateway/cli":        {"sluice/gateway", "sluice/gateway/auth", "sluice/gateway/limits", "sluice/gateway/simulator"},
	"sluice/gateway":            {"sluice/gateway/auth", "sluice/gateway/background", "sluice/gateway/batches", "sluice/gateway/callbacks", "sluice/gateway/claude", "sluice/gateway/httpapi", "sluice/gateway/limits", "sluice/gateway/metrics", "sluice/gateway/poll", "sluice/gateway/relay", "sluice/gateway/store", "sluice/web"},
	"sluice/gateway/httpapi":    {"sluice/gateway/auth", "sluice/gateway/background", "sluice/gateway/batches", "sluice/gateway/callbacks", "sluice/gateway/claude", "sluice/gateway/limits", "sluice/gateway/metrics", "sluice/gateway/poll", "sluice/gateway/relay", "sluice/gateway/store"},
	"sluice/gateway/background": {"sluice/gateway/backoff", "sluice/gateway/callbacks", "sluice/gateway/claude", "sluice/gateway/failpoint", "sluice/gateway/limits", "sluice/gateway/metrics", "sluice/gateway/relay", "sluice/gateway/store"},
	"sluice/gateway/batches":    {"sluice/gateway/backoff", "sluice/gateway/callbacks", "sluice/gateway/claude", "sluice/gateway/failpoint", "sluice/gateway/limits", "sluice/gateway/metrics", "sluice/gateway/store"},
	"sluice/gateway/callbacks":  {"sluice/gateway/backoff", "sluice/gateway/failpoint", "sluice/gateway/metrics", "sluice/gateway/store"},
	"sluice/gateway/relay":      {"sluice/gateway/claude", "sluice/gateway/limits", "sluice/gateway/metrics"},
	"sluice/gateway/claude":     {"sluice/gateway/backoff", "sluice/gateway/h1", "sluice/gateway/h2", "sluice/gateway/metrics", "sluice/gateway/poll"},
	"sluice/gateway/h1":         {"sluice/gateway/poll"},
	"sluice/gateway/h2":         {"sluice/gateway/poll"},
	"sluice/gateway/poll":       {},
	"sluice/gateway/auth":       {},
	"sluice/gateway/limits":     {},
	"sluice/gateway/store":      {},
	"sluice/gateway/metrics":    {},
	"sluice/gateway/backoff":    {},
	"sluice/gateway/failpoint":  {},
	"sluice/gateway/simulator":  {},
	"sluice/web":                {},
	"sluice/bench":              {}, // measures from outside
}

// libraries are the rooms that may import what others have written; its tests may, too, and more.
var libraries = map[string][]string{
	"github.com/MicahParks/jwkset":           {"sluice/gateway/auth"},
	"github.com/MicahParks/keyfunc/v3":       {"sluice/gateway/auth"},
	"github.com/golang-jwt/jwt/v5":           {"sluice/gateway/auth"},
	"github.com/labstack/echo/v4":            {"sluice/gateway/httpapi"},
	"github.com/nats-io":                     {"sluice/gateway/store"},
	"github.com/prometheus/client_golang":    {"sluice/gateway/metrics"},
	"github.com/r3labs/sse/v2":               {"sluice/gateway/cli"},
	"go.yaml.in/yaml/v3":                     {"sluice/gateway"},
	"golang.org/x/net":                       {"sluice/gateway/h2"},
	"golang.org/x/sys":                       {"sluice/gateway/httpapi"},
	"golang.org/x/time":                      {"sluice/gateway/limits"},
	"github.com/anthropics/anthropic-sdk-go": {},
	"go.uber.org/goleak":                     {},
}

func TestArrowsGoDownOnly(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	err := filepath.WalkDir("..", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && (name == "testdata" || name == "node_modules" || strings.HasPrefix(name, ".") && name != "..") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		relative, err := filepath.Rel("..", file)
		if err != nil {
			return err
		}
		room := path.Join("sluice", path.Dir(filepath.ToSlash(relative)))
		test := strings.HasSuffix(name, "_test.go")
		seen[room] = true
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if why := forbidden(room, imported, test); why != "" {
				t.Errorf("%s imports %s: %s", relative, imported, why)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for room := range seen {
		if _, ok := arrows[room]; !ok {
			t.Errorf("%s is in no table", room)
		}
	}
	for room := range arrows {
		if !seen[room] {
			t.Errorf("the table has %s, which is not there", room)
		}
	}
}

// forbidden says why a room may not import a package; empty where it may.
func forbidden(room, imported string, test bool) string {
	first, _, _ := strings.Cut(imported, "/")
	switch {
	case first == "sluice":
		if slices.Contains(arrows[room], imported) || test && (imported == room || imported == "sluice/gateway/simulator") {
			return ""
		}
		return "the arrow goes up, or across"
	case !strings.Contains(first, "."):
		return "" // the standard library
	}
	for library, rooms := range libraries {
		if imported == library || strings.HasPrefix(imported, library+"/") {
			if test || slices.Contains(rooms, room) {
				return ""
			}
			return "this library lives in another room"
		}
	}
	if test {
		return ""
	}
	return "a library in no table"
}
