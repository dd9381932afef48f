package device

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the database/sql driver "sqlite"
)

// Config says which file, which server and which tables a [Device] works with.
type Config struct {
	// Path is the SQLite file. It is created when missing. An in-memory database is not supported, because the
	// package opens the file twice.
	Path string
	// BaseURL is the server's root, for example "http://127.0.0.1:8080". The routes /sync/... are added to it.
	BaseURL string
	// Token is the bearer token. The user in it is the scope of every row of this file: never point one file at
	// two users.
	Token string
	// SourceID names this device among the user's devices. It is used only when the file is new; empty means a
	// generated UUID. Afterwards the file knows its source, which changes when the server asks for a rotation.
	SourceID string
	// Tables are the tables to sync. Parents need not come before children.
	Tables []Table
	// Resolver decides conflicts. Nil means [ServerWins].
	Resolver Resolver
	// HTTPClient sends the requests. Nil means a client with a timeout of one minute.
	HTTPClient *http.Client
	// Backoff says how requests are retried. The zero value means 6 attempts, from 200 ms up to 10 s apart.
	Backoff Backoff
	// ChunkRows is the number of rows sent or asked for in one request. 0 means 1000, the server's default limit.
	ChunkRows int
	// ChunkBytes ends a pushed chunk early when its payloads are larger than this. 0 means 1 MiB.
	ChunkBytes int
	// MaxBundles is the number of bundles asked for in one pull. 0 means 200.
	MaxBundles int
	// Crash, when set, is called with the name of each point of a push where a crash is interesting (the Crash…
	// constants). A test panics or cancels its context there. No transaction is open and nothing is lost.
	Crash func(point string)
}

// Points that [Config.Crash] is called with, in the order in which a push reaches them.
const (
	CrashAfterFreeze  = "after_freeze"  // the outbox is on disk, the server knows nothing
	CrashAfterCreate  = "after_create"  // the push session exists
	CrashAfterChunk   = "after_chunk"   // a chunk is staged; called after each
	CrashBeforeCommit = "before_commit" // all rows are staged
	CrashAfterCommit  = "after_commit"  // committed on the server, unknown to the file
	CrashBeforeApply  = "before_apply"  // the committed rows are fetched and verified, not yet applied
)

// Device is one SQLite file that syncs. Its methods may be called from several goroutines; those that talk to
// the server run one at a time.
type Device struct {
	cfg    Config
	app    *sql.DB // for the application: foreign keys are enforced
	own    *sql.DB // for this package: foreign keys are not enforced, see apply.go
	tables []*Table
	wire   map[string]*Table // by "schema.name"
	local  map[string]*Table // by name
	api    *client

	mu     sync.Mutex // one conversation with the server at a time
	initID string     // the lease to initialize the scope, while this device holds it

	limitsKnown bool // cfg.ChunkRows is no more than the server takes
}

