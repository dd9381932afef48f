package migrations_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// shop is tables outside the search path, whose names are reserved words.
const shop = `
	CREATE SCHEMA shop;
	CREATE TABLE shop.product (id int PRIMARY KEY);
	CREATE TABLE shop."order" (gone int, id text PRIMARY KEY, "user" int NOT NULL, product int REFERENCES shop.product);
	ALTER TABLE shop."order" DROP COLUMN gone;
	CREATE TABLE shop.line (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), order_id text NOT NULL REFERENCES shop."order", n int);
	CREATE TABLE shop.note (id text PRIMARY KEY, owner int NOT NULL, line uuid REFERENCES shop.line);
	BEGIN;
	SELECT sync.register_table('shop."order"', scope => 'user', policy => 'capture', external_references => '{shop.product}'), sync.register_table('shop.line', scope_via => 'order_id', policy => 'capture', on_scope_change => 'move'),
	       sync.register_table('shop.note', scope => 'owner', policy => 'capture');
	COMMIT;
	INSERT INTO shop.product VALUES (1); INSERT INTO shop."order" VALUES ('o1', 1, 1), ('o2', 2, 1); INSERT INTO shop.line (order_id) VALUES ('o1'), ('o2'); INSERT INTO shop.note VALUES ('n1', 1), ('n2', 2);`

// remedied runs what check says, as it says it, until it says nothing.
func remedied(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	for range 3 {
		for _, remedy := range column[string](t, conn, "SELECT remedy FROM sync.check() ORDER BY severity <> 'error'") {
			exec(t, conn, remedy)
		}
	}
	require.Empty(t, column[string](t, conn, "SELECT problem FROM sync.check()"))
}

// TestATableThatCannotBeWrittenIsInNobodysWay: a table that lost its key, or whose key has another type, does not keep others that it refers to
// from being registered and refreshed.
func TestATableThatCannotBeWrittenIsInNobodysWay(t *testing.T) {
	t.Parallel()
	for _, alter := range []string{
		"ALTER TABLE shop.note ALTER id TYPE uuid USING gen_random_uuid()",
		"ALTER TABLE shop.note DROP COLUMN id",
		"ALTER TABLE shop.note RENAME id TO nr; UPDATE sync.table_catalog SET relation_oid = 0 WHERE table_name = 'note'", // as a restored dump
	} {
		t.Run(alter, func(t *testing.T) {
			t.Parallel()
			conn := registered(t, shop)
			exec(t, conn, alter)
			exec(t, conn, "SELECT sync.refresh_table('shop.line')")
			exec(t, conn, "CREATE TABLE shop.tag (id text PRIMARY KEY, owner int NOT NULL); SELECT sync.register_table('shop.tag', scope => 'owner', policy => 'capture'); INSERT INTO shop.tag VALUES ('t1', 1)")
			exec(t, conn, "UPDATE shop.line SET n = 1")
		})
	}
}

// TestRemediesOfTablesThatWereRenamed: what check says is about tables as they are called now.
func TestRemediesOfTablesThatWereRenamed(t *testing.T) {
	t.Parallel()
	for alter, write := range map[string]string{
		`ALTER SCHEMA shop RENAME TO "user"`: `UPDATE "user".line SET n = 1; UPDATE "user"."order" SET "user" = 3 - "user"`,
		"ALTER TABLE shop.line RENAME TO item; ALTER TABLE shop.item ADD COLUMN product int REFERENCES shop.product":                                                     "UPDATE shop.item SET product = 1",
		`ALTER TABLE shop."order" RENAME TO orders; ALTER TABLE shop.orders ADD COLUMN line uuid REFERENCES shop.line`:                                                   `UPDATE shop.orders SET "user" = 3 - "user"`,
		"ALTER TABLE shop.line RENAME TO item; ALTER TABLE shop.item DROP CONSTRAINT line_order_id_fkey, ADD FOREIGN KEY (order_id) REFERENCES shop.\"order\" NOT VALID": "UPDATE shop.item SET n = 1",
	} {
		t.Run(alter, func(t *testing.T) {
			t.Parallel()
			conn := registered(t, shop)
			exec(t, conn, alter)
			remedied(t, conn)
			exec(t, conn, write)
			requireSound(t, conn)
		})
	}
}

