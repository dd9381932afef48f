-- name: WatchListen :exec
-- Makes this connection hear of bundles that other instances committed.
LISTEN oversync_bundle_changes;

-- name: WatchNotify :exec
-- Tells all instances of committed bundles. Nothing is lost for good if this is, so it does not wait for the disk.
SELECT set_config('synchronous_commit', 'off', true), pg_notify('oversync_bundle_changes', n.payload)
FROM unnest(@payloads::text[]) AS n(payload);

-- name: WatchPoll :many
-- Newest bundles of those scopes that have a newer one than the sequence given for them.
SELECT u.user_id, l.bundle_seq, l.source_id, l.source_bundle_id
FROM (SELECT unnest(@user_ids::text[]) AS user_id, unnest(@bundle_seqs::bigint[]) AS bundle_seq) AS w
JOIN sync.user_state u ON u.user_id = w.user_id AND u.next_bundle_seq - 1 > w.bundle_seq
JOIN sync.bundle_log l ON l.user_pk = u.user_pk AND l.bundle_seq = u.next_bundle_seq - 1;

-- name: WatchStart :one
-- State of a scope and its newest bundle, for a watcher that begins. No row: no such scope.
SELECT u.state, u.lease_expires_at, u.next_bundle_seq,
       coalesce(l.source_id, '')::text AS source_id, coalesce(l.source_bundle_id, 0)::bigint AS source_bundle_id
FROM sync.user_state u
LEFT JOIN sync.bundle_log l ON l.user_pk = u.user_pk AND l.bundle_seq = u.next_bundle_seq - 1
WHERE u.user_id = @user_id;
