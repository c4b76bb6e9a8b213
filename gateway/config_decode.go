package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// decoder turns the text of a configuration into a Config. It walks the YAML
// nodes itself: a decoder that fills structs by reflection stops at its first
// error, knows no columns, and prints the values it could not take, which here
// may be keys.
type decoder struct {
	file     string
	getenv   func(string) (string, bool)
	readFile func(string) ([]byte, error) // nil: the files that are named are not looked at

	config   Config
	rules    rules
	places   map[string]place // of every known key that the text has
	visited  int
	problems []Problem
	warnings []Warning
}

type place struct{ line, column int }

// value is a node on its way into the Config. Its place is that of its key, or
// of the node itself in a list; where an alias stood, that of the alias.
type value struct {
	node *yaml.Node // never an alias
	key  string     // the whole path
	at   place
}

// rule says what becomes of a value; keys are the rules of what is in it.
type rule struct {
	set  func(value)
	keys rules
}

type rules map[string]rule

// maxVisited bounds the work: aliases make a file longer than it is. Ten
// thousand callers need 70,000.
const maxVisited = 100_000

// maxProblems bounds what a file that is something else altogether costs.
const maxProblems = 1000

func newDecoder(file string, getenv func(string) (string, bool), readFile func(string) ([]byte, error)) *decoder {
	d := &decoder{file: file, getenv: getenv, readFile: readFile, config: Defaults(), places: map[string]place{}}
	d.rules = d.schema()
	return d
}

// document reads the text: one YAML document, or none.
func (d *decoder) document(data []byte) {
	if len(data) > maxConfigBytes {
		d.failAt("", place{}, fmt.Sprintf("is longer than %d bytes; this is hardly a configuration", maxConfigBytes))
		return
	}
	if at, ok := firstInvalid(data); !ok {
		d.failAt("", at, "is not UTF-8 text, or is a control character; save the file as UTF-8")
		return
	}
	documents := yaml.NewDecoder(bytes.NewReader(data))
	var first, second yaml.Node
	switch err := documents.Decode(&first); {
	case errors.Is(err, io.EOF): // nothing, or only comments
	case err != nil:
		d.syntax(err, data)
		return
	default:
		if err := documents.Decode(&second); err == nil {
			d.failAt("", place{second.Line, second.Column}, "is a second document; a configuration is one, so remove the --- before it")
		} else if !errors.Is(err, io.EOF) {
			d.syntax(err, data)
		}
		d.mapping(d.resolve("", place{first.Line, first.Column}, first.Content[0]), d.rules, laterSections)
	}
	d.check()
}

// err returns what was found, or nil.
func (d *decoder) err() error {
	slices.SortStableFunc(d.warnings, func(a, b Warning) int { return comparePlaces(Problem(a), Problem(b)) })
	if len(d.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(d.problems, comparePlaces)
	return &ConfigError{Problems: d.problems}
}

func (d *decoder) failAt(key string, at place, message string) {
	if len(d.problems) < maxProblems {
		d.problems = append(d.problems, Problem{File: d.file, Line: at.line, Column: at.column, Key: key, Message: message})
	}
}

func (d *decoder) fail(v value, format string, args ...any) {
	d.failAt(v.key, v.at, fmt.Sprintf(format, args...))
}

func (d *decoder) warn(v value, message string) {
	d.warnings = append(d.warnings, Warning{File: d.file, Line: v.at.line, Column: v.at.column, Key: v.key, Message: message})
}

// section is a map that may be left empty: its keys then have their defaults.
// Keys that a later version will have are named in later, so that a file
// written for that version is told so.
func (d *decoder) section(keys rules, later ...string) rule {
	return rule{keys: keys, set: func(v value) {
		if !v.null() {
			d.mapping(v, keys, later)
		}
	}}
}

// mapping gives each value in v to the rule of its key.
func (d *decoder) mapping(v value, keys rules, later []string) {
	if v.key == "" && v.null() {
		return
	}
	d.pairs(v, shownKey, func(name string, child value) {
		rule, known := keys[name]
		switch {
		case known:
			d.places[child.key] = child.at
			rule.set(child)
		case name == "<<":
			d.fail(v, "has a merge key (<<), which is not taken; write the keys out")
		case slices.Contains(later, name):
			d.fail(child, "this version does not have it; remove it")
		default:
			d.fail(child, "unknown key%s", d.suggestKey(name, keys))
		}
	})
}

// pairs calls each for the keys of v, each once. Messages name a key as show
// returns it.
func (d *decoder) pairs(v value, show func(string) string, each func(name string, child value)) {
	if v.node.Kind != yaml.MappingNode {
		d.fail(v, "must be a map, not %s", v.kind())
		return
	}
	lines := map[string]int{}
	for i := 0; i+1 < len(v.node.Content) && len(d.problems) < maxProblems; i += 2 {
		k := v.node.Content[i]
		at := place{k.Line, k.Column}
		if k.Kind != yaml.ScalarNode {
			d.failAt(v.key, at, "has a key that is not a plain word")
			continue
		}
		child := d.resolve(joinKey(v.key, show(k.Value)), at, v.node.Content[i+1])
		if child.node == nil {
			return
		}
		if line, twice := lines[k.Value]; twice {
			d.fail(child, "is given twice; the first is on line %d", line)
			continue
		}
		lines[k.Value] = k.Line
		each(k.Value, child)
	}
}

// items calls each for the values of a list; nothing at all is an empty one.
func (d *decoder) items(v value, want string, each func(value)) {
	if v.null() {
		return
	}
	if v.node.Kind != yaml.SequenceNode {
		d.fail(v, "must be a list such as %s, not %s", want, v.kind())
		return
	}
	for i, n := range v.node.Content {
		child := d.resolve(indexed(v.key, i), place{n.Line, n.Column}, n)
		if child.node == nil || len(d.problems) >= maxProblems {
			return
		}
		d.places[child.key] = child.at
		each(child)
	}
}

// resolve follows an alias. The value has no node if there are too many.
func (d *decoder) resolve(key string, at place, n *yaml.Node) value {
	if d.visited++; d.visited > maxVisited {
		if d.visited == maxVisited+1 {
			d.failAt("", at, fmt.Sprintf("has more than %d values, each alias counted anew", maxVisited))
		}
		return value{}
	}
	// The parser lets an alias name only an anchor, never another alias.
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return value{node: n, key: key, at: at}
}

func (v value) null() bool {
	return v.node.Kind == yaml.ScalarNode && v.node.ShortTag() == "!!null"
}

func (v value) kind() string {
	switch v.node.Kind {
	case yaml.MappingNode:
		return "a map"
	case yaml.SequenceNode:
		return "a list"
	}
	switch v.node.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!int", "!!float":
		return "a number"
	case "!!bool":
		return "true or false"
	}
	return "a string"
}

