package device

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/uuid"
)

// sourceReplacement asks the server, together with a snapshot, to retire our source and expect a fresh one.
type sourceReplacement struct {
	Previous string `json:"previous_source_id"`
	New      string `json:"new_source_id"`
	Reason   string `json:"reason"`
}

// Rebuild replaces what the file holds of the server by a fresh snapshot. Local changes stay. The package does it by
// itself when the server no longer has the history that the file needs.
func (d *Device) Rebuild(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.resume(ctx); err != nil {
		return err
	}
	s, err := d.State(ctx)
	if err != nil {
		return err
	}
	if err := d.connect(ctx, s.DirtyRows+s.OutboxRows > 0); err != nil {
		return err
	}
	if err := d.deliver(ctx); err != nil { // a snapshot must not overtake a push whose fate is open
		return err
	}
	return d.rebuild(ctx, nil)
}

// beginRotation decides on a fresh source, and notes it before the server is asked: repeating a rotation with the same
// ids succeeds, with others it does not. The server has refused the push, so its rows are local changes again.
func (d *Device) beginRotation(ctx context.Context, reason string) error {
	return d.tx(ctx, func(tx *sql.Tx) error {
		if err := unfreeze(ctx, tx); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `UPDATE _sync_state SET replacement_source_id = ?, replacement_reason = ?
			WHERE replacement_source_id = ''`, uuid.NewString(), reason)
		return err
	})
}

