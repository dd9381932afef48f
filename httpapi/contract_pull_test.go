package httpapi_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	oversync "github.com/oversync/oversync/sync"
)

func TestQueriesThatAreNotNumbers(t *testing.T) {
	t.Parallel()
	a := newAPI(t, nil)
	d := a.device("user", "source").initialized()
	d.push(1, note("a", "INSERT", 0))
	snapshotID := d.do("POST", "/sync/snapshot-sessions", "").text("snapshot_id")
	for _, q := range []struct{ path, code, zeroIsFine, zeroIsNot string }{
		{"/sync/pull", "invalid_request", "after_bundle_seq target_bundle_seq", "max_bundles"},
		{"/sync/committed-bundles/1/rows", "committed_bundle_chunk_invalid", "after_row_ordinal", "max_rows"},
		{"/sync/snapshot-sessions/" + snapshotID, "snapshot_chunk_invalid", "after_row_ordinal", "max_rows"},
	} {
		for _, name := range strings.Fields(q.zeroIsFine + " " + q.zeroIsNot) {
			for _, value := range []string{"-1", "x", "1.0", "1e1", "%2B1", "0x1", "1_0", "%201", "%zz", "1&" + name + "=1", "%D9%A1", "null", "1;x=2"} {
				d.do("GET", q.path+"?"+name+"="+value, "").refused(400, q.code, "%s?%s=%s", q.path, name, value)
			}
		}
		if q.zeroIsNot != "max_rows" { // which is lowered, see below
			d.do("GET", q.path+"?"+q.zeroIsNot+"=9223372036854775808", "").refused(400, q.code)
		}
		for _, name := range strings.Fields(q.zeroIsFine) {
			d.do("GET", q.path+"?"+name+"=9223372036854775808", "").refused(400, q.code)
			d.do("GET", q.path+"?"+name+"=0", "").ok()
		}
		d.do("GET", q.path+"?"+q.zeroIsNot+"=0", "").refused(400, q.code)
	}
	d.do("GET", "/sync/pull?max_bundles=5000", "").ok()
	d.do("GET", "/sync/pull?max_bundles=5001", "").refused(400, "invalid_request")
	d.do("GET", "/sync/committed-bundles/1/rows?max_rows=9223372036854775807", "").ok()
	d.do("GET", "/sync/snapshot-sessions/"+snapshotID+"?max_rows=9223372036854775807", "").ok()
	for _, seq := range []string{"0", "-1", "x", "1.5", "%2B1", "9223372036854775808", "a%2Fb"} {
		d.do("GET", "/sync/committed-bundles/"+seq+"/rows", "").refused(400, "committed_bundle_chunk_invalid", seq)
	}
}

// TestMoreRowsThanAnyNumber is not held to the OpenAPI document, whose integers have
// 64 bits.
func TestMoreRowsThanAnyNumber(t *testing.T) {
	t.Parallel()
	d := newUncheckedAPI(t, contractSchema, nil).device("user", "source").initialized()
	d.push(1, note("a", "INSERT", 0))
	snapshotID := d.do("POST", "/sync/snapshot-sessions", "").text("snapshot_id")
	for _, most := range []string{"9223372036854775808", "99999999999999999999999999"} {
		d.do("GET", "/sync/committed-bundles/1/rows?max_rows="+most, "").ok()
		d.do("GET", "/sync/snapshot-sessions/"+snapshotID+"?max_rows="+most, "").ok()
	}
}

func TestPull(t *testing.T) {
	t.Parallel()
	a := newAPI(t, nil)
	d := a.device("user", "source")
	d.do("GET", "/sync/pull", "").refused(409, "scope_uninitialized")
	d.connect(true).ok()
	d.do("GET", "/sync/pull", "").refused(409, "scope_initializing")
	a.expireLease("user")
	d.do("GET", "/sync/pull", "").refused(409, "scope_initializing", "until somebody connects again")
	d.connect(false).ok()
	d.do("GET", "/sync/pull", "").is(200, `{"stable_bundle_seq":0,"bundles":[],"has_more":false}`)
	for n := range 4 {
		d.push(n+1, note(fmt.Sprint(n+1), "INSERT", 0))
	}
	d.push(5, note("1", "DELETE", 1))
	for query, want := range map[string]struct {
		stable  int
		bundles string
		more    bool
	}{
		"":                                                   {5, "1 2 3 4 5", false},
		"max_bundles=2":                                      {5, "1 2", true},
		"after_bundle_seq=2&max_bundles=3":                   {5, "3 4 5", false},
		"after_bundle_seq=2&max_bundles=2":                   {5, "3 4", true},
		"target_bundle_seq=3":                                {3, "1 2 3", false},
		"target_bundle_seq=3&max_bundles=1":                  {3, "1", true},
		"after_bundle_seq=3&target_bundle_seq=3":             {3, "", false},
		"after_bundle_seq=4&target_bundle_seq=3":             {3, "", false},
		"after_bundle_seq=5":                                 {5, "", false},
		"after_bundle_seq=&target_bundle_seq=&max_bundles=":  {5, "1 2 3 4 5", false},
		"after_bundle_seq=00003&target_bundle_seq=0&later=1": {5, "4 5", false},
	} {
		got := d.do("GET", "/sync/pull?"+query, "")
		members := got.ok()
		require.Equal(t, want.stable, got.number("stable_bundle_seq"), query)
		require.Equal(t, want.more, members["has_more"], query)
		var seqs []string
		for _, bundle := range members["bundles"].([]any) {
			seqs = append(seqs, fmt.Sprint(bundle.(map[string]any)["bundle_seq"]))
		}
		require.Equal(t, want.bundles, strings.Join(seqs, " "), query)
	}
	got := d.do("GET", "/sync/pull?after_bundle_seq=4", "")
	require.Regexp(t, `^\{"stable_bundle_seq":5,"bundles":\[\{"bundle_seq":5,"source_id":"source","source_bundle_id":5,"row_count":1,"bundle_hash":"[0-9a-f]{64}","rows":\[`+
		`\{"schema":"business","table":"notes","key":\{"id":"1"\},"op":"DELETE","row_version":5\}\]\}\],"has_more":false\}$`, got.body)
	// Another scope sees nothing of this one.
	a.device("other", "source").initialized().do("GET", "/sync/pull", "").is(200, `{"stable_bundle_seq":0,"bundles":[],"has_more":false}`)
}

