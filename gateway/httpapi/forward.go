package httpapi

import (
	"io"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"sluice/gateway/claude"
)

// forwardJSON passes a call on whose answer is JSON: token counts and models.
func (a *API) forwardJSON(c echo.Context) error {
	req, b, err := a.plain(c)
	if err != nil {
		return err
	}
	defer b.release()
	if req.Method == http.MethodHead {
		req.Method = http.MethodGet // without a body the answer could not be judged
	}
	answer, err := a.call(c, req)
	if err != nil {
		return err
	}
	writeJSON(c, http.StatusOK, answer)
	return nil
}

// forwardedMethods are what the API has. TRACE would make a server on the way answer with the request as it came, the
// account's key and all, and CONNECT is for proxies.
var forwardedMethods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// forwardAny passes a call on that the operator has listed, whatever its answer is.
func (a *API) forwardAny(c echo.Context) error {
	req, b, err := a.plain(c)
	if err != nil {
		return err
	}
	defer b.release()
	resp, err := a.client.Do(c.Request().Context(), req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	h := c.Response().Header()
	for _, name := range []string{"Content-Type", "Content-Disposition", "Content-Length", "Request-Id"} {
		if v := resp.Header.Get(name); v != "" {
			h.Set(name, v)
		}
	}
	h.Set("Content-Security-Policy", upstreamPolicy)
	h.Set("Cache-Control", "no-store")
	if err := a.copy(c, resp); err != nil {
		a.log.Warn("forwarded answer broke off", "route", route(c), "request_id", requestID(c), "error", err)
		panic(http.ErrAbortHandler) // so that the caller sees it too
	}
	return nil
}

func (a *API) copy(c echo.Context, resp *http.Response) error {
	w, err := newResponse(c, a.cfg.StallTimeout, resp.StatusCode)
	if err != nil {
		return err
	}
	buffer := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(buffer)
		if n > 0 {
			if err := w.write(buffer[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// plain makes the upstream's request from the caller's. Only paths that are written plainly are forwarded: an escape or
// a dot segment could name one thing here and another there.
func (a *API) plain(c echo.Context) (req claude.Request, b *body, err error) {
	r := c.Request()
	if _, err := a.identify(c); err != nil {
		return req, nil, err
	}
	path := r.URL.Path
	if r.URL.EscapedPath() != path || strings.ContainsAny(path, "%\\") || strings.Contains(path, "//") || strings.Contains(path+"/", "/./") || strings.Contains(path+"/", "/../") {
		return req, nil, echo.ErrNotFound
	}
	if strings.Contains(c.Param("id"), "/") {
		return req, nil, echo.ErrNotFound
	}
	req = claude.Request{Method: r.Method, Path: path + query(r), Header: upward(r.Header)}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return req, &body{api: a}, nil
	}
	if route(c) == "/v1/messages/count_tokens" {
		b, err = a.readJSON(c)
	} else {
		b, err = a.readBody(c)
	}
	if err == nil {
		req.Body = b.bytes
	}
	return req, b, err
}
