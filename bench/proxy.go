package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"

	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"time"
)

// proxyMain is a plain Go proxy: what one gets with httputil.ReverseProxy, each write passed on at once.
func proxyMain(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("proxy", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:9300", "address")
	to := flags.String("to", "http://127.0.0.1:9001", "the upstream")
	ca := flags.String("ca", "", "PEM file of the upstream's certificate authority")
	if err := parse(flags, args, 0); err != nil {
		return err
	}
	target, err := url.Parse(*to)
	if err != nil {
		return err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	// As many as nginx keeps; the default, 2, would have it dial for nearly each stream.
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 512, 512
	transport.DisableCompression = true
	if *ca != "" {
		text, err := os.ReadFile(*ca)
		if err != nil {
			return err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(text) {
			return fmt.Errorf("no certificate in %s", *ca)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	server := &http.Server{
		Handler: &httputil.ReverseProxy{
			Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
			Transport:     transport,
			FlushInterval: -1,
			ErrorLog:      log.New(io.Discard, "", 0), // failures are seen by the driver
		},
		ReadHeaderTimeout: 10 * time.Second,
	}
	return serve(ctx, server, *listen)
}