// What a client gets that does not say how many bundles it wants.
func TestPullOfAThousandBundles(t *testing.T) {
	t.Parallel()
	a := newAPI(t, nil)
	d := a.device("user", "source").initialized()
	a.execAny(`select sync.set_policy('business.notes', 'capture')`)
	a.execAny(`do $$ begin
		for n in 1..1001 loop
			insert into business.notes (_sync_scope_id, id) values ('user', n::text);
			commit;
		end loop;
	end $$`)
	first := d.do("GET", "/sync/pull", "").ok()
	require.Len(t, first["bundles"], 1000)
	require.Equal(t, true, first["has_more"])
	rest := d.do("GET", "/sync/pull?after_bundle_seq=1000&target_bundle_seq=1001", "").ok()
	require.Len(t, rest["bundles"], 1)
	require.Equal(t, false, rest["has_more"])
}

func TestHistoryThatIsNotThere(t *testing.T) {
	t.Parallel()
	a := newAPI(t, func(c *oversync.ServiceConfig) { c.RetainedBundlesPerUser = 2 })
	d := a.device("user", "source").initialized()
	d.push(1, note("1", "INSERT", 0))
	d.push(2, note("2", "INSERT", 0))
	d.do("GET", "/sync/pull", "").ok()
	// A client that is ahead, as after a restore from a backup, rebuilds. Its
	// number never comes back to it.
	for _, query := range []string{
		"after_bundle_seq=987654", "target_bundle_seq=987654", "after_bundle_seq=1&target_bundle_seq=987654",
		"after_bundle_seq=987654&target_bundle_seq=2", "after_bundle_seq=9223372036854775807", "target_bundle_seq=9223372036854775807",
		"after_bundle_seq=9223372036854775807&target_bundle_seq=9223372036854775807&max_bundles=5000",
	} {
		got := d.do("GET", "/sync/pull?"+query, "")
		got.refused(409, "history_pruned", query)
		require.NotContains(t, got.body, "987654")
		require.NotContains(t, got.body, "9223372036854775807")
	}
	d.do("GET", "/sync/pull?after_bundle_seq=3", "").refused(409, "history_pruned")
	// The floor moves with the commit, before anything is deleted.
	for n := 3; n <= 5; n++ {
		d.push(n, note(fmt.Sprint(n), "INSERT", 0))
	}
	for _, query := range []string{
		"", "after_bundle_seq=0", "after_bundle_seq=1", "after_bundle_seq=3", "after_bundle_seq=4&target_bundle_seq=3",
		"after_bundle_seq=4&target_bundle_seq=1", "target_bundle_seq=5",
	} {
		d.do("GET", "/sync/pull?"+query, "").refused(409, "history_pruned", query)
	}
	require.Contains(t, d.do("GET", "/sync/pull?after_bundle_seq=4&target_bundle_seq=5", "").body, `{"stable_bundle_seq":5,"bundles":[{"bundle_seq":5,`)
	for seq, status := range map[string]int{"1": 409, "3": 409, "4": 200, "5": 200, "6": 404} {
		got := d.do("GET", "/sync/committed-bundles/"+seq+"/rows", "")
		require.Equal(t, status, got.status, seq)
		if status == 409 {
			got.refused(409, "history_pruned")
		}
	}
	d.create(1, 1, "").refused(409, "history_pruned")
	require.Equal(t, 7+1+7+2+1, d.do("GET", "/syncx/status", "").number("history_pruned_error_count"), "each is counted")
}

