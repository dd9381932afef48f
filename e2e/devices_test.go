package e2e_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/e2e/device"
)

// everything is a text with each character that some layer between two devices could stumble over.
var everything = func() string {
	var b strings.Builder
	for c := rune(1); c < 0x20; c++ { // NUL is tested apart: PostgreSQL has none
		b.WriteRune(c)
	}
	b.WriteString(`"quoted" 'single' \back\\slash\n /slash <script>&amp; %s $1 {}[]` + "\x7f")
	b.WriteString("\u0080\u00a0\u00df\u2028\u2029\ufeff\ufffd\uffff e\u0301 \u202eright to left\u202c עברית 漢字 \U0001F9D1\u200d\U0001F680 \U0010FFFF")
	return b.String()
}()

// allBytes holds each byte once.
var allBytes = func() []byte {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}()

// TestDevicesShareEverything plays the whole demo schema between three devices: foreign keys, the tree, the cycle,
// bytes, unicode, defaults of the server, cascades, and a device that comes late.
func TestDevicesShareEverything(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	a, b := s.phone(t, "ann"), s.phone(t, "ann")

	ann, bob := newID(), newID()
	first, second := newID(), newID()
	team, captain, member := newID(), newID(), newID()
	a.write(t, `INSERT INTO users (id, name, email) VALUES (?, ?, NULL), (?, 'Bob', '')`, ann, everything, bob)
	a.write(t, `INSERT INTO posts (id, author_id, title, body) VALUES (?, ?, 'first', ?), (?, ?, 'second', NULL)`, first, ann, everything, second, bob)
	a.write(t, `INSERT INTO categories (id, parent_id, name) VALUES (?, 'root', 'deep'), ('root', NULL, 'Root'), ('leaf', ?, 'leaf')`, everything, everything)
	a.write(t, `INSERT INTO files (id, post_id, name, content) VALUES (?, ?, 'all', ?), (?, ?, 'empty', x'')`, newID(), first, allBytes, newID(), second)
	a.write(t, `INSERT INTO teams (id, name) VALUES (?, 'Team')`, team)
	a.write(t, `INSERT INTO members (id, team_id, name) VALUES (?, ?, 'Captain'), (?, ?, 'Member')`, captain, team, member, team)
	a.write(t, `UPDATE teams SET captain_id = ?`, captain)
	syncAll(t, a, b)
	s.requireConverged(t, a, b)
	require.Len(t, b.contents(t), 12)
	var name string
	require.NoError(t, b.DB().QueryRow(`SELECT name FROM users WHERE id = ?`, ann).Scan(&name))
	require.Equal(t, everything, name)
	require.Equal(t, int64(1), s.number(t, `SELECT count(*) FROM sync.bundle_log`), "one transaction of the device is one bundle")

	// The server deletes what hangs on a row, and the others learn of it although no device named it.
	b.write(t, `DELETE FROM users WHERE id = ?`, bob)
	b.write(t, `DELETE FROM members WHERE id = ?`, captain)
	b.write(t, `UPDATE categories SET id = 'renamed' WHERE id = 'leaf'`)
	syncAll(t, b, a)
	s.requireConverged(t, a, b)
	var captains int
	require.NoError(t, a.DB().QueryRow(`SELECT count(captain_id) FROM teams`).Scan(&captains))
	require.Zero(t, captains, "a captain who left leaves the team without one")

	// One deletes the root of the tree while the other hangs something on it.
	a.write(t, `DELETE FROM categories WHERE id = 'root'`)
	b.write(t, `INSERT INTO categories (id, parent_id, name) VALUES ('late', 'root', 'late')`)
	b.write(t, `UPDATE users SET email = 'x@example.com' WHERE id = ?`, ann)
	syncAll(t, a)
	err := b.Sync(t.Context())
	var rejected *device.RejectedError
	require.ErrorAs(t, err, &rejected, "a child whose parent is gone cannot be committed")
	require.Equal(t, "23503", rejected.Rejection.SQLState)
	require.Equal(t, "categories_parent_fkey", rejected.Rejection.Constraint)
	syncAll(t, b, a) // the pull after the refusal took the child with its parent
	s.requireConverged(t, a, b)
	require.NotContains(t, strings.Join(a.contents(t), "\n"), "categories")

	late := s.phone(t, "ann", chunkRows(2))
	require.NoError(t, late.Rebuild(t.Context()))
	s.requireConverged(t, a, b, late)
	require.Positive(t, late.net.count("snapshot chunk"))

	// Another user sees none of it.
	stranger := s.phone(t, "stranger")
	syncAll(t, stranger)
	require.Empty(t, stranger.contents(t))
}

