package e2e_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// manyUsers makes pushed rows whose order is neither that of their keys nor that of their names.
func manyUsers(n int) []change {
	changes := make([]change, n)
	for i := range changes {
		changes[i] = insert("users", newID(), object{"name": fmt.Sprint("user ", i*7919%n), "email": everything})
	}
	return changes
}

func changeNames(changes []change) []string {
	all := make([]string, len(changes))
	for i, c := range changes {
		all[i] = c.Table + " " + c.Key["id"]
	}
	return all
}

// sorted returns a sorted copy. (require.ElementsMatch compares each with each, which is too slow for 20,000.)
func sorted(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return list
}

// TestPushSizes pushes around the size of a chunk and far above it, and reads the bundle in each way there is.
func TestPushSizes(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	for _, size := range []int{1, 999, 1000, 1001, 20_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			c := s.initialized(t, fmt.Sprint("user of ", size), "source")
			rows := manyUsers(size)
			b := c.push(1, rows...) // in chunks of 1,000
			require.Equal(t, int64(size), b.RowCount)
			require.Equal(t, changeNames(rows), names(b.Rows), "the rows come back in the order pushed")
			require.Equal(t, everything, payloadOf(t, b.Rows[size-1])["email"])
			require.Equal(t, []bundle{b}, c.pull(0, 1000))
			require.Equal(t, b, c.committed(1, 5000))

			snap := c.snapshot()
			require.Equal(t, int64(size), snap.RowCount)
			require.Equal(t, sorted(names(b.Rows)), sorted(names(c.snapshotRows(snap, 1000))))

			removed := make([]change, size)
			for i, row := range rows {
				removed[size-1-i] = remove("users", row.Key["id"], 1)
			}
			gone := c.push(2, removed...)
			require.Equal(t, changeNames(removed), names(gone.Rows))
			require.Zero(t, c.snapshot().RowCount)
		})
	}
}

// TestCommittedRowsPages reads a bundle in pages of every size.
func TestCommittedRowsPages(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	c := s.initialized(t, "ann", "source")
	b := c.push(1, manyUsers(7)...)
	for size := 1; size <= 8; size++ {
		require.Equal(t, b, c.committed(1, size))
	}
	var page struct {
		Rows    []effect `json:"rows"`
		Next    int64    `json:"next_row_ordinal"`
		HasMore bool     `json:"has_more"`
	}
	c.ok(http.MethodGet, "/sync/committed-bundles/1/rows?after_row_ordinal=6&max_rows=3", nil, &page)
	require.Empty(t, page.Rows)
	require.Equal(t, int64(6), page.Next, "the ordinal asked for when there is nothing after it")
	require.False(t, page.HasMore)
	c.ok(http.MethodGet, "/sync/committed-bundles/1/rows?max_rows=100000", nil, &page) // lowered to the capability
	require.Len(t, page.Rows, 7)
	c.refused(http.MethodGet, "/sync/committed-bundles/2/rows", nil, 404, "committed_bundle_not_found")
	c.refused(http.MethodGet, "/sync/committed-bundles/1/rows?max_rows=0", nil, 400, "committed_bundle_chunk_invalid")
	c.refused(http.MethodGet, "/sync/committed-bundles/1/rows?after_row_ordinal=x", nil, 400, "committed_bundle_chunk_invalid")
}

