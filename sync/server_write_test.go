package oversync_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/oversync/oversync/db/pgembed/pgtest"
	oversync "github.com/oversync/oversync/sync"
)

// serverWriter writes into scopes of app.notes on the server's behalf.
type serverWriter struct {
	service *oversync.SyncService
	manager *oversync.ScopeManager
}

// newServerWriter returns a writer on a database of its own. The service is not
// bootstrapped, so that nothing in the background takes connections.
func newServerWriter(t testing.TB, config oversync.ServiceConfig) serverWriter {
	t.Helper()
	pool := pgtest.NewPool(t)
	_, err := pool.Exec(t.Context(), notesDDL+"SELECT sync.register_table('app.notes')")
	require.NoError(t, err)
	service, err := oversync.NewRuntimeService(pool, &config, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, service.Close(context.Background())) })
	return serverWriter{service, oversync.NewScopeManager(service, oversync.ScopeManagerConfig{})}
}

func (w serverWriter) exec(ctx context.Context, scope, writer string, fn func(tx pgx.Tx) error) (*oversync.ScopeWriteResult, error) {
	return w.manager.ExecWrite(ctx, scope, oversync.ScopeWriteOptions{WriterID: writer}, fn)
}

func (w serverWriter) within(ctx context.Context, scope, source string, id int64, fn func(tx pgx.Tx) error) error {
	return w.service.WithinSyncBundle(ctx, oversync.Actor{UserID: scope}, oversync.BundleSource{SourceID: source, SourceBundleID: id}, fn)
}

// requireUnchanged checks that nothing was committed, that no connection is lost or
// left in a transaction, and that the scope can be written at once.
func (w serverWriter) requireUnchanged(t testing.TB, bundles int64) {
	t.Helper()
	pool := w.service.Pool()
	require.Equal(t, bundles, scalar[int64](t, pool, "SELECT count(*) FROM sync.bundle_log"))
	require.Equal(t, bundles, scalar[int64](t, pool, "SELECT count(*) FROM app.notes"), "these tests write one note a bundle")
	require.Zero(t, scalar[int](t, pool, "SELECT count(*) FROM sync.open_bundles"))
	require.Zero(t, scalar[int](t, pool, "SELECT count(*) FROM sync.captured_keys"))
	require.Zero(t, pool.Stat().AcquiredConns())
	require.Eventually(t, func() bool { // PostgreSQL learns a little later that a connection was cut
		return scalar[int](t, pool, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'") == 0
	}, time.Minute, 10*time.Millisecond)
}

func TestExecWrite(t *testing.T) {
	t.Parallel()
	w := newServerWriter(t, oversync.ServiceConfig{})
	result, err := w.exec(t.Context(), " anna ", " importer ", func(tx pgx.Tx) error {
		if err := insertNoteSQL(t.Context(), tx, 1, "one"); err != nil {
			return err
		}
		_, err := tx.Exec(t.Context(), "UPDATE app.notes SET stars = 9007199254740993")
		return err
	})
	require.NoError(t, err)
	require.True(t, result.AutoInitialized, "nobody had connected yet")
	require.EqualValues(t, 1, result.Bundle.BundleSeq)
	require.Equal(t, "importer", result.Bundle.SourceID)
	require.EqualValues(t, 1, result.Bundle.SourceBundleID)
	require.EqualValues(t, 1, result.Bundle.RowCount, "one effect a row")
	require.JSONEq(t, `{"id":"`+noteID(1)+`","stars":9007199254740993,"title":"one"}`, string(result.Bundle.Rows[0].Payload))

	result, err = w.exec(t.Context(), "anna", "importer", func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), "DELETE FROM app.notes")
		return err
	})
	require.NoError(t, err)
	require.False(t, result.AutoInitialized)
	require.EqualValues(t, 2, result.Bundle.SourceBundleID)
	require.Equal(t, oversync.OpDelete, result.Bundle.Rows[0].Op)
	require.Nil(t, result.Bundle.Rows[0].Payload)

	result2, err := w.exec(t.Context(), "anna", "other writer", func(tx pgx.Tx) error { return insertNoteSQL(t.Context(), tx, 2, "two") })
	require.NoError(t, err)
	require.EqualValues(t, 3, result2.Bundle.BundleSeq)
	require.EqualValues(t, 1, result2.Bundle.SourceBundleID, "each writer counts for itself")

	// Devices see exactly what ExecWrite returned.
	bundles := newDevice(t, w.service, "anna", "phone").mustPull(t)
	require.Len(t, bundles, 3)
	require.Equal(t, *result.Bundle, bundles[1])
	require.Equal(t, *result2.Bundle, bundles[2])
}

