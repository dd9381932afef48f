package e2e_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/oversync/oversync/e2e/device"
)

const (
	// rowsPerTable is how many different keys the random writes of a table use: few, so that devices meet.
	rowsPerTable = 3

	// peaceRounds bounds how often everybody syncs at the end before all must be equal. A round per device and
	// kind of refusal that one can cause in another would be enough.
	peaceRounds = 12
)

// TestConvergence lets three devices of two users write, sync and fail at random, and checks at the end that all
// devices of a user hold what the database holds, and that no write was lost or done twice.
//
// go test ./e2e -run Convergence -rapid.checks=1000 -rapid.steps=200 looks harder.
func TestConvergence(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	var runs atomic.Int64
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, rt, s, int(runs.Add(1)))
		defer w.close(rt)
		if rapid.Bool().Draw(rt, "begin with rows") {
			w.fill(rt)
		}
		actions := map[string]func(*rapid.T){}
		for name, action := range map[string]struct {
			weight int
			do     func(*rapid.T)
		}{
			"write": {8, w.writeRow}, "delete": {4, w.deleteRow}, "mark": {1, w.mark}, "break a rule": {1, w.breakRule},
			"sync": {6, w.do((*device.Device).Sync)}, "push": {2, w.do((*device.Device).Push)},
			"pull": {2, w.do((*device.Device).Pull)}, "rebuild": {1, w.do((*device.Device).Rebuild)},
			"sync together": {2, w.syncTogether}, "cut": {3, w.cut}, "crash": {1, w.crash}, "reopen": {1, w.reopen},
			"kill": {1, func(rt *rapid.T) { require.NoError(rt, s.killAndRestart()) }},
		} {
			for i := range action.weight {
				actions[fmt.Sprint(name, " ", i)] = action.do
			}
		}
		rt.Repeat(actions)
		w.makePeace(rt)
		w.check(rt)
	})
}

// world is the devices of one run and what is known about them.
type world struct {
	server *server
	users  [2]string
	phones []*actor
	marks  map[string][]string // by user: keys of rows that were written once and never touched again
}

// actor is a device that misbehaves when told.
type actor struct {
	*phone
	token   string
	crashAt string             // point of a push at which the device is to die
	die     context.CancelFunc // ends what the device does
	decide  int                // how the device resolves conflicts
}

func newWorld(t *testing.T, rt *rapid.T, s *server, run int) *world {
	w := &world{server: s, marks: map[string][]string{}}
	w.users = [2]string{fmt.Sprint("ann ", run), fmt.Sprint("bob ", run)}
	dir, err := os.MkdirTemp(t.TempDir(), "run-")
	require.NoError(rt, err)
	for i, user := range []string{w.users[0], w.users[0], w.users[1]} {
		a := &actor{token: mintToken(t, user)}
		a.phone, err = s.openPhone(t.Context(), filepath.Join(dir, fmt.Sprint(i, ".sqlite")), user, a.token, chunkRows(3), a.resolve, a.crashes)
		require.NoError(rt, err)
		w.phones = append(w.phones, a)
	}
	return w
}

func (w *world) close(rt *rapid.T) {
	for _, a := range w.phones {
		require.NoError(rt, a.Close())
		require.NoError(rt, os.Remove(a.cfg.Path))
	}
}

// resolve makes the device decide conflicts as its turn says.
func (a *actor) resolve(cfg *device.Config) {
	cfg.Resolver = func(ctx context.Context, c device.Conflict) (device.Resolution, error) {
		switch {
		case a.decide == 0:
			return device.ServerWins(ctx, c)
		case a.decide == 1 || c.Local == nil || c.Server == nil:
			return device.ClientWins(ctx, c)
		default:
			row := device.Row{}
			for _, column := range []string{"name", "title"} {
				if value, ok := c.Server[column]; ok {
					row[column] = value
				}
			}
			return device.Merged(row), nil
		}
	}
}

// crashes makes the device stop at the point it was told: nothing that follows is done.
func (a *actor) crashes(cfg *device.Config) {
	cfg.Crash = func(point string) {
		if a.crashAt == point && a.die != nil {
			a.crashAt = ""
			a.die()
		}
	}
}

// call runs an operation of the device. Whatever it answers, the device must come to terms with it later: only
// what no fault explains is an error here.
func (a *actor) call(rt require.TestingT, ctx context.Context, op func(*device.Device, context.Context) error) {
	ctx, a.die = context.WithCancel(ctx)
	defer a.die()
	err := op(a.Device, ctx)
	if err == nil || expected(err) {
		return
	}
	require.NoError(rt, err, "device of %s", a.user)
}