// TestChunks checks what a session takes and what not.
func TestChunks(t *testing.T) {
	t.Parallel()
	s := startServer(t, "OVERSYNC_MAX_ROWS_PER_PUSH_CHUNK=3")
	c := s.initialized(t, "ann", "source")
	rows := manyUsers(5)
	pushID := c.open(1, 5)
	chunks := "/sync/push-sessions/" + pushID + "/chunks"
	commit := "/sync/push-sessions/" + pushID + "/commit"
	chunk := func(start int, rows ...change) object { return object{"start_row_ordinal": start, "rows": rows} }

	c.refused(http.MethodPost, chunks, chunk(0, rows[:4]...), 400, "push_chunk_invalid") // too many for a chunk
	c.refused(http.MethodPost, chunks, chunk(0), 400, "push_chunk_invalid")
	c.refused(http.MethodPost, chunks, chunk(-1, rows[0]), 400, "push_chunk_invalid")
	c.refused(http.MethodPost, chunks, chunk(1, rows[1]), 409, "push_chunk_out_of_order")
	c.refused(http.MethodPost, chunks, chunk(0, rows[0], rows[0]), 400, "push_chunk_invalid") // a row twice
	shouted := rows[0]
	shouted.Key = map[string]string{"id": strings.ToUpper(rows[0].Key["id"])}
	c.refused(http.MethodPost, chunks, chunk(0, rows[0], shouted), 400, "push_chunk_invalid")
	bad := map[string]change{
		"unregistered table": {Schema: "sync", Table: "user_state", Key: map[string]string{"id": newID()}, Op: "DELETE"},
		"bad operation":      {Schema: "demo", Table: "users", Key: map[string]string{"id": newID()}, Op: "MERGE"},
		"bad key":            insert("users", "not a uuid", object{"name": "x"}),
		"further key":        {Schema: "demo", Table: "users", Key: map[string]string{"id": newID(), "name": "x"}, Op: "DELETE"},
		"payload of DELETE":  {Schema: "demo", Table: "users", Key: map[string]string{"id": newID()}, Op: "DELETE", Payload: object{"name": "x"}},
		"no payload":         {Schema: "demo", Table: "users", Key: map[string]string{"id": newID()}, Op: "INSERT"},
		"array as payload":   {Schema: "demo", Table: "users", Key: map[string]string{"id": newID()}, Op: "INSERT", Payload: []int{1}},
		"unknown column":     insert("users", newID(), object{"name": "x", "nickname": "x"}),
		"scope column":       insert("users", newID(), object{"name": "x", "_sync_scope_id": "bob"}),
		"column twice":       insert("users", newID(), object{"name": "x", "NAME": "y"}),
		"another key inside": insert("users", newID(), object{"id": newID(), "name": "x"}),
		"bad base64":         insert("files", newID(), object{"post_id": newID(), "name": "x", "content": "*"}),
	}
	for name, row := range bad {
		t.Run(name, func(t *testing.T) {
			c.refused(http.MethodPost, chunks, chunk(0, row), 400, "push_chunk_invalid")
		})
	}

	var next struct {
		Next int `json:"next_expected_row_ordinal"`
	}
	c.ok(http.MethodPost, chunks, chunk(0, rows[:3]...), &next)
	require.Equal(t, 3, next.Next)
	c.refused(http.MethodPost, chunks, chunk(0, rows[:3]...), 409, "push_chunk_out_of_order") // its answer was lost
	c.refused(http.MethodPost, commit, nil, 400, "push_commit_invalid")
	c.refused(http.MethodPost, chunks, chunk(3, manyUsers(3)...), 400, "push_chunk_invalid") // more than planned
	c.ok(http.MethodPost, chunks, chunk(3, rows[3], rows[0]), nil)                           // a row twice, in two chunks
	c.refused(http.MethodPost, commit, nil, 400, "push_commit_invalid")

	c.ok(http.MethodDelete, "/sync/push-sessions/"+pushID, nil, nil)
	c.refused(http.MethodPost, commit, nil, 404, "push_session_not_found")
	c.refused(http.MethodPost, "/sync/push-sessions/no-uuid/commit", nil, 404, "push_session_not_found")

	// The same tuple again: a session takes the place of an older one.
	old := c.stage(1, 3, rows[:2])
	b := c.commit(c.stage(1, 3, rows))
	require.Equal(t, changeNames(rows), names(b.Rows))
	c.refused(http.MethodPost, "/sync/push-sessions/"+old+"/commit", nil, 404, "push_session_not_found")

	// And once committed, its announcement is answered with the bundle.
	var replay struct {
		Status   string `json:"status"`
		Seq      int64  `json:"bundle_seq"`
		RowCount int64  `json:"row_count"`
		Hash     string `json:"bundle_hash"`
	}
	c.ok(http.MethodPost, "/sync/push-sessions", object{"source_bundle_id": 1, "planned_row_count": 1}, &replay)
	require.Equal(t, "already_committed", replay.Status)
	require.Equal(t, b.Seq, replay.Seq)
	require.Equal(t, b.RowCount, replay.RowCount)
	require.Equal(t, b.Hash, replay.Hash)
}

