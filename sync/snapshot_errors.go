package oversync

import "fmt"

// SnapshotSessionInvalidError refuses a request for a snapshot that is not well
// formed.
type SnapshotSessionInvalidError struct {
	Message string
}

func (e *SnapshotSessionInvalidError) Error() string {
	return messageOr(e.Message, "the snapshot request is not valid: correct it and send it again")
}

// SnapshotSessionNotFoundError says that there is no such snapshot, or no longer.
type SnapshotSessionNotFoundError struct {
	SnapshotID string
}

func (e *SnapshotSessionNotFoundError) Error() string {
	return fmt.Sprintf("there is no snapshot %q: create a new one", shorten(e.SnapshotID))
}

// SnapshotSessionForbiddenError refuses the snapshot of another user.
type SnapshotSessionForbiddenError struct {
	SnapshotID string
}

func (e *SnapshotSessionForbiddenError) Error() string {
	return fmt.Sprintf("snapshot %q belongs to someone else: create one of your own", e.SnapshotID)
}

// SnapshotSessionExpiredError says that the snapshot can no longer be read.
type SnapshotSessionExpiredError struct {
	SnapshotID string
}

func (e *SnapshotSessionExpiredError) Error() string {
	return fmt.Sprintf("snapshot %q has expired: create a new one and read it from the start", e.SnapshotID)
}

// SnapshotSessionLimitExceededError refuses a snapshot that is larger than the
// server allows.
type SnapshotSessionLimitExceededError struct {
	// Dimension is what was measured: rows or bytes.
	Dimension string
	Actual    int64
	Limit     int64
}

func (e *SnapshotSessionLimitExceededError) Error() string {
	return fmt.Sprintf("the snapshot would have %d %s, more than the limit of %d: ask the operator to raise the limit",
		e.Actual, e.Dimension, e.Limit)
}

// SnapshotChunkInvalidError refuses a position or size in a request for the rows
// of a snapshot.
type SnapshotChunkInvalidError struct {
	Message string
}

func (e *SnapshotChunkInvalidError) Error() string {
	return messageOr(e.Message, "the request for snapshot rows is not valid: correct its numbers")
}