// TestAColumnWithSeveralForeignKeys: where the column that leads to the parent gets another foreign key, the parent that there was says whose a row
// is, nothing fails, and check names what to drop. A second one that says the same is no matter.
func TestAColumnWithSeveralForeignKeys(t *testing.T) {
	t.Parallel()
	const another = `CREATE TABLE shop.basket (id text PRIMARY KEY, "user" int NOT NULL); INSERT INTO shop.basket VALUES ('o1', 2), ('o2', 1); SELECT sync.register_table('shop.basket', scope => 'user', policy => 'capture');`
	for name, c := range map[string]struct {
		alter    string
		problems int
	}{
		"the same":           {`ALTER TABLE shop.line ADD CONSTRAINT a FOREIGN KEY (order_id) REFERENCES shop."order" ON DELETE CASCADE`, 0},
		"another table":      {another + "ALTER TABLE shop.line ADD CONSTRAINT a FOREIGN KEY (order_id) REFERENCES shop.basket", 1},
		"a table not synced": {"CREATE TABLE shop.known (id text PRIMARY KEY); INSERT INTO shop.known VALUES ('o1'), ('o2'); ALTER TABLE shop.line ADD CONSTRAINT a FOREIGN KEY (order_id) REFERENCES shop.known", 1},
		"none is left":       {"ALTER TABLE shop.line DROP CONSTRAINT line_order_id_fkey", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := registered(t, shop)
			exec(t, conn, c.alter)
			require.Len(t, column[string](t, conn, "SELECT problem FROM sync.check()"), c.problems)
			// Another column makes the code afresh, so that it looks for the parent.
			exec(t, conn, "ALTER TABLE shop.line ADD COLUMN title text")
			if name != "none is left" {
				exec(t, conn, "UPDATE shop.line SET n = 1, title = 'x'")
				requireSound(t, conn)
				require.Empty(t, column[string](t, conn, "SELECT difference FROM sync.scope_ids() AS s(id) CROSS JOIN LATERAL sync.verify(s.id)"))
			}
			exec(t, conn, "SELECT sync.repair('1')")
			remedied(t, conn)
			exec(t, conn, `UPDATE shop.line SET n = 2; UPDATE shop."order" SET "user" = 3 - "user"`)
			requireSound(t, conn)
		})
	}
	conn := registered(t, `CREATE TABLE p (id text PRIMARY KEY, owner text NOT NULL); CREATE TABLE c (id text PRIMARY KEY, p text NOT NULL REFERENCES p REFERENCES p); CREATE TABLE q (id text PRIMARY KEY)`)
	exec(t, conn, "SELECT sync.register_table('p', scope => 'owner', policy => 'capture'), sync.register_table('c', scope_via => 'p', policy => 'capture')")
	exec(t, conn, "INSERT INTO p VALUES ('p1', '1'); INSERT INTO c VALUES ('c1', 'p1'); SELECT sync.unregister_table('c')")
	exec(t, conn, "ALTER TABLE c ADD CONSTRAINT later FOREIGN KEY (p) REFERENCES q NOT VALID")
	exec(t, conn, refused(t, conn, "SELECT sync.register_table('c', scope_via => 'p')").Hint)
	exec(t, conn, "SELECT sync.register_table('c', scope_via => 'p')")
}

// TestNamesThatOtherTablesHad: tables that swap their names are refreshed, and a table that takes the name of a renamed one is told of it.
func TestNamesThatOtherTablesHad(t *testing.T) {
	t.Parallel()
	conn := registered(t, shop)
	exec(t, conn, `ALTER TABLE shop.line RENAME TO x; ALTER TABLE shop.note RENAME TO line; ALTER TABLE shop."order" RENAME TO note; ALTER TABLE shop.x RENAME TO "order"`)
	remedied(t, conn)
	exec(t, conn, `UPDATE shop."order" SET n = 1; UPDATE shop.note SET "user" = 3 - "user"; UPDATE shop.line SET owner = 3 - owner`)
	requireSound(t, conn)
	require.Equal(t, []string{"line", "note", "order"}, column[string](t, conn, "SELECT table_name::text FROM sync.tables ORDER BY 1"))
	exec(t, conn, "ALTER TABLE shop.line RENAME TO old_line; CREATE TABLE shop.line (LIKE shop.old_line INCLUDING ALL)")
	const register = "SELECT sync.register_table('shop.line', scope => 'owner', policy => 'capture')"
	exec(t, conn, value[string](t, conn, "SELECT remedy FROM sync.registration_problems('shop.line', 'id', 'owner', NULL)"))
	exec(t, conn, register)
	exec(t, conn, "ALTER TABLE shop.line RENAME TO older; CREATE TABLE shop.line (LIKE shop.older INCLUDING ALL)")
	exec(t, conn, refused(t, conn, register).Hint)
	exec(t, conn, register)
	exec(t, conn, "INSERT INTO shop.line VALUES ('n1', 1); INSERT INTO shop.older VALUES ('n1', 1); UPDATE shop.old_line SET owner = 3 - owner")
	requireSound(t, conn)
	require.Empty(t, column[string](t, conn, "SELECT problem FROM sync.check()"))
}

