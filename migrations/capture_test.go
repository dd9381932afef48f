package migrations_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
)

func TestTruncateIsRefused(t *testing.T) {
	t.Parallel()
	conn := registered(t, note+`
		CREATE TABLE public.log (_sync_scope_id text NOT NULL, id text NOT NULL, PRIMARY KEY (_sync_scope_id, id)) PARTITION BY HASH (id);
		CREATE TABLE public.log_0 PARTITION OF public.log FOR VALUES WITH (MODULUS 1, REMAINDER 0);
		CREATE TABLE public.unregistered (id text PRIMARY KEY);`, "public.note", "public.log")
	// A foreign key that came after the registration: only then can a registered table refer to one that is not.
	exec(t, conn, "ALTER TABLE public.note ADD COLUMN other text REFERENCES public.unregistered")
	writeBundle(t, conn, "u", "INSERT INTO public.note (id) VALUES ('a')", "INSERT INTO public.log (id) VALUES ('a')")
	for sql, table := range map[string]string{
		"TRUNCATE public.note":                 "public.note",
		"TRUNCATE public.unregistered CASCADE": "public.note",
		"TRUNCATE public.log":                  "public.log",
		"TRUNCATE public.log_0":                "public.log_0",
	} {
		refusal := refused(t, conn, sql)
		require.Equal(t, pgerrcode.ObjectNotInPrerequisiteState, refusal.Code, sql)
		require.Equal(t, "table "+table+" is synced and cannot be truncated", refusal.Message)
		require.Contains(t, refusal.Hint, "DELETE")

		exec(t, conn, "BEGIN")
		exec(t, conn, "SELECT * FROM sync.bundle_open('u', 'test', NULL, true)")
		require.Equal(t, pgerrcode.ObjectNotInPrerequisiteState, refused(t, conn, sql).Code, "inside a bundle too")
		exec(t, conn, "ROLLBACK")
	}
	require.Equal(t, []string{"a", "a"}, column[string](t, conn, "SELECT id FROM public.note UNION ALL SELECT id FROM public.log"))
}

func TestWriteOutsideABundle(t *testing.T) {
	t.Parallel()
	conn := registered(t, zoo, "app.account", "app.item", "app.event")
	writeBundle(t, conn, "u", zooSeed[0], zooSeed[1], zooSeed[4])
	before := zooContent(t, conn, "u")
	writes := []string{
		"INSERT INTO app.account (_sync_scope_id, id) VALUES ('u', gen_random_uuid())",
		"INSERT INTO app.account (_sync_scope_id, id) VALUES ('u', '00000000-0000-0000-0000-000000000001') ON CONFLICT (_sync_scope_id, id) DO UPDATE SET note = 'x'",
		"UPDATE app.account SET note = 'x'",
		"UPDATE app.account SET note = note",
		"DELETE FROM app.account",
		"DELETE FROM app.item WHERE id = 'b'",
		"INSERT INTO app.event_low (_sync_scope_id, id) VALUES ('u', 'c')",
		"UPDATE app.event_high SET payload = '1'",
		"DELETE FROM app.event_low",
		"COPY app.event (_sync_scope_id, id) FROM PROGRAM 'printf \"u\\\\tx\\\\n\"'",
		"MERGE INTO app.account t USING (VALUES (1)) s(x) ON t._sync_scope_id = 'u' WHEN MATCHED THEN DELETE",
		"WITH gone AS (DELETE FROM app.event RETURNING id) SELECT count(*) FROM gone",
	}
	for i, sql := range writes {
		refusal := refused(t, conn, sql)
		require.Equal(t, "OV031", refusal.Code, "%s: %s", sql, refusal.Message)
		require.Contains(t, refusal.Message, "is synced and may be written only inside a bundle")
		require.NotEmpty(t, refusal.Hint)
		require.EqualValues(t, i+1, rejectedWrites(t, conn), "counted although rolled back: %s", sql)
	}
	require.Equal(t, before, zooContent(t, conn, "u"))

	// After a bundle was given up, its transaction is outside a bundle again.
	exec(t, conn, "BEGIN")
	exec(t, conn, "SELECT * FROM sync.bundle_open('u', 'test', NULL, true)")
	exec(t, conn, "SELECT sync.bundle_abandon()")
	require.Equal(t, "OV031", refused(t, conn, "DELETE FROM app.account").Code)
	exec(t, conn, "ROLLBACK")

	// What touches no row needs no bundle.
	for _, sql := range []string{
		"UPDATE app.account SET note = 'x' WHERE false",
		"DELETE FROM app.event WHERE id = 'nobody'",
		"INSERT INTO app.account (_sync_scope_id, id) SELECT 'u', id FROM app.account WHERE false",
		"INSERT INTO app.account (_sync_scope_id, id) SELECT _sync_scope_id, id FROM app.account ON CONFLICT DO NOTHING",
		"INSERT INTO app.account (_sync_scope_id, id, name) VALUES ('u', gen_random_uuid(), 'dropped')",
	} {
		exec(t, conn, sql)
	}
	require.EqualValues(t, len(writes)+1, rejectedWrites(t, conn))
}

