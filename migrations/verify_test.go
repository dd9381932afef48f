package migrations_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
)

// TestVerifyAndRepair: every way round the triggers shows, repair enters exactly what shows, and then all is well.
func TestVerifyAndRepair(t *testing.T) {
	t.Parallel()
	const notes = `CREATE TABLE office.note (_sync_scope_id text NOT NULL, id text NOT NULL, body text, PRIMARY KEY (_sync_scope_id, id)) PARTITION BY HASH (id);
		CREATE TABLE office.note_0 PARTITION OF office.note FOR VALUES WITH (MODULUS 1, REMAINDER 0);`
	for _, c := range []struct {
		name, sql string
		back      string              // puts the triggers back
		shown     map[string][]string // by scope: "difference table key"
	}{
		{name: "nothing", sql: "SELECT 1"},
		{
			name: "as a replica", sql: `BEGIN; SET LOCAL session_replication_role = 'replica';
				UPDATE office.list SET name = 'x' WHERE id = '` + list1 + `'; DELETE FROM office.step; INSERT INTO office.label (id, owner_id) VALUES ('new', '2'), ('newer', '7'); COMMIT`,
			shown: map[string][]string{
				"1": {"not the same list " + list1, "missing in the table step " + step1}, "2": {"missing in the log label new"}, "7": {"missing in the log label newer"},
			},
		},
		{
			name: "another scope as a replica", sql: "BEGIN; SET LOCAL session_replication_role = 'replica'; UPDATE office.list SET owner_id = 2 WHERE id = '" + list2 + "'; COMMIT",
			shown: map[string][]string{
				"1": {"missing in the table list " + list2, "missing in the table task t2"}, "2": {"missing in the log list " + list2, "missing in the log task t2"},
			},
		},
		{
			name: "another key as a replica", sql: "BEGIN; SET LOCAL session_replication_role = 'replica'; UPDATE office.label SET id = 'grey' WHERE id = 'red'; UPDATE office.task SET label_id = 'grey' WHERE label_id = 'red'; COMMIT",
			shown: map[string][]string{"1": {"missing in the table label red", "missing in the log label grey", "not the same task t1"}},
		},
		{
			name: "trigger disabled", sql: "ALTER TABLE office.task DISABLE TRIGGER oversync_capture_update; UPDATE office.task SET done = true WHERE id <> 't2'",
			back:  "ALTER TABLE office.task ENABLE TRIGGER oversync_capture_update",
			shown: map[string][]string{"1": {"not the same task t1"}, "2": {"not the same task t3"}},
		},
		{
			name: "all triggers disabled", sql: "ALTER TABLE office.step DISABLE TRIGGER ALL; INSERT INTO office.step (id, task_id) VALUES ('" + list1 + "', 't3')",
			back:  "ALTER TABLE office.step ENABLE TRIGGER ALL",
			shown: map[string][]string{"2": {"missing in the log step " + list1}},
		},
		{
			name: "trigger dropped", sql: "DROP TRIGGER oversync_capture_delete ON office.step; DELETE FROM office.step",
			back:  "SELECT sync.refresh_table('office.step')",
			shown: map[string][]string{"1": {"missing in the table step " + step1}},
		},
		{
			name: "truncated as a replica", sql: "BEGIN; SET LOCAL session_replication_role = 'replica'; TRUNCATE office.step; TRUNCATE office.note; COMMIT",
			shown: map[string][]string{"1": {"missing in the table step " + step1, "missing in the table note n"}},
		},
		{
			name: "a partition's triggers disabled", sql: "ALTER TABLE office.note_0 DISABLE TRIGGER ALL; UPDATE office.note_0 SET body = 'x'",
			back:  "ALTER TABLE office.note_0 ENABLE TRIGGER ALL",
			shown: map[string][]string{"1": {"not the same note n"}},
		},
		{
			name: "payload edited in the log", sql: `UPDATE sync.bundle_rows SET payload = '{"forged": true}' WHERE payload LIKE '%"t1"%'`,
			shown: map[string][]string{"1": {"not the same task t1", "not the same step " + step1}},
		},
		{
			name: "rows deleted from the log", sql: "DELETE FROM sync.bundle_rows WHERE sync.key_text(table_id, key_bytes) IN ('t1', 'blue')",
			shown: map[string][]string{"1": {"missing in the log task t1"}, "2": {"missing in the log label blue"}},
		},
		{
			name: "rows inserted into the log", sql: `INSERT INTO sync.bundle_rows (user_pk, bundle_seq, row_ordinal, table_id, op, key_bytes, payload)
				SELECT u.user_pk, 1, 99, t.table_id, 'I', 'ghost', '{}' FROM sync.user_state u, sync.table_catalog t WHERE u.user_id = '1' AND t.table_name = 'label'`,
			shown: map[string][]string{"1": {"missing in the table label ghost"}},
		},
		{
			name: "deletes forged in the log", sql: "UPDATE sync.bundle_rows SET op = 'D', payload = NULL WHERE sync.key_text(table_id, key_bytes) = 't3'",
			shown: map[string][]string{"2": {"missing in the log task t3"}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			conn := connect(t, pgtest.NewDatabase(t))
			exec(t, conn, office+notes)
			inTx(t, conn, func() {
				exec(t, conn, fmt.Sprintf(officeRegistered, "move")+"SELECT sync.register_table('office.note', policy => 'capture')")
			})
			exec(t, conn, officeRows+"INSERT INTO office.note VALUES ('1', 'n', 'plain')")
			exec(t, conn, c.sql)
			for _, scope := range []string{"1", "2", "7", "9"} {
				require.ElementsMatch(t, append([]string{}, c.shown[scope]...), column[string](t, conn, "SELECT concat_ws(' ', difference, table_name, key) FROM sync.verify($1) WHERE schema_name <> 'sync'", scope), "scope %s", scope)
			}
			if c.back != "" {
				require.NotEmpty(t, column[string](t, conn, "SELECT problem FROM sync.check()"))
				if c.name != "trigger dropped" {
					exec(t, conn, c.back)
				}
			}
			before := value[map[string]int64](t, conn, "SELECT jsonb_object_agg(user_id, next_bundle_seq) FROM sync.user_state")
			for _, scope := range []string{"1", "2", "7", "9"} {
				require.EqualValues(t, len(c.shown[scope]), value[int64](t, conn, "SELECT sync.repair($1)", scope), "scope %s", scope)
				require.Empty(t, column[string](t, conn, "SELECT key FROM sync.verify($1) WHERE schema_name <> 'sync'", scope))
				require.Zero(t, value[int64](t, conn, "SELECT sync.repair($1)", scope))
				if len(c.shown[scope]) > 0 {
					seq := max(before[scope], 1)
					require.Equal(t, []string{fmt.Sprintf("%d %d", seq, len(c.shown[scope]))}, column[string](t, conn, `
						SELECT concat_ws(' ', l.bundle_seq, l.row_count) FROM sync.bundle_log l JOIN sync.user_state u ON u.user_pk = l.user_pk WHERE u.user_id = $1 AND l.source_id = 'oversync:repair'`, scope))
				}
			}
			const ofTables = " WHERE v.schema_name <> 'sync'" // what was done to the log by hand is not undone
			require.Empty(t, column[string](t, conn, soundness["differences"]+ofTables))
			for _, what := range []string{"bundles", "counts", "owners"} {
				require.Empty(t, column[string](t, conn, soundness[what]), what)
			}
			if c.name == "trigger dropped" {
				exec(t, conn, c.back)
			}
			exec(t, conn, "UPDATE office.note SET body = 'captured again'; INSERT INTO office.step (task_id) VALUES ('t1'); DELETE FROM office.step; UPDATE office.task SET done = NOT done")
			require.Empty(t, column[string](t, conn, soundness["differences"]+ofTables))
		})
	}
}

