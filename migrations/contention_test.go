package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
)

// stagedRow is a row of a push as sync.push_stage takes it.
type stagedRow struct {
	table, op string
	version   int64
	key       string // as clients know it
	payload   string // empty for a delete
}

// stage begins a push and stages its rows, and returns its id.
func stage(t *testing.T, conn *pgx.Conn, scope, source string, rows ...stagedRow) string {
	t.Helper()
	var ops string
	var tables []int32
	var versions []int64
	var keys [][]byte
	var payloads []string // of a DELETE it is empty, as the server stages it
	for _, row := range rows {
		id := value[int32](t, conn, "SELECT table_id FROM sync.table_catalog WHERE relation = $1::text::regclass", row.table)
		tables, versions, ops = append(tables, id), append(versions, row.version), ops+row.op
		key := []byte(row.key)
		if value[string](t, conn, "SELECT key_type FROM sync.table_catalog WHERE table_id = $1", id) == "uuid" {
			parsed := uuid.MustParse(row.key)
			key = parsed[:]
		}
		keys = append(keys, key)
		payloads = append(payloads, row.payload)
	}
	id := value[string](t, conn, `SELECT push_id::text FROM sync.push_create($1, $2, (
		SELECT coalesce(max(s.last_source_bundle_id), 0) + 1 FROM sync.source_state s JOIN sync.user_state u ON u.user_pk = s.user_pk WHERE u.user_id = $1 AND s.source_id = $2), $3, NULL, '15min', '15min')`, scope, source, len(rows))
	exec(t, conn, "SELECT sync.push_stage($1, $2, $3, 0, (SELECT version FROM sync.catalog_version), $4, $5, $6, $7, $8, '15min', '15min')", id, scope, source, tables, ops, versions, keys, payloads)
	return id
}

// commitPush commits a staged push as the server does.
func commitPush(ctx context.Context, conn *pgx.Conn, id, scope, source string) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var bundleSeq, rows int64
		var liveRowDelta, bytesBefore *int64
		err := tx.QueryRow(ctx, "SELECT bundle_seq, row_count, live_row_delta, bytes_before FROM sync.push_commit($1::text::uuid, $2, $3, 0, '15min')", id, scope, source).
			Scan(&bundleSeq, &rows, &liveRowDelta, &bytesBefore)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `SELECT sync.bundle_close('\x00', 1, 9223372036854775807, $1, $2, coalesce(sum(octet_length(r.payload)), 0) - $3)
			FROM sync.user_state u JOIN sync.bundle_rows r USING (user_pk) WHERE u.user_id = $4 AND r.bundle_seq = $5`, rows, liveRowDelta, bytesBefore, scope, bundleSeq)
		return err
	})
}

// push stages and commits rows, and returns the refusal, if any.
func push(t *testing.T, conn *pgx.Conn, scope, source string, rows ...stagedRow) *pgconn.PgError {
	t.Helper()
	err := commitPush(t.Context(), conn, stage(t, conn, scope, source, rows...), scope, source)
	if err == nil {
		return nil
	}
	var refusal *pgconn.PgError
	require.ErrorAs(t, err, &refusal)
	return refusal
}

// version returns the version of a row that the log has.
func version(t *testing.T, conn *pgx.Conn, scope, table, key string) int64 {
	t.Helper()
	return value[int64](t, conn, `SELECT coalesce(max(r.bundle_seq), 0) FROM sync.bundle_rows r JOIN sync.user_state u ON u.user_pk = r.user_pk JOIN sync.table_catalog c ON c.table_id = r.table_id
		WHERE u.user_id = $1 AND c.relation = $2::text::regclass AND sync.key_text(r.table_id, r.key_bytes) = $3`, scope, table, key)
}

// waitsForLock waits until a backend waits for a lock.
func waitsForLock(t *testing.T, conn *pgx.Conn, pid uint32) {
	t.Helper()
	require.Eventually(t, func() bool {
		return value[bool](t, conn, "SELECT coalesce(bool_or(wait_event_type = 'Lock'), false) FROM pg_stat_activity WHERE pid = $1", pid)
	}, 30*time.Second, 5*time.Millisecond)
}

