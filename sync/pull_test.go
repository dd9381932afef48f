package oversync_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db"
	"github.com/oversync/oversync/db/pgembed/pgtest"
	oversync "github.com/oversync/oversync/sync"
)

// A client must never be told that it has seen what the log has lost.
func TestPullOfALogWithAHole(t *testing.T) {
	t.Parallel()
	pool := pgtest.NewPool(t)
	service := newService(t, pool, notesDDL, &oversync.ServiceConfig{RegisteredTables: tables("app.notes")})
	phone := newDevice(t, service, "anna", "phone")
	phone.mustPush(t, insertNote(1, "a"))
	phone.mustPush(t, insertNote(2, "b"))
	phone.mustPush(t, insertNote(3, "c"))
	for lost, after := range map[int64][]int64{3: {0, 2}, 2: {0, 1}} {
		exec(t, pool, `DELETE FROM sync.bundle_rows WHERE bundle_seq = $1`, lost)
		for _, seq := range after {
			_, err := service.ProcessPull(t.Context(), phone.actor, seq, 0, 0)
			require.Error(t, err, "bundle %d is lost, and pulled after %d", lost, seq)
		}
	}
}

// A bundle that has lost some of its rows must not be sent, and least of all get the
// hash of what is left of it.
func TestPullOfABundleThatIsNotWhole(t *testing.T) {
	t.Parallel()
	for damage, seq := range map[string]int{
		"DELETE FROM sync.bundle_rows WHERE bundle_seq = 1 AND row_ordinal = 0": 1,
		"DELETE FROM sync.bundle_rows WHERE bundle_seq = 2 AND row_ordinal = 0": 2,
		"DELETE FROM sync.bundle_rows WHERE bundle_seq = 2 AND row_ordinal = 1": 2,
		"DELETE FROM sync.bundle_rows WHERE bundle_seq = 2 AND row_ordinal = 2": 2,
		"DELETE FROM sync.bundle_rows WHERE bundle_seq = 3 AND row_ordinal = 1": 3,
		"UPDATE sync.bundle_log SET row_count = 2 WHERE bundle_seq = 2":         2,
		"UPDATE sync.bundle_log SET row_count = 1 WHERE bundle_seq = 3":         3,
		"UPDATE sync.bundle_log SET row_count = 0 WHERE bundle_seq = 2":         2,
	} {
		for _, isSealed := range []bool{true, false} {
			t.Run(fmt.Sprint(damage, ", sealed ", isSealed), func(t *testing.T) {
				t.Parallel()
				pool := pgtest.NewPool(t)
				service := newService(t, pool, notesDDL, &oversync.ServiceConfig{RegisteredTables: tables("app.notes")})
				phone := newDevice(t, service, "anna", "phone")
				phone.mustPush(t, insertNote(1, "a"), insertNote(2, "b"))
				phone.mustPush(t, insertNote(3, "c"), insertNote(4, "d"), insertNote(5, "e"))
				phone.mustPush(t, insertNote(6, "f"), insertNote(7, "g"))
				if !isSealed { // as of bundles that plain SQL wrote
					exec(t, pool, "UPDATE sync.bundle_log SET bundle_hash = NULL, byte_count = NULL")
				}
				exec(t, pool, damage)
				_, err := service.ProcessPull(t.Context(), phone.actor, 0, 0, 0)
				require.ErrorContains(t, err, fmt.Sprint("has no whole bundle ", seq))
				require.Equal(t, isSealed, scalar[bool](t, pool, "SELECT bool_and(bundle_hash IS NOT NULL) FROM sync.bundle_log"))
				require.Equal(t, !isSealed, scalar[bool](t, pool, "SELECT bool_and(bundle_hash IS NULL) FROM sync.bundle_log"))
			})
		}
	}
}

