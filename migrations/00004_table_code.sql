-- The code made for each registered table, as text: what registration installs, and what runs instead where the table was
-- altered since.
--
--   sync.capture_<id>   trigger function: notes the keys a statement touched
--   sync.capture_row_<id>  trigger function for partitions that were added since: notes the key of a row
--   sync.emit_<id>      writes effects from live rows into the log
--   sync.apply_<id>     applies staged rows of a push, and logs them
--   sync.apply_row_<id> does so with the row of a push that has only one
--   sync.settle_<id>    checks effects once they are in the log, where references can cross scopes
--   sync.resolve_<id>   finds the scopes of keys, where the scope is found through a parent
--
-- Functions of their own, so that their statements are planned once a connection. Each knows the columns it was made
-- for. If the table was altered since, it runs the same statement made afresh instead, so nothing is lost until
-- sync.refresh_table makes the functions anew.
--
-- sync.apply_<id> and sync.apply_row_<id> run under the application's search path, as its triggers do, and as the server's role. So what they
-- call is named with its schema, operators too: a function of somebody else that fits better would be taken instead.
--
-- What reads the catalog is plpgsql, whose plans are kept: an SQL function is planned at each call, and sync.check makes the code of every table.
--
-- Locks: creates new objects only.

-- +goose Up
-- +goose StatementBegin
--
-- The statements made for a table, as text. Each is a function's body and, if the table was altered since, a dynamic statement.
--
-- sync.key_bytes_expression returns the SQL that makes key bytes of a row's key.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.key_bytes_expression(p_table sync.table_catalog, p_alias text)
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE p_table.key_type WHEN 'uuid' THEN format('pg_catalog.uuid_send(%s.%I)', p_alias, p_table.key_column)
                                 ELSE format('pg_catalog.convert_to(%s.%I, ''UTF8'')', p_alias, p_table.key_column) END
$$;
COMMENT ON FUNCTION sync.key_bytes_expression(sync.table_catalog, text) IS 'SQL that makes key bytes of a row''s key.';

-- sync.key_expression returns the SQL that makes a key of the table's type from key bytes.
-- What convert_from returns has the collation of a name, which no index of the table has: hence the column's own. A column that was dropped or
-- retyped may have none: code that is made for it nevertheless, as other tables are registered, is never run.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.key_expression(p_table sync.table_catalog, p_key_bytes text)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE p_table.key_type WHEN 'uuid' THEN format('pg_catalog.encode(%s, ''hex'')::pg_catalog.uuid', p_key_bytes)
                                 ELSE format('(pg_catalog.convert_from(%s, ''UTF8'')%s)', p_key_bytes,
                                      (SELECT ' COLLATE ' || a.attcollation::regcollation FROM pg_attribute a
                                       WHERE a.attrelid = p_table.relation AND a.attnum = p_table.key_attnum AND a.attcollation <> 0)) END
$$;
COMMENT ON FUNCTION sync.key_expression(sync.table_catalog, text) IS 'SQL that makes a key of the table''s type from key bytes.';

-- sync.scope_expression returns the SQL that gives the scope id of a row: its scope column, or that of its parent, to any depth.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.scope_expression(p_table sync.table_catalog, p_alias text, p_depth integer DEFAULT 0)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_parent_id integer;
    v_parent sync.table_catalog;
    v_parent_column name;
    v_parent_alias text := format('p%s', p_depth + 1);
BEGIN
    IF p_table.scope_via IS NULL THEN
        RETURN format('%s.%I::text', p_alias, p_table.scope_column);
    ELSIF p_depth > 32 THEN
        -- Tables that find their scope through each other are in nobody's way: sync.foreign_key_problems has them.
        RETURN 'NULL::text';
    END IF;
    SELECT f.parent_table_id, f.parent_column INTO v_parent_id, v_parent_column FROM sync.scope_reference(p_table) AS f;
    IF v_parent_id IS NULL THEN
        -- The parent is registered later in the same transaction, and then this is made again.
        RETURN 'NULL::text';
    END IF;
    v_parent := sync.catalog_entry(v_parent_id);
    RETURN format('(SELECT %s FROM %s AS %s WHERE %s.%I %s %s.%I)', sync.scope_expression(v_parent, v_parent_alias, p_depth + 1),
        v_parent.relation, v_parent_alias, v_parent_alias, v_parent_column,
        -- A type of an extension has an equality of its own.
        CASE WHEN (SELECT y.typnamespace FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid WHERE a.attrelid = p_table.relation AND a.attname = p_table.scope_via) = 'pg_catalog'::regnamespace
             THEN 'OPERATOR(pg_catalog.=)' ELSE '=' END,
        p_alias, p_table.scope_via);
END
$$;
COMMENT ON FUNCTION sync.scope_expression(sync.table_catalog, text, integer) IS 'SQL that gives the scope id of a row, through parents if need be.';

-- sync.scope_condition returns the SQL condition that a row belongs to a scope. On a scope column an index can serve it.
-- With p_is_lookup it is one by which rows can be looked up from others, but not joined in any other way.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.scope_condition(p_table sync.table_catalog, p_alias text, p_user_id text, p_is_lookup boolean DEFAULT false)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format(CASE WHEN p_is_lookup THEN '%s OPERATOR(pg_catalog.=) ANY (ARRAY[%s])' ELSE '%s OPERATOR(pg_catalog.=) %s' END,
        CASE WHEN p_table.scope_via IS NULL THEN format('%s.%I', p_alias, p_table.scope_column) ELSE sync.scope_expression(p_table, p_alias) END,
        CASE WHEN p_table.scope_via IS NULL THEN format('%s::%s', p_user_id, p_table.scope_type) ELSE p_user_id END)
