package httpapi_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	oversync "github.com/oversync/oversync/sync"
)

func TestCommitAnswers(t *testing.T) {
	t.Parallel()
	d := newAPI(t, nil).device("user", "source").initialized()
	pushID := d.staged(1, note("b", "INSERT", 0), note("a", "INSERT", 0))
	got := d.commit(pushID)
	require.Regexp(t, `^\{"bundle_seq":1,"source_id":"source","source_bundle_id":1,"row_count":2,"bundle_hash":"[0-9a-f]{64}"\}$`, got.body)
	d.create(1, 2, "").is(200, `{"status":"already_committed",`+got.body[1:])
	// A body is ignored, whatever it is.
	pushID = d.staged(2, note("a", "UPDATE", 1))
	d.do("POST", "/sync/push-sessions/"+pushID+"/commit", "{nonsense").ok()
}

func TestCommitsThatAreNotComplete(t *testing.T) {
	t.Parallel()
	a := newAPI(t, func(c *oversync.ServiceConfig) { c.MaxRowsPerBundle, c.MaxBytesPerBundle = 3, 1000 })
	d := a.device("user", "source").initialized()
	stay := func(pushID string, what string) {
		t.Helper()
		// Refused twice alike: the session is still there, and nothing was changed.
		d.commit(pushID).refused(400, "push_commit_invalid", what)
		d.commit(pushID).refused(400, "push_commit_invalid", what)
		d.do("GET", "/sync/pull", "").is(200, `{"stable_bundle_seq":0,"bundles":[],"has_more":false}`)
	}
	stay(d.create(1, 1, "").text("push_id"), "no rows")
	pushID := d.create(1, 2, "").text("push_id")
	d.chunk(pushID, 0, note("a", "INSERT", 0)).ok()
	stay(pushID, "fewer rows than planned")
	d.chunk(pushID, 1, note("a", "INSERT", 0)).ok()
	stay(pushID, "the same row in two chunks")
	stay(d.staged(1, row("users", id(1), "INSERT", 0, `{"name":"ignored"}`)), "no effect")
	stay(d.staged(1, note("a", "INSERT", 0), note("b", "INSERT", 0), note("c", "INSERT", 0), note("d", "INSERT", 0)), "too many rows")
	big := fmt.Sprintf(`{"body":"%01000d"}`, 0)
	stay(d.staged(1, row("notes", "a", "INSERT", 0, big)), "too many bytes")
	require.Equal(t, 1, d.push(1, note("a", "INSERT", 0), note("b", "INSERT", 0), note("c", "INSERT", 0)))
}

// An UPDATE that names no column, or changes no value, is an effect all the same.
func TestAnUpdateOfNothingIsAnEffect(t *testing.T) {
	t.Parallel()
	d := newAPI(t, nil).device("user", "source").initialized()
	d.push(1, note("a", "INSERT", 0))
	require.Equal(t, 2, d.push(2, row("notes", "a", "UPDATE", 1, `{}`)))
	require.Equal(t, 3, d.push(3, row("notes", "a", "UPDATE", 2, `{"body":"INSERT"}`)))
	require.Equal(t, 4, d.push(4, row("notes", "a", "UPDATE", 3, `{"id":"a"}`)))
	require.Contains(t, d.firstRow(4), `"op":"UPDATE","row_version":4`)
	// An operation is taken in any case, and sent in upper case; a payload that is null is none.
	require.Equal(t, 5, d.push(5, row("notes", "a", "uPdate", 4, `{}`)))
	require.Contains(t, d.firstRow(5), `"op":"UPDATE","row_version":5`)
	require.Equal(t, 6, d.push(6, row("notes", "a", "delete", 5, `null`)))
	require.Contains(t, d.firstRow(6), `"op":"DELETE","row_version":6}`)
}

