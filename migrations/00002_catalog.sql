-- The catalog of registered tables; discovery, which is foreign keys and the order of tables, read from pg_catalog; and what a table
-- may not have lost since.
--
-- Locks: creates new objects only.

-- +goose Up
-- +goose StatementBegin
CREATE TABLE sync.table_catalog (
    table_id             integer GENERATED ALWAYS AS IDENTITY CONSTRAINT table_catalog_pkey PRIMARY KEY,
    relation             regclass,
    relation_oid         oid NOT NULL,
    schema_name          text NOT NULL,
    table_name           text NOT NULL,
    key_column           name NOT NULL,
    key_type             text NOT NULL,
    key_attnum           smallint NOT NULL,
    scope_column         name,
    scope_type           text,
    scope_attnum         smallint,
    scope_via            name,
    scope_via_attnum     smallint,
    scope_parent         regclass,
    scope_is_shown       boolean NOT NULL DEFAULT false,
    on_scope_change      text NOT NULL DEFAULT 'refuse',
    policy               text NOT NULL DEFAULT 'reject',
    external_references  text[] NOT NULL DEFAULT '{}',
    has_to_settle        boolean NOT NULL DEFAULT false,
    apply_order          integer NOT NULL DEFAULT 0,
    columns_fingerprint  bigint NOT NULL,
    relnatts             smallint NOT NULL,
    scope_default_before text,
    registered_at        timestamptz NOT NULL DEFAULT now(),
    unregistered_at      timestamptz,
    CONSTRAINT policy_is_known CHECK (policy IN ('reject', 'capture')),
    CONSTRAINT key_type_is_known CHECK (key_type IN ('uuid', 'text')),
    CONSTRAINT on_scope_change_is_known CHECK (on_scope_change IN ('refuse', 'move')),
    CONSTRAINT scope_is_a_column_or_found_through_a_parent CHECK ((scope_column IS NULL) <> (scope_via IS NULL)),
    CONSTRAINT registered_has_a_relation CHECK ((relation IS NULL) = (unregistered_at IS NOT NULL))
);
CREATE UNIQUE INDEX relation_is_registered_once ON sync.table_catalog (relation) WHERE unregistered_at IS NULL;
CREATE UNIQUE INDEX name_is_registered_once ON sync.table_catalog (schema_name, table_name) WHERE unregistered_at IS NULL;
COMMENT ON INDEX sync.relation_is_registered_once IS 'A table is registered once at a time.';
COMMENT ON INDEX sync.name_is_registered_once IS 'Clients know one table by a name.';
COMMENT ON TABLE sync.table_catalog IS 'Registered tables. An unregistered one stays as an entry without relation, so that history can still be read. Written by sync.register_table and its like, never by hand.';
COMMENT ON SEQUENCE sync.table_catalog_table_id_seq IS 'Numbers registered tables.';
COMMENT ON COLUMN sync.table_catalog.table_id IS 'Compact internal id, used by the log. A table that is registered again gets a new one.';
COMMENT ON COLUMN sync.table_catalog.relation IS 'The table; null once unregistered.';
COMMENT ON COLUMN sync.table_catalog.relation_oid IS 'Number of the table at the last registration or refresh. Another one once a dump was restored, and then columns may have other numbers too.';
COMMENT ON COLUMN sync.table_catalog.schema_name IS 'Schema as clients know it.';
COMMENT ON COLUMN sync.table_catalog.table_name IS 'Table as clients know it.';
COMMENT ON COLUMN sync.table_catalog.key_column IS 'Column that identifies a row within its scope.';
COMMENT ON COLUMN sync.table_catalog.key_type IS 'Type of the key: uuid or text.';
COMMENT ON COLUMN sync.table_catalog.key_attnum IS 'Number of the key column, which stays when it is renamed.';
COMMENT ON COLUMN sync.table_catalog.scope_column IS 'Column that says whose row it is; null where the scope is found through a parent.';
COMMENT ON COLUMN sync.table_catalog.scope_type IS 'Type of the scope column; its text form is the scope id.';
COMMENT ON COLUMN sync.table_catalog.scope_attnum IS 'Number of the scope column, which stays when it is renamed.';
COMMENT ON COLUMN sync.table_catalog.scope_via IS 'Column that refers to the parent whose scope a row has.';
COMMENT ON COLUMN sync.table_catalog.scope_via_attnum IS 'Number of that column, which stays when it is renamed.';
COMMENT ON COLUMN sync.table_catalog.scope_parent IS 'Table that it referred to at the last registration or refresh.';
COMMENT ON COLUMN sync.table_catalog.scope_is_shown IS 'Whether clients see the scope column. They can never write it.';
COMMENT ON COLUMN sync.table_catalog.on_scope_change IS 'What a parent''s change of scope does to the rows of this table: refuse (an error) or move (they go along).';
COMMENT ON COLUMN sync.table_catalog.external_references IS 'Foreign keys (constraint names, or schema.table referred to) that may point to tables that are not registered.';
COMMENT ON COLUMN sync.table_catalog.policy IS 'What happens to a write outside a bundle: reject (an error) or capture (it becomes a bundle at commit).';
COMMENT ON COLUMN sync.table_catalog.has_to_settle IS 'Whether its rows can refer across scopes, so that sync.settle_<id> looks at them.';
COMMENT ON COLUMN sync.table_catalog.apply_order IS 'Place in the order parents first, as sync.table_order had it at the last registration.';
COMMENT ON COLUMN sync.table_catalog.columns_fingerprint IS 'Columns at the last registration or refresh, as sync.columns_fingerprint gives them; differs when the table was altered since.';
COMMENT ON COLUMN sync.table_catalog.relnatts IS 'Columns at the last registration or refresh, dropped ones too, as pg_class counts them.';
COMMENT ON COLUMN sync.table_catalog.scope_default_before IS 'Default that the scope column had before registration; put back by sync.unregister_table.';
COMMENT ON COLUMN sync.table_catalog.registered_at IS 'When it was registered.';
COMMENT ON COLUMN sync.table_catalog.unregistered_at IS 'When it was unregistered; null while registered.';

