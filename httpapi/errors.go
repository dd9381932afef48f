package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	oversync "github.com/oversync/oversync/sync"
)

// Codes that belong to no single operation. The codes of typed errors stand in
// errorTable, and each operation has a code for what nobody foresaw.
const (
	codeInvalidRequest       = "invalid_request"
	codeAuthenticationFailed = "authentication_failed"
	codeNotFound             = "not_found"
	codeMethodNotAllowed     = "method_not_allowed"
	codeRequestTooLarge      = "request_too_large"
	codeServiceUnavailable   = "service_unavailable"
)

// requestError refuses a request for its form, before the service sees it. The
// status is always 400; the code is the one that the endpoint names for its
// query or body.
type requestError struct {
	code    string
	message string
}

func (e *requestError) Error() string { return e.message }

// answer is what an error becomes on the wire.
type answer struct {
	status int
	body   any
	// retryAfter says that the same request may succeed in a second.
	retryAfter bool
	// internal errors are not the caller's doing: they are logged.
	internal bool
}

// errorTable maps every typed error to its answer. A new error type of the
// service needs a line here, and the test of this table fails without one.
//
// Errors of server-side Go calls alone (ScopeWriteInvalidError,
// ScopeWriteNoCapturedChangesError, UnsupportedSchemaError) are not in it: no
// request can cause them.
var errorTable = []func(error) (answer, bool){
	coded[*oversync.ConnectInvalidError](http.StatusBadRequest, "connect_invalid"),
	coded[*oversync.ScopeUninitializedError](http.StatusConflict, "scope_uninitialized"),
	coded[*oversync.ScopeInitializingError](http.StatusConflict, "scope_initializing"),
	coded[*oversync.InitializationStaleError](http.StatusConflict, "initialization_stale"),
	coded[*oversync.InitializationExpiredError](http.StatusGone, "initialization_expired"),

	coded[*oversync.PushSessionInvalidError](http.StatusBadRequest, "push_session_invalid"),
	coded[*oversync.PushSessionNotFoundError](http.StatusNotFound, "push_session_not_found"),
	coded[*oversync.PushSessionForbiddenError](http.StatusForbidden, "push_session_forbidden"),
	coded[*oversync.PushSessionExpiredError](http.StatusGone, "push_session_expired"),
	coded[*oversync.PushChunkInvalidError](http.StatusBadRequest, "push_chunk_invalid"),
	coded[*oversync.PushChunkOutOfOrderError](http.StatusConflict, "push_chunk_out_of_order"),
	coded[*oversync.PushCommitInvalidError](http.StatusBadRequest, "push_commit_invalid"),
	// The protocol has no code of its own for rows that turn out malformed when
	// they are applied: to a client it is a commit that cannot be made.
	coded[*oversync.PushValidationError](http.StatusBadRequest, "push_commit_invalid"),
	bodied(http.StatusConflict, func(e *oversync.PushConflictError) any {
		return oversync.PushConflictResponse{Error: "push_conflict", Message: e.Error(), Conflict: e.Conflict}
	}),
	bodied(http.StatusUnprocessableEntity, func(e *oversync.PushRejectedError) any {
		return oversync.PushRejectedResponse{Error: "push_rejected", Message: e.Error(), Rejection: e.Rejection}
	}),

	bodied(http.StatusConflict, func(e *oversync.SourceRetiredError) any {
		return oversync.SourceRetiredResponse{
			Error: "source_retired", Message: e.Error(),
			SourceID: e.SourceID, ReplacedBySourceID: e.ReplacedBySourceID,
		}
	}),
	coded[*oversync.SourceReplacementInvalidError](http.StatusConflict, "source_replacement_invalid"),
	coded[*oversync.SourceSequenceOutOfOrderError](http.StatusConflict, "source_sequence_out_of_order"),
	coded[*oversync.SourceSequenceChangedError](http.StatusConflict, "source_sequence_changed"),
	coded[*oversync.SourceTupleHistoryPrunedError](http.StatusConflict, "history_pruned"),
	// Not the error's own sentence: it repeats the number that was sent, and a
	// client that is ahead of the server must not get its number back.
	bodied(http.StatusConflict, func(*oversync.HistoryPrunedError) any {
		return oversync.ErrorResponse{
			Error:   "history_pruned",
			Message: "the history asked for is not retained; rebuild from a snapshot",
		}
	}),

	coded[*oversync.CommittedBundleChunkInvalidError](http.StatusBadRequest, "committed_bundle_chunk_invalid"),
	coded[*oversync.CommittedBundleNotFoundError](http.StatusNotFound, "committed_bundle_not_found"),

	coded[*oversync.SnapshotSessionInvalidError](http.StatusBadRequest, "snapshot_session_invalid"),
	coded[*oversync.SnapshotSessionNotFoundError](http.StatusNotFound, "snapshot_session_not_found"),
	coded[*oversync.SnapshotSessionForbiddenError](http.StatusForbidden, "snapshot_session_forbidden"),
	coded[*oversync.SnapshotSessionExpiredError](http.StatusGone, "snapshot_session_expired"),
	bodied(http.StatusRequestEntityTooLarge, func(e *oversync.SnapshotSessionLimitExceededError) any {
		return oversync.SnapshotLimitExceededResponse{
			Error: "snapshot_session_limit_exceeded", Message: e.Error(),
			Dimension: e.Dimension, Actual: e.Actual, Limit: e.Limit,
		}
	}),
	coded[*oversync.SnapshotChunkInvalidError](http.StatusBadRequest, "snapshot_chunk_invalid"),

	coded[*oversync.BundleChangeWatchDisabledError](http.StatusServiceUnavailable, "bundle_change_watch_disabled"),
	coded[*oversync.BundleChangeWatchForbiddenError](http.StatusForbidden, "bundle_change_watch_forbidden"),

	func(err error) (answer, bool) {
		_, ok := errors.AsType[*oversync.ServiceClosedError](err)
		return unavailable("the server is shutting down; try again", false), ok
	},
	func(err error) (answer, bool) {
		_, ok := errors.AsType[*bodyCutError](err)
		return unavailable("the request body ended early, or took too long; send it again", false), ok
	},
	func(err error) (answer, bool) {
		e, ok := errors.AsType[*requestError](err)
		if !ok {
			return answer{}, false
		}
		return answer{status: http.StatusBadRequest, body: oversync.ErrorResponse{Error: e.code, Message: e.message}}, true
	},
	coded[*oversync.RequestInvalidError](http.StatusBadRequest, codeInvalidRequest),
	coded[*oversync.RequestBodyError](http.StatusBadRequest, codeInvalidRequest),
	bodied(http.StatusRequestEntityTooLarge, func(*http.MaxBytesError) any {
		return oversync.ErrorResponse{
			Error:   codeRequestTooLarge,
			Message: "the request body is over the server's limit; send smaller chunks",
		}
	}),
}

