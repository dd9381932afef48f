package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	neturl "net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed"
	"github.com/oversync/oversync/db/pgembed/pgtest"
	"github.com/oversync/oversync/httpapi"
	oversync "github.com/oversync/oversync/sync"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

const testSecret = "0123456789abcdef0123456789abcdef"

// patience is for what only a hang makes longer.
const patience = time.Minute

type result struct {
	status         int
	stdout, stderr string
}

func oversyncCommand(t *testing.T, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	status := run(t.Context(), append([]string{"oversync"}, args...), &stdout, &stderr)
	return result{status, stdout.String(), stderr.String()}
}

func requireOK(t *testing.T, r result) result {
	t.Helper()
	require.Equal(t, exitOK, r.status, r.stderr)
	return r
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.Background())) })
	return conn
}

// pgx speaks UTF-8 alone: with another encoding every letter beyond ASCII would be
// stored as two wrong ones.
func TestTheDatabasesClientEncodingDoesNotCount(t *testing.T) {
	t.Parallel()
	url := pgtest.NewDatabase(t)
	_, err := connect(t, url).Exec(t.Context(), `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET client_encoding = LATIN1', current_database()); END $$`)
	require.NoError(t, err)
	pool, err := openPool(t.Context(), url, "test", 1)
	require.NoError(t, err)
	defer pool.Close()
	conn, err := databaseFlags{DatabaseURL: url}.connect(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(context.Background())) }()
	for _, db := range []interface {
		QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	}{pool, conn} {
		var letters int
		require.NoError(t, db.QueryRow(t.Context(), "SELECT length($1::text)", "é").Scan(&letters))
		require.Equal(t, 1, letters)
	}
}

// A server or a database that vanishes without closing its connections must not hold
// a scope, or requests, until TCP gives up.
func TestConnectionsThatNobodyClosed(t *testing.T) {
	t.Parallel()
	url := pgtest.NewDatabase(t)
	separator := "?"
	if strings.Contains(url, "?") {
		separator = "&"
	}
	for settings, want := range map[string]struct {
		idle string
		ping time.Duration
	}{
		"": {"1min", 3 * time.Second},
		separator + "idle_in_transaction_session_timeout=7s&pool_ping_timeout=9s": {"7s", 9 * time.Second},
	} {
		pool, err := openPool(t.Context(), url+settings, "test", 1)
		require.NoError(t, err)
		defer pool.Close()
		var idle string
		require.NoError(t, pool.QueryRow(t.Context(), "SHOW idle_in_transaction_session_timeout").Scan(&idle))
		require.Equal(t, want.idle, idle)
		require.Equal(t, want.ping, pool.Config().PingTimeout)
	}
}

func TestUsageErrors(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{}, {"nothing"}, {"serve", "--nope"}, {"token"}, {"migrate", "down", "--to", "x"}, {"table", "register"}} {
		r := oversyncCommand(t, args...)
		require.Equal(t, exitUsage, r.status, args)
		require.Contains(t, r.stderr, "--help", args)
	}
}

