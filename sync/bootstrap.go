package oversync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/oversync/oversync/db"
)

// Bootstrap registers the configured tables, all of them or none, reads the
// catalog, and starts the background work, which goes on until Close: it prunes
// history, removes expired sessions, follows changes of the catalog, and runs the
// listener of the watch. It needs the sync schema, which the migrations make.
// Tables that are registered already stay as they are, so it may run at every
// start, and in several processes at once.
//
// It fails with UnsupportedSchemaError, which names object and remedy, if a table
// cannot be synced.
func (s *SyncService) Bootstrap(ctx context.Context) error {
	end, err := s.begin()
	if err != nil {
		return err
	}
	defer end()
	if err := s.requireSchema(ctx); err != nil {
		return err
	}
	if len(s.config.RegisteredTables)+len(s.config.DependencyOverrides) > 0 {
		err := retry(ctx, func(int) error { return s.registerTables(ctx) })
		if err != nil {
			return bootstrapError(err)
		}
	}
	if _, err = s.reloadCatalog(ctx); err != nil {
		return err
	}
	if err := s.warnOfMissingGrants(ctx); err != nil {
		return err
	}
	s.startBackground()
	return nil
}

// warnOfMissingGrants says which tables the service's role cannot write: without it, the
// first to notice are the devices whose pushes fail.
func (s *SyncService) warnOfMissingGrants(ctx context.Context) error {
	grants, err := s.queries.ServerMissingGrants(ctx, s.pool)
	if err != nil {
		return fmt.Errorf("read what the role may do with the registered tables: %w", err)
	}
	for _, grant := range grants {
		s.logger.LogAttrs(ctx, slog.LevelWarn, "the role lacks privileges on a registered table: pushes of its rows will fail", slog.String("remedy", grant))
	}
	return nil
}

// requireSchema says what to do where the migrations have not run.
func (s *SyncService) requireSchema(ctx context.Context) error {
	_, err := s.queries.CatalogVersion(ctx, s.pool)
	if hasSQLState(err, pgerrcode.UndefinedTable) || hasSQLState(err, pgerrcode.InvalidSchemaName) {
		return &UnsupportedSchemaError{Message: "the database has no sync schema: run `oversync migrate up`, or goose with this project's migrations"}
	}
	return err
}

// registerTables is the transaction of Bootstrap.
func (s *SyncService) registerTables(ctx context.Context) error {
	return pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		for _, table := range s.config.RegisteredTables {
			params := db.CatalogRegisterParams{Relation: quotedName(Key(table.Schema, table.Table))}
			if len(table.SyncKeyColumns) == 1 {
				params.SyncKey = strings.ToLower(strings.TrimSpace(table.SyncKeyColumns[0]))
			}
			_, err := s.queries.CatalogRegister(ctx, tx, params)
			if hasSQLState(err, pgerrcode.UndefinedTable) || hasSQLState(err, pgerrcode.InvalidSchemaName) {
				return &UnsupportedSchemaError{Message: fmt.Sprintf("table %s does not exist: create it, or take it out of RegisteredTables", Key(table.Schema, table.Table))}
			} else if err != nil {
				return err
			}
		}
		changed := int64(0)
		var kept db.CatalogKeepOverridesParams
		for _, child := range slices.Sorted(maps.Keys(s.config.DependencyOverrides)) {
			for _, parent := range s.config.DependencyOverrides[child] {
				override := db.CatalogOverrideParams{Child: quotedName(foldedName(child)), Parent: quotedName(foldedName(parent))}
				added, err := s.queries.CatalogOverride(ctx, tx, override)
				if hasSQLState(err, pgerrcode.NotNullViolation) {
					return &UnsupportedSchemaError{Message: fmt.Sprintf("the dependency override %s after %s names a table that does not exist: create it or drop the override", child, parent)}
				} else if err != nil {
					return err
				}
				changed += added
				kept.Children, kept.Parents = append(kept.Children, override.Child), append(kept.Parents, override.Parent)
			}
		}
		for _, table := range s.config.RegisteredTables {
			kept.Tables = append(kept.Tables, quotedName(Key(table.Schema, table.Table)))
		}
		removed, err := s.queries.CatalogKeepOverrides(ctx, tx, kept)
		if err != nil {
			return err
		}
		if changed+removed > 0 {
			return s.queries.CatalogChanged(ctx, tx)
		}
		return nil
	})
}

// foldedName is Key for a name that is "schema.table" already, or a table alone.
func foldedName(name string) string {
	schema, table, qualified := strings.Cut(name, ".")
	if !qualified {
		schema, table = "", name
	}
	return Key(schema, table)
}

// quotedName is a table's name as SQL reads it. Only tables whose names are in
// lower case can be registered, so that folding loses nothing.
func quotedName(key string) string {
	schema, table, _ := strings.Cut(key, ".")
	return pgx.Identifier{schema, table}.Sanitize()
}

// bootstrapError turns what kept tables from being registered into
// UnsupportedSchemaError.
func bootstrapError(err error) error {
	if unsupported, ok := errors.AsType[*UnsupportedSchemaError](err); ok {
		return unsupported
	}
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return fmt.Errorf("register the configured tables: %w", err)
	}
	if pgErr.Code == pgerrcode.ReadOnlySQLTransaction {
		return fmt.Errorf("the tables cannot be registered in a read-only session: connect to the primary, with default_transaction_read_only = off: %w", err)
	}
	if pgErr.Code == pgerrcode.InsufficientPrivilege {
		return &UnsupportedSchemaError{Message: pgErr.Message + ": register the tables as their owner, with SELECT sync.register_table(…)"}
	}
	return typedError(err, Actor{}, "")
}

