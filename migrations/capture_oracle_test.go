package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// zoo is an application that does what makes capture hard. Its triggers do what the names of rows ask for, so that the
// random transactions choose.
//
//	account  uuid key; a BEFORE trigger changes or drops rows; an AFTER ROW trigger updates the row that was inserted
//	item     text key; cascades from account, SET NULL on itself; an AFTER DELETE trigger puts some rows back
//	team     a cycle with member; a deferred constraint trigger writes event
//	member   a cycle with team; an AFTER trigger writes account
//	event    partitioned by its key, on two levels; cascades from account
const zoo = `
CREATE SCHEMA app;
CREATE TABLE app.account (
    _sync_scope_id text NOT NULL, id uuid NOT NULL, name text NOT NULL DEFAULT 'plain', touched integer NOT NULL DEFAULT 0, note text,
    PRIMARY KEY (_sync_scope_id, id));
CREATE TABLE app.item (
    id text NOT NULL, _sync_scope_id text NOT NULL, account_id uuid, parent_id text, quantity integer NOT NULL DEFAULT 1, price numeric, weight float8, data bytea, seen timestamptz,
    PRIMARY KEY (_sync_scope_id, id),
    FOREIGN KEY (_sync_scope_id, account_id) REFERENCES app.account ON DELETE CASCADE ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED,
    FOREIGN KEY (_sync_scope_id, parent_id) REFERENCES app.item ON DELETE SET NULL (parent_id) ON UPDATE CASCADE DEFERRABLE);
CREATE TABLE app.team (
    _sync_scope_id text NOT NULL, id text NOT NULL, name text, captain_id uuid,
    PRIMARY KEY (_sync_scope_id, id));
CREATE TABLE app.member (
    _sync_scope_id text NOT NULL, id uuid NOT NULL, name text, team_id text,
    PRIMARY KEY (_sync_scope_id, id),
    FOREIGN KEY (_sync_scope_id, team_id) REFERENCES app.team ON DELETE CASCADE ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED);
ALTER TABLE app.team ADD FOREIGN KEY (_sync_scope_id, captain_id) REFERENCES app.member ON DELETE SET NULL (captain_id) ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED;
CREATE TABLE app.event (
    _sync_scope_id text NOT NULL, id text NOT NULL, account_id uuid, payload jsonb,
    PRIMARY KEY (_sync_scope_id, id),
    FOREIGN KEY (_sync_scope_id, account_id) REFERENCES app.account ON DELETE CASCADE ON UPDATE CASCADE DEFERRABLE) PARTITION BY RANGE (id);
CREATE TABLE app.event_low PARTITION OF app.event FOR VALUES FROM (MINVALUE) TO ('m');
CREATE TABLE app.event_high PARTITION OF app.event FOR VALUES FROM ('m') TO (MAXVALUE) PARTITION BY HASH (id);
CREATE TABLE app.event_high_0 PARTITION OF app.event_high FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE app.event_high_1 PARTITION OF app.event_high FOR VALUES WITH (MODULUS 2, REMAINDER 1);

CREATE FUNCTION app.account_before() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.name = 'dropped' THEN RETURN NULL; END IF;
    IF NEW.name = 'changed' THEN NEW.note := 'by the trigger'; END IF;
    IF TG_OP = 'INSERT' AND NEW.name = 'rekeyed' THEN NEW.id := md5(NEW.id::text)::uuid; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER account_before BEFORE INSERT OR UPDATE ON app.account FOR EACH ROW EXECUTE FUNCTION app.account_before();
CREATE FUNCTION app.account_touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE app.account SET touched = touched + 1 WHERE _sync_scope_id = NEW._sync_scope_id AND id = NEW.id;
    RETURN NULL;
END $$;
CREATE TRIGGER account_touch AFTER INSERT ON app.account FOR EACH ROW WHEN (NEW.name = 'touched') EXECUTE FUNCTION app.account_touch();
CREATE FUNCTION app.item_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO app.item (_sync_scope_id, id, quantity) VALUES (OLD._sync_scope_id, OLD.id, 0) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER item_back AFTER DELETE ON app.item FOR EACH ROW WHEN (OLD.quantity = 99) EXECUTE FUNCTION app.item_back();
CREATE FUNCTION app.member_account() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO app.account AS a (_sync_scope_id, id, name) VALUES (NEW._sync_scope_id, NEW.id, 'member')
    ON CONFLICT (_sync_scope_id, id) DO UPDATE SET touched = a.touched + 1;
    RETURN NULL;
END $$;
CREATE TRIGGER member_account AFTER INSERT OR UPDATE OF name ON app.member FOR EACH ROW EXECUTE FUNCTION app.member_account();
CREATE FUNCTION app.team_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO app.event AS e (_sync_scope_id, id, payload) VALUES (NEW._sync_scope_id, 'team ' || NEW.id, to_jsonb(NEW.name))
    ON CONFLICT (_sync_scope_id, id) DO UPDATE SET payload = excluded.payload;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER team_event AFTER UPDATE ON app.team DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.team_event();
`

