package migrations_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
)

// touchAll writes every row of every registered table without changing it.
func touchAll(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	for _, sql := range column[string](t, conn, `SELECT format('UPDATE %s SET %2$I = %2$I', t.relation, a.attname) FROM sync.table_catalog t JOIN pg_attribute a ON a.attrelid = t.relation AND a.attnum = t.key_attnum
		WHERE t.unregistered_at IS NULL ORDER BY t.apply_order`) {
		exec(t, conn, sql)
	}
}

// TestAlterAndRefresh: what an ALTER TABLE changed is captured whole before sync.refresh_table, and after it clients have the new form of
// every row, and no row twice.
func TestAlterAndRefresh(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, alter string
		before      string   // what plain SQL does first
		refresh     string   // the table to be refreshed, as it is called then
		changed     []string // effects of the refresh in scope 1, if nothing was written before
		isAnew      bool     // clients know the table by another name or key, so it is registered anew
		isRefused   bool     // writes wait for the refresh
	}{
		{name: "column added", alter: "ALTER TABLE office.list ADD COLUMN color text", refresh: "office.list", changed: []string{"U list " + list1, "U list " + list2}},
		{name: "column added with a default", alter: "ALTER TABLE office.task ADD COLUMN rank integer NOT NULL DEFAULT 7", refresh: "office.task", changed: []string{"U task t1", "U task t2"}},
		{name: "column generated", alter: "ALTER TABLE office.label ADD COLUMN upper_color text GENERATED ALWAYS AS (upper(color)) STORED", refresh: "office.label", changed: []string{"U label red"}},
		{name: "column dropped", alter: "ALTER TABLE office.list DROP COLUMN name", refresh: "office.list", changed: []string{"U list " + list1, "U list " + list2}},
		{name: "column renamed", alter: "ALTER TABLE office.step RENAME body TO content", refresh: "office.step", changed: []string{"U step " + step1}},
		{name: "column retyped", alter: "ALTER TABLE office.task ALTER done DROP DEFAULT, ALTER done TYPE text", refresh: "office.task", changed: []string{"U task t1", "U task t2"}},
		{name: "default changed", alter: "ALTER TABLE office.list ALTER name SET DEFAULT 'new'", refresh: "office.list"},
		{name: "scope renamed", alter: "ALTER TABLE office.list RENAME owner_id TO account", refresh: "office.list"},
		{name: "scope retyped", alter: "ALTER TABLE office.list ALTER owner_id DROP DEFAULT, ALTER owner_id TYPE text", refresh: "office.list"},
		{name: "scope enlarged", alter: "ALTER TABLE office.label ALTER owner_id DROP DEFAULT, ALTER owner_id TYPE integer USING owner_id::integer", refresh: "office.label", changed: []string{"U label red"}},
		{name: "shown scope renamed", alter: "ALTER TABLE office.label RENAME owner_id TO account", refresh: "office.label", changed: []string{"U label red"}},
		{name: "way to the parent renamed", alter: "ALTER TABLE office.task RENAME list_id TO folder_id", refresh: "office.task", changed: []string{"U task t1", "U task t2"}},
		{name: "way to the parent's parent renamed", alter: "ALTER TABLE office.step RENAME task_id TO todo_id", refresh: "office.step", changed: []string{"U step " + step1}},
		{name: "reference renamed", alter: "ALTER TABLE office.task RENAME label_id TO tag", refresh: "office.task", changed: []string{"U task t1", "U task t2"}},
		{name: "table renamed", alter: "ALTER TABLE office.list RENAME TO folder", refresh: "office.folder", isAnew: true, changed: []string{"I folder " + list1, "I folder " + list2}},
		{name: "leaf renamed", alter: "ALTER TABLE office.step RENAME TO stage", refresh: "office.stage", isAnew: true, changed: []string{"I stage " + step1}},
		{name: "table in between moved", alter: "CREATE SCHEMA app; ALTER TABLE office.task SET SCHEMA app", refresh: "app.task", isAnew: true, changed: []string{"I task t1", "I task t2"}},
		{name: "key renamed", alter: "ALTER TABLE office.task RENAME id TO nr", refresh: "office.task", isAnew: true, changed: []string{"I task t1", "I task t2"}},
		{name: "key retyped", alter: "ALTER TABLE office.step ALTER id DROP DEFAULT, ALTER id TYPE text", refresh: "office.step", isAnew: true, isRefused: true, changed: []string{"I step " + step1}},
		{name: "scope dropped and added", alter: "ALTER TABLE office.label DROP owner_id, ADD owner_id varchar(40) NOT NULL DEFAULT '1'", refresh: "office.label", before: "DELETE FROM office.label WHERE id = 'blue'"},
	} {
		for _, policy := range []string{"capture", "reject"} {
			t.Run(c.name+", "+policy, func(t *testing.T) {
				t.Parallel()
				conn := newOffice(t, "move")
				exec(t, conn, officeRows)
				exec(t, conn, c.before)
				if policy == "reject" {
					exec(t, conn, "SELECT sync.set_policy(relation, 'reject') FROM sync.table_catalog")
				}
				v := version(t, conn, "1", "office.task", "t2")
				staged := stage(t, conn, "1", "phone", stagedRow{"office.task", "U", v, "t2", `{"title":"pushed"}`})
				snapshot := value[string](t, conn, "SELECT snapshot_id::text FROM sync.snapshot_create('1', 'phone', '15min', 0, 0)")
				exec(t, conn, c.alter)
				switch {
				case policy == "reject":
					require.Contains(t, []string{"OV031", "OV030"}, refused(t, conn, "DELETE FROM "+c.refresh).Code)
				case c.isRefused:
					refusal := refused(t, conn, "DELETE FROM "+c.refresh)
					require.Equal(t, "OV030", refusal.Code)
					require.Contains(t, refusal.Hint, "sync.refresh_table('"+c.refresh+"')")
				default:
					touchAll(t, conn)
					requireSound(t, conn)
				}
				if c.name != "default changed" {
					require.Contains(t, column[string](t, conn, "SELECT remedy FROM sync.check()"), "SELECT sync.refresh_table('"+c.refresh+"');")
				}
				before := bundleCounts(t, conn)
				newestBefore := value[int64](t, conn, "SELECT next_bundle_seq FROM sync.user_state WHERE user_id = '1'")
				exec(t, conn, "SELECT sync.refresh_table($1::text::regclass)", c.refresh)
				switch {
				case policy == "capture" && !c.isAnew:
					require.Equal(t, before, bundleCounts(t, conn), "all rows had been written in their new form")
				case c.changed == nil:
					require.Equal(t, before, bundleCounts(t, conn))
				default:
					require.Equal(t, newestBefore+1, value[int64](t, conn, "SELECT next_bundle_seq FROM sync.user_state WHERE user_id = '1'"))
					require.ElementsMatch(t, c.changed, newest(t, conn, "1"))
				}
				requireSound(t, conn)
				require.Empty(t, column[string](t, conn, "SELECT concat_ws(': ', severity, object, problem) FROM sync.check()"))
				before = bundleCounts(t, conn)
				exec(t, conn, "SELECT sync.refresh_table($1::text::regclass)", c.refresh)
				require.Equal(t, before, bundleCounts(t, conn), "refreshing again changes nothing")

				// The push that was staged before is committed, or told clearly that its rows have changed or that the table is no more.
				if err := commitPush(t.Context(), conn, staged, "1", "phone"); err != nil {
					var refusal *pgconn.PgError
					require.ErrorAs(t, err, &refusal)
					require.Contains(t, []string{"OV012", "OV013"}, refusal.Code, refusal.Message)
				} else {
					require.Equal(t, []string{"U task t2"}, newest(t, conn, "1"))
				}
				// The snapshot that was being read is whole, or gone.
				var rows, want int
				err := conn.QueryRow(t.Context(), `SELECT s.row_count, (SELECT count(*) FROM sync.snapshot_rows(s.user_pk, s.snapshot_bundle_seq, 0, '', 0, 100))
					FROM sync.snapshot_sessions s WHERE s.snapshot_id = $1`, snapshot).Scan(&want, &rows)
				if !errors.Is(err, pgx.ErrNoRows) {
					require.NoError(t, err)
					require.Equal(t, want, rows)
				} else {
					require.True(t, c.isAnew)
				}
				exec(t, conn, "SELECT sync.set_policy(relation, 'capture') FROM sync.table_catalog WHERE unregistered_at IS NULL")
				touchAll(t, conn)
				requireSound(t, conn)
			})
		}
	}
}

