package oversync

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/oversync/oversync/db"
)

// Statuses of a PushSessionCreateResponse.
const (
	pushStatusStaging          = "staging"
	pushStatusAlreadyCommitted = "already_committed"
)

// beginReadCommitted starts a commit's transaction. The level is said since the
// database's default may be another, under which a waiter for a scope would not
// see what the one before it committed.
const beginReadCommitted = "begin isolation level read committed"

// CreatePushSession begins the push of one bundle, or says that the bundle is
// committed already. An uncommitted session of the same bundle is replaced.
func (s *SyncService) CreatePushSession(ctx context.Context, actor Actor, req *PushSessionCreateRequest) (*PushSessionCreateResponse, error) {
	end, err := s.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	if actor, err = actor.validate(); err != nil {
		return nil, err
	}
	switch {
	case req == nil:
		return nil, &PushSessionInvalidError{Message: "the request is missing"}
	case req.SourceBundleID <= 0:
		return nil, &PushSessionInvalidError{Message: "source_bundle_id must be positive: send the number after the last one committed"}
	case req.PlannedRowCount <= 0:
		return nil, &PushSessionInvalidError{Message: "planned_row_count must be positive: a push without rows is not needed"}
	case req.PlannedRowCount > maxPlannedRows:
		return nil, &PushSessionInvalidError{Message: fmt.Sprintf("planned_row_count is over %d: push fewer rows at a time", maxPlannedRows)}
	}
	// The database cannot read every text. What is judged before the id must be
	// judged all the same, so another that no lease has stands in for it.
	initializationID := strings.ToValidUTF8(strings.ReplaceAll(req.InitializationID, "\x00", "?"), "?")
	leave, err := s.scopes.enterSource(ctx, actor)
	if err != nil {
		return nil, err
	}
	defer leave()
	if req.InitializationID != "" { // the lease is in the scope's row
		leave, err := s.scopes.enter(ctx, actor.UserID)
		if err != nil {
			return nil, err
		}
		defer leave()
	}
	var row db.PushSessionCreateRow
	err = retry(ctx, func(attempt int) error {
		clock := s.stages("push_create", attempt)
		row, err = s.queries.PushSessionCreate(ctx, s.pool, db.PushSessionCreateParams{
			UserID: actor.UserID, SourceID: actor.SourceID,
			SourceBundleID: req.SourceBundleID, PlannedRowCount: req.PlannedRowCount, InitializationID: initializationID,
			SessionTtl: s.config.PushSessionTTL, LeaseTtl: s.config.InitializationLeaseTTL,
		})
		clock.done(ctx, "create", 1, err)
		return err
	})
	if err != nil {
		return nil, typedError(err, actor, "")
	}
	if row.PushID == "" && row.BundleHash == nil {
		// Plain SQL wrote it under this source's name, and nobody has read it yet.
		bundle, err := s.bundleHeader(ctx, actor, row.BundleSeq)
		if err != nil {
			return nil, err
		}
		row.BundleHash = bundle.BundleHash
	}
	if row.PushID == "" {
		return &PushSessionCreateResponse{
			Status: pushStatusAlreadyCommitted, BundleSeq: row.BundleSeq,
			SourceID: actor.SourceID, SourceBundleID: req.SourceBundleID,
			RowCount: row.RowCount, BundleHash: hex.EncodeToString(row.BundleHash),
		}, nil
	}
	return &PushSessionCreateResponse{Status: pushStatusStaging, PushID: row.PushID, PlannedRowCount: req.PlannedRowCount}, nil
}

// maxPlannedRows bounds one push: row ordinals are 32-bit in the log.
const maxPlannedRows = 1<<31 - 1

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
	leave, err := s.scopes.enter(ctx, actor.UserID)
	if err != nil {
		return nil, err
	}
	defer leave()

	var resp *PushSessionCommitResponse
	err = retry(ctx, func(attempt int) error {
		resp, err = s.commitPush(ctx, actor, id, s.stages("push_commit", attempt))
		return err
	})
	if err != nil {
		return nil, s.commitError(ctx, err, actor, pushID)
	}
	s.bundleCommitted(actor.UserID, resp.BundleSeq, resp.SourceID, resp.SourceBundleID)
	return resp, nil
}

