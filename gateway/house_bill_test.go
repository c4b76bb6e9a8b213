package gateway_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strings"
	"sync"
	"testing"

	"sluice/gateway"
	"sluice/gateway/limits"
	"sluice/gateway/simulator"
)

// figures are an answer's tokens as an account has them.
type figures struct{ Input, Output, CacheRead, CacheWrite int64 }

func (f figures) add(g figures) figures {
	return figures{f.Input + g.Input, f.Output + g.Output, f.CacheRead + g.CacheRead, f.CacheWrite + g.CacheWrite}
}

// told reads by itself what events say of their tokens, the last word of each kind; final is whether it is the
// upstream's last word, and made whether any output came.
func told(t testing.TB, events []event) (f figures, final, made bool) {
	t.Helper()
	type usage struct {
		Input      *int64 `json:"input_tokens"`
		Output     *int64 `json:"output_tokens"`
		CacheRead  *int64 `json:"cache_read_input_tokens"`
		CacheWrite *int64 `json:"cache_creation_input_tokens"`
	}
	take := func(u usage, into *figures) {
		for _, k := range []struct{ from, to *int64 }{{u.Input, &into.Input}, {u.Output, &into.Output}, {u.CacheRead, &into.CacheRead}, {u.CacheWrite, &into.CacheWrite}} {
			if k.from != nil {
				*k.to = *k.from
			}
		}
	}
	var all figures
	for _, e := range events {
		var d struct {
			Message struct {
				StopReason *string `json:"stop_reason"`
				Usage      usage
			}
			Usage struct {
				usage
				Iterations []usage
			}
			Block struct{ Type, Text string } `json:"content_block"`
			Delta struct{ Text, Thinking, Content string }
		}
		_ = json.Unmarshal([]byte(e.data), &d)
		switch e.name {
		case "message_start":
			take(d.Message.Usage, &f)
			final = d.Message.StopReason != nil
		case "message_delta":
			take(d.Usage.usage, &f)
			final = final || d.Usage.Output != nil
			if len(d.Usage.Iterations) > 0 {
				all = figures{}
			}
			for _, i := range d.Usage.Iterations {
				var one figures
				take(i, &one)
				all = all.add(one)
			}
		case "content_block_start":
			made = made || strings.HasSuffix(d.Block.Type, "tool_use") || d.Block.Text != ""
		case "content_block_delta":
			made = made || d.Delta.Text+d.Delta.Thinking+d.Delta.Content != ""
		}
	}
	f = figures{max(f.Input, all.Input), max(f.Output, all.Output), max(f.CacheRead, all.CacheRead), max(f.CacheWrite, all.CacheWrite)}
	return f, final, made
}

// record is the log's record of an answer.
type record struct {
	Msg, Stream, Owner, Plan, Route, Model, Outcome string
	Source                                          string `json:"usage_source"`
	Input                                           int64  `json:"input_tokens"`
	Output                                          int64  `json:"output_tokens"`
	CacheRead                                       int64  `json:"cache_read_tokens"`
	CacheWrite                                      int64  `json:"cache_write_tokens"`
}

func (r record) figures() figures { return figures{r.Input, r.Output, r.CacheRead, r.CacheWrite} }

// records reads them by their streams. There is one for each.
func (h *house) records() map[string]record {
	h.t.Helper()
	all := make(map[string]record)
	for line := range strings.Lines(h.log.String()) {
		var r record
		if !strings.Contains(line, `"msg":"stream ended"`) {
			continue
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			h.t.Fatalf("%v: %s", err, line)
		}
		if _, twice := all[r.Stream]; twice {
			h.t.Errorf("%s is in the records twice", r.Stream)
		}
		all[r.Stream] = r
	}
	return all
}

