package relay

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sluice/gateway/claude"
	"sluice/gateway/limits"
	"sluice/gateway/simulator"
)

func tokens(model, kind, source string) string {
	return fmt.Sprintf("sluice_tokens_total{kind=%q,model=%q,source=%q}", kind, model, source)
}

func TestWhatWasReportedIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s, c := h.open()
		// message_delta's figures are cumulative: the last ones count, and are never added up.
		c.send(blockStop(0), messageDelta(7), messageDelta(42), messageStop())
		frames := read(t, s)
		want := map[string]float64{
			tokens(model, "input", Reported): 11, tokens(model, "output", Reported): 42,
			tokens(model, "cache_read", Reported): 3, tokens(model, "cache_write", Reported): 5,
			tokens(model, "output", Estimated): 0, outcome(Completed): 1,
		}
		h.want(want)
		if n := s.Snapshot(true); n.Source != Reported || n.Model != model || !json.Valid(n.Usage) || !json.Valid(n.Message) {
			t.Errorf("%+v", n)
		}
		// Whoever reads, cancels or deletes it later, it is counted once.
		for range 3 {
			read(t, s)
			s.Cancel()
		}
		h.Delete(s.Owner, s.ID)
		h.want(want)
		if len(frames) != 7 {
			t.Errorf("%d events", len(frames))
		}
	})
}

func TestTheSimulatedClaudesFiguresAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.answers(simulator.New(simulator.Options{Seed: 7}))
		sums := make(map[string]float64)
		for _, prompt := range []string{"short", "think", "tool", "long"} {
			body := fmt.Sprintf(`{"model":"claude-sonnet-5","max_tokens":4000,"stream":true,"messages":[{"role":"user","content":%q}]}`, prompt)
			s := h.start(func(p *Params) {
				p.Request.Body = []byte(body)
				p.Request.Header = map[string][]string{"Content-Type": {"application/json"}, "Anthropic-Version": {"2023-06-01"}}
			})
			<-s.Opened()
			if err := s.Commit(); err != nil {
				t.Fatal(err)
			}
			used := make(map[string]float64)
			name := ""
			for _, f := range read(t, s) {
				var e struct {
					Message struct {
						Model string
						Usage map[string]any
					}
					Usage map[string]any
				}
				json.Unmarshal([]byte(f.data), &e)
				name += e.Message.Model
				for _, usage := range []map[string]any{e.Message.Usage, e.Usage} {
					for key, kind := range map[string]string{"input_tokens": "input", "output_tokens": "output",
						"cache_read_input_tokens": "cache_read", "cache_creation_input_tokens": "cache_write"} {
						if n, ok := usage[key].(float64); ok {
							used[kind] = n
						}
					}
				}
			}
			if used["output"] == 0 || name == "" {
				t.Fatalf("%q says that %q used %v", prompt, name, used)
			}
			for kind, n := range used {
				sums[tokens(name, kind, Reported)] += n
			}
		}
		h.want(sums)
	})
}