// A value that cannot be meant is refused before anything is done with it, and its flag is named.
func TestBadValues(t *testing.T) {
	t.Parallel()
	secret, database := " --jwt-secret="+testSecret, " --database-url=postgres://nobody@127.0.0.1:1/x"
	for command, flags := range map[string][]string{
		"token --user u" + secret: {"--ttl=0", "--ttl=-5m", "--ttl=5", "--jwt-claim=", "--jwt-claim=exp"},
		"token" + secret:          {"--user=", "--user= ", "--user=a\nb", "--user=" + strings.Repeat("u", 256)},
		"demo" + secret:           {"--user=", "--jwt-claim=", "--url=", "--url=nonsense", "--url=127.0.0.1:8080", "--url=ftp://h"},
		"dev" + database:          {"--listen=nonsense", "--max-body-bytes=0"},
		"serve" + secret + database: {
			"--listen=", "--listen=nonsense", "--listen=localhost", "--listen=127.0.0.1:", "--listen=:99999", "--listen=:no-such-port", "--jwt-claim=",
			"--rate-per-user=NaN", "--rate-per-user=Inf", "--rate-per-user=-1", "--max-body-bytes=0", "--max-body-bytes=-1", "--pool-size=-1", "--shutdown-timeout=-1s",
			"--schema-version=-1", "--max-rows-per-bundle=-1", "--max-rows-per-push-chunk=0", "--push-session-ttl=0", "--snapshot-session-ttl=-1s",
			"--retained-bundles-per-user=0", "--retention-prune-batch-size=0", "--upload-lock-timeout=-1s",
		},
		"migrate down" + database:                {"--to=-1"},
		"table register public.items" + database: {"--batch-rows=0"},
		"table adopt" + database:                 {"--batch-rows=-1"},
	} {
		for _, flag := range flags {
			r := oversyncCommand(t, append(strings.Fields(command), flag)...)
			require.Equal(t, exitUsage, r.status, flag)
			require.Empty(t, r.stdout, flag)
			name, _, _ := strings.Cut(flag, "=")
			require.Contains(t, r.stderr, name, flag)
			require.Contains(t, r.stderr, "--help", flag)
		}
	}
}

// A copy of example.env has variables that are not filled in.
func TestAnEmptyVariableIsNone(t *testing.T) {
	for _, name := range []string{
		"DATABASE_URL", "OVERSYNC_JSON", "OVERSYNC_LOG_LEVEL", "OVERSYNC_LISTEN", "OVERSYNC_JWT_CLAIM", "OVERSYNC_MAX_BODY_BYTES",
		"OVERSYNC_RATE_PER_USER", "OVERSYNC_WATCH", "OVERSYNC_SHUTDOWN_TIMEOUT", "OVERSYNC_LOG_STAGE_TIMINGS", "OVERSYNC_RETAINED_BUNDLES_PER_USER",
		"PGHOST", "PGHOSTADDR", "PGDATABASE", "PGSERVICE", "PGPORT",
	} {
		t.Setenv(name, "")
	}
	require.NotContains(t, requireOK(t, oversyncCommand(t, "version")).stdout, "{")
	r := oversyncCommand(t, "serve", "--jwt-secret", testSecret)
	require.Equal(t, exitFailed, r.status)
	require.Contains(t, r.stderr, "no database is named: set DATABASE_URL")
	t.Setenv("OVERSYNC_JSON", "true")
	require.Contains(t, requireOK(t, oversyncCommand(t, "version")).stdout, "{")
}

// A server or database that is not there is answered with what to do, and without the password.
func TestNothingThere(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"nonsense", "mysql://app:hidden@h/x", "postgres://app:hid%zzden@h/x", "postgres://app:hidden@h:99999/x"} {
		for _, args := range [][]string{{"migrate", "up"}, {"check"}, {"dev"}, {"serve", "--jwt-secret", testSecret}} {
			r := oversyncCommand(t, append(args, "--database-url", url)...)
			require.Equal(t, exitUsage, r.status, r.stderr)
			require.Contains(t, r.stderr, "hint: Write it as postgres://")
			require.NotContains(t, r.stderr, "hid")
		}
	}
	r := oversyncCommand(t, "demo", "--url", "http://127.0.0.1:1")
	require.Equal(t, exitFailed, r.status)
	require.Contains(t, r.stderr, "hint: Start a server with: oversync dev")
	r = oversyncCommand(t, "check", "--database-url", "postgres://app:hidden@127.0.0.1:1/x")
	require.Equal(t, exitFailed, r.status)
	require.Contains(t, r.stderr, "hint: Compare DATABASE_URL with the server")
	require.NotContains(t, r.stderr, "hidden")
}