// Open opens or creates the file, creates missing tables and columns, and installs the triggers. It does not
// talk to the server. Rows that a table held before its first Open count as local changes.
// A change of the table definitions makes the next pull start over from a snapshot.
func Open(ctx context.Context, cfg Config) (*Device, error) {
	if cfg.Path == "" || strings.Contains(cfg.Path, ":memory:") {
		return nil, errors.New("device: Config.Path must name a file")
	}
	if cfg.Resolver == nil {
		cfg.Resolver = ServerWins
	}
	if cfg.ChunkRows <= 0 {
		cfg.ChunkRows = 1000
	}
	if cfg.ChunkBytes <= 0 {
		cfg.ChunkBytes = 1 << 20
	}
	if cfg.MaxBundles <= 0 {
		cfg.MaxBundles = 200
	}
	if cfg.Crash == nil {
		cfg.Crash = func(string) {}
	}
	d := &Device{cfg: cfg, wire: map[string]*Table{}, local: map[string]*Table{}, api: newClient(cfg)}
	if err := d.addTables(cfg.Tables); err != nil {
		return nil, err
	}
	var err error
	// recursive_triggers makes INSERT OR REPLACE fire the delete triggers of the rows it replaces.
	if d.app, err = openFile(cfg.Path, "foreign_keys(1)", "recursive_triggers(1)"); err != nil {
		return nil, err
	}
	if d.own, err = openFile(cfg.Path, "foreign_keys(0)"); err != nil {
		return nil, errors.Join(err, d.app.Close())
	}
	d.own.SetMaxOpenConns(1)
	if err := d.install(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func openFile(path string, pragmas ...string) (*sql.DB, error) {
	q := url.Values{}
	// A transaction takes the write lock when it begins: one that read first could not get it any more.
	q.Set("_txlock", "immediate")
	for _, p := range append([]string{"busy_timeout(20000)", "journal_mode(WAL)"}, pragmas...) {
		q.Add("_pragma", p)
	}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+q.Encode())
	if err != nil {
		return nil, fmt.Errorf("device: open %s: %w", path, err)
	}
	return db, nil
}

// Close closes the file. A push that was interrupted goes on after the next Open.
func (d *Device) Close() error {
	return errors.Join(d.own.Close(), d.app.Close())
}

// DB is the application's handle to the file: read and write the application's tables with it, leave the tables
// whose names begin with _sync_ alone. Foreign keys are enforced.
func (d *Device) DB() *sql.DB { return d.app }

// State is where a device stands.
type State struct {
	SourceID           string // this device among the user's devices
	NextSourceBundleID int64  // the number of the next push, from 1
	LastBundleSeq      int64  // everything up to this bundle is applied
	DirtyRows          int    // rows changed here and not frozen for a push
	OutboxRows         int    // rows of a push under way
	NeedsRebuild       bool   // the next pull starts over from a snapshot
}

// State reads where the device stands.
func (d *Device) State(ctx context.Context) (State, error) {
	var s State
	err := d.tx(ctx, func(tx *sql.Tx) error {
		st, err := readState(ctx, tx)
		if err != nil {
			return err
		}
		s = State{SourceID: st.sourceID, NextSourceBundleID: st.nextID, LastBundleSeq: st.lastSeq, NeedsRebuild: st.needsRebuild}
		return tx.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM _sync_dirty), (SELECT count(*) FROM _sync_outbox)`).
			Scan(&s.DirtyRows, &s.OutboxRows)
	})
	return s, err
}

// tx runs fn in a transaction of the package's own connection.
func (d *Device) tx(ctx context.Context, fn func(*sql.Tx) error) error {
	tx, err := d.own.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("device: begin: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // after a commit this does nothing
	if err := fn(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("device: commit: %w", err)
	}
	return nil
}

// applyTx is tx with the triggers quiet: what fn writes to the application's tables is not a local change.
// Writers of SQLite take turns, so the application never sees the flag set.
func (d *Device) applyTx(ctx context.Context, fn func(*sql.Tx) error) error {
	return d.tx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `UPDATE _sync_apply SET applying = 1`); err != nil {
			return err
		}
		if err := fn(tx); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `UPDATE _sync_apply SET applying = 0`)
		return err
	})
}

// deviceState is the one row of _sync_state.
type deviceState struct {
	sourceID          string
	nextID            int64
	lastSeq           int64
	pushRows          int64 // rows of the frozen push, 0 when there is none
	replacementID     string
	replacementReason string
	needsRebuild      bool
}

func readState(ctx context.Context, tx *sql.Tx) (deviceState, error) {
	var s deviceState
	err := tx.QueryRowContext(ctx, `SELECT source_id, next_source_bundle_id, last_bundle_seq,
		(SELECT count(*) FROM _sync_outbox), replacement_source_id, replacement_reason, needs_rebuild FROM _sync_state`).
		Scan(&s.sourceID, &s.nextID, &s.lastSeq, &s.pushRows, &s.replacementID, &s.replacementReason, &s.needsRebuild)
	if err != nil {
		return s, fmt.Errorf("device: read _sync_state: %w", err)
	}
	return s, nil
}

// state reads the state and tells the HTTP client who we are.
func (d *Device) state(ctx context.Context) (deviceState, error) {
	var s deviceState
	err := d.tx(ctx, func(tx *sql.Tx) (err error) {
		s, err = readState(ctx, tx)
		return err
	})
	d.api.source = s.sourceID
	return s, err
}

// Backoff says how often and how patiently a request is retried.
type Backoff struct {
	// Attempts is the number of tries in all, at least 1. 0 means 6.
	Attempts int
	// Base is the wait before the second try; it doubles with each further one. 0 means 200 ms.
	Base time.Duration
	// Max bounds a single wait. A longer Retry-After of the server is honoured all the same. 0 means 10 s.
	Max time.Duration
	// Sleep waits. Nil means a timer that the context can cut short. Tests replace it.
	Sleep func(ctx context.Context, d time.Duration) error
}
