package httpapi

import (
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	oversync "github.com/oversync/oversync/sync"
)

// HTTPSyncHandlers holds a handler for each request of the protocol. The
// handlers work in any router; those under /sync/ need ActorMiddleware (or a
// context made by oversync.ContextWithActor) before them and answer 401 without.
//
// It is safe for concurrent use.
type HTTPSyncHandlers struct {
	service      *oversync.SyncService
	logger       *slog.Logger
	maxBodyBytes int64

	watchHeartbeat    time.Duration
	watchWriteTimeout time.Duration
}

// HandlerOption changes a default of NewHTTPSyncHandlers.
type HandlerOption func(*HTTPSyncHandlers)

// WithMaxBodyBytes sets the largest request body that is accepted, in bytes.
// Zero or less keeps DefaultMaxBodyBytes. A larger body answers 413
// request_too_large.
func WithMaxBodyBytes(n int64) HandlerOption {
	return func(h *HTTPSyncHandlers) {
		if n > 0 {
			h.maxBodyBytes = n
		}
	}
}

// NewHTTPSyncHandlers returns the handlers of a service. A nil logger discards.
func NewHTTPSyncHandlers(service *oversync.SyncService, logger *slog.Logger, options ...HandlerOption) *HTTPSyncHandlers {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	h := &HTTPSyncHandlers{
		service: service, logger: logger, maxBodyBytes: DefaultMaxBodyBytes,
		watchHeartbeat: DefaultWatchHeartbeat, watchWriteTimeout: DefaultWriteStallTimeout,
	}
	for _, option := range options {
		option(h)
	}
	return h
}

// serve runs one operation and answers its error. The method is checked here
// because not every router does.
func (h *HTTPSyncHandlers) serve(w http.ResponseWriter, r *http.Request, method, operation string, run func(w http.ResponseWriter) error) {
	if r.Method != method {
		writeMethodNotAllowed(w, method)
		return
	}
	h.answered(w, r, operation, func(w http.ResponseWriter) error {
		if r.ContentLength > h.maxBodyBytes { // operations that take no body would not notice
			return &http.MaxBytesError{Limit: h.maxBodyBytes}
		}
		return run(w)
	})
}

// guarded answers a panic of what runs before the handler of an operation, such as an
// application's Authenticator, as one of the handler itself.
func (h *HTTPSyncHandlers) guarded(operation string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.answered(w, r, operation, func(w http.ResponseWriter) error {
			next.ServeHTTP(w, r)
			return nil
		})
	})
}

// answered runs a part of an operation and answers its error. operation is the protocol's
// name of it: "<operation>_failed" is the code for what nobody foresaw, a panic
// included.
//
// Once the answer has begun, an error cannot be told any more: the connection is
// cut, so that the client never takes a part for the whole.
func (h *HTTPSyncHandlers) answered(w http.ResponseWriter, r *http.Request, operation string, run func(w http.ResponseWriter) error) {
	tracked := &trackedWriter{ResponseWriter: w}
	err := recovered(func() error { return run(tracked) })
	if err == nil {
		return
	}
	if !tracked.started() {
		h.writeFailure(tracked, r, operation+"_failed", err)
		return
	}
	// A client that left in the middle is ordinary; anything else is not.
	level := slog.LevelError
	if r.Context().Err() != nil {
		level = slog.LevelDebug
	}
	h.logger.LogAttrs(r.Context(), level, "answer cut short",
		slog.String("operation", operation),
		slog.String("request_id", RequestIDFromContext(r.Context())),
		slog.Any("error", err))
	panic(http.ErrAbortHandler)
}

// serveActor is serve for operations of an authenticated source.
func (h *HTTPSyncHandlers) serveActor(w http.ResponseWriter, r *http.Request, method, operation string, run func(w http.ResponseWriter, actor oversync.Actor) error) {
	h.serve(w, r, method, operation, func(w http.ResponseWriter) error {
		actor, ok := oversync.ActorFromContext(r.Context())
		if !ok {
			writeUnauthenticated(w, errNoUser.Error())
			return nil
		}
		return run(w, actor)
	})
}

// streamJSON announces JSON on the first byte and not before, so that an error
// that comes first can still be answered with a status of its own.
type streamJSON struct{ http.ResponseWriter }

func (s streamJSON) Write(p []byte) (int, error) {
	if s.Header().Get("Content-Type") == "" {
		s.Header().Set("Content-Type", "application/json")
	}
	return s.ResponseWriter.Write(p)
}

// recovered turns a panic into an error with its stack.
func recovered(run func() error) (err error) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			panic(p)
		default:
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return run()
}
