-- The log and the state of scopes: everything else in this schema is a query over these tables.
--
-- Locks: creates new objects only, so it waits for nobody and nobody waits for it.
-- The log has no foreign keys to rows that many writers share: they would be most of the cost of an insert and
-- make multixacts under concurrency. Nor do the tables that each commit writes have CHECK constraints, which PostgreSQL reads and
-- compiles anew in each statement, a tenth of a commit: where one column says it all, a domain does it for less. Integrity is by construction, and sync.verify looks at it.

-- +goose Up
-- +goose StatementBegin
CREATE SCHEMA sync;
COMMENT ON SCHEMA sync IS 'oversync: the log of synced tables, their registration, capture, and the functions that the sync API calls.';

--
-- Scopes and sources.
--
CREATE DOMAIN sync.identifier AS text CONSTRAINT has_1_to_255_bytes CHECK (octet_length(VALUE) BETWEEN 1 AND 255);
COMMENT ON DOMAIN sync.identifier IS 'Id of a scope or source, as whoever it names chose it.';
CREATE DOMAIN sync.scope_state AS text CONSTRAINT scope_state_is_known CHECK (VALUE IN ('uninitialized', 'initializing', 'initialized'));
COMMENT ON DOMAIN sync.scope_state IS 'How far a scope is in its life.';
CREATE DOMAIN sync.source_status AS text CONSTRAINT source_status_is_known CHECK (VALUE IN ('active', 'reserved', 'retired'));
COMMENT ON DOMAIN sync.source_status IS 'How far a source is in its life.';

CREATE TABLE sync.user_state (
    user_pk               bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT user_state_pkey PRIMARY KEY,
    user_id               sync.identifier NOT NULL,
    state                 sync.scope_state NOT NULL DEFAULT 'uninitialized',
    next_bundle_seq       bigint NOT NULL DEFAULT 1,
    retained_bundle_floor bigint NOT NULL DEFAULT 0,
    live_row_count        bigint NOT NULL DEFAULT 0,
    live_byte_count       bigint NOT NULL DEFAULT 0,
    bundle_byte_count     bigint NOT NULL DEFAULT 0,
    last_bundle_at        timestamptz,
    initialization_id     uuid,
    lease_source_id       text,
    lease_expires_at      timestamptz,
    created_at            timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT user_id_is_unique UNIQUE (user_id)
) WITH (fillfactor = 70);
COMMENT ON TABLE sync.user_state IS 'One row per scope (user). Its row lock is what puts the bundles of one scope in order; scopes never wait for each other.';
COMMENT ON SEQUENCE sync.user_state_user_pk_seq IS 'Numbers scopes.';
COMMENT ON COLUMN sync.user_state.user_pk IS 'Compact internal id of the scope, used by the log.';
COMMENT ON COLUMN sync.user_state.user_id IS 'Scope id: the authenticated user id, and the value of the scope column in synced tables.';
COMMENT ON COLUMN sync.user_state.state IS 'uninitialized (nobody has connected), initializing (one source holds a lease to upload the first rows) or initialized.';
COMMENT ON COLUMN sync.user_state.next_bundle_seq IS 'Sequence number that the next bundle gets; the newest bundle is one below.';
COMMENT ON COLUMN sync.user_state.retained_bundle_floor IS 'Bundles at or below this sequence are no longer served; 0 means that all history is there.';
COMMENT ON COLUMN sync.user_state.live_row_count IS 'Rows that a snapshot at the newest sequence holds.';
COMMENT ON COLUMN sync.user_state.live_byte_count IS 'Bytes of the payloads that a snapshot at the newest sequence holds.';
COMMENT ON COLUMN sync.user_state.bundle_byte_count IS 'Sum of byte_count over the bundles of this scope in sync.bundle_log.';
COMMENT ON COLUMN sync.user_state.last_bundle_at IS 'Start of the transaction that committed the newest bundle.';
COMMENT ON COLUMN sync.user_state.initialization_id IS 'Id of the lease while initializing.';
COMMENT ON COLUMN sync.user_state.lease_source_id IS 'Source that holds the lease while initializing.';
COMMENT ON COLUMN sync.user_state.lease_expires_at IS 'When the lease ends, by the clock of this database.';
COMMENT ON COLUMN sync.user_state.created_at IS 'When the scope was first seen.';