func TestExecWriteWithoutChangesCommitsNothing(t *testing.T) {
	t.Parallel()
	w := newServerWriter(t, oversync.ServiceConfig{})
	_, err := w.service.Pool().Exec(t.Context(), "CREATE TABLE app.plain (n int)")
	require.NoError(t, err)
	for name, fn := range map[string]func(tx pgx.Tx) error{
		"nothing at all": func(pgx.Tx) error { return nil },
		"no row matches": func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), "UPDATE app.notes SET stars = 1")
			return err
		},
		"a table that is not registered": func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), "INSERT INTO app.plain VALUES (1)")
			return err
		},
		"inserted and deleted": func(tx pgx.Tx) error {
			if err := insertNoteSQL(t.Context(), tx, 1, "gone"); err != nil {
				return err
			}
			_, err := tx.Exec(t.Context(), "DELETE FROM app.notes")
			return err
		},
	} {
		_, err := w.exec(t.Context(), "anna", "importer", fn)
		none := requireAs[*oversync.ScopeWriteNoCapturedChangesError](t, err)
		require.Equal(t, oversync.ScopeWriteNoCapturedChangesError{ScopeID: "anna", WriterID: "importer"}, *none, name)
	}
	require.Zero(t, scalar[int](t, w.service.Pool(), "SELECT count(*) FROM app.plain"), "all of it is rolled back")
	require.Zero(t, scalar[int](t, w.service.Pool(), "SELECT count(*) FROM sync.user_state"), "the scope is as it was, too")
	w.requireUnchanged(t, 0)
}

func TestExecWriteRefusals(t *testing.T) {
	t.Parallel()
	w := newServerWriter(t, oversync.ServiceConfig{})
	insert := func(tx pgx.Tx) error { return insertNoteSQL(t.Context(), tx, 1, "x") }
	for _, ids := range [][2]string{{"", "importer"}, {"anna", "  "}, {"anna", "a\x00b"}, {fmt.Sprintf("%0256d", 0), "importer"}} {
		_, err := w.exec(t.Context(), ids[0], ids[1], insert)
		requireType[*oversync.ScopeWriteInvalidError](t, err)
	}
	_, err := w.exec(t.Context(), "anna", "importer", nil)
	requireType[*oversync.ScopeWriteInvalidError](t, err)

	// A device holds the lease to fill the scope.
	phone := oversync.Actor{UserID: "anna", SourceID: "phone"}
	lease, err := w.service.Connect(t.Context(), phone, &oversync.ConnectRequest{HasLocalPendingRows: true})
	require.NoError(t, err)
	_, err = w.exec(t.Context(), "anna", "importer", insert)
	initializing := requireAs[*oversync.ScopeInitializingError](t, err)
	require.Equal(t, "anna", initializing.UserID)
	expires, err := time.Parse(time.RFC3339Nano, lease.LeaseExpiresAt)
	require.NoError(t, err)
	require.WithinDuration(t, expires, initializing.LeaseExpiresAt, time.Microsecond)
	w.requireUnchanged(t, 0)

	// A lease that has run out is in nobody's way.
	_, err = w.service.Pool().Exec(t.Context(), "UPDATE sync.user_state SET lease_expires_at = clock_timestamp()")
	require.NoError(t, err)
	result, err := w.exec(t.Context(), "anna", "importer", insert)
	require.NoError(t, err)
	require.True(t, result.AutoInitialized)

	// A writer that was replaced.
	_, err = w.service.CreateSnapshotSessionWithRequest(t.Context(), oversync.Actor{UserID: "anna", SourceID: "importer"}, &oversync.SnapshotSessionCreateRequest{
		SourceReplacement: &oversync.SnapshotSourceReplacement{PreviousSourceID: "importer", NewSourceID: "importer 2", Reason: "history_pruned"},
	})
	require.NoError(t, err)
	_, err = w.exec(t.Context(), "anna", "importer", insert)
	retired := requireAs[*oversync.SourceRetiredError](t, err)
	require.Equal(t, oversync.SourceRetiredError{UserID: "anna", SourceID: "importer", ReplacedBySourceID: "importer 2"}, *retired)
	w.requireUnchanged(t, 1)
}

