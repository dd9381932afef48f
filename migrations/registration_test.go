package migrations_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/oversync/oversync/db/pgembed/pgtest"
)

// good are columns and key of a table that can be registered.
const good = `_sync_scope_id text NOT NULL, id uuid NOT NULL, PRIMARY KEY (_sync_scope_id, id)`

// TestRegistrationRefusals: each refusal names the object and the remedy, and leaves nothing behind. A remedy that is SQL mends it.
func TestRegistrationRefusals(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.NewDatabase(t))
	for _, c := range []struct {
		name, ddl string
		call      string // SELECT sync.register_table('public.t') if empty
		message   string
		hint      string
		mends     bool // the hint is SQL that mends it
	}{
		{
			name: "view", ddl: "CREATE VIEW public.t AS SELECT ''::text AS _sync_scope_id, ''::text AS id", call: "SELECT sync.register_table('public.t', 'id')",
			message: "public.t is a view", hint: "Register the table that holds the rows.",
		}, {
			name: "materialized view", ddl: "CREATE MATERIALIZED VIEW public.t AS SELECT ''::text AS _sync_scope_id, ''::text AS id", call: "SELECT sync.register_table('public.t', 'id')",
			message: "public.t is a materialized view", hint: "Register the table that holds the rows.",
		}, {
			name: "foreign table", ddl: "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE public.t (_sync_scope_id text NOT NULL, id uuid NOT NULL) SERVER s",
			call:    "SELECT sync.register_table('public.t', 'id')",
			message: "public.t is a foreign table", hint: "Register the table that holds the rows.",
		}, {
			name: "sequence", ddl: "CREATE SEQUENCE public.t", call: "SELECT sync.register_table('public.t', 'last_value')",
			message: "public.t is a sequence", hint: "Register the table that holds the rows.",
		}, {
			name: "index", ddl: "CREATE TABLE public.x (id integer); CREATE INDEX t ON public.x (id)", call: "SELECT sync.register_table('public.t', 'id')",
			message: "public.t is a relation of kind i", hint: "Register the table that holds the rows.",
		}, {
			name: "temporary", ddl: "CREATE TEMPORARY TABLE t (" + good + ")", call: "SELECT sync.register_table('pg_temp.t')",
			message: ".t is temporary", hint: "Use a permanent table.",
		}, {
			name: "unlogged", ddl: "CREATE UNLOGGED TABLE public.t (" + good + ")",
			message: "public.t is unlogged", hint: "ALTER TABLE public.t SET LOGGED;", mends: true,
		}, {
			name: "of the system", call: "SELECT sync.register_table('sync.user_state')",
			message: "sync.user_state belongs to the system", hint: "Register a table of the application.",
		}, {
			name: "partition", ddl: "CREATE TABLE public.p (" + good + ") PARTITION BY HASH (id); CREATE TABLE public.t PARTITION OF public.p FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
			message: "public.t is a partition", hint: "Register its parent: SELECT sync.register_table('public.p');",
		}, {
			name: "has children", ddl: "CREATE TABLE public.t (" + good + "); CREATE TABLE public.c () INHERITS (public.t)",
			message: "public.t takes part in table inheritance", hint: "ALTER TABLE public.c NO INHERIT public.t; -- or use declarative partitioning", mends: true,
		}, {
			name: "is a child", ddl: "CREATE TABLE public.p (x text); CREATE TABLE public.t (" + good + ") INHERITS (public.p)",
			message: "public.t takes part in table inheritance", hint: "ALTER TABLE public.t NO INHERIT public.p; -- or use declarative partitioning", mends: true,
		}, {
			name: "name in capitals", ddl: `CREATE TABLE public."T" (` + good + `)`, call: `SELECT sync.register_table('public."T"')`,
			message: `the name public."T" is not made of a-z, 0-9 and _`, hint: `ALTER TABLE public."T" RENAME TO ...;`,
		}, {
			name: "schema with a dash", ddl: `CREATE SCHEMA "a-b"; CREATE TABLE "a-b".t (` + good + `)`, call: `SELECT sync.register_table('"a-b".t')`,
			message: `the name "a-b".t is not made of a-z, 0-9 and _`, hint: `ALTER SCHEMA "a-b" RENAME TO ...;`,
		}, {
			name: "column in capitals", ddl: `CREATE TABLE public.t ("Name" text, ` + good + `)`,
			message: `column "Name" of public.t is not made of a-z, 0-9 and _`, hint: `ALTER TABLE public.t RENAME COLUMN "Name" TO ...;`,
		}, {
			name: "no primary key", ddl: "CREATE TABLE public.t (_sync_scope_id text NOT NULL, id uuid NOT NULL, UNIQUE (_sync_scope_id, id))",
			message: "the primary key of public.t does not name one key column beside the scope", hint: "Name the key column: sync_key => '...'.",
		}, {
			name: "primary key of three columns", ddl: "CREATE TABLE public.t (_sync_scope_id text, id uuid, id2 uuid, PRIMARY KEY (_sync_scope_id, id, id2))",
			message: "the primary key of public.t does not name one key column beside the scope", hint: "Name the key column: sync_key => '...'.",
		}, {
			name: "no table", call: "SELECT sync.register_table(to_regclass('public.nothing'))",
			message: "no table is named", hint: "Name one that is there: SELECT sync.register_table('public.todos', scope => 'owner_id');",
		}, {
			name: "no scope", ddl: "CREATE TABLE public.t (id text PRIMARY KEY)", call: "SELECT sync.register_table('public.t', scope => NULL)",
			message: "public.t has no scope column (null)",
			hint:    "Name the column that says whose row it is: scope => '...'; or the column that refers to a parent which has one: scope_via => '...'; or ALTER TABLE public.t ADD COLUMN _sync_scope_id text NOT NULL;",
		}, {
			name: "no such way to adopt", ddl: "CREATE TABLE public.t (" + good + ")", call: "SELECT sync.register_table('public.t', adopt => 'soon')",
			message: "policy reject, on_scope_change refuse or adopt soon is not known", hint: "policy is reject or capture; on_scope_change is refuse or move; adopt is now, later or auto.",
		}, {
			name: "no such key column", ddl: "CREATE TABLE public.t (" + good + ")", call: "SELECT sync.register_table('public.t', 'nr')",
			message: "public.t has no key column nr", hint: "Name the key column: sync_key => '...'.",
		}, {
			name: "names of objects of the database", ddl: "CREATE TABLE public.t (" + good + ", audited regclass)",
			message: "column audited of public.t has type regclass", hint: "ALTER TABLE public.t ALTER COLUMN audited TYPE text;",
		}, {
			name: "lists of roles", ddl: "CREATE TABLE public.t (" + good + ", granted aclitem[])",
			message: "column granted of public.t has type aclitem[]", hint: "ALTER TABLE public.t ALTER COLUMN granted TYPE text;",
		}, {
			name: "key of type integer", ddl: "CREATE TABLE public.t (_sync_scope_id text, id integer, PRIMARY KEY (_sync_scope_id, id))",
			message: "key column id of public.t has type integer", hint: "Keys are of type uuid or text.",
		}, {
			name: "key of type varchar", ddl: "CREATE TABLE public.t (_sync_scope_id text, id varchar(9), PRIMARY KEY (_sync_scope_id, id))",
			message: "key column id of public.t has type character varying", hint: "ALTER TABLE public.t ALTER COLUMN id TYPE text;", mends: true,
		}, {
			name: "key is generated", ddl: "CREATE TABLE public.t (_sync_scope_id text, a text, id text GENERATED ALWAYS AS (a) STORED, PRIMARY KEY (_sync_scope_id, id))",
			message: "key column id of public.t is generated", hint: "Clients choose the key of a new row: make it an ordinary column.",
		}, {
			name: "scope is generated", ddl: "CREATE TABLE public.t (_sync_scope_id text NOT NULL GENERATED ALWAYS AS ('x') STORED, id text PRIMARY KEY)",
			message: "scope column _sync_scope_id of public.t is generated", hint: "A row that a device makes gets the scope of the device: make it an ordinary column.",
		}, {
			name: "scope is an identity", ddl: "CREATE TABLE public.t (_sync_scope_id bigint GENERATED BY DEFAULT AS IDENTITY, id text PRIMARY KEY)",
			message: "scope column _sync_scope_id of public.t is generated", hint: "A row that a device makes gets the scope of the device: make it an ordinary column.",
		}, {
			name: "no scope column", ddl: "CREATE TABLE public.t (id uuid PRIMARY KEY)",
			message: "public.t has no scope column _sync_scope_id",
			hint:    "Name the column that says whose row it is: scope => '...'; or the column that refers to a parent which has one: scope_via => '...'; or ALTER TABLE public.t ADD COLUMN _sync_scope_id text NOT NULL;",
		}, {
			name: "scope of type numeric", ddl: "CREATE TABLE public.t (_sync_scope_id numeric, id uuid, PRIMARY KEY (_sync_scope_id, id))",
			message: "scope column _sync_scope_id of public.t has type numeric", hint: "A scope column is of type text, varchar, uuid, integer or bigint.",
		}, {
			name: "parent column is missing", ddl: "CREATE TABLE public.t (id uuid PRIMARY KEY)", call: "SELECT sync.register_table('public.t', scope_via => 'parent_id')",
			message: "public.t has no column parent_id", hint: "Name the column that refers to the parent: scope_via => '...'.",
		}, {
			name: "parent column refers to nothing", ddl: "CREATE TABLE public.t (id uuid PRIMARY KEY, parent_id uuid NOT NULL)", call: "SELECT sync.register_table('public.t', scope_via => 'parent_id')",
			message: "column parent_id of public.t does not refer to one other table", hint: "ALTER TABLE public.t ADD FOREIGN KEY (parent_id) REFERENCES ... DEFERRABLE INITIALLY DEFERRED;",
		}, {
			name: "parent column may be null", ddl: "CREATE TABLE public.p (id uuid PRIMARY KEY); CREATE TABLE public.t (id uuid PRIMARY KEY, parent_id uuid REFERENCES public.p)",
			call:    "SELECT sync.register_table('public.t', scope_via => 'parent_id')",
			message: "column parent_id of public.t may be null", hint: "ALTER TABLE public.t ALTER COLUMN parent_id SET NOT NULL;", mends: true,
		}, {
			name: "nothing unique beside a parent column", ddl: "CREATE TABLE public.p (id uuid PRIMARY KEY); CREATE TABLE public.t (id uuid NOT NULL, parent_id uuid NOT NULL REFERENCES public.p, UNIQUE (parent_id, id))",
			call:    "SELECT sync.register_table('public.t', 'id', scope_via => 'parent_id')",
			message: "public.t has no unique constraint on (id)", hint: "ALTER TABLE public.t ADD UNIQUE (id);", mends: true,
		}, {
			name: "scope may be null", ddl: "CREATE TABLE public.t (_sync_scope_id text, id uuid NOT NULL, UNIQUE (_sync_scope_id, id))", call: "SELECT sync.register_table('public.t', 'id')",
			message: "column _sync_scope_id of public.t may be null", hint: "ALTER TABLE public.t ALTER COLUMN _sync_scope_id SET NOT NULL;", mends: true,
		}, {
			name: "key may be null", ddl: "CREATE TABLE public.t (_sync_scope_id text NOT NULL, id uuid, UNIQUE (_sync_scope_id, id))", call: "SELECT sync.register_table('public.t', 'id')",
			message: "column id of public.t may be null", hint: "ALTER TABLE public.t ALTER COLUMN id SET NOT NULL;", mends: true,
		}, {
			name: "scope and key are one", ddl: "CREATE TABLE public.t (_sync_scope_id text PRIMARY KEY)", call: "SELECT sync.register_table('public.t', '_sync_scope_id')",
			message: "scope and key of public.t are the same column _sync_scope_id", hint: "Name another key column: sync_key => '...'.",
		}, {
			name: "no unique constraint", ddl: "CREATE TABLE public.t (_sync_scope_id text NOT NULL, id uuid NOT NULL)", call: "SELECT sync.register_table('public.t', 'id')",
			message: "public.t has no unique constraint on (_sync_scope_id, id) or (id)", hint: "ALTER TABLE public.t ADD UNIQUE (_sync_scope_id, id);", mends: true,
		}, {
			name: "unique constraint can be deferred", ddl: "CREATE TABLE public.t (_sync_scope_id text NOT NULL, id uuid NOT NULL, UNIQUE (_sync_scope_id, id) DEFERRABLE)", call: "SELECT sync.register_table('public.t', 'id')",
			message: "public.t has no unique constraint on (_sync_scope_id, id) or (id)", hint: "ALTER TABLE public.t ADD UNIQUE (_sync_scope_id, id);", mends: true,
		}, {
			name: "unique index is partial", ddl: "CREATE TABLE public.t (_sync_scope_id text NOT NULL, id uuid NOT NULL); CREATE UNIQUE INDEX ON public.t (_sync_scope_id, id) WHERE id IS NOT NULL", call: "SELECT sync.register_table('public.t', 'id')",
			message: "public.t has no unique constraint on (_sync_scope_id, id) or (id)", hint: "ALTER TABLE public.t ADD UNIQUE (_sync_scope_id, id);",
		}, {
			name: "unique constraint is longer", ddl: "CREATE TABLE public.t (_sync_scope_id text NOT NULL, id uuid NOT NULL, a text, UNIQUE (_sync_scope_id, id, a))", call: "SELECT sync.register_table('public.t', 'id')",
			message: "public.t has no unique constraint on (_sync_scope_id, id) or (id)", hint: "ALTER TABLE public.t ADD UNIQUE (_sync_scope_id, id);", mends: true,
		}, {
			name: "unknown policy", ddl: "CREATE TABLE public.t (" + good + ")", call: "SELECT sync.register_table('public.t', policy => 'perhaps')",
			message: "policy perhaps, on_scope_change refuse or adopt auto is not known", hint: "policy is reject or capture; on_scope_change is refuse or move; adopt is now, later or auto.",
		}, {
			name: "another key than before", ddl: "CREATE TABLE public.t (other text NOT NULL, UNIQUE (_sync_scope_id, other), " + good + "); SELECT sync.register_table('public.t')", call: "SELECT sync.register_table('public.t', 'other')",
			message: "public.t is registered in another way", hint: "SELECT sync.unregister_table('public.t'); then register it anew. SELECT * FROM sync.table_catalog; shows how it is registered.",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			exec(t, conn, "BEGIN")
			defer exec(t, conn, "ROLLBACK")
			exec(t, conn, c.ddl)
			entries := value[int](t, conn, "SELECT count(*) FROM sync.table_catalog")
			call := c.call
			if call == "" {
				call = "SELECT sync.register_table('public.t')"
			}
			exec(t, conn, "SAVEPOINT before")
			refusal := refused(t, conn, call)
			exec(t, conn, "ROLLBACK TO before")
			require.Equal(t, "OV030", refusal.Code, refusal.Message)
			if strings.HasPrefix(c.message, ".") {
				require.Contains(t, refusal.Message, c.message)
			} else {
				require.Equal(t, c.message, refusal.Message)
			}
			require.Equal(t, c.hint, refusal.Hint)
			require.Equal(t, entries, value[int](t, conn, "SELECT count(*) FROM sync.table_catalog"))
			if c.mends {
				exec(t, conn, refusal.Hint)
				exec(t, conn, call)
			}
		})
	}
}

