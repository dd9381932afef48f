package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
	"github.com/oversync/oversync/httpapi"
	"github.com/oversync/oversync/httpapi/openapitest"
	oversync "github.com/oversync/oversync/sync"
)

// The contract tests reach every error of every endpoint through HTTP, on a real
// database, and every exchange is held to the OpenAPI document. Messages are for
// people and free to change, so expected bodies have "*" for them.

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// contractSchema has a table for each way in which a row can be refused.
const contractSchema = `
create schema business;
create table business.users (
    _sync_scope_id text not null,
    id    uuid not null,
    name  text not null constraint name_is_not_empty check (name <> ''),
    email text,
    age   integer,
    primary key (_sync_scope_id, id),
    constraint email_is_unique unique (_sync_scope_id, email)
);
create table business.posts (
    _sync_scope_id text not null,
    id        uuid not null,
    author_id uuid,
    title     varchar(20),
    primary key (_sync_scope_id, id),
    constraint author_exists foreign key (_sync_scope_id, author_id)
        references business.users (_sync_scope_id, id) on delete cascade deferrable initially deferred
);
create table business.notes (
    _sync_scope_id text not null,
    id      text not null,
    body    text,
    data    bytea,
    meta    jsonb,
    at      timestamptz,
    amount  numeric,
    length  integer generated always as (char_length(body)) stored,
    primary key (_sync_scope_id, id)
);
create function business.guard() returns trigger language plpgsql as $$
begin
    if new.name = 'refused' then
        raise exception 'no such name' using errcode = 'P0001';
    elsif new.name like 'code _____' then
        raise exception 'no such name' using errcode = right(new.name, 5);
    elsif new.name = 'ignored' then
        return null;
    end if;
    return new;
end $$;
create trigger guard before insert or update on business.users for each row execute function business.guard();
`

// api is a server in this process, on a database of its own.
type api struct {
	t       testing.TB
	pool    *pgxpool.Pool
	service *oversync.SyncService
	url     string
	client  *http.Client
}

// newAPI starts a server. configure, if not nil, changes the service's settings.
func newAPI(t testing.TB, configure func(*oversync.ServiceConfig)) *api {
	t.Helper()
	a := newUncheckedAPI(t, contractSchema, configure)
	a.client.Transport = openapitest.Wrap(t, a.client.Transport)
	return a
}

// newUncheckedAPI starts a server on the tables of schema, whose exchanges are
// not held to the OpenAPI document.
func newUncheckedAPI(t testing.TB, schema string, configure func(*oversync.ServiceConfig)) *api {
	t.Helper()
	pool := pgtest.NewPool(t)
	_, err := pool.Exec(t.Context(), schema)
	require.NoError(t, err)
	config := &oversync.ServiceConfig{
		MaxSupportedSchemaVersion: 3, AppName: "contract",
		RegisteredTables: []oversync.RegisteredTable{
			{Schema: "business", Table: "users", SyncKeyColumns: []string{"id"}}, {Schema: "business", Table: "posts", SyncKeyColumns: []string{"id"}}, {Schema: "business", Table: "notes", SyncKeyColumns: []string{"id"}},
		},
	}
	if configure != nil {
		configure(config)
	}
	logger := slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelError}))
	service, err := oversync.NewRuntimeService(pool, config, logger)
	require.NoError(t, err)
	require.NoError(t, service.Bootstrap(t.Context()))
	server := httptest.NewServer(httpapi.NewRouter(httpapi.RouterConfig{
		Service: service, Logger: logger, Authenticator: httpapi.AuthenticatorFunc(tokenIsUser), MaxBodyBytes: 1 << 20,
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { require.NoError(t, service.Close(context.WithoutCancel(t.Context()))) })
	client := server.Client()
	client.Timeout = time.Minute
	return &api{t: t, pool: pool, service: service, url: server.URL, client: client}
}

// testWriter sends the server's log to the test's.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

// tokenIsUser takes the bearer token for the user's id.
func tokenIsUser(r *http.Request) (context.Context, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return nil, errors.New("no token")
	}
	return httpapi.ContextWithUserID(r.Context(), token), nil
}

// exec runs SQL behind the server's back.
func (a *api) exec(sql string, args ...any) {
	a.t.Helper()
	tag, err := a.pool.Exec(a.t.Context(), sql, args...)
	require.NoError(a.t, err)
	require.Positive(a.t, tag.RowsAffected(), "%s changed nothing", sql)
}