// TestUsersDoNotMeet has two users write rows with the same keys.
func TestUsersDoNotMeet(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	a, b := s.phone(t, "ann"), s.phone(t, " bob with blanks ")
	b.user = "bob with blanks" // the protocol trims it
	id := newID()
	for _, p := range []*phone{a, b} {
		p.write(t, `INSERT INTO users (id, name) VALUES (?, ?)`, id, p.user)
		p.write(t, `INSERT INTO posts (id, author_id, title) VALUES (?, ?, ?)`, id, id, p.user)
	}
	syncAll(t, a, b)
	s.requireConverged(t, a, b)
	a.write(t, `DELETE FROM users`)
	syncAll(t, a, b)
	s.requireConverged(t, a, b)
	require.Empty(t, a.contents(t))
	require.Len(t, b.contents(t), 2)

	// A session of one is none of the other's business.
	c := s.client(t, "ann", "raw")
	pushID, snap := c.open(1, 1), c.snapshot()
	for _, other := range []*client{s.client(t, "bob with blanks", "raw"), c.as("another source")} {
		other.refused(http.MethodPost, "/sync/push-sessions/"+pushID+"/chunks",
			object{"start_row_ordinal": 0, "rows": []change{insert("users", newID(), object{"name": "x"})}}, 403, "push_session_forbidden")
		other.refused(http.MethodPost, "/sync/push-sessions/"+pushID+"/commit", nil, 403, "push_session_forbidden")
		other.refused(http.MethodDelete, "/sync/push-sessions/"+pushID, nil, 403, "push_session_forbidden")
	}
	s.client(t, "bob with blanks", "raw").refused(http.MethodGet, "/sync/snapshot-sessions/"+snap.ID, nil, 403, "snapshot_session_forbidden")
}

// TestResolvers has two devices edit the same rows offline, under each way to resolve a conflict.
func TestResolvers(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	merge := func(_ context.Context, c device.Conflict) (device.Resolution, error) {
		if c.Local == nil || c.Server == nil {
			return device.KeepLocal(), nil
		}
		return device.Merged(device.Row{"name": c.Server["name"]}), nil
	}
	tests := map[string]struct {
		resolve device.Resolver
		// edited is the name and email of a row that both edited, deleted whether the one that b deleted is gone, both
		// the name of one that both created.
		edited  [2]string
		deleted bool
		both    string
	}{
		"server wins": {device.ServerWins, [2]string{"a's name", "a's mail"}, false, "a's"},
		"client wins": {device.ClientWins, [2]string{"b's name", "b's mail"}, true, "b's"},
		"merge":       {merge, [2]string{"a's name", "b's mail"}, true, "a's"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := s.phone(t, name), s.phone(t, name, resolver(test.resolve))
			edited, deleted, both := newID(), newID(), newID()
			a.write(t, `INSERT INTO users (id, name) VALUES (?, 'edited'), (?, 'deleted')`, edited, deleted)
			syncAll(t, a, b)

			a.write(t, `UPDATE users SET name = 'a''s name', email = 'a''s mail'`)
			b.write(t, `UPDATE users SET name = 'b''s name', email = 'b''s mail' WHERE id = ?`, edited)
			b.write(t, `DELETE FROM users WHERE id = ?`, deleted)
			a.write(t, `INSERT INTO users (id, name) VALUES (?, 'a''s')`, both)
			b.write(t, `INSERT INTO users (id, name) VALUES (?, 'b''s')`, both)
			syncAll(t, a, b, a)
			s.requireConverged(t, a, b)

			var got [2]string
			require.NoError(t, a.DB().QueryRow(`SELECT name, email FROM users WHERE id = ?`, edited).Scan(&got[0], &got[1]))
			require.Equal(t, test.edited, got)
			var n int
			require.NoError(t, a.DB().QueryRow(`SELECT count(*) FROM users WHERE id = ?`, deleted).Scan(&n))
			require.Equal(t, test.deleted, n == 0)
			var bothName string
			require.NoError(t, a.DB().QueryRow(`SELECT name FROM users WHERE id = ?`, both).Scan(&bothName))
			require.Equal(t, test.both, bothName)
		})
	}
}

// TestNUL checks that the one character PostgreSQL does not have is refused for good rather than tried for ever.
func TestNUL(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	p := s.phone(t, "ann")
	p.write(t, `INSERT INTO users (id, name) VALUES (?, ?)`, newID(), "a\x00b")
	err := p.Sync(t.Context())
	var api *device.APIError
	require.ErrorAs(t, err, &api)
	require.GreaterOrEqual(t, api.Status, 400)
	require.Less(t, api.Status, 500)
	p.write(t, `UPDATE users SET name = 'ab'`)
	syncAll(t, p)
	s.requireConverged(t, p)
}