// TestUnalteredCodeIsNotStale: what was made for a table fits it until the table is altered, whatever search path the application's
// triggers run under. Else each push would make its statements afresh.
func TestUnalteredCodeIsNotStale(t *testing.T) {
	t.Parallel()
	conn := newOffice(t, "move")
	exec(t, conn, `CREATE TABLE public.note (id text PRIMARY KEY, label text REFERENCES office.label, owner text NOT NULL); CREATE TABLE public.line (id text PRIMARY KEY, note text NOT NULL REFERENCES public.note)`)
	inTx(t, conn, func() {
		exec(t, conn, "SELECT sync.register_table('note', scope => 'owner'); SELECT sync.register_table('line', scope_via => 'note')")
	})
	// Each function begins with what sync.stale_condition gave.
	bodies := column[string](t, conn, "SELECT prosrc FROM pg_proc WHERE pronamespace = 'sync'::regnamespace AND proname ~ '^(apply|emit|settle|resolve)_[0-9]+$'")
	require.Len(t, bodies, 6*2+4+3, "of all six tables; four refer to others, three have their scope through a parent")
	for _, path := range []string{`"$user", public`, "pg_catalog, pg_temp", "", "office"} {
		exec(t, conn, "SELECT set_config('search_path', $1, false)", path)
		for _, body := range bodies {
			_, condition, _ := strings.Cut(body, "IF ")
			condition, _, _ = strings.Cut(condition, " THEN")
			require.Contains(t, condition, "sync.is_altered")
			require.False(t, value[bool](t, conn, "SELECT "+condition), "search_path %q: %s", path, condition)
		}
	}
}