func coded[E error](status int, code string) func(error) (answer, bool) {
	return bodied(status, func(e E) any {
		return oversync.ErrorResponse{Error: code, Message: e.Error()}
	})
}

func bodied[E error](status int, body func(E) any) func(error) (answer, bool) {
	return func(err error) (answer, bool) {
		e, ok := errors.AsType[E](err)
		if !ok {
			return answer{}, false
		}
		return answer{status: status, body: body(e)}, true
	}
}

func unavailable(message string, internal bool) answer {
	return answer{
		status:     http.StatusServiceUnavailable,
		body:       oversync.ErrorResponse{Error: codeServiceUnavailable, Message: message},
		retryAfter: true,
		internal:   internal,
	}
}

// answerFor finds the answer to an error. failedCode is the operation's code for
// what nobody foresaw; its message never carries the error's own text, which may
// hold SQL or data.
func answerFor(err error, failedCode string) answer {
	for _, match := range errorTable {
		if a, ok := match(err); ok {
			return a
		}
	}
	switch {
	case errors.Is(err, context.Canceled):
		// The client went away, or a shutdown ran out of patience. The former
		// reads nothing, and the latter should try again.
		return unavailable("the request was cancelled; try again", false)
	case temporary(err):
		return unavailable("the database cannot take the request at this moment; try again", true)
	default:
		return answer{
			status: http.StatusInternalServerError,
			body: oversync.ErrorResponse{
				Error:   failedCode,
				Message: "the server failed to do this; its log has the reason under the id in the header " + RequestIDHeader,
			},
			internal: true,
		}
	}
}

