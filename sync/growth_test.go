package oversync_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	oversync "github.com/oversync/oversync/sync"
)

// fullLog makes 5,000 scopes, 200 of them with 10 bundles of 80 rows, and one,
// "long", of 1,000 bundles of one row: the planner takes each for one of the many.
const fullLog = `
INSERT INTO sync.user_state (user_id, state, next_bundle_seq, live_row_count, live_byte_count, bundle_byte_count)
SELECT CASE i WHEN 0 THEN 'long' ELSE 'user-' || i END, 'initialized', CASE WHEN i = 0 THEN 1001 WHEN i <= 200 THEN 11 ELSE 1 END, 10, 1000, 2000
FROM generate_series(0, 5000) AS i;
INSERT INTO sync.source_state (user_pk, source_id, last_source_bundle_id) SELECT user_pk, 'phone', next_bundle_seq - 1 FROM sync.user_state;
INSERT INTO sync.bundle_log (user_pk, bundle_seq, source_id, source_bundle_id, row_count, byte_count, bundle_hash)
SELECT user_pk, b, 'phone', b, CASE user_id WHEN 'long' THEN 1 ELSE 80 END, 200, sha256('')
FROM sync.user_state, generate_series(1, next_bundle_seq - 1) AS b;
INSERT INTO sync.bundle_rows (user_pk, bundle_seq, row_ordinal, table_id, op, key_bytes, payload)
SELECT l.user_pk, l.bundle_seq, o, t.table_id, 'I', uuid_send(id), format('{"id":"%s","stars":0,"title":"t"}', id)
FROM sync.table_catalog t, sync.bundle_log l, generate_series(0, l.row_count - 1) AS o,
    LATERAL (SELECT md5(format('%s %s %s', l.user_pk, l.bundle_seq, o))::uuid AS id) AS i;
SET session_replication_role = replica; -- the log has them
INSERT INTO app.notes (_sync_scope_id, id, title)
SELECT u.user_id, encode(r.key_bytes, 'hex')::uuid, 't' FROM sync.bundle_rows r JOIN sync.user_state u USING (user_pk);
RESET session_replication_role;
UPDATE sync.bundle_log l SET bundle_hash = NULL -- as after plain SQL
FROM sync.user_state u WHERE u.user_id = 'long' AND l.user_pk = u.user_pk AND l.bundle_seq BETWEEN 201 AND 203;
ANALYZE sync.user_state, sync.source_state, sync.bundle_log, sync.bundle_rows, app.notes;`

