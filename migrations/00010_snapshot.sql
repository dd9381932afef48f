-- Snapshots: a sequence number, and the rows of the log that are newest at it. Making one copies nothing.

-- +goose Up
-- +goose StatementBegin
CREATE TABLE sync.snapshot_sessions (
    snapshot_id         uuid NOT NULL DEFAULT gen_random_uuid() CONSTRAINT snapshot_sessions_pkey PRIMARY KEY,
    user_pk             bigint NOT NULL,
    snapshot_bundle_seq bigint NOT NULL,
    row_count           bigint NOT NULL,
    byte_count          bigint NOT NULL,
    created_at          timestamptz NOT NULL DEFAULT now(),
    expires_at          timestamptz NOT NULL,
    source_id           text NOT NULL
);
CREATE INDEX snapshot_sessions_of_scope ON sync.snapshot_sessions (user_pk, created_at);
CREATE INDEX snapshot_sessions_by_expiry ON sync.snapshot_sessions (expires_at);
COMMENT ON TABLE sync.snapshot_sessions IS 'Snapshots that clients are reading: the scope frozen at a bundle sequence. Retention leaves what they can still see.';
COMMENT ON COLUMN sync.snapshot_sessions.snapshot_id IS 'Id that the client uses.';
COMMENT ON COLUMN sync.snapshot_sessions.user_pk IS 'Scope, see sync.user_state.';
COMMENT ON COLUMN sync.snapshot_sessions.snapshot_bundle_seq IS 'Sequence at which the scope is frozen.';
COMMENT ON COLUMN sync.snapshot_sessions.row_count IS 'Live rows at that sequence.';
COMMENT ON COLUMN sync.snapshot_sessions.byte_count IS 'Bytes of their payloads.';
COMMENT ON COLUMN sync.snapshot_sessions.created_at IS 'When it was made.';
COMMENT ON COLUMN sync.snapshot_sessions.expires_at IS 'When it ends.';
COMMENT ON COLUMN sync.snapshot_sessions.source_id IS 'Source that asked for it.';
COMMENT ON INDEX sync.snapshot_sessions_of_scope IS 'Finds what a scope still has to keep, and its oldest session.';
COMMENT ON INDEX sync.snapshot_sessions_by_expiry IS 'Finds expired sessions.';

CREATE UNLOGGED TABLE sync.snapshot_marks (
    snapshot_id uuid NOT NULL,
    row_ordinal bigint NOT NULL,
    table_id    integer NOT NULL,
    key_bytes   bytea NOT NULL,
    CONSTRAINT snapshot_marks_pkey PRIMARY KEY (snapshot_id, row_ordinal)
);
COMMENT ON TABLE sync.snapshot_marks IS 'Where chunks of a snapshot ended, so that the next one starts there at once. Lost marks only cost time.';
COMMENT ON COLUMN sync.snapshot_marks.snapshot_id IS 'Snapshot, see sync.snapshot_sessions.';
COMMENT ON COLUMN sync.snapshot_marks.row_ordinal IS 'Rows of the snapshot up to here.';
COMMENT ON COLUMN sync.snapshot_marks.table_id IS 'Table of the row at this ordinal.';
COMMENT ON COLUMN sync.snapshot_marks.key_bytes IS 'Key of the row at this ordinal.';

-- sync.source_replace retires a source in favour of a new one, which becomes reserved. Repeating it changes nothing.
-- Errors: OV008 retired already in favour of another, OV018 the new id is known or itself retired since.
-- Locks: none; the caller holds the scope's row.
CREATE FUNCTION sync.source_replace(p_user_pk bigint, p_previous_source_id text, p_new_source_id text, p_reason text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION sync.source_replace(bigint, text, text, text) IS 'Retires a source in favour of a new one.';

-- sync.snapshot_create freezes the scope at its newest sequence.
-- p_new_source_id null means no source replacement. A limit of 0 means none.
-- Errors: OV001, OV002 scope; OV008, OV018 as sync.source_replace; OV019 over a limit. Locks: with a replacement the scope's row.
CREATE FUNCTION sync.snapshot_create(p_user_id text, p_source_id text, p_ttl interval, p_max_rows bigint, p_max_bytes bigint,
    p_new_source_id text DEFAULT NULL, p_reason text DEFAULT NULL)
RETURNS TABLE (snapshot_id uuid, snapshot_bundle_seq bigint, row_count bigint, byte_count bigint, expires_at timestamptz)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION sync.snapshot_create(text, text, interval, bigint, bigint, text, text) IS 'Freezes a scope at its newest sequence for a client to read, with or without a source replacement.';

-- sync.snapshot_rows returns the rows of a scope as they stood at a sequence, in snapshot order, starting after a position:
-- the p_skip rows after (p_after_table_id, p_after_key) are passed over. Unregistered tables are left out.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.snapshot_rows(p_user_pk bigint, p_bundle_seq bigint, p_after_table_id integer, p_after_key bytea, p_skip bigint, p_limit bigint)
RETURNS TABLE (table_id integer, key_bytes bytea, row_version bigint, payload text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
SET enable_sort = off
SET enable_hashagg = off
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
COMMENT ON FUNCTION sync.snapshot_rows(bigint, bigint, integer, bytea, bigint, bigint) IS 'Rows of a scope as they stood at a bundle sequence, in snapshot order, from a position on.';
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION sync.snapshot_rows(bigint, bigint, integer, bytea, bigint, bigint);
DROP FUNCTION sync.snapshot_create(text, text, interval, bigint, bigint, text, text);
DROP FUNCTION sync.source_replace(bigint, text, text, text);
DROP TABLE sync.snapshot_marks;
DROP TABLE sync.snapshot_sessions;
