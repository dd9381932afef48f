package httpapi

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Authenticator finds out who sends a request.
//
// Authenticate returns a context that carries the user id (see
// ContextWithUserID). Any error, and a nil context, answers 401 authentication_failed; its text is
// shown to the caller, so it must not hold secrets. A panic is logged by the handler that
// NewRouter returns, which answers 500. It is called once for each
// request under /sync/, from many goroutines.
type Authenticator interface {
	Authenticate(r *http.Request) (context.Context, error)
}

// AuthenticatorFunc lets a plain function be an Authenticator.
type AuthenticatorFunc func(r *http.Request) (context.Context, error)

// Authenticate calls f.
func (f AuthenticatorFunc) Authenticate(r *http.Request) (context.Context, error) { return f(r) }

type userIDKey struct{}

// errNoUser is what UserIDFromContext returns when nobody was authenticated.
var errNoUser = errors.New("the request carries no authenticated user")

// ContextWithUserID stores the authenticated user id.
func ContextWithUserID(ctx context.Context, userID string) context.Context {
	return context.WithValue(ctx, userIDKey{}, userID)
}

// UserIDFromContext returns the user id that an Authenticator stored, or an
// error when there is none.
func UserIDFromContext(ctx context.Context) (string, error) {
	id, ok := ctx.Value(userIDKey{}).(string)
	if !ok || id == "" {
		return "", errNoUser
	}
	return id, nil
}

// AuthMiddleware lets only authenticated requests pass; every other one gets
// 401 authentication_failed. With nil, that is every one.
func AuthMiddleware(auth Authenticator) func(http.Handler) http.Handler {
	if auth == nil {
		auth = AuthenticatorFunc(refuseAll)
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, err := auth.Authenticate(r)
			if err != nil {
				writeUnauthenticated(w, err.Error())
				return
			}
			if ctx == nil { // with which no request can go on
				writeUnauthenticated(w, errNoUser.Error())
				return
			}
			next.ServeHTTP(w, r.WithContext(ctx))
		})
	}
}

func refuseAll(*http.Request) (context.Context, error) {
	return nil, errors.New("this server has no authentication set up")
}

// defaultTokenCacheSize is enough for the devices that are active at one time;
// an entry takes about 150 bytes.
const defaultTokenCacheSize = 10_000

// HS256Config configures NewHS256.
type HS256Config struct {
	// Secret is the shared key that signs the tokens. Required; 32 random bytes
	// or more are as strong as the algorithm.
	Secret []byte
	// UserClaim names the claim that holds the user id; "sub" if empty. The
	// claim must be a string that is not blank, or a whole number.
	UserClaim string
	// CacheSize is how many verified tokens are remembered until they expire;
	// 10,000 if zero.
	CacheSize int
}

// HS256 authenticates "Authorization: Bearer" tokens that are JWTs signed with
// HMAC SHA-256. No other algorithm is accepted, and a token must expire.
//
// A token that was verified is remembered by its hash until it expires, so that
// a device's next request does not pay for the verification again.
type HS256 struct {
	secret []byte
	claim  string
	parser *jwt.Parser
	cache  tokenCache
	now    func() time.Time
}

// NewHS256 returns an error when the secret is empty.
func NewHS256(cfg HS256Config) (*HS256, error) {
	if len(cfg.Secret) == 0 {
		return nil, errors.New("the JWT secret is empty; set one, for example from: openssl rand -hex 32")
	}
	if cfg.UserClaim == "" {
		cfg.UserClaim = "sub"
	}
	if cfg.CacheSize <= 0 {
		cfg.CacheSize = defaultTokenCacheSize
	}
	a := &HS256{
		secret: cfg.Secret,
		claim:  cfg.UserClaim,
		cache:  tokenCache{limit: cfg.CacheSize, entries: map[[sha256.Size]byte]cachedToken{}},
		now:    time.Now,
	}
	a.parser = jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}),
		jwt.WithExpirationRequired(),
		// Whole-number ids keep every digit.
		jwt.WithJSONNumber(),
		jwt.WithTimeFunc(func() time.Time { return a.now() }),
	)
	return a, nil
}