// What PostgreSQL says of a role, a standby or a pooler does not say what to do.
func TestHints(t *testing.T) {
	t.Parallel()
	for hint, err := range map[string]*pgconn.PgError{
		"DATABASE_URL leads to a standby": {Code: "0A000", Routine: "get_relation_info"},
		"name the primary":                {Code: "25006"},
		"Run it as the owner":             {Code: "42501", Message: "must be owner of table todos"},
		"PgBouncer for one":               {Code: "42P05", Message: `prepared statement "stmtcache_1" already exists`},
		"A pooler stands":                 {Code: "08P01", Message: "unsupported startup parameter: jit"},
	} {
		require.Contains(t, describe(fmt.Errorf("check: %w", err)), hint)
	}
	require.Contains(t, describe(errStandby), "name the primary")
	require.NotContains(t, describe(&pgconn.PgError{Code: "0A000"}), "hint")

	url := pgtest.NewEmptyDatabase(t)
	execute(t, connect(t, url), "CREATE SCHEMA sync")
	r := oversyncCommand(t, "migrate", "up", "--database-url", url)
	require.Equal(t, exitFailed, r.status)
	require.Contains(t, r.stderr, "hint: The schema is there, but public.oversync_goose_version does not say so.")
}

func TestToken(t *testing.T) {
	t.Parallel()
	auth, err := httpapi.NewHS256(httpapi.HS256Config{Secret: []byte(testSecret), UserClaim: "team"})
	require.NoError(t, err)
	args := []string{"token", "--user", "u-1", "--jwt-secret", testSecret, "--jwt-claim", "team", "--ttl", "2m"}

	var out struct {
		Token     string    `json:"token"`
		User      string    `json:"user_id"`
		ExpiresAt time.Time `json:"expires_at"`
	}
	require.NoError(t, json.Unmarshal([]byte(requireOK(t, oversyncCommand(t, append(args, "--json")...)).stdout), &out))
	require.Equal(t, "u-1", out.User)
	require.WithinDuration(t, time.Now().Add(2*time.Minute), out.ExpiresAt, time.Minute)
	plain := strings.TrimSpace(requireOK(t, oversyncCommand(t, args...)).stdout)
	for _, token := range []string{out.Token, plain} {
		r, err := http.NewRequest(http.MethodGet, "/", nil)
		require.NoError(t, err)
		r.Header.Set("Authorization", "Bearer "+token)
		ctx, err := auth.Authenticate(r)
		require.NoError(t, err)
		user, err := httpapi.UserIDFromContext(ctx)
		require.NoError(t, err)
		require.Equal(t, "u-1", user)
	}

	r := oversyncCommand(t, "token", "--user", "u-1", "--jwt-secret", "")
	require.Equal(t, exitFailed, r.status)
	require.Contains(t, r.stderr, "openssl rand")
}

func TestVersion(t *testing.T) {
	t.Parallel()
	require.Contains(t, requireOK(t, oversyncCommand(t, "version")).stdout, "protocol")
	var v versionInfo
	require.NoError(t, json.Unmarshal([]byte(requireOK(t, oversyncCommand(t, "version", "--json")).stdout), &v))
	require.Equal(t, oversync.SyncProtocolVersion, v.Protocol)
}

