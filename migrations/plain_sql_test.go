package migrations_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
)

// office is an application that knows nothing of sync: owners by number, children without an owner, references without one.
//
//	list     the owner is a column
//	task     finds its owner through its list
//	step     finds it through its task; goes along when the task's list gets another owner
//	label    the owner is a column of another type; a task may name one, which must be of the same owner
const office = `
CREATE SCHEMA office;
CREATE TABLE office.list (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), owner_id bigint NOT NULL, name text, weight numeric);
CREATE TABLE office.label (id text PRIMARY KEY, owner_id varchar(40) NOT NULL, color text, facts jsonb, raw json);
CREATE TABLE office.task (
    id text PRIMARY KEY, list_id uuid NOT NULL REFERENCES office.list ON DELETE CASCADE ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED,
    label_id text REFERENCES office.label ON DELETE SET NULL ON UPDATE CASCADE DEFERRABLE, title text, done boolean NOT NULL DEFAULT false);
CREATE INDEX ON office.task (list_id);
CREATE TABLE office.step (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), task_id text NOT NULL REFERENCES office.task ON DELETE CASCADE ON UPDATE CASCADE, body text);
CREATE INDEX ON office.step (task_id);
`

// officeRegistered are the calls that register the office; %s is what becomes of children when their parent gets another owner.
const officeRegistered = `
SELECT sync.register_table('office.step', scope_via => 'task_id', on_scope_change => '%[1]s', policy => 'capture');
SELECT sync.register_table('office.task', scope_via => 'list_id', on_scope_change => '%[1]s', policy => 'capture');
SELECT sync.register_table('office.list', scope => 'owner_id', policy => 'capture');
SELECT sync.register_table('office.label', scope => 'owner_id', policy => 'capture', show_scope => true);`

func newOffice(t *testing.T, onScopeChange string) *pgx.Conn {
	t.Helper()
	conn := connect(t, pgtest.NewDatabase(t))
	exec(t, conn, office)
	inTx(t, conn, func() { exec(t, conn, fmt.Sprintf(officeRegistered, onScopeChange)) })
	return conn
}

// soundness are queries that have no rows while the log is as it must be: every scope equal to its live rows, bundles numbered
// without gaps, effects numbered densely, counts right, nothing left of transactions.
var soundness = map[string]string{
	"differences": `SELECT concat_ws(' ', u.user_id, v.table_name, v.key, v.difference, v.live_row, v.log_row) FROM sync.user_state u CROSS JOIN LATERAL sync.verify(u.user_id) v`,
	"bundles": `
		SELECT format('%s: next %s, newest %s of %s', u.user_id, u.next_bundle_seq, max(l.bundle_seq), count(l.bundle_seq)) FROM sync.user_state u LEFT JOIN sync.bundle_log l ON l.user_pk = u.user_pk
		GROUP BY u.user_pk HAVING count(l.bundle_seq) <> u.next_bundle_seq - 1 OR max(l.bundle_seq) <> u.next_bundle_seq - 1`,
	"sources": `
		SELECT format('%s: %s', s.source_id, s.last_source_bundle_id) FROM sync.source_state s LEFT JOIN sync.bundle_log l ON l.user_pk = s.user_pk AND l.source_id = s.source_id
		GROUP BY s.user_pk, s.source_id HAVING count(l.bundle_seq) <> s.last_source_bundle_id OR max(l.source_bundle_id) <> s.last_source_bundle_id`,
	"effects": `
		SELECT format('bundle %s/%s: %s rows, %s to %s', l.user_pk, l.bundle_seq, count(r.row_ordinal), min(r.row_ordinal), max(r.row_ordinal))
		FROM sync.bundle_log l FULL JOIN sync.bundle_rows r ON r.user_pk = l.user_pk AND r.bundle_seq = l.bundle_seq
		GROUP BY l.user_pk, l.bundle_seq
		HAVING count(r.row_ordinal) IS DISTINCT FROM l.row_count OR min(r.row_ordinal) <> 0 OR max(r.row_ordinal) <> l.row_count - 1`,
	"one effect a row": `SELECT format('%s %s %s', r.user_pk, r.bundle_seq, r.key_bytes) FROM sync.bundle_rows r GROUP BY r.user_pk, r.bundle_seq, r.table_id, r.key_bytes HAVING count(*) > 1`,
	"counts": `
		SELECT format('%s: %s rows of %s bytes, not %s of %s', u.user_id, u.live_row_count, u.live_byte_count, count(n.payload), coalesce(sum(octet_length(n.payload)), 0))
		FROM sync.user_state u
		LEFT JOIN (SELECT DISTINCT ON (r.user_pk, r.table_id, r.key_bytes) r.user_pk, r.table_id, r.payload FROM sync.bundle_rows r ORDER BY r.user_pk, r.table_id, r.key_bytes, r.bundle_seq DESC) n
		    ON n.user_pk = u.user_pk AND n.table_id IN (SELECT t.table_id FROM sync.table_catalog t WHERE t.unregistered_at IS NULL)
		GROUP BY u.user_pk HAVING u.live_row_count <> count(n.payload) OR u.live_byte_count <> coalesce(sum(octet_length(n.payload)), 0)`,
	"owners": `
		SELECT format('%s %s: %s', coalesce(n.table_id, o.table_id), coalesce(n.key_bytes, o.key_bytes), o.user_pk)
		FROM (SELECT DISTINCT ON (r.user_pk, r.table_id, r.key_bytes) r.user_pk, r.table_id, r.key_bytes, r.op
		      FROM sync.bundle_rows r JOIN sync.table_catalog t ON t.table_id = r.table_id AND t.unregistered_at IS NULL AND t.scope_via IS NOT NULL
		      ORDER BY r.user_pk, r.table_id, r.key_bytes, r.bundle_seq DESC) n
		FULL JOIN sync.row_owners o ON o.table_id = n.table_id AND o.user_pk = n.user_pk AND o.key_bytes = n.key_bytes
		WHERE (n.op IS NOT NULL AND n.op <> 'D') <> (o.user_pk IS NOT NULL)`,
	"captured keys": `SELECT c.capture_no::text FROM sync.captured_keys c`,
	"open bundles":  `SELECT b.user_id FROM sync.open_bundles b WHERE NOT b.is_implicit`,
}

// requireSound looks at everything that must hold of the log while no transaction writes.
func requireSound(t require.TestingT, conn *pgx.Conn) {
	for what, sql := range soundness {
		rows, err := conn.Query(context.Background(), sql)
		require.NoError(t, err, what)
		wrong, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err, what)
		require.Empty(t, wrong, what)
	}
}

// newest returns the effects of the newest bundle of a scope, as "op table key".
func newest(t *testing.T, conn *pgx.Conn, scope string) []string {
	t.Helper()
	seq := value[int64](t, conn, "SELECT coalesce(max(next_bundle_seq) - 1, 0) FROM sync.user_state WHERE user_id = $1", scope)
	return brief(newestEffects(t, conn, scope, seq))
}

