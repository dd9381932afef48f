package oversync_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
	oversync "github.com/oversync/oversync/sync"
)

// groupDDL has all kinds of tables: one that nothing happens on beside what is
// pushed, and one with a trigger that writes another.
const groupDDL = notesDDL + `
CREATE TABLE app.tasks  (_sync_scope_id text NOT NULL, id uuid NOT NULL, title text NOT NULL, stars bigint NOT NULL DEFAULT 0, PRIMARY KEY (_sync_scope_id, id));
CREATE TABLE app.events (_sync_scope_id text NOT NULL, id uuid NOT NULL, what text NOT NULL, PRIMARY KEY (_sync_scope_id, id));
CREATE FUNCTION app.note_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO app.events (_sync_scope_id, id, what) VALUES (NEW._sync_scope_id, NEW.id, NEW.title);
    UPDATE app.tasks SET stars = 5 WHERE _sync_scope_id = NEW._sync_scope_id AND id = NEW.id;
    RETURN NULL;
END $$;
CREATE TRIGGER note_event AFTER INSERT ON app.tasks FOR EACH ROW EXECUTE FUNCTION app.note_event();`

// pushGroup is pushes of devices of one user, staged and about to be committed
// while somebody else holds the scope, so that they come to wait for each other.
type pushGroup struct {
	service  *oversync.SyncService
	recorder *stageRecorder
	devices  []*device
	sessions []string
	outside  *pgxpool.Pool
	outcomes []chan outcome
	results  []outcome // by commitAll
}

type outcome struct {
	committed *oversync.PushSessionCommitResponse
	err       error
}

func newPushGroup(t *testing.T) *pushGroup {
	t.Helper()
	pool := pgtest.NewPool(t)
	outside, err := pgxpool.NewWithConfig(t.Context(), pool.Config())
	require.NoError(t, err)
	t.Cleanup(outside.Close)
	g := &pushGroup{recorder: &stageRecorder{}, outside: outside}
	g.service = newService(t, pool, groupDDL, &oversync.ServiceConfig{RegisteredTables: tables("app.notes", "app.tasks", "app.events"), StageMetrics: g.recorder})
	newDevice(t, g.service, "anna", "first").mustPush(t, insertNote(1, "one"), insertNote(2, "two"), insertNote(3, "three"))
	return g
}

// stage makes the next device of the group, with a push of these rows.
func (g *pushGroup) stage(t *testing.T, rows ...oversync.PushRequestRow) {
	t.Helper()
	g.stageFrom(t, newDevice(t, g.service, "anna", fmt.Sprint("device-", len(g.devices))), rows...)
}

// stageFrom is stage for a device that is there.
func (g *pushGroup) stageFrom(t *testing.T, d *device, rows ...oversync.PushRequestRow) {
	t.Helper()
	session, err := d.stage(t.Context(), rows...)
	require.NoError(t, err)
	g.devices, g.sessions = append(g.devices, d), append(g.sessions, session.PushID)
}

// commit begins to commit the push of the next device.
func (g *pushGroup) commit(ctx context.Context) {
	i, result := len(g.outcomes), make(chan outcome, 1)
	g.outcomes = append(g.outcomes, result)
	go func() {
		committed, err := g.service.CommitPushSession(ctx, g.devices[i].actor, g.sessions[i])
		result <- outcome{committed, err}
	}()
}

// whileHeld runs a function while the scope's row is locked by somebody else.
func (g *pushGroup) whileHeld(t *testing.T, run func()) {
	t.Helper()
	lock, err := g.outside.Begin(t.Context())
	require.NoError(t, err)
	_, err = lock.Exec(t.Context(), "SELECT FROM sync.user_state WHERE user_id = 'anna' FOR UPDATE")
	require.NoError(t, err)
	run()
	require.NoError(t, lock.Rollback(t.Context()))
}

// waitForLock waits until a commit waits for the scope in the database: it is the
// first of its group then.
func (g *pushGroup) waitForLock(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		return scalar[bool](t, g.outside, "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
	}, time.Minute, time.Millisecond)
}