// TestAnApplicationIsNeverTheVictim: a push and a transaction of an application write the same rows in opposite orders, whoever comes
// first. The push gives way and is tried again, and the application notices nothing.
func TestAnApplicationIsNeverTheVictim(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := pgtest.NewDatabase(t)
	app, device, watcher := connect(t, url), connect(t, url), connect(t, url)
	exec(t, app, office)
	inTx(t, app, func() { exec(t, app, fmt.Sprintf(officeRegistered, "move")) })
	exec(t, app, officeRows)
	rename := func(name string) (rows []stagedRow) {
		for _, id := range []string{list1, list2} {
			rows = append(rows, stagedRow{"office.list", "U", version(t, app, "1", "office.list", id), id, fmt.Sprintf(`{"name":%q}`, name)})
		}
		return rows
	}
	t.Run("the application holds a row that the push wants", func(t *testing.T) {
		id := stage(t, device, "1", "phone", rename("pushed")...)
		exec(t, app, "BEGIN; UPDATE office.list SET name = 'app' WHERE id = '"+list2+"'")
		pushed := make(chan error, 1)
		go func() { pushed <- commitPush(ctx, device, id, "1", "phone") }()
		// Until it waits, or has given way already.
		require.Eventually(t, func() bool {
			return len(pushed) == 1 || value[bool](t, watcher, "SELECT coalesce(bool_or(wait_event_type = 'Lock'), false) FROM pg_stat_activity WHERE pid = $1", device.PgConn().PID())
		}, 30*time.Second, 5*time.Millisecond)
		// The push holds the scope and the other list: this waits for both, until the push gives way.
		exec(t, app, "UPDATE office.list SET name = 'app' WHERE id = '"+list1+"'")
		exec(t, app, "COMMIT")
		requireGaveWay(t, <-pushed)
		refusal := commitPush(ctx, device, id, "1", "phone")
		var conflict *pgconn.PgError
		require.ErrorAs(t, refusal, &conflict)
		require.Equal(t, "OV013", conflict.Code, "tried again, it meets what the application wrote")
		requireSound(t, watcher)
	})
	t.Run("the push holds the scope that the application commits to", func(t *testing.T) {
		id := stage(t, device, "1", "phone", rename("pushed")...)
		exec(t, app, "BEGIN; UPDATE office.label SET color = 'app' WHERE id = 'red'; UPDATE office.list SET name = 'app' WHERE id = '"+list2+"'")
		holder := connect(t, url)
		exec(t, holder, "BEGIN; SELECT FROM office.list WHERE id = '"+list1+"' FOR UPDATE")
		pushed := make(chan error, 1)
		go func() { pushed <- commitPush(ctx, device, id, "1", "phone") }()
		requireEventuallyDone(t, func() error { _, err := app.Exec(ctx, "COMMIT"); return err })
		err := <-pushed
		exec(t, holder, "COMMIT")
		var refusal *pgconn.PgError
		require.ErrorAs(t, err, &refusal)
		// It gave way, or came only after the application and meets what that wrote.
		require.Contains(t, []string{pgerrcode.LockNotAvailable, "OV013"}, refusal.Code, refusal.Message)
		requireSound(t, watcher)
	})
	t.Run("many at once", func(t *testing.T) {
		done := make(chan error, 1)
		stop := make(chan struct{})
		go func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				first, second := list1, list2
				if i%2 == 1 {
					first, second = list2, list1
				}
				if _, err := app.Exec(ctx, fmt.Sprintf("BEGIN; UPDATE office.list SET name = 'app %d' WHERE id = '%s'; UPDATE office.list SET name = 'app' WHERE id = '%s'; COMMIT", i, first, second)); err != nil {
					done <- err
					return
				}
			}
		}()
		other := connect(t, url)
		for i := range 30 {
			var rows []stagedRow
			for _, id := range []string{list1, list2} {
				rows = append(rows, stagedRow{"office.list", "U", version(t, other, "1", "office.list", id), id, fmt.Sprintf(`{"name":"push %d"}`, i)})
			}
			if refusal := push(t, device, "1", "phone", rows...); refusal != nil {
				require.Contains(t, []string{"OV013", pgerrcode.LockNotAvailable, pgerrcode.DeadlockDetected}, refusal.Code, refusal.Message)
			}
		}
		close(stop)
		require.NoError(t, <-done, "the application was never the victim")
		requireSound(t, watcher)
	})
}

