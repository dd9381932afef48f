-- Registration: sync.register_table and its like, and what they install and remove.
--
-- Locks: creates new objects only.

-- +goose Up
-- +goose StatementBegin
--
-- Installing and removing.
--
-- sync.install_functions makes the functions of a registered table (again).
-- Errors: none. Locks: none.
CREATE FUNCTION sync.install_functions(p_table sync.table_catalog)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET quote_all_identifiers = off
SET client_min_messages = warning -- what DROP IF EXISTS does not find is no news
AS $$
DECLARE
    v_id integer := p_table.table_id;
    v_name text := format('%I.%I', p_table.schema_name, p_table.table_name);
    -- The application's own triggers run under the search path they know, not under ours. One that was set to '' reads "".
    v_path text := concat_ws(', ', 'pg_catalog', (SELECT nullif(btrim(replace(s.reset_val, '""', ''), ', '), '') FROM pg_settings s WHERE s.name = 'search_path'), 'pg_temp');
    -- A disabled plan node looks so dear that the plan would be compiled: hence jit = off wherever one is.
    -- Other settings are made once, by sync.push_commit and sync.emit_captured.
BEGIN
    EXECUTE format('CREATE OR REPLACE FUNCTION sync.capture_%s() RETURNS trigger LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS %L',
        v_id, sync.capture_body(p_table));
    EXECUTE format('CREATE OR REPLACE FUNCTION sync.capture_row_%s() RETURNS trigger LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS %L',
        v_id, sync.capture_row_body(p_table));
    EXECUTE format('CREATE OR REPLACE FUNCTION sync.emit_%s(p_user_pks bigint[], p_ordinals integer[], p_keys bytea[], p_only_missing boolean) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS %L', v_id, sync.emit_body(p_table));
    EXECUTE format('CREATE OR REPLACE FUNCTION sync.apply_%s(p_user_id text, p_user_pk bigint, p_bundle_seq bigint, p_op "char", p_push_id uuid, p_from integer, p_to integer, p_ordinals integer[], p_bundle_size integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = %s AS %L',
        v_id, v_path, sync.apply_body(p_table, false));
    EXECUTE format('CREATE OR REPLACE FUNCTION sync.apply_row_%s(p_user_id text, p_user_pk bigint, p_bundle_seq bigint, p_op "char", p_key bytea, p_payload text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = %s AS %L',
        v_id, v_path, sync.apply_body(p_table, true));
    EXECUTE format('CREATE OR REPLACE FUNCTION sync.fire_deferred() RETURNS void LANGUAGE plpgsql VOLATILE SET search_path = %s AS %L', v_path,
        'BEGIN SET CONSTRAINTS ALL IMMEDIATE; END');
    EXECUTE format('REVOKE ALL ON FUNCTION sync.capture_%1$s(), sync.capture_row_%1$s() FROM PUBLIC', v_id);
    EXECUTE format('COMMENT ON FUNCTION sync.capture_row_%s() IS %L', v_id, format('Trigger function of partitions added to %s since: notes the key of a row.', v_name));
    EXECUTE format('COMMENT ON FUNCTION sync.capture_%s() IS %L', v_id, format('Trigger function of %s: notes the keys that a statement touched.', v_name));
    EXECUTE format('COMMENT ON FUNCTION sync.emit_%s(bigint[], integer[], bytea[], boolean) IS %L', v_id, format('Writes effects of %s from its live rows into the log.', v_name));
    EXECUTE format('COMMENT ON FUNCTION sync.apply_%s(text, bigint, bigint, "char", uuid, integer, integer, integer[], integer) IS %L', v_id, format('Applies staged rows of a push to %s.', v_name));
    EXECUTE format('COMMENT ON FUNCTION sync.apply_row_%s(text, bigint, bigint, "char", bytea, text) IS %L', v_id, format('Applies the row of a push that has only one to %s.', v_name));
    IF sync.settle_body(p_table) IS NOT NULL THEN
        EXECUTE format('CREATE OR REPLACE FUNCTION sync.settle_%s(p_user_pks bigint[], p_keys bytea[]) RETURNS void LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS %L',
            v_id, sync.settle_body(p_table));
        EXECUTE format('COMMENT ON FUNCTION sync.settle_%s(bigint[], bytea[]) IS %L', v_id, format('Checks effects of %s once they are in the log.', v_name));
    ELSIF p_table.has_to_settle THEN
        EXECUTE format('DROP FUNCTION IF EXISTS sync.settle_%s(bigint[], bytea[])', v_id);
    END IF;
    UPDATE sync.table_catalog t SET has_to_settle = sync.settle_body(p_table) IS NOT NULL WHERE t.table_id = v_id AND t.has_to_settle <> (sync.settle_body(p_table) IS NOT NULL);
    IF p_table.scope_via IS NOT NULL THEN
        EXECUTE format('CREATE OR REPLACE FUNCTION sync.resolve_%s(p_keys bytea[], OUT keys bytea[], OUT scopes text[]) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS %L',
            v_id, sync.resolve_body(p_table));
        EXECUTE format('COMMENT ON FUNCTION sync.resolve_%s(bytea[]) IS %L', v_id, format('Finds the scopes of rows of %s.', v_name));
    END IF;
