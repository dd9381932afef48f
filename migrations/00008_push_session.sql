-- Push, up to its commit: sessions and staged chunks.
--
-- Staging is unlogged: it is not a promise. A client that finds its session gone starts over from its outbox.

-- +goose Up
-- +goose StatementBegin
CREATE UNLOGGED TABLE sync.push_sessions (
    push_id           uuid NOT NULL DEFAULT gen_random_uuid() CONSTRAINT push_sessions_pkey PRIMARY KEY,
    user_pk           bigint NOT NULL,
    source_bundle_id  bigint NOT NULL,
    planned_row_count bigint NOT NULL,
    staged_row_count  bigint NOT NULL DEFAULT 0,
    expires_at        timestamptz NOT NULL,
    table_id          integer,
    op                "char",
    base_row_version  bigint,
    source_id         text NOT NULL,
    initialization_id text,
    key_bytes         bytea,
    payload           text,
    CONSTRAINT one_session_a_bundle UNIQUE (user_pk, source_id, source_bundle_id)
) WITH (fillfactor = 70);
COMMENT ON TABLE sync.push_sessions IS 'Pushes that are being staged. A session goes when it is committed, deleted, replaced or expired.';
COMMENT ON COLUMN sync.push_sessions.push_id IS 'Id that the client uses.';
COMMENT ON COLUMN sync.push_sessions.user_pk IS 'Scope, see sync.user_state.';
COMMENT ON COLUMN sync.push_sessions.source_bundle_id IS 'Number that the bundle will have within its source.';
COMMENT ON COLUMN sync.push_sessions.planned_row_count IS 'Rows that the client said it would push.';
COMMENT ON COLUMN sync.push_sessions.staged_row_count IS 'Rows staged so far; the next chunk must start at this ordinal.';
COMMENT ON COLUMN sync.push_sessions.expires_at IS 'When the session ends unless another chunk comes.';
COMMENT ON COLUMN sync.push_sessions.source_id IS 'Source that pushes.';
COMMENT ON COLUMN sync.push_sessions.initialization_id IS 'Lease under which a first push initializes its scope.';
COMMENT ON COLUMN sync.push_sessions.table_id IS 'For a push that has only one row, the row: its table. The rows of other pushes are in sync.push_chunks.';
COMMENT ON COLUMN sync.push_sessions.op IS 'Operation of the only row: I, U or D.';
COMMENT ON COLUMN sync.push_sessions.base_row_version IS 'Version that the client last saw of the only row.';
COMMENT ON COLUMN sync.push_sessions.key_bytes IS 'Key of the only row.';
COMMENT ON COLUMN sync.push_sessions.payload IS 'Payload of the only row, as JSON that json_populate_record reads; empty for a delete.';
-- No index on expires_at, since each chunk changes it: sweeping reads the few sessions there are.

CREATE UNLOGGED TABLE sync.push_chunks (
    push_id           uuid NOT NULL,
    start_row_ordinal integer NOT NULL,
    table_ids         integer[] NOT NULL,
    ops               text NOT NULL,
    base_row_versions bigint[] NOT NULL,
    keys              bytea[] NOT NULL,
    payloads          text[] NOT NULL,
    CONSTRAINT push_chunks_pkey PRIMARY KEY (push_id, start_row_ordinal)
);
-- Staged once, read a few times, deleted: compressing would cost more than it saves.
ALTER TABLE sync.push_sessions ALTER COLUMN payload SET STORAGE EXTERNAL, ALTER COLUMN key_bytes SET STORAGE EXTERNAL;
ALTER TABLE sync.push_chunks ALTER COLUMN payloads SET STORAGE EXTERNAL, ALTER COLUMN keys SET STORAGE EXTERNAL,
    ALTER COLUMN table_ids SET STORAGE EXTERNAL, ALTER COLUMN base_row_versions SET STORAGE EXTERNAL, ALTER COLUMN ops SET STORAGE EXTERNAL;
