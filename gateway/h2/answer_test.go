package h2

import (
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"
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

// opened is an answer whose header has come, on its own connection.
func opened(t testing.TB) (*conn, *opposite, *http.Response) {
	t.Helper()
	c, o := face(t)
	go c.read()
	o.framer.WriteSettings()
	if !c.reserve() {
		t.Fatal("there is no room")
	}
	said := make(chan struct{})
	go func() {
		defer close(said)
		o.hears(http2.FrameHeaders)
		o.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: []byte{0x88}})
	}()
	resp, err := c.roundTrip(get(t))
	<-said
	if err != nil {
		t.Fatal(err)
	}
	return c, o, resp
}

// Else an answer of two would be one: RFC 9113 §8.1.
func TestSecondHeaderIsNoPartOfAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, o, resp := opened(t)
		o.framer.WriteData(1, false, []byte("one"))
		o.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: []byte{0x88}})
		go o.framer.WriteData(1, true, []byte("another"))
		if b, err := io.ReadAll(resp.Body); string(b) != "one" || err == nil {
			t.Errorf("read %q, %v", b, err)
		}
		o.hears(http2.FrameRSTStream)
		o.nc.Close()
		synctest.Wait()
	})
}

func TestTrailersEndAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, o, resp := opened(t)
		o.framer.WriteData(1, false, []byte("one"))
		o.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, EndStream: true, BlockFragment: []byte("\x00\x01a\x01b")})
		if b, err := io.ReadAll(resp.Body); string(b) != "one" || err != nil {
			t.Errorf("read %q, %v", b, err)
		}
		o.nc.Close()
		synctest.Wait()
	})
}

// The server counts an answer until it hears that nobody wants it.
func TestPlaceIsFreeOnceTheServerKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, o, resp := opened(t)
		c.mu.Lock()
		c.most = 1
		c.mu.Unlock()
		c.wmu.Lock() // nothing can be written
		go resp.Body.Close()
		if _, err := resp.Body.Read(make([]byte, 1)); !errors.Is(err, errClosed) {
			t.Errorf("read %v", err)
		}
		if c.reserve() {
			t.Error("its place is given away before the server knows")
		}
		c.wmu.Unlock()
		o.hears(http2.FrameRSTStream)
		synctest.Wait()
		if !c.reserve() {
			t.Error("its place is kept")
		}
		o.nc.Close()
		synctest.Wait()
	})
}
