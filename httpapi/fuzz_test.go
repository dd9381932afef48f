package httpapi_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	oversync "github.com/oversync/oversync/sync"
)

// thingsSchema adds a table with a column of many a type, since each reads a
// pushed value in its own way.
const thingsSchema = contractSchema + `
create type business.mood as enum ('good', 'bad');
create domain business.even as integer check (value % 2 = 0);
create type business.pair as (a integer, b text);
create table business.things (
    _sync_scope_id text not null,
    id    uuid not null,
    i2 smallint, i8 bigint, n numeric(10,2), f4 real, f8 double precision, ok boolean,
    d date, t time, tz timetz, ts timestamp, tstz timestamptz, iv interval,
    u uuid, js json, jb jsonb, words text[], grid integer[], blobs bytea[], ip inet, mac macaddr,
    span int4range, spans tstzmultirange, mood business.mood, even business.even, pair business.pair, pairs business.pair[],
    bits bit(3), p point, vec tsvector, c3 char(3), money money, doc xml, search tsquery, path jsonpath,
    always bigint generated always as identity, twice numeric generated always as (n * 2) stored,
    primary key (_sync_scope_id, id)
);
`

var fuzzColumns = map[string][]string{
	"users": {"email", "age"},
	"posts": {"author_id", "title"},
	"notes": {"body", "meta", "at", "amount", "length"},
	"things": strings.Fields("i2 i8 n f4 f8 ok d t tz ts tstz iv u js jb words grid blobs ip mac span spans mood even pair pairs " +
		"bits p vec c3 money doc search path always twice"),
}

var fuzzTables = []string{"users", "posts", "notes", "things"}

// fuzzValues are JSON values that some column or some reader may choke on.
var fuzzValues = []string{
	`null`, `true`, `false`, `0`, `-0`, `1`, `-1`, `1.5`, `32768`, `2147483648`, `9007199254740993`, `9223372036854775807`, `9223372036854775808`,
	`1e400`, `-1e400`, `1e-400`, `1e308`, `1e5`, `123456789012345678901234567890.123456789`, `0.1e1`, `1E+2`,
	`""`, `" "`, `"a"`, `"\u0000"`, `"\\u0000"`, `"\ud800"`, `"\udc00\ud800"`, `"\ud83d\ude00"`, `"\u2028<>&"`, `"é"`, `"NaN"`, `"Infinity"`, `"-infinity"`,
	`"YQ=="`, `"YQ"`, `"=="`, `"\\x00"`, `"00000000-0000-4000-8000-000000000001"`, `"ABCDEF00-0000-4000-8000-000000000001"`,
	`"2026-01-02T03:04:05.123456Z"`, `"0001-01-01 BC"`, `"infinity"`, `"294277-01-01"`, `"now"`, `"24:00:00"`, `"1 year -3 days"`, `"P1Y2M"`,
	`"{a,b}"`, `"{{1,2},{3,4}}"`, `"{{1},{2,3}}"`, `"{"`, `"[1,5)"`, `"empty"`, `"[5,1)"`, `"(1,x)"`, `"(,)"`, `"good"`, `"ugly"`, `"101"`, `"(1,2)"`, `"10.0.0.0/8"`,
	`"<a>"`, `"<a/>"`, `"<!DOCTYPE a><a/>"`, `"a & b"`, `"a &"`, `"$.a[*] ? (@ > 1)"`, `"$..x"`, `"$1.00"`, `"08:00:2b:01:02:03"`, `2`, `3`,
	`[]`, `{}`, `[null]`, `[1,2,3]`, `["a","b"]`, `[[1,2],[3,4]]`, `[[1],[2,3]]`, `[1,[2]]`, `{"a":1,"b":"x"}`, `{"a":"x"}`, `{"a":1,"a":2}`, `[{"a":1}]`, `[{"a":{}}]`,
	`{"":""}`, `{"\u0000":1}`, `{"a":{"b":[1e400]}}`, `[[[[[[[[[[]]]]]]]]]]`,
}

// fuzzTexts are ids, numbers of queries and the like.
var fuzzTexts = []string{
	"", " ", "0", "1", "2", "3", "-1", "01", "+1", "1.5", "1e3", "x", "5000", "5001", "2147483648", "9223372036854775807", "9223372036854775808", "%00", "%zz", "%2F", "null",
	"00000000-0000-4000-8000-000000000001", "ffffffff-ffff-ffff-ffff-ffffffffffff", "source", "other", "é", "a\u0085", "a\xff", strings.Repeat("x", 255), strings.Repeat("x", 256),
}