// suggestKey looks among the neighbours, then in the whole configuration: a
// wrong indent puts a right key in a wrong place.
func (d *decoder) suggestKey(name string, keys rules) string {
	if s := didYouMean(name, slices.Collect(maps.Keys(keys))); s != "" {
		return s
	}
	if elsewhere := pathsTo(name, "", d.rules); len(elsewhere) > 0 {
		slices.Sort(elsewhere)
		return "; did you mean " + strings.Join(elsewhere, " or ") + "?"
	}
	return "; known here: " + sentence(slices.Sorted(maps.Keys(keys)))
}

// pathsTo returns the full paths of the keys called name.
func pathsTo(name, path string, keys rules) []string {
	var paths []string
	for key, r := range keys {
		if key == name {
			paths = append(paths, joinKey(path, key))
		}
		paths = append(paths, pathsTo(name, joinKey(path, key), r.keys)...)
	}
	return paths
}

func joinKey(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func indexed(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

var plainKey = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

// shownKey is a key of the file as a message may show it: what is no plain word
// may be a misplaced secret, and would break the line.
func shownKey(name string) string {
	if plainKey.MatchString(name) && !looksSecret(name) {
		return name
	}
	return "?"
}

var (
	syntaxError   = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)
	unknownAnchor = regexp.MustCompile(`(?s)^yaml: unknown anchor '(.*)' referenced$`)
)

// parserProblem marks the errors in which the library counts lines from 0; in
// those of its scanner it counts from 1.
var parserProblem = regexp.MustCompile(`^(did not find expected (',' or|key|'-' indicator|node content|<)|found undefined tag|found duplicate %|found incompatible)`)

// syntax reports what the parser could not read. It quotes only names of
// anchors, and these are left out: an unquoted password may begin with a *.
func (d *decoder) syntax(err error, data []byte) {
	if m := unknownAnchor.FindStringSubmatch(err.Error()); m != nil {
		before, _, _ := bytes.Cut(data, []byte("*"+m[1]))
		d.failAt("", endOf(before), "is an alias that names no anchor; put a value that begins with * in quotes")
		return
	}
	m := syntaxError.FindStringSubmatch(err.Error())
	if m == nil {
		d.failAt("", place{}, "is not YAML")
		return
	}
	line, _ := strconv.Atoi(m[1]) // absent: the first
	if line == 0 || parserProblem.MatchString(m[2]) {
		line++
	}
	hint := "look for a wrong indent or a missing quote, here and above"
	if strings.Contains(m[2], "cannot start any token") {
		hint = "indent with spaces, not tabs; quote a value that begins with @, ` or %"
	}
	d.failAt("", place{line: line}, "is not YAML: "+m[2]+" ("+hint+")")
}

// firstInvalid returns where data stops being text in UTF-8.
func firstInvalid(data []byte) (place, bool) {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 || unicode.IsControl(r) && !strings.ContainsRune("\t\n\r\u0085", r) {
			return endOf(data[:i]), false
		}
		i += size
	}
	return place{}, true
}

// endOf returns the place of the character after text.
func endOf(text []byte) place {
	line := bytes.Count(text, []byte("\n"))
	return place{line + 1, utf8.RuneCount(text[bytes.LastIndexByte(text, '\n')+1:]) + 1}
}