// TestColumnsRenamedBeforeADump: a restored dump knows a column by its name alone, so one that was renamed and not refreshed is gone. What check
// and each refusal say registers the table as it was, by what the table tells of its columns.
func TestColumnsRenamedBeforeADump(t *testing.T) {
	t.Parallel()
	for alter, c := range map[string]struct{ remedy, write string }{
		"ALTER TABLE shop.note RENAME id TO nr":                                                        {"sync_key => 'nr', scope => 'owner'", "UPDATE shop.note SET owner = 3 - owner"},
		"ALTER TABLE shop.note RENAME owner TO whose":                                                  {"sync_key => 'id', scope => 'whose'", "UPDATE shop.note SET whose = 3 - whose"},
		"ALTER TABLE shop.line RENAME order_id TO upper":                                               {"sync_key => 'id', scope_via => 'upper', on_scope_change => 'move'", "UPDATE shop.line SET n = 1"},
		`ALTER TABLE shop."order" RENAME id TO "end"; ALTER TABLE shop."order" RENAME "user" TO "all"`: {"sync_key => 'end', scope => 'all', policy => 'capture', external_references => '{shop.product}'", `UPDATE shop."order" SET product = NULL`},
		"ALTER TABLE shop.note RENAME owner TO whose; ALTER TABLE shop.note ALTER whose SET DEFAULT 1": {"sync_key => 'id', scope => '...'", "INSERT INTO shop.note VALUES ('n3', 1)"},
	} {
		t.Run(alter, func(t *testing.T) {
			t.Parallel()
			conn := registered(t, shop)
			exec(t, conn, alter+"; UPDATE sync.table_catalog SET relation_oid = 0")
			remedy := value[string](t, conn, "SELECT DISTINCT remedy FROM sync.check() WHERE severity = 'error'")
			require.Contains(t, remedy, c.remedy)
			refusal := refused(t, conn, c.write)
			require.Equal(t, []string{"OV030", remedy}, []string{refusal.Code, refusal.Hint})
			table := value[string](t, conn, "SELECT DISTINCT object FROM sync.check() WHERE severity = 'error'")
			require.Equal(t, remedy, refused(t, conn, "SELECT sync.refresh_table($1::text::regclass)", table).Hint)
			exec(t, conn, strings.ReplaceAll(remedy, "'...'", "'whose'"))
			remedied(t, conn)
			exec(t, conn, c.write)
			requireSound(t, conn)
			require.Empty(t, column[string](t, conn, "SELECT difference FROM sync.scope_ids() AS s(id) CROSS JOIN LATERAL sync.verify(s.id)"))
			exec(t, conn, "SELECT sync.unregister_table(relation) FROM sync.table_catalog WHERE unregistered_at IS NULL")
			require.Empty(t, column[string](t, conn, "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE pg_get_expr(adbin, adrelid) LIKE '%scope_in_bundle%'"), "nothing is left of it")
		})
	}
}

// TestTheKeyThatRegistrationFinds: what is wrong with a table is said of the key that registration would take, and a column that was
// renamed is no other registration.
func TestTheKeyThatRegistrationFinds(t *testing.T) {
	t.Parallel()
	conn := registered(t, "CREATE TABLE n (owner text, id uuid, PRIMARY KEY (owner, id)); CREATE TABLE m (a int, b int, owner text NOT NULL, PRIMARY KEY (a, b)); CREATE TABLE v (id varchar PRIMARY KEY, owner text)")
	problems := func(table string) []string {
		return column[string](t, conn, "SELECT problem || ' => ' || remedy FROM sync.registration_problems($1::text::regclass, NULL, 'owner', NULL)", table)
	}
	require.Empty(t, problems("n"))
	require.Equal(t, []string{"the primary key of public.m does not name one key column beside the scope => Name the key column: sync_key => '...'."}, problems("m"))
	require.Equal(t, []string{"key column id of public.v has type character varying => ALTER TABLE public.v ALTER COLUMN id TYPE text;", "column owner of public.v may be null => ALTER TABLE public.v ALTER COLUMN owner SET NOT NULL;"}, problems("v"))
	exec(t, conn, "SELECT sync.register_table('n', scope => 'owner'); ALTER TABLE n RENAME id TO nr; ALTER TABLE n RENAME owner TO whose")
	const again = "SELECT sync.register_table('n', scope => 'whose')"
	require.Equal(t, "SELECT sync.refresh_table('public.n'); -- its columns were renamed since", refused(t, conn, again).Hint)
	exec(t, conn, "SELECT sync.refresh_table('public.n')")
	exec(t, conn, again)
}

