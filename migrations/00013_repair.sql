-- Tables against the log: rows that were there before registration, rows whose wire form an ALTER TABLE changed, and rows that
-- got round the triggers. All three are the same: keys whose live row is not what the log has. The first two are queued, and
-- emitted in batches, each a short transaction; repair emits at once.
--
-- Locks: creates new objects only.

-- +goose Up
-- +goose StatementBegin
CREATE UNLOGGED TABLE sync.adoption_queue (
    table_id       integer NOT NULL,
    queue_position bigint NOT NULL,
    scope          text NOT NULL,
    keys           bytea[] NOT NULL,
    CONSTRAINT adoption_queue_pkey PRIMARY KEY (table_id, queue_position)
);
ALTER TABLE sync.adoption_queue ALTER COLUMN keys SET STORAGE EXTERNAL;
COMMENT ON TABLE sync.adoption_queue IS 'Rows of registered tables that still have to enter the log: a row per scope, or more where a scope has many. Lost in a crash, it is made again from what the log does not have.';
COMMENT ON COLUMN sync.adoption_queue.table_id IS 'Table, see sync.table_catalog.';
COMMENT ON COLUMN sync.adoption_queue.queue_position IS 'Order in which they are taken: how many rows of the table were queued up to these and with them.';
COMMENT ON COLUMN sync.adoption_queue.scope IS 'Scope of the rows when they were queued.';
COMMENT ON COLUMN sync.adoption_queue.keys IS 'Keys of the rows, in order.';

