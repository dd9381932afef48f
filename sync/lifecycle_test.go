package oversync_test

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/oversync/oversync/db/pgembed/pgtest"
	oversync "github.com/oversync/oversync/sync"
)

func TestNewRuntimeServiceRefusesWhatCannotBeMeant(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/nowhere") // is never connected to
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	_, err = oversync.NewRuntimeService(nil, &oversync.ServiceConfig{}, nil)
	require.ErrorContains(t, err, "pool")
	_, err = oversync.NewRuntimeService(pool, nil, nil)
	require.ErrorContains(t, err, "config")
	_, err = oversync.NewRuntimeService(pool, &oversync.ServiceConfig{PushSessionTTL: -time.Second}, nil)
	require.ErrorContains(t, err, "PushSessionTTL")
	_, err = oversync.NewRuntimeService(pool, &oversync.ServiceConfig{UploadLockTimeout: 600 * time.Hour}, nil)
	require.ErrorContains(t, err, "UploadLockTimeout")
	_, err = oversync.NewRuntimeService(pool, &oversync.ServiceConfig{RetentionPruneBatchSize: math.MaxInt64}, nil)
	require.ErrorContains(t, err, "RetentionPruneBatchSize")
	_, err = oversync.NewRuntimeService(pool, &oversync.ServiceConfig{InitializationLeaseTTL: (math.MaxInt32 + 1) * time.Second}, nil)
	require.ErrorContains(t, err, "InitializationLeaseTTL")
	for _, c := range []oversync.ServiceConfig{
		{DefaultRowsPerPushChunk: 5001}, {DefaultRowsPerCommittedBundleChunk: 3, MaxRowsPerCommittedBundleChunk: 2}, {DefaultRowsPerSnapshotChunk: 9000, MaxRowsPerSnapshotChunk: 8000},
	} {
		_, err = oversync.NewRuntimeService(pool, &c, nil)
		require.ErrorContains(t, err, "is above Max")
	}
	for _, blank := range []string{"app.", "app.  "} {
		_, err = oversync.NewRuntimeService(pool, &oversync.ServiceConfig{RegisteredTables: tables(blank)}, nil)
		require.ErrorIs(t, err, &oversync.UnsupportedSchemaError{})
	}
}

// TestLargestSettings takes every setting to the largest that is accepted, and a device
// through all that reads them.
func TestLargestSettings(t *testing.T) {
	t.Parallel()
	service := newService(t, pgtest.NewPool(t), notesDDL, &oversync.ServiceConfig{
		RegisteredTables: tables("app.notes"),
		MaxRowsPerBundle: math.MaxInt, MaxBytesPerBundle: math.MaxInt,
		DefaultRowsPerPushChunk: math.MaxInt, MaxRowsPerPushChunk: math.MaxInt,
		PushSessionTTL: math.MaxInt64, InitializationLeaseTTL: math.MaxInt32 * time.Second, SnapshotSessionTTL: math.MaxInt64,
		DefaultRowsPerCommittedBundleChunk: math.MaxInt, MaxRowsPerCommittedBundleChunk: math.MaxInt,
		DefaultRowsPerSnapshotChunk: math.MaxInt, MaxRowsPerSnapshotChunk: math.MaxInt,
		MaxRowsPerSnapshotSession: math.MaxInt64, MaxBytesPerSnapshotSession: math.MaxInt64,
		RetainedBundlesPerUser: math.MaxInt64, RetentionPruneBatchSize: math.MaxInt32,
		UploadLockTimeout: math.MaxInt32 * time.Millisecond,
	})
	phone := &device{service: service, actor: oversync.Actor{UserID: "anna", SourceID: "phone"}, next: 1}
	start, err := service.Connect(t.Context(), phone.actor, &oversync.ConnectRequest{HasLocalPendingRows: true})
	require.NoError(t, err)
	wait, err := service.Connect(t.Context(), oversync.Actor{UserID: "anna", SourceID: "tablet"}, &oversync.ConnectRequest{})
	require.NoError(t, err)
	require.Equal(t, "retry_later", wait.Resolution)
	require.InDelta(t, math.MaxInt32, wait.RetryAfterSec, 60)
	session, err := service.CreatePushSession(t.Context(), phone.actor, &oversync.PushSessionCreateRequest{
		SourceBundleID: 1, PlannedRowCount: 2, InitializationID: start.InitializationID,
	})
	require.NoError(t, err)
	_, err = service.UploadPushChunk(t.Context(), phone.actor, session.PushID, &oversync.PushSessionChunkRequest{
		Rows: []oversync.PushRequestRow{insertNote(1, "one"), insertNote(2, "two")},
	})
	require.NoError(t, err)
	_, err = service.CommitPushSession(t.Context(), phone.actor, session.PushID)
	require.NoError(t, err)
	require.Len(t, phone.mustPull(t), 1)
	rows, err := service.GetCommittedBundleRows(t.Context(), phone.actor, 1, nil, math.MaxInt)
	require.NoError(t, err)
	require.Len(t, rows.Rows, 2)
	snapshot, err := service.CreateSnapshotSession(t.Context(), phone.actor)
	require.NoError(t, err)
	chunk, err := service.GetSnapshotChunk(t.Context(), phone.actor, snapshot.SnapshotID, 0, math.MaxInt)
	require.NoError(t, err)
	require.Len(t, chunk.Rows, 2)
	require.NoError(t, oversync.PrunePass(t.Context(), service))
}