// TestAlterIsNoticedBySessionsThatKeepPlans: whether a table was altered is asked when a statement is planned. A session that has kept
// its plans for long, or made them under a snapshot older than the ALTER, captures new columns all the same.
func TestAlterIsNoticedBySessionsThatKeepPlans(t *testing.T) {
	t.Parallel()
	url := pgtest.NewDatabase(t)
	writer, owner := connect(t, url), connect(t, url)
	exec(t, owner, "CREATE TABLE public.note (id text PRIMARY KEY, owner text NOT NULL, title text NOT NULL)")
	exec(t, owner, "SELECT sync.register_table('note', scope => 'owner', policy => 'capture')")
	exec(t, owner, "INSERT INTO public.note VALUES ('n', '1', 'first')")
	logged := func() string {
		return value[string](t, owner, "SELECT payload FROM sync.bundle_rows ORDER BY bundle_seq DESC LIMIT 1")
	}
	pushed := func(title string) string {
		push := stage(t, writer, "1", "phone", stagedRow{"public.note", "U", version(t, owner, "1", "public.note", "n"), "n", fmt.Sprintf(`{"title":%q}`, title)})
		require.NoError(t, commitPush(t.Context(), writer, push, "1", "phone"))
		return logged()
	}
	warm := func() {
		for range 8 { // until plans are generic
			exec(t, writer, "UPDATE public.note SET title = title || '.'")
			pushed("warm")
		}
	}
	warm()
	exec(t, owner, "ALTER TABLE public.note ADD COLUMN a int NOT NULL DEFAULT 7")
	require.Contains(t, pushed("pushed"), `"a":7`)
	exec(t, writer, "UPDATE public.note SET title = 'captured'")
	require.Contains(t, logged(), `"a":7`)
	exec(t, owner, "SELECT sync.refresh_table('note')")
	warm()

	// The first to plan anew is a transaction that cannot see what was altered.
	exec(t, writer, "BEGIN ISOLATION LEVEL REPEATABLE READ")
	require.Equal(t, 1, value[int](t, writer, "SELECT 1"))
	exec(t, owner, "ALTER TABLE public.note ADD COLUMN b int NOT NULL DEFAULT 8")
	require.Equal(t, pgerrcode.SerializationFailure, refused(t, writer, "UPDATE public.note SET title = 'old snapshot'").Code)
	exec(t, writer, "ROLLBACK")
	exec(t, writer, "UPDATE public.note SET title = 'captured again'")
	require.Contains(t, logged(), `"b":8`)
	require.Contains(t, pushed("pushed again"), `"b":8`)
	exec(t, owner, "SELECT sync.refresh_table('note')")
	requireSound(t, owner)
}

