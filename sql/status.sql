-- name: StatusTotals :one
-- What operators watch, over all scopes. The cost goes with the number of scopes, not with the history.
SELECT count(*)::bigint AS scope_count,
       count(*) FILTER (WHERE u.retained_bundle_floor > u.next_bundle_seq - 1)::bigint AS floor_ahead_count,
       coalesce(max(u.next_bundle_seq - 1), 0)::bigint AS latest_bundle_seq_max,
       coalesce(min(u.retained_bundle_floor), 0)::bigint AS retained_floor_min,
       coalesce(max(u.retained_bundle_floor), 0)::bigint AS retained_floor_max,
       coalesce(min(u.next_bundle_seq - 1 - u.retained_bundle_floor), 0)::bigint AS retained_window_min,
       coalesce(max(u.next_bundle_seq - 1 - u.retained_bundle_floor), 0)::bigint AS retained_window_max,
       coalesce(sum(u.next_bundle_seq - 1 - u.retained_bundle_floor), 0)::bigint AS committed_bundle_count,
       coalesce(sum(u.bundle_byte_count), 0)::bigint AS committed_bundle_bytes,
       coalesce(pg_sequence_last_value('sync.history_pruned_count'::regclass), 0)::bigint AS history_pruned_count,
       coalesce(pg_sequence_last_value('sync.push_replay_count'::regclass), 0)::bigint AS push_replay_count,
       coalesce(pg_sequence_last_value('sync.rejected_write_count'::regclass), 0)::bigint AS rejected_write_count
FROM sync.user_state u;

-- name: StatusCountHistoryPruned :exec
-- Counts an answer history_pruned.
SELECT nextval('sync.history_pruned_count');

-- name: StatusErrors :one
-- How many errors the check of the set-up finds.
SELECT count(*) FROM sync.check() AS f WHERE f.severity = 'error';
