-- Bundles and capture: how the writes of a transaction become one bundle of its scope.
--
--   sync.bundle_open      locks the scope's row and gives the bundle its sequence number
--   sync.capture          is called by the triggers of each registered table, and notes the keys that a statement touched
--   sync.bundle_emit      writes the log from the live rows of those keys, one effect a row
--   sync.bundle_close     enters the bundle with its hash and moves the scope on
--   sync.capture_commit   does all that at commit for plain SQL, with a bundle for each scope that it touched
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
-- sync.bundle_open begins a server-side bundle in this transaction: registered tables may then be written in that scope.
-- p_source_bundle_id null means the source's next. p_initialize makes an uninitialized scope initialized.
-- Errors: OV001 scope uninitialized, OV002 scope initializing, OV006 wrong source_bundle_id, OV008 source retired,
-- OV022 source_bundle_id already pruned, OV023 the transaction has written already. Locks: the scope's row until the transaction ends.
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

-- sync.require_finished is the deferred trigger function that keeps a transaction from ending with a bundle open, as when code that was to
-- write in it ends the transaction itself. Running deferred triggers before the end is no end: so it defers itself once more, and only where
-- it is the end of the transaction does it run a second time within one statement.
-- Errors: OV024. Locks: none.
CREATE FUNCTION sync.require_finished()
RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
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

CREATE CONSTRAINT TRIGGER opened_bundle_is_finished
    AFTER INSERT OR UPDATE OF fired_at ON sync.open_bundles DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NOT NEW.is_implicit AND NEW.push_id IS NULL) EXECUTE FUNCTION sync.require_finished();
COMMENT ON TRIGGER opened_bundle_is_finished ON sync.open_bundles IS 'Keeps a transaction from ending with a bundle open.';

--
-- Capturing.
--
-- sync.scope_in_bundle returns the scope id that this transaction has opened a bundle for, or null. It is the default of scope columns.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.scope_in_bundle()
RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT b.user_id FROM sync.open_bundles b WHERE b.xid = pg_current_xact_id_if_assigned() AND NOT b.is_implicit);
END
$$;
COMMENT ON FUNCTION sync.scope_in_bundle() IS 'Scope id of the bundle that this transaction has open, or null. Registration makes it the default of scope columns.';

-- sync.capture notes that a statement touched these keys of a registered table, and returns their number. Triggers call it.
-- p_scopes are the scopes of the keys, or a single one for all; null where the scope is found through a parent. p_scope is sync.scope_in_bundle().
-- Errors: OV031 write outside a bundle (counted), OV032 row of another scope, 40001 as sync.require_latest_table. Locks: none.
CREATE FUNCTION sync.capture(p_table_id integer, p_keys bytea[], p_scopes text[], p_scope text)
RETURNS integer
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION sync.capture(integer, bytea[], text[], text) IS 'Notes the keys that a statement touched, for the bundle that this transaction writes. Called by the capture triggers.';

-- sync.require_latest_table refuses to capture in a transaction whose snapshot is older than the last change of a table or of its registration:
-- what is captured depends on both, and is looked up under that snapshot.
-- Errors: 40001. Locks: none that stays.
CREATE FUNCTION sync.require_latest_table(p_table_id integer)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION sync.require_latest_table(integer) IS 'Refuses to capture in a transaction whose snapshot is older than the last change of a table or of its registration.';

