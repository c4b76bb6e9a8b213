package httpapi

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
)

// Origins are the pages of elsewhere that may call. It is never changed, and may be used by many goroutines.
type Origins struct {
	cors echo.MiddlewareFunc         // nil: there are none
	safe *http.CrossOriginProtection // says which requests with ambient credentials come from a page that may not make them
}

// anyOrigin is the configuration's word for every page there is.
const anyOrigin = "*"

// NewOrigins allows the pages of these origins, written as browsers send them; "*" alone allows all, without cookies.
func NewOrigins(allowed []string) (*Origins, error) {
	o := &Origins{safe: http.NewCrossOriginProtection()}
	for _, origin := range allowed {
		if origin == anyOrigin {
			continue
		}
		if err := o.safe.AddTrustedOrigin(origin); err != nil {
			return nil, fmt.Errorf("%q is no origin: %w", origin, err)
		}
	}
	if len(allowed) > 0 {
		o.cors = cors(slices.Clone(allowed))
	}
	return o, nil
}

// SetOrigins replaces all origins at once: a request sees those of before or these.
func (a *API) SetOrigins(o *Origins) { a.origins.Store(o) }

// cors is the middleware of the origins that are allowed now.
func (a *API) cors(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if allow := a.origins.Load().cors; allow != nil {
			return allow(next)(c)
		}
		return next(c)
	}
}

// exposed are the answers' headers that a page of another origin may read, beside those that every page may.
var exposed = []string{
	"Request-Id", "Retry-After", "Retry-After-Ms", "X-Should-Retry", "Location", "Sluice-Stream-Id", "Preference-Applied",
	"Anthropic-Ratelimit-Requests-Limit", "Anthropic-Ratelimit-Requests-Remaining", "Anthropic-Ratelimit-Requests-Reset",
	"Anthropic-Ratelimit-Tokens-Limit", "Anthropic-Ratelimit-Tokens-Remaining", "Anthropic-Ratelimit-Tokens-Reset",
	"Anthropic-Ratelimit-Input-Tokens-Limit", "Anthropic-Ratelimit-Input-Tokens-Remaining", "Anthropic-Ratelimit-Input-Tokens-Reset",
	"Anthropic-Ratelimit-Output-Tokens-Limit", "Anthropic-Ratelimit-Output-Tokens-Remaining", "Anthropic-Ratelimit-Output-Tokens-Reset",
}

// preflightAge is how long a browser may remember what a preflight said: as long as Chromium does at most.
const preflightAge = 2 * 60 * 60

// cors lets pages of the allowed origins read answers, and send what needs a preflight: JSON and a key. Cookies and other
// credentials that the browser adds by itself come from named origins only.
func cors(allowed []string) echo.MiddlewareFunc {
	all := slices.Contains(allowed, anyOrigin)
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
		cfg.AllowOriginFunc = func(origin string) (bool, error) { return slices.Contains(allowed, origin), nil }
	}
	return middleware.CORSWithConfig(cfg)
}
