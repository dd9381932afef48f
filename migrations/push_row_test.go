package migrations_test

import (
	"context"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
)

// TestWhatFollowsAStatement: a push of one row does not note what it wrote where nothing but that can happen, so whatever can must be known.
func TestWhatFollowsAStatement(t *testing.T) {
	t.Parallel()
	const function = "CREATE FUNCTION public.hand() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; "
	const code = "CREATE FUNCTION public.code(integer) RETURNS integer LANGUAGE sql AS 'SELECT 1'; "
	for name, c := range map[string]struct{ ddl, alone string }{
		"nothing":                {"", "IUD"},
		"before a row":           {function + "CREATE TRIGGER hand BEFORE UPDATE ON public.note FOR EACH ROW EXECUTE FUNCTION public.hand()", "ID"},
		"after a row":            {function + "CREATE TRIGGER hand AFTER INSERT OR DELETE ON public.note FOR EACH ROW EXECUTE FUNCTION public.hand()", "U"},
		"after a statement":      {function + "CREATE TRIGGER hand AFTER INSERT ON public.note EXECUTE FUNCTION public.hand()", "UD"},
		"a deferred trigger":     {function + "CREATE CONSTRAINT TRIGGER hand AFTER DELETE ON public.note INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.hand()", "IU"},
		"a rule":                 {"CREATE RULE hand AS ON DELETE TO public.note DO ALSO NOTIFY gone", ""},
		"no equal texts":         {"CREATE COLLATION public.ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false); ALTER TABLE public.note ALTER COLUMN body TYPE text COLLATE public.ci", ""},
		"keys that only refuse":  {"CREATE TABLE public.child (u text, n text, FOREIGN KEY (u, n) REFERENCES public.note ON DELETE RESTRICT)", "IUD"},
		"keys that look later":   {"CREATE TABLE public.child (u text, n text, FOREIGN KEY (u, n) REFERENCES public.note DEFERRABLE)", "IUD"},
		"rows that go along":     {"CREATE TABLE public.child (u text, n text, FOREIGN KEY (u, n) REFERENCES public.note ON DELETE CASCADE)", "IU"},
		"rows that lose theirs":  {"CREATE TABLE public.child (u text, n text, FOREIGN KEY (u, n) REFERENCES public.note ON DELETE SET NULL (n) ON UPDATE CASCADE)", "I"},
		"a unique key, deferred": {"ALTER TABLE public.note ADD UNIQUE (_sync_scope_id, body) DEFERRABLE", "IUD"},
		"a default in C":         {"ALTER TABLE public.note ADD n uuid DEFAULT gen_random_uuid(), ADD at timestamptz DEFAULT now() CHECK (at > '1999-01-01')", "IUD"},
		"a default":              {code + "ALTER TABLE public.note ADD n integer DEFAULT public.code(1)", "D"},
		"a check":                {code + "ALTER TABLE public.note ADD CHECK (public.code(1) > 0)", "D"},
		"an operator":            {code + "CREATE OPERATOR public.! (rightarg = integer, function = public.code); ALTER TABLE public.note ADD n integer CHECK (operator(public.!) n > 0)", "D"},
		"a domain of a domain":   {code + "CREATE DOMAIN public.inner AS integer CHECK (public.code(VALUE) > 0); CREATE DOMAIN public.outer AS public.inner; ALTER TABLE public.note ADD n public.outer[]", "D"},
		"a part of a column":     {code + "CREATE DOMAIN public.d AS integer DEFAULT public.code(1); CREATE TYPE public.c AS (d public.d); ALTER TABLE public.note ADD n public.c", "D"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := registered(t, note, "public.note")
			exec(t, conn, c.ddl)
			require.Equal(t, c.alone, value[string](t, conn, `SELECT coalesce(string_agg(op::text, '' ORDER BY place), '')
				FROM unnest('{I,U,D}'::"char"[]) WITH ORDINALITY AS o(op, place) WHERE sync.nothing_follows('public.note'::regclass, o.op)`))
		})
	}
}

