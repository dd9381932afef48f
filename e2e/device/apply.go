package device

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// The server's rows are written with foreign keys off. A bundle names every effect of a transaction, cascades
// included, and leaves a consistent state at its end but not after each of its rows: were SQLite to cascade as well, the
// delete of a parent would take children with it that the same bundle has moved to another parent, and with them
// grandchildren that the bundle does not name. What foreign keys must still do for rows that only this device has is done by
// settleOrphans.

// applyBundle writes a pulled bundle and moves the cursor, in one transaction.
func (d *Device) applyBundle(ctx context.Context, seq int64, rows []wireRow) error {
	return d.applyTx(ctx, func(tx *sql.Tx) error {
		if err := d.applyRows(ctx, tx, rows); err != nil {
			return fmt.Errorf("device: apply bundle %d: %w", seq, err)
		}
		_, err := tx.ExecContext(ctx, `UPDATE _sync_state SET last_bundle_seq = ?`, seq)
		return err
	})
}

// applyRows writes rows that the server sent. Deletes come first, so that a UNIQUE value may move from one row to another.
func (d *Device) applyRows(ctx context.Context, tx *sql.Tx, rows []wireRow) error {
	deletes := false
	for _, wantDelete := range []bool{true, false} {
		for _, r := range rows {
			if (r.Op == opDelete) != wantDelete {
				continue
			}
			deletes = deletes || wantDelete
			if err := d.applyRow(ctx, tx, r); err != nil {
				return err
			}
		}
	}
	if !deletes {
		return nil
	}
	return d.settleOrphans(ctx, tx)
}

// applyRow writes one row, unless a newer version is here already or the row is changed here. The first is how a bundle of
// our own passes: the push has applied it. The second leaves the base of the local change as it is, so that the
// push conflicts and the resolver is asked.
func (d *Device) applyRow(ctx context.Context, tx *sql.Tx, r wireRow) error {
	t := d.wire[r.Schema+"."+r.Table]
	if t == nil {
		return nil // a table this device does not keep
	}
	key, ok := r.Key[t.Key]
	if !ok {
		return fmt.Errorf("device: a row of %s.%s has no key %s", r.Schema, r.Table, t.Key)
	}
	var known int64
	err := tx.QueryRowContext(ctx, `SELECT row_version FROM _sync_rows WHERE tbl = ? AND key = ?`, t.Name, key).Scan(&known)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if known >= r.RowVersion {
		return nil
	}
	row, err := t.decodeRow(key, r.Payload)
	if err != nil {
		return err
	}
	_, dirty, err := noteOf(ctx, tx, t.Name, key)
	if err != nil {
		return err
	}
	if dirty {
		local, err := readRow(ctx, tx, t, key)
		if err != nil {
			return err
		}
		if !t.equal(local, row) {
			return setVersion(ctx, tx, t.Name, key, r.RowVersion, r.Op == opDelete)
		}
		if err := dropNote(ctx, tx, t.Name, key); err != nil { // both made the same change
			return err
		}
	}
	if err := writeRow(ctx, tx, t, key, row); err != nil {
		return err
	}
	return setVersion(ctx, tx, t.Name, key, r.RowVersion, r.Op == opDelete)
}

