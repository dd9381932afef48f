package oversync_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/oversync/oversync/db/pgembed/pgtest"
	"github.com/oversync/oversync/migrations"
	oversync "github.com/oversync/oversync/sync"
)

// TestADatabaseThatIsNotUTF8: it is migrated, what is counted there is counted in its own encoding throughout, and what it cannot store is
// refused as the client's.
func TestADatabaseThatIsNotUTF8(t *testing.T) {
	t.Parallel()
	config, err := pgxpool.ParseConfig(pgtest.NewEmptyDatabase(t))
	require.NoError(t, err)
	empty, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(empty.Close)
	name := config.ConnConfig.Database + "_latin1"
	_, err = empty.Exec(t.Context(), "CREATE DATABASE "+name+" ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
	require.NoError(t, err)
	config, err = pgxpool.ParseConfig(strings.Replace(config.ConnString(), config.ConnConfig.Database, name, 1))
	require.NoError(t, err)
	config.ConnConfig.RuntimeParams["client_encoding"] = "UTF8" // as the binary does
	_, err = migrations.Up(t.Context(), config.ConnString())
	require.NoError(t, err)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)

	d := newDevice(t, newService(t, pool, notesDDL, &oversync.ServiceConfig{RegisteredTables: tables("app.notes"), BundleChangeWatch: oversync.BundleChangeWatchConfig{Enabled: true}}), "u", "phone")
	d.mustPush(t, insertNote(1, strings.Repeat("é", 100)))
	d.mustPush(t, updateNote(1, 1, strings.Repeat("ö", 100)))
	var counted, inLog int64
	err = pool.QueryRow(t.Context(), "SELECT live_byte_count, (SELECT octet_length(payload) FROM sync.bundle_rows ORDER BY bundle_seq DESC LIMIT 1) FROM sync.user_state").Scan(&counted, &inLog)
	require.NoError(t, err)
	require.Equal(t, inLog, counted)
	require.Contains(t, string(d.mustPull(t)[1].Rows[0].Payload), "öö")

	_, err = d.push(t.Context(), insertNote(2, "what it has no letter for: 😀"))
	var refusal *oversync.PushChunkInvalidError
	require.ErrorAs(t, err, &refusal)
	require.Contains(t, refusal.Message, "0xf0 0x9f 0x98 0x80")

	// An id that it cannot store is refused as its own user's, and no pull that shares a read with it fails.
	service, bad := d.service, oversync.Actor{UserID: "😀", SourceID: "phone"}
	var others errgroup.Group
	for n := range 200 {
		actor, invalid := d.actor, n%2 == 1
		if invalid {
			actor = bad
		}
		others.Go(func() error {
			_, err := service.ProcessPull(t.Context(), actor, 0, 0, 0)
			if _, ok := errors.AsType[*oversync.RequestInvalidError](err); ok == invalid {
				return nil
			}
			return fmt.Errorf("%s: %w", actor.UserID, err)
		})
	}
	require.NoError(t, others.Wait())
	_, err = service.Connect(t.Context(), oversync.Actor{UserID: "new", SourceID: "😀"}, &oversync.ConnectRequest{})
	requireType[*oversync.RequestInvalidError](t, err)
	_, err = service.CreatePushSession(t.Context(), bad, &oversync.PushSessionCreateRequest{SourceBundleID: 1, PlannedRowCount: 1})
	requireType[*oversync.RequestInvalidError](t, err)
	_, err = service.GetCommittedBundleRows(t.Context(), bad, 1, nil, 0)
	requireType[*oversync.RequestInvalidError](t, err)
	_, err = service.SubscribeBundleChanges(t.Context(), bad, 0)
	requireType[*oversync.RequestInvalidError](t, err)
	_, err = service.CreateSnapshotSession(t.Context(), bad)
	requireType[*oversync.RequestInvalidError](t, err)
	_, err = service.GetSnapshotChunk(t.Context(), bad, noteID(1), 0, 0)
	requireType[*oversync.RequestInvalidError](t, err)
	requireType[*oversync.RequestInvalidError](t, service.DeleteSnapshotSession(t.Context(), bad, noteID(1)))
	requireType[*oversync.RequestInvalidError](t, service.DeletePushSession(t.Context(), bad, noteID(1)))
}