// device is one source of one user.
type device struct {
	*api
	user, source string
}

func (a *api) device(user, source string) device { return device{a, user, source} }

// answer is what came back.
type answer struct {
	t      testing.TB
	status int
	header http.Header
	body   string
}

// do sends one request. Headers are added as name and value; an empty value
// removes the header.
func (d device) do(method, path, body string, headers ...string) answer {
	d.t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(d.t.Context(), method, d.url+path, reader)
	require.NoError(d.t, err)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Authorization", "Bearer "+d.user)
	req.Header.Set(oversync.SourceIDHeader, d.source)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
		if headers[i+1] == "" {
			req.Header.Del(headers[i])
		}
	}
	resp, err := d.client.Do(req)
	require.NoError(d.t, err)
	got, err := io.ReadAll(resp.Body)
	require.NoError(d.t, err)
	require.NoError(d.t, resp.Body.Close())
	return answer{d.t, resp.StatusCode, resp.Header, string(got)}
}

var messageMember = regexp.MustCompile(`"message":"(?:[^"\\]|\\.)+"`)

// is requires an exact answer, the message apart.
func (got answer) is(status int, body string, msg ...any) {
	got.t.Helper()
	require.Equal(got.t, fmt.Sprintf("%d %s", status, body),
		fmt.Sprintf("%d %s", got.status, messageMember.ReplaceAllString(got.body, `"message":"*"`)), msg...)
}

// refused requires an error that has nothing beside its code and message.
func (got answer) refused(status int, code string, msg ...any) {
	got.t.Helper()
	got.is(status, `{"error":"`+code+`","message":"*"}`, msg...)
	require.Equal(got.t, "application/json", got.header.Get("Content-Type"), msg...)
}

// ok requires success and returns the body's members.
func (got answer) ok() map[string]any {
	got.t.Helper()
	require.Less(got.t, got.status, 300, got.body)
	if got.body == "" {
		return nil
	}
	decoder := json.NewDecoder(strings.NewReader(got.body))
	decoder.UseNumber()
	var members map[string]any
	require.NoError(got.t, decoder.Decode(&members), got.body)
	return members
}

func (got answer) text(member string) string {
	got.t.Helper()
	text, ok := got.ok()[member].(string)
	require.True(got.t, ok, "%s has no text %q", got.body, member)
	return text
}

func (got answer) number(member string) int {
	got.t.Helper()
	number, ok := got.ok()[member].(json.Number)
	require.True(got.t, ok, "%s has no number %q", got.body, member)
	n, err := number.Int64()
	require.NoError(got.t, err)
	return int(n)
}

// initialized makes the scope of the device initialized, and returns the device.
func (d device) initialized() device {
	d.t.Helper()
	require.Equal(d.t, "initialize_empty", d.connect(false).text("resolution"))
	return d
}

func (d device) connect(hasPending bool) answer {
	d.t.Helper()
	return d.do("POST", "/sync/connect", fmt.Sprintf(`{"has_local_pending_rows":%t}`, hasPending))
}

// create opens a push session; initialization may be "".
func (d device) create(sourceBundleID, plannedRows int, initialization string) answer {
	d.t.Helper()
	body := fmt.Sprintf(`{"source_bundle_id":%d,"planned_row_count":%d`, sourceBundleID, plannedRows)
	if initialization != "" {
		body += `,"initialization_id":"` + initialization + `"`
	}
	return d.do("POST", "/sync/push-sessions", body+"}")
}

func (d device) chunk(pushID string, start int, rows ...string) answer {
	d.t.Helper()
	return d.do("POST", "/sync/push-sessions/"+pushID+"/chunks",
		fmt.Sprintf(`{"start_row_ordinal":%d,"rows":[%s]}`, start, strings.Join(rows, ",")))
}

func (d device) commit(pushID string) answer {
	d.t.Helper()
	return d.do("POST", "/sync/push-sessions/"+pushID+"/commit", "")
}

// staged opens a session and stages all its rows.
func (d device) staged(sourceBundleID int, rows ...string) string {
	d.t.Helper()
	pushID := d.create(sourceBundleID, len(rows), "").text("push_id")
	d.chunk(pushID, 0, rows...).ok()
	return pushID
}

// push commits rows as one bundle and returns its sequence.
func (d device) push(sourceBundleID int, rows ...string) int {
	d.t.Helper()
	return d.commit(d.staged(sourceBundleID, rows...)).number("bundle_seq")
}

