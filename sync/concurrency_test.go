package oversync_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/oversync/oversync/db/pgembed/pgtest"
	oversync "github.com/oversync/oversync/sync"
)

// newInstances returns services with a pool each, as processes on one database are.
func newInstances(t testing.TB, count int) []*oversync.SyncService {
	t.Helper()
	url := pgtest.NewDatabase(t)
	setup, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	_, err = setup.Exec(t.Context(), notesDDL)
	require.NoError(t, err)
	require.NoError(t, setup.Close(t.Context()))
	instances := make([]*oversync.SyncService, count)
	for i := range instances {
		pool, err := pgxpool.New(t.Context(), url)
		require.NoError(t, err)
		t.Cleanup(pool.Close)
		instances[i] = newService(t, pool, "SELECT", &oversync.ServiceConfig{RegisteredTables: tables("app.notes")})
	}
	return instances
}

// requireSoundLog checks what must hold of every log, whatever happened: bundles
// without gaps, whole, and the tables exactly what the log says.
func requireSoundLog(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	for name, query := range map[string]string{
		"bundles without gaps": `
			SELECT count(*) FROM sync.user_state u
			WHERE u.next_bundle_seq - 1 <> (SELECT count(*) FROM sync.bundle_log l WHERE l.user_pk = u.user_pk)
			   OR u.next_bundle_seq - 1 <> (SELECT coalesce(max(l.bundle_seq), 0) FROM sync.bundle_log l WHERE l.user_pk = u.user_pk)`,
		"rows of each bundle without gaps": `
			SELECT count(*) FROM sync.bundle_log l
			FULL JOIN (SELECT r.user_pk, r.bundle_seq, count(*) AS rows, max(r.row_ordinal) AS last FROM sync.bundle_rows r GROUP BY 1, 2) AS r USING (user_pk, bundle_seq)
			WHERE l.row_count IS DISTINCT FROM r.rows OR l.row_count - 1 IS DISTINCT FROM r.last`,
		"numbers of each source without gaps": `
			SELECT count(*) FROM sync.source_state s
			WHERE s.last_source_bundle_id <> (SELECT count(*) FROM sync.bundle_log l WHERE l.user_pk = s.user_pk AND l.source_id = s.source_id)`,
		"the tables are what the log says": `
			SELECT count(*) FROM app.notes n
			FULL JOIN (SELECT DISTINCT ON (r.user_pk, r.key_bytes) u.user_id AS _sync_scope_id, encode(r.key_bytes, 'hex')::uuid AS id, r.op, r.payload::json ->> 'title' AS title
			           FROM sync.bundle_rows r JOIN sync.user_state u USING (user_pk) ORDER BY r.user_pk, r.key_bytes, r.bundle_seq DESC) AS l USING (_sync_scope_id, id)
			WHERE n.title IS DISTINCT FROM l.title OR (n.id IS NULL) <> (coalesce(l.op, 'D') = 'D')`,
		"live rows are counted": `
			SELECT count(*) FROM sync.user_state u WHERE u.live_row_count <> (SELECT count(*) FROM app.notes n WHERE n._sync_scope_id = u.user_id)`,
		"nothing is left open": `SELECT (SELECT count(*) FROM sync.open_bundles) + (SELECT count(*) FROM sync.captured_keys)`,
	} {
		require.Zero(t, scalar[int](t, pool, query), name)
	}
}

func TestManyDevicesPushAtOnce(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, user string }{{"to one scope", "anna"}, {"to many scopes", "user-%d"}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			const devices, pushes, rows = 12, 8, 5
			instances := newInstances(t, 2)
			group, ctx := errgroup.WithContext(t.Context())
			for i := range devices {
				user := c.user
				if c.name == "to many scopes" {
					user = fmt.Sprintf(c.user, i)
				}
				d := newDevice(t, instances[i%2], user, fmt.Sprint("device-", i))
				group.Go(func() error {
					for push := range pushes {
						var changes []oversync.PushRequestRow
						for row := range rows {
							changes = append(changes, insertNote((i*pushes+push)*rows+row, fmt.Sprint(i, push, row)))
						}
						if _, err := d.push(ctx, changes...); err != nil {
							return err
						}
						if _, err := d.pull(ctx); err != nil {
							return err
						}
					}
					return nil
				})
			}
			require.NoError(t, group.Wait())
			require.Equal(t, devices*pushes*rows, scalar[int](t, instances[0].Pool(), "SELECT count(*) FROM app.notes"))
			requireSoundLog(t, instances[0].Pool())
		})
	}
}