// TestColumnsThatSyncNeeds: without the column that says whose a row is, writes are refused, and the refusal says what to do.
func TestColumnsThatSyncNeeds(t *testing.T) {
	t.Parallel()
	conn := newOffice(t, "move")
	exec(t, conn, officeRows)
	exec(t, conn, "ALTER TABLE office.label DROP COLUMN owner_id")
	refusal := refused(t, conn, "INSERT INTO office.label (id) VALUES ('x')")
	require.Equal(t, "OV030", refusal.Code, refusal.Message)
	require.Contains(t, refusal.Message, "owner_id")
	require.Contains(t, refusal.Hint, "sync.unregister_table('office.label')")
	require.Equal(t, "OV030", refused(t, conn, "SELECT sync.refresh_table('office.label')").Code)
	exec(t, conn, "UPDATE office.list SET name = 'others go on'")
	// A row that no parent claims any more is refused, rather than lost.
	exec(t, conn, "ALTER TABLE office.step DROP CONSTRAINT step_task_id_fkey")
	require.Equal(t, "OV030", refused(t, conn, "INSERT INTO office.step (task_id) VALUES ('nobody')").Code)
	require.Equal(t, "OV030", refused(t, conn, "SELECT sync.refresh_table('office.step')").Code)
	exec(t, conn, "ALTER TABLE office.step ADD FOREIGN KEY (task_id) REFERENCES office.task; SELECT sync.refresh_table('office.step')")
	exec(t, conn, "INSERT INTO office.step (task_id) VALUES ('t3')")
}

// TestDroppedTables: the others go on, check names what to run, and the name is free again.
func TestDroppedTables(t *testing.T) {
	t.Parallel()
	conn := newOffice(t, "move")
	exec(t, conn, officeRows)
	staged := stage(t, conn, "1", "phone", stagedRow{"office.step", "D", 1, step1, ""})
	exec(t, conn, "DROP TABLE office.step")
	exec(t, conn, "UPDATE office.task SET done = true; DELETE FROM office.task WHERE id = 't1'")
	remedies := column[string](t, conn, "SELECT remedy FROM sync.check() WHERE severity = 'error'")
	require.Len(t, remedies, 1)
	exec(t, conn, remedies[0])
	require.Empty(t, column[string](t, conn, "SELECT problem FROM sync.check()"))
	var refusal *pgconn.PgError
	require.ErrorAs(t, commitPush(t.Context(), conn, staged, "1", "phone"), &refusal)
	require.Equal(t, "OV012", refusal.Code, refusal.Message)
	requireSound(t, conn)

	exec(t, conn, "DROP TABLE office.task CASCADE")
	exec(t, conn, "CREATE TABLE office.task (id text PRIMARY KEY, list_id uuid NOT NULL REFERENCES office.list); INSERT INTO office.task VALUES ('t7', '"+list1+"')")
	exec(t, conn, "SELECT sync.register_table('office.task', scope_via => 'list_id', policy => 'capture')")
	require.Equal(t, []string{"I task t7"}, newest(t, conn, "1"))
	exec(t, conn, "DELETE FROM office.list WHERE id = '"+list2+"'")
	requireSound(t, conn)
	require.Empty(t, column[string](t, conn, "SELECT problem FROM sync.check()"))
}

// TestDroppedTablesAreInNobodysWay: what was dropped without a word neither keeps other tables from being refreshed, registered and
// unregistered, nor sync.check from naming what mends it.
func TestDroppedTablesAreInNobodysWay(t *testing.T) {
	t.Parallel()
	conn := newOffice(t, "move")
	exec(t, conn, officeRows+note)
	exec(t, conn, "DROP TABLE office.step; DROP FUNCTION sync.capture_"+value[string](t, conn, "SELECT table_id::text FROM sync.table_catalog WHERE relation = 'office.label'::regclass")+"() CASCADE")
	exec(t, conn, "SELECT sync.refresh_table('office.list')")
	exec(t, conn, "SELECT sync.register_table('note')")
	exec(t, conn, "SELECT sync.unregister_table('note')")
	for _, remedy := range column[string](t, conn, "SELECT remedy FROM sync.check()") {
		exec(t, conn, remedy)
	}
	require.Empty(t, column[string](t, conn, "SELECT problem FROM sync.check()"))
	exec(t, conn, "SELECT sync.unregister_table(relation) FROM (SELECT relation FROM sync.table_catalog WHERE unregistered_at IS NULL ORDER BY apply_order DESC) AS r")
	require.ElementsMatch(t, []string{"1", "2"}, column[string](t, conn, "SELECT sync.scope_ids()"))
}

