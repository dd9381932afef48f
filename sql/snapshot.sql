-- name: SnapshotCreate :one
-- Freezes a scope at its newest sequence, with a source replacement if new_source_id is not empty.
SELECT s.snapshot_id::uuid AS snapshot_id, s.snapshot_bundle_seq::bigint AS snapshot_bundle_seq, s.row_count::bigint AS row_count,
       s.byte_count::bigint AS byte_count, s.expires_at::timestamptz AS expires_at
FROM sync.snapshot_create(@user_id::text, @source_id::text, @session_ttl::interval, @max_rows::bigint, @max_bytes::bigint,
    nullif(@new_source_id::text, ''), nullif(@reason::text, '')) AS s;

-- name: SnapshotDelete :one
-- Ends a snapshot session of this user. Returns whether the session is of another user.
WITH gone AS (
    DELETE FROM sync.snapshot_sessions s USING sync.user_state u
    WHERE s.snapshot_id = @snapshot_id AND u.user_pk = s.user_pk AND u.user_id = @user_id::text
    RETURNING s.snapshot_id
), marks AS (
    DELETE FROM sync.snapshot_marks m USING gone g WHERE m.snapshot_id = g.snapshot_id
)
SELECT (EXISTS (SELECT FROM sync.snapshot_sessions s WHERE s.snapshot_id = @snapshot_id) AND NOT EXISTS (SELECT FROM gone))::boolean AS is_forbidden;

-- name: SnapshotMark :exec
-- Remembers where a chunk ended.
INSERT INTO sync.snapshot_marks (snapshot_id, row_ordinal, table_id, key_bytes)
VALUES (@snapshot_id, @row_ordinal, @table_id, @key_bytes)
ON CONFLICT DO NOTHING;

-- name: SnapshotRows :many
-- Rows of a snapshot after an ordinal; the position of the session is on every row. Streamed.
-- No row: no such session. A row without key: no rows left, or the caller may not read it.
-- A session that was made while its sequence was being pruned counts as expired: retention cannot see a session before
-- it is committed, and a made-up state must never be read. A session that expires while its rows are read does not cut them off.
SELECT (u.user_id <> @user_id::text)::boolean AS is_forbidden, s.snapshot_bundle_seq, s.row_count,
       (s.expires_at <= statement_timestamp() OR s.snapshot_bundle_seq < u.pruned_bundle_seq)::boolean AS is_expired,
       r.table_id::integer AS table_id, r.key_bytes::bytea AS key_bytes, r.row_version::bigint AS row_version, r.payload::text AS payload
FROM sync.snapshot_sessions s
JOIN sync.user_state u ON u.user_pk = s.user_pk
LEFT JOIN LATERAL (
    SELECT m.row_ordinal, m.table_id, m.key_bytes FROM sync.snapshot_marks m
    WHERE m.snapshot_id = s.snapshot_id AND m.row_ordinal <= sqlc.arg(after_row_ordinal)::bigint
    ORDER BY m.row_ordinal DESC LIMIT 1
) AS mark ON true
LEFT JOIN LATERAL sync.snapshot_rows(s.user_pk, s.snapshot_bundle_seq, coalesce(mark.table_id, 0), coalesce(mark.key_bytes, ''),
    sqlc.arg(after_row_ordinal)::bigint - coalesce(mark.row_ordinal, 0), @max_rows::bigint) AS r
    ON u.user_id = @user_id::text AND s.expires_at > statement_timestamp() AND s.snapshot_bundle_seq >= u.pruned_bundle_seq
WHERE s.snapshot_id = @snapshot_id;