// TestAcceptedShapes: what makes a row unique is the application's business, as long as scope and key do too.
func TestAcceptedShapes(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.NewDatabase(t))
	for name, ddl := range map[string]string{
		"key alone":                "CREATE TABLE public.t (id uuid PRIMARY KEY, _sync_scope_id text NOT NULL)",
		"the other order":          "CREATE TABLE public.t (_sync_scope_id text, id uuid, PRIMARY KEY (id, _sync_scope_id))",
		"with more columns inside": "CREATE TABLE public.t (_sync_scope_id text, id uuid, a text, PRIMARY KEY (_sync_scope_id, id) INCLUDE (a))",
		"unique beyond the scope":  "CREATE TABLE public.t (mail text UNIQUE, " + good + ")",
		"unique on an expression":  "CREATE TABLE public.t (mail text, " + good + "); CREATE UNIQUE INDEX ON public.t (lower(mail))",
		"unique and partial":       "CREATE TABLE public.t (mail text, " + good + "); CREATE UNIQUE INDEX ON public.t (_sync_scope_id, mail) WHERE mail <> ''",
	} {
		t.Run(name, func(t *testing.T) {
			exec(t, conn, "BEGIN")
			defer exec(t, conn, "ROLLBACK")
			exec(t, conn, ddl)
			exec(t, conn, "SELECT sync.register_table('public.t', sync_key => 'id')")
			exec(t, conn, "SET CONSTRAINTS ALL IMMEDIATE")
		})
	}
}