// expected says whether an error is a fault that the test made, or the answer to rows that break a rule, or to a scope
// that nobody has filled yet.
func expected(err error) bool {
	var api *device.APIError
	var initializing *device.InitializingError
	if errors.As(err, &api) {
		return slices.Contains([]string{"push_rejected", "scope_uninitialized", "scope_initializing", "push_commit_invalid"}, api.Code)
	}
	return errors.Is(err, errCut) || errors.Is(err, context.Canceled) || errors.As(err, &initializing)
}

func (w *world) pick(rt *rapid.T) *actor {
	a := w.phones[rapid.IntRange(0, len(w.phones)-1).Draw(rt, "device")]
	a.decide = rapid.IntRange(0, 2).Draw(rt, "resolver")
	return a
}

// key is one of the few keys of a table. The two users share them.
func key(table string, n int) string {
	if table == "categories" {
		return fmt.Sprint("category ", n)
	}
	return uuid.NewSHA1(uuid.Nil, []byte(fmt.Sprint(table, n))).String()
}

func drawKey(rt *rapid.T, table string) string {
	return key(table, rapid.IntRange(1, rowsPerTable).Draw(rt, table))
}

// fill gives each user every row that there can be, so that the devices begin with something to fight over.
func (w *world) fill(rt *rapid.T) {
	for _, a := range w.phones[1:] {
		for n := range rowsPerTable {
			for _, statement := range []struct {
				sql  string
				args []any
			}{
				{`INSERT INTO users (id, name) VALUES (?, 'u')`, []any{key("users", n+1)}},
				{`INSERT INTO posts (id, author_id, title) VALUES (?, ?, 'p')`, []any{key("posts", n+1), key("users", n+1)}},
				{`INSERT INTO files (id, post_id, name, content) VALUES (?, ?, 'f', x'00')`, []any{key("files", n+1), key("posts", n+1)}},
				{`INSERT INTO categories (id, parent_id, name) VALUES (?, ?, 'c')`, []any{key("categories", n+1), key("categories", max(n, 1))}},
				{`INSERT INTO teams (id, name) VALUES (?, 't')`, []any{key("teams", n+1)}},
				{`INSERT INTO members (id, team_id, name) VALUES (?, ?, 'm')`, []any{key("members", n+1), key("teams", n+1)}},
			} {
				_, err := a.DB().ExecContext(rt.Context(), statement.sql, statement.args...)
				require.NoError(rt, err)
			}
		}
		require.NoError(rt, a.Sync(rt.Context()))
	}
	require.NoError(rt, w.phones[0].Sync(rt.Context()))
}

func (w *world) writeRow(rt *rapid.T) {
	a := w.pick(rt)
	table := rapid.SampledFrom(tableNames).Draw(rt, "table")
	statement, args := randomRow(rt, table)
	a.tryWrite(rt, statement, args...)
}

// randomRow is a statement that makes or changes a row.
func randomRow(rt *rapid.T, table string) (statement string, args []any) {
	id := drawKey(rt, table)
	name := rapid.SampledFrom([]string{"one", "two", "three", everything, "<&>\u2028"}).Draw(rt, "name")
	optional := func(table string) any {
		if rapid.Bool().Draw(rt, "null") {
			return nil
		}
		return drawKey(rt, table)
	}
	switch table {
	case "users":
		return `INSERT INTO users (id, name, email) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET name = excluded.name`, []any{id, name, "x"}
	case "posts":
		return `INSERT INTO posts (id, author_id, title) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET author_id = excluded.author_id, title = excluded.title`,
			[]any{id, drawKey(rt, "users"), name}
	case "categories":
		return `INSERT INTO categories (id, parent_id, name) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET parent_id = excluded.parent_id, name = excluded.name`,
			[]any{id, optional("categories"), name}
	case "files":
		return `INSERT INTO files (id, post_id, name, content) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET post_id = excluded.post_id, content = excluded.content`,
			[]any{id, drawKey(rt, "posts"), name, rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(rt, "content")}
	case "teams":
		return `INSERT INTO teams (id, name, captain_id) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET name = excluded.name, captain_id = excluded.captain_id`,
			[]any{id, name, optional("members")}
	default:
		return `INSERT INTO members (id, team_id, name) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET team_id = excluded.team_id, name = excluded.name`,
			[]any{id, drawKey(rt, "teams"), name}
	}
}

// tryWrite writes what the device's own foreign keys allow; the application learns at once of the rest.
func (a *actor) tryWrite(rt *rapid.T, statement string, args ...any) {
	_, err := a.DB().ExecContext(rt.Context(), statement, args...)
	if err != nil {
		require.ErrorContains(rt, err, "FOREIGN KEY", statement)
	}
}