// bundleCounts returns how many bundles each scope has, as "scope count".
func bundleCounts(t *testing.T, conn *pgx.Conn) []string {
	t.Helper()
	return column[string](t, conn, `SELECT u.user_id || ' ' || u.next_bundle_seq - 1 FROM sync.user_state u WHERE u.next_bundle_seq > 1 ORDER BY u.user_id COLLATE "C"`)
}

const (
	list1 = "00000000-0000-0000-0000-000000000001"
	list2 = "00000000-0000-0000-0000-000000000002"
	list3 = "00000000-0000-0000-0000-000000000003"
	step1 = "10000000-0000-0000-0000-000000000001"
)

// officeRows are two lists of owner 1 and one of owner 2, with a task each and a step.
const officeRows = `
BEGIN;
INSERT INTO office.list (id, owner_id, name) VALUES ('` + list1 + `', 1, 'a'), ('` + list2 + `', 1, 'b'), ('` + list3 + `', 2, 'c');
INSERT INTO office.label (id, owner_id, color) VALUES ('red', '1', 'red'), ('blue', '2', 'blue');
INSERT INTO office.task (id, list_id, label_id) VALUES ('t1', '` + list1 + `', 'red'), ('t2', '` + list2 + `', NULL), ('t3', '` + list3 + `', 'blue');
INSERT INTO office.step (id, task_id) VALUES ('` + step1 + `', 't1');
COMMIT;`

func TestPlainSQLBecomesBundles(t *testing.T) {
	t.Parallel()
	conn := newOffice(t, "move")
	exec(t, conn, officeRows)
	require.Equal(t, []string{"1 1", "2 1"}, bundleCounts(t, conn))
	require.Equal(t, []string{"I list " + list1, "I list " + list2, "I label red", "I task t1", "I task t2", "I step " + step1}, newest(t, conn, "1"))
	require.Equal(t, []string{"I list " + list3, "I label blue", "I task t3"}, newest(t, conn, "2"))
	for _, c := range []struct {
		name, sql string
		one, two  []string // the effects in the scopes 1 and 2; nil: no bundle
	}{
		{name: "one statement", sql: "UPDATE office.list SET name = 'x' WHERE id = '" + list1 + "'", one: []string{"U list " + list1}},
		{name: "several scopes", sql: "UPDATE office.list SET name = 'y'", one: []string{"U list " + list1, "U list " + list2}, two: []string{"U list " + list3}},
		{name: "nothing", sql: "UPDATE office.list SET name = 'y' WHERE false"},
		{name: "through a parent", sql: "UPDATE office.task SET done = true", one: []string{"U task t1", "U task t2"}, two: []string{"U task t3"}},
		{name: "through two parents", sql: "UPDATE office.step SET body = 'x'", one: []string{"U step " + step1}},
		{name: "of one statement with parts", sql: "WITH l AS (UPDATE office.list SET name = 'z' WHERE owner_id = 2 RETURNING id) INSERT INTO office.task (id, list_id) SELECT 't4', id FROM l", two: []string{"I task t4", "U list " + list3}},
		{
			name: "merge", sql: `MERGE INTO office.label l USING (VALUES ('red', '1', 'pink'), ('green', '2', 'green'), ('blue', '2', NULL)) AS s(id, owner, color) ON l.id = s.id
			WHEN MATCHED AND s.color IS NULL THEN DELETE WHEN MATCHED THEN UPDATE SET color = s.color WHEN NOT MATCHED THEN INSERT (id, owner_id) VALUES (s.id, s.owner)`,
			one: []string{"U label red"}, two: []string{"I label green", "D label blue", "U task t3"},
		},
		{name: "on conflict", sql: "INSERT INTO office.label (id, owner_id) VALUES ('red', '1'), ('grey', '1') ON CONFLICT (id) DO UPDATE SET color = 'mixed'", one: []string{"I label grey", "U label red"}},
		{name: "on conflict do nothing", sql: "INSERT INTO office.label (id, owner_id) VALUES ('red', '1') ON CONFLICT DO NOTHING"},
		{name: "copy", sql: `COPY office.label (id, owner_id) FROM PROGRAM 'printf "c1\\t1\\nc2\\t2\\n"'`, one: []string{"I label c1"}, two: []string{"I label c2"}},
		{
			name: "savepoints", sql: "BEGIN; UPDATE office.list SET name = 'kept' WHERE owner_id = 1; SAVEPOINT a; UPDATE office.list SET name = 'lost'; INSERT INTO office.label (id, owner_id) VALUES ('lost', '3'); ROLLBACK TO a; UPDATE office.task SET title = 'kept' WHERE id = 't2'; RELEASE a; COMMIT",
			one: []string{"U list " + list1, "U list " + list2, "U task t2"},
		},
		{name: "rolled back", sql: "BEGIN; UPDATE office.list SET name = 'lost'; ROLLBACK"},
		{name: "inserted and deleted", sql: "BEGIN; INSERT INTO office.label (id, owner_id) VALUES ('gone', '1'); DELETE FROM office.label WHERE id = 'gone'; COMMIT"},
		{name: "another key", sql: "UPDATE office.label SET id = 'crimson' WHERE id = 'red'", one: []string{"D label red", "I label crimson", "U task t1"}},
		{name: "another scope", sql: "UPDATE office.label SET owner_id = '2' WHERE id = 'grey'", one: []string{"D label grey"}, two: []string{"I label grey"}},
		{name: "a parent in another scope", sql: "UPDATE office.list SET owner_id = 2 WHERE id = '" + list2 + "'", one: []string{"D list " + list2, "D task t2"}, two: []string{"I list " + list2, "I task t2"}},
		{name: "another parent", sql: "UPDATE office.task SET list_id = '" + list1 + "' WHERE id = 't4'", one: []string{"I task t4"}, two: []string{"D task t4"}},
		{name: "another parent and back", sql: "BEGIN; UPDATE office.task SET list_id = '" + list3 + "', label_id = NULL WHERE id = 't4'; UPDATE office.task SET list_id = '" + list1 + "' WHERE id = 't4'; COMMIT", one: []string{"U task t4"}},
		{name: "the writer's role", sql: "BEGIN; SET CONSTRAINTS ALL DEFERRED; DELETE FROM office.step; COMMIT", one: []string{"D step " + step1}},
		{name: "cascades", sql: "DELETE FROM office.list WHERE owner_id = 1", one: []string{"D task t1", "D task t4", "D list " + list1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := value[map[string]int](t, conn, "SELECT coalesce(jsonb_object_agg(user_id, next_bundle_seq), '{}') FROM sync.user_state")
			exec(t, conn, c.sql)
			after := value[map[string]int](t, conn, "SELECT coalesce(jsonb_object_agg(user_id, next_bundle_seq), '{}') FROM sync.user_state")
			for scope, effects := range map[string][]string{"1": c.one, "2": c.two} {
				if effects == nil {
					require.Equal(t, before[scope], after[scope], "no bundle in scope %s", scope)
				} else {
					require.Equal(t, before[scope]+1, after[scope], "one bundle in scope %s", scope)
					require.ElementsMatch(t, effects, newest(t, conn, scope))
				}
			}
			requireSound(t, conn)
		})
	}
}