CREATE TABLE sync.source_state (
    user_pk               bigint NOT NULL,
    source_id             sync.identifier NOT NULL,
    state                 sync.source_status NOT NULL DEFAULT 'active',
    last_source_bundle_id bigint NOT NULL DEFAULT 0,
    is_device             boolean NOT NULL DEFAULT false,
    replaced_by_source_id text,
    replacement_reason    text,
    updated_at            timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT source_state_pkey PRIMARY KEY (user_pk, source_id)
) WITH (fillfactor = 70);
COMMENT ON TABLE sync.source_state IS 'One row per source (device or server-side writer) of a scope that has committed or was announced.';
COMMENT ON COLUMN sync.source_state.user_pk IS 'Scope, see sync.user_state.';
COMMENT ON COLUMN sync.source_state.source_id IS 'Name that the writer chose for itself.';
COMMENT ON COLUMN sync.source_state.state IS 'active, reserved (announced as a replacement, nothing committed yet) or retired (replaced by another source).';
COMMENT ON COLUMN sync.source_state.last_source_bundle_id IS 'Highest source_bundle_id committed; the next push must carry the one after it.';
COMMENT ON COLUMN sync.source_state.is_device IS 'Whether it has pushed or was replaced through the API. Plain SQL that takes its name writes as sql:<name> instead.';
COMMENT ON COLUMN sync.source_state.replaced_by_source_id IS 'Source that took over from a retired one.';
COMMENT ON COLUMN sync.source_state.replacement_reason IS 'Why it was retired, as its client said.';
COMMENT ON COLUMN sync.source_state.updated_at IS 'When this row last changed.';

--
-- The log: one row per bundle, one row per effect.
--
CREATE TABLE sync.bundle_log (
    user_pk          bigint NOT NULL,
    bundle_seq       bigint NOT NULL,
    source_bundle_id bigint NOT NULL,
    row_count        bigint NOT NULL,
    byte_count       bigint,
    committed_at     timestamptz NOT NULL DEFAULT now(),
    source_id        text NOT NULL,
    bundle_hash      bytea,
    CONSTRAINT bundle_log_pkey PRIMARY KEY (user_pk, bundle_seq),
    CONSTRAINT source_bundle_id_commits_once UNIQUE (user_pk, source_id, source_bundle_id)
);
COMMENT ON TABLE sync.bundle_log IS 'One row per bundle: all effects of one committed transaction in one scope. Append-only until retention removes it.';
COMMENT ON COLUMN sync.bundle_log.user_pk IS 'Scope, see sync.user_state.';
COMMENT ON COLUMN sync.bundle_log.bundle_seq IS '1, 2, 3 ... per scope, without gaps, in commit order.';
COMMENT ON COLUMN sync.bundle_log.source_bundle_id IS '1, 2, 3 ... per source: with the source it makes a push idempotent.';
COMMENT ON COLUMN sync.bundle_log.row_count IS 'Effects in the bundle.';
COMMENT ON COLUMN sync.bundle_log.byte_count IS 'Length in bytes of the canonical JSON of the rows; null until a server has sealed a bundle that plain SQL wrote.';
COMMENT ON COLUMN sync.bundle_log.committed_at IS 'Start of the transaction that committed the bundle.';
COMMENT ON COLUMN sync.bundle_log.source_id IS 'Source that wrote it.';
COMMENT ON COLUMN sync.bundle_log.bundle_hash IS 'SHA-256 of the canonical JSON of the rows; null until a server has sealed a bundle that plain SQL wrote.';

CREATE TABLE sync.bundle_rows (
    user_pk     bigint NOT NULL,
    bundle_seq  bigint NOT NULL,
    row_ordinal integer NOT NULL,
    table_id    integer NOT NULL,
    op          "char" NOT NULL,
    key_bytes   bytea NOT NULL,
    payload     text,
    CONSTRAINT bundle_rows_pkey PRIMARY KEY (user_pk, bundle_seq, row_ordinal)
);
CREATE INDEX bundle_rows_newest_of_key ON sync.bundle_rows (user_pk, table_id, key_bytes, bundle_seq DESC);
COMMENT ON TABLE sync.bundle_rows IS 'One row per effect of a bundle. The newest entry of a key is the state of that row: its version, whether it is deleted, its content.';
COMMENT ON COLUMN sync.bundle_rows.user_pk IS 'Scope, see sync.user_state.';
COMMENT ON COLUMN sync.bundle_rows.bundle_seq IS 'Bundle that the effect belongs to; on the wire the row_version.';
COMMENT ON COLUMN sync.bundle_rows.row_ordinal IS '0, 1, 2 ... in the order in which clients see the effects.';
COMMENT ON COLUMN sync.bundle_rows.table_id IS 'Table, see sync.table_catalog.';
COMMENT ON COLUMN sync.bundle_rows.op IS 'I insert, U update, D delete.';
COMMENT ON COLUMN sync.bundle_rows.key_bytes IS 'Key of the row: 16 bytes for uuid, UTF-8 for text.';
COMMENT ON COLUMN sync.bundle_rows.payload IS 'The whole row after the change as wire JSON, scope column left out; null for a delete.';
COMMENT ON INDEX sync.bundle_rows_newest_of_key IS 'Finds the newest version of a key, and walks a scope in snapshot order.';