// IsTableRegistered says whether a table is registered, as far as the service
// knows: after Bootstrap, or once it served a request. An empty schema is public.
func (s *SyncService) IsTableRegistered(schemaName, tableName string) bool {
	known := s.catalog.Load()
	return known != nil && known.byName[Key(schemaName, tableName)] != nil
}

// GetCapabilities returns what the service offers and how it is limited.
func (s *SyncService) GetCapabilities() CapabilitiesResponse {
	resp := CapabilitiesResponse{
		ProtocolVersion: SyncProtocolVersion, SchemaVersion: s.config.MaxSupportedSchemaVersion, AppName: s.config.AppName,
		Features: s.features(),
		BundleLimits: &BundleCapabilitiesLimits{
			MaxRowsPerBundle:                   s.config.MaxRowsPerBundle,
			MaxBytesPerBundle:                  s.config.MaxBytesPerBundle,
			MaxBundlesPerPull:                  maxBundlesPerPull,
			DefaultRowsPerPushChunk:            s.config.DefaultRowsPerPushChunk,
			MaxRowsPerPushChunk:                s.config.MaxRowsPerPushChunk,
			PushSessionTTLSeconds:              int(s.config.PushSessionTTL.Seconds()),
			DefaultRowsPerCommittedBundleChunk: s.config.DefaultRowsPerCommittedBundleChunk,
			MaxRowsPerCommittedBundleChunk:     s.config.MaxRowsPerCommittedBundleChunk,
			DefaultRowsPerSnapshotChunk:        s.config.DefaultRowsPerSnapshotChunk,
			MaxRowsPerSnapshotChunk:            s.config.MaxRowsPerSnapshotChunk,
			SnapshotSessionTTLSeconds:          int(s.config.SnapshotSessionTTL.Seconds()),
			MaxRowsPerSnapshotSession:          s.config.MaxRowsPerSnapshotSession,
			MaxBytesPerSnapshotSession:         s.config.MaxBytesPerSnapshotSession,
			InitializationLeaseTTLSeconds:      int(s.config.InitializationLeaseTTL.Seconds()),
		},
	}
	if known := s.catalog.Load(); known != nil {
		resp.RegisteredTables = slices.Clone(known.names)
		for _, name := range known.names {
			table := known.byName[name]
			resp.RegisteredTableSpecs = append(resp.RegisteredTableSpecs, RegisteredTableSpec{
				Schema: table.schema, Table: table.table, SyncKeyColumns: []string{table.keyColumn},
			})
		}
	}
	return resp
}

// features are the parts of the protocol that this server has.
func (s *SyncService) features() map[string]bool {
	return map[string]bool{
		"bundle_pull": true, "bundle_push": true, "push_session_chunking": true, "committed_bundle_row_fetch": true,
		"snapshot_chunking": true, "status_endpoint": true, "graceful_shutdown": true, "capabilities_endpoint": true,
		"server_checkpoint_tracking": false, "history_pruned_errors": true, "structured_sync_keys": true,
		"registered_write_rejection_enforced": true, "accepted_push_replay_visibility": true,
		"committed_bundle_visibility": true, "retained_floor_visibility": true, "retained_window_visibility": true,
		"history_pruned_visibility": true, "connect_lifecycle": true, "scope_initialization_leases": true,
		"bundle_change_watch": s.config.BundleChangeWatch.Enabled,
	}
}

// GetStatus returns the service's lifecycle and what operators watch. It is
// unhealthy if a floor is ahead of its scope, or if SELECT * FROM sync.check()
// shows an error: a trigger that is missing or disabled, say. The cost does not go
// with the history. What it says of the set-up, and of the totals where there are
// 10,000 scopes or more, may be two seconds old.
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
	totals  db.StatusTotalsRow
	counted time.Time
}

const (
	// statusTimeout is shorter than what load balancers usually wait for.
	statusTimeout = 5 * time.Second
	// statusCacheTime is how long something may go unnoticed by the status.
	statusCacheTime = 2 * time.Second
	// maxFindingsLogged is how many findings are logged; sync.check has the others.
	maxFindingsLogged = 3
	// manyScopes take some milliseconds to add up. Fewer are added up each time.
	manyScopes = 10_000
)

// setupErrors returns how many errors sync.check finds.
func (s *SyncService) setupErrors(ctx context.Context) (int64, error) {
	leave, err := s.status.turns.enter(ctx, "errors")
	if err != nil {
		return 0, err
	}
	defer leave()
	if time.Since(s.status.checked) < statusCacheTime {
		return s.status.errors, nil
	}
	found, err := s.queries.StatusErrors(ctx, s.pool)
	if err == nil && (found > 0) != (s.status.errors > 0) {
		err = s.logSetup(ctx, found)
	}
	if err == nil {
		s.status.errors, s.status.checked = found, time.Now()
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
	findings, err := s.queries.TableCheck(ctx, s.pool)
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
