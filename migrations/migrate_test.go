package migrations_test

import (
	"context"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/oversync/oversync/db/pgembed/pgtest"
	"github.com/oversync/oversync/migrations"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.Background())) })
	return conn
}

func TestUpDownUp(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := pgtest.NewEmptyDatabase(t)
	conn := connect(t, url)

	var behind *migrations.BehindError
	require.ErrorAs(t, migrations.Check(ctx, conn), &behind)
	require.Contains(t, behind.Error(), "oversync migrate up")
	require.False(t, exists(t, conn, "table", migrations.VersionTable), "a look must not create anything")

	for range 2 {
		changes, err := migrations.Up(ctx, url)
		require.NoError(t, err)
		list, err := migrations.List(ctx, conn)
		require.NoError(t, err)
		require.Len(t, changes, len(list))
		require.NoError(t, migrations.Check(ctx, conn))

		changes, err = migrations.Up(ctx, url)
		require.NoError(t, err)
		require.Empty(t, changes)

		changes, err = migrations.Down(ctx, url)
		require.NoError(t, err)
		require.Len(t, changes, 1)
		require.Equal(t, list[len(list)-1].Name, changes[0].Name)
		require.ErrorAs(t, migrations.Check(ctx, conn), &behind)
		require.Equal(t, 1, behind.Missing)

		changes, err = migrations.DownTo(ctx, url, 0)
		require.NoError(t, err)
		require.Len(t, changes, len(list)-1)
		require.False(t, exists(t, conn, "schema", "sync"))

		changes, err = migrations.Down(ctx, url)
		require.NoError(t, err)
		require.Empty(t, changes)
	}
}

func exists(t *testing.T, conn *pgx.Conn, kind, name string) bool {
	t.Helper()
	query := map[string]string{
		"schema": "SELECT to_regnamespace($1) IS NOT NULL",
		"table":  "SELECT to_regclass($1) IS NOT NULL",
	}[kind]
	var yes bool
	require.NoError(t, conn.QueryRow(t.Context(), query, name).Scan(&yes))
	return yes
}

func TestManyMigrateAtOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.NewEmptyDatabase(t)
	const starters = 20
	applied := make([]int, starters)
	group, ctx := errgroup.WithContext(t.Context())
	for i := range starters {
		group.Go(func() error {
			changes, err := migrations.Up(ctx, url)
			applied[i] = len(changes)
			return err
		})
	}
	require.NoError(t, group.Wait())

	conn := connect(t, url)
	require.NoError(t, migrations.Check(t.Context(), conn))
	list, err := migrations.List(t.Context(), conn)
	require.NoError(t, err)
	total := 0
	for _, n := range applied {
		total += n
	}
	require.Equal(t, len(list), total, "each migration is applied by one of them")
}

func TestANewerSchemaIsRefused(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := pgtest.NewEmptyDatabase(t)
	_, err := migrations.Up(ctx, url)
	require.NoError(t, err)
	conn := connect(t, url)
	_, err = conn.Exec(ctx, "INSERT INTO public.oversync_goose_version (version_id, is_applied) VALUES (99999, true)")
	require.NoError(t, err)

	_, errUp := migrations.Up(ctx, url)
	_, errDown := migrations.Down(ctx, url)
	_, errDownTo := migrations.DownTo(ctx, url, 0)
	for _, err := range []error{migrations.Check(ctx, conn), errUp, errDown, errDownTo} {
		var newer *migrations.NewerError
		require.ErrorAs(t, err, &newer)
		require.EqualValues(t, 99999, newer.Database)
		require.Contains(t, err.Error(), "newer than this program")
	}
	require.True(t, exists(t, conn, "schema", "sync"))
}

func TestABadURL(t *testing.T) {
	t.Parallel()
	_, err := migrations.Up(t.Context(), "postgres://localhost:notaport/x")
	require.ErrorContains(t, err, "database URL")
}
