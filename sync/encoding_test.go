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

	d := newDevice(t, newService(t, pool, notesDDL, &oversync.ServiceConfig{RegisteredTables: tables("app.notes")}), "u", "phone")
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
}