CREATE TABLE sync.catalog_version (
    only_row boolean NOT NULL DEFAULT true CONSTRAINT catalog_version_pkey PRIMARY KEY CONSTRAINT has_one_row CHECK (only_row),
    version  bigint NOT NULL
);
INSERT INTO sync.catalog_version (version) VALUES (1);
COMMENT ON TABLE sync.catalog_version IS 'One row, raised by each change of the catalog: servers notice by it that what they remember of tables is old.';
COMMENT ON COLUMN sync.catalog_version.only_row IS 'Always true: keeps this table at one row.';
COMMENT ON COLUMN sync.catalog_version.version IS 'Number of the catalog''s present content.';

CREATE TABLE sync.table_order_overrides (
    child  regclass NOT NULL,
    parent regclass NOT NULL,
    CONSTRAINT table_order_overrides_pkey PRIMARY KEY (child, parent)
);
COMMENT ON TABLE sync.table_order_overrides IS 'Order of tables beyond foreign keys: the child is written after the parent. Has no bearing on which foreign keys are accepted.';
COMMENT ON COLUMN sync.table_order_overrides.child IS 'Table that is written later.';
COMMENT ON COLUMN sync.table_order_overrides.parent IS 'Table that is written earlier.';

-- sync.catalog_entry returns a table's catalog entry, with its columns named, and its scope of the type, as they are now. Numbers of columns
-- find them, unless they were given in another database than this one, as where a dump was restored: then their names do.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.catalog_entry(p_table_id integer)
RETURNS sync.table_catalog
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_table sync.table_catalog;
BEGIN
    SELECT t.* INTO v_table FROM sync.table_catalog t WHERE t.table_id = p_table_id;
    IF v_table.relation_oid <> v_table.relation THEN
        SELECT max(a.attnum) FILTER (WHERE a.attname = v_table.key_column), max(a.attnum) FILTER (WHERE a.attname = v_table.scope_column),
               max(a.attnum) FILTER (WHERE a.attname = v_table.scope_via)
        INTO v_table.key_attnum, v_table.scope_attnum, v_table.scope_via_attnum
        FROM pg_attribute a WHERE a.attrelid = v_table.relation AND NOT a.attisdropped;
    END IF;
    SELECT coalesce(max(a.attname) FILTER (WHERE a.attnum = v_table.key_attnum), v_table.key_column),
           coalesce(max(a.attname) FILTER (WHERE a.attnum = v_table.scope_attnum), v_table.scope_column),
           coalesce(max(a.attname) FILTER (WHERE a.attnum = v_table.scope_via_attnum), v_table.scope_via)
    INTO v_table.key_column, v_table.scope_column, v_table.scope_via
    FROM pg_attribute a WHERE a.attrelid = v_table.relation AND NOT a.attisdropped;
    v_table.scope_type := coalesce((SELECT a.atttypid::regtype::text FROM pg_attribute a WHERE a.attrelid = v_table.relation AND a.attname = v_table.scope_column), v_table.scope_type);
    RETURN v_table;
END
$$;
COMMENT ON FUNCTION sync.catalog_entry(integer) IS 'Catalog entry of a table, with its columns named, and its scope of the type, as they are now.';