// TestOneOfTwoPushesOfARowWins lets devices change the same row at once, again and
// again: each time one of them wins, and all the others are told what it wrote.
func TestOneOfTwoPushesOfARowWins(t *testing.T) {
	t.Parallel()
	const devices, rounds = 4, 10
	instances := newInstances(t, 2)
	contenders := make([]*device, devices)
	for i := range contenders {
		contenders[i] = newDevice(t, instances[i%2], "anna", fmt.Sprint("device-", i))
	}
	contenders[0].mustPush(t, insertNote(1, "start"))
	version := int64(1)
	for round := range rounds {
		won := make([]*oversync.PushSessionCommitResponse, devices)
		failures := make([]error, devices)
		var group errgroup.Group
		for i, d := range contenders {
			group.Go(func() error {
				won[i], failures[i] = d.push(t.Context(), updateNote(1, version, fmt.Sprint("by ", i, " in ", round)))
				return nil
			})
		}
		require.NoError(t, group.Wait())
		winner := -1
		for i := range contenders {
			if failures[i] == nil {
				require.Equal(t, -1, winner, "two pushes on version %d were taken", version)
				winner = i
			}
		}
		require.NotEqual(t, -1, winner, "nobody won: %v", failures)
		for i := range contenders {
			if i == winner {
				continue
			}
			conflict := requireAs[*oversync.PushConflictError](t, failures[i]).Conflict
			require.Equal(t, won[winner].BundleSeq, conflict.ServerRowVersion)
			require.Equal(t, version, conflict.BaseRowVersion)
			require.JSONEq(t, fmt.Sprintf(`{"id":%q,"stars":0,"title":"by %d in %d"}`, noteID(1), winner, round), string(conflict.ServerRow))
		}
		version = won[winner].BundleSeq
	}
	require.EqualValues(t, rounds+1, version)
	requireSoundLog(t, instances[0].Pool())
}

// TestLostConnectionsLeaveNoHalfBundle ends backends at random while devices push.
// A device does what clients do: it starts over until its bundle is committed. In
// the end each bundle is there once, and whole.
func TestLostConnectionsLeaveNoHalfBundle(t *testing.T) {
	t.Parallel()
	const devices, pushes, rows, kills = 4, 12, 20, 60
	instances := newInstances(t, 2)
	killer, err := pgx.Connect(t.Context(), instances[0].Pool().Config().ConnString())
	require.NoError(t, err)
	defer func() { require.NoError(t, killer.Close(context.WithoutCancel(t.Context()))) }()

	group, ctx := errgroup.WithContext(t.Context())
	pushing, stop := context.WithCancel(ctx)
	finished := make(chan struct{}, devices)
	for i := range devices {
		d := newDevice(t, instances[i%2], []string{"anna", "ben"}[i%2], fmt.Sprint("device-", i))
		group.Go(func() error {
			defer func() { finished <- struct{}{} }()
			for push := range pushes {
				var changes []oversync.PushRequestRow
				for row := range rows {
					changes = append(changes, insertNote((i*pushes+push)*rows+row, fmt.Sprint(push)))
				}
				for {
					committed, err := d.push(ctx, changes...)
					if err == nil {
						if committed.RowCount != rows {
							return fmt.Errorf("bundle %d has %d rows", committed.BundleSeq, committed.RowCount)
						}
						break
					}
					// What a client must not see is a refusal: nothing is wrong with what it pushes.
					if isRefusal(err) {
						return err
					}
				}
			}
			return nil
		})
	}
	group.Go(func() error {
		defer stop()
		for range devices {
			select {
			case <-finished:
			case <-ctx.Done():
				return nil
			}
		}
		return nil
	})
	killed := 0
	for killed < kills && pushing.Err() == nil {
		// Only a backend in the middle of something.
		rows, err := killer.Query(t.Context(), "SELECT a.pid FROM pg_stat_activity a WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.state <> 'idle'")
		require.NoError(t, err)
		pids, err := pgx.CollectRows(rows, pgx.RowTo[int32])
		require.NoError(t, err)
		if len(pids) == 0 {
			continue
		}
		var ended bool
		require.NoError(t, killer.QueryRow(t.Context(), "SELECT pg_terminate_backend($1)", pids[rand.IntN(len(pids))]).Scan(&ended))
		if ended {
			killed++
		}
	}
	require.NoError(t, group.Wait())
	require.Positive(t, killed, "the test ended nobody")
	// The instances' pools may still hold a connection that was ended.
	pool, err := pgxpool.New(t.Context(), killer.Config().ConnString())
	require.NoError(t, err)
	defer pool.Close()
	require.Equal(t, devices*pushes, scalar[int](t, pool, "SELECT count(*) FROM sync.bundle_log"), "each bundle once")
	require.Equal(t, devices*pushes*rows, scalar[int](t, pool, "SELECT count(*) FROM app.notes"))
	requireSoundLog(t, pool)
}