// TestManyStatementsInOneTransaction: what is to be done once, at commit, is not looked for once more after each statement.
func TestManyStatementsInOneTransaction(t *testing.T) {
	t.Parallel()
	conn := newOffice(t, "move")
	const statements = 20_000
	exec(t, conn, "SET statement_timeout = '60s'")
	exec(t, conn, fmt.Sprintf("DO $$ BEGIN FOR i IN 1..%d LOOP INSERT INTO office.label (id, owner_id) VALUES ('l' || i, '7'); END LOOP; END $$", statements))
	require.EqualValues(t, statements, value[int64](t, conn, "SELECT row_count FROM sync.last_bundle()"))
	require.Equal(t, []string{"7 1"}, bundleCounts(t, conn))
}

// TestStatementsOverMostOfATable: the table is read as a whole then, and the log is the same as if its rows had been looked up.
func TestStatementsOverMostOfATable(t *testing.T) {
	t.Parallel()
	conn := newOffice(t, "move")
	exec(t, conn, `INSERT INTO office.label SELECT 'old ' || n, n % 3, 'red' FROM generate_series(1, 300) AS n`)
	inTx(t, conn, func() {
		exec(t, conn, `INSERT INTO office.label SELECT 'new ' || n, n % 5, 'red' FROM generate_series(300, 1, -1) AS n`)
		exec(t, conn, `UPDATE office.label SET color = 'green' WHERE id LIKE '%1'`)
		exec(t, conn, `UPDATE office.label SET owner_id = '7' WHERE id LIKE '%2'`)
		exec(t, conn, `DELETE FROM office.label WHERE id LIKE '%3'`)
		const scans = `SELECT ARRAY[seq_scan, idx_scan] FROM pg_stat_xact_user_tables WHERE relid = 'office.label'::regclass`
		before := value[[]int64](t, conn, scans)
		exec(t, conn, `SET CONSTRAINTS ALL IMMEDIATE`)
		require.Equal(t, []int64{before[0] + 1, before[1]}, value[[]int64](t, conn, scans), "one look at all rows, none at each")
	})
	requireSound(t, conn)
	require.Equal(t, []string{"new 299", "new 294", "new 289"}, column[string](t, conn, `SELECT convert_from(r.key_bytes, 'UTF8')
		FROM sync.bundle_rows r JOIN sync.user_state u USING (user_pk) WHERE u.user_id = '4' ORDER BY r.row_ordinal LIMIT 3`), "in the order of the statement")
	exec(t, conn, `DELETE FROM office.label`)
	requireSound(t, conn)
}

func TestTheOfficeMayRefuse(t *testing.T) {
	t.Parallel()
	conn := newOffice(t, "refuse")
	exec(t, conn, officeRows)
	for sql, code := range map[string]string{
		"UPDATE office.list SET owner_id = 2 WHERE id = '" + list1 + "'":                                                                     "OV034",
		"BEGIN; UPDATE office.task SET label_id = NULL; UPDATE office.list SET owner_id = 2; COMMIT":                                         "OV034",
		"UPDATE office.task SET list_id = '" + list3 + "', label_id = NULL WHERE id = 't1'":                                                  "OV034",
		"UPDATE office.task SET label_id = 'blue' WHERE id = 't1'":                                                                           "OV033",
		"UPDATE office.label SET owner_id = '2' WHERE id = 'red'":                                                                            "OV033",
		"INSERT INTO office.task (id, list_id, label_id) VALUES ('t9', '" + list1 + "', 'blue'), ('t8', '" + list1 + "', 'red')":             "OV033",
		"BEGIN; UPDATE office.task SET label_id = 'blue' WHERE id = 't2'; UPDATE office.task SET title = 'x'; COMMIT":                        "OV033",
		"INSERT INTO office.label (id, owner_id) VALUES ('x', '')":                                                                           pgerrcode.CheckViolation,
		"BEGIN; SET LOCAL sync.writer_id = '" + strings.Repeat("x", 241) + "'; UPDATE office.list SET name = 'x'; COMMIT":                    pgerrcode.InvalidParameterValue,
		"BEGIN; SET LOCAL session_replication_role = 'origin'; INSERT INTO office.task (id, list_id) VALUES ('t9', '" + step1 + "'); COMMIT": pgerrcode.ForeignKeyViolation,
	} {
		refusal := refused(t, conn, sql)
		require.Equal(t, code, refusal.Code, "%s: %s", sql, refusal.Message)
		if conn.PgConn().TxStatus() != 'I' {
			exec(t, conn, "ROLLBACK")
		}
	}
	require.Equal(t, []string{"1 1", "2 1"}, bundleCounts(t, conn))
	// What was refused in one order is accepted where the whole transaction is right.
	exec(t, conn, "BEGIN; UPDATE office.task SET label_id = 'blue' WHERE id = 't2'; UPDATE office.task SET list_id = '"+list3+"' WHERE id = 't2'; COMMIT")
	require.Equal(t, []string{"D task t2"}, newest(t, conn, "1"))
	require.Equal(t, []string{"I task t2"}, newest(t, conn, "2"))
	exec(t, conn, "UPDATE office.list SET owner_id = 2 WHERE id = '"+list2+"'")
	requireSound(t, conn)
}

// TestConstraintsMadeImmediateInTheMiddle: what is written after bundles were made becomes part of them.
func TestConstraintsMadeImmediateInTheMiddle(t *testing.T) {
	t.Parallel()
	conn := newOffice(t, "move")
	exec(t, conn, officeRows)
	exec(t, conn, `BEGIN;
		UPDATE office.list SET name = 'first';
		INSERT INTO office.label (id, owner_id) VALUES ('short-lived', '3'), ('new', '4');
		UPDATE office.task SET list_id = '`+list3+`', label_id = NULL WHERE id = 't1';
		SET CONSTRAINTS ALL IMMEDIATE;
		UPDATE office.list SET name = 'second' WHERE owner_id = 1;
		SET CONSTRAINTS ALL DEFERRED;
		DELETE FROM office.label WHERE id = 'short-lived';
		SAVEPOINT a; UPDATE office.label SET color = 'lost'; SET CONSTRAINTS ALL IMMEDIATE; ROLLBACK TO a;
		INSERT INTO office.label (id, owner_id) VALUES ('late', '5');
		SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED;
		DELETE FROM office.label WHERE id = 'late';
		COMMIT`)
	require.Equal(t, []string{"1 2", "2 2", "4 1"}, bundleCounts(t, conn))
	require.ElementsMatch(t, []string{"U list " + list1, "U list " + list2, "D task t1", "D step " + step1}, newest(t, conn, "1"))
	require.ElementsMatch(t, []string{"U list " + list3, "I task t1", "I step " + step1}, newest(t, conn, "2"))
	require.Equal(t, []string{"I label new"}, newest(t, conn, "4"))
	requireSound(t, conn)
	exec(t, conn, "UPDATE office.label SET color = 'next' WHERE id = 'new'")
	require.Equal(t, []string{"4 2"}, bundleCounts(t, conn)[2:])
	requireSound(t, conn)
}

