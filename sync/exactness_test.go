package oversync_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
	oversync "github.com/oversync/oversync/sync"
)

// valuesTypesDDL makes the types that valueCases uses beyond PostgreSQL's own.
const valuesTypesDDL = `
CREATE SCHEMA app;
CREATE EXTENSION citext SCHEMA public;
CREATE TYPE app.mood AS ENUM ('sad', 'so so', 'it''s "fine"');
CREATE DOMAIN app.positive AS numeric CHECK (VALUE > 0);
CREATE DOMAIN app.blob AS bytea;
CREATE DOMAIN app.small_blob AS app.blob CHECK (octet_length(VALUE) < 10);
CREATE DOMAIN app.document AS jsonb;
CREATE TYPE app.pair AS (label text, amount numeric, at timestamptz, nested int8[]);
CREATE TYPE app.span AS RANGE (subtype = float8);
CREATE TYPE app.sealed AS (seal bytea, how app.mood, since interval);
CREATE DOMAIN app.scores AS numeric[] CHECK (array_length(VALUE, 1) < 9);
`

// A valueCase is one value of one type, as a device pushes it.
type valueCase struct {
	// columnType is the SQL type, pushed the value in JSON, and literal the same
	// value as PostgreSQL reads it.
	columnType, pushed, literal string
	// pulled is what another device gets. Empty means exactly what was pushed.
	pulled string
}

