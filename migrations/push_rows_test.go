package migrations_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
)

// TestRowsAreIndependent: pushes are applied at once only where it makes no difference.
func TestRowsAreIndependent(t *testing.T) {
	t.Parallel()
	const function = "CREATE FUNCTION public.hand() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; "
	for name, c := range map[string]struct{ ddl, independent string }{
		"nothing":                     {"", "I U D IUD"},
		"an index":                    {"CREATE INDEX ON public.note (body)", "I U D IUD"},
		"a unique index with the key": {"CREATE UNIQUE INDEX ON public.note (_sync_scope_id, body, id)", "I U D IUD"},
		"a unique index beside it":    {"CREATE UNIQUE INDEX ON public.note (_sync_scope_id, body) INCLUDE (id)", ""},
		"a unique index without it":   {"CREATE UNIQUE INDEX ON public.note (_sync_scope_id, body)", ""},
		"rows that exclude others":    {"ALTER TABLE public.note ADD EXCLUDE (body WITH =, id WITH =)", ""},
		"rows that refer to others":   {"ALTER TABLE public.note ADD mother text, ADD FOREIGN KEY (_sync_scope_id, mother) REFERENCES public.note DEFERRABLE", ""},
		"a trigger":                   {function + "CREATE TRIGGER hand BEFORE UPDATE ON public.note FOR EACH ROW EXECUTE FUNCTION public.hand()", "I D"},
		"row-level security":          {"ALTER TABLE public.note ENABLE ROW LEVEL SECURITY", ""},
		"no longer registered":        {"SELECT sync.unregister_table('public.note')", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := registered(t, note, "public.note")
			exec(t, conn, c.ddl)
			require.Equal(t, c.independent, value[string](t, conn, `SELECT coalesce(string_agg(o.ops, ' ' ORDER BY place), '')
				FROM unnest('{I,U,D,IUD}'::text[]) WITH ORDINALITY AS o(ops, place), sync.table_catalog t WHERE sync.rows_are_independent(t.table_id, o.ops)`))
		})
	}
}

// TestPushesAtOnceReadValuesAsOthersDo: how values are read and written must not depend on how a push comes to be committed.
func TestPushesAtOnceReadValuesAsOthersDo(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.NewDatabase(t))
	const settings = "SELECT s FROM pg_proc, unnest(proconfig) AS s WHERE pronamespace = 'sync'::regnamespace AND proname = $1 ORDER BY s"
	alone := column[string](t, conn, settings, "push_commit")
	require.NotEmpty(t, alone)
	require.Equal(t, alone, column[string](t, conn, settings, "push_commit_rows"))
}

// TestPushesAtOnceAreAsOneAfterTheOther pushes the same rows into two scopes, in one as they come and in the other together. What is
// applied at once must be what would not have been refused, and must end as it would have.
func TestPushesAtOnceAreAsOneAfterTheOther(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			conn := connect(t, pgtest.NewDatabase(t))
			exec(t, conn, note+`ALTER TABLE public.note ADD CHECK (body <> 'bad');
				CREATE TABLE public.other (LIKE public.note INCLUDING ALL); SELECT sync.register_table('public.note'), sync.register_table('public.other')`)
			initialized(t, initialized(t, conn, "together"), "apart")
			r := rand.New(rand.NewPCG(seed, 0))
			atOnce := 0
			for range 40 {
				var together, apart, devices []string
				for n := range 2 + r.IntN(4) {
					row := randomRow(t, conn, r)
					devices = append(devices, fmt.Sprint("device ", n))
					together = append(together, stage(t, conn, "together", devices[n], row))
					apart = append(apart, stage(t, conn, "apart", devices[n], row))
				}
				refusals := 0
				for n, id := range apart {
					if commitPush(t.Context(), conn, id, "apart", devices[n]) != nil {
						refusals++
					}
				}
				if commitRows(t, conn, "together", together, devices) {
					require.Zero(t, refusals)
					atOnce++
				} else {
					for n, id := range together {
						if commitPush(t.Context(), conn, id, "together", devices[n]) != nil {
							refusals--
						}
					}
					require.Zero(t, refusals)
				}
				exec(t, conn, "DELETE FROM sync.push_sessions")
			}
			require.Greater(t, atOnce, 5)
			requireSound(t, conn)
			const scope = " FROM sync.user_state u JOIN %s x ON x.user_pk = u.user_pk WHERE u.user_id = $1 ORDER BY 1"
			for table, columns := range map[string]string{
				"sync.user_state":   "x.next_bundle_seq, x.live_row_count, x.live_byte_count, x.bundle_byte_count, x.state",
				"sync.source_state": "x.source_id, x.last_source_bundle_id, x.is_device, x.state",
				"sync.bundle_log":   "lpad(x.bundle_seq::text, 5), x.source_id, x.source_bundle_id, x.row_count, x.byte_count, x.bundle_hash",
				"sync.bundle_rows":  "lpad(x.bundle_seq::text, 5), x.row_ordinal, x.table_id, x.op, x.key_bytes, x.payload",
			} {
				sql := "SELECT row(" + columns + ")::text" + fmt.Sprintf(scope, table)
				require.Equal(t, column[string](t, conn, sql, "apart"), column[string](t, conn, sql, "together"), table)
			}
			require.Zero(t, value[int](t, conn, "SELECT (SELECT count(*) FROM sync.push_chunks) + (SELECT count(*) FROM sync.open_bundles) + (SELECT count(*) FROM sync.captured_keys)"))
		})
	}
}

