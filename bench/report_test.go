package main

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"testing"
)

// lines are results as a comparison writes them.
func lines(t *testing.T, some ...result) *results {
	t.Helper()
	var text strings.Builder
	text.WriteString(`{"comparison":"2026-11-22T10:00:00Z","sluice":"sluice 1.0","nginx":"nginx/1.22.1","go":"go1.26","cpu":"CPU","cpus":2,"kernel":"6.1"}` + "\n")
	for _, r := range some {
		line, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "%s\n", line)
	}
	all, err := readResults(strings.NewReader(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func cpu(comparison string, round int, task, relay string, us float64) result {
	return result{Comparison: comparison, Round: round, Task: task, figures: figures{Label: relay, Streams: 1000, CPUPerEvent: us, RSSPeakMB: us}}
}

// A machine that is slower in one round is so for both.
func TestRatioIsThatOfRoundsSideBySide(t *testing.T) {
	t.Parallel()
	all := lines(t,
		cpu("a", 1, "relay", "nginx", 10), cpu("a", 1, "relay", "sluice", 9),
		cpu("a", 2, "relay", "sluice", 18), cpu("a", 2, "relay", "nginx", 20),
		cpu("b", 1, "relay", "nginx", 100), cpu("b", 1, "relay", "sluice", 90),
		cpu("b", 2, "relay", "sluice", 5)) // beside nobody
	s := series{"relay", false, "sluice"}
	if got, _ := all.ratio(s, s.with("nginx"), cpuPerEvent); got != .9 {
		t.Errorf("the ratio is %v, want 0.9", got)
	}
	if got, _ := all.median(s, cpuPerEvent); got != 13.5 {
		t.Errorf("the median is %v, want 13.5", got)
	}
	if got, _ := all.median(s.with("nginx"), cpuPerEvent); got != 20 {
		t.Errorf("the median of nginx is %v, want 20", got)
	}
	if _, ok := all.median(series{"relay", true, "sluice"}, cpuPerEvent); ok {
		t.Error("there is a median of nothing")
	}
}

func TestReportShowsWhatWasMeasured(t *testing.T) {
	t.Parallel()
	broken := cpu("a", 1, "relay", "proxy", 30)
	broken.Failed = 7
	all := lines(t, cpu("a", 1, "relay", "nginx", 10), broken, cpu("a", 1, "relay", "sluice", 8))
	var b strings.Builder
	all.report(&b)
	for _, want := range []string{
		"| work | upstream |  | nginx | ReverseProxy | Sluice | Sluice by nginx, nchan |", // no column for who did not take part
		"| 1,000 streams × 20 events/s | plain | CPU, µs an event | 10.0 | 30.0 | 8.0 | **0.80** |",
		"ReverseProxy: of 1,000 streams and viewers 7 failed; 0 events were lost or repeated, over 0 reconnects.",
		"2 × CPU, Linux 6.1, nginx/1.22.1, go1.26, sluice 1.0; 2026-11-22.",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing in\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "nchan:") || strings.Contains(b.String(), "Slow readers") {
		t.Errorf("it tells what was not measured:\n%s", b.String())
	}
}

func TestThousandsHaveCommas(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{0: "0", 999: "999", 1000: "1,000", -1000: "-1,000", 1234567: "1,234,567"} {
		if got := thousands(v, 0); got != want {
			t.Errorf("%v is written %q, want %q", v, got, want)
		}
	}
	if got := thousands(1234.567, 1); got != "1,234.6" {
		t.Errorf("%q", got)
	}
}

func TestLineThatIsNoResultIsNamed(t *testing.T) {
	t.Parallel()
	_, err := readResults(strings.NewReader("{\"task\":\"relay\"}\nhello\n"))
	if err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("%v", err)
	}
}

func TestPlotIsWellFormed(t *testing.T) {
	t.Parallel()
	var some []result
	for i, n := range growth {
		some = append(some, cpu("a", 1, fmt.Sprint("growth-", n), "sluice", float64(20+i)), cpu("a", 1, fmt.Sprint("growth-", n), "nginx", 0.07))
	}
	for name, all := range map[string]*results{"nothing": lines(t), "one point": lines(t, some[0]), "one side": lines(t, some...)} {
		d := xml.NewDecoder(strings.NewReader(all.plot()))
		points := 0
		for {
			token, err := d.Token()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			e, ok := token.(xml.StartElement)
			if ok && e.Name.Local == "circle" {
				points++
			}
			for _, a := range e.Attr {
				if strings.Contains(a.Value, "NaN") || strings.Contains(a.Value, "Inf") {
					t.Errorf("%s: %s", name, a.Value)
				}
			}
		}
		if want := map[string]int{"nothing": 0, "one point": 2, "one side": 16}[name]; points != want {
			t.Errorf("%s: %d points, want %d", name, points, want)
		}
	}
}
