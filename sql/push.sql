-- name: PushChunkStage :one
-- Stages a chunk of rows, given as arrays that go together.
SELECT sync.push_stage(@push_id::uuid, @user_id::text, @source_id::text, @start_row_ordinal::bigint, @catalog_version::bigint,
    @table_ids::integer[], @ops::text, @base_row_versions::bigint[], @keys::bytea[], @payloads::text[],
    @session_ttl::interval, @lease_ttl::interval)::bigint AS next_row_ordinal;

-- name: PushCommit :one
-- Judges and applies a staged push and writes its log. What it did is null where the log notes that. No row: it is larger than asked for.
SELECT c.bundle_seq::bigint AS bundle_seq, c.source_bundle_id::bigint AS source_bundle_id, c.row_count::bigint AS row_count, c.live_row_delta::bigint AS live_row_delta, c.bytes_before::bigint AS bytes_before
FROM sync.push_commit(@push_id::uuid, @user_id::text, @source_id::text, @max_rows::bigint, @lease_ttl::interval, @planned_at_most::bigint) AS c;

-- name: PushCommitRows :many
-- Commits pushes of one row each, given as arrays that go together, as a bundle each. No row: they cannot be committed at once.
SELECT c.bundle_seq::bigint AS bundle_seq, c.source_bundle_id::bigint AS source_bundle_id, c.live_row_delta::bigint AS live_row_delta, c.bytes_before::bigint AS bytes_before
FROM sync.push_commit_rows(@push_ids::uuid[], @user_id::text, @source_ids::text[]) AS c;

-- name: PushCommittedRows :many
-- Rows of the bundles that PushCommitRows made, in order, in the form of BundleOpenRows.
SELECT r.bundle_seq, r.row_ordinal, r.table_id, r.op::text AS op, r.key_bytes, r.payload, coalesce(octet_length(r.payload), 0)::integer AS payload_bytes
FROM sync.bundle_rows r
WHERE r.user_pk = (SELECT b.user_pk FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id() AND NOT b.is_implicit)
  AND r.bundle_seq >= (SELECT b.bundle_seq FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id() AND NOT b.is_implicit)
ORDER BY r.bundle_seq, r.row_ordinal;

-- name: PushCloseRows :exec
-- Enters the bundles of PushCommitRows, given as arrays that go together.
SELECT sync.push_close_rows(@source_ids::text[], @source_bundle_ids::bigint[], @bundle_hashes::bytea[], @byte_counts::bigint[],
    @retained_bundles::bigint, @live_row_delta::bigint, @live_byte_delta::bigint);

-- name: PushSessionCreate :one
-- Begins a push session, or returns the bundle if it is committed.
SELECT coalesce(c.push_id::text, '')::text AS push_id, coalesce(c.bundle_seq, 0)::bigint AS bundle_seq, coalesce(c.row_count, 0)::bigint AS row_count, c.bundle_hash::bytea AS bundle_hash
FROM sync.push_create(@user_id::text, @source_id::text, @source_bundle_id::bigint, @planned_row_count::bigint,
    nullif(@initialization_id::text, ''), @session_ttl::interval, @lease_ttl::interval) AS c;

-- name: PushSessionDelete :exec
-- Ends a push session.
SELECT sync.push_delete(@push_id::uuid, @user_id::text, @source_id::text);

-- name: PushLockTimeout :exec
-- Bounds each wait for a lock in this transaction, in milliseconds.
SELECT set_config('lock_timeout', (@milliseconds::bigint)::text, true);
