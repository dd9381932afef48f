package httpapi

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	oversync "github.com/oversync/oversync/sync"
)

func TestRateLimit(t *testing.T) {
	t.Parallel()
	served := 0
	handler := limitRate(RateLimit{PerSecond: 1e-5, Burst: 2})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served++ }))
	send := func(user string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/sync/pull", nil)
		handler.ServeHTTP(w, r.WithContext(oversync.ContextWithActor(r.Context(), oversync.Actor{UserID: user, SourceID: "phone"})))
		return w
	}
	require.Equal(t, http.StatusOK, send("ann").Code)
	require.Equal(t, http.StatusOK, send("ann").Code)
	refused := send("ann")
	require.Equal(t, http.StatusTooManyRequests, refused.Code)
	seconds, err := strconv.Atoi(refused.Header().Get("Retry-After"))
	require.NoError(t, err)
	require.InDelta(t, 1e5, seconds, 1000, "some time may have passed")
	require.JSONEq(t, `{"error":"rate_limited","message":"too many requests: send it again after the time in Retry-After"}`, refused.Body.String())
	require.Equal(t, http.StatusOK, send("ben").Code, "each user has a rate of its own")
	require.Equal(t, 3, served)
}

func TestRateLimitOffByDefault(t *testing.T) {
	t.Parallel()
	served := 0
	handler := limitRate(RateLimit{})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served++ }))
	for range 1000 {
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/sync/pull", nil))
	}
	require.Equal(t, 1000, served)
}

func TestRateLimitBurstByDefault(t *testing.T) {
	t.Parallel()
	for perSecond, burst := range map[float64]int{0.01: 1, 1: 2, 5.6: 11} {
		handler := limitRate(RateLimit{PerSecond: perSecond})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		served, start := 0, time.Now()
		for {
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/sync/pull", nil))
			if w.Code == http.StatusTooManyRequests {
				break
			}
			served++
		}
		require.GreaterOrEqual(t, served, burst)
		require.LessOrEqual(t, served, burst+int(perSecond*time.Since(start).Seconds()), "what time has given back")
	}
}

func TestRateLimitersSayHowLongToWait(t *testing.T) {
	t.Parallel()
	l := &rateLimiters{limit: 0.1, burst: 2, users: map[string]*rate.Limiter{}, refills: time.Hour}
	now := time.Now()
	require.Zero(t, l.wait("ann", now))
	require.Zero(t, l.wait("ann", now))
	require.InDelta(t, 10*time.Second, l.wait("ann", now), float64(time.Millisecond))
	require.InDelta(t, 3*time.Second, l.wait("ann", now.Add(7*time.Second)), float64(time.Millisecond))
	require.Zero(t, l.wait("ben", now), "each user has a rate of its own")
	require.Zero(t, l.wait("ann", now.Add(10*time.Second)))
}

func TestRateLimitersForgetIdleUsers(t *testing.T) {
	t.Parallel()
	l := &rateLimiters{limit: 1, burst: 2, users: nil, refills: 3 * time.Second}
	l.users = map[string]*rate.Limiter{}
	now := time.Now()
	require.Zero(t, l.wait("ann", now))
	require.Zero(t, l.wait("ben", now.Add(4*time.Second)))
	require.Len(t, l.users, 1, "ann may send a full burst again, as if she were new")
	require.Zero(t, l.wait("ben", now.Add(4*time.Second)))
	require.Equal(t, time.Second, l.wait("ben", now.Add(4*time.Second)))
}