// TestARowPushedWithADefaultThatWrites: what the default of a column writes is part of the push of one row, in another table and in the same.
func TestARowPushedWithADefaultThatWrites(t *testing.T) {
	t.Parallel()
	conn := initialized(t, registered(t, note+"CREATE TABLE public.counter (LIKE public.note INCLUDING ALL)", "public.note", "public.counter"), "u")
	writeBundle(t, conn, "u", "INSERT INTO public.counter (id, body) VALUES ('c', '0')", "INSERT INTO public.note (id, body) VALUES ('last', '')")
	exec(t, conn, `CREATE FUNCTION public.count() RETURNS text LANGUAGE plpgsql AS $$
		BEGIN
			UPDATE public.counter SET body = body::integer + 1;
			UPDATE public.note SET body = 'older' WHERE id = 'last';
			RETURN 'x';
		END $$;
		ALTER TABLE public.note ALTER body SET DEFAULT public.count(); SELECT sync.refresh_table('public.note')`)
	require.Nil(t, push(t, conn, "u", "phone", stagedRow{"public.note", "I", 0, "a", `{"id":"a"}`}))
	require.ElementsMatch(t, []string{"I note a", "U counter c", "U note last"}, newest(t, conn, "u"))
	requireSound(t, conn)
}

// TestARowPushedAsHandsComeAndGo: a session that has pushed into a table notices that a trigger or a foreign key has its hand in it now.
func TestARowPushedAsHandsComeAndGo(t *testing.T) {
	t.Parallel()
	url := pgtest.NewDatabase(t)
	conn, dba := connect(t, url), connect(t, url)
	exec(t, dba, note+"CREATE TABLE public.child (_sync_scope_id text NOT NULL, id text NOT NULL, note_id text, PRIMARY KEY (_sync_scope_id, id))")
	exec(t, dba, "SELECT sync.register_table('public.note'), sync.register_table('public.child')")
	initialized(t, conn, "u")
	pushed := func(op, key, payload string) []string {
		t.Helper()
		require.Nil(t, push(t, conn, "u", "phone", stagedRow{"public.note", op, version(t, conn, "u", "public.note", key), key, payload}))
		requireSound(t, conn)
		return newest(t, conn, "u")
	}
	for _, key := range []string{"a", "b", "c", "d"} {
		require.Equal(t, []string{"I note " + key}, pushed("I", key, `{"id":"`+key+`"}`))
	}
	require.Equal(t, []string{"U note a"}, pushed("U", "a", `{"body":"x"}`))
	require.Equal(t, []string{"D note d"}, pushed("D", "d", ""))

	exec(t, dba, `CREATE FUNCTION public.hand() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			UPDATE public.note SET body = 'touched' WHERE id = NEW.id; INSERT INTO public.child (id, note_id) VALUES (NEW.id, NEW.id); RETURN NULL; END $$;
		CREATE TRIGGER hand AFTER INSERT ON public.note FOR EACH ROW EXECUTE FUNCTION public.hand()`)
	require.Equal(t, []string{"I note d", "I child d"}, pushed("I", "d", `{"id":"d"}`))
	require.Equal(t, []string{"U note b"}, pushed("U", "b", `{"body":"y"}`))
	require.Zero(t, value[int](t, conn, "SELECT count(*) FROM sync.push_chunks"), "what a push needed to be put in order is gone")

	exec(t, dba, "DROP TRIGGER hand ON public.note; ALTER TABLE public.child ADD FOREIGN KEY (_sync_scope_id, note_id) REFERENCES public.note ON DELETE CASCADE DEFERRABLE")
	require.Equal(t, []string{"D note d", "D child d"}, pushed("D", "d", ""))
	require.Equal(t, []string{"I note d"}, pushed("I", "d", `{"id":"d"}`))
}

