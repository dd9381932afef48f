package oversync

import (
	"encoding/json"
	"strings"
)

// The operations a row effect can have, as they are sent on the wire. A pushed
// row may spell them in any case.
const (
	OpInsert = "INSERT"
	OpUpdate = "UPDATE"
	OpDelete = "DELETE"
)

// SourceIDHeader is the HTTP header in which a client names its source, that
// is, the writer inside the user's scope (usually one device).
const SourceIDHeader = "Oversync-Source-ID"

// SyncProtocolVersion is the generation of the wire protocol that this package
// speaks. It is what CapabilitiesResponse.ProtocolVersion says.
const SyncProtocolVersion = "v1"

// defaultSchema is the schema of a table that is named without one.
const defaultSchema = "public"

// SyncKey names one row of a table: key column to value. On the wire both are
// strings and there is exactly one column. A uuid is lower case with dashes, a
// text key is kept as it is.
type SyncKey map[string]any

// Key returns the name under which a table is registered, "schema.table" in
// lower case. White space around either part is ignored, and an empty schema
// means public.
func Key(schema, table string) string {
	schema = strings.ToLower(strings.TrimSpace(schema))
	if schema == "" {
		schema = defaultSchema
	}
	return schema + "." + strings.ToLower(strings.TrimSpace(table))
}

// ErrorResponse is the body of every failed request that has nothing to add to
// its code. Error is the code for programs, Message the sentence for people.
type ErrorResponse struct {
	Error   string `json:"error"`
	Message string `json:"message"`
}

// ConnectRequest is what a source says when it asks how to start in a scope.
type ConnectRequest struct {
	// HasLocalPendingRows says that the source holds rows that it has not yet
	// pushed. Only such a source can be asked to fill a new scope.
	HasLocalPendingRows bool `json:"has_local_pending_rows"`
}

// ConnectResponse tells a source how to start: remote_authoritative,
// initialize_local, initialize_empty or retry_later.
type ConnectResponse struct {
	Resolution string `json:"resolution"`
	// InitializationID is set for initialize_local. It goes into the push that
	// fills the scope.
	InitializationID string `json:"initialization_id,omitempty"`
	// LeaseExpiresAt is when the right to fill the scope ends, RFC 3339 in UTC.
	LeaseExpiresAt string `json:"lease_expires_at,omitempty"`
	// RetryAfterSec is in seconds, at least 1, and set for retry_later alone.
	RetryAfterSec int `json:"retry_after_seconds,omitempty"`
}

// BundleRow is one effect of a bundle: what became of one row.
type BundleRow struct {
	Schema string  `json:"schema"`
	Table  string  `json:"table"`
	Key    SyncKey `json:"key"`
	// Op is one of OpInsert, OpUpdate and OpDelete.
	Op string `json:"op"`
	// RowVersion is the bundle sequence that last changed the row.
	RowVersion int64 `json:"row_version"`
	// Payload is the whole row after the change, and nil for a DELETE.
	Payload json.RawMessage `json:"payload,omitempty"`
}

// Bundle is everything that one committed transaction did to the rows of one
// scope. A client applies it whole or not at all.
type Bundle struct {
	// BundleSeq counts the bundles of the scope from 1 in commit order, without
	// gaps.
	BundleSeq int64 `json:"bundle_seq"`
	// SourceID and SourceBundleID say who wrote the bundle and which of the
	// writer's bundles it is.
	SourceID       string `json:"source_id"`
	SourceBundleID int64  `json:"source_bundle_id"`
	RowCount       int64  `json:"row_count,omitempty"`
	// BundleHash is the SHA-256 of the canonical JSON of the rows, in lower-case
	// hex.
	BundleHash string      `json:"bundle_hash,omitempty"`
	Rows       []BundleRow `json:"rows"`
}

// BundleSource says whose bundle a server-side transaction is. SourceBundleID
// must be the next one of that source, starting at 1. A writer needs a SourceID that no
// device has: else it takes the number of the device's next push, which then counts as
// committed though its rows are not.
type BundleSource struct {
	SourceID       string
	SourceBundleID int64
}