func TestRowsOfAnotherScope(t *testing.T) {
	t.Parallel()
	conn := registered(t, note, "public.note")
	for _, scope := range []string{"alice", "Bob", "bob", "z"} {
		require.Equal(t, []string{"I note 1"}, brief(writeBundle(t, conn, scope, "INSERT INTO public.note (id) VALUES (1)")))
	}
	for _, sql := range []string{
		"INSERT INTO public.note (_sync_scope_id, id) VALUES ('alice', '2')",
		"INSERT INTO public.note (_sync_scope_id, id) VALUES ('bob', '2'), ('z', '2')",
		"INSERT INTO public.note (_sync_scope_id, id) VALUES ('bob', '2'), ('alice', '2')",
		"INSERT INTO public.note (_sync_scope_id, id) VALUES ('Bob', '2')",
		"INSERT INTO public.note (_sync_scope_id, id) VALUES ('', '2')",
		"UPDATE public.note SET body = 'x'",
		"UPDATE public.note SET body = 'x' WHERE _sync_scope_id = 'Bob'",
		"UPDATE public.note SET _sync_scope_id = 'carol' WHERE _sync_scope_id = 'bob'",
		"UPDATE public.note SET _sync_scope_id = 'bob', id = '2' WHERE _sync_scope_id = 'z'",
		"DELETE FROM public.note",
		"DELETE FROM public.note WHERE _sync_scope_id <= 'alice'",
	} {
		exec(t, conn, "BEGIN")
		exec(t, conn, "SELECT * FROM sync.bundle_open('bob', 'test', NULL, true)")
		refusal := refused(t, conn, sql)
		require.Equal(t, "OV032", refusal.Code, "%s: %s", sql, refusal.Message)
		require.Contains(t, refusal.Message, "belongs to scope bob")
		require.NotEmpty(t, refusal.Hint)
		exec(t, conn, "ROLLBACK")
	}
	require.Zero(t, rejectedWrites(t, conn), "the counter is of writes outside a bundle")
}

func TestScopeColumnIsFilledByDefault(t *testing.T) {
	t.Parallel()
	conn := registered(t, zoo, "app.account", "app.event")
	writeBundle(t, conn, "u",
		"INSERT INTO app.account (id) VALUES ('00000000-0000-0000-0000-000000000001')",
		"INSERT INTO app.event (id) VALUES ('a')",
		"INSERT INTO app.event_high (id) VALUES ('x')",
	)
	require.Len(t, zooContent(t, conn, "u"), 3)
	refusal := refused(t, conn, "INSERT INTO app.event (id) VALUES ('a')")
	require.Equal(t, pgerrcode.NotNullViolation, refusal.Code, "outside a bundle there is no scope")
}