-- sync.columns_fingerprint returns a number that changes when a column of the table is added, dropped, renamed or retyped, or two swap their names.
-- It is the same where a dump was restored: the order of columns counts, but neither their numbers nor those of types that the application
-- made. Volatile, so that it sees what was committed until now.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.columns_fingerprint(p_relation oid)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN hash_array_extended(ARRAY(
        SELECT CASE WHEN a.atttypid < 16384 THEN hashtextextended(a.attname::text, a.atttypid::bigint * 4294967296 + a.atttypmod)
                    ELSE hashtextextended(concat_ws(' ', a.attname, n.nspname, t.typname), a.atttypmod) END
        FROM pg_attribute a
        LEFT JOIN (pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace) ON a.atttypid >= 16384 AND t.oid = a.atttypid
        WHERE a.attrelid = p_relation AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY a.attnum), 0);
END
$$;
COMMENT ON FUNCTION sync.columns_fingerprint(oid) IS 'Number that changes when a column of the table is added, dropped, renamed or retyped, or two swap their names.';

-- sync.relation_literal returns how the code made for a table names one by its number, which stays when the table is renamed. By this form
-- alone, so that sync.check knows code that was made in another database.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.relation_literal(p_relation oid)
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('%L::pg_catalog.regclass', p_relation)
$$;
COMMENT ON FUNCTION sync.relation_literal(oid) IS 'How the code made for a table names one by its number.';

-- sync.parts_are_replaced tells what the fingerprint of a table's columns does not show: that since the last registration or refresh a column
-- was added in the place of one of its name, or that what leads to whose a row is leads to another table. In a restored database
-- columns have numbers of their own, and are not looked at. Volatile, as sync.columns_fingerprint.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.parts_are_replaced(p_table_id integer)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN EXISTS (
        -- PostgreSQL counts dropped columns too, so each that is added makes it one more.
        SELECT FROM sync.table_catalog t JOIN pg_class c ON c.oid = t.relation
        WHERE t.table_id = p_table_id AND t.relation_oid = t.relation AND c.relnatts <> t.relnatts
    ) OR coalesce((
        SELECT bool_and(k.confrelid <> t.scope_parent)
        FROM sync.table_catalog t
        JOIN pg_attribute a ON a.attrelid = t.relation AND a.attname = t.scope_via AND NOT a.attisdropped
        JOIN pg_constraint k ON k.conrelid = t.relation AND k.contype = 'f' AND k.conparentid = 0 AND k.conkey = ARRAY[a.attnum]
        WHERE t.table_id = p_table_id), false);
END
$$;
COMMENT ON FUNCTION sync.parts_are_replaced(integer) IS 'Whether a column of a table, or the parent that says whose a row is, was replaced by another of its name since the last registration or refresh.';

-- sync.is_altered_now tells whether a table has another fingerprint now, or other parts, or lets its key or scope be null, or is not the registered table
-- of this id: its number is written into the code made for it, and is another one, or that of another table, where a dump was restored.
-- Volatile, as sync.columns_fingerprint.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.is_altered_now(p_relation regclass, p_fingerprint bigint, p_table_id integer)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN coalesce((SELECT t.relation <> p_relation FROM sync.table_catalog t WHERE t.table_id = p_table_id), false)
        OR sync.columns_fingerprint(p_relation) IS DISTINCT FROM p_fingerprint
        OR sync.parts_are_replaced(p_table_id)
        OR EXISTS (SELECT FROM sync.table_catalog t JOIN pg_attribute a ON a.attrelid = p_relation AND a.attname IN (t.key_column, t.scope_column, t.scope_via)
                   WHERE t.table_id = p_table_id AND NOT a.attnotnull);
END
$$;
COMMENT ON FUNCTION sync.is_altered_now(regclass, bigint, integer) IS 'Whether a table has another fingerprint now, or other parts, lets its key or scope be null, or is not the registered table of this id.';

-- sync.is_altered is sync.is_altered_now; null under a snapshot that may be older than the last ALTER TABLE.
-- Called immutable, which it is not, so that PostgreSQL asks once, when it plans what asks, and not in each statement: a plan that names a
-- table (here as a constant of type regclass) is made anew once that table is altered, in each session that keeps it.
-- Only for the condition that sync.altered_condition makes.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.is_altered(p_relation regclass, p_fingerprint bigint, p_table_id integer)
RETURNS boolean
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN NULL;
    END IF;
    RETURN sync.is_altered_now(p_relation, p_fingerprint, p_table_id);
END
$$;
COMMENT ON FUNCTION sync.is_altered(regclass, bigint, integer) IS 'Whether a table has another fingerprint now, asked once for each plan; null if this transaction cannot know.';

-- sync.altered_condition returns the SQL condition that a table has another fingerprint than this one.
-- Where a plan cannot say, it is looked up in each statement.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.altered_condition(p_relation oid, p_fingerprint bigint, p_table_id integer)
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('coalesce(sync.is_altered(%1$s, %2$s, %3$s), sync.is_altered_now(%1$s, %2$s, %3$s))', sync.relation_literal(p_relation), p_fingerprint, p_table_id)
$$;
COMMENT ON FUNCTION sync.altered_condition(oid, bigint, integer) IS 'SQL condition that a table has another fingerprint than this one.';

