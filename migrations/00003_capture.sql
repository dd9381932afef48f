-- Bundles and capture: how the writes of a transaction become one bundle of its scope.
--
--   sync.bundle_open      locks the scope's row and gives the bundle its sequence number
--   sync.capture          is called by the triggers of each registered table, and notes the keys that a statement touched
--   sync.bundle_emit      writes the log from the live rows of those keys, one effect a row
--   sync.bundle_close     enters the bundle with its hash and moves the scope on
--
-- The log is made at the end because a statement run by a trigger or a foreign-key action is captured before the
-- statement that caused it: what was captured on the way need not be how a row ends.
--
-- Locks: creates new objects only.

-- +goose Up
-- +goose StatementBegin
--
-- Rules about sources, shared by pushes and server-side writes.
--
-- sync.source_next returns the source_bundle_id that the source must commit next.
-- Errors: OV008 source retired. Locks: none; holds only as long as the scope's row is locked.
CREATE FUNCTION sync.source_next(p_user_pk bigint, p_source_id text)
RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION sync.source_next(bigint, text) IS 'The source_bundle_id that a source must commit next; raises OV008 if the source is retired.';

--
-- Opening a bundle.
--
-- sync.bundle_begin notes that this transaction writes the next bundle of a scope whose row it has locked.
-- Errors: 23505 if the transaction already writes a bundle. Locks: none beyond the caller's.
CREATE FUNCTION sync.bundle_begin(p_user sync.user_state, p_source_id text, p_source_bundle_id bigint, p_push_id uuid)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO sync.open_bundles (xid, user_pk, user_id, bundle_seq, source_id, source_bundle_id, push_id)
    VALUES (pg_current_xact_id(), p_user.user_pk, p_user.user_id, p_user.next_bundle_seq, p_source_id, p_source_bundle_id, p_push_id)
$$;
COMMENT ON FUNCTION sync.bundle_begin(sync.user_state, text, bigint, uuid) IS 'Notes that this transaction writes the next bundle of a scope that it has locked.';

-- sync.bundle_open begins a server-side bundle in this transaction: registered tables may then be written in that scope.
-- p_source_bundle_id null means the source's next. p_initialize makes an uninitialized scope initialized.
-- Errors: OV001 scope uninitialized, OV002 scope initializing, OV006 wrong source_bundle_id, OV008 source retired,
-- OV022 source_bundle_id already pruned. Locks: the scope's row until the transaction ends.
CREATE FUNCTION sync.bundle_open(p_user_id text, p_source_id text, p_source_bundle_id bigint, p_initialize boolean)
RETURNS TABLE (bundle_seq bigint, source_bundle_id bigint, auto_initialized boolean)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION sync.bundle_open(text, text, bigint, boolean) IS 'Begins a server-side bundle in this transaction. Finish it with sync.bundle_emit and sync.bundle_close.';