$$;
COMMENT ON FUNCTION sync.scope_condition(sync.table_catalog, text, text, boolean) IS 'SQL condition that a row belongs to a scope.';

-- sync.scope_condition_or_none is sync.scope_condition, but false for a scope id that the scope column cannot hold: where the type of the column was
-- changed, the log has such scopes still, and rows that are theirs no more.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.scope_condition_or_none(p_table sync.table_catalog, p_alias text, p_user_id text)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN p_table.scope_type IN ('uuid', 'integer', 'bigint')
        THEN format(CASE p_table.scope_type
                        WHEN 'uuid' THEN $f$%1$s.%2$I = CASE WHEN %3$s ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN %3$s::uuid END$f$
                        WHEN 'integer' THEN $f$%1$s.%2$I = CASE WHEN %3$s ~ '^(0|-?[1-9][0-9]{0,9})$' THEN CASE WHEN %3$s::bigint BETWEEN -2147483648 AND 2147483647 THEN %3$s::integer END END$f$
                        ELSE $f$%1$s.%2$I = CASE WHEN %3$s ~ '^(0|-?[1-9][0-9]{0,18})$' THEN CASE WHEN %3$s::numeric BETWEEN -9223372036854775808 AND 9223372036854775807 THEN %3$s::bigint END END$f$ END,
                    p_alias, p_table.scope_column, p_user_id)
        ELSE sync.scope_condition(p_table, p_alias, p_user_id) END
$$;
COMMENT ON FUNCTION sync.scope_condition_or_none(sync.table_catalog, text, text) IS 'SQL condition that a row belongs to a scope, which the scope column may not be able to hold.';

