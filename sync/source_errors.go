package oversync

import "fmt"

// SourceRetiredError refuses writes of a source that another has replaced. The
// source may still pull and take a plain snapshot.
type SourceRetiredError struct {
	UserID   string
	SourceID string
	// ReplacedBySourceID is empty if no replacement is on record.
	ReplacedBySourceID string
}

func (e *SourceRetiredError) Error() string {
	if e.ReplacedBySourceID == "" {
		return fmt.Sprintf("source %q of scope %q is retired: use a new source", e.SourceID, e.UserID)
	}
	return fmt.Sprintf("source %q of scope %q is retired: use source %q, which replaced it",
		e.SourceID, e.UserID, e.ReplacedBySourceID)
}

// SourceReplacementInvalidError refuses to replace one source by another.
type SourceReplacementInvalidError struct {
	Message string
}

func (e *SourceReplacementInvalidError) Error() string {
	return messageOr(e.Message, "the source cannot be replaced by this one: choose a source id that was never used")
}

// SourceSequenceOutOfOrderError refuses a source bundle id that is ahead of the
// next one of its source, or, from server-side Go, behind it.
type SourceSequenceOutOfOrderError struct {
	UserID   string
	SourceID string
	// Expected is the next source bundle id, Actual the one that was sent.
	Expected int64
	Actual   int64
}

func (e *SourceSequenceOutOfOrderError) Error() string {
	if e.Actual < e.Expected {
		return fmt.Sprintf("source %q of scope %q has committed bundle %d: use %d, its next one",
			e.SourceID, e.UserID, e.Actual, e.Expected)
	}
	return fmt.Sprintf("source %q of scope %q must push bundle %d next, not %d: push the missing bundles, or rotate to a new source",
		e.SourceID, e.UserID, e.Expected, e.Actual)
}

// SourceSequenceChangedError says that the source committed another bundle
// between the opening of a push session and its commit.
type SourceSequenceChangedError struct {
	UserID   string
	SourceID string
	// Expected is the source's next bundle id now, Actual the one of the session.
	Expected int64
	Actual   int64
}

func (e *SourceSequenceChangedError) Error() string {
	return fmt.Sprintf("source %q of scope %q must commit bundle %d next, but the session is for bundle %d: create a new push session",
		e.SourceID, e.UserID, e.Expected, e.Actual)
}

// SourceTupleHistoryPrunedError says that a source bundle id was used, but the
// bundle it became can no longer be shown.
type SourceTupleHistoryPrunedError struct {
	UserID         string
	SourceID       string
	SourceBundleID int64
	// MaxCommittedSourceBundleIDHint is the highest source bundle id that the
	// source has committed, as far as it is known.
	MaxCommittedSourceBundleIDHint int64
}

func (e *SourceTupleHistoryPrunedError) Error() string {
	return fmt.Sprintf("bundle %d of source %q in scope %q is no longer retained (the source has committed up to %d): rebuild from a snapshot with a source replacement",
		e.SourceBundleID, e.SourceID, e.UserID, e.MaxCommittedSourceBundleIDHint)
}
