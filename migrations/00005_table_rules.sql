-- What a table must look like, and the statements that mend one that does not.
--
-- Locks: creates new objects only.

-- +goose Up
-- +goose StatementBegin
-- sync.default_key returns the key column of a table for which none is named: the one that the primary key names beside the scope; null if
-- that is not one.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.default_key(p_relation regclass, p_scope name)
RETURNS name
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT min(a.attname)
    FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) AND a.attname IS DISTINCT FROM p_scope
    WHERE i.indrelid = p_relation AND i.indisprimary
    HAVING count(*) = 1
$$;
COMMENT ON FUNCTION sync.default_key(regclass, name) IS 'Key column of a table for which none is named; null if the primary key does not tell.';

-- sync.registration_call returns the call that registers a table as its entry says, with these references that may leave. A column that is
-- null is for the reader to fill in.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.registration_call(p_table sync.table_catalog, p_external_references text[], p_key name, p_scope name)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('sync.register_table(%L, sync_key => %L, %s => %L%s%s, policy => %L%s)', p_table.relation, coalesce(p_key, '...'),
                  CASE WHEN p_table.scope_via IS NULL THEN 'scope' ELSE 'scope_via' END, coalesce(p_scope, '...'),
                  CASE WHEN p_table.scope_is_shown THEN ', show_scope => true' END, CASE WHEN p_table.on_scope_change <> 'refuse' THEN format(', on_scope_change => %L', p_table.on_scope_change) END,
                  p_table.policy, CASE WHEN p_external_references <> '{}' THEN format(', external_references => %L', p_external_references) END)
$$;
COMMENT ON FUNCTION sync.registration_call(sync.table_catalog, text[], name, name) IS 'Call that registers a table as its entry says.';

-- sync.is_scope_default tells whether a default of a column is the one that registration makes.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.is_scope_default(p_expression text)
RETURNS boolean
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p_expression ~ '^[(]*sync[.]scope_in_bundle[(][)]([)]*::[a-z ]+)*[)]*$'
$$;
COMMENT ON FUNCTION sync.is_scope_default(text) IS 'Whether a default of a column is the one that registration makes.';

-- sync.register_anew_statement returns the statement that registers a table anew which has lost its key, or what says whose a row is: dropped, or
-- renamed and not refreshed before a dump, in which a column is its name alone. What the table tells of the columns is in the statement: the scope has the
-- default that registration made, one column alone refers to the parent, and the primary key names the key.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.register_anew_statement(p_table sync.table_catalog)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_columns name[] := ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = p_table.relation AND a.attnum > 0 AND NOT a.attisdropped);
    v_key name := p_table.key_column;
    v_scope name := coalesce(p_table.scope_via, p_table.scope_column);
BEGIN
    IF NOT v_scope = ANY (v_columns) THEN
        SELECT min(a.attname) INTO v_scope
        FROM pg_attribute a
        WHERE a.attrelid = p_table.relation AND NOT a.attisdropped
          AND CASE WHEN p_table.scope_via IS NULL
                   THEN EXISTS (SELECT FROM pg_attrdef d WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum AND sync.is_scope_default(pg_get_expr(d.adbin, d.adrelid)))
                   ELSE EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = a.attrelid AND k.contype = 'f' AND k.conparentid = 0 AND k.conkey = ARRAY[a.attnum] AND k.confrelid = p_table.scope_parent) END
        HAVING count(*) = 1;
    END IF;
    IF NOT v_key = ANY (v_columns) THEN
        v_key := sync.default_key(p_table.relation, CASE WHEN p_table.scope_via IS NULL THEN v_scope END);
    END IF;
    RETURN format('SELECT sync.unregister_table(%L), %s; -- or put the column back', p_table.relation, sync.registration_call(p_table, p_table.external_references, v_key, v_scope));
END
$$;
COMMENT ON FUNCTION sync.register_anew_statement(sync.table_catalog) IS 'Statement that registers a table anew which has lost its key or scope column.';

