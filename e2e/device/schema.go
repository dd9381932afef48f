package device

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// Type is the type of a column: how its value is kept in SQLite and written on the wire.
type Type string

// The column types.
const (
	Text      Type = "text"      // TEXT; a JSON string
	Integer   Type = "integer"   // INTEGER of 64 bits; a JSON number with every digit
	Real      Type = "real"      // REAL; a JSON number
	Bool      Type = "bool"      // INTEGER 0 or 1; true or false
	Bytes     Type = "bytes"     // BLOB; base64 in a JSON string
	JSON      Type = "json"      // TEXT holding JSON; the JSON itself
	Numeric   Type = "numeric"   // TEXT holding the digits; a JSON number with every digit
	Timestamp Type = "timestamp" // TEXT in ISO 8601; a JSON string
)

// KeyType is the type of a table's key column.
type KeyType string

// The key types.
const (
	UUIDKey KeyType = "uuid" // lower case with dashes; a trigger refuses any other form
	TextKey KeyType = "text" // taken as it is
)

// Table describes one synced table.
type Table struct {
	Schema  string  // schema on the server; empty means public
	Name    string  // name of the table, on the server and in the file
	Key     string  // name of the key column
	KeyType KeyType // empty means UUIDKey
	Columns []Column
	// CreateSQL creates the SQLite table if it does not exist. Empty means a generated statement. Foreign keys
	// should be DEFERRABLE INITIALLY DEFERRED. A UNIQUE constraint beside the key is better left to the server:
	// here it could refuse a row that the server has already accepted.
	CreateSQL string
}

// Column describes one column beside the key.
type Column struct {
	Name string
	Type Type
	// References is what follows REFERENCES in a generated table, for example `users(id) ON DELETE CASCADE`.
	References string
	// ServerDefault leaves a NULL out of what is pushed, so that the default of the server's column fills it in an INSERT,
	// and an UPDATE leaves the server's value. Such a column cannot be set to NULL from here.
	ServerDefault bool
}

var (
	nameRE   = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)
	sqlTypes = map[Type]string{
		Text: "TEXT", Integer: "INTEGER", Real: "REAL", Bool: "INTEGER",
		Bytes: "BLOB", JSON: "TEXT", Numeric: "TEXT", Timestamp: "TEXT",
	}
)

// uuidGlob matches a canonical UUID.
var uuidGlob = func() string {
	hex := func(n int) string { return strings.Repeat("[0-9a-f]", n) }
	return hex(8) + "-" + hex(4) + "-" + hex(4) + "-" + hex(4) + "-" + hex(12)
}()

func (d *Device) addTables(tables []Table) error {
	for i := range tables {
		t := tables[i]
		if t.Schema == "" {
			t.Schema = "public"
		}
		if t.KeyType == "" {
			t.KeyType = UUIDKey
		}
		if t.KeyType != UUIDKey && t.KeyType != TextKey {
			return fmt.Errorf("device: table %s: unknown key type %q", t.Name, t.KeyType)
		}
		names := []string{t.Schema, t.Name, t.Key}
		for _, c := range t.Columns {
			names = append(names, c.Name)
			if sqlTypes[c.Type] == "" {
				return fmt.Errorf("device: column %s.%s: unknown type %q", t.Name, c.Name, c.Type)
			}
			if c.Name == t.Key {
				return fmt.Errorf("device: table %s: list the key column %s only as Key", t.Name, t.Key)
			}
		}
		for _, n := range names {
			if !nameRE.MatchString(n) {
				return fmt.Errorf("device: table %q: the name %q must be lower case, of a-z 0-9 _", t.Name, n)
			}
		}
		if strings.HasPrefix(t.Name, "_sync_") {
			return fmt.Errorf("device: table %s: names beginning with _sync_ are taken", t.Name)
		}
		if d.local[t.Name] != nil {
			return fmt.Errorf("device: table %s is listed twice", t.Name)
		}
		d.tables = append(d.tables, &t)
		d.wire[t.Schema+"."+t.Name], d.local[t.Name] = &t, &t
	}
	return nil
}