// valueCases are values at the edges of the types that a table can have.
var valueCases = []valueCase{
	{columnType: "int8", pushed: `9223372036854775807`, literal: `9223372036854775807`},
	{columnType: "int8", pushed: `-9223372036854775808`, literal: `-9223372036854775808`},
	{columnType: "int8", pushed: `9007199254740993`, literal: `9007199254740993`},
	{columnType: "int8", pushed: `"9007199254740993"`, literal: `9007199254740993`, pulled: `9007199254740993`},
	{columnType: "int2", pushed: `-32768`, literal: `-32768`},
	{columnType: "oid", pushed: `"4294967295"`, literal: `4294967295`, pulled: `"4294967295"`},

	{columnType: "numeric", pushed: `0.1`, literal: `0.1`},
	{columnType: "numeric", pushed: `1.10`, literal: `1.10`},
	{columnType: "numeric", pushed: `123456789012345678901234567890.123456789012345678901234567890`, literal: `123456789012345678901234567890.123456789012345678901234567890`},
	{columnType: "numeric", pushed: `-0.00000000000000000000000000000000000001`, literal: `-0.00000000000000000000000000000000000001`},
	{columnType: "numeric", pushed: `1e300`, literal: `1e300`, pulled: `1` + strings.Repeat("0", 300)},
	{columnType: "numeric", pushed: `"NaN"`, literal: `NaN`},
	{columnType: "numeric", pushed: `"-Infinity"`, literal: `-Infinity`},
	{columnType: "numeric(20,5)", pushed: `123456789012345.12345`, literal: `123456789012345.12345`},
	{columnType: "numeric(20,5)", pushed: `-7`, literal: `-7.00000`, pulled: `-7.00000`},

	{columnType: "float8", pushed: `"NaN"`, literal: `NaN`},
	{columnType: "float8", pushed: `"Infinity"`, literal: `Infinity`},
	{columnType: "float8", pushed: `"-Infinity"`, literal: `-Infinity`},
	{columnType: "float8", pushed: `-0`, literal: `-0`},
	{columnType: "float8", pushed: `5e-324`, literal: `4.9406564584124654e-324`},
	{columnType: "float8", pushed: `1.7976931348623157e+308`, literal: `1.7976931348623157e+308`},
	{columnType: "float8", pushed: `1e308`, literal: `1e308`, pulled: `1e+308`},
	{columnType: "float8", pushed: `0.1`, literal: `0.1`},
	{columnType: "float8", pushed: `0.30000000000000004`, literal: `0.30000000000000004`},
	{columnType: "float4", pushed: `1e-45`, literal: `1e-45`},
	{columnType: "float4", pushed: `3.4028235e+38`, literal: `3.4028235e+38`},
	{columnType: "float4", pushed: `16777216`, literal: `16777216`, pulled: `1.6777216e+07`},
	{columnType: "float4", pushed: `"NaN"`, literal: `NaN`},
	{columnType: "float4", pushed: `-0`, literal: `-0`},

	{columnType: "timestamp", pushed: `"1883-11-18T12:03:57.999999"`, literal: `1883-11-18 12:03:57.999999`},
	{columnType: "timestamp", pushed: `"0044-03-15T00:00:00 BC"`, literal: `0044-03-15 00:00:00 BC`},
	{columnType: "timestamp", pushed: `"4713-01-01T00:00:00 BC"`, literal: `4713-01-01 00:00:00 BC`},
	{columnType: "timestamp", pushed: `"12345-12-31T23:59:59.000001"`, literal: `12345-12-31 23:59:59.000001`},
	{columnType: "timestamp", pushed: `"infinity"`, literal: `infinity`},
	{columnType: "timestamp", pushed: `"-infinity"`, literal: `-infinity`},
	{columnType: "timestamptz", pushed: `"2026-02-03T04:05:06.789012+00:00"`, literal: `2026-02-03 04:05:06.789012+00`},
	{columnType: "timestamptz", pushed: `"2026-02-03T04:05:06+05:45"`, literal: `2026-02-02 22:20:06+00`, pulled: `"2026-02-02T22:20:06+00:00"`},
	{columnType: "timestamptz", pushed: `"2026-02-03T04:05:06Z"`, literal: `2026-02-03 04:05:06+00`, pulled: `"2026-02-03T04:05:06+00:00"`},
	// Without an offset it is UTC, not the server's time zone.
	{columnType: "timestamptz", pushed: `"2026-02-03 04:05:06"`, literal: `2026-02-03 04:05:06+00`, pulled: `"2026-02-03T04:05:06+00:00"`},
	{columnType: "timestamptz", pushed: `"1883-11-18T12:03:58+00:00"`, literal: `1883-11-18 12:03:58+00`},
	{columnType: "timestamptz", pushed: `"0001-01-01T00:00:00+00:00 BC"`, literal: `0001-01-01 00:00:00+00 BC`},
	{columnType: "timestamptz", pushed: `"294276-12-31T23:59:59.999999+00:00"`, literal: `294276-12-31 23:59:59.999999+00`},
	{columnType: "timestamptz", pushed: `"infinity"`, literal: `infinity`},
	{columnType: "timestamptz(0)", pushed: `"2026-02-03T04:05:06+00:00"`, literal: `2026-02-03 04:05:06+00`},
	{columnType: "date", pushed: `"0044-03-15 BC"`, literal: `0044-03-15 BC`},
	{columnType: "date", pushed: `"2026-04-03"`, literal: `2026-04-03`},
	{columnType: "date", pushed: `"100000-01-01"`, literal: `100000-01-01`},
	{columnType: "date", pushed: `"-infinity"`, literal: `-infinity`},
	{columnType: "time", pushed: `"24:00:00"`, literal: `24:00:00`},
	{columnType: "time", pushed: `"23:59:59.999999"`, literal: `23:59:59.999999`},
	{columnType: "timetz", pushed: `"04:05:06.7-03:30"`, literal: `04:05:06.7-03:30`},
	{columnType: "timetz", pushed: `"00:00:00+15:59:59"`, literal: `00:00:00+15:59:59`},
	{columnType: "interval", pushed: `"-1 years -2 mons +3 days -04:05:06.000007"`, literal: `-1 year -2 mons +3 days -04:05:06.000007`},
	{columnType: "interval", pushed: `"P1Y2M3DT4H5M6.5S"`, literal: `1 year 2 mons 3 days 04:05:06.5`, pulled: `"1 year 2 mons 3 days 04:05:06.5"`},
	{columnType: "interval", pushed: `"178000000 years"`, literal: `178000000 years`},
	{columnType: "interval", pushed: `"00:00:00"`, literal: `0`},
	{columnType: "interval", pushed: `"-00:00:00.000001"`, literal: `-00:00:00.000001`},

	{columnType: "int8[]", pushed: `[9223372036854775807,null,-1]`, literal: `{9223372036854775807,NULL,-1}`},
	{columnType: "int8[]", pushed: `[]`, literal: `{}`},
	{columnType: "int4[]", pushed: `[[1,2],[3,null]]`, literal: `{{1,2},{3,NULL}}`},
	{columnType: "text[]", pushed: `["NULL",null,"","a\"b","c\\d","{e,f}"]`, literal: `{"NULL",NULL,"","a\"b","c\\d","{e,f}"}`},
	{columnType: "text[]", pushed: `"{\"NULL\",NULL}"`, literal: `{"NULL",NULL}`, pulled: `["NULL",null]`},
	{columnType: "timestamptz[]", pushed: `["0044-03-15T00:00:00+00:00 BC",null,"infinity"]`, literal: `{"0044-03-15 00:00:00+00 BC",NULL,infinity}`},
	{columnType: "float8[]", pushed: `["NaN",-0,1.7976931348623157e+308]`, literal: `{NaN,-0,1.7976931348623157e+308}`},
	{columnType: "interval[]", pushed: `["-1 days +02:03:04"]`, literal: `{-1 days +02:03:04}`},
	{columnType: "app.mood[]", pushed: `["it's \"fine\"","sad"]`, literal: `{"it's \"fine\"",sad}`},
	{columnType: "bytea[]", pushed: `["\\x00ff5c","\\x"]`, literal: `{"\\x00ff5c","\\x"}`},

	{columnType: "jsonb", pushed: `{"a": 123456789012345678901234567890.10, "b": [[], {}, [null, {"c": -0.0}]]}`, literal: `{"a": 123456789012345678901234567890.10, "b": [[], {}, [null, {"c": 0.0}]]}`, pulled: `{"a": 123456789012345678901234567890.10, "b": [[], {}, [null, {"c": 0.0}]]}`},
	{columnType: "jsonb", pushed: `9007199254740993`, literal: `9007199254740993`},
	{columnType: "jsonb", pushed: `"text \"quoted\" \\ 😀"`, literal: `"text \"quoted\" \\ 😀"`},
	{columnType: "jsonb", pushed: `false`, literal: `false`},
	{columnType: "jsonb", pushed: `{"b": 1, "aa": {"z": 1e25}}`, literal: `{"b": 1, "aa": {"z": 1e25}}`, pulled: `{"b": 1, "aa": {"z": 10000000000000000000000000}}`},
	{columnType: "json", pushed: `{"z": 123456789012345678901234567890.10, "a": [1.0, 1e5, "\u00e9"]}`, literal: `{"z": 123456789012345678901234567890.10, "a": [1.0, 1e5, "\u00e9"]}`},
	{columnType: "json", pushed: `  [ 1,  2 ]  `, literal: `[ 1,  2 ]`, pulled: `[ 1,  2 ]`},
	{columnType: "json[]", pushed: `[{"a": 9007199254740993}, [1.10]]`, literal: `{"{\"a\": 9007199254740993}","[1.10]"}`, pulled: `[{"a": 9007199254740993},[1.10]]`},
	{columnType: "app.document", pushed: `{"n": 9007199254740993}`, literal: `{"n": 9007199254740993}`},

	{columnType: "int8range", pushed: `"[1,9223372036854775807)"`, literal: `[1,9223372036854775807)`},
	{columnType: "numrange", pushed: `"(1.10,2.00]"`, literal: `(1.10,2.00]`},
	{columnType: "int4range", pushed: `"empty"`, literal: `empty`},
	{columnType: "daterange", pushed: `"[2026-04-03,)"`, literal: `[2026-04-03,)`},
	{columnType: "tstzrange", pushed: `"[\"2026-04-03 00:00:00+00\",\"2026-05-03 00:00:00+00\")"`, literal: `["2026-04-03 00:00:00+00","2026-05-03 00:00:00+00")`},
	{columnType: "tsrange", pushed: `"(,\"0044-03-15 00:00:00 BC\"]"`, literal: `(,"0044-03-15 00:00:00 BC"]`},
	{columnType: "app.span", pushed: `"[0.30000000000000004,1e+308)"`, literal: `[0.30000000000000004,1e+308)`},
	{columnType: "int4multirange", pushed: `"{[1,3),[5,7)}"`, literal: `{[1,3),[5,7)}`},
	{columnType: "tstzmultirange", pushed: `"{}"`, literal: `{}`},

	{columnType: "app.mood", pushed: `"it's \"fine\""`, literal: `it's "fine"`},
	{columnType: "app.positive", pushed: `0.00001`, literal: `0.00001`},
	{columnType: "app.blob", pushed: `"AP9c"`, literal: `\x00ff5c`},
	{columnType: "app.small_blob", pushed: `"AP9c"`, literal: `\x00ff5c`},
	{columnType: "app.pair", pushed: `{"label":"a,\"(b)\"","amount":1.10,"at":"1883-11-18T12:03:58+00:00","nested":[9007199254740993,null]}`, literal: `("a,""(b)""",1.10,"1883-11-18 12:03:58+00","{9007199254740993,NULL}")`},
	{columnType: "app.pair", pushed: `{"label":null,"amount":null,"at":null,"nested":null}`, literal: `(,,,)`},
	{columnType: "app.pair[]", pushed: `[{"label":"a,\"(b)\"","amount":1.10,"at":"infinity","nested":[]},null]`, literal: `{"(\"a,\"\"(b)\"\"\",1.10,infinity,{})",NULL}`},
	{columnType: "app.sealed", pushed: `{"seal":"\\x00ff5c","how":"it's \"fine\"","since":"-1 days +02:03:04"}`, literal: `("\\x00ff5c","it's ""fine""","-1 days +02:03:04")`},
	{columnType: "app.scores", pushed: `[1.10,null,"NaN",123456789012345678901234567890.5]`, literal: `{1.10,NULL,NaN,123456789012345678901234567890.5}`},
	{columnType: "public.citext", pushed: `"ÀÉ MiXeD"`, literal: `ÀÉ MiXeD`},

	{columnType: "bytea", pushed: `""`, literal: `\x`},
	{columnType: "bytea", pushed: `"AAECXCc="`, literal: `\x0001025c27`},
	{columnType: "bytea", pushed: `"` + strings.Repeat("AAECXCcK", 40_000) + `"`, literal: `\x` + strings.Repeat("0001025c270a", 40_000)},

	{columnType: "text", pushed: `""`, literal: ``},
	{columnType: "text", pushed: `"\" \\ / \b \f \n \r \t"`, literal: "\" \\ / \b \f \n \r \t"},
	{columnType: "text", pushed: `"\u0001\u001f\u007f"`, literal: "\u0001\u001f\u007f", pulled: "\"\\u0001\\u001f\u007f\""},
	{columnType: "text", pushed: `"\u003c\u003e\u0026\u2028\u2029"`, literal: "<>&\u2028\u2029", pulled: "\"<>&\u2028\u2029\""},
	{columnType: "text", pushed: `"\ud83d\ude00 😀 𐍈"`, literal: "😀 😀 𐍈", pulled: `"😀 😀 𐍈"`},
	{columnType: "text", pushed: `"\\u0000 is six characters"`, literal: `\u0000 is six characters`},
	{columnType: "text", pushed: `"null"`, literal: `null`},
	{columnType: "char(5)", pushed: `"ab   "`, literal: `ab`},
	{columnType: "char(3)[]", pushed: `["a  ","bcd"]`, literal: `{a,bcd}`},
	{columnType: "varchar(5)", pushed: `"ab   "`, literal: `ab   `},
	{columnType: "name", pushed: `"A b"`, literal: `A b`},
	{columnType: "bool", pushed: `true`, literal: `true`},
	{columnType: "uuid", pushed: `"01890a5d-ac96-774b-bcce-b302099a8057"`, literal: `01890a5d-ac96-774b-bcce-b302099a8057`},
	{columnType: "inet", pushed: `"2001:db8::1/64"`, literal: `2001:db8::1/64`},
	{columnType: "cidr", pushed: `"10.0.0.0/8"`, literal: `10.0.0.0/8`},
	{columnType: "macaddr8", pushed: `"08:00:2b:01:02:03:04:05"`, literal: `08:00:2b:01:02:03:04:05`},
	{columnType: "bit(5)", pushed: `"00101"`, literal: `00101`},
	{columnType: "varbit", pushed: `""`, literal: ``},
	{columnType: "point", pushed: `"(0.30000000000000004,-1e+308)"`, literal: `(0.30000000000000004,-1e+308)`},
	{columnType: "polygon", pushed: `"((0,0),(1,1),(0.1,0.7))"`, literal: `((0,0),(1,1),(0.1,0.7))`},
	{columnType: "tsvector", pushed: `"'a':1A 'it''s':2"`, literal: `'a':1A 'it''s':2`},
	{columnType: "tsquery", pushed: `"'a' & !'it''s'"`, literal: `'a' & !'it''s'`},
	{columnType: "xml", pushed: `"<a b=\"1\">\u00e9 &amp; \u0026lt;</a>"`, literal: `<a b="1">é &amp; &lt;</a>`, pulled: `"<a b=\"1\">é &amp; &lt;</a>"`},
	{columnType: "xml", pushed: `"a<b/>"`, literal: `a<b/>`},
	{columnType: "money", pushed: `"-$92,233,720,368,547,758.08"`, literal: `-$92,233,720,368,547,758.08`},
	{columnType: "pg_lsn", pushed: `"16/B374D848"`, literal: `16/B374D848`},
	{columnType: "jsonpath", pushed: `"$.\"a\"[*]?(@ > 1)"`, literal: `$.a[*] ? (@ > 1)`, pulled: `"$.\"a\"[*]?(@ > 1)"`},
}