// A name is quoted without its U+0000, and would be that of another table.
func TestNamesWithNULAreRefused(t *testing.T) {
	t.Parallel()
	pool := pgtest.NewPool(t)
	for _, config := range []oversync.ServiceConfig{
		{RegisteredTables: tables("app.no\x00tes")},
		{RegisteredTables: tables("a\x00pp.notes")},
		{RegisteredTables: []oversync.RegisteredTable{{Schema: "app", Table: "notes", SyncKeyColumns: []string{"i\x00d"}}}},
		{DependencyOverrides: map[string][]string{"app.notes": {"app.\x00tags"}}},
		{DependencyOverrides: map[string][]string{"app.n\x00otes": nil}},
	} {
		_, err := oversync.NewRuntimeService(pool, &config, nil)
		require.ErrorContains(t, err, "U+0000")
		requireType[*oversync.UnsupportedSchemaError](t, err)
	}
}

func TestTheConfigIsTheServicesOwn(t *testing.T) {
	t.Parallel()
	pool := pgtest.NewPool(t)
	_, err := pool.Exec(t.Context(), notesDDL)
	require.NoError(t, err)
	config := &oversync.ServiceConfig{
		RegisteredTables:    []oversync.RegisteredTable{{Schema: "app", Table: "notes", SyncKeyColumns: []string{"id"}}},
		DependencyOverrides: map[string][]string{},
	}
	service, err := oversync.NewRuntimeService(pool, config, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, service.Close(context.Background())) })
	config.RegisteredTables[0].SyncKeyColumns[0] = "nothing"
	config.RegisteredTables[0].Table = "others"
	config.DependencyOverrides["app.others"] = []string{"app.notes"}
	require.NoError(t, service.Bootstrap(t.Context()))
	require.True(t, service.IsTableRegistered("app", "notes"))
}

// What PostgreSQL says of a read-only session tells nobody what to change.
func TestBootstrapInAReadOnlySession(t *testing.T) {
	t.Parallel()
	pool := newPoolWith(t, func(config *pgxpool.Config) { config.ConnConfig.RuntimeParams["default_transaction_read_only"] = "on" })
	_, err := pool.Exec(t.Context(), "BEGIN READ WRITE;"+notesDDL+"COMMIT;")
	require.NoError(t, err)
	service, err := oversync.NewRuntimeService(pool, &oversync.ServiceConfig{RegisteredTables: tables("app.notes")}, nil)
	require.NoError(t, err)
	require.ErrorContains(t, service.Bootstrap(t.Context()), "default_transaction_read_only = off")
}

func TestBootstrapByManyServicesAtOnce(t *testing.T) {
	t.Parallel()
	pool := pgtest.NewPool(t)
	_, err := pool.Exec(t.Context(), notesDDL+`
CREATE TABLE app.tags (_sync_scope_id text NOT NULL, id uuid NOT NULL, note_id uuid, PRIMARY KEY (_sync_scope_id, id),
    CONSTRAINT tag_has_note FOREIGN KEY (_sync_scope_id, note_id) REFERENCES app.notes DEFERRABLE);`)
	require.NoError(t, err)
	group, ctx := errgroup.WithContext(t.Context())
	services := make([]*oversync.SyncService, 8)
	for i := range services {
		// In either order: the set is judged as a whole.
		names := []string{"app.notes", "app.tags"}
		if i%2 == 1 {
			names = []string{"app.tags", "app.notes"}
		}
		services[i], err = oversync.NewRuntimeService(pool, &oversync.ServiceConfig{
			RegisteredTables: tables(names...), DependencyOverrides: map[string][]string{"app.tags": {"app.notes"}},
		}, nil)
		require.NoError(t, err)
		group.Go(func() error { return services[i].Bootstrap(ctx) })
	}
	require.NoError(t, group.Wait())
	require.Equal(t, 2, scalar[int](t, pool, "SELECT count(*) FROM sync.table_catalog"))
	for _, service := range services {
		require.Equal(t, []string{"app.notes", "app.tags"}, service.GetCapabilities().RegisteredTables)
		require.True(t, service.IsTableRegistered("app", "tags"))
		require.False(t, service.IsTableRegistered("app", "nothing"))
		require.NoError(t, service.Close(t.Context()))
	}
}