// TestTriggersOfTheApplication write too: at once, and deferred, before and after our own deferred trigger runs.
func TestTriggersOfTheApplication(t *testing.T) {
	t.Parallel()
	conn := newOffice(t, "move")
	exec(t, conn, officeRows)
	exec(t, conn, `
		CREATE FUNCTION office.note() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO office.label AS l (id, owner_id, color) VALUES (TG_NAME, TG_ARGV[0], '1') ON CONFLICT (id) DO UPDATE SET color = l.color || '1';
			UPDATE office.list SET weight = coalesce(weight, 0) + 1 WHERE owner_id = 1;
			RETURN NULL;
		END $$;
		CREATE TRIGGER at_once AFTER UPDATE OF name ON office.list FOR EACH ROW EXECUTE FUNCTION office.note('1');
		CREATE CONSTRAINT TRIGGER a_deferred AFTER UPDATE OF title ON office.task DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION office.note('2');
		CREATE CONSTRAINT TRIGGER on_label AFTER INSERT ON office.label DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.id = 'a_deferred') EXECUTE FUNCTION office.note('8');`)
	exec(t, conn, "UPDATE office.list SET name = 'x'")
	require.Equal(t, []string{"1 2", "2 2"}, bundleCounts(t, conn))
	require.ElementsMatch(t, []string{"U list " + list1, "U list " + list2, "I label at_once"}, newest(t, conn, "1"))
	requireSound(t, conn)
	// The deferred trigger's own writes queue another one, which runs when the bundles have been made already.
	exec(t, conn, "UPDATE office.task SET title = 'x' WHERE id = 't1'")
	require.Equal(t, []string{"1 3", "2 3", "8 1"}, bundleCounts(t, conn))
	require.ElementsMatch(t, []string{"U list " + list1, "U list " + list2, "U task t1"}, newest(t, conn, "1"))
	require.Equal(t, []string{"I label a_deferred"}, newest(t, conn, "2"))
	require.Equal(t, []string{"I label on_label"}, newest(t, conn, "8"))
	requireSound(t, conn)
}

func TestPreparedTransactions(t *testing.T) {
	t.Parallel()
	url := pgtest.NewDatabase(t)
	conn := connect(t, url)
	exec(t, conn, office)
	inTx(t, conn, func() { exec(t, conn, fmt.Sprintf(officeRegistered, "move")) })
	exec(t, conn, officeRows)
	other := connect(t, url)
	name := value[string](t, conn, "SELECT current_database()")
	if value[int](t, conn, "SELECT current_setting('max_prepared_transactions')::integer") == 0 {
		exec(t, conn, "BEGIN; UPDATE office.list SET name = 'x'")
		require.Equal(t, pgerrcode.ObjectNotInPrerequisiteState, refused(t, conn, "PREPARE TRANSACTION '"+name+"'").Code)
		require.Equal(t, []string{"1 1", "2 1"}, bundleCounts(t, conn))
		requireSound(t, conn)
		return
	}
	exec(t, conn, "BEGIN; UPDATE office.list SET name = 'x' WHERE owner_id = 1")
	exec(t, conn, "PREPARE TRANSACTION '"+name+"'")
	requireSound(t, other)
	// The scope waits, and no other one.
	exec(t, other, "UPDATE office.list SET name = 'y' WHERE owner_id = 2")
	exec(t, other, "SET lock_timeout = '50ms'")
	require.Equal(t, pgerrcode.LockNotAvailable, refused(t, other, "UPDATE office.label SET color = 'y' WHERE owner_id = '1'").Code)
	exec(t, other, "COMMIT PREPARED '"+name+"'")
	require.Equal(t, []string{"1 2", "2 2"}, bundleCounts(t, conn))
	require.Equal(t, []string{"U list " + list1, "U list " + list2}, newest(t, conn, "1"))
	exec(t, conn, "BEGIN; UPDATE office.list SET name = 'z'; PREPARE TRANSACTION '"+name+"'")
	exec(t, conn, "ROLLBACK PREPARED '"+name+"'")
	require.Equal(t, []string{"1 2", "2 2"}, bundleCounts(t, conn))
	requireSound(t, conn)
}

func TestIsolationLevels(t *testing.T) {
	t.Parallel()
	url := pgtest.NewDatabase(t)
	conn := connect(t, url)
	exec(t, conn, office)
	inTx(t, conn, func() { exec(t, conn, fmt.Sprintf(officeRegistered, "move")) })
	exec(t, conn, officeRows)
	other := connect(t, url)
	for _, level := range []string{"REPEATABLE READ", "SERIALIZABLE"} {
		exec(t, conn, "BEGIN ISOLATION LEVEL "+level+"; UPDATE office.list SET name = 'alone'; COMMIT")
		requireSound(t, conn)
		// Another bundle of the scope is committed meanwhile: the transaction is told to try again, as the level promises.
		exec(t, conn, "BEGIN ISOLATION LEVEL "+level+"; UPDATE office.list SET name = 'early' WHERE owner_id = 1")
		exec(t, other, "UPDATE office.label SET color = 'other' WHERE owner_id = '1'")
		require.Equal(t, pgerrcode.SerializationFailure, refused(t, conn, "COMMIT").Code)
		// In another scope, it may be.
		exec(t, conn, "BEGIN ISOLATION LEVEL "+level+"; UPDATE office.list SET name = 'early' WHERE owner_id = 1")
		exec(t, other, "UPDATE office.label SET color = 'other' WHERE owner_id = '2'")
		exec(t, conn, "COMMIT")
		requireSound(t, conn)
	}
}

