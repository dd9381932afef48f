package oversync

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/oversync/oversync/db"
)

// beginReadCommitted starts a commit's transaction. The level is said since the
// database's default may be another, under which a waiter for a scope would not
// see what the one before it committed.
const beginReadCommitted = "begin isolation level read committed"

// CommitPushSession applies the staged rows of a session as one bundle, all or
// nothing. A refusal leaves the session as it is. If the answer is lost, creating
// the session again says whether the bundle was committed.
func (s *SyncService) CommitPushSession(ctx context.Context, actor Actor, pushID string) (*PushSessionCommitResponse, error) {
	end, err := s.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	if actor, err = actor.validate(); err != nil {
		return nil, err
	}
	id, ok := parseSessionID(pushID)
	if !ok {
		return nil, &PushSessionNotFoundError{PushID: pushID}
	}
	leaveSource, err := s.scopes.enterSource(ctx, actor)
	if err != nil {
		return nil, err
	}
	defer leaveSource()
	push := &pushCommit{actor: actor, id: id, done: make(chan struct{})}
	leave, err := s.scopes.enterCommit(ctx, push)
	if err != nil {
		return nil, err
	}
	if leave == nil { // somebody else has committed it
		err = push.err
	} else {
		defer leave()
		err = s.commitInTurn(ctx, push)
	}
	if err != nil {
		return nil, s.commitError(ctx, err, actor, pushID)
	}
	return push.resp, nil
}

// applyPush sends a batch and with it what applies a push. It returns the next
// batch, which enters the push's bundle. Where more rows are planned than rowsAtMost
// the push is left alone, with pgx.ErrNoRows, and the transaction goes on.
func (s *SyncService) applyPush(ctx context.Context, conn *pgxpool.Conn, batch *pgx.Batch, push *pushCommit, rowsAtMost int64, clock *stageClock) (_ *pgx.Batch, err error) {
	batch.Queue(db.PushCommit, push.id, push.actor.UserID, push.actor.SourceID, int64(s.config.MaxRowsPerBundle), s.config.InitializationLeaseTTL, rowsAtMost)
	batch.Queue(db.BundleOpenRows)
	results := conn.SendBatch(ctx, batch)
	next := &pgx.Batch{}
	for range batch.Len() - 2 {
		if _, err = results.Exec(); err != nil {
			return next, closeBatch(results, err)
		}
	}
	var applied db.PushCommitRow
	var liveRowDelta, bytesBefore *int64
	err = results.QueryRow().Scan(&applied.BundleSeq, &applied.SourceBundleID, &applied.RowCount, &liveRowDelta, &bytesBefore)
	clock.done(ctx, "apply", int(applied.RowCount), err)
	if err != nil {
		return next, closeBatch(results, err)
	}
	rows, err := results.Query()
	if err != nil {
		return next, closeBatch(results, err)
	}
	var liveBytes int64
	hasher, err := s.hashRows(ctx, rows, func(row *logRow, _ *catalogTable) { liveBytes += int64(row.payloadBytes) })
	clock.done(ctx, "hash", int(applied.RowCount), err)
	if err = closeBatch(results, err); err != nil {
		return next, err
	}
	hash, byteCount, rowCount := hasher.sum()
	if err = s.checkBundleBytes(byteCount); err != nil {
		return next, err
	}
	var liveByteDelta *int64
	if bytesBefore != nil {
		liveBytes -= *bytesBefore
		liveByteDelta = &liveBytes
	}
	push.resp = &PushSessionCommitResponse{
		BundleSeq: applied.BundleSeq, SourceID: push.actor.SourceID, SourceBundleID: applied.SourceBundleID,
		RowCount: rowCount, BundleHash: hex.EncodeToString(hash[:]),
	}
	next.Queue(db.BundleClose, hash[:], byteCount, s.config.RetainedBundlesPerUser, rowCount, liveRowDelta, liveByteDelta)
	return next, nil
}

// closeBatch ends a batch that was read as far as err. An error of what was not read
// counts for more: the transaction has failed then, and must not go on.
func closeBatch(results pgx.BatchResults, err error) error {
	if closeErr := results.Close(); closeErr != nil {
		return closeErr
	}
	return err
}

// rollbackUnlessCommitted ends the transaction of a failed operation, so that the
// connection goes back clean. A connection that cannot even do that is closed.
func rollbackUnlessCommitted(conn *pgxpool.Conn, err *error) {
	if *err == nil || conn.Conn().IsClosed() {
		return
	}
	// The request may be gone; the connection must be cleaned all the same.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, rollbackErr := conn.Exec(ctx, "rollback"); rollbackErr != nil {
		_ = conn.Conn().Close(ctx)
	}
}

// checkBundleBytes holds a bundle to MaxBytesPerBundle.
func (s *SyncService) checkBundleBytes(byteCount int64) error {
	if limit := int64(s.config.MaxBytesPerBundle); limit > 0 && byteCount > limit {
		return &PushCommitInvalidError{Message: fmt.Sprintf("the bundle has %d bytes, more than the %d allowed: push fewer rows at a time", byteCount, limit)}
	}
	return nil
}

// commitError turns what refused a commit into the error that clients know.
func (s *SyncService) commitError(ctx context.Context, err error, actor Actor, pushID string) error {
	if bad, ok := errors.AsType[*notCanonicalError](err); ok {
		return &PushRejectedError{Message: bad.Error(), Rejection: PushRejection{
			SQLState: pgerrcode.NumericValueOutOfRange, Schema: bad.table.schema, Table: bad.table.table,
			Key: SyncKey{bad.table.keyColumn: bad.key},
		}}
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == sqlPushConflict && isOurs(pgErr) {
		return s.conflictError(ctx, pgErr)
	}
	typed := typedError(err, actor, pushID)
	if rejected, ok := rejection(typed); ok {
		return rejected
	}
	return typed
}

// conflictError reads the conflict that push_commit raised.
func (s *SyncService) conflictError(ctx context.Context, pgErr *pgconn.PgError) error {
	var detail struct {
		TableID          int32   `json:"table_id"`
		KeyBytes         string  `json:"key_bytes"`
		Op               string  `json:"op"`
		BaseRowVersion   int64   `json:"base_row_version"`
		ServerRowVersion int64   `json:"server_row_version"`
		ServerRowDeleted bool    `json:"server_row_deleted"`
		ServerRow        *string `json:"server_row"`
	}
	if jsonErr := json.Unmarshal([]byte(pgErr.Detail), &detail); jsonErr != nil {
		return fmt.Errorf("read the conflict: %w", jsonErr)
	}
	keyBytes, hexErr := hex.DecodeString(detail.KeyBytes)
	if hexErr != nil {
		return fmt.Errorf("read the key of the conflict: %w", hexErr)
	}
	known, catalogErr := s.currentCatalog(ctx)
	if catalogErr == nil {
		known, catalogErr = s.catalogWith(ctx, known, detail.TableID)
	}
	if catalogErr != nil {
		return catalogErr
	}
	table := known.byID[detail.TableID]
	conflict := &PushConflictDetails{
		Schema: table.schema, Table: table.table, Key: SyncKey{table.keyColumn: table.keyString(keyBytes)},
		Op: wireOp([]byte(detail.Op)), BaseRowVersion: detail.BaseRowVersion,
		ServerRowVersion: detail.ServerRowVersion, ServerRowDeleted: detail.ServerRowDeleted,
	}
	if detail.ServerRow != nil {
		conflict.ServerRow = json.RawMessage(*detail.ServerRow)
	}
	return &PushConflictError{Message: pgErr.Message, Conflict: conflict}
}