// randomRow makes a row for a push that mostly does not conflict with the log of the scope apart.
func randomRow(t *testing.T, conn *pgx.Conn, r *rand.Rand) stagedRow {
	t.Helper()
	row := stagedRow{table: "public.note", op: "I", key: fmt.Sprint("k", r.IntN(30))}
	if r.IntN(20) == 0 {
		row.table = "public.other"
	}
	row.version = version(t, conn, "apart", row.table, row.key)
	if value[bool](t, conn, "SELECT EXISTS (SELECT FROM "+row.table+" WHERE _sync_scope_id = 'apart' AND id = $1)", row.key) {
		row.op = []string{"U", "D"}[r.IntN(2)]
	}
	if r.IntN(30) == 0 {
		row.version++
	}
	switch body := []string{"x", "y", "a longer one", "bad"}[min(r.IntN(60)/15+r.IntN(2)*r.IntN(2), 3)]; row.op {
	case "I":
		row.payload = fmt.Sprintf(`{"id":%q,"body":%q}`, row.key, body)
	case "U":
		row.payload = fmt.Sprintf(`{"body":%q}`, body)
	}
	return row
}

// commitRows commits pushes of one row at once as the server does, and returns whether that was possible.
func commitRows(t *testing.T, conn *pgx.Conn, scope string, ids, sources []string) bool {
	t.Helper()
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	rows, err := tx.Query(t.Context(), "SELECT source_bundle_id, live_row_delta, bytes_before FROM sync.push_commit_rows($1::text[]::uuid[], $2, $3)", ids, scope, sources)
	require.NoError(t, err)
	type applied struct{ SourceBundleID, LiveRowDelta, BytesBefore int64 }
	bundles, err := pgx.CollectRows(rows, pgx.RowToStructByPos[applied])
	if err != nil || len(bundles) == 0 {
		return false
	}
	require.Len(t, bundles, len(ids))
	var numbers, byteCounts []int64
	var hashes [][]byte
	var liveRows, bytesBefore int64
	for _, bundle := range bundles {
		numbers, byteCounts, hashes = append(numbers, bundle.SourceBundleID), append(byteCounts, 1), append(hashes, []byte{0})
		liveRows, bytesBefore = liveRows+bundle.LiveRowDelta, bytesBefore+bundle.BytesBefore
	}
	_, err = tx.Exec(t.Context(), `SELECT sync.push_close_rows($1, $2, $3, $4, 9223372036854775807, $5, coalesce(sum(octet_length(r.payload)), 0) - $6)
		FROM sync.open_bundles b LEFT JOIN sync.bundle_rows r ON r.user_pk = b.user_pk AND r.bundle_seq >= b.bundle_seq WHERE b.xid = pg_current_xact_id()`,
		sources, numbers, hashes, byteCounts, liveRows, bytesBefore)
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	return true
}