func TestWriterAndLastBundle(t *testing.T) {
	t.Parallel()
	url := pgtest.NewDatabase(t)
	conn := connect(t, url)
	exec(t, conn, office)
	inTx(t, conn, func() { exec(t, conn, fmt.Sprintf(officeRegistered, "move")) })
	last := func() []string {
		return column[string](t, conn, "SELECT concat_ws(' ', user_id, bundle_seq, source_id, source_bundle_id, row_count) FROM sync.last_bundle()")
	}
	require.Empty(t, last())
	role := value[string](t, conn, "SELECT session_user::text")
	exec(t, conn, officeRows)
	require.Equal(t, []string{"1 1 sql:" + role + " 1 6", "2 1 sql:" + role + " 1 3"}, last())
	exec(t, conn, "BEGIN; SET LOCAL sync.writer_id = 'nightly job'; UPDATE office.label SET color = 'x' WHERE owner_id = '2'; COMMIT")
	require.Equal(t, []string{"2 2 nightly job 1 1"}, last())
	exec(t, conn, "UPDATE office.label SET color = 'y' WHERE owner_id = '2'")
	require.Equal(t, []string{"2 3 sql:" + role + " 2 1"}, last())
	exec(t, conn, "UPDATE office.label SET color = 'y' WHERE false")
	require.Equal(t, []string{"2 3 sql:" + role + " 2 1"}, last(), "a transaction that wrote nothing became nothing")
	exec(t, conn, "BEGIN; UPDATE office.label SET color = 'z'; ROLLBACK")
	require.Equal(t, []string{"2 3 sql:" + role + " 2 1"}, last())
	exec(t, conn, "INSERT INTO office.label (id, owner_id) SELECT 'many' || n, n FROM generate_series(1, 1500) n")
	require.Len(t, last(), 1000)

	// What a device does in its scope stops no writer, and a writer takes no number of a device's.
	exec(t, conn, "SELECT sync.source_replace(u.user_pk, 'nightly job', 'phone 2', 'moved') FROM sync.user_state u WHERE u.user_id = '2'")
	exec(t, conn, "SELECT sync.source_replace(u.user_pk, 'phone', 'nightly job', 'moved') FROM sync.user_state u WHERE u.user_id = '1'")
	for _, color := range []string{"x", "y"} {
		exec(t, conn, "BEGIN; SET LOCAL sync.writer_id = 'nightly job'; UPDATE office.label SET color = '"+color+"' WHERE owner_id IN ('1', '2', '3'); COMMIT")
		require.Contains(t, last()[1], " sql:nightly job ")
	}
	require.Equal(t, []string{"1 4 sql:nightly job 2 2", "2 6 sql:nightly job 2 2", "3 3 nightly job 2 1"}, last())
	require.Nil(t, push(t, conn, "3", "tablet", stagedRow{"office.label", "I", 0, "pushed", `{"id":"pushed","owner_id":"3","color":"x"}`}))
	exec(t, conn, "BEGIN; SET LOCAL sync.writer_id = 'tablet'; UPDATE office.label SET color = 'y' WHERE id = 'pushed'; COMMIT")
	require.Equal(t, []string{"3 5 sql:tablet 1 1"}, last())
	exec(t, conn, "BEGIN; SET LOCAL sync.writer_id = 'oversync:adopt'; UPDATE office.label SET color = 'z' WHERE owner_id = '3'; COMMIT")
	require.Equal(t, []string{"3 6 sql:oversync:adopt 1 2"}, last())
	requireSound(t, connect(t, url))
}

func TestPolicyChanges(t *testing.T) {
	t.Parallel()
	url := pgtest.NewDatabase(t)
	conn := connect(t, url)
	exec(t, conn, note)
	exec(t, conn, "SELECT sync.register_table('public.note')")
	const insert = "INSERT INTO public.note VALUES ('u', gen_random_uuid())"
	require.Equal(t, "OV031", refused(t, conn, insert).Code)
	exec(t, conn, "SELECT sync.set_policy('public.note', 'capture')")
	exec(t, conn, insert)
	exec(t, conn, "SELECT sync.set_policy('public.note', 'reject')")
	require.Equal(t, "OV031", refused(t, conn, insert).Code)
	require.Equal(t, "OV030", refused(t, conn, "SELECT sync.set_policy('public.note', 'maybe')").Code)
	require.Equal(t, "policy (null) is not known", refused(t, conn, "SELECT sync.set_policy('public.note', NULL)").Message)
	require.Equal(t, "OV030", refused(t, conn, "SELECT sync.set_policy('pg_class', 'capture')").Code)
	exec(t, conn, "SELECT sync.register_table('public.note', policy => 'capture')")
	exec(t, conn, insert)
	exec(t, conn, "SELECT sync.register_table('public.note')")
	exec(t, conn, insert)
	require.Equal(t, []string{"u 3"}, bundleCounts(t, conn), "registering without a policy leaves it")

	// In the transaction that writes, and while another one has written already: what was captured is captured.
	exec(t, conn, "BEGIN; "+insert+"; SELECT sync.set_policy('public.note', 'reject'); COMMIT")
	require.Equal(t, []string{"u 4"}, bundleCounts(t, conn))
	exec(t, conn, "BEGIN; SELECT sync.set_policy('public.note', 'capture'); "+insert+"; COMMIT")
	other := connect(t, url)
	exec(t, other, "BEGIN; "+insert)
	exec(t, conn, "SELECT sync.set_policy('public.note', 'reject')")
	require.Equal(t, "OV031", refused(t, conn, insert).Code)
	exec(t, other, "COMMIT")
	require.Equal(t, []string{"u 6"}, bundleCounts(t, conn))
	requireSound(t, conn)
	require.Equal(t, []string{"6"}, column[string](t, conn, "SELECT count(*)::text FROM sync.rows WHERE source_id LIKE 'sql:%' AND committed_at <= now()"), "who and when")
	exec(t, conn, "SELECT sync.prune(1)")
	require.Equal(t, []string{"5"}, column[string](t, conn, "SELECT count(*)::text FROM sync.rows WHERE source_id IS NULL AND committed_at IS NULL"), "which retention forgets")
}

