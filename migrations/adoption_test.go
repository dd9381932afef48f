package migrations_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/oversync/oversync/db/pgembed/pgtest"
)

// populated is the office with lists of some scopes, and as many tasks a scope.
func populated(scopes, tasksPerScope int) string {
	return office + fmt.Sprintf(`
		INSERT INTO office.list (id, owner_id, name) SELECT md5('list ' || s)::uuid, s, 'list ' || s FROM generate_series(1, %[1]d) s;
		INSERT INTO office.label (id, owner_id) SELECT 'label ' || s, s FROM generate_series(1, %[1]d) s;
		INSERT INTO office.task (id, list_id, label_id, title) SELECT 'task ' || s || '/' || n, md5('list ' || s)::uuid, CASE WHEN n %% 2 = 0 THEN 'label ' || s END, repeat('x', n %% 50)
		FROM generate_series(1, %[2]d) n, generate_series(1, %[1]d) s;
		ANALYZE`, scopes, tasksPerScope)
}

// officeLater registers the office with its rows to be adopted later.
const officeLater = `BEGIN;
SELECT sync.register_table('office.task', scope_via => 'list_id', on_scope_change => 'move', policy => 'capture', adopt => 'later');
SELECT sync.register_table('office.step', scope_via => 'task_id', on_scope_change => 'move', policy => 'capture', adopt => 'later');
SELECT sync.register_table('office.list', scope => 'owner_id', policy => 'capture', adopt => 'later');
SELECT sync.register_table('office.label', scope => 'owner_id', policy => 'capture', show_scope => true, adopt => 'later');
COMMIT;`

// requireAdopted: the log is the tables, and no row was inserted twice.
func requireAdopted(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	requireSound(t, conn)
	require.Equal(t, content(t, conn, officeContent), content(t, conn, logContent))
	require.Empty(t, column[string](t, conn, `
		SELECT sync.key_text(e.table_id, e.key_bytes) FROM (
			SELECT r.*, lag(r.op) OVER (PARTITION BY r.user_pk, r.table_id, r.key_bytes ORDER BY r.bundle_seq) AS op_before FROM sync.bundle_rows r) e
		WHERE (e.op = 'I') <> (e.op_before IS NULL OR e.op_before = 'D')`), "each row is inserted once")
	require.Zero(t, value[int](t, conn, "SELECT count(*) FROM sync.adoptions")+value[int](t, conn, "SELECT count(*) FROM sync.adoption_queue"))
}

func TestAdoptNow(t *testing.T) {
	t.Parallel()
	for _, order := range []string{"step task list label", "label list task step", "task step list label", "step list task label"} {
		for _, when := range []string{"now", "auto"} {
			t.Run(when+" "+order, func(t *testing.T) {
				t.Parallel()
				conn := connect(t, pgtest.NewDatabase(t))
				exec(t, conn, office+officeRows)
				calls := map[string]string{
					"list": "scope => 'owner_id'", "label": "scope => 'owner_id', show_scope => true", "task": "scope_via => 'list_id'", "step": "scope_via => 'task_id'",
				}
				inTx(t, conn, func() {
					var tables [4]string
					_, err := fmt.Sscan(order, &tables[0], &tables[1], &tables[2], &tables[3])
					require.NoError(t, err)
					for _, table := range tables {
						exec(t, conn, fmt.Sprintf("SELECT sync.register_table('office.%s', %s, adopt => '%s')", table, calls[table], when))
					}
				})
				requireAdopted(t, conn)
				require.Len(t, content(t, conn, logContent), 9)
				require.Equal(t, []string{"oversync:adopt"}, column[string](t, conn, "SELECT DISTINCT source_id FROM sync.bundle_log"))
				require.Equal(t, []string{"initialized"}, column[string](t, conn, "SELECT DISTINCT state FROM sync.user_state"))
			})
		}
	}
}