// TestForeignKeyRefusals: the set of registered tables is judged when the transaction ends.
func TestForeignKeyRefusals(t *testing.T) {
	t.Parallel()
	const tables = `
		CREATE TABLE public.parent (alt text, UNIQUE (_sync_scope_id, alt), ` + good + `);
		CREATE TABLE public.child (parent_id uuid, alt text, ` + good + `);`
	for _, c := range []struct{ name, ddl, register, message, hint, mend string }{
		{
			name: "parent is not registered", ddl: "ALTER TABLE public.child ADD CONSTRAINT fk FOREIGN KEY (_sync_scope_id, parent_id) REFERENCES public.parent DEFERRABLE",
			register: "SELECT sync.register_table('public.child')",
			message:  "foreign key fk of public.child refers to public.parent, which is not registered",
			hint:     "SELECT sync.register_table('public.child', sync_key => 'id', scope => '_sync_scope_id', policy => 'reject', external_references => '{fk}'); -- or with it, in one transaction: SELECT sync.register_table('public.parent');", mend: "SELECT sync.register_table('public.parent')",
		}, {
			name: "cycle that is not deferrable",
			ddl: "ALTER TABLE public.child ADD CONSTRAINT fk FOREIGN KEY (_sync_scope_id, parent_id) REFERENCES public.parent;" +
				"ALTER TABLE public.parent ADD COLUMN child_id uuid, ADD FOREIGN KEY (_sync_scope_id, child_id) REFERENCES public.child DEFERRABLE",
			message: "foreign key fk of public.child is not deferrable, and its tables refer to each other in a cycle",
			hint:    "ALTER TABLE public.child ALTER CONSTRAINT fk DEFERRABLE INITIALLY DEFERRED;", mend: "ALTER TABLE public.child ALTER CONSTRAINT fk DEFERRABLE INITIALLY DEFERRED",
		}, {
			name: "parent that gives the scope", ddl: "ALTER TABLE public.parent ADD UNIQUE (id); ALTER TABLE public.child ALTER parent_id SET NOT NULL, ADD UNIQUE (id), ADD CONSTRAINT fk FOREIGN KEY (parent_id) REFERENCES public.parent (id)",
			register: "SELECT sync.register_table('public.child', sync_key => 'id', scope_via => 'parent_id')",
			message:  "the scope of public.child is found through public.parent, which is not registered",
			hint:     "SELECT sync.register_table('public.parent'); -- in the same transaction; or take both out: SELECT sync.unregister_table('public.child');", mend: "SELECT sync.register_table('public.parent')",
		}, {
			name: "scope through a key that is not valid", ddl: "ALTER TABLE public.parent ADD UNIQUE (id); ALTER TABLE public.child ALTER parent_id SET NOT NULL, ADD UNIQUE (id), ADD CONSTRAINT fk FOREIGN KEY (parent_id) REFERENCES public.parent (id) NOT VALID",
			register: "SELECT sync.register_table('public.parent'); SELECT sync.register_table('public.child', sync_key => 'id', scope_via => 'parent_id')",
			message:  "the scope of public.child is found through foreign key fk, which is not valid",
			hint:     "ALTER TABLE public.child VALIDATE CONSTRAINT fk;", mend: "ALTER TABLE public.child VALIDATE CONSTRAINT fk",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			conn := connect(t, pgtest.NewDatabase(t))
			exec(t, conn, tables+c.ddl)
			register := c.register
			if register == "" {
				register = "SELECT sync.register_table('public.child'); SELECT sync.register_table('public.parent')"
			}
			exec(t, conn, "BEGIN")
			exec(t, conn, register)
			refusal := refused(t, conn, "COMMIT")
			require.Equal(t, "OV030", refusal.Code)
			require.Equal(t, c.message, refusal.Message)
			require.Equal(t, c.hint, refusal.Hint)
			require.Zero(t, value[int](t, conn, "SELECT count(*) FROM sync.table_catalog"))
			if c.mend != "" {
				exec(t, conn, "BEGIN")
				if strings.HasPrefix(c.mend, "ALTER") {
					exec(t, conn, c.mend)
					exec(t, conn, register)
				} else {
					exec(t, conn, register)
					exec(t, conn, c.mend)
				}
				exec(t, conn, "COMMIT")
			}
		})
	}
}

