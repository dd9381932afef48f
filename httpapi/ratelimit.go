package httpapi

import (
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	oversync "github.com/oversync/oversync/sync"
)

// codeRateLimited is the code of a request over its user's rate.
const codeRateLimited = "rate_limited"

// RateLimit bounds the requests of each user, over all its devices, in one
// process. With several processes behind a balancer each has a bound of its own.
type RateLimit struct {
	// PerSecond is how many requests a user may send in the long run. Zero is no
	// bound.
	PerSecond float64
	// Burst is how many it may send at once; twice PerSecond, and at least 1, if
	// zero.
	Burst int
}

// rateLimiters has a limiter for each user that sent something lately.
type rateLimiters struct {
	limit rate.Limit
	burst int

	mu      sync.Mutex
	users   map[string]*rate.Limiter
	swept   time.Time
	refills time.Duration // after which an unused limiter is as good as a new one
}

// limitRate answers 429 to requests over their user's rate. It goes behind the
// actor middleware.
func limitRate(cfg RateLimit) func(http.Handler) http.Handler {
	if cfg.PerSecond <= 0 {
		return func(next http.Handler) http.Handler { return next }
	}
	if cfg.Burst <= 0 {
		cfg.Burst = max(1, int(2*cfg.PerSecond))
	}
	limiters := &rateLimiters{
		limit: rate.Limit(cfg.PerSecond), burst: cfg.Burst, users: make(map[string]*rate.Limiter),
		refills: time.Duration(float64(cfg.Burst)/cfg.PerSecond*float64(time.Second)) + time.Second,
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			actor, _ := oversync.ActorFromContext(r.Context())
			if wait := limiters.wait(actor.UserID, time.Now()); wait > 0 {
				w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
				writeError(w, http.StatusTooManyRequests, codeRateLimited, "too many requests: send it again after the time in Retry-After")
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// wait takes a request of a user into account, and returns how long it would have
// to wait: 0 if it may pass.
func (l *rateLimiters) wait(user string, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sweep(now)
	limiter := l.users[user]
	if limiter == nil {
		limiter = rate.NewLimiter(l.limit, l.burst)
		l.users[user] = limiter
	}
	if limiter.AllowN(now, 1) {
		return 0
	}
	missing := 1 - limiter.TokensAt(now)
	return max(time.Duration(missing/float64(l.limit)*float64(time.Second)), time.Nanosecond)
}

// sweep forgets the limiters that have filled up again, now and then.
func (l *rateLimiters) sweep(now time.Time) {
	if now.Sub(l.swept) < l.refills {
		return
	}
	l.swept = now
	for user, limiter := range l.users {
		if limiter.TokensAt(now) >= float64(l.burst) {
			delete(l.users, user)
		}
	}
}