func TestMigrateAndTables(t *testing.T) {
	t.Parallel()
	url := pgtest.NewEmptyDatabase(t)
	on := func(args ...string) []string { return append(args, "--database-url", url) }

	status := requireOK(t, oversyncCommand(t, on("migrate", "status")...)).stdout
	require.Contains(t, status, "00001_schema.sql")
	require.NotContains(t, status, time.Now().UTC().Format(time.DateOnly))
	r := oversyncCommand(t, on("table", "list")...)
	require.Equal(t, exitFailed, r.status)
	require.Contains(t, r.stderr, "oversync migrate up")

	require.Contains(t, requireOK(t, oversyncCommand(t, on("migrate", "up")...)).stdout, "applied")
	require.Contains(t, requireOK(t, oversyncCommand(t, on("migrate", "up")...)).stdout, "up to date")
	require.Contains(t, requireOK(t, oversyncCommand(t, on("table", "list")...)).stdout, "No table is registered")

	conn := connect(t, url)
	_, err := conn.Exec(t.Context(), `
		CREATE TABLE public.lists (_sync_scope_id text NOT NULL, id uuid NOT NULL, PRIMARY KEY (_sync_scope_id, id));
		CREATE TABLE public.todos (_sync_scope_id text NOT NULL, id text NOT NULL, list_id uuid, PRIMARY KEY (_sync_scope_id, id),
			FOREIGN KEY (_sync_scope_id, list_id) REFERENCES public.lists DEFERRABLE INITIALLY DEFERRED);
		CREATE TABLE public.plain (id uuid PRIMARY KEY);`)
	require.NoError(t, err)

	for _, name := range []string{"nope", "no.such", "public.nope", "", "two words"} {
		r = oversyncCommand(t, on("table", "register", name)...)
		require.Equal(t, exitFailed, r.status)
		require.Contains(t, r.stderr, "hint: Name a table that is there")
		require.NotContains(t, r.stderr, "migrate up")
	}
	r = oversyncCommand(t, on("table", "register", "public.plain")...)
	require.Equal(t, exitFailed, r.status)
	require.Contains(t, r.stderr, "plain")
	require.Contains(t, r.stderr, "hint:")
	// The child alone leaves a foreign key open.
	require.Equal(t, exitFailed, oversyncCommand(t, on("table", "register", "public.todos")...).status)
	requireOK(t, oversyncCommand(t, on("table", "register", "public.todos", "public.lists", "--policy", "capture")...))

	var tables []tableLine
	require.NoError(t, json.Unmarshal([]byte(requireOK(t, oversyncCommand(t, on("--json", "table", "list")...)).stdout), &tables))
	require.Equal(t, []tableLine{
		{Table: "public.lists", SyncKey: "id", KeyType: "uuid", Scope: "_sync_scope_id", Policy: "capture"},
		{Table: "public.todos", SyncKey: "id", KeyType: "text", Scope: "_sync_scope_id", Policy: "capture"},
	}, tables)

	var changes []struct {
		Version int64 `json:"version"`
	}
	require.NoError(t, json.Unmarshal([]byte(requireOK(t, oversyncCommand(t, on("--json", "migrate", "down")...)).stdout), &changes))
	require.Len(t, changes, 1)
	require.Contains(t, requireOK(t, oversyncCommand(t, on("migrate", "down")...)).stderr, "No longer registered: public.lists, public.todos.")
	require.Empty(t, requireOK(t, oversyncCommand(t, on("migrate", "down", "--to", "0")...)).stderr)
	require.Contains(t, requireOK(t, oversyncCommand(t, on("migrate", "down")...)).stdout, "nothing to take back")
}

func TestServeRefusesToStart(t *testing.T) {
	t.Parallel()
	url := pgtest.NewEmptyDatabase(t)
	serve := func() result {
		return oversyncCommand(t, "serve", "--database-url", url, "--jwt-secret", testSecret, "--listen", "127.0.0.1:0")
	}
	r := oversyncCommand(t, "serve", "--database-url", url, "--jwt-secret", "")
	require.Equal(t, exitFailed, r.status)
	require.Contains(t, r.stderr, "openssl rand")

	r = serve()
	require.Equal(t, exitFailed, r.status)
	require.Contains(t, r.stderr, "oversync migrate up")

	requireOK(t, oversyncCommand(t, "migrate", "up", "--database-url", url))
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, taken.Close()) }()
	r = oversyncCommand(t, "serve", "--database-url", url, "--jwt-secret", testSecret, "--listen", taken.Addr().String())
	require.Equal(t, exitFailed, r.status)
	require.Contains(t, r.stderr, taken.Addr().String()+" (OVERSYNC_LISTEN chooses another address)")

	_, err = connect(t, url).Exec(t.Context(), "INSERT INTO public.oversync_goose_version (version_id, is_applied) VALUES (99999, true)")
	require.NoError(t, err)
	r = serve()
	require.Equal(t, exitFailed, r.status)
	require.Contains(t, r.stderr, "newer than this program")

	r = oversyncCommand(t, "serve", "--database-url", "postgres://nobody@127.0.0.1:1/x", "--jwt-secret", testSecret)
	require.Equal(t, exitFailed, r.status)
	require.Contains(t, r.stderr, "connect to the database")

	r = oversyncCommand(t, "dev", "--database-url", url, "--listen", ":0", "--jwt-secret", "")
	require.Equal(t, exitFailed, r.status)
	require.Contains(t, r.stderr, "OVERSYNC_JWT_SECRET")
}