// A table may be registered in SQL, with what the config cannot say, and be named in the config too.
func TestBootstrapLeavesRegisteredTablesAsTheyAre(t *testing.T) {
	t.Parallel()
	pool := pgtest.NewPool(t)
	exec(t, pool, `CREATE TABLE public.shelves (id uuid PRIMARY KEY);
		CREATE TABLE public.books (id uuid PRIMARY KEY, owner text NOT NULL, shelf_id uuid REFERENCES public.shelves DEFERRABLE);
		SELECT sync.register_table('public.books', scope => 'owner', policy => 'capture', external_references => '{public.shelves}')`)
	const catalog = `SELECT string_agg(t::text, ' ' ORDER BY t.table_id) FROM sync.table_catalog t`
	before := scalar[string](t, pool, catalog)
	for _, keys := range [][]string{nil, {"id"}, {"ID "}} {
		service := openService(t, pool, oversync.ServiceConfig{RegisteredTables: []oversync.RegisteredTable{{Table: "books", SyncKeyColumns: keys}}}, nil)
		require.NoError(t, service.Bootstrap(t.Context()))
		require.True(t, service.IsTableRegistered("", "books"))
		require.Equal(t, before, scalar[string](t, pool, catalog))
	}
	other := openService(t, pool, oversync.ServiceConfig{RegisteredTables: []oversync.RegisteredTable{{Table: "books", SyncKeyColumns: []string{"owner"}}}}, nil)
	requireType[*oversync.UnsupportedSchemaError](t, other.Bootstrap(t.Context()))
}

func TestBootstrapNamesTableAndRemedy(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ddl, table, overrides string
		say                   []string
	}{
		"no such table": {table: "app.notes", say: []string{"app.notes", "create it"}},
		"no scope column": {
			ddl: `CREATE SCHEMA app; CREATE TABLE app.notes (id uuid PRIMARY KEY)`, table: "app.notes",
			say: []string{"app.notes", "_sync_scope_id", "ALTER TABLE app.notes ADD COLUMN _sync_scope_id text NOT NULL"},
		},
		"nullable scope": {
			ddl:   `CREATE SCHEMA app; CREATE TABLE app.notes (_sync_scope_id text, id uuid NOT NULL, UNIQUE (_sync_scope_id, id), CONSTRAINT pk PRIMARY KEY (id))`,
			table: "app.notes",
			say:   []string{"app.notes", "_sync_scope_id"},
		},
		"unlogged": {
			ddl:   `CREATE SCHEMA app; CREATE UNLOGGED TABLE app.notes (_sync_scope_id text NOT NULL, id uuid NOT NULL, PRIMARY KEY (_sync_scope_id, id))`,
			table: "app.notes", say: []string{"app.notes", "ALTER TABLE app.notes SET LOGGED"},
		},
		"a view": {
			ddl: `CREATE SCHEMA app; CREATE VIEW app.notes AS SELECT 1 AS id`, table: "app.notes", say: []string{"app.notes"},
		},
		"foreign key to an unregistered table": {
			ddl: notesDDL + `CREATE TABLE app.tags (_sync_scope_id text NOT NULL, id uuid NOT NULL, PRIMARY KEY (_sync_scope_id, id),
    CONSTRAINT tag_has_note FOREIGN KEY (_sync_scope_id, id) REFERENCES app.notes DEFERRABLE)`,
			table: "app.tags", say: []string{"tag_has_note", "app.tags", "SELECT sync.register_table('app.notes')"},
		},
		"an override of an unknown table": {
			ddl: notesDDL, table: "app.notes", overrides: "app.nothing", say: []string{"override"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.NewPool(t)
			_, err := pool.Exec(t.Context(), c.ddl)
			require.NoError(t, err)
			config := &oversync.ServiceConfig{RegisteredTables: tables(c.table)}
			if c.overrides != "" {
				config.DependencyOverrides = map[string][]string{c.overrides: {c.table}}
			}
			service, err := oversync.NewRuntimeService(pool, config, nil)
			require.NoError(t, err)
			err = service.Bootstrap(t.Context())
			unsupported := requireAs[*oversync.UnsupportedSchemaError](t, err)
			require.ErrorIs(t, err, &oversync.UnsupportedSchemaError{})
			for _, words := range c.say {
				require.Contains(t, unsupported.Error(), words)
			}
			require.Zero(t, scalar[int](t, pool, "SELECT count(*) FROM sync.table_catalog"), "all tables or none")
			require.NoError(t, service.Close(t.Context()))
		})
	}
}