-- sync.runs_code tells whether a default or a check of a table, or of the types of its columns, calls a function of the application, which may
-- write what it likes. Not one in C: extensions make keys by such.
-- Volatile, as sync.columns_fingerprint.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.runs_code(p_relation oid)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN EXISTS (
        WITH RECURSIVE types AS (
            SELECT a.atttypid AS oid FROM pg_attribute a WHERE a.attrelid = p_relation AND a.attnum > 0 AND NOT a.attisdropped
            UNION
            SELECT part.oid FROM types y JOIN pg_type t ON t.oid = y.oid
            CROSS JOIN LATERAL (SELECT t.typbasetype UNION ALL SELECT t.typelem
                                UNION ALL SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) AS part(oid)
        ), expressions AS (
            SELECT 'pg_attrdef'::regclass AS classid, d.oid FROM pg_attrdef d WHERE d.adrelid = p_relation
            UNION ALL SELECT 'pg_constraint'::regclass, k.oid FROM pg_constraint k WHERE k.conrelid = p_relation AND k.contype = 'c'
            UNION ALL SELECT 'pg_constraint'::regclass, k.oid FROM types y JOIN pg_constraint k ON k.contypid = y.oid
            UNION ALL SELECT 'pg_type'::regclass, t.oid FROM types y JOIN pg_type t ON t.oid = y.oid WHERE t.typtype = 'd'
        )
        SELECT FROM expressions e
        JOIN pg_depend d ON d.classid = e.classid AND d.objid = e.oid
        LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
        JOIN pg_proc f ON f.oid = o.oprcode OR d.refclassid = 'pg_proc'::regclass AND f.oid = d.refobjid
        JOIN pg_language l ON l.oid = f.prolang
        WHERE l.lanname NOT IN ('internal', 'c') AND f.pronamespace <> 'sync'::regnamespace);
END
$$;
COMMENT ON FUNCTION sync.runs_code(oid) IS 'Whether a default or a check of a table calls a function of the application.';

-- sync.nothing_follows tells whether a statement of this kind (I, U or D) on the table can do nothing but write the rows that it names, in the
-- scope that it names: no trigger or function of the application, no foreign-key action, no rule, no children, and no text equal to another.
-- Volatile, so that it sees what was committed until now.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.nothing_follows(p_relation oid, p_op "char")
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN EXISTS (SELECT FROM pg_class c WHERE c.oid = p_relation AND c.relkind = 'r' AND NOT c.relhasrules AND NOT c.relhassubclass)
        AND NOT EXISTS (
            SELECT FROM pg_trigger g JOIN pg_proc f ON f.oid = g.tgfoid
            WHERE g.tgrelid = p_relation AND g.tgtype & CASE p_op WHEN 'I' THEN 4 WHEN 'D' THEN 8 ELSE 16 END <> 0
              AND f.pronamespace <> 'sync'::regnamespace
              -- Those only look.
              AND (NOT g.tgisinternal OR f.proname !~ '^(RI_FKey_(check|noaction|restrict)_|unique_key_recheck$)'))
        AND NOT EXISTS (SELECT FROM pg_attribute a JOIN pg_collation l ON l.oid = a.attcollation WHERE a.attrelid = p_relation AND NOT l.collisdeterministic)
        AND NOT (p_op <> 'D' AND sync.runs_code(p_relation));
END
$$;
COMMENT ON FUNCTION sync.nothing_follows(oid, "char") IS 'Whether a statement on the table can do nothing but write the rows that it names.';

-- sync.stands_alone is sync.nothing_follows, asked once for each plan. As sync.is_altered it is called immutable: whatever changes the answer
-- needs a lock that writers of the table keep out, and has plans that name the table made anew. False for a number that is not that of the
-- registered table of this id, as where a dump was restored.
-- Only for code that runs while its transaction has written the table.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.stands_alone(p_relation regclass, p_op "char", p_table_id integer)
RETURNS boolean
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN EXISTS (SELECT FROM sync.table_catalog t WHERE t.table_id = p_table_id AND t.relation = p_relation) AND sync.nothing_follows(p_relation, p_op);
END
$$;
COMMENT ON FUNCTION sync.stands_alone(regclass, "char", integer) IS 'Whether a statement on the table can do nothing but write the rows that it names, asked once for each plan.';