// The cost of an operation goes with what it asks for, however long the log of all
// scopes, or of this one, has become.
func TestOperationsOnAFullLogReadWhatTheyNeed(t *testing.T) {
	t.Parallel()
	pool := newPoolWith(t, func(config *pgxpool.Config) {
		config.MaxConns = 1 // so that one connection has counted all
		// The plans that a connection comes to keep, which do not know what they are for.
		config.ConnConfig.RuntimeParams["plan_cache_mode"] = "force_generic_plan"
	})
	exec(t, pool, notesDDL)
	exec(t, pool, `SELECT sync.register_table('app.notes')`)
	require.NoError(t, pool.AcquireFunc(t.Context(), func(conn *pgxpool.Conn) error {
		_, err := conn.Conn().PgConn().Exec(t.Context(), fullLog).ReadAll()
		return err
	}))
	service, err := oversync.NewRuntimeService(pool, &oversync.ServiceConfig{RetainedBundlesPerUser: 1000}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, service.Close(context.Background())) })
	_, err = service.GetStatus(t.Context()) // learns the catalog
	require.NoError(t, err)
	d := &device{service: service, actor: oversync.Actor{UserID: "long", SourceID: "tablet"}, next: 1}
	var newest int64

	for _, operation := range []struct {
		name string
		run  func() error
	}{
		{"push", func() error {
			committed, err := d.push(t.Context(), insertNote(1, "new"))
			newest = committed.BundleSeq
			return err
		}},
		{"push of an update", func() error {
			_, err := d.push(t.Context(), updateNote(1, newest, "newer"))
			newest++
			return err
		}},
		{"pull of the newest bundle", func() error {
			page, err := service.ProcessPull(t.Context(), d.actor, newest-1, 0, 0)
			require.Len(t, page.Bundles, 1)
			return err
		}},
		{"pull of 5 old bundles", func() error {
			page, err := service.ProcessPull(t.Context(), d.actor, 100, 5, 0)
			require.Len(t, page.Bundles, 5)
			return err
		}},
		{"pull of 3 bundles that plain SQL wrote", func() error {
			page, err := service.ProcessPull(t.Context(), d.actor, 200, 3, 0)
			require.Len(t, page.Bundles, 3)
			require.NotEmpty(t, page.Bundles[0].BundleHash)
			return err
		}},
		{"idle pull", func() error {
			_, err := service.ProcessPull(t.Context(), d.actor, newest, 0, 0)
			return err
		}},
		{"rows of a bundle", func() error {
			_, err := service.GetCommittedBundleRows(t.Context(), d.actor, 500, nil, 0)
			return err
		}},
		{"snapshot chunk", func() error {
			session, err := service.CreateSnapshotSession(t.Context(), d.actor)
			if err != nil {
				return err
			}
			chunk, err := service.GetSnapshotChunk(t.Context(), d.actor, session.SnapshotID, 0, 10)
			require.Len(t, chunk.Rows, 10)
			return err
		}},
		{"server write", func() error {
			return service.WithinSyncBundle(t.Context(), d.actor, oversync.BundleSource{SourceID: "job", SourceBundleID: 1}, func(tx pgx.Tx) error {
				return insertNoteSQL(t.Context(), tx, 2, "by a job")
			})
		}},
		{"pruning of one bundle", func() error {
			_, err := pool.Exec(t.Context(), `SELECT sync.prune_scope(u.user_pk, 1000, 1) FROM sync.user_state u WHERE u.user_id = 'long'`)
			return err
		}},
	} {
		before := rowsRead(t, pool)
		require.NoError(t, operation.run(), operation.name)
		// None needs more than ten rows; some are read twice.
		require.LessOrEqual(t, rowsRead(t, pool)-before, int64(30), operation.name)
	}

	// What concerns one table looks at each scope, but not at what the log has of other tables.
	exec(t, pool, `CREATE TABLE app.spare (LIKE app.notes INCLUDING ALL); SELECT sync.register_table('app.spare')`)
	for _, operation := range []string{`sync.refresh_table('app.spare')`, `sync.unregister_table('app.spare')`} {
		before := rowsRead(t, pool)
		exec(t, pool, "SELECT "+operation)
		require.LessOrEqual(t, rowsRead(t, pool)-before, int64(5*5001), operation)
	}
}

// rowsRead returns how many rows of the log, of the state of scopes and of the
// business table were read so far.
func rowsRead(t *testing.T, pool *pgxpool.Pool) int64 {
	t.Helper()
	exec(t, pool, `SELECT pg_stat_force_next_flush()`)
	return scalar[int64](t, pool, `SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_user_tables
		WHERE relname IN ('user_state', 'source_state', 'bundle_log', 'bundle_rows', 'notes')`)
}

// A push reads the rows that it names and no others of its scope, however few the
// planner thinks that a scope has.
func TestAPushToAScopeThatStatisticsDoNotKnow(t *testing.T) {
	t.Parallel()
	for name, ddl := range map[string]string{
		"as registered":                 "",
		"with an index of the scope":    "CREATE INDEX ON app.notes (_sync_scope_id)",
		"with an index of scope and id": "CREATE INDEX ON app.notes (_sync_scope_id, stars); CREATE INDEX ON app.notes (id)",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := newPoolWith(t, func(config *pgxpool.Config) { config.MaxConns = 1 })
			service := newService(t, pool, notesDDL+ddl, &oversync.ServiceConfig{RegisteredTables: tables("app.notes")})
			exec(t, pool, `SET session_replication_role = replica`)
			exec(t, pool, `INSERT INTO app.notes (_sync_scope_id, id, title) SELECT 'user-' || i % 20, gen_random_uuid(), 't' FROM generate_series(1, 20000) AS i`)
			exec(t, pool, `RESET session_replication_role`)
			exec(t, pool, `INSERT INTO sync.bundle_rows (user_pk, bundle_seq, row_ordinal, table_id, op, key_bytes, payload)
				SELECT 1000 + i % 20, 1 + i / 1000, i % 1000, t.table_id, 'I', uuid_send(gen_random_uuid()), '{}' FROM sync.table_catalog t, generate_series(1, 20000) AS i`)
			exec(t, pool, `ANALYZE app.notes, sync.bundle_rows`)
			d := newDevice(t, service, "new", "phone")
			var inserts []oversync.PushRequestRow
			for n := range 3000 {
				inserts = append(inserts, insertNote(n, "t"))
			}
			version := d.mustPush(t, inserts...).BundleSeq

			first := 0
			for _, size := range []int{1, 2, 20, 500} {
				var updates, deletes []oversync.PushRequestRow
				for n := first; n < first+size; n++ {
					updates = append(updates, updateNote(n, version, "u"))
				}
				before := rowsRead(t, pool)
				updated := d.mustPush(t, updates...).BundleSeq
				require.LessOrEqual(t, rowsRead(t, pool)-before, int64(10*size+20), "%d updates", size)
				for n := first; n < first+size; n++ {
					deletes = append(deletes, oversync.PushRequestRow{
						Schema: "app", Table: "notes", Key: oversync.SyncKey{"id": noteID(n)}, Op: oversync.OpDelete, BaseRowVersion: updated,
					})
				}
				before = rowsRead(t, pool)
				d.mustPush(t, deletes...)
				require.LessOrEqual(t, rowsRead(t, pool)-before, int64(10*size+20), "%d deletes", size)
				first += size
			}
		})
	}
}