// TestReferencesThatLeave: what is said of foreign keys to tables that are not registered mends them when it is run as it is, in a
// registration that was refused and for a table that got them later.
func TestReferencesThatLeave(t *testing.T) {
	t.Parallel()
	const entry = `SELECT (t.key_column, t.scope_column, t.scope_via, t.scope_is_shown, t.on_scope_change, t.policy)::text
		FROM sync.table_catalog t WHERE t.table_name = 'item' AND t.unregistered_at IS NULL`
	for _, register := range []string{
		"SELECT sync.register_table('public.item', policy => 'capture', external_references => '{shelf}')",
		"SELECT sync.register_table('public.item', scope => 'owner', show_scope => true, external_references => '{shelf}')",
		"SELECT sync.register_table('public.item', scope_via => 'parent_id', on_scope_change => 'move', external_references => '{public.shelf}')",
	} {
		conn := connect(t, pgtest.NewDatabase(t))
		exec(t, conn, `
			CREATE TABLE public.shelf (id int PRIMARY KEY);
			CREATE TABLE public."Odd colour" (id int PRIMARY KEY);
			CREATE TABLE public.parent (id uuid PRIMARY KEY, _sync_scope_id text NOT NULL);
			CREATE TABLE public.item (id uuid PRIMARY KEY, _sync_scope_id text NOT NULL, owner bigint NOT NULL, parent_id uuid NOT NULL REFERENCES public.parent,
				shelf_id int CONSTRAINT shelf REFERENCES public.shelf);
			SELECT sync.register_table('public.parent');`)
		exec(t, conn, register)
		before := value[string](t, conn, entry)
		exec(t, conn, `ALTER TABLE public.item ADD COLUMN x int CONSTRAINT "It's x" REFERENCES public."Odd colour", ADD COLUMN y int CONSTRAINT y REFERENCES public.shelf`)
		for _, remedy := range value[[]string](t, conn, "SELECT array_agg(remedy) FROM sync.check() WHERE severity = 'error'") {
			exec(t, conn, remedy)
		}
		exec(t, conn, "SELECT sync.refresh_table('public.item')")
		require.Zero(t, value[int](t, conn, "SELECT count(*) FROM sync.check()"))
		require.Equal(t, before, value[string](t, conn, entry))

		// One statement for all tables: none of them alone would do.
		exec(t, conn, "CREATE TABLE public.more (id uuid PRIMARY KEY, _sync_scope_id text NOT NULL); SELECT sync.register_table('public.more')")
		exec(t, conn, `ALTER TABLE public.item ADD COLUMN z int REFERENCES public."Odd colour"; ALTER TABLE public.more ADD COLUMN z int REFERENCES public."Odd colour"`)
		exec(t, conn, value[string](t, conn, "SELECT remedy FROM sync.check() WHERE severity = 'error' LIMIT 1"))
		require.Zero(t, value[int](t, conn, "SELECT count(*) FROM sync.check() WHERE severity = 'error'"))
		exec(t, conn, "SELECT sync.unregister_table('public.item'); DROP TABLE public.more; SELECT sync.unregister_table(t.relation) FROM sync.table_catalog t WHERE t.table_name = 'more'")
		exec(t, conn, refused(t, conn, register).Hint)
		require.Equal(t, before, value[string](t, conn, entry))
	}
}

func TestAParentStaysRegistered(t *testing.T) {
	t.Parallel()
	conn := registered(t, zoo, "app.account", "app.item")
	exec(t, conn, "BEGIN")
	exec(t, conn, "SELECT sync.unregister_table('app.account')")
	refusal := refused(t, conn, "COMMIT")
	require.Equal(t, "OV030", refusal.Code)
	require.Contains(t, refusal.Message, "refers to app.account, which is not registered")
	inTx(t, conn, func() {
		exec(t, conn, "SELECT sync.unregister_table('app.account')")
		exec(t, conn, "SELECT sync.unregister_table('app.item')")
	})
	require.False(t, value[bool](t, conn, "SELECT sync.unregister_table('app.item')"))
}

