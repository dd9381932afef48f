package oversync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/oversync/oversync/db"
)

// What a zero in ServiceConfig stands for.
const (
	defaultChunkRows              = 1000
	maxChunkRows                  = 5000
	defaultSessionTTL             = 15 * time.Minute
	defaultRetainedBundlesPerUser = 10_000
	defaultPruneBatchSize         = 1000
	defaultBundlesPerPull         = 1000
	maxBundlesPerPull             = 5000
)

// Lifecycles of a service, as GetStatus names them.
const (
	lifecycleRunning      = "running"
	lifecycleShuttingDown = "shutting_down"
	lifecycleClosed       = "closed"
)

// SyncService runs the operations of the sync protocol against one database. It
// keeps no state of its own that could not be lost at any time, so that any
// number of them can serve the same database. It is safe for concurrent use.
type SyncService struct {
	pool         *pgxpool.Pool
	queries      *db.Queries
	config       ServiceConfig
	logger       *slog.Logger
	catalog      atomic.Pointer[catalog]
	catalogReads scopeQueue // by reloadCatalogAside
	scopes       scopeQueue
	shares       *userShares
	heads        scopeHeads
	status       statusCache
	warnedOfHeld atomic.Pointer[time.Time] // by warnOfHeldConnection

	background background
	watch      *watchHub

	mu        sync.Mutex
	lifecycle string
	inFlight  int
	drained   chan struct{} // closed when the service is closing and nothing is in flight
}

// NewRuntimeService returns a service on an existing pool, which stays the
// caller's to close. It reads and writes nothing: call Bootstrap before serving,
// unless the tables are registered in SQL. A nil logger is slog.Default().
//
// It fails if the pool or the config is nil, or if a setting is negative, more than the
// database can take, or a default above its maximum.
func NewRuntimeService(pool *pgxpool.Pool, config *ServiceConfig, logger *slog.Logger) (*SyncService, error) {
	if pool == nil {
		return nil, errors.New("oversync: a connection pool is required")
	}
	if config == nil {
		return nil, errors.New("oversync: a config is required")
	}
	if err := config.validate(); err != nil {
		return nil, err
	}
	if logger == nil {
		logger = slog.Default()
	}
	return &SyncService{
		pool:      pool,
		queries:   db.New(),
		config:    config.withDefaults(),
		shares:    newUserShares(pool.Config().MaxConns),
		logger:    logger,
		watch:     newWatchHub(),
		lifecycle: lifecycleRunning,
		drained:   make(chan struct{}),
	}, nil
}

// validate refuses settings that cannot be meant.
func (c *ServiceConfig) validate() error {
	for name, value := range map[string]int64{
		"MaxSupportedSchemaVersion":          int64(c.MaxSupportedSchemaVersion),
		"MaxRowsPerBundle":                   int64(c.MaxRowsPerBundle),
		"MaxBytesPerBundle":                  int64(c.MaxBytesPerBundle),
		"DefaultRowsPerPushChunk":            int64(c.DefaultRowsPerPushChunk),
		"MaxRowsPerPushChunk":                int64(c.MaxRowsPerPushChunk),
		"PushSessionTTL":                     int64(c.PushSessionTTL),
		"InitializationLeaseTTL":             int64(c.InitializationLeaseTTL),
		"DefaultRowsPerCommittedBundleChunk": int64(c.DefaultRowsPerCommittedBundleChunk),
		"MaxRowsPerCommittedBundleChunk":     int64(c.MaxRowsPerCommittedBundleChunk),
		"DefaultRowsPerSnapshotChunk":        int64(c.DefaultRowsPerSnapshotChunk),
		"MaxRowsPerSnapshotChunk":            int64(c.MaxRowsPerSnapshotChunk),
		"SnapshotSessionTTL":                 int64(c.SnapshotSessionTTL),
		"MaxRowsPerSnapshotSession":          c.MaxRowsPerSnapshotSession,
		"MaxBytesPerSnapshotSession":         c.MaxBytesPerSnapshotSession,
		"RetainedBundlesPerUser":             c.RetainedBundlesPerUser,
		"RetentionPruneBatchSize":            c.RetentionPruneBatchSize,
		"UploadLockTimeout":                  int64(c.UploadLockTimeout),
	} {
		if value < 0 {
			return fmt.Errorf("oversync: %s is negative: set a positive value, or 0 for its default", name)
		}
	}
	// What the database cannot take would be refused at every push, or in the background.
	if c.UploadLockTimeout.Milliseconds() > math.MaxInt32 {
		return fmt.Errorf("oversync: UploadLockTimeout is %v: set at most %v, or 0 for no bound", c.UploadLockTimeout, math.MaxInt32*time.Millisecond)
	}
	if c.RetentionPruneBatchSize > math.MaxInt32 {
		return fmt.Errorf("oversync: RetentionPruneBatchSize is %d: set at most %d", c.RetentionPruneBatchSize, math.MaxInt32)
	}
	filled := c.withDefaults()
	for name, rows := range map[string][2]int{ // a client that does as it is told must not be refused, nor told more than it gets
		"RowsPerPushChunk":            {filled.DefaultRowsPerPushChunk, filled.MaxRowsPerPushChunk},
		"RowsPerCommittedBundleChunk": {filled.DefaultRowsPerCommittedBundleChunk, filled.MaxRowsPerCommittedBundleChunk},
		"RowsPerSnapshotChunk":        {filled.DefaultRowsPerSnapshotChunk, filled.MaxRowsPerSnapshotChunk},
	} {
		if rows[0] > rows[1] {
			return fmt.Errorf("oversync: Default%[1]s (%[2]d) is above Max%[1]s (%[3]d): lower the one or raise the other", name, rows[0], rows[1])
		}
	}
	for _, table := range c.RegisteredTables {
		if strings.TrimSpace(table.Table) == "" || len(table.SyncKeyColumns) > 1 {
			return &UnsupportedSchemaError{Message: fmt.Sprintf("registered table %q needs a name and at most one sync key column", Key(table.Schema, table.Table))}
		}
		// A quoted name would lose it, and be that of another table.
		if strings.Contains(table.Schema+table.Table+strings.Join(table.SyncKeyColumns, ""), "\x00") {
			return &UnsupportedSchemaError{Message: fmt.Sprintf("registered table %q has a character U+0000 in its name or key: take it out", Key(table.Schema, table.Table))}
		}
	}
	for child, parents := range c.DependencyOverrides {
		if strings.Contains(child+strings.Join(parents, ""), "\x00") {
			return &UnsupportedSchemaError{Message: fmt.Sprintf("the dependency override of %q has a character U+0000 in a name: take it out", child)}
		}
	}
	return nil
}