// Where the scope is found through a parent, the cost of a write does not go with
// the number of rows in the table, whether a device or plain SQL writes.
func TestAWriteToATableThatHasItsScopeThroughAParent(t *testing.T) {
	t.Parallel()
	pool := newPoolWith(t, func(config *pgxpool.Config) { config.MaxConns = 1 })
	exec(t, pool, `CREATE SCHEMA app; CREATE TABLE app.notes (owner text NOT NULL, id uuid PRIMARY KEY)`)
	exec(t, pool, `CREATE TABLE app.lines (id uuid PRIMARY KEY, note uuid NOT NULL REFERENCES app.notes DEFERRABLE, body text)`)
	exec(t, pool, `CREATE INDEX ON app.lines (note)`)
	service := newService(t, pool, `SELECT sync.register_table('app.notes', scope => 'owner', policy => 'capture'), sync.register_table('app.lines', scope_via => 'note', policy => 'capture')`,
		&oversync.ServiceConfig{})
	d := newDevice(t, service, "user", "phone")
	note := oversync.PushRequestRow{Schema: "app", Table: "notes", Key: oversync.SyncKey{"id": noteID(1)}, Op: oversync.OpInsert, Payload: json.RawMessage(`{}`)}
	lines := []oversync.PushRequestRow{note}
	line := func(n int, op string, version int64) oversync.PushRequestRow {
		return oversync.PushRequestRow{
			Schema: "app", Table: "lines", Key: oversync.SyncKey{"id": noteID(n)}, Op: op, BaseRowVersion: version,
			Payload: json.RawMessage(`{"body":"b","note":"` + noteID(1) + `"}`),
		}
	}
	for n := range 3000 {
		lines = append(lines, line(n, oversync.OpInsert, 0))
	}
	version := d.mustPush(t, lines...).BundleSeq
	read := func() int64 {
		exec(t, pool, `SELECT pg_stat_force_next_flush()`)
		return scalar[int64](t, pool, `SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_user_tables WHERE relname IN ('row_owners', 'bundle_rows', 'notes', 'lines')`)
	}

	for n, operation := range []func(n int){
		func(n int) { d.mustPush(t, line(n, oversync.OpUpdate, version)) },
		func(n int) {
			d.mustPush(t, line(n, oversync.OpUpdate, version), line(n+100, oversync.OpUpdate, version))
		},
		func(n int) { exec(t, pool, `UPDATE app.lines SET body = 'sql' WHERE id = $1`, noteID(n)) },
		func(n int) { exec(t, pool, `DELETE FROM app.lines WHERE id = $1`, noteID(n)) },
	} {
		before := read()
		operation(n)
		require.LessOrEqual(t, read()-before, int64(60), "operation %d", n)
	}
}

// Where a trigger may give a row another key, each row of a push is compared with
// what was logged of it, and not with all others.
func TestALargePushIntoATableWithATriggerBefore(t *testing.T) {
	t.Parallel()
	pool := newPoolWith(t, func(config *pgxpool.Config) { config.MaxConns = 1 })
	service := newService(t, pool, notesDDL+`
		CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
		CREATE TRIGGER touch BEFORE INSERT ON app.notes FOR EACH ROW EXECUTE FUNCTION app.touch();`, &oversync.ServiceConfig{RegisteredTables: tables("app.notes")})
	var notes []oversync.PushRequestRow
	for n := range 2000 {
		notes = append(notes, insertNote(n, "t"))
	}
	newDevice(t, service, "ann", "phone").mustPush(t, notes...)
	exec(t, pool, `SELECT pg_stat_force_next_flush()`)
	require.LessOrEqual(t, scalar[int64](t, pool, `SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'push_chunks'`), int64(50), "chunks read")
}
