package oversync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/oversync/oversync/db"
)

// Pace of the background work. Each run costs the same whatever the history's
// size: a pass of pruning looks at so many scopes, and the next goes on from there.
const (
	catalogCheckInterval = time.Second
	pruneInterval        = 5 * time.Second
	sweepInterval        = time.Minute
	adoptInterval        = 2 * time.Second

	scopesPerPrunePass = 10_000
	// pruneStepsPerScope lets other scopes have their turn while one has a long
	// history to remove.
	pruneStepsPerScope = 100
	// maxPruneFailures is how many scopes that fail a pass tells of.
	maxPruneFailures = 10

	// sessionGrace is how long an expired session still answers that it expired.
	// After that it is unknown.
	sessionGrace     = 15 * time.Minute
	sessionsPerSweep = 1000

	// rowsPerAdoption keeps the transactions short that hold the scopes of the rows
	// being adopted.
	rowsPerAdoption = 2000
)

// startBackground starts the background work of a service. Only the first call
// does anything.
func (s *SyncService) startBackground() {
	s.background.start(
		func(ctx context.Context) {
			every(ctx, s.logger, catalogCheckInterval, "refresh the catalog", s.refreshCatalog)
		},
		func(ctx context.Context) {
			var position int64
			every(ctx, s.logger, pruneInterval, "prune", func(ctx context.Context) error {
				return s.prunePass(ctx, &position)
			})
		},
		func(ctx context.Context) {
			every(ctx, s.logger, sweepInterval, "sweep sessions", s.sweep)
		},
		func(ctx context.Context) {
			every(ctx, s.logger, adoptInterval, "adopt rows", s.adoptPending)
		},
		func(ctx context.Context) {
			_ = s.RunBundleChangeListener(ctx) // fails only where the watch is off
		},
	)
}

// refreshCatalog reads the catalog again if it has changed, so that capabilities
// follow a registration without a restart.
func (s *SyncService) refreshCatalog(ctx context.Context) error {
	version, err := s.queries.CatalogVersion(ctx, s.pool)
	if err != nil {
		return fmt.Errorf("read the version of the catalog: %w", err)
	}
	if known := s.catalog.Load(); known != nil && known.version == version {
		return nil
	}
	if _, err = s.reloadCatalog(ctx); err != nil {
		return err
	}
	return s.warnOfMissingGrants(ctx)
}

// prunePass prunes the scopes after position, as many as one pass looks at, and
// moves position on. Several instances may do so at once: each passes over a scope
// that another is at. A scope that fails keeps no other from its turn.
func (s *SyncService) prunePass(ctx context.Context, position *int64) error {
	scopes, err := s.queries.RetentionDue(ctx, s.pool, db.RetentionDueParams{
		MaxScopes: scopesPerPrunePass, RetainedBundles: s.config.RetainedBundlesPerUser, AfterUserPk: *position,
	})
	if err != nil {
		return fmt.Errorf("look for scopes to prune: %w", err)
	}
	*position = scopes.LastUserPk
	var failed []error
	for _, userPk := range scopes.Due {
		err := s.pruneScope(ctx, userPk)
		if ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil && len(failed) < maxPruneFailures {
			failed = append(failed, fmt.Errorf("prune scope %d: %w", userPk, err))
		}
	}
	return errors.Join(failed...)
}

// pruneScope prunes one scope in short transactions.
func (s *SyncService) pruneScope(ctx context.Context, userPk int64) error {
	for range pruneStepsPerScope {
		removed, err := s.queries.RetentionPruneScope(ctx, s.pool, db.RetentionPruneScopeParams{
			UserPk: userPk, RetainedBundles: s.config.RetainedBundlesPerUser, MaxBundles: s.config.RetentionPruneBatchSize,
		})
		if hasSQLState(err, pgerrcode.LockNotAvailable) {
			return nil // a long commit holds the scope; the next round comes back to it
		}
		if err != nil || removed == 0 {
			return err
		}
	}
	return nil
}

// sweep removes sessions that nobody will ask for any more.
func (s *SyncService) sweep(ctx context.Context) error {
	for {
		removed, err := s.queries.RetentionSweep(ctx, s.pool, db.RetentionSweepParams{Grace: sessionGrace, MaxSessions: sessionsPerSweep})
		if err != nil {
			return fmt.Errorf("sweep expired sessions: %w", err)
		}
		if removed < sessionsPerSweep {
			return nil
		}
	}
}

// adoptPending enters rows into the log that registration or a refresh left for
// later, batch by batch until there are none. One instance at a time does so; the
// others look again at their next turn. A table that fails keeps no other from its
// turn, but those that refer to it.
func (s *SyncService) adoptPending(ctx context.Context) error {
	rows := int32(rowsPerAdoption)
	if limit := s.config.MaxRowsPerBundle; limit > 0 {
		rows = int32(min(rowsPerAdoption, limit))
	}
	var passedOver []int32
	var failed []error
	for {
		tableID, err := s.queries.TableAdoptNext(ctx, s.pool, passedOver)
		if errors.Is(err, pgx.ErrNoRows) {
			return errors.Join(failed...)
		} else if err != nil {
			return errors.Join(append(failed, fmt.Errorf("look for rows to enter into the log: %w", err))...)
		}
		// The level is said for the reason of beginReadCommitted.
		err = pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
			_, err := s.queries.TableAdoptPending(ctx, tx, db.TableAdoptPendingParams{MaxRows: rows, TableID: tableID})
			return err
		})
		if errors.Is(err, pgx.ErrNoRows) {
			return errors.Join(failed...)
		} else if err != nil {
			passedOver = append(passedOver, tableID)
			failed = append(failed, fmt.Errorf("enter rows that were there before into the log: %w", err))
		}
	}
}
