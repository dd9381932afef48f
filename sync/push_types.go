package oversync

import "encoding/json"

// PushSessionCreateRequest opens the push of one bundle of the calling source.
type PushSessionCreateRequest struct {
	// SourceBundleID is the source's own number of the bundle: 1, 2, 3 … without
	// gaps. Together with scope and source it makes a push safe to repeat.
	SourceBundleID int64 `json:"source_bundle_id"`
	// PlannedRowCount is how many rows all chunks together will bring.
	PlannedRowCount int64 `json:"planned_row_count"`
	// InitializationID is the one that connect gave, for the push that fills a
	// new scope, and empty otherwise.
	InitializationID string `json:"initialization_id,omitempty"`
}

// PushSessionCreateResponse is the opened session (Status staging, with the
// fields up to NextExpectedRowOrdinal), or the bundle that an earlier push of
// the same number has already become (Status already_committed, with the rest).
type PushSessionCreateResponse struct {
	PushID                 string `json:"push_id,omitempty"`
	Status                 string `json:"status"`
	PlannedRowCount        int64  `json:"planned_row_count,omitempty"`
	NextExpectedRowOrdinal int64  `json:"next_expected_row_ordinal,omitempty"`
	BundleSeq              int64  `json:"bundle_seq,omitempty"`
	SourceID               string `json:"source_id,omitempty"`
	SourceBundleID         int64  `json:"source_bundle_id,omitempty"`
	RowCount               int64  `json:"row_count,omitempty"`
	BundleHash             string `json:"bundle_hash,omitempty"`
}

// PushRequestRow is one change that a client wants to make.
type PushRequestRow struct {
	Schema string  `json:"schema"`
	Table  string  `json:"table"`
	Key    SyncKey `json:"key"`
	// Op is one of OpInsert, OpUpdate and OpDelete, in any case.
	Op string `json:"op"`
	// BaseRowVersion is the row version on which the change rests, and 0 for a
	// row that has never existed.
	BaseRowVersion int64 `json:"base_row_version"`
	// Payload holds column to value. It is nil or null for a DELETE.
	Payload json.RawMessage `json:"payload,omitempty"`
}

// PushSessionChunkRequest stages the next rows of a push session. Row ordinals
// count from 0, and chunks follow each other without gaps.
type PushSessionChunkRequest struct {
	StartRowOrdinal int64            `json:"start_row_ordinal"`
	Rows            []PushRequestRow `json:"rows"`
}

// PushSessionChunkResponse says where the next chunk has to start.
type PushSessionChunkResponse struct {
	PushID                 string `json:"push_id"`
	NextExpectedRowOrdinal int64  `json:"next_expected_row_ordinal"`
}

// PushSessionCommitResponse is the bundle that a push has become. RowCount
// counts the effects in the database, which may be more or fewer than the rows
// pushed.
type PushSessionCommitResponse struct {
	BundleSeq      int64  `json:"bundle_seq"`
	SourceID       string `json:"source_id"`
	SourceBundleID int64  `json:"source_bundle_id"`
	RowCount       int64  `json:"row_count"`
	BundleHash     string `json:"bundle_hash"`
}

// PushConflictDetails says which pushed row did not fit the row on the server,
// and what the server holds. It is about the first such row in push order.
type PushConflictDetails struct {
	Schema         string  `json:"schema"`
	Table          string  `json:"table"`
	Key            SyncKey `json:"key"`
	Op             string  `json:"op"`
	BaseRowVersion int64   `json:"base_row_version"`
	// ServerRowVersion is 0 if the row has never existed.
	ServerRowVersion int64 `json:"server_row_version"`
	// ServerRowDeleted tells a deleted row from one that never was.
	ServerRowDeleted bool `json:"server_row_deleted"`
	// ServerRow is the live row as a payload, and nil (null on the wire) if there
	// is none.
	ServerRow json.RawMessage `json:"server_row"`
}

// PushConflictResponse is the body of a push_conflict.
type PushConflictResponse struct {
	Error    string               `json:"error"`
	Message  string               `json:"message"`
	Conflict *PushConflictDetails `json:"conflict,omitempty"`
}

// PushRejection says what in the database refused pushed rows. Only SQLState is
// always known. The other fields are what PostgreSQL named.
type PushRejection struct {
	// SQLState is PostgreSQL's five-character error code, such as 23505.
	SQLState   string  `json:"sqlstate"`
	Schema     string  `json:"schema,omitempty"`
	Table      string  `json:"table,omitempty"`
	Column     string  `json:"column,omitempty"`
	Constraint string  `json:"constraint,omitempty"`
	Key        SyncKey `json:"key,omitempty"`
}

// PushRejectedResponse is the body of a push_rejected: the rows themselves are
// at fault, so a client must not send them again unchanged.
type PushRejectedResponse struct {
	Error     string        `json:"error"`
	Message   string        `json:"message"`
	Rejection PushRejection `json:"rejection"`
}