// TestPartitionsUnderPlainSQL: new and attached ones are captured at once, also after columns were renamed, and refresh gives them
// triggers of their own.
func TestPartitionsUnderPlainSQL(t *testing.T) {
	t.Parallel()
	conn := newOffice(t, "move")
	exec(t, conn, officeRows)
	exec(t, conn, `CREATE TABLE office.event (id text PRIMARY KEY, owner text NOT NULL, body text) PARTITION BY LIST (id);
		CREATE TABLE office.event_a PARTITION OF office.event FOR VALUES IN ('a');
		CREATE TABLE office.remark (id text PRIMARY KEY, task_id text NOT NULL REFERENCES office.task) PARTITION BY LIST (id);
		SELECT sync.register_table('office.event', scope => 'owner', policy => 'capture');
		SELECT sync.register_table('office.remark', scope_via => 'task_id', policy => 'capture')`)
	exec(t, conn, `CREATE TABLE office.event_b PARTITION OF office.event FOR VALUES IN ('b');
		CREATE TABLE office.event_c (id text PRIMARY KEY, owner text NOT NULL, body text); INSERT INTO office.event_c VALUES ('c', '1', 'was there');
		ALTER TABLE office.event ATTACH PARTITION office.event_c FOR VALUES IN ('c');
		CREATE TABLE office.remark_r PARTITION OF office.remark FOR VALUES IN ('r')`)
	for _, sql := range []string{
		"INSERT INTO office.event_b VALUES ('b', '1', 'x')", "UPDATE office.event_b SET owner = '2'", "INSERT INTO office.event VALUES ('a', '1', 'x')", "UPDATE office.event SET body = 'y'",
		"INSERT INTO office.remark_r VALUES ('r', 't1')", "UPDATE office.remark_r SET task_id = 't3'", "UPDATE office.event SET id = 'b' WHERE id = 'a' AND false",
	} {
		exec(t, conn, sql)
		require.Empty(t, column[string](t, conn, "SELECT key FROM sync.verify('2')"), sql)
	}
	exec(t, conn, "ALTER TABLE office.event RENAME owner TO account; ALTER TABLE office.event RENAME id TO nr; ALTER TABLE office.remark RENAME task_id TO todo")
	exec(t, conn, "UPDATE office.event_b SET account = '3'; DELETE FROM office.event_a; UPDATE office.remark_r SET todo = 't2'; UPDATE office.event SET account = '4' WHERE nr = 'c'")
	requireSound(t, conn)
	exec(t, conn, "SELECT sync.refresh_table('office.event'); SELECT sync.refresh_table('office.remark')")
	requireSound(t, conn)
	require.Empty(t, column[string](t, conn, "SELECT problem FROM sync.check()"))
	exec(t, conn, "DELETE FROM office.event_b; DELETE FROM office.event_c; DELETE FROM office.remark_r")
	requireSound(t, conn)
}

// TestDroppedByItsWriter: a transaction that writes a table and then drops or unregisters it commits.
func TestDroppedByItsWriter(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"SELECT sync.unregister_table('office.step')", "DROP TABLE office.step"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			conn := newOffice(t, "move")
			exec(t, conn, officeRows)
			inTx(t, conn, func() {
				exec(t, conn, "UPDATE office.task SET done = NOT done; UPDATE office.step SET body = 'x'")
				exec(t, conn, end)
			})
			require.Equal(t, []string{"task"}, column[string](t, conn, `SELECT DISTINCT t.table_name FROM sync.bundle_rows r JOIN sync.table_catalog t ON t.table_id = r.table_id
				WHERE r.bundle_seq = (SELECT max(n.bundle_seq) FROM sync.bundle_rows n WHERE n.user_pk = r.user_pk)`))
			require.Empty(t, column[string](t, conn, soundness["differences"]))
		})
	}
}