// A bundle gets its hash and its bytes once, from whoever keeps them first.
func TestABundleIsSealedOnce(t *testing.T) {
	t.Parallel()
	before := &beforeQuery{name: "BundleSeal"}
	pool := pgtest.NewPool(t)
	config := pool.Config()
	config.ConnConfig.Tracer = before
	watched, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(watched.Close)
	other := newService(t, pool, notesDDL, &oversync.ServiceConfig{RegisteredTables: tables("app.notes")})
	phone := newDevice(t, newService(t, watched, "SELECT", &oversync.ServiceConfig{RegisteredTables: tables("app.notes")}), "anna", "phone")
	exec(t, pool, "SELECT sync.set_policy('app.notes', 'capture')")
	for n := range 3 {
		exec(t, pool, fmt.Sprintf("INSERT INTO app.notes (_sync_scope_id, id, title) VALUES ('anna', '%s', 'plain')", noteID(1+n)))
	}
	const state = "SELECT concat_ws(' ', u.bundle_byte_count, string_agg(concat_ws(' ', l.bundle_seq, l.byte_count, encode(l.bundle_hash, 'hex')), ', ' ORDER BY l.bundle_seq)) FROM sync.user_state u JOIN sync.bundle_log l USING (user_pk) GROUP BY u.user_pk"
	requireAdded := func() {
		t.Helper()
		require.True(t, scalar[bool](t, pool, "SELECT bool_and(u.bundle_byte_count = (SELECT sum(l.byte_count) FROM sync.bundle_log l WHERE l.user_pk = u.user_pk)) FROM sync.user_state u"))
	}

	// Another instance makes the hashes, too, while this one is about to keep them.
	tablet := &device{service: other, actor: oversync.Actor{UserID: "anna", SourceID: "tablet"}}
	var ofTablet []oversync.Bundle
	var first string
	before.run = func(ctx context.Context) {
		var err error
		ofTablet, err = tablet.pull(ctx)
		require.NoError(t, err)
		first = scalar[string](t, pool, state)
	}
	require.Equal(t, phone.mustPull(t), ofTablet)
	require.Equal(t, first, scalar[string](t, pool, state))
	requireAdded()

	// Nor does another hash replace it, whether it comes afterwards or waits for the first.
	seal := func(conn db.DBTX, hash byte, bytes int64) error {
		return db.New().BundleSeal(t.Context(), conn, db.BundleSealParams{
			UserID: "anna", BundleSeqs: []int64{1, 2}, BundleHashes: [][]byte{{hash}, {hash}}, ByteCounts: []int64{bytes, bytes},
		})
	}
	require.NoError(t, seal(pool, 1, 1000))
	require.Equal(t, first, scalar[string](t, pool, state))
	exec(t, pool, "UPDATE sync.bundle_log SET bundle_hash = NULL, byte_count = NULL; UPDATE sync.user_state SET bundle_byte_count = 0")
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	require.NoError(t, seal(tx, 2, 20))
	waiter := make(chan error, 1)
	go func() { waiter <- seal(pool, 3, 3000) }()
	require.Eventually(t, func() bool {
		return scalar[bool](t, pool, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')`)
	}, time.Minute, time.Millisecond)
	require.NoError(t, tx.Commit(t.Context()))
	require.NoError(t, <-waiter)
	require.Equal(t, "40 1 20 02, 2 20 02, 3", scalar[string](t, pool, state))
	phone.pulled = 2
	require.Len(t, phone.mustPull(t), 1)
	requireAdded()
}

// What is pruned after a pull has looked at its scope, and before it reads, is history_pruned and no fault of the server.
func TestPullOfWhatIsPrunedMeanwhile(t *testing.T) {
	t.Parallel()
	pool := pgtest.NewPool(t)
	service := newService(t, pool, notesDDL, &oversync.ServiceConfig{RegisteredTables: tables("app.notes")})
	phone := newDevice(t, service, "anna", "phone")
	for n := range 3 {
		phone.mustPush(t, insertNote(n+1, "a"))
	}
	// The first read of the log waits for this transaction, the look at the scope does not.
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }() // after the commit it does nothing
	_, err = tx.Exec(t.Context(), `LOCK TABLE sync.bundle_rows`)
	require.NoError(t, err)
	pulled := make(chan error, 1)
	go func() {
		_, err := service.ProcessPull(t.Context(), phone.actor, 1, 0, 0)
		pulled <- err
	}()
	require.Eventually(t, func() bool {
		return scalar[bool](t, pool, `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'sync.bundle_rows'::regclass)`)
	}, time.Minute, 5*time.Millisecond)
	_, err = tx.Exec(t.Context(), `UPDATE sync.user_state SET retained_bundle_floor = 2`)
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `DELETE FROM sync.bundle_rows WHERE bundle_seq <= 2`)
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	require.EqualValues(t, 2, requireAs[*oversync.HistoryPrunedError](t, <-pulled).RetainedFloor)
}

// beforeQuery runs before the first statement of a name.
type beforeQuery struct {
	name string
	run  func(context.Context)
	once sync.Once
}

func (q *beforeQuery) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if strings.HasPrefix(data.SQL, "-- name: "+q.name+" ") {
		q.once.Do(func() { q.run(ctx) })
	}
	return ctx
}

