package gateway

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// ConfigError is all that is wrong with a configuration, sorted by place.
type ConfigError struct{ Problems []Problem }

// maxProblemsShown: one wrong indent can make a problem of each line below it.
const maxProblemsShown = 20

// Error gives one problem a line, the first twenty of them.
func (e *ConfigError) Error() string {
	var b strings.Builder
	for i, p := range e.Problems {
		if i > 0 {
			b.WriteByte('\n')
		}
		if rest := len(e.Problems) - i; i == maxProblemsShown {
			fmt.Fprintf(&b, "and %d more", rest)
			break
		}
		b.WriteString(p.String())
	}
	return b.String()
}

// Problem is one thing that is wrong, and what would be right.
type Problem struct {
	File    string
	Line    int    // from 1; 0: nowhere in the file
	Column  int    // from 1; 0: not known
	Key     string // as in upstream.stall_timeout or auth.keys[2].id; may be empty
	Message string
}

// String is file:line:column: key: message, without what is not known.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
		if p.Column > 0 {
			fmt.Fprintf(&b, ":%d", p.Column)
		}
	}
	if p.Key != "" {
		b.WriteString(": " + p.Key)
	}
	b.WriteString(": " + p.Message)
	return b.String()
}

// Warning is something that works, and that its author should know about.
type Warning Problem

// String is as Problem's.
func (w Warning) String() string { return Problem(w).String() }

func comparePlaces(a, b Problem) int {
	return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
}

// nearest returns the candidate that a person most likely meant by word, or "".
func nearest(word string, candidates []string) string {
	plain := func(s string) string {
		return strings.ToLower(strings.NewReplacer("-", "", "_", "", " ", "").Replace(s))
	}
	// Only as far as a slip of the hand reaches: in short words two changes
	// make another word. Longer than any key is no slip, and costs time.
	if len(word) > 64 {
		return ""
	}
	best, distance := "", 1+min(2, len(plain(word))/3)
	for _, c := range slices.Sorted(slices.Values(candidates)) {
		d := editDistance(plain(word), plain(c))
		if len(c) > 3 && strings.HasPrefix(plain(word), plain(c)) {
			d = min(d, 1) // warning for warn
		}
		if d < distance {
			best, distance = c, d
		}
	}
	return best
}

// editDistance counts the insertions, deletions and substitutions that turn a
// into b (Levenshtein), a row of the matrix at a time.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// didYouMean is the end of a message about an unknown word, or "".
func didYouMean(word string, candidates []string) string {
	if n := nearest(word, candidates); n != "" {
		return "; did you mean " + n + "?"
	}
	return ""
}

// sentence joins words as a sentence does: a, b and c.
func sentence(words []string) string {
	switch n := len(words); n {
	case 0:
		return "none"
	case 1:
		return words[0]
	default:
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
}