// waitForOthers waits until so many pushes wait behind the first.
func (g *pushGroup) waitForOthers(t *testing.T, count int) {
	t.Helper()
	require.Eventually(t, func() bool { return oversync.WaitingCommits(g.service, "anna") == count }, time.Minute, time.Millisecond)
}

// commitAll commits all pushes at once, in their order, and returns how many pushes
// each transaction committed.
func (g *pushGroup) commitAll(t *testing.T) []int {
	t.Helper()
	g.recorder.take()
	g.whileHeld(t, func() {
		g.commit(t.Context())
		g.waitForLock(t)
		for len(g.outcomes) < len(g.devices) {
			g.commit(t.Context())
			g.waitForOthers(t, len(g.outcomes)-1)
		}
	})
	g.results = nil
	for _, result := range g.outcomes {
		g.results = append(g.results, <-result)
	}
	return g.transactions()
}

// transactions returns how many pushes each transaction since the last look
// committed.
func (g *pushGroup) transactions() (pushes []int) {
	_, timings := g.recorder.take()
	for _, timing := range timings {
		if timing.Operation == "push_commit" && timing.Stage == "commit" && !timing.Error {
			pushes = append(pushes, timing.Count)
		}
	}
	return pushes
}

func (g *pushGroup) requireSound(t *testing.T) {
	t.Helper()
	if scalar[int](t, g.outside, "SELECT count(*) FROM app.tasks") == 0 { // it knows notes alone
		requireSoundLog(t, g.outside)
	}
	require.Zero(t, scalar[int](t, g.outside, "SELECT count(*) FROM sync.verify('anna')"))
}

func inTable(table string, row oversync.PushRequestRow) oversync.PushRequestRow {
	row.Table = table
	return row
}

// TestPushesThatWaitForEachOtherAreCommittedTogether commits pushes of all kinds in
// one transaction, and requires what the same pushes one after the other make.
func TestPushesThatWaitForEachOtherAreCommittedTogether(t *testing.T) {
	t.Parallel()
	pushes := [][]oversync.PushRequestRow{
		{insertNote(10, "new")},
		{updateNote(1, 1, "changed")},
		{inTable("tasks", insertNote(20, "with a trigger"))},
		{noteRow(oversync.OpDelete, 2, 1, "")},
		{insertNote(11, "several"), inTable("tasks", insertNote(21, "and a trigger")), updateNote(3, 1, "also")},
		{inTable("tasks", insertNote(22, "again"))},
		{insertNote(12, "last")},
	}
	pushes[3][0].Payload = nil

	together, apart := newPushGroup(t), newPushGroup(t)
	for _, rows := range pushes {
		together.stage(t, rows...)
	}
	require.Equal(t, []int{4, 3}, together.commitAll(t))

	for i, outcome := range together.results {
		require.NoError(t, outcome.err)
		require.Equal(t, int64(i+2), outcome.committed.BundleSeq)
		require.Equal(t, together.devices[i].actor.SourceID, outcome.committed.SourceID)
		newDevice(t, apart.service, "anna", together.devices[i].actor.SourceID).mustPush(t, pushes[i]...)
	}
	reader := oversync.Actor{UserID: "anna", SourceID: "reader"}
	have := (&device{service: together.service, actor: reader}).mustPull(t)
	require.Equal(t, (&device{service: apart.service, actor: reader}).mustPull(t), have)
	require.Len(t, have, len(pushes)+1)
	require.Equal(t, scalar[string](t, apart.outside, stateOfAnna), scalar[string](t, together.outside, stateOfAnna))
	together.requireSound(t)
}