// isRefusal tells an answer that a client takes as final from a fault of the server.
// A push session that is gone is neither: it may have been committed just before the
// connection was lost, and the next try tells.
func isRefusal(err error) bool {
	var (
		conflict *oversync.PushConflictError
		rejected *oversync.PushRejectedError
		invalid  *oversync.PushCommitInvalidError
		chunk    *oversync.PushChunkInvalidError
		order    *oversync.SourceSequenceOutOfOrderError
		pruned   *oversync.SourceTupleHistoryPrunedError
	)
	return errors.As(err, &conflict) || errors.As(err, &rejected) || errors.As(err, &invalid) ||
		errors.As(err, &chunk) || errors.As(err, &order) || errors.As(err, &pruned)
}

// A push that comes while its scope is being made finds it or does not, and
// nothing in between.
func TestAPushWhileItsScopeIsMade(t *testing.T) {
	t.Parallel()
	service := newNotes(t)
	for n := range 300 {
		actor := oversync.Actor{UserID: fmt.Sprintf("user-%d", n), SourceID: "phone"}
		var group errgroup.Group
		group.Go(func() error {
			_, err := service.Connect(t.Context(), actor, &oversync.ConnectRequest{})
			return err
		})
		group.Go(func() error {
			for {
				_, err := service.CreatePushSession(t.Context(), actor, &oversync.PushSessionCreateRequest{SourceBundleID: 1, PlannedRowCount: 1})
				if _, ok := errors.AsType[*oversync.ScopeUninitializedError](err); !ok {
					return err
				}
			}
		})
		require.NoError(t, group.Wait(), actor.UserID)
	}
}

// TestASessionIsNotReplacedWhileItCommits: a client whose connection broke sends a push
// again while the server still commits it. The answer is that commit's, which is neither
// disturbed nor denied.
func TestASessionIsNotReplacedWhileItCommits(t *testing.T) {
	t.Parallel()
	pool := pgtest.NewPool(t)
	service := newService(t, pool, notesDDL+`
CREATE FUNCTION app.wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END $$;
CREATE TRIGGER wait AFTER INSERT ON app.notes EXECUTE FUNCTION app.wait();`,
		&oversync.ServiceConfig{RegisteredTables: tables("app.notes")})
	for _, isInitializing := range []bool{false, true} {
		actor := oversync.Actor{UserID: fmt.Sprint("initializing ", isInitializing), SourceID: "phone"}
		scope, err := service.Connect(t.Context(), actor, &oversync.ConnectRequest{HasLocalPendingRows: isInitializing})
		require.NoError(t, err)
		request := oversync.PushSessionCreateRequest{SourceBundleID: 1, PlannedRowCount: 1, InitializationID: scope.InitializationID}
		session, err := service.CreatePushSession(t.Context(), actor, &request)
		require.NoError(t, err)
		_, err = service.UploadPushChunk(t.Context(), actor, session.PushID, &oversync.PushSessionChunkRequest{Rows: []oversync.PushRequestRow{insertNote(1, "a")}})
		require.NoError(t, err)
		tx, err := pool.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), `SELECT pg_advisory_xact_lock(1)`)
		require.NoError(t, err)

		var committed *oversync.PushSessionCommitResponse
		var again *oversync.PushSessionCreateResponse
		var both errgroup.Group
		both.Go(func() (err error) {
			committed, err = service.CommitPushSession(t.Context(), actor, session.PushID)
			return err
		})
		require.Eventually(t, func() bool {
			return scalar[bool](t, pool, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')`)
		}, time.Minute, 5*time.Millisecond)
		both.Go(func() (err error) {
			again, err = service.CreatePushSession(t.Context(), actor, &request)
			return err
		})
		require.Eventually(t, func() bool { return oversync.Waiting(service, actor.UserID) == 1 }, time.Minute, time.Millisecond)
		require.NoError(t, tx.Rollback(t.Context()))
		require.NoError(t, both.Wait())
		require.Equal(t, &oversync.PushSessionCreateResponse{
			Status: "already_committed", BundleSeq: committed.BundleSeq, SourceID: committed.SourceID,
			SourceBundleID: committed.SourceBundleID, RowCount: committed.RowCount, BundleHash: committed.BundleHash,
		}, again)
	}
}