// TestAnyOrder registers the zoo, a cycle in it, in several orders.
func TestAnyOrder(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.NewDatabase(t))
	exec(t, conn, zoo)
	for _, order := range [][]int{{0, 1, 2, 3, 4}, {4, 3, 2, 1, 0}, {3, 0, 4, 2, 1}} {
		inTx(t, conn, func() {
			for _, i := range order {
				exec(t, conn, "SELECT sync.register_table($1::text::regclass)", zooRegistered()[i])
			}
		})
		require.Equal(t, []string{"account", "member", "team", "event", "item"}, column[string](t, conn, "SELECT table_name FROM sync.table_catalog WHERE unregistered_at IS NULL ORDER BY apply_order"))
		require.Equal(t, []string{"account", "member", "team", "event", "item"}, column[string](t, conn, "SELECT table_name FROM sync.table_order"))
		inTx(t, conn, func() {
			for _, i := range order {
				exec(t, conn, "SELECT sync.unregister_table($1::text::regclass)", zooRegistered()[i])
			}
		})
	}
}

// catalogPicture describes everything of the application's tables that a registration could change.
func catalogPicture(t *testing.T, conn *pgx.Conn) []string {
	t.Helper()
	return column[string](t, conn, `
		WITH rel AS (SELECT c.oid, c.relacl FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'app' AND c.relkind IN ('r', 'p'))
		SELECT format('%s column %s %s %s %s default %s', r.oid::regclass, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attacl, pg_get_expr(d.adbin, d.adrelid))
		FROM rel r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 LEFT JOIN pg_attrdef d ON d.adrelid = r.oid AND d.adnum = a.attnum
		UNION ALL SELECT format('%s trigger %s %s', r.oid::regclass, t.tgname, pg_get_triggerdef(t.oid)) FROM rel r JOIN pg_trigger t ON t.tgrelid = r.oid AND NOT t.tgisinternal
		UNION ALL SELECT format('%s constraint %s %s', r.oid::regclass, k.conname, pg_get_constraintdef(k.oid)) FROM rel r JOIN pg_constraint k ON k.conrelid = r.oid
		UNION ALL SELECT format('%s index %s', r.oid::regclass, pg_get_indexdef(i.indexrelid)) FROM rel r JOIN pg_index i ON i.indrelid = r.oid
		UNION ALL SELECT format('%s rights %s', r.oid::regclass, r.relacl) FROM rel r
		UNION ALL SELECT 'function ' || p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace IN ('app'::regnamespace, 'sync'::regnamespace)
		UNION ALL SELECT format('depends %s %s on %s', d.classid::regclass, d.deptype, d.refclassid::regclass) FROM pg_depend d JOIN rel r ON d.refobjid = r.oid
		ORDER BY 1`)
}

// TestRegistrationIsQuiet: whoever registers a table in psql sees no notice about things they never heard of.
func TestRegistrationIsQuiet(t *testing.T) {
	t.Parallel()
	config, err := pgx.ParseConfig(pgtest.NewDatabase(t))
	require.NoError(t, err)
	var notices []string
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices = append(notices, n.Message) }
	conn, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(t.Context())) }()
	exec(t, conn, "DO $$ BEGIN RAISE NOTICE 'heard'; END $$")
	exec(t, conn, note)
	exec(t, conn, "SELECT sync.register_table('public.note')")
	exec(t, conn, "ALTER TABLE public.note ADD COLUMN n integer")
	exec(t, conn, "SELECT sync.refresh_table('public.note')")
	exec(t, conn, "SELECT sync.unregister_table('public.note')")
	require.Equal(t, []string{"heard"}, notices)
}

func TestUnregisterLeavesTheTableAsFound(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.NewDatabase(t))
	exec(t, conn, zoo+`
		ALTER TABLE app.event ALTER COLUMN _sync_scope_id SET DEFAULT current_setting('app.user', true) || CURRENT_DATE::text;`)
	before := catalogPicture(t, conn)
	ids := map[int]bool{}
	for range 2 {
		inTx(t, conn, func() {
			for _, table := range zooRegistered() {
				id := value[int](t, conn, "SELECT sync.register_table($1::text::regclass)", table)
				require.False(t, ids[id], "a table that is registered again gets a new id")
				ids[id] = true
			}
		})
		require.NotEqual(t, before, catalogPicture(t, conn))
		// The default of event is the application's, which stays: so it is not written here.
		require.NotEmpty(t, writeBundle(t, conn, "u", zooSeed[:4]...))
		inTx(t, conn, func() {
			for _, table := range zooRegistered() {
				require.True(t, value[bool](t, conn, "SELECT sync.unregister_table($1::text::regclass)", table))
			}
		})
		require.Equal(t, before, catalogPicture(t, conn))
		require.Equal(t, []int64{0, 0}, column[int64](t, conn, "SELECT unnest(ARRAY[live_row_count, live_byte_count]) FROM sync.user_state WHERE user_id = 'u'"))
		require.NotEmpty(t, newestEffects(t, conn, "u", 1), "history stays readable")
		exec(t, conn, "TRUNCATE app.account, app.item, app.team, app.member, app.event")
	}
}

func TestRegisteringAgainChangesNothing(t *testing.T) {
	t.Parallel()
	conn := registered(t, zoo, "app.account", "app.event")
	picture := catalogPicture(t, conn)
	version := value[int64](t, conn, "SELECT version FROM sync.catalog_version")
	entries := column[string](t, conn, "SELECT t::text FROM sync.table_catalog t ORDER BY table_id")
	exec(t, conn, "SELECT sync.register_table('app.account')")
	exec(t, conn, "SELECT sync.register_table('app.event', sync_key => 'id', scope => '_sync_scope_id', policy => 'reject')")
	require.Equal(t, picture, catalogPicture(t, conn))
	require.Equal(t, version, value[int64](t, conn, "SELECT version FROM sync.catalog_version"))
	require.Equal(t, entries, column[string](t, conn, "SELECT t::text FROM sync.table_catalog t ORDER BY table_id"))
}

