package migrations_test

import (
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
)

// newNumbered returns a database with parents whose key is unique within a scope, and children that refer to them by a number.
func newNumbered(t *testing.T, onScopeChange string) *pgx.Conn {
	t.Helper()
	conn := connect(t, pgtest.NewDatabase(t))
	exec(t, conn, `
		CREATE TABLE box (nr bigint PRIMARY KEY, owner text NOT NULL, id text NOT NULL, v int, UNIQUE (owner, id));
		CREATE TABLE thing (id text PRIMARY KEY, box_nr bigint NOT NULL REFERENCES box (nr) DEFERRABLE INITIALLY DEFERRED);
		CREATE TABLE bit (id text PRIMARY KEY, thing_id text NOT NULL REFERENCES thing DEFERRABLE INITIALLY DEFERRED)`)
	inTx(t, conn, func() {
		exec(t, conn, "SELECT sync.register_table('box', sync_key => 'id', scope => 'owner', policy => 'capture')")
		exec(t, conn, "SELECT sync.register_table('thing', scope_via => 'box_nr', policy => 'capture', on_scope_change => $1)", onScopeChange)
		exec(t, conn, "SELECT sync.register_table('bit', scope_via => 'thing_id', policy => 'capture', on_scope_change => $1)", onScopeChange)
	})
	exec(t, conn, `INSERT INTO box VALUES (1, '1', 'main'), (2, '2', 'main'), (3, '1', 'spare'), (4, '2', 'other');
		INSERT INTO thing VALUES ('t1', 1), ('t2', 2), ('t3', 3), ('t4', 4); INSERT INTO bit VALUES ('b1', 't1'), ('b2', 't2')`)
	requireSound(t, conn)
	return conn
}

// TestParentsThatAreExchanged: children that refer to a parent by another column than its key follow whatever row has that value now.
func TestParentsThatAreExchanged(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]string{
		"key and scope at once": "UPDATE box SET id = 'new', owner = '2' WHERE nr = 1",
		"of one name":           "BEGIN; UPDATE box SET nr = 99 WHERE nr = 1; UPDATE box SET nr = 1 WHERE nr = 2; UPDATE box SET nr = 2 WHERE nr = 99; COMMIT",
		"of two names":          "BEGIN; UPDATE box SET nr = 99 WHERE nr = 1; UPDATE box SET nr = 1 WHERE nr = 4; UPDATE box SET nr = 4 WHERE nr = 99; COMMIT",
		"by a new one":          "BEGIN; DELETE FROM box WHERE nr = 1; INSERT INTO box VALUES (1, '2', 'fresh'); COMMIT",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := newNumbered(t, "move")
			exec(t, conn, write)
			requireSound(t, conn)
		})
	}
}

// TestWhatCountsAsMoved: only a row whose children are then in another scope than the log has them in.
func TestWhatCountsAsMoved(t *testing.T) {
	t.Parallel()
	conn := newNumbered(t, "refuse")
	exec(t, conn, "BEGIN; UPDATE box SET v = 1 WHERE nr = 1; UPDATE box SET v = 1 WHERE nr = 2; COMMIT")
	exec(t, conn, "BEGIN; UPDATE box SET owner = '3' WHERE nr = 3; UPDATE box SET owner = '1' WHERE nr = 3; COMMIT")
	require.Equal(t, "OV034", refused(t, conn, "UPDATE box SET id = 'new', owner = '2' WHERE nr = 1").Code)
	require.Equal(t, "OV034", refused(t, conn, "UPDATE box SET owner = '2' WHERE nr = 3").Code)
	requireSound(t, conn)
}

// TestRowsOfManyLevelsMove: a table is followed again for rows that came along from their own parents.
func TestRowsOfManyLevelsMove(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.NewDatabase(t))
	exec(t, conn, `CREATE TABLE l1 (id text PRIMARY KEY, owner text NOT NULL);
		CREATE TABLE l2 (id text PRIMARY KEY, up text NOT NULL REFERENCES l1);
		CREATE TABLE l3 (id text PRIMARY KEY, up text NOT NULL REFERENCES l2);
		CREATE TABLE l4 (id text PRIMARY KEY, up text NOT NULL REFERENCES l3)`)
	inTx(t, conn, func() {
		exec(t, conn, "SELECT sync.register_table('l1', scope => 'owner', policy => 'capture')")
		for _, table := range []string{"l2", "l3", "l4"} {
			exec(t, conn, "SELECT sync.register_table($1::text::regclass, scope_via => 'up', policy => 'capture', on_scope_change => 'move')", table)
		}
	})
	exec(t, conn, `INSERT INTO l1 VALUES ('a', '1'), ('b', '1'), ('c', '2'); INSERT INTO l2 VALUES ('a', 'a'), ('b', 'b'), ('c', 'c');
		INSERT INTO l3 VALUES ('a', 'a'), ('b', 'b'), ('b2', 'b'), ('c', 'c'); INSERT INTO l4 VALUES ('a', 'a'), ('b', 'b'), ('b2', 'b2'), ('c', 'c')`)
	exec(t, conn, "BEGIN; UPDATE l1 SET owner = '2' WHERE id = 'a'; UPDATE l2 SET up = 'c' WHERE id = 'b'; UPDATE l3 SET up = 'c' WHERE id = 'b2'; COMMIT")
	requireSound(t, conn)
}