-- sync.discover returns the order in which tables are to be written: parents first, the members of a cycle side by side.
-- p_overrides adds edges child -> parent to those of the foreign keys.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.discover(p_relations oid[], p_overrides jsonb DEFAULT '[]')
RETURNS TABLE (relation regclass, table_position integer, cycle_group integer, depends_on regclass[])
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE
    names AS (
        SELECT c.oid, n.nspname || '.' || c.relname AS full_name
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = ANY (p_relations)
    ), edges AS (
        SELECT k.conrelid AS child, k.confrelid AS parent
        FROM pg_constraint k
        WHERE k.contype = 'f' AND k.conparentid = 0 AND k.conrelid = ANY (p_relations) AND k.confrelid = ANY (p_relations) AND k.conrelid <> k.confrelid
        UNION
        SELECT c.oid, p.oid
        FROM jsonb_to_recordset(p_overrides) AS o(child text, parent text)
        JOIN names c ON c.full_name = o.child JOIN names p ON p.full_name = o.parent
        WHERE c.oid <> p.oid
    ), ancestors AS (
        SELECT e.child, e.parent AS ancestor FROM edges e
        UNION
        SELECT a.child, e.parent FROM ancestors a JOIN edges e ON e.child = a.ancestor
    ), cycle_of AS (
        -- Two tables are in one cycle when each is an ancestor of the other; the cycle is named by its first member.
        SELECT a.child AS oid, min(n.full_name COLLATE "C") AS cycle_name
        FROM ancestors a JOIN ancestors b ON b.child = a.ancestor AND b.ancestor = a.child
        JOIN names n ON n.oid = a.ancestor
        GROUP BY a.child
    ), placed AS (
        -- A table has strictly more ancestors outside its own cycle than any of them has, so their number is an order.
        SELECT n.oid, n.full_name, y.cycle_name,
               (SELECT count(*) FROM ancestors a LEFT JOIN cycle_of ay ON ay.oid = a.ancestor
                WHERE a.child = n.oid AND (y.cycle_name IS NULL OR ay.cycle_name IS DISTINCT FROM y.cycle_name)) AS ancestor_count
        FROM names n LEFT JOIN cycle_of y ON y.oid = n.oid
    )
    SELECT p.oid::regclass,
           (row_number() OVER (ORDER BY p.ancestor_count, coalesce(p.cycle_name, p.full_name) COLLATE "C", p.full_name COLLATE "C"))::integer,
           CASE WHEN p.cycle_name IS NOT NULL THEN (SELECT count(DISTINCT q.cycle_name) FROM placed q WHERE q.cycle_name COLLATE "C" <= p.cycle_name COLLATE "C")::integer ELSE 0 END,
           coalesce((SELECT array_agg(e.parent::regclass ORDER BY d.full_name COLLATE "C") FROM edges e JOIN names d ON d.oid = e.parent WHERE e.child = p.oid), '{}')
    FROM placed p
$$;
COMMENT ON FUNCTION sync.discover(oid[], jsonb) IS 'Order in which these tables are written: parents first, cycles grouped (cycle_group above 0), with the tables that each depends on.';

--
-- Views for people.
--
CREATE VIEW sync.foreign_keys AS
SELECT k.conname AS constraint_name,
       t.table_id,
       t.schema_name,
       t.table_name,
       p.table_id AS parent_table_id,
       pn.nspname AS parent_schema,
       pc.relname AS parent_table,
       (SELECT array_agg(a.attname ORDER BY c.place) FROM unnest(k.conkey) WITH ORDINALITY AS c(attnum, place)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = c.attnum) AS columns,
       (SELECT array_agg(a.attname ORDER BY c.place) FROM unnest(k.confkey) WITH ORDINALITY AS c(attnum, place)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = c.attnum) AS parent_columns,
       CASE k.confmatchtype WHEN 's' THEN 'SIMPLE' WHEN 'f' THEN 'FULL' ELSE 'PARTIAL' END AS match_option,
       CASE k.confdeltype WHEN 'a' THEN 'NO ACTION' WHEN 'r' THEN 'RESTRICT' WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL' ELSE 'SET DEFAULT' END AS on_delete,
       CASE k.confupdtype WHEN 'a' THEN 'NO ACTION' WHEN 'r' THEN 'RESTRICT' WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL' ELSE 'SET DEFAULT' END AS on_update,
       k.condeferrable AS is_deferrable,
       k.conrelid = k.confrelid AS is_self_reference
