// Package demo holds the demo schema and plays three devices against a running server.
package demo

import (
	_ "embed"

	"github.com/oversync/oversync/e2e/device"
)

// SchemaSQL creates the tables of the demo in the schema demo. It needs PostgreSQL 15 or newer, and may be run again.
//
//go:embed schema.sql
var SchemaSQL string

// RegisterSQL registers the tables of [SchemaSQL], one statement a table. Run it in one transaction: the tables refer to
// each other, and whether the set is complete is judged at its end.
const RegisterSQL = `SELECT sync.register_table('demo.users', sync_key => 'id');
SELECT sync.register_table('demo.posts', sync_key => 'id');
SELECT sync.register_table('demo.categories', sync_key => 'id');
SELECT sync.register_table('demo.files', sync_key => 'id');
SELECT sync.register_table('demo.teams', sync_key => 'id');
SELECT sync.register_table('demo.members', sync_key => 'id');
`

// Tables returns the tables of [SchemaSQL] as a device keeps them.
func Tables() []device.Table {
	return []device.Table{
		{Schema: "demo", Name: "users", Key: "id", Columns: []device.Column{
			{Name: "name", Type: device.Text},
			{Name: "email", Type: device.Text},
		}},
		{Schema: "demo", Name: "posts", Key: "id", Columns: []device.Column{
			{Name: "author_id", Type: device.Text, References: "users(id) ON DELETE CASCADE"},
			{Name: "title", Type: device.Text},
			{Name: "body", Type: device.Text},
			{Name: "created_at", Type: device.Timestamp, ServerDefault: true},
		}},
		{Schema: "demo", Name: "categories", Key: "id", KeyType: device.TextKey, Columns: []device.Column{
			{Name: "parent_id", Type: device.Text, References: "categories(id) ON DELETE CASCADE"},
			{Name: "name", Type: device.Text},
		}},
		{Schema: "demo", Name: "files", Key: "id", Columns: []device.Column{
			{Name: "post_id", Type: device.Text, References: "posts(id) ON DELETE CASCADE"},
			{Name: "name", Type: device.Text},
			{Name: "content", Type: device.Bytes},
		}},
		{Schema: "demo", Name: "teams", Key: "id", Columns: []device.Column{
			{Name: "name", Type: device.Text},
			{Name: "captain_id", Type: device.Text, References: "members(id) ON DELETE SET NULL"},
		}},
		{Schema: "demo", Name: "members", Key: "id", Columns: []device.Column{
			{Name: "team_id", Type: device.Text, References: "teams(id) ON DELETE CASCADE"},
			{Name: "name", Type: device.Text},
		}},
	}
}
