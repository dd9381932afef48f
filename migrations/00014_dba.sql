-- What people read: sync.check, and views in plain words.
--
-- Locks: creates new objects only.

-- +goose Up
-- +goose StatementBegin
-- sync.check returns what is wrong with the set-up of registered tables, and the SQL that mends it; no row means that all is well.
-- An error means that changes are lost or refused; a warning, that something waits to be done.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.check()
RETURNS TABLE (severity text, object text, problem text, remedy text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
SET quote_all_identifiers = off
AS $$
    WITH RECURSIVE registered AS (
        SELECT t AS entry, t.table_id, t.relation, format('%I.%I', t.schema_name, t.table_name) AS name, sync.catalog_entry(t.table_id) AS entry_now,
               t.columns_fingerprint <> sync.columns_fingerprint(t.relation) OR sync.parts_are_replaced(t.table_id) AS is_altered,
               (n.nspname, c.relname) IS DISTINCT FROM (t.schema_name::name, t.table_name::name) AS is_renamed,
               t.relation_oid <> t.relation AS is_restored, c.relispartition AS is_part
        FROM sync.table_catalog t JOIN pg_class c ON c.oid = t.relation JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE t.unregistered_at IS NULL
    ), unfit AS (
        SELECT r.table_id, r.name, p.problem, p.remedy
        FROM registered r CROSS JOIN LATERAL sync.registration_problems(r.relation, (r.entry_now).key_column, (r.entry_now).scope_column, (r.entry_now).scope_via) AS p
        UNION ALL
        SELECT r.table_id, r.name, format('its key column %I has another type now: writes are refused', (r.entry_now).key_column), format('SELECT sync.refresh_table(%L);', r.relation)
        FROM registered r JOIN pg_attribute a ON a.attrelid = r.relation AND a.attname = (r.entry_now).key_column
        WHERE a.atttypid::regtype::text <> (r.entry).key_type AND a.atttypid::regtype::text IN ('uuid', 'text')
    ), code_names AS (
        -- The tables that the code of each names: itself, those that it refers to, and those through which the scope is found.
        SELECT r.table_id, r.table_id AS named_id FROM registered r
        UNION
        SELECT c.table_id, f.parent_table_id
        FROM code_names c
        JOIN registered r ON r.table_id = c.named_id
        JOIN sync.foreign_keys f ON f.table_id = c.named_id AND f.parent_table_id IS NOT NULL AND (c.named_id = c.table_id OR f.columns = ARRAY[(r.entry_now).scope_via])
    ), made AS (
        SELECT r.relation, r.name, f.kind || '_' || r.table_id AS function_name, f.body
        FROM registered r
        CROSS JOIN LATERAL (SELECT CASE WHEN r.is_restored THEN r.entry_now ELSE r.entry END AS entry OFFSET 0) AS e
        CROSS JOIN LATERAL (VALUES ('capture', sync.capture_body(e.entry)), ('capture_row', sync.capture_row_body(e.entry)), ('emit', sync.emit_body(e.entry)),
                                   ('apply', sync.apply_body(e.entry, false)), ('apply_row', sync.apply_body(e.entry, true)), ('settle', sync.settle_body(e.entry)), ('resolve', CASE WHEN (e.entry).scope_via IS NOT NULL THEN sync.resolve_body(e.entry) END)) AS f(kind, body)
        -- Where such a table was altered or renamed, the code makes its statements afresh, and that table has a finding of its own.
        WHERE f.body IS NOT NULL AND NOT EXISTS (
            SELECT FROM code_names c JOIN registered n ON n.table_id = c.named_id
            WHERE c.table_id = r.table_id AND (n.is_altered OR n.is_renamed OR EXISTS (SELECT FROM unfit u WHERE u.table_id = n.table_id)))
    )
    SELECT 'error', format('%I.%I', t.schema_name, t.table_name), 'the table was dropped', format('SELECT sync.unregister_table(''%s'');', t.relation::oid)
    FROM sync.table_catalog t WHERE t.unregistered_at IS NULL AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = t.relation)
    UNION ALL
    SELECT 'error', u.name, u.problem, u.remedy FROM unfit u
    UNION ALL
    SELECT 'error', r.name, p.problem, p.remedy
    FROM sync.foreign_key_problems() p JOIN registered r ON r.table_id = p.table_id
    UNION ALL
    -- Before the triggers, which need them.
    SELECT 'error', 'sync.' || m.function_name, CASE WHEN f.oid IS NULL THEN 'the function is missing' ELSE 'the function is not the one that registration made' END,
           format('SELECT sync.refresh_table(%L);', m.relation)
    FROM made m LEFT JOIN pg_proc f ON f.proname = m.function_name AND f.pronamespace = 'sync'::regnamespace
    -- Numbers of tables are others where a dump was restored. The code knows.
    WHERE regexp_replace(f.prosrc, $f$'\d+'::pg_catalog\.regclass$f$, '', 'g') IS DISTINCT FROM regexp_replace(m.body, $f$'\d+'::pg_catalog\.regclass$f$, '', 'g')
    UNION ALL
    SELECT 'error', 'sync.' || f.proname, format('the function belongs to %s, which may not write the log: writes are refused', f.proowner::regrole), format('ALTER FUNCTION %s OWNER TO %s;', f.oid::regprocedure, l.relowner::regrole)
    FROM pg_proc f, pg_class l
    WHERE f.pronamespace = 'sync'::regnamespace AND f.prosecdef AND l.oid = 'sync.captured_keys'::regclass AND NOT pg_has_role(f.proowner, l.relowner, 'USAGE')
    UNION ALL
    SELECT 'warning', r.name, 'the database was restored from a dump: all is captured, but slower until the code of the table is made anew', format('SELECT sync.refresh_table(%L);', r.relation)
    FROM registered r WHERE r.is_restored AND NOT EXISTS (SELECT FROM unfit u WHERE u.table_id = r.table_id)
    UNION ALL
    SELECT CASE WHEN e.relation = r.relation THEN 'error' ELSE 'warning' END, e.relation::text,
           format('trigger %I is missing', e.trigger_name), CASE WHEN e.relation = r.relation THEN e.definition || ';' ELSE format('SELECT sync.refresh_table(%L);', r.relation) END
    FROM registered r CROSS JOIN LATERAL sync.expected_triggers(r.table_id) AS e
    -- A table that became a partition has the triggers of the table of which it is a part.
    WHERE NOT r.is_part AND NOT EXISTS (SELECT FROM pg_trigger g JOIN pg_proc f ON f.oid = g.tgfoid WHERE g.tgrelid = e.relation AND g.tgname = e.trigger_name AND f.proname = e.function_name)
    UNION ALL
    SELECT 'error', g.tgrelid::regclass::text, format('trigger %I is %s', g.tgname, CASE g.tgenabled WHEN 'D' THEN 'disabled' ELSE 'enabled for replicas only' END),
           format('ALTER TABLE %s ENABLE TRIGGER %I;', g.tgrelid::regclass, g.tgname)
    FROM registered r CROSS JOIN LATERAL sync.expected_triggers(r.table_id) AS e
    JOIN pg_trigger g ON g.tgrelid = e.relation AND g.tgname = e.trigger_name
    WHERE g.tgenabled NOT IN ('O', 'A')
    UNION ALL
    SELECT DISTINCT 'warning', s.relation::text, format('the partition was detached from %s: clients still have its rows', r.relation), format('SELECT sync.refresh_table(%L);', r.relation)
    FROM registered r CROSS JOIN LATERAL sync.stray_triggers(r.table_id) AS s
    UNION ALL
    SELECT 'warning', r.name, CASE WHEN r.is_renamed THEN format('the table is called %s now', r.relation) ELSE 'the table was altered since it was registered' END || ': it is captured whole, but rows not written since still have their old form for clients',
           format('SELECT sync.refresh_table(%L);', r.relation)
    FROM registered r WHERE (r.is_altered OR r.is_renamed) AND NOT EXISTS (SELECT FROM unfit u WHERE u.table_id = r.table_id)
    UNION ALL
    SELECT 'warning', r.name, format('rows that were there before still enter the log%s', ': ' || q.waiting || ' are waiting'), format('CALL sync.adopt_table(%L);', r.relation)
    FROM registered r JOIN sync.adoptions a ON a.table_id = r.table_id
    CROSS JOIN LATERAL (SELECT sum(cardinality(w.keys)) AS waiting FROM sync.adoption_queue w WHERE w.table_id = r.table_id) AS q
