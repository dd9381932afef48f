-- The tables of the benchmark: those that sync, and twins of them that do not, for the floors.

CREATE SCHEMA bench;

CREATE TABLE bench.lists (
    _sync_scope_id text NOT NULL,
    id             uuid NOT NULL,
    name           text NOT NULL,
    PRIMARY KEY (_sync_scope_id, id)
);

CREATE TABLE bench.todos (
    _sync_scope_id text NOT NULL,
    id             uuid NOT NULL,
    list_id        uuid,
    title          text NOT NULL,
    note           text,
    done           boolean NOT NULL DEFAULT false,
    priority       integer NOT NULL DEFAULT 0,
    updated_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (_sync_scope_id, id),
    CONSTRAINT todos_list_fkey FOREIGN KEY (_sync_scope_id, list_id)
        REFERENCES bench.lists (_sync_scope_id, id) DEFERRABLE INITIALLY DEFERRED
);
CREATE INDEX todos_by_list ON bench.todos (_sync_scope_id, list_id);

CREATE TABLE bench.plain_lists (LIKE bench.lists INCLUDING ALL);
CREATE TABLE bench.plain_todos (LIKE bench.todos INCLUDING ALL,
    CONSTRAINT plain_todos_list_fkey FOREIGN KEY (_sync_scope_id, list_id)
        REFERENCES bench.plain_lists (_sync_scope_id, id) DEFERRABLE INITIALLY DEFERRED
);

SELECT sync.register_table('bench.lists'), sync.register_table('bench.todos');