END
$$;
COMMENT ON FUNCTION sync.install_functions(sync.table_catalog) IS 'Makes the functions of a registered table.';

-- sync.expected_triggers returns the triggers that a registered table and its partitions must have.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.expected_triggers(p_table_id integer)
RETURNS TABLE (relation regclass, trigger_name name, function_name text, definition text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT part.relid, d.trigger_name::name, d.function_name,
           format('CREATE OR REPLACE TRIGGER %I %s ON %s %s FOR EACH STATEMENT EXECUTE FUNCTION sync.%I(); COMMENT ON TRIGGER %I ON %s IS %L', d.trigger_name, d.event, part.relid, d.transitions, d.function_name,
                  d.trigger_name, part.relid, CASE v.kind WHEN 'capture' THEN 'Notes for oversync which rows a statement touched.' ELSE 'Refuses TRUNCATE, which no client would learn of.' END)
    FROM sync.table_catalog t
    CROSS JOIN LATERAL (SELECT t.relation AS relid UNION SELECT r.relid FROM pg_partition_tree(t.relation) r) AS part
    CROSS JOIN (VALUES
        ('oversync_capture_insert', 'AFTER INSERT', 'REFERENCING NEW TABLE AS new_rows', 'capture'),
        ('oversync_capture_update', 'AFTER UPDATE', 'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows', 'capture'),
        ('oversync_capture_delete', 'AFTER DELETE', 'REFERENCING OLD TABLE AS old_rows', 'capture'),
        ('oversync_refuse_truncate', 'BEFORE TRUNCATE', '', 'refuse_truncate')) AS v(trigger_name, event, transitions, kind)
    CROSS JOIN LATERAL (SELECT v.trigger_name, v.event, v.transitions, CASE v.kind WHEN 'capture' THEN 'capture_' || t.table_id ELSE v.kind END AS function_name) AS d
    WHERE t.table_id = p_table_id AND t.unregistered_at IS NULL
    UNION ALL
    SELECT t.relation, 'oversync_capture_row', 'capture_row_' || t.table_id,
           format('CREATE OR REPLACE TRIGGER oversync_capture_row AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION sync.%I(); COMMENT ON TRIGGER oversync_capture_row ON %s IS %L',
                  t.relation, 'capture_row_' || t.table_id, t.relation, 'Notes for oversync the rows of partitions that were added since registration.')
    FROM sync.table_catalog t JOIN pg_class c ON c.oid = t.relation AND c.relkind = 'p'
    WHERE t.table_id = p_table_id AND t.unregistered_at IS NULL
$$;
COMMENT ON FUNCTION sync.expected_triggers(integer) IS 'Triggers that a registered table and its partitions must have, with the statements that make each.';

-- sync.stray_triggers returns the triggers that partitions kept when they were detached from a registered table.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.stray_triggers(p_table_id integer)
RETURNS TABLE (relation regclass, trigger_name name)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT g.tgrelid::regclass, o.tgname
    FROM pg_trigger g JOIN pg_proc f ON f.oid = g.tgfoid AND f.pronamespace = 'sync'::regnamespace AND f.proname = 'capture_' || p_table_id
    JOIN pg_trigger o ON o.tgrelid = g.tgrelid AND o.tgname IN (g.tgname, 'oversync_refuse_truncate')
    WHERE starts_with(g.tgname, 'oversync_capture_') AND NOT EXISTS (SELECT FROM sync.expected_triggers(p_table_id) e WHERE e.relation = g.tgrelid)
    GROUP BY g.tgrelid, o.tgname
$$;
COMMENT ON FUNCTION sync.stray_triggers(integer) IS 'Triggers that partitions kept when they were detached from a registered table.';

-- sync.install_triggers makes the triggers of a registered table and its partitions, as far as they are not there, and takes them off
-- partitions that were detached.
-- Errors: 42501 if the caller does not own the table. Locks: SHARE ROW EXCLUSIVE on the table and its partitions, where one is missing.
CREATE FUNCTION sync.install_triggers(p_table_id integer)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_definition text;
BEGIN
    FOR v_definition IN
        -- A partition that was detached is no part of the table any more.
        SELECT format('DROP TRIGGER %I ON %s', s.trigger_name, s.relation) FROM sync.stray_triggers(p_table_id) s
        UNION ALL
        SELECT e.definition FROM sync.expected_triggers(p_table_id) e
        WHERE NOT EXISTS (SELECT FROM pg_trigger g JOIN pg_proc f ON f.oid = g.tgfoid
                          WHERE g.tgrelid = e.relation AND g.tgname = e.trigger_name AND f.proname = e.function_name AND g.tgenabled IN ('O', 'A'))
    LOOP
        EXECUTE v_definition;
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync.install_triggers(integer) IS 'Makes the triggers of a registered table and its partitions, as far as they are not there.';

-- sync.catalog_changed brings the order of tables up to date, and the functions that depend on other tables, and raises the catalog's version.
-- Errors: none. Locks: the one row of sync.catalog_version until the transaction ends, so registrations queue.
CREATE FUNCTION sync.catalog_changed(p_relation regclass DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE sync.table_catalog t SET apply_order = o.table_position
    FROM sync.table_order o WHERE o.table_id = t.table_id AND t.apply_order <> o.table_position;
    -- What is made for a table knows the scope of the tables that it refers to.
    PERFORM sync.install_functions(sync.catalog_entry(t.table_id))
    FROM sync.table_catalog t
    WHERE t.unregistered_at IS NULL AND t.relation <> p_relation AND EXISTS (SELECT FROM pg_class c WHERE c.oid = t.relation)
      AND (t.scope_via IS NOT NULL
           OR EXISTS (SELECT FROM pg_constraint k LEFT JOIN sync.table_catalog p ON p.relation = k.confrelid AND p.scope_via IS NOT NULL
                      WHERE k.conrelid = t.relation AND k.contype = 'f' AND (k.confrelid = p_relation OR p.relation IS NOT NULL)));
    UPDATE sync.catalog_version SET version = version + 1;
END
$$;
COMMENT ON FUNCTION sync.catalog_changed(regclass) IS 'Brings what depends on the set of registered tables up to date and raises the catalog''s version.';

-- sync.end_registration ends a catalog entry and removes what was made for it; the table may be gone.
-- Errors: OV023 this transaction has a bundle open. Locks: ACCESS EXCLUSIVE on the table until the transaction ends, and the rows of the scopes that have rows in it.
CREATE FUNCTION sync.end_registration(p_table sync.table_catalog)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning -- what DROP IF EXISTS does not find is no news
AS $$
DECLARE
    v_id integer := p_table.table_id;
    v_trigger record;
    v_column name;
BEGIN
    IF EXISTS (SELECT FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id() AND NOT b.is_implicit) THEN
        PERFORM sync.fail('OV023', 'this transaction has a bundle open', NULL, 'Finish the bundle in a transaction of its own.');
    END IF;
    -- Bundles that plain SQL has made in this transaction are not taken back any more, since their rows are counted out below.
    DELETE FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id();
    -- By function, so that partitions that were detached meanwhile are left as found too.
    FOR v_trigger IN
        SELECT g.tgrelid::regclass AS relation, g.tgname
        FROM pg_trigger g JOIN pg_proc f ON f.oid = g.tgfoid JOIN pg_namespace n ON n.oid = f.pronamespace
        WHERE n.nspname = 'sync' AND g.tgparentid = 0
          AND (f.proname IN ('capture_' || v_id, 'capture_row_' || v_id)
               OR f.proname = 'refuse_truncate' AND EXISTS (SELECT FROM pg_trigger o JOIN pg_proc c ON c.oid = o.tgfoid WHERE o.tgrelid = g.tgrelid AND c.proname = 'capture_' || v_id))
    LOOP
        EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', v_trigger.tgname, v_trigger.relation);
    END LOOP;
    -- Only the default that registration made: the application may have set its own since, or dropped the column. In a restored dump, one that was
    -- renamed before is known by its default.
    FOR v_column IN
        SELECT a.attname FROM pg_attribute a JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = p_table.relation AND p_table.scope_column IS NOT NULL AND p_table.scope_default_before IS NULL AND sync.is_scope_default(pg_get_expr(d.adbin, d.adrelid))
          AND (a.attname = p_table.scope_column OR NOT EXISTS (SELECT FROM pg_attribute o WHERE o.attrelid = p_table.relation AND o.attname = p_table.scope_column))
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I DROP DEFAULT', p_table.relation, v_column);
    END LOOP;
    EXECUTE format('DROP FUNCTION IF EXISTS sync.capture_%s()', v_id);
    EXECUTE format('DROP FUNCTION IF EXISTS sync.capture_row_%s()', v_id);
    EXECUTE format('DROP FUNCTION IF EXISTS sync.emit_%s(bigint[], integer[], bytea[], boolean)', v_id);
    EXECUTE format('DROP FUNCTION IF EXISTS sync.apply_%s(text, bigint, bigint, "char", uuid, integer, integer, integer[], integer)', v_id);
    EXECUTE format('DROP FUNCTION IF EXISTS sync.apply_row_%s(text, bigint, bigint, "char", bytea, text)', v_id);
    EXECUTE format('DROP FUNCTION IF EXISTS sync.settle_%s(bigint[], bytea[])', v_id);
    EXECUTE format('DROP FUNCTION IF EXISTS sync.resolve_%s(bytea[])', v_id);
    UPDATE sync.table_catalog t SET relation = NULL, unregistered_at = now() WHERE t.table_id = v_id;
    DELETE FROM sync.table_order_overrides o WHERE p_table.relation IN (o.child, o.parent);
    DELETE FROM sync.row_owners o WHERE o.table_id = v_id;
    DELETE FROM sync.adoption_queue q WHERE q.table_id = v_id;
    DELETE FROM sync.adoptions a WHERE a.table_id = v_id;
    -- Snapshots leave its rows out from now on: they no longer count as live, and those being read start over. Scopes are locked in the one
    -- order, and looked at one by one, since the log has an index that begins with them.
    PERFORM FROM sync.user_state u
    CROSS JOIN LATERAL (SELECT FROM sync.bundle_rows r WHERE r.user_pk = u.user_pk AND r.table_id = v_id ORDER BY r.key_bytes LIMIT 1) AS has_rows
    ORDER BY u.user_pk FOR NO KEY UPDATE OF u;
    WITH gone AS (
        SELECT u.user_pk, count(*) AS row_count, sum(octet_length(n.payload)) AS byte_count
        FROM sync.user_state u
        CROSS JOIN LATERAL (SELECT DISTINCT ON (r.key_bytes) r.op, r.payload FROM sync.bundle_rows r
                            WHERE r.user_pk = u.user_pk AND r.table_id = v_id
                            ORDER BY r.key_bytes, r.bundle_seq DESC) AS n
        WHERE n.op <> 'D' GROUP BY u.user_pk
    ), ended AS (
        DELETE FROM sync.snapshot_sessions s USING gone g WHERE s.user_pk = g.user_pk
    )
    UPDATE sync.user_state u
    SET live_row_count = u.live_row_count - g.row_count, live_byte_count = u.live_byte_count - g.byte_count
    FROM gone g WHERE u.user_pk = g.user_pk;
END
$$;
COMMENT ON FUNCTION sync.end_registration(sync.table_catalog) IS 'Ends a catalog entry and removes what was made for its table.';

-- sync.register_table makes a table part of sync. Called again with the same arguments it changes nothing.
--   sync_key             key column of type uuid or text; null: the one that the primary key names beside the scope
--   scope                column that says whose row it is (text, varchar, uuid, integer or bigint)
--   scope_via            instead: column that refers to the registered parent whose scope a row has
--   policy               what a write outside a bundle does: reject it, or capture it into bundles at commit
--   show_scope           whether clients see the scope column
--   on_scope_change      with scope_via: when a parent changes its scope, refuse or move the rows along
--   external_references  foreign keys (names, or schema.table referred to) that may point to tables that are not registered
--   adopt                rows that are there already: now (in this transaction), later (CALL sync.adopt_table, the CLI or a running
--                        server does it in batches), or auto: now up to 10,000 rows, else later
-- Returns the table's id. Foreign keys are judged when the transaction ends, so a set can be registered in any order.
-- Errors: OV030 with what is wrong and how to mend it. Locks: SHARE ROW EXCLUSIVE on the table until the transaction ends; ACCESS EXCLUSIVE
-- if its scope column has no default yet.
CREATE FUNCTION sync.register_table(
    tbl                 regclass,
    sync_key            name DEFAULT NULL,
    scope               name DEFAULT '_sync_scope_id',
    policy              text DEFAULT NULL,
    scope_via           name DEFAULT NULL,
    show_scope          boolean DEFAULT false,
    on_scope_change     text DEFAULT 'refuse',
    external_references text[] DEFAULT '{}',
    adopt               text DEFAULT 'auto')
RETURNS integer
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET quote_all_identifiers = off
AS $$
#variable_conflict use_column
DECLARE
    v_old sync.table_catalog;
    v_table sync.table_catalog;
    v_key name := sync_key;
    v_is_renamed boolean;
    v_scope name := CASE WHEN register_table.scope_via IS NULL THEN scope END;
    v_problem text;
    v_remedy text;
    v_is_locked boolean;
BEGIN
    IF tbl IS NULL THEN
        PERFORM sync.fail('OV030', 'no table is named', NULL, 'Name one that is there: SELECT sync.register_table(''public.todos'', scope => ''owner_id'');');
    END IF;
    -- One registration at a time: two servers that start together ask for the same tables.
    PERFORM FROM sync.catalog_version FOR NO KEY UPDATE;
    -- Tables that were dropped meanwhile give their names free.
    PERFORM sync.end_registration(t) FROM sync.table_catalog t
    WHERE t.unregistered_at IS NULL AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = t.relation);
    IF coalesce(register_table.policy, 'reject') NOT IN ('reject', 'capture') OR register_table.on_scope_change NOT IN ('refuse', 'move') OR adopt NOT IN ('now', 'later', 'auto') THEN
        PERFORM sync.fail('OV030', format('policy %s, on_scope_change %s or adopt %s is not known', coalesce(register_table.policy, 'reject'), register_table.on_scope_change, adopt), NULL,
            'policy is reject or capture; on_scope_change is refuse or move; adopt is now, later or auto.');
    END IF;
    v_key := coalesce(v_key, sync.default_key(tbl, v_scope));
    SELECT t.* INTO v_old FROM sync.table_catalog t WHERE t.relation = tbl AND t.unregistered_at IS NULL;
    IF v_old.table_id IS NOT NULL THEN
        IF (v_old.key_column, v_old.scope_column, v_old.scope_via, v_old.scope_is_shown, v_old.on_scope_change) IS DISTINCT FROM (v_key, v_scope, register_table.scope_via, show_scope, register_table.on_scope_change) THEN
            SELECT (e.key_column, e.scope_column, e.scope_via) IS NOT DISTINCT FROM (v_key, v_scope, register_table.scope_via) INTO v_is_renamed FROM sync.catalog_entry(v_old.table_id) AS e;
            PERFORM sync.fail('OV030', format('%s is registered in another way', tbl), NULL,
                CASE WHEN v_is_renamed THEN format('SELECT sync.refresh_table(%L); -- its columns were renamed since', tbl)
                     ELSE format('SELECT sync.unregister_table(%L); then register it anew. SELECT * FROM sync.table_catalog; shows how it is registered.', tbl) END);
        END IF;
        UPDATE sync.table_catalog t SET policy = coalesce(register_table.policy, t.policy), external_references = register_table.external_references
        WHERE t.table_id = v_old.table_id AND (t.policy, t.external_references) IS DISTINCT FROM (coalesce(register_table.policy, t.policy), register_table.external_references);
        IF FOUND THEN
            PERFORM sync.catalog_changed();
        END IF;
        PERFORM sync.install_triggers(v_old.table_id);
        RETURN v_old.table_id;
    END IF;
    -- Judged before it is locked, so that what cannot be registered makes nobody wait, and once more as it is then.
    FOREACH v_is_locked IN ARRAY ARRAY[false, true] LOOP
        IF v_is_locked THEN
            -- As strongly as will be needed: to ask for more later could deadlock with who has read the table.
            EXECUTE format('LOCK TABLE %s IN %s MODE', tbl, CASE WHEN EXISTS (
                SELECT FROM pg_attribute a WHERE a.attrelid = tbl AND a.attname = v_scope AND NOT a.atthasdef) THEN 'ACCESS EXCLUSIVE' ELSE 'SHARE ROW EXCLUSIVE' END);
        END IF;
        SELECT p.problem, p.remedy INTO v_problem, v_remedy FROM sync.registration_problems(tbl, v_key, v_scope, register_table.scope_via) p LIMIT 1;
        IF FOUND THEN
            PERFORM sync.fail('OV030', v_problem, NULL, v_remedy);
        END IF;
    END LOOP;
    INSERT INTO sync.table_catalog AS t (relation, relation_oid, schema_name, table_name, key_column, key_type, key_attnum, scope_column, scope_type, scope_attnum, scope_via, scope_via_attnum, scope_parent,
        scope_is_shown, on_scope_change, policy, external_references, columns_fingerprint, relnatts, scope_default_before)
    SELECT tbl, tbl, n.nspname, c.relname, v_key, k.atttypid::regtype::text, k.attnum, v_scope, s.atttypid::regtype::text, s.attnum, v.attname, v.attnum,
           (SELECT min(f.confrelid) FROM pg_constraint f WHERE f.conrelid = tbl AND f.contype = 'f' AND f.conparentid = 0 AND f.conkey = ARRAY[v.attnum] AND f.confrelid <> tbl),
           show_scope, register_table.on_scope_change, coalesce(register_table.policy, 'reject'), register_table.external_references,
           sync.columns_fingerprint(tbl), c.relnatts, (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d WHERE d.adrelid = tbl AND d.adnum = s.attnum)
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute k ON k.attrelid = c.oid AND k.attname = v_key
    LEFT JOIN pg_attribute s ON s.attrelid = c.oid AND s.attname = v_scope
    LEFT JOIN pg_attribute v ON v.attrelid = c.oid AND v.attname = register_table.scope_via
    WHERE c.oid = tbl
    RETURNING t.* INTO v_table;
    IF v_scope IS NOT NULL AND v_table.scope_default_before IS NULL THEN
        -- Inside a bundle, a row without a scope gets the bundle's. A default that the application has stays.
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT sync.scope_in_bundle()::%s', tbl, v_scope, v_table.scope_type);
    END IF;
    PERFORM sync.install_functions(v_table);
    PERFORM sync.install_triggers(v_table.table_id);
    PERFORM sync.catalog_changed(tbl);
    PERFORM sync.adopt_start(v_table.table_id, adopt);
    RETURN v_table.table_id;
END
$$;
COMMENT ON FUNCTION sync.register_table(regclass, name, name, text, name, boolean, text, text[], text) IS 'Makes a table part of sync: SELECT sync.register_table(''public.todos'', scope => ''owner_id''). Says what to mend when the table cannot be.';

-- sync.fail_not_registered refuses a table that is not registered. A partition is so by its root: the hint is the call (a format of one
-- literal) for that.
-- Errors: OV030 always. Locks: none.
CREATE FUNCTION sync.fail_not_registered(p_relation regclass, p_call text, p_policy text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_root regclass := coalesce(pg_partition_root(p_relation), p_relation);
BEGIN
    PERFORM sync.fail('OV030', format('%s is not registered', coalesce(p_relation::text, '(null)')), NULL,
        CASE WHEN EXISTS (SELECT FROM sync.table_catalog t WHERE t.relation = v_root AND t.unregistered_at IS NULL) THEN format(p_call, v_root)
             ELSE format('SELECT sync.register_table(%L%s);', v_root, ', policy => ' || quote_literal(p_policy)) END);
END
$$;
COMMENT ON FUNCTION sync.fail_not_registered(regclass, text, text) IS 'Raises OV030: a table is not registered, or is a partition of one that is.';

-- sync.set_policy changes what a write outside a bundle does to a registered table: reject or capture.
-- Errors: OV030 not registered, or no such policy. Locks: none on the table.
CREATE FUNCTION sync.set_policy(tbl regclass, policy text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM sync.catalog_version FOR NO KEY UPDATE;
    IF coalesce(set_policy.policy, '') NOT IN ('reject', 'capture') THEN
        PERFORM sync.fail('OV030', format('policy %s is not known', coalesce(set_policy.policy, '(null)')), NULL, 'Use reject or capture.');
    END IF;
    UPDATE sync.table_catalog t SET policy = set_policy.policy WHERE t.relation = tbl AND t.unregistered_at IS NULL;
    IF NOT FOUND THEN
        PERFORM sync.fail_not_registered(tbl, format('SELECT sync.set_policy(%%L, %L);', set_policy.policy), set_policy.policy);
    END IF;
    PERFORM sync.catalog_changed();
END
$$;
COMMENT ON FUNCTION sync.set_policy(regclass, text) IS 'Changes what a write outside a bundle does to a table: reject or capture.';

-- sync.unregister_table takes a table out of sync and leaves it as it was found. History stays readable.
-- A table that was dropped is named by its number, as sync.check shows it.
-- Returns whether it was registered. Errors: OV030 at the end of the transaction if a registered table still refers to it.
-- Locks: as sync.end_registration.
CREATE FUNCTION sync.unregister_table(tbl regclass)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_table_id integer;
BEGIN
    PERFORM FROM sync.catalog_version FOR NO KEY UPDATE;
    SELECT t.table_id INTO v_table_id FROM sync.table_catalog t WHERE t.relation = tbl AND t.unregistered_at IS NULL;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM sync.end_registration(sync.catalog_entry(v_table_id));
    PERFORM sync.catalog_changed(tbl);
    RETURN true;
END
$$;
COMMENT ON FUNCTION sync.unregister_table(regclass) IS 'Takes a table out of sync and leaves it as it was found; history stays readable.';
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
SELECT sync.unregister_table(t.relation) FROM sync.table_catalog t WHERE t.unregistered_at IS NULL;
SET CONSTRAINTS ALL IMMEDIATE;
-- +goose StatementEnd
DROP FUNCTION sync.unregister_table(regclass);
DROP FUNCTION sync.set_policy(regclass, text);
DROP FUNCTION sync.fail_not_registered(regclass, text, text);
DROP FUNCTION sync.register_table(regclass, name, name, text, name, boolean, text, text[], text);
DROP FUNCTION sync.end_registration(sync.table_catalog);
DROP FUNCTION sync.catalog_changed(regclass);
DROP FUNCTION sync.install_triggers(integer);
DROP FUNCTION sync.stray_triggers(integer);
DROP FUNCTION sync.expected_triggers(integer);
DROP FUNCTION sync.install_functions(sync.table_catalog);