// CommittedBundleRowsResponse is one chunk of the rows of a committed bundle.
type CommittedBundleRowsResponse struct {
	BundleSeq      int64       `json:"bundle_seq"`
	SourceID       string      `json:"source_id"`
	SourceBundleID int64       `json:"source_bundle_id"`
	RowCount       int64       `json:"row_count"`
	BundleHash     string      `json:"bundle_hash"`
	Rows           []BundleRow `json:"rows"`
	// NextRowOrdinal is the ordinal, counted from 0, of the last row in Rows, or
	// the one asked for if there is none. Send it as after_row_ordinal.
	NextRowOrdinal int64 `json:"next_row_ordinal"`
	HasMore        bool  `json:"has_more"`
}

// PullResponse holds whole bundles in order.
type PullResponse struct {
	// StableBundleSeq is the sequence at which this pull stops. Send it as
	// target_bundle_seq until HasMore is false.
	StableBundleSeq int64 `json:"stable_bundle_seq"`
	// Bundles is never nil in an answer: no bundles are an empty array.
	Bundles []Bundle `json:"bundles"`
	HasMore bool     `json:"has_more"`
}

// SnapshotSourceReplacement asks that a snapshot also retires the caller's
// source in favour of a new one. Reason is history_pruned,
// source_sequence_out_of_order, source_sequence_changed or source_retired.
type SnapshotSourceReplacement struct {
	PreviousSourceID string `json:"previous_source_id"`
	NewSourceID      string `json:"new_source_id"`
	Reason           string `json:"reason"`
}

// SnapshotSessionCreateRequest is the optional body of a request for a snapshot.
type SnapshotSessionCreateRequest struct {
	SourceReplacement *SnapshotSourceReplacement `json:"source_replacement,omitempty"`
}

// SnapshotSession is a scope frozen at one bundle sequence until ExpiresAt.
type SnapshotSession struct {
	SnapshotID        string `json:"snapshot_id"`
	SnapshotBundleSeq int64  `json:"snapshot_bundle_seq"`
	RowCount          int64  `json:"row_count"`
	// ByteCount is the size of the payloads, if it is known.
	ByteCount int64 `json:"byte_count,omitempty"`
	// ExpiresAt is RFC 3339 in UTC.
	ExpiresAt string `json:"expires_at"`
}

// SnapshotRow is one row that is live in a snapshot.
type SnapshotRow struct {
	Schema     string          `json:"schema"`
	Table      string          `json:"table"`
	Key        SyncKey         `json:"key"`
	RowVersion int64           `json:"row_version"`
	Payload    json.RawMessage `json:"payload"`
}

// SnapshotChunkResponse is one chunk of the rows of a snapshot.
type SnapshotChunkResponse struct {
	SnapshotID        string        `json:"snapshot_id"`
	SnapshotBundleSeq int64         `json:"snapshot_bundle_seq"`
	Rows              []SnapshotRow `json:"rows"`
	// NextRowOrdinal is the ordinal asked for plus the number of rows in Rows.
	// Snapshot ordinals count from 1, so the first request asks for 0.
	NextRowOrdinal int64 `json:"next_row_ordinal"`
	HasMore        bool  `json:"has_more"`
}

// SnapshotLimitExceededResponse is the body of a refused snapshot that would be
// larger than the server allows.
type SnapshotLimitExceededResponse struct {
	Error   string `json:"error"`
	Message string `json:"message"`
	// Dimension is what was measured: rows or bytes.
	Dimension string `json:"dimension"`
	Actual    int64  `json:"actual"`
	Limit     int64  `json:"limit"`
}

// SourceRetiredResponse is the body for a source that may no longer write.
type SourceRetiredResponse struct {
	Error    string `json:"error"`
	Message  string `json:"message"`
	SourceID string `json:"source_id"`
	// ReplacedBySourceID is the source that took its place, if one is on record.
	ReplacedBySourceID string `json:"replaced_by_source_id,omitempty"`
}