func (w *world) deleteRow(rt *rapid.T) {
	a := w.pick(rt)
	table := rapid.SampledFrom(tableNames).Draw(rt, "table")
	_, err := a.DB().ExecContext(rt.Context(), `DELETE FROM `+table+` WHERE id = ?`, drawKey(rt, table))
	require.NoError(rt, err)
}

// mark writes a row that nobody touches again: it must arrive, once.
func (w *world) mark(rt *rapid.T) {
	a := w.pick(rt)
	id := fmt.Sprint("mark ", uuid.NewString())
	_, err := a.DB().ExecContext(rt.Context(), `INSERT INTO categories (id, name) VALUES (?, 'mark')`, id)
	require.NoError(rt, err)
	w.marks[a.user] = append(w.marks[a.user], id)
}

// breakRule writes what the device lets pass and the server must refuse.
func (w *world) breakRule(rt *rapid.T) {
	a := w.pick(rt)
	switch rapid.IntRange(0, 2).Draw(rt, "rule") {
	case 0: // a check
		a.tryWrite(rt, `INSERT INTO users (id, name) VALUES (?, '') ON CONFLICT (id) DO UPDATE SET name = ''`, drawKey(rt, "users"))
	case 1: // not null
		a.tryWrite(rt, `UPDATE teams SET name = NULL WHERE id = ?`, drawKey(rt, "teams"))
	case 2: // a foreign key, with those of SQLite switched off
		statement, args := randomRow(rt, rapid.SampledFrom([]string{"posts", "categories", "files", "members"}).Draw(rt, "child"))
		args[1] = uuid.NewString()
		require.NoError(rt, a.withoutForeignKeys(rt.Context(), func(conn *sql.Conn) error {
			_, err := conn.ExecContext(rt.Context(), statement, args...)
			return err
		}))
	}
}

func (a *actor) withoutForeignKeys(ctx context.Context, do func(*sql.Conn) error) error {
	conn, err := a.DB().Conn(ctx)
	if err != nil {
		return err
	}
	_, off := conn.ExecContext(ctx, `PRAGMA foreign_keys = 0`)
	err = errors.Join(off, do(conn))
	_, on := conn.ExecContext(ctx, `PRAGMA foreign_keys = 1`)
	return errors.Join(err, on, conn.Close())
}

func (w *world) do(op func(*device.Device, context.Context) error) func(*rapid.T) {
	return func(rt *rapid.T) { w.pick(rt).call(rt, rt.Context(), op) }
}

// syncTogether syncs all devices at the same time.
func (w *world) syncTogether(rt *rapid.T) {
	var all sync.WaitGroup
	errs := make(failures, len(w.phones))
	for i, a := range w.phones {
		all.Go(func() { a.call(&errs[i], rt.Context(), (*device.Device).Sync) })
	}
	all.Wait()
	for _, err := range errs {
		require.Empty(rt, err)
	}
}

// failures collects what goroutines have to say, since a test may only be ended by its own.
type (
	failures []failure
	failure  string
)

func (f *failure) Errorf(format string, args ...any) { *f += failure(fmt.Sprintf(format, args...)) }
func (f *failure) FailNow()                          {}

// cut makes one of the next requests of a device meet a fault.
func (w *world) cut(rt *rapid.T) {
	kinds := []fault{cutBefore, cutDuring, cutAfter, killDuring, killAfter}
	// Four in a row exhaust the attempts of a request.
	nth, run := rapid.IntRange(1, 6).Draw(rt, "request"), rapid.SampledFrom([]int{1, 1, 4}).Draw(rt, "requests")
	kind := rapid.SampledFrom(kinds).Draw(rt, "fault")
	n := 0
	w.pick(rt).net.breaks(func(*http.Request) fault {
		if n++; n < nth || n >= nth+run {
			return noFault
		}
		return kind
	})
}

// crash makes a device die at a point of its next push.
func (w *world) crash(rt *rapid.T) {
	w.pick(rt).crashAt = rapid.SampledFrom([]string{
		device.CrashAfterFreeze, device.CrashAfterCreate, device.CrashAfterChunk,
		device.CrashBeforeCommit, device.CrashAfterCommit, device.CrashBeforeApply,
	}).Draw(rt, "point")
}

func (w *world) reopen(rt *rapid.T) {
	a := w.pick(rt)
	require.NoError(rt, a.Close())
	require.NoError(rt, a.open(rt.Context()))
}