// Authenticate implements Authenticator.
func (a *HS256) Authenticate(r *http.Request) (context.Context, error) {
	token, err := bearerToken(r)
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256([]byte(token))
	userID, ok := a.cache.get(hash, a.now())
	if !ok {
		var expires time.Time
		if userID, expires, err = a.verify(token); err != nil {
			return nil, err
		}
		a.cache.put(hash, cachedToken{userID: userID, expires: expires}, a.now())
	}
	return ContextWithUserID(r.Context(), userID), nil
}

func (a *HS256) verify(token string) (userID string, expires time.Time, err error) {
	claims := jwt.MapClaims{}
	if _, err = a.parser.ParseWithClaims(token, claims, a.key); err != nil {
		return "", time.Time{}, tokenError(err)
	}
	if userID, err = claimText(claims, a.claim); err != nil {
		return "", time.Time{}, err
	}
	expiry, err := claims.GetExpirationTime()
	if err != nil || expiry == nil {
		return "", time.Time{}, errors.New("the token has no expiry; get one with an exp claim")
	}
	return userID, expiry.Time, nil
}

// key returns the secret for a token whose header asks for nothing that is not known
// here: the library passes over what a token calls critical.
func (a *HS256) key(token *jwt.Token) (any, error) {
	if _, ok := token.Header["crit"]; ok {
		return nil, errors.New("the token has critical header parameters")
	}
	return a.secret, nil
}

// tokenError says what is wrong in our words: the library's sentences hold
// parser details that help nobody who holds the token.
func tokenError(err error) error {
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return errors.New("the token has expired; get a new one")
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return errors.New("the token is not valid yet; wait, or compare the clocks of its issuer and this server")
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return errors.New("the token has no expiry; get one with an exp claim")
	default:
		return errors.New("the token is not valid for this server; get a new one")
	}
}

func claimText(claims jwt.MapClaims, name string) (string, error) {
	switch v := claims[name].(type) {
	case string:
		if v = strings.TrimSpace(v); v != "" {
			return v, nil
		}
	case json.Number:
		if _, err := v.Int64(); err == nil {
			return v.String(), nil
		}
	}
	return "", fmt.Errorf("the token names no user: its claim %q is missing or not a string; get one that has it", name)
}

func bearerToken(r *http.Request) (string, error) {
	header, ok := singleHeader(r, "Authorization")
	if !ok {
		return "", errors.New("the header Authorization is there with different values: send one")
	}
	scheme, token, _ := strings.Cut(strings.TrimSpace(header), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", errors.New("send a token in the header Authorization: Bearer <token>")
	}
	return token, nil
}

// tokenCache remembers verified tokens by their hash, so that the cache itself
// holds nothing that could be replayed.
type tokenCache struct {
	mu      sync.RWMutex
	limit   int
	entries map[[sha256.Size]byte]cachedToken
}

type cachedToken struct {
	userID  string
	expires time.Time
}

func (c *tokenCache) get(hash [sha256.Size]byte, now time.Time) (string, bool) {
	c.mu.RLock()
	entry, ok := c.entries[hash]
	c.mu.RUnlock()
	if !ok || !now.Before(entry.expires) {
		return "", false
	}
	return entry.userID, true
}

func (c *tokenCache) put(hash [sha256.Size]byte, entry cachedToken, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.entries) >= c.limit {
		c.makeRoom(now)
	}
	c.entries[hash] = entry
}

// makeRoom drops the expired entries, and if that frees less than a tenth,
// others at random: a full sweep must not be paid again for the next token.
func (c *tokenCache) makeRoom(now time.Time) {
	for hash, entry := range c.entries {
		if !now.Before(entry.expires) {
			delete(c.entries, hash)
		}
	}
	for hash := range c.entries {
		if len(c.entries) <= c.limit-max(1, c.limit/10) {
			return
		}
		delete(c.entries, hash)
	}
}