// row is one row of a chunk. A payload of "" is none.
func row(table, id, op string, base int, payload string) string {
	if payload != "" {
		payload = `,"payload":` + payload
	}
	return fmt.Sprintf(`{"schema":"business","table":"%s","key":{"id":"%s"},"op":"%s","base_row_version":%d%s}`, table, id, op, base, payload)
}

// note is a row of the table that takes anything.
func note(id, op string, base int) string {
	if op == "DELETE" {
		return row("notes", id, op, base, "")
	}
	return row("notes", id, op, base, `{"body":"`+op+`"}`)
}

// id returns the UUID of a number.
func id(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }

// endpoints lists every operation that needs a source, with a request that is
// well formed.
var endpoints = []struct{ method, path, body, failed string }{
	{"POST", "/sync/connect", `{}`, "connect"},
	{"POST", "/sync/push-sessions", `{"source_bundle_id":1,"planned_row_count":1}`, "push_session_create"},
	{"POST", "/sync/push-sessions/" + id(1) + "/chunks", `{"start_row_ordinal":0,"rows":[` + note("a", "INSERT", 0) + `]}`, "push_chunk"},
	{"POST", "/sync/push-sessions/" + id(1) + "/commit", ``, "push_session_commit"},
	{"DELETE", "/sync/push-sessions/" + id(1), ``, "push_session_delete"},
	{"GET", "/sync/committed-bundles/1/rows", ``, "committed_bundle_rows"},
	{"GET", "/sync/pull", ``, "pull"},
	{"POST", "/sync/snapshot-sessions", ``, "snapshot_session_create"},
	{"GET", "/sync/snapshot-sessions/" + id(1), ``, "snapshot_chunk"},
	{"DELETE", "/sync/snapshot-sessions/" + id(1), ``, "snapshot_session_delete"},
}

func TestEveryEndpointKnowsWhoAsks(t *testing.T) {
	t.Parallel()
	a := newAPI(t, nil)
	d := a.device("user", "source")
	long, tooLong := strings.Repeat("x", 255), strings.Repeat("x", 256)
	for _, e := range append(endpoints[:len(endpoints):len(endpoints)], struct{ method, path, body, failed string }{"GET", "/sync/capabilities", "", ""}) {
		what := e.method + " " + e.path
		got := d.do(e.method, e.path, e.body, "Authorization", "")
		got.refused(401, "authentication_failed", what)
		require.Equal(t, "Bearer", got.header.Get("WWW-Authenticate"))
		d.do(e.method, e.path, e.body, "Authorization", "Basic dTpw").refused(401, "authentication_failed", what)
		d.do(e.method, e.path, e.body, "Authorization", "Bearer  ").refused(401, "authentication_failed", what)
		for _, source := range []string{"", " \t ", tooLong, "a\u0085b", "a\xffb", "a\tb"} {
			d.do(e.method, e.path, e.body, oversync.SourceIDHeader, source).refused(400, "invalid_request", "%s %q", what, source)
		}
		if e.method == "POST" { // nobody writes under a name of writers inside the database
			d.do(e.method, e.path, e.body, oversync.SourceIDHeader, "sql:app").refused(400, "invalid_request", what)
			d.do(e.method, e.path, e.body, oversync.SourceIDHeader, "oversync:adopt").refused(400, "invalid_request", what)
		}
		for _, user := range []string{tooLong, "a\u0085b", "a\xffb", "a\tb"} {
			d.do(e.method, e.path, e.body, "Authorization", "Bearer "+user).refused(400, "invalid_request", "%s %q", what, user)
		}
	}
	// The longest ids, and white space around them, are taken.
	require.Equal(t, "initialize_empty", a.device(long, "  "+long+" ").connect(false).text("resolution"))
	require.Equal(t, 1, a.device("  "+long+" ", long).push(1, note("a", "INSERT", 0)))
	require.Contains(t, a.device(long, "other").do("GET", "/sync/pull", "").body, `"source_id":"`+long+`"`)
}

func TestOtherMethodsAndPaths(t *testing.T) {
	t.Parallel()
	d := newAPI(t, nil).device("user", "source")
	allowed := map[string]string{"/sync/capabilities": "GET", "/syncx/status": "GET", "/syncx/health": "GET"}
	for _, e := range endpoints {
		allowed[e.path] += e.method
	}
	for path, methods := range allowed {
		for _, method := range []string{"GET", "PUT", "PATCH", "POST", "DELETE"} {
			if !strings.Contains(methods, method) {
				d.do(method, path, "").refused(405, "method_not_allowed", method+" "+path)
			}
		}
	}
	for _, path := range []string{"/", "/sync", "/sync/pull/", "/sync//pull", "/syncx", "/sync/push-sessions//chunks", "/SYNC/pull"} {
		d.do("GET", path, "").refused(404, "not_found", path)
		d.do("POST", path, "{}", "Authorization", "").refused(404, "not_found", path)
	}
}

