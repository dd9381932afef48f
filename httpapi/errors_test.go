package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	oversync "github.com/oversync/oversync/sync"
)

// errorCases holds one example of every typed error and the exact answer to it.
var errorCases = []struct {
	err    error
	status int
	body   string
}{
	{&oversync.ConnectInvalidError{Message: "m"}, 400, `{"error":"connect_invalid","message":"m"}`},
	{&oversync.ScopeUninitializedError{UserID: "u"}, 409, `{"error":"scope_uninitialized","message":"*"}`},
	{&oversync.ScopeInitializingError{UserID: "u", LeaseExpiresAt: time.Unix(0, 0)}, 409, `{"error":"scope_initializing","message":"*"}`},
	{&oversync.InitializationStaleError{Message: "m"}, 409, `{"error":"initialization_stale","message":"m"}`},
	{&oversync.InitializationExpiredError{Message: "m"}, 410, `{"error":"initialization_expired","message":"m"}`},
	{
		&oversync.HistoryPrunedError{UserID: "u", ProvidedSeq: 987654, RetainedFloor: 3}, 409,
		`{"error":"history_pruned","message":"the history asked for is not retained; rebuild from a snapshot"}`,
	},
	{&oversync.BundleChangeWatchDisabledError{}, 503, `{"error":"bundle_change_watch_disabled","message":"*"}`},
	{&oversync.BundleChangeWatchForbiddenError{UserID: "u", Err: errors.New("secret")}, 403, `{"error":"bundle_change_watch_forbidden","message":"*"}`},
	{&oversync.ServiceClosedError{}, 503, `{"error":"service_unavailable","message":"*"}`},
	{&oversync.CommittedBundleChunkInvalidError{Message: "m"}, 400, `{"error":"committed_bundle_chunk_invalid","message":"m"}`},
	{&oversync.CommittedBundleNotFoundError{BundleSeq: 4}, 404, `{"error":"committed_bundle_not_found","message":"*"}`},

	{&oversync.PushSessionInvalidError{Message: "m"}, 400, `{"error":"push_session_invalid","message":"m"}`},
	{&oversync.PushSessionNotFoundError{PushID: "p"}, 404, `{"error":"push_session_not_found","message":"*"}`},
	{&oversync.PushSessionForbiddenError{PushID: "p"}, 403, `{"error":"push_session_forbidden","message":"*"}`},
	{&oversync.PushSessionExpiredError{PushID: "p"}, 410, `{"error":"push_session_expired","message":"*"}`},
	{&oversync.PushChunkInvalidError{Message: "m"}, 400, `{"error":"push_chunk_invalid","message":"m"}`},
	{&oversync.PushChunkOutOfOrderError{PushID: "p", Expected: 1, Actual: 2}, 409, `{"error":"push_chunk_out_of_order","message":"*"}`},
	{&oversync.PushCommitInvalidError{Message: "m"}, 400, `{"error":"push_commit_invalid","message":"m"}`},
	{&oversync.PushValidationError{Message: "m"}, 400, `{"error":"push_commit_invalid","message":"m"}`},
	{&oversync.PushConflictError{Message: "m", Conflict: &oversync.PushConflictDetails{
		Schema: "business", Table: "posts", Key: oversync.SyncKey{"id": "k"}, Op: "UPDATE",
		BaseRowVersion: 1, ServerRowVersion: 2, ServerRow: json.RawMessage(`{"n":9007199254740993}`),
	}}, 409, `{"error":"push_conflict","message":"m","conflict":{"schema":"business","table":"posts","key":{"id":"k"},` +
		`"op":"UPDATE","base_row_version":1,"server_row_version":2,"server_row_deleted":false,"server_row":{"n":9007199254740993}}}`},
	{
		&oversync.PushRejectedError{Message: "m", Rejection: oversync.PushRejection{
			SQLState: "23505", Schema: "business",
			Table: "users", Column: "email", Constraint: "users_email_key", Key: oversync.SyncKey{"id": "k"},
		}}, 422,
		`{"error":"push_rejected","message":"m","rejection":{"sqlstate":"23505","schema":"business","table":"users",` +
			`"column":"email","constraint":"users_email_key","key":{"id":"k"}}}`,
	},

	{
		&oversync.SourceRetiredError{UserID: "u", SourceID: "a", ReplacedBySourceID: "b"}, 409,
		`{"error":"source_retired","message":"*","source_id":"a","replaced_by_source_id":"b"}`,
	},
	{&oversync.SourceReplacementInvalidError{Message: "m"}, 409, `{"error":"source_replacement_invalid","message":"m"}`},
	{&oversync.SourceSequenceOutOfOrderError{SourceID: "a", Expected: 1, Actual: 3}, 409, `{"error":"source_sequence_out_of_order","message":"*"}`},
	{&oversync.SourceSequenceChangedError{SourceID: "a", Expected: 1, Actual: 3}, 409, `{"error":"source_sequence_changed","message":"*"}`},
	{&oversync.SourceTupleHistoryPrunedError{SourceID: "a", SourceBundleID: 1}, 409, `{"error":"history_pruned","message":"*"}`},

	{&oversync.SnapshotSessionInvalidError{Message: "m"}, 400, `{"error":"snapshot_session_invalid","message":"m"}`},
	{&oversync.SnapshotSessionNotFoundError{SnapshotID: "s"}, 404, `{"error":"snapshot_session_not_found","message":"*"}`},
	{&oversync.SnapshotSessionForbiddenError{SnapshotID: "s"}, 403, `{"error":"snapshot_session_forbidden","message":"*"}`},
	{&oversync.SnapshotSessionExpiredError{SnapshotID: "s"}, 410, `{"error":"snapshot_session_expired","message":"*"}`},
	{
		&oversync.SnapshotSessionLimitExceededError{Dimension: "rows", Actual: 11, Limit: 10}, 413,
		`{"error":"snapshot_session_limit_exceeded","message":"*","dimension":"rows","actual":11,"limit":10}`,
	},
	{&oversync.SnapshotChunkInvalidError{Message: "m"}, 400, `{"error":"snapshot_chunk_invalid","message":"m"}`},

	{&oversync.RequestInvalidError{Message: "m"}, 400, `{"error":"invalid_request","message":"m"}`},
	{&oversync.RequestBodyError{Message: "m"}, 400, `{"error":"invalid_request","message":"*"}`},
	{&requestError{code: "pull_code", message: "m"}, 400, `{"error":"pull_code","message":"m"}`},
	{&bodyCutError{io.ErrUnexpectedEOF}, 503, `{"error":"service_unavailable","message":"*"}`},
	{&http.MaxBytesError{Limit: 1}, 413, `{"error":"request_too_large","message":"*"}`},
}