FROM sync.table_catalog t
JOIN pg_catalog.pg_constraint k ON k.conrelid = t.relation AND k.contype = 'f' AND k.conparentid = 0
JOIN pg_catalog.pg_class pc ON pc.oid = k.confrelid
JOIN pg_catalog.pg_namespace pn ON pn.oid = pc.relnamespace
LEFT JOIN sync.table_catalog p ON p.relation = k.confrelid AND p.unregistered_at IS NULL
WHERE t.unregistered_at IS NULL;
COMMENT ON VIEW sync.foreign_keys IS 'Foreign keys of registered tables as they are now; parent_table_id is null where the parent is not registered.';
COMMENT ON COLUMN sync.foreign_keys.constraint_name IS 'Name of the constraint.';
COMMENT ON COLUMN sync.foreign_keys.table_id IS 'Table that refers.';
COMMENT ON COLUMN sync.foreign_keys.schema_name IS 'Schema of the table that refers.';
COMMENT ON COLUMN sync.foreign_keys.table_name IS 'Table that refers.';
COMMENT ON COLUMN sync.foreign_keys.parent_table_id IS 'Table referred to; null if it is not registered.';
COMMENT ON COLUMN sync.foreign_keys.parent_schema IS 'Schema of the table referred to.';
COMMENT ON COLUMN sync.foreign_keys.parent_table IS 'Table referred to.';
COMMENT ON COLUMN sync.foreign_keys.columns IS 'Referring columns, in the order of the constraint.';
COMMENT ON COLUMN sync.foreign_keys.parent_columns IS 'Columns referred to, in the same order.';
COMMENT ON COLUMN sync.foreign_keys.match_option IS 'SIMPLE, FULL or PARTIAL.';
COMMENT ON COLUMN sync.foreign_keys.on_delete IS 'What a deleted parent does.';
COMMENT ON COLUMN sync.foreign_keys.on_update IS 'What a changed parent key does.';
COMMENT ON COLUMN sync.foreign_keys.is_deferrable IS 'Whether the check can wait for the end of a bundle.';
COMMENT ON COLUMN sync.foreign_keys.is_self_reference IS 'Whether a table refers to itself.';

CREATE VIEW sync.table_order AS
SELECT d.table_position::integer AS table_position, t.table_id, t.schema_name, t.table_name, d.cycle_group::integer AS cycle_group, d.depends_on::regclass[] AS depends_on
FROM sync.discover(
    (SELECT coalesce(array_agg(c.relation::oid), '{}') FROM sync.table_catalog c WHERE c.unregistered_at IS NULL),
    (SELECT coalesce(jsonb_agg(jsonb_build_object('child', cc.schema_name || '.' || cc.table_name, 'parent', pc.schema_name || '.' || pc.table_name)), '[]')
     FROM sync.table_order_overrides o
     JOIN sync.table_catalog cc ON cc.relation = o.child AND cc.unregistered_at IS NULL
     JOIN sync.table_catalog pc ON pc.relation = o.parent AND pc.unregistered_at IS NULL)) AS d
JOIN sync.table_catalog t ON t.relation = d.relation AND t.unregistered_at IS NULL
ORDER BY 1;
COMMENT ON VIEW sync.table_order IS 'Registered tables in the order in which a push writes them: parents first, cycles grouped.';
COMMENT ON COLUMN sync.table_order.table_position IS '1 is written first (and deleted from last).';
COMMENT ON COLUMN sync.table_order.table_id IS 'Table, see sync.table_catalog.';
COMMENT ON COLUMN sync.table_order.schema_name IS 'Schema.';
COMMENT ON COLUMN sync.table_order.table_name IS 'Table.';
COMMENT ON COLUMN sync.table_order.cycle_group IS 'Above 0: tables with the same number refer to each other in a cycle.';
COMMENT ON COLUMN sync.table_order.depends_on IS 'Tables that it refers to.';

CREATE VIEW sync.table_columns AS
SELECT t.table_id,
       a.attname AS column_name,
       pg_catalog.format_type(a.atttypid, a.atttypmod) AS data_type,
       EXISTS (WITH RECURSIVE base AS (
                   SELECT a.atttypid AS oid
                   UNION ALL
                   -- OFFSET keeps the planner from reading all types for each column.
                   SELECT d.typbasetype FROM base CROSS JOIN LATERAL (SELECT y.typbasetype FROM pg_catalog.pg_type y WHERE y.oid = base.oid OFFSET 0) AS d WHERE d.typbasetype <> 0)
               SELECT FROM base WHERE base.oid = 'pg_catalog.bytea'::regtype) AS is_bytea,
       CASE WHEN t.relation_oid = t.relation THEN a.attnum = t.key_attnum ELSE a.attname = t.key_column END AS is_key,
       s.is_scope,
       NOT s.is_scope OR t.scope_is_shown AS is_sent,
       a.attgenerated <> '' OR a.attidentity = 'a' AS is_generated