func TestConflicts(t *testing.T) {
	t.Parallel()
	a := newAPI(t, nil)
	d := a.device("user", "source").initialized()
	d.push(1, note("live", "INSERT", 0), note("gone", "INSERT", 0))
	d.push(2, note("gone", "DELETE", 1))
	live := `{"amount":null,"at":null,"body":"INSERT","data":null,"id":"live","length":6,"meta":null}`
	conflict := func(key, op string, base, version int, deleted bool, serverRow string) string {
		return fmt.Sprintf(`{"error":"push_conflict","message":"*","conflict":{"schema":"business","table":"notes","key":{"id":"%s"},"op":"%s",`+
			`"base_row_version":%d,"server_row_version":%d,"server_row_deleted":%t,"server_row":%s}}`, key, op, base, version, deleted, serverRow)
	}
	for _, tc := range []struct {
		key, op string
		base    int
		version int
		deleted bool
		row     string
	}{
		{"new", "INSERT", 1, 0, false, "null"},
		{"gone", "INSERT", 0, 2, true, "null"},
		{"gone", "INSERT", 1, 2, true, "null"},
		{"live", "INSERT", 0, 1, false, live},
		{"live", "INSERT", 1, 1, false, live},
		{"live", "UPDATE", 0, 1, false, live},
		{"live", "UPDATE", 2, 1, false, live},
		{"live", "DELETE", 0, 1, false, live},
		{"live", "DELETE", 9, 1, false, live},
		{"new", "UPDATE", 0, 0, false, "null"},
		{"new", "DELETE", 0, 0, false, "null"},
		{"gone", "UPDATE", 2, 2, true, "null"},
		{"gone", "DELETE", 2, 2, true, "null"},
		{"gone", "UPDATE", 0, 2, true, "null"},
	} {
		want := conflict(tc.key, tc.op, tc.base, tc.version, tc.deleted, tc.row)
		pushID := d.staged(3, note(tc.key, tc.op, tc.base))
		d.commit(pushID).is(409, want)
		d.commit(pushID).is(409, want)
		// The first in push order is told, whatever comes before and after it.
		pushID = d.staged(3, note("other", "INSERT", 0), note(tc.key, tc.op, tc.base), note("another", "INSERT", 7))
		d.commit(pushID).is(409, want)
	}
	// The numbers of a row keep their digits, and the key its canonical form.
	d.push(3, row("users", id(1), "INSERT", 0, `{"name":"n","age":7}`), row("notes", "n", "INSERT", 0, `{"amount":12345678901234567890.1234567890}`))
	got := d.commit(d.staged(4, row("notes", "n", "UPDATE", 1, `{}`)))
	require.Contains(t, got.body, `"amount":12345678901234567890.1234567890`)

	const lower = "abcdef00-0000-4000-8000-00000000000f"
	inCapitals := row("users", strings.ToUpper(lower), "INSERT", 0, `{"name":"x"}`)
	a.device("other", "source").initialized().push(1, inCapitals)
	require.Contains(t, a.device("other", "source").firstRow(1), `"key":{"id":"`+lower+`"}`)
	require.Contains(t, a.device("other", "source").commit(a.device("other", "source").staged(2, inCapitals)).body, `"key":{"id":"`+lower+`"}`)

	// What the table of conflicts allows.
	require.Equal(t, 4, d.push(4, note("gone", "INSERT", 2), note("live", "UPDATE", 1), note("new", "INSERT", 0)))
	require.Equal(t, 5, d.push(5, note("gone", "DELETE", 4), note("live", "DELETE", 4)))
}

