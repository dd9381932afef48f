package oversync_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
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

// newQuiet returns a service that syncs app.notes on a database of its own, where
// nothing happens in the background: it is not bootstrapped.
func newQuiet(t testing.TB, config oversync.ServiceConfig) (*oversync.SyncService, *pgxpool.Pool) {
	t.Helper()
	pool := pgtest.NewPool(t)
	exec(t, pool, notesDDL)
	exec(t, pool, `SELECT sync.register_table('app.notes')`)
	return openService(t, pool, config, slog.New(slog.DiscardHandler)), pool
}

// openService returns a service that is closed when the test ends.
func openService(t testing.TB, pool *pgxpool.Pool, config oversync.ServiceConfig, logger *slog.Logger) *oversync.SyncService {
	t.Helper()
	service, err := oversync.NewRuntimeService(pool, &config, logger)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, service.Close(context.Background())) })
	return service
}

func exec(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	_, err := pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

// write commits a bundle of the source "server" and creates the scope if need be.
func write(t testing.TB, service *oversync.SyncService, user, sql string, args ...any) {
	t.Helper()
	manager := oversync.NewScopeManager(service, oversync.ScopeManagerConfig{Logger: slog.New(slog.DiscardHandler)})
	_, err := manager.ExecWrite(t.Context(), user, oversync.ScopeWriteOptions{WriterID: "server"}, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), sql, args...)
		return err
	})
	require.NoError(t, err)
}

// writeNote commits a bundle that sets the title of a note.
func writeNote(t testing.TB, service *oversync.SyncService, user string, n int, title string) {
	t.Helper()
	write(t, service, user, `INSERT INTO app.notes (id, title) VALUES ($1, $2)
		ON CONFLICT (_sync_scope_id, id) DO UPDATE SET title = excluded.title`, noteID(n), title)
}

