package e2e_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// rowState is how a row stands when a push about it is judged.
type rowState string

const (
	never   rowState = "never existed"
	live    rowState = "live"
	deleted rowState = "deleted"
	reborn  rowState = "live again"
)

// prepare brings a row into a state by pushes from 1 on, and returns its version and the number of the next push.
// Another row is pushed as well, so that no version equals the newest sequence.
func (c *client) prepare(state rowState, id string) (version, next int64) {
	c.t.Helper()
	next = 1
	one := func(ch change) {
		c.push(next, insert("categories", fmt.Sprint("other", next), object{"name": "x"}))
		version = c.push(next+1, ch).Seq
		next += 2
	}
	if state == never {
		return 0, next
	}
	one(insert("users", id, object{"name": "first", "email": nil}))
	if state == live {
		one(update("users", id, version, object{"name": "second"}))
		return version, next
	}
	one(remove("users", id, version))
	if state == reborn {
		one(recreate("users", id, version, object{"name": "third"}))
	}
	return version, next
}

// TestConflicts walks the protocol's table: each operation on each state of a row, with each base that matters.
func TestConflicts(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	type base func(version int64) int64
	right := func(v int64) int64 { return v }
	bases := map[string]base{
		"right": right, "zero": func(int64) int64 { return 0 },
		"older": func(v int64) int64 { return v - 1 }, "newer": func(v int64) int64 { return v + 1 },
	}
	// accepted lists what is no conflict; every other combination is one.
	accepted := map[string]bool{
		"INSERT never existed right": true, "INSERT never existed zero": true,
		"INSERT deleted right": true,
		"UPDATE live right":    true, "DELETE live right": true,
		"UPDATE live again right": true, "DELETE live again right": true,
	}
	for _, state := range []rowState{never, live, deleted, reborn} {
		for _, op := range []string{"INSERT", "UPDATE", "DELETE"} {
			for baseName, base := range bases {
				name := fmt.Sprintf("%s %s %s", op, state, baseName)
				if state == never && baseName == "older" {
					continue // there is no version below 0
				}
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					c := s.initialized(t, name, "source")
					id := newID()
					version, next := c.prepare(state, id)
					before := c.pull(0, 1000)
					pushed := change{Schema: "demo", Table: "users", Key: map[string]string{"id": id}, Op: op, Base: base(version)}
					if op != "DELETE" {
						pushed.Payload = object{"name": "pushed"}
					}
					if accepted[name] {
						b := c.push(next, pushed)
						require.Equal(t, []string{"users " + id}, names(b.Rows))
						require.Equal(t, op, b.Rows[0].Op)
						return
					}
					// The first in push order is reported, however many follow and whatever is fine before it.
					fine := insert("users", newID(), object{"name": "fine"})
					conflict := c.pushRefused(next, 409, "push_conflict", fine, pushed,
						update("users", newID(), 1, object{"name": "never existed"}))["conflict"].(object)
					require.Equal(t, "demo", conflict["schema"])
					require.Equal(t, "users", conflict["table"])
					require.Equal(t, object{"id": id}, conflict["key"])
					require.Equal(t, op, conflict["op"])
					require.Equal(t, float64(base(version)), conflict["base_row_version"])
					require.Equal(t, float64(version), conflict["server_row_version"])
					require.Equal(t, state == deleted, conflict["server_row_deleted"])
					switch state {
					case live:
						require.Equal(t, object{"id": id, "name": "second", "email": nil}, conflict["server_row"])
					case reborn:
						require.Equal(t, object{"id": id, "name": "third", "email": nil}, conflict["server_row"])
					default:
						require.Contains(t, conflict, "server_row")
						require.Nil(t, conflict["server_row"])
					}
					require.Equal(t, before, c.pull(0, 1000), "a refused push changes nothing")
				})
			}
		}
	}
}

// TestConflictsBetweenUsers checks that the versions of one user's rows mean nothing to another's.
func TestConflictsBetweenUsers(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	ann, bob := s.initialized(t, "ann", "source"), s.initialized(t, "bob", "source")
	id := newID()
	_, _ = ann.prepare(reborn, id)
	require.Equal(t, int64(1), bob.push(1, insert("users", id, object{"name": "bob's"})).Seq)
	bob.pushRefused(2, 409, "push_conflict", update("users", id, 6, object{"name": "x"}))
}

// TestConflictLeavesTheSessionStaged checks that a refused commit can be tried again as it is, and replaced.
func TestConflictLeavesTheSessionStaged(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	a := s.initialized(t, "ann", "a")
	b := a.as("b")
	id := newID()
	first := a.push(1, insert("users", id, object{"name": "a"}))
	b.push(1, update("users", id, first.Seq, object{"name": "b"}))

	pushID := a.stage(2, 1000, []change{update("users", id, first.Seq, object{"name": "stale"})})
	for range 2 {
		a.refused(http.MethodPost, "/sync/push-sessions/"+pushID+"/commit", nil, 409, "push_conflict")
	}
	again := a.push(2, update("users", id, 2, object{"name": "a again"}))
	require.Equal(t, int64(3), again.Seq)
	a.refused(http.MethodPost, "/sync/push-sessions/"+pushID+"/commit", nil, 404, "push_session_not_found")
}

// TestRejections checks what a client learns of each kind of rule of the database.
func TestRejections(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	tests := map[string]struct {
		rows []change
		want object
	}{
		"check": {
			[]change{insert("users", newID(), object{"name": ""})},
			object{"sqlstate": "23514", "schema": "demo", "table": "users", "constraint": "users_name_check"},
		},
		"not null": {
			[]change{insert("users", newID(), object{"email": "x"})},
			object{"sqlstate": "23502", "schema": "demo", "table": "users", "column": "name"},
		},
		"foreign key": {
			[]change{insert("posts", newID(), object{"author_id": newID(), "title": "x"})},
			object{"sqlstate": "23503", "schema": "demo", "table": "posts", "constraint": "posts_author_fkey"},
		},
		"bad value": {
			[]change{insert("posts", newID(), object{"author_id": "not a uuid", "title": "x"})},
			object{"sqlstate": "22P02"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := s.initialized(t, name, "source")
			rows := append([]change{insert("categories", "fine", object{"name": "fine"})}, test.rows...)
			rejection := c.pushRefused(1, 422, "push_rejected", rows...)["rejection"].(object)
			for field, value := range test.want {
				require.Equal(t, value, rejection[field], "%s of %v", field, rejection)
			}
			require.Empty(t, c.pull(0, 1000))
			require.Empty(t, s.contents(t, name), "all or nothing")
			require.Equal(t, int64(1), c.push(1, insert("users", newID(), object{"name": "good"})).Seq, "no sequence number is lost")
		})
	}
}
