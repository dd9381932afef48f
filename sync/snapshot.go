package oversync

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/oversync/oversync/db"
)

// replacementReasons are the reasons for which a client may replace its source.
var replacementReasons = map[string]bool{
	"history_pruned": true, "source_sequence_out_of_order": true, "source_sequence_changed": true, "source_retired": true,
}

// CreateSnapshotSession is CreateSnapshotSessionWithRequest without a request.
func (s *SyncService) CreateSnapshotSession(ctx context.Context, actor Actor) (*SnapshotSession, error) {
	return s.CreateSnapshotSessionWithRequest(ctx, actor, nil)
}

// CreateSnapshotSessionWithRequest freezes the scope at its newest bundle, for
// the client to read in chunks. With a source replacement, the caller's source is
// retired in the same transaction. Of more than eight sessions of one source, the
// oldest end.
func (s *SyncService) CreateSnapshotSessionWithRequest(ctx context.Context, actor Actor, req *SnapshotSessionCreateRequest) (*SnapshotSession, error) {
	end, err := s.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	if actor, err = actor.validate(); err != nil {
		return nil, err
	}
	params := db.SnapshotCreateParams{
		UserID: actor.UserID, SourceID: actor.SourceID, SessionTtl: s.config.SnapshotSessionTTL,
		MaxRows: s.config.MaxRowsPerSnapshotSession, MaxBytes: s.config.MaxBytesPerSnapshotSession,
	}
	if req != nil && req.SourceReplacement != nil {
		if params.NewSourceID, err = checkReplacement(actor, req.SourceReplacement); err != nil {
			return nil, err
		}
		params.Reason = req.SourceReplacement.Reason
		leave, err := s.scopes.enter(ctx, actor.UserID)
		if err != nil {
			return nil, err
		}
		defer leave()
	}
	var row db.SnapshotCreateRow
	err = retry(ctx, func(attempt int) error {
		clock := s.stages("snapshot_create", attempt)
		row, err = s.queries.SnapshotCreate(ctx, s.pool, params)
		clock.done(ctx, "create", 1, err)
		return err
	})
	if err != nil {
		return nil, typedError(err, actor, "")
	}
	return &SnapshotSession{
		SnapshotID: row.SnapshotID.String(), SnapshotBundleSeq: row.SnapshotBundleSeq,
		RowCount: row.RowCount, ByteCount: row.ByteCount, ExpiresAt: row.ExpiresAt.UTC().Format(time.RFC3339Nano),
	}, nil
}

// checkReplacement judges a source replacement and returns the new source id.
func checkReplacement(actor Actor, r *SnapshotSourceReplacement) (string, error) {
	if strings.TrimSpace(r.PreviousSourceID) != actor.SourceID {
		return "", &SnapshotSessionInvalidError{Message: "previous_source_id must be the source that calls"}
	}
	newSourceID, err := validateSource("new_source_id", r.NewSourceID)
	if err != nil {
		return "", &SnapshotSessionInvalidError{Message: err.Error()}
	}
	if newSourceID == actor.SourceID {
		return "", &SnapshotSessionInvalidError{Message: "new_source_id must be another than previous_source_id"}
	}
	if !replacementReasons[r.Reason] {
		return "", &SnapshotSessionInvalidError{Message: "reason must be history_pruned, source_sequence_out_of_order, source_sequence_changed or source_retired"}
	}
	return newSourceID, nil
}

// GetSnapshotChunk returns rows of a snapshot. It holds them in memory:
// WriteSnapshotChunk streams them.
func (s *SyncService) GetSnapshotChunk(ctx context.Context, actor Actor, snapshotID string, afterRowOrdinal int64, maxRows int) (*SnapshotChunkResponse, error) {
	return collect[SnapshotChunkResponse](func(w io.Writer) error {
		return s.WriteSnapshotChunk(ctx, actor, snapshotID, afterRowOrdinal, maxRows, w)
	})
}