// TestOrderOfABundle checks that rows come back as pushed although they are applied parents first, and that effects
// which the push did not name follow them.
func TestOrderOfABundle(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	c := s.initialized(t, "ann", "source")
	user, gone, post, cascaded, team, captain := newID(), newID(), newID(), newID(), newID(), newID()
	c.push(1,
		insert("users", gone, object{"name": "gone"}),
		insert("posts", cascaded, object{"author_id": gone, "title": "cascaded"}),
		insert("files", cascaded, object{"post_id": cascaded, "name": "cascaded", "content": "AAE="}),
		insert("categories", "doomed", object{"name": "doomed"}),
		insert("categories", "child", object{"name": "child", "parent_id": "doomed"}),
	)
	pushed := []change{
		insert("files", post, object{"post_id": post, "name": "child first", "content": ""}),
		remove("users", gone, 1),
		insert("posts", post, object{"author_id": user, "title": "then its parent"}),
		insert("members", captain, object{"team_id": team, "name": "captain"}),
		remove("categories", "doomed", 1),
		insert("users", user, object{"name": "then the root"}),
		insert("teams", team, object{"name": "team", "captain_id": captain}),
	}
	b := c.push(2, pushed...)
	require.Equal(t, changeNames(pushed), names(b.Rows)[:len(pushed)])
	follow := sorted(names(b.Rows)[len(pushed):])
	require.Equal(t, []string{"categories child", "files " + cascaded, "posts " + cascaded}, follow)
	for _, row := range b.Rows[len(pushed):] {
		require.Equal(t, "DELETE", row.Op)
	}

	// A push of which nothing is left is refused, and one that changes nothing is an effect.
	c.pushRefused(3, 409, "push_conflict", remove("users", newID(), 0))
	same := c.push(3, update("users", user, 2, object{}))
	require.Equal(t, []string{"users " + user}, names(same.Rows))
	require.Equal(t, "then the root", payloadOf(t, same.Rows[0])["name"])
}

// seatsSQL is a table with a rule that is checked at once, which grouping by table can break.
const seatsSQL = `
	CREATE TABLE demo.seats (_sync_scope_id text NOT NULL, id uuid NOT NULL, place text NOT NULL,
		PRIMARY KEY (_sync_scope_id, id), UNIQUE (_sync_scope_id, place));
	SELECT sync.register_table('demo.seats', sync_key => 'id');
	CREATE TABLE demo.late_seats (_sync_scope_id text NOT NULL, id uuid NOT NULL, place text NOT NULL,
		PRIMARY KEY (_sync_scope_id, id), UNIQUE (_sync_scope_id, place) DEFERRABLE INITIALLY DEFERRED);
	SELECT sync.register_table('demo.late_seats', sync_key => 'id')`

// TestUniqueValueMoves moves a unique value from one row to another. Grouped application refuses some of it, and push
// order allows it: so it must be committed, in whatever order the rows lie in the table.
func TestUniqueValueMoves(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.exec(t, seatsSQL)
	a, b, n := newID(), newID(), newID()
	seat := func(id, place string) change { return insert("seats", id, object{"place": place}) }
	to := func(id, place string) change { return update("seats", id, 1, object{"place": place}) }
	tests := map[string]struct {
		push    []change
		refused bool
	}{
		"free, then take":                {[]change{to(a, "3"), to(b, "1")}, false},
		"free by delete, then insert":    {[]change{remove("seats", a, 1), seat(n, "1")}, false},
		"free by delete, then update":    {[]change{remove("seats", a, 1), to(b, "1")}, false},
		"a chain":                        {[]change{to(a, "3"), to(b, "1"), seat(n, "2")}, false},
		"take without freeing":           {[]change{to(b, "1")}, true},
		"insert without freeing":         {[]change{seat(n, "1")}, true},
		"taken before it is freed later": {[]change{seat(n, "1"), remove("seats", a, 1)}, true},
	}
	for name, test := range tests {
		for order, rows := range map[string][]change{"a first": {seat(a, "1"), seat(b, "2")}, "b first": {seat(b, "2"), seat(a, "1")}} {
			t.Run(name+", "+order, func(t *testing.T) {
				t.Parallel()
				c := s.initialized(t, t.Name(), "source")
				c.push(1, rows...)
				if test.refused {
					rejection := c.pushRefused(2, 422, "push_rejected", test.push...)["rejection"].(object)
					require.Equal(t, "23505", rejection["sqlstate"])
					require.Equal(t, "seats__sync_scope_id_place_key", rejection["constraint"])
					return
				}
				require.Equal(t, changeNames(test.push), names(c.push(2, test.push...).Rows))
			})
		}
	}
	t.Run("swap under a deferrable rule", func(t *testing.T) {
		t.Parallel()
		c := s.initialized(t, t.Name(), "source")
		late := func(ch change) change { ch.Table = "late_seats"; return ch }
		c.push(1, late(seat(a, "1")), late(seat(b, "2")))
		for id, swap := range [][]change{{to(a, "2"), to(b, "1")}, {to(b, "2"), to(a, "1")}} {
			for i := range swap {
				swap[i] = late(swap[i])
				swap[i].Base = int64(id + 1)
			}
			c.push(int64(id+2), swap...)
		}
	})
}
