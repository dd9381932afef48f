-- The schema on PostgreSQL 15. Written by make db/dump.
CREATE SCHEMA sync;
COMMENT ON SCHEMA sync IS 'oversync: the log of synced tables, their registration, capture, and the functions that the sync API calls.';
CREATE DOMAIN sync.identifier AS text
	CONSTRAINT has_1_to_255_bytes CHECK (((octet_length(VALUE) >= 1) AND (octet_length(VALUE) <= 255)));
COMMENT ON DOMAIN sync.identifier IS 'Id of a scope or source, as whoever it names chose it.';
CREATE TYPE sync.push_effect AS (
	live_row_delta bigint,
	bytes_before bigint
);
COMMENT ON TYPE sync.push_effect IS 'What an applied push did beyond its rows: how many more live rows the scope has, and the payload bytes of its rows as they were before.';
CREATE DOMAIN sync.scope_state AS text
	CONSTRAINT scope_state_is_known CHECK ((VALUE = ANY (ARRAY['uninitialized'::text, 'initializing'::text, 'initialized'::text])));
COMMENT ON DOMAIN sync.scope_state IS 'How far a scope is in its life.';
CREATE DOMAIN sync.source_status AS text
	CONSTRAINT source_status_is_known CHECK ((VALUE = ANY (ARRAY['active'::text, 'reserved'::text, 'retired'::text])));
COMMENT ON DOMAIN sync.source_status IS 'How far a source is in its life.';
CREATE FUNCTION sync.adopt_batch(p_table_id integer, p_rows integer DEFAULT 10000) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_adoption sync.adoptions;
    v_end bigint;
    v_taken bigint;
    v_moved bytea[];
BEGIN
    PERFORM sync.require_latest_rows(format('rows of %s', (SELECT t.relation FROM sync.table_catalog t WHERE t.table_id = p_table_id)));
    PERFORM sync.finish_captured();
    SELECT a.* INTO v_adoption FROM sync.adoptions a WHERE a.table_id = p_table_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    IF v_adoption.row_count IS NULL OR v_adoption.row_count > 0 AND NOT EXISTS (SELECT FROM sync.adoption_queue q WHERE q.table_id = p_table_id) THEN
        -- Not queued yet, or the queue was lost in a crash.
        PERFORM sync.adopt_queue_rows(p_table_id);
    END IF;
    -- Whole scopes, so that each has one bundle; one that is larger than a batch is split.
    SELECT coalesce(max(q.queue_position), f.queue_position) INTO v_end
    FROM (SELECT q.queue_position, q.queue_position - cardinality(q.keys) + p_rows AS up_to FROM sync.adoption_queue q WHERE q.table_id = p_table_id
          ORDER BY q.queue_position LIMIT 1) AS f
    LEFT JOIN sync.adoption_queue q ON q.table_id = p_table_id AND q.queue_position <= f.up_to
    GROUP BY f.queue_position;
    WITH taken AS (
        DELETE FROM sync.adoption_queue q WHERE q.table_id = p_table_id AND q.queue_position <= v_end RETURNING q.*
    ), left_over AS (
        INSERT INTO sync.adoption_queue (table_id, queue_position, scope, keys)
        SELECT t.table_id, t.queue_position, t.scope, t.keys[p_rows + 1:] FROM taken t WHERE cardinality(t.keys) > p_rows
    ), noted AS (
        INSERT INTO sync.captured_keys (xid, table_id, at_commit, keys, scopes)
        SELECT pg_current_xact_id(), t.table_id, false, t.keys[:p_rows], ARRAY[t.scope] FROM taken t
        RETURNING cardinality(keys) AS key_count
    )
    SELECT sum(n.key_count) INTO v_taken FROM noted n;
    IF v_taken IS NULL OR NOT EXISTS (SELECT FROM sync.adoption_queue q WHERE q.table_id = p_table_id) THEN
        DELETE FROM sync.adoptions a WHERE a.table_id = p_table_id;
    END IF;
    IF v_taken IS NULL THEN
        RETURN 0;
    END IF;
    IF v_adoption.source_id <> 'oversync:adopt' AND EXISTS (SELECT FROM sync.foreign_keys f WHERE f.parent_table_id = p_table_id) THEN
        -- An ALTER TABLE may have given rows to other scopes. Those that the log does not have where they are now are looked after as if they were written.
        SELECT array_agg(k.key_bytes) INTO v_moved
        FROM sync.captured_keys c
        LEFT JOIN sync.user_state u ON u.user_id = c.scopes[1]
        CROSS JOIN LATERAL unnest(c.keys) AS k(key_bytes)
        LEFT JOIN LATERAL (SELECT r.op FROM sync.bundle_rows r WHERE r.user_pk = u.user_pk AND r.table_id = p_table_id AND r.key_bytes = k.key_bytes
                           ORDER BY r.bundle_seq DESC LIMIT 1) AS newest ON true
        WHERE c.xid = pg_current_xact_id() AND c.table_id = p_table_id AND coalesce(newest.op, 'D') = 'D';
        IF v_moved IS NOT NULL THEN
            PERFORM sync.follow_moved(p_table_id, v_moved, array_fill(true, ARRAY[cardinality(v_moved)]));
        END IF;
    END IF;
    PERFORM sync.commit_captured(v_adoption.source_id, v_adoption.source_id = 'oversync:adopt', v_moved IS NULL);
    -- The next batch in the same transaction makes bundles of its own.
    DELETE FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id() AND b.is_implicit;
    RETURN v_taken;
END
$$;
COMMENT ON FUNCTION sync.adopt_batch(p_table_id integer, p_rows integer) IS 'Enters the next queued rows of a table into the log and returns how many it took; 0 at the end.';
CREATE FUNCTION sync.adopt_queue_rows(p_table_id integer) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET work_mem TO '64MB'
    SET jit TO 'off'
    SET "TimeZone" TO 'UTC'
    SET "DateStyle" TO 'ISO, MDY'
    SET "IntervalStyle" TO 'postgres'
    SET lc_monetary TO 'C'
    SET extra_float_digits TO '1'
    SET bytea_output TO 'hex'
    AS $_$
DECLARE
    -- Whose rows these are must be known: those of nobody are left out below.
    v_table sync.table_catalog := sync.entry_to_write(p_table_id);
    v_rows text;
    v_count bigint;
    v_nobody record;
BEGIN
    DELETE FROM sync.adoption_queue q WHERE q.table_id = p_table_id;
    IF EXISTS (SELECT FROM sync.adoptions a WHERE a.table_id = p_table_id AND a.source_id <> 'oversync:adopt') THEN
        -- Both ways: rows go with a partition that is detached or dropped, and no trigger sees it.
        v_rows := format($f$
            SELECT coalesce(t.scope, l.user_id) AS scope, coalesce(t.key_bytes, l.key_bytes) AS key_bytes
            FROM (%s) AS t
            FULL JOIN (SELECT u.user_id, n.key_bytes, n.payload
                       FROM sync.user_state u
                       CROSS JOIN LATERAL (SELECT DISTINCT ON (r.key_bytes) r.key_bytes, r.payload FROM sync.bundle_rows r
                                           WHERE r.user_pk = u.user_pk AND r.table_id = %s ORDER BY r.key_bytes, r.bundle_seq DESC) AS n
                       WHERE n.payload IS NOT NULL) AS l ON l.user_id = t.scope AND l.key_bytes = t.key_bytes
            WHERE t.payload IS DISTINCT FROM l.payload$f$, sync.live_rows_statement(v_table, false), p_table_id);
    ELSE
        -- Only rows that the log has never seen: what was written since registration is captured. They are left out when they are emitted.
        v_rows := format('SELECT %s AS scope, %s AS key_bytes FROM %s AS t OFFSET 0', sync.scope_expression(v_table, 't'), sync.key_bytes_expression(v_table, 't'), v_table.relation);
    END IF;
    EXECUTE format($f$
        INSERT INTO sync.adoption_queue (table_id, queue_position, scope, keys)
        SELECT $1, sum(cardinality(q.keys)) OVER (ORDER BY q.scope, q.part), q.scope, q.keys
        FROM (SELECT t.scope, t.part, array_agg(t.key_bytes ORDER BY t.key_bytes) AS keys
              FROM (SELECT t.scope, t.key_bytes, (row_number() OVER (PARTITION BY t.scope) - 1) / 10000 AS part
                    FROM (SELECT r.scope COLLATE "C" AS scope, r.key_bytes FROM (%s) AS r WHERE r.scope IS NOT NULL) AS t) AS t
              GROUP BY t.scope, t.part) AS q$f$, v_rows) USING p_table_id;
    SELECT q.scope, sync.key_text(p_table_id, q.keys[1]) AS key INTO v_nobody
    FROM sync.adoption_queue q WHERE q.table_id = p_table_id AND NOT sync.is_scope_id(q.scope) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '23514',
            MESSAGE = format('row %L of %s belongs to the scope %L, which no user can have', v_nobody.key, v_table.relation, left(v_nobody.scope, 255)),
            HINT = 'A scope id has 1 to 255 bytes, no control character, and no white space at its ends: give the row to a user, or delete it.';
    END IF;
    SELECT coalesce(sum(cardinality(q.keys)), 0) INTO v_count FROM sync.adoption_queue q WHERE q.table_id = p_table_id;
    UPDATE sync.adoptions a SET row_count = v_count WHERE a.table_id = p_table_id;
    RETURN v_count;