// TestRoleWithoutPrivileges: whoever comes with a role that may do nothing is told what it needs.
func TestRoleWithoutPrivileges(t *testing.T) {
	t.Parallel()
	url := pgtest.NewEmptyDatabase(t)
	u, err := neturl.Parse(url)
	require.NoError(t, err)
	query := u.Query()
	query.Set("role", "pg_monitor")
	u.RawQuery = query.Encode()
	weak := func(args ...string) {
		t.Helper()
		r := oversyncCommand(t, append(args, "--database-url", u.String())...)
		require.Equal(t, exitFailed, r.status)
		require.Contains(t, r.stderr, "SQLSTATE 42501")
		require.Contains(t, r.stderr, "hint: The role of DATABASE_URL lacks a privilege. Migrating needs CREATE on the database and on schema public")
	}
	weak("migrate", "up")
	weak("dev", "--listen", "127.0.0.1:0")
	requireOK(t, oversyncCommand(t, "migrate", "up", "--database-url", url))
	weak("migrate", "status")
	weak("table", "list")
	weak("serve", "--listen", "127.0.0.1:0", "--jwt-secret", testSecret)
}

// running is a server in this process.
type running struct {
	address string
	stdout  *bytes.Buffer // to be read once it has stopped
	stop    func() int    // as a signal does; returns the exit status
}

