package migrations_test

import (
	"fmt"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
)

// TestScopeColumns: each type of scope column, hidden or shown, written by plain SQL, in a bundle and by a push.
func TestScopeColumns(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ columnType, one, two, other string }{
		{"text", "ann", "Ännchen's", "no"},
		{"varchar", "ann", "ben", "no"},
		{"varchar(60)", "ann", "ben", "no"},
		{"uuid", list1, list2, "not-a-uuid"},
		{"integer", "1", "-2", "3000000000"},
		{"bigint", "1", "3000000000", "one"},
	} {
		for _, isShown := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s shown %t", c.columnType, isShown), func(t *testing.T) {
				t.Parallel()
				conn := connect(t, pgtest.NewDatabase(t))
				exec(t, conn, "CREATE TABLE public.thing (id text PRIMARY KEY, owner "+c.columnType+" NOT NULL, body text)")
				exec(t, conn, "INSERT INTO public.thing VALUES ('old', $1, 'old')", c.two)
				exec(t, conn, "SELECT sync.register_table('public.thing', scope => 'owner', show_scope => $1, policy => 'capture')", isShown)
				exec(t, conn, "INSERT INTO public.thing VALUES ('a', $1, 'x'), ('b', $2, 'y')", c.one, c.two)
				require.Equal(t, []string{"I thing c"}, brief(writeBundle(t, conn, c.one, "INSERT INTO public.thing (id) VALUES ('c')")))
				require.Equal(t, []string{"D thing b"}, brief(writeBundle(t, conn, c.two, "DELETE FROM public.thing WHERE id = 'b'")))
				require.Nil(t, push(t, conn, c.one, "phone", stagedRow{"public.thing", "I", 0, "d", `{"id":"d","body":"pushed"}`}, stagedRow{"public.thing", "D", 2, "c", ""}))
				require.Equal(t, []string{"I thing d", "D thing c"}, newest(t, conn, c.one))
				require.Equal(t, c.one, value[string](t, conn, "SELECT owner::text FROM public.thing WHERE id = 'd'"))
				payload := value[map[string]any](t, conn, "SELECT payload::json FROM sync.bundle_rows WHERE op = 'I' AND key_bytes = 'd'")
				require.Equal(t, isShown, payload["owner"] != nil)
				// The row of another scope is not there for a push, whatever it claims to know.
				require.Equal(t, "OV013", push(t, conn, c.one, "phone", stagedRow{"public.thing", "U", 1, "old", `{"body":"stolen"}`}).Code)
				require.Equal(t, pgerrcode.UniqueViolation, push(t, conn, c.one, "phone", stagedRow{"public.thing", "I", 0, "old", `{"id":"old"}`}).Code)
				// What a push says about the scope column counts for nothing.
				require.Nil(t, push(t, conn, c.one, "phone", stagedRow{"public.thing", "U", version(t, conn, c.one, "public.thing", "d"), "d", fmt.Sprintf(`{"body":"again","owner":%q}`, c.two)}))
				require.Equal(t, c.one, value[string](t, conn, "SELECT owner::text FROM public.thing WHERE id = 'd'"))
				requireSound(t, conn)
			})
		}
	}
}

