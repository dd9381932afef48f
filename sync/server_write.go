package oversync

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"

	"github.com/jackc/pgx/v5"

	"github.com/oversync/oversync/db"
)

// WithinSyncBundle runs fn in a transaction whose changes to registered tables
// become one bundle of the given scope, source and source_bundle_id. fn must not
// end the transaction. An error of fn rolls everything back and is returned as it
// is. If fn changed no registered table, the transaction is committed without a
// bundle, and source_bundle_id stays free.
//
// actor names the scope; its source is not used. The scope must be initialized:
// else ScopeUninitializedError or ScopeInitializingError. A source_bundle_id that
// is not the source's next is SourceSequenceOutOfOrderError, or
// SourceTupleHistoryPrunedError if it was committed and is pruned; a replaced
// source is SourceRetiredError.
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
// initialized. fn must not end the transaction. An error of fn rolls everything
// back and is returned as it is.
//
// It fails with ScopeWriteInvalidError for a blank scope or writer,
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
	actor, err := Actor{UserID: scopeID, SourceID: opts.WriterID}.validate()
	if err != nil {
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
	err = fn(tx)
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
	write.bundle.BundleHash = hex.EncodeToString(hash[:])
	err = s.queries.BundleClose(ctx, tx, db.BundleCloseParams{
		BundleHash: hash[:], ByteCount: byteCount, RetainedBundles: s.config.RetainedBundlesPerUser,
	})
	clock.done(ctx, "close", 1, err)
	return err
}

// keepRow copies a row of the log into the result.
func (w *serverWrite) keepRow(row logRow, table *catalogTable) {
	w.bundle.Rows = append(w.bundle.Rows, BundleRow{
		Schema: table.schema, Table: table.table, Key: SyncKey{table.keyColumn: table.keyString(row.key)},
		Op: wireOp(row.op), RowVersion: row.bundleSeq, Payload: json.RawMessage(bytes.Clone(row.payload)),
	})
}
