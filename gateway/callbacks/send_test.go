package callbacks

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// hooks is a receiver with TLS on this machine, which the fence is open for, and a sender that trusts it.
func hooks(t *testing.T, h http.HandlerFunc) (*httptest.Server, *sender) {
	t.Helper()
	server := httptest.NewTLSServer(h)
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	f := newFence([]string{server.Listener.Addr().String()}, false)
	return server, newSender(f, masters{testMaster}, "Sluice/test", &tls.Config{RootCAs: roots})
}

func TestReceiverGetsASignedPOSTOverTLS(t *testing.T) {
	server, s := hooks(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if err := verifier(t, masters{testMaster}.secrets("key:alice")[0]).Verify(body, r.Header); err != nil || r.Method != "POST" || r.URL.RequestURI() != "/hook?a=b" {
			t.Errorf("%v: %s %s", err, r.Method, r.URL)
		}
		w.WriteHeader(202)
	})
	if got := s.send(t.Context(), server.URL+"/hook?a=b", "key:alice", "cb_1", []byte(`{}`)); got != (attempt{status: 202}) {
		t.Errorf("%+v", got)
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	port, reached := trap(t)
	var visits atomic.Int32
	server, s := hooks(t, func(w http.ResponseWriter, r *http.Request) {
		visits.Add(1)
		to := "http://127.0.0.1:" + port + "/latest/meta-data"
		if r.URL.Path == "/self" {
			to = "/other"
		}
		http.Redirect(w, r, to, http.StatusTemporaryRedirect)
	})
	for _, path := range []string{"/", "/self"} {
		if got := s.send(t.Context(), server.URL+path, "key:alice", "cb_1", nil); got != (attempt{status: 307, reason: reasonRedirect}) {
			t.Errorf("%s: %+v", path, got)
		}
	}
	if visits.Load() != 2 || reached() {
		t.Errorf("%d visits", visits.Load())
	}
}

func TestEnvironmentsProxyIsNotUsed(t *testing.T) {
	port, reached := trap(t)
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		t.Setenv(name, "http://127.0.0.1:"+port)
	}
	s := newSender(newFence(nil, false), masters{testMaster}, "", nil)
	if got := s.send(t.Context(), "https://169.254.169.254/", "key:alice", "cb_1", nil); got.reason != reasonForbidden {
		t.Errorf("%+v", got)
	}
	if reached() {
		t.Error("the proxy was asked")
	}
}

func TestReasonsTellWhatFailedAndNoMore(t *testing.T) {
	server, _ := hooks(t, func(http.ResponseWriter, *http.Request) {})
	open := newFence([]string{"127.0.0.1"}, false)
	distrusting := newSender(open, masters{testMaster}, "", nil)
	closed, _ := trap(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := "http://" + l.Addr().String()
	l.Close()
	unresolved := newFence(nil, false)
	unresolved.resolver, _ = names(t, func(int) []string { return nil })
	for name, c := range map[string]struct {
		s    *sender
		url  string
		want string
	}{
		"nobody listens":      {distrusting, dead, reasonConnect},
		"unknown certificate": {distrusting, server.URL, reasonTLS},
		"no TLS there":        {distrusting, strings.Replace(dead, "http://", "https://", 1), reasonConnect},
		"closed at once":      {distrusting, "http://127.0.0.1:" + closed, reasonConnect},
		"wrong name":          {newSender(newFence([]string{"localhost"}, false), masters{testMaster}, "", nil), strings.Replace(server.URL, "127.0.0.1", "localhost", 1), reasonTLS},
		"no such name":        {newSender(unresolved, masters{testMaster}, "", nil), "https://nowhere.example/", reasonName},
		"behind the fence":    {newSender(newFence(nil, false), masters{testMaster}, "", nil), server.URL, reasonForbidden},
	} {
		if got := c.s.send(t.Context(), c.url, "key:alice", "cb_1", nil); got != (attempt{reason: c.want}) {
			t.Errorf("%s: %+v, want %q", name, got, c.want)
		}
	}
}

func TestNoMoreOfAnAnswerIsReadThanIsNeeded(t *testing.T) {
	var written atomic.Int64
	ended := make(chan struct{})
	server, s := hooks(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/headers" {
			for range 2000 {
				w.Header().Add("X-Much", strings.Repeat("a", 100))
			}
			return
		}
		defer close(ended)
		piece := make([]byte, 64<<10)
		for r.Context().Err() == nil {
			n, err := w.Write(piece)
			written.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	if got := s.send(t.Context(), server.URL+"/endless", "key:alice", "cb_1", nil); got != (attempt{status: 200}) {
		t.Errorf("%+v", got)
	}
	<-ended
	if n := written.Load(); n > 32<<20 { // the sockets' own buffers
		t.Errorf("%d bytes of an endless answer were taken", n)
	}
	if got := s.send(t.Context(), server.URL+"/headers", "key:alice", "cb_1", nil); got.reason != reasonConnect {
		t.Errorf("200 kB of headers: %+v", got)
	}
}

func TestReceiverThatTricklesIsLeft(t *testing.T) {
	server, s := hooks(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	s.client.Timeout = 50 * time.Millisecond
	begun := time.Now()
	if got := s.send(t.Context(), server.URL, "key:alice", "cb_1", nil); got != (attempt{status: 200}) {
		t.Errorf("%+v", got)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("after %v", took)
	}
}
