package oversync

import (
	"bytes"
	"context"
	"fmt"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"

	"github.com/oversync/oversync/db"
)

// stagedRows is a chunk judged and ready for the database: arrays that go
// together, one element a row.
type stagedRows struct {
	tableIDs     []int32
	ops          []byte
	baseVersions []int64
	keys         [][]byte
	payloads     []string
}

// UploadPushChunkJSON is UploadPushChunk on a request body as it came over HTTP.
func (s *SyncService) UploadPushChunkJSON(ctx context.Context, actor Actor, pushID string, body []byte) (*PushSessionChunkResponse, error) {
	leave, err := s.shares.enter(ctx, actor.UserID) // a large body takes as long to read as to store
	if err != nil {
		return nil, err
	}
	start, rows, count, err := parsePushChunk(body, s.config.MaxRowsPerPushChunk)
	leave()
	if err != nil {
		return nil, &PushChunkInvalidError{Message: err.Error()}
	}
	return s.uploadPushChunk(ctx, actor, pushID, start, rows, count)
}

// UploadPushChunk stages the next rows of a push. Everything about them that can
// be judged without the database's rows is judged here, so that a commit fails
// only for what others did. It may be repeated until it succeeds; a chunk that
// was staged already is PushChunkOutOfOrderError, which names the next ordinal.
func (s *SyncService) UploadPushChunk(ctx context.Context, actor Actor, pushID string, req *PushSessionChunkRequest) (*PushSessionChunkResponse, error) {
	if req == nil {
		req = &PushSessionChunkRequest{}
	}
	for i, row := range req.Rows {
		if !utf8.Valid(row.Payload) {
			return nil, &PushChunkInvalidError{Message: fmt.Sprintf("row %d of the chunk: the payload is not UTF-8", i)}
		}
	}
	return s.uploadPushChunk(ctx, actor, pushID, req.StartRowOrdinal, pushedRows(req.Rows), len(req.Rows))
}

// pushedRows gives rows of a request in Go the form in which they are judged.
func pushedRows(rows []PushRequestRow) []pushedRow {
	pushed := make([]pushedRow, len(rows))
	for i, row := range rows {
		key := pushedKey{columns: len(row.Key)}
		for column, value := range row.Key {
			text, isText := value.(string)
			key.column, key.text, key.isText = column, []byte(text), isText
		}
		pushed[i] = pushedRow{
			schema: row.Schema, table: row.Table, op: row.Op, baseVersion: row.BaseRowVersion,
			key: key, payload: bytes.Trim(row.Payload, " \t\r\n"), // nil if there is nothing else
		}
	}
	return pushed
}

// uploadPushChunk stages rows. count is how many there were: with more than a chunk
// may have, rows need not be all of them.
func (s *SyncService) uploadPushChunk(ctx context.Context, actor Actor, pushID string, start int64, rows []pushedRow, count int) (*PushSessionChunkResponse, error) {
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
	if err := s.checkChunkShape(start, count); err != nil {
		return nil, err
	}
	leave, err := s.scopes.enterSource(ctx, actor)
	if err != nil {
		return nil, err
	}
	defer leave()
	leaveShare, err := s.shares.enter(ctx, actor.UserID)
	if err != nil {
		return nil, err
	}
	defer leaveShare()
	known, err := s.currentCatalog(ctx)
	if err != nil {
		return nil, err
	}
	// Rows judged by an old catalog are judged again by the new one. Registrations
	// are rare, so more than a few rounds mean something else is wrong.
	for round := 1; ; round++ {
		clock := s.stages("push_chunk", round)
		staged, judged := known.judgeRows(rows)
		clock.done(ctx, "judge", len(rows), judged)
		if judged == nil {
			next, err := s.stageRows(ctx, actor, id, start, known.version, staged)
			clock.done(ctx, "stage", len(rows), err)
			if err == nil {
				return &PushSessionChunkResponse{PushID: pushID, NextExpectedRowOrdinal: next}, nil
			}
			if hasSQLState(err, pgerrcode.UntranslatableCharacter) {
				return nil, &PushChunkInvalidError{Message: "the rows hold a character that the database cannot store: " + err.Error()}
			}
			if round == maxAttempts || !hasSQLState(err, sqlCatalogChanged) {
				return nil, typedError(err, actor, pushID)
			}
		} else if version, err := s.queries.CatalogVersion(ctx, s.pool); err != nil || version == known.version || round == maxAttempts {
			if err != nil {
				return nil, err
			}
			return nil, judged
		}
		if known, err = s.reloadCatalog(ctx); err != nil {
			return nil, err
		}
	}
}

func (s *SyncService) stageRows(ctx context.Context, actor Actor, id uuid.UUID, start, catalogVersion int64, staged *stagedRows) (next int64, err error) {
	err = retry(ctx, func(int) error {
		next, err = s.queries.PushChunkStage(ctx, s.pool, db.PushChunkStageParams{
			PushID: id, UserID: actor.UserID, SourceID: actor.SourceID,
			StartRowOrdinal: start, CatalogVersion: catalogVersion,
			TableIds: staged.tableIDs, Ops: string(staged.ops), BaseRowVersions: staged.baseVersions, Keys: staged.keys, Payloads: staged.payloads,
			SessionTtl: s.config.PushSessionTTL, LeaseTtl: s.config.InitializationLeaseTTL,
		})
		return err
	})
	return next, err
}

// checkChunkShape judges what is not about a single row.
func (s *SyncService) checkChunkShape(start int64, count int) error {
	switch {
	case count == 0:
		return &PushChunkInvalidError{Message: "the chunk has no rows: send at least one"}
	case start < 0:
		return &PushChunkInvalidError{Message: "start_row_ordinal is negative: the first row of a push is 0"}
	case count > s.config.MaxRowsPerPushChunk:
		return &PushChunkInvalidError{Message: fmt.Sprintf("the chunk has %d rows: send at most %d at a time", count, s.config.MaxRowsPerPushChunk)}
	}
	return nil
}
