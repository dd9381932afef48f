package httpapi_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	oversync "github.com/oversync/oversync/sync"
)

// replace rotates the device to a new source, and returns it.
func (d device) replace(newSource, reason string) answer {
	d.t.Helper()
	return d.do("POST", "/sync/snapshot-sessions", fmt.Sprintf(
		`{"source_replacement":{"previous_source_id":%q,"new_source_id":%q,"reason":%q}}`, d.source, newSource, reason))
}

func TestPushSessionBodies(t *testing.T) {
	t.Parallel()
	d := newAPI(t, nil).device("user", "source").initialized()
	for _, body := range []string{
		`{}`, `{"source_bundle_id":1}`, `{"planned_row_count":1}`,
		`{"source_bundle_id":0,"planned_row_count":1}`, `{"source_bundle_id":-1,"planned_row_count":1}`,
		`{"source_bundle_id":1,"planned_row_count":0}`, `{"source_bundle_id":1,"planned_row_count":-1}`,
		`{"source_bundle_id":1,"planned_row_count":2147483648}`, `{"source_bundle_id":1.5,"planned_row_count":1}`,
		`{"source_bundle_id":9223372036854775808,"planned_row_count":1}`, `{"source_bundle_id":"1","planned_row_count":1}`,
		`{"source_bundle_id":1,"planned_row_count":1e3}`, `{"source_bundle_id":1,"planned_row_count":1,"initialization_id":7}`,
		`{"source_bundle_id":1,"planned_row_count":1,"initialization_id":"a\u0000b"}`,
		`{"source_bundle_id":1,"planned_row_count":1,"initialization_id":"nothing"}`,
	} {
		d.do("POST", "/sync/push-sessions", body).refused(400, "push_session_invalid", body)
	}
	d.do("POST", "/sync/push-sessions", `{"source_bundle_id":9223372036854775807,"planned_row_count":2147483647}`).refused(409, "source_sequence_out_of_order")
	d.do("POST", "/sync/push-sessions", `{"source_bundle_id":1,"planned_row_count":2147483647,"initialization_id":null}`).ok()
	got := d.create(1, 3, "")
	require.Regexp(t, `^\{"push_id":"[0-9a-f-]{36}","status":"staging","planned_row_count":3(,"next_expected_row_ordinal":0)?\}$`, got.body)
}