$$;
COMMENT ON FUNCTION sync.check() IS 'What is wrong with the set-up of registered tables, and the SQL that mends it: SELECT * FROM sync.check(); no row means that all is well.';

CREATE VIEW sync.scopes AS
SELECT u.user_id, u.state, u.next_bundle_seq - 1 AS newest_bundle_seq, u.retained_bundle_floor, u.live_row_count AS live_rows, u.live_byte_count AS live_bytes,
       u.last_bundle_at, u.lease_source_id, u.lease_expires_at, u.created_at
FROM sync.user_state u;
COMMENT ON VIEW sync.scopes IS 'Scopes (users): how far each is, how much it holds, when it was last written.';
COMMENT ON COLUMN sync.scopes.user_id IS 'Scope id.';
COMMENT ON COLUMN sync.scopes.state IS 'uninitialized, initializing or initialized.';
COMMENT ON COLUMN sync.scopes.newest_bundle_seq IS 'Sequence of the newest bundle; 0 if there is none.';
COMMENT ON COLUMN sync.scopes.retained_bundle_floor IS 'History at or below this is no longer served.';
COMMENT ON COLUMN sync.scopes.live_rows IS 'Rows that a snapshot holds.';
COMMENT ON COLUMN sync.scopes.live_bytes IS 'Bytes of the payloads that a snapshot holds.';
COMMENT ON COLUMN sync.scopes.last_bundle_at IS 'When the newest bundle was committed.';
COMMENT ON COLUMN sync.scopes.lease_source_id IS 'Source that is filling a new scope.';
COMMENT ON COLUMN sync.scopes.lease_expires_at IS 'When its lease ends.';
COMMENT ON COLUMN sync.scopes.created_at IS 'When the scope was first seen.';

