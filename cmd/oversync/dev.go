package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/oversync/oversync/cmd/oversync/internal/demo"
	"github.com/oversync/oversync/db/pgembed"
	"github.com/oversync/oversync/migrations"
)

// devDatabase is the database that dev makes in its private server.
const devDatabase = "oversync"

// devTokenTTL is long enough for a day of trying things out.
const devTokenTTL = 24 * time.Hour

// pgStopTimeout bounds the checkpoint of the private server at the end.
const pgStopTimeout = 30 * time.Second

type devCmd struct {
	DatabaseURL string `name:"database-url" env:"DATABASE_URL" placeholder:"URL" help:"PostgreSQL to use. Without it dev starts one of its own."`
	DataDir     string `type:"path" env:"OVERSYNC_DEV_DIR" help:"Folder of the private PostgreSQL. Without it, one in the user's cache."`
	Temporary   bool   `help:"Forget everything at the end: the private PostgreSQL gets a folder that is removed."`
	serverFlags
	serviceFlags
}

func (c *devCmd) Run(ctx context.Context, a *app) (err error) {
	if c.JWTSecret == "" {
		if !isLoopback(c.Listen) {
			return fmt.Errorf("dev signs tokens with a secret that everybody knows, so it listens on this machine alone: "+
				"set OVERSYNC_JWT_SECRET to listen on %s", c.Listen)
		}
		c.JWTSecret = devSecret
	}
	url := c.DatabaseURL
	if url == "" {
		server, err := pgembed.Start(ctx, pgembed.Config{Dir: c.DataDir, Temporary: c.Temporary, Logger: a.logger})
		if err != nil {
			return err
		}
		defer func() {
			stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), pgStopTimeout)
			defer cancel()
			err = errors.Join(err, server.Stop(stop))
		}()
		if err := prepareDevDatabase(ctx, a.logger, server); err != nil {
			return err
		}
		url = server.URL(devDatabase)

		// Without its database the server is of no use.
		var cancel context.CancelCauseFunc
		ctx, cancel = context.WithCancelCause(ctx)
		defer cancel(nil)
		finished := make(chan struct{})
		defer close(finished)
		go func() {
			select {
			case <-server.Done():
				cancel(fmt.Errorf("the private PostgreSQL ended; its log is %s", server.LogFile()))
			case <-finished:
			}
		}()
	}
	if _, err := migrations.Up(ctx, url); err != nil {
		return err
	}
	pool, err := openPool(ctx, url, c.AppName, c.PoolSize)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := installDemo(ctx, pool); err != nil {
		return err
	}
	token, _, err := mintToken(c.JWTSecret, c.JWTClaim, demoUser, devTokenTTL)
	if err != nil {
		return err
	}
	err = serve(ctx, a.logger, pool, c.serverFlags, c.serviceFlags, func(serverURL string) {
		_ = a.print(devInfo{URL: serverURL, DatabaseURL: url, User: demoUser, Token: token}, func(w io.Writer) {
			a.printNextSteps(w, serverURL, url, token)
		})
	})
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = errors.Join(err, cause)
	}
	return err
}

// prepareDevDatabase makes the private server's database, afresh if another version of
// the migrations made the one that is there: before a release these are edited in
// place, so that the schema would look up to date and fail at the first push.
func prepareDevDatabase(ctx context.Context, logger *slog.Logger, server *pgembed.Server) (err error) {
	made, err := devDatabaseComment()
	if err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, server.URL("postgres"))
	if err != nil {
		return fmt.Errorf("connect to the private PostgreSQL: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	var comment string
	err = conn.QueryRow(ctx, "SELECT coalesce(shobj_description(oid, 'pg_database'), '') FROM pg_database WHERE datname = $1", devDatabase).Scan(&comment)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
	case err != nil:
		return fmt.Errorf("look for the database of dev: %w", err)
	case comment == made:
		return nil
	default:
		logger.Warn("the demo database was made by another version of oversync: it is dropped and made afresh", "database", devDatabase)
		if _, err := conn.Exec(ctx, "DROP DATABASE "+devDatabase+" WITH (FORCE)"); err != nil {
			return fmt.Errorf("drop the database of dev: %w", err)
		}
	}
	if err := server.CreateDatabase(ctx, devDatabase); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "COMMENT ON DATABASE "+devDatabase+" IS '"+made+"'") // COMMENT takes no parameters
	return err
}

// devDatabaseComment tells which migrations and demo schema a database was made with.
func devDatabaseComment() (string, error) {
	hash := sha256.New()
	names, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil {
		return "", err
	}
	for _, name := range names {
		text, err := migrations.FS.ReadFile(name)
		if err != nil {
			return "", err
		}
		hash.Write(text)
	}
	hash.Write([]byte(demo.SchemaSQL + demo.RegisterSQL))
	return "made by oversync dev with migrations " + hex.EncodeToString(hash.Sum(nil)), nil
}

type devInfo struct {
	URL         string `json:"url"`
	DatabaseURL string `json:"database_url"`
	User        string `json:"user_id"`
	Token       string `json:"token"`
}

func (a *app) printNextSteps(w io.Writer, serverURL, databaseURL, token string) {
	say(w, `
oversync runs on %[2]s with a demo schema. Ctrl-C ends it. In another terminal:

  Play three devices against it:
    %[1]s demo --url %[2]s --token %[4]s

  Look into the database:
    psql %[3]s

  Ask it what it can do:
    curl -H 'Authorization: Bearer %[4]s' -H 'Oversync-Source-ID: curl' %[2]s/sync/capabilities

`, a.program, serverURL, quoted(databaseURL), token)
}

// installDemo creates and registers the demo tables. Doing it again changes
// nothing.
func installDemo(ctx context.Context, pool *pgxpool.Pool) error {
	return pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, demo.SchemaSQL); err != nil {
			return fmt.Errorf("create the demo schema: %w", err)
		}
		if _, err := tx.Exec(ctx, demo.RegisterSQL); err != nil {
			return fmt.Errorf("register the demo tables: %w", err)
		}
		return nil
	})
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
