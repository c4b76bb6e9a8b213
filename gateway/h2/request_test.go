package h2

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"
)

func TestRequestsThatCannotBeSentTakeNoPlace(t *testing.T) {
	s := serve(t, func(http.ResponseWriter, *http.Request) {}, func(s *httptest.Server) { s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 4} })
	s.post(t, t.Context(), "/", nil).Body.Close()
	for range 10 {
		req, _ := http.NewRequest(http.MethodGet, s.URL, nil)
		req.Header["X-Split"] = []string{"a\r\nb: c"}
		if _, err := s.client.Do(req); err == nil {
			t.Fatal("sent")
		}
	}
	s.post(t, t.Context(), "/", nil).Body.Close()
	if n := s.dials.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// It has no bytes, and goes out also where the server has taken back what it had allowed.
func TestEndOfARequestNeedsNoWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, o := face(t)
		go c.read()
		o.framer.WriteSettings()
		if !c.reserve() {
			t.Fatal("there is no room")
		}
		more, body := io.Pipe()
		req, _ := http.NewRequest(http.MethodPost, "https://claude.test/", more)
		answered := make(chan error, 1)
		go func() {
			_, err := c.roundTrip(req)
			answered <- err
		}()
		io.WriteString(body, "some of it")
		o.hears(http2.FrameData)
		o.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		synctest.Wait()
		body.Close()
		o.hears(http2.FrameData)
		o.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, EndStream: true, BlockFragment: []byte{0x88}})
		if err := <-answered; err != nil {
			t.Error(err)
		}
		o.nc.Close()
		synctest.Wait()
	})
}