-- sync.registration_problems returns what keeps a table from being registered, and the remedy of each.
-- p_key null is the key that sync.register_table finds by itself. p_scope is its scope column; p_scope_via, if not null, counts instead: the column that refers to the parent with the scope.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.registration_problems(p_relation regclass, p_key name, p_scope name, p_scope_via name)
RETURNS TABLE (problem text, remedy text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
SET quote_all_identifiers = off -- names of types are compared
AS $$
    WITH rel AS (
        SELECT c.oid, c.relname, n.nspname, c.relkind, c.relpersistence, c.relispartition, c.relowner, c.relrowsecurity, c.relforcerowsecurity, format('%I.%I', n.nspname, c.relname) AS full_name
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = p_relation
    ), capturer AS (
        -- The role that what captures runs as: whoever migrated.
        SELECT r.oid, r.rolname, r.rolsuper OR r.rolbypassrls AS bypasses_rls
        FROM pg_proc f JOIN pg_roles r ON r.oid = f.proowner WHERE f.proname = 'capture_commit' AND f.pronamespace = 'sync'::regnamespace
    ), cols AS (
        -- A NOT NULL that is not valid, which PostgreSQL 18 has, says nothing about the rows that are there.
        SELECT a.attname, a.attnum,
               a.attnotnull AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = p_relation AND k.contype = 'n' AND NOT k.convalidated AND k.conkey = ARRAY[a.attnum]) AS attnotnull,
               a.atttypid::regtype::text AS type_name, a.attgenerated, a.attidentity, coalesce(l.collisdeterministic, true) AS is_deterministic
        FROM pg_attribute a LEFT JOIN pg_collation l ON l.oid = a.attcollation
        WHERE a.attrelid = p_relation AND a.attnum > 0 AND NOT a.attisdropped
    ), named AS (SELECT coalesce(p_key, sync.default_key(p_relation, CASE WHEN p_scope_via IS NULL THEN p_scope END)) AS key_name),
    key_col AS (SELECT * FROM cols WHERE attname = (SELECT n.key_name FROM named n)),
    scope_col AS (SELECT * FROM cols WHERE attname = p_scope AND p_scope_via IS NULL),
    via_col AS (SELECT * FROM cols WHERE attname = p_scope_via),
    uniques AS (
        -- As sets of columns: their order does not matter to what is unique.
        SELECT ARRAY(SELECT k.attnum FROM unnest(i.indkey::smallint[]) WITH ORDINALITY AS k(attnum, place) WHERE k.place <= i.indnkeyatts ORDER BY 1) AS attnums
        FROM pg_index i
        WHERE i.indrelid = p_relation AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
    )
    SELECT format('%s is a %s', r.full_name,
                  CASE r.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' WHEN 'S' THEN 'sequence' ELSE format('relation of kind %s', r.relkind) END),
           'Register the table that holds the rows.'
    FROM rel r WHERE r.relkind NOT IN ('r', 'p')
    UNION ALL
    SELECT format('%s is %s', r.full_name, CASE r.relpersistence WHEN 't' THEN 'temporary' ELSE 'unlogged' END),
           CASE r.relpersistence WHEN 't' THEN 'Use a permanent table.' ELSE format('ALTER TABLE %s SET LOGGED;', r.full_name) END
    FROM rel r WHERE r.relkind IN ('r', 'p') AND r.relpersistence <> 'p'
    UNION ALL
    SELECT format('%s belongs to the system', r.full_name), 'Register a table of the application.'
    FROM rel r WHERE r.nspname IN ('sync', 'pg_catalog', 'information_schema', 'pg_toast')
    UNION ALL
    SELECT format('%s is a partition', r.full_name),
           CASE WHEN t.table_id IS NOT NULL THEN format('SELECT sync.unregister_table(%L), %s; -- of which it is a part', t.relation,
                     CASE WHEN p.table_id IS NOT NULL THEN format('sync.refresh_table(%L)', p.relation)
                          ELSE (SELECT sync.registration_call(jsonb_populate_record(e, jsonb_build_object('relation', pg_partition_root(r.oid)::oid::text)), e.external_references, e.key_column, coalesce(e.scope_via, e.scope_column))
                                FROM sync.catalog_entry(t.table_id) AS e) END)
                WHEN p.table_id IS NOT NULL THEN format('SELECT sync.refresh_table(%L); -- of which it is a part', p.relation)
                ELSE format('Register its parent: SELECT sync.register_table(%L);', pg_partition_root(r.oid)) END
    FROM rel r
    LEFT JOIN sync.table_catalog t ON t.relation = r.oid AND t.unregistered_at IS NULL
    LEFT JOIN sync.table_catalog p ON p.relation = pg_partition_root(r.oid) AND p.unregistered_at IS NULL
    WHERE r.relispartition
    UNION ALL
    -- Once both are registered, this is said of the part.
    SELECT format('%s, a part of %s, is registered by itself', t.relation, r.full_name), format('SELECT sync.unregister_table(%L);', t.relation)
    FROM rel r CROSS JOIN LATERAL pg_partition_tree(r.oid) AS part JOIN sync.table_catalog t ON t.relation = part.relid AND t.unregistered_at IS NULL
    WHERE r.relkind = 'p' AND part.relid <> r.oid AND NOT EXISTS (SELECT FROM sync.table_catalog o WHERE o.relation = r.oid AND o.unregistered_at IS NULL)
    UNION ALL
    -- It has the triggers still of the table of which it was a part. To replace them would leave its rows with that table's clients.
    SELECT format('%s was detached from %s, whose clients still have its rows', r.full_name, o.relation), format('SELECT sync.refresh_table(%L);', o.relation)
    FROM rel r JOIN sync.table_catalog o ON o.unregistered_at IS NULL AND o.relation <> r.oid JOIN pg_class c ON c.oid = o.relation AND c.relkind = 'p'
    WHERE EXISTS (SELECT FROM pg_trigger g JOIN pg_proc f ON f.oid = g.tgfoid AND f.pronamespace = 'sync'::regnamespace WHERE g.tgrelid = r.oid AND f.proname = 'capture_' || o.table_id)
      AND NOT EXISTS (SELECT FROM pg_partition_tree(o.relation) AS part WHERE part.relid = r.oid)
    UNION ALL
    SELECT format('%s, a part of %s, is unlogged', part.relid, r.full_name), format('ALTER TABLE %s SET LOGGED;', part.relid)
    FROM rel r CROSS JOIN LATERAL pg_partition_tree(r.oid) AS part JOIN pg_class c ON c.oid = part.relid
    WHERE r.relkind = 'p' AND c.relkind = 'r' AND c.relpersistence = 'u'
    UNION ALL
    SELECT format('%s takes part in table inheritance', r.full_name), h.remedy || ' -- or use declarative partitioning'
    FROM rel r CROSS JOIN LATERAL (SELECT string_agg(format('ALTER TABLE %s NO INHERIT %s;', i.inhrelid::regclass, i.inhparent::regclass), ' ' ORDER BY i.inhrelid, i.inhseqno) AS remedy
                                   FROM pg_inherits i WHERE r.oid IN (i.inhparent, i.inhrelid)) AS h
    WHERE NOT r.relispartition AND r.relkind = 'r' AND h.remedy IS NOT NULL
    UNION ALL
    -- What policies hide would be missing, and an update of it would be a delete for clients.
    SELECT format('forced row-level security of %s hides rows from %I, the role that captures', r.full_name, u.rolname), format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY;', r.full_name)
    FROM rel r, capturer u WHERE r.relrowsecurity AND r.relforcerowsecurity AND NOT u.bypasses_rls AND pg_has_role(u.oid, r.relowner, 'USAGE')
    UNION ALL
    SELECT format('row-level security of %s hides rows from %I, the role that captures', r.full_name, u.rolname),
           format('ALTER ROLE %I BYPASSRLS; -- as a superuser; or as one, let it be what owns the table: GRANT %s TO %I;', u.rolname, r.relowner::regrole, u.rolname)
    FROM rel r, capturer u WHERE r.relrowsecurity AND NOT u.bypasses_rls AND NOT pg_has_role(u.oid, r.relowner, 'USAGE')
    UNION ALL
    SELECT format('%I, the role that captures, may not use schema %I', u.rolname, r.nspname), format('GRANT USAGE ON SCHEMA %I TO %I;', r.nspname, u.rolname)
    FROM rel r, capturer u WHERE NOT has_schema_privilege(u.oid, r.nspname, 'USAGE')
    UNION ALL
    SELECT format('%I, the role that captures and applies pushes, may not %s %s', u.rolname, m.missing, r.full_name), format('GRANT %s ON %s TO %I;', m.missing, r.full_name, u.rolname)
    FROM rel r, capturer u
    CROSS JOIN LATERAL (SELECT string_agg(v.privilege, ', ' ORDER BY v.place) AS missing FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) WITH ORDINALITY AS v(privilege, place)
                        WHERE NOT has_table_privilege(u.oid, r.oid, v.privilege)) AS m
    WHERE r.relkind IN ('r', 'p') AND m.missing IS NOT NULL
    UNION ALL
    -- A push that leaves such a column out takes its number: of a default that names a sequence, or of an identity BY DEFAULT. An identity
    -- ALWAYS is PostgreSQL's own affair.
    SELECT format('%I, the role that captures and applies pushes, may not use %s, which numbers a column of %s', u.rolname, q.oid::regclass, r.full_name), format('GRANT USAGE ON SEQUENCE %s TO %I;', q.oid::regclass, u.rolname)
    FROM rel r CROSS JOIN capturer u
    JOIN pg_class q ON CASE q.relkind WHEN 'S' THEN NOT has_sequence_privilege(u.oid, q.oid, 'USAGE, UPDATE') END
     AND (EXISTS (SELECT FROM pg_attrdef f JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid = q.oid WHERE f.adrelid = r.oid)
          OR EXISTS (SELECT FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid AND a.attidentity = 'd'
                     WHERE d.classid = 'pg_class'::regclass AND d.objid = q.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid = r.oid))
    UNION ALL
    SELECT format('the name %I.%I is not made of a-z, 0-9 and _', r.nspname, r.relname),
           CASE WHEN r.nspname !~ '^[a-z0-9_]+$' THEN format('ALTER SCHEMA %I RENAME TO ...;', r.nspname) ELSE format('ALTER TABLE %s RENAME TO ...;', r.full_name) END
    FROM rel r WHERE (r.nspname || r.relname) !~ '^[a-z0-9_]+$'
    UNION ALL
    -- Clients know a table by its name. It may have been that of a table which was renamed since.
    SELECT format('%s is registered under the name %s still', o.relation, r.full_name), format('SELECT sync.refresh_table(%L);', o.relation)
    FROM rel r JOIN sync.table_catalog o ON o.schema_name = r.nspname AND o.table_name = r.relname AND o.unregistered_at IS NULL AND o.relation <> r.oid
    JOIN pg_class c ON c.oid = o.relation
    WHERE NOT EXISTS (SELECT FROM sync.table_catalog t WHERE t.relation = r.oid AND t.unregistered_at IS NULL)
    UNION ALL
    SELECT format('column %I of %s is not made of a-z, 0-9 and _', c.attname, r.full_name), format('ALTER TABLE %s RENAME COLUMN %I TO ...;', r.full_name, c.attname)
    FROM rel r, cols c WHERE c.attname !~ '^[a-z0-9_]+$'
    UNION ALL
    -- A name of nothing in such a column is an error like that of a wrong statement, so it could not be told to the client that sent it.
    SELECT format('column %I of %s has type %s', c.attname, r.full_name, c.type_name), format('ALTER TABLE %s ALTER COLUMN %I TYPE text;', r.full_name, c.attname)
    FROM rel r, cols c WHERE c.type_name ~ '^(aclitem|reg(class|collation|config|dictionary|namespace|oper|operator|proc|procedure|role|type))([[][]])?$'
    UNION ALL
    SELECT CASE WHEN n.key_name IS NULL THEN format('the primary key of %s does not name one key column beside the scope', r.full_name)
                ELSE format('%s has no key column %I', r.full_name, n.key_name) END,
           coalesce((SELECT sync.register_anew_statement(t) FROM sync.table_catalog t WHERE t.relation = r.oid AND t.unregistered_at IS NULL AND t.key_column = p_key),
                    'Name the key column: sync_key => ''...''.')
    FROM rel r CROSS JOIN named n WHERE r.relkind IN ('r', 'p') AND NOT EXISTS (SELECT FROM key_col)
    UNION ALL
    SELECT format('key column %I of %s has type %s', k.attname, r.full_name, k.type_name),
           CASE k.type_name WHEN 'character varying' THEN format('ALTER TABLE %s ALTER COLUMN %I TYPE text;', r.full_name, k.attname)
                            ELSE 'Keys are of type uuid or text' || coalesce(': sync_key => ' || quote_literal(other.attname), '') || '.' END
    FROM rel r CROSS JOIN key_col k
    LEFT JOIN LATERAL (SELECT c.attname FROM cols c JOIN uniques u ON u.attnums = ARRAY[c.attnum]
                       WHERE c.type_name IN ('uuid', 'text') AND c.attnotnull AND c.attgenerated = '' AND c.attname IS DISTINCT FROM coalesce(p_scope_via, p_scope)
                       ORDER BY c.attnum LIMIT 1) AS other ON true
    WHERE k.type_name NOT IN ('uuid', 'text')
    UNION ALL
    SELECT format('key column %I of %s is generated', k.attname, r.full_name), 'Clients choose the key of a new row: make it an ordinary column.'
    FROM rel r, key_col k WHERE k.attgenerated <> ''
    UNION ALL
    SELECT format('key column %I of %s has a nondeterministic collation', k.attname, r.full_name), format('ALTER TABLE %s ALTER COLUMN %I TYPE text COLLATE "C";', r.full_name, k.attname)
    FROM rel r, key_col k WHERE NOT k.is_deterministic
    UNION ALL
    SELECT format('%s has no scope column %s', r.full_name, coalesce(quote_ident(p_scope), '(null)')),
           coalesce((SELECT sync.register_anew_statement(t) FROM sync.table_catalog t WHERE t.relation = r.oid AND t.unregistered_at IS NULL AND t.scope_column = p_scope),
           format('Name the column that says whose row it is: scope => ''...''; or the column that refers to a parent which has one: scope_via => ''...''; or '
                      || CASE WHEN pg_relation_size(r.oid) > 0 OR EXISTS (SELECT FROM pg_partition_tree(r.oid) p WHERE pg_relation_size(p.relid) > 0) -- so there may be rows
                              THEN 'ALTER TABLE %1$s ADD COLUMN %2$I text; UPDATE %1$s SET %2$I = ...; ALTER TABLE %1$s ALTER COLUMN %2$I SET NOT NULL;'
                              ELSE 'ALTER TABLE %1$s ADD COLUMN %2$I text NOT NULL;' END, r.full_name, coalesce(p_scope, '_sync_scope_id')))
    FROM rel r WHERE p_scope_via IS NULL AND r.relkind IN ('r', 'p') AND NOT EXISTS (SELECT FROM scope_col)
    UNION ALL
    SELECT format('scope column %I of %s has type %s', s.attname, r.full_name, s.type_name), 'A scope column is of type text, varchar, uuid, integer or bigint.'
    FROM rel r, scope_col s WHERE s.type_name NOT IN ('text', 'character varying', 'uuid', 'integer', 'bigint')
    UNION ALL
    SELECT format('scope column %I of %s is generated', s.attname, r.full_name), 'A row that a device makes gets the scope of the device: make it an ordinary column.'
    FROM rel r, scope_col s WHERE s.attgenerated <> '' OR s.attidentity <> ''
    UNION ALL
    SELECT format('scope column %I of %s has a nondeterministic collation', s.attname, r.full_name), format('ALTER TABLE %s ALTER COLUMN %I TYPE %s COLLATE "C";', r.full_name, s.attname, s.type_name)
    FROM rel r, scope_col s WHERE NOT s.is_deterministic
    UNION ALL
    SELECT format('%s has no column %I', r.full_name, p_scope_via),
           coalesce((SELECT sync.register_anew_statement(t) FROM sync.table_catalog t WHERE t.relation = r.oid AND t.unregistered_at IS NULL AND t.scope_via = p_scope_via),
                    'Name the column that refers to the parent: scope_via => ''...''.')
    FROM rel r WHERE p_scope_via IS NOT NULL AND NOT EXISTS (SELECT FROM via_col)
    UNION ALL
    SELECT format('column %I of %s does not refer to one other table', v.attname, r.full_name),
           CASE WHEN k.others IS NULL
                THEN format('ALTER TABLE %s ADD FOREIGN KEY (%I) REFERENCES %s DEFERRABLE INITIALLY DEFERRED;', r.full_name, v.attname,
                            -- By a column that is unique by itself, as the primary key need not be: the parent's key, if there are several.
                            coalesce((SELECT format('%s (%I)', p.relation, u.attname)
                                      FROM sync.table_catalog t JOIN sync.table_catalog p ON p.relation = t.scope_parent AND p.unregistered_at IS NULL
                                      CROSS JOIN LATERAL (SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                                                          WHERE i.indrelid = p.relation AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnkeyatts = 1
                                                            AND a.atttypid::regtype::text = v.type_name
                                                          ORDER BY a.attname = p.key_column DESC, i.indisprimary DESC, a.attnum LIMIT 1) AS u
                                      WHERE t.relation = r.oid AND t.unregistered_at IS NULL), '...'))
                ELSE format('ALTER TABLE %s %s; -- so that one is left, this or another', r.full_name, k.others) END
    FROM rel r CROSS JOIN via_col v
    CROSS JOIN LATERAL (
        -- All but one: of a registered table, the oldest that leads where it led. Foreign keys that say the same are as good as one.
        SELECT count(DISTINCT (f.confrelid, f.confkey)) AS targets, string_agg(format('DROP CONSTRAINT %I', f.conname), ', ' ORDER BY f.place) FILTER (WHERE f.place > 1) AS others
        FROM (SELECT k.conname, k.confrelid, k.confkey, row_number() OVER (ORDER BY k.confrelid = t.scope_parent DESC NULLS LAST, k.oid) AS place
              FROM pg_constraint k LEFT JOIN sync.table_catalog t ON t.relation = k.conrelid AND t.unregistered_at IS NULL
              WHERE k.conrelid = p_relation AND k.contype = 'f' AND k.conparentid = 0 AND k.conkey = ARRAY[v.attnum] AND k.confrelid <> k.conrelid) AS f
    ) AS k
    WHERE k.targets <> 1
    UNION ALL
    SELECT format('column %I of %s may be null', c.attname, r.full_name), format('ALTER TABLE %s ALTER COLUMN %I SET NOT NULL;', r.full_name, c.attname)
    FROM rel r, cols c, named n WHERE c.attname IN (n.key_name, coalesce(p_scope_via, p_scope)) AND NOT c.attnotnull
    UNION ALL
    SELECT format('scope and key of %s are the same column %I', r.full_name, n.key_name), 'Name another key column: sync_key => ''...''.'
    FROM rel r, named n WHERE n.key_name = coalesce(p_scope_via, p_scope)
    UNION ALL
    SELECT format('%s has no unique constraint on (%I, %I) or (%I)', r.full_name, s.attname, k.attname, k.attname),
           CASE WHEN EXISTS (SELECT FROM pg_partitioned_table p WHERE p.partrelid = r.oid AND NOT p.partattrs::smallint[] <@ ARRAY[s.attnum, k.attnum])
                THEN format('A unique constraint of a partitioned table includes what it is partitioned by: partition it by %I or %I.', s.attname, k.attname)
                ELSE format('ALTER TABLE %s ADD UNIQUE (%I, %I);', r.full_name, s.attname, k.attname) END
    FROM rel r, key_col k, scope_col s
    WHERE r.relkind IN ('r', 'p') AND NOT EXISTS (
        SELECT FROM uniques u WHERE u.attnums = ARRAY[k.attnum] OR u.attnums = ARRAY[least(k.attnum, s.attnum), greatest(k.attnum, s.attnum)])
    UNION ALL
    SELECT format('%s has no unique constraint on (%I)', r.full_name, k.attname),
           CASE WHEN EXISTS (SELECT FROM pg_partitioned_table p WHERE p.partrelid = r.oid AND NOT p.partattrs::smallint[] <@ ARRAY[k.attnum])
                THEN format('A unique constraint of a partitioned table includes what it is partitioned by: partition it by %I.', k.attname)
                ELSE format('ALTER TABLE %s ADD UNIQUE (%I);', r.full_name, k.attname) END
    FROM rel r, key_col k
    WHERE r.relkind IN ('r', 'p') AND p_scope_via IS NOT NULL AND NOT EXISTS (SELECT FROM uniques u WHERE u.attnums = ARRAY[k.attnum])
