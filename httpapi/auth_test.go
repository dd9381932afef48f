package httpapi

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	oversync "github.com/oversync/oversync/sync"
)

var testSecret = []byte("0123456789abcdef0123456789abcdef")

func mint(t *testing.T, method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
	t.Helper()
	token, err := jwt.NewWithClaims(method, claims).SignedString(key)
	require.NoError(t, err)
	return token
}

func bearer(token string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/sync/pull", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}

func TestHS256(t *testing.T) {
	t.Parallel()
	soon := time.Now().Add(time.Hour).Unix()
	good := jwt.MapClaims{"sub": "user-1", "exp": soon}
	hs256 := func(claims jwt.MapClaims) string { return mint(t, jwt.SigningMethodHS256, testSecret, claims) }

	auth, err := NewHS256(HS256Config{Secret: testSecret})
	require.NoError(t, err)
	ctx, err := auth.Authenticate(bearer(hs256(good)))
	require.NoError(t, err)
	user, err := UserIDFromContext(ctx)
	require.NoError(t, err)
	require.Equal(t, "user-1", user)

	critical := jwt.NewWithClaims(jwt.SigningMethodHS256, good)
	critical.Header["crit"] = []string{"exp"}
	withCritical, err := critical.SignedString(testSecret)
	require.NoError(t, err)

	refused := map[string]string{
		"critical":      withCritical, // RFC 7515, 4.1.11
		"alg none":      mint(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, good),
		"other alg":     mint(t, jwt.SigningMethodHS512, testSecret, good),
		"wrong secret":  mint(t, jwt.SigningMethodHS256, []byte("another"), good),
		"expired":       hs256(jwt.MapClaims{"sub": "user-1", "exp": time.Now().Add(-time.Second).Unix()}),
		"no expiry":     hs256(jwt.MapClaims{"sub": "user-1"}),
		"not yet":       hs256(jwt.MapClaims{"sub": "user-1", "exp": soon, "nbf": soon}),
		"no claim":      hs256(jwt.MapClaims{"exp": soon}),
		"blank claim":   hs256(jwt.MapClaims{"sub": "  ", "exp": soon}),
		"odd claim":     hs256(jwt.MapClaims{"sub": []string{"a"}, "exp": soon}),
		"fraction":      hs256(jwt.MapClaims{"sub": 1.5, "exp": soon}),
		"not a token":   "abc",
		"empty":         "",
		"other payload": swapPayload(t, hs256(good), `{"sub":"user-2","exp":99999999999}`),
	}
	for name, token := range refused {
		for range 2 { // the second time must not come from the cache
			_, err := auth.Authenticate(bearer(token))
			require.Error(t, err, name)
		}
	}

	for _, header := range []string{"", "Bearer", "Basic " + hs256(good), hs256(good)} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Authorization", header)
		_, err := auth.Authenticate(r)
		require.Error(t, err, header)
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "bearer  "+hs256(good))
	_, err = auth.Authenticate(r)
	require.NoError(t, err, "the scheme has no case")
}

func TestAnAuthenticatorWithoutAnswerLetsNobodyPass(t *testing.T) {
	t.Parallel()
	nobody := AuthenticatorFunc(func(*http.Request) (context.Context, error) { return nil, nil }) //nolint:nilnil // what is tested
	for _, auth := range []Authenticator{nobody, nil} {
		rec := httptest.NewRecorder()
		AuthMiddleware(auth)(http.NotFoundHandler()).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/", nil))
		require.Equal(t, http.StatusUnauthorized, rec.Code)
		require.Contains(t, rec.Body.String(), `"error":"authentication_failed"`)
	}
}

func TestHeadersWithDifferentValuesAreRefused(t *testing.T) {
	t.Parallel()
	auth, err := NewHS256(HS256Config{Secret: testSecret})
	require.NoError(t, err)
	soon := time.Now().Add(time.Hour).Unix()
	token := mint(t, jwt.SigningMethodHS256, testSecret, jwt.MapClaims{"sub": "user-1", "exp": soon})
	handler := AuthMiddleware(auth)(ActorMiddleware(ActorMiddlewareConfig{})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	status := func(authorizations, sources []string) int {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header["Authorization"] = authorizations
		r.Header[http.CanonicalHeaderKey(oversync.SourceIDHeader)] = sources
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, r)
		return rec.Code
	}
	good, other := "Bearer "+token, "Bearer x"
	require.Equal(t, 200, status([]string{good}, []string{"a"}))
	require.Equal(t, 200, status([]string{good, good}, []string{"a", "a"}), "a proxy may double a header")
	require.Equal(t, 401, status([]string{good, other}, []string{"a"}))
	require.Equal(t, 400, status([]string{good}, []string{"a", "b"}))
}

func swapPayload(t *testing.T, token, payload string) string {
	t.Helper()
	parts := strings.Split(token, ".")
	require.Len(t, parts, 3)
	parts[1] = base64.RawURLEncoding.EncodeToString([]byte(payload))
	return strings.Join(parts, ".")
}

