-- Connect: the life of a scope, from uninitialized through one source's lease to initialized.
--
--   UNINITIALIZED --pending rows--> INITIALIZING (lease) --first push--> INITIALIZED
--        +--------no pending rows-----------------------------------------^
--
-- The clock of this database alone decides when a lease ends.

-- +goose Up
-- +goose StatementBegin
-- sync.connect says how a source is to begin, and moves the scope on where that is its answer.
-- Returns resolution remote_authoritative, initialize_local (with id and end of the lease), initialize_empty or
-- retry_later (with seconds to wait and end of the lease).
-- Errors: 22023 an id that no user can have. Locks: the scope's row until the transaction ends, unless the scope is initialized already.
CREATE FUNCTION sync.connect(p_user_id text, p_source_id text, p_has_local_pending_rows boolean, p_lease_ttl interval)
RETURNS TABLE (resolution text, initialization_id uuid, lease_expires_at timestamptz, retry_after_seconds integer)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION sync.connect(text, text, boolean, interval) IS 'Says how a source is to begin, and moves the scope from uninitialized towards initialized.';

-- sync.require_initialization checks an initialization id against the scope, for a step of a push, and renews the lease.
-- p_initialization_id null means a push into an initialized scope. Each refusal is raised.
-- Errors: OV001 scope uninitialized, OV003 stale id, OV004 lease expired, OV009 id missing or not wanted.
-- Locks: with an id, the scope's row until the transaction ends.
CREATE FUNCTION sync.require_initialization(p_user sync.user_state, p_user_id text, p_source_id text, p_initialization_id text, p_lease_ttl interval)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION sync.require_initialization(sync.user_state, text, text, text, interval) IS 'Checks the initialization id of a push step and renews the lease.';
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION sync.require_initialization(sync.user_state, text, text, text, interval);
DROP FUNCTION sync.connect(text, text, boolean, interval);