END
$_$;
COMMENT ON FUNCTION sync.adopt_queue_rows(p_table_id integer) IS 'Queues the rows of a table that the log does not have as they are, and returns their number.';
CREATE FUNCTION sync.adopt_start(p_table_id integer, p_when text, p_source_id text DEFAULT 'oversync:adopt'::text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_table sync.table_catalog := sync.catalog_entry(p_table_id);
    v_rows bigint;
    v_is_prompt boolean;
BEGIN
    PERFORM sync.require_latest_rows(format('rows of %s', v_table.relation));
    EXECUTE format('SELECT count(*) FROM (SELECT FROM %s LIMIT 10001) AS few', v_table.relation) INTO v_rows;
    v_is_prompt := p_when = 'now' OR p_when = 'auto' AND v_rows <= 10000;
    IF v_rows > 0 OR p_source_id = 'oversync:refresh' THEN
        INSERT INTO sync.adoptions (table_id, source_id, is_prompt) VALUES (p_table_id, p_source_id, v_is_prompt)
        ON CONFLICT ON CONSTRAINT adoptions_pkey DO UPDATE SET row_count = NULL, source_id = excluded.source_id, is_prompt = excluded.is_prompt;
    END IF;
    -- Of other tables too: whose a row is may be found through a parent that is registered after it, in the same transaction.
    FOR v_table IN
        SELECT t.* FROM sync.adoptions a JOIN sync.table_catalog t ON t.table_id = a.table_id
        WHERE a.is_prompt AND t.unregistered_at IS NULL ORDER BY t.apply_order
    LOOP
        IF strpos(sync.scope_expression(sync.catalog_entry(v_table.table_id), 't'), 'NULL::text') = 0 THEN
            WHILE sync.adopt_batch(v_table.table_id) > 0 LOOP
            END LOOP;
        END IF;
    END LOOP;
    IF v_rows > 0 AND NOT v_is_prompt THEN
        v_table := sync.catalog_entry(p_table_id);
        RAISE NOTICE 'The rows of % enter the log later: CALL sync.adopt_table(''%''), or leave it to a running server.', v_table.relation, v_table.relation;
    END IF;
END
$$;
COMMENT ON FUNCTION sync.adopt_start(p_table_id integer, p_when text, p_source_id text) IS 'Asks for the rows of a table to enter the log, now or later.';
CREATE PROCEDURE sync.adopt_table(IN tbl regclass)
    LANGUAGE plpgsql
    AS $$
DECLARE
    v_table_id integer := sync.registered_id(tbl);
BEGIN
    INSERT INTO sync.adoptions (table_id, source_id) VALUES (v_table_id, 'oversync:adopt') ON CONFLICT ON CONSTRAINT adoptions_pkey DO NOTHING;
    LOOP
        IF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed' THEN
            COMMIT;
            SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
        END IF;
        EXIT WHEN sync.adopt_batch(v_table_id) OPERATOR(pg_catalog.=) 0;
        COMMIT;
    END LOOP;
END
$$;
COMMENT ON PROCEDURE sync.adopt_table(IN tbl regclass) IS 'Enters all rows of a table into the log that are not in it, batch by batch: CALL sync.adopt_table(''public.todos'').';
CREATE TABLE sync.table_catalog (
    table_id integer NOT NULL,
    relation regclass,
    relation_oid oid NOT NULL,
    schema_name text NOT NULL,
    table_name text NOT NULL,
    key_column name NOT NULL,
    key_type text NOT NULL,
    key_attnum smallint NOT NULL,
    scope_column name,
    scope_type text,
    scope_attnum smallint,
    scope_via name,
    scope_via_attnum smallint,
    scope_parent regclass,
    scope_is_shown boolean DEFAULT false NOT NULL,
    on_scope_change text DEFAULT 'refuse'::text NOT NULL,
    policy text DEFAULT 'reject'::text NOT NULL,
    external_references text[] DEFAULT '{}'::text[] NOT NULL,
    has_to_settle boolean DEFAULT false NOT NULL,
    apply_order integer DEFAULT 0 NOT NULL,
    columns_fingerprint bigint NOT NULL,
    relnatts smallint NOT NULL,
    scope_default_before text,
    registered_at timestamp with time zone DEFAULT now() NOT NULL,
    unregistered_at timestamp with time zone,
    CONSTRAINT key_type_is_known CHECK ((key_type = ANY (ARRAY['uuid'::text, 'text'::text]))),
    CONSTRAINT on_scope_change_is_known CHECK ((on_scope_change = ANY (ARRAY['refuse'::text, 'move'::text]))),
    CONSTRAINT policy_is_known CHECK ((policy = ANY (ARRAY['reject'::text, 'capture'::text]))),
    CONSTRAINT registered_has_a_relation CHECK (((relation IS NULL) = (unregistered_at IS NOT NULL))),
    CONSTRAINT scope_is_a_column_or_found_through_a_parent CHECK (((scope_column IS NULL) <> (scope_via IS NULL)))
);
COMMENT ON TABLE sync.table_catalog IS 'Registered tables. An unregistered one stays as an entry without relation, so that history can still be read. Written by sync.register_table and its like, never by hand.';
COMMENT ON COLUMN sync.table_catalog.table_id IS 'Compact internal id, used by the log. A table that is registered again gets a new one.';
COMMENT ON COLUMN sync.table_catalog.relation IS 'The table; null once unregistered.';
COMMENT ON COLUMN sync.table_catalog.relation_oid IS 'Number of the table at the last registration or refresh. Another one once a dump was restored, and then columns may have other numbers too.';
COMMENT ON COLUMN sync.table_catalog.schema_name IS 'Schema as clients know it.';
COMMENT ON COLUMN sync.table_catalog.table_name IS 'Table as clients know it.';
COMMENT ON COLUMN sync.table_catalog.key_column IS 'Column that identifies a row within its scope.';
COMMENT ON COLUMN sync.table_catalog.key_type IS 'Type of the key: uuid or text.';
COMMENT ON COLUMN sync.table_catalog.key_attnum IS 'Number of the key column, which stays when it is renamed.';
COMMENT ON COLUMN sync.table_catalog.scope_column IS 'Column that says whose row it is; null where the scope is found through a parent.';
COMMENT ON COLUMN sync.table_catalog.scope_type IS 'Type of the scope column; its text form is the scope id.';
COMMENT ON COLUMN sync.table_catalog.scope_attnum IS 'Number of the scope column, which stays when it is renamed.';
COMMENT ON COLUMN sync.table_catalog.scope_via IS 'Column that refers to the parent whose scope a row has.';
COMMENT ON COLUMN sync.table_catalog.scope_via_attnum IS 'Number of that column, which stays when it is renamed.';
COMMENT ON COLUMN sync.table_catalog.scope_parent IS 'Table that it referred to at the last registration or refresh.';
COMMENT ON COLUMN sync.table_catalog.scope_is_shown IS 'Whether clients see the scope column. They can never write it.';
COMMENT ON COLUMN sync.table_catalog.on_scope_change IS 'What a parent''s change of scope does to the rows of this table: refuse (an error) or move (they go along).';
COMMENT ON COLUMN sync.table_catalog.policy IS 'What happens to a write outside a bundle: reject (an error) or capture (it becomes a bundle at commit).';
COMMENT ON COLUMN sync.table_catalog.external_references IS 'Foreign keys (constraint names, or schema.table referred to) that may point to tables that are not registered.';
COMMENT ON COLUMN sync.table_catalog.has_to_settle IS 'Whether its rows can refer across scopes, so that sync.settle_<id> looks at them.';
COMMENT ON COLUMN sync.table_catalog.apply_order IS 'Place in the order parents first, as sync.table_order had it at the last registration.';
COMMENT ON COLUMN sync.table_catalog.columns_fingerprint IS 'Columns at the last registration or refresh, as sync.columns_fingerprint gives them; differs when the table was altered since.';
COMMENT ON COLUMN sync.table_catalog.relnatts IS 'Columns at the last registration or refresh, dropped ones too, as pg_class counts them.';
COMMENT ON COLUMN sync.table_catalog.scope_default_before IS 'Default that the scope column had before registration; put back by sync.unregister_table.';
COMMENT ON COLUMN sync.table_catalog.registered_at IS 'When it was registered.';
COMMENT ON COLUMN sync.table_catalog.unregistered_at IS 'When it was unregistered; null while registered.';
CREATE FUNCTION sync.alone_condition(p_table sync.table_catalog, p_op text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    SELECT format('(CASE %1$s WHEN ''I'' THEN sync.stands_alone(%2$s, ''I'', %3$s) WHEN ''U'' THEN sync.stands_alone(%2$s, ''U'', %3$s) ELSE sync.stands_alone(%2$s, ''D'', %3$s) END)',
        p_op, sync.relation_literal(p_table.relation), p_table.table_id)
$_$;
COMMENT ON FUNCTION sync.alone_condition(p_table sync.table_catalog, p_op text) IS 'SQL condition that a statement on the table can do nothing but write the rows that it names.';
CREATE FUNCTION sync.altered_condition(p_relation oid, p_fingerprint bigint, p_table_id integer) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    SELECT format('coalesce(sync.is_altered(%1$s, %2$s, %3$s), sync.is_altered_now(%1$s, %2$s, %3$s))', sync.relation_literal(p_relation), p_fingerprint, p_table_id)
$_$;
COMMENT ON FUNCTION sync.altered_condition(p_relation oid, p_fingerprint bigint, p_table_id integer) IS 'SQL condition that a table has another fingerprint than this one.';
CREATE FUNCTION sync.apply_body(p_table sync.table_catalog, p_single boolean) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;
COMMENT ON FUNCTION sync.apply_body(p_table sync.table_catalog, p_single boolean) IS 'Body of the functions that apply staged rows, or a single one, to a table.';
CREATE FUNCTION sync.apply_statement(p_table sync.table_catalog, p_op "char", p_single boolean) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;
COMMENT ON FUNCTION sync.apply_statement(p_table sync.table_catalog, p_op "char", p_single boolean) IS 'Text of the statement that applies staged rows of one operation to a table.';
CREATE FUNCTION sync.bound_snapshot_sessions() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    DELETE FROM sync.snapshot_sessions s
    USING (SELECT o.snapshot_id, row_number() OVER (ORDER BY o.created_at DESC, o.snapshot_id) AS nth_of_scope,
                  row_number() OVER (PARTITION BY o.source_id ORDER BY o.created_at DESC, o.snapshot_id) AS nth_of_source
           FROM sync.snapshot_sessions o WHERE o.user_pk = NEW.user_pk AND o.snapshot_id <> NEW.snapshot_id) AS older
    WHERE s.snapshot_id = older.snapshot_id AND (older.nth_of_scope >= 4096 OR older.nth_of_source >= 8 AND s.source_id = NEW.source_id);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION sync.bound_snapshot_sessions() IS 'Trigger function: keeps the snapshot sessions of a scope at 4096, and those of one source at 8.';
CREATE FUNCTION sync.bundle_abandon() RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    DELETE FROM sync.captured_keys c WHERE c.xid = pg_current_xact_id();
    DELETE FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id();
$$;
COMMENT ON FUNCTION sync.bundle_abandon() IS 'Ends a bundle without effects: no sequence number is used.';
CREATE FUNCTION sync.bundle_close(p_bundle_hash bytea, p_byte_count bigint, p_retained_bundles bigint, p_row_count bigint DEFAULT NULL::bigint, p_live_row_delta bigint DEFAULT NULL::bigint, p_live_byte_delta bigint DEFAULT NULL::bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET jit TO 'off'
    AS $$
DECLARE
    v_bundle sync.open_bundles;
BEGIN
    WITH captured AS (DELETE FROM sync.captured_keys c WHERE c.xid = pg_current_xact_id())
    DELETE FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id() RETURNING b.* INTO v_bundle;
    INSERT INTO sync.bundle_log (user_pk, bundle_seq, source_id, source_bundle_id, row_count, byte_count, bundle_hash)
    VALUES (v_bundle.user_pk, v_bundle.bundle_seq, v_bundle.source_id, v_bundle.source_bundle_id, coalesce(p_row_count, v_bundle.row_count), p_byte_count, p_bundle_hash);
    UPDATE sync.user_state u
    SET next_bundle_seq = v_bundle.bundle_seq + 1,
        retained_bundle_floor = greatest(u.retained_bundle_floor, v_bundle.bundle_seq - p_retained_bundles),
        live_row_count = u.live_row_count + coalesce(p_live_row_delta, v_bundle.live_row_delta),
        live_byte_count = u.live_byte_count + coalesce(p_live_byte_delta, v_bundle.live_byte_delta),
        bundle_byte_count = u.bundle_byte_count + p_byte_count,
        last_bundle_at = now()
    WHERE u.user_pk = v_bundle.user_pk;
    UPDATE sync.source_state s SET last_source_bundle_id = v_bundle.source_bundle_id, is_device = s.is_device OR v_bundle.push_id IS NOT NULL, updated_at = now()
    WHERE s.user_pk = v_bundle.user_pk AND s.source_id = v_bundle.source_id AND s.state = 'active';
    IF NOT FOUND THEN
        INSERT INTO sync.source_state AS s (user_pk, source_id, last_source_bundle_id, is_device)
        VALUES (v_bundle.user_pk, v_bundle.source_id, v_bundle.source_bundle_id, v_bundle.push_id IS NOT NULL)
        ON CONFLICT ON CONSTRAINT source_state_pkey DO UPDATE
        SET last_source_bundle_id = excluded.last_source_bundle_id, is_device = s.is_device OR excluded.is_device, state = 'active', updated_at = now();
    END IF;
    IF v_bundle.push_id IS NOT NULL AND v_bundle.pushed_table_id IS NULL THEN
        DELETE FROM sync.push_chunks c WHERE c.push_id = v_bundle.push_id;
    END IF;
END
$$;
COMMENT ON FUNCTION sync.bundle_close(p_bundle_hash bytea, p_byte_count bigint, p_retained_bundles bigint, p_row_count bigint, p_live_row_delta bigint, p_live_byte_delta bigint) IS 'Enters the bundle that this transaction has opened and emitted, and moves its scope and source on.';
CREATE FUNCTION sync.bundle_emit() RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_scope text := sync.scope_in_bundle();
    v_table_id integer;
BEGIN
    -- Whatever is deferred runs now, so that nothing can write or fail after the log is made.
    PERFORM sync.fire_deferred();
    PERFORM sync.resolve_scopes();
    SELECT c.table_id INTO v_table_id FROM sync.captured_keys c
    WHERE c.xid = pg_current_xact_id() AND c.scopes IS NOT NULL AND EXISTS (SELECT FROM unnest(c.scopes) AS s(scope) WHERE s.scope COLLATE "C" <> v_scope) LIMIT 1;
    IF FOUND THEN
        PERFORM sync.fail_other_scope(v_table_id, v_scope);
    END IF;
    PERFORM sync.emit_captured(false);
    RETURN (SELECT b.row_count FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id());
END
$$;
COMMENT ON FUNCTION sync.bundle_emit() IS 'Writes the log of the bundle that this transaction has open, one effect a row, and returns their number.';
CREATE FUNCTION sync.bundle_open(p_user_id text, p_source_id text, p_source_bundle_id bigint, p_initialize boolean) RETURNS TABLE(bundle_seq bigint, source_bundle_id bigint, auto_initialized boolean)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_user sync.user_state;
    v_next bigint;
    v_initialized boolean := false;
BEGIN
    IF p_initialize THEN
        INSERT INTO sync.user_state (user_id) VALUES (p_user_id) ON CONFLICT ON CONSTRAINT user_id_is_unique DO NOTHING;
    END IF;
    SELECT u.* INTO v_user FROM sync.user_state u WHERE u.user_id = p_user_id FOR NO KEY UPDATE;
    IF p_initialize AND (v_user.state = 'uninitialized' OR v_user.state = 'initializing' AND v_user.lease_expires_at <= clock_timestamp()) THEN
        UPDATE sync.user_state u
        SET state = 'initialized', initialization_id = NULL, lease_source_id = NULL, lease_expires_at = NULL
        WHERE u.user_pk = v_user.user_pk
        RETURNING u.* INTO v_user;
        v_initialized := true;
    END IF;
    PERFORM sync.require_initialized(v_user, p_user_id);
    v_next := sync.source_next(v_user.user_pk, p_source_id);
    IF coalesce(p_source_bundle_id, v_next) <> v_next THEN
        IF p_source_bundle_id < v_next AND NOT EXISTS (
            SELECT FROM sync.bundle_log l
            WHERE l.user_pk = v_user.user_pk AND l.source_id = p_source_id AND l.source_bundle_id = p_source_bundle_id
              AND l.bundle_seq > v_user.retained_bundle_floor) THEN
            PERFORM nextval('sync.history_pruned_count');
            PERFORM sync.fail('OV022', format('source_bundle_id %s of source %s is pruned', p_source_bundle_id, p_source_id),
                jsonb_build_object('source_bundle_id', p_source_bundle_id, 'last_source_bundle_id', v_next - 1));
        END IF;
        PERFORM sync.fail('OV006', format('source %s must commit source_bundle_id %s next, not %s', p_source_id, v_next, p_source_bundle_id),
            jsonb_build_object('expected', v_next, 'actual', p_source_bundle_id));
    END IF;
    INSERT INTO sync.open_bundles (xid, user_pk, user_id, bundle_seq, source_id, source_bundle_id, is_implicit)
    SELECT pg_current_xact_id(), v_user.user_pk, v_user.user_id, v_user.next_bundle_seq, p_source_id, v_next, false
    WHERE NOT EXISTS (SELECT FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id())
      AND NOT EXISTS (SELECT FROM sync.captured_keys c WHERE c.xid = pg_current_xact_id());
    IF NOT FOUND THEN
        PERFORM sync.fail('OV023', 'this transaction has written synced tables already', NULL, 'Open a bundle first, and one only, in a transaction.');
    END IF;
    RETURN QUERY SELECT v_user.next_bundle_seq, v_next, v_initialized;
END
$$;
COMMENT ON FUNCTION sync.bundle_open(p_user_id text, p_source_id text, p_source_bundle_id bigint, p_initialize boolean) IS 'Begins a server-side bundle in this transaction. Finish it with sync.bundle_emit and sync.bundle_close.';
CREATE FUNCTION sync.capture(p_table_id integer, p_keys bytea[], p_scopes text[], p_scope text) RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_table sync.table_catalog;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM sync.require_latest_table(p_table_id);
    END IF;
    IF p_scope IS NULL THEN
        IF (SELECT t.policy FROM sync.table_catalog t WHERE t.table_id = p_table_id) = 'reject' THEN
            v_table := sync.catalog_entry(p_table_id);
            PERFORM nextval('sync.rejected_write_count');
            PERFORM sync.fail('OV031', format('table %I.%I is synced and may be written only inside a bundle', v_table.schema_name, v_table.table_name), NULL,
                format('Write through the sync API, ScopeManager.ExecWrite or WithinSyncBundle; or let plain SQL write it: SELECT sync.set_policy(%L, ''capture'');', v_table.relation));
        END IF;
    ELSIF p_scopes <> ARRAY[p_scope] THEN
        PERFORM sync.fail_other_scope(p_table_id, p_scope);
    END IF;
    INSERT INTO sync.captured_keys (xid, table_id, at_commit, keys, scopes)
    VALUES (pg_current_xact_id(), p_table_id, p_scope IS NULL, p_keys, CASE WHEN p_scope IS NULL THEN p_scopes END);
    RETURN cardinality(p_keys);
END
$$;
COMMENT ON FUNCTION sync.capture(p_table_id integer, p_keys bytea[], p_scopes text[], p_scope text) IS 'Notes the keys that a statement touched, for the bundle that this transaction writes. Called by the capture triggers.';
CREATE FUNCTION sync.capture_body(p_table sync.table_catalog) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;
COMMENT ON FUNCTION sync.capture_body(p_table sync.table_catalog) IS 'Body of the trigger function made for a table.';
CREATE FUNCTION sync.capture_commit() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_is_last boolean := cardinality(NEW.keys) = 0; -- queued below
BEGIN
    -- Queued once a statement; the first has done it for all. Looked up by its own number: a look for any would pass over all those that
    -- are done, each time.
    IF NOT EXISTS (SELECT FROM sync.captured_keys c WHERE c.xid = NEW.xid AND c.capture_no = NEW.capture_no) THEN
        RETURN NULL;
    ELSIF NOT v_is_last AND EXISTS (SELECT FROM sync.captured_keys c WHERE c.xid = NEW.xid AND c.keys = '{}' AND c.at_commit) THEN
        RETURN NULL;
    END IF;
    BEGIN
        PERFORM sync.commit_captured(sync.writer_name(), false, false);
    EXCEPTION WHEN SQLSTATE 'OV033' OR SQLSTATE 'OV034' THEN
        IF v_is_last THEN
            RAISE;
        END IF;
        INSERT INTO sync.captured_keys (xid, table_id, at_commit, keys, scopes) VALUES (NEW.xid, NEW.table_id, true, '{}', '{}');
        RETURN NULL;
    END;
    PERFORM set_config('sync.last_bundle', coalesce((
        SELECT jsonb_agg(jsonb_build_array(b.user_id, b.bundle_seq, b.source_id, b.source_bundle_id, b.row_count) ORDER BY b.user_pk)
        FROM (SELECT o.* FROM sync.open_bundles o WHERE o.xid = pg_current_xact_id() ORDER BY o.user_pk LIMIT 1000) AS b), '[]')::text, false);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION sync.capture_commit() IS 'Trigger function: turns what plain SQL wrote into bundles when its transaction commits.';
CREATE FUNCTION sync.capture_row_body(p_table sync.table_catalog) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;
COMMENT ON FUNCTION sync.capture_row_body(p_table sync.table_catalog) IS 'Body of the trigger function for partitions that were added since registration.';
CREATE FUNCTION sync.capture_row_statement(p_table sync.table_catalog) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
BEGIN
    PERFORM sync.require_columns(p_table);
    RETURN format('SELECT sync.capture(%s, ARRAY[%s], %s, sync.scope_in_bundle())', p_table.table_id, sync.key_bytes_expression(p_table, '($1)'),
        CASE WHEN p_table.scope_via IS NULL THEN format('ARRAY[($1).%I::text]', p_table.scope_column) ELSE 'NULL' END);
END
$_$;
COMMENT ON FUNCTION sync.capture_row_statement(p_table sync.table_catalog) IS 'Text of the statement that notes the key of a row.';
CREATE FUNCTION sync.capture_statement(p_table sync.table_catalog, p_transition_table text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    SELECT format('SELECT array_agg(%s), %s FROM %I AS n', sync.key_bytes_expression(p_table, 'n'),
                  CASE WHEN p_table.scope_via IS NULL THEN format('array_agg(n.%1$I::text), min(n.%1$I::text COLLATE "C"), max(n.%1$I::text COLLATE "C")', p_table.scope_column)
                       ELSE 'NULL::text[], NULL::text, NULL::text' END, p_transition_table)
$_$;
COMMENT ON FUNCTION sync.capture_statement(p_table sync.table_catalog, p_transition_table text) IS 'Text of the query that reads keys and scopes from a transition table.';
CREATE FUNCTION sync.catalog_changed(p_relation regclass DEFAULT NULL::regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
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
COMMENT ON FUNCTION sync.catalog_changed(p_relation regclass) IS 'Brings what depends on the set of registered tables up to date and raises the catalog''s version.';
CREATE FUNCTION sync.catalog_entry(p_table_id integer) RETURNS sync.table_catalog
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_table sync.table_catalog;
BEGIN
    SELECT t.* INTO v_table FROM sync.table_catalog t WHERE t.table_id = p_table_id;
    IF v_table.relation_oid <> v_table.relation THEN
        SELECT max(a.attnum) FILTER (WHERE a.attname = v_table.key_column), max(a.attnum) FILTER (WHERE a.attname = v_table.scope_column),
               max(a.attnum) FILTER (WHERE a.attname = v_table.scope_via)
        INTO v_table.key_attnum, v_table.scope_attnum, v_table.scope_via_attnum
        FROM pg_attribute a WHERE a.attrelid = v_table.relation AND NOT a.attisdropped;
    END IF;
    SELECT coalesce(max(a.attname) FILTER (WHERE a.attnum = v_table.key_attnum), v_table.key_column),
           coalesce(max(a.attname) FILTER (WHERE a.attnum = v_table.scope_attnum), v_table.scope_column),
           coalesce(max(a.attname) FILTER (WHERE a.attnum = v_table.scope_via_attnum), v_table.scope_via)
    INTO v_table.key_column, v_table.scope_column, v_table.scope_via
    FROM pg_attribute a WHERE a.attrelid = v_table.relation AND NOT a.attisdropped;
    v_table.scope_type := coalesce((SELECT a.atttypid::regtype::text FROM pg_attribute a WHERE a.attrelid = v_table.relation AND a.attname = v_table.scope_column), v_table.scope_type);
    RETURN v_table;
END
$$;
COMMENT ON FUNCTION sync.catalog_entry(p_table_id integer) IS 'Catalog entry of a table, with its columns named, and its scope of the type, as they are now.';
CREATE FUNCTION sync."check"() RETURNS TABLE(severity text, object text, problem text, remedy text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET quote_all_identifiers TO 'off'
    AS $_$
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
$_$;
COMMENT ON FUNCTION sync."check"() IS 'What is wrong with the set-up of registered tables, and the SQL that mends it: SELECT * FROM sync.check(); no row means that all is well.';
CREATE FUNCTION sync.check_foreign_keys() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
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
CREATE FUNCTION sync.close_implicit() RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_xid xid8 := pg_current_xact_id();
BEGIN
    INSERT INTO sync.bundle_log (user_pk, bundle_seq, source_id, source_bundle_id, row_count)
    SELECT b.user_pk, b.bundle_seq, b.source_id, b.source_bundle_id, b.row_count
    FROM sync.open_bundles b WHERE b.xid = v_xid;
    UPDATE sync.user_state u
    SET next_bundle_seq = b.bundle_seq + 1,
        live_row_count = u.live_row_count + b.live_row_delta,
        live_byte_count = u.live_byte_count + b.live_byte_delta,
        last_bundle_at = now(),
        state = 'initialized', initialization_id = NULL, lease_source_id = NULL, lease_expires_at = NULL
    FROM sync.open_bundles b WHERE b.xid = v_xid AND u.user_pk = b.user_pk;
    INSERT INTO sync.source_state AS s (user_pk, source_id, last_source_bundle_id)
    SELECT b.user_pk, b.source_id, b.source_bundle_id FROM sync.open_bundles b WHERE b.xid = v_xid
    ON CONFLICT ON CONSTRAINT source_state_pkey DO UPDATE
    SET last_source_bundle_id = excluded.last_source_bundle_id, state = 'active', updated_at = now();
    DELETE FROM sync.captured_keys c WHERE c.xid = v_xid;
END
$$;
COMMENT ON FUNCTION sync.close_implicit() IS 'Enters the emitted bundles of plain SQL, and moves their scopes and sources on.';
CREATE FUNCTION sync.close_ordinal_gaps() RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    -- By way of negative numbers, since the new ones may still be in use while the statement runs.
    UPDATE sync.bundle_rows r SET row_ordinal = -n.row_ordinal
    FROM (SELECT o.user_pk, o.bundle_seq, o.row_ordinal AS old_ordinal,
                 (row_number() OVER (PARTITION BY o.user_pk ORDER BY o.row_ordinal))::integer AS row_ordinal
          FROM sync.open_bundles b JOIN sync.bundle_rows o ON o.user_pk = b.user_pk AND o.bundle_seq = b.bundle_seq
          WHERE b.xid = pg_current_xact_id()) AS n
    WHERE r.user_pk = n.user_pk AND r.bundle_seq = n.bundle_seq AND r.row_ordinal = n.old_ordinal;
    UPDATE sync.bundle_rows r SET row_ordinal = -r.row_ordinal - 1
    FROM sync.open_bundles b
    WHERE b.xid = pg_current_xact_id() AND r.user_pk = b.user_pk AND r.bundle_seq = b.bundle_seq;
END
$$;
COMMENT ON FUNCTION sync.close_ordinal_gaps() IS 'Numbers the effects of the open bundles 0, 1, 2 ... again, in the same order.';
CREATE FUNCTION sync.columns_fingerprint(p_relation oid) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    RETURN hash_array_extended(ARRAY(
        SELECT CASE WHEN a.atttypid < 16384 THEN hashtextextended(a.attname::text, a.atttypid::bigint * 4294967296 + a.atttypmod)
                    ELSE hashtextextended(concat_ws(' ', a.attname, n.nspname, t.typname), a.atttypmod) END
        FROM pg_attribute a
        LEFT JOIN (pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace) ON a.atttypid >= 16384 AND t.oid = a.atttypid
        WHERE a.attrelid = p_relation AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY a.attnum), 0);
END
$$;
COMMENT ON FUNCTION sync.columns_fingerprint(p_relation oid) IS 'Number that changes when a column of the table is added, dropped, renamed or retyped, or two swap their names.';
CREATE FUNCTION sync.commit_captured(p_source_id text, p_only_missing boolean, p_as_given boolean) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_row_count bigint;
BEGIN
    PERFORM sync.reopen_implicit();
    -- What was written in a table that this transaction then dropped or unregistered is nobody's business any more.
    DELETE FROM sync.captured_keys c USING sync.table_catalog t
    WHERE c.xid = pg_current_xact_id() AND t.table_id = c.table_id AND NOT EXISTS (SELECT FROM pg_class r WHERE r.oid = t.relation);
    -- Which scopes must be locked is known once parents are looked up; whose rows these are, only under the locks: until then another
    -- transaction may have moved a parent. So parents are looked up again until no scope is new.
    IF EXISTS (SELECT FROM sync.captured_keys c WHERE c.xid = pg_current_xact_id() AND c.scopes IS NULL) THEN
        PERFORM sync.resolve_scopes();
    END IF;
    WHILE sync.open_implicit(p_source_id) > 0 AND NOT p_as_given LOOP
        INSERT INTO sync.captured_keys (xid, table_id, at_commit, keys)
        SELECT pg_current_xact_id(), c.table_id, false, array_agg(DISTINCT k.key_bytes)
        FROM sync.captured_keys c JOIN sync.table_catalog t ON t.table_id = c.table_id AND t.scope_via IS NOT NULL
        CROSS JOIN LATERAL unnest(c.keys) AS k(key_bytes)
        WHERE c.xid = pg_current_xact_id()
        GROUP BY c.table_id;
        EXIT WHEN NOT sync.resolve_scopes();
    END LOOP;
    PERFORM sync.emit_captured(p_only_missing);
    PERFORM sync.require_canonical();
    -- A bundle without rows is no bundle.
    DELETE FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id() AND b.row_count = 0;
    SELECT coalesce(sum(b.row_count), 0) INTO v_row_count FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id();
    PERFORM sync.close_implicit();
    RETURN v_row_count;
END
$$;
COMMENT ON FUNCTION sync.commit_captured(p_source_id text, p_only_missing boolean, p_as_given boolean) IS 'Makes and enters a bundle for each scope among the captured keys, and returns the number of effects.';
CREATE FUNCTION sync.connect(p_user_id text, p_source_id text, p_has_local_pending_rows boolean, p_lease_ttl interval) RETURNS TABLE(resolution text, initialization_id uuid, lease_expires_at timestamp with time zone, retry_after_seconds integer)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_user sync.user_state;
    v_now timestamptz;
BEGIN
    SELECT u.* INTO v_user FROM sync.user_state u WHERE u.user_id = p_user_id;
    IF v_user.state = 'initialized' THEN
        RETURN QUERY SELECT 'remote_authoritative', NULL::uuid, NULL::timestamptz, NULL::integer;
        RETURN;
    ELSIF sync.is_scope_id(p_user_id) IS NOT TRUE THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('user id %L is one that no user can have', left(p_user_id, 255)),
            HINT = 'An id has 1 to 255 bytes, no control character, and no white space at its ends.';
    END IF;
    INSERT INTO sync.user_state (user_id) VALUES (p_user_id) ON CONFLICT ON CONSTRAINT user_id_is_unique DO NOTHING;
    SELECT u.* INTO STRICT v_user FROM sync.user_state u WHERE u.user_id = p_user_id FOR NO KEY UPDATE;
    v_now := clock_timestamp();
    IF v_user.state = 'initialized' THEN
        RETURN QUERY SELECT 'remote_authoritative', NULL::uuid, NULL::timestamptz, NULL::integer;
    ELSIF v_user.state = 'initializing' AND v_user.lease_expires_at > v_now AND v_user.lease_source_id <> p_source_id THEN
        RETURN QUERY SELECT 'retry_later', NULL::uuid, v_user.lease_expires_at,
            greatest(1, ceil(extract(epoch FROM v_user.lease_expires_at - v_now)))::integer;
    ELSIF p_has_local_pending_rows THEN
        UPDATE sync.user_state u
        SET state = 'initializing', lease_source_id = p_source_id, lease_expires_at = v_now + p_lease_ttl,
            initialization_id = CASE WHEN v_user.state = 'initializing' AND v_user.lease_expires_at > v_now THEN v_user.initialization_id ELSE gen_random_uuid() END
        WHERE u.user_pk = v_user.user_pk
        RETURNING u.* INTO v_user;
        RETURN QUERY SELECT 'initialize_local', v_user.initialization_id, v_user.lease_expires_at, NULL::integer;
    ELSE
        UPDATE sync.user_state u
        SET state = 'initialized', initialization_id = NULL, lease_source_id = NULL, lease_expires_at = NULL
        WHERE u.user_pk = v_user.user_pk;
        RETURN QUERY SELECT 'initialize_empty', NULL::uuid, NULL::timestamptz, NULL::integer;
    END IF;
END
$$;
COMMENT ON FUNCTION sync.connect(p_user_id text, p_source_id text, p_has_local_pending_rows boolean, p_lease_ttl interval) IS 'Says how a source is to begin, and moves the scope from uninitialized towards initialized.';
CREATE FUNCTION sync.default_key(p_relation regclass, p_scope name) RETURNS name
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT min(a.attname)
    FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) AND a.attname IS DISTINCT FROM p_scope
    WHERE i.indrelid = p_relation AND i.indisprimary
    HAVING count(*) = 1
$$;
COMMENT ON FUNCTION sync.default_key(p_relation regclass, p_scope name) IS 'Key column of a table for which none is named; null if the primary key does not tell.';
CREATE FUNCTION sync.differences(p_table_id integer, p_user_id text) RETURNS TABLE(key_bytes bytea, difference text, live_row text, log_row text)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET "DateStyle" TO 'ISO, MDY'
    SET "IntervalStyle" TO 'postgres'
    SET lc_monetary TO 'C'
    SET extra_float_digits TO '1'
    SET bytea_output TO 'hex'
    AS $_$
DECLARE
    v_table sync.table_catalog := sync.entry_to_write(p_table_id);
    v_root sync.table_catalog := v_table;
    v_is_possible boolean := true;
BEGIN
    PERFORM sync.require_columns(v_table);
    WHILE v_root.scope_via IS NOT NULL LOOP
        v_root := sync.catalog_entry(sync.parent_with_scope(v_root));
    END LOOP;
    -- A scope id that the scope column cannot hold has no rows there.
    IF v_root.scope_column IS NOT NULL THEN
        BEGIN
            EXECUTE format('SELECT $1::%s::text = $1', v_root.scope_type) INTO v_is_possible USING p_user_id;
        EXCEPTION WHEN data_exception THEN
            v_is_possible := false;
        END;
    END IF;
    RETURN QUERY EXECUTE format($f$
        SELECT coalesce(live.key_bytes, logged.key_bytes),
               CASE WHEN logged.key_bytes IS NULL THEN 'missing in the log' WHEN live.key_bytes IS NULL THEN 'missing in the table' ELSE 'not the same' END,
               live.payload, logged.payload
        FROM (%s) AS live
        FULL JOIN (
            SELECT n.key_bytes, n.payload
            FROM (SELECT DISTINCT ON (r.key_bytes) r.key_bytes, r.op, r.payload
                  FROM sync.bundle_rows r JOIN sync.user_state u ON u.user_pk = r.user_pk
                  WHERE u.user_id = $3 AND r.table_id = $2
                  ORDER BY r.key_bytes, r.bundle_seq DESC) AS n
            WHERE n.op <> 'D'
        ) AS logged ON logged.key_bytes = live.key_bytes
        WHERE live.payload IS DISTINCT FROM logged.payload
        ORDER BY 1$f$, sync.live_rows_statement(v_table, true))
    USING CASE WHEN v_is_possible THEN p_user_id END, p_table_id, p_user_id;
END
$_$;
COMMENT ON FUNCTION sync.differences(p_table_id integer, p_user_id text) IS 'Rows of a scope in one table whose live form is not what the log has.';
CREATE FUNCTION sync.discover(p_relations oid[], p_overrides jsonb DEFAULT '[]'::jsonb) RETURNS TABLE(relation regclass, table_position integer, cycle_group integer, depends_on regclass[])
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    WITH RECURSIVE
    names AS (
        SELECT c.oid, n.nspname || '.' || c.relname AS full_name
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = ANY (p_relations)
    ), edges AS (
        SELECT k.conrelid AS child, k.confrelid AS parent
        FROM pg_constraint k
        WHERE k.contype = 'f' AND k.conparentid = 0 AND k.conrelid = ANY (p_relations) AND k.confrelid = ANY (p_relations) AND k.conrelid <> k.confrelid
        UNION
        SELECT c.oid, p.oid
        FROM jsonb_to_recordset(p_overrides) AS o(child text, parent text)
        JOIN names c ON c.full_name = o.child JOIN names p ON p.full_name = o.parent
        WHERE c.oid <> p.oid
    ), ancestors AS (
        SELECT e.child, e.parent AS ancestor FROM edges e
        UNION
        SELECT a.child, e.parent FROM ancestors a JOIN edges e ON e.child = a.ancestor
    ), cycle_of AS (
        -- Two tables are in one cycle when each is an ancestor of the other; the cycle is named by its first member.
        SELECT a.child AS oid, min(n.full_name COLLATE "C") AS cycle_name
        FROM ancestors a JOIN ancestors b ON b.child = a.ancestor AND b.ancestor = a.child
        JOIN names n ON n.oid = a.ancestor
        GROUP BY a.child
    ), placed AS (
        -- A table has strictly more ancestors outside its own cycle than any of them has, so their number is an order.
        SELECT n.oid, n.full_name, y.cycle_name,
               (SELECT count(*) FROM ancestors a LEFT JOIN cycle_of ay ON ay.oid = a.ancestor
                WHERE a.child = n.oid AND (y.cycle_name IS NULL OR ay.cycle_name IS DISTINCT FROM y.cycle_name)) AS ancestor_count
        FROM names n LEFT JOIN cycle_of y ON y.oid = n.oid
    )
    SELECT p.oid::regclass,
           (row_number() OVER (ORDER BY p.ancestor_count, coalesce(p.cycle_name, p.full_name) COLLATE "C", p.full_name COLLATE "C"))::integer,
           CASE WHEN p.cycle_name IS NOT NULL THEN (SELECT count(DISTINCT q.cycle_name) FROM placed q WHERE q.cycle_name COLLATE "C" <= p.cycle_name COLLATE "C")::integer ELSE 0 END,
           coalesce((SELECT array_agg(e.parent::regclass ORDER BY d.full_name COLLATE "C") FROM edges e JOIN names d ON d.oid = e.parent WHERE e.child = p.oid), '{}')
    FROM placed p
$$;
COMMENT ON FUNCTION sync.discover(p_relations oid[], p_overrides jsonb) IS 'Order in which these tables are written: parents first, cycles grouped (cycle_group above 0), with the tables that each depends on.';
CREATE FUNCTION sync.emit_body(p_table sync.table_catalog) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;
COMMENT ON FUNCTION sync.emit_body(p_table sync.table_catalog) IS 'Body of the function that writes effects of a table into the log.';
CREATE FUNCTION sync.emit_captured(p_only_missing boolean) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_nestloop TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_sort TO 'off'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET "TimeZone" TO 'UTC'
    SET "DateStyle" TO 'ISO, MDY'
    SET "IntervalStyle" TO 'postgres'
    SET lc_monetary TO 'C'
    SET extra_float_digits TO '1'
    SET bytea_output TO 'hex'
    AS $_$
DECLARE
    v_xid xid8 := pg_current_xact_id();
    v_scope text;
    v_push_id uuid;
    v_statements bigint;
    v_keys bigint;
    v_tables refcursor;
    v_table record;
    v_touched bigint := 0;
BEGIN
    SELECT b.user_id, b.push_id INTO v_scope, v_push_id FROM sync.open_bundles b WHERE b.xid = v_xid AND NOT b.is_implicit;
    SELECT count(*), sum(cardinality(c.keys)) INTO v_statements, v_keys FROM sync.captured_keys c WHERE c.xid = v_xid;
    IF v_keys > 100 THEN
        -- A plan kept from when a table had a few rows must not meet a hundred thousand. What planning costs is nothing beside so many rows.
        PERFORM set_config('plan_cache_mode', 'force_custom_plan', true), set_config('work_mem', '64MB', true);
    END IF;
    IF v_statements = 1 AND v_push_id IS NULL THEN
        -- What one statement touched is numbered in its order. A foreign key's action may have touched a row again, as part of the same statement.
        OPEN v_tables FOR
            SELECT c.table_id, n.touched, (SELECT t.has_to_settle FROM sync.table_catalog t WHERE t.table_id = c.table_id) AS has_to_settle,
                   n.user_pks, n.ordinals, n.keys
            FROM sync.captured_keys c
            CROSS JOIN LATERAL (
                SELECT count(*) AS touched, array_agg(p.user_pk) AS user_pks, array_agg(p.row_ordinal) AS ordinals, array_agg(p.key_bytes) AS keys
                FROM (SELECT b.user_pk, k.key_bytes, (row_number() OVER (PARTITION BY b.user_pk ORDER BY min(k.place)) - 1)::integer AS row_ordinal
                      FROM ROWS FROM (unnest(c.keys), unnest(c.scopes)) WITH ORDINALITY AS k(key_bytes, scope, place)
                      JOIN sync.open_bundles b ON b.xid = v_xid AND b.user_id = coalesce(k.scope, c.scopes[1], v_scope)
                      GROUP BY b.user_pk, k.key_bytes) AS p
            ) AS n
            WHERE c.xid = v_xid AND n.touched > 0;
    ELSE
        OPEN v_tables FOR
            WITH captured AS (
                SELECT c.table_id, c.keys, c.scopes, sum(cardinality(c.keys)) OVER (ORDER BY c.capture_no) - cardinality(c.keys) AS keys_before
                FROM sync.captured_keys c WHERE c.xid = v_xid
            ), touched AS (
                SELECT c.table_id, b.user_pk, k.key_bytes, min(c.keys_before + k.place) AS first_touched
                FROM captured c
                CROSS JOIN LATERAL ROWS FROM (unnest(c.keys), unnest(c.scopes)) WITH ORDINALITY AS k(key_bytes, scope, place)
                JOIN sync.open_bundles b ON b.xid = v_xid AND b.user_id = coalesce(k.scope, c.scopes[1], v_scope)
                GROUP BY c.table_id, b.user_pk, k.key_bytes
            ), pushed AS (
                SELECT s.table_id, s.key_bytes, s.row_ordinal FROM sync.chunk_rows s WHERE s.push_id = v_push_id
            ), placed AS (
                SELECT t.table_id, t.user_pk, t.key_bytes,
                       (row_number() OVER (PARTITION BY t.user_pk ORDER BY p.row_ordinal NULLS LAST, t.first_touched) - 1)::integer AS row_ordinal
                FROM touched t
                LEFT JOIN pushed p ON p.table_id = t.table_id AND p.key_bytes = t.key_bytes
            )
            -- Grouped by hash, so each table's arrays are in the order in which keys were numbered, which is that of the log.
            SELECT p.table_id, count(*) AS touched, (SELECT t.has_to_settle FROM sync.table_catalog t WHERE t.table_id = p.table_id) AS has_to_settle,
                   array_agg(p.user_pk) AS user_pks, array_agg(p.row_ordinal) AS ordinals, array_agg(p.key_bytes) AS keys
            FROM placed p
            GROUP BY p.table_id;
    END IF;
    LOOP
        FETCH v_tables INTO v_table;
        EXIT WHEN NOT FOUND;
        EXECUTE format('SELECT sync.emit_%s($1, $2, $3, $4)', v_table.table_id) USING v_table.user_pks, v_table.ordinals, v_table.keys, p_only_missing;
        IF v_table.has_to_settle THEN
            EXECUTE format('SELECT sync.settle_%s($1, $2)', v_table.table_id) USING v_table.user_pks, v_table.keys;
        END IF;
        v_touched := v_touched + v_table.touched;
    END LOOP;
    CLOSE v_tables;
    IF v_touched > (SELECT sum(b.row_count) FROM sync.open_bundles b WHERE b.xid = v_xid) THEN
        -- A row that was inserted and deleted in the same transaction has no effect and left a gap; so did one that is not missing.
        PERFORM sync.close_ordinal_gaps();
    END IF;
END
$_$;
COMMENT ON FUNCTION sync.emit_captured(p_only_missing boolean) IS 'Writes the log of the bundles that this transaction has open, one effect a row, from the live rows of the captured keys.';
CREATE FUNCTION sync.emit_statement(p_table sync.table_catalog, p_whole boolean) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;
COMMENT ON FUNCTION sync.emit_statement(p_table sync.table_catalog, p_whole boolean) IS 'Text of the statement that writes effects of one table from live rows into the log.';
CREATE FUNCTION sync.end_registration(p_table sync.table_catalog) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET client_min_messages TO 'warning'
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
COMMENT ON FUNCTION sync.end_registration(p_table sync.table_catalog) IS 'Ends a catalog entry and removes what was made for its table.';
CREATE FUNCTION sync.entry_to_write(p_table_id integer, p_may_be_orphaned boolean DEFAULT false) RETURNS sync.table_catalog
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_table sync.table_catalog := sync.catalog_entry(p_table_id);
    v_entry sync.table_catalog := v_table;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = v_table.relation) THEN
        PERFORM sync.fail_unregistered(v_table.schema_name, v_table.table_name);
    END IF;
    FOR v_depth IN 1..33 LOOP
        PERFORM sync.require_scope(v_entry);
        EXIT WHEN v_entry.scope_via IS NULL;
        v_entry := sync.catalog_entry(sync.parent_with_scope(v_entry, p_may_be_orphaned));
        EXIT WHEN v_entry.table_id IS NULL;
    END LOOP;
    IF v_entry.scope_via IS NOT NULL AND NOT p_may_be_orphaned THEN
        PERFORM sync.fail('OV030', format('table %s is synced, but finds its scope through itself', v_table.relation), NULL, sync.leave_loop_statement());
    END IF;
    RETURN v_table;
END
$$;
COMMENT ON FUNCTION sync.entry_to_write(p_table_id integer, p_may_be_orphaned boolean) IS 'Catalog entry of a table for code made afresh; refuses one that was dropped or has lost what says whose a row is.';
CREATE FUNCTION sync.expected_triggers(p_table_id integer) RETURNS TABLE(relation regclass, trigger_name name, function_name text, definition text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
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
COMMENT ON FUNCTION sync.expected_triggers(p_table_id integer) IS 'Triggers that a registered table and its partitions must have, with the statements that make each.';
CREATE FUNCTION sync.fail(p_code text, p_message text, p_detail jsonb DEFAULT NULL::jsonb, p_hint text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF p_detail IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = p_code, MESSAGE = p_message, HINT = coalesce(p_hint, ''), SCHEMA = 'sync';
    END IF;
    RAISE EXCEPTION USING ERRCODE = p_code, MESSAGE = p_message, DETAIL = p_detail::text, HINT = coalesce(p_hint, ''), SCHEMA = 'sync';
END
$$;
COMMENT ON FUNCTION sync.fail(p_code text, p_message text, p_detail jsonb, p_hint text) IS 'Raises an error with a code of oversync, a message, machine-readable detail and a hint. Never returns.';
CREATE FUNCTION sync.fail_conflict(p_user_pk bigint, p_table_id integer, p_op "char", p_base_row_version bigint, p_key_bytes bytea) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_conflict jsonb;
BEGIN
    SELECT jsonb_build_object(
        'table_id', p_table_id, 'key_bytes', encode(p_key_bytes, 'hex'), 'op', p_op, 'base_row_version', p_base_row_version,
        'server_row_version', coalesce(newest.bundle_seq, 0), 'server_row_deleted', coalesce(newest.op = 'D', false),
        -- As text: jsonb would not keep the row as it is on the wire.
        'server_row', newest.payload)
    INTO v_conflict
    FROM (VALUES (1)) AS one
    LEFT JOIN (
        SELECT r.bundle_seq, r.op, r.payload FROM sync.bundle_rows r
        WHERE r.user_pk = (SELECT p_user_pk) AND r.table_id = p_table_id AND r.key_bytes = p_key_bytes
        ORDER BY r.bundle_seq DESC LIMIT 1
    ) AS newest ON true;
    PERFORM sync.fail('OV013', 'a row was changed by someone else since the client last saw it', v_conflict, 'Resolve the conflict and push again.');
END
$$;
COMMENT ON FUNCTION sync.fail_conflict(p_user_pk bigint, p_table_id integer, p_op "char", p_base_row_version bigint, p_key_bytes bytea) IS 'Raises OV013: a row of a push conflicts with the state of the log.';
CREATE FUNCTION sync.fail_not_registered(p_relation regclass, p_call text, p_policy text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_root regclass := coalesce(pg_partition_root(p_relation), p_relation);
BEGIN
    PERFORM sync.fail('OV030', format('%s is not registered', coalesce(p_relation::text, '(null)')), NULL,
        CASE WHEN EXISTS (SELECT FROM sync.table_catalog t WHERE t.relation = v_root AND t.unregistered_at IS NULL) THEN format(p_call, v_root)
             ELSE format('SELECT sync.register_table(%L%s);', v_root, ', policy => ' || quote_literal(p_policy)) END);
END
$$;
COMMENT ON FUNCTION sync.fail_not_registered(p_relation regclass, p_call text, p_policy text) IS 'Raises OV030: a table is not registered, or is a partition of one that is.';
CREATE FUNCTION sync.fail_other_scope(p_table_id integer, p_scope text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_table sync.table_catalog := sync.catalog_entry(p_table_id);
BEGIN
    PERFORM sync.fail('OV032', format('this bundle belongs to scope %s, but a row of another scope was written in %I.%I', p_scope, v_table.schema_name, v_table.table_name), NULL,
        'Leave the scope column out, or write each scope in a bundle of its own.');
END
$$;
COMMENT ON FUNCTION sync.fail_other_scope(p_table_id integer, p_scope text) IS 'Raises OV032: a row of another scope was written in a bundle.';
CREATE FUNCTION sync.fail_session(p_push_id uuid, p_user_id text, p_source_id text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_is_own boolean;
BEGIN
    SELECT s.source_id = p_source_id AND u.user_id = p_user_id INTO v_is_own
    FROM sync.push_sessions s JOIN sync.user_state u ON u.user_pk = s.user_pk WHERE s.push_id = p_push_id;
    IF v_is_own THEN
        PERFORM sync.fail('OV016', format('push session %s has expired', p_push_id), NULL, 'Create a session again.');
    ELSIF NOT v_is_own THEN
        PERFORM sync.fail('OV015', format('push session %s belongs to another user or source', p_push_id), NULL, 'Create a session of your own.');
    END IF;
    PERFORM sync.fail('OV014', format('push session %s does not exist', p_push_id), NULL, 'Create a session again; if its bundle is committed, that says so.');
END
$$;
COMMENT ON FUNCTION sync.fail_session(p_push_id uuid, p_user_id text, p_source_id text) IS 'Raises why a push session was not found by its user and source: OV014, OV015 or OV016.';
CREATE FUNCTION sync.fail_unregistered(p_schema_name text, p_table_name text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    PERFORM sync.fail('OV012', format('table %I.%I is no longer registered', p_schema_name, p_table_name), NULL, 'Push without its rows.');
END
$$;
COMMENT ON FUNCTION sync.fail_unregistered(p_schema_name text, p_table_name text) IS 'Raises OV012: a table was unregistered since rows of it were staged.';
CREATE FUNCTION sync.finish_captured() RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF EXISTS (SELECT FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id() AND NOT b.is_implicit) THEN
        PERFORM sync.fail('OV023', 'this transaction has a bundle open', NULL, 'Finish the bundle in a transaction of its own.');
    END IF;
    IF EXISTS (SELECT FROM sync.captured_keys c WHERE c.xid = pg_current_xact_id() AND c.at_commit) THEN
        PERFORM sync.commit_captured(sync.writer_name(), false, false);
    END IF;
    DELETE FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id() AND b.is_implicit;
END
$$;
COMMENT ON FUNCTION sync.finish_captured() IS 'Makes bundles, now and for good, of what plain SQL wrote in this transaction so far.';
CREATE FUNCTION sync.fire_deferred() RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    SET CONSTRAINTS ALL IMMEDIATE;
END
$$;
COMMENT ON FUNCTION sync.fire_deferred() IS 'Runs the deferred constraints and triggers of this transaction now, under the application''s search path.';
CREATE FUNCTION sync.follow_moved(p_table_id integer, p_keys bytea[], p_are_moved boolean[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
DECLARE
    v_parent sync.table_catalog := sync.catalog_entry(p_table_id);
    v_child sync.table_catalog;
    v_reference record;
    v_rows text;
    v_crosses boolean;
BEGIN
    FOR v_reference IN
        SELECT f.table_id, f.columns, f.parent_columns FROM sync.foreign_keys f
        WHERE f.parent_table_id = p_table_id AND NOT coalesce(v_parent.scope_column = ANY (f.parent_columns), false)
    LOOP
        v_child := sync.catalog_entry(v_reference.table_id);
        PERFORM sync.require_scope(v_child);
        v_rows := format('FROM unnest($1, $2) AS k(key_bytes, is_moved) JOIN %s AS p ON p.%I = %s JOIN %s AS t ON %s', v_parent.relation, v_parent.key_column,
            sync.key_expression(v_parent, 'k.key_bytes'), v_child.relation,
            (SELECT string_agg(format('t.%I = p.%I', c.child_column, c.parent_column), ' AND ')
             FROM unnest(v_reference.columns, v_reference.parent_columns) AS c(child_column, parent_column)));
        IF v_reference.columns = ARRAY[v_child.scope_via] THEN
            PERFORM sync.take_along(v_parent, v_child, v_rows, p_keys, p_are_moved);
        ELSE
            EXECUTE format('SELECT EXISTS (SELECT %s WHERE %s <> %s)', v_rows, sync.scope_expression(v_parent, 'p'), sync.scope_expression(v_child, 't')) INTO v_crosses USING p_keys, p_are_moved;
            IF v_crosses THEN
                PERFORM sync.fail('OV033', format('a row of %I.%I refers to a row of another scope', v_child.schema_name, v_child.table_name), NULL, 'A row may refer only to rows of its own scope.');
            END IF;
        END IF;
    END LOOP;
END
$_$;
COMMENT ON FUNCTION sync.follow_moved(p_table_id integer, p_keys bytea[], p_are_moved boolean[]) IS 'Looks after the rows that refer to rows which changed their scope: takes them along or refuses.';
CREATE FUNCTION sync.foreign_key_problems() RETURNS TABLE(table_id integer, problem text, remedy text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    WITH leaving AS (
        SELECT f.table_id, f.constraint_name, t.relation, f.parent_schema, f.parent_table, to_regclass(format('%I.%I', f.parent_schema, f.parent_table)) AS parent
        FROM sync.foreign_keys f JOIN sync.table_catalog t ON t.table_id = f.table_id
        WHERE f.parent_table_id IS NULL AND f.columns IS DISTINCT FROM ARRAY[t.scope_via]
          AND NOT t.external_references && ARRAY[f.constraint_name::text, f.parent_schema || '.' || f.parent_table]
    ), again AS (
        -- Each table as it is registered, with all its references that leave. In one statement, since the set is judged as a whole.
        -- The other way, to register the tables referred to, takes a choice of their scope.
        SELECT sync.registration_call(t, t.external_references || ARRAY(SELECT l.constraint_name::text FROM leaving l WHERE l.table_id = t.table_id ORDER BY 1),
                                      t.key_column, coalesce(t.scope_via, t.scope_column)) AS call
        FROM sync.table_catalog t WHERE t.table_id IN (SELECT l.table_id FROM leaving l)
        ORDER BY t.table_id
    )
    SELECT l.table_id, format('foreign key %I of %s refers to %I.%I, which is not registered', l.constraint_name, l.relation, l.parent_schema, l.parent_table),
           format('SELECT %s; -- or with it, in one transaction: SELECT sync.register_table(%L%s);', (SELECT string_agg(a.call, ', ') FROM again a), format('%I.%I', l.parent_schema, l.parent_table),
                  -- Another scope column must be named.
                  CASE WHEN NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = l.parent AND a.attname = '_sync_scope_id') THEN ', scope => ''...''' END)
    FROM leaving l
    UNION ALL
    SELECT f.table_id, format('the scope of %s is found through %I.%I, which is not registered', t.relation, f.parent_schema, f.parent_table),
           format('SELECT sync.register_table(%L%s); -- in the same transaction; or take both out: SELECT sync.unregister_table(%L);', format('%I.%I', f.parent_schema, f.parent_table),
                  CASE WHEN NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = to_regclass(format('%I.%I', f.parent_schema, f.parent_table)) AND a.attname = '_sync_scope_id') THEN ', scope => ''...''' END,
                  t.relation)
    FROM sync.foreign_keys f JOIN sync.table_catalog t ON t.table_id = f.table_id
    WHERE f.parent_table_id IS NULL AND f.columns = ARRAY[t.scope_via] AND NOT EXISTS (SELECT FROM sync.scope_reference(t))
    UNION ALL
    SELECT l.table_id, format('the scope of %s is found through itself', l.relation), sync.leave_loop_statement() FROM sync.scope_loops() l
    UNION ALL
    -- Rows without a parent would be nobody's. What PostgreSQL 18 calls not enforced is never valid.
    SELECT f.table_id, format('the scope of %s is found through foreign key %I, which is not valid', t.relation, f.constraint_name),
           format(CASE to_jsonb(k) ->> 'conenforced' WHEN 'false' THEN 'ALTER TABLE %s ALTER CONSTRAINT %I ENFORCED;' ELSE 'ALTER TABLE %s VALIDATE CONSTRAINT %I;' END,
                  t.relation, f.constraint_name)
    FROM sync.foreign_keys f
    JOIN sync.table_catalog t ON t.table_id = f.table_id
    JOIN pg_constraint k ON k.conrelid = t.relation AND k.contype = 'f' AND k.conname = f.constraint_name
    WHERE NOT k.convalidated AND f.columns = ARRAY[t.scope_via]
    UNION ALL
    -- A reference is followed by columns that are equal; periods, since PostgreSQL 18, only overlap.
    SELECT f.table_id, format('foreign key %I of %s holds for a period', f.constraint_name, t.relation),
           format('ALTER TABLE %s DROP CONSTRAINT %I;', t.relation, f.constraint_name)
    FROM sync.foreign_keys f
    JOIN sync.table_catalog t ON t.table_id = f.table_id
    JOIN pg_constraint k ON k.conrelid = t.relation AND k.contype = 'f' AND k.conname = f.constraint_name
    WHERE f.parent_table_id IS NOT NULL AND to_jsonb(k) ->> 'conperiod' = 'true'
    UNION ALL
    SELECT f.table_id, format('foreign key %I of %s is not deferrable, and its tables refer to each other in a cycle', f.constraint_name, t.relation),
           format('ALTER TABLE %s ALTER CONSTRAINT %I DEFERRABLE INITIALLY DEFERRED;', t.relation, f.constraint_name)
    FROM sync.foreign_keys f
    JOIN sync.table_catalog t ON t.table_id = f.table_id
    JOIN sync.table_order c ON c.table_id = f.table_id
    JOIN sync.table_order p ON p.table_id = f.parent_table_id
    WHERE NOT f.is_deferrable AND NOT f.is_self_reference AND c.cycle_group > 0 AND c.cycle_group = p.cycle_group
$$;
COMMENT ON FUNCTION sync.foreign_key_problems() IS 'Foreign keys of registered tables that sync cannot keep, and the remedy of each.';
CREATE FUNCTION sync.give_way() RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    PERFORM set_config('lock_timeout', greatest(1, least(150, extract(epoch FROM current_setting('deadlock_timeout')::interval) * 500,
        nullif(extract(epoch FROM current_setting('lock_timeout')::interval) * 1000, 0))::integer)::text, true);
END
$$;
COMMENT ON FUNCTION sync.give_way() IS 'Bounds how long a push waits for rows, for where plain SQL writes synced tables too.';
CREATE FUNCTION sync.guard_statement(p_table sync.table_catalog) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;
COMMENT ON FUNCTION sync.guard_statement(p_table sync.table_catalog) IS 'Text of the condition that a row refers across scopes; null if no foreign key can.';
CREATE FUNCTION sync.install_functions(p_table sync.table_catalog) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET quote_all_identifiers TO 'off'
    SET client_min_messages TO 'warning'
    AS $_$
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
$_$;
COMMENT ON FUNCTION sync.install_functions(p_table sync.table_catalog) IS 'Makes the functions of a registered table.';
CREATE FUNCTION sync.install_triggers(p_table_id integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
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
COMMENT ON FUNCTION sync.install_triggers(p_table_id integer) IS 'Makes the triggers of a registered table and its partitions, as far as they are not there.';
CREATE FUNCTION sync.is_altered(p_relation regclass, p_fingerprint bigint, p_table_id integer) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN NULL;
    END IF;
    RETURN sync.is_altered_now(p_relation, p_fingerprint, p_table_id);
END
$$;
COMMENT ON FUNCTION sync.is_altered(p_relation regclass, p_fingerprint bigint, p_table_id integer) IS 'Whether a table has another fingerprint now, asked once for each plan; null if this transaction cannot know.';
CREATE FUNCTION sync.is_altered_now(p_relation regclass, p_fingerprint bigint, p_table_id integer) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    RETURN coalesce((SELECT t.relation <> p_relation FROM sync.table_catalog t WHERE t.table_id = p_table_id), false)
        OR sync.columns_fingerprint(p_relation) IS DISTINCT FROM p_fingerprint
        OR sync.parts_are_replaced(p_table_id)
        OR EXISTS (SELECT FROM sync.table_catalog t JOIN pg_attribute a ON a.attrelid = p_relation AND a.attname IN (t.key_column, t.scope_column, t.scope_via)
                   WHERE t.table_id = p_table_id AND NOT a.attnotnull);
END
$$;
COMMENT ON FUNCTION sync.is_altered_now(p_relation regclass, p_fingerprint bigint, p_table_id integer) IS 'Whether a table has another fingerprint now, or other parts, lets its key or scope be null, or is not the registered table of this id.';
CREATE FUNCTION sync.is_conflict(p_op "char", p_base_row_version bigint, p_bundle_seq bigint, p_newest_op "char") RETURNS boolean
    LANGUAGE sql IMMUTABLE
    RETURN ((p_base_row_version <> COALESCE(p_bundle_seq, (0)::bigint)) OR ((p_op = 'I'::"char") = ((p_newest_op IS NOT NULL) AND (p_newest_op <> 'D'::"char"))));
COMMENT ON FUNCTION sync.is_conflict(p_op "char", p_base_row_version bigint, p_bundle_seq bigint, p_newest_op "char") IS 'Whether an operation on the state that a client last saw conflicts with the state that the log has.';
CREATE FUNCTION sync.is_scope_default(p_expression text) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    SELECT p_expression ~ '^[(]*sync[.]scope_in_bundle[(][)]([)]*::[a-z ]+)*[)]*$'
$_$;
COMMENT ON FUNCTION sync.is_scope_default(p_expression text) IS 'Whether a default of a column is the one that registration makes.';
CREATE FUNCTION sync.is_scope_id(p_id text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (((octet_length(p_id) >= 1) AND (octet_length(p_id) <= 255)) AND ((p_id COLLATE "C") !~ '[\u0001-\u001f\u007f-\u009f]|^[ \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]|[ \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]$'::text));
COMMENT ON FUNCTION sync.is_scope_id(p_id text) IS 'Whether an id is one that a user or source can have: 1 to 255 bytes, no control character, no white space at its ends.';
CREATE FUNCTION sync.key_bytes_expression(p_table sync.table_catalog, p_alias text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT CASE p_table.key_type WHEN 'uuid' THEN format('pg_catalog.uuid_send(%s.%I)', p_alias, p_table.key_column)
                                 ELSE format('pg_catalog.convert_to(%s.%I, ''UTF8'')', p_alias, p_table.key_column) END
$$;
COMMENT ON FUNCTION sync.key_bytes_expression(p_table sync.table_catalog, p_alias text) IS 'SQL that makes key bytes of a row''s key.';
CREATE FUNCTION sync.key_expression(p_table sync.table_catalog, p_key_bytes text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT CASE p_table.key_type WHEN 'uuid' THEN format('pg_catalog.encode(%s, ''hex'')::pg_catalog.uuid', p_key_bytes)
                                 ELSE format('(pg_catalog.convert_from(%s, ''UTF8'')%s)', p_key_bytes,
                                      (SELECT ' COLLATE ' || a.attcollation::regcollation FROM pg_attribute a
                                       WHERE a.attrelid = p_table.relation AND a.attnum = p_table.key_attnum AND a.attcollation <> 0)) END
$$;
COMMENT ON FUNCTION sync.key_expression(p_table sync.table_catalog, p_key_bytes text) IS 'SQL that makes a key of the table''s type from key bytes.';
CREATE FUNCTION sync.key_text(p_table_id integer, p_key_bytes bytea) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    -- Not a CASE of both: PostgreSQL may compute what depends on parameters alone when it plans, and one of the two fails.
    IF (SELECT t.key_type = 'uuid' FROM sync.table_catalog t WHERE t.table_id = p_table_id) THEN
        RETURN encode(p_key_bytes, 'hex')::uuid::text;
    END IF;
    RETURN convert_from(p_key_bytes, 'UTF8');
END
$$;
COMMENT ON FUNCTION sync.key_text(p_table_id integer, p_key_bytes bytea) IS 'A key of the log as clients know it.';
CREATE FUNCTION sync.last_bundle() RETURNS TABLE(user_id text, bundle_seq bigint, source_id text, source_bundle_id bigint, row_count bigint)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT b.value ->> 0, (b.value ->> 1)::bigint, b.value ->> 2, (b.value ->> 3)::bigint, (b.value ->> 4)::bigint
    FROM jsonb_array_elements(coalesce(nullif(current_setting('sync.last_bundle', true), ''), '[]')::jsonb) AS b(value)
$$;
COMMENT ON FUNCTION sync.last_bundle() IS 'What the last transaction of this session that wrote synced tables by plain SQL became: a row per scope.';
CREATE FUNCTION sync.leave_loop_statement() RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    WITH loops AS MATERIALIZED (SELECT l.table_id, l.relation FROM sync.scope_loops() l),
    leaving AS (
        SELECT f.table_id, array_agg(f.constraint_name::text ORDER BY f.constraint_name) AS names
        FROM sync.foreign_keys f
        WHERE f.parent_table_id IN (SELECT l.table_id FROM loops l) AND f.table_id NOT IN (SELECT l.table_id FROM loops l)
        GROUP BY f.table_id
    )
    SELECT format('SELECT %s; -- or let a foreign key lead to a table with a scope column', string_agg(c.call, ', ' ORDER BY c.place, c.table_id))
    FROM (SELECT 1 AS place, l.table_id, format('sync.unregister_table(%L)', l.relation) AS call FROM loops l
          UNION ALL
          SELECT 2, t.table_id, sync.registration_call(t, t.external_references || v.names, t.key_column, coalesce(t.scope_via, t.scope_column))
          FROM leaving v JOIN sync.table_catalog t ON t.table_id = v.table_id) AS c
    HAVING count(*) > 0
$$;
COMMENT ON FUNCTION sync.leave_loop_statement() IS 'Statement that takes tables out whose scope is found through each other.';
CREATE FUNCTION sync.live_rows_statement(p_table sync.table_catalog, p_one_scope boolean) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    SELECT format('SELECT %1$s AS scope, %2$s AS key_bytes, row_to_json(w.*)::text AS payload FROM (SELECT t.* FROM %3$s AS t%4$s OFFSET 0) AS t CROSS JOIN LATERAL (SELECT %5$s OFFSET 0) AS w',
        CASE WHEN p_one_scope THEN '$1::text' ELSE sync.scope_expression(p_table, 't') END, sync.key_bytes_expression(p_table, 't'), p_table.relation,
        CASE WHEN p_one_scope THEN sync.scope_joins(p_table, 't', '$1') ELSE '' END,
        sync.wire_columns(p_table, 't'))
$_$;
COMMENT ON FUNCTION sync.live_rows_statement(p_table sync.table_catalog, p_one_scope boolean) IS 'Text of the query that gives a table''s live rows as they are on the wire.';
CREATE FUNCTION sync.log_damage(p_user_id text) RETURNS TABLE(table_name text, key text, difference text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    WITH scope AS (
        SELECT u.*, greatest(u.retained_bundle_floor, u.pruned_bundle_seq) AS served_after
        FROM sync.user_state u WHERE u.user_id = p_user_id
    ), served AS (
        SELECT l.bundle_seq, l.row_count, (SELECT count(*) FROM sync.bundle_rows r WHERE r.user_pk = l.user_pk AND r.bundle_seq = l.bundle_seq) AS rows_found
        FROM scope s JOIN sync.bundle_log l ON l.user_pk = s.user_pk AND l.bundle_seq > s.served_after
    ), places AS (
        SELECT p.seq, lead(p.seq) OVER (ORDER BY p.seq) AS next_seq
        FROM (SELECT s.served_after FROM scope s UNION SELECT b.bundle_seq FROM served b UNION SELECT s.next_bundle_seq FROM scope s) AS p(seq)
    ), live AS (
        SELECT count(*) AS row_count, coalesce(sum(octet_length(n.payload)), 0) AS byte_count
        FROM (SELECT DISTINCT ON (r.table_id, r.key_bytes) r.table_id, r.op, r.payload
              FROM scope s JOIN sync.bundle_rows r ON r.user_pk = s.user_pk
              ORDER BY r.table_id, r.key_bytes, r.bundle_seq DESC) AS n
        JOIN sync.table_catalog t ON t.table_id = n.table_id AND t.unregistered_at IS NULL
        WHERE n.op <> 'D'
    )
    SELECT 'bundle_log', (p.seq + 1)::text, CASE WHEN p.next_seq = p.seq + 2 THEN 'the bundle is missing' ELSE format('the bundles %s to %s are missing', p.seq + 1, p.next_seq - 1) END
    FROM places p WHERE p.next_seq > p.seq + 1
    UNION ALL
    SELECT 'bundle_log', b.bundle_seq::text, format('row_count is %s, but the bundle has %s effects', b.row_count, b.rows_found)
    FROM served b WHERE b.rows_found <> b.row_count
    UNION ALL
    SELECT 'user_state', s.user_id, format('next_bundle_seq is %s, but the log has bundle %s', s.next_bundle_seq, n.bundle_seq)
    FROM scope s
    CROSS JOIN LATERAL (SELECT greatest((SELECT max(l.bundle_seq) FROM sync.bundle_log l WHERE l.user_pk = s.user_pk), (SELECT max(r.bundle_seq) FROM sync.bundle_rows r WHERE r.user_pk = s.user_pk)) AS bundle_seq) AS n
    WHERE n.bundle_seq >= s.next_bundle_seq
    UNION ALL
    SELECT 'source_state', n.source_id, format('last_source_bundle_id is %s, but the log has its bundle %s', coalesce(o.last_source_bundle_id, 0), n.newest)
    FROM (SELECT l.user_pk, l.source_id, max(l.source_bundle_id) AS newest FROM scope s JOIN sync.bundle_log l ON l.user_pk = s.user_pk GROUP BY l.user_pk, l.source_id) AS n
    LEFT JOIN sync.source_state o ON o.user_pk = n.user_pk AND o.source_id = n.source_id
    WHERE coalesce(o.last_source_bundle_id, 0) < n.newest
    UNION ALL
    SELECT 'user_state', s.user_id, format('live_row_count and live_byte_count are %s and %s, but the log has %s and %s', s.live_row_count, s.live_byte_count, l.row_count, l.byte_count)
    FROM scope s, live l WHERE (s.live_row_count, s.live_byte_count) IS DISTINCT FROM (l.row_count, l.byte_count)
$$;
COMMENT ON FUNCTION sync.log_damage(p_user_id text) IS 'What is wrong with the log of a scope in itself: bundles that are missing, counts and numbers that do not fit; no row means that all is well.';
CREATE FUNCTION sync.moved_keys(p_referred integer[], p_adopted integer[]) RETURNS TABLE(table_id integer, keys bytea[], are_moved boolean[])
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    RETURN QUERY
    SELECT m.table_id, array_agg(m.key_bytes), array_agg(m.is_moved)
    FROM (SELECT c.table_id, k.key_bytes,
                 c.table_id = ANY (p_referred) IS TRUE OR min(coalesce(k.scope, c.scopes[1]) COLLATE "C") <> max(coalesce(k.scope, c.scopes[1]) COLLATE "C") AS is_moved
          FROM sync.captured_keys c CROSS JOIN LATERAL ROWS FROM (unnest(c.keys), unnest(c.scopes)) AS k(key_bytes, scope)
          WHERE c.xid = pg_current_xact_id() AND c.scopes IS NOT NULL
            -- What one statement wrote is in one scope each, unless it was found through a parent.
            AND c.table_id IN (SELECT s.table_id FROM sync.captured_keys s JOIN sync.table_catalog t ON t.table_id = s.table_id
                               WHERE s.xid = pg_current_xact_id() GROUP BY s.table_id HAVING count(*) > 1 OR bool_or(t.scope_via IS NOT NULL OR s.table_id = ANY (p_referred)))
          GROUP BY c.table_id, k.key_bytes
          HAVING min(coalesce(k.scope, c.scopes[1]) COLLATE "C") <> max(coalesce(k.scope, c.scopes[1]) COLLATE "C") OR c.table_id = ANY (p_referred) OR c.table_id = ANY (p_adopted)) AS m
    GROUP BY m.table_id;
END
$$;
COMMENT ON FUNCTION sync.moved_keys(p_referred integer[], p_adopted integer[]) IS 'Captured keys that are in more than one scope, or may be.';
CREATE FUNCTION sync.nothing_follows(p_relation oid, p_op "char") RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
BEGIN
    RETURN EXISTS (SELECT FROM pg_class c WHERE c.oid = p_relation AND c.relkind = 'r' AND NOT c.relhasrules AND NOT c.relhassubclass)
        AND NOT EXISTS (
            SELECT FROM pg_trigger g JOIN pg_proc f ON f.oid = g.tgfoid
            WHERE g.tgrelid = p_relation AND g.tgtype & CASE p_op WHEN 'I' THEN 4 WHEN 'D' THEN 8 ELSE 16 END <> 0
              AND f.pronamespace <> 'sync'::regnamespace
              -- Those only look.
              AND (NOT g.tgisinternal OR f.proname !~ '^(RI_FKey_(check|noaction|restrict)_|unique_key_recheck$)'))
        AND NOT EXISTS (SELECT FROM pg_attribute a JOIN pg_collation l ON l.oid = a.attcollation WHERE a.attrelid = p_relation AND NOT l.collisdeterministic)
        AND NOT (p_op <> 'D' AND sync.runs_code(p_relation));
END
$_$;
COMMENT ON FUNCTION sync.nothing_follows(p_relation oid, p_op "char") IS 'Whether a statement on the table can do nothing but write the rows that it names.';
CREATE FUNCTION sync.open_implicit(p_source_id text) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_scopes text[];
BEGIN
    -- EXCEPT, since it never compares each with each, as a join would that expects few of them. It keeps every row, so they are made few before.
    SELECT array_agg(n.scope) INTO v_scopes
    FROM (SELECT DISTINCT s.scope FROM sync.captured_keys c CROSS JOIN LATERAL unnest(c.scopes) AS s(scope) WHERE c.xid = pg_current_xact_id()
          EXCEPT SELECT b.user_id FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id()) AS n;
    IF v_scopes IS NULL THEN
        RETURN 0;
    ELSIF EXISTS (SELECT FROM unnest(v_scopes) AS s(scope) WHERE NOT sync.is_scope_id(s.scope)) THEN
        RAISE EXCEPTION USING ERRCODE = '23514',
            MESSAGE = format('a row belongs to the scope %L, which no user can have', (SELECT min(left(s.scope, 255)) FROM unnest(v_scopes) AS s(scope) WHERE NOT sync.is_scope_id(s.scope))),
            HINT = 'A scope id has 1 to 255 bytes, no control character, and no white space at its ends: give the row to a user, or delete it.';
    END IF;
    INSERT INTO sync.user_state (user_id)
    SELECT s.scope FROM unnest(v_scopes) AS s(scope)
    WHERE NOT EXISTS (SELECT FROM sync.user_state u WHERE u.user_id = s.scope)
    ORDER BY s.scope COLLATE "C"
    ON CONFLICT ON CONSTRAINT user_id_is_unique DO NOTHING;
    PERFORM FROM sync.user_state u WHERE u.user_id = ANY (v_scopes) ORDER BY u.user_pk FOR NO KEY UPDATE;
    INSERT INTO sync.open_bundles (xid, user_pk, user_id, bundle_seq, source_id, source_bundle_id, is_implicit)
    SELECT pg_current_xact_id(), u.user_pk, u.user_id, u.next_bundle_seq, p_source_id, coalesce(s.last_source_bundle_id, 0) + 1, true
    FROM sync.user_state u LEFT JOIN sync.source_state s ON s.user_pk = u.user_pk AND s.source_id = p_source_id
    WHERE u.user_id = ANY (v_scopes);
    IF p_source_id !~ '^(sql|oversync):' THEN -- which no device can have
        UPDATE sync.open_bundles b
        SET source_id = 'sql:' || p_source_id,
            source_bundle_id = coalesce((SELECT o.last_source_bundle_id FROM sync.source_state o WHERE o.user_pk = b.user_pk AND o.source_id = 'sql:' || p_source_id), 0) + 1
        FROM sync.source_state s
        WHERE b.xid = pg_current_xact_id() AND b.source_id = p_source_id AND s.user_pk = b.user_pk AND s.source_id = p_source_id AND (s.is_device OR s.state <> 'active');
    END IF;
    RETURN cardinality(v_scopes);
END
$$;
COMMENT ON FUNCTION sync.open_implicit(p_source_id text) IS 'Opens a bundle for each scope among the captured keys of this transaction that has none yet, and returns how many it opened.';
CREATE FUNCTION sync.parent_with_scope(p_table sync.table_catalog, p_may_be_orphaned boolean DEFAULT false) RETURNS integer
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
DECLARE
    v_parent_id integer := (SELECT f.parent_table_id FROM sync.scope_reference(p_table) AS f);
BEGIN
    IF v_parent_id IS NULL AND NOT p_may_be_orphaned THEN
        PERFORM sync.fail('OV030', format('table %s is synced, but its column %I, which says whose a row is, refers to no registered table any more', p_table.relation, p_table.scope_via), NULL,
            format('ALTER TABLE %1$s ADD FOREIGN KEY (%2$I) REFERENCES ...; or SELECT sync.unregister_table(%3$L);', p_table.relation, p_table.scope_via, p_table.relation));
    END IF;
    RETURN v_parent_id;
END
$_$;
COMMENT ON FUNCTION sync.parent_with_scope(p_table sync.table_catalog, p_may_be_orphaned boolean) IS 'Table through which a table finds its scope; raises OV030 if its foreign key is gone.';
CREATE FUNCTION sync.parts_are_replaced(p_table_id integer) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    RETURN EXISTS (
        -- PostgreSQL counts dropped columns too, so each that is added makes it one more.
        SELECT FROM sync.table_catalog t JOIN pg_class c ON c.oid = t.relation
        WHERE t.table_id = p_table_id AND t.relation_oid = t.relation AND c.relnatts <> t.relnatts
    ) OR coalesce((
        SELECT bool_and(k.confrelid <> t.scope_parent)
        FROM sync.table_catalog t
        JOIN pg_attribute a ON a.attrelid = t.relation AND a.attname = t.scope_via AND NOT a.attisdropped
        JOIN pg_constraint k ON k.conrelid = t.relation AND k.contype = 'f' AND k.conparentid = 0 AND k.conkey = ARRAY[a.attnum]
        WHERE t.table_id = p_table_id), false);
END
$$;
COMMENT ON FUNCTION sync.parts_are_replaced(p_table_id integer) IS 'Whether a column of a table, or the parent that says whose a row is, was replaced by another of its name since the last registration or refresh.';
CREATE FUNCTION sync.prune(p_retained_bundles bigint DEFAULT 10000, p_max_bundles bigint DEFAULT 1000) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_user_pk bigint;
    v_left bigint := p_max_bundles;
BEGIN
    FOR v_user_pk IN
        SELECT u.user_pk FROM sync.user_state u
        WHERE greatest(u.retained_bundle_floor, u.next_bundle_seq - 1 - p_retained_bundles) > u.pruned_bundle_seq
        ORDER BY u.user_pk
    LOOP
        EXIT WHEN v_left <= 0;
        BEGIN
            v_left := v_left - sync.prune_scope(v_user_pk, p_retained_bundles, v_left, false);
        EXCEPTION WHEN lock_not_available THEN
            NULL; -- Waiting while holding other scopes could deadlock with a transaction that writes several.
        END;
    END LOOP;
    RETURN p_max_bundles - v_left;
END
$$;
COMMENT ON FUNCTION sync.prune(p_retained_bundles bigint, p_max_bundles bigint) IS 'Removes bundles and versions that retention no longer needs, over all scopes; returns the number of bundles removed. Call it until it returns 0.';
CREATE FUNCTION sync.prune_scope(p_user_pk bigint, p_retained_bundles bigint, p_max_bundles bigint DEFAULT 1000, p_waits boolean DEFAULT true) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '500ms'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    AS $$
DECLARE
    v_pruned bigint;
    v_floor bigint;
    v_horizon bigint;
    v_first bigint;
    v_to bigint;
    v_bundles bigint := 0;
    v_bytes bigint := 0;
BEGIN
    IF p_retained_bundles IS NULL OR p_retained_bundles < 1 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('p_retained_bundles is %s', p_retained_bundles),
            HINT = 'Retain at least 1 bundle: a client that has the newest one must not have to rebuild.';
    END IF;
    SELECT u.pruned_bundle_seq, greatest(u.retained_bundle_floor, u.next_bundle_seq - 1 - p_retained_bundles)
    INTO v_pruned, v_floor
    FROM sync.user_state u WHERE u.user_pk = p_user_pk;
    v_to := v_pruned;
    v_horizon := least(v_floor, (SELECT min(s.snapshot_bundle_seq) FROM sync.snapshot_sessions s
                                 WHERE s.user_pk = p_user_pk AND s.expires_at > clock_timestamp()));
    -- The one after those pruned, unless somebody deleted it by hand.
    v_first := (SELECT min(l.bundle_seq) FROM sync.bundle_log l WHERE l.user_pk = p_user_pk AND l.bundle_seq > v_pruned);
    IF v_horizon >= v_first THEN
        PERFORM FROM sync.bundle_log l WHERE l.user_pk = p_user_pk AND l.bundle_seq = v_first FOR UPDATE SKIP LOCKED;
        IF FOUND THEN
            SELECT max(b.bundle_seq) INTO v_to
            FROM (SELECT l.bundle_seq, sum(l.row_count) OVER (ORDER BY l.bundle_seq) AS row_count
                  FROM sync.bundle_log l
                  WHERE l.user_pk = p_user_pk AND l.bundle_seq > v_pruned AND l.bundle_seq <= least(v_horizon, v_first - 1 + greatest(p_max_bundles, 1))) AS b
            WHERE b.row_count <= 20000 OR b.bundle_seq = v_first;
            DELETE FROM sync.bundle_rows r
            USING (SELECT n.table_id, n.key_bytes, max(n.bundle_seq) AS bundle_seq
                   FROM sync.bundle_rows n
                   WHERE n.user_pk = p_user_pk AND n.bundle_seq > v_pruned AND n.bundle_seq <= v_to
                   GROUP BY n.table_id, n.key_bytes) AS newest
            WHERE r.user_pk = p_user_pk AND r.table_id = newest.table_id AND r.key_bytes = newest.key_bytes AND r.bundle_seq < newest.bundle_seq;
            WITH gone AS (
                DELETE FROM sync.bundle_log l WHERE l.user_pk = p_user_pk AND l.bundle_seq > v_pruned AND l.bundle_seq <= v_to
                RETURNING l.byte_count
            )
            SELECT count(*), coalesce(sum(g.byte_count), 0) INTO v_bundles, v_bytes FROM gone g;
        END IF;
    END IF;
    IF NOT p_waits THEN
        PERFORM FROM sync.user_state u WHERE u.user_pk = p_user_pk FOR NO KEY UPDATE NOWAIT;
    END IF;
    UPDATE sync.user_state u
    SET retained_bundle_floor = greatest(u.retained_bundle_floor, v_floor), pruned_bundle_seq = greatest(u.pruned_bundle_seq, v_to),
        bundle_byte_count = u.bundle_byte_count - v_bytes
    WHERE u.user_pk = p_user_pk AND (v_bundles > 0 OR u.retained_bundle_floor < v_floor);
    RETURN v_bundles;
END
$$;
COMMENT ON FUNCTION sync.prune_scope(p_user_pk bigint, p_retained_bundles bigint, p_max_bundles bigint, p_waits boolean) IS 'Raises the floor of one scope and removes bundles and versions that retention no longer needs; returns the number of bundles removed.';
CREATE FUNCTION sync.push_apply(p_push_id uuid, p_user_pk bigint, p_user_id text, p_bundle_seq bigint, p_row_count bigint, p_in_order boolean) RETURNS sync.push_effect
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
DECLARE
    v_groups refcursor;
    v_group record;
    v_group_count bigint := 0;
    v_row_count bigint;
    v_applied bigint := 0;
    v_live_rows bigint := 0;
    v_bytes_before bigint;
    v_settled integer[] := '{}';
    v_may_be_renamed boolean := false;
    v_captured sync.captured_keys;
BEGIN
    IF p_in_order THEN
        OPEN v_groups FOR
            SELECT t.table_id, m.op, min(m.row_ordinal) AS first_row, max(m.row_ordinal) AS last_row, array_agg(m.row_ordinal ORDER BY m.row_ordinal) AS ordinals,
                   t.schema_name, t.table_name, t.unregistered_at, t.has_to_settle, t.scope_via, NULL::integer AS conflict_at, NULL::bigint AS bytes_before
            FROM (SELECT s.row_ordinal, s.table_id, s.op,
                         s.row_ordinal - row_number() OVER (PARTITION BY s.table_id, s.op ORDER BY s.row_ordinal) AS run
                  FROM sync.chunk_rows s WHERE s.push_id = p_push_id) AS m
            JOIN sync.table_catalog t ON t.table_id = m.table_id
            GROUP BY t.table_id, m.op, m.run
            ORDER BY 3;
    ELSE
        OPEN v_groups FOR
            SELECT t.table_id, g.op, g.first_row, g.last_row, g.ordinals,
                   t.schema_name, t.table_name, t.unregistered_at, t.has_to_settle, t.scope_via,
                   -- Over all groups, so that the first one knows.
                   min(g.conflict_at) OVER () AS conflict_at, coalesce(sum(g.bytes_before) OVER (), 0)::bigint AS bytes_before
            FROM (SELECT s.table_id, s.op, min(s.row_ordinal) AS first_row, max(s.row_ordinal) AS last_row, array_agg(s.row_ordinal ORDER BY s.row_ordinal) AS ordinals,
                         min(s.row_ordinal) FILTER (WHERE sync.is_conflict(s.op, s.base_row_version, newest.bundle_seq, newest.op)) AS conflict_at,
                         sum(newest.payload_bytes) AS bytes_before
                  FROM sync.chunk_rows s
                  LEFT JOIN LATERAL (
                      SELECT r.bundle_seq, r.op, octet_length(r.payload) AS payload_bytes FROM sync.bundle_rows r
                      -- Hidden from the planner, which thinks that a scope it does not know has a row, and would read all of them.
                      WHERE r.user_pk = (SELECT p_user_pk) AND r.table_id = s.table_id AND r.key_bytes = s.key_bytes
                      ORDER BY r.bundle_seq DESC LIMIT 1
                  ) AS newest ON true
                  WHERE s.push_id = p_push_id
                  GROUP BY s.table_id, s.op) AS g
            JOIN sync.table_catalog t ON t.table_id = g.table_id
            ORDER BY g.op = 'D', CASE WHEN g.op = 'D' THEN -t.apply_order ELSE t.apply_order END, g.op;
    END IF;
    LOOP
        FETCH v_groups INTO v_group;
        EXIT WHEN NOT FOUND;
        IF v_group.conflict_at IS NOT NULL THEN
            PERFORM sync.fail_conflict(p_user_pk, s.table_id, s.op, s.base_row_version, s.key_bytes)
            FROM sync.chunk_rows s WHERE s.push_id = p_push_id AND s.row_ordinal = v_group.conflict_at;
        ELSIF v_group.unregistered_at IS NOT NULL THEN
            PERFORM sync.fail_unregistered(v_group.schema_name, v_group.table_name);
        END IF;
        EXECUTE format('SELECT sync.apply_%s($1, $2, $3, $4, $5, $6, $7, $8, 2147483647)', v_group.table_id)
        INTO v_row_count
        USING p_user_id, p_user_pk, p_bundle_seq, v_group.op, p_push_id, v_group.first_row, v_group.last_row, v_group.ordinals;
        v_group_count := v_group_count + 1;
        v_bytes_before := v_group.bytes_before;
        IF v_group.scope_via IS NULL THEN
            v_applied := v_applied + v_row_count;
        END IF;
        v_live_rows := v_live_rows + CASE v_group.op WHEN 'I' THEN v_row_count WHEN 'D' THEN -v_row_count ELSE 0 END;
        IF v_group.op = 'I' THEN
            v_may_be_renamed := v_may_be_renamed OR EXISTS (
                SELECT FROM sync.table_catalog t
                JOIN pg_trigger g ON g.tgrelid = ANY (t.relation::oid || ARRAY(SELECT p.relid::oid FROM pg_partition_tree(t.relation) p)) AND g.tgtype & 7 = 7 -- BEFORE INSERT FOR EACH ROW
                WHERE t.table_id = v_group.table_id);
        END IF;
        IF v_group.has_to_settle THEN
            v_settled := v_settled || v_group.table_id;
        END IF;
    END LOOP;
    CLOSE v_groups;
    PERFORM sync.fire_deferred();
    -- Each statement captured its own rows. If one found fewer or captured more, or there was another one, a trigger or a foreign key has had a hand in it.
    IF p_in_order OR v_applied <> p_row_count OR (v_group_count, p_row_count) <> (SELECT count(*), coalesce(sum(cardinality(c.keys)), 0) FROM sync.captured_keys c WHERE c.xid = pg_current_xact_id()) THEN
        RETURN NULL;
    END IF;
    -- A row that a trigger gave another key as it was inserted is an effect that the push did not name, which follows those that it did.
    -- In an IF of its own: as one condition, whose plan is nothing at all while no row may be renamed, it would be planned in each push.
    IF v_may_be_renamed THEN
        IF EXISTS (
            SELECT FROM sync.chunk_rows s
            -- Looked up one by one: joined, each row of the push would be compared with each, since few are expected.
            CROSS JOIN LATERAL (SELECT r.key_bytes FROM sync.bundle_rows r
                                WHERE r.user_pk = (SELECT p_user_pk) AND r.bundle_seq = p_bundle_seq AND r.row_ordinal = s.row_ordinal OFFSET 0) AS logged
            WHERE s.push_id = p_push_id AND logged.key_bytes <> s.key_bytes) THEN
            RETURN NULL;
        END IF;
    END IF;
    IF v_settled <> '{}' THEN
        FOR v_captured IN SELECT c.* FROM sync.captured_keys c WHERE c.xid = pg_current_xact_id() AND c.table_id = ANY (v_settled) LOOP
            EXECUTE format('SELECT sync.settle_%s($1, $2)', v_captured.table_id) USING array_fill(p_user_pk, ARRAY[cardinality(v_captured.keys)]), v_captured.keys;
        END LOOP;
    END IF;
    RETURN ROW(v_live_rows, v_bytes_before);
END
$_$;
COMMENT ON FUNCTION sync.push_apply(p_push_id uuid, p_user_pk bigint, p_user_id text, p_bundle_seq bigint, p_row_count bigint, p_in_order boolean) IS 'Judges, applies and logs the staged rows of a push, grouped by table or strictly in push order.';
CREATE FUNCTION sync.push_apply_row(p_table_id integer, p_op "char", p_base_row_version bigint, p_key_bytes bytea, p_payload text, p_user_pk bigint, p_user_id text, p_bundle_seq bigint) RETURNS sync.push_effect
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
DECLARE
    v_row record;
    v_is_all boolean;
BEGIN
    SELECT t.schema_name, t.table_name, t.unregistered_at, t.has_to_settle, t.scope_via, newest.bundle_seq, newest.op, coalesce(newest.payload_bytes, 0)::bigint AS bytes_before,
           EXISTS (SELECT FROM sync.table_catalog c WHERE c.policy = 'capture' AND c.unregistered_at IS NULL) AS has_to_give_way
    INTO v_row
    FROM sync.table_catalog t
    LEFT JOIN (
        SELECT r.bundle_seq, r.op, octet_length(r.payload) AS payload_bytes FROM sync.bundle_rows r
        WHERE r.user_pk = (SELECT p_user_pk) AND r.table_id = p_table_id AND r.key_bytes = p_key_bytes
        ORDER BY r.bundle_seq DESC LIMIT 1
    ) AS newest ON true
    WHERE t.table_id = p_table_id;
    IF sync.is_conflict(p_op, p_base_row_version, v_row.bundle_seq, v_row.op) THEN
        PERFORM sync.fail_conflict(p_user_pk, p_table_id, p_op, p_base_row_version, p_key_bytes);
    ELSIF v_row.unregistered_at IS NOT NULL THEN
        PERFORM sync.fail_unregistered(v_row.schema_name, v_row.table_name);
    ELSIF v_row.has_to_give_way THEN
        PERFORM sync.give_way();
    END IF;
    EXECUTE format('SELECT sync.apply_row_%s($1, $2, $3, $4, $5, $6)', p_table_id)
    INTO v_is_all
    USING p_user_id, p_user_pk, p_bundle_seq, p_op, p_key_bytes, p_payload;
    PERFORM sync.fire_deferred();
    IF v_is_all IS NULL OR v_row.scope_via IS NOT NULL THEN
        RETURN NULL;
    ELSIF NOT v_is_all THEN
        -- The statement was noted: with that row, and nothing else with it?
        IF (SELECT (count(*), coalesce(sum(cardinality(c.keys)), 0)) <> (1, 1) FROM sync.captured_keys c WHERE c.xid = pg_current_xact_id()) THEN
            RETURN NULL;
        END IF;
    END IF;
    IF v_row.has_to_settle THEN
        -- By the key that it has: a trigger may have given it another one.
        EXECUTE format('SELECT sync.settle_%s(ARRAY[$1], ARRAY(SELECT r.key_bytes FROM sync.bundle_rows r WHERE r.user_pk = $1 AND r.bundle_seq = $2))', p_table_id)
        USING p_user_pk, p_bundle_seq;
    END IF;
    RETURN ROW(CASE p_op WHEN 'I' THEN 1 WHEN 'D' THEN -1 ELSE 0 END::bigint, v_row.bytes_before);
END
$_$;
COMMENT ON FUNCTION sync.push_apply_row(p_table_id integer, p_op "char", p_base_row_version bigint, p_key_bytes bytea, p_payload text, p_user_pk bigint, p_user_id text, p_bundle_seq bigint) IS 'Judges, applies and logs the row of a push that has only one.';
CREATE FUNCTION sync.push_close_rows(p_source_ids text[], p_source_bundle_ids bigint[], p_bundle_hashes bytea[], p_byte_counts bigint[], p_retained_bundles bigint, p_live_row_delta bigint, p_live_byte_delta bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET jit TO 'off'
    AS $$
DECLARE
    v_first sync.open_bundles;
    v_last_seq bigint;
BEGIN
    DELETE FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id() RETURNING b.* INTO v_first;
    v_last_seq := v_first.bundle_seq + cardinality(p_source_ids) - 1;
    INSERT INTO sync.bundle_log (user_pk, bundle_seq, source_id, source_bundle_id, row_count, byte_count, bundle_hash)
    SELECT v_first.user_pk, v_first.bundle_seq + n.place - 1, n.source_id, n.source_bundle_id, 1, n.byte_count, n.bundle_hash
    FROM ROWS FROM (unnest(p_source_ids), unnest(p_source_bundle_ids), unnest(p_byte_counts), unnest(p_bundle_hashes))
        WITH ORDINALITY AS n(source_id, source_bundle_id, byte_count, bundle_hash, place);
    UPDATE sync.user_state u
    SET next_bundle_seq = v_last_seq + 1,
        retained_bundle_floor = greatest(u.retained_bundle_floor, v_last_seq - p_retained_bundles),
        live_row_count = u.live_row_count + p_live_row_delta,
        live_byte_count = u.live_byte_count + p_live_byte_delta,
        bundle_byte_count = u.bundle_byte_count + (SELECT sum(n.byte_count) FROM unnest(p_byte_counts) AS n(byte_count)),
        last_bundle_at = now()
    WHERE u.user_pk = v_first.user_pk;
    INSERT INTO sync.source_state (user_pk, source_id, last_source_bundle_id, is_device)
    SELECT v_first.user_pk, n.source_id, n.source_bundle_id, true
    FROM ROWS FROM (unnest(p_source_ids), unnest(p_source_bundle_ids)) AS n(source_id, source_bundle_id)
    ON CONFLICT ON CONSTRAINT source_state_pkey DO UPDATE
    SET last_source_bundle_id = excluded.last_source_bundle_id, is_device = true, state = 'active', updated_at = now();
    DELETE FROM sync.push_chunks c WHERE c.push_id = v_first.push_id;
END
$$;
COMMENT ON FUNCTION sync.push_close_rows(p_source_ids text[], p_source_bundle_ids bigint[], p_bundle_hashes bytea[], p_byte_counts bigint[], p_retained_bundles bigint, p_live_row_delta bigint, p_live_byte_delta bigint) IS 'Enters the bundles of sync.push_commit_rows, and moves their scope and sources on.';
CREATE FUNCTION sync.push_commit(p_push_id uuid, p_user_id text, p_source_id text, p_max_rows bigint, p_lease_ttl interval, p_planned_at_most bigint DEFAULT 2147483647) RETURNS TABLE(bundle_seq bigint, source_bundle_id bigint, row_count bigint, live_row_delta bigint, bytes_before bigint)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET "DateStyle" TO 'ISO, MDY'
    SET "IntervalStyle" TO 'postgres'
    SET lc_monetary TO 'C'
    SET extra_float_digits TO '1'
    SET bytea_output TO 'hex'
    SET array_nulls TO 'on'
    SET xmloption TO 'content'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET jit TO 'off'
    AS $$
DECLARE
    v_user record;
    v_scope sync.user_state;
    v_session record;
    v_effect sync.push_effect;
    v_next bigint; -- source_bundle_id; 0 if the source is retired
    v_row_count bigint;
    v_distinct bigint;
BEGIN
    SELECT u.user_pk, u.state, u.next_bundle_seq INTO v_user FROM sync.user_state u WHERE u.user_id = p_user_id FOR NO KEY UPDATE;
    -- The session ends here, and is there again if this is refused. Its source is read once the scope is locked, since sources move on only under that lock.
    DELETE FROM sync.push_sessions p
    WHERE p.push_id = p_push_id AND p.user_pk = v_user.user_pk AND p.source_id = p_source_id AND p.expires_at > clock_timestamp()
      AND p.planned_row_count <= p_planned_at_most
    RETURNING p.source_bundle_id, p.planned_row_count, p.staged_row_count, p.initialization_id, p.table_id, p.op, p.base_row_version, p.key_bytes, p.payload,
        (SELECT CASE WHEN s.state <> 'retired' THEN s.last_source_bundle_id + 1 ELSE 0 END FROM sync.source_state s WHERE s.user_pk = p.user_pk AND s.source_id = p.source_id) AS next_source_bundle_id
    INTO v_session;
    IF NOT FOUND THEN
        IF EXISTS (SELECT FROM sync.push_sessions p WHERE p.push_id = p_push_id AND p.planned_row_count > p_planned_at_most) THEN
            RETURN;
        END IF;
        PERFORM sync.fail_session(p_push_id, p_user_id, p_source_id);
    END IF;
    v_next := coalesce(v_session.next_source_bundle_id, 1);
    v_row_count := v_session.planned_row_count;
    IF v_session.initialization_id IS NOT NULL OR v_user.state <> 'initialized' THEN
        SELECT u.* INTO v_scope FROM sync.user_state u WHERE u.user_pk = v_user.user_pk;
        IF v_session.initialization_id IS NULL THEN
            PERFORM sync.require_initialized(v_scope, p_user_id);
        END IF;
        PERFORM sync.require_lease(v_scope, p_source_id, v_session.initialization_id, p_lease_ttl);
        UPDATE sync.user_state u SET state = 'initialized', initialization_id = NULL, lease_source_id = NULL, lease_expires_at = NULL WHERE u.user_pk = v_user.user_pk;
    END IF;
    IF v_next = 0 THEN
        PERFORM sync.source_next(v_user.user_pk, p_source_id);
    ELSIF v_next <> v_session.source_bundle_id THEN
        PERFORM sync.fail('OV007', format('source %s must commit source_bundle_id %s next, not %s', p_source_id, v_next, v_session.source_bundle_id),
            jsonb_build_object('expected', v_next, 'actual', v_session.source_bundle_id), 'Take a snapshot with a source replacement.');
    ELSIF v_session.staged_row_count <> v_row_count THEN
        PERFORM sync.fail('OV012', format('%s of %s planned rows are staged', v_session.staged_row_count, v_session.planned_row_count), NULL, 'Upload the remaining chunks.');
    END IF;
    IF v_row_count > 100 THEN
        -- A plan kept from when a table had a few rows must not meet a hundred thousand. What planning costs is nothing beside so many rows.
        PERFORM set_config('plan_cache_mode', 'force_custom_plan', true), set_config('work_mem', '64MB', true);
    END IF;
    IF v_row_count > 1 THEN
        SELECT count(*) INTO v_distinct FROM (SELECT DISTINCT s.table_id, s.key_bytes FROM sync.chunk_rows s WHERE s.push_id = p_push_id) AS d;
        IF v_distinct <> v_row_count THEN
            PERFORM sync.fail('OV012', 'a row is pushed more than once', NULL, 'Push each row once, in its final state.');
        END IF;
    END IF;
    INSERT INTO sync.open_bundles (xid, user_pk, user_id, bundle_seq, source_id, source_bundle_id, push_id, pushed_table_id, is_implicit)
    VALUES (pg_current_xact_id(), v_user.user_pk, p_user_id, v_user.next_bundle_seq, p_source_id, v_session.source_bundle_id, p_push_id, v_session.table_id, false);
    SET CONSTRAINTS ALL DEFERRED;
    IF v_row_count = 1 THEN
        v_effect := sync.push_apply_row(v_session.table_id, v_session.op, v_session.base_row_version, v_session.key_bytes, v_session.payload,
            v_user.user_pk, p_user_id, v_user.next_bundle_seq);
    ELSE
        IF EXISTS (SELECT FROM sync.table_catalog t WHERE t.policy = 'capture' AND t.unregistered_at IS NULL) THEN
            PERFORM sync.give_way();
        END IF;
        BEGIN
            v_effect := sync.push_apply(p_push_id, v_user.user_pk, p_user_id, v_user.next_bundle_seq, v_row_count, false);
        EXCEPTION WHEN OTHERS THEN
            -- A value that moves from one row to another, say, is refused in this order but not in the client's. So is what a trigger
            -- refuses, by whatever code; but a bad value, a wrong statement and a fault of the server stay what they are.
            IF SQLSTATE ~ '^(08|22|40|42|53|55|57|58|F0|OV|XX)' THEN
                RAISE;
            END IF;
            SET CONSTRAINTS ALL DEFERRED;
            v_effect := sync.push_apply(p_push_id, v_user.user_pk, p_user_id, v_user.next_bundle_seq, v_row_count, true);
        END;
    END IF;
    IF v_effect IS NULL THEN
        DELETE FROM sync.bundle_rows r WHERE r.user_pk = v_user.user_pk AND r.bundle_seq = v_user.next_bundle_seq;
        IF v_session.table_id IS NOT NULL THEN
            -- As a chunk for once, since what a push names comes first in its bundle.
            INSERT INTO sync.push_chunks (push_id, start_row_ordinal, table_ids, ops, base_row_versions, keys, payloads)
            VALUES (p_push_id, 0, ARRAY[v_session.table_id], v_session.op, ARRAY[v_session.base_row_version], ARRAY[v_session.key_bytes], ARRAY[v_session.payload]);
        END IF;
        v_row_count := sync.bundle_emit();
        DELETE FROM sync.push_chunks c WHERE c.push_id = p_push_id AND v_session.table_id IS NOT NULL;
    END IF;
    IF v_row_count = 0 THEN
        PERFORM sync.fail('OV012', 'the push has no effect', NULL, 'Nothing that was pushed changed a row; drop it.');
    ELSIF v_row_count > p_max_rows AND p_max_rows > 0 THEN
        PERFORM sync.fail('OV012', format('the bundle has %s rows, more than the %s allowed', v_row_count, p_max_rows), NULL, 'Push fewer rows at a time.');
    END IF;
    bundle_seq := v_user.next_bundle_seq;
    source_bundle_id := v_session.source_bundle_id;
    row_count := v_row_count;
    live_row_delta := v_effect.live_row_delta;
    bytes_before := v_effect.bytes_before;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION sync.push_commit(p_push_id uuid, p_user_id text, p_source_id text, p_max_rows bigint, p_lease_ttl interval, p_planned_at_most bigint) IS 'Judges a staged push, applies it and writes its log; sync.bundle_close then ends it.';
CREATE FUNCTION sync.push_commit_rows(p_push_ids uuid[], p_user_id text, p_source_ids text[]) RETURNS TABLE(bundle_seq bigint, source_bundle_id bigint, live_row_delta bigint, bytes_before bigint)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET "DateStyle" TO 'ISO, MDY'
    SET "IntervalStyle" TO 'postgres'
    SET lc_monetary TO 'C'
    SET extra_float_digits TO '1'
    SET bytea_output TO 'hex'
    SET array_nulls TO 'on'
    SET xmloption TO 'content'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET jit TO 'off'
    AS $_$
DECLARE
    v_user record;
    v_rows record;
    v_group record;
    v_count integer := cardinality(p_push_ids);
    v_ended integer;
    v_applied integer := 0;
    v_row_count integer;
BEGIN
    SELECT u.user_pk, u.state, u.next_bundle_seq INTO v_user FROM sync.user_state u WHERE u.user_id = p_user_id FOR NO KEY UPDATE;
    -- Read once the scope is locked, since sources move on only under that lock.
    SELECT min(r.table_id) AS table_id, count(DISTINCT r.table_id) AS table_count, count(DISTINCT r.key_bytes) AS row_count,
           bool_or(sync.is_conflict(r.op, r.base_row_version, r.newest_bundle_seq, r.newest_op)) AS is_conflict,
           -- Each in order by itself: PostgreSQL may sort what comes in for the DISTINCT above.
           array_agg(r.source_bundle_id ORDER BY r.place) AS source_bundle_ids, array_agg(r.bytes_before ORDER BY r.place) AS bytes_before,
           array_agg(r.table_id ORDER BY r.place) AS table_ids, string_agg(r.op::text, '' ORDER BY r.place) AS ops, array_agg(r.base_row_version ORDER BY r.place) AS base_row_versions,
           array_agg(r.key_bytes ORDER BY r.place) AS keys, array_agg(r.payload ORDER BY r.place) AS payloads
    INTO v_rows
    FROM (
        SELECT m.place, p.source_bundle_id, p.table_id, p.op, p.base_row_version, p.key_bytes, p.payload,
               newest.bundle_seq AS newest_bundle_seq, newest.op AS newest_op, coalesce(newest.payload_bytes, 0)::bigint AS bytes_before
        FROM ROWS FROM (unnest(p_push_ids), unnest(p_source_ids)) WITH ORDINALITY AS m(push_id, source_id, place)
        CROSS JOIN LATERAL (SELECT s.* FROM sync.push_sessions s WHERE s.push_id = m.push_id OFFSET 0) AS p
        LEFT JOIN LATERAL (SELECT x.state, x.last_source_bundle_id FROM sync.source_state x WHERE x.user_pk = p.user_pk AND x.source_id = p.source_id OFFSET 0) AS s ON true
        LEFT JOIN LATERAL (
            SELECT l.bundle_seq, l.op, octet_length(l.payload) AS payload_bytes FROM sync.bundle_rows l
            WHERE l.user_pk = (SELECT v_user.user_pk) AND l.table_id = p.table_id AND l.key_bytes = p.key_bytes
            ORDER BY l.bundle_seq DESC LIMIT 1
        ) AS newest ON true
        WHERE p.user_pk = v_user.user_pk AND p.source_id = m.source_id AND p.expires_at > clock_timestamp() AND p.initialization_id IS NULL
          AND p.planned_row_count = 1 AND p.staged_row_count = 1
          AND p.source_bundle_id = coalesce(s.last_source_bundle_id, 0) + 1 AND s.state IS DISTINCT FROM 'retired'
    ) AS r;
    IF v_user.state IS DISTINCT FROM 'initialized' OR v_rows.row_count <> v_count OR v_rows.table_count <> 1 OR v_rows.is_conflict
       OR NOT sync.rows_are_independent(v_rows.table_id, v_rows.ops) THEN
        RETURN;
    END IF;
    DELETE FROM sync.push_sessions p WHERE p.push_id = ANY (p_push_ids);
    GET DIAGNOSTICS v_ended = ROW_COUNT;
    INSERT INTO sync.push_chunks (push_id, start_row_ordinal, table_ids, ops, base_row_versions, keys, payloads)
    VALUES (p_push_ids[1], 0, v_rows.table_ids, v_rows.ops, v_rows.base_row_versions, v_rows.keys, v_rows.payloads);
    INSERT INTO sync.open_bundles (xid, user_pk, user_id, bundle_seq, source_id, source_bundle_id, push_id, pushed_table_id, is_implicit)
    VALUES (pg_current_xact_id(), v_user.user_pk, p_user_id, v_user.next_bundle_seq, p_source_ids[1], v_rows.source_bundle_ids[1], p_push_ids[1], v_rows.table_id, false);
    SET CONSTRAINTS ALL DEFERRED;
    IF EXISTS (SELECT FROM sync.table_catalog t WHERE t.policy = 'capture' AND t.unregistered_at IS NULL) THEN
        PERFORM sync.give_way();
    END IF;
    FOR v_group IN
        SELECT o.op::"char" AS op, array_agg(o.place::integer - 1 ORDER BY o.place) AS ordinals
        FROM string_to_table(v_rows.ops, NULL) WITH ORDINALITY AS o(op, place) GROUP BY o.op
    LOOP
        EXECUTE format('SELECT sync.apply_%s($1, $2, $3, $4, $5, 0, $6, $7, 1)', v_rows.table_id)
        INTO v_row_count
        USING p_user_id, v_user.user_pk, v_user.next_bundle_seq, v_group.op, p_push_ids[1], v_count - 1, v_group.ordinals;
        v_applied := v_applied + v_row_count;
    END LOOP;
    PERFORM sync.fire_deferred();
    IF v_ended <> v_count OR v_applied <> v_count OR EXISTS (SELECT FROM sync.captured_keys c WHERE c.xid = pg_current_xact_id()) THEN
        RAISE EXCEPTION USING ERRCODE = '40001', MESSAGE = 'these pushes cannot be committed together', HINT = 'Commit each alone.';
    END IF;
    RETURN QUERY
    SELECT v_user.next_bundle_seq + n.place - 1, n.source_bundle_id, CASE n.op WHEN 'I' THEN 1 WHEN 'D' THEN -1 ELSE 0 END::bigint, n.bytes_before
    FROM ROWS FROM (unnest(v_rows.source_bundle_ids), string_to_table(v_rows.ops, NULL), unnest(v_rows.bytes_before)) WITH ORDINALITY AS n(source_bundle_id, op, bytes_before, place);
END
$_$;
COMMENT ON FUNCTION sync.push_commit_rows(p_push_ids uuid[], p_user_id text, p_source_ids text[]) IS 'Commits pushes of one row that are independent of each other, a bundle each; sync.push_close_rows then ends them.';
CREATE FUNCTION sync.push_create(p_user_id text, p_source_id text, p_source_bundle_id bigint, p_planned_row_count bigint, p_initialization_id text, p_session_ttl interval, p_lease_ttl interval) RETURNS TABLE(push_id uuid, bundle_seq bigint, row_count bigint, bundle_hash bytea)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET jit TO 'off'
    AS $$
DECLARE
    -- Losing a session costs a client a retry, never a row: nobody waits for the disk here.
    v_commit text := set_config('synchronous_commit', 'off', true);
    v_user sync.user_state;
    v_found record;
    v_locked uuid;
BEGIN
    LOOP
        -- What decides, in one look.
        SELECT u.user_pk, u.state, u.retained_bundle_floor, s.state AS source_state, coalesce(s.last_source_bundle_id, 0) + 1 AS next_source_bundle_id, p.push_id AS older_push_id
        INTO v_found
        FROM sync.user_state u
        LEFT JOIN sync.source_state s ON s.user_pk = u.user_pk AND s.source_id = p_source_id
        LEFT JOIN sync.push_sessions p ON p.user_pk = u.user_pk AND p.source_id = p_source_id AND p.source_bundle_id = p_source_bundle_id
        WHERE u.user_id = p_user_id;
        IF p_source_bundle_id < v_found.next_source_bundle_id THEN
            -- Committed before that look, so where it is not found it has been pruned.
            SELECT NULL, l.bundle_seq, l.row_count, l.bundle_hash INTO push_id, bundle_seq, row_count, bundle_hash
            FROM sync.bundle_log l
            WHERE l.user_pk = v_found.user_pk AND l.source_id = p_source_id AND l.source_bundle_id = p_source_bundle_id AND l.bundle_seq > v_found.retained_bundle_floor;
            IF FOUND THEN
                PERFORM nextval('sync.push_replay_count');
                RETURN NEXT;
                RETURN;
            END IF;
        END IF;
        EXIT WHEN v_found.older_push_id IS NULL OR v_found.older_push_id = v_locked;
        -- A client whose connection broke comes again while that session may still be committing: wait for it, and see what became of it.
        -- A chunk that is on its way is in by then, and goes with the session. The scope comes first, as in a commit, where its lease is
        -- renewed below; otherwise this does not wait for it, since other sources may hold it for long.
        PERFORM FROM sync.user_state u WHERE u.user_id = p_user_id AND p_initialization_id IS NOT NULL FOR NO KEY UPDATE;
        PERFORM FROM sync.push_sessions s WHERE s.push_id = v_found.older_push_id FOR UPDATE;
        v_locked := v_found.older_push_id;
    END LOOP;
    IF v_found.state IS DISTINCT FROM 'initialized' OR p_initialization_id IS NOT NULL THEN
        -- By what was found: a scope that was made since is not initialized yet for this push.
        SELECT u.* INTO v_user FROM sync.user_state u WHERE u.user_pk = v_found.user_pk;
        PERFORM sync.require_initialization(v_user, p_user_id, p_source_id, p_initialization_id, p_lease_ttl);
    END IF;
    IF v_found.source_state = 'retired' THEN
        PERFORM sync.source_next(v_found.user_pk, p_source_id);
    ELSIF p_source_bundle_id < v_found.next_source_bundle_id THEN
        PERFORM nextval('sync.history_pruned_count');
        PERFORM sync.fail('OV022', format('source_bundle_id %s of source %s was committed and is pruned', p_source_bundle_id, p_source_id),
            jsonb_build_object('source_bundle_id', p_source_bundle_id, 'last_source_bundle_id', v_found.next_source_bundle_id - 1),
            'Take a snapshot with a source replacement.');
    ELSIF p_source_bundle_id > v_found.next_source_bundle_id THEN
        PERFORM sync.fail('OV006', format('source %s must commit source_bundle_id %s next, not %s', p_source_id, v_found.next_source_bundle_id, p_source_bundle_id),
            jsonb_build_object('expected', v_found.next_source_bundle_id, 'actual', p_source_bundle_id), 'Take a snapshot with a source replacement.');
    END IF;
    IF v_found.older_push_id IS NOT NULL THEN
        DELETE FROM sync.push_chunks c WHERE c.push_id = v_found.older_push_id;
    END IF;
    INSERT INTO sync.push_sessions AS s (user_pk, source_id, source_bundle_id, planned_row_count, initialization_id, expires_at)
    VALUES (v_found.user_pk, p_source_id, p_source_bundle_id, p_planned_row_count, p_initialization_id, clock_timestamp() + p_session_ttl)
    ON CONFLICT ON CONSTRAINT one_session_a_bundle DO UPDATE
    SET push_id = excluded.push_id, planned_row_count = excluded.planned_row_count, staged_row_count = 0,
        initialization_id = excluded.initialization_id, expires_at = excluded.expires_at
    RETURNING s.push_id INTO push_id;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION sync.push_create(p_user_id text, p_source_id text, p_source_bundle_id bigint, p_planned_row_count bigint, p_initialization_id text, p_session_ttl interval, p_lease_ttl interval) IS 'Begins a push session, or returns the bundle if it is committed already.';
CREATE FUNCTION sync.push_delete(p_push_id uuid, p_user_id text, p_source_id text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_session sync.push_sessions;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    DELETE FROM sync.push_sessions s WHERE s.push_id = p_push_id RETURNING s.* INTO v_session;
    IF NOT FOUND THEN
        RETURN;
    ELSIF v_session.source_id <> p_source_id OR NOT EXISTS (SELECT FROM sync.user_state u WHERE u.user_pk = v_session.user_pk AND u.user_id = p_user_id) THEN
        PERFORM sync.fail('OV015', format('push session %s belongs to another user or source', p_push_id), NULL, 'Create a session of your own.');
    END IF;
    DELETE FROM sync.push_chunks c WHERE c.push_id = p_push_id;
END
$$;
COMMENT ON FUNCTION sync.push_delete(p_push_id uuid, p_user_id text, p_source_id text) IS 'Ends a push session and its staged rows.';
CREATE FUNCTION sync.push_stage(p_push_id uuid, p_user_id text, p_source_id text, p_start_row_ordinal bigint, p_catalog_version bigint, p_table_ids integer[], p_ops text, p_base_row_versions bigint[], p_keys bytea[], p_payloads text[], p_session_ttl interval, p_lease_ttl interval) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET jit TO 'off'
    AS $$
DECLARE
    v_commit text := set_config('synchronous_commit', 'off', true);
    v_user sync.user_state;
    v_session record;
    v_expected bigint;
BEGIN
    -- Most pushes have one row, which the session itself holds.
    UPDATE sync.push_sessions s
    SET staged_row_count = s.staged_row_count + cardinality(p_table_ids), expires_at = clock_timestamp() + p_session_ttl,
        table_id = CASE WHEN s.planned_row_count = 1 THEN p_table_ids[1] END, op = CASE WHEN s.planned_row_count = 1 THEN p_ops::"char" END,
        base_row_version = CASE WHEN s.planned_row_count = 1 THEN p_base_row_versions[1] END, key_bytes = CASE WHEN s.planned_row_count = 1 THEN p_keys[1] END,
        payload = CASE WHEN s.planned_row_count = 1 THEN p_payloads[1] END
    FROM sync.user_state u
    WHERE s.push_id = p_push_id AND s.source_id = p_source_id AND u.user_pk = s.user_pk AND u.user_id = p_user_id AND s.expires_at > clock_timestamp()
    RETURNING s.user_pk, s.initialization_id, s.planned_row_count, s.staged_row_count AS next_row_ordinal, (SELECT c.version FROM sync.catalog_version c) AS catalog_version INTO v_session;
    IF NOT FOUND THEN
        PERFORM sync.fail_session(p_push_id, p_user_id, p_source_id);
    ELSIF v_session.initialization_id IS NOT NULL THEN
        SELECT u.* INTO v_user FROM sync.user_state u WHERE u.user_pk = v_session.user_pk;
        PERFORM sync.require_lease(v_user, p_source_id, v_session.initialization_id, p_lease_ttl);
    END IF;
    v_expected := v_session.next_row_ordinal - cardinality(p_table_ids);
    IF p_start_row_ordinal <> v_expected THEN
        PERFORM sync.fail('OV011', format('the next chunk of push session %s starts at row %s, not %s', p_push_id, v_expected, p_start_row_ordinal),
            jsonb_build_object('expected', v_expected, 'actual', p_start_row_ordinal));
    ELSIF v_session.next_row_ordinal > v_session.planned_row_count THEN
        PERFORM sync.fail('OV010', format('%s rows are more than the %s planned', v_session.next_row_ordinal, v_session.planned_row_count), NULL, 'Create a session that plans them all.');
    ELSIF v_session.catalog_version <> p_catalog_version THEN
        PERFORM sync.fail('OV021', 'the catalog of tables has changed');
    END IF;
    IF v_session.planned_row_count > 1 THEN
        INSERT INTO sync.push_chunks (push_id, start_row_ordinal, table_ids, ops, base_row_versions, keys, payloads)
        VALUES (p_push_id, p_start_row_ordinal, p_table_ids, p_ops, p_base_row_versions, p_keys, p_payloads);
    END IF;
    RETURN v_session.next_row_ordinal;
END
$$;
COMMENT ON FUNCTION sync.push_stage(p_push_id uuid, p_user_id text, p_source_id text, p_start_row_ordinal bigint, p_catalog_version bigint, p_table_ids integer[], p_ops text, p_base_row_versions bigint[], p_keys bytea[], p_payloads text[], p_session_ttl interval, p_lease_ttl interval) IS 'Adds a chunk of rows to a push session and returns the ordinal of the next row.';
CREATE FUNCTION sync.refresh_table(tbl regclass, adopt text DEFAULT 'auto'::text) RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET quote_all_identifiers TO 'off'
    AS $$
DECLARE
    v_before sync.table_catalog;
    v_table sync.table_catalog;
    v_is_renamed boolean;
    v_problem text;
    v_remedy text;
BEGIN
    PERFORM FROM sync.catalog_version FOR NO KEY UPDATE;
    SELECT t.* INTO v_before FROM sync.table_catalog t WHERE t.relation = tbl AND t.unregistered_at IS NULL;
    IF v_before.table_id IS NULL THEN
        PERFORM sync.fail_not_registered(tbl, 'SELECT sync.refresh_table(%L);');
    END IF;
    v_table := sync.catalog_entry(v_before.table_id);
    SELECT p.problem, p.remedy INTO v_problem, v_remedy FROM sync.registration_problems(tbl, v_table.key_column, v_table.scope_column, v_table.scope_via) p LIMIT 1;
    IF FOUND THEN
        PERFORM sync.fail('OV030', v_problem, NULL, v_remedy);
    END IF;
    SELECT (n.nspname, c.relname, v_table.key_column, k.atttypid::regtype::text) IS DISTINCT FROM (v_before.schema_name::name, v_before.table_name::name, v_before.key_column, v_before.key_type)
    INTO v_is_renamed
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute k ON k.attrelid = c.oid AND k.attname = v_table.key_column
    WHERE c.oid = tbl;
    IF v_is_renamed THEN
        PERFORM sync.unregister_table(tbl);
        -- Another that was renamed may still be registered under the name: tables that swap names give them free for each other.
        PERFORM sync.refresh_table(t.relation, refresh_table.adopt)
        FROM sync.table_catalog t JOIN pg_class c ON c.oid = tbl JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE t.unregistered_at IS NULL AND t.schema_name = n.nspname AND t.table_name = c.relname AND EXISTS (SELECT FROM pg_class o WHERE o.oid = t.relation);
        RETURN sync.register_table(tbl, v_table.key_column, coalesce(v_table.scope_column, '_sync_scope_id'), v_table.policy, v_table.scope_via,
            v_table.scope_is_shown, v_table.on_scope_change, v_table.external_references, refresh_table.adopt);
    END IF;
    -- By name: a column that was dropped and added again has another number.
    UPDATE sync.table_catalog t
    SET relation_oid = tbl, scope_column = v_table.scope_column, scope_via = v_table.scope_via, columns_fingerprint = sync.columns_fingerprint(tbl),
        relnatts = (SELECT c.relnatts FROM pg_class c WHERE c.oid = tbl),
        key_attnum = (SELECT a.attnum FROM pg_attribute a WHERE a.attrelid = tbl AND a.attname = v_table.key_column),
        scope_attnum = (SELECT a.attnum FROM pg_attribute a WHERE a.attrelid = tbl AND a.attname = v_table.scope_column),
        scope_via_attnum = (SELECT a.attnum FROM pg_attribute a WHERE a.attrelid = tbl AND a.attname = v_table.scope_via),
        scope_parent = (SELECT min(k.confrelid) FROM pg_constraint k JOIN pg_attribute a ON a.attrelid = tbl AND a.attname = v_table.scope_via
                        WHERE k.conrelid = tbl AND k.contype = 'f' AND k.conparentid = 0 AND k.conkey = ARRAY[a.attnum] AND k.confrelid <> tbl),
        scope_type = (SELECT a.atttypid::regtype::text FROM pg_attribute a WHERE a.attrelid = tbl AND a.attname = v_table.scope_column)
    WHERE t.table_id = v_table.table_id
    RETURNING t.* INTO v_table;
    PERFORM sync.install_functions(v_table);
    PERFORM sync.install_triggers(v_table.table_id);
    PERFORM sync.catalog_changed(tbl);
    PERFORM sync.adopt_start(v_table.table_id, refresh_table.adopt, 'oversync:refresh');
    RETURN v_table.table_id;
END
$$;
COMMENT ON FUNCTION sync.refresh_table(tbl regclass, adopt text) IS 'After ALTER TABLE: makes the code of a table anew, and enters rows whose wire form changed into the log.';
CREATE FUNCTION sync.refuse_truncate() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = '55000',
        MESSAGE = format('table %I.%I is synced and cannot be truncated', TG_TABLE_SCHEMA, TG_TABLE_NAME),
        HINT = 'Use DELETE, which clients learn of, or sync.unregister_table first.';
END
$$;
COMMENT ON FUNCTION sync.refuse_truncate() IS 'Trigger function: refuses TRUNCATE of a registered table with SQLSTATE 55000.';
CREATE FUNCTION sync.register_anew_statement(p_table sync.table_catalog) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_columns name[] := ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = p_table.relation AND a.attnum > 0 AND NOT a.attisdropped);
    v_key name := p_table.key_column;
    v_scope name := coalesce(p_table.scope_via, p_table.scope_column);
BEGIN
    IF NOT v_scope = ANY (v_columns) THEN
        SELECT min(a.attname) INTO v_scope
        FROM pg_attribute a
        WHERE a.attrelid = p_table.relation AND NOT a.attisdropped
          AND CASE WHEN p_table.scope_via IS NULL
                   THEN EXISTS (SELECT FROM pg_attrdef d WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum AND sync.is_scope_default(pg_get_expr(d.adbin, d.adrelid)))
                   ELSE EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = a.attrelid AND k.contype = 'f' AND k.conparentid = 0 AND k.conkey = ARRAY[a.attnum] AND k.confrelid = p_table.scope_parent) END
        HAVING count(*) = 1;
    END IF;
    IF NOT v_key = ANY (v_columns) THEN
        v_key := sync.default_key(p_table.relation, CASE WHEN p_table.scope_via IS NULL THEN v_scope END);
    END IF;
    RETURN format('SELECT sync.unregister_table(%L), %s; -- or put the column back', p_table.relation, sync.registration_call(p_table, p_table.external_references, v_key, v_scope));
END
$$;
COMMENT ON FUNCTION sync.register_anew_statement(p_table sync.table_catalog) IS 'Statement that registers a table anew which has lost its key or scope column.';
CREATE FUNCTION sync.register_table(tbl regclass, sync_key name DEFAULT NULL::name, scope name DEFAULT '_sync_scope_id'::name, policy text DEFAULT NULL::text, scope_via name DEFAULT NULL::name, show_scope boolean DEFAULT false, on_scope_change text DEFAULT 'refuse'::text, external_references text[] DEFAULT '{}'::text[], adopt text DEFAULT 'auto'::text) RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET quote_all_identifiers TO 'off'
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
COMMENT ON FUNCTION sync.register_table(tbl regclass, sync_key name, scope name, policy text, scope_via name, show_scope boolean, on_scope_change text, external_references text[], adopt text) IS 'Makes a table part of sync: SELECT sync.register_table(''public.todos'', scope => ''owner_id''). Says what to mend when the table cannot be.';
CREATE FUNCTION sync.registered_id(tbl regclass) RETURNS integer
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_table_id integer := (SELECT t.table_id FROM sync.table_catalog t WHERE t.relation = tbl AND t.unregistered_at IS NULL);
BEGIN
    IF v_table_id IS NULL THEN
        PERFORM sync.fail_not_registered(tbl, 'CALL sync.adopt_table(%L);');
    END IF;
    RETURN v_table_id;
END
$$;
COMMENT ON FUNCTION sync.registered_id(tbl regclass) IS 'Id of a registered table; raises OV030 if it is not registered.';
CREATE FUNCTION sync.registration_call(p_table sync.table_catalog, p_external_references text[], p_key name, p_scope name) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT format('sync.register_table(%L, sync_key => %L, %s => %L%s%s, policy => %L%s)', p_table.relation, coalesce(p_key, '...'),
                  CASE WHEN p_table.scope_via IS NULL THEN 'scope' ELSE 'scope_via' END, coalesce(p_scope, '...'),
                  CASE WHEN p_table.scope_is_shown THEN ', show_scope => true' END, CASE WHEN p_table.on_scope_change <> 'refuse' THEN format(', on_scope_change => %L', p_table.on_scope_change) END,
                  p_table.policy, CASE WHEN p_external_references <> '{}' THEN format(', external_references => %L', p_external_references) END)
$$;
COMMENT ON FUNCTION sync.registration_call(p_table sync.table_catalog, p_external_references text[], p_key name, p_scope name) IS 'Call that registers a table as its entry says.';
CREATE FUNCTION sync.registration_problems(p_relation regclass, p_key name, p_scope name, p_scope_via name) RETURNS TABLE(problem text, remedy text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET quote_all_identifiers TO 'off'
    AS $_$
    WITH rel AS (
        SELECT c.oid, c.relname, n.nspname, c.relkind, c.relpersistence, c.relispartition, c.relowner, c.relrowsecurity, c.relforcerowsecurity, format('%I.%I', n.nspname, c.relname) AS full_name
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = p_relation
    ), capturer AS (
        -- The role that what captures runs as: whoever migrated.
        SELECT r.oid, r.rolname, r.rolsuper OR r.rolbypassrls AS bypasses_rls
        FROM pg_proc f JOIN pg_roles r ON r.oid = f.proowner WHERE f.proname = 'capture_commit' AND f.pronamespace = 'sync'::regnamespace
    ), cols AS (
        -- A NOT NULL that is not valid, which PostgreSQL 18 has, says nothing about the rows that are there.
        SELECT a.attname, a.attnum,
               a.attnotnull AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = p_relation AND k.contype = 'n' AND NOT k.convalidated AND k.conkey = ARRAY[a.attnum]) AS attnotnull,
               a.atttypid::regtype::text AS type_name, a.attgenerated, a.attidentity, coalesce(l.collisdeterministic, true) AS is_deterministic
        FROM pg_attribute a LEFT JOIN pg_collation l ON l.oid = a.attcollation
        WHERE a.attrelid = p_relation AND a.attnum > 0 AND NOT a.attisdropped
    ), named AS (SELECT coalesce(p_key, sync.default_key(p_relation, CASE WHEN p_scope_via IS NULL THEN p_scope END)) AS key_name),
    key_col AS (SELECT * FROM cols WHERE attname = (SELECT n.key_name FROM named n)),
    scope_col AS (SELECT * FROM cols WHERE attname = p_scope AND p_scope_via IS NULL),
    via_col AS (SELECT * FROM cols WHERE attname = p_scope_via),
    uniques AS (
        -- As sets of columns: their order does not matter to what is unique.
        SELECT ARRAY(SELECT k.attnum FROM unnest(i.indkey::smallint[]) WITH ORDINALITY AS k(attnum, place) WHERE k.place <= i.indnkeyatts ORDER BY 1) AS attnums
        FROM pg_index i
        WHERE i.indrelid = p_relation AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
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
           CASE WHEN t.table_id IS NOT NULL THEN format('SELECT sync.unregister_table(%L), %s; -- of which it is a part', t.relation,
                     CASE WHEN p.table_id IS NOT NULL THEN format('sync.refresh_table(%L)', p.relation)
                          ELSE (SELECT sync.registration_call(jsonb_populate_record(e, jsonb_build_object('relation', pg_partition_root(r.oid)::oid::text)), e.external_references, e.key_column, coalesce(e.scope_via, e.scope_column))
                                FROM sync.catalog_entry(t.table_id) AS e) END)
                WHEN p.table_id IS NOT NULL THEN format('SELECT sync.refresh_table(%L); -- of which it is a part', p.relation)
                ELSE format('Register its parent: SELECT sync.register_table(%L);', pg_partition_root(r.oid)) END
    FROM rel r
    LEFT JOIN sync.table_catalog t ON t.relation = r.oid AND t.unregistered_at IS NULL
    LEFT JOIN sync.table_catalog p ON p.relation = pg_partition_root(r.oid) AND p.unregistered_at IS NULL
    WHERE r.relispartition
    UNION ALL
    -- Once both are registered, this is said of the part.
    SELECT format('%s, a part of %s, is registered by itself', t.relation, r.full_name), format('SELECT sync.unregister_table(%L);', t.relation)
    FROM rel r CROSS JOIN LATERAL pg_partition_tree(r.oid) AS part JOIN sync.table_catalog t ON t.relation = part.relid AND t.unregistered_at IS NULL
    WHERE r.relkind = 'p' AND part.relid <> r.oid AND NOT EXISTS (SELECT FROM sync.table_catalog o WHERE o.relation = r.oid AND o.unregistered_at IS NULL)
    UNION ALL
    -- It has the triggers still of the table of which it was a part. To replace them would leave its rows with that table's clients.
    SELECT format('%s was detached from %s, whose clients still have its rows', r.full_name, o.relation), format('SELECT sync.refresh_table(%L);', o.relation)
    FROM rel r JOIN sync.table_catalog o ON o.unregistered_at IS NULL AND o.relation <> r.oid JOIN pg_class c ON c.oid = o.relation AND c.relkind = 'p'
    WHERE EXISTS (SELECT FROM pg_trigger g JOIN pg_proc f ON f.oid = g.tgfoid AND f.pronamespace = 'sync'::regnamespace WHERE g.tgrelid = r.oid AND f.proname = 'capture_' || o.table_id)
      AND NOT EXISTS (SELECT FROM pg_partition_tree(o.relation) AS part WHERE part.relid = r.oid)
    UNION ALL
    SELECT format('%s, a part of %s, is unlogged', part.relid, r.full_name), format('ALTER TABLE %s SET LOGGED;', part.relid)
    FROM rel r CROSS JOIN LATERAL pg_partition_tree(r.oid) AS part JOIN pg_class c ON c.oid = part.relid
    WHERE r.relkind = 'p' AND c.relkind = 'r' AND c.relpersistence = 'u'
    UNION ALL
    SELECT format('%s takes part in table inheritance', r.full_name), h.remedy || ' -- or use declarative partitioning'
    FROM rel r CROSS JOIN LATERAL (SELECT string_agg(format('ALTER TABLE %s NO INHERIT %s;', i.inhrelid::regclass, i.inhparent::regclass), ' ' ORDER BY i.inhrelid, i.inhseqno) AS remedy
                                   FROM pg_inherits i WHERE r.oid IN (i.inhparent, i.inhrelid)) AS h
    WHERE NOT r.relispartition AND r.relkind = 'r' AND h.remedy IS NOT NULL
    UNION ALL
    -- What policies hide would be missing, and an update of it would be a delete for clients.
    SELECT format('forced row-level security of %s hides rows from %I, the role that captures', r.full_name, u.rolname), format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY;', r.full_name)
    FROM rel r, capturer u WHERE r.relrowsecurity AND r.relforcerowsecurity AND NOT u.bypasses_rls AND pg_has_role(u.oid, r.relowner, 'USAGE')
    UNION ALL
    SELECT format('row-level security of %s hides rows from %I, the role that captures', r.full_name, u.rolname),
           format('ALTER ROLE %I BYPASSRLS; -- as a superuser; or as one, let it be what owns the table: GRANT %s TO %I;', u.rolname, r.relowner::regrole, u.rolname)
    FROM rel r, capturer u WHERE r.relrowsecurity AND NOT u.bypasses_rls AND NOT pg_has_role(u.oid, r.relowner, 'USAGE')
    UNION ALL
    SELECT format('%I, the role that captures, may not use schema %I', u.rolname, r.nspname), format('GRANT USAGE ON SCHEMA %I TO %I;', r.nspname, u.rolname)
    FROM rel r, capturer u WHERE NOT has_schema_privilege(u.oid, r.nspname, 'USAGE')
    UNION ALL
    SELECT format('%I, the role that captures and applies pushes, may not %s %s', u.rolname, m.missing, r.full_name), format('GRANT %s ON %s TO %I;', m.missing, r.full_name, u.rolname)
    FROM rel r, capturer u
    CROSS JOIN LATERAL (SELECT string_agg(v.privilege, ', ' ORDER BY v.place) AS missing FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) WITH ORDINALITY AS v(privilege, place)
                        WHERE NOT has_table_privilege(u.oid, r.oid, v.privilege)) AS m
    WHERE r.relkind IN ('r', 'p') AND m.missing IS NOT NULL
    UNION ALL
    -- A push that leaves such a column out takes its number: of a default that names a sequence, or of an identity BY DEFAULT. An identity
    -- ALWAYS is PostgreSQL's own affair.
    SELECT format('%I, the role that captures and applies pushes, may not use %s, which numbers a column of %s', u.rolname, q.oid::regclass, r.full_name), format('GRANT USAGE ON SEQUENCE %s TO %I;', q.oid::regclass, u.rolname)
    FROM rel r CROSS JOIN capturer u
    JOIN pg_class q ON CASE q.relkind WHEN 'S' THEN NOT has_sequence_privilege(u.oid, q.oid, 'USAGE, UPDATE') END
     AND (EXISTS (SELECT FROM pg_attrdef f JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid = q.oid WHERE f.adrelid = r.oid)
          OR EXISTS (SELECT FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid AND a.attidentity = 'd'
                     WHERE d.classid = 'pg_class'::regclass AND d.objid = q.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid = r.oid))
    UNION ALL
    SELECT format('the name %I.%I is not made of a-z, 0-9 and _', r.nspname, r.relname),
           CASE WHEN r.nspname !~ '^[a-z0-9_]+$' THEN format('ALTER SCHEMA %I RENAME TO ...;', r.nspname) ELSE format('ALTER TABLE %s RENAME TO ...;', r.full_name) END
    FROM rel r WHERE (r.nspname || r.relname) !~ '^[a-z0-9_]+$'
    UNION ALL
    -- Clients know a table by its name. It may have been that of a table which was renamed since.
    SELECT format('%s is registered under the name %s still', o.relation, r.full_name), format('SELECT sync.refresh_table(%L);', o.relation)
    FROM rel r JOIN sync.table_catalog o ON o.schema_name = r.nspname AND o.table_name = r.relname AND o.unregistered_at IS NULL AND o.relation <> r.oid
    JOIN pg_class c ON c.oid = o.relation
    WHERE NOT EXISTS (SELECT FROM sync.table_catalog t WHERE t.relation = r.oid AND t.unregistered_at IS NULL)
    UNION ALL
    SELECT format('column %I of %s is not made of a-z, 0-9 and _', c.attname, r.full_name), format('ALTER TABLE %s RENAME COLUMN %I TO ...;', r.full_name, c.attname)
    FROM rel r, cols c WHERE c.attname !~ '^[a-z0-9_]+$'
    UNION ALL
    -- A name of nothing in such a column is an error like that of a wrong statement, so it could not be told to the client that sent it.
    SELECT format('column %I of %s has type %s', c.attname, r.full_name, c.type_name), format('ALTER TABLE %s ALTER COLUMN %I TYPE text;', r.full_name, c.attname)
    FROM rel r, cols c WHERE c.type_name ~ '^(aclitem|reg(class|collation|config|dictionary|namespace|oper|operator|proc|procedure|role|type))([[][]])?$'
    UNION ALL
    SELECT CASE WHEN n.key_name IS NULL THEN format('the primary key of %s does not name one key column beside the scope', r.full_name)
                ELSE format('%s has no key column %I', r.full_name, n.key_name) END,
           coalesce((SELECT sync.register_anew_statement(t) FROM sync.table_catalog t WHERE t.relation = r.oid AND t.unregistered_at IS NULL AND t.key_column = p_key),
                    'Name the key column: sync_key => ''...''.')
    FROM rel r CROSS JOIN named n WHERE r.relkind IN ('r', 'p') AND NOT EXISTS (SELECT FROM key_col)
    UNION ALL
    SELECT format('key column %I of %s has type %s', k.attname, r.full_name, k.type_name),
           CASE k.type_name WHEN 'character varying' THEN format('ALTER TABLE %s ALTER COLUMN %I TYPE text;', r.full_name, k.attname)
                            ELSE 'Keys are of type uuid or text' || coalesce(': sync_key => ' || quote_literal(other.attname), '') || '.' END
    FROM rel r CROSS JOIN key_col k
    LEFT JOIN LATERAL (SELECT c.attname FROM cols c JOIN uniques u ON u.attnums = ARRAY[c.attnum]
                       WHERE c.type_name IN ('uuid', 'text') AND c.attnotnull AND c.attgenerated = '' AND c.attname IS DISTINCT FROM coalesce(p_scope_via, p_scope)
                       ORDER BY c.attnum LIMIT 1) AS other ON true
    WHERE k.type_name NOT IN ('uuid', 'text')
    UNION ALL
    SELECT format('key column %I of %s is generated', k.attname, r.full_name), 'Clients choose the key of a new row: make it an ordinary column.'
    FROM rel r, key_col k WHERE k.attgenerated <> ''
    UNION ALL
    SELECT format('key column %I of %s has a nondeterministic collation', k.attname, r.full_name), format('ALTER TABLE %s ALTER COLUMN %I TYPE text COLLATE "C";', r.full_name, k.attname)
    FROM rel r, key_col k WHERE NOT k.is_deterministic
    UNION ALL
    SELECT format('%s has no scope column %s', r.full_name, coalesce(quote_ident(p_scope), '(null)')),
           coalesce((SELECT sync.register_anew_statement(t) FROM sync.table_catalog t WHERE t.relation = r.oid AND t.unregistered_at IS NULL AND t.scope_column = p_scope),
           format('Name the column that says whose row it is: scope => ''...''; or the column that refers to a parent which has one: scope_via => ''...''; or '
                      || CASE WHEN pg_relation_size(r.oid) > 0 OR EXISTS (SELECT FROM pg_partition_tree(r.oid) p WHERE pg_relation_size(p.relid) > 0) -- so there may be rows
                              THEN 'ALTER TABLE %1$s ADD COLUMN %2$I text; UPDATE %1$s SET %2$I = ...; ALTER TABLE %1$s ALTER COLUMN %2$I SET NOT NULL;'
                              ELSE 'ALTER TABLE %1$s ADD COLUMN %2$I text NOT NULL;' END, r.full_name, coalesce(p_scope, '_sync_scope_id')))
    FROM rel r WHERE p_scope_via IS NULL AND r.relkind IN ('r', 'p') AND NOT EXISTS (SELECT FROM scope_col)
    UNION ALL
    SELECT format('scope column %I of %s has type %s', s.attname, r.full_name, s.type_name), 'A scope column is of type text, varchar, uuid, integer or bigint.'
    FROM rel r, scope_col s WHERE s.type_name NOT IN ('text', 'character varying', 'uuid', 'integer', 'bigint')
    UNION ALL
    SELECT format('scope column %I of %s is generated', s.attname, r.full_name), 'A row that a device makes gets the scope of the device: make it an ordinary column.'
    FROM rel r, scope_col s WHERE s.attgenerated <> '' OR s.attidentity <> ''
    UNION ALL
    SELECT format('scope column %I of %s has a nondeterministic collation', s.attname, r.full_name), format('ALTER TABLE %s ALTER COLUMN %I TYPE %s COLLATE "C";', r.full_name, s.attname, s.type_name)
    FROM rel r, scope_col s WHERE NOT s.is_deterministic
    UNION ALL
    SELECT format('%s has no column %I', r.full_name, p_scope_via),
           coalesce((SELECT sync.register_anew_statement(t) FROM sync.table_catalog t WHERE t.relation = r.oid AND t.unregistered_at IS NULL AND t.scope_via = p_scope_via),
                    'Name the column that refers to the parent: scope_via => ''...''.')
    FROM rel r WHERE p_scope_via IS NOT NULL AND NOT EXISTS (SELECT FROM via_col)
    UNION ALL
    SELECT format('column %I of %s does not refer to one other table', v.attname, r.full_name),
           CASE WHEN k.others IS NULL
                THEN format('ALTER TABLE %s ADD FOREIGN KEY (%I) REFERENCES %s DEFERRABLE INITIALLY DEFERRED;', r.full_name, v.attname,
                            -- By a column that is unique by itself, as the primary key need not be: the parent's key, if there are several.
                            coalesce((SELECT format('%s (%I)', p.relation, u.attname)
                                      FROM sync.table_catalog t JOIN sync.table_catalog p ON p.relation = t.scope_parent AND p.unregistered_at IS NULL
                                      CROSS JOIN LATERAL (SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                                                          WHERE i.indrelid = p.relation AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnkeyatts = 1
                                                            AND a.atttypid::regtype::text = v.type_name
                                                          ORDER BY a.attname = p.key_column DESC, i.indisprimary DESC, a.attnum LIMIT 1) AS u
                                      WHERE t.relation = r.oid AND t.unregistered_at IS NULL), '...'))
                ELSE format('ALTER TABLE %s %s; -- so that one is left, this or another', r.full_name, k.others) END
    FROM rel r CROSS JOIN via_col v
    CROSS JOIN LATERAL (
        -- All but one: of a registered table, the oldest that leads where it led. Foreign keys that say the same are as good as one.
        SELECT count(DISTINCT (f.confrelid, f.confkey)) AS targets, string_agg(format('DROP CONSTRAINT %I', f.conname), ', ' ORDER BY f.place) FILTER (WHERE f.place > 1) AS others
        FROM (SELECT k.conname, k.confrelid, k.confkey, row_number() OVER (ORDER BY k.confrelid = t.scope_parent DESC NULLS LAST, k.oid) AS place
              FROM pg_constraint k LEFT JOIN sync.table_catalog t ON t.relation = k.conrelid AND t.unregistered_at IS NULL
              WHERE k.conrelid = p_relation AND k.contype = 'f' AND k.conparentid = 0 AND k.conkey = ARRAY[v.attnum] AND k.confrelid <> k.conrelid) AS f
    ) AS k
    WHERE k.targets <> 1
    UNION ALL
    SELECT format('column %I of %s may be null', c.attname, r.full_name), format('ALTER TABLE %s ALTER COLUMN %I SET NOT NULL;', r.full_name, c.attname)
    FROM rel r, cols c, named n WHERE c.attname IN (n.key_name, coalesce(p_scope_via, p_scope)) AND NOT c.attnotnull
    UNION ALL
    SELECT format('scope and key of %s are the same column %I', r.full_name, n.key_name), 'Name another key column: sync_key => ''...''.'
    FROM rel r, named n WHERE n.key_name = coalesce(p_scope_via, p_scope)
    UNION ALL
    SELECT format('%s has no unique constraint on (%I, %I) or (%I)', r.full_name, s.attname, k.attname, k.attname),
           CASE WHEN EXISTS (SELECT FROM pg_partitioned_table p WHERE p.partrelid = r.oid AND NOT p.partattrs::smallint[] <@ ARRAY[s.attnum, k.attnum])
                THEN format('A unique constraint of a partitioned table includes what it is partitioned by: partition it by %I or %I.', s.attname, k.attname)
                ELSE format('ALTER TABLE %s ADD UNIQUE (%I, %I);', r.full_name, s.attname, k.attname) END
    FROM rel r, key_col k, scope_col s
    WHERE r.relkind IN ('r', 'p') AND NOT EXISTS (
        SELECT FROM uniques u WHERE u.attnums = ARRAY[k.attnum] OR u.attnums = ARRAY[least(k.attnum, s.attnum), greatest(k.attnum, s.attnum)])
    UNION ALL
    SELECT format('%s has no unique constraint on (%I)', r.full_name, k.attname),
           CASE WHEN EXISTS (SELECT FROM pg_partitioned_table p WHERE p.partrelid = r.oid AND NOT p.partattrs::smallint[] <@ ARRAY[k.attnum])
                THEN format('A unique constraint of a partitioned table includes what it is partitioned by: partition it by %I.', k.attname)
                ELSE format('ALTER TABLE %s ADD UNIQUE (%I);', r.full_name, k.attname) END
    FROM rel r, key_col k
    WHERE r.relkind IN ('r', 'p') AND p_scope_via IS NOT NULL AND NOT EXISTS (SELECT FROM uniques u WHERE u.attnums = ARRAY[k.attnum])
$_$;
COMMENT ON FUNCTION sync.registration_problems(p_relation regclass, p_key name, p_scope name, p_scope_via name) IS 'What keeps a table from being registered, and the remedy of each; no row means that it can be.';
CREATE FUNCTION sync.relation_literal(p_relation oid) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT format('%L::pg_catalog.regclass', p_relation)
$$;
COMMENT ON FUNCTION sync.relation_literal(p_relation oid) IS 'How the code made for a table names one by its number.';
CREATE FUNCTION sync.reopen_implicit() RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id() AND b.is_implicit) THEN
        RETURN;
    END IF;
    -- Those of another transaction: of another database, where a dump was restored, whose numbers of transactions come again here.
    DELETE FROM sync.open_bundles b
    WHERE b.xid = pg_current_xact_id() AND b.is_implicit
      AND NOT EXISTS (SELECT FROM sync.bundle_log l WHERE l.user_pk = b.user_pk AND l.bundle_seq = b.bundle_seq AND l.committed_at = now());
    WITH gone AS (
        DELETE FROM sync.bundle_rows r USING sync.open_bundles b
        WHERE b.xid = pg_current_xact_id() AND r.user_pk = b.user_pk AND r.bundle_seq = b.bundle_seq
        RETURNING b.user_id, r.table_id, r.key_bytes, r.row_ordinal
    )
    INSERT INTO sync.captured_keys (xid, table_id, at_commit, keys, scopes)
    SELECT pg_current_xact_id(), g.table_id, false, array_agg(g.key_bytes ORDER BY g.row_ordinal), array_agg(g.user_id ORDER BY g.row_ordinal)
    FROM gone g GROUP BY g.table_id;
    DELETE FROM sync.bundle_log l USING sync.open_bundles b WHERE b.xid = pg_current_xact_id() AND l.user_pk = b.user_pk AND l.bundle_seq = b.bundle_seq;
    UPDATE sync.user_state u
    SET next_bundle_seq = b.bundle_seq, live_row_count = u.live_row_count - b.live_row_delta, live_byte_count = u.live_byte_count - b.live_byte_delta
    FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id() AND u.user_pk = b.user_pk;
    UPDATE sync.source_state s SET last_source_bundle_id = b.source_bundle_id - 1
    FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id() AND s.user_pk = b.user_pk AND s.source_id = b.source_id;
    DELETE FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id();
END
$$;
COMMENT ON FUNCTION sync.reopen_implicit() IS 'Takes back the bundles that this transaction has already made for plain SQL, to make them again with what it wrote since.';
CREATE FUNCTION sync.repair(p_user_id text) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_table_id integer;
    v_hint text;
    v_row_count bigint;
BEGIN
    PERFORM sync.require_latest_rows(format('rows of the scope %L', p_user_id));
    PERFORM sync.finish_captured();
    PERFORM FROM sync.user_state u WHERE u.user_id = p_user_id FOR NO KEY UPDATE;
    FOR v_table_id IN
        SELECT t.table_id FROM sync.table_catalog t
        WHERE t.unregistered_at IS NULL AND EXISTS (SELECT FROM pg_class c WHERE c.oid = t.relation) ORDER BY t.apply_order
    LOOP
        BEGIN
            INSERT INTO sync.captured_keys (xid, table_id, at_commit, keys, scopes)
            SELECT pg_current_xact_id(), v_table_id, false, array_agg(d.key_bytes ORDER BY d.key_bytes), ARRAY[p_user_id]
            FROM sync.differences(v_table_id, p_user_id) AS d
            HAVING count(*) > 0;
        EXCEPTION WHEN SQLSTATE 'OV030' THEN
            GET STACKED DIAGNOSTICS v_hint = PG_EXCEPTION_HINT;
            RAISE WARNING 'passed over: %', SQLERRM USING HINT = v_hint;
        END;
    END LOOP;
    v_row_count := sync.commit_captured('oversync:repair', false, true);
    -- Another repair in the same transaction makes a bundle of its own.
    DELETE FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id() AND b.is_implicit;
    -- Whoever edited the log by hand did not count.
    UPDATE sync.user_state u SET live_row_count = l.row_count, live_byte_count = l.byte_count
    FROM (SELECT count(*) AS row_count, coalesce(sum(octet_length(n.payload)), 0) AS byte_count
          FROM (SELECT DISTINCT ON (r.table_id, r.key_bytes) r.table_id, r.op, r.payload
                FROM sync.bundle_rows r JOIN sync.user_state s ON s.user_pk = r.user_pk
                WHERE s.user_id = p_user_id
                ORDER BY r.table_id, r.key_bytes, r.bundle_seq DESC) AS n
          JOIN sync.table_catalog t ON t.table_id = n.table_id AND t.unregistered_at IS NULL
          WHERE n.op <> 'D') AS l
    WHERE u.user_id = p_user_id AND (u.live_row_count, u.live_byte_count) IS DISTINCT FROM (l.row_count, l.byte_count);
    RETURN v_row_count;
END
$$;
COMMENT ON FUNCTION sync.repair(p_user_id text) IS 'Enters what sync.verify finds for a scope into the log, as one bundle; returns the number of effects.';
CREATE FUNCTION sync.require_canonical() RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_table_ids integer[];
    v_row record;
BEGIN
    -- Most tables have no column that could hold such a number, or nest: those of built-in types do not, but for numeric without a modest
    -- precision, JSON, and what is made of them. Looking at each row costs as much as a third of writing it.
    SELECT array_agg(t.table_id) INTO v_table_ids
    FROM sync.table_catalog t
    WHERE EXISTS (SELECT FROM sync.captured_keys c WHERE c.xid = pg_current_xact_id() AND c.table_id = t.table_id)
      AND EXISTS (SELECT FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
                  WHERE a.attrelid = t.relation AND a.attnum > 0 AND NOT a.attisdropped AND y.typtype <> 'e'
                    AND (y.oid >= 16384 OR y.typtype <> 'b' OR y.typcategory = 'A' OR y.typname IN ('json', 'jsonb')
                         OR y.typname = 'numeric' AND (a.atttypmod < 0 OR (a.atttypmod - 4) >> 16 > 300 OR (a.atttypmod - 4) & 1024 <> 0)));
    IF v_table_ids IS NULL THEN
        RETURN;
    END IF;
    FOR v_row IN
        SELECT t.schema_name, t.table_name, sync.key_text(r.table_id, r.key_bytes) AS key, b.user_id, r.payload,
               format('SELECT * FROM %s WHERE %I = %L; shows it. Store the value as text, or leave the column out of synced tables.', t.relation, (sync.catalog_entry(t.table_id)).key_column,
                      sync.key_text(r.table_id, r.key_bytes)) AS hint,
               regexp_replace(r.payload, E'"(?:[^"\\\\]|\\\\.)*"', '', 'g') AS without_strings
        FROM sync.open_bundles b
        -- Before anything looks at a payload: a plan that did so first would read those of other scopes, which may be as large as they like.
        CROSS JOIN LATERAL (SELECT l.* FROM sync.bundle_rows l WHERE l.user_pk = b.user_pk AND l.bundle_seq = b.bundle_seq OFFSET 0) AS r
        JOIN sync.table_catalog t ON t.table_id = r.table_id
        -- Without so many digits or such an exponent, every number is finite. The cheap looks come first: long repetitions cost a regular
        -- expression ten times what short ones do.
        WHERE b.xid = pg_current_xact_id() AND r.table_id = ANY (v_table_ids)
          AND (CASE WHEN octet_length(r.payload) >= 200 THEN CASE WHEN r.payload ~ '[0-9]{25}' THEN r.payload ~ '[0-9]{200}' END END
               OR CASE WHEN r.payload ~ '[eE][+]?[0-9]{3}' THEN r.payload ~ '[:,[[:space:]]-?[0-9]+([.][0-9]+)?[eE][+]?0*[1-9][0-9]{2}' END
               OR CASE WHEN octet_length(r.payload) > 19980 THEN octet_length(r.payload) - octet_length(replace(replace(r.payload, '[', ''), '{', '')) > 9990 END)
    LOOP
        -- From half way between the greatest double and what would be the next one, numbers round to infinity.
        IF EXISTS (SELECT FROM regexp_matches(v_row.without_strings, '[0-9]+(?:[.][0-9]+)?(?:[eE][+-]?[0-9]+)?', 'g') AS n(value)
                   WHERE n.value[1]::numeric >= power(2::numeric, 1024) - power(2::numeric, 970)) THEN
            RAISE EXCEPTION USING ERRCODE = '22003',
                MESSAGE = format('row %L of %I.%I, in the scope %L, holds a number too large for a double in column %I, which clients cannot read', v_row.key, v_row.schema_name, v_row.table_name, v_row.user_id,
                    (SELECT c.key FROM json_each(v_row.payload::json) AS c
                     CROSS JOIN LATERAL regexp_matches(regexp_replace(c.value::text, E'"(?:[^"\\\\]|\\\\.)*"', '', 'g'), '[0-9]+(?:[.][0-9]+)?(?:[eE][+-]?[0-9]+)?', 'g') AS n(value)
                     WHERE n.value[1]::numeric >= power(2::numeric, 1024) - power(2::numeric, 970) LIMIT 1)),
                HINT = v_row.hint;
        ELSIF 9990 < (SELECT max(d.depth)
                       FROM (SELECT sum(CASE WHEN n.bracket IN ('[', '{') THEN 1 ELSE -1 END) OVER (ORDER BY n.place) AS depth
                             FROM string_to_table(regexp_replace(v_row.without_strings, '[^][{}]+', '', 'g'), NULL) WITH ORDINALITY AS n(bracket, place)) AS d) THEN
            RAISE EXCEPTION USING ERRCODE = '54000',
                MESSAGE = format('row %L of %I.%I, in the scope %L, is nested deeper than 9990 levels, which clients cannot read', v_row.key, v_row.schema_name, v_row.table_name, v_row.user_id),
                HINT = v_row.hint;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION sync.require_canonical() IS 'Refuses rows that have no canonical form: a number without a finite double, or nested too deep.';
CREATE FUNCTION sync.require_columns(p_table sync.table_catalog) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_column name;
BEGIN
    PERFORM sync.require_scope(p_table);
    IF NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = p_table.relation AND a.attname = p_table.key_column AND a.atttypid = p_table.key_type::regtype) THEN
        PERFORM sync.fail('OV030', format('table %s is synced, but its key column %I has another type now', p_table.relation, p_table.key_column), NULL,
            format('SELECT sync.refresh_table(%L);', p_table.relation));
    END IF;
    SELECT a.attname INTO v_column FROM pg_attribute a
    WHERE a.attrelid = p_table.relation AND a.attname IN (p_table.key_column, p_table.scope_column, p_table.scope_via) AND NOT a.attnotnull;
    IF FOUND THEN
        -- A row without one would be nobody's.
        PERFORM sync.fail('OV030', format('table %s is synced, but its column %I may be null now', p_table.relation, v_column), NULL,
            format('ALTER TABLE %s ALTER COLUMN %I SET NOT NULL;', p_table.relation, v_column));
    END IF;
END
$$;
COMMENT ON FUNCTION sync.require_columns(p_table sync.table_catalog) IS 'Refuses writes of a table whose key or scope column was dropped or may be null, or whose key got another type.';
CREATE FUNCTION sync.require_finished() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM sync.open_bundles b WHERE b.xid = NEW.xid AND NOT b.is_implicit) THEN
        RETURN NULL;
    ELSIF NEW.fired_at = statement_timestamp() THEN
        PERFORM sync.fail('OV024', 'the transaction ends with a bundle open', NULL, 'Leave ending the transaction to whoever opened the bundle.');
    END IF;
    SET CONSTRAINTS sync.opened_bundle_is_finished DEFERRED;
    UPDATE sync.open_bundles b SET fired_at = statement_timestamp() WHERE b.xid = NEW.xid AND NOT b.is_implicit;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION sync.require_finished() IS 'Trigger function: keeps a transaction from ending with a bundle open.';
CREATE TABLE sync.user_state (
    user_pk bigint NOT NULL,
    user_id sync.identifier NOT NULL,
    state sync.scope_state DEFAULT 'uninitialized'::text NOT NULL,
    next_bundle_seq bigint DEFAULT 1 NOT NULL,
    retained_bundle_floor bigint DEFAULT 0 NOT NULL,
    live_row_count bigint DEFAULT 0 NOT NULL,
    live_byte_count bigint DEFAULT 0 NOT NULL,
    bundle_byte_count bigint DEFAULT 0 NOT NULL,
    last_bundle_at timestamp with time zone,
    initialization_id uuid,
    lease_source_id text,
    lease_expires_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    pruned_bundle_seq bigint DEFAULT 0 NOT NULL
)
WITH (fillfactor='70');
COMMENT ON TABLE sync.user_state IS 'One row per scope (user). Its row lock is what puts the bundles of one scope in order; scopes never wait for each other.';
COMMENT ON COLUMN sync.user_state.user_pk IS 'Compact internal id of the scope, used by the log.';
COMMENT ON COLUMN sync.user_state.user_id IS 'Scope id: the authenticated user id, and the value of the scope column in synced tables.';
COMMENT ON COLUMN sync.user_state.state IS 'uninitialized (nobody has connected), initializing (one source holds a lease to upload the first rows) or initialized.';
COMMENT ON COLUMN sync.user_state.next_bundle_seq IS 'Sequence number that the next bundle gets; the newest bundle is one below.';
COMMENT ON COLUMN sync.user_state.retained_bundle_floor IS 'Bundles at or below this sequence are no longer served; 0 means that all history is there.';
COMMENT ON COLUMN sync.user_state.live_row_count IS 'Rows that a snapshot at the newest sequence holds.';
COMMENT ON COLUMN sync.user_state.live_byte_count IS 'Bytes of the payloads that a snapshot at the newest sequence holds.';
COMMENT ON COLUMN sync.user_state.bundle_byte_count IS 'Sum of byte_count over the bundles of this scope in sync.bundle_log.';
COMMENT ON COLUMN sync.user_state.last_bundle_at IS 'Start of the transaction that committed the newest bundle.';
COMMENT ON COLUMN sync.user_state.initialization_id IS 'Id of the lease while initializing.';
COMMENT ON COLUMN sync.user_state.lease_source_id IS 'Source that holds the lease while initializing.';
COMMENT ON COLUMN sync.user_state.lease_expires_at IS 'When the lease ends, by the clock of this database.';
COMMENT ON COLUMN sync.user_state.created_at IS 'When the scope was first seen.';
COMMENT ON COLUMN sync.user_state.pruned_bundle_seq IS 'Up to here sync.prune has removed bundles and replaced versions; at most retained_bundle_floor. What the scope held at an earlier sequence can no longer be told.';
CREATE FUNCTION sync.require_initialization(p_user sync.user_state, p_user_id text, p_source_id text, p_initialization_id text, p_lease_ttl interval) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF p_user.state = 'initialized' THEN
        IF p_initialization_id IS NOT NULL THEN
            PERFORM sync.fail('OV009', format('scope %s is initialized, so initialization_id must not be sent', p_user_id), NULL, 'Send the push again without it.');
        END IF;
    ELSIF p_user.state = 'initializing' THEN
        IF p_initialization_id IS NULL THEN
            PERFORM sync.fail('OV009', format('scope %s is being initialized, so initialization_id is required', p_user_id), NULL, 'Call POST /sync/connect and send the id that it gives.');
        ELSIF p_user.initialization_id::text <> lower(p_initialization_id) OR p_user.lease_source_id <> p_source_id THEN
            PERFORM sync.fail('OV003', 'initialization_id is not the one that scope ' || p_user_id || ' waits for', NULL, 'Call POST /sync/connect again.');
        END IF;
        UPDATE sync.user_state u SET lease_expires_at = clock_timestamp() + p_lease_ttl
        WHERE u.user_pk = p_user.user_pk AND u.initialization_id = p_user.initialization_id AND u.lease_expires_at > clock_timestamp();
        IF NOT FOUND THEN
            PERFORM sync.fail('OV004', format('the lease to initialize scope %s has expired', p_user_id), NULL, 'Call POST /sync/connect again.');
        END IF;
    ELSIF p_initialization_id IS NULL THEN
        PERFORM sync.require_initialized(p_user, p_user_id);
    ELSE
        PERFORM sync.fail('OV004', format('scope %s is no longer being initialized', p_user_id), NULL, 'Call POST /sync/connect again.');
    END IF;
END
$$;
COMMENT ON FUNCTION sync.require_initialization(p_user sync.user_state, p_user_id text, p_source_id text, p_initialization_id text, p_lease_ttl interval) IS 'Checks the initialization id of a push step and renews the lease.';
CREATE FUNCTION sync.require_initialized(p_user sync.user_state, p_user_id text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF p_user.state = 'initialized' THEN
        RETURN;
    ELSIF p_user.state = 'initializing' THEN
        PERFORM sync.fail('OV002', format('scope %s is being initialized by another source', p_user_id),
            jsonb_build_object('lease_expires_at', p_user.lease_expires_at), 'Try again when the lease has ended.');
    ELSE
        PERFORM sync.fail('OV001', format('scope %s is not initialized', p_user_id), NULL, 'Call POST /sync/connect first.');
    END IF;
END
$$;
COMMENT ON FUNCTION sync.require_initialized(p_user sync.user_state, p_user_id text) IS 'Raises OV001 or OV002 unless the scope is initialized.';
CREATE FUNCTION sync.require_latest_rows(p_what text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        PERFORM sync.fail('OV030', format('%s cannot enter the log at the isolation level %s, which does not see what is committed meanwhile', p_what, current_setting('transaction_isolation')),
            NULL, 'BEGIN ISOLATION LEVEL READ COMMITTED; then the same again, and COMMIT;');
    END IF;
END
$$;
COMMENT ON FUNCTION sync.require_latest_rows(p_what text) IS 'Refuses to enter rows that were there before into the log in a transaction that does not see what is committed meanwhile.';
CREATE FUNCTION sync.require_latest_table(p_table_id integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_table sync.table_catalog;
    v_columns text[];
    v_is_latest boolean := false;
BEGIN
    BEGIN
        -- Fails if the entry was changed since. To hold the lock would make registrations wait.
        SELECT t.* INTO v_table FROM sync.table_catalog t WHERE t.table_id = p_table_id FOR SHARE;
        RAISE EXCEPTION USING ERRCODE = 'savepoint_exception';
    EXCEPTION WHEN savepoint_exception THEN
        NULL;
    END;
    IF v_table.table_id IS NOT NULL THEN
        -- How PostgreSQL reads a statement does not depend on the snapshot. Nothing is read of the table. Their order tells of two that swapped names.
        EXECUTE format('SELECT array_agg(k.name ORDER BY k.place) FROM (SELECT t.* FROM (SELECT) AS one LEFT JOIN %s AS t ON false) AS r CROSS JOIN LATERAL json_object_keys(row_to_json(r.*)) WITH ORDINALITY AS k(name, place)',
            v_table.relation) INTO v_columns;
        v_is_latest := v_columns IS NOT DISTINCT FROM (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = v_table.relation AND a.attnum > 0 AND NOT a.attisdropped);
    END IF;
    IF v_is_latest THEN
        -- Now that each has its name, what type it has: bytes are written in a way of their own.
        EXECUTE (SELECT format('SELECT ARRAY[%s] = %L FROM (SELECT) AS one LEFT JOIN %s AS t ON false', string_agg(format('pg_typeof(t.%I)::oid', a.attname), ', ' ORDER BY a.attnum), array_agg(a.atttypid ORDER BY a.attnum), v_table.relation)
                 FROM pg_attribute a WHERE a.attrelid = v_table.relation AND a.attnum > 0 AND NOT a.attisdropped) INTO v_is_latest;
    END IF;
    IF NOT v_is_latest THEN
        RAISE EXCEPTION USING ERRCODE = '40001', MESSAGE = 'a table that is written was altered or registered since this transaction took its snapshot', HINT = 'Try the transaction again.';
    END IF;
END
$$;
COMMENT ON FUNCTION sync.require_latest_table(p_table_id integer) IS 'Refuses to capture in a transaction whose snapshot is older than the last change of a table or of its registration.';
CREATE FUNCTION sync.require_lease(p_user sync.user_state, p_source_id text, p_initialization_id text, p_lease_ttl interval) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF p_user.state = 'initialized' THEN
        PERFORM sync.fail('OV003', 'the scope was initialized by another source meanwhile', NULL, 'Call POST /sync/connect again.');
    END IF;
    PERFORM sync.require_initialization(p_user, p_user.user_id, p_source_id, p_initialization_id, p_lease_ttl);
END
$$;
COMMENT ON FUNCTION sync.require_lease(p_user sync.user_state, p_source_id text, p_initialization_id text, p_lease_ttl interval) IS 'Checks and renews the lease under which a push session initializes its scope.';
CREATE FUNCTION sync.require_named(p_table sync.table_catalog, p_payloads text[]) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_column text;
BEGIN
    SELECT k.name INTO v_column
    FROM (SELECT DISTINCT n.name FROM unnest(p_payloads) AS p(payload) CROSS JOIN LATERAL json_object_keys(nullif(p.payload, '')::json) AS n(name)) AS k
    WHERE NOT EXISTS (SELECT FROM sync.table_columns c WHERE c.table_id = p_table.table_id AND c.column_name = k.name) LIMIT 1;
    IF FOUND THEN
        PERFORM sync.fail('OV012', format('table %I.%I has no column %I any more', p_table.schema_name, p_table.table_name, v_column), NULL,
            format('Push without it; the server learns the new columns by SELECT sync.refresh_table(%L);', p_table.relation));
    END IF;
END
$$;
COMMENT ON FUNCTION sync.require_named(p_table sync.table_catalog, p_payloads text[]) IS 'Refuses payloads that name a column which the table has no more.';
CREATE FUNCTION sync.require_scope(p_table sync.table_catalog) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_column name;
BEGIN
    SELECT c.name INTO v_column
    FROM unnest(ARRAY[p_table.key_column, p_table.scope_column, p_table.scope_via]) AS c(name)
    WHERE c.name IS NOT NULL AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = p_table.relation AND a.attname = c.name);
    IF FOUND THEN
        PERFORM sync.fail('OV030', format('table %s is synced, but its column %I was dropped', p_table.relation, v_column), NULL, sync.register_anew_statement(p_table));
    END IF;
END
$$;
COMMENT ON FUNCTION sync.require_scope(p_table sync.table_catalog) IS 'Refuses a table whose key or scope column was dropped.';
CREATE FUNCTION sync.resolve_body(p_table sync.table_catalog) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;
COMMENT ON FUNCTION sync.resolve_body(p_table sync.table_catalog) IS 'Body of the function that finds the scopes of keys.';
CREATE FUNCTION sync.resolve_captured() RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
DECLARE
    v_captured record;
    v_is_found boolean := false;
BEGIN
    FOR v_captured IN
        SELECT c.capture_no, c.table_id, c.keys
        FROM sync.captured_keys c JOIN sync.table_catalog t ON t.table_id = c.table_id
        WHERE c.xid = pg_current_xact_id() AND c.scopes IS NULL AND t.scope_via IS NOT NULL
    LOOP
        EXECUTE format('UPDATE sync.captured_keys c SET keys = coalesce(r.keys, ''{}''), scopes = coalesce(r.scopes, ''{}'')
                        FROM sync.resolve_%s($2) AS r WHERE c.xid = pg_current_xact_id() AND c.capture_no = $1', v_captured.table_id)
        USING v_captured.capture_no, v_captured.keys;
        v_is_found := true;
    END LOOP;
    RETURN v_is_found;
END
$_$;
COMMENT ON FUNCTION sync.resolve_captured() IS 'Finds the scopes of captured keys whose tables have their scope through a parent.';
CREATE FUNCTION sync.resolve_scopes() RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_moved record;
    v_followed jsonb := '{}'; -- how many keys of each table
    v_referred integer[];
    v_adopted integer[];
    v_is_found boolean := false;
BEGIN
    IF EXISTS (SELECT FROM sync.table_catalog t WHERE t.scope_via IS NOT NULL AND t.unregistered_at IS NULL) THEN
        -- A parent that is referred to by another column than its key can be exchanged for another row, of another scope.
        SELECT array_agg(f.parent_table_id) INTO v_referred
        FROM sync.foreign_keys f JOIN sync.table_catalog t ON t.table_id = f.parent_table_id
        WHERE f.parent_columns <> ARRAY[t.key_column] AND NOT coalesce(t.scope_column = ANY (f.parent_columns), false)
          AND EXISTS (SELECT FROM sync.captured_keys c WHERE c.xid = pg_current_xact_id() AND c.table_id = f.parent_table_id);
        -- Where rows still enter the log, it does not say that a row was in another scope. The log of what depends on it does.
        SELECT array_agg(t.table_id) INTO v_adopted FROM sync.adoptions a JOIN sync.table_catalog t ON t.table_id = a.table_id AND t.scope_via IS NOT NULL;
    ELSIF sync.scope_in_bundle() IS NOT NULL THEN
        -- Nothing to find where no table has its scope through a parent, and nothing moved within one scope.
        RETURN false;
    END IF;
    LOOP
        v_is_found := sync.resolve_captured() OR v_is_found;
        -- Again, if rows came along from their own parents since.
        SELECT m.* INTO v_moved FROM sync.moved_keys(v_referred, v_adopted) AS m
        WHERE cardinality(m.keys) > coalesce((v_followed ->> m.table_id::text)::bigint, 0) LIMIT 1;
        EXIT WHEN NOT FOUND;
        v_followed := v_followed || jsonb_build_object(v_moved.table_id, cardinality(v_moved.keys));
        PERFORM sync.follow_moved(v_moved.table_id, v_moved.keys, v_moved.are_moved);
        v_is_found := true;
    END LOOP;
    RETURN v_is_found;
END
$$;
COMMENT ON FUNCTION sync.resolve_scopes() IS 'Finds the scopes of captured keys whose tables have their scope through a parent, and looks after rows that depend on a moved one.';
CREATE FUNCTION sync.resolve_statement(p_table sync.table_catalog) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;
COMMENT ON FUNCTION sync.resolve_statement(p_table sync.table_catalog) IS 'Text of the query that finds the scopes of keys.';
CREATE FUNCTION sync.rows_are_independent(p_table_id integer, p_ops text) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_table sync.table_catalog;
BEGIN
    SELECT t.* INTO v_table FROM sync.table_catalog t
    WHERE t.table_id = p_table_id AND t.unregistered_at IS NULL AND t.scope_via IS NULL AND NOT t.has_to_settle AND t.relation_oid = t.relation;
    RETURN FOUND
        AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = v_table.relation AND c.relrowsecurity)
        AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = v_table.relation AND k.contype = 'f' AND k.confrelid = k.conrelid)
        AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = v_table.relation
                        AND (i.indisexclusion OR i.indisunique AND NOT v_table.key_attnum = ANY ((i.indkey::smallint[])[0:i.indnkeyatts - 1])))
        AND (strpos(p_ops, 'I') = 0 OR sync.nothing_follows(v_table.relation, 'I'))
        AND (strpos(p_ops, 'U') = 0 OR sync.nothing_follows(v_table.relation, 'U'))
        AND (strpos(p_ops, 'D') = 0 OR sync.nothing_follows(v_table.relation, 'D'));
END
$$;
COMMENT ON FUNCTION sync.rows_are_independent(p_table_id integer, p_ops text) IS 'Whether statements on rows of a table that have different keys do the same one after the other and all at once.';
CREATE FUNCTION sync.runs_code(p_relation oid) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    RETURN EXISTS (
        WITH RECURSIVE types AS (
            SELECT a.atttypid AS oid FROM pg_attribute a WHERE a.attrelid = p_relation AND a.attnum > 0 AND NOT a.attisdropped
            UNION
            SELECT part.oid FROM types y JOIN pg_type t ON t.oid = y.oid
            CROSS JOIN LATERAL (SELECT t.typbasetype UNION ALL SELECT t.typelem
                                UNION ALL SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) AS part(oid)
        ), expressions AS (
            SELECT 'pg_attrdef'::regclass AS classid, d.oid FROM pg_attrdef d WHERE d.adrelid = p_relation
            UNION ALL SELECT 'pg_constraint'::regclass, k.oid FROM pg_constraint k WHERE k.conrelid = p_relation AND k.contype = 'c'
            UNION ALL SELECT 'pg_constraint'::regclass, k.oid FROM types y JOIN pg_constraint k ON k.contypid = y.oid
            UNION ALL SELECT 'pg_type'::regclass, t.oid FROM types y JOIN pg_type t ON t.oid = y.oid WHERE t.typtype = 'd'
        )
        SELECT FROM expressions e
        JOIN pg_depend d ON d.classid = e.classid AND d.objid = e.oid
        LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
        JOIN pg_proc f ON f.oid = o.oprcode OR d.refclassid = 'pg_proc'::regclass AND f.oid = d.refobjid
        JOIN pg_language l ON l.oid = f.prolang
        WHERE l.lanname NOT IN ('internal', 'c') AND f.pronamespace <> 'sync'::regnamespace);
END
$$;
COMMENT ON FUNCTION sync.runs_code(p_relation oid) IS 'Whether a default or a check of a table calls a function of the application.';
CREATE FUNCTION sync.scope_condition(p_table sync.table_catalog, p_alias text, p_user_id text, p_is_lookup boolean DEFAULT false) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT format(CASE WHEN p_is_lookup THEN '%s OPERATOR(pg_catalog.=) ANY (ARRAY[%s])' ELSE '%s OPERATOR(pg_catalog.=) %s' END,
        CASE WHEN p_table.scope_via IS NULL THEN format('%s.%I', p_alias, p_table.scope_column) ELSE sync.scope_expression(p_table, p_alias) END,
        CASE WHEN p_table.scope_via IS NULL THEN format('%s::%s', p_user_id, p_table.scope_type) ELSE p_user_id END)
$$;
COMMENT ON FUNCTION sync.scope_condition(p_table sync.table_catalog, p_alias text, p_user_id text, p_is_lookup boolean) IS 'SQL condition that a row belongs to a scope.';
CREATE FUNCTION sync.scope_condition_or_none(p_table sync.table_catalog, p_alias text, p_user_id text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    SELECT CASE WHEN p_table.scope_type IN ('uuid', 'integer', 'bigint')
        THEN format(CASE p_table.scope_type
                        WHEN 'uuid' THEN $f$%1$s.%2$I = CASE WHEN %3$s ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN %3$s::uuid END$f$
                        WHEN 'integer' THEN $f$%1$s.%2$I = CASE WHEN %3$s ~ '^(0|-?[1-9][0-9]{0,9})$' THEN CASE WHEN %3$s::bigint BETWEEN -2147483648 AND 2147483647 THEN %3$s::integer END END$f$
                        ELSE $f$%1$s.%2$I = CASE WHEN %3$s ~ '^(0|-?[1-9][0-9]{0,18})$' THEN CASE WHEN %3$s::numeric BETWEEN -9223372036854775808 AND 9223372036854775807 THEN %3$s::bigint END END$f$ END,
                    p_alias, p_table.scope_column, p_user_id)
        ELSE sync.scope_condition(p_table, p_alias, p_user_id) END
$_$;
COMMENT ON FUNCTION sync.scope_condition_or_none(p_table sync.table_catalog, p_alias text, p_user_id text) IS 'SQL condition that a row belongs to a scope, which the scope column may not be able to hold.';
CREATE FUNCTION sync.scope_expression(p_table sync.table_catalog, p_alias text, p_depth integer DEFAULT 0) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
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
COMMENT ON FUNCTION sync.scope_expression(p_table sync.table_catalog, p_alias text, p_depth integer) IS 'SQL that gives the scope id of a row, through parents if need be.';
CREATE FUNCTION sync.scope_ids() RETURNS SETOF text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_scopes text;
BEGIN
    SELECT string_agg(format('UNION SELECT %s FROM %s AS t', sync.scope_expression(e.entry, 't'), t.relation), ' ') INTO v_scopes
    FROM sync.table_catalog t
    CROSS JOIN LATERAL (SELECT sync.catalog_entry(t.table_id) AS entry OFFSET 0) AS e
    JOIN pg_attribute a ON a.attrelid = t.relation AND a.attname = (e.entry).scope_column
    WHERE t.unregistered_at IS NULL;
    RETURN QUERY EXECUTE 'SELECT u.user_id::text FROM sync.user_state u ' || coalesce(v_scopes, '');
END
$$;
COMMENT ON FUNCTION sync.scope_ids() IS 'Ids of all scopes: those that the log knows, and those that only rows of tables have.';
CREATE FUNCTION sync.scope_in_bundle() RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    RETURN (SELECT b.user_id FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id_if_assigned() AND NOT b.is_implicit);
END
$$;
COMMENT ON FUNCTION sync.scope_in_bundle() IS 'Scope id of the bundle that this transaction has open, or null. Registration makes it the default of scope columns.';
CREATE FUNCTION sync.scope_joins(p_table sync.table_catalog, p_alias text, p_user_id text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_entry sync.table_catalog := p_table;
    v_alias text := p_alias;
    v_joins text := '';
    v_parent_id integer;
    v_parent_column name;
    v_via name;
BEGIN
    FOR v_depth IN 1..33 LOOP
        EXIT WHEN v_entry.scope_via IS NULL;
        SELECT f.parent_table_id, f.parent_column INTO v_parent_id, v_parent_column FROM sync.scope_reference(v_entry) AS f;
        IF NOT FOUND THEN
            PERFORM sync.parent_with_scope(v_entry);
        END IF;
        v_via := v_entry.scope_via;
        v_entry := sync.catalog_entry(v_parent_id);
        v_joins := v_joins || format(' JOIN %s AS p%s ON p%s.%I = %s.%I', v_entry.relation, v_depth, v_depth, v_parent_column, v_alias, v_via);
        v_alias := format('p%s', v_depth);
    END LOOP;
    RETURN v_joins || ' WHERE ' || sync.scope_condition(v_entry, v_alias, p_user_id);
END
$$;
COMMENT ON FUNCTION sync.scope_joins(p_table sync.table_catalog, p_alias text, p_user_id text) IS 'SQL joins and condition that leave only the rows of a scope.';
CREATE FUNCTION sync.scope_loops() RETURNS TABLE(table_id integer, relation regclass)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH RECURSIVE parents AS MATERIALIZED (
        -- As sync.scope_reference has them, of all tables at once: registration asks for each of its writes.
        SELECT DISTINCT ON (t.table_id) t.table_id, p.table_id AS parent_table_id
        FROM sync.table_catalog t
        JOIN pg_attribute a ON a.attrelid = t.relation AND CASE WHEN t.relation_oid = t.relation THEN a.attnum = t.scope_via_attnum ELSE a.attname = t.scope_via END
        JOIN pg_constraint k ON k.conrelid = t.relation AND k.contype = 'f' AND k.conparentid = 0 AND k.conkey = ARRAY[a.attnum] AND k.confrelid <> k.conrelid
        JOIN sync.table_catalog p ON p.relation = k.confrelid AND p.unregistered_at IS NULL
        WHERE t.unregistered_at IS NULL AND t.scope_via IS NOT NULL
        ORDER BY t.table_id, k.confrelid = t.scope_parent DESC NULLS LAST, k.conname
    ), ancestors AS (
        SELECT p.table_id, p.parent_table_id FROM parents p
        UNION
        SELECT a.table_id, p.parent_table_id FROM ancestors a JOIN parents p ON p.table_id = a.parent_table_id
    )
    SELECT t.table_id, t.relation FROM sync.table_catalog t
    WHERE t.table_id IN (SELECT a.table_id FROM ancestors a
                         WHERE a.parent_table_id IN (SELECT o.table_id FROM ancestors o WHERE o.parent_table_id = o.table_id));
END
$$;
COMMENT ON FUNCTION sync.scope_loops() IS 'Registered tables whose scope is found through tables that find theirs through each other.';
CREATE FUNCTION sync.scope_reference(p_table sync.table_catalog) RETURNS TABLE(parent_table_id integer, parent_column name)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT f.parent_table_id, f.parent_columns[1]
    FROM sync.foreign_keys f JOIN sync.table_catalog p ON p.table_id = f.parent_table_id
    WHERE f.table_id = p_table.table_id AND f.columns = ARRAY[p_table.scope_via] AND NOT f.is_self_reference
    ORDER BY p.relation = p_table.scope_parent DESC NULLS LAST, f.constraint_name LIMIT 1
$$;
COMMENT ON FUNCTION sync.scope_reference(p_table sync.table_catalog) IS 'Table and column through which a table finds its scope.';
CREATE FUNCTION sync.set_policy(tbl regclass, policy text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
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
COMMENT ON FUNCTION sync.set_policy(tbl regclass, policy text) IS 'Changes what a write outside a bundle does to a table: reject or capture.';
CREATE FUNCTION sync.settle_body(p_table sync.table_catalog) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;
COMMENT ON FUNCTION sync.settle_body(p_table sync.table_catalog) IS 'Body of the function that checks effects of a table once they are in the log; null where there is nothing to check.';
CREATE FUNCTION sync.settle_statements(p_table sync.table_catalog) RETURNS text[]
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;
COMMENT ON FUNCTION sync.settle_statements(p_table sync.table_catalog) IS 'Statements that check effects of a table once they are in the log.';
CREATE FUNCTION sync.snapshot_create(p_user_id text, p_source_id text, p_ttl interval, p_max_rows bigint, p_max_bytes bigint, p_new_source_id text DEFAULT NULL::text, p_reason text DEFAULT NULL::text) RETURNS TABLE(snapshot_id uuid, snapshot_bundle_seq bigint, row_count bigint, byte_count bigint, expires_at timestamp with time zone)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_user sync.user_state;
BEGIN
    IF p_new_source_id IS NULL THEN
        PERFORM set_config('synchronous_commit', 'off', true);
        SELECT u.* INTO v_user FROM sync.user_state u WHERE u.user_id = p_user_id;
    ELSE
        SELECT u.* INTO v_user FROM sync.user_state u WHERE u.user_id = p_user_id FOR NO KEY UPDATE;
    END IF;
    PERFORM sync.require_initialized(v_user, p_user_id);
    IF p_max_rows > 0 AND v_user.live_row_count > p_max_rows THEN
        PERFORM sync.fail('OV019', format('the snapshot has %s rows, more than the %s allowed', v_user.live_row_count, p_max_rows),
            jsonb_build_object('dimension', 'rows', 'actual', v_user.live_row_count, 'limit', p_max_rows), 'Raise the limit of the server.');
    ELSIF p_max_bytes > 0 AND v_user.live_byte_count > p_max_bytes THEN
        PERFORM sync.fail('OV019', format('the snapshot has %s bytes, more than the %s allowed', v_user.live_byte_count, p_max_bytes),
            jsonb_build_object('dimension', 'bytes', 'actual', v_user.live_byte_count, 'limit', p_max_bytes), 'Raise the limit of the server.');
    END IF;
    IF p_new_source_id IS NOT NULL THEN
        PERFORM sync.source_replace(v_user.user_pk, p_source_id, p_new_source_id, p_reason);
    END IF;
    RETURN QUERY
        INSERT INTO sync.snapshot_sessions AS s (user_pk, source_id, snapshot_bundle_seq, row_count, byte_count, expires_at)
        VALUES (v_user.user_pk, p_source_id, v_user.next_bundle_seq - 1, v_user.live_row_count, v_user.live_byte_count, clock_timestamp() + p_ttl)
        RETURNING s.snapshot_id, s.snapshot_bundle_seq, s.row_count, s.byte_count, s.expires_at;
END
$$;
COMMENT ON FUNCTION sync.snapshot_create(p_user_id text, p_source_id text, p_ttl interval, p_max_rows bigint, p_max_bytes bigint, p_new_source_id text, p_reason text) IS 'Freezes a scope at its newest sequence for a client to read, with or without a source replacement.';
CREATE FUNCTION sync.snapshot_rows(p_user_pk bigint, p_bundle_seq bigint, p_after_table_id integer, p_after_key bytea, p_skip bigint, p_limit bigint) RETURNS TABLE(table_id integer, key_bytes bytea, row_version bigint, payload text)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET jit TO 'off'
    SET enable_sort TO 'off'
    SET enable_hashagg TO 'off'
    AS $$
BEGIN
    RETURN QUERY
    SELECT n.table_id, n.key_bytes, n.bundle_seq, n.payload
    FROM (SELECT DISTINCT ON (r.table_id, r.key_bytes) r.table_id, r.key_bytes, r.bundle_seq, r.op, r.payload
          FROM sync.bundle_rows r
          WHERE r.user_pk = p_user_pk AND r.bundle_seq <= p_bundle_seq AND (r.table_id, r.key_bytes) > (p_after_table_id, p_after_key)
          ORDER BY r.table_id, r.key_bytes, r.bundle_seq DESC) AS n
    WHERE n.op <> 'D' AND n.table_id IN (SELECT t.table_id FROM sync.table_catalog t WHERE t.unregistered_at IS NULL)
    ORDER BY n.table_id, n.key_bytes
    OFFSET p_skip LIMIT p_limit;
END
$$;
COMMENT ON FUNCTION sync.snapshot_rows(p_user_pk bigint, p_bundle_seq bigint, p_after_table_id integer, p_after_key bytea, p_skip bigint, p_limit bigint) IS 'Rows of a scope as they stood at a bundle sequence, in snapshot order, from a position on.';
CREATE FUNCTION sync.source_next(p_user_pk bigint, p_source_id text) RETURNS bigint
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_source sync.source_state;
BEGIN
    SELECT s.* INTO v_source FROM sync.source_state s WHERE s.user_pk = p_user_pk AND s.source_id = p_source_id;
    IF v_source.state = 'retired' THEN
        PERFORM sync.fail('OV008', format('source %s was replaced by %s', p_source_id, v_source.replaced_by_source_id),
            jsonb_build_object('source_id', p_source_id, 'replaced_by_source_id', v_source.replaced_by_source_id),
            'Go on as the replacement source, or take a snapshot with a source replacement.');
    END IF;
    RETURN coalesce(v_source.last_source_bundle_id, 0) + 1;
END
$$;
COMMENT ON FUNCTION sync.source_next(p_user_pk bigint, p_source_id text) IS 'The source_bundle_id that a source must commit next; raises OV008 if the source is retired.';
CREATE FUNCTION sync.source_replace(p_user_pk bigint, p_previous_source_id text, p_new_source_id text, p_reason text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_previous sync.source_state;
    v_new sync.source_state;
BEGIN
    SELECT s.* INTO v_previous FROM sync.source_state s WHERE s.user_pk = p_user_pk AND s.source_id = p_previous_source_id;
    SELECT s.* INTO v_new FROM sync.source_state s WHERE s.user_pk = p_user_pk AND s.source_id = p_new_source_id;
    IF v_previous.state = 'retired' THEN
        IF v_previous.replaced_by_source_id <> p_new_source_id THEN
            PERFORM sync.source_next(p_user_pk, p_previous_source_id);
        ELSIF v_new.state = 'retired' THEN
            PERFORM sync.fail('OV018', format('source %s has itself been replaced since', p_new_source_id), NULL, 'Choose a fresh source id.');
        END IF;
        RETURN;
    ELSIF v_new.source_id IS NOT NULL THEN
        PERFORM sync.fail('OV018', format('source %s is known already', p_new_source_id), NULL, 'Choose a fresh source id.');
    END IF;
    INSERT INTO sync.source_state (user_pk, source_id, state, is_device) VALUES (p_user_pk, p_new_source_id, 'reserved', true);
    INSERT INTO sync.source_state AS s (user_pk, source_id, state, is_device, replaced_by_source_id, replacement_reason)
    VALUES (p_user_pk, p_previous_source_id, 'retired', true, p_new_source_id, p_reason)
    ON CONFLICT ON CONSTRAINT source_state_pkey DO UPDATE
    SET state = excluded.state, is_device = true, replaced_by_source_id = excluded.replaced_by_source_id,
        replacement_reason = excluded.replacement_reason, updated_at = now();
END
$$;
COMMENT ON FUNCTION sync.source_replace(p_user_pk bigint, p_previous_source_id text, p_new_source_id text, p_reason text) IS 'Retires a source in favour of a new one.';
CREATE FUNCTION sync.stale_condition(p_table sync.table_catalog, p_refers boolean) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
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
COMMENT ON FUNCTION sync.stale_condition(p_table sync.table_catalog, p_refers boolean) IS 'SQL condition that the code made for a table no longer fits.';
CREATE FUNCTION sync.stands_alone(p_relation regclass, p_op "char", p_table_id integer) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    RETURN EXISTS (SELECT FROM sync.table_catalog t WHERE t.table_id = p_table_id AND t.relation = p_relation) AND sync.nothing_follows(p_relation, p_op);
END
$$;
COMMENT ON FUNCTION sync.stands_alone(p_relation regclass, p_op "char", p_table_id integer) IS 'Whether a statement on the table can do nothing but write the rows that it names, asked once for each plan.';
CREATE FUNCTION sync.stray_triggers(p_table_id integer) RETURNS TABLE(relation regclass, trigger_name name)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT g.tgrelid::regclass, o.tgname
    FROM pg_trigger g JOIN pg_proc f ON f.oid = g.tgfoid AND f.pronamespace = 'sync'::regnamespace AND f.proname = 'capture_' || p_table_id
    JOIN pg_trigger o ON o.tgrelid = g.tgrelid AND o.tgname IN (g.tgname, 'oversync_refuse_truncate')
    WHERE starts_with(g.tgname, 'oversync_capture_') AND NOT EXISTS (SELECT FROM sync.expected_triggers(p_table_id) e WHERE e.relation = g.tgrelid)
    GROUP BY g.tgrelid, o.tgname
$$;
COMMENT ON FUNCTION sync.stray_triggers(p_table_id integer) IS 'Triggers that partitions kept when they were detached from a registered table.';
CREATE FUNCTION sync.sweep(p_grace interval DEFAULT '00:15:00'::interval, p_max_sessions bigint DEFAULT 1000) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_pushes bigint;
    v_snapshots bigint;
BEGIN
    DELETE FROM sync.push_sessions s
    USING (SELECT e.push_id FROM sync.push_sessions e WHERE e.expires_at <= clock_timestamp() - p_grace
           ORDER BY e.expires_at LIMIT p_max_sessions FOR UPDATE SKIP LOCKED) AS expired
    WHERE s.push_id = expired.push_id;
    GET DIAGNOSTICS v_pushes = ROW_COUNT;
    DELETE FROM sync.snapshot_sessions s
    USING (SELECT e.snapshot_id FROM sync.snapshot_sessions e WHERE e.expires_at <= clock_timestamp() - p_grace
           ORDER BY e.expires_at LIMIT p_max_sessions FOR UPDATE SKIP LOCKED) AS expired
    WHERE s.snapshot_id = expired.snapshot_id;
    GET DIAGNOSTICS v_snapshots = ROW_COUNT;
    -- A chunk or mark is only ever committed after its session, so one without a session is of no use.
    DELETE FROM sync.push_chunks c WHERE NOT EXISTS (SELECT FROM sync.push_sessions s WHERE s.push_id = c.push_id);
    DELETE FROM sync.snapshot_marks m WHERE NOT EXISTS (SELECT FROM sync.snapshot_sessions s WHERE s.snapshot_id = m.snapshot_id);
    -- Rows of a running transaction are visible to that transaction alone.
    DELETE FROM sync.open_bundles b WHERE b.xid IS DISTINCT FROM pg_current_xact_id_if_assigned();
    DELETE FROM sync.captured_keys k WHERE k.xid IS DISTINCT FROM pg_current_xact_id_if_assigned();
    RETURN v_pushes + v_snapshots;
END
$$;
COMMENT ON FUNCTION sync.sweep(p_grace interval, p_max_sessions bigint) IS 'Removes sessions that expired longer ago than the grace given, and leftovers that nothing refers to; returns the number of sessions removed.';
CREATE FUNCTION sync.take_along(p_parent sync.table_catalog, p_child sync.table_catalog, p_rows text, p_keys bytea[], p_are_moved boolean[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
DECLARE
    v_is_adopting boolean := EXISTS (SELECT FROM sync.adoptions a WHERE a.table_id = p_child.table_id);
    v_keys bytea[];
    v_parents bytea[];
BEGIN
    IF v_is_adopting AND current_setting('transaction_isolation') <> 'read committed' THEN
        -- Whoever deletes a row that has not entered the log leaves nothing that this snapshot would run into.
        RAISE EXCEPTION USING ERRCODE = '40001', MESSAGE = format('rows of %I.%I cannot follow a row to another scope while they enter the log, but in a transaction that is READ COMMITTED', p_child.schema_name, p_child.table_name),
            HINT = 'Try the transaction again as READ COMMITTED, or once the rows are in the log: ' || format('CALL sync.adopt_table(%L);', p_child.relation);
    END IF;
    -- Only those that the log has in another scope: a key may be that of another row in each scope, and a row may be back where it was.
    EXECUTE format('SELECT array_agg(%1$s), array_agg(k.key_bytes) %2$s LEFT JOIN sync.row_owners AS o ON o.table_id = $3 AND o.key_bytes = %1$s LEFT JOIN sync.user_state AS u ON u.user_pk = o.user_pk
                    WHERE CASE WHEN u.user_id IS NULL THEN k.is_moved AND $4 ELSE u.user_id <> %3$s COLLATE "C" END',
        sync.key_bytes_expression(p_child, 't'), p_rows, sync.scope_expression(p_parent, 'p')) INTO v_keys, v_parents USING p_keys, p_are_moved, p_child.table_id, v_is_adopting;
    IF v_keys IS NULL THEN
        RETURN;
    ELSIF p_child.on_scope_change = 'refuse' THEN
        PERFORM sync.fail('OV034', format('a row of %I.%I cannot change its scope while rows of %I.%I refer to it', p_parent.schema_name, p_parent.table_name, p_child.schema_name, p_child.table_name),
            NULL, format('Delete or move those rows first; or let them go along: SELECT sync.unregister_table(%L); and register that table anew, with on_scope_change => ''move''.', p_child.relation));
    END IF;
    INSERT INTO sync.captured_keys (xid, table_id, at_commit, keys) VALUES (pg_current_xact_id(), p_child.table_id, false, v_keys);
    IF v_is_adopting THEN
        -- Where rows still enter the log, it does not say whose they were: they were their parents', and so what depends on them moved too.
        INSERT INTO sync.captured_keys (xid, table_id, at_commit, keys, scopes)
        SELECT pg_current_xact_id(), p_child.table_id, false, array_agg(m.key_bytes), array_agg(m.scope)
        FROM (SELECT DISTINCT k.key_bytes, coalesce(s.scope, c.scopes[1]) AS scope
              FROM sync.captured_keys c
              CROSS JOIN LATERAL ROWS FROM (unnest(c.keys), unnest(c.scopes)) AS s(key_bytes, scope)
              JOIN unnest(v_keys, v_parents) AS k(key_bytes, parent_bytes) ON k.parent_bytes = s.key_bytes
              WHERE c.xid = pg_current_xact_id() AND c.table_id = p_parent.table_id AND c.scopes IS NOT NULL) AS m
        HAVING count(*) > 0;
    END IF;
END
$_$;
COMMENT ON FUNCTION sync.take_along(p_parent sync.table_catalog, p_child sync.table_catalog, p_rows text, p_keys bytea[], p_are_moved boolean[]) IS 'Captures the rows that find their scope through moved rows of a parent, or refuses.';
CREATE FUNCTION sync.unadopted_statement(p_table sync.table_catalog) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    SELECT format($f$INSERT INTO sync.captured_keys (xid, table_id, at_commit, keys, scopes)
        SELECT pg_current_xact_id(), %s, false, array_agg(o.key_bytes), array_agg(o.scope)
        FROM (SELECT %s AS key_bytes, %s AS scope FROM old_rows AS n) AS o
        WHERE o.scope IS NOT NULL HAVING count(*) > 0$f$,
        p_table.table_id, sync.key_bytes_expression(p_table, 'n'), sync.scope_expression(p_table, 'n'))
$_$;
COMMENT ON FUNCTION sync.unadopted_statement(p_table sync.table_catalog) IS 'Text of the statement that notes the scopes of old rows while a table is being adopted.';
CREATE FUNCTION sync.unregister_table(tbl regclass) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
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
COMMENT ON FUNCTION sync.unregister_table(tbl regclass) IS 'Takes a table out of sync and leaves it as it was found; history stays readable.';
CREATE FUNCTION sync.verify(p_user_id text) RETURNS TABLE(schema_name text, table_name text, key text, difference text, live_row json, log_row json)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_table sync.table_catalog;
    v_hint text;
BEGIN
    FOR v_table IN
        SELECT t.* FROM sync.table_catalog t
        WHERE t.unregistered_at IS NULL AND EXISTS (SELECT FROM pg_class c WHERE c.oid = t.relation) ORDER BY t.table_id
    LOOP
        BEGIN
            RETURN QUERY
                SELECT v_table.schema_name, v_table.table_name, sync.key_text(v_table.table_id, d.key_bytes), d.difference, d.live_row::json, d.log_row::json
                FROM sync.differences(v_table.table_id, p_user_id) AS d;
        EXCEPTION WHEN SQLSTATE 'OV030' THEN
            GET STACKED DIAGNOSTICS v_hint = PG_EXCEPTION_HINT;
            RETURN QUERY SELECT v_table.schema_name, v_table.table_name, NULL::text, format('cannot be compared: %s. %s', SQLERRM, v_hint), NULL::json, NULL::json;
        END;
    END LOOP;
    RETURN QUERY SELECT 'sync', d.table_name, d.key, d.difference, NULL::json, NULL::json FROM sync.log_damage(p_user_id) AS d;
END
$$;
COMMENT ON FUNCTION sync.verify(p_user_id text) IS 'Compares the live rows of a scope with the log, both ways: SELECT * FROM sync.verify(''user''); no row means that all is well.';
CREATE FUNCTION sync.wire_columns(p_table sync.table_catalog, p_alias text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    RETURN (
        SELECT string_agg(CASE WHEN c.is_bytea THEN format('pg_catalog.translate(pg_catalog.encode(%s.%I, ''base64''), E''\n'', '''') AS %I', p_alias, c.column_name, c.column_name)
                               ELSE format('%s.%I', p_alias, c.column_name) END, ', ' ORDER BY c.column_name COLLATE "C")
        FROM sync.table_columns c WHERE c.table_id = p_table.table_id AND c.is_sent
    );
END
$$;
COMMENT ON FUNCTION sync.wire_columns(p_table sync.table_catalog, p_alias text) IS 'Select list of a row''s columns as they are on the wire.';
CREATE FUNCTION sync.writer_name() RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_name text := nullif(btrim(current_setting('sync.writer_id', true)), '');
BEGIN
    IF v_name IS NULL THEN
        RETURN 'sql:' || coalesce(nullif(current_setting('role'), 'none'), session_user);
    ELSIF octet_length(v_name) > 240 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('sync.writer_id has %s bytes: at most 240 are allowed', octet_length(v_name)),
            HINT = 'Name the writer shortly, as in SET LOCAL sync.writer_id = ''nightly job''.';
    ELSIF NOT sync.is_scope_id(v_name) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('sync.writer_id %L has a control character, or white space at an end', v_name),
            HINT = 'Name the writer in plain words, as in SET LOCAL sync.writer_id = ''nightly job''.';
    END IF;
    RETURN CASE WHEN starts_with(v_name, 'oversync:') THEN 'sql:' || v_name ELSE v_name END;
END
$$;
COMMENT ON FUNCTION sync.writer_name() IS 'Source that plain SQL of this session writes as: sync.writer_id, or sql:<role>.';
CREATE UNLOGGED TABLE sync.adoption_queue (
    table_id integer NOT NULL,
    queue_position bigint NOT NULL,
    scope text NOT NULL,
    keys bytea[] NOT NULL
);
ALTER TABLE ONLY sync.adoption_queue ALTER COLUMN keys SET STORAGE EXTERNAL;
COMMENT ON TABLE sync.adoption_queue IS 'Rows of registered tables that still have to enter the log: a row per scope, or more where a scope has many. Lost in a crash, it is made again from what the log does not have.';
COMMENT ON COLUMN sync.adoption_queue.table_id IS 'Table, see sync.table_catalog.';
COMMENT ON COLUMN sync.adoption_queue.queue_position IS 'Order in which they are taken: how many rows of the table were queued up to these and with them.';
COMMENT ON COLUMN sync.adoption_queue.scope IS 'Scope of the rows when they were queued.';
COMMENT ON COLUMN sync.adoption_queue.keys IS 'Keys of the rows, in order.';
CREATE TABLE sync.adoptions (
    table_id integer NOT NULL,
    source_id text NOT NULL,
    row_count bigint,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    is_prompt boolean DEFAULT false NOT NULL
);
COMMENT ON TABLE sync.adoptions IS 'Tables whose rows are still entering the log. A row goes when the last batch is done.';
COMMENT ON COLUMN sync.adoptions.table_id IS 'Table, see sync.table_catalog.';
COMMENT ON COLUMN sync.adoptions.source_id IS 'Source of the bundles: oversync:adopt, or oversync:refresh after ALTER TABLE.';
COMMENT ON COLUMN sync.adoptions.row_count IS 'Rows that were queued; null until they are.';
COMMENT ON COLUMN sync.adoptions.started_at IS 'When it was asked for.';
COMMENT ON COLUMN sync.adoptions.is_prompt IS 'To be done as soon as the parents that say whose rows these are have been registered.';
CREATE TABLE sync.bundle_log (
    user_pk bigint NOT NULL,
    bundle_seq bigint NOT NULL,
    source_bundle_id bigint NOT NULL,
    row_count bigint NOT NULL,
    byte_count bigint,
    committed_at timestamp with time zone DEFAULT now() NOT NULL,
    source_id text NOT NULL,
    bundle_hash bytea
);
COMMENT ON TABLE sync.bundle_log IS 'One row per bundle: all effects of one committed transaction in one scope. Append-only until retention removes it.';
COMMENT ON COLUMN sync.bundle_log.user_pk IS 'Scope, see sync.user_state.';
COMMENT ON COLUMN sync.bundle_log.bundle_seq IS '1, 2, 3 ... per scope, without gaps, in commit order.';
COMMENT ON COLUMN sync.bundle_log.source_bundle_id IS '1, 2, 3 ... per source: with the source it makes a push idempotent.';
COMMENT ON COLUMN sync.bundle_log.row_count IS 'Effects in the bundle.';
COMMENT ON COLUMN sync.bundle_log.byte_count IS 'Length in bytes of the canonical JSON of the rows; null until a server has sealed a bundle that plain SQL wrote.';
COMMENT ON COLUMN sync.bundle_log.committed_at IS 'Start of the transaction that committed the bundle.';
COMMENT ON COLUMN sync.bundle_log.source_id IS 'Source that wrote it.';
COMMENT ON COLUMN sync.bundle_log.bundle_hash IS 'SHA-256 of the canonical JSON of the rows; null until a server has sealed a bundle that plain SQL wrote.';
CREATE TABLE sync.bundle_rows (
    user_pk bigint NOT NULL,
    bundle_seq bigint NOT NULL,
    row_ordinal integer NOT NULL,
    table_id integer NOT NULL,
    op "char" NOT NULL,
    key_bytes bytea NOT NULL,
    payload text
);
COMMENT ON TABLE sync.bundle_rows IS 'One row per effect of a bundle. The newest entry of a key is the state of that row: its version, whether it is deleted, its content.';
COMMENT ON COLUMN sync.bundle_rows.user_pk IS 'Scope, see sync.user_state.';
COMMENT ON COLUMN sync.bundle_rows.bundle_seq IS 'Bundle that the effect belongs to; on the wire the row_version.';
COMMENT ON COLUMN sync.bundle_rows.row_ordinal IS '0, 1, 2 ... in the order in which clients see the effects.';
COMMENT ON COLUMN sync.bundle_rows.table_id IS 'Table, see sync.table_catalog.';
COMMENT ON COLUMN sync.bundle_rows.op IS 'I insert, U update, D delete.';
COMMENT ON COLUMN sync.bundle_rows.key_bytes IS 'Key of the row: 16 bytes for uuid, UTF-8 for text.';
COMMENT ON COLUMN sync.bundle_rows.payload IS 'The whole row after the change as wire JSON, scope column left out; null for a delete.';
CREATE VIEW sync.bundles AS
 SELECT u.user_id,
    l.bundle_seq,
    l.source_id,
    l.source_bundle_id,
    l.row_count,
    l.byte_count,
    encode(l.bundle_hash, 'hex'::text) AS bundle_hash,
    l.committed_at
   FROM (sync.bundle_log l
     JOIN sync.user_state u ON ((u.user_pk = l.user_pk)));
COMMENT ON VIEW sync.bundles IS 'Bundles: what was committed in each scope, by whom and when.';
COMMENT ON COLUMN sync.bundles.user_id IS 'Scope id.';
COMMENT ON COLUMN sync.bundles.bundle_seq IS 'Place in the history of the scope.';
COMMENT ON COLUMN sync.bundles.source_id IS 'Source that wrote it.';
COMMENT ON COLUMN sync.bundles.source_bundle_id IS 'Number of the bundle within its source.';
COMMENT ON COLUMN sync.bundles.row_count IS 'Effects.';
COMMENT ON COLUMN sync.bundles.byte_count IS 'Bytes of its canonical JSON; null until a server has read it.';
COMMENT ON COLUMN sync.bundles.bundle_hash IS 'SHA-256 of its canonical JSON; null until a server has read it.';
COMMENT ON COLUMN sync.bundles.committed_at IS 'When.';
CREATE UNLOGGED TABLE sync.captured_keys (
    xid xid8 NOT NULL,
    capture_no bigint NOT NULL,
    table_id integer NOT NULL,
    at_commit boolean NOT NULL,
    keys bytea[] NOT NULL,
    scopes text[]
);
ALTER TABLE ONLY sync.captured_keys ALTER COLUMN keys SET STORAGE EXTERNAL;
ALTER TABLE ONLY sync.captured_keys ALTER COLUMN scopes SET STORAGE EXTERNAL;
COMMENT ON TABLE sync.captured_keys IS 'One row per statement that touched a registered table in a running transaction: the keys it touched. Not for the statement of a push of one row from which nothing can follow. The log is made from the live rows of these keys when the bundle is finished, so it holds what the transaction left, whatever triggers did on the way.';
COMMENT ON COLUMN sync.captured_keys.xid IS 'Transaction that touched the keys.';
COMMENT ON COLUMN sync.captured_keys.capture_no IS 'Order in which statements were captured.';
COMMENT ON COLUMN sync.captured_keys.table_id IS 'Table, see sync.table_catalog.';
COMMENT ON COLUMN sync.captured_keys.at_commit IS 'Written outside a bundle: becomes one when the transaction commits.';
COMMENT ON COLUMN sync.captured_keys.keys IS 'Keys touched, in the order of the statement.';
COMMENT ON COLUMN sync.captured_keys.scopes IS 'Scope of each key; a single one is that of all keys. Null: the scope of the open bundle, or still to be found through a parent.';
ALTER TABLE sync.captured_keys ALTER COLUMN capture_no ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME sync.captured_keys_capture_no_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
COMMENT ON SEQUENCE sync.captured_keys_capture_no_seq IS 'Numbers captured statements.';
CREATE TABLE sync.catalog_version (
    only_row boolean DEFAULT true NOT NULL,
    version bigint NOT NULL,
    CONSTRAINT has_one_row CHECK (only_row)
);
COMMENT ON TABLE sync.catalog_version IS 'One row, raised by each change of the catalog: servers notice by it that what they remember of tables is old.';
COMMENT ON COLUMN sync.catalog_version.only_row IS 'Always true: keeps this table at one row.';
COMMENT ON COLUMN sync.catalog_version.version IS 'Number of the catalog''s present content.';
CREATE UNLOGGED TABLE sync.push_chunks (
    push_id uuid NOT NULL,
    start_row_ordinal integer NOT NULL,
    table_ids integer[] NOT NULL,
    ops text NOT NULL,
    base_row_versions bigint[] NOT NULL,
    keys bytea[] NOT NULL,
    payloads text[] NOT NULL
);
ALTER TABLE ONLY sync.push_chunks ALTER COLUMN table_ids SET STORAGE EXTERNAL;
ALTER TABLE ONLY sync.push_chunks ALTER COLUMN ops SET STORAGE EXTERNAL;
ALTER TABLE ONLY sync.push_chunks ALTER COLUMN base_row_versions SET STORAGE EXTERNAL;
ALTER TABLE ONLY sync.push_chunks ALTER COLUMN keys SET STORAGE EXTERNAL;
ALTER TABLE ONLY sync.push_chunks ALTER COLUMN payloads SET STORAGE EXTERNAL;
COMMENT ON TABLE sync.push_chunks IS 'Staged rows of pushes of more than one, a row per chunk, as arrays that go together; sync.chunk_rows shows them row by row.';
COMMENT ON COLUMN sync.push_chunks.push_id IS 'Session, see sync.push_sessions.';
COMMENT ON COLUMN sync.push_chunks.start_row_ordinal IS 'Ordinal of the first row of the chunk.';
COMMENT ON COLUMN sync.push_chunks.table_ids IS 'Table of each row.';
COMMENT ON COLUMN sync.push_chunks.ops IS 'Operation of each row, a letter each: I, U or D.';
COMMENT ON COLUMN sync.push_chunks.base_row_versions IS 'Version that the client last saw of each row.';
COMMENT ON COLUMN sync.push_chunks.keys IS 'Key of each row.';
COMMENT ON COLUMN sync.push_chunks.payloads IS 'Payload of each row as JSON that json_populate_record reads; empty for a delete.';
CREATE VIEW sync.chunk_rows AS
 SELECT c.push_id,
    ((c.start_row_ordinal + (r.place)::integer) - 1) AS row_ordinal,
    r.table_id,
    (r.op)::"char" AS op,
    r.base_row_version,
    r.key_bytes,
    r.payload
   FROM (sync.push_chunks c
     CROSS JOIN LATERAL ROWS FROM(unnest(c.table_ids), string_to_table(c.ops, NULL::text), unnest(c.base_row_versions), unnest(c.keys), unnest(c.payloads)) WITH ORDINALITY r(table_id, op, base_row_version, key_bytes, payload, place));
COMMENT ON VIEW sync.chunk_rows IS 'Staged rows of pushes of more than one, row by row. To look at what is staged: sync.staged_rows.';
COMMENT ON COLUMN sync.chunk_rows.push_id IS 'Session, see sync.push_sessions.';
COMMENT ON COLUMN sync.chunk_rows.row_ordinal IS 'Place in the push, from 0.';
COMMENT ON COLUMN sync.chunk_rows.table_id IS 'Table, see sync.table_catalog.';
COMMENT ON COLUMN sync.chunk_rows.op IS 'I insert, U update, D delete.';
COMMENT ON COLUMN sync.chunk_rows.base_row_version IS 'Version that the client last saw.';
COMMENT ON COLUMN sync.chunk_rows.key_bytes IS 'Key, see sync.bundle_rows.';
COMMENT ON COLUMN sync.chunk_rows.payload IS 'Payload as JSON; empty for a delete.';
CREATE VIEW sync.foreign_keys AS
 SELECT k.conname AS constraint_name,
    t.table_id,
    t.schema_name,
    t.table_name,
    p.table_id AS parent_table_id,
    pn.nspname AS parent_schema,
    pc.relname AS parent_table,
    ( SELECT array_agg(a.attname ORDER BY c.place) AS array_agg
           FROM (unnest(k.conkey) WITH ORDINALITY c(attnum, place)
             JOIN pg_attribute a ON (((a.attrelid = k.conrelid) AND (a.attnum = c.attnum))))) AS columns,
    ( SELECT array_agg(a.attname ORDER BY c.place) AS array_agg
           FROM (unnest(k.confkey) WITH ORDINALITY c(attnum, place)
             JOIN pg_attribute a ON (((a.attrelid = k.confrelid) AND (a.attnum = c.attnum))))) AS parent_columns,
        CASE k.confmatchtype
            WHEN 's'::"char" THEN 'SIMPLE'::text
            WHEN 'f'::"char" THEN 'FULL'::text
            ELSE 'PARTIAL'::text
        END AS match_option,
        CASE k.confdeltype
            WHEN 'a'::"char" THEN 'NO ACTION'::text
            WHEN 'r'::"char" THEN 'RESTRICT'::text
            WHEN 'c'::"char" THEN 'CASCADE'::text
            WHEN 'n'::"char" THEN 'SET NULL'::text
            ELSE 'SET DEFAULT'::text
        END AS on_delete,
        CASE k.confupdtype
            WHEN 'a'::"char" THEN 'NO ACTION'::text
            WHEN 'r'::"char" THEN 'RESTRICT'::text
            WHEN 'c'::"char" THEN 'CASCADE'::text
            WHEN 'n'::"char" THEN 'SET NULL'::text
            ELSE 'SET DEFAULT'::text
        END AS on_update,
    k.condeferrable AS is_deferrable,
    (k.conrelid = k.confrelid) AS is_self_reference
   FROM ((((sync.table_catalog t
     JOIN pg_constraint k ON (((k.conrelid = (t.relation)::oid) AND (k.contype = 'f'::"char") AND (k.conparentid = (0)::oid))))
     JOIN pg_class pc ON ((pc.oid = k.confrelid)))
     JOIN pg_namespace pn ON ((pn.oid = pc.relnamespace)))
     LEFT JOIN sync.table_catalog p ON ((((p.relation)::oid = k.confrelid) AND (p.unregistered_at IS NULL))))
  WHERE (t.unregistered_at IS NULL);
COMMENT ON VIEW sync.foreign_keys IS 'Foreign keys of registered tables as they are now; parent_table_id is null where the parent is not registered.';
COMMENT ON COLUMN sync.foreign_keys.constraint_name IS 'Name of the constraint.';
COMMENT ON COLUMN sync.foreign_keys.table_id IS 'Table that refers.';
COMMENT ON COLUMN sync.foreign_keys.schema_name IS 'Schema of the table that refers.';
COMMENT ON COLUMN sync.foreign_keys.table_name IS 'Table that refers.';
COMMENT ON COLUMN sync.foreign_keys.parent_table_id IS 'Table referred to; null if it is not registered.';
COMMENT ON COLUMN sync.foreign_keys.parent_schema IS 'Schema of the table referred to.';
COMMENT ON COLUMN sync.foreign_keys.parent_table IS 'Table referred to.';
COMMENT ON COLUMN sync.foreign_keys.columns IS 'Referring columns, in the order of the constraint.';
COMMENT ON COLUMN sync.foreign_keys.parent_columns IS 'Columns referred to, in the same order.';
COMMENT ON COLUMN sync.foreign_keys.match_option IS 'SIMPLE, FULL or PARTIAL.';
COMMENT ON COLUMN sync.foreign_keys.on_delete IS 'What a deleted parent does.';
COMMENT ON COLUMN sync.foreign_keys.on_update IS 'What a changed parent key does.';
COMMENT ON COLUMN sync.foreign_keys.is_deferrable IS 'Whether the check can wait for the end of a bundle.';
COMMENT ON COLUMN sync.foreign_keys.is_self_reference IS 'Whether a table refers to itself.';
CREATE SEQUENCE sync.history_pruned_count
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
COMMENT ON SEQUENCE sync.history_pruned_count IS 'Counts answers history_pruned.';
CREATE UNLOGGED TABLE sync.open_bundles (
    xid xid8 NOT NULL,
    user_pk bigint NOT NULL,
    bundle_seq bigint NOT NULL,
    source_bundle_id bigint NOT NULL,
    row_count bigint DEFAULT 0 NOT NULL,
    live_row_delta bigint DEFAULT 0 NOT NULL,
    live_byte_delta bigint DEFAULT 0 NOT NULL,
    push_id uuid,
    pushed_table_id integer,
    is_implicit boolean NOT NULL,
    user_id text NOT NULL,
    source_id text NOT NULL,
    fired_at timestamp with time zone
)
WITH (fillfactor='70');
COMMENT ON TABLE sync.open_bundles IS 'The bundles that a running transaction is writing: one that was opened, or one per scope that plain SQL touched. Capture believes this table and no setting, so that nobody can write into another scope by forging one.';
COMMENT ON COLUMN sync.open_bundles.xid IS 'Transaction that writes the bundle.';
COMMENT ON COLUMN sync.open_bundles.user_pk IS 'Scope, see sync.user_state; its row is locked by the transaction.';
COMMENT ON COLUMN sync.open_bundles.bundle_seq IS 'Sequence that the bundle will have.';
COMMENT ON COLUMN sync.open_bundles.source_bundle_id IS 'Number of the bundle within its source.';
COMMENT ON COLUMN sync.open_bundles.row_count IS 'Effects that the emission has entered in the log; 0 for a push whose rows are logged as they are applied, which passes the number on.';
COMMENT ON COLUMN sync.open_bundles.live_row_delta IS 'How many more live rows the scope has after the bundle; noted as row_count is.';
COMMENT ON COLUMN sync.open_bundles.live_byte_delta IS 'How many more payload bytes the live rows of the scope have after the bundle; noted as row_count is.';
COMMENT ON COLUMN sync.open_bundles.push_id IS 'Push session that is being committed; null for server-side writes.';
COMMENT ON COLUMN sync.open_bundles.pushed_table_id IS 'Table of the row, for a push that has only one, and for several such: the statement that applies it need not be noted where it can do nothing else, see sync.stands_alone.';
COMMENT ON COLUMN sync.open_bundles.is_implicit IS 'Made at commit for what plain SQL wrote, rather than opened beforehand. Kept when the bundle is entered, in case the transaction writes more; sync.sweep removes it later.';
COMMENT ON COLUMN sync.open_bundles.user_id IS 'Scope id that every written row must carry.';
COMMENT ON COLUMN sync.open_bundles.source_id IS 'Source that writes.';
COMMENT ON COLUMN sync.open_bundles.fired_at IS 'Statement in which sync.require_finished last looked at an opened bundle.';
CREATE SEQUENCE sync.push_replay_count
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
COMMENT ON SEQUENCE sync.push_replay_count IS 'Counts pushes answered with the bundle that they had already committed.';
CREATE UNLOGGED TABLE sync.push_sessions (
    push_id uuid DEFAULT gen_random_uuid() NOT NULL,
    user_pk bigint NOT NULL,
    source_bundle_id bigint NOT NULL,
    planned_row_count bigint NOT NULL,
    staged_row_count bigint DEFAULT 0 NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    table_id integer,
    op "char",
    base_row_version bigint,
    source_id text NOT NULL,
    initialization_id text,
    key_bytes bytea,
    payload text
)
WITH (fillfactor='70');
ALTER TABLE ONLY sync.push_sessions ALTER COLUMN key_bytes SET STORAGE EXTERNAL;
ALTER TABLE ONLY sync.push_sessions ALTER COLUMN payload SET STORAGE EXTERNAL;
COMMENT ON TABLE sync.push_sessions IS 'Pushes that are being staged. A session goes when it is committed, deleted, replaced or expired.';
COMMENT ON COLUMN sync.push_sessions.push_id IS 'Id that the client uses.';
COMMENT ON COLUMN sync.push_sessions.user_pk IS 'Scope, see sync.user_state.';
COMMENT ON COLUMN sync.push_sessions.source_bundle_id IS 'Number that the bundle will have within its source.';
COMMENT ON COLUMN sync.push_sessions.planned_row_count IS 'Rows that the client said it would push.';
COMMENT ON COLUMN sync.push_sessions.staged_row_count IS 'Rows staged so far; the next chunk must start at this ordinal.';
COMMENT ON COLUMN sync.push_sessions.expires_at IS 'When the session ends unless another chunk comes.';
COMMENT ON COLUMN sync.push_sessions.table_id IS 'For a push that has only one row, the row: its table. The rows of other pushes are in sync.push_chunks.';
COMMENT ON COLUMN sync.push_sessions.op IS 'Operation of the only row: I, U or D.';
COMMENT ON COLUMN sync.push_sessions.base_row_version IS 'Version that the client last saw of the only row.';
COMMENT ON COLUMN sync.push_sessions.source_id IS 'Source that pushes.';
COMMENT ON COLUMN sync.push_sessions.initialization_id IS 'Lease under which a first push initializes its scope.';
COMMENT ON COLUMN sync.push_sessions.key_bytes IS 'Key of the only row.';
COMMENT ON COLUMN sync.push_sessions.payload IS 'Payload of the only row, as JSON that json_populate_record reads; empty for a delete.';
CREATE SEQUENCE sync.rejected_write_count
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
COMMENT ON SEQUENCE sync.rejected_write_count IS 'Counts statements refused because they wrote a registered table outside a bundle.';
CREATE TABLE sync.row_owners (
    table_id integer NOT NULL,
    user_pk bigint NOT NULL,
    key_bytes bytea NOT NULL
);
COMMENT ON TABLE sync.row_owners IS 'Whose row the log has live, for tables that find their scope through a parent: when a row is deleted, its parent may be gone already.';
COMMENT ON COLUMN sync.row_owners.table_id IS 'Table, see sync.table_catalog.';
COMMENT ON COLUMN sync.row_owners.user_pk IS 'Scope that has the row live in the log.';
COMMENT ON COLUMN sync.row_owners.key_bytes IS 'Key of the row.';
CREATE VIEW sync.rows AS
 SELECT u.user_id,
    r.bundle_seq,
    r.row_ordinal,
    t.schema_name,
    t.table_name,
    sync.key_text(r.table_id, r.key_bytes) AS key,
        CASE r.op
            WHEN 'I'::"char" THEN 'INSERT'::text
            WHEN 'U'::"char" THEN 'UPDATE'::text
            ELSE 'DELETE'::text
        END AS op,
    (r.payload)::json AS payload,
    l.source_id,
    l.committed_at
   FROM (((sync.bundle_rows r
     JOIN sync.user_state u ON ((u.user_pk = r.user_pk)))
     JOIN sync.table_catalog t ON ((t.table_id = r.table_id)))
     LEFT JOIN sync.bundle_log l ON (((l.user_pk = r.user_pk) AND (l.bundle_seq = r.bundle_seq))));
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
CREATE VIEW sync.scopes AS
 SELECT u.user_id,
    u.state,
    (u.next_bundle_seq - 1) AS newest_bundle_seq,
    u.retained_bundle_floor,
    u.live_row_count AS live_rows,
    u.live_byte_count AS live_bytes,
    u.last_bundle_at,
    u.lease_source_id,
    u.lease_expires_at,
    u.created_at
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
CREATE UNLOGGED TABLE sync.snapshot_marks (
    snapshot_id uuid NOT NULL,
    row_ordinal bigint NOT NULL,
    table_id integer NOT NULL,
    key_bytes bytea NOT NULL
);
COMMENT ON TABLE sync.snapshot_marks IS 'Where chunks of a snapshot ended, so that the next one starts there at once. Lost marks only cost time.';
COMMENT ON COLUMN sync.snapshot_marks.snapshot_id IS 'Snapshot, see sync.snapshot_sessions.';
COMMENT ON COLUMN sync.snapshot_marks.row_ordinal IS 'Rows of the snapshot up to here.';
COMMENT ON COLUMN sync.snapshot_marks.table_id IS 'Table of the row at this ordinal.';
COMMENT ON COLUMN sync.snapshot_marks.key_bytes IS 'Key of the row at this ordinal.';
CREATE TABLE sync.snapshot_sessions (
    snapshot_id uuid DEFAULT gen_random_uuid() NOT NULL,
    user_pk bigint NOT NULL,
    snapshot_bundle_seq bigint NOT NULL,
    row_count bigint NOT NULL,
    byte_count bigint NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    source_id text NOT NULL
);
COMMENT ON TABLE sync.snapshot_sessions IS 'Snapshots that clients are reading: the scope frozen at a bundle sequence. Retention leaves what they can still see.';
COMMENT ON COLUMN sync.snapshot_sessions.snapshot_id IS 'Id that the client uses.';
COMMENT ON COLUMN sync.snapshot_sessions.user_pk IS 'Scope, see sync.user_state.';
COMMENT ON COLUMN sync.snapshot_sessions.snapshot_bundle_seq IS 'Sequence at which the scope is frozen.';
COMMENT ON COLUMN sync.snapshot_sessions.row_count IS 'Live rows at that sequence.';
COMMENT ON COLUMN sync.snapshot_sessions.byte_count IS 'Bytes of their payloads.';
COMMENT ON COLUMN sync.snapshot_sessions.created_at IS 'When it was made.';
COMMENT ON COLUMN sync.snapshot_sessions.expires_at IS 'When it ends.';
COMMENT ON COLUMN sync.snapshot_sessions.source_id IS 'Source that asked for it.';
CREATE VIEW sync.sessions AS
 SELECT 'push'::text AS kind,
    u.user_id,
    p.source_id,
    p.staged_row_count AS rows_done,
    p.planned_row_count AS row_count,
    p.expires_at
   FROM (sync.push_sessions p
     JOIN sync.user_state u ON ((u.user_pk = p.user_pk)))
UNION ALL
 SELECT 'snapshot'::text AS kind,
    u.user_id,
    s.source_id,
    COALESCE(( SELECT max(m.row_ordinal) AS max
           FROM sync.snapshot_marks m
          WHERE (m.snapshot_id = s.snapshot_id)), (0)::bigint) AS rows_done,
    s.row_count,
    s.expires_at
   FROM (sync.snapshot_sessions s
     JOIN sync.user_state u ON ((u.user_pk = s.user_pk)));
COMMENT ON VIEW sync.sessions IS 'Pushes being staged and snapshots being read.';
COMMENT ON COLUMN sync.sessions.kind IS 'push or snapshot.';
COMMENT ON COLUMN sync.sessions.user_id IS 'Scope id.';
COMMENT ON COLUMN sync.sessions.source_id IS 'Source.';
COMMENT ON COLUMN sync.sessions.rows_done IS 'Rows staged, or read as far as is known.';
COMMENT ON COLUMN sync.sessions.row_count IS 'Rows in all.';
COMMENT ON COLUMN sync.sessions.expires_at IS 'When it ends.';
CREATE TABLE sync.source_state (
    user_pk bigint NOT NULL,
    source_id sync.identifier NOT NULL,
    state sync.source_status DEFAULT 'active'::text NOT NULL,
    last_source_bundle_id bigint DEFAULT 0 NOT NULL,
    is_device boolean DEFAULT false NOT NULL,
    replaced_by_source_id text,
    replacement_reason text,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
)
WITH (fillfactor='70');
COMMENT ON TABLE sync.source_state IS 'One row per source (device or server-side writer) of a scope that has committed or was announced.';
COMMENT ON COLUMN sync.source_state.user_pk IS 'Scope, see sync.user_state.';
COMMENT ON COLUMN sync.source_state.source_id IS 'Name that the writer chose for itself.';
COMMENT ON COLUMN sync.source_state.state IS 'active, reserved (announced as a replacement, nothing committed yet) or retired (replaced by another source).';
COMMENT ON COLUMN sync.source_state.last_source_bundle_id IS 'Highest source_bundle_id committed; the next push must carry the one after it.';
COMMENT ON COLUMN sync.source_state.is_device IS 'Whether it has pushed or was replaced through the API. Plain SQL that takes its name writes as sql:<name> instead.';
COMMENT ON COLUMN sync.source_state.replaced_by_source_id IS 'Source that took over from a retired one.';
COMMENT ON COLUMN sync.source_state.replacement_reason IS 'Why it was retired, as its client said.';
COMMENT ON COLUMN sync.source_state.updated_at IS 'When this row last changed.';
CREATE VIEW sync.sources AS
 SELECT u.user_id,
    s.source_id,
    s.state,
    s.is_device,
    s.last_source_bundle_id,
    s.replaced_by_source_id,
    s.replacement_reason,
    s.updated_at
   FROM (sync.source_state s
     JOIN sync.user_state u ON ((u.user_pk = s.user_pk)));
COMMENT ON VIEW sync.sources IS 'Sources (devices and server-side writers) of each scope.';
COMMENT ON COLUMN sync.sources.user_id IS 'Scope id.';
COMMENT ON COLUMN sync.sources.source_id IS 'Source.';
COMMENT ON COLUMN sync.sources.state IS 'active, reserved or retired.';
COMMENT ON COLUMN sync.sources.is_device IS 'Whether it pushes through the API.';
COMMENT ON COLUMN sync.sources.last_source_bundle_id IS 'Number of its last bundle.';
COMMENT ON COLUMN sync.sources.replaced_by_source_id IS 'Source that took over.';
COMMENT ON COLUMN sync.sources.replacement_reason IS 'Why.';
COMMENT ON COLUMN sync.sources.updated_at IS 'When it last changed.';
CREATE VIEW sync.staged_rows AS
 SELECT c.push_id,
    c.row_ordinal,
    c.table_id,
    c.op,
    c.base_row_version,
    c.key_bytes,
    NULLIF(c.payload, ''::text) AS payload
   FROM sync.chunk_rows c
UNION ALL
 SELECT s.push_id,
    0 AS row_ordinal,
    s.table_id,
    s.op,
    s.base_row_version,
    s.key_bytes,
    NULLIF(s.payload, ''::text) AS payload
   FROM sync.push_sessions s
  WHERE ((s.planned_row_count = 1) AND (s.staged_row_count = 1));
COMMENT ON VIEW sync.staged_rows IS 'Rows of pushes that are being staged.';
COMMENT ON COLUMN sync.staged_rows.push_id IS 'Session, see sync.push_sessions.';
COMMENT ON COLUMN sync.staged_rows.row_ordinal IS 'Place in the push, from 0.';
COMMENT ON COLUMN sync.staged_rows.table_id IS 'Table, see sync.table_catalog.';
COMMENT ON COLUMN sync.staged_rows.op IS 'I insert, U update, D delete.';
COMMENT ON COLUMN sync.staged_rows.base_row_version IS 'Version that the client last saw.';
COMMENT ON COLUMN sync.staged_rows.key_bytes IS 'Key, see sync.bundle_rows.';
COMMENT ON COLUMN sync.staged_rows.payload IS 'Payload as JSON; null for a delete.';
ALTER TABLE sync.table_catalog ALTER COLUMN table_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME sync.table_catalog_table_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
COMMENT ON SEQUENCE sync.table_catalog_table_id_seq IS 'Numbers registered tables.';
CREATE VIEW sync.table_columns AS
 SELECT t.table_id,
    a.attname AS column_name,
    format_type(a.atttypid, a.atttypmod) AS data_type,
    (EXISTS ( WITH RECURSIVE base AS (
                 SELECT a.atttypid AS oid
                UNION ALL
                 SELECT d.typbasetype
                   FROM (base base_1
                     CROSS JOIN LATERAL ( SELECT y.typbasetype
                           FROM pg_type y
                          WHERE (y.oid = base_1.oid)
                         OFFSET 0) d)
                  WHERE (d.typbasetype <> (0)::oid)
                )
         SELECT
           FROM base
          WHERE (base.oid = ('bytea'::regtype)::oid))) AS is_bytea,
        CASE
            WHEN (t.relation_oid = (t.relation)::oid) THEN (a.attnum = t.key_attnum)
            ELSE (a.attname = t.key_column)
        END AS is_key,
    s.is_scope,
    ((NOT s.is_scope) OR t.scope_is_shown) AS is_sent,
    ((a.attgenerated <> ''::"char") OR (a.attidentity = 'a'::"char")) AS is_generated
   FROM ((sync.table_catalog t
     JOIN pg_attribute a ON (((a.attrelid = (t.relation)::oid) AND (a.attnum > 0) AND (NOT a.attisdropped))))
     CROSS JOIN LATERAL ( SELECT
                CASE
                    WHEN (t.relation_oid = (t.relation)::oid) THEN (NOT (a.attnum IS DISTINCT FROM t.scope_attnum))
                    ELSE (NOT (a.attname IS DISTINCT FROM t.scope_column))
                END AS is_scope) s)
  WHERE (t.unregistered_at IS NULL);
COMMENT ON VIEW sync.table_columns IS 'Columns of registered tables as they are now, and the part that each plays on the wire.';
COMMENT ON COLUMN sync.table_columns.table_id IS 'Table, see sync.table_catalog.';
COMMENT ON COLUMN sync.table_columns.column_name IS 'Column.';
COMMENT ON COLUMN sync.table_columns.data_type IS 'Type as PostgreSQL writes it.';
COMMENT ON COLUMN sync.table_columns.is_bytea IS 'Travels as base64.';
COMMENT ON COLUMN sync.table_columns.is_key IS 'Identifies the row within its scope.';
COMMENT ON COLUMN sync.table_columns.is_scope IS 'Says whose row it is; clients can never write it.';
COMMENT ON COLUMN sync.table_columns.is_sent IS 'Travels to clients.';
COMMENT ON COLUMN sync.table_columns.is_generated IS 'Generated always, as an expression or an identity: sent to clients, ignored when pushed.';
CREATE TABLE sync.table_order_overrides (
    child regclass NOT NULL,
    parent regclass NOT NULL
);
COMMENT ON TABLE sync.table_order_overrides IS 'Order of tables beyond foreign keys: the child is written after the parent. Has no bearing on which foreign keys are accepted.';
COMMENT ON COLUMN sync.table_order_overrides.child IS 'Table that is written later.';
COMMENT ON COLUMN sync.table_order_overrides.parent IS 'Table that is written earlier.';
CREATE VIEW sync.table_order AS
 SELECT d.table_position,
    t.table_id,
    t.schema_name,
    t.table_name,
    d.cycle_group,
    d.depends_on
   FROM (sync.discover(( SELECT COALESCE(array_agg((c.relation)::oid), '{}'::oid[]) AS "coalesce"
           FROM sync.table_catalog c
          WHERE (c.unregistered_at IS NULL)), ( SELECT COALESCE(jsonb_agg(jsonb_build_object('child', ((cc.schema_name || '.'::text) || cc.table_name), 'parent', ((pc.schema_name || '.'::text) || pc.table_name))), '[]'::jsonb) AS "coalesce"
           FROM ((sync.table_order_overrides o
             JOIN sync.table_catalog cc ON ((((cc.relation)::oid = (o.child)::oid) AND (cc.unregistered_at IS NULL))))
             JOIN sync.table_catalog pc ON ((((pc.relation)::oid = (o.parent)::oid) AND (pc.unregistered_at IS NULL)))))) d(relation, table_position, cycle_group, depends_on)
     JOIN sync.table_catalog t ON ((((t.relation)::oid = (d.relation)::oid) AND (t.unregistered_at IS NULL))))
  ORDER BY d.table_position;
COMMENT ON VIEW sync.table_order IS 'Registered tables in the order in which a push writes them: parents first, cycles grouped.';
COMMENT ON COLUMN sync.table_order.table_position IS '1 is written first (and deleted from last).';
COMMENT ON COLUMN sync.table_order.table_id IS 'Table, see sync.table_catalog.';
COMMENT ON COLUMN sync.table_order.schema_name IS 'Schema.';
COMMENT ON COLUMN sync.table_order.table_name IS 'Table.';
COMMENT ON COLUMN sync.table_order.cycle_group IS 'Above 0: tables with the same number refer to each other in a cycle.';
COMMENT ON COLUMN sync.table_order.depends_on IS 'Tables that it refers to.';
CREATE VIEW sync.tables AS
 SELECT t.schema_name,
    t.table_name,
    t.key_column,
    COALESCE((t.scope_column)::text, ('through '::text || (t.scope_via)::text)) AS scope,
    t.policy,
    ((t.columns_fingerprint IS DISTINCT FROM sync.columns_fingerprint((t.relation)::oid)) OR sync.parts_are_replaced(t.table_id)) AS was_altered,
        CASE
            WHEN (a.table_id IS NULL) THEN (0)::bigint
            WHEN (a.row_count IS NOT NULL) THEN ( SELECT sum(cardinality(q.keys)) AS sum
               FROM sync.adoption_queue q
              WHERE (q.table_id = t.table_id))
            ELSE NULL::bigint
        END AS rows_to_adopt,
    t.registered_at
   FROM (sync.table_catalog t
     LEFT JOIN sync.adoptions a ON ((a.table_id = t.table_id)))
  WHERE (t.unregistered_at IS NULL);
COMMENT ON VIEW sync.tables IS 'Registered tables. What is wrong with them: SELECT * FROM sync.check().';
COMMENT ON COLUMN sync.tables.schema_name IS 'Schema as clients know it.';
COMMENT ON COLUMN sync.tables.table_name IS 'Table as clients know it.';
COMMENT ON COLUMN sync.tables.key_column IS 'Key column.';
COMMENT ON COLUMN sync.tables.scope IS 'Column that says whose row it is, or the column through which that is found.';
COMMENT ON COLUMN sync.tables.policy IS 'What a write outside a bundle does: reject or capture.';
COMMENT ON COLUMN sync.tables.was_altered IS 'Altered since it was registered: SELECT sync.refresh_table(...).';
COMMENT ON COLUMN sync.tables.rows_to_adopt IS 'Rows that still have to enter the log; null while they wait and have not been counted yet.';
COMMENT ON COLUMN sync.tables.registered_at IS 'When it was registered.';
ALTER TABLE sync.user_state ALTER COLUMN user_pk ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME sync.user_state_user_pk_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
COMMENT ON SEQUENCE sync.user_state_user_pk_seq IS 'Numbers scopes.';
ALTER TABLE ONLY sync.adoption_queue
    ADD CONSTRAINT adoption_queue_pkey PRIMARY KEY (table_id, queue_position);
ALTER TABLE ONLY sync.adoptions
    ADD CONSTRAINT adoptions_pkey PRIMARY KEY (table_id);
ALTER TABLE ONLY sync.bundle_log
    ADD CONSTRAINT bundle_log_pkey PRIMARY KEY (user_pk, bundle_seq);
ALTER TABLE ONLY sync.bundle_rows
    ADD CONSTRAINT bundle_rows_pkey PRIMARY KEY (user_pk, bundle_seq, row_ordinal);
ALTER TABLE ONLY sync.captured_keys
    ADD CONSTRAINT captured_keys_pkey PRIMARY KEY (xid, capture_no);
ALTER TABLE ONLY sync.catalog_version
    ADD CONSTRAINT catalog_version_pkey PRIMARY KEY (only_row);
ALTER TABLE ONLY sync.push_sessions
    ADD CONSTRAINT one_session_a_bundle UNIQUE (user_pk, source_id, source_bundle_id);
ALTER TABLE ONLY sync.open_bundles
    ADD CONSTRAINT open_bundles_pkey PRIMARY KEY (xid, user_pk);
ALTER TABLE ONLY sync.push_chunks
    ADD CONSTRAINT push_chunks_pkey PRIMARY KEY (push_id, start_row_ordinal);
ALTER TABLE ONLY sync.push_sessions
    ADD CONSTRAINT push_sessions_pkey PRIMARY KEY (push_id);
ALTER TABLE ONLY sync.row_owners
    ADD CONSTRAINT row_owners_pkey PRIMARY KEY (table_id, key_bytes);
ALTER TABLE ONLY sync.snapshot_marks
    ADD CONSTRAINT snapshot_marks_pkey PRIMARY KEY (snapshot_id, row_ordinal);
ALTER TABLE ONLY sync.snapshot_sessions
    ADD CONSTRAINT snapshot_sessions_pkey PRIMARY KEY (snapshot_id);
ALTER TABLE ONLY sync.bundle_log
    ADD CONSTRAINT source_bundle_id_commits_once UNIQUE (user_pk, source_id, source_bundle_id);
ALTER TABLE ONLY sync.source_state
    ADD CONSTRAINT source_state_pkey PRIMARY KEY (user_pk, source_id);
ALTER TABLE ONLY sync.table_catalog
    ADD CONSTRAINT table_catalog_pkey PRIMARY KEY (table_id);
ALTER TABLE ONLY sync.table_order_overrides
    ADD CONSTRAINT table_order_overrides_pkey PRIMARY KEY (child, parent);
ALTER TABLE ONLY sync.user_state
    ADD CONSTRAINT user_id_is_unique UNIQUE (user_id);
ALTER TABLE ONLY sync.user_state
    ADD CONSTRAINT user_state_pkey PRIMARY KEY (user_pk);
CREATE INDEX bundle_rows_newest_of_key ON sync.bundle_rows USING btree (user_pk, table_id, key_bytes, bundle_seq DESC);
COMMENT ON INDEX sync.bundle_rows_newest_of_key IS 'Finds the newest version of a key, and walks a scope in snapshot order.';
CREATE UNIQUE INDEX name_is_registered_once ON sync.table_catalog USING btree (schema_name, table_name) WHERE (unregistered_at IS NULL);
COMMENT ON INDEX sync.name_is_registered_once IS 'Clients know one table by a name.';
CREATE UNIQUE INDEX relation_is_registered_once ON sync.table_catalog USING btree (relation) WHERE (unregistered_at IS NULL);
COMMENT ON INDEX sync.relation_is_registered_once IS 'A table is registered once at a time.';
CREATE INDEX snapshot_sessions_by_expiry ON sync.snapshot_sessions USING btree (expires_at);
COMMENT ON INDEX sync.snapshot_sessions_by_expiry IS 'Finds expired sessions.';
CREATE INDEX snapshot_sessions_of_scope ON sync.snapshot_sessions USING btree (user_pk, created_at);
COMMENT ON INDEX sync.snapshot_sessions_of_scope IS 'Finds what a scope still has to keep, and its oldest session.';
CREATE TRIGGER bound_snapshot_sessions AFTER INSERT ON sync.snapshot_sessions FOR EACH ROW EXECUTE FUNCTION sync.bound_snapshot_sessions();
COMMENT ON TRIGGER bound_snapshot_sessions ON sync.snapshot_sessions IS 'Keeps the snapshot sessions of a scope and of a source few: without it one client could make them without end.';
CREATE CONSTRAINT TRIGGER opened_bundle_is_finished AFTER INSERT OR UPDATE OF fired_at ON sync.open_bundles DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (((NOT new.is_implicit) AND (new.push_id IS NULL))) EXECUTE FUNCTION sync.require_finished();
COMMENT ON TRIGGER opened_bundle_is_finished ON sync.open_bundles IS 'Keeps a transaction from ending with a bundle open.';
CREATE CONSTRAINT TRIGGER plain_sql_becomes_bundles_at_commit AFTER INSERT ON sync.captured_keys DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (new.at_commit) EXECUTE FUNCTION sync.capture_commit();
COMMENT ON TRIGGER plain_sql_becomes_bundles_at_commit ON sync.captured_keys IS 'Turns what plain SQL wrote into bundles when its transaction commits.';
CREATE CONSTRAINT TRIGGER registered_tables_are_closed_over_foreign_keys AFTER INSERT OR UPDATE ON sync.table_catalog DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sync.check_foreign_keys();
COMMENT ON TRIGGER registered_tables_are_closed_over_foreign_keys ON sync.table_catalog IS 'Judged at the end of the transaction.';
REVOKE ALL ON FUNCTION sync.capture_commit() FROM PUBLIC;
