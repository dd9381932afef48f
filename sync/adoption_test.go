package oversync_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	oversync "github.com/oversync/oversync/sync"
)

// Rows that were left for later enter the log while servers run, parents first,
// whatever one instance or another is doing.
func TestBackgroundWorkAdoptsRows(t *testing.T) {
	t.Parallel()
	first, pool := newQuiet(t, oversync.ServiceConfig{MaxRowsPerBundle: 700})
	second := openService(t, pool, oversync.ServiceConfig{MaxRowsPerBundle: 700}, nil)
	exec(t, pool, `
		CREATE TABLE app.lists (id uuid PRIMARY KEY, owner_id int NOT NULL);
		CREATE TABLE app.entries (id uuid PRIMARY KEY, list_id uuid NOT NULL REFERENCES app.lists);
		INSERT INTO app.lists SELECT md5(i::text)::uuid, i % 2 FROM generate_series(1, 5000) AS i;
		INSERT INTO app.entries SELECT id, id FROM app.lists;
		SELECT sync.register_table('app.entries', scope_via => 'list_id', policy => 'capture', adopt => 'later'),
		       sync.register_table('app.lists', scope => 'owner_id', policy => 'capture', adopt => 'later');`)
	require.Zero(t, scalar[int64](t, pool, `SELECT count(*) FROM sync.bundle_log`))

	// A batch that somebody else is at is waited for by nobody, and no child overtakes it.
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT sync.adopt_batch(table_id, 100) FROM sync.table_catalog WHERE table_name = 'lists'`)
	require.NoError(t, err)
	require.NoError(t, first.Bootstrap(t.Context()))
	require.NoError(t, second.Bootstrap(t.Context()))
	exec(t, pool, `INSERT INTO app.lists VALUES (md5('new')::uuid, 3)`)
	require.NoError(t, tx.Commit(t.Context()))

	require.Eventually(t, func() bool {
		return scalar[int64](t, pool, `SELECT count(*) FROM sync.adoptions`) == 0
	}, time.Minute, 50*time.Millisecond)
	require.EqualValues(t, 10001, scalar[int64](t, pool, `SELECT count(*) FROM sync.bundle_rows`))
	require.Zero(t, scalar[int64](t, pool, `SELECT count(*) FROM sync.user_state u CROSS JOIN LATERAL sync.verify(u.user_id) v`))
	require.EqualValues(t, 700, scalar[int64](t, pool, `SELECT max(row_count) FROM sync.bundle_log`))
	require.Zero(t, scalar[int64](t, pool, `
		SELECT count(*) FROM sync.bundle_rows child
		JOIN sync.table_catalog c ON c.table_id = child.table_id AND c.table_name = 'entries'
		JOIN sync.table_catalog p ON p.table_name = 'lists'
		JOIN sync.bundle_rows parent ON parent.table_id = p.table_id AND parent.key_bytes = child.key_bytes
		WHERE (parent.user_pk, parent.bundle_seq) > (child.user_pk, child.bundle_seq)`), "a client learns of parents first")
}

// A row that has no canonical form, say, stops the adoption of its table and of those below, and of no other.
func TestATableThatCannotBeAdoptedStopsNoOther(t *testing.T) {
	t.Parallel()
	service, pool := newQuiet(t, oversync.ServiceConfig{})
	exec(t, pool, `
		CREATE TABLE app.bad (id uuid PRIMARY KEY, owner text NOT NULL);
		CREATE TABLE app.below (id uuid PRIMARY KEY, owner text NOT NULL, bad_id uuid NOT NULL REFERENCES app.bad DEFERRABLE);
		CREATE TABLE app.good (id uuid PRIMARY KEY, owner text NOT NULL);
		INSERT INTO app.bad VALUES (gen_random_uuid(), ' ');
		INSERT INTO app.below SELECT gen_random_uuid(), 'ann', id FROM app.bad;
		INSERT INTO app.good VALUES (gen_random_uuid(), 'ann');
		SELECT sync.register_table('app.bad', scope => 'owner', adopt => 'later'), sync.register_table('app.below', scope => 'owner', adopt => 'later'),
		       sync.register_table('app.good', scope => 'owner', adopt => 'later');`)
	require.Error(t, oversync.AdoptPending(t.Context(), service))
	require.Equal(t, "bad below", scalar[string](t, pool, `SELECT string_agg(t.table_name, ' ' ORDER BY t.table_name) FROM sync.adoptions a JOIN sync.table_catalog t USING (table_id)`))
	exec(t, pool, `BEGIN; SET LOCAL session_replication_role = replica; UPDATE app.bad SET owner = 'ann'; COMMIT`)
	require.NoError(t, oversync.AdoptPending(t.Context(), service))
	require.Zero(t, scalar[int64](t, pool, `SELECT count(*) FROM sync.adoptions`))
}
