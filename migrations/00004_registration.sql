-- Registration: what a table must look like, the code made for it, and sync.register_table itself.
--
-- For each registered table three functions are made, so that their statements are planned once a connection:
--   sync.capture_<id>   trigger function: notes the keys a statement touched
--   sync.emit_<id>      writes effects from live rows into the log
--   sync.apply_<id>     applies staged rows of a push
-- Each knows the columns it was made for. If the table was altered since, it runs the same statement made afresh
-- instead, so nothing is lost until sync.refresh_table makes the functions anew.
--
-- Locks: creates new objects only.

-- +goose Up
-- +goose StatementBegin
--
-- What a table must look like.
--
-- sync.registration_problems returns what keeps a table from being registered, and the remedy of each.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.registration_problems(p_relation regclass, p_key name, p_scope name)
RETURNS TABLE (problem text, remedy text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH rel AS (
        SELECT c.oid, c.relname, n.nspname, c.relkind, c.relpersistence, c.relispartition, format('%I.%I', n.nspname, c.relname) AS full_name
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = p_relation
    ), cols AS (
        SELECT a.attname, a.attnum, a.attnotnull, a.atttypid::regtype::text AS type_name, a.attgenerated
        FROM pg_attribute a WHERE a.attrelid = p_relation AND a.attnum > 0 AND NOT a.attisdropped
    ), key_col AS (SELECT * FROM cols WHERE attname = p_key), scope_col AS (SELECT * FROM cols WHERE attname = p_scope),
    uniques AS (
        SELECT i.indexrelid::regclass::text AS index_name, i.indkey::smallint[] AS attnums, i.indnkeyatts, i.indpred, i.indexprs, i.indimmediate, i.indisvalid
        FROM pg_index i WHERE i.indrelid = p_relation AND i.indisunique
    )
    SELECT format('%s is a %s', r.full_name,
                  CASE r.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' WHEN 'S' THEN 'sequence' ELSE format('relation of kind %s', r.relkind) END),
           'Register the table that holds the rows.'
    FROM rel r WHERE r.relkind NOT IN ('r', 'p')
    UNION ALL
    SELECT format('%s is %s', r.full_name, CASE r.relpersistence WHEN 't' THEN 'temporary' ELSE 'unlogged' END),
           CASE r.relpersistence WHEN 't' THEN 'Use a permanent table.' ELSE format('ALTER TABLE %s SET LOGGED;', r.full_name) END
    FROM rel r WHERE r.relkind IN ('r', 'p') AND r.relpersistence <> 'p'
    UNION ALL
    SELECT format('%s belongs to the system', r.full_name), 'Register a table of the application.'
    FROM rel r WHERE r.nspname IN ('sync', 'pg_catalog', 'information_schema', 'pg_toast')
    UNION ALL
    SELECT format('%s is a partition', r.full_name),
           format('Register its parent: SELECT sync.register_table(%L);', (SELECT h.inhparent::regclass FROM pg_inherits h WHERE h.inhrelid = r.oid))
    FROM rel r WHERE r.relispartition
    UNION ALL
    SELECT format('%s takes part in table inheritance', r.full_name), 'Use declarative partitioning, or a table without children.'
    FROM rel r WHERE NOT r.relispartition AND r.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits h WHERE r.oid IN (h.inhparent, h.inhrelid))
    UNION ALL
    SELECT format('the name %I.%I is not made of a-z, 0-9 and _', r.nspname, r.relname), format('ALTER TABLE %s RENAME TO …;', r.full_name)
    FROM rel r WHERE (r.nspname || r.relname) !~ '^[a-z0-9_]+$'
    UNION ALL
    SELECT format('column %I of %s is not made of a-z, 0-9 and _', c.attname, r.full_name), format('ALTER TABLE %s RENAME COLUMN %I TO …;', r.full_name, c.attname)
    FROM rel r, cols c WHERE c.attname !~ '^[a-z0-9_]+$' AND c.attname <> p_scope
    UNION ALL
    SELECT format('%s has no key column %I', r.full_name, p_key), 'Name the key column: sync_key => ''…''.'
    FROM rel r WHERE r.relkind IN ('r', 'p') AND NOT EXISTS (SELECT FROM key_col)
    UNION ALL
    SELECT format('key column %I of %s has type %s', k.attname, r.full_name, k.type_name), 'Keys are of type uuid or text.'
    FROM rel r, key_col k WHERE k.type_name NOT IN ('uuid', 'text')
    UNION ALL
    SELECT format('key column %I of %s is generated', k.attname, r.full_name), 'Clients choose the key of a new row: make it an ordinary column.'
    FROM rel r, key_col k WHERE k.attgenerated <> ''
    UNION ALL
    SELECT format('%s has no scope column %I', r.full_name, p_scope),
           format('ALTER TABLE %s ADD COLUMN %I text NOT NULL;  -- or name the column that says whose row it is: scope => ''…''', r.full_name, p_scope)
    FROM rel r WHERE r.relkind IN ('r', 'p') AND NOT EXISTS (SELECT FROM scope_col)
    UNION ALL
    SELECT format('scope column %I of %s has type %s', s.attname, r.full_name, s.type_name), format('ALTER TABLE %s ALTER COLUMN %I TYPE text;', r.full_name, s.attname)
    FROM rel r, scope_col s WHERE s.type_name <> 'text'
    UNION ALL
    SELECT format('column %I of %s may be null', c.attname, r.full_name), format('ALTER TABLE %s ALTER COLUMN %I SET NOT NULL;', r.full_name, c.attname)
    FROM rel r, cols c WHERE c.attname IN (p_key, p_scope) AND NOT c.attnotnull
    UNION ALL
    SELECT format('scope and key of %s are the same column %I', r.full_name, p_key), 'Name another key column: sync_key => ''…''.'
    FROM rel r WHERE p_key = p_scope
    UNION ALL
    SELECT format('%s has no unique constraint on (%I, %I)', r.full_name, s.attname, k.attname), format('ALTER TABLE %s ADD UNIQUE (%I, %I);', r.full_name, s.attname, k.attname)
    FROM rel r, key_col k, scope_col s
    WHERE r.relkind IN ('r', 'p') AND NOT EXISTS (
        SELECT FROM uniques u WHERE u.indimmediate AND u.indisvalid AND u.indpred IS NULL AND u.indexprs IS NULL
          AND u.indnkeyatts = 2 AND u.attnums[0] = s.attnum AND u.attnums[1] = k.attnum)
    UNION ALL
    SELECT format('unique index %s of %s does not start with the scope column %I', u.index_name, r.full_name, s.attname),
           'A value may be taken in one scope and free in another: put the scope column first in it.'
    FROM rel r, scope_col s, uniques u WHERE u.attnums[0] <> s.attnum
    UNION ALL
    SELECT format('unique index %s of %s is partial or on an expression', u.index_name, r.full_name), 'Make it an ordinary unique constraint that starts with the scope column.'
    FROM rel r, uniques u WHERE u.attnums[0] = (SELECT s.attnum FROM scope_col s) AND (u.indpred IS NOT NULL OR u.indexprs IS NOT NULL)
$$;
COMMENT ON FUNCTION sync.registration_problems(regclass, name, name) IS 'What keeps a table from being registered, and the remedy of each; no row means that it can be.';

-- sync.foreign_key_problems returns the foreign keys of registered tables that sync cannot keep, and the remedy of each.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.foreign_key_problems()
RETURNS TABLE (problem text, remedy text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('foreign key %I of %I.%I refers to %I.%I, which is not registered', f.constraint_name, f.schema_name, f.table_name, f.parent_schema, f.parent_table),
           format('Register it in the same transaction: SELECT sync.register_table(%L);', format('%I.%I', f.parent_schema, f.parent_table))
    FROM sync.foreign_keys f WHERE f.parent_table_id IS NULL
    UNION ALL
    SELECT format('foreign key %I of %I.%I does not include the scope column', f.constraint_name, f.schema_name, f.table_name),
           format('Make it refer from (%I, …) to the scope column and key of %I.%I.', t.scope_column, f.parent_schema, f.parent_table)
    FROM sync.foreign_keys f
    JOIN sync.table_catalog t ON t.table_id = f.table_id
    JOIN sync.table_catalog p ON p.table_id = f.parent_table_id
    WHERE NOT EXISTS (SELECT FROM unnest(f.columns, f.parent_columns) AS c(child_column, parent_column)
                      WHERE c.child_column = t.scope_column AND c.parent_column = p.scope_column)
    UNION ALL
    SELECT format('foreign key %I of %I.%I is not deferrable', f.constraint_name, f.schema_name, f.table_name),
           format('ALTER TABLE %I.%I ALTER CONSTRAINT %I DEFERRABLE INITIALLY DEFERRED;', f.schema_name, f.table_name, f.constraint_name)
    FROM sync.foreign_keys f WHERE NOT f.is_deferrable
    UNION ALL
    SELECT format('foreign key %I of %I.%I is MATCH %s', f.constraint_name, f.schema_name, f.table_name, f.match_option),
           'Drop it and add it again without MATCH, which means MATCH SIMPLE.'
    FROM sync.foreign_keys f WHERE f.match_option <> 'SIMPLE'
$$;
COMMENT ON FUNCTION sync.foreign_key_problems() IS 'Foreign keys of registered tables that sync cannot keep, and the remedy of each.';

-- sync.check_foreign_keys is the deferred trigger function that judges the set of registered tables when the transaction ends,
-- so that a set, a cycle too, can be registered in any order.
-- Errors: OV030 with problem and remedy. Locks: none.
CREATE FUNCTION sync.check_foreign_keys()
RETURNS trigger
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_problem text;
    v_remedy text;
BEGIN
    SELECT p.problem, p.remedy INTO v_problem, v_remedy FROM sync.foreign_key_problems() p LIMIT 1;
    IF FOUND THEN
        PERFORM sync.fail('OV030', v_problem, NULL, v_remedy);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION sync.check_foreign_keys() IS 'Trigger function: judges at the end of the transaction whether the registered tables are closed over their foreign keys.';

CREATE CONSTRAINT TRIGGER registered_tables_are_closed_over_foreign_keys
    AFTER INSERT OR UPDATE ON sync.table_catalog DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION sync.check_foreign_keys();
COMMENT ON TRIGGER registered_tables_are_closed_over_foreign_keys ON sync.table_catalog IS 'Judged at the end of the transaction.';

--
-- The statements made for a table, as text. Each is a function's body and, if the table was altered since, a dynamic statement.
--
-- sync.capture_statement returns the query that gives the keys and the least and greatest scope in a transition table.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.capture_statement(p_table sync.table_catalog, p_transition_table text)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('SELECT array_agg(%s), min(n.%I::text COLLATE "C"), max(n.%I::text COLLATE "C") FROM %I AS n',
                  CASE p_table.key_type WHEN 'uuid' THEN format('uuid_send(n.%I)', p_table.key_column)
                                        ELSE format('convert_to(n.%I, ''UTF8'')', p_table.key_column) END,
                  p_table.scope_column, p_table.scope_column, p_transition_table)
$$;
COMMENT ON FUNCTION sync.capture_statement(sync.table_catalog, text) IS 'Text of the query that reads keys and scopes from a transition table.';

-- sync.key_expression returns the SQL that makes a key of the table's type from key bytes.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.key_expression(p_table sync.table_catalog, p_key_bytes text)
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE p_table.key_type WHEN 'uuid' THEN format('encode(%s, ''hex'')::uuid', p_key_bytes)
                                 ELSE format('convert_from(%s, ''UTF8'')', p_key_bytes) END
$$;
COMMENT ON FUNCTION sync.key_expression(sync.table_catalog, text) IS 'SQL that makes a key of the table''s type from key bytes.';

-- sync.emit_statement returns the statement that writes effects from live rows. Its parameters are those of sync.emit_<id>.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.emit_statement(p_table sync.table_catalog)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format($f$
    WITH logged AS (
        INSERT INTO sync.bundle_rows AS b (user_pk, bundle_seq, row_ordinal, table_id, op, key_bytes, payload)
        SELECT $1, $3, k.row_ordinal, %1$s,
               CASE WHEN live.%2$I IS NULL THEN 'D' WHEN k.was_live THEN 'U' ELSE 'I' END::"char",
               k.key_bytes,
               CASE WHEN live.%2$I IS NOT NULL THEN row_to_json(live.*)::text END
        FROM unnest($4, $5, $6) AS k(row_ordinal, key_bytes, was_live)
        LEFT JOIN LATERAL (
            SELECT %3$s
            FROM %4$s AS t WHERE t.%5$I = $2::%6$s AND t.%2$I = %7$s
        ) AS live ON true
        WHERE live.%2$I IS NOT NULL OR k.was_live
        ORDER BY k.row_ordinal
        RETURNING b.op, octet_length(b.payload) AS payload_bytes
    )
    SELECT count(*), count(*) FILTER (WHERE l.op = 'I') - count(*) FILTER (WHERE l.op = 'D'), coalesce(sum(l.payload_bytes), 0)::bigint
    FROM logged l$f$,
        p_table.table_id, p_table.key_column,
        (SELECT string_agg(CASE WHEN c.is_bytea THEN format('translate(encode(t.%I, ''base64''), E''\n'', '''') AS %I', c.column_name, c.column_name)
                                ELSE format('t.%I', c.column_name) END, ', ' ORDER BY c.column_name COLLATE "C")
         FROM sync.table_columns c WHERE c.table_id = p_table.table_id AND NOT c.is_scope),
        p_table.relation, p_table.scope_column, p_table.scope_type, sync.key_expression(p_table, 'k.key_bytes'))
$$;
COMMENT ON FUNCTION sync.emit_statement(sync.table_catalog) IS 'Text of the statement that writes effects of one table from live rows into the log.';

-- sync.apply_statement returns the statement that applies staged rows of one operation (I, U or D). Its parameters are
-- $1 push_id, $2 user_id, $3 first and $4 last row_ordinal.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.apply_statement(p_table sync.table_catalog, p_op "char")
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_staged text := format('s.push_id = $1 AND s.table_id = %s AND s.op = %L AND s.row_ordinal BETWEEN $3 AND $4', p_table.table_id, p_op);
    v_written name[] := (SELECT array_agg(c.column_name ORDER BY c.column_name COLLATE "C") FROM sync.table_columns c
                         WHERE c.table_id = p_table.table_id AND NOT c.is_generated AND NOT c.is_scope);
    v_defaults text;
    v_set text;
BEGIN
    IF p_op = 'I' THEN
        -- What a payload does not name keeps the value it has in the base row: the column's default.
        SELECT string_agg(coalesce(CASE WHEN a.attgenerated = '' AND a.attidentity = '' AND a.attname <> p_table.scope_column THEN pg_get_expr(d.adbin, d.adrelid) END, 'NULL'), ', ' ORDER BY a.attnum)
        INTO v_defaults
        FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = p_table.relation AND a.attnum > 0 AND NOT a.attisdropped;
        RETURN format($f$
        INSERT INTO %1$s (%2$I, %3$s)
        SELECT $2::%4$s, %5$s
        FROM (SELECT json_populate_record(ROW(%6$s)::%1$s, s.payload::json) AS r
              FROM sync.staged_rows s WHERE %7$s ORDER BY s.row_ordinal OFFSET 0) AS q$f$,
            p_table.relation, p_table.scope_column,
            (SELECT string_agg(quote_ident(w), ', ' ORDER BY o) FROM unnest(v_written) WITH ORDINALITY AS u(w, o)),
            p_table.scope_type,
            (SELECT string_agg(format('(q.r).%I', w), ', ' ORDER BY o) FROM unnest(v_written) WITH ORDINALITY AS u(w, o)),
            v_defaults, v_staged);
    ELSIF p_op = 'U' THEN
        -- A payload that names no column is an update all the same, so the key stands in where there is nothing else.
        v_written := array_remove(v_written, p_table.key_column);
        v_set := CASE WHEN cardinality(v_written) = 0 THEN format('%I = t.%I', p_table.key_column, p_table.key_column)
            ELSE (SELECT format('(%s) = (SELECT %s FROM json_populate_record(t, s.payload::json) AS r)',
                                string_agg(quote_ident(w), ', ' ORDER BY o), string_agg(format('r.%I', w), ', ' ORDER BY o))
                  FROM unnest(v_written) WITH ORDINALITY AS u(w, o)) END;
        RETURN format($f$
        UPDATE %s AS t SET %s
        FROM sync.staged_rows s WHERE %s AND t.%I = $2::%s AND t.%I = %s$f$,
            p_table.relation, v_set, v_staged, p_table.scope_column, p_table.scope_type, p_table.key_column, sync.key_expression(p_table, 's.key_bytes'));
    ELSE
        RETURN format($f$
        DELETE FROM %s AS t
        USING sync.staged_rows s WHERE %s AND t.%I = $2::%s AND t.%I = %s$f$,
            p_table.relation, v_staged, p_table.scope_column, p_table.scope_type, p_table.key_column, sync.key_expression(p_table, 's.key_bytes'));
    END IF;
END
$$;
COMMENT ON FUNCTION sync.apply_statement(sync.table_catalog, "char") IS 'Text of the statement that applies staged rows of one operation to a table.';

--
-- Installing and removing.
--
-- sync.install_capture makes the functions and triggers of a registered table (again), on its partitions too.
-- Errors: 42501 if the caller does not own the table. Locks: SHARE ROW EXCLUSIVE on the table and its partitions.
CREATE FUNCTION sync.install_capture(p_table sync.table_catalog)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_id integer := p_table.table_id;
    v_name text := format('%I.%I', p_table.schema_name, p_table.table_name);
    -- The application's own triggers run under the search path they know, not under ours.
    v_path text := (SELECT s.reset_val FROM pg_settings s WHERE s.name = 'search_path');
    v_part regclass;
BEGIN
    EXECUTE format($f$
CREATE OR REPLACE FUNCTION sync.capture_%1$s() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    v_keys bytea[]; v_old_keys bytea[]; v_min text; v_max text; v_old_min text; v_old_max text;
    v_table sync.table_catalog;
BEGIN
    IF sync.columns_fingerprint(TG_RELID) <> %2$s THEN
        v_table := sync.catalog_entry_now(%1$s);
        IF TG_OP <> 'DELETE' THEN EXECUTE sync.capture_statement(v_table, 'new_rows') INTO v_keys, v_min, v_max; END IF;
        IF TG_OP <> 'INSERT' THEN EXECUTE sync.capture_statement(v_table, 'old_rows') INTO v_old_keys, v_old_min, v_old_max; END IF;
    ELSIF TG_OP = 'INSERT' THEN
        %3$s INTO v_keys, v_min, v_max;
    ELSIF TG_OP = 'DELETE' THEN
        %4$s INTO v_old_keys, v_old_min, v_old_max;
    ELSE
        %3$s INTO v_keys, v_min, v_max;
        %4$s INTO v_old_keys, v_old_min, v_old_max;
    END IF;
    -- An update that changes no key gives the same keys twice, in the same order.
    IF v_old_keys IS DISTINCT FROM v_keys THEN
        v_keys := v_old_keys || v_keys;
    END IF;
    IF v_keys IS NOT NULL THEN
        PERFORM sync.capture(%1$s, v_keys, least(v_min COLLATE "C", v_old_min COLLATE "C"), greatest(v_max COLLATE "C", v_old_max COLLATE "C"));
    END IF;
    RETURN NULL;
END
$body$ $f$, v_id, p_table.columns_fingerprint, sync.capture_statement(p_table, 'new_rows'), sync.capture_statement(p_table, 'old_rows'));

    EXECUTE format($f$
CREATE OR REPLACE FUNCTION sync.emit_%1$s(p_user_pk bigint, p_user_id text, p_bundle_seq bigint, p_ordinals integer[], p_keys bytea[], p_was_live boolean[],
    OUT row_count bigint, OUT live_rows bigint, OUT live_bytes bigint)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC' SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off
AS $body$
BEGIN
    IF sync.columns_fingerprint(%2$s) <> %3$s THEN
        EXECUTE sync.emit_statement(sync.catalog_entry_now(%1$s)) INTO row_count, live_rows, live_bytes
        USING p_user_pk, p_user_id, p_bundle_seq, p_ordinals, p_keys, p_was_live;
    ELSE
        %4$s INTO row_count, live_rows, live_bytes;
    END IF;
END
$body$ $f$, v_id, p_table.relation::oid, p_table.columns_fingerprint, sync.emit_statement(p_table));

    EXECUTE format($f$
CREATE OR REPLACE FUNCTION sync.apply_%1$s(p_push_id uuid, p_user_id text, p_from integer, p_to integer, p_op "char") RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = %2$s
SET timezone = 'UTC' SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres'
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off
AS $body$
BEGIN
    IF sync.columns_fingerprint(%3$s) <> %4$s THEN
        EXECUTE sync.apply_statement(sync.catalog_entry_now(%1$s), p_op) USING p_push_id, p_user_id, p_from, p_to;
    ELSIF p_op = 'I' THEN %5$s;
    ELSIF p_op = 'U' THEN %6$s;
    ELSE %7$s;
    END IF;
END
$body$ $f$, v_id, concat_ws(', ', 'pg_catalog', nullif(v_path, ''), 'pg_temp'), p_table.relation::oid, p_table.columns_fingerprint,
        sync.apply_statement(p_table, 'I'), sync.apply_statement(p_table, 'U'), sync.apply_statement(p_table, 'D'));

    EXECUTE format('REVOKE ALL ON FUNCTION sync.capture_%s() FROM PUBLIC', v_id);
    EXECUTE format('COMMENT ON FUNCTION sync.capture_%s() IS %L', v_id, format('Trigger function of %s: notes the keys that a statement touched.', v_name));
    EXECUTE format('COMMENT ON FUNCTION sync.emit_%s(bigint, text, bigint, integer[], bytea[], boolean[]) IS %L', v_id, format('Writes effects of %s from its live rows into the log.', v_name));
    EXECUTE format('COMMENT ON FUNCTION sync.apply_%s(uuid, text, integer, integer, "char") IS %L', v_id, format('Applies staged rows of a push to %s.', v_name));

    FOR v_part IN SELECT p_table.relation UNION SELECT r.relid FROM pg_partition_tree(p_table.relation) r LOOP
        EXECUTE format('CREATE OR REPLACE TRIGGER oversync_capture_insert AFTER INSERT ON %s REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION sync.capture_%s()', v_part, v_id);
        EXECUTE format('CREATE OR REPLACE TRIGGER oversync_capture_update AFTER UPDATE ON %s REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION sync.capture_%s()', v_part, v_id);
        EXECUTE format('CREATE OR REPLACE TRIGGER oversync_capture_delete AFTER DELETE ON %s REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION sync.capture_%s()', v_part, v_id);
        EXECUTE format('CREATE OR REPLACE TRIGGER oversync_refuse_truncate BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION sync.refuse_truncate()', v_part);
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync.install_capture(sync.table_catalog) IS 'Makes the functions and triggers of a registered table, on its partitions too.';

-- sync.remove_capture drops what sync.install_capture made.
-- Errors: none. Locks: ACCESS EXCLUSIVE on the table and its partitions, for a moment.
CREATE FUNCTION sync.remove_capture(p_table sync.table_catalog)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_part regclass;
    v_trigger text;
BEGIN
    FOR v_part IN SELECT c.oid FROM pg_class c WHERE c.oid = p_table.relation UNION SELECT r.relid FROM pg_partition_tree(p_table.relation) r LOOP
        FOREACH v_trigger IN ARRAY '{oversync_capture_insert,oversync_capture_update,oversync_capture_delete,oversync_refuse_truncate}'::text[] LOOP
            EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', v_trigger, v_part);
        END LOOP;
    END LOOP;
    EXECUTE format('DROP FUNCTION IF EXISTS sync.capture_%s()', p_table.table_id);
    EXECUTE format('DROP FUNCTION IF EXISTS sync.emit_%s(bigint, text, bigint, integer[], bytea[], boolean[])', p_table.table_id);
    EXECUTE format('DROP FUNCTION IF EXISTS sync.apply_%s(uuid, text, integer, integer, "char")', p_table.table_id);
END
$$;
COMMENT ON FUNCTION sync.remove_capture(sync.table_catalog) IS 'Drops the functions and triggers of a table.';

-- sync.catalog_entry_now returns a table's catalog entry.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.catalog_entry_now(p_table_id integer)
RETURNS sync.table_catalog
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t FROM sync.table_catalog t WHERE t.table_id = p_table_id
$$;
COMMENT ON FUNCTION sync.catalog_entry_now(integer) IS 'Catalog entry of a table.';

-- sync.catalog_changed brings the order of tables up to date and raises the catalog's version.
-- Errors: none. Locks: the one row of sync.catalog_version until the transaction ends, so registrations queue.
CREATE FUNCTION sync.catalog_changed()
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE sync.table_catalog t SET apply_order = o.table_position
    FROM sync.table_order o WHERE o.table_id = t.table_id AND t.apply_order <> o.table_position;
    UPDATE sync.catalog_version SET version = version + 1;
$$;
COMMENT ON FUNCTION sync.catalog_changed() IS 'Brings the order of tables up to date and raises the catalog''s version.';

-- sync.register_table makes a table part of sync. Called again with the same arguments it changes nothing.
-- Returns the table's id. Foreign keys are judged when the transaction ends, so a set can be registered in any order.
-- Errors: OV030 with what is wrong and how to mend it. Locks: SHARE ROW EXCLUSIVE on the table until the transaction ends.
CREATE FUNCTION sync.register_table(
    tbl      regclass,
    sync_key name DEFAULT NULL,
    scope    name DEFAULT '_sync_scope_id',
    policy   text DEFAULT 'reject')
RETURNS integer
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_table sync.table_catalog;
    v_key name := sync_key;
    v_problem text;
    v_remedy text;
BEGIN
    -- One registration at a time: two servers that start together ask for the same tables.
    PERFORM FROM sync.catalog_version FOR NO KEY UPDATE;
    IF register_table.policy NOT IN ('reject', 'capture') THEN
        PERFORM sync.fail('OV030', format('policy %s is not known', register_table.policy), NULL, 'Use reject or capture.');
    END IF;
    IF v_key IS NULL THEN
        -- The key column beside the scope, of the primary key.
        SELECT min(a.attname) INTO v_key
        FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) AND a.attname <> scope
        WHERE i.indrelid = tbl AND i.indisprimary
        HAVING count(*) = 1;
        IF v_key IS NULL THEN
            PERFORM sync.fail('OV030', format('the primary key of %s does not name one key column beside the scope', tbl), NULL, 'Name the key column: sync_key => ''…''.');
        END IF;
    END IF;
    SELECT t.* INTO v_table FROM sync.table_catalog t WHERE t.relation = tbl AND t.unregistered_at IS NULL;
    IF FOUND AND (v_table.key_column, v_table.scope_column) IS DISTINCT FROM (v_key, scope) THEN
        PERFORM sync.fail('OV030', format('%s is registered with key %I and scope %I', tbl, v_table.key_column, v_table.scope_column), NULL,
            format('SELECT sync.unregister_table(%L); then register it anew.', tbl));
    ELSIF FOUND THEN
        IF v_table.policy <> register_table.policy THEN
            UPDATE sync.table_catalog t SET policy = register_table.policy WHERE t.table_id = v_table.table_id;
            PERFORM sync.catalog_changed();
        END IF;
        RETURN v_table.table_id;
    END IF;
    SELECT p.problem, p.remedy INTO v_problem, v_remedy FROM sync.registration_problems(tbl, v_key, scope) p LIMIT 1;
    IF FOUND THEN
        PERFORM sync.fail('OV030', v_problem, NULL, v_remedy);
    END IF;
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', tbl);
    INSERT INTO sync.table_catalog (relation, schema_name, table_name, key_column, key_type, scope_column, scope_type, policy, columns_fingerprint, scope_default_before)
    SELECT tbl, n.nspname, c.relname, v_key, k.atttypid::regtype::text, scope, s.atttypid::regtype::text, register_table.policy,
           sync.columns_fingerprint(tbl), (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d WHERE d.adrelid = tbl AND d.adnum = s.attnum)
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute k ON k.attrelid = c.oid AND k.attname = v_key
    JOIN pg_attribute s ON s.attrelid = c.oid AND s.attname = scope
    WHERE c.oid = tbl
    RETURNING * INTO v_table;
    EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT sync.scope_in_bundle()', tbl, scope);
    PERFORM sync.install_capture(v_table);
    PERFORM sync.catalog_changed();
    RETURN v_table.table_id;
END
$$;
COMMENT ON FUNCTION sync.register_table(regclass, name, name, text) IS 'Makes a table part of sync: SELECT sync.register_table(''business.users'', sync_key => ''id''). Says what to mend when the table cannot be.';

-- sync.unregister_table takes a table out of sync and leaves it as it was found. History stays readable.
-- Returns whether it was registered. Errors: OV030 at the end of the transaction if a registered table still refers to it.
-- Locks: ACCESS EXCLUSIVE on the table until the transaction ends, and the rows of the scopes that have rows in it.
CREATE FUNCTION sync.unregister_table(tbl regclass)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_table sync.table_catalog;
BEGIN
    PERFORM FROM sync.catalog_version FOR NO KEY UPDATE;
    SELECT t.* INTO v_table FROM sync.table_catalog t WHERE t.relation = tbl AND t.unregistered_at IS NULL;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM sync.remove_capture(v_table);
    EXECUTE format('ALTER TABLE %s ALTER COLUMN %I %s', tbl, v_table.scope_column,
        CASE WHEN v_table.scope_default_before IS NULL THEN 'DROP DEFAULT' ELSE 'SET DEFAULT ' || v_table.scope_default_before END);
    UPDATE sync.table_catalog t SET relation = NULL, unregistered_at = now() WHERE t.table_id = v_table.table_id;
    DELETE FROM sync.table_order_overrides o WHERE tbl IN (o.child, o.parent);
    -- Snapshots leave its rows out from now on, so they no longer count as live.
    UPDATE sync.user_state u
    SET live_row_count = u.live_row_count - gone.row_count, live_byte_count = u.live_byte_count - gone.byte_count
    FROM (SELECT n.user_pk, count(*) AS row_count, sum(octet_length(n.payload)) AS byte_count
          FROM (SELECT DISTINCT ON (r.user_pk, r.key_bytes) r.user_pk, r.op, r.payload
                FROM sync.bundle_rows r WHERE r.table_id = v_table.table_id
                ORDER BY r.user_pk, r.key_bytes, r.bundle_seq DESC) AS n
          WHERE n.op <> 'D' GROUP BY n.user_pk) AS gone
    WHERE u.user_pk = gone.user_pk;
    PERFORM sync.catalog_changed();
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
DROP FUNCTION sync.register_table(regclass, name, name, text);
DROP FUNCTION sync.catalog_changed();
DROP FUNCTION sync.catalog_entry_now(integer);
DROP FUNCTION sync.remove_capture(sync.table_catalog);
DROP FUNCTION sync.install_capture(sync.table_catalog);
DROP FUNCTION sync.apply_statement(sync.table_catalog, "char");
DROP FUNCTION sync.emit_statement(sync.table_catalog);
DROP FUNCTION sync.key_expression(sync.table_catalog, text);
DROP FUNCTION sync.capture_statement(sync.table_catalog, text);
DROP TRIGGER registered_tables_are_closed_over_foreign_keys ON sync.table_catalog;
DROP FUNCTION sync.check_foreign_keys();
DROP FUNCTION sync.foreign_key_problems();
DROP FUNCTION sync.registration_problems(regclass, name, name);
