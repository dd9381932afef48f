package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/schollz/progressbar/v3"

	"github.com/oversync/oversync/db"
)

// adoptLater is the choice that leaves rows to a running server or a later command.
const adoptLater = "later"

// adoptFlags say when rows that are in a table already enter the log.
type adoptFlags struct {
	Adopt     string `enum:"auto,now,later" default:"auto" help:"When rows that are there enter the log: now (with the change itself), later (by a running server or table adopt), or auto (now if they are few, else in batches right afterwards)."`
	BatchRows int32  `positive:"" default:"10000" help:"Rows that one transaction enters."`
}

type tableAdoptCmd struct {
	databaseFlags
	Tables    []string `arg:"" optional:"" name:"table" help:"Registered tables. Without any, those whose rows are waiting."`
	BatchRows int32    `positive:"" default:"10000" help:"Rows that one transaction enters."`
}

func (c *tableAdoptCmd) Run(ctx context.Context, a *app) (err error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	var only map[int32]bool
	for _, table := range c.Tables {
		id, err := queries.TableID(ctx, conn, table)
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("adopt %s: it is not registered: run %s table register %s", table, a.program, argument(table))
		}
		if err != nil {
			return fmt.Errorf("adopt %s: %w", table, err)
		}
		if err := queries.TableAdoptStart(ctx, conn, id); err != nil {
			return fmt.Errorf("adopt %s: %w", table, err)
		}
		if only == nil {
			only = map[int32]bool{}
		}
		only[id] = true
	}
	adopted, err := a.adopt(ctx, conn, only, c.BatchRows)
	if err != nil {
		return err
	}
	return a.print(adopted, func(w io.Writer) {
		if len(adopted) == 0 {
			say(w, "No rows are waiting.\n")
			return
		}
		row(w, "TABLE", "ROWS")
		for _, t := range adopted {
			row(w, t.Table, t.Rows)
		}
	})
}

// adopted says how many rows of a table were looked at. Those that the log had already are among them.
type adopted struct {
	Table string `json:"table"`
	Rows  int64  `json:"rows"`
}

// adopt enters waiting rows into the log, parents first and each batch in a
// transaction of its own: of the tables in only, or of all if that is nil. It may
// be stopped between any two batches and goes on from there when called again.
func (a *app) adopt(ctx context.Context, conn *pgx.Conn, only map[int32]bool, batchRows int32) ([]adopted, error) {
	tables, err := queries.TableList(ctx, conn)
	if err != nil {
		return nil, err
	}
	done := []adopted{}
	for _, t := range tables {
		if t.AdoptionSourceID == "" || only != nil && !only[t.TableID] {
			continue
		}
		rows, err := a.adoptTable(ctx, conn, t, batchRows)
		if ctx.Err() != nil {
			return done, fmt.Errorf("stopped after %d rows of %s; what has entered the log stays. Go on with: %s table adopt", rows, t.TableName, a.program)
		}
		if err != nil {
			return done, fmt.Errorf("adopt %s: %w", t.TableName, err)
		}
		done = append(done, adopted{Table: t.TableName, Rows: rows})
	}
	return done, nil
}

func (a *app) adoptTable(ctx context.Context, conn *pgx.Conn, t db.TableListRow, batchRows int32) (rows int64, err error) {
	var told *progress
	for {
		var n int64
		err := pgx.BeginTxFunc(ctx, conn, readCommitted, func(tx pgx.Tx) (err error) {
			n, err = queries.TableAdoptBatch(ctx, tx, db.TableAdoptBatchParams{TableID: t.TableID, MaxRows: batchRows})
			return err
		})
		if err != nil {
			return rows, err
		}
		rows += n
		if n == 0 {
			told.finish(rows)
			return rows, nil
		}
		if told == nil { // the first batch has counted the rows
			left, err := a.rowsLeft(ctx, conn, t.TableID)
			if err != nil {
				return rows, err
			}
			told = newProgress(a.stderr, isTerminal(a.stderr), t.TableName, rows+left)
		}
		told.show(rows)
	}
}

// rowsLeft is how many rows of a table still wait.
func (a *app) rowsLeft(ctx context.Context, conn *pgx.Conn, tableID int32) (int64, error) {
	tables, err := queries.TableList(ctx, conn)
	if err != nil {
		return 0, err
	}
	for _, t := range tables {
		if t.TableID == tableID {
			return t.AdoptionRowsLeft, nil
		}
	}
	return 0, nil
}

// progressInterval is the least time between two lines where there is no bar.
const progressInterval = 5 * time.Second

// progress tells how far a long piece of work is: with a bar on a terminal, else
// with a line now and then. A nil progress tells nothing.
type progress struct {
	w     io.Writer
	name  string
	total int64
	bar   *progressbar.ProgressBar
	last  time.Time
}

func newProgress(w io.Writer, terminal bool, name string, total int64) *progress {
	p := &progress{w: w, name: name, total: total, last: time.Now()}
	if terminal {
		p.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(name),
			progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("rows"),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionFullWidth(),
			progressbar.OptionOnCompletion(func() { say(w, "\n") }))
	}
	return p
}

// show tells that done of the total is done.
func (p *progress) show(done int64) {
	if p == nil {
		return
	}
	if p.bar != nil {
		_ = p.bar.Set64(min(done, p.total)) // its only error is a failed write
		return
	}
	if now := time.Now(); now.Sub(p.last) >= progressInterval {
		p.last = now
		say(p.w, "%s: %d of %d rows\n", p.name, done, p.total)
	}
}

// finish tells that the work is done. Somebody else may have done a part of it.
func (p *progress) finish(done int64) {
	if p == nil {
		return
	}
	if p.bar != nil {
		_ = p.bar.Finish()
		return
	}
	say(p.w, "%s: %d rows\n", p.name, done)
}
