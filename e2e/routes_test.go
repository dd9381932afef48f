package e2e_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// TestRoutes asks every route of the protocol without a token: one that were missing would answer 404 instead of 401.
func TestRoutes(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	stranger := s.client(t, "ann", "source")
	stranger.token = ""
	id := newID()
	for _, route := range []string{
		"POST /sync/connect",
		"POST /sync/push-sessions",
		"POST /sync/push-sessions/" + id + "/chunks",
		"POST /sync/push-sessions/" + id + "/commit",
		"DELETE /sync/push-sessions/" + id,
		"GET /sync/committed-bundles/1/rows",
		"GET /sync/pull",
		"GET /sync/watch",
		"POST /sync/snapshot-sessions",
		"GET /sync/snapshot-sessions/" + id,
		"DELETE /sync/snapshot-sessions/" + id,
		"GET /sync/capabilities",
	} {
		method, path, _ := strings.Cut(route, " ")
		stranger.refused(method, path, nil, 401, "authentication_failed")
		s.client(t, "ann", " ").refused(method, path, nil, 400, "invalid_request")
		s.client(t, "ann", "source").refused(http.MethodPatch, path, nil, 405, "method_not_allowed")
	}
	for _, path := range []string{"/syncx/status", "/syncx/health"} {
		stranger.ok(http.MethodGet, path, nil, nil)
	}

	var capabilities struct {
		Version  string          `json:"protocol_version"`
		Tables   []string        `json:"registered_tables"`
		Features map[string]bool `json:"features"`
		Limits   struct {
			PushChunk int `json:"max_rows_per_push_chunk"`
		} `json:"bundle_limits"`
	}
	s.client(t, "ann", "source").ok(http.MethodGet, "/sync/capabilities", nil, &capabilities)
	require.Equal(t, "v1", capabilities.Version)
	require.Equal(t, []string{"demo.categories", "demo.files", "demo.members", "demo.posts", "demo.teams", "demo.users"}, capabilities.Tables)
	require.Equal(t, 5000, capabilities.Limits.PushChunk)
	require.True(t, capabilities.Features["bundle_push"])
}

// TestWritesOutsideABundle checks that the triggers stand on each registered table: what they did not see would be
// lost for the devices.
func TestWritesOutsideABundle(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	p := s.phone(t, "ann")
	user, post, team := newID(), newID(), newID()
	p.write(t, `INSERT INTO users (id, name) VALUES (?, 'x')`, user)
	p.write(t, `INSERT INTO posts (id, author_id, title) VALUES (?, ?, 'x')`, post, user)
	p.write(t, `INSERT INTO files (id, post_id, name, content) VALUES (?, ?, 'x', x'00')`, newID(), post)
	p.write(t, `INSERT INTO categories (id, name) VALUES ('x', 'x')`)
	p.write(t, `INSERT INTO teams (id, name) VALUES (?, 'x')`, team)
	p.write(t, `INSERT INTO members (id, team_id, name) VALUES (?, ?, 'x')`, newID(), team)
	syncAll(t, p)
	before := s.contents(t, "ann")
	require.Len(t, before, len(demoTables))

	conn := s.connect(t)
	for _, table := range demoTables {
		column := "name"
		if table == "demo.posts" {
			column = "title"
		}
		for statement, code := range map[string]string{
			`INSERT INTO ` + table + ` SELECT (jsonb_populate_record(x, jsonb_build_object('id', gen_random_uuid()))).* FROM ` + table + ` x`: "OV031",
			`UPDATE ` + table + ` SET ` + column + ` = 'changed'`:                                                                             "OV031",
			`DELETE FROM ` + table:           "OV031",
			`TRUNCATE ` + table + ` CASCADE`: "55000",
		} {
			_, err := conn.Exec(t.Context(), statement)
			var refusal *pgconn.PgError
			require.ErrorAs(t, err, &refusal, statement)
			require.Equal(t, code, refusal.Code, "%s: %v", statement, err)
		}
	}
	require.Equal(t, before, s.contents(t, "ann"))
	s.requireConverged(t, p)
}
