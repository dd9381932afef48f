package device

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

const (
	opInsert = "INSERT"
	opUpdate = "UPDATE"
	opDelete = "DELETE"
)

// Rejection says which rule of the database refused a push. Fields are empty when the database did not name them.
type Rejection struct {
	SQLState   string            `json:"sqlstate"`
	Schema     string            `json:"schema"`
	Table      string            `json:"table"`
	Column     string            `json:"column"`
	Constraint string            `json:"constraint"`
	Key        map[string]string `json:"key"`
}

// RejectedError says that a rule of the server's database refused the push. Nothing was committed. The rows are
// local changes again: mend or delete the offending one, and sync.
type RejectedError struct {
	Rejection Rejection
	API       *APIError
}

func (e *RejectedError) Error() string {
	return fmt.Sprintf("device: the server's database refused the push (SQLSTATE %s, table %s.%s, constraint %s, key %v): %s; mend the row and sync again",
		e.Rejection.SQLState, e.Rejection.Schema, e.Rejection.Table, e.Rejection.Constraint, e.Rejection.Key, e.API.Message)
}

// Unwrap gives the answer itself.
func (e *RejectedError) Unwrap() error { return e.API }

// Push sends the local changes, and returns when the server has committed them and what it made of them is in the file.
// Changes that the application makes meanwhile wait for the next push. Without local changes it does nothing.
func (d *Device) Push(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.prepare(ctx); err != nil {
		return err
	}
	if err := d.push(ctx); err != nil {
		return err
	}
	return d.settleLease(ctx)
}

// push delivers an outbox that an earlier run left, and then the local changes.
func (d *Device) push(ctx context.Context) error {
	for range 2 {
		if err := d.tx(ctx, func(tx *sql.Tx) error { return d.freeze(ctx, tx) }); err != nil {
			return err
		}
		st, err := d.state(ctx)
		if err != nil || st.pushRows == 0 {
			return err
		}
		d.cfg.Crash(CrashAfterFreeze)
		if err := d.deliver(ctx); err != nil {
			return err
		}
	}
	return nil
}

