package e2e_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func replacement(previous, next, reason string) object {
	return object{"source_replacement": object{"previous_source_id": previous, "new_source_id": next, "reason": reason}}
}

// TestSourceSequence checks the numbers of a source's pushes.
func TestSourceSequence(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.client(t, "ann", "a").refused(http.MethodPost, "/sync/push-sessions",
		object{"source_bundle_id": 1, "planned_row_count": 1}, 409, "scope_uninitialized")
	a := s.initialized(t, "ann", "a")
	for _, bad := range []object{{"source_bundle_id": 0, "planned_row_count": 1}, {"source_bundle_id": 1, "planned_row_count": 0}, {}} {
		a.refused(http.MethodPost, "/sync/push-sessions", bad, 400, "push_session_invalid")
	}
	a.refused(http.MethodPost, "/sync/push-sessions", object{"source_bundle_id": 2, "planned_row_count": 1}, 409, "source_sequence_out_of_order")
	require.Equal(t, int64(1), a.push(1, manyUsers(1)...).SourceBundleID)
	require.Equal(t, int64(2), a.push(2, manyUsers(1)...).SourceBundleID)
	b := a.as("b").push(1, manyUsers(1)...)
	require.Equal(t, int64(3), b.Seq, "one sequence for all sources of the scope")
	require.Equal(t, int64(1), b.SourceBundleID, "a number for each source")
	a.refused(http.MethodPost, "/sync/push-sessions", object{"source_bundle_id": 4, "planned_row_count": 1}, 409, "source_sequence_out_of_order")
}

// TestSourceRotation walks a source from active through its replacement, and every way to ask for one wrongly.
func TestSourceRotation(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	old := s.initialized(t, "ann", "old")
	rows := manyUsers(2)
	old.push(1, rows...)
	const sessions, reason = "/sync/snapshot-sessions", "source_sequence_changed"

	for _, bad := range []object{
		replacement("another", "new", reason), // not the caller's
		replacement("old", "old", reason),
		replacement("old", "", reason),
		replacement("old", "new", "no reason"),
	} {
		old.refused(http.MethodPost, sessions, bad, 400, "snapshot_session_invalid")
	}
	old.as("known").push(1, manyUsers(1)...)
	old.refused(http.MethodPost, sessions, replacement("old", "known", reason), 409, "source_replacement_invalid")

	staged := old.stage(2, 1000, manyUsers(1)) // a push under way when the source is retired
	var first, again snapshot
	old.ok(http.MethodPost, sessions, replacement("old", "new", reason), &first)
	require.Equal(t, int64(3), first.RowCount)
	old.ok(http.MethodPost, sessions, replacement("old", "new", reason), &again) // its answer was lost
	require.Equal(t, int64(3), again.RowCount)
	require.Len(t, old.snapshotRows(again, 2), 3)

	// A retired source reads on and writes no more.
	retired := old.refused(http.MethodPost, "/sync/push-sessions", object{"source_bundle_id": 2, "planned_row_count": 1}, 409, "source_retired")
	require.Equal(t, []any{"old", "new"}, []any{retired["source_id"], retired["replaced_by_source_id"]})
	old.refused(http.MethodPost, "/sync/push-sessions/"+staged+"/commit", nil, 409, "source_retired")
	retired = old.refused(http.MethodPost, sessions, replacement("old", "third", reason), 409, "source_retired")
	require.Equal(t, "new", retired["replaced_by_source_id"])
	require.Len(t, old.pull(0, 1000), 2)
	require.Equal(t, int64(3), old.snapshot().RowCount)
	var replay object
	old.ok(http.MethodPost, "/sync/push-sessions", object{"source_bundle_id": 1, "planned_row_count": 2}, &replay)
	require.Equal(t, "already_committed", replay["status"], "what was committed stays so")

	// The new one is reserved, starts at 1, and is active from then on.
	state := func(source string) string {
		var state string
		require.NoError(t, s.connect(t).QueryRow(t.Context(), `SELECT state::text FROM sync.source_state WHERE source_id = $1`, source).Scan(&state))
		return state
	}
	next := old.as("new")
	require.Equal(t, "reserved", state("new"))
	next.refused(http.MethodPost, "/sync/push-sessions", object{"source_bundle_id": 2, "planned_row_count": 1}, 409, "source_sequence_out_of_order")
	require.Equal(t, int64(1), next.push(1, update("users", rows[0].Key["id"], 1, object{"name": "by the new one"})).SourceBundleID)
	require.Equal(t, "active", state("new"))
	require.Equal(t, "retired", state("old"))

	// When the new one is retired too, the old replacement can no longer be repeated.
	next.ok(http.MethodPost, sessions, replacement("new", "newest", "history_pruned"), nil)
	old.refused(http.MethodPost, sessions, replacement("old", "new", reason), 409, "source_replacement_invalid")
}