// withDefaults returns a copy of the config with its zeros filled in.
func (c *ServiceConfig) withDefaults() ServiceConfig {
	filled := *c
	filled.RegisteredTables = slices.Clone(c.RegisteredTables)
	for i, table := range filled.RegisteredTables {
		filled.RegisteredTables[i].SyncKeyColumns = slices.Clone(table.SyncKeyColumns)
	}
	filled.DependencyOverrides = maps.Clone(c.DependencyOverrides)
	for child, parents := range filled.DependencyOverrides {
		filled.DependencyOverrides[child] = slices.Clone(parents)
	}
	setDefault(&filled.MaxRowsPerPushChunk, maxChunkRows)
	setDefault(&filled.DefaultRowsPerPushChunk, min(defaultChunkRows, filled.MaxRowsPerPushChunk))
	setDefault(&filled.MaxRowsPerCommittedBundleChunk, maxChunkRows)
	setDefault(&filled.DefaultRowsPerCommittedBundleChunk, min(defaultChunkRows, filled.MaxRowsPerCommittedBundleChunk))
	setDefault(&filled.MaxRowsPerSnapshotChunk, maxChunkRows)
	setDefault(&filled.DefaultRowsPerSnapshotChunk, min(defaultChunkRows, filled.MaxRowsPerSnapshotChunk))
	setDefault(&filled.PushSessionTTL, defaultSessionTTL)
	setDefault(&filled.SnapshotSessionTTL, defaultSessionTTL)
	setDefault(&filled.InitializationLeaseTTL, defaultSessionTTL)
	setDefault(&filled.RetainedBundlesPerUser, defaultRetainedBundlesPerUser)
	setDefault(&filled.RetentionPruneBatchSize, defaultPruneBatchSize)
	return filled
}

func setDefault[T comparable](setting *T, value T) {
	var zero T
	if *setting == zero {
		*setting = value
	}
}

// Pool returns the pool that the service was made with.
func (s *SyncService) Pool() *pgxpool.Pool { return s.pool }

// GetSchemaVersion returns the application's schema version, as configured.
func (s *SyncService) GetSchemaVersion() int { return s.config.MaxSupportedSchemaVersion }

// IsClosing says that Close was called: operations fail with ServiceClosedError.
func (s *SyncService) IsClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lifecycle != lifecycleRunning
}

// begin counts an operation in. The caller must call the function it returns
// when the operation is over. It fails with ServiceClosedError once Close was
// called.
func (s *SyncService) begin() (func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lifecycle != lifecycleRunning {
		return nil, &ServiceClosedError{}
	}
	s.inFlight++
	return s.end, nil
}

func (s *SyncService) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight--
	s.closeWhenDrained()
}

// closeWhenDrained is called with mu held.
func (s *SyncService) closeWhenDrained() {
	if s.lifecycle == lifecycleShuttingDown && s.inFlight == 0 {
		s.lifecycle = lifecycleClosed
		close(s.drained)
	}
}

// Close refuses new operations, which fail with ServiceClosedError, ends watchers
// and the background work, and waits for that work and for the operations in
// flight. It may be called more than once. It does not close the pool. If ctx ends first, Close
// returns its error and the operations go on.
func (s *SyncService) Close(ctx context.Context) error {
	s.mu.Lock()
	if s.lifecycle == lifecycleRunning {
		s.lifecycle = lifecycleShuttingDown
		s.closeWhenDrained()
	}
	s.mu.Unlock()
	s.watch.close()
	stopped := s.background.stop(ctx)
	select {
	case <-s.drained:
		return stopped
	default: // an ended ctx is no reason to fail where there is nothing to wait for
	}
	select {
	case <-s.drained:
		return stopped
	case <-ctx.Done():
		return fmt.Errorf("operations are still in flight: %w", ctx.Err())
	}
}

// validate trims the actor as the transport does and refuses ids that cannot be
// stored.
func (a Actor) validate() (Actor, error) {
	a, err := a.validateUser()
	if err != nil {
		return a, err
	}
	a.SourceID, err = validateSource("source id", a.SourceID)
	return a, err
}

// validateUser is validate for operations that have no source.
func (a Actor) validateUser() (_ Actor, err error) {
	a.UserID, err = validateID("user id", a.UserID)
	return a, err
}

// parseSessionID reads a session id of ours. ok is false for what no session can
// have: the caller then answers that there is none.
func parseSessionID(id string) (_ uuid.UUID, ok bool) {
	parsed, err := uuid.Parse(id)
	return parsed, err == nil && len(id) == 36
}
