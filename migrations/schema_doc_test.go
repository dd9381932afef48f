package migrations_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// registeredSchema is a database with registered tables, so that generated objects are looked at too.
func registeredSchema(t *testing.T) *pgx.Conn {
	t.Helper()
	conn := registered(t, zoo, zooRegistered()...)
	writeBundle(t, conn, "u", zooSeed...)
	exec(t, conn, "SET search_path = ''")
	return conn
}

// TestEverythingHasAComment: \d+ sync.* reads like documentation.
func TestEverythingHasAComment(t *testing.T) {
	t.Parallel()
	conn := registeredSchema(t)
	for kind, query := range map[string]string{
		"schema": "SELECT nspname::text AS name, obj_description(oid, 'pg_namespace') AS comment FROM pg_namespace WHERE nspname = 'sync'",
		"table, view or sequence": `
			SELECT c.oid::regclass::text AS name, obj_description(c.oid, 'pg_class') AS comment FROM pg_class c
			WHERE c.relnamespace = 'sync'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S')`,
		"column": `
			SELECT c.oid::regclass || '.' || a.attname AS name, col_description(c.oid, a.attnum) AS comment FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
			WHERE c.relnamespace = 'sync'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')`,
		"index that is not of a constraint": `
			SELECT i.indexrelid::regclass::text AS name, obj_description(i.indexrelid, 'pg_class') AS comment FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
			WHERE c.relnamespace = 'sync'::regnamespace AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid)`,
		"function": "SELECT p.oid::regprocedure::text AS name, obj_description(p.oid, 'pg_proc') AS comment FROM pg_proc p WHERE p.pronamespace = 'sync'::regnamespace",
		"trigger": `
			SELECT t.tgname || ' on ' || t.tgrelid::regclass AS name, obj_description(t.oid, 'pg_trigger') AS comment FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
			WHERE (c.relnamespace = 'sync'::regnamespace OR t.tgname LIKE 'oversync%') AND NOT t.tgisinternal AND t.tgparentid = 0`,
	} {
		t.Run(kind, func(t *testing.T) {
			require.NotEmpty(t, column[string](t, conn, "SELECT o.name FROM ("+query+") AS o"), "there is no %s in the schema", kind)
			require.Empty(t, column[string](t, conn, "SELECT o.name FROM ("+query+") AS o WHERE o.comment IS NULL OR o.comment !~ '^[^ ].*[.]$' ORDER BY 1"), "%s without a comment that is a sentence", kind)
		})
	}
}

// TestFunctionsPinTheirSearchPath: no function resolves a name where its caller could put another object.
func TestFunctionsPinTheirSearchPath(t *testing.T) {
	t.Parallel()
	conn := registeredSchema(t)
	const path = `(SELECT substr(s, 13) FROM unnest(p.proconfig) AS s WHERE s LIKE 'search\_path=%')`
	// A procedure that commits cannot pin anything: PostgreSQL refuses to end a transaction under a SET clause. The names in
	// a body that is SQL itself, not text, were bound when it was made.
	const functions = " FROM pg_proc p WHERE p.pronamespace = 'sync'::regnamespace AND NOT (p.prokind = 'p' AND p.prosrc ~ '\\mCOMMIT;') AND p.prosqlbody IS NULL "
	require.NotEmpty(t, column[string](t, conn, "SELECT p.proname::text "+functions+"AND p.proname ~ '_[0-9]+$'"))
	require.Empty(t, column[string](t, conn, "SELECT p.oid::regprocedure::text"+functions+"AND "+path+" IS NULL"), "functions without a search_path")
	// An application's triggers run inside sync.apply_<id>, sync.apply_row_<id> and sync.fire_deferred, under the path they know.
	require.Empty(t, column[string](t, conn, "SELECT p.oid::regprocedure || ': ' || "+path+functions+
		"AND CASE WHEN p.proname ~ '^(apply_(row_)?[0-9]+|fire_deferred)$' THEN "+path+` !~ '^pg_catalog, .*\mpg_temp$' ELSE `+path+" <> 'pg_catalog, pg_temp' END"))
	require.Empty(t, column[string](t, conn, "SELECT p.oid::regprocedure::text"+functions+"AND p.prosecdef AND "+path+" <> 'pg_catalog, pg_temp'"), "SECURITY DEFINER runs under the pinned path only")
}

// TestNothingIsOpenToEverybody: without a grant, a role reaches nothing in the schema.
func TestNothingIsOpenToEverybody(t *testing.T) {
	t.Parallel()
	conn := registeredSchema(t)
	require.False(t, value[bool](t, conn, "SELECT has_schema_privilege('public', 'sync', 'USAGE') OR has_schema_privilege('public', 'sync', 'CREATE')"))
	require.Empty(t, column[string](t, conn, `
		SELECT c.oid::regclass::text FROM pg_class c, aclexplode(c.relacl) AS a
		WHERE c.relnamespace = 'sync'::regnamespace AND a.grantee = 0`))
}

// TestNamesThatShadow: objects in a schema that the caller controls do not take the place of ours or of PostgreSQL's.
func TestNamesThatShadow(t *testing.T) {
	t.Parallel()
	conn := registered(t, note+`
		CREATE SCHEMA evil;
		CREATE TABLE evil.open_bundles (xid xid8, user_id text);
		CREATE FUNCTION evil.pg_current_xact_id() RETURNS xid8 LANGUAGE plpgsql AS $$ BEGIN RAISE 'caught'; END $$;
		CREATE FUNCTION evil.array_length(anyarray, integer) RETURNS integer LANGUAGE plpgsql AS $$ BEGIN RAISE 'caught'; END $$;
		CREATE FUNCTION evil.convert_to(text, name) RETURNS bytea LANGUAGE plpgsql AS $$ BEGIN RAISE 'caught'; END $$;
		CREATE FUNCTION evil.row_to_json(record) RETURNS json LANGUAGE plpgsql AS $$ BEGIN RAISE 'caught'; END $$;
		CREATE FUNCTION evil.format(text, VARIADIC "any") RETURNS text LANGUAGE internal AS 'text_format';`, "public.note")
	exec(t, conn, "SET search_path = evil, pg_catalog, public")
	require.Equal(t, []string{"I note a"}, brief(writeBundle(t, conn, "u", "INSERT INTO public.note (id) VALUES ('a')")))
	require.Equal(t, []string{"D note a", "I note b"}, brief(writeBundle(t, conn, "u", "UPDATE public.note SET id = 'b'")))
}
