package h2

import (
	"io"
	"net/http"
	"testing"
)

func TestCallerMayChangeItsAnswer(t *testing.T) {
	changed := make(chan struct{})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		http.NewResponseController(w).Flush()
		<-changed
		w.Write(make([]byte, 100))
	})
	resp := s.post(t, t.Context(), "/", nil)
	resp.ContentLength = 1
	close(changed)
	if text, err := io.ReadAll(resp.Body); len(text) != 100 || err != nil {
		t.Errorf("%d bytes, %v", len(text), err)
	}
}

func TestLengthOfABodyThatDoesNotCome(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		if r.Method == http.MethodGet {
			w.WriteHeader(http.StatusNotModified)
		}
	})
	for _, method := range []string{http.MethodHead, http.MethodGet} {
		req, _ := http.NewRequest(method, s.URL, nil)
		resp, err := s.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if len(text) > 0 || err != nil || resp.ContentLength != 100 {
			t.Errorf("%s reads %q of %d, %v", method, text, resp.ContentLength, err)
		}
	}
}