$$;
COMMENT ON FUNCTION sync.registration_problems(regclass, name, name, name) IS 'What keeps a table from being registered, and the remedy of each; no row means that it can be.';

-- sync.scope_loops returns the registered tables whose scope is found through tables that find theirs through each other, so that it is nowhere.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.scope_loops()
RETURNS TABLE (table_id integer, relation regclass)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH RECURSIVE parents AS MATERIALIZED (
        -- As sync.scope_reference has them, of all tables at once: registration asks for each of its writes.
        SELECT DISTINCT ON (t.table_id) t.table_id, p.table_id AS parent_table_id
        FROM sync.table_catalog t
        JOIN pg_attribute a ON a.attrelid = t.relation AND CASE WHEN t.relation_oid = t.relation THEN a.attnum = t.scope_via_attnum ELSE a.attname = t.scope_via END
        JOIN pg_constraint k ON k.conrelid = t.relation AND k.contype = 'f' AND k.conparentid = 0 AND k.conkey = ARRAY[a.attnum] AND k.confrelid <> k.conrelid
        JOIN sync.table_catalog p ON p.relation = k.confrelid AND p.unregistered_at IS NULL
        WHERE t.unregistered_at IS NULL AND t.scope_via IS NOT NULL
        ORDER BY t.table_id, k.confrelid = t.scope_parent DESC NULLS LAST, k.conname
    ), ancestors AS (
        SELECT p.table_id, p.parent_table_id FROM parents p
        UNION
        SELECT a.table_id, p.parent_table_id FROM ancestors a JOIN parents p ON p.table_id = a.parent_table_id
    )
    SELECT t.table_id, t.relation FROM sync.table_catalog t
    WHERE t.table_id IN (SELECT a.table_id FROM ancestors a
                         WHERE a.parent_table_id IN (SELECT o.table_id FROM ancestors o WHERE o.parent_table_id = o.table_id));
