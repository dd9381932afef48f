package oversync

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"

	"github.com/oversync/oversync/db"
)

// WithinSyncBundle runs fn in a transaction whose changes to registered tables
// become one bundle of the given scope, source and source_bundle_id. fn must not
// end the transaction, and must not write into the same scope by another call: it
// would wait for itself. An error or panic of fn rolls everything back and reaches
// the caller as it is. If fn changed no registered table, the transaction is
// committed without a bundle, and source_bundle_id stays free.
//
// actor names the scope; its source is not used. The scope must be initialized:
// else ScopeUninitializedError or ScopeInitializingError. A source_bundle_id that
// is not the source's next is SourceSequenceOutOfOrderError, or
// SourceTupleHistoryPrunedError if it was committed and is pruned; a replaced
// source is SourceRetiredError; a bundle over MaxRowsPerBundle or
// MaxBytesPerBundle is ScopeWriteInvalidError.
func (s *SyncService) WithinSyncBundle(ctx context.Context, actor Actor, source BundleSource, fn func(tx pgx.Tx) error) error {
	end, err := s.begin()
	if err != nil {
		return err
	}
	defer end()
	actor.SourceID = source.SourceID
	if actor, err = actor.validate(); err != nil {
		return err
	}
	if source.SourceBundleID <= 0 {
		return &RequestInvalidError{Message: "source_bundle_id must be positive: use the number after the last one committed"}
	}
	if fn == nil {
		return &RequestInvalidError{Message: "the callback is missing"}
	}
	write := serverWrite{actor: actor, sourceBundleID: &source.SourceBundleID, mayBeEmpty: true}
	return s.runServerWrite(ctx, &write, fn)
}

// ScopeManager writes into scopes on the server's behalf, for code that knows a
// scope and a writer but keeps no sequence numbers.
type ScopeManager struct {
	service *SyncService
	logger  *slog.Logger
}

// NewScopeManager returns a manager on a service.
func NewScopeManager(service *SyncService, cfg ScopeManagerConfig) *ScopeManager {
	logger := cfg.Logger
	if logger == nil {
		logger = slog.Default()
	}
	return &ScopeManager{service: service, logger: logger}
}

// ExecWrite runs fn in a transaction whose changes to registered tables become
// the next bundle of the writer in the scope. An uninitialized scope becomes
// initialized. fn must not end the transaction, and must not write into the same
// scope by another call: it would wait for itself. An error or panic of fn rolls
// everything back and reaches the caller as it is.
//
// It fails with ScopeWriteInvalidError for a blank scope or writer and for a
// bundle over MaxRowsPerBundle or MaxBytesPerBundle,
// ScopeInitializingError while a device holds the lease to fill the scope,
// SourceRetiredError if the writer was replaced, and
// ScopeWriteNoCapturedChangesError, with nothing committed, if no registered
// table was changed.
func (m *ScopeManager) ExecWrite(ctx context.Context, scopeID string, opts ScopeWriteOptions, fn func(tx pgx.Tx) error) (*ScopeWriteResult, error) {
	end, err := m.service.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	var actor Actor
	if actor.UserID, err = validateID("the scope", scopeID); err != nil {
		return nil, &ScopeWriteInvalidError{Message: err.Error()}
	}
	if actor.SourceID, err = validateSource("the writer", opts.WriterID); err != nil {
		return nil, &ScopeWriteInvalidError{Message: err.Error()}
	}
	if fn == nil {
		return nil, &ScopeWriteInvalidError{Message: "the callback is missing"}
	}
	write := serverWrite{actor: actor, initialize: true, keepRows: true}
	if err := m.service.runServerWrite(ctx, &write, fn); err != nil {
		return nil, err
	}
	m.logger.DebugContext(ctx, "scope written", slog.String("writer_id", actor.SourceID), slog.Int64("bundle_seq", write.bundle.BundleSeq))
	return &ScopeWriteResult{AutoInitialized: write.autoInitialized, Bundle: &write.bundle}, nil
}

// serverWrite is one write by the server: how it is to be done, and what became
// of it.
type serverWrite struct {
	actor          Actor
	sourceBundleID *int64 // nil means the next
	initialize     bool   // an uninitialized scope becomes initialized
	mayBeEmpty     bool   // no captured change is no error
	keepRows       bool   // the rows are wanted in bundle

	autoInitialized bool
	bundle          Bundle
}

// callbackError carries an error of the caller's own function past our mapping.
type callbackError struct{ err error }

func (e *callbackError) Error() string { return e.err.Error() }