// Each case breaks two neighbours in the order of checks of PROTOCOL.md, section
// 5.1, and the first must be the one that is told.
func TestPushSessionChecksInOrder(t *testing.T) {
	t.Parallel()
	a := newAPI(t, func(c *oversync.ServiceConfig) { c.RetainedBundlesPerUser = 2 })
	unknown := randomID()

	t.Run("counts before what is committed", func(t *testing.T) {
		d := a.device("u1", "source").initialized()
		d.push(1, note("a", "INSERT", 0))
		d.create(1, 0, "").refused(400, "push_session_invalid")
	})
	t.Run("counts before the scope", func(t *testing.T) {
		a.device("u2", "source").create(0, 1, "").refused(400, "push_session_invalid")
	})
	t.Run("what is committed before the initialization id", func(t *testing.T) {
		d := a.device("u3", "source").initialized()
		d.push(1, note("a", "INSERT", 0))
		var hash string
		require.NoError(t, a.pool.QueryRow(t.Context(), `select encode(l.bundle_hash, 'hex') from sync.bundle_log l
			join sync.user_state u using (user_pk) where u.user_id = 'u3'`).Scan(&hash))
		for _, initialization := range []string{"", unknown, "no uuid", `a\u0000b`} {
			d.create(1, 99, initialization).is(200, `{"status":"already_committed","bundle_seq":1,"source_id":"source","source_bundle_id":1,"row_count":1,"bundle_hash":"`+hash+`"}`)
		}
	})
	t.Run("what is committed before retirement", func(t *testing.T) {
		d := a.device("u4", "source").initialized()
		d.push(1, note("a", "INSERT", 0))
		d.replace("next", "source_retired").ok()
		require.Equal(t, "already_committed", d.create(1, 1, "").text("status"))
	})
	t.Run("an uninitialized scope before the sequence", func(t *testing.T) {
		d := a.device("u5", "source")
		d.create(7, 1, "").refused(409, "scope_uninitialized")
		d.create(7, 1, unknown).refused(410, "initialization_expired")
	})
	t.Run("a scope that is being initialized before the sequence", func(t *testing.T) {
		d := a.device("u6", "source")
		initialization := d.connect(true).text("initialization_id")
		d.create(7, 1, "").refused(400, "push_session_invalid")
		d.create(7, 1, unknown).refused(409, "initialization_stale")
		d.create(7, 1, "no uuid").refused(409, "initialization_stale")
		a.device("u6", "other").create(7, 1, initialization).refused(409, "initialization_stale")
		d.create(7, 1, initialization).refused(409, "source_sequence_out_of_order")
		a.expireLease("u6")
		d.create(7, 1, "").refused(400, "push_session_invalid", "the missing id comes before the lease")
		d.create(7, 1, unknown).refused(409, "initialization_stale", "the stale id comes before the lease")
		d.create(7, 1, initialization).refused(410, "initialization_expired")
	})
	t.Run("an initialized scope before retirement and the sequence", func(t *testing.T) {
		d := a.device("u7", "source").initialized()
		d.create(7, 1, unknown).refused(400, "push_session_invalid")
		d.replace("next", "source_retired").ok()
		d.create(1, 1, unknown).refused(400, "push_session_invalid")
	})
	t.Run("retirement before the sequence", func(t *testing.T) {
		d := a.device("u8", "source").initialized()
		for n := range 4 {
			d.push(n+1, note(fmt.Sprint(n), "INSERT", 0))
		}
		d.create(1, 1, "").refused(409, "history_pruned")
		d.create(2, 1, "").refused(409, "history_pruned")
		require.Equal(t, "already_committed", d.create(3, 1, "").text("status"))
		d.create(6, 1, "").refused(409, "source_sequence_out_of_order")
		d.replace("next", "history_pruned").ok()
		for _, n := range []int{1, 5, 6} {
			d.create(n, 1, "").is(409, `{"error":"source_retired","message":"*","source_id":"source","replaced_by_source_id":"next"}`, n)
		}
		a.device("u8", "next").create(2, 1, "").refused(409, "source_sequence_out_of_order")
		require.Equal(t, 5, a.device("u8", "next").push(1, note("n", "INSERT", 0)))
	})
}

func TestANewSessionReplacesTheOld(t *testing.T) {
	t.Parallel()
	a := newAPI(t, nil)
	d := a.device("user", "source").initialized()
	old := d.staged(1, note("a", "INSERT", 0))
	d.create(1, 1, "").ok()
	d.commit(old).refused(404, "push_session_not_found")
	d.chunk(old, 0, note("a", "INSERT", 0)).refused(404, "push_session_not_found")
	// Sources do not touch each other's.
	other := a.device("user", "other")
	pushID := d.staged(1, note("a", "INSERT", 0))
	other.staged(1, note("b", "INSERT", 0))
	d.commit(pushID).ok()
}