// TestRoleThatCaptures: a role that may write the table writes it as ever, and cannot make a bundle in any other way.
func TestRoleThatCaptures(t *testing.T) {
	t.Parallel()
	conn := newOffice(t, "move")
	exec(t, conn, officeRows)
	role := "clerk_" + value[string](t, conn, "SELECT right(current_database(), 8)")
	exec(t, conn, "CREATE ROLE "+role)
	defer exec(t, conn, "RESET ROLE; DROP OWNED BY "+role+" CASCADE; DROP ROLE "+role)
	exec(t, conn, "GRANT USAGE ON SCHEMA office TO "+role+"; GRANT SELECT, INSERT, UPDATE, DELETE, TRIGGER ON ALL TABLES IN SCHEMA office TO "+role+
		"; CREATE SCHEMA clerk AUTHORIZATION "+role)
	exec(t, conn, "SET ROLE "+role)
	exec(t, conn, "UPDATE office.list SET name = 'by the clerk' WHERE owner_id = 1")
	exec(t, conn, "BEGIN; DELETE FROM office.task; INSERT INTO office.task (id, list_id) VALUES ('t5', '"+list1+"'); COMMIT")
	exec(t, conn, "RESET ROLE")
	require.Equal(t, []string{"sql:" + role}, column[string](t, conn, "SELECT DISTINCT source_id FROM sync.bundle_log WHERE bundle_seq > 1"))
	requireSound(t, conn)

	exec(t, conn, "SET ROLE "+role)
	for _, sql := range []string{
		"SELECT sync.capture(1, '{}', '{2}', '2')", "SELECT sync.capture_commit()", "SELECT sync.commit_captured('forged', false)", "SELECT sync.bundle_open('2', 'forged', NULL, true)",
		"SELECT sync.finish_captured()", "SELECT sync.emit_captured(false)", "SELECT sync.repair('2')", "SELECT sync.adopt_batch(1)", "CALL sync.adopt_table('office.list')",
		"SELECT sync.set_policy('office.list', 'reject')", "SELECT sync.refresh_table('office.list')", "SELECT sync.unregister_table('office.list')", "SELECT * FROM sync.verify('2')",
		"INSERT INTO sync.open_bundles (xid, user_pk, bundle_seq, source_bundle_id, is_implicit, user_id, source_id) VALUES (pg_current_xact_id(), 2, 2, 1, false, '2', 'forged')",
		"INSERT INTO sync.captured_keys (xid, table_id, at_commit, keys, scopes) VALUES (pg_current_xact_id(), 1, true, '{}', '{2}')",
		"INSERT INTO sync.bundle_rows VALUES (2, 9, 0, 1, 'D', 'x', NULL)", "DELETE FROM sync.bundle_log", "UPDATE sync.user_state SET state = 'uninitialized'",
		"CREATE TABLE clerk.bait (id text, owner_id text); CREATE TRIGGER t AFTER INSERT ON clerk.bait REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION sync.capture_3()",
		"CREATE TABLE clerk.bait (id text, owner_id text); CREATE CONSTRAINT TRIGGER t AFTER INSERT ON clerk.bait DEFERRABLE FOR EACH ROW EXECUTE FUNCTION sync.capture_commit()",
		"CREATE TRIGGER again AFTER INSERT ON office.list REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION sync.capture_3()",
		"ALTER TABLE office.list DISABLE TRIGGER ALL", "DROP TRIGGER oversync_capture_insert ON office.list", "SET session_replication_role = 'replica'",
		"SET CONSTRAINTS sync.plain_sql_becomes_bundles_at_commit IMMEDIATE", "CREATE FUNCTION sync.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
	} {
		require.Equal(t, pgerrcode.InsufficientPrivilege, refused(t, conn, sql).Code, sql)
	}
	// Also with the right to see the schema, as a reader has, no trigger function lets itself be attached to a bait.
	exec(t, conn, "RESET ROLE; GRANT USAGE ON SCHEMA sync TO "+role+"; SET ROLE "+role)
	for _, function := range []string{"capture_3()", "capture_row_3()", "capture_commit()"} {
		require.Equal(t, pgerrcode.InsufficientPrivilege, refused(t, conn, "CREATE TABLE clerk.bait (id uuid, owner_id bigint); CREATE TRIGGER t AFTER INSERT ON clerk.bait REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION sync."+function).Code, function)
	}
	// No setting makes a row another scope's than the row says, and a path that the role controls catches nothing.
	exec(t, conn, `CREATE FUNCTION clerk.pg_current_xact_id() RETURNS xid8 LANGUAGE plpgsql AS $$ BEGIN RAISE 'caught'; END $$;
		CREATE TEMPORARY TABLE open_bundles (xid xid8, user_id text); CREATE TEMPORARY TABLE captured_keys (xid xid8); CREATE TEMPORARY TABLE pg_class (oid oid);
		SET search_path = clerk, pg_temp, pg_catalog`)
	exec(t, conn, `BEGIN; SET LOCAL sync.user_id = '2'; SET LOCAL sync.scope = '2'; SET LOCAL sync.last_bundle = '[["2", 9, "x", 9, 9]]'; SET LOCAL sync.writer_id = 'clerk';
		UPDATE office.list SET name = 'forged' WHERE owner_id = 1; COMMIT`)
	require.Equal(t, []string{"1"}, column[string](t, conn, "SELECT user_id FROM sync.last_bundle()"))
	exec(t, conn, "RESET ROLE; RESET search_path; DROP TABLE pg_temp.open_bundles, pg_temp.captured_keys, pg_temp.pg_class")
	require.Equal(t, []string{"clerk"}, column[string](t, conn, "SELECT DISTINCT l.source_id FROM sync.bundle_log l JOIN sync.user_state u ON u.user_pk = l.user_pk WHERE l.bundle_seq = u.next_bundle_seq - 1 AND u.user_id = '1'"))
	requireSound(t, conn)
}

// TestAScopeThatADeviceFills: plain SQL takes over a scope that a device has a lease on; the device is told to start over.
func TestAScopeThatADeviceFills(t *testing.T) {
	t.Parallel()
	conn := newOffice(t, "move")
	exec(t, conn, "SELECT sync.connect('1', 'phone', true, '15min')")
	exec(t, conn, "SELECT sync.connect('2', 'phone', true, '15min')")
	lease := value[string](t, conn, "SELECT initialization_id::text FROM sync.user_state WHERE user_id = '1'")
	exec(t, conn, "BEGIN; INSERT INTO office.label (id, owner_id) VALUES ('gone', '2'); DELETE FROM office.label; COMMIT")
	require.Equal(t, "initializing", value[string](t, conn, "SELECT state FROM sync.user_state WHERE user_id = '2'"), "no row, no takeover")
	exec(t, conn, "INSERT INTO office.list (owner_id) VALUES (1)")
	require.Equal(t, "initialized", value[string](t, conn, "SELECT state FROM sync.user_state WHERE user_id = '1'"))
	require.Equal(t, "OV009", refused(t, conn, "SELECT sync.push_create('1', 'phone', 1, 1, $1, '15min', '15min')", lease).Code)
	require.Equal(t, "remote_authoritative", value[string](t, conn, "SELECT resolution FROM sync.connect('1', 'phone', true, '15min')"))
	requireSound(t, conn)
}

// TestARowWithoutACanonicalFormIsNamed: nobody knows what adoption and repair were about to write.
// TestBackslashesThatEscape: an old application's setting changes what a literal means, in our functions as well.
func TestBackslashesThatEscape(t *testing.T) {
	t.Parallel()
	conn := newOffice(t, "move")
	exec(t, conn, "SET standard_conforming_strings = off; SET escape_string_warning = off")
	const insert = "INSERT INTO office.label (id, owner_id, facts) VALUES ($1, '1', $2::text::jsonb)"
	require.Equal(t, pgerrcode.NumericValueOutOfRange, refused(t, conn, insert, "huge", `{"a\\":1e400}`).Code)
	exec(t, conn, insert, "quoted", `{"a":"\\\"1e400"}`)
	exec(t, conn, "BEGIN")
	exec(t, conn, "SELECT sync.bundle_open('1', 'job', NULL, false)")
	require.Equal(t, "OV024", refused(t, conn, "COMMIT").Code, "a bundle is open")
	requireSound(t, conn)
}

