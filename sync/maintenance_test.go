package oversync_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/oversync/oversync/db"
	"github.com/oversync/oversync/db/pgembed/pgtest"
	oversync "github.com/oversync/oversync/sync"
)

// newQuiet returns a service that syncs app.notes on a database of its own, where
// nothing happens in the background: it is not bootstrapped.
func newQuiet(t testing.TB, config oversync.ServiceConfig) (*oversync.SyncService, *pgxpool.Pool) {
	t.Helper()
	pool := pgtest.NewPool(t)
	exec(t, pool, notesDDL)
	exec(t, pool, `SELECT sync.register_table('app.notes')`)
	return openService(t, pool, config, slog.New(slog.DiscardHandler)), pool
}

// openService returns a service that is closed when the test ends.
func openService(t testing.TB, pool *pgxpool.Pool, config oversync.ServiceConfig, logger *slog.Logger) *oversync.SyncService {
	t.Helper()
	service, err := oversync.NewRuntimeService(pool, &config, logger)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, service.Close(context.Background())) })
	return service
}

func exec(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	_, err := pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

// write commits a bundle of the source "server" and creates the scope if need be.
func write(t testing.TB, service *oversync.SyncService, user, sql string, args ...any) {
	t.Helper()
	manager := oversync.NewScopeManager(service, oversync.ScopeManagerConfig{Logger: slog.New(slog.DiscardHandler)})
	_, err := manager.ExecWrite(t.Context(), user, oversync.ScopeWriteOptions{WriterID: "server"}, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), sql, args...)
		return err
	})
	require.NoError(t, err)
}

// writeNote commits a bundle that sets the title of a note.
func writeNote(t testing.TB, service *oversync.SyncService, user string, n int, title string) {
	t.Helper()
	write(t, service, user, `INSERT INTO app.notes (id, title) VALUES ($1, $2)
		ON CONFLICT (_sync_scope_id, id) DO UPDATE SET title = excluded.title`, noteID(n), title)
}

// pullBytes returns a pull's answer as it is sent.
func pullBytes(t testing.TB, service *oversync.SyncService, user string, after int64) (string, error) {
	t.Helper()
	var answer bytes.Buffer
	err := service.WritePull(t.Context(), oversync.Actor{UserID: user, SourceID: "reader"}, after, 0, 0, &answer)
	return answer.String(), err
}

// logEntry is a version of a row as the model of retention knows it.
type logEntry struct {
	Seq     int64
	Key     string
	Op      string
	Payload string
}

// newest returns the state of each key at a sequence, deleted ones included.
func newest(entries []logEntry, seq int64) map[string]logEntry {
	state := make(map[string]logEntry)
	for _, e := range entries { // in order of Seq
		if e.Seq <= seq {
			state[e.Key] = e
		}
	}
	return state
}

