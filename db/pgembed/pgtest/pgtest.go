// Package pgtest gives each test a PostgreSQL database of its own.
//
// The server is that of TEST_DATABASE_URL, or else of DATABASE_URL, whose user must be allowed to
// create databases. With neither set, the test process starts a private server; `make test` starts
// one for all test processes together and sets TEST_DATABASE_URL.
//
// A database is a clone of a template that has all migrations applied. The template is made once per
// server and set of migrations, whichever process comes first.
//
// A test package that uses this package has
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }
package pgtest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/oversync/oversync/db/pgembed"
	"github.com/oversync/oversync/migrations"
)

const (
	// VersionTable is where goose keeps which migrations are applied.
	VersionTable = "public.oversync_goose_version"

	// patience bounds each step on the server. It is far beyond what a loaded machine needs, so
	// that only a hang meets it.
	patience = 2 * time.Minute

	// templateLock is the advisory lock under which templates are made.
	templateLock = 0x6f76_6572_7379_6e63
)

// NewDatabase returns the URL of a new database with all migrations applied. It is dropped when the
// test ends, unless the test failed and OVERSYNC_KEEP_DB=1: then its URL is logged.
func NewDatabase(t testing.TB) string {
	t.Helper()
	return newDatabase(t, func(ctx context.Context, admin *pgx.Conn, server string) (string, error) {
		return template(ctx, admin, server, migrations.FS)
	})
}

// NewEmptyDatabase is NewDatabase without the migrations.
func NewEmptyDatabase(t testing.TB) string {
	t.Helper()
	return newDatabase(t, func(context.Context, *pgx.Conn, string) (string, error) { return "template0", nil })
}

// NewPool returns a pool on a NewDatabase. Its search_path is empty, so that a name without its
// schema fails at once. The pool is closed when the test ends.
func NewPool(t testing.TB) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(NewDatabase(t))
	require.NoError(t, err)
	config.ConnConfig.RuntimeParams["search_path"] = ""
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// Program returns the path of one of PostgreSQL's programs, such as pg_dump, of a major version. A
// test on the server of DATABASE_URL is skipped where the machine lacks the program; on a private
// server, whose programs are at hand, it fails.
func Program(t testing.TB, name string, major int) string {
	t.Helper()
	path, err := pgembed.Program(t.Context(), name, major)
	if err != nil && os.Getenv("DATABASE_URL") != "" {
		t.Skip(err)
	}
	require.NoError(t, err)
	return path
}

// Run runs a package's tests, stops the server if this process started one, and fails when the tests
// left goroutines behind. It returns the status for os.Exit.
func Run(m *testing.M) int {
	status := m.Run()
	if err := stopServer(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = max(status, 1)
	}
	if status != 0 {
		return status // a failed test may well leave goroutines; the failure is the news
	}
	// pgxpool.Pool.Close does not wait for these two.
	err := goleak.Find(
		goleak.IgnoreAnyFunction("github.com/jackc/pgx/v5/pgxpool.(*Pool).backgroundHealthCheck"),
		goleak.IgnoreAnyFunction("github.com/jackc/pgx/v5/pgxpool.(*Pool).triggerHealthCheck.func1"),
	)
	if err != nil {
		fmt.Fprintln(os.Stderr, "goroutines are left after the tests:", err)
		return 1
	}
	return 0
}

// own is the server that this process started, if any.
var own struct {
	sync.Mutex
	server *pgembed.Server
}

// serverURL returns the URL of the server's maintenance database.
func serverURL() (string, error) {
	for _, name := range []string{"TEST_DATABASE_URL", "DATABASE_URL"} {
		if value := os.Getenv(name); value != "" {
			return value, nil
		}
	}
	own.Lock()
	defer own.Unlock()
	if own.server == nil {
		server, err := pgembed.Start(context.Background(), pgembed.Config{
			Temporary: true,
			Settings:  pgembed.TestSettings(),
		})
		if err != nil {
			return "", err
		}
		own.server = server
	}
	return own.server.URL("postgres"), nil
}

func stopServer() error {
	own.Lock()
	defer own.Unlock()
	if own.server == nil {
		return nil
	}
	err := own.server.Stop(context.Background())
	own.server = nil
	return err
}

// newDatabase clones the database that source names.
func newDatabase(t testing.TB, source func(ctx context.Context, admin *pgx.Conn, server string) (string, error)) string {
	t.Helper()
	server, err := serverURL()
	require.NoError(t, err)
	name := "oversync_test_" + strings.ToLower(rand.Text()[:12])
	err = withAdmin(server, func(ctx context.Context, admin *pgx.Conn) error {
		from, err := source(ctx, admin, server)
		if err != nil {
			return err
		}
		return clone(ctx, admin, name, from)
	})
	require.NoError(t, err)
	target, err := withDatabase(server, name)
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() && os.Getenv("OVERSYNC_KEEP_DB") == "1" {
			t.Logf("database kept: %s", target)
			return
		}
		err := withAdmin(server, func(ctx context.Context, admin *pgx.Conn) error {
			_, err := admin.Exec(ctx, "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)")
			return err
		})
		if err != nil {
			t.Errorf("drop the test's database %s: %v", name, err)
		}
	})
	return target
}

