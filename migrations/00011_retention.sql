-- Retention and housekeeping: what background work removes. Nothing here runs in the commit path.
--
-- Retention removes versions, not rows. Up to a horizon, a version goes when a newer one of the same key at or below
-- the horizon replaces it; the newest stays, a tombstone too, so that conflicts are judged as before. The horizon is
-- the retained floor, or the lowest snapshot that a client can still read if that is lower.
--
-- Locks: sync.user_state exclusively for a moment, to add a column. Nothing is rewritten.

-- +goose Up
-- +goose StatementBegin
ALTER TABLE sync.user_state ADD COLUMN pruned_bundle_seq bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN sync.user_state.pruned_bundle_seq IS 'Up to here sync.prune has removed bundles and replaced versions; at most retained_bundle_floor. What the scope held at an earlier sequence can no longer be told.';

-- sync.prune_scope raises the floor of one scope and removes what retention no longer needs, at most p_max_bundles bundles
-- (and about 20,000 effects) at a time.
-- Returns the number of bundles removed. 0: nothing is left to remove, a snapshot still needs it, or another session is at it.
-- Errors: 22023 p_retained_bundles below 1; 55P03 the scope's row stayed locked for half a second, or was locked without p_waits: try again later.
-- Locks: the oldest bundle while it works, so that others pass this scope over; the scope's row only at the end.
CREATE FUNCTION sync.prune_scope(p_user_pk bigint, p_retained_bundles bigint, p_max_bundles bigint DEFAULT 1000, p_waits boolean DEFAULT true)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
-- A waiter here may hold one of few pooled connections.
SET lock_timeout = '500ms'
-- The planner does not know how few versions a batch touches in a long log: without these it may read all of it.
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
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
COMMENT ON FUNCTION sync.prune_scope(bigint, bigint, bigint, boolean) IS 'Raises the floor of one scope and removes bundles and versions that retention no longer needs; returns the number of bundles removed.';

-- sync.prune does the same for all scopes that have something to prune, at most p_max_bundles bundles in all. Servers prune
-- by themselves; this is for a database without one, or for pruning further. Call it until it returns 0.
-- Returns the number of bundles removed. Scopes that are being written at this moment are passed over.
-- Errors: 22023 as sync.prune_scope. Locks: as sync.prune_scope, until the transaction ends.
CREATE FUNCTION sync.prune(p_retained_bundles bigint DEFAULT 10000, p_max_bundles bigint DEFAULT 1000)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION sync.prune(bigint, bigint) IS 'Removes bundles and versions that retention no longer needs, over all scopes; returns the number of bundles removed. Call it until it returns 0.';

-- sync.sweep removes sessions that expired longer than p_grace ago, so that a client still learns for a while that its session
-- expired, and what nothing refers to any more: chunks and marks of sessions that are gone, and what transactions
-- of plain SQL, or a dump, have left.
-- Returns the number of sessions removed, at most p_max_sessions of each kind.
-- Errors: none. Locks: the rows removed; sessions in use are passed over.
CREATE FUNCTION sync.sweep(p_grace interval DEFAULT '15 minutes', p_max_sessions bigint DEFAULT 1000)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION sync.sweep(interval, bigint) IS 'Removes sessions that expired longer ago than the grace given, and leftovers that nothing refers to; returns the number of sessions removed.';

-- sync.bound_snapshot_sessions is the trigger function that keeps the snapshot sessions of a scope at 4096, and those of one source at 8: the
-- oldest go. So a thousand devices of a team can rebuild at once, and one that asks again and again ends no session but its own.
-- Errors: none. Locks: the sessions removed.
CREATE FUNCTION sync.bound_snapshot_sessions()
RETURNS trigger
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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
CREATE TRIGGER bound_snapshot_sessions AFTER INSERT ON sync.snapshot_sessions
FOR EACH ROW EXECUTE FUNCTION sync.bound_snapshot_sessions();
COMMENT ON TRIGGER bound_snapshot_sessions ON sync.snapshot_sessions IS 'Keeps the snapshot sessions of a scope and of a source few: without it one client could make them without end.';
-- +goose StatementEnd

-- +goose Down
DROP TRIGGER bound_snapshot_sessions ON sync.snapshot_sessions;
DROP FUNCTION sync.bound_snapshot_sessions();
DROP FUNCTION sync.sweep(interval, bigint);
DROP FUNCTION sync.prune(bigint, bigint);
DROP FUNCTION sync.prune_scope(bigint, bigint, bigint, boolean);
ALTER TABLE sync.user_state DROP COLUMN pruned_bundle_seq;