-- sync.wire_columns returns the select list of a row's columns as they are on the wire, in canonical order.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.wire_columns(p_table sync.table_catalog, p_alias text)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (
        SELECT string_agg(CASE WHEN c.is_bytea THEN format('pg_catalog.translate(pg_catalog.encode(%s.%I, ''base64''), E''\n'', '''') AS %I', p_alias, c.column_name, c.column_name)
                               ELSE format('%s.%I', p_alias, c.column_name) END, ', ' ORDER BY c.column_name COLLATE "C")
        FROM sync.table_columns c WHERE c.table_id = p_table.table_id AND c.is_sent
    );
END
$$;
COMMENT ON FUNCTION sync.wire_columns(sync.table_catalog, text) IS 'Select list of a row''s columns as they are on the wire.';

-- sync.capture_statement returns the query that gives the keys in a transition table, their scopes, and the least and greatest scope.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.capture_statement(p_table sync.table_catalog, p_transition_table text)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('SELECT array_agg(%s), %s FROM %I AS n', sync.key_bytes_expression(p_table, 'n'),
                  CASE WHEN p_table.scope_via IS NULL THEN format('array_agg(n.%1$I::text), min(n.%1$I::text COLLATE "C"), max(n.%1$I::text COLLATE "C")', p_table.scope_column)
                       ELSE 'NULL::text[], NULL::text, NULL::text' END, p_transition_table)
$$;
COMMENT ON FUNCTION sync.capture_statement(sync.table_catalog, text) IS 'Text of the query that reads keys and scopes from a transition table.';

-- sync.emit_statement returns the statement that writes effects from live rows. Its parameters are those of sync.emit_<id>.
-- Rows are looked up one by one, whatever the planner thinks of the size of an array: a table can be a thousand times as large as what was
-- touched of it. With p_whole the table is read as a whole instead. A scope's first bundle has nothing before it to look for. Payloads go
-- straight into the log, nearly in its order as keys are given: to keep them meanwhile costs as much as to look them up.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.emit_statement(p_table sync.table_catalog, p_whole boolean)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format($f$
    WITH touched AS MATERIALIZED (
        SELECT b.user_pk, b.user_id, b.bundle_seq, k.row_ordinal, k.key_bytes, before.payload_bytes AS bytes_before
        FROM unnest($1, $2, $3) AS k(user_pk, row_ordinal, key_bytes)
        JOIN sync.open_bundles b ON b.xid = pg_current_xact_id() AND b.user_pk = k.user_pk
        LEFT JOIN LATERAL (
            SELECT octet_length(r.payload) AS payload_bytes FROM sync.bundle_rows r
            WHERE b.bundle_seq > 1 AND r.user_pk = b.user_pk AND r.table_id = %1$s AND r.key_bytes = k.key_bytes
            ORDER BY r.bundle_seq DESC LIMIT 1
        ) AS before ON true
    ), logged AS (
        INSERT INTO sync.bundle_rows (user_pk, bundle_seq, row_ordinal, table_id, op, key_bytes, payload)
        SELECT k.user_pk, k.bundle_seq, k.row_ordinal, %1$s,
               CASE WHEN live.%2$I IS NULL THEN 'D' WHEN k.bytes_before IS NULL THEN 'I' ELSE 'U' END::"char",
               k.key_bytes, CASE WHEN live.%2$I IS NOT NULL THEN row_to_json(live.*)::text END
        FROM touched k
        LEFT JOIN LATERAL (
            SELECT %3$s FROM %4$s AS t WHERE %5$s AND %6$s
        ) AS live ON true
        WHERE CASE WHEN k.bytes_before IS NULL THEN live.%2$I IS NOT NULL ELSE NOT $4 END
        RETURNING user_pk, op, octet_length(payload) AS bytes
    )
    UPDATE sync.open_bundles b
    SET row_count = b.row_count + c.row_count, live_row_delta = b.live_row_delta + c.live_rows, live_byte_delta = b.live_byte_delta + c.live_bytes
    FROM (SELECT e.user_pk, count(e.op) AS row_count, count(*) FILTER (WHERE e.op = 'I') - count(*) FILTER (WHERE e.op = 'D') AS live_rows,
                 coalesce(sum(e.bytes), 0) AS live_bytes
          FROM (SELECT l.user_pk, l.op, l.bytes FROM logged l
                UNION ALL SELECT k.user_pk, NULL, -k.bytes_before FROM touched k WHERE NOT $4) AS e
          GROUP BY e.user_pk) AS c
    WHERE b.xid = pg_current_xact_id() AND b.user_pk = c.user_pk$f$,
        p_table.table_id, p_table.key_column, sync.wire_columns(p_table, 't'), p_table.relation,
        sync.scope_condition_or_none(p_table, 't', 'k.user_id'),
        CASE WHEN p_whole THEN sync.key_bytes_expression(p_table, 't') || ' = k.key_bytes'
             ELSE format('t.%I = %s OFFSET 0', p_table.key_column, sync.key_expression(p_table, 'k.key_bytes')) END)
$$;
COMMENT ON FUNCTION sync.emit_statement(sync.table_catalog, boolean) IS 'Text of the statement that writes effects of one table from live rows into the log.';

-- sync.guard_statement returns the query that tells whether a live row of the effects refers across scopes, by a foreign key that
-- does not include the scope; null if there is no such key. Its parameters are those of sync.settle_<id>.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.guard_statement(p_table sync.table_catalog)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (
        SELECT string_agg(g.sql, ' OR ')
        FROM (
            SELECT format($f$EXISTS (
                SELECT FROM unnest($1, $2) AS k(user_pk, key_bytes)
                JOIN sync.open_bundles b ON b.xid = pg_current_xact_id() AND b.user_pk = k.user_pk
                CROSS JOIN LATERAL (SELECT t.* FROM %1$s AS t WHERE %2$s AND t.%3$I = %4$s OFFSET 0) AS t
                CROSS JOIN LATERAL (SELECT %5$s AS scope FROM %6$s AS p WHERE %7$s OFFSET 0) AS p
                WHERE p.scope COLLATE "C" <> b.user_id)$f$,
                p_table.relation, sync.scope_condition_or_none(p_table, 't', 'b.user_id'), p_table.key_column, sync.key_expression(p_table, 'k.key_bytes'),
                sync.scope_expression(parent.entry, 'p'), (parent.entry).relation,
                (SELECT string_agg(format('p.%I = t.%I', c.parent_column, c.child_column), ' AND ') FROM unnest(f.columns, f.parent_columns) AS c(child_column, parent_column))) AS sql
            FROM sync.foreign_keys f
            CROSS JOIN LATERAL (SELECT sync.catalog_entry(f.parent_table_id) AS entry OFFSET 0) AS parent
            WHERE f.table_id = p_table.table_id AND f.parent_table_id IS NOT NULL AND f.columns IS DISTINCT FROM ARRAY[p_table.scope_via]
              AND NOT EXISTS (SELECT FROM unnest(f.columns, f.parent_columns) AS c(child_column, parent_column)
                              WHERE c.child_column = p_table.scope_column AND c.parent_column = (parent.entry).scope_column)
        ) AS g
    );
END
$$;
COMMENT ON FUNCTION sync.guard_statement(sync.table_catalog) IS 'Text of the condition that a row refers across scopes; null if no foreign key can.';

-- sync.apply_statement returns the statement that applies staged rows of one operation (I, U or D), and logs them as they stand when it
-- ends: that is how they end, unless a trigger or a foreign key touches them again, and then the caller makes the log anew.
-- Its parameters are $1 user_id, $2 user_pk, $3 bundle_seq; then $5 push_id, $6 first and $7 last row_ordinal, $8 row_ordinals, and $9 how many
-- ordinals a bundle has before the next one begins. With p_single it applies a row that is given to it, as most pushes have only one: $5 key, $6 payload.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.apply_statement(p_table sync.table_catalog, p_op "char", p_single boolean)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_staged text := CASE WHEN p_single THEN '(SELECT 0 AS row_ordinal, $5 AS key_bytes, $6 AS payload) AS s'
        ELSE format('(SELECT c.row_ordinal, c.key_bytes, c.payload, $1 AS user_id FROM sync.chunk_rows c
                      WHERE c.push_id = $5 AND c.table_id = %s AND c.op = %L AND c.row_ordinal BETWEEN $6 AND $7 OFFSET 0) AS s', p_table.table_id, p_op) END;
    v_written name[] := (SELECT array_agg(c.column_name ORDER BY c.column_name COLLATE "C") FROM sync.table_columns c
                         WHERE c.table_id = p_table.table_id AND NOT c.is_generated AND NOT c.is_scope);
    -- Whose rows these are is hidden from the planner: of a scope that its statistics do not know it thinks that it has a row or two, and would
    -- read all of them. "T" is a name that no column can have, so that it means the row.
    v_mine text := CASE WHEN p_single THEN format('%s AND "T".%I OPERATOR(pg_catalog.=) %s', sync.scope_condition(p_table, '"T"', '(SELECT $1)'), p_table.key_column, sync.key_expression(p_table, 's.key_bytes'))
        ELSE format('%s AND "T".%I OPERATOR(pg_catalog.=) ANY (ARRAY[%s])', sync.scope_condition(p_table, '"T"', 's.user_id', true), p_table.key_column, sync.key_expression(p_table, 's.key_bytes')) END;
    v_defaults text;
    v_set text;
    v_key text := sync.key_bytes_expression(p_table, '"T"') || ' AS key_bytes';
    v_payload text := format('(SELECT pg_catalog.row_to_json(w.*)::pg_catalog.text FROM (SELECT %s) AS w) AS payload', sync.wire_columns(p_table, '"T"'));
    v_log text := format('INSERT INTO sync.bundle_rows (user_pk, bundle_seq, row_ordinal, table_id, op, key_bytes, payload)
        SELECT $2, %s, %s, %L::"char", a.key_bytes, %s FROM applied a',
        -- Rows are inserted in push order, and come back so.
        CASE WHEN p_single THEN '$3, 0' ELSE format('$3 + %1$s / $9, %1$s %% $9', CASE WHEN p_op = 'I' THEN '$8[pg_catalog.row_number() OVER ()]' ELSE 'a.row_ordinal' END) END,
        p_table.table_id, p_op, CASE WHEN p_op = 'D' THEN 'NULL' ELSE 'a.payload' END);
BEGIN
    IF p_op = 'I' THEN
        -- What a payload does not name keeps the value it has in the base row: the column's default.
        -- A domain may have a default of its own. One that takes no null must not be given one, so it is given what the payload names.
        SELECT string_agg(CASE WHEN a.attidentity = 'd' THEN format('pg_catalog.nextval(pg_catalog.pg_get_serial_sequence(%L, %L))', p_table.relation, a.attname)
                               WHEN a.attgenerated <> '' OR a.attidentity <> '' OR a.attnum IS NOT DISTINCT FROM p_table.scope_attnum THEN 'NULL'
                               ELSE coalesce(pg_get_expr(d.adbin, d.adrelid), pg_get_expr(t.typdefaultbin, 0),
                                   CASE WHEN t.typtype = 'd' THEN format('(SELECT x.%1$I FROM pg_catalog.json_to_record(s.payload::pg_catalog.json) AS x(%1$I %2$s))', a.attname, t.oid::regtype) END, 'NULL') END,
                          ', ' ORDER BY a.attnum)
        INTO v_defaults
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = p_table.relation AND a.attnum > 0 AND NOT a.attisdropped;
        RETURN format($f$
        WITH applied AS (
            INSERT INTO %1$s AS "T" (%2$s%3$s)
            SELECT %4$s%5$s
            FROM (SELECT pg_catalog.json_populate_record(ROW(%6$s)::%1$s, s.payload::pg_catalog.json) AS r
                  FROM %7$s ORDER BY s.row_ordinal OFFSET 0) AS q
            RETURNING %8$s, %9$s
        )
        %10$s$f$,
            p_table.relation, coalesce(quote_ident(p_table.scope_column) || ', ', ''),
            (SELECT string_agg(quote_ident(w), ', ' ORDER BY o) FROM unnest(v_written) WITH ORDINALITY AS u(w, o)),
            CASE WHEN p_table.scope_type IS NULL THEN '' ELSE format('$1::%s, ', p_table.scope_type) END,
            (SELECT string_agg(format('(q.r).%I', w), ', ' ORDER BY o) FROM unnest(v_written) WITH ORDINALITY AS u(w, o)),
            v_defaults, v_staged, v_key, v_payload, v_log);
    ELSIF p_op = 'U' THEN
        -- A payload that names no column is an update all the same, so the key stands in where there is nothing else.
        v_written := array_remove(v_written, p_table.key_column);
        v_set := CASE WHEN cardinality(v_written) = 0 THEN format('%I = "T".%I', p_table.key_column, p_table.key_column)
            ELSE (SELECT format('(%s) = (SELECT %s FROM pg_catalog.json_populate_record("T", s.payload::pg_catalog.json) AS r)',
                                string_agg(quote_ident(w), ', ' ORDER BY o), string_agg(format('r.%I', w), ', ' ORDER BY o))
                  FROM unnest(v_written) WITH ORDINALITY AS u(w, o)) END;
        RETURN format($f$
        WITH applied AS (
            UPDATE %s AS "T" SET %s
            FROM %s WHERE %s
            RETURNING s.row_ordinal, %s, %s
        )
        %s$f$, p_table.relation, v_set, v_staged, v_mine, v_key, v_payload, v_log);
    ELSE
        RETURN format($f$
        WITH applied AS (
            DELETE FROM %s AS "T"
            USING %s WHERE %s
            RETURNING s.row_ordinal, %s
        )
        %s$f$, p_table.relation, v_staged, v_mine, v_key, v_log);
    END IF;
END
$$;
COMMENT ON FUNCTION sync.apply_statement(sync.table_catalog, "char", boolean) IS 'Text of the statement that applies staged rows of one operation to a table.';

-- sync.unadopted_statement returns the statement that notes the scopes of old rows, found through their parents. While rows that were there
-- before registration still enter the log, the log does not say yet whose a row was.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.unadopted_statement(p_table sync.table_catalog)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format($f$INSERT INTO sync.captured_keys (xid, table_id, at_commit, keys, scopes)
        SELECT pg_current_xact_id(), %s, false, array_agg(o.key_bytes), array_agg(o.scope)
        FROM (SELECT %s AS key_bytes, %s AS scope FROM old_rows AS n) AS o
        WHERE o.scope IS NOT NULL HAVING count(*) > 0$f$,
        p_table.table_id, sync.key_bytes_expression(p_table, 'n'), sync.scope_expression(p_table, 'n'))
$$;
COMMENT ON FUNCTION sync.unadopted_statement(sync.table_catalog) IS 'Text of the statement that notes the scopes of old rows while a table is being adopted.';

--
-- Bodies of the functions made for a table.
--
-- sync.alone_condition returns the SQL condition that a statement of this kind (I, U or D) on the table can do nothing but write the rows
-- that it names.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.alone_condition(p_table sync.table_catalog, p_op text)
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('(CASE %1$s WHEN ''I'' THEN sync.stands_alone(%2$s, ''I'', %3$s) WHEN ''U'' THEN sync.stands_alone(%2$s, ''U'', %3$s) ELSE sync.stands_alone(%2$s, ''D'', %3$s) END)',
        p_op, sync.relation_literal(p_table.relation), p_table.table_id)
$$;
COMMENT ON FUNCTION sync.alone_condition(sync.table_catalog, text) IS 'SQL condition that a statement on the table can do nothing but write the rows that it names.';

-- sync.capture_body returns the body of sync.capture_<id>.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.capture_body(p_table sync.table_catalog)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format($f$
DECLARE
    v_keys bytea[]; v_scopes text[]; v_min text; v_max text;
    v_old_keys bytea[]; v_old_scopes text[]; v_old_min text; v_old_max text;
    v_scope text; v_pushed_table_id integer;
    v_noted integer;
    v_table sync.table_catalog;
    v_is_stale boolean := %2$s;
BEGIN
    -- As sync.scope_in_bundle, without the cost of its call.
    SELECT b.user_id, b.pushed_table_id INTO v_scope, v_pushed_table_id FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id_if_assigned() AND NOT b.is_implicit;%6$s
    IF v_is_stale THEN
        v_table := sync.catalog_entry(%1$s);
        PERFORM sync.require_columns(v_table);
        IF TG_OP <> 'DELETE' THEN EXECUTE sync.capture_statement(v_table, 'new_rows') INTO v_keys, v_scopes, v_min, v_max; END IF;
        IF TG_OP <> 'INSERT' THEN EXECUTE sync.capture_statement(v_table, 'old_rows') INTO v_old_keys, v_old_scopes, v_old_min, v_old_max; END IF;
    ELSE
        IF TG_OP <> 'DELETE' THEN %3$s INTO v_keys, v_scopes, v_min, v_max; END IF;
        IF TG_OP <> 'INSERT' THEN %4$s INTO v_old_keys, v_old_scopes, v_old_min, v_old_max; END IF;
    END IF;
    IF v_keys IS NULL AND v_old_keys IS NULL THEN
        RETURN NULL;
    END IF;%5$s
    -- Most statements are about one scope, which is noted once.
    v_scopes := CASE WHEN v_min <> v_max THEN v_scopes WHEN v_min IS NOT NULL THEN ARRAY[v_min] END;
    v_old_scopes := CASE WHEN v_old_min <> v_old_max THEN v_old_scopes WHEN v_old_min IS NOT NULL THEN ARRAY[v_old_min] END;
    -- An update that changes neither key nor scope gives the same twice, in the same order.
    IF v_old_keys IS NOT NULL AND (v_old_keys IS DISTINCT FROM v_keys OR v_old_scopes IS DISTINCT FROM v_scopes) THEN
        v_noted := sync.capture(%1$s, v_old_keys, v_old_scopes, v_scope);
    END IF;
    IF v_keys IS NOT NULL THEN
        v_noted := sync.capture(%1$s, v_keys, v_scopes, v_scope);
    END IF;
    RETURN NULL;
END
$f$, p_table.table_id, sync.altered_condition(p_table.relation, p_table.columns_fingerprint, p_table.table_id),
        sync.capture_statement(p_table, 'new_rows'), sync.capture_statement(p_table, 'old_rows'),
        CASE WHEN p_table.scope_via IS NULL THEN '' ELSE format($f$
    -- First, since what is captured may become a bundle at once.
    IF TG_OP <> 'INSERT' AND EXISTS (SELECT FROM sync.adoptions a WHERE a.table_id = %1$s) THEN
        EXECUTE sync.unadopted_statement(sync.catalog_entry(%1$s));
    END IF;$f$, p_table.table_id) END,
        -- What sync.apply_row_<id> did is known to it. A scope that the column gives another form is left to the guard.
        CASE WHEN p_table.scope_via IS NOT NULL THEN '' ELSE format($f$
    IF v_pushed_table_id = %1$s AND NOT v_is_stale AND pg_trigger_depth() = 1 AND %2$s AND v_scope::%3$s::text = v_scope THEN
        RETURN NULL;
    END IF;$f$, p_table.table_id, sync.alone_condition(p_table, 'left(TG_OP, 1)'), p_table.scope_type) END)
$$;
COMMENT ON FUNCTION sync.capture_body(sync.table_catalog) IS 'Body of the trigger function made for a table.';

-- sync.stale_condition returns the SQL condition that the code made for a table no longer fits: it, or a table that its code names, was
-- altered, renamed or moved. Code names the parents that say whose a row is, and with p_refers those that it refers to.
-- The condition does not depend on the search path: the application's own is set where its triggers run.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.stale_condition(p_table sync.table_catalog, p_refers boolean)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (
        WITH RECURSIVE named AS (
            SELECT p_table.relation::oid AS oid, p_table.columns_fingerprint, p_table.table_id
            UNION
            SELECT p.relation::oid, p.columns_fingerprint, p.table_id
            FROM named n
            JOIN sync.table_catalog t ON t.relation = n.oid AND t.unregistered_at IS NULL
            JOIN sync.foreign_keys f ON f.table_id = t.table_id AND (p_refers AND t.table_id = p_table.table_id OR f.columns = ARRAY[t.scope_via])
            JOIN sync.table_catalog p ON p.table_id = f.parent_table_id
        )
        SELECT string_agg(format('%s OR coalesce(pg_catalog.to_regclass(%L) OPERATOR(pg_catalog.<>) %s, true)',
                                 sync.altered_condition(n.oid, n.columns_fingerprint, n.table_id), format('%I.%I', s.nspname, c.relname), sync.relation_literal(n.oid)), ' OR ' ORDER BY n.table_id)
        FROM named n JOIN pg_class c ON c.oid = n.oid JOIN pg_namespace s ON s.oid = c.relnamespace
    );
END
$$;
COMMENT ON FUNCTION sync.stale_condition(sync.table_catalog, boolean) IS 'SQL condition that the code made for a table no longer fits.';

-- sync.settle_statements returns what sync.settle_<id> runs once effects are in the log: the guard against references across scopes, and
-- whose row is whose where the scope is found through a parent. Its parameters are $1 user_pks and $2 keys.
-- ANY and LATERAL leave only to look up each key: callers bid the planner join by hashing, which would read whose each row of the table is.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.settle_statements(p_table sync.table_catalog)
RETURNS text[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_remove(ARRAY[
        CASE WHEN sync.guard_statement(p_table) IS NOT NULL THEN format($f$
        SELECT sync.fail('OV033', %L, NULL, 'A row may refer only to rows of its own scope.') WHERE %s$f$,
            format('a row of %I.%I refers to a row of another scope', p_table.schema_name, p_table.table_name), sync.guard_statement(p_table)) END,
        CASE WHEN p_table.scope_via IS NOT NULL THEN format($f$
        WITH ended AS (
            DELETE FROM sync.row_owners o USING (SELECT %1$s AS table_id, u.key_bytes FROM unnest($2) AS u(key_bytes) OFFSET 0) AS k
            WHERE o.table_id = ANY (ARRAY[k.table_id]) AND o.key_bytes = ANY (ARRAY[k.key_bytes])
              AND NOT EXISTS (SELECT FROM %2$s AS t WHERE t.%4$I = %5$s OFFSET 0)
        )
        INSERT INTO sync.row_owners AS o (table_id, user_pk, key_bytes)
        SELECT %1$s, b.user_pk, k.key_bytes
        FROM unnest($1, $2) AS k(user_pk, key_bytes)
        JOIN sync.open_bundles b ON b.xid = pg_current_xact_id() AND b.user_pk = k.user_pk
        CROSS JOIN LATERAL (SELECT FROM %2$s AS t WHERE %3$s AND t.%4$I = %5$s OFFSET 0) AS live
        ON CONFLICT ON CONSTRAINT row_owners_pkey DO UPDATE SET user_pk = excluded.user_pk$f$,
            p_table.table_id, p_table.relation, sync.scope_condition(p_table, 't', 'b.user_id'), p_table.key_column, sync.key_expression(p_table, 'k.key_bytes')) END
    ], NULL)
$$;
COMMENT ON FUNCTION sync.settle_statements(sync.table_catalog) IS 'Statements that check effects of a table once they are in the log.';

-- sync.emit_body returns the body of sync.emit_<id>. A table of which so many rows were touched that all its pages would be read anyway
-- is read once, in the order of its pages. Never so a partitioned table, which has no pages of its own, or one whose rows find their scope
-- through a parent, since each would be asked for.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.emit_body(p_table sync.table_catalog)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format($f$
BEGIN
    IF %1$s THEN
        EXECUTE sync.emit_statement(sync.entry_to_write(%2$s, true), false) USING $1, $2, $3, $4;
    ELSIF %5$s THEN
        PERFORM set_config('enable_seqscan', 'on', true);
        %4$s;
        PERFORM set_config('enable_seqscan', 'off', true);
    ELSE
        %3$s;
    END IF;
END
$f$, sync.stale_condition(p_table, false), p_table.table_id, sync.emit_statement(p_table, false), sync.emit_statement(p_table, true),
        CASE WHEN p_table.scope_via IS NOT NULL THEN 'false'
             ELSE format('cardinality($3) > 100 AND pg_relation_size(%s) / 8192 BETWEEN 1 AND cardinality($3) / 4', sync.relation_literal(p_table.relation)) END)
$$;
COMMENT ON FUNCTION sync.emit_body(sync.table_catalog) IS 'Body of the function that writes effects of a table into the log.';

-- sync.settle_body returns the body of sync.settle_<id>; null where there is nothing to settle.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.settle_body(p_table sync.table_catalog)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format($f$
DECLARE
    v_statement text;
BEGIN
    IF %1$s THEN
        PERFORM sync.entry_to_write(f.parent_table_id) FROM sync.foreign_keys f WHERE f.table_id = %2$s AND f.parent_table_id IS NOT NULL;
        FOREACH v_statement IN ARRAY sync.settle_statements(sync.entry_to_write(%2$s, true)) LOOP
            EXECUTE v_statement USING $1, $2;
        END LOOP;
    ELSE
        %3$s;
    END IF;
END
$f$, sync.stale_condition(p_table, true), p_table.table_id,
        string_agg(regexp_replace(s.sql, '^[[:space:]]*SELECT', 'PERFORM'), E';\n        ' ORDER BY s.place))
    FROM unnest(sync.settle_statements(p_table)) WITH ORDINALITY AS s(sql, place)
    HAVING count(*) > 0
$$;
COMMENT ON FUNCTION sync.settle_body(sync.table_catalog) IS 'Body of the function that checks effects of a table once they are in the log; null where there is nothing to check.';

-- sync.apply_body returns the body of sync.apply_<id>, which returns the number of rows applied; or with p_single that of sync.apply_row_<id>,
-- which returns whether nothing else can have happened, and null if the row is not there.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.apply_body(p_table sync.table_catalog, p_single boolean)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format($f$
DECLARE
    v_applied bigint;
    v_table sync.table_catalog;
    -- Opening the table makes known what was committed about it until now. The trigger functions and what follows them have it locked.
    v_is_updatable integer := pg_catalog.pg_relation_is_updatable(%6$s, false);
BEGIN
    IF %1$s THEN
        v_table := sync.entry_to_write(%2$s);
        PERFORM sync.require_named(v_table, %10$s);
        EXECUTE sync.apply_statement(v_table, $4, %7$L) USING $1, $2, $3, $4, $5, $6%8$s;
    ELSIF $4 = 'I' THEN %3$s;
    ELSIF $4 = 'U' THEN %4$s;
    ELSE %5$s;
    END IF;
    GET DIAGNOSTICS v_applied = ROW_COUNT;
    RETURN %9$s;
END
$f$, sync.stale_condition(p_table, false), p_table.table_id,
        sync.apply_statement(p_table, 'I', p_single), sync.apply_statement(p_table, 'U', p_single), sync.apply_statement(p_table, 'D', p_single),
        sync.relation_literal(p_table.relation), p_single, CASE WHEN p_single THEN '' ELSE ', $7, $8, $9' END,
        CASE WHEN p_single THEN format('CASE WHEN v_applied = 1 THEN %s END', sync.alone_condition(p_table, '$4')) ELSE 'v_applied' END,
        CASE WHEN p_single THEN 'ARRAY[$6]'
             ELSE format('ARRAY(SELECT s.payload FROM sync.chunk_rows s WHERE s.push_id = $5 AND s.table_id = %s AND s.op = $4 AND s.row_ordinal BETWEEN $6 AND $7)', p_table.table_id) END)
$$;
COMMENT ON FUNCTION sync.apply_body(sync.table_catalog, boolean) IS 'Body of the functions that apply staged rows, or a single one, to a table.';

-- sync.capture_row_statement returns the statement that notes the key of a row ($1).
-- Errors: OV030 as sync.require_columns. Locks: none.
CREATE FUNCTION sync.capture_row_statement(p_table sync.table_catalog)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM sync.require_columns(p_table);
    RETURN format('SELECT sync.capture(%s, ARRAY[%s], %s, sync.scope_in_bundle())', p_table.table_id, sync.key_bytes_expression(p_table, '($1)'),
        CASE WHEN p_table.scope_via IS NULL THEN format('ARRAY[($1).%I::text]', p_table.scope_column) ELSE 'NULL' END);
END
$$;
COMMENT ON FUNCTION sync.capture_row_statement(sync.table_catalog) IS 'Text of the statement that notes the key of a row.';

-- sync.capture_row_body returns the body of sync.capture_row_<id>. Partitions that were added since have no statement triggers: their
-- rows are noted one by one, until sync.refresh_table gives them triggers of their own. What was written through the parent is noted
-- twice, which does no harm.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.capture_row_body(p_table sync.table_catalog)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format($f$
BEGIN
    -- The statement may have named any table above. Where there is one between this and the root, each must have its triggers.
    IF EXISTS (SELECT FROM pg_trigger g LEFT JOIN pg_inherits i ON i.inhrelid = g.tgrelid
               WHERE g.tgrelid = TG_RELID AND g.tgname = 'oversync_capture_insert' AND g.tgfoid = 'sync.capture_%1$s()'::regprocedure
                 AND (i.inhparent = (SELECT t.relation FROM sync.table_catalog t WHERE t.table_id = %1$s) OR NOT EXISTS (
                     SELECT FROM pg_partition_ancestors(TG_RELID) AS a
                     WHERE NOT EXISTS (SELECT FROM pg_trigger p WHERE p.tgrelid = a.relid AND p.tgname = g.tgname AND p.tgfoid = g.tgfoid)))) THEN
        RETURN NULL;
    ELSIF %6$s THEN
        IF TG_OP <> 'INSERT' THEN EXECUTE sync.capture_row_statement(sync.catalog_entry(%1$s)) USING OLD; END IF;
        IF TG_OP <> 'DELETE' THEN EXECUTE sync.capture_row_statement(sync.catalog_entry(%1$s)) USING NEW; END IF;
    ELSE
        IF TG_OP <> 'INSERT' THEN PERFORM sync.capture(%1$s, ARRAY[%2$s], %3$s, sync.scope_in_bundle()); END IF;
        IF TG_OP <> 'DELETE' THEN PERFORM sync.capture(%1$s, ARRAY[%4$s], %5$s, sync.scope_in_bundle()); END IF;
    END IF;
    RETURN NULL;
END
$f$, p_table.table_id,
        sync.key_bytes_expression(p_table, 'OLD'), CASE WHEN p_table.scope_via IS NULL THEN format('ARRAY[OLD.%I::text]', p_table.scope_column) ELSE 'NULL' END,
        sync.key_bytes_expression(p_table, 'NEW'), CASE WHEN p_table.scope_via IS NULL THEN format('ARRAY[NEW.%I::text]', p_table.scope_column) ELSE 'NULL' END,
        sync.altered_condition(p_table.relation, p_table.columns_fingerprint, p_table.table_id))
$$;
COMMENT ON FUNCTION sync.capture_row_body(sync.table_catalog) IS 'Body of the trigger function for partitions that were added since registration.';

-- sync.resolve_statement returns the query of sync.resolve_<id>: the scopes that keys are in, by the log and by the live rows, and
-- whether there is a live row without one.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.resolve_statement(p_table sync.table_catalog)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format($f$
    SELECT array_agg(r.key_bytes ORDER BY r.place) FILTER (WHERE r.scope IS NOT NULL), array_agg(r.scope ORDER BY r.place) FILTER (WHERE r.scope IS NOT NULL),
           coalesce(bool_or(r.scope IS NULL), false)
    FROM (SELECT k.key_bytes, u.user_id AS scope, k.place
          FROM unnest($1) WITH ORDINALITY AS k(key_bytes, place)
          CROSS JOIN LATERAL (SELECT x.user_pk FROM sync.row_owners x WHERE x.table_id = %1$s AND x.key_bytes = k.key_bytes OFFSET 0) AS o
          JOIN sync.user_state u ON u.user_pk = o.user_pk
          UNION
          SELECT k.key_bytes, %2$s, k.place
          FROM unnest($1) WITH ORDINALITY AS k(key_bytes, place)
          CROSS JOIN LATERAL (SELECT * FROM %3$s AS x WHERE x.%4$I = %5$s OFFSET 0) AS t) AS r$f$, p_table.table_id, sync.scope_expression(p_table, 't'), p_table.relation, p_table.key_column, sync.key_expression(p_table, 'k.key_bytes'))
$$;
COMMENT ON FUNCTION sync.resolve_statement(sync.table_catalog) IS 'Text of the query that finds the scopes of keys.';

-- sync.resolve_body returns the body of sync.resolve_<id>.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.resolve_body(p_table sync.table_catalog)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format($f$
DECLARE
    v_is_lost boolean;
BEGIN
    IF %1$s THEN
        EXECUTE sync.resolve_statement(sync.entry_to_write(%2$s, true)) INTO keys, scopes, v_is_lost USING $1;
    ELSE
        %3$s INTO keys, scopes, v_is_lost;
    END IF;
    IF v_is_lost THEN
        PERFORM sync.entry_to_write(%2$s); -- which knows of a worse reason
        PERFORM sync.fail('OV033', %4$L, NULL, 'Write the parent first.');
    END IF;
END
$f$, sync.stale_condition(p_table, false), p_table.table_id, sync.resolve_statement(p_table),
        format('a row of %I.%I refers to no parent that says whose it is', p_table.schema_name, p_table.table_name))
$$;
COMMENT ON FUNCTION sync.resolve_body(sync.table_catalog) IS 'Body of the function that finds the scopes of keys.';
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION sync.resolve_body(sync.table_catalog);
DROP FUNCTION sync.resolve_statement(sync.table_catalog);
DROP FUNCTION sync.capture_row_body(sync.table_catalog);
DROP FUNCTION sync.capture_row_statement(sync.table_catalog);
DROP FUNCTION sync.apply_body(sync.table_catalog, boolean);
DROP FUNCTION sync.emit_body(sync.table_catalog);
DROP FUNCTION sync.settle_body(sync.table_catalog);
DROP FUNCTION sync.settle_statements(sync.table_catalog);
DROP FUNCTION sync.stale_condition(sync.table_catalog, boolean);
DROP FUNCTION sync.capture_body(sync.table_catalog);
DROP FUNCTION sync.alone_condition(sync.table_catalog, text);
DROP FUNCTION sync.unadopted_statement(sync.table_catalog);
DROP FUNCTION sync.apply_statement(sync.table_catalog, "char", boolean);
DROP FUNCTION sync.guard_statement(sync.table_catalog);
DROP FUNCTION sync.emit_statement(sync.table_catalog, boolean);
DROP FUNCTION sync.capture_statement(sync.table_catalog, text);
DROP FUNCTION sync.wire_columns(sync.table_catalog, text);
DROP FUNCTION sync.scope_condition_or_none(sync.table_catalog, text, text);
DROP FUNCTION sync.scope_condition(sync.table_catalog, text, text, boolean);
DROP FUNCTION sync.scope_expression(sync.table_catalog, text, integer);
DROP FUNCTION sync.key_expression(sync.table_catalog, text);
DROP FUNCTION sync.key_bytes_expression(sync.table_catalog, text);