// TestVerifyLooksAtTheLog: what keeps the log together is checked, and mended as docs/operations.md says.
func TestVerifyLooksAtTheLog(t *testing.T) {
	t.Parallel()
	const u = "user_pk = (SELECT user_pk FROM sync.user_state WHERE user_id = 'u')"
	for name, c := range map[string]struct {
		damage string
		shown  []string
		mend   []string
	}{
		"a bundle deleted":    {"DELETE FROM sync.bundle_log WHERE bundle_seq = 2 AND " + u, []string{"bundle_log 2 the bundle is missing"}, []string{"UPDATE sync.user_state SET retained_bundle_floor = 2 WHERE user_id = 'u'"}},
		"bundles deleted":     {"DELETE FROM sync.bundle_log WHERE bundle_seq IN (1, 2) AND " + u, []string{"bundle_log 1 the bundles 1 to 2 are missing"}, []string{"UPDATE sync.user_state SET retained_bundle_floor = 2 WHERE user_id = 'u'"}},
		"the newest deleted":  {"DELETE FROM sync.bundle_log WHERE bundle_seq = 4 AND " + u, []string{"bundle_log 4 the bundle is missing"}, []string{"UPDATE sync.user_state SET retained_bundle_floor = 4 WHERE user_id = 'u'"}},
		"an effect deleted":   {"DELETE FROM sync.bundle_rows WHERE bundle_seq = 2 AND " + u, []string{"bundle_log 2 row_count is 1, but the bundle has 0 effects"}, []string{"UPDATE sync.user_state SET retained_bundle_floor = 2 WHERE user_id = 'u'"}},
		"the number set back": {"UPDATE sync.user_state SET next_bundle_seq = 3 WHERE user_id = 'u'", []string{"user_state u next_bundle_seq is 3, but the log has bundle 4"}, []string{"UPDATE sync.user_state u SET next_bundle_seq = 1 + (SELECT max(r.bundle_seq) FROM sync.bundle_rows r WHERE r.user_pk = u.user_pk) WHERE u.user_id = 'u'"}},
		"a source set back": {"UPDATE sync.source_state SET last_source_bundle_id = 1 WHERE " + u, []string{"source_state test last_source_bundle_id is 1, but the log has its bundle 4"}, []string{`UPDATE sync.source_state s SET last_source_bundle_id = (SELECT max(l.source_bundle_id) FROM sync.bundle_log l WHERE l.user_pk = s.user_pk AND l.source_id = s.source_id)
			WHERE s.user_pk = (SELECT u.user_pk FROM sync.user_state u WHERE u.user_id = 'u')`}},
		"counts": {"UPDATE sync.user_state SET live_row_count = 7 WHERE user_id = 'u'", []string{"user_state u live_row_count and live_byte_count are 7 and 21, but the log has 1 and 21"}, []string{"SELECT sync.repair('u')"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := registered(t, note, "public.note")
			writeBundle(t, conn, "other", "INSERT INTO public.note (id) VALUES ('a')")
			writeBundle(t, conn, "u", "INSERT INTO public.note (id, body) VALUES ('a', '1')")
			for _, body := range []string{"2", "3", "4"} {
				writeBundle(t, conn, "u", "UPDATE public.note SET body = '"+body+"' WHERE _sync_scope_id = 'u'")
			}
			const shown = "SELECT concat_ws(' ', table_name, key, difference) FROM sync.user_state u CROSS JOIN LATERAL sync.verify(u.user_id)"
			require.Empty(t, column[string](t, conn, shown))
			exec(t, conn, c.damage)
			require.Equal(t, c.shown, column[string](t, conn, shown))
			for _, sql := range c.mend {
				exec(t, conn, sql)
			}
			require.Empty(t, column[string](t, conn, shown))
			writeBundle(t, conn, "u", "UPDATE public.note SET body = '5' WHERE _sync_scope_id = 'u'")
			require.Empty(t, column[string](t, conn, shown))
			exec(t, conn, "SELECT sync.prune(1, 1)")
			exec(t, conn, "SELECT sync.prune(1)")
			require.LessOrEqual(t, int64(3), value[int64](t, conn, "SELECT pruned_bundle_seq FROM sync.user_state WHERE user_id = 'u'"), "pruning passes over what is missing")
			require.Empty(t, column[string](t, conn, shown))
		})
	}
}

