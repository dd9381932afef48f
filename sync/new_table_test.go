package oversync_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	oversync "github.com/oversync/oversync/sync"
)

// TestManyPullsOfANewTable: more requests than there are connections meet a table that the service has not heard of. Each streams rows on a
// connection and must not wait for another one of the pool.
func TestManyPullsOfANewTable(t *testing.T) {
	t.Parallel()
	var prepared atomic.Int64
	pool := newPoolWith(t, func(config *pgxpool.Config) {
		twoConnections(config)
		config.AfterConnect = func(context.Context, *pgx.Conn) error {
			prepared.Add(1)
			return nil
		}
	})
	service := newService(t, pool, notesDDL, &oversync.ServiceConfig{RegisteredTables: tables("app.notes")})
	devices := make([]*device, 20)
	for i := range devices {
		devices[i] = newDevice(t, service, fmt.Sprint("u", i), "phone")
	}
	_, err := pool.Exec(t.Context(), `CREATE TABLE app.fresh (_sync_scope_id text NOT NULL, id text NOT NULL, PRIMARY KEY (_sync_scope_id, id));
		INSERT INTO app.fresh SELECT 'u' || i, 'k' FROM generate_series(0, 19) AS i; SELECT sync.register_table('app.fresh')`)
	require.NoError(t, err)
	errs := make([]error, len(devices))
	var wait sync.WaitGroup
	for i, d := range devices {
		wait.Go(func() {
			bundles, err := d.pull(t.Context())
			if err == nil && len(bundles) != 1 {
				err = fmt.Errorf("%d bundles", len(bundles))
			}
			errs[i] = err
		})
	}
	wait.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.Greater(t, prepared.Load(), pool.Stat().NewConnsCount(), "a connection beside the pool is made as its own are")
}
