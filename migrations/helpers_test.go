package migrations_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
)

// closeBundle ends an emitted bundle as a server does that keeps all history.
const closeBundle = `SELECT sync.bundle_close('\x00', 1, 9223372036854775807)`

func exec(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	_, err := conn.Exec(t.Context(), sql, args...)
	require.NoError(t, err, sql)
}

// refused runs SQL that must fail, and returns the error.
func refused(t *testing.T, conn *pgx.Conn, sql string, args ...any) *pgconn.PgError {
	t.Helper()
	_, err := conn.Exec(t.Context(), sql, args...)
	var refusal *pgconn.PgError
	require.ErrorAs(t, err, &refusal, sql)
	return refusal
}

func value[T any](t *testing.T, conn *pgx.Conn, sql string, args ...any) T {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql, args...)
	require.NoError(t, err, sql)
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	require.NoError(t, err, sql)
	return v
}

func column[T any](t *testing.T, conn *pgx.Conn, sql string, args ...any) []T {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql, args...)
	require.NoError(t, err, sql)
	values, err := pgx.CollectRows(rows, pgx.RowTo[T])
	require.NoError(t, err, sql)
	return values
}

func inTx(t *testing.T, conn *pgx.Conn, do func()) {
	t.Helper()
	exec(t, conn, "BEGIN")
	do()
	exec(t, conn, "COMMIT")
}

// writeBundle commits one bundle of a scope, and returns its effects in order.
func writeBundle(t *testing.T, conn *pgx.Conn, scope string, statements ...string) []effect {
	t.Helper()
	exec(t, conn, "BEGIN")
	seq := value[int64](t, conn, "SELECT bundle_seq FROM sync.bundle_open($1, 'test', NULL, true)", scope)
	for _, sql := range statements {
		exec(t, conn, sql)
	}
	count := value[int](t, conn, "SELECT sync.bundle_emit()")
	if count == 0 {
		exec(t, conn, "SELECT sync.bundle_abandon()")
	} else {
		exec(t, conn, closeBundle)
	}
	exec(t, conn, "COMMIT")
	effects := newestEffects(t, conn, scope, seq)
	require.Len(t, effects, count)
	return effects
}

// brief writes effects as "op table key".
func brief(effects []effect) []string {
	lines := []string{}
	for _, e := range effects {
		lines = append(lines, e.op+" "+e.table+" "+e.key)
	}
	return lines
}

// registered returns a connection to a database that has the tables of a DDL script, with those named registered.
func registered(t *testing.T, ddl string, tables ...string) *pgx.Conn {
	t.Helper()
	conn := connect(t, pgtest.NewDatabase(t))
	exec(t, conn, ddl)
	inTx(t, conn, func() {
		for _, table := range tables {
			exec(t, conn, "SELECT sync.register_table($1::text::regclass)", table)
		}
	})
	return conn
}

// note is the smallest table that can be registered.
const note = `CREATE TABLE public.note (_sync_scope_id text NOT NULL, id text NOT NULL, body text, PRIMARY KEY (_sync_scope_id, id));`

func rejectedWrites(t *testing.T, conn *pgx.Conn) int64 {
	t.Helper()
	return value[int64](t, conn, "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM sync.rejected_write_count")
}