// TestTheScopeColumnGetsAnotherType: a push before the refresh is applied, and the refresh takes rows below along or refuses.
func TestTheScopeColumnGetsAnotherType(t *testing.T) {
	t.Parallel()
	const ddl = `CREATE TABLE p (id text PRIMARY KEY, o int NOT NULL, v text); CREATE TABLE c (id text PRIMARY KEY, p text NOT NULL REFERENCES p);
		CREATE TABLE d (id text PRIMARY KEY, c text NOT NULL REFERENCES c); INSERT INTO p VALUES ('p1', 1), ('p2', 2); INSERT INTO c VALUES ('c1', 'p1'), ('c2', 'p2'); INSERT INTO d VALUES ('d1', 'c1')`
	for _, alter := range []string{
		"ALTER TABLE p ALTER COLUMN o TYPE bigint USING o + 100",
		"ALTER TABLE p ADD COLUMN n bigint; UPDATE p SET n = o + 100; ALTER TABLE p ALTER COLUMN n SET NOT NULL, DROP COLUMN o; ALTER TABLE p RENAME n TO o",
	} {
		for _, change := range []string{"move", "refuse"} {
			t.Run(change+" "+alter, func(t *testing.T) {
				t.Parallel()
				conn := registered(t, ddl)
				inTx(t, conn, func() {
					exec(t, conn, "SELECT sync.register_table('p', scope => 'o', policy => 'capture')")
					exec(t, conn, "SELECT sync.register_table('c', scope_via => 'p', policy => 'capture', on_scope_change => $1)", change)
					exec(t, conn, "SELECT sync.register_table('d', scope_via => 'c', policy => 'capture', on_scope_change => $1)", change)
				})
				exec(t, conn, alter)
				if change == "refuse" {
					require.Equal(t, "OV034", refused(t, conn, "SELECT sync.refresh_table('p')").Code)
					return
				}
				exec(t, conn, "SELECT sync.refresh_table('p')")
				requireSound(t, conn)
			})
		}
	}
	t.Run("pushed before", func(t *testing.T) {
		t.Parallel()
		conn := registered(t, "CREATE TABLE p (id text PRIMARY KEY, o int NOT NULL, v text)")
		exec(t, conn, "SELECT sync.register_table('p', scope => 'o', policy => 'capture')")
		initialized(t, conn, "1")
		exec(t, conn, "ALTER TABLE p ALTER COLUMN o TYPE text")
		require.Nil(t, push(t, conn, "1", "phone", stagedRow{"p", "I", 0, "p1", `{"id":"p1","v":"x"}`}))
		requireSound(t, conn)
	})
}

// TestWhatSyncNeedsIsGone: a push and plain SQL are told what is gone and what mends it; a value is not dropped without a word.
func TestWhatSyncNeedsIsGone(t *testing.T) {
	t.Parallel()
	const ddl = `CREATE TABLE p (id text PRIMARY KEY, o int NOT NULL, v text); CREATE TABLE c (id text PRIMARY KEY, p text NOT NULL REFERENCES p, v text);
		CREATE TABLE d (id text PRIMARY KEY, o int NOT NULL, c text REFERENCES c);
		INSERT INTO p VALUES ('p1', 1); INSERT INTO c VALUES ('c1', 'p1'); INSERT INTO d VALUES ('d1', 1, 'c1')`
	pushes := map[string]stagedRow{"p": {"p", "I", 0, "p2", `{"id":"p2","v":"x"}`}, "c": {"c", "I", 0, "c2", `{"id":"c2","p":"p1","v":"x"}`}, "d": {"d", "I", 0, "d2", `{"id":"d2","c":"c1"}`}}
	for name, c := range map[string]struct{ alter, pushed, write, verify string }{
		"a table":            {"DROP TABLE d", "d OV012", "", ""},
		"a parent":           {"DROP TABLE p CASCADE", "p OV012, c OV030, d OV030", "UPDATE c SET v = 'y'", "c"},
		"a scope column":     {"ALTER TABLE p DROP COLUMN o", "p OV030, c OV030, d OV030", "UPDATE c SET v = 'y'", "p, c"},
		"a foreign key":      {"ALTER TABLE c DROP CONSTRAINT c_p_fkey", "", "", "c"},
		"a column's name":    {"ALTER TABLE c RENAME v TO w", "c OV012", "", ""},
		"a column":           {"ALTER TABLE p DROP COLUMN v", "p OV012", "", ""},
		"a name not pushed":  {"ALTER TABLE d ADD COLUMN x int; ALTER TABLE c ADD COLUMN x int", "", "", ""},
		"the key's old name": {"ALTER TABLE d RENAME id TO nr", "d OV012", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := registered(t, ddl)
			inTx(t, conn, func() {
				exec(t, conn, "SELECT sync.register_table('p', scope => 'o', policy => 'capture'), sync.register_table('d', scope => 'o', policy => 'capture'), sync.register_table('c', scope_via => 'p', policy => 'capture')")
			})
			staged := map[string][]string{}
			for table, row := range pushes {
				again := func(key string) stagedRow {
					return stagedRow{row.table, row.op, 0, key, strings.Replace(row.payload, row.key, key, 1)}
				}
				staged[table] = []string{stage(t, conn, "1", "one "+table, row), stage(t, conn, "1", "two "+table, again("x"), again("y"))}
			}
			exec(t, conn, c.alter)
			var codes []string
			for _, table := range []string{"p", "c", "d"} {
				for i, source := range []string{"one " + table, "two " + table} {
					var refusal *pgconn.PgError
					if err := commitPush(t.Context(), conn, staged[table][i], "1", source); err != nil {
						require.ErrorAs(t, err, &refusal)
						require.NotEmpty(t, refusal.Hint, refusal.Message)
						codes = append(codes, table+" "+refusal.Code)
					}
				}
			}
			require.Equal(t, c.pushed, strings.Join(slices.Compact(codes), ", "))
			require.Equal(t, c.verify, strings.Join(column[string](t, conn, "SELECT table_name FROM sync.verify('1') WHERE difference LIKE 'cannot be compared: %'"), ", "))
			exec(t, conn, "SELECT sync.repair('1')")
			if c.write != "" {
				refusal := refused(t, conn, c.write)
				require.Equal(t, "OV030", refusal.Code)
				require.NotEmpty(t, refusal.Hint)
			}
			column[string](t, conn, "SELECT problem FROM sync.check()")
		})
	}
}

