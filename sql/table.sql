-- name: TableAdoptBatch :one
-- Enters the next rows of a table into the log and returns how many it took; 0 at the end.
SELECT sync.adopt_batch(@table_id::integer, @max_rows::integer)::bigint AS row_count;

-- name: TableAdoptNext :one
-- Pending adoption that comes first in the order parents first, so that clients learn of parents first. A table that is to be
-- passed over is so with all below it. No row: nothing is pending.
WITH RECURSIVE passed_over AS (
    SELECT t.table_id FROM unnest(@passed_over::integer[]) AS t(table_id)
    UNION
    SELECT f.table_id FROM sync.foreign_keys f JOIN passed_over p ON p.table_id = f.parent_table_id
)
SELECT a.table_id FROM sync.adoptions a JOIN sync.table_catalog t ON t.table_id = a.table_id
WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.relation) AND a.table_id NOT IN (SELECT p.table_id FROM passed_over p)
ORDER BY t.apply_order, a.table_id LIMIT 1;

-- name: TableAdoptPending :one
-- Works off one batch of a pending adoption. No row: it is over, or somebody else is at it.
SELECT a.table_id, sync.adopt_batch(a.table_id, @max_rows::integer)::bigint AS row_count
FROM (SELECT p.table_id FROM sync.adoptions p WHERE p.table_id = @table_id FOR UPDATE SKIP LOCKED) AS a;

-- name: TableAdoptStart :exec
-- Asks for the rows of a registered table to enter the log, unless that is under way.
INSERT INTO sync.adoptions (table_id, source_id)
SELECT t.table_id, 'oversync:adopt' FROM sync.table_catalog t
WHERE t.table_id = @table_id AND t.unregistered_at IS NULL
ON CONFLICT ON CONSTRAINT adoptions_pkey DO NOTHING;

-- name: TableCheck :many
-- What is wrong with the set-up, errors first.
SELECT c.severity::text AS severity, c.object::text AS object, c.problem::text AS problem, c.remedy::text AS remedy
FROM sync.check() AS c
ORDER BY c.severity <> 'error', c.object, c.problem;

-- name: TableList :many
-- Registered tables in the order parents first.
SELECT t.table_id, (t.schema_name || '.' || t.table_name)::text AS table_name, t.key_column::text AS key_column, t.key_type,
       coalesce(t.scope_column::text, '')::text AS scope_column, coalesce(t.scope_via::text, '')::text AS scope_via, t.policy,
       o.cycle_group::integer AS cycle_group,
       coalesce(a.source_id, '')::text AS adoption_source_id, a.row_count AS adoption_row_count,
       coalesce((SELECT sum(cardinality(q.keys)) FROM sync.adoption_queue q WHERE q.table_id = t.table_id), 0)::bigint AS adoption_rows_left
FROM sync.table_order o
JOIN sync.table_catalog t ON t.table_id = o.table_id
LEFT JOIN sync.adoptions a ON a.table_id = t.table_id
ORDER BY o.table_position;

-- name: TableID :one
-- Id of a registered table. No row: it is not registered.
SELECT t.table_id FROM sync.table_catalog t
WHERE t.relation = CAST(@relation::text AS regclass) AND t.unregistered_at IS NULL;

-- name: TableRefresh :one
-- Makes the code of a table anew after ALTER TABLE.
SELECT sync.refresh_table(CAST(@relation::text AS regclass), @adopt::text)::integer AS table_id;

-- name: TableRegister :one
-- Registers a table. Empty texts mean the default; an empty policy leaves that of a registered table as it is.
SELECT sync.register_table(
    CAST(@relation::text AS regclass), CAST(nullif(@sync_key::text, '') AS name), CAST(@scope::text AS name), nullif(@policy::text, ''),
    CAST(nullif(@scope_via::text, '') AS name), @show_scope::boolean, @on_scope_change::text, @external_references::text[], @adopt::text)::integer AS table_id;

-- name: TableSetPolicy :exec
-- Changes what becomes of a write outside a bundle.
SELECT sync.set_policy(CAST(@relation::text AS regclass), @policy::text);

-- name: TableUnregister :one
-- Takes a table out of sync and tells whether it was in.
SELECT sync.unregister_table(CAST(@relation::text AS regclass))::boolean AS was_registered;