// Sessions that cannot be used, for each step that takes one.
func TestPushSessionsOfOthersAndOfThePast(t *testing.T) {
	t.Parallel()
	a := newAPI(t, nil)
	d := a.device("user", "source").initialized()
	a1 := note("a", "INSERT", 0)
	steps := func(d device, pushID string) []answer {
		return []answer{d.chunk(pushID, 0, a1), d.commit(pushID)}
	}
	for _, pushID := range []string{randomID(), "x", "0", "%00", "a%2Fb", id(1)[:35], id(1) + "0", "{" + id(1) + "}", "urn:uuid:" + id(1), "%F0%9F%98%80", "%FF"} {
		for _, got := range steps(d, pushID) {
			got.refused(404, "push_session_not_found", pushID)
		}
	}
	for _, pushID := range []string{"x", id(1)[:35], "%00"} {
		d.do("DELETE", "/sync/push-sessions/"+pushID, "").refused(404, "push_session_not_found")
	}
	require.Equal(t, 204, d.do("DELETE", "/sync/push-sessions/"+randomID(), "").status, "deleting is best effort")

	pushID := d.create(1, 1, "").text("push_id")
	for _, stranger := range []device{a.device("user", "other"), a.device("stranger", "source").initialized(), a.device("unknown", "source")} {
		for _, got := range steps(stranger, pushID) {
			got.refused(403, "push_session_forbidden", stranger.user+" "+stranger.source)
		}
		stranger.do("DELETE", "/sync/push-sessions/"+pushID, "").refused(403, "push_session_forbidden")
	}
	for _, inOtherWords := range []string{"{" + pushID + "}", "urn:uuid:" + pushID, strings.ReplaceAll(pushID, "-", "")} {
		for _, got := range steps(d, inOtherWords) {
			got.refused(404, "push_session_not_found", inOtherWords)
		}
		d.do("DELETE", "/sync/push-sessions/"+inOtherWords, "").refused(404, "push_session_not_found")
	}
	d.chunk(pushID, 0, a1).ok()

	a.exec(`update sync.push_sessions set expires_at = clock_timestamp() - interval '1 microsecond' where push_id = $1`, pushID)
	for _, got := range steps(d, pushID) {
		got.refused(410, "push_session_expired")
	}
	// Each accepted chunk renews the session.
	pushID = d.create(1, 2, "").text("push_id")
	a.exec(`update sync.push_sessions set expires_at = clock_timestamp() + interval '1 minute' where push_id = $1`, pushID)
	d.chunk(pushID, 0, a1).ok()
	a.exec(`update sync.push_sessions set expires_at = expires_at where push_id = $1 and expires_at > clock_timestamp() + interval '14 minutes'`, pushID)
	d.chunk(pushID, 1, note("b", "INSERT", 0)).ok()
	d.commit(pushID).ok()
	for _, got := range steps(d, pushID) {
		got.refused(404, "push_session_not_found")
	}
	require.Equal(t, 204, d.do("DELETE", "/sync/push-sessions/"+pushID, "").status)
	// A deleted session is gone with its rows.
	pushID = d.staged(2, note("c", "INSERT", 0))
	got := d.do("DELETE", "/sync/push-sessions/"+pushID, "")
	require.Equal(t, "204 ", fmt.Sprint(got.status, " ", got.body))
	d.commit(pushID).refused(404, "push_session_not_found")
	var staged int
	require.NoError(t, a.pool.QueryRow(t.Context(), `select count(*) from sync.push_chunks where push_id = $1`, pushID).Scan(&staged))
	require.Zero(t, staged)
}

// serverBundle commits a bundle of a source without the HTTP interface.
func (d device) serverBundle(sourceBundleID int64, sql string) {
	d.t.Helper()
	err := d.service.WithinSyncBundle(d.t.Context(), oversync.Actor{UserID: d.user},
		oversync.BundleSource{SourceID: d.source, SourceBundleID: sourceBundleID},
		func(tx pgx.Tx) error {
			_, err := tx.Exec(d.t.Context(), sql)
			return err
		})
	require.NoError(d.t, err)
}

// What the server writes follows the rules of a device's pushes.
func TestNumbersOfServerBundles(t *testing.T) {
	t.Parallel()
	a := newAPI(t, func(c *oversync.ServiceConfig) { c.RetainedBundlesPerUser = 2 })
	d := a.device("user", "source").initialized()
	for n := range 4 {
		d.push(n+1, note(fmt.Sprint(n), "INSERT", 0))
	}
	within := func(sourceBundleID int64) error {
		return a.service.WithinSyncBundle(t.Context(), oversync.Actor{UserID: "user"}, oversync.BundleSource{SourceID: "source", SourceBundleID: sourceBundleID},
			func(pgx.Tx) error { panic("it must be refused before it runs") })
	}
	for id := int64(1); id <= 2; id++ {
		var pruned *oversync.SourceTupleHistoryPrunedError
		require.ErrorAs(t, within(id), &pruned, id)
		require.Equal(t, []int64{id, 4}, []int64{pruned.SourceBundleID, pruned.MaxCommittedSourceBundleIDHint})
	}
	for _, id := range []int64{3, 4, 6} {
		var outOfOrder *oversync.SourceSequenceOutOfOrderError
		require.ErrorAs(t, within(id), &outOfOrder, id)
		require.Equal(t, []int64{5, id}, []int64{outOfOrder.Expected, outOfOrder.Actual})
	}
	d.serverBundle(5, `insert into business.notes (id) values ('a')`)
	require.Equal(t, 5, d.create(5, 1, "").number("bundle_seq"), "which a device of that name is told of")
	d.replace("next", "history_pruned").ok()
	var retired *oversync.SourceRetiredError
	require.ErrorAs(t, within(6), &retired)
	require.Equal(t, "next", retired.ReplacedBySourceID)
}