// hostileSettings are what somebody may have set on a database for reasons of
// their own. None of it may show on the wire or in what is stored.
var hostileSettings = map[string][]string{
	"the defaults":        nil,
	"TimeZone":            {"timezone = 'Asia/Kathmandu'"},
	"TimeZone with DST":   {"timezone = 'America/St_Johns'"},
	"DateStyle German":    {"datestyle = 'German, DMY'"},
	"DateStyle SQL":       {"datestyle = 'SQL, DMY'"},
	"DateStyle Postgres":  {"datestyle = 'Postgres, MDY'", "timezone = 'America/New_York'"},
	"IntervalStyle ISO":   {"intervalstyle = 'iso_8601'"},
	"IntervalStyle SQL":   {"intervalstyle = 'sql_standard'"},
	"IntervalStyle long":  {"intervalstyle = 'postgres_verbose'"},
	"bytea_output":        {"bytea_output = 'escape'"},
	"few float digits":    {"extra_float_digits = -15"},
	"old float digits":    {"extra_float_digits = 0"},
	"many float digits":   {"extra_float_digits = 3"},
	"array_nulls":         {"array_nulls = off"},
	"isolation":           {"default_transaction_isolation = 'serializable'"},
	"search path":         {"search_path = ''"},
	"string conformity":   {"standard_conforming_strings = off", "escape_string_warning = off"},
	"everything together": everySetting,
}