// TestAPartitionIsRegisteredByItsRoot: who names a partition is told of the table to name.
func TestAPartitionIsRegisteredByItsRoot(t *testing.T) {
	t.Parallel()
	conn := registered(t, `CREATE TABLE root (id text NOT NULL, owner int NOT NULL, PRIMARY KEY (owner, id)) PARTITION BY LIST (owner);
		CREATE TABLE part PARTITION OF root FOR VALUES IN (1, 2) PARTITION BY LIST (owner); CREATE TABLE leaf PARTITION OF part FOR VALUES IN (1)`)
	calls := []string{"SELECT sync.refresh_table('leaf')", "SELECT sync.set_policy('leaf', 'capture')", "CALL sync.adopt_table('leaf')", "SELECT sync.register_table('leaf', scope => 'owner')"}
	for i, hint := range []string{
		"SELECT sync.register_table('public.root');", "SELECT sync.register_table('public.root', policy => 'capture');", "SELECT sync.register_table('public.root');",
		"Register its parent: SELECT sync.register_table('public.root');",
	} {
		require.Equal(t, hint, refused(t, conn, calls[i]).Hint)
	}
	exec(t, conn, "SELECT sync.register_table('root', scope => 'owner')")
	for _, call := range calls {
		exec(t, conn, refused(t, conn, call).Hint)
	}
	exec(t, conn, "INSERT INTO leaf VALUES ('a', 1)")
	requireSound(t, conn)
	require.Equal(t, "(null) is not registered", refused(t, conn, "SELECT sync.refresh_table(NULL)").Message)
}

// TestTablesThatFindTheirScopeThroughEachOther: where an ALTER TABLE lets a foreign key lead in a circle, writes are refused, verify and repair end, and
// what check says takes the tables out.
func TestTablesThatFindTheirScopeThroughEachOther(t *testing.T) {
	t.Parallel()
	conn := registered(t, shop)
	exec(t, conn, `CREATE TABLE shop.part (id text PRIMARY KEY, line uuid NOT NULL REFERENCES shop.line DEFERRABLE); CREATE TABLE shop.screw (id text PRIMARY KEY, part text NOT NULL REFERENCES shop.part);
		SELECT sync.register_table('shop.part', scope_via => 'line', policy => 'capture'), sync.register_table('shop.screw', scope_via => 'part', policy => 'capture');
		INSERT INTO shop.part SELECT order_id, id FROM shop.line; INSERT INTO shop.screw SELECT id, id FROM shop.part`)
	exec(t, conn, "ALTER TABLE shop.line DROP CONSTRAINT line_order_id_fkey, ADD FOREIGN KEY (order_id) REFERENCES shop.part DEFERRABLE INITIALLY DEFERRED")
	exec(t, conn, "SET statement_timeout = '20s'")
	require.ElementsMatch(t, []string{"the scope of shop.line is found through itself", "the scope of shop.part is found through itself", "the scope of shop.screw is found through itself"},
		column[string](t, conn, "SELECT problem FROM sync.check() WHERE problem LIKE '%through itself'"))
	require.ElementsMatch(t, []string{"line", "part", "screw"}, column[string](t, conn, "SELECT table_name FROM sync.verify('1') WHERE difference LIKE 'cannot be compared: %'"))
	require.Zero(t, value[int](t, conn, "SELECT sync.repair('1')"))
	require.Equal(t, "OV030", refused(t, conn, "UPDATE shop.screw SET id = 'x' WHERE id = 'o1'").Code)
	for _, sql := range []string{"UPDATE shop.line SET n = 1", "SELECT sync.refresh_table('shop.line')"} {
		require.Equal(t, "OV030", refused(t, conn, sql).Code)
	}
	exec(t, conn, column[string](t, conn, "SELECT remedy FROM sync.check() WHERE problem LIKE '%through itself'")[0])
	remedied(t, conn)
	requireSound(t, conn)
}

