package httpapi

import (
	"net/http"
	"slices"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
)

// exposed are the answers' headers that a page of another origin may read, beside those that every page may.
var exposed = []string{
	"Request-Id", "Retry-After", "Location", "Sluice-Stream-Id", "Preference-Applied",
	"Anthropic-Ratelimit-Requests-Limit", "Anthropic-Ratelimit-Requests-Remaining", "Anthropic-Ratelimit-Requests-Reset",
	"Anthropic-Ratelimit-Tokens-Limit", "Anthropic-Ratelimit-Tokens-Remaining", "Anthropic-Ratelimit-Tokens-Reset",
	"Anthropic-Ratelimit-Input-Tokens-Limit", "Anthropic-Ratelimit-Input-Tokens-Remaining", "Anthropic-Ratelimit-Input-Tokens-Reset",
	"Anthropic-Ratelimit-Output-Tokens-Limit", "Anthropic-Ratelimit-Output-Tokens-Remaining", "Anthropic-Ratelimit-Output-Tokens-Reset",
}

// preflightAge is how long a browser may remember what a preflight said: as long as Chromium does at most.
const preflightAge = 2 * 60 * 60

// anyOrigin is the configuration's word for every page there is.
const anyOrigin = "*"

// cors lets pages of the allowed origins read answers, and send what needs a preflight: JSON and a key. Cookies and other
// credentials that the browser adds by itself come from named origins only.
func (a *API) cors() echo.MiddlewareFunc {
	all := slices.Contains(a.cfg.CORSOrigins, anyOrigin)
	cfg := middleware.CORSConfig{
		AllowMethods:     []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodDelete},
		ExposeHeaders:    exposed,
		AllowCredentials: !all,
		MaxAge:           preflightAge,
	}
	if all {
		cfg.AllowOrigins = []string{anyOrigin}
	} else {
		// The names as they are: the library would take a * in them for anything.
		cfg.AllowOriginFunc = func(origin string) (bool, error) { return slices.Contains(a.cfg.CORSOrigins, origin), nil }
	}
	return middleware.CORSWithConfig(cfg)
}

// crossOrigin says which requests with ambient credentials come from a page that may not make them.
func crossOrigin(allowed []string) *http.CrossOriginProtection {
	p := http.NewCrossOriginProtection()
	for _, origin := range allowed {
		if origin != anyOrigin {
			if err := p.AddTrustedOrigin(origin); err != nil {
				panic(err) // the configuration has been checked
			}
		}
	}
	return p
}
