package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"
)

// RequestIDHeader carries the id of a request in both directions. An id that
// the caller or a proxy sent is kept, so that one id names the request in the
// logs of every hop.
const RequestIDHeader = "X-Request-ID"

// maxRequestIDBytes bounds an id taken from the caller: it goes into every log
// line of the request.
const maxRequestIDBytes = 128

type requestIDKey struct{}

// RequestIDFromContext returns the id that RequestID gave the request, or ""
// when that middleware did not run.
func RequestIDFromContext(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// RequestID gives every request an id, in its context and in the answer's
// X-Request-ID header. A sent id of at most 128 visible ASCII characters is
// kept; any other is replaced by a new one.
func RequestID(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get(RequestIDHeader)
		if !validRequestID(id) {
			id = uuid.NewString()
		}
		w.Header().Set(RequestIDHeader, id)
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), requestIDKey{}, id)))
	})
}

func validRequestID(id string) bool {
	if id == "" || len(id) > maxRequestIDBytes {
		return false
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return true
}

// LogRequests writes one debug line for each finished request: method, path,
// status, bytes, duration and request id. Failures are logged where they
// happen, so this log is for following traffic and costs nothing while the
// logger is above debug level.
func LogRequests(logger *slog.Logger) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !logger.Enabled(r.Context(), slog.LevelDebug) {
				next.ServeHTTP(w, r)
				return
			}
			start := time.Now()
			tracked := &trackedWriter{ResponseWriter: w}
			// Deferred, so that an aborted answer is logged as well.
			defer func() {
				logger.LogAttrs(r.Context(), slog.LevelDebug, "request",
					slog.String("method", r.Method),
					slog.String("path", r.URL.Path),
					slog.Int("status", tracked.status),
					slog.Int64("bytes", tracked.bytes),
					slog.String("duration", time.Since(start).String()),
					slog.String("request_id", RequestIDFromContext(r.Context())))
			}()
			next.ServeHTTP(tracked, r)
		})
	}
}

// trackedWriter knows whether an answer has begun, and what it was.
type trackedWriter struct {
	http.ResponseWriter
	status int // 0 until the answer has begun
	bytes  int64
}

func (w *trackedWriter) started() bool { return w.status != 0 }

func (w *trackedWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *trackedWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (w *trackedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