// TestCheckOfWhatIsGone: check says that writes are refused, not that all is captured, and gives remedies that work. What still is captured is no error.
func TestCheckOfWhatIsGone(t *testing.T) {
	t.Parallel()
	const findings = "SELECT concat_ws(': ', severity, object, problem) FROM sync.check() ORDER BY 1"
	t.Run("key retyped", func(t *testing.T) {
		t.Parallel()
		conn := newOffice(t, "move")
		exec(t, conn, officeRows+"ALTER TABLE office.step ALTER id DROP DEFAULT, ALTER id TYPE text")
		require.Equal(t, []string{"error: office.step: its key column id has another type now: writes are refused"}, column[string](t, conn, findings))
		exec(t, conn, value[string](t, conn, "SELECT remedy FROM sync.check()"))
		require.Empty(t, column[string](t, conn, findings))
	})
	t.Run("scope column dropped", func(t *testing.T) {
		t.Parallel()
		conn := newOffice(t, "move")
		exec(t, conn, officeRows+"ALTER TABLE office.label DROP COLUMN owner_id")
		require.Empty(t, column[string](t, conn, "SELECT problem FROM sync.check() WHERE problem LIKE '%captured whole%' OR severity <> 'error'"))
		require.Empty(t, column[string](t, conn, "SELECT problem FROM sync.check() WHERE problem LIKE 'the function%'"))
	})
	t.Run("foreign key to the parent dropped", func(t *testing.T) {
		t.Parallel()
		conn := newOffice(t, "move")
		exec(t, conn, officeRows+"ALTER TABLE office.task DROP CONSTRAINT task_list_id_fkey")
		require.Equal(t, []string{"error: office.task: column list_id of office.task does not refer to one other table"}, column[string](t, conn, findings))
	})
	t.Run("parent renamed", func(t *testing.T) {
		t.Parallel()
		conn := newOffice(t, "move")
		exec(t, conn, officeRows+"ALTER TABLE office.list RENAME TO folder")
		require.Equal(t, []string{"warning: office.list: the table is called office.folder now: it is captured whole, but rows not written since still have their old form for clients"}, column[string](t, conn, findings))
		exec(t, conn, value[string](t, conn, "SELECT remedy FROM sync.check()"))
		require.Empty(t, column[string](t, conn, findings))
	})
}