// goOnlyErrors can come from no request.
var goOnlyErrors = []string{"ScopeWriteInvalidError", "ScopeWriteNoCapturedChangesError", "UnsupportedSchemaError"}

func TestEveryTypedErrorHasItsAnswer(t *testing.T) {
	t.Parallel()
	for _, tc := range errorCases {
		for _, err := range []error{tc.err, fmt.Errorf("context: %w", tc.err)} {
			h, logs := testHandlers()
			rec := httptest.NewRecorder()
			h.writeFailure(rec, httptest.NewRequest(http.MethodGet, "/", nil), "pull_failed", err)
			require.Equal(t, tc.status, rec.Code, "%T", tc.err)
			require.Equal(t, "application/json", rec.Header().Get("Content-Type"))
			require.Equal(t, tc.body, starMessage(t, tc.body, rec.Body.String()), "%T", tc.err)
			require.NotContains(t, rec.Body.String(), "987654", "a client that is ahead must not get its number back")
			if tc.status >= 500 {
				require.Empty(t, logs.String(), "an error that passes by itself is not logged: %T", tc.err)
				continue
			}
			var line struct{ Level, Msg, Operation, Code string }
			require.NoError(t, json.Unmarshal(logs.Bytes(), &line), "one line for each refusal: %T", tc.err)
			require.Equal(t, "INFO refused pull", line.Level+" "+line.Msg+" "+line.Operation)
			require.Contains(t, tc.body, `{"error":"`+line.Code+`"`, "%T", tc.err)
		}
	}
}

