package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// officeContent reads all rows of the office with their scopes, by column lists and joins written by hand.
const officeContent = `
SELECT l.owner_id::text AS scope, 'list' AS table_name, l.id::text AS key, row_to_json(q)::text AS content
FROM office.list l CROSS JOIN LATERAL (SELECT l.id, l.name, l.weight) q
UNION ALL
SELECT l.owner_id, 'label', l.id, row_to_json(q)::text FROM office.label l CROSS JOIN LATERAL (SELECT l.color, l.facts, l.id, l.owner_id, l.raw) q
UNION ALL
SELECT l.owner_id::text, 'task', t.id, row_to_json(q)::text FROM office.task t JOIN office.list l ON l.id = t.list_id CROSS JOIN LATERAL (SELECT t.done, t.id, t.label_id, t.list_id, t.title) q
UNION ALL
SELECT l.owner_id::text, 'step', s.id::text, row_to_json(q)::text
FROM office.step s JOIN office.task t ON t.id = s.task_id JOIN office.list l ON l.id = t.list_id CROSS JOIN LATERAL (SELECT s.body, s.id, s.task_id) q`

// logContent reads the same out of the log: the newest version of each row of each scope.
const logContent = `
SELECT u.user_id, t.table_name, CASE t.key_type WHEN 'uuid' THEN encode(n.key_bytes, 'hex')::uuid::text ELSE convert_from(n.key_bytes, 'UTF8') END, n.payload
FROM (SELECT DISTINCT ON (r.user_pk, r.table_id, r.key_bytes) r.* FROM sync.bundle_rows r ORDER BY r.user_pk, r.table_id, r.key_bytes, r.bundle_seq DESC) n
JOIN sync.user_state u ON u.user_pk = n.user_pk JOIN sync.table_catalog t ON t.table_id = n.table_id
WHERE n.op <> 'D'`

type scopedKey struct{ scope, table, key string }

func content(t require.TestingT, conn *pgx.Conn, sql string) map[scopedKey]string {
	rows, err := conn.Query(context.Background(), sql)
	require.NoError(t, err)
	found := map[scopedKey]string{}
	var key scopedKey
	var row string
	_, err = pgx.ForEachRow(rows, []any{&key.scope, &key.table, &key.key, &row}, func() error {
		if _, is := found[key]; is {
			return fmt.Errorf("%v is there twice", key)
		}
		found[key] = row
		return nil
	})
	require.NoError(t, err)
	return found
}

// TestPlainSQLAgainstOracle plays random transactions over the office, and after each compares the log with the tables.
func TestPlainSQLAgainstOracle(t *testing.T) {
	t.Parallel()
	for _, onScopeChange := range []string{"move", "refuse"} {
		t.Run(onScopeChange, func(t *testing.T) {
			t.Parallel()
			conn := newOffice(t, onScopeChange)
			exec(t, conn, "SET timezone = 'UTC'")
			rapid.Check(t, func(t *rapid.T) {
				writer := &plainWriter{t: t, conn: conn}
				writer.exec("DELETE FROM office.list; DELETE FROM office.label")
				writer.exec(officeRows)
				for range rapid.IntRange(1, 4).Draw(t, "transactions") {
					writer.transaction()
				}
			})
		})
	}
}

// plainWriter writes as an application does that knows nothing of sync.
type plainWriter struct {
	t    *rapid.T
	conn *pgx.Conn
}

func (w *plainWriter) exec(sql string) {
	_, err := w.conn.Exec(context.Background(), sql)
	require.NoError(w.t, err, sql)
}

// isRefusal says whether a constraint, or what sync promises, refused the statement. Every other error is a failure.
func (w *plainWriter) isRefusal(sql string, err error) bool {
	var refusal *pgconn.PgError
	if errors.As(err, &refusal) {
		switch refusal.Code {
		case pgerrcode.UniqueViolation, pgerrcode.ForeignKeyViolation, pgerrcode.CardinalityViolation, pgerrcode.TriggeredDataChangeViolation, "OV033", "OV034":
			w.t.Log(refusal.Message)
			return true
		}
	}
	require.NoError(w.t, err, sql)
	return false
}