func TestAdoptLater(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.NewDatabase(t))
	exec(t, conn, populated(40, 5))
	exec(t, conn, officeLater)
	require.Empty(t, bundleCounts(t, conn))
	require.Len(t, column[string](t, conn, "SELECT table_id::text FROM sync.adoptions"), 3, "an empty table has nothing to adopt")
	task := value[int](t, conn, "SELECT table_id FROM sync.table_catalog WHERE table_name = 'task'")
	const waiting = "SELECT concat_ws(' ', table_name, rows_to_adopt) FROM sync.tables WHERE table_name IN ('task', 'step') ORDER BY 1"
	require.Equal(t, []string{"step 0", "task"}, column[string](t, conn, waiting), "nobody has counted yet")
	require.EqualValues(t, 50, value[int64](t, conn, "SELECT sync.adopt_batch($1, 50)", task))
	require.Equal(t, []string{"step 0", "task 150"}, column[string](t, conn, waiting))
	for range 3 {
		require.EqualValues(t, 50, value[int64](t, conn, "SELECT sync.adopt_batch($1, 50)", task))
	}
	require.Zero(t, value[int64](t, conn, "SELECT sync.adopt_batch($1, 50)", task))
	require.Equal(t, []int64{5}, column[int64](t, conn, "SELECT DISTINCT row_count FROM sync.bundle_log"), "scope by scope, so that a scope has few bundles")
	for _, table := range []string{"office.list", "office.label", "office.step", "office.list"} {
		exec(t, conn, "CALL sync.adopt_table($1::text::regclass)", table)
	}
	requireAdopted(t, conn)
	exec(t, conn, "CREATE TABLE public.outside ()")
	refusal := refused(t, conn, "CALL sync.adopt_table('outside')")
	require.Equal(t, []string{"OV030", "public.outside is not registered", "SELECT sync.register_table('public.outside');"}, []string{refusal.Code, refusal.Message, refusal.Hint})
}

// TestOrderOfAdoption: scopes come in their order, each in one bundle unless it is larger than a batch, and its rows in that of their
// keys, wherever they are in the table. A batch that was interrupted comes again as it was.
func TestOrderOfAdoption(t *testing.T) {
	t.Parallel()
	want := []string{"B 1: k1 k2 k3 k4", "B 2: k5", "a 1: k1 k2 k3", "b 1: k1 k2 k3 k4"}
	const bundles = `SELECT format('%s %s: %s', u.user_id, r.bundle_seq, string_agg(sync.key_text(r.table_id, r.key_bytes), ' ' ORDER BY r.row_ordinal))
		FROM sync.bundle_rows r JOIN sync.user_state u USING (user_pk) GROUP BY u.user_id, r.bundle_seq ORDER BY u.user_id COLLATE "C", r.bundle_seq`
	for name, interrupt := range map[string]func(t *testing.T, conn *pgx.Conn, url string, batch func(conn *pgx.Conn) int64){
		"not at all": func(*testing.T, *pgx.Conn, string, func(*pgx.Conn) int64) {},
		"and rolled back": func(t *testing.T, conn *pgx.Conn, _ string, batch func(*pgx.Conn) int64) {
			exec(t, conn, "BEGIN")
			require.EqualValues(t, 4, batch(conn))
			exec(t, conn, "ROLLBACK")
		},
		"by the end of its backend": func(t *testing.T, conn *pgx.Conn, url string, batch func(*pgx.Conn) int64) {
			other, err := pgx.Connect(t.Context(), url)
			require.NoError(t, err)
			exec(t, other, "BEGIN")
			require.EqualValues(t, 4, batch(other))
			require.True(t, value[bool](t, conn, "SELECT pg_terminate_backend($1, 60000)", other.PgConn().PID()))
			_ = other.Close(t.Context())
		},
		"by a crash, which empties the queue": func(t *testing.T, conn *pgx.Conn, _ string, _ func(*pgx.Conn) int64) {
			exec(t, conn, "TRUNCATE sync.adoption_queue")
		},
	} {
		for before := range 3 {
			t.Run(fmt.Sprintf("interrupted after %d batches %s", before, name), func(t *testing.T) {
				t.Parallel()
				url := pgtest.NewDatabase(t)
				conn := connect(t, url)
				exec(t, conn, `CREATE TABLE public.memo (owner text, id text, PRIMARY KEY (owner, id));
					INSERT INTO public.memo SELECT 'b', 'k' || n FROM unnest('{4,2,1,3}'::int[]) n;
					INSERT INTO public.memo SELECT 'B', 'k' || n FROM unnest('{5,2,4,1,3}'::int[]) n;
					INSERT INTO public.memo SELECT 'a', 'k' || n FROM unnest('{3,1,2}'::int[]) n;
					SELECT sync.register_table('public.memo', scope => 'owner', policy => 'capture', adopt => 'later')`)
				batch := func(conn *pgx.Conn) int64 {
					return value[int64](t, conn, "SELECT sync.adopt_batch(table_id, 4) FROM sync.table_catalog")
				}
				for done := range before {
					require.EqualValues(t, 4, batch(conn))
					require.Equal(t, want[:[]int{1, 3}[done]], column[string](t, conn, bundles))
				}
				interrupt(t, conn, url, batch)
				for range 10 {
					if batch(conn) == 0 {
						break
					}
				}
				require.Equal(t, want, column[string](t, conn, bundles))
				require.Zero(t, value[int](t, conn, "SELECT (SELECT count(*) FROM sync.adoptions) + (SELECT count(*) FROM sync.adoption_queue)"))
				requireSound(t, conn)
			})
		}
	}
}

