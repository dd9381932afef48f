-- name: ScopeConnect :one
-- Says how a source is to begin. lease_expires_at is the epoch where there is no lease.
SELECT c.resolution::text AS resolution, coalesce(c.initialization_id::text, '')::text AS initialization_id,
       coalesce(c.lease_expires_at, 'epoch')::timestamptz AS lease_expires_at, coalesce(c.retry_after_seconds, 0)::integer AS retry_after_seconds
FROM sync.connect(@user_id::text, @source_id::text, @has_local_pending_rows::boolean, @lease_ttl::interval) AS c;

-- name: ScopeNames :many
-- All scopes, in order; those too that only rows have.
SELECT s.user_id::text AS user_id FROM sync.scope_ids() AS s(user_id) ORDER BY s.user_id COLLATE "C";

-- name: ScopeRepair :one
-- Enters what differs into the log, as one bundle.
SELECT sync.repair(@user_id::text)::bigint AS row_count;

-- name: ScopeVerify :many
-- Rows of a scope that the log does not have as they are, or has though they are gone. A table that cannot be compared is a row with the key ''.
SELECT v.schema_name::text AS schema_name, v.table_name::text AS table_name, coalesce(v.key, '')::text AS row_key, v.difference::text AS difference,
       coalesce(v.live_row::text, 'null')::text AS live_row, coalesce(v.log_row::text, 'null')::text AS log_row
FROM sync.verify(@user_id::text) AS v;

-- name: ScopeHeads :many
-- How far each of these scopes is. A scope that nobody has connected to has no row.
SELECT u.user_id, u.user_pk, u.state, u.lease_expires_at, u.retained_bundle_floor, u.next_bundle_seq FROM sync.user_state u WHERE u.user_id = ANY (@user_ids::text[]);
