package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

type checkCmd struct{ databaseFlags }

type finding struct {
	Severity string `json:"severity"`
	Object   string `json:"object"`
	Problem  string `json:"problem"`
	Remedy   string `json:"remedy"`
}

// Run fails if there is an error among the findings, so that a cron job notices.
func (c *checkCmd) Run(ctx context.Context, a *app) (err error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	rows, err := queries.TableCheck(ctx, conn)
	if err != nil {
		return err
	}
	findings, failures := make([]finding, len(rows)), 0
	for i, r := range rows {
		findings[i] = finding{Severity: r.Severity, Object: r.Object, Problem: r.Problem, Remedy: r.Remedy}
		if r.Severity == "error" {
			failures++
		}
	}
	tables, err := queries.TableList(ctx, conn)
	if err != nil {
		return err
	}
	err = a.print(findings, func(w io.Writer) {
		switch {
		case len(findings) > 0:
		case len(tables) == 0:
			a.sayNoTable(w)
		default:
			say(w, "All is well.\n")
		}
		for _, f := range findings {
			say(w, "%s: %s: %s\n  %s\n", f.Severity, f.Object, f.Problem, f.Remedy)
		}
	})
	if failures > 0 {
		err = errors.Join(err, fmt.Errorf("errors found: %d; the line under each says what mends it", failures))
	}
	return err
}

type verifyCmd struct {
	databaseFlags
	Scope string `arg:"" optional:"" help:"Scope (user id) to compare with the log."`
	All   bool   `help:"Compare every scope."`
}

// Validate asks for one of the two ways to say what to verify.
func (c *verifyCmd) Validate() error {
	if (c.Scope != "") == c.All {
		return errors.New("name a scope, or say --all")
	}
	return nil
}

type differenceLine struct {
	Scope      string          `json:"user_id"`
	Table      string          `json:"table"`
	Key        string          `json:"key"`
	Difference string          `json:"difference"`
	Live       json.RawMessage `json:"live_row"`
	Log        json.RawMessage `json:"log_row"`
}

// Run fails if something differs, so that a cron job notices.
func (c *verifyCmd) Run(ctx context.Context, a *app) (err error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	tables, err := queries.TableList(ctx, conn)
	if err != nil {
		return err
	}
	scopes := []string{c.Scope}
	if c.All {
		if scopes, err = queries.ScopeNames(ctx, conn); err != nil {
			return err
		}
	}
	differences, err := a.verify(ctx, conn, scopes)
	if err != nil {
		return err
	}
	if !c.All && len(differences) == 0 {
		if err := requireScope(ctx, conn, c.Scope); err != nil {
			return err
		}
	}
	err = a.print(differences, func(w io.Writer) {
		switch {
		case len(differences) > 0:
		case len(tables) == 0:
			a.sayNoTable(w)
			return
		default:
			say(w, "The log has every row as it is.\n")
			return
		}
		row(w, "SCOPE", "TABLE", "KEY", "DIFFERENCE")
		for _, d := range differences {
			row(w, d.Scope, d.Table, d.Key, d.Difference)
		}
	})
	return errors.Join(err, a.verifyRemedies(differences))
}

// verifyRemedies says what mends the differences, for each kind of them. It is nil if
// there are none.
func (a *app) verifyRemedies(differences []differenceLine) error {
	var rows []differenceLine
	damages, tables := 0, map[string]bool{}
	for _, d := range differences {
		switch {
		case strings.HasPrefix(d.Table, "sync."):
			damages++
		case d.Key == "" && strings.HasPrefix(d.Difference, "cannot be compared"):
			tables[d.Table] = true
		default:
			rows = append(rows, d)
		}
	}
	var remedies []error
	if len(rows) > 0 {
		others := ""
		if slices.ContainsFunc(rows, func(d differenceLine) bool { return d.Scope != rows[0].Scope }) {
			others = ", and so for each scope above"
		}
		remedies = append(remedies, fmt.Errorf("rows that differ from the log: %d; enter them with: %s repair %s%s", len(rows), a.program, argument(rows[0].Scope), others))
	}
	if len(tables) > 0 {
		remedies = append(remedies, fmt.Errorf("tables that cannot be compared: %d; the line of each says what mends it", len(tables)))
	}
	if damages > 0 {
		remedies = append(remedies, fmt.Errorf("faults of the log in itself: %d; repair alone does not mend them: see \"A log that was changed by hand\" in docs/operations.md", damages))
	}
	return errors.Join(remedies...)
}

func (a *app) verify(ctx context.Context, conn *pgx.Conn, scopes []string) ([]differenceLine, error) {
	differences := []differenceLine{}
	for _, scope := range scopes {
		rows, err := queries.ScopeVerify(ctx, conn, scope)
		if err != nil {
			return nil, fmt.Errorf("verify %s: %w", scope, err)
		}
		for _, r := range rows {
			differences = append(differences, differenceLine{
				Scope: scope, Table: r.SchemaName + "." + r.TableName, Key: r.RowKey, Difference: r.Difference,
				Live: json.RawMessage(r.LiveRow), Log: json.RawMessage(r.LogRow),
			})
		}
	}
	return differences, nil
}

// requireScope fails for a scope that the log does not know. Without a row either, it is
// nobody's: a typing error, which must not look like good health.
func requireScope(ctx context.Context, conn *pgx.Conn, scope string) error {
	heads, err := queries.ScopeHeads(ctx, conn, []string{scope})
	if err == nil && len(heads) == 0 {
		err = fmt.Errorf("there is no scope %q: no user of this id has connected, and no registered table has a row of it", scope)
	}
	return err
}

type repairCmd struct {
	databaseFlags
	Scope string `arg:"" help:"Scope (user id) whose differences enter the log."`
}

// Validate refuses a scope that nobody can have.
func (c *repairCmd) Validate() error {
	if strings.TrimSpace(c.Scope) == "" {
		return errors.New("name a scope")
	}
	return nil
}

type repaired struct {
	Scope string `json:"user_id"`
	Rows  int64  `json:"rows"`
}

func (c *repairCmd) Run(ctx context.Context, a *app) (err error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	var rows int64
	err = pgx.BeginTxFunc(ctx, conn, readCommitted, func(tx pgx.Tx) (err error) {
		rows, err = queries.ScopeRepair(ctx, tx, c.Scope)
		return err
	})
	if err != nil {
		return fmt.Errorf("repair %s: %w", c.Scope, err)
	}
	if rows == 0 {
		if err := requireScope(ctx, conn, c.Scope); err != nil {
			return err
		}
	}
	return a.print(repaired{Scope: c.Scope, Rows: rows}, func(w io.Writer) {
		say(w, "Rows of %s that entered the log: %d\n", c.Scope, rows)
	})
}