// fuzzTokens are put into bodies at random places.
var fuzzTokens = []string{
	`"`, `\`, `{`, `}`, `[`, `]`, `,`, `:`, `null`, `0`, `1e999`, "\x00", "\xff", "\u2028", ` `, `\u0000`, `\ud800`, `"rows":`, `"payload":`, `"op":"DELETE"`, "\ufeff", `//`, `-`, `1.`, `1e`,
	`"initialization_id":"x",`, `"key":{"id":"a"},`, `"schema":"business",`, strings.Repeat("[", 10_001), strings.Repeat(`{"a":`, 10_001),
}

// choices turns the fuzzer's bytes into decisions. When they run out, every
// decision is the first.
type choices struct{ data []byte }

func (c *choices) below(n int) int {
	if len(c.data) == 0 || n <= 1 {
		return 0
	}
	if n <= 256 {
		b := c.data[0]
		c.data = c.data[1:]
		return int(b) % n
	}
	var two [2]byte
	c.data = c.data[copy(two[:], c.data):]
	return int(binary.BigEndian.Uint16(two[:])) % n
}

func (c *choices) one(of []string) string { return of[c.below(len(of))] }

// rarely is true for one byte in n, and never when the bytes have run out.
func (c *choices) rarely(n int) bool { return c.below(n) == n-1 }

// fuzzDevice is a device that does what the choices say. It remembers enough to
// make requests that are well formed most of the time.
type fuzzDevice struct {
	device
	*choices
	pushIDs, snapshotIDs, initializations []string
	nextBundle, staged, version           int
	script                                strings.Builder // what was asked and answered, for a failure
}

// request makes one request.
func (d *fuzzDevice) request() (method, path, body string) {
	switch d.below(13) {
	default:
		return "POST", "/sync/connect", d.object("has_local_pending_rows", d.boolean())
	case 1:
		return d.create(1 + d.below(3))
	case 2:
		return d.chunk(1 + d.below(3))
	case 3:
		return d.commit()
	case 4:
		return "DELETE", d.one([]string{"/sync/push-sessions/" + d.remembered(d.pushIDs), "/sync/snapshot-sessions/" + d.remembered(d.snapshotIDs)}), ""
	case 5:
		return "GET", "/sync/committed-bundles/" + d.text(strconv.Itoa(max(1, d.version-d.below(3)))) + "/rows" + d.query(4, "after_row_ordinal", "max_rows"), ""
	case 6:
		return "GET", "/sync/pull" + d.query(d.version+2, "after_bundle_seq", "max_bundles", "target_bundle_seq"), ""
	case 7:
		return "POST", "/sync/snapshot-sessions", ""
	case 8:
		return "POST", "/sync/snapshot-sessions", d.object("source_replacement", d.object(
			"previous_source_id", d.quoted(d.text(d.source)), "new_source_id", d.quoted(d.text("next")), "reason", d.quoted(d.text("history_pruned"))))
	case 9, 10:
		return "GET", "/sync/snapshot-sessions/" + d.remembered(d.snapshotIDs) + d.query(4, "after_row_ordinal", "max_rows"), ""
	case 11:
		return "GET", d.one([]string{"/sync/capabilities", "/syncx/status", "/syncx/health", "/", "/sync/" + d.one(fuzzTexts[:20])}), ""
	case 12:
		return "GET", "/sync/watch" + d.query(d.version+2, "after_bundle_seq"), ""
	}
}

func (d *fuzzDevice) create(rows int) (method, path, body string) {
	members := []string{"source_bundle_id", d.number(d.nextBundle), "planned_row_count", d.number(rows)}
	if len(d.initializations) > 0 || d.rarely(30) {
		members = append(members, "initialization_id", d.quoted(d.remembered(d.initializations)))
	}
	d.staged = 0
	return "POST", "/sync/push-sessions", d.object(members...)
}

func (d *fuzzDevice) chunk(count int) (method, path, body string) {
	rows := make([]string, count)
	for i := range rows {
		rows[i] = d.row()
	}
	return "POST", "/sync/push-sessions/" + d.remembered(d.pushIDs) + "/chunks",
		d.object("start_row_ordinal", d.number(d.staged), "rows", "["+strings.Join(rows, ",")+"]")
}