const bookkeeping = `
CREATE TABLE IF NOT EXISTS _sync_state (
	id                    INTEGER PRIMARY KEY CHECK (id = 1),
	source_id             TEXT NOT NULL,
	next_source_bundle_id INTEGER NOT NULL DEFAULT 1,
	last_bundle_seq       INTEGER NOT NULL DEFAULT 0,
	-- a rotation that has begun: asked for again with the same ids until the server has answered
	replacement_source_id TEXT NOT NULL DEFAULT '',
	replacement_reason    TEXT NOT NULL DEFAULT '',
	needs_rebuild         INTEGER NOT NULL DEFAULT 0
);
-- What the definitions of the tables were when the file was last opened.
CREATE TABLE IF NOT EXISTS _sync_tables (tbl TEXT PRIMARY KEY, fingerprint TEXT NOT NULL) WITHOUT ROWID;
-- Set while the server's rows are written, so that the triggers keep quiet.
CREATE TABLE IF NOT EXISTS _sync_apply (applying INTEGER NOT NULL);
-- The version of each row as the server last told us. A deleted row keeps its version: re-creating it needs that.
CREATE TABLE IF NOT EXISTS _sync_rows (
	tbl TEXT NOT NULL, key TEXT NOT NULL, row_version INTEGER NOT NULL, deleted INTEGER NOT NULL,
	PRIMARY KEY (tbl, key)
) WITHOUT ROWID;
-- Rows changed here, with the version the first change was made on. The version stays when a newer one is pulled:
-- that is how the push will conflict instead of overwriting somebody's change. The op is not kept, it follows
-- when the push is frozen from whether the row exists here and whether the base does.
CREATE TABLE IF NOT EXISTS _sync_dirty (
	seq INTEGER PRIMARY KEY AUTOINCREMENT,
	tbl TEXT NOT NULL, key TEXT NOT NULL, base_version INTEGER NOT NULL, base_deleted INTEGER NOT NULL,
	UNIQUE (tbl, key)
);
-- The push under way, frozen. Its number is next_source_bundle_id.
CREATE TABLE IF NOT EXISTS _sync_outbox (
	ordinal INTEGER PRIMARY KEY,
	seq INTEGER NOT NULL,
	tbl TEXT NOT NULL, key TEXT NOT NULL, op TEXT NOT NULL, base_version INTEGER NOT NULL, base_deleted INTEGER NOT NULL,
	payload TEXT,
	UNIQUE (tbl, key)
);
-- A snapshot being downloaded.
CREATE TABLE IF NOT EXISTS _sync_stage (
	tbl TEXT NOT NULL, key TEXT NOT NULL, row_version INTEGER NOT NULL, payload TEXT NOT NULL,
	PRIMARY KEY (tbl, key)
) WITHOUT ROWID;
INSERT INTO _sync_apply SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM _sync_apply);
`

// install brings the file to what the table definitions ask for, in one transaction.
func (d *Device) install(ctx context.Context) error {
	source := d.cfg.SourceID
	if source == "" {
		source = uuid.NewString()
	}
	return d.tx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, bookkeeping); err != nil {
			return fmt.Errorf("device: create bookkeeping tables: %w", err)
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO _sync_state (id, source_id) VALUES (1, ?) ON CONFLICT DO NOTHING`, source); err != nil {
			return err
		}
		for _, t := range d.tables {
			if err := installTable(ctx, tx, t); err != nil {
				return fmt.Errorf("device: table %s: %w", t.Name, err)
			}
		}
		return nil
	})
}

func installTable(ctx context.Context, tx *sql.Tx, t *Table) error {
	var known string
	err := tx.QueryRowContext(ctx, `SELECT fingerprint FROM _sync_tables WHERE tbl = ?`, t.Name).Scan(&known)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	create := t.CreateSQL
	if create == "" {
		create = t.createSQL()
	}
	exists, err := columnsOf(ctx, tx, t.Name)
	if err != nil {
		return err
	}
	if len(exists) == 0 {
		if _, err := tx.ExecContext(ctx, create); err != nil {
			return fmt.Errorf("create: %w", err)
		}
		if exists, err = columnsOf(ctx, tx, t.Name); err != nil {
			return err
		}
	}
	if _, ok := exists[t.Key]; !ok {
		return fmt.Errorf("the key column %s is missing", t.Key)
	}
	for _, c := range t.Columns {
		declared, ok := exists[c.Name]
		if !ok {
			if _, err := tx.ExecContext(ctx, `ALTER TABLE `+q(t.Name)+` ADD COLUMN `+c.definition()); err != nil {
				return fmt.Errorf("add column %s: %w", c.Name, err)
			}
			continue
		}
		// SQLite turns digits in a column of numeric affinity into a double.
		if up := strings.ToUpper(declared); c.Type == Numeric && up != "" && !strings.Contains(up, "TEXT") && !strings.Contains(up, "CHAR") {
			return fmt.Errorf("column %s is declared %s, which would round its digits: declare it TEXT", c.Name, declared)
		}
	}
	for _, stmt := range t.triggers() {
		if _, err := tx.ExecContext(ctx, stmt); err != nil {
			return fmt.Errorf("create trigger: %w", err)
		}
	}
	fingerprint := t.fingerprint()
	if fingerprint == known {
		return nil
	}
	if known == "" { // rows that were there before are local changes
		_, err := tx.ExecContext(ctx, `INSERT INTO _sync_dirty (tbl, key, base_version, base_deleted)
			SELECT ?1, `+q(t.Key)+`, 0, 0 FROM `+q(t.Name)+` WHERE true ON CONFLICT DO NOTHING`, t.Name)
		if err != nil {
			return fmt.Errorf("note rows that were there before: %w", err)
		}
	}
	// What was pulled before was pulled without this table or these columns.
	_, err = tx.ExecContext(ctx, `UPDATE _sync_state SET needs_rebuild = 1 WHERE last_bundle_seq > 0`)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO _sync_tables VALUES (?, ?) ON CONFLICT (tbl) DO UPDATE SET fingerprint = excluded.fingerprint`, t.Name, fingerprint)
	return err
}