FROM sync.table_catalog t
JOIN pg_catalog.pg_attribute a ON a.attrelid = t.relation AND a.attnum > 0 AND NOT a.attisdropped
CROSS JOIN LATERAL (SELECT CASE WHEN t.relation_oid = t.relation THEN a.attnum IS NOT DISTINCT FROM t.scope_attnum ELSE a.attname IS NOT DISTINCT FROM t.scope_column END AS is_scope) AS s
WHERE t.unregistered_at IS NULL;
COMMENT ON VIEW sync.table_columns IS 'Columns of registered tables as they are now, and the part that each plays on the wire.';
COMMENT ON COLUMN sync.table_columns.table_id IS 'Table, see sync.table_catalog.';
COMMENT ON COLUMN sync.table_columns.column_name IS 'Column.';
COMMENT ON COLUMN sync.table_columns.data_type IS 'Type as PostgreSQL writes it.';
COMMENT ON COLUMN sync.table_columns.is_bytea IS 'Travels as base64.';
COMMENT ON COLUMN sync.table_columns.is_key IS 'Identifies the row within its scope.';
COMMENT ON COLUMN sync.table_columns.is_scope IS 'Says whose row it is; clients can never write it.';
COMMENT ON COLUMN sync.table_columns.is_sent IS 'Travels to clients.';
COMMENT ON COLUMN sync.table_columns.is_generated IS 'Generated always, as an expression or an identity: sent to clients, ignored when pushed.';

--
-- Tables that have lost what sync needs.
--
-- sync.require_scope refuses a table whose key, or what says whose a row is, was dropped.
-- Errors: OV030 with the remedy. Locks: none.
CREATE FUNCTION sync.require_scope(p_table sync.table_catalog)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_column name;
BEGIN
    SELECT c.name INTO v_column
    FROM unnest(ARRAY[p_table.key_column, p_table.scope_column, p_table.scope_via]) AS c(name)
    WHERE c.name IS NOT NULL AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = p_table.relation AND a.attname = c.name);
    IF FOUND THEN
        PERFORM sync.fail('OV030', format('table %s is synced, but its column %I was dropped', p_table.relation, v_column), NULL, sync.register_anew_statement(p_table));
    END IF;
END
$$;
COMMENT ON FUNCTION sync.require_scope(sync.table_catalog) IS 'Refuses a table whose key or scope column was dropped.';

-- sync.require_columns refuses writes of a table whose key, or what says whose a row is, was dropped or got another type.
-- Errors: OV030 with the remedy. Locks: none.
CREATE FUNCTION sync.require_columns(p_table sync.table_catalog)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_column name;
BEGIN
    PERFORM sync.require_scope(p_table);
    IF NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = p_table.relation AND a.attname = p_table.key_column AND a.atttypid = p_table.key_type::regtype) THEN
        PERFORM sync.fail('OV030', format('table %s is synced, but its key column %I has another type now', p_table.relation, p_table.key_column), NULL,
            format('SELECT sync.refresh_table(%L);', p_table.relation));
    END IF;
    SELECT a.attname INTO v_column FROM pg_attribute a
    WHERE a.attrelid = p_table.relation AND a.attname IN (p_table.key_column, p_table.scope_column, p_table.scope_via) AND NOT a.attnotnull;
    IF FOUND THEN
        -- A row without one would be nobody's.
        PERFORM sync.fail('OV030', format('table %s is synced, but its column %I may be null now', p_table.relation, v_column), NULL,
            format('ALTER TABLE %s ALTER COLUMN %I SET NOT NULL;', p_table.relation, v_column));
    END IF;
END
$$;
COMMENT ON FUNCTION sync.require_columns(sync.table_catalog) IS 'Refuses writes of a table whose key or scope column was dropped or may be null, or whose key got another type.';

-- sync.entry_to_write returns a table's catalog entry, as sync.catalog_entry, for code made afresh: what that code names is there.
-- With p_may_be_orphaned it need not refer to a parent any more: whose its deleted rows were is known without.
-- Errors: OV012 the table was dropped; OV030 its key or scope column, or that of a parent, was dropped, or it refers to no parent any more, or to
-- none that leads to a scope column.
-- Locks: none.
CREATE FUNCTION sync.entry_to_write(p_table_id integer, p_may_be_orphaned boolean DEFAULT false)
RETURNS sync.table_catalog
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_table sync.table_catalog := sync.catalog_entry(p_table_id);
    v_entry sync.table_catalog := v_table;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = v_table.relation) THEN
        PERFORM sync.fail_unregistered(v_table.schema_name, v_table.table_name);
    END IF;
    FOR v_depth IN 1..33 LOOP
        PERFORM sync.require_scope(v_entry);
        EXIT WHEN v_entry.scope_via IS NULL;
        v_entry := sync.catalog_entry(sync.parent_with_scope(v_entry, p_may_be_orphaned));
        EXIT WHEN v_entry.table_id IS NULL;
    END LOOP;
    IF v_entry.scope_via IS NOT NULL AND NOT p_may_be_orphaned THEN
        PERFORM sync.fail('OV030', format('table %s is synced, but finds its scope through itself', v_table.relation), NULL, sync.leave_loop_statement());
    END IF;
    RETURN v_table;