// TestServerWriteKeepsToItsScope checks the rules about the scope of a row inside a
// bundle, and about writes outside one.
func TestServerWriteKeepsToItsScope(t *testing.T) {
	t.Parallel()
	w := newServerWriter(t, oversync.ServiceConfig{})
	for _, scope := range []string{"anna", "ben"} {
		_, err := w.exec(t.Context(), scope, "importer", func(tx pgx.Tx) error { return insertNoteSQL(t.Context(), tx, 1, scope) })
		require.NoError(t, err)
	}
	require.Equal(t, 1, scalar[int](t, w.service.Pool(), "SELECT count(*) FROM app.notes n WHERE n._sync_scope_id = 'ben' AND n.title = 'ben'"), "an INSERT without a scope gets it")
	for _, statement := range []string{
		"INSERT INTO app.notes (_sync_scope_id, id, title) VALUES ('ben', '" + noteID(2) + "', 'x')",
		"UPDATE app.notes SET title = 'x' WHERE _sync_scope_id = 'ben'",
		"UPDATE app.notes SET title = 'x'",
		"UPDATE app.notes SET _sync_scope_id = 'ben', id = '" + noteID(3) + "' WHERE _sync_scope_id = 'anna'",
		"UPDATE app.notes SET _sync_scope_id = 'anna', id = '" + noteID(3) + "' WHERE _sync_scope_id = 'ben'",
		"DELETE FROM app.notes",
		"INSERT INTO app.notes (_sync_scope_id, id, title) VALUES ('Anna', '" + noteID(2) + "', 'scopes differ in case')",
	} {
		_, err := w.exec(t.Context(), "anna", "importer", func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), statement)
			return err
		})
		require.Equal(t, "OV032", requireAs[*pgconn.PgError](t, err).Code, statement)
	}
	_, err := w.service.Pool().Exec(t.Context(), "DELETE FROM app.notes")
	outside := requireAs[*pgconn.PgError](t, err)
	require.Equal(t, "OV031", outside.Code)
	require.NotEmpty(t, outside.Hint)
	status, err := w.service.GetStatus(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, status.RejectedRegisteredWriteCount, "it is counted, though it was rolled back")
	w.requireUnchanged(t, 2)

	_, err = w.exec(t.Context(), "anna", "importer", func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), "INSERT INTO app.notes (_sync_scope_id, id, title) VALUES ('anna', $1, 'x')", noteID(2))
		return err
	})
	require.NoError(t, err, "naming the scope is allowed")
}

