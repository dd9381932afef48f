package oversync

import (
	"fmt"
	"time"
)

// Every refusal that a caller can act on has a type of its own, beside its
// operation or here, so that errors.As finds it. The types that carry only a Message differ in what
// was refused: Message says why. Each Error() sentence ends in what to do next.

// messageOr returns message, or fallback if an error was made without one.
func messageOr(message, fallback string) string {
	if message == "" {
		return fallback
	}
	return message
}

// ConnectInvalidError refuses a connect request that cannot be judged.
type ConnectInvalidError struct {
	Message string
}

func (e *ConnectInvalidError) Error() string {
	return messageOr(e.Message, "the connect request is not valid: correct it and send it again")
}

// ScopeUninitializedError refuses to read or push in a scope that no source has
// started yet.
type ScopeUninitializedError struct {
	UserID string
}

func (e *ScopeUninitializedError) Error() string {
	return fmt.Sprintf("scope %q is not initialized: call connect first", e.UserID)
}

// ScopeInitializingError refuses an operation while another source holds the
// lease to fill the scope.
type ScopeInitializingError struct {
	UserID string
	// LeaseExpiresAt is when the lease ends at the latest.
	LeaseExpiresAt time.Time
}

func (e *ScopeInitializingError) Error() string {
	if e.LeaseExpiresAt.IsZero() {
		return fmt.Sprintf("scope %q is being initialized by another source: connect again later", e.UserID)
	}
	return fmt.Sprintf("scope %q is being initialized by another source until %s: connect again then or earlier",
		e.UserID, e.LeaseExpiresAt.UTC().Format(time.RFC3339Nano))
}

// InitializationStaleError refuses an initialization id that is not the one of
// the current lease.
type InitializationStaleError struct {
	Message string
}

func (e *InitializationStaleError) Error() string {
	return messageOr(e.Message, "the initialization id is not the current one: connect again")
}

// InitializationExpiredError refuses an initialization id whose lease has run
// out.
type InitializationExpiredError struct {
	Message string
}

func (e *InitializationExpiredError) Error() string {
	return messageOr(e.Message, "the initialization lease has expired: connect again")
}

// HistoryPrunedError says that the history asked for is no longer, or not yet,
// there: the position is at or below the retained floor, or above the newest
// bundle.
type HistoryPrunedError struct {
	UserID string
	// ProvidedSeq is the bundle sequence asked for, RetainedFloor the highest one
	// that is no longer served.
	ProvidedSeq   int64
	RetainedFloor int64
}

func (e *HistoryPrunedError) Error() string {
	return fmt.Sprintf("history of scope %q cannot be served from bundle %d (retained floor %d): rebuild from a snapshot",
		e.UserID, e.ProvidedSeq, e.RetainedFloor)
}

// Is matches every HistoryPrunedError, whatever its fields.
func (e *HistoryPrunedError) Is(target error) bool {
	_, ok := target.(*HistoryPrunedError)
	return ok
}

// UnsupportedSchemaError refuses, when the service starts, tables that cannot be
// synced as they are. Message says which, why, and how to mend them.
type UnsupportedSchemaError struct {
	Message string
}

func (e *UnsupportedSchemaError) Error() string {
	return "unsupported schema: " + messageOr(e.Message, "a registered table cannot be synced as it is: see sync.check()")
}

// Is matches every UnsupportedSchemaError, whatever its message.
func (e *UnsupportedSchemaError) Is(target error) bool {
	_, ok := target.(*UnsupportedSchemaError)
	return ok
}

// ServiceClosedError refuses an operation because the service is shutting down.
// Another instance, or this one after its restart, may accept it.
type ServiceClosedError struct{}

func (e *ServiceClosedError) Error() string {
	return "the sync service is shutting down: try again later"
}

// ScopeWriteInvalidError refuses a server-side write that is not well formed, or
// larger than a bundle may be.
type ScopeWriteInvalidError struct {
	Message string
}

func (e *ScopeWriteInvalidError) Error() string {
	return messageOr(e.Message, "the scope write is not valid: name a scope, a writer and a function")
}

// ScopeWriteNoCapturedChangesError says that a server-side write changed no
// registered row. It was rolled back.
type ScopeWriteNoCapturedChangesError struct {
	ScopeID  string
	WriterID string
}

func (e *ScopeWriteNoCapturedChangesError) Error() string {
	return fmt.Sprintf("the write of %q into scope %q changed no row of a registered table and was rolled back: "+
		"write to a registered table, or use a plain transaction", e.WriterID, e.ScopeID)
}

// CommittedBundleChunkInvalidError refuses a position or size in a request for
// the rows of a bundle.
type CommittedBundleChunkInvalidError struct {
	Message string
}

func (e *CommittedBundleChunkInvalidError) Error() string {
	return messageOr(e.Message, "the request for bundle rows is not valid: correct its numbers")
}

// CommittedBundleNotFoundError says that the scope has no bundle of this number.
type CommittedBundleNotFoundError struct {
	BundleSeq int64
}

func (e *CommittedBundleNotFoundError) Error() string {
	return fmt.Sprintf("there is no committed bundle %d in this scope: pull to see which there are", e.BundleSeq)
}