// clone copies a database. Copying its files is several times faster than copying through the WAL,
// but makes two checkpoints, which are cheap only where the server does not wait for the disk. (20
// clones of an empty database with fsync off: 0.3 s by files, 1.4 s through the WAL.)
func clone(ctx context.Context, admin *pgx.Conn, name, from string) error {
	var strategy string
	err := admin.QueryRow(ctx, "SELECT CASE current_setting('fsync') WHEN 'off' THEN 'file_copy' ELSE 'wal_log' END").Scan(&strategy)
	if err != nil {
		return fmt.Errorf("clone database %s: %w", from, err)
	}
	_, err = admin.Exec(ctx, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s STRATEGY %s",
		pgx.Identifier{name}.Sanitize(), pgx.Identifier{from}.Sanitize(), strategy))
	if err != nil {
		return fmt.Errorf("clone database %s: %w", from, err)
	}
	return nil
}

// template returns the name of the database that has the migrations of files applied, and makes it
// when this is the first use on the server.
func template(ctx context.Context, admin *pgx.Conn, server string, files fs.FS) (name string, err error) {
	sum, err := hash(files)
	if err != nil {
		return "", err
	}
	name = "oversync_template_" + sum
	if ok, err := exists(ctx, admin, name); ok || err != nil {
		return name, err
	}
	// The lock ends with the connection at the latest.
	if _, err := admin.Exec(ctx, "SELECT pg_advisory_lock($1)", int64(templateLock)); err != nil {
		return "", fmt.Errorf("lock the templates: %w", err)
	}
	defer func() {
		_, unlockErr := admin.Exec(ctx, "SELECT pg_advisory_unlock($1)", int64(templateLock))
		err = errors.Join(err, unlockErr)
	}()
	if ok, err := exists(ctx, admin, name); ok || err != nil {
		return name, err
	}
	// Built under another name: what carries the template's name is complete.
	draft := name + "_draft"
	if _, err := admin.Exec(ctx, "DROP DATABASE IF EXISTS "+pgx.Identifier{draft}.Sanitize()+" WITH (FORCE)"); err != nil {
		return "", fmt.Errorf("remove an unfinished template: %w", err)
	}
	if err := clone(ctx, admin, draft, "template0"); err != nil {
		return "", err
	}
	target, err := withDatabase(server, draft)
	if err != nil {
		return "", err
	}
	if err := migrate(ctx, target, files); err != nil {
		return "", fmt.Errorf("apply the migrations to a new database: %w", err)
	}
	_, err = admin.Exec(ctx, fmt.Sprintf("ALTER DATABASE %s RENAME TO %s",
		pgx.Identifier{draft}.Sanitize(), pgx.Identifier{name}.Sanitize()))
	if err != nil {
		return "", fmt.Errorf("name the template: %w", err)
	}
	return name, nil
}

// hash names a set of migrations by the names and contents of its files.
func hash(files fs.FS) (string, error) {
	sum := sha256.New()
	err := fs.WalkDir(files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(files, path)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(sum, "%s %d\n%s", path, len(content), content)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read the migrations: %w", err)
	}
	return hex.EncodeToString(sum.Sum(nil)[:8]), nil
}

func exists(ctx context.Context, admin *pgx.Conn, name string) (bool, error) {
	var found bool
	err := admin.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1)", name).Scan(&found)
	return found, err
}

func migrate(ctx context.Context, target string, files fs.FS) (err error) {
	config, err := pgx.ParseConfig(target)
	if err != nil {
		return err
	}
	db := stdlib.OpenDB(*config)
	// A connection left open would forbid cloning and renaming.
	defer func() { err = errors.Join(err, db.Close()) }()
	provider, err := newProvider(db, files)
	if err != nil {
		return err
	}
	_, err = provider.Up(ctx)
	return err
}

func newProvider(db *sql.DB, files fs.FS) (*goose.Provider, error) {
	return goose.NewProvider(goose.DialectPostgres, db, files, goose.WithTableName(VersionTable))
}

// withAdmin runs a function with a connection to the maintenance database.
func withAdmin(server string, do func(context.Context, *pgx.Conn) error) (err error) {
	// Not the test's context: that has ended when a test's database is dropped.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	admin, err := pgx.Connect(ctx, server)
	if err != nil {
		return fmt.Errorf("connect to the test server (see TEST_DATABASE_URL): %w", err)
	}
	defer func() { err = errors.Join(err, admin.Close(ctx)) }()
	return do(ctx, admin)
}

// withDatabase returns a server's URL with another database.
func withDatabase(server, database string) (string, error) {
	u, err := url.Parse(server)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		return "", errors.New("TEST_DATABASE_URL or DATABASE_URL must have the form postgres://user:password@host:port/database")
	}
	u.Path = "/" + database
	query := u.Query()
	query.Del("dbname")
	query.Del("database")
	u.RawQuery = query.Encode()
	return u.String(), nil
}
