package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// upstream is Claude's place: each request's model says what its stream does.
type upstream struct {
	served, live, aborted, overloaded atomic.Int64
}

func upstreamMain(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("upstream", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:9001", "address")
	ca := flags.String("tls", "", "speak TLS (HTTP/2 and 1.1) and write the certificate to this file")
	if err := parse(flags, args, 0); err != nil {
		return err
	}
	u := new(upstream)
	server := &http.Server{Handler: u.routes(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 5 * time.Minute}
	if *ca != "" {
		cert, err := certificate(*ca)
		if err != nil {
			return err
		}
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
	}
	return serve(ctx, server, *listen)
}

// serve serves until the context is done, and then breaks off what is open.
func serve(ctx context.Context, server *http.Server, address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if server.TLSConfig != nil {
		err = server.ServeTLS(l, "", "")
	} else {
		err = server.Serve(l)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (u *upstream) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/messages", u.messages)
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"data":[{"type":"model","id":"bench-e100-i50-b24","display_name":"Bench","created_at":"2026-01-01T00:00:00Z"}],"has_more":false,"first_id":null,"last_id":null}`)
	})
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"served":%d,"live":%d,"aborted":%d}`+"\n", u.served.Load(), u.live.Load(), u.aborted.Load())
	})
	return mux
}

func (u *upstream) messages(w http.ResponseWriter, r *http.Request) {
	n := u.served.Add(1)
	u.live.Add(1)
	defer u.live.Add(-1)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var request struct {
		Model  string `json:"model"`
		Stream bool   `json:"stream"`
	}
	if err := json.Unmarshal(body, &request); err != nil {
		http.Error(w, `{"type":"error","error":{"type":"invalid_request_error","message":"bad JSON"}}`, http.StatusBadRequest)
		return
	}
	s := parseShape(request.Model)
	w.Header().Set("request-id", fmt.Sprintf("req_bench%d", n))
	if u.overloaded.Load() < s.overload {
		u.overloaded.Add(1)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(529)
		io.WriteString(w, `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`)
		return
	}
	if pause(r.Context(), s.first) != nil {
		u.aborted.Add(1)
		return
	}
	id := fmt.Sprintf("msg_bench%012d", n)
	if !request.Stream {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"id":%q,"type":"message","role":"assistant","model":%q,"content":[{"type":"text","text":"whole"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":25,"output_tokens":%d}}`, id, request.Model, s.events)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	err = s.play(r.Context(), &response{w: w, rc: http.NewResponseController(w)}, id, request.Model)
	if err != nil {
		u.aborted.Add(1)
	}
	if errors.Is(err, errCut) {
		panic(http.ErrAbortHandler)
	}
}

// response is a sink that writes events as Claude does.
type response struct {
	w   http.ResponseWriter
	rc  *http.ResponseController
	buf []byte
}

func (r *response) event(name string, data []byte) error {
	r.buf = append(r.buf[:0], "event: "...)
	r.buf = append(r.buf, name...)
	r.buf = append(r.buf, "\ndata: "...)
	r.buf = append(r.buf, data...)
	r.buf = append(r.buf, "\n\n"...)
	_, err := r.w.Write(r.buf)
	return err
}

func (r *response) flush() error { return r.rc.Flush() }
