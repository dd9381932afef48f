package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

type tableCmd struct {
	Register tableRegisterCmd `cmd:"" help:"Make tables part of sync."`
	List     tableListCmd     `cmd:"" help:"List the registered tables in the order in which a push writes them."`
}

type tableRegisterCmd struct {
	databaseFlags
	Tables  []string `arg:"" name:"table" help:"Tables, as schema.table. Those that refer to each other go into one command."`
	SyncKey string   `placeholder:"COLUMN" help:"Column that identifies a row within its scope. Without it, the primary key's column beside the scope."`
	Scope   string   `default:"_sync_scope_id" placeholder:"COLUMN" help:"Column that says whose row it is."`
	Policy  string   `enum:"reject,capture" default:"reject" help:"What becomes of a write outside a bundle: ${enum}."`
}

// Run registers all tables or none: whether their foreign keys stay among
// registered tables is judged when the transaction ends.
func (c *tableRegisterCmd) Run(ctx context.Context, a *app) (err error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, table := range c.Tables {
			_, err := tx.Exec(ctx,
				`SELECT sync.register_table($1::text::regclass, sync_key => nullif($2, '')::name, scope => $3::text::name, policy => $4)`,
				table, c.SyncKey, c.Scope, c.Policy)
			if err != nil {
				return fmt.Errorf("register %s: %w", table, err)
			}
		}
		return nil
	})
	if err != nil {
		return schemaMissing(err)
	}
	return a.listTables(ctx, conn)
}

type tableListCmd struct{ databaseFlags }

func (c *tableListCmd) Run(ctx context.Context, a *app) (err error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	return a.listTables(ctx, conn)
}

type tableLine struct {
	Table   string `json:"table"`
	SyncKey string `json:"sync_key"`
	KeyType string `json:"key_type"`
	Scope   string `json:"scope"`
	Policy  string `json:"policy"`
	// CycleGroup is above 0 for tables that refer to each other in a circle.
	CycleGroup int `json:"cycle_group"`
}

func (a *app) listTables(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx,
		`SELECT t.schema_name || '.' || t.table_name, t.key_column::text, t.key_type, t.scope_column::text, t.policy, o.cycle_group
		 FROM sync.table_order o JOIN sync.table_catalog t USING (table_id)
		 ORDER BY o.table_position`)
	if err != nil {
		return schemaMissing(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowToStructByPos[tableLine])
	if err != nil {
		return schemaMissing(err)
	}
	return a.print(tables, func(w io.Writer) {
		if len(tables) == 0 {
			say(w, "No table is registered. Register one with: %s table register schema.table\n", a.program)
			return
		}
		row(w, "TABLE", "SYNC KEY", "KEY TYPE", "SCOPE", "POLICY", "CYCLE")
		for _, t := range tables {
			cycle := "-"
			if t.CycleGroup > 0 {
				cycle = fmt.Sprint(t.CycleGroup)
			}
			row(w, t.Table, t.SyncKey, t.KeyType, t.Scope, t.Policy, cycle)
		}
	})
}

// schemaMissing says what to do about a database that was never migrated.
func schemaMissing(err error) error {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if ok && (e.Code == pgerrcode.InvalidSchemaName || strings.Contains(e.Message, `relation "sync.`)) {
		return errors.New("the database has no sync schema yet: run oversync migrate up")
	}
	return err
}
