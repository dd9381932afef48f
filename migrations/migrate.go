package migrations

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// VersionTable is where goose notes what it has applied. It has a name of its
// own because the application may use goose too, with goose's default name.
const VersionTable = "public.oversync_goose_version"

// lockID is the advisory lock that lets one process migrate at a time. It is not
// goose's default, so that the application's own migrations do not wait for ours.
const lockID int64 = 0x6f76657273796e63 // "oversync"

// The wait for another process that migrates: a try each second, ten minutes
// long. It ends earlier when the context does.
const (
	lockPeriodSeconds = 1
	lockAttempts      = 600
)

// NewerError says that the database was migrated by a newer program. Working on
// it could lose what only the newer one knows, so everything here refuses to.
type NewerError struct {
	Database int64 // the newest version in the database
	Program  int64 // the newest version that this program has
}

func (e *NewerError) Error() string {
	return fmt.Sprintf("the database's sync schema is at version %d, newer than this program, which knows up to version %d: "+
		"run an oversync of at least that version", e.Database, e.Program)
}

// BehindError says that migrations are missing.
type BehindError struct {
	Database int64 // the newest version in the database; 0 if there is none
	Program  int64 // the newest version that this program has
	Missing  int   // how many migrations have yet to be applied
}

func (e *BehindError) Error() string {
	if e.Database == 0 {
		return "the database has no sync schema yet: run oversync migrate up"
	}
	return fmt.Sprintf("the database's sync schema is at version %d and lacks %d migration(s) up to version %d: run oversync migrate up",
		e.Database, e.Missing, e.Program)
}

// Status is one migration and whether the database has it.
type Status struct {
	Version   int64      `json:"version"`
	Name      string     `json:"name"`
	AppliedAt *time.Time `json:"applied_at"` // nil if it is not applied
}

// Change is one migration that was applied or taken back.
type Change struct {
	Version  int64         `json:"version"`
	Name     string        `json:"name"`
	Duration time.Duration `json:"duration_ns"`
}

// Queryer is a pgx connection, pool or transaction.
type Queryer interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Up applies every missing migration and returns those it applied. Any number of
// processes may call it at once: one works, the others wait and find nothing to
// do. It returns a *NewerError if the database is ahead of this program.
func Up(ctx context.Context, databaseURL string) ([]Change, error) {
	return migrate(ctx, databaseURL, func(p *goose.Provider) ([]*goose.MigrationResult, error) {
		return p.Up(ctx)
	})
}

// Down takes back the newest migration. Taking back the first drops the schema
// sync with everything that was synced, but no row of the application's tables.
// It returns no change if there is nothing left to take back.
func Down(ctx context.Context, databaseURL string) ([]Change, error) {
	return migrate(ctx, databaseURL, func(p *goose.Provider) ([]*goose.MigrationResult, error) {
		result, err := p.Down(ctx)
		if errors.Is(err, goose.ErrNoNextVersion) {
			return nil, nil
		}
		return []*goose.MigrationResult{result}, err
	})
}

// DownTo takes back every migration above version; 0 takes back all.
func DownTo(ctx context.Context, databaseURL string, version int64) ([]Change, error) {
	return migrate(ctx, databaseURL, func(p *goose.Provider) ([]*goose.MigrationResult, error) {
		return p.DownTo(ctx, version)
	})
}

// List returns every migration of this program in order. It changes nothing, and
// returns a *NewerError beside the list if the database is ahead.
func List(ctx context.Context, q Queryer) ([]Status, error) {
	list, err := sources()
	if err != nil {
		return nil, err
	}
	applied, err := appliedVersions(ctx, q)
	if err != nil {
		return nil, err
	}
	for i := range list {
		if at, ok := applied[list[i].Version]; ok {
			list[i].AppliedAt = &at
		}
	}
	if newest(applied) > list[len(list)-1].Version {
		return list, &NewerError{Database: newest(applied), Program: list[len(list)-1].Version}
	}
	return list, nil
}

// Check returns nil if the database has exactly the migrations of this program,
// else a *NewerError, a *BehindError, or what kept it from looking.
func Check(ctx context.Context, q Queryer) error {
	list, err := List(ctx, q)
	if err != nil {
		return err
	}
	behind := BehindError{Program: list[len(list)-1].Version}
	for _, s := range list {
		if s.AppliedAt == nil {
			behind.Missing++
		} else {
			behind.Database = s.Version
		}
	}
	if behind.Missing > 0 {
		return &behind
	}
	return nil
}

// migrate runs one change of the schema on a connection of its own.
func migrate(ctx context.Context, databaseURL string, run func(*goose.Provider) ([]*goose.MigrationResult, error)) (_ []Change, err error) {
	config, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("read the database URL: %w", err)
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "oversync-migrate"
	}
	config.RuntimeParams["client_encoding"] = "UTF8" // what pgx sends, whatever the database is set to
	if err := refuseNewer(ctx, config); err != nil {
		return nil, err
	}
	provider, err := newProvider(stdlib.OpenDB(*config))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, provider.Close()) }()

	results, err := run(provider)
	// A failure in the middle keeps what was applied before it.
	if partial, ok := errors.AsType[*goose.PartialError](err); ok {
		results = partial.Applied
	}
	var changes []Change
	for _, r := range results {
		if r != nil && r.Error == nil {
			changes = append(changes, Change{Version: r.Source.Version, Name: path.Base(r.Source.Path), Duration: r.Duration})
		}
	}
	return changes, err
}

func refuseNewer(ctx context.Context, config *pgx.ConnConfig) (err error) {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	_, err = List(ctx, conn)
	return err
}

func newProvider(db *sql.DB) (*goose.Provider, error) {
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(lockID), lock.WithLockTimeout(lockPeriodSeconds, lockAttempts))
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, FS,
		goose.WithTableName(VersionTable),
		goose.WithSessionLocker(locker),
		// The application's own Go migrations, registered globally, are not ours.
		goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return provider, nil
}

// sources lists the embedded migrations in order.
func sources() ([]Status, error) {
	names, err := fs.Glob(FS, "*.sql")
	if err != nil {
		return nil, err
	}
	list := make([]Status, 0, len(names))
	for _, name := range names { // sorted by Glob, and the versions are zero-padded
		version, err := goose.NumericComponent(name)
		if err != nil {
			return nil, fmt.Errorf("migration %s: %w", name, err)
		}
		list = append(list, Status{Version: version, Name: name})
	}
	return list, nil
}

// appliedVersions reads goose's table itself, because goose creates the table
// when it is only asked.
func appliedVersions(ctx context.Context, q Queryer) (map[int64]time.Time, error) {
	rows, err := q.Query(ctx, "SELECT version_id, tstamp FROM "+VersionTable+" WHERE is_applied AND version_id > 0")
	if err == nil {
		applied := map[int64]time.Time{}
		var version int64
		var at time.Time
		_, err = pgx.ForEachRow(rows, []any{&version, &at}, func() error {
			applied[version] = at
			return nil
		})
		if err == nil {
			return applied, nil
		}
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == pgerrcode.UndefinedTable {
		return nil, nil
	}
	return nil, fmt.Errorf("read which migrations the database has: %w", err)
}

func newest(applied map[int64]time.Time) int64 {
	var n int64
	for version := range applied {
		n = max(n, version)
	}
	return n
}
