-- Commit of a push: it is judged, applied and logged as one bundle, or many of one row at once as a bundle each.
--
--   sync.push_commit       commits a push, by sync.push_apply or, where it has one row, by sync.push_apply_row
--   sync.push_commit_rows  commits pushes of one row each that are independent, which sync.push_close_rows enters
--
-- Locks: creates new objects only.

-- +goose Up
-- +goose StatementBegin
-- sync.is_conflict tells whether an operation on the state that a client last saw conflicts with the state that the log has: version and op of
-- the newest entry, null for a row that has never existed. Inlined where it is used; its names are bound here, so it needs no search_path.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.is_conflict(p_op "char", p_base_row_version bigint, p_bundle_seq bigint, p_newest_op "char")
RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN p_base_row_version <> coalesce(p_bundle_seq, 0) OR (p_op = 'I') = (p_newest_op IS NOT NULL AND p_newest_op <> 'D');
COMMENT ON FUNCTION sync.is_conflict("char", bigint, bigint, "char") IS 'Whether an operation on the state that a client last saw conflicts with the state that the log has.';

-- sync.fail_conflict refuses a push for a row of it that conflicts with the state of the log.
-- Errors: OV013 always, with the row and its state. Locks: none.
CREATE FUNCTION sync.fail_conflict(p_user_pk bigint, p_table_id integer, p_op "char", p_base_row_version bigint, p_key_bytes bytea)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION sync.fail_conflict(bigint, integer, "char", bigint, bytea) IS 'Raises OV013: a row of a push conflicts with the state of the log.';

CREATE TYPE sync.push_effect AS (live_row_delta bigint, bytes_before bigint);
COMMENT ON TYPE sync.push_effect IS 'What an applied push did beyond its rows: how many more live rows the scope has, and the payload bytes of its rows as they were before.';

