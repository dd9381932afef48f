-- name: CatalogColumns :many
-- Columns of the registered tables, scope column included.
SELECT c.table_id::integer AS table_id, c.column_name::text AS column_name, c.is_bytea::boolean AS is_bytea,
       c.is_key::boolean AS is_key, c.is_scope::boolean AS is_scope, c.is_sent::boolean AS is_sent, c.is_generated::boolean AS is_generated
FROM sync.table_columns c
ORDER BY c.table_id, c.column_name;

-- name: CatalogKeepOverrides :execrows
-- Takes back the overrides of the tables named that are not among those listed.
DELETE FROM sync.table_order_overrides o
WHERE o.child IN (SELECT to_regclass(t.name) FROM unnest(@tables::text[]) AS t(name))
  AND NOT EXISTS (SELECT FROM (SELECT unnest(@children::text[]) AS child, unnest(@parents::text[]) AS parent) AS k
                  WHERE to_regclass(k.child) = o.child AND to_regclass(k.parent) = o.parent);

-- name: CatalogOverride :execrows
-- Puts one table after another beyond what foreign keys say.
INSERT INTO sync.table_order_overrides (child, parent)
VALUES (to_regclass(@child::text), to_regclass(@parent::text))
ON CONFLICT DO NOTHING;

-- name: CatalogChanged :exec
-- Brings the order of tables up to date.
SELECT sync.catalog_changed();

-- name: CatalogRegister :one
-- Registers a table; an empty key means the one that the primary key names. A table that is registered with this key already stays as it
-- is: what else was said of it, in SQL, cannot be said here.
SELECT coalesce(
    (SELECT t.table_id FROM sync.table_catalog t
     WHERE t.relation = CAST(@relation::text AS regclass) AND t.unregistered_at IS NULL AND coalesce(nullif(@sync_key::text, ''), t.key_column) = t.key_column),
    sync.register_table(CAST(@relation::text AS regclass), CAST(nullif(@sync_key::text, '') AS name)))::integer AS table_id;

-- name: CatalogTables :many
-- All tables that the log may name, unregistered ones too.
SELECT t.table_id, t.schema_name, t.table_name, t.key_column::text AS key_column, t.key_type,
       EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.relation)::boolean AS is_registered, t.apply_order
FROM sync.table_catalog t
ORDER BY t.schema_name, t.table_name, t.table_id;

-- name: CatalogVersion :one
-- Number of the catalogs present content.
SELECT v.version FROM sync.catalog_version v;

-- name: DiscoverOrder :many
-- Order in which the tables named are written: parents first, cycles grouped.
SELECT (n.nspname || '.' || c.relname)::text AS table_name, d.cycle_group::integer AS cycle_group,
       ARRAY(SELECT pn.nspname || '.' || pc.relname
             FROM unnest(d.depends_on) AS parent(oid)
             JOIN pg_catalog.pg_class pc ON pc.oid = parent.oid
             JOIN pg_catalog.pg_namespace pn ON pn.oid = pc.relnamespace
             ORDER BY 1)::text[] AS depends_on
FROM sync.discover(
    ARRAY(SELECT to_regclass(t.name)::oid FROM unnest(@tables::text[]) AS t(name) WHERE to_regclass(t.name) IS NOT NULL),
    @overrides::jsonb) AS d
JOIN pg_catalog.pg_class c ON c.oid = d.relation
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
ORDER BY d.table_position;
