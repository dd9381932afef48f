package migrations_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
)

// TestOnlyACommitWaitsForTheDisk: to make a session and to stage rows waits for no disk, whatever the server is set to. What a client is told is
// committed does wait, and so does the end of a source.
func TestOnlyACommitWaitsForTheDisk(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.NewDatabase(t))
	exec(t, conn, note+"SELECT sync.register_table('public.note')")
	initialized(t, conn, "u")
	exec(t, conn, "SET synchronous_commit = on")
	waits := func(sql string) string {
		t.Helper()
		var mode string
		inTx(t, conn, func() {
			exec(t, conn, sql)
			mode = value[string](t, conn, "SHOW synchronous_commit")
		})
		return mode
	}
	const create = "SELECT sync.push_create('u', 'phone', 1, 1, NULL, '15min', '15min')"
	const session = "(SELECT push_id FROM sync.push_sessions)"
	require.Equal(t, "off", waits(create))
	require.Equal(t, "off", waits("SELECT sync.push_delete("+session+", 'u', 'phone')"))
	exec(t, conn, create)
	require.Equal(t, "off", waits("SELECT sync.push_stage("+session+`, 'u', 'phone', 0, (SELECT version FROM sync.catalog_version), ARRAY[(SELECT table_id FROM sync.table_catalog)], 'I',
		'{0}', ARRAY['a'::bytea], '{"{\"id\":\"a\"}"}', '15min', '15min')`))
	require.Equal(t, "on", waits("SELECT sync.push_commit("+session+", 'u', 'phone', 0, '15min'); "+closeBundle))
	require.Equal(t, "on", waits("SELECT sync.bundle_open('u', 'office', NULL, false); INSERT INTO public.note (id) VALUES ('b'); SELECT sync.bundle_emit(); "+closeBundle))
	require.Equal(t, "off", waits("SELECT sync.snapshot_create('u', 'phone', '15min', 0, 0)"))
	require.Equal(t, "on", waits("SELECT sync.snapshot_create('u', 'phone', '15min', 0, 0, 'phone 2', 'history_pruned')"))
	exec(t, conn, "SELECT sync.set_policy('public.note', 'capture')")
	require.Equal(t, "on", waits("INSERT INTO public.note VALUES ('u', 'c'); SET CONSTRAINTS ALL IMMEDIATE"))
	require.Equal(t, []string{"a", "b", "c"}, column[string](t, conn, "SELECT key FROM sync.rows ORDER BY bundle_seq"))
}
