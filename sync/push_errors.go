package oversync

import "fmt"

// PushSessionInvalidError refuses a push session that cannot be opened as asked.
type PushSessionInvalidError struct {
	Message string
}

func (e *PushSessionInvalidError) Error() string {
	return messageOr(e.Message, "the push session request is not valid: correct it and send it again")
}

// PushSessionNotFoundError says that there is no such push session, or no longer.
type PushSessionNotFoundError struct {
	PushID string
}

func (e *PushSessionNotFoundError) Error() string {
	return fmt.Sprintf("there is no push session %q: create a new one", shorten(e.PushID))
}

// PushSessionForbiddenError refuses the push session of another user or source.
type PushSessionForbiddenError struct {
	PushID string
}

func (e *PushSessionForbiddenError) Error() string {
	return fmt.Sprintf("push session %q belongs to another source: create one of your own", e.PushID)
}

// PushSessionExpiredError says that too much time has passed since the last
// chunk of the session.
type PushSessionExpiredError struct {
	PushID string
}

func (e *PushSessionExpiredError) Error() string {
	return fmt.Sprintf("push session %q has expired: create a new one and send all rows again", e.PushID)
}

// PushChunkInvalidError refuses a chunk for what is in it. The session keeps its
// place.
type PushChunkInvalidError struct {
	Message string
}

func (e *PushChunkInvalidError) Error() string {
	return messageOr(e.Message, "the push chunk is not valid: correct its rows and send it again")
}

// PushChunkOutOfOrderError refuses a chunk that does not follow the rows already
// staged.
type PushChunkOutOfOrderError struct {
	PushID string
	// Expected and Actual are row ordinals, counted from 0.
	Expected int64
	Actual   int64
}

func (e *PushChunkOutOfOrderError) Error() string {
	return fmt.Sprintf("push session %q expects row %d next, but the chunk starts at row %d: send the chunk that starts at row %d",
		e.PushID, e.Expected, e.Actual, e.Expected)
}

// PushCommitInvalidError refuses to commit a push session as it stands: rows are
// missing, a row is there twice, nothing would change, or a limit is passed.
type PushCommitInvalidError struct {
	Message string
}

func (e *PushCommitInvalidError) Error() string {
	return messageOr(e.Message, "the push cannot be committed as it is: correct its rows and push again")
}

// PushValidationError refuses pushed rows that are not well formed.
type PushValidationError struct {
	Message string
}

func (e *PushValidationError) Error() string {
	return messageOr(e.Message, "the pushed rows are not valid: correct them and push again")
}

// PushConflictError refuses a push because a row is no longer as the client last
// saw it.
type PushConflictError struct {
	Message string
	// Conflict is the first row in conflict. It may be nil if only the fact is
	// known.
	Conflict *PushConflictDetails
}

func (e *PushConflictError) Error() string {
	if e.Message != "" {
		return e.Message
	}
	if c := e.Conflict; c != nil {
		return fmt.Sprintf("%s of a row of %s.%s rests on version %d, but the server has version %d (deleted: %t): merge the server's row and push again",
			c.Op, c.Schema, c.Table, c.BaseRowVersion, c.ServerRowVersion, c.ServerRowDeleted)
	}
	return "a pushed row has changed on the server: pull, merge and push again"
}

// PushRejectedError says that a constraint or trigger of the database refused
// the pushed rows. Sending the same rows again cannot succeed.
type PushRejectedError struct {
	Rejection PushRejection
	Message   string
}

func (e *PushRejectedError) Error() string {
	if e.Message != "" {
		return e.Message
	}
	what := "the pushed rows"
	if r := e.Rejection; r.Table != "" {
		what = "a pushed row of " + Key(r.Schema, r.Table)
	}
	return fmt.Sprintf("the database refused %s (SQLSTATE %s): correct the row and push again", what, e.Rejection.SQLState)
}
