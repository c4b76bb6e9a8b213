package gateway_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/golang-jwt/jwt/v5"

	"sluice/gateway"
	"sluice/gateway/simulator"
)

// The attacks on the log, and what must never get into it.

// openLoggingHouse is openHouse with a log of either format, as a person reads it, at debug level.
func openLoggingHouse(t testing.TB, format string, claude http.Handler, changes ...func(*gateway.Config)) *house {
	t.Helper()
	j := &journal{}
	var handler slog.Handler = slog.NewTextHandler(j, &slog.HandlerOptions{Level: slog.LevelDebug})
	if format == "json" {
		handler = slog.NewJSONHandler(j, &slog.HandlerOptions{Level: slog.LevelDebug})
	}
	h := openHouseWith(t, gateway.Options{Log: slog.New(handler)}, claude, changes...)
	h.log = j
	return h
}

// TestNobodyWritesTheLogsLines has callers, and an upstream, try to end a line of the log, begin another one, or colour it.
func TestNobodyWritesTheLogsLines(t *testing.T) {
	t.Parallel()
	const evil = "x\r\ntime=1970-01-01T00:00:00Z level=ERROR msg=forged\n{\"level\":\"ERROR\",\"msg\":\"forged\"}\x1b[31m\u0085\u2028\u202e\x00"
	quoted, err := json.Marshal(evil)
	if err != nil {
		t.Fatal(err)
	}
	claude := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		model := strings.Replace(start, `"claude-sonnet-4-6"`, string(quoted), 1)
		failure := `{"type":"error","error":{"type":` + string(quoted) + `,"message":` + string(quoted) + `}}`
		id := http.Header{"Request-Id": {"req_\u202e\x80 level=ERROR msg=forged"}, "X-Should-Retry": {"false"}}
		switch r.Header.Get("X-Stainless-Case") {
		case "refused":
			id.Set("Content-Type", "application/json; x=\u202e")
			simulator.Script{Status: 500, Header: id, Body: []byte(failure)}.ServeHTTP(w, r)
		case "nonsense":
			id.Set("Content-Type", "text/html\u202e level=ERROR")
			simulator.Script{Status: 500, Header: id, Body: []byte(evil)}.ServeHTTP(w, r)
		case "fails":
			simulator.Script{Header: id, Body: []byte(model + "event: error\ndata: " + failure + "\n\n")}.ServeHTTP(w, r)
		case "whole":
			id.Set("Content-Type", "application/json")
			simulator.Script{Header: id, Body: []byte(`{"type":"message","model":` + string(quoted) + `,"usage":{"output_tokens":1}}`)}.ServeHTTP(w, r)
		default:
			simulator.Script{Header: id, Body: []byte(model + tail[2])}.ServeHTTP(w, r)
		}
	})
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			h := openLoggingHouse(t, format, claude, secretLogin, proxyLogin, allowing(app))
			body := fmt.Sprintf(`{"model":%s,"max_tokens":1,"messages":[{"role":"user","content":%s}]`, quoted, quoted)
			for _, kind := range []string{"", "refused", "nonsense", "fails", "whole"} {
				h.do("POST", "/v1/messages", body+`,"stream":true}`, "x-stainless-case", kind)
				h.do("POST", "/v1/messages", body+`}`, "x-stainless-case", kind)
				h.do("POST", "/v1/streams", body+`}`, "x-stainless-case", kind, "idempotency-key", "\u202e level=ERROR msg=forged "+kind)
			}
			h.do("POST", "/v1/messages", evil)
			h.do("POST", "/v1/messages", body+`,"stream":`+string(quoted)+`}`)
			h.do("POST", "/v1/messages", "{}", "content-type", "text/\u202e level=ERROR msg=forged")
			escaped := url.PathEscape(evil)
			for _, path := range []string{"/" + escaped, "/v1/models/" + escaped, "/v1/streams/" + escaped, "/v1/streams/" + escaped + "/events", "/v1/streams/x/events?ticket=" + escaped, "/v1/streams?limit=" + escaped + "&after_id=" + escaped} {
				h.do("GET", path, "")
			}
			h.do("GET", "/v1/streams", "", "x-api-key", "\u202e level=ERROR msg=forged")
			h.do("GET", "/v1/streams", "", "origin", "\u202e", "user-agent", "\u202e", "x-forwarded-for", "\u202e", "x-api-key", "", "x-forwarded-user", "\u202e")
			for _, c := range []jwt.MapClaims{{"sub": evil}, {"plan": evil}, {"iss": evil}, {"sub": `a" level=ERROR msg="forged`}} {
				h.do("POST", "/v1/messages", body+`}`, "x-api-key", "", "authorization", "Bearer "+hs256(t, c), "x-stainless-case", "whole")
			}
			h.wire(t, "GET /\x1b[31m HTTP/1.1\r\nHost: sluice\r\n\r\n")
			h.wire(t, evil+"\r\n\r\n")
			h.becomes("sluice_streams_active", 0)
			h.forgetAll(aliceKey)
			h.isEmpty()

			lines := 0
			for line := range strings.Lines(h.log.String()) {
				lines++
				line = strings.TrimSuffix(line, "\n")
				// JSON is for machines: it escapes what would end or break a line, and no more.
				if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || format == "text" && !unicode.IsPrint(r) }) {
					t.Errorf("a line has what is not printed: %q", line)
				}
				if !wellFormed(format, line) {
					t.Errorf("a line is not the gateway's own: %q", line)
				}
			}
			if lines < 25 || !strings.Contains(h.log.String(), "forged") {
				t.Errorf("%d lines, which prove nothing", lines)
			}
		})
	}
}

