package oversync

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// RegisteredTable names one table that takes part in sync. Case does not count.
type RegisteredTable struct {
	// Schema is the table's schema. Empty means public.
	Schema string `json:"schema"`
	Table  string `json:"table"`
	// SyncKeyColumns holds the one column that identifies a row inside its scope.
	// If it is empty, the service takes the key column beside the scope column.
	SyncKeyColumns []string `json:"sync_key_columns,omitempty"`
}

// ServiceConfig sets up a SyncService. A limit or duration that is zero takes
// its default, if it has one.
type ServiceConfig struct {
	// MaxSupportedSchemaVersion is the application's own schema version. Clients
	// read it from the capabilities.
	MaxSupportedSchemaVersion int
	// AppName names the application in the capabilities and in the status. The
	// pool is the caller's: for the same name in pg_stat_activity, set its
	// application_name, as the binary does.
	AppName string
	// RegisteredTables are the tables that may be synced. At least one is needed,
	// unless the tables were registered in SQL.
	RegisteredTables []RegisteredTable

	// MaxRowsPerBundle and MaxBytesPerBundle bound one bundle by its row effects
	// and by the bytes of its canonical JSON. Zero is no bound.
	MaxRowsPerBundle  int
	MaxBytesPerBundle int

	// DefaultRowsPerPushChunk is what clients are told to send at a time (1000),
	// MaxRowsPerPushChunk what is accepted (5000).
	DefaultRowsPerPushChunk int
	MaxRowsPerPushChunk     int
	// PushSessionTTL is how long a session lives after its last chunk (15 min).
	PushSessionTTL time.Duration
	// InitializationLeaseTTL is how long a source may take between two steps of
	// the push that fills a new scope (15 min), 2^31-1 s at most.
	InitializationLeaseTTL time.Duration

	// DefaultRowsPerCommittedBundleChunk (1000) applies if a request for the rows
	// of a bundle names no size, MaxRowsPerCommittedBundleChunk (5000) if it names
	// a larger one.
	DefaultRowsPerCommittedBundleChunk int
	MaxRowsPerCommittedBundleChunk     int

	// DefaultRowsPerSnapshotChunk (1000) and MaxRowsPerSnapshotChunk (5000) are the
	// same for the rows of a snapshot.
	DefaultRowsPerSnapshotChunk int
	MaxRowsPerSnapshotChunk     int
	// SnapshotSessionTTL is how long a snapshot can be read (15 min). History that
	// it needs is kept as long.
	SnapshotSessionTTL time.Duration
	// MaxRowsPerSnapshotSession and MaxBytesPerSnapshotSession bound one snapshot.
	// Zero is no bound.
	MaxRowsPerSnapshotSession  int64
	MaxBytesPerSnapshotSession int64

	// RetainedBundlesPerUser is how many of the newest bundles of a scope can be
	// pulled (10,000). Clients that are further behind rebuild from a snapshot.
	RetainedBundlesPerUser int64
	// RetentionPruneBatchSize is how many bundles one step of pruning removes
	// (1000).
	RetentionPruneBatchSize int64

	// UploadLockTimeout bounds each wait for a lock in a transaction that applies a
	// push, to 2^31-1 ms at most. With zero, only the request's context bounds it. Where a
	// registered table has the policy capture, a wait for a row ends after 150 ms, and the
	// push starts over, six times in all.
	UploadLockTimeout time.Duration

	// BundleChangeWatch sets up the watch. It is off by default.
	BundleChangeWatch BundleChangeWatchConfig

	// DependencyOverrides adds to the order of the tables: each key, a
	// "schema.table", comes after the tables in its value. Use it for dependencies
	// that no foreign key declares. It checks nothing and changes no foreign key.
	// An override of a table in RegisteredTables ends at the next Bootstrap once it is
	// taken out; one of another table stays in sync.table_order_overrides.
	DependencyOverrides map[string][]string

	// StageMetrics receives the time that each stage of an operation took. It is
	// called in the operation's own goroutine, by many at once, and must be quick.
	// Nil records nothing.
	StageMetrics StageMetricsRecorder
	// LogStageTimings writes the same timings to the service's logger at level
	// debug. It is meant for a search for slow stages, not for every day.
	LogStageTimings bool
}

// StageTiming is the time that one stage of one operation took.
type StageTiming struct {
	// Operation is the exported verb, Stage the part of it.
	Operation string
	Stage     string
	Duration  time.Duration
	// Count is how many things the stage handled, usually rows.
	Count int
	// Attempt counts from 1 and grows when a transaction is tried again.
	Attempt int
	// Error says that the stage failed.
	Error bool
}

// StageMetricsRecorder receives stage timings. It must be safe for concurrent
// use, and must not block.
type StageMetricsRecorder interface {
	ObserveStage(ctx context.Context, timing StageTiming)
}

// StageMetricsRecorderFunc is a function that is a StageMetricsRecorder.
type StageMetricsRecorderFunc func(ctx context.Context, timing StageTiming)

// ObserveStage calls f. A nil f ignores the timing.
func (f StageMetricsRecorderFunc) ObserveStage(ctx context.Context, timing StageTiming) {
	if f != nil {
		f(ctx, timing)
	}
}

// ScopeManagerConfig sets up a ScopeManager.
type ScopeManagerConfig struct {
	// Logger takes the manager's log lines. Nil is slog.Default().
	Logger *slog.Logger
}

// ScopeWriteOptions says on whose behalf the server writes into a scope.
type ScopeWriteOptions struct {
	// WriterID becomes the source id of the bundle. One writer keeps one id, so
	// that its bundles form one sequence. It must not be blank, nor the source id of a
	// device: the write takes the number of that device's next push, which then counts
	// as committed though its rows are not.
	WriterID string
}

// ScopeWriteResult says what a server-side write has become.
type ScopeWriteResult struct {
	// AutoInitialized says that the scope was not initialised before this write.
	AutoInitialized bool
	// Bundle is the bundle that was committed.
	Bundle *Bundle
}

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
	// What the database cannot take would be refused at every push or connect, or in the background.
	if c.UploadLockTimeout.Milliseconds() > math.MaxInt32 {
		return fmt.Errorf("oversync: UploadLockTimeout is %v: set at most %v, or 0 for no bound", c.UploadLockTimeout, math.MaxInt32*time.Millisecond)
	}
	if limit := math.MaxInt32 * time.Second; c.InitializationLeaseTTL > limit {
		return fmt.Errorf("oversync: InitializationLeaseTTL is %v: set at most %v", c.InitializationLeaseTTL, limit)
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
