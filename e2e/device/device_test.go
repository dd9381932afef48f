package device

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var testTables = []Table{
	{Schema: "app", Name: "notes", Key: "id", KeyType: TextKey, Columns: []Column{
		{Name: "title", Type: Text},
		{Name: "n", Type: Integer},
		{Name: "x", Type: Real},
		{Name: "done", Type: Bool},
		{Name: "data", Type: Bytes},
		{Name: "doc", Type: JSON},
		{Name: "price", Type: Numeric},
		{Name: "at", Type: Timestamp},
	}},
	{Schema: "app", Name: "tags", Key: "id", KeyType: TextKey, Columns: []Column{
		{Name: "note_id", Type: Text, References: "notes(id) ON DELETE CASCADE"},
		{Name: "label", Type: Text},
		{Name: "made", Type: Text, ServerDefault: true},
	}},
	{Schema: "app", Name: "things", Key: "id", Columns: []Column{{Name: "name", Type: Text}}},
}

type option func(*Config)

func open(t *testing.T, path string, f *fake, options ...option) *Device {
	t.Helper()
	cfg := Config{
		Path: path, BaseURL: "http://fake", Tables: testTables, HTTPClient: &http.Client{Transport: f},
		Backoff: Backoff{Attempts: 3, Sleep: func(context.Context, time.Duration) error { return nil }},
	}
	for _, o := range options {
		o(&cfg)
	}
	d, err := Open(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

func newDevice(t *testing.T, f *fake, options ...option) *Device {
	t.Helper()
	return open(t, filepath.Join(t.TempDir(), "device.sqlite"), f, options...)
}

func exec(t *testing.T, d *Device, query string, args ...any) {
	t.Helper()
	_, err := d.DB().ExecContext(t.Context(), query, args...)
	require.NoError(t, err)
}

// query reads one column as text.
func query(t *testing.T, d *Device, query string, args ...any) []string {
	t.Helper()
	rows, err := d.DB().QueryContext(t.Context(), query, args...)
	require.NoError(t, err)
	defer func() { require.NoError(t, rows.Close()) }()
	found := []string{}
	for rows.Next() {
		var s string
		require.NoError(t, rows.Scan(&s))
		found = append(found, s)
	}
	require.NoError(t, rows.Err())
	return found
}

func dirty(t *testing.T, d *Device) []string {
	return query(t, d, `SELECT tbl || '/' || key FROM _sync_dirty ORDER BY seq`)
}

func remoteNote(op, key, payload string) pushRow {
	return pushRow{Table: "notes", Key: map[string]string{"id": key}, Op: op, Payload: []byte(payload)}
}

func TestTriggersNoteLocalChanges(t *testing.T) {
	t.Parallel()
	d := newDevice(t, newFake())
	exec(t, d, `INSERT INTO notes (id, title) VALUES ('a', 'x'), ('b', 'y')`)
	exec(t, d, `INSERT INTO tags (id, note_id) VALUES ('t', 'a')`)
	require.Equal(t, []string{"notes/a", "notes/b", "tags/t"}, dirty(t, d))

	require.NoError(t, d.Sync(t.Context()))
	require.Empty(t, dirty(t, d), "what the server sent is no local change")

	exec(t, d, `UPDATE notes SET title = title`)
	require.Empty(t, dirty(t, d), "nothing changed")
	exec(t, d, `UPDATE notes SET id = 'c' WHERE id = 'b'`)
	require.Equal(t, []string{"notes/b", "notes/c"}, dirty(t, d), "a changed key is two rows")
	exec(t, d, `DELETE FROM notes WHERE id = 'a'`)
	require.ElementsMatch(t, []string{"notes/b", "notes/c", "notes/a", "tags/t"}, dirty(t, d), "the cascade too")
}

func TestTriggersSurviveConflictClauses(t *testing.T) {
	t.Parallel()
	d := newDevice(t, newFake())
	exec(t, d, `CREATE UNIQUE INDEX notes_title ON notes (title)`)
	exec(t, d, `INSERT INTO notes (id, title) VALUES ('a', 'x')`)
	require.NoError(t, d.Sync(t.Context()))
	exec(t, d, `INSERT OR REPLACE INTO notes (id, title) VALUES ('b', 'x')`)
	require.ElementsMatch(t, []string{"notes/a", "notes/b"}, dirty(t, d), "the replaced row is a delete")
	require.Equal(t, []string{"1"}, query(t, d, `SELECT base_version FROM _sync_dirty WHERE key = 'a'`))
	exec(t, d, `INSERT OR REPLACE INTO notes (id, title) VALUES ('b', 'x')`)
	require.NoError(t, d.Sync(t.Context()))
	require.Equal(t, []string{"b"}, query(t, d, `SELECT id FROM notes`))
}

func TestKeysAreChecked(t *testing.T) {
	t.Parallel()
	d := newDevice(t, newFake())
	for _, bad := range []string{"x", "6F1E0C1A-0000-4000-8000-000000000000", ""} {
		_, err := d.DB().ExecContext(t.Context(), `INSERT INTO things (id) VALUES (?)`, bad)
		require.ErrorContains(t, err, "must be a UUID in lower case", bad)
	}
	exec(t, d, `INSERT INTO things (id) VALUES ('6f1e0c1a-0000-4000-8000-000000000000')`)
}

func TestRowsFromBeforeOpenArePushed(t *testing.T) {
	t.Parallel()
	f, path := newFake(), filepath.Join(t.TempDir(), "device.sqlite")
	db, err := openFile(path)
	require.NoError(t, err)
	_, err = db.ExecContext(t.Context(), `CREATE TABLE things (id TEXT PRIMARY KEY);
		INSERT INTO things VALUES ('6f1e0c1a-0000-4000-8000-000000000000')`)
	require.NoError(t, err)
	require.NoError(t, db.Close())
	d := open(t, path, f)
	require.NoError(t, d.Sync(t.Context()))
	require.Contains(t, f.rows, "things/6f1e0c1a-0000-4000-8000-000000000000")
}

func TestDefinitionsAreChecked(t *testing.T) {
	t.Parallel()
	for want, table := range map[string]Table{
		"unknown type":       {Name: "a", Key: "id", Columns: []Column{{Name: "b", Type: "int"}}},
		"unknown key type":   {Name: "a", Key: "id", KeyType: "int"},
		"lower case":         {Name: "A", Key: "id"},
		"only as Key":        {Name: "a", Key: "id", Columns: []Column{{Name: "id", Type: Text}}},
		"are taken":          {Name: "_sync_rows", Key: "id"},
		"key column":         {Name: "a", Key: "id", CreateSQL: `CREATE TABLE a (x TEXT)`},
		"would round":        {Name: "a", Key: "id", Columns: []Column{{Name: "p", Type: Numeric}}, CreateSQL: `CREATE TABLE a (id TEXT PRIMARY KEY, p NUMERIC)`},
		"create: SQL logic ": {Name: "a", Key: "id", CreateSQL: `CREATE TABEL a (id TEXT)`},
	} {
		_, err := Open(t.Context(), Config{Path: filepath.Join(t.TempDir(), "x.sqlite"), Tables: []Table{table}})
		require.ErrorContains(t, err, want)
	}
}

func TestCoalescing(t *testing.T) {
	t.Parallel()
	f := newFake()
	d := newDevice(t, f)
	exec(t, d, `INSERT INTO notes (id, title) VALUES ('kept', '1'), ('gone', '1')`)
	exec(t, d, `UPDATE notes SET title = '2'`)
	exec(t, d, `DELETE FROM notes WHERE id = 'gone'`)
	require.NoError(t, d.Sync(t.Context()))
	require.Len(t, f.bundles, 1)
	require.Len(t, f.bundles[0].Rows, 1, "a row made and deleted between two pushes is never sent")
	require.Equal(t, "INSERT", f.bundles[0].Rows[0].Op)
	require.JSONEq(t, `"2"`, string(f.rows["notes/kept"].payload["title"]))

	exec(t, d, `DELETE FROM notes`)
	exec(t, d, `INSERT INTO notes (id, title) VALUES ('kept', '3')`)
	require.NoError(t, d.Sync(t.Context()))
	require.Equal(t, "UPDATE", f.bundles[1].Rows[0].Op, "deleted and made again is an update")

	exec(t, d, `DELETE FROM notes`)
	require.NoError(t, d.Sync(t.Context()))
	require.Equal(t, "DELETE", f.bundles[2].Rows[0].Op)
	exec(t, d, `INSERT INTO notes (id, title) VALUES ('kept', '4')`)
	require.NoError(t, d.Sync(t.Context()), "a re-creation rests on the version of the delete")
	require.Equal(t, "INSERT", f.bundles[3].Rows[0].Op)
	require.Empty(t, f.sessions)
}

func TestValuesSurviveTheRoundTrip(t *testing.T) {
	t.Parallel()
	f := newFake()
	a, b := newDevice(t, f), newDevice(t, f)
	exec(t, a, `INSERT INTO notes (id, title, n, x, done, data, doc, price, at) VALUES
		('full', '<é> &', 9007199254740993, 0.1, true, x'00ff', '{"b": 1.50, "a": [null]}', '123456789012345678901234567890.120', '2026-11-23T00:00:00.000001+00:00'),
		('edge', '', -9223372036854775808, -0.0, false, x'', '"s"', 'NaN', NULL),
		('null', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)`)
	require.NoError(t, a.Sync(t.Context()))
	require.NoError(t, b.Sync(t.Context()))
	rows, err := b.Rows(t.Context(), "notes")
	require.NoError(t, err)
	require.Equal(t, []Row{
		{"id": "edge", "title": "", "n": int64(-9223372036854775808), "x": 0.0, "done": false, "data": []byte{}, "doc": `"s"`, "price": "NaN", "at": nil},
		{
			"id": "full", "title": "<é> &", "n": int64(9007199254740993), "x": 0.1, "done": true, "data": []byte{0, 0xff},
			"doc": `{"b":1.50,"a":[null]}`, "price": "123456789012345678901234567890.120", "at": "2026-11-23T00:00:00.000001+00:00",
		},
		{"id": "null", "title": nil, "n": nil, "x": nil, "done": nil, "data": nil, "doc": nil, "price": nil, "at": nil},
	}, rows)
	require.Equal(t, "123456789012345678901234567890.120", string(f.rows["notes/full"].payload["price"]))
	require.NotContains(t, f.rows, "made")
	dumpA, err := a.Dump(t.Context(), "notes")
	require.NoError(t, err)
	dumpB, err := b.Dump(t.Context(), "notes")
	require.NoError(t, err)
	require.Equal(t, dumpA, dumpB)
}

func TestServerDefaultIsLeftOut(t *testing.T) {
	t.Parallel()
	f := newFake()
	d := newDevice(t, f)
	exec(t, d, `INSERT INTO tags (id, label) VALUES ('t', NULL)`)
	require.NoError(t, d.Sync(t.Context()))
	require.NotContains(t, f.rows["tags/t"].payload, "made")
	require.Contains(t, f.rows["tags/t"].payload, "label")
	exec(t, d, `UPDATE tags SET label = 'still without a value here'`)
	require.NoError(t, d.Sync(t.Context()))
	require.NotContains(t, f.rows["tags/t"].payload, "made")
}

func TestEqualValues(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		typ  Type
		a, b any
		want bool
	}{
		{Numeric, "1.50", "1.5", true},
		{Numeric, "1.5", "1.6", false},
		{Numeric, "NaN", "NaN", true},
		{JSON, `{"a":1,"b":2}`, `{"b":2, "a":1.0}`, true},
		{JSON, `[1]`, `[2]`, false},
		{Timestamp, "2026-01-01T00:00:00Z", "2026-01-01T00:00:00+00:00", true},
		{Timestamp, "yesterday", "today", false},
		{Text, "a", "a", true},
		{Text, "a", nil, false},
		{Text, nil, nil, true},
		{Bytes, []byte{1}, []byte{1}, true},
		{Bytes, []byte{1}, []byte{2}, false},
		{Integer, int64(1), int64(1), true},
		{Bool, true, false, false},
	} {
		require.Equal(t, c.want, equalValue(&Column{Type: c.typ}, c.a, c.b), fmt.Sprint(c))
	}
}

func TestCanonicalVectors(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`{"b":1, "a":2, "B":3}`:                  `{"B":3,"a":2,"b":1}`,
		`"<>&\u2028\u2029\b\f\n\r\t\"\\\u0001/"`: `"\u003c\u003e\u0026\u2028\u2029\b\f\n\r\t\"\\\u0001/"`,
		`[1e-6, 1e-7, 1e20, 1e21]`:               `[0.000001,1e-7,100000000000000000000,1e+21]`,
		`[9007199254740993, 1.0, 1.50, -0]`:      `[9007199254740992,1,1.5,-0]`,
		`[1e-400, 123456789012345678901234]`:     `[0,1.2345678901234569e+23]`,
		`[ true , false , null , "é" ]`:          `[true,false,null,"é"]`,
	} {
		got, err := Canonical([]byte(in))
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
	_, err := Canonical([]byte(`1e400`))
	require.Error(t, err)

	// The SHA-256 of [] and of the text in the comment below, made with sha256sum.
	empty, err := bundleHash(nil)
	require.NoError(t, err)
	require.Equal(t, "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945", empty)
	// [{"key":{"id":"a"},"op":"INSERT","payload":{"id":"a","n":1e+21},"row_ordinal":0,"row_version":7,"schema":"app","table":"notes"},
	//  {"key":{"id":"b"},"op":"DELETE","payload":null,"row_ordinal":1,"row_version":7,"schema":"app","table":"notes"}] on one line
	hash, err := bundleHash([]wireRow{
		{Schema: "app", Table: "notes", Key: map[string]string{"id": "a"}, Op: "INSERT", RowVersion: 7, Payload: []byte(`{"n": 1000000000000000000000, "id": "a"}`)},
		{Schema: "app", Table: "notes", Key: map[string]string{"id": "b"}, Op: "DELETE", RowVersion: 7},
	})
	require.NoError(t, err)
	require.Equal(t, "2679de47a886f4bb94b9126d32256bc2f94e86f5404ca93810564f16f2e9120f", hash)
}