func TestASourceThatMovedOnMeanwhile(t *testing.T) {
	t.Parallel()
	a := newAPI(t, nil)
	t.Run("its sequence changed", func(t *testing.T) {
		d := a.device("u1", "source").initialized()
		pushID := d.staged(1, note("a", "INSERT", 0))
		d.serverBundle(1, `insert into business.notes (id) values ('b')`)
		d.commit(pushID).refused(409, "source_sequence_changed")
	})
	t.Run("it was retired", func(t *testing.T) {
		d := a.device("u2", "source").initialized()
		pushID := d.staged(1, note("a", "INSERT", 0))
		d.replace("next", "source_sequence_changed").ok()
		d.commit(pushID).is(409, `{"error":"source_retired","message":"*","source_id":"source","replaced_by_source_id":"next"}`)
	})
}

// A table is unregistered while rows of it are staged, and while snapshots that have
// rows of it are read.
func TestATableIsUnregisteredMeanwhile(t *testing.T) {
	t.Parallel()
	a := newAPI(t, nil)
	d := a.device("user", "source").initialized()
	user := func(n int, name string) string { return row("users", id(n), "INSERT", 0, `{"name":"`+name+`"}`) }
	d.push(1, note("a", "INSERT", 0), user(1, "one"))
	without := a.device("stranger", "source").initialized()
	without.push(1, user(1, "one"), user(2, "two"))

	begun := func(d device) string { return d.do("POST", "/sync/snapshot-sessions", "").text("snapshot_id") }
	chunk := func(d device, snapshot string, after int) answer {
		return d.do("GET", fmt.Sprintf("/sync/snapshot-sessions/%s?after_row_ordinal=%d&max_rows=1", snapshot, after), "")
	}
	halfRead, others := begun(d), begun(without)
	chunk(d, halfRead, 0).ok()
	chunk(without, others, 0).ok()
	var staged []string
	devices := []device{a.device("user", "one row"), a.device("user", "several"), a.device("user", "not yet whole"), a.device("user", "none of it")}
	for i, rows := range [][]string{{note("b", "INSERT", 0)}, {user(2, "two"), note("a", "UPDATE", 1)}, {user(3, "three"), note("c", "INSERT", 0)}, {user(4, "four")}} {
		pushID := devices[i].create(1, len(rows), "").text("push_id")
		if devices[i].source == "not yet whole" {
			rows = rows[:1]
		}
		devices[i].chunk(pushID, 0, rows...).ok()
		staged = append(staged, pushID)
	}
	refused := func() {
		t.Helper()
		for i, pushID := range staged[:2] {
			got := devices[i].commit(pushID)
			got.refused(400, "push_commit_invalid", devices[i].source)
			require.Contains(t, got.body, "table business.notes is no longer registered")
		}
		require.Equal(t, 2, d.do("GET", "/sync/pull?after_bundle_seq=0", "").number("stable_bundle_seq"), "nothing of them is committed")
	}
	a.exec("select sync.unregister_table('business.notes')")
	require.Equal(t, 2, devices[3].commit(staged[3]).number("bundle_seq"))
	refused()
	devices[2].chunk(staged[2], 1, note("c", "INSERT", 0)).refused(400, "push_chunk_invalid")

	// What is half read would lack rows: it starts over. History stays, and so do the snapshots of others.
	chunk(d, halfRead, 1).refused(404, "snapshot_session_not_found")
	require.Equal(t, 2, chunk(d, begun(d), 1).number("next_row_ordinal"), "the two users")
	require.Equal(t, 2, chunk(without, others, 1).number("next_row_ordinal"))
	require.Contains(t, d.do("GET", "/sync/pull?after_bundle_seq=0", "").body, `"table":"notes","key":{"id":"a"},"op":"INSERT"`)

	// Registered anew it is another table, of which nothing was staged.
	a.exec("select sync.register_table('business.notes', adopt => 'later')")
	refused()
	devices[2].chunk(staged[2], 1, note("c", "INSERT", 0)).ok()
	// The server enters the row that was there before when it likes.
	require.GreaterOrEqual(t, devices[2].commit(staged[2]).number("bundle_seq"), 3)
	require.GreaterOrEqual(t, devices[0].push(1, note("b", "INSERT", 0)), 4, "pushed again")
	require.Contains(t, d.do("GET", "/sync/pull?after_bundle_seq=3", "").body, `"table":"notes","key":{"id":"b"},"op":"INSERT"`)
}
