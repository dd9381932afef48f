package oversync_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/oversync/oversync/db/pgembed/pgtest"
	oversync "github.com/oversync/oversync/sync"
)

// TestFloodOfOneUserLeavesConnections checks that the commits of one scope wait in
// memory. The scope's row is locked from outside, so that not one of 50 commits
// can go on. If each waited with a connection, the two there are would be gone and
// nobody else could be served.
func TestFloodOfOneUserLeavesConnections(t *testing.T) {
	t.Parallel()
	const devices = 50
	url := pgtest.NewDatabase(t)
	setup, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(setup.Close)
	config, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	config.MaxConns = 2
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	service := newService(t, pool, notesDDL, &oversync.ServiceConfig{RegisteredTables: tables("app.notes")})

	// What a hang would run into; nothing here is timed.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	flood := make([]*device, devices)
	sessions := make([]string, devices)
	for i := range flood {
		flood[i] = newDevice(t, service, "flooder", fmt.Sprint("device-", i))
		session, err := flood[i].stage(ctx, insertNote(i, "flood"))
		require.NoError(t, err)
		sessions[i] = session.PushID
	}
	lock, err := setup.Begin(ctx)
	require.NoError(t, err)
	var held string
	require.NoError(t, lock.QueryRow(ctx, "SELECT u.user_id FROM sync.user_state u WHERE u.user_id = 'flooder' FOR UPDATE").Scan(&held))

	var commits errgroup.Group
	for i, d := range flood {
		commits.Go(func() error {
			_, err := service.CommitPushSession(ctx, d.actor, sessions[i])
			return err
		})
	}
	// The flood has begun when one of its commits waits for the lock.
	for waiting := 0; waiting == 0; {
		require.NoError(t, ctx.Err())
		waiting = scalar[int](t, setup, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
	}
	for i := range 10 {
		other := newDevice(t, service, fmt.Sprint("user-", i), "phone")
		_, err := other.push(ctx, insertNote(1, "in peace"))
		require.NoError(t, err)
		bundles, err := other.pull(ctx)
		require.NoError(t, err)
		require.Len(t, bundles, 1)
	}
	// A waiter that gives up leaves the queue.
	impatient, stop := context.WithCancel(ctx)
	stop()
	_, err = service.CommitPushSession(impatient, flood[0].actor, sessions[0])
	require.ErrorIs(t, err, context.Canceled)

	require.NoError(t, lock.Rollback(ctx))
	require.NoError(t, commits.Wait())
	require.EqualValues(t, devices, scalar[int](t, setup, "SELECT max(l.bundle_seq) FROM sync.bundle_log l JOIN sync.user_state u USING (user_pk) WHERE u.user_id = 'flooder'"))
}

// TestManySourcesOfOneUserLeaveConnections stages chunks of a user from more sources than
// there are connections, while another transaction keeps all of them waiting in the
// database. Another user must be served meanwhile.
func TestManySourcesOfOneUserLeaveConnections(t *testing.T) {
	t.Parallel()
	pool := newPoolWith(t, twoConnections)
	service := newService(t, pool, notesDDL, &oversync.ServiceConfig{RegisteredTables: tables("app.notes")})
	setup := newPoolWith(t, func(config *pgxpool.Config) { config.ConnConfig.Database = pool.Config().ConnConfig.Database })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // what a hang would run into
	defer cancel()
	flood := make([]*device, 20)
	sessions := make([]string, len(flood))
	for i := range flood {
		flood[i] = newDevice(t, service, "flooder", fmt.Sprint("device-", i))
		session, err := service.CreatePushSession(ctx, flood[i].actor, &oversync.PushSessionCreateRequest{SourceBundleID: 1, PlannedRowCount: 1})
		require.NoError(t, err)
		sessions[i] = session.PushID
	}
	lock, err := setup.Begin(ctx)
	require.NoError(t, err)
	_, err = lock.Exec(ctx, "SELECT FROM sync.push_sessions p FOR UPDATE")
	require.NoError(t, err)
	var chunks errgroup.Group
	for i, d := range flood {
		chunks.Go(func() error {
			_, err := service.UploadPushChunk(ctx, d.actor, sessions[i], &oversync.PushSessionChunkRequest{Rows: []oversync.PushRequestRow{insertNote(i, "flood")}})
			return err
		})
	}
	for waiting := 0; waiting == 0; {
		require.NoError(t, ctx.Err())
		waiting = scalar[int](t, setup, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
	}
	other := newDevice(t, service, "other", "phone")
	_, err = other.push(ctx, insertNote(1, "in peace"))
	require.NoError(t, err)
	_, err = other.pull(ctx)
	require.NoError(t, err)
	require.NoError(t, lock.Rollback(ctx))
	require.NoError(t, chunks.Wait())
}

// With two connections, one of them taken by a long transaction of a user, nothing
// else that this user asks for may wait for its locks on the other one.
func TestWaitersForALongTransactionHoldNoConnection(t *testing.T) {
	t.Parallel()
	pool := newPoolWith(t, twoConnections)
	service := newService(t, pool, notesDDL+`
CREATE TABLE app.gate (is_shut bool);
CREATE FUNCTION app.wait() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN WHILE NEW.title = 'long' AND EXISTS (SELECT FROM app.gate) LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN NEW; END $$;
CREATE TRIGGER wait BEFORE INSERT ON app.notes FOR EACH ROW EXECUTE FUNCTION app.wait();`,
		&oversync.ServiceConfig{RegisteredTables: tables("app.notes")})
	// What a hang would run into; nothing here is timed.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	actor := oversync.Actor{UserID: "busy", SourceID: "phone"}
	manager := oversync.NewScopeManager(service, oversync.ScopeManagerConfig{})

	// beside runs operations of the busy user during a long transaction, each ten
	// times at once, and requires that another user is served meanwhile.
	users := 0
	beside := func(long func() error, operations ...func() error) {
		t.Helper()
		exec(t, pool, "INSERT INTO app.gate VALUES (true)")
		var group errgroup.Group
		group.Go(long)
		for waiting := 0; waiting == 0; {
			require.NoError(t, ctx.Err())
			waiting = scalar[int](t, pool, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'")
		}
		for _, operation := range operations {
			for range 10 {
				group.Go(operation)
			}
		}
		// Those that waited for a lock in the database would never be in the queue.
		require.Eventually(t, func() bool { return oversync.Waiting(service, "busy") == 10*len(operations) }, time.Minute, time.Millisecond)
		users++
		other := &device{service: service, actor: oversync.Actor{UserID: fmt.Sprint("other-", users), SourceID: "phone"}, next: 1}
		_, err := service.Connect(ctx, other.actor, &oversync.ConnectRequest{})
		require.NoError(t, err)
		_, err = other.push(ctx, insertNote(1, "in peace"))
		require.NoError(t, err)
		_, err = pool.Exec(ctx, "DELETE FROM app.gate")
		require.NoError(t, err)
		require.NoError(t, group.Wait())
	}

	beside(func() error {
		_, err := manager.ExecWrite(ctx, "busy", oversync.ScopeWriteOptions{WriterID: "job"}, func(tx pgx.Tx) error {
			return insertNoteSQL(ctx, tx, 1, "long")
		})
		return err
	}, func() error {
		_, err := service.Connect(ctx, actor, &oversync.ConnectRequest{HasLocalPendingRows: true})
		return err
	})
	var nextSource atomic.Int64
	phone := &device{service: service, actor: actor, next: 1}
	session, err := phone.stage(ctx, insertNote(2, "long"))
	require.NoError(t, err)
	beside(func() error {
		_, err := service.CommitPushSession(ctx, actor, session.PushID)
		return err
	}, func() error {
		return service.DeletePushSession(ctx, actor, session.PushID)
	}, func() error {
		_, err := phone.stage(ctx, insertNote(2, "long"))
		return err
	}, func() error {
		_, err := service.UploadPushChunk(ctx, actor, session.PushID, &oversync.PushSessionChunkRequest{Rows: []oversync.PushRequestRow{insertNote(3, "x")}})
		requireType[*oversync.PushSessionNotFoundError](t, err)
		return nil
	}, func() error {
		source := fmt.Sprint("source-", nextSource.Add(1))
		_, err := service.CreateSnapshotSessionWithRequest(ctx, oversync.Actor{UserID: "busy", SourceID: source}, &oversync.SnapshotSessionCreateRequest{
			SourceReplacement: &oversync.SnapshotSourceReplacement{PreviousSourceID: source, NewSourceID: source + "b", Reason: "history_pruned"},
		})
		return err
	})
}

// TestSlowReadersHoldNoConnection lets more clients than there are connections stop
// in the middle of a large answer each.
func TestSlowReadersHoldNoConnection(t *testing.T) {
	t.Parallel()
	pool := newPoolWith(t, twoConnections)
	service := newService(t, pool, notesDDL, &oversync.ServiceConfig{RegisteredTables: tables("app.notes")})
	phone := newDevice(t, service, "reader", "phone")
	rows := make([]oversync.PushRequestRow, 2000)
	for i := range rows {
		rows[i] = insertNote(i, strings.Repeat("long ", 200))
	}
	committed := phone.mustPush(t, rows...)
	snapshot, err := service.CreateSnapshotSession(t.Context(), phone.actor)
	require.NoError(t, err)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // what a hang would run into
	defer cancel()
	letGo := make(chan struct{})
	var readers errgroup.Group
	stopped := make(chan struct{}, 9)
	answers := make([]slowReader, cap(stopped))
	for i := range answers {
		answers[i] = slowReader{letGo: letGo, stops: sync.OnceFunc(func() { stopped <- struct{}{} })}
		readers.Go(func() error {
			switch i % 3 {
			case 0:
				return service.WritePull(ctx, phone.actor, 0, 0, 0, &answers[i])
			case 1:
				return service.WriteCommittedBundleRows(ctx, phone.actor, committed.BundleSeq, nil, 2000, &answers[i])
			default:
				return service.WriteSnapshotChunk(ctx, phone.actor, snapshot.SnapshotID, 0, 2000, &answers[i])
			}
		})
	}
	for range answers {
		select {
		case <-stopped:
		case <-ctx.Done():
			close(letGo)
			t.Fatal("readers wait for the connections of others: ", readers.Wait())
		}
	}
	other := newDevice(t, service, "other", "phone")
	_, err = other.push(ctx, insertNote(1, "in peace"))
	require.NoError(t, err)
	_, err = other.pull(ctx)
	require.NoError(t, err)

	close(letGo)
	require.NoError(t, readers.Wait())
	for i := range answers {
		var answer struct {
			Bundles []oversync.Bundle
			Rows    []json.RawMessage
		}
		require.NoError(t, json.Unmarshal(answers[i].Bytes(), &answer))
		for _, bundle := range answer.Bundles {
			require.Len(t, bundle.Rows, 2000)
		}
		require.Equal(t, i%3 == 0, len(answer.Bundles) == 1)
		require.Equal(t, i%3 != 0, len(answer.Rows) == 2000)
	}
}

// slowReader stops at the first byte, and tells.
type slowReader struct {
	letGo <-chan struct{}
	stops func()
	bytes.Buffer
}

func (r *slowReader) Write(p []byte) (int, error) {
	r.stops()
	<-r.letGo
	return r.Buffer.Write(p)
}