// TestCheckOwners: a function that captures and belongs to somebody who may not write the log refuses all writes.
func TestCheckOwners(t *testing.T) {
	t.Parallel()
	conn := registered(t, note, "public.note")
	role := "clerk_" + value[string](t, conn, "SELECT right(current_database(), 8)")
	exec(t, conn, "CREATE ROLE "+role)
	defer exec(t, conn, "DROP OWNED BY "+role+"; DROP ROLE "+role)
	exec(t, conn, "GRANT CREATE ON SCHEMA sync TO "+role+"; ALTER FUNCTION sync.capture_1() OWNER TO "+role)
	require.Equal(t, []string{"error: sync.capture_1: the function belongs to " + role + ", which may not write the log: writes are refused"}, column[string](t, conn, "SELECT concat_ws(': ', severity, object, problem) FROM sync.check()"))
	exec(t, conn, value[string](t, conn, "SELECT remedy FROM sync.check()"))
	require.Empty(t, column[string](t, conn, "SELECT problem FROM sync.check()"))
}

// TestScopeIDs: rows of a user who was never seen before, written past the triggers, are found without knowing the user.
func TestScopeIDs(t *testing.T) {
	t.Parallel()
	conn := newOffice(t, "move")
	exec(t, conn, officeRows+"BEGIN; SET LOCAL session_replication_role = 'replica'; INSERT INTO office.label (id, owner_id) VALUES ('new', 'stranger'); COMMIT")
	require.Equal(t, []string{"1", "2", "stranger"}, column[string](t, conn, "SELECT s FROM sync.scope_ids() AS s ORDER BY s"))
	require.Equal(t, []string{"stranger missing in the log new"}, column[string](t, conn, "SELECT concat_ws(' ', s, v.difference, v.key) FROM sync.scope_ids() AS s, sync.verify(s) AS v"))
}