// freeze moves the local changes to the outbox, one row for each key. It does nothing while the outbox holds a push:
// what the server may already have committed under a number must not change.
func (d *Device) freeze(ctx context.Context, tx *sql.Tx) error {
	st, err := readState(ctx, tx)
	if err != nil || st.pushRows > 0 {
		return err
	}
	dirty, err := readNotes(ctx, tx, `SELECT seq, tbl, key, base_version, base_deleted FROM _sync_dirty ORDER BY seq`)
	if err != nil {
		return err
	}
	ordinal := 0
	for _, n := range dirty {
		t := d.local[n.table]
		if t == nil {
			continue // no longer among the tables: keep the note for the day it is again
		}
		row, err := readRow(ctx, tx, t, n.key)
		if err != nil {
			return err
		}
		if row == nil && !n.live() {
			// The answer that told of it may have been lost, and the row be on the server all the same.
			if n.base, n.baseDeleted, err = knownVersion(ctx, tx, n.table, n.key); err != nil {
				return err
			}
		}
		if row != nil || n.live() { // else made and deleted between two pushes: the server need not know
			op, payload := opDelete, json.RawMessage(nil)
			if row != nil {
				op = opUpdate
				if !n.live() {
					op = opInsert
				}
				if payload, err = t.encodeRow(row); err != nil {
					return err
				}
			}
			_, err = tx.ExecContext(ctx, `INSERT INTO _sync_outbox (ordinal, seq, tbl, key, op, base_version, base_deleted, payload)
				VALUES (?, ?, ?, ?, ?, ?, ?, ?)`, ordinal, n.seq, n.table, n.key, op, n.base, n.baseDeleted, nullable(payload))
			if err != nil {
				return fmt.Errorf("device: freeze %s %s: %w", n.table, n.key, err)
			}
			ordinal++
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM _sync_dirty WHERE seq = ?`, n.seq); err != nil {
			return err
		}
	}
	return nil
}

// knownVersion returns the version that the server is known to hold of a row, and whether that is a deletion; 0 for a row
// that it has not told us of.
func knownVersion(ctx context.Context, tx *sql.Tx, table, key string) (version int64, deleted bool, err error) {
	err = tx.QueryRowContext(ctx, `SELECT row_version, deleted FROM _sync_rows WHERE tbl = ? AND key = ?`, table, key).Scan(&version, &deleted)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false, nil
	}
	return version, deleted, err
}

// unfreeze makes local changes of the outbox again. Only do this when the server has refused the push: a push whose
// fate is unknown must be sent again as it was.
func unfreeze(ctx context.Context, tx *sql.Tx) error {
	// A row changed again meanwhile keeps one note, with the older base.
	_, err := tx.ExecContext(ctx, `INSERT INTO _sync_dirty (seq, tbl, key, base_version, base_deleted)
		SELECT seq, tbl, key, base_version, base_deleted FROM _sync_outbox WHERE true
		ON CONFLICT (tbl, key) DO UPDATE SET base_version = excluded.base_version, base_deleted = excluded.base_deleted;
		DELETE FROM _sync_outbox`)
	if err != nil {
		return fmt.Errorf("device: unfreeze: %w", err)
	}
	return nil
}

// note is a row of _sync_dirty.
type note struct {
	seq         int64
	table, key  string
	base        int64
	baseDeleted bool
}

// live says whether the row existed on the server when it was changed here.
func (n note) live() bool { return n.base > 0 && !n.baseDeleted }

func readNotes(ctx context.Context, tx *sql.Tx, query string, args ...any) ([]note, error) {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var notes []note
	for rows.Next() {
		var n note
		if err := rows.Scan(&n.seq, &n.table, &n.key, &n.base, &n.baseDeleted); err != nil {
			return nil, err
		}
		notes = append(notes, n)
	}
	return notes, rows.Err()
}

// noteOf finds the note of a row; ok is false when the row is not changed here.
func noteOf(ctx context.Context, tx *sql.Tx, table, key string) (n note, ok bool, err error) {
	notes, err := readNotes(ctx, tx, `SELECT seq, tbl, key, base_version, base_deleted FROM _sync_dirty WHERE tbl = ? AND key = ?`, table, key)
	if err != nil || len(notes) == 0 {
		return note{}, false, err
	}
	return notes[0], true, nil
}

// maxRestarts bounds how often one push may start over for a reason that should go away by starting over.
const maxRestarts = 8

// deliver sends the outbox until the server has committed it or has finally refused it.
func (d *Device) deliver(ctx context.Context) error {
	var lastConflict string
	for restarts := 0; ; {
		st, err := d.state(ctx)
		if err != nil || st.pushRows == 0 {
			return err
		}
		done, err := d.transmit(ctx, st)
		if err == nil {
			return d.finish(ctx, st, done)
		}
		var api *APIError
		if !errors.As(err, &api) {
			return err
		}
		switch api.Code {
		case "push_conflict":
			// Not counted: each one settles a row, and new ones only come as fast as others push. The very same one
			// again would mean that settling it did not help.
			if string(api.Body) == lastConflict {
				return fmt.Errorf("device: the server repeats a conflict that was resolved: %w", err)
			}
			lastConflict = string(api.Body)
			if err := d.resolveConflict(ctx, api); err != nil {
				return err
			}
			continue
		case "push_session_not_found", "push_session_expired", "push_chunk_out_of_order":
			// The session is gone, committed perhaps, or a chunk arrived whose answer was lost. The server tells which
			// when the same push is announced again.
		case "scope_uninitialized", "initialization_stale", "initialization_expired":
			if err := d.connect(ctx, true); err != nil {
				return err
			}
		case "push_session_invalid":
			// The lease was taken or ended since we connected.
			if restarts > 0 {
				return err
			}
			if err := d.connect(ctx, true); err != nil {
				return err
			}
		case "source_sequence_out_of_order", "source_sequence_changed", "source_retired", "history_pruned":
			if err := d.beginRotation(ctx, api.Code); err != nil {
				return err
			}
			if err := d.finishRotation(ctx); err != nil {
				return err
			}
			if err := d.tx(ctx, func(tx *sql.Tx) error { return d.freeze(ctx, tx) }); err != nil {
				return err
			}
		case "push_rejected", "push_chunk_invalid", "push_commit_invalid", "request_too_large":
			return errors.Join(rejected(api), d.tx(ctx, func(tx *sql.Tx) error { return unfreeze(ctx, tx) }))
		default:
			return err // the outbox stays as it is and is sent again by the next push
		}
		if restarts++; restarts > maxRestarts {
			return fmt.Errorf("device: gave up after starting the push over %d times: %w", maxRestarts, err)
		}
	}
}

func rejected(api *APIError) error {
	if api.Code != "push_rejected" {
		return api
	}
	var body struct {
		Rejection Rejection `json:"rejection"`
	}
	if err := json.Unmarshal(api.Body, &body); err != nil {
		return errors.Join(api, err)
	}
	return &RejectedError{Rejection: body.Rejection, API: api}
}

// committed is the answer to a commit, and to the announcement of a push that is already committed.
type committed struct {
	BundleSeq      int64  `json:"bundle_seq"`
	SourceID       string `json:"source_id"`
	SourceBundleID int64  `json:"source_bundle_id"`
	RowCount       int64  `json:"row_count"`
	BundleHash     string `json:"bundle_hash"`

	replayed bool // committed by an attempt whose answer we did not get
}

// transmit announces the push, sends its rows in chunks, and commits.
func (d *Device) transmit(ctx context.Context, st deviceState) (committed, error) {
	var created struct {
		PushID string `json:"push_id"`
		Status string `json:"status"`
		committed
	}
	announce := map[string]any{"source_bundle_id": st.nextID, "planned_row_count": st.pushRows}
	if d.initID != "" {
		announce["initialization_id"] = d.initID
	}
	if err := d.api.do(ctx, http.MethodPost, "/sync/push-sessions", announce, &created); err != nil {
		return committed{}, err
	}
	if created.Status == "already_committed" {
		created.replayed = true
		return created.committed, nil
	}
	d.cfg.Crash(CrashAfterCreate)
	session := "/sync/push-sessions/" + created.PushID
	if err := d.learnLimits(ctx); err != nil {
		return committed{}, err
	}
	for next := int64(0); next < st.pushRows; {
		chunk, err := d.outboxChunk(ctx, next)
		if err != nil {
			return committed{}, err
		}
		var accepted struct {
			Next int64 `json:"next_expected_row_ordinal"`
		}
		err = d.api.do(ctx, http.MethodPost, session+"/chunks", map[string]any{"start_row_ordinal": next, "rows": chunk}, &accepted)
		if hasCode(err, "request_too_large") && len(chunk) > 1 {
			d.cfg.ChunkRows = len(chunk) / 2
			continue
		}
		if err != nil {
			return committed{}, err
		}
		next += int64(len(chunk))
		if accepted.Next != next {
			return committed{}, fmt.Errorf("device: the server expects row %d after %d rows were sent", accepted.Next, next)
		}
		d.cfg.Crash(CrashAfterChunk)
	}
	d.cfg.Crash(CrashBeforeCommit)
	var done committed
	if err := d.api.do(ctx, http.MethodPost, session+"/commit", nil, &done); err != nil {
		if hasCode(err, "push_rejected", "push_conflict") {
			// Only a courtesy: the session would be replaced or swept.
			_ = d.api.once(ctx, http.MethodDelete, session, nil, nil)
		}
		return committed{}, err
	}
	d.cfg.Crash(CrashAfterCommit)
	return done, nil
}

// learnLimits asks once how many rows the server takes in a chunk.
func (d *Device) learnLimits(ctx context.Context) error {
	if d.limitsKnown {
		return nil
	}
	var answer struct {
		Limits struct {
			PushChunk int `json:"max_rows_per_push_chunk"`
		} `json:"bundle_limits"`
	}
	if err := d.api.do(ctx, http.MethodGet, "/sync/capabilities", nil, &answer); err != nil {
		return err
	}
	if n := answer.Limits.PushChunk; n > 0 {
		d.cfg.ChunkRows = min(d.cfg.ChunkRows, n)
	}
	d.limitsKnown = true
	return nil
}

// pushRow is a row of a pushed chunk.
type pushRow struct {
	Schema         string            `json:"schema"`
	Table          string            `json:"table"`
	Key            map[string]string `json:"key"`
	Op             string            `json:"op"`
	BaseRowVersion int64             `json:"base_row_version"`
	Payload        json.RawMessage   `json:"payload,omitempty"`
}

// outboxChunk reads the rows from an ordinal on, as many as fit one request and at least one.
func (d *Device) outboxChunk(ctx context.Context, from int64) ([]pushRow, error) {
	rows, err := d.own.QueryContext(ctx, `SELECT tbl, key, op, base_version, payload FROM _sync_outbox
		WHERE ordinal >= ? ORDER BY ordinal LIMIT ?`, from, d.cfg.ChunkRows)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var chunk []pushRow
	for size := 0; size < d.cfg.ChunkBytes && rows.Next(); {
		var table, key string
		var r pushRow
		var payload sql.NullString
		if err := rows.Scan(&table, &key, &r.Op, &r.BaseRowVersion, &payload); err != nil {
			return nil, err
		}
		t := d.local[table]
		if t == nil {
			return nil, fmt.Errorf("device: the outbox holds a row of the table %s: list it among the tables until it is pushed", table)
		}
		r.Schema, r.Table, r.Key = t.Schema, t.Name, map[string]string{t.Key: key}
		if payload.Valid {
			r.Payload = json.RawMessage(payload.String)
		}
		chunk = append(chunk, r)
		size += len(r.Payload) + len(key) + 100
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	if len(chunk) == 0 {
		return nil, fmt.Errorf("device: the outbox has no row %d", from)
	}
	return chunk, nil
}

// finish fetches what the server made of a committed push and applies it.
func (d *Device) finish(ctx context.Context, st deviceState, done committed) error {
	d.initID = "" // the commit has initialized the scope
	rows, err := d.committedRows(ctx, done)
	if hasCode(err, "history_pruned") {
		// Committed, but the bundle is no longer served: only a snapshot can tell what became of the rows.
		err := d.tx(ctx, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `DELETE FROM _sync_outbox;
				UPDATE _sync_state SET next_source_bundle_id = next_source_bundle_id + 1, needs_rebuild = 1`)
			return err
		})
		if err != nil {
			return err
		}
		return d.rebuild(ctx, nil)
	}
	if err != nil {
		return err
	}
	d.cfg.Crash(CrashBeforeApply)
	return d.applyCommitted(ctx, st, done, rows)
}

func (d *Device) committedRows(ctx context.Context, done committed) ([]wireRow, error) {
	var all []wireRow
	query := fmt.Sprintf("?max_rows=%d", d.cfg.ChunkRows) // without after_row_ordinal: from row 0, which comes after none
	for {
		var page struct {
			committed
			Rows    []wireRow `json:"rows"`
			Next    int64     `json:"next_row_ordinal"`
			HasMore bool      `json:"has_more"`
		}
		if err := d.api.do(ctx, http.MethodGet, fmt.Sprintf("/sync/committed-bundles/%d/rows%s", done.BundleSeq, query), nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Rows...)
		if !page.HasMore {
			break
		}
		if len(page.Rows) == 0 {
			return nil, fmt.Errorf("device: bundle %d has more rows but the server sends none", done.BundleSeq)
		}
		query = fmt.Sprintf("?after_row_ordinal=%d&max_rows=%d", page.Next, d.cfg.ChunkRows)
	}
	return all, verifyBundle(done.BundleSeq, done.RowCount, done.BundleHash, all)
}

// nullable makes NULL of an absent payload, and text, not a BLOB, of another.
func nullable(payload json.RawMessage) any {
	if payload == nil {
		return nil
	}
	return string(payload)
}
