package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/e2e/device"
)

// demoTables are the tables of the demo schema, as the binary registers them.
var demoTables = []string{"demo.users", "demo.posts", "demo.categories", "demo.files", "demo.teams", "demo.members"}

// tableNames are those that a device and the database are compared by.
var tableNames = []string{"users", "posts", "categories", "files", "teams", "members"}

// deviceTables describes the demo schema to a device. It repeats what the demo command knows, since that is internal
// to the binary, and since an application has to write it once as well.
func deviceTables() []device.Table {
	text := func(name string) device.Column { return device.Column{Name: name, Type: device.Text} }
	ref := func(name, to string) device.Column {
		return device.Column{Name: name, Type: device.Text, References: to}
	}
	return []device.Table{
		{Schema: "demo", Name: "users", Key: "id", Columns: []device.Column{text("name"), text("email")}},
		{Schema: "demo", Name: "posts", Key: "id", Columns: []device.Column{
			ref("author_id", "users(id) ON DELETE CASCADE"), text("title"), text("body"),
			{Name: "created_at", Type: device.Timestamp, ServerDefault: true},
		}},
		{Schema: "demo", Name: "categories", Key: "id", KeyType: device.TextKey, Columns: []device.Column{
			ref("parent_id", "categories(id) ON DELETE CASCADE"), text("name"),
		}},
		{Schema: "demo", Name: "files", Key: "id", Columns: []device.Column{
			ref("post_id", "posts(id) ON DELETE CASCADE"), text("name"), {Name: "content", Type: device.Bytes},
		}},
		{Schema: "demo", Name: "teams", Key: "id", Columns: []device.Column{
			text("name"), ref("captain_id", "members(id) ON DELETE SET NULL"),
		}},
		{Schema: "demo", Name: "members", Key: "id", Columns: []device.Column{
			ref("team_id", "teams(id) ON DELETE CASCADE"), text("name"),
		}},
	}
}

// phone is a device with its way to the server.
type phone struct {
	*device.Device
	net  *network
	user string
	cfg  device.Config
}

// phone opens a device of a user with a file of its own. It is closed when the test ends.
func (s *server) phone(t *testing.T, user string, options ...func(*device.Config)) *phone {
	t.Helper()
	p, err := s.openPhone(t.Context(), filepath.Join(t.TempDir(), "device.sqlite"), user, mintToken(t, user), options...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

func (s *server) openPhone(ctx context.Context, path, user, token string, options ...func(*device.Config)) (*phone, error) {
	p := &phone{net: &network{server: s}, user: user}
	p.cfg = device.Config{
		Path: path, BaseURL: "http://server", Token: token, Tables: deviceTables(),
		HTTPClient: &http.Client{Transport: p.net, Timeout: time.Minute},
		// A test decides when the server is back: there is nothing to wait for.
		Backoff: device.Backoff{Attempts: 4, Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() }},
	}
	for _, option := range options {
		option(&p.cfg)
	}
	return p, p.open(ctx)
}

func (p *phone) open(ctx context.Context) (err error) {
	p.Device, err = device.Open(ctx, p.cfg)
	return err
}

// reopen is what a restart of the application does.
func (p *phone) reopen(t *testing.T) {
	t.Helper()
	require.NoError(t, p.Close())
	require.NoError(t, p.open(t.Context()))
}

func resolver(r device.Resolver) func(*device.Config) {
	return func(cfg *device.Config) { cfg.Resolver = r }
}

func chunkRows(n int) func(*device.Config) {
	return func(cfg *device.Config) { cfg.ChunkRows = n }
}

// write runs one statement of the application.
func (p *phone) write(t testing.TB, statement string, args ...any) {
	t.Helper()
	_, err := p.DB().ExecContext(t.Context(), statement, args...)
	require.NoError(t, err, statement)
}

// syncAll syncs devices one after the other.
func syncAll(t *testing.T, phones ...*phone) {
	t.Helper()
	for _, p := range phones {
		require.NoError(t, p.Sync(t.Context()))
	}
}

// tester is what a comparison needs of a test, which may be one of rapid.
type tester interface {
	require.TestingT
	Context() context.Context
}

// contents is what a device holds, a line a row, with the table's name in front.
func (p *phone) contents(t tester) []string {
	all := []string{}
	for _, table := range tableNames {
		lines, err := p.Dump(t.Context(), table)
		require.NoError(t, err)
		for _, line := range lines {
			all = append(all, table+" "+canonicalLine(t, line))
		}
	}
	return all
}

// wireSQL reads each table in the form of the wire, without the scope, written by hand rather than by what is tested.
var wireSQL = map[string]string{
	"users":      `json_build_object('id', id, 'name', name, 'email', email)`,
	"posts":      `json_build_object('id', id, 'author_id', author_id, 'title', title, 'body', body, 'created_at', created_at)`,
	"categories": `json_build_object('id', id, 'parent_id', parent_id, 'name', name)`,
	"files":      `json_build_object('id', id, 'post_id', post_id, 'name', name, 'content', replace(encode(content, 'base64'), E'\n', ''))`,
	"teams":      `json_build_object('id', id, 'name', name, 'captain_id', captain_id)`,
	"members":    `json_build_object('id', id, 'team_id', team_id, 'name', name)`,
}

// contents is what the database holds of a user, in the form of phone.contents.
func (s *server) contents(t tester, user string) []string {
	conn, err := pgx.Connect(t.Context(), s.database)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(t.Context())) }()
	_, err = conn.Exec(t.Context(), `SET TimeZone = 'UTC'`)
	require.NoError(t, err)
	all := []string{}
	for _, table := range tableNames {
		rows, err := conn.Query(t.Context(), fmt.Sprintf(`SELECT %s::text FROM demo.%s WHERE _sync_scope_id = $1 ORDER BY id::text COLLATE "C"`, wireSQL[table], table), user)
		require.NoError(t, err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		for _, line := range lines {
			all = append(all, table+" "+canonicalLine(t, line))
		}
	}
	return all
}

func canonicalLine(t require.TestingT, line string) string {
	text, err := device.Canonical([]byte(line))
	require.NoError(t, err)
	return string(text)
}

// requireConverged checks that each device holds exactly what the database holds of its user, and has nothing to push.
func (s *server) requireConverged(t tester, phones ...*phone) {
	for i, p := range phones {
		require.Equal(t, s.contents(t, p.user), p.contents(t), "device %d of %s differs from the database", i, p.user)
		st, err := p.State(t.Context())
		require.NoError(t, err)
		require.Zero(t, st.DirtyRows+st.OutboxRows, "device %d of %s still has something to push", i, p.user)
	}
}

// payloadOf is the payload of a row as an object.
func payloadOf(t testing.TB, e effect) object {
	t.Helper()
	var fields object
	require.NoError(t, json.Unmarshal(e.Payload, &fields))
	return fields
}

func newID() string { return uuid.NewString() }
