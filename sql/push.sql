-- name: PushChunkStage :one
-- Stages a chunk of rows, given as arrays that go together.
SELECT sync.push_stage(@push_id::uuid, @user_id::text, @source_id::text, @start_row_ordinal::bigint, @catalog_version::bigint,
    @table_ids::integer[], @ops::text, @base_row_versions::bigint[], @keys::bytea[], @payloads::text[],
    @session_ttl::interval, @lease_ttl::interval)::bigint AS next_row_ordinal;

-- name: PushCommit :one
-- Judges and applies a staged push and writes its log. What it did is null where the log notes that. No row: it is larger than asked for.
SELECT c.bundle_seq::bigint AS bundle_seq, c.source_bundle_id::bigint AS source_bundle_id, c.row_count::bigint AS row_count, c.live_row_delta::bigint AS live_row_delta, c.bytes_before::bigint AS bytes_before
FROM sync.push_commit(@push_id::uuid, @user_id::text, @source_id::text, @max_rows::bigint, @lease_ttl::interval, @planned_at_most::bigint) AS c;

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
