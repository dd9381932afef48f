package oversync_test

import (
	"context"
	"fmt"
	"testing"
	"time"

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