// makePeace ends all faults and syncs until nobody has anything to push and all have everything.
func (w *world) makePeace(rt *rapid.T) {
	for _, a := range w.phones {
		a.net.breaks(nil)
		a.crashAt = ""
	}
	var last error
	for range peaceRounds {
		last = nil
		for _, a := range w.phones {
			if err := a.Sync(rt.Context()); err != nil {
				require.True(rt, expected(err), "device of %s: %v", a.user, err)
				last = err
				require.NoError(rt, a.mend(rt.Context()))
			}
		}
		if last != nil {
			continue
		}
		for _, a := range w.phones { // what the later devices pushed
			require.NoError(rt, a.Pull(rt.Context()))
		}
		return
	}
	require.NoError(rt, last, "the devices do not come to an end")
}

// mend does what an application does after a refusal: it removes the rows that break a rule.
func (a *actor) mend(ctx context.Context) error {
	for _, statement := range []string{`DELETE FROM users WHERE name = ''`, `DELETE FROM teams WHERE name IS NULL`} {
		if _, err := a.DB().ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	for {
		orphans, err := a.orphans(ctx)
		if err != nil || len(orphans) == 0 {
			return err
		}
		for _, o := range orphans {
			if _, err := a.DB().ExecContext(ctx, `DELETE FROM `+o.table+` WHERE rowid = ?`, o.rowid); err != nil {
				return err
			}
		}
	}
}

type orphan struct {
	table string
	rowid int64
}

func (a *actor) orphans(ctx context.Context) (found []orphan, err error) {
	rows, err := a.DB().QueryContext(ctx, `SELECT "table", rowid FROM pragma_foreign_key_check`)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var o orphan
		if err := rows.Scan(&o.table, &o.rowid); err != nil {
			return nil, err
		}
		found = append(found, o)
	}
	return found, rows.Err()
}

// check compares the end with what must be.
func (w *world) check(rt *rapid.T) {
	for _, a := range w.phones {
		w.server.requireConverged(rt, a.phone)
	}
	conn, err := sql.Open("pgx", w.server.database)
	require.NoError(rt, err)
	defer func() { require.NoError(rt, conn.Close()) }()
	for _, user := range w.users {
		// The sequence and the sources' numbers count without a gap, so no bundle is lost or doubled.
		var bundles, newest, sources, expectedSources int
		require.NoError(rt, conn.QueryRowContext(rt.Context(), `
			WITH log AS (SELECT l.* FROM sync.bundle_log l JOIN sync.user_state u USING (user_pk) WHERE u.user_id = $1),
			source AS (SELECT count(DISTINCT source_bundle_id) AS numbers, max(source_bundle_id) AS newest FROM log GROUP BY source_id)
			SELECT (SELECT count(*) FROM log), (SELECT coalesce(max(bundle_seq), 0) FROM log),
				(SELECT count(*) FROM source WHERE numbers = newest), (SELECT count(*) FROM source)`, user).
			Scan(&bundles, &newest, &sources, &expectedSources))
		require.Equal(rt, newest, bundles, "bundles of %s", user)
		require.Equal(rt, expectedSources, sources, "sources of %s whose bundles are numbered without a gap", user)

		// Each mark was written to the log once, and is there.
		for _, id := range w.marks[user] {
			var effects, inserts, rows int
			require.NoError(rt, conn.QueryRowContext(rt.Context(), `
				SELECT count(*), count(*) FILTER (WHERE r.op = 'I'), (SELECT count(*) FROM demo.categories c WHERE c._sync_scope_id = $1 AND c.id = $2)
				FROM sync.bundle_rows r JOIN sync.user_state u USING (user_pk)
				WHERE u.user_id = $1 AND r.key_bytes = convert_to($2, 'UTF8')`, user, id).Scan(&effects, &inserts, &rows))
			require.Equal(rt, [3]int{1, 1, 1}, [3]int{effects, inserts, rows}, "effects, inserts and rows of %s", id)
		}
		w.checkLog(rt, user)
	}
}

// checkLog replays all bundles of a user and compares the outcome with a snapshot.
func (w *world) checkLog(rt *rapid.T, user string) {
	c := w.server.client(rt, user, "checker")
	live := map[string]effect{}
	for _, b := range c.pull(0, 7) {
		for _, row := range b.Rows {
			if row.Op == "DELETE" {
				delete(live, row.name())
			} else {
				live[row.name()] = row
			}
		}
	}
	rows := c.snapshotRows(c.snapshot(), 5)
	require.Len(rt, rows, len(live), "rows of the snapshot of %s", user)
	for _, row := range rows {
		want := live[row.name()]
		want.Op = ""
		require.Equal(rt, want, row)
	}
}
