package oversync_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
	"github.com/oversync/oversync/migrations"
	oversync "github.com/oversync/oversync/sync"
)

// TestADatabaseThatIsNotUTF8: what is counted there is counted in its own encoding throughout.
func TestADatabaseThatIsNotUTF8(t *testing.T) {
	t.Parallel()
	config, err := pgxpool.ParseConfig(pgtest.NewEmptyDatabase(t))
	require.NoError(t, err)
	empty, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(empty.Close)
	name := config.ConnConfig.Database + "_win1252"
	_, err = empty.Exec(t.Context(), "CREATE DATABASE "+name+" ENCODING 'WIN1252' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
	require.NoError(t, err)
	url := strings.Replace(config.ConnString(), config.ConnConfig.Database, name, 1)
	_, err = migrations.Up(t.Context(), url)
	require.NoError(t, err)
	pool, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)

	d := newDevice(t, newService(t, pool, notesDDL, &oversync.ServiceConfig{RegisteredTables: tables("app.notes")}), "u", "phone")
	d.mustPush(t, insertNote(1, strings.Repeat("é", 100)))
	d.mustPush(t, updateNote(1, 1, strings.Repeat("ö", 100)))
	var counted, inLog int64
	err = pool.QueryRow(t.Context(), "SELECT live_byte_count, (SELECT octet_length(payload) FROM sync.bundle_rows ORDER BY bundle_seq DESC LIMIT 1) FROM sync.user_state").Scan(&counted, &inLog)
	require.NoError(t, err)
	require.Equal(t, inLog, counted)
	require.Contains(t, string(d.mustPull(t)[1].Rows[0].Payload), "öö")
}
