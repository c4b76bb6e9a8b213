package relay

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"sluice/gateway/claude"
)

func logOf(n int) *eventLog {
	l := new(eventLog)
	for range n {
		l.append(claude.Other, nil, []byte("x"), time.Time{})
	}
	return l
}

func TestACursorIsAnIdOfThisLogOrStartsOver(t *testing.T) {
	l := logOf(12)
	for _, c := range []struct {
		cursor  string
		attempt int
		next    int
		reason  string
	}{
		{"1", 1, 1, ""},
		{"9", 1, 9, ""},
		{"12", 1, 12, ""},
		{"13", 1, 0, UnknownCursor},
		{"999999999", 1, 0, UnknownCursor},
		{"4294967297", 1, 0, UnknownCursor}, // 1, if it wrapped
		{"18446744073709551617", 1, 0, UnknownCursor},
		{strings.Repeat("9", 30), 1, 0, UnknownCursor},
		{strings.Repeat("0", 30) + "1", 1, 0, UnknownCursor},
		{"0", 1, 0, UnknownCursor},
		{"-1", 1, 0, UnknownCursor},
		{"+1", 1, 0, UnknownCursor},
		{" 1", 1, 0, UnknownCursor},
		{"1 ", 1, 0, UnknownCursor},
		{"1\n", 1, 0, UnknownCursor},
		{"01", 1, 0, UnknownCursor},
		{"1e1", 1, 0, UnknownCursor},
		{"1e3", 1, 0, UnknownCursor},
		{"0x1", 1, 0, UnknownCursor},
		{"1_0", 1, 0, UnknownCursor},
		{"1,0", 1, 0, UnknownCursor},
		{"\x00", 1, 0, UnknownCursor},
		{"1\x00", 1, 0, UnknownCursor},
		{"a", 1, 0, UnknownCursor},
		{"lost", 1, 0, UnknownCursor},
		{"١", 1, 0, UnknownCursor}, // a digit to Unicode
		{"１", 1, 0, UnknownCursor},
		{"\xff", 1, 0, UnknownCursor},
		{".", 1, 0, UnknownCursor},
		{"1.", 1, 0, UnknownCursor},
		{".1", 1, 0, UnknownCursor},
		{"1.1", 1, 0, UnknownCursor}, // the first attempt's ids have no prefix
		{"0.1", 1, 0, UnknownCursor},
		{"2.1", 1, 0, UnknownCursor}, // an attempt that there has not been
		{"2.1", 2, 1, ""},
		{"2.12", 2, 12, ""},
		{"2.13", 2, 0, UnknownCursor},
		{"2.0", 2, 0, UnknownCursor},
		{"2.01", 2, 0, UnknownCursor},
		{"02.1", 2, 0, UnknownCursor},
		{"2.1.1", 2, 0, UnknownCursor},
		{"2.-1", 2, 0, UnknownCursor},
		{"3.1", 2, 0, UnknownCursor},
		{"1", 2, 0, NewAttempt},
		{"500", 2, 0, NewAttempt},
		{"2.1", 3, 0, NewAttempt},
		{"10.1", 10, 1, ""},
		{"9.1", 10, 0, NewAttempt}, // not compared as strings
	} {
		next, reason := l.locate(c.cursor, c.attempt)
		if next != c.next || reason != c.reason {
			t.Errorf("locate(%q, %d) = %d, %q; want %d, %q", c.cursor, c.attempt, next, reason, c.next, c.reason)
		}
	}
}

func TestAnEmptyLogKnowsNoCursor(t *testing.T) {
	for _, cursor := range []string{"0", "1", "2.1"} {
		if next, reason := logOf(0).locate(cursor, 1); next != 0 || reason != UnknownCursor {
			t.Errorf("locate(%q) = %d, %q", cursor, next, reason)
		}
	}
}

var idForm = regexp.MustCompile(`^([1-9][0-9]*\.)?[1-9][0-9]*$`)

func FuzzLastEventID(f *testing.F) {
	for _, cursor := range []string{"", "0", "1", "12", "13", "-1", "+1", " 1", "01", "1.1", "2.1", "2.12", "a", "1e3", "lost", "\x00", "١", strings.Repeat("9", 30)} {
		f.Add(cursor, uint8(12), uint8(1))
		f.Add(cursor, uint8(0), uint8(2))
	}
	logs := make([]*eventLog, 256)
	for n := range logs {
		logs[n] = logOf(n)
	}
	f.Fuzz(func(t *testing.T, cursor string, n, attempt uint8) {
		a := int(attempt%4) + 1
		next, reason := logs[n].locate(cursor, a)
		known := false
		for i := 1; i <= int(n) && !known; i++ {
			id := strconv.Itoa(i)
			if a > 1 {
				id = fmt.Sprintf("%d.%d", a, i)
			}
			if known = id == cursor; known && (next != i || reason != "") {
				t.Fatalf("locate(%q) = %d, %q", cursor, next, reason)
			}
		}
		switch {
		case known:
		case next != 0:
			t.Errorf("%q is no id of the log, yet at %d", cursor, next)
		case reason != UnknownCursor && reason != NewAttempt:
			t.Errorf("%q starts over because of %q", cursor, reason)
		case reason == NewAttempt && (a == 1 || !idForm.MatchString(cursor)):
			t.Errorf("%q is of no earlier attempt than %d", cursor, a)
		}
	})
}