// TestServerWriteCallbackFails checks every way in which the callback can fail: all
// of them roll back and leave the pool clean.
func TestServerWriteCallbackFails(t *testing.T) {
	t.Parallel()
	mine := errors.New("the caller's own error")
	for name, fn := range map[string]func(t *testing.T, tx pgx.Tx, cancel context.CancelFunc) error{
		"error": func(*testing.T, pgx.Tx, context.CancelFunc) error { return fmt.Errorf("wrapped: %w", mine) },
		"panic": func(*testing.T, pgx.Tx, context.CancelFunc) error { panic(mine) },
		"cancelled context": func(_ *testing.T, _ pgx.Tx, cancel context.CancelFunc) error {
			cancel()
			return nil
		},
		"a failed statement that it ignores": func(_ *testing.T, tx pgx.Tx, _ context.CancelFunc) error {
			_, _ = tx.Exec(context.Background(), "SELECT 1/0")
			return nil
		},
		"commit": func(t *testing.T, tx pgx.Tx, _ context.CancelFunc) error {
			require.Error(t, tx.Commit(context.Background()))
			return mine
		},
		"rollback": func(t *testing.T, tx pgx.Tx, _ context.CancelFunc) error {
			require.Error(t, tx.Rollback(context.Background()))
			return mine
		},
		"commit, and no word of it": func(_ *testing.T, tx pgx.Tx, _ context.CancelFunc) error {
			_ = tx.Commit(context.Background())
			return nil
		},
		"commit in SQL": func(_ *testing.T, tx pgx.Tx, _ context.CancelFunc) error {
			_, err := tx.Exec(context.Background(), "COMMIT")
			return err
		},
		"commit in SQL, and no word of it": func(_ *testing.T, tx pgx.Tx, _ context.CancelFunc) error {
			_, _ = tx.Exec(context.Background(), "COMMIT")
			return nil
		},
		"rollback in SQL, and no word of it": func(_ *testing.T, tx pgx.Tx, _ context.CancelFunc) error {
			_, _ = tx.Exec(context.Background(), "ROLLBACK")
			return nil
		},
		"its connection is lost": func(_ *testing.T, tx pgx.Tx, _ context.CancelFunc) error {
			return tx.Conn().Close(context.Background())
		},
		"a statement still open": func(_ *testing.T, tx pgx.Tx, _ context.CancelFunc) error {
			_, err := tx.Query(context.Background(), "SELECT generate_series(1, 100)") //nolint:sqlclosecheck // left open on purpose
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newServerWriter(t, oversync.ServiceConfig{})
			call := func(write func(ctx context.Context, fn func(tx pgx.Tx) error) error) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				defer func() {
					if p := recover(); p != nil {
						require.Equal(t, mine, p, "a panic reaches the caller")
					}
				}()
				err := write(ctx, func(tx pgx.Tx) error {
					if err := insertNoteSQL(ctx, tx, 2, "must not stay"); err != nil {
						return err
					}
					return fn(t, tx, cancel)
				})
				require.Error(t, err)
				if strings.HasSuffix(name, "and no word of it") {
					require.ErrorContains(t, err, "the transaction belongs to the bundle")
				}
				if name == "error" {
					require.Equal(t, "wrapped: "+mine.Error(), err.Error(), "it comes back as it is")
					require.ErrorIs(t, err, mine)
				}
			}
			_, err := w.exec(t.Context(), "anna", "importer", func(tx pgx.Tx) error { return insertNoteSQL(t.Context(), tx, 1, "stays") })
			require.NoError(t, err)
			call(func(ctx context.Context, fn func(tx pgx.Tx) error) error {
				_, err := w.exec(ctx, "anna", "importer", fn)
				return err
			})
			w.requireUnchanged(t, 1)
			call(func(ctx context.Context, fn func(tx pgx.Tx) error) error {
				return w.within(ctx, "anna", "importer", 2, fn)
			})
			w.requireUnchanged(t, 1)
			require.NoError(t, w.within(t.Context(), "anna", "importer", 2, func(tx pgx.Tx) error { return insertNoteSQL(t.Context(), tx, 2, "the next id is still free") }))
		})
	}
}

func TestServerWriteCallbackMayUseSavepoints(t *testing.T) {
	t.Parallel()
	w := newServerWriter(t, oversync.ServiceConfig{})
	result, err := w.exec(t.Context(), "anna", "importer", func(tx pgx.Tx) error {
		failed := pgx.BeginFunc(t.Context(), tx, func(tx pgx.Tx) error {
			if err := insertNoteSQL(t.Context(), tx, 1, "rolled back"); err != nil {
				return err
			}
			_, err := tx.Exec(t.Context(), "INSERT INTO app.notes (id) VALUES (NULL)")
			return err
		})
		if failed == nil {
			return errors.New("a null title was taken")
		}
		return pgx.BeginFunc(t.Context(), tx, func(tx pgx.Tx) error { return insertNoteSQL(t.Context(), tx, 2, "kept") })
	})
	require.NoError(t, err)
	require.Len(t, result.Bundle.Rows, 1)
	require.Equal(t, oversync.SyncKey{"id": noteID(2)}, result.Bundle.Rows[0].Key)
}