// TestDeviceRotates gives a device's file a number that the server does not expect, as when a file is restored from a
// copy, and checks that the device goes on as a fresh source.
func TestDeviceRotates(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	for name, number := range map[string]int{"ahead": 7, "retired": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := s.phone(t, t.Name())
			p.write(t, `INSERT INTO users (id, name) VALUES (?, 'first')`, newID())
			syncAll(t, p)
			before, err := p.State(t.Context())
			require.NoError(t, err)
			if name == "retired" { // by a copy of the file
				s.client(t, p.user, before.SourceID).ok(http.MethodPost, "/sync/snapshot-sessions",
					replacement(before.SourceID, "the copy's", "source_sequence_changed"), nil)
			}
			p.write(t, `UPDATE _sync_state SET next_source_bundle_id = ?`, number)
			p.write(t, `INSERT INTO users (id, name) VALUES (?, 'second')`, newID())
			syncAll(t, p)
			after, err := p.State(t.Context())
			require.NoError(t, err)
			require.NotEqual(t, before.SourceID, after.SourceID)
			require.Equal(t, int64(2), after.NextSourceBundleID)
			require.Len(t, p.contents(t), 2)
			s.requireConverged(t, p)
		})
	}
}

// TestLifeOfAScope walks a scope from uninitialized to initialized, with two devices that both have rows.
func TestLifeOfAScope(t *testing.T) {
	t.Parallel()
	s := startServer(t, "OVERSYNC_INITIALIZATION_LEASE_TTL=1h")
	a := s.client(t, "ann", "a")
	b := a.as("b")
	type answer struct {
		Resolution string `json:"resolution"`
		ID         string `json:"initialization_id"`
		Expires    string `json:"lease_expires_at"`
		RetryAfter int    `json:"retry_after_seconds"`
	}
	connect := func(c *client, pending bool) (got answer) {
		c.ok(http.MethodPost, "/sync/connect", object{"has_local_pending_rows": pending}, &got)
		return got
	}
	open := func(id string) object {
		return object{"source_bundle_id": 1, "planned_row_count": 1, "initialization_id": id}
	}
	const push = "/sync/push-sessions"

	a.refused(http.MethodGet, "/sync/pull", nil, 409, "scope_uninitialized")
	a.refused(http.MethodPost, push, open(newID()), 410, "initialization_expired")
	lease := connect(a, true)
	require.Equal(t, "initialize_local", lease.Resolution)
	require.Equal(t, lease.ID, connect(a, true).ID, "the holder renews its lease")
	later := connect(b, true)
	require.Equal(t, "retry_later", later.Resolution)
	require.GreaterOrEqual(t, later.RetryAfter, 1)
	require.NotEmpty(t, later.Expires)
	require.Empty(t, later.ID)
	b.refused(http.MethodGet, "/sync/pull", nil, 409, "scope_initializing")
	b.refused(http.MethodPost, "/sync/snapshot-sessions", nil, 409, "scope_initializing")
	b.refused(http.MethodPost, push, open(newID()), 409, "initialization_stale")
	a.refused(http.MethodPost, push, object{"source_bundle_id": 1, "planned_row_count": 1}, 400, "push_session_invalid")

	var session struct {
		PushID string `json:"push_id"`
	}
	a.ok(http.MethodPost, push, open(lease.ID), &session)
	a.ok(http.MethodPost, push+"/"+session.PushID+"/chunks", object{"start_row_ordinal": 0, "rows": manyUsers(1)}, nil)
	require.Equal(t, int64(1), a.commit(session.PushID).Seq)
	require.Equal(t, "remote_authoritative", connect(b, true).Resolution)
	var replay object
	a.ok(http.MethodPost, push, open(lease.ID), &replay)
	require.Equal(t, "already_committed", replay["status"], "a first push whose answer was lost is replayed with its id")
	b.refused(http.MethodPost, push, open(lease.ID), 400, "push_session_invalid")

	// A lease that ends is free for the next.
	x := s.client(t, "bob", "x")
	expired := connect(x, true)
	s.exec(t, `UPDATE sync.user_state SET lease_expires_at = clock_timestamp() WHERE user_id = 'bob'`)
	x.refused(http.MethodPost, push, open(expired.ID), 410, "initialization_expired")
	require.Equal(t, "initialize_local", connect(x.as("y"), true).Resolution)
	x.refused(http.MethodPost, push, open(expired.ID), 409, "initialization_stale")
	require.Equal(t, "initialize_empty", connect(x.as("y"), false).Resolution)
	require.Equal(t, "remote_authoritative", connect(x, true).Resolution)
}

// TestTimesAreInUTC asks a server for times whose own zone is another.
func TestTimesAreInUTC(t *testing.T) {
	t.Parallel()
	s := startServer(t, "TZ=Asia/Kolkata")
	phone := s.client(t, "ann", "phone")
	for _, c := range []*client{phone, phone.as("other")} {
		var answer struct {
			Expires string `json:"lease_expires_at"`
		}
		c.ok(http.MethodPost, "/sync/connect", object{"has_local_pending_rows": true}, &answer)
		requireInUTC(t, answer.Expires, 15*time.Minute)
	}
	var session struct {
		Expires string `json:"expires_at"`
	}
	s.initialized(t, "ben", "phone").ok(http.MethodPost, "/sync/snapshot-sessions", nil, &session)
	requireInUTC(t, session.Expires, 15*time.Minute)
}

// requireInUTC checks a time that was that far ahead a moment ago.
func requireInUTC(t *testing.T, text string, ahead time.Duration) {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, text)
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(text, "Z"), text)
	require.WithinDuration(t, time.Now().Add(ahead), at, startPatience)
}
