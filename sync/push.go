package oversync

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/oversync/oversync/db"
)

// Statuses of a PushSessionCreateResponse.
const (
	pushStatusStaging          = "staging"
	pushStatusAlreadyCommitted = "already_committed"
)

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
	leaveShare, err := s.shares.enter(ctx, actor.UserID)
	if err != nil {
		return nil, err
	}
	defer leaveShare()
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
	leaveShare, err := s.shares.enter(ctx, actor.UserID)
	if err != nil {
		return err
	}
	defer leaveShare()
	err = s.queries.PushSessionDelete(ctx, s.pool, db.PushSessionDeleteParams{PushID: id, UserID: actor.UserID, SourceID: actor.SourceID})
	return typedError(err, actor, pushID)
}