CREATE TABLE sync.adoptions (
    table_id   integer NOT NULL CONSTRAINT adoptions_pkey PRIMARY KEY,
    source_id  text NOT NULL,
    row_count  bigint,
    started_at timestamptz NOT NULL DEFAULT now(),
    is_prompt  boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE sync.adoptions IS 'Tables whose rows are still entering the log. A row goes when the last batch is done.';
COMMENT ON COLUMN sync.adoptions.table_id IS 'Table, see sync.table_catalog.';
COMMENT ON COLUMN sync.adoptions.source_id IS 'Source of the bundles: oversync:adopt, or oversync:refresh after ALTER TABLE.';
COMMENT ON COLUMN sync.adoptions.row_count IS 'Rows that were queued; null until they are.';
COMMENT ON COLUMN sync.adoptions.started_at IS 'When it was asked for.';
COMMENT ON COLUMN sync.adoptions.is_prompt IS 'To be done as soon as the parents that say whose rows these are have been registered.';

--
-- What differs.
--
-- sync.scope_joins returns the joins and the condition that leave only the rows of a scope, so that indexes lead from the scope to them.
-- Errors: OV030 if the foreign key to a parent is gone. Locks: none.
CREATE FUNCTION sync.scope_joins(p_table sync.table_catalog, p_alias text, p_user_id text)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION sync.scope_joins(sync.table_catalog, text, text) IS 'SQL joins and condition that leave only the rows of a scope.';

-- sync.live_rows_statement returns the query that gives scope, key and wire form of a table's live rows; of one scope ($1) if p_one_scope.
-- Errors: as sync.scope_joins. Locks: none.
CREATE FUNCTION sync.live_rows_statement(p_table sync.table_catalog, p_one_scope boolean)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('SELECT %1$s AS scope, %2$s AS key_bytes, row_to_json(w.*)::text AS payload FROM (SELECT t.* FROM %3$s AS t%4$s OFFSET 0) AS t CROSS JOIN LATERAL (SELECT %5$s OFFSET 0) AS w',
        CASE WHEN p_one_scope THEN '$1::text' ELSE sync.scope_expression(p_table, 't') END, sync.key_bytes_expression(p_table, 't'), p_table.relation,
        CASE WHEN p_one_scope THEN sync.scope_joins(p_table, 't', '$1') ELSE '' END,
        sync.wire_columns(p_table, 't'))
$$;
COMMENT ON FUNCTION sync.live_rows_statement(sync.table_catalog, boolean) IS 'Text of the query that gives a table''s live rows as they are on the wire.';

-- sync.differences returns the rows of a scope in one table whose live form is not what the log has.
-- Errors: OV030 a table that has lost what says which row it is, or whose. Locks: none.
CREATE FUNCTION sync.differences(p_table_id integer, p_user_id text)
RETURNS TABLE (key_bytes bytea, difference text, live_row text, log_row text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET datestyle = 'ISO, MDY'
SET intervalstyle = 'postgres'
SET lc_monetary = 'C'
SET extra_float_digits = 1
SET bytea_output = 'hex'
AS $$
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
$$;
COMMENT ON FUNCTION sync.differences(integer, text) IS 'Rows of a scope in one table whose live form is not what the log has.';

-- sync.key_text returns a key as clients know it.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.key_text(p_table_id integer, p_key_bytes bytea)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Not a CASE of both: PostgreSQL may compute what depends on parameters alone when it plans, and one of the two fails.
    IF (SELECT t.key_type = 'uuid' FROM sync.table_catalog t WHERE t.table_id = p_table_id) THEN
        RETURN encode(p_key_bytes, 'hex')::uuid::text;
    END IF;
    RETURN convert_from(p_key_bytes, 'UTF8');
END
$$;
COMMENT ON FUNCTION sync.key_text(integer, bytea) IS 'A key of the log as clients know it.';

-- sync.log_damage returns what is wrong with the log of a scope in itself, as where rows of it were deleted by hand: no two of its tables
-- are held together by foreign keys. What is no longer served is not looked at.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.log_damage(p_user_id text)
RETURNS TABLE (table_name text, key text, difference text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION sync.log_damage(text) IS 'What is wrong with the log of a scope in itself: bundles that are missing, counts and numbers that do not fit; no row means that all is well.';

-- sync.verify compares the live rows of a scope with the log, both ways: a row for each difference, none if all is well. A table that cannot
-- be compared, as it has lost its key or what says whose a row is, is a row without a key; the others are compared all the same.
-- Errors: none. Locks: none; it waits for nobody.
CREATE FUNCTION sync.verify(p_user_id text)
RETURNS TABLE (schema_name text, table_name text, key text, difference text, live_row json, log_row json)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION sync.verify(text) IS 'Compares the live rows of a scope with the log, both ways: SELECT * FROM sync.verify(''user''); no row means that all is well.';

-- sync.scope_ids returns the ids of all scopes: those that the log knows, and those that only rows have, which got round the triggers.
-- Reads the tables with a scope column whole, but not one that has lost it. Errors: none. Locks: none; it waits for nobody.
CREATE FUNCTION sync.scope_ids()
RETURNS SETOF text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
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

-- sync.repair enters what sync.verify finds into the log, as one bundle of the source oversync:repair, and counts the live rows anew.
-- Tables that cannot be compared are passed over, with a warning.
-- Returns the number of effects. Errors: as sync.commit_captured. Locks: the scope's row until the transaction ends.
CREATE FUNCTION sync.repair(p_user_id text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION sync.repair(text) IS 'Enters what sync.verify finds for a scope into the log, as one bundle; returns the number of effects.';

--
-- Adoption.
--
-- sync.require_latest_rows refuses to enter rows that were there before into the log in a transaction that does not see what is committed
-- meanwhile: it would enter rows that are gone, once it has waited for a scope.
-- Errors: OV030. Locks: none.
CREATE FUNCTION sync.require_latest_rows(p_what text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        PERFORM sync.fail('OV030', format('%s cannot enter the log at the isolation level %s, which does not see what is committed meanwhile', p_what, current_setting('transaction_isolation')),
            NULL, 'BEGIN ISOLATION LEVEL READ COMMITTED; then the same again, and COMMIT;');
    END IF;
END
$$;
COMMENT ON FUNCTION sync.require_latest_rows(text) IS 'Refuses to enter rows that were there before into the log in a transaction that does not see what is committed meanwhile.';

-- sync.adopt_start asks for a table's rows to enter the log: now, later, or auto (now up to 10,000 rows).
-- Errors: as sync.adopt_batch. Locks: with now, the rows of their scopes until the transaction ends.
CREATE FUNCTION sync.adopt_start(p_table_id integer, p_when text, p_source_id text DEFAULT 'oversync:adopt')
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION sync.adopt_start(integer, text, text) IS 'Asks for the rows of a table to enter the log, now or later.';

-- sync.adopt_queue_rows queues the rows of a table that the log does not have as they are, and after a refresh those too that it has
-- though they are gone. Returns their number.
-- Errors: 23514 a scope that no user can have, with the row; OV030 as sync.entry_to_write. Locks: none on the table: the application goes on writing it.
CREATE FUNCTION sync.adopt_queue_rows(p_table_id integer)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET work_mem = '64MB'
SET jit = off
SET timezone = 'UTC'
SET datestyle = 'ISO, MDY'
SET intervalstyle = 'postgres'
SET lc_monetary = 'C'
SET extra_float_digits = 1
SET bytea_output = 'hex'
AS $$
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
$$;
COMMENT ON FUNCTION sync.adopt_queue_rows(integer) IS 'Queues the rows of a table that the log does not have as they are, and returns their number.';

-- sync.adopt_batch enters the next queued rows of a table into the log, a bundle per scope, and returns how many it took: 0 at the end.
-- Each call is best a transaction of its own. Two at once wait for each other.
-- Errors: as sync.commit_captured and sync.follow_moved. Locks: the table's row in sync.adoptions, and the rows of the scopes, until the transaction ends.
CREATE FUNCTION sync.adopt_batch(p_table_id integer, p_rows integer DEFAULT 10000)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION sync.adopt_batch(integer, integer) IS 'Enters the next queued rows of a table into the log and returns how many it took; 0 at the end.';

-- sync.registered_id returns the id of a registered table. It pins the search path, which a procedure that commits cannot, so that the error
-- names the table with its schema.
-- Errors: OV030 not registered. Locks: none.
CREATE FUNCTION sync.registered_id(tbl regclass)
RETURNS integer
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION sync.registered_id(regclass) IS 'Id of a registered table; raises OV030 if it is not registered.';

-- sync.adopt_table enters all rows of a table into the log that are not in it, in batches of their own transactions. It can be
-- stopped at any time and called again.
-- Errors: OV030 not registered. Locks: as sync.adopt_batch, released after each batch. (A procedure that commits cannot pin its search_path.)
CREATE PROCEDURE sync.adopt_table(tbl regclass)
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
COMMENT ON PROCEDURE sync.adopt_table(regclass) IS 'Enters all rows of a table into the log that are not in it, batch by batch: CALL sync.adopt_table(''public.todos'').';

-- sync.refresh_table makes the code of a table anew after ALTER TABLE, and enters rows whose wire form changed into the log, so that
-- clients learn of them. A table whose name, key column or key type changed is registered anew, since clients know it by these.
-- p_when as adopt of sync.register_table. Returns the table's id.
-- Errors: OV030 not registered, or no longer fit. Locks: SHARE ROW EXCLUSIVE on partitions that have no triggers yet.
CREATE FUNCTION sync.refresh_table(tbl regclass, adopt text DEFAULT 'auto')
RETURNS integer
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET quote_all_identifiers = off
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
COMMENT ON FUNCTION sync.refresh_table(regclass, text) IS 'After ALTER TABLE: makes the code of a table anew, and enters rows whose wire form changed into the log.';
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
-- What registration made depends on this file.
SELECT sync.unregister_table(t.relation) FROM sync.table_catalog t WHERE t.unregistered_at IS NULL;
SET CONSTRAINTS ALL IMMEDIATE;
-- +goose StatementEnd
DROP FUNCTION sync.refresh_table(regclass, text);
DROP PROCEDURE sync.adopt_table(regclass);
DROP FUNCTION sync.registered_id(regclass);
DROP FUNCTION sync.adopt_batch(integer, integer);
DROP FUNCTION sync.adopt_queue_rows(integer);
DROP FUNCTION sync.adopt_start(integer, text, text);
DROP FUNCTION sync.require_latest_rows(text);
DROP FUNCTION sync.repair(text);
DROP FUNCTION sync.scope_ids();
DROP FUNCTION sync.verify(text);
DROP FUNCTION sync.log_damage(text);
DROP FUNCTION sync.key_text(integer, bytea);
DROP FUNCTION sync.differences(integer, text);
DROP FUNCTION sync.live_rows_statement(sync.table_catalog, boolean);
DROP FUNCTION sync.scope_joins(sync.table_catalog, text, text);
DROP TABLE sync.adoptions;
DROP TABLE sync.adoption_queue;
