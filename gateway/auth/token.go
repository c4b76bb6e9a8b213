package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// JWT says which JSON Web Tokens are taken, and what is read from them. Without Secret and JWKSURL none is; both are too
// many.
type JWT struct {
	Secret    string // of tokens signed with HS256
	JWKSURL   string // where the issuer publishes the keys of tokens signed with RS, PS, ES (each 256, 384, 512) or EdDSA
	Issuer    string // what iss must be; "": anything
	Audience  string // what aud must be or have in it; "": anything
	UserClaim string // who it is
	PlanClaim string // which plan; "": never a token's choice
	Cookie    string // the cookie that may hold a token; "": none
}

// leeway is what the issuer's clock may differ from ours by.
const leeway = 30 * time.Second

// asymmetric are the algorithms of a JWK Set. None of them can be verified with a key that was meant for another kind,
// and the one that takes a public key for a secret, HS256, is not among them.
var asymmetric = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// tokens takes JWTs of one issuer, or of all who share a secret.
type tokens struct {
	cfg         JWT
	defaultPlan string
	parser      *jwt.Parser
	keys        *keySource // nil: they are signed with the secret
	tag         tag
}

func newTokens(cfg Config, secret ticketSecret, log *slog.Logger) (*tokens, error) {
	t := &tokens{cfg: cfg.JWT, defaultPlan: cfg.DefaultPlan}
	algorithms := []string{"HS256"}
	switch {
	case t.cfg.Secret == "" && t.cfg.JWKSURL == "":
		return nil, nil
	case t.cfg.Secret != "" && t.cfg.JWKSURL != "":
		return nil, errors.New("tokens have a secret or a JWK Set, not both")
	case t.cfg.UserClaim == "":
		return nil, errors.New("tokens need a claim that says who the user is")
	case t.cfg.JWKSURL != "":
		algorithms = asymmetric
		t.keys = newKeySource(t.cfg.JWKSURL, log)
	}
	options := []jwt.ParserOption{jwt.WithValidMethods(algorithms), jwt.WithExpirationRequired(), jwt.WithLeeway(leeway)}
	if t.cfg.Issuer != "" {
		options = append(options, jwt.WithIssuer(t.cfg.Issuer))
	}
	if t.cfg.Audience != "" {
		options = append(options, jwt.WithAudience(t.cfg.Audience))
	}
	t.parser = jwt.NewParser(options...)
	t.tag = secret.tag("jwt", t.cfg.Secret, t.cfg.JWKSURL, t.cfg.Issuer, t.cfg.Audience)
	return t, nil
}

// orCookie is the end of the sentence that says where tokens go.
func (t *tokens) orCookie() string {
	if t.cfg.Cookie == "" {
		return ""
	}
	return ", or sign in where the cookie with the token is set"
}

// identify says whose token it is.
func (t *tokens) identify(ctx context.Context, token string) (Identity, error) {
	claims := jwt.MapClaims{} // by their exact names, which a struct's fields would not be
	_, err := t.parser.ParseWithClaims(token, claims, func(token *jwt.Token) (any, error) {
		if _, ok := token.Header["crit"]; ok { // RFC 7515 §4.1.11: who does not know what it lists must refuse
			return nil, errors.New("the token has critical extensions")
		}
		if t.keys == nil {
			return []byte(t.cfg.Secret), nil
		}
		return t.keys.find(ctx, token)
	})
	if err != nil {
		return Identity{}, refusal(err)
	}
	user, ok := text(claims[t.cfg.UserClaim])
	if !ok || !plain(user) {
		return Identity{}, fmt.Errorf("%w: its claim %q is not one name of 1 to %d printable characters", ErrTokenRefused, t.cfg.UserClaim, maxName)
	}
	// The owner is split at its first |, which many a sub has in it, too.
	issuer, err := claims.GetIssuer()
	if err != nil || issuer != "" && !plain(issuer) || strings.Contains(issuer, "|") {
		return Identity{}, fmt.Errorf("%w: its issuer (iss) is not a plain name", ErrTokenRefused)
	}
	owner := "jwt:" + issuer + "|" + user
	id := Identity{Owner: owner, Account: owner, Plan: t.defaultPlan, tag: t.tag}
	if plan := claims[t.cfg.PlanClaim]; plan != nil && t.cfg.PlanClaim != "" {
		if id.Plan, ok = plan.(string); !ok {
			return Identity{}, fmt.Errorf("%w: its claim %q is not the name of a plan", ErrTokenRefused, t.cfg.PlanClaim)
		}
	}
	return id, nil
}

// text is a claim that is a string, or a number as databases count their users.
func text(claim any) (string, bool) {
	switch v := claim.(type) {
	case string:
		return v, true
	case float64:
		const exact = 1 << 53 // above it two numbers of the token may be one here
		return strconv.FormatFloat(v, 'f', 0, 64), v == math.Trunc(v) && v >= 0 && v < exact
	}
	return "", false
}

// refusal says what is wrong with a token, as far as its caller may know: all of it once the signature is good, and
// else nothing. The parser's own texts would show parts of the token.
func refusal(err error) error {
	reason := ""
	switch {
	case errors.Is(err, ErrKeysUnavailable):
		return ErrKeysUnavailable
	case !errors.Is(err, jwt.ErrTokenInvalidClaims):
		return fmt.Errorf("%w: the token is not signed by an issuer that is known here", ErrWrongCredentials)
	case errors.Is(err, jwt.ErrTokenExpired):
		reason = "it has expired; sign in again, or get a new one"
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		reason = "it is not valid yet (nbf)"
	case errors.Is(err, jwt.ErrTokenInvalidIssuer):
		reason = "it is of another issuer (iss)"
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		reason = "it is meant for another audience (aud)"
	default:
		reason = "one of its claims exp, nbf, iss and aud is missing or malformed"
	}
	return fmt.Errorf("%w: %s", ErrTokenRefused, reason)
}