// A push that the database itself refuses can never succeed, so it must not look
// like a fault of the server.
func TestRejections(t *testing.T) {
	t.Parallel()
	a := newAPI(t, nil)
	d := a.device("user", "source").initialized()
	d.push(1, row("users", id(1), "INSERT", 0, `{"name":"first","email":"a@example.org"}`))
	user := func(payload string) string { return row("users", id(2), "INSERT", 0, payload) }
	for name, tc := range map[string]struct {
		row, rejection string
	}{
		"a missing value":           {user(`{}`), `{"sqlstate":"23502","schema":"business","table":"users","column":"name"}`},
		"a null value":              {user(`{"name":null}`), `{"sqlstate":"23502","schema":"business","table":"users","column":"name"}`},
		"a check":                   {user(`{"name":""}`), `{"sqlstate":"23514","schema":"business","table":"users","constraint":"name_is_not_empty"}`},
		"a unique constraint":       {user(`{"name":"x","email":"a@example.org"}`), `{"sqlstate":"23505","schema":"business","table":"users","constraint":"email_is_unique"}`},
		"a foreign key":             {row("posts", id(3), "INSERT", 0, `{"author_id":"`+id(9)+`"}`), `{"sqlstate":"23503","schema":"business","table":"posts","constraint":"author_exists"}`},
		"text for a number":         {user(`{"name":"x","age":"old"}`), `{"sqlstate":"22P02"}`},
		"a number out of range":     {user(`{"name":"x","age":2147483648}`), `{"sqlstate":"22003"}`},
		"a fraction for an integer": {user(`{"name":"x","age":1.5}`), `{"sqlstate":"22P02"}`},
		"text that is too long":     {row("posts", id(3), "INSERT", 0, `{"title":"123456789012345678901"}`), `{"sqlstate":"22001"}`},
		"text for a uuid":           {row("posts", id(3), "INSERT", 0, `{"author_id":"x"}`), `{"sqlstate":"22P02"}`},
		"text for a time":           {row("notes", "a", "INSERT", 0, `{"at":"soon"}`), `{"sqlstate":"22007"}`},
		"a time out of range":       {row("notes", "a", "INSERT", 0, `{"at":"2026-13-45T00:00:00Z"}`), `{"sqlstate":"22008"}`},
		"an exception":              {user(`{"name":"refused"}`), `{"sqlstate":"P0001"}`},
		"an exception of its own":   {user(`{"name":"code APP01"}`), `{"sqlstate":"APP01"}`},
		// Raised by a trigger, these are no faults of the server.
		"an exception, denied":      {user(`{"name":"code 42501"}`), `{"sqlstate":"42501"}`},
		"an exception, unsupported": {user(`{"name":"code 0A000"}`), `{"sqlstate":"0A000"}`},
		"an exception, no login":    {user(`{"name":"code 28000"}`), `{"sqlstate":"28000"}`},
		"an exception, canceled":    {user(`{"name":"code 57014"}`), `{"sqlstate":"57014"}`},
		// It gets the few tries that it asks for, but a client must not try for ever.
		"an exception, serialization": {user(`{"name":"code 40001"}`), `{"sqlstate":"40001"}`},
		"an exception, deadlock":      {user(`{"name":"code 40P01"}`), `{"sqlstate":"40P01"}`},
		"an exception, lock":          {user(`{"name":"code 55P03"}`), `{"sqlstate":"55P03"}`},
		// Codes of ours mean nothing from others.
		"an exception, no scope":   {user(`{"name":"code OV001"}`), `{"sqlstate":"OV001"}`},
		"an exception, conflict":   {user(`{"name":"code OV013"}`), `{"sqlstate":"OV013"}`},
		"an exception, no session": {user(`{"name":"code OV014"}`), `{"sqlstate":"OV014"}`},
		"an exception, pruned":     {user(`{"name":"code OV022"}`), `{"sqlstate":"OV022"}`},
		"a number without double":  {row("notes", "a", "INSERT", 0, `{"meta":{"n":1e400}}`), `{"sqlstate":"22003","schema":"business","table":"notes","key":{"id":"a"}}`},
	} {
		want := `{"error":"push_rejected","message":"*","rejection":` + tc.rejection + `}`
		pushID := d.staged(2, tc.row)
		d.commit(pushID).is(422, want, name)
		d.commit(pushID).is(422, want, name)
		pushID = d.staged(2, note("fine", "INSERT", 0), tc.row)
		d.commit(pushID).is(422, want, name+", beside a row that is fine")
	}
	d.do("GET", "/sync/pull?after_bundle_seq=1", "").is(200, `{"stable_bundle_seq":1,"bundles":[],"has_more":false}`)
	require.Equal(t, 2, d.push(2, user(`{"name":"x"}`)))
}