// TestVerifyWithATableThatCannotBeCompared: verify says so of that table, rather than that all its rows are gone, and compares and repairs the others.
func TestVerifyWithATableThatCannotBeCompared(t *testing.T) {
	t.Parallel()
	for alter, want := range map[string]string{
		"ALTER TABLE office.step DROP CONSTRAINT step_task_id_fkey":         "step cannot be compared: table office.step is synced, but its column task_id, which says whose a row is, refers to no registered table any more. ALTER TABLE office.step ADD FOREIGN KEY (task_id)",
		"ALTER TABLE office.step ALTER id DROP DEFAULT, ALTER id TYPE text": "step cannot be compared: table office.step is synced, but its key column id has another type now. SELECT sync.refresh_table('office.step');",
		"ALTER TABLE office.step DROP COLUMN task_id":                       "step cannot be compared: table office.step is synced, but its column task_id was dropped. SELECT sync.unregister_table('office.step'), ",
		"ALTER TABLE office.label DROP COLUMN owner_id":                     "label cannot be compared: table office.label is synced, but its column owner_id was dropped. SELECT sync.unregister_table('office.label'), ",
	} {
		t.Run(alter, func(t *testing.T) {
			t.Parallel()
			conn := newOffice(t, "move")
			exec(t, conn, officeRows+alter)
			exec(t, conn, "BEGIN; SET LOCAL session_replication_role = 'replica'; UPDATE office.list SET name = 'x' WHERE id = '"+list1+"'; COMMIT")
			// Also of a scope that has no rows in it, as whose they are is what nobody can tell.
			for scope, others := range map[string][]string{"1": {"list not the same"}, "9": {}} {
				got := column[string](t, conn, "SELECT concat_ws(' ', table_name, difference) FROM sync.verify($1) ORDER BY key NULLS FIRST", scope)
				require.Len(t, got, 1+len(others))
				require.True(t, strings.HasPrefix(got[0], want), got[0])
				require.Equal(t, others, got[1:])
			}
			require.EqualValues(t, 1, value[int64](t, conn, "SELECT sync.repair('1')"))
			require.Equal(t, []string{""}, column[string](t, conn, "SELECT coalesce(key, '') FROM sync.verify('1')"))
			require.Equal(t, []string{"1", "2"}, column[string](t, conn, "SELECT s FROM sync.scope_ids() AS s ORDER BY s"))
		})
	}
}

// TestDeletingWithoutTheForeignKeyToTheParent: whose deleted rows were is known without it, also once something else was altered.
func TestDeletingWithoutTheForeignKeyToTheParent(t *testing.T) {
	t.Parallel()
	conn := newOffice(t, "move")
	exec(t, conn, officeRows+"ALTER TABLE office.step DROP CONSTRAINT step_task_id_fkey; ALTER TABLE office.task ADD COLUMN extra int; ALTER TABLE office.list ADD COLUMN extra int; ALTER TABLE office.step ADD COLUMN extra int")
	exec(t, conn, "UPDATE office.list SET name = 'z'")
	exec(t, conn, "DELETE FROM office.step")
	require.Equal(t, "DELETE step", value[string](t, conn, "SELECT op || ' ' || table_name FROM sync.rows WHERE table_name = 'step' ORDER BY bundle_seq DESC LIMIT 1"))
}

