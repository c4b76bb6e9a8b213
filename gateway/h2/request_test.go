package h2

import (
	"net/http"
	"net/http/httptest"
	"testing"
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
