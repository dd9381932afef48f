package httpapi_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	oversync "github.com/oversync/oversync/sync"
)

func (d device) snapshot() answer {
	d.t.Helper()
	return d.do("POST", "/sync/snapshot-sessions", "")
}

func TestSnapshots(t *testing.T) {
	t.Parallel()
	a := newAPI(t, func(c *oversync.ServiceConfig) { c.DefaultRowsPerSnapshotChunk, c.MaxRowsPerSnapshotChunk = 2, 3 })
	d := a.device("user", "source")
	d.snapshot().refused(409, "scope_uninitialized")
	d.replace("next", "history_pruned").refused(409, "scope_uninitialized")
	d.connect(true).ok()
	d.snapshot().refused(409, "scope_initializing")
	d.replace("next", "history_pruned").refused(409, "scope_initializing")
	d.connect(false).ok()

	empty := d.do("POST", "/sync/snapshot-sessions", `{}`)
	require.Regexp(t, `^\{"snapshot_id":"[0-9a-f-]{36}","snapshot_bundle_seq":0,"row_count":0(,"byte_count":0)?,"expires_at":"[0-9T:.-]+Z"\}$`, empty.body)
	expires, err := time.Parse(time.RFC3339Nano, empty.text("expires_at"))
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().Add(15*time.Minute), expires, time.Minute)
	emptyID := empty.text("snapshot_id")
	d.do("GET", "/sync/snapshot-sessions/"+emptyID, "").is(200, `{"snapshot_id":"`+emptyID+`","snapshot_bundle_seq":0,"rows":[],"next_row_ordinal":0,"has_more":false}`)

	rows := make([]string, 5)
	for i := range rows {
		rows[i] = note(fmt.Sprint(i), "INSERT", 0)
	}
	d.push(1, rows...)
	d.push(2, note("2", "DELETE", 1))
	frozen := d.do("POST", "/sync/snapshot-sessions", `{"source_replacement":null}`)
	require.Equal(t, 4, frozen.number("row_count"))
	require.Equal(t, 2, frozen.number("snapshot_bundle_seq"))
	snapshotID := frozen.text("snapshot_id")
	// What comes later is not in it.
	d.push(3, note("0", "DELETE", 1), note("1", "UPDATE", 1), note("9", "INSERT", 0))
	wire := func(keys ...int) string {
		var out []string
		for _, key := range keys {
			out = append(out, fmt.Sprintf(`{"schema":"business","table":"notes","key":{"id":"%d"},"row_version":1,`+
				`"payload":{"amount":null,"at":null,"body":"INSERT","data":null,"id":"%d","length":6,"meta":null}}`, key, key))
		}
		return `{"snapshot_id":"` + snapshotID + `","snapshot_bundle_seq":2,"rows":[` + strings.Join(out, ",") + `],"next_row_ordinal":`
	}
	for query, want := range map[string]string{
		"":                                      wire(0, 1) + `2,"has_more":true}`,
		"after_row_ordinal=0&max_rows=1":        wire(0) + `1,"has_more":true}`,
		"max_rows=9":                            wire(0, 1, 3) + `3,"has_more":true}`,
		"after_row_ordinal=1":                   wire(1, 3) + `3,"has_more":true}`,
		"after_row_ordinal=2":                   wire(3, 4) + `4,"has_more":false}`,
		"after_row_ordinal=3&max_rows=1":        wire(4) + `4,"has_more":false}`,
		"after_row_ordinal=4":                   wire() + `4,"has_more":false}`,
		"after_row_ordinal=40":                  wire() + `40,"has_more":false}`,
		"after_row_ordinal=9223372036854775807": wire() + `9223372036854775807,"has_more":false}`,
	} {
		for range 2 {
			d.do("GET", "/sync/snapshot-sessions/"+snapshotID+"?"+query, "").is(200, want, query)
		}
	}
	a.device("user", "another source").do("GET", "/sync/snapshot-sessions/"+snapshotID, "").ok()
	// A second snapshot of the same source leaves the first as it is.
	d.do("GET", "/sync/snapshot-sessions/"+emptyID, "").is(200, `{"snapshot_id":"`+emptyID+`","snapshot_bundle_seq":0,"rows":[],"next_row_ordinal":0,"has_more":false}`)
}

