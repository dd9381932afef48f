-- The schema on PostgreSQL 15. Written by make db/dump.
CREATE SCHEMA sync;
COMMENT ON SCHEMA sync IS 'oversync: the log of synced tables, their registration, capture, and the functions that the sync API calls.';
CREATE TABLE sync.table_catalog (
    table_id integer NOT NULL,
    relation regclass,
    schema_name text NOT NULL,
    table_name text NOT NULL,
    key_column name NOT NULL,
    key_type text NOT NULL,
    scope_column name NOT NULL,
    scope_type text NOT NULL,
    policy text DEFAULT 'reject'::text NOT NULL,
    apply_order integer DEFAULT 0 NOT NULL,
    columns_fingerprint bigint NOT NULL,
    scope_default_before text,
    registered_at timestamp with time zone DEFAULT now() NOT NULL,
    unregistered_at timestamp with time zone,
    CONSTRAINT key_type_is_known CHECK ((key_type = ANY (ARRAY['uuid'::text, 'text'::text]))),
    CONSTRAINT policy_is_known CHECK ((policy = ANY (ARRAY['reject'::text, 'capture'::text]))),
    CONSTRAINT registered_has_a_relation CHECK (((relation IS NULL) = (unregistered_at IS NOT NULL)))
);
COMMENT ON TABLE sync.table_catalog IS 'Registered tables. An unregistered one stays as an entry without relation, so that history can still be read. Written by sync.register_table and its like, never by hand.';
COMMENT ON COLUMN sync.table_catalog.table_id IS 'Compact internal id, used by the log. A table that is registered again gets a new one.';
COMMENT ON COLUMN sync.table_catalog.relation IS 'The table; null once unregistered.';
COMMENT ON COLUMN sync.table_catalog.schema_name IS 'Schema as clients know it.';
COMMENT ON COLUMN sync.table_catalog.table_name IS 'Table as clients know it.';
COMMENT ON COLUMN sync.table_catalog.key_column IS 'Column that identifies a row within its scope.';
COMMENT ON COLUMN sync.table_catalog.key_type IS 'Type of the key: uuid or text.';
COMMENT ON COLUMN sync.table_catalog.scope_column IS 'Column that says whose row it is; hidden from clients.';
COMMENT ON COLUMN sync.table_catalog.scope_type IS 'Type of the scope column; its text form is the scope id.';
COMMENT ON COLUMN sync.table_catalog.policy IS 'What happens to a write outside a bundle: reject (an error) or capture (it becomes a bundle at commit).';
COMMENT ON COLUMN sync.table_catalog.apply_order IS 'Place in the order parents first, as sync.table_order had it at the last registration.';
COMMENT ON COLUMN sync.table_catalog.columns_fingerprint IS 'Columns at the last registration or refresh, as sync.columns_fingerprint gives them; differs when the table was altered since.';
COMMENT ON COLUMN sync.table_catalog.scope_default_before IS 'Default that the scope column had before registration; put back by sync.unregister_table.';
COMMENT ON COLUMN sync.table_catalog.registered_at IS 'When it was registered.';
COMMENT ON COLUMN sync.table_catalog.unregistered_at IS 'When it was unregistered; null while registered.';
CREATE FUNCTION sync.apply_statement(p_table sync.table_catalog, p_op "char") RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;
COMMENT ON FUNCTION sync.apply_statement(p_table sync.table_catalog, p_op "char") IS 'Text of the statement that applies staged rows of one operation to a table.';
CREATE FUNCTION sync.bundle_abandon() RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    DELETE FROM sync.captured_keys c WHERE c.xid = pg_current_xact_id();
    DELETE FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id();