// everySetting puts everything that changes how values are written off at once.
var everySetting = []string{
	"timezone = 'Pacific/Chatham'", "datestyle = 'SQL, DMY'", "intervalstyle = 'sql_standard'",
	"bytea_output = 'escape'", "extra_float_digits = -15", "array_nulls = off", "lc_numeric = 'C'", "xmloption = 'document'",
}

// TestValuesKeepEveryDigit pushes each value as an INSERT from one device, looks at
// what is stored, pulls it on another device, in a snapshot too, and pushes it back
// as an UPDATE.
func TestValuesKeepEveryDigit(t *testing.T) {
	t.Parallel()
	for name, settings := range hostileSettings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newValues(t, settings)
			rows := make([]oversync.PushRequestRow, len(valueCases))
			for i, c := range valueCases {
				rows[i] = valueRow(oversync.OpInsert, i, 0, w.column[c.columnType], c.pushed)
			}
			w.writer.mustPush(t, rows...)
			w.requireStored(t, valueCases)
			want := make([]string, len(valueCases))
			for i, c := range valueCases {
				want[i] = c.pulled
				if want[i] == "" {
					want[i] = c.pushed
				}
			}
			first := w.pullValues(t, valueCases)
			require.Equal(t, want, first)
			require.Equal(t, first, w.snapshotValues(t, valueCases))

			// What was pulled is a value that can be pushed.
			for i, c := range valueCases {
				rows[i] = valueRow(oversync.OpUpdate, i, 1, w.column[c.columnType], first[i])
			}
			w.writer.mustPush(t, rows...)
			w.requireStored(t, valueCases)
			require.Equal(t, first, w.pullValues(t, valueCases))
		})
	}
}