COMMENT ON TABLE sync.push_chunks IS 'Staged rows of pushes of more than one, a row per chunk, as arrays that go together; sync.chunk_rows shows them row by row.';
COMMENT ON COLUMN sync.push_chunks.push_id IS 'Session, see sync.push_sessions.';
COMMENT ON COLUMN sync.push_chunks.start_row_ordinal IS 'Ordinal of the first row of the chunk.';
COMMENT ON COLUMN sync.push_chunks.table_ids IS 'Table of each row.';
COMMENT ON COLUMN sync.push_chunks.ops IS 'Operation of each row, a letter each: I, U or D.';
COMMENT ON COLUMN sync.push_chunks.base_row_versions IS 'Version that the client last saw of each row.';
COMMENT ON COLUMN sync.push_chunks.keys IS 'Key of each row.';
COMMENT ON COLUMN sync.push_chunks.payloads IS 'Payload of each row as JSON that json_populate_record reads; empty for a delete.';

CREATE VIEW sync.chunk_rows AS
SELECT c.push_id, c.start_row_ordinal + r.place::integer - 1 AS row_ordinal, r.table_id, r.op::"char" AS op, r.base_row_version, r.key_bytes, r.payload
FROM sync.push_chunks c
CROSS JOIN LATERAL ROWS FROM (unnest(c.table_ids), string_to_table(c.ops, NULL), unnest(c.base_row_versions), unnest(c.keys), unnest(c.payloads))
    WITH ORDINALITY AS r(table_id, op, base_row_version, key_bytes, payload, place);
COMMENT ON VIEW sync.chunk_rows IS 'Staged rows of pushes of more than one, row by row. To look at what is staged: sync.staged_rows.';
COMMENT ON COLUMN sync.chunk_rows.push_id IS 'Session, see sync.push_sessions.';
COMMENT ON COLUMN sync.chunk_rows.row_ordinal IS 'Place in the push, from 0.';
COMMENT ON COLUMN sync.chunk_rows.table_id IS 'Table, see sync.table_catalog.';
COMMENT ON COLUMN sync.chunk_rows.op IS 'I insert, U update, D delete.';
COMMENT ON COLUMN sync.chunk_rows.base_row_version IS 'Version that the client last saw.';
COMMENT ON COLUMN sync.chunk_rows.key_bytes IS 'Key, see sync.bundle_rows.';
COMMENT ON COLUMN sync.chunk_rows.payload IS 'Payload as JSON; empty for a delete.';

CREATE VIEW sync.staged_rows AS
SELECT c.push_id, c.row_ordinal, c.table_id, c.op, c.base_row_version, c.key_bytes, nullif(c.payload, '') AS payload FROM sync.chunk_rows c
UNION ALL
SELECT s.push_id, 0, s.table_id, s.op, s.base_row_version, s.key_bytes, nullif(s.payload, '') AS payload FROM sync.push_sessions s WHERE s.planned_row_count = 1 AND s.staged_row_count = 1;
COMMENT ON VIEW sync.staged_rows IS 'Rows of pushes that are being staged.';
COMMENT ON COLUMN sync.staged_rows.push_id IS 'Session, see sync.push_sessions.';
COMMENT ON COLUMN sync.staged_rows.row_ordinal IS 'Place in the push, from 0.';
COMMENT ON COLUMN sync.staged_rows.table_id IS 'Table, see sync.table_catalog.';
COMMENT ON COLUMN sync.staged_rows.op IS 'I insert, U update, D delete.';
COMMENT ON COLUMN sync.staged_rows.base_row_version IS 'Version that the client last saw.';
COMMENT ON COLUMN sync.staged_rows.key_bytes IS 'Key, see sync.bundle_rows.';
COMMENT ON COLUMN sync.staged_rows.payload IS 'Payload as JSON; null for a delete.';