// TestPartitionsThatWent: rows that went with a detached or dropped partition are deleted for clients by sync.refresh_table, and the
// detached partition is an ordinary table again.
func TestPartitionsThatWent(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.NewDatabase(t))
	exec(t, conn, `CREATE TABLE event (owner_id text NOT NULL, id text NOT NULL, PRIMARY KEY (owner_id, id)) PARTITION BY LIST (id);
		CREATE TABLE event_a PARTITION OF event FOR VALUES IN ('a'); CREATE TABLE event_b PARTITION OF event FOR VALUES IN ('b'); CREATE TABLE event_c PARTITION OF event FOR VALUES IN ('c');
		SELECT sync.register_table('event', sync_key => 'id', scope => 'owner_id');
		SELECT sync.set_policy('event', 'capture'); INSERT INTO event SELECT '1', unnest('{a,b,c}'::text[]); SELECT sync.set_policy('event', 'reject')`)
	exec(t, conn, "ALTER TABLE event DETACH PARTITION event_a; DROP TABLE event_b")
	require.Equal(t, []string{"public.event_a SELECT sync.refresh_table('public.event');"}, column[string](t, conn, "SELECT object || ' ' || remedy FROM sync.check()"))
	exec(t, conn, "SELECT sync.refresh_table('event')")
	require.Equal(t, []string{"D a", "D b"}, column[string](t, conn, "SELECT op::text || ' ' || convert_from(key_bytes, 'UTF8') FROM sync.bundle_rows WHERE bundle_seq = 2 ORDER BY key_bytes"))
	require.Empty(t, column[string](t, conn, "SELECT object || problem FROM sync.check()"))
	require.Empty(t, column[string](t, conn, soundness["differences"]))
	exec(t, conn, "INSERT INTO event_a VALUES ('2', 'a'); TRUNCATE event_a; ALTER TABLE event DETACH PARTITION event_c; SELECT sync.refresh_table('event')")
	require.Empty(t, column[string](t, conn, soundness["differences"]), "an empty table, too")
}

// TestVerifyBlocksNobody: while it runs, in a transaction that stays open, every kind of write goes on; and it waits for no writer.
func TestVerifyBlocksNobody(t *testing.T) {
	t.Parallel()
	url := pgtest.NewDatabase(t)
	conn, writer := connect(t, url), connect(t, url)
	exec(t, conn, office)
	inTx(t, conn, func() { exec(t, conn, fmt.Sprintf(officeRegistered, "move")) })
	exec(t, conn, officeRows)
	for _, each := range []*pgx.Conn{conn, writer} {
		exec(t, each, "SET lock_timeout = '10s'; SET statement_timeout = '30s'")
	}
	exec(t, conn, "BEGIN")
	require.Empty(t, column[string](t, conn, soundness["differences"]))
	exec(t, writer, "UPDATE office.list SET owner_id = 3 - owner_id; UPDATE office.label SET owner_id = (3 - owner_id::integer)::text; DELETE FROM office.step; INSERT INTO office.list (owner_id) VALUES (1)")
	exec(t, writer, "BEGIN; UPDATE office.list SET name = 'uncommitted'; SET CONSTRAINTS ALL IMMEDIATE")
	require.Empty(t, column[string](t, conn, soundness["differences"]), "it sees what is committed, on both sides")
	exec(t, conn, "COMMIT")
	exec(t, writer, "COMMIT")
	requireSound(t, conn)
}

// TestVerifyAfterAlter: a table that was dropped, or that was altered and not refreshed, does not keep verify from its work.
func TestVerifyAfterAlter(t *testing.T) {
	t.Parallel()
	conn := newOffice(t, "move")
	exec(t, conn, officeRows)
	exec(t, conn, "DROP TABLE office.step; ALTER TABLE office.list ADD COLUMN color text DEFAULT 'red'")
	require.Equal(t, []string{"not the same list " + list1, "not the same list " + list2}, column[string](t, conn, "SELECT concat_ws(' ', difference, table_name, key) FROM sync.verify('1')"))
	require.EqualValues(t, 2, value[int64](t, conn, "SELECT sync.repair('1')"))
	require.Empty(t, column[string](t, conn, "SELECT key FROM sync.verify('1')"))
}
