package oversync

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/oversync/oversync/db"
)

// StatusResponse tells an operator how the service is. The counts of errors,
// replays and rejections are of all servers of the database, and survive restarts. The figures about
// bundles are of the whole database.
type StatusResponse struct {
	// Status is healthy or unhealthy.
	Status string `json:"status"`
	// Version is the protocol version.
	Version string `json:"version"`
	AppName string `json:"app_name"`
	// Lifecycle is running, shutting_down or closed.
	Lifecycle string `json:"lifecycle"`
	// AcceptingOperations is false from the moment that shutdown begins.
	AcceptingOperations bool `json:"accepting_operations"`
	// InFlightOperations are the operations that run at this moment.
	InFlightOperations int             `json:"inflight_operations"`
	RegisteredTables   []string        `json:"registered_tables"`
	Features           map[string]bool `json:"features"`
	// UserStateRetentionFloorAheadCount counts scopes whose retained floor is above
	// their newest bundle. It should be 0.
	UserStateRetentionFloorAheadCount int64 `json:"user_state_retention_floor_ahead_count"`
	// LatestBundleSeqMax is the highest bundle sequence of any scope.
	LatestBundleSeqMax int64 `json:"latest_bundle_seq_max"`
	// RetainedBundleFloorMin and RetainedBundleFloorMax span the floors of all
	// scopes, in bundle sequences.
	RetainedBundleFloorMin int64 `json:"retained_bundle_floor_min"`
	RetainedBundleFloorMax int64 `json:"retained_bundle_floor_max"`
	// RetainedBundleWindowMin and RetainedBundleWindowMax span how many bundles
	// above its floor a scope has.
	RetainedBundleWindowMin int64 `json:"retained_bundle_window_min"`
	RetainedBundleWindowMax int64 `json:"retained_bundle_window_max"`
	// HistoryPrunedErrorCount counts answers of history_pruned.
	HistoryPrunedErrorCount int64 `json:"history_pruned_error_count"`
	// AcceptedPushReplayCount counts pushes that were already committed.
	AcceptedPushReplayCount int64 `json:"accepted_push_replay_count"`
	// RejectedRegisteredWriteCount counts writes to a registered table that were
	// refused because they were in no bundle.
	RejectedRegisteredWriteCount int64 `json:"rejected_registered_write_count"`
	// CommittedBundleCount and CommittedBundleBytes are the number of retained
	// bundles and the bytes of their canonical JSON.
	CommittedBundleCount int64 `json:"committed_bundle_count"`
	CommittedBundleBytes int64 `json:"committed_bundle_bytes"`
}

