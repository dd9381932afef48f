-- name: RetentionDue :one
-- Looks at the next scopes in turn and returns those that have something to prune. The cost goes with the number of
-- scopes looked at. last_user_pk is 0 after the last scope.
SELECT (CASE WHEN count(*) < sqlc.arg(max_scopes)::bigint THEN 0 ELSE max(s.user_pk) END)::bigint AS last_user_pk,
       coalesce(array_agg(s.user_pk) FILTER (WHERE s.is_due), '{}')::bigint[] AS due
FROM (
    SELECT u.user_pk, greatest(u.retained_bundle_floor, u.next_bundle_seq - 1 - sqlc.arg(retained_bundles)::bigint) > u.pruned_bundle_seq AS is_due
    FROM sync.user_state u
    WHERE u.user_pk > sqlc.arg(after_user_pk)::bigint
    ORDER BY u.user_pk LIMIT sqlc.arg(max_scopes)::bigint
) AS s;

-- name: RetentionPruneScope :one
-- Prunes one batch of one scope. Does not wait for the disk: a crash that undoes it costs only time.
SELECT p.bundle_count::bigint AS bundle_count
FROM (SELECT set_config('synchronous_commit', 'off', true) AS setting, sync.prune_scope(@user_pk::bigint, @retained_bundles::bigint, @max_bundles::bigint) AS bundle_count) AS p;

-- name: RetentionSweep :one
-- Removes expired sessions and leftovers. Does not wait for the disk.
SELECT p.session_count::bigint AS session_count
FROM (SELECT set_config('synchronous_commit', 'off', true) AS setting, sync.sweep(@grace::interval, @max_sessions::bigint) AS session_count) AS p;