// applyCommitted writes what the server made of our push and forgets the outbox, in one transaction.
func (d *Device) applyCommitted(ctx context.Context, st deviceState, done committed, rows []wireRow) error {
	return d.applyTx(ctx, func(tx *sql.Tx) error {
		pushed, err := readNotes(ctx, tx, `SELECT seq, tbl, key, base_version, base_deleted FROM _sync_outbox`)
		if err != nil {
			return err
		}
		lacking := map[[2]string]bool{}
		for _, n := range pushed {
			lacking[[2]string{n.table, n.key}] = true
		}
		for _, r := range rows {
			t := d.wire[r.Schema+"."+r.Table]
			if t == nil || !lacking[[2]string{t.Name, r.Key[t.Key]}] {
				continue
			}
			key := r.Key[t.Key]
			delete(lacking, [2]string{t.Name, key})
			// Changed again since the freeze: the local value stays, and rests on the version just made. The version that
			// setVersion notes keeps applyRows from writing the row.
			_, again, err := noteOf(ctx, tx, t.Name, key)
			if err != nil {
				return err
			}
			if again {
				err = errors.Join(rebaseNote(ctx, tx, t.Name, key, r.RowVersion, r.Op == opDelete),
					setVersion(ctx, tx, t.Name, key, r.RowVersion, r.Op == opDelete))
				if err != nil {
					return err
				}
			}
		}
		if err := d.applyRows(ctx, tx, rows); err != nil {
			return fmt.Errorf("device: apply our bundle %d: %w", done.BundleSeq, err)
		}
		if err := leftBehind(ctx, tx, lacking, done.replayed); err != nil {
			return err
		}
		lastSeq := st.lastSeq
		if done.BundleSeq == lastSeq+1 {
			lastSeq++ // nothing lies between, so it need not be pulled
		}
		_, err = tx.ExecContext(ctx, `UPDATE _sync_state SET next_source_bundle_id = ?, last_bundle_seq = ?`, st.nextID+1, lastSeq)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM _sync_outbox`)
		return err
	})
}

// leftBehind deals with pushed rows that the committed bundle does not name. Normally a trigger of the server has undone
// them: only a snapshot can tell what is there instead. But if the bundle was committed by an attempt before this
// one, it may be of another life of this device (its file was restored from a copy): then they were never sent.
func leftBehind(ctx context.Context, tx *sql.Tx, lacking map[[2]string]bool, replayed bool) error {
	if len(lacking) == 0 {
		return nil
	}
	if !replayed {
		_, err := tx.ExecContext(ctx, `UPDATE _sync_state SET needs_rebuild = 1`)
		return err
	}
	for row := range lacking {
		_, err := tx.ExecContext(ctx, `INSERT INTO _sync_dirty (seq, tbl, key, base_version, base_deleted)
			SELECT seq, tbl, key, base_version, base_deleted FROM _sync_outbox WHERE tbl = ? AND key = ?
			ON CONFLICT (tbl, key) DO NOTHING`, row[0], row[1])
		if err != nil {
			return err
		}
	}
	return nil
}

// settleOrphans does for local changes what a foreign key would have done when the server deleted a parent: a row that
// only this device has goes with its parent (ON DELETE CASCADE), a reference becomes NULL (ON DELETE SET NULL). Any
// other orphan stays and is pushed; the server refuses it and the application learns of it.
// Only changed rows are looked at: the others are as the server has them.
func (d *Device) settleOrphans(ctx context.Context, tx *sql.Tx) error {
	for {
		changed := int64(0)
		for _, t := range d.tables {
			keys, err := d.foreignKeys(ctx, tx, t)
			if err != nil {
				return err
			}
			for _, fk := range keys {
				n, err := fk.settle(ctx, tx, t)
				if err != nil {
					return fmt.Errorf("device: settle rows of %s whose parent in %s is gone: %w", t.Name, fk.parent, err)
				}
				changed += n
			}
		}
		if changed == 0 {
			return nil
		}
	}
}

type foreignKey struct {
	parent, onDelete string
	from, to         []string
}

func (d *Device) foreignKeys(ctx context.Context, tx *sql.Tx, t *Table) ([]foreignKey, error) {
	rows, err := tx.QueryContext(ctx, `SELECT id, "table", "from", coalesce("to", ''), on_delete FROM pragma_foreign_key_list(?)
		WHERE on_delete IN ('CASCADE', 'SET NULL') ORDER BY id, seq`, t.Name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var keys []foreignKey
	last := -1
	for rows.Next() {
		var id int
		var parent, from, to, onDelete string
		if err := rows.Scan(&id, &parent, &from, &to, &onDelete); err != nil {
			return nil, err
		}
		p := d.local[parent]
		if p == nil {
			continue
		}
		if to == "" {
			to = p.Key
		}
		if id != last {
			keys, last = append(keys, foreignKey{parent: parent, onDelete: onDelete}), id
		}
		fk := &keys[len(keys)-1]
		fk.from, fk.to = append(fk.from, from), append(fk.to, to)
	}
	return keys, rows.Err()
}

// settle applies the action of one foreign key and returns how many rows it changed.
func (fk foreignKey) settle(ctx context.Context, tx *sql.Tx, t *Table) (int64, error) {
	child := q(t.Name)
	var set, notNull, match []string
	for i := range fk.from {
		from := child + "." + q(fk.from[i])
		set = append(set, q(fk.from[i])+" = NULL")
		notNull = append(notNull, from+" IS NOT NULL")
		match = append(match, "p."+q(fk.to[i])+" = "+from)
	}
	orphan := ` WHERE EXISTS (SELECT 1 FROM _sync_dirty n WHERE n.tbl = ?1 AND n.key = ` + child + `.` + q(t.Key) + `)
		AND ` + strings.Join(notNull, " AND ") + `
		AND NOT EXISTS (SELECT 1 FROM ` + q(fk.parent) + ` p WHERE ` + strings.Join(match, " AND ") + `)`
	if fk.onDelete == "SET NULL" {
		res, err := tx.ExecContext(ctx, `UPDATE `+child+` SET `+strings.Join(set, ", ")+orphan, t.Name)
		if err != nil {
			return 0, err
		}
		return res.RowsAffected()
	}
	// A row that lives on the server is not ours to delete: there it has another parent.
	res, err := tx.ExecContext(ctx, `DELETE FROM `+child+orphan+`
		AND NOT EXISTS (SELECT 1 FROM _sync_rows r WHERE r.tbl = ?1 AND r.key = `+child+`.`+q(t.Key)+` AND r.deleted = 0)`, t.Name)
	if err != nil {
		return 0, err
	}
	n, err := res.RowsAffected()
	if err != nil || n == 0 {
		return n, err
	}
	// Gone here and gone there: nothing to push.
	_, err = tx.ExecContext(ctx, `DELETE FROM _sync_dirty WHERE tbl = ?1
		AND NOT EXISTS (SELECT 1 FROM `+child+` WHERE `+q(t.Key)+` = _sync_dirty.key)
		AND NOT EXISTS (SELECT 1 FROM _sync_rows r WHERE r.tbl = ?1 AND r.key = _sync_dirty.key AND r.deleted = 0)`, t.Name)
	return n, err
}
