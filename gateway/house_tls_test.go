package gateway_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sluice/gateway"
	"sluice/gateway/simulator"
)

// certify writes a certificate of 127.0.0.1 and its key, and returns the pool that trusts it.
func certify(t testing.TB, files gateway.TLS) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: serial, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{files.CertFile: {Type: "CERTIFICATE", Bytes: der}, files.KeyFile: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return pool
}

// openTLSHouse is openHouse with a certificate, read by a client that speaks HTTP/2 and takes little on trust.
func openTLSHouse(t testing.TB, claude http.Handler, changes ...func(*gateway.Config)) *house {
	t.Helper()
	dir := t.TempDir()
	files := gateway.TLS{CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key")}
	pool := certify(t, files)
	h := openHouse(t, claude, append([]func(*gateway.Config){func(c *gateway.Config) { c.Server.TLS = files }}, changes...)...)
	h.url = strings.Replace(h.url, "http:", "https:", 1)
	h.client.CloseIdleConnections()
	h.client = &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true, DisableCompression: true,
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10},
	}}
	return h
}

func TestOneHTTP2ConnectionCarriesManyStreams(t *testing.T) {
	t.Parallel()
	claude := newFaucet()
	h := openTLSHouse(t, claude)
	var dials atomic.Int32
	h.client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		dials.Add(1)
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	const streams = 20
	var taps []*tap
	var readings []*reading
	for i := range streams {
		answered := make(chan *reading, 1)
		go func() { answered <- h.watch("POST", "/v1/messages", ask(fmt.Sprintf("stream %d", i))) }()
		p := claude.next(t)
		p.send(start, block)
		r := receive(t, answered, "an answer")
		if r.resp.ProtoMajor != 2 {
			t.Fatalf("answered over %s", r.resp.Proto)
		}
		taps, readings = append(taps, p), append(readings, r)
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("%d connections for %d streams", n, streams)
	}
	for i, p := range taps {
		p.send(delta(fmt.Sprintf("only %d", i)))
	}
	for i, p := range taps {
		p.finish()
		events := readings[i].rest()
		numbered(t, events, 0)
		if text := textOf(t, events); text != fmt.Sprintf("only %d", i) {
			t.Errorf("stream %d says %q", i, text)
		}
	}
}

func TestHTTP2IsSpokenWithoutTLSWhereAProxyDoes(t *testing.T) {
	t.Parallel()
	h := openHouse(t, saying(3), func(c *gateway.Config) { c.Server.H2C = true })
	over1 := h.watch("POST", "/v1/messages", ask("short"))
	events := over1.rest()
	if over1.resp.ProtoMajor != 1 {
		t.Errorf("without being asked it speaks %s", over1.resp.Proto)
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	proxy := h.in(t)
	proxy.client = &http.Client{Transport: &http.Transport{Protocols: protocols, DisableCompression: true}}
	defer proxy.client.CloseIdleConnections()
	over2 := proxy.watch("POST", "/v1/messages", ask("short"))
	if over2.resp.ProtoMajor != 2 {
		t.Errorf("answered over %s", over2.resp.Proto)
	}
	same(t, over2.rest(), events)
}

func TestReaderThatStopsOverHTTP2DelaysNobodyAndIsEnded(t *testing.T) {
	t.Parallel()
	h := openTLSHouse(t, simulator.New(simulator.Options{}), func(c *gateway.Config) { c.Relay.StallTimeout = 2 * time.Second })
	o := h.start(request("fault:giant"))
	stopped := h.watchURL("GET", o.EventsURL, "", "x-api-key", "") // on the same connection as all others
	stopped.next()
	events := h.watchURL("GET", o.EventsURL, "", "x-api-key", "").rest()
	endsWith(t, events, "message_stop")
	h.becomes(`sluice_viewers_ended_total{reason="stalled"}`, 1)
	if _, err := stopped.toEnd(); !cut(err) {
		t.Errorf("an answer that is not whole ends with %v", err)
	}
}

func TestURLsBeginWithHTTPSOverTLS(t *testing.T) {
	t.Parallel()
	h := openTLSHouse(t, saying(1))
	if o := h.start(request("short")); !strings.HasPrefix(o.EventsURL, h.url+"/v1/streams/") {
		t.Errorf("events_url %q", o.EventsURL)
	}
}

func TestCertificateAndKeyMustBeAPair(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	unpaired := gateway.TLS{CertFile: filepath.Join(dir, "one.crt"), KeyFile: filepath.Join(dir, "another.key")}
	certify(t, gateway.TLS{CertFile: unpaired.CertFile, KeyFile: filepath.Join(dir, "one.key")})
	certify(t, gateway.TLS{CertFile: filepath.Join(dir, "another.crt"), KeyFile: unpaired.KeyFile})
	for name, c := range map[string]struct {
		files gateway.TLS
		want  string
	}{
		"unpaired": {unpaired, "c.yaml:3:11: server.tls.cert_file: and server.tls.key_file are no pair of a certificate and its key in PEM: "},
		"absent":   {gateway.TLS{CertFile: "/nowhere.crt", KeyFile: "/nowhere.key"}, "server.tls.cert_file: names a file that cannot be read: no such file or directory"},
	} {
		file := filepath.Join(t.TempDir(), "c.yaml")
		text := fmt.Sprintf("server:\n  tls: {\n          cert_file: %q, key_file: %q}\n", c.files.CertFile, c.files.KeyFile)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := gateway.LoadConfig(file, func(string) (string, bool) { return "x", true })
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		cfg := gateway.Defaults()
		cfg.Server.TLS = c.files
		if _, err := gateway.New(cfg, gateway.Options{}); err == nil || !strings.HasPrefix(err.Error(), "server.tls: ") {
			t.Errorf("%s: a gateway is made of it: %v", name, err)
		}
	}
}