// TestScopesThatNoUserCanHave: such a row is refused in words, when it is written and when it is adopted.
// TestIdsAreThoseOfTheServer: the database takes for an id what the server takes, which trims white space and refuses control characters.
// TestRegisteringAmongWrites: a transaction that has written synced tables registers, adopts and repairs, and loses nothing.
func TestRegisteringAmongWrites(t *testing.T) {
	t.Parallel()
	conn := newOffice(t, "move")
	exec(t, conn, officeRows)
	exec(t, conn, note+"INSERT INTO public.note VALUES ('1', 'a', 'old'), ('9', 'a', 'old')")
	exec(t, conn, `BEGIN;
		UPDATE office.list SET name = 'before';
		SELECT sync.register_table('public.note', policy => 'capture', adopt => 'now');
		UPDATE public.note SET body = 'new' WHERE _sync_scope_id = '1';
		UPDATE office.label SET color = 'after';
		SELECT sync.repair('1');
		UPDATE office.task SET title = 'last';
		COMMIT`)
	requireSound(t, conn)
	require.Equal(t, []string{"oversync:adopt: I note", "sql: U label", "sql: U list", "sql: U list", "sql: U note", "sql: U task", "sql: U task"}, column[string](t, conn, `
		SELECT regexp_replace(l.source_id, 'sql:.*', 'sql') || ': ' || r.op::text || ' ' || t.table_name FROM sync.bundle_rows r JOIN sync.bundle_log l USING (user_pk, bundle_seq)
		JOIN sync.user_state u USING (user_pk) JOIN sync.table_catalog t USING (table_id) WHERE u.user_id = '1' AND r.bundle_seq > 1 ORDER BY 1`))
	// Inside a bundle that somebody opened, neither is possible.
	for _, sql := range []string{"SELECT sync.repair('1')", "SELECT sync.refresh_table('public.note', adopt => 'now')"} {
		exec(t, conn, "BEGIN; SELECT sync.bundle_open('1', 'test', NULL, false)")
		require.Equal(t, "OV023", refused(t, conn, sql).Code, sql)
		exec(t, conn, "ROLLBACK")
	}
}

// TestPlainSQLLooksAtItsOwnRowsAlone: what other scopes have in the log is not read by a commit, however few rows the log has: a single
// large one would make all commits slow, or fail.
func TestPlainSQLLooksAtItsOwnRowsAlone(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.NewDatabase(t))
	exec(t, conn, note+"ALTER TABLE public.note ADD j jsonb; SELECT sync.register_table('public.note', policy => 'capture')")
	exec(t, conn, "INSERT INTO public.note SELECT 'bob', 'large', NULL, jsonb_agg(md5(n::text)) FROM generate_series(1, 2000) AS n")
	exec(t, conn, "ANALYZE")
	largeRead := func() int { // those of transactions before count as well
		return value[int](t, conn, `SELECT pg_stat_get_xact_numscans(i.indexrelid) FROM pg_class c JOIN pg_index i ON i.indrelid = c.reltoastrelid
			WHERE c.oid = 'sync.bundle_rows'::regclass`)
	}
	inTx(t, conn, func() {
		before := largeRead()
		exec(t, conn, "INSERT INTO public.note VALUES ('erin', 'small', 'x', '1')")
		exec(t, conn, "SET CONSTRAINTS ALL IMMEDIATE")
		require.Equal(t, before, largeRead())
	})
	requireSound(t, conn)
}

// TestSnapshotsOlderThanTheTable: a transaction that keeps its snapshot cannot know how a table was altered or registered since, so it is told
// to try again rather than that its rows are captured as the table was.
func TestSnapshotsOlderThanTheTable(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]string{
		"a column more":               "ALTER TABLE public.note ADD x integer DEFAULT 1",
		"a column more, refreshed":    "ALTER TABLE public.note ADD x integer DEFAULT 1; SELECT sync.refresh_table('public.note')",
		"a column less":               "ALTER TABLE public.note DROP body",
		"a column renamed":            "ALTER TABLE public.note RENAME body TO x",
		"key and scope swap names":    "ALTER TABLE public.note RENAME id TO x; ALTER TABLE public.note RENAME _sync_scope_id TO id; ALTER TABLE public.note RENAME x TO _sync_scope_id",
		"a column of another type":    "ALTER TABLE public.note ALTER body TYPE bytea USING NULL",
		"a foreign key":               "ALTER TABLE public.note ADD FOREIGN KEY (other_id) REFERENCES public.other (id); SELECT sync.refresh_table('public.note')",
		"another table, which is all": "ALTER TABLE public.other ADD x integer; SELECT sync.refresh_table('public.other')",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.NewDatabase(t)
			conn, dba := connect(t, url), connect(t, url)
			exec(t, dba, note+`ALTER TABLE public.note ADD other_id text; CREATE TABLE public.other (_sync_scope_id text NOT NULL, id text PRIMARY KEY);
				SELECT sync.register_table('public.other', policy => 'capture'), sync.register_table('public.note', policy => 'capture');
				INSERT INTO public.other VALUES ('bob', 'b'); INSERT INTO public.note VALUES ('anna', '0', 'x')`)
			const write = "INSERT INTO public.note (_sync_scope_id, id) VALUES ('ben', '1')"
			exec(t, conn, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM sync.catalog_version")
			exec(t, dba, change)
			if strings.HasPrefix(name, "another") {
				exec(t, conn, write)
				exec(t, conn, "COMMIT")
			} else {
				require.Equal(t, pgerrcode.SerializationFailure, refused(t, conn, write).Code)
				exec(t, conn, "ROLLBACK")
				exec(t, conn, "BEGIN ISOLATION LEVEL REPEATABLE READ; "+write+"; COMMIT")
			}
			exec(t, dba, "SELECT sync.refresh_table('public.note')")
			requireSound(t, conn)
			require.Zero(t, value[int](t, conn, "SELECT count(*) FROM sync.verify('ben')"))
		})
	}
}

// TestAdoptionSeesWhatIsCommitted: where the default level keeps a snapshot, rows that are gone by the time their scope is free must not
// enter the log.
func TestAdoptionSeesWhatIsCommitted(t *testing.T) {
	t.Parallel()
	url := pgtest.NewDatabase(t)
	conn, other := connect(t, url), connect(t, url)
	exec(t, conn, `CREATE TABLE public.par (owner text NOT NULL, id text PRIMARY KEY); CREATE TABLE public.chi (id text PRIMARY KEY, par_id text NOT NULL REFERENCES public.par);
		SELECT sync.register_table('public.par', scope => 'owner', policy => 'capture'); INSERT INTO public.par VALUES ('a', 'x'); INSERT INTO public.chi VALUES ('k', 'x'), ('l', 'x');
		SELECT sync.register_table('public.chi', scope_via => 'par_id', policy => 'capture', on_scope_change => 'move', adopt => 'later')`)
	exec(t, conn, "SET default_transaction_isolation = 'repeatable read'")
	exec(t, conn, "BEGIN; SELECT count(*) FROM public.chi")
	exec(t, other, "DELETE FROM public.chi WHERE id = 'k'")
	require.Equal(t, "OV030", refused(t, conn, "SAVEPOINT s; SELECT sync.adopt_batch(2)").Code)
	exec(t, conn, "ROLLBACK TO s")
	require.Equal(t, "OV030", refused(t, conn, "SELECT sync.repair('a')").Code)
	exec(t, conn, "ROLLBACK TO s")
	// Rows that the log does not have yet cannot follow either.
	refusal := refused(t, conn, "UPDATE public.par SET owner = 'b'; COMMIT")
	require.Equal(t, pgerrcode.SerializationFailure, refusal.Code, refusal.Message)
	exec(t, conn, "ROLLBACK")
	exec(t, conn, "CALL sync.adopt_table('public.chi')")
	exec(t, conn, "UPDATE public.par SET owner = 'b'")
	requireSound(t, conn)
	require.Equal(t, []string{"I par x", "I chi l"}, newest(t, conn, "b"))
}