// TestPruningAgainstAModel compares what pruning leaves with what a naive reading
// of the whole history says.
func TestPruningAgainstAModel(t *testing.T) {
	t.Parallel()
	pool := pgtest.NewPool(t)
	ctx := t.Context()
	users := 0
	rapid.Check(t, func(t *rapid.T) {
		users++
		var userPk int64
		require.NoError(t, pool.QueryRow(ctx, `INSERT INTO sync.user_state (user_id, state) VALUES ($1, 'initialized') RETURNING user_pk`,
			fmt.Sprintf("user-%d", users)).Scan(&userPk))

		var entries []logEntry
		bytesOf := make(map[int64]int64)
		bundle := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-f]`), 1, 4, rapid.ID[string])
		last := int64(rapid.IntRange(1, 25).Draw(t, "bundles"))
		for seq := int64(1); seq <= last; seq++ {
			batch := &pgx.Batch{}
			keys := bundle.Draw(t, "keys")
			for ordinal, key := range keys {
				entry := logEntry{Seq: seq, Key: key, Op: rapid.SampledFrom([]string{"I", "U", "D"}).Draw(t, "op")}
				if entry.Op != "D" {
					entry.Payload = fmt.Sprintf(`{"id":%q,"seq":%d}`, key, seq)
				}
				entries = append(entries, entry)
				batch.Queue(`INSERT INTO sync.bundle_rows VALUES ($1, $2, $3, 1, $4::text::"char", $5, nullif($6, ''))`,
					userPk, seq, ordinal, entry.Op, []byte(key), entry.Payload)
			}
			bytesOf[seq] = rapid.Int64Range(1, 1000).Draw(t, "bytes")
			batch.Queue(`INSERT INTO sync.bundle_log (user_pk, bundle_seq, source_id, source_bundle_id, row_count, byte_count, bundle_hash)
				VALUES ($1, $2, 'source', $2, $3, $4, '\x00')`, userPk, seq, len(keys), bytesOf[seq])
			batch.Queue(`UPDATE sync.user_state SET next_bundle_seq = $2 + 1, bundle_byte_count = bundle_byte_count + $3 WHERE user_pk = $1`, userPk, seq, bytesOf[seq])
			require.NoError(t, pool.SendBatch(ctx, batch).Close())
		}

		// A few rounds, each with other snapshots and another retention.
		floor, pruned := int64(0), int64(0)
		for range rapid.IntRange(1, 3).Draw(t, "rounds") {
			_, err := pool.Exec(ctx, `DELETE FROM sync.snapshot_sessions WHERE user_pk = $1`, userPk)
			require.NoError(t, err)
			horizon := last
			for n := range rapid.IntRange(0, 2).Draw(t, "snapshots") {
				seq := rapid.Int64Range(pruned, last).Draw(t, "snapshot")
				expired := rapid.Bool().Draw(t, "expired")
				_, err := pool.Exec(ctx, `INSERT INTO sync.snapshot_sessions (user_pk, source_id, snapshot_bundle_seq, row_count, byte_count, expires_at)
					VALUES ($1, $2, $3, 0, 0, now() + $4)`, userPk, fmt.Sprint(n), seq, map[bool]time.Duration{true: -time.Second, false: time.Hour}[expired])
				require.NoError(t, err)
				if !expired {
					horizon = min(horizon, seq)
				}
			}
			retained := rapid.Int64Range(1, last+1).Draw(t, "retained")
			batchSize := rapid.Int64Range(1, 5).Draw(t, "batch")
			floor = max(floor, last-retained)
			pruned = max(pruned, min(floor, horizon))
			for {
				var removed int64
				require.NoError(t, pool.QueryRow(ctx, `SELECT sync.prune_scope($1, $2, $3)`, userPk, retained, batchSize).Scan(&removed))
				require.LessOrEqual(t, removed, batchSize)
				if removed == 0 {
					break
				}
				// Half-way too, whatever is at or above the horizon is there.
				requireState(ctx, t, pool, userPk, entries, max(floor, pruned))
			}

			var gotFloor, gotPruned, gotBytes int64
			require.NoError(t, pool.QueryRow(ctx, `SELECT retained_bundle_floor, pruned_bundle_seq, bundle_byte_count FROM sync.user_state WHERE user_pk = $1`, userPk).
				Scan(&gotFloor, &gotPruned, &gotBytes))
			require.Equal(t, []int64{floor, pruned}, []int64{gotFloor, gotPruned})

			wantBytes, wantLog := int64(0), []int64{}
			for seq := pruned + 1; seq <= last; seq++ {
				wantLog = append(wantLog, seq)
				wantBytes += bytesOf[seq]
			}
			require.Equal(t, wantBytes, gotBytes)
			rows, err := pool.Query(ctx, `SELECT bundle_seq FROM sync.bundle_log WHERE user_pk = $1 ORDER BY 1`, userPk)
			require.NoError(t, err)
			log, err := pgx.CollectRows(rows, pgx.RowTo[int64])
			require.NoError(t, err)
			require.Equal(t, wantLog, append([]int64{}, log...))

			for seq := pruned; seq <= last; seq++ {
				requireState(ctx, t, pool, userPk, entries, seq)
			}
			// And nothing more than that is kept.
			kept := slices.Collect(maps.Values(newest(entries, pruned)))
			for _, e := range entries {
				if e.Seq > pruned {
					kept = append(kept, e)
				}
			}
			requireEntries(ctx, t, pool, kept, `SELECT bundle_seq, convert_from(key_bytes, 'utf8'), op::text, coalesce(payload, '') FROM sync.bundle_rows WHERE user_pk = $1`, userPk)
		}
	})
}

// requireState checks what the log says of each key at a sequence: that is what
// snapshots show, and, at the newest, what conflicts are judged by.
func requireState(ctx context.Context, t require.TestingT, pool *pgxpool.Pool, userPk int64, entries []logEntry, seq int64) {
	requireEntries(ctx, t, pool, slices.Collect(maps.Values(newest(entries, seq))),
		`SELECT DISTINCT ON (key_bytes) bundle_seq, convert_from(key_bytes, 'utf8'), op::text, coalesce(payload, '')
		FROM sync.bundle_rows WHERE user_pk = $1 AND bundle_seq <= $2 ORDER BY key_bytes, bundle_seq DESC`, userPk, seq)
}

func requireEntries(ctx context.Context, t require.TestingT, pool *pgxpool.Pool, want []logEntry, sql string, args ...any) {
	rows, err := pool.Query(ctx, sql, args...)
	require.NoError(t, err)
	got, err := pgx.CollectRows(rows, pgx.RowToStructByPos[logEntry])
	require.NoError(t, err)
	require.ElementsMatch(t, want, got)
}

func TestPruningLeavesPullsSnapshotsAndConflictsAsTheyWere(t *testing.T) {
	t.Parallel()
	service, pool := newQuiet(t, oversync.ServiceConfig{})
	const user = "ann"
	for n := range 10 {
		writeNote(t, service, user, n%2, fmt.Sprint("title ", n))
	}
	writeNote(t, service, user, 2, "gone soon")
	write(t, service, user, `DELETE FROM app.notes WHERE id = $1`, noteID(2))
	for n := range 3 {
		writeNote(t, service, user, 0, fmt.Sprint("last ", n))
	}
	before, err := pullBytes(t, service, user, 14)
	require.NoError(t, err)
	snapshot := readSnapshot(t, service, user)

	require.EqualValues(t, 13, scalar[int64](t, pool, `SELECT sync.prune(2)`))
	require.Zero(t, scalar[int64](t, pool, `SELECT sync.prune(2)`))
	require.EqualValues(t, 5, scalar[int64](t, pool, `SELECT count(*) FROM sync.bundle_rows`), "three keys at the floor, and two bundles above it")

	after, err := pullBytes(t, service, user, 14)
	require.NoError(t, err)
	require.Equal(t, before, after)
	require.Equal(t, snapshot, readSnapshot(t, service, user))
	for _, seq := range []int64{0, 1, 13, 16} {
		_, err := pullBytes(t, service, user, seq)
		require.ErrorIs(t, err, &oversync.HistoryPrunedError{}, seq)
	}
	_, err = service.GetCommittedBundleRows(t.Context(), oversync.Actor{UserID: user, SourceID: "reader"}, 13, nil, 0)
	require.ErrorIs(t, err, &oversync.HistoryPrunedError{})

	// A row whose last change is below the floor, one above it, and a tombstone.
	phone := &device{service: service, actor: oversync.Actor{UserID: user, SourceID: "phone"}, next: 1}
	for _, row := range []oversync.PushRequestRow{updateNote(1, 10, "new"), updateNote(0, 15, "new"), noteRow(oversync.OpInsert, 2, 12, "new")} {
		phone.mustPush(t, row)
	}
	_, err = phone.push(t.Context(), updateNote(1, 10, "newer"))
	require.EqualValues(t, 16, requireAs[*oversync.PushConflictError](t, err).Conflict.ServerRowVersion)
}

// readSnapshot returns the rows of a fresh snapshot, two at a time.
func readSnapshot(t testing.TB, service *oversync.SyncService, user string) []oversync.SnapshotRow {
	t.Helper()
	session, err := service.CreateSnapshotSession(t.Context(), oversync.Actor{UserID: user, SourceID: "reader"})
	require.NoError(t, err)
	return readSnapshotOf(t, service, user, session.SnapshotID)
}

func readSnapshotOf(t testing.TB, service *oversync.SyncService, user, snapshotID string) []oversync.SnapshotRow {
	t.Helper()
	var all []oversync.SnapshotRow
	for {
		chunk, err := service.GetSnapshotChunk(t.Context(), oversync.Actor{UserID: user, SourceID: "reader"}, snapshotID, int64(len(all)), 2)
		require.NoError(t, err)
		all = append(all, chunk.Rows...)
		if !chunk.HasMore {
			return all
		}
	}
}

func TestPruningLeavesWhatASnapshotCanSee(t *testing.T) {
	t.Parallel()
	service, pool := newQuiet(t, oversync.ServiceConfig{})
	for n := range 3 {
		writeNote(t, service, "ann", 1, fmt.Sprint(n))
	}
	reader := oversync.Actor{UserID: "ann", SourceID: "reader"}
	session, err := service.CreateSnapshotSession(t.Context(), reader)
	require.NoError(t, err)
	want := readSnapshotOf(t, service, "ann", session.SnapshotID)
	for n := range 5 {
		writeNote(t, service, "ann", 1, fmt.Sprint("later ", n))
	}
	require.EqualValues(t, 3, scalar[int64](t, pool, `SELECT sync.prune(1)`))
	require.EqualValues(t, 7, scalar[int64](t, pool, `SELECT retained_bundle_floor FROM sync.user_state`), "the floor does not wait")
	require.Equal(t, want, readSnapshotOf(t, service, "ann", session.SnapshotID))

	exec(t, pool, `UPDATE sync.snapshot_sessions SET expires_at = now()`)
	require.EqualValues(t, 4, scalar[int64](t, pool, `SELECT sync.prune(1)`))
	require.EqualValues(t, 2, scalar[int64](t, pool, `SELECT count(*) FROM sync.bundle_rows`))

	// As if the session had been committed only after its sequence was pruned.
	exec(t, pool, `UPDATE sync.snapshot_sessions SET expires_at = now() + interval '1 hour'`)
	_, err = service.GetSnapshotChunk(t.Context(), reader, session.SnapshotID, 0, 1)
	requireType[*oversync.SnapshotSessionExpiredError](t, err)
}

func TestManyPruneAtOnce(t *testing.T) {
	t.Parallel()
	_, pool := newQuiet(t, oversync.ServiceConfig{})
	exec(t, pool, `INSERT INTO sync.user_state (user_id, state, next_bundle_seq, bundle_byte_count)
		SELECT 'user-' || n, 'initialized', 101, 1000 FROM generate_series(1, 20) AS n`)
	exec(t, pool, `INSERT INTO sync.bundle_log (user_pk, bundle_seq, source_id, source_bundle_id, row_count, byte_count, bundle_hash)
		SELECT u.user_pk, n, 's', n, 1, 10, '\x00' FROM sync.user_state u, generate_series(1, 100) AS n`)
	exec(t, pool, `INSERT INTO sync.bundle_rows SELECT u.user_pk, n, 0, 1, 'U', '\x01', '{}' FROM sync.user_state u, generate_series(1, 100) AS n`)
	var group errgroup.Group
	for range 4 {
		group.Go(func() error {
			for {
				var removed int64
				if err := pool.QueryRow(t.Context(), `SELECT sync.prune(10, 70)`).Scan(&removed); err != nil || removed == 0 {
					return err
				}
			}
		})
	}
	require.NoError(t, group.Wait())
	for scalar[int64](t, pool, `SELECT sync.prune(10, 70)`) > 0 { // what the last of them passed over
	}
	require.Equal(t, "90 90 100 20", scalar[string](t, pool, `SELECT DISTINCT concat_ws(' ', retained_bundle_floor, pruned_bundle_seq, bundle_byte_count, count(*) OVER ()) FROM sync.user_state`))
	require.Equal(t, "200 91 100", scalar[string](t, pool, `SELECT concat_ws(' ', count(*), min(bundle_seq), max(bundle_seq)) FROM sync.bundle_log`))
	require.Equal(t, "220 90 100", scalar[string](t, pool, `SELECT concat_ws(' ', count(*), min(bundle_seq), max(bundle_seq)) FROM sync.bundle_rows`))
}

func TestPruningPassesOverAScopeThatIsWritten(t *testing.T) {
	t.Parallel()
	service, pool := newQuiet(t, oversync.ServiceConfig{})
	for _, user := range []string{"ann", "bob"} {
		for n := range 3 {
			writeNote(t, service, user, n, "a")
		}
	}
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT FROM sync.user_state WHERE user_id = 'ann' FOR NO KEY UPDATE`)
	require.NoError(t, err)
	require.EqualValues(t, 2, scalar[int64](t, pool, `SELECT sync.prune(1)`), "those of bob")
	require.NoError(t, tx.Rollback(t.Context()))
	require.EqualValues(t, 2, scalar[int64](t, pool, `SELECT sync.prune(1)`), "those of ann")

	_, err = pool.Exec(t.Context(), `SELECT sync.prune_scope(1, 0)`)
	require.ErrorContains(t, err, "p_retained_bundles is 0")
}