func (*beforeQuery) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// A push that is sent again must not be told the hash of what is left of its bundle.
func TestAPushWhoseBundleIsPrunedWhileItsHashIsMade(t *testing.T) {
	t.Parallel()
	before := &beforeQuery{name: "BundleRows"}
	pool := newPoolWith(t, func(config *pgxpool.Config) { config.ConnConfig.Tracer = before })
	before.run = func(ctx context.Context) {
		_, err := pool.Exec(ctx, "SELECT sync.prune(1)")
		require.NoError(t, err)
	}
	service := newService(t, pool, notesDDL, &oversync.ServiceConfig{RegisteredTables: tables("app.notes")})
	phone := newDevice(t, service, "anna", "phone")
	phone.mustPush(t, insertNote(1, "a"), insertNote(2, "b"))
	phone.mustPush(t, updateNote(1, 1, "c"))
	phone.mustPush(t, updateNote(1, 2, "d"))
	exec(t, pool, "UPDATE sync.bundle_log SET bundle_hash = NULL") // as of bundles that plain SQL wrote
	phone.next = 1
	_, err := phone.push(t.Context(), insertNote(1, "a"), insertNote(2, "b"))
	require.EqualValues(t, 2, requireAs[*oversync.HistoryPrunedError](t, err).RetainedFloor)
}

// What is stored can be read back, and written by plain SQL, however deep it is nested.
func TestDeepestPayload(t *testing.T) {
	t.Parallel()
	service := newService(t, pgtest.NewPool(t), `
		CREATE SCHEMA app;
		CREATE TABLE app.papers (_sync_scope_id text NOT NULL, id uuid NOT NULL, body json, seen boolean, PRIMARY KEY (_sync_scope_id, id));`,
		&oversync.ServiceConfig{RegisteredTables: tables("app.papers")})
	phone := newDevice(t, service, "anna", "phone")
	paper := func(n, levels int) oversync.PushRequestRow {
		row := insertNote(n, "")
		row.Table, row.Payload = "papers", json.RawMessage(`{"body":`+strings.Repeat("[", levels)+strings.Repeat("]", levels)+`}`)
		return row
	}
	_, err := phone.push(t.Context(), paper(1, 9_990))
	require.Contains(t, requireAs[*oversync.PushChunkInvalidError](t, err).Message, "nested too deep")
	phone.mustPush(t, paper(2, 9_989))
	exec(t, service.Pool(), "SELECT sync.set_policy('app.papers', 'capture')")
	exec(t, service.Pool(), "UPDATE app.papers SET seen = true")
	require.Len(t, phone.mustPull(t), 2) // read with encoding/json
}

// queryCounter keeps the names of the queries that pulls send to a database.
type queryCounter struct {
	mu   sync.Mutex
	sent []string
}

func (c *queryCounter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if name, _, _ := strings.Cut(data.SQL, "\n"); strings.HasPrefix(name, "-- name: Bundle") || strings.HasPrefix(name, "-- name: ScopeHeads") {
		c.sent = append(c.sent, name)
	}
	return ctx
}

func (c *queryCounter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// take returns the queries sent since the last call.
func (c *queryCounter) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	sent := c.sent
	c.sent = nil
	return sent
}

// TestPullSealsBundlesAtOnce pulls bundles of plain SQL, whose hashes are made as
// they are read for the first time, and counts the statements.
func TestPullSealsBundlesAtOnce(t *testing.T) {
	t.Parallel()
	const bundles = 30
	counter := &queryCounter{}
	pool := newPoolWith(t, func(config *pgxpool.Config) { config.ConnConfig.Tracer = counter })
	service := newService(t, pool, notesDDL, &oversync.ServiceConfig{RegisteredTables: tables("app.notes")})
	phone := newDevice(t, service, "anna", "phone")
	phone.mustPush(t, insertNote(0, "pushed"))
	exec(t, pool, "SELECT sync.set_policy('app.notes', 'capture')")
	for i := range bundles {
		exec(t, pool, fmt.Sprintf("INSERT INTO app.notes (_sync_scope_id, id, title) VALUES ('anna', '%s', 'plain')", noteID(1+i)))
	}
	require.Equal(t, bundles, scalar[int](t, pool, "SELECT count(*) FROM sync.bundle_log WHERE bundle_hash IS NULL"))

	counter.take()
	pulled := phone.mustPull(t)
	require.Len(t, pulled, bundles+1)
	require.Len(t, counter.take(), 3)

	// What was told is what is kept, with the bytes of each.
	for _, bundle := range pulled {
		require.Equal(t, bundle.BundleHash, scalar[string](t, pool, "SELECT encode(bundle_hash, 'hex') FROM sync.bundle_log WHERE bundle_seq = $1", bundle.BundleSeq))
	}
	require.Zero(t, scalar[int](t, pool, "SELECT count(*) FROM sync.user_state u WHERE u.bundle_byte_count <> (SELECT sum(l.byte_count) FROM sync.bundle_log l WHERE l.user_pk = u.user_pk)"))
	counter.take()
	phone.pulled = 0
	require.Equal(t, pulled, phone.mustPull(t))
	require.Len(t, counter.take(), 2)
}
