package gateway_test

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// address is an events URL as a page of the same origin may have it.
func (o object) address() string {
	u, err := url.Parse(o.EventsURL)
	if err != nil {
		panic(err)
	}
	return u.RequestURI()
}

// road is what lies between a browser and a gateway: it serves pages of the test, and takes everything else to the gateway
// and back, byte by byte, over connections that a test can cut.
type road struct {
	url   string
	pages map[string]string // by path, as HTML

	mu    sync.Mutex
	to    string // the gateway's host
	trips []*trip
}

// trip is one request on the road.
type trip struct {
	path, cursor, to string
	browser          *net.TCPConn
	torn             atomic.Bool // it ends within the next event
}

// build lays a road to a gateway. Its front page is empty.
func build(t testing.TB, gatewayURL string) *road {
	r := &road{to: strings.TrimPrefix(gatewayURL, "http://"), pages: map[string]string{"/": ""}}
	server := httptest.NewUnstartedServer(r)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	r.url = server.URL
	t.Cleanup(func() {
		r.cut("")
		server.Close()
	})
	return r
}

func (r *road) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if html, ok := r.pages[req.URL.Path]; ok {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		io.WriteString(w, "<!doctype html><title>A page</title>"+html)
		return
	}
	if !strings.HasPrefix(req.URL.Path, "/v1/") {
		http.NotFound(w, req)
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	x := r.depart(req, conn.(*net.TCPConn))
	gateway, err := net.Dial("tcp", x.to)
	if err != nil {
		x.browser.SetLinger(0) // as if nobody listened
		return
	}
	defer gateway.Close()
	req.Header.Set("Connection", "close") // one request a trip
	if req.Write(gateway) != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		io.Copy(io.Discard, conn) // to see that the browser has left
		gateway.Close()
	})
	io.Copy(x, gateway)
	conn.Close()
	back.Wait()
}

func (r *road) depart(req *http.Request, browser *net.TCPConn) *trip {
	cursor := req.Header.Get("Last-Event-ID")
	if cursor == "" {
		cursor = req.URL.Query().Get("last_event_id")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	x := &trip{path: req.URL.Path, cursor: cursor, to: r.to, browser: browser}
	r.trips = append(r.trips, x)
	return x
}

// torn is as much of an event as has its id and not its data.
const torn = 24

func (x *trip) Write(b []byte) (int, error) {
	if x.torn.Load() {
		x.browser.Write(b[:min(len(b), torn)])
		return 0, errCut
	}
	return x.browser.Write(b)
}

// leadTo has further trips end at another gateway; at none, where the URL is empty.
func (r *road) leadTo(gatewayURL string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to = strings.TrimPrefix(gatewayURL, "http://")
}

// made are the trips to an address, whatever its query says; all, where it is empty.
func (r *road) made(address string) (trips []*trip) {
	path, _, _ := strings.Cut(address, "?")
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range r.trips {
		if path == "" || x.path == path {
			trips = append(trips, x)
		}
	}
	return trips
}

// cut resets the connections to an address.
func (r *road) cut(address string) {
	for _, x := range r.made(address) {
		x.browser.SetLinger(0)
		x.browser.Close()
	}
}

// tear ends the connections to an address in order, but within the next event.
func (r *road) tear(address string) {
	for _, x := range r.made(address) {
		x.torn.Store(true)
	}
}

// cursors are those that an address was asked for with, in turn.
func (r *road) cursors(address string) (cursors []string) {
	for _, x := range r.made(address) {
		cursors = append(cursors, x.cursor)
	}
	return cursors
}

// cable is a road on which something else is spoken: it takes bytes to a gateway and back, and can be cut.
type cable struct {
	url       string
	mu        sync.Mutex
	ends      []*net.TCPConn // on the browser's side
	unplugged bool
}

func lay(t testing.TB, gatewayURL string) *cable {
	t.Helper()
	scheme, host, _ := strings.Cut(gatewayURL, "://")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{url: scheme + "://" + listener.Addr().String()}
	var busy sync.WaitGroup
	busy.Go(func() {
		for {
			browser, err := listener.Accept()
			if err != nil {
				return
			}
			c.mu.Lock()
			c.ends = append(c.ends, browser.(*net.TCPConn))
			if c.unplugged {
				browser.Close()
			}
			c.mu.Unlock()
			busy.Go(func() {
				defer browser.Close()
				gateway, err := net.Dial("tcp", host)
				if err != nil {
					return
				}
				defer gateway.Close()
				busy.Go(func() {
					io.Copy(gateway, browser)
					gateway.Close()
				})
				io.Copy(browser, gateway)
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		c.cut()
		busy.Wait()
	})
	return c
}

// plug lets connections be made, or resets those that there are and closes those that come.
func (c *cable) plug(in bool) {
	c.mu.Lock()
	c.unplugged = !in
	c.mu.Unlock()
	if !in {
		c.cut()
	}
}

// cut resets the connections that there are.
func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, browser := range c.ends {
		browser.SetLinger(0)
		browser.Close()
	}
	c.ends = nil
}