// TestOrderOfEffects: an effect has the place at which its row was first touched.
func TestOrderOfEffects(t *testing.T) {
	t.Parallel()
	conn := registered(t, zoo, "app.account", "app.item")
	uuid := func(n int) string { return fmt.Sprintf("00000000-0000-0000-0000-%012d", n) }
	require.Equal(t, []string{"I item c", "I item a", "I account " + uuid(1), "I item b"}, brief(writeBundle(t, conn, "u",
		"INSERT INTO app.item (id) VALUES ('c'), ('a')",
		"INSERT INTO app.account (id) VALUES ('"+uuid(1)+"')",
		"INSERT INTO app.item (id) VALUES ('gone'), ('b')",
		"UPDATE app.item SET quantity = 2 WHERE id = 'c'",
		"DELETE FROM app.item WHERE id = 'gone'",
	)))
	require.Equal(t, []string{"U item b", "U item a", "D item c", "I item d"}, brief(writeBundle(t, conn, "u",
		"UPDATE app.item SET quantity = 3 WHERE id = 'b'",
		"UPDATE app.item SET quantity = quantity WHERE id = 'a'",
		"UPDATE app.item SET id = 'd' WHERE id = 'c'",
		"DELETE FROM app.item WHERE id = 'b'",
		"INSERT INTO app.item (id) VALUES ('b')",
	)))
	// The trigger's update of the new row is captured before the insert that caused it, and is one effect with it.
	effects := writeBundle(t, conn, "u", "INSERT INTO app.account (id, name) VALUES ('"+uuid(2)+"', 'touched')")
	require.Equal(t, []string{"I account " + uuid(2)}, brief(effects))
	require.JSONEq(t, `{"id": "`+uuid(2)+`", "name": "touched", "note": null, "touched": 1}`, effects[0].payload)

	require.Empty(t, writeBundle(t, conn, "u", "INSERT INTO app.item (id) VALUES ('x')", "UPDATE app.item SET id = 'y' WHERE id = 'x'", "DELETE FROM app.item WHERE id = 'y'"))
	require.EqualValues(t, 4, value[int64](t, conn, "SELECT next_bundle_seq FROM sync.user_state"), "a bundle without rows uses no number")
}

// TestOrderOfRowsThatATriggerRenames: clients pair the effects of a push with its rows by position, so what the push did not name comes last.
func TestOrderOfRowsThatATriggerRenames(t *testing.T) {
	t.Parallel()
	for name, ddl := range map[string]string{
		"table": note + "CREATE TRIGGER lower BEFORE INSERT ON public.note FOR EACH ROW EXECUTE FUNCTION public.lower_id()",
		"partition": strings.TrimSuffix(note, ";") + " PARTITION BY HASH (id); CREATE TABLE public.part PARTITION OF public.note FOR VALUES WITH (MODULUS 1, REMAINDER 0);" +
			"CREATE TRIGGER lower BEFORE INSERT ON public.part FOR EACH ROW EXECUTE FUNCTION public.lower_id()",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := initialized(t, registered(t, `CREATE FUNCTION public.lower_id() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.id := lower(NEW.id); RETURN NEW; END';`+ddl, "public.note"), "u")
			var rows []stagedRow
			for _, key := range []string{"A", "b", "c"} {
				rows = append(rows, stagedRow{"public.note", "I", 0, key, `{"id":"` + key + `"}`})
			}
			require.Nil(t, push(t, conn, "u", "phone", rows...))
			require.Equal(t, []string{"I note b", "I note c", "I note a"}, brief(newestEffects(t, conn, "u", 1)))
		})
	}
}

