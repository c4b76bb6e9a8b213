package relay

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sluice/gateway/claude"
	"sluice/gateway/limits"
)

// everything is a plan with all limits of tokens, none of which is near.
var everything = limits.Plan{InputTokensPerMinute: 10_000, OutputTokensPerMinute: 20_000, TokensPerDay: 100_000}

// asking makes a request for so much.
func asking(r limits.Request) func(*Params) { return func(p *Params) { p.Ask = r } }

// look is what alice has used and has left.
func (h *house) look() (limits.Usage, limits.Windows) {
	h.t.Helper()
	used, left, err := h.limits.Look("key:alice", plan)
	if err != nil {
		h.t.Fatal(err)
	}
	return used, left
}

// billed fails the test unless alice's windows hold exactly what the stream has used, and nothing is reserved.
func (h *house) billed(s *Stream) {
	h.t.Helper()
	n := s.Snapshot(false)
	var m claude.Message
	m.Add(claude.MessageStart, []byte(`{"type":"message_start","message":{"usage":`+string(n.Usage)+`}}`))
	u := m.Usage()
	used, left := h.look()
	want := limits.Tally{Answers: 1, Tokens: tokensOf(u)}
	if n.Source == Estimated {
		want.Estimated = 1
	}
	if used.Total != want || used.Today != want || used.Reserved != 0 || used.Open != 0 {
		h.t.Errorf("accounted %+v, want %+v", used, want)
	}
	if left.Input.Used != u.Input+u.CacheWrite || left.Output.Used != u.Output || left.Day.Used != left.Input.Used+left.Output.Used {
		h.t.Errorf("%+v are taken for %+v", left, u)
	}
}

func TestReservationsComeBackWhicheverWayAStreamEnds(t *testing.T) {
	for name, e := range endings() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t, func(s *setup) {
					if e.setup != nil {
						e.setup(s)
					}
					s.plan = everything
				})
				s, c := h.open(asking(limits.Request{Input: 500, MaxTokens: 5000}), func(p *Params) {
					if e.params != nil {
						e.params(p)
					}
				})
				used, left := h.look()
				// Of the input what the upstream says, of the day's output a piece.
				if used.Open != 1 || left.Input.Used != 16 || left.Output.Used != 5000 || left.Day.Used != 1016 {
					t.Errorf("open: %+v, %+v", used, left)
				}
				begun := time.Now()
				e.do(h, s, c)
				<-s.Done()
				if time.Since(begun) == 0 { // else the minute's tokens have begun to return
					h.billed(s)
				}
				if used, _ := h.look(); used.Reserved != 0 || used.Open != 0 || used.Total.Answers != 1 {
					t.Errorf("ended: %+v", used)
				}
				pass(time.Minute)
				h.Delete(s.Owner, s.ID)
				h.quiet()
			})
		})
	}
}

func TestARefusedStreamGivesAllTokensBack(t *testing.T) {
	for name, do := range map[string]func(*house, *Stream){
		"429":         func(h *house, s *Stream) {},
		"529":         func(h *house, s *Stream) {},
		"400":         func(h *house, s *Stream) {},
		"canceled":    func(h *house, s *Stream) { <-h.calls; s.Cancel() },
		"stopped":     func(h *house, s *Stream) { <-h.calls; stop(h) },
		"cut":         func(h *house, s *Stream) { (<-h.calls).cut() },
		"error first": func(h *house, s *Stream) { (<-h.calls).send(overloaded()) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := everything
				p.RequestsPerMinute = 60
				h := newHouse(t, func(s *setup) { s.plan = p })
				var code int
				if n, _ := fmt.Sscan(name, &code); n == 1 {
					h.answers(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", code) }))
				}
				s := h.start(asking(limits.Request{Input: 500, MaxTokens: 5000}))
				do(h, s)
				<-s.Done()
				used, left := h.look()
				if used.Open != 0 || used.Reserved != 0 || used.Total.Answers != 0 || left.Input.Used != 0 || left.Output.Used != 0 || left.Day.Used != 0 || left.Requests.Used != 1 {
					t.Errorf("%+v, %+v", used, left)
				}
			})
		})
	}
}

func TestAStreamThatOutrunsItsDayIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, func(s *setup) { s.plan.TokensPerDay = 3016 })
		s := h.start(asking(limits.Request{Input: 500, MaxTokens: 64_000}))
		c := <-h.calls
		piece := textDelta(strings.Repeat("x", 40)) // 10 tokens
		c.send(messageStart(), textStart(0))
		<-s.Opened()
		v := attach(t, s, "", true)
		go func() {
			for range 400 {
				c.send(piece)
			}
		}()
		frames := follow(t, v)
		<-c.left
		last := frames[len(frames)-1]
		kind, message, ok := claude.ParseError([]byte(last.data))
		if !ok || last.name != "error" || kind != claude.RateLimit || !strings.Contains(message, "tokens_per_day") || !strings.Contains(last.data, `"request_id":"req_upstream"`) {
			t.Errorf("the end is %+v", last)
		}
		// 3,000 tokens are left to the output: 5 for its block and 299 pieces are below, one more is not.
		if deltas := len(frames) - 3; deltas != 300 {
			t.Errorf("%d pieces of 10 tokens were delivered", deltas)
		}
		n := s.Snapshot(false)
		used, left := h.look()
		if n.Status != Failed || n.Source != Estimated || n.Failure.Status != 429 || used.Total.Tokens.Output != 3005 || left.Day.Remaining != 0 || used.Reserved != 0 {
			t.Errorf("%+v; %+v, %+v", n, used, left)
		}
		h.want(map[string]float64{`sluice_rate_limited_total{limit="tokens_per_day"}`: 1, outcome(Failed): 1, tokens(model, "output", Estimated): 3005})
		var exceeded *limits.Exceeded
		p := params()
		h.Reserve(int64(len(p.Request.Body)))
		if _, _, err := h.Start(p); err == nil || !asExceeded(err, &exceeded) || exceeded.Limit != limits.TokensPerDay {
			t.Errorf("the next: %v", err)
		}
		h.Delete(s.Owner, s.ID)
		h.quiet()
	})
}

func asExceeded(err error, e **limits.Exceeded) (ok bool) {
	*e, ok = err.(*limits.Exceeded)
	return ok
}

// TestStreamsTogetherDoNotPassTheDay lets 32 streams of one owner run at once until the day is used up.
func TestStreamsTogetherDoNotPassTheDay(t *testing.T) {
	t.Parallel()
	const streams, perDay, piece = 32, 200_000, 25
	h := newHouse(t, func(s *setup) { s.plan.TokensPerDay = perDay })
	text := textDelta(strings.Repeat("x", 4*piece))
	h.answers(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Write([]byte(wire(messageStart(), textStart(0))))
		for {
			if _, err := w.Write([]byte(text.wire())); err != nil {
				return
			}
			http.NewResponseController(w).Flush()
		}
	}))
	var wg sync.WaitGroup
	for range streams {
		s := h.start(asking(limits.Request{Input: 10, MaxTokens: 1_000_000}))
		wg.Go(func() {
			<-s.Done()
			if n := s.Snapshot(false); n.Failure == nil || n.Failure.Type != claude.RateLimit {
				t.Errorf("%s: %v", n.Status, n.Failure)
			}
		})
	}
	wg.Wait()
	used, left := h.look()
	// Each may be over by the event that took it there, and starts with the tokens of its block.
	if over := left.Day.Used - perDay; over < 0 || over > streams*piece || used.Total.Answers != streams || used.Reserved != 0 {
		t.Errorf("%d tokens of %d, %+v", left.Day.Used, perDay, used)
	}
}

func TestAnAnswerWithinItsMaxTokensIsNotCutByAnEstimate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, func(s *setup) { s.plan.TokensPerDay = 200 })
		s := h.start(asking(limits.Request{Input: 16, MaxTokens: 100}))
		c := <-h.calls
		c.send(opening(strings.Repeat("x", 760))...) // 195 tokens, were one to judge by bytes
		c.send(closing()...)
		<-s.Done()
		if n := s.Snapshot(false); n.Status != Completed || n.Source != Reported {
			t.Errorf("%+v", n)
		}
		h.usedToday(58)
	})
}

