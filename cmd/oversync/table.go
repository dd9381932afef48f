package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"

	"github.com/oversync/oversync/db"
)

// queries are the statements of this program, generated from the folder sql.
var queries = db.New()

type tableCmd struct {
	Register   tableRegisterCmd   `cmd:"" help:"Make tables part of sync, with the rows that they have."`
	List       tableListCmd       `cmd:"" help:"List the registered tables in the order in which a push writes them."`
	Policy     tablePolicyCmd     `cmd:"" help:"Say what becomes of a write outside a bundle."`
	Refresh    tableRefreshCmd    `cmd:"" help:"Follow an ALTER TABLE."`
	Adopt      tableAdoptCmd      `cmd:"" help:"Enter rows that were there before into the log."`
	Unregister tableUnregisterCmd `cmd:"" help:"Take tables out of sync; they stay as they are."`
}

type tableRegisterCmd struct {
	databaseFlags
	Tables             []string `arg:"" name:"table" help:"Tables, as schema.table. Those that refer to each other go into one command."`
	SyncKey            string   `placeholder:"COLUMN" help:"Column that identifies a row. Without it, the primary key's column beside the scope."`
	Scope              string   `default:"_sync_scope_id" placeholder:"COLUMN" help:"Column that says whose row it is: text, varchar, uuid, integer or bigint."`
	ScopeVia           string   `placeholder:"COLUMN" help:"Instead of --scope: column that refers to the parent whose scope a row has."`
	ShowScope          bool     `help:"Let clients see the scope column. They can never write it."`
	OnScopeChange      string   `enum:"refuse,move" default:"refuse" help:"With --scope-via, what a parent that changes its scope does to its rows: ${enum}."`
	Policy             string   `enum:"reject,capture," default:"" placeholder:"POLICY" help:"What becomes of a write outside a bundle: reject (an error) or capture (a bundle at commit). A new table rejects."`
	ExternalReferences []string `placeholder:"NAME" help:"Foreign keys, or tables referred to, that may stay outside sync."`
	adoptFlags
}

// Run registers all tables or none: whether their foreign keys stay among
// registered tables is judged when the transaction ends.
func (c *tableRegisterCmd) Run(ctx context.Context, a *app) error {
	if c.ExternalReferences == nil {
		c.ExternalReferences = []string{} // NULL would be no list
	}
	return c.onTables(ctx, a, c.Tables, "register", c.adoptFlags, func(tx pgx.Tx, table string) (int32, error) {
		return queries.TableRegister(ctx, tx, db.TableRegisterParams{
			Relation: table, SyncKey: c.SyncKey, Scope: c.Scope, ScopeVia: c.ScopeVia, ShowScope: c.ShowScope, OnScopeChange: c.OnScopeChange,
			Policy: c.Policy, ExternalReferences: c.ExternalReferences, Adopt: c.Adopt,
		})
	})
}

type tableRefreshCmd struct {
	databaseFlags
	Tables []string `arg:"" name:"table" help:"Registered tables that were altered, renamed or moved, or have new partitions."`
	adoptFlags
}

// Run refreshes all tables or none.
func (c *tableRefreshCmd) Run(ctx context.Context, a *app) error {
	return c.onTables(ctx, a, c.Tables, "refresh", c.adoptFlags, func(tx pgx.Tx, table string) (int32, error) {
		return queries.TableRefresh(ctx, tx, db.TableRefreshParams{Relation: table, Adopt: c.Adopt})
	})
}