// TestAScopeInAnotherForm: where the scope column would take the scope's id for another's, no row of that one is read or written.
func TestAScopeInAnotherForm(t *testing.T) {
	t.Parallel()
	const id = "0f8fad5b-d9cb-469f-a165-70867728950e"
	for columnType, c := range map[string]struct{ other, mine string }{
		"integer":    {"7", "007"},
		"bigint":     {"7", "+7"},
		"uuid":       {id, "{" + id + "}"},
		"varchar(3)": {"ann", "anna"},
	} {
		t.Run(columnType, func(t *testing.T) {
			t.Parallel()
			conn := connect(t, pgtest.NewDatabase(t))
			exec(t, conn, "CREATE TABLE public.thing (id text PRIMARY KEY, owner "+columnType+" NOT NULL, body text)")
			exec(t, conn, "SELECT sync.register_table('public.thing', scope => 'owner', policy => 'capture')")
			exec(t, conn, "INSERT INTO public.thing VALUES ('a', $1, 'x')", c.other)
			initialized(t, conn, c.mine)
			// As if the log of that scope knew the row.
			exec(t, conn, "UPDATE sync.user_state SET next_bundle_seq = 2 WHERE user_id = $1", c.mine)
			exec(t, conn, `INSERT INTO sync.bundle_rows (user_pk, bundle_seq, row_ordinal, table_id, op, key_bytes, payload)
				SELECT u.user_pk, 1, 0, t.table_id, 'I', 'a', '{"id":"a"}' FROM sync.user_state u, sync.table_catalog t WHERE u.user_id = $1`, c.mine)
			for _, row := range []stagedRow{
				{"public.thing", "I", 0, "b", `{"id":"b"}`}, {"public.thing", "U", 1, "a", `{"body":"stolen"}`}, {"public.thing", "D", 1, "a", ""},
			} {
				refusal := push(t, conn, c.mine, "phone", row)
				require.NotNil(t, refusal, row.op)
				require.Contains(t, []string{"OV012", "OV032", pgerrcode.StringDataRightTruncationDataException}, refusal.Code, "%s: %s", row.op, refusal.Message)
			}
			require.Equal(t, []string{"a x"}, column[string](t, conn, "SELECT id || ' ' || body FROM public.thing"))
		})
	}
}

// TestStagedRowsAreShown: who looks at sync.staged_rows finds the rows of each push, however many it has.
func TestStagedRowsAreShown(t *testing.T) {
	t.Parallel()
	conn := initialized(t, registered(t, note, "public.note"), "u")
	staged := func() []string {
		return column[string](t, conn, "SELECT concat_ws(' ', row_ordinal, op, convert_from(key_bytes, 'UTF8'), base_row_version, payload) FROM sync.staged_rows ORDER BY key_bytes")
	}
	id := stage(t, conn, "u", "phone", stagedRow{"public.note", "I", 0, "a", `{"id":"a"}`})
	stage(t, conn, "u", "tablet", stagedRow{"public.note", "U", 1, "b", `{"body":"x"}`}, stagedRow{"public.note", "D", 2, "c", ""})
	require.Equal(t, []string{`0 I a 0 {"id":"a"}`, `0 U b 1 {"body":"x"}`, "1 D c 2"}, staged())
	// The session is begun again, for another number of rows.
	exec(t, conn, "SELECT sync.push_create('u', 'phone', 1, 2, NULL, '15min', '15min')")
	require.NotContains(t, staged(), `0 I a 0 {"id":"a"}`)
	require.Equal(t, "OV014", refused(t, conn, "SELECT sync.push_commit($1, 'u', 'phone', 0, '15min')", id).Code)
}

// TestAHandThatComesMeanwhile: a push that waited for the table while a trigger was made is put in order with what the trigger does.
func TestAHandThatComesMeanwhile(t *testing.T) {
	t.Parallel()
	for op, c := range map[string]struct {
		version int64
		payload string
	}{"I": {0, `{"id":"b"}`}, "U": {4, `{"body":"x"}`}, "D": {4, ""}} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			url := pgtest.NewDatabase(t)
			conn, dba, watcher := connect(t, url), connect(t, url), connect(t, url)
			exec(t, dba, note+"CREATE TABLE public.child (_sync_scope_id text NOT NULL, id text NOT NULL, PRIMARY KEY (_sync_scope_id, id))")
			exec(t, dba, "SELECT sync.register_table('public.note'), sync.register_table('public.child')")
			initialized(t, conn, "u")
			// The connection has run each kind of statement, and keeps its plan.
			before := []stagedRow{
				{"public.note", "I", 0, "a", `{"id":"a"}`}, {"public.note", "U", 1, "a", `{"body":"x"}`}, {"public.note", "D", 2, "a", ""}, {"public.note", "I", 0, "b", `{"id":"b"}`},
			}
			for _, row := range before[:3+min(c.version, 1)] {
				require.Nil(t, push(t, conn, "u", "phone", row))
			}
			id := stage(t, conn, "u", "phone", stagedRow{"public.note", op, c.version, "b", c.payload})
			exec(t, dba, `CREATE FUNCTION public.hand() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.child (id) VALUES ('c'); RETURN NULL; END $$`)
			exec(t, dba, "BEGIN; CREATE TRIGGER hand AFTER INSERT OR UPDATE OR DELETE ON public.note FOR EACH ROW EXECUTE FUNCTION public.hand()")
			pushed := make(chan error, 1)
			go func() { pushed <- commitPush(context.Background(), conn, id, "u", "phone") }()
			waitsForLock(t, watcher, conn.PgConn().PID())
			exec(t, dba, "COMMIT")
			require.NoError(t, <-pushed)
			require.Equal(t, []string{op + " note b", "I child c"}, newest(t, conn, "u"))
			requireSound(t, conn)
		})
	}
}

