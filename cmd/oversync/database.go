package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/oversync/oversync/migrations"
)

// databaseFlags say where the database is. An empty URL leaves everything to the
// standard PG* variables, if there are any.
type databaseFlags struct {
	DatabaseURL string `name:"database-url" env:"DATABASE_URL" placeholder:"URL" help:"PostgreSQL to use, as postgres://user:password@host/database; without it the PG* variables count."`
}

// url refuses the driver's guess of a local server: a command that was given no
// database should not change whichever one it finds.
func (f databaseFlags) url() (string, error) {
	if f.DatabaseURL != "" {
		return f.DatabaseURL, nil
	}
	for _, variable := range os.Environ() {
		switch name, value, _ := strings.Cut(variable, "="); name {
		case "PGHOST", "PGHOSTADDR", "PGDATABASE", "PGSERVICE", "PGPORT":
			if value != "" {
				return "", nil
			}
		}
	}
	return "", errors.New("no database is named: set DATABASE_URL, for example postgres://user:password@localhost/mydb")
}

// readCommitted is for what enters rows into the log, which must see what others commit
// meanwhile, whatever the default of the database is.
var readCommitted = pgx.TxOptions{IsoLevel: pgx.ReadCommitted}

// connect opens one connection to a database that has the schema of this program: on
// half of it, or on a newer one, a command would say what is not so.
func (f databaseFlags) connect(ctx context.Context) (*pgx.Conn, error) {
	conn, err := f.connectUnchecked(ctx)
	if err != nil {
		return nil, err
	}
	if err := migrations.Check(ctx, conn); err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	return conn, nil
}

// connectUnchecked is connect for a database with any schema of ours, or none.
func (f databaseFlags) connectUnchecked(ctx context.Context) (*pgx.Conn, error) {
	url, err := f.url()
	if err != nil {
		return nil, err
	}
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("DATABASE_URL: %w", err)
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "oversync-cli"
	}
	config.RuntimeParams["client_encoding"] = "UTF8" // as openPool
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	return conn, nil
}

const (
	// idleInTransactionTimeout bounds what is between two statements of a
	// transaction. Here that is never more than making a hash.
	idleInTransactionTimeout = "idle_in_transaction_session_timeout"
	pingTimeout              = 3 * time.Second
)

// openPool connects the server's pool and checks that the database answers. size
// 0 is four connections for each processor, at least 16: a commit holds one while
// it waits for the disk, and those that wait together share one write.
func openPool(ctx context.Context, url, applicationName string, size int32) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("DATABASE_URL: %w", err)
	}
	// DBAs find us in pg_stat_activity by it. A name in the URL wins.
	if config.ConnConfig.RuntimeParams["application_name"] == "" {
		config.ConnConfig.RuntimeParams["application_name"] = applicationName
	}
	if size <= 0 {
		size = int32(max(16, 4*runtime.NumCPU())) //nolint:gosec // the number of processors is small
	}
	config.MaxConns = size
	// What pgx sends and reads, whatever the database is set to.
	config.ConnConfig.RuntimeParams["client_encoding"] = "UTF8"
	// Statements here are short. Compiling one costs more than it can save.
	config.ConnConfig.RuntimeParams["jit"] = "off"
	// A server that vanishes without closing its connections, by a power cut or a broken
	// network, would leave a commit open for as long as TCP takes to notice: two hours,
	// in which nobody can push into that scope. Both settings give way to those of the URL.
	if config.ConnConfig.RuntimeParams[idleInTransactionTimeout] == "" {
		config.ConnConfig.RuntimeParams[idleInTransactionTimeout] = "60s"
	}
	// When the database vanishes like that, connections that were idle answer to nothing.
	// The pool asks them before it lends them, but would wait for the answer for as long
	// as the request lasts.
	if config.PingTimeout == 0 {
		config.PingTimeout = pingTimeout
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	return pool, nil
}