// zooSeed fills a scope, so that random statements meet rows from the start.
var zooSeed = []string{
	`INSERT INTO app.account (id, name) VALUES ('00000000-0000-0000-0000-000000000001', 'plain'), ('00000000-0000-0000-0000-000000000002', 'touched'), ('80000000-0000-0000-0000-000000000003', 'changed')`,
	`INSERT INTO app.item (id, account_id, parent_id, quantity) VALUES ('a', '00000000-0000-0000-0000-000000000002', NULL, 1), ('b', '00000000-0000-0000-0000-000000000002', 'a', 99), ('', NULL, 'b', 2)`,
	`INSERT INTO app.team (id, captain_id) VALUES ('a', 'ffffffff-ffff-ffff-ffff-ffffffffffff'), ('b', NULL)`,
	`INSERT INTO app.member (id, team_id) VALUES ('ffffffff-ffff-ffff-ffff-ffffffffffff', 'a'), ('00000000-0000-0000-0000-000000000002', 'a')`,
	`INSERT INTO app.event (id, account_id) VALUES ('a', '00000000-0000-0000-0000-000000000001'), ('z', '00000000-0000-0000-0000-000000000002'), ('ключ', NULL)`,
}

var zooTables = []string{"account", "item", "team", "member", "event"}

func zooRegistered() []string {
	var names []string
	for _, table := range zooTables {
		names = append(names, "app."+table)
	}
	return names
}

// zooRows reads a scope with column lists written by hand, so that nothing of the generated code judges itself.
const zooRows = `
SELECT 'account' AS table_name, q.id::text AS key, row_to_json(q)::text AS content FROM (SELECT id, name, note, touched FROM app.account WHERE _sync_scope_id = $1) q
UNION ALL
SELECT 'item', q.id, row_to_json(q)::text FROM (SELECT account_id, encode(data, 'base64') AS data, id, parent_id, price, quantity, seen, weight FROM app.item WHERE _sync_scope_id = $1) q
UNION ALL
SELECT 'team', q.id, row_to_json(q)::text FROM (SELECT captain_id, id, name FROM app.team WHERE _sync_scope_id = $1) q
UNION ALL
SELECT 'member', q.id::text, row_to_json(q)::text FROM (SELECT id, name, team_id FROM app.member WHERE _sync_scope_id = $1) q
UNION ALL
SELECT 'event', q.id, row_to_json(q)::text FROM (SELECT account_id, id, payload FROM app.event WHERE _sync_scope_id = $1) q`

type rowKey struct{ table, key string }

func zooContent(t require.TestingT, conn *pgx.Conn, scope string) map[rowKey]string {
	content := map[rowKey]string{}
	rows, err := conn.Query(context.Background(), zooRows, scope)
	require.NoError(t, err)
	var table, key, row string
	_, err = pgx.ForEachRow(rows, []any{&table, &key, &row}, func() error {
		content[rowKey{table, key}] = row
		return nil
	})
	require.NoError(t, err)
	return content
}