// commitPush is one try of CommitPushSession: two round trips, whatever the
// number of rows. The first applies the push and streams its rows here to make
// their hash, the second enters the bundle and commits.
func (s *SyncService) commitPush(ctx context.Context, actor Actor, pushID uuid.UUID, clock *stageClock) (_ *PushSessionCommitResponse, err error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Release()
	clock.done(ctx, "acquire", 1, nil)
	defer rollbackUnlessCommitted(conn, &err)

	batch := &pgx.Batch{}
	batch.Queue(beginReadCommitted)
	if s.config.UploadLockTimeout > 0 {
		batch.Queue(db.PushLockTimeout, s.config.UploadLockTimeout.Milliseconds())
	}
	batch.Queue(db.PushCommit, pushID, actor.UserID, actor.SourceID, int64(s.config.MaxRowsPerBundle), s.config.InitializationLeaseTTL)
	batch.Queue(db.BundleOpenRows)
	results := conn.SendBatch(ctx, batch)
	for range batch.Len() - 2 {
		if _, err = results.Exec(); err != nil {
			return nil, errors.Join(err, results.Close())
		}
	}
	var applied db.PushCommitRow
	var liveRowDelta, bytesBefore *int64
	err = results.QueryRow().Scan(&applied.BundleSeq, &applied.SourceBundleID, &applied.RowCount, &liveRowDelta, &bytesBefore)
	clock.done(ctx, "apply", int(applied.RowCount), err)
	if err != nil {
		return nil, errors.Join(err, results.Close())
	}
	rows, err := results.Query()
	if err != nil {
		return nil, errors.Join(err, results.Close())
	}
	var liveBytes int64
	hasher, err := s.hashRows(ctx, rows, func(row logRow, _ *catalogTable) { liveBytes += int64(row.payloadBytes) })
	clock.done(ctx, "hash", int(applied.RowCount), err)
	if err = errors.Join(err, results.Close()); err != nil {
		return nil, err
	}
	hash, byteCount, rowCount := hasher.sum()
	if err = s.checkBundleBytes(byteCount); err != nil {
		return nil, err
	}

	var liveByteDelta *int64
	if bytesBefore != nil {
		liveBytes -= *bytesBefore
		liveByteDelta = &liveBytes
	}
	batch = &pgx.Batch{}
	batch.Queue(db.BundleClose, hash[:], byteCount, s.config.RetainedBundlesPerUser, rowCount, liveRowDelta, liveByteDelta)
	batch.Queue("commit")
	err = conn.SendBatch(ctx, batch).Close()
	clock.done(ctx, "commit", 1, err)
	if err != nil {
		return nil, err
	}
	return &PushSessionCommitResponse{
		BundleSeq: applied.BundleSeq, SourceID: actor.SourceID, SourceBundleID: applied.SourceBundleID,
		RowCount: rowCount, BundleHash: hex.EncodeToString(hash[:]),
	}, nil
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

// hashRows reads the rows of a bundle in order and makes its hash. each, if not
// nil, sees every row; what it is given is valid only until it returns.
func (s *SyncService) hashRows(ctx context.Context, rows pgx.Rows, each func(logRow, *catalogTable)) (*bundleHasher, error) {
	defer rows.Close()
	known, err := s.currentCatalog(ctx)
	if err != nil {
		return nil, err
	}
	hasher := newBundleHasher()
	var row logRow
	var key []byte
	var table *catalogTable
	for rows.Next() {
		if err := row.scan(rows); err != nil {
			return nil, err
		}
		if table == nil || table.id != row.tableID {
			if known, err = s.catalogWith(ctx, known, row.tableID); err != nil {
				return nil, err
			}
			table = known.byID[row.tableID]
		}
		key = table.appendKeyJSON(key[:0], row.key)
		if err := hasher.addRow(table.schema, table.table, table.keyColumn, key, wireOp(row.op), row.bundleSeq, row.payload); err != nil {
			return nil, &notCanonicalError{table: table, key: table.keyString(row.key), err: err}
		}
		if each != nil {
			each(row, table)
		}
	}
	return hasher, rows.Err()
}

// logRow is one row of the log, as the queries that stream it give it. Its
// slices belong to the driver, until the next row.
type logRow struct {
	bundleSeq int64
	ordinal   int32
	tableID   int32
	op        pgtype.DriverBytes
	key       pgtype.DriverBytes
	payload   pgtype.DriverBytes

	payloadBytes int32 // as sync.user_state counts them
}

func (r *logRow) scan(rows pgx.Rows) error {
	return rows.Scan(&r.bundleSeq, &r.ordinal, &r.tableID, &r.op, &r.key, &r.payload, &r.payloadBytes)
}

// notCanonicalError says that a row has a number without a finite double, so
// that no hash can be made of it.
type notCanonicalError struct {
	table *catalogTable
	key   string
	err   error
}

func (e *notCanonicalError) Error() string {
	return fmt.Sprintf("row %s of %s.%s: %v", e.key, e.table.schema, e.table.table, e.err)
}

func (e *notCanonicalError) Unwrap() error { return e.err }

// commitError turns what refused a commit into the error that clients know.
func (s *SyncService) commitError(ctx context.Context, err error, actor Actor, pushID string) error {
	if bad, ok := errors.AsType[*notCanonicalError](err); ok {
		return &PushRejectedError{Message: bad.Error(), Rejection: PushRejection{
			SQLState: pgerrcode.NumericValueOutOfRange, Schema: bad.table.schema, Table: bad.table.table,
			Key: SyncKey{bad.table.keyColumn: bad.key},
		}}
	}
	if hasSQLState(err, sqlPushConflict) {
		return s.conflictError(ctx, err)
	}
	typed := typedError(err, actor, pushID)
	if rejected, ok := rejection(typed); ok {
		return rejected
	}
	return typed
}

// conflictError reads the conflict that push_commit raised.
func (s *SyncService) conflictError(ctx context.Context, err error) error {
	pgErr, _ := errors.AsType[*pgconn.PgError](err)
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

// DeletePushSession ends a session before its time. A session that is not there
// is no error; another user's or source's is.
func (s *SyncService) DeletePushSession(ctx context.Context, actor Actor, pushID string) error {
	end, err := s.begin()
	if err != nil {
		return err
	}
	defer end()
	if actor, err = actor.validate(); err != nil {
		return err
	}
	id, ok := parseSessionID(pushID)
	if !ok {
		return &PushSessionNotFoundError{PushID: pushID}
	}
	leave, err := s.scopes.enterSource(ctx, actor)
	if err != nil {
		return err
	}
	defer leave()
	err = s.queries.PushSessionDelete(ctx, s.pool, db.PushSessionDeleteParams{PushID: id, UserID: actor.UserID, SourceID: actor.SourceID})
	return typedError(err, actor, pushID)
}