// TestALargeScopeIsSplit: no bundle is larger than a batch.
func TestALargeScopeIsSplit(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.NewDatabase(t))
	exec(t, conn, populated(1, 25_000))
	exec(t, conn, officeLater)
	for _, table := range []string{"office.list", "office.label", "office.task"} {
		exec(t, conn, "CALL sync.adopt_table($1::text::regclass)", table)
	}
	require.Equal(t, []int64{1, 1, 10_000, 10_000, 5_000}, column[int64](t, conn, "SELECT row_count FROM sync.bundle_log ORDER BY bundle_seq"))
	requireAdopted(t, conn)
}

// TestAdoptionIsResumed: backends that adopt are ended again and again, in batches and between them, and once the queue is lost as in a
// crash; the application writes all the while.
func TestAdoptionIsResumed(t *testing.T) {
	t.Parallel()
	const scopes, tasksPerScope = 500, 100
	url := pgtest.NewDatabase(t)
	conn := connect(t, url)
	exec(t, conn, populated(scopes, tasksPerScope))
	exec(t, conn, officeLater)

	ctx, stopWriting := context.WithCancel(t.Context())
	defer stopWriting()
	var writers errgroup.Group
	for n := range 3 {
		writer := connect(t, url)
		random := rand.New(rand.NewPCG(1, uint64(n)))
		writers.Go(func() error {
			for i := 0; ctx.Err() == nil; i++ {
				scope, task := random.IntN(scopes)+1, random.IntN(tasksPerScope)+1
				sql := [...]string{
					fmt.Sprintf("UPDATE office.task SET done = NOT done WHERE id = 'task %d/%d'", scope, task),
					fmt.Sprintf("DELETE FROM office.task WHERE id = 'task %d/%d'", scope, task),
					fmt.Sprintf("INSERT INTO office.task (id, list_id) VALUES ('new %d/%d', md5('list %d')::uuid)", n, i, scope),
					fmt.Sprintf("UPDATE office.task SET id = id || 'x', title = 'renamed' WHERE id = 'task %d/%d'", scope, task),
					fmt.Sprintf("UPDATE office.list SET name = 'x' WHERE owner_id = %d", scope),
					fmt.Sprintf("UPDATE office.task SET list_id = md5('list %d')::uuid, label_id = NULL WHERE id = 'task %d/%d'", random.IntN(scopes)+1, scope, task),
					fmt.Sprintf("DELETE FROM office.task WHERE id = 'new %d/%d'", n, i-2),
				}[random.IntN(7)]
				if _, err := writer.Exec(context.Background(), sql); err != nil {
					return fmt.Errorf("%s: %w", sql, err)
				}
			}
			return nil
		})
	}

	waiting := func() bool { return value[bool](t, conn, "SELECT EXISTS (SELECT FROM sync.adoptions)") }
	for attempt := 0; waiting(); attempt++ {
		require.Less(t, attempt, 60)
		worker, err := pgx.Connect(t.Context(), url)
		require.NoError(t, err)
		if attempt < 12 {
			pid := worker.PgConn().PID()
			killer := time.AfterFunc(time.Duration(50+attempt*40)*time.Millisecond, func() {
				killing, err := pgx.Connect(context.Background(), url)
				if err == nil {
					_, _ = killing.Exec(context.Background(), "SELECT pg_terminate_backend($1)", pid)
					_ = killing.Close(context.Background())
				}
			})
			defer killer.Stop()
		}
		if attempt == 6 {
			// What a crash does to an unlogged table.
			exec(t, conn, "TRUNCATE sync.adoption_queue")
		}
		for _, table := range []string{"office.list", "office.label", "office.task"} {
			if _, err := worker.Exec(t.Context(), "CALL sync.adopt_table('"+table+"')"); err != nil {
				break
			}
		}
		_ = worker.Close(t.Context())
	}
	stopWriting()
	require.NoError(t, writers.Wait(), "the application never notices")
	requireAdopted(t, conn)
}