func TestConcurrentExecWritesOfOneWriterAreContiguous(t *testing.T) {
	t.Parallel()
	const writes = 40
	w := newServerWriter(t, oversync.ServiceConfig{})
	// A second instance on the same database, so that the order is not made in memory alone.
	other, err := oversync.NewRuntimeService(w.service.Pool(), &oversync.ServiceConfig{}, nil)
	require.NoError(t, err)
	managers := []*oversync.ScopeManager{w.manager, oversync.NewScopeManager(other, oversync.ScopeManagerConfig{})}
	group, ctx := errgroup.WithContext(t.Context())
	initialized := make(chan bool, writes)
	for i := range writes {
		group.Go(func() error {
			result, err := managers[i%2].ExecWrite(ctx, "anna", oversync.ScopeWriteOptions{WriterID: "importer"}, func(tx pgx.Tx) error {
				return insertNoteSQL(ctx, tx, i, "x")
			})
			if err != nil {
				return err
			}
			if result.Bundle.BundleSeq != result.Bundle.SourceBundleID {
				return fmt.Errorf("bundle %d has number %d", result.Bundle.BundleSeq, result.Bundle.SourceBundleID)
			}
			initialized <- result.AutoInitialized
			return nil
		})
	}
	require.NoError(t, group.Wait())
	close(initialized)
	count := 0
	for was := range initialized {
		if was {
			count++
		}
	}
	require.Equal(t, 1, count, "one write alone made the scope initialized")
	require.Equal(t, writes, scalar[int](t, w.service.Pool(), "SELECT count(DISTINCT l.source_bundle_id) FROM sync.bundle_log l WHERE l.source_bundle_id BETWEEN 1 AND $1", writes))
}

func TestWithinSyncBundle(t *testing.T) {
	t.Parallel()
	w := newServerWriter(t, oversync.ServiceConfig{})
	insert := func(n int) func(tx pgx.Tx) error {
		return func(tx pgx.Tx) error { return insertNoteSQL(t.Context(), tx, n, "x") }
	}
	uninitialized := requireAs[*oversync.ScopeUninitializedError](t, w.within(t.Context(), "anna", "importer", 1, insert(1)))
	require.Equal(t, "anna", uninitialized.UserID)
	_, err := w.service.Connect(t.Context(), oversync.Actor{UserID: "anna", SourceID: "phone"}, &oversync.ConnectRequest{HasLocalPendingRows: true})
	require.NoError(t, err)
	initializing := requireAs[*oversync.ScopeInitializingError](t, w.within(t.Context(), "anna", "importer", 1, insert(1)))
	require.False(t, initializing.LeaseExpiresAt.IsZero())
	_, err = w.service.Connect(t.Context(), oversync.Actor{UserID: "anna", SourceID: "phone"}, &oversync.ConnectRequest{})
	require.NoError(t, err)

	for _, id := range []int64{0, -1} {
		requireType[*oversync.RequestInvalidError](t, w.within(t.Context(), "anna", "importer", id, insert(1)))
	}
	requireType[*oversync.RequestInvalidError](t, w.within(t.Context(), "", "importer", 1, insert(1)))
	requireType[*oversync.RequestInvalidError](t, w.within(t.Context(), "anna", "", 1, insert(1)))
	requireType[*oversync.RequestInvalidError](t, w.within(t.Context(), "anna", "importer", 1, nil))

	ahead := requireAs[*oversync.SourceSequenceOutOfOrderError](t, w.within(t.Context(), "anna", "importer", 2, insert(1)))
	require.Equal(t, oversync.SourceSequenceOutOfOrderError{UserID: "anna", SourceID: "importer", Expected: 1, Actual: 2}, *ahead)
	require.NoError(t, w.within(t.Context(), "anna", "importer", 1, insert(1)))
	// The same number again: the work was done, and must not be done twice.
	behind := requireAs[*oversync.SourceSequenceOutOfOrderError](t, w.within(t.Context(), "anna", "importer", 1, insert(2)))
	require.EqualValues(t, 2, behind.Expected)
	w.requireUnchanged(t, 1)

	// Without a change there is no bundle, and its number stays free; what was
	// written to other tables is committed.
	_, err = w.service.Pool().Exec(t.Context(), "CREATE TABLE app.plain (n int)")
	require.NoError(t, err)
	require.NoError(t, w.within(t.Context(), "anna", "importer", 2, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), "INSERT INTO app.plain VALUES (1)")
		return err
	}))
	require.Equal(t, 1, scalar[int](t, w.service.Pool(), "SELECT count(*) FROM app.plain"))
	w.requireUnchanged(t, 1)
	require.NoError(t, w.within(t.Context(), "anna", "importer", 2, insert(2)))
	w.requireUnchanged(t, 2)
}