// TestRegistrationsAtOnce: servers that start together register the same tables, each in an order of its own.
func TestRegistrationsAtOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.NewDatabase(t)
	conn := connect(t, url)
	exec(t, conn, zoo)
	const starters = 8
	conns := make([]*pgx.Conn, starters)
	for i := range conns {
		conns[i] = connect(t, url)
	}
	group, ctx := errgroup.WithContext(t.Context())
	for i, own := range conns {
		group.Go(func() error {
			return pgx.BeginFunc(ctx, own, func(tx pgx.Tx) error {
				for j := range zooTables {
					if _, err := tx.Exec(ctx, "SELECT sync.register_table($1::text::regclass)", zooRegistered()[(i+j)%len(zooTables)]); err != nil {
						return fmt.Errorf("starter %d: %w", i, err)
					}
				}
				return nil
			})
		})
	}
	require.NoError(t, group.Wait())
	require.Equal(t, len(zooTables), value[int](t, conn, "SELECT count(*) FROM sync.table_catalog"))
	require.NotEmpty(t, writeBundle(t, conn, "u", zooSeed...))
}

func TestPartitionsAreCaptured(t *testing.T) {
	t.Parallel()
	conn := registered(t, zoo, "app.account", "app.event")
	for _, table := range []string{"event", "event_low", "event_high", "event_high_0", "event_high_1"} {
		require.Subset(t, column[string](t, conn, "SELECT tgname::text FROM pg_trigger WHERE tgrelid = $1::text::regclass", "app."+table),
			[]string{"oversync_capture_delete", "oversync_capture_insert", "oversync_capture_update", "oversync_refuse_truncate"}, table)
	}
	writeBundle(t, conn, "u", "INSERT INTO app.event (id) VALUES ('a'), ('z')")
	require.Equal(t, []string{"D event a", "I event x", "U event z"}, brief(writeBundle(t, conn, "u",
		"UPDATE app.event SET id = 'x' WHERE id = 'a'", "UPDATE app.event_high SET payload = '1' WHERE id = 'z'")))
}

// TestDetachedAndDroppedTables: what DDL did to a registered table does not stand in the way afterwards.
func TestDetachedAndDroppedTables(t *testing.T) {
	t.Parallel()
	t.Run("partition detached, parent unregistered", func(t *testing.T) {
		t.Parallel()
		conn := registered(t, zoo, "app.account", "app.event")
		exec(t, conn, "ALTER TABLE app.event DETACH PARTITION app.event_low")
		exec(t, conn, "SELECT sync.unregister_table('app.event')")
		exec(t, conn, "INSERT INTO app.event_low (_sync_scope_id, id) VALUES ('u', 'a')")
	})
	t.Run("dropped, made and registered again", func(t *testing.T) {
		t.Parallel()
		conn := registered(t, note, "public.note")
		first := value[int](t, conn, "SELECT table_id FROM sync.table_catalog")
		writeBundle(t, conn, "u", "INSERT INTO public.note (id) VALUES ('a')")
		exec(t, conn, "DROP TABLE public.note")
		exec(t, conn, note)
		require.NotEqual(t, first, value[int](t, conn, "SELECT sync.register_table('public.note')"))
		require.Equal(t, []string{"I note b"}, brief(writeBundle(t, conn, "u", "INSERT INTO public.note (id) VALUES ('b')")))
		require.Equal(t, []string{"note"}, column[string](t, conn, "SELECT table_name FROM sync.table_order"))
	})
}

// TestRoleWithoutRightsOnSync: a role that may write the table needs no rights on sync, and gets none.
func TestRoleWithoutRightsOnSync(t *testing.T) {
	t.Parallel()
	conn := registered(t, zoo, zooRegistered()...)
	// Roles belong to the server, so that this one has a name of its own.
	role := "clerk_" + value[string](t, conn, "SELECT right(current_database(), 8)")
	exec(t, conn, "CREATE ROLE "+role)
	defer exec(t, conn, "RESET ROLE; DROP OWNED BY "+role+"; DROP ROLE "+role)
	exec(t, conn, "GRANT USAGE ON SCHEMA app TO "+role+"; GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA app TO "+role)

	statements := append([]string{"SET LOCAL ROLE " + role}, zooSeed...)
	statements = append(statements, "UPDATE app.event SET id = id || 'x'", "DELETE FROM app.team", "RESET ROLE")
	require.NotEmpty(t, writeBundle(t, conn, "u", statements...))

	exec(t, conn, "SET ROLE "+role)
	require.Equal(t, "OV031", refused(t, conn, "DELETE FROM app.account").Code)
	require.Equal(t, pgerrcode.ObjectNotInPrerequisiteState, refused(t, conn, "TRUNCATE app.event_low").Code)
	for _, sql := range []string{
		"SELECT FROM sync.bundle_log", "SELECT FROM sync.table_order", "SELECT sync.bundle_open('u', 'forged', NULL, true)", "SELECT sync.scope_in_bundle()",
		"SELECT sync.capture(1, '{}', '{u}', 'u')", "INSERT INTO sync.open_bundles DEFAULT VALUES", "SELECT sync.register_table('app.item')", "SELECT nextval('sync.rejected_write_count')",
	} {
		require.Equal(t, pgerrcode.InsufficientPrivilege, refused(t, conn, sql).Code, sql)
	}
	exec(t, conn, "RESET ROLE")
}

// TestAllIdentifiersQuoted: a database may say that PostgreSQL quotes each name that it writes, names of types too. What
// registration knows and makes does not depend on it.
func TestAllIdentifiersQuoted(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.NewDatabase(t))
	exec(t, conn, "CREATE TABLE public.list (id text PRIMARY KEY, owner text NOT NULL); CREATE TABLE public.task (id uuid PRIMARY KEY, list_id text NOT NULL REFERENCES public.list, done boolean)")
	exec(t, conn, "SET quote_all_identifiers = on")
	exec(t, conn, "SELECT sync.register_table('public.list', scope => 'owner', policy => 'capture'); SELECT sync.register_table('public.task', scope_via => 'list_id', policy => 'capture')")
	exec(t, conn, "INSERT INTO public.list VALUES ('a', 'ann'); INSERT INTO public.task VALUES (gen_random_uuid(), 'a')")
	exec(t, conn, "ALTER TABLE public.list ADD COLUMN name text; SELECT sync.refresh_table('public.list'); SELECT sync.set_policy('public.task', 'reject')")
	require.Zero(t, value[int](t, conn, "SELECT count(*) FROM sync.verify('ann')"))
	for _, setting := range []string{"on", "off"} {
		exec(t, conn, "SET quote_all_identifiers = "+setting)
		requireSound(t, conn)
		require.Zero(t, value[int](t, conn, "SELECT count(*) FROM sync.check()"), setting)
	}
	require.Equal(t, []string{"text", "uuid"}, value[[]string](t, conn, "SELECT array_agg(key_type ORDER BY table_name) FROM sync.table_catalog"))
}