// TestDeferredTriggersAreCaptured: what the application deferred to the commit runs before the log is made.
func TestDeferredTriggersAreCaptured(t *testing.T) {
	t.Parallel()
	conn := registered(t, zoo, zooRegistered()...)
	writeBundle(t, conn, "u", "INSERT INTO app.team (id) VALUES ('a')")
	effects := writeBundle(t, conn, "u", "SET CONSTRAINTS ALL DEFERRED", "UPDATE app.team SET name = 'x'", "UPDATE app.team SET name = 'y'")
	require.Equal(t, []string{"U team a", "I event team a"}, brief(effects))
	require.JSONEq(t, `{"id": "team a", "account_id": null, "payload": "y"}`, effects[1].payload)
}

// TestConstraintsMadeImmediate: an application may settle its constraints in the middle of a bundle.
func TestConstraintsMadeImmediate(t *testing.T) {
	t.Parallel()
	conn := registered(t, zoo, zooRegistered()...)
	require.Equal(t, []string{"I team a", "I team b"}, brief(writeBundle(t, conn, "u",
		"SET CONSTRAINTS ALL IMMEDIATE", "INSERT INTO app.team (id) VALUES ('a')", "SET CONSTRAINTS ALL DEFERRED", "INSERT INTO app.team (id) VALUES ('b')", "SET CONSTRAINTS ALL IMMEDIATE")))
}

// TestDeferredTriggersKeepTheirSearchPath: a trigger of the application may rely on the search path of the session.
func TestDeferredTriggersKeepTheirSearchPath(t *testing.T) {
	t.Parallel()
	conn := registered(t, note+`
		CREATE FUNCTION public.note_copy() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO note (_sync_scope_id, id, body) VALUES (NEW._sync_scope_id, NEW.id || ' copy', NEW.body) ON CONFLICT DO NOTHING;
			RETURN NULL;
		END $$;
		CREATE CONSTRAINT TRIGGER note_copy AFTER INSERT ON public.note DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
		WHEN (NEW.id NOT LIKE '%copy') EXECUTE FUNCTION public.note_copy();`, "public.note")
	exec(t, conn, "SET search_path = public")
	require.Equal(t, []string{"I note a", "I note a copy"}, brief(writeBundle(t, conn, "u", "INSERT INTO note (id) VALUES ('a')")))
}

