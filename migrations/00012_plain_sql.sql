-- Writes that come from plain SQL: psql, an ORM, a cron job. At COMMIT, the transaction becomes one bundle for each scope that it
-- touched, with the source sql:<role> or what sync.writer_id says.
--
-- The application holds row locks when it comes to its scopes, in one order; a push holds its scope when it comes to rows. So
-- pushes give way: they wait for rows only briefly, and then start over.
--
-- Locks: creates new objects only.

-- +goose Up
-- +goose StatementBegin
-- sync.writer_name returns the source that plain SQL of this session writes as: what sync.writer_id says, or sql:<role>. Names that begin
-- with oversync: are kept for adoption, refresh and repair, so a writer that takes one becomes sql:oversync:...
-- Errors: 22023 a name that is too long, or that no source can have. Locks: none.
CREATE FUNCTION sync.writer_name()
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
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

-- sync.open_implicit opens a bundle for each scope among the captured keys that has none yet, and returns how many it opened. New
-- scopes are made. A bundle that gets rows initializes its scope, and ends a lease that a device holds on it, since rows are there now.
-- Where a device has the name of the source, or has retired it, the bundle is of sql:<name>: what a device does in its scope stops no
-- writer, who may be writing other scopes as well, and no number of a device that has pushed is taken.
-- Errors: 23514 a scope that no user can have. Locks: the rows of these scopes, in one order.
CREATE FUNCTION sync.open_implicit(p_source_id text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION sync.open_implicit(text) IS 'Opens a bundle for each scope among the captured keys of this transaction that has none yet, and returns how many it opened.';

-- sync.reopen_implicit takes back the bundles that this transaction has already made, so that what it wrote since becomes part of
-- them: SET CONSTRAINTS ... IMMEDIATE, or a deferred trigger of the application that came after ours, makes that happen.
-- Errors: none. Locks: none beyond the scopes' rows, which the transaction holds.
CREATE FUNCTION sync.reopen_implicit()
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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

-- sync.require_canonical refuses rows of the bundles being made that have no canonical form, so that no hash can be made of them: with a
-- number without a finite double, or nested so deep that encoding/json does not read an answer with it. The error names the row, since it
-- also stops adoption and repair, of which nobody knows what they were about to write.
-- Errors: 22003 a number too large, 54000 nested too deep. Locks: none.
CREATE FUNCTION sync.require_canonical()
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
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

-- sync.close_implicit enters the emitted bundles of plain SQL, and moves their scopes and sources on. They have no hash: a server
-- seals them later.
-- Errors: none of its own. Locks: the scopes' rows, which the transaction holds already.
CREATE FUNCTION sync.close_implicit()
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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

-- sync.commit_captured makes a bundle for each scope among the captured keys and enters it. p_only_missing leaves out rows that the
-- log has live already; p_as_given takes the scopes of the keys as they are, rather than look after moved rows. Returns the number of effects.
-- Errors: OV033, OV034; as sync.open_implicit and sync.require_canonical. Locks: the rows of these scopes until the transaction ends.
CREATE FUNCTION sync.commit_captured(p_source_id text, p_only_missing boolean, p_as_given boolean)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION sync.commit_captured(text, boolean, boolean) IS 'Makes and enters a bundle for each scope among the captured keys, and returns the number of effects.';

-- sync.finish_captured makes bundles, now and for good, of what plain SQL wrote in this transaction so far, so that what follows goes
-- into bundles of its own: adoption and repair have another source.
-- Errors: OV023 a bundle is open; as sync.commit_captured. Locks: as sync.commit_captured.
CREATE FUNCTION sync.finish_captured()
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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

-- sync.capture_commit is the deferred trigger function that turns what plain SQL wrote into bundles when its transaction commits.
-- Its place among deferred triggers is that of the first statement, so what it refuses for the state of rows may be mended by one of the
-- application's that comes after. Then it goes to the end, and looks once more.
-- Errors: as sync.commit_captured. Locks: as sync.commit_captured.
CREATE FUNCTION sync.capture_commit()
RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
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
REVOKE ALL ON FUNCTION sync.capture_commit() FROM PUBLIC;
COMMENT ON FUNCTION sync.capture_commit() IS 'Trigger function: turns what plain SQL wrote into bundles when its transaction commits.';

CREATE CONSTRAINT TRIGGER plain_sql_becomes_bundles_at_commit
    AFTER INSERT ON sync.captured_keys DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.at_commit) EXECUTE FUNCTION sync.capture_commit();
COMMENT ON TRIGGER plain_sql_becomes_bundles_at_commit ON sync.captured_keys IS 'Turns what plain SQL wrote into bundles when its transaction commits.';

-- sync.last_bundle returns what the last transaction of this session that wrote synced tables became: a row per scope, at most 1000.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.last_bundle()
RETURNS TABLE (user_id text, bundle_seq bigint, source_id text, source_bundle_id bigint, row_count bigint)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT b.value ->> 0, (b.value ->> 1)::bigint, b.value ->> 2, (b.value ->> 3)::bigint, (b.value ->> 4)::bigint
    FROM jsonb_array_elements(coalesce(nullif(current_setting('sync.last_bundle', true), ''), '[]')::jsonb) AS b(value)
$$;
COMMENT ON FUNCTION sync.last_bundle() IS 'What the last transaction of this session that wrote synced tables by plain SQL became: a row per scope.';
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION sync.last_bundle();
DROP TRIGGER plain_sql_becomes_bundles_at_commit ON sync.captured_keys;
DROP FUNCTION sync.capture_commit();
DROP FUNCTION sync.finish_captured();
DROP FUNCTION sync.commit_captured(text, boolean, boolean);
DROP FUNCTION sync.close_implicit();
DROP FUNCTION sync.require_canonical();
DROP FUNCTION sync.reopen_implicit();
DROP FUNCTION sync.open_implicit(text);
DROP FUNCTION sync.writer_name();
