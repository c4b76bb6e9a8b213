package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
)

// publisher is a sink that posts each event to an nchan publisher's location, as whoever feeds nchan from Claude would.
type publisher struct {
	ctx    context.Context
	client *http.Client
	url    string
}

// publish plays a stream to a URL.
func publish(ctx context.Context, url, model string) error {
	transport := new(http.Transport) // its own, so that nothing of it stays open
	defer transport.CloseIdleConnections()
	return parseShape(model).play(ctx, &publisher{ctx, &http.Client{Transport: transport}, url}, "msg_bench", model)
}

func (p *publisher) event(name string, data []byte) error {
	request, err := http.NewRequestWithContext(p.ctx, http.MethodPost, p.url, bytes.NewReader(data))
	if err != nil {
		return err
	}
	request.Header.Set("X-EventSource-Event", name)
	response, err := p.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("publish: %s", response.Status)
	}
	return nil
}

func (p *publisher) flush() error { return nil }