// TestPushesOfOneRowAreAppliedAtOnce commits pushes that have nothing to do with
// each other by one statement, and requires what the same pushes one after the other
// make.
func TestPushesOfOneRowAreAppliedAtOnce(t *testing.T) {
	t.Parallel()
	gone := noteRow(oversync.OpDelete, 2, 1, "")
	gone.Payload = nil
	pushes := []oversync.PushRequestRow{
		insertNote(10, "new"), updateNote(1, 1, "changed"), insertNote(11, "new too"), gone, updateNote(3, 1, "as well"), insertNote(12, "last"),
	}
	together, apart := newPushGroup(t), newPushGroup(t)
	for _, row := range pushes {
		together.stage(t, row)
	}
	require.Equal(t, []int{6}, together.commitAll(t))
	for i, outcome := range together.results {
		require.NoError(t, outcome.err)
		require.Equal(t, int64(i+2), outcome.committed.BundleSeq)
		require.Equal(t, newDevice(t, apart.service, "anna", together.devices[i].actor.SourceID).mustPush(t, pushes[i]), outcome.committed)
	}
	reader := oversync.Actor{UserID: "anna", SourceID: "reader"}
	have := (&device{service: together.service, actor: reader}).mustPull(t)
	require.Equal(t, (&device{service: apart.service, actor: reader}).mustPull(t), have)
	require.Equal(t, scalar[string](t, apart.outside, stateOfAnna), scalar[string](t, together.outside, stateOfAnna))
	together.requireSound(t)
}

// TestEachOfAGroupIsToldOfItsOwnBundle commits pushes at once whose rows come in
// another order than that of their keys, sources or numbers.
func TestEachOfAGroupIsToldOfItsOwnBundle(t *testing.T) {
	t.Parallel()
	const devices = 16
	g := newPushGroup(t)
	var want []oversync.BundleRow
	for i := range devices {
		key := i * 7 % devices
		d := newDevice(t, g.service, "anna", fmt.Sprint("device-", i*5%devices))
		version := int64(0)
		for n := range i % 4 { // so that each has a number of its own
			version = d.mustPush(t, noteRow([]string{oversync.OpInsert, oversync.OpUpdate}[min(n, 1)], 100+key, version, fmt.Sprint("before ", n))).BundleSeq
		}
		row := noteRow([]string{oversync.OpInsert, oversync.OpUpdate}[min(i%4, 1)], 100+key, version, fmt.Sprint("by ", i))
		effect := oversync.BundleRow{Schema: "app", Table: "notes", Key: row.Key, Op: row.Op, Payload: fmt.Appendf(nil, `{"id":%q,"title":"by %d","stars":0}`, row.Key["id"], i)}
		if i%4 == 3 {
			row.Op, row.Payload = oversync.OpDelete, nil
			effect.Op, effect.Payload = row.Op, nil
		}
		want = append(want, effect)
		g.stageFrom(t, d, row)
	}
	newest := scalar[int64](t, g.outside, "SELECT next_bundle_seq - 1 FROM sync.user_state")
	require.Equal(t, []int{devices}, g.commitAll(t))
	reader := &device{service: g.service, actor: oversync.Actor{UserID: "anna", SourceID: "reader"}, pulled: newest}
	for i, bundle := range reader.mustPull(t) {
		want[i].RowVersion = newest + int64(i) + 1
		var payload any
		if want[i].Payload != nil {
			require.JSONEq(t, string(want[i].Payload), string(bundle.Rows[0].Payload))
			require.NoError(t, json.Unmarshal(want[i].Payload, &payload))
			want[i].Payload = bundle.Rows[0].Payload
		}
		canonical, err := json.Marshal([]any{map[string]any{
			"key": want[i].Key, "op": want[i].Op, "payload": payload, "row_ordinal": 0, "row_version": want[i].RowVersion, "schema": "app", "table": "notes",
		}})
		require.NoError(t, err)
		committed := oversync.PushSessionCommitResponse{
			BundleSeq: want[i].RowVersion, SourceID: g.devices[i].actor.SourceID, SourceBundleID: int64(i%4) + 1, RowCount: 1,
			BundleHash: fmt.Sprintf("%x", sha256.Sum256(canonical)),
		}
		require.NoError(t, g.results[i].err)
		require.Equal(t, &committed, g.results[i].committed)
		require.Equal(t, oversync.Bundle{
			BundleSeq: committed.BundleSeq, SourceID: committed.SourceID, SourceBundleID: committed.SourceBundleID, RowCount: 1,
			BundleHash: committed.BundleHash, Rows: []oversync.BundleRow{want[i]},
		}, bundle)
		require.EqualValues(t, len(canonical), scalar[int64](t, g.outside, "SELECT byte_count FROM sync.bundle_log WHERE bundle_seq = $1", bundle.BundleSeq))
	}
	require.EqualValues(t, newest+devices, reader.pulled)
	g.requireSound(t)
}