// TestSnapshotsOlderThanARegistration: a transaction that cannot see that a table is registered must not write it, nor may one register it
// that cannot see its rows.
func TestSnapshotsOlderThanARegistration(t *testing.T) {
	t.Parallel()
	url := pgtest.NewDatabase(t)
	conn, other := connect(t, url), connect(t, url)
	exec(t, conn, note)
	exec(t, other, "BEGIN ISOLATION LEVEL REPEATABLE READ")
	require.Equal(t, 1, value[int](t, other, "SELECT 1"))
	exec(t, conn, "SELECT sync.register_table('note')")
	refusal := refused(t, other, "INSERT INTO note VALUES ('u', 'a')")
	require.Equal(t, pgerrcode.SerializationFailure, refusal.Code)
	exec(t, other, "ROLLBACK")

	exec(t, conn, "SELECT sync.unregister_table('note')")
	exec(t, conn, "BEGIN ISOLATION LEVEL REPEATABLE READ")
	refusal = refused(t, conn, "SELECT sync.register_table('note')")
	require.Equal(t, "OV030", refusal.Code)
	require.Contains(t, refusal.Hint, "READ COMMITTED")
}

// TestATableAboveAPartition: a partition that has its triggers is attached under a table that has none.
func TestATableAboveAPartition(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.NewDatabase(t))
	exec(t, conn, `CREATE TABLE event (owner text NOT NULL, id text NOT NULL, v int, PRIMARY KEY (owner, id)) PARTITION BY RANGE (id);
		CREATE TABLE event_a PARTITION OF event FOR VALUES FROM ('a') TO ('b')`)
	exec(t, conn, "SELECT sync.register_table('event', sync_key => 'id', scope => 'owner', policy => 'capture')")
	exec(t, conn, `INSERT INTO event VALUES ('1', 'a', 1); ALTER TABLE event DETACH PARTITION event_a;
		CREATE TABLE event_mid PARTITION OF event FOR VALUES FROM ('a') TO ('m') PARTITION BY RANGE (id);
		ALTER TABLE event_mid ATTACH PARTITION event_a FOR VALUES FROM ('a') TO ('b')`)
	for _, table := range []string{"event_mid", "event_a", "event"} {
		exec(t, conn, "UPDATE "+table+" SET v = v + 1")
		requireSound(t, conn)
	}
}

// TestUnregisteringAfterBundles: what a transaction has made bundles of stays as it is when one of its tables is then unregistered.
func TestUnregisteringAfterBundles(t *testing.T) {
	t.Parallel()
	conn := newOffice(t, "move")
	exec(t, conn, officeRows+note+"SELECT sync.register_table('note', policy => 'capture')")
	exec(t, conn, `BEGIN; INSERT INTO note VALUES ('1', 'a', 'x'); UPDATE office.list SET name = 'x'; SET CONSTRAINTS ALL IMMEDIATE;
		SELECT sync.unregister_table('note'); UPDATE office.list SET name = 'y'; COMMIT`)
	requireSound(t, conn)

	exec(t, conn, "BEGIN; SELECT sync.bundle_open('1', 'server', NULL, false); UPDATE office.list SET name = 'z' WHERE owner_id = 1")
	require.Equal(t, "OV023", refused(t, conn, "SELECT sync.unregister_table('office.step')").Code)
}

// TestAScopeOfAnotherType: a scope that the column holds since it was altered is one that rows can have.
func TestAScopeOfAnotherType(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.NewDatabase(t))
	exec(t, conn, "CREATE TABLE w (id text PRIMARY KEY, owner bigint NOT NULL)")
	exec(t, conn, "SELECT sync.register_table('w', scope => 'owner', policy => 'capture')")
	exec(t, conn, "INSERT INTO w VALUES ('a', 1); ALTER TABLE w ALTER owner DROP DEFAULT, ALTER owner TYPE text; INSERT INTO w VALUES ('b', 'bob')")
	requireSound(t, conn)
}