// TestAwkwardColumnNames: the generated statements are not confused by columns named as their own aliases and variables are.
func TestAwkwardColumnNames(t *testing.T) {
	t.Parallel()
	names := []string{
		"t", "s", "r", "q", "k", "n", "b", "l", "o", "live", "logged", "keys", "key_bytes", "op", "payload", "payload_bytes", "row_ordinal", "row_count", "live_rows", "was_live",
		"new_rows", "old_rows", "v_keys", "v_table", "p_op", "p_keys", "push_id", "table_id", "user", "order", "select", "group", "new", "old",
	}
	ddl := "CREATE TABLE public.awkward (_sync_scope_id text NOT NULL, id text NOT NULL, PRIMARY KEY (_sync_scope_id, id)"
	var sent []string
	for _, name := range names {
		ddl += fmt.Sprintf(", %q text", name)
		sent = append(sent, fmt.Sprintf("%q:%q", name, name+" sent"))
	}
	conn := registered(t, ddl+");", "public.awkward")
	effects := writeBundle(t, conn, "u", `INSERT INTO public.awkward (id, t) VALUES ('a', 'x')`, `UPDATE public.awkward SET s = t`)
	require.Equal(t, []string{"I awkward a"}, brief(effects))

	for i, op := range []string{"I", "U"} {
		id := value[string](t, conn, "SELECT push_id::text FROM sync.push_create('u', 'device', $1::bigint, 1, NULL, '1 hour', '1 hour')", i+1)
		exec(t, conn, `SELECT sync.push_stage($1::text::uuid, 'u', 'device', 0, (SELECT version FROM sync.catalog_version), ARRAY[(SELECT table_id FROM sync.table_catalog)],
			$2::text, ARRAY[$3::bigint], ARRAY[convert_to('b', 'UTF8')], ARRAY[$4::text], '1 hour', '1 hour')`, id, op, i*2, `{"id":"b",`+strings.Join(sent, ",")+"}")
		require.NoError(t, commitPush(t.Context(), conn, id, "u", "device"))
		effects = newestEffects(t, conn, "u", int64(i+2))
		require.Equal(t, []string{op + " awkward b"}, brief(effects))
		require.JSONEq(t, `{"id":"b",`+strings.Join(sent, ",")+"}", effects[0].payload)
	}
}

// TestWhatTheCapturingRoleMayDo: a table whose rows it cannot see, or may not write, is refused with what mends it, and named by check.
func TestWhatTheCapturingRoleMayDo(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.NewDatabase(t))
	role := "capturer_" + value[string](t, conn, "SELECT md5(current_database())")
	exec(t, conn, "CREATE ROLE "+role)
	defer exec(t, conn, "RESET ROLE; DROP OWNED BY "+role+" CASCADE; DROP ROLE "+role)
	exec(t, conn, "CREATE SCHEMA app; CREATE TABLE app.note (id text PRIMARY KEY, owner text NOT NULL); ALTER FUNCTION sync.capture_commit() OWNER TO "+role)
	mended := func(remedies ...string) {
		t.Helper()
		for _, remedy := range remedies {
			refusal := refused(t, conn, "SELECT sync.register_table('app.note', scope => 'owner')")
			require.Equal(t, []string{"OV030", remedy}, []string{refusal.Code, refusal.Hint}, refusal.Message)
			remedy, _, _ = strings.Cut(remedy, " --")
			exec(t, conn, remedy)
		}
	}
	mended("GRANT USAGE ON SCHEMA app TO "+role+";", "GRANT SELECT, INSERT, UPDATE, DELETE ON app.note TO "+role+";")
	exec(t, conn, "ALTER TABLE app.note ENABLE ROW LEVEL SECURITY")
	owner := value[string](t, conn, "SELECT current_user::text")
	mended("ALTER ROLE " + role + " BYPASSRLS; -- as a superuser; or as one, let it be what owns the table: GRANT " + owner + " TO " + role + ";")
	owner = `"` + role + ` Of-All"`
	exec(t, conn, "ALTER ROLE "+role+" NOBYPASSRLS; CREATE ROLE "+owner+"; ALTER TABLE app.note OWNER TO "+owner)
	_, grant, _ := strings.Cut(refused(t, conn, "SELECT sync.register_table('app.note', scope => 'owner')").Hint, "owns the table: ")
	exec(t, conn, grant+" ALTER TABLE app.note OWNER TO "+role+"; DROP ROLE "+owner)
	owner = value[string](t, conn, "SELECT current_user::text")
	exec(t, conn, "ALTER TABLE app.note OWNER TO "+role+"; ALTER TABLE app.note FORCE ROW LEVEL SECURITY")
	mended("ALTER TABLE app.note NO FORCE ROW LEVEL SECURITY;")
	exec(t, conn, "SELECT sync.register_table('app.note', scope => 'owner'); ALTER TABLE app.note OWNER TO "+owner)
	problems := func() []string { // but that the role does not own the log, which it would if it had migrated
		return column[string](t, conn, "SELECT severity || ' ' || problem FROM sync.check() WHERE object <> 'sync.capture_commit'")
	}
	require.Equal(t, []string{
		"error row-level security of app.note hides rows from " + role + ", the role that captures",
		"error " + role + ", the role that captures and applies pushes, may not SELECT, INSERT, UPDATE, DELETE app.note",
	}, problems())
	exec(t, conn, "ALTER TABLE app.note DISABLE ROW LEVEL SECURITY; GRANT ALL ON app.note TO "+role)
	require.Empty(t, problems())
	exec(t, conn, "REVOKE UPDATE ON app.note FROM "+role)
	require.Equal(t, []string{"error " + role + ", the role that captures and applies pushes, may not UPDATE app.note"}, problems())
	exec(t, conn, "GRANT UPDATE ON app.note TO "+role+"; ALTER TABLE app.note ADD a bigint GENERATED BY DEFAULT AS IDENTITY, ADD b bigserial, ADD c bigint GENERATED ALWAYS AS IDENTITY")
	for _, sequence := range []string{"app.note_a_seq", "app.note_b_seq"} {
		require.Contains(t, problems(), "error "+role+", the role that captures and applies pushes, may not use "+sequence+", which numbers a column of app.note")
		exec(t, conn, value[string](t, conn, "SELECT remedy FROM sync.check() WHERE problem LIKE '%'||$1||'%'", sequence))
	}
	require.Empty(t, column[string](t, conn, "SELECT problem FROM sync.check() WHERE severity = 'error' AND object <> 'sync.capture_commit'"))
}

