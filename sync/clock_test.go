package oversync_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
	oversync "github.com/oversync/oversync/sync"
)

// TestOnlyTheDatabaseClockCounts moves expiries in the database alone, past and
// back, while the clock of this process stands at about the same moment. A server
// that compared with its own clock, or remembered when it made a lease, would
// answer the same each time.
func TestOnlyTheDatabaseClockCounts(t *testing.T) {
	t.Parallel()
	service := newService(t, pgtest.NewPool(t), notesDDL, &oversync.ServiceConfig{
		RegisteredTables: tables("app.notes"), InitializationLeaseTTL: time.Hour, PushSessionTTL: time.Hour, SnapshotSessionTTL: time.Hour,
	})
	exec := func(sql string) {
		t.Helper()
		tag, err := service.Pool().Exec(t.Context(), sql)
		require.NoError(t, err)
		require.Positive(t, tag.RowsAffected())
	}
	pending := &oversync.ConnectRequest{HasLocalPendingRows: true}
	phone := &device{service: service, actor: oversync.Actor{UserID: "anna", SourceID: "phone"}, next: 1}
	tablet := oversync.Actor{UserID: "anna", SourceID: "tablet"}

	// The lease.
	lease, err := service.Connect(t.Context(), phone.actor, pending)
	require.NoError(t, err)
	require.Equal(t, "initialize_local", lease.Resolution)
	left := scalar[float64](t, service.Pool(), "SELECT extract(epoch FROM $1::text::timestamptz - clock_timestamp())::float8", lease.LeaseExpiresAt)
	require.InDelta(t, time.Hour.Seconds(), left, time.Minute.Seconds())
	answer, err := service.Connect(t.Context(), tablet, pending)
	require.NoError(t, err)
	require.Equal(t, "retry_later", answer.Resolution)
	require.InDelta(t, time.Hour.Seconds(), float64(answer.RetryAfterSec), time.Minute.Seconds())

	exec("UPDATE sync.user_state SET lease_expires_at = clock_timestamp() - interval '1 microsecond'")
	_, err = service.CreatePushSession(t.Context(), phone.actor, &oversync.PushSessionCreateRequest{SourceBundleID: 1, PlannedRowCount: 1, InitializationID: lease.InitializationID})
	requireType[*oversync.InitializationExpiredError](t, err)
	exec("UPDATE sync.user_state SET lease_expires_at = clock_timestamp() + interval '10 years'")
	answer, err = service.Connect(t.Context(), tablet, pending)
	require.NoError(t, err)
	require.Equal(t, "retry_later", answer.Resolution)
	require.Greater(t, answer.RetryAfterSec, 9*365*24*3600)
	exec("UPDATE sync.user_state SET lease_expires_at = clock_timestamp()")
	answer, err = service.Connect(t.Context(), tablet, &oversync.ConnectRequest{})
	require.NoError(t, err)
	require.Equal(t, "initialize_empty", answer.Resolution)

	// The push session: a chunk renews it, and a commit looks at it.
	session, err := phone.stage(t.Context(), insertNote(1, "x"))
	require.NoError(t, err)
	exec("UPDATE sync.push_sessions SET expires_at = clock_timestamp()")
	_, err = service.CommitPushSession(t.Context(), phone.actor, session.PushID)
	requireType[*oversync.PushSessionExpiredError](t, err)
	exec("UPDATE sync.push_sessions SET expires_at = clock_timestamp() + interval '1 minute'")
	_, err = service.CommitPushSession(t.Context(), phone.actor, session.PushID)
	require.NoError(t, err)
	phone.next++

	// The snapshot session.
	snapshot, err := service.CreateSnapshotSession(t.Context(), phone.actor)
	require.NoError(t, err)
	exec("UPDATE sync.snapshot_sessions SET expires_at = clock_timestamp()")
	_, err = service.GetSnapshotChunk(t.Context(), phone.actor, snapshot.SnapshotID, 0, 0)
	requireType[*oversync.SnapshotSessionExpiredError](t, err)
	exec("UPDATE sync.snapshot_sessions SET expires_at = clock_timestamp() + interval '1 minute'")
	chunk, err := service.GetSnapshotChunk(t.Context(), phone.actor, snapshot.SnapshotID, 0, 0)
	require.NoError(t, err)
	require.Len(t, chunk.Rows, 1)
}