CREATE VIEW sync.sources AS
SELECT u.user_id, s.source_id, s.state, s.is_device, s.last_source_bundle_id, s.replaced_by_source_id, s.replacement_reason, s.updated_at
FROM sync.source_state s JOIN sync.user_state u ON u.user_pk = s.user_pk;
COMMENT ON VIEW sync.sources IS 'Sources (devices and server-side writers) of each scope.';
COMMENT ON COLUMN sync.sources.user_id IS 'Scope id.';
COMMENT ON COLUMN sync.sources.source_id IS 'Source.';
COMMENT ON COLUMN sync.sources.state IS 'active, reserved or retired.';
COMMENT ON COLUMN sync.sources.is_device IS 'Whether it pushes through the API.';
COMMENT ON COLUMN sync.sources.last_source_bundle_id IS 'Number of its last bundle.';
COMMENT ON COLUMN sync.sources.replaced_by_source_id IS 'Source that took over.';
COMMENT ON COLUMN sync.sources.replacement_reason IS 'Why.';
COMMENT ON COLUMN sync.sources.updated_at IS 'When it last changed.';

CREATE VIEW sync.bundles AS
SELECT u.user_id, l.bundle_seq, l.source_id, l.source_bundle_id, l.row_count, l.byte_count, encode(l.bundle_hash, 'hex') AS bundle_hash, l.committed_at
FROM sync.bundle_log l JOIN sync.user_state u ON u.user_pk = l.user_pk;
COMMENT ON VIEW sync.bundles IS 'Bundles: what was committed in each scope, by whom and when.';
COMMENT ON COLUMN sync.bundles.user_id IS 'Scope id.';
COMMENT ON COLUMN sync.bundles.bundle_seq IS 'Place in the history of the scope.';
COMMENT ON COLUMN sync.bundles.source_id IS 'Source that wrote it.';
COMMENT ON COLUMN sync.bundles.source_bundle_id IS 'Number of the bundle within its source.';
COMMENT ON COLUMN sync.bundles.row_count IS 'Effects.';
COMMENT ON COLUMN sync.bundles.byte_count IS 'Bytes of its canonical JSON; null until a server has read it.';
COMMENT ON COLUMN sync.bundles.bundle_hash IS 'SHA-256 of its canonical JSON; null until a server has read it.';
COMMENT ON COLUMN sync.bundles.committed_at IS 'When.';

CREATE VIEW sync.rows AS
SELECT u.user_id, r.bundle_seq, r.row_ordinal, t.schema_name, t.table_name, sync.key_text(r.table_id, r.key_bytes) AS key,
       CASE r.op WHEN 'I' THEN 'INSERT' WHEN 'U' THEN 'UPDATE' ELSE 'DELETE' END AS op, r.payload::json AS payload, l.source_id, l.committed_at