// TestUnregisterLeavesTheDefaultOfTheApplication: only the default that registration made goes.
func TestUnregisterLeavesTheDefaultOfTheApplication(t *testing.T) {
	t.Parallel()
	for alter, want := range map[string]*string{
		"SELECT 1": nil,
		"ALTER TABLE note ALTER COLUMN o TYPE bigint":                                          nil,
		"ALTER TABLE note ALTER COLUMN o TYPE text":                                            nil,
		"ALTER TABLE note ALTER COLUMN o SET DEFAULT 7":                                        ptr("7"),
		"ALTER TABLE note DROP COLUMN o; ALTER TABLE note ADD COLUMN o int NOT NULL DEFAULT 8": ptr("8"),
		"ALTER TABLE note DROP COLUMN o":                                                       nil,
	} {
		t.Run(alter, func(t *testing.T) {
			t.Parallel()
			conn := connect(t, pgtest.NewDatabase(t))
			exec(t, conn, "CREATE TABLE note (id text PRIMARY KEY, o int NOT NULL); SELECT sync.register_table('note', scope => 'o')")
			exec(t, conn, alter)
			exec(t, conn, "SELECT sync.unregister_table('note')")
			require.Equal(t, want, value[*string](t, conn, "SELECT max(pg_get_expr(d.adbin, d.adrelid)) FROM pg_attrdef d WHERE d.adrelid = 'note'::regclass"))
		})
	}
}

func ptr(s string) *string { return &s }

// TestUnregisterCountsRowsOut: what scopes held in the table no longer counts as live, whatever place they have in their own.
func TestUnregisterCountsRowsOut(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.NewDatabase(t))
	exec(t, conn, "CREATE TABLE note (id text PRIMARY KEY, o int NOT NULL); SELECT sync.register_table('note', scope => 'o', policy => 'capture')")
	exec(t, conn, "INSERT INTO note SELECT 'n' || n, 50 - n % 50 FROM generate_series(1, 500) n; DELETE FROM note WHERE o = 7")
	require.Equal(t, int64(490), value[int64](t, conn, "SELECT sum(live_row_count)::bigint FROM sync.user_state"))
	exec(t, conn, "UPDATE sync.user_state SET created_at = now() WHERE user_pk % 3 = 0") // other places in the table
	inTx(t, conn, func() {
		exec(t, conn, "SELECT sync.unregister_table('note')")
		require.Equal(t, int64(0), value[int64](t, conn, "SELECT sum(live_row_count + live_byte_count)::bigint FROM sync.user_state"))
	})
}

// TestRemediesThatFitTheTable: what a remedy says works for the table as it is.
func TestRemediesThatFitTheTable(t *testing.T) {
	t.Parallel()
	for ddl, want := range map[string][2]string{
		"CREATE TABLE n (id text PRIMARY KEY)":                                                         {"register_table('n')", "ALTER TABLE public.n ADD COLUMN _sync_scope_id text NOT NULL;"},
		"CREATE TABLE n (id text PRIMARY KEY); INSERT INTO n VALUES ('a')":                             {"register_table('n')", "ALTER TABLE public.n ADD COLUMN _sync_scope_id text; UPDATE public.n SET _sync_scope_id = ...; ALTER TABLE public.n ALTER COLUMN _sync_scope_id SET NOT NULL;"},
		"CREATE TABLE n (id bigserial PRIMARY KEY, o int NOT NULL, maybe uuid UNIQUE)":                 {"register_table('n', scope => 'o')", "Keys are of type uuid or text."},
		"CREATE TABLE n (id bigserial PRIMARY KEY, o int NOT NULL, public_id uuid NOT NULL UNIQUE)":    {"register_table('n', scope => 'o')", "sync_key => 'public_id'."},
		"CREATE TABLE n (id text NOT NULL, o int NOT NULL, day date NOT NULL) PARTITION BY LIST (day)": {"register_table('n', sync_key => 'id', scope => 'o')", "partition it by o or id."},
		"CREATE TABLE n (id text NOT NULL, o int NOT NULL) PARTITION BY LIST (o)":                      {"register_table('n', sync_key => 'id', scope => 'o')", "ALTER TABLE public.n ADD UNIQUE (o, id);"},
	} {
		t.Run(ddl, func(t *testing.T) {
			t.Parallel()
			conn := connect(t, pgtest.NewDatabase(t))
			exec(t, conn, ddl)
			refusal := refused(t, conn, "SELECT sync."+want[0])
			require.Equal(t, "OV030", refusal.Code)
			require.True(t, strings.HasSuffix(refusal.Hint, want[1]), refusal.Hint)
		})
	}
	conn := connect(t, pgtest.NewDatabase(t))
	exec(t, conn, "CREATE TABLE n (id text PRIMARY KEY, o text NOT NULL); INSERT INTO n VALUES ('a', 'u'), ('b', '')")
	refusal := refused(t, conn, "SELECT sync.register_table('n', scope => 'o')")
	require.Equal(t, []string{"23514", "row 'b' of public.n belongs to the scope '', which no user can have"}, []string{refusal.Code, refusal.Message})
}

// TestATableIsLockedBeforeItIsJudged: what an ALTER TABLE changes while registration waits for it is judged as it is then.
func TestATableIsLockedBeforeItIsJudged(t *testing.T) {
	t.Parallel()
	url := pgtest.NewDatabase(t)
	conn, dba, watcher := connect(t, url), connect(t, url), connect(t, url)
	exec(t, conn, note)
	exec(t, dba, "BEGIN; ALTER TABLE public.note DROP CONSTRAINT note_pkey, ADD UNIQUE (_sync_scope_id, id); ALTER TABLE public.note ALTER _sync_scope_id DROP NOT NULL")
	refusal := make(chan error, 1)
	go func() {
		_, err := conn.Exec(t.Context(), "SELECT sync.register_table('public.note', 'id')")
		refusal <- err
	}()
	waitsForLock(t, watcher, conn.PgConn().PID())
	exec(t, dba, "COMMIT")
	require.ErrorContains(t, <-refusal, "may be null")
}