func (w *plainWriter) next() map[string]int64 {
	next := map[string]int64{}
	rows, err := w.conn.Query(context.Background(), "SELECT user_id, next_bundle_seq FROM sync.user_state")
	require.NoError(w.t, err)
	var scope string
	var seq int64
	_, err = pgx.ForEachRow(rows, []any{&scope, &seq}, func() error { next[scope] = seq; return nil })
	require.NoError(w.t, err)
	return next
}

func (w *plainWriter) transaction() {
	ctx := context.Background()
	before, next := content(w.t, w.conn, officeContent), w.next()
	w.exec("BEGIN")
	defer func() {
		if w.conn.PgConn().TxStatus() != 'I' {
			_, err := w.conn.Exec(ctx, "ROLLBACK")
			require.NoError(w.t, err)
		}
	}()
	savepoints := 0
	for range rapid.IntRange(1, 8).Draw(w.t, "operations") {
		switch rapid.IntRange(0, 9).Draw(w.t, "kind") {
		case 8:
			savepoints++
			w.exec(fmt.Sprintf("SAVEPOINT s%d", savepoints))
			continue
		case 9:
			if savepoints > 0 {
				savepoints = rapid.IntRange(1, savepoints).Draw(w.t, "back to")
				w.exec(fmt.Sprintf("ROLLBACK TO s%d", savepoints))
			}
			continue
		}
		sql := w.statement()
		w.t.Log(sql)
		w.exec("SAVEPOINT statement")
		_, err := w.conn.Exec(ctx, sql)
		if w.isRefusal(sql, err) {
			w.exec("ROLLBACK TO statement")
		}
		w.exec("RELEASE statement")
	}
	_, err := w.conn.Exec(ctx, rapid.SampledFrom([]string{"COMMIT", "COMMIT", "COMMIT", "ROLLBACK"}).Draw(w.t, "end"))
	isRefused := w.isRefusal("COMMIT", err)
	after, nextAfter := content(w.t, w.conn, officeContent), w.next()
	if isRefused {
		require.Equal(w.t, before, after)
		require.Equal(w.t, next, nextAfter)
	}
	require.Equal(w.t, after, content(w.t, w.conn, logContent), "the log replayed is the tables")
	// A scope whose rows changed has one bundle more, and none has two.
	changed := map[string]bool{}
	for key, row := range before {
		if now, is := after[key]; !is || now != row {
			changed[key.scope] = true
		}
	}
	for key := range after {
		if _, was := before[key]; !was {
			changed[key.scope] = true
		}
	}
	for scope, seq := range nextAfter {
		bundles := seq - max(next[scope], 1)
		require.LessOrEqual(w.t, bundles, int64(1), "scope %s", scope)
		if changed[scope] {
			require.EqualValues(w.t, 1, bundles, "scope %s", scope)
		}
	}
	requireSound(w.t, w.conn)
}