// TestASessionIsReplaced: a client whose connection broke opens its session again, whatever others do meanwhile.
func TestASessionIsReplaced(t *testing.T) {
	t.Parallel()
	const create = "SELECT push_id::text FROM sync.push_create('u', 'phone', 1, 2, NULL, '15min', '15min')"
	url := pgtest.NewDatabase(t)
	first, again, other := connect(t, url), connect(t, url), connect(t, url)
	exec(t, first, note)
	exec(t, first, "SELECT sync.register_table('public.note')")
	initialized(t, first, "u")

	// A chunk is on its way: it goes with its session.
	id := value[string](t, first, create)
	exec(t, first, "BEGIN")
	exec(t, first, `SELECT sync.push_stage($1, 'u', 'phone', 0, (SELECT version FROM sync.catalog_version), ARRAY[(SELECT table_id FROM sync.table_catalog)], 'I',
		'{0}', ARRAY[convert_to('a', 'UTF8')], '{"{}"}', '15min', '15min')`, id)
	replaced := make(chan error, 1)
	go func() { _, err := again.Exec(context.Background(), create); replaced <- err }()
	waitsForLock(t, other, again.PgConn().PID())
	exec(t, first, "COMMIT")
	require.NoError(t, <-replaced)
	require.Empty(t, column[string](t, other, "SELECT push_id::text FROM sync.push_chunks"))
	require.NotContains(t, column[string](t, other, "SELECT push_id::text FROM sync.push_sessions"), id)

	// Another source holds the scope for long.
	exec(t, other, "BEGIN; SELECT FROM sync.user_state FOR NO KEY UPDATE")
	exec(t, again, "SET lock_timeout = '1s'")
	exec(t, again, create)
	exec(t, other, "COMMIT")
}

// TestASessionIsAskedForWhileItCommits: whoever comes again hears that the bundle is committed, however the transaction that commits it was
// interleaved with the question, or is told to try again.
func TestASessionIsAskedForWhileItCommits(t *testing.T) {
	t.Parallel()
	for _, isolation := range []string{"read committed", "serializable"} {
		t.Run(isolation, func(t *testing.T) {
			t.Parallel()
			url := pgtest.NewDatabase(t)
			device, again, watcher := connect(t, url), connect(t, url), connect(t, url)
			exec(t, device, note)
			exec(t, device, "SELECT sync.register_table('public.note')")
			initialized(t, device, "u")
			exec(t, again, "SET default_transaction_isolation = '"+isolation+"'")
			id := stage(t, device, "u", "phone", stagedRow{"public.note", "I", 0, "a", `{"id":"a"}`})
			exec(t, device, "BEGIN")
			exec(t, device, "SELECT * FROM sync.push_commit($1::text::uuid, 'u', 'phone', 0, '15min')", id)
			create := func() (isCommitted bool, err error) {
				err = again.QueryRow(context.Background(), "SELECT push_id IS NULL AND bundle_seq = 1 FROM sync.push_create('u', 'phone', 1, 1, NULL, '15min', '15min')").Scan(&isCommitted)
				return isCommitted, err
			}
			var isCommitted bool
			asked := make(chan error, 1)
			go func() {
				var err error
				isCommitted, err = create()
				asked <- err
			}()
			waitsForLock(t, watcher, again.PgConn().PID())
			exec(t, device, closeBundle)
			exec(t, device, "COMMIT")
			if err := <-asked; isolation == "serializable" {
				var refusal *pgconn.PgError
				require.ErrorAs(t, err, &refusal)
				require.Equal(t, pgerrcode.SerializationFailure, refusal.Code)
				isCommitted, err = create()
				require.NoError(t, err)
			} else {
				require.NoError(t, err)
			}
			require.True(t, isCommitted)
			require.Empty(t, column[string](t, watcher, "SELECT push_id::text FROM sync.push_sessions"))
		})
	}
}