END
$$;
COMMENT ON FUNCTION sync.scope_loops() IS 'Registered tables whose scope is found through tables that find theirs through each other.';

-- sync.leave_loop_statement returns the statement that takes these tables out, and lets references of others to them leave; null if there are none. All at
-- once, since the set is judged as a whole.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.leave_loop_statement()
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH loops AS MATERIALIZED (SELECT l.table_id, l.relation FROM sync.scope_loops() l),
    leaving AS (
        SELECT f.table_id, array_agg(f.constraint_name::text ORDER BY f.constraint_name) AS names
        FROM sync.foreign_keys f
        WHERE f.parent_table_id IN (SELECT l.table_id FROM loops l) AND f.table_id NOT IN (SELECT l.table_id FROM loops l)
        GROUP BY f.table_id
    )
    SELECT format('SELECT %s; -- or let a foreign key lead to a table with a scope column', string_agg(c.call, ', ' ORDER BY c.place, c.table_id))
    FROM (SELECT 1 AS place, l.table_id, format('sync.unregister_table(%L)', l.relation) AS call FROM loops l
          UNION ALL
          SELECT 2, t.table_id, sync.registration_call(t, t.external_references || v.names, t.key_column, coalesce(t.scope_via, t.scope_column))
          FROM leaving v JOIN sync.table_catalog t ON t.table_id = v.table_id) AS c
    HAVING count(*) > 0
