package httpapi

import (
	"net/http"
	"testing"
)

func TestPreferencesAreReadAsTheRFCWritesThem(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		values []string
		want   bool
	}{
		{nil, false},
		{[]string{""}, false},
		{[]string{"respond-async"}, true},
		{[]string{"Respond-Async"}, true},
		{[]string{" respond-async\t"}, true},
		{[]string{"respond-async, wait=10"}, true},
		{[]string{"wait=10,respond-async;x=y"}, true},
		{[]string{"wait=10", "respond-async"}, true},
		{[]string{",, respond-async ,"}, true},
		{[]string{`foo="a, b", respond-async`}, true},
		{[]string{`foo="a\", b", respond-async`}, true},
		{[]string{`foo; bar="x", respond-async = ""`}, true},
		{[]string{"respond-asynchronously"}, false},
		{[]string{"respond"}, false},
		{[]string{"respond-async-not, x"}, false},
		{[]string{"mode=respond-async"}, false},
		{[]string{"mode; respond-async"}, false},
		{[]string{`foo=", respond-async,"`}, false},
		{[]string{`foo="\", respond-async,"`}, false},
		{[]string{`foo="open, respond-async`}, false},
		{[]string{`foo="\`}, false},
	} {
		if got := prefersAsync(http.Header{"Prefer": c.values}); got != c.want {
			t.Errorf("%q: %v", c.values, got)
		}
	}
}