// What was refused is nowhere in the database, so the log says whose request it was and
// what of the database stood in its way, but nothing of the row.
func TestARefusalIsLogged(t *testing.T) {
	t.Parallel()
	h, logs := testHandlers()
	refuse := func(err error) map[string]any {
		logs.Reset()
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.Header.Set(RequestIDHeader, "req-1")
		actor := oversync.Actor{UserID: "u", SourceID: "phone"}
		r = r.WithContext(oversync.ContextWithActor(r.Context(), actor))
		RequestID(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.serveActor(w, r, http.MethodPost, "push_session_commit", func(http.ResponseWriter, oversync.Actor) error { return err })
		})).ServeHTTP(httptest.NewRecorder(), r)
		var line map[string]any
		require.NoError(t, json.Unmarshal(logs.Bytes(), &line))
		delete(line, "time")
		return line
	}
	require.Equal(t, map[string]any{
		"level": "INFO", "msg": "refused", "operation": "push_session_commit", "status": 422.0, "code": "push_rejected",
		"user_id": "u", "source_id": "phone", "request_id": "req-1",
		"sqlstate": "23505", "schema": "business", "table": "users", "constraint": "users_email_key",
	}, refuse(&oversync.PushRejectedError{Message: "private", Rejection: oversync.PushRejection{
		SQLState: "23505", Schema: "business", Table: "users", Column: "email", Constraint: "users_email_key", Key: oversync.SyncKey{"id": "private"},
	}}))
	require.Equal(t, map[string]any{
		"level": "INFO", "msg": "refused", "operation": "push_session_commit", "status": 409.0, "code": "push_conflict",
		"user_id": "u", "source_id": "phone", "request_id": "req-1", "schema": "business", "table": "posts",
	}, refuse(&oversync.PushConflictError{Message: "private", Conflict: &oversync.PushConflictDetails{
		Schema: "business", Table: "posts", Key: oversync.SyncKey{"id": "private"}, ServerRow: json.RawMessage(`"private"`),
	}}))
}

// starMessage puts * for the message where the case does not fix it.
func starMessage(t *testing.T, want, got string) string {
	t.Helper()
	if !strings.Contains(want, `"message":"*"`) {
		return got
	}
	var body struct{ Message string }
	require.NoError(t, json.Unmarshal([]byte(got), &body))
	require.NotEmpty(t, body.Message)
	quoted, err := json.Marshal(body.Message)
	require.NoError(t, err)
	return strings.Replace(got, string(quoted), `"*"`, 1)
}

// A new error type in package oversync must get an answer here.
func TestErrorCasesNameEveryErrorTypeOfTheService(t *testing.T) {
	t.Parallel()
	covered := map[string]bool{}
	for _, tc := range errorCases {
		covered[strings.TrimPrefix(fmt.Sprintf("%T", tc.err), "*oversync.")] = true
	}
	for _, name := range goOnlyErrors {
		covered[name] = true
	}
	files, err := filepath.Glob("../sync/*.go")
	require.NoError(t, err)
	found := 0
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		for _, decl := range parsed.Decls {
			decl, ok := decl.(*ast.GenDecl)
			if !ok || decl.Tok != token.TYPE || strings.HasSuffix(file, "_test.go") {
				continue
			}
			for _, spec := range decl.Specs {
				name := spec.(*ast.TypeSpec).Name
				if name.IsExported() && strings.HasSuffix(name.Name, "Error") {
					found++
					require.True(t, covered[name.Name], "%s in %s has no line in errorTable and errorCases", name.Name, file)
				}
			}
		}
	}
	require.Greater(t, found, 20)
}

func TestUnforeseenErrorsSayNothingAndAreLoggedOnce(t *testing.T) {
	t.Parallel()
	secret := errors.New(`ERROR: relation "secret" at SELECT * FROM secret`)
	h, logs := testHandlers()
	rec := httptest.NewRecorder()
	var handler http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.serve(w, r, http.MethodGet, "snapshot_chunk", func(http.ResponseWriter) error { return secret })
	})
	req := httptest.NewRequest(http.MethodGet, "/", nil)
	req.Header.Set(RequestIDHeader, "req-1")
	RequestID(handler).ServeHTTP(rec, req)

	require.Equal(t, 500, rec.Code)
	require.Contains(t, rec.Body.String(), `"error":"snapshot_chunk_failed"`)
	require.NotContains(t, strings.ToLower(rec.Body.String()), "secret")
	require.Equal(t, 1, strings.Count(logs.String(), "\n"))
	require.Contains(t, logs.String(), `"request_id":"req-1"`)
	require.Contains(t, logs.String(), `"operation":"snapshot_chunk"`)
	require.Contains(t, logs.String(), "SELECT * FROM secret")
}