// What the application's own code cannot do is no fault of the server either, even
// if it does not say so itself. What the server cannot do is.
func TestRejectionsByCodeThatFails(t *testing.T) {
	t.Parallel()
	a := newAPI(t, nil)
	d := a.device("user", "source").initialized()
	for _, sql := range []string{
		`create function business.fails() returns trigger language plpgsql as $$
			begin
				if new.body = 'table' then
					insert into business.gone values (1);
				elsif new.body = 'function' then
					new.body := business.gone(new.body);
				elsif new.body = 'denied' then
					set local role pg_read_all_stats;
					perform business.looks();
				elsif new.body = 'execute' then
					execute 'selec 1';
				end if;
				return new;
			end $$`,
		`create function business.looks() returns bigint language sql volatile as 'select count(*) from business.users'`,
		`create trigger fails before insert on business.notes for each row execute function business.fails()`,
		`create function business.fails_later() returns trigger language plpgsql as $$
			begin
				if new.body = 'later' then
					insert into business.gone values (1);
				end if;
				return null;
			end $$`,
		`create constraint trigger fails_later after insert on business.notes deferrable initially deferred for each row execute function business.fails_later()`,
		`create function business.is_fine(text) returns boolean language plpgsql as $$
			begin
				if $1 = 'check' then
					return exists (select from business.gone);
				end if;
				return true;
			end $$`,
		`alter table business.notes add check (business.is_fine(body))`,
	} {
		a.execAny(sql)
	}
	for body, sqlstate := range map[string]string{
		"table": "42P01", "function": "42883", "denied": "42501", "execute": "42601", "later": "42P01", "check": "42P01",
	} {
		note := row("notes", body, "INSERT", 0, `{"body":"`+body+`"}`)
		want := `{"error":"push_rejected","message":"*","rejection":{"sqlstate":"` + sqlstate + `"}}`
		d.commit(d.staged(1, note)).is(422, want, body)
		d.commit(d.staged(1, row("notes", "fine", "INSERT", 0, `{}`), note)).is(422, want, body+", beside a row that is fine")
	}
	staged := d.staged(1, row("users", id(1), "INSERT", 0, `{"name":"x"}`))
	a.execAny(`drop function business.guard() cascade`)
	a.execAny(`drop table business.users cascade`)
	d.commit(staged).refused(400, "push_commit_invalid")
}

// A trigger may refuse the order in which a push is applied at first, by whatever
// code, and not that in which it was pushed.
func TestATriggerThatWantsTheOrderPushed(t *testing.T) {
	t.Parallel()
	a := newAPI(t, nil)
	d := a.device("user", "source").initialized()
	a.execAny(`create function business.posts_first() returns trigger language plpgsql as $$
		begin
			if not exists (select from business.posts where author_id = new.id) then
				raise exception 'no post yet' using errcode = 'APP01';
			end if;
			return new;
		end $$`)
	a.execAny(`create trigger posts_first before insert on business.users for each row execute function business.posts_first()`)
	user, post := row("users", id(1), "INSERT", 0, `{"name":"x"}`), row("posts", id(2), "INSERT", 0, `{"author_id":"`+id(1)+`"}`)
	d.commit(d.staged(1, user, post)).is(422, `{"error":"push_rejected","message":"*","rejection":{"sqlstate":"APP01"}}`)
	require.Equal(t, 1, d.push(1, post, user))
}

// henSchema has tables that refer to each other, by foreign keys that are checked after each statement where nobody asks
// for another time.
const henSchema = `
create table business.hens (
    _sync_scope_id text not null,
    id     text not null,
    egg_id text,
    primary key (_sync_scope_id, id)
);
create table business.eggs (
    _sync_scope_id text not null,
    id     text not null,
    hen_id text,
    primary key (_sync_scope_id, id),
    constraint hen_exists foreign key (_sync_scope_id, hen_id) references business.hens deferrable initially immediate
);
alter table business.hens add constraint egg_exists foreign key (_sync_scope_id, egg_id) references business.eggs deferrable initially immediate;
`