type effect struct {
	rowKey
	ordinal int
	op      string
	payload string
}

// newestEffects reads the log of the bundle that has the sequence.
func newestEffects(t require.TestingT, conn *pgx.Conn, scope string, seq int64) []effect {
	rows, err := conn.Query(context.Background(), `
		SELECT c.table_name, CASE c.key_type WHEN 'uuid' THEN encode(r.key_bytes, 'hex')::uuid::text ELSE convert_from(r.key_bytes, 'UTF8') END,
		       r.row_ordinal, r.op::text, coalesce(r.payload, '')
		FROM sync.bundle_rows r
		JOIN sync.user_state u ON u.user_pk = r.user_pk
		JOIN sync.table_catalog c ON c.table_id = r.table_id
		WHERE u.user_id = $1 AND r.bundle_seq = $2
		ORDER BY r.row_ordinal`, scope, seq)
	require.NoError(t, err)
	effects, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e effect, err error) {
		err = row.Scan(&e.table, &e.key, &e.ordinal, &e.op, &e.payload)
		return e, err
	})
	require.NoError(t, err)
	return effects
}

// requireEffects compares the log of a bundle with the rows before and after it.
func requireEffects(t require.TestingT, before, after map[rowKey]string, effects []effect) {
	seen := map[rowKey]bool{}
	for i, e := range effects {
		require.Equal(t, i, e.ordinal, "ordinals are dense")
		require.False(t, seen[e.rowKey], "%v has two effects", e.rowKey)
		seen[e.rowKey] = true
		_, was := before[e.rowKey]
		now, is := after[e.rowKey]
		want := effect{rowKey: e.rowKey, ordinal: i, payload: now}
		switch {
		case is && was:
			want.op = "U"
		case is:
			want.op = "I"
		case was:
			want.op = "D"
		}
		require.Equal(t, want, e)
	}
	for key, content := range before {
		if now, is := after[key]; !is || now != content {
			require.True(t, seen[key], "%v changed from %s to %q without an effect", key, content, now)
		}
	}
	for key := range after {
		if _, was := before[key]; !was {
			require.True(t, seen[key], "%v was inserted without an effect", key)
		}
	}
}

// TestCaptureAgainstOracle plays random bundles over the zoo, and compares each bundle with copies of all tables.
func TestCaptureAgainstOracle(t *testing.T) {
	t.Parallel()
	conn := registered(t, zoo, zooRegistered()...)
	exec(t, conn, "SET timezone = 'UTC'")
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		play := &player{t: t, conn: conn, scope: fmt.Sprintf("user-%d", run)}
		for range rapid.IntRange(1, 4).Draw(t, "bundles") {
			play.bundle()
		}
	})
}

// player plays bundles in one scope.
type player struct {
	t          *rapid.T
	conn       *pgx.Conn
	scope      string
	savepoints int
}

func (p *player) exec(sql string, args ...any) {
	_, err := p.conn.Exec(context.Background(), sql, args...)
	require.NoError(p.t, err, sql)
}