func TestAScopeThatCannotBePrunedStopsNoOther(t *testing.T) {
	t.Parallel()
	writer, pool := newQuiet(t, oversync.ServiceConfig{})
	service := openService(t, pool, oversync.ServiceConfig{RetainedBundlesPerUser: 1}, nil)
	for _, user := range []string{"anna", "ben", "cleo"} {
		writeNote(t, writer, user, 1, "first")
		writeNote(t, writer, user, 1, "second")
	}
	exec(t, pool, `ALTER TABLE sync.user_state ADD CONSTRAINT only_ben CHECK (user_id = 'ben' OR retained_bundle_floor = 0)`)
	err := oversync.PrunePass(t.Context(), service)
	require.Equal(t, 2, strings.Count(fmt.Sprint(err), "only_ben"), "%v", err)
	require.Equal(t, "ben", scalar[string](t, pool, `SELECT string_agg(user_id, ' ') FROM sync.user_state WHERE retained_bundle_floor > 0`))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, oversync.PrunePass(ctx, service), context.Canceled)
}

func TestLookingForScopesToPruneReadsNoMoreThanItsShare(t *testing.T) {
	t.Parallel()
	_, pool := newQuiet(t, oversync.ServiceConfig{})
	exec(t, pool, `INSERT INTO sync.user_state (user_id) SELECT 'user-' || n FROM generate_series(1, 20000) AS n`)
	exec(t, pool, `ANALYZE sync.user_state`)
	rows, err := pool.Query(t.Context(), "EXPLAIN "+db.RetentionDue, 1000, 10, 5000)
	require.NoError(t, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	plan := strings.Join(lines, "\n")
	require.Contains(t, plan, "Index")
	require.NotContains(t, plan, "Sort")
}

func TestSweepRemovesWhatExpiredLongAgo(t *testing.T) {
	t.Parallel()
	service, pool := newQuiet(t, oversync.ServiceConfig{})
	writeNote(t, service, "ann", 1, "a")
	writeNote(t, service, "ann", 2, "b")
	phone := newDevice(t, service, "ann", "phone")
	staged, err := phone.stage(t.Context(), insertNote(3, "c"), insertNote(4, "d"))
	require.NoError(t, err)
	snapshot := func(source string) string {
		actor := oversync.Actor{UserID: "ann", SourceID: source}
		session, err := service.CreateSnapshotSession(t.Context(), actor)
		require.NoError(t, err)
		_, err = service.GetSnapshotChunk(t.Context(), actor, session.SnapshotID, 0, 1)
		require.NoError(t, err)
		return session.SnapshotID
	}
	exec(t, pool, `DELETE FROM sync.snapshot_sessions WHERE snapshot_id = $1`, snapshot("reader")) // as when too many are made: its mark stays behind
	snapshotID := snapshot("reader")
	counts := func() string {
		return scalar[string](t, pool, `SELECT concat_ws(' ', (SELECT count(*) FROM sync.push_sessions), (SELECT count(*) FROM sync.push_chunks),
			(SELECT count(*) FROM sync.snapshot_sessions), (SELECT count(*) FROM sync.snapshot_marks))`)
	}
	require.Equal(t, "1 1 1 2", counts())
	require.Zero(t, scalar[int64](t, pool, `SELECT sync.sweep()`))
	require.Equal(t, "1 1 1 1", counts(), "only the mark of the snapshot that is gone goes")

	expire := func(ago string) {
		for _, table := range []string{"push_sessions", "snapshot_sessions"} {
			exec(t, pool, fmt.Sprintf(`UPDATE sync.%s SET expires_at = now() - $1::interval`, table), ago)
		}
	}
	expire("14 minutes")
	require.Zero(t, scalar[int64](t, pool, `SELECT sync.sweep()`))
	_, err = service.CommitPushSession(t.Context(), phone.actor, staged.PushID)
	requireType[*oversync.PushSessionExpiredError](t, err)
	_, err = service.GetSnapshotChunk(t.Context(), phone.actor, snapshotID, 0, 1)
	requireType[*oversync.SnapshotSessionExpiredError](t, err)

	expire("15 minutes")
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT FROM sync.push_sessions FOR UPDATE`)
	require.NoError(t, err)
	require.EqualValues(t, 1, scalar[int64](t, pool, `SELECT sync.sweep()`), "a session in use is passed over")
	require.Equal(t, "1 1 0 0", counts())
	require.NoError(t, tx.Rollback(t.Context()))
	require.EqualValues(t, 1, scalar[int64](t, pool, `SELECT sync.sweep()`))
	require.Equal(t, "0 0 0 0", counts())

	_, err = service.CommitPushSession(t.Context(), phone.actor, staged.PushID)
	requireType[*oversync.PushSessionNotFoundError](t, err)
}

// A transaction must not lose the bundle that it has open to a sweep.
func TestSweepLeavesRunningTransactionsAlone(t *testing.T) {
	t.Parallel()
	service, pool := newQuiet(t, oversync.ServiceConfig{})
	manager := oversync.NewScopeManager(service, oversync.ScopeManagerConfig{Logger: slog.New(slog.DiscardHandler)})
	_, err := manager.ExecWrite(t.Context(), "ann", oversync.ScopeWriteOptions{WriterID: "server"}, func(tx pgx.Tx) error {
		if err := insertNoteSQL(t.Context(), tx, 1, "a"); err != nil {
			return err
		}
		for _, conn := range []interface {
			QueryRow(context.Context, string, ...any) pgx.Row
		}{pool, tx} {
			var removed int64
			if err := conn.QueryRow(t.Context(), `SELECT sync.sweep()`).Scan(&removed); err != nil {
				return err
			}
		}
		return nil
	})
	require.NoError(t, err)

	// Nobody can commit a bundle that is open. What is left behind all the same, as where a dump was restored, goes.
	_, err = pool.Exec(t.Context(), `SELECT sync.bundle_open('ann', 'psql', NULL, false)`)
	require.ErrorContains(t, err, "OV024")
	exec(t, pool, `INSERT INTO sync.open_bundles (xid, user_pk, user_id, bundle_seq, source_id, source_bundle_id, is_implicit)
		SELECT '3', u.user_pk, u.user_id, u.next_bundle_seq, 'psql', 1, true FROM sync.user_state u WHERE u.user_id = 'ann'`)
	exec(t, pool, `INSERT INTO sync.captured_keys (xid, table_id, at_commit, keys) VALUES ('3', 1, false, '{}')`)
	require.EqualValues(t, 1, scalar[int64](t, pool, `SELECT count(*) FROM sync.open_bundles`))
	exec(t, pool, `SELECT sync.sweep()`)
	require.Zero(t, scalar[int64](t, pool, `SELECT (SELECT count(*) FROM sync.open_bundles) + (SELECT count(*) FROM sync.captured_keys)`))
}

func TestSnapshotSessionsOfAScopeAreBounded(t *testing.T) {
	t.Parallel()
	service, pool := newQuiet(t, oversync.ServiceConfig{})
	writeNote(t, service, "ann", 1, "a")
	writeNote(t, service, "bob", 1, "b")
	snapshot := func(user, source string) string {
		session, err := service.CreateSnapshotSession(t.Context(), oversync.Actor{UserID: user, SourceID: source})
		require.NoError(t, err)
		return session.SnapshotID
	}
	patient, bob := snapshot("ann", "patient"), snapshot("bob", "device")
	var impatient []string
	for range 20 {
		impatient = append(impatient, snapshot("ann", "impatient"))
	}
	require.EqualValues(t, 1+1+8, scalar[int64](t, pool, `SELECT count(*) FROM sync.snapshot_sessions`))
	exec(t, pool, `ALTER TABLE sync.snapshot_sessions DISABLE TRIGGER USER`)
	exec(t, pool, `INSERT INTO sync.snapshot_sessions (user_pk, source_id, snapshot_bundle_seq, row_count, byte_count, expires_at)
		SELECT u.user_pk, 'device ' || i, 1, 1, 1, now() + interval '1 hour' FROM sync.user_state u, generate_series(1, 4086) AS i WHERE u.user_id = 'ann'`)
	exec(t, pool, `ALTER TABLE sync.snapshot_sessions ENABLE TRIGGER USER`)
	for _, id := range append(impatient[12:], patient) {
		require.Len(t, readSnapshotOf(t, service, "ann", id), 1)
	}
	late := snapshot("ann", "late")
	require.EqualValues(t, 1+4096, scalar[int64](t, pool, `SELECT count(*) FROM sync.snapshot_sessions`))
	next := snapshot("ann", "later")
	require.EqualValues(t, 1+4096, scalar[int64](t, pool, `SELECT count(*) FROM sync.snapshot_sessions`))
	for _, gone := range []string{impatient[0], impatient[11], patient} {
		_, err := service.GetSnapshotChunk(t.Context(), oversync.Actor{UserID: "ann", SourceID: "x"}, gone, 0, 1)
		requireType[*oversync.SnapshotSessionNotFoundError](t, err)
	}
	for _, id := range []string{late, next} {
		require.Len(t, readSnapshotOf(t, service, "ann", id), 1)
	}
	require.Len(t, readSnapshotOf(t, service, "bob", bob), 1)
}

func TestBackgroundWorkPrunesAndFollowsTheCatalog(t *testing.T) {
	t.Parallel()
	first, pool := newQuiet(t, oversync.ServiceConfig{RetainedBundlesPerUser: 2, RetentionPruneBatchSize: 3})
	second := openService(t, pool, oversync.ServiceConfig{RetainedBundlesPerUser: 2}, nil)
	for n := range 9 {
		writeNote(t, first, "ann", n, "a")
	}
	require.NoError(t, first.Bootstrap(t.Context()))
	require.NoError(t, second.Bootstrap(t.Context()))
	require.NoError(t, second.Bootstrap(t.Context()), "again does no harm")

	exec(t, pool, `CREATE TABLE app.tags (_sync_scope_id text NOT NULL, id uuid NOT NULL, PRIMARY KEY (_sync_scope_id, id))`)
	exec(t, pool, `SELECT sync.register_table('app.tags')`)
	require.Eventually(t, func() bool {
		return slices.Equal(first.GetCapabilities().RegisteredTables, []string{"app.notes", "app.tags"}) && second.IsTableRegistered("app", "tags")
	}, time.Minute, 20*time.Millisecond)
	require.Eventually(t, func() bool {
		return scalar[int64](t, pool, `SELECT count(*) FROM sync.bundle_log`) == 2
	}, time.Minute, 50*time.Millisecond)
	status, err := first.GetStatus(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 7, status.RetainedBundleFloorMax)
	require.EqualValues(t, 2, status.CommittedBundleCount)
	require.EqualValues(t, scalar[int64](t, pool, `SELECT sum(byte_count) FROM sync.bundle_log`), status.CommittedBundleBytes)

	require.NoError(t, first.Close(t.Context()))
	require.NoError(t, first.Close(t.Context()))
	requireType[*oversync.ServiceClosedError](t, first.Bootstrap(t.Context()))
}

// lockedBuffer is a buffer that a logger and a test share.
type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

func TestFailingBackgroundWorkIsLoggedOnce(t *testing.T) {
	t.Parallel()
	_, pool := newQuiet(t, oversync.ServiceConfig{})
	log := &lockedBuffer{}
	service := openService(t, pool, oversync.ServiceConfig{}, slog.New(slog.NewTextHandler(log, nil)))
	require.NoError(t, service.Bootstrap(t.Context()))
	exec(t, pool, `ALTER TABLE sync.catalog_version RENAME TO hidden`)
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "background work fails") }, time.Minute, 20*time.Millisecond)
	exec(t, pool, `ALTER TABLE sync.hidden RENAME TO catalog_version`)
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "background work succeeds again") }, time.Minute, 20*time.Millisecond)
	require.NoError(t, service.Close(t.Context()))
	require.Equal(t, 1, strings.Count(log.String(), "background work fails"), log.String())
}

// Health takes every instance out of its load balancer, and its answer gives no reason.
func TestAnUnhealthyStatusSaysWhyInTheLog(t *testing.T) {
	t.Parallel()
	_, pool := newQuiet(t, oversync.ServiceConfig{})
	log := &lockedBuffer{}
	service := openService(t, pool, oversync.ServiceConfig{}, slog.New(slog.NewTextHandler(log, nil)))
	becomes := func(want string) {
		t.Helper()
		require.Eventually(t, func() bool {
			status, err := service.GetStatus(t.Context())
			require.NoError(t, err)
			return status.Status == want
		}, time.Minute, 100*time.Millisecond)
	}
	becomes("healthy")
	require.Empty(t, log.String())
	exec(t, pool, `ALTER TABLE app.notes DISABLE TRIGGER USER`)
	becomes("unhealthy")
	becomes("unhealthy")
	require.Contains(t, log.String(), "severity=error object=app.notes")
	require.Contains(t, log.String(), "remedy=")
	lines := strings.Count(log.String(), "\n")
	require.LessOrEqual(t, lines, 3)
	exec(t, pool, `ALTER TABLE app.notes ENABLE TRIGGER USER`)
	becomes("healthy")
	require.Contains(t, log.String(), "finds no error any more")
	require.Equal(t, lines+1, strings.Count(log.String(), "\n"), log.String())
}

func TestStatusCountersSurviveRestarts(t *testing.T) {
	t.Parallel()
	service, pool := newQuiet(t, oversync.ServiceConfig{})
	for n := range 3 {
		writeNote(t, service, "ann", n, "a")
	}
	phone := newDevice(t, service, "ann", "phone")
	phone.mustPush(t, insertNote(4, "a"))
	phone.next = 1 // as if the answer had been lost
	phone.mustPush(t, insertNote(4, "a"))

	_, err := pool.Exec(t.Context(), `INSERT INTO app.notes (_sync_scope_id, id, title) VALUES ('ann', gen_random_uuid(), 'a')`)
	require.ErrorContains(t, err, "only inside a bundle")

	require.EqualValues(t, 2, scalar[int64](t, pool, `SELECT sync.prune(2)`))
	_, err = pullBytes(t, service, "ann", 1)
	require.ErrorIs(t, err, &oversync.HistoryPrunedError{})
	_, err = pullBytes(t, service, "ann", 99)
	require.ErrorIs(t, err, &oversync.HistoryPrunedError{})

	require.NoError(t, service.Close(t.Context()))
	status, err := openService(t, pool, oversync.ServiceConfig{}, nil).GetStatus(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, status.AcceptedPushReplayCount)
	require.EqualValues(t, 1, status.RejectedRegisteredWriteCount)
	require.EqualValues(t, 2, status.HistoryPrunedErrorCount)
	require.EqualValues(t, 4, status.LatestBundleSeqMax)
	require.EqualValues(t, 2, status.RetainedBundleFloorMin)
	require.EqualValues(t, 2, status.RetainedBundleWindowMax)
	require.EqualValues(t, 2, status.CommittedBundleCount)
	require.Equal(t, "healthy", status.Status)
}

// History may go between the two looks at a bundle. That is history_pruned, and no
// fault of the server.
func TestABundleThatIsPrunedWhileItIsRead(t *testing.T) {
	t.Parallel()
	pool := pgtest.NewPool(t)
	prune := oversync.StageMetricsRecorderFunc(func(ctx context.Context, timing oversync.StageTiming) {
		if timing.Operation == "committed_bundle_rows" && timing.Stage == "header" {
			_, err := pool.Exec(ctx, `SELECT sync.prune(1)`)
			require.NoError(t, err)
		}
	})
	service := newService(t, pool, notesDDL, &oversync.ServiceConfig{RegisteredTables: tables("app.notes"), StageMetrics: prune})
	phone := newDevice(t, service, "anna", "phone")
	phone.mustPush(t, insertNote(1, "a"), insertNote(2, "b"))
	phone.mustPush(t, updateNote(1, 1, "c"))
	phone.mustPush(t, updateNote(1, 2, "d"))
	_, err := service.GetCommittedBundleRows(t.Context(), phone.actor, 1, nil, 0)
	require.EqualValues(t, 2, requireAs[*oversync.HistoryPrunedError](t, err).RetainedFloor)
}

// Anybody may ask for the status, as often as they like.
func TestStatusOfManyScopesIsRemembered(t *testing.T) {
	t.Parallel()
	service, pool := newQuiet(t, oversync.ServiceConfig{})
	newest := func() int64 {
		status, err := service.GetStatus(t.Context())
		require.NoError(t, err)
		return status.LatestBundleSeqMax
	}
	for n := range int64(3) {
		exec(t, pool, `INSERT INTO sync.user_state (user_id, state, next_bundle_seq) VALUES ($1, 'initialized', $2)`, fmt.Sprint("few-", n), n+1)
		require.Equal(t, n, newest())
	}
	exec(t, pool, `INSERT INTO sync.user_state (user_id) SELECT 'user-' || n FROM generate_series(1, 10000) AS n`)
	// On a machine that is busy the memory may have faded before it is asked.
	require.Eventually(t, func() bool {
		before := newest()
		exec(t, pool, `UPDATE sync.user_state SET next_bundle_seq = next_bundle_seq + 1 WHERE user_id = 'few-2'`)
		return newest() == before
	}, time.Minute, time.Millisecond, "remembered")
	exec(t, pool, `UPDATE sync.user_state SET next_bundle_seq = 1001 WHERE user_id = 'few-2'`)
	require.Eventually(t, func() bool { return newest() == 1000 }, time.Minute, 100*time.Millisecond, "for a while")
}

// A chunk that has begun ends whole, though its session expires meanwhile.
func TestASnapshotThatExpiresWhileAChunkIsRead(t *testing.T) {
	t.Parallel()
	pool := pgtest.NewPool(t)
	service := newService(t, pool, notesDDL, &oversync.ServiceConfig{RegisteredTables: tables("app.notes")})
	actor := newDevice(t, service, "ann", "phone").actor
	// More than the network holds of it.
	require.NoError(t, service.WithinSyncBundle(t.Context(), actor, oversync.BundleSource{SourceID: "job", SourceBundleID: 1}, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `INSERT INTO app.notes (id, title) SELECT gen_random_uuid(), repeat('x', 500000) FROM generate_series(1, 50)`)
		return err
	}))
	session, err := service.CreateSnapshotSession(t.Context(), actor)
	require.NoError(t, err)
	exec(t, pool, `UPDATE sync.snapshot_sessions SET expires_at = clock_timestamp() + interval '5 seconds'`)
	rows, err := pool.Query(t.Context(), db.SnapshotRows, actor.UserID, 0, 50, session.SnapshotID)
	require.NoError(t, err)
	require.True(t, rows.Next())
	require.Eventually(t, func() bool {
		return scalar[bool](t, pool, `SELECT bool_and(expires_at <= clock_timestamp()) FROM sync.snapshot_sessions`)
	}, time.Minute, 10*time.Millisecond)
	read := 1
	for rows.Next() {
		read++
	}
	require.NoError(t, rows.Err())
	require.Equal(t, 50, read)
	_, err = service.GetSnapshotChunk(t.Context(), actor, session.SnapshotID, 0, 50)
	requireType[*oversync.SnapshotSessionExpiredError](t, err)
}

// Where a chunk ended is noted to save time. That it could not be is no reason to
// throw the chunk away.
func TestASnapshotWithoutMarks(t *testing.T) {
	t.Parallel()
	pool := pgtest.NewPool(t)
	service := newService(t, pool, notesDDL, &oversync.ServiceConfig{RegisteredTables: tables("app.notes")})
	d := newDevice(t, service, "ann", "phone")
	d.mustPush(t, insertNote(1, "a"), insertNote(2, "b"), insertNote(3, "c"))
	exec(t, pool, `CREATE FUNCTION app.full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'disk full' USING ERRCODE = '53100'; END $$`)
	exec(t, pool, `CREATE TRIGGER full_disk BEFORE INSERT ON sync.snapshot_marks EXECUTE FUNCTION app.full()`)
	require.Len(t, readSnapshot(t, service, "ann"), 3)
}

// Unregistering a table ends the sessions that it can see. Another must not fail as the server's fault, at each chunk until it expires.
func TestASnapshotWhoseTableIsUnregistered(t *testing.T) {
	t.Parallel()
	service, pool := newQuiet(t, oversync.ServiceConfig{})
	writeNote(t, service, "ann", 1, "a")
	reader := oversync.Actor{UserID: "ann", SourceID: "reader"}
	session, err := service.CreateSnapshotSession(t.Context(), reader)
	require.NoError(t, err)
	write(t, service, "ann", `DELETE FROM app.notes`)
	exec(t, pool, `SELECT sync.unregister_table('app.notes')`)
	require.EqualValues(t, 1, scalar[int64](t, pool, `SELECT count(*) FROM sync.snapshot_sessions`))
	_, err = service.GetSnapshotChunk(t.Context(), reader, session.SnapshotID, 0, 0)
	requireType[*oversync.SnapshotSessionExpiredError](t, err)
}