END
$$;
COMMENT ON FUNCTION sync.entry_to_write(integer, boolean) IS 'Catalog entry of a table for code made afresh; refuses one that was dropped or has lost what says whose a row is.';

-- sync.scope_reference returns the registered table, and its column, that a table's scope_via refers to; no row if there is none. Where an ALTER TABLE
-- added another foreign key, the table that was referred to at the last registration or refresh goes on saying whose a row is.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.scope_reference(p_table sync.table_catalog)
RETURNS TABLE (parent_table_id integer, parent_column name)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT f.parent_table_id, f.parent_columns[1]
    FROM sync.foreign_keys f JOIN sync.table_catalog p ON p.table_id = f.parent_table_id
    WHERE f.table_id = p_table.table_id AND f.columns = ARRAY[p_table.scope_via] AND NOT f.is_self_reference
    ORDER BY p.relation = p_table.scope_parent DESC NULLS LAST, f.constraint_name LIMIT 1
$$;
COMMENT ON FUNCTION sync.scope_reference(sync.table_catalog) IS 'Table and column through which a table finds its scope.';

-- sync.parent_with_scope returns the table through which a table finds its scope.
-- Errors: OV030 its foreign key is gone, unless p_may_be_orphaned: null then. Locks: none.
CREATE FUNCTION sync.parent_with_scope(p_table sync.table_catalog, p_may_be_orphaned boolean DEFAULT false)
RETURNS integer
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_parent_id integer := (SELECT f.parent_table_id FROM sync.scope_reference(p_table) AS f);
BEGIN
    IF v_parent_id IS NULL AND NOT p_may_be_orphaned THEN
        PERFORM sync.fail('OV030', format('table %s is synced, but its column %I, which says whose a row is, refers to no registered table any more', p_table.relation, p_table.scope_via), NULL,
            format('ALTER TABLE %1$s ADD FOREIGN KEY (%2$I) REFERENCES ...; or SELECT sync.unregister_table(%3$L);', p_table.relation, p_table.scope_via, p_table.relation));
    END IF;
    RETURN v_parent_id;
END
$$;
COMMENT ON FUNCTION sync.parent_with_scope(sync.table_catalog, boolean) IS 'Table through which a table finds its scope; raises OV030 if its foreign key is gone.';

-- sync.require_named refuses payloads of a push that name a column which the table has no more. They were judged by the table as it was
-- when it was registered or refreshed, and what they say under an old name would be lost. A DELETE has an empty one.
-- Errors: OV012 with the column. Locks: none.
CREATE FUNCTION sync.require_named(p_table sync.table_catalog, p_payloads text[])
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_column text;
BEGIN
    SELECT k.name INTO v_column
    FROM (SELECT DISTINCT n.name FROM unnest(p_payloads) AS p(payload) CROSS JOIN LATERAL json_object_keys(nullif(p.payload, '')::json) AS n(name)) AS k
    WHERE NOT EXISTS (SELECT FROM sync.table_columns c WHERE c.table_id = p_table.table_id AND c.column_name = k.name) LIMIT 1;
    IF FOUND THEN
        PERFORM sync.fail('OV012', format('table %I.%I has no column %I any more', p_table.schema_name, p_table.table_name, v_column), NULL,
            format('Push without it; the server learns the new columns by SELECT sync.refresh_table(%L);', p_table.relation));
    END IF;
END
$$;
COMMENT ON FUNCTION sync.require_named(sync.table_catalog, text[]) IS 'Refuses payloads that name a column which the table has no more.';
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION sync.require_named(sync.table_catalog, text[]);
DROP FUNCTION sync.parent_with_scope(sync.table_catalog, boolean);
DROP FUNCTION sync.scope_reference(sync.table_catalog);
DROP FUNCTION sync.entry_to_write(integer, boolean);
DROP FUNCTION sync.require_columns(sync.table_catalog);
DROP FUNCTION sync.require_scope(sync.table_catalog);
DROP VIEW sync.table_columns;
DROP VIEW sync.table_order;
DROP VIEW sync.foreign_keys;
DROP FUNCTION sync.discover(oid[], jsonb);
DROP FUNCTION sync.stands_alone(regclass, "char", integer);
DROP FUNCTION sync.nothing_follows(oid, "char");
DROP FUNCTION sync.runs_code(oid);
DROP FUNCTION sync.altered_condition(oid, bigint, integer);
DROP FUNCTION sync.is_altered(regclass, bigint, integer);
DROP FUNCTION sync.is_altered_now(regclass, bigint, integer);
DROP FUNCTION sync.parts_are_replaced(integer);
DROP FUNCTION sync.relation_literal(oid);
DROP FUNCTION sync.columns_fingerprint(oid);
DROP FUNCTION sync.catalog_entry(integer);
DROP TABLE sync.table_order_overrides;
DROP TABLE sync.catalog_version;
DROP TABLE sync.table_catalog;
