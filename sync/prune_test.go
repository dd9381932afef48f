package oversync_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
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

// TestWhereHistoryEnds asks for each bundle at each floor: those up to the floor are gone, the next one is there, whoever asks.
func TestWhereHistoryEnds(t *testing.T) {
	t.Parallel()
	const newest = 6
	service := newNotes(t)
	phone := newDevice(t, service, "anna", "phone")
	importer := func(id int64) error {
		return service.WithinSyncBundle(t.Context(), oversync.Actor{UserID: "anna"}, oversync.BundleSource{SourceID: "importer", SourceBundleID: id}, func(tx pgx.Tx) error {
			return insertNoteSQL(t.Context(), tx, 100+int(id), "x")
		})
	}
	for n := range newest / 2 { // in turns, so that no number of a source is that of the scope
		phone.mustPush(t, insertNote(n, "x"))
		require.NoError(t, importer(int64(n)+1))
	}
	refusals := int64(0)
	requireThere := func(floor, seq int64, what string, err error) {
		t.Helper()
		if seq == 0 && floor == 0 || seq > floor {
			require.NoError(t, err, "%s %d, floor %d", what, seq, floor)
			return
		}
		refusals++
		gone := oversync.HistoryPrunedError{UserID: "anna", ProvidedSeq: seq, RetainedFloor: floor}
		require.Equal(t, gone, *requireAs[*oversync.HistoryPrunedError](t, err), "%s %d, floor %d", what, seq, floor)
	}
	for floor := range int64(newest) {
		exec(t, service.Pool(), "UPDATE sync.user_state SET retained_bundle_floor = $1", floor)
		for id := int64(1); id <= newest/2; id++ {
			seq := 2*id - 1 // of the phone's
			gone := oversync.SourceTupleHistoryPrunedError{UserID: "anna", SourceID: "phone", SourceBundleID: id, MaxCommittedSourceBundleIDHint: newest / 2}
			session, err := service.CreatePushSession(t.Context(), phone.actor, &oversync.PushSessionCreateRequest{SourceBundleID: id, PlannedRowCount: 1})
			if seq <= floor {
				refusals++
				require.Equal(t, gone, *requireAs[*oversync.SourceTupleHistoryPrunedError](t, err), "floor %d", floor)
			} else {
				require.NoError(t, err, "floor %d", floor)
				require.Equal(t, []any{"already_committed", seq}, []any{session.Status, session.BundleSeq}, "floor %d", floor)
			}
			err = importer(id) // whose bundle came next
			if gone.SourceID = "importer"; seq+1 <= floor {
				refusals++
				require.Equal(t, gone, *requireAs[*oversync.SourceTupleHistoryPrunedError](t, err), "floor %d", floor)
			} else {
				require.EqualValues(t, newest/2+1, requireAs[*oversync.SourceSequenceOutOfOrderError](t, err).Expected, "floor %d", floor)
			}
		}
		for seq := range int64(newest + 1) {
			_, err := service.ProcessPull(t.Context(), phone.actor, seq, 0, 0)
			requireThere(floor, seq, "pull after", err)
			if seq > 0 {
				_, err = service.ProcessPull(t.Context(), phone.actor, newest, 0, seq)
				requireThere(floor, seq, "pull up to", err)
				_, err = service.GetCommittedBundleRows(t.Context(), phone.actor, seq, nil, 0)
				requireThere(floor, seq, "bundle", err)
			}
		}
	}
	status, err := service.GetStatus(t.Context())
	require.NoError(t, err)
	require.Equal(t, refusals, status.HistoryPrunedErrorCount)
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