$$;
COMMENT ON FUNCTION sync.bundle_abandon() IS 'Ends a bundle without effects: no sequence number is used.';
CREATE TABLE sync.user_state (
    user_pk bigint NOT NULL,
    user_id text NOT NULL,
    state text DEFAULT 'uninitialized'::text NOT NULL,
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
    CONSTRAINT only_initializing_holds_a_lease CHECK ((((state = 'initializing'::text) = (initialization_id IS NOT NULL)) AND ((initialization_id IS NULL) = (lease_expires_at IS NULL)) AND ((initialization_id IS NULL) = (lease_source_id IS NULL)))),
    CONSTRAINT state_is_known CHECK ((state = ANY (ARRAY['uninitialized'::text, 'initializing'::text, 'initialized'::text]))),
    CONSTRAINT user_id_has_1_to_255_bytes CHECK (((octet_length(user_id) >= 1) AND (octet_length(user_id) <= 255)))
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
COMMENT ON COLUMN sync.user_state.last_bundle_at IS 'When the newest bundle was committed.';
COMMENT ON COLUMN sync.user_state.initialization_id IS 'Id of the lease while initializing.';
COMMENT ON COLUMN sync.user_state.lease_source_id IS 'Source that holds the lease while initializing.';
COMMENT ON COLUMN sync.user_state.lease_expires_at IS 'When the lease ends, by the clock of this database.';
COMMENT ON COLUMN sync.user_state.created_at IS 'When the scope was first seen.';
CREATE FUNCTION sync.bundle_begin(p_user sync.user_state, p_source_id text, p_source_bundle_id bigint, p_push_id uuid) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    INSERT INTO sync.open_bundles (xid, user_pk, user_id, bundle_seq, source_id, source_bundle_id, push_id)
    VALUES (pg_current_xact_id(), p_user.user_pk, p_user.user_id, p_user.next_bundle_seq, p_source_id, p_source_bundle_id, p_push_id)
$$;
COMMENT ON FUNCTION sync.bundle_begin(p_user sync.user_state, p_source_id text, p_source_bundle_id bigint, p_push_id uuid) IS 'Notes that this transaction writes the next bundle of a scope that it has locked.';
CREATE FUNCTION sync.bundle_close(p_bundle_hash bytea, p_byte_count bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_bundle sync.open_bundles;
BEGIN
    DELETE FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id() RETURNING b.* INTO STRICT v_bundle;
    DELETE FROM sync.captured_keys c WHERE c.xid = v_bundle.xid;
    INSERT INTO sync.bundle_log (user_pk, bundle_seq, source_id, source_bundle_id, row_count, byte_count, bundle_hash)
    VALUES (v_bundle.user_pk, v_bundle.bundle_seq, v_bundle.source_id, v_bundle.source_bundle_id, v_bundle.row_count, p_byte_count, p_bundle_hash);
    UPDATE sync.user_state u
    SET next_bundle_seq = v_bundle.bundle_seq + 1,
        live_row_count = u.live_row_count + v_bundle.live_row_delta,
        live_byte_count = u.live_byte_count + v_bundle.live_byte_delta,
        bundle_byte_count = u.bundle_byte_count + coalesce(p_byte_count, 0),
        last_bundle_at = now(),
        state = 'initialized', initialization_id = NULL, lease_source_id = NULL, lease_expires_at = NULL
    WHERE u.user_pk = v_bundle.user_pk;
    INSERT INTO sync.source_state AS s (user_pk, source_id, last_source_bundle_id)
    VALUES (v_bundle.user_pk, v_bundle.source_id, v_bundle.source_bundle_id)
    ON CONFLICT ON CONSTRAINT source_state_pkey DO UPDATE
    SET last_source_bundle_id = excluded.last_source_bundle_id, state = 'active', updated_at = now();
    IF v_bundle.push_id IS NOT NULL THEN
        DELETE FROM sync.push_chunks c WHERE c.push_id = v_bundle.push_id;
        DELETE FROM sync.push_sessions p WHERE p.push_id = v_bundle.push_id;
    END IF;
END
$$;
COMMENT ON FUNCTION sync.bundle_close(p_bundle_hash bytea, p_byte_count bigint) IS 'Enters the emitted bundle with its hash and byte count, and moves the scope and the source on.';
CREATE FUNCTION sync.bundle_emit() RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_nestloop TO 'off'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
DECLARE
    v_bundle sync.open_bundles;
    v_table record;
    v_done record;
    v_touched bigint := 0;
    v_emitted bigint := 0;
    v_live_rows bigint := 0;
    v_live_bytes bigint := 0;
BEGIN
    -- Whatever is deferred runs now, so that nothing can write or fail after the log is made.
    SET CONSTRAINTS ALL IMMEDIATE;
    SELECT b.* INTO STRICT v_bundle FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id();
    FOR v_table IN
        WITH captured AS (
            SELECT c.table_id, c.keys, sum(cardinality(c.keys)) OVER (ORDER BY c.capture_no) - cardinality(c.keys) AS keys_before
            FROM sync.captured_keys c WHERE c.xid = v_bundle.xid
        ), touched AS (
            SELECT c.table_id, k.key_bytes, min(c.keys_before + k.place) AS first_touched
            FROM captured c CROSS JOIN LATERAL unnest(c.keys) WITH ORDINALITY AS k(key_bytes, place)
            GROUP BY c.table_id, k.key_bytes
        ), pushed AS (
            SELECT s.table_id, s.key_bytes, s.row_ordinal FROM sync.staged_rows s WHERE s.push_id = v_bundle.push_id
        ), placed AS (
            SELECT t.table_id, t.key_bytes, before.op, before.payload_bytes,
                   (row_number() OVER (ORDER BY p.row_ordinal NULLS LAST, t.first_touched) - 1)::integer AS row_ordinal
            FROM touched t
            LEFT JOIN pushed p ON p.table_id = t.table_id AND p.key_bytes = t.key_bytes
            LEFT JOIN LATERAL (
                SELECT r.op, octet_length(r.payload) AS payload_bytes FROM sync.bundle_rows r
                WHERE r.user_pk = v_bundle.user_pk AND r.table_id = t.table_id AND r.key_bytes = t.key_bytes
                ORDER BY r.bundle_seq DESC LIMIT 1
            ) AS before ON true
        )
        SELECT p.table_id, count(*) AS touched,
               array_agg(p.row_ordinal ORDER BY p.row_ordinal) AS ordinals,
               array_agg(p.key_bytes ORDER BY p.row_ordinal) AS keys,
               array_agg(p.op IS NOT NULL AND p.op <> 'D' ORDER BY p.row_ordinal) AS was_live,
               coalesce(sum(p.payload_bytes), 0)::bigint AS bytes_before
        FROM placed p
        GROUP BY p.table_id
    LOOP
        v_done := sync.emit(v_table.table_id, v_bundle, v_table.ordinals, v_table.keys, v_table.was_live);
        v_touched := v_touched + v_table.touched;
        v_emitted := v_emitted + v_done.row_count;
        v_live_rows := v_live_rows + v_done.live_rows;
        v_live_bytes := v_live_bytes + v_done.live_bytes - v_table.bytes_before;
    END LOOP;
    IF v_emitted < v_touched THEN
        -- A row that was inserted and deleted in the same transaction has no effect and left a gap.
        PERFORM sync.close_ordinal_gaps(v_bundle.user_pk, v_bundle.bundle_seq);
    END IF;
    UPDATE sync.open_bundles b
    SET row_count = v_emitted, live_row_delta = v_live_rows, live_byte_delta = v_live_bytes
    WHERE b.xid = v_bundle.xid;
    RETURN v_emitted;
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
    PERFORM sync.bundle_begin(v_user, p_source_id, v_next, NULL);
    RETURN QUERY SELECT v_user.next_bundle_seq, v_next, v_initialized;
END
$$;
COMMENT ON FUNCTION sync.bundle_open(p_user_id text, p_source_id text, p_source_bundle_id bigint, p_initialize boolean) IS 'Begins a server-side bundle in this transaction. Finish it with sync.bundle_emit and sync.bundle_close.';
CREATE FUNCTION sync.capture(p_table_id integer, p_keys bytea[], p_min_scope text, p_max_scope text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_scope text := (SELECT b.user_id FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id());
    v_table text;
BEGIN
    IF v_scope IS NULL THEN
        PERFORM nextval('sync.rejected_write_count');
        SELECT format('%I.%I', t.schema_name, t.table_name) INTO v_table FROM sync.table_catalog t WHERE t.table_id = p_table_id;
        PERFORM sync.fail('OV031', format('table %s is synced and may be written only inside a bundle', v_table), NULL,
            'Write through the sync API, ScopeManager.ExecWrite or WithinSyncBundle.');
    ELSIF p_min_scope COLLATE "C" <> v_scope OR p_max_scope COLLATE "C" <> v_scope THEN
        SELECT format('%I.%I', t.schema_name, t.table_name) INTO v_table FROM sync.table_catalog t WHERE t.table_id = p_table_id;
        PERFORM sync.fail('OV032', format('this bundle belongs to scope %s, but a row of another scope was written in %s', v_scope, v_table), NULL,
            'Leave the scope column out, or write each scope in a bundle of its own.');
    END IF;
    INSERT INTO sync.captured_keys (xid, table_id, keys) VALUES (pg_current_xact_id(), p_table_id, p_keys);
END
$$;
COMMENT ON FUNCTION sync.capture(p_table_id integer, p_keys bytea[], p_min_scope text, p_max_scope text) IS 'Notes the keys that a statement touched, for the bundle that this transaction writes. Called by the capture triggers.';
CREATE FUNCTION sync.capture_statement(p_table sync.table_catalog, p_transition_table text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT format('SELECT array_agg(%s), min(n.%I::text COLLATE "C"), max(n.%I::text COLLATE "C") FROM %I AS n',
                  CASE p_table.key_type WHEN 'uuid' THEN format('uuid_send(n.%I)', p_table.key_column)
                                        ELSE format('convert_to(n.%I, ''UTF8'')', p_table.key_column) END,
                  p_table.scope_column, p_table.scope_column, p_transition_table)
$$;
COMMENT ON FUNCTION sync.capture_statement(p_table sync.table_catalog, p_transition_table text) IS 'Text of the query that reads keys and scopes from a transition table.';
CREATE FUNCTION sync.catalog_changed() RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    UPDATE sync.table_catalog t SET apply_order = o.table_position
    FROM sync.table_order o WHERE o.table_id = t.table_id AND t.apply_order <> o.table_position;
    UPDATE sync.catalog_version SET version = version + 1;
$$;
COMMENT ON FUNCTION sync.catalog_changed() IS 'Brings the order of tables up to date and raises the catalog''s version.';
CREATE FUNCTION sync.catalog_entry_now(p_table_id integer) RETURNS sync.table_catalog
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT t FROM sync.table_catalog t WHERE t.table_id = p_table_id
$$;
COMMENT ON FUNCTION sync.catalog_entry_now(p_table_id integer) IS 'Catalog entry of a table.';
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
CREATE FUNCTION sync.close_ordinal_gaps(p_user_pk bigint, p_bundle_seq bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    -- By way of negative numbers, since the new ones may still be in use while the statement runs.
    UPDATE sync.bundle_rows r SET row_ordinal = -n.row_ordinal
    FROM (SELECT o.row_ordinal AS old_ordinal, (row_number() OVER (ORDER BY o.row_ordinal))::integer AS row_ordinal
          FROM sync.bundle_rows o WHERE o.user_pk = p_user_pk AND o.bundle_seq = p_bundle_seq) AS n
    WHERE r.user_pk = p_user_pk AND r.bundle_seq = p_bundle_seq AND r.row_ordinal = n.old_ordinal;
    UPDATE sync.bundle_rows r SET row_ordinal = -r.row_ordinal - 1
    WHERE r.user_pk = p_user_pk AND r.bundle_seq = p_bundle_seq;
END
$$;
COMMENT ON FUNCTION sync.close_ordinal_gaps(p_user_pk bigint, p_bundle_seq bigint) IS 'Numbers the effects of a bundle 0, 1, 2 … again, in the same order.';
CREATE FUNCTION sync.columns_fingerprint(p_relation oid) RETURNS bigint
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT bit_xor(hashtextextended(a.attname::text, a.atttypid::bigint * 4294967296 + a.atttypmod))
    FROM pg_attribute a
    WHERE a.attrelid = p_relation AND a.attnum > 0 AND NOT a.attisdropped
$$;
COMMENT ON FUNCTION sync.columns_fingerprint(p_relation oid) IS 'Number that changes when a column of the table is added, dropped, renamed or retyped.';
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
CREATE UNLOGGED TABLE sync.open_bundles (
    xid xid8 NOT NULL,
    user_pk bigint NOT NULL,
    bundle_seq bigint NOT NULL,
    source_bundle_id bigint NOT NULL,
    push_id uuid,
    row_count bigint DEFAULT 0 NOT NULL,
    live_row_delta bigint DEFAULT 0 NOT NULL,
    live_byte_delta bigint DEFAULT 0 NOT NULL,
    user_id text NOT NULL,
    source_id text NOT NULL
)
WITH (fillfactor='70');
COMMENT ON TABLE sync.open_bundles IS 'The bundle that a running transaction is writing. Capture believes this table and no setting, so that nobody can write into another scope by forging one.';
COMMENT ON COLUMN sync.open_bundles.xid IS 'Transaction that writes the bundle.';
COMMENT ON COLUMN sync.open_bundles.user_pk IS 'Scope, see sync.user_state; its row is locked by the transaction.';
COMMENT ON COLUMN sync.open_bundles.bundle_seq IS 'Sequence that the bundle will have.';
COMMENT ON COLUMN sync.open_bundles.source_bundle_id IS 'Number of the bundle within its source.';
COMMENT ON COLUMN sync.open_bundles.push_id IS 'Push session that is being committed; null for server-side writes.';
COMMENT ON COLUMN sync.open_bundles.row_count IS 'Effects entered in the log so far.';
COMMENT ON COLUMN sync.open_bundles.live_row_delta IS 'How many more live rows the scope has after the bundle.';
COMMENT ON COLUMN sync.open_bundles.live_byte_delta IS 'How many more payload bytes the live rows of the scope have after the bundle.';
COMMENT ON COLUMN sync.open_bundles.user_id IS 'Scope id that every written row must carry.';
COMMENT ON COLUMN sync.open_bundles.source_id IS 'Source that writes.';
CREATE FUNCTION sync.emit(p_table_id integer, p_bundle sync.open_bundles, p_ordinals integer[], p_keys bytea[], p_was_live boolean[], OUT row_count bigint, OUT live_rows bigint, OUT live_bytes bigint) RETURNS record
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
BEGIN
    EXECUTE format('SELECT e.row_count, e.live_rows, e.live_bytes FROM sync.emit_%s($1, $2, $3, $4, $5, $6) AS e', p_table_id)
    INTO row_count, live_rows, live_bytes
    USING p_bundle.user_pk, p_bundle.user_id, p_bundle.bundle_seq, p_ordinals, p_keys, p_was_live;
END
$_$;
COMMENT ON FUNCTION sync.emit(p_table_id integer, p_bundle sync.open_bundles, p_ordinals integer[], p_keys bytea[], p_was_live boolean[], OUT row_count bigint, OUT live_rows bigint, OUT live_bytes bigint) IS 'Writes one table''s effects of a bundle into the log.';
CREATE FUNCTION sync.emit_statement(p_table sync.table_catalog) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;
COMMENT ON FUNCTION sync.emit_statement(p_table sync.table_catalog) IS 'Text of the statement that writes effects of one table from live rows into the log.';
CREATE FUNCTION sync.fail(p_code text, p_message text, p_detail jsonb DEFAULT NULL::jsonb, p_hint text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = p_code, MESSAGE = p_message, DETAIL = coalesce(p_detail::text, ''), HINT = coalesce(p_hint, '');
END
$$;
COMMENT ON FUNCTION sync.fail(p_code text, p_message text, p_detail jsonb, p_hint text) IS 'Raises an error with a code of oversync, a message, machine-readable detail and a hint. Never returns.';
CREATE FUNCTION sync.foreign_key_problems() RETURNS TABLE(problem text, remedy text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
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
CREATE FUNCTION sync.install_capture(p_table sync.table_catalog) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;
COMMENT ON FUNCTION sync.install_capture(p_table sync.table_catalog) IS 'Makes the functions and triggers of a registered table, on its partitions too.';
CREATE FUNCTION sync.key_expression(p_table sync.table_catalog, p_key_bytes text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT CASE p_table.key_type WHEN 'uuid' THEN format('encode(%s, ''hex'')::uuid', p_key_bytes)
                                 ELSE format('convert_from(%s, ''UTF8'')', p_key_bytes) END
$$;
COMMENT ON FUNCTION sync.key_expression(p_table sync.table_catalog, p_key_bytes text) IS 'SQL that makes a key of the table''s type from key bytes.';
CREATE FUNCTION sync.push_apply(p_push_id uuid, p_user_id text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
DECLARE
    v_group record;
BEGIN
    FOR v_group IN
        SELECT s.table_id, s.op FROM sync.staged_rows s JOIN sync.table_catalog t ON t.table_id = s.table_id
        WHERE s.push_id = p_push_id
        GROUP BY s.table_id, s.op, t.apply_order
        ORDER BY s.op = 'D', CASE WHEN s.op = 'D' THEN -t.apply_order ELSE t.apply_order END, s.op
    LOOP
        EXECUTE format('SELECT sync.apply_%s($1, $2, 0, 2147483647, $3)', v_group.table_id) USING p_push_id, p_user_id, v_group.op;
    END LOOP;
    SET CONSTRAINTS ALL IMMEDIATE;
END
$_$;
COMMENT ON FUNCTION sync.push_apply(p_push_id uuid, p_user_id text) IS 'Applies all staged rows of a push grouped by table: upserts parents first, then deletes children first.';
CREATE FUNCTION sync.push_apply_in_order(p_push_id uuid, p_user_id text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
DECLARE
    v_run record;
BEGIN
    FOR v_run IN
        WITH marked AS (
            SELECT s.row_ordinal, s.table_id, s.op,
                   s.row_ordinal - row_number() OVER (PARTITION BY s.table_id, s.op ORDER BY s.row_ordinal) AS run
            FROM sync.staged_rows s WHERE s.push_id = p_push_id
        )
        SELECT m.table_id, m.op, min(m.row_ordinal) AS first_row, max(m.row_ordinal) AS last_row
        FROM marked m GROUP BY m.table_id, m.op, m.run ORDER BY first_row
    LOOP
        EXECUTE format('SELECT sync.apply_%s($1, $2, $3, $4, $5)', v_run.table_id) USING p_push_id, p_user_id, v_run.first_row, v_run.last_row, v_run.op;
    END LOOP;
    SET CONSTRAINTS ALL IMMEDIATE;
END
$_$;
COMMENT ON FUNCTION sync.push_apply_in_order(p_push_id uuid, p_user_id text) IS 'Applies all staged rows of a push strictly in push order.';
CREATE FUNCTION sync.push_commit(p_push_id uuid, p_user_id text, p_source_id text, p_max_rows bigint, p_lease_ttl interval) RETURNS TABLE(bundle_seq bigint, source_bundle_id bigint, row_count bigint)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_user sync.user_state;
    v_session sync.push_sessions;
    v_next bigint;
    v_conflict jsonb;
    v_row_count bigint;
    v_distinct bigint;
BEGIN
    SELECT u.* INTO v_user FROM sync.user_state u WHERE u.user_id = p_user_id FOR NO KEY UPDATE;
    v_session := sync.push_session(p_push_id, v_user.user_pk, p_source_id);
    IF v_session.initialization_id IS NOT NULL THEN
        PERFORM sync.require_lease(v_user, v_session, p_lease_ttl);
    ELSE
        PERFORM sync.require_initialized(v_user, p_user_id);
    END IF;
    v_next := sync.source_next(v_user.user_pk, p_source_id);
    IF v_next <> v_session.source_bundle_id THEN
        PERFORM sync.fail('OV007', format('source %s must commit source_bundle_id %s next, not %s', p_source_id, v_next, v_session.source_bundle_id),
            jsonb_build_object('expected', v_session.source_bundle_id, 'actual', v_next), 'Take a snapshot with a source replacement.');
    ELSIF v_session.staged_row_count <> v_session.planned_row_count THEN
        PERFORM sync.fail('OV012', format('%s of %s planned rows are staged', v_session.staged_row_count, v_session.planned_row_count), NULL, 'Upload the remaining chunks.');
    END IF;
    IF v_session.planned_row_count > 1 THEN
        SELECT count(*) INTO v_distinct FROM (SELECT DISTINCT s.table_id, s.key_bytes FROM sync.staged_rows s WHERE s.push_id = p_push_id) AS d;
        IF v_distinct <> v_session.planned_row_count THEN
            PERFORM sync.fail('OV012', 'a row is pushed more than once', NULL, 'Push each row once, in its final state.');
        END IF;
    END IF;
    v_conflict := sync.push_conflict(p_push_id, v_user.user_pk);
    IF v_conflict IS NOT NULL THEN
        PERFORM sync.fail('OV013', 'a row was changed by someone else since the client last saw it', v_conflict, 'Resolve the conflict and push again.');
    END IF;
    PERFORM sync.bundle_begin(v_user, p_source_id, v_session.source_bundle_id, p_push_id);
    SET CONSTRAINTS ALL DEFERRED;
    IF v_session.planned_row_count = 1 THEN
        PERFORM sync.push_apply(p_push_id, p_user_id);
    ELSE
        BEGIN
            PERFORM sync.push_apply(p_push_id, p_user_id);
        EXCEPTION WHEN integrity_constraint_violation OR raise_exception THEN
            -- A value that moves from one row to another, say, is refused in this order but not in the client's.
            SET CONSTRAINTS ALL DEFERRED;
            PERFORM sync.push_apply_in_order(p_push_id, p_user_id);
        END;
    END IF;
    v_row_count := sync.bundle_emit();
    IF v_row_count = 0 THEN
        PERFORM sync.fail('OV012', 'the push has no effect', NULL, 'Nothing that was pushed changed a row; drop it.');
    ELSIF v_row_count > p_max_rows AND p_max_rows > 0 THEN
        PERFORM sync.fail('OV012', format('the bundle has %s rows, more than the %s allowed', v_row_count, p_max_rows), NULL, 'Push fewer rows at a time.');
    END IF;
    RETURN QUERY SELECT v_user.next_bundle_seq, v_session.source_bundle_id, v_row_count;
END
$$;
COMMENT ON FUNCTION sync.push_commit(p_push_id uuid, p_user_id text, p_source_id text, p_max_rows bigint, p_lease_ttl interval) IS 'Judges a staged push, applies it and writes its log; sync.bundle_close then ends it.';
CREATE FUNCTION sync.push_conflict(p_push_id uuid, p_user_pk bigint) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
    SELECT jsonb_build_object(
        'table_id', s.table_id, 'key_bytes', encode(s.key_bytes, 'hex'), 'op', s.op, 'base_row_version', s.base_row_version,
        'server_row_version', coalesce(newest.bundle_seq, 0), 'server_row_deleted', coalesce(newest.op = 'D', false),
        -- As text: jsonb would not keep the row as it is on the wire.
        'server_row', newest.payload)
    FROM sync.staged_rows s
    LEFT JOIN LATERAL (
        SELECT r.bundle_seq, r.op, r.payload FROM sync.bundle_rows r
        WHERE r.user_pk = p_user_pk AND r.table_id = s.table_id AND r.key_bytes = s.key_bytes
        ORDER BY r.bundle_seq DESC LIMIT 1
    ) AS newest ON true
    WHERE s.push_id = p_push_id
      AND (s.base_row_version <> coalesce(newest.bundle_seq, 0)
           OR (s.op = 'I') = (newest.op IS NOT NULL AND newest.op <> 'D'))
    ORDER BY s.row_ordinal LIMIT 1
$$;
COMMENT ON FUNCTION sync.push_conflict(p_push_id uuid, p_user_pk bigint) IS 'The first staged row that conflicts with the state of the log, or null.';
CREATE FUNCTION sync.push_create(p_user_id text, p_source_id text, p_source_bundle_id bigint, p_planned_row_count bigint, p_initialization_id text, p_session_ttl interval, p_lease_ttl interval) RETURNS TABLE(push_id uuid, bundle_seq bigint, row_count bigint, bundle_hash bytea)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_user sync.user_state;
    v_next bigint;
BEGIN
    -- Losing a session costs a client a retry, never a row: nobody waits for the disk here.
    PERFORM set_config('synchronous_commit', 'off', true);
    SELECT u.* INTO v_user FROM sync.user_state u WHERE u.user_id = p_user_id;
    RETURN QUERY
        SELECT NULL::uuid, l.bundle_seq, l.row_count, l.bundle_hash FROM sync.bundle_log l
        WHERE l.user_pk = v_user.user_pk AND l.source_id = p_source_id AND l.source_bundle_id = p_source_bundle_id
          AND l.bundle_seq > v_user.retained_bundle_floor;
    IF FOUND THEN
        PERFORM nextval('sync.push_replay_count');
        RETURN;
    END IF;
    PERFORM sync.require_initialization(v_user, p_user_id, p_source_id, p_initialization_id, p_lease_ttl);
    v_next := sync.source_next(v_user.user_pk, p_source_id);
    IF p_source_bundle_id < v_next THEN
        PERFORM nextval('sync.history_pruned_count');
        PERFORM sync.fail('OV022', format('source_bundle_id %s of source %s was committed and is pruned', p_source_bundle_id, p_source_id),
            jsonb_build_object('source_bundle_id', p_source_bundle_id, 'last_source_bundle_id', v_next - 1),
            'Take a snapshot with a source replacement.');
    ELSIF p_source_bundle_id > v_next THEN
        PERFORM sync.fail('OV006', format('source %s must commit source_bundle_id %s next, not %s', p_source_id, v_next, p_source_bundle_id),
            jsonb_build_object('expected', v_next, 'actual', p_source_bundle_id), 'Take a snapshot with a source replacement.');
    END IF;
    DELETE FROM sync.push_chunks c USING sync.push_sessions s
    WHERE s.user_pk = v_user.user_pk AND s.source_id = p_source_id AND s.source_bundle_id = p_source_bundle_id AND c.push_id = s.push_id;
    RETURN QUERY
        INSERT INTO sync.push_sessions AS s (user_pk, source_id, source_bundle_id, planned_row_count, initialization_id, expires_at)
        VALUES (v_user.user_pk, p_source_id, p_source_bundle_id, p_planned_row_count, p_initialization_id, clock_timestamp() + p_session_ttl)
        ON CONFLICT ON CONSTRAINT one_session_a_bundle DO UPDATE
        SET push_id = excluded.push_id, planned_row_count = excluded.planned_row_count, staged_row_count = 0,
            initialization_id = excluded.initialization_id, expires_at = excluded.expires_at
        RETURNING s.push_id, NULL::bigint, NULL::bigint, NULL::bytea;
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
        PERFORM sync.fail('OV015', format('push session %s belongs to another user or source', p_push_id));
    END IF;
    DELETE FROM sync.push_chunks c WHERE c.push_id = p_push_id;
END
$$;
COMMENT ON FUNCTION sync.push_delete(p_push_id uuid, p_user_id text, p_source_id text) IS 'Ends a push session and its staged rows.';
CREATE UNLOGGED TABLE sync.push_sessions (
    push_id uuid DEFAULT gen_random_uuid() NOT NULL,
    user_pk bigint NOT NULL,
    source_bundle_id bigint NOT NULL,
    planned_row_count bigint NOT NULL,
    staged_row_count bigint DEFAULT 0 NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    source_id text NOT NULL,
    initialization_id text
)
WITH (fillfactor='70');
COMMENT ON TABLE sync.push_sessions IS 'Pushes that are being staged. A session goes when it is committed, deleted, replaced or expired.';
COMMENT ON COLUMN sync.push_sessions.push_id IS 'Id that the client uses.';
COMMENT ON COLUMN sync.push_sessions.user_pk IS 'Scope, see sync.user_state.';
COMMENT ON COLUMN sync.push_sessions.source_bundle_id IS 'Number that the bundle will have within its source.';
COMMENT ON COLUMN sync.push_sessions.planned_row_count IS 'Rows that the client said it would push.';
COMMENT ON COLUMN sync.push_sessions.staged_row_count IS 'Rows staged so far; the next chunk must start at this ordinal.';
COMMENT ON COLUMN sync.push_sessions.expires_at IS 'When the session ends unless another chunk comes.';
COMMENT ON COLUMN sync.push_sessions.source_id IS 'Source that pushes.';
COMMENT ON COLUMN sync.push_sessions.initialization_id IS 'Lease under which a first push initializes its scope.';
CREATE FUNCTION sync.push_session(p_push_id uuid, p_user_pk bigint, p_source_id text) RETURNS sync.push_sessions
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_session sync.push_sessions;
BEGIN
    SELECT s.* INTO v_session FROM sync.push_sessions s WHERE s.push_id = p_push_id FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM sync.fail('OV014', format('push session %s does not exist', p_push_id), NULL, 'Create a session again; if its bundle is committed, that says so.');
    ELSIF v_session.user_pk IS DISTINCT FROM p_user_pk OR v_session.source_id <> p_source_id THEN
        PERFORM sync.fail('OV015', format('push session %s belongs to another user or source', p_push_id));
    ELSIF v_session.expires_at <= clock_timestamp() THEN
        PERFORM sync.fail('OV016', format('push session %s has expired', p_push_id), NULL, 'Create a session again.');
    END IF;
    RETURN v_session;
END
$$;
COMMENT ON FUNCTION sync.push_session(p_push_id uuid, p_user_pk bigint, p_source_id text) IS 'The push session of this user and source, locked.';
CREATE FUNCTION sync.push_stage(p_push_id uuid, p_user_id text, p_source_id text, p_start_row_ordinal bigint, p_catalog_version bigint, p_table_ids integer[], p_ops text, p_base_row_versions bigint[], p_keys bytea[], p_payloads text[], p_session_ttl interval, p_lease_ttl interval) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v_user sync.user_state;
    v_session sync.push_sessions;
    v_next bigint;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    SELECT u.* INTO v_user FROM sync.user_state u WHERE u.user_id = p_user_id;
    v_session := sync.push_session(p_push_id, v_user.user_pk, p_source_id);
    IF v_session.initialization_id IS NOT NULL THEN
        PERFORM sync.require_lease(v_user, v_session, p_lease_ttl);
    END IF;
    IF p_start_row_ordinal <> v_session.staged_row_count THEN
        PERFORM sync.fail('OV011', format('the next chunk of push session %s starts at row %s, not %s', p_push_id, v_session.staged_row_count, p_start_row_ordinal),
            jsonb_build_object('expected', v_session.staged_row_count, 'actual', p_start_row_ordinal));
    END IF;
    v_next := v_session.staged_row_count + cardinality(p_table_ids);
    IF v_next > v_session.planned_row_count THEN
        PERFORM sync.fail('OV010', format('%s rows are more than the %s planned', v_next, v_session.planned_row_count));
    END IF;
    IF p_catalog_version <> (SELECT c.version FROM sync.catalog_version c) THEN
        PERFORM sync.fail('OV021', 'the catalog of tables has changed');
    END IF;
    INSERT INTO sync.push_chunks (push_id, start_row_ordinal, table_ids, ops, base_row_versions, keys, payloads)
    VALUES (p_push_id, p_start_row_ordinal, p_table_ids, p_ops, p_base_row_versions, p_keys, p_payloads);
    UPDATE sync.push_sessions s SET staged_row_count = v_next, expires_at = clock_timestamp() + p_session_ttl WHERE s.push_id = p_push_id;
    RETURN v_next;
END
$$;
COMMENT ON FUNCTION sync.push_stage(p_push_id uuid, p_user_id text, p_source_id text, p_start_row_ordinal bigint, p_catalog_version bigint, p_table_ids integer[], p_ops text, p_base_row_versions bigint[], p_keys bytea[], p_payloads text[], p_session_ttl interval, p_lease_ttl interval) IS 'Adds a chunk of rows to a push session and returns the ordinal of the next row.';
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
CREATE FUNCTION sync.register_table(tbl regclass, sync_key name DEFAULT NULL::name, scope name DEFAULT '_sync_scope_id'::name, policy text DEFAULT 'reject'::text) RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
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
COMMENT ON FUNCTION sync.register_table(tbl regclass, sync_key name, scope name, policy text) IS 'Makes a table part of sync: SELECT sync.register_table(''business.users'', sync_key => ''id''). Says what to mend when the table cannot be.';
CREATE FUNCTION sync.registration_problems(p_relation regclass, p_key name, p_scope name) RETURNS TABLE(problem text, remedy text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;
COMMENT ON FUNCTION sync.registration_problems(p_relation regclass, p_key name, p_scope name) IS 'What keeps a table from being registered, and the remedy of each; no row means that it can be.';
CREATE FUNCTION sync.remove_capture(p_table sync.table_catalog) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
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
COMMENT ON FUNCTION sync.remove_capture(p_table sync.table_catalog) IS 'Drops the functions and triggers of a table.';
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
CREATE FUNCTION sync.require_lease(p_user sync.user_state, p_session sync.push_sessions, p_lease_ttl interval) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF p_user.state = 'initialized' THEN
        PERFORM sync.fail('OV003', 'the scope was initialized by another source meanwhile', NULL, 'Call POST /sync/connect again.');
    END IF;
    PERFORM sync.require_initialization(p_user, p_user.user_id, p_session.source_id, p_session.initialization_id, p_lease_ttl);
END
$$;
COMMENT ON FUNCTION sync.require_lease(p_user sync.user_state, p_session sync.push_sessions, p_lease_ttl interval) IS 'Checks and renews the lease under which a push session initializes its scope.';
CREATE FUNCTION sync.scope_in_bundle() RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT b.user_id FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id_if_assigned()
$$;
COMMENT ON FUNCTION sync.scope_in_bundle() IS 'Scope id of the bundle that this transaction writes, or null outside one. Registration makes it the default of scope columns.';
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
        ON CONFLICT ON CONSTRAINT one_snapshot_a_source DO UPDATE
        SET snapshot_id = excluded.snapshot_id, snapshot_bundle_seq = excluded.snapshot_bundle_seq, row_count = excluded.row_count,
            byte_count = excluded.byte_count, created_at = excluded.created_at, expires_at = excluded.expires_at
        RETURNING s.snapshot_id, s.snapshot_bundle_seq, s.row_count, s.byte_count, s.expires_at;
END
$$;
COMMENT ON FUNCTION sync.snapshot_create(p_user_id text, p_source_id text, p_ttl interval, p_max_rows bigint, p_max_bytes bigint, p_new_source_id text, p_reason text) IS 'Freezes a scope at its newest sequence for a client to read, with or without a source replacement.';
CREATE FUNCTION sync.snapshot_rows(p_user_pk bigint, p_bundle_seq bigint, p_after_table_id integer, p_after_key bytea, p_skip bigint, p_limit bigint) RETURNS TABLE(table_id integer, key_bytes bytea, row_version bigint, payload text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_sort TO 'off'
    SET enable_hashagg TO 'off'
    AS $$
    SELECT n.table_id, n.key_bytes, n.bundle_seq, n.payload
    FROM (SELECT DISTINCT ON (r.table_id, r.key_bytes) r.table_id, r.key_bytes, r.bundle_seq, r.op, r.payload
          FROM sync.bundle_rows r
          WHERE r.user_pk = p_user_pk AND r.bundle_seq <= p_bundle_seq AND (r.table_id, r.key_bytes) > (p_after_table_id, p_after_key)
          ORDER BY r.table_id, r.key_bytes, r.bundle_seq DESC) AS n
    WHERE n.op <> 'D' AND n.table_id IN (SELECT t.table_id FROM sync.table_catalog t WHERE t.unregistered_at IS NULL)
    ORDER BY n.table_id, n.key_bytes
    OFFSET p_skip LIMIT p_limit
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
    INSERT INTO sync.source_state (user_pk, source_id, state) VALUES (p_user_pk, p_new_source_id, 'reserved');
    INSERT INTO sync.source_state AS s (user_pk, source_id, state, replaced_by_source_id, replacement_reason)
    VALUES (p_user_pk, p_previous_source_id, 'retired', p_new_source_id, p_reason)
    ON CONFLICT ON CONSTRAINT source_state_pkey DO UPDATE
    SET state = excluded.state, replaced_by_source_id = excluded.replaced_by_source_id,
        replacement_reason = excluded.replacement_reason, updated_at = now();
END
$$;
COMMENT ON FUNCTION sync.source_replace(p_user_pk bigint, p_previous_source_id text, p_new_source_id text, p_reason text) IS 'Retires a source in favour of a new one.';
CREATE FUNCTION sync.unregister_table(tbl regclass) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
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
COMMENT ON FUNCTION sync.unregister_table(tbl regclass) IS 'Takes a table out of sync and leaves it as it was found; history stays readable.';
CREATE TABLE sync.bundle_log (
    user_pk bigint NOT NULL,
    bundle_seq bigint NOT NULL,
    source_bundle_id bigint NOT NULL,
    row_count bigint NOT NULL,
    byte_count bigint,
    committed_at timestamp with time zone DEFAULT now() NOT NULL,
    source_id text NOT NULL,
    bundle_hash bytea,
    CONSTRAINT bundle_has_rows CHECK ((row_count > 0)),
    CONSTRAINT hash_and_bytes_come_together CHECK (((bundle_hash IS NULL) = (byte_count IS NULL)))
);
COMMENT ON TABLE sync.bundle_log IS 'One row per bundle: all effects of one committed transaction in one scope. Append-only until retention removes it.';
COMMENT ON COLUMN sync.bundle_log.user_pk IS 'Scope, see sync.user_state.';
COMMENT ON COLUMN sync.bundle_log.bundle_seq IS '1, 2, 3 … per scope, without gaps, in commit order.';
COMMENT ON COLUMN sync.bundle_log.source_bundle_id IS '1, 2, 3 … per source: with the source it makes a push idempotent.';
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
    payload text,
    CONSTRAINT only_delete_has_no_payload CHECK (((op = 'D'::"char") = (payload IS NULL))),
    CONSTRAINT op_is_known CHECK ((op = ANY (ARRAY['I'::"char", 'U'::"char", 'D'::"char"])))
);
COMMENT ON TABLE sync.bundle_rows IS 'One row per effect of a bundle. The newest entry of a key is the state of that row: its version, whether it is deleted, its content.';
COMMENT ON COLUMN sync.bundle_rows.user_pk IS 'Scope, see sync.user_state.';
COMMENT ON COLUMN sync.bundle_rows.bundle_seq IS 'Bundle that the effect belongs to; on the wire the row_version.';
COMMENT ON COLUMN sync.bundle_rows.row_ordinal IS '0, 1, 2 … in the order in which clients see the effects.';
COMMENT ON COLUMN sync.bundle_rows.table_id IS 'Table, see sync.table_catalog.';
COMMENT ON COLUMN sync.bundle_rows.op IS 'I insert, U update, D delete.';
COMMENT ON COLUMN sync.bundle_rows.key_bytes IS 'Key of the row: 16 bytes for uuid, UTF-8 for text.';
COMMENT ON COLUMN sync.bundle_rows.payload IS 'The whole row after the change as wire JSON, scope column left out; null for a delete.';
CREATE UNLOGGED TABLE sync.captured_keys (
    xid xid8 NOT NULL,
    capture_no bigint NOT NULL,
    table_id integer NOT NULL,
    keys bytea[] NOT NULL
);
ALTER TABLE ONLY sync.captured_keys ALTER COLUMN keys SET STORAGE EXTERNAL;
COMMENT ON TABLE sync.captured_keys IS 'One row per statement that touched a registered table in a running transaction: the keys it touched. The log is made from the live rows of these keys when the bundle is finished, so it holds what the transaction left, whatever triggers did on the way.';
COMMENT ON COLUMN sync.captured_keys.xid IS 'Transaction that touched the keys.';
COMMENT ON COLUMN sync.captured_keys.capture_no IS 'Order in which statements were captured.';
COMMENT ON COLUMN sync.captured_keys.table_id IS 'Table, see sync.table_catalog.';
COMMENT ON COLUMN sync.captured_keys.keys IS 'Keys touched, in the order of the statement; a changed key as its old and its new value.';
ALTER TABLE sync.captured_keys ALTER COLUMN capture_no ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME sync.captured_keys_capture_no_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE sync.catalog_version (
    only_row boolean DEFAULT true NOT NULL,
    version bigint NOT NULL,
    CONSTRAINT has_one_row CHECK (only_row)
);
COMMENT ON TABLE sync.catalog_version IS 'One row, raised by each change of the catalog: servers notice by it that what they remember of tables is old.';
COMMENT ON COLUMN sync.catalog_version.only_row IS 'Always true: keeps this table at one row.';
COMMENT ON COLUMN sync.catalog_version.version IS 'Number of the catalog''s present content.';
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
COMMENT ON TABLE sync.push_chunks IS 'Staged rows, a row per chunk, as arrays that go together; sync.staged_rows shows them row by row.';
COMMENT ON COLUMN sync.push_chunks.push_id IS 'Session, see sync.push_sessions.';
COMMENT ON COLUMN sync.push_chunks.start_row_ordinal IS 'Ordinal of the first row of the chunk.';
COMMENT ON COLUMN sync.push_chunks.table_ids IS 'Table of each row.';
COMMENT ON COLUMN sync.push_chunks.ops IS 'Operation of each row, a letter each: I, U or D.';
COMMENT ON COLUMN sync.push_chunks.base_row_versions IS 'Version that the client last saw of each row.';
COMMENT ON COLUMN sync.push_chunks.keys IS 'Key of each row.';
COMMENT ON COLUMN sync.push_chunks.payloads IS 'Payload of each row as JSON that json_populate_record reads; null for a delete.';
CREATE SEQUENCE sync.push_replay_count
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
COMMENT ON SEQUENCE sync.push_replay_count IS 'Counts pushes answered with the bundle that they had already committed.';
CREATE SEQUENCE sync.rejected_write_count
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
COMMENT ON SEQUENCE sync.rejected_write_count IS 'Counts statements refused because they wrote a registered table outside a bundle.';
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
COMMENT ON COLUMN sync.snapshot_sessions.source_id IS 'Source that asked for it; a later one of the same source replaces it.';
CREATE TABLE sync.source_state (
    user_pk bigint NOT NULL,
    source_id text NOT NULL,
    state text DEFAULT 'active'::text NOT NULL,
    last_source_bundle_id bigint DEFAULT 0 NOT NULL,
    replaced_by_source_id text,
    replacement_reason text,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT retired_names_its_replacement CHECK ((((state = 'retired'::text) = (replaced_by_source_id IS NOT NULL)) AND ((state = 'retired'::text) = (replacement_reason IS NOT NULL)))),
    CONSTRAINT source_id_has_1_to_255_bytes CHECK (((octet_length(source_id) >= 1) AND (octet_length(source_id) <= 255))),
    CONSTRAINT state_is_known CHECK ((state = ANY (ARRAY['active'::text, 'reserved'::text, 'retired'::text])))
)
WITH (fillfactor='70');
COMMENT ON TABLE sync.source_state IS 'One row per source (device or server-side writer) of a scope that has committed or was announced.';
COMMENT ON COLUMN sync.source_state.user_pk IS 'Scope, see sync.user_state.';
COMMENT ON COLUMN sync.source_state.source_id IS 'Name that the writer chose for itself.';
COMMENT ON COLUMN sync.source_state.state IS 'active, reserved (announced as a replacement, nothing committed yet) or retired (replaced by another source).';
COMMENT ON COLUMN sync.source_state.last_source_bundle_id IS 'Highest source_bundle_id committed; the next push must carry the one after it.';
COMMENT ON COLUMN sync.source_state.replaced_by_source_id IS 'Source that took over from a retired one.';
COMMENT ON COLUMN sync.source_state.replacement_reason IS 'Why it was retired, as its client said.';
COMMENT ON COLUMN sync.source_state.updated_at IS 'When this row last changed.';
CREATE VIEW sync.staged_rows AS
 SELECT c.push_id,
    ((c.start_row_ordinal + (r.place)::integer) - 1) AS row_ordinal,
    r.table_id,
    (r.op)::"char" AS op,
    r.base_row_version,
    r.key_bytes,
    r.payload
   FROM (sync.push_chunks c
     CROSS JOIN LATERAL ROWS FROM(unnest(c.table_ids), string_to_table(c.ops, NULL::text), unnest(c.base_row_versions), unnest(c.keys), unnest(c.payloads)) WITH ORDINALITY r(table_id, op, base_row_version, key_bytes, payload, place));
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
CREATE VIEW sync.table_columns AS
 SELECT t.table_id,
    a.attname AS column_name,
    format_type(a.atttypid, a.atttypmod) AS data_type,
    (COALESCE(NULLIF(b.typbasetype, (0)::oid), b.oid) = ('bytea'::regtype)::oid) AS is_bytea,
    (a.attname = t.key_column) AS is_key,
    (a.attname = t.scope_column) AS is_scope,
    ((a.attgenerated <> ''::"char") OR (a.attidentity <> ''::"char")) AS is_generated
   FROM ((sync.table_catalog t
     JOIN pg_attribute a ON (((a.attrelid = (t.relation)::oid) AND (a.attnum > 0) AND (NOT a.attisdropped))))
     JOIN pg_type b ON ((b.oid = a.atttypid)))
  WHERE (t.unregistered_at IS NULL);
COMMENT ON VIEW sync.table_columns IS 'Columns of registered tables as they are now, and the part that each plays on the wire.';
COMMENT ON COLUMN sync.table_columns.table_id IS 'Table, see sync.table_catalog.';
COMMENT ON COLUMN sync.table_columns.column_name IS 'Column.';
COMMENT ON COLUMN sync.table_columns.data_type IS 'Type as PostgreSQL writes it.';
COMMENT ON COLUMN sync.table_columns.is_bytea IS 'Travels as base64.';
COMMENT ON COLUMN sync.table_columns.is_key IS 'Identifies the row within its scope.';
COMMENT ON COLUMN sync.table_columns.is_scope IS 'Says whose row it is; never travels.';
COMMENT ON COLUMN sync.table_columns.is_generated IS 'Generated or identity: sent to clients, ignored when pushed.';
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
ALTER TABLE sync.user_state ALTER COLUMN user_pk ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME sync.user_state_user_pk_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
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
ALTER TABLE ONLY sync.snapshot_sessions
    ADD CONSTRAINT one_snapshot_a_source UNIQUE (user_pk, source_id);
ALTER TABLE ONLY sync.open_bundles
    ADD CONSTRAINT open_bundles_pkey PRIMARY KEY (xid);
ALTER TABLE ONLY sync.push_chunks
    ADD CONSTRAINT push_chunks_pkey PRIMARY KEY (push_id, start_row_ordinal);
ALTER TABLE ONLY sync.push_sessions
    ADD CONSTRAINT push_sessions_pkey PRIMARY KEY (push_id);
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
CREATE INDEX push_sessions_by_expiry ON sync.push_sessions USING btree (expires_at);
COMMENT ON INDEX sync.push_sessions_by_expiry IS 'Finds expired sessions.';
CREATE UNIQUE INDEX relation_is_registered_once ON sync.table_catalog USING btree (relation) WHERE (unregistered_at IS NULL);
CREATE INDEX snapshot_sessions_by_expiry ON sync.snapshot_sessions USING btree (expires_at);
COMMENT ON INDEX sync.snapshot_sessions_by_expiry IS 'Finds expired sessions.';
CREATE CONSTRAINT TRIGGER registered_tables_are_closed_over_foreign_keys AFTER INSERT OR UPDATE ON sync.table_catalog DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sync.check_foreign_keys();
COMMENT ON TRIGGER registered_tables_are_closed_over_foreign_keys ON sync.table_catalog IS 'Judged at the end of the transaction.';