// TestPayloadsDoNotFollowTheSession compares payloads written under odd session settings with those of plain ones.
func TestPayloadsDoNotFollowTheSession(t *testing.T) {
	t.Parallel()
	conn := registered(t, `
		CREATE DOMAIN public.digest AS bytea;
		CREATE TYPE public.pair AS (at timestamptz, ratio float8);
		CREATE TABLE public.sample (
			_sync_scope_id text NOT NULL, id text NOT NULL, at timestamptz, local timestamp, day date, clock timetz, span interval,
			ratio float8, small real, big bigint, exact numeric, data bytea, digest public.digest,
			times timestamptz[], pair public.pair, during tstzrange, spans interval[], blobs bytea[], doc jsonb, raw json, flag boolean, label text, doubled bigint GENERATED ALWAYS AS (big * 2) STORED,
			PRIMARY KEY (_sync_scope_id, id));`, "public.sample")
	// Written as typed constants, so that only output can depend on the session.
	insert := func(id string) string {
		return `INSERT INTO public.sample (id, at, local, day, clock, span, ratio, small, big, exact, data, digest, times, pair, during, spans, blobs, doc, raw, flag, label) VALUES ('` + id + `',
			'2024-02-29 23:59:59.123456-11', '2024-02-29 23:59:59', '2024-02-29', '12:30:00+02', interval 'P1Y2M3DT4H5M6.7S',
			0.1::float8 + 0.2::float8, 0.1::real, 4611686018427387903, 12345678901234567890.1234567890, decode(repeat('fb', 100), 'hex'), decode('00ff', 'hex'),
			ARRAY['2024-02-29 23:59:59-11'::timestamptz, 'infinity'], ROW('2024-02-29 23:59:59-11'::timestamptz, 0.1::float8 + 0.2::float8)::public.pair,
			tstzrange('2024-02-29 23:59:59-11', NULL), ARRAY[interval '1 day 2 hours'], ARRAY[decode('00ff', 'hex')],
			'{"n": 1.50, "big": 12345678901234567890}', '{ "n":1.50,  "n": 2 }', true, E'<é>\u2028"\\')`
	}
	exec(t, conn, "SET timezone = 'UTC'")
	want := writeBundle(t, conn, "u", insert("a"))[0].payload
	require.Equal(t, `{"at":"2024-03-01T10:59:59.123456+00:00","big":4611686018427387903,"blobs":["\\x00ff"],"clock":"12:30:00+02","data":"`+strings.Repeat("+/v7", 33)+`+w==",`+
		`"day":"2024-02-29","digest":"AP8=","doc":{"n": 1.50, "big": 12345678901234567890},"doubled":9223372036854775806,"during":"[\"2024-03-01 10:59:59+00\",)","exact":12345678901234567890.1234567890,`+
		`"flag":true,"id":"a","label":"<é>`+"\u2028"+`\"\\","local":"2024-02-29T23:59:59","pair":{"at":"2024-03-01T10:59:59+00:00","ratio":0.30000000000000004},`+
		`"ratio":0.30000000000000004,"raw":{ "n":1.50,  "n": 2 },"small":0.1,"span":"1 year 2 mons 3 days 04:05:06.7","spans":["1 day 02:00:00"],"times":["2024-03-01T10:59:59+00:00","infinity"]}`, want)

	for _, setting := range []string{
		"timezone = 'Asia/Kolkata'", "datestyle = 'SQL, DMY'", "intervalstyle = 'iso_8601'", "extra_float_digits = -15", "bytea_output = 'escape'",
		"xmlbinary = 'hex'", "standard_conforming_strings = on", "search_path = sync, public",
	} {
		exec(t, conn, "SET "+setting)
	}
	require.Equal(t, strings.Replace(want, `"id":"a"`, `"id":"b"`, 1), writeBundle(t, conn, "u", insert("b"))[0].payload)
	inHex := strings.NewReplacer(`"id":"a"`, `"id":"c"`, strings.Repeat("+/v7", 33)+"+w==", `\\x`+strings.Repeat("fb", 100), "AP8=", `\\x00ff`).Replace(want)
	require.Nil(t, push(t, conn, "u", "phone", stagedRow{"public.sample", "I", 0, "c", inHex}))
	require.Equal(t, strings.Replace(want, `"id":"a"`, `"id":"c"`, 1), newestEffects(t, conn, "u", 3)[0].payload)
	require.Empty(t, column[string](t, conn, "SELECT key FROM sync.verify('u')"), "nor does what compares rows with the log")
	exec(t, conn, "SELECT sync.refresh_table('public.sample')")
	require.Equal(t, []string{"u 3"}, bundleCounts(t, conn), "no row has another form after a refresh")
	require.Equal(t, "Asia/Kolkata", value[string](t, conn, "SHOW timezone"), "the session keeps its settings")
}

// TestMoneyIsWrittenInOneWay: whatever writes values for the wire pins the locale of money too. Another locale than C need not be
// there to be tested with, so that the settings of the functions are looked at.
func TestMoneyIsWrittenInOneWay(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.NewDatabase(t))
	require.Zero(t, value[int](t, conn, `SELECT count(*) FROM pg_proc WHERE 'TimeZone=UTC' = ANY (proconfig) AND NOT 'lc_monetary=C' = ANY (proconfig)`))
	require.NotZero(t, value[int](t, conn, `SELECT count(*) FROM pg_proc WHERE 'TimeZone=UTC' = ANY (proconfig)`))
}