func (p *player) bundle() {
	ctx := context.Background()
	committed := zooContent(p.t, p.conn, p.scope)
	stateBefore := p.state()
	p.exec("BEGIN")
	defer func() {
		// Also when a requirement fails: the connection serves the next run.
		if p.conn.PgConn().TxStatus() != 'I' {
			_, err := p.conn.Exec(ctx, "ROLLBACK")
			require.NoError(p.t, err)
		}
	}()
	p.savepoints = 0
	var seq int64
	require.NoError(p.t, p.conn.QueryRow(ctx, "SELECT bundle_seq FROM sync.bundle_open($1, 'test', NULL, true)", p.scope).Scan(&seq))
	require.Equal(p.t, stateBefore.next, seq)
	if seq == 1 {
		for _, sql := range zooSeed {
			p.exec(sql)
		}
	}
	for range rapid.IntRange(1, 12).Draw(p.t, "operations") {
		p.operation()
	}
	var count int
	err := p.conn.QueryRow(ctx, "SELECT sync.bundle_emit()").Scan(&count)
	if p.isRefusal(err) || rapid.IntRange(0, 9).Draw(p.t, "give up") == 9 {
		p.exec("ROLLBACK")
		require.Equal(p.t, committed, zooContent(p.t, p.conn, p.scope))
		require.Equal(p.t, stateBefore, p.state())
		require.Empty(p.t, newestEffects(p.t, p.conn, p.scope, seq))
		return
	}
	after := zooContent(p.t, p.conn, p.scope)
	effects := newestEffects(p.t, p.conn, p.scope, seq)
	require.Len(p.t, effects, count)
	requireEffects(p.t, committed, after, effects)
	want := scopeState{next: seq, rows: int64(len(after))}
	for _, content := range after {
		want.bytes += int64(len(content))
	}
	if count == 0 {
		p.exec("SELECT sync.bundle_abandon()")
	} else {
		p.exec(closeBundle)
		want.next++
	}
	p.exec("COMMIT")
	require.Equal(p.t, after, zooContent(p.t, p.conn, p.scope))
	require.Equal(p.t, want, p.state())
}

type scopeState struct{ next, rows, bytes int64 }

func (p *player) state() scopeState {
	state := scopeState{next: 1}
	err := p.conn.QueryRow(context.Background(),
		"SELECT next_bundle_seq, live_row_count, live_byte_count FROM sync.user_state WHERE user_id = $1", p.scope).Scan(&state.next, &state.rows, &state.bytes)
	if !errors.Is(err, pgx.ErrNoRows) {
		require.NoError(p.t, err)
	}
	return state
}

// isRefusal says whether a constraint refused what the random transaction did. Every other error is a failure.
func (p *player) isRefusal(err error) bool {
	var refusal *pgconn.PgError
	if errors.As(err, &refusal) {
		switch refusal.Code {
		case pgerrcode.UniqueViolation, pgerrcode.ForeignKeyViolation,
			pgerrcode.CheckViolation,               // a row does not belong in the partition
			pgerrcode.FeatureNotSupported,          // ON CONFLICT would move a row to another partition
			pgerrcode.CardinalityViolation,         // ON CONFLICT or MERGE met a row twice
			pgerrcode.TriggeredDataChangeViolation: // a trigger changed the row under the statement
			return true
		}
	}
	require.NoError(p.t, err)
	return false
}

// operation runs one random statement, or something about savepoints. What constraints refuse is taken back.
func (p *player) operation() {
	ctx := context.Background()
	switch rapid.IntRange(0, 9).Draw(p.t, "kind") {
	case 8:
		p.savepoints++
		p.exec(fmt.Sprintf("SAVEPOINT s%d", p.savepoints))
		return
	case 9:
		if p.savepoints > 0 {
			p.savepoints = rapid.IntRange(1, p.savepoints).Draw(p.t, "back to")
			p.exec(fmt.Sprintf("ROLLBACK TO s%d", p.savepoints))
		}
		return
	}
	p.exec("SAVEPOINT statement")
	var err error
	for _, sql := range p.statements() {
		p.t.Log(sql)
		if sql == copyRows {
			err = p.copyRows()
		} else {
			_, err = p.conn.Exec(ctx, sql)
		}
		if err != nil {
			break
		}
	}
	if p.isRefusal(err) {
		p.exec("ROLLBACK TO statement")
	}
	p.exec("RELEASE statement")
}

// zooColumn is a column that random statements write, with the SQL of values that are worth writing.
type zooColumn struct {
	name   string
	values []string
}

const (
	someAccount = "(SELECT a.id FROM app.account a WHERE a._sync_scope_id = $scope ORDER BY a.id OFFSET 1 LIMIT 1)"
	firstMember = "(SELECT m.id FROM app.member m WHERE m._sync_scope_id = $scope ORDER BY m.id LIMIT 1)"
	firstTeam   = "(SELECT m.id FROM app.team m WHERE m._sync_scope_id = $scope ORDER BY m.id LIMIT 1)"
	firstItem   = "(SELECT i.id FROM app.item i WHERE i._sync_scope_id = $scope ORDER BY i.id LIMIT 1)"
	copyRows    = "COPY"
)