var textLine = regexp.MustCompile(`^time=\S+ level=(DEBUG|INFO|WARN|ERROR) msg=("(\\.|[^"\\])*"|[^\s"]+)( [a-z_]+=("(\\.|[^"\\])*"|[^\s"=]*))*$`)

// wellFormed reports whether a line is one record, with one level and one message that are ours.
func wellFormed(format, line string) bool {
	if format == "text" {
		return textLine.MatchString(line)
	}
	decoder := json.NewDecoder(strings.NewReader(line))
	var record struct{ Level, Msg string }
	return decoder.Decode(&record) == nil && !decoder.More() && record.Msg != "forged"
}

// TestNothingSecretIsLogged brings secrets by every way, good and bad, and has the upstream quote them.
func TestNothingSecretIsLogged(t *testing.T) {
	t.Parallel()
	const cookie, wrong, said = "cookie-5d1e", "sk-wrong-88aa", "answer-30c4"
	quoting := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		quote, _ := json.Marshal(said + " " + r.Header.Get("X-Api-Key") + " " + string(body))
		failure := `{"type":"error","error":{"type":"invalid_request_error","message":` + string(quote) + `}}`
		json := http.Header{"Content-Type": {"application/json"}, "X-Should-Retry": {"false"}}
		switch r.Header.Get("X-Stainless-Case") {
		case "400", "401", "500", "529":
			var status int
			fmt.Sscan(r.Header.Get("X-Stainless-Case"), &status)
			simulator.Script{Status: status, Header: json, Body: []byte(failure)}.ServeHTTP(w, r)
		case "html":
			simulator.Script{Status: 500, Header: http.Header{"Content-Type": {"text/html"}, "X-Should-Retry": {"false"}}, Body: quote}.ServeHTTP(w, r)
		case "first":
			simulator.Script{Body: []byte("event: error\ndata: " + failure + "\n\n")}.ServeHTTP(w, r)
		case "fails":
			simulator.Script{Body: []byte(start + block + delta(said) + "event: error\ndata: " + failure + "\n\n")}.ServeHTTP(w, r)
		case "odd":
			simulator.Script{Body: []byte(start + "event: error\ndata: " + string(quote) + "\n\n")}.ServeHTTP(w, r)
		case "spliced":
			simulator.Script{Body: []byte(start + block + delta(string(quote)) + start)}.ServeHTTP(w, r)
		default:
			simulator.Script{Body: []byte(start + block + delta(said) + strings.Join(tail, ""))}.ServeHTTP(w, r)
		}
	})
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			h := openLoggingHouse(t, format, quoting, secretLogin, func(c *gateway.Config) { c.Upstream.ForwardPaths = []string{"/v1/files"} })
			token := hs256(t, nil)
			for _, kind := range []string{"", "400", "401", "500", "529", "html", "first", "fails", "odd", "spliced"} {
				for _, c := range [][2]string{{"/v1/messages", ask("p")}, {"/v1/messages", request("p")}, {"/v1/streams", request("p")}, {"/v1/files", request("p")}, {"/v1/messages/count_tokens", request("p")}} {
					h.do("POST", c[0], c[1], "x-stainless-case", kind, "cookie", "session="+cookie+"; other="+cookie)
				}
			}
			for _, broken := range []string{`{"model":"` + marker, `{"model":"m","stream":"` + marker + `"}`, `["` + marker + `"]`, `{"model":"m","max_tokens":"` + marker + `"}`, `{"model":"m","model":"` + marker + `"}`, marker} {
				h.do("POST", "/v1/messages", broken)
				h.do("POST", "/v1/messages", broken, "content-type", "text/plain", "content-encoding", marker)
			}
			for _, credential := range [][]string{
				{"x-api-key", wrong}, {"x-api-key", "", "authorization", "Bearer " + wrong}, {"x-api-key", "", "authorization", "Basic " + wrong}, {"authorization", "Bearer " + wrong}, {"x-api-key", "", "proxy-authorization", wrong},
				{"x-api-key", "", "cookie", "session=" + cookie}, {"x-api-key", "", "authorization", "Bearer " + token + "x"}, {"x-api-key", "", "authorization", "Bearer " + token}, {"x-api-key", "", "cookie", "session=" + hs256(t, jwt.MapClaims{"exp": 1})},
			} {
				h.do("GET", "/v1/streams", "", credential...)
			}
			o := h.start(request("p"))
			ticket := o.EventsURL[strings.Index(o.EventsURL, "ticket=")+len("ticket="):]
			h.watchURL("GET", o.EventsURL, "", "x-api-key", "").rest()
			for _, path := range []string{"/v1/streams/" + o.ID + "/events?ticket=" + ticket + "x", "/v1/streams/other/events?ticket=" + ticket, "/v1/streams?api_key=" + wrong, "/" + ticket, "/v1/models/" + ticket, "/v1/streams/" + ticket, "/v1/messages?key=" + wrong} {
				h.do("GET", path, "")
				h.do("POST", path, "{}")
			}
			h.wire(t, "GET /v1/streams?ticket="+ticket+" HTTP/1.1\r\nHost: "+wrong+" \r\nX-Api-Key : "+wrong+"\r\n\r\n")
			h.wire(t, wrong+" "+ticket+"\r\n\r\n")
			h.forgetAll(aliceKey)
			h.isEmpty()
			series := h.fetch("GET", h.admin+"/metrics", "").body
			for _, secret := range []string{aliceKey, bobKey, upstreamKey, marker, cookie, wrong, said, ticket, token, "ticket="} {
				for where, text := range map[string]string{"log": h.log.String(), "metrics": series} {
					if at := strings.Index(text, secret); at >= 0 {
						t.Errorf("the %s has %q: %.300s", where, secret, text[max(0, at-200):])
					}
				}
			}
			if n := strings.Count(h.log.String(), "\n"); n < 60 {
				t.Errorf("%d lines, which prove nothing", n)
			}
		})
	}
}