func TestForeignKeysAreDeferred(t *testing.T) {
	t.Parallel()
	a := newUncheckedAPI(t, contractSchema+henSchema, func(c *oversync.ServiceConfig) {
		for _, table := range []string{"hens", "eggs"} {
			c.RegisteredTables = append(c.RegisteredTables, oversync.RegisteredTable{Schema: "business", Table: table, SyncKeyColumns: []string{"id"}})
		}
	})
	d := a.device("user", "source").initialized()
	hen := func(id, op string, base int, egg string) string {
		return row("hens", id, op, base, `{"egg_id":`+egg+`}`)
	}
	egg := func(id, op string, base int, hen string) string {
		return row("eggs", id, op, base, `{"hen_id":`+hen+`}`)
	}
	require.Equal(t, 1, d.push(1, hen("h", "INSERT", 0, `"e"`), egg("e", "INSERT", 0, `"h"`)))
	require.Equal(t, 2, d.push(2, egg("f", "INSERT", 0, `"i"`), hen("i", "INSERT", 0, `"f"`), hen("h", "UPDATE", 1, `"f"`)))
	require.Equal(t, 3, d.push(3, row("hens", "i", "DELETE", 2, ""), egg("f", "UPDATE", 2, `"h"`)))
	require.Equal(t, 4, d.push(4, row("eggs", "e", "DELETE", 1, ""), row("hens", "h", "DELETE", 2, ""), row("eggs", "f", "DELETE", 3, "")))
	for _, tc := range []struct{ table, constraint, hen, egg string }{{"eggs", "hen_exists", "new", "none"}, {"hens", "egg_exists", "none", "new"}} {
		got := d.commit(d.staged(5, hen("new", "INSERT", 0, `"`+tc.hen+`"`), egg("new", "INSERT", 0, `"`+tc.egg+`"`)))
		got.is(422, `{"error":"push_rejected","message":"*","rejection":{"sqlstate":"23503","schema":"business","table":"`+tc.table+`","constraint":"`+tc.constraint+`"}}`)
	}
}

// Pushes of one row that wait for each other are committed at once, by a function that judges by itself
// which may be: with one of them that may not it leaves all alone, and each is told for itself.
func TestPushesThatCannotBeCommittedAtOnce(t *testing.T) {
	t.Parallel()
	a := newAPI(t, nil)
	good, bad := a.device("user", "good").initialized(), a.device("user", "bad")
	good.push(1, note("live", "INSERT", 0))
	first := good.staged(2, note("a", "INSERT", 0))
	atOnce := func(second string) (count int) {
		t.Helper()
		tx, err := a.pool.Begin(t.Context())
		require.NoError(t, err)
		defer func() { require.NoError(t, tx.Rollback(t.Context())) }()
		require.NoError(t, tx.QueryRow(t.Context(), `select count(*) from sync.push_commit_rows($1::text[]::uuid[], 'user', '{good,bad}')`,
			[]string{first, second}).Scan(&count))
		return count
	}
	require.Equal(t, 2, atOnce(bad.staged(1, note("b", "INSERT", 0))))
	for name, stage := range map[string]func() string{
		"a conflict":           func() string { return bad.staged(1, note("live", "UPDATE", 7)) },
		"the row of the other": func() string { return bad.staged(1, note("a", "INSERT", 0)) },
		"another table":        func() string { return bad.staged(1, row("users", id(1), "INSERT", 0, `{"name":"x"}`)) },
		"more rows than one":   func() string { return bad.staged(1, note("b", "INSERT", 0), note("c", "INSERT", 0)) },
		"begun anew": func() string { // with nothing staged since
			bad.staged(1, note("b", "INSERT", 0))
			return bad.create(1, 1, "").text("push_id")
		},
		"not there":        randomID,
		"another source's": func() string { return a.device("user", "third").staged(1, note("b", "INSERT", 0)) },
		"another user's":   func() string { return a.device("stranger", "bad").initialized().staged(1, note("b", "INSERT", 0)) },
	} {
		require.Zero(t, atOnce(stage()), name)
	}
	expired := bad.staged(1, note("b", "INSERT", 0))
	a.exec(`update sync.push_sessions set expires_at = clock_timestamp() - interval '1 microsecond' where push_id = $1`, expired)
	require.Zero(t, atOnce(expired))
	ofALease := bad.staged(1, note("b", "INSERT", 0))
	a.exec(`update sync.push_sessions set initialization_id = $2 where push_id = $1`, ofALease, randomID())
	require.Zero(t, atOnce(ofALease))
	overtaken := bad.staged(1, note("b", "INSERT", 0))
	bad.serverBundle(1, `insert into business.notes (id) values ('c')`)
	require.Zero(t, atOnce(overtaken))
	bad.commit(overtaken).refused(409, "source_sequence_changed")
	retired := bad.staged(2, note("b", "INSERT", 0))
	require.Equal(t, 2, atOnce(retired))
	bad.replace("next", "history_pruned").ok()
	require.Zero(t, atOnce(retired))
	bad.commit(retired).is(409, `{"error":"source_retired","message":"*","source_id":"bad","replaced_by_source_id":"next"}`)
	// Nothing of all that kept the good one from being committed.
	require.Equal(t, 3, good.commit(first).number("bundle_seq"))
}