-- sync.fail_unregistered refuses a push for a table that was unregistered since its rows were staged.
-- Errors: OV012 always. Locks: none.
CREATE FUNCTION sync.fail_unregistered(p_schema_name text, p_table_name text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM sync.fail('OV012', format('table %I.%I is no longer registered', p_schema_name, p_table_name), NULL, 'Push without its rows.');
END
$$;
COMMENT ON FUNCTION sync.fail_unregistered(text, text) IS 'Raises OV012: a table was unregistered since rows of it were staged.';

-- sync.push_apply judges the staged rows, then applies and logs them, a statement for each group. Grouped by table, which is right since each row
-- states its final state: upserts parents first, then deletes children first. Or strictly in push order, a group for each run of one table and operation.
-- Returns what that did; null if the statements did not touch the staged rows and nothing else, so that what they logged is not the bundle.
-- Errors: OV012 a table is no longer registered; OV013 the first conflict in push order, before anything is applied; whatever the tables
-- refuse. Locks: the rows written.
CREATE FUNCTION sync.push_apply(p_push_id uuid, p_user_pk bigint, p_user_id text, p_bundle_seq bigint, p_row_count bigint, p_in_order boolean)
RETURNS sync.push_effect
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
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
$$;
COMMENT ON FUNCTION sync.push_apply(uuid, bigint, text, bigint, bigint, boolean) IS 'Judges, applies and logs the staged rows of a push, grouped by table or strictly in push order.';

-- sync.push_apply_row judges, applies and logs the row of a push that has only one: what sync.push_apply does, without its cost.
-- Returns what that did; null if the row is not there, or if a trigger or a foreign key has had a hand in it.
-- Errors: as sync.push_apply. Locks: the row written.
CREATE FUNCTION sync.push_apply_row(p_table_id integer, p_op "char", p_base_row_version bigint, p_key_bytes bytea, p_payload text,
    p_user_pk bigint, p_user_id text, p_bundle_seq bigint)
RETURNS sync.push_effect
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
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
$$;
COMMENT ON FUNCTION sync.push_apply_row(integer, "char", bigint, bytea, text, bigint, text, bigint) IS 'Judges, applies and logs the row of a push that has only one.';

-- sync.give_way keeps a push from waiting long for rows that an application's transaction holds: that one may come to wait for the
-- push's scope, and must never be the victim of the deadlock. The push fails with 55P03 before one is looked for, and starts over. A bound
-- that is shorter stays.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.give_way()
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config('lock_timeout', greatest(1, least(150, extract(epoch FROM current_setting('deadlock_timeout')::interval) * 500,
        nullif(extract(epoch FROM current_setting('lock_timeout')::interval) * 1000, 0))::integer)::text, true);
END
$$;
COMMENT ON FUNCTION sync.give_way() IS 'Bounds how long a push waits for rows, for where plain SQL writes synced tables too.';

-- sync.push_commit judges a staged push, applies it and writes its log. The caller, whose transaction has written nothing before but pushes of the same
-- scope, reads the rows, and ends with sync.bundle_close. A push of more than p_planned_at_most rows is left alone: no row comes back.
-- Returns the bundle's sequence, number and effects; what sync.push_apply or sync.push_apply_row returned; null where sync.open_bundles has that noted instead.
-- Errors: OV001, OV003, OV004, OV009 scope and lease; OV007 not the source's next bundle any more; OV008 source retired; OV012 rows missing, a row twice,
-- no effect, too many rows, a table unregistered meanwhile; OV013 conflict; OV014, OV015, OV016 as sync.fail_session; whatever the tables refuse.
-- Locks: the scope's row first, then the session and the rows written, until the transaction ends.
CREATE FUNCTION sync.push_commit(p_push_id uuid, p_user_id text, p_source_id text, p_max_rows bigint, p_lease_ttl interval, p_planned_at_most bigint DEFAULT 2147483647)
RETURNS TABLE (bundle_seq bigint, source_bundle_id bigint, row_count bigint, live_row_delta bigint, bytes_before bigint)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
-- For all that runs within: how values are read and written does not depend on how a server or session is set, and tables whose
-- statistics say that they are empty are still read by their indexes.
SET timezone = 'UTC'
SET datestyle = 'ISO, MDY'
SET intervalstyle = 'postgres'
SET lc_monetary = 'C'
SET extra_float_digits = 1
SET bytea_output = 'hex'
SET array_nulls = on
SET xmloption = 'content'
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
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
COMMENT ON FUNCTION sync.push_commit(uuid, text, text, bigint, interval, bigint) IS 'Judges a staged push, applies it and writes its log; sync.bundle_close then ends it.';

--
-- Pushes of one row, committed together.
--
-- sync.rows_are_independent tells whether statements of these kinds (a text of I, U and D) do the same to rows of a registered table one after
-- the other, in any order, and all at once, as long as their keys are different: nothing but these rows is written, and no constraint
-- compares one of them with another.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.rows_are_independent(p_table_id integer, p_ops text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION sync.rows_are_independent(integer, text) IS 'Whether statements on rows of a table that have different keys do the same one after the other and all at once.';

-- sync.push_commit_rows is sync.push_commit for pushes of one row from several sources of one scope, whose rows are independent: they are
-- applied at once, and logged as a bundle each, in the order given. The caller, whose transaction has written nothing before but pushes of the
-- same scope, reads the rows, and ends with sync.push_close_rows.
-- Returns each bundle as sync.push_commit does. No row comes back, and nothing is written, where they cannot be committed so: for one of
-- them is larger, refused, or not independent.
-- Errors: 40001 a row or a session is not there any more; whatever the tables refuse, for which one it does not say.
-- Locks: the scope's row first, then the sessions and the rows written, until the transaction ends.
CREATE FUNCTION sync.push_commit_rows(p_push_ids uuid[], p_user_id text, p_source_ids text[])
RETURNS TABLE (bundle_seq bigint, source_bundle_id bigint, live_row_delta bigint, bytes_before bigint)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
-- As sync.push_commit.
SET timezone = 'UTC'
SET datestyle = 'ISO, MDY'
SET intervalstyle = 'postgres'
SET lc_monetary = 'C'
SET extra_float_digits = 1
SET bytea_output = 'hex'
SET array_nulls = on
SET xmloption = 'content'
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
AS $$
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
$$;
COMMENT ON FUNCTION sync.push_commit_rows(uuid[], text, text[]) IS 'Commits pushes of one row that are independent of each other, a bundle each; sync.push_close_rows then ends them.';

-- sync.push_close_rows enters the bundles of sync.push_commit_rows, given as arrays that go together, and moves their scope and sources on. The
-- deltas are those of all of them.
-- Errors: none of its own. Locks: the scope's row, which the transaction holds already.
CREATE FUNCTION sync.push_close_rows(p_source_ids text[], p_source_bundle_ids bigint[], p_bundle_hashes bytea[], p_byte_counts bigint[],
    p_retained_bundles bigint, p_live_row_delta bigint, p_live_byte_delta bigint)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
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
COMMENT ON FUNCTION sync.push_close_rows(text[], bigint[], bytea[], bigint[], bigint, bigint, bigint) IS 'Enters the bundles of sync.push_commit_rows, and moves their scope and sources on.';
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION sync.push_close_rows(text[], bigint[], bytea[], bigint[], bigint, bigint, bigint);
DROP FUNCTION sync.push_commit_rows(uuid[], text, text[]);
DROP FUNCTION sync.rows_are_independent(integer, text);
DROP FUNCTION sync.push_commit(uuid, text, text, bigint, interval, bigint);
DROP FUNCTION sync.give_way();
DROP FUNCTION sync.push_apply_row(integer, "char", bigint, bytea, text, bigint, text, bigint);
DROP FUNCTION sync.push_apply(uuid, bigint, text, bigint, bigint, boolean);
DROP TYPE sync.push_effect;
DROP FUNCTION sync.fail_unregistered(text, text);
DROP FUNCTION sync.fail_conflict(bigint, integer, "char", bigint, bytea);
DROP FUNCTION sync.is_conflict("char", bigint, bigint, "char");