// TestBytesUnderDomains: a domain over a domain over bytea is bytea all the same.
func TestBytesUnderDomains(t *testing.T) {
	t.Parallel()
	conn := registered(t, `
		CREATE DOMAIN public.digest AS bytea;
		CREATE DOMAIN public.sha256 AS public.digest;
		CREATE TABLE public.sample (_sync_scope_id text NOT NULL, id text NOT NULL, data public.sha256, PRIMARY KEY (_sync_scope_id, id));`, "public.sample")
	effects := writeBundle(t, conn, "u", "INSERT INTO public.sample (id, data) VALUES ('a', decode('00ff', 'hex'))")
	require.JSONEq(t, `{"id": "a", "data": "AP8="}`, effects[0].payload)
}

// TestAlteredTables: a table that was altered and not refreshed is still captured whole.
func TestAlteredTables(t *testing.T) {
	t.Parallel()
	const table = `CREATE TABLE public.thing (_sync_scope_id text NOT NULL, id text NOT NULL, a text DEFAULT 'a', b text DEFAULT 'b', PRIMARY KEY (_sync_scope_id, id));`
	for _, c := range []struct{ name, alter, content string }{
		{"column added", "ALTER TABLE public.thing ADD COLUMN c bytea DEFAULT '\\x00ff'", `{"a": "a", "b": "b", "c": "AP8=", "id": "1"}`},
		{"column dropped", "ALTER TABLE public.thing DROP COLUMN b", `{"a": "a", "id": "1"}`},
		{"column renamed", "ALTER TABLE public.thing RENAME COLUMN b TO c", `{"a": "a", "c": "b", "id": "1"}`},
		{"column retyped", "ALTER TABLE public.thing ALTER b DROP DEFAULT, ALTER b TYPE integer USING 7, ALTER b SET DEFAULT 8", `{"a": "a", "b": 8, "id": "1"}`},
		{"columns exchanged", "ALTER TABLE public.thing RENAME a TO c; ALTER TABLE public.thing RENAME b TO a; ALTER TABLE public.thing RENAME c TO b", `{"a": "b", "b": "a", "id": "1"}`},
		{"key renamed", "ALTER TABLE public.thing RENAME id TO nr", `{"a": "a", "b": "b", "nr": "1"}`},
		{"scope renamed", "ALTER TABLE public.thing RENAME _sync_scope_id TO owner", `{"a": "a", "b": "b", "id": "1"}`},
		{"table renamed", "ALTER TABLE public.thing RENAME TO other", `{"a": "a", "b": "b", "id": "1"}`},
		{"table moved", "CREATE SCHEMA app; ALTER TABLE public.thing SET SCHEMA app", `{"a": "a", "b": "b", "id": "1"}`},
		{"table rewritten", "ALTER TABLE public.thing SET UNLOGGED; ALTER TABLE public.thing SET LOGGED; CLUSTER public.thing USING thing_pkey", `{"a": "a", "b": "b", "id": "1"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			conn := registered(t, table, "public.thing")
			// So that plans made before the change are met again.
			writeBundle(t, conn, "u", "INSERT INTO public.thing (id) VALUES ('0')", "DELETE FROM public.thing")
			exec(t, conn, c.alter)
			name := value[string](t, conn, "SELECT relation::text FROM sync.table_catalog")
			key := value[string](t, conn, "SELECT attname::text FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum = 2", name)
			effects := writeBundle(t, conn, "u", "INSERT INTO "+name+" ("+key+") VALUES ('1')")
			require.Equal(t, []string{"I thing 1"}, brief(effects))
			require.JSONEq(t, c.content, effects[0].payload)
			require.Equal(t, []string{"D thing 1", "I thing 2"}, brief(writeBundle(t, conn, "u", "UPDATE "+name+" SET "+key+" = '2'")))
			require.Equal(t, "OV031", refused(t, conn, "DELETE FROM "+name).Code)
			require.Equal(t, []string{"D thing 2"}, brief(writeBundle(t, conn, "u", "DELETE FROM "+name)))
		})
	}
}

// TestPartitionsThatComeLater: a partition that was made after the registration is captured as the others are.
func TestPartitionsThatComeLater(t *testing.T) {
	t.Parallel()
	conn := registered(t, zoo, "app.account", "app.event")
	exec(t, conn, `
		ALTER TABLE app.event DETACH PARTITION app.event_low;
		CREATE TABLE app.event_lower PARTITION OF app.event FOR VALUES FROM (MINVALUE) TO ('m')`)
	require.Equal(t, []string{"I event a"}, brief(writeBundle(t, conn, "u", "INSERT INTO app.event (id) VALUES ('a')")), "through the parent")
	require.Equal(t, "OV031", refused(t, conn, "DELETE FROM app.event_lower").Code)
	require.Equal(t, []string{"U event a"}, brief(writeBundle(t, conn, "u", "UPDATE app.event_lower SET payload = '1'")))
}

// TestKeysThatOnlyACollationHoldsEqual: keys are bytes, so two spellings of one key would be two rows of the log for one row.
func TestKeysThatOnlyACollationHoldsEqual(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.NewDatabase(t))
	exec(t, conn, `
		CREATE COLLATION public.any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
		CREATE TABLE public.word (_sync_scope_id text NOT NULL, id text COLLATE public.any_case NOT NULL, PRIMARY KEY (_sync_scope_id, id))`)
	refusal := refused(t, conn, "SELECT sync.register_table('public.word')")
	require.Equal(t, "OV030", refusal.Code)
	require.Contains(t, refusal.Message, "collation")
}

// TestOneBundleATransaction: a transaction writes one bundle, whose scope it cannot change.
func TestOneBundleATransaction(t *testing.T) {
	t.Parallel()
	conn := registered(t, note, "public.note")
	exec(t, conn, "BEGIN")
	exec(t, conn, "SELECT * FROM sync.bundle_open('u', 'test', NULL, true)")
	require.Equal(t, "OV023", refused(t, conn, "SELECT * FROM sync.bundle_open('v', 'test', NULL, true)").Code)
	exec(t, conn, "ROLLBACK")

	// A bundle that was opened in a savepoint which is gone is not open.
	exec(t, conn, "BEGIN; SAVEPOINT a")
	exec(t, conn, "SELECT * FROM sync.bundle_open('u', 'test', NULL, true)")
	exec(t, conn, "ROLLBACK TO a")
	require.Equal(t, "OV031", refused(t, conn, "INSERT INTO public.note (_sync_scope_id, id) VALUES ('u', '1')").Code)
	exec(t, conn, "ROLLBACK")
	require.Zero(t, value[int](t, conn, "SELECT count(*) FROM sync.open_bundles"))
	require.Zero(t, value[int](t, conn, "SELECT count(*) FROM sync.captured_keys"))
}

// TestNothingIsLeftOfAFinishedBundle: what a running transaction needs goes with it.
func TestNothingIsLeftOfAFinishedBundle(t *testing.T) {
	t.Parallel()
	conn := registered(t, note, "public.note")
	writeBundle(t, conn, "u", "INSERT INTO public.note (id) VALUES ('a')", "UPDATE public.note SET body = 'x'")
	writeBundle(t, conn, "u", "INSERT INTO public.note (id) VALUES ('b')", "DELETE FROM public.note WHERE id = 'b'")
	require.Zero(t, value[int](t, conn, "SELECT count(*) FROM sync.open_bundles"))
	require.Zero(t, value[int](t, conn, "SELECT count(*) FROM sync.captured_keys"))
	require.Equal(t, []int64{1}, column[int64](t, conn, "SELECT bundle_seq FROM sync.bundle_log"))
	require.EqualValues(t, 1, value[int64](t, conn, "SELECT last_source_bundle_id FROM sync.source_state"))
}
