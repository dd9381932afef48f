package e2e_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSnapshotIsFrozen reads a snapshot in every way while others change each of its rows.
func TestSnapshotIsFrozen(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	c := s.initialized(t, "ann", "reader")
	writer := c.as("writer")
	rows := manyUsers(40)
	for i := range 8 {
		rows = append(rows, insert("categories", fmt.Sprint("c", i), object{"name": everything}))
	}
	writer.push(1, rows...)
	writer.push(2, update("users", rows[3].Key["id"], 1, object{"name": "changed before"}), remove("users", rows[4].Key["id"], 1))

	snap := c.snapshot()
	require.Equal(t, int64(2), snap.Seq)
	require.Equal(t, int64(47), snap.RowCount)
	want := c.snapshotRows(snap, 1000)
	require.Len(t, want, 47)
	require.NotContains(t, names(want), "users "+rows[4].Key["id"])
	versions := map[int64]int{}
	for _, row := range want {
		versions[row.Version]++
	}
	require.Equal(t, map[int64]int{1: 46, 2: 1}, versions)

	var writing sync.WaitGroup
	done := make(chan struct{})
	commits := 0
	writing.Go(func() {
		defer close(done)
		// A third is changed, a third goes, and new ones come; then the rest goes.
		for i, row := range rows[5:40] {
			id := row.Key["id"]
			ch := update("users", id, 1, object{"name": "changed since"})
			if i%3 == 1 {
				ch = remove("users", id, 1)
			}
			writer.push(int64(3+i), ch, insert("users", newID(), object{"name": "new"}))
			commits++
		}
	})
	sizes := []int{1, 2, 7, 46, 47, 48, 1000}
	for i, reading := 0, true; reading; i++ {
		select {
		case <-done:
			reading = false // once more, after the last
		default:
		}
		require.Equal(t, want, c.snapshotRows(snap, sizes[i%len(sizes)]))
	}
	writing.Wait()
	require.Equal(t, 35, commits)
	require.Equal(t, want, c.snapshotRows(snap, 3))

	// Any place, in any order, also past the end.
	for _, after := range []int64{46, 0, 13, 45, 12, 30, 1} {
		chunk := c.snapshotChunk(snap, after, 2)
		end := min(after+2, 47)
		require.Equal(t, want[after:end], chunk.Rows)
		require.Equal(t, end < 47, chunk.HasMore)
		require.Equal(t, chunk, c.snapshotChunk(snap, after, 2))
	}
	past := c.snapshotChunk(snap, 47, 5)
	require.NotNil(t, past.Rows)
	require.Empty(t, past.Rows)
	require.False(t, past.HasMore)

	// The snapshot and the bundles after it make the state of now.
	live := map[string]effect{}
	for _, row := range want {
		live[row.name()] = row
	}
	for _, b := range c.pull(snap.Seq, 10) {
		for _, row := range b.Rows {
			delete(live, row.name())
			if row.Op != "DELETE" {
				row.Op = ""
				live[row.name()] = row
			}
		}
	}
	now := c.as("another reader")
	for _, row := range now.snapshotRows(now.snapshot(), 10) {
		require.Equal(t, live[row.name()], row)
		delete(live, row.name())
	}
	require.Empty(t, live)
}

// TestSnapshotSessions checks the life of a session and what it refuses.
func TestSnapshotSessions(t *testing.T) {
	t.Parallel()
	s := startServer(t, "OVERSYNC_MAX_ROWS_PER_SNAPSHOT_SESSION=3", "OVERSYNC_MAX_ROWS_PER_SNAPSHOT_CHUNK=2")
	s.client(t, "nobody", "source").refused(http.MethodPost, "/sync/snapshot-sessions", nil, 409, "scope_uninitialized")
	c := s.initialized(t, "ann", "source")
	empty := c.snapshot()
	require.Zero(t, empty.Seq)
	require.Empty(t, c.snapshotRows(empty, 2))

	c.push(1, manyUsers(3)...)
	snap := c.snapshot()
	path := "/sync/snapshot-sessions/" + snap.ID
	for _, query := range []string{"?max_rows=0", "?max_rows=x", "?after_row_ordinal=-1"} {
		c.refused(http.MethodGet, path+query, nil, 400, "snapshot_chunk_invalid")
	}
	c.refused(http.MethodGet, "/sync/snapshot-sessions/no-uuid", nil, 404, "snapshot_session_not_found")
	c.refused(http.MethodGet, "/sync/snapshot-sessions/"+newID(), nil, 404, "snapshot_session_not_found")
	c.refused(http.MethodPost, "/sync/snapshot-sessions", object{"unknown": 1}, 400, "snapshot_session_invalid")
	c.ok(http.MethodDelete, path, nil, nil)
	c.refused(http.MethodGet, path, nil, 404, "snapshot_session_not_found")
	c.ok(http.MethodPost, "/sync/snapshot-sessions", object{}, nil)

	c.push(2, manyUsers(1)...)
	over := c.refused(http.MethodPost, "/sync/snapshot-sessions", nil, 413, "snapshot_session_limit_exceeded")
	require.Equal(t, []any{"rows", float64(4), float64(3)}, []any{over["dimension"], over["actual"], over["limit"]})
}