// columnsOf maps the columns of a table to their declared types. It is empty when there is no such table.
func columnsOf(ctx context.Context, tx *sql.Tx, table string) (map[string]string, error) {
	rows, err := tx.QueryContext(ctx, `SELECT name, type FROM pragma_table_info(?)`, table)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	columns := map[string]string{}
	for rows.Next() {
		var name, typ string
		if err := rows.Scan(&name, &typ); err != nil {
			return nil, err
		}
		columns[name] = typ
	}
	return columns, rows.Err()
}

func (t *Table) fingerprint() string {
	parts := []string{t.Schema, t.Key, string(t.KeyType)}
	for _, c := range t.Columns {
		parts = append(parts, c.Name+":"+string(c.Type))
	}
	slices.Sort(parts[3:])
	sum := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	return hex.EncodeToString(sum[:])
}

func (c *Column) definition() string {
	def := q(c.Name) + " " + sqlTypes[c.Type]
	if c.References != "" {
		def += " REFERENCES " + c.References + " DEFERRABLE INITIALLY DEFERRED"
	}
	return def
}

// createSQL has no NOT NULL but for the key: what a row must hold is the server's to judge, and a row that the
// server has accepted must fit.
func (t *Table) createSQL() string {
	defs := []string{q(t.Key) + " TEXT NOT NULL PRIMARY KEY"}
	for i := range t.Columns {
		defs = append(defs, t.Columns[i].definition())
	}
	return "CREATE TABLE " + q(t.Name) + " (\n\t" + strings.Join(defs, ",\n\t") + "\n)"
}

// triggers returns the statements that (re)create the triggers of a table.
func (t *Table) triggers() []string {
	const quiet = `(SELECT applying FROM _sync_apply) = 0`
	// No ON CONFLICT or OR IGNORE here: a conflict clause of the statement that fires the trigger would win over it.
	note := func(key string) string {
		return `INSERT INTO _sync_dirty (tbl, key, base_version, base_deleted)
	SELECT '` + t.Name + `', ` + key + `,
		coalesce((SELECT row_version FROM _sync_rows WHERE tbl = '` + t.Name + `' AND key = ` + key + `), 0),
		coalesce((SELECT deleted FROM _sync_rows WHERE tbl = '` + t.Name + `' AND key = ` + key + `), 0)
	WHERE NOT EXISTS (SELECT 1 FROM _sync_dirty WHERE tbl = '` + t.Name + `' AND key = ` + key + `);`
	}
	newKey, oldKey := "NEW."+q(t.Key), "OLD."+q(t.Key)
	bad, want := newKey+` IS NULL`, `a text that is not NULL`
	if t.KeyType == UUIDKey {
		bad += ` OR ` + newKey + ` NOT GLOB '` + uuidGlob + `'`
		want = `a UUID in lower case with dashes`
	}
	check := `SELECT RAISE(ABORT, 'the key ` + t.Name + `.` + t.Key + ` must be ` + want + `') WHERE ` + bad + `;`
	changed := []string{newKey + ` IS NOT ` + oldKey}
	for _, c := range t.Columns {
		changed = append(changed, `NEW.`+q(c.Name)+` IS NOT OLD.`+q(c.Name))
	}
	name := func(suffix string) string { return q("_sync_" + t.Name + "_" + suffix) }
	create := func(suffix, event, when, body string) []string {
		return []string{
			`DROP TRIGGER IF EXISTS ` + name(suffix),
			`CREATE TRIGGER ` + name(suffix) + ` AFTER ` + event + ` ON ` + q(t.Name) + ` WHEN ` + when + ` BEGIN ` + body + ` END`,
		}
	}
	return slices.Concat(
		create("ins", "INSERT", quiet, check+note(newKey)),
		create("upd", "UPDATE", quiet+` AND (`+strings.Join(changed, " OR ")+`)`, check+note(oldKey)+note(newKey)),
		create("del", "DELETE", quiet, note(oldKey)),
	)
}

// q quotes a name for SQLite.
func q(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }
