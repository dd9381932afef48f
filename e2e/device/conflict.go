package device

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
)

// Conflict is a row that was changed here and, since the version this change was made on, on the server as well.
type Conflict struct {
	Table string // name of the table in the file
	Key   string
	Op    string // what the push wanted: INSERT, UPDATE or DELETE
	Local Row    // the row in the file; nil when it is deleted here
	// Server is the row on the server; nil when it is deleted there or never existed.
	Server        Row
	BaseVersion   int64 // the version that the local change was made on
	ServerVersion int64 // the version on the server; 0 when the row never existed
}

// Resolution is the decision about a [Conflict]: [TakeServer], [KeepLocal] or [Merged].
type Resolution struct {
	take bool
	row  Row
	set  bool
}

// TakeServer gives the local change up.
func TakeServer() Resolution { return Resolution{take: true} }

// KeepLocal pushes the local change over the server's.
func KeepLocal() Resolution { return Resolution{} }

// Merged writes the row to the file and pushes it over the server's. Columns that it lacks keep their local value.
// A nil row deletes.
func Merged(row Row) Resolution { return Resolution{row: row, set: true} }

// Resolver decides a conflict. It may read the file through [Device.DB]. An error ends the sync, and the conflict is
// reported again by the next one. It is not asked where there is nothing to decide: when both sides made the same
// change, and when a row is created here that the server has only deleted before.
type Resolver func(ctx context.Context, c Conflict) (Resolution, error)

// ServerWins is the [Resolver] that always gives the local change up.
func ServerWins(context.Context, Conflict) (Resolution, error) { return TakeServer(), nil }

// ClientWins is the [Resolver] that always pushes the local change.
func ClientWins(context.Context, Conflict) (Resolution, error) { return KeepLocal(), nil }

// errLocalChanged says that the application changed the row while the resolver was thinking.
var errLocalChanged = errors.New("device: the row changed during the resolution")

// resolveConflict settles the row of a push_conflict and freezes the push anew. The number of the push stays: the
// server has refused the old content, so it can only commit the new.
func (d *Device) resolveConflict(ctx context.Context, api *APIError) error {
	var body struct {
		Conflict struct {
			Schema        string            `json:"schema"`
			Table         string            `json:"table"`
			Key           map[string]string `json:"key"`
			Op            string            `json:"op"`
			Base          int64             `json:"base_row_version"`
			ServerVersion int64             `json:"server_row_version"`
			ServerDeleted bool              `json:"server_row_deleted"`
			ServerRow     json.RawMessage   `json:"server_row"`
		} `json:"conflict"`
	}
	if err := json.Unmarshal(api.Body, &body); err != nil {
		return fmt.Errorf("device: read a push_conflict: %w", err)
	}
	c := body.Conflict
	t := d.wire[c.Schema+"."+c.Table]
	if t == nil {
		return fmt.Errorf("device: the server reports a conflict in %s.%s, which was not pushed: %w", c.Schema, c.Table, api)
	}
	key := c.Key[t.Key]
	server, err := t.decodeRow(key, c.ServerRow)
	if err != nil {
		return err
	}
	for {
		var local Row
		err := d.tx(ctx, func(tx *sql.Tx) (err error) {
			local, err = readRow(ctx, tx, t, key)
			return err
		})
		if err != nil {
			return err
		}
		decision := KeepLocal()
		recreated := c.Op == opInsert && server == nil
		if !recreated && !t.equal(local, server) {
			decision, err = d.cfg.Resolver(ctx, Conflict{
				Table: t.Name, Key: key, Op: c.Op, Local: local, Server: server,
				BaseVersion: c.Base, ServerVersion: c.ServerVersion,
			})
			if err != nil {
				return fmt.Errorf("device: resolve the conflict on %s %s: %w", t.Name, key, err)
			}
		}
		err = d.applyTx(ctx, func(tx *sql.Tx) error {
			now, err := readRow(ctx, tx, t, key)
			if err != nil {
				return err
			}
			if !reflect.DeepEqual(now, local) {
				return errLocalChanged
			}
			if err := unfreeze(ctx, tx); err != nil {
				return err
			}
			if err := d.settle(ctx, tx, t, key, decision, server, c.ServerVersion, c.ServerDeleted); err != nil {
				return err
			}
			return d.freeze(ctx, tx)
		})
		if !errors.Is(err, errLocalChanged) {
			return err
		}
	}
}

// settle writes a decision: the row, the version it now rests on, and whether there is still something to push.
func (d *Device) settle(ctx context.Context, tx *sql.Tx, t *Table, key string, decision Resolution, server Row, version int64, deleted bool) error {
	switch {
	case decision.take:
		if err := writeRow(ctx, tx, t, key, server); err != nil {
			return err
		}
	case decision.set:
		if err := writeRow(ctx, tx, t, key, decision.row); err != nil {
			return err
		}
	}
	if err := setVersion(ctx, tx, t.Name, key, version, deleted); err != nil {
		return err
	}
	local, err := readRow(ctx, tx, t, key)
	if err != nil {
		return err
	}
	if decision.take || t.equal(local, server) {
		err = dropNote(ctx, tx, t.Name, key)
	} else {
		err = rebaseNote(ctx, tx, t.Name, key, version, deleted)
	}
	if err != nil {
		return err
	}
	return d.settleOrphans(ctx, tx)
}

// setVersion notes what the server holds. Version 0 is a row that has never existed there.
func setVersion(ctx context.Context, tx *sql.Tx, table, key string, version int64, deleted bool) error {
	if version == 0 {
		_, err := tx.ExecContext(ctx, `DELETE FROM _sync_rows WHERE tbl = ? AND key = ?`, table, key)
		return err
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO _sync_rows (tbl, key, row_version, deleted) VALUES (?, ?, ?, ?)
		ON CONFLICT (tbl, key) DO UPDATE SET row_version = excluded.row_version, deleted = excluded.deleted`, table, key, version, deleted)
	return err
}

func dropNote(ctx context.Context, tx *sql.Tx, table, key string) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM _sync_dirty WHERE tbl = ? AND key = ?`, table, key)
	return err
}

// rebaseNote makes the local change of a row one on the version given, so that it no longer conflicts with that.
func rebaseNote(ctx context.Context, tx *sql.Tx, table, key string, version int64, deleted bool) error {
	_, err := tx.ExecContext(ctx, `UPDATE _sync_dirty SET base_version = ?, base_deleted = ? WHERE tbl = ? AND key = ?`, version, deleted, table, key)
	return err
}