// runServerWrite is the transaction of a server-side write. It is not tried again
// when it fails: what fn did outside the database cannot be undone.
func (s *SyncService) runServerWrite(ctx context.Context, write *serverWrite, fn func(tx pgx.Tx) error) error {
	leave, err := s.scopes.enter(ctx, write.actor.UserID)
	if err != nil {
		return err
	}
	defer leave()
	err = pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		return s.writeBundle(ctx, tx, write, fn)
	})
	if own, ok := errors.AsType[*callbackError](err); ok {
		return own.err
	}
	if err == nil && write.bundle.BundleSeq > 0 {
		s.bundleCommitted(write.actor.UserID, write.bundle.BundleSeq, write.bundle.SourceID, write.bundle.SourceBundleID)
	}
	return typedError(err, write.actor, "")
}

func (s *SyncService) writeBundle(ctx context.Context, tx pgx.Tx, write *serverWrite, fn func(tx pgx.Tx) error) error {
	clock := s.stages("server_write", 1)
	opened, err := s.queries.BundleOpen(ctx, tx, db.BundleOpenParams{
		UserID: write.actor.UserID, SourceID: write.actor.SourceID, SourceBundleID: write.sourceBundleID, Initialize: write.initialize,
	})
	clock.done(ctx, "open", 1, err)
	if err != nil {
		return err
	}
	lent := &lentTx{Tx: tx}
	err = fn(lent)
	// A callback can end the transaction in SQL as well, which leaves it nothing to commit.
	if err == nil && (lent.misused || tx.Conn().PgConn().TxStatus() == 'I') {
		err = errLentTx
	}
	clock.done(ctx, "callback", 1, err)
	if err != nil {
		return &callbackError{err}
	}
	rowCount, err := s.queries.BundleEmit(ctx, tx)
	clock.done(ctx, "emit", int(rowCount), err)
	if err != nil {
		return err
	}
	if rowCount == 0 {
		if !write.mayBeEmpty {
			return &ScopeWriteNoCapturedChangesError{ScopeID: write.actor.UserID, WriterID: write.actor.SourceID}
		}
		return s.queries.BundleAbandon(ctx, tx)
	}
	write.autoInitialized = opened.AutoInitialized
	write.bundle = Bundle{
		BundleSeq: opened.BundleSeq, SourceID: write.actor.SourceID, SourceBundleID: opened.SourceBundleID,
		RowCount: rowCount, Rows: []BundleRow{},
	}
	rows, err := tx.Query(ctx, db.BundleOpenRows)
	if err != nil {
		return err
	}
	keep := write.keepRow
	if !write.keepRows {
		keep = nil
	}
	hasher, err := s.hashRows(ctx, rows, keep)
	clock.done(ctx, "hash", int(rowCount), err)
	if err != nil {
		return err
	}
	hash, byteCount, _ := hasher.sum()
	if err := s.checkServerBundle(rowCount, byteCount); err != nil {
		return err
	}
	write.bundle.BundleHash = hex.EncodeToString(hash[:])
	err = s.queries.BundleClose(ctx, tx, db.BundleCloseParams{
		BundleHash: hash[:], ByteCount: byteCount, RetainedBundles: s.config.RetainedBundlesPerUser,
	})
	clock.done(ctx, "close", 1, err)
	return err
}

// checkServerBundle holds a server-side bundle to the same bounds as a pushed
// one, since devices have to take either whole.
func (s *SyncService) checkServerBundle(rowCount, byteCount int64) error {
	switch maxRows, maxBytes := int64(s.config.MaxRowsPerBundle), int64(s.config.MaxBytesPerBundle); {
	case maxRows > 0 && rowCount > maxRows:
		return &ScopeWriteInvalidError{Message: fmt.Sprintf("the bundle has %d rows, more than the %d allowed: write fewer rows at a time", rowCount, maxRows)}
	case maxBytes > 0 && byteCount > maxBytes:
		return &ScopeWriteInvalidError{Message: fmt.Sprintf("the bundle has %d bytes, more than the %d allowed: write fewer rows at a time", byteCount, maxBytes)}
	}
	return nil
}

// lentTx is the transaction as a callback sees it. If the callback could end it,
// what it wrote would be committed without being in a bundle.
type lentTx struct {
	pgx.Tx
	misused bool
}

var errLentTx = errors.New("the transaction belongs to the bundle: return nil to commit it, or an error to roll it back")

// Commit refuses, and so makes the whole write fail.
func (tx *lentTx) Commit(context.Context) error { return tx.refuse() }

// Rollback refuses, and so makes the whole write fail.
func (tx *lentTx) Rollback(context.Context) error { return tx.refuse() }

func (tx *lentTx) refuse() error {
	tx.misused = true
	return errLentTx
}

// keepRow copies a row of the log into the result.
func (w *serverWrite) keepRow(row *logRow, table *catalogTable) {
	w.bundle.Rows = append(w.bundle.Rows, BundleRow{
		Schema: table.schema, Table: table.table, Key: SyncKey{table.keyColumn: table.keyString(row.key)},
		Op: wireOp(row.op), RowVersion: row.bundleSeq, Payload: json.RawMessage(bytes.Clone(row.payload)),
	})
}