-- sync.require_initialized checks that the scope may be read and written.
-- Errors: OV001 scope uninitialized (also for a null row), OV002 scope initializing, with the end of the lease. Locks: none.
CREATE FUNCTION sync.require_initialized(p_user sync.user_state, p_user_id text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION sync.require_initialized(sync.user_state, text) IS 'Raises OV001 or OV002 unless the scope is initialized.';

--
-- Capturing.
--
-- sync.scope_in_bundle returns the scope id that this transaction writes a bundle for, or null. It is the default of scope columns.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.scope_in_bundle()
RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT b.user_id FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id_if_assigned()
$$;
COMMENT ON FUNCTION sync.scope_in_bundle() IS 'Scope id of the bundle that this transaction writes, or null outside one. Registration makes it the default of scope columns.';

-- sync.capture notes that a statement touched these keys of a registered table. Triggers call it.
-- p_min_scope and p_max_scope are the least and greatest scope among the touched rows: equal unless the statement crossed scopes.
-- Errors: OV031 write outside a bundle (counted), OV032 row of another scope. Locks: none.
CREATE FUNCTION sync.capture(p_table_id integer, p_keys bytea[], p_min_scope text, p_max_scope text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION sync.capture(integer, bytea[], text, text) IS 'Notes the keys that a statement touched, for the bundle that this transaction writes. Called by the capture triggers.';

-- sync.refuse_truncate is the trigger function that refuses TRUNCATE of a registered table.
-- Errors: 55000 always. Locks: none.
CREATE FUNCTION sync.refuse_truncate()
RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = '55000',
        MESSAGE = format('table %I.%I is synced and cannot be truncated', TG_TABLE_SCHEMA, TG_TABLE_NAME),
        HINT = 'Use DELETE, which clients learn of, or sync.unregister_table first.';
END
$$;
COMMENT ON FUNCTION sync.refuse_truncate() IS 'Trigger function: refuses TRUNCATE of a registered table with SQLSTATE 55000.';

--
-- Emitting.
--
-- sync.emit writes one table's effects of the bundle into the log, by the function that registration made for that table.
-- p_ordinals, p_keys and p_was_live go together: place in the bundle, key, and whether the log had the row live before.
-- Returns how many effects were written, and the change in live rows and in bytes of live payloads (new ones only).
-- Errors: none of its own. Locks: none.
CREATE FUNCTION sync.emit(p_table_id integer, p_bundle sync.open_bundles, p_ordinals integer[], p_keys bytea[], p_was_live boolean[],
    OUT row_count bigint, OUT live_rows bigint, OUT live_bytes bigint)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format('SELECT e.row_count, e.live_rows, e.live_bytes FROM sync.emit_%s($1, $2, $3, $4, $5, $6) AS e', p_table_id)
    INTO row_count, live_rows, live_bytes
    USING p_bundle.user_pk, p_bundle.user_id, p_bundle.bundle_seq, p_ordinals, p_keys, p_was_live;
END
$$;
COMMENT ON FUNCTION sync.emit(integer, sync.open_bundles, integer[], bytea[], boolean[]) IS 'Writes one table''s effects of a bundle into the log.';

-- sync.bundle_emit writes the log of the bundle that this transaction has open, from the live rows of the captured keys.
-- Rows that a push named come first, in its order; the others follow in the order in which they were first touched.
-- Returns the number of effects. Errors: whatever a deferred constraint or trigger of the application raises. Locks: none.
CREATE FUNCTION sync.bundle_emit()
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
-- Sizes of arrays are unknown to the planner: without these it would loop over rows where a hash join is right,
-- and scan the log where its index gives the newest version at once.
SET enable_nestloop = off
SET enable_seqscan = off
SET enable_bitmapscan = off
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

-- sync.close_ordinal_gaps numbers the effects of a bundle 0, 1, 2 … again, in the same order.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.close_ordinal_gaps(p_user_pk bigint, p_bundle_seq bigint)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION sync.close_ordinal_gaps(bigint, bigint) IS 'Numbers the effects of a bundle 0, 1, 2 … again, in the same order.';

--
-- Closing.
--
-- sync.bundle_close enters the emitted bundle with its hash, and moves the scope and the source on.
-- History older than the newest p_retained_bundles is refused from now on; deleting it is left to sync.prune.
-- Errors: none of its own. Locks: the scope's row, which the transaction holds already.
CREATE FUNCTION sync.bundle_close(p_bundle_hash bytea, p_byte_count bigint, p_retained_bundles bigint)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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
        retained_bundle_floor = greatest(u.retained_bundle_floor, v_bundle.bundle_seq - p_retained_bundles),
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
COMMENT ON FUNCTION sync.bundle_close(bytea, bigint, bigint) IS 'Enters the emitted bundle with its hash and byte count, and moves the scope and the source on.';

-- sync.bundle_abandon ends a bundle that has no effects: a bundle without rows is no bundle, and uses no sequence number.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.bundle_abandon()
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    DELETE FROM sync.captured_keys c WHERE c.xid = pg_current_xact_id();
    DELETE FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id();
$$;
COMMENT ON FUNCTION sync.bundle_abandon() IS 'Ends a bundle without effects: no sequence number is used.';
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION sync.bundle_abandon();
DROP FUNCTION sync.bundle_close(bytea, bigint, bigint);
DROP FUNCTION sync.close_ordinal_gaps(bigint, bigint);
DROP FUNCTION sync.bundle_emit();
DROP FUNCTION sync.emit(integer, sync.open_bundles, integer[], bytea[], boolean[]);
DROP FUNCTION sync.refuse_truncate();
DROP FUNCTION sync.capture(integer, bytea[], text, text);
DROP FUNCTION sync.scope_in_bundle();
DROP FUNCTION sync.require_initialized(sync.user_state, text);
DROP FUNCTION sync.bundle_open(text, text, bigint, boolean);
DROP FUNCTION sync.bundle_begin(sync.user_state, text, bigint, uuid);
DROP FUNCTION sync.source_next(bigint, text);