func TestBootstrapSaysToMigrate(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), pgtest.NewEmptyDatabase(t))
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	service, err := oversync.NewRuntimeService(pool, &oversync.ServiceConfig{RegisteredTables: tables("app.notes")}, nil)
	require.NoError(t, err)
	require.ErrorContains(t, requireAs[*oversync.UnsupportedSchemaError](t, service.Bootstrap(t.Context())), "oversync migrate up")
}

// TestCloseDrains holds one operation open, and checks that Close refuses others
// and waits for that one. goleak, in TestMain, finds what Close leaves running.
func TestCloseDrains(t *testing.T) {
	t.Parallel()
	service := newNotes(t)
	device := newDevice(t, service, "anna", "phone")
	manager := oversync.NewScopeManager(service, oversync.ScopeManagerConfig{})
	entered, release, written := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := manager.ExecWrite(context.Background(), "anna", oversync.ScopeWriteOptions{WriterID: "importer"}, func(tx pgx.Tx) error {
			close(entered)
			<-release
			return insertNoteSQL(context.Background(), tx, 1, "written while closing")
		})
		written <- err
	}()
	<-entered

	hurried, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, service.Close(hurried), context.Canceled)

	refused := func(err error) { requireType[*oversync.ServiceClosedError](t, err) }
	_, err := device.pull(t.Context())
	refused(err)
	_, err = device.push(t.Context(), insertNote(2, ""))
	refused(err)
	_, err = service.Connect(t.Context(), device.actor, &oversync.ConnectRequest{})
	refused(err)
	_, err = service.CommitPushSession(t.Context(), device.actor, noteID(1))
	refused(err)
	_, err = service.UploadPushChunk(t.Context(), device.actor, noteID(1), &oversync.PushSessionChunkRequest{})
	refused(err)
	refused(service.DeletePushSession(t.Context(), device.actor, noteID(1)))
	_, err = service.CreateSnapshotSession(t.Context(), device.actor)
	refused(err)
	_, err = service.GetSnapshotChunk(t.Context(), device.actor, noteID(1), 0, 0)
	refused(err)
	refused(service.DeleteSnapshotSession(t.Context(), device.actor, noteID(1)))
	_, err = service.GetCommittedBundleRows(t.Context(), device.actor, 1, nil, 0)
	refused(err)
	_, err = manager.ExecWrite(t.Context(), "anna", oversync.ScopeWriteOptions{WriterID: "importer"}, func(pgx.Tx) error { return errors.New("must not run") })
	refused(err)
	refused(service.WithinSyncBundle(t.Context(), device.actor, oversync.BundleSource{SourceID: "importer", SourceBundleID: 1}, func(pgx.Tx) error { return errors.New("must not run") }))
	refused(service.Bootstrap(t.Context()))

	status, err := service.GetStatus(t.Context())
	require.NoError(t, err)
	require.Equal(t, "shutting_down", status.Lifecycle)
	require.False(t, status.AcceptingOperations)
	require.Equal(t, 1, status.InFlightOperations)

	closed := make(chan error, 2)
	for range cap(closed) {
		go func() { closed <- service.Close(context.Background()) }()
	}
	close(release)
	require.NoError(t, <-written)
	for range cap(closed) {
		require.NoError(t, <-closed)
	}
	require.NoError(t, service.Close(t.Context()), "again, when all is over")
	status, err = service.GetStatus(t.Context())
	require.NoError(t, err)
	require.Equal(t, "closed", status.Lifecycle)
	require.Zero(t, status.InFlightOperations)
	require.EqualValues(t, 1, status.CommittedBundleCount)
}

// TestStatusOfADatabaseThatStandsStill: a probe must get its answer while another waits
// for the database, and each within a bound.
func TestStatusOfADatabaseThatStandsStill(t *testing.T) {
	t.Parallel()
	service, pool := newQuiet(t, oversync.ServiceConfig{})
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), `LOCK TABLE sync.user_state`)
	require.NoError(t, err)
	first := make(chan error, 1)
	go func() {
		_, err := service.GetStatus(context.Background())
		first <- err
	}()
	require.Eventually(t, func() bool {
		return scalar[bool](t, pool, `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'sync.user_state'::regclass)`)
	}, time.Minute, 5*time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	second := make(chan error, 1)
	go func() {
		_, err := service.GetStatus(ctx)
		second <- err
	}()
	for _, probe := range []chan error{second, first} {
		select {
		case err := <-probe:
			require.ErrorIs(t, err, context.DeadlineExceeded)
		case <-time.After(20 * time.Second):
			t.Fatal("the status waits for the database")
		}
	}
}