$$;
COMMENT ON FUNCTION sync.leave_loop_statement() IS 'Statement that takes tables out whose scope is found through each other.';

-- sync.foreign_key_problems returns the foreign keys of registered tables that sync cannot keep, and the remedy of each. Tables have the names that
-- they have now, which a statement needs, and which may not be those that clients know.
-- Errors: none. Locks: none.
CREATE FUNCTION sync.foreign_key_problems()
RETURNS TABLE (table_id integer, problem text, remedy text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH leaving AS (
        SELECT f.table_id, f.constraint_name, t.relation, f.parent_schema, f.parent_table, to_regclass(format('%I.%I', f.parent_schema, f.parent_table)) AS parent
        FROM sync.foreign_keys f JOIN sync.table_catalog t ON t.table_id = f.table_id
        WHERE f.parent_table_id IS NULL AND f.columns IS DISTINCT FROM ARRAY[t.scope_via]
          AND NOT t.external_references && ARRAY[f.constraint_name::text, f.parent_schema || '.' || f.parent_table]
    ), again AS (
        -- Each table as it is registered, with all its references that leave. In one statement, since the set is judged as a whole.
        -- The other way, to register the tables referred to, takes a choice of their scope.
        SELECT sync.registration_call(t, t.external_references || ARRAY(SELECT l.constraint_name::text FROM leaving l WHERE l.table_id = t.table_id ORDER BY 1),
                                      t.key_column, coalesce(t.scope_via, t.scope_column)) AS call
        FROM sync.table_catalog t WHERE t.table_id IN (SELECT l.table_id FROM leaving l)
        ORDER BY t.table_id
    )
    SELECT l.table_id, format('foreign key %I of %s refers to %I.%I, which is not registered', l.constraint_name, l.relation, l.parent_schema, l.parent_table),
           format('SELECT %s; -- or with it, in one transaction: SELECT sync.register_table(%L%s);', (SELECT string_agg(a.call, ', ') FROM again a), format('%I.%I', l.parent_schema, l.parent_table),
                  -- Another scope column must be named.
                  CASE WHEN NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = l.parent AND a.attname = '_sync_scope_id') THEN ', scope => ''...''' END)
    FROM leaving l
    UNION ALL
    SELECT f.table_id, format('the scope of %s is found through %I.%I, which is not registered', t.relation, f.parent_schema, f.parent_table),
           format('SELECT sync.register_table(%L%s); -- in the same transaction; or take both out: SELECT sync.unregister_table(%L);', format('%I.%I', f.parent_schema, f.parent_table),
                  CASE WHEN NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = to_regclass(format('%I.%I', f.parent_schema, f.parent_table)) AND a.attname = '_sync_scope_id') THEN ', scope => ''...''' END,
                  t.relation)
    FROM sync.foreign_keys f JOIN sync.table_catalog t ON t.table_id = f.table_id
    WHERE f.parent_table_id IS NULL AND f.columns = ARRAY[t.scope_via] AND NOT EXISTS (SELECT FROM sync.scope_reference(t))
    UNION ALL
    SELECT l.table_id, format('the scope of %s is found through itself', l.relation), sync.leave_loop_statement() FROM sync.scope_loops() l
    UNION ALL
    -- Rows without a parent would be nobody's. What PostgreSQL 18 calls not enforced is never valid.
    SELECT f.table_id, format('the scope of %s is found through foreign key %I, which is not valid', t.relation, f.constraint_name),
           format(CASE to_jsonb(k) ->> 'conenforced' WHEN 'false' THEN 'ALTER TABLE %s ALTER CONSTRAINT %I ENFORCED;' ELSE 'ALTER TABLE %s VALIDATE CONSTRAINT %I;' END,
                  t.relation, f.constraint_name)
    FROM sync.foreign_keys f
    JOIN sync.table_catalog t ON t.table_id = f.table_id
    JOIN pg_constraint k ON k.conrelid = t.relation AND k.contype = 'f' AND k.conname = f.constraint_name
    WHERE NOT k.convalidated AND f.columns = ARRAY[t.scope_via]
    UNION ALL
    -- A reference is followed by columns that are equal; periods, since PostgreSQL 18, only overlap.
    SELECT f.table_id, format('foreign key %I of %s holds for a period', f.constraint_name, t.relation),
           format('ALTER TABLE %s DROP CONSTRAINT %I;', t.relation, f.constraint_name)
    FROM sync.foreign_keys f
    JOIN sync.table_catalog t ON t.table_id = f.table_id
    JOIN pg_constraint k ON k.conrelid = t.relation AND k.contype = 'f' AND k.conname = f.constraint_name
    WHERE f.parent_table_id IS NOT NULL AND to_jsonb(k) ->> 'conperiod' = 'true'
    UNION ALL
    SELECT f.table_id, format('foreign key %I of %s is not deferrable, and its tables refer to each other in a cycle', f.constraint_name, t.relation),
           format('ALTER TABLE %s ALTER CONSTRAINT %I DEFERRABLE INITIALLY DEFERRED;', t.relation, f.constraint_name)
    FROM sync.foreign_keys f
    JOIN sync.table_catalog t ON t.table_id = f.table_id
    JOIN sync.table_order c ON c.table_id = f.table_id
    JOIN sync.table_order p ON p.table_id = f.parent_table_id
    WHERE NOT f.is_deferrable AND NOT f.is_self_reference AND c.cycle_group > 0 AND c.cycle_group = p.cycle_group