func TestSweepRemovesWhatExpiredLongAgo(t *testing.T) {
	t.Parallel()
	service, pool := newQuiet(t, oversync.ServiceConfig{})
	writeNote(t, service, "ann", 1, "a")
	writeNote(t, service, "ann", 2, "b")
	phone := newDevice(t, service, "ann", "phone")
	staged, err := phone.stage(t.Context(), insertNote(3, "c"), insertNote(4, "d"))
	require.NoError(t, err)
	snapshot := func(source string) string {
		actor := oversync.Actor{UserID: "ann", SourceID: source}
		session, err := service.CreateSnapshotSession(t.Context(), actor)
		require.NoError(t, err)
		_, err = service.GetSnapshotChunk(t.Context(), actor, session.SnapshotID, 0, 1)
		require.NoError(t, err)
		return session.SnapshotID
	}
	exec(t, pool, `DELETE FROM sync.snapshot_sessions WHERE snapshot_id = $1`, snapshot("reader")) // as when too many are made: its mark stays behind
	snapshotID := snapshot("reader")
	counts := func() string {
		return scalar[string](t, pool, `SELECT concat_ws(' ', (SELECT count(*) FROM sync.push_sessions), (SELECT count(*) FROM sync.push_chunks),
			(SELECT count(*) FROM sync.snapshot_sessions), (SELECT count(*) FROM sync.snapshot_marks))`)
	}
	require.Equal(t, "1 1 1 2", counts())
	require.Zero(t, scalar[int64](t, pool, `SELECT sync.sweep()`))
	require.Equal(t, "1 1 1 1", counts(), "only the mark of the snapshot that is gone goes")

	expire := func(ago string) {
		for _, table := range []string{"push_sessions", "snapshot_sessions"} {
			exec(t, pool, fmt.Sprintf(`UPDATE sync.%s SET expires_at = now() - $1::interval`, table), ago)
		}
	}
	expire("14 minutes")
	require.Zero(t, scalar[int64](t, pool, `SELECT sync.sweep()`))
	_, err = service.CommitPushSession(t.Context(), phone.actor, staged.PushID)
	requireType[*oversync.PushSessionExpiredError](t, err)
	_, err = service.GetSnapshotChunk(t.Context(), phone.actor, snapshotID, 0, 1)
	requireType[*oversync.SnapshotSessionExpiredError](t, err)

	expire("15 minutes")
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT FROM sync.push_sessions FOR UPDATE`)
	require.NoError(t, err)
	require.EqualValues(t, 1, scalar[int64](t, pool, `SELECT sync.sweep()`), "a session in use is passed over")
	require.Equal(t, "1 1 0 0", counts())
	require.NoError(t, tx.Rollback(t.Context()))
	require.EqualValues(t, 1, scalar[int64](t, pool, `SELECT sync.sweep()`))
	require.Equal(t, "0 0 0 0", counts())

	_, err = service.CommitPushSession(t.Context(), phone.actor, staged.PushID)
	requireType[*oversync.PushSessionNotFoundError](t, err)
}

// A transaction must not lose the bundle that it has open to a sweep.
func TestSweepLeavesRunningTransactionsAlone(t *testing.T) {
	t.Parallel()
	service, pool := newQuiet(t, oversync.ServiceConfig{})
	manager := oversync.NewScopeManager(service, oversync.ScopeManagerConfig{Logger: slog.New(slog.DiscardHandler)})
	_, err := manager.ExecWrite(t.Context(), "ann", oversync.ScopeWriteOptions{WriterID: "server"}, func(tx pgx.Tx) error {
		if err := insertNoteSQL(t.Context(), tx, 1, "a"); err != nil {
			return err
		}
		for _, conn := range []interface {
			QueryRow(context.Context, string, ...any) pgx.Row
		}{pool, tx} {
			var removed int64
			if err := conn.QueryRow(t.Context(), `SELECT sync.sweep()`).Scan(&removed); err != nil {
				return err
			}
		}
		return nil
	})
	require.NoError(t, err)

	// Nobody can commit a bundle that is open. What is left behind all the same, as where a dump was restored, goes.
	_, err = pool.Exec(t.Context(), `SELECT sync.bundle_open('ann', 'psql', NULL, false)`)
	require.ErrorContains(t, err, "OV024")
	exec(t, pool, `INSERT INTO sync.open_bundles (xid, user_pk, user_id, bundle_seq, source_id, source_bundle_id, is_implicit)
		SELECT '3', u.user_pk, u.user_id, u.next_bundle_seq, 'psql', 1, true FROM sync.user_state u WHERE u.user_id = 'ann'`)
	exec(t, pool, `INSERT INTO sync.captured_keys (xid, table_id, at_commit, keys) VALUES ('3', 1, false, '{}')`)
	require.EqualValues(t, 1, scalar[int64](t, pool, `SELECT count(*) FROM sync.open_bundles`))
	exec(t, pool, `SELECT sync.sweep()`)
	require.Zero(t, scalar[int64](t, pool, `SELECT (SELECT count(*) FROM sync.open_bundles) + (SELECT count(*) FROM sync.captured_keys)`))
}

func TestSnapshotSessionsOfAScopeAreBounded(t *testing.T) {
	t.Parallel()
	service, pool := newQuiet(t, oversync.ServiceConfig{})
	writeNote(t, service, "ann", 1, "a")
	writeNote(t, service, "bob", 1, "b")
	snapshot := func(user, source string) string {
		session, err := service.CreateSnapshotSession(t.Context(), oversync.Actor{UserID: user, SourceID: source})
		require.NoError(t, err)
		return session.SnapshotID
	}
	patient, bob := snapshot("ann", "patient"), snapshot("bob", "device")
	var impatient []string
	for range 20 {
		impatient = append(impatient, snapshot("ann", "impatient"))
	}
	require.EqualValues(t, 1+1+8, scalar[int64](t, pool, `SELECT count(*) FROM sync.snapshot_sessions`))
	exec(t, pool, `ALTER TABLE sync.snapshot_sessions DISABLE TRIGGER USER`)
	exec(t, pool, `INSERT INTO sync.snapshot_sessions (user_pk, source_id, snapshot_bundle_seq, row_count, byte_count, expires_at)
		SELECT u.user_pk, 'device ' || i, 1, 1, 1, now() + interval '1 hour' FROM sync.user_state u, generate_series(1, 4086) AS i WHERE u.user_id = 'ann'`)
	exec(t, pool, `ALTER TABLE sync.snapshot_sessions ENABLE TRIGGER USER`)
	for _, id := range append(impatient[12:], patient) {
		require.Len(t, readSnapshotOf(t, service, "ann", id), 1)
	}
	late := snapshot("ann", "late")
	require.EqualValues(t, 1+4096, scalar[int64](t, pool, `SELECT count(*) FROM sync.snapshot_sessions`))
	next := snapshot("ann", "later")
	require.EqualValues(t, 1+4096, scalar[int64](t, pool, `SELECT count(*) FROM sync.snapshot_sessions`))
	for _, gone := range []string{impatient[0], impatient[11], patient} {
		_, err := service.GetSnapshotChunk(t.Context(), oversync.Actor{UserID: "ann", SourceID: "x"}, gone, 0, 1)
		requireType[*oversync.SnapshotSessionNotFoundError](t, err)
	}
	for _, id := range []string{late, next} {
		require.Len(t, readSnapshotOf(t, service, "ann", id), 1)
	}
	require.Len(t, readSnapshotOf(t, service, "bob", bob), 1)
}

func TestBackgroundWorkPrunesAndFollowsTheCatalog(t *testing.T) {
	t.Parallel()
	first, pool := newQuiet(t, oversync.ServiceConfig{RetainedBundlesPerUser: 2, RetentionPruneBatchSize: 3})
	second := openService(t, pool, oversync.ServiceConfig{RetainedBundlesPerUser: 2}, nil)
	for n := range 9 {
		writeNote(t, first, "ann", n, "a")
	}
	require.NoError(t, first.Bootstrap(t.Context()))
	require.NoError(t, second.Bootstrap(t.Context()))
	require.NoError(t, second.Bootstrap(t.Context()), "again does no harm")

	exec(t, pool, `CREATE TABLE app.tags (_sync_scope_id text NOT NULL, id uuid NOT NULL, PRIMARY KEY (_sync_scope_id, id))`)
	exec(t, pool, `SELECT sync.register_table('app.tags')`)
	require.Eventually(t, func() bool {
		return slices.Equal(first.GetCapabilities().RegisteredTables, []string{"app.notes", "app.tags"}) && second.IsTableRegistered("app", "tags")
	}, time.Minute, 20*time.Millisecond)
	require.Eventually(t, func() bool {
		return scalar[int64](t, pool, `SELECT count(*) FROM sync.bundle_log`) == 2
	}, time.Minute, 50*time.Millisecond)
	status, err := first.GetStatus(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 7, status.RetainedBundleFloorMax)
	require.EqualValues(t, 2, status.CommittedBundleCount)
	require.EqualValues(t, scalar[int64](t, pool, `SELECT sum(byte_count) FROM sync.bundle_log`), status.CommittedBundleBytes)

	require.NoError(t, first.Close(t.Context()))
	require.NoError(t, first.Close(t.Context()))
	requireType[*oversync.ServiceClosedError](t, first.Bootstrap(t.Context()))
}

// lockedBuffer is a buffer that a logger and a test share.
type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

func TestFailingBackgroundWorkIsLoggedOnce(t *testing.T) {
	t.Parallel()
	_, pool := newQuiet(t, oversync.ServiceConfig{})
	log := &lockedBuffer{}
	service := openService(t, pool, oversync.ServiceConfig{}, slog.New(slog.NewTextHandler(log, nil)))
	require.NoError(t, service.Bootstrap(t.Context()))
	exec(t, pool, `ALTER TABLE sync.catalog_version RENAME TO hidden`)
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "background work fails") }, time.Minute, 20*time.Millisecond)
	exec(t, pool, `ALTER TABLE sync.hidden RENAME TO catalog_version`)
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "background work succeeds again") }, time.Minute, 20*time.Millisecond)
	require.NoError(t, service.Close(t.Context()))
	require.Equal(t, 1, strings.Count(log.String(), "background work fails"), log.String())
}

// Health takes every instance out of its load balancer, and its answer gives no reason.
func TestAnUnhealthyStatusSaysWhyInTheLog(t *testing.T) {
	t.Parallel()
	_, pool := newQuiet(t, oversync.ServiceConfig{})
	log := &lockedBuffer{}
	service := openService(t, pool, oversync.ServiceConfig{}, slog.New(slog.NewTextHandler(log, nil)))
	becomes := func(want string) {
		t.Helper()
		require.Eventually(t, func() bool {
			status, err := service.GetStatus(t.Context())
			require.NoError(t, err)
			return status.Status == want
		}, time.Minute, 100*time.Millisecond)
	}
	becomes("healthy")
	require.Empty(t, log.String())
	exec(t, pool, `ALTER TABLE app.notes DISABLE TRIGGER USER`)
	becomes("unhealthy")
	becomes("unhealthy")
	require.Contains(t, log.String(), "severity=error object=app.notes")
	require.Contains(t, log.String(), "remedy=")
	lines := strings.Count(log.String(), "\n")
	require.LessOrEqual(t, lines, 3)
	exec(t, pool, `ALTER TABLE app.notes ENABLE TRIGGER USER`)
	becomes("healthy")
	require.Contains(t, log.String(), "finds no error any more")
	require.Equal(t, lines+1, strings.Count(log.String(), "\n"), log.String())
}

// The more tables there are, the longer a look takes, and load balancers ask often.
func TestALongLookAtTheSetUpIsRepeatedLessOften(t *testing.T) {
	t.Parallel()
	service, pool := newQuiet(t, oversync.ServiceConfig{})
	exec(t, pool, `CREATE SEQUENCE public.looks;
		CREATE OR REPLACE FUNCTION sync.check() RETURNS TABLE (severity text, object text, problem text, remedy text) LANGUAGE plpgsql AS $$
		BEGIN PERFORM nextval('public.looks'), pg_sleep(1); END $$`)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range 40 {
		<-tick.C
		_, err := service.GetStatus(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 1, scalar[int64](t, pool, `SELECT last_value FROM public.looks`))
	}
}

// TestALookAtTheSetUpOutlivesItsCaller: a load balancer that waits for less than a look
// takes gets an answer once the look is over.
func TestALookAtTheSetUpOutlivesItsCaller(t *testing.T) {
	t.Parallel()
	service, pool := newQuiet(t, oversync.ServiceConfig{})
	exec(t, pool, `CREATE SEQUENCE public.looks;
		CREATE OR REPLACE FUNCTION sync.check() RETURNS TABLE (severity text, object text, problem text, remedy text) LANGUAGE plpgsql AS $$
		BEGIN PERFORM nextval('public.looks'), pg_sleep(2); END $$`)
	ask := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		_, err := service.GetStatus(ctx)
		return err
	}
	require.ErrorIs(t, ask(), context.DeadlineExceeded)
	require.Eventually(t, func() bool { return ask() == nil }, 15*time.Second, time.Millisecond)
	require.EqualValues(t, 1, scalar[int64](t, pool, `SELECT last_value FROM public.looks`))
}

// TestCloseWaitsForALookAtTheSetUp whose caller has left: the pool is the application's to close then.
func TestCloseWaitsForALookAtTheSetUp(t *testing.T) {
	t.Parallel()
	service, pool := newQuiet(t, oversync.ServiceConfig{})
	exec(t, pool, `CREATE SEQUENCE public.begun; CREATE SEQUENCE public.ended;
		CREATE OR REPLACE FUNCTION sync.check() RETURNS TABLE (severity text, object text, problem text, remedy text) LANGUAGE plpgsql AS $$
		BEGIN PERFORM nextval('public.begun'), pg_sleep(1); PERFORM nextval('public.ended'); END $$`)
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() { _, _ = service.GetStatus(ctx); close(left) }()
	require.Eventually(t, func() bool { return scalar[bool](t, pool, `SELECT is_called FROM public.begun`) }, 10*time.Second, time.Millisecond)
	leave()
	<-left
	require.NoError(t, service.Close(t.Context()))
	require.True(t, scalar[bool](t, pool, `SELECT is_called FROM public.ended`))
}

// With very many tables the look does not end in time.
func TestALookAtTheSetUpThatDoesNotEndIsNoFault(t *testing.T) {
	t.Parallel()
	_, pool := newQuiet(t, oversync.ServiceConfig{})
	log := &lockedBuffer{}
	service := openService(t, pool, oversync.ServiceConfig{}, slog.New(slog.NewTextHandler(log, nil)))
	exec(t, pool, `CREATE OR REPLACE FUNCTION sync.check() RETURNS TABLE (severity text, object text, problem text, remedy text) LANGUAGE plpgsql AS $$
		BEGIN PERFORM pg_sleep(60); END $$`)
	for range 2 {
		status, err := service.GetStatus(t.Context())
		require.NoError(t, err)
		require.Equal(t, "healthy", status.Status)
	}
	require.Equal(t, 1, strings.Count(log.String(), "sync.check did not end in time"), log.String())
}

// TestALookThatTheDatabaseCutsShortIsNoFault: a role may have a statement_timeout.
func TestALookThatTheDatabaseCutsShortIsNoFault(t *testing.T) {
	t.Parallel()
	_, pool := newQuiet(t, oversync.ServiceConfig{})
	exec(t, pool, `CREATE OR REPLACE FUNCTION sync.check() RETURNS TABLE (severity text, object text, problem text, remedy text) LANGUAGE plpgsql AS $$
		BEGIN PERFORM pg_sleep(60); END $$`)
	config := pool.Config()
	config.ConnConfig.RuntimeParams["statement_timeout"] = "2s"
	hasty, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(hasty.Close)
	status, err := openService(t, hasty, oversync.ServiceConfig{}, nil).GetStatus(t.Context())
	require.NoError(t, err)
	require.Equal(t, "healthy", status.Status)
}

func TestStatusCountersSurviveRestarts(t *testing.T) {
	t.Parallel()
	service, pool := newQuiet(t, oversync.ServiceConfig{})
	for n := range 3 {
		writeNote(t, service, "ann", n, "a")
	}
	phone := newDevice(t, service, "ann", "phone")
	phone.mustPush(t, insertNote(4, "a"))
	phone.next = 1 // as if the answer had been lost
	phone.mustPush(t, insertNote(4, "a"))

	_, err := pool.Exec(t.Context(), `INSERT INTO app.notes (_sync_scope_id, id, title) VALUES ('ann', gen_random_uuid(), 'a')`)
	require.ErrorContains(t, err, "only inside a bundle")

	require.EqualValues(t, 2, scalar[int64](t, pool, `SELECT sync.prune(2)`))
	_, err = pullBytes(t, service, "ann", 1)
	require.ErrorIs(t, err, &oversync.HistoryPrunedError{})
	_, err = pullBytes(t, service, "ann", 99)
	require.ErrorIs(t, err, &oversync.HistoryPrunedError{})

	require.NoError(t, service.Close(t.Context()))
	status, err := openService(t, pool, oversync.ServiceConfig{}, nil).GetStatus(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, status.AcceptedPushReplayCount)
	require.EqualValues(t, 1, status.RejectedRegisteredWriteCount)
	require.EqualValues(t, 2, status.HistoryPrunedErrorCount)
	require.EqualValues(t, 4, status.LatestBundleSeqMax)
	require.EqualValues(t, 2, status.RetainedBundleFloorMin)
	require.EqualValues(t, 2, status.RetainedBundleWindowMax)
	require.EqualValues(t, 2, status.CommittedBundleCount)
	require.Equal(t, "healthy", status.Status)
}

// History may go between the two looks at a bundle. That is history_pruned, and no
// fault of the server.
func TestABundleThatIsPrunedWhileItIsRead(t *testing.T) {
	t.Parallel()
	pool := pgtest.NewPool(t)
	prune := oversync.StageMetricsRecorderFunc(func(ctx context.Context, timing oversync.StageTiming) {
		if timing.Operation == "committed_bundle_rows" && timing.Stage == "header" {
			_, err := pool.Exec(ctx, `SELECT sync.prune(1)`)
			require.NoError(t, err)
		}
	})
	service := newService(t, pool, notesDDL, &oversync.ServiceConfig{RegisteredTables: tables("app.notes"), StageMetrics: prune})
	phone := newDevice(t, service, "anna", "phone")
	phone.mustPush(t, insertNote(1, "a"), insertNote(2, "b"))
	phone.mustPush(t, updateNote(1, 1, "c"))
	phone.mustPush(t, updateNote(1, 2, "d"))
	_, err := service.GetCommittedBundleRows(t.Context(), phone.actor, 1, nil, 0)
	require.EqualValues(t, 2, requireAs[*oversync.HistoryPrunedError](t, err).RetainedFloor)
}

// Anybody may ask for the status, as often as they like.
func TestStatusOfManyScopesIsRemembered(t *testing.T) {
	t.Parallel()
	service, pool := newQuiet(t, oversync.ServiceConfig{})
	newest := func() int64 {
		status, err := service.GetStatus(t.Context())
		require.NoError(t, err)
		return status.LatestBundleSeqMax
	}
	for n := range int64(3) {
		exec(t, pool, `INSERT INTO sync.user_state (user_id, state, next_bundle_seq) VALUES ($1, 'initialized', $2)`, fmt.Sprint("few-", n), n+1)
		require.Equal(t, n, newest())
	}
	exec(t, pool, `INSERT INTO sync.user_state (user_id) SELECT 'user-' || n FROM generate_series(1, 10000) AS n`)
	// On a machine that is busy the memory may have faded before it is asked.
	require.Eventually(t, func() bool {
		before := newest()
		exec(t, pool, `UPDATE sync.user_state SET next_bundle_seq = next_bundle_seq + 1 WHERE user_id = 'few-2'`)
		return newest() == before
	}, time.Minute, time.Millisecond, "remembered")
	exec(t, pool, `UPDATE sync.user_state SET next_bundle_seq = 1001 WHERE user_id = 'few-2'`)
	require.Eventually(t, func() bool { return newest() == 1000 }, time.Minute, 100*time.Millisecond, "for a while")
}

// A chunk that has begun ends whole, though its session expires meanwhile.
func TestASnapshotThatExpiresWhileAChunkIsRead(t *testing.T) {
	t.Parallel()
	pool := pgtest.NewPool(t)
	service := newService(t, pool, notesDDL, &oversync.ServiceConfig{RegisteredTables: tables("app.notes")})
	actor := newDevice(t, service, "ann", "phone").actor
	// More than the network holds of it.
	require.NoError(t, service.WithinSyncBundle(t.Context(), actor, oversync.BundleSource{SourceID: "job", SourceBundleID: 1}, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `INSERT INTO app.notes (id, title) SELECT gen_random_uuid(), repeat('x', 500000) FROM generate_series(1, 50)`)
		return err
	}))
	session, err := service.CreateSnapshotSession(t.Context(), actor)
	require.NoError(t, err)
	exec(t, pool, `UPDATE sync.snapshot_sessions SET expires_at = clock_timestamp() + interval '5 seconds'`)
	rows, err := pool.Query(t.Context(), db.SnapshotRows, actor.UserID, 0, 50, session.SnapshotID)
	require.NoError(t, err)
	require.True(t, rows.Next())
	require.Eventually(t, func() bool {
		return scalar[bool](t, pool, `SELECT bool_and(expires_at <= clock_timestamp()) FROM sync.snapshot_sessions`)
	}, time.Minute, 10*time.Millisecond)
	read := 1
	for rows.Next() {
		read++
	}
	require.NoError(t, rows.Err())
	require.Equal(t, 50, read)
	_, err = service.GetSnapshotChunk(t.Context(), actor, session.SnapshotID, 0, 50)
	requireType[*oversync.SnapshotSessionExpiredError](t, err)
}

// Where a chunk ended is noted to save time. That it could not be is no reason to
// throw the chunk away.
func TestASnapshotWithoutMarks(t *testing.T) {
	t.Parallel()
	pool := pgtest.NewPool(t)
	service := newService(t, pool, notesDDL, &oversync.ServiceConfig{RegisteredTables: tables("app.notes")})
	d := newDevice(t, service, "ann", "phone")
	d.mustPush(t, insertNote(1, "a"), insertNote(2, "b"), insertNote(3, "c"))
	exec(t, pool, `CREATE FUNCTION app.full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'disk full' USING ERRCODE = '53100'; END $$`)
	exec(t, pool, `CREATE TRIGGER full_disk BEFORE INSERT ON sync.snapshot_marks EXECUTE FUNCTION app.full()`)
	require.Len(t, readSnapshot(t, service, "ann"), 3)
}

// Unregistering a table ends the sessions that it can see. Another must not fail as the server's fault, at each chunk until it expires.
func TestASnapshotWhoseTableIsUnregistered(t *testing.T) {
	t.Parallel()
	service, pool := newQuiet(t, oversync.ServiceConfig{})
	writeNote(t, service, "ann", 1, "a")
	reader := oversync.Actor{UserID: "ann", SourceID: "reader"}
	session, err := service.CreateSnapshotSession(t.Context(), reader)
	require.NoError(t, err)
	write(t, service, "ann", `DELETE FROM app.notes`)
	exec(t, pool, `SELECT sync.unregister_table('app.notes')`)
	require.EqualValues(t, 1, scalar[int64](t, pool, `SELECT count(*) FROM sync.snapshot_sessions`))
	_, err = service.GetSnapshotChunk(t.Context(), reader, session.SnapshotID, 0, 0)
	requireType[*oversync.SnapshotSessionExpiredError](t, err)
}