func TestCommittedBundleRows(t *testing.T) {
	t.Parallel()
	a := newAPI(t, func(c *oversync.ServiceConfig) {
		c.DefaultRowsPerCommittedBundleChunk, c.MaxRowsPerCommittedBundleChunk = 2, 3
	})
	d := a.device("user", "source")
	d.do("GET", "/sync/committed-bundles/1/rows", "").refused(404, "committed_bundle_not_found")
	d.initialized()
	d.do("GET", "/sync/committed-bundles/1/rows", "").refused(404, "committed_bundle_not_found")
	rows := make([]string, 5)
	for i := range rows {
		rows[i] = note(fmt.Sprint(4-i), "INSERT", 0)
	}
	committed := d.commit(d.staged(1, rows...))
	head := strings.TrimSuffix(committed.body, "}") + `,"rows":[`
	wire := func(ordinals ...int) string {
		var out []string
		for _, n := range ordinals {
			out = append(out, fmt.Sprintf(`{"schema":"business","table":"notes","key":{"id":"%d"},"op":"INSERT","row_version":1,`+
				`"payload":{"amount":null,"at":null,"body":"INSERT","data":null,"id":"%d","length":6,"meta":null}}`, 4-n, 4-n))
		}
		return strings.Join(out, ",")
	}
	for query, want := range map[string]string{
		"":                                      wire(0, 1) + `],"next_row_ordinal":1,"has_more":true}`,
		"max_rows=1":                            wire(0) + `],"next_row_ordinal":0,"has_more":true}`,
		"max_rows=9":                            wire(0, 1, 2) + `],"next_row_ordinal":2,"has_more":true}`,
		"after_row_ordinal=0":                   wire(1, 2) + `],"next_row_ordinal":2,"has_more":true}`,
		"after_row_ordinal=2":                   wire(3, 4) + `],"next_row_ordinal":4,"has_more":false}`,
		"after_row_ordinal=3&max_rows=1":        wire(4) + `],"next_row_ordinal":4,"has_more":false}`,
		"after_row_ordinal=4":                   `],"next_row_ordinal":4,"has_more":false}`,
		"after_row_ordinal=40":                  `],"next_row_ordinal":40,"has_more":false}`,
		"after_row_ordinal=9223372036854775807": `],"next_row_ordinal":9223372036854775807,"has_more":false}`,
	} {
		d.do("GET", "/sync/committed-bundles/1/rows?"+query, "").is(200, head+want, query)
	}
	d.do("GET", "/sync/committed-bundles/2/rows", "").refused(404, "committed_bundle_not_found")
	d.do("GET", "/sync/committed-bundles/9223372036854775807/rows", "").refused(404, "committed_bundle_not_found")
	a.device("other", "source").initialized().do("GET", "/sync/committed-bundles/1/rows", "").refused(404, "committed_bundle_not_found")
	a.device("user", "another source").do("GET", "/sync/committed-bundles/1/rows", "").ok()
}

// What is retained where nothing is set, and in what steps the rest goes.
func TestRetentionByDefault(t *testing.T) {
	t.Parallel()
	a := newAPI(t, nil)
	d := a.device("user", "source").initialized()
	a.device("other", "source").initialized().push(1, note("a", "INSERT", 0))
	a.execAny(`create table business.steps (bundles bigint)`)
	a.execAny(`create function business.note_step() returns trigger language plpgsql as $$
		begin
			insert into business.steps select count(*) from gone having count(*) > 0;
			return null;
		end $$`)
	a.execAny(`create trigger note_step after delete on sync.bundle_log referencing old table as gone
		for each statement execute function business.note_step()`)
	a.exec(`insert into sync.bundle_log (user_pk, bundle_seq, source_id, source_bundle_id, row_count, byte_count)
		select u.user_pk, n, 'before', n, 1, 0 from sync.user_state u cross join generate_series(1, 12500) as n where u.user_id = 'user'`)
	a.exec(`update sync.user_state set next_bundle_seq = 12501 where user_id = 'user'`)
	require.Equal(t, 12501, d.push(1, note("a", "INSERT", 0)))

	for _, path := range []string{"/syncx/status", "/syncx/health"} {
		status := d.do("GET", path, "")
		for name, want := range map[string]int{
			"latest_bundle_seq_max": 12501, "retained_bundle_floor_min": 0, "retained_bundle_floor_max": 2501,
			"retained_bundle_window_min": 1, "retained_bundle_window_max": 10_000, "committed_bundle_count": 10_001,
		} {
			require.Equal(t, want, status.number(name), name)
		}
	}
	steps := func() (steps string) {
		require.NoError(t, a.pool.QueryRow(t.Context(), `select coalesce(string_agg(bundles::text, ' ' order by bundles), '') from business.steps`).Scan(&steps))
		return steps
	}
	require.Eventually(t, func() bool { return steps() == "501 1000 1000" }, time.Minute, 50*time.Millisecond)
}