func TestACutStreamIsEstimatedAndMarkedSo(t *testing.T) {
	text := strings.Repeat("word ", 80) // 400 bytes: 100 tokens, or 200 as the input of a tool
	for name, c := range map[string]struct {
		deltas []event
		output float64
	}{
		"text":                      {[]event{textDelta(text)}, 107},
		"thinking":                  {[]event{delta(0, "thinking_delta", text, "")}, 107},
		"the input of a tool":       {[]event{delta(0, "input_json_delta", text, "")}, 207},
		"the use of a tool":         {[]event{{name: "content_block_start", data: `{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"t","name":"f","input":{}}}`}}, 37},
		"many deltas":               {[]event{textDelta(text), textDelta(text), textDelta(text)}, 307},
		"a single byte":             {[]event{textDelta("x")}, 7},
		"bytes that are not UTF-8":  {[]event{textDelta(strings.Repeat("\xff", 400))}, 107},
		"a delta with further keys": {[]event{{name: "content_block_delta", data: `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"` + text + `","new":1}}`}}, 107},
		"data in several lines":     {[]event{{name: "content_block_delta", data: "{\"type\":\"content_block_delta\",\n\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"" + text + "\"}}"}}, 107},
		"nothing":                   {nil, 7},
	} {
		for how, status := range map[string]Status{"cut": Failed, "cancel": Canceled, "error": Failed} {
			t.Run(name+", "+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := newHouse(t)
					s, u := h.open() // a text with "Hello": 7 tokens
					u.send(c.deltas...)
					synctest.Wait()
					switch how {
					case "cut":
						u.cut()
					case "cancel":
						s.Cancel()
					default:
						u.send(overloaded())
					}
					<-s.Done()
					// Within the rounding of a token, and never without the bytes that were delivered.
					got := h.metric(tokens(model, "output", Estimated))
					if got < c.output-1 || got > c.output {
						t.Errorf("%v tokens, want %v", got, c.output)
					}
					var usage struct {
						Output float64 `json:"output_tokens"`
					}
					n := s.Snapshot(false)
					if err := json.Unmarshal(n.Usage, &usage); err != nil || n.Source != Estimated || usage.Output != got {
						t.Errorf("%v were counted, and the stream says %q %s", got, n.Source, n.Usage)
					}
					h.want(map[string]float64{tokens(model, "output", Reported): 0, tokens(model, "input", Estimated): 11,
						tokens(model, "cache_read", Estimated): 3, tokens(model, "cache_write", Estimated): 5, outcome(status): 1})
				})
			})
		}
	}
}

func TestACutStreamCountsAtLeastWhatWasReportedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.start()
		c := <-h.calls
		start := messageStart()
		start.data = strings.Replace(start.data, `"output_tokens":1`, `"output_tokens":62`, 1)
		c.send(start, textStart(0), textDelta("Hi"))
		<-s.Opened()
		synctest.Wait()
		c.cut()
		<-s.Done()
		h.want(map[string]float64{tokens(model, "output", Estimated): 62})
	})
}

func TestACutAfterTheFiguresCameIsAsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s, c := h.open()
		c.send(blockStop(0), messageDelta(42))
		synctest.Wait()
		c.finish()
		<-s.Done()
		if n := s.Snapshot(false); n.Status != Failed || n.Source != Reported {
			t.Errorf("%s, %s", n.Status, n.Source)
		}
		h.want(map[string]float64{tokens(model, "output", Reported): 42, outcome(Failed): 1})
	})
}

func TestAnAnswerThatIsNoStreamIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, func(s *setup) { s.plan = limits.Plan{TokensPerDay: 1000} })
		w := Whole{Account: "key:alice", Plan: plan, Route: "/v1/messages", Ask: limits.Request{Input: 100, MaxTokens: 100}, Created: time.Now()}
		for _, c := range []struct {
			answer string
			want   map[string]float64
		}{
			{`{"type":"message","model":"` + model + `","content":[],"usage":{"input_tokens":4,"output_tokens":9}}`,
				map[string]float64{tokens(model, "input", Reported): 4, tokens(model, "output", Reported): 9}},
			{`{"type":"message","model":"` + model + `","content":[{"type":"text","text":"` + strings.Repeat("word ", 80) + `"}]}`,
				map[string]float64{tokens(model, "output", Reported): 9, tokens(model, "output", Estimated): 105}},
			{`not JSON`, map[string]float64{tokens(model, "output", Reported): 9, tokens(model, "output", Estimated): 105}},
		} {
			g, err := h.Admit(w)
			if err != nil {
				t.Fatal(err)
			}
			h.Settle(g, w, "req_1", []byte(c.answer))
			g.Release()
			h.want(c.want)
		}
		used, left, err := h.limits.Look("key:alice", plan)
		want := limits.Tally{Answers: 3, Estimated: 2, Tokens: limits.Tokens{Input: 4, Output: 114}}
		if err != nil || used.Total != want || used.Today != want || left.Day.Used != 118 || h.limits.Open() != 0 {
			t.Errorf("%+v, %+v, %v", used, left, err)
		}
	})
}