// TestPushThroughParents: rows that find their scope three parents up are pushed, and never into another scope.
func TestPushThroughParents(t *testing.T) {
	t.Parallel()
	conn := newOffice(t, "refuse")
	exec(t, conn, officeRows)
	exec(t, conn, "CREATE TABLE office.remark (id text PRIMARY KEY, step_id uuid NOT NULL REFERENCES office.step ON DELETE CASCADE, body text); SELECT sync.register_table('office.remark', scope_via => 'step_id', policy => 'capture')")
	const newList, newStep = "20000000-0000-0000-0000-000000000001", "20000000-0000-0000-0000-000000000002"
	// Children first: the push is applied parents first.
	require.Nil(t, push(t, conn, "1", "phone",
		stagedRow{"office.remark", "I", 0, "r1", `{"id":"r1","step_id":"` + newStep + `","body":"new"}`},
		stagedRow{"office.remark", "I", 0, "r2", `{"id":"r2","step_id":"` + step1 + `"}`},
		stagedRow{"office.step", "I", 0, newStep, `{"id":"` + newStep + `","task_id":"t9"}`},
		stagedRow{"office.task", "I", 0, "t9", `{"id":"t9","list_id":"` + newList + `","label_id":"red"}`},
		stagedRow{"office.list", "I", 0, newList, `{"id":"` + newList + `"}`}))
	require.Equal(t, []string{"I remark r1", "I remark r2", "I step " + newStep, "I task t9", "I list " + newList}, newest(t, conn, "1"))
	v := func(table, key string) int64 { return version(t, conn, "1", table, key) }
	require.Nil(t, push(t, conn, "1", "phone",
		stagedRow{"office.remark", "U", v("office.remark", "r1"), "r1", `{"step_id":"` + step1 + `"}`},
		stagedRow{"office.step", "U", v("office.step", newStep), newStep, `{"body":"x","task_id":"t2"}`},
		stagedRow{"office.task", "D", v("office.task", "t9"), "t9", ""}))
	require.ElementsMatch(t, []string{"U remark r1", "U step " + newStep, "D task t9"}, newest(t, conn, "1"))
	require.Nil(t, push(t, conn, "1", "phone", stagedRow{"office.task", "D", v("office.task", "t1"), "t1", ""}))
	require.ElementsMatch(t, []string{"D task t1", "D step " + step1, "D remark r1", "D remark r2"}, newest(t, conn, "1"), "with what cascades")
	requireSound(t, conn)

	before := bundleCounts(t, conn)
	for name, c := range map[string]struct {
		rows []stagedRow
		code []string
	}{
		"a child made under another scope's parent":    {[]stagedRow{{"office.task", "I", 0, "x", `{"id":"x","list_id":"` + list3 + `"}`}}, []string{"OV032", "OV033"}},
		"a child moved to another scope's parent":      {[]stagedRow{{"office.task", "U", v("office.task", "t2"), "t2", `{"list_id":"` + list3 + `"}`}}, []string{"OV034"}},
		"a grandchild moved to another scope's parent": {[]stagedRow{{"office.step", "U", v("office.step", newStep), newStep, `{"task_id":"t3"}`}}, []string{"OV032", "OV033"}},
		"a reference to another scope's row":           {[]stagedRow{{"office.task", "U", v("office.task", "t2"), "t2", `{"label_id":"blue"}`}}, []string{"OV033"}},
		"a new row with a reference to another scope":  {[]stagedRow{{"office.task", "I", 0, "x", `{"id":"x","list_id":"` + list1 + `","label_id":"blue"}`}, {"office.label", "I", 0, "mine", `{"id":"mine"}`}}, []string{"OV033"}},
		"another scope's row updated":                  {[]stagedRow{{"office.task", "U", 1, "t3", `{"title":"x"}`}}, []string{"OV013"}},
		"another scope's row deleted":                  {[]stagedRow{{"office.task", "D", 1, "t3", ""}}, []string{"OV013"}},
		"another scope's row made again":               {[]stagedRow{{"office.task", "I", 0, "t3", `{"id":"t3","list_id":"` + list1 + `"}`}}, []string{pgerrcode.UniqueViolation}},
		"a parent that is not there":                   {[]stagedRow{{"office.task", "I", 0, "x", `{"id":"x","list_id":"` + step1 + `"}`}}, []string{pgerrcode.ForeignKeyViolation}},
	} {
		refusal := push(t, conn, "1", "phone", c.rows...)
		require.NotNil(t, refusal, name)
		require.Contains(t, c.code, refusal.Code, "%s: %s", name, refusal.Message)
		exec(t, conn, "DELETE FROM sync.push_sessions; DELETE FROM sync.push_chunks")
	}
	require.Equal(t, before, bundleCounts(t, conn))
	// And by a server that writes in a scope.
	for sql, codes := range map[string][]string{
		"UPDATE office.task SET title = 'x'":                                                {"OV032"},
		"UPDATE office.task SET list_id = '" + list1 + "', label_id = NULL WHERE id = 't3'": {"OV032"},
		"DELETE FROM office.list WHERE owner_id = 2":                                        {"OV032"},
		"UPDATE office.task SET label_id = 'blue' WHERE id = 't2'":                          {"OV033"},
		"INSERT INTO office.task (id, list_id) VALUES ('x', '" + list3 + "')":               {"OV032"},
		"UPDATE office.list SET owner_id = 2 WHERE id = '" + list2 + "'":                    {"OV032"},
	} {
		exec(t, conn, "BEGIN; SELECT sync.bundle_open('1', 'test', NULL, false)")
		_, err := conn.Exec(t.Context(), sql)
		if err == nil {
			_, err = conn.Exec(t.Context(), "SELECT sync.bundle_emit()")
		}
		var refusal *pgconn.PgError
		require.ErrorAs(t, err, &refusal, sql)
		require.Contains(t, codes, refusal.Code, "%s: %s", sql, refusal.Message)
		exec(t, conn, "ROLLBACK")
	}
	requireSound(t, conn)
}

