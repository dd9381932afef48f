package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/oversync/oversync/migrations"
)

type migrateCmd struct {
	Up     migrateUpCmd     `cmd:"" help:"Apply every missing migration. Any number may run at once."`
	Down   migrateDownCmd   `cmd:"" help:"Take back the newest migration, or those above --to."`
	Status migrateStatusCmd `cmd:"" help:"List the migrations and which the database has."`
}

type migrateUpCmd struct{ databaseFlags }

func (c *migrateUpCmd) Run(ctx context.Context, a *app) error {
	url, err := c.url()
	if err != nil {
		return err
	}
	changes, err := migrations.Up(ctx, url)
	return a.printChanges("applied", "the sync schema is up to date", changes, err)
}

type migrateDownCmd struct {
	databaseFlags
	To *int64 `placeholder:"VERSION" help:"Take back every migration above this version. Below 12, all tables are unregistered; 0 removes the schema sync with all that was synced. The application's tables stay."`
}

func (c *migrateDownCmd) Run(ctx context.Context, a *app) error {
	url, err := c.url()
	if err != nil {
		return err
	}
	before, err := c.registered(ctx)
	if err != nil {
		return err
	}
	var changes []migrations.Change
	if c.To != nil {
		changes, err = migrations.DownTo(ctx, url, *c.To)
	} else {
		changes, err = migrations.Down(ctx, url)
	}
	if len(before) > 0 && err == nil {
		var after []string
		if after, err = c.registered(ctx); err == nil && len(after) == 0 {
			say(a.stderr, "No longer registered: %s. Their rows stay, and are not captured; register them again after migrate up.\n", strings.Join(before, ", "))
		}
	}
	return a.printChanges("took back", "there is nothing to take back", changes, err)
}

// registered names the registered tables. Without the repair migration there are none:
// taking it back unregisters them.
func (c *migrateDownCmd) registered(ctx context.Context) (names []string, err error) {
	conn, err := c.connectUnchecked(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	tables, err := queries.TableList(ctx, conn)
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && (e.Code == pgerrcode.UndefinedTable || e.Code == pgerrcode.InvalidSchemaName) {
		return nil, nil
	}
	for _, t := range tables {
		names = append(names, t.TableName)
	}
	return names, err
}

// printChanges tells what was done even if it then failed.
func (a *app) printChanges(verb, none string, changes []migrations.Change, failure error) error {
	if changes == nil {
		changes = []migrations.Change{}
	}
	if failure != nil && len(changes) == 0 {
		return failure
	}
	err := a.print(changes, func(w io.Writer) {
		for _, change := range changes {
			row(w, verb, change.Name, change.Duration.Round(time.Millisecond))
		}
		if len(changes) == 0 {
			row(w, none)
		}
	})
	return errors.Join(failure, err)
}

type migrateStatusCmd struct{ databaseFlags }

func (c *migrateStatusCmd) Run(ctx context.Context, a *app) (err error) {
	conn, err := c.connectUnchecked(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	list, failure := migrations.List(ctx, conn)
	if list == nil {
		return failure
	}
	err = a.print(list, func(w io.Writer) {
		row(w, "VERSION", "APPLIED", "NAME")
		for _, s := range list {
			applied := "no"
			if s.AppliedAt != nil {
				applied = s.AppliedAt.UTC().Format(time.DateTime)
			}
			row(w, s.Version, applied, s.Name)
		}
	})
	return errors.Join(failure, err)
}