func TestWhoHasSeenTheEndFindsItInTheAccounts(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.answers(simulator.Script{Body: []byte(wire(answer("x")...)), Chunks: simulator.PerEvent})
	for round := range 20 {
		s := h.start()
		var wg sync.WaitGroup
		for range 8 {
			v := attach(t, s, "", false)
			wg.Go(func() {
				follow(t, v)
				n := s.Snapshot(false)
				if !closed(s.Done()) || n.Status != Completed || n.Model != model || n.EndedAt.IsZero() {
					t.Errorf("the end was seen, and the stream is %+v", n)
				}
				if got := h.metric(tokens(model, "output", Reported)); got < 42*float64(round+1) {
					t.Errorf("%v tokens after %d streams", got, round+1)
				}
			})
		}
		wg.Wait()
	}
	h.want(map[string]float64{outcome(Completed): 20, tokens(model, "output", Reported): 42 * 20})
}

// brokenLog fails by a defect when a stream's end is recorded.
type brokenLog struct{ slog.Handler }

func (brokenLog) Enabled(context.Context, slog.Level) bool { return true }

func (brokenLog) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "stream ended" {
		panic("a defect")
	}
	return nil
}

// slowLog takes its time to record a stream's end.
type slowLog struct {
	slog.Handler
	recorded chan struct{}
}

func (slowLog) Enabled(context.Context, slog.Level) bool { return true }

func (l slowLog) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "stream ended" {
		<-l.recorded
	}
	return nil
}

func TestASnapshotThatShowsTheEndComesAfterTheAccounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := slowLog{recorded: make(chan struct{})}
		h := newHouse(t, func(s *setup) { s.log = log })
		s, c := h.open()
		c.send(closing()...)
		var n Snapshot
		seen := make(chan struct{})
		synctest.Wait()
		go func() {
			defer close(seen)
			n = s.Snapshot(false)
		}()
		synctest.Wait()
		if closed(seen) {
			t.Errorf("%s is seen before the record", n.Status)
		}
		close(log.recorded)
		<-seen
		if n.Status != Completed || !closed(s.Done()) {
			t.Errorf("after the record: %+v", n)
		}
	})
}

func TestAPanicInTheAccountsLeavesNothingOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, func(s *setup) { s.log = brokenLog{} })
		s, c := h.open()
		v := attach(t, s, "", true)
		c.send(closing()...)
		if frames := follow(t, v); len(frames) != 6 {
			t.Errorf("%d events", len(frames))
		}
		h.Drain(t.Context())
		h.Delete(s.Owner, s.ID)
		h.quiet()
	})
}

func TestASnapshotShowsTheMessageSoFar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.start()
		c := <-h.calls
		if n := s.Snapshot(true); n.Status != InProgress || string(n.Message) != "null" || string(n.Usage) != "null" || n.Source != Reported || !n.EndedAt.IsZero() || !n.ExpiresAt.IsZero() {
			t.Errorf("before the first event: %+v", n)
		}
		c.send(opening("Hel", "lo")...)
		<-s.Opened()
		synctest.Wait()
		n := s.Snapshot(true)
		var m struct{ Content []struct{ Text string } }
		if err := json.Unmarshal(n.Message, &m); err != nil || len(m.Content) != 1 || m.Content[0].Text != "Hello" || n.Model != model || n.Attempt != 1 {
			t.Errorf("so far: %s, %+v, %v", n.Message, n, err)
		}
		if short := s.Snapshot(false); short.Message != nil || string(short.Usage) != string(n.Usage) || short.Model != model {
			t.Errorf("without the message: %+v", short)
		}
		s.Cancel()
		if n := s.Snapshot(true); n.Failure == nil || n.Failure.Type != claude.Canceled {
			t.Errorf("%+v", n)
		}
	})
}

func TestACutAfterAMessageDeltaWithoutFiguresIsEstimated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.start()
		c := <-h.calls
		start := event{name: "message_start", data: `{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-test-1","content":[]}}`}
		c.send(start, textStart(0), textDelta(strings.Repeat("word ", 80)), blockStop(0), event{name: "message_delta", data: `{"type":"message_delta","delta":{"stop_reason":"end_turn"}}`})
		<-s.Opened()
		synctest.Wait()
		c.cut()
		<-s.Done()
		n := s.Snapshot(false)
		if got := h.metric(tokens(model, "output", Estimated)); got == 0 {
			t.Errorf("400 bytes were delivered; %s; estimated %v, reported %v", n.Source, got, h.metric(tokens(model, "output", Reported)))
		}
	})
}