// TestForeignKeysAsTheyAre: deferrable or not, with or without the scope, to tables that stay outside.
func TestForeignKeysAsTheyAre(t *testing.T) {
	t.Parallel()
	t.Run("not deferrable, parents first", func(t *testing.T) {
		t.Parallel()
		conn := connect(t, pgtest.NewDatabase(t))
		exec(t, conn, `CREATE TABLE public.a (id text PRIMARY KEY, o text NOT NULL, up text REFERENCES public.a); CREATE TABLE public.b (id text PRIMARY KEY, o text NOT NULL, a text REFERENCES public.a);
			CREATE UNIQUE INDEX ON public.a (o, up) WHERE up IS NOT NULL; CREATE UNIQUE INDEX ON public.b (lower(id)); CREATE UNIQUE INDEX ON public.b (a)`)
		inTx(t, conn, func() {
			exec(t, conn, "SELECT sync.register_table('public.b', scope => 'o'); SELECT sync.register_table('public.a', scope => 'o')")
		})
		require.Nil(t, push(t, initialized(t, conn, "u"), "u", "phone", stagedRow{"public.b", "I", 0, "b1", `{"id":"b1","a":"a2"}`}, stagedRow{"public.a", "I", 0, "a2", `{"id":"a2","up":"a1"}`}, stagedRow{"public.a", "I", 0, "a1", `{"id":"a1"}`}))
		require.Nil(t, push(t, conn, "u", "phone", stagedRow{"public.a", "D", 1, "a1", ""}, stagedRow{"public.a", "D", 1, "a2", ""}, stagedRow{"public.b", "D", 1, "b1", ""}))
		require.Equal(t, []string{"D a a1", "D a a2", "D b b1"}, newest(t, conn, "u"))
		require.Nil(t, push(t, conn, "u", "phone", stagedRow{"public.b", "I", 2, "b1", `{"id":"b1"}`}))
		require.Equal(t, pgerrcode.UniqueViolation, push(t, conn, "u", "phone", stagedRow{"public.b", "I", 0, "B1", `{"id":"B1"}`}).Code)
		requireSound(t, conn)
	})
	t.Run("not deferrable, in a cycle", func(t *testing.T) {
		t.Parallel()
		conn := connect(t, pgtest.NewDatabase(t))
		exec(t, conn, `CREATE TABLE public.a (id text PRIMARY KEY, o text NOT NULL, b text); CREATE TABLE public.b (id text PRIMARY KEY, o text NOT NULL, a text REFERENCES public.a);
			ALTER TABLE public.a ADD FOREIGN KEY (b) REFERENCES public.b`)
		const register = "BEGIN; SELECT sync.register_table('public.b', scope => 'o'); SELECT sync.register_table('public.a', scope => 'o'); COMMIT"
		for range 2 {
			refusal := refused(t, conn, register)
			require.Equal(t, "OV030", refusal.Code)
			require.Contains(t, refusal.Message, "is not deferrable, and its tables refer to each other in a cycle")
			exec(t, conn, refusal.Hint)
		}
		exec(t, conn, register)
		require.Nil(t, push(t, initialized(t, conn, "u"), "u", "phone", stagedRow{"public.b", "I", 0, "b1", `{"id":"b1","a":"a1"}`}, stagedRow{"public.a", "I", 0, "a1", `{"id":"a1","b":"b1"}`}))
		requireSound(t, conn)
	})
	t.Run("to tables outside", func(t *testing.T) {
		t.Parallel()
		conn := connect(t, pgtest.NewDatabase(t))
		exec(t, conn, `CREATE TABLE public.country (id text PRIMARY KEY); INSERT INTO public.country VALUES ('de');
			CREATE TABLE public.a (id text PRIMARY KEY, o text NOT NULL, country text CONSTRAINT lives_in REFERENCES public.country ON UPDATE CASCADE ON DELETE SET NULL)`)
		refusal := refused(t, conn, "SELECT sync.register_table('public.a', scope => 'o', policy => 'capture')")
		require.Equal(t, "OV030", refusal.Code)
		require.Contains(t, refusal.Hint, "external_references => '{lives_in}'")
		for _, name := range []string{"lives_in", "public.country"} {
			exec(t, conn, "SELECT sync.register_table('public.a', scope => 'o', policy => 'capture', external_references => ARRAY[$1])", name)
			exec(t, conn, "INSERT INTO public.a VALUES ($1, 'u', 'de')", name)
			exec(t, conn, "UPDATE public.country SET id = 'at'")
			require.Contains(t, newest(t, conn, "u"), "U a "+name, "what comes from outside is captured")
			exec(t, conn, "UPDATE public.country SET id = 'de'")
			requireSound(t, conn)
			exec(t, conn, "SELECT sync.unregister_table('public.a')")
		}
	})
	t.Run("a chain that leads nowhere", func(t *testing.T) {
		t.Parallel()
		conn := connect(t, pgtest.NewDatabase(t))
		exec(t, conn, `CREATE TABLE public.a (id text PRIMARY KEY, b text NOT NULL); CREATE TABLE public.b (id text PRIMARY KEY, a text NOT NULL REFERENCES public.a DEFERRABLE);
			ALTER TABLE public.a ADD FOREIGN KEY (b) REFERENCES public.b DEFERRABLE`)
		exec(t, conn, "BEGIN; SELECT sync.register_table('public.a', scope_via => 'b'); SELECT sync.register_table('public.b', scope_via => 'a')")
		refusal := refused(t, conn, "COMMIT")
		require.Equal(t, "OV030", refusal.Code)
		require.Contains(t, refusal.Message, "is found through itself")
		require.Zero(t, value[int](t, conn, "SELECT count(*)::integer FROM sync.table_catalog"))
		require.Equal(t, "OV030", refused(t, conn, "SELECT sync.register_table('public.a', scope_via => 'b')").Code, "the parent is not registered")
		require.Equal(t, "OV030", refused(t, conn, "SELECT sync.register_table('public.a', scope_via => 'c')").Code)
	})
	t.Run("scopes that only a collation holds equal", func(t *testing.T) {
		t.Parallel()
		conn := connect(t, pgtest.NewDatabase(t))
		exec(t, conn, `CREATE COLLATION public.loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
			CREATE TABLE public.a (id text PRIMARY KEY, o text COLLATE public.loose NOT NULL)`)
		refusal := refused(t, conn, "SELECT sync.register_table('public.a', scope => 'o')")
		require.Contains(t, refusal.Message, "collation")
		exec(t, conn, refusal.Hint)
		exec(t, conn, "SELECT sync.register_table('public.a', scope => 'o')")
	})
}