func TestSnapshotsOfOthersAndOfThePast(t *testing.T) {
	t.Parallel()
	a := newAPI(t, nil)
	d := a.device("user", "source").initialized()
	d.push(1, note("a", "INSERT", 0))
	for _, snapshotID := range []string{randomID(), "x", "%00", "a%2Fb", id(1)[:35], id(1) + "0", "{" + id(1) + "}", "%FF"} {
		d.do("GET", "/sync/snapshot-sessions/"+snapshotID, "").refused(404, "snapshot_session_not_found", snapshotID)
	}
	for _, snapshotID := range []string{"x", "%00", id(1) + "0"} {
		d.do("DELETE", "/sync/snapshot-sessions/"+snapshotID, "").refused(404, "snapshot_session_not_found", snapshotID)
	}
	require.Equal(t, 204, d.do("DELETE", "/sync/snapshot-sessions/"+randomID(), "").status)
	snapshotID := d.snapshot().text("snapshot_id")
	for _, stranger := range []device{a.device("stranger", "source").initialized(), a.device("unknown", "source")} {
		stranger.do("GET", "/sync/snapshot-sessions/"+snapshotID, "").refused(403, "snapshot_session_forbidden")
		stranger.do("DELETE", "/sync/snapshot-sessions/"+snapshotID, "").refused(403, "snapshot_session_forbidden")
	}
	for _, inOtherWords := range []string{"{" + snapshotID + "}", "urn:uuid:" + snapshotID, strings.ReplaceAll(snapshotID, "-", "")} {
		d.do("GET", "/sync/snapshot-sessions/"+inOtherWords, "").refused(404, "snapshot_session_not_found", inOtherWords)
		d.do("DELETE", "/sync/snapshot-sessions/"+inOtherWords, "").refused(404, "snapshot_session_not_found", inOtherWords)
	}
	d.do("GET", "/sync/snapshot-sessions/"+snapshotID, "").ok()
	a.exec(`update sync.snapshot_sessions set expires_at = clock_timestamp() - interval '1 microsecond' where snapshot_id = $1`, snapshotID)
	d.do("GET", "/sync/snapshot-sessions/"+snapshotID, "").refused(410, "snapshot_session_expired")
	ofNothing := a.device("stranger", "source").snapshot().text("snapshot_id")
	a.exec(`update sync.snapshot_sessions set expires_at = clock_timestamp() - interval '1 microsecond' where snapshot_id = $1`, ofNothing)
	a.device("stranger", "source").do("GET", "/sync/snapshot-sessions/"+ofNothing, "").refused(410, "snapshot_session_expired")
	got := d.do("DELETE", "/sync/snapshot-sessions/"+snapshotID, "")
	require.Equal(t, "204 ", fmt.Sprint(got.status, " ", got.body))
	d.do("GET", "/sync/snapshot-sessions/"+snapshotID, "").refused(404, "snapshot_session_not_found")
}

func TestSnapshotLimits(t *testing.T) {
	t.Parallel()
	a := newAPI(t, func(c *oversync.ServiceConfig) { c.MaxRowsPerSnapshotSession, c.MaxBytesPerSnapshotSession = 2, 1000 })
	d := a.device("user", "source").initialized()
	d.push(1, note("a", "INSERT", 0), note("b", "INSERT", 0))
	d.snapshot().ok()
	d.push(2, note("c", "INSERT", 0))
	want := `{"error":"snapshot_session_limit_exceeded","message":"*","dimension":"rows","actual":3,"limit":2}`
	d.snapshot().is(413, want)
	d.replace("next", "history_pruned").is(413, want)
	d.push(3, note("a", "DELETE", 1), note("b", "DELETE", 1))
	d.snapshot().ok()
	d.push(4, row("notes", "c", "UPDATE", 2, fmt.Sprintf(`{"body":"%01000d"}`, 0)))
	got := d.snapshot()
	require.Regexp(t, `^\{"error":"snapshot_session_limit_exceeded","message":".+","dimension":"bytes","actual":1[0-9]{3},"limit":1000\}$`, got.body)
	require.Equal(t, 413, got.status)
}