// TestTwoAdoptAtOnce: they take turns, and together do the work once.
func TestTwoAdoptAtOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.NewDatabase(t)
	conn := connect(t, url)
	exec(t, conn, populated(100, 250))
	exec(t, conn, officeLater)
	var workers errgroup.Group
	for range 3 {
		worker := connect(t, url)
		workers.Go(func() error {
			for _, table := range []string{"office.list", "office.label", "office.task"} {
				if _, err := worker.Exec(context.Background(), "CALL sync.adopt_table('"+table+"')"); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, workers.Wait())
	requireAdopted(t, conn)
}

// TestAdoptionBlocksNoWriter: a batch that has not committed yet makes only writers of its own scopes wait, at their commit.
func TestAdoptionBlocksNoWriter(t *testing.T) {
	t.Parallel()
	url := pgtest.NewDatabase(t)
	conn, writer := connect(t, url), connect(t, url)
	exec(t, conn, populated(20, 10))
	exec(t, conn, officeLater)
	exec(t, writer, "SET lock_timeout = '5s'")
	exec(t, conn, "BEGIN; SELECT sync.adopt_batch(table_id, 100) FROM sync.table_catalog WHERE table_name = 'task'")
	first := column[int](t, conn, "SELECT user_id::integer FROM sync.open_bundles UNION SELECT u.user_id::integer FROM sync.bundle_log l JOIN sync.user_state u ON u.user_pk = l.user_pk ORDER BY 1")
	require.Len(t, first, 10)
	for scope := 1; scope <= 20; scope++ {
		if !slices.Contains(first, scope) {
			exec(t, writer, "UPDATE office.task SET done = true WHERE list_id = md5('list ' || $1)::uuid", fmt.Sprint(scope))
		}
	}
	exec(t, writer, "BEGIN; UPDATE office.task SET done = true; ROLLBACK")
	exec(t, conn, "COMMIT")
	for _, table := range []string{"office.list", "office.label", "office.task"} {
		exec(t, conn, "CALL sync.adopt_table($1::text::regclass)", table)
	}
	requireAdopted(t, conn)
}

// BenchmarkAdopt adopts 50,000 rows of 500 scopes. Its ratio compares with an INSERT … SELECT of the same rows into a table that has the
// same indexes.
func BenchmarkAdopt(b *testing.B) {
	ctx := b.Context()
	for b.Loop() {
		b.StopTimer()
		conn, err := pgx.Connect(ctx, pgtest.NewDatabase(b))
		require.NoError(b, err)
		run := func(sql string) time.Duration {
			start := time.Now()
			_, err := conn.Exec(ctx, sql)
			require.NoError(b, err, sql)
			return time.Since(start)
		}
		run(`CREATE TABLE public.todo (id uuid PRIMARY KEY, owner_id bigint NOT NULL, title text, done boolean, due timestamptz, weight float8);
			CREATE INDEX ON public.todo (owner_id);
			INSERT INTO public.todo SELECT gen_random_uuid(), 1 + n % 500, 'todo ' || n, n % 2 = 0, now(), n / 7.0 FROM generate_series(1, 50000) n;
			CREATE TABLE public.copy (LIKE public.todo INCLUDING ALL); ANALYZE public.todo; CHECKPOINT`)
		plain := run("INSERT INTO public.copy SELECT * FROM public.todo")
		run("SELECT sync.register_table('public.todo', scope => 'owner_id', adopt => 'later')")
		b.StartTimer()
		adopted := run("CALL sync.adopt_table('public.todo')")
		b.StopTimer()
		b.ReportMetric(float64(adopted)/float64(plain), "ratio")
		b.ReportMetric(50_000/adopted.Seconds(), "rows/s")
		require.NoError(b, conn.Close(ctx))
		b.StartTimer()
	}
}

// threeLevels is a chain of tables of which the lower two are still to be adopted, with a row of the lowest in the log already.
func threeLevels(t *testing.T, onScopeChange string) *pgx.Conn {
	t.Helper()
	conn := connect(t, pgtest.NewDatabase(t))
	exec(t, conn, `CREATE TABLE p (id text PRIMARY KEY, o int NOT NULL); CREATE TABLE c (id text PRIMARY KEY, p text NOT NULL REFERENCES p);
		CREATE TABLE d (id text PRIMARY KEY, c text NOT NULL REFERENCES c, t text); CREATE TABLE e (id text PRIMARY KEY, o int NOT NULL, c text REFERENCES c);
		INSERT INTO p VALUES ('p1', 1), ('p2', 2); INSERT INTO c VALUES ('c1', 'p1'), ('c2', 'p1'); INSERT INTO d VALUES ('d1', 'c1', 'x'), ('d2', 'c1', 'x'), ('d3', 'c2', 'x')`)
	inTx(t, conn, func() {
		exec(t, conn, "SELECT sync.register_table('p', scope => 'o', policy => 'capture'), sync.register_table('e', scope => 'o', policy => 'capture')")
		exec(t, conn, "SELECT sync.register_table('c', scope_via => 'p', policy => 'capture', on_scope_change => $1, adopt => 'later')", onScopeChange)
		exec(t, conn, "SELECT sync.register_table('d', scope_via => 'c', policy => 'capture', on_scope_change => $1, adopt => 'later')", onScopeChange)
	})
	exec(t, conn, "UPDATE d SET t = 'of 1' WHERE id = 'd1'")
	return conn
}

// TestAGrandparentMovesDuringAdoption: rows that the log has follow through parents that it does not have yet.
func TestAGrandparentMovesDuringAdoption(t *testing.T) {
	t.Parallel()
	for name, moves := range map[string][]string{
		"its scope":             {"UPDATE p SET o = 2 WHERE id = 'p1'"},
		"twice":                 {"UPDATE p SET o = 2 WHERE id = 'p1'", "UPDATE p SET o = 3 WHERE id = 'p1'"},
		"with a queue":          {"SELECT sync.adopt_batch(table_id, 1) FROM sync.table_catalog WHERE table_name = 'd'", "UPDATE p SET o = 2 WHERE id = 'p1'"},
		"the parent's parent":   {"UPDATE c SET p = 'p2' WHERE id = 'c1'"},
		"to where it comes":     {"BEGIN; UPDATE p SET o = 2 WHERE id = 'p1'; UPDATE c SET p = 'p2' WHERE id = 'c1'; COMMIT"},
		"and is followed":       {"BEGIN; UPDATE p SET o = 2 WHERE id = 'p1'; UPDATE d SET t = 'y'; COMMIT"},
		"constraints immediate": {"BEGIN; SET CONSTRAINTS ALL IMMEDIATE; UPDATE p SET o = 3; UPDATE c SET p = 'p2' WHERE id = 'c1'; COMMIT"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := threeLevels(t, "move")
			for _, move := range moves {
				exec(t, conn, move)
			}
			require.Empty(t, column[string](t, conn, soundness["captured keys"]))
			requireSoundAfterAdoption(t, conn)
		})
	}
	t.Run("to refuse", func(t *testing.T) {
		t.Parallel()
		conn := threeLevels(t, "refuse")
		require.Equal(t, "OV034", refused(t, conn, "UPDATE p SET o = 2 WHERE id = 'p1'").Code)
		exec(t, conn, "UPDATE c SET id = id; UPDATE p SET o = 1 WHERE id = 'p1'")
		requireSoundAfterAdoption(t, conn)
	})
	t.Run("away from what refers", func(t *testing.T) {
		t.Parallel()
		conn := threeLevels(t, "move")
		exec(t, conn, "INSERT INTO e VALUES ('e1', 1, 'c2')")
		require.Equal(t, "OV033", refused(t, conn, "UPDATE p SET o = 2 WHERE id = 'p1'").Code)
		requireSoundAfterAdoption(t, conn)
	})
}

func requireSoundAfterAdoption(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	exec(t, conn, "CALL sync.adopt_table('c')")
	exec(t, conn, "CALL sync.adopt_table('d')")
	requireSound(t, conn)
}