// GetStatus returns the service's lifecycle and what operators watch. It is
// unhealthy if a floor is ahead of its scope, or if SELECT * FROM sync.check()
// shows an error: a trigger that is missing or disabled, say. The cost does not go
// with the history. What it says of the set-up, and of the totals where there are
// 10,000 scopes or more, may be two seconds old; of the set-up up to ten times as old as
// a look at it takes, which goes with the number of tables, and older where a look
// takes longer than four seconds.
// It works while the service is closing, and fails only if the database does, or does
// not answer within five seconds.
func (s *SyncService) GetStatus(ctx context.Context) (*StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	totals, err := s.statusTotals(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the totals over all scopes: %w", err)
	}
	known, err := s.currentCatalog(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	lifecycle, inFlight := s.lifecycle, s.inFlight
	s.mu.Unlock()
	setupErrors, err := s.setupErrors(ctx)
	if err != nil {
		return nil, fmt.Errorf("check the set-up of the registered tables: %w", err)
	}
	status := "healthy"
	if totals.FloorAheadCount > 0 || setupErrors > 0 {
		status = "unhealthy"
	}
	return &StatusResponse{
		Status: status, Version: SyncProtocolVersion, AppName: s.config.AppName,
		Lifecycle: lifecycle, AcceptingOperations: lifecycle == lifecycleRunning, InFlightOperations: inFlight,
		RegisteredTables: slices.Clone(known.names), Features: s.features(),
		UserStateRetentionFloorAheadCount: totals.FloorAheadCount,
		LatestBundleSeqMax:                totals.LatestBundleSeqMax,
		RetainedBundleFloorMin:            totals.RetainedFloorMin,
		RetainedBundleFloorMax:            totals.RetainedFloorMax,
		RetainedBundleWindowMin:           totals.RetainedWindowMin,
		RetainedBundleWindowMax:           totals.RetainedWindowMax,
		HistoryPrunedErrorCount:           totals.HistoryPrunedCount,
		AcceptedPushReplayCount:           totals.PushReplayCount,
		RejectedRegisteredWriteCount:      totals.RejectedWriteCount,
		CommittedBundleCount:              totals.CommittedBundleCount,
		CommittedBundleBytes:              totals.CommittedBundleBytes,
	}, nil
}

// statusCache remembers what is dear to find out, since anybody may ask for status
// and health, and load balancers do so often.
type statusCache struct {
	turns scopeQueue // of those who use the rest: a caller's patience may end before the database answers

	errors  int64 // that sync.check found
	checked time.Time
	took    time.Duration // for the check
	totals  db.StatusTotalsRow
	counted time.Time
}

const (
	// statusTimeout is shorter than what load balancers usually wait for.
	statusTimeout = 5 * time.Second
	// statusCacheTime is how long something may go unnoticed by the status.
	statusCacheTime = 2 * time.Second
	// lookTimeout leaves time for the rest of the status. A look that takes longer, at
	// many hundreds of tables, says nothing.
	lookTimeout = 4 * time.Second
	// checkPauses is how many times longer than a look at the set-up the pause after it
	// is: the look goes with the number of tables, and every instance has its own.
	checkPauses = 10
	// maxFindingsLogged is how many findings are logged; sync.check has the others.
	maxFindingsLogged = 3
	// manyScopes take some milliseconds to add up. Fewer are added up each time.
	manyScopes = 10_000
)

// setupErrors returns how many errors sync.check finds, or found when it last ended
// in time: to be slow is no fault of the set-up, and must not take every instance out
// of its load balancer. The look goes on where its caller leaves: load balancers that
// wait for a second would else begin it anew each time, and never get an answer.
func (s *SyncService) setupErrors(ctx context.Context) (int64, error) {
	leave, err := s.status.turns.enter(ctx, "errors")
	if err != nil {
		return 0, err
	}
	if time.Since(s.status.checked) < max(statusCacheTime, checkPauses*s.status.took) {
		defer leave()
		return s.status.errors, nil
	}
	type result struct {
		found int64
		err   error
	}
	looked := make(chan result, 1)
	s.background.finish(func() {
		defer leave()
		found, err := s.lookAtSetup(context.WithoutCancel(ctx))
		looked <- result{found, err}
	})
	select {
	case r := <-looked:
		return r.found, r.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// lookAtSetup is called by whoever has the turn of the errors.
func (s *SyncService) lookAtSetup(ctx context.Context) (int64, error) {
	start := time.Now()
	look, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	found, err := s.queries.StatusErrors(look, s.pool)
	took := time.Since(start)
	// The database, or its role, may have a shorter patience of its own.
	if err != nil && (look.Err() != nil || hasSQLState(err, pgerrcode.QueryCanceled)) {
		s.logger.LogAttrs(ctx, slog.LevelWarn, "sync.check did not end in time: the status goes by what it found before", slog.String("after", took.String()))
		found, err = s.status.errors, nil
	}
	if err == nil && (found > 0) != (s.status.errors > 0) {
		err = s.logSetup(ctx, found)
	}
	if err == nil {
		s.status.errors, s.status.checked, s.status.took = found, time.Now(), took
	}
	return found, err
}

// logSetup says why the status has turned unhealthy, or that it is over: the answer
// itself gives no reason, and takes every instance out of its load balancer.
func (s *SyncService) logSetup(ctx context.Context, errorCount int64) error {
	if errorCount == 0 {
		s.logger.LogAttrs(ctx, slog.LevelInfo, "sync.check finds no error any more")
		return nil
	}
	look, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	findings, err := s.queries.TableCheck(look, s.pool)
	if err != nil {
		return err
	}
	for _, f := range findings[:min(len(findings), maxFindingsLogged)] { // errors come first
		s.logger.LogAttrs(ctx, slog.LevelError, "sync.check finds an error: the status is unhealthy", slog.Int64("errors", errorCount),
			slog.String("severity", f.Severity), slog.String("object", f.Object), slog.String("problem", f.Problem), slog.String("remedy", f.Remedy))
	}
	return nil
}

// statusTotals returns what there is over all scopes.
func (s *SyncService) statusTotals(ctx context.Context) (db.StatusTotalsRow, error) {
	leave, err := s.status.turns.enter(ctx, "totals")
	if err != nil {
		return db.StatusTotalsRow{}, err
	}
	defer leave()
	if s.status.totals.ScopeCount >= manyScopes && time.Since(s.status.counted) < statusCacheTime {
		return s.status.totals, nil
	}
	totals, err := s.queries.StatusTotals(ctx, s.pool)
	if err == nil {
		s.status.totals, s.status.counted = totals, time.Now()
	}
	return totals, err
}