--
-- Sessions.
--
-- sync.push_create begins a push session, replacing an uncommitted one of the same bundle, or says that the bundle is committed.
-- Returns push_id; or, where the bundle is committed, no push_id and the bundle.
-- Errors: OV001, OV003, OV004, OV009 as sync.require_initialization; OV008 source retired; OV022 bundle pruned; OV006 not the next bundle.
-- Locks: with an initialization id, the scope's row; where it replaces a session, then that one.
CREATE FUNCTION sync.push_create(p_user_id text, p_source_id text, p_source_bundle_id bigint, p_planned_row_count bigint, p_initialization_id text,
    p_session_ttl interval, p_lease_ttl interval)
RETURNS TABLE (push_id uuid, bundle_seq bigint, row_count bigint, bundle_hash bytea)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
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
COMMENT ON FUNCTION sync.push_create(text, text, bigint, bigint, text, interval, interval) IS 'Begins a push session, or returns the bundle if it is committed already.';

-- sync.fail_session says why a push session cannot be gone on with: by this user and source it was not found.
-- Errors: OV015 it is another user's or source's, OV016 it expired, OV014 there is none. Locks: none.
CREATE FUNCTION sync.fail_session(p_push_id uuid, p_user_id text, p_source_id text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION sync.fail_session(uuid, text, text) IS 'Raises why a push session was not found by its user and source: OV014, OV015 or OV016.';

-- sync.push_stage adds a chunk of rows, given as arrays that go together, and returns the next ordinal.
-- Errors: OV003, OV004 lease; OV010 more rows than planned; OV011 not the next ordinal; OV014, OV015, OV016 as sync.fail_session;
-- OV021 the caller judged the rows by an old catalog. Locks: the session until the transaction ends.
CREATE FUNCTION sync.push_stage(p_push_id uuid, p_user_id text, p_source_id text, p_start_row_ordinal bigint, p_catalog_version bigint,
    p_table_ids integer[], p_ops text, p_base_row_versions bigint[], p_keys bytea[], p_payloads text[], p_session_ttl interval, p_lease_ttl interval)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
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
COMMENT ON FUNCTION sync.push_stage(uuid, text, text, bigint, bigint, integer[], text, bigint[], bytea[], text[], interval, interval) IS 'Adds a chunk of rows to a push session and returns the ordinal of the next row.';

-- sync.require_lease checks and renews the lease under which a session initializes its scope.
-- Errors: OV003 another lease or an initialized scope, OV004 expired. Locks: the scope's row until the transaction ends.
CREATE FUNCTION sync.require_lease(p_user sync.user_state, p_source_id text, p_initialization_id text, p_lease_ttl interval)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_user.state = 'initialized' THEN
        PERFORM sync.fail('OV003', 'the scope was initialized by another source meanwhile', NULL, 'Call POST /sync/connect again.');
    END IF;
    PERFORM sync.require_initialization(p_user, p_user.user_id, p_source_id, p_initialization_id, p_lease_ttl);
END
$$;
COMMENT ON FUNCTION sync.require_lease(sync.user_state, text, text, interval) IS 'Checks and renews the lease under which a push session initializes its scope.';

-- sync.push_delete ends a session and its staged rows. Returns nothing, whether or not it was there.
-- Errors: OV015 another user's or source's. Locks: the session until the transaction ends.
CREATE FUNCTION sync.push_delete(p_push_id uuid, p_user_id text, p_source_id text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION sync.push_delete(uuid, text, text) IS 'Ends a push session and its staged rows.';
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION sync.push_delete(uuid, text, text);
DROP FUNCTION sync.require_lease(sync.user_state, text, text, interval);
DROP FUNCTION sync.push_stage(uuid, text, text, bigint, bigint, integer[], text, bigint[], bytea[], text[], interval, interval);
DROP FUNCTION sync.fail_session(uuid, text, text);
DROP FUNCTION sync.push_create(text, text, bigint, bigint, text, interval, interval);
DROP VIEW sync.staged_rows;
DROP VIEW sync.chunk_rows;
DROP TABLE sync.push_chunks;
DROP TABLE sync.push_sessions;