// TestColumnsThatSwapNames: whose a row is stays in its column, whatever that is called, and so do its key and what leads to its parent, also
// where another column of the type took over the name.
func TestColumnsThatSwapNames(t *testing.T) {
	t.Parallel()
	for name, swap := range map[string]string{
		"scope":     "ALTER TABLE list RENAME owner TO x; ALTER TABLE list RENAME maker TO owner; ALTER TABLE list RENAME x TO maker",
		"key":       "ALTER TABLE list RENAME id TO x; ALTER TABLE list RENAME code TO id; ALTER TABLE list RENAME x TO code",
		"scope_via": "ALTER TABLE task RENAME list TO x; ALTER TABLE task RENAME other TO list; ALTER TABLE task RENAME x TO other",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := registered(t, `CREATE TABLE list (id text PRIMARY KEY, owner text NOT NULL, maker text NOT NULL, code text NOT NULL UNIQUE);
				CREATE TABLE task (id text PRIMARY KEY, list text NOT NULL REFERENCES list, other text NOT NULL)`)
			inTx(t, conn, func() {
				exec(t, conn, "SELECT sync.register_table('list', scope => 'owner', policy => 'capture'), sync.register_table('task', scope_via => 'list', policy => 'capture', on_scope_change => 'move')")
			})
			exec(t, conn, "INSERT INTO list VALUES ('1', 'ann', 'zoe', '2'), ('2', 'zoe', 'ann', '1'); INSERT INTO task VALUES ('t1', '1', '2')")
			exec(t, conn, swap)
			exec(t, conn, "INSERT INTO list VALUES ('3', 'ann', 'zoe', '4'), ('4', 'zoe', 'ann', '3'); INSERT INTO task VALUES ('t3', '3', '4')") // by place
			require.Equal(t, []string{"ann 3", "ann t3", "zoe 4"}, column[string](t, conn, "SELECT user_id || ' ' || key FROM sync.rows WHERE key IN ('3', '4', 't3') ORDER BY 1"))
			require.NotEmpty(t, column[string](t, conn, "SELECT remedy FROM sync.check() WHERE problem LIKE 'the table was altered%'"))
			for _, remedy := range column[string](t, conn, "SELECT DISTINCT remedy FROM sync.check()") {
				exec(t, conn, remedy)
			}
			requireSound(t, conn)
			require.Empty(t, column[string](t, conn, "SELECT problem FROM sync.check()"))
		})
	}
}

// TestPayloadColumnsInPlaceOfOthers: a column that has the name and the type of another, which is gone or has its name, is seen, and the refresh
// tells clients what is in it.
func TestPayloadColumnsInPlaceOfOthers(t *testing.T) {
	t.Parallel()
	for name, alter := range map[string]string{
		"two swap their names":           "ALTER TABLE note RENAME title TO x; ALTER TABLE note RENAME body TO title; ALTER TABLE note RENAME x TO body",
		"dropped and added again":        "ALTER TABLE note DROP title; ALTER TABLE note ADD title text",
		"the last, so the order is kept": "ALTER TABLE note DROP body; ALTER TABLE note ADD body text DEFAULT 'again'",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := registered(t, "CREATE TABLE note (id text PRIMARY KEY, owner text NOT NULL, title text, body text) PARTITION BY LIST (id); CREATE TABLE note_1 PARTITION OF note DEFAULT")
			exec(t, conn, "SELECT sync.register_table('note', scope => 'owner', policy => 'capture')")
			exec(t, conn, "INSERT INTO note VALUES ('1', 'ann', 'a title', 'a body')")
			require.Empty(t, column[string](t, conn, "SELECT problem FROM sync.check()"))
			exec(t, conn, alter)
			require.True(t, value[bool](t, conn, "SELECT was_altered FROM sync.tables"))
			require.Equal(t, []string{"SELECT sync.refresh_table('public.note');"}, column[string](t, conn, "SELECT remedy FROM sync.check()"))
			exec(t, conn, "INSERT INTO note VALUES ('2', 'ann', 'b', 'c'); CREATE TABLE note_3 PARTITION OF note FOR VALUES IN ('3'); INSERT INTO note_3 (id, owner, title, body) VALUES ('3', 'ann', 'd', 'e')")
			exec(t, conn, "SELECT sync.refresh_table('note')")
			requireSound(t, conn)
			require.Empty(t, column[string](t, conn, "SELECT problem FROM sync.check()"))
		})
	}
}