// statement draws a statement about a few rows of one of the tables, in one scope or several.
func (w *plainWriter) statement() string {
	list := func() string { return rapid.SampledFrom([]string{list1, list2, list3, step1}).Draw(w.t, "list") }
	owner := func() string { return rapid.SampledFrom([]string{"1", "2", "3"}).Draw(w.t, "owner") }
	task := func() string { return rapid.SampledFrom([]string{"t1", "t2", "t3", "t4"}).Draw(w.t, "task") }
	label := func() string {
		return rapid.SampledFrom([]string{"NULL", "'red'", "'blue'", "'green'"}).Draw(w.t, "label")
	}
	text := func() string { return rapid.SampledFrom([]string{"NULL", "'x'", "'é\n'"}).Draw(w.t, "text") }
	conflict := func(set string) string {
		return rapid.SampledFrom([]string{"", " ON CONFLICT DO NOTHING", " ON CONFLICT (id) DO UPDATE SET " + set}).Draw(w.t, "conflict")
	}
	where := func(key string) string {
		return rapid.SampledFrom([]string{" WHERE id = '" + key + "'", " WHERE id <> '" + key + "'", ""}).Draw(w.t, "where")
	}
	switch rapid.SampledFrom([]string{
		"insert list", "insert task", "insert step", "insert label", "rename list", "touch tasks", "touch steps", "move list", "move task", "move step", "move label", "label tasks", "rekey list", "rekey task",
		"rekey label", "delete list", "delete task", "delete label", "delete steps", "swap", "merge", "exchange", "constraints",
	}).Draw(w.t, "statement") {
	case "insert list":
		return fmt.Sprintf("INSERT INTO office.list (id, owner_id, name) VALUES ('%s', %s, %s)%s", list(), owner(), text(), conflict("owner_id = excluded.owner_id"))
	case "insert task":
		return fmt.Sprintf("INSERT INTO office.task (id, list_id, label_id) VALUES ('%s', '%s', %s), ('%s', '%s', NULL)%s", task(), list(), label(), task(), list(), conflict("list_id = excluded.list_id"))
	case "insert step":
		return fmt.Sprintf("INSERT INTO office.step (id, task_id) VALUES ('%s', '%s')%s", rapid.SampledFrom([]string{step1, list1}).Draw(w.t, "step"), task(), conflict("task_id = excluded.task_id"))
	case "insert label":
		return fmt.Sprintf("INSERT INTO office.label (id, owner_id) VALUES (%s, '%s')%s", strings.Replace(label(), "NULL", "'grey'", 1), owner(), conflict("owner_id = excluded.owner_id"))
	case "rename list":
		return "UPDATE office.list SET name = " + text() + where(list())
	case "touch tasks":
		return "UPDATE office.task SET title = " + text() + where(task())
	case "touch steps":
		return "UPDATE office.step SET body = " + text()
	case "move list":
		return "UPDATE office.list SET owner_id = " + owner() + where(list())
	case "move task":
		return "UPDATE office.task SET list_id = '" + list() + "'" + where(task())
	case "move step":
		return "UPDATE office.step SET task_id = '" + task() + "'"
	case "move label":
		return "UPDATE office.label SET owner_id = '" + owner() + "' WHERE id IS NOT DISTINCT FROM " + label()
	case "label tasks":
		return "UPDATE office.task SET label_id = " + label() + where(task())
	case "rekey list":
		return "UPDATE office.list SET id = '" + list() + "' WHERE id = '" + list() + "'"
	case "rekey task":
		return "UPDATE office.task SET id = '" + task() + "' WHERE id = '" + task() + "'"
	case "rekey label":
		return "UPDATE office.label SET id = id || '+' WHERE id IS NOT DISTINCT FROM " + label()
	case "delete list":
		return "DELETE FROM office.list" + where(list())
	case "delete task":
		return "DELETE FROM office.task" + where(task())
	case "delete label":
		return "DELETE FROM office.label WHERE id IS NOT DISTINCT FROM " + label()
	case "delete steps":
		return "DELETE FROM office.step"
	case "swap":
		return fmt.Sprintf("UPDATE office.task SET id = 'tmp' WHERE id = '%[1]s'; UPDATE office.task SET id = '%[1]s' WHERE id = '%[2]s'; UPDATE office.task SET id = '%[2]s' WHERE id = 'tmp'", task(), task())
	case "merge":
		return fmt.Sprintf(`MERGE INTO office.task t USING (VALUES ('%s', 1), ('t4', 2)) AS s(id, what) ON t.id = s.id
			WHEN MATCHED AND s.what = 1 THEN DELETE WHEN MATCHED THEN UPDATE SET list_id = '%s' WHEN NOT MATCHED THEN INSERT (id, list_id) VALUES (s.id, '%s')`,
			rapid.SampledFrom([]string{"t1", "t2", "t3"}).Draw(w.t, "task"), list(), list())
	case "exchange":
		return "UPDATE office.list SET owner_id = 3 - owner_id WHERE owner_id IN (1, 2); UPDATE office.label SET owner_id = (3 - owner_id::integer)::text WHERE owner_id IN ('1', '2')"
	default:
		return "SET CONSTRAINTS ALL " + rapid.SampledFrom([]string{"IMMEDIATE", "DEFERRED"}).Draw(w.t, "when")
	}
}