-- sync.fail_other_scope refuses a row of another scope than that of the open bundle.
-- Errors: OV032 always. Locks: none.
CREATE FUNCTION sync.fail_other_scope(p_table_id integer, p_scope text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_table sync.table_catalog := sync.catalog_entry(p_table_id);
BEGIN
    PERFORM sync.fail('OV032', format('this bundle belongs to scope %s, but a row of another scope was written in %I.%I', p_scope, v_table.schema_name, v_table.table_name), NULL,
        'Leave the scope column out, or write each scope in a bundle of its own.');
END
$$;
COMMENT ON FUNCTION sync.fail_other_scope(integer, text) IS 'Raises OV032: a row of another scope was written in a bundle.';

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
-- Scopes through parents.
--
-- sync.resolve_scopes gives each captured key of a table that finds its scope through a parent its scopes: the one that the
-- log has it in, and the one that it is in now. Then it looks at rows that moved from one scope to another: rows that
-- found their scope through them go along, or are refused, as their table was registered. Returns whether there was anything to find.
-- Errors: OV033 a reference crosses scopes now, OV034 a row changed its scope while rows depend on it. Locks: none.
CREATE FUNCTION sync.resolve_scopes()
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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

-- sync.resolve_captured finds the scopes of what was captured of tables that have them through a parent. Returns whether there was any.
-- Errors: OV033 a row without a parent. Locks: none.
CREATE FUNCTION sync.resolve_captured()
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
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
$$;
COMMENT ON FUNCTION sync.resolve_captured() IS 'Finds the scopes of captured keys whose tables have their scope through a parent.';

-- sync.moved_keys returns the captured keys, of each table, that are in more than one scope, or may be: those of the tables p_referred, which
-- count as moved whatever their scopes are, and of the tables p_adopted, of which the log does not say it.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.moved_keys(p_referred integer[], p_adopted integer[])
RETURNS TABLE (table_id integer, keys bytea[], are_moved boolean[])
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION sync.moved_keys(integer[], integer[]) IS 'Captured keys that are in more than one scope, or may be.';

-- sync.follow_moved looks after the rows that refer to rows of a table that changed their scope; or may have, and then only where the log says so.
-- Errors: OV033 a reference crosses scopes now, OV034 and 40001 as sync.take_along. Locks: none.
CREATE FUNCTION sync.follow_moved(p_table_id integer, p_keys bytea[], p_are_moved boolean[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
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
$$;
COMMENT ON FUNCTION sync.follow_moved(integer, bytea[], boolean[]) IS 'Looks after the rows that refer to rows which changed their scope: takes them along or refuses.';

-- sync.take_along captures the rows of p_child that find their scope through moved rows of p_parent, or refuses, as p_child was registered.
-- p_rows is the FROM clause that joins the moved keys k ($1, $2), the parent's rows p and the child's rows t.
-- Errors: OV034 rows depend on it, 40001 a snapshot that cannot tell. Locks: none.
CREATE FUNCTION sync.take_along(p_parent sync.table_catalog, p_child sync.table_catalog, p_rows text, p_keys bytea[], p_are_moved boolean[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
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
$$;
COMMENT ON FUNCTION sync.take_along(sync.table_catalog, sync.table_catalog, text, bytea[], boolean[]) IS 'Captures the rows that find their scope through moved rows of a parent, or refuses.';

--
-- Emitting.
--
-- sync.emit_captured writes the log of the bundles that this transaction has open, from the live rows of the captured keys.
-- Rows that a push named come first, in its order; the others follow in the order in which they were first touched.
-- p_only_missing leaves out rows that the log has live already.
-- Errors: OV033 a reference crosses scopes. Locks: none.
CREATE FUNCTION sync.emit_captured(p_only_missing boolean)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
-- Sizes of arrays are unknown to the planner: without these it would loop over rows or sort them where a hash table is right,
-- and scan the log where its index gives the newest version at once.
SET enable_nestloop = off
SET enable_mergejoin = off
SET enable_sort = off
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
-- Without a push, a part of the statement falls away, so that it would be planned anew in each transaction.
SET plan_cache_mode = force_generic_plan
-- How values are written does not depend on how a server or session is set.
SET timezone = 'UTC'
SET datestyle = 'ISO, MDY'
SET intervalstyle = 'postgres'
SET lc_monetary = 'C'
SET extra_float_digits = 1
SET bytea_output = 'hex'
AS $$
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
$$;
COMMENT ON FUNCTION sync.emit_captured(boolean) IS 'Writes the log of the bundles that this transaction has open, one effect a row, from the live rows of the captured keys.';

-- sync.close_ordinal_gaps numbers the effects of the open bundles 0, 1, 2 ... again, in the same order.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.close_ordinal_gaps()
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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

-- sync.fire_deferred runs the deferred constraints and triggers of this transaction now. Registration makes it anew with the search
-- path that the application's triggers know.
-- Errors: whatever these raise. Locks: none of its own.
CREATE FUNCTION sync.fire_deferred()
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    SET CONSTRAINTS ALL IMMEDIATE;
END
$$;
COMMENT ON FUNCTION sync.fire_deferred() IS 'Runs the deferred constraints and triggers of this transaction now, under the application''s search path.';

-- sync.bundle_emit writes the log of the bundle that this transaction has opened, and returns the number of its effects.
-- Errors: OV032 row of another scope, OV033 a reference crosses scopes, OV034 a parent changed its scope; whatever a deferred
-- constraint or trigger of the application raises. Locks: none.
CREATE FUNCTION sync.bundle_emit()
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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

--
-- Closing.
--
-- sync.bundle_close enters the bundle that this transaction has opened and emitted, and moves its scope and source on.
-- History older than the newest p_retained_bundles is refused from now on; deleting it is left to sync.prune.
-- p_row_count, p_live_row_delta and p_live_byte_delta are for who knows them already, as a push does; null means what was noted in sync.open_bundles.
-- Errors: none of its own. Locks: the scope's row, which the transaction holds already.
CREATE FUNCTION sync.bundle_close(p_bundle_hash bytea, p_byte_count bigint, p_retained_bundles bigint,
    p_row_count bigint DEFAULT NULL, p_live_row_delta bigint DEFAULT NULL, p_live_byte_delta bigint DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
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
COMMENT ON FUNCTION sync.bundle_close(bytea, bigint, bigint, bigint, bigint, bigint) IS 'Enters the bundle that this transaction has opened and emitted, and moves its scope and source on.';

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
DROP FUNCTION sync.bundle_close(bytea, bigint, bigint, bigint, bigint, bigint);
DROP FUNCTION sync.bundle_emit();
DROP FUNCTION sync.fire_deferred();
DROP FUNCTION sync.close_ordinal_gaps();
DROP FUNCTION sync.emit_captured(boolean);
DROP FUNCTION sync.take_along(sync.table_catalog, sync.table_catalog, text, bytea[], boolean[]);
DROP FUNCTION sync.follow_moved(integer, bytea[], boolean[]);
DROP FUNCTION sync.moved_keys(integer[], integer[]);
DROP FUNCTION sync.resolve_captured();
DROP FUNCTION sync.resolve_scopes();
DROP FUNCTION sync.refuse_truncate();
DROP FUNCTION sync.fail_other_scope(integer, text);
DROP FUNCTION sync.require_latest_table(integer);
DROP FUNCTION sync.capture(integer, bytea[], text[], text);
DROP FUNCTION sync.scope_in_bundle();
DROP TRIGGER opened_bundle_is_finished ON sync.open_bundles;
DROP FUNCTION sync.require_finished();
DROP FUNCTION sync.require_initialized(sync.user_state, text);
DROP FUNCTION sync.bundle_open(text, text, bigint, boolean);
DROP FUNCTION sync.source_next(bigint, text);
