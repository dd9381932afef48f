-- name: ServerInRecovery :one
-- Whether the database is a standby, which takes no writes.
SELECT pg_is_in_recovery()::boolean AS in_recovery;

-- name: ServerMissingGrants :many
-- What this role lacks to write the registered tables, as the statements that give it.
SELECT g.statement::text AS statement
FROM (
    SELECT DISTINCT format('GRANT USAGE ON SCHEMA %I TO %I;', n.nspname, current_user) AS statement
    FROM sync.table_catalog t
    JOIN pg_catalog.pg_class c ON c.oid = t.relation
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE t.unregistered_at IS NULL AND NOT has_schema_privilege(n.oid, 'USAGE')
    UNION ALL
    SELECT format('GRANT %s ON %I.%I TO %I;', string_agg(p.name, ', ' ORDER BY p.position), n.nspname, c.relname, current_user)
    FROM sync.table_catalog t
    JOIN pg_catalog.pg_class c ON c.oid = t.relation
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) WITH ORDINALITY AS p(name, position)
    WHERE t.unregistered_at IS NULL AND NOT has_table_privilege(c.oid, p.name)
    GROUP BY n.nspname, c.relname
) AS g
ORDER BY g.statement;
