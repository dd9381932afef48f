package oversync

import "slices"

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
