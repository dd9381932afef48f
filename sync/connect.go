package oversync

import (
	"context"
	"time"

	"github.com/oversync/oversync/db"
)

// Connect says how a source is to begin in its scope, and moves an uninitialized
// scope on: see PROTOCOL, "Life of a scope". Repeating it is safe.
//
// It fails with ConnectInvalidError if req is nil.
func (s *SyncService) Connect(ctx context.Context, actor Actor, req *ConnectRequest) (*ConnectResponse, error) {
	end, err := s.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	if req == nil {
		return nil, &ConnectInvalidError{Message: "the connect request is missing"}
	}
	if actor, err = actor.validate(); err != nil {
		return nil, err
	}
	clock := s.stages("connect", 1)
	head, err := s.heads.fetch(ctx, s, actor.UserID)
	clock.done(ctx, "look", 1, err)
	if err != nil {
		return nil, err
	}
	if head.state == "initialized" { // and stays so: there is nothing to lock
		return &ConnectResponse{Resolution: "remote_authoritative"}, nil
	}
	leave, err := s.scopes.enter(ctx, actor.UserID)
	if err != nil {
		return nil, err
	}
	defer leave()
	var row db.ScopeConnectRow
	err = retry(ctx, func(attempt int) error {
		clock := s.stages("connect", attempt)
		row, err = s.queries.ScopeConnect(ctx, s.pool, db.ScopeConnectParams{
			UserID: actor.UserID, SourceID: actor.SourceID,
			HasLocalPendingRows: req.HasLocalPendingRows, LeaseTtl: s.config.InitializationLeaseTTL,
		})
		clock.done(ctx, "resolve", 1, err)
		return err
	})
	if err != nil {
		return nil, typedError(err, actor, "")
	}
	resp := &ConnectResponse{
		Resolution: row.Resolution, InitializationID: row.InitializationID,
		RetryAfterSec: int(row.RetryAfterSeconds),
	}
	if row.LeaseExpiresAt.Unix() != 0 {
		resp.LeaseExpiresAt = row.LeaseExpiresAt.UTC().Format(time.RFC3339Nano)
	}
	return resp, nil
}