// usedToday fails the test unless so much of the day is used.
func (h *house) usedToday(tokens int64) {
	h.t.Helper()
	if used, left := h.look(); left.Day.Used != tokens || used.Reserved != 0 {
		h.t.Errorf("%d of the day are used, want %d; %+v", left.Day.Used, tokens, used)
	}
}

func TestAStreamGoesOnIntoTheNextDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // it begins at 00:00 UTC
		h := newHouse(t, func(s *setup) { s.plan.TokensPerDay = 3000 })
		pass(24*time.Hour - time.Minute)
		s := h.start(asking(limits.Request{Input: 16}))
		c := <-h.calls
		c.send(opening(strings.Repeat("x", 4*1900))...)
		<-s.Opened()
		pass(2 * time.Minute)
		c.send(textDelta(strings.Repeat("x", 4*500)))
		c.send(closing()...)
		<-s.Done()
		if n := s.Snapshot(false); n.Status != Completed {
			t.Errorf("%+v", n.Failure)
		}
		h.usedToday(58) // all on the day on which it ended
	})
}

func TestAStreamThatCannotBeMeasuredEndsAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, func(s *setup) { s.plan = everything })
		s, c := h.open(asking(limits.Request{Input: 500, MaxTokens: 5000}))
		s.mu.Lock()
		s.log.entries[0].size = 1 << 31 // a defect
		s.mu.Unlock()
		c.cut()
		<-s.Done()
		used, left := h.look()
		if used.Open != 0 || used.Reserved != 0 || left.Input.Used != 0 || left.Output.Used != 0 || left.Day.Used != 0 {
			t.Errorf("%+v, %+v", used, left)
		}
		h.Delete(s.Owner, s.ID)
		h.quiet()
	})
}

func TestARecordOfEachAnswerHasWhatABillNeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines bytes.Buffer
		h := newHouse(t, func(s *setup) {
			s.log = slog.NewJSONHandler(&lines, nil)
			s.plan = everything
		})
		begun := time.Now().UTC()
		s, c := h.open(asking(limits.Request{Input: 500}))
		pass(90 * time.Second)
		c.send(blockStop(0), event{name: "message_delta", data: `{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":42,"server_tool_use":{"web_search_requests":2}}}`}, messageStop())
		<-s.Done()
		w := Whole{Account: "key:alice", Plan: plan, Route: "/v1/messages", Created: time.Now()}
		g, err := h.Admit(w)
		if err != nil {
			t.Fatal(err)
		}
		h.Settle(g, w, "req_whole", []byte(`{"model":"`+model+`","content":[],"usage":{"input_tokens":4,"output_tokens":9}}`))
		type record struct {
			Msg, Stream, Route, Owner, Plan, Model, Outcome string
			RequestID                                       string    `json:"request_id"`
			Created                                         time.Time `json:"created_at"`
			Ended                                           time.Time `json:"ended_at"`
			Input                                           int64     `json:"input_tokens"`
			Output                                          int64     `json:"output_tokens"`
			CacheRead                                       int64     `json:"cache_read_tokens"`
			CacheWrite                                      int64     `json:"cache_write_tokens"`
			Source                                          string    `json:"usage_source"`
			Usage                                           json.RawMessage
		}
		var got []record
		for line := range strings.Lines(lines.String()) {
			var r record
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			if strings.Contains(line, "output_tokens") {
				got = append(got, r)
			}
		}
		ended := begun.Add(90 * time.Second)
		want := []record{
			{"stream ended", s.ID, "/v1/streams", "key:alice", plan, model, "completed", "req_upstream", begun, ended, 11, 42, 3, 5, "reported",
				json.RawMessage(`{"input_tokens":11,"cache_read_input_tokens":3,"cache_creation_input_tokens":5,"output_tokens":42,"server_tool_use":{"web_search_requests":2}}`)},
			{"message answered", "", "/v1/messages", "key:alice", plan, model, "completed", "req_whole", ended, ended, 4, 9, 0, 0, "reported", json.RawMessage(`{"input_tokens":4,"output_tokens":9}`)},
		}
		g1, _ := json.Marshal(got)
		if w1, _ := json.Marshal(want); string(g1) != string(w1) {
			t.Errorf("\n got %s\nwant %s", g1, w1)
		}
	})
}