const stateOfAnna = `SELECT row_to_json(u)::text FROM (SELECT next_bundle_seq, live_row_count, live_byte_count, bundle_byte_count FROM sync.user_state WHERE user_id = 'anna') AS u`

// TestARefusedPushLeavesTheOthersAlone has pushes in a group that are refused, each
// for a reason of its own.
func TestARefusedPushLeavesTheOthersAlone(t *testing.T) {
	t.Parallel()
	g := newPushGroup(t)
	g.stage(t, insertNote(10, "good"))
	g.stage(t, updateNote(1, 7, "conflict"))
	g.stage(t, insertNote(11, "good"))
	g.stage(t, oversync.PushRequestRow{Schema: "app", Table: "notes", Key: oversync.SyncKey{"id": noteID(12)}, Op: oversync.OpInsert, Payload: []byte(`{"title":null}`)})
	g.stage(t, insertNote(13, "good"))
	g.stage(t, insertNote(14, "not there any more"))
	require.NoError(t, g.service.DeletePushSession(t.Context(), g.devices[5].actor, g.sessions[5]))

	for range 2 { // what was refused stays staged, and is refused again
		g.outcomes = nil
		g.commitAll(t)
		for i, outcome := range g.results {
			switch i {
			case 1:
				require.EqualValues(t, 1, requireAs[*oversync.PushConflictError](t, outcome.err).Conflict.ServerRowVersion)
			case 3:
				require.Equal(t, "title", requireAs[*oversync.PushRejectedError](t, outcome.err).Rejection.Column)
			case 5:
				requireType[*oversync.PushSessionNotFoundError](t, outcome.err)
			default:
				if outcome.err != nil { // the second time
					requireType[*oversync.PushSessionNotFoundError](t, outcome.err)
				}
			}
		}
		g.requireSound(t)
	}
	require.Equal(t, 4, scalar[int](t, g.outside, "SELECT count(*) FROM sync.bundle_log"))
	require.Equal(t, 2, scalar[int](t, g.outside, "SELECT count(*) FROM sync.push_sessions"))
}

// TestAClientThatLeavesAGroup lets the client go that a group began with, and
// another one of it, while all wait.
func TestAClientThatLeavesAGroup(t *testing.T) {
	t.Parallel()
	g := newPushGroup(t)
	for i := range 6 {
		g.stage(t, insertNote(10+i, "x"))
	}
	first, leaveFirst := context.WithCancel(t.Context())
	third, leaveThird := context.WithCancel(t.Context())
	g.whileHeld(t, func() {
		g.commit(first)
		g.waitForLock(t)
		for i := 1; i < len(g.devices); i++ {
			if i == 2 {
				g.commit(third)
			} else {
				g.commit(t.Context())
			}
			g.waitForOthers(t, i)
		}
		leaveThird()
		require.ErrorIs(t, (<-g.outcomes[2]).err, context.Canceled)
		leaveFirst()
		require.ErrorIs(t, (<-g.outcomes[0]).err, context.Canceled)
	})
	for _, i := range []int{1, 3, 4, 5} {
		require.NoError(t, (<-g.outcomes[i]).err)
	}
	for _, i := range []int{0, 2} {
		_, err := g.devices[i].push(t.Context(), insertNote(10+i, "x"))
		require.NoError(t, err)
	}
	require.Equal(t, 7, scalar[int](t, g.outside, "SELECT count(*) FROM sync.bundle_log"))
	g.requireSound(t)
}