func start(t *testing.T, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	logs, stderr := io.Pipe()
	r := &running{stdout: &bytes.Buffer{}}
	exited := make(chan int, 1)
	go func() {
		status := run(ctx, append([]string{"oversync"}, args...), r.stdout, stderr)
		_ = stderr.Close()
		exited <- status
	}()
	listening := make(chan string, 1)
	printed := make(chan string, 1)
	go func() {
		var all strings.Builder
		lines := bufio.NewScanner(logs)
		for lines.Scan() {
			all.WriteString(lines.Text() + "\n")
			var line struct{ Msg, Addr string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "listening" {
				listening <- line.Addr
			}
		}
		printed <- all.String()
	}()
	stopped := -1
	r.stop = func() int {
		cancel()
		if stopped < 0 {
			select {
			case stopped = <-exited:
			case <-time.After(patience):
				t.Fatal("the server does not stop")
			}
		}
		return stopped
	}
	t.Cleanup(func() { r.stop() })
	select {
	case r.address = <-listening:
	case log := <-printed:
		t.Fatal("the server did not start: " + log)
	case <-time.After(patience):
		t.Fatal("the server does not start")
	}
	return r
}

// request sends one request on a connection that is closed after it.
func request(t *testing.T, method, url, token, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	req.Close = true
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set(oversync.SourceIDHeader, "device-a")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(answer)
}

func TestServe(t *testing.T) {
	t.Parallel()
	server := start(t, "serve", "--database-url", pgtest.NewDatabase(t), "--jwt-secret", testSecret, "--listen", "127.0.0.1:0",
		"--app-name", "todo-app", "--max-rows-per-push-chunk", "77")
	token := strings.TrimSpace(requireOK(t, oversyncCommand(t, "token", "--user", "u", "--jwt-secret", testSecret)).stdout)
	root := "http://" + server.address

	status, body := request(t, http.MethodGet, root+"/syncx/health", "", "")
	require.Equal(t, 200, status, body)
	require.Contains(t, body, `"app_name":"todo-app"`)
	status, body = request(t, http.MethodGet, root+"/sync/capabilities", token, "")
	require.Equal(t, 200, status, body)
	require.Contains(t, body, `"max_rows_per_push_chunk":77`)
	status, body = request(t, http.MethodPost, root+"/sync/connect", token, "{}")
	require.Equal(t, 200, status, body)
	require.Contains(t, body, "initialize_empty")
	status, _ = request(t, http.MethodPost, root+"/sync/connect", token+"x", "{}")
	require.Equal(t, 401, status)
	require.Equal(t, exitOK, server.stop())
}

// A request that is under way when the signal comes is answered: its connection
// is not cut.
func TestServeAnswersWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	server := start(t, "serve", "--database-url", pgtest.NewDatabase(t), "--jwt-secret", testSecret, "--listen", "127.0.0.1:0")
	token := strings.TrimSpace(requireOK(t, oversyncCommand(t, "token", "--user", "u", "--jwt-secret", testSecret)).stdout)
	conn, err := net.Dial("tcp", server.address)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(conn, "POST /sync/connect HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+token+
		"\r\nOversync-Source-ID: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
	require.NoError(t, err)
	answers := bufio.NewReader(conn)
	line, err := answers.ReadString('\n') // the handler now waits for the body
	require.NoError(t, err)
	require.Contains(t, line, "100 Continue")
	_, err = answers.ReadString('\n')
	require.NoError(t, err)

	exited := make(chan int, 1)
	go func() { exited <- server.stop() }()
	// The port is closed once the shutdown has begun.
	require.Eventually(t, func() bool {
		probe, err := net.Dial("tcp", server.address)
		if err == nil {
			_ = probe.Close()
		}
		return err != nil
	}, patience, time.Millisecond)
	_, err = io.WriteString(conn, "{}")
	require.NoError(t, err)
	resp, err := http.ReadResponse(answers, nil)
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Contains(t, []int{200, 503}, resp.StatusCode, string(body))
	require.Equal(t, exitOK, <-exited)
}

func TestDevAndDemo(t *testing.T) {
	t.Parallel()
	server := start(t, "dev", "--temporary", "--listen", "127.0.0.1:0", "--json", "--database-url", "")
	played := requireOK(t, oversyncCommand(t, "demo", "--url", "http://"+server.address))
	require.NotEmpty(t, played.stdout)
	refused := oversyncCommand(t, "demo", "--url", "http://"+server.address, "--token", "nonsense")
	require.Equal(t, exitFailed, refused.status)
	require.Regexp(t, `X-Request-ID [0-9a-f-]{36}`, refused.stderr, "the server says to look for it in the log")
	require.Equal(t, exitOK, server.stop())
	var info devInfo
	require.NoError(t, json.Unmarshal(server.stdout.Bytes(), &info))
	require.Equal(t, "http://"+server.address, info.URL)
	require.NotEmpty(t, info.Token)
}

// Migrations are edited in place before a release: a demo database of an older version
// looks up to date and fails at the first push.
func TestDevMakesAnOldDatabaseAfresh(t *testing.T) {
	t.Parallel()
	server, err := pgembed.Start(t.Context(), pgembed.Config{Temporary: true})
	require.NoError(t, err)
	defer func() { require.NoError(t, server.Stop(context.Background())) }()
	tables := func(afresh bool) int64 {
		t.Helper()
		var log bytes.Buffer
		require.NoError(t, prepareDevDatabase(t.Context(), slog.New(slog.NewTextHandler(&log, nil)), server))
		require.Equal(t, afresh, strings.Contains(log.String(), "made afresh"))
		return number(t, connect(t, server.URL(devDatabase)), `SELECT count(*) FROM pg_class WHERE relname = 'mine'`)
	}
	require.Zero(t, tables(false))
	conn := connect(t, server.URL(devDatabase))
	execute(t, conn, `CREATE TABLE mine ()`)
	require.EqualValues(t, 1, tables(false))
	execute(t, connect(t, server.URL("postgres")), `COMMENT ON DATABASE oversync IS 'made by another'`)
	require.Zero(t, tables(true))
}

func TestDevOnADatabaseOfYours(t *testing.T) {
	t.Parallel()
	url := pgtest.NewEmptyDatabase(t)
	for range 2 { // the second finds everything in place
		server := start(t, "dev", "--listen", "127.0.0.1:0", "--database-url", url)
		require.Equal(t, exitOK, server.stop())
		require.Contains(t, server.stdout.String(), "oversync demo --url http://"+server.address+" --token ")
		require.Contains(t, server.stdout.String(), "psql '"+url+"'")
	}
	require.Contains(t, requireOK(t, oversyncCommand(t, "table", "list", "--database-url", url)).stdout, "demo.members")
}