// What follows from a commit follows from one of several pushes at once too: history ends, and a source that was
// reserved is active.
func TestPushesCommittedAtOnce(t *testing.T) {
	t.Parallel()
	a := newAPI(t, nil)
	one, two, old := a.device("user", "one").initialized(), a.device("user", "two"), a.device("user", "old")
	old.replace("two", "history_pruned").ok()
	pushes := []string{one.staged(1, note("a", "INSERT", 0)), two.staged(1, note("b", "INSERT", 0))}
	tx, err := a.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	_, err = tx.Exec(t.Context(), `select sync.push_commit_rows($1::text[]::uuid[], 'user', '{one,two}')`, pushes)
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `select sync.push_close_rows('{one,two}', '{1,1}', array[sha256('1'), sha256('2')], '{1,1}', 1, 2, 100)`)
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))

	one.create(1, 1, "").refused(409, "history_pruned")
	require.Equal(t, 2, two.create(1, 1, "").number("bundle_seq"))
	one.do("GET", "/sync/pull", "").refused(409, "history_pruned")
	require.Contains(t, one.do("GET", "/sync/committed-bundles/2/rows", "").body, `"source_id":"two","source_bundle_id":1,"row_count":1,`)
	for source, state := range map[string]string{"one": "active", "two": "active", "old": "retired"} {
		var got string
		require.NoError(t, a.pool.QueryRow(t.Context(), `select state from sync.source_state where source_id = $1`, source).Scan(&got))
		require.Equal(t, state, got, source)
	}
	require.Equal(t, 3, two.push(2, note("b", "UPDATE", 2)))
}

// Types that have a language of their own refuse a text as a syntax error, as a
// feature that PostgreSQL lacks, or as an error within PostgreSQL, which is the row's
// fault and not the server's.
func TestRejectionsOfSyntax(t *testing.T) {
	t.Parallel()
	a := newUncheckedAPI(t, thingsSchema, func(c *oversync.ServiceConfig) {
		c.RegisteredTables = append(c.RegisteredTables, oversync.RegisteredTable{Schema: "business", Table: "things", SyncKeyColumns: []string{"id"}})
	})
	d := a.device("user", "source").initialized()
	for payload, sqlstate := range map[string]string{
		`{"search":"a &"}`: "42601", `{"path":"$..x"}`: "42601", `{"path":"$ ? (@ like_regex \"a\" flag \"x\")"}`: "0A000",
		`{"search":"` + strings.Repeat("!", 33) + `a"}`: "XX000",
	} {
		d.commit(d.staged(1, row("things", id(1), "INSERT", 0, payload))).is(422,
			`{"error":"push_rejected","message":"*","rejection":{"sqlstate":"`+sqlstate+`"}}`, payload)
	}
	d.push(1, row("things", id(1), "INSERT", 0, `{"search":"a & b","path":"$.a"}`))
}

// The types of extensions have languages too, and errors that are PostgreSQL's own.
func TestRejectionsOfSyntaxByExtensions(t *testing.T) {
	t.Parallel()
	for name, texts := range map[string]map[string]string{
		"hstore": {"x": "", "a=>": "", `\"a\"=>\"b`: "", "a=>b c": ""}, // XX000 before PostgreSQL 16
		"ltree":  {strings.Repeat("x", 3000): "42622", "a..b": ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newUncheckedAPI(t, contractSchema, nil)
			var count int
			require.NoError(t, a.pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_available_extensions WHERE name = $1", name).Scan(&count))
			if count == 0 {
				t.Skip("this PostgreSQL has no extension " + name)
			}
			a.exec("CREATE EXTENSION " + name + " SCHEMA public; CREATE TABLE business.tags (id text PRIMARY KEY, owner text NOT NULL, v public." + name + "); SELECT sync.register_table('business.tags', scope => 'owner')")
			d := a.device("user", "source").initialized()
			for text, sqlstate := range texts {
				got := d.commit(d.staged(1, row("tags", "a", "INSERT", 0, `{"v":"`+text+`"}`)))
				require.Equal(t, 422, got.status, got.body)
				require.Contains(t, got.body, `"sqlstate":"`+sqlstate)
			}
		})
	}
}
