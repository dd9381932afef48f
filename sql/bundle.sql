-- name: BundleAbandon :exec
-- Ends a bundle without effects.
SELECT sync.bundle_abandon();

-- name: BundleClose :exec
-- Enters the emitted bundle with its hash. Null counts mean those that the emission noted.
SELECT sync.bundle_close(@bundle_hash::bytea, @byte_count::bigint, @retained_bundles::bigint,
    sqlc.narg('row_count')::bigint, sqlc.narg('live_row_delta')::bigint, sqlc.narg('live_byte_delta')::bigint);

-- name: BundleEmit :one
-- Writes the log of the open bundle and returns the number of its effects.
SELECT sync.bundle_emit()::bigint AS row_count;

-- name: BundleOpen :one
-- Begins a server-side bundle; a null source_bundle_id means the next of its source.
SELECT b.bundle_seq::bigint AS bundle_seq, b.source_bundle_id::bigint AS source_bundle_id, b.auto_initialized::boolean AS auto_initialized
FROM sync.bundle_open(@user_id::text, @source_id::text, sqlc.narg('source_bundle_id')::bigint, @initialize::boolean) AS b;

-- name: BundleOpenRows :many
-- Rows of the bundle that this transaction has open, in order. Streamed, to make the hash. Bytes are counted in the database's encoding.
SELECT r.bundle_seq, r.row_ordinal, r.table_id, r.op::text AS op, r.key_bytes, r.payload, coalesce(octet_length(r.payload), 0)::integer AS payload_bytes
FROM sync.bundle_rows r
WHERE (r.user_pk, r.bundle_seq) = (SELECT b.user_pk, b.bundle_seq FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id() AND NOT b.is_implicit)
ORDER BY r.row_ordinal;

-- name: BundleHeader :one
-- One bundle of a scope, and whether retention still serves it. No row: no such scope.
SELECT u.state, u.lease_expires_at, u.user_pk, u.retained_bundle_floor, u.next_bundle_seq,
       coalesce(l.bundle_seq, 0)::bigint AS bundle_seq, coalesce(l.source_id, '')::text AS source_id,
       coalesce(l.source_bundle_id, 0)::bigint AS source_bundle_id, coalesce(l.row_count, 0)::bigint AS row_count, l.bundle_hash
FROM sync.user_state u
LEFT JOIN sync.bundle_log l ON l.user_pk = u.user_pk AND l.bundle_seq = @bundle_seq::bigint
WHERE u.user_id = @user_id;

-- name: BundleRows :many
-- Rows of one bundle from an ordinal on, in order. Streamed, in the form of BundleOpenRows.
SELECT r.bundle_seq, r.row_ordinal, r.table_id, r.op::text AS op, r.key_bytes, r.payload, coalesce(octet_length(r.payload), 0)::integer AS payload_bytes
FROM sync.bundle_rows r
WHERE r.user_pk = @user_pk AND r.bundle_seq = @bundle_seq AND r.row_ordinal >= @from_row_ordinal AND r.row_ordinal < @to_row_ordinal
ORDER BY r.row_ordinal;

-- name: BundlePull :many
-- Rows of the bundles of a scope after one sequence and up to another, with what is told of a bundle on its first row. Streamed.
SELECT b.bundle_seq, b.row_ordinal, b.table_id, b.op::text AS op, b.key_bytes, b.payload,
       l.source_id, l.source_bundle_id, l.row_count, l.bundle_hash
FROM sync.bundle_rows b
-- Looked up for the first row of each bundle. A plain join may become a merge, which reads all bundles of the scope.
LEFT JOIN LATERAL (
    SELECT h.source_id, h.source_bundle_id, h.row_count, h.bundle_hash FROM sync.bundle_log h
    WHERE b.row_ordinal = 0 AND h.user_pk = b.user_pk AND h.bundle_seq = b.bundle_seq LIMIT 1
) AS l ON true
WHERE b.user_pk = @user_pk AND b.bundle_seq > @after_bundle_seq AND b.bundle_seq <= @last_bundle_seq
ORDER BY b.bundle_seq, b.row_ordinal;

-- name: BundleSeal :exec
-- Gives bundles of a scope that plain SQL wrote their hashes. Sealing one twice changes nothing.
WITH given AS MATERIALIZED ( -- scope and sequence from one place, so that the index finds both
    SELECT u.user_pk, n.bundle_seq, n.bundle_hash, n.byte_count
    FROM sync.user_state u,
         ROWS FROM (unnest(@bundle_seqs::bigint[]), unnest(@bundle_hashes::bytea[]), unnest(@byte_counts::bigint[])) AS n(bundle_seq, bundle_hash, byte_count)
    WHERE u.user_id = @user_id::text
), sealed AS (
    UPDATE sync.bundle_log l SET bundle_hash = g.bundle_hash, byte_count = g.byte_count
    FROM given g WHERE l.user_pk = g.user_pk AND l.bundle_seq = g.bundle_seq AND l.bundle_hash IS NULL
    RETURNING l.user_pk, l.byte_count
)
UPDATE sync.user_state u SET bundle_byte_count = u.bundle_byte_count + s.byte_count
FROM (SELECT d.user_pk, sum(d.byte_count)::bigint AS byte_count FROM sealed d GROUP BY d.user_pk) AS s WHERE u.user_pk = s.user_pk;