// finishRotation carries a rotation out: a snapshot is taken in the transaction that retires the old source, and
// the file switches to the new one when the snapshot is swapped in.
func (d *Device) finishRotation(ctx context.Context) error {
	st, err := d.state(ctx)
	if err != nil {
		return err
	}
	replacement := &sourceReplacement{Previous: st.sourceID, New: st.replacementID, Reason: st.replacementReason}
	err = d.rebuild(ctx, replacement)
	if hasCode(err, "scope_uninitialized", "scope_initializing") {
		// An account that was emptied since we last saw it: there is nothing to take a snapshot of until it exists.
		if err := d.connect(ctx, false); err != nil {
			return err
		}
		err = d.rebuild(ctx, replacement)
	}
	if !hasCode(err, "source_retired", "source_replacement_invalid") {
		return err
	}
	// The old source has already been replaced by another one, or the new one is used up: a copy of this file may have done
	// that. Its replacement is not ours to share, so begin as a source that nobody has heard of.
	err = d.tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE _sync_state SET source_id = ?, next_source_bundle_id = 1,
			replacement_source_id = '', replacement_reason = '', needs_rebuild = 1`, uuid.NewString())
		return err
	})
	if err != nil {
		return err
	}
	if _, err := d.state(ctx); err != nil { // the requests carry the new source from here on
		return err
	}
	return d.rebuild(ctx, nil)
}

// rebuild downloads a snapshot next to the rows and swaps it in. A download that is cut off starts over: what the file
// holds is not touched before all of it is here.
func (d *Device) rebuild(ctx context.Context, replacement *sourceReplacement) error {
	for restarts := 0; ; restarts++ {
		seq, err := d.download(ctx, replacement)
		if err == nil {
			return d.swap(ctx, seq, replacement)
		}
		if !hasCode(err, "snapshot_session_not_found", "snapshot_session_expired") || restarts >= maxRestarts {
			return err
		}
	}
}

func (d *Device) download(ctx context.Context, replacement *sourceReplacement) (int64, error) {
	request := map[string]any{}
	if replacement != nil {
		request["source_replacement"] = replacement
	}
	var session struct {
		ID       string `json:"snapshot_id"`
		Seq      int64  `json:"snapshot_bundle_seq"`
		RowCount int64  `json:"row_count"`
	}
	if err := d.api.do(ctx, http.MethodPost, "/sync/snapshot-sessions", request, &session); err != nil {
		return 0, err
	}
	path := "/sync/snapshot-sessions/" + session.ID
	// Best effort: a session that is not deleted expires. The caller's context may be what ended the download.
	defer func() { _ = d.api.once(context.WithoutCancel(ctx), http.MethodDelete, path, nil, nil) }()
	if _, err := d.own.ExecContext(ctx, `DELETE FROM _sync_stage`); err != nil {
		return 0, err
	}
	received := int64(0)
	for after := int64(0); ; {
		var page struct {
			Rows    []wireRow `json:"rows"`
			Next    int64     `json:"next_row_ordinal"`
			HasMore bool      `json:"has_more"`
		}
		err := d.api.do(ctx, http.MethodGet, fmt.Sprintf("%s?after_row_ordinal=%d&max_rows=%d", path, after, d.cfg.ChunkRows), nil, &page)
		if err != nil {
			return 0, err
		}
		if err := d.stage(ctx, page.Rows); err != nil {
			return 0, err
		}
		received += int64(len(page.Rows))
		if !page.HasMore {
			break
		}
		if page.Next <= after {
			return 0, fmt.Errorf("device: the snapshot does not get on past row %d", after)
		}
		after = page.Next
	}
	if received != session.RowCount {
		return 0, fmt.Errorf("device: the snapshot has %d rows but %d were received; sync again", session.RowCount, received)
	}
	return session.Seq, nil
}

func (d *Device) stage(ctx context.Context, rows []wireRow) error {
	return d.tx(ctx, func(tx *sql.Tx) error {
		for _, r := range rows {
			t := d.wire[r.Schema+"."+r.Table]
			if t == nil {
				continue
			}
			_, err := tx.ExecContext(ctx, `INSERT INTO _sync_stage (tbl, key, row_version, payload) VALUES (?, ?, ?, ?)`,
				t.Name, r.Key[t.Key], r.RowVersion, string(r.Payload))
			if err != nil {
				return fmt.Errorf("device: stage %s %s: %w", t.Name, r.Key[t.Key], err)
			}
		}
		return nil
	})
}

// swap makes the staged snapshot the state of the file, in one transaction. A local change stays with the version it was made
// on: if the server has moved on, its push conflicts and the resolver is asked.
func (d *Device) swap(ctx context.Context, seq int64, replacement *sourceReplacement) error {
	return d.applyTx(ctx, func(tx *sql.Tx) error {
		st, err := readState(ctx, tx)
		if err != nil {
			return err
		}
		if st.pushRows > 0 {
			return errors.New("device: a snapshot cannot be applied while a push is under way; push first")
		}
		for _, t := range d.tables {
			if err := d.swapTable(ctx, tx, t); err != nil {
				return fmt.Errorf("device: apply the snapshot to %s: %w", t.Name, err)
			}
		}
		// Versions of deleted rows are not in a snapshot: what we know of them stays useful, but for versions that the server
		// has not reached, which are of a history that it lost.
		_, err = tx.ExecContext(ctx, `DELETE FROM _sync_rows WHERE deleted = 0 OR row_version > ?`, seq)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `
			INSERT INTO _sync_rows (tbl, key, row_version, deleted) SELECT tbl, key, row_version, 0 FROM _sync_stage WHERE true
				ON CONFLICT (tbl, key) DO UPDATE SET row_version = excluded.row_version, deleted = 0;
			DELETE FROM _sync_stage`)
		if err != nil {
			return err
		}
		if replacement != nil {
			_, err = tx.ExecContext(ctx, `UPDATE _sync_state SET source_id = ?, next_source_bundle_id = 1,
				replacement_source_id = '', replacement_reason = ''`, replacement.New)
			if err != nil {
				return err
			}
		}
		_, err = tx.ExecContext(ctx, `UPDATE _sync_state SET last_bundle_seq = ?, needs_rebuild = 0`, seq)
		if err != nil {
			return err
		}
		return d.settleOrphans(ctx, tx)
	})
}

func (d *Device) swapTable(ctx context.Context, tx *sql.Tx, t *Table) error {
	const isDirty = `EXISTS (SELECT 1 FROM _sync_dirty n WHERE n.tbl = ?1 AND n.key = `
	_, err := tx.ExecContext(ctx, strings.Join([]string{
		`DELETE FROM`, q(t.Name), `WHERE NOT`, isDirty, q(t.Name) + "." + q(t.Key) + `)`,
		`AND NOT EXISTS (SELECT 1 FROM _sync_stage s WHERE s.tbl = ?1 AND s.key =`, q(t.Name) + "." + q(t.Key) + `)`,
	}, " "), t.Name)
	if err != nil {
		return err
	}
	// Rows changed here: drop the change where the server has it already, else keep it.
	notes, err := readNotes(ctx, tx, `SELECT seq, tbl, key, base_version, base_deleted FROM _sync_dirty WHERE tbl = ?`, t.Name)
	if err != nil {
		return err
	}
	for _, n := range notes {
		var payload sql.NullString
		err := tx.QueryRowContext(ctx, `SELECT payload FROM _sync_stage WHERE tbl = ? AND key = ?`, t.Name, n.key).Scan(&payload)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		server, err := t.decodeRow(n.key, json.RawMessage(payload.String))
		if err != nil {
			return err
		}
		local, err := readRow(ctx, tx, t, n.key)
		if err != nil {
			return err
		}
		if t.equal(local, server) {
			if err := dropNote(ctx, tx, t.Name, n.key); err != nil {
				return err
			}
		}
	}
	return eachStaged(ctx, tx, t, func(key, payload string) error {
		row, err := t.decodeRow(key, json.RawMessage(payload))
		if err != nil {
			return err
		}
		return writeRow(ctx, tx, t, key, row)
	})
}

// stagedRow is a row of a snapshot that is being read.
type stagedRow struct{ key, payload string }

// eachStaged visits the staged rows of a table that are not changed here, some hundred at a time.
func eachStaged(ctx context.Context, tx *sql.Tx, t *Table, visit func(key, payload string) error) error {
	last, first := "", true
	for {
		page, err := stagedPage(ctx, tx, t, first, last)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, s := range page {
			if err := visit(s.key, s.payload); err != nil {
				return err
			}
		}
		last, first = page[len(page)-1].key, false
	}
}

// stagedPage reads the next staged rows of a table after a key, or the first.
func stagedPage(ctx context.Context, tx *sql.Tx, t *Table, first bool, last string) (page []stagedRow, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT key, payload FROM _sync_stage s WHERE tbl = ?1 AND (?2 OR key > ?3)
		AND NOT EXISTS (SELECT 1 FROM _sync_dirty n WHERE n.tbl = s.tbl AND n.key = s.key) ORDER BY key LIMIT 500`, t.Name, first, last)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var s stagedRow
		if err := rows.Scan(&s.key, &s.payload); err != nil {
			return nil, err
		}
		page = append(page, s)
	}
	return page, rows.Err()
}