// TestAPushCallsNothingOfStrangers: a push runs as the server, under the search path of the application, in which somebody with less rights
// may put functions and operators that fit better than those of PostgreSQL.
func TestAPushCallsNothingOfStrangers(t *testing.T) {
	t.Parallel()
	conn := initialized(t, registered(t, ""), "u")
	exec(t, conn, `CREATE TABLE public.list (owner varchar NOT NULL, id text PRIMARY KEY, title text, data bytea);
		CREATE TABLE public.item (id text PRIMARY KEY, list_id varchar NOT NULL REFERENCES public.list, at date DEFAULT now());
		SELECT sync.register_table('public.list', scope => 'owner'), sync.register_table('public.item', scope_via => 'list_id');
		CREATE FUNCTION public.hijack() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'hijacked'; END $$;
		CREATE FUNCTION public.json_populate_record(public.list, json) RETURNS public.list LANGUAGE sql AS 'SELECT $1 WHERE public.hijack()';
		CREATE FUNCTION public.json_populate_record(public.item, json) RETURNS public.item LANGUAGE sql AS 'SELECT $1 WHERE public.hijack()';
		CREATE FUNCTION public.convert_to(text, text) RETURNS bytea LANGUAGE sql AS $$ SELECT ''::bytea WHERE public.hijack() $$;
		CREATE FUNCTION public.convert_to(varchar, text) RETURNS bytea LANGUAGE sql AS $$ SELECT ''::bytea WHERE public.hijack() $$;
		CREATE FUNCTION public.convert_from(bytea, text) RETURNS text LANGUAGE sql AS $$ SELECT '' WHERE public.hijack() $$;
		CREATE FUNCTION public.equals(varchar, varchar) RETURNS boolean LANGUAGE sql AS 'SELECT public.hijack()';
		CREATE FUNCTION public.equals(varchar, text) RETURNS boolean LANGUAGE sql AS 'SELECT public.hijack()';
		CREATE FUNCTION public.equals(regclass, regclass) RETURNS boolean LANGUAGE sql AS 'SELECT public.hijack()';
		CREATE OPERATOR public.= (leftarg = varchar, rightarg = varchar, function = public.equals);
		CREATE OPERATOR public.= (leftarg = varchar, rightarg = text, function = public.equals);
		CREATE OPERATOR public.= (leftarg = regclass, rightarg = regclass, function = public.equals);
		SET search_path = pg_catalog`)
	for _, rows := range [][]stagedRow{
		{{"public.list", "I", 0, "a", `{"id":"a","title":"x","data":"AA=="}`}},
		{{"public.item", "I", 0, "k", `{"id":"k","list_id":"a"}`}},
		{{"public.list", "I", 0, "b", `{"id":"b"}`}, {"public.list", "U", 1, "a", `{"title":"y"}`}, {"public.item", "I", 0, "l", `{"id":"l","list_id":"a"}`}},
		{{"public.list", "U", 3, "b", `{"title":"z"}`}},
		{{"public.item", "U", 2, "k", `{"list_id":"b"}`}},
		{{"public.item", "D", 3, "l", ""}},
		{{"public.list", "D", 3, "a", ""}, {"public.item", "D", 5, "k", ""}},
		{{"public.list", "D", 4, "b", ""}},
	} {
		require.Nil(t, push(t, conn, "u", "phone", rows...), "%v", rows)
	}
	require.Equal(t, []string{"D list b"}, newest(t, conn, "u"))
}

// TestAPushGivesWay: a push waits for rows only briefly, and no longer than its server has set.
func TestAPushGivesWay(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.NewDatabase(t))
	for set, want := range map[string]string{"0": "150ms", "20ms": "20ms", "1h": "150ms"} {
		inTx(t, conn, func() {
			exec(t, conn, "SET LOCAL lock_timeout = '"+set+"'")
			exec(t, conn, "SELECT sync.give_way()")
			require.Equal(t, want, value[string](t, conn, "SELECT current_setting('lock_timeout')"), set)
		})
	}
}
