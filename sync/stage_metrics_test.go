package oversync_test

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
	oversync "github.com/oversync/oversync/sync"
)

// stageRecorder keeps every timing that it is told.
type stageRecorder struct {
	mu      sync.Mutex
	timings []oversync.StageTiming
}

func (r *stageRecorder) ObserveStage(_ context.Context, timing oversync.StageTiming) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.timings = append(r.timings, timing)
}

// take returns the stages recorded since the last call.
func (r *stageRecorder) take() (stages []string, timings []oversync.StageTiming) {
	r.mu.Lock()
	defer r.mu.Unlock()
	timings, r.timings = r.timings, nil
	for _, timing := range timings {
		stages = append(stages, timing.Operation+"/"+timing.Stage)
	}
	return stages, timings
}

// TestStageTimingsOfEveryHotPath checks which stages each operation reports. People
// build dashboards on these names.
func TestStageTimingsOfEveryHotPath(t *testing.T) {
	t.Parallel()
	recorder := &stageRecorder{}
	service := newService(t, pgtest.NewPool(t), notesDDL, &oversync.ServiceConfig{RegisteredTables: tables("app.notes"), StageMetrics: recorder})
	expect := func(stages ...string) []oversync.StageTiming {
		t.Helper()
		have, timings := recorder.take()
		require.Equal(t, stages, have)
		for _, timing := range timings {
			require.False(t, timing.Error)
			require.Equal(t, 1, timing.Attempt)
			require.GreaterOrEqual(t, timing.Duration.Nanoseconds(), int64(0))
		}
		return timings
	}
	phone := newDevice(t, service, "anna", "phone")
	expect("connect/look", "connect/resolve")
	phone.mustPush(t, insertNote(1, "a"), insertNote(2, "b"))
	timings := expect("push_create/create", "push_chunk/judge", "push_chunk/stage", "push_commit/acquire", "push_commit/apply", "push_commit/hash", "push_commit/commit")
	apply := slices.IndexFunc(timings, func(timing oversync.StageTiming) bool { return timing.Stage == "apply" })
	require.Equal(t, 2, timings[apply].Count)
	phone.mustPull(t)
	expect("pull/head", "pull/stream")
	_, err := service.GetCommittedBundleRows(t.Context(), phone.actor, 1, nil, 0)
	require.NoError(t, err)
	expect("committed_bundle_rows/header", "committed_bundle_rows/stream")
	session, err := service.CreateSnapshotSession(t.Context(), phone.actor)
	require.NoError(t, err)
	expect("snapshot_create/create")
	_, err = service.GetSnapshotChunk(t.Context(), phone.actor, session.SnapshotID, 0, 0)
	require.NoError(t, err)
	timings = expect("snapshot_chunk/stream")
	require.Equal(t, 2, timings[0].Count)
	require.NoError(t, service.WithinSyncBundle(t.Context(), phone.actor, oversync.BundleSource{SourceID: "queue", SourceBundleID: 1}, func(tx pgx.Tx) error {
		return insertNoteSQL(t.Context(), tx, 3, "c")
	}))
	expect("server_write/open", "server_write/callback", "server_write/emit", "server_write/hash", "server_write/close")

	// A stage that fails says so.
	_, err = phone.push(t.Context(), insertNote(1, "conflict"))
	requireType[*oversync.PushConflictError](t, err)
	stages, timings := recorder.take()
	require.Equal(t, "push_commit/apply", stages[len(stages)-1])
	require.True(t, timings[len(timings)-1].Error)
}
