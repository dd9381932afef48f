package oversync

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestKey(t *testing.T) {
	t.Parallel()

	require.Equal(t, "business.users", Key("Business", " USERS "))
	require.Equal(t, "public.users", Key("", "users"))
	require.Equal(t, "public.users", Key("  ", "users"))
}

// TestWireForm holds the JSON of every response: names, order, and which fields
// may be absent. Clients in the field depend on it.
func TestWireForm(t *testing.T) {
	t.Parallel()

	row := BundleRow{Schema: "s", Table: "t", Key: SyncKey{"id": "k"}, Op: OpDelete, RowVersion: 3}
	for _, tc := range []struct {
		value any
		want  string
	}{
		{Actor{UserID: "u"}, `{"user_id":"u"}`},
		{ErrorResponse{"code", "text"}, `{"error":"code","message":"text"}`},
		{ConnectRequest{true}, `{"has_local_pending_rows":true}`},
		{ConnectResponse{Resolution: "remote_authoritative"}, `{"resolution":"remote_authoritative"}`},
		{ConnectResponse{"retry_later", "i", "t", 1}, `{"resolution":"retry_later","initialization_id":"i","lease_expires_at":"t","retry_after_seconds":1}`},
		{row, `{"schema":"s","table":"t","key":{"id":"k"},"op":"DELETE","row_version":3}`},
		{Bundle{1, "a", 2, 1, "h", []BundleRow{row}}, `{"bundle_seq":1,"source_id":"a","source_bundle_id":2,"row_count":1,"bundle_hash":"h","rows":[{"schema":"s","table":"t","key":{"id":"k"},"op":"DELETE","row_version":3}]}`},
		{PullResponse{5, []Bundle{}, false}, `{"stable_bundle_seq":5,"bundles":[],"has_more":false}`},
		{CommittedBundleRowsResponse{1, "a", 2, 3, "h", []BundleRow{}, 0, false}, `{"bundle_seq":1,"source_id":"a","source_bundle_id":2,"row_count":3,"bundle_hash":"h","rows":[],"next_row_ordinal":0,"has_more":false}`},
		{PushSessionCreateRequest{1, 2, ""}, `{"source_bundle_id":1,"planned_row_count":2}`},
		{PushSessionCreateResponse{PushID: "p", Status: "staging", PlannedRowCount: 2}, `{"push_id":"p","status":"staging","planned_row_count":2}`},
		{
			PushSessionCreateResponse{Status: "already_committed", BundleSeq: 1, SourceID: "a", SourceBundleID: 2, RowCount: 3, BundleHash: "h"},
			`{"status":"already_committed","bundle_seq":1,"source_id":"a","source_bundle_id":2,"row_count":3,"bundle_hash":"h"}`,
		},
		{PushSessionChunkResponse{"p", 0}, `{"push_id":"p","next_expected_row_ordinal":0}`},
		{PushSessionCommitResponse{1, "a", 2, 3, "h"}, `{"bundle_seq":1,"source_id":"a","source_bundle_id":2,"row_count":3,"bundle_hash":"h"}`},
		{
			PushConflictResponse{"push_conflict", "m", &PushConflictDetails{"s", "t", SyncKey{"id": "k"}, OpInsert, 0, 0, false, nil}},
			`{"error":"push_conflict","message":"m","conflict":{"schema":"s","table":"t","key":{"id":"k"},"op":"INSERT","base_row_version":0,"server_row_version":0,"server_row_deleted":false,"server_row":null}}`,
		},
		{PushRejectedResponse{"push_rejected", "m", PushRejection{SQLState: "23502"}}, `{"error":"push_rejected","message":"m","rejection":{"sqlstate":"23502"}}`},
		{
			PushRejection{"23505", "s", "t", "c", "u", SyncKey{"id": "k"}},
			`{"sqlstate":"23505","schema":"s","table":"t","column":"c","constraint":"u","key":{"id":"k"}}`,
		},
		{SnapshotSession{"x", 1, 0, 0, "t"}, `{"snapshot_id":"x","snapshot_bundle_seq":1,"row_count":0,"expires_at":"t"}`},
		{SnapshotSessionCreateRequest{}, `{}`},
		{SnapshotSourceReplacement{"a", "b", "r"}, `{"previous_source_id":"a","new_source_id":"b","reason":"r"}`},
		{SnapshotRow{"s", "t", SyncKey{"id": "k"}, 3, json.RawMessage(`{"id":"k"}`)}, `{"schema":"s","table":"t","key":{"id":"k"},"row_version":3,"payload":{"id":"k"}}`},
		{SnapshotChunkResponse{"x", 1, []SnapshotRow{}, 0, false}, `{"snapshot_id":"x","snapshot_bundle_seq":1,"rows":[],"next_row_ordinal":0,"has_more":false}`},
		{SnapshotLimitExceededResponse{"e", "m", "rows", 9, 5}, `{"error":"e","message":"m","dimension":"rows","actual":9,"limit":5}`},
		{SourceRetiredResponse{"e", "m", "a", ""}, `{"error":"e","message":"m","source_id":"a"}`},
		{RegisteredTableSpec{"s", "t", []string{"id"}}, `{"schema":"s","table":"t","sync_key_columns":["id"]}`},
		{CapabilitiesResponse{ProtocolVersion: SyncProtocolVersion, Features: map[string]bool{}}, `{"protocol_version":"v1","schema_version":0,"features":{}}`},
		{
			BundleCapabilitiesLimits{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14},
			`{"max_rows_per_bundle":1,"max_bytes_per_bundle":2,"max_bundles_per_pull":3,"default_rows_per_push_chunk":4,"max_rows_per_push_chunk":5,` +
				`"push_session_ttl_seconds":6,"default_rows_per_committed_bundle_chunk":7,"max_rows_per_committed_bundle_chunk":8,"default_rows_per_snapshot_chunk":9,` +
				`"max_rows_per_snapshot_chunk":10,"snapshot_session_ttl_seconds":11,"max_rows_per_snapshot_session":12,"max_bytes_per_snapshot_session":13,"initialization_lease_ttl_seconds":14}`,
		},
		{
			StatusResponse{RegisteredTables: []string{}, Features: map[string]bool{}},
			`{"status":"","version":"","app_name":"","lifecycle":"","accepting_operations":false,"inflight_operations":0,"registered_tables":[],"features":{},` +
				`"user_state_retention_floor_ahead_count":0,"latest_bundle_seq_max":0,"retained_bundle_floor_min":0,"retained_bundle_floor_max":0,` +
				`"retained_bundle_window_min":0,"retained_bundle_window_max":0,"history_pruned_error_count":0,"accepted_push_replay_count":0,` +
				`"rejected_registered_write_count":0,"committed_bundle_count":0,"committed_bundle_bytes":0}`,
		},
	} {
		got, err := json.Marshal(tc.value)
		require.NoError(t, err)
		require.Equal(t, tc.want, string(got), "%T", tc.value)
	}
}

func TestStageMetricsRecorderFunc(t *testing.T) {
	t.Parallel()

	var got StageTiming
	var recorder StageMetricsRecorder = StageMetricsRecorderFunc(func(_ context.Context, timing StageTiming) { got = timing })
	recorder.ObserveStage(t.Context(), StageTiming{Operation: "pull", Duration: time.Second})
	require.Equal(t, StageTiming{Operation: "pull", Duration: time.Second}, got)
	StageMetricsRecorderFunc(nil).ObserveStage(t.Context(), got)
}