func TestTemporaryFaultsAskForARetry(t *testing.T) {
	t.Parallel()
	temporaryErrors := []error{
		io.ErrUnexpectedEOF,
		context.DeadlineExceeded,
		&pgconn.ConnectError{},
		// "cannot access temporary or unlogged relations during recovery": a standby.
		&pgconn.PgError{Code: "0A000", Routine: "get_relation_info"},
	}
	for _, code := range []string{"40001", "40P01", "55P03", "57014", "25006", "25P03", "08006", "08P01", "53300", "53100", "57P01", "57P02", "57P03"} {
		temporaryErrors = append(temporaryErrors, &pgconn.PgError{Code: code, Message: "x"})
	}
	for _, err := range temporaryErrors {
		h, logs := testHandlers()
		rec := httptest.NewRecorder()
		h.writeFailure(rec, httptest.NewRequest(http.MethodGet, "/", nil), "pull_failed", fmt.Errorf("pull: %w", err))
		require.Equal(t, 503, rec.Code, "%v", err)
		require.Equal(t, "1", rec.Header().Get("Retry-After"))
		require.Contains(t, rec.Body.String(), `"error":"service_unavailable"`)
		require.Equal(t, 1, strings.Count(logs.String(), "\n"))
	}
	// A fault that a retry cannot mend.
	for _, code := range []string{"42P01", "22003", "XX000", "0A000"} {
		require.Equal(t, 500, answerFor(&pgconn.PgError{Code: code}, "pull_failed").status)
	}
}

func TestACancelledRequestMakesNoNoise(t *testing.T) {
	t.Parallel()
	h, logs := testHandlers()
	rec := httptest.NewRecorder()
	h.writeFailure(rec, httptest.NewRequest(http.MethodGet, "/", nil), "pull_failed", fmt.Errorf("pull: %w", context.Canceled))
	require.Equal(t, 503, rec.Code)
	require.Empty(t, logs.String())
}

func TestAPanicIsAnswered(t *testing.T) {
	t.Parallel()
	h, logs := testHandlers()
	rec := httptest.NewRecorder()
	h.serve(rec, httptest.NewRequest(http.MethodGet, "/", nil), http.MethodGet, "status", func(http.ResponseWriter) error { panic("boom") })
	require.Equal(t, 500, rec.Code)
	require.Contains(t, rec.Body.String(), `"error":"status_failed"`)
	require.NotContains(t, rec.Body.String(), "boom")
	require.Contains(t, logs.String(), "boom")
}

// A server that has begun an answer and fails must not leave one that parses.
func TestAnErrorAfterTheFirstByteCutsTheConnection(t *testing.T) {
	t.Parallel()
	h, logs := testHandlers()
	for name, size := range map[string]int{"buffered": 1, "flushed": 1 << 20} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.serve(w, r, http.MethodGet, "pull", func(w http.ResponseWriter) error {
				_, err := streamJSON{w}.Write(append([]byte(`{}`), bytes.Repeat([]byte(" "), size)...))
				require.NoError(t, err)
				return &oversync.ScopeUninitializedError{UserID: "u"}
			})
		}))
		resp, err := http.Get(server.URL)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			require.NoError(t, resp.Body.Close())
		}
		require.Error(t, err, name)
		server.Close()
	}
	require.Contains(t, logs.String(), "answer cut short")
}

func TestAnErrorBeforeTheFirstByteIsAnswered(t *testing.T) {
	t.Parallel()
	h, _ := testHandlers()
	rec := httptest.NewRecorder()
	h.serve(rec, httptest.NewRequest(http.MethodGet, "/", nil), http.MethodGet, "pull", func(w http.ResponseWriter) error {
		_ = streamJSON{w}
		return &oversync.ScopeUninitializedError{UserID: "u"}
	})
	require.Equal(t, 409, rec.Code)
}

func testHandlers(options ...HandlerOption) (*HTTPSyncHandlers, *bytes.Buffer) {
	var logs bytes.Buffer
	return NewHTTPSyncHandlers(nil, slog.New(slog.NewJSONHandler(&logs, nil)), options...), &logs
}