// values is a table with a column for each type, and two devices.
type values struct {
	service        *oversync.SyncService
	column         map[string]string // by type
	exact          *pgxpool.Pool     // shows every digit, whatever the database is set to
	writer, reader *device
}

func newValues(t *testing.T, settings []string) *values {
	t.Helper()
	url := pgtest.NewDatabase(t)
	setup, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	w := &values{column: map[string]string{}}
	ddl := valuesTypesDDL + "CREATE TABLE app.things (_sync_scope_id text NOT NULL, id text NOT NULL"
	for _, c := range valueCases {
		if w.column[c.columnType] == "" {
			w.column[c.columnType] = fmt.Sprintf("c%d", len(w.column))
			ddl += fmt.Sprintf(", %s %s", w.column[c.columnType], c.columnType)
		}
	}
	_, err = setup.Exec(t.Context(), ddl+", PRIMARY KEY (_sync_scope_id, id))")
	require.NoError(t, err)
	for _, setting := range settings {
		_, err = setup.Exec(t.Context(), "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET "+strings.ReplaceAll(setting, "'", "''")+"', current_database()); END $$")
		require.NoError(t, err)
	}
	require.NoError(t, setup.Close(t.Context()))

	pool, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	w.service = newService(t, pool, "SELECT", &oversync.ServiceConfig{RegisteredTables: tables("app.things")})
	w.connect(t, "anna")

	config, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	for name, value := range map[string]string{
		"timezone": "UTC", "datestyle": "ISO, MDY", "intervalstyle": "postgres", "bytea_output": "hex",
		"extra_float_digits": "1", "array_nulls": "on", "standard_conforming_strings": "on", "xmloption": "content",
	} {
		config.ConnConfig.RuntimeParams[name] = value
	}
	w.exact, err = pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(w.exact.Close)
	return w
}

