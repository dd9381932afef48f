package main

import (
	"fmt"
	"strings"
	"time"

	oversync "github.com/oversync/oversync/sync"
)

// serviceFlags are the settings of the sync service, which checks them.
type serviceFlags struct {
	AppName       string `group:"service" default:"oversync" env:"OVERSYNC_APP_NAME" help:"Name of the application, told to clients and shown in pg_stat_activity."`
	SchemaVersion int    `group:"service" default:"0" env:"OVERSYNC_SCHEMA_VERSION" help:"The application's own schema version, told to clients."`

	MaxRowsPerBundle  int `group:"service" default:"0" env:"OVERSYNC_MAX_ROWS_PER_BUNDLE" help:"Most row effects in one bundle; 0 is no limit."`
	MaxBytesPerBundle int `group:"service" default:"0" env:"OVERSYNC_MAX_BYTES_PER_BUNDLE" help:"Most bytes of canonical JSON in one bundle; 0 is no limit."`

	DefaultRowsPerPushChunk int           `group:"service" default:"0" env:"OVERSYNC_DEFAULT_ROWS_PER_PUSH_CHUNK" help:"Rows that clients are told to push at a time; 0 is 1000, or the maximum if that is less."`
	MaxRowsPerPushChunk     int           `group:"service" positive:"" default:"5000" env:"OVERSYNC_MAX_ROWS_PER_PUSH_CHUNK" help:"Most rows in one pushed chunk."`
	PushSessionTTL          time.Duration `name:"push-session-ttl" group:"service" positive:"" default:"15m" env:"OVERSYNC_PUSH_SESSION_TTL" help:"Life of a push session after its last chunk."`
	InitializationLeaseTTL  time.Duration `name:"initialization-lease-ttl" group:"service" positive:"" default:"15m" env:"OVERSYNC_INITIALIZATION_LEASE_TTL" help:"Time that a source has between two steps of the first push of a scope."`

	DefaultRowsPerCommittedBundleChunk int `group:"service" default:"0" env:"OVERSYNC_DEFAULT_ROWS_PER_COMMITTED_BUNDLE_CHUNK" help:"Rows of a committed bundle sent at a time when the client names no number; 0 is 1000, or the maximum if that is less."`
	MaxRowsPerCommittedBundleChunk     int `group:"service" positive:"" default:"5000" env:"OVERSYNC_MAX_ROWS_PER_COMMITTED_BUNDLE_CHUNK" help:"Most rows of a committed bundle sent at a time."`

	DefaultRowsPerSnapshotChunk int           `group:"service" default:"0" env:"OVERSYNC_DEFAULT_ROWS_PER_SNAPSHOT_CHUNK" help:"Rows of a snapshot sent at a time when the client names no number; 0 is 1000, or the maximum if that is less."`
	MaxRowsPerSnapshotChunk     int           `group:"service" positive:"" default:"5000" env:"OVERSYNC_MAX_ROWS_PER_SNAPSHOT_CHUNK" help:"Most rows of a snapshot sent at a time."`
	SnapshotSessionTTL          time.Duration `name:"snapshot-session-ttl" group:"service" positive:"" default:"15m" env:"OVERSYNC_SNAPSHOT_SESSION_TTL" help:"Life of a snapshot."`
	MaxRowsPerSnapshotSession   int64         `group:"service" default:"0" env:"OVERSYNC_MAX_ROWS_PER_SNAPSHOT_SESSION" help:"Most rows of a snapshot; 0 is no limit."`
	MaxBytesPerSnapshotSession  int64         `group:"service" default:"0" env:"OVERSYNC_MAX_BYTES_PER_SNAPSHOT_SESSION" help:"Most bytes of a snapshot's payloads; 0 is no limit."`

	RetainedBundlesPerUser  int64 `group:"service" positive:"" default:"10000" env:"OVERSYNC_RETAINED_BUNDLES_PER_USER" help:"Newest bundles of a scope that can be pulled; a client further behind rebuilds from a snapshot."`
	RetentionPruneBatchSize int64 `group:"service" positive:"" default:"1000" env:"OVERSYNC_RETENTION_PRUNE_BATCH_SIZE" help:"Bundles that one step of pruning removes."`

	Watch onOff `group:"service" default:"on" env:"OVERSYNC_WATCH" help:"Tell clients of new bundles at once, through GET /sync/watch: on or off."`

	UploadLockTimeout time.Duration `group:"service" default:"0s" env:"OVERSYNC_UPLOAD_LOCK_TIMEOUT" help:"Longest wait for a lock while a push is applied; 0s leaves it to the request; with a table under capture it is six waits of 150 ms."`
	LogStageTimings   bool          `group:"service" env:"OVERSYNC_LOG_STAGE_TIMINGS" help:"Log the time of each stage of each operation, at level debug."`
}

func (f serviceFlags) config() *oversync.ServiceConfig {
	return &oversync.ServiceConfig{
		MaxSupportedSchemaVersion:          f.SchemaVersion,
		AppName:                            f.AppName,
		MaxRowsPerBundle:                   f.MaxRowsPerBundle,
		MaxBytesPerBundle:                  f.MaxBytesPerBundle,
		DefaultRowsPerPushChunk:            f.DefaultRowsPerPushChunk,
		MaxRowsPerPushChunk:                f.MaxRowsPerPushChunk,
		PushSessionTTL:                     f.PushSessionTTL,
		InitializationLeaseTTL:             f.InitializationLeaseTTL,
		DefaultRowsPerCommittedBundleChunk: f.DefaultRowsPerCommittedBundleChunk,
		MaxRowsPerCommittedBundleChunk:     f.MaxRowsPerCommittedBundleChunk,
		DefaultRowsPerSnapshotChunk:        f.DefaultRowsPerSnapshotChunk,
		MaxRowsPerSnapshotChunk:            f.MaxRowsPerSnapshotChunk,
		SnapshotSessionTTL:                 f.SnapshotSessionTTL,
		MaxRowsPerSnapshotSession:          f.MaxRowsPerSnapshotSession,
		MaxBytesPerSnapshotSession:         f.MaxBytesPerSnapshotSession,
		RetainedBundlesPerUser:             f.RetainedBundlesPerUser,
		RetentionPruneBatchSize:            f.RetentionPruneBatchSize,
		BundleChangeWatch:                  oversync.BundleChangeWatchConfig{Enabled: f.Watch == "on"},
		UploadLockTimeout:                  f.UploadLockTimeout,
		LogStageTimings:                    f.LogStageTimings,
	}
}

// onOff is a switch that is on by default, so that it has to have a word for off. It is
// text, since help shows a bool as a flag without a value.
type onOff string

// UnmarshalText reads on and off, and what programs write for them.
func (o *onOff) UnmarshalText(text []byte) error {
	switch strings.ToLower(string(text)) {
	case "on", "true", "yes", "1":
		*o = "on"
	case "off", "false", "no", "0":
		*o = "off"
	default:
		return fmt.Errorf("%q is neither on nor off", text)
	}
	return nil
}
