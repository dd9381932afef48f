package oversync

// RegisteredTableSpec tells clients of one synced table and its key column.
type RegisteredTableSpec struct {
	Schema         string   `json:"schema"`
	Table          string   `json:"table"`
	SyncKeyColumns []string `json:"sync_key_columns,omitempty"`
}

// BundleCapabilitiesLimits tells clients the server's limits. Absent fields have
// no limit. Fields that end in Seconds are in seconds.
type BundleCapabilitiesLimits struct {
	MaxRowsPerBundle                   int   `json:"max_rows_per_bundle,omitempty"`
	MaxBytesPerBundle                  int   `json:"max_bytes_per_bundle,omitempty"`
	MaxBundlesPerPull                  int   `json:"max_bundles_per_pull,omitempty"`
	DefaultRowsPerPushChunk            int   `json:"default_rows_per_push_chunk,omitempty"`
	MaxRowsPerPushChunk                int   `json:"max_rows_per_push_chunk,omitempty"`
	PushSessionTTLSeconds              int   `json:"push_session_ttl_seconds,omitempty"`
	DefaultRowsPerCommittedBundleChunk int   `json:"default_rows_per_committed_bundle_chunk,omitempty"`
	MaxRowsPerCommittedBundleChunk     int   `json:"max_rows_per_committed_bundle_chunk,omitempty"`
	DefaultRowsPerSnapshotChunk        int   `json:"default_rows_per_snapshot_chunk,omitempty"`
	MaxRowsPerSnapshotChunk            int   `json:"max_rows_per_snapshot_chunk,omitempty"`
	SnapshotSessionTTLSeconds          int   `json:"snapshot_session_ttl_seconds,omitempty"`
	MaxRowsPerSnapshotSession          int64 `json:"max_rows_per_snapshot_session,omitempty"`
	MaxBytesPerSnapshotSession         int64 `json:"max_bytes_per_snapshot_session,omitempty"`
	InitializationLeaseTTLSeconds      int   `json:"initialization_lease_ttl_seconds,omitempty"`
}

// CapabilitiesResponse tells a client what it can ask of this server.
type CapabilitiesResponse struct {
	// ProtocolVersion is SyncProtocolVersion.
	ProtocolVersion string `json:"protocol_version"`
	// SchemaVersion is ServiceConfig.MaxSupportedSchemaVersion.
	SchemaVersion int    `json:"schema_version"`
	AppName       string `json:"app_name,omitempty"`
	// RegisteredTables are "schema.table" names in order.
	RegisteredTables     []string              `json:"registered_tables,omitempty"`
	RegisteredTableSpecs []RegisteredTableSpec `json:"registered_table_specs,omitempty"`
	// Features says of each feature that the server knows whether it is on.
	Features     map[string]bool           `json:"features"`
	BundleLimits *BundleCapabilitiesLimits `json:"bundle_limits,omitempty"`
}

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
