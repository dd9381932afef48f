-- name: ScopeConnect :one
-- Says how a source is to begin. lease_expires_at is the epoch where there is no lease.
SELECT c.resolution::text AS resolution, coalesce(c.initialization_id::text, '')::text AS initialization_id,
       coalesce(c.lease_expires_at, 'epoch')::timestamptz AS lease_expires_at, coalesce(c.retry_after_seconds, 0)::integer AS retry_after_seconds
FROM sync.connect(@user_id::text, @source_id::text, @has_local_pending_rows::boolean, @lease_ttl::interval) AS c;