// onTables changes the registration of tables in one transaction, enters the rows that it left for later, and lists the
// tables.
func (f databaseFlags) onTables(ctx context.Context, a *app, tables []string, verb string, adopt adoptFlags,
	change func(tx pgx.Tx, table string) (int32, error),
) (err error) {
	conn, err := f.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	changed := map[int32]bool{}
	err = pgx.BeginTxFunc(ctx, conn, readCommitted, func(tx pgx.Tx) error {
		for _, table := range tables {
			id, err := change(tx, table)
			if err != nil {
				return fmt.Errorf("%s %s: %w", verb, table, err)
			}
			changed[id] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	if adopt.Adopt != adoptLater {
		if _, err := a.adopt(ctx, conn, changed, adopt.BatchRows); err != nil {
			return err
		}
	}
	return a.listTables(ctx, conn)
}

type tablePolicyCmd struct {
	databaseFlags
	Policy string   `arg:"" enum:"reject,capture" help:"reject (an error) or capture (a bundle at commit)."`
	Tables []string `arg:"" name:"table" help:"Registered tables."`
}

// Run changes all tables or none.
func (c *tablePolicyCmd) Run(ctx context.Context, a *app) error {
	return c.onTables(ctx, a, c.Tables, "change the policy of", adoptFlags{Adopt: adoptLater}, func(tx pgx.Tx, table string) (int32, error) {
		return 0, queries.TableSetPolicy(ctx, tx, db.TableSetPolicyParams{Relation: table, Policy: c.Policy})
	})
}

type tableUnregisterCmd struct {
	databaseFlags
	Tables []string `arg:"" name:"table" help:"Registered tables. One that was dropped is named by the number that check shows."`
}

// Run unregisters all tables or none.
func (c *tableUnregisterCmd) Run(ctx context.Context, a *app) error {
	return c.onTables(ctx, a, c.Tables, "unregister", adoptFlags{Adopt: adoptLater}, func(tx pgx.Tx, table string) (int32, error) {
		was, err := queries.TableUnregister(ctx, tx, table)
		if err == nil && !was {
			err = errors.New("it is not registered")
		}
		return 0, err
	})
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
	// Scope is the column that says whose row it is. It is empty where ScopeVia leads to a parent that knows.
	Scope    string `json:"scope,omitempty"`
	ScopeVia string `json:"scope_via,omitempty"`
	Policy   string `json:"policy"`
	// CycleGroup is above 0 for tables that refer to each other in a circle.
	CycleGroup int32 `json:"cycle_group"`
	// Adoption is there while rows still have to enter the log.
	Adoption *adoptionLine `json:"adoption,omitempty"`
}

type adoptionLine struct {
	Source string `json:"source"`
	// Rows is how many there were to enter: null until they are counted.
	Rows     *int64 `json:"rows"`
	RowsLeft int64  `json:"rows_left"`
}

func (l *adoptionLine) String() string {
	switch {
	case l == nil:
		return "-"
	case l.Rows == nil || *l.Rows == 0:
		return "waiting"
	default:
		return fmt.Sprintf("%d of %d rows", *l.Rows-l.RowsLeft, *l.Rows)
	}
}

func (a *app) listTables(ctx context.Context, conn *pgx.Conn) error {
	list, err := queries.TableList(ctx, conn)
	if err != nil {
		return err
	}
	tables := make([]tableLine, len(list))
	for i, t := range list {
		tables[i] = tableLine{
			Table: t.TableName, SyncKey: t.KeyColumn, KeyType: t.KeyType, Scope: t.ScopeColumn, ScopeVia: t.ScopeVia,
			Policy: t.Policy, CycleGroup: t.CycleGroup,
		}
		if t.AdoptionSourceID != "" {
			tables[i].Adoption = &adoptionLine{Source: t.AdoptionSourceID, Rows: t.AdoptionRowCount, RowsLeft: t.AdoptionRowsLeft}
		}
	}
	return a.print(tables, func(w io.Writer) {
		if len(tables) == 0 {
			a.sayNoTable(w)
			return
		}
		row(w, "TABLE", "SYNC KEY", "KEY TYPE", "SCOPE", "POLICY", "CYCLE", "ADOPTION")
		for _, t := range tables {
			cycle, scope := "-", t.Scope
			if t.CycleGroup > 0 {
				cycle = fmt.Sprint(t.CycleGroup)
			}
			if t.ScopeVia != "" {
				scope = "via " + t.ScopeVia
			}
			row(w, t.Table, t.SyncKey, t.KeyType, scope, t.Policy, cycle, t.Adoption)
		}
	})
}

func (a *app) sayNoTable(w io.Writer) {
	say(w, "No table is registered. Register one with: %s table register schema.table\n", a.program)
}