func TestHS256OtherClaim(t *testing.T) {
	t.Parallel()
	auth, err := NewHS256(HS256Config{Secret: testSecret, UserClaim: "team_id"})
	require.NoError(t, err)
	token := mint(t, jwt.SigningMethodHS256, testSecret, jwt.MapClaims{
		"sub": "user-1", "team_id": int64(9007199254740993), "exp": time.Now().Add(time.Hour).Unix(),
	})
	ctx, err := auth.Authenticate(bearer(token))
	require.NoError(t, err)
	user, err := UserIDFromContext(ctx)
	require.NoError(t, err)
	require.Equal(t, "9007199254740993", user)
}

func TestHS256NeedsASecret(t *testing.T) {
	t.Parallel()
	_, err := NewHS256(HS256Config{})
	require.ErrorContains(t, err, "openssl rand")
}

func TestHS256RememberedTokenStillExpires(t *testing.T) {
	t.Parallel()
	auth, err := NewHS256(HS256Config{Secret: testSecret})
	require.NoError(t, err)
	now := time.Now()
	auth.now = func() time.Time { return now }
	token := mint(t, jwt.SigningMethodHS256, testSecret, jwt.MapClaims{"sub": "u", "exp": now.Add(time.Minute).Unix()})
	for range 2 {
		_, err = auth.Authenticate(bearer(token))
		require.NoError(t, err)
	}
	require.Len(t, auth.cache.entries, 1)
	now = now.Add(2 * time.Minute)
	_, err = auth.Authenticate(bearer(token))
	require.ErrorContains(t, err, "expired")
}

func TestTokenCacheIsBounded(t *testing.T) {
	t.Parallel()
	now := time.Now()
	cache := tokenCache{limit: 20, entries: map[[sha256.Size]byte]cachedToken{}}
	for i := range 1000 {
		hash := sha256.Sum256(fmt.Append(nil, i))
		cache.put(hash, cachedToken{userID: "u", expires: now.Add(time.Hour)}, now)
		_, ok := cache.get(hash, now)
		require.True(t, ok, "the newest token is always kept")
		require.LessOrEqual(t, len(cache.entries), 20)
	}
}

func TestActorMiddleware(t *testing.T) {
	t.Parallel()
	user := func(id string) func(context.Context) (string, error) {
		return func(context.Context) (string, error) { return id, nil }
	}
	cases := []struct {
		name   string
		user   func(context.Context) (string, error)
		source string
		status int
		code   string
	}{
		{"trimmed", user(" user-1 "), " device-a ", 200, ""},
		{"longest", user(strings.Repeat("u", 255)), strings.Repeat("s", 255), 200, ""},
		{"no user", nil, "device-a", 401, "authentication_failed"},
		{"blank user", user("  "), "device-a", 401, "authentication_failed"},
		{"no user wins over no source", user(""), "", 401, "authentication_failed"},
		{"no source", user("user-1"), "", 400, "invalid_request"},
		{"blank source", user("user-1"), " \t", 400, "invalid_request"},
		{"long source", user("user-1"), strings.Repeat("s", 256), 400, "invalid_request"},
		{"control in source", user("user-1"), "a\x7fb", 400, "invalid_request"},
		{"source not UTF-8", user("user-1"), "a\xffb", 400, "invalid_request"},
		{"long user", user(strings.Repeat("u", 256)), "device-a", 400, "invalid_request"},
		{"control in user", user("a\x00b"), "device-a", 400, "invalid_request"},
	}
	for _, tc := range cases {
		var actor oversync.Actor
		handler := ActorMiddleware(ActorMiddlewareConfig{UserIDFromContext: tc.user})(
			http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				actor, _ = oversync.ActorFromContext(r.Context())
			}))
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set(oversync.SourceIDHeader, tc.source)
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, r)
		require.Equal(t, tc.status, rec.Code, tc.name)
		if tc.code != "" {
			require.Contains(t, rec.Body.String(), `"error":"`+tc.code+`"`, tc.name)
			require.Zero(t, actor, tc.name)
			continue
		}
		require.Equal(t, strings.TrimSpace(tc.source), actor.SourceID, tc.name)
		require.NotEmpty(t, actor.UserID, tc.name)
		require.Equal(t, strings.TrimSpace(actor.UserID), actor.UserID, tc.name)
	}
}

func BenchmarkHS256Remembered(b *testing.B) {
	auth, err := NewHS256(HS256Config{Secret: testSecret})
	require.NoError(b, err)
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"sub": "user-1", "exp": time.Now().Add(time.Hour).Unix(),
	}).SignedString(testSecret)
	require.NoError(b, err)
	r := bearer(token)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := auth.Authenticate(r); err != nil {
			b.Fatal(err)
		}
	}
}