// TestServerWriteFailsLate checks what only shows when the callback is over: a
// deferred constraint.
func TestServerWriteFailsLate(t *testing.T) {
	t.Parallel()
	service := newService(t, pgtest.NewPool(t), notesDDL+`
CREATE TABLE app.tags (_sync_scope_id text NOT NULL, id uuid NOT NULL, note_id uuid NOT NULL, PRIMARY KEY (_sync_scope_id, id),
    CONSTRAINT tag_has_note FOREIGN KEY (_sync_scope_id, note_id) REFERENCES app.notes ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED);`,
		&oversync.ServiceConfig{RegisteredTables: tables("app.notes", "app.tags")})
	manager := oversync.NewScopeManager(service, oversync.ScopeManagerConfig{})
	insertTag := func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), "INSERT INTO app.tags (id, note_id) VALUES ($1, $2)", noteID(9), noteID(1))
		return err
	}
	options := oversync.ScopeWriteOptions{WriterID: "importer"}
	_, err := manager.ExecWrite(t.Context(), "anna", options, insertTag)
	violation := requireAs[*pgconn.PgError](t, err)
	require.Equal(t, pgerrcode.ForeignKeyViolation, violation.Code)
	require.Equal(t, "tag_has_note", violation.ConstraintName)

	// In one bundle the child may come first.
	result, err := manager.ExecWrite(t.Context(), "anna", options, func(tx pgx.Tx) error {
		if err := insertTag(tx); err != nil {
			return err
		}
		return insertNoteSQL(t.Context(), tx, 1, "parent")
	})
	require.NoError(t, err)
	require.EqualValues(t, 2, result.Bundle.RowCount)

	// A cascade is in the bundle that caused it.
	result, err = manager.ExecWrite(t.Context(), "anna", options, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), "DELETE FROM app.notes")
		return err
	})
	require.NoError(t, err)
	require.EqualValues(t, 2, result.Bundle.RowCount)
}

// TestServerWritesKeepTheLimits checks that a bundle by the server is held to the
// same bounds as one that was pushed: devices have to take it in whole.
func TestServerWritesKeepTheLimits(t *testing.T) {
	t.Parallel()
	w := newServerWriter(t, oversync.ServiceConfig{MaxRowsPerBundle: 2, MaxBytesPerBundle: 1000})
	write := func(rows, titleBytes int) error {
		_, err := w.exec(t.Context(), "anna", "importer", func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), "INSERT INTO app.notes (id, title) SELECT gen_random_uuid(), repeat('x', $2) FROM generate_series(1, $1)", rows, titleBytes)
			return err
		})
		return err
	}
	requireType[*oversync.ScopeWriteInvalidError](t, write(3, 1))
	requireType[*oversync.ScopeWriteInvalidError](t, write(1, 1000))
	w.requireUnchanged(t, 0)
	require.NoError(t, write(2, 1))
}

// TestServerWriteOvertakesAPush writes as a device whose push is staged: the push
// learns that its number is taken.
func TestServerWriteOvertakesAPush(t *testing.T) {
	t.Parallel()
	w := newServerWriter(t, oversync.ServiceConfig{})
	phone := newDevice(t, w.service, "anna", "phone")
	session, err := phone.stage(t.Context(), insertNote(1, "late"))
	require.NoError(t, err)
	require.NoError(t, w.within(t.Context(), "anna", "phone", 1, func(tx pgx.Tx) error { return insertNoteSQL(t.Context(), tx, 2, "early") }))
	_, err = w.service.CommitPushSession(t.Context(), phone.actor, session.PushID)
	changed := requireAs[*oversync.SourceSequenceChangedError](t, err)
	require.Equal(t, oversync.SourceSequenceChangedError{UserID: "anna", SourceID: "phone", Expected: 2, Actual: 1}, *changed)
	w.requireUnchanged(t, 1)
}

func TestExecWriteNamesWhatIsBlank(t *testing.T) {
	t.Parallel()
	manager := oversync.NewScopeManager(newNotes(t), oversync.ScopeManagerConfig{})
	for _, c := range []struct{ scope, writer, want string }{{" ", "job", "the scope is missing"}, {"anna", "", "the writer is missing"}} {
		_, err := manager.ExecWrite(t.Context(), c.scope, oversync.ScopeWriteOptions{WriterID: c.writer}, func(pgx.Tx) error { return nil })
		require.Equal(t, c.want, requireAs[*oversync.ScopeWriteInvalidError](t, err).Message)
	}
}
