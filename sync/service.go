package oversync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/oversync/oversync/db"
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