// TestDeferredTriggersOfTheApplicationComeFirst: rows that a deferred trigger puts right are judged as it leaves them, whichever statement
// came first.
func TestDeferredTriggersOfTheApplicationComeFirst(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.NewDatabase(t))
	exec(t, conn, `CREATE TABLE public.par (owner text NOT NULL, id text PRIMARY KEY, note text);
		CREATE TABLE public.ref (owner text NOT NULL, id text PRIMARY KEY, par_id text REFERENCES public.par);
		CREATE TABLE public.chi (id text PRIMARY KEY, par_id text NOT NULL REFERENCES public.par DEFERRABLE INITIALLY DEFERRED);
		SELECT sync.register_table('public.par', scope => 'owner', policy => 'capture'), sync.register_table('public.ref', scope => 'owner', policy => 'capture'),
			sync.register_table('public.chi', scope_via => 'par_id', policy => 'capture', on_scope_change => 'move');
		INSERT INTO public.par VALUES ('a', 'p1'), ('a', 'p2'); INSERT INTO public.ref VALUES ('a', 'r1', 'p1');
		CREATE FUNCTION public.align() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE public.ref SET owner = NEW.owner WHERE par_id = NEW.id; RETURN NULL; END $$;
		CREATE CONSTRAINT TRIGGER align AFTER UPDATE ON public.par DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.align();
		CREATE FUNCTION public.parent() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.par VALUES ('d', NEW.par_id) ON CONFLICT DO NOTHING; RETURN NULL; END $$;
		CREATE CONSTRAINT TRIGGER "A_parent" AFTER INSERT ON public.chi DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.parent();`)
	exec(t, conn, "BEGIN; UPDATE public.par SET note = 'x' WHERE id = 'p2'; UPDATE public.par SET owner = 'c' WHERE id = 'p1'; COMMIT")
	requireSound(t, conn)
	require.Equal(t, []string{"I par p1", "I ref r1"}, newest(t, conn, "c"))
	exec(t, conn, "BEGIN; UPDATE public.par SET note = 'y' WHERE id = 'p2'; INSERT INTO public.chi VALUES ('k', 'new'), ('l', 'new'); COMMIT")
	requireSound(t, conn)
	require.ElementsMatch(t, []string{"I chi k", "I chi l", "I par new"}, newest(t, conn, "d"))
	// What nobody puts right is refused as ever.
	exec(t, conn, "DROP TRIGGER align ON public.par")
	refusal := refused(t, conn, "BEGIN; UPDATE public.par SET note = 'z' WHERE id = 'p2'; UPDATE public.par SET owner = 'a' WHERE id = 'p1'; COMMIT")
	require.Equal(t, "OV033", refusal.Code, refusal.Message)
	exec(t, conn, "ROLLBACK")
	requireSound(t, conn)
}

// TestATransactionThatEndsWithABundleOpen: however it ends, nothing of it stays, since it would be in no bundle.
func TestATransactionThatEndsWithABundleOpen(t *testing.T) {
	t.Parallel()
	conn := initialized(t, registered(t, note, "public.note"), "u")
	const open = "SELECT sync.bundle_open('u', 'writer', NULL, false); INSERT INTO public.note (id) VALUES ('a'); "
	for _, end := range []string{"COMMIT", "/* trace */ END", "-- name: Finish :exec\ncommit", ";COMMIT", "SELECT 1; COMMIT", "SET CONSTRAINTS ALL IMMEDIATE; COMMIT"} {
		exec(t, conn, "BEGIN; "+open)
		require.Equal(t, "OV024", refused(t, conn, end).Code, end)
		exec(t, conn, "ROLLBACK")
		// Even where deferred triggers have run already.
		exec(t, conn, "BEGIN; "+open)
		exec(t, conn, "SET CONSTRAINTS ALL IMMEDIATE")
		exec(t, conn, "INSERT INTO public.note (id) VALUES ('b')")
		require.Equal(t, "OV024", refused(t, conn, end).Code, end)
		exec(t, conn, "ROLLBACK")
	}
	require.Equal(t, "OV024", refused(t, conn, "DO $$ BEGIN PERFORM sync.bundle_open('u', 'writer', NULL, false); INSERT INTO public.note (id) VALUES ('a'); END $$").Code)
	require.Zero(t, value[int](t, conn, "SELECT (SELECT count(*) FROM public.note) + (SELECT count(*) FROM sync.open_bundles) + (SELECT count(*) FROM sync.captured_keys)"))
	writeBundle(t, conn, "u", "SET CONSTRAINTS ALL IMMEDIATE", "INSERT INTO public.note (id) VALUES ('a')")
	requireSound(t, conn)
}

// TestBundlesOfAnotherDatabase: what a dump holds of transactions that were over is not taken for that of the one with the same number here.
func TestBundlesOfAnotherDatabase(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.NewDatabase(t))
	exec(t, conn, note+"SELECT sync.register_table('public.note', policy => 'capture')")
	exec(t, conn, "INSERT INTO public.note VALUES ('anna', 'a', 'one')")
	exec(t, conn, "UPDATE public.note SET body = 'two'")
	inTx(t, conn, func() {
		exec(t, conn, "UPDATE sync.open_bundles SET xid = pg_current_xact_id() WHERE bundle_seq = 1")
		exec(t, conn, "INSERT INTO public.note VALUES ('carol', 'c', 'x')")
	})
	requireSound(t, conn)
	require.Equal(t, []string{"1 I one", "2 U two"}, column[string](t, conn, `SELECT concat_ws(' ', r.bundle_seq, r.op, r.payload::json ->> 'body')
		FROM sync.bundle_rows r JOIN sync.user_state u USING (user_pk) WHERE u.user_id = 'anna' ORDER BY 1`))
}

// TestRowsThatWouldBeNobodys: where the key or scope may be null since an ALTER TABLE, writes are refused rather than rows left out.
// TestRowsThatWouldBeNobodysInANewPartition: a partition that was added since registration has only a row trigger, which must know as well.
