package oversync

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestErrorSentences(t *testing.T) {
	t.Parallel()

	lease := time.Date(2026, 4, 4, 14, 0, 0, 5, time.FixedZone("", 7200))
	for _, tc := range []struct {
		err  error
		want string
	}{
		{&ScopeUninitializedError{"u"}, `scope "u" is not initialized: call connect first`},
		{&ScopeInitializingError{"u", lease}, `scope "u" is being initialized by another source until 2026-04-04T12:00:00.000000005Z: connect again then or earlier`},
		{&ScopeInitializingError{UserID: "u"}, `scope "u" is being initialized by another source: connect again later`},
		{&HistoryPrunedError{"u", 3, 9}, `history of scope "u" cannot be served from bundle 3 (retained floor 9): rebuild from a snapshot`},
		{&UnsupportedSchemaError{"x"}, `unsupported schema: x`},
		{&ServiceClosedError{}, `the sync service is shutting down: try again later`},
		{&CommittedBundleNotFoundError{4}, `there is no committed bundle 4 in this scope: pull to see which there are`},
		{&ScopeWriteNoCapturedChangesError{"u", "w"}, `the write of "w" into scope "u" changed no row of a registered table and was rolled back: write to a registered table, or use a plain transaction`},
		{&PushSessionNotFoundError{"p"}, `there is no push session "p": create a new one`},
		{&PushSessionForbiddenError{"p"}, `push session "p" belongs to another source: create one of your own`},
		{&PushSessionExpiredError{"p"}, `push session "p" has expired: create a new one and send all rows again`},
		{&PushChunkOutOfOrderError{"p", 5, 7}, `push session "p" expects row 5 next, but the chunk starts at row 7: send the chunk that starts at row 5`},
		{&PushConflictError{}, `a pushed row has changed on the server: pull, merge and push again`},
		{
			&PushConflictError{Conflict: &PushConflictDetails{Schema: "s", Table: "t", Op: OpUpdate, BaseRowVersion: 1, ServerRowVersion: 2, ServerRowDeleted: true}},
			`UPDATE of a row of s.t rests on version 1, but the server has version 2 (deleted: true): merge the server's row and push again`,
		},
		{&PushConflictError{Message: "m"}, `m`},
		{&PushRejectedError{Rejection: PushRejection{SQLState: "23505", Table: "t"}}, `the database refused a pushed row of public.t (SQLSTATE 23505): correct the row and push again`},
		{&PushRejectedError{Rejection: PushRejection{SQLState: "P0001"}}, `the database refused the pushed rows (SQLSTATE P0001): correct the row and push again`},
		{&PushRejectedError{Message: "m"}, `m`},
		{&SourceRetiredError{"u", "a", "b"}, `source "a" of scope "u" is retired: use source "b", which replaced it`},
		{&SourceRetiredError{UserID: "u", SourceID: "a"}, `source "a" of scope "u" is retired: use a new source`},
		{&SourceSequenceOutOfOrderError{"u", "a", 4, 6}, `source "a" of scope "u" must push bundle 4 next, not 6: push the missing bundles, or rotate to a new source`},
		{&SourceSequenceOutOfOrderError{"u", "a", 4, 3}, `source "a" of scope "u" has committed bundle 3: use 4, its next one`},
		{&SourceSequenceChangedError{"u", "a", 5, 4}, `source "a" of scope "u" must commit bundle 5 next, but the session is for bundle 4: create a new push session`},
		{&SourceTupleHistoryPrunedError{"u", "a", 4, 9}, `bundle 4 of source "a" in scope "u" is no longer retained (the source has committed up to 9): rebuild from a snapshot with a source replacement`},
		{&SnapshotSessionNotFoundError{"s"}, `there is no snapshot "s": create a new one`},
		{&SnapshotSessionForbiddenError{"s"}, `snapshot "s" belongs to someone else: create one of your own`},
		{&SnapshotSessionExpiredError{"s"}, `snapshot "s" has expired: create a new one and read it from the start`},
		{&SnapshotSessionLimitExceededError{"rows", 9, 5}, `the snapshot would have 9 rows, more than the limit of 5: ask the operator to raise the limit`},
		{&RequestBodyError{"it is empty"}, `the request body cannot be read: it is empty`},
	} {
		require.Equal(t, tc.want, tc.err.Error())
	}
}

// TestErrorsWithMessage holds for the types that carry nothing but a message.
func TestErrorsWithMessage(t *testing.T) {
	t.Parallel()

	for _, newError := range []func(message string) error{
		func(m string) error { return &ConnectInvalidError{m} },
		func(m string) error { return &InitializationStaleError{m} },
		func(m string) error { return &InitializationExpiredError{m} },
		func(m string) error { return &ScopeWriteInvalidError{m} },
		func(m string) error { return &CommittedBundleChunkInvalidError{m} },
		func(m string) error { return &PushSessionInvalidError{m} },
		func(m string) error { return &PushChunkInvalidError{m} },
		func(m string) error { return &PushCommitInvalidError{m} },
		func(m string) error { return &PushValidationError{m} },
		func(m string) error { return &SourceReplacementInvalidError{m} },
		func(m string) error { return &SnapshotSessionInvalidError{m} },
		func(m string) error { return &SnapshotChunkInvalidError{m} },
	} {
		require.Equal(t, "why: do this", newError("why: do this").Error())
		fallback := newError("").Error()
		require.True(t, strings.Contains(fallback, ": "), "%T must say what to do next: %s", newError(""), fallback)
	}
}

func TestErrorsIs(t *testing.T) {
	t.Parallel()

	pruned := fmt.Errorf("pull: %w", &HistoryPrunedError{UserID: "u", ProvidedSeq: 1, RetainedFloor: 2})
	unsupported := fmt.Errorf("bootstrap: %w", &UnsupportedSchemaError{Message: "no key"})
	require.True(t, errors.Is(pruned, &HistoryPrunedError{}))
	require.True(t, errors.Is(unsupported, &UnsupportedSchemaError{}))
	require.False(t, errors.Is(pruned, &UnsupportedSchemaError{}))
	require.False(t, errors.Is(unsupported, &HistoryPrunedError{}))
	require.False(t, errors.Is(&ScopeUninitializedError{"u"}, &HistoryPrunedError{}))
}