// temporary tells the faults that pass by themselves, so that clients retry
// them, from those that need a person.
func temporary(err error) bool {
	// First, since a database that refuses to be connected to says so in codes
	// that mean something else in the middle of a request.
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch e.Code {
		case pgerrcode.SerializationFailure, pgerrcode.DeadlockDetected, pgerrcode.LockNotAvailable,
			pgerrcode.QueryCanceled,
			// After a failover the old connections reach a standby for a while.
			pgerrcode.ReadOnlySQLTransaction,
			// This process, or its machine, stood still in the middle of a commit.
			pgerrcode.IdleInTransactionSessionTimeout:
			return true
		case pgerrcode.FeatureNotSupported:
			// So a standby refuses to read an unlogged table.
			return e.Routine == "get_relation_info"
		}
		return pgerrcode.IsConnectionException(e.Code) ||
			pgerrcode.IsInsufficientResources(e.Code) ||
			strings.HasPrefix(e.Code, "57P") // the server stops, crashed, starts, or ends the session
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	return pgconn.SafeToRetry(err) || pgconn.Timeout(err) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, context.DeadlineExceeded)
}

// writeFailure answers err, and logs it: as an error if it is not the caller's doing,
// else as a refusal. The service returns errors and does not log them, so each appears
// once.
func (h *HTTPSyncHandlers) writeFailure(w http.ResponseWriter, r *http.Request, failedCode string, err error) {
	a := answerFor(err, failedCode)
	// A client that left takes its queries down with it, in errors of all kinds.
	if a.internal && r.Context().Err() == nil {
		h.logger.LogAttrs(r.Context(), slog.LevelError, "request failed",
			slog.String("operation", strings.TrimSuffix(failedCode, "_failed")),
			slog.Int("status", a.status),
			slog.String("request_id", RequestIDFromContext(r.Context())),
			slog.Any("error", err))
	}
	if a.status < http.StatusInternalServerError {
		h.logRefusal(r, strings.TrimSuffix(failedCode, "_failed"), a, err)
	}
	if a.retryAfter {
		w.Header().Set("Retry-After", "1")
	}
	// The client may be gone; there is nobody left to tell.
	_ = writeJSON(w, a.status, a.body)
}

// logRefusal leaves a trace of what a client was refused, which is nowhere in the
// database. It is one short line, since clients can cause any number of them, and
// without the error's own text, which may hold values of a row.
func (h *HTTPSyncHandlers) logRefusal(r *http.Request, operation string, a answer, err error) {
	actor, _ := oversync.ActorFromContext(r.Context())
	attrs := []slog.Attr{
		slog.String("operation", operation),
		slog.Int("status", a.status),
		slog.String("code", codeOf(a.body)),
		slog.String("user_id", actor.UserID),
		slog.String("source_id", actor.SourceID),
		slog.String("request_id", RequestIDFromContext(r.Context())),
	}
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	if e, ok := errors.AsType[*oversync.PushRejectedError](err); ok {
		add("sqlstate", e.Rejection.SQLState)
		add("schema", e.Rejection.Schema)
		add("table", e.Rejection.Table)
		add("constraint", e.Rejection.Constraint)
	}
	if e, ok := errors.AsType[*oversync.PushConflictError](err); ok && e.Conflict != nil {
		add("schema", e.Conflict.Schema)
		add("table", e.Conflict.Table)
	}
	h.logger.LogAttrs(r.Context(), slog.LevelInfo, "refused", attrs...)
}

// codeOf returns the code in the body of an error's answer.
func codeOf(body any) string {
	switch b := body.(type) {
	case oversync.ErrorResponse:
		return b.Error
	case oversync.PushConflictResponse:
		return b.Error
	case oversync.PushRejectedResponse:
		return b.Error
	case oversync.SourceRetiredResponse:
		return b.Error
	case oversync.SnapshotLimitExceededResponse:
		return b.Error
	default:
		return ""
	}
}

func writeError(w http.ResponseWriter, status int, code, message string) {
	_ = writeJSON(w, status, oversync.ErrorResponse{Error: code, Message: message})
}

func writeUnauthenticated(w http.ResponseWriter, message string) {
	w.Header().Set("WWW-Authenticate", "Bearer")
	writeError(w, http.StatusUnauthorized, codeAuthenticationFailed, message)
}

func writeMethodNotAllowed(w http.ResponseWriter, allowed string) {
	w.Header().Set("Allow", allowed)
	writeError(w, http.StatusMethodNotAllowed, codeMethodNotAllowed, "this path takes "+allowed)
}

// writeJSON encodes before it writes, so that a value that cannot be encoded is
// an error and not half an answer.
func writeJSON(w http.ResponseWriter, status int, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, err = w.Write(data)
	return err
}