// TestAdoptionWaitsForTheParent: rows whose parent cannot be found are not taken for rows that need not enter the log, nor for rows that are gone.
func TestAdoptionWaitsForTheParent(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]string{
		"registered": "SELECT sync.unregister_table('shop.line'), sync.register_table('shop.line', scope_via => 'order_id', policy => 'capture', adopt => 'later')",
		"refreshed":  "ALTER TABLE shop.line ADD title text; SELECT sync.refresh_table('shop.line', adopt => 'later')",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := registered(t, shop)
			exec(t, conn, start)
			exec(t, conn, "ALTER TABLE shop.line DROP CONSTRAINT line_order_id_fkey")
			require.Equal(t, "OV030", refused(t, conn, "CALL sync.adopt_table('shop.line')").Code)
			require.Equal(t, "OV030", refused(t, conn, "SELECT sync.adopt_batch(table_id) FROM sync.table_catalog WHERE table_name = 'line' AND unregistered_at IS NULL").Code)
			remedied(t, conn)
			requireSound(t, conn)
			require.Empty(t, column[string](t, conn, "SELECT difference FROM sync.scope_ids() AS s(id) CROSS JOIN LATERAL sync.verify(s.id)"))
		})
	}
}

// TestATableThatBecomesAPartition: as one does who divides a table that has grown.
func TestATableThatBecomesAPartition(t *testing.T) {
	t.Parallel()
	const attach = "ALTER TABLE whole ATTACH PARTITION part DEFAULT; INSERT INTO part VALUES ('b', 1); INSERT INTO whole (owner, id) VALUES (1, 'c');"
	for name, alter := range map[string]string{
		"of one that is registered":  "SELECT sync.register_table('whole', scope => 'owner', policy => 'capture');" + attach,
		"of one that is not":         attach,
		"of one that takes its name": attach + "ALTER TABLE part RENAME TO part_1; ALTER TABLE whole RENAME TO part",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := registered(t, `CREATE TABLE part (id text NOT NULL, owner int NOT NULL, PRIMARY KEY (owner, id));
				CREATE TABLE whole (owner int NOT NULL, id text NOT NULL, PRIMARY KEY (owner, id)) PARTITION BY LIST (owner)`)
			exec(t, conn, "SELECT sync.register_table('part', scope => 'owner', policy => 'capture'); INSERT INTO part VALUES ('a', 1)")
			exec(t, conn, alter)
			remedied(t, conn)
			require.Equal(t, 1, value[int](t, conn, "SELECT count(*) FROM sync.tables"))
			require.Equal(t, 3, value[int](t, conn, "SELECT live_rows FROM sync.scopes"))
			exec(t, conn, "UPDATE "+value[string](t, conn, "SELECT table_name FROM sync.tables")+" SET id = id || 'x'")
			requireSound(t, conn)
			require.Empty(t, column[string](t, conn, "SELECT difference FROM sync.verify('1')"))
		})
	}
	conn := registered(t, `CREATE TABLE part (id text NOT NULL, owner int NOT NULL, PRIMARY KEY (owner, id)); SELECT sync.register_table('part', scope => 'owner');
		CREATE TABLE whole (LIKE part INCLUDING ALL) PARTITION BY LIST (owner); ALTER TABLE whole ATTACH PARTITION part DEFAULT`)
	exec(t, conn, refused(t, conn, "SELECT sync.register_table('whole', scope => 'owner')").Hint)
	exec(t, conn, "SELECT sync.register_table('whole', scope => 'owner')")
	require.Empty(t, column[string](t, conn, "SELECT problem FROM sync.check()"))
}

// TestAnUnloggedPartition would be empty after a crash, and no client learn of it.
func TestAnUnloggedPartition(t *testing.T) {
	t.Parallel()
	conn := registered(t, `CREATE TABLE whole (id text NOT NULL, owner int NOT NULL, PRIMARY KEY (owner, id)) PARTITION BY LIST (owner); CREATE UNLOGGED TABLE "Part" PARTITION OF whole FOR VALUES IN (1)`)
	refusal := refused(t, conn, "SELECT sync.register_table('whole', scope => 'owner')")
	require.Equal(t, `public."Part", a part of public.whole, is unlogged`, refusal.Message)
	exec(t, conn, refusal.Hint)
	exec(t, conn, "SELECT sync.register_table('whole', scope => 'owner'); CREATE UNLOGGED TABLE part_2 PARTITION OF whole FOR VALUES IN (2)")
	remedied(t, conn)
	require.Zero(t, value[int](t, conn, "SELECT count(*) FROM pg_class WHERE relpersistence = 'u' AND relkind = 'r' AND relnamespace = 'public'::regnamespace"))
}