// zooColumns are the columns of each table beside its key. The first one is text or takes a string.
var zooColumns = map[string][]zooColumn{
	"account": {{"name", []string{"'plain'", "'dropped'", "'changed'", "'rekeyed'", "'touched'"}}, {"note", []string{"NULL", "''", "E'\\n\u2028<é>'"}}},
	"item": {
		{"parent_id", []string{firstItem, "NULL"}},
		{"account_id", []string{someAccount, someAccount, "NULL"}},
		{"quantity", []string{"1", "2", "99"}},
		{"price", []string{"1.10", "12345678901234567890.0010", "'NaN'"}},
		{"weight", []string{"0.1", "1e300", "'-Infinity'"}},
		{"data", []string{`'\x'`, `'\x00ff80'`}},
		{"seen", []string{"'2024-02-29 23:59:59.123456-11'", "'infinity'", "NULL"}},
	},
	"team":   {{"name", []string{"'red'", "'blue'"}}, {"captain_id", []string{firstMember, "NULL"}}},
	"member": {{"name", []string{"'x'", "'y'"}}, {"team_id", []string{firstTeam, firstTeam, "NULL"}}},
	"event":  {{"payload", []string{`'{"b": 1, "a": [1.50]}'`, "'\"x\"'", "NULL"}}, {"account_id", []string{someAccount, "NULL"}}},
}

var (
	uuidKeys = []string{"00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002", "80000000-0000-0000-0000-000000000003", "ffffffff-ffff-ffff-ffff-ffffffffffff"}
	textKeys = []string{"a", "b", "m", "z", "", "ключ", "team a"}
)

func isUUIDKeyed(table string) bool { return table == "account" || table == "member" }

// keys draws n different keys of a table.
func (p *player) keys(table string, n int) []string {
	pool := textKeys
	if isUUIDKeyed(table) {
		pool = uuidKeys
	}
	return rapid.SliceOfNDistinct(rapid.SampledFrom(pool), n, n, rapid.ID[string]).Draw(p.t, "keys")
}

func (p *player) value(column zooColumn) string {
	return rapid.SampledFrom(column.values).Draw(p.t, column.name)
}