// TestHintsThatCanBeFollowed: what a refusal proposes is not refused in turn.
func TestHintsThatCanBeFollowed(t *testing.T) {
	t.Parallel()
	conn := registered(t, `CREATE TABLE public.p (id text PRIMARY KEY, owner text NOT NULL); CREATE TABLE public.c (id text PRIMARY KEY, p text NOT NULL REFERENCES public.p);
		CREATE TABLE public.outside (id text PRIMARY KEY, owner text NOT NULL); CREATE TABLE public.d (id text PRIMARY KEY, owner text NOT NULL, o text REFERENCES public.outside)`)
	exec(t, conn, "SELECT sync.register_table('p', scope => 'owner', policy => 'capture'), sync.register_table('c', scope_via => 'p', policy => 'capture')")
	exec(t, conn, "INSERT INTO public.p VALUES ('p1', '1'); INSERT INTO public.c VALUES ('c1', 'p1')")
	const move = "UPDATE public.p SET owner = '2'"
	require.Contains(t, refused(t, conn, move).Hint, "SELECT sync.unregister_table('public.c'); and register that table anew, with on_scope_change => 'move'.")
	exec(t, conn, "SELECT sync.unregister_table('public.c'); SELECT sync.register_table('c', scope_via => 'p', policy => 'capture', on_scope_change => 'move')")
	exec(t, conn, move)
	requireSound(t, conn)
	require.Contains(t, refused(t, conn, "SELECT sync.register_table('d', scope => 'owner')").Hint, "SELECT sync.register_table('public.outside', scope => '...');")
}

// TestAParentInPlaceOfAnother: once the foreign key that says whose a row is leads to another table, that one says it, refreshed or not, in
// sessions that keep plans too.
func TestAParentInPlaceOfAnother(t *testing.T) {
	t.Parallel()
	conn := registered(t, `CREATE TABLE old_list (id bigint PRIMARY KEY, nr text UNIQUE NOT NULL, owner_id text NOT NULL); CREATE TABLE new_list (LIKE old_list INCLUDING ALL);
		CREATE TABLE task (id text PRIMARY KEY, list_id bigint NOT NULL REFERENCES old_list, title text)`)
	inTx(t, conn, func() {
		exec(t, conn, `SELECT sync.register_table('old_list', sync_key => 'nr', scope => 'owner_id', policy => 'capture'), sync.register_table('new_list', sync_key => 'nr', scope => 'owner_id', policy => 'capture'),
			sync.register_table('task', scope_via => 'list_id', policy => 'capture', on_scope_change => 'move')`)
	})
	exec(t, conn, "INSERT INTO old_list VALUES (1, 'a', 'ann'), (2, 'b', 'ann'); INSERT INTO new_list VALUES (1, 'a', 'bob'), (2, 'b', 'ann'); INSERT INTO task VALUES ('one', 1), ('two', 2)")
	const owners = "SELECT key || ' ' || string_agg(user_id, ' ' ORDER BY user_id) FROM (SELECT DISTINCT ON (user_id, key) user_id, key, op FROM sync.rows WHERE table_name = 'task' ORDER BY user_id, key, bundle_seq DESC) AS r WHERE op <> 'DELETE' GROUP BY key ORDER BY key"
	require.Equal(t, []string{"one ann", "two ann"}, column[string](t, conn, owners))

	other := connect(t, conn.Config().ConnString())
	exec(t, other, "ALTER TABLE task DROP CONSTRAINT task_list_id_fkey, ADD CONSTRAINT task_of_new FOREIGN KEY (list_id) REFERENCES new_list")
	exec(t, conn, "INSERT INTO task VALUES ('three', 1), ('four', 2); UPDATE task SET title = 'x' WHERE id = 'two'")
	require.Equal(t, []string{"four ann", "one ann", "three bob", "two ann"}, column[string](t, conn, owners))
	require.Len(t, column[string](t, conn, "SELECT remedy FROM sync.check() WHERE object = 'public.task'"), 1)

	exec(t, conn, value[string](t, conn, "SELECT remedy FROM sync.check() WHERE object = 'public.task'"))
	require.Equal(t, []string{"four ann", "one bob", "three bob", "two ann"}, column[string](t, conn, owners))
	require.Empty(t, column[string](t, conn, "SELECT problem FROM sync.check()"))
	require.Zero(t, value[int](t, conn, "SELECT count(*) FROM sync.verify('ann')")+value[int](t, conn, "SELECT count(*) FROM sync.verify('bob')"))
}