// WriteSnapshotChunk streams a SnapshotChunkResponse as JSON: the rows of a
// snapshot after an ordinal, in an order that does not change. maxRows 0 means the
// default; one above the configured maximum is lowered to it. It fails as WritePull
// does.
func (s *SyncService) WriteSnapshotChunk(ctx context.Context, actor Actor, snapshotID string, afterRowOrdinal int64, maxRows int, w io.Writer) error {
	end, err := s.begin()
	if err != nil {
		return err
	}
	defer end()
	if actor, err = actor.validateUser(); err != nil {
		return err
	}
	if afterRowOrdinal < 0 || maxRows < 0 {
		return &SnapshotChunkInvalidError{Message: "after_row_ordinal and max_rows must not be negative"}
	}
	id, ok := parseSessionID(snapshotID)
	if !ok {
		return &SnapshotSessionNotFoundError{SnapshotID: snapshotID}
	}
	setDefault(&maxRows, s.config.DefaultRowsPerSnapshotChunk)
	maxRows = min(maxRows, s.config.MaxRowsPerSnapshotChunk)

	clock := s.stages("snapshot_chunk", 1)
	out := s.newAnswer(w)
	defer out.release()
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	rows, err := conn.Query(ctx, db.SnapshotRows, actor.UserID, afterRowOrdinal, maxRows, id)
	if err != nil {
		return err
	}
	defer rows.Close()
	var (
		isForbidden, isExpired      bool
		snapshotBundleSeq, rowCount int64
		tableID                     pgtype.Int4
		rowVersion                  pgtype.Int8
		key, payload                pgtype.DriverBytes
		lastTableID                 int32
		lastKey                     []byte
		returned                    int64
		found                       bool // the session
	)
	for rows.Next() {
		if !found {
			err = rows.Scan(&isForbidden, &snapshotBundleSeq, &rowCount, &isExpired, &tableID, &key, &rowVersion, &payload)
		} else { // of the session, each row says the same
			err = rows.Scan(nil, nil, nil, nil, &tableID, &key, &rowVersion, &payload)
		}
		if err != nil {
			return err
		} else if isForbidden {
			return &SnapshotSessionForbiddenError{SnapshotID: snapshotID}
		} else if isExpired {
			return &SnapshotSessionExpiredError{SnapshotID: snapshotID}
		}
		if !found {
			found = true
			out.text(`{"snapshot_id":`).string(id.String()).text(`,"snapshot_bundle_seq":`).int(snapshotBundleSeq).text(`,"rows":[`)
		}
		if !tableID.Valid {
			break
		}
		if returned > 0 {
			out.text(",")
		}
		if err := out.snapshotRow(ctx, rowVersion.Int64, tableID.Int32, key, payload); err != nil {
			return err
		}
		lastTableID, lastKey = tableID.Int32, append(lastKey[:0], key...)
		returned++
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return typedError(err, actor, "")
	}
	if !found {
		return &SnapshotSessionNotFoundError{SnapshotID: snapshotID}
	}
	next := afterRowOrdinal + returned
	hasMore := next < rowCount && returned > 0
	if wanted := min(int64(maxRows), rowCount-afterRowOrdinal); returned < wanted {
		// Its table was unregistered meanwhile: the session was not there yet, or the row no more, as that ended sessions. Where the log is
		// damaged, this line is what tells of it.
		s.logger.WarnContext(ctx, "a snapshot has lost rows, and counts as expired", slog.String("snapshot_id", snapshotID),
			slog.Int64("after_row_ordinal", afterRowOrdinal), slog.Int64("rows", returned), slog.Int64("expected", wanted))
		return &SnapshotSessionExpiredError{SnapshotID: snapshotID}
	}
	if hasMore {
		// Without the mark the next chunk takes longer to find its start, no more.
		err = s.queries.SnapshotMark(ctx, conn, db.SnapshotMarkParams{SnapshotID: id, RowOrdinal: next, TableID: lastTableID, KeyBytes: lastKey})
		if err != nil && ctx.Err() == nil {
			s.logger.WarnContext(ctx, "the end of a snapshot chunk could not be noted", slog.Any("error", err))
		}
	}
	conn.Release()
	clock.done(ctx, "stream", int(returned), err)
	out.text(`],"next_row_ordinal":`).int(next).text(`,"has_more":`).bool(hasMore).text("}")
	return out.finish(ctx)
}

// DeleteSnapshotSession ends a snapshot before its time. One that is not there is
// no error; another user's is.
func (s *SyncService) DeleteSnapshotSession(ctx context.Context, actor Actor, snapshotID string) error {
	end, err := s.begin()
	if err != nil {
		return err
	}
	defer end()
	if actor, err = actor.validateUser(); err != nil {
		return err
	}
	id, ok := parseSessionID(snapshotID)
	if !ok {
		return &SnapshotSessionNotFoundError{SnapshotID: snapshotID}
	}
	isForbidden, err := s.queries.SnapshotDelete(ctx, s.pool, db.SnapshotDeleteParams{SnapshotID: id, UserID: actor.UserID})
	if err == nil && isForbidden {
		return &SnapshotSessionForbiddenError{SnapshotID: snapshotID}
	}
	return typedError(err, actor, "")
}
