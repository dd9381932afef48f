package e2e_test

import (
	"context"
	"net/url"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed"
)

// TestStatementsOfAPush counts what a push costs PostgreSQL: the same statements for one row and for a thousand, and
// within them the same calls of functions, triggers included, for two rows and for a thousand.
func TestStatementsOfAPush(t *testing.T) {
	t.Parallel()
	settings := pgembed.TestSettings()
	settings["log_statement"] = "all"
	settings["log_line_prefix"] = "%d "
	settings["track_functions"] = "pl"
	postgres, err := pgembed.Start(t.Context(), pgembed.Config{Temporary: true, Settings: settings})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, postgres.Stop(context.Background())) })
	require.NoError(t, postgres.CreateDatabase(t.Context(), "counted"))

	s := &server{database: postgres.URL("counted")}
	s.run(t, "migrate", "up")
	// One connection, so that a first push does all that is done once for a connection.
	s = startServerOn(t, s.database, "OVERSYNC_POOL_SIZE=1")
	c := s.initialized(t, "ann", "source")
	next := int64(1)
	push := func(rows int) {
		c.push(next, manyUsers(rows)...)
		next++
	}
	measure := func(rows int) (statements []string, calls map[string]int64) {
		push(1)
		before := executed(t, postgres.LogFile(), s.database)
		push(rows)
		statements = executed(t, postgres.LogFile(), s.database)[len(before):]
		return statements, s.functionCalls(t)
	}

	_ = s.functionCalls(t) // those of the registration
	one, _ := measure(1)
	two, callsOfTwo := measure(2)
	thousand, callsOfThousand := measure(1000)
	require.NotEmpty(t, one)
	require.Equal(t, one, two)
	require.Equal(t, one, thousand)
	require.NotEmpty(t, callsOfTwo)
	require.Equal(t, callsOfTwo, callsOfThousand)
}

// ofTheBackground matches what a server, or its pool, does on its own every few seconds, whatever is pushed.
var ofTheBackground = regexp.MustCompile(`-- name: (Catalog|Retention|ScopeHeads|TableAdopt|Watch)|-- ping`)

// executed lists the statements in the log of PostgreSQL that were executed on a database. The log is complete: a
// statement is logged before it runs.
func executed(t *testing.T, logFile, database string) (found []string) {
	t.Helper()
	u, err := url.Parse(database)
	require.NoError(t, err)
	text, err := os.ReadFile(logFile)
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		rest, ours := strings.CutPrefix(line, path.Base(u.Path)+" LOG:  ")
		if ours && !ofTheBackground.MatchString(rest) && (strings.HasPrefix(rest, "statement: ") || strings.HasPrefix(rest, "execute ")) {
			found = append(found, strings.TrimSpace(rest))
		}
	}
	return found
}

// functionCalls returns how often each function of the schema sync was called since it was last asked. The server is
// restarted for it, because a connection tells its counts for certain only when it ends.
func (s *server) functionCalls(t *testing.T) map[string]int64 {
	t.Helper()
	require.NoError(t, s.stop())
	conn := s.connect(t)
	require.Eventually(t, func() bool {
		var others int
		err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`).Scan(&others)
		return err == nil && others == 0
	}, time.Minute, 10*time.Millisecond)
	rows, err := conn.Query(t.Context(), `SELECT funcname::text, calls FROM pg_stat_user_functions WHERE schemaname = 'sync'`)
	require.NoError(t, err)
	calls := map[string]int64{}
	var name string
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&name, &n}, func() error { calls[name] = n; return nil })
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `SELECT pg_stat_reset()`)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
	require.NoError(t, s.start())
	return calls
}