// Bodies are judged before anything else that the endpoint does.
func TestBodiesThatAreNotOneObject(t *testing.T) {
	t.Parallel()
	d := newAPI(t, nil).device("user", "source")
	codes := map[string]string{
		"/sync/connect":                            "invalid_request",
		"/sync/push-sessions":                      "push_session_invalid",
		"/sync/push-sessions/" + id(1) + "/chunks": "push_chunk_invalid",
		"/sync/snapshot-sessions":                  "snapshot_session_invalid",
	}
	for path, code := range codes {
		for _, body := range []string{
			"null", "[]", "7", `"x"`, "true", "{", "}", "{}{}", "{} x", "{}null", "\ufeff{}", `{"a":1,}`, `{'a':1}`, `{"a":01}`, `{"a":+1}`, "{\"a\":\"\n\"}",
			`{"a":1,"a":1}`, `{"rows":[],"rows":[]}`, `{"has_local_pending_rows":true,"Has_Local_Pending_Rows":true}`,
			`{"source_bundle_id":1,"source_bundle_id":1,"planned_row_count":1}`, "{\"initialization_id\":\"\xff\"}", `{"initialization_id":"\ud800"}`,
			strings.Repeat("[", 20_000), `{"a":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`,
		} {
			d.do("POST", path, body).refused(400, code, "%s %.50s", path, body)
		}
		if path != "/sync/snapshot-sessions" {
			d.do("POST", path, "").refused(400, code, path)
			d.do("POST", path, " \n").refused(400, code, path)
		}
		d.do("POST", path, "{"+strings.Repeat(" ", 1<<20)+"}").refused(413, "request_too_large", path)
	}
	d.do("POST", "/sync/push-sessions/"+id(1)+"/commit", strings.Repeat(" ", 1<<20+1)).refused(413, "request_too_large")
	d.do("POST", "/sync/connect", `{"has_local_pending_rows":"true"}`).refused(400, "invalid_request")
	d.do("POST", "/sync/connect", `{"has_local_pending_rows":1}`).refused(400, "invalid_request")
	// Unknown members are ignored, but where the protocol refuses them.
	d.do("POST", "/sync/connect", `{"later":{"a":1}}`).ok()
	d.do("POST", "/sync/snapshot-sessions", `{"later":1}`).refused(400, "snapshot_session_invalid")
}

func TestAClosedServiceRefusesWork(t *testing.T) {
	t.Parallel()
	a := newAPI(t, nil)
	d := a.device("user", "source").initialized()
	require.Equal(t, "running", d.do("GET", "/syncx/health", "").text("lifecycle"))
	require.NoError(t, a.service.Close(t.Context()))
	require.NoError(t, a.service.Close(t.Context()), "closing twice is harmless")
	for _, e := range append(endpoints[:len(endpoints):len(endpoints)], struct{ method, path, body, failed string }{"GET", "/sync/capabilities", "", ""}) {
		got := d.do(e.method, e.path, e.body)
		got.refused(503, "service_unavailable", e.path)
		require.Equal(t, "1", got.header.Get("Retry-After"))
	}
	got := d.do("GET", "/syncx/health", "")
	require.Equal(t, 503, got.status)
	require.Contains(t, got.body, `"lifecycle":"closed","accepting_operations":false`)
	require.Equal(t, "closed", d.do("GET", "/syncx/status", "").text("lifecycle"))
}

// What nobody foresaw is told by the operation's code, without the reason.
func TestUnforeseenFaults(t *testing.T) {
	t.Parallel()
	a := newAPI(t, nil)
	d := a.device("user", "source").initialized()
	d.push(1, note("a", "INSERT", 0))
	a.execAny(`alter schema sync rename to secret`)
	for _, e := range endpoints {
		d.do(e.method, e.path, e.body).refused(500, e.failed+"_failed", e.path)
	}
	d.do("GET", "/syncx/status", "").refused(500, "status_failed")
	got := d.do("GET", "/syncx/health", "")
	got.refused(500, "health_failed")
	require.NotContains(t, got.body, "sync.")
}