func (d *fuzzDevice) commit() (method, path, body string) {
	return "POST", "/sync/push-sessions/" + d.remembered(d.pushIDs) + "/commit", ""
}

func (d *fuzzDevice) row() string {
	table := fuzzTables[len(fuzzTables)-1-d.below(len(fuzzTables))]
	op := d.one([]string{"INSERT", "INSERT", "INSERT", "UPDATE", "DELETE"})
	members := []string{
		"schema", `"business"`, "table", strconv.Quote(table), "key", d.object("id", d.quoted(d.text(id(1+d.below(250))))), "op", d.quoted(d.text(op)),
		"base_row_version", d.number(d.one2(0, d.version)),
	}
	if op != "DELETE" || d.rarely(20) {
		var payload []string
		if table == "users" {
			payload = append(payload, "name", `"n"`)
		}
		for _, column := range fuzzColumns[table] {
			if d.rarely(8) {
				payload = append(payload, column, d.one(fuzzValues))
			}
		}
		if d.rarely(50) {
			payload = append(payload, d.one([]string{"id", "data", "_sync_scope_id", "nothing", "NAME", ""}), d.one(fuzzValues))
		}
		members = append(members, "payload", d.object(payload...))
	}
	return d.object(members...)
}

func (d *fuzzDevice) one2(usual, other int) int {
	if d.rarely(4) {
		return other
	}
	return usual
}

// object makes a JSON object of names and values, and now and then leaves one
// out, doubles one, or replaces a value.
func (d *fuzzDevice) object(members ...string) string {
	var out []string
	for i := 0; i+1 < len(members); i += 2 {
		name, value := members[i], members[i+1]
		switch {
		case d.rarely(200):
			continue
		case d.rarely(200):
			value = d.one(fuzzValues)
		case d.rarely(250):
			out = append(out, strconv.Quote(strings.ToUpper(name))+":"+value)
		}
		out = append(out, strconv.Quote(name)+":"+value)
	}
	return "{" + strings.Join(out, ",") + "}"
}

func (d *fuzzDevice) query(most int, names ...string) string {
	var out []string
	for _, name := range names {
		if d.below(2) == 1 {
			out = append(out, name+"="+d.text(strconv.Itoa(d.below(most))))
		}
	}
	return "?" + strings.Join(out, "&")
}