// statements draws what is one operation: one statement, or a few that make sense only together.
func (p *player) statements() []string {
	table := rapid.SampledFrom(zooTables).Draw(p.t, "table")
	columns := zooColumns[table]
	target := "app." + table
	if table == "event" {
		target = rapid.SampledFrom([]string{"app.event", "app.event", "app.event_low", "app.event_high", "app.event_high_0"}).Draw(p.t, "partition")
	}
	keys := p.keys(table, 3)
	column := rapid.SampledFrom(columns).Draw(p.t, "column")
	derivedKey := "left(t.id || '+', 12)"
	if isUUIDKeyed(table) {
		derivedKey = "md5(t.id::text)::uuid"
	}
	where := rapid.SampledFrom([]string{
		"t._sync_scope_id = $scope",
		"t._sync_scope_id = $scope AND t.id = '$key0'",
		"t._sync_scope_id = $scope AND t.id IN ('$key0', '$key1')",
		"t._sync_scope_id = $scope AND t.id > '$key0'",
		"false",
	}).Draw(p.t, "where")
	set := "UPDATE " + target + " AS t SET "
	var statements []string
	switch kind := rapid.SampledFrom([]string{
		"merge", "update", "delete", "swap", "new key", "new keys", "no-op", "insert-select", "insert", "copy", "constraints",
	}).Draw(p.t, "statement"); kind {
	case "insert":
		statements = []string{p.insert(target, columns, keys)}
	case "insert-select":
		names := columnNames(columns)
		statements = []string{fmt.Sprintf("INSERT INTO %s (id, %s) SELECT %s, %s FROM app.%s AS t WHERE %s ORDER BY t.id LIMIT 2 ON CONFLICT DO NOTHING", target, names, derivedKey, names, table, where)}
	case "update":
		statements = []string{set + column.name + " = " + p.value(column) + " WHERE " + where}
	case "no-op":
		statements = []string{set + column.name + " = t." + column.name + " WHERE " + where}
	case "new key":
		statements = []string{set + "id = '$key1' WHERE t._sync_scope_id = $scope AND t.id = '$key0'"}
	case "new keys":
		statements = []string{set + "id = " + derivedKey + " WHERE " + where}
	case "swap":
		for _, step := range []string{"id = '$key2' WHERE t.id = '$key0'", "id = '$key0' WHERE t.id = '$key1'", "id = '$key1' WHERE t.id = '$key2'"} {
			statements = append(statements, set+step+" AND t._sync_scope_id = $scope")
		}
	case "delete":
		statements = []string{"DELETE FROM " + target + " AS t WHERE " + where}
	case "merge":
		cast := "text"
		if isUUIDKeyed(table) {
			cast = "uuid"
		}
		statements = []string{fmt.Sprintf(`
			MERGE INTO %s AS t USING (VALUES ('$key0'::%s, 1), ('$key1', %d), ('$key2', 3)) AS s(id, what) ON t._sync_scope_id = $scope AND t.id = s.id
			WHEN MATCHED AND s.what = 1 THEN DELETE
			WHEN MATCHED AND s.what = 2 THEN DO NOTHING
			WHEN MATCHED THEN UPDATE SET %s = %s
			WHEN NOT MATCHED AND s.what < 3 THEN INSERT (id) VALUES (s.id)`, target, cast, rapid.IntRange(1, 3).Draw(p.t, "what"), column.name, p.value(column))}
	case "copy":
		statements = []string{copyRows}
	case "constraints":
		statements = []string{"SET CONSTRAINTS ALL " + rapid.SampledFrom([]string{"IMMEDIATE", "DEFERRED"}).Draw(p.t, "when")}
	}
	fill := strings.NewReplacer("$scope", "'"+p.scope+"'", "$key0", keys[0], "$key1", keys[1], "$key2", keys[2])
	for i := range statements {
		statements[i] = fill.Replace(statements[i])
	}
	return statements
}

func columnNames(columns []zooColumn) string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.name
	}
	return strings.Join(names, ", ")
}

// insert draws an INSERT of one to three rows, which names the scope or leaves it to the default.
func (p *player) insert(target string, columns []zooColumn, keys []string) string {
	var rows []string
	named := rapid.Bool().Draw(p.t, "names the scope")
	for _, key := range keys[:rapid.IntRange(1, 3).Draw(p.t, "rows")] {
		values := []string{"'" + key + "'"}
		for _, c := range columns {
			values = append(values, p.value(c))
		}
		if named {
			values = append(values, "$scope")
		}
		rows = append(rows, "("+strings.Join(values, ", ")+")")
	}
	names := columnNames(columns)
	if named {
		names += ", _sync_scope_id"
	}
	column := columns[0].name
	return fmt.Sprintf("INSERT INTO %s (id, %s) VALUES %s%s", target, names, strings.Join(rows, ", "), rapid.SampledFrom([]string{
		"", " ON CONFLICT DO NOTHING",
		fmt.Sprintf(" ON CONFLICT (_sync_scope_id, id) DO UPDATE SET %s = excluded.%s", column, column),
		" ON CONFLICT (_sync_scope_id, id) DO UPDATE SET id = 'ffffffff-ffff-ffff-ffff-fffffffffff0'",
	}).Draw(p.t, "conflict"))
}

// copyRows copies rows into a table of a uuid key, and into a partitioned one.
func (p *player) copyRows() error {
	table := rapid.SampledFrom([]string{"account", "event"}).Draw(p.t, "copied table")
	var rows [][]any
	for _, key := range p.keys(table, 3) {
		rows = append(rows, []any{key, p.scope})
	}
	_, err := p.conn.CopyFrom(context.Background(), pgx.Identifier{"app", table}, []string{"id", "_sync_scope_id"}, pgx.CopyFromRows(rows))
	return err
}