// forbidConnections cuts the server off from its database.
func (a *api) forbidConnections() {
	a.t.Helper()
	config := a.pool.Config().ConnConfig.Copy()
	name := config.Database
	config.Database = "postgres"
	admin, err := pgx.ConnectConfig(a.t.Context(), config)
	require.NoError(a.t, err)
	defer func() { require.NoError(a.t, admin.Close(context.WithoutCancel(a.t.Context()))) }()
	_, err = admin.Exec(a.t.Context(), "alter database "+pgx.Identifier{name}.Sanitize()+" allow_connections false")
	require.NoError(a.t, err)
	_, err = admin.Exec(a.t.Context(), "select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = $1", name)
	require.NoError(a.t, err)
}

// execAny is exec for statements that count no rows.
func (a *api) execAny(sql string) {
	a.t.Helper()
	_, err := a.pool.Exec(a.t.Context(), sql)
	require.NoError(a.t, err)
}

func TestADatabaseThatIsGoneAsksForARetry(t *testing.T) {
	t.Parallel()
	a := newAPI(t, nil)
	d := a.device("user", "source").initialized()
	a.forbidConnections()
	for _, e := range endpoints {
		d.do(e.method, e.path, e.body).refused(503, "service_unavailable", e.path)
	}
	d.do("GET", "/syncx/status", "").refused(503, "service_unavailable")
	d.do("GET", "/syncx/health", "").refused(503, "service_unavailable")
}

func TestCapabilitiesAndStatus(t *testing.T) {
	t.Parallel()
	d := newAPI(t, func(c *oversync.ServiceConfig) {
		c.MaxRowsPerBundle, c.MaxBytesPerBundle = 70, 80
		c.MaxRowsPerSnapshotSession, c.MaxBytesPerSnapshotSession = 90, 100
	}).device("user", "source")
	const tables = `["business.notes","business.posts","business.users"]`
	const features = `{"accepted_push_replay_visibility":true,"bundle_change_watch":false,"bundle_pull":true,"bundle_push":true,` +
		`"capabilities_endpoint":true,"committed_bundle_row_fetch":true,"committed_bundle_visibility":true,"connect_lifecycle":true,` +
		`"graceful_shutdown":true,"history_pruned_errors":true,"history_pruned_visibility":true,"push_session_chunking":true,` +
		`"registered_write_rejection_enforced":true,"retained_floor_visibility":true,"retained_window_visibility":true,` +
		`"scope_initialization_leases":true,"server_checkpoint_tracking":false,"snapshot_chunking":true,"status_endpoint":true,"structured_sync_keys":true}`
	spec := func(table string) string {
		return `{"schema":"business","table":"` + table + `","sync_key_columns":["id"]}`
	}
	d.do("GET", "/sync/capabilities", "").is(200, `{"protocol_version":"v1","schema_version":3,"app_name":"contract","registered_tables":`+tables+
		`,"registered_table_specs":[`+spec("notes")+`,`+spec("posts")+`,`+spec("users")+`],"features":`+features+
		`,"bundle_limits":{"max_rows_per_bundle":70,"max_bytes_per_bundle":80,"max_bundles_per_pull":5000,`+
		`"default_rows_per_push_chunk":1000,"max_rows_per_push_chunk":5000,"push_session_ttl_seconds":900,`+
		`"default_rows_per_committed_bundle_chunk":1000,"max_rows_per_committed_bundle_chunk":5000,`+
		`"default_rows_per_snapshot_chunk":1000,"max_rows_per_snapshot_chunk":5000,"snapshot_session_ttl_seconds":900,`+
		`"max_rows_per_snapshot_session":90,"max_bytes_per_snapshot_session":100,"initialization_lease_ttl_seconds":900}}`)
	status := `{"status":"healthy","version":"v1","app_name":"contract","lifecycle":"running","accepting_operations":true,"inflight_operations":0,` +
		`"registered_tables":` + tables + `,"features":` + features + `,"user_state_retention_floor_ahead_count":0,"latest_bundle_seq_max":0,` +
		`"retained_bundle_floor_min":0,"retained_bundle_floor_max":0,"retained_bundle_window_min":0,"retained_bundle_window_max":0,` +
		`"history_pruned_error_count":0,"accepted_push_replay_count":0,"rejected_registered_write_count":0,"committed_bundle_count":0,"committed_bundle_bytes":0}`
	for _, path := range []string{"/syncx/status", "/syncx/health"} {
		d.do("GET", path, "", "Authorization", "", oversync.SourceIDHeader, "").is(200, status)
	}
}