FROM sync.bundle_rows r JOIN sync.user_state u ON u.user_pk = r.user_pk JOIN sync.table_catalog t ON t.table_id = r.table_id
LEFT JOIN sync.bundle_log l ON l.user_pk = r.user_pk AND l.bundle_seq = r.bundle_seq;
COMMENT ON VIEW sync.rows IS 'Effects in the log, in words: which row, what happened to it, how it was afterwards.';
COMMENT ON COLUMN sync.rows.user_id IS 'Scope id.';
COMMENT ON COLUMN sync.rows.bundle_seq IS 'Bundle; also the version of the row.';
COMMENT ON COLUMN sync.rows.row_ordinal IS 'Place in the bundle.';
COMMENT ON COLUMN sync.rows.schema_name IS 'Schema.';
COMMENT ON COLUMN sync.rows.table_name IS 'Table.';
COMMENT ON COLUMN sync.rows.key IS 'Key, as clients know it.';
COMMENT ON COLUMN sync.rows.op IS 'INSERT, UPDATE or DELETE.';
COMMENT ON COLUMN sync.rows.payload IS 'The row after the change; null for a DELETE.';
COMMENT ON COLUMN sync.rows.source_id IS 'Source that wrote it; null where retention has removed the bundle and left the newest version of the row.';
COMMENT ON COLUMN sync.rows.committed_at IS 'When; null as source_id.';

CREATE VIEW sync.tables AS
SELECT t.schema_name, t.table_name, t.key_column, coalesce(t.scope_column::text, 'through ' || t.scope_via) AS scope, t.policy,
       t.columns_fingerprint IS DISTINCT FROM sync.columns_fingerprint(t.relation) OR sync.parts_are_replaced(t.table_id) AS was_altered,
       CASE WHEN a.table_id IS NULL THEN 0 WHEN a.row_count IS NOT NULL THEN (SELECT sum(cardinality(q.keys)) FROM sync.adoption_queue q WHERE q.table_id = t.table_id) END AS rows_to_adopt, t.registered_at
FROM sync.table_catalog t LEFT JOIN sync.adoptions a ON a.table_id = t.table_id WHERE t.unregistered_at IS NULL;
COMMENT ON VIEW sync.tables IS 'Registered tables. What is wrong with them: SELECT * FROM sync.check().';
COMMENT ON COLUMN sync.tables.schema_name IS 'Schema as clients know it.';
COMMENT ON COLUMN sync.tables.table_name IS 'Table as clients know it.';
COMMENT ON COLUMN sync.tables.key_column IS 'Key column.';
COMMENT ON COLUMN sync.tables.scope IS 'Column that says whose row it is, or the column through which that is found.';
COMMENT ON COLUMN sync.tables.policy IS 'What a write outside a bundle does: reject or capture.';
COMMENT ON COLUMN sync.tables.was_altered IS 'Altered since it was registered: SELECT sync.refresh_table(...).';
COMMENT ON COLUMN sync.tables.rows_to_adopt IS 'Rows that still have to enter the log; null while they wait and have not been counted yet.';
COMMENT ON COLUMN sync.tables.registered_at IS 'When it was registered.';

CREATE VIEW sync.sessions AS
SELECT 'push' AS kind, u.user_id, p.source_id, p.staged_row_count AS rows_done, p.planned_row_count AS row_count, p.expires_at
FROM sync.push_sessions p JOIN sync.user_state u ON u.user_pk = p.user_pk
UNION ALL
SELECT 'snapshot', u.user_id, s.source_id, coalesce((SELECT max(m.row_ordinal) FROM sync.snapshot_marks m WHERE m.snapshot_id = s.snapshot_id), 0), s.row_count, s.expires_at
FROM sync.snapshot_sessions s JOIN sync.user_state u ON u.user_pk = s.user_pk;
COMMENT ON VIEW sync.sessions IS 'Pushes being staged and snapshots being read.';
COMMENT ON COLUMN sync.sessions.kind IS 'push or snapshot.';
COMMENT ON COLUMN sync.sessions.user_id IS 'Scope id.';
COMMENT ON COLUMN sync.sessions.source_id IS 'Source.';
COMMENT ON COLUMN sync.sessions.rows_done IS 'Rows staged, or read as far as is known.';
COMMENT ON COLUMN sync.sessions.row_count IS 'Rows in all.';
COMMENT ON COLUMN sync.sessions.expires_at IS 'When it ends.';
-- +goose StatementEnd

-- +goose Down
DROP VIEW sync.sessions;
DROP VIEW sync.tables;
DROP VIEW sync.rows;
DROP VIEW sync.bundles;
DROP VIEW sync.sources;
DROP VIEW sync.scopes;
DROP FUNCTION sync.check();