// quoted makes a JSON string of any bytes, good or bad.
func (d *fuzzDevice) quoted(text string) string {
	return `"` + strings.NewReplacer(`"`, `\"`, `\`, `\\`, "%00", `\u0000`).Replace(text) + `"`
}

func (d *fuzzDevice) boolean() string { return d.one([]string{"true", "false"}) }

func (d *fuzzDevice) text(usual string) string {
	if d.rarely(60) {
		return d.one(fuzzTexts)
	}
	return usual
}

func (d *fuzzDevice) number(usual int) string {
	if d.rarely(60) {
		return d.one(fuzzValues)
	}
	return strconv.Itoa(usual)
}

func (d *fuzzDevice) remembered(ids []string) string {
	if len(ids) == 0 {
		return d.text(id(9))
	}
	return d.text(ids[len(ids)-1])
}

// damaged changes a body at random places.
func (d *fuzzDevice) damaged(body string) string {
	for range 1 + d.below(3) {
		at := d.below(len(body) + 1)
		switch d.below(3) {
		case 0:
			body = body[:at] + d.one(fuzzTokens) + body[at:]
		case 1:
			body = body[:at]
		default:
			end := min(len(body), at+1+d.below(8))
			body = body[:at] + body[end:]
		}
	}
	return body
}

// learn remembers what an answer said.
func (d *fuzzDevice) learn(body []byte) {
	var got struct {
		PushID           string `json:"push_id"`
		SnapshotID       string `json:"snapshot_id"`
		InitializationID string `json:"initialization_id"`
		Next             int    `json:"next_expected_row_ordinal"`
		BundleSeq        int    `json:"bundle_seq"`
		SourceBundleID   int    `json:"source_bundle_id"`
	}
	if json.Unmarshal(body, &got) != nil {
		return
	}
	if got.PushID != "" {
		d.pushIDs = append(d.pushIDs, got.PushID)
	}
	if got.SnapshotID != "" {
		d.snapshotIDs = append(d.snapshotIDs, got.SnapshotID)
	}
	if got.InitializationID != "" {
		d.initializations = append(d.initializations, got.InitializationID)
	}
	if got.Next > 0 {
		d.staged = got.Next
	}
	if got.BundleSeq > 0 && got.SourceBundleID > 0 {
		d.nextBundle, d.version, d.initializations = got.SourceBundleID+1, got.BundleSeq, nil
	}
}

// FuzzRequests sends scripts of requests, most of them well formed, against a real
// database. None may be answered with a 5xx, and a refusal always has its code.
func FuzzRequests(f *testing.F) {
	a := newUncheckedAPI(f, thingsSchema, func(c *oversync.ServiceConfig) {
		c.RegisteredTables = append(c.RegisteredTables, oversync.RegisteredTable{Schema: "business", Table: "things", SyncKeyColumns: []string{"id"}})
		c.RetainedBundlesPerUser = 2
		c.MaxRowsPerBundle, c.MaxBytesPerBundle = 100, 10_000
		c.BundleChangeWatch.Enabled = true
	})
	f.Add([]byte{})
	// Long scripts of everything.
	random := rand.NewChaCha8([32]byte{})
	for range 50 {
		script := make([]byte, 1500)
		_, _ = random.Read(script)
		f.Add(script)
	}

	var users atomic.Int64
	f.Fuzz(func(t *testing.T, data []byte) {
		// A user of its own, so that a script gives the same answers each time.
		user := fmt.Sprintf("fuzz-%d", users.Add(1))
		d := &fuzzDevice{device: a.device(user, "source"), choices: &choices{data}, nextBundle: 1}
		d.t = t
		d.send("POST", "/sync/connect", `{"has_local_pending_rows":`+d.one([]string{"false", "false", "true"})+`}`)
		for step := 0; step < 40 && len(d.data) > 0; step++ {
			if rows := d.below(6); rows > 0 && rows < 4 {
				// A whole push, since one request alone seldom comes that far.
				d.send(d.create(rows))
				d.send(d.chunk(rows))
				d.send(d.commit())
			} else {
				d.send(d.request())
			}
		}
		if t.Failed() {
			t.Log(d.script.String())
		}
	})
}

// send sends one request, at times damaged, and judges the answer by its form.
func (d *fuzzDevice) send(method, path, body string) {
	d.t.Helper()
	if d.rarely(30) {
		body = d.damaged(body)
	}
	if d.rarely(100) {
		method = d.one([]string{"PUT", "HEAD", "GET", "POST", "DELETE"})
	}
	req, err := http.NewRequestWithContext(d.t.Context(), method, d.url, strings.NewReader(body))
	require.NoError(d.t, err)
	// Opaque, so that a path that is not well formed is sent as it is.
	req.URL.Opaque, req.URL.RawQuery, _ = strings.Cut(path, "?")
	user := d.user
	if d.rarely(60) {
		user = d.one(append([]string{"somebody-else"}, fuzzTexts...))
	}
	req.Header.Set("Authorization", "Bearer "+user)
	req.Header.Set(oversync.SourceIDHeader, d.text(d.source))
	resp, err := d.client.Do(req)
	require.NoError(d.t, err, "%s %s %.2000q", method, path, body)
	contentType := resp.Header.Get("Content-Type")
	if contentType == "text/event-stream" {
		// It has no end; what it says has tests of its own.
		require.NoError(d.t, resp.Body.Close())
		return
	}
	got, err := io.ReadAll(resp.Body)
	require.NoError(d.t, err)
	require.NoError(d.t, resp.Body.Close())
	fmt.Fprintf(&d.script, "%s %s %.3000q -> %d %.500s\n", method, path, body, resp.StatusCode, got)
	d.learn(got)

	switch {
	case resp.StatusCode >= http.StatusInternalServerError:
		d.t.Errorf("%s %s %.2000q was answered %d %s", method, path, body, resp.StatusCode, got)
	case resp.StatusCode == http.StatusNoContent || method == http.MethodHead:
	case string(got) == "400 Bad Request" || strings.HasPrefix(string(got), "400 Bad Request:"):
		// This is net/http's own answer to what is no HTTP.
	case resp.StatusCode >= http.StatusBadRequest:
		var refusal struct{ Error, Message string }
		require.NoError(d.t, json.Unmarshal(got, &refusal), "%s %s: %s", method, path, got)
		require.NotEmpty(d.t, refusal.Error)
		require.NotEmpty(d.t, refusal.Message)
		require.Equal(d.t, "application/json", contentType)
	default:
		require.True(d.t, json.Valid(got), "%s %s: %s", method, path, got)
	}
}