--
-- What a running transaction needs. Unlogged: a crash ends the transactions, and what is left here of those that are over means nothing.
--
CREATE UNLOGGED TABLE sync.open_bundles (
    xid              xid8 NOT NULL,
    user_pk          bigint NOT NULL,
    bundle_seq       bigint NOT NULL,
    source_bundle_id bigint NOT NULL,
    row_count        bigint NOT NULL DEFAULT 0,
    live_row_delta   bigint NOT NULL DEFAULT 0,
    live_byte_delta  bigint NOT NULL DEFAULT 0,
    push_id          uuid,
    pushed_table_id  integer,
    is_implicit      boolean NOT NULL,
    user_id          text NOT NULL,
    source_id        text NOT NULL,
    fired_at         timestamptz,
    CONSTRAINT open_bundles_pkey PRIMARY KEY (xid, user_pk)
) WITH (fillfactor = 70);
COMMENT ON TABLE sync.open_bundles IS 'The bundles that a running transaction is writing: one that was opened, or one per scope that plain SQL touched. Capture believes this table and no setting, so that nobody can write into another scope by forging one.';
COMMENT ON COLUMN sync.open_bundles.xid IS 'Transaction that writes the bundle.';
COMMENT ON COLUMN sync.open_bundles.user_pk IS 'Scope, see sync.user_state; its row is locked by the transaction.';
COMMENT ON COLUMN sync.open_bundles.bundle_seq IS 'Sequence that the bundle will have.';
COMMENT ON COLUMN sync.open_bundles.source_bundle_id IS 'Number of the bundle within its source.';
COMMENT ON COLUMN sync.open_bundles.row_count IS 'Effects that the emission has entered in the log; 0 for a push whose rows are logged as they are applied, which passes the number on.';
COMMENT ON COLUMN sync.open_bundles.live_row_delta IS 'How many more live rows the scope has after the bundle; noted as row_count is.';
COMMENT ON COLUMN sync.open_bundles.live_byte_delta IS 'How many more payload bytes the live rows of the scope have after the bundle; noted as row_count is.';
COMMENT ON COLUMN sync.open_bundles.push_id IS 'Push session that is being committed; null for server-side writes.';
COMMENT ON COLUMN sync.open_bundles.pushed_table_id IS 'Table of the row, for a push that has only one, and for several such: the statement that applies it need not be noted where it can do nothing else, see sync.stands_alone.';
COMMENT ON COLUMN sync.open_bundles.is_implicit IS 'Made at commit for what plain SQL wrote, rather than opened beforehand. Kept when the bundle is entered, in case the transaction writes more; sync.sweep removes it later.';
COMMENT ON COLUMN sync.open_bundles.user_id IS 'Scope id that every written row must carry.';
COMMENT ON COLUMN sync.open_bundles.source_id IS 'Source that writes.';
COMMENT ON COLUMN sync.open_bundles.fired_at IS 'Statement in which sync.require_finished last looked at an opened bundle.';

CREATE UNLOGGED TABLE sync.captured_keys (
    xid        xid8 NOT NULL,
    capture_no bigint GENERATED ALWAYS AS IDENTITY,
    table_id   integer NOT NULL,
    at_commit  boolean NOT NULL,
    keys       bytea[] NOT NULL,
    scopes     text[],
    CONSTRAINT captured_keys_pkey PRIMARY KEY (xid, capture_no)
);
ALTER TABLE sync.captured_keys ALTER COLUMN keys SET STORAGE EXTERNAL, ALTER COLUMN scopes SET STORAGE EXTERNAL;
COMMENT ON TABLE sync.captured_keys IS 'One row per statement that touched a registered table in a running transaction: the keys it touched. Not for the statement of a push of one row from which nothing can follow. The log is made from the live rows of these keys when the bundle is finished, so it holds what the transaction left, whatever triggers did on the way.';
COMMENT ON SEQUENCE sync.captured_keys_capture_no_seq IS 'Numbers captured statements.';
COMMENT ON COLUMN sync.captured_keys.xid IS 'Transaction that touched the keys.';
COMMENT ON COLUMN sync.captured_keys.capture_no IS 'Order in which statements were captured.';
COMMENT ON COLUMN sync.captured_keys.table_id IS 'Table, see sync.table_catalog.';
COMMENT ON COLUMN sync.captured_keys.at_commit IS 'Written outside a bundle: becomes one when the transaction commits.';
COMMENT ON COLUMN sync.captured_keys.keys IS 'Keys touched, in the order of the statement.';
COMMENT ON COLUMN sync.captured_keys.scopes IS 'Scope of each key; a single one is that of all keys. Null: the scope of the open bundle, or still to be found through a parent.';