$$;
COMMENT ON FUNCTION sync.foreign_key_problems() IS 'Foreign keys of registered tables that sync cannot keep, and the remedy of each.';

-- sync.check_foreign_keys is the deferred trigger function that judges the set of registered tables when the transaction ends,
-- so that a set, a cycle too, can be registered in any order.
-- Errors: OV030 with problem and remedy. Locks: none.
CREATE FUNCTION sync.check_foreign_keys()
RETURNS trigger
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_problem text;
    v_remedy text;
BEGIN
    SELECT p.problem, p.remedy INTO v_problem, v_remedy FROM sync.foreign_key_problems() p LIMIT 1;
    IF FOUND THEN
        PERFORM sync.fail('OV030', v_problem, NULL, v_remedy);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION sync.check_foreign_keys() IS 'Trigger function: judges at the end of the transaction whether the registered tables are closed over their foreign keys.';

CREATE CONSTRAINT TRIGGER registered_tables_are_closed_over_foreign_keys
    AFTER INSERT OR UPDATE ON sync.table_catalog DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION sync.check_foreign_keys();
COMMENT ON TRIGGER registered_tables_are_closed_over_foreign_keys ON sync.table_catalog IS 'Judged at the end of the transaction.';
-- +goose StatementEnd

-- +goose Down
DROP TRIGGER registered_tables_are_closed_over_foreign_keys ON sync.table_catalog;
DROP FUNCTION sync.check_foreign_keys();
DROP FUNCTION sync.foreign_key_problems();
DROP FUNCTION sync.leave_loop_statement();
DROP FUNCTION sync.scope_loops();
DROP FUNCTION sync.registration_problems(regclass, name, name, name);
DROP FUNCTION sync.register_anew_statement(sync.table_catalog);
DROP FUNCTION sync.is_scope_default(text);
DROP FUNCTION sync.registration_call(sync.table_catalog, text[], name, name);
DROP FUNCTION sync.default_key(regclass, name);
