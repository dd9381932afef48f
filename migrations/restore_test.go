package migrations_test

import (
	osexec "os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed"
	"github.com/oversync/oversync/db/pgembed/pgtest"
)

// restored is tables whose columns get other numbers in a dump, of types that do too, with triggers that write.
const restored = `
	CREATE TYPE color AS ENUM ('red', 'blue');
	CREATE TABLE shelf (gone int, id text PRIMARY KEY, gone_too int, owner int NOT NULL, color color, writes int NOT NULL DEFAULT 0);
	ALTER TABLE shelf DROP COLUMN gone, DROP COLUMN gone_too;
	CREATE TABLE book (gone int, id text PRIMARY KEY, shelf_id text NOT NULL REFERENCES shelf, title text);
	ALTER TABLE book DROP COLUMN gone;
	CREATE TABLE memo (id text PRIMARY KEY, owner int NOT NULL, body text) PARTITION BY LIST (id);
	CREATE TABLE memo_a PARTITION OF memo FOR VALUES IN ('a');
	CREATE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN UPDATE public.shelf SET writes = writes + 1 WHERE id = NEW.id; RETURN NULL; END';
	CREATE TRIGGER count_up AFTER INSERT ON shelf FOR EACH ROW EXECUTE FUNCTION count_up();
	BEGIN;
	SELECT sync.register_table('shelf', scope => 'owner', policy => 'capture'), sync.register_table('book', scope_via => 'shelf_id', policy => 'capture', on_scope_change => 'move'),
	       sync.register_table('memo', scope => 'owner', policy => 'capture');
	COMMIT;
	INSERT INTO shelf VALUES ('s1', 1, 'red'), ('s2', 2, 'blue'); INSERT INTO book VALUES ('b1', 's1', 'x'); INSERT INTO memo VALUES ('a', 1, 'x')`

// TestRestoredFromADump: what is written in a restored database is captured as before, and check only says that it is slower.
func TestRestoredFromADump(t *testing.T) {
	t.Parallel()
	from, to := pgtest.NewDatabase(t), pgtest.NewEmptyDatabase(t)
	conn := connect(t, from)
	exec(t, conn, restored)
	requireSound(t, conn)
	major := value[int](t, conn, "SELECT current_setting('server_version_num')::integer / 10000")
	pgDump, err := pgembed.Program(t.Context(), "pg_dump", major)
	require.NoError(t, err)
	pgRestore, err := pgembed.Program(t.Context(), "pg_restore", major)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "dump")
	output, err := osexec.CommandContext(t.Context(), pgDump, "--format=custom", "--no-owner", "--file="+file, from).CombinedOutput()
	require.NoError(t, err, string(output))

	conn = connect(t, to)
	output, err = osexec.CommandContext(t.Context(), pgRestore, "--exit-on-error", "--no-owner", "--dbname="+to, file).CombinedOutput()
	require.NoError(t, err, string(output))
	require.Empty(t, column[string](t, conn, "SELECT object || ': ' || problem FROM sync.check() WHERE severity = 'error'"))
	require.Len(t, column[string](t, conn, "SELECT problem FROM sync.check()"), 3)
	exec(t, conn, "CREATE TABLE other (LIKE memo)")
	require.True(t, value[bool](t, conn, "SELECT sync.is_altered('other', columns_fingerprint, table_id) FROM sync.table_catalog WHERE table_name = 'memo'"), "a number may be that of another table")
	require.False(t, value[bool](t, conn, "SELECT sync.stands_alone('other', 'I', table_id) FROM sync.table_catalog WHERE table_name = 'memo'"))
	requireRestored := func() {
		t.Helper()
		exec(t, conn, "UPDATE shelf SET color = 'blue'; INSERT INTO shelf VALUES ('s' || (SELECT count(*) + 1 FROM shelf), 1, 'red'); UPDATE shelf SET owner = 3 - owner; UPDATE memo SET body = body || 'y'")
		exec(t, conn, "UPDATE book SET shelf_id = 's2'; INSERT INTO book VALUES ('b' || (SELECT count(*) + 1 FROM book), 's1', 'y')")
		exec(t, conn, "CREATE TABLE IF NOT EXISTS memo_b PARTITION OF memo FOR VALUES IN ('b'); INSERT INTO memo_b VALUES ('b', 2, 'x')")
		exec(t, conn, "DELETE FROM memo_b")
		requireSound(t, conn)
		require.Nil(t, push(t, conn, "1", "phone", stagedRow{"public.shelf", "I", version(t, conn, "1", "public.shelf", "pushed"), "pushed", `{"id":"pushed","color":"red"}`}))
		require.Equal(t, 1, value[int](t, conn, "SELECT (payload ->> 'writes')::int FROM sync.rows WHERE key = 'pushed' ORDER BY bundle_seq DESC LIMIT 1"), "what a trigger did is in the log")
		exec(t, conn, "DELETE FROM shelf WHERE id = 'pushed'")
		requireSound(t, conn)
	}
	requireRestored()
	for _, remedy := range column[string](t, conn, "SELECT remedy FROM sync.check()") {
		exec(t, conn, remedy)
	}
	require.Empty(t, column[string](t, conn, "SELECT problem FROM sync.check() WHERE problem !~ 'trigger'"))
	requireRestored()
}