func TestSourceReplacementBodies(t *testing.T) {
	t.Parallel()
	d := newAPI(t, nil).device("user", "source").initialized()
	for _, replacement := range []string{
		`{}`, `[]`, `"next"`, `{"previous_source_id":"source","new_source_id":"next"}`,
		`{"previous_source_id":"source","reason":"history_pruned"}`, `{"new_source_id":"next","reason":"history_pruned"}`,
		`{"previous_source_id":"other","new_source_id":"next","reason":"history_pruned"}`,
		`{"previous_source_id":"source","new_source_id":"source","reason":"history_pruned"}`,
		`{"previous_source_id":"source","new_source_id":" source ","reason":"history_pruned"}`,
		`{"previous_source_id":"source","new_source_id":"","reason":"history_pruned"}`,
		`{"previous_source_id":"source","new_source_id":"  ","reason":"history_pruned"}`,
		`{"previous_source_id":"source","new_source_id":"a\u0000b","reason":"history_pruned"}`,
		`{"previous_source_id":"source","new_source_id":"sql:app","reason":"history_pruned"}`,
		`{"previous_source_id":"source","new_source_id":"` + strings.Repeat("x", 256) + `","reason":"history_pruned"}`,
		`{"previous_source_id":"source","new_source_id":"next","reason":"because"}`,
		`{"previous_source_id":"source","new_source_id":"next","reason":"HISTORY_PRUNED"}`,
		`{"previous_source_id":"source","new_source_id":"next","reason":"history_pruned","more":1}`,
		`{"previous_source_id":"source","new_source_id":7,"reason":"history_pruned"}`,
	} {
		d.do("POST", "/sync/snapshot-sessions", `{"source_replacement":`+replacement+`}`).refused(400, "snapshot_session_invalid", replacement)
	}
	for i, reason := range []string{"history_pruned", "source_sequence_out_of_order", "source_sequence_changed", "source_retired"} {
		d.source = fmt.Sprint("source ", i)
		d.replace(fmt.Sprint("next ", i), reason).ok()
	}
}

// The states of a source: active, reserved, retired.
func TestSourceReplacementStates(t *testing.T) {
	t.Parallel()
	a := newAPI(t, nil)
	one, two, three := a.device("user", "one").initialized(), a.device("user", "two"), a.device("user", "three")
	retired := func(source, by string) string {
		return `{"error":"source_retired","message":"*","source_id":"` + source + `","replaced_by_source_id":"` + by + `"}`
	}
	states := func() string {
		var all string
		require.NoError(t, a.pool.QueryRow(t.Context(), `select coalesce(string_agg(source_id || ' ' || state, ', ' order by source_id), '') from sync.source_state`).Scan(&all))
		return all
	}
	one.push(1, note("a", "INSERT", 0))
	a.device("user", "known").push(1, note("k", "INSERT", 0))
	require.Equal(t, "known active, one active", states())
	one.replace("known", "history_pruned").refused(409, "source_replacement_invalid")
	one.replace("two", "history_pruned").ok()
	require.Equal(t, "known active, one retired, two reserved", states())
	// Again the same is fine; another is not.
	one.replace("two", "source_retired").ok()
	a.exec(`update sync.source_state set state = state where source_id = 'one' and replaced_by_source_id = 'two' and replacement_reason = 'history_pruned'`)
	one.replace("three", "history_pruned").is(409, retired("one", "two"))
	one.replace("known", "history_pruned").is(409, retired("one", "two"))
	a.device("user", "known").replace("two", "history_pruned").refused(409, "source_replacement_invalid", "a reserved source is known")
	a.device("user", "known").replace("one", "history_pruned").refused(409, "source_replacement_invalid", "a retired source is known")
	// The retired source may read, but not push.
	one.do("GET", "/sync/pull", "").ok()
	one.snapshot().ok()
	one.connect(true).is(200, remoteAuthoritative)
	one.create(2, 1, "").is(409, retired("one", "two"))
	// The reserved one starts at 1, and is active with its first commit.
	two.create(2, 1, "").refused(409, "source_sequence_out_of_order")
	pushID := two.staged(1, note("b", "INSERT", 0))
	require.Equal(t, "known active, one retired, two reserved", states())
	two.commit(pushID).ok()
	require.Equal(t, "known active, one retired, two active", states())
	// Once the new source has been retired itself, the old replacement is no more.
	two.replace("three", "source_sequence_changed").ok()
	one.replace("two", "history_pruned").refused(409, "source_replacement_invalid")
	three.replace("one", "history_pruned").refused(409, "source_replacement_invalid")
	// A source that never pushed can be replaced, reserved or unknown.
	three.replace("four", "source_retired").ok()
	a.device("user", "never seen").replace("five", "history_pruned").ok()
	require.Equal(t, "five reserved, four reserved, known active, never seen retired, one retired, three retired, two retired", states())
	a.exec(`update sync.source_state set state = state where source_id = 'never seen' and replaced_by_source_id = 'five' and replacement_reason = 'history_pruned'`)
	a.device("user", "four").push(1, note("c", "INSERT", 0))
	// Scopes keep their sources apart.
	a.device("other", "one").initialized().push(1, note("a", "INSERT", 0))
}