// connect goes on with two devices of another user.
func (w *values) connect(t testing.TB, user string) {
	w.writer, w.reader = newDevice(t, w.service, user, "phone"), newDevice(t, w.service, user, "tablet")
}

// valueRow is the push of one value into its column.
func valueRow(op string, n int, version int64, column, value string) oversync.PushRequestRow {
	return oversync.PushRequestRow{
		Schema: "app", Table: "things", Key: oversync.SyncKey{"id": fmt.Sprint(n)}, Op: op, BaseRowVersion: version,
		Payload: json.RawMessage(fmt.Sprintf(`{%q:%s}`, column, value)),
	}
}

// requireStored compares what is stored with the literals. Text tells apart what
// equality does not: -0 and 0, 1.0 and 1.00.
func (w *values) requireStored(t require.TestingT, cases []valueCase) {
	batch := &pgx.Batch{}
	for i, c := range cases {
		query := fmt.Sprintf("SELECT t.%[1]s::text, $1::text::%[2]s::text FROM app.things t WHERE t._sync_scope_id = $2 AND t.id = $3", w.column[c.columnType], c.columnType)
		batch.Queue(query, c.literal, w.writer.actor.UserID, fmt.Sprint(i))
	}
	results := w.exact.SendBatch(context.Background(), batch)
	defer func() { require.NoError(t, results.Close()) }()
	stored, want := map[string]string{}, map[string]string{}
	for i, c := range cases {
		var isStored, isMeant *string
		require.NoError(t, results.QueryRow().Scan(&isStored, &isMeant), "%s %.60s", c.columnType, c.literal)
		name := fmt.Sprintf("%d: %s %.60s", i, c.columnType, c.pushed)
		require.NotNil(t, isStored, name)
		stored[name], want[name] = *isStored, *isMeant
	}
	require.Equal(t, want, stored)
}

// pullValues returns the value of each case in the newest bundle.
func (w *values) pullValues(t require.TestingT, cases []valueCase) []string {
	bundles, err := w.reader.pull(context.Background())
	require.NoError(t, err)
	require.Len(t, bundles, 1)
	require.Len(t, bundles[0].Rows, len(cases))
	got := make([]string, len(cases))
	for i, row := range bundles[0].Rows {
		require.Equal(t, oversync.SyncKey{"id": fmt.Sprint(i)}, row.Key)
		got[i] = w.value(t, row.Payload, cases[i])
	}
	return got
}

// snapshotValues is pullValues by way of a snapshot.
func (w *values) snapshotValues(t testing.TB, cases []valueCase) []string {
	t.Helper()
	session, err := w.reader.service.CreateSnapshotSession(t.Context(), w.reader.actor)
	require.NoError(t, err)
	chunk, err := w.reader.service.GetSnapshotChunk(t.Context(), w.reader.actor, session.SnapshotID, 0, 0)
	require.NoError(t, err)
	require.Len(t, chunk.Rows, len(cases))
	byKey := map[any]json.RawMessage{}
	for _, row := range chunk.Rows {
		byKey[row.Key["id"]] = row.Payload
	}
	got := make([]string, len(cases))
	for i, c := range cases {
		got[i] = w.value(t, byKey[fmt.Sprint(i)], c)
	}
	return got
}

// value takes one column's text out of a payload, and checks that the others are
// null.
func (w *values) value(t require.TestingT, payload json.RawMessage, c valueCase) string {
	var columns map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(payload, &columns))
	require.Len(t, columns, len(w.column)+1)
	for name, value := range columns {
		if name != w.column[c.columnType] && name != "id" {
			require.Equal(t, "null", string(value))
		}
	}
	return string(columns[w.column[c.columnType]])
}