--
-- Whose rows these are, beside the log.
--
CREATE TABLE sync.row_owners (
    table_id  integer NOT NULL,
    user_pk   bigint NOT NULL,
    key_bytes bytea NOT NULL,
    CONSTRAINT row_owners_pkey PRIMARY KEY (table_id, key_bytes)
);
COMMENT ON TABLE sync.row_owners IS 'Whose row the log has live, for tables that find their scope through a parent: when a row is deleted, its parent may be gone already.';
COMMENT ON COLUMN sync.row_owners.table_id IS 'Table, see sync.table_catalog.';
COMMENT ON COLUMN sync.row_owners.user_pk IS 'Scope that has the row live in the log.';
COMMENT ON COLUMN sync.row_owners.key_bytes IS 'Key of the row.';

--
-- Counters. Sequences, because they count in transactions that roll back and never make a writer wait.
-- After a crash a sequence may stand up to 32 higher than what was counted.
--
CREATE SEQUENCE sync.rejected_write_count;
CREATE SEQUENCE sync.push_replay_count;
CREATE SEQUENCE sync.history_pruned_count;
COMMENT ON SEQUENCE sync.rejected_write_count IS 'Counts statements refused because they wrote a registered table outside a bundle.';
COMMENT ON SEQUENCE sync.push_replay_count IS 'Counts pushes answered with the bundle that they had already committed.';
COMMENT ON SEQUENCE sync.history_pruned_count IS 'Counts answers history_pruned.';

--
-- Ids.
--
-- sync.is_scope_id tells whether an id is one that a user or source can have: the server trims the white space of ids, and refuses control
-- characters. What it calls white space and is no control character is named here. A body of one expression becomes part of what asks: no call for each row.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.is_scope_id(p_id text)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN octet_length(p_id) BETWEEN 1 AND 255
   AND p_id COLLATE "C" !~ E'[\\u0001-\\u001f\\u007f-\\u009f]|^[ \\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]|[ \\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]$';
COMMENT ON FUNCTION sync.is_scope_id(text) IS 'Whether an id is one that a user or source can have: 1 to 255 bytes, no control character, no white space at its ends.';

--
-- Errors.
--
-- sync.fail raises an error of this schema, which it says by the error's SCHEMA: a code may be anybody's. It never returns.
-- Errors: p_code, one of the OV... codes listed in docs/errors.md. Locks: none.
CREATE FUNCTION sync.fail(p_code text, p_message text, p_detail jsonb DEFAULT NULL, p_hint text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_detail IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = p_code, MESSAGE = p_message, HINT = coalesce(p_hint, ''), SCHEMA = 'sync';
    END IF;
    RAISE EXCEPTION USING ERRCODE = p_code, MESSAGE = p_message, DETAIL = p_detail::text, HINT = coalesce(p_hint, ''), SCHEMA = 'sync';
END
$$;
COMMENT ON FUNCTION sync.fail(text, text, jsonb, text) IS 'Raises an error with a code of oversync, a message, machine-readable detail and a hint. Never returns.';
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION sync.fail(text, text, jsonb, text);
DROP FUNCTION sync.is_scope_id(text);
DROP SEQUENCE sync.history_pruned_count;
DROP SEQUENCE sync.push_replay_count;
DROP SEQUENCE sync.rejected_write_count;
DROP TABLE sync.row_owners;
DROP TABLE sync.captured_keys;
DROP TABLE sync.open_bundles;
DROP TABLE sync.bundle_rows;
DROP TABLE sync.bundle_log;
DROP TABLE sync.source_state;
DROP TABLE sync.user_state;
DROP DOMAIN sync.source_status;
DROP DOMAIN sync.scope_state;
DROP DOMAIN sync.identifier;
DROP SCHEMA sync;