// TestAGroupThatIsLostDuringItsCommit ends the connection as the last push of a
// group is entered, when COMMIT is already on its way. Nobody knows then whether it
// was done, so nobody may be told that it was not.
func TestAGroupThatIsLostDuringItsCommit(t *testing.T) {
	t.Parallel()
	g := newPushGroup(t)
	for i := range 3 {
		g.stage(t, insertNote(10+i, "x"))
	}
	exec(t, g.outside, `
		CREATE SEQUENCE app.losses;
		CREATE FUNCTION app.lose() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF nextval('app.losses') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
			RETURN NULL;
		END $$;
		CREATE TRIGGER lose AFTER INSERT ON sync.bundle_log FOR EACH ROW WHEN (NEW.source_id = 'device-2') EXECUTE FUNCTION app.lose();`)
	g.whileHeld(t, func() {
		for i := range g.devices {
			g.commit(t.Context())
			if i == 0 {
				g.waitForLock(t)
			}
			g.waitForOthers(t, i)
		}
	})
	for i, result := range g.outcomes {
		outcome := <-result
		require.ErrorContains(t, outcome.err, "lost during the commit")
		require.Nil(t, outcome.committed)
		_, err := g.devices[i].push(t.Context(), insertNote(10+i, "x"))
		require.NoError(t, err)
	}
	require.Equal(t, 4, scalar[int](t, g.outside, "SELECT count(*) FROM sync.bundle_log"))
	g.requireSound(t)
}

// TestALargePushIsNotPartOfAGroup checks that nobody waits for one, and that little
// is done in vain.
func TestALargePushIsNotPartOfAGroup(t *testing.T) {
	t.Parallel()
	large := func(first int) (rows []oversync.PushRequestRow) {
		for i := range 100 {
			rows = append(rows, insertNote(first+i, "x"))
		}
		return rows
	}
	g := newPushGroup(t)
	g.stage(t, large(1000)...)
	g.stage(t, insertNote(10, "x"))
	g.stage(t, large(2000)...)
	for i := range 10 {
		g.stage(t, insertNote(20+i, "x"))
	}
	require.Equal(t, []int{1, 1, 1, 10}, g.commitAll(t), "two large pushes, with a small one between them, and small ones")
	for i, outcome := range g.results {
		require.NoError(t, outcome.err, "device %d", i)
	}
	g.requireSound(t)
}

// TestAGroupWhoseTransactionIsAborted checks that nobody is told of a commit where
// the transaction failed just after the next push was left alone: its COMMIT is
// answered by ROLLBACK, which is no error.
func TestAGroupWhoseTransactionIsAborted(t *testing.T) {
	t.Parallel()
	g := newPushGroup(t)
	exec(t, g.outside, `ALTER FUNCTION sync.push_commit RENAME TO push_commit_as_it_is`)
	exec(t, g.outside, `CREATE FUNCTION sync.push_commit(p_push_id uuid, p_user_id text, p_source_id text, p_max_rows bigint, p_lease_ttl interval, p_planned_at_most bigint)
		RETURNS TABLE (bundle_seq bigint, source_bundle_id bigint, row_count bigint, live_row_delta bigint, bytes_before bigint) LANGUAGE plpgsql AS $$
		BEGIN
			IF p_planned_at_most <= 100 THEN
				-- Which may not read the rows of a bundle, as the next statement does.
				PERFORM set_config('role', 'pg_read_all_stats', true);
			ELSE
				RETURN QUERY SELECT c.* FROM sync.push_commit_as_it_is(p_push_id, p_user_id, p_source_id, p_max_rows, p_lease_ttl, p_planned_at_most) AS c;
			END IF;
		END $$`)
	for n := range 3 { // which are not applied at once
		g.stage(t, inTable("tasks", insertNote(10+n, "x")))
	}
	require.Equal(t, []int{1, 1, 1}, g.commitAll(t))
	for i, outcome := range g.results {
		require.NoError(t, outcome.err, "device %d", i)
	}
	require.Equal(t, 4, scalar[int](t, g.outside, "SELECT count(*) FROM sync.bundle_log"))
	g.requireSound(t)
}