// Each setting is told to clients under its own name, and is what the server goes by.
func TestSettingsAreNotMixedUp(t *testing.T) {
	t.Parallel()
	a := newAPI(t, func(c *oversync.ServiceConfig) {
		c.DefaultRowsPerPushChunk, c.MaxRowsPerPushChunk = 2, 3
		c.DefaultRowsPerSnapshotChunk, c.MaxRowsPerSnapshotChunk = 4, 5
		c.DefaultRowsPerCommittedBundleChunk, c.MaxRowsPerCommittedBundleChunk = 6, 7
		c.PushSessionTTL, c.SnapshotSessionTTL, c.InitializationLeaseTTL = 10*time.Minute, 20*time.Minute, 30*time.Minute
	})
	d := a.device("user", "source")
	require.Contains(t, d.do("GET", "/sync/capabilities", "").body, `"default_rows_per_push_chunk":2,"max_rows_per_push_chunk":3,"push_session_ttl_seconds":600,`+
		`"default_rows_per_committed_bundle_chunk":6,"max_rows_per_committed_bundle_chunk":7,"default_rows_per_snapshot_chunk":4,"max_rows_per_snapshot_chunk":5,`+
		`"snapshot_session_ttl_seconds":1200,"initialization_lease_ttl_seconds":1800`)
	requireAhead := func(want time.Duration, at time.Time) {
		t.Helper()
		require.WithinDuration(t, time.Now().Add(want), at, time.Minute)
	}
	parsed := func(text string) time.Time {
		t.Helper()
		at, err := time.Parse(time.RFC3339Nano, text)
		require.NoError(t, err)
		return at
	}
	pushExpires := func(pushID string) (at time.Time) {
		t.Helper()
		require.NoError(t, a.pool.QueryRow(t.Context(), `select expires_at from sync.push_sessions where push_id = $1`, pushID).Scan(&at))
		return at
	}
	lease := d.connect(true)
	requireAhead(30*time.Minute, parsed(lease.text("lease_expires_at")))
	rows := make([]string, 9)
	for i := range rows {
		rows[i] = note(fmt.Sprint(i), "INSERT", 0)
	}
	shorten := func() {
		a.exec(`update sync.user_state set lease_expires_at = clock_timestamp() + interval '1 minute'`)
	}
	shorten()
	pushID := d.create(1, len(rows), lease.text("initialization_id")).text("push_id")
	requireAhead(30*time.Minute, a.leaseExpiresAt("user"))
	requireAhead(10*time.Minute, pushExpires(pushID))
	d.chunk(pushID, 0, rows[:4]...).refused(400, "push_chunk_invalid")
	for start := 0; start < len(rows); start += 3 {
		shorten()
		a.exec(`update sync.push_sessions set expires_at = clock_timestamp() + interval '1 minute'`)
		d.chunk(pushID, start, rows[start:start+3]...).ok()
		requireAhead(30*time.Minute, a.leaseExpiresAt("user"))
		requireAhead(10*time.Minute, pushExpires(pushID))
	}
	require.Equal(t, len(rows), d.commit(pushID).number("row_count"))
	for query, want := range map[string]int{"": 6, "?max_rows=6": 6, "?max_rows=7": 7, "?max_rows=8": 7} {
		require.Len(t, d.do("GET", "/sync/committed-bundles/1/rows"+query, "").ok()["rows"], want, query)
	}
	snapshot := d.do("POST", "/sync/snapshot-sessions", "")
	requireAhead(20*time.Minute, parsed(snapshot.text("expires_at")))
	for query, want := range map[string]int{"": 4, "?max_rows=4": 4, "?max_rows=5": 5, "?max_rows=6": 5} {
		require.Len(t, d.do("GET", "/sync/snapshot-sessions/"+snapshot.text("snapshot_id")+query, "").ok()["rows"], want, query)
	}
}

// A load balancer takes an instance out by the code of the health alone.
func TestHealthOfAnUnhealthyServer(t *testing.T) {
	t.Parallel()
	a := newAPI(t, nil)
	a.execAny(`alter table business.notes disable trigger oversync_capture_insert`)
	status := a.device("", "").do("GET", "/syncx/status", "")
	require.Equal(t, "unhealthy", status.text("status"))
	a.device("", "").do("GET", "/syncx/health", "").is(503, status.body)
}

// randomID is a UUID that the server has never seen.
func randomID() string { return uuid.NewString() }