// TestADetachedPartitionIsRegisteredByItself once its rows are gone from the clients of the table of which it was a part.
func TestADetachedPartitionIsRegisteredByItself(t *testing.T) {
	t.Parallel()
	conn := registered(t, `CREATE TABLE whole (id text NOT NULL, owner int NOT NULL, PRIMARY KEY (owner, id)) PARTITION BY LIST (owner); CREATE TABLE part PARTITION OF whole DEFAULT;
		SELECT sync.register_table('whole', scope => 'owner', policy => 'capture'); INSERT INTO whole VALUES ('a', 1); ALTER TABLE whole DETACH PARTITION part`)
	const register = "SELECT sync.register_table('part', scope => 'owner', policy => 'capture')"
	refusal := refused(t, conn, register)
	require.Equal(t, "public.part was detached from public.whole, whose clients still have its rows", refusal.Message)
	exec(t, conn, refusal.Hint)
	exec(t, conn, register)
	exec(t, conn, "INSERT INTO part VALUES ('b', 1)")
	requireSound(t, conn)
	require.Empty(t, column[string](t, conn, "SELECT problem FROM sync.check() UNION ALL SELECT difference FROM sync.verify('1')"))
}

// TestAScopeColumnOfAnotherType: scopes that the column cannot hold any more keep no row, and are in nobody's way.
func TestAScopeColumnOfAnotherType(t *testing.T) {
	t.Parallel()
	for name, scopes := range map[string][]string{
		"integer": {"7", "-2147483648"}, "bigint": {"0", "9223372036854775807"}, "uuid": {"00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000b"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := registered(t, `
				CREATE TABLE top (id text PRIMARY KEY, owner text NOT NULL); CREATE TABLE note (owner text NOT NULL, id text NOT NULL, top text REFERENCES top, PRIMARY KEY (owner, id));
				SELECT sync.register_table('top', scope => 'owner', policy => 'capture'), sync.register_table('note', sync_key => 'id', scope => 'owner', policy => 'capture')`)
			old := []string{"ann", "99999999999", "9223372036854775808", scopes[0]}
			for _, scope := range old {
				exec(t, conn, "INSERT INTO top SELECT $1, $1", scope)
				exec(t, conn, "INSERT INTO note SELECT $1, $1, $1", scope)
			}
			for _, table := range []string{"top", "note"} {
				exec(t, conn, "ALTER TABLE "+table+" ALTER owner DROP DEFAULT")
				exec(t, conn, "ALTER TABLE "+table+" ALTER owner TYPE "+name+" USING '"+scopes[1]+"'::"+name)
			}
			remedied(t, conn)
			exec(t, conn, "UPDATE note SET id = id || 'x'")
			requireSound(t, conn)
			for _, scope := range append(old, scopes[1]) {
				require.Empty(t, column[string](t, conn, "SELECT difference FROM sync.verify($1)", scope))
			}
			require.Equal(t, []string{scopes[1]}, column[string](t, conn, "SELECT user_id FROM sync.scopes WHERE live_rows > 0"))
		})
	}
}

// TestTheForeignKeyThatIsMissing is made anew to the column that there is: the primary key of the parent may have two.
func TestTheForeignKeyThatIsMissing(t *testing.T) {
	t.Parallel()
	conn := registered(t, `CREATE TABLE par (owner text NOT NULL, nr text NOT NULL UNIQUE, id text NOT NULL UNIQUE, PRIMARY KEY (owner, id)); CREATE TABLE chi (id text PRIMARY KEY, par text NOT NULL REFERENCES par (id));
		SELECT sync.register_table('par', sync_key => 'id', scope => 'owner', policy => 'capture'), sync.register_table('chi', scope_via => 'par', policy => 'capture')`)
	exec(t, conn, "INSERT INTO par VALUES ('ann', '1', 'p'); INSERT INTO chi VALUES ('c', 'p'); ALTER TABLE chi DROP CONSTRAINT chi_par_fkey")
	require.Equal(t, []string{"ALTER TABLE public.chi ADD FOREIGN KEY (par) REFERENCES public.par (id) DEFERRABLE INITIALLY DEFERRED;"}, column[string](t, conn, "SELECT remedy FROM sync.check()"))
	remedied(t, conn)
	exec(t, conn, "UPDATE chi SET id = 'd'")
	requireSound(t, conn)
}