// TestTheBillIsWhatWasReportedOrAnEstimateWithinItsBound sends each recorded stream whole, and cut off after each of its
// events.
func TestTheBillIsWhatWasReportedOrAnEstimateWithinItsBound(t *testing.T) {
	t.Parallel()
	awayFromMidnight()
	type job struct {
		fixture
		cut    int // events that are sent; -1: all, as recorded
		key    string
		stream string // the answer's id
		source string
	}
	scripts := shelf{}
	var jobs []*job
	for _, f := range loadFixtures(t) {
		script := simulator.Script{Body: f.wire, Header: http.Header{}}
		if f.gzip {
			script.Header.Set("Content-Encoding", "gzip")
		}
		scripts[f.name] = script
		jobs = append(jobs, &job{fixture: f, cut: -1, key: f.name})
		if f.gzip || f.events[0].name == "error" {
			continue
		}
		var body bytes.Buffer
		for i, e := range f.events[:len(f.events)-1] {
			fmt.Fprintf(&body, "event: %s\n", e.name)
			for line := range strings.SplitSeq(e.data, "\n") {
				fmt.Fprintf(&body, "data: %s\n", line)
			}
			body.WriteByte('\n')
			key := fmt.Sprint(f.name, " cut after ", i+1)
			scripts[key] = simulator.Script{Body: bytes.Clone(body.Bytes()), Ending: simulator.Ending(i % 2)} // cleanly, or broken off
			jobs = append(jobs, &job{fixture: f, cut: i + 1, key: key})
		}
	}
	h := openHouse(t, scripts, func(c *gateway.Config) {
		c.Plans["default"] = limits.Plan{InputTokensPerMinute: 1e9, OutputTokensPerMinute: 1e9, TokensPerDay: 1e9}
	})
	work := make(chan *job)
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for j := range work {
				resp := h.request("POST", h.url+"/v1/messages", ask("fixture"), "user-agent", j.key)
				if j.stream = resp.Header.Get("Sluice-Stream-Id"); j.stream == "" { // refused
					resp.Body.Close()
					continue
				}
				newReading(t, resp).rest()
				var o object
				a := h.do("GET", "/v1/streams/"+j.stream, "")
				a.into(&o)
				j.source = o.UsageSource
				h.do("DELETE", "/v1/streams/"+j.stream, "")
			}
		})
	}
	for _, j := range jobs {
		work <- j
	}
	close(work)
	readers.Wait()
	if t.Failed() {
		return
	}

	records, answers, estimated := h.records(), int64(0), int64(0)
	var sum figures
	var counted int64
	var before record // of the same file, cut earlier
	for _, j := range jobs {
		if j.stream == "" {
			if j.events[0].name != "error" {
				t.Errorf("%s: refused", j.key)
			}
			continue
		}
		r, ok := records[j.stream]
		if !ok || r.Source != j.source {
			t.Errorf("%s: the record is %+v, the stream says %s", j.key, r, j.source)
			continue
		}
		events := j.events
		if j.cut > 0 {
			events = events[:j.cut]
		}
		want, final, made := told(t, events)
		switch got := r.figures(); {
		case final:
			if r.Source != "reported" || got != want {
				t.Errorf("%s: %s %+v, reported was %+v", j.key, r.Source, got, want)
			}
		default:
			if r.Source != "estimated" && (made || r.Outcome != "completed") {
				t.Errorf("%s: %s", j.key, r.Source)
			}
			if got.Input != want.Input || got.CacheRead != want.CacheRead || got.CacheWrite != want.CacheWrite || got.Output < want.Output {
				t.Errorf("%s: estimated %+v, reported before was %+v", j.key, got, want)
			}
			if made && got.Output == 0 {
				t.Errorf("%s: output was delivered and not counted", j.key)
			}
			if j.cut > 1 && got.Output < before.Output {
				t.Errorf("%s: %d tokens, after an event less %d", j.key, got.Output, before.Output)
			}
			// All has come but the figures.
			whole, _, _ := told(t, j.fixture.events)
			if recorded := strings.HasPrefix(j.name, "recorded/"); recorded && j.cut > 0 && j.fixture.events[j.cut].name == "message_delta" && (got.Output < whole.Output/2 || got.Output > 2*whole.Output) {
				t.Errorf("%s: estimated %d, reported is %d", j.key, got.Output, whole.Output)
			}
		}
		before = r
		answers++
		if r.Source == "estimated" {
			estimated++
		}
		sum = sum.add(r.figures())
		const most = 50_000_000 // of one answer, for the limits; edge_big_numbers says that it has more
		counted += min(r.Input, most) + min(r.CacheWrite, most) + min(r.Output, most)
	}
	t.Logf("%d answers, %d estimated, %+v", answers, estimated, sum)
	if answers < 500 || estimated < 400 {
		t.Errorf("%d answers, %d estimated", answers, estimated)
	}
	// The owner's sums are the records' sums: nothing is missing and nothing is in twice.
	var mine ownersUsage
	for _, u := range h.used().Data {
		if u.Owner == "key:alice" {
			mine = u
		}
	}
	if want := (usageSum{Answers: answers, Estimated: estimated, Input: sum.Input, Output: sum.Output, CacheRead: sum.CacheRead, CacheCreate: sum.CacheWrite}); mine.Total != want || mine.Today != want || mine.Reserved != 0 || mine.Open != 0 {
		t.Errorf("GET /usage has %+v, the records %+v", mine, want)
	}
	if day := h.windows()["tokens_per_day"]; day.Used != counted {
		t.Errorf("%d tokens of the day are used, the records have %d", day.Used, counted)
	}
	// So are the counters', but for the model whose figures no float can hold.
	series := h.scrape()
	for kind, want := range map[string]int64{"input": sum.Input, "cache_read": sum.CacheRead, "cache_write": sum.CacheWrite} {
		var got float64
		for name, v := range series {
			if strings.HasPrefix(name, "sluice_tokens_total{") && strings.Contains(name, `kind="`+kind+`"`) {
				got += v
			}
		}
		if got != float64(want) {
			t.Errorf("sluice_tokens_total has %v of %s, the records %d", got, kind, want)
		}
	}
	if sum.Output < 9007199254740993 || sum.Output > math.MaxInt64/2 {
		t.Errorf("%d", sum.Output)
	}
}
