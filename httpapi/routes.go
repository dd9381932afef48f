package httpapi

import (
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/mux"

	oversync "github.com/oversync/oversync/sync"
)

// DefaultWriteStallTimeout is how long a client may take no byte of its answer
// before it is cut off.
const DefaultWriteStallTimeout = 30 * time.Second

// RouterConfig is what NewRouter needs.
type RouterConfig struct {
	// Service does the work. Required.
	Service *oversync.SyncService
	// Authenticator finds the user of each request under /sync/. Required: with
	// nil every such request is answered 401.
	Authenticator Authenticator
	// Logger takes failures at error level, what clients were refused at info level,
	// and requests at debug level. Nil discards.
	Logger *slog.Logger
	// MaxBodyBytes bounds a request body; DefaultMaxBodyBytes if zero.
	MaxBodyBytes int64
	// WriteStallTimeout cuts a client that stops reading its answer;
	// DefaultWriteStallTimeout if zero.
	WriteStallTimeout time.Duration
	// WatchHeartbeat is the time between heartbeats to a watcher;
	// DefaultWatchHeartbeat if zero.
	WatchHeartbeat time.Duration
	// RateLimit bounds the requests of each user under /sync/; none if zero.
	RateLimit RateLimit
}

// NewRouter returns a handler for every route of the protocol, at the root.
// Unknown paths and wrong methods are answered as JSON errors too.
func NewRouter(cfg RouterConfig) http.Handler {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.WriteStallTimeout <= 0 {
		cfg.WriteStallTimeout = DefaultWriteStallTimeout
	}
	h := NewHTTPSyncHandlers(cfg.Service, cfg.Logger, WithMaxBodyBytes(cfg.MaxBodyBytes),
		WithWatchHeartbeat(cfg.WatchHeartbeat), WithWatchWriteTimeout(cfg.WriteStallTimeout))

	authenticate, withActor, limited := AuthMiddleware(cfg.Authenticator), ActorMiddleware(ActorMiddlewareConfig{}), limitRate(cfg.RateLimit)
	actor := func(operation string, handle http.HandlerFunc) http.Handler {
		return h.guarded(operation, authenticate(withActor(limited(handle))))
	}

	// Without SkipClean mux answers a path with a double slash by a redirect,
	// which turns a POST into a GET.
	// With encoded paths an id that holds "%2F" stays one segment, and is answered
	// as the unknown id that it is.
	router := mux.NewRouter().SkipClean(true).UseEncodedPath()
	// The router tries one after the other, so what is asked most comes first.
	router.Handle("/sync/pull", methods{http.MethodGet: actor("pull", h.HandlePull)})
	router.Handle("/sync/push-sessions", methods{http.MethodPost: actor("push_session_create", h.HandleCreatePushSession)})
	router.Handle("/sync/push-sessions/{push_id}/chunks", methods{http.MethodPost: actor("push_chunk", h.HandlePushSessionChunk)})
	router.Handle("/sync/push-sessions/{push_id}/commit", methods{http.MethodPost: actor("push_session_commit", h.HandleCommitPushSession)})
	router.Handle("/sync/push-sessions/{push_id}", methods{http.MethodDelete: actor("push_session_delete", h.HandleDeletePushSession)})
	router.Handle("/sync/committed-bundles/{bundle_seq}/rows", methods{http.MethodGet: actor("committed_bundle_rows", h.HandleGetCommittedBundleRows)})
	router.Handle("/sync/snapshot-sessions", methods{http.MethodPost: actor("snapshot_session_create", h.HandleCreateSnapshotSession)})
	router.Handle("/sync/snapshot-sessions/{snapshot_id}", methods{
		http.MethodGet:    actor("snapshot_chunk", h.HandleGetSnapshotChunk),
		http.MethodDelete: actor("snapshot_session_delete", h.HandleDeleteSnapshotSession),
	})
	router.Handle("/sync/connect", methods{http.MethodPost: actor("connect", h.HandleConnect)})
	router.Handle("/sync/watch", methods{http.MethodGet: actor("bundle_change_watch", h.HandleWatch)})
	router.Handle("/sync/capabilities", methods{http.MethodGet: actor("capabilities", h.HandleCapabilities)})
	router.Handle("/syncx/status", methods{http.MethodGet: http.HandlerFunc(h.HandleStatus)})
	router.Handle("/syncx/health", methods{http.MethodGet: http.HandlerFunc(h.HandleHealth)})
	router.NotFoundHandler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, http.StatusNotFound, codeNotFound, "there is nothing at this path: compare it with those of the protocol, which end without a slash")
	})

	var handler http.Handler = router
	handler = stallTimeout(cfg.WriteStallTimeout)(handler)
	handler = LogRequests(cfg.Logger)(handler)
	return RequestID(handler)
}

// methods serves one path by the request's method. It answers 405 itself, since
// mux would do so without an Allow header.
type methods map[string]http.Handler

func (m methods) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if handler, ok := m[r.Method]; ok {
		handler.ServeHTTP(w, r)
		return
	}
	allowed := make([]string, 0, len(m))
	for method := range m {
		allowed = append(allowed, method)
	}
	slices.Sort(allowed)
	writeMethodNotAllowed(w, strings.Join(allowed, ", "))
}
