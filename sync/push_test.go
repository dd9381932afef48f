package oversync_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
	oversync "github.com/oversync/oversync/sync"
)

// A push whose wait for a lock ends starts over, so that its device does not have to.
func TestAPushThatGivesWayIsTriedAgain(t *testing.T) {
	t.Parallel()
	pool := pgtest.NewPool(t)
	var blocker pgx.Tx
	var release sync.Once
	attempts := 0 // of one push, whose goroutine calls this
	service := newService(t, pool, notesDDL, &oversync.ServiceConfig{
		RegisteredTables: tables("app.notes"), UploadLockTimeout: 50 * time.Millisecond,
		StageMetrics: oversync.StageMetricsRecorderFunc(func(ctx context.Context, timing oversync.StageTiming) {
			if timing.Operation == "push_commit" && timing.Error {
				release.Do(func() { _ = blocker.Rollback(ctx) })
			}
			attempts = max(attempts, timing.Attempt)
		}),
	})
	phone := newDevice(t, service, "anna", "phone")
	phone.mustPush(t, insertNote(1, "a"))
	blocker, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer release.Do(func() { _ = blocker.Rollback(context.Background()) })
	_, err = blocker.Exec(t.Context(), "SELECT FROM app.notes FOR UPDATE")
	require.NoError(t, err)
	phone.mustPush(t, updateNote(1, 1, "b"))
	require.Equal(t, 2, attempts)
}

// What has as many bytes as are allowed passes, and one more is refused.
func TestLimitsOfBytesAreExact(t *testing.T) {
	t.Parallel()
	free, pool := newQuiet(t, oversync.ServiceConfig{})
	newDevice(t, free, "anna", "phone").mustPush(t, insertNote(1, "a"))
	bundle := scalar[int](t, pool, "SELECT byte_count FROM sync.bundle_log")
	live := scalar[int64](t, pool, "SELECT live_byte_count FROM sync.user_state")

	exact := openService(t, pool, oversync.ServiceConfig{MaxBytesPerBundle: bundle, MaxRowsPerSnapshotSession: 1, MaxBytesPerSnapshotSession: live}, nil)
	below := openService(t, pool, oversync.ServiceConfig{MaxBytesPerBundle: bundle - 1, MaxBytesPerSnapshotSession: live - 1}, nil)
	writeOne := func(service *oversync.SyncService, user string) error {
		_, err := oversync.NewScopeManager(service, oversync.ScopeManagerConfig{}).ExecWrite(t.Context(), user, oversync.ScopeWriteOptions{WriterID: "server"},
			func(tx pgx.Tx) error { return insertNoteSQL(t.Context(), tx, 1, "a") })
		return err
	}
	newDevice(t, exact, "ben", "phone").mustPush(t, insertNote(1, "a"))
	_, err := newDevice(t, below, "cleo", "phone").push(t.Context(), insertNote(1, "a"))
	requireType[*oversync.PushCommitInvalidError](t, err)
	require.NoError(t, writeOne(exact, "dora"))
	requireType[*oversync.ScopeWriteInvalidError](t, writeOne(below, "emil"))

	anna := oversync.Actor{UserID: "anna", SourceID: "phone"}
	_, err = exact.CreateSnapshotSession(t.Context(), anna)
	require.NoError(t, err)
	_, err = below.CreateSnapshotSession(t.Context(), anna)
	require.Equal(t, "bytes", requireAs[*oversync.SnapshotSessionLimitExceededError](t, err).Dimension)
}

func TestADeletedPushLeavesNoChunks(t *testing.T) {
	t.Parallel()
	service, pool := newQuiet(t, oversync.ServiceConfig{})
	phone := newDevice(t, service, "anna", "phone")
	session, err := phone.stage(t.Context(), insertNote(1, "a"), insertNote(2, "b"))
	require.NoError(t, err)
	require.EqualValues(t, 1, scalar[int64](t, pool, "SELECT count(*) FROM sync.push_chunks"))
	require.NoError(t, service.DeletePushSession(t.Context(), phone.actor, session.PushID))
	require.Zero(t, scalar[int64](t, pool, "SELECT (SELECT count(*) FROM sync.push_chunks) + (SELECT count(*) FROM sync.push_sessions)"))
}

// A push that fills a new scope waits in memory for its turn, and holds no connection.
func TestAPushWithALeaseWaitsInMemory(t *testing.T) {
	t.Parallel()
	service, _ := newQuiet(t, oversync.ServiceConfig{})
	phone := oversync.Actor{UserID: "anna", SourceID: "phone"}
	start, err := service.Connect(t.Context(), phone, &oversync.ConnectRequest{HasLocalPendingRows: true})
	require.NoError(t, err)
	leave, err := oversync.EnterScope(t.Context(), service, "anna")
	require.NoError(t, err)
	created := make(chan error, 1)
	go func() {
		_, err := service.CreatePushSession(t.Context(), phone, &oversync.PushSessionCreateRequest{SourceBundleID: 1, PlannedRowCount: 1, InitializationID: start.InitializationID})
		created <- err
	}()
	require.Eventually(t, func() bool { return oversync.Waiting(service, "anna") == 1 }, time.Minute, time.Millisecond)
	leave()
	require.NoError(t, <-created)
}