// requireGaveWay: the push was refused in a way that the server tries again.
func requireGaveWay(t *testing.T, err error) {
	t.Helper()
	var refusal *pgconn.PgError
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, pgerrcode.LockNotAvailable, refusal.Code, refusal.Message)
}

func requireEventuallyDone(t *testing.T, do func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(30 * time.Second):
		require.Fail(t, "still waiting")
	}
}

// TestAParentMovesMeanwhile: what a transaction knows of whose a row is may be old when it commits.
func TestAParentMovesMeanwhile(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, first, second string }{
		{"a child is written", "UPDATE office.task SET title = 'x' WHERE id = 't1'", "UPDATE office.list SET owner_id = 3 WHERE id = '" + list1 + "'"},
		{"a child is made", "INSERT INTO office.task (id, list_id) VALUES ('t9', '" + list1 + "')", "UPDATE office.list SET owner_id = 3 WHERE id = '" + list1 + "'"},
		{"a grandchild is made", "INSERT INTO office.step (task_id) VALUES ('t1')", "UPDATE office.task SET list_id = '" + list3 + "', label_id = NULL WHERE id = 't1'"},
		{"the child is deleted", "DELETE FROM office.step", "UPDATE office.list SET owner_id = 2 WHERE id = '" + list1 + "'"},
		{"the child moves too", "UPDATE office.task SET list_id = '" + list3 + "', label_id = NULL WHERE id = 't1'", "UPDATE office.list SET owner_id = 3 WHERE id = '" + list3 + "'"},
		{"it is referred to", "UPDATE office.task SET label_id = 'red' WHERE id = 't2'", "UPDATE office.label SET owner_id = '2' WHERE id = 'red'"},
	} {
		for _, order := range []string{"first commits first", "second commits first"} {
			t.Run(c.name+", "+order, func(t *testing.T) {
				t.Parallel()
				url := pgtest.NewDatabase(t)
				one, two, watcher := connect(t, url), connect(t, url), connect(t, url)
				exec(t, one, office)
				inTx(t, one, func() { exec(t, one, fmt.Sprintf(officeRegistered, "move")) })
				exec(t, one, officeRows)
				exec(t, one, "UPDATE office.task SET label_id = NULL")
				for _, conn := range []*pgx.Conn{one, two} {
					exec(t, conn, "BEGIN")
				}
				exec(t, one, c.first)
				exec(t, two, c.second)
				if order == "second commits first" {
					one, two = two, one
				}
				// A third transaction holds all scopes, so that both come to their locks with what they have looked up before.
				exec(t, watcher, "BEGIN; SELECT FROM sync.user_state FOR UPDATE")
				results := make(chan error, 2)
				for _, conn := range []*pgx.Conn{one, two} {
					go func() { _, err := conn.Exec(context.Background(), "COMMIT"); results <- err }()
					waitsForLock(t, watcher, conn.PgConn().PID())
				}
				exec(t, watcher, "COMMIT")
				refusals := 0
				for range 2 {
					if err := <-results; err != nil {
						var refusal *pgconn.PgError
						require.True(t, errors.As(err, &refusal))
						require.Equal(t, "OV033", refusal.Code, refusal.Message)
						refusals++
					}
				}
				if c.name == "it is referred to" {
					require.Equal(t, 1, refusals, "the second makes the reference cross scopes")
				} else {
					require.Zero(t, refusals)
				}
				requireSound(t, watcher)
				require.Equal(t, content(t, watcher, officeContent), content(t, watcher, logContent))
			})
		}
	}
}

// initialized makes a scope that a push can be committed to.
func initialized(t *testing.T, conn *pgx.Conn, scope string) *pgx.Conn {
	t.Helper()
	exec(t, conn, "SELECT sync.connect($1, 'first', false, '15min')", scope)
	return conn
}
